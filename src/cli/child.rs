//! A command that is run on behalf of the user: nothing of it is left when it is over, and Ctrl-C ends it before this program.
//!
//! The first signal ends the command, and whoever started it goes on to clean up; a second one ends everything at once.

use std::collections::BTreeSet;
use std::io;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, waitid, waitpid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{interrupt, pager};

/// How long a command may take to end by itself.
const GRACE: Duration = Duration::from_secs(2);
/// How long what it left may take to go once it is killed.
const LEFT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

/// Watches for signals, and for the one command that runs.
#[derive(Clone, Default)]
pub struct Minder {
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    asked: AtomicBool,
    /// Set from its start until just before it is reaped, so that the number is its own.
    running: Mutex<Option<Pid>>,
    /// What is said when nothing is cleaned up any more.
    left: Mutex<String>,
}

impl State {
    fn kill(&self, pid: Option<Pid>, signal: Signal) {
        let running = self.running.lock();
        if let Some(running) = running.filter(|running| pid.is_none_or(|pid| pid == *running)) {
            let _ = kill_process(running, signal);
            let _ = kill_process(running, Signal::CONT);
        }
    }

    /// Ends the command, by force if need be.
    fn end(self: &Arc<State>) {
        self.kill(None, Signal::TERM);
        let (state, pid) = (self.clone(), *self.running.lock());
        let by_force = move || {
            std::thread::sleep(GRACE);
            state.kill(pid, Signal::KILL);
        };
        if pid.is_some() && std::thread::Builder::new().name("grace".into()).spawn(by_force).is_err() {
            self.kill(pid, Signal::KILL);
        }
    }
}

impl Minder {
    /// From now on signals are seen here.
    ///
    /// # Errors
    /// When they cannot be watched for.
    pub fn watch() -> io::Result<Minder> {
        // What a command leaves behind becomes a child of this process, and so can be found.
        rustix::process::set_child_subreaper(Some(getpid()))?;
        let minder = Minder::default();
        let state = minder.state.clone();
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for _ in signals.forever() {
                if state.asked.swap(true, Ordering::AcqRel) {
                    state.kill(None, Signal::KILL);
                    pager::remark(&format!("regentfs: not waiting any longer{}", state.left.lock()));
                    std::process::exit(interrupt::CODE.into());
                }
                pager::remark("regentfs: stopping (again: do not wait for it)");
                state.end();
            }
        })?;
        Ok(minder)
    }

    pub fn is_asked(&self) -> bool {
        self.state.asked.load(Ordering::Acquire)
    }

    /// What is left behind if this program ends without cleaning up, to be said then.
    pub fn would_leave(&self, text: String) {
        *self.state.left.lock() = text;
    }

    /// Runs a command, and then ends everything that it started and left.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, command: &mut Command) -> io::Result<ExitStatus> {
        let before = children();
        let mut child = command.spawn()?;
        let pid = Pid::from_raw(child.id().cast_signed());
        *self.state.running.lock() = pid;
        if self.is_asked() {
            self.state.end();
        }
        if let Some(pid) = pid {
            let ended = || waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            while matches!(ended(), Err(rustix::io::Errno::INTR)) {}
        }
        *self.state.running.lock() = None;
        let status = child.wait();
        end_all_but(&before);
        status
    }
}

/// The children of this process, dead ones as well.
fn children() -> BTreeSet<i32> {
    let own = getpid().as_raw_nonzero().get();
    let Ok(all) = procfs::process::all_processes() else { return BTreeSet::new() };
    all.filter_map(|process| process.ok()?.stat().ok()).filter(|stat| stat.ppid == own).map(|stat| stat.pid).collect()
}

/// Kills children until there are no others; those of one that is killed become our own.
fn end_all_but(before: &BTreeSet<i32>) {
    let mut waited = Duration::ZERO;
    loop {
        let left: Vec<Pid> = children().difference(before).filter_map(|pid| Pid::from_raw(*pid)).collect();
        if left.is_empty() || waited > LEFT {
            return;
        }
        for pid in left {
            // It is a child of ours until it is waited for: nobody else has its number.
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        std::thread::sleep(PAUSE);
        waited += PAUSE;
    }
}
