//! What the engine does when it hears of processes: keeps them, and counts what a child inherits.

use std::sync::{Arc, Weak};

use super::Engine;
use super::common::Common;
use super::tended::Tended;
use crate::actors::{Actor, Sink, codec};
use crate::store::{Batch, Counter, Store, Sync, Table, keys};
use crate::types::{ActorId, Epoch, Ino, Known, Note, Op, Path, Range};

/// Connects the actors to the engines, without keeping them alive.
pub(crate) struct EngineSink {
    common: Weak<Common>,
    store: Arc<Store>,
    tended: Arc<Tended>,
}

impl EngineSink {
    pub fn new(common: &Arc<Common>) -> EngineSink {
        EngineSink { common: Arc::downgrade(common), store: common.store().clone(), tended: common.tended.clone() }
    }
}

impl EngineSink {
    /// If an agent is behind a process, what it writes about itself is wanted from now on.
    fn write_of(&self, actor: &Actor) {
        let Some((top, agent)) = self.tended.agent(actor.id) else { return };
        let Some(common) = self.common.upgrade() else { return };
        if let Some(name) = agent.session_of(actor) {
            common.scribe.named(name);
        }
        if top == actor.id {
            common.scribe.met(actor, agent.id);
        } else if let Some(top) = common.who().and_then(|who| who.get(top)) {
            common.scribe.met(&top, agent.id);
        }
    }
}

impl Sink for EngineSink {
    fn next_id(&self) -> ActorId {
        match self.store.counters.next(&*self.store.kv, Counter::Actor) {
            Ok(id) => ActorId(id),
            Err(error) => {
                tracing::error!(%error, "no number for a process: it is recorded as the kernel");
                ActorId::KERNEL
            }
        }
    }

    fn see(&self, actor: &Actor) {
        self.tended.see(actor);
        self.write_of(actor);
    }

    fn save(&self, actor: &Actor) {
        let mut batch = Batch::new();
        batch.put(Table::Meta, &keys::actor(actor.id), &codec::encode(actor));
        if let Err(error) = self.store.kv.commit(&batch, Sync::No) {
            tracing::error!(%error, pid = actor.pid, "a process could not be written down");
        }
    }

    fn forked(&self, parent: ActorId, child_pid: u32, at_monotonic_ns: u64) {
        let Some(common) = self.common.upgrade() else { return };
        // In whichever mount the parent has something open.
        let engines = common.engines();
        let held: Vec<_> = engines.iter().map(|e| (e, e.handles.held_at(parent, at_monotonic_ns))).collect();
        if engines.iter().any(|e| !e.handles.remembers(at_monotonic_ns)) {
            self.gap("the kernel told late of a fork: what the child inherited may be missing");
        }
        if held.iter().all(|(_, handles)| handles.is_empty()) && !self.tended.has(parent) {
            return;
        }
        let Some(actors) = common.who() else { return };
        let child = actors.resolve_child(child_pid, parent);
        for (engine, handles) in held {
            for handle in handles {
                engine.inherit(&handle, child);
            }
        }
    }

    fn exited(&self, actor: ActorId) {
        self.tended.ended(actor);
        if let Some(common) = self.common.upgrade() {
            common.scribe.ended(actor);
        }
        for engine in self.common.upgrade().iter().flat_map(|common| common.engines()) {
            engine.claims.ended(actor);
        }
    }

    fn gap(&self, reason: &str) {
        let Some(common) = self.common.upgrade() else { return };
        let epoch = common.engines().first().map_or(Epoch::BASE, |e| e.overlay.epoch());
        let note = Note::new(Op::Gap, Ino(0), Path::root()).with_path2(Path::new(reason.as_bytes()));
        if let Err(errno) = common.observe(epoch, ActorId::KERNEL, Note { known: Known::Inferred, ..note }) {
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
