//! What a file system is to these tests: operations on paths and on open files, with results that can be compared.

use std::collections::BTreeMap;

use regentfs::types::{Attr, Errno, Kind, Time};

pub type Result<T> = std::result::Result<T, Errno>;

/// A path below the root, without a leading slash.
pub type Path = Vec<u8>;

/// Which open file: a number that the test chooses.
pub type Slot = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Read,
    ReadWrite,
    Append,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    No,
    Maybe,
    New,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    Replace,
    NoReplace,
    Exchange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Either,
    Create,
    Replace,
}

/// One operation.
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    Open {
        slot: Slot,
        path: Path,
        mode: Mode,
        make: Make,
        truncate: bool,
    },
    Close {
        slot: Slot,
    },
    Read {
        slot: Slot,
        offset: u64,
        len: usize,
    },
    Write {
        slot: Slot,
        offset: u64,
        data: Vec<u8>,
    },
    Truncate {
        slot: Slot,
        size: u64,
    },
    TruncatePath {
        path: Path,
        size: u64,
    },
    /// The mode of fallocate(2).
    Allocate {
        slot: Slot,
        mode: i32,
        offset: u64,
        len: u64,
    },
    Seek {
        slot: Slot,
        offset: u64,
        data: bool,
    },
    Copy {
        from: Slot,
        from_offset: u64,
        to: Slot,
        to_offset: u64,
        len: u64,
    },
    Sync {
        slot: Slot,
    },
    Stat {
        path: Path,
    },
    StatOpen {
        slot: Slot,
    },
    Mkdir {
        path: Path,
        perm: u16,
    },
    Mkfifo {
        path: Path,
        perm: u16,
    },
    Symlink {
        path: Path,
        target: Vec<u8>,
    },
    Readlink {
        path: Path,
    },
    Link {
        path: Path,
        new: Path,
    },
    Unlink {
        path: Path,
    },
    Rmdir {
        path: Path,
    },
    Rename {
        from: Path,
        to: Path,
        swap: Swap,
    },
    Chmod {
        path: Path,
        perm: u16,
    },
    Chown {
        path: Path,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    Times {
        path: Path,
        atime: Time,
        mtime: Time,
    },
    SetXattr {
        path: Path,
        name: Vec<u8>,
        value: Vec<u8>,
        how: How,
    },
    GetXattr {
        path: Path,
        name: Vec<u8>,
    },
    RemoveXattr {
        path: Path,
        name: Vec<u8>,
    },
    ListXattr {
        path: Path,
    },
    List {
        path: Path,
    },
}

impl std::fmt::Debug for Op {
    /// As short as a trace of hundreds of them has to be.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let s = |path: &[u8]| {
            let text = path.escape_ascii().to_string();
            if text.len() > 60 { format!("{}..({})", &text[..24], path.len()) } else { text }
        };
        match self {
            Op::Open { slot, path, mode, make, truncate } => {
                write!(f, "open #{slot} {} {mode:?} create {make:?} trunc {truncate}", s(path))
            }
            Op::Close { slot } => write!(f, "close #{slot}"),
            Op::Read { slot, offset, len } => write!(f, "read #{slot} {offset}+{len}"),
            Op::Write { slot, offset, data } => write!(f, "write #{slot} {offset}+{}", data.len()),
            Op::Truncate { slot, size } => write!(f, "truncate #{slot} {size}"),
            Op::TruncatePath { path, size } => write!(f, "truncate {} {size}", s(path)),
            Op::Allocate { slot, mode, offset, len } => write!(f, "fallocate #{slot} mode {mode} {offset}+{len}"),
            Op::Seek { slot, offset, data } => {
                write!(f, "seek #{slot} {offset} {}", if *data { "data" } else { "hole" })
            }
            Op::Copy { from, from_offset, to, to_offset, len } => {
                write!(f, "copy #{from} {from_offset}+{len} -> #{to} {to_offset}")
            }
            Op::Sync { slot } => write!(f, "fsync #{slot}"),
            Op::Stat { path } => write!(f, "stat {}", s(path)),
            Op::StatOpen { slot } => write!(f, "fstat #{slot}"),
            Op::Mkdir { path, perm } => write!(f, "mkdir {} {perm:o}", s(path)),
            Op::Mkfifo { path, perm } => write!(f, "mkfifo {} {perm:o}", s(path)),
            Op::Symlink { path, target } => write!(f, "symlink {} -> {}", s(path), s(target)),
            Op::Readlink { path } => write!(f, "readlink {}", s(path)),
            Op::Link { path, new } => write!(f, "link {} {}", s(path), s(new)),
            Op::Unlink { path } => write!(f, "unlink {}", s(path)),
            Op::Rmdir { path } => write!(f, "rmdir {}", s(path)),
            Op::Rename { from, to, swap } => write!(f, "rename {} {} {swap:?}", s(from), s(to)),
            Op::Chmod { path, perm } => write!(f, "chmod {} {perm:o}", s(path)),
            Op::Chown { path, uid, gid } => write!(f, "chown {} {uid:?}:{gid:?}", s(path)),
            Op::Times { path, atime, mtime } => write!(f, "utimens {} {atime:?} {mtime:?}", s(path)),
            Op::SetXattr { path, name, value, how } => {
                write!(f, "setxattr {} {} ({} bytes) {how:?}", s(path), s(name), value.len())
            }
            Op::GetXattr { path, name } => write!(f, "getxattr {} {}", s(path), s(name)),
            Op::RemoveXattr { path, name } => write!(f, "removexattr {} {}", s(path), s(name)),
            Op::ListXattr { path } => write!(f, "listxattr {}", s(path)),
            Op::List { path } => write!(f, "readdir {}", s(path)),
        }
    }
}

/// What an operation answered.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    Nothing,
    Number(u64),
    Bytes(Vec<u8>),
    Stat(Stat),
    Names(Vec<(Vec<u8>, Kind)>),
    List(Vec<Vec<u8>>),
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Nothing => write!(f, "ok"),
            Value::Number(n) => write!(f, "{n}"),
            Value::Bytes(b) => {
                write!(f, "{} bytes {}", b.len(), b.iter().take(24).map(|b| format!("{b:02x}")).collect::<String>())
            }
            Value::Stat(stat) => write!(f, "{stat:?}"),
            Value::Names(names) => {
                f.debug_list().entries(names.iter().map(|(n, k)| format!("{} {k:?}", n.escape_ascii()))).finish()
            }
            Value::List(names) => f.debug_list().entries(names.iter().map(|n| n.escape_ascii().to_string())).finish(),
        }
    }
}

/// What stat(2) says, without what may differ: blocks, a directory's size, access and change time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub kind: Kind,
    pub perm: u16,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: Time,
}

impl From<&Attr> for Stat {
    fn from(attr: &Attr) -> Stat {
        Stat {
            kind: attr.kind,
            perm: attr.perm,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            size: if attr.kind == Kind::Dir { 0 } else { attr.size },
            mtime: attr.mtime,
        }
    }
}

/// One file of a tree.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    pub stat: Stat,
    pub ino: u64,
    /// Tells files apart that had the same number one after the other; 0 where numbers are never reused.
    pub born: Time,
    /// A file's bytes, a symbolic link's target.
    pub bytes: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

pub type Tree = BTreeMap<Path, File>;

/// A file system under test.
pub trait System {
    fn name(&self) -> &'static str;
    fn apply(&mut self, op: &Op) -> Result<Value>;
    /// Everything there is, the root included.
    fn tree(&mut self) -> Tree;
    /// Stops and continues with the same store: what was acknowledged must be there. Closes all files.
    fn reopen(&mut self);
    /// The kernel needs room and drops what it has cached.
    fn shrink(&mut self, _salt: u64) {}
    /// Anything about the system itself that is wrong.
    fn problems(&mut self) -> Vec<String> {
        Vec::new()
    }
}
