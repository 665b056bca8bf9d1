//! To which session and command a process belongs, as far as that can be told at once; and which processes are an agent's: all that those start is
//! followed, also what never touches the mount.
//!
//! What a question is answered with is worked out from the record (`query/who.rs`). Here a mistake costs a snapshot that need not have been, so
//! only what is known already counts.

use std::collections::VecDeque;

use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use super::claims::Writer;
use crate::actors::Actor;
use crate::actors::agents::{self, Agent, By};
use crate::types::ActorId;

/// Ended processes whose children are still counted in: the kernel may tell of them late.
const REMEMBERED: usize = 4096;

/// See the module.
#[derive(Default)]
pub(crate) struct Tended {
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    members: FxHashMap<ActorId, Member>,
    ended: VecDeque<ActorId>,
}

#[derive(Clone, Copy)]
struct Member {
    /// The process at the top of its command; `None` for the top of a session and its own helpers.
    command: Option<ActorId>,
    session: ActorId,
    /// Whose session it is.
    agent: Option<&'static Agent>,
    sid: u32,
}

impl Tended {
    /// Takes note of a process, of which more may be known than before. Its parent was seen before it.
    pub fn see(&self, actor: &Actor) {
        let told = agents::recognise(actor);
        let mut state = self.state.write();
        let parent = actor.parent.and_then(|id| Some((id, *state.members.get(&id)?)));
        let member = |session, command, agent| Member { command, session, agent, sid: actor.sid };
        let top = |agent| member(actor.id, None, agent);
        let found = match (told, parent) {
            (told, Some((_, above))) if above.agent.is_some() => {
                let is_helper =
                    above.command.is_none() && matches!(told, Some((own, By::Image)) if above.agent == Some(own));
                let command = if is_helper { None } else { above.command.or(Some(actor.id)) };
                member(above.session, command, above.agent)
            }
            (Some((agent, By::Image)), _) => top(Some(agent)),
            // What lost its parent has a reaper as one, which may have started anything.
            (Some((agent, By::Environment)), Some((id, above))) if actor.ppid != 1 => {
                // If that is not the agent itself, it belongs to one as well.
                let of_agent = Member { command: None, session: id, agent: Some(agent), ..above };
                state.members.insert(id, of_agent);
                member(id, Some(actor.id), Some(agent))
            }
            (Some((agent, By::Environment)), _) => top(Some(agent)),
            (None, Some((_, above))) if above.sid == actor.sid && actor.sid != 0 => {
                // A shell inside the session that somebody types into stands for the session's own.
                let command = if actor.prompts { None } else { above.command.or(Some(actor.id)) };
                member(above.session, command, None)
            }
            (None, _) => top(None),
        };
        state.members.insert(actor.id, found);
    }

    /// Whether an agent is behind it.
    pub fn has(&self, id: ActorId) -> bool {
        self.state.read().members.get(&id).is_some_and(|member| member.agent.is_some())
    }

    /// The process at the top of the session, and whose that is, if an agent is behind it.
    pub fn agent(&self, id: ActorId) -> Option<(ActorId, &'static Agent)> {
        let state = self.state.read();
        let member = state.members.get(&id)?;
        Some((member.session, member.agent?))
    }

    /// Whose step it is when this process changes something.
    pub fn writer(&self, id: ActorId) -> Writer {
        let state = self.state.read();
        match state.members.get(&id) {
            Some(Member { command: Some(command), .. }) => Writer { id: *command, lasts: false },
            Some(Member { session, .. }) => Writer { id: *session, lasts: true },
            None => Writer { id, lasts: false },
        }
    }

    pub fn ended(&self, id: ActorId) {
        let mut state = self.state.write();
        if !state.members.contains_key(&id) {
            return;
        }
        state.ended.push_back(id);
        if state.ended.len() > REMEMBERED
            && let Some(oldest) = state.ended.pop_front()
        {
            state.members.remove(&oldest);
        }
    }
}
