//! The process behind a mount: opens the base before it is covered, serves until the mount is gone, and ends in good order.

pub mod mounts;
pub mod users;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{getegid, geteuid};

use crate::base::{Base, DirBase};
use crate::clock;
use crate::control::server::{self, Served};
use crate::control::time;
use crate::engine::{Caller, Config, Engine, Mode};
use crate::fuse::mount::{self, Unmount};
use crate::fuse::session::{Session, SessionError};
use crate::store::format::Owner;
use crate::store::{Store, StoreError};

/// How long after SIGTERM a mount that is still in use is served. Then open files in it fail with ENOTCONN.
const LAST_REQUESTS: Duration = Duration::from_secs(3);

/// What to mount, and how. All paths are absolute and without symbolic links.
#[derive(Clone, Debug)]
pub struct Mounting {
    pub repo: PathBuf,
    /// The repository itself, or another directory.
    pub mountpoint: PathBuf,
    pub store: PathBuf,
    pub mode: Mode,
}

impl Mounting {
    /// Elsewhere than over the base: then the base can still be changed by others.
    pub fn is_elsewhere(&self) -> bool {
        self.mountpoint != self.repo
    }
}

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("cannot open the repository {path}: {source}", path = .path.display())]
    Base { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("cannot open the control socket in {path}: {source}", path = .path.display())]
    Control { path: PathBuf, source: std::io::Error },
    #[error("an apply was interrupted and cannot be finished: {0}")]
    Apply(String),
    #[error("cannot watch for signals: {0}")]
    Signals(std::io::Error),
}

/// The owner that a store of this repository has.
pub fn owner(repo: &Path, base: &dyn Base) -> Result<Owner, DaemonError> {
    let stat = base.root().map_err(|e| DaemonError::Base { path: repo.to_owned(), source: e.into() })?;
    Ok(Owner { repo: repo.to_owned(), root_ino: stat.attr.ino.0, root_born: stat.born })
}

/// A mount that is up.
pub struct Running {
    engine: Arc<Engine>,
    session: Session,
}

/// Brings the mount up.
pub fn start(mounting: &Mounting) -> Result<Running, DaemonError> {
    raise_descriptor_limit();
    let open = |e: rustix::io::Errno| DaemonError::Base { path: mounting.repo.clone(), source: e.into() };
    // Before the mount: afterwards this path leads back into the mount.
    let base = Arc::new(DirBase::open(&mounting.repo).map_err(open)?);
    let store = Arc::new(Store::create_or_open(&mounting.store, &owner(&mounting.repo, &*base)?)?);
    store.space.claim(1 << 20)?;
    // For tests of what works without the process connector (containers, old kernels).
    let connector = std::env::var_os("REGENTFS_NO_CONNECTOR").is_none();
    let config = Config { mode: mounting.mode, live_base: mounting.is_elsewhere(), connector };
    let engine = Engine::start(store, base, &config)?;
    let ours = Caller { tid: std::process::id(), uid: geteuid().as_raw(), gid: getegid().as_raw() };
    if let Err(failure) = time::resume(engine.machine(), &engine.ctx_for(ours)) {
        engine.stop();
        return Err(DaemonError::Apply(failure.message));
    }
    let up = || -> Result<Session, DaemonError> {
        let session = Session::start(&engine, &mounting.repo, &mounting.mountpoint, mounting.is_elsewhere())?;
        read_ahead(&mounting.mountpoint);
        let served = Served {
            engine: engine.clone(),
            repo: mounting.repo.clone(),
            mountpoint: mounting.mountpoint.clone(),
            since: clock::now(),
        };
        let after = || -> Result<(), DaemonError> {
            server::start(&mounting.store, served)
                .map_err(|source| DaemonError::Control { path: mounting.store.clone(), source })?;
            watch_signals(engine.clone(), mounting.mountpoint.clone()).map_err(DaemonError::Signals)
        };
        if let Err(e) = after() {
            let _ = mount::unmount(&mounting.mountpoint, Unmount::Detach);
            return Err(e);
        }
        Ok(session)
    };
    match up() {
        Ok(session) => Ok(Running { engine, session }),
        Err(e) => {
            engine.stop();
            Err(e)
        }
    }
}

impl Running {
    /// Serves until the mount is gone, whoever unmounts it, and then writes down what is left.
    pub fn serve(self) {
        if let Err(error) = self.session.wait() {
            tracing::error!(%error, "the connection to the kernel broke");
        }
        self.engine.stop();
        tracing::info!("ended");
    }
}

/// SIGTERM and SIGINT unmount. A mount in use is detached and served for a little longer.
fn watch_signals(engine: Arc<Engine>, mountpoint: PathBuf) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        tracing::info!(signal, "ending");
        let gone = mount::unmount(&mountpoint, Unmount::Idle).or_else(|_| mount::unmount(&mountpoint, Unmount::Detach));
        if let Err(error) = gone {
            tracing::error!(%error, "cannot unmount");
        }
        std::thread::sleep(LAST_REQUESTS);
        engine.stop();
        std::process::exit(0);
    })?;
    Ok(())
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

/// Every open file of a caller may need one here.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
