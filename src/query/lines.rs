//! Which timeline an epoch belongs to.

use rustc_hash::FxHashMap;

use crate::store::{Store, StoreError, history};
use crate::types::{Epoch, Timeline};

/// Looked up once per epoch.
pub(super) struct Timelines<'s> {
    store: &'s Store,
    known: FxHashMap<Epoch, Option<String>>,
}

impl<'s> Timelines<'s> {
    pub fn new(store: &'s Store) -> Timelines<'s> {
        Timelines { store, known: FxHashMap::default() }
    }

    /// The timeline's name; `None` when the epoch was collected, or was before all others.
    pub fn name_of(&mut self, epoch: Epoch) -> Result<Option<String>, StoreError> {
        if let Some(known) = self.known.get(&epoch) {
            return Ok(known.clone());
        }
        let kv = &*self.store.kv;
        let id = match history::snapshot(kv, epoch)? {
            Some(snapshot) => Some(snapshot.timeline),
            // Still open; the first one is, before anything was written about it.
            None => {
                let open = history::timelines(kv)?.into_iter().find(|t| t.head == epoch).map(|t| t.id);
                let first = || Ok::<_, StoreError>(history::timeline(kv, Timeline::MAIN)?.head == epoch);
                match open {
                    Some(id) => Some(id),
                    None if first()? => Some(Timeline::MAIN),
                    None => None,
                }
            }
        };
        let name = id.map(|id| Ok::<_, StoreError>(history::timeline(kv, id)?.name)).transpose()?;
        self.known.insert(epoch, name.clone());
        Ok(name)
    }
}
