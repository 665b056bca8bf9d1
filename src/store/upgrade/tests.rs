//! Stores of format 1, opened.

use std::fs;
use std::sync::Arc;

use super::*;
use crate::base::{Base, DirBase};
use crate::overlay::view::View;
use crate::overlay::{NoJournal, Overlay};
use crate::store::check::check;
use crate::store::codec::{Content, InodeRecord, Origin, Parent, Print, VersionRecord};
use crate::store::format::{FORMAT_FILE, Owner};
use crate::store::rocks::Rocks;
use crate::store::{Counter, Store, StoreError, mem::MemKv};
use crate::types::{ActorId, Attr, Note, Op, VersionId};

const MAIN: Timeline = Timeline::MAIN;
const NEW: Ino = Ino(Ino::BORN | 1);
const SUB: Ino = Ino(Ino::BORN | 2);
const LEAF: Ino = Ino(Ino::BORN | 3);

/// A repository, and what a daemon of format 1 left over it:
///
/// `dir` was renamed to `moved`; in it `deep/file` got new bytes, `deep/new` and the directory `deep/sub` with `leaf` were made; `top` was made
/// executable, `gone` deleted.
struct Old {
    dir: tempfile::TempDir,
}

fn changed(base: &DirBase, path: &str, change: impl FnOnce(&mut InodeRecord)) -> (Ino, InodeRecord) {
    let path = Path::new(path.as_bytes());
    let stat = if path == Path::root() { base.root() } else { base.stat_path(&path) }.unwrap();
    let attr = stat.attr;
    let print = Print { size: attr.size, mtime: attr.mtime, ctime: attr.ctime };
    let ino = if path == Path::root() { Ino::ROOT } else { attr.ino };
    let origin = Origin { path, dev: stat.dev, ino: attr.ino.0, born: stat.born, print };
    let content = if attr.kind == Kind::File { Content::Base } else { Content::None };
    let mut record = InodeRecord { attr, content, opaque: false, origin: Some(origin), target: None, xattrs: None };
    record.attr.ino = ino;
    change(&mut record);
    (ino, record)
}

fn born(ino: Ino, kind: Kind, nlink: u32) -> (Ino, InodeRecord) {
    let time = Time::new(1_700_000_000, 5);
    let attr = Attr {
        ino,
        kind,
        perm: 0o755,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
    };
    (
        ino,
        InodeRecord {
            attr,
            content: Content::None,
            opaque: false,
            origin: None,
            target: None,
            xattrs: Some(Vec::new()),
        },
    )
}

impl Old {
    fn new() -> Old {
        let old = Old { dir: tempfile::tempdir().unwrap() };
        let repo = old.dir.path().join("repo");
        fs::create_dir_all(repo.join("dir/deep")).unwrap();
        for name in ["top", "gone", "dir/deep/file", "dir/deep/kept"] {
            fs::write(repo.join(name), b"old bytes").unwrap();
        }
        old
    }

    fn base(&self) -> DirBase {
        DirBase::open(&self.dir.path().join("repo")).unwrap()
    }

    fn store(&self) -> std::path::PathBuf {
        self.dir.path().join("store")
    }

    fn owner(&self) -> Owner {
        let root = self.base().root().unwrap();
        Owner { repo: self.dir.path().join("repo"), root_ino: root.attr.ino.0, root_born: root.born }
    }

    /// The keys and values as format 1 had them.
    fn batch(&self) -> Batch {
        let base = self.base();
        let mut batch = Batch::new();
        let deep = changed(&base, "dir/deep", |_| ());
        let moved = changed(&base, "dir", |_| ());
        let file = changed(&base, "dir/deep/file", |r| {
            r.attr.size = 9;
            r.content = Content::Version { id: VersionId(1), stamp: 1 };
        });
        let top = changed(&base, "top", |r| r.attr.perm = 0o755);
        let root = changed(&base, "", |_| ());
        let (deep_ino, dir_ino) = (deep.0, moved.0);
        let inodes = [
            root,
            moved,
            deep,
            file,
            top,
            born(NEW, Kind::File, 1),
            born(SUB, Kind::Dir, 2),
            born(LEAF, Kind::File, 1),
        ];
        for (ino, record) in inodes {
            let mut value = Vec::new();
            codec::put_inode(&mut value, &record);
            batch.put(Table::Tree, &keys::inode(MAIN, ino, FIRST), &value);
            if record.origin.is_some() && ino != Ino::ROOT {
                batch.put(Table::Tree, &old_origin(ino), b"");
            }
        }
        let entry = |ino, kind| Dentry::Entry { ino, kind };
        let names: [(Ino, &[u8], Dentry); 6] = [
            (Ino::ROOT, b"dir", Dentry::Whiteout { hid: Ino(0) }),
            (Ino::ROOT, b"gone", Dentry::Whiteout { hid: Ino(0) }),
            (Ino::ROOT, b"moved", entry(dir_ino, Kind::Dir)),
            (deep_ino, b"new", entry(NEW, Kind::File)),
            (deep_ino, b"sub", entry(SUB, Kind::Dir)),
            (SUB, b"leaf", entry(LEAF, Kind::File)),
        ];
        for (dir, name, dentry) in names {
            let mut value = Vec::new();
            codec::put_dentry(&mut value, dentry);
            batch.put(Table::Tree, &keys::dentry(MAIN, dir, name, FIRST), &value);
        }
        let mut value = Vec::new();
        let version = VersionRecord {
            ino: self.ino("dir/deep/file"),
            epoch: FIRST,
            parent: Parent::Base,
            limit: 9,
            by: ActorId(1),
        };
        codec::put_version(&mut value, &version);
        batch.put(Table::Tree, &keys::version(VersionId(1)), &value);
        batch.put(Table::Tree, &keys::chunk(VersionId(1), 0), &1u64.to_le_bytes());
        for which in [Counter::Ino, Counter::Version] {
            batch.put(Table::Meta, &keys::counter(which as u8), &1025u64.to_le_bytes());
        }
        batch
    }

    fn ino(&self, path: &str) -> Ino {
        self.base().stat_path(&Path::new(path.as_bytes())).unwrap().attr.ino
    }

    /// Puts the store of format 1 on disk.
    fn on_disk(self) -> Old {
        let dir = self.store();
        fs::create_dir_all(dir.join("data")).unwrap();
        let format = Format::create_or_load(&dir, &self.owner()).unwrap();
        Format { format: 1, ..format.clone() }.save(&dir).unwrap();
        let kv = Rocks::open(&dir.join("log")).unwrap();
        let mut batch = self.batch();
        let mut event = Vec::new();
        let note = Note::new(Op::Mount, Ino::ROOT, Path::root());
        codec::put_event(&mut event, Time::new(77, 1), FIRST, ActorId(0), &note);
        let hash = crate::record::chain::next(&crate::record::chain::start(&format.id), Seq(1), &event);
        batch.put(Table::Events, &keys::event(Seq(1)), &[&hash[..], &event].concat());
        kv.commit(&batch, Sync::Yes).unwrap();
        crate::store::Data::open(&dir.join("data")).unwrap().write(VersionId(1), 0, b"new bytes").unwrap();
        self
    }

    fn number_in_file(&self) -> u64 {
        let text = fs::read_to_string(self.store().join(FORMAT_FILE)).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["format"].as_u64().unwrap()
    }

    /// The store is whole, shows what it showed, and says where that is.
    fn is_right(&self, store: Store) {
        let report = check(&store, true).unwrap();
        assert_eq!((report.problems, report.notes), (Vec::new(), Vec::new()));
        assert_eq!(history::timelines(&*store.kv).unwrap().len(), 1);
        assert_eq!(history::timeline(&*store.kv, MAIN).unwrap().created, Time::new(77, 1));
        let store = Arc::new(store);
        let overlay =
            Overlay::open(store.clone(), Arc::new(self.base()), Arc::new(NoJournal(store.clone())), false).unwrap();
        let view = View::now(&overlay);
        let read = |path: &str| {
            let node = view.find(&Path::new(path.as_bytes())).unwrap()?;
            let mut out = vec![0; node.size as usize];
            view.open(&node).unwrap().read_at(0, &mut out).unwrap();
            Some(String::from_utf8(out).unwrap())
        };
        assert_eq!(read("moved/deep/file").as_deref(), Some("new bytes"));
        assert_eq!(read("moved/deep/kept").as_deref(), Some("old bytes"));
        assert_eq!(read("moved/deep/sub/leaf").as_deref(), Some(""));
        assert_eq!((read("gone"), read("dir/deep/kept")), (None, None));
        let changes = crate::diff::changes(&View::base(&overlay), &view, &[], true).unwrap();
        let lines: Vec<_> = changes
            .iter()
            .map(|c| match &c.old_path {
                Some(old) => format!("{old} -> {}", c.path),
                None => format!("{} {}", c.status().letter(), c.path),
            })
            .collect();
        let expected = [
            "D gone",
            "dir/deep/file -> moved/deep/file",
            "dir/deep/kept -> moved/deep/kept",
            "A moved/deep/new",
            "A moved/deep/sub/leaf",
            "M top",
        ];
        assert_eq!(lines, expected);
    }
}

fn old_origin(ino: Ino) -> Vec<u8> {
    [&b"o"[..], &MAIN.0.to_be_bytes(), &ino.0.to_be_bytes()].concat()
}

fn paths(kv: &dyn Kv, (from, to): (keys::Key, keys::Key)) -> Vec<String> {
    let mut paths = Vec::new();
    kv.scan(Table::Tree, &from, &to, &mut |_, value| {
        paths.push(String::from_utf8(value.to_vec()).unwrap());
        ControlFlow::Continue(())
    })
    .unwrap();
    paths.sort();
    paths
}

#[test]
fn a_store_of_format_1_is_upgraded_once() {
    let old = Old::new().on_disk();
    let store = Store::open(&old.store()).unwrap();
    assert_eq!((old.number_in_file(), store.format.format), (2, 2));
    let inodes = paths(&*store.kv, keys::touched_inodes(MAIN, Epoch::BASE, FIRST));
    let expected = [
        "",
        "moved",
        "moved/deep",
        "moved/deep/file",
        "moved/deep/new",
        "moved/deep/sub",
        "moved/deep/sub/leaf",
        "top",
    ];
    assert_eq!(inodes, expected);
    let names = paths(&*store.kv, keys::touched_names(MAIN, Epoch::BASE, FIRST));
    assert_eq!(names, ["dir", "gone", "moved", "moved/deep/new", "moved/deep/sub", "moved/deep/sub/leaf"]);
    assert_eq!(paths(&*store.kv, keys::old_origins()), [""; 0]);
    old.is_right(store);
    old.is_right(Store::create_or_open(&old.store(), &old.owner()).unwrap());
}

#[test]
fn an_upgrade_that_ends_before_it_is_noted_is_done_again() {
    let old = Old::new().on_disk();
    // Whatever is in the way of the last step.
    fs::create_dir(old.store().join("format.new")).unwrap();
    assert!(matches!(Store::open(&old.store()), Err(StoreError::Io { .. })));
    assert_eq!(old.number_in_file(), 1);
    let kv = Rocks::open(&old.store().join("log")).unwrap();
    assert_eq!(paths(&kv, keys::old_origins()), [""; 0], "the log was written before");
    drop(kv);
    fs::remove_dir(old.store().join("format.new")).unwrap();
    old.is_right(Store::open(&old.store()).unwrap());
    assert_eq!(old.number_in_file(), 2);
}

/// A log that ends after so many commits.
struct Ends(MemKv, std::sync::atomic::AtomicUsize);

impl Kv for Ends {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.0.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: crate::store::Visit<'_>) -> Result<()> {
        self.0.scan(table, from, to, visit)
    }

    fn scan_back(&self, table: Table, from: &[u8], to: &[u8], visit: crate::store::Visit<'_>) -> Result<()> {
        self.0.scan_back(table, from, to, visit)
    }

    fn commit(&self, batch: &Batch, sync: Sync) -> Result<()> {
        use std::sync::atomic::Ordering;
        if self.1.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_err() {
            return Err(StoreError::Broken("the end".into()));
        }
        self.0.commit(batch, sync)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

/// Many names, so that several batches are needed; each of them may be the last.
#[test]
fn an_upgrade_may_end_after_any_batch() {
    let all = |kv: &dyn Kv| {
        let mut lines = Vec::new();
        for table in [Table::Meta, Table::Tree] {
            kv.scan(table, b"", &[0xff; 8], &mut |key, value| {
                lines.push((table, key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })
            .unwrap();
        }
        lines
    };
    let old = Old::new();
    let fill = || {
        let kv = MemKv::new();
        let mut batch = old.batch();
        for n in 0..2 * BATCH {
            let mut value = Vec::new();
            codec::put_dentry(&mut value, Dentry::Whiteout { hid: Ino(0) });
            batch.put(Table::Tree, &keys::dentry(MAIN, Ino::ROOT, format!("{n}").as_bytes(), FIRST), &value);
        }
        kv.commit(&batch, Sync::No).unwrap();
        kv
    };
    let format = Format { format: 1, ..Format::create_or_load(old.dir.path(), &old.owner()).unwrap() };
    let right = fill();
    upgrade(old.dir.path(), &right, format.clone()).unwrap();
    let mut ends = 0;
    loop {
        format.save(old.dir.path()).unwrap();
        let kv = Ends(fill(), ends.into());
        let done = upgrade(old.dir.path(), &kv, format.clone()).is_ok();
        if done {
            break;
        }
        assert_eq!(Format::load(old.dir.path()).unwrap().format, 1);
        upgrade(old.dir.path(), &kv.0, format.clone()).unwrap();
        assert!(all(&kv.0) == all(&right), "after {ends} batches");
        ends += 1;
    }
    assert!(ends >= 3, "{ends}");
}
