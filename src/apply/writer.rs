//! Names in the base, below the descriptor of its root: looking at them, making, moving and removing them.
//!
//! This and `node.rs` are the only code that writes to the base. No path is resolved but below that descriptor, never through a symbolic
//! link, and what changes a name is told its directory by descriptor. It knows nothing of plans: what may be done is decided elsewhere.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::node::Node;
use super::plan::Seen;
use crate::types::{Kind, Name, Path, Time};

/// The result of a system call.
pub(super) type Os<T> = Result<T, Errno>;

/// The root of the base.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    plain: bool,
}

/// A name in a directory.
pub(super) struct Slot {
    dir: OwnedFd,
    name: Name,
    plain: bool,
}

/// What is at a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub seen: Seen,
    pub perm: u16,
    pub uid: u32,
    pub gid: u32,
    pub atime: Time,
    /// In the kernel's 32-bit encoding.
    pub rdev: u32,
    /// Number of the mount; 0 before Linux 5.8.
    pub mount: u64,
    /// Something is mounted exactly here.
    pub mounted: bool,
    /// Immutable or append-only (chattr(1)).
    pub fixed: bool,
}

fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

/// `new_decode_dev` of include/linux/kdev_t.h.
fn decode_dev(rdev: u32) -> rustix::fs::Dev {
    rustix::fs::makedev((rdev & 0xfff00) >> 8, (rdev & 0xff) | ((rdev >> 12) & 0xfff00))
}

fn encode_dev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Looks at `name` below `fd`, or at `fd` itself if the name is empty.
pub(super) fn look(fd: impl AsFd, name: &[u8]) -> Os<Look> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let flags = if name.is_empty() { flags | AtFlags::EMPTY_PATH } else { flags };
    let want = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
    let s = rustix::fs::statx(fd, name, flags, want)?;
    let has = |flag: StatxFlags| s.stx_mask & flag.bits() != 0;
    let time = |t: rustix::fs::StatxTimestamp| Time::new(t.tv_sec, t.tv_nsec);
    let seen = Seen {
        kind: Kind::from_mode(u32::from(s.stx_mode)).ok_or(Errno::IO)?,
        dev: u64::from(s.stx_dev_major) << 32 | u64::from(s.stx_dev_minor),
        ino: s.stx_ino,
        born: has(StatxFlags::BTIME).then(|| time(s.stx_btime)),
        size: s.stx_size,
        mtime: time(s.stx_mtime),
        ctime: time(s.stx_ctime),
    };
    Ok(Look {
        seen,
        perm: s.stx_mode & 0o7777,
        uid: s.stx_uid,
        gid: s.stx_gid,
        atime: time(s.stx_atime),
        rdev: encode_dev(s.stx_rdev_major, s.stx_rdev_minor),
        mount: if has(StatxFlags::MNT_ID) { s.stx_mnt_id } else { 0 },
        mounted: s.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        fixed: s.stx_attributes.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND),
    })
}

impl Root {
    /// The base below this descriptor of its root directory. It may have been opened before something was mounted over it.
    pub fn new(fd: OwnedFd) -> Root {
        Root { fd, plain: false }
    }

    /// Does without the flags of renameat2(2), as on file systems that have none: then something that takes a name in the same instant
    /// can be overwritten.
    pub fn without_rename_flags(self) -> Root {
        Root { plain: true, ..self }
    }

    fn open(&self, path: &Path, flags: OFlags) -> Os<OwnedFd> {
        let path = if path.as_bytes().is_empty() { b"." } else { path.as_bytes() };
        rustix::fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), beneath())
    }

    /// A directory, to work in.
    pub(super) fn dir(&self, path: &Path) -> Os<OwnedFd> {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// A directory, to read or to sync.
    pub(super) fn read_dir(&self, path: &Path) -> Os<OwnedFd> {
        self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// The last name of a path, in its directory as it is now. `EISDIR` for the root.
    pub(super) fn slot(&self, path: &Path) -> Os<Slot> {
        let (dir, name) = path.split_last().ok_or(Errno::ISDIR)?;
        Ok(Slot { dir: self.dir(&dir)?, name: name.into(), plain: self.plain })
    }

    /// What is at a path, the root included. An error when its directory cannot be reached.
    pub(super) fn look(&self, path: &Path) -> Os<Option<Look>> {
        if path.as_bytes().is_empty() { look(&self.fd, b"").map(Some) } else { self.slot(path)?.look() }
    }

    /// The file at a path, the root included, whatever it is.
    pub(super) fn node(&self, path: &Path) -> Os<Node> {
        if path.as_bytes().is_empty() { self.open(path, OFlags::PATH).map(Node::new) } else { self.slot(path)?.node() }
    }

    /// Whether names in a directory can be changed by this process.
    pub(super) fn may_change(&self, path: &Path) -> Os<()> {
        let dir = self.dir(path)?;
        rustix::fs::accessat(&dir, c".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
    }

    /// The names in a directory.
    pub(super) fn names(&self, path: &Path) -> Os<Vec<Name>> {
        let fd = self.read_dir(path)?;
        let mut names = Vec::new();
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut raw = rustix::fs::RawDir::new(fd, buffer.spare_capacity_mut());
        while let Some(entry) = raw.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.into());
            }
        }
        Ok(names)
    }
}

impl Slot {
    /// What is there now, if anything.
    pub(super) fn look(&self) -> Os<Option<Look>> {
        match look(&self.dir, &self.name) {
            Ok(look) => Ok(Some(look)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The directory itself.
    pub(super) fn look_at_dir(&self) -> Os<Look> {
        look(&self.dir, b"")
    }

    pub(super) fn node(&self) -> Os<Node> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, &*self.name, flags, Mode::empty()).map(Node::new)
    }

    /// A regular file, for reading; its access time is left alone where the kernel permits.
    pub(super) fn open(&self) -> Os<File> {
        // NONBLOCK: should the name have become a FIFO, nobody must wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.dir, &*self.name, flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => rustix::fs::openat(&self.dir, &*self.name, flags, Mode::empty()),
            other => other,
        }
        .map(File::from)
    }

    /// Where a symbolic link points.
    pub(super) fn target(&self) -> Os<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.dir, &*self.name, Vec::new())?.into_bytes())
    }

    /// A new file that only its owner can use; an error if there is anything.
    pub(super) fn make_file(&self) -> Os<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, &*self.name, flags, Mode::RUSR | Mode::WUSR).map(File::from)
    }

    pub(super) fn make_dir(&self) -> Os<()> {
        rustix::fs::mkdirat(&self.dir, &*self.name, Mode::RWXU)
    }

    pub(super) fn make_symlink(&self, target: &[u8]) -> Os<()> {
        rustix::fs::symlinkat(target, &self.dir, &*self.name)
    }

    pub(super) fn make_special(&self, kind: Kind, rdev: u32) -> Os<()> {
        let kind = match kind {
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            Kind::File | Kind::Dir | Kind::Symlink => return Err(Errno::INVAL),
        };
        rustix::fs::mknodat(&self.dir, &*self.name, kind, Mode::RUSR | Mode::WUSR, decode_dev(rdev))
    }

    /// Makes this another name of a file.
    pub(super) fn make_link(&self, to: &Node) -> Os<()> {
        rustix::fs::linkat(rustix::fs::CWD, to.path(), &self.dir, &*self.name, AtFlags::SYMLINK_FOLLOW)
    }

    pub(super) fn remove(&self, kind: Kind) -> Os<()> {
        let flags = if kind == Kind::Dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match rustix::fs::unlinkat(&self.dir, &*self.name, flags) {
            // What rmdir(2) may say instead.
            Err(Errno::EXIST) if kind == Kind::Dir => Err(Errno::NOTEMPTY),
            other => other,
        }
    }

    fn rename(&self, to: &Slot, flags: RenameFlags) -> Os<()> {
        if self.plain {
            return Err(Errno::INVAL);
        }
        rustix::fs::renameat_with(&self.dir, &*self.name, &to.dir, &*to.name, flags)
    }

    /// Moves to a name that must be free. `EINVAL` where the file system cannot promise that.
    pub(super) fn move_to_free(&self, to: &Slot) -> Os<()> {
        self.rename(to, RenameFlags::NOREPLACE)
    }

    /// As [`Slot::move_to_free`], and where the file system cannot promise it, as near to it as can be.
    pub(super) fn put_at_free(&self, to: &Slot, kind: Kind) -> Os<()> {
        match self.move_to_free(to) {
            Err(Errno::INVAL) => {}
            other => return other,
        }
        if kind != Kind::Dir {
            match rustix::fs::linkat(&self.dir, &*self.name, &to.dir, &*to.name, AtFlags::empty()) {
                Ok(()) => return self.remove(kind),
                // No hard links either.
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {}
                Err(e) => return Err(e),
            }
        }
        match to.look()? {
            Some(_) => Err(Errno::EXIST),
            None => self.move_over(to),
        }
    }

    /// Exchanges what is at two names. `EINVAL` where the file system cannot.
    pub(super) fn exchange(&self, with: &Slot) -> Os<()> {
        self.rename(with, RenameFlags::EXCHANGE)
    }

    /// rename(2): what is at `to` goes.
    pub(super) fn move_over(&self, to: &Slot) -> Os<()> {
        rustix::fs::renameat(&self.dir, &*self.name, &to.dir, &*to.name)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn open(dir: &std::path::Path) -> Root {
        Root::new(rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap())
    }

    #[test]
    fn a_name_in_use_is_not_free() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for plain in [false, true] {
            let root = if plain { open(dir.path()).without_rename_flags() } else { open(dir.path()) };
            let slot = |name: &str| root.slot(&Path::new(name.as_bytes())).unwrap();
            fs::write(path("a"), "a").unwrap();
            fs::write(path("b"), "b").unwrap();
            fs::create_dir(path("d")).unwrap();
            fs::create_dir(path("empty")).unwrap();
            let expected = if plain { Errno::INVAL } else { Errno::EXIST };
            assert_eq!(slot("a").move_to_free(&slot("b")).unwrap_err(), expected);
            assert_eq!(slot("a").put_at_free(&slot("b"), Kind::File).unwrap_err(), Errno::EXIST);
            // rename(2) would replace an empty directory.
            assert_eq!(slot("d").put_at_free(&slot("empty"), Kind::Dir).unwrap_err(), Errno::EXIST);
            assert_eq!((fs::read(path("a")).unwrap(), fs::read(path("b")).unwrap()), (b"a".to_vec(), b"b".to_vec()));
            slot("a").put_at_free(&slot("d/a"), Kind::File).unwrap();
            slot("d").put_at_free(&slot("empty/d"), Kind::Dir).unwrap();
            assert_eq!(fs::read(path("empty/d/a")).unwrap(), b"a");
            assert_eq!(slot("b").make_file().unwrap_err(), Errno::EXIST);
            assert_eq!(slot("empty").remove(Kind::Dir).unwrap_err(), Errno::NOTEMPTY);
            fs::remove_dir_all(path("empty")).unwrap();
        }
    }

    #[test]
    fn never_leaves_the_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        std::os::unix::fs::symlink("in", dir.path().join("loop")).unwrap();
        let root = open(dir.path());
        let look = |path: &str| root.look(&Path::new(path.as_bytes()));
        assert_eq!(look("out").unwrap().unwrap().seen.kind, Kind::Symlink);
        assert_eq!(look("out/passwd").unwrap_err(), Errno::LOOP);
        assert_eq!(look("loop/x").unwrap_err(), Errno::LOOP);
        assert_eq!(look("../x").unwrap_err(), Errno::XDEV);
        assert!(look("in/x").unwrap().is_none());
    }

    #[test]
    fn device_numbers_are_those_of_the_kernel() {
        for (major, minor) in [(1, 3), (259, 70_000), (0, 0), (4095, 0xf_ffff)] {
            let dev = decode_dev(encode_dev(major, minor));
            assert_eq!((rustix::fs::major(dev), rustix::fs::minor(dev)), (major, minor));
        }
    }
}
