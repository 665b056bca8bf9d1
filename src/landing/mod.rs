//! Bringing changes into the base: what to do there, what history keeps of it, and what is left in the overlay.
//!
//! `apply/` carries a plan out and knows no overlay; here plans are made from views (`plan.rs`), what a plan destroys is kept as versions (`keep.rs`), every
//! state of the past that showed it is made to show the kept version (`pin.rs`), and what was applied leaves the overlay (`settle.rs`).
//! So neither a rewind nor undo depends on what the base has become.

mod done;
mod keep;
mod pin;
mod plan;
mod reverse;
mod settle;
mod shown;

use std::sync::Arc;

use parking_lot::MutexGuard;

use crate::apply::{self, Conflict, Note as ApplyNote, Resumed, Root, Site, Watch};
use crate::overlay::seal::Reason;
use crate::overlay::transit::Stale;
use crate::overlay::view::View;
use crate::overlay::{Ctx, Overlay};
use crate::store::history::{self, OpKind, Operation, Why};
use crate::store::lineage::Lineage;
use crate::store::{Counter, StoreError, Sync};
use crate::timeline::machine::TimeError;
use crate::timeline::{Gate, Machine};
use crate::types::{At, Errno, Ino, Note, Op, Path};

pub use done::{done, name_of};
pub use keep::{Kept, all as kept};
pub use plan::{Planned, Wanted};

/// Which change is wanted.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only these paths and what is below; none means all.
    pub paths: Vec<Path>,
    /// The state that is brought over; nothing means now.
    pub from: Option<At>,
    /// Only what changed between these two.
    pub only: Option<(Arc<Lineage>, Arc<Lineage>)>,
    /// Of what was put together: what it is called, and of which state's past it is.
    pub made: Option<(String, At)>,
    /// What is done about a base that moved.
    pub decide: Decide,
}

impl Selection {
    /// What an operation says of where it came from; the state before it for all that there is (see `done.rs`).
    fn origin(&self, before: At) -> Option<At> {
        let whole = self.paths.is_empty() && self.decide != Decide::Theirs;
        match (&self.made, &self.only, self.from) {
            (Some((_, state)), ..) => Some(*state),
            (None, Some((from, _)), _) => Some(from.at()),
            (None, None, Some(from)) if from != before => Some(from),
            (None, None, Some(_) | None) => whole.then_some(before),
        }
    }
}

/// What to do about what changed in the base since it was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decide {
    /// Refuse everything.
    #[default]
    Refuse,
    /// Leave such paths as the base has them.
    Theirs,
    /// Overwrite them.
    Ours,
}

/// Why nothing was applied, or not all.
#[derive(Debug, thiserror::Error)]
pub enum LandError {
    #[error(transparent)]
    Apply(#[from] apply::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Time(#[from] TimeError),
    #[error("{what}: {errno}")]
    Os { what: &'static str, errno: Errno },
    #[error("nothing to apply: the repository on disk has all of it")]
    Nothing,
    #[error("an apply of the timeline {0} was interrupted: mount that timeline first")]
    OtherTimeline(String),
}

pub(crate) fn os(what: &'static str) -> impl Fn(Errno) -> LandError {
    move |errno| LandError::Os { what, errno }
}

pub type Result<T, E = LandError> = std::result::Result<T, E>;

/// What an apply came to.
#[derive(Clone, Debug, Default)]
pub struct Landed {
    /// Paths of the base that were changed, or would be.
    pub paths: Vec<Path>,
    /// With any of these, and nothing decided, nothing was done.
    pub conflicts: Vec<Conflict>,
    pub notes: Vec<ApplyNote>,
    pub before: Option<At>,
    pub after: Option<At>,
}

/// An apply, from its plan to its place in history.
pub struct Landing<'m> {
    pub machine: &'m Machine,
    pub root: &'m Root,
    /// The other overlays of the same store that are in memory: what they show must not change.
    pub others: Vec<(Arc<Overlay>, Arc<Gate>)>,
}

impl Landing<'_> {
    fn overlay(&self) -> &Arc<Overlay> {
        self.machine.overlay()
    }

    /// What [`Landing::apply`] would do.
    ///
    /// # Errors
    /// When base or log cannot be read.
    pub fn preview(&self, selection: &Selection) -> Result<Landed> {
        let view = self.target(selection, self.overlay().lineage())?;
        let planned = plan::plan(self.overlay(), &view, selection, 0)?;
        Ok(Landed { paths: planned.paths(), conflicts: planned.conflicts, ..Landed::default() })
    }

    fn target<'o>(&'o self, selection: &Selection, now: Arc<Lineage>) -> Result<View<'o>> {
        let kv = &*self.overlay().store().kv;
        Ok(match (selection.from, &selection.only) {
            (_, Some((_, to))) => View::new(self.overlay(), to.clone()),
            (Some(at), None) => View::new(self.overlay(), Arc::new(Lineage::of(kv, at)?)),
            (None, None) => View::new(self.overlay(), now),
        })
    }

    /// Brings the selected changes into the base.
    ///
    /// # Errors
    /// [`LandError::Nothing`]; what base and log say. The base is then as it was, unless it is [`apply::Error::Unfinished`].
    pub fn apply(&self, ctx: &Ctx, selection: &Selection, watch: &mut dyn Watch) -> Result<Landed> {
        let busy = self.machine.begin_adding()?;
        self.apply_with(&busy, ctx, selection, watch)
    }

    /// The same for who holds the lock of operations already.
    ///
    /// # Errors
    /// As [`Landing::apply`].
    pub(crate) fn apply_with(
        &self,
        _busy: &MutexGuard<'_, ()>,
        ctx: &Ctx,
        selection: &Selection,
        watch: &mut dyn Watch,
    ) -> Result<Landed> {
        let range = selection.only.iter().flat_map(|(from, to)| [from.at(), to.at()]);
        for at in selection.from.into_iter().chain(range) {
            self.machine.is_there(at)?;
        }
        self.resume(ctx, watch)?;
        let before = {
            let _gate = self.machine.gate.close();
            self.machine.seal_before(ctx, "before an apply")?
        };
        let kv = &*self.overlay().store().kv;
        let sealed = Arc::new(Lineage::of(kv, before)?);
        let view = self.target(selection, sealed)?;
        let id = self.overlay().store().counters.next(kv, Counter::Operation)?;
        let planned = plan::plan(self.overlay(), &view, selection, id)?;
        if !planned.conflicts.is_empty() && selection.decide == Decide::Refuse {
            return Ok(Landed { paths: planned.paths(), conflicts: planned.conflicts, ..Landed::default() });
        }
        if planned.plan.steps.is_empty() {
            return Err(LandError::Nothing);
        }
        let note = match (&selection.made, planned.paths().as_slice()) {
            (Some((name, _)), _) => name.clone(),
            (None, [path]) => format!("apply of {path}"),
            (None, paths) => format!("apply of {} paths", paths.len()),
        };
        let operation = Operation {
            id,
            time: ctx.now,
            kind: OpKind::Apply,
            before,
            after: before,
            last: before,
            kept: id,
            brought: selection.origin(before),
            undone: false,
            note,
        };
        self.carry_out(ctx, planned, operation, None, watch)
    }

    /// Puts the base back to what it was before an apply, or does the apply again. What the overlay shows stays as it is.
    ///
    /// # Errors
    /// As [`Landing::apply`]; conflicts are what changed in the base since.
    pub fn undo(&self, ctx: &Ctx, operation: &Operation, redo: bool, watch: &mut dyn Watch) -> Result<Landed> {
        let _busy = self.machine.begin_adding()?;
        self.resume(ctx, watch)?;
        let kv = &*self.overlay().store().kv;
        let now = {
            let _gate = self.machine.gate.close();
            self.machine.seal_before(ctx, &format!("before undo of {}", operation.note))?
        };
        let id = self.overlay().store().counters.next(kv, Counter::Operation)?;
        let planned = reverse::reverse(self.overlay(), operation.kept, id)?;
        if planned.plan.steps.is_empty() {
            return Err(LandError::Nothing);
        }
        let record = Operation { kept: id, undone: !redo, ..operation.clone() };
        // An apply changes nothing of what is shown. What was done since stays.
        let (from, to) = match redo {
            true => (operation.before, operation.after),
            false => (operation.after, operation.before),
        };
        let is_as_it_was = !self.machine.differs_from(&Arc::new(Lineage::of(kv, from)?), &planned.paths())?;
        let restore = if is_as_it_was { to } else { now };
        self.carry_out(ctx, planned, record, Some(restore), watch)
    }

    /// From a plan to the end. With `restore`, the paths in the overlay are then as they were there.
    fn carry_out(
        &self,
        ctx: &Ctx,
        planned: Planned,
        operation: Operation,
        restore: Option<At>,
        watch: &mut dyn Watch,
    ) -> Result<Landed> {
        let store = self.overlay().store();
        let site = Site { store: &store.dir, root: self.root };
        let paths = planned.paths();
        // What the end needs to know, should this process not live to see it.
        keep::begin(store, &operation, restore, &planned.decided)?;
        let Planned { plan, contents, .. } = planned;
        let source = contents.source(self.overlay());
        let mut keeper = keep::Keeper::new(store, operation.kept, plan.steps.iter().map(|s| s.path.clone()).collect());
        let before = settle::Settled::new(self.overlay(), operation.kept)?.directories_before(&plan)?;
        let prepared = apply::prepare(site, plan.clone(), &source, &mut keeper, watch);
        let ready = match prepared {
            Ok(apply::Prepared::Ready(ready)) => ready,
            Ok(apply::Prepared::Refused(conflicts)) => {
                keep::forget(store, operation.kept)?;
                return Ok(Landed { paths, conflicts, ..Landed::default() });
            }
            Err(apply::Error::Unfinished(error)) => return Err(apply::Error::Unfinished(error).into()),
            Err(error) => {
                keep::forget(store, operation.kept)?;
                return Err(error.into());
            }
        };
        // From here on nothing leans on what will be destroyed, and that survives whatever happens.
        let pinned = || -> Result<()> {
            self.pin(&plan, &before, operation.kept)?;
            store.data.sync_all()?;
            Ok(store.kv.sync()?)
        };
        if let Err(error) = pinned() {
            ready.roll_back()?;
            keep::abandon(store, operation.kept)?;
            return Err(error);
        }
        let outcome = match ready.commit(watch) {
            Ok(outcome) => outcome,
            Err(apply::Error::Unfinished(error)) => return Err(apply::Error::Unfinished(error).into()),
            Err(error) => {
                keep::abandon(store, operation.kept)?;
                return Err(error.into());
            }
        };
        self.overlay().base().forget();
        let after = self.settle(ctx, &plan, &outcome, &operation, restore)?;
        self.finish(site)?;
        Ok(Landed {
            paths,
            conflicts: outcome.conflicts,
            notes: outcome.notes,
            before: Some(operation.before),
            after: Some(after),
        })
    }

    /// Finishes what an earlier process was interrupted in. To be called before anything else is done with a store.
    ///
    /// # Errors
    /// When it cannot be finished now: nothing else must be applied then.
    pub fn resume(&self, ctx: &Ctx, watch: &mut dyn Watch) -> Result<()> {
        let store = self.overlay().store();
        let site = Site { store: &store.dir, root: self.root };
        match apply::resume(site, watch)? {
            None => Ok(()),
            Some(Resumed::RolledBack { plan }) => {
                tracing::warn!("an apply that was interrupted before it began was undone");
                Ok(keep::abandon(store, plan.id)?)
            }
            Some(Resumed::Committed { plan, outcome }) => {
                let keep::Head { operation, restore, .. } = keep::load(store, plan.id)?;
                // Its end may have been reached, and only the journal be left.
                self.overlay().base().forget();
                let done =
                    history::operations(&*store.kv)?.into_iter().any(|o| o.id == operation.id && o.kept == plan.id);
                if !done {
                    self.settle(ctx, &plan, &outcome, &operation, restore)?;
                }
                tracing::warn!(paths = plan.steps.len(), "an apply that was interrupted was finished");
                self.finish(site)
            }
        }
    }

    fn finish(&self, site: Site<'_>) -> Result<()> {
        for left in apply::finish(site)? {
            tracing::warn!(path = %left, "a temporary file of an apply is left in the repository");
        }
        Ok(())
    }

    /// Makes the past, and what of the present leans on the base, independent of what will be destroyed.
    fn pin(&self, plan: &apply::Plan, before: &settle::Before, kept: u64) -> Result<()> {
        let overlay = self.overlay();
        let stale = {
            let _gate = self.machine.gate.close();
            let _gates = self.close_others();
            let mut settled = settle::Settled::new(overlay, kept)?;
            settled.pin(plan, before)?;
            let batch = std::mem::take(&mut settled.batch);
            overlay.store().space.claim(batch.bytes() as u64)?;
            overlay.store().kv.commit(&batch, Sync::No)?;
            self.reload(&settled)?
        };
        self.machine.tell(&stale);
        Ok(())
    }

    /// States of all timelines are written anew: nobody may change them meanwhile.
    fn close_others(&self) -> Vec<impl Sized> {
        self.others.iter().map(|(_, gate)| gate.close()).collect()
    }

    /// Every overlay in memory takes over what the log says.
    fn reload(&self, settled: &settle::Settled<'_>) -> Result<Stale> {
        let bad = os("applied, but the state cannot be read back");
        for (other, _) in &self.others {
            other.reload(&settled.inodes, &settled.names).map_err(&bad)?;
        }
        self.overlay().reload(&settled.inodes, &settled.names).map_err(&bad)
    }

    /// Writes down what became of base and overlay: one batch, durable.
    fn settle(
        &self,
        ctx: &Ctx,
        plan: &apply::Plan,
        outcome: &apply::Outcome,
        operation: &Operation,
        restore: Option<At>,
    ) -> Result<At> {
        let overlay = self.overlay();
        let (after, stale) = {
            let _gate = self.machine.gate.close();
            let _gates = self.close_others();
            let mut settled = settle::Settled::new(overlay, operation.kept)?;
            let how = match restore {
                None => settle::How::Leaves,
                Some(_) if operation.undone => settle::How::Returns,
                Some(_) => settle::How::Again,
            };
            settled.steps(plan, outcome, how)?;
            if let Some(at) = restore {
                settled.restore(ctx, at, plan)?;
            }
            let mut batch = std::mem::take(&mut settled.batch);
            let reason = Reason::new(Why::After, format!("after {}", operation.note));
            let (sealed, next) = overlay.put_seal(ctx, &mut batch, &reason).map_err(os("cannot take a snapshot"))?;
            let after = At { timeline: sealed.timeline, epoch: sealed.epoch };
            let undone_before = operation.undone || restore.is_some();
            let kept_after = if undone_before { operation.after } else { after };
            history::put_operation(&mut batch, &Operation { after: kept_after, last: after, ..operation.clone() });
            let event = Note::new(Op::Apply, Ino::ROOT, Path::root()).with_path2(Path::new(operation.note.as_bytes()));
            overlay.journal_commit(ctx, batch, event, Sync::Yes).map_err(os("applied, but not written down"))?;
            overlay.now_in(next).map_err(os("applied, but the state cannot be read back"))?;
            (after, self.reload(&settled)?)
        };
        self.machine.tell(&stale);
        Ok(after)
    }
}
