//! Who asks, may they, do it, record it.
//!
//! The engine gives every request its actor, lets the overlay do the work and sees to it that the record knows: a change through
//! the overlay's own batch, a sight through the queue. It knows no FUSE; `fuse/` calls it with plain types.

mod claims;
mod common;
pub mod handles;
mod hasher;
mod heirs;
pub mod io;
mod names;
pub mod open;
mod scribe;
mod seen;
mod settle;
mod sink;
mod steps;
pub(crate) mod tended;
mod time;
mod undertaker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::actors::{Actors, Depth};
use crate::base::{Base, BaseSpace};
use crate::clock;
use crate::overlay::{Ctx, Inode, Journal, NoJournal, Overlay, Result, Shown};
use crate::record::Observation;
use crate::store::{Store, StoreError, Sync, history};
use crate::timeline::{Gate, Machine, TimeError, branch};
use crate::types::{ActorId, Errno, Ino, Note, Op, Path};

use common::Common;

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

    pub fn from_name(name: &str) -> Option<Mode> {
        [Mode::Auto, Mode::Exact, Mode::Off].into_iter().find(|mode| mode.name() == name)
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

/// See the module. One per mount.
pub struct Engine {
    pub(crate) overlay: Arc<Overlay>,
    pub(crate) mode: Mode,
    /// Where it is mounted.
    at: std::path::PathBuf,
    common: Arc<Common>,
    hasher: Option<hasher::Hasher>,
    heirs: heirs::Heirs,
    pub(crate) gate: Arc<Gate>,
    machine: Machine,
    pub(crate) handles: handles::Handles,
    pub(crate) dir_handles: handles::DirHandles,
    unsettled: settle::Unsettled,
    pub(crate) claims: claims::Claims,
    stopped: AtomicBool,
}

/// What [`Engine::start`] needs besides the store.
pub struct Config {
    pub mode: Mode,
    /// The base may change behind the mount.
    pub live_base: bool,
    /// Listen to the kernel's process connector where it works. Off only in tests.
    pub connector: bool,
    /// How long a step goes on when nothing is changed. `None`, the default, is best; tests that count snapshots need more than a busy disk takes.
    pub quiet: Option<std::time::Duration>,
}

impl Engine {
    /// Opens what is shown in place and starts what runs beside the requests.
    pub fn start(store: Arc<Store>, base: Arc<dyn Base>, config: &Config) -> Result<Arc<Engine>, StoreError> {
        let at = store.format.repo_path();
        Engine::start_at(store, base, None, &at, config)
    }

    /// The first engine of a process: for the mount in place if `shown` is nothing, to be mounted at `at`.
    ///
    /// # Errors
    /// When the store cannot be read or a thread cannot be started.
    pub fn start_at(
        store: Arc<Store>,
        base: Arc<dyn Base>,
        shown: Option<Shown>,
        at: &std::path::Path,
        config: &Config,
    ) -> Result<Arc<Engine>, StoreError> {
        let common = Common::new(store.clone(), config.mode != Mode::Off, config.quiet)?;
        let journal: Arc<dyn Journal> = match &common.record {
            Some(record) => record.clone(),
            None => Arc::new(NoJournal(store.clone())),
        };
        let overlay = match shown {
            None => Overlay::open(store, base, journal, config.live_base),
            Some(shown) => Overlay::open_shown(store, base, journal, config.live_base, shown),
        }?;
        let epoch = overlay.epoch();
        let engine = Engine::assemble(common, overlay, config.mode, shown.is_none(), at)?;
        engine.common.begin(config.mode.name(), epoch, config.connector)?;
        Ok(engine)
    }

    /// Another engine of the same store, with the record and the processes of this one: for the mount in place if `shown` is nothing.
    ///
    /// # Errors
    /// [`TimeError::Refused`] when that timeline is mounted already, or all engines have ended; what the store says.
    pub fn start_beside(
        &self,
        shown: Option<Shown>,
        at: &std::path::Path,
        mode: Mode,
        live_base: bool,
    ) -> Result<Arc<Engine>, TimeError> {
        let common = &self.common;
        let _busy = self.overlay.store().busy.lock();
        if (mode == Mode::Off) != common.record.is_none() {
            let how = if mode == Mode::Off { "records" } else { "does not record" };
            return Err(TimeError::Refused(format!("the running daemon {how}: unmount first to change that")));
        }
        let kv = &*self.overlay.store().kv;
        let what = match shown {
            Some(shown) => shown,
            None => Shown::Timeline(history::shown(kv)?),
        };
        if let Shown::Timeline(timeline) = what
            && let Some(place) = common.showing.place_of(timeline)
        {
            return Err(branch::taken(&history::timeline(kv, timeline)?.name, &place));
        }
        if let Shown::Past(at) = what {
            branch::still_there(kv, at)?;
        }
        let overlay = self.overlay.open_beside(what, live_base)?;
        let engine = Engine::assemble(common.clone(), overlay, mode, shown.is_none(), at)?;
        if let Err(error) = engine.tell_of("mount") {
            engine.stop();
            return Err(error.into());
        }
        Ok(engine)
    }

    fn assemble(
        common: Arc<Common>,
        overlay: Overlay,
        mode: Mode,
        in_place: bool,
        at: &std::path::Path,
    ) -> Result<Arc<Engine>, StoreError> {
        let thread_error = || StoreError::io("start", "a thread");
        let overlay = Arc::new(overlay);
        let hasher = match mode {
            Mode::Off => None,
            Mode::Auto | Mode::Exact => Some(hasher::Hasher::start(&overlay).map_err(thread_error())?),
        };
        let gate = Arc::new(Gate::default());
        let engine = Arc::new(Engine {
            overlay: overlay.clone(),
            mode,
            hasher,
            heirs: heirs::Heirs::default(),
            machine: Machine::beside(overlay.clone(), gate.clone(), common.showing.clone(), in_place),
            gate,
            handles: handles::Handles::default(),
            dir_handles: handles::DirHandles::default(),
            unsettled: settle::Unsettled::default(),
            claims: claims::Claims::new(common.quiet),
            stopped: AtomicBool::new(false),
            at: at.to_owned(),
            common,
        });
        undertaker::start(&engine.overlay).map_err(thread_error())?;
        if mode != Mode::Off {
            heirs::start(&engine).map_err(thread_error())?;
            settle::start(&engine).map_err(thread_error())?;
            steps::start(&engine).map_err(thread_error())?;
        }
        engine.common.join(&engine)?;
        if mode != Mode::Off {
            engine.seal_left_behind();
        }
        engine.common.showing.add(&overlay, &engine.gate, at);
        Ok(engine)
    }

    /// Records that this mount came or went, beside others that stay.
    fn tell_of(&self, what: &str) -> Result<(), StoreError> {
        use std::os::unix::ffi::OsStrExt;
        let Some(record) = &self.common.record else { return Ok(()) };
        let mut text = format!("{what} {} at ", self.machine.describe()?).into_bytes();
        text.extend_from_slice(self.at.as_os_str().as_bytes());
        let note = Note::new(Op::Timeline, Ino::ROOT, Path::root()).with_path2(Path::new(&text));
        let epoch = self.overlay.epoch();
        record.append(&[Observation { time: clock::now(), epoch, actor: ActorId::KERNEL, note }], Sync::No)
    }

    pub fn overlay(&self) -> &Arc<Overlay> {
        &self.overlay
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Events in the record so far.
    pub fn events(&self) -> u64 {
        self.common.record.as_ref().map_or(0, |r| r.last_seq().0)
    }

    /// Whether forks are seen, so that FLUSH is not needed to learn who shares an open file.
    pub fn tracks_forks(&self) -> bool {
        self.mode == Mode::Off || self.who().is_some_and(|a| a.tracks_forks())
    }

    /// What statfs(2) shows: the base's file system. What can be written is bounded by the store's.
    pub fn space(&self) -> Result<BaseSpace> {
        Ok(self.overlay.base().space()?)
    }

    pub(crate) fn inode(&self, ino: Ino) -> Result<Arc<Inode>> {
        // Not known any more: ESTALE makes the VFS look the path up again, where ENOENT would be the final word.
        self.overlay.inode(ino).ok_or(Errno::ESTALE)
    }

    pub(crate) fn who(&self) -> Option<&Arc<Actors>> {
        self.common.who()
    }

    pub(crate) fn records(&self) -> bool {
        self.common.queue.is_some()
    }

    pub(crate) fn actor(&self, caller: Caller, depth: Depth) -> ActorId {
        match self.who() {
            Some(actors) if caller.tid != 0 => actors.resolve(caller.tid, depth),
            _ => ActorId::KERNEL,
        }
    }

    pub(crate) fn ctx(&self, caller: Caller) -> Ctx {
        self.ctx_of(caller, self.actor(caller, Depth::Full))
    }

    pub(crate) fn ctx_of(&self, caller: Caller, actor: ActorId) -> Ctx {
        Ctx { actor, uid: caller.uid, gid: caller.gid, now: clock::now(), epoch: self.overlay.epoch(), shared: false }
    }

    /// Records something that was seen.
    ///
    /// # Errors
    /// When the record does not take it; then the operation must fail.
    pub(crate) fn observe(&self, actor: ActorId, note: Note) -> Result<()> {
        self.common.observe(self.overlay.epoch(), actor, note)
    }

    /// Passes a result on; a refusal is recorded with its number.
    pub(crate) fn or_refuse<T>(&self, actor: ActorId, result: Result<T>, note: impl FnOnce() -> Note) -> Result<T> {
        if let Err(errno) = result
            && self.records()
        {
            self.observe(actor, note().with_errno(errno))?;
        }
        result
    }

    /// Writes down everything that is still on its way, in this mount and those beside it; for queries, and before the end.
    pub fn settle(&self) -> Result<()> {
        if let Some(actors) = self.who() {
            actors.drain();
            actors.flush();
        }
        for engine in self.common.engines() {
            engine.heirs.drain();
            engine.settle_handles(u64::MAX);
        }
        self.common.read_transcripts();
        match &self.common.queue {
            Some(queue) => queue.drain(),
            None => Ok(()),
        }
    }

    /// Ends in good order: after the last request, or at SIGTERM. With the last engine the record ends.
    pub fn stop(&self) {
        if self.stopped.swap(true, Ordering::AcqRel) {
            return;
        }
        let settled = self.settle();
        if self.mode != Mode::Off {
            self.seal_step("the end of the mount", steps::LAST);
        }
        self.unsettled.wake();
        self.claims.close();
        self.common.showing.remove(&self.overlay);
        if self.common.engines().len() > 1
            && let Err(error) = self.tell_of("unmount")
        {
            tracing::error!(%error, "the end of a mount could not be recorded");
        }
        self.common.leave(self, settled);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    pub(crate) fn new_handle_id(&self) -> crate::types::HandleId {
        self.common.new_handle_id()
    }
}
