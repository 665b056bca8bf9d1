//! Opening and closing files and directories: where it is decided how reads will be known.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;
use smallvec::smallvec;

use super::claims::What;
use super::handles::Listed;
use super::{Caller, DirHandle, Engine, Handle, Mode};
use crate::actors::Depth;
use crate::clock;
use crate::overlay::ops::create::New;
use crate::overlay::{Inode, Result};
use crate::types::{ActorId, Attr, Errno, HandleId, Ino, Kind, Known, Note, Op, Range};

/// Files up to this size keep the page cache and count as read whole. Bytes.
pub const SMALL: u64 = 256 << 10;

/// Set in the open flags when the kernel opens a file to execute it (`__FMODE_EXEC`, include/linux/fs.h).
const FMODE_EXEC: i32 = 0x20;

/// How the kernel may cache an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Keep what is cached from before: reads may never be seen.
    Keep,
    /// Start with an empty cache: what is read for the first time is seen.
    Cold,
    /// No cache for read(2) and write(2).
    Direct,
}

/// An opened file.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    pub handle: HandleId,
    pub caching: Caching,
    /// The kernel need not tell when a descriptor is closed.
    pub no_flush: bool,
}

impl Engine {
    /// open(2) of a file that exists. The kernel has checked permissions.
    pub fn open(&self, caller: Caller, ino: Ino, flags: i32) -> Result<Opened> {
        let actor = self.actor(caller, Depth::Full);
        let inode = self.inode(ino)?;
        if inode.kind != Kind::File {
            return Err(Errno::EINVAL);
        }
        let op = if flags & FMODE_EXEC != 0 { Op::Exec } else { Op::Open };
        self.open_inode(actor, inode, flags, op)
    }

    fn open_inode(&self, actor: ActorId, inode: Arc<Inode>, flags: i32, op: Op) -> Result<Opened> {
        let access = flags & libc::O_ACCMODE;
        let (readable, writable) = (access != libc::O_WRONLY, access != libc::O_RDONLY);
        let id = self.new_handle_id();
        if self.mode == Mode::Off {
            self.keep_handle(id, inode, flags, (readable, writable, true), actor, Default::default());
            return Ok(Opened { handle: id, caching: Caching::Keep, no_flush: true });
        }
        let (size, content) = {
            let state = inode.state.read();
            (state.attr.size, state.content_ref())
        };
        let small = size <= SMALL;
        let caching = match self.mode {
            Mode::Exact => Caching::Direct,
            // A base that others can change: what is cached may be old.
            Mode::Auto | Mode::Off if small && !writable && !self.overlay.live_base => Caching::Keep,
            Mode::Auto | Mode::Off => Caching::Cold,
        };
        let whole = caching == Caching::Keep;
        let mut note = Note::new(op, inode.ino, self.overlay.path(&inode));
        note.handle = id;
        note.flags = flags as u32;
        note.before = content;
        note.after = content;
        if whole {
            note.known = Known::Inferred;
            note.ranges.push(Range::new(0, Range::TO_END));
            self.was_read(&inode, content, &note.path);
        }
        // Before the reply, and so before the first byte can be read.
        self.observe(actor, note)?;
        self.keep_handle(id, inode, flags, (readable, writable, whole), actor, content);
        Ok(Opened { handle: id, caching, no_flush: !writable && self.tracks_forks() })
    }

    fn keep_handle(
        &self,
        id: HandleId,
        inode: Arc<Inode>,
        flags: i32,
        (readable, writable, whole): (bool, bool, bool),
        opener: ActorId,
        content: crate::types::event::ContentRef,
    ) {
        inode.opened();
        self.handles.add(Arc::new(Handle {
            id,
            inode,
            flags,
            readable,
            writable,
            whole,
            opener,
            opened_ns: clock::monotonic_ns(),
            content,
            holders: Mutex::new(smallvec![opener]),
            seen: Mutex::default(),
            listed: AtomicBool::new(false),
        }));
    }

    /// open(2) with O_CREAT of a name that does not exist.
    pub fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        new: &New<'_>,
        flags: i32,
    ) -> Result<(Attr, Opened)> {
        let attr = self.make(caller, parent, name, new)?;
        let actor = self.actor(caller, Depth::Full);
        let opened = self.inode(attr.ino).and_then(|inode| self.open_inode(actor, inode, flags, Op::Open));
        match opened {
            Ok(opened) => Ok((attr, opened)),
            Err(e) => {
                // The look-up that `make` counted is not going to be forgotten by a kernel that hears of an error.
                self.forget(attr.ino, 1);
                Err(e)
            }
        }
    }

    /// A descriptor was closed, by a process that may have inherited it. Only asked for where forks are not seen.
    ///
    /// Never looks at what /proc has under a lock: execve closes descriptors while it holds the lock that /proc takes (`exec_update_lock`), and waits for
    /// our answer.
    pub fn flush(&self, caller: Caller, handle: HandleId) -> Result<()> {
        let Some(handle) = self.handles.get(handle).filter(|h| h.readable && caller.tid != 0) else { return Ok(()) };
        let Some(who) = self.who() else { return Ok(()) };
        match who.closing(caller.tid) {
            Ok(actor) if actor == handle.opener => {}
            Ok(actor) => self.inherit(&handle, actor),
            Err(closing) => self.heirs.later(closing, handle),
        }
        Ok(())
    }

    /// The last descriptor is gone.
    pub fn release(&self, handle: HandleId) {
        let Some(handle) = self.handles.remove(handle, clock::monotonic_ns()) else { return };
        self.settle_handle(&handle);
        let inode = &handle.inode;
        if handle.writable {
            self.done_with(handle.opener, What::file(inode.ino));
        }
        if inode.closed() {
            // Nothing to forget, but perhaps the last thing that kept a nameless file.
            self.overlay.forget(inode.ino, 0);
        }
    }

    /// opendir(3). The listing counts as seen from here on: the kernel may answer it from its cache.
    pub fn opendir(&self, caller: Caller, ino: Ino) -> Result<HandleId> {
        let inode = self.inode(ino)?;
        if inode.kind != Kind::Dir {
            return Err(Errno::ENOTDIR);
        }
        if self.mode != Mode::Off {
            let actor = self.actor(caller, Depth::Full);
            let mut note = Note::new(Op::Readdir, ino, self.overlay.path(&inode));
            note.known = Known::Inferred;
            self.observe(actor, note)?;
        }
        let id = self.new_handle_id();
        self.dir_handles.add(id, DirHandle { inode, listing: Mutex::new(None) });
        Ok(id)
    }

    /// The entries of an open directory, the same ones for as long as it is open. `rewound` takes a new listing, as
    /// rewinddir(3) promises.
    pub fn listing(&self, handle: HandleId, rewound: bool) -> Result<(Arc<Inode>, Arc<Vec<Listed>>)> {
        let dir = self.dir_handles.get(handle).ok_or(Errno::EBADF)?;
        let mut listing = dir.listing.lock();
        if rewound {
            *listing = None;
        }
        if let Some(entries) = &*listing {
            return Ok((dir.inode.clone(), entries.clone()));
        }
        let entries = Arc::new(Listed::sorted(self.overlay.list(&dir.inode)?));
        *listing = Some(entries.clone());
        Ok((dir.inode.clone(), entries))
    }

    pub fn releasedir(&self, handle: HandleId) {
        self.dir_handles.remove(handle);
    }
}
