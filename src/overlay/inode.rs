//! An inode as the daemon holds it in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use super::acl::Acl;
use super::chunks::Chunks;
use super::extents::Extents;
use crate::base::BaseStat;
use crate::store::codec::{Dentry, InodeRecord, Origin, Print, VersionRecord, Xattrs};
use crate::types::event::ContentRef;
use crate::types::{Attr, Epoch, Ino, Kind, Name, Path, VersionId};

/// A file, whatever its names.
#[derive(Debug)]
pub struct Inode {
    pub ino: Ino,
    pub kind: Kind,
    /// How often the kernel was told of it and has not forgotten yet.
    pub(crate) lookups: AtomicU64,
    /// Open handles.
    pub(crate) opens: AtomicU32,
    /// How often this directory was gone and came back.
    pub(crate) revived: AtomicU32,
    pub(crate) state: RwLock<State>,
}

/// What may change about an inode; guarded by [`Inode::state`].
#[derive(Debug)]
pub(crate) struct State {
    pub attr: Attr,
    pub content: Bytes,
    pub origin: Option<Box<Origin>>,
    /// Whether the log has a record of it: it differs from the base.
    pub recorded: bool,
    /// The last epoch in which it was put into the index of changes.
    pub touched: Epoch,
    pub opaque: bool,
    pub place: Place,
    pub dir: Option<Box<Dir>>,
    pub target: Option<Box<[u8]>>,
    pub xattrs: Option<Box<Xattrs>>,
}

/// Where an inode was last seen.
#[derive(Debug)]
pub(crate) struct Place {
    pub parent: Ino,
    pub name: Name,
    pub path: Path,
    /// The value of `Overlay::renames` at which `path` was right.
    pub as_of: u64,
    /// The file lost this name, and has others: which is not known before one of them is looked up.
    pub lost: bool,
}

impl Place {
    /// The path for the index of changes: empty when it is not known.
    pub fn known(&self) -> Path {
        if self.lost { Path::root() } else { self.path.clone() }
    }
}

/// Where the bytes of a regular file are.
#[derive(Debug, Clone)]
pub(crate) enum Bytes {
    /// Not a regular file, or one that was born empty.
    None,
    Base,
    Version(Box<Version>),
}

/// The current version of a file.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub id: VersionId,
    pub record: VersionRecord,
    /// The chunks below `record.limit` that are the version's own. Behind the limit everything is.
    pub own: Chunks,
    /// How often its bytes were changed.
    pub stamp: u64,
    /// Where the bytes are that the version has not itself.
    pub below: Arc<Extents>,
    /// So many versions have to be read from the log for `below`.
    pub depth: u32,
    /// The version file may be longer than the file and must be cut before the file grows.
    pub ragged: bool,
    /// No history needs it: it goes with the last handle.
    pub trashed: bool,
}

/// The changes to a directory.
#[derive(Debug, Default)]
pub(crate) struct Dir {
    pub entries: FxHashMap<Name, Dentry>,
    pub loaded: bool,
    /// Counts only while the directory's extended attributes are those of the base.
    pub base_default: BaseDefault,
}

/// What is known about the default ACL of a directory in the base, so that not every create has to ask.
#[derive(Clone, Debug, Default)]
pub(crate) enum BaseDefault {
    #[default]
    Unasked,
    None,
    Is(Acl),
}

impl Inode {
    pub(crate) fn new(ino: Ino, kind: Kind, state: State) -> Inode {
        let (lookups, opens, revived) = (AtomicU64::new(0), AtomicU32::new(0), AtomicU32::new(0));
        Inode { ino, kind, lookups, opens, revived, state: RwLock::new(state) }
    }

    pub(crate) fn root(stat: &BaseStat, record: Option<InodeRecord>) -> Inode {
        let place = Place { parent: Ino::ROOT, name: Name::default(), path: Path::root(), as_of: 0, lost: false };
        let origin = Origin {
            path: Path::root(),
            dev: stat.dev,
            ino: stat.attr.ino.0,
            born: stat.born,
            print: Print { size: stat.attr.size, mtime: stat.attr.mtime, ctime: stat.attr.ctime },
        };
        let recorded = record.is_some();
        let mut attr = record.as_ref().map_or(stat.attr, |r| r.attr);
        // The node id is 1; the number that stat(2) shows is the base's.
        attr.ino = stat.attr.ino;
        let state = State {
            attr,
            content: Bytes::None,
            origin: Some(Box::new(origin)),
            recorded,
            touched: Epoch::BASE,
            opaque: record.as_ref().is_some_and(|r| r.opaque),
            place,
            dir: Some(Box::new(Dir { loaded: !recorded, ..Dir::default() })),
            target: None,
            xattrs: record.and_then(|r| r.xattrs).map(Box::new),
        };
        let root = Inode::new(Ino::ROOT, Kind::Dir, state);
        // The kernel never forgets the root.
        root.lookups.store(1, Ordering::Relaxed);
        root
    }

    pub fn attr(&self) -> Attr {
        self.state.read().attr
    }

    /// Which bytes the file has now.
    pub fn content(&self) -> ContentRef {
        self.state.read().content_ref()
    }

    /// How often it was gone and came back, for those (the kernel) for whom a removed directory is dead for good. Counted while the kernel
    /// knows the inode.
    pub fn generation(&self) -> u64 {
        self.revived.load(Ordering::Acquire).into()
    }

    /// Notes that something opened it: it stays in memory, and keeps its bytes, until that many times [`Inode::closed`] was called.
    pub fn opened(&self) {
        self.opens.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether that was the last one.
    pub fn closed(&self) -> bool {
        self.opens.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Whether something has it open.
    pub fn is_open(&self) -> bool {
        self.opens.load(Ordering::Acquire) > 0
    }
}

impl State {
    /// Whether names that the overlay does not mention are those of the base.
    pub fn shows_base(&self) -> bool {
        !self.opaque && self.origin.is_some()
    }

    pub fn content_ref(&self) -> ContentRef {
        match &self.content {
            Bytes::None => ContentRef::default(),
            Bytes::Base => {
                ContentRef { version: VersionId::BASE, stamp: self.origin.as_ref().map_or(0, |o| base_stamp(o)) }
            }
            Bytes::Version(v) => ContentRef { version: v.id, stamp: v.stamp },
        }
    }

    /// The record that the log would hold of it with these attributes.
    pub fn record(&self) -> InodeRecord {
        use crate::store::codec::Content;
        InodeRecord {
            attr: self.attr,
            content: match &self.content {
                Bytes::None => Content::None,
                Bytes::Base => Content::Base,
                Bytes::Version(v) => Content::Version { id: v.id, stamp: v.stamp },
            },
            opaque: self.opaque,
            origin: self.origin.as_deref().cloned(),
            target: self.target.clone(),
            xattrs: self.xattrs.as_deref().cloned(),
        }
    }
}

/// A digest of what identifies the bytes of a base file: device, number, size and times.
pub fn base_stamp(origin: &Origin) -> u64 {
    let mut bytes = [0u8; 48];
    let fields = [
        origin.dev,
        origin.ino,
        origin.print.size,
        origin.print.mtime.as_nanos() as u64,
        origin.print.ctime.as_nanos() as u64,
        origin.born.map_or(0, |b| b.as_nanos() as u64),
    ];
    for (slot, field) in bytes.chunks_exact_mut(8).zip(fields) {
        slot.copy_from_slice(&field.to_le_bytes());
    }
    let hash = blake3::hash(&bytes);
    let mut head = [0u8; 8];
    head.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(head)
}
