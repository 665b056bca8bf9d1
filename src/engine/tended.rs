//! Which processes belong to an agent: all that they start is followed, also what never touches the mount.

use std::collections::VecDeque;

use parking_lot::Mutex;
use rustc_hash::FxHashSet;

use crate::actors::Actor;
use crate::actors::agents::{self, By};
use crate::types::ActorId;

/// Ended processes whose children are still counted in: the kernel may tell of them late.
const REMEMBERED: usize = 4096;

/// See the module.
#[derive(Default)]
pub(crate) struct Tended {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    inside: FxHashSet<ActorId>,
    ended: VecDeque<ActorId>,
}

impl Tended {
    /// Takes note of a process, of which more may be known than before. Its parent was seen before it.
    pub fn see(&self, actor: &Actor) {
        let told = agents::recognise(actor);
        let mut state = self.state.lock();
        if matches!(told, Some((_, By::Environment)))
            && let Some(parent) = actor.parent
            // What lost its parent has a reaper as one, which may have started anything.
            && actor.ppid != 1
        {
            // If it is not the agent itself, it belongs to one as well.
            state.inside.insert(parent);
        }
        if told.is_some() || actor.parent.is_some_and(|parent| state.inside.contains(&parent)) {
            state.inside.insert(actor.id);
        }
    }

    pub fn has(&self, id: ActorId) -> bool {
        self.state.lock().inside.contains(&id)
    }

    pub fn ended(&self, id: ActorId) {
        let mut state = self.state.lock();
        if !state.inside.contains(&id) {
            return;
        }
        state.ended.push_back(id);
        if state.ended.len() > REMEMBERED
            && let Some(oldest) = state.ended.pop_front()
        {
            state.inside.remove(&oldest);
        }
    }
}
