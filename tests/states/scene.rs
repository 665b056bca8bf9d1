//! A repository with an overlay and its timelines, without a mount: small edits by path, snapshots, and what the tree is then.
//!
//! After everything that changes many files at once, [`Scene::verify`] holds the tree against the rules that every file system keeps, the store against
//! fsck, and both against what another start shows.

#![allow(dead_code)] // each test binary uses its own part

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use regentfs::base::DirBase;
use regentfs::overlay::ops::create::New;
use regentfs::overlay::ops::io::Write;
use regentfs::overlay::ops::rename::{Rename, Spot};
use regentfs::overlay::ops::setattr::{SetAttr, SetTime};
use regentfs::overlay::ops::xattr::SetXattr;
use regentfs::overlay::seal::Reason;
use regentfs::overlay::view::View;
use regentfs::overlay::{Ctx, Inode, Overlay, Shown};
use regentfs::record::Record;
use regentfs::store::fault::FaultKv;
use regentfs::store::format::{Format, Owner};
use regentfs::store::history::{OpKind, Why};
use regentfs::store::lineage::Lineage;
use regentfs::store::mem::MemKv;
use regentfs::store::{Data, Kv, Store, check};
use regentfs::timeline::machine::{Moved, Result as Done};
use regentfs::timeline::{Gate, Machine, Showing};
use regentfs::types::{ActorId, At, Errno, HandleId, Ino, Kind, Known, Op, Path, Time, Timeline};

/// One file of a tree.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    pub kind: Kind,
    pub perm: u16,
    /// Bytes, or the target of a link.
    pub bytes: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.bytes.escape_ascii().to_string();
        write!(f, "{:?} {:o} {bytes:.40}", self.kind, self.perm)?;
        if self.xattrs.is_empty() { Ok(()) } else { write!(f, " {:?}", self.xattrs.keys()) }
    }
}

/// What counts of a tree, by path; the root is not among it.
pub type Tree = BTreeMap<String, File>;

/// Everything of a tree.
#[derive(Default)]
pub struct Shot {
    pub tree: Tree,
    pub ino: BTreeMap<String, u64>,
    pub nlink: BTreeMap<String, u32>,
    pub mtime: BTreeMap<String, Time>,
}

/// See the module.
pub struct Scene {
    pub repo: PathBuf,
    pub store: Arc<Store>,
    pub kv: Arc<MemKv>,
    pub timeline: Timeline,
    pub overlay: Arc<Overlay>,
    pub machine: Machine,
    showing: Arc<Showing>,
    clock: Cell<i64>,
    /// Who does what follows.
    pub actor: Cell<u64>,
    known: RefCell<Vec<Ino>>,
    dir: Rc<tempfile::TempDir>,
}

fn below(dir: &str, name: &[u8]) -> String {
    let name = std::str::from_utf8(name).expect("names of these tests are text");
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

impl Scene {
    /// `populate` makes the base.
    pub fn new(populate: impl FnOnce(&std::path::Path)) -> Scene {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let dir = Rc::new(tempfile::tempdir_in("/var/tmp").expect("a directory"));
        let repo = dir.path().join("repo");
        std::fs::create_dir(&repo).expect("the repository");
        populate(&repo);
        std::fs::create_dir(dir.path().join("store")).expect("the store's directory");
        Scene::start(dir, Arc::new(MemKv::new()), Timeline::MAIN)
    }

    fn start(dir: Rc<tempfile::TempDir>, kv: Arc<MemKv>, timeline: Timeline) -> Scene {
        let (repo, at) = (dir.path().join("repo"), dir.path().join("store"));
        let owner = Owner { repo: repo.clone(), root_ino: 1, root_born: None };
        let format = Format::create_or_load(&at, &owner).expect("the format");
        let data = Data::open(&at.join("data")).expect("the version files");
        let log: Arc<dyn Kv> = Arc::new(FaultKv(kv.clone()));
        let store = Arc::new(Store::from_parts(&at, log, data, format).expect("the store"));
        Scene::open(dir, kv, store, timeline)
    }

    fn open(dir: Rc<tempfile::TempDir>, kv: Arc<MemKv>, store: Arc<Store>, timeline: Timeline) -> Scene {
        let repo = dir.path().join("repo");
        let base = Arc::new(DirBase::open(&repo).expect("the base"));
        let journal = Arc::new(Record::open(store.clone()).expect("the record"));
        let shown = Shown::Timeline(timeline);
        let overlay = Arc::new(Overlay::open_shown(store.clone(), base, journal, false, shown).expect("the overlay"));
        let showing = Arc::<Showing>::default();
        Scene::of(dir, kv, overlay, showing)
    }

    fn of(dir: Rc<tempfile::TempDir>, kv: Arc<MemKv>, overlay: Arc<Overlay>, showing: Arc<Showing>) -> Scene {
        let (repo, store, timeline) = (dir.path().join("repo"), overlay.store().clone(), overlay.timeline());
        let gate = Arc::new(Gate::default());
        // In memory only: the path says nothing.
        showing.add(&overlay, &gate, &repo.join(format!("{timeline}")));
        let machine = Machine::beside(overlay.clone(), gate, showing.clone(), timeline == Timeline::MAIN);
        let (clock, actor, known) = (Cell::new(2_000_000_000), Cell::new(1), RefCell::default());
        Scene { repo, store, kv, timeline, overlay, machine, showing, clock, actor, known, dir }
    }

    /// The same store after the process is gone.
    pub fn again(&self) -> Scene {
        Scene::start(self.dir.clone(), self.kv.clone(), self.timeline)
    }

    /// Another timeline of the same store, that forks off here, opened beside this one.
    pub fn fork(&self, name: &str) -> Scene {
        let made = self.machine.fork(&self.ctx(), name, None, &[]).expect("the timeline");
        self.beside(made.id)
    }

    /// Another timeline of the same store, opened beside this one, as one daemon has them.
    pub fn beside(&self, timeline: Timeline) -> Scene {
        let overlay = self.overlay.open_beside(Shown::Timeline(timeline), false).expect("the overlay");
        Scene::of(self.dir.clone(), self.kv.clone(), Arc::new(overlay), self.showing.clone())
    }

    pub fn now(&self) -> Time {
        self.clock.set(self.clock.get() + 1);
        Time::new(self.clock.get(), 7)
    }

    pub fn ctx(&self) -> Ctx {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let (actor, epoch) = (ActorId(self.actor.get()), self.overlay.epoch());
        Ctx { actor, uid, gid, now: self.now(), epoch, shared: false }
    }

    // Edits.

    pub fn find(&self, path: &str) -> Result<Arc<Inode>, Errno> {
        let mut at = self.overlay.root().clone();
        for name in path.split('/').filter(|n| !n.is_empty()) {
            at = self.overlay.lookup(&at, name.as_bytes())?;
            self.known.borrow_mut().push(at.ino);
        }
        Ok(at)
    }

    fn parent<'p>(&self, path: &'p str) -> Result<(Arc<Inode>, &'p [u8]), Errno> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.find(dir)?, name.as_bytes()))
    }

    fn make(&self, path: &str, kind: Kind, target: Option<&str>) -> Result<Arc<Inode>, Errno> {
        let (dir, name) = self.parent(path)?;
        let perm = match kind {
            Kind::Dir => 0o755,
            // On disk they have no other.
            Kind::Symlink => 0o777,
            _ => 0o644,
        };
        let new = New { kind, perm, umask: 0, rdev: 0, target: target.map(str::as_bytes) };
        let made = self.overlay.create(&self.ctx(), &dir, name, &new)?;
        self.known.borrow_mut().push(made.ino);
        Ok(made)
    }

    pub fn try_write(&self, path: &str, bytes: &[u8]) -> Result<(), Errno> {
        let inode = match self.find(path) {
            Err(Errno::ENOENT) => self.make(path, Kind::File, None)?,
            found => found?,
        };
        if inode.kind != Kind::File {
            return Err(Errno::EINVAL);
        }
        self.overlay.setattr(&self.ctx(), &inode, &SetAttr { size: Some(0), ..SetAttr::default() })?;
        self.write_at(&inode, 0, bytes)
    }

    pub fn write_at(&self, inode: &Inode, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let (append, kill_ids, known) = (false, false, Known::Observed);
        let write = Write { offset, data, append, kill_ids, handle: HandleId(0), op: Op::Write, known };
        self.overlay.write(&self.ctx(), inode, &write)?;
        Ok(())
    }

    /// Writes a file anew, made if need be.
    pub fn write(&self, path: &str, text: &str) {
        self.try_write(path, text.as_bytes()).unwrap_or_else(|e| panic!("write {path}: {e}"));
    }

    pub fn append(&self, path: &str, text: &str) {
        let inode = self.find(path).unwrap();
        self.write_at(&inode, inode.attr().size, text.as_bytes()).unwrap();
    }

    /// As an editor saves: another file takes the name.
    pub fn save(&self, path: &str, text: &str) {
        let temp = format!("{path}~");
        self.write(&temp, text);
        self.rename(&temp, path);
    }

    pub fn mkdir(&self, path: &str) {
        self.try_make(path, Kind::Dir, None).unwrap_or_else(|e| panic!("mkdir {path}: {e}"));
    }

    pub fn try_make(&self, path: &str, kind: Kind, target: Option<&str>) -> Result<(), Errno> {
        self.make(path, kind, target).map(|_| ())
    }

    pub fn symlink(&self, path: &str, target: &str) {
        self.try_make(path, Kind::Symlink, Some(target)).unwrap();
    }

    pub fn try_link(&self, path: &str, new: &str) -> Result<(), Errno> {
        let (inode, (dir, name)) = (self.find(path)?, self.parent(new)?);
        self.overlay.link(&self.ctx(), &inode, &dir, name)
    }

    pub fn link(&self, path: &str, new: &str) {
        self.try_link(path, new).unwrap();
    }

    pub fn try_rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        let inside = |outer: &str, path: &str| path.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
        if inside(from, to) || inside(to, from) {
            return Err(Errno::EINVAL);
        }
        let ((from_dir, from_name), (to_dir, to_name)) = (self.parent(from)?, self.parent(to)?);
        let (from, to) = (Spot { dir: &from_dir, name: from_name }, Spot { dir: &to_dir, name: to_name });
        self.overlay.rename(&self.ctx(), from, to, Rename::Replace)?;
        Ok(())
    }

    pub fn rename(&self, from: &str, to: &str) {
        self.try_rename(from, to).unwrap_or_else(|e| panic!("rename {from} {to}: {e}"));
    }

    /// rm -r
    pub fn try_remove(&self, path: &str) -> Result<(), Errno> {
        let (dir, name) = self.parent(path)?;
        let inode = self.overlay.lookup(&dir, name)?;
        if inode.kind != Kind::Dir {
            self.overlay.unlink(&self.ctx(), &dir, name)?;
            return Ok(());
        }
        for entry in self.overlay.list(&inode)? {
            self.try_remove(&below(path, &entry.name))?;
        }
        self.overlay.rmdir(&self.ctx(), &dir, name)?;
        Ok(())
    }

    pub fn remove(&self, path: &str) {
        self.try_remove(path).unwrap_or_else(|e| panic!("rm -r {path}: {e}"));
    }

    pub fn set(&self, path: &str, set: SetAttr) -> Result<(), Errno> {
        let inode = self.find(path)?;
        self.overlay.setattr(&self.ctx(), &inode, &set)?;
        Ok(())
    }

    pub fn chmod(&self, path: &str, perm: u16) {
        self.set(path, SetAttr { perm: Some(perm), ..SetAttr::default() }).unwrap();
    }

    pub fn touch(&self, path: &str, time: Time) {
        self.set(path, SetAttr { mtime: Some(SetTime::To(time)), ..SetAttr::default() }).unwrap();
    }

    pub fn try_setxattr(&self, path: &str, name: &str, value: &str) -> Result<(), Errno> {
        let inode = self.find(path)?;
        self.overlay.setxattr(&self.ctx(), &inode, name.as_bytes(), value.as_bytes(), SetXattr::Either)
    }

    pub fn setxattr(&self, path: &str, name: &str, value: &str) {
        self.try_setxattr(path, name, value).unwrap();
    }

    /// The kernel drops what it had in memory, or a part of it.
    pub fn forget(&self, which: impl Fn(usize) -> bool) {
        let known = std::mem::take(&mut *self.known.borrow_mut());
        for (at, ino) in known.into_iter().enumerate() {
            if which(at) { self.overlay.forget(ino, 0) } else { self.known.borrow_mut().push(ino) }
        }
    }

    // Time.

    pub fn snapshot(&self) -> At {
        let reason = Reason { why: Why::Manual, label: None, note: String::new() };
        let snapshot = self.machine.snapshot(&self.ctx(), &reason, &[], false).expect("a snapshot");
        At { timeline: snapshot.timeline, epoch: snapshot.epoch }
    }

    pub fn lineage(&self, at: At) -> Arc<Lineage> {
        Arc::new(Lineage::of(&*self.store.kv, at).expect("the lineage"))
    }

    pub fn try_restore(&self, at: Option<At>, paths: &[&str]) -> Done<Moved> {
        let target = at.map_or_else(|| Arc::new(Lineage::base()), |at| self.lineage(at));
        let paths: Vec<Path> = paths.iter().map(|p| Path::new(p.as_bytes())).collect();
        let kind = if paths.is_empty() { OpKind::Rewind } else { OpKind::Restore };
        self.machine.rewind(&self.ctx(), &target, &paths, (kind, "a test"), &[])
    }

    /// Brings paths back (all, if none is named), from a snapshot or the base, and verifies.
    pub fn restore(&self, at: Option<At>, paths: &[&str]) -> Moved {
        let moved = self.try_restore(at, paths).unwrap_or_else(|e| panic!("restore {paths:?}: {e}"));
        self.verify();
        moved
    }

    // What there is.

    /// The tree through the inodes in memory, as the kernel would see it.
    pub fn shot(&self) -> Shot {
        let mut shot = Shot::default();
        self.look(&self.overlay.root().clone(), "", &mut shot);
        shot
    }

    pub fn tree(&self) -> Tree {
        self.shot().tree
    }

    pub fn text(&self, path: &str) -> String {
        let inode = self.find(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        String::from_utf8(self.bytes(&inode)).unwrap()
    }

    pub fn ino(&self, path: &str) -> u64 {
        self.find(path).unwrap_or_else(|e| panic!("{path}: {e}")).ino.0
    }

    pub fn exists(&self, path: &str) -> bool {
        self.find(path).is_ok()
    }

    fn bytes(&self, inode: &Inode) -> Vec<u8> {
        let size = inode.attr().size as usize;
        let mut bytes = vec![0xaa; size + 1];
        let len = self.overlay.read(inode, 0, &mut bytes).expect("read").len;
        assert_eq!(len, size, "inode {} ends elsewhere than its size says", inode.ino);
        bytes.truncate(len);
        bytes
    }

    fn look(&self, inode: &Arc<Inode>, path: &str, shot: &mut Shot) {
        let attr = self.overlay.getattr(inode).expect("getattr");
        let bytes = match inode.kind {
            Kind::File => self.bytes(inode),
            Kind::Symlink => self.overlay.readlink(inode).expect("readlink"),
            _ => Vec::new(),
        };
        let mut xattrs = BTreeMap::new();
        for name in self.overlay.listxattr(inode).expect("listxattr") {
            xattrs.insert(name.to_vec(), self.overlay.getxattr(inode, &name).expect("getxattr"));
        }
        if !path.is_empty() {
            let file = File { kind: inode.kind, perm: attr.perm, bytes, xattrs };
            shot.tree.insert(path.to_owned(), file);
            shot.ino.insert(path.to_owned(), attr.ino.0);
            shot.nlink.insert(path.to_owned(), attr.nlink);
            shot.mtime.insert(path.to_owned(), attr.mtime);
            if attr.nlink == 1 || inode.kind == Kind::Dir {
                assert_eq!(self.overlay.path(inode).as_bytes(), path.as_bytes(), "the remembered path");
            }
        }
        if inode.kind == Kind::Dir {
            for entry in self.overlay.list(inode).expect("list") {
                let path = below(path, &entry.name);
                let child = self.overlay.lookup(inode, &entry.name).unwrap_or_else(|e| panic!("look up {path}: {e}"));
                self.known.borrow_mut().push(child.ino);
                assert_eq!((child.ino, child.kind), (entry.ino, entry.kind), "what is listed as {path}");
                self.look(&child, &path, shot);
            }
        }
    }

    /// The tree as a view has it.
    pub fn view_tree(&self, at: Option<At>) -> Tree {
        let lineage = at.map_or_else(|| self.overlay.lineage(), |at| self.lineage(at));
        let view = View::new(&self.overlay, lineage);
        let mut tree = Tree::new();
        let mut dirs = vec![(String::new(), view.root().expect("the root"))];
        while let Some((path, dir)) = dirs.pop() {
            for name in view.names(&dir).expect("names") {
                let path = below(&path, &name);
                let node = view.child(&dir, &name).expect("a child").unwrap_or_else(|| panic!("{path} is not there"));
                let bytes = match node.kind {
                    Kind::File => {
                        let mut bytes = vec![0; node.size as usize];
                        let got = view.open(&node).expect("open").read_at(0, &mut bytes).expect("read");
                        bytes.truncate(got);
                        bytes
                    }
                    Kind::Symlink => view.target(&node).expect("target"),
                    _ => Vec::new(),
                };
                let xattrs = view.xattrs(&node).expect("xattrs");
                let xattrs = xattrs.into_iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
                tree.insert(path.clone(), File { kind: node.kind, perm: node.perm, bytes, xattrs });
                if node.kind == Kind::Dir {
                    dirs.push((path, node));
                }
            }
        }
        tree
    }

    /// Everything that must be so at any time.
    pub fn verify(&self) {
        let report = check::check(&self.store, true).expect("fsck");
        assert!(report.problems.is_empty(), "the store is not whole: {:#?}", report.problems);
        let shot = self.shot();
        links_are_right(&shot);
        same(&shot.tree, &self.view_tree(None), "the tree in memory and the log");
        let again = self.again();
        let fresh = again.shot();
        same(&shot.tree, &fresh.tree, "the tree in memory and after a restart");
        assert_eq!(shot.ino, fresh.ino, "numbers after a restart");
        assert_eq!(shot.nlink, fresh.nlink, "link counts after a restart");
        assert_eq!(shot.mtime, fresh.mtime, "times after a restart");
    }

    /// The store's directory, for what only it can tell.
    pub fn version_files(&self) -> usize {
        self.store.data.list().expect("the version files").len()
    }
}

/// A file has as many links as names, a directory one more for each directory in it.
fn links_are_right(shot: &Shot) {
    let mut names: BTreeMap<u64, u32> = BTreeMap::new();
    for ino in shot.ino.values() {
        *names.entry(*ino).or_default() += 1;
    }
    for (path, file) in &shot.tree {
        let (ino, nlink) = (shot.ino[path], shot.nlink[path]);
        if file.kind == Kind::Dir {
            let is_in = |p: &&String| p.strip_prefix(&format!("{path}/")).is_some_and(|rest| !rest.contains('/'));
            let inside = shot.tree.keys().filter(is_in).filter(|p| shot.tree[*p].kind == Kind::Dir).count() as u32;
            assert_eq!((names[&ino], nlink), (1, inside + 2), "names of the directory {path}, and its links");
        } else {
            assert_eq!(names[&ino], nlink, "names and links of {path}");
        }
    }
}

/// Whether two trees are the same.
pub fn same(right: &Tree, found: &Tree, what: &str) {
    let lines = differences(right, found);
    assert!(lines.is_empty(), "{what}: they differ\n{}", lines.join("\n"));
}

pub fn differences(right: &Tree, found: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    for path in right.keys().chain(found.keys().filter(|p| !right.contains_key(*p))) {
        let (a, b) = (right.get(path), found.get(path));
        if a != b {
            lines.push(format!("{path}: {a:?}\n    is {b:?}"));
        }
    }
    lines
}

/// The part of a tree that is at or below some paths, or the rest of it.
pub fn part(tree: &Tree, paths: &[&str], inside: bool) -> Tree {
    let is_in = |path: &str| {
        paths.iter().any(|p| path.strip_prefix(p).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    };
    tree.iter().filter(|(path, _)| is_in(path) == inside).map(|(p, f)| (p.clone(), f.clone())).collect()
}

/// A path below a directory on disk.
pub fn on_disk(dir: &std::path::Path, path: &[u8]) -> PathBuf {
    dir.join(OsStr::from_bytes(path))
}
