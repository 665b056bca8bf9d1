//! Processes by number, as the store has them.

use std::ops::ControlFlow;

use rustc_hash::FxHashMap;

use super::Result;
use crate::actors::{Actor, codec};
use crate::store::{Store, StoreError, Table, keys};
use crate::types::ActorId;

fn decode(id: ActorId, bytes: &[u8]) -> Result<Actor, StoreError> {
    codec::decode(bytes).map_err(|e| StoreError::corrupt(format!("actor {id}: {e}")))
}

/// An actor's record; `None` for the kernel and for numbers that were never used.
pub fn actor(store: &Store, id: ActorId) -> Result<Option<Actor>> {
    match store.kv.get(Table::Meta, &keys::actor(id))? {
        Some(bytes) => Ok(Some(decode(id, &bytes)?)),
        None => Ok(None),
    }
}

/// All actors, by number.
pub fn each_actor(store: &Store, visit: &mut dyn FnMut(Actor) -> ControlFlow<()>) -> Result<()> {
    each_new_actor(store, ActorId(0), visit)
}

/// Those with this number or a higher one.
pub fn each_new_actor(store: &Store, from: ActorId, visit: &mut dyn FnMut(Actor) -> ControlFlow<()>) -> Result<()> {
    let mut bad = None;
    let (from, (_, to)) = (keys::actor(from), keys::actors());
    store.kv.scan(Table::Meta, &from, &to, &mut |key, value| {
        let Some(id) = keys::last_number(key) else { return ControlFlow::Continue(()) };
        match decode(ActorId(id), value) {
            Ok(actor) => visit(actor),
            Err(e) => {
                bad = Some(e);
                ControlFlow::Break(())
            }
        }
    })?;
    bad.map_or(Ok(()), |e| Err(e.into()))
}

/// What a row says of a process, looked up once.
pub(super) struct Names<'s> {
    store: &'s Store,
    known: FxHashMap<ActorId, (u32, String)>,
}

impl<'s> Names<'s> {
    pub fn new(store: &'s Store) -> Names<'s> {
        Names { store, known: FxHashMap::default() }
    }

    /// Pid and command name; pid 0 for the kernel itself.
    pub fn get(&mut self, id: ActorId) -> Result<&(u32, String)> {
        if !self.known.contains_key(&id) {
            let name = match actor(self.store, id)? {
                Some(actor) => (actor.pid, String::from_utf8_lossy(&actor.comm).into_owned()),
                None if id == ActorId::KERNEL => (0, "kernel".to_owned()),
                None => (0, "?".to_owned()),
            };
            self.known.insert(id, name);
        }
        Ok(self.known.get(&id).expect("inserted above"))
    }
}
