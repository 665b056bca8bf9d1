//! The metadata of one file of the base, through a descriptor of exactly that file: owner, mode, times, extended attributes.
//!
//! It knows no names and no plans but for what a plan calls metadata.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::plan::Meta;
use super::writer::{Look, Os, look};
use crate::store::codec::Xattrs;
use crate::types::{Kind, Name, Time};

/// Something of the metadata that the base does not take from this process. It is no reason not to apply the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The owner or the group: only root can give files away.
    Owner,
    /// The set-group-ID bit: only for groups that one is in.
    Mode,
    /// An extended attribute: the file system has none of that kind, or only root can set it.
    Xattr(Name),
}

/// A file, held by a descriptor with `O_PATH`.
pub(super) struct Node {
    fd: OwnedFd,
    /// By which calls that want a path reach exactly this file, also a symbolic link.
    path: String,
}

/// Whether apply answers for an attribute. The others belong to security modules and come and go with files.
fn ours(name: &[u8]) -> bool {
    [&b"user."[..], b"trusted.", b"system.posix_acl_"].iter().any(|prefix| name.starts_with(prefix))
        || name == b"security.capability"
}

/// Grows a buffer until an xattr call is content with it.
fn grow(mut call: impl FnMut(&mut [u8]) -> Os<usize>) -> Os<Vec<u8>> {
    let mut buffer = vec![0; 256];
    loop {
        match call(&mut buffer) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(buffer);
            }
            // 64 KiB is the kernel's limit for a value and for a list.
            Err(Errno::RANGE) if buffer.len() < 65536 => buffer.resize(buffer.len() * 4, 0),
            Err(e) => return Err(e),
        }
    }
}

/// The process may do what only root may.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn timespec(time: Time) -> Timespec {
    Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() }
}

impl Node {
    pub(super) fn new(fd: OwnedFd) -> Node {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        Node { fd, path }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn look(&self) -> Os<Look> {
        look(&self.fd, b"")
    }

    /// Makes its bytes, or those of what it contains directly, and its metadata survive power loss.
    pub(super) fn sync(&self) -> Os<()> {
        let fd = rustix::fs::open(&*self.path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        rustix::fs::fsync(fd)
    }

    pub(super) fn chmod(&self, perm: u16) -> Os<()> {
        rustix::fs::chmod(&*self.path, Mode::from_raw_mode(perm.into()))
    }

    fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> Os<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        rustix::fs::chownat(&self.fd, c"", uid, gid, AtFlags::EMPTY_PATH)
    }

    pub(super) fn set_times(&self, atime: Time, mtime: Time) -> Os<()> {
        let times = Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) };
        rustix::fs::utimensat(rustix::fs::CWD, &*self.path, &times, AtFlags::empty())
    }

    fn xattr_names(&self) -> Os<Vec<Name>> {
        match grow(|buffer| rustix::fs::listxattr(&*self.path, buffer)) {
            Ok(list) => Ok(list.split(|&b| b == 0).filter(|n| !n.is_empty()).map(Name::from).collect()),
            Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    fn xattr(&self, name: &[u8]) -> Os<Option<Vec<u8>>> {
        match grow(|buffer| rustix::fs::getxattr(&*self.path, OsStr::from_bytes(name), buffer)) {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The extended attributes that apply answers for, sorted by name.
    pub(super) fn xattrs(&self) -> Os<Xattrs> {
        let mut list = Xattrs::new();
        for name in self.xattr_names()?.into_iter().filter(|name| ours(name)) {
            if let Some(value) = self.xattr(&name)? {
                list.push((name, value.into()));
            }
        }
        list.sort_unstable();
        Ok(list)
    }

    /// Sets owner and extended attributes: what has to come before the mode.
    pub(super) fn set_owner_and_xattrs(
        &self,
        meta: &Meta,
        xattrs: Option<&Xattrs>,
        mut lost: impl FnMut(Lost),
    ) -> Os<()> {
        let now = self.look()?;
        // A change of owner takes set-id bits and capabilities away, so it comes first.
        let uid = (now.uid != meta.uid).then_some(meta.uid);
        let gid = (now.gid != meta.gid).then_some(meta.gid);
        if uid.is_some() || gid.is_some() {
            match self.chown(uid, gid) {
                Err(Errno::PERM) if !is_root() => {
                    // The group alone may be one that this user is in.
                    let group = gid.is_some() && self.chown(None, gid).is_ok();
                    if uid.is_some() || !group {
                        lost(Lost::Owner);
                    }
                }
                other => other?,
            }
        }
        let Some(xattrs) = xattrs else { return Ok(()) };
        let have = self.xattrs()?;
        let wanted = |name: &Name| xattrs.iter().any(|(n, _)| n == name);
        let superfluous: Vec<&Name> = have.iter().map(|(name, _)| name).filter(|name| !wanted(name)).collect();
        let missing: Vec<&(Name, Box<[u8]>)> = xattrs.iter().filter(|pair| !have.contains(pair)).collect();
        if superfluous.is_empty() && missing.is_empty() {
            return Ok(());
        }
        if !is_root() && now.perm & 0o200 == 0 && now.seen.kind != Kind::Symlink {
            // Attributes of users need the right to write. The mode is set right after.
            self.chmod(now.perm | 0o200)?;
        }
        for name in superfluous {
            match rustix::fs::removexattr(&*self.path, OsStr::from_bytes(name)) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(Errno::OPNOTSUPP) => lost(Lost::Xattr(name.clone())),
                Err(Errno::PERM) if !is_root() => lost(Lost::Xattr(name.clone())),
                Err(e) => return Err(e),
            }
        }
        for (name, value) in missing {
            match rustix::fs::setxattr(&*self.path, OsStr::from_bytes(name), value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP) => lost(Lost::Xattr(name.clone())),
                Err(Errno::PERM) if !is_root() || !ours(name) => lost(Lost::Xattr(name.clone())),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Sets mode and times: what has to come last.
    pub(super) fn set_mode_and_times(&self, kind: Kind, meta: &Meta, mut lost: impl FnMut(Lost)) -> Os<()> {
        if kind != Kind::Symlink {
            self.chmod(meta.perm)?;
            if self.look()?.perm != meta.perm {
                lost(Lost::Mode);
            }
        }
        self.set_times(meta.atime, meta.mtime)
    }

    /// Whether everything of `meta` is so already.
    pub(super) fn has(&self, meta: &Meta) -> Os<bool> {
        let now = self.look()?;
        let same = now.seen.kind == Kind::Symlink || now.perm == meta.perm;
        if !same || now.uid != meta.uid || now.gid != meta.gid || now.seen.mtime != meta.mtime {
            return Ok(false);
        }
        let Some(xattrs) = &meta.xattrs else { return Ok(true) };
        let have = self.xattrs()?;
        Ok(xattrs.iter().filter(|(name, _)| ours(name)).eq(have.iter()))
    }
}
