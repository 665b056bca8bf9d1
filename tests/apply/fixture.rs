//! A base and a store in a scratch directory, plans that are made from what is there, and a source and a keeper in memory.
//!
//! Everything is built and looked at with plain system calls: nothing here is the code under test.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Mutex, MutexGuard};

use regentfs::apply::{
    self, Applied, Content, ContentId, Error, Expect, Keeper, Make, Meta, Old, Plan, Root, Seen, Site, Source, Step,
    Watch,
};
use regentfs::store::{StoreError, fault};
use regentfs::types::{Errno, Kind, Path, Range, Time};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, Timespec, Timestamps};

use crate::common::{self, tree};

static TURN: Mutex<()> = Mutex::new(());

pub fn turn() -> MutexGuard<'static, ()> {
    rustix::process::umask(Mode::empty());
    let turn = TURN.lock().unwrap_or_else(|failed| failed.into_inner());
    fault::disarm();
    turn
}

/// The id of all plans here.
pub const ID: u64 = 7;

pub struct Fixture {
    pub base: PathBuf,
    pub store: PathBuf,
    pub dir: tempfile::TempDir,
}

impl Fixture {
    pub fn new() -> Fixture {
        Fixture::in_dir(common::scratch())
    }

    pub fn in_dir(dir: tempfile::TempDir) -> Fixture {
        let (base, store) = (dir.path().join("repo"), dir.path().join("store"));
        for place in [&base, &store] {
            fs::create_dir(place).expect("mkdir");
        }
        Fixture { base, store, dir }
    }

    pub fn path(&self, path: impl AsRef<[u8]>) -> PathBuf {
        at(&self.base, path.as_ref())
    }

    pub fn root(&self) -> Root {
        root(&self.base)
    }

    pub fn journal(&self) -> PathBuf {
        self.store.join(apply::JOURNAL)
    }

    pub fn seen(&self, path: impl AsRef<[u8]>) -> Seen {
        seen(&self.path(path))
    }

    pub fn is(&self, path: impl AsRef<[u8]>) -> Expect {
        Expect::Is(self.seen(path))
    }

    pub fn tree(&self) -> tree::Tree {
        tree::read(&self.base)
    }

    /// A step at a path as it is now.
    pub fn step(&self, path: impl AsRef<[u8]>, make: Make) -> Step {
        let expect = match self.path(path.as_ref()).symlink_metadata() {
            Ok(_) => self.is(path.as_ref()),
            Err(_) => Expect::Nothing,
        };
        Step { path: Path::new(path.as_ref()), expect, make }
    }

    pub fn apply(&self, steps: Vec<Step>, source: &Bytes) -> apply::Result<Applied> {
        self.apply_with(&self.root(), steps, source, &mut Kept::default(), &mut ())
    }

    pub fn apply_with(
        &self,
        root: &Root,
        steps: Vec<Step>,
        source: &Bytes,
        keeper: &mut dyn Keeper,
        watch: &mut dyn Watch,
    ) -> apply::Result<Applied> {
        let site = Site { store: &self.store, root };
        apply::apply(site, Plan { id: ID, steps }, source, keeper, watch)
    }

    /// Applies, expects no conflict, and ends it.
    pub fn must(&self, steps: Vec<Step>, source: &Bytes) -> apply::Outcome {
        let outcome = self.done(self.apply(steps, source));
        assert_eq!(outcome.conflicts, [], "nobody interfered");
        outcome
    }

    pub fn done(&self, applied: apply::Result<Applied>) -> apply::Outcome {
        match applied {
            Ok(Applied::Done(outcome)) => {
                let strange = apply::finish(Site { store: &self.store, root: &self.root() }).expect("finish");
                assert_eq!(strange, [] as [Path; 0]);
                self.is_over();
                outcome
            }
            other => panic!("not applied: {other:?}"),
        }
    }

    /// No journal, no temporary file.
    pub fn is_over(&self) {
        let left: Vec<_> = fs::read_dir(&self.store).expect("list").map(|e| e.expect("list").file_name()).collect();
        assert_eq!(left, [] as [std::ffi::OsString; 0], "left in the store");
        let temps: Vec<_> = self.tree().into_keys().filter(|p| is_temp(p)).collect();
        assert_eq!(temps, [] as [Vec<u8>; 0], "temporary files");
    }
}

impl Drop for Fixture {
    /// Makes every directory one that can be removed by its owner.
    fn drop(&mut self) {
        let mut pending = vec![self.dir.path().to_owned()];
        while let Some(dir) = pending.pop() {
            let _ = fs::set_permissions(&dir, fs::Permissions::from_mode(0o700));
            let Ok(entries) = fs::read_dir(&dir) else { continue };
            pending.extend(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        }
    }
}

pub fn is_temp(path: &[u8]) -> bool {
    path.windows(10).any(|part| part == b".regentfs-")
}

pub fn at(base: &FsPath, path: &[u8]) -> PathBuf {
    if path.is_empty() { base.to_owned() } else { base.join(OsStr::from_bytes(path)) }
}

pub fn root(base: &FsPath) -> Root {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Root::new(rustix::fs::open(base, flags, Mode::empty()).expect("open the base"))
}

/// What the plan is to expect, from stat and statx.
pub fn seen(path: &FsPath) -> Seen {
    let s = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
        .unwrap_or_else(|e| panic!("statx {}: {e}", path.display()));
    let time = |t: rustix::fs::StatxTimestamp| Time::new(t.tv_sec, t.tv_nsec);
    Seen {
        kind: Kind::from_mode(s.stx_mode.into()).expect("a known type"),
        dev: u64::from(s.stx_dev_major) << 32 | u64::from(s.stx_dev_minor),
        ino: s.stx_ino,
        born: (s.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| time(s.stx_btime)),
        size: s.stx_size,
        mtime: time(s.stx_mtime),
        ctime: time(s.stx_ctime),
    }
}

/// Metadata of the user who runs this.
pub fn meta(perm: u16, secs: i64) -> Meta {
    Meta {
        perm,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        atime: Time::new(secs - 5, 3),
        mtime: Time::new(secs, 123_456_789),
        xattrs: Some(Vec::new()),
    }
}

pub fn with_xattr(mut meta: Meta, name: &str, value: &str) -> Meta {
    meta.xattrs.get_or_insert_default().push((name.as_bytes().into(), value.as_bytes().into()));
    meta
}

pub fn set_times(path: &FsPath, meta: &Meta) {
    let spec = |t: Time| Timespec { tv_sec: t.secs, tv_nsec: t.nanos.into() };
    let times = Timestamps { last_access: spec(meta.atime), last_modification: spec(meta.mtime) };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("utimensat");
}

/// Gives a file that is there the metadata, with plain calls.
pub fn dress(path: &FsPath, meta: &Meta) {
    let link = path.symlink_metadata().expect("stat").is_symlink();
    for (name, value) in meta.xattrs.iter().flatten() {
        let name = OsStr::from_bytes(name);
        rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).expect("setxattr");
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(path, Some(meta.uid), Some(meta.gid)).expect("lchown");
    }
    if !link {
        fs::set_permissions(path, fs::Permissions::from_mode(meta.perm.into())).expect("chmod");
    }
    set_times(path, meta);
}

/// One file's bytes: its size and its parts; the rest is holes.
#[derive(Clone, Default)]
pub struct Sparse {
    pub size: u64,
    pub parts: BTreeMap<u64, Vec<u8>>,
}

impl Sparse {
    pub fn write(&self, path: &FsPath) {
        let file = fs::File::create(path).expect("create");
        for (offset, part) in &self.parts {
            file.write_all_at(part, *offset).expect("write");
        }
        file.set_len(self.size).expect("truncate");
    }
}

impl From<&[u8]> for Sparse {
    fn from(bytes: &[u8]) -> Sparse {
        Sparse { size: bytes.len() as u64, parts: BTreeMap::from([(0, bytes.to_vec())]) }
    }
}

/// The source of all tests: contents by number.
#[derive(Default)]
pub struct Bytes {
    pub files: BTreeMap<u64, Sparse>,
    /// Reading that one fails.
    pub broken: Option<u64>,
    /// The largest piece asked for at once.
    pub largest: Cell<usize>,
}

impl Bytes {
    pub fn of(files: &[(u64, &[u8])]) -> Bytes {
        Bytes { files: files.iter().map(|&(id, bytes)| (id, bytes.into())).collect(), ..Bytes::default() }
    }
}

struct Reading<'a>(&'a Sparse, &'a Bytes, bool);

impl Source for Bytes {
    fn open(&self, content: ContentId) -> Result<Box<dyn Content + '_>, Errno> {
        let file = self.files.get(&content.0).ok_or(Errno::ENOENT)?;
        Ok(Box::new(Reading(file, self, self.broken == Some(content.0))))
    }
}

impl Content for Reading<'_> {
    fn size(&self) -> u64 {
        self.0.size
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<usize, Errno> {
        if self.2 {
            return Err(Errno::EIO);
        }
        self.1.largest.set(self.1.largest.get().max(out.len()));
        let len = out.len().min((self.0.size - offset) as usize);
        for (i, byte) in out[..len].iter_mut().enumerate() {
            let at = offset + i as u64;
            let (start, part) = self.0.parts.range(..=at).next_back().expect("holes are not read");
            *byte = part.get((at - start) as usize).copied().expect("holes are not read");
        }
        Ok(len)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range>, Errno> {
        let ends = |(start, part): (&u64, &Vec<u8>)| (*start, start + part.len() as u64);
        let next = self.0.parts.iter().map(ends).find(|&(_, end)| end > offset);
        Ok(next.map(|(start, end)| Range::new(start.max(offset), end - start.max(offset))))
    }
}

/// What a keeper was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Was {
    pub seen: Seen,
    pub meta: Meta,
    pub rdev: u32,
    pub target: Option<Vec<u8>>,
    pub bytes: Option<Vec<u8>>,
}

type Hook<'a> = Box<dyn FnMut(usize) + 'a>;

#[derive(Default)]
pub struct Kept<'a> {
    pub was: BTreeMap<usize, Was>,
    /// Called with the step after its thing was copied.
    pub hook: Option<Hook<'a>>,
    pub fails: bool,
}

impl Keeper for Kept<'_> {
    fn keep(&mut self, step: usize, old: &Old<'_>) -> Result<(), StoreError> {
        if self.fails {
            return Err(StoreError::Full { free: 0, reserve: 1 });
        }
        let bytes = old.file.map(|file| {
            let mut bytes = vec![0; old.seen.size as usize];
            file.read_exact_at(&mut bytes, 0).expect("read what is kept");
            bytes
        });
        let target = old.target.map(<[u8]>::to_vec);
        let was = Was { seen: *old.seen, meta: old.meta.clone(), rdev: old.rdev, target, bytes };
        assert!(self.was.insert(step, was).is_none(), "kept twice");
        if let Some(hook) = &mut self.hook {
            hook(step);
        }
        Ok(())
    }
}

/// The tree without what a refused or undone apply may change: the times of directories.
pub fn calm(mut tree: tree::Tree) -> tree::Tree {
    for entry in tree.values_mut().filter(|e| e.kind == "directory") {
        entry.mtime = (0, 0);
    }
    tree
}

pub fn same(expected: &tree::Tree, found: &tree::Tree, what: &str) {
    tree::assert_same(expected, found, &tree::View::exact(), what);
}

/// The error that a failed apply must be.
pub fn error(applied: apply::Result<Applied>) -> Error {
    applied.map(|done| panic!("expected an error, found {done:?}")).expect_err("mapped")
}

pub fn ino(path: &FsPath) -> u64 {
    path.symlink_metadata().expect("stat").ino()
}
