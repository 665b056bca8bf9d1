//! Faults on purpose: every write, sync and commit of the store can be made to fail once, or to be the last thing the
//! process did.
//!
//! A failpoint is a name. It costs one relaxed load while nothing is armed. Tests arm it in the process
//! ([`arm`]) or from outside through the environment variable `REGENTFS_FAULT=name:nth:error|abort` of the daemon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::{Batch, Kv, Result, StoreError, Sync, Table, Visit};

/// Every failpoint there is; a test walks this list.
pub const POINTS: &[&str] = &[
    "data.create",
    "data.write",
    "data.truncate",
    "data.zero",
    "data.reserve",
    "data.sync",
    "data.remove",
    "log.commit.before",
    "log.commit.after",
    "log.sync",
    "apply.keep",
    "apply.journal",
    "apply.temp",
    "apply.commit.begin",
    "apply.step",
    "apply.step.half",
    "apply.step.after",
    "apply.dirsync",
    "apply.finish",
    "gc.batch",
    "gc.remove",
];

/// What an armed failpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The operation fails, once.
    Error,
    /// The process ends there, without any clean-up.
    Abort,
    /// The operation fails from now on, every time: a process that died, for tests that stay in one process.
    Dead,
}

#[derive(Debug, Clone)]
struct Armed {
    name: String,
    remaining: u64,
    action: Action,
    fired: bool,
}

static ACTIVE: AtomicBool = AtomicBool::new(false);
static ARMED: Mutex<Option<Armed>> = Mutex::new(None);

/// Arms the failpoint `name`: its `nth` passage (from 1) fails or ends the process.
pub fn arm(name: &str, nth: u64, action: Action) {
    *ARMED.lock() = Some(Armed { name: name.to_owned(), remaining: nth.max(1), action, fired: false });
    ACTIVE.store(true, Ordering::Release);
}

/// Disarms; returns whether the fault had happened.
pub fn disarm() -> bool {
    ACTIVE.store(false, Ordering::Release);
    ARMED.lock().take().is_some_and(|a| a.fired)
}

/// Whether a failpoint is armed.
pub fn armed() -> bool {
    ACTIVE.load(Ordering::Acquire)
}

/// Whether the armed fault has happened.
pub fn fired() -> bool {
    ARMED.lock().as_ref().is_some_and(|a| a.fired)
}

/// Arms from `REGENTFS_FAULT`, for tests of the real daemon. An unreadable value is an error in the test, so it aborts nothing
/// and is reported.
pub fn arm_from_environment() -> Option<String> {
    let value = std::env::var("REGENTFS_FAULT").ok()?;
    let mut parts = value.split(':');
    let (name, nth, action) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
    let action = match action {
        "error" => Action::Error,
        "abort" => Action::Abort,
        _ => return None,
    };
    arm(name, nth, action);
    Some(value)
}

/// Passes the failpoint `name`.
pub fn point(name: &str, error: impl FnOnce() -> StoreError) -> Result<()> {
    if !ACTIVE.load(Ordering::Relaxed) {
        return Ok(());
    }
    let mut armed = ARMED.lock();
    let Some(armed) = armed.as_mut() else { return Ok(()) };
    if armed.fired && armed.action == Action::Dead {
        return Err(error());
    }
    if armed.fired || armed.name != name {
        return Ok(());
    }
    armed.remaining -= 1;
    if armed.remaining > 0 {
        return Ok(());
    }
    armed.fired = true;
    match armed.action {
        Action::Error | Action::Dead => Err(error()),
        Action::Abort => std::process::abort(),
    }
}

/// A log with failpoints around every write.
pub struct FaultKv(pub Arc<dyn Kv>);

fn broken() -> StoreError {
    StoreError::Io { what: "write", path: "log".into(), source: std::io::Error::from_raw_os_error(libc::ENOSPC) }
}

impl Kv for FaultKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.0.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<()> {
        self.0.scan(table, from, to, visit)
    }

    fn scan_back(&self, table: Table, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<()> {
        self.0.scan_back(table, from, to, visit)
    }

    fn commit(&self, batch: &Batch, sync: Sync) -> Result<()> {
        point("log.commit.before", broken)?;
        self.0.commit(batch, sync)?;
        // Committed, but the caller hears otherwise only when the process dies here: an error now would be a lie.
        abort_point("log.commit.after");
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        point("log.sync", broken)?;
        self.0.sync()
    }

    fn disk_bytes(&self) -> u64 {
        self.0.disk_bytes()
    }
}

fn abort_point(name: &str) {
    if !ACTIVE.load(Ordering::Relaxed) {
        return;
    }
    let dies = ARMED.lock().as_ref().is_some_and(|a| a.action != Action::Error);
    if dies {
        let _ = point(name, broken);
    }
}
