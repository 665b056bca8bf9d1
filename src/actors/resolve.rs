//! From a thread id to an actor: the cache, and what is done when it does not know.
//!
//! May be called by every request thread at once. Two that meet the same new process both read it, and one of them wins
//! the place in the table; the number that the other had taken is not used.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::epoll;

use super::errands::{Errand, Errands};
use super::procfs::{ImageMark, Proc, Stat};
use super::table::{Entry, Hit, Inserted, State, Table, Tids};
use super::watch::{WAKE, Watcher};
use super::{Actor, Depth, Details, Exit, MARK_BYTES, Options, Sink, agents, redact};
use crate::clock;
use crate::sys::pidfd;
use crate::types::{ActorId, Time};

/// What the request threads and the background thread share.
pub struct Shared {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) proc: Proc,
    pub(super) tids: Tids,
    pub(super) table: Mutex<Table>,
    pub(super) epoll: OwnedFd,
    pub(super) wake: OwnedFd,
    /// Processes that the background thread is to look at.
    pub(super) pending: Mutex<Vec<Arc<Entry>>>,
    pub(super) errands: Errands,
    /// The background thread.
    pub(super) background: OnceLock<std::thread::ThreadId>,
    /// The connector reports forks and execs.
    pub(super) live: AtomicBool,
    pub(super) stopping: AtomicBool,
    pub(super) fence: Mutex<Fence>,
    pub(super) passed: Condvar,
    /// Our own mount namespace.
    mounts: Option<Vec<u8>>,
    /// Our own pid and effective user.
    pub(super) own: u32,
    pub(super) euid: u32,
    pidfds: AtomicUsize,
    max_pidfds: usize,
}

/// Which calls of `drain` were made, and which are answered.
#[derive(Default)]
pub struct Fence {
    pub asked: u64,
    pub passed: u64,
    /// The background thread has ended: nobody will answer.
    pub closed: bool,
    /// Times that the thread has woken.
    #[cfg(test)]
    pub rounds: u64,
}

/// A process that closes a descriptor and may be in the middle of an execve.
#[derive(Debug)]
pub struct Closing {
    pid: u32,
    ppid: u32,
    /// Opened before the answer: whatever has the pid later, this is who it was.
    pidfd: Option<OwnedFd>,
}

/// A process as it was read, not yet in the table.
pub struct Observed {
    pid: u32,
    stat: Option<Stat>,
    read_ns: u64,
    uid: u32,
    look: Option<Look>,
    pidfd: Option<OwnedFd>,
}

impl Observed {
    pub(super) fn start(&self) -> u64 {
        self.stat.as_ref().map_or(0, |stat| stat.start)
    }

    pub(super) fn ppid(&self) -> u32 {
        self.stat.as_ref().map_or(0, |stat| stat.ppid)
    }
}

/// Variables of an environment that are kept: it may have one several times.
const MAX_MARKS: usize = 16;

/// Command line, executable, working directory and marks of agents.
#[derive(Default)]
pub struct Look {
    pub argv: Vec<Vec<u8>>,
    pub argv_truncated: bool,
    pub exe: Vec<u8>,
    pub cwd: Vec<u8>,
    pub marks: Vec<(Vec<u8>, Vec<u8>)>,
    /// See [`State::here`]; only looked up of agents.
    pub here: bool,
    /// See [`Actor::prompts`].
    pub prompts: bool,
}

/// The link that is the same for processes with the same mounts.
const MOUNTS: &str = "ns/mnt";

/// What somebody may be typing at.
const TERMINALS: [&[u8]; 3] = [b"/dev/pts/", b"/dev/tty", b"/dev/console"];

impl Shared {
    pub(super) fn new(sink: Arc<dyn Sink>, options: Options) -> io::Result<(Shared, Watcher)> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let wake = rustix::event::eventfd(0, flags)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let watcher = Watcher::new(&epoll, options)?;
        let open_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let (proc, own) = (Proc::open()?, std::process::id());
        let shared = Shared {
            sink,
            tids: Tids::new(),
            table: Mutex::new(Table::default()),
            epoll,
            wake,
            pending: Mutex::new(Vec::new()),
            errands: Errands::default(),
            background: OnceLock::new(),
            mounts: proc.link(own, MOUNTS),
            proc,
            live: AtomicBool::new(watcher.has_connector()),
            stopping: AtomicBool::new(false),
            fence: Mutex::new(Fence::default()),
            passed: Condvar::new(),
            own,
            euid: rustix::process::geteuid().as_raw(),
            pidfds: AtomicUsize::new(0),
            // The rest of the descriptors belongs to the files of the mount.
            max_pidfds: usize::try_from(open_files / 4).unwrap_or(usize::MAX).min(16 * 1024),
        };
        Ok((shared, watcher))
    }

    pub(super) fn is_live(&self) -> bool {
        self.live.load(Ordering::Relaxed)
    }

    pub(super) fn resolve(&self, tid: u32, depth: Depth) -> ActorId {
        if tid == 0 {
            return ActorId::KERNEL;
        }
        let now = clock::now().as_nanos();
        match self.tids.hit(tid, now, self.is_live()) {
            Hit::Known(id) => id,
            Hit::Stale(entry) => {
                self.look_again(&entry);
                entry.id
            }
            Hit::Forked(entry) => {
                let execed = || self.proc.stat(entry.pid).is_some_and(|stat| !stat.forked_no_exec);
                if depth == Depth::Full && execed() {
                    self.refresh(&entry, super::watch::Cause::Look, Time::from_nanos(now));
                }
                entry.id
            }
            Hit::Unsure(entry)
                if self.is_alive(&entry) && (entry.pid == tid || self.proc.is_thread(entry.pid, tid)) =>
            {
                self.tids.put(tid, &entry, now);
                entry.touch(now);
                entry.id
            }
            Hit::Unsure(_) | Hit::Unknown => self.resolve_unknown(tid, depth, now),
        }
    }

    /// The process of a thread if that is known without a look at `/proc`.
    fn known(&self, tid: u32) -> Option<ActorId> {
        match self.tids.hit(tid, clock::now().as_nanos(), self.is_live()) {
            Hit::Known(id) => Some(id),
            Hit::Stale(entry) | Hit::Forked(entry) => Some(entry.id),
            Hit::Unsure(_) | Hit::Unknown => None,
        }
    }

    fn resolve_unknown(&self, tid: u32, depth: Depth, now: i64) -> ActorId {
        let (pid, pidfd) = self.leader(tid);
        // Our own command line may be behind our own page fault.
        let depth = if pid == self.own { Depth::Minimal } else { depth };
        let entry = match self.lookup(pid) {
            Some(entry) => {
                if depth == Depth::Full && entry.state.lock().actor.details != Details::Full {
                    self.refresh(&entry, super::watch::Cause::Look, Time::from_nanos(now));
                }
                entry
            }
            None => {
                let observed = self.observe_with(pid, pidfd, depth);
                let parent = self.parent(observed.ppid(), observed.start(), depth);
                self.admit(observed, parent.as_ref(), depth)
            }
        };
        // A newcomer was first seen a little after `now`.
        entry.last.fetch_max(now, Ordering::Relaxed);
        if !entry.saved.load(Ordering::Acquire) {
            self.save(&entry);
        }
        if !entry.is_ended() {
            self.tids.put(tid, &entry, now);
        }
        entry.id
    }

    /// See [`super::Actors::closing`].
    pub(super) fn closing(&self, tid: u32) -> Result<ActorId, Closing> {
        if let Some(known) = self.known(tid) {
            return Ok(known);
        }
        match self.proc.status(tid) {
            Some(status) if status.has_memory => {
                let (pid, pidfd) = self.leader(tid);
                Err(Closing { pid, ppid: status.ppid, pidfd })
            }
            // At its end, so not in an execve; and gone as soon as it has its answer.
            Some(_) | None => Ok(self.resolve(tid, Depth::Minimal)),
        }
    }

    pub(super) fn resolve_closed(&self, closing: Closing) -> ActorId {
        let Closing { pid, ppid, pidfd } = closing;
        let mut observed = self.observe_with(pid, pidfd, Depth::Minimal);
        let exited = observed.pidfd.as_ref().is_none_or(pidfd::exited);
        if exited && observed.stat.as_ref().is_some_and(|stat| !stat.is_dead()) {
            // Somebody else's pid by now.
            observed.stat = None;
        }
        let start = observed.stat.as_ref().map_or(u64::MAX, |stat| stat.start);
        let parent = self.parent(ppid, start, Depth::Minimal);
        self.admit(observed, parent.as_ref(), Depth::Minimal).id
    }

    pub(super) fn resolve_child(&self, pid: u32, parent: ActorId) -> ActorId {
        let parent_entry = self.table.lock().by_id(parent);
        // The child may have made requests and ended before this event was heard. An earlier process of the same pid it is not:
        // the event of that one's exit came before this one.
        let present = self.table.lock().by_pid(pid);
        let present = present.filter(|entry| !entry.departed.load(Ordering::Relaxed));
        if let Some(entry) = present.filter(|entry| !entry.is_ended() || entry.start == 0) {
            let corrected = {
                let mut state = entry.state.lock();
                state.actor.parent.replace(parent) != Some(parent)
            };
            if corrected {
                self.save(&entry);
            }
            return entry.id;
        }
        let observed = self.observe_with(pid, pidfd::open(pid).ok(), Depth::Minimal);
        let entry = self.admit_child(observed, parent, parent_entry.as_ref());
        entry.id
    }

    /// The process of a thread, and its pidfd when the thread leads it. A thread that is gone is taken for a leader.
    fn leader(&self, tid: u32) -> (u32, Option<OwnedFd>) {
        match pidfd::open(tid) {
            Ok(pidfd) => return (tid, Some(pidfd)),
            Err(pidfd::OpenError::Gone) => return (tid, None),
            Err(pidfd::OpenError::NotLeader | pidfd::OpenError::Io(_)) => {}
        }
        let by_pidfd = pidfd::open_thread(tid).ok().and_then(pidfd::info).map(|info| info.tgid);
        let tgid = by_pidfd.or_else(|| self.proc.status(tid).map(|status| status.tgid)).unwrap_or(tid);
        (tgid, None)
    }

    /// The known process that has this pid now.
    pub(super) fn lookup(&self, pid: u32) -> Option<Arc<Entry>> {
        let entry = self.table.lock().by_pid(pid)?;
        self.is_alive(&entry).then_some(entry)
    }

    /// Whether the entry's pid is still that process (or, for one that was never seen alive, still nobody).
    pub(super) fn is_alive(&self, entry: &Entry) -> bool {
        if let Some(pidfd) = &*entry.pidfd.lock() {
            return !pidfd::exited(pidfd);
        }
        self.proc.stat(entry.pid).map_or(0, |stat| stat.start) == entry.start
    }

    pub(super) fn observe(&self, pid: u32, depth: Depth) -> Option<Observed> {
        let observed = self.observe_with(pid, pidfd::open(pid).ok(), depth);
        observed.stat.is_some().then_some(observed)
    }

    /// Reads a process. The pidfd is opened before, so that its exit is never missed.
    fn observe_with(&self, pid: u32, pidfd: Option<OwnedFd>, depth: Depth) -> Observed {
        let pidfd = pidfd.or_else(|| pidfd::open(pid).ok());
        let read_ns = clock::monotonic_ns();
        let uid = pidfd.as_ref().and_then(pidfd::info).map(|info| info.euid);
        let uid = uid.or_else(|| self.proc.status(pid).map(|status| status.euid)).unwrap_or(u32::MAX);
        let stat = self.proc.stat(pid);
        let look = if depth == Depth::Full && stat.is_some() { self.look(pid) } else { None };
        Observed { pid, stat, read_ns, uid, look, pidfd }
    }

    /// `None` when there is nothing to see: the process is gone, ending, in the middle of an execve, or a kernel thread.
    /// (execve gives every process at least one argument, if need be an empty one.)
    pub(super) fn look(&self, pid: u32) -> Option<Look> {
        let mut cmdline = self.proc.cmdline(pid).filter(|cmdline| !cmdline.args.is_empty())?;
        redact::argv(&mut cmdline.args);
        let exe = self.proc.link(pid, "exe").unwrap_or_default();
        let cwd = self.proc.link(pid, "cwd").unwrap_or_default();
        let mut marks = self.proc.variables(pid, &|name| agents::variables().any(|wanted| wanted.as_bytes() == name));
        marks.truncate(MAX_MARKS);
        for (_, value) in &mut marks {
            if let Some(clean) = redact::text(value) {
                *value = clean;
            }
            value.truncate(MARK_BYTES);
        }
        let here = agents::image(&exe, &cmdline.args).is_some()
            && self.mounts.is_some()
            && self.proc.link(pid, MOUNTS) == self.mounts
            && self.proc.link(pid, "root").is_some_and(|root| root == b"/");
        let prompts = agents::is_bare_shell(&cmdline.args)
            && self.proc.link(pid, "fd/0").is_some_and(|input| TERMINALS.iter().any(|t| input.starts_with(t)));
        Some(Look { argv: cmdline.args, argv_truncated: cmdline.truncated, exe, cwd, marks, here, prompts })
    }

    /// Puts a process into the table, tells the sink, and watches for its exit.
    pub(super) fn admit(&self, observed: Observed, parent: Option<&Arc<Entry>>, depth: Depth) -> Arc<Entry> {
        let entry = self.insert(observed, parent.map(|parent| parent.id), parent);
        let unread = entry.state.lock().actor.details != Details::Full;
        if unread && !entry.is_ended() && (depth == Depth::Minimal || !pidfd_exited(&entry)) {
            self.look_again(&entry);
        }
        entry
    }

    /// As [`Shared::admit`] for a fork child, which has its details from its parent until it calls execve.
    fn admit_child(&self, observed: Observed, parent: ActorId, entry: Option<&Arc<Entry>>) -> Arc<Entry> {
        let child = self.insert(observed, Some(parent), entry);
        if child.state.lock().actor.details == Details::Missing && !child.is_ended() {
            self.look_again(&child);
        }
        child
    }

    fn insert(&self, observed: Observed, parent: Option<ActorId>, model: Option<&Arc<Entry>>) -> Arc<Entry> {
        let now = clock::now();
        let Observed { pid, stat, read_ns, uid, look, pidfd } = observed;
        let gone = stat.is_none() && pidfd.is_none();
        // A child that nobody could read has, as far as anybody knows, not called execve.
        let inherits = stat.as_ref().is_none_or(|stat| stat.forked_no_exec);
        let (details, look) = match look {
            Some(look) => (Details::Full, Some(look)),
            None => match model.filter(|_| inherits).and_then(|model| inherited(model)) {
                Some(look) => (Details::Inherited, Some(look)),
                None => (Details::Missing, None),
            },
        };
        let look = look.unwrap_or_default();
        let prompts = look.prompts && stat.as_ref().is_some_and(|stat| !stat.forked_no_exec);
        let (sid, tty) = stat.as_ref().map_or((0, 0), |stat| (stat.sid, stat.tty));
        let (start, ppid) = stat.as_ref().map_or((0, 0), |stat| (stat.start, stat.ppid));
        let mark = stat.as_ref().map_or(ImageMark::default(), |stat| stat.image);
        let actor = Actor {
            id: self.sink.next_id(),
            pid,
            start,
            ppid: if stat.is_some() { ppid } else { model.map_or(0, |model| model.pid) },
            parent,
            uid,
            sid,
            tty,
            prompts,
            comm: stat.map(|stat| stat.comm).unwrap_or_default(),
            exe: look.exe,
            argv: look.argv,
            argv_truncated: look.argv_truncated,
            cwd: look.cwd,
            marks: look.marks,
            version: None,
            images: Vec::new(),
            first: now,
            last: now,
            exit: gone.then_some(Exit::Unknown),
            exit_at: gone.then_some(now),
            details,
        };
        let pidfd = pidfd.filter(|_| self.pidfds.load(Ordering::Relaxed) < self.max_pidfds);
        let entry = Arc::new(Entry::new(State { actor, mark, read_ns, here: look.here, status: None }, pidfd));
        let inserted = {
            let mut table = self.table.lock();
            let inserted = table.insert(&entry);
            if gone && !matches!(inserted, Inserted::Present(_)) {
                table.remember(&entry);
            }
            inserted
        };
        match inserted {
            Inserted::Present(present) => {
                if !present.saved.load(Ordering::Acquire) {
                    self.save(&present);
                }
                return present;
            }
            // Its pidfd, if it has one, will tell how it ended.
            Inserted::Replaced(old) if !old.watched.load(Ordering::Relaxed) => self.finish(&old, Exit::Unknown),
            Inserted::Replaced(_) | Inserted::New => {}
        }
        self.save(&entry);
        self.watch(&entry);
        self.seek_version(&entry);
        entry
    }

    pub(super) fn watch(&self, entry: &Entry) {
        let mut pidfd = entry.pidfd.lock();
        let Some(fd) = &*pidfd else { return };
        self.pidfds.fetch_add(1, Ordering::Relaxed);
        let token = epoll::EventData::new_u64(entry.id.0);
        if let Err(error) = epoll::add(&self.epoll, fd, token, epoll::EventFlags::IN) {
            tracing::warn!(pid = entry.pid, %error, "cannot watch for the exit of a process");
            entry.watched.store(false, Ordering::Relaxed);
            self.pidfds.fetch_sub(1, Ordering::Relaxed);
            *pidfd = None;
        }
    }

    /// Tells of the latest state and saves it: at once, or soon if the background thread wants it, which may not wait for a disk.
    pub(super) fn save(&self, entry: &Arc<Entry>) {
        {
            let _turn = entry.seeing.lock();
            self.sink.see(&entry.snapshot());
        }
        if !self.is_background() || !self.errands.give(Errand::Save(Arc::clone(entry))) {
            self.write(entry);
        }
    }

    fn is_background(&self) -> bool {
        self.background.get() == Some(&std::thread::current().id())
    }

    /// Saves the latest state; see [`Entry::saving`].
    pub(super) fn write(&self, entry: &Entry) {
        let _turn = entry.saving.lock();
        let actor = entry.snapshot();
        entry.last_saved.store(actor.last.as_nanos(), Ordering::Relaxed);
        self.sink.save(&actor);
        entry.saved.store(true, Ordering::Release);
    }

    /// Records the end of a process, once.
    pub(super) fn finish(&self, entry: &Arc<Entry>, exit: Exit) {
        if entry.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        {
            let mut state = entry.state.lock();
            state.actor.exit = Some(exit);
            state.actor.exit_at = Some(clock::now());
        }
        self.table.lock().retire(entry);
        self.tids.remove_all(entry);
        // Closing it takes it out of the epoll set.
        if entry.pidfd.lock().take().is_some() {
            self.pidfds.fetch_sub(1, Ordering::Relaxed);
        }
        self.save(entry);
        self.sink.exited(entry.id);
    }

    /// Has the background thread read the process anew, soon.
    pub(super) fn look_again(&self, entry: &Arc<Entry>) {
        if entry.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        self.pending.lock().push(Arc::clone(entry));
        self.wake();
    }

    /// Has it found out which version of an agent the process is, if it is one.
    pub(super) fn seek_version(&self, entry: &Arc<Entry>) {
        let is_agent = {
            let actor = &entry.state.lock().actor;
            actor.details == Details::Full && agents::image(&actor.exe, &actor.argv).is_some()
        };
        if is_agent {
            self.errands.give(Errand::Version(Arc::clone(entry)));
        }
    }

    pub(super) fn wake(&self) {
        // Fails only when the counter is full, and then the thread is awake anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    pub(super) fn get(&self, id: ActorId) -> Option<Actor> {
        let entry = self.table.lock().by_id(id)?;
        Some(entry.snapshot())
    }

    pub(super) fn was_never_seen(&self, id: ActorId) -> bool {
        self.table.lock().by_id(id).is_some_and(|entry| entry.start == 0)
    }

    pub(super) fn flush(&self) {
        let entries = self.table.lock().all();
        for entry in entries {
            if !entry.is_ended() && !entry.watched.load(Ordering::Relaxed) && !self.is_alive(&entry) {
                self.finish(&entry, Exit::Unknown);
            }
            let saved = entry.saved.load(Ordering::Acquire);
            if !saved || entry.last.load(Ordering::Relaxed) != entry.last_saved.load(Ordering::Relaxed) {
                self.save(&entry);
            }
        }
    }

    pub(super) fn drain(&self) {
        if self.is_background() {
            return;
        }
        let mut fence = self.fence.lock();
        fence.asked += 1;
        let ticket = fence.asked;
        self.wake();
        let deadline = Duration::from_millis(200);
        self.passed.wait_while_for(&mut fence, |fence| fence.passed < ticket && !fence.closed, deadline);
        drop(fence);
        self.errands.wait();
    }

    pub(super) fn request_stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }
}

fn pidfd_exited(entry: &Entry) -> bool {
    entry.pidfd.lock().as_ref().is_some_and(pidfd::exited)
}

/// The details of a parent, for a child that runs the same image.
fn inherited(parent: &Entry) -> Option<Look> {
    let state = parent.state.lock();
    let actor = &state.actor;
    (actor.details != Details::Missing).then(|| Look {
        argv: actor.argv.clone(),
        argv_truncated: actor.argv_truncated,
        exe: actor.exe.clone(),
        cwd: actor.cwd.clone(),
        marks: actor.marks.clone(),
        here: false,
        prompts: false,
    })
}
