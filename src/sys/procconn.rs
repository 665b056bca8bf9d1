//! The kernel's process connector: fork, exec and exit events of the whole machine, over netlink.
//!
//! Knows nothing about actors. The messages are those of `linux/cn_proc.h`; the numbers are of the initial pid namespace,
//! and outside of it (or of the initial user namespace) the kernel does not answer, so [`ProcConn::open`] fails there.
//! Unprivileged users may listen since Linux 6.6.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

const CN_IDX_PROC: u32 = 1;
const CN_VAL_PROC: u32 = 1;
const LISTEN: u32 = 1;

const EVENT_NONE: u32 = 0;
const EVENT_FORK: u32 = 0x0000_0001;
const EVENT_EXEC: u32 = 0x0000_0002;
const EVENT_EXIT: u32 = 0x8000_0000;

const NLMSG_DONE: u16 = 3;
const NLMSG_HEADER: usize = 16;
const CN_HEADER: usize = 20;
const EVENT_AT: usize = NLMSG_HEADER + CN_HEADER;
const DATA_AT: usize = EVENT_AT + 16;

/// Bytes of events that may wait for us; without CAP_NET_ADMIN the kernel caps it at `net.core.rmem_max`.
const QUEUE: usize = 16 << 20;

/// Something that happened to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcEvent {
    /// A process or thread was made. The parent is the real parent, which with CLONE_PARENT is not the caller.
    Fork { at_monotonic_ns: u64, parent_tgid: u32, child_tid: u32, child_tgid: u32 },
    /// The process runs a new image.
    Exec { at_monotonic_ns: u64, tgid: u32 },
    /// A thread ended. Sent *after* the exit is visible to wait(2) and on pidfds.
    Exit { at_monotonic_ns: u64, tid: u32, tgid: u32, status: i32 },
}

/// What a receive found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    Event(ProcEvent),
    /// A message of no interest.
    Other,
    /// The queue overflowed: events are missing here.
    Overflow,
    Empty,
}

/// A subscription to the events, non-blocking.
#[derive(Debug)]
pub struct ProcConn {
    socket: OwnedFd,
}

impl ProcConn {
    /// Subscribes, and waits (at most 50 ms) for the kernel's word that the events will come.
    pub fn open() -> io::Result<ProcConn> {
        let socket = net::socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(netlink::CONNECTOR),
        )?;
        if sockopt::set_socket_recv_buffer_size_force(&socket, QUEUE).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, QUEUE)?;
        }
        net::bind(&socket, &SocketAddrNetlink::new(0, CN_IDX_PROC))?;
        let conn = ProcConn { socket };
        // Unfiltered first: the acknowledgement itself is subject to the filter.
        conn.send(&LISTEN.to_ne_bytes())?;
        conn.await_ack()?;
        // Kernels before 6.6 ignore this longer form, and go on sending everything.
        let mut filtered = LISTEN.to_ne_bytes().to_vec();
        filtered.extend_from_slice(&(EVENT_FORK | EVENT_EXEC | EVENT_EXIT).to_ne_bytes());
        conn.send(&filtered)?;
        Ok(conn)
    }

    /// The next thing in the queue; never blocks.
    pub fn receive(&self) -> io::Result<Received> {
        let mut buffer = [0u8; 256];
        Ok(match self.receive_raw(&mut buffer)? {
            Raw::Message(message) => parse(message).map_or(Received::Other, Received::Event),
            Raw::Foreign => Received::Other,
            Raw::Overflow => Received::Overflow,
            Raw::Empty => Received::Empty,
        })
    }

    fn receive_raw<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Raw<'b>> {
        loop {
            return match net::recvfrom(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((length, _, sender)) => {
                    let kernel = sender
                        .and_then(|address| SocketAddrNetlink::try_from(address).ok())
                        .is_some_and(|address| address.pid() == 0);
                    Ok(match buffer.get(..length) {
                        Some(message) if kernel => Raw::Message(message),
                        _ => Raw::Foreign,
                    })
                }
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => Ok(Raw::Empty),
                Err(rustix::io::Errno::NOBUFS) => Ok(Raw::Overflow),
                Err(errno) => Err(errno.into()),
            };
        }
    }

    fn send(&self, payload: &[u8]) -> io::Result<()> {
        let length = NLMSG_HEADER + CN_HEADER + payload.len();
        let mut message = Vec::with_capacity(length);
        message.extend_from_slice(&(length as u32).to_ne_bytes());
        message.extend_from_slice(&NLMSG_DONE.to_ne_bytes());
        message.extend_from_slice(&0u16.to_ne_bytes());
        for word in [0u32, 0, CN_IDX_PROC, CN_VAL_PROC, 0, 0] {
            message.extend_from_slice(&word.to_ne_bytes());
        }
        message.extend_from_slice(&(payload.len() as u16).to_ne_bytes());
        message.extend_from_slice(&0u16.to_ne_bytes());
        message.extend_from_slice(payload);
        net::send(&self.socket, &message, SendFlags::empty())?;
        Ok(())
    }

    fn await_ack(&self) -> io::Result<()> {
        let mut buffer = [0u8; 256];
        // The kernel answers while it takes the message; events of a busy machine may stand before the answer.
        for _ in 0..100_000 {
            match self.receive_raw(&mut buffer)? {
                Raw::Message(message) if word(message, EVENT_AT) == Some(EVENT_NONE) => {
                    return match word(message, DATA_AT) {
                        Some(0) => Ok(()),
                        Some(errno) => Err(io::Error::from_raw_os_error(errno as i32)),
                        None => Err(io::ErrorKind::InvalidData.into()),
                    };
                }
                Raw::Message(_) | Raw::Foreign | Raw::Overflow => {}
                Raw::Empty => {
                    let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
                    let patience = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
                    if poll(&mut fds, Some(&patience))? == 0 {
                        break;
                    }
                }
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

impl AsFd for ProcConn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

enum Raw<'b> {
    Message(&'b [u8]),
    /// Not sent by the kernel.
    Foreign,
    Overflow,
    Empty,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn parse(message: &[u8]) -> Option<ProcEvent> {
    if word(message, NLMSG_HEADER)? != CN_IDX_PROC || word(message, NLMSG_HEADER + 4)? != CN_VAL_PROC {
        return None;
    }
    let at_monotonic_ns = long(message, EVENT_AT + 8)?;
    let data = |index: usize| word(message, DATA_AT + 4 * index);
    Some(match word(message, EVENT_AT)? {
        EVENT_FORK => {
            ProcEvent::Fork { at_monotonic_ns, parent_tgid: data(1)?, child_tid: data(2)?, child_tgid: data(3)? }
        }
        EVENT_EXEC => ProcEvent::Exec { at_monotonic_ns, tgid: data(1)? },
        EVENT_EXIT => ProcEvent::Exit { at_monotonic_ns, tid: data(0)?, tgid: data(1)?, status: data(2)? as i32 },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(what: u32, data: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0u8; NLMSG_HEADER];
        for word in [CN_IDX_PROC, CN_VAL_PROC, 9, 0, 40, what, 1] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&77u64.to_ne_bytes());
        for word in data {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn parses_what_the_kernel_sends() {
        assert_eq!(
            parse(&message(EVENT_FORK, &[11, 10, 21, 20])),
            Some(ProcEvent::Fork { at_monotonic_ns: 77, parent_tgid: 10, child_tid: 21, child_tgid: 20 })
        );
        assert_eq!(parse(&message(EVENT_EXEC, &[11, 10])), Some(ProcEvent::Exec { at_monotonic_ns: 77, tgid: 10 }));
        assert_eq!(
            parse(&message(EVENT_EXIT, &[11, 10, 768, 17, 1, 1])),
            Some(ProcEvent::Exit { at_monotonic_ns: 77, tid: 11, tgid: 10, status: 768 })
        );
        let whole = message(EVENT_EXIT, &[11, 10, 768]);
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None);
        }
        assert_eq!(parse(&message(0x200, &[1, 2, 3])), None);
    }

    #[test]
    fn sees_a_child_come_and_go() {
        let conn = match ProcConn::open() {
            Ok(conn) => conn,
            Err(error) => {
                eprintln!("SKIPPED: no process connector here: {error}");
                return;
            }
        };
        let mut child = std::process::Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        let (mut forked, mut executed, mut ended) = (false, false, None);
        let mut fds = [PollFd::new(&conn, PollFlags::IN)];
        while ended.is_none() {
            match conn.receive().unwrap() {
                Received::Event(ProcEvent::Fork { child_tgid, parent_tgid, .. }) if child_tgid == pid => {
                    forked = parent_tgid == std::process::id();
                }
                Received::Event(ProcEvent::Exec { tgid, .. }) if tgid == pid => executed = true,
                Received::Event(ProcEvent::Exit { tid, status, .. }) if tid == pid => ended = Some(status),
                Received::Empty => {
                    let patience = Timespec { tv_sec: 5, tv_nsec: 0 };
                    assert_eq!(poll(&mut fds, Some(&patience)), Ok(1), "no exit event");
                    fds[0].clear_revents();
                }
                _ => {}
            }
        }
        assert_eq!((forked, executed, ended), (true, true, Some(3 << 8)));
    }
}
