//! Sessions, and the steps in them.

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::prompts::Links;
use super::rows::{LinkRow, SessionRow, StepRow, text, texts};
use super::steps::{Step, StepId, Steps, session_id, session_of};
use super::who::Kind;
use super::{QueryError, Result, Sink, time};
use crate::actors::{Actor, Exit};
use crate::types::{ActorId, Epoch};

/// Which steps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogFilter {
    /// Only this session.
    pub session: Option<String>,
    /// Only this step.
    pub step: Option<String>,
    /// The newest so many; 0 for all.
    pub newest: usize,
    /// Also commands of others than agents that did not touch the mount.
    pub all: bool,
    /// Also what a session looked at by itself, without changing anything.
    pub reads: bool,
    /// Only commands.
    pub commands: bool,
}

/// How a snapshot is called; `None` if there is none of that epoch.
pub type SnapshotName<'a> = &'a dyn Fn(Epoch) -> Option<String>;

pub(super) fn exit(actor: &Actor) -> (Option<i32>, Option<i32>) {
    match actor.exit {
        Some(Exit::Code(code)) => (Some(code), None),
        Some(Exit::Signal(signal)) => (None, Some(signal)),
        Some(Exit::Unknown) | None => (None, None),
    }
}

/// When the last process of each session ended; `None` while one lives, or where the end was not seen.
fn ends(steps: &Steps) -> FxHashMap<ActorId, Option<crate::types::Time>> {
    let mut ends: FxHashMap<ActorId, Option<crate::types::Time>> = FxHashMap::default();
    for actor in steps.who.actors() {
        let Some(place) = steps.who.place(actor.id) else { continue };
        let end = actor.exit_at.map(|at| at.max(actor.last));
        ends.entry(place.session).and_modify(|all| *all = all.zip(end).map(|(a, b)| a.max(b))).or_insert(end);
    }
    ends
}

/// Sends a row for each session that touched the mount, the one that began first in front.
///
/// # Errors
/// When the log cannot be read.
pub fn sessions(steps: &Steps, links: &Links, sink: Sink<'_, SessionRow>) -> Result<()> {
    let ends = ends(steps);
    let mut sums: FxHashMap<ActorId, (u64, u64, u64)> = FxHashMap::default();
    for step in steps.iter() {
        let (all, commands, failed) = sums.entry(step.session).or_default();
        if let StepId::Command(top) = step.id {
            *commands += 1;
            let end = steps.who.actor(top).map(exit);
            *failed += u64::from(!matches!(end, None | Some((Some(0) | None, None))));
        }
        *all += u64::from(step.kind() != "read");
    }
    let mut found: Vec<_> =
        steps.sessions().filter_map(|(id, touched)| Some((steps.who.actor(id)?, touched))).collect();
    found.sort_by_key(|(actor, _)| (actor.first, actor.id));
    for (actor, touched) in found {
        let kind = steps.kind(actor.id);
        let (prompts, said) = links.of_session(actor.id);
        let said = said.cloned().unwrap_or_default();
        let (argv, argv_hex) = texts(&actor.argv);
        let (cwd, cwd_hex) = text(&actor.cwd);
        let (all, commands, failed) = sums.get(&actor.id).copied().unwrap_or_default();
        let row = SessionRow {
            session: session_id(actor.id),
            by: kind.name().to_owned(),
            agent: agent_of(kind),
            version: steps.who.version(actor.id).or(Some(said.version).filter(|v| !v.is_empty())),
            name: steps.who.session_name(actor.id).or(Some(said.session).filter(|name| !name.is_empty())),
            model: Some(said.model).filter(|model| !model.is_empty()),
            prompts,
            actor: actor.id.0,
            pid: actor.pid,
            argv,
            argv_hex,
            cwd,
            cwd_hex,
            steps: all,
            commands,
            failed,
            files_read: touched.read.len() as u64,
            files_written: touched.written.len() as u64,
            started: time::format(actor.first),
            ended: ends.get(&actor.id).copied().flatten().map(time::format),
        };
        if sink(row).is_break() {
            break;
        }
    }
    Ok(())
}

/// The agent behind a session, as in `--json`.
pub fn agent_of(kind: Kind) -> Option<String> {
    match kind {
        Kind::Agent(agent) => Some(agent.id.to_owned()),
        Kind::Human | Kind::Script => None,
    }
}

/// The session that a user means.
///
/// # Errors
/// When there is none of that name.
pub fn find_session(steps: &Steps, wanted: &str) -> Result<ActorId> {
    let known = |id: &ActorId| steps.who.kind(*id).is_some();
    let missing = || format!("there is no session {wanted}: `regentfs sessions` shows those that are there");
    session_of(wanted).filter(known).ok_or_else(|| QueryError::Filter(missing()))
}

/// The step that a user means.
///
/// # Errors
/// When there is none of that name.
pub fn find_step<'s>(steps: &'s Steps, wanted: &str) -> Result<&'s Step> {
    let missing = || format!("there is no step {wanted}: `regentfs log` shows those that are there");
    let found = wanted.parse::<StepId>().ok().and_then(|id| steps.get(id));
    found.ok_or_else(|| QueryError::Filter(missing()))
}

/// Sends a row for each step, the newest first.
///
/// # Errors
/// When the log cannot be read, and when there is no such session or step.
pub fn log(
    steps: &Steps,
    links: &Links,
    filter: &LogFilter,
    name: SnapshotName<'_>,
    sink: Sink<'_, StepRow>,
) -> Result<()> {
    let session = filter.session.as_deref().map(|text| find_session(steps, text)).transpose()?;
    let one = filter.step.as_deref().map(|text| find_step(steps, text)).transpose()?.map(|step| step.id);
    let wanted = |step: &&Step| match step.id {
        id if one.is_some() => Some(id) == one,
        _ if session.is_some_and(|id| id != step.session) => false,
        StepId::Command(_) => {
            filter.all || matches!(steps.kind(step.session), Kind::Agent(_)) || step.touched.events > 0
        }
        StepId::Own { .. } => !filter.commands && (filter.reads || step.kind() == "edit"),
    };
    let mut found: Vec<(&Step, crate::types::Time)> =
        steps.iter().filter(wanted).map(|step| (step, started(steps, step))).collect();
    found.sort_by_key(|(step, at)| std::cmp::Reverse((*at, step.id)));
    if filter.newest > 0 {
        found.truncate(filter.newest);
    }
    for (step, _) in found {
        if sink(row(steps, links, step, name)).is_break() {
            break;
        }
    }
    Ok(())
}

/// When a step began: a command with its process, anything else with its first event.
fn started(steps: &Steps, step: &Step) -> crate::types::Time {
    let process = match step.id {
        StepId::Command(top) => steps.who.actor(top).map(|actor| actor.first),
        StepId::Own { .. } => None,
    };
    process.or(step.first.map(|(_, time)| time)).unwrap_or_default()
}

/// A step as a row.
pub fn row(steps: &Steps, links: &Links, step: &Step, name: SnapshotName<'_>) -> StepRow {
    let linked = links.of(step.id);
    let process = match step.id {
        StepId::Command(top) => steps.who.actor(top),
        StepId::Own { session, .. } => steps.who.actor(session),
    };
    let is_command = matches!(step.id, StepId::Command(_));
    let (argv, argv_hex) = process.map(|actor| texts(&actor.argv)).unwrap_or_default();
    let (cwd, cwd_hex) = process.map(|actor| text(&actor.cwd)).unwrap_or_default();
    let (exit, signal) = process.filter(|_| is_command).map(exit).unwrap_or_default();
    let asked = process.filter(|_| is_command).and_then(|actor| steps.who.asked(actor));
    let (command, command_hex) = match asked {
        Some(asked) => {
            let (command, hex) = text(&asked);
            (Some(command), hex)
        }
        None => (None, None),
    };
    let ended = if is_command { process.and_then(|actor| actor.exit_at) } else { step.last.map(|(_, time)| time) };
    let (paths, paths_hex) = texts(&step.paths.iter().map(|path| path.as_bytes().to_vec()).collect::<Vec<_>>());
    let kind = steps.kind(step.session);
    StepRow {
        step: step.id.to_string(),
        session: session_id(step.session),
        by: kind.name().to_owned(),
        agent: agent_of(kind),
        kind: step.kind().to_owned(),
        command,
        command_hex,
        argv,
        argv_hex,
        cwd,
        cwd_hex,
        exit,
        signal,
        started: time::format(started(steps, step)),
        ended: ended.map(time::format),
        reads: step.touched.read.len() as u64,
        writes: step.touched.written.len() as u64,
        paths,
        paths_hex,
        snapshot: step.epochs.last().and_then(|epoch| name(*epoch)),
        prompt: linked.map(|(_, prompt)| prompt.text.clone()),
        prompt_id: linked.map(|(_, prompt)| prompt.id.clone()),
        link: linked.map(|(link, _)| LinkRow {
            method: link.method.name().to_owned(),
            confidence: link.method.confidence().to_owned(),
            call: link.call.clone(),
        }),
    }
}
