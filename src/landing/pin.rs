//! The past keeps what an apply changes in the base.
//!
//! States that leave something to the base would show what the base has become. So before an apply is written down as done, each of them is made to say what the base
//! had: under epoch 0 where nothing was said at all, in place of "none" where the base decided again, and with the kept version where a state or a
//! version leaned on the base's bytes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::keep::Lost;
use crate::apply::Seen;
use crate::overlay::Overlay;
use crate::overlay::extents::{Extents, Source};
use crate::overlay::places::{Entries, Links, Places};
use crate::overlay::view::View;
use crate::store::codec::{self, Content, Dentry, InodeRecord, Origin, Parent, Print, Xattrs};
use crate::store::lineage::Lineage;
use crate::store::{Batch, Result, Store, StoreError, Table, gc, history, keys};
use crate::types::{At, Attr, Epoch, Ino, Kind, Name, Path, Timeline, VersionId};

/// Device and inode number of a base file.
type File = (u64, u64);

/// What became of a base file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Became {
    /// Gone; they are kept here.
    Kept(VersionId),
    /// They are where they were, and the file looks like this now.
    Same(Seen),
    /// It is where it was, with other metadata.
    Stays,
    /// A directory that is gone; each of its entries is pinned by itself.
    Gone,
}

/// What became of a base file, and what of it a state may have left to the base.
#[derive(Clone, Debug)]
struct Fate {
    became: Became,
    xattrs: Option<Xattrs>,
    target: Option<Box<[u8]>>,
}

/// The states of the past that are to be written anew.
pub(super) struct Pins<'s> {
    overlay: &'s Overlay,
    store: &'s Store,
    timelines: Vec<Timeline>,
    /// See [`gc::points`].
    points: BTreeMap<Timeline, Vec<Epoch>>,
    /// Where directories that go were pinned: what is in them is pinned there as well, and nowhere else from the first epoch on.
    eras: FxHashMap<Ino, Vec<At>>,
    /// What happened to which file.
    became: FxHashMap<File, Fate>,
    /// The entries at points of history.
    entries: FxHashMap<At, Rc<Entries>>,
    /// Files of the base with several names, once somebody had to know.
    links: Option<Rc<Links>>,
    pub inodes: BTreeMap<Ino, Path>,
    pub names: BTreeMap<(Ino, Name), Path>,
}

impl<'s> Pins<'s> {
    pub fn new(overlay: &'s Overlay) -> Result<Pins<'s>> {
        let store = overlay.store();
        let mut timelines: Vec<Timeline> = history::timelines(&*store.kv)?.into_iter().map(|t| t.id).collect();
        if !timelines.contains(&Timeline::MAIN) {
            timelines.push(Timeline::MAIN);
        }
        let (inodes, names) = (BTreeMap::new(), BTreeMap::new());
        Ok(Pins {
            overlay,
            store,
            timelines,
            points: gc::points(store)?,
            eras: FxHashMap::default(),
            became: FxHashMap::default(),
            entries: FxHashMap::default(),
            links: None,
            inodes,
            names,
        })
    }

    /// The keys in a range whose value says "none", and the first epoch of the first timeline in which anything is said.
    fn empties(&self, range: &dyn Fn(Timeline) -> (keys::Key, keys::Key)) -> Result<(Vec<Vec<u8>>, Epoch)> {
        let (mut empty, mut first) = (Vec::new(), Epoch::LAST);
        for &timeline in &self.timelines {
            let (from, to) = range(timeline);
            self.store.kv.scan(Table::Tree, &from, &to, &mut |key, value| {
                if let Some(epoch) = keys::last_number(key).filter(|_| timeline == Timeline::MAIN) {
                    first = first.min(Epoch(!epoch));
                }
                if value.is_empty() {
                    empty.push(key.to_vec());
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok((empty, first))
    }

    /// A name stood for this wherever the base decided; and the inode, which goes with it, had this record there.
    pub fn name(
        &mut self,
        batch: &mut Batch,
        dir: Ino,
        name: &[u8],
        dentry: Dentry,
        path: &Path,
        with: Option<(Ino, &InodeRecord)>,
    ) -> Result<()> {
        let states = |t| keys::dentry_states(t, dir, name, Epoch::LAST);
        let (empty, first) = self.empties(&states)?;
        let at = |key: &Vec<u8>| {
            let timeline = Timeline(key.get(..9).and_then(keys::last_number)?);
            Some(At { timeline, epoch: Epoch(!keys::last_number(key)?) })
        };
        let mut pinned: Vec<At> = empty.iter().filter_map(at).collect();
        match self.eras.get(&dir) {
            Some(eras) => {
                for &era in eras {
                    // What was said before, and still holds then, stays.
                    if Lineage::of(&*self.store.kv, era)?.dentry(&*self.store.kv, dir, name)?.is_none() {
                        pinned.push(era);
                    }
                }
            }
            None if first == Epoch::BASE => {}
            None => pinned.push(At { timeline: Timeline::MAIN, epoch: Epoch::BASE }),
        }
        pinned.sort_unstable();
        pinned.dedup();
        if let Some((ino, _)) = with {
            let mut seen = Vec::with_capacity(pinned.len());
            for at in pinned {
                if self.is_seen(at, dir, name, ino)? {
                    seen.push(at);
                }
            }
            pinned = seen;
        }
        let (mut entry, mut inode) = (Vec::new(), Vec::new());
        codec::put_dentry(&mut entry, dentry);
        if let Some((_, record)) = with {
            codec::put_inode(&mut inode, record);
        }
        for &At { timeline, epoch } in &pinned {
            batch.put(Table::Tree, &keys::dentry(timeline, dir, name, epoch), &entry);
            batch.put(Table::Tree, &keys::touched_name(timeline, epoch, dir, name), path.as_bytes());
            let Some((ino, _)) = with else { continue };
            let key = keys::inode(timeline, ino, epoch);
            if Lineage::of(&*self.store.kv, At { timeline, epoch })?.inode(&*self.store.kv, ino)?.is_none() {
                batch.put(Table::Tree, &key, &inode);
                batch.put(Table::Tree, &keys::touched_inode(timeline, epoch, ino), path.as_bytes());
            }
        }
        self.names.insert((dir, name.into()), path.clone());
        let Some((ino, record)) = with else { return Ok(()) };
        if record.attr.kind == Kind::Dir {
            self.eras.insert(ino, pinned);
        }
        self.put_inode(batch, ino, record, path, false)
    }

    /// Whether any point sees that a name stands for an inode from `at` on. Where none does, what said of the inode that it was not there yet may have
    /// been taken away as well.
    fn is_seen(&self, at: At, dir: Ino, name: &[u8], ino: Ino) -> Result<bool> {
        let Some(point) = self.first_from(at) else { return Ok(true) };
        let states = [
            keys::dentry_states(at.timeline, dir, name, point),
            // It was elsewhere.
            keys::inode_states(at.timeline, ino, point),
        ];
        let mut said = [false; 2];
        for (said, (from, to)) in said.iter_mut().zip(&states) {
            self.store.kv.scan(Table::Tree, from, to, &mut |key, _| {
                *said = keys::last_number(key).is_some_and(|epoch| Epoch(!epoch) > at.epoch);
                ControlFlow::Break(())
            })?;
        }
        Ok(!said[0] || said[1])
    }

    /// The first point that is still there from a point on.
    fn first_from(&self, at: At) -> Option<Epoch> {
        let points = self.points.get(&at.timeline)?;
        points.get(points.partition_point(|&point| point < at.epoch)).copied()
    }

    /// An inode was this wherever the base decided.
    pub fn inode(&mut self, batch: &mut Batch, ino: Ino, record: &InodeRecord, path: &Path) -> Result<()> {
        self.put_inode(batch, ino, record, path, true)
    }

    fn put_inode(
        &mut self,
        batch: &mut Batch,
        ino: Ino,
        record: &InodeRecord,
        path: &Path,
        from_the_first: bool,
    ) -> Result<()> {
        let (empty, first) = self.empties(&|t| keys::inode_states(t, ino, Epoch::LAST))?;
        let mut value = Vec::new();
        codec::put_inode(&mut value, record);
        for key in empty {
            let timeline = key.get(..9).and_then(keys::last_number).map(Timeline);
            let (Some(timeline), Some((_, epoch))) = (timeline, keys::parse_inode(&key)) else { continue };
            if self.showed(At { timeline, epoch }, ino, path)? {
                batch.put(Table::Tree, &key, &value);
            }
        }
        let base = At { timeline: Timeline::MAIN, epoch: Epoch::BASE };
        let at = At { epoch: self.first_from(base).unwrap_or(Epoch::BASE), ..base };
        if first > at.epoch && from_the_first && self.showed(at, ino, path)? {
            batch.put(Table::Tree, &keys::inode(Timeline::MAIN, ino, Epoch::BASE), &value);
            batch.put(Table::Tree, &keys::touched_inode(Timeline::MAIN, Epoch::BASE, ino), path.as_bytes());
            self.hide(batch, ino, record, path)?;
        }
        self.inodes.insert(ino, path.clone());
        Ok(())
    }

    /// Something else got the name of a base file that came there later, and that no state knows: from then on it has none.
    fn hide(&self, batch: &mut Batch, ino: Ino, record: &InodeRecord, path: &Path) -> Result<()> {
        let corrupt = |errno| StoreError::corrupt(format!("{path}: {errno}"));
        let Some((dir, name)) = path.split_last() else { return Ok(()) };
        let Some(dir) = View::base(self.overlay).find(&dir).map_err(corrupt)? else { return Ok(()) };
        let mut gone = record.clone();
        gone.attr.nlink = 0;
        let mut value = Vec::new();
        codec::put_inode(&mut value, &gone);
        for &timeline in &self.timelines {
            let mut hidden = None;
            let (from, to) = keys::dentry_states(timeline, dir.ino, name, Epoch::LAST);
            self.store.kv.scan(Table::Tree, &from, &to, &mut |key, value| {
                let other = match codec::get_dentry(value) {
                    Ok(Dentry::Entry { ino: other, .. }) => other != ino,
                    Ok(Dentry::Whiteout { .. }) => true,
                    Err(_) => false,
                };
                // The newest first.
                if let Some(epoch) = keys::last_number(key).map(|n| Epoch(!n)).filter(|e| other && *e > Epoch::BASE) {
                    hidden = Some(epoch);
                }
                ControlFlow::Continue(())
            })?;
            let Some(epoch) = hidden else { continue };
            let states = keys::inode_states(timeline, ino, Epoch::LAST);
            let mut known = false;
            self.store.kv.scan(Table::Tree, &states.0, &states.1, &mut |key, _| {
                known |= keys::last_number(key).is_some_and(|n| Epoch(!n) > Epoch::BASE);
                ControlFlow::Continue(())
            })?;
            if !known {
                batch.put(Table::Tree, &keys::inode(timeline, ino, epoch), &value);
                batch.put(Table::Tree, &keys::touched_inode(timeline, epoch, ino), path.as_bytes());
            }
        }
        Ok(())
    }

    /// Whether a base file was anywhere in the tree at a point of history; `path` is where it is in the base.
    fn showed(&mut self, at: At, ino: Ino, path: &Path) -> Result<bool> {
        let corrupt = |errno| StoreError::corrupt(format!("{path}: {errno}"));
        let view = View::new(self.overlay, Arc::new(Lineage::of(&*self.store.kv, at)?));
        if view.find(path).map_err(corrupt)?.is_some_and(|node| node.ino == ino) {
            return Ok(true);
        }
        // Where it was moved to, or where a directory above it was.
        let places = match self.entries.get(&at) {
            Some(entries) => Places::with(&view, entries.clone()),
            None => Places::new(&view),
        };
        self.entries.insert(at, places.collected().map_err(corrupt)?);
        if let Some(links) = &self.links {
            places.know_links(links.clone());
        }
        let mut showed = false;
        for place in places.names(ino, Some(path)).map_err(corrupt)? {
            showed |= places.path_at(&place).map_err(corrupt)?.is_some();
        }
        if self.links.is_none() {
            self.links = places.known_links();
        }
        Ok(showed)
    }

    /// Notes what became of a base file, for [`Pins::rewrite`].
    pub fn became(&mut self, lost: &Lost, became: Became) {
        let (xattrs, target) = (lost.meta.xattrs.clone(), lost.target.clone());
        self.became.insert((lost.seen.dev, lost.seen.ino), Fate { became, xattrs, target });
    }

    /// Notes what a base file looks like now of which nothing else is different.
    pub fn looks(&mut self, seen: Seen) {
        let fate = Fate { became: Became::Same(seen), xattrs: None, target: None };
        self.became.entry((seen.dev, seen.ino)).or_insert(fate);
    }

    /// Makes all states and versions that lean on the base's bytes lean on what became of them.
    pub fn rewrite(&mut self, batch: &mut Batch) -> Result<()> {
        if self.became.is_empty() {
            return Ok(());
        }
        let mut leaning: FxHashMap<Ino, Became> = FxHashMap::default();
        let (mut bad, mut puts) = (None, Vec::new());
        self.store.kv.scan(Table::Tree, b"i", b"j", &mut |key, value| {
            if value.is_empty() {
                return ControlFlow::Continue(());
            }
            let Some((ino, _)) = keys::parse_inode(key) else { return ControlFlow::Continue(()) };
            match codec::get_inode(ino, value) {
                Ok(record) => {
                    let found = record.origin.as_ref().and_then(|o| self.became.get(&(o.dev, o.ino)));
                    if let Some(fate) = found {
                        leaning.insert(ino, fate.became);
                        puts.push((key.to_vec(), ino, changed(record, fate)));
                    }
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    bad = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = bad {
            return Err(error);
        }
        for (key, ino, record) in puts {
            let mut value = Vec::new();
            codec::put_inode(&mut value, &record);
            batch.put(Table::Tree, &key, &value);
            let path = record.origin.map_or_else(Path::root, |o| o.path);
            self.inodes.entry(ino).or_insert(path);
        }
        self.versions(batch, &leaning)
    }

    fn versions(&self, batch: &mut Batch, leaning: &FxHashMap<Ino, Became>) -> Result<()> {
        let (mut found, mut bad) = (Vec::new(), None);
        let (from, to) = keys::all_versions();
        self.store.kv.scan(Table::Tree, &from, &to, &mut |key, value| match (
            keys::last_number(key),
            codec::get_version(value),
        ) {
            (Some(id), Ok(version)) => {
                if let (Parent::Base | Parent::Map, Some(Became::Kept(kept))) =
                    (version.parent, leaning.get(&version.ino))
                {
                    found.push((VersionId(id), version, *kept));
                }
                ControlFlow::Continue(())
            }
            (_, Err(error)) => {
                bad = Some(error);
                ControlFlow::Break(())
            }
            (None, _) => ControlFlow::Continue(()),
        })?;
        if let Some(error) = bad {
            return Err(error);
        }
        for (id, mut version, kept) in found {
            let below = match version.parent {
                Parent::Base => Extents::one(0, version.limit, Source::Base),
                _ => {
                    let missing = || StoreError::corrupt(format!("the extents of version {id} are missing"));
                    Extents::decode(&self.store.kv.get(Table::Tree, &keys::extents(id))?.ok_or_else(missing)?)?
                }
            };
            let below = below.replaced(Source::Base, Source::Version(kept));
            version.parent = Parent::Map;
            let mut value = Vec::new();
            codec::put_version(&mut value, &version);
            batch.put(Table::Tree, &keys::version(id), &value);
            batch.put(Table::Tree, &keys::extents(id), &below.encode());
        }
        Ok(())
    }
}

/// A state that leans on what the base has, after the base's file became something else.
fn changed(mut record: InodeRecord, fate: &Fate) -> InodeRecord {
    record.xattrs = record.xattrs.or_else(|| fate.xattrs.clone());
    record.target = record.target.or_else(|| fate.target.clone());
    match fate.became {
        Became::Kept(version) => {
            if record.content == Content::Base && record.attr.nlink > 0 && version != VersionId::BASE {
                record.content = Content::Version { id: version, stamp: 0 };
            }
        }
        Became::Stays => {}
        Became::Gone => record.opaque = record.attr.kind == Kind::Dir,
        Became::Same(seen) => {
            if let Some(origin) = &mut record.origin {
                origin.print = Print { size: seen.size, mtime: seen.mtime, ctime: seen.ctime };
            }
        }
    }
    record
}

/// The record of a base file as it was before a step.
pub(super) fn record_of(ino: Ino, path: &Path, lost: &Lost, nlink: u32, now: Option<&Seen>) -> InodeRecord {
    let Lost { seen, meta, .. } = lost;
    let is_file = seen.kind == Kind::File;
    let print = now.filter(|_| lost.version == VersionId::BASE).unwrap_or(seen);
    InodeRecord {
        attr: Attr {
            ino,
            kind: seen.kind,
            perm: meta.perm,
            nlink,
            uid: meta.uid,
            gid: meta.gid,
            rdev: lost.rdev,
            size: seen.size,
            blocks: seen.size.div_ceil(512),
            atime: meta.atime,
            mtime: seen.mtime,
            ctime: seen.ctime,
        },
        content: match (is_file, lost.version) {
            (true, VersionId::BASE) => Content::Base,
            (true, id) => Content::Version { id, stamp: 0 },
            (false, _) => Content::None,
        },
        opaque: false,
        origin: Some(Origin {
            path: path.clone(),
            dev: seen.dev,
            ino: seen.ino,
            born: seen.born,
            print: Print { size: print.size, mtime: print.mtime, ctime: print.ctime },
        }),
        target: lost.target.clone(),
        xattrs: meta.xattrs.clone(),
    }
}
