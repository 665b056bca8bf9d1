//! What `/proc` says about a process: hand-written parsers of exactly the fields that an actor needs.
//!
//! Only reads; knows nothing of caches or events. [`Proc::status`] takes no lock of the process. [`Proc::stat`] and
//! [`Proc::link`] take its `exec_update_lock` (since Linux 6.18), so they may wait for an execve that is closing descriptors;
//! [`Proc::cmdline`] takes its `mmap_lock` as well, so it may wait for a page fault of that process.

use std::io::Write as _;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, openat, readlinkat_raw, statat};

/// Bytes of a command line that are kept.
pub const CMDLINE_BYTES: usize = 64 * 1024;
/// Arguments of a command line that are kept.
pub const CMDLINE_ARGS: usize = 256;
/// Bytes of an environment that are looked through.
const ENVIRON_BYTES: usize = 128 * 1024;

/// `PF_FORKNOEXEC` of the kernel's `linux/sched.h`: forked, and has not called execve since.
const FORKED_NO_EXEC: u32 = 0x40;

/// The fields of `/proc/PID/stat` that are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub comm: Vec<u8>,
    pub state: u8,
    pub ppid: u32,
    /// Its session, and the number of its terminal.
    pub sid: u32,
    pub tty: u32,
    /// The process runs a copy of its parent's image.
    pub forked_no_exec: bool,
    /// Clock ticks since boot.
    pub start: u64,
    pub image: ImageMark,
    /// The wait status of a zombie; 0 when the reader may not know it.
    pub exit_status: i32,
}

impl Stat {
    /// Exited: a zombie, or about to vanish.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// Addresses that execve draws anew (start of code and of the stack); meaningless without address space randomisation
/// or for a process of another user, where they are constants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageMark(u64, u64);

impl ImageMark {
    /// Whether two marks can tell images apart at all.
    pub fn is_known(self) -> bool {
        self.0 > 1 && self.1 > 1
    }
}

/// The fields of `/proc/PID/status` that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub tgid: u32,
    pub ppid: u32,
    pub euid: u32,
    /// It has memory: it is neither a kernel thread nor past the first half of its exit.
    pub has_memory: bool,
}

/// A command line as execve got it, or as the process rewrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cmdline {
    pub args: Vec<Vec<u8>>,
    /// There was more than [`CMDLINE_BYTES`] or [`CMDLINE_ARGS`].
    pub truncated: bool,
}

/// The proc file system of the daemon's own pid namespace.
#[derive(Debug)]
pub struct Proc {
    dir: OwnedFd,
}

impl Proc {
    pub fn open() -> std::io::Result<Proc> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Proc { dir: openat(rustix::fs::CWD, "/proc", flags, Mode::empty())? })
    }

    /// `None` when there is no such process.
    pub fn stat(&self, pid: u32) -> Option<Stat> {
        let mut buffer = [0u8; 2048];
        parse_stat(self.read(pid, "stat", &mut buffer)?)
    }

    pub fn status(&self, pid: u32) -> Option<Status> {
        let mut buffer = [0u8; 1024];
        let read = self.read(pid, "status", &mut buffer)?;
        // A long list of groups may have cut the lines about memory off.
        let cut = read.len() == 1024;
        parse_status(read).map(|status| Status { has_memory: status.has_memory || cut, ..status })
    }

    /// `None` when it cannot be read; without arguments for a kernel thread, a zombie, or in the middle of an execve.
    pub fn cmdline(&self, pid: u32) -> Option<Cmdline> {
        let mut small = [0u8; 4096];
        let read = self.read(pid, "cmdline", &mut small)?;
        if read.len() < 4096 {
            return Some(parse_cmdline(read, false));
        }
        let mut large = vec![0u8; CMDLINE_BYTES + 1];
        let read = self.read(pid, "cmdline", &mut large)?;
        let cut = read.len() > CMDLINE_BYTES;
        Some(parse_cmdline(read.get(..CMDLINE_BYTES).unwrap_or(read), cut))
    }

    /// Of the environment that execve got, the variables that `wanted` says, in their order there.
    pub fn variables(&self, pid: u32, wanted: &dyn Fn(&[u8]) -> bool) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut small = [0u8; 8192];
        let mut large = Vec::new();
        let read = match self.read(pid, "environ", &mut small) {
            Some(read) if read.len() < 8192 => read,
            Some(_) => {
                large.resize(ENVIRON_BYTES, 0);
                match self.read(pid, "environ", &mut large) {
                    Some(read) => read,
                    None => return Vec::new(),
                }
            }
            None => return Vec::new(),
        };
        let split = |entry: &[u8]| {
            let at = entry.iter().position(|&b| b == b'=')?;
            Some((entry.get(..at)?.to_vec(), entry.get(at + 1..)?.to_vec()))
        };
        read.split(|&b| b == 0).filter_map(split).filter(|(name, _)| wanted(name)).collect()
    }

    /// The target of the link `exe` or `cwd`.
    pub fn link(&self, pid: u32, name: &str) -> Option<Vec<u8>> {
        let mut path = [0u8; 40];
        let mut buffer = [0u8; 4096];
        let target = readlinkat_raw(&self.dir, path_of(&mut path, pid, name)?, &mut buffer[..]).ok()?;
        buffer.get(..target).map(<[u8]>::to_vec)
    }

    /// Whether `tid` is a thread of the process `tgid` now.
    pub fn is_thread(&self, tgid: u32, tid: u32) -> bool {
        let mut path = [0u8; 40];
        let mut cursor = &mut path[..];
        if write!(cursor, "{tgid}/task/{tid}").is_err() {
            return false;
        }
        let left = cursor.len();
        let used = path.len() - left;
        path.get(..used).is_some_and(|path| statat(&self.dir, path, AtFlags::SYMLINK_NOFOLLOW).is_ok())
    }

    /// Reads until the end or until the buffer is full.
    fn read<'b>(&self, pid: u32, name: &str, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let mut path = [0u8; 40];
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(&self.dir, path_of(&mut path, pid, name)?, flags, Mode::empty()).ok()?;
        let mut filled = 0;
        while filled < buffer.len() {
            match rustix::io::read(&file, buffer.get_mut(filled..)?) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        buffer.get(..filled)
    }
}

fn path_of<'b>(buffer: &'b mut [u8; 40], pid: u32, name: &str) -> Option<&'b [u8]> {
    let mut cursor = &mut buffer[..];
    write!(cursor, "{pid}/{name}").ok()?;
    let left = cursor.len();
    let used = buffer.len() - left;
    buffer.get(..used)
}

fn number<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Parses `/proc/PID/stat` (proc_pid_stat(5)). The name stands between the first `(` and the last `)`, whatever it holds.
fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|&b| b == b'(')?;
    let close = bytes.iter().rposition(|&b| b == b')')?;
    let comm = bytes.get(open + 1..close)?.to_vec();
    let rest = bytes.get(close + 1..)?;
    let mut stat = Stat {
        comm,
        state: 0,
        ppid: 0,
        sid: 0,
        tty: 0,
        forked_no_exec: false,
        start: 0,
        image: ImageMark::default(),
        exit_status: 0,
    };
    let mut last = 0;
    // Numbered as in the manual page: the state is field 3.
    for (field, value) in (3..).zip(rest.split(|b| b.is_ascii_whitespace()).filter(|value| !value.is_empty())) {
        match field {
            3 => stat.state = *value.first()?,
            4 => stat.ppid = number(value)?,
            // Negative where the session is of another pid namespace; the terminal is a signed number as well.
            6 => stat.sid = number::<i32>(value)?.max(0).unsigned_abs(),
            7 => stat.tty = number::<i32>(value)?.max(0).unsigned_abs(),
            9 => stat.forked_no_exec = number::<u32>(value)? & FORKED_NO_EXEC != 0,
            22 => stat.start = number(value)?,
            26 => stat.image.0 = number(value)?,
            28 => stat.image.1 = number(value)?,
            52 => stat.exit_status = number(value)?,
            _ => {}
        }
        last = field;
    }
    (last >= 28).then_some(stat)
}

fn parse_status(bytes: &[u8]) -> Option<Status> {
    let (mut tgid, mut ppid, mut euid, mut has_memory) = (None, None, None, false);
    for line in bytes.split(|&b| b == b'\n') {
        let mut words = line.split(|b| b.is_ascii_whitespace()).filter(|word| !word.is_empty());
        match words.next() {
            // The kernel escapes a newline in the name, so no line below can be forged by one.
            Some(b"Tgid:") => tgid = number(words.next()?),
            Some(b"PPid:") => ppid = number(words.next()?),
            Some(b"Uid:") => euid = number(words.nth(1)?),
            Some(b"VmPeak:") => {
                has_memory = true;
                break;
            }
            _ => {}
        }
    }
    Some(Status { tgid: tgid?, ppid: ppid?, euid: euid?, has_memory })
}

fn parse_cmdline(bytes: &[u8], cut: bool) -> Cmdline {
    if bytes.is_empty() {
        return Cmdline::default();
    }
    let body = if cut { bytes } else { bytes.strip_suffix(b"\0").unwrap_or(bytes) };
    let mut pieces = body.split(|&b| b == 0);
    let args: Vec<Vec<u8>> = pieces.by_ref().take(CMDLINE_ARGS).map(<[u8]>::to_vec).collect();
    Cmdline { args, truncated: cut || pieces.next().is_some() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &str = "S 42 7 7 0 -1 4194368 1 2 3 4 5 6 7 8 20 0 3 0 98765 1000 200 18446744073709551615 93000 94000 \
                        140000 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 1 2 3 4 5 6 7 768\n";

    #[test]
    fn a_name_may_hold_anything() {
        for comm in [&b"sh"[..], b"a b", b") S 1 (", b"((", b"))", b"a\nb", b"\xff\xfe", b"", b" "] {
            let mut line = b"123 (".to_vec();
            line.extend_from_slice(comm);
            line.extend_from_slice(b") ");
            line.extend_from_slice(TAIL.as_bytes());
            let stat = parse_stat(&line).unwrap();
            assert_eq!(stat.comm, comm);
            assert_eq!((stat.state, stat.ppid, stat.start, stat.exit_status), (b'S', 42, 98765, 768));
            assert_eq!((stat.sid, stat.tty), (7, 0));
            assert_eq!(stat.image, ImageMark(93000, 140000));
            assert!(stat.forked_no_exec);
        }
    }

    #[test]
    fn garbage_is_no_process() {
        for line in [&b""[..], b"1", b"1 (x", b"1 )x(", b"1 (x)", b"1 (x) S", b"1 (x) S x", b"1 (x) S -4 1"] {
            assert_eq!(parse_stat(line), None, "{}", String::from_utf8_lossy(line));
        }
        assert_eq!(parse_status(b""), None);
        assert_eq!(parse_status(b"Tgid:\t1\nUid:\t1\n"), None);
    }

    #[test]
    fn status_fields() {
        let text =
            b"Name:\tUid:\\nTgid: 9\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t77\nNgid:\t0\nPid:\t78\nPPid:\t5\n\
                     TracerPid:\t0\nUid:\t1000\t1001\t1002\t1003\nGid:\t1\t2\t3\t4\n";
        let status = Status { tgid: 77, ppid: 5, euid: 1001, has_memory: false };
        assert_eq!(parse_status(text), Some(status));
        let text = [&text[..], b"Groups:\t1 2\nVmPeak:\t   10 kB\nVmSize:\t 10 kB\n"].concat();
        assert_eq!(parse_status(&text), Some(Status { has_memory: true, ..status }));
    }

    #[test]
    fn command_lines() {
        let args = |bytes: &[u8]| parse_cmdline(bytes, false).args;
        assert!(args(b"").is_empty());
        assert_eq!(args(b"sh\0-c\0\0"), [&b"sh"[..], b"-c", b""]);
        assert_eq!(args(b"\0"), [b""]);
        assert_eq!(args(b"nginx: worker"), [b"nginx: worker"]);
        let many = parse_cmdline(&b"x\0".repeat(CMDLINE_ARGS + 1), false);
        assert_eq!((many.args.len(), many.truncated), (CMDLINE_ARGS, true));
        let exact = parse_cmdline(&b"x\0".repeat(CMDLINE_ARGS), false);
        assert_eq!((exact.args.len(), exact.truncated), (CMDLINE_ARGS, false));
    }

    #[test]
    fn reads_ourselves() {
        let proc = Proc::open().unwrap();
        let own = std::process::id();
        assert_eq!(proc.status(own).unwrap().tgid, own);
        assert!(proc.stat(own).unwrap().start > 0);
        assert_eq!(
            proc.link(own, "cwd").unwrap(),
            std::env::current_dir().unwrap().into_os_string().into_encoded_bytes()
        );
        assert_eq!(proc.cmdline(own).unwrap().args.len(), std::env::args_os().count());
        let path = std::env::var_os("PATH").unwrap().into_encoded_bytes();
        assert_eq!(proc.variables(own, &|name| name == b"PATH"), [(b"PATH".to_vec(), path)]);
        assert!(proc.is_thread(own, own));
        assert!(!proc.is_thread(own, 0));
        assert_eq!(proc.stat(u32::MAX), None);
    }

    #[test]
    fn long_command_lines_are_cut_and_marked() {
        let proc = Proc::open().unwrap();
        for (length, truncated) in [(10_000, false), (100_000, true)] {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", "read x", &"y".repeat(length)]);
            let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
            // Empty until the execve is through.
            let cmdline = std::iter::repeat_with(|| proc.cmdline(child.id()).unwrap())
                .find(|cmdline| !cmdline.args.is_empty())
                .unwrap();
            assert_eq!(cmdline.truncated, truncated);
            assert!(cmdline.args.iter().map(|arg| arg.len() + 1).sum::<usize>() >= 10_000);
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
