//! How much would be gained by letting snapshots go, one after the other. An estimate: the log's own size is taken to stay what it is.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};

use super::states::{Family, each_subject};
use super::versions::Versions;
use super::{Keep, Points, all_timelines, kept_versions};
use crate::store::{Result, Store};
use crate::types::{Epoch, VersionId};

/// Bytes on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Of the log, and of the versions that stay with all the snapshots that are kept.
    pub total: u64,
    /// What goes with each snapshot, when those in front of it are gone.
    pub freed: Vec<u64>,
}

/// Which snapshot is the last that needs something; nothing is more than any of them.
type Rank = Option<usize>;

fn later(a: Rank, b: Rank) -> Rank {
    a.zip(b).map(|(a, b)| a.max(b))
}

/// Says what is gained when the snapshots in `order`, which are among those kept, go one after the other.
///
/// # Errors
/// What the log says.
pub fn estimate(store: &Store, keep: &Keep<'_>, order: &[Epoch]) -> Result<Estimate> {
    let kv = &*store.kv;
    let timelines = all_timelines(store)?;
    let mut versions = Versions::read(store, &timelines, keep.shown)?;
    let points = Points::new(store, &timelines, keep)?;
    let place: FxHashMap<Epoch, usize> = order.iter().enumerate().map(|(at, &epoch)| (epoch, at)).collect();
    let mut ranks: FxHashMap<VersionId, Rank> = FxHashMap::default();
    for &timeline in timelines.keys() {
        each_subject(kv, Family::Inodes, timeline, &mut |states| {
            let mut next = None;
            for state in states {
                let newer = next.replace(state.epoch);
                let Some(version) = state.version else { continue };
                let open = points.is_open(timeline, state.epoch);
                let seeing = points.seeing(timeline, state.epoch, newer);
                if seeing.is_empty() && !open {
                    continue;
                }
                // The newest first: mostly that one stays.
                let stays = open || seeing.iter().rev().any(|point| !place.contains_key(point));
                let rank = if stays { None } else { seeing.iter().filter_map(|point| place.get(point).copied()).max() };
                let known = ranks.entry(version).or_insert(rank);
                *known = later(*known, rank);
            }
            Ok(())
        })?;
    }
    let gone = Default::default();
    let open: Vec<VersionId> = versions.open().collect();
    let always = open.into_iter().chain((keep.live)()).chain(kept_versions(store, keep, &gone)?);
    ranks.extend(always.map(|id| (id, None)));

    // What lends bytes stays as long as what shows them: those that stay longest first.
    let mut by_rank: BTreeMap<(bool, usize), Vec<VersionId>> = BTreeMap::new();
    for (id, rank) in ranks {
        by_rank.entry((rank.is_none(), rank.unwrap_or(0))).or_default().push(id);
    }
    let mut estimate = Estimate { total: kv.disk_bytes(), freed: vec![0; order.len()] };
    let mut seen: FxHashSet<VersionId> = FxHashSet::default();
    for ((stays, rank), mut pending) in by_rank.into_iter().rev() {
        while let Some(id) = pending.pop() {
            if !seen.insert(id) {
                continue;
            }
            pending.extend(versions.below(id)?);
            let bytes = store.data.allocated(id)?;
            estimate.total = estimate.total.saturating_add(bytes);
            if let Some(freed) = estimate.freed.get_mut(rank).filter(|_| !stays) {
                *freed += bytes;
            }
        }
    }
    Ok(estimate)
}
