//! Opening a transcript: regular files only, for reading only, and never through a symbolic link in the last component.
//!
//! It knows no agent and no format.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::types::Time;

/// The most bytes that one call of [`super::Tail::read`] takes in.
pub(super) const BUDGET: u64 = 16 << 20;
/// The longest line, and the largest document.
pub(super) const LONGEST: usize = 64 << 20;

/// Which file it was, and in what state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) file: (u64, u64),
    pub(super) size: u64,
    pub(super) modified: Time,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Stamp {
        let modified = modified(metadata);
        Stamp { file: (metadata.dev(), metadata.ino()), size: metadata.size(), modified }
    }
}

pub(super) fn modified(metadata: &Metadata) -> Time {
    Time::new(metadata.mtime(), u32::try_from(metadata.mtime_nsec()).unwrap_or_default())
}

/// Opens a regular file.
///
/// # Errors
///
/// Those of open(2), and `InvalidInput` for what is no regular file.
pub(super) fn open(path: &Path) -> io::Result<(File, Stamp)> {
    // Not to wait for the other end of a pipe.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok((file, Stamp::of(&metadata)))
}

/// A whole file, if it is not larger than `most`.
///
/// # Errors
///
/// Those of [`open`] and of reading; `FileTooLarge`.
pub(super) fn read(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let (file, _) = open(path)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}
