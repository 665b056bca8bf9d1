//! The tables in memory: which processes are known, and which thread belongs to which.
//!
//! Pure bookkeeping: reads no `/proc`, calls no sink. Every lock in here is a leaf but [`Entry`]'s `saving`, `seeing` and `state`.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::procfs::ImageMark;
use super::{Actor, Details, Image, MAX_IMAGES};
use crate::types::{ActorId, Time};

/// Ended processes that stay readable from memory.
const REMEMBERED: usize = 1024;
/// Threads of one process in the cache before they are all dropped and found anew.
const MAX_THREADS: usize = 1024;
/// How long after a fork an execve is looked for at each request: later ones are heard of.
const YOUNG_NS: i64 = 200_000_000;
/// How long a cached thread is trusted without another look at whether its number still means the same.
pub const TRUST_NS: i64 = 1_000_000_000;

/// A process known.
pub struct Entry {
    pub id: ActorId,
    pub pid: u32,
    pub start: u64,
    /// Nanoseconds since 1970.
    pub first: i64,
    /// Its exit has been processed.
    pub ended: AtomicBool,
    /// The connector told of its exit; the pidfd is yet to be processed.
    pub departed: AtomicBool,
    /// A pidfd reports its exit.
    pub watched: AtomicBool,
    /// Waits for the background thread to look at it again.
    pub queued: AtomicBool,
    /// As far as is known it runs what its parent ran when it was forked.
    pub inherited: AtomicBool,
    /// The sink knows it.
    pub saved: AtomicBool,
    /// Nanoseconds since 1970, as are the two below.
    pub last: AtomicI64,
    pub last_saved: AtomicI64,
    pub checked: AtomicI64,
    pub pidfd: Mutex<Option<OwnedFd>>,
    /// Its threads in the cache, but for the leader.
    threads: Mutex<Vec<u32>>,
    /// Serialises [`super::Sink::save`], so that a newer state is never overwritten by an older one; and the same for [`super::Sink::see`].
    pub saving: Mutex<()>,
    pub seeing: Mutex<()>,
    pub state: Mutex<State>,
}

/// What changes about a process.
pub struct State {
    /// `last` in here is stale: [`Entry::last`] counts.
    pub actor: Actor,
    pub mark: ImageMark,
    /// On the monotonic clock: the details are of this moment, or of one a little later.
    pub read_ns: u64,
    /// Its paths mean the same here: it has our root directory and our mounts.
    pub here: bool,
    /// The wait status that the connector reported.
    pub status: Option<i32>,
}

impl State {
    /// Puts what the process ran until now among the earlier images.
    pub fn retire_image(&mut self, until: Time) {
        let actor = &mut self.actor;
        let image = Image { until, exe: std::mem::take(&mut actor.exe), argv: std::mem::take(&mut actor.argv) };
        actor.argv_truncated = false;
        actor.version = None;
        actor.prompts = false;
        if image.exe.is_empty() && image.argv.is_empty() {
            return;
        }
        if actor.images.len() >= MAX_IMAGES {
            actor.images.remove(0);
        }
        actor.images.push(image);
    }
}

impl Entry {
    pub fn new(state: State, pidfd: Option<OwnedFd>) -> Entry {
        let actor = &state.actor;
        let last = actor.last.as_nanos();
        Entry {
            id: actor.id,
            pid: actor.pid,
            start: actor.start,
            first: actor.first.as_nanos(),
            ended: AtomicBool::new(actor.exit.is_some()),
            departed: AtomicBool::new(false),
            watched: AtomicBool::new(pidfd.is_some()),
            queued: AtomicBool::new(false),
            inherited: AtomicBool::new(actor.details == Details::Inherited),
            saved: AtomicBool::new(false),
            last: AtomicI64::new(last),
            last_saved: AtomicI64::new(last),
            checked: AtomicI64::new(last),
            pidfd: Mutex::new(pidfd),
            threads: Mutex::new(Vec::new()),
            saving: Mutex::new(()),
            seeing: Mutex::new(()),
            state: Mutex::new(state),
        }
    }

    /// One that the sink knows from an earlier run.
    pub fn known(state: State, pidfd: Option<OwnedFd>) -> Entry {
        let entry = Entry::new(state, pidfd);
        entry.saved.store(true, Ordering::Relaxed);
        entry
    }

    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub fn touch(&self, now: i64) {
        self.last.store(now, Ordering::Relaxed);
    }

    /// The actor as of now.
    pub fn snapshot(&self) -> Actor {
        let mut actor = self.state.lock().actor.clone();
        actor.last = Time::from_nanos(self.last.load(Ordering::Relaxed));
        actor
    }
}

/// The processes: the live ones by pid, and all that are remembered by id.
#[derive(Default)]
pub struct Table {
    by_pid: FxHashMap<u32, Arc<Entry>>,
    by_id: FxHashMap<ActorId, Arc<Entry>>,
    ended: VecDeque<ActorId>,
}

/// What [`Table::insert`] did.
pub enum Inserted {
    New,
    /// In the place of another process that had the same pid.
    Replaced(Arc<Entry>),
    /// The process was there already: another thread was faster.
    Present(Arc<Entry>),
}

impl Table {
    pub fn by_pid(&self, pid: u32) -> Option<Arc<Entry>> {
        self.by_pid.get(&pid).cloned()
    }

    pub fn by_id(&self, id: ActorId) -> Option<Arc<Entry>> {
        self.by_id.get(&id).cloned()
    }

    pub fn insert(&mut self, entry: &Arc<Entry>) -> Inserted {
        if let Some(present) = self.by_pid.get(&entry.pid).filter(|present| present.start == entry.start) {
            return Inserted::Present(Arc::clone(present));
        }
        self.by_id.insert(entry.id, Arc::clone(entry));
        match self.by_pid.insert(entry.pid, Arc::clone(entry)) {
            None => Inserted::New,
            Some(old) => Inserted::Replaced(old),
        }
    }

    /// Takes an ended process out of the live ones; the longest ended is forgotten when there are too many.
    pub fn retire(&mut self, entry: &Arc<Entry>) {
        self.forget_pid(entry);
        self.remember(entry);
    }

    /// Counts a process among the ended, but leaves it under its pid: one that was gone before it could be read, so that
    /// the next question for the same pid gets the same answer.
    pub fn remember(&mut self, entry: &Arc<Entry>) {
        self.ended.push_back(entry.id);
        if self.ended.len() > REMEMBERED
            && let Some(oldest) = self.ended.pop_front()
            && let Some(oldest) = self.by_id.remove(&oldest)
        {
            self.forget_pid(&oldest);
        }
    }

    pub fn all(&self) -> Vec<Arc<Entry>> {
        self.by_id.values().cloned().collect()
    }

    fn forget_pid(&mut self, entry: &Arc<Entry>) {
        if self.by_pid.get(&entry.pid).is_some_and(|present| Arc::ptr_eq(present, entry)) {
            self.by_pid.remove(&entry.pid);
        }
    }
}

/// The cache from thread to process, in shards so that requests of different threads do not meet.
pub struct Tids {
    shards: Box<[Shard; SHARDS]>,
}

const SHARDS: usize = 64;

#[derive(Default)]
#[repr(align(64))]
struct Shard(Mutex<FxHashMap<u32, Cached>>);

struct Cached {
    entry: Arc<Entry>,
    /// When it was last certain that the thread belongs to the process.
    verified: i64,
}

/// What the cache says of a thread.
pub enum Hit {
    Known(ActorId),
    /// Known, and its details are old: worth another look, in the background.
    Stale(Arc<Entry>),
    /// Known as a child that was just forked: it may have called execve since, and be gone before the kernel's word of that is heard.
    Forked(Arc<Entry>),
    /// Known long ago; whether the number still means the same thread has to be checked.
    Unsure(Arc<Entry>),
    Unknown,
}

impl Tids {
    pub fn new() -> Tids {
        Tids { shards: Box::new(std::array::from_fn(|_| Shard::default())) }
    }

    fn shard(&self, tid: u32) -> &Mutex<FxHashMap<u32, Cached>> {
        let index = tid as usize % SHARDS;
        &self.shards.get(index).expect("a remainder of the number of shards").0
    }

    /// The hot path: one lock, one lookup, no system call. `execs_reported`: no need to look for a new image ourselves.
    pub fn hit(&self, tid: u32, now: i64, execs_reported: bool) -> Hit {
        let shard = self.shard(tid).lock();
        let Some(cached) = shard.get(&tid) else { return Hit::Unknown };
        let entry = &cached.entry;
        if entry.is_ended() {
            return Hit::Unknown;
        }
        // All pids can be given out anew in a few seconds, and the end of a process may take a moment to be processed.
        if older(cached.verified, now) {
            return Hit::Unsure(Arc::clone(entry));
        }
        entry.touch(now);
        if entry.inherited.load(Ordering::Relaxed) && (0..=YOUNG_NS).contains(&now.wrapping_sub(entry.first)) {
            return Hit::Forked(Arc::clone(entry));
        }
        if !execs_reported && older(entry.checked.load(Ordering::Relaxed), now) && !entry.queued.load(Ordering::Relaxed)
        {
            return Hit::Stale(Arc::clone(entry));
        }
        Hit::Known(entry.id)
    }

    pub fn put(&self, tid: u32, entry: &Arc<Entry>, now: i64) {
        self.shard(tid).lock().insert(tid, Cached { entry: Arc::clone(entry), verified: now });
        if tid == entry.pid {
            return;
        }
        let crowd = {
            let mut threads = entry.threads.lock();
            if threads.len() < MAX_THREADS {
                if !threads.contains(&tid) {
                    threads.push(tid);
                }
                return;
            }
            std::mem::replace(&mut *threads, vec![tid])
        };
        for old in crowd.into_iter().filter(|&old| old != tid) {
            self.remove_of(old, entry);
        }
    }

    /// Forgets a thread, whatever it belonged to.
    pub fn remove(&self, tid: u32) {
        let removed = self.shard(tid).lock().remove(&tid);
        if let Some(cached) = removed {
            cached.entry.threads.lock().retain(|&thread| thread != tid);
        }
    }

    /// Forgets every thread of a process.
    pub fn remove_all(&self, entry: &Arc<Entry>) {
        let threads = std::mem::take(&mut *entry.threads.lock());
        for tid in threads.into_iter().chain([entry.pid]) {
            self.remove_of(tid, entry);
        }
    }

    fn remove_of(&self, tid: u32, entry: &Arc<Entry>) {
        let mut shard = self.shard(tid).lock();
        if shard.get(&tid).is_some_and(|cached| Arc::ptr_eq(&cached.entry, entry)) {
            shard.remove(&tid);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.lock().len()).sum()
    }
}

/// Whether `then` is out of trust at `now`; a clock set back makes it so too.
fn older(then: i64, now: i64) -> bool {
    !(0..=TRUST_NS).contains(&now.wrapping_sub(then))
}
