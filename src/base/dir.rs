//! The base as a directory on disk, held by a descriptor that was opened before the mount covered it.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use super::{Base, BaseEntry, BaseSpace, BaseStat, Result};
use crate::types::{Attr, Ino, Kind, Name, Path, Time};

/// Directory descriptors kept open.
const OPEN_DIRS: usize = 192;

/// See the module.
#[derive(Debug)]
pub struct DirBase {
    root: OwnedFd,
    dirs: Mutex<FxHashMap<Path, Arc<OwnedFd>>>,
}

fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

impl DirBase {
    /// Opens the directory at `path`. The descriptor keeps reaching it when something is mounted over it later.
    pub fn open(path: &std::path::Path) -> Result<DirBase> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        DirBase::from_fd(rustix::fs::open(path, flags, Mode::empty())?)
    }

    pub fn from_fd(root: OwnedFd) -> Result<DirBase> {
        Ok(DirBase { root, dirs: Mutex::default() })
    }

    pub fn root_fd(&self) -> &OwnedFd {
        &self.root
    }

    fn openat(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), beneath())
    }

    fn dir(&self, path: &Path) -> Result<Arc<OwnedFd>> {
        if let Some(fd) = self.dirs.lock().get(path) {
            return Ok(fd.clone());
        }
        let fd = Arc::new(self.openat(path.as_bytes(), OFlags::PATH | OFlags::DIRECTORY)?);
        let mut dirs = self.dirs.lock();
        if dirs.len() >= OPEN_DIRS {
            // Any half will do: directories are revisited in bursts, and opening one again costs microseconds.
            let mut keep = false;
            dirs.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        dirs.insert(path.clone(), fd.clone());
        Ok(fd)
    }

    /// A path by which calls that want one reach the file behind an `O_PATH` descriptor.
    fn proc_path(fd: &OwnedFd) -> CString {
        use std::os::fd::AsRawFd;
        CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("digits hold no NUL")
    }

    fn opath(&self, path: &Path) -> Result<OwnedFd> {
        match path.split_last() {
            Some((dir, name)) => {
                let dir = self.dir(&dir)?;
                rustix::fs::openat(&*dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            }
            None => self.openat(b"", OFlags::PATH),
        }
    }
}

fn statx(fd: impl AsFd, name: &[u8], flags: AtFlags) -> Result<BaseStat> {
    let want = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let s = rustix::fs::statx(fd, name, flags | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, want)?;
    let time = |t: rustix::fs::StatxTimestamp| Time::new(t.tv_sec, t.tv_nsec);
    let kind = Kind::from_mode(u32::from(s.stx_mode)).ok_or(Errno::IO)?;
    let born = (s.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| time(s.stx_btime));
    let attr = Attr {
        ino: Ino(s.stx_ino),
        kind,
        perm: s.stx_mode & 0o7777,
        nlink: s.stx_nlink,
        uid: s.stx_uid,
        gid: s.stx_gid,
        rdev: encode_dev(s.stx_rdev_major, s.stx_rdev_minor),
        size: s.stx_size,
        blocks: s.stx_blocks,
        atime: time(s.stx_atime),
        mtime: time(s.stx_mtime),
        ctime: time(s.stx_ctime),
    };
    let dev = u64::from(s.stx_dev_major) << 32 | u64::from(s.stx_dev_minor);
    Ok(BaseStat { attr, dev, born })
}

/// `new_encode_dev` of include/linux/kdev_t.h: what FUSE carries in 32 bits.
fn encode_dev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Grows a buffer until an xattr call is content with it.
fn grow(mut call: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
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

impl Base for DirBase {
    fn root(&self) -> Result<BaseStat> {
        statx(&self.root, b"", AtFlags::EMPTY_PATH)
    }

    fn stat(&self, dir: &Path, name: &[u8]) -> Result<BaseStat> {
        let fd = self.dir(dir)?;
        statx(&*fd, name, AtFlags::empty())
    }

    fn list(&self, dir: &Path) -> Result<Vec<BaseEntry>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = self.openat(dir.as_bytes(), flags | OFlags::NOATIME).or_else(|e| match e {
            Errno::PERM => self.openat(dir.as_bytes(), flags),
            e => Err(e),
        })?;
        let mut entries = Vec::new();
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut raw = rustix::fs::RawDir::new(fd, buffer.spare_capacity_mut());
        while let Some(entry) = raw.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::RegularFile => Some(Kind::File),
                FileType::Directory => Some(Kind::Dir),
                FileType::Symlink => Some(Kind::Symlink),
                FileType::Fifo => Some(Kind::Fifo),
                FileType::Socket => Some(Kind::Socket),
                FileType::CharacterDevice => Some(Kind::CharDevice),
                FileType::BlockDevice => Some(Kind::BlockDevice),
                FileType::Unknown => None,
            };
            entries.push(BaseEntry { name: name.into(), ino: entry.ino(), kind });
        }
        Ok(entries)
    }

    fn open(&self, path: &Path) -> Result<File> {
        let (dir, name) = path.split_last().ok_or(Errno::ISDIR)?;
        let dir = self.dir(&dir)?;
        // NONBLOCK: should the name have become a FIFO, the daemon must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&*dir, name, flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => rustix::fs::openat(&*dir, name, flags, Mode::empty())?,
            other => other?,
        };
        Ok(File::from(fd))
    }

    fn readlink(&self, path: &Path) -> Result<Vec<u8>> {
        let (dir, name) = path.split_last().ok_or(Errno::INVAL)?;
        let dir = self.dir(&dir)?;
        Ok(rustix::fs::readlinkat(&*dir, name, Vec::new())?.into_bytes())
    }

    fn getxattr(&self, path: &Path, name: &[u8]) -> Result<Vec<u8>> {
        let file = self.opath(path)?;
        let name = std::ffi::OsStr::from_bytes(name);
        let through = DirBase::proc_path(&file);
        grow(|buffer| rustix::fs::getxattr(&through, name, buffer))
    }

    fn listxattr(&self, path: &Path) -> Result<Vec<Name>> {
        let file = self.opath(path)?;
        let through = DirBase::proc_path(&file);
        let list = grow(|buffer| rustix::fs::listxattr(&through, buffer))?;
        Ok(list.split(|&b| b == 0).filter(|n| !n.is_empty()).map(Name::from).collect())
    }

    fn descriptor(&self) -> Result<OwnedFd> {
        rustix::io::fcntl_dupfd_cloexec(&self.root, 0)
    }

    fn forget(&self) {
        self.dirs.lock().clear();
    }

    fn space(&self) -> Result<BaseSpace> {
        let s = rustix::fs::fstatvfs(&self.root)?;
        Ok(BaseSpace {
            blocks: s.f_blocks,
            bfree: s.f_bfree,
            bavail: s.f_bavail,
            files: s.f_files,
            ffree: s.f_ffree,
            bsize: s.f_bsize as u32,
            namelen: s.f_namemax as u32,
            frsize: s.f_frsize as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_leaves_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::write(dir.path().join("in/file"), b"x").unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        let base = DirBase::open(dir.path()).unwrap();
        assert_eq!(base.stat(&Path::new(b"in"), b"file").unwrap().attr.size, 1);
        assert_eq!(base.stat(&Path::root(), b"out").unwrap().attr.kind, Kind::Symlink);
        assert_eq!(base.stat(&Path::new(b"out"), b"passwd").unwrap_err(), Errno::LOOP);
        assert_eq!(base.list(&Path::new(b"out")).unwrap_err(), Errno::LOOP);
        assert!(base.list(&Path::new(b"../..")).is_err());
        assert_eq!(base.readlink(&Path::new(b"out")).unwrap(), b"/etc");
        assert_eq!(base.list(&Path::root()).unwrap().len(), 2);
    }
}
