//! The namespace and the bytes: what the mount shows, as base plus changes.
//!
//! Knows neither FUSE nor RocksDB nor processes. Every operation either succeeds as a whole, with its batch committed, or
//! fails and leaves tree and log as they were.
//!
//! Locks, in the order in which they may be taken:
//! 1. `Overlay::namespace`: held by every operation that changes names. The kernel already serialises those per directory and the log
//!    serialises commits, so it costs nothing, and it makes rename (four inodes, no cycles) correct by construction.
//! 2. `Inode::state`: a holder without the namespace lock never takes a second one; a holder with it may.
//! 3. the shards of the inode table: leaves, never held across a call.

mod acl;
mod adopt;
pub mod chunks;
pub mod content;
pub mod descriptors;
pub mod extents;
pub mod graft;
pub mod hashing;
pub mod inode;
mod numbers;
pub mod ops;
pub mod path;
pub mod places;
mod release;
mod relocate;
pub mod restore;
pub mod seal;
pub mod timelines;
pub mod transit;
pub mod tree;
pub mod view;
pub mod walk;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashSet;

use crate::base::Base;
use crate::store::lineage::Lineage;
use crate::store::{Batch, Store, StoreError, Sync, Table, data::Data, history, keys};
use crate::types::{ActorId, At, Epoch, Errno, Ino, Note, Time, Timeline, VersionId};

pub use inode::Inode;

/// Who does something, and when: what an operation needs to know about its caller.
#[derive(Clone, Copy, Debug)]
pub struct Ctx {
    pub actor: ActorId,
    pub uid: u32,
    pub gid: u32,
    /// The time that the operation stamps on what it changes.
    pub now: Time,
    pub epoch: Epoch,
    /// Another writer changed the same in this epoch, and could not be kept apart.
    pub shared: bool,
}

/// Commits an operation's batch together with the event that tells of it.
pub trait Journal: Send + std::marker::Sync {
    fn commit(&self, ctx: &Ctx, batch: &mut Batch, note: Note, sync: Sync) -> Result<(), StoreError>;
}

/// A journal that keeps no record: tests of the overlay alone, and `--record off`.
pub struct NoJournal(pub Arc<Store>);

impl Journal for NoJournal {
    fn commit(&self, _ctx: &Ctx, batch: &mut Batch, _note: Note, sync: Sync) -> Result<(), StoreError> {
        self.0.kv.commit(batch, sync)
    }
}

/// What an overlay shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// A timeline's newest state, which can be changed.
    Timeline(Timeline),
    /// A sealed state, read only.
    Past(At),
}

pub type Result<T, E = Errno> = std::result::Result<T, E>;

/// What the mount shows. See the module.
pub struct Overlay {
    pub(crate) store: Arc<Store>,
    pub(crate) base: Arc<dyn Base>,
    pub(crate) journal: Arc<dyn Journal>,
    /// The timeline that is shown, and the open epoch of it; for a view of the past, the epoch that is shown.
    pub(crate) epoch: AtomicU64,
    pub(crate) lineage: RwLock<Arc<Lineage>>,
    pub(crate) read_only: bool,
    pub(crate) inodes: tree::Table,
    /// Inodes that have or had a record of their own, so that all others cost no look-up in the log.
    pub(crate) changed: RwLock<FxHashSet<Ino>>,
    /// See `numbers.rs`.
    pub(crate) taken: RwLock<FxHashSet<u64>>,
    pub(crate) namespace: Mutex<()>,
    /// Counts directory renames: paths remembered before the last one are worked out again.
    pub(crate) renames: AtomicU64,
    /// Counts directories that were gone and came back: while there is none, nobody has to look for them.
    pub(crate) revivals: AtomicU64,
    pub(crate) root_dev: u64,
    pub(crate) root: Arc<Inode>,
    pub(crate) descriptors: descriptors::Descriptors,
    /// Set when the base may change behind the mount (`--at`): attributes of unchanged files are then asked for each time.
    pub(crate) live_base: bool,
    /// Versions with bytes copied from the base that may not be on disk yet. They must be there before the log that hides the
    /// base's bytes behind them is made to survive power loss, for whatever file, and in whichever overlay of the store, that is done.
    pub(crate) copied: Arc<Mutex<FxHashSet<VersionId>>>,
    /// Takes versions that are to be deleted off the request's path; without it they are deleted at once.
    pub(crate) graves: std::sync::OnceLock<crossbeam::channel::Sender<VersionId>>,
}

/// Logs a store's failure where it happens, and answers with its number.
pub(crate) fn failed(error: StoreError) -> Errno {
    tracing::error!(%error, "store");
    error.errno()
}

impl Overlay {
    /// Opens the timeline that the mount in place shows. The first overlay of a store in a process.
    ///
    /// # Errors
    /// When the store cannot be read, or the base's root is gone.
    pub fn open(
        store: Arc<Store>,
        base: Arc<dyn Base>,
        journal: Arc<dyn Journal>,
        live_base: bool,
    ) -> Result<Overlay, StoreError> {
        let shown = history::shown(&*store.kv)?;
        Overlay::open_shown(store, base, journal, live_base, Shown::Timeline(shown))
    }

    /// Opens a timeline, or a point of the past. The first overlay of a store in a process; others are opened beside it
    /// ([`Overlay::open_beside`]).
    ///
    /// # Errors
    /// When the store cannot be read, or the base's root is gone.
    pub fn open_shown(
        store: Arc<Store>,
        base: Arc<dyn Base>,
        journal: Arc<dyn Journal>,
        live_base: bool,
        shown: Shown,
    ) -> Result<Overlay, StoreError> {
        // Later there may be files that are open and have no name: their bytes are in the trash as well.
        empty_trash(&store)?;
        Overlay::assemble(store, base, journal, live_base, shown, Arc::default())
    }

    fn assemble(
        store: Arc<Store>,
        base: Arc<dyn Base>,
        journal: Arc<dyn Journal>,
        live_base: bool,
        shown: Shown,
        copied: Arc<Mutex<FxHashSet<VersionId>>>,
    ) -> Result<Overlay, StoreError> {
        let (at, read_only) = match shown {
            Shown::Timeline(timeline) => (At { timeline, epoch: history::timeline(&*store.kv, timeline)?.head }, false),
            Shown::Past(at) => (at, true),
        };
        let lineage = Lineage::of(&*store.kv, at)?;
        if !read_only {
            keep_in_view(&store, &*base, &lineage)?;
        }
        let changed = recorded(&store, &lineage)?;
        let stat = base.root().map_err(|e| StoreError::io("read", "the base's root")(e.into()))?;
        let taken = numbers::taken(&store, stat.dev)?;
        let root_record = lineage.inode(&*store.kv, Ino::ROOT)?;
        let root = Arc::new(Inode::root(&stat, root_record));
        let inodes = tree::Table::default();
        inodes.insert(root.clone());
        let overlay = Overlay {
            store,
            base,
            journal,
            epoch: AtomicU64::new(at.epoch.0),
            lineage: RwLock::new(Arc::new(lineage)),
            read_only,
            inodes,
            changed: RwLock::new(changed),
            taken: RwLock::new(taken),
            namespace: Mutex::new(()),
            renames: AtomicU64::new(0),
            revivals: AtomicU64::new(0),
            root_dev: stat.dev,
            root,
            descriptors: descriptors::Descriptors::default(),
            live_base,
            copied,
            graves: std::sync::OnceLock::new(),
        };
        if !read_only {
            let gone = overlay
                .release()
                .map_err(|e| StoreError::io("read", "what was applied")(std::io::Error::from_raw_os_error(e.0)))?;
            if gone > 0 {
                tracing::info!(files = gone, "what was applied has left the overlay");
            }
        }
        Ok(overlay)
    }

    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// Which history is shown.
    pub fn lineage(&self) -> Arc<Lineage> {
        self.lineage.read().clone()
    }

    /// The timeline that is shown.
    pub fn timeline(&self) -> Timeline {
        self.lineage.read().at().timeline
    }

    /// What this overlay shows.
    pub fn shown(&self) -> Shown {
        let at = self.lineage.read().at();
        if self.read_only { Shown::Past(at) } else { Shown::Timeline(at.timeline) }
    }

    /// Whether the base may change behind the mount.
    pub fn has_live_base(&self) -> bool {
        self.live_base
    }

    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub fn base(&self) -> &Arc<dyn Base> {
        &self.base
    }

    pub fn root(&self) -> &Arc<Inode> {
        &self.root
    }

    /// From now on versions without a name are handed to the other end of this channel, for [`Overlay::delete_version`].
    pub fn bury_elsewhere(&self, graves: crossbeam::channel::Sender<VersionId>) {
        let _ = self.graves.set(graves);
    }

    /// Deletes a version that nothing refers to any more.
    ///
    /// # Errors
    /// When the store does not let it; it then stays in the trash for the next mount.
    pub fn delete_version(&self, id: VersionId) -> Result<(), StoreError> {
        delete_version(&self.store, id)
    }

    pub(crate) fn data(&self) -> &Data {
        &self.store.data
    }
}

/// The numbers of all inodes that have or had a record.
fn recorded(store: &Store, lineage: &Lineage) -> Result<FxHashSet<Ino>, StoreError> {
    let mut found = FxHashSet::default();
    lineage.numbers(&*store.kv, &mut |ino| {
        found.insert(ino);
    })?;
    Ok(found)
}

/// Lets changed files keep their place where the base has others now. See `adopt.rs`.
fn keep_in_view(store: &Store, base: &dyn Base, lineage: &Lineage) -> Result<(), StoreError> {
    for path in adopt::adopt(store, base, lineage, &recorded(store, lineage)?)? {
        tracing::error!(%path, "changed here, and the base has lost its directory: the change is in the store, but not in view");
    }
    Ok(())
}

/// Deletes the version files that lost their last name before the daemon stopped.
fn empty_trash(store: &Store) -> Result<(), StoreError> {
    let mut trash = Vec::new();
    let (from, to) = keys::all_trash();
    store.kv.scan(Table::Meta, &from, &to, &mut |key, _| {
        trash.extend(keys::last_number(key).map(VersionId));
        ControlFlow::Continue(())
    })?;
    for id in trash {
        if let Err(error) = delete_version(store, id) {
            // Only room is lost, and the next start tries again.
            tracing::warn!(%error, %id, "could not delete a version");
        }
    }
    Ok(())
}

/// Deletes a version's file and then everything the log has about it. Safe to repeat.
pub(crate) fn delete_version(store: &Store, id: VersionId) -> Result<(), StoreError> {
    store.data.remove(id)?;
    let mut batch = Batch::new();
    let (from, to) = keys::chunks(id);
    store.kv.scan(Table::Tree, &from, &to, &mut |key, _| {
        batch.delete(Table::Tree, key);
        ControlFlow::Continue(())
    })?;
    batch.delete(Table::Tree, &keys::version(id));
    batch.delete(Table::Tree, &keys::extents(id));
    batch.delete(Table::Meta, &keys::trash(id));
    store.kv.commit(&batch, Sync::No)
}
