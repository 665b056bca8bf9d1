//! The inodes in memory, and how one comes there: from the log, or from the base.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::extents::{Extents, Source};
use super::inode::{Bytes, Dir, Place, State, Version};
use super::{Inode, Overlay, Result, failed};
use crate::base::BaseStat;
use crate::store::codec::{self, Content, InodeRecord, Origin, Parent, Print, VersionRecord};
use crate::store::{Store, StoreError, Table as Tab, keys};
use crate::types::{Attr, Epoch, Errno, Ino, Kind, Path, VersionId};

const SHARDS: usize = 16;

/// All inodes that the kernel knows or that are in use. Shards are leaves in the lock order.
#[derive(Default)]
pub(crate) struct Table {
    shards: [Mutex<FxHashMap<Ino, Arc<Inode>>>; SHARDS],
}

impl Table {
    fn shard(&self, ino: Ino) -> &Mutex<FxHashMap<Ino, Arc<Inode>>> {
        // Base numbers come in runs; fold the higher bits in.
        &self.shards[((ino.0 ^ ino.0 >> 4) % SHARDS as u64) as usize]
    }

    pub fn get(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.shard(ino).lock().get(&ino).cloned()
    }

    pub fn insert(&self, inode: Arc<Inode>) {
        self.shard(inode.ino).lock().insert(inode.ino, inode);
    }

    /// Inserts unless another thread was faster; returns the one that is in the table.
    pub fn insert_or_get(&self, inode: Arc<Inode>) -> Arc<Inode> {
        self.shard(inode.ino).lock().entry(inode.ino).or_insert(inode).clone()
    }

    /// Counts a look-up by the kernel, under the lock that [`Table::forget`] takes.
    pub fn remember(&self, inode: &Arc<Inode>) {
        // The one in the table counts, should the kernel have forgotten `inode` and looked it up anew meanwhile.
        let mut shard = self.shard(inode.ino).lock();
        shard.entry(inode.ino).or_insert_with(|| inode.clone()).lookups.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes back `count` look-ups; drops the inode when none is left and nothing has it open.
    pub fn forget(&self, ino: Ino, count: u64) -> Option<Arc<Inode>> {
        let mut shard = self.shard(ino).lock();
        let inode = shard.get(&ino)?.clone();
        if count > 0 {
            let _ = inode.lookups.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| Some(n.saturating_sub(count)));
        }
        if inode.lookups.load(Ordering::Acquire) == 0 && inode.opens.load(Ordering::Acquire) == 0 {
            shard.remove(&ino);
            return Some(inode);
        }
        None
    }

    /// All that are in memory at some moment.
    pub fn all(&self) -> Vec<Arc<Inode>> {
        self.shards.iter().flat_map(|s| s.lock().values().cloned().collect::<Vec<_>>()).collect()
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().len()).sum()
    }
}

fn version_record(store: &Store, id: VersionId) -> Result<VersionRecord, StoreError> {
    let bytes = store.kv.get(Tab::Tree, &keys::version(id))?;
    codec::get_version(&bytes.ok_or_else(|| StoreError::corrupt(format!("version {id} is missing")))?)
}

/// A version with everything it builds on.
pub(crate) fn load_version(store: &Store, id: VersionId, stamp: u64) -> Result<Version, StoreError> {
    let mut record = version_record(store, id)?;
    loop {
        let loaded = load_below(store, id, stamp, record);
        if !matches!(record.parent, Parent::Version(_)) {
            return loaded;
        }
        // A collection gives a version a map before it touches what lay below. So what was read there counts, failures included, only if
        // the version still says that it lies over it.
        let now = version_record(store, id)?;
        if now == record {
            return loaded;
        }
        record = now;
    }
}

fn load_below(store: &Store, id: VersionId, stamp: u64, record: VersionRecord) -> Result<Version, StoreError> {
    let mut own = super::chunks::Chunks::default();
    let (from, to) = keys::chunks(id);
    store.kv.scan(Tab::Tree, &from, &to, &mut |key, value| {
        if let (Some(first), Ok(count)) = (keys::last_number(key), <[u8; 8]>::try_from(value)) {
            own.insert(first, u64::from_le_bytes(count));
        }
        ControlFlow::Continue(())
    })?;
    let (below, depth) = match record.parent {
        Parent::None => (Extents::default(), 0),
        Parent::Base => (Extents::one(0, record.limit, Source::Base), 0),
        Parent::Map => {
            let bytes = store
                .kv
                .get(Tab::Tree, &keys::extents(id))?
                .ok_or_else(|| StoreError::corrupt(format!("the extents of version {id} are missing")))?;
            (Extents::decode(&bytes)?, 0)
        }
        // A version is always younger than the one below it: this ends, whatever the disk holds.
        Parent::Version(parent) if parent < id => {
            let parent = load_version(store, parent, 0)?;
            (parent.flatten(record.limit), parent.depth + 1)
        }
        Parent::Version(_) => return Err(StoreError::corrupt(format!("version {id} lies under itself"))),
    };
    Ok(Version { id, record, own, stamp, below: Arc::new(below), depth, ragged: true, trashed: false })
}

impl Overlay {
    /// The inode with this number, if it is in memory: that is, if the kernel may ask about it.
    pub fn inode(&self, ino: Ino) -> Option<Arc<Inode>> {
        if ino == Ino::ROOT { Some(self.root.clone()) } else { self.inodes.get(ino) }
    }

    /// How often a directory was gone and came back since the kernel knows it: see [`Inode::generation`].
    pub fn generation(&self, ino: Ino) -> u64 {
        if self.revivals.load(Ordering::Acquire) == 0 {
            return 0;
        }
        self.inode(ino).map_or(0, |inode| inode.generation())
    }

    /// Inodes in memory.
    pub fn inodes_in_memory(&self) -> usize {
        self.inodes.len()
    }

    /// The versions from which bytes of inodes in memory come, those without a name included. What is collected must not be among them.
    pub fn versions_in_memory(&self) -> Vec<VersionId> {
        let mut found = Vec::new();
        for inode in self.inodes.all() {
            if let Bytes::Version(version) = &inode.state.read().content {
                found.push(version.id);
                // Neither does the limit grow, nor do own chunks become fewer: what is covered now is never read again.
                found.extend(version.flatten(version.record.limit).iter().filter_map(|e| match e.source {
                    Source::Version(id) => Some(id),
                    Source::Base => None,
                }));
            }
        }
        found
    }

    /// The inode for a base file that was just looked up at `path`, `name` in `parent`.
    pub(crate) fn of_base(&self, stat: &BaseStat, parent: &Inode, name: &[u8], base_path: Path) -> Result<Arc<Inode>> {
        let ino = self.number(stat)?;
        let known = self.changed.read().contains(&ino);
        if known && self.inode(ino).is_none() && self.record(ino)?.is_some_and(|r| r.attr.nlink > 0) {
            return self.load(ino, parent, name);
        }
        let mut attr = stat.attr;
        attr.ino = ino;
        if let Some(inode) = self.inodes.get(ino) {
            // Seen before: another name of a hard link, or another look-up. What the base says now counts.
            let mut state = inode.state.write();
            if !state.recorded && inode.kind == attr.kind {
                state.attr = attr;
                if let Some(origin) = &mut state.origin {
                    origin.path = base_path;
                    origin.born = stat.born;
                    origin.print = print(&stat.attr);
                }
                drop(state);
                self.place(&inode, parent, name);
                return Ok(inode);
            }
            if state.recorded {
                drop(state);
                self.place(&inode, parent, name);
                return Ok(inode);
            }
            // The base was replaced behind the mount and reuses the number for another type of file.
            drop(state);
            return Err(Errno::ESTALE);
        }
        let origin =
            Origin { path: base_path, dev: stat.dev, ino: stat.attr.ino.0, born: stat.born, print: print(&stat.attr) };
        let state = State {
            attr,
            content: if attr.kind == Kind::File { Bytes::Base } else { Bytes::None },
            origin: Some(Box::new(origin)),
            recorded: false,
            touched: Epoch::BASE,
            opaque: false,
            place: self.new_place(parent, name),
            dir: (attr.kind == Kind::Dir).then(|| Box::new(Dir { loaded: !known, ..Dir::default() })),
            target: None,
            xattrs: None,
        };
        Ok(self.inodes.insert_or_get(Arc::new(Inode::new(ino, attr.kind, state))))
    }

    /// The inode `ino`, from memory or from its record in the log.
    pub(crate) fn load(&self, ino: Ino, parent: &Inode, name: &[u8]) -> Result<Arc<Inode>> {
        if let Some(inode) = self.inode(ino) {
            self.place(&inode, parent, name);
            return Ok(inode);
        }
        let state = match self.record(ino)? {
            Some(record) => {
                let content = match record.content {
                    Content::None => Bytes::None,
                    Content::Base => Bytes::Base,
                    Content::Version { id, stamp } => {
                        Bytes::Version(Box::new(load_version(&self.store, id, stamp).map_err(failed)?))
                    }
                };
                State {
                    attr: record.attr,
                    content,
                    origin: record.origin.map(Box::new),
                    recorded: true,
                    touched: Epoch::BASE,
                    opaque: record.opaque,
                    place: self.new_place(parent, name),
                    dir: (record.attr.kind == Kind::Dir).then(Box::default),
                    target: record.target,
                    xattrs: record.xattrs.map(Box::new),
                }
            }
            None => {
                tracing::error!(%ino, "a directory entry points to an inode that the log does not have");
                return Err(Errno::EIO);
            }
        };
        let inode = Arc::new(Inode::new(ino, state.attr.kind, state));
        Ok(self.inodes.insert_or_get(inode))
    }

    /// The record that an inode has in the history that is shown. One without a name has nlink 0.
    pub(crate) fn record(&self, ino: Ino) -> Result<Option<InodeRecord>> {
        self.lineage().inode(&*self.store.kv, ino).map_err(failed)
    }

    pub(crate) fn new_place(&self, parent: &Inode, name: &[u8]) -> Place {
        // The count is read first: a rename in between makes the path stale, never wrong for good.
        let as_of = self.renames.load(Ordering::Acquire);
        Place { parent: parent.ino, name: name.into(), path: self.path(parent).join(name), as_of, lost: false }
    }

    /// Notes where an inode was seen.
    fn place(&self, inode: &Inode, parent: &Inode, name: &[u8]) {
        if inode.ino == Ino::ROOT {
            return;
        }
        let now = self.renames.load(Ordering::Acquire);
        let same = |p: &Place| p.parent == parent.ino && *p.name == *name && p.as_of == now && !p.lost;
        if same(&inode.state.read().place) {
            return;
        }
        let place = self.new_place(parent, name);
        inode.state.write().place = place;
    }

    /// The kernel will hear of this inode: it must be kept until it is forgotten.
    pub fn remember(&self, inode: &Arc<Inode>) {
        if inode.ino != Ino::ROOT {
            self.inodes.remember(inode);
        }
    }

    /// The kernel dropped `count` references.
    pub fn forget(&self, ino: Ino, count: u64) {
        if ino == Ino::ROOT {
            return;
        }
        if let Some(inode) = self.inodes.forget(ino, count) {
            self.bury(&inode);
        }
    }
}

pub(crate) fn print(attr: &Attr) -> Print {
    Print { size: attr.size, mtime: attr.mtime, ctime: attr.ctime }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::base::DirBase;
    use crate::overlay::ops::rename::{Rename, Spot};
    use crate::overlay::ops::setattr::SetAttr;
    use crate::overlay::{Ctx, NoJournal, Overlay};
    use crate::store::format::{Format, Owner};
    use crate::store::mem::MemKv;
    use crate::store::{Data, Store};
    use crate::types::{ActorId, Epoch, Errno, Time};

    /// The number of what a whiteout hides was asked for under the lock of that very inode.
    #[test]
    fn regression_changed_base_files_can_be_removed_moved_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("repo");
        std::fs::create_dir(&repo).unwrap();
        for name in ["removed", "moved", "replaced"] {
            std::fs::write(repo.join(name), b"old").unwrap();
        }
        let owner = Owner { repo: repo.clone(), root_ino: 1, root_born: None };
        let format = Format::create_or_load(dir.path(), &owner).unwrap();
        let data = Data::open(&dir.path().join("data")).unwrap();
        let store = Arc::new(Store::from_parts(dir.path(), Arc::new(MemKv::new()), data, format).unwrap());
        let base = Arc::new(DirBase::open(&repo).unwrap());
        let overlay = Overlay::open(store.clone(), base, Arc::new(NoJournal(store)), false).unwrap();
        let ctx = Ctx { actor: ActorId(1), uid: 0, gid: 0, now: Time::new(9, 9), epoch: Epoch(1), shared: false };
        let root = overlay.root().clone();
        for name in ["removed", "moved", "replaced"] {
            let inode = overlay.lookup(&root, name.as_bytes()).unwrap();
            overlay.remember(&inode);
            overlay.setattr(&ctx, &inode, &SetAttr { perm: Some(0o600), ..SetAttr::default() }).unwrap();
        }
        overlay.unlink(&ctx, &root, b"removed").unwrap();
        let (from, to) = (Spot { dir: &root, name: b"moved" }, Spot { dir: &root, name: b"replaced" });
        overlay.rename(&ctx, from, to, Rename::Replace).unwrap();
        assert_eq!(overlay.lookup(&root, b"removed").err(), Some(Errno::ENOENT));
        assert_eq!(overlay.lookup(&root, b"moved").err(), Some(Errno::ENOENT));
        assert_eq!(overlay.lookup(&root, b"replaced").unwrap().attr().perm, 0o600);
    }
}
