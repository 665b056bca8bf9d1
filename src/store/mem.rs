//! A key-value log in memory: the store of unit and model tests, and the half under `fault.rs` that crash tests keep.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use parking_lot::RwLock;

use super::{Batch, Change, Kv, Result, Sync, Table, Visit};

type Entries = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// See the module. Durable only as long as the value lives.
#[derive(Default)]
pub struct MemKv {
    entries: RwLock<Entries>,
}

impl MemKv {
    pub fn new() -> MemKv {
        MemKv::default()
    }

    fn range(&self, table: Table, from: &[u8], to: &[u8], back: bool, visit: Visit<'_>) {
        // A copy, so that the visitor may come back to the store.
        let entries: Vec<_> = self
            .entries
            .read()
            .range((table, from.to_vec())..(table, to.to_vec()))
            .map(|((_, k), v)| (k.clone(), v.clone()))
            .collect();
        let mut step = |(k, v): &(Vec<u8>, Vec<u8>)| visit(k, v);
        let _ = if back { entries.iter().rev().try_for_each(&mut step) } else { entries.iter().try_for_each(&mut step) }
            as ControlFlow<()>;
    }
}

impl Kv for MemKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.entries.read().get(&(table, key.to_vec())).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<()> {
        self.range(table, from, to, false, visit);
        Ok(())
    }

    fn scan_back(&self, table: Table, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<()> {
        self.range(table, from, to, true, visit);
        Ok(())
    }

    fn commit(&self, batch: &Batch, _sync: Sync) -> Result<()> {
        let mut entries = self.entries.write();
        for (table, change) in batch.changes() {
            match change {
                Change::Put(k, v) => entries.insert((table, k.to_vec()), v.to_vec()),
                Change::Delete(k) => entries.remove(&(table, k.to_vec())),
            };
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        self.entries.read().iter().map(|((_, k), v)| (k.len() + v.len()) as u64).sum()
    }
}
