//! What the engine does when it hears of processes: keeps them, and counts what a child inherits.

use std::sync::{Arc, Weak};

use super::Engine;
use crate::actors::{Actor, Sink, codec};
use crate::overlay::Overlay;
use crate::store::{Batch, Counter, Sync, Table, keys};
use crate::types::{ActorId, Ino, Known, Note, Op, Path, Range};

/// Connects the actors to the engine, without keeping it alive.
pub(crate) struct EngineSink {
    engine: Weak<Engine>,
    overlay: Arc<Overlay>,
}

impl EngineSink {
    pub fn new(engine: &Arc<Engine>) -> EngineSink {
        EngineSink { engine: Arc::downgrade(engine), overlay: engine.overlay.clone() }
    }
}

impl Sink for EngineSink {
    fn next_id(&self) -> ActorId {
        let store = self.overlay.store();
        match store.counters.next(&*store.kv, Counter::Actor) {
            Ok(id) => ActorId(id),
            Err(error) => {
                tracing::error!(%error, "no number for a process: it is recorded as the kernel");
                ActorId::KERNEL
            }
        }
    }

    fn save(&self, actor: &Actor) {
        let mut batch = Batch::new();
        batch.put(Table::Meta, &keys::actor(actor.id), &codec::encode(actor));
        if let Err(error) = self.overlay.store().kv.commit(&batch, Sync::No) {
            tracing::error!(%error, pid = actor.pid, "a process could not be written down");
        }
    }

    fn forked(&self, parent: ActorId, child_pid: u32, at_monotonic_ns: u64) {
        let Some(engine) = self.engine.upgrade() else { return };
        let held = engine.handles.held_at(parent, at_monotonic_ns);
        if !engine.handles.remembers(at_monotonic_ns) {
            self.gap("the kernel told late of a fork: what the child inherited may be missing");
        }
        if held.is_empty() {
            return;
        }
        let Some(actors) = engine.who.get() else { return };
        let child = actors.resolve_child(child_pid, parent);
        for handle in held {
            engine.inherit(&handle, child);
        }
    }

    fn exited(&self, _actor: ActorId) {}

    fn gap(&self, reason: &str) {
        let Some(engine) = self.engine.upgrade() else { return };
        let note = Note::new(Op::Gap, Ino(0), Path::root()).with_path2(Path::new(reason.as_bytes()));
        if let Err(errno) = engine.observe(ActorId::KERNEL, Note { known: Known::Inferred, ..note }) {
            tracing::error!(%errno, reason, "a gap could not be recorded");
        }
    }
}

impl Engine {
    /// `actor` got hold of an open file that somebody else opened: all of it counts as read.
    pub(crate) fn inherit(&self, handle: &Arc<super::Handle>, actor: ActorId) {
        if !handle.readable || !self.handles.share(handle, actor) {
            return;
        }
        let path = self.overlay.path(&handle.inode);
        let now = handle.inode.content();
        // This may come a while after the actor's first look: what there was to see at the open counts as well.
        for content in [Some(now), Some(handle.content).filter(|&then| then != now)].into_iter().flatten() {
            let mut note = Note::new(Op::Inherit, handle.inode.ino, path.clone());
            note.known = Known::Inferred;
            note.handle = handle.id;
            note.before = content;
            note.after = content;
            note.ranges.push(Range::new(0, Range::TO_END));
            if let Err(errno) = self.observe(actor, note) {
                tracing::error!(%errno, "an inherited file could not be recorded");
            }
        }
    }
}
