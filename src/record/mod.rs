//! The record: what happened, in order, chained by hashes.
//!
//! A change's event is committed in the change's own batch ([`Record::commit`]). What was only seen goes through a bounded
//! queue to one writer ([`Record::observe`]); a full queue makes the observer wait, and a record that cannot be written makes the
//! operation fail: nothing is left out silently. Knows no FUSE and no /proc.

pub mod chain;
mod queue;

use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::overlay::{Ctx, Journal};
use crate::store::{Batch, Result, Store, StoreError, Sync, Table, codec, keys};
use crate::types::{ActorId, Epoch, Note, Seq, Time};

pub use queue::Queue;

/// Something that was seen, on its way to the record.
#[derive(Clone, Debug)]
pub struct Observation {
    pub time: Time,
    pub epoch: Epoch,
    pub actor: ActorId,
    pub note: Note,
}

/// The end of the chain.
struct Tail {
    seq: Seq,
    hash: chain::Hash,
    value: Vec<u8>,
    event: Vec<u8>,
}

/// The writing end of the record. There is one per store.
pub struct Record {
    store: Arc<Store>,
    /// Held while an event gets its number *and* its batch is committed: the log never has event n+1 without event n.
    tail: Mutex<Tail>,
}

impl Record {
    /// Finds the end of the chain.
    pub fn open(store: Arc<Store>) -> Result<Record> {
        let (seq, hash) = last(&store)?;
        Ok(Record { store, tail: Mutex::new(Tail { seq, hash, value: Vec::new(), event: Vec::new() }) })
    }

    /// The number of the newest event; 0 when there is none.
    pub fn last_seq(&self) -> Seq {
        self.tail.lock().seq
    }

    /// Appends observations in one batch.
    pub fn append(&self, observations: &[Observation], sync: Sync) -> Result<()> {
        if observations.is_empty() {
            return Ok(());
        }
        let mut tail = self.tail.lock();
        let (seq, hash) = (tail.seq, tail.hash);
        let mut batch = Batch::new();
        for o in observations {
            tail.push(&mut batch, o.time, o.epoch, o.actor, &o.note);
        }
        let result = self.store.kv.commit(&batch, sync);
        if result.is_err() {
            (tail.seq, tail.hash) = (seq, hash);
        }
        result
    }
}

impl Tail {
    fn push(&mut self, batch: &mut Batch, time: Time, epoch: Epoch, actor: ActorId, note: &Note) {
        self.event.clear();
        codec::put_event(&mut self.event, time, epoch, actor, note);
        self.seq = Seq(self.seq.0 + 1);
        self.hash = chain::next(&self.hash, self.seq, &self.event);
        self.value.clear();
        self.value.extend_from_slice(&self.hash);
        self.value.extend_from_slice(&self.event);
        batch.put(Table::Events, &keys::event(self.seq), &self.value);
    }
}

impl Journal for Record {
    fn commit(&self, ctx: &Ctx, batch: &mut Batch, note: Note, sync: Sync) -> Result<(), StoreError> {
        let mut tail = self.tail.lock();
        let (seq, hash) = (tail.seq, tail.hash);
        let len = batch.len();
        tail.push(batch, ctx.now, ctx.epoch, ctx.actor, &note);
        let result = self.store.kv.commit(batch, sync);
        if result.is_err() {
            (tail.seq, tail.hash) = (seq, hash);
            batch.truncate(len);
        }
        result
    }
}

/// The newest event's number and hash.
fn last(store: &Store) -> Result<(Seq, chain::Hash)> {
    let mut found = None;
    let (from, to) = keys::events_from(Seq(0));
    store.kv.scan_back(Table::Events, &from, &to, &mut |key, value| {
        found = Some((keys::last_number(key), value.get(..32).and_then(|h| chain::Hash::try_from(h).ok())));
        ControlFlow::Break(())
    })?;
    match found {
        None => Ok((Seq(0), chain::start(&store.format.id))),
        Some((Some(seq), Some(hash))) => Ok((Seq(seq), hash)),
        Some(_) => Err(StoreError::corrupt("the last event")),
    }
}
