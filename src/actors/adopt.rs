//! Processes that an earlier daemon knew and that still live: for the record they are the same.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::procfs::ImageMark;
use super::resolve::Shared;
use super::table::{Entry, Inserted, State};
use super::{Actor, Exit};
use crate::clock;
use crate::sys::pidfd;
use crate::types::ActorId;

/// Generations that are followed upwards: more are a loop.
const DEEPEST: usize = 256;

impl Shared {
    /// See [`super::Actors::adopt`].
    pub(super) fn adopt(&self, known: Vec<Actor>) {
        let booted = clock::booted();
        let known: FxHashMap<ActorId, Actor> = known.into_iter().map(|actor| (actor.id, actor)).collect();
        let mut live: Vec<(Arc<Entry>, bool)> = Vec::new();
        let mut gone: Vec<Actor> = Vec::new();
        for actor in known.values().filter(|actor| actor.exit.is_none()) {
            match self.found_again(actor) {
                // The same numbers, but from before the machine was started, or before its clock was set: not told.
                Some(_) if actor.first < booted => {}
                Some(found) => live.push(self.enter(actor, found)),
                None => gone.push(actor.clone()),
            }
        }
        // What a process belongs to follows from those above it, who come first and may have ended.
        let mut wanted: FxHashSet<ActorId> = FxHashSet::default();
        for (entry, _) in &live {
            let mut at = Some(entry.id);
            for _ in 0..DEEPEST {
                let Some(id) = at.filter(|id| wanted.insert(*id)) else { break };
                at = known.get(&id).and_then(|actor| actor.parent);
            }
        }
        let mut wanted: Vec<ActorId> = wanted.into_iter().collect();
        wanted.sort_unstable();
        for actor in wanted.iter().filter_map(|id| known.get(id)) {
            self.sink.see(actor);
        }
        let is_live: FxHashSet<ActorId> = live.iter().map(|(entry, _)| entry.id).collect();
        wanted.into_iter().filter(|id| !is_live.contains(id)).for_each(|id| self.sink.exited(id));
        for (entry, is_new) in live {
            if is_new {
                self.watch(&entry);
            }
            // It may run something else by now.
            self.look_again(&entry);
        }
        for mut actor in gone {
            // Nobody was there to see how, or when.
            actor.exit = Some(Exit::Unknown);
            actor.exit_at = Some(clock::now());
            self.sink.save(&actor);
        }
    }

    /// The live process that an actor is.
    fn found_again(&self, actor: &Actor) -> Option<OwnedFd> {
        let pidfd = pidfd::open(actor.pid).ok()?;
        let stat = self.proc.stat(actor.pid)?;
        if actor.start == 0 || stat.start != actor.start || stat.is_dead() || pidfd::exited(&pidfd) {
            return None;
        }
        Some(pidfd)
    }

    /// Puts it into the table; second, whether it was not there yet.
    fn enter(&self, actor: &Actor, pidfd: OwnedFd) -> (Arc<Entry>, bool) {
        let state = State { actor: actor.clone(), mark: ImageMark::default(), read_ns: 0, here: false, status: None };
        let entry = Arc::new(Entry::known(state, Some(pidfd)));
        let inserted = self.table.lock().insert(&entry);
        match inserted {
            Inserted::Present(present) => (present, false),
            Inserted::New | Inserted::Replaced(_) => (entry, true),
        }
    }
}
