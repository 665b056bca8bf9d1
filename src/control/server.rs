//! The daemon's end of the control socket: one thread per connection, one request each.

use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::client::address;
use super::host::{Host, Mount, Shows};
use super::protocol::{
    Asked, Done, Failure, MountRequest, MountRow, Request, Response, Row, SOCKET, StatusRow, TimelineRequest, dispatch,
    what_is_shown,
};
use super::time::Mover;
use super::timeline::{ForkPoint, fork_point};
use super::watch;
use crate::clock;
use crate::diff;
use crate::engine::{Caller, Engine, Mode};
use crate::overlay::Shown;
use crate::overlay::view::View;
use crate::query::{rows, time};
use crate::timeline::branch;
use crate::timeline::limits;
use crate::timeline::rows::UserRow;
use crate::types::{Path as InBase, Time, unhex};

/// Longest request, bytes.
const MAX_REQUEST: u64 = 1 << 20;
/// How often `--follow` looks for new events.
const FOLLOW: Duration = Duration::from_millis(100);
/// How often a client is told how far it is.
const PROGRESS: Duration = Duration::from_millis(100);

/// The server.
struct Served {
    host: Arc<dyn Host>,
}

/// Binds the socket in `dir` (mode 0600) and answers in threads of its own until the process ends.
pub fn start(dir: &Path, host: Arc<dyn Host>) -> std::io::Result<()> {
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
    let served = Arc::new(Served { host });
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

/// Takes the socket away: nobody is let in any more. For the end of a daemon that still has the store's lock.
pub fn end(dir: &Path) {
    if let Err(error) = std::fs::remove_file(dir.join(SOCKET)) {
        tracing::warn!(%error, "the socket is left behind");
    }
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

/// A request as it is written; without a mount it is about the first one.
fn parse(line: &[u8]) -> Result<(Option<PathBuf>, Request), Failure> {
    let garbage = |e: serde_json::Error| {
        Failure::new(format!("a request that this daemon does not understand ({e}): do versions differ?"))
    };
    let value: serde_json::Value = serde_json::from_slice(line).map_err(garbage)?;
    if value.get("about").is_none() {
        return Ok((None, serde_json::from_value(value).map_err(garbage)?));
    }
    let Asked { about, request } = serde_json::from_value(value).map_err(garbage)?;
    Ok((Some(directory(&about)?), request))
}

/// A path in hexadecimal.
fn directory(hex: &str) -> Result<PathBuf, Failure> {
    use std::os::unix::ffi::OsStringExt;
    let bytes = unhex(hex).ok_or_else(|| Failure::new("a directory is not in hexadecimal"))?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
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
        let answer = parse(&line).and_then(|(about, request)| {
            let mount = self.mount_at(about.as_deref(), &request)?;
            let answer = self.answer(&mount, &request, stream, &mut out);
            if matches!(request, Request::Unmount { .. }) && answer.is_ok() {
                tracing::info!("unmounted on request");
            }
            answer
        });
        let last: Response<()> = match answer {
            Ok(done) => Response::Done(done),
            Err(failure) => Response::Error(failure),
        };
        send(&mut out, &last)?;
        out.flush()
    }

    /// The mount that a request is about.
    fn mount_at(&self, about: Option<&Path>, request: &Request) -> Result<Arc<Mount>, Failure> {
        let mounts = self.host.mounts();
        if about.is_none() && mounts.len() > 1 && mounts.iter().all(|m| !m.primary) && request.needs_a_tree() {
            let all: Vec<String> = mounts.iter().map(|m| m.at.display().to_string()).collect();
            let all = all.join(", ");
            let message =
                format!("there are several mounts and none is in place: give one of {all} with --repo, or `cd` to it");
            return Err(Failure { message, exit: 2 });
        }
        match about {
            None => mounts.into_iter().next().ok_or_else(|| Failure::new("the daemon is ending")),
            Some(at) => mounts
                .into_iter()
                .rfind(|m| m.at == at)
                .ok_or_else(|| Failure::new(format!("nothing of this daemon is mounted at {}", at.display()))),
        }
    }

    fn answer(
        &self,
        mount: &Mount,
        request: &Request,
        stream: &UnixStream,
        out: &mut impl Write,
    ) -> Result<Done, Failure> {
        let mut told = Time::default();
        let mut sink = |row: Row| {
            let sent = match row {
                // Now and then, and at once.
                Row::Progress(row) => {
                    let now = clock::now();
                    if now.as_nanos().saturating_sub(told.as_nanos()) < PROGRESS.as_nanos() as i64 {
                        return ControlFlow::Continue(());
                    }
                    told = now;
                    send(out, &Response::<()>::Progress(row)).and_then(|()| out.flush())
                }
                row => send(out, &Response::Row(row)),
            };
            if sent.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let engine = &mount.engine;
        match request {
            Request::Status => {
                let _ = sink(Row::Status(self.status(mount)?));
                Ok(Done::default())
            }
            Request::Flush => {
                settle(engine)?;
                Ok(Done::default())
            }
            Request::Unmount { lazy, at } => {
                let at = at.as_deref().map(directory).transpose()?;
                self.host.unmount(at.as_deref(), *lazy)?;
                Ok(Done::default())
            }
            Request::Mount(wanted) => {
                let _ = sink(Row::Mount(mount_row(&*self.mount(wanted)?)?));
                Ok(Done::default())
            }
            Request::Events { filter, follow: true } => {
                let mut filter = filter.clone();
                loop {
                    settle(engine)?;
                    let request = Request::Events { filter: filter.clone(), follow: false };
                    let mut gone = false;
                    let done = dispatch(&request, engine.overlay(), engine.overlay().store(), &mut |row| {
                        let flow = match send(out, &Response::Row(row)) {
                            Ok(()) => ControlFlow::Continue(()),
                            Err(_) => ControlFlow::Break(()),
                        };
                        gone |= flow.is_break();
                        flow
                    })?;
                    filter.from_seq = done.next_seq.unwrap_or(filter.from_seq);
                    if gone || out.flush().is_err() || engine.is_stopped() || hung_up(stream, FOLLOW) {
                        return Ok(Done::default());
                    }
                }
            }
            Request::Watch(filter) => {
                let mut tell = |row| send(out, &Response::Row(row)).and_then(|()| out.flush()).is_ok();
                watch::follow(engine, filter, &mut tell, &|| hung_up(stream, watch::EVERY))
            }
            Request::Diff(filter) if !filter.chosen.is_empty() => moving(engine, stream, request, &|_| {}, &mut sink),
            Request::Diff(_)
            | Request::Ps(_)
            | Request::Sessions
            | Request::Log(_)
            | Request::Blame(_)
            | Request::Story(_)
            | Request::Events { .. }
            | Request::Reads(_)
            | Request::Snapshots(_)
            | Request::Candidates(_)
            | Request::Cat { .. } => {
                settle(engine)?;
                dispatch(request, engine.overlay(), engine.overlay().store(), &mut sink)
            }
            Request::Timeline(asked) => {
                let engine = self.mover_of(mount, asked)?;
                moving(&engine, stream, request, &|_| {}, &mut sink)
            }
            Request::Merge(asked) => {
                // What was changed in the other one's mount through mappings counts as well.
                let theirs = branch::named(&*engine.overlay().store().kv, &asked.timeline).map(|t| t.id);
                let mounts = self.host.mounts();
                let shows = |m: &&Arc<Mount>| {
                    theirs.as_ref().is_ok_and(|&id| m.engine.overlay().shown() == Shown::Timeline(id))
                };
                if let Some(theirs) = mounts.iter().find(shows) {
                    theirs.engine.machine().write_back(&theirs.engine.may_be_mapped());
                }
                moving(engine, stream, request, &|_| {}, &mut sink)
            }
            Request::Snapshot { .. }
            | Request::Rewind(_)
            | Request::Revert(_)
            | Request::Discard { .. }
            | Request::Undo(_)
            | Request::Apply(_)
            | Request::Export(_)
            | Request::Bring(_)
            | Request::Gc(_) => {
                let gained = |paths: &[InBase]| self.show_gained(mount, paths);
                moving(engine, stream, request, &gained, &mut sink)
            }
        }
    }

    /// The base has something new: one mount knows, the others are told.
    fn show_gained(&self, knows: &Mount, paths: &[InBase]) {
        for other in self.host.mounts().iter().filter(|m| m.at != knows.at) {
            if let Err(error) = other.engine.machine().show_gained(paths) {
                tracing::warn!(%error, at = %other.at.display(), "something new may not show");
            }
        }
    }

    fn mount(&self, wanted: &MountRequest) -> Result<Arc<Mount>, Failure> {
        let shows = match (&wanted.timeline, &wanted.snapshot) {
            (Some(name), _) => Shows::Timeline(name.clone()),
            (None, Some(text)) => Shows::Snapshot(text.clone()),
            (None, None) => Shows::Primary,
        };
        let mode = |name: &String| {
            Mode::from_name(name).ok_or_else(|| Failure::new(format!("no way to record is called {name}")))
        };
        let mode = wanted.record.as_ref().map(mode).transpose()?;
        self.host.mount(&shows, &directory(&wanted.at)?, mode)
    }

    /// Whose part it is to do something about timelines.
    fn mover_of(&self, mount: &Mount, asked: &TimelineRequest) -> Result<Arc<Engine>, Failure> {
        let mounts = self.host.mounts();
        let found = match asked {
            // What is shown in place is the primary mount's, wherever the question comes from.
            TimelineRequest::Switch { .. } => mounts.iter().find(|m| m.primary),
            // The present of another timeline is with the mount that shows it.
            TimelineRequest::Fork { from: Some(text), .. } => match fork_point(mount.engine.overlay(), text)? {
                ForkPoint::Present(id) => mounts.iter().find(|m| m.engine.overlay().shown() == Shown::Timeline(id)),
                ForkPoint::At(_) => None,
            },
            TimelineRequest::Fork { from: None, .. } | TimelineRequest::Delete { .. } | TimelineRequest::List => None,
        };
        Ok(found.map_or_else(|| mount.engine.clone(), |m| m.engine.clone()))
    }

    fn status(&self, mount: &Mount) -> Result<StatusRow, Failure> {
        let overlay = mount.engine.overlay();
        let store = overlay.store();
        settle(&mount.engine)?;
        let (repo, repo_hex) = rows::text(self.host.repo().as_os_str().as_bytes());
        let (path, store_hex) = rows::text(store.dir.as_os_str().as_bytes());
        let shown = mount_row(mount)?;
        Ok(StatusRow {
            mounted: true,
            repo,
            repo_hex,
            mountpoint: Some(shown.mountpoint),
            mountpoint_hex: shown.mountpoint_hex,
            pid: Some(std::process::id()),
            record: Some(shown.record),
            since: Some(shown.since),
            timeline: shown.timeline,
            snapshot: shown.snapshot,
            mounts: self.host.mounts().iter().map(|m| mount_row(m)).collect::<Result<_, _>>()?,
            changed_files: diff::count(&View::base(overlay), &View::now(overlay))?,
            events: mount.engine.events(),
            store: path,
            store_hex,
            store_bytes: store.disk_bytes()?,
            store_max: limits::from_environment(|name| std::env::var(name).ok()).0.max_size,
        })
    }
}

fn mount_row(mount: &Mount) -> Result<MountRow, Failure> {
    let (mountpoint, mountpoint_hex) = rows::text(mount.at.as_os_str().as_bytes());
    let (timeline, snapshot) = what_is_shown(mount.engine.overlay())?;
    Ok(MountRow {
        mountpoint,
        mountpoint_hex,
        primary: mount.primary,
        timeline,
        snapshot,
        record: mount.engine.mode().name().to_owned(),
        since: time::format(mount.since),
    })
}

/// Does what changes the tree, or its history, on behalf of the client.
fn moving(
    engine: &Engine,
    stream: &UnixStream,
    request: &Request,
    gained: &dyn Fn(&[InBase]),
    sink: &mut dyn FnMut(Row) -> ControlFlow<()>,
) -> Result<Done, Failure> {
    let peer = rustix::net::sockopt::socket_peercred(stream)
        .map_err(|e| Failure::new(format!("cannot tell who asks: {}", std::io::Error::from(e))))?;
    let caller =
        Caller { tid: peer.pid.as_raw_nonzero().get().cast_unsigned(), uid: peer.uid.as_raw(), gid: peer.gid.as_raw() };
    let users = |ino| {
        let row = |(_, pid, comm): (_, _, Vec<u8>)| UserRow { pid, comm: rows::text(&comm).0 };
        engine.users_of(ino).into_iter().map(row).collect()
    };
    let (ctx, mapped) = (engine.ctx_for(caller), engine.may_be_mapped());
    let cancelled = || hung_up(stream, Duration::ZERO);
    Mover { machine: engine.machine(), ctx, mapped, users: &users, cancelled: &cancelled, gained }.answer(request, sink)
}

fn settle(engine: &Engine) -> Result<(), Failure> {
    engine
        .settle()
        .map_err(|e| Failure::new(format!("the record cannot be written ({e}): see daemon.log in the store")))
}

fn send<R: serde::Serialize>(out: &mut impl Write, response: &Response<R>) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, response)?;
    out.write_all(b"\n")
}
