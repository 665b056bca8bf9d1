//! Ending an epoch: what was changed up to here is a snapshot, and what follows belongs to the next.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Ctx, Overlay, Result, failed};
use crate::store::history::{self, Snapshot, TimelineRecord, Why};
use crate::store::lineage::Lineage;
use crate::store::{Batch, Counter, StoreError, Sync};
use crate::types::{At, Epoch, Errno, Ino, Note, Op, Path};

/// What a snapshot is to be called.
#[derive(Clone, Debug)]
pub struct Reason {
    pub why: Why,
    pub label: Option<String>,
    pub note: String,
}

impl Reason {
    pub fn new(why: Why, note: impl Into<String>) -> Reason {
        Reason { why, label: None, note: note.into() }
    }
}

/// The event that tells of a snapshot.
fn sealing(snapshot: &Snapshot) -> Note {
    let text = snapshot.label.as_deref().unwrap_or(&snapshot.note);
    Note::new(Op::Snapshot, Ino::ROOT, Path::root()).with_path2(Path::new(text.as_bytes()))
}

impl Overlay {
    /// Whether anything was changed since the last snapshot.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn is_changed(&self) -> Result<bool, StoreError> {
        let lineage = self.lineage();
        let last = history::timeline(&*self.store.kv, lineage.at().timeline)?.last;
        lineage.changed_since(&*self.store.kv, last)
    }

    /// Ends the open epoch. The caller keeps all changes out meanwhile.
    ///
    /// # Errors
    /// `EROFS` for a view of the past; what the log says.
    pub fn seal(&self, ctx: &Ctx, reason: &Reason) -> Result<Snapshot> {
        let mut batch = Batch::new();
        let (snapshot, next) = self.put_seal(ctx, &mut batch, reason)?;
        self.commit(ctx, batch, sealing(&snapshot))?;
        self.now_in(next)?;
        Ok(snapshot)
    }

    /// Puts the end of the open epoch and the beginning of the next, which it returns.
    pub(crate) fn put_seal(&self, ctx: &Ctx, batch: &mut Batch, reason: &Reason) -> Result<(Snapshot, Epoch)> {
        if self.read_only {
            return Err(Errno::EROFS);
        }
        let record = history::timeline(&*self.store.kv, self.timeline()).map_err(failed)?;
        let (snapshot, record) = self.put_seal_of(ctx, batch, record, reason)?;
        Ok((snapshot, record.head))
    }

    /// The same for any timeline that nothing can change meanwhile. Returns its record as it is put.
    pub(crate) fn put_seal_of(
        &self,
        ctx: &Ctx,
        batch: &mut Batch,
        record: TimelineRecord,
        reason: &Reason,
    ) -> Result<(Snapshot, TimelineRecord)> {
        let snapshot = Snapshot {
            epoch: record.head,
            timeline: record.id,
            previous: record.last,
            time: ctx.now,
            why: reason.why,
            label: reason.label.clone(),
            note: reason.note.clone(),
        };
        let record = TimelineRecord { head: self.new_epoch()?, last: record.head, ..record };
        history::put_snapshot(batch, &snapshot);
        history::put_timeline(batch, &record);
        Ok((snapshot, record))
    }

    /// Ends the open epoch of a timeline that no overlay shows.
    ///
    /// # Errors
    /// When the log does not take it.
    pub(crate) fn seal_of(&self, ctx: &Ctx, record: TimelineRecord, reason: &Reason) -> Result<()> {
        let mut batch = Batch::new();
        let (snapshot, _) = self.put_seal_of(ctx, &mut batch, record, reason)?;
        self.journal_commit(ctx, batch, sealing(&snapshot), Sync::No)
    }

    /// A number that no epoch of any timeline had before.
    pub(crate) fn new_epoch(&self) -> Result<Epoch> {
        loop {
            let n = self.store.counters.next(&*self.store.kv, Counter::Epoch).map_err(failed)?;
            // The first epoch of the main timeline is 1 before anything was written.
            if n > 1 {
                return Ok(Epoch(n));
            }
        }
    }

    /// To be called after the commit of a batch with [`Overlay::put_seal`].
    pub(crate) fn now_in(&self, epoch: Epoch) -> Result<()> {
        let at = At { timeline: self.timeline(), epoch };
        let lineage = Lineage::of(&*self.store.kv, at).map_err(failed)?;
        *self.lineage.write() = Arc::new(lineage);
        self.epoch.store(epoch.0, Ordering::Release);
        Ok(())
    }
}
