//! Letting go of the past: by the rule of `retention.rs`, what it leaves by `store/gc.rs`.

use std::collections::BTreeSet;

use super::machine::{Machine, Result};
use super::retention::{Past, Policy, beyond};
use crate::overlay::Ctx;
use crate::store::gc::{Keep, Report, collect, estimate};
use crate::store::{self, history};
use crate::types::{At, VersionId};

/// What is needed that this machine does not know of.
pub struct Others<'a> {
    /// What else is mounted from the same store.
    pub shown: &'a [At],
    /// The versions that those mounts have in memory.
    pub live: &'a dyn Fn() -> Vec<VersionId>,
    /// The versions that an apply kept under a number.
    pub kept: &'a dyn Fn(u64) -> store::Result<Vec<VersionId>>,
}

impl Machine {
    /// Lets snapshots expire by a policy, and takes away what no other needs. Others go on meanwhile. With `dry_run` it only says what would go.
    ///
    /// # Errors
    /// What the log says. What was done until then stays done, and the store is whole.
    pub fn gc(&self, ctx: &Ctx, policy: &Policy, others: &Others<'_>, dry_run: bool) -> Result<Report> {
        let _busy = self.begin();
        let overlay = self.overlay();
        let store = overlay.store();
        let kv = &*store.kv;
        let mut timelines = history::timelines(kv)?;
        if timelines.is_empty() {
            timelines.push(history::timeline(kv, crate::types::Timeline::MAIN)?);
        }
        let mut shown = others.shown.to_vec();
        shown.push(overlay.lineage().at());
        let (snapshots, operations) = (history::snapshots(kv)?, history::operations(kv)?);
        let past = Past { snapshots: &snapshots, timelines: &timelines, operations: &operations, shown: &shown };
        let mut kept = past.kept(policy, ctx.now, &BTreeSet::new());
        let live = || [overlay.versions_in_memory(), (others.live)()].concat();
        if let Some(most) = policy.max_size {
            let spare = past.spare(policy, ctx.now);
            let keep = Keep { snapshots: &kept, shown: &shown, live: &live, kept: others.kept };
            let estimate = estimate(store, &keep, &spare)?;
            let gone = spare.iter().take(beyond(estimate.total, most, &estimate.freed)).copied().collect();
            kept = past.kept(policy, ctx.now, &gone);
        }
        let keep = Keep { snapshots: &kept, shown: &shown, live: &live, kept: others.kept };
        let report = collect(store, &keep, dry_run)?;
        if !dry_run && report != Report::default() {
            let Report { snapshots, states, versions, bytes } = report;
            tracing::info!(snapshots, states, versions, bytes, "collected");
        }
        Ok(report)
    }
}
