//! Between fuser's types and ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::overlay::ops::rename::Rename;
use crate::overlay::ops::setattr::SetTime;
use crate::types::{Attr, Errno, Ino, Kind, Time};

pub fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.0)
}

pub fn kind(kind: Kind) -> fuser::FileType {
    match kind {
        Kind::File => fuser::FileType::RegularFile,
        Kind::Dir => fuser::FileType::Directory,
        Kind::Symlink => fuser::FileType::Symlink,
        Kind::Fifo => fuser::FileType::NamedPipe,
        Kind::Socket => fuser::FileType::Socket,
        Kind::CharDevice => fuser::FileType::CharDevice,
        Kind::BlockDevice => fuser::FileType::BlockDevice,
    }
}

fn system_time(t: Time) -> SystemTime {
    if t.secs >= 0 {
        UNIX_EPOCH.checked_add(Duration::new(t.secs as u64, t.nanos))
    } else {
        UNIX_EPOCH
            .checked_sub(Duration::from_secs(t.secs.unsigned_abs()))
            .and_then(|s| s.checked_add(Duration::from_nanos(u64::from(t.nanos))))
    }
    .unwrap_or(UNIX_EPOCH)
}

pub fn attr(a: &Attr) -> fuser::FileAttr {
    fuser::FileAttr {
        ino: fuser::INodeNo(a.ino.0),
        size: a.size,
        blocks: a.blocks,
        atime: system_time(a.atime),
        mtime: system_time(a.mtime),
        ctime: system_time(a.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(a.kind),
        perm: a.perm,
        nlink: a.nlink,
        uid: a.uid,
        gid: a.gid,
        rdev: a.rdev,
        blksize: 4096,
        flags: 0,
    }
}

/// The attributes of a negative entry: number 0 tells the kernel to remember that there is nothing.
pub fn nothing() -> fuser::FileAttr {
    let none = Time::default();
    attr(&Attr {
        ino: Ino(0),
        kind: Kind::File,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime: none,
        mtime: none,
        ctime: none,
    })
}

/// fuser 0.18 turns (seconds, nanoseconds) before 1970 into `EPOCH - seconds - nanoseconds`; this undoes exactly that.
fn time(t: SystemTime) -> Time {
    match t.duration_since(UNIX_EPOCH) {
        Ok(d) => Time::new(i64::try_from(d.as_secs()).unwrap_or(i64::MAX), d.subsec_nanos()),
        Err(e) => {
            let d = e.duration();
            Time::new(0i64.saturating_sub_unsigned(d.as_secs()), d.subsec_nanos())
        }
    }
}

pub fn set_time(t: fuser::TimeOrNow) -> SetTime {
    match t {
        fuser::TimeOrNow::Now => SetTime::Now,
        fuser::TimeOrNow::SpecificTime(t) => SetTime::To(time(t)),
    }
}

/// `None` for flags that are not supported (RENAME_WHITEOUT, or several at once).
pub fn rename(flags: fuser::RenameFlags) -> Option<Rename> {
    match flags.bits() {
        0 => Some(Rename::Replace),
        libc::RENAME_NOREPLACE => Some(Rename::NoReplace),
        libc::RENAME_EXCHANGE => Some(Rename::Exchange),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_survive_fusers_conversion() {
        // As fuser's system_time_from_time(-2, 800_000_000) makes it.
        let from_fuser = UNIX_EPOCH - Duration::new(2, 800_000_000);
        assert_eq!(time(from_fuser), Time::new(-2, 800_000_000));
        assert_eq!(system_time(Time::new(-2, 800_000_000)), UNIX_EPOCH - Duration::from_millis(1200));
    }
}
