//! From steps to states: between which two states of the tree each part of a step lies, and which files it is about.
//!
//! An epoch can have several steps, each with files of its own. What a step did in several epochs is one part as long as nobody else came to the
//! same files in between.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::overlay::Overlay;
use crate::overlay::view::Node;
use crate::query::steps::{Piece, StepId, Steps, pieces};
use crate::store::history;
use crate::store::lineage::{Lineage, Touched};
use crate::store::{Kv, StoreError};
use crate::types::{ActorId, At, Epoch, Path, Timeline};

/// One change between two states, to some files only.
#[derive(Clone, Debug)]
pub struct Part {
    /// The state before it.
    pub from: Arc<Lineage>,
    pub to: Arc<Lineage>,
    pub piece: Piece,
}

impl Part {
    /// Whether a path, with what was there and what is there, belongs to it.
    pub fn has(&self, path: &Path, old: Option<&Node>, new: Option<&Node>) -> bool {
        let inodes: Vec<_> = [old, new].into_iter().flatten().map(|node| node.ino).collect();
        self.piece.has(path, &inodes)
    }
}

/// The parts of all steps that are wanted, the oldest first.
///
/// # Errors
/// When the log cannot be read.
pub fn parts(
    overlay: &Overlay,
    steps: &Steps,
    wanted: &dyn Fn(StepId, ActorId) -> bool,
) -> Result<Vec<Part>, crate::query::QueryError> {
    let store = overlay.store();
    let kv = &*store.kv;
    let homes = homes(kv)?;
    let mut found: Vec<(At, Epoch, Piece)> = Vec::new();
    for (epoch, piece) in pieces(store, steps, wanted)? {
        let Some(&timeline) = homes.get(&epoch) else { continue };
        let at = At { timeline, epoch };
        if let Some((first, last, whole)) = found.last_mut().filter(|(first, ..)| first.timeline == timeline)
            && is_quiet(kv, At { epoch: *last, ..*first }, at, whole, &piece)?
        {
            *last = epoch;
            whole.paths.extend(piece.paths);
            whole.below.extend(piece.below);
            whole.inodes.extend(piece.inodes);
            continue;
        }
        found.push((at, epoch, piece));
    }
    let line = |at: At| Lineage::of(kv, at).map(Arc::new);
    let part = |(first, last, piece): (At, Epoch, Piece)| {
        let from = line(At { epoch: Epoch(first.epoch.0.saturating_sub(1)), ..first })?;
        Ok(Part { from, to: line(At { epoch: last, ..first })?, piece })
    };
    found.into_iter().map(part).collect()
}

/// The timeline of each epoch that is sealed or open.
pub fn homes(kv: &dyn Kv) -> Result<BTreeMap<Epoch, Timeline>, StoreError> {
    let mut homes: BTreeMap<Epoch, Timeline> =
        history::snapshots(kv)?.into_iter().map(|s| (s.epoch, s.timeline)).collect();
    homes.extend(history::living(kv)?.into_iter().map(|t| (t.head, t.id)));
    Ok(homes)
}

/// Whether nothing that either piece is about was changed strictly between two epochs.
fn is_quiet(kv: &dyn Kv, last: At, next: At, one: &Piece, other: &Piece) -> Result<bool, StoreError> {
    let (from, to) = (last, At { epoch: Epoch(next.epoch.0.saturating_sub(1)), ..next });
    if from.epoch >= to.epoch {
        return Ok(true);
    }
    let mut quiet = true;
    Lineage::touched(kv, &Lineage::of(kv, from)?, &Lineage::of(kv, to)?, &mut |touched| {
        let (path, inodes) = match &touched {
            Touched::Inode { ino, path } => (path, vec![*ino]),
            Touched::Name { path, .. } => (path, Vec::new()),
        };
        quiet &= !one.has(path, &inodes) && !other.has(path, &inodes);
    })?;
    Ok(quiet)
}
