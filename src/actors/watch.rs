//! The background thread: follows the known processes through fork, exec and exit.
//!
//! Sleeps in one epoll over the pidfds of all known live processes, the process connector where there is one, and an
//! eventfd; without work it does not wake. Connector events come before pidfds in every round: the forks of a process
//! that has just exited are in the queue already, and must meet the process while it is known.
//!
//! A process may end a few milliseconds after its execve, so the queue is emptied, and what was executed is read, before each event that is dealt
//! with: one that takes long does not make those behind it unreadable.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::MutexGuard;
use rustc_hash::FxHashSet;
use rustix::event::{Timespec, epoll};

use super::procfs::Stat;
use super::resolve::{Fence, Look, Shared};
use super::table::Entry;
use super::{Details, Exit, Options};
use crate::clock;
use crate::sys::procconn::{ProcConn, ProcEvent, Received};
use crate::sys::{pidfd, sched};
use crate::types::{ActorId, Time};

/// Tokens of the epoll set that are no actor's id.
pub const WAKE: u64 = u64::MAX;
const CONNECTOR: u64 = u64::MAX - 1;

/// How often a process in the middle of an execve is looked at again, and how long after.
const RETRIES: u32 = 4;
const RETRY_NS: u64 = 10_000_000;
/// As of nice(1), where real-time priority is refused.
const NICE: i32 = -10;
/// How long the connector may take to tell how a process ended when the kernel's pidfds cannot.
const PATIENCE_NS: u64 = 100_000_000;

/// Why a process is read anew.
pub enum Cause {
    /// The kernel says that it runs a new image since then.
    Exec { at_monotonic_ns: u64, sample: Option<Sample> },
    /// To complete its details, or to see whether it runs a new image.
    Look,
}

/// What came of reading a process anew.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Known,
    /// It lives, but its details cannot be read at the moment.
    Unreadable,
}

/// What was to be read of a process when its execve was heard of.
pub struct Sample {
    read_ns: u64,
    look: Option<Look>,
    stat: Option<Stat>,
}

/// An event that is yet to be dealt with.
struct Heard {
    event: ProcEvent,
    sample: Option<Sample>,
}

struct Retry {
    due: u64,
    left: u32,
    entry: Arc<Entry>,
}

/// The state that only the background thread has.
pub struct Watcher {
    connector: Option<ProcConn>,
    heard: VecDeque<Heard>,
    /// Children of known processes whose forks are among those: what they execute is read.
    unborn: FxHashSet<u32>,
    retries: Vec<Retry>,
    /// Ended, and the connector is yet to say how.
    waiting: Vec<(u64, Arc<Entry>)>,
}

impl Watcher {
    pub fn new(epoll: impl std::os::fd::AsFd, options: Options) -> std::io::Result<Watcher> {
        let connector = if options.connector {
            ProcConn::open()
                .inspect_err(|error| tracing::info!(%error, "no process connector; forks are not seen"))
                .ok()
        } else {
            None
        };
        if let Some(connector) = &connector {
            epoll::add(epoll, connector, epoll::EventData::new_u64(CONNECTOR), epoll::EventFlags::IN)?;
        }
        let (heard, unborn) = (VecDeque::new(), FxHashSet::default());
        Ok(Watcher { connector, heard, unborn, retries: Vec::new(), waiting: Vec::new() })
    }

    pub fn has_connector(&self) -> bool {
        self.connector.is_some()
    }

    pub fn run(mut self, shared: &Shared) {
        let _ = shared.background.set(std::thread::current().id());
        // A process may end a moment after it began: whoever reads it has to be there first. Only some may ask for that.
        if sched::run_before_others().is_err() {
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
        }
        let mut ready: Vec<epoll::Event> = Vec::with_capacity(256);
        while !shared.stopping.load(Ordering::Acquire) {
            // Read before the wait: what happened before a ticket was asked for is then in this round's events.
            let (ticket, urgent) = {
                let fence = shared.fence.lock();
                (fence.asked, fence.asked > fence.passed)
            };
            let timeout = self.timeout(urgent);
            ready.clear();
            match epoll::wait(&shared.epoll, rustix::buffer::spare_capacity(&mut ready), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "epoll failed; processes are no longer followed");
                    break;
                }
            }
            let crowded = ready.len() == ready.capacity();
            if ready.iter().any(|event| event.data.u64() == WAKE) {
                let _ = rustix::io::read(&shared.wake, &mut [0u8; 8]);
            }
            self.hear(shared);
            for event in &ready {
                let token = event.data.u64();
                if token != WAKE && token != CONNECTOR {
                    self.exited(shared, ActorId(token));
                }
            }
            self.work(shared);
            if !crowded {
                let mut fence = shared.fence.lock();
                fence.passed = fence.passed.max(ticket);
                #[cfg(test)]
                {
                    fence.rounds += 1;
                }
                shared.passed.notify_all();
            }
        }
        shared.live.store(false, Ordering::Relaxed);
        let mut fence: MutexGuard<'_, Fence> = shared.fence.lock();
        fence.closed = true;
        shared.passed.notify_all();
        drop(fence);
        shared.errands.close();
    }

    /// `None`, for ever, unless something is due at a time of its own.
    fn timeout(&self, urgent: bool) -> Option<Timespec> {
        if urgent {
            return Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let retry = self.retries.iter().map(|retry| retry.due).min();
        let due = retry.into_iter().chain(self.waiting.iter().map(|(due, _)| *due)).min()?;
        let left = Duration::from_nanos(due.saturating_sub(clock::monotonic_ns()));
        Some(Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() })
    }

    /// Deals with all that the connector tells.
    fn hear(&mut self, shared: &Shared) {
        loop {
            self.gather(shared);
            let Some(Heard { event, sample }) = self.heard.pop_front() else { break };
            self.handle(shared, event, sample);
        }
        self.unborn.clear();
    }

    /// Empties the connector's queue, and reads at once what may be gone soon.
    fn gather(&mut self, shared: &Shared) {
        loop {
            let Some(connector) = &self.connector else { return };
            match connector.receive() {
                Ok(Received::Event(event)) => {
                    let sample = self.sample(shared, &event);
                    self.heard.push_back(Heard { event, sample });
                }
                Ok(Received::Other) => {}
                Ok(Received::Empty) => return,
                Ok(Received::Overflow) => self.overflow(shared, "the kernel's queue of process events overflowed"),
                Err(error) => {
                    tracing::error!(%error, "the process connector failed; forks are no longer seen");
                    self.connector = None;
                    shared.live.store(false, Ordering::Relaxed);
                    self.overflow(shared, "the process connector failed");
                }
            }
        }
    }

    /// What a process that is followed executes, or will be when its fork was dealt with.
    fn sample(&mut self, shared: &Shared, event: &ProcEvent) -> Option<Sample> {
        let follows = |pid: u32| self.unborn.contains(&pid) || shared.table.lock().by_pid(pid).is_some();
        match *event {
            ProcEvent::Fork { parent_tgid, child_tid, child_tgid, .. } => {
                if child_tid == child_tgid && parent_tgid != shared.own && follows(parent_tgid) {
                    self.unborn.insert(child_tgid);
                }
                None
            }
            ProcEvent::Exec { tgid, .. } => follows(tgid).then(|| shared.sample(tgid)),
            ProcEvent::Exit { .. } => None,
        }
    }

    fn handle(&mut self, shared: &Shared, event: ProcEvent, sample: Option<Sample>) {
        // In the order of the queue, a process whose exit was told is not the one that a later event means.
        let known = |pid: u32| {
            let entry = shared.table.lock().by_pid(pid);
            entry.filter(|entry| !entry.departed.load(Ordering::Relaxed) && !entry.is_ended())
        };
        match event {
            ProcEvent::Fork { at_monotonic_ns, parent_tgid, child_tid, child_tgid } => {
                // What the cache has under this number may be the thread that had it before.
                shared.tids.remove(child_tid);
                // A child that was gone before it could be read counts too: its own children have what it had.
                let unread = |pid: u32| {
                    let entry = shared.table.lock().by_pid(pid);
                    entry.filter(|entry| entry.start == 0 && !entry.departed.load(Ordering::Relaxed))
                };
                if child_tid == child_tgid
                    && parent_tgid != shared.own
                    && let Some(parent) = known(parent_tgid).or_else(|| unread(parent_tgid))
                {
                    shared.sink.forked(parent.id, child_tgid, at_monotonic_ns);
                }
            }
            ProcEvent::Exec { at_monotonic_ns, tgid } => {
                if let Some(entry) = known(tgid) {
                    let at = wall_time(at_monotonic_ns);
                    let outcome = shared.refresh(&entry, Cause::Exec { at_monotonic_ns, sample }, at);
                    self.settle(entry, outcome, RETRIES);
                }
            }
            ProcEvent::Exit { tid, tgid, status, .. } => {
                shared.tids.remove(tid);
                if tid == tgid {
                    self.told_of_exit(shared, tgid, status);
                }
            }
        }
    }

    /// The leader of a process ended, which is the end of the process unless it left other threads behind.
    fn told_of_exit(&mut self, shared: &Shared, pid: u32, status: i32) {
        if let Some(at) = self.waiting.iter().position(|(_, entry)| entry.pid == pid) {
            let (_, entry) = self.waiting.swap_remove(at);
            shared.finish(&entry, Exit::from_status(status));
            return;
        }
        let Some(entry) = shared.table.lock().by_pid(pid) else { return };
        if entry.is_ended() {
            // It was gone before it could be read; at least its end is known now, and that its pid is free.
            entry.departed.store(true, Ordering::Relaxed);
            let mut state = entry.state.lock();
            if entry.start == 0 && state.actor.exit == Some(Exit::Unknown) && state.status.replace(status).is_none() {
                state.actor.exit = Some(Exit::from_status(status));
                drop(state);
                shared.save(&entry);
            }
            return;
        }
        if entry.watched.load(Ordering::Relaxed) {
            // While other threads go on, its pidfd does not tell of an exit.
            if !shared.is_alive(&entry) {
                entry.departed.store(true, Ordering::Relaxed);
                entry.state.lock().status = Some(status);
            }
            return;
        }
        let stat = shared.proc.stat(pid).filter(|stat| stat.start == entry.start);
        if stat.is_none_or(|stat| stat.is_dead()) {
            shared.finish(&entry, Exit::from_status(status));
        }
    }

    /// A pidfd says that its process ended.
    fn exited(&mut self, shared: &Shared, id: ActorId) {
        let Some(entry) = shared.table.lock().by_id(id) else { return };
        if entry.is_ended() {
            return;
        }
        match shared.exit_status(&entry) {
            Some(status) => shared.finish(&entry, Exit::from_status(status)),
            None if self.connector.is_some() => {
                if let Some(pidfd) = &*entry.pidfd.lock() {
                    let _ = epoll::delete(&shared.epoll, pidfd);
                }
                self.waiting.push((clock::monotonic_ns() + PATIENCE_NS, entry));
            }
            None => shared.finish(&entry, Exit::Unknown),
        }
    }

    /// Events are missing: execs are looked for by hand, exits still come through the pidfds, forks are lost.
    fn overflow(&mut self, shared: &Shared, reason: &str) {
        tracing::warn!(reason, "process events were lost");
        shared.sink.gap(reason);
        let entries = shared.table.lock().all();
        entries.iter().filter(|entry| !entry.is_ended()).for_each(|entry| shared.look_again(entry));
    }

    /// What was asked for, and what is due.
    fn work(&mut self, shared: &Shared) {
        let pending = std::mem::take(&mut *shared.pending.lock());
        for entry in pending {
            self.look(shared, entry, RETRIES);
        }
        if self.retries.is_empty() && self.waiting.is_empty() {
            return;
        }
        let now = clock::monotonic_ns();
        let (due, later) = std::mem::take(&mut self.retries).into_iter().partition(|retry| retry.due <= now);
        self.retries = later;
        for Retry { left, entry, .. } in due {
            self.look(shared, entry, left);
        }
        let (due, later) = std::mem::take(&mut self.waiting).into_iter().partition(|(due, _)| *due <= now);
        self.waiting = later;
        for (_, entry) in due {
            shared.finish(&entry, Exit::Unknown);
        }
    }

    fn look(&mut self, shared: &Shared, entry: Arc<Entry>, left: u32) {
        let outcome = if entry.is_ended() { Outcome::Known } else { shared.refresh(&entry, Cause::Look, clock::now()) };
        self.settle(entry, outcome, left);
    }

    fn settle(&mut self, entry: Arc<Entry>, outcome: Outcome, left: u32) {
        if outcome == Outcome::Unreadable && left > 0 && !entry.is_ended() {
            self.retries.push(Retry { due: clock::monotonic_ns() + RETRY_NS, left: left - 1, entry });
        } else {
            entry.queued.store(false, Ordering::Release);
        }
    }
}

impl Shared {
    /// Reads a process: the details first, as after an exec they may be there for a fraction of a millisecond only.
    fn sample(&self, pid: u32) -> Sample {
        let read_ns = clock::monotonic_ns();
        let look = self.look(pid);
        Sample { read_ns, look, stat: self.proc.stat(pid) }
    }

    /// Reads a process anew: completes its details, and notices that it runs a new image.
    pub(super) fn refresh(&self, entry: &Arc<Entry>, cause: Cause, at: Time) -> Outcome {
        let (is_exec, sample) = match cause {
            Cause::Exec { at_monotonic_ns, sample } => {
                let state = entry.state.lock();
                if state.actor.details == Details::Full && state.read_ns > at_monotonic_ns {
                    return Outcome::Known;
                }
                (true, sample)
            }
            Cause::Look => (false, None),
        };
        // In the middle of its execve there was nothing to read; now there may be.
        let sample = sample.filter(|sample| sample.look.is_some());
        let Sample { read_ns, look, stat } = sample.unwrap_or_else(|| self.sample(entry.pid));
        let stat = stat.filter(|stat| stat.start == entry.start);
        let look = look.filter(|_| stat.is_some());
        let uid = entry.pidfd.lock().as_ref().and_then(pidfd::info).map(|info| info.euid);
        let alive = stat.as_ref().is_some_and(|stat| !stat.is_dead());
        let unreadable = look.is_none() && alive;
        let mark = stat.as_ref().map_or_else(Default::default, |stat| stat.image);
        let (changed, completed) = {
            let mut state = entry.state.lock();
            if let Some(stat) = &stat {
                // setsid(2) is called between fork and execve.
                (state.actor.sid, state.actor.tty) = (stat.sid, stat.tty);
            }
            let comparable = state.mark.is_known() && mark.is_known();
            let known = look.as_ref().filter(|_| state.actor.details == Details::Full);
            let other_exe = known.is_some_and(|look| alive_name(&state.actor.exe) != alive_name(&look.exe));
            let other_argv = known.is_some_and(|look| state.actor.argv != look.argv);
            let new_image = match is_exec {
                // The reading before may have begun before the exec and ended after it. Without randomisation the mark is
                // the same every time.
                true => !comparable || state.mark != mark || other_exe || other_argv,
                // A process may rewrite its command line.
                false if comparable => state.mark != mark || other_exe,
                false => other_exe || other_argv,
            };
            if new_image {
                state.retire_image(at);
                state.actor.details = Details::Missing;
                state.read_ns = read_ns;
                state.actor.comm = stat.as_ref().map(|stat| stat.comm.clone()).unwrap_or_default();
                state.mark = mark;
            }
            let completed = state.actor.details != Details::Full && look.is_some();
            if completed && let Some(look) = look {
                state.actor.exe = look.exe;
                state.actor.argv = look.argv;
                state.actor.argv_truncated = look.argv_truncated;
                state.actor.cwd = look.cwd;
                state.actor.marks = look.marks;
                state.actor.details = Details::Full;
                state.here = look.here;
                state.actor.prompts = look.prompts && stat.as_ref().is_some_and(|stat| !stat.forked_no_exec);
                state.read_ns = read_ns;
                entry.inherited.store(false, Ordering::Relaxed);
            }
            if mark.is_known() {
                state.mark = mark;
            }
            if let Some(uid) = uid {
                state.actor.uid = uid;
            }
            (new_image || completed, completed)
        };
        entry.checked.store(clock::now().as_nanos(), Ordering::Relaxed);
        if changed {
            self.save(entry);
        }
        if completed {
            self.seek_version(entry);
        }
        if unreadable { Outcome::Unreadable } else { Outcome::Known }
    }

    /// The wait status of a process whose pidfd says that it ended.
    fn exit_status(&self, entry: &Entry) -> Option<i32> {
        let by_pidfd = || entry.pidfd.lock().as_ref().and_then(pidfd::exit_status);
        if let Some(status) = by_pidfd() {
            return Some(status);
        }
        let (uid, told) = {
            let state = entry.state.lock();
            (state.actor.uid, state.status)
        };
        // Not reaped yet. To others than its user and root the kernel shows 0, whatever it was.
        if (self.euid == 0 || self.euid == uid)
            && let Some(stat) = self.proc.stat(entry.pid)
            && stat.start == entry.start
            && stat.is_dead()
        {
            return Some(stat.exit_status);
        }
        by_pidfd().or(told)
    }
}

/// An executable's path without what the kernel appends once the file is unlinked.
fn alive_name(exe: &[u8]) -> &[u8] {
    exe.strip_suffix(b" (deleted)").unwrap_or(exe)
}

/// The wall-clock time of a moment of the monotonic clock.
fn wall_time(at_monotonic_ns: u64) -> Time {
    let ago = clock::monotonic_ns().saturating_sub(at_monotonic_ns);
    Time::from_nanos(clock::now().as_nanos().saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX)))
}
