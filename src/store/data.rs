//! Version files: the bytes that were written, one sparse file per version, `data/<id / 256>/<id>`.
//!
//! Consecutive numbers share a directory: file systems place a directory's files together, and files that are written together
//! are mostly deleted together.
//!
//! An offset in a version file is the offset in the file it is a version of. What was never written is a hole. Files are
//! opened through a bounded cache of descriptors.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno as Os;

use super::{Result, StoreError, fault};
use crate::types::VersionId;

/// Open descriptors kept at most, over all shards.
const OPEN_FILES: usize = 256;
const SHARDS: usize = 8;

#[derive(Default)]
struct Shard {
    /// Least recently used first; short enough to search.
    open: Vec<(VersionId, Arc<File>)>,
}

/// The version files of one store.
pub struct Data {
    dir: PathBuf,
    root: OwnedFd,
    shards: [Mutex<Shard>; SHARDS],
    /// A subdirectory was made since the last sync: its own name must become durable too.
    made_dir: AtomicBool,
}

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Data").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Data {
    pub fn open(dir: &Path) -> Result<Data> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(StoreError::io("create", dir))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir, flags, Mode::empty()).map_err(|e| StoreError::io("open", dir)(e.into()))?;
        Ok(Data { dir: dir.to_owned(), root, shards: Default::default(), made_dir: AtomicBool::new(false) })
    }

    fn relative(id: VersionId) -> PathBuf {
        PathBuf::from(format!("{:x}/{:016x}", id.0 >> 8, id.0))
    }

    /// Where a version's bytes are, for messages and checks.
    pub fn path(&self, id: VersionId) -> PathBuf {
        self.dir.join(Data::relative(id))
    }

    fn error(&self, what: &'static str, id: VersionId, errno: Os) -> StoreError {
        StoreError::Io { what, path: self.path(id), source: errno.into() }
    }

    fn shard(&self, id: VersionId) -> &Mutex<Shard> {
        &self.shards[(id.0 % SHARDS as u64) as usize]
    }

    /// The version's file, made if it is not there yet.
    pub fn file(&self, id: VersionId) -> Result<Arc<File>> {
        self.get(id, true)
    }

    /// The version's file for reading; `None` when nothing was ever written to it.
    pub fn existing(&self, id: VersionId) -> Result<Option<Arc<File>>> {
        match self.get(id, false) {
            Ok(file) => Ok(Some(file)),
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn get(&self, id: VersionId, create: bool) -> Result<Arc<File>> {
        {
            let mut shard = self.shard(id).lock();
            if let Some(at) = shard.open.iter().rposition(|(have, _)| *have == id) {
                let entry = shard.open.remove(at);
                let file = entry.1.clone();
                shard.open.push(entry);
                return Ok(file);
            }
        }
        let relative = Data::relative(id);
        let mut flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if create {
            fault::point("data.create", || self.error("create", id, Os::NOSPC))?;
            flags |= OFlags::CREATE;
        }
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = match rustix::fs::openat(&self.root, &relative, flags, mode) {
            Err(Os::NOENT) if create => {
                let dir = format!("{:x}", id.0 >> 8);
                match rustix::fs::mkdirat(&self.root, &dir, Mode::RWXU) {
                    Ok(()) => self.made_dir.store(true, Ordering::Release),
                    Err(Os::EXIST) => {}
                    Err(e) => return Err(self.error("create", id, e)),
                }
                rustix::fs::openat(&self.root, &relative, flags, mode)
            }
            other => other,
        }
        .map_err(|e| self.error("open", id, e))?;
        let file = Arc::new(File::from(fd));
        let mut shard = self.shard(id).lock();
        if shard.open.len() >= OPEN_FILES / SHARDS {
            shard.open.remove(0);
        }
        shard.open.push((id, file.clone()));
        Ok(file)
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write(&self, id: VersionId, offset: u64, bytes: &[u8]) -> Result<()> {
        let file = self.file(id)?;
        fault::point("data.write", || self.error("write", id, Os::NOSPC))?;
        file.write_all_at(bytes, offset).map_err(StoreError::io("write", self.path(id)))
    }

    /// Reads up to `out.len()` bytes at `offset`; what lies behind the file's end or was never written is zero.
    pub fn read(&self, id: VersionId, offset: u64, out: &mut [u8]) -> Result<()> {
        let got = match self.existing(id)? {
            Some(file) => read_full(&file, offset, out).map_err(StoreError::io("read", self.path(id)))?,
            None => 0,
        };
        if let Some(rest) = out.get_mut(got..) {
            rest.fill(0);
        }
        Ok(())
    }

    /// Cuts the version file to at most `len` bytes; a shorter one stays as it is.
    pub fn truncate(&self, id: VersionId, len: u64) -> Result<()> {
        let Some(file) = self.existing(id)? else { return Ok(()) };
        let at = || StoreError::io("truncate", self.path(id));
        fault::point("data.truncate", || self.error("truncate", id, Os::IO))?;
        if file.metadata().map_err(at())?.len() > len {
            file.set_len(len).map_err(at())?;
        }
        Ok(())
    }

    /// Makes the range zero, as a hole where the file system has them. The file gets no longer.
    pub fn zero(&self, id: VersionId, offset: u64, len: u64) -> Result<()> {
        let Some(file) = self.existing(id)? else { return Ok(()) };
        let has = file.metadata().map_err(StoreError::io("stat", self.path(id)))?.len();
        let end = offset.saturating_add(len).min(has);
        if offset >= end {
            return Ok(());
        }
        fault::point("data.zero", || self.error("zero", id, Os::IO))?;
        match rustix::fs::fallocate(
            &*file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            offset,
            end - offset,
        ) {
            Ok(()) => Ok(()),
            Err(Os::OPNOTSUPP | Os::NOSYS) => {
                let zeros = [0; 4096];
                let mut at = offset;
                while at < end {
                    let n = (end - at).min(zeros.len() as u64);
                    let piece = zeros.get(..n as usize).unwrap_or_default();
                    file.write_all_at(piece, at).map_err(StoreError::io("zero", self.path(id)))?;
                    at += n;
                }
                Ok(())
            }
            Err(e) => Err(self.error("zero", id, e)),
        }
    }

    /// Asks the file system for room for the range. One that cannot promise any says nothing: writes will tell.
    pub fn reserve(&self, id: VersionId, offset: u64, len: u64) -> Result<()> {
        let file = self.file(id)?;
        fault::point("data.reserve", || self.error("reserve", id, Os::NOSPC))?;
        match rustix::fs::fallocate(&*file, FallocateFlags::KEEP_SIZE, offset, len) {
            Ok(()) | Err(Os::OPNOTSUPP | Os::NOSYS) => Ok(()),
            Err(e) => Err(self.error("reserve", id, e)),
        }
    }

    /// Makes the bytes survive power loss. A version without a file has none.
    pub fn sync(&self, id: VersionId) -> Result<()> {
        let Some(file) = self.existing(id)? else { return Ok(()) };
        fault::point("data.sync", || self.error("sync", id, Os::IO))?;
        file.sync_data().map_err(StoreError::io("sync", self.path(id)))?;
        let dir = self.dir.join(format!("{:x}", id.0 >> 8));
        File::open(&dir).and_then(|d| d.sync_all()).map_err(StoreError::io("sync", dir))?;
        if self.made_dir.swap(false, Ordering::AcqRel) {
            let synced = File::open(&self.dir).and_then(|d| d.sync_all());
            if synced.is_err() {
                self.made_dir.store(true, Ordering::Release);
            }
            synced.map_err(StoreError::io("sync", &self.dir))?;
        }
        Ok(())
    }

    /// Makes all versions survive power loss: one call, however many there are.
    pub fn sync_all(&self) -> Result<()> {
        fault::point("data.sync", || StoreError::io("sync", &self.dir)(Os::IO.into()))?;
        let dir = File::open(&self.dir).map_err(StoreError::io("open", &self.dir))?;
        rustix::fs::syncfs(&dir).map_err(|e| StoreError::io("sync", &self.dir)(e.into()))
    }

    /// Deletes a version's file; one that is not there is no error.
    pub fn remove(&self, id: VersionId) -> Result<()> {
        self.shard(id).lock().open.retain(|(have, _)| *have != id);
        fault::point("data.remove", || self.error("remove", id, Os::IO))?;
        match rustix::fs::unlinkat(&self.root, Data::relative(id), rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(Os::NOENT) => Ok(()),
            Err(e) => Err(self.error("remove", id, e)),
        }
    }

    /// Bytes that a version's file takes on disk.
    pub fn allocated(&self, id: VersionId) -> Result<u64> {
        match rustix::fs::statat(&self.root, Data::relative(id), rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok((stat.st_blocks as u64).saturating_mul(512)),
            Err(Os::NOENT) => Ok(0),
            Err(e) => Err(self.error("stat", id, e)),
        }
    }

    /// Bytes that all version files take on disk. What vanishes meanwhile does not count.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn disk_bytes(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        let at = |path: &Path| StoreError::io("list", path.to_owned());
        let mut total = 0_u64;
        for dir in std::fs::read_dir(&self.dir).map_err(at(&self.dir))? {
            let Ok(files) = std::fs::read_dir(dir.map_err(at(&self.dir))?.path()) else { continue };
            for file in files.flatten() {
                total = total.saturating_add(file.metadata().map_or(0, |m| m.blocks().saturating_mul(512)));
            }
        }
        Ok(total)
    }

    /// Every version file there is, with its size in bytes.
    pub fn list(&self) -> Result<Vec<(VersionId, u64)>> {
        let mut found = Vec::new();
        let at = |path: &Path| StoreError::io("list", path.to_owned());
        for dir in std::fs::read_dir(&self.dir).map_err(at(&self.dir))? {
            let dir = dir.map_err(at(&self.dir))?.path();
            for file in std::fs::read_dir(&dir).map_err(at(&dir))? {
                let file = file.map_err(at(&dir))?;
                let id = file.file_name().to_str().and_then(|n| u64::from_str_radix(n, 16).ok());
                let len = file.metadata().map_err(at(&dir))?.len();
                match id {
                    Some(id) => found.push((VersionId(id), len)),
                    None => return Err(StoreError::corrupt(format!("{} is no version file", file.path().display()))),
                }
            }
        }
        Ok(found)
    }
}

/// Reads until `out` is full or the file ends; returns the bytes read.
pub fn read_full(file: &File, offset: u64, out: &mut [u8]) -> std::io::Result<usize> {
    let mut got = 0;
    while let Some(rest) = out.get_mut(got..).filter(|r| !r.is_empty()) {
        match file.read_at(rest, offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unwritten_bytes_are_zero_and_the_cache_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let data = Data::open(dir.path()).unwrap();
        for id in 1..=600 {
            data.write(VersionId(id), 3, &id.to_le_bytes()).unwrap();
        }
        let mut out = [9u8; 14];
        data.read(VersionId(300), 0, &mut out).unwrap();
        assert_eq!(out, [0, 0, 0, 44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        data.read(VersionId(9999), 0, &mut out).unwrap();
        assert_eq!(out, [0; 14]);
        assert!(data.shards.iter().all(|s| s.lock().open.len() <= OPEN_FILES / SHARDS));
        data.truncate(VersionId(300), 4).unwrap();
        data.read(VersionId(300), 0, &mut out).unwrap();
        assert_eq!(out, [0, 0, 0, 44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        data.remove(VersionId(300)).unwrap();
        data.remove(VersionId(300)).unwrap();
        assert_eq!(data.list().unwrap().len(), 599);
    }
}
