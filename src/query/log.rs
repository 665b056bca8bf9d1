//! Sessions, and the commands in them.

use std::ops::ControlFlow;

use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

use super::events::each_event;
use super::rows::{CommandRow, SessionRow, text, texts};
use super::who::{Kind, Who};
use super::{QueryError, Result, Sink, changes, sees, time};
use crate::actors::{Actor, Exit, agents};
use crate::store::Store;
use crate::types::{ActorId, Ino, Seq};

/// Which commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogFilter {
    /// Only this session.
    pub session: Option<String>,
    /// The newest so many; 0 for all.
    pub newest: usize,
    /// Also what others than agents ran and that did not touch the mount.
    pub all: bool,
}

/// What a session is called: `s` and the number of the process at its top.
pub fn session_id(id: ActorId) -> String {
    format!("s{}", id.0)
}

/// What a command is called: `c` and the number of the process at its top.
pub fn command_id(id: ActorId) -> String {
    format!("c{}", id.0)
}

/// What processes read and changed.
#[derive(Default)]
struct Touched {
    read: FxHashSet<Ino>,
    written: FxHashSet<Ino>,
    events: u64,
}

/// What everything under one process came to.
#[derive(Default)]
struct Sum {
    touched: Touched,
    ended: Option<crate::types::Time>,
    running: bool,
}

/// By the process at the top: of sessions, and of commands.
type Sums = FxHashMap<ActorId, Sum>;

fn sums(store: &Store, who: &Who) -> Result<(Sums, Sums)> {
    let (mut sessions, mut commands) = (Sums::default(), Sums::default());
    for actor in who.actors() {
        let Some(place) = who.place(actor.id) else { continue };
        let tops = [sessions.entry(place.session)].into_iter().chain(place.command.map(|c| commands.entry(c)));
        for top in tops {
            let sum = top.or_default();
            sum.running |= actor.exit_at.is_none();
            sum.ended = sum.ended.max(Some(actor.exit_at.unwrap_or(actor.last).max(actor.last)));
        }
    }
    each_event(store, Seq(0), &mut |event| {
        let Some(place) = who.place(event.actor) else { return Ok(ControlFlow::Continue(())) };
        let note = &event.note;
        let tops = [sessions.entry(place.session)].into_iter().chain(place.command.map(|c| commands.entry(c)));
        for top in tops {
            let touched = &mut top.or_default().touched;
            touched.events += 1;
            if note.errno.is_none() {
                if sees(note.op) && !note.ranges.is_empty() {
                    touched.read.insert(note.ino);
                }
                if changes(note.op) {
                    touched.written.insert(note.ino);
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((sessions, commands))
}

fn exit(actor: &Actor) -> (Option<i32>, Option<i32>) {
    match actor.exit {
        Some(Exit::Code(code)) => (Some(code), None),
        Some(Exit::Signal(signal)) => (None, Some(signal)),
        Some(Exit::Unknown) | None => (None, None),
    }
}

/// Sends a row for each session that touched the mount, the one that began first in front.
///
/// # Errors
/// When the log cannot be read.
pub fn sessions(store: &Store, sink: Sink<'_, SessionRow>) -> Result<()> {
    let who = Who::load(store)?;
    let (sums, _) = sums(store, &who)?;
    let mut commands: FxHashMap<ActorId, (u64, u64)> = FxHashMap::default();
    for actor in who.actors() {
        if let Some(place) = who.place(actor.id).filter(|place| place.command == Some(actor.id)) {
            let (count, failed) = commands.entry(place.session).or_default();
            *count += 1;
            *failed += u64::from(!matches!(exit(actor), (Some(0) | None, None)));
        }
    }
    let mut found: Vec<(&Actor, &Sum)> = sums
        .iter()
        .filter(|(_, sum)| sum.touched.events > 0)
        .filter_map(|(id, sum)| who.actor(*id).map(|actor| (actor, sum)))
        .collect();
    found.sort_by_key(|(actor, _)| (actor.first, actor.id));
    for (actor, sum) in found {
        let kind = who.kind(actor.id).unwrap_or(Kind::Script);
        let (argv, argv_hex) = texts(&actor.argv);
        let (cwd, cwd_hex) = text(&actor.cwd);
        let (commands, failed) = commands.get(&actor.id).copied().unwrap_or_default();
        let agent = match kind {
            Kind::Agent(agent) => Some(agent.id.to_owned()),
            Kind::Human | Kind::Script => None,
        };
        let row = SessionRow {
            session: session_id(actor.id),
            by: kind.name().to_owned(),
            agent,
            version: who.version(actor.id),
            name: who.session_name(actor.id),
            actor: actor.id.0,
            pid: actor.pid,
            argv,
            argv_hex,
            cwd,
            cwd_hex,
            commands,
            failed,
            files_read: sum.touched.read.len() as u64,
            files_written: sum.touched.written.len() as u64,
            started: time::format(actor.first),
            ended: sum.ended.filter(|_| !sum.running).map(time::format),
        };
        if sink(row).is_break() {
            break;
        }
    }
    Ok(())
}

/// Sends a row for each command, the newest first.
///
/// # Errors
/// When the log cannot be read, and when there is no such session.
pub fn log(store: &Store, filter: &LogFilter, sink: Sink<'_, CommandRow>) -> Result<()> {
    let who = Who::load(store)?;
    let (known, sums) = sums(store, &who)?;
    let wanted = match &filter.session {
        None => None,
        Some(text) => {
            let id = text.strip_prefix('s').and_then(|n| n.parse().ok()).map(ActorId);
            let missing = || format!("there is no session {text}: `regentfs sessions` shows those that are there");
            Some(id.filter(|id| known.contains_key(id)).ok_or_else(|| QueryError::Filter(missing()))?)
        }
    };
    let mut found: Vec<(&Actor, ActorId)> = who
        .actors()
        .filter_map(|actor| Some((actor, who.place(actor.id)?)))
        .filter(|(actor, place)| place.command == Some(actor.id) && wanted.is_none_or(|id| id == place.session))
        .map(|(actor, place)| (actor, place.session))
        .filter(|(actor, session)| {
            let of_agent = matches!(who.kind(*session), Some(Kind::Agent(_)));
            filter.all || of_agent || sums.get(&actor.id).is_some_and(|sum| sum.touched.events > 0)
        })
        .collect();
    found.sort_by_key(|(actor, _)| std::cmp::Reverse((actor.first, actor.id)));
    if filter.newest > 0 {
        found.truncate(filter.newest);
    }
    for (actor, session) in found {
        let sum = sums.get(&actor.id);
        let (argv, argv_hex) = texts(&actor.argv);
        let (cwd, cwd_hex) = text(&actor.cwd);
        let (exit, signal) = exit(actor);
        let (command, command_hex) = match agents::asked(&actor.argv) {
            Some(asked) => {
                let (command, hex) = text(&asked);
                (Some(command), hex)
            }
            None => (None, None),
        };
        let kind = who.kind(session).unwrap_or(Kind::Script);
        let row = CommandRow {
            step: command_id(actor.id),
            session: session_id(session),
            by: kind.name().to_owned(),
            agent: match kind {
                Kind::Agent(agent) => Some(agent.id.to_owned()),
                Kind::Human | Kind::Script => None,
            },
            kind: "command".to_owned(),
            command,
            command_hex,
            argv,
            argv_hex,
            cwd,
            cwd_hex,
            exit,
            signal,
            started: time::format(actor.first),
            ended: actor.exit_at.map(time::format),
            reads: sum.map_or(0, |sum| sum.touched.read.len() as u64),
            writes: sum.map_or(0, |sum| sum.touched.written.len() as u64),
        };
        if sink(row).is_break() {
            break;
        }
    }
    Ok(())
}
