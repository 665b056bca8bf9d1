//! fallocate and lseek: reserving, zeroing and finding holes.

use super::setattr::{MAX_SIZE, without_ids};
use crate::overlay::inode::Version;
use crate::overlay::{Ctx, Inode, Overlay, Result, failed};
use crate::store::Batch;
use crate::types::{Errno, HandleId, Kind, Note, Op, Range};

/// What fallocate(2) is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocate {
    /// Mode 0: room for the range, growing the file.
    Extend,
    /// FALLOC_FL_KEEP_SIZE.
    Reserve,
    /// FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE.
    Punch,
    /// FALLOC_FL_ZERO_RANGE, with or without FALLOC_FL_KEEP_SIZE.
    Zero { keep_size: bool },
}

impl Allocate {
    /// From the mode bits of fallocate(2); `None` for what is not supported (collapse, insert, unshare).
    pub fn from_mode(mode: i32) -> Option<Allocate> {
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        Some(match mode {
            0 => Allocate::Extend,
            libc::FALLOC_FL_KEEP_SIZE => Allocate::Reserve,
            PUNCH => Allocate::Punch,
            libc::FALLOC_FL_ZERO_RANGE => Allocate::Zero { keep_size: false },
            ZERO_KEEP => Allocate::Zero { keep_size: true },
            _ => return None,
        })
    }
}

impl Overlay {
    /// See fallocate(2).
    ///
    /// # Errors
    /// `EFBIG`, `EINVAL` for an empty range, `ENODEV` for what is no file, `ENOSPC`.
    pub fn fallocate(&self, ctx: &Ctx, inode: &Inode, range: Range, how: Allocate, handle: HandleId) -> Result<()> {
        if inode.kind != Kind::File {
            return Err(Errno::ENODEV);
        }
        if range.len == 0 {
            return Err(Errno::EINVAL);
        }
        let end = range.offset.checked_add(range.len).filter(|&end| end <= MAX_SIZE).ok_or(Errno::EFBIG)?;
        let path = self.path(inode);
        let fills = matches!(how, Allocate::Extend | Allocate::Reserve);
        self.store.space.claim(if fills { range.len } else { 512 }).map_err(failed)?;
        let mut state = inode.state.write();
        let mut batch = Batch::new();
        let mut version = self.writable(ctx, inode, &state, &mut batch)?;
        let mut attr = state.attr;
        let grows = matches!(how, Allocate::Extend | Allocate::Zero { keep_size: false });
        if grows && end > attr.size {
            self.trim(&mut version, attr.size)?;
            attr.size = end;
        }
        let done = match how {
            Allocate::Extend | Allocate::Reserve => self.reserve(&version, range),
            Allocate::Punch | Allocate::Zero { .. } => self
                .own_chunks(inode, &state, &mut version, &mut batch, (range.offset, range.len))
                .and_then(|_| self.data().zero(version.id, range.offset, range.len).map_err(failed)),
        };
        if let Err(error) = done {
            return Err(self.undo_growth(&mut state, &version, error));
        }
        attr.ctime = ctx.now;
        attr.mtime = ctx.now;
        if ctx.uid != 0 {
            // Unlike for write(2), the kernel does not say who may keep them.
            attr.perm = without_ids(attr.perm);
        }
        let mut note = Note::new(Op::Fallocate, inode.ino, path).with_range(range);
        note.handle = handle;
        note.flags = match how {
            Allocate::Extend => 0,
            Allocate::Reserve => libc::FALLOC_FL_KEEP_SIZE as u32,
            Allocate::Punch => (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u32,
            Allocate::Zero { .. } => libc::FALLOC_FL_ZERO_RANGE as u32,
        };
        self.change_bytes(ctx, inode, &mut state, version, attr, batch, note)
    }

    /// Asks the store's file system for room, where the version's own file will hold the bytes.
    fn reserve(&self, version: &Version, range: Range) -> Result<()> {
        let start = range.offset.max(version.record.limit);
        if start >= range.end() {
            return Ok(());
        }
        self.data().reserve(version.id, start, range.end() - start).map_err(failed)
    }

    /// SEEK_DATA (`data`) or SEEK_HOLE from `offset`.
    ///
    /// # Errors
    /// `ENXIO` when there is none, or `offset` is not inside the file.
    pub fn seek(&self, inode: &Inode, offset: u64, data: bool) -> Result<u64> {
        if inode.kind != Kind::File {
            return Err(Errno::EINVAL);
        }
        let state = inode.state.read();
        self.seek_state(inode, &state, offset, data)?.ok_or(Errno::ENXIO)
    }
}
