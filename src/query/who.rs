//! Who did it: to which session a process belongs, and to which command of that session.
//!
//! A session is an agent with everything that it started, or what one login shell or script started where no agent is. The outermost agent
//! counts: one that another one starts belongs to that one's session. Pure, from processes alone; nothing here is guessed from times.

use std::ops::ControlFlow;

use rustc_hash::{FxHashMap, FxHashSet};

use super::Result;
use super::actors::each_actor;
use crate::actors::Actor;
use crate::actors::agents::{self, Agent, By};
use crate::store::Store;
use crate::types::ActorId;

/// Generations inside each other more than this are a loop.
const DEEPEST: usize = 256;

/// Who is behind a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Agent(&'static Agent),
    /// With a terminal: somebody may be sitting there.
    Human,
    /// Without one.
    Script,
}

impl Kind {
    /// As in `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Agent(_) => "agent",
            Kind::Human => "human",
            Kind::Script => "script",
        }
    }
}

/// Where a process belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The process at the top of the session.
    pub session: ActorId,
    /// The process at the top of the command; `None` for the agent or the shell itself.
    pub command: Option<ActorId>,
}

/// All processes, and where each belongs.
pub struct Who {
    actors: FxHashMap<ActorId, Actor>,
    kinds: FxHashMap<ActorId, Kind>,
    places: FxHashMap<ActorId, Place>,
}

impl Who {
    /// Reads all processes of a store.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn load(store: &Store) -> Result<Who> {
        let mut actors = Vec::new();
        each_actor(store, &mut |actor| {
            actors.push(actor);
            ControlFlow::Continue(())
        })?;
        Ok(Who::of(actors))
    }

    pub fn of(actors: Vec<Actor>) -> Who {
        let actors: FxHashMap<ActorId, Actor> = actors.into_iter().map(|actor| (actor.id, actor)).collect();
        let mut who = Who { actors, kinds: FxHashMap::default(), places: FxHashMap::default() };
        let mut ids: Vec<ActorId> = who.actors.keys().copied().collect();
        ids.sort_unstable();
        // What a process is counts before what its children say, and the first of these before the others.
        let mut agents = FxHashMap::default();
        for wanted in [By::Image, By::Environment] {
            for (id, agent) in ids.iter().filter_map(|&id| who.agent_above(id, wanted)) {
                agents.entry(id).or_insert(agent);
            }
        }
        for id in ids {
            let (kind, place) = who.find(id, &agents);
            who.kinds.insert(place.session, kind);
            who.places.insert(id, place);
        }
        who
    }

    /// Takes note of processes that are new or of which more is known, and forgets those that `stays` does not hold for, but for ancestors and for the
    /// first one that tells of an agent.
    pub fn renew(&mut self, news: Vec<Actor>, stays: &dyn Fn(&Actor) -> bool) {
        self.actors.extend(news.into_iter().map(|actor| (actor.id, actor)));
        let above = |id: ActorId| self.chain(id).into_iter().map(|actor| actor.id).collect::<Vec<_>>();
        let kept: Vec<ActorId> = self.actors.values().filter(|actor| stays(actor)).map(|actor| actor.id).collect();
        let mut wanted: FxHashSet<ActorId> = kept.into_iter().flat_map(above).collect();
        let mut tell: Vec<(ActorId, ActorId)> =
            self.actors.keys().filter_map(|&id| Some((self.agent_above(id, By::Environment)?.0, id))).collect();
        tell.sort_unstable();
        tell.dedup_by_key(|(agent, _)| *agent);
        tell.retain(|(agent, _)| wanted.contains(agent));
        wanted.extend(tell.into_iter().flat_map(|(_, id)| above(id)));
        let actors = std::mem::take(&mut self.actors);
        *self = Who::of(actors.into_values().filter(|actor| wanted.contains(&actor.id)).collect());
    }

    pub fn actor(&self, id: ActorId) -> Option<&Actor> {
        self.actors.get(&id)
    }

    pub fn actors(&self) -> impl Iterator<Item = &Actor> {
        self.actors.values()
    }

    /// The process at the top of each command, and its session; one for each process of the command.
    pub fn tops(&self) -> Vec<(ActorId, ActorId)> {
        self.places.values().filter_map(|place| Some((place.command?, place.session))).collect()
    }

    /// `None` for the kernel, and for numbers that were never used.
    pub fn place(&self, id: ActorId) -> Option<Place> {
        self.places.get(&id).copied()
    }

    /// Who is behind a session, by the process at its top.
    pub fn kind(&self, session: ActorId) -> Option<Kind> {
        self.kinds.get(&session).copied()
    }

    /// A process and its ancestors, the process first.
    fn chain(&self, id: ActorId) -> Vec<&Actor> {
        let mut chain = Vec::new();
        let mut at = self.actors.get(&id);
        while let Some(actor) = at.filter(|_| chain.len() < DEEPEST) {
            chain.push(actor);
            at = actor.parent.and_then(|parent| self.actors.get(&parent));
        }
        chain
    }

    /// The process that is the agent, where this one is it or says that one started it.
    fn agent_above(&self, id: ActorId, wanted: By) -> Option<(ActorId, &'static Agent)> {
        let (agent, by) = agents::recognise(self.actors.get(&id)?).filter(|(_, by)| *by == wanted)?;
        let chain = self.chain(id);
        let is_child =
            |actor: &&&Actor| matches!(agents::recognise(actor), Some((same, By::Environment)) if same == agent);
        let children = if by == By::Image { 0 } else { chain.iter().take_while(is_child).count() };
        let above = match (children.checked_sub(1).and_then(|top| chain.get(top)), chain.get(children)) {
            (Some(top), Some(above)) => is_its_child(top, above),
            _ => true,
        };
        // Of an orphan the agent is not known: it stands for it.
        let found = if above { chain.get(children).or(chain.last()) } else { chain.get(children - 1) }?;
        Some((found.id, agent))
    }

    fn find(&self, id: ActorId, agents: &FxHashMap<ActorId, &'static Agent>) -> (Kind, Place) {
        let chain = self.chain(id);
        // The outermost one.
        let agent = chain.iter().enumerate().rev().find_map(|(at, actor)| Some((*agents.get(&actor.id)?, at)));
        if let Some((agent, top)) = agent {
            let below = chain.get(..top).unwrap_or_default();
            // What the agent consists of itself, as its own helpers, is no command.
            let is_own = |actor: &&&Actor| matches!(agents::recognise(actor), Some((own, By::Image)) if own == agent);
            let command = below.iter().rev().find(|actor| !is_own(actor)).map(|actor| actor.id);
            let session = chain.get(top).map_or(id, |actor| actor.id);
            return (Kind::Agent(agent), Place { session, command });
        }
        let Some(own) = chain.first() else { return (Kind::Script, Place { session: id, command: None }) };
        let together = chain.iter().take_while(|actor| actor.sid == own.sid || actor.sid == 0).count().max(1);
        let leader = chain.iter().take(together).position(|actor| actor.pid == own.sid).unwrap_or(together - 1);
        let session = chain.get(leader).map_or(id, |actor| actor.id);
        // A shell inside the session that somebody types into stands for the session's own.
        let shell = chain.iter().take(leader).position(|actor| actor.prompts).unwrap_or(leader);
        let command = chain.get(..shell).and_then(<[_]>::last).map(|actor| actor.id);
        let kind = if chain.get(leader).is_none_or(|top| top.tty == 0) { Kind::Script } else { Kind::Human };
        (kind, Place { session, command })
    }

    /// What a shell was given to run, by whoever started it. The last command of a script often takes the shell's place, so what the process was before
    /// counts first; but not what it has from its parent, as every child does until it calls execve.
    pub fn asked(&self, actor: &Actor) -> Option<Vec<u8>> {
        let parent = actor.parent.and_then(|id| self.actors.get(&id));
        let inherited = |argv: &&Vec<Vec<u8>>| {
            parent.is_some_and(|p| p.argv == **argv || p.images.iter().any(|image| image.argv == **argv))
        };
        let own = actor.images.iter().map(|image| &image.argv).filter(|argv| !inherited(argv));
        own.chain([&actor.argv]).find_map(|argv| agents::asked(argv))
    }

    /// What an agent calls a session, in the environment of something that it started.
    pub fn session_name(&self, session: ActorId) -> Option<String> {
        let Some(Kind::Agent(agent)) = self.kind(session) else { return None };
        let mut of_it: Vec<&Actor> =
            self.actors.values().filter(|a| self.place(a.id).is_some_and(|p| p.session == session)).collect();
        of_it.sort_by_key(|actor| actor.id);
        let name = of_it.into_iter().find_map(|actor| agent.session_of(actor))?;
        Some(String::from_utf8_lossy(name).into_owned())
    }
}

impl Who {
    /// Which version of its agent a session is: that of the process at its top, or else of the first of the agent's own that has one.
    pub fn version(&self, session: ActorId) -> Option<String> {
        let is_own = |actor: &&Actor| self.place(actor.id) == Some(Place { session, command: None });
        let known = self.actors.values().filter(is_own).filter(|actor| actor.version.is_some());
        let first = known.min_by_key(|actor| (actor.id != session, actor.id))?;
        first.version.as_ref().map(|version| String::from_utf8_lossy(version).into_owned())
    }
}

/// Whether a process was started by the one that is its parent, as far as that can be told: what lost its parent has a reaper as one, which started
/// nothing of it. A child is in its parent's session, or began one of its own.
fn is_its_child(child: &Actor, parent: &Actor) -> bool {
    const REAPERS: [&[u8]; 6] = [b"systemd", b"init", b"tini", b"dumb-init", b"docker-init", b"runit"];
    parent.pid != 1
        && !REAPERS.contains(&parent.comm.as_slice())
        && child.sid != 0
        && (child.sid == parent.sid || child.sid == child.pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::Details;
    use crate::types::Time;

    /// A process: number, parent, session, terminal, command line, marks.
    fn actor(id: u64, parent: u64, sid: u32, tty: u32, argv: &[&str], marks: &[(&str, &str)]) -> Actor {
        let bytes = |text: &str| text.as_bytes().to_vec();
        Actor {
            id: ActorId(id),
            pid: id as u32,
            start: id,
            ppid: parent as u32,
            parent: (parent > 0).then_some(ActorId(parent)),
            uid: 0,
            sid,
            tty,
            prompts: false,
            comm: Vec::new(),
            exe: format!("/usr/bin/{}", argv[0].rsplit('/').next().unwrap()).into_bytes(),
            argv: argv.iter().map(|a| bytes(a)).collect(),
            argv_truncated: false,
            cwd: Vec::new(),
            version: None,
            marks: marks.iter().map(|(name, value)| (bytes(name), bytes(value))).collect(),
            images: Vec::new(),
            first: Time::default(),
            last: Time::default(),
            exit: None,
            exit_at: None,
            details: Details::Full,
        }
    }

    const MARK: &[(&str, &str)] = &[("CLAUDECODE", "1"), ("CLAUDE_CODE_SESSION_ID", "abc")];

    /// Session, command and kind of a process.
    fn told(who: &Who, id: u64) -> (u64, Option<u64>, &'static str) {
        let place = who.place(ActorId(id)).unwrap();
        (place.session.0, place.command.map(|c| c.0), who.kind(place.session).unwrap().name())
    }

    #[test]
    fn an_agent_and_what_it_started() {
        let who = Who::of(vec![
            actor(1, 0, 1, 0, &["systemd"], &[]),
            actor(2, 1, 2, 7, &["bash"], &[]),
            actor(3, 2, 2, 7, &["node", "/usr/local/bin/claude"], &[]),
            // Its own helper.
            actor(4, 3, 2, 7, &["claude"], &[]),
            actor(5, 4, 5, 0, &["bash", "-c", "make"], MARK),
            actor(6, 5, 5, 0, &["make"], MARK),
            // Another agent that it runs is a command of the first.
            actor(7, 3, 7, 0, &["codex", "exec"], MARK),
            actor(8, 7, 8, 0, &["sh"], MARK),
            // Next to it, somebody types.
            actor(9, 2, 2, 7, &["vim"], &[]),
        ]);
        assert_eq!(told(&who, 3), (3, None, "agent"));
        assert_eq!(told(&who, 4), (3, None, "agent"));
        assert_eq!(told(&who, 5), (3, Some(5), "agent"));
        assert_eq!(told(&who, 6), (3, Some(5), "agent"));
        assert_eq!(told(&who, 7), (3, Some(7), "agent"));
        assert_eq!(told(&who, 8), (3, Some(7), "agent"));
        assert_eq!(told(&who, 9), (2, Some(9), "human"));
        assert_eq!(told(&who, 2), (2, None, "human"));
        assert_eq!(who.session_name(ActorId(3)).as_deref(), Some("abc"));
        assert_eq!(who.session_name(ActorId(2)), None);
    }

    #[test]
    fn a_shell_inside_another_one() {
        let prompts = |actor: Actor| Actor { prompts: true, ..actor };
        let who = Who::of(vec![
            actor(2, 1, 2, 7, &["sh", "-c", "bash"], &[]),
            prompts(actor(3, 2, 2, 7, &["bash"], &[])),
            actor(4, 3, 2, 7, &["make"], &[]),
            actor(5, 4, 2, 7, &["cc"], &[]),
            prompts(actor(6, 3, 2, 7, &["bash"], &[])),
            actor(7, 6, 2, 7, &["sed"], &[]),
            // Begins a session of its own.
            prompts(actor(8, 6, 8, 7, &["bash"], &[])),
            actor(9, 8, 8, 7, &["vi"], &[]),
        ]);
        let told: Vec<_> = (2..=9).map(|id| told(&who, id)).collect();
        let human = |session, command| (session, command, "human");
        let inner = [human(2, None), human(2, None), human(2, Some(4)), human(2, Some(4))];
        let outer = [human(2, None), human(2, Some(7)), human(8, None), human(8, Some(9))];
        assert_eq!(told, [inner, outer].concat());
    }

    #[test]
    fn what_a_shell_was_asked_for() {
        let image = |argv: &[&str]| crate::actors::Image {
            until: Time::default(),
            exe: b"/bin/bash".to_vec(),
            argv: argv.iter().map(|a| a.as_bytes().to_vec()).collect(),
        };
        let mut replaced = actor(3, 2, 2, 0, &["rm", "made"], &[]);
        // Forked from the script, then a shell of its own, whose last command took its place.
        replaced.images = vec![image(&["bash", "-c", "all of the script"]), image(&["bash", "-lc", "echo x; rm made"])];
        let mut child = actor(4, 2, 2, 0, &["ls"], &[]);
        child.images = vec![image(&["bash", "-c", "all of the script"])];
        let who = Who::of(vec![actor(2, 0, 2, 0, &["bash", "-c", "all of the script"], &[]), replaced, child]);
        let asked = |id| who.asked(who.actor(ActorId(id)).unwrap()).map(|a| String::from_utf8(a).unwrap());
        assert_eq!(asked(3).as_deref(), Some("echo x; rm made"));
        assert_eq!((asked(4), asked(2).as_deref()), (None, Some("all of the script")));
    }

    #[test]
    fn an_agent_that_is_only_known_by_what_it_left() {
        let who = Who::of(vec![
            actor(2, 0, 2, 7, &["bash"], &[]),
            actor(3, 2, 2, 7, &["renamed-agent"], &[]),
            actor(5, 3, 5, 0, &["bash", "-c", "ls"], MARK),
            actor(6, 5, 5, 0, &["ls"], MARK),
        ]);
        assert_eq!(told(&who, 6), (3, Some(5), "agent"));
        assert_eq!(told(&who, 5), (3, Some(5), "agent"));
        // Of an orphan the agent is not known: it stands for its session, and its reaper is none, nor what else that has.
        let who = Who::of(vec![
            actor(1, 0, 1, 0, &["systemd"], &[]),
            actor(6, 1, 6, 0, &["server"], MARK),
            actor(7, 1, 7, 9, &["-zsh"], &[]),
            actor(8, 7, 7, 9, &["vim"], &[]),
        ]);
        assert_eq!(told(&who, 6), (6, None, "agent"));
        assert_eq!(told(&who, 8), (7, Some(8), "human"));
        assert_eq!(told(&who, 1).2, "script");
        let reaped = vec![
            actor(2, 0, 2, 0, &["a-reaper"], &[]),
            actor(6, 2, 5, 0, &["server"], MARK),
            actor(7, 2, 7, 9, &["-zsh"], &[]),
        ];
        let who = Who::of(reaped);
        assert_eq!(told(&who, 6), (6, None, "agent"));
        assert_eq!((told(&who, 2).2, told(&who, 7).2), ("script", "human"));
        let who = Who::of(vec![actor(6, 0, 5, 0, &["ls"], MARK)]);
        assert_eq!(told(&who, 6), (6, None, "agent"));
    }

    #[test]
    fn scripts_and_people_are_told_apart() {
        let who = Who::of(vec![
            actor(1, 0, 1, 0, &["cron"], &[]),
            actor(2, 1, 2, 0, &["sh", "backup.sh"], &[]),
            actor(3, 2, 2, 0, &["tar"], &[]),
            actor(4, 1, 4, 9, &["-zsh"], &[]),
            actor(5, 4, 4, 9, &["git", "status"], &[]),
            // Its session's first process is gone.
            actor(6, 1, 99, 9, &["make"], &[]),
        ]);
        assert_eq!(told(&who, 3), (2, Some(3), "script"));
        assert_eq!(told(&who, 5), (4, Some(5), "human"));
        assert_eq!(told(&who, 6), (6, None, "human"));
        // A loop among parents, which only a damaged store has, ends.
        let who = Who::of(vec![actor(1, 2, 1, 0, &["a"], &[]), actor(2, 1, 1, 0, &["b"], &[])]);
        assert_eq!(who.place(ActorId(1)).unwrap().session, ActorId(1));
    }
}
