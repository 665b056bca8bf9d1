//! After the base was changed: what history and overlay have to say now. One batch for all of it.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use super::keep::{self, Kept};
use super::pin::{self, Became, Pins};
use super::shown::Shown;
use super::{Result, os};
use crate::apply::{ByPath, Make, Outcome, Plan, Seen};
use crate::overlay::places::{Place, Places, base_links};
use crate::overlay::restore::differs;
use crate::overlay::transit::record_of;
use crate::overlay::view::{Node, View};
use crate::overlay::{Ctx, Overlay};
use crate::store::codec::{self, Content, Dentry, InodeRecord, Origin, Print};
use crate::store::lineage::Lineage;
use crate::store::{Batch, Change, Table, keys};
use crate::types::{At, Attr, Errno, Ino, Kind, Name, Path};

/// What is to be committed, and what it changes.
pub(super) struct Settled<'o> {
    overlay: &'o Overlay,
    base: View<'o>,
    now: View<'o>,
    kept: u64,
    pub batch: Batch,
    pub inodes: BTreeMap<Ino, Path>,
    pub names: BTreeMap<(Ino, Name), Path>,
    /// Present states that were put, over what the log has.
    records: FxHashMap<Ino, InodeRecord>,
    /// Files of the base of which only the metadata was changed, and what they look like since; by device and inode number.
    same: FxHashMap<(u64, u64), Seen>,
    shown: Shown,
}

/// What becomes of the overlay's side of what was changed in the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// It goes: the base has it now.
    Leaves,
    /// An apply was taken back: it becomes the overlay's again. Whether the overlay saw what the base has again is as it was before.
    Returns,
    /// An apply was done again: it goes as it did then.
    Again,
}

/// Directories of the base, by their paths.
pub(super) type Before = BTreeMap<Path, InodeRecord>;

type Look<T> = std::result::Result<T, Errno>;

impl<'o> Settled<'o> {
    pub fn new(overlay: &'o Overlay, kept: u64) -> Result<Settled<'o>> {
        Ok(Settled {
            overlay,
            base: View::base(overlay),
            now: View::now(overlay),
            kept,
            batch: Batch::new(),
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            records: FxHashMap::default(),
            same: FxHashMap::default(),
            shown: Shown::default(),
        })
    }

    /// Before anything is made in the base, be it under temporary names: what the directories of a plan are like, which that changes.
    pub fn directories_before(&self, plan: &Plan) -> Result<Before> {
        let look = os("cannot look at the repository");
        let mut before = Before::new();
        for step in plan.steps.iter().filter(|s| s.make != Make::Keep) {
            for path in [Some(step.path.clone()), step.path.split_last().map(|(dir, _)| dir)].into_iter().flatten() {
                if !before.contains_key(&path)
                    && let Some(node) = self.base.find(&path).map_err(&look)?.filter(|n| n.kind == Kind::Dir)
                {
                    before.insert(path, self.base_record(&node).map_err(&look)?);
                }
            }
        }
        Ok(before)
    }

    /// Before the base is changed: all of the past, and what of the present leans on it, says what the base has at the paths of the plan.
    pub fn pin(&mut self, plan: &Plan, before: &Before) -> Result<()> {
        let look = os("cannot write down what the repository has");
        let store = self.overlay.store().clone();
        let kept: BTreeMap<u64, Kept> = keep::all(&store, self.kept)?.into_iter().map(|k| (k.step, k)).collect();
        let by_path = plan.by_path();
        let mut pins = Pins::new(self.overlay)?;
        // Directories before what is in them.
        let mut steps: Vec<_> = plan.steps.iter().enumerate().filter(|(_, s)| s.make != Make::Keep).collect();
        steps.sort_by(|a, b| a.1.path.cmp(&b.1.path));
        for (at, step) in steps {
            if let Make::Link { to } = &step.make
                && let Some(node) = self.linked(to, &by_path, plan).map_err(&look)?
            {
                // It has one name more from now on.
                let record = self.base_record(&node).map_err(&look)?;
                pins.inode(&mut self.batch, node.ino, &record, to)?;
            }
            let Some((dir, name)) = step.path.split_last() else { continue };
            // What is in a directory that is not there yet needs no word: the directory is pinned as missing.
            let Some(parent) = self.base.find(&dir).map_err(&look)?.filter(|n| n.kind == Kind::Dir) else { continue };
            let stays = matches!(step.make, Make::Meta { .. })
                || (step.expect.is_dir() && matches!(step.make, Make::Dir { .. }));
            match kept.get(&(at as u64)).and_then(|k| k.old.as_ref()) {
                None => {
                    let nothing = Dentry::Whiteout { hid: Ino(0) };
                    pins.name(&mut self.batch, parent.ino, name, nothing, &step.path, None)?;
                }
                // A file whose bytes stay is pinned afterwards, when it is known what it looks like then.
                Some(old) if stays && old.seen.kind == Kind::File => {}
                Some(old) => {
                    let seen = &old.seen;
                    let ino = self.base.number_of(seen.dev, Ino(seen.ino), seen.born).map_err(&look)?;
                    let nlink = self.base.find(&step.path).map_err(&look)?.map_or(1, |n| n.attr.nlink);
                    let mut record = pin::record_of(ino, &step.path, old, nlink, None);
                    if let Some(dir) = before.get(&step.path) {
                        let Attr { nlink, mtime, ctime, .. } = dir.attr;
                        record.attr = Attr { nlink, mtime, ctime, ..record.attr };
                    }
                    match seen.kind {
                        _ if stays => pins.became(old, Became::Stays),
                        _ if seen.kind != Kind::Dir => pins.became(old, Became::Kept(old.version)),
                        Kind::Dir => {
                            record.opaque = true;
                            pins.became(old, Became::Gone);
                        }
                        _ => {}
                    }
                    if stays {
                        pins.inode(&mut self.batch, ino, &record, &step.path)?;
                    } else {
                        let entry = Dentry::Entry { ino, kind: seen.kind };
                        pins.name(&mut self.batch, parent.ino, name, entry, &step.path, Some((ino, &record)))?;
                    }
                }
            }
            // Entries are looked for in directories that have a record; one that goes itself gets another one.
            if !by_path.contains_key(dir.as_bytes()) {
                let record = match before.get(&dir) {
                    Some(record) => record.clone(),
                    None => self.base_record(&parent).map_err(&look)?,
                };
                pins.inode(&mut self.batch, parent.ino, &record, &dir)?;
            }
        }
        pins.rewrite(&mut self.batch)?;
        self.inodes.append(&mut pins.inodes);
        self.names.append(&mut pins.names);
        Ok(())
    }

    /// The file of the base that a new name is linked to, unless the plan itself makes it.
    fn linked(&self, to: &Path, by_path: &ByPath<'_>, plan: &Plan) -> Look<Option<Node>> {
        let step = by_path.get(to.as_bytes()).and_then(|&at| plan.steps.get(at));
        if step.is_some_and(|step| !matches!(step.make, Make::Keep | Make::Meta { .. })) {
            return Ok(None);
        }
        Ok(self.base.find(to)?.filter(|node| node.kind != Kind::Dir))
    }

    /// After the base was changed: what the steps that were done mean for the present.
    pub fn steps(&mut self, plan: &Plan, outcome: &Outcome, how: How) -> Result<()> {
        let restored = how != How::Leaves;
        let look = os("applied, but what it means cannot be read");
        let store = self.overlay.store().clone();
        let mut kept: BTreeMap<u64, Kept> = keep::all(&store, self.kept)?.into_iter().map(|k| (k.step, k)).collect();
        let mut pins = Pins::new(self.overlay)?;
        let mut lost: Vec<Seen> = Vec::new();
        let by_path = plan.by_path();
        let done: BTreeMap<usize, Option<Seen>> = outcome.done.iter().map(|made| (made.step, made.seen)).collect();
        for (at, step) in plan.steps.iter().enumerate().filter(|(_, s)| s.make != Make::Keep) {
            let one = kept.remove(&(at as u64));
            let Some(made) = done.get(&at) else {
                // What is not done is not there to be undone.
                self.batch.delete(Table::Meta, &keys::kept(self.kept, at as u64));
                continue;
            };
            let old = one.and_then(|k| k.old);
            lost.extend(old.as_ref().map(|o| o.seen).filter(|s| made.is_none_or(|m| m.ino != s.ino)));
            if let (Make::Meta { .. }, Some(old), Some(made)) = (&step.make, &old, made)
                && old.seen.kind == Kind::File
            {
                let ino = self.base.number_of(old.seen.dev, Ino(old.seen.ino), old.seen.born).map_err(&look)?;
                pins.became(old, Became::Same(*made));
                self.same.insert((made.dev, made.ino), *made);
                let nlink = self.base.find(&step.path).map_err(&look)?.map_or(1, |n| n.attr.nlink);
                let record = pin::record_of(ino, &step.path, old, nlink, Some(made));
                pins.inode(&mut self.batch, ino, &record, &step.path)?;
            }
            if let (Make::Link { to }, Some(made)) = (&step.make, made)
                && self.linked(to, &by_path, plan).map_err(&look)?.is_some()
            {
                pins.looks(*made);
                self.same.insert((made.dev, made.ino), *made);
            }
            let one = Kept { step: at as u64, path: step.path.clone(), old, made: *made };
            keep::put(&mut self.batch, self.kept, &one);
        }
        pins.rewrite(&mut self.batch)?;
        self.inodes.append(&mut pins.inodes);
        self.names.append(&mut pins.names);
        self.unmark(restored).map_err(&look)?;
        if !restored {
            self.directories(plan, &done).map_err(&look)?;
            self.other_names(lost).map_err(&look)?;
        }
        for (&at, made) in &done {
            let Some(step) = plan.steps.get(at).filter(|s| s.make != Make::Keep) else { continue };
            if !restored {
                self.present(&step.path, made.as_ref()).map_err(&look)?;
            } else if how == How::Again
                && let (Some(made), Some(base)) = (made, self.base.find(&step.path).map_err(&look)?)
            {
                self.cover(&base, made, &step.path).map_err(&look)?;
            }
        }
        Ok(())
    }

    fn base_record(&self, node: &Node) -> Look<InodeRecord> {
        let base = self.overlay.base();
        let path = node.origin_path().cloned().ok_or(Errno::ESTALE)?;
        let stat = if node.ino == Ino::ROOT { base.root()? } else { base.stat_path(&path)? };
        Ok(record_of(node.ino, &stat, &path))
    }

    fn record(&self, ino: Ino) -> Look<Option<InodeRecord>> {
        match self.records.get(&ino) {
            Some(record) => Ok(Some(record.clone())),
            None => self.now.inode(ino),
        }
    }

    fn put_record(&mut self, ino: Ino, record: InodeRecord, path: &Path) {
        let (timeline, epoch) = (self.overlay.timeline(), self.overlay.epoch());
        let mut value = Vec::new();
        codec::put_inode(&mut value, &record);
        self.batch.put(Table::Tree, &keys::inode(timeline, ino, epoch), &value);
        self.batch.put(Table::Tree, &keys::touched_inode(timeline, epoch, ino), path.as_bytes());
        self.inodes.insert(ino, path.clone());
        self.records.insert(ino, record);
    }

    fn put_name(&mut self, dir: Ino, name: &[u8], dentry: Option<Dentry>, path: &Path) {
        let (timeline, epoch) = (self.overlay.timeline(), self.overlay.epoch());
        let mut value = Vec::new();
        if let Some(dentry) = dentry {
            codec::put_dentry(&mut value, dentry);
        }
        self.batch.put(Table::Tree, &keys::dentry(timeline, dir, name, epoch), &value);
        self.batch.put(Table::Tree, &keys::touched_name(timeline, epoch, dir, name), path.as_bytes());
        self.names.insert((dir, name.into()), path.clone());
    }

    /// What the present has to say about a path of the base that was changed.
    fn present(&mut self, path: &Path, made: Option<&Seen>) -> Look<()> {
        let Some((dir, name)) = path.split_last() else { return Ok(()) };
        let shown = self.now.find(path)?;
        let base = self.base.find(path)?;
        let parent = self.now.find(&dir)?.filter(|d| d.kind == Kind::Dir);
        match (&shown, &base, made) {
            (None, None, _) => {
                // Gone on both sides: nothing has to be covered any more, in a directory that shows the one of the base.
                if let Some(parent) = parent.as_ref().filter(|p| p.shows() == Some(&dir))
                    && self.now.entry(parent.ino, name)?.is_some()
                    && self.base.find(&dir)?.is_some_and(|d| d.ino == parent.ino)
                {
                    self.put_name(parent.ino, name, None, path);
                }
                Ok(())
            }
            (None, Some(base), Some(made)) => {
                self.cover(base, made, path)?;
                match &parent {
                    Some(parent) => {
                        self.dir_record(parent, &dir)?;
                        self.put_name(parent.ino, name, Some(Dentry::Whiteout { hid: base.ino }), path);
                        Ok(())
                    }
                    None => Ok(()),
                }
            }
            (Some(shown), Some(base), Some(made)) => {
                self.rebase(shown, base, made, path)?;
                match &parent {
                    Some(parent) if shown.ino != base.ino || parent.shows() != Some(&dir) => {
                        self.dir_record(parent, &dir)?;
                        self.stays(parent.ino, name, shown, path)
                    }
                    _ => Ok(()),
                }
            }
            // What is shown does not come from the base: history was pinned, and so is this.
            (Some(_), None, _) | (_, Some(_), None) => Ok(()),
        }
    }

    /// Ends the marks of earlier applies whose files are elsewhere by now: the base may have something else there. An apply that is taken
    /// back, or done again, ends all of them.
    fn unmark(&mut self, all: bool) -> Look<()> {
        let store = self.overlay.store().clone();
        let mut marks = Vec::new();
        let (from, to) = keys::all_applied(self.overlay.timeline());
        let scanned = store.kv.scan(Table::Meta, &from, &to, &mut |key, path| {
            marks.extend(keys::last_number(key).map(|n| (Ino(n), Path::new(path))));
            std::ops::ControlFlow::Continue(())
        });
        scanned.map_err(|e| e.errno())?;
        for (ino, path) in marks {
            if all || self.now.find(&path)?.is_none_or(|node| node.ino != ino) {
                self.batch.delete(Table::Meta, &keys::applied(self.overlay.timeline(), ino));
            }
        }
        Ok(())
    }

    /// Files that lost a name in the base and have others there are known by one of those from now on. One that has none in the repository any more
    /// is gone, whatever leads to it from outside, and whatever the past, in which it was pinned, says of it.
    fn other_names(&mut self, lost: Vec<Seen>) -> Look<()> {
        let mut several: BTreeMap<u64, (Ino, InodeRecord)> = BTreeMap::new();
        for seen in lost {
            let ino = self.base.number_of(seen.dev, Ino(seen.ino), seen.born)?;
            if let Some(record) = self.record(ino)?.filter(|r| r.attr.nlink > 0)
                && record.origin.as_ref().is_some_and(|o| (o.dev, o.ino) == (seen.dev, seen.ino))
            {
                several.insert(seen.ino, (ino, record));
            }
        }
        if several.is_empty() {
            return Ok(());
        }
        let links = base_links(&**self.overlay.base(), &|ino| several.contains_key(&ino), &|_| false)?;
        let now = self.now.clone();
        let places = Places::new(&now);
        for (number, (ino, mut record)) in several {
            let path = links.get(&number).and_then(|paths| paths.first());
            match path.map(|path| self.base.find(path)).transpose()?.flatten().zip(path) {
                Some((node, path)) => {
                    record.origin = Some(origin_of(path, &seen(&node)));
                    self.put_record(ino, record, path);
                }
                None => {
                    let mut named = false;
                    for (dir, name) in places.entries(ino)? {
                        let place = Place { dir: *dir, name: name.clone(), base_dir: None };
                        named |= places.path_at(&place)?.is_some();
                    }
                    if !named {
                        record.attr.nlink = 0;
                        let path = record.origin.as_ref().map_or_else(Path::root, |o| o.path.clone());
                        self.put_record(ino, record, &path);
                    }
                }
            }
        }
        Ok(())
    }

    /// Directories in which something was done, and that do not show the base's directory at their path, stay what they are while they may be in
    /// use: every name of theirs that the base does not have any more, or has since, was pinned. The next mount can do without them.
    fn directories(&mut self, plan: &Plan, done: &BTreeMap<usize, Option<Seen>>) -> Look<()> {
        let mut dirs: BTreeSet<Path> = BTreeSet::new();
        for step in done.keys().filter_map(|&at| plan.steps.get(at)).filter(|s| s.make != Make::Keep) {
            let mut at = step.path.clone();
            while at != Path::root() && dirs.insert(at.clone()) {
                at = at.split_last().map_or_else(Path::root, |(dir, _)| dir);
            }
        }
        for path in dirs {
            let (Some(shown), Some(base)) = (self.now.find(&path)?, self.base.find(&path)?) else { continue };
            if (shown.kind, base.kind) == (Kind::Dir, Kind::Dir)
                && (shown.shows() != Some(&path) || shown.base != base.base)
                && !differs(&self.now, Some(&shown), Some(&base))?
            {
                self.batch.put(Table::Meta, &keys::applied(self.overlay.timeline(), shown.ino), path.as_bytes());
                self.cover(&base, &seen(&base), &path)?;
            }
        }
        Ok(())
    }

    /// A name keeps what it shows, whatever the base has.
    fn stays(&mut self, dir: Ino, name: &[u8], ours: &Node, path: &Path) -> Look<()> {
        // One of which the metadata was changed in the base was pinned as it was.
        let pinned = ours.base.is_some_and(|base| self.same.contains_key(&base));
        if self.record(ours.ino)?.is_none() && !pinned {
            let record = self.base_record(ours)?;
            self.put_record(ours.ino, record, path);
        }
        self.put_name(dir, name, Some(Dentry::Entry { ino: ours.ino, kind: ours.kind }), path);
        Ok(())
    }

    /// The overlay's file and the base's: if they are the same, the overlay has nothing of its own any more. Directories are another matter.
    fn rebase(&mut self, shown: &Node, base: &Node, made: &Seen, path: &Path) -> Look<()> {
        let same = !differs(&self.now, Some(shown), Some(base))?;
        let Some(mut record) = self.record(shown.ino)? else { return Ok(()) };
        if shown.kind == Kind::Dir {
            return if shown.ino == base.ino { Ok(()) } else { self.cover(base, made, path) };
        }
        // A file of the base that is still there, under its old name, stays known by that.
        let stays = match record.origin.as_ref().filter(|o| (o.dev, o.ino) != (made.dev, made.ino)) {
            Some(origin) => self.base.find(&origin.path)?.is_some_and(|n| n.base == Some((origin.dev, origin.ino))),
            None => false,
        };
        // Bytes that other names or other processes see stay where they are.
        if same && record.attr.nlink == 1 && !stays {
            record.origin = Some(origin_of(path, made));
            if shown.kind == Kind::File {
                record.content = Content::Base;
            }
            self.put_record(shown.ino, record, path);
            self.batch.put(Table::Meta, &keys::applied(self.overlay.timeline(), shown.ino), path.as_bytes());
        } else if shown.ino == base.ino {
            record.origin = Some(origin_of(path, made));
            self.put_record(shown.ino, record, path);
        }
        if shown.ino != base.ino {
            self.cover(base, made, path)?;
        }
        Ok(())
    }

    /// Notes that a base file was seen, though something of the overlay covers it: that is what a later apply compares with.
    fn cover(&mut self, base: &Node, made: &Seen, path: &Path) -> Look<()> {
        match self.record(base.ino)? {
            Some(record) if record.attr.nlink > 0 => return Ok(()),
            // It is in view as it is, in a directory that was moved.
            None if self.shown.has(&self.now, base.ino, path)? => return Ok(()),
            Some(_) | None => {}
        }
        let mut record = self.base_record(base)?;
        record.attr.nlink = 0;
        if let Some(origin) = &mut record.origin {
            origin.print = Print { size: made.size, mtime: made.mtime, ctime: made.ctime };
        }
        self.put_record(base.ino, record, path);
        Ok(())
    }

    /// A directory that gets an entry needs a record.
    fn dir_record(&mut self, dir: &Node, path: &Path) -> Look<()> {
        if self.record(dir.ino)?.is_some_and(|r| r.attr.nlink > 0) {
            return Ok(());
        }
        let record = self.base_record(dir)?;
        self.put_record(dir.ino, record, path);
        Ok(())
    }

    /// A state of the past that is put again, if it is that of a base file which looks different since.
    fn seen_now(&self, key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some((ino, _)) = keys::parse_inode(key).filter(|_| key.first() == Some(&b'i') && !value.is_empty()) else {
            return Ok(None);
        };
        let mut record = codec::get_inode(ino, value)?;
        let Some(origin) = &mut record.origin else { return Ok(None) };
        let Some(seen) = self.same.get(&(origin.dev, origin.ino)) else { return Ok(None) };
        origin.print = Print { size: seen.size, mtime: seen.mtime, ctime: seen.ctime };
        let mut value = Vec::new();
        codec::put_inode(&mut value, &record);
        Ok(Some(value))
    }

    /// Makes the overlay's side of the paths as it was at a point of the past.
    pub fn restore(&mut self, ctx: &Ctx, at: At, plan: &Plan) -> Result<()> {
        let kv = &*self.overlay.store().kv;
        let past = View::new(self.overlay, std::sync::Arc::new(Lineage::of(kv, at)?));
        let paths: Vec<Path> = plan.steps.iter().filter(|s| s.make != Make::Keep).map(|s| s.path.clone()).collect();
        let restored = self.overlay.plan_paths(&past, &paths, ctx).map_err(os("cannot look at the state before"))?;
        let mut puts = Batch::new();
        self.overlay.put_plan(&mut puts, &restored);
        for (table, change) in puts.changes() {
            let (key, value) = match change {
                Change::Put(key, value) => (key, value),
                Change::Delete(key) => {
                    self.batch.delete(table, key);
                    continue;
                }
            };
            match self.seen_now(key, value)? {
                Some(value) => self.batch.put(table, key, &value),
                None => self.batch.put(table, key, value),
            }
        }
        restored.touched(&mut self.inodes, &mut self.names);
        Ok(())
    }
}

/// What is at a path of the base now.
pub(super) fn seen(node: &Node) -> Seen {
    let (dev, ino) = node.base.unwrap_or_default();
    let a = &node.attr;
    Seen { kind: node.kind, dev, ino, born: node.born(), size: a.size, mtime: a.mtime, ctime: a.ctime }
}

fn origin_of(path: &Path, made: &Seen) -> Origin {
    let print = Print { size: made.size, mtime: made.mtime, ctime: made.ctime };
    Origin { path: path.clone(), dev: made.dev, ino: made.ino, born: made.born, print }
}
