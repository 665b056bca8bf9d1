//! The FUSE callbacks: convert, call the engine, reply. No logic.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::convert;
use crate::engine::handles::Listed;
use crate::engine::io::{Fill, WriteRequest};
use crate::engine::open::{Caching, Opened};
use crate::engine::{Caller, Engine};
use crate::overlay::ops::create::New;
use crate::overlay::ops::setattr::SetAttr;
use crate::overlay::ops::xattr::SetXattr;
use crate::types::{Attr, Errno, HandleId, Ino, Kind, Range};

/// Largest READ and WRITE, bytes: as much as the kernel puts into one request.
pub const MAX_IO: u32 = 1 << 20;

/// `.` and `..` as far as a listing that goes on at `offset` still needs them, with the offsets behind them.
fn dots(offset: u64) -> impl Iterator<Item = (u64, &'static str)> {
    [(1, "."), (2, "..")].into_iter().filter(move |(at, _)| *at > offset)
}

/// The entries of a listing that goes on at `offset`.
fn after(entries: &[Listed], offset: u64) -> &[Listed] {
    entries.get(entries.partition_point(|listed| listed.cookie <= offset)..).unwrap_or_default()
}

/// See the module.
pub struct Adapter {
    engine: Arc<Engine>,
    /// How long the kernel may believe attributes and entries.
    ttl: Duration,
    /// Whether FLUSH is to be answered with ENOSYS: the kernel then still writes mappings back at close, but asks no more.
    no_flush: AtomicBool,
}

impl Adapter {
    pub fn new(engine: Arc<Engine>, ttl: Duration) -> Adapter {
        let no_flush = AtomicBool::new(engine.tracks_forks());
        Adapter { engine, ttl, no_flush }
    }

    fn entry(&self, result: Result<Attr, Errno>, reply: ReplyEntry) {
        match result {
            Ok(attr) => reply.entry(&self.ttl, &convert::attr(&attr), self.generation(&attr)),
            Err(e) => reply.error(convert::errno(e)),
        }
    }

    /// Whoever is still in a directory that was removed keeps the kernel's inode of it, in which nothing can be found any more. When it comes
    /// back, this makes the kernel take a new one.
    fn generation(&self, attr: &Attr) -> Generation {
        Generation(if attr.kind == Kind::Dir { self.engine.overlay().generation(attr.ino) } else { 0 })
    }

    fn attr(&self, result: Result<Attr, Errno>, reply: ReplyAttr) {
        match result {
            Ok(attr) => reply.attr(&self.ttl, &convert::attr(&attr)),
            Err(e) => reply.error(convert::errno(e)),
        }
    }
}

fn caller(req: &Request) -> Caller {
    Caller { tid: req.pid(), uid: req.uid(), gid: req.gid() }
}

fn ino(n: INodeNo) -> Ino {
    Ino(n.0)
}

fn perm(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

fn handle(fh: FileHandle) -> HandleId {
    HandleId(fh.0)
}

fn empty(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(convert::errno(e)),
    }
}

fn fopen(opened: &Opened) -> FopenFlags {
    let caching = match opened.caching {
        Caching::Keep => FopenFlags::FOPEN_KEEP_CACHE,
        Caching::Cold => FopenFlags::empty(),
        Caching::Direct => FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES,
    };
    if opened.no_flush { caching | FopenFlags::FOPEN_NOFLUSH } else { caching }
}

/// Runs a callback; should it panic, its reply is dropped, which answers EIO, and the mount lives on.
fn guard(name: &'static str, callback: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(callback)).is_err() {
        tracing::error!(operation = name, "a bug in regentfs: the operation failed with EIO");
    }
}

thread_local! {
    /// What a READ is answered from; as large as the largest so far.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP
            // A default ACL takes the umask's place, and only the overlay knows whether there is one.
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_POSIX_ACL;
        let offered = config.capabilities();
        if let Err(missing) = config.add_capabilities(wanted & offered) {
            tracing::warn!(?missing, "the kernel took back capabilities");
        }
        if !(wanted & !offered).is_empty() {
            tracing::info!(missing = ?(wanted & !offered), "this kernel lacks capabilities");
        }
        // The nearest value that works is good enough for each of these.
        let _ = config.set_max_write(MAX_IO);
        let _ = config.set_max_background(64);
        let _ = config.set_congestion_threshold(48);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guard("lookup", || match self.engine.lookup(ino(parent), name.as_bytes()) {
            Err(Errno::ENOENT) => reply.entry(&self.ttl, &convert::nothing(), Generation(0)),
            result => self.entry(result, reply),
        });
    }

    fn forget(&self, _req: &Request, nodeid: INodeNo, nlookup: u64) {
        guard("forget", || self.engine.forget(ino(nodeid), nlookup));
    }

    fn getattr(&self, _req: &Request, nodeid: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        guard("getattr", || self.attr(self.engine.getattr(ino(nodeid), fh.map(handle)), reply));
    }

    fn setattr(
        &self,
        req: &Request,
        nodeid: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        guard("setattr", || {
            let set = SetAttr {
                perm: mode.map(perm),
                uid,
                gid,
                size,
                atime: atime.map(convert::set_time),
                mtime: mtime.map(convert::set_time),
                // fuser does not pass FATTR_KILL_SUIDGID on; the kernel sets it for callers without CAP_FSETID.
                kill_ids: req.uid() != 0,
            };
            self.attr(self.engine.setattr(caller(req), ino(nodeid), fh.map(handle), &set), reply);
        });
    }

    fn readlink(&self, req: &Request, nodeid: INodeNo, reply: ReplyData) {
        guard("readlink", || match self.engine.readlink(caller(req), ino(nodeid)) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(convert::errno(e)),
        });
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        guard("mknod", || {
            let Some(kind) = Kind::from_mode(mode) else { return reply.error(fuser::Errno::EINVAL) };
            let new = New { kind, perm: perm(mode), umask: perm(umask), rdev, target: None };
            self.entry(self.engine.make(caller(req), ino(parent), name.as_bytes(), &new), reply);
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        guard("mkdir", || {
            let new = New { kind: Kind::Dir, perm: perm(mode), umask: perm(umask), rdev: 0, target: None };
            self.entry(self.engine.make(caller(req), ino(parent), name.as_bytes(), &new), reply);
        });
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        guard("symlink", || {
            let target = Some(target.as_os_str().as_bytes());
            let new = New { kind: Kind::Symlink, perm: 0o777, umask: 0, rdev: 0, target };
            self.entry(self.engine.make(caller(req), ino(parent), name.as_bytes(), &new), reply);
        });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guard("unlink", || empty(self.engine.unlink(caller(req), ino(parent), name.as_bytes()), reply));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guard("rmdir", || empty(self.engine.rmdir(caller(req), ino(parent), name.as_bytes()), reply));
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        guard("rename", || {
            let Some(how) = convert::rename(flags) else { return reply.error(fuser::Errno::EINVAL) };
            let (from, to) = ((ino(parent), name.as_bytes()), (ino(newparent), newname.as_bytes()));
            empty(self.engine.rename(caller(req), from, to, how), reply);
        });
    }

    fn link(&self, req: &Request, nodeid: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        guard("link", || {
            self.entry(self.engine.link(caller(req), ino(nodeid), ino(newparent), newname.as_bytes()), reply);
        });
    }

    fn open(&self, req: &Request, nodeid: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        guard("open", || match self.engine.open(caller(req), ino(nodeid), flags.0) {
            Ok(opened) => reply.opened(FileHandle(opened.handle.0), fopen(&opened)),
            Err(e) => reply.error(convert::errno(e)),
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        guard("create", || {
            let new = New { kind: Kind::File, perm: perm(mode), umask: perm(umask), rdev: 0, target: None };
            match self.engine.create(caller(req), ino(parent), name.as_bytes(), &new, flags) {
                Ok((attr, opened)) => {
                    let fh = FileHandle(opened.handle.0);
                    reply.created(&self.ttl, &convert::attr(&attr), Generation(0), fh, fopen(&opened));
                }
                Err(e) => reply.error(convert::errno(e)),
            }
        });
    }

    fn read(
        &self,
        req: &Request,
        _nodeid: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        guard("read", || {
            // Direct reads name the owner of their locks (fuse_direct_io); reads that fill the page cache do not.
            let fill = if lock_owner.is_some() { Fill::Direct } else { Fill::Page };
            BUFFER.with_borrow_mut(|buffer| {
                let size = size.min(MAX_IO) as usize;
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                let out = buffer.get_mut(..size).unwrap_or_default();
                match self.engine.read(caller(req), handle(fh), offset, out, fill) {
                    Ok(n) => reply.data(out.get(..n).unwrap_or_default()),
                    Err(e) => reply.error(convert::errno(e)),
                }
            });
        });
    }

    fn write(
        &self,
        req: &Request,
        nodeid: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        guard("write", || {
            let request = WriteRequest {
                ino: ino(nodeid),
                handle: handle(fh),
                offset,
                data,
                kill_ids: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
                from_cache: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
            };
            match self.engine.write(caller(req), &request) {
                Ok(n) => reply.written(n),
                Err(e) => reply.error(convert::errno(e)),
            }
        });
    }

    fn flush(&self, req: &Request, _nodeid: INodeNo, fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        guard("flush", || {
            if self.no_flush.load(Ordering::Relaxed) {
                return reply.error(fuser::Errno::ENOSYS);
            }
            empty(self.engine.flush(caller(req), handle(fh)), reply);
        });
    }

    fn release(
        &self,
        _req: &Request,
        _nodeid: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        guard("release", || {
            self.engine.release(handle(fh));
            reply.ok();
        });
    }

    fn fsync(&self, req: &Request, nodeid: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        guard("fsync", || empty(self.engine.fsync(caller(req), ino(nodeid), handle(fh)), reply));
    }

    fn opendir(&self, req: &Request, nodeid: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        guard("opendir", || match self.engine.opendir(caller(req), ino(nodeid)) {
            Ok(id) => reply.opened(FileHandle(id.0), FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE),
            Err(e) => reply.error(convert::errno(e)),
        });
    }

    fn readdir(&self, _req: &Request, _nodeid: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        guard("readdir", || {
            let (dir, entries) = match self.engine.listing(handle(fh), offset == 0) {
                Ok(listing) => listing,
                Err(e) => return reply.error(convert::errno(e)),
            };
            for (at, name) in dots(offset) {
                if reply.add(INodeNo(dir.attr().ino.0), at, fuser::FileType::Directory, name) {
                    return reply.ok();
                }
            }
            for Listed { cookie, entry } in after(&entries, offset) {
                let name = OsStr::from_bytes(&entry.name);
                if reply.add(INodeNo(entry.ino.0), *cookie, convert::kind(entry.kind), name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn readdirplus(
        &self,
        _req: &Request,
        _nodeid: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        guard("readdirplus", || {
            let (dir, entries) = match self.engine.listing(handle(fh), offset == 0) {
                Ok(listing) => listing,
                Err(e) => return reply.error(convert::errno(e)),
            };
            for (at, name) in dots(offset) {
                // The kernel takes no look-up for these two, whatever the attributes say.
                let attr = convert::attr(&dir.attr());
                if reply.add(attr.ino, at, name, &self.ttl, &attr, Generation(0)) {
                    return reply.ok();
                }
            }
            for Listed { cookie, entry } in after(&entries, offset) {
                // Gone since the listing was taken: left out, as readdir(3) allows.
                let name = OsStr::from_bytes(&entry.name);
                let attr = match self.engine.lookup_entry(&dir, entry) {
                    Ok(Some(attr)) => attr,
                    Ok(None) => continue,
                    Err(_) => {
                        // Listed without attributes (node 0): who looks at it hears the error.
                        let attr = fuser::FileAttr { kind: convert::kind(entry.kind), ..convert::nothing() };
                        if reply.add(INodeNo(entry.ino.0), *cookie, name, &self.ttl, &attr, Generation(0)) {
                            break;
                        }
                        continue;
                    }
                };
                let generation = self.generation(&attr);
                if reply.add(INodeNo(attr.ino.0), *cookie, name, &self.ttl, &convert::attr(&attr), generation) {
                    // It did not fit: the kernel never heard of it.
                    self.engine.forget(attr.ino, 1);
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(&self, _req: &Request, _nodeid: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        guard("releasedir", || {
            self.engine.releasedir(handle(fh));
            reply.ok();
        });
    }

    fn fsyncdir(&self, req: &Request, nodeid: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        guard("fsyncdir", || empty(self.engine.fsync(caller(req), ino(nodeid), handle(fh)), reply));
    }

    fn statfs(&self, _req: &Request, _nodeid: INodeNo, reply: ReplyStatfs) {
        guard("statfs", || match self.engine.space() {
            Ok(s) => reply.statfs(s.blocks, s.bfree, s.bavail, s.files, s.ffree, s.bsize, s.namelen, s.frsize),
            Err(e) => reply.error(convert::errno(e)),
        });
    }

    fn setxattr(
        &self,
        req: &Request,
        nodeid: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        guard("setxattr", || {
            let how = match flags {
                0 => SetXattr::Either,
                libc::XATTR_CREATE => SetXattr::Create,
                libc::XATTR_REPLACE => SetXattr::Replace,
                _ => return reply.error(fuser::Errno::EINVAL),
            };
            empty(self.engine.setxattr(caller(req), ino(nodeid), name.as_bytes(), value, how), reply);
        });
    }

    fn getxattr(&self, _req: &Request, nodeid: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        guard("getxattr", || xattr(self.engine.getxattr(ino(nodeid), name.as_bytes()), size, reply));
    }

    fn listxattr(&self, _req: &Request, nodeid: INodeNo, size: u32, reply: ReplyXattr) {
        guard("listxattr", || {
            let list = self.engine.listxattr(ino(nodeid)).map(|names| {
                names.iter().fold(Vec::new(), |mut list, name| {
                    list.extend_from_slice(name);
                    list.push(0);
                    list
                })
            });
            xattr(list, size, reply);
        });
    }

    fn removexattr(&self, req: &Request, nodeid: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guard("removexattr", || {
            empty(self.engine.removexattr(caller(req), ino(nodeid), name.as_bytes()), reply);
        });
    }

    fn fallocate(
        &self,
        req: &Request,
        nodeid: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        guard("fallocate", || {
            let range = Range::new(offset, length);
            empty(self.engine.fallocate(caller(req), ino(nodeid), handle(fh), range, mode), reply);
        });
    }

    fn lseek(&self, _req: &Request, nodeid: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        guard("lseek", || {
            let data = match whence {
                libc::SEEK_DATA => true,
                libc::SEEK_HOLE => false,
                _ => return reply.error(fuser::Errno::EINVAL),
            };
            let Ok(offset) = u64::try_from(offset) else { return reply.error(fuser::Errno::ENXIO) };
            match self.engine.seek(ino(nodeid), handle(fh), offset, data) {
                Ok(at) => reply.offset(i64::try_from(at).unwrap_or(i64::MAX)),
                Err(e) => reply.error(convert::errno(e)),
            }
        });
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        guard("copy_file_range", || {
            let (from, to) = ((handle(fh_in), offset_in), (handle(fh_out), offset_out));
            match self.engine.copy_range(caller(req), from, to, len) {
                Ok(n) => reply.written(u32::try_from(n).unwrap_or(u32::MAX)),
                Err(e) => reply.error(convert::errno(e)),
            }
        });
    }
}

/// Answers both forms of an xattr request: how large, or the bytes.
fn xattr(result: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match result {
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(e) => reply.error(convert::errno(e)),
    }
}
