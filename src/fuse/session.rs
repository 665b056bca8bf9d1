//! Mounting, and serving a mount while it lives.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::adapter::Adapter;
use super::mount::{self, MountError};
use crate::engine::Engine;
use crate::timeline::Kernel;
use crate::types::Ino;

/// How long the kernel may believe what it was told when nothing else can change it: until it is told otherwise.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// The same when the base may change behind the mount.
const SHORTLY: Duration = Duration::from_secs(1);

/// Worker threads: one more than processors. Fewer make single requests slower, more wake each other up (docs/PERFORMANCE.md); and one
/// in fsync or in a slow read must not hold up everything.
const FEWEST_WORKERS: usize = 2;
const MOST_WORKERS: usize = 8;

/// Why a session did not start.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("the kernel's FUSE did not accept this program: {0}")]
    Handshake(std::io::Error),
}

/// Where a mount is to be, and how.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub repo: &'a Path,
    pub mountpoint: &'a Path,
    /// The base may change behind the mount.
    pub live_base: bool,
}

/// Mounts what an engine shows and serves it in threads of its own. `ended` is called by one of them when the mount is gone, whoever took it away.
///
/// # Errors
/// When it cannot be mounted; `ended` is not called then.
pub fn start(
    engine: &Arc<Engine>,
    place: Place<'_>,
    ended: impl FnOnce(std::io::Result<()>) + Send + 'static,
) -> Result<(), SessionError> {
    let device = mount::mount(place.repo, place.mountpoint, engine.overlay().is_read_only())?;
    let adapter = Adapter::new(engine.clone(), if place.live_base { SHORTLY } else { FOREVER });
    let mut config = fuser::Config::default();
    config.acl = fuser::SessionACL::All;
    config.n_threads = Some(workers());
    let undo = |e| {
        let _ = mount::unmount(place.mountpoint, mount::Unmount::Detach);
        SessionError::Handshake(e)
    };
    let session = fuser::Session::from_fd(adapter, device, fuser::SessionACL::All, config).map_err(undo)?;
    engine.machine().set_kernel(Arc::new(Caches(session.notifier())));
    std::thread::Builder::new().name("fuse".into()).spawn(move || ended(session.run())).map_err(undo)?;
    Ok(())
}

/// The kernel's caches of a mount.
struct Caches(fuser::Notifier);

impl Caches {
    /// What the kernel does not know needs no forgetting.
    fn said(what: &'static str, result: std::io::Result<()>) {
        match result {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, what, "the kernel could not be told");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

impl Kernel for Caches {
    fn forget_name(&self, dir: Ino, name: &[u8]) {
        Caches::said("a name", self.0.inval_entry(fuser::INodeNo(dir.0), OsStr::from_bytes(name)));
    }

    fn deleted(&self, dir: Ino, child: Ino, name: &[u8]) {
        let name = OsStr::from_bytes(name);
        let told = self.0.delete(fuser::INodeNo(dir.0), fuser::INodeNo(child.0), name);
        // Not that child, or a directory that is not empty in the cache: then only the entry is forgotten.
        if told.is_err() {
            Caches::said("a name", self.0.inval_entry(fuser::INodeNo(dir.0), name));
        }
    }

    fn forget_inode(&self, ino: Ino) {
        Caches::said("an inode", self.0.inval_inode(fuser::INodeNo(ino.0), 0, 0));
    }
}

/// `REGENTFS_WORKERS` overrides the number, for measurements.
fn workers() -> usize {
    if let Some(chosen) = std::env::var("REGENTFS_WORKERS").ok().and_then(|v| v.parse().ok()) {
        return usize::clamp(chosen, 1, MOST_WORKERS);
    }
    let processors = std::thread::available_parallelism().map_or(FEWEST_WORKERS, usize::from);
    (processors + 1).clamp(FEWEST_WORKERS, MOST_WORKERS)
}
