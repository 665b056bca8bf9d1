//! What differs between the base and what the mount shows, as the log has it.
//!
//! A [`View`] is read from the log in one go and looks at the base itself: it neither needs nor fills the table of inodes in
//! memory, so a diff of a live mount leaves no trace in the daemon. Costs are those of the changes, not of the repository.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::ControlFlow;

use rustc_hash::{FxHashMap, FxHashSet};
use rustix::io::Errno as Os;

use super::chunks::CHUNK;
use super::inode::{Bytes, Place, State};
use super::tree::{load_record, load_version};
use super::{Inode, Overlay, Result, failed};
use crate::base::BaseStat;
use crate::store::codec::{self, Content, Dentry, InodeRecord, Origin};
use crate::store::data::read_full;
use crate::store::{Store, StoreError, Table, keys};
use crate::types::event::ContentRef;
use crate::types::{Ino, Kind, Name, Path, Range, Timeline, VersionId};

/// Device and inode number of a base file.
pub type BaseId = (u64, u64);

/// A file on one side of the comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    pub perm: u16,
    pub size: u64,
    /// The base file that it is, or was before it was changed.
    pub base: Option<BaseId>,
    place: Where,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Where {
    /// A base file as it is, by its path in the base.
    Base(Path),
    /// An inode of the log.
    Log(Ino),
}

/// What the comparison needs of an inode's record.
struct Slim {
    kind: Kind,
    perm: u16,
    size: u64,
    content: Content,
    opaque: bool,
    origin: Option<Box<Origin>>,
}

/// The changed names of a directory.
type Entries = FxHashMap<Name, Dentry>;

/// See the module.
pub struct View<'a> {
    overlay: &'a Overlay,
    records: FxHashMap<Ino, Slim>,
    by_base: FxHashMap<BaseId, Ino>,
    entries: FxHashMap<Ino, Entries>,
    /// For base directories: the names in them below which something changed.
    dirty: FxHashMap<Path, BTreeSet<Name>>,
}

type Add<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError>;

/// Scans a range of the tree in which the newest state of a thing comes first; `add` returns whether it was new.
fn scan(store: &Store, (from, to): (keys::Key, keys::Key), add: Add<'_>) -> Result<(), StoreError> {
    let mut outcome = Ok(());
    store.kv.scan(Table::Tree, &from, &to, &mut |key, value| match add(key, value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(e) => {
            outcome = Err(e);
            ControlFlow::Break(())
        }
    })?;
    outcome
}

/// What is not there is no error: it may have vanished while we look.
fn present<T>(result: Result<T, Os>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Os::NOENT | Os::NOTDIR | Os::LOOP) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

impl<'a> View<'a> {
    /// Reads all changes from the log.
    pub fn new(overlay: &'a Overlay) -> Result<View<'a>, StoreError> {
        let (store, timeline) = (&overlay.store, Timeline::MAIN);
        let mut view = View {
            overlay,
            records: FxHashMap::default(),
            by_base: FxHashMap::default(),
            entries: FxHashMap::default(),
            dirty: FxHashMap::default(),
        };
        // Names first: one that points to an inode removed meanwhile is skipped, an inode without its name would be missed.
        scan(store, keys::all_dentries(timeline), &mut |key, value| {
            if let Some((dir, name, _)) = keys::parse_dentry(key) {
                let dentry = codec::get_dentry(value)?;
                view.entries.entry(dir).or_default().entry(name.into()).or_insert(dentry);
            }
            Ok(())
        })?;
        scan(store, keys::all_inodes(timeline), &mut |key, value| {
            if let Some((ino, _)) = keys::parse_inode(key)
                && !view.records.contains_key(&ino)
            {
                let InodeRecord { attr, content, opaque, origin, .. } = codec::get_inode(ino, value)?;
                let origin = origin.map(Box::new);
                let slim = Slim { kind: attr.kind, perm: attr.perm, size: attr.size, content, opaque, origin };
                view.records.insert(ino, slim);
            }
            Ok(())
        })?;
        let records = std::mem::take(&mut view.records);
        for (ino, record) in &records {
            if let Some(origin) = &record.origin {
                view.by_base.insert((origin.dev, origin.ino), *ino);
                view.mark(&origin.path);
            }
        }
        view.records = records;
        Ok(view)
    }

    /// Notes that something at this base path may have changed.
    fn mark(&mut self, path: &Path) {
        let mut at = path.clone();
        while let Some((dir, name)) = at.split_last() {
            if !self.dirty.entry(dir.clone()).or_default().insert(name.into()) {
                return;
            }
            at = dir;
        }
    }

    /// Finds the other names that changed base files have in the base. Only files with several links cost the walk over the
    /// base that this takes; `skip` names directories that are left out of it.
    pub fn find_links(&mut self, skip: &dyn Fn(&[u8]) -> bool) -> Result<()> {
        let mut wanted = FxHashSet::default();
        for record in self.records.values() {
            let Some(origin) = record.origin.as_ref().filter(|_| record.kind == Kind::File) else { continue };
            let stat = present(self.overlay.base.stat_path(&origin.path))?;
            if stat.is_some_and(|s| s.attr.nlink > 1 && s.attr.ino.0 == origin.ino) {
                wanted.insert(origin.ino);
            }
        }
        let mut dirs = if wanted.is_empty() { Vec::new() } else { vec![Path::root()] };
        while let Some(dir) = dirs.pop() {
            // A directory that cannot be listed is reported by the comparison, if it comes that far.
            for entry in self.overlay.base.list(&dir).unwrap_or_default() {
                let path = dir.join(&entry.name);
                match entry.kind {
                    Some(Kind::Dir) if !skip(&entry.name) => dirs.push(path),
                    _ if wanted.contains(&entry.ino) => self.mark(&path),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The root as the mount shows it, and as it is in the base.
    pub fn roots(&self) -> (Node, Node) {
        let base = Node { kind: Kind::Dir, perm: 0, size: 0, base: None, place: Where::Base(Path::root()) };
        let mut shown = base.clone();
        if self.records.contains_key(&Ino::ROOT) || self.entries.contains_key(&Ino::ROOT) {
            shown.place = Where::Log(Ino::ROOT);
        }
        (base, shown)
    }

    fn base_node(stat: &BaseStat, path: Path) -> Node {
        Node {
            kind: stat.attr.kind,
            perm: stat.attr.perm,
            size: stat.attr.size,
            base: Some((stat.dev, stat.attr.ino.0)),
            place: Where::Base(path),
        }
    }

    fn log_node(&self, ino: Ino) -> Option<Node> {
        let record = self.records.get(&ino)?;
        Some(Node {
            kind: record.kind,
            perm: record.perm,
            size: record.size,
            base: record.origin.as_ref().map(|o| (o.dev, o.ino)),
            place: Where::Log(ino),
        })
    }

    /// The inode of the log that a base file has become.
    fn changed(&self, stat: &BaseStat) -> Option<Ino> {
        let ino = *self.by_base.get(&(stat.dev, stat.attr.ino.0))?;
        let record = self.records.get(&ino)?;
        let born = record.origin.as_ref().and_then(|o| o.born);
        (record.kind == stat.attr.kind && (born.is_none() || born == stat.born)).then_some(ino)
    }

    /// The base directory whose entries a directory shows where nothing covers them.
    pub fn shows(&self, dir: &Node) -> Option<Path> {
        match &dir.place {
            Where::Base(path) => Some(path.clone()),
            Where::Log(Ino::ROOT) if !self.records.contains_key(&Ino::ROOT) => Some(Path::root()),
            Where::Log(ino) => {
                let record = self.records.get(ino).filter(|r| !r.opaque)?;
                record.origin.as_ref().map(|o| o.path.clone())
            }
        }
    }

    fn own_entries(&self, dir: &Node) -> Option<&Entries> {
        match dir.place {
            Where::Log(ino) => self.entries.get(&ino),
            Where::Base(_) => None,
        }
    }

    /// The base's entry of a base directory.
    pub fn base_child(&self, dir: &Path, name: &[u8]) -> Result<Option<Node>> {
        Ok(present(self.overlay.base.stat(dir, name))?.map(|stat| View::base_node(&stat, dir.join(name))))
    }

    /// The entry that the mount shows.
    pub fn child(&self, dir: &Node, name: &[u8]) -> Result<Option<Node>> {
        match self.own_entries(dir).and_then(|e| e.get(name)) {
            Some(Dentry::Whiteout) => return Ok(None),
            Some(Dentry::Entry { ino, .. }) => return Ok(self.log_node(*ino)),
            None => {}
        }
        let Some(shown) = self.shows(dir) else { return Ok(None) };
        let Some(stat) = present(self.overlay.base.stat(&shown, name))? else { return Ok(None) };
        Ok(match self.changed(&stat) {
            Some(ino) => self.log_node(ino),
            None => Some(View::base_node(&stat, shown.join(name))),
        })
    }

    /// The names in a base directory.
    pub fn base_names(&self, dir: &Path) -> Result<Vec<Name>> {
        Ok(self.overlay.base.list(dir)?.into_iter().map(|e| e.name).collect())
    }

    /// The names that the mount shows in a directory.
    pub fn names(&self, dir: &Node) -> Result<Vec<Name>> {
        let mut names: BTreeSet<Name> = match self.shows(dir) {
            Some(shown) => self.base_names(&shown)?.into_iter().collect(),
            None => BTreeSet::new(),
        };
        for (name, dentry) in self.own_entries(dir).into_iter().flatten() {
            match dentry {
                Dentry::Whiteout => names.remove(name),
                Dentry::Entry { .. } => names.insert(name.clone()),
            };
        }
        Ok(names.into_iter().collect())
    }

    /// The names below which a directory may differ from `base`, the base directory that it shows.
    pub fn changed_names(&self, dir: &Node, base: &Path) -> Vec<Name> {
        let mut names = self.dirty.get(base).cloned().unwrap_or_default();
        names.extend(self.own_entries(dir).into_iter().flatten().map(|(name, _)| name.clone()));
        names.into_iter().collect()
    }

    /// The node at a path of the mount.
    pub fn find(&self, path: &Path) -> Result<Option<Node>> {
        let (_, mut at) = self.roots();
        for name in path.components() {
            match self.child(&at, name)? {
                Some(node) => at = node,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// Where in the base a node is that the overlay does not change; `None` for those that it does.
    pub fn base_path(&self, node: &Node) -> Option<Path> {
        match &node.place {
            Where::Base(path) => Some(path.clone()),
            Where::Log(_) => None,
        }
    }

    /// The inode's record with everything, as it is now.
    fn record(&self, ino: Ino) -> Result<InodeRecord> {
        load_record(&self.overlay.store, Timeline::MAIN, ino).map_err(failed)?.ok_or(crate::types::Errno::ENOENT)
    }

    /// Opens a regular file for reading.
    pub fn open(&self, node: &Node) -> Result<Reader<'a>> {
        match &node.place {
            Where::Base(path) => Ok(Reader::Base(self.overlay.base.open(path)?)),
            Where::Log(ino) => Reader::of_record(self.overlay, *ino, &self.record(*ino)?),
        }
    }

    /// Where a symbolic link points.
    pub fn target(&self, node: &Node) -> Result<Vec<u8>> {
        let path = match &node.place {
            Where::Base(path) => path.clone(),
            Where::Log(ino) => match self.record(*ino)? {
                InodeRecord { target: Some(target), .. } => return Ok(target.into()),
                InodeRecord { origin: Some(origin), .. } => origin.path,
                InodeRecord { .. } => return Err(crate::types::Errno::ENOENT),
            },
        };
        Ok(self.overlay.base.readlink(&path)?)
    }

    /// The parts of a file that may differ from the base file `base`, or `None` when that may be everything.
    pub fn suspect(&self, node: &Node, base: &Node) -> Result<Option<Vec<Range>>> {
        if node.base.is_none() || node.base != base.base {
            return Ok(None);
        }
        let Where::Log(ino) = node.place else { return Ok(Some(Vec::new())) };
        match self.records.get(&ino).map(|r| r.content) {
            Some(Content::Base) => Ok(Some(Vec::new())),
            Some(Content::Version { id, stamp }) => {
                let version = load_version(&self.overlay.store, id, stamp).map_err(failed)?;
                if version.record.parent != codec::Parent::Base {
                    return Ok(None);
                }
                let limit = version.record.limit;
                let mut ranges = Vec::new();
                let mut chunk: u64 = 0;
                while chunk.saturating_mul(CHUNK) < limit {
                    let (own, next) = version.own.run_at(chunk);
                    if own {
                        ranges.push(Range::new(chunk * CHUNK, (next - chunk).saturating_mul(CHUNK)));
                    }
                    chunk = next;
                }
                ranges.push(Range::new(limit, Range::TO_END));
                Ok(Some(ranges))
            }
            Some(Content::None) | None => Ok(None),
        }
    }
}

/// The bytes of a file, without its being known to the kernel.
pub enum Reader<'a> {
    Empty,
    Base(File),
    Log(&'a Overlay, Box<Inode>),
}

impl<'a> Reader<'a> {
    fn of_record(overlay: &'a Overlay, ino: Ino, record: &InodeRecord) -> Result<Reader<'a>> {
        let content = match record.content {
            Content::None => Bytes::None,
            Content::Base => Bytes::Base,
            Content::Version { id, stamp } => {
                Bytes::Version(Box::new(load_version(&overlay.store, id, stamp).map_err(failed)?))
            }
        };
        let state = State {
            attr: record.attr,
            content,
            origin: record.origin.clone().map(Box::new),
            recorded: true,
            opaque: record.opaque,
            place: Place { parent: Ino::ROOT, name: Name::default(), path: Path::root(), as_of: 0 },
            dir: None,
            target: None,
            xattrs: None,
        };
        Ok(Reader::Log(overlay, Box::new(Inode::new(ino, record.attr.kind, state))))
    }

    /// Reads at `offset`; fewer bytes only at the end.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<usize> {
        match self {
            Reader::Empty => Ok(0),
            Reader::Base(file) => read_full(file, offset, out).map_err(|e| crate::types::Errno::from_io(&e)),
            Reader::Log(overlay, inode) => overlay.read_state(inode, &inode.state.read(), offset, out),
        }
    }
}

/// A state of a file's bytes that can still be read.
pub struct Found<'a> {
    pub size: u64,
    pub reader: Reader<'a>,
}

/// Where such bytes are.
enum Located {
    Empty,
    Base(Path),
    Log(Box<InodeRecord>),
}

/// The content ref that the base file behind `stat` has.
pub fn base_ref(stat: &BaseStat, path: &Path) -> ContentRef {
    let print = super::tree::print(&stat.attr);
    let origin = codec::Origin { path: path.clone(), dev: stat.dev, ino: stat.attr.ino.0, born: stat.born, print };
    ContentRef { version: VersionId::BASE, stamp: super::inode::base_stamp(&origin) }
}

impl Overlay {
    fn locate(&self, ino: Ino, content: ContentRef, path: &Path) -> Result<Option<(u64, Located)>> {
        if content == ContentRef::default() {
            // A file that was born here and is still empty.
            return Ok(Some((0, Located::Empty)));
        }
        let record = load_record(&self.store, self.timeline, ino).map_err(failed)?;
        if content.version != VersionId::BASE {
            let now = |r: &InodeRecord| r.content == Content::Version { id: content.version, stamp: content.stamp };
            return Ok(record.filter(now).map(|r| (r.attr.size, Located::Log(Box::new(r)))));
        }
        let origin = record.and_then(|r| r.origin).map(|o| o.path);
        for path in origin.iter().chain([path]) {
            if let Some(stat) = present(self.base.stat_path(path))?
                && stat.attr.kind == Kind::File
                && base_ref(&stat, path) == content
            {
                return Ok(Some((stat.attr.size, Located::Base(path.clone()))));
            }
        }
        Ok(None)
    }

    /// The bytes that an inode had, if they are those that it has now, or those of the base file at `path` or where the inode
    /// came from.
    pub fn find_content(&self, ino: Ino, content: ContentRef, path: &Path) -> Result<Option<Found<'_>>> {
        let Some((size, place)) = self.locate(ino, content, path)? else { return Ok(None) };
        let reader = match place {
            Located::Empty => Reader::Empty,
            Located::Base(path) => Reader::Base(self.base.open(&path)?),
            Located::Log(record) => Reader::of_record(self, ino, &record)?,
        };
        Ok(Some(Found { size, reader }))
    }

    /// The size of the bytes that [`Overlay::find_content`] would find.
    pub fn find_size(&self, ino: Ino, content: ContentRef, path: &Path) -> Result<Option<u64>> {
        Ok(self.locate(ino, content, path)?.map(|(size, _)| size))
    }

    /// The largest size that is known of a file: what it has now, or had in the base. `None` when it is gone.
    pub fn known_size(&self, ino: Ino, path: &Path) -> Result<Option<u64>> {
        if let Some(record) = load_record(&self.store, self.timeline, ino).map_err(failed)? {
            let before = record.origin.map_or(0, |o| o.print.size);
            return Ok(Some(record.attr.size.max(before)));
        }
        let stat = present(self.base.stat_path(path))?;
        Ok(stat.filter(|s| s.attr.ino == ino).map(|s| s.attr.size))
    }
}
