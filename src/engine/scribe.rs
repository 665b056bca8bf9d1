//! Copies what agents write about themselves into the store, while they run: their prompts and tool calls, of work in the mounted repository only.
//!
//! A transcript is a claim. What it says changes nothing in the record; what it has to do with what was seen is worked out when somebody asks
//! (`query/prompts.rs`). Other projects' prompts are not copied, and a home inside a mount is not looked at.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustc_hash::FxHashSet;

use super::common::Common;
use crate::actors::files::Files;
use crate::actors::{Actor, procfs::Proc, redact};
use crate::clock;
use crate::store::said::{self, Act, Call, Prompt, SaidSession};
use crate::store::{Batch, Store, StoreError, Sync};
use crate::transcripts::{Homes, Item, Source, Tail, What, find};
use crate::types::{ActorId, Time};

/// How often transcripts are looked at while an agent lives.
const OFTEN: Duration = Duration::from_secs(1);
/// An agent may write the last of it after its end.
const AFTERWARDS: i64 = 15_000_000_000;
/// A transcript that was last changed so long before the agent began is of something else, nanoseconds.
const BEFORE: i64 = 60_000_000_000;
/// Bytes of a prompt that are kept.
const LONGEST: usize = 256 << 10;
/// Parts of a transcript that are read at once.
const PARTS: usize = 8;
/// Bytes of an edit's new text that are kept.
const EDIT: usize = 16 << 10;
/// Items of a session that are kept until it is known where it works.
const PENDING: usize = 10_000;
/// Variables that say where agents keep their files.
const VARIABLES: [&str; 7] = [
    "CLAUDE_CONFIG_DIR",
    "CODEX_HOME",
    "GEMINI_CLI_HOME",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
    "CURSOR_CONFIG_DIR",
    "COPILOT_HOME",
];

/// An agent that was seen.
struct Known {
    id: ActorId,
    pid: u32,
    uid: u32,
    agent: &'static str,
    since: Time,
    homes: Option<Homes>,
    /// When it was found to be gone.
    ended: Option<Time>,
}

/// A session as its transcript has it.
#[derive(Default)]
struct Session {
    said: SaidSession,
    /// It works in the repository.
    here: bool,
    pending: Vec<Item>,
}

#[derive(Default)]
struct State {
    agents: Vec<Known>,
    /// By path.
    tails: HashMap<PathBuf, (&'static str, Tail)>,
    sessions: HashMap<(&'static str, String), Session>,
}

/// What was noticed since the last look; its lock is never held across anything, since requests wait for it.
#[derive(Default)]
struct News {
    met: Vec<Known>,
    ended: Vec<(ActorId, Time)>,
    /// Those that were met before.
    known: FxHashSet<ActorId>,
    /// While an agent lives, or did a moment ago.
    busy: bool,
    stopped: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Scribe {
    state: Mutex<State>,
    incoming: Mutex<News>,
    /// What agents call their sessions, in the environments of what they started here.
    names: Mutex<FxHashSet<Vec<u8>>>,
    news: Condvar,
}

impl Scribe {
    /// A process is an agent.
    pub fn met(&self, actor: &Actor, agent: &'static str) {
        let mut incoming = self.incoming.lock();
        if !incoming.known.insert(actor.id) {
            return;
        }
        let (id, pid, uid, since) = (actor.id, actor.pid, actor.uid, actor.first);
        incoming.met.push(Known { id, pid, uid, agent, since, homes: None, ended: None });
        incoming.busy = true;
        self.news.notify_all();
    }

    /// Something that an agent started says what the session is called.
    pub fn named(&self, name: &[u8]) {
        let mut names = self.names.lock();
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
    }

    pub fn ended(&self, id: ActorId) {
        let mut incoming = self.incoming.lock();
        if incoming.known.remove(&id) {
            incoming.ended.push((id, clock::now()));
        }
    }

    pub fn stop(&self) {
        self.incoming.lock().stopped = true;
        self.news.notify_all();
    }

    /// Takes in what is new. `roots` are the mountpoints.
    pub fn read(&self, store: &Store, roots: &[PathBuf]) {
        let mut state = self.state.lock();
        let now = clock::now();
        let (met, ended) = {
            let mut incoming = self.incoming.lock();
            (std::mem::take(&mut incoming.met), std::mem::take(&mut incoming.ended))
        };
        // The environment is read at once: the agent may be gone in a moment.
        state.agents.extend(met.into_iter().map(|known| Known { homes: homes_of(known.pid), ..known }));
        for (id, at) in ended {
            state.agents.iter_mut().filter(|known| known.id == id).for_each(|known| known.ended = Some(at));
        }
        state.agents.retain(|known| known.ended.is_none_or(|at| now.as_nanos() - at.as_nanos() < AFTERWARDS));
        {
            let mut incoming = self.incoming.lock();
            incoming.busy = !(state.agents.is_empty() && incoming.met.is_empty());
        }
        if state.agents.is_empty() {
            // Should one come back to an old transcript, it is read anew; what is known already stays as it is.
            state.tails.clear();
            state.sessions.clear();
            return;
        }
        let Some(files) = Files::now() else { return };
        for source in sources(&state.agents, &files) {
            let agent = source.agent;
            state.tails.entry(source.path.clone()).or_insert_with(|| (agent, Tail::new(source)));
        }
        let State { tails, sessions, .. } = &mut *state;
        let mut items: Vec<(&'static str, Item)> = Vec::new();
        for (path, (agent, tail)) in tails {
            // A large one comes in parts; what is left is for the next time.
            for _ in 0..PARTS {
                match tail.read(now) {
                    Ok(new) => items.extend(new.into_iter().map(|item| (*agent, item))),
                    Err(error) => tracing::debug!(%error, path = %path.display(), "a transcript could not be read"),
                }
                if !tail.is_behind() {
                    break;
                }
            }
        }
        if let Err(error) = self.take(store, roots, sessions, items) {
            tracing::warn!(%error, "what agents wrote about themselves could not be kept");
        }
    }

    fn take(
        &self,
        store: &Store,
        roots: &[PathBuf],
        sessions: &mut HashMap<(&'static str, String), Session>,
        items: Vec<(&'static str, Item)>,
    ) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        let mut calls: HashMap<(String, String), Call> = HashMap::new();
        for (agent, item) in items {
            let name = session_of(&item).to_owned();
            let session = sessions.entry((agent, name.clone())).or_default();
            (session.said.agent, session.said.session) = (agent.to_owned(), name.clone());
            session.here |= is_here(&item, roots) || self.names.lock().contains(name.as_bytes());
            if !session.here {
                if session.pending.len() < PENDING {
                    session.pending.push(item);
                }
                continue;
            }
            let pending = std::mem::take(&mut session.pending);
            for item in pending.into_iter().chain([item]) {
                keep(store, &mut batch, session, &mut calls, item)?;
            }
        }
        calls.values().for_each(|call| said::put_call(&mut batch, call));
        if batch.is_empty() {
            return Ok(());
        }
        store.kv.commit(&batch, Sync::No)
    }
}

fn session_of(item: &Item) -> &str {
    match item {
        Item::Session { session, .. }
        | Item::Prompt { session, .. }
        | Item::Call { session, .. }
        | Item::Done { session, .. } => session,
    }
}

/// Whether an item is of work in one of these directories.
fn is_here(item: &Item, roots: &[PathBuf]) -> bool {
    let below = |path: &Path| roots.iter().any(|root| path.starts_with(root));
    let (cwd, what) = match item {
        Item::Session { cwd, .. } | Item::Prompt { cwd, .. } => (cwd, None),
        Item::Call { cwd, what, .. } => (cwd, Some(what)),
        Item::Done { .. } => return false,
    };
    let path = match what {
        Some(What::Write { path, .. } | What::Edit { path, .. } | What::Read { path }) => Some(path),
        Some(What::Command(_) | What::Other) | None => None,
    };
    cwd.as_deref().is_some_and(below) || path.is_some_and(|path| below(path))
}

fn bytes(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes().to_vec()
}

fn redacted(text: &[u8]) -> Vec<u8> {
    redact::text(text).unwrap_or_else(|| text.to_vec())
}

fn sum(text: &[u8]) -> ([u8; 32], u64) {
    (*blake3::hash(text).as_bytes(), text.len() as u64)
}

/// Puts an item; tool calls into `calls`, since a result changes its call.
fn keep(
    store: &Store,
    batch: &mut Batch,
    session: &mut Session,
    calls: &mut HashMap<(String, String), Call>,
    item: Item,
) -> Result<(), StoreError> {
    let agent = session.said.agent.clone();
    match item {
        Item::Session { session: name, cwd, version, model } => {
            let known = said::session(&*store.kv, &agent, &name)?;
            let mut said = known.clone().unwrap_or_else(|| session.said.clone());
            said.cwd = cwd.map_or(said.cwd, |cwd| bytes(&cwd));
            said.version = version.unwrap_or(said.version);
            said.model = model.unwrap_or(said.model);
            if known.as_ref() != Some(&said) || session.said != said {
                said::put_session(batch, &said);
                session.said = said;
            }
        }
        Item::Prompt { session, id, at, cwd, text } => {
            let text = redacted(text.as_bytes());
            let text = String::from_utf8_lossy(text.get(..LONGEST).unwrap_or(&text)).into_owned();
            let cwd = cwd.map(|cwd| bytes(&cwd)).unwrap_or_default();
            said::put_prompt(batch, &Prompt { agent, session, id, at, cwd, text });
        }
        Item::Call { session, id, prompt, at, cwd, tool, what } => {
            let cwd = cwd.map(|cwd| bytes(&cwd)).unwrap_or_default();
            let act = match what {
                What::Command(script) => Act::Command(redacted(script.as_bytes())),
                What::Write { path, content } => {
                    let (hash, len) = sum(&content);
                    Act::Write { path: bytes(&path), hash, len }
                }
                What::Edit { path, old: _, new } => {
                    Act::Edit { path: bytes(&path), new: new.get(..EDIT).unwrap_or(&new).to_vec() }
                }
                What::Read { path } => Act::Read { path: bytes(&path) },
                What::Other => Act::Other,
            };
            // A result that is known stays known.
            let known = said::call(&*store.kv, &agent, &session, &id)?;
            let (done, failed) = known.map_or((None, None), |known| (known.done, known.failed));
            let key = (session.clone(), id.clone());
            calls.insert(key, Call { agent, session, id, prompt, at, cwd, tool, act, done, failed });
        }
        Item::Done { session, id, at, failed } => {
            let key = (session.clone(), id.clone());
            let known = match calls.remove(&key) {
                Some(call) => Some(call),
                None => said::call(&*store.kv, &agent, &session, &id)?,
            };
            if let Some(call) = known {
                calls.insert(key, Call { done: at.or(call.done), failed: failed.or(call.failed), ..call });
            }
        }
    }
    Ok(())
}

/// Where the user of a process has home and settings; `None` when that cannot be read.
fn homes_of(pid: u32) -> Option<Homes> {
    use std::os::unix::ffi::OsStringExt;
    let wanted = |name: &[u8]| name == b"HOME" || VARIABLES.iter().any(|known| known.as_bytes() == name);
    let found = Proc::open().ok()?.variables(pid, &wanted);
    let path = |value: Vec<u8>| PathBuf::from(std::ffi::OsString::from_vec(value));
    let mut homes = Homes::default();
    for (name, value) in found {
        match name.as_slice() {
            b"HOME" => homes.home = path(value),
            _ => homes.variables.push((String::from_utf8_lossy(&name).into_owned(), path(value))),
        }
    }
    (homes.home.is_absolute()).then_some(homes)
}

/// The transcripts of these agents' users.
fn sources(agents: &[Known], files: &Files) -> Vec<Source> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    for known in agents {
        let Some(homes) = &known.homes else { continue };
        // Where a mount of ours is in the way, nothing is looked at: it would answer this very thread.
        let Some(home) = files.real(&homes.home) else { continue };
        let real = |(name, path): &(String, PathBuf)| Some((name.clone(), files.real(path)?));
        let homes = Homes { home, variables: homes.variables.iter().filter_map(real).collect() };
        let since = Time::from_nanos(known.since.as_nanos() - BEFORE);
        // Only what belongs to the agent's own user.
        let own = |source: &Source| {
            files.real(&source.path).is_some_and(|path| path == source.path)
                && source.path.symlink_metadata().is_ok_and(|meta| meta.uid() == known.uid)
        };
        found.extend(find(&homes, &[known.agent], since).into_iter().filter(own));
    }
    found
}

/// Starts the thread that reads while agents live. It sleeps without a timer when there is none.
pub(super) fn start(common: &Arc<Common>) -> std::io::Result<()> {
    let weak: Weak<Common> = Arc::downgrade(common);
    let scribe = common.scribe.clone();
    std::thread::Builder::new().name("scribe".to_owned()).spawn(move || {
        loop {
            {
                let mut incoming = scribe.incoming.lock();
                if incoming.met.is_empty() && !incoming.stopped {
                    if incoming.busy {
                        scribe.news.wait_for(&mut incoming, OFTEN);
                    } else {
                        scribe.news.wait(&mut incoming);
                    }
                }
                if incoming.stopped {
                    return;
                }
            }
            let Some(common) = weak.upgrade() else { return };
            common.read_transcripts();
        }
    })?;
    Ok(())
}
