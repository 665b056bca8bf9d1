//! After the base was changed while nothing was mounted: changed files keep their place.
//!
//! A changed base file has no entry of its own in the overlay: it is found through the base, by its inode number. When another file
//! has taken its path since (a `git checkout` does that), the path would show that one and hide the changes. So at every mount each such
//! inode is looked at, and one that the base no longer leads to gets an entry. Costs one stat per changed file.

use std::ops::ControlFlow;

use rustc_hash::{FxHashMap, FxHashSet};

use super::places::base_links;
use crate::base::Base;
use crate::store::codec::{self, Dentry, InodeRecord, Origin};
use crate::store::lineage::Lineage;
use crate::store::{Batch, Store, StoreError, Sync, Table, keys};
use crate::types::{Ino, Kind, Path};

/// Gives entries to changed inodes that the base does not lead to any more. Returns the paths that lost their directory too.
pub(crate) fn adopt(
    store: &Store,
    base: &dyn Base,
    lineage: &Lineage,
    changed: &FxHashSet<Ino>,
) -> Result<Vec<Path>, StoreError> {
    let mut lost: Vec<(Ino, InodeRecord, Origin)> = Vec::new();
    for &ino in changed {
        let Some(record) = lineage.inode(&*store.kv, ino)?.filter(|r| r.attr.nlink > 0) else { continue };
        let Some(origin) = record.origin.clone() else { continue };
        if !leads_to(base, &origin) {
            lost.push((ino, record, origin));
        }
    }
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    // Of a file with several names, the one that was known may be gone, and the base lead to it by another one.
    let several: FxHashSet<u64> = lost.iter().filter(|(_, r, _)| r.attr.nlink > 1).map(|(_, _, o)| o.ino).collect();
    if !several.is_empty() {
        let elsewhere = base_links(base, &|ino| several.contains(&ino), &|_| false).unwrap_or_default();
        lost.retain(|(_, record, origin)| {
            record.attr.kind == Kind::Dir || record.attr.nlink < 2 || !elsewhere.contains_key(&origin.ino)
        });
    }
    // Parents first: an entry in a directory that was itself replaced belongs to the directory that the log knows.
    lost.sort_by(|a, b| a.2.path.cmp(&b.2.path));
    let named = named(store, lineage)?;
    let dirs = lost.iter().filter(|(_, record, _)| record.attr.kind == Kind::Dir);
    let known: FxHashMap<Path, Ino> = dirs.map(|(ino, _, origin)| (origin.path.clone(), *ino)).collect();
    let mut homeless = Vec::new();
    let mut put = Put { store, base, lineage, batch: Batch::new() };
    for (ino, record, origin) in &lost {
        if named.contains(ino) {
            continue;
        }
        let Some((dir, name)) = origin.path.split_last() else { continue };
        let parent = match known.get(&dir) {
            Some(parent) => Some(*parent),
            None if dir == Path::root() => Some(Ino::ROOT),
            None => base.stat_path(&dir).ok().filter(|s| s.attr.kind == Kind::Dir).map(|s| s.attr.ino),
        };
        match parent {
            Some(parent) if lineage.dentry(&*store.kv, parent, name)?.is_none() => {
                put.entry(parent, name, Dentry::Entry { ino: *ino, kind: record.attr.kind }, &origin.path);
                put.directory(parent, &dir)?;
                tracing::warn!(path = %origin.path, "the base has another file here now; the changed one stays in view");
            }
            Some(_) => {}
            None => homeless.push(origin.path.clone()),
        }
    }
    store.kv.commit(&put.batch, Sync::Yes)?;
    Ok(homeless)
}

/// All inodes that an entry of the overlay leads to.
fn named(store: &Store, lineage: &Lineage) -> Result<FxHashSet<Ino>, StoreError> {
    let mut dirs: FxHashSet<Ino> = FxHashSet::default();
    for at in lineage.segments() {
        let (from, to) = keys::all_dentries(at.timeline);
        store.kv.scan(Table::Tree, &from, &to, &mut |key, _| {
            dirs.extend(keys::parse_dentry(key).map(|(dir, _, _)| dir));
            ControlFlow::Continue(())
        })?;
    }
    let mut named = FxHashSet::default();
    for dir in dirs {
        lineage.dentries(&*store.kv, dir, &mut |_, dentry| {
            if let Dentry::Entry { ino, .. } = dentry {
                named.insert(ino);
            }
        })?;
    }
    Ok(named)
}

struct Put<'a> {
    store: &'a Store,
    base: &'a dyn Base,
    lineage: &'a Lineage,
    batch: Batch,
}

impl Put<'_> {
    fn entry(&mut self, dir: Ino, name: &[u8], dentry: Dentry, path: &Path) {
        let at = self.lineage.at();
        let mut value = Vec::new();
        codec::put_dentry(&mut value, dentry);
        self.batch.put(Table::Tree, &keys::dentry(at.timeline, dir, name, at.epoch), &value);
        self.batch.put(Table::Tree, &keys::touched_name(at.timeline, at.epoch, dir, name), path.as_bytes());
    }

    /// A directory of the base that gets its first entry needs a record, or nobody looks for its entries.
    fn directory(&mut self, ino: Ino, path: &Path) -> Result<(), StoreError> {
        if self.lineage.inode(&*self.store.kv, ino)?.is_some_and(|r| r.attr.nlink > 0) {
            return Ok(());
        }
        let stat = self.base.stat_path(path).map_err(|e| StoreError::io("read", "the base")(e.into()))?;
        let mut attr = stat.attr;
        attr.ino = ino;
        let origin = Origin {
            path: path.clone(),
            dev: stat.dev,
            ino: stat.attr.ino.0,
            born: stat.born,
            print: super::tree::print(&stat.attr),
        };
        let content = codec::Content::None;
        let record = InodeRecord { attr, content, opaque: false, origin: Some(origin), target: None, xattrs: None };
        let at = self.lineage.at();
        let mut value = Vec::new();
        codec::put_inode(&mut value, &record);
        self.batch.put(Table::Tree, &keys::inode(at.timeline, ino, at.epoch), &value);
        self.batch.put(Table::Tree, &keys::touched_inode(at.timeline, at.epoch, ino), path.as_bytes());
        Ok(())
    }
}

/// Whether the base still has that very file at the path where it was found.
fn leads_to(base: &dyn Base, origin: &Origin) -> bool {
    base.stat_path(&origin.path)
        .is_ok_and(|stat| stat.attr.ino.0 == origin.ino && (origin.born.is_none() || origin.born == stat.born))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::base::DirBase;
    use crate::overlay::ops::io::Write;
    use crate::overlay::{Ctx, NoJournal, Overlay};
    use crate::store::format::{Format, Owner};
    use crate::store::mem::MemKv;
    use crate::store::{Data, Store};
    use crate::types::{ActorId, Epoch, HandleId, Known, Op, Time};

    fn open(repo: &std::path::Path, dir: &std::path::Path, kv: &Arc<MemKv>) -> Overlay {
        let owner = Owner { repo: repo.to_owned(), root_ino: 1, root_born: None };
        let format = Format::create_or_load(dir, &owner).unwrap();
        let store = Store::from_parts(dir, kv.clone(), Data::open(&dir.join("data")).unwrap(), format).unwrap();
        let store = Arc::new(store);
        let base = Arc::new(DirBase::open(repo).unwrap());
        Overlay::open(store.clone(), base, Arc::new(NoJournal(store)), false).unwrap()
    }

    /// A file changed in the mount, replaced in the base by rename while nothing is mounted, as `git checkout` does it.
    #[test]
    fn regression_changes_stay_in_view_when_the_base_replaces_the_file() {
        let scratch = tempfile::tempdir().unwrap();
        let (repo, dir) = (scratch.path().join("repo"), scratch.path().join("store"));
        std::fs::create_dir_all(repo.join("a/b")).unwrap();
        std::fs::create_dir_all(&dir).unwrap();
        for name in ["top", "a/b/deep"] {
            std::fs::write(repo.join(name), b"old").unwrap();
        }
        let kv = Arc::new(MemKv::new());
        let ctx = Ctx { actor: ActorId(1), uid: 0, gid: 0, now: Time::new(9, 9), epoch: Epoch(1), shared: false };
        let find = |overlay: &Overlay, path: &str| {
            path.split('/').fold(overlay.root().clone(), |dir, name| overlay.lookup(&dir, name.as_bytes()).unwrap())
        };
        let read = |overlay: &Overlay, path: &str| {
            let mut out = [0; 16];
            let n = overlay.read(&find(overlay, path), 0, &mut out).unwrap().len;
            out[..n].to_vec()
        };
        {
            let overlay = open(&repo, &dir, &kv);
            for path in ["top", "a/b/deep"] {
                let write = Write {
                    offset: 0,
                    data: b"new",
                    append: false,
                    kill_ids: false,
                    handle: HandleId(0),
                    op: Op::Write,
                    known: Known::Observed,
                };
                overlay.write(&ctx, &find(&overlay, path), &write).unwrap();
            }
        }
        for name in ["top", "a/b/deep"] {
            std::fs::write(repo.join("temp"), b"other").unwrap();
            std::fs::rename(repo.join("temp"), repo.join(name)).unwrap();
        }
        for _ in 0..2 {
            let overlay = open(&repo, &dir, &kv);
            assert_eq!(read(&overlay, "top"), b"new");
            assert_eq!(read(&overlay, "a/b/deep"), b"new");
        }
    }
}
