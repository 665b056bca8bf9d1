//! Where everything is kept: metadata and events in a key-value log, bytes in version files.
//!
//! This module and its neighbours say *what* is stored and with which promise; only `rocks.rs` knows RocksDB. The promise
//! (docs/FORMAT.md, "Durability"): a [`Batch`] is whole or absent; after [`Kv::commit`] returned it survives the death of
//! the process; after [`Kv::sync`] (or a commit with [`Sync::Yes`]) it survives power loss. Bytes go to a version file
//! before the batch that refers to them.

pub mod check;
pub mod codec;
pub mod counters;
pub mod data;
pub mod fault;
pub mod format;
pub mod gc;
pub mod history;
pub mod keys;
pub mod lineage;
pub mod mem;
pub mod rocks;
pub mod said;
pub mod space;
pub mod upgrade;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::types::Errno;

pub use counters::{Counter, Counters};
pub use data::Data;

/// The three logs-with-an-index that the store consists of. One batch may span them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Counters, actors, content hashes, housekeeping.
    Meta,
    /// Inodes, directory entries, versions.
    Tree,
    /// The record, by sequence number.
    Events,
}

/// Whether a commit also has to survive power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    No,
    Yes,
}

/// What can go wrong below the overlay. Each message says what to do next where there is something to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{what} {path}: {source}", path = path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "the store's disk is full ({free} bytes free, {reserve} kept in reserve): free some space; nothing was lost"
    )]
    Full { free: u64, reserve: u64 },
    #[error(
        "the store's log failed ({0}): the mount is read-only now; unmount, make room or repair the disk, and mount again"
    )]
    Broken(String),
    #[error("damaged record in the store ({what}): run `regentfs fsck`")]
    Corrupt { what: String },
    #[error("the store {path} has format {found}, this regentfs understands up to {known}: use a newer regentfs", path = path.display())]
    Newer { path: PathBuf, found: String, known: u32 },
    #[error("the store {path} belongs to {owner}: give another directory with --store", path = path.display())]
    Foreign { path: PathBuf, owner: String },
    #[error("the store {path} is in use by process {pid}: `regentfs unmount` if that is a mount, wait for it otherwise", path = path.display())]
    Locked { path: PathBuf, pid: String },
    #[error("somebody looks at the past just now, so nothing of it is taken away: try again later")]
    Looking,
    #[error("there is no regentfs store at {path}: `regentfs mount` makes one", path = path.display())]
    Missing { path: PathBuf },
}

impl StoreError {
    pub fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> StoreError {
        let path = path.into();
        move |source| StoreError::Io { what, path, source }
    }

    pub fn corrupt(what: impl Into<String>) -> StoreError {
        StoreError::Corrupt { what: what.into() }
    }

    /// What a file operation that met this error answers with.
    pub fn errno(&self) -> Errno {
        match self {
            StoreError::Io { source, .. } => match source.raw_os_error() {
                Some(libc::ENOSPC) => Errno::ENOSPC,
                Some(libc::EDQUOT) => Errno::EDQUOT,
                Some(_) | None => Errno::EIO,
            },
            StoreError::Full { .. } => Errno::ENOSPC,
            StoreError::Broken(_) => Errno::EROFS,
            StoreError::Corrupt { .. }
            | StoreError::Newer { .. }
            | StoreError::Foreign { .. }
            | StoreError::Locked { .. }
            | StoreError::Looking
            | StoreError::Missing { .. } => Errno::EIO,
        }
    }
}

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Keys to put and to delete, applied together or not at all. Reusable: [`Batch::clear`] keeps its memory.
#[derive(Default, Debug, Clone)]
pub struct Batch {
    bytes: Vec<u8>,
    ops: Vec<BatchOp>,
}

#[derive(Debug, Clone, Copy)]
struct BatchOp {
    table: Table,
    start: usize,
    key_end: usize,
    end: usize,
    delete: bool,
}

/// One line of a batch.
pub enum Change<'a> {
    Put(&'a [u8], &'a [u8]),
    Delete(&'a [u8]),
}

impl Batch {
    pub fn new() -> Batch {
        Batch::default()
    }

    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.push(table, key, value, false);
    }

    pub fn delete(&mut self, table: Table, key: &[u8]) {
        self.push(table, key, &[], true);
    }

    fn push(&mut self, table: Table, key: &[u8], value: &[u8], delete: bool) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ops.push(BatchOp { table, start, key_end, end: self.bytes.len(), delete });
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ops.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Forgets everything after the first `len` operations.
    pub fn truncate(&mut self, len: usize) {
        if let Some(op) = self.ops.get(len) {
            self.bytes.truncate(op.start);
            self.ops.truncate(len);
        }
    }

    pub fn changes(&self) -> impl Iterator<Item = (Table, Change<'_>)> {
        self.ops.iter().map(|op| {
            let key = &self.bytes[op.start..op.key_end];
            let change =
                if op.delete { Change::Delete(key) } else { Change::Put(key, &self.bytes[op.key_end..op.end]) };
            (op.table, change)
        })
    }
}

/// What a scan hands out: key and value; `Break` ends it.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// The same for the first keys of many ranges, with the number of the range.
pub type VisitFirst<'a> = &'a mut dyn FnMut(usize, &[u8], &[u8]);

/// The key-value log. Keys are ordered as bytes within their table.
pub trait Kv: Send + std::marker::Sync {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Visits the keys in `[from, to)` in order, from a consistent state.
    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<()>;

    /// Visits the first key of each of these ranges that has one, with the range's number. The ranges are in order; where they lie close
    /// together this costs much less than a scan for each.
    fn firsts(&self, table: Table, ranges: &[(keys::Key, keys::Key)], visit: VisitFirst<'_>) -> Result<()> {
        for (number, (from, to)) in ranges.iter().enumerate() {
            self.scan(table, from, to, &mut |key, value| {
                visit(number, key, value);
                ControlFlow::Break(())
            })?;
        }
        Ok(())
    }

    /// Visits the keys in `[from, to)` in reverse order.
    fn scan_back(&self, table: Table, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<()>;

    /// Applies the batch atomically. See the module's promise.
    fn commit(&self, batch: &Batch, sync: Sync) -> Result<()>;

    /// Makes everything committed so far survive power loss.
    fn sync(&self) -> Result<()>;

    /// Bytes on disk, roughly.
    fn disk_bytes(&self) -> u64;
}

/// An open store.
pub struct Store {
    pub dir: PathBuf,
    pub kv: Arc<dyn Kv>,
    pub data: Data,
    pub counters: Counters,
    pub space: space::Space,
    pub format: format::Format,
    /// Held by an operation on time from its first look to its end: two never mix, whatever they are mounted from.
    pub busy: parking_lot::Mutex<()>,
    /// Held shared by who looks at a snapshot, from finding it to the last read; held alone for the moment in which snapshots expire. So what
    /// was found is not collected while it is read.
    pub past: parking_lot::RwLock<()>,
    _lock: Option<format::Lock>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store of `owner` at `dir`, creating it (mode 0700) when there is none.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while another process has it open, [`StoreError::Foreign`] when it belongs to another
    /// repository, [`StoreError::Newer`] for a format this version does not know.
    pub fn create_or_open(dir: &Path, owner: &format::Owner) -> Result<Store> {
        let lock = format::Lock::create(dir)?;
        let format = format::Format::create_or_load(dir, owner)?;
        Store::open_parts(dir, format, lock)
    }

    /// Opens an existing store, whoever it belongs to.
    pub fn open(dir: &Path) -> Result<Store> {
        if !dir.join(format::FORMAT_FILE).exists() {
            return Err(StoreError::Missing { path: dir.to_owned() });
        }
        let lock = format::Lock::create(dir)?;
        let format = format::Format::load(dir)?;
        Store::open_parts(dir, format, lock)
    }

    fn open_parts(dir: &Path, format: format::Format, lock: format::Lock) -> Result<Store> {
        let mut kv: Arc<dyn Kv> = Arc::new(rocks::Rocks::open(&dir.join("log"))?);
        if fault::armed() {
            kv = Arc::new(fault::FaultKv(kv));
        }
        let format = upgrade::upgrade(dir, &*kv, format)?;
        let data = Data::open(&dir.join("data"))?;
        let mut store = Store::from_parts(dir, kv, data, format)?;
        store._lock = Some(lock);
        Ok(store)
    }

    /// Bytes that log and versions take on disk.
    ///
    /// # Errors
    /// When the versions cannot be listed.
    pub fn disk_bytes(&self) -> Result<u64> {
        Ok(self.kv.disk_bytes().saturating_add(self.data.disk_bytes()?))
    }

    /// Puts a store together from its parts: the way tests slip in memory or faulty ones.
    pub fn from_parts(dir: &Path, kv: Arc<dyn Kv>, data: Data, format: format::Format) -> Result<Store> {
        let counters = Counters::load(&*kv)?;
        let space = space::Space::new(dir)?;
        let (busy, past) = Default::default();
        Ok(Store { dir: dir.to_owned(), kv, data, counters, space, format, busy, past, _lock: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_keeps_order_and_forgets_its_tail() {
        let mut batch = Batch::new();
        batch.put(Table::Meta, b"a", b"1");
        batch.delete(Table::Tree, b"b");
        batch.put(Table::Events, b"c", b"");
        batch.truncate(2);
        let seen: Vec<_> = batch
            .changes()
            .map(|(table, change)| match change {
                Change::Put(k, v) => (table, k.to_vec(), Some(v.to_vec())),
                Change::Delete(k) => (table, k.to_vec(), None),
            })
            .collect();
        assert_eq!(seen, [(Table::Meta, b"a".to_vec(), Some(b"1".to_vec())), (Table::Tree, b"b".to_vec(), None)]);
        batch.clear();
        assert!(batch.is_empty());
    }
}
