//! read, write and copy_file_range.

use std::sync::Arc;

use super::setattr::{MAX_SIZE, without_ids};
use crate::overlay::inode::{Bytes, State, Version};
use crate::overlay::{Ctx, Inode, Overlay, Result, failed};
use crate::store::Batch;
use crate::store::codec::Content;
use crate::types::event::ContentRef;
use crate::types::{Attr, Errno, HandleId, Kind, Known, Note, Op, Range, VersionId};

/// One write(2) as it arrives.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Where; ignored when `append` is set.
    pub offset: u64,
    pub data: &'a [u8],
    pub append: bool,
    /// The writer may not keep set-id bits.
    pub kill_ids: bool,
    pub handle: HandleId,
    pub op: Op,
    /// Whether the writer is known or inferred (writeback of a mapping).
    pub known: Known,
}

/// What a read saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub len: usize,
    pub content: ContentRef,
}

impl Overlay {
    /// Reads into `out` from `offset`; fewer bytes only at the end of the file.
    pub fn read(&self, inode: &Inode, offset: u64, out: &mut [u8]) -> Result<Read> {
        match inode.kind {
            Kind::File => {}
            Kind::Dir => return Err(Errno::EISDIR),
            Kind::Symlink | Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                return Err(Errno::EINVAL);
            }
        }
        let state = inode.state.read();
        let len = self.read_state(inode, &state, offset, out)?;
        Ok(Read { len, content: state.content_ref() })
    }

    /// Writes; returns the offset at which the bytes landed.
    ///
    /// # Errors
    /// `ENOSPC`, `EFBIG`, `EIO`; the file is then as it was before (bytes inside the range may have changed, as write(2) allows).
    pub fn write(&self, ctx: &Ctx, inode: &Inode, write: &Write<'_>) -> Result<u64> {
        if inode.kind != Kind::File {
            return Err(Errno::EINVAL);
        }
        let path = self.path(inode);
        let len = write.data.len() as u64;
        self.store.space.claim(len + 512).map_err(failed)?;
        let mut state = inode.state.write();
        let offset = if write.append { state.attr.size } else { write.offset };
        let end = offset.checked_add(len).filter(|&end| end <= MAX_SIZE).ok_or(Errno::EFBIG)?;
        let mut batch = Batch::new();
        let mut version = self.writable(ctx, inode, &state, &mut batch)?;
        if end > state.attr.size {
            self.trim(&mut version, state.attr.size)?;
        }
        let written = self
            .own_chunks(inode, &state, &mut version, &mut batch, (offset, len))
            .and_then(|_| self.data().write(version.id, offset, write.data).map_err(failed));
        if let Err(error) = written {
            return Err(self.undo_growth(&mut state, &version, error));
        }
        let mut attr = state.attr;
        attr.size = attr.size.max(end);
        attr.mtime = ctx.now;
        attr.ctime = ctx.now;
        if write.kill_ids {
            attr.perm = without_ids(attr.perm);
        }
        let mut note = Note::new(write.op, inode.ino, path).with_range(Range::new(offset, len));
        note.handle = write.handle;
        note.known = write.known;
        self.change_bytes(ctx, inode, &mut state, version, attr, batch, note)?;
        Ok(offset)
    }

    /// Writes a version that is all of a file. It becomes real with the batch that has its record.
    ///
    /// # Errors
    /// `ENOSPC`, `EIO`; a file may be left behind.
    pub fn write_version(&self, id: VersionId, bytes: &[u8]) -> Result<()> {
        self.store.space.claim(bytes.len() as u64 + 512).map_err(failed)?;
        self.data().write(id, 0, bytes).map_err(failed)?;
        // To be on disk before the log that refers to it.
        self.copied.lock().insert(id);
        Ok(())
    }

    /// Commits changed bytes: new attributes, version and event; then makes them visible.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn change_bytes(
        &self,
        ctx: &Ctx,
        inode: &Inode,
        state: &mut State,
        mut version: Version,
        mut attr: Attr,
        mut batch: Batch,
        mut note: Note,
    ) -> Result<()> {
        note.before = state.content_ref();
        version.stamp += 1;
        note.after = ContentRef { version: version.id, stamp: version.stamp };
        attr.blocks = self.blocks(&version);
        let mut record = state.record();
        record.attr = attr;
        record.content = Content::Version { id: version.id, stamp: version.stamp };
        if !matches!(state.content, Bytes::Version(_)) {
            // The first change takes file capabilities away, as the kernel does for its own file systems.
            record.xattrs = self.without_capability(state)?.or(record.xattrs);
        }
        self.put_record(&mut batch, inode.ino, state, &record);
        self.put_trash_if_orphan(&mut batch, state, &version);
        if let Err(error) = self.commit(ctx, batch, note) {
            return Err(self.undo_growth(state, &version, error));
        }
        state.xattrs = record.xattrs.map(Box::new);
        state.attr = attr;
        if !matches!(state.content, Bytes::Version(_)) {
            self.descriptors_after_copy_up(inode, &version);
        }
        match &mut state.content {
            Bytes::Version(current) => **current = version,
            content => *content = Bytes::Version(Box::new(version)),
        }
        self.now_recorded(inode, state);
        Ok(())
    }

    /// After a failed write: a version that was to be new has no file, one that is in use may have grown too long.
    pub(crate) fn undo_growth(&self, state: &mut State, version: &Version, error: Errno) -> Errno {
        match &mut state.content {
            Bytes::Version(current) if current.id == version.id => {
                // Some of the bytes may have changed all the same.
                current.stamp += 1;
                current.ragged = true;
            }
            _ => {
                if let Err(error) = self.data().remove(version.id) {
                    tracing::warn!(%error, "a version file without a record is left for fsck");
                }
            }
        }
        error
    }

    /// The base file is no longer needed when everything was copied.
    fn descriptors_after_copy_up(&self, inode: &Inode, version: &Version) {
        if version.record.limit == 0 {
            self.descriptors.drop_file(inode.ino);
        }
    }

    /// Copies bytes from one file to another, as copy_file_range(2) does; returns how many.
    ///
    /// # Errors
    /// Those of read and write; `EINVAL` when source and destination overlap in one file.
    pub fn copy_range(
        &self,
        ctx: &Ctx,
        (source, from): (&Arc<Inode>, u64),
        (target, to): (&Arc<Inode>, u64),
        len: u64,
        handle: HandleId,
    ) -> Result<(u64, ContentRef)> {
        /// As much as one request may hold up the others.
        const MOST: u64 = 4 << 20;
        if source.ino == target.ino && from < to.saturating_add(len) && to < from.saturating_add(len) {
            return Err(Errno::EINVAL);
        }
        let mut buffer = vec![0; len.min(MOST) as usize];
        let read = self.read(source, from, &mut buffer)?;
        let data = buffer.get(..read.len).unwrap_or_default();
        if data.is_empty() {
            return Ok((0, read.content));
        }
        // Unlike for write(2), the kernel does not say who may keep set-id bits.
        let kill_ids = ctx.uid != 0;
        let write = Write { offset: to, data, append: false, kill_ids, handle, op: Op::Copy, known: Known::Observed };
        self.write(ctx, target, &write)?;
        Ok((read.len as u64, read.content))
    }
}
