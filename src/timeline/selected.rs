//! The state that the repository on disk would have with some steps only: what is chosen of history, brought in step by step.
//!
//! It is put together in a timeline of its own that is never listed and counts as deleted from the beginning: so what a crash leaves of it is collected
//! like all that nobody needs, and so is the state itself once nobody looks at it. Nobody works there, so nothing of it is recorded, and undo knows
//! nothing of it. Knows nothing of the repository but what it has by now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::combine::{Conflict, Favor, Only};
use super::machine::{Machine, Result, os};
use super::parts::{Found, Part};
use crate::overlay::Ctx;
use crate::overlay::graft::{Wish, Wishes};
use crate::overlay::restore::differing;
use crate::overlay::seal::Reason;
use crate::overlay::transit::Plan;
use crate::overlay::view::{Node, View};
use crate::store::history::{self, OpKind, Operation, TimelineRecord, Why};
use crate::store::lineage::Lineage;
use crate::store::{Batch, Sync};
use crate::types::{At, Epoch, Errno, Ino, Kind, Note, Op, Path};

/// The name of the timelines in which states are put together.
const NAME: &str = "selection";

/// What is to be put together.
pub struct Wanted<'w> {
    pub found: &'w Found,
    /// Everything but some steps: then also what merges brought, and what other operations did to any file.
    pub all: bool,
    /// Only these and what is below; none means everything.
    pub paths: &'w [Path],
    /// The past of which is a selection made.
    pub state: &'w Lineage,
    /// What the repository on disk got already.
    pub done: &'w Done,
    /// The operations that took back out what was selected, by their numbers.
    pub reverts: &'w BTreeSet<u64>,
    /// For people: what it is.
    pub note: &'w str,
}

/// What applies brought into the repository on disk.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// All up to this epoch, whatever became of it.
    pub all: Epoch,
    /// The selections that were brought there, as they are called.
    pub by: Vec<String>,
    pub paths: BTreeMap<Path, Vec<Had>>,
}

/// How much of a path's history the repository on disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Had {
    /// What this selection is of it; `None` for all.
    pub which: Option<usize>,
    /// Up to this epoch.
    pub upto: Epoch,
}

impl Done {
    /// Whether a part is there as far as a path is concerned.
    fn has(&self, path: &Path, part: &Part) -> bool {
        let has = |had: &Had| {
            part.to.at().epoch <= had.upto
                && had.which.is_none_or(|which| part.class & 1_u64.wrapping_shl(which as u32) != 0)
        };
        part.to.at().epoch <= self.all || self.paths.get(path).is_some_and(|all| all.iter().any(has))
    }
}

/// Where something excludes what is selected.
#[derive(Clone, Debug)]
pub struct Clash {
    pub conflict: Conflict,
    /// The part that could not be brought in.
    pub part: Part,
}

/// What came of it.
#[derive(Debug)]
pub enum Selected {
    /// A sealed state.
    State(At),
    Clashes(Vec<Clash>),
}

/// The operations that stand in the past of a state and moved many files at once, the oldest first.
///
/// # Errors
/// When the log cannot be read.
pub fn moves(machine: &Machine, state: &Lineage) -> Result<Vec<Operation>> {
    let is_past = |at: At| state.segments().iter().any(|s| s.timeline == at.timeline && at.epoch <= s.epoch);
    let mut found = history::operations(&*machine.overlay().store().kv)?;
    found.retain(|o| !o.undone && o.kind != OpKind::Switch && is_past(o.after));
    found.sort_by_key(|o| o.after.epoch);
    Ok(found)
}

/// Something to bring in.
enum Bit<'w> {
    Step(&'w Part),
    /// What no step did.
    Move(Part),
}

impl Bit<'_> {
    fn part(&self) -> &Part {
        match self {
            Bit::Step(part) => part,
            Bit::Move(part) => part,
        }
    }
}

impl Machine {
    /// Puts the selected state together. What excludes something else is told, all of it; then nothing is left of it. The caller holds the lock of operations.
    ///
    /// # Errors
    /// A full disk; what base and log say.
    pub(crate) fn select(&self, _busy: &MutexGuard<'_, ()>, ctx: &Ctx, wanted: &Wanted<'_>) -> Result<Selected> {
        let scratch = self.scratch(ctx, At::BASE)?;
        // Beneath everything it has what the repository had at first.
        let plan = scratch.overlay.plan(&Arc::new(Lineage::base())).map_err(os("cannot look at the repository"))?;
        scratch.put(ctx, &plan)?;
        let clashes = scratch.put_all(ctx, wanted, &moves(self, wanted.state)?)?;
        if !clashes.is_empty() {
            return Ok(Selected::Clashes(clashes));
        }
        Ok(Selected::State(scratch.end(ctx, wanted.note)?))
    }

    /// Puts changes into what a point of history has, one after the other. Returns the state that has them, or why one cannot come in: nothing is left then.
    ///
    /// # Errors
    /// As [`Machine::select`].
    pub(crate) fn stacked(
        &self,
        _busy: &MutexGuard<'_, ()>,
        ctx: &Ctx,
        at: At,
        changes: &[(&Arc<Lineage>, &Arc<Lineage>, Only<'_>)],
        favor: Favor,
    ) -> Result<std::result::Result<At, Vec<Conflict>>> {
        let scratch = self.scratch(ctx, at)?;
        for change in changes {
            let conflicts = scratch.put_in(ctx, *change, favor)?;
            if !conflicts.is_empty() {
                return Ok(Err(conflicts));
            }
        }
        Ok(Ok(scratch.end(ctx, "several changes as one")?))
    }

    /// A timeline that nobody sees, as a point of history was.
    fn scratch(&self, ctx: &Ctx, from: At) -> Result<Machine> {
        let store = self.overlay.store();
        let record = TimelineRecord {
            id: self.new_timeline()?,
            name: NAME.to_owned(),
            parent: Some(from),
            head: self.overlay.new_epoch().map_err(os("no number for an epoch"))?,
            last: from.epoch,
            created: ctx.now,
            deleted: true,
        };
        let mut batch = Batch::new();
        history::put_timeline(&mut batch, &record);
        store.kv.commit(&batch, Sync::No)?;
        let overlay = Arc::new(self.overlay.open_unrecorded(record.id)?);
        Ok(Machine::beside(overlay, Arc::default(), self.showing.clone(), false))
    }

    pub(super) fn put(&self, ctx: &Ctx, plan: &Plan) -> Result<()> {
        if !plan.is_empty() {
            let event = Note::new(Op::Rewind, Ino::ROOT, Path::root());
            let put = self.overlay.carry_out(ctx, plan, Batch::new(), event);
            put.map_err(os("what is selected cannot be put together"))?;
        }
        Ok(())
    }

    fn end(&self, ctx: &Ctx, note: &str) -> Result<At> {
        let sealed = self.overlay.seal(ctx, &Reason::new(Why::After, note));
        let sealed = sealed.map_err(os("what is selected cannot be put together"))?;
        Ok(At { timeline: sealed.timeline, epoch: sealed.epoch })
    }

    /// Brings everything in, in the order in which it happened.
    fn put_all(&self, ctx: &Ctx, wanted: &Wanted<'_>, moves: &[Operation]) -> Result<Vec<Clash>> {
        let kv = &*self.overlay.store().kv;
        let mut bits: Vec<Bit<'_>> = wanted.found.parts.iter().map(Bit::Step).collect();
        for operation in moves {
            use OpKind::{Apply, Discard, Merge, Restore, Revert, Rewind, Switch};
            let counts = match operation.kind {
                Rewind | Discard | Restore => true,
                // What was taken out of somebody else's work is not theirs.
                Revert => wanted.all || wanted.reverts.contains(&operation.id),
                Merge => wanted.all,
                Apply | Switch => false,
            };
            if counts {
                let class = if wanted.all { u64::MAX } else { 0 };
                let line = |at| Lineage::of(kv, at).map(Arc::new);
                let (from, to) = (line(operation.before)?, line(operation.after)?);
                bits.push(Bit::Move(Part { from, to, piece: Default::default(), class }));
            }
        }
        bits.sort_by_key(|bit| bit.part().to.at().epoch);
        let (mut brought, mut clashes): (Vec<&Part>, Vec<Clash>) = (Vec::new(), Vec::new());
        let mut told: BTreeSet<Path> = BTreeSet::new();
        for bit in &bits {
            let part = bit.part();
            let is_wanted = |path: &Path| {
                (wanted.paths.is_empty() || wanted.paths.iter().any(|p| path.is_below(p)))
                    && !wanted.done.has(path, part)
            };
            // What took back what steps did is of no step: it counts where such a step was brought in before it.
            let of = |path: &Path, was: Option<&Node>, is: Option<&Node>| match bit {
                Bit::Step(part) => part.has(path, was, is),
                Bit::Move(_) => {
                    wanted.all || brought.iter().any(|part| part.has(path, was, is) && !wanted.done.has(path, part))
                }
            };
            let only = |path: &Path, was: Option<&Node>, is: Option<&Node>| is_wanted(path) && of(path, was, is);
            let change = (&part.from, &part.to, &only as Only<'_>);
            match bit {
                Bit::Move(_) => drop(self.put_in(ctx, change, Favor::Theirs)?),
                Bit::Step(part) => {
                    let conflicts = self.put_in(ctx, change, Favor::None)?;
                    if !conflicts.is_empty() {
                        // What comes later is looked at as if this had come in.
                        self.put_in(ctx, change, Favor::Theirs)?;
                    }
                    for conflict in conflicts {
                        if told.insert(conflict.path.clone()) {
                            clashes.push(Clash { conflict, part: (*part).clone() });
                        }
                    }
                    brought.push(part);
                }
            }
        }
        if clashes.is_empty() {
            self.tidy(ctx, wanted, &brought).map_err(os("what is selected cannot be put together"))?;
        }
        Ok(clashes)
    }

    /// Takes away directories that came there only because something was in them for a while.
    fn tidy(&self, ctx: &Ctx, wanted: &Wanted<'_>, brought: &[&Part]) -> Result<(), Errno> {
        let (disk, now) = (View::base(&self.overlay), View::now(&self.overlay));
        let present = View::new(&self.overlay, Arc::new(wanted.state.clone()));
        let (mut gone, mut wishes) = (BTreeSet::new(), Wishes::default());
        // What is in a directory comes behind it.
        for path in differing(&disk, &now)?.into_iter().rev() {
            let Some(node) = now.find(&path)?.filter(|node| node.kind == Kind::Dir) else { continue };
            let is_theirs = |part: &&Part| part.has(&path, None, Some(&node)) && !wanted.done.has(&path, part);
            if disk.find(&path)?.is_some()
                || brought.iter().any(is_theirs)
                || (wanted.all && present.find(&path)?.is_some())
                || now.names(&node)?.iter().any(|name| !gone.contains(&path.join(name)))
            {
                continue;
            }
            gone.insert(path.clone());
            wishes.add(path, Wish::Remove(node));
        }
        if gone.is_empty() {
            return Ok(());
        }
        let plan = self.overlay.plan_wishes(&now, wishes, ctx)?;
        self.put(ctx, &plan).map_err(|_| Errno::EIO)
    }
}
