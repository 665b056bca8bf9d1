//! After the base was changed while nothing was mounted: changed files keep their place.
//!
//! A changed base file has no entry of its own in the overlay: it is found through the base, by its inode number. When another file
//! has taken its path since (a `git checkout` does that), the path would show that one and hide the changes. So at every mount each such
//! inode is looked at, and one that the base no longer leads to gets an entry. Costs one stat per changed file.

use std::ops::ControlFlow;

use rustc_hash::FxHashMap;

use super::tree::load_record;
use crate::base::Base;
use crate::store::codec::{self, Dentry, InodeRecord, Origin};
use crate::store::{Batch, Store, StoreError, Sync, Table, keys};
use crate::types::{Epoch, Ino, Path, Timeline};

/// Gives entries to changed inodes that the base does not lead to any more. Returns the paths that lost their directory too.
pub(crate) fn adopt(
    store: &Store,
    base: &dyn Base,
    timeline: Timeline,
    epoch: Epoch,
    changed: &[Ino],
) -> Result<Vec<Path>, StoreError> {
    let mut lost: Vec<(Ino, InodeRecord, Origin)> = Vec::new();
    for &ino in changed {
        let Some(record) = load_record(store, timeline, ino)? else { continue };
        let Some(origin) = record.origin.clone() else { continue };
        if !leads_to(base, &origin) {
            lost.push((ino, record, origin));
        }
    }
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    // Parents first: an entry in a directory that was itself replaced belongs to the directory that the log knows.
    lost.sort_by(|a, b| a.2.path.cmp(&b.2.path));
    let mut entries: FxHashMap<(Ino, Vec<u8>), Dentry> = FxHashMap::default();
    let mut named: FxHashMap<Ino, ()> = FxHashMap::default();
    let (from, to) = keys::all_dentries(timeline);
    store.kv.scan(Table::Tree, &from, &to, &mut |key, value| {
        if let (Some((dir, name, _)), Ok(dentry)) = (keys::parse_dentry(key), codec::get_dentry(value)) {
            entries.entry((dir, name.to_vec())).or_insert(dentry);
            if let Dentry::Entry { ino, .. } = dentry {
                named.insert(ino, ());
            }
        }
        ControlFlow::Continue(())
    })?;
    let known: FxHashMap<Path, Ino> = lost.iter().map(|(ino, _, origin)| (origin.path.clone(), *ino)).collect();
    let mut homeless = Vec::new();
    let mut batch = Batch::new();
    for (ino, record, origin) in &lost {
        if named.contains_key(ino) {
            continue;
        }
        let Some((dir, name)) = origin.path.split_last() else { continue };
        let parent = match known.get(&dir) {
            Some(parent) => Some(*parent),
            None if dir == Path::root() => Some(Ino::ROOT),
            None => base.stat_path(&dir).ok().map(|s| s.attr.ino),
        };
        match parent {
            Some(parent) if !entries.contains_key(&(parent, name.to_vec())) => {
                let mut value = Vec::new();
                codec::put_dentry(&mut value, Dentry::Entry { ino: *ino, kind: record.attr.kind });
                batch.put(Table::Tree, &keys::dentry(timeline, parent, name, epoch), &value);
                if parent != Ino::ROOT && load_record(store, timeline, parent)?.is_none() {
                    record_directory(store, base, &mut batch, (timeline, epoch), parent, &dir)?;
                }
                tracing::warn!(path = %origin.path, "the base has another file here now; the changed one stays in view");
            }
            Some(_) => {}
            None => homeless.push(origin.path.clone()),
        }
    }
    // The root's own entries are only looked for when it has a record.
    if load_record(store, timeline, Ino::ROOT)?.is_none() {
        record_directory(store, base, &mut batch, (timeline, epoch), Ino::ROOT, &Path::root())?;
    }
    store.kv.commit(&batch, Sync::Yes)?;
    Ok(homeless)
}

/// Whether the base still has that very file at the path where it was found.
fn leads_to(base: &dyn Base, origin: &Origin) -> bool {
    base.stat_path(&origin.path)
        .is_ok_and(|stat| stat.attr.ino.0 == origin.ino && (origin.born.is_none() || origin.born == stat.born))
}

/// A directory of the base that gets its first entry needs a record, or nobody looks for its entries.
fn record_directory(
    store: &Store,
    base: &dyn Base,
    batch: &mut Batch,
    (timeline, epoch): (Timeline, Epoch),
    ino: Ino,
    path: &Path,
) -> Result<(), StoreError> {
    let _ = store;
    let stat = base.stat_path(path).map_err(|e| StoreError::io("read", "the base")(e.into()))?;
    let mut attr = stat.attr;
    attr.ino = ino;
    let origin = Origin {
        path: path.clone(),
        dev: stat.dev,
        ino: stat.attr.ino.0,
        born: stat.born,
        print: super::tree::print(&stat.attr),
    };
    let record = InodeRecord {
        attr,
        content: codec::Content::None,
        opaque: false,
        origin: Some(origin),
        target: None,
        xattrs: None,
    };
    let mut value = Vec::new();
    codec::put_inode(&mut value, &record);
    batch.put(Table::Tree, &keys::inode(timeline, ino, epoch), &value);
    if ino != Ino::ROOT {
        batch.put(Table::Tree, &keys::origin(timeline, ino), &[]);
    }
    Ok(())
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
        let ctx = Ctx { actor: ActorId(1), uid: 0, gid: 0, now: Time::new(9, 9), epoch: Epoch(1) };
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
