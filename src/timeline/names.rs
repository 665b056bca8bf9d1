//! From what a user writes to a state of the tree.

use std::sync::Arc;

use super::spec::{self, Candidate, Point, SpecError};
use crate::overlay::{Overlay, Shown};
use crate::store::history::{self, Snapshot};
use crate::store::lineage::Lineage;
use crate::store::{Store, StoreError};
use crate::types::{At, Epoch, Time, Timeline};

/// Why a name could not be made out.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All snapshots of a store with their names.
pub struct Names {
    pub candidates: Vec<Candidate>,
    store_id: String,
    /// No epoch of the store is higher.
    newest: Epoch,
    /// The newest snapshot of the timeline that is asked about.
    last: Epoch,
}

/// A state of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Base,
    Now,
    At(At),
}

impl Names {
    /// # Errors
    /// When the log cannot be read.
    pub fn load(store: &Store, timeline: Timeline) -> Result<Names, StoreError> {
        let kv = &*store.kv;
        let store_id = store.format.id.clone();
        let candidate = |s: Snapshot| Candidate {
            id: spec::id_of(&store_id, s.epoch),
            label: s.label,
            epoch: s.epoch,
            timeline: s.timeline,
            previous: s.previous,
            time: s.time,
        };
        let candidates = history::snapshots(kv)?.into_iter().map(candidate).collect();
        // Each timeline has its newest epoch open.
        let main = history::timeline(kv, Timeline::MAIN)?;
        let newest = history::timelines(kv)?.iter().map(|t| t.head).fold(main.head, Epoch::max);
        Ok(Names { candidates, store_id, newest, last: history::timeline(kv, timeline)?.last })
    }

    /// As a view of the past sees it: steps back and times are looked up from there.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn of(overlay: &Overlay) -> Result<Names, StoreError> {
        let names = Names::load(overlay.store(), overlay.timeline())?;
        Ok(match overlay.shown() {
            Shown::Timeline(_) => names,
            Shown::Past(at) => {
                let last = names.candidates.iter().find(|c| c.epoch == at.epoch).map_or(Epoch::BASE, |c| c.previous);
                Names { last, ..names }
            }
        })
    }

    /// The id of a snapshot; `base` for what was before all others.
    pub fn id(&self, epoch: Epoch) -> String {
        spec::name_of(&self.store_id, epoch)
    }

    /// What a text stands for.
    ///
    /// # Errors
    /// When it stands for nothing, for several snapshots, or for one that was collected.
    pub fn find(&self, text: &str, now: Time) -> Result<Place, SpecError> {
        let spec = spec::parse(text, now)?;
        let found = spec::resolve(&self.candidates, self.last, &spec).map_err(|error| match error {
            SpecError::NotFound { name, .. } if self.was_there(&name) => SpecError::Collected { name },
            other => other,
        })?;
        Ok(match found {
            Point::Base => Place::Base,
            Point::Now => Place::Now,
            Point::Snapshot(one) => Place::At(At { timeline: one.timeline, epoch: one.epoch }),
        })
    }
}

impl Names {
    /// Whether an id, or much of one, is that of a state which is no snapshot any more.
    fn was_there(&self, name: &str) -> bool {
        spec::is_like_id(name) && (1..self.newest.0).any(|n| spec::id_of(&self.store_id, Epoch(n)).starts_with(name))
    }
}

impl Place {
    /// The way back from there.
    ///
    /// # Errors
    /// When a timeline on the way is not in the store.
    pub fn lineage(self, overlay: &Overlay) -> Result<Arc<Lineage>, StoreError> {
        Ok(match self {
            Place::Base => Arc::new(Lineage::base()),
            Place::Now => overlay.lineage(),
            Place::At(at) => Arc::new(Lineage::of(&*overlay.store().kv, at)?),
        })
    }
}
