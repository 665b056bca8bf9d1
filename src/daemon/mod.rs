//! The process behind the mounts of a repository: opens the base before it is covered, serves until the mounts are gone, and ends in good order.

mod collector;
mod hold;
pub mod mounts;
pub mod users;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{getegid, geteuid};

use crate::base::{Base, DirBase};
use crate::control::host::Shows;
use crate::control::protocol::Failure;
use crate::control::{server, time};
use crate::engine::{Caller, Config, Engine, Mode};
use crate::fuse::session::SessionError;
use crate::store::format::Owner;
use crate::store::{Store, StoreError};
use crate::timeline::spec::SpecError;
use crate::timeline::{TimeError, limits};

use hold::Hold;

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
    pub shows: Shows,
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
    Time(#[from] TimeError),
    #[error(transparent)]
    Name(#[from] SpecError),
    #[error("now is no snapshot: `regentfs snapshot` makes one of it, and --timeline mounts what goes on")]
    NotPast,
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("cannot open the control socket in {path}: {source}", path = .path.display())]
    Control { path: PathBuf, source: std::io::Error },
    #[error("an apply was interrupted and cannot be finished: {0}")]
    Apply(String),
    #[error("cannot watch for signals: {0}")]
    Signals(std::io::Error),
}

impl DaemonError {
    /// The same for a client.
    pub fn failure(&self) -> Failure {
        let exit = if matches!(self, DaemonError::Name(_) | DaemonError::NotPast) { 2 } else { 1 };
        Failure { message: self.to_string(), exit }
    }
}

/// The owner that a store of this repository has.
pub fn owner(repo: &Path, base: &dyn Base) -> Result<Owner, DaemonError> {
    let stat = base.root().map_err(|e| DaemonError::Base { path: repo.to_owned(), source: e.into() })?;
    Ok(Owner { repo: repo.to_owned(), root_ino: stat.attr.ino.0, root_born: stat.born })
}

/// A daemon whose mount is up.
pub struct Running {
    hold: Arc<Hold>,
    store: Arc<Store>,
}

/// Brings the mount up, and with it the daemon that others can be added to.
///
/// # Errors
/// Why there is no mount; nothing is left behind then.
pub fn start(mounting: &Mounting) -> Result<Running, DaemonError> {
    raise_descriptor_limit();
    let open = |e: rustix::io::Errno| DaemonError::Base { path: mounting.repo.clone(), source: e.into() };
    // Before the mount: afterwards this path leads back into the mount.
    let base = Arc::new(DirBase::open(&mounting.repo).map_err(open)?);
    let store = Arc::new(Store::create_or_open(&mounting.store, &owner(&mounting.repo, &*base)?)?);
    store.space.claim(1 << 20)?;
    // For tests of what works without the process connector (containers, old kernels).
    let connector = std::env::var_os("REGENTFS_NO_CONNECTOR").is_none();
    let quiet = std::env::var("REGENTFS_QUIET_MS").ok().and_then(|text| {
        let ms = text.parse().inspect_err(|_| tracing::warn!("REGENTFS_QUIET_MS={text} is no number: it is left out"));
        ms.ok().map(Duration::from_millis)
    });
    let config = Config { mode: mounting.mode, live_base: mounting.is_elsewhere(), connector, quiet };
    let shown = hold::shown(&store, &mounting.shows)?;
    let engine = Engine::start_at(store.clone(), base, shown, &mounting.mountpoint, &config)?;
    let ours = Caller { tid: std::process::id(), uid: geteuid().as_raw(), gid: getegid().as_raw() };
    if let Err(failure) = time::resume(engine.machine(), &engine.ctx_for(ours)) {
        engine.stop();
        return Err(DaemonError::Apply(failure.message));
    }
    let hold = Hold::new(&mounting.repo);
    hold.add(engine, &mounting.mountpoint, mounting.shows == Shows::Primary)?;
    let after = || -> Result<(), DaemonError> {
        server::start(&mounting.store, hold.clone())
            .map_err(|source| DaemonError::Control { path: mounting.store.clone(), source })?;
        let (policy, wrong) = limits::from_environment(|name| std::env::var(name).ok());
        for wrong in wrong {
            tracing::warn!("{wrong}");
        }
        if let Err(error) = collector::start(&hold, policy) {
            tracing::warn!(%error, "nothing is collected by itself");
        }
        watch_signals(hold.clone(), mounting.store.clone()).map_err(DaemonError::Signals)
    };
    if let Err(error) = after() {
        hold.take_all_away();
        hold.stop();
        return Err(error);
    }
    Ok(Running { hold, store })
}

impl Running {
    /// Serves until the last mount is gone, whoever unmounts it, and what is left is written down.
    pub fn serve(self) {
        self.hold.wait();
        // Before the lock is given back: who has that finds nobody at the socket.
        server::end(&self.store.dir);
    }
}

/// SIGTERM and SIGINT unmount. Mounts in use are detached and served for a little longer.
fn watch_signals(hold: Arc<Hold>, store: PathBuf) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        tracing::info!(signal, "ending");
        hold.take_all_away();
        std::thread::sleep(LAST_REQUESTS);
        hold.stop();
        server::end(&store);
        std::process::exit(0);
    })?;
    Ok(())
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
