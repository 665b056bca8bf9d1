//! What an apply destroys in the base, kept: bytes as versions, the rest as records beside the operation.

use std::fs::File;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::apply::{self, Meta, Old, Seen};
use crate::store::codec::{self, Parent, Reader, VersionRecord, Writer, Xattrs};
use crate::store::history::{self, Operation};
use crate::store::{Batch, Counter, Result, Store, StoreError, Sync, Table, keys};
use crate::types::{ActorId, At, Epoch, Ino, Kind, Path, Time, Timeline, VersionId};

/// Bytes copied at a time.
const PIECE: usize = 1 << 20;
/// The step under which the operation itself is.
const HEAD: u64 = u64::MAX;
const LAYOUT: u8 = 1;
/// Of the operation itself.
const HEAD_LAYOUT: u8 = 2;

/// What was there before a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub seen: Seen,
    pub meta: Meta,
    pub rdev: u32,
    pub target: Option<Box<[u8]>>,
    /// Its bytes; [`VersionId::BASE`] where they were not destroyed.
    pub version: VersionId,
}

/// A step of an apply, as far as taking it back needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub step: u64,
    pub path: Path,
    /// What was there; `None` for nothing.
    pub old: Option<Lost>,
    /// What is there since; `None` for nothing.
    pub made: Option<Seen>,
}

/// What is known of an apply before it begins.
pub(super) struct Head {
    pub operation: Operation,
    pub restore: Option<At>,
    /// What somebody else had there was overwritten.
    pub decided: Vec<Path>,
}

/// Writes the operation down before anything happens.
pub(super) fn begin(store: &Store, operation: &Operation, restore: Option<At>, decided: &[Path]) -> Result<()> {
    let mut value = Vec::new();
    let mut w = Writer(&mut value);
    w.u8(HEAD_LAYOUT);
    w.u64(operation.id);
    w.u8(u8::from(restore.is_some()));
    let at = restore.unwrap_or(operation.before);
    w.u64(at.timeline.0);
    w.u64(at.epoch.0);
    let mut nested = Batch::new();
    history::put_operation(&mut nested, operation);
    for (_, change) in nested.changes() {
        if let crate::store::Change::Put(_, bytes) = change {
            w.bytes(bytes);
        }
    }
    w.u32(u32::try_from(decided.len()).unwrap_or(u32::MAX));
    decided.iter().for_each(|path| w.bytes(path.as_bytes()));
    let mut batch = Batch::new();
    batch.put(Table::Meta, &keys::kept(operation.kept, HEAD), &value);
    store.kv.commit(&batch, Sync::Yes)
}

/// The operation of an apply that was interrupted.
pub(super) fn load(store: &Store, kept: u64) -> Result<Head> {
    let missing = || StoreError::corrupt("the operation of an interrupted apply");
    head(&store.kv.get(Table::Meta, &keys::kept(kept, HEAD))?.ok_or_else(missing)?)
}

fn head(value: &[u8]) -> Result<Head> {
    let mut r = Reader::new(value, "interrupted apply");
    let layout = r.u8()?;
    if !(1..=HEAD_LAYOUT).contains(&layout) {
        return Err(r.corrupt("unknown layout"));
    }
    let id = r.u64()?;
    let restores = r.u8()? != 0;
    let at = At { timeline: Timeline(r.u64()?), epoch: Epoch(r.u64()?) };
    let operation = history::get_operation(id, r.bytes()?)?;
    let mut decided = Vec::new();
    for _ in 0..if layout > 1 { r.u32()? } else { 0 } {
        decided.push(Path::new(r.bytes()?));
    }
    r.end()?;
    Ok(Head { operation, restore: restores.then_some(at), decided })
}

/// Throws away what was kept for an apply that did not happen.
pub(super) fn forget(store: &Store, kept: u64) -> Result<()> {
    for one in all(store, kept)? {
        if let Some(version) = one.old.map(|o| o.version).filter(|&v| v != VersionId::BASE) {
            crate::overlay::delete_version(store, version)?;
        }
    }
    abandon(store, kept)
}

/// Forgets an apply that was undone after it was pinned: what it kept is part of the past now, and stays.
pub(super) fn abandon(store: &Store, kept: u64) -> Result<()> {
    let mut batch = Batch::new();
    let (from, to) = keys::all_kept(kept);
    store.kv.scan(Table::Meta, &from, &to, &mut |key, _| {
        batch.delete(Table::Meta, key);
        std::ops::ControlFlow::Continue(())
    })?;
    store.kv.commit(&batch, Sync::No)
}

/// What is kept of an apply, in the order of its steps.
///
/// # Errors
/// When the log cannot be read.
pub fn all(store: &Store, kept: u64) -> Result<Vec<Kept>> {
    let (mut found, mut bad) = (Vec::new(), None);
    let (from, to) = keys::all_kept(kept);
    store.kv.scan(Table::Meta, &from, &to, &mut |key, value| {
        let step = keys::last_number(key).unwrap_or(HEAD);
        if step != HEAD {
            match get(step, value) {
                Ok(one) => found.push(one),
                Err(error) => bad = Some(error),
            }
        }
        std::ops::ControlFlow::Continue(())
    })?;
    bad.map_or(Ok(found), Err)
}

type ByFile<T> = FxHashMap<(u64, u64), Vec<T>>;

/// What applies, and taking them back, did in the base, as far as that is still kept; by device and inode number.
#[derive(Default)]
pub(super) struct Ours {
    /// Files that lost a name, and what came in its place.
    taken: ByFile<(Seen, Option<Seen>)>,
    /// Files that were made or changed, as they were then.
    made: ByFile<Made>,
}

/// What an apply found at a path, and what it made.
type Sides = (Option<Seen>, Option<Seen>);

/// A file of the base that regentfs made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    pub seen: Seen,
    /// Taking an apply back, or doing it again, put it there, as this one had been there: before the apply, or by it.
    pub instead: Option<Seen>,
    /// Which was somebody else's.
    pub foreign: bool,
}

impl Ours {
    /// # Errors
    /// When the log cannot be read.
    pub fn load(store: &Store) -> Result<Ours> {
        let (mut ours, mut bad) = (Ours::default(), None);
        let (from, to) = keys::everything_kept();
        // By the number of what took an apply back, or did it again: that of the apply, and which of both.
        let mut reverses: FxHashMap<u64, (u64, bool)> = FxHashMap::default();
        let mut decided: FxHashSet<(u64, Path)> = FxHashSet::default();
        store.kv.scan(Table::Meta, &from, &to, &mut |key, value| {
            if keys::last_number(key) == Some(HEAD) {
                match (keys::parse_kept(key), head(value)) {
                    (Some(kept), Ok(Head { operation, .. })) if operation.id != kept => {
                        reverses.insert(kept, (operation.id, operation.undone));
                    }
                    (Some(kept), Ok(head)) => decided.extend(head.decided.into_iter().map(|path| (kept, path))),
                    (_, Err(error)) => bad = Some(error),
                    _ => {}
                }
            }
            std::ops::ControlFlow::Continue(())
        })?;
        // What an apply found at each path, and what it made.
        let mut found: FxHashMap<u64, FxHashMap<Path, Sides>> = FxHashMap::default();
        for &(apply, _) in reverses.values() {
            if let std::collections::hash_map::Entry::Vacant(slot) = found.entry(apply) {
                let seen = |k: Kept| (k.path, (k.old.map(|old| old.seen), k.made));
                slot.insert(all(store, apply)?.into_iter().map(seen).collect());
            }
        }
        store.kv.scan(Table::Meta, &from, &to, &mut |key, value| {
            let step = keys::last_number(key).unwrap_or(HEAD);
            match if step == HEAD { None } else { Some(get(step, value)) } {
                Some(Ok(Kept { old, made, path, .. })) => {
                    let reversed = keys::parse_kept(key).and_then(|kept| reverses.get(&kept));
                    let instead = reversed.and_then(|(apply, undone)| {
                        let (old, made) = found.get(apply)?.get(&path)?;
                        if *undone { *old } else { *made }
                    });
                    let foreign = reversed.is_some_and(|(apply, undone)| *undone && decided.contains(&(*apply, path)));
                    if let Some(Lost { seen, .. }) = old {
                        ours.taken.entry((seen.dev, seen.ino)).or_default().push((seen, made));
                    }
                    if let Some(made) = made {
                        ours.made.entry((made.dev, made.ino)).or_default().push(Made { seen: made, instead, foreign });
                    }
                }
                Some(Err(error)) => bad = Some(error),
                None => {}
            }
            std::ops::ControlFlow::Continue(())
        })?;
        bad.map_or(Ok(ours), Err)
    }

    /// Whether a file went from the base by applies, or by taking them back: one may have put another in its place, and the next have taken that.
    pub fn took(&self, lost: &Seen) -> bool {
        let (mut lost, mut seen) = (vec![*lost], FxHashSet::default());
        while let Some(one) = lost.pop() {
            if !seen.insert((one.dev, one.ino, one.born)) {
                continue;
            }
            for (_, made) in
                self.taken.get(&(one.dev, one.ino)).into_iter().flatten().filter(|(s, _)| s.same_file(&one))
            {
                match made {
                    Some(made) => lost.push(*made),
                    None => return true,
                }
            }
        }
        false
    }

    /// Whether a file lost one of its names by that.
    pub fn took_a_name(&self, is: &Seen) -> bool {
        self.taken.get(&(is.dev, is.ino)).is_some_and(|all| all.iter().any(|(seen, _)| seen.same_file(is)))
    }

    /// Files that were made with this one's numbers.
    pub fn made(&self, is: &Seen) -> &[Made] {
        self.made.get(&(is.dev, is.ino)).map_or(&[], Vec::as_slice)
    }
}

/// Puts what is kept of a step.
pub(super) fn put(batch: &mut Batch, kept: u64, one: &Kept) {
    let mut value = Vec::new();
    let mut w = Writer(&mut value);
    w.u8(LAYOUT);
    w.bytes(one.path.as_bytes());
    w.u8(u8::from(one.old.is_some()) | u8::from(one.made.is_some()) << 1);
    if let Some(old) = &one.old {
        put_seen(&mut w, &old.seen);
        let m = &old.meta;
        w.u16(m.perm);
        w.u32(m.uid);
        w.u32(m.gid);
        w.time(m.atime);
        w.time(m.mtime);
        let list = m.xattrs.as_deref().unwrap_or_default();
        w.u32(u32::try_from(list.len()).unwrap_or(u32::MAX));
        for (name, value) in list {
            w.bytes(name);
            w.bytes(value);
        }
        w.u32(old.rdev);
        w.u8(u8::from(old.target.is_some()));
        w.bytes(old.target.as_deref().unwrap_or_default());
        w.u64(old.version.0);
    }
    if let Some(made) = &one.made {
        put_seen(&mut w, made);
    }
    batch.put(Table::Meta, &keys::kept(kept, one.step), &value);
}

fn put_seen(w: &mut Writer<'_>, s: &Seen) {
    w.u8(s.kind as u8);
    w.u64(s.dev);
    w.u64(s.ino);
    w.u8(u8::from(s.born.is_some()));
    w.time(s.born.unwrap_or_default());
    w.u64(s.size);
    w.time(s.mtime);
    w.time(s.ctime);
}

fn get_seen(r: &mut Reader<'_>) -> Result<Seen> {
    let kind = Kind::from_u8(r.u8()?).ok_or_else(|| r.corrupt("unknown file type"))?;
    let (dev, ino) = (r.u64()?, r.u64()?);
    let has_born = r.u8()? != 0;
    let born: Time = r.time()?;
    Ok(Seen { kind, dev, ino, born: has_born.then_some(born), size: r.u64()?, mtime: r.time()?, ctime: r.time()? })
}

fn get(step: u64, value: &[u8]) -> Result<Kept> {
    let mut r = Reader::new(value, "what an apply kept");
    r.layout(LAYOUT)?;
    let path = Path::new(r.bytes()?);
    let flags = r.u8()?;
    let old = if flags & 1 != 0 {
        let seen = get_seen(&mut r)?;
        let (perm, uid, gid, atime, mtime) = (r.u16()?, r.u32()?, r.u32()?, r.time()?, r.time()?);
        let mut xattrs = Xattrs::new();
        for _ in 0..r.u32()? {
            let name = r.bytes()?.into();
            xattrs.push((name, r.bytes()?.into()));
        }
        let meta = Meta { perm, uid, gid, atime, mtime, xattrs: Some(xattrs) };
        let rdev = r.u32()?;
        let has_target = r.u8()? != 0;
        let target = r.bytes()?;
        let target = has_target.then(|| target.into());
        Some(Lost { seen, meta, rdev, target, version: VersionId(r.u64()?) })
    } else {
        None
    };
    let made = if flags & 2 != 0 { Some(get_seen(&mut r)?) } else { None };
    r.end()?;
    Ok(Kept { step, path, old, made })
}

/// Keeps what the executor is about to destroy. Not durable by itself: the caller syncs the store before the commit begins.
pub(super) struct Keeper<'s> {
    store: &'s Store,
    kept: u64,
    paths: Vec<Path>,
}

impl<'s> Keeper<'s> {
    pub fn new(store: &'s Store, kept: u64, paths: Vec<Path>) -> Keeper<'s> {
        Keeper { store, kept, paths }
    }

    /// Copies a file into a version of its own, by sharing its extents where the file system can.
    fn copy(&self, file: &File, batch: &mut Batch) -> Result<VersionId> {
        let store = self.store;
        let id = VersionId(store.counters.next(&*store.kv, Counter::Version)?);
        let at = store.data.path(id);
        let into = store.data.file(id)?;
        if rustix::fs::ioctl_ficlone(&*into, file).is_err() {
            store.space.claim(file.metadata().map_err(StoreError::io("stat", at.clone()))?.len())?;
            copy_data(file, &into).map_err(StoreError::io("keep a copy in", at))?;
        }
        // Whose bytes these are is said by the states that show them.
        let record =
            VersionRecord { ino: Ino(0), epoch: Epoch::BASE, parent: Parent::None, limit: 0, by: ActorId::KERNEL };
        let mut value = Vec::new();
        codec::put_version(&mut value, &record);
        batch.put(Table::Tree, &keys::version(id), &value);
        Ok(id)
    }
}

/// Copies what is no hole.
fn copy_data(from: &File, to: &File) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let size = from.metadata()?.len();
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        at = match rustix::fs::seek(from, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(from, rustix::fs::SeekFrom::Hole(at))?.min(size);
        while at < end {
            let len = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let got = from.read_at(piece.get_mut(..len).unwrap_or_default(), at)?;
            if got == 0 {
                return Ok(());
            }
            to.write_all_at(piece.get(..got).unwrap_or_default(), at)?;
            at += got as u64;
        }
    }
    Ok(())
}

impl apply::Keeper for Keeper<'_> {
    fn keep(&mut self, step: usize, old: &Old<'_>) -> Result<()> {
        let mut batch = Batch::new();
        let version = match old.file {
            Some(file) => self.copy(file, &mut batch)?,
            None => VersionId::BASE,
        };
        let lost = Lost {
            seen: *old.seen,
            meta: old.meta.clone(),
            rdev: old.rdev,
            target: old.target.map(Into::into),
            version,
        };
        let path = self.paths.get(step).cloned().unwrap_or_default();
        put(&mut batch, self.kept, &Kept { step: step as u64, path, old: Some(lost), made: None });
        self.store.kv.commit(&batch, Sync::No)
    }
}
