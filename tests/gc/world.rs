//! A repository with an overlay over it that lives through a random history: changes, snapshots, rewinds, timelines, remounts.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use regentfs::base::{Base, DirBase};
use regentfs::overlay::ops::create::New;
use regentfs::overlay::ops::io::Write;
use regentfs::overlay::ops::rename::{Rename, Spot};
use regentfs::overlay::ops::setattr::SetAttr;
use regentfs::overlay::ops::xattr::SetXattr;
use regentfs::overlay::seal::Reason;
use regentfs::overlay::view::{Node, View};
use regentfs::overlay::{Ctx, Inode, NoJournal, Overlay, Shown};
use regentfs::store::check::check;
use regentfs::store::codec::{self, Parent, VersionRecord};
use regentfs::store::fault::FaultKv;
use regentfs::store::format::{Format, Owner};
use regentfs::store::gc::{Keep, Report, collect};
use regentfs::store::history::{self, OpKind, Operation, Snapshot, TimelineRecord, Why};
use regentfs::store::lineage::Lineage;
use regentfs::store::mem::MemKv;
use regentfs::store::{Batch, Counter, Data, Kv, Result, Store, Sync, Table, keys};
use regentfs::types::{
    ActorId, At, Epoch, Errno, HandleId, Ino, Kind, Known, Note, Op, Path, Time, Timeline, VersionId,
};

use crate::rng::Rng;

/// Everything that a file shows, its times included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shows {
    ino: Ino,
    attr: String,
    bytes: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub type Tree = BTreeMap<Path, Shows>;

/// A file without a name that is still in use, with what it must go on to show.
pub struct Held {
    inode: Arc<Inode>,
    bytes: Vec<u8>,
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub kv: Arc<MemKv>,
    pub store: Arc<Store>,
    pub overlay: Arc<Overlay>,
    pub rng: Rng,
    pub held: Vec<Held>,
    clock: i64,
    trace: Vec<String>,
}

const NAMES: &[&str] = &["a", "b", "c", "d", "e", "deep"];

fn repo(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("repo")
}

fn open(dir: &tempfile::TempDir, kv: &Arc<MemKv>) -> Arc<Store> {
    let at = dir.path().join("store");
    let owner = Owner { repo: repo(dir), root_ino: 1, root_born: None };
    let format = Format::create_or_load(&at, &owner).expect("format");
    let kv: Arc<dyn Kv> = Arc::new(FaultKv(kv.clone()));
    Arc::new(Store::from_parts(&at, kv, Data::open(&at.join("data")).expect("data"), format).expect("store"))
}

fn mount(dir: &tempfile::TempDir, store: &Arc<Store>, timeline: Timeline) -> Arc<Overlay> {
    let base: Arc<dyn Base> = Arc::new(DirBase::open(&repo(dir)).expect("base"));
    let journal = Arc::new(NoJournal(store.clone()));
    Arc::new(Overlay::open_shown(store.clone(), base, journal, false, Shown::Timeline(timeline)).expect("overlay"))
}

impl World {
    pub fn new(seed: u64) -> World {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut rng = Rng::new(seed);
        std::fs::create_dir_all(repo(&dir).join("a/b/deep")).expect("mkdir");
        std::fs::create_dir_all(repo(&dir).join("d")).expect("mkdir");
        std::fs::create_dir_all(dir.path().join("store")).expect("mkdir");
        for (name, len) in
            [("c", 10), ("a/a", 200_000), ("a/b/c", 70_000), ("a/b/deep/e", 5), ("d/a", 0), ("e", 66_000)]
        {
            std::fs::write(repo(&dir).join(name), rng.bytes(len)).expect("write");
        }
        std::fs::hard_link(repo(&dir).join("c"), repo(&dir).join("d/c")).expect("link");
        let kv = Arc::new(MemKv::new());
        let store = open(&dir, &kv);
        let overlay = mount(&dir, &store, Timeline::MAIN);
        World { dir, kv, store, overlay, rng, held: Vec::new(), clock: 1_600_000_000, trace: Vec::new() }
    }

    /// The store as the next process finds it.
    pub fn reopen(&mut self) {
        let timeline = self.overlay.timeline();
        self.mount(timeline);
    }

    fn mount(&mut self, timeline: Timeline) {
        self.held.clear();
        self.store = open(&self.dir, &self.kv);
        self.overlay = mount(&self.dir, &self.store, timeline);
    }

    pub fn trace(&self) -> String {
        self.trace.join("\n")
    }

    fn ctx(&mut self) -> Ctx {
        self.clock += 1;
        Ctx { actor: ActorId(1), uid: 0, gid: 0, now: Time::new(self.clock, 7), epoch: Epoch(1), shared: false }
    }

    pub fn snapshots(&self) -> Vec<Snapshot> {
        history::snapshots(&*self.store.kv).expect("snapshots")
    }

    pub fn timelines(&self) -> Vec<TimelineRecord> {
        let mut found = history::timelines(&*self.store.kv).expect("timelines");
        if found.is_empty() {
            found.push(history::timeline(&*self.store.kv, Timeline::MAIN).expect("timeline"));
        }
        found
    }

    /// Goes on by a random step.
    pub fn step(&mut self) {
        match self.rng.below(100) {
            0..=7 => {
                let label = self.rng.one_in(4).then(|| format!("label {}", self.clock));
                self.seal(Why::Step, label);
            }
            8..=10 => self.rewind(),
            11 => self.fork(),
            12 => self.switch(),
            13 => self.delete_timeline(),
            14 => {
                self.trace.push("reopen".into());
                self.reopen();
            }
            _ => self.change(),
        }
    }

    fn seal(&mut self, why: Why, label: Option<String>) -> Snapshot {
        let ctx = self.ctx();
        let snapshot = self.overlay.seal(&ctx, &Reason { why, label, note: String::new() }).expect("seal");
        self.trace.push(format!("seal {} of {}", snapshot.epoch, snapshot.timeline));
        snapshot
    }

    fn rewind(&mut self) {
        let snapshots = self.snapshots();
        if snapshots.is_empty() {
            return;
        }
        let to = self.rng.pick(&snapshots).clone();
        let before = self.seal(Why::Before, None);
        let at = At { timeline: to.timeline, epoch: to.epoch };
        let target = Arc::new(Lineage::of(&*self.store.kv, at).expect("lineage"));
        let plan = self.overlay.plan(&target).expect("plan");
        let ctx = self.ctx();
        let note = Note::new(Op::Rewind, Ino::ROOT, Path::root());
        self.overlay.carry_out(&ctx, &plan, Batch::new(), note).expect("carry out");
        self.trace.push(format!("rewind to {}", to.epoch));
        let after = self.seal(Why::After, None);
        self.note_operation(before.epoch, after.epoch);
        // They may have names again.
        self.held.clear();
    }

    /// Writes down a move; half of them destroyed something, which they kept as an apply does.
    fn note_operation(&mut self, before: Epoch, after: Epoch) {
        let kv = &*self.store.kv;
        let next = |which| self.store.counters.next(kv, which).expect("counter");
        let timeline = self.overlay.timeline();
        let at = |epoch| At { timeline, epoch };
        let (id, mut kept, mut batch) = (next(Counter::Operation), 0, Batch::new());
        if self.rng.one_in(2) {
            kept = next(Counter::Operation);
            let version = VersionId(next(Counter::Version));
            self.store.data.write(version, 0, &version.0.to_le_bytes()).expect("write");
            let record =
                VersionRecord { ino: Ino(0), epoch: Epoch::BASE, parent: Parent::None, limit: 0, by: ActorId::KERNEL };
            let mut value = Vec::new();
            codec::put_version(&mut value, &record);
            batch.put(Table::Tree, &keys::version(version), &value);
            batch.put(Table::Meta, &keys::kept(kept, 0), &version.0.to_le_bytes());
        }
        let (time, kind, note) = (Time::new(self.clock, 0), OpKind::Rewind, String::new());
        let (before, after, last) = (at(before), at(after), at(after));
        history::put_operation(
            &mut batch,
            &Operation { id, time, kind, before, after, last, kept, brought: None, undone: false, note },
        );
        kv.commit(&batch, Sync::No).expect("commit");
    }

    /// The versions that operations keep, by the number under which they do.
    pub fn kept(&self) -> BTreeMap<u64, VersionId> {
        let mut found = BTreeMap::new();
        let (from, to) = keys::everything_kept();
        self.store
            .kv
            .scan(Table::Meta, &from, &to, &mut |key, value| {
                let version = VersionId(u64::from_le_bytes(value.try_into().expect("eight bytes")));
                found.insert(keys::parse_kept(key).expect("a number"), version);
                ControlFlow::Continue(())
            })
            .expect("scan");
        found
    }

    /// What operations kept is there, and nothing that none has any more.
    pub fn kept_is_whole(&self) -> bool {
        let operations = history::operations(&*self.store.kv).expect("operations");
        let named: Vec<u64> = operations.iter().map(|o| o.kept).filter(|&n| n != 0).collect();
        self.kept().into_keys().collect::<Vec<_>>() == named
            && self.kept().into_values().all(|version| {
                let mut out = [0; 8];
                self.store.data.read(version, 0, &mut out).expect("read");
                out == version.0.to_le_bytes()
            })
    }

    fn number(&self, which: Counter) -> u64 {
        loop {
            let n = self.store.counters.next(&*self.store.kv, which).expect("counter");
            if n > 1 {
                return n;
            }
        }
    }

    fn fork(&mut self) {
        let snapshots = self.snapshots();
        if snapshots.is_empty() || self.timelines().len() > 5 {
            return;
        }
        let from = self.rng.pick(&snapshots).clone();
        let (id, head) = (Timeline(self.number(Counter::Timeline)), Epoch(self.number(Counter::Epoch)));
        let timeline = TimelineRecord {
            id,
            name: format!("t{id}"),
            parent: Some(At { timeline: from.timeline, epoch: from.epoch }),
            head,
            last: from.epoch,
            created: Time::default(),
            deleted: false,
        };
        let mut batch = Batch::new();
        history::put_timeline(&mut batch, &timeline);
        self.store.kv.commit(&batch, Sync::No).expect("commit");
        self.trace.push(format!("fork {id} from {}", from.epoch));
        self.mount(id);
    }

    fn switch(&mut self) {
        let live: Vec<Timeline> = self.timelines().into_iter().filter(|t| !t.deleted).map(|t| t.id).collect();
        let to = *self.rng.pick(&live);
        self.trace.push(format!("switch to {to}"));
        self.mount(to);
    }

    fn delete_timeline(&mut self) {
        let (now, timelines) = (self.overlay.timeline(), self.timelines());
        let other = |t: &&TimelineRecord| t.id != now && t.id != Timeline::MAIN && !t.deleted;
        let Some(timeline) = timelines.iter().find(other) else { return };
        let mut batch = Batch::new();
        history::put_timeline(&mut batch, &TimelineRecord { deleted: true, ..timeline.clone() });
        self.store.kv.commit(&batch, Sync::No).expect("commit");
        self.trace.push(format!("delete {}", timeline.id));
    }

    /// A directory, and a name that may be in it.
    fn place(&mut self) -> (Arc<Inode>, &'static [u8], String) {
        let (mut dir, mut shown) = (self.overlay.root().clone(), String::new());
        while !self.rng.one_in(3) {
            let name = *self.rng.pick(NAMES);
            match self.overlay.lookup(&dir, name.as_bytes()) {
                Ok(inode) if inode.kind == Kind::Dir => dir = inode,
                _ => break,
            }
            shown = format!("{shown}{name}/");
        }
        let name = *self.rng.pick(NAMES);
        (dir, name.as_bytes(), shown + name)
    }

    fn change(&mut self) {
        let (dir, name, shown) = self.place();
        let found = self.overlay.lookup(&dir, name).ok();
        let is_file = found.as_ref().is_some_and(|i| i.kind == Kind::File);
        let what = self.rng.below(20);
        let ctx = self.ctx();
        let result: Result<(), Errno> = match (found, what) {
            (Some(inode), 0..=7) if is_file => {
                // Around the edges of chunks.
                let offset = (self.rng.below(4) * 65536 + self.rng.below(3000)).saturating_sub(1000);
                let len = self.rng.below(5) * 20_000 + self.rng.below(50) + 1;
                let data = self.rng.bytes(len as usize);
                self.write(&ctx, &inode, offset, &data)
            }
            (Some(inode), 8..=9) if is_file => {
                let size = Some(self.rng.below(150_000));
                self.overlay.setattr(&ctx, &inode, &SetAttr { size, ..SetAttr::default() }).map(drop)
            }
            (Some(_), 10..=11) if is_file => self.unlink_held(&ctx, &dir, name),
            (Some(inode), 12) => {
                let perm = Some(0o600 + self.rng.below(0o100) as u16);
                self.overlay.setattr(&ctx, &inode, &SetAttr { perm, ..SetAttr::default() }).map(drop)
            }
            (Some(inode), 13) if inode.kind != Kind::Symlink => {
                let value = self.rng.bytes(5);
                self.overlay.setxattr(&ctx, &inode, b"user.x", &value, SetXattr::Either)
            }
            (Some(inode), 14) if inode.kind != Kind::Dir => {
                let (to, new, _) = self.place();
                self.overlay.link(&ctx, &inode, &to, new)
            }
            (Some(inode), 15..=17) => {
                let (to, new, _) = self.place();
                let how = *self.rng.pick(&[Rename::Replace, Rename::Replace, Rename::Exchange]);
                // As the kernel does: nothing goes into itself.
                let inside = inode.kind == Kind::Dir || how == Rename::Exchange;
                if inside && dir.ino != to.ino {
                    return;
                }
                let (from, to) = (Spot { dir: &dir, name }, Spot { dir: &to, name: new });
                self.overlay.rename(&ctx, from, to, how).map(|old| self.dropped(old))
            }
            (Some(inode), 18..=19) if inode.kind == Kind::Dir => {
                self.overlay.rmdir(&ctx, &dir, name).map(|old| self.dropped(Some(old)))
            }
            (Some(_), 18) if !is_file => self.overlay.unlink(&ctx, &dir, name).map(|old| self.dropped(Some(old))),
            (None, n) => {
                let kind = match n {
                    0..=5 => Kind::Dir,
                    6..=7 => Kind::Symlink,
                    _ => Kind::File,
                };
                let target = (kind == Kind::Symlink).then_some(&b"a/b"[..]);
                let made = self.overlay.create(&ctx, &dir, name, &New { kind, perm: 0o755, umask: 0, rdev: 0, target });
                match made {
                    Ok(inode) if kind == Kind::File && n > 10 => {
                        let len = self.rng.below(80_000) as usize;
                        let data = self.rng.bytes(len);
                        self.write(&ctx, &inode, 0, &data)
                    }
                    made => made.map(drop),
                }
            }
            _ => return,
        };
        self.trace.push(format!("{what} {shown}: {result:?}"));
    }

    fn write(&self, ctx: &Ctx, inode: &Inode, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let (handle, known) = (HandleId(1), Known::Observed);
        let write = Write { offset, data, append: false, kill_ids: false, handle, op: Op::Write, known };
        self.overlay.write(ctx, inode, &write).map(drop)
    }

    /// The kernel forgets what has no name.
    fn dropped(&self, inode: Option<Arc<Inode>>) {
        if let Some(inode) = inode.filter(|i| i.attr().nlink == 0) {
            self.overlay.forget(inode.ino, 0);
        }
    }

    /// Unlinks a file, of which some process may have a descriptor.
    fn unlink_held(&mut self, ctx: &Ctx, dir: &Arc<Inode>, name: &[u8]) -> Result<(), Errno> {
        let inode = self.overlay.unlink(ctx, dir, name)?;
        if inode.attr().nlink > 0 {
            return Ok(());
        }
        if self.rng.one_in(2) {
            self.dropped(Some(inode));
            return Ok(());
        }
        self.overlay.remember(&inode);
        if self.rng.one_in(2) {
            // Written to after its end: a version that is in no state.
            let data = self.rng.bytes(100);
            self.write(ctx, &inode, 50_000, &data)?;
        }
        let bytes = self.bytes(&inode);
        self.held.push(Held { inode, bytes });
        Ok(())
    }

    fn bytes(&self, inode: &Inode) -> Vec<u8> {
        let mut bytes = vec![0xaa; inode.attr().size as usize];
        let got = self.overlay.read(inode, 0, &mut bytes).expect("read").len;
        bytes.truncate(got);
        bytes
    }

    pub fn held_is_as_it_was(&self) -> bool {
        self.held.iter().all(|held| self.bytes(&held.inode) == held.bytes)
    }

    /// Everything that a point of history shows.
    pub fn tree(&self, at: At) -> Tree {
        let lineage = Arc::new(Lineage::of(&*self.store.kv, at).expect("lineage"));
        let view = View::new(&self.overlay, lineage);
        let mut tree = Tree::new();
        let mut pending = vec![(Path::root(), view.root().expect("root"))];
        while let Some((path, node)) = pending.pop() {
            if node.kind == Kind::Dir {
                for name in view.names(&node).expect("names") {
                    let child = view.child(&node, &name).expect("child");
                    let child = child.unwrap_or_else(|| panic!("{path}: {name:?} is listed, but not there"));
                    pending.push((path.join(&name), child));
                }
            }
            tree.insert(path, self.shows(&view, &node));
        }
        tree
    }

    fn shows(&self, view: &View<'_>, node: &Node) -> Shows {
        let bytes = match node.kind {
            Kind::File => {
                let mut bytes = vec![0xaa; node.size as usize + 1];
                let got = view.open(node).expect("open").read_at(0, &mut bytes).expect("read");
                bytes.truncate(got);
                bytes
            }
            Kind::Symlink => view.target(node).expect("target"),
            _ => Vec::new(),
        };
        let xattrs = view.xattrs(node).expect("xattrs").into_iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
        // What a read does to the base's own times is not ours.
        let attr = regentfs::types::Attr { atime: Time::default(), ..node.attr };
        Shows { ino: node.ino, attr: format!("{attr:?}"), bytes, xattrs }
    }

    /// The newest states that there are, and those of these snapshots.
    pub fn points(&self, snapshots: &BTreeSet<Epoch>) -> Vec<At> {
        let kept = self.snapshots().into_iter().filter(|s| snapshots.contains(&s.epoch));
        let heads = self.timelines().into_iter().filter(|t| !t.deleted);
        kept.map(|s| At { timeline: s.timeline, epoch: s.epoch })
            .chain(heads.map(|t| At { timeline: t.id, epoch: t.head }))
            .collect()
    }

    pub fn trees(&self, points: &[At]) -> BTreeMap<At, Tree> {
        points.iter().map(|&at| (at, self.tree(at))).collect()
    }

    pub fn collect(&self, snapshots: &BTreeSet<Epoch>, dry_run: bool) -> Result<Report> {
        let live = || self.overlay.versions_in_memory();
        let shown = [self.overlay.lineage().at()];
        let kept = |number| Ok(self.kept().get(&number).copied().into_iter().collect());
        collect(&self.store, &Keep { snapshots, shown: &shown, live: &live, kept: &kept }, dry_run)
    }

    pub fn problems(&self) -> Vec<String> {
        check(&self.store, false).expect("check").problems
    }

    /// Whole, and nothing left over.
    pub fn is_whole(&self, when: &str) {
        let report = check(&self.store, false).expect("check");
        assert_eq!((report.problems, report.notes), (Vec::new(), Vec::new()), "{when}\n{}", self.trace());
    }
}
