//! What the record holds: one event for each thing that a process did or saw.

use smallvec::SmallVec;

use super::{ActorId, Epoch, Errno, HandleId, Ino, Path, Range, Seq, Time, VersionId};

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// What happened. The numbers are on disk and never change their meaning (docs/FORMAT.md).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Op { $($(#[$doc])* $name = $code,)* }

        impl Op {
            pub const ALL: &'static [Op] = &[$(Op::$name,)*];

            pub fn from_u8(byte: u8) -> Option<Op> {
                match byte { $($code => Some(Op::$name),)* _ => None }
            }

            /// The name used in JSON and by `--op`.
            pub fn name(self) -> &'static str {
                match self { $(Op::$name => $text,)* }
            }

            pub fn from_name(name: &str) -> Option<Op> {
                match name { $($text => Some(Op::$name),)* _ => None }
            }
        }
    };
}

ops! {
    /// A file was opened. With `known = inferred` and ranges: the bytes that the page cache may have answered with.
    Open = 1, "open";
    /// Bytes were read.
    Read = 2, "read";
    /// Bytes were written.
    Write = 3, "write";
    /// An executable inside the mount was opened for execve(2); its ranges are its read-set.
    Exec = 4, "exec";
    /// A directory was opened for listing; whether its entries came from the kernel's cache is not seen.
    Readdir = 5, "readdir";
    Readlink = 6, "readlink";
    Create = 7, "create";
    Mkdir = 8, "mkdir";
    Mknod = 9, "mknod";
    Symlink = 10, "symlink";
    Link = 11, "link";
    Unlink = 12, "unlink";
    Rmdir = 13, "rmdir";
    Rename = 14, "rename";
    /// chmod, chown or utimens.
    Setattr = 15, "setattr";
    Truncate = 16, "truncate";
    Setxattr = 17, "setxattr";
    Removexattr = 18, "removexattr";
    /// fallocate(2): space reserved, zeroed or punched out.
    Fallocate = 19, "fallocate";
    /// The destination of copy_file_range(2); the source is a `read`.
    Copy = 20, "copy";
    Fsync = 21, "fsync";
    /// The daemon started to record.
    Mount = 22, "mount";
    /// The daemon stopped in good order.
    Unmount = 23, "unmount";
    /// Something may be missing from the record just before this event; `path2` says why.
    Gap = 24, "gap";
    /// A child came to life with this file open for reading: what it reads through it is not seen (`inferred`).
    Inherit = 25, "inherit";
    /// The open epoch was sealed; `path2` is the label or the reason.
    Snapshot = 26, "snapshot";
    /// Many files were taken to another state at once: rewind, restore, undo, redo, merge, switch; `path2` says which and to what.
    Rewind = 27, "rewind";
    /// Changes were brought into the base; `path2` says how many.
    Apply = 28, "apply";
    /// A timeline was forked, deleted, mounted or unmounted; `path2` says which and what.
    Timeline = 29, "timeline";
}

/// How the record knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Known {
    /// The request came from that process with that range.
    Observed = 1,
    /// The page cache could have answered: counted, though nobody asked the daemon.
    Inferred = 2,
}

impl Known {
    pub fn name(self) -> &'static str {
        match self {
            Known::Observed => "observed",
            Known::Inferred => "inferred",
        }
    }
}

/// Which bytes a file had: a version and how often it had been changed by then.
///
/// For base content the version is [`VersionId::BASE`] and the stamp is a digest of the base file's identity, size and
/// times; for a version it counts the changes of its bytes. Equal refs of one inode mean equal bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ContentRef {
    pub version: VersionId,
    pub stamp: u64,
}

/// An event as it stands in the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub seq: Seq,
    /// When it happened (wall clock). Order is that of `seq`; observations may be a second older than their neighbours.
    pub time: Time,
    pub epoch: Epoch,
    pub actor: ActorId,
    pub note: Note,
}

/// What an operation says about itself, before the record gives it a number, a time and an actor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub op: Op,
    pub known: Known,
    pub ino: Ino,
    pub path: Path,
    /// The other path: rename's and link's new name, symlink's target, an xattr's name, a gap's reason.
    pub path2: Option<Path>,
    pub handle: HandleId,
    /// Open flags, mode bits or fallocate mode, as the operation has them.
    pub flags: u32,
    pub ranges: SmallVec<[Range; 2]>,
    /// Set when the operation was refused or failed.
    pub errno: Option<Errno>,
    pub before: ContentRef,
    pub after: ContentRef,
}

impl Note {
    pub fn new(op: Op, ino: Ino, path: Path) -> Note {
        Note {
            op,
            known: Known::Observed,
            ino,
            path,
            path2: None,
            handle: HandleId(0),
            flags: 0,
            ranges: SmallVec::new(),
            errno: None,
            before: ContentRef::default(),
            after: ContentRef::default(),
        }
    }

    pub fn with_range(mut self, range: Range) -> Note {
        self.ranges.push(range);
        self
    }

    pub fn with_path2(mut self, path: Path) -> Note {
        self.path2 = Some(path);
        self
    }

    pub fn with_errno(mut self, errno: Errno) -> Note {
        self.errno = Some(errno);
        self
    }
}
