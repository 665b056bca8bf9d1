//! Who changed what in the open epoch: nothing has two writers in one, so every state in history is one step's work.
//!
//! A writer is what a step begins with: the process at the top of a command, or the agent, the shell or the editor itself. Where a second one comes
//! to what a first one changed, the epoch has to end before. In memory only: what a daemon left behind is sealed when the next one begins.

use parking_lot::{Condvar, Mutex};
use rustc_hash::{FxHashMap, FxHashSet, FxHasher};
use smallvec::SmallVec;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::types::{ActorId, Epoch, Ino};

/// What is changed. Two names may be the same number: then an epoch ends that need not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct What(u64);

impl What {
    /// The bytes and attributes of a file.
    pub fn file(ino: Ino) -> What {
        What(ino.0 << 1)
    }

    /// The names in a directory that a new one there is made from, as editors do for what takes a file's place: `.notes.swp`, `notes~` and
    /// `notes.tmp.12` of `notes`.
    pub fn sources(dir: Ino, name: &[u8]) -> SmallVec<[What; 8]> {
        let marks = |byte: &u8| !byte.is_ascii_alphanumeric();
        let bare = name.iter().take_while(|byte| marks(byte)).count();
        let starts = (0..=bare.min(2)).filter(|at| at + 1 < name.len());
        let ends = (1..name.len()).filter(|&at| name.get(at).is_some_and(marks)).chain([name.len()]);
        let parts = starts.flat_map(|from| ends.clone().filter_map(move |to| name.get(from..to)));
        let shorter = parts.filter(|part| !part.is_empty() && part.len() < name.len());
        shorter.take(MOST_SOURCES).map(|part| What::name(dir, part)).collect()
    }

    /// What a name stands for.
    pub fn name(dir: Ino, name: &[u8]) -> What {
        let mut hasher = FxHasher::default();
        (dir.0, name).hash(&mut hasher);
        What(hasher.finish() | 1)
    }
}

/// A writer, as [`super::tended::Tended::writer`] tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Writer {
    pub id: ActorId,
    /// It is no command that will end: what it does at once is one step.
    pub lasts: bool,
}

#[derive(Default)]
struct State {
    epoch: Epoch,
    owners: FxHashMap<What, ActorId>,
    /// By writer: when it last changed something, in monotonic nanoseconds, and whether it goes on.
    writers: FxHashMap<ActorId, Active>,
    /// Who renamed a directory: everything below may have another path.
    all: Option<ActorId>,
    /// What one that lasts was done with: when it comes back to that, it is another step.
    done: FxHashSet<What>,
}

#[derive(Clone, Copy)]
struct Active {
    last: u64,
    lasts: bool,
    ended: bool,
}

impl State {
    fn at(&mut self, epoch: Epoch) -> &mut State {
        if self.epoch != epoch {
            *self = State { epoch, ..State::default() };
        }
        self
    }

    fn hinders(&self, writer: Writer, what: What) -> bool {
        self.owners.get(&what).is_some_and(|owner| *owner != writer.id)
    }
}

/// See the module. One per mount.
#[derive(Default)]
pub(crate) struct Claims {
    state: Mutex<State>,
    /// Somebody began to change something, or ended.
    news: Condvar,
    closed: AtomicBool,
    /// In place of [`QUIET`] and [`QUIET_COMMAND`].
    quiet: Option<Duration>,
}

/// Parts of a name that are looked at.
const MOST_SOURCES: usize = 64;

/// After so long without a change, what an agent or an editor did itself is a step; of a command that goes on, a part of one.
const QUIET: Duration = Duration::from_millis(300);
const QUIET_COMMAND: Duration = Duration::from_secs(3);
/// While there is something to seal, it is looked at this often at least.
const SLICE: Duration = Duration::from_millis(50);

impl Claims {
    /// `quiet` is for tests: see [`super::Config::quiet`].
    pub fn new(quiet: Option<Duration>) -> Claims {
        Claims { quiet, ..Claims::default() }
    }

    /// Notes that a writer is about to change these, and to give other contents to `anew`. With the gate passed.
    ///
    /// Returns false, and notes nothing, if the epoch has to end before.
    pub fn claim(&self, epoch: Epoch, writer: Writer, whats: &[What], anew: &[What], now: u64) -> bool {
        let mut state = self.state.lock();
        let state = state.at(epoch);
        let again = writer.lasts && anew.iter().any(|what| state.done.contains(what));
        let taken = || whats.iter().any(|what| state.hinders(writer, *what));
        if again || state.all.is_some_and(|all| all != writer.id) || taken() {
            return false;
        }
        self.take(state, writer, whats, now);
        true
    }

    /// The same for a directory that gets another path.
    pub fn claim_all(&self, epoch: Epoch, writer: Writer, whats: &[What], now: u64) -> bool {
        let mut state = self.state.lock();
        let state = state.at(epoch);
        if state.writers.keys().any(|id| *id != writer.id) {
            return false;
        }
        state.all = Some(writer.id);
        self.take(state, writer, whats, now);
        true
    }

    /// Notes it whoever else changed them.
    pub fn share(&self, epoch: Epoch, writer: Writer, whats: &[What], now: u64) {
        let mut state = self.state.lock();
        self.take(state.at(epoch), writer, whats, now);
    }

    fn take(&self, state: &mut State, writer: Writer, whats: &[What], now: u64) {
        for what in whats {
            state.owners.insert(*what, writer.id);
        }
        let idle = state.writers.is_empty();
        let active = Active { last: now, lasts: writer.lasts, ended: false };
        state.writers.entry(writer.id).or_insert(active).last = now;
        if idle {
            self.news.notify_all();
        }
    }

    /// A writer that lasts is done with something.
    pub fn done(&self, epoch: Epoch, writer: Writer, what: What) {
        if !writer.lasts {
            return;
        }
        let mut state = self.state.lock();
        // Without the gate: the epoch may be over by now, and what is noted of the next one must stay.
        if state.epoch == epoch && state.owners.get(&what) == Some(&writer.id) {
            state.done.insert(what);
        }
    }

    /// Whether others changed something in this epoch as well.
    pub fn has_others(&self, epoch: Epoch, writer: Writer) -> bool {
        let state = self.state.lock();
        state.epoch != epoch || state.writers.keys().any(|id| *id != writer.id)
    }

    /// A process ended; if it was a writer, its step is over.
    pub fn ended(&self, id: ActorId) {
        let mut state = self.state.lock();
        if let Some(active) = state.writers.get_mut(&id) {
            active.ended = true;
            self.news.notify_all();
        }
    }

    /// Nobody waits any more.
    pub fn close(&self) {
        // With the lock: who is about to wait sees it.
        let _state = self.state.lock();
        self.closed.store(true, Ordering::Release);
        self.news.notify_all();
    }

    /// Sleeps until a step may be over, or less long. Time in which this could not run either counts for nobody: a machine that stood still for a
    /// second is no writer that was quiet for one. Returns whether one is; without anything changed it sleeps without a timer.
    pub fn wait(&self, now: &dyn Fn() -> u64) -> bool {
        let mut state = self.state.lock();
        if state.writers.is_empty() && !self.closed.load(Ordering::Acquire) {
            self.news.wait(&mut state);
            return false;
        }
        let before = now();
        let Some(left) = state.writers.values().map(|a| self.left(a, before)).min() else { return false };
        if left.is_zero() {
            return true;
        }
        let slice = left.min(SLICE);
        if self.news.wait_for(&mut state, slice).timed_out() {
            let slept = Duration::from_nanos(now().saturating_sub(before));
            let late = u64::try_from(slept.saturating_sub(slice).as_nanos()).unwrap_or(u64::MAX);
            for active in state.writers.values_mut() {
                active.last = active.last.saturating_add(late).min(now());
            }
        }
        false
    }

    /// How long until the step of a writer is over, if it does nothing more.
    fn left(&self, active: &Active, now: u64) -> Duration {
        if active.ended {
            return Duration::ZERO;
        }
        let quiet = self.quiet.unwrap_or(if active.lasts { QUIET } else { QUIET_COMMAND });
        quiet.saturating_sub(Duration::from_nanos(now.saturating_sub(active.last)))
    }

    /// The epoch was sealed, or there was nothing to seal.
    pub fn sealed(&self, epoch: Epoch) {
        let mut state = self.state.lock();
        if state.epoch == epoch {
            *state = State { epoch, ..State::default() };
        }
    }

    /// It could not be sealed: everybody is given a while again.
    pub fn put_off(&self, now: u64) {
        for active in self.state.lock().writers.values_mut() {
            *active = Active { last: now, ended: false, ..*active };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Writer = Writer { id: ActorId(1), lasts: false };
    const B: Writer = Writer { id: ActorId(2), lasts: false };
    const EDITOR: Writer = Writer { id: ActorId(3), lasts: true };

    #[test]
    fn nothing_has_two_writers_in_one_epoch() {
        let claims = Claims::default();
        let (x, y) = (What::file(Ino(5)), What::name(Ino(1), b"y"));
        assert!(claims.claim(Epoch(1), A, &[x], &[], 1));
        assert!(claims.claim(Epoch(1), A, &[x, y], &[], 2));
        assert!(claims.claim(Epoch(1), B, &[What::file(Ino(6))], &[], 3));
        assert!(!claims.claim(Epoch(1), B, &[What::file(Ino(7)), y], &[], 3));
        // Of what was refused nothing is noted.
        assert!(claims.claim(Epoch(1), A, &[What::file(Ino(7))], &[], 4));
        assert!(claims.claim(Epoch(2), B, &[x, y], &[], 5));
        assert!(!claims.has_others(Epoch(2), B) && claims.has_others(Epoch(2), A));
        // Who comes late, from an epoch that is over, takes nothing away.
        claims.done(Epoch(1), A, x);
        assert!(claims.has_others(Epoch(1), B) && !claims.claim(Epoch(2), A, &[x], &[], 5));
        claims.share(Epoch(2), A, &[x], 6);
        assert!(!claims.claim(Epoch(2), B, &[x], &[], 7));
    }

    #[test]
    fn a_directory_that_moves_is_everything() {
        let claims = Claims::default();
        assert!(claims.claim_all(Epoch(1), A, &[What::file(Ino(5))], 1));
        assert!(claims.claim(Epoch(1), A, &[What::file(Ino(6))], &[], 1));
        assert!(!claims.claim(Epoch(1), B, &[What::file(Ino(7))], &[], 1));
        assert!(claims.claim(Epoch(2), B, &[What::file(Ino(7))], &[], 1));
        assert!(!claims.claim_all(Epoch(2), A, &[What::file(Ino(5))], 1));
    }

    #[test]
    fn names_that_take_another_ones_place_are_told() {
        let dir = Ino(3);
        let of = |name: &str, source: &str| {
            What::sources(dir, name.as_bytes()).contains(&What::name(dir, source.as_bytes()))
        };
        for name in [".notes.md.swp", "notes.md~", "notes.md.tmp.4711.99", ".#notes.md", "#notes.md#", "notes.md.bak"] {
            assert!(of(name, "notes.md"), "{name}");
        }
        for name in ["notes.md", "other.md", "my-notes.md", "notes.mdx", "", "."] {
            assert!(!of(name, "notes.md"), "{name}");
        }
        let long = vec![b'.'; 255];
        assert_eq!(What::sources(dir, &long).len(), MOST_SOURCES);
    }

    #[test]
    fn who_comes_back_to_what_it_was_done_with_begins_anew() {
        let claims = Claims::default();
        let x = What::file(Ino(5));
        assert!(claims.claim(Epoch(1), EDITOR, &[x], &[], 1) && claims.claim(Epoch(1), EDITOR, &[x], &[x], 2));
        claims.done(Epoch(1), EDITOR, x);
        // Its mode and its name may still change.
        assert!(claims.claim(Epoch(1), EDITOR, &[x], &[], 3));
        assert!(!claims.claim(Epoch(1), EDITOR, &[x], &[x], 3));
        assert!(claims.claim(Epoch(2), A, &[x], &[], 1));
        claims.done(Epoch(2), A, x);
        assert!(claims.claim(Epoch(2), A, &[x], &[x], 1));
    }

    #[test]
    fn a_step_is_over_when_its_command_is_or_when_it_is_quiet() {
        let (claims, x) = (Claims::default(), What::file(Ino(5)));
        let ms = |n: u64| n * 1_000_000;
        claims.claim(Epoch(1), A, &[x], &[], ms(1));
        assert!(claims.wait(&|| ms(3001)));
        claims.ended(ActorId(1));
        assert!(claims.wait(&|| ms(1)));
        claims.sealed(Epoch(1));
        claims.claim(Epoch(2), EDITOR, &[x], &[], ms(1));
        claims.ended(ActorId(1));
        assert!(claims.wait(&|| ms(301)));
        claims.put_off(ms(400));
        // A machine that stands still: the sleep takes ten seconds, and the writer still has its while.
        let clock = std::cell::Cell::new(ms(500));
        let stalls = || clock.replace(clock.get() + if clock.get() == ms(500) { ms(10_000) } else { 0 });
        assert!(!claims.wait(&stalls));
        assert!(!claims.wait(&|| ms(10_500)) && claims.wait(&|| ms(10_650)));
        claims.put_off(ms(400));
        claims.ended(ActorId(3));
        assert!(claims.wait(&|| ms(400)));
    }
}
