//! A real directory as a system: the plain copy that says what is right, or the mountpoint of a daemon.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use regentfs::types::{Errno, Kind, Time};
use rustix::fs::{self as rfs, AtFlags, FallocateFlags, FileType, OFlags, RenameFlags, ResolveFlags, XattrFlags};

use super::system::{File, How, Make, Mode, Op, Path, Result, Slot, Stat, Swap, System, Tree, Value};

pub struct Dir {
    name: &'static str,
    root: PathBuf,
    root_fd: OwnedFd,
    open: BTreeMap<Slot, (OwnedFd, Mode)>,
    /// What stops and starts what is mounted there.
    remount: Option<Box<dyn FnMut()>>,
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b".", path),
    }
}

fn open_root(root: &std::path::Path) -> OwnedFd {
    rfs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, rfs::Mode::empty()).expect("open the root")
}

fn mode(perm: u16) -> rfs::Mode {
    rfs::Mode::from_bits_truncate(u32::from(perm))
}

impl Dir {
    pub fn new(name: &'static str, root: &std::path::Path, remount: Option<Box<dyn FnMut()>>) -> Dir {
        Dir { name, root: root.to_owned(), root_fd: open_root(root), open: BTreeMap::new(), remount }
    }

    /// The directory in which the last name of `path` is, and that name. No symbolic link is followed.
    fn parent<'a>(&self, path: &'a [u8]) -> Result<(OwnedFd, &'a [u8])> {
        let (dir, name) = split(path);
        let name = if name.is_empty() { b"." } else { name };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        Ok((rfs::openat2(&self.root_fd, dir, flags, rfs::Mode::empty(), resolve)?, name))
    }

    fn slot(&self, slot: Slot) -> Result<&OwnedFd> {
        self.open.get(&slot).map(|(fd, _)| fd).ok_or(Errno::EBADF)
    }

    fn kind(dir: &OwnedFd, name: &[u8]) -> Result<Kind> {
        let stat = rfs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Kind::from_mode(stat.st_mode).expect("a known type"))
    }

    fn through(dir: &OwnedFd, name: &[u8]) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(OsStr::from_bytes(name))
    }

    fn read(fd: &OwnedFd, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut got = 0;
        while got < len {
            match rustix::io::pread(fd, &mut bytes[got..], offset + got as u64)? {
                0 => break,
                n => got += n,
            }
        }
        bytes.truncate(got);
        Ok(bytes)
    }

    fn open(&mut self, path: &[u8], how: Mode, make: Make, truncate: bool) -> Result<OwnedFd> {
        let (dir, name) = self.parent(path)?;
        if let Ok(Kind::Fifo) = Dir::kind(&dir, name) {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME;
        flags |= match how {
            Mode::Read => OFlags::RDONLY,
            Mode::ReadWrite => OFlags::RDWR,
            Mode::Append => OFlags::RDWR | OFlags::APPEND,
        };
        flags |= match make {
            Make::No => OFlags::empty(),
            Make::Maybe => OFlags::CREATE,
            Make::New => OFlags::CREATE | OFlags::EXCL,
        };
        if truncate {
            flags |= OFlags::TRUNC;
        }
        Ok(rfs::openat(&dir, name, flags, mode(0o644))?)
    }

    /// Gives an open file these bytes without any other trace.
    pub fn heal(&self, slot: Slot, bytes: &[u8]) {
        let fd = self.slot(slot).expect("it is open");
        let stat = rfs::fstat(fd).expect("stat");
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        // A description of its own: the file may be open for appending.
        let own = rfs::open(path, OFlags::RDWR | OFlags::CLOEXEC, rfs::Mode::empty()).expect("open again");
        let old = Dir::read(fd, 0, bytes.len()).expect("read");
        if old == bytes {
            return;
        }
        std::os::unix::fs::FileExt::write_all_at(&std::fs::File::from(own), bytes, 0).expect("write");
        let time = |secs, nanos| rfs::Timespec { tv_sec: secs, tv_nsec: nanos };
        let times = rfs::Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec as i64),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec as i64),
        };
        rfs::futimens(fd, &times).expect("utimens");
    }

    fn xattrs(dir: &OwnedFd, name: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut list = vec![0; 65536];
        let len = rfs::llistxattr(Dir::through(dir, name), &mut list[..])?;
        let mut names: Vec<Vec<u8>> =
            list[..len].split(|&b| b == 0).filter(|n| n.starts_with(b"user.")).map(<[u8]>::to_vec).collect();
        names.sort();
        Ok(names)
    }

    fn xattr(dir: &OwnedFd, name: &[u8], attr: &[u8]) -> Result<Vec<u8>> {
        let mut value = vec![0; 65536];
        let len = rfs::lgetxattr(Dir::through(dir, name), OsStr::from_bytes(attr), &mut value[..])?;
        value.truncate(len);
        Ok(value)
    }

    fn list(fd: OwnedFd) -> Result<Vec<(Vec<u8>, Kind)>> {
        let mut names = Vec::new();
        for entry in rfs::Dir::new(fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push((name.to_vec(), kind_of(entry.file_type())));
            }
        }
        names.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(names)
    }

    fn walk(&self, path: Path, tree: &mut Tree) {
        let fail = |what: &str, e: Errno| -> ! { panic!("{}: {what} {}: {e}", self.name, path.escape_ascii()) };
        let (dir, name) = self.parent(&path).unwrap_or_else(|e| fail("walk to", e));
        let want = rfs::StatxFlags::BASIC_STATS | rfs::StatxFlags::BTIME;
        let s = rfs::statx(&dir, name, AtFlags::SYMLINK_NOFOLLOW, want).unwrap_or_else(|e| fail("stat", e.into()));
        let kind = Kind::from_mode(u32::from(s.stx_mode)).expect("a known type");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME;
        let open = || rfs::openat(&dir, name, flags, rfs::Mode::empty()).unwrap_or_else(|e| fail("open", e.into()));
        let bytes = match kind {
            Kind::File => {
                // One more than it says, to see that there is no more.
                Dir::read(&open(), 0, s.stx_size as usize + 1).unwrap_or_else(|e| fail("read", e))
            }
            Kind::Symlink => {
                rfs::readlinkat(&dir, name, Vec::new()).unwrap_or_else(|e| fail("readlink", e.into())).into_bytes()
            }
            _ => Vec::new(),
        };
        let names = Dir::xattrs(&dir, name).unwrap_or_else(|e| fail("listxattr", e));
        let xattrs = names.into_iter().map(|n| {
            let value = Dir::xattr(&dir, name, &n).unwrap_or_else(|e| fail("getxattr", e));
            (n, value)
        });
        let file = File {
            stat: Stat {
                kind,
                perm: s.stx_mode & 0o7777,
                nlink: s.stx_nlink,
                uid: s.stx_uid,
                gid: s.stx_gid,
                size: if kind == Kind::Dir { 0 } else { s.stx_size },
                mtime: Time::new(s.stx_mtime.tv_sec, s.stx_mtime.tv_nsec),
            },
            ino: s.stx_ino,
            born: Time::new(s.stx_btime.tv_sec, s.stx_btime.tv_nsec),
            bytes,
            xattrs: xattrs.collect(),
        };
        if kind == Kind::Dir {
            for (child, listed) in Dir::list(open()).unwrap_or_else(|e| fail("list", e)) {
                let below = if path.is_empty() { child } else { [&path[..], b"/", &child].concat() };
                self.walk(below.clone(), tree);
                assert_eq!(tree[&below].stat.kind, listed, "{}: type of {}", self.name, below.escape_ascii());
            }
        }
        tree.insert(path, file);
    }

    fn stat(s: &rfs::Stat) -> Value {
        let kind = Kind::from_mode(s.st_mode).expect("a known type");
        Value::Stat(Stat {
            kind,
            perm: (s.st_mode & 0o7777) as u16,
            nlink: s.st_nlink as u32,
            uid: s.st_uid,
            gid: s.st_gid,
            size: if kind == Kind::Dir { 0 } else { s.st_size as u64 },
            mtime: Time::new(s.st_mtime, s.st_mtime_nsec as u32),
        })
    }
}

fn kind_of(file_type: FileType) -> Kind {
    match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Unknown => panic!("a listing without types"),
    }
}

fn timespec(time: Time) -> rfs::Timespec {
    rfs::Timespec { tv_sec: time.secs, tv_nsec: i64::from(time.nanos) }
}

impl System for Dir {
    fn name(&self) -> &'static str {
        self.name
    }

    fn apply(&mut self, op: &Op) -> Result<Value> {
        match op {
            Op::Open { slot, path, mode, make, truncate } => {
                let fd = self.open(path, *mode, *make, *truncate)?;
                if rfs::fstat(&fd)?.st_mode & libc::S_IFMT == libc::S_IFREG {
                    self.open.insert(*slot, (fd, *mode));
                }
            }
            Op::Close { slot } => drop(self.open.remove(slot)),
            Op::Read { slot, offset, len } => return Dir::read(self.slot(*slot)?, *offset, *len).map(Value::Bytes),
            Op::Write { slot, offset, data } => {
                let fd = self.slot(*slot)?;
                return Ok(Value::Number(rustix::io::pwrite(fd, data, *offset)? as u64));
            }
            Op::Truncate { slot, size } => rfs::ftruncate(self.slot(*slot)?, *size)?,
            Op::TruncatePath { path, size } => {
                let fd = self.open(path, Mode::ReadWrite, Make::No, false)?;
                rfs::ftruncate(fd, *size)?;
            }
            Op::Allocate { slot, mode, offset, len } => {
                rfs::fallocate(self.slot(*slot)?, FallocateFlags::from_bits_retain(*mode as u32), *offset, *len)?;
            }
            Op::Seek { slot, offset, data } => {
                let from = if *data { rfs::SeekFrom::Data(*offset) } else { rfs::SeekFrom::Hole(*offset) };
                return Ok(Value::Number(rfs::seek(self.slot(*slot)?, from)?));
            }
            Op::Copy { from, from_offset, to, to_offset, len } => {
                let (from, to) = (self.slot(*from)?, self.slot(*to)?);
                let mut done = 0;
                while done < *len {
                    let (mut at, mut onto) = (from_offset + done, to_offset + done);
                    let left = (len - done) as usize;
                    match rfs::copy_file_range(from, Some(&mut at), to, Some(&mut onto), left) {
                        Ok(0) => break,
                        Ok(n) => done += n as u64,
                        Err(e) => return Err(e.into()),
                    }
                }
                return Ok(Value::Number(done));
            }
            Op::Sync { slot } => rfs::fsync(self.slot(*slot)?)?,
            Op::Stat { path } => {
                let (dir, name) = self.parent(path)?;
                return Ok(Dir::stat(&rfs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?));
            }
            Op::StatOpen { slot } => return Ok(Dir::stat(&rfs::fstat(self.slot(*slot)?)?)),
            Op::Mkdir { path, perm } => {
                let (dir, name) = self.parent(path)?;
                rfs::mkdirat(dir, name, mode(*perm))?;
            }
            Op::Mkfifo { path, perm } => {
                let (dir, name) = self.parent(path)?;
                rfs::mknodat(dir, name, FileType::Fifo, mode(*perm), 0)?;
            }
            Op::Symlink { path, target } => {
                let (dir, name) = self.parent(path)?;
                rfs::symlinkat(OsStr::from_bytes(target), dir, name)?;
            }
            Op::Readlink { path } => {
                let (dir, name) = self.parent(path)?;
                return Ok(Value::Bytes(rfs::readlinkat(dir, name, Vec::new())?.into_bytes()));
            }
            Op::Link { path, new } => {
                let (dir, name) = self.parent(path)?;
                rfs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                let (new_dir, new_name) = self.parent(new)?;
                rfs::linkat(dir, name, new_dir, new_name, AtFlags::empty())?;
            }
            Op::Unlink { path } => {
                let (dir, name) = self.parent(path)?;
                rfs::unlinkat(dir, name, AtFlags::empty())?;
            }
            Op::Rmdir { path } => {
                let (dir, name) = self.parent(path)?;
                rfs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
            }
            Op::Rename { from, to, swap } => {
                let (dir, name) = self.parent(from)?;
                let (to_dir, to_name) = self.parent(to)?;
                let flags = match swap {
                    Swap::Replace => RenameFlags::empty(),
                    Swap::NoReplace => RenameFlags::NOREPLACE,
                    Swap::Exchange => RenameFlags::EXCHANGE,
                };
                rfs::renameat_with(dir, name, to_dir, to_name, flags)?;
            }
            Op::Chmod { path, perm } => {
                let (dir, name) = self.parent(path)?;
                if Dir::kind(&dir, name)? == Kind::Symlink {
                    return Err(Errno::EOPNOTSUPP);
                }
                rfs::chmodat(dir, name, mode(*perm), AtFlags::empty())?;
            }
            Op::Chown { path, uid, gid } => {
                let (dir, name) = self.parent(path)?;
                let uid = uid.map(rfs::Uid::from_raw);
                let gid = gid.map(rfs::Gid::from_raw);
                rfs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Op::Times { path, atime, mtime } => {
                let (dir, name) = self.parent(path)?;
                let times = rfs::Timestamps { last_access: timespec(*atime), last_modification: timespec(*mtime) };
                rfs::utimensat(&dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
                let s = rfs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                return Ok(Value::Bytes(format!("atime {}.{:09}", s.st_atime, s.st_atime_nsec).into_bytes()));
            }
            Op::SetXattr { path, name, value, how } => {
                let (dir, file) = self.parent(path)?;
                let flags = match how {
                    How::Either => XattrFlags::empty(),
                    How::Create => XattrFlags::CREATE,
                    How::Replace => XattrFlags::REPLACE,
                };
                rfs::lsetxattr(Dir::through(&dir, file), OsStr::from_bytes(name), value, flags)?;
            }
            Op::GetXattr { path, name } => {
                let (dir, file) = self.parent(path)?;
                return Dir::xattr(&dir, file, name).map(Value::Bytes);
            }
            Op::RemoveXattr { path, name } => {
                let (dir, file) = self.parent(path)?;
                rfs::lremovexattr(Dir::through(&dir, file), OsStr::from_bytes(name))?;
            }
            Op::ListXattr { path } => {
                let (dir, file) = self.parent(path)?;
                return Dir::xattrs(&dir, file).map(Value::List);
            }
            Op::List { path } => {
                let (dir, name) = self.parent(path)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                return Dir::list(rfs::openat(dir, name, flags, rfs::Mode::empty())?).map(Value::Names);
            }
        }
        Ok(Value::Nothing)
    }

    fn tree(&mut self) -> Tree {
        let mut tree = Tree::new();
        self.walk(Vec::new(), &mut tree);
        tree
    }

    fn reopen(&mut self) {
        self.open.clear();
        if let Some(remount) = &mut self.remount {
            // A mount that somebody has open does not go.
            self.root_fd = open_root(std::path::Path::new("/"));
            remount();
            self.root_fd = open_root(&self.root);
        }
    }
}
