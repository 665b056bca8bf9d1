//! Who does it: the process behind every request, known by (tgid, start time), with its command line, parents and end.
//!
//! FUSE names a *thread*; [`Actors::resolve`] turns it into a process before the request is answered, while the caller is
//! blocked and therefore still there. A background thread follows what happens to the processes seen: fork, exec, exit.
//! Knows nothing of files, handles, events or the store: what must be kept goes through [`Sink`].
//!
//! Locks, outermost first: an entry's `saving`, an entry's `state`; everything else (the table, a shard of the thread
//! cache, an entry's pidfd) is a leaf. `/proc` is read and [`Sink`] is called under none of them, but for `saving` around
//! [`Sink::save`].

mod adopt;
pub mod agents;
pub mod codec;
mod errands;
pub(crate) mod files;
mod lineage;
pub mod own;
pub(crate) mod procfs;
pub mod redact;
mod resolve;
mod table;
#[cfg(test)]
mod tests;
mod version;
mod watch;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::types::{ActorId, Time};
pub use resolve::Closing;
use resolve::Shared;

/// How much may be read about a process while its request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Command line, executable and working directory too.
    Full,
    /// Only what takes no lock of the process: for requests that it may make while it holds its `mmap_lock` (page faults)
    /// or is inside execve. The rest follows from the background thread.
    Minimal,
}

/// How the command line, executable and working directory are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Details {
    /// Read from the process itself. What the daemon may not see (another user's `exe` and `cwd`) is empty.
    Full,
    /// Taken over from the parent: a fork child that had not called execve.
    Inherited,
    /// The process was gone, or is a kernel thread.
    Missing,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// It is gone and nobody could say how.
    Unknown,
}

impl Exit {
    /// From a wait status, as in wait(2).
    pub(crate) fn from_status(status: i32) -> Exit {
        match status & 0x7f {
            0 => Exit::Code((status >> 8) & 0xff),
            signal => Exit::Signal(signal),
        }
    }
}

/// What a process ran before an execve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// When the next image took its place.
    pub until: Time,
    pub exe: Vec<u8>,
    pub argv: Vec<Vec<u8>>,
}

/// Earlier images that an actor keeps; the oldest goes first.
pub const MAX_IMAGES: usize = 16;

/// Bytes of a variable's value that are kept.
pub const MARK_BYTES: usize = 128;

impl Actor {
    /// The value of a variable in its environment, if that is one of those that are kept.
    pub fn variable(&self, name: &str) -> Option<&[u8]> {
        self.marks.iter().find(|(has, _)| has == name.as_bytes()).map(|(_, value)| value.as_slice())
    }
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    pub id: ActorId,
    /// The thread-group id.
    pub pid: u32,
    /// Clock ticks since boot (field 22 of `/proc/PID/stat`); 0 when the process was gone before it could be read.
    pub start: u64,
    /// At first sight; a process whose parent died is then a child of its reaper.
    pub ppid: u32,
    pub parent: Option<ActorId>,
    /// The effective user id.
    pub uid: u32,
    /// Its session, as of setsid(2): the pid of the process that began it; 0 when it could not be read.
    pub sid: u32,
    /// The number of its terminal; 0 when it has none.
    pub tty: u32,
    /// A shell that somebody types commands into: it was given neither a script nor a command, and its standard input is a terminal.
    pub prompts: bool,
    pub comm: Vec<u8>,
    pub exe: Vec<u8>,
    /// At most 64 KiB in 256 arguments, without secrets (`redact.rs`).
    pub argv: Vec<Vec<u8>>,
    pub argv_truncated: bool,
    pub cwd: Vec<u8>,
    /// Variables in its environment by which agents are told (`agents.rs`), with their values, at most [`MARK_BYTES`] of each.
    pub marks: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of the agent that it is; found a little after it was first seen (`version.rs`). Letters, digits and `.-+_`, never empty.
    pub version: Option<Vec<u8>>,
    /// Earlier images, oldest first, at most [`MAX_IMAGES`].
    pub images: Vec<Image>,
    pub first: Time,
    /// The last request. For an ancestor that made none, `first`.
    pub last: Time,
    pub exit: Option<Exit>,
    /// When the exit was noticed; set with `exit`.
    pub exit_at: Option<Time>,
    pub details: Details,
}

/// Who is told. Callable from any thread; a callback may use [`Actors`] again, except that [`Sink::save`] must not.
pub trait Sink: Send + Sync {
    /// A number never given before, in this run or another. Some are never used.
    fn next_id(&self) -> ActorId;
    /// What is known of a process now; called when it is new and on changes, before [`Sink::save`]. Calls for one actor never overlap. Must not wait.
    fn see(&self, actor: &Actor);
    /// Inserts or replaces; called before the id is first returned, and on changes. Calls for one actor never overlap.
    fn save(&self, actor: &Actor);
    /// A known live process made a child process (not a thread). From the background thread, in the order of the kernel.
    fn forked(&self, parent: ActorId, child_pid: u32, at_monotonic_ns: u64);
    /// The process is gone, and that was told before. Only what its files tell may still follow.
    fn exited(&self, actor: ActorId);
    /// The kernel dropped events of processes: calls of `forked` may be missing just before now.
    fn gap(&self, reason: &str);
}

/// What to use of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Listen to the process connector, where it works.
    pub connector: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { connector: true }
    }
}

/// The processes known, and the thread that follows them.
pub struct Actors {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Actors {
    /// Starts the background threads. To be called in the process that will serve requests: after any fork.
    pub fn start(sink: Arc<dyn Sink>, options: Options) -> io::Result<Arc<Actors>> {
        let (shared, watcher) = Shared::new(sink, options)?;
        let shared = Arc::new(shared);
        let errands = shared.errands.open();
        let background = Arc::clone(&shared);
        let watches = std::thread::Builder::new().name("actors".to_owned()).spawn(move || watcher.run(&background))?;
        let background = Arc::clone(&shared);
        let runs = move || background.run(&errands);
        let runs = std::thread::Builder::new().name("errands".to_owned()).spawn(runs).inspect_err(|_| {
            shared.errands.close();
            shared.request_stop();
        })?;
        Ok(Arc::new(Actors { shared, threads: Mutex::new(vec![watches, runs]) }))
    }

    /// Takes over actors of earlier runs that are still alive; the others that had not ended are saved as ended. `known` are all of them, or
    /// some. To be called before the first request.
    pub fn adopt(&self, known: Vec<Actor>) {
        self.shared.adopt(known);
    }

    /// The process of a thread, and a note that it was active now. Thread 0 is [`ActorId::KERNEL`].
    ///
    /// Never fails: a process that cannot be read any more becomes an actor with [`Details::Missing`]. Costs one lookup when
    /// the thread is known.
    pub fn resolve(&self, tid: u32, depth: Depth) -> ActorId {
        self.shared.resolve(tid, depth)
    }

    /// As [`Actors::resolve`] for a thread that closes a descriptor, which may be in the middle of an execve: then it must have
    /// its answer before `/proc` answers anybody, and what is needed to resolve it afterwards comes as the error.
    pub fn closing(&self, tid: u32) -> Result<ActorId, Closing> {
        self.shared.closing(tid)
    }

    /// The process that was closing a descriptor, even if it is gone by now. May wait for its execve.
    pub fn resolve_closed(&self, closing: Closing) -> ActorId {
        self.shared.resolve_closed(closing)
    }

    /// The process `pid`, of which a fork event says that `parent` made it, even if it is gone by now.
    pub fn resolve_child(&self, pid: u32, parent: ActorId) -> ActorId {
        self.shared.resolve_child(pid, parent)
    }

    /// An actor of this run that lives, or ended lately; older ones are in the store only.
    pub fn get(&self, id: ActorId) -> Option<Actor> {
        self.shared.get(id)
    }

    /// Whether the actor was gone before it could be read, so that its pid may have been that of a thread.
    pub fn was_never_seen(&self, id: ActorId) -> bool {
        self.shared.was_never_seen(id)
    }

    /// Whether forks and execs are reported by the kernel (the process connector is live).
    pub fn tracks_forks(&self) -> bool {
        self.shared.is_live()
    }

    /// Waits until everything that already happened to processes is processed, at most 200 ms, and saved, at most 5 s.
    pub fn drain(&self) {
        self.shared.drain();
    }

    /// Saves every actor whose last activity is not saved yet.
    pub fn flush(&self) {
        self.shared.flush();
    }

    /// Ends the background threads. Actors stay readable; exits are no longer noticed.
    pub fn stop(&self) {
        self.shared.request_stop();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A callback of the sink may drop the last handle on a background thread itself, which cannot wait for itself.
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("a thread that follows processes panicked");
            }
        }
    }
}

impl Drop for Actors {
    fn drop(&mut self) {
        self.stop();
    }
}
