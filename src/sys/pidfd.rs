//! Process descriptors: who a thread id is, and how a process that is not our child ended (pidfd_open(2), `PIDFD_GET_INFO`).
//!
//! Knows nothing about actors. Everything here works on numbers of the daemon's own pid namespace.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::ioctl::{Updater, ioctl};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

const GET_INFO: rustix::ioctl::Opcode = libc::PIDFD_GET_INFO as rustix::ioctl::Opcode;

/// What the kernel tells about a live process or thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    pub tgid: u32,
    pub ppid: u32,
    /// The effective user id.
    pub euid: u32,
}

/// Why a process could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("no such process")]
    Gone,
    /// The number is a thread that does not lead its group.
    #[error("not a thread-group leader")]
    NotLeader,
    #[error("cannot open a process descriptor")]
    Io(#[source] io::Error),
}

/// Opens the process whose thread-group leader is `pid`.
pub fn open(pid: u32) -> Result<OwnedFd, OpenError> {
    open_with(pid, PidfdFlags::empty())
}

/// Opens the single thread `tid` (`PIDFD_THREAD`, Linux 6.9).
pub fn open_thread(tid: u32) -> Result<OwnedFd, OpenError> {
    open_with(tid, PidfdFlags::from_bits_retain(libc::PIDFD_THREAD))
}

fn open_with(pid: u32, flags: PidfdFlags) -> Result<OwnedFd, OpenError> {
    let pid = i32::try_from(pid).ok().filter(|&pid| pid > 0).and_then(Pid::from_raw).ok_or(OpenError::Gone)?;
    pidfd_open(pid, flags).map_err(|errno| match errno {
        rustix::io::Errno::SRCH => OpenError::Gone,
        // EINVAL before Linux 6.16, ENOENT since.
        rustix::io::Errno::INVAL | rustix::io::Errno::NOENT => OpenError::NotLeader,
        errno => OpenError::Io(errno.into()),
    })
}

/// Whether the process has exited (it may still be a zombie).
pub fn exited(pidfd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1))
}

/// Identity and credentials; `None` when the process was reaped or the kernel is older than 6.13.
pub fn info(pidfd: impl AsFd) -> Option<Info> {
    let wanted = u64::from(libc::PIDFD_INFO_PID | libc::PIDFD_INFO_CREDS);
    let raw = get_info(pidfd, wanted)?;
    (raw.mask & wanted == wanted).then_some(Info { tgid: raw.tgid, ppid: raw.ppid, euid: raw.euid })
}

/// The wait status of a process that has been reaped; `None` before that, or when the kernel is older than 6.15.
pub fn exit_status(pidfd: impl AsFd) -> Option<i32> {
    let wanted = u64::from(libc::PIDFD_INFO_EXIT);
    let raw = get_info(pidfd, wanted)?;
    (raw.mask & wanted != 0).then_some(raw.exit_code)
}

fn get_info(pidfd: impl AsFd, mask: u64) -> Option<libc::pidfd_info> {
    // SAFETY: `pidfd_info` is plain integers, for which all-zero is a valid value.
    let mut raw: libc::pidfd_info = unsafe { std::mem::zeroed() };
    raw.mask = mask;
    // SAFETY: PIDFD_GET_INFO reads and writes one `pidfd_info`, whose size is part of the opcode; on a descriptor that is
    // no pidfd, or an older kernel, it fails with ENOTTY or EINVAL.
    unsafe { ioctl(pidfd, Updater::<GET_INFO, _>::new(&mut raw)) }.ok()?;
    Some(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_threads_from_processes() {
        let own = std::process::id();
        let info = info(open(own).unwrap()).unwrap();
        assert_eq!(info.tgid, own);
        std::thread::spawn(move || {
            let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
            assert!(matches!(open(tid), Err(OpenError::NotLeader)));
            assert_eq!(super::info(open_thread(tid).unwrap()).unwrap().tgid, own);
        })
        .join()
        .unwrap();
        assert!(matches!(open(0), Err(OpenError::Gone)));
        assert!(matches!(open(u32::MAX), Err(OpenError::Gone)));
    }

    #[test]
    fn exit_status_is_known_after_the_reaping() {
        let mut command = std::process::Command::new("sh");
        let mut child = command.args(["-c", "read x; exit 7"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let fd = open(child.id()).unwrap();
        assert!(!exited(&fd));
        assert_eq!(exit_status(&fd), None);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(exited(&fd));
        assert_eq!(exit_status(&fd), Some(7 << 8));
        assert_eq!(super::info(&fd), None);
    }
}
