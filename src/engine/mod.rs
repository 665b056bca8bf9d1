//! Who asks, may they, do it, record it.
//!
//! The engine gives every request its actor, lets the overlay do the work and sees to it that the record knows: a change through
//! the overlay's own batch, a sight through the queue. It knows no FUSE; `fuse/` calls it with plain types.

pub mod handles;
mod hasher;
mod heirs;
pub mod io;
mod names;
pub mod open;
mod seen;
mod settle;
mod sink;
pub mod time;
mod undertaker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::actors::{Actors, Depth};
use crate::base::{Base, BaseSpace};
use crate::clock;
use crate::overlay::{Ctx, Inode, Journal, NoJournal, Overlay, Result};
use crate::record::{Observation, Queue, Record};
use crate::store::{Store, StoreError};
use crate::timeline::{Gate, Machine};
use crate::types::{ActorId, Errno, Ino, Known, Note, Op, Path};

pub use handles::{DirHandle, Handle};

/// How much is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Small files keep the page cache and count as read whole; of large ones the ranges are seen.
    Auto,
    /// Every read(2) is seen with its range.
    Exact,
    /// Nothing is recorded. For measuring what the record costs.
    Off,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::Auto => "auto",
            Mode::Exact => "exact",
            Mode::Off => "off",
        }
    }
}

/// The caller of a request, as the transport knows it.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The thread's id in the daemon's pid namespace; 0 for the kernel itself.
    pub tid: u32,
    pub uid: u32,
    pub gid: u32,
}

/// See the module.
pub struct Engine {
    pub(crate) overlay: Arc<Overlay>,
    pub(crate) mode: Mode,
    record: Option<Arc<Record>>,
    queue: Option<Queue>,
    hasher: Option<hasher::Hasher>,
    heirs: heirs::Heirs,
    actors: Mutex<Option<Arc<Actors>>>,
    /// The same as in `actors`, for the hot path.
    who: std::sync::OnceLock<Arc<Actors>>,
    pub(crate) gate: Arc<Gate>,
    machine: Machine,
    pub(crate) handles: handles::Handles,
    pub(crate) dir_handles: handles::DirHandles,
    unsettled: settle::Unsettled,
    next_handle: AtomicU64,
    stopped: AtomicBool,
}

/// What [`Engine::start`] needs besides the store.
pub struct Config {
    pub mode: Mode,
    /// The base may change behind the mount.
    pub live_base: bool,
    /// Listen to the kernel's process connector where it works. Off only in tests.
    pub connector: bool,
}

impl Engine {
    /// Opens the overlay and starts what runs beside the requests.
    pub fn start(store: Arc<Store>, base: Arc<dyn Base>, config: &Config) -> Result<Arc<Engine>, StoreError> {
        let thread_error = StoreError::io("start", "a thread");
        let (record, queue, journal): (_, _, Arc<dyn Journal>) = if config.mode == Mode::Off {
            (None, None, Arc::new(NoJournal(store.clone())))
        } else {
            let record = Arc::new(Record::open(store.clone())?);
            let queue = Queue::start(record.clone()).map_err(thread_error)?;
            (Some(record.clone()), Some(queue), record)
        };
        let overlay = Arc::new(Overlay::open(store, base, journal, config.live_base)?);
        let hasher = match config.mode {
            Mode::Off => None,
            Mode::Auto | Mode::Exact => {
                Some(hasher::Hasher::start(&overlay).map_err(StoreError::io("start", "a thread"))?)
            }
        };
        let gate = Arc::new(Gate::default());
        let engine = Arc::new(Engine {
            overlay: overlay.clone(),
            mode: config.mode,
            record,
            queue,
            hasher,
            heirs: heirs::Heirs::default(),
            actors: Mutex::new(None),
            who: std::sync::OnceLock::new(),
            machine: Machine::new(overlay.clone(), gate.clone()),
            gate,
            handles: handles::Handles::default(),
            dir_handles: handles::DirHandles::default(),
            unsettled: settle::Unsettled::default(),
            next_handle: AtomicU64::new(1),
            stopped: AtomicBool::new(false),
        });
        undertaker::start(&engine.overlay).map_err(StoreError::io("start", "a thread"))?;
        if engine.queue.is_some() {
            let options = crate::actors::Options { connector: config.connector };
            let actors = Actors::start(Arc::new(sink::EngineSink::new(&engine)), options)
                .map_err(StoreError::io("watch", "/proc"))?;
            let _ = engine.who.set(actors.clone());
            *engine.actors.lock() = Some(actors);
            heirs::start(&engine).map_err(StoreError::io("start", "a thread"))?;
            settle::start(&engine).map_err(StoreError::io("start", "a thread"))?;
            engine.begin()?;
        }
        Ok(engine)
    }

    pub fn overlay(&self) -> &Arc<Overlay> {
        &self.overlay
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Events in the record so far.
    pub fn events(&self) -> u64 {
        self.record.as_ref().map_or(0, |r| r.last_seq().0)
    }

    /// Whether forks are seen, so that FLUSH is not needed to learn who shares an open file.
    pub fn tracks_forks(&self) -> bool {
        self.mode == Mode::Off || self.who.get().is_some_and(|a| a.tracks_forks())
    }

    /// What statfs(2) shows: the base's file system. What can be written is bounded by the store's.
    pub fn space(&self) -> Result<BaseSpace> {
        Ok(self.overlay.base().space()?)
    }

    pub(crate) fn inode(&self, ino: Ino) -> Result<Arc<Inode>> {
        // Not known any more: ESTALE makes the VFS look the path up again, where ENOENT would be the final word.
        self.overlay.inode(ino).ok_or(Errno::ESTALE)
    }

    pub(crate) fn actor(&self, caller: Caller, depth: Depth) -> ActorId {
        match self.who.get() {
            Some(actors) if caller.tid != 0 => actors.resolve(caller.tid, depth),
            _ => ActorId::KERNEL,
        }
    }

    pub(crate) fn ctx(&self, caller: Caller) -> Ctx {
        self.ctx_of(caller, self.actor(caller, Depth::Full))
    }

    pub(crate) fn ctx_of(&self, caller: Caller, actor: ActorId) -> Ctx {
        Ctx { actor, uid: caller.uid, gid: caller.gid, now: clock::now(), epoch: self.overlay.epoch() }
    }

    /// Records something that was seen.
    ///
    /// # Errors
    /// When the record does not take it; then the operation must fail.
    pub(crate) fn observe(&self, actor: ActorId, note: Note) -> Result<()> {
        match &self.queue {
            Some(queue) => queue.push(Observation { time: clock::now(), epoch: self.overlay.epoch(), actor, note }),
            None => Ok(()),
        }
    }

    /// Passes a result on; a refusal is recorded with its number.
    pub(crate) fn or_refuse<T>(&self, actor: ActorId, result: Result<T>, note: impl FnOnce() -> Note) -> Result<T> {
        if let Err(errno) = result
            && self.queue.is_some()
        {
            self.observe(actor, note().with_errno(errno))?;
        }
        result
    }

    /// The record's own words at the start of a mount.
    fn begin(&self) -> Result<(), StoreError> {
        use crate::store::{Batch, Sync, Table, keys};
        let Some(record) = &self.record else { return Ok(()) };
        let now = clock::now();
        let at = |note| Observation { time: now, epoch: self.overlay.epoch(), actor: ActorId::KERNEL, note };
        let kv = &self.overlay.store().kv;
        let mut first = Vec::new();
        if kv.get(Table::Meta, &keys::mounted())?.is_some() {
            let reason = b"the daemon ended without unmounting: what was seen in its last moments may be missing";
            let note = Note::new(Op::Gap, Ino(0), Path::root()).with_path2(Path::new(reason));
            first.push(at(Note { known: Known::Inferred, ..note }));
        }
        let mut note = Note::new(Op::Mount, Ino::ROOT, Path::root());
        note.path2 = Some(Path::new(self.mode.name().as_bytes()));
        first.push(at(note));
        record.append(&first, Sync::No)?;
        let mut batch = Batch::new();
        batch.put(Table::Meta, &keys::mounted(), &std::process::id().to_le_bytes());
        kv.commit(&batch, Sync::Yes)
    }

    /// Writes down everything that is still on its way; for queries, and before the end.
    pub fn settle(&self) -> Result<()> {
        if let Some(actors) = self.who.get() {
            actors.drain();
            actors.flush();
        }
        self.heirs.drain();
        self.settle_handles(u64::MAX);
        match &self.queue {
            Some(queue) => queue.drain(),
            None => Ok(()),
        }
    }

    /// Ends in good order: after the last request, or at SIGTERM.
    pub fn stop(&self) {
        use crate::store::{Batch, Sync, Table, keys};
        if self.stopped.swap(true, Ordering::AcqRel) {
            return;
        }
        let settled = self.settle();
        self.unsettled.wake();
        if let Some(actors) = self.actors.lock().take() {
            actors.stop();
        }
        if let Some(queue) = &self.queue {
            queue.stop();
        }
        let Some(record) = &self.record else { return };
        let note = Note::new(Op::Unmount, Ino::ROOT, Path::root());
        let last = Observation { time: clock::now(), epoch: self.overlay.epoch(), actor: ActorId::KERNEL, note };
        let mut batch = Batch::new();
        batch.delete(Table::Meta, &keys::mounted());
        let written = match settled {
            Ok(()) => record
                .append(&[last], Sync::No)
                .and_then(|()| self.overlay.store().kv.commit(&batch, Sync::Yes))
                .map_err(|e| e.to_string()),
            Err(errno) => Err(errno.to_string()),
        };
        if let Err(error) = written {
            // The mark stays: the next mount records a gap.
            tracing::error!(error, "the end of the record could not be written");
        }
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    pub(crate) fn new_handle_id(&self) -> crate::types::HandleId {
        crate::types::HandleId(self.next_handle.fetch_add(1, Ordering::Relaxed))
    }
}
