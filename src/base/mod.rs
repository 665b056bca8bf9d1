//! The real repository, read only.
//!
//! Nothing here can write: the trait has no operation that changes the base (`apply/`, which does, has its own). Paths are relative
//! to the repository root and are resolved beneath it, never through a symbolic link.

pub mod dir;

use std::fs::File;
use std::os::fd::OwnedFd;

use crate::types::{Attr, Kind, Name, Path, Time};

pub use dir::DirBase;

pub type Result<T> = std::result::Result<T, rustix::io::Errno>;

/// A base file's attributes as they are on disk; `attr.ino` is the number the base's file system gave it.
#[derive(Clone, Copy, Debug)]
pub struct BaseStat {
    pub attr: Attr,
    /// `st_dev`, major and minor combined.
    pub dev: u64,
    /// Birth time where the file system has one.
    pub born: Option<Time>,
}

/// One line of a base directory.
#[derive(Clone, Debug)]
pub struct BaseEntry {
    pub name: Name,
    pub ino: u64,
    /// `None` when the file system does not say (`DT_UNKNOWN`).
    pub kind: Option<Kind>,
}

/// Room in the file system below the mount, in the units of statvfs(3).
#[derive(Clone, Copy, Debug)]
pub struct BaseSpace {
    pub blocks: u64,
    pub bfree: u64,
    pub bavail: u64,
    pub files: u64,
    pub ffree: u64,
    pub bsize: u32,
    pub namelen: u32,
    pub frsize: u32,
}

/// See the module. Errors are those of the underlying system calls.
pub trait Base: Send + Sync {
    /// The root directory itself.
    fn root(&self) -> Result<BaseStat>;
    /// The entry `name` of directory `dir`, not followed.
    fn stat(&self, dir: &Path, name: &[u8]) -> Result<BaseStat>;
    fn list(&self, dir: &Path) -> Result<Vec<BaseEntry>>;
    /// A regular file for reading; its access time is left alone where the kernel permits.
    fn open(&self, path: &Path) -> Result<File>;
    fn readlink(&self, path: &Path) -> Result<Vec<u8>>;
    /// The value of an extended attribute.
    fn getxattr(&self, path: &Path, name: &[u8]) -> Result<Vec<u8>>;
    /// Names of the extended attributes.
    fn listxattr(&self, path: &Path) -> Result<Vec<Name>>;
    fn space(&self) -> Result<BaseSpace>;
    /// The root, for who may change it.
    fn descriptor(&self) -> Result<OwnedFd>;
    /// The base was changed: nothing that was remembered of it counts.
    fn forget(&self);

    /// Any path, the root included.
    fn stat_path(&self, path: &Path) -> Result<BaseStat> {
        match path.split_last() {
            Some((dir, name)) => self.stat(&dir, name),
            None => self.root(),
        }
    }
}
