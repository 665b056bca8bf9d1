//! The tree at a point of history, read from the log and the base as it is walked.
//!
//! A [`View`] neither needs nor fills the table of inodes in memory, so looking at the past, or comparing it with the present of a
//! live mount, leaves no trace in the daemon. A look at a name costs a look into the log and one into the base; nothing is scanned but
//! what was changed.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use rustix::io::Errno as Os;

use super::extents::{Extents, Source};
use super::inode::{Bytes, Place, State};
use super::transit::record_of;
use super::tree::load_version;
use super::{Inode, Overlay, Result, failed};
use crate::base::BaseStat;
use crate::store::codec::{self, Content, Dentry, InodeRecord};
use crate::store::data::read_full;
use crate::store::lineage::{Lineage, Touched};
use crate::types::event::ContentRef;
use crate::types::{Attr, Epoch, Errno, Ino, Kind, Name, Path, Range, Time, VersionId};

/// Device and inode number of a base file.
pub type BaseId = (u64, u64);

/// A file as a view has it. It stands for itself: every view of the store can read it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its number; that of a base file that nothing ever changed is the one it would have.
    pub ino: Ino,
    pub attr: Attr,
    pub kind: Kind,
    pub perm: u16,
    pub size: u64,
    /// The base file that it is, or was before it was changed.
    pub base: Option<BaseId>,
    /// What the log has of it; `None` for a base file as it is.
    pub record: Option<Arc<InodeRecord>>,
    /// Where a base file without a record is in the base.
    base_path: Path,
    born: Option<Time>,
}

/// See the module.
#[derive(Clone)]
pub struct View<'a> {
    overlay: &'a Overlay,
    lineage: Arc<Lineage>,
    /// What was looked up already; see [`View::remembering`].
    known: Option<Arc<Mutex<Known>>>,
}

type Known = FxHashMap<Ino, Option<InodeRecord>>;
/// How many records a view remembers, at some 200 bytes each, before it begins anew.
const REMEMBERED: usize = 1 << 16;

/// What is not there is no error: it may have vanished while we look.
pub(super) fn present<T>(result: Result<T, Os>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Os::NOENT | Os::NOTDIR | Os::LOOP) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

impl Node {
    /// The base directory whose entries a directory shows where nothing covers them.
    pub fn shows(&self) -> Option<&Path> {
        match &self.record {
            None => Some(&self.base_path),
            Some(record) if record.opaque => None,
            Some(record) => record.origin.as_ref().map(|o| &o.path),
        }
    }

    /// Whether it is a file of the base that the overlay does not change.
    pub fn is_of_base(&self) -> bool {
        self.record.is_none()
    }

    pub fn content(&self) -> Content {
        match &self.record {
            Some(record) => record.content,
            None if self.kind == Kind::File => Content::Base,
            None => Content::None,
        }
    }

    /// Birth time of the base file, where its file system has one.
    pub fn born(&self) -> Option<Time> {
        self.born
    }

    /// Where it came from in the base.
    pub fn origin_path(&self) -> Option<&Path> {
        match &self.record {
            None => Some(&self.base_path),
            Some(record) => record.origin.as_ref().map(|o| &o.path),
        }
    }
}

impl<'a> View<'a> {
    /// The tree at the end of a lineage; with [`Lineage::base`], the base as it is.
    pub fn new(overlay: &'a Overlay, lineage: Arc<Lineage>) -> View<'a> {
        View { overlay, lineage, known: None }
    }

    /// For going through a sealed state, in which everything is looked at several times: looks a record up only once. Not for a state that
    /// is changed while this view is used, as by what an apply pins in the past.
    pub fn remembering(self) -> View<'a> {
        View { known: Some(Arc::default()), ..self }
    }

    /// What the mount shows now.
    pub fn now(overlay: &'a Overlay) -> View<'a> {
        View::new(overlay, overlay.lineage())
    }

    pub fn base(overlay: &'a Overlay) -> View<'a> {
        View::new(overlay, Arc::new(Lineage::base()))
    }

    pub fn lineage(&self) -> &Arc<Lineage> {
        &self.lineage
    }

    pub fn overlay(&self) -> &'a Overlay {
        self.overlay
    }

    /// The record of an inode; one without a name has nlink 0.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn inode(&self, ino: Ino) -> Result<Option<InodeRecord>> {
        let look = || self.lineage.inode(&*self.overlay.store.kv, ino).map_err(failed);
        let Some(known) = &self.known else { return look() };
        if let Some(record) = known.lock().get(&ino) {
            return Ok(record.clone());
        }
        let record = look()?;
        let mut known = known.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(ino, record.clone());
        Ok(record)
    }

    /// Looks up at once what two views will be asked for when they are compared. Only what remembers keeps it.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn learn(one: &View<'_>, two: &View<'_>) -> Result<()> {
        let kv = &*one.overlay.store.kv;
        let mut inos = Vec::new();
        Lineage::touched(kv, &one.lineage, &two.lineage, &mut |touched| match touched {
            Touched::Inode { ino, .. } => inos.push(ino),
            Touched::Name { dir, .. } => inos.push(dir),
        })
        .map_err(failed)?;
        inos.sort_unstable();
        inos.dedup();
        one.learn_all(&inos)?;
        two.learn_all(&inos)
    }

    /// The same for these inodes, which are in order.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn learn_all(&self, inos: &[Ino]) -> Result<()> {
        let Some(known) = &self.known else { return Ok(()) };
        let mut known = known.lock();
        let few = inos.get(..inos.len().min(REMEMBERED)).unwrap_or_default();
        let kv = &*self.overlay.store.kv;
        self.lineage.inodes(kv, few, &mut |ino, record| drop(known.insert(ino, record))).map_err(failed)
    }

    pub fn root(&self) -> Result<Node> {
        if let Some(record) = self.inode(Ino::ROOT)? {
            return Ok(View::log_node(Ino::ROOT, record));
        }
        let stat = self.overlay.base.root()?;
        Ok(View::base_node(Ino::ROOT, &stat, Path::root()))
    }

    fn base_node(ino: Ino, stat: &BaseStat, path: Path) -> Node {
        Node {
            ino,
            attr: Attr { ino, ..stat.attr },
            kind: stat.attr.kind,
            perm: stat.attr.perm,
            size: stat.attr.size,
            base: Some((stat.dev, stat.attr.ino.0)),
            record: None,
            base_path: path,
            born: stat.born,
        }
    }

    pub(crate) fn log_node(ino: Ino, record: InodeRecord) -> Node {
        Node {
            ino,
            attr: record.attr,
            kind: record.attr.kind,
            perm: record.attr.perm,
            size: record.attr.size,
            base: record.origin.as_ref().map(|o| (o.dev, o.ino)),
            born: record.origin.as_ref().and_then(|o| o.born),
            record: Some(Arc::new(record)),
            base_path: Path::root(),
        }
    }

    /// The record of a node, made up for a base file as it is.
    ///
    /// # Errors
    /// When the base does not have that file any more.
    pub fn full(&self, node: &Node) -> Result<InodeRecord> {
        if let Some(record) = &node.record {
            return Ok((**record).clone());
        }
        let base = &self.overlay.base;
        let stat = if node.ino == Ino::ROOT { base.root()? } else { base.stat_path(&node.base_path)? };
        Ok(record_of(node.ino, &stat, &node.base_path))
    }

    /// The node with a number, as far as the log knows it.
    pub fn by_number(&self, ino: Ino) -> Result<Option<Node>> {
        Ok(self.inode(ino)?.filter(|r| r.attr.nlink > 0).map(|record| View::log_node(ino, record)))
    }

    /// The node for a base file: what the log made of it, or the file as it is. The numbers are those that a mount gives.
    fn of_base(&self, stat: &BaseStat, path: Path) -> Result<Node> {
        if self.lineage.is_base() {
            return Ok(View::base_node(self.number(stat)?, stat, path));
        }
        let own = self.inode(stat.attr.ino)?;
        let ino = match own.as_ref().and_then(|record| record.origin.as_ref()) {
            // It says itself that it is this file. So what the log has now of the number, which another look would tell, does not matter.
            Some(o) if o.dev == stat.dev && o.ino == stat.attr.ino.0 && o.born.is_some() && o.born == stat.born => {
                stat.attr.ino
            }
            Some(_) | None => self.number(stat)?,
        };
        let record = if ino == stat.attr.ino { own } else { self.inode(ino)? };
        match record.filter(|r| r.attr.nlink > 0 && r.attr.kind == stat.attr.kind) {
            Some(record) => Ok(View::log_node(ino, record)),
            None => Ok(View::base_node(ino, stat, path)),
        }
    }

    /// As [`Overlay::number`], but gives no new numbers.
    fn number(&self, stat: &BaseStat) -> Result<Ino> {
        self.number_of(stat.dev, stat.attr.ino, stat.born)
    }

    /// The number that a mount gives, or would give, to a base file.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn number_of(&self, dev: u64, ino: Ino, born: Option<Time>) -> Result<Ino> {
        self.overlay.logged_number(dev, ino, born)
    }

    /// What the overlay has for a name, whatever the directory is.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn entry(&self, dir: Ino, name: &[u8]) -> Result<Option<Dentry>> {
        self.lineage.dentry(&*self.overlay.store.kv, dir, name).map_err(failed)
    }

    fn dentry(&self, dir: &Node, name: &[u8]) -> Result<Option<Dentry>> {
        if dir.record.is_none() || self.lineage.is_base() {
            return Ok(None);
        }
        self.lineage.dentry(&*self.overlay.store.kv, dir.ino, name).map_err(failed)
    }

    /// The entry of a directory.
    pub fn child(&self, dir: &Node, name: &[u8]) -> Result<Option<Node>> {
        match self.dentry(dir, name)? {
            Some(Dentry::Whiteout { .. }) => return Ok(None),
            Some(Dentry::Entry { ino, .. }) => return self.by_number(ino),
            None => {}
        }
        let Some(shown) = dir.shows() else { return Ok(None) };
        let Some(stat) = present(self.overlay.base.stat(shown, name))? else { return Ok(None) };
        self.of_base(&stat, shown.join(name)).map(Some)
    }

    /// The names in a directory.
    pub fn names(&self, dir: &Node) -> Result<Vec<Name>> {
        let mut names: BTreeSet<Name> = match dir.shows() {
            Some(shown) => self.overlay.base.list(shown)?.into_iter().map(|e| e.name).collect(),
            None => BTreeSet::new(),
        };
        if dir.record.is_some() && !self.lineage.is_base() {
            let each = &mut |name: &[u8], dentry| {
                match dentry {
                    Dentry::Whiteout { .. } => names.remove(name),
                    Dentry::Entry { .. } => names.insert(name.into()),
                };
            };
            self.lineage.dentries(&*self.overlay.store.kv, dir.ino, each).map_err(failed)?;
        }
        Ok(names.into_iter().collect())
    }

    /// The node at a path.
    pub fn find(&self, path: &Path) -> Result<Option<Node>> {
        let mut at = self.root()?;
        for name in path.components() {
            if at.kind != Kind::Dir {
                return Ok(None);
            }
            match self.child(&at, name)? {
                Some(node) => at = node,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// Opens a regular file for reading.
    pub fn open(&self, node: &Node) -> Result<Reader<'a>> {
        match &node.record {
            None => Ok(Reader::Base(self.overlay.base.open(&node.base_path)?)),
            Some(record) => Reader::of_record(self.overlay, node.ino, record),
        }
    }

    /// Where a symbolic link points.
    pub fn target(&self, node: &Node) -> Result<Vec<u8>> {
        if let Some(target) = node.record.as_ref().and_then(|r| r.target.as_ref()) {
            return Ok(target.to_vec());
        }
        Ok(self.overlay.base.readlink(node.origin_path().ok_or(Errno::ENOENT)?)?)
    }

    /// All extended attributes.
    pub fn xattrs(&self, node: &Node) -> Result<codec::Xattrs> {
        if let Some(xattrs) = node.record.as_ref().and_then(|r| r.xattrs.as_ref()) {
            return Ok(xattrs.clone());
        }
        match node.origin_path() {
            Some(path) => self.overlay.base_xattrs(path),
            None => Ok(codec::Xattrs::new()),
        }
    }

    /// Where a file's bytes come from.
    fn extents(&self, node: &Node) -> Result<Extents> {
        Ok(match node.content() {
            Content::None => Extents::default(),
            Content::Base => Extents::one(0, node.size, Source::Base),
            Content::Version { id, stamp } => {
                load_version(&self.overlay.store, id, stamp).map_err(failed)?.flatten(node.size)
            }
        })
    }

    /// The parts in which two files may differ, or `None` when that may be everything.
    pub fn suspect(&self, one: &Node, two: &Node) -> Result<Option<Vec<Range>>> {
        let (a, b) = (self.extents(one)?, self.extents(two)?);
        let same_base = one.base.is_some() && one.base == two.base;
        let size = one.size.min(two.size);
        let mut ranges = Vec::new();
        let (mut at, mut shared) = (0, false);
        while at < size {
            let ((x, x_end), (y, y_end)) = (a.at(at), b.at(at));
            let end = x_end.min(y_end).min(size);
            if x == y && (x != Some(Source::Base) || same_base) {
                shared = true;
            } else {
                ranges.push(Range::new(at, end - at));
            }
            at = end;
        }
        if !shared && size > 0 {
            return Ok(None);
        }
        if one.size != two.size {
            ranges.push(Range::new(size, Range::TO_END));
        }
        Ok(Some(ranges))
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
            touched: Epoch::BASE,
            opaque: record.opaque,
            place: Place { parent: Ino::ROOT, name: Name::default(), path: Path::root(), as_of: 0, lost: false },
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

    /// The first range at or after `offset` that is no hole, of a file of `size` bytes.
    pub fn next_data(&self, offset: u64, size: u64) -> Result<Option<Range>> {
        use super::content::seek_file;
        let (start, end) = match self {
            Reader::Empty => return Ok(None),
            Reader::Base(file) => match seek_file(file, offset, true, size)? {
                Some(start) => (start, seek_file(file, start, false, size)?.unwrap_or(size)),
                None => return Ok(None),
            },
            Reader::Log(overlay, inode) => {
                let state = inode.state.read();
                match overlay.seek_state(inode, &state, offset, true)? {
                    Some(start) => (start, overlay.seek_state(inode, &state, start, false)?.unwrap_or(size)),
                    None => return Ok(None),
                }
            }
        };
        Ok((start < size && end > start).then(|| Range::new(start, end.min(size) - start)))
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
    /// Where a timeline has these bytes, if it has them now.
    fn locate(&self, line: &Lineage, ino: Ino, content: ContentRef, path: &Path) -> Result<Option<(u64, Located)>> {
        if content == ContentRef::default() {
            // A file that was born here and is still empty.
            return Ok(Some((0, Located::Empty)));
        }
        let record = line.inode(&*self.store.kv, ino).map_err(failed)?;
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
        let Some((size, place)) = self.locate(&self.lineage(), ino, content, path)? else { return Ok(None) };
        let reader = match place {
            Located::Empty => Reader::Empty,
            Located::Base(path) => Reader::Base(self.base.open(&path)?),
            Located::Log(record) => Reader::of_record(self, ino, &record)?,
        };
        Ok(Some(Found { size, reader }))
    }

    /// The size of the bytes that [`Overlay::find_content`] would find in a timeline.
    pub fn find_size(&self, line: &Lineage, ino: Ino, content: ContentRef, path: &Path) -> Result<Option<u64>> {
        Ok(self.locate(line, ino, content, path)?.map(|(size, _)| size))
    }

    /// The largest size that is known of a file in a timeline: what it has now, or had in the base. `None` when it is gone.
    pub fn known_size(&self, line: &Lineage, ino: Ino, path: &Path) -> Result<Option<u64>> {
        if let Some(record) = line.inode(&*self.store.kv, ino).map_err(failed)? {
            let before = record.origin.map_or(0, |o| o.print.size);
            return Ok(Some(record.attr.size.max(before)));
        }
        let stat = present(self.base.stat_path(path))?;
        Ok(stat.filter(|s| s.attr.ino == ino).map(|s| s.attr.size))
    }
}
