//! Letting go of the past: by the rule of `retention.rs`, what it leaves by `store/gc.rs`.

use std::collections::BTreeSet;

use super::machine::{Machine, Result};
use super::retention::{Past, Policy, beyond};
use crate::overlay::Ctx;
use crate::store::gc::{Keep, Report, collect, estimate};
use crate::store::{self, history};
use crate::types::VersionId;

/// Says which versions an apply kept under a number.
pub type KeptBy<'a> = dyn Fn(u64) -> store::Result<Vec<VersionId>> + 'a;

impl Machine {
    /// Lets snapshots expire by a policy, and takes away what no other needs, nor any mount of the store. Others go on meanwhile. With `dry_run` it
    /// only says what would go.
    ///
    /// # Errors
    /// What the log says. What was done until then stays done, and the store is whole.
    pub fn gc(&self, ctx: &Ctx, policy: &Policy, kept_by: &KeptBy<'_>, dry_run: bool) -> Result<Report> {
        // Under the lock nothing else is mounted, and no mount comes to show another point in time.
        let _busy = self.begin();
        let overlay = self.overlay();
        let store = overlay.store();
        let kv = &*store.kv;
        let mut timelines = history::timelines(kv)?;
        if timelines.is_empty() {
            timelines.push(history::timeline(kv, crate::types::Timeline::MAIN)?);
        }
        let mounts = || std::iter::once(overlay.clone()).chain(self.others().into_iter().map(|(other, _)| other));
        let shown: Vec<_> = mounts().map(|overlay| overlay.lineage().at()).collect();
        let (snapshots, operations) = (history::snapshots(kv)?, history::operations(kv)?);
        let past = Past { snapshots: &snapshots, timelines: &timelines, operations: &operations, shown: &shown };
        let mut kept = past.kept(policy, ctx.now, &BTreeSet::new());
        let live = || mounts().flat_map(|overlay| overlay.versions_in_memory()).collect();
        if let Some(most) = policy.max_size {
            let spare = past.spare(policy, ctx.now);
            let keep = Keep { snapshots: &kept, shown: &shown, live: &live, kept: kept_by };
            let estimate = estimate(store, &keep, &spare)?;
            let gone = spare.iter().take(beyond(estimate.total, most, &estimate.freed)).copied().collect();
            kept = past.kept(policy, ctx.now, &gone);
        }
        let keep = Keep { snapshots: &kept, shown: &shown, live: &live, kept: kept_by };
        let report = collect(store, &keep, dry_run)?;
        if !dry_run && report != Report::default() {
            let Report { snapshots, states, versions, bytes } = report;
            tracing::info!(snapshots, states, versions, bytes, "collected");
        }
        Ok(report)
    }
}
