//! Taking back what changed many files at once, and doing it again.

use std::sync::Arc;

use super::machine::{Doing, Machine, Moved, Result, TimeError};
use crate::overlay::Ctx;
use crate::overlay::restore::{Differences, differs};
use crate::overlay::view::View;
use crate::store::history::{self, OpKind, Operation};
use crate::store::lineage::Lineage;
use crate::types::{At, Errno, Ino, Path};

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Undo,
    Redo,
}

impl Direction {
    pub fn name(self) -> &'static str {
        match self {
            Direction::Undo => "undo",
            Direction::Redo => "redo",
        }
    }
}

/// The operation that would be taken back or done again next. All are of one timeline, in the order in which they were first done.
pub fn next(operations: &[Operation], direction: Direction) -> Option<&Operation> {
    let last_done = operations.iter().rposition(|o| !o.undone);
    match direction {
        Direction::Undo => operations.get(last_done?),
        // A new operation ends what could be done again: what had been undone when it began, also after it was undone itself.
        Direction::Redo => {
            let after = operations.get(last_done.map_or(0, |at| at + 1)..)?;
            let ended = |at: usize, o: &Operation| {
                after.get(at + 1..).is_some_and(|later| later.iter().any(|new| o.last.epoch <= new.before.epoch))
            };
            after.iter().enumerate().find(|(at, o)| !ended(*at, o)).map(|(_, o)| o)
        }
    }
}

impl Machine {
    /// The operation that [`Machine::undo`] would take.
    ///
    /// # Errors
    /// [`TimeError::Nothing`] when there is none.
    pub fn next_operation(&self, direction: Direction) -> Result<Operation> {
        let kv = &*self.overlay.store().kv;
        let mut operations = history::operations(kv)?;
        let (shown, living) = (self.overlay.timeline(), history::living(kv)?);
        operations.retain(|o| {
            // Timelines have pasts of their own; a switch stands between two of them, for the mount in place.
            let (here, there) = if o.undone { (o.before, o.after) } else { (o.after, o.before) };
            let is_there = || self.in_place && living.iter().any(|t| t.id == there.timeline);
            here.timeline == shown && (o.kind != OpKind::Switch || is_there())
        });
        next(&operations, direction).cloned().ok_or(TimeError::Nothing(direction.name()))
    }

    /// Takes the last operation back, or does the last one that was taken back again. What was changed since stays, unless it is the same
    /// files; then nothing is done without `force`.
    ///
    /// # Errors
    /// [`TimeError::Changed`]; [`TimeError::Nothing`]; what the log says.
    pub fn undo(&self, ctx: &Ctx, direction: Direction, force: bool, mapped: &[Ino]) -> Result<(Operation, Moved)> {
        let _busy = self.begin_adding()?;
        self.can_move()?;
        let operation = self.next_operation(direction)?;
        let (from, to) = match direction {
            Direction::Undo => (operation.after, operation.before),
            Direction::Redo => (operation.before, operation.after),
        };
        match operation.kind {
            OpKind::Rewind | OpKind::Restore | OpKind::Merge | OpKind::Discard | OpKind::Revert => {}
            OpKind::Switch => {
                let record = Operation { undone: direction == Direction::Undo, ..operation.clone() };
                let note = format!("{} of {}", direction.name(), operation.note);
                let target = history::timeline(&*self.overlay.store().kv, to.timeline)?;
                let moved = self.go_to(ctx, &target, Some(record), &note, mapped)?;
                return Ok((operation, moved));
            }
            OpKind::Apply => {
                return Err(TimeError::Refused(format!("{} of this kind is not here", direction.name())));
            }
        }
        self.write_back(mapped);
        let note = format!("{} of {}", direction.name(), operation.note);
        let record = Operation { undone: direction == Direction::Undo, ..operation.clone() };
        let kv = &*self.overlay.store().kv;
        let (target, source) = (Arc::new(Lineage::of(kv, to)?), Arc::new(Lineage::of(kv, from)?));
        let (moved, stale) = {
            let _gate = self.gate.close();
            let before = self.seal_before_bringing(ctx, &format!("before {note}"), to)?;
            let os = |errno| TimeError::Os { what: "cannot look at that state", errno };
            let since = self.changed_since(operation.last).map_err(os)?;
            let plan = if since.is_empty() || force {
                self.overlay.plan(&target).map_err(os)?
            } else {
                let (source, target) = (View::new(&self.overlay, source), View::new(&self.overlay, target));
                let Differences { paths: mut touched, mut links, mut times } =
                    Differences::between(&source, &target).map_err(os)?;
                let now = View::now(&self.overlay);
                // What is the same in both states, but for times or names, is only put back where it still is the same: what
                // somebody made of it before the operation was last taken back or done again is no change since.
                let same = |path: &Path| {
                    differs(&now, now.find(path)?.as_ref(), source.find(path)?.as_ref()).map(|differs| !differs)
                };
                for paths in [&mut links, &mut times] {
                    let mut kept = Vec::with_capacity(paths.len());
                    for path in paths.drain(..) {
                        if same(&path).map_err(os)? {
                            kept.push(path);
                        }
                    }
                    *paths = kept;
                }
                touched.append(&mut links);
                touched.sort();
                let mut both: Vec<Path> = since.iter().filter(|p| related(p, &touched)).cloned().collect();
                if !both.is_empty() {
                    both.sort();
                    return Err(TimeError::Changed(both));
                }
                // Times alone are nobody's work, but they come back where nobody worked.
                let mut since = since;
                since.sort();
                times.retain(|path| !related(path, &since));
                touched.append(&mut times);
                self.overlay.plan_paths(&target, &touched, ctx).map_err(os)?
            };
            self.carry_out(ctx, &plan, before, Doing::Again(record), &note)?
        };
        self.tell(&stale);
        Ok((operation, self.report(moved)?))
    }

    /// Paths that were changed since a sealed state.
    fn changed_since(&self, at: At) -> Result<Vec<Path>, Errno> {
        let kv = &*self.overlay.store().kv;
        let then = Lineage::of(kv, at).map_err(|e| e.errno())?;
        let (then, now) = (View::new(&self.overlay, Arc::new(then)), View::now(&self.overlay));
        let mut paths = Differences::between(&then, &now)?.but_times();
        // git writes its index anew whenever somebody asks for the status; that is nobody's work.
        paths.retain(|path| !matches!(path.as_bytes(), b".git/index" | b".git/index.lock"));
        Ok(paths)
    }
}

/// Whether a path is one of these, or below or above one; the root, whose attributes alone are meant, is neither. They are in order; there
/// may be ten thousands of both.
fn related(path: &Path, sorted: &[Path]) -> bool {
    let mut at = path.clone();
    loop {
        if sorted.binary_search(&at).is_ok() {
            return true;
        }
        match at.split_last() {
            Some((above, _)) if above != Path::root() => at = above,
            Some(_) | None => break,
        }
    }
    if *path == Path::root() {
        return false;
    }
    // What is below it stands together, in the order of its bytes, from `path/` on.
    let below = path.join(b"");
    let first = sorted.partition_point(|p| *p < below);
    sorted.get(first).is_some_and(|p| p.as_bytes().starts_with(below.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, Time, Timeline};

    /// What `n`ew operations, `u`ndo and `r`edo leave.
    fn after(history: &str) -> Vec<Operation> {
        let mut list: Vec<Operation> = Vec::new();
        for (at, step) in history.chars().enumerate() {
            let seal = |n: usize| At { timeline: Timeline::MAIN, epoch: Epoch(n as u64) };
            // Where nothing is changed in between, an operation begins at the seal with which the one before it ended.
            let (before, after) = (seal(at), seal(at + 1));
            let direction = match step {
                'n' => {
                    let id = list.len() as u64;
                    let (time, kind, note) = (Time::default(), OpKind::Rewind, String::new());
                    list.push(Operation {
                        id,
                        time,
                        kind,
                        before,
                        after,
                        last: after,
                        kept: 0,
                        brought: None,
                        undone: false,
                        note,
                    });
                    continue;
                }
                'u' => Direction::Undo,
                _ => Direction::Redo,
            };
            let id = next(&list, direction).unwrap_or_else(|| panic!("{history}: nothing at {at}")).id;
            let one = list.iter_mut().find(|o| o.id == id).unwrap();
            (one.undone, one.last) = (direction == Direction::Undo, after);
        }
        list
    }

    #[test]
    fn the_next_one_is_the_neighbour() {
        let id = |history: &str, direction| next(&after(history), direction).map(|o| o.id);
        assert_eq!(id("", Direction::Undo), None);
        assert_eq!(id("nn", Direction::Undo), Some(1));
        assert_eq!(id("nn", Direction::Redo), None);
        assert_eq!(id("nnnuu", Direction::Undo), Some(0));
        assert_eq!(id("nnnuu", Direction::Redo), Some(1));
        assert_eq!(id("nnnuur", Direction::Redo), Some(2));
        assert_eq!(id("nnuu", Direction::Redo), Some(0));
        assert_eq!(id("nun", Direction::Redo), None, "a new operation ends what could be done again");
        assert_eq!(id("nunu", Direction::Redo), Some(1), "also after it was undone itself");
        assert_eq!(id("nunur", Direction::Redo), None);
        assert_eq!(id("nnuurnu", Direction::Redo), Some(2));
        assert_eq!(id("nnuurnuu", Direction::Redo), Some(0));
        assert_eq!(id("nnuurnuur", Direction::Redo), Some(2));
    }

    #[test]
    fn paths_in_each_others_way() {
        let related = |a: &str, list: &[&str]| {
            let list: Vec<Path> = list.iter().map(|p| Path::new(p.as_bytes())).collect();
            super::related(&Path::new(a.as_bytes()), &list)
        };
        assert!(
            related("a/b", &["a"])
                && related("a", &["a/b"])
                && related("a", &["a"])
                && related("a/b/c", &["0", "a", "b"])
        );
        assert!(related("a", &["a-b", "a/b"]), "in the order of bytes, others stand in between");
        assert!(!related("a", &["ab"]) && !related("a/b", &["a/c"]) && !related("a", &["a-b"]) && !related("a", &[]));
        assert!(!related("a", &[""]) && !related("", &["a"]) && related("", &["", "a"]));
    }
}
