//! Room on the store's disk: writers are refused before the log itself can run out.
//!
//! A log that hits ENOSPC in the middle of a write is broken until it is reopened. So operations that add bytes stop while
//! [`RESERVE`] bytes are left; the reserve is for the record, for deletions and for the log's own housekeeping.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::{Result, StoreError};

/// Bytes kept free for the log.
pub const RESERVE: u64 = 32 << 20;

/// Asks the kernel again after this many bytes or [`RECHECK_OPS`] operations, whichever comes first.
const RECHECK_BYTES: i64 = 8 << 20;
const RECHECK_OPS: i64 = 256;

/// See the module.
#[derive(Debug)]
pub struct Space {
    dir: OwnedFd,
    /// Bytes that may still be added before the kernel is asked again.
    credit: AtomicI64,
    free: AtomicU64,
}

impl Space {
    pub fn new(dir: &Path) -> Result<Space> {
        let fd =
            rustix::fs::open(dir, rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())
                .map_err(|e| StoreError::io("open", dir)(e.into()))?;
        Ok(Space { dir: fd, credit: AtomicI64::new(0), free: AtomicU64::new(0) })
    }

    /// Asks for room for `bytes` more bytes.
    ///
    /// # Errors
    /// [`StoreError::Full`] when they would eat into the reserve.
    pub fn claim(&self, bytes: u64) -> Result<()> {
        let cost = i64::try_from(bytes).unwrap_or(i64::MAX).saturating_add(RECHECK_BYTES / RECHECK_OPS);
        if self.credit.fetch_sub(cost, Ordering::Relaxed) >= cost {
            return Ok(());
        }
        let free = self.ask();
        self.free.store(free, Ordering::Relaxed);
        let usable = free.saturating_sub(RESERVE);
        if bytes >= usable {
            self.credit.store(0, Ordering::Relaxed);
            return Err(StoreError::Full { free, reserve: RESERVE });
        }
        let credit = i64::try_from((usable - bytes) / 4).unwrap_or(i64::MAX).min(RECHECK_BYTES);
        self.credit.store(credit, Ordering::Relaxed);
        Ok(())
    }

    /// The next to ask for room makes the kernel be asked: for what is rare and must not fail in its middle.
    pub fn look(&self) {
        self.credit.store(0, Ordering::Relaxed);
    }

    fn ask(&self) -> u64 {
        // A file system that does not answer is not known to be full; writes themselves will tell.
        self.disk().map_or(u64::MAX, |(free, _)| free)
    }

    /// Bytes that are free for this user on the store's disk, and its size; `None` when it does not say.
    pub fn disk(&self) -> Option<(u64, u64)> {
        let stat = rustix::fs::fstatvfs(&self.dir).ok()?;
        Some((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
    }
}
