//! Several timelines of one store: another overlay beside this one, and going over from one timeline to another.
//!
//! Two overlays never show the same timeline for changing; that is the caller's to see to. What they share is the store with its numbers, the
//! base, the journal, and what must be synced before the log.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::transit::{Plan, Stale};
use super::{Ctx, NoJournal, Overlay, Result, Shown, failed, keep_in_view};
use crate::store::lineage::Lineage;
use crate::store::{Batch, StoreError, Sync, history};
use crate::types::{At, Epoch, Note, Timeline};

impl Overlay {
    /// Opens another timeline, or a point of the past, of the same store.
    ///
    /// # Errors
    /// When the store cannot be read, or the base's root is gone.
    pub fn open_beside(&self, shown: Shown, live_base: bool) -> Result<Overlay, StoreError> {
        let (store, base, journal) = (self.store.clone(), self.base.clone(), self.journal.clone());
        Overlay::assemble(store, base, journal, live_base, shown, self.copied.clone())
    }

    /// Opens a timeline in which something is put together that nobody did: what is changed there is not recorded.
    ///
    /// # Errors
    /// When the store cannot be read, or the base's root is gone.
    pub fn open_unrecorded(&self, timeline: Timeline) -> Result<Overlay, StoreError> {
        let journal = Arc::new(NoJournal(self.store.clone()));
        let (store, base, shown) = (self.store.clone(), self.base.clone(), Shown::Timeline(timeline));
        Overlay::assemble(store, base, journal, self.live_base, shown, self.copied.clone())
    }

    /// The newest state of another timeline, made ready to be shown.
    ///
    /// # Errors
    /// When log or base cannot be read.
    pub fn ready(&self, timeline: Timeline) -> Result<Arc<Lineage>, StoreError> {
        let kv = &*self.store.kv;
        let lineage = Lineage::of(kv, At { timeline, epoch: history::timeline(kv, timeline)?.head })?;
        keep_in_view(&self.store, &*self.base, &lineage)?;
        Ok(Arc::new(lineage))
    }

    /// Shows `target`, the newest state of another timeline, from now on. `plan` is from [`Overlay::plan`], with changes kept out ever since. Only what
    /// open files need beyond the target's own states is put into the log, under the target.
    ///
    /// # Errors
    /// When the log does not take it: the timeline is still the one that it was.
    pub fn go_over(&self, ctx: &Ctx, plan: &Plan, target: Arc<Lineage>, mut batch: Batch, note: Note) -> Result<Stale> {
        let _namespace = self.namespace.lock();
        let at = target.at();
        let beyond = self.beyond(plan, &target)?;
        self.put_plan_at(&mut batch, at, &beyond);
        // What must be readable is read before anything is said.
        let fresh = self.prepare(plan)?;
        let stale = self.stale(plan)?;
        self.store.space.claim(batch.bytes() as u64).map_err(failed)?;
        self.journal_commit(ctx, batch, note, Sync::No)?;
        // A directory that is being loaded now, which passes no gate, has the state before or the one after; what is shown below makes both the latter.
        *self.lineage.write() = target;
        self.epoch.store(at.epoch.0, Ordering::Release);
        let touched = |ino| if beyond.inodes.contains_key(&ino) { at.epoch } else { Epoch::BASE };
        self.show(plan, fresh, &touched);
        Ok(stale)
    }

    /// What a plan has that the target has not.
    fn beyond(&self, plan: &Plan, target: &Lineage) -> Result<Plan> {
        let kv = &*self.store.kv;
        let mut beyond = Plan::default();
        if plan.kept.is_empty() {
            return Ok(beyond);
        }
        for (&ino, change) in &plan.inodes {
            if target.inode(kv, ino).map_err(failed)? != change.then {
                beyond.inodes.insert(ino, change.clone());
            }
        }
        for ((dir, name), change) in &plan.names {
            if target.dentry(kv, *dir, name).map_err(failed)? != change.then {
                beyond.names.insert((*dir, name.clone()), change.clone());
            }
        }
        Ok(beyond)
    }
}
