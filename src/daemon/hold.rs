//! The mounts of a daemon: how they come, and what happens when one goes, whoever takes it away.
//!
//! The daemon ends with the last of them. When the primary one goes, those beside it go as well: what is open in them is served until it is closed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{DaemonError, mounts};
use crate::clock;
use crate::control::host::{Host, Mount, Shows};
use crate::control::protocol::Failure;
use crate::engine::{Engine, Mode};
use crate::fuse::mount::{self, Unmount};
use crate::fuse::session;
use crate::overlay::Shown;
use crate::store::{Store, history};
use crate::timeline::branch;
use crate::timeline::names::{Names, Place};
use crate::types::At;

/// How long an answer waits for a mount to write down what is left.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module.
pub struct Hold {
    repo: PathBuf,
    list: Mutex<Vec<Arc<Mount>>>,
    gone: Condvar,
    /// Held while a mount comes or goes on request: one at a time.
    changing: Mutex<()>,
    /// For the threads that outlive a call.
    me: Weak<Hold>,
}

/// What a name means in a store; nothing for the primary.
///
/// # Errors
/// When there is no such timeline or snapshot.
pub fn shown(store: &Store, shows: &Shows) -> Result<Option<Shown>, DaemonError> {
    let kv = &*store.kv;
    Ok(match shows {
        Shows::Primary => None,
        Shows::Timeline(name) => Some(Shown::Timeline(branch::named(kv, name)?.id)),
        Shows::Snapshot(text) => {
            let names = Names::load(store, history::shown(kv)?)?;
            Some(Shown::Past(match names.find(text, clock::now()).map_err(DaemonError::Name)? {
                Place::At(at) => at,
                Place::Base => At::BASE,
                Place::Now => return Err(DaemonError::NotPast),
            }))
        }
    })
}

impl Hold {
    pub fn new(repo: &Path) -> Arc<Hold> {
        Arc::new_cyclic(|me| Hold {
            repo: repo.to_owned(),
            list: Mutex::default(),
            gone: Condvar::new(),
            changing: Mutex::new(()),
            me: me.clone(),
        })
    }

    /// Mounts what an engine shows. When that fails the engine is stopped.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn add(&self, engine: Arc<Engine>, at: &Path, primary: bool) -> Result<Arc<Mount>, DaemonError> {
        let live_base = engine.overlay().has_live_base();
        let mount = Arc::new(Mount { engine, at: at.to_owned(), primary, since: clock::now() });
        self.list.lock().push(mount.clone());
        let (hold, ending) = (self.me.clone(), mount.clone());
        let ended = move |result: std::io::Result<()>| {
            if let Err(error) = result {
                tracing::error!(%error, at = %ending.at.display(), "the connection to the kernel broke");
            }
            if let Some(hold) = hold.upgrade() {
                hold.ended(&ending);
            }
        };
        let place = session::Place { repo: &self.repo, mountpoint: at, live_base };
        if let Err(error) = session::start(&mount.engine, place, ended) {
            mount.engine.stop();
            self.forget(&mount);
            return Err(error.into());
        }
        read_ahead(at);
        Ok(mount)
    }

    fn forget(&self, mount: &Arc<Mount>) {
        self.list.lock().retain(|m| !Arc::ptr_eq(m, mount));
        self.gone.notify_all();
    }

    /// A mount is gone from the kernel.
    fn ended(&self, mount: &Arc<Mount>) {
        if mount.primary {
            let beside: Vec<_> = self.list.lock().iter().filter(|m| !Arc::ptr_eq(m, mount)).cloned().collect();
            for other in beside {
                self.take_away(&other.at);
            }
        }
        mount.engine.stop();
        tracing::info!(at = %mount.at.display(), "ended");
        self.forget(mount);
    }

    /// Waits until there is no mount any more.
    pub fn wait(&self) {
        let mut list = self.list.lock();
        while !list.is_empty() {
            self.gone.wait(&mut list);
        }
    }

    /// Unmounts all that are idle and detaches the others.
    pub fn take_all_away(&self) {
        for mount in self.backwards() {
            self.take_away(&mount.at);
        }
    }

    /// Stops all engines, whatever is still open.
    pub fn stop(&self) {
        for mount in self.backwards() {
            mount.engine.stop();
        }
    }

    /// All mounts, those that came last first.
    fn backwards(&self) -> Vec<Arc<Mount>> {
        let mut list = self.mounts();
        list.reverse();
        list
    }

    /// Unmounts, or detaches what is in use.
    fn take_away(&self, at: &Path) {
        if !self.is_in_view(at) {
            return;
        }
        let gone = mount::unmount(at, Unmount::Idle).or_else(|_| mount::unmount(at, Unmount::Detach));
        if let Err(error) = gone {
            tracing::error!(%error, at = %at.display(), "cannot unmount");
        }
    }

    /// Whether a mount can be seen at a place. One that was detached goes on without it, and then the place is free, or somebody else's.
    fn is_in_view(&self, at: &Path) -> bool {
        matches!(mounts::at(at), Ok(Some(mounted)) if mounted.repo == self.repo)
    }

    fn find(&self, at: &Path) -> Option<Arc<Mount>> {
        self.list.lock().iter().rfind(|m| m.at == at).cloned()
    }
}

fn unmount(at: &Path, lazy: bool) -> Result<(), Failure> {
    let how = if lazy { Unmount::Detach } else { Unmount::Idle };
    mount::unmount(at, how).map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => Failure::new(format!("{} is in use", at.display())),
        _ => Failure::new(format!("cannot unmount {}: {e}", at.display())),
    })
}

impl Host for Hold {
    fn repo(&self) -> &Path {
        &self.repo
    }

    fn mounts(&self) -> Vec<Arc<Mount>> {
        let mut list = self.list.lock().clone();
        list.sort_by_key(|m| !m.primary);
        list
    }

    fn mount(&self, shows: &Shows, at: &Path, mode: Option<Mode>) -> Result<Arc<Mount>, Failure> {
        let _changing = self.changing.lock();
        let list = self.mounts();
        let ending = || Failure::new("the daemon is ending: try again");
        let first = list.first().ok_or_else(ending)?;
        let primary = *shows == Shows::Primary;
        if primary && first.primary {
            return Err(Failure::new(format!("{} is already mounted at {}", self.repo.display(), first.at.display())));
        }
        if self.is_in_view(at) {
            return Err(Failure::new(format!(
                "something is mounted at {} already: give another directory",
                at.display()
            )));
        }
        let mode = mode.unwrap_or_else(|| first.engine.mode());
        // A mount over the repository covers it: then nobody else changes the base.
        let covered = at == self.repo || list.iter().any(|m| m.at == self.repo);
        let failed = |e: DaemonError| e.failure();
        let shown = shown(first.engine.overlay().store(), shows).map_err(failed)?;
        let engine = first.engine.start_beside(shown, at, mode, !covered).map_err(|e| failed(e.into()))?;
        let mount = self.add(engine, at, primary).map_err(failed)?;
        tracing::info!(at = %at.display(), ?shown, "mounted");
        Ok(mount)
    }

    fn unmount(&self, at: Option<&Path>, lazy: bool) -> Result<(), Failure> {
        let _changing = self.changing.lock();
        let Some(at) = at else {
            let mut list = self.backwards();
            list.retain(|mount| self.is_in_view(&mount.at));
            if list.is_empty() {
                let why = "what was mounted is detached and still in use: the daemon ends with its last user";
                return Err(Failure::new(why));
            }
            // The primary last: when one of the others cannot go, it stays.
            return list.iter().try_for_each(|mount| unmount(&mount.at, lazy));
        };
        let nothing = || Failure::new(format!("nothing of this daemon is mounted at {}", at.display()));
        let mount = self.find(at).ok_or_else(nothing)?;
        unmount(at, lazy)?;
        if lazy {
            return Ok(());
        }
        let mut list = self.list.lock();
        while list.iter().any(|m| Arc::ptr_eq(m, &mount)) {
            if self.gone.wait_for(&mut list, PATIENCE).timed_out() {
                return Err(Failure::new(format!(
                    "{} is unmounted, but what was seen in it is still being written",
                    at.display()
                )));
            }
        }
        Ok(())
    }
}

/// As much as one READ request may ask for.
const READ_AHEAD_KB: &str = "1024";

/// Lets the kernel ask for large pieces of large files. Only root may; others keep the kernel's default.
fn read_ahead(mountpoint: &Path) {
    let Ok(Some(mounted)) = mounts::at(mountpoint) else { return };
    let path = format!("/sys/class/bdi/{}/read_ahead_kb", mounted.device);
    if let Err(error) = std::fs::write(&path, READ_AHEAD_KB) {
        tracing::debug!(%error, path, "read-ahead stays as it is");
    }
}
