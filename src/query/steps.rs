//! Steps: what belongs together of what a session did. A command with everything that it started is one; what an agent, a shell or an editor
//! did by itself is one for each epoch, since an epoch ends where that is quiet (`engine/claims.rs`).
//!
//! Read from the record alone, as a whole.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;

use rustc_hash::{FxHashMap, FxHashSet};

use super::Result;
use super::events::each_event;
use super::who::{Kind, Who};
use super::{changes, sees};
use crate::store::Store;
use crate::types::{ActorId, Epoch, Event, Ino, Op, Path, Seq, Time};

/// What a step is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StepId {
    /// `c` and the number of the process at its top.
    Command(ActorId),
    /// `e`, the epoch, and the number of the process at the top of the session: `e12.7`.
    Own { epoch: Epoch, session: ActorId },
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepId::Command(id) => write!(f, "c{}", id.0),
            StepId::Own { epoch, session } => write!(f, "e{}.{}", epoch.0, session.0),
        }
    }
}

impl FromStr for StepId {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<StepId, ()> {
        let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
            true => text.parse::<u64>().map_err(|_| ()),
            false => Err(()),
        };
        if let Some(rest) = text.strip_prefix('c') {
            return Ok(StepId::Command(ActorId(number(rest)?)));
        }
        let (epoch, session) = text.strip_prefix('e').and_then(|rest| rest.split_once('.')).ok_or(())?;
        Ok(StepId::Own { epoch: Epoch(number(epoch)?), session: ActorId(number(session)?) })
    }
}

/// What a session is called: `s` and the number of the process at its top.
pub fn session_id(id: ActorId) -> String {
    format!("s{}", id.0)
}

/// The session of such a name.
pub fn session_of(text: &str) -> Option<ActorId> {
    let digits = text.strip_prefix('s').filter(|rest| rest.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok().map(ActorId)
}

/// Whether such an event changes the tree in any way.
pub fn alters(op: Op) -> bool {
    use Op::{Link, Mkdir, Removexattr, Rename, Rmdir, Setattr, Setxattr, Unlink};
    changes(op) || matches!(op, Mkdir | Link | Unlink | Rmdir | Rename | Setattr | Setxattr | Removexattr)
}

/// What somebody read and changed.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    pub read: FxHashSet<Ino>,
    pub written: FxHashSet<Ino>,
    pub events: u64,
}

impl Touched {
    fn add(&mut self, event: &Event) {
        let note = &event.note;
        self.events += 1;
        if note.errno.is_some() {
            return;
        }
        if sees(note.op) && !note.ranges.is_empty() {
            self.read.insert(note.ino);
        }
        if alters(note.op) {
            self.written.insert(note.ino);
        }
    }
}

/// A step as the record has it.
#[derive(Clone, Debug)]
pub struct Step {
    pub id: StepId,
    pub session: ActorId,
    /// Of its first and its last event; a command may have none.
    pub first: Option<(Seq, Time)>,
    pub last: Option<(Seq, Time)>,
    pub touched: Touched,
    /// In which it changed something.
    pub epochs: BTreeSet<Epoch>,
    /// The first few paths that it changed, for people.
    pub paths: Vec<Path>,
}

/// So many paths are kept for a step.
const PATHS: usize = 8;

impl Step {
    fn new(id: StepId, session: ActorId) -> Step {
        Step {
            id,
            session,
            first: None,
            last: None,
            touched: Touched::default(),
            epochs: BTreeSet::new(),
            paths: Vec::new(),
        }
    }

    /// `command`, `edit` or `read`.
    pub fn kind(&self) -> &'static str {
        match self.id {
            StepId::Command(_) => "command",
            StepId::Own { .. } if self.epochs.is_empty() => "read",
            StepId::Own { .. } => "edit",
        }
    }
}

/// All steps of a store, and the processes behind them.
pub struct Steps {
    pub who: Who,
    steps: FxHashMap<StepId, Step>,
    sessions: FxHashMap<ActorId, Touched>,
}

impl Steps {
    /// # Errors
    /// When the log cannot be read.
    pub fn load(store: &Store) -> Result<Steps> {
        let mut steps = Steps::without_events(Who::load(store)?);
        for (top, session) in steps.who.tops() {
            steps.begin(StepId::Command(top), session);
        }
        each_event(store, Seq(0), &mut |event| {
            steps.add(&event);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(steps)
    }

    /// Of these processes, with no step yet.
    pub(super) fn without_events(who: Who) -> Steps {
        Steps { who, steps: FxHashMap::default(), sessions: FxHashMap::default() }
    }

    pub(super) fn begin(&mut self, id: StepId, session: ActorId) {
        self.steps.entry(id).or_insert_with(|| Step::new(id, session));
    }

    /// Forgets a step, and what sessions came to.
    pub(super) fn forget(&mut self, id: StepId) {
        self.steps.remove(&id);
        self.sessions.clear();
    }

    pub(super) fn add(&mut self, event: &Event) {
        let Some((id, session)) = self.of_event(event) else { return };
        self.sessions.entry(session).or_default().add(event);
        let step = self.steps.entry(id).or_insert_with(|| Step::new(id, session));
        let at = (event.seq, event.time);
        step.first = step.first.min(Some(at)).or(Some(at));
        step.last = step.last.max(Some(at));
        step.touched.add(event);
        if event.note.errno.is_none() && alters(event.note.op) {
            step.epochs.insert(event.epoch);
            // A file that replaces another one is known by its last name.
            let path = event.note.path2.as_ref().filter(|_| event.note.op == Op::Rename).unwrap_or(&event.note.path);
            if event.note.op == Op::Rename {
                step.paths.retain(|known| *known != event.note.path);
            }
            if step.paths.len() < PATHS && !step.paths.contains(path) {
                step.paths.push(path.clone());
            }
        }
    }

    /// To which step an event belongs, and to which session; `None` for the kernel's and regentfs's own.
    pub fn of_event(&self, event: &Event) -> Option<(StepId, ActorId)> {
        let place = self.who.place(event.actor)?;
        Some((self.of(event.actor, event.epoch)?, place.session))
    }

    /// To which step belongs what a process did in an epoch.
    pub fn of(&self, actor: ActorId, epoch: Epoch) -> Option<StepId> {
        let place = self.who.place(actor)?;
        Some(match place.command {
            Some(top) => StepId::Command(top),
            None => StepId::Own { epoch, session: place.session },
        })
    }

    pub fn get(&self, id: StepId) -> Option<&Step> {
        self.steps.get(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Step> {
        self.steps.values()
    }

    /// What a session came to; `None` when it did nothing in the mount.
    pub fn session(&self, id: ActorId) -> Option<&Touched> {
        self.sessions.get(&id)
    }

    pub fn sessions(&self) -> impl Iterator<Item = (ActorId, &Touched)> {
        self.sessions.iter().map(|(id, touched)| (*id, touched))
    }

    /// Who is behind a session.
    pub fn kind(&self, session: ActorId) -> Kind {
        self.who.kind(session).unwrap_or(Kind::Script)
    }
}

/// What a step changed in one epoch, as paths: what it wrote, made, removed, and both names of what it renamed.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    /// These alone.
    pub paths: BTreeSet<Path>,
    /// These with everything below: directories that got another path.
    pub below: BTreeSet<Path>,
    /// The files themselves, whatever they are called.
    pub inodes: FxHashSet<Ino>,
}

impl Piece {
    /// Whether a file that is or was at this path, and is or was one of these, is part of it.
    pub fn has(&self, path: &Path, inodes: &[Ino]) -> bool {
        inodes.iter().any(|ino| self.inodes.contains(ino))
            || self.paths.contains(path)
            || self.below.iter().any(|dir| path.is_below(dir))
    }
}

impl Piece {
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.below.is_empty() && self.inodes.is_empty()
    }

    /// Adds what an event changed.
    pub fn add(&mut self, event: &Event) {
        let note = &event.note;
        self.inodes.insert(note.ino);
        match (&note.path2, note.op) {
            // Whether it is a directory the record does not say; of a file nothing is below.
            (Some(to), Op::Rename) => self.below.extend([note.path.clone(), to.clone()]),
            (Some(to), Op::Link) => self.paths.extend([to.clone()]),
            _ => self.paths.extend([note.path.clone()]),
        }
    }

    /// Whether both are about some file, or one about what is below a directory of the other.
    pub fn meets(&self, other: &Piece) -> bool {
        let all = |piece: &Piece| piece.paths.iter().chain(&piece.below).cloned().collect::<Vec<_>>();
        self.inodes.iter().any(|ino| other.inodes.contains(ino))
            || all(self).iter().any(|path| other.has(path, &[]))
            || all(other).iter().any(|path| self.has(path, &[]))
    }

    pub fn extend(&mut self, other: Piece) {
        self.paths.extend(other.paths);
        self.below.extend(other.below);
        self.inodes.extend(other.inodes);
    }
}

/// Told of what changed the tree and who did it; `None` for what belongs to no step.
pub type EachChange<'e> = &'e mut dyn FnMut(&Event, Option<(StepId, ActorId)>);

/// Who did what changes the tree, event by event, the oldest first.
///
/// # Errors
/// When the log cannot be read.
pub fn each_change(store: &Store, steps: &Steps, from: Seq, each: EachChange<'_>) -> Result<()> {
    each_event(store, from, &mut |event| {
        if event.note.errno.is_none() && alters(event.note.op) {
            each(&event, steps.of_event(&event));
        }
        Ok(ControlFlow::Continue(()))
    })
}

/// What steps changed, by epoch.
///
/// # Errors
/// When the log cannot be read.
pub fn pieces(
    store: &Store,
    steps: &Steps,
    wanted: &dyn Fn(StepId, ActorId) -> bool,
) -> Result<std::collections::BTreeMap<Epoch, Piece>> {
    let mut found: std::collections::BTreeMap<Epoch, Piece> = Default::default();
    let from = steps.iter().filter(|step| wanted(step.id, step.session)).filter_map(|step| step.first).min();
    let Some((from, _)) = from else { return Ok(found) };
    each_change(store, steps, from, &mut |event, writer| {
        if writer.is_some_and(|(id, session)| wanted(id, session)) {
            found.entry(event.epoch).or_default().add(event);
        }
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_steps_and_sessions() {
        for text in ["c12", "e3.4"] {
            assert_eq!(text.parse::<StepId>().map(|id| id.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "c", "c+1", "e3", "e.4", "e3.", "x1", "c1x", "c99999999999999999999999"] {
            assert!(text.parse::<StepId>().is_err(), "{text}");
        }
        assert_eq!((session_of("s7"), session_of("s-7"), session_of("7")), (Some(ActorId(7)), None, None));
    }
}
