//! Bytes: reading through a file's versions and the base, and making the version that a writer may change.
//!
//! A byte at offset `o` of a version comes from the version's own file if its chunk is the version's own or `o` is not below
//! `limit`; otherwise from what lies below, whose extents are flattened when the version is made. Own bytes that were never written are zero. Invariants: `limit` never exceeds the file's size, and while
//! not `ragged` the version file is not longer than the file.

use std::fs::File;
use std::sync::Arc;

use super::chunks::{CHUNK, Chunks};
use super::extents::{Extent, Extents, Source};
use super::inode::{Bytes, State, Version};
use super::{Ctx, Inode, Overlay, Result, failed};
use crate::store::codec::{self, Origin, Parent, VersionRecord};
use crate::store::data::read_full;
use crate::store::{Batch, Counter, Table, keys};
use crate::types::{ActorId, Errno, VersionId};

/// The last chunk number plus one that `len` bytes need.
fn chunks_for(len: u64) -> u64 {
    len.div_ceil(CHUNK)
}

impl Version {
    /// One that lies over nothing.
    pub(crate) fn whole(id: VersionId, record: VersionRecord, stamp: u64) -> Version {
        let (own, below) = (Chunks::default(), Arc::default());
        Version { id, record, own, stamp, below, depth: 0, ragged: false, trashed: false }
    }

    /// From `offset` on: whether the bytes are the version's own, and where that changes.
    fn piece_at(&self, offset: u64) -> (bool, u64) {
        if offset >= self.record.limit {
            return (true, u64::MAX);
        }
        let (own, next) = self.own.run_at(offset / CHUNK);
        let end = next.saturating_mul(CHUNK);
        if own {
            (true, if end >= self.record.limit { u64::MAX } else { end })
        } else {
            (false, end.min(self.record.limit))
        }
    }

    fn is_whole(&self) -> bool {
        self.own.covers(chunks_for(self.record.limit))
    }

    /// Where each of the first `size` bytes comes from.
    pub(crate) fn flatten(&self, size: u64) -> Extents {
        let mut extents = Extents::default();
        let limit = self.record.limit.min(size);
        let mut at = 0;
        while at < limit {
            let (own, end) = self.piece_at(at);
            let end = end.min(limit);
            if own {
                extents.push(Extent { start: at, end, source: Source::Version(self.id) });
            } else {
                extents.push_part(&self.below, at, end);
            }
            at = end;
        }
        extents.push(Extent { start: limit, end: size, source: Source::Version(self.id) });
        extents
    }
}

/// So many versions may lie on each other before one writes down where all of its bytes are: bounds what reading a version from
/// the log costs, and lets old versions go.
const DEEPEST: u32 = 16;

impl Overlay {
    /// The base file behind `origin`, checked to be the one that was looked up.
    pub(crate) fn base_file(&self, inode: &Inode, origin: &Origin) -> Result<Arc<File>> {
        if let Some(file) = self.descriptors.get(inode.ino, origin.ino) {
            return Ok(file);
        }
        let file = self.base.open(&origin.path)?;
        let stat = rustix::fs::fstat(&file)?;
        if stat.st_ino != origin.ino {
            // Replaced behind the mount: these are not the bytes that were looked up.
            return Err(Errno::ESTALE);
        }
        let file = Arc::new(file);
        self.descriptors.put(inode.ino, origin.ino, file.clone());
        Ok(file)
    }

    /// Bytes of a base file that changed since a part of it was copied must not be mixed with that part.
    fn unchanged(&self, file: &File, origin: &Origin) -> Result<()> {
        let stat = rustix::fs::fstat(file)?;
        let mtime = (stat.st_mtime as i64, stat.st_mtime_nsec as u32);
        if stat.st_size as u64 == origin.print.size && mtime == (origin.print.mtime.secs, origin.print.mtime.nanos) {
            return Ok(());
        }
        tracing::error!(path = %origin.path, "the base file was changed behind the mount after a part of it was copied");
        Err(Errno::EIO)
    }

    /// Reads into `out` at `offset`; returns the bytes read, fewer only at the end of the file.
    pub(crate) fn read_state(&self, inode: &Inode, state: &State, offset: u64, out: &mut [u8]) -> Result<usize> {
        let left = state.attr.size.saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(out.len());
        let Some(out) = out.get_mut(..len) else { return Ok(0) };
        match &state.content {
            Bytes::None => out.fill(0),
            Bytes::Base => {
                let origin = state.origin.as_deref().ok_or(Errno::EIO)?;
                let file = self.base_file(inode, origin)?;
                let got = read_full(&file, offset, out).map_err(|e| Errno::from_io(&e))?;
                // Shorter than it was: the base was cut behind the mount. The kernel pads the rest of the page.
                return Ok(got);
            }
            Bytes::Version(version) => {
                self.read_version(inode, state, version, offset, out)?;
            }
        }
        Ok(len)
    }

    fn read_version(&self, inode: &Inode, state: &State, version: &Version, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let (own, end) = version.piece_at(at);
            let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(out.len() - done);
            let piece = &mut out[done..done + len];
            if own {
                self.data().read(version.id, at, piece).map_err(failed)?;
            } else {
                self.read_below(inode, state, version, at, piece)?;
            }
            done += len;
        }
        Ok(())
    }

    /// Reads what a version has not itself.
    fn read_below(&self, inode: &Inode, state: &State, version: &Version, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let (source, end) = version.below.at(at);
            let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(out.len() - done);
            let piece = &mut out[done..done + len];
            match source {
                Some(Source::Version(id)) => self.data().read(id, at, piece).map_err(failed)?,
                Some(Source::Base) => {
                    let origin = state.origin.as_deref().ok_or(Errno::EIO)?;
                    let file = self.base_file(inode, origin)?;
                    self.unchanged(&file, origin)?;
                    let got = read_full(&file, at, piece).map_err(|e| Errno::from_io(&e))?;
                    piece[got..].fill(0);
                }
                None => piece.fill(0),
            }
            done += len;
        }
        Ok(())
    }

    /// The version that may be changed in this epoch: the current one, or a new one over what the file has now.
    ///
    /// A new version's record is put into `batch`; it becomes real with the commit.
    pub(crate) fn writable(&self, ctx: &Ctx, inode: &Inode, state: &State, batch: &mut Batch) -> Result<Version> {
        if self.read_only {
            return Err(Errno::EROFS);
        }
        let epoch = self.epoch();
        let size = state.attr.size;
        let (mut parent, below, depth) = match &state.content {
            Bytes::Version(version) if version.record.epoch == epoch => {
                let mut version = (**version).clone();
                if ctx.shared && version.record.by != ActorId::KERNEL {
                    version.record.by = ActorId::KERNEL;
                    self.put_version(batch, version.id, &version.record);
                }
                return Ok(version);
            }
            Bytes::Version(version) => (Parent::Version(version.id), version.flatten(size), version.depth + 1),
            Bytes::Base => (Parent::Base, Extents::one(0, size, Source::Base), 0),
            Bytes::None => (Parent::None, Extents::default(), 0),
        };
        let id = VersionId(self.store.counters.next(&*self.store.kv, Counter::Version).map_err(failed)?);
        if depth >= DEEPEST {
            parent = Parent::Map;
            batch.put(Table::Tree, &keys::extents(id), &below.encode());
        }
        let depth = if parent == Parent::Map { 0 } else { depth };
        let limit = if parent == Parent::None { 0 } else { size };
        let record = VersionRecord { ino: inode.ino, epoch, parent, limit, by: ctx.actor };
        self.put_version(batch, id, &record);
        let own = Chunks::default();
        let trashed = state.attr.nlink == 0;
        Ok(Version { id, record, own, stamp: 0, below: Arc::new(below), depth, ragged: false, trashed })
    }

    pub(crate) fn put_version(&self, batch: &mut Batch, id: VersionId, record: &VersionRecord) {
        let mut value = Vec::with_capacity(40);
        codec::put_version(&mut value, record);
        batch.put(Table::Tree, &keys::version(id), &value);
    }

    /// Makes the chunks that `[offset, offset + len)` touches the version's own, copying what will not be overwritten anyway
    /// (`overwritten`). Returns the bytes that were copied.
    pub(crate) fn own_chunks(
        &self,
        inode: &Inode,
        state: &State,
        version: &mut Version,
        batch: &mut Batch,
        (offset, len): (u64, u64),
    ) -> Result<u64> {
        let limit = version.record.limit;
        if len == 0 || offset >= limit {
            return Ok(0);
        }
        let end = offset.saturating_add(len);
        let last = (end.min(limit) - 1) / CHUNK;
        let mut copied = 0;
        let mut buffer = Vec::new();
        let mut first_new = None;
        for chunk in offset / CHUNK..=last {
            if version.own.contains(chunk) {
                continue;
            }
            let (start, stop) = (chunk * CHUNK, ((chunk + 1) * CHUNK).min(limit));
            if offset > start || end < stop {
                buffer.resize((stop - start) as usize, 0);
                self.read_below(inode, state, version, start, &mut buffer)?;
                if buffer.iter().any(|&b| b != 0) {
                    self.store.space.claim(stop - start).map_err(failed)?;
                    self.data().write(version.id, start, &buffer).map_err(failed)?;
                } else {
                    // A hole stays one; but an earlier write that was never committed may have left something there.
                    self.data().zero(version.id, start, stop - start).map_err(failed)?;
                }
                copied += stop - start;
            }
            first_new.get_or_insert(chunk);
        }
        if copied > 0 {
            self.copied.lock().insert(version.id);
        }
        if let Some(first) = first_new {
            // One run covers them all: those in between that were own already stay so.
            let count = last - first + 1;
            version.own.insert(first, count);
            self.settle(version, batch, first, count);
        }
        Ok(copied)
    }

    /// Writes down that chunks became the version's own; a version that has everything lets go of its parent.
    pub(crate) fn settle(&self, version: &mut Version, batch: &mut Batch, first: u64, count: u64) {
        if version.is_whole() {
            version.record.limit = 0;
            version.record.parent = Parent::None;
            version.below = Arc::default();
            version.depth = 0;
            version.own = Chunks::default();
            self.put_version(batch, version.id, &version.record);
        } else {
            batch.put(Table::Tree, &keys::chunk(version.id, first), &count.to_le_bytes());
        }
    }

    /// Before the file grows: what an earlier truncation left behind its end must be gone.
    pub(crate) fn trim(&self, version: &mut Version, size: u64) -> Result<()> {
        if version.ragged {
            self.data().truncate(version.id, size).map_err(failed)?;
            version.ragged = false;
        }
        Ok(())
    }

    /// 512-byte blocks that the file occupies: its own ones, and as many of the base's as still show.
    pub(crate) fn blocks(&self, version: &Version) -> u64 {
        let own = match self.data().existing(version.id) {
            Ok(Some(file)) => rustix::fs::fstat(&*file).map_or(0, |s| s.st_blocks as u64),
            Ok(None) | Err(_) => 0,
        };
        let shown = version.record.limit.saturating_sub(version.own.count().saturating_mul(CHUNK));
        own + shown.div_ceil(512)
    }

    /// The next data (or hole) at or after `offset`, `None` behind the last. See lseek(2), SEEK_DATA and SEEK_HOLE.
    pub(crate) fn seek_state(&self, inode: &Inode, state: &State, offset: u64, data: bool) -> Result<Option<u64>> {
        let size = state.attr.size;
        if offset >= size {
            return Ok(None);
        }
        let found = match &state.content {
            Bytes::None => (!data).then_some(offset),
            Bytes::Base => {
                let origin = state.origin.as_deref().ok_or(Errno::EIO)?;
                seek_file(&*self.base_file(inode, origin)?, offset, data, size)?
            }
            Bytes::Version(version) => self.seek_version(inode, state, version, (offset, size), data)?,
        };
        // The end of every file is a hole.
        Ok(match found.filter(|&at| at < size) {
            None if !data => Some(size),
            found => found,
        })
    }

    fn seek_version(
        &self,
        inode: &Inode,
        state: &State,
        version: &Version,
        (offset, size): (u64, u64),
        data: bool,
    ) -> Result<Option<u64>> {
        let mut at = offset;
        while at < size {
            let (own, end) = version.piece_at(at);
            let (source, end) = if own {
                (Some(Source::Version(version.id)), end)
            } else {
                let (source, changes) = version.below.at(at);
                (source, changes.min(end))
            };
            let end = end.min(size);
            let found = match source {
                Some(Source::Version(id)) => match self.data().existing(id).map_err(failed)? {
                    Some(file) => seek_file(&file, at, data, end)?,
                    None => (!data).then_some(at),
                },
                Some(Source::Base) => {
                    let origin = state.origin.as_deref().ok_or(Errno::EIO)?;
                    seek_file(&*self.base_file(inode, origin)?, at, data, end)?
                }
                None => (!data).then_some(at),
            };
            if let Some(found) = found.filter(|&found| found < end) {
                return Ok(Some(found));
            }
            at = end;
        }
        Ok(None)
    }
}

/// SEEK_DATA or SEEK_HOLE on a real file, within `[offset, end)`.
pub(crate) fn seek_file(file: &File, offset: u64, data: bool, end: u64) -> Result<Option<u64>> {
    use rustix::fs::SeekFrom;
    let from = if data { SeekFrom::Data(offset) } else { SeekFrom::Hole(offset) };
    match rustix::fs::seek(file, from) {
        Ok(at) => Ok((at < end).then_some(at)),
        // Behind the end of the real file everything is a hole.
        Err(rustix::io::Errno::NXIO) => Ok((!data && offset < end).then_some(offset)),
        Err(e) => Err(e.into()),
    }
}
