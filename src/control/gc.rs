//! Answers about collecting the past. The daemon's own collections go this way too.

use super::protocol::{Done, Failure, Gc, Row};
use super::time::{Mover, Sink};
use crate::landing;
use crate::overlay::Ctx;
use crate::store::StoreError;
use crate::store::gc::Report;
use crate::timeline::Machine;
use crate::timeline::retention::Policy;
use crate::timeline::rows::GcRow;
use crate::types::VersionId;

/// Collects, or says what that would take away.
///
/// # Errors
/// [`StoreError::Looking`] while somebody looks at the past; what the log says.
pub fn collect(machine: &Machine, ctx: &Ctx, policy: &Policy, dry_run: bool) -> Result<Report, Failure> {
    let store = machine.overlay().store();
    let kept = |number| -> Result<Vec<VersionId>, StoreError> {
        let kept = landing::kept(store, number)?;
        Ok(kept.into_iter().filter_map(|k| k.old).map(|old| old.version).filter(|&v| v != VersionId::BASE).collect())
    };
    Ok(machine.gc(ctx, policy, &kept, dry_run)?)
}

impl Mover<'_> {
    pub(super) fn gc(&self, gc: &Gc, sink: Sink<'_>) -> Result<Done, Failure> {
        let policy = Policy { keep: gc.keep_seconds.map(std::time::Duration::from_secs), max_size: gc.max_size };
        let report = collect(self.machine, &self.ctx, &policy, gc.dry_run)?;
        let row = GcRow {
            done: !gc.dry_run,
            snapshots: report.snapshots,
            states: report.states,
            versions: report.versions,
            bytes: report.bytes,
            store_bytes: self.machine.overlay().store().disk_bytes()?,
            max_size: policy.max_size,
            keep_seconds: gc.keep_seconds,
        };
        let _ = sink(Row::Gc(row));
        Ok(Done::default())
    }
}
