//! read, write and what changes bytes without them.

use std::sync::Arc;

use super::claims::What;
use super::steps::Reach;
use super::{Caller, Engine, Handle, Mode};
use crate::actors::Depth;
use crate::overlay::ops::io::Write;
use crate::overlay::ops::space::Allocate;
use crate::overlay::{Inode, Result};
use crate::types::event::ContentRef;
use crate::types::{ActorId, Errno, HandleId, Ino, Known, Note, Op, Range};

/// How a READ request came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// read(2) on a handle without page cache: exactly these bytes went to the caller.
    Direct,
    /// A page that everybody who has the file open can now read unseen.
    Page,
}

/// A WRITE request.
#[derive(Clone, Copy, Debug)]
pub struct WriteRequest<'a> {
    pub ino: Ino,
    pub handle: HandleId,
    pub offset: u64,
    pub data: &'a [u8],
    pub kill_ids: bool,
    /// Writeback of a mapping: the request comes from the kernel, not from the writer.
    pub from_cache: bool,
}

impl Engine {
    /// Reads into `out`; returns the bytes read.
    pub fn read(&self, caller: Caller, handle: HandleId, offset: u64, out: &mut [u8], fill: Fill) -> Result<usize> {
        let handle = self.handles.get(handle).ok_or(Errno::EBADF)?;
        let result = self.overlay.read(&handle.inode, offset, out);
        if self.mode == Mode::Off {
            return result.map(|r| r.len);
        }
        // A page fault may come from a process that holds its own mmap_lock.
        let depth = if fill == Fill::Page { Depth::Minimal } else { Depth::Full };
        let mut actor = self.actor(caller, depth);
        let read = self.or_refuse(actor, result, || self.io_note(Op::Read, &handle, offset, out.len() as u64))?;
        let range = Range::new(offset, read.len as u64);
        if actor != ActorId::KERNEL && actor != handle.opener && !handle.holders.lock().contains(&actor) {
            if fill == Fill::Page && self.who().is_some_and(|who| who.was_never_seen(actor)) {
                // Nobody waits for read-ahead: the thread that caused it may be gone, and its number tells no process.
                actor = ActorId::KERNEL;
            } else {
                // Passed on in a way that is not seen (SCM_RIGHTS, pidfd_getfd, a missed fork).
                self.inherit(&handle, actor);
            }
        }
        let who = if actor == ActorId::KERNEL { handle.opener } else { actor };
        // What counts as read whole does so in the state that it was opened in.
        if !handle.whole || read.content != handle.content {
            let known = if actor == ActorId::KERNEL { Known::Inferred } else { Known::Observed };
            self.saw(&handle, who, known, read.content, range);
        }
        if fill == Fill::Page {
            self.shown_to_others(&handle, who, read.content, range);
        }
        Ok(read.len)
    }

    /// Bytes came into the page cache: every other holder of the open file can read them unseen.
    fn shown_to_others(&self, by: &Arc<Handle>, who: ActorId, content: ContentRef, range: Range) {
        for holder in by.holders.lock().clone() {
            if holder != who && !(by.whole && by.content == content) {
                self.saw(by, holder, Known::Inferred, content, range);
            }
        }
        if !self.handles.is_shared(by.inode.ino) {
            return;
        }
        for other in self.handles.of_file(by.inode.ino) {
            if other.id != by.id && other.readable && !(other.whole && other.content == content) {
                for holder in other.holders.lock().clone() {
                    self.saw(&other, holder, Known::Inferred, content, range);
                }
            }
        }
    }

    /// Writes; returns the bytes written, which are all.
    pub fn write(&self, caller: Caller, request: &WriteRequest<'_>) -> Result<u32> {
        let handle = self.handles.get(request.handle);
        let inode = match &handle {
            Some(handle) => handle.inode.clone(),
            None => self.inode(request.ino)?,
        };
        let (actor, others) = self.writers(caller, handle.as_ref(), &inode, request.from_cache);
        let known = if request.from_cache { Known::Inferred } else { Known::Observed };
        let write = Write {
            offset: request.offset,
            data: request.data,
            append: !request.from_cache && handle.as_ref().is_some_and(|h| h.appends()),
            kill_ids: request.kill_ids,
            handle: request.handle,
            op: Op::Write,
            known,
        };
        let size = inode.attr().size;
        let result = {
            let entered = self.enter_as(caller, actor, &Reach::Anew(&[What::file(inode.ino)]));
            self.overlay.write(&entered.ctx, &inode, &write)
        };
        let len = request.data.len() as u64;
        let note = || {
            let mut note = Note::new(Op::Write, inode.ino, self.overlay.path(&inode));
            note.handle = request.handle;
            note.known = known;
            note.with_range(Range::new(request.offset, len))
        };
        let offset = self.or_refuse(actor, result, note)?;
        if self.mode != Mode::Off {
            for other in others {
                self.observe(other, Note { after: inode.content(), ..note() })?;
            }
            // Behind the old end there are zeros now, and the page cache had them all along.
            let start = offset.min(size);
            self.shown_to_readers(&inode, Range::new(start, offset + len - start));
        }
        u32::try_from(len).map_err(|_| Errno::EIO)
    }

    /// The page cache has new bytes: whoever has the file open for reading can see them without asking.
    fn shown_to_readers(&self, inode: &Inode, range: Range) {
        let content = inode.content();
        for reader in self.handles.of_file(inode.ino).iter().filter(|h| h.readable) {
            for holder in reader.holders.lock().clone() {
                self.saw(reader, holder, Known::Inferred, content, range);
            }
        }
    }

    /// As [`Engine::shown_to_readers`], when the file is longer than `size` now.
    fn shown_to_grow(&self, inode: &Inode, size: u64) {
        let now = inode.attr().size;
        if now > size && self.mode != Mode::Off {
            self.shown_to_readers(inode, Range::new(size, now - size));
        }
    }

    /// Who wrote. Writeback of a mapping has no process: it is put down to everybody who has the file open for writing.
    fn writers(
        &self,
        caller: Caller,
        handle: Option<&Arc<Handle>>,
        inode: &Inode,
        from_cache: bool,
    ) -> (ActorId, Vec<ActorId>) {
        if !from_cache && caller.tid != 0 {
            return (self.actor(caller, Depth::Minimal), Vec::new());
        }
        let mut writers: Vec<ActorId> = Vec::new();
        for open in self.handles.of_file(inode.ino).iter().filter(|h| h.writable) {
            for holder in open.holders.lock().iter() {
                if !writers.contains(holder) {
                    writers.push(*holder);
                }
            }
        }
        let first = handle.map(|h| h.opener).or(writers.first().copied()).unwrap_or(ActorId::KERNEL);
        writers.retain(|w| *w != first);
        (first, writers)
    }

    fn io_note(&self, op: Op, handle: &Handle, offset: u64, len: u64) -> Note {
        let mut note = Note::new(op, handle.inode.ino, self.overlay.path(&handle.inode));
        note.handle = handle.id;
        note.with_range(Range::new(offset, len))
    }

    /// fallocate(2) with the mode bits as given.
    pub fn fallocate(&self, caller: Caller, ino: Ino, handle: HandleId, range: Range, mode: i32) -> Result<()> {
        let how = Allocate::from_mode(mode).ok_or(Errno::EOPNOTSUPP)?;
        let inode = self.inode_of(ino, handle)?;
        let actor = self.actor(caller, Depth::Full);
        let size = inode.attr().size;
        let result = {
            let entered = self.enter_as(caller, actor, &Reach::Anew(&[What::file(inode.ino)]));
            self.overlay.fallocate(&entered.ctx, &inode, range, how, handle)
        };
        self.or_refuse(actor, result, || Note::new(Op::Fallocate, ino, self.overlay.path(&inode)).with_range(range))?;
        self.shown_to_grow(&inode, size);
        Ok(())
    }

    /// copy_file_range(2); returns the bytes copied.
    pub fn copy_range(
        &self,
        caller: Caller,
        (source, from): (HandleId, u64),
        (target, to): (HandleId, u64),
        len: u64,
    ) -> Result<u64> {
        let source = self.handles.get(source).ok_or(Errno::EBADF)?;
        let target = self.handles.get(target).ok_or(Errno::EBADF)?;
        let actor = self.actor(caller, Depth::Full);
        let size = target.inode.attr().size;
        let result = {
            let entered = self.enter_as(caller, actor, &Reach::Anew(&[What::file(target.inode.ino)]));
            self.overlay.copy_range(&entered.ctx, (&source.inode, from), (&target.inode, to), len, target.id)
        };
        let (copied, content) = self.or_refuse(actor, result, || self.io_note(Op::Copy, &target, to, len))?;
        if self.mode != Mode::Off {
            self.saw(&source, actor, Known::Observed, content, Range::new(from, copied));
            self.shown_to_grow(&target.inode, size);
        }
        Ok(copied)
    }

    /// fsync(2).
    pub fn fsync(&self, caller: Caller, ino: Ino, handle: HandleId) -> Result<()> {
        let inode = self.inode_of(ino, handle)?;
        let result = self.overlay.sync(&inode);
        if self.mode != Mode::Off {
            let actor = self.actor(caller, Depth::Full);
            let mut note = Note::new(Op::Fsync, ino, self.overlay.path(&inode));
            note.errno = result.err();
            self.observe(actor, note)?;
        }
        result
    }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE.
    pub fn seek(&self, ino: Ino, handle: HandleId, offset: u64, data: bool) -> Result<u64> {
        self.overlay.seek(&*self.inode_of(ino, handle)?, offset, data)
    }

    fn inode_of(&self, ino: Ino, handle: HandleId) -> Result<Arc<Inode>> {
        match self.handles.get(handle) {
            Some(handle) => Ok(handle.inode.clone()),
            None => self.inode(ino),
        }
    }
}
