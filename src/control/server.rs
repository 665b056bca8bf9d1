//! The daemon's end of the control socket: one thread per connection, one request each.

use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::client::address;
use super::protocol::{Done, Failure, Request, Response, Row, SOCKET, StatusRow, dispatch};
use super::time::Mover;
use crate::diff;
use crate::engine::{Caller, Engine};
use crate::fuse::mount::{self, Unmount};
use crate::overlay::view::View;
use crate::query::{rows, time};
use crate::timeline::rows::UserRow;
use crate::types::{Ino, Time};

/// Longest request, bytes.
const MAX_REQUEST: u64 = 1 << 20;
/// How often `--follow` looks for new events.
const FOLLOW: Duration = Duration::from_millis(100);

/// What the server knows of the mount.
pub struct Served {
    pub engine: Arc<Engine>,
    pub repo: PathBuf,
    pub mountpoint: PathBuf,
    pub since: Time,
}

/// Binds the socket in `dir` (mode 0600) and answers in threads of its own until the process ends.
pub fn start(dir: &Path, served: Served) -> std::io::Result<()> {
    let path = dir.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    let (_dir, address) = address(dir)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &address)?;
    // The directory is 0700; this is the second lock on the door, before anybody can be let in.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    rustix::net::listen(&socket, 16)?;
    let listener = UnixListener::from(socket);
    let served = Arc::new(served);
    std::thread::Builder::new().name("control".into()).spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            let served = served.clone();
            let spawned = std::thread::Builder::new().name("client".into()).spawn(move || {
                // A client that went away needs no answer.
                let _ = served.serve(&stream);
            });
            if let Err(error) = spawned {
                tracing::warn!(%error, "no thread for a client");
            }
        }
    })?;
    Ok(())
}

/// Waits; whether the client went away meanwhile.
fn hung_up(stream: &UnixStream, wait: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
    let mut polled = [PollFd::new(stream, PollFlags::RDHUP)];
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    matches!(poll(&mut polled, Some(&timeout)), Ok(1..)) && polled.iter().any(|p| p.revents().intersects(gone))
}

/// Whether the peer is the daemon's user or root.
fn is_allowed(stream: &UnixStream) -> bool {
    rustix::net::sockopt::socket_peercred(stream)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

impl Served {
    fn serve(&self, stream: &UnixStream) -> std::io::Result<()> {
        if !is_allowed(stream) {
            tracing::warn!("a client of another user was turned away");
            return Ok(());
        }
        let mut line = Vec::new();
        BufReader::new(stream).take(MAX_REQUEST).read_until(b'\n', &mut line)?;
        let mut out = BufWriter::with_capacity(64 << 10, stream);
        let answer = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => self.answer(&request, stream, &mut out),
            Err(e) => {
                Err(Failure::new(format!("a request that this daemon does not understand ({e}): do versions differ?")))
            }
        };
        let unmounted = matches!(serde_json::from_slice(&line), Ok(Request::Unmount { .. })) && answer.is_ok();
        let last: Response<()> = match answer {
            Ok(done) => Response::Done(done),
            Err(failure) => Response::Error(failure),
        };
        send(&mut out, &last)?;
        out.flush()?;
        if unmounted {
            tracing::info!("unmounted on request");
        }
        Ok(())
    }

    fn answer(&self, request: &Request, stream: &UnixStream, out: &mut impl Write) -> Result<Done, Failure> {
        let mut sink = |row: Row| match send(out, &Response::Row(row)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        };
        match request {
            Request::Status => {
                let _ = sink(Row::Status(self.status()?));
                Ok(Done::default())
            }
            Request::Flush => {
                self.settle()?;
                Ok(Done::default())
            }
            Request::Unmount { lazy } => self.unmount(*lazy),
            Request::Events { filter, follow: true } => {
                let mut filter = filter.clone();
                loop {
                    self.settle()?;
                    let request = Request::Events { filter: filter.clone(), follow: false };
                    let mut gone = false;
                    let done = self.dispatch(&request, &mut |row| {
                        let flow = match send(out, &Response::Row(row)) {
                            Ok(()) => ControlFlow::Continue(()),
                            Err(_) => ControlFlow::Break(()),
                        };
                        gone |= flow.is_break();
                        flow
                    })?;
                    filter.from_seq = done.next_seq.unwrap_or(filter.from_seq);
                    if gone || out.flush().is_err() || self.engine.is_stopped() || hung_up(stream, FOLLOW) {
                        return Ok(Done::default());
                    }
                }
            }
            Request::Diff(_)
            | Request::Ps(_)
            | Request::Events { .. }
            | Request::Reads(_)
            | Request::Snapshots(_)
            | Request::Cat { .. } => {
                self.settle()?;
                self.dispatch(request, &mut sink)
            }
            Request::Snapshot { .. }
            | Request::Rewind(_)
            | Request::Discard { .. }
            | Request::Undo(_)
            | Request::Apply(_)
            | Request::Export(_)
            | Request::Bring(_) => {
                let users = |ino| {
                    let row = |(_, pid, comm): (_, _, Vec<u8>)| UserRow { pid, comm: rows::text(&comm).0 };
                    self.engine.users_of(ino).into_iter().map(row).collect()
                };
                self.mover(stream, &users)?.answer(request, &mut sink)
            }
        }
    }

    fn dispatch(&self, request: &Request, sink: &mut dyn FnMut(Row) -> ControlFlow<()>) -> Result<Done, Failure> {
        let overlay = self.engine.overlay();
        dispatch(request, overlay, overlay.store(), sink)
    }

    /// What changes the tree on behalf of the client.
    fn mover<'s>(&'s self, stream: &UnixStream, users: &'s dyn Fn(Ino) -> Vec<UserRow>) -> Result<Mover<'s>, Failure> {
        let peer = rustix::net::sockopt::socket_peercred(stream)
            .map_err(|e| Failure::new(format!("cannot tell who asks: {}", std::io::Error::from(e))))?;
        let caller = Caller {
            tid: peer.pid.as_raw_nonzero().get().cast_unsigned(),
            uid: peer.uid.as_raw(),
            gid: peer.gid.as_raw(),
        };
        Ok(Mover {
            machine: self.engine.machine(),
            ctx: self.engine.ctx_for(caller),
            mapped: self.engine.may_be_mapped(),
            users,
        })
    }

    fn settle(&self) -> Result<(), Failure> {
        self.engine
            .settle()
            .map_err(|e| Failure::new(format!("the record cannot be written ({e}): see daemon.log in the store")))
    }

    fn status(&self) -> Result<StatusRow, Failure> {
        use std::os::unix::ffi::OsStrExt;
        let overlay = self.engine.overlay();
        let store = overlay.store();
        self.settle()?;
        let (repo, repo_hex) = rows::text(self.repo.as_os_str().as_bytes());
        let (mountpoint, mountpoint_hex) = rows::text(self.mountpoint.as_os_str().as_bytes());
        let (path, store_hex) = rows::text(store.dir.as_os_str().as_bytes());
        Ok(StatusRow {
            mounted: true,
            repo,
            repo_hex,
            mountpoint: Some(mountpoint),
            mountpoint_hex,
            pid: Some(std::process::id()),
            record: Some(self.engine.mode().name().to_owned()),
            since: Some(time::format(self.since)),
            changed_files: diff::count(&View::base(overlay), &View::now(overlay))?,
            events: self.engine.events(),
            store: path,
            store_hex,
            store_bytes: store.kv.disk_bytes(),
        })
    }

    fn unmount(&self, lazy: bool) -> Result<Done, Failure> {
        let how = if lazy { Unmount::Detach } else { Unmount::Idle };
        match mount::unmount(&self.mountpoint, how) {
            Ok(()) => Ok(Done::default()),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                Err(Failure::new(format!("{} is in use", self.mountpoint.display())))
            }
            Err(e) => Err(Failure::new(format!("cannot unmount {}: {e}", self.mountpoint.display()))),
        }
    }
}

fn send<R: serde::Serialize>(out: &mut impl Write, response: &Response<R>) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, response)?;
    out.write_all(b"\n")
}
