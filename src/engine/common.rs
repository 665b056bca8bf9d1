//! What the mounts of one store have in common: the record and the way to it, the processes, the numbers of open files.
//!
//! Comes with the first engine and ends with the last one, whichever that is.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::scribe::{self, Scribe};
use super::tended::Tended;
use super::{Engine, sink};
use crate::actors::{Actor, Actors, Options, codec};
use crate::clock;
use crate::overlay::Result;
use crate::record::{Observation, Queue, Record};
use crate::store::{Batch, Store, StoreError, Sync, Table, keys};
use crate::timeline::Showing;
use crate::types::{ActorId, Epoch, HandleId, Ino, Known, Note, Op, Path};

/// See the module.
pub(crate) struct Common {
    store: Arc<Store>,
    pub record: Option<Arc<Record>>,
    pub queue: Option<Queue>,
    actors: Mutex<Option<Arc<Actors>>>,
    /// The same as in `actors`, for the hot path.
    who: OnceLock<Arc<Actors>>,
    pub showing: Arc<Showing>,
    pub tended: Arc<Tended>,
    pub scribe: Arc<Scribe>,
    /// See [`super::Config::quiet`].
    pub quiet: Option<Duration>,
    engines: Mutex<Vec<Weak<Engine>>>,
    next_handle: AtomicU64,
    stopped: AtomicBool,
}

impl Common {
    /// `records`: whether there is to be a record at all.
    pub fn new(store: Arc<Store>, records: bool, quiet: Option<Duration>) -> Result<Arc<Common>, StoreError> {
        let (record, queue) = if records {
            let record = Arc::new(Record::open(store.clone())?);
            let queue = Queue::start(record.clone()).map_err(StoreError::io("start", "a thread"))?;
            (Some(record), Some(queue))
        } else {
            (None, None)
        };
        Ok(Arc::new(Common {
            store,
            record,
            queue,
            actors: Mutex::new(None),
            who: OnceLock::new(),
            showing: Arc::default(),
            tended: Arc::default(),
            scribe: Arc::default(),
            quiet,
            engines: Mutex::default(),
            next_handle: AtomicU64::new(1),
            stopped: AtomicBool::new(false),
        }))
    }

    /// Begins to follow processes, and the record. With the first engine, which shows `epoch`.
    pub fn begin(self: &Arc<Common>, mode: &str, epoch: Epoch, connector: bool) -> Result<(), StoreError> {
        let Some(record) = &self.record else { return Ok(()) };
        let actors = Actors::start(Arc::new(sink::EngineSink::new(self)), Options { connector })
            .map_err(StoreError::io("watch", "/proc"))?;
        let _ = self.who.set(actors.clone());
        actors.adopt(self.met_before()?);
        *self.actors.lock() = Some(actors);
        scribe::start(self).map_err(StoreError::io("start", "a thread"))?;
        let now = clock::now();
        let at = |note| Observation { time: now, epoch, actor: ActorId::KERNEL, note };
        let kv = &self.store.kv;
        let mut first = Vec::new();
        if kv.get(Table::Meta, &keys::mounted())?.is_some() {
            let reason = b"the daemon ended without unmounting: what was seen in its last moments may be missing";
            let note = Note::new(Op::Gap, Ino(0), Path::root()).with_path2(Path::new(reason));
            first.push(at(Note { known: Known::Inferred, ..note }));
        }
        first.push(at(Note::new(Op::Mount, Ino::ROOT, Path::root()).with_path2(Path::new(mode.as_bytes()))));
        record.append(&first, Sync::No)?;
        let mut batch = Batch::new();
        batch.put(Table::Meta, &keys::mounted(), &std::process::id().to_le_bytes());
        kv.commit(&batch, Sync::Yes)
    }

    /// The processes that daemons before this one met.
    fn met_before(&self) -> Result<Vec<Actor>, StoreError> {
        let mut known = Vec::new();
        let (from, to) = keys::actors();
        self.store.kv.scan(Table::Meta, &from, &to, &mut |_, value| {
            // What cannot be read is told of where it is asked for.
            known.extend(codec::decode(value));
            ControlFlow::Continue(())
        })?;
        Ok(known)
    }

    pub fn who(&self) -> Option<&Arc<Actors>> {
        self.who.get()
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// All engines that are not stopped.
    pub fn engines(&self) -> Vec<Arc<Engine>> {
        self.engines.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// # Errors
    /// When the last engine has left.
    pub fn join(&self, engine: &Arc<Engine>) -> Result<(), StoreError> {
        let mut engines = self.engines.lock();
        if self.stopped.load(Ordering::Acquire) {
            let ended = std::io::Error::other("the daemon is ending: try again");
            return Err(StoreError::io("use", &self.store.dir)(ended));
        }
        engines.push(Arc::downgrade(engine));
        Ok(())
    }

    /// Takes an engine off the list; with the last one the record ends. `settled`: whether what that one saw is on its way.
    pub fn leave(&self, engine: &Engine, settled: Result<()>) {
        let last = {
            let mut engines = self.engines.lock();
            engines.retain(|e| !std::ptr::eq(e.as_ptr(), engine));
            engines.is_empty() && !self.stopped.swap(true, Ordering::AcqRel)
        };
        if last {
            self.end(engine.overlay().epoch(), settled);
        }
    }

    /// Takes in what agents wrote about themselves since the last time.
    pub fn read_transcripts(&self) {
        if self.record.is_some() {
            let roots: Vec<_> = self.engines().iter().map(|engine| engine.at.clone()).collect();
            self.scribe.read(&self.store, &roots);
        }
    }

    fn end(&self, epoch: Epoch, settled: Result<()>) {
        self.scribe.stop();
        if let Some(actors) = self.actors.lock().take() {
            actors.stop();
        }
        if let Some(queue) = &self.queue {
            queue.stop();
        }
        let Some(record) = &self.record else { return };
        let note = Note::new(Op::Unmount, Ino::ROOT, Path::root());
        let last = Observation { time: clock::now(), epoch, actor: ActorId::KERNEL, note };
        let mut batch = Batch::new();
        batch.delete(Table::Meta, &keys::mounted());
        let written = match settled {
            Ok(()) => record
                .append(&[last], Sync::No)
                .and_then(|()| self.store.kv.commit(&batch, Sync::Yes))
                .map_err(|e| e.to_string()),
            Err(errno) => Err(errno.to_string()),
        };
        if let Err(error) = written {
            // The mark stays: the next mount records a gap.
            tracing::error!(error, "the end of the record could not be written");
        }
    }

    /// Records something that was seen.
    ///
    /// # Errors
    /// When the record does not take it; then the operation must fail.
    pub fn observe(&self, epoch: Epoch, actor: ActorId, note: Note) -> Result<()> {
        match &self.queue {
            Some(queue) => queue.push(Observation { time: clock::now(), epoch, actor, note }),
            None => Ok(()),
        }
    }

    pub fn new_handle_id(&self) -> HandleId {
        HandleId(self.next_handle.fetch_add(1, Ordering::Relaxed))
    }
}
