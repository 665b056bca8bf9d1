//! Which prompt a step goes back to. A link is proven by what was seen, or there is none.
//!
//! An agent's transcript is a claim: a tool call in it counts only together with the process or the change that the record has. In the order of strength:
//! the name of the session that the agent put into the environment of what it started; the command that a shell was given, or the file that was written,
//! being that of the tool call; the time between the call and its result. A time alone links nothing.

use rustc_hash::{FxHashMap, FxHashSet};

use super::Result;
use super::steps::{Step, StepId, Steps};
use super::who::Kind;
use crate::actors::agents;
use crate::store::Store;
use crate::store::said::{self, Act, Call, Prompt, SaidSession};
use crate::types::{ActorId, Time};

/// How a link was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The process has the name of the session in its environment, and was given the command of the call.
    EnvironmentAndContent,
    /// The command, or the file that was written with its content, is that of a call at that time, of a session of this very agent in this repository.
    Content,
    /// The process has the name of the session in its environment; which call it was is not known, but the prompt before it is.
    Environment,
}

impl Method {
    /// As in `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Method::EnvironmentAndContent => "environment+content",
            Method::Content => "content",
            Method::Environment => "environment",
        }
    }

    /// As in `--json`: `certain`, `high` or `medium`.
    pub fn confidence(self) -> &'static str {
        match self {
            Method::EnvironmentAndContent => "certain",
            Method::Content => "high",
            Method::Environment => "medium",
        }
    }
}

/// Why a step was made.
#[derive(Clone, Debug)]
pub struct Link {
    /// Which of the prompts.
    pub prompt: usize,
    pub method: Method,
    /// The tool call.
    pub call: Option<String>,
}

/// Clocks of the agent and of the record are the same; what is written down may lie a little apart, nanoseconds.
const SLACK: i64 = 2_000_000_000;
/// A command without a result in the transcript may have begun so long after its call.
const OPEN: i64 = 60_000_000_000;

/// All prompts, and which step goes back to which.
#[derive(Debug, Default)]
pub struct Links {
    pub prompts: Vec<Prompt>,
    pub sessions: Vec<SaidSession>,
    links: FxHashMap<StepId, Link>,
    /// How many prompts each of our sessions was given.
    given: FxHashMap<ActorId, u64>,
    /// The sessions that an agent's transcripts have of one of ours.
    names: FxHashMap<ActorId, FxHashSet<String>>,
}

/// What a step wrote, as far as links need it.
pub trait Written {
    /// Whether the file at a path, below the root of the mount, had this BLAKE3 hash after a step; `None` where that is not known.
    fn is(&self, step: &Step, path: &[u8], hash: &[u8; 32], len: u64) -> Option<bool>;

    /// Whether it had this text in it.
    fn contains(&self, step: &Step, path: &[u8], text: &[u8]) -> Option<bool>;
}

impl Links {
    /// # Errors
    /// When the log cannot be read.
    pub fn load(store: &Store, steps: &Steps, roots: &[Vec<u8>], written: &dyn Written) -> Result<Links> {
        let kv = &*store.kv;
        let mut prompts = said::prompts(kv)?;
        prompts.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
        let (sessions, calls) = (said::sessions(kv)?, said::calls(kv)?);
        let links = Links { prompts, sessions, ..Links::default() };
        if calls.is_empty() && links.prompts.is_empty() {
            return Ok(links);
        }
        let work = Work { steps, calls: &calls, roots, written, taken: FxHashSet::default() };
        Ok(work.find(links))
    }

    pub fn of(&self, step: StepId) -> Option<(&Link, &Prompt)> {
        let link = self.links.get(&step)?;
        Some((link, self.prompts.get(link.prompt)?))
    }

    /// What the agent's transcripts say of a session: how many prompts, and the model and version that was last told.
    pub fn of_session(&self, session: ActorId) -> (u64, Option<&SaidSession>) {
        let Some(names) = self.names.get(&session) else { return (0, None) };
        let count = self.given.get(&session).copied().unwrap_or_default();
        let said = self.sessions.iter().filter(|said| names.contains(&said.session));
        (count, said.max_by_key(|said| (!said.model.is_empty(), !said.version.is_empty(), said.session.clone())))
    }
}

struct Work<'w> {
    steps: &'w Steps,
    calls: &'w [Call],
    roots: &'w [Vec<u8>],
    written: &'w dyn Written,
    /// Calls that a step was found for.
    taken: FxHashSet<usize>,
}

impl Work<'_> {
    fn find(mut self, mut links: Links) -> Links {
        let mut steps: Vec<(&Step, &'static str, Time)> = self
            .steps
            .iter()
            .filter_map(|step| match self.steps.kind(step.session) {
                Kind::Agent(agent) => Some((step, agent.id, self.began(step)?)),
                Kind::Human | Kind::Script => None,
            })
            .collect();
        steps.sort_by_key(|(step, _, began)| (*began, step.id));
        // What is certain first: it says which of the transcripts' sessions are whose.
        for (step, agent, began) in &steps {
            let Some(name) = self.named(step) else { continue };
            links.names.entry(step.session).or_default().insert(name.clone());
            if let Some(call) = self.command(step, agent, *began, &|call| call.session == name) {
                self.link(&mut links, step, call, Method::EnvironmentAndContent);
            }
        }
        for (step, agent, began) in &steps {
            if links.links.contains_key(&step.id) || self.named(step).is_some() {
                continue;
            }
            let names = links.names.get(&step.session).cloned().unwrap_or_default();
            // A session that another agent's processes name is not this one's.
            let others: FxHashSet<&String> =
                links.names.iter().filter(|(id, _)| **id != step.session).flat_map(|(_, names)| names).collect();
            let may_be = |call: &Call| {
                if names.is_empty() { !others.contains(&call.session) } else { names.contains(&call.session) }
            };
            let found = match step.id {
                StepId::Command(_) => self.command(step, agent, *began, &may_be),
                StepId::Own { .. } => self.edit(step, agent, *began, &may_be),
            };
            if let Some(call) = found {
                if let Some(call) = self.calls.get(call) {
                    links.names.entry(step.session).or_default().insert(call.session.clone());
                }
                self.link(&mut links, step, call, Method::Content);
            }
        }
        for (step, agent, began) in &steps {
            if let Some(name) = self.named(step).filter(|_| !links.links.contains_key(&step.id)) {
                let before = |prompt: &&Prompt| {
                    prompt.agent == *agent && prompt.session == name && prompt.at.is_some_and(|at| at <= *began)
                };
                let last = links.prompts.iter().enumerate().rfind(|(_, p)| before(p)).map(|(n, _)| n);
                if let Some(prompt) = last {
                    links.links.insert(step.id, Link { prompt, method: Method::Environment, call: None });
                }
            }
        }
        links.given = self.given(&links);
        links
    }

    /// How many prompts each session was given. One that goes on with an earlier one has its name; a prompt is that one's that began last before it.
    fn given(&self, links: &Links) -> FxHashMap<ActorId, u64> {
        let mut given: FxHashMap<ActorId, u64> = FxHashMap::default();
        let mut begun: Vec<(Time, ActorId, &FxHashSet<String>)> =
            links.names.iter().filter_map(|(id, names)| Some((self.steps.who.actor(*id)?.first, *id, names))).collect();
        begun.sort_unstable_by_key(|(first, id, _)| (*first, *id));
        for prompt in &links.prompts {
            let of_it = || begun.iter().filter(|(.., names)| names.contains(&prompt.session));
            let latest = prompt.at.map_or(i64::MAX, |at| at.as_nanos().saturating_add(SLACK));
            let last = of_it().rfind(|(first, ..)| first.as_nanos() <= latest).or_else(|| of_it().next());
            if let Some((_, id, _)) = last {
                *given.entry(*id).or_default() += 1;
            }
        }
        given
    }

    fn link(&mut self, links: &mut Links, step: &Step, call: usize, method: Method) {
        self.taken.insert(call);
        let Some(call) = self.calls.get(call) else { return };
        let is_it = |prompt: &Prompt| {
            prompt.agent == call.agent && Some(&prompt.id) == call.prompt.as_ref() && prompt.session == call.session
        };
        // Of a subagent the prompt is its parent's.
        let same_id = |prompt: &Prompt| prompt.agent == call.agent && Some(&prompt.id) == call.prompt.as_ref();
        let found = links.prompts.iter().position(is_it).or_else(|| links.prompts.iter().position(same_id));
        if let Some(prompt) = found {
            links.links.insert(step.id, Link { prompt, method, call: Some(call.id.clone()) });
        }
    }

    /// When a step began, by the process or by its first change.
    fn began(&self, step: &Step) -> Option<Time> {
        match step.id {
            StepId::Command(top) => self.steps.who.actor(top).map(|actor| actor.first),
            // What it looked at before may be long ago.
            StepId::Own { .. } => step.changed.map(|(first, _)| first),
        }
    }

    /// What a step's process says that its session is called.
    fn named(&self, step: &Step) -> Option<String> {
        let StepId::Command(top) = step.id else { return None };
        let Kind::Agent(agent) = self.steps.kind(step.session) else { return None };
        let name = agent.session_of(self.steps.who.actor(top)?)?;
        Some(String::from_utf8_lossy(name).into_owned())
    }

    /// Whether a step lies between a call and its result.
    fn is_then(&self, call: &Call, began: Time, ended: Time) -> bool {
        let Some(at) = call.at else { return false };
        let latest = call.done.map_or(at.as_nanos().saturating_add(OPEN), |done| done.as_nanos().saturating_add(SLACK));
        began.as_nanos() >= at.as_nanos().saturating_sub(SLACK) && began.min(ended).as_nanos() <= latest
    }

    /// The call that a command was run for: the one with the same script that was made last before it, and that no other step has.
    fn command(&self, step: &Step, agent: &str, began: Time, may_be: &dyn Fn(&Call) -> bool) -> Option<usize> {
        let StepId::Command(top) = step.id else { return None };
        let actor = self.steps.who.actor(top)?;
        let asked = self.steps.who.asked(actor);
        let same = |call: &Call| match (&call.act, &asked) {
            (Act::Command(script), Some(asked)) => trim(script) == trim(asked),
            // A shell becomes a command that is alone, and may have been seen only then.
            (Act::Command(script), None) => agents::words(script).is_some_and(|words| words == actor.argv),
            _ => false,
        };
        self.nearest(began, &|call| call.agent == agent && may_be(call) && same(call), &|call| {
            self.is_then(call, began, began)
        })
    }

    /// The call that wrote what a step changed by itself.
    fn edit(&self, step: &Step, agent: &str, began: Time, may_be: &dyn Fn(&Call) -> bool) -> Option<usize> {
        let ended = step.changed.map_or(began, |(_, last)| last);
        let fits = |call: &Call| {
            let (Act::Write { path, .. } | Act::Edit { path, .. }) = &call.act else { return false };
            let Some(below) = self.changed(step, path, &call.cwd) else { return false };
            let has = |text: &[u8]| self.written.contains(step, below, text) == Some(true);
            match &call.act {
                Act::Write { hash, len, .. } => self.written.is(step, below, hash, *len) == Some(true),
                // Agents keep the ends of lines that a file has, and do not tell.
                Act::Edit { new, .. } => has(new) || (new.contains(&b'\n') && has(&with_returns(new))),
                Act::Command(_) | Act::Read { .. } | Act::Other => false,
            }
        };
        self.nearest(began, &|call| call.agent == agent && may_be(call) && fits(call), &|call| {
            self.is_then(call, began, ended)
        })
    }

    /// Of the calls that fit, the one that lies nearest before a time; `None` if there is none, or two of different prompts that lie alike.
    fn nearest(&self, began: Time, fits: &dyn Fn(&Call) -> bool, then: &dyn Fn(&Call) -> bool) -> Option<usize> {
        let free = |(n, call): &(usize, &Call)| !self.taken.contains(n) && fits(call) && then(call);
        let distance = |call: &Call| call.at.map_or(i64::MAX, |at| (began.as_nanos() - at.as_nanos()).abs());
        let mut found: Vec<(usize, &Call)> = self.calls.iter().enumerate().filter(free).collect();
        found.sort_by_key(|(n, call)| (distance(call), *n));
        let (first, call) = found.first()?;
        // The same command asked for in two sessions at once proves nothing.
        let ambiguous = found.iter().skip(1).any(|(_, other)| other.session != call.session);
        (!ambiguous).then_some(*first)
    }

    /// Which of the paths that a step changed is meant by an agent's. A mount may be elsewhere than the repository, and a link may lead there: then the
    /// end of the path counts.
    fn changed<'s>(&self, step: &'s Step, path: &[u8], cwd: &[u8]) -> Option<&'s [u8]> {
        let whole = if path.starts_with(b"/") { path.to_vec() } else { [cwd, b"/", path].concat() };
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in whole.split(|&b| b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let whole = [&b"/"[..], &parts.join(&b'/')].concat();
        let below = self.roots.iter().find_map(|root| whole.strip_prefix(root.as_slice())?.strip_prefix(b"/"));
        let is_it = |path: &&[u8]| match below {
            Some(below) => *path == below,
            None => whole.strip_suffix(*path).is_some_and(|above| above.ends_with(b"/")),
        };
        step.paths.iter().map(|path| path.as_bytes()).find(is_it)
    }
}

fn with_returns(text: &[u8]) -> Vec<u8> {
    text.split(|&b| b == b'\n').collect::<Vec<_>>().join(&b"\r\n"[..])
}

fn trim(script: &[u8]) -> &[u8] {
    script.trim_ascii()
}
