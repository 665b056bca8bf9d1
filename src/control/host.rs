//! What the server needs of the daemon that it belongs to: which mounts there are, and mounting and unmounting.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::protocol::Failure;
use crate::engine::{Engine, Mode};
use crate::types::Time;

/// What a mount is to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Shows {
    /// What is shown in place: the timeline that was switched to last.
    #[default]
    Primary,
    /// A timeline of this name.
    Timeline(String),
    /// A snapshot, read-only: an id, a label, a time.
    Snapshot(String),
}

/// A mount of the daemon.
pub struct Mount {
    pub engine: Arc<Engine>,
    /// Where it is: absolute, without symbolic links.
    pub at: PathBuf,
    /// It shows what is shown in place.
    pub primary: bool,
    pub since: Time,
}

/// The daemon.
pub trait Host: Send + Sync {
    /// The repository's own path.
    fn repo(&self) -> &Path;
    /// All mounts, the primary one first, then in the order in which they came.
    fn mounts(&self) -> Vec<Arc<Mount>>;
    /// Mounts one more; `mode` as the others record, if it is not given.
    ///
    /// # Errors
    /// Why not, in one line.
    fn mount(&self, shows: &Shows, at: &Path, mode: Option<Mode>) -> Result<Arc<Mount>, Failure>;
    /// Unmounts one, and returns when it has ended; or all of them, which ends the daemon. `lazy`: even while they are used.
    ///
    /// # Errors
    /// Which one is in use.
    fn unmount(&self, at: Option<&Path>, lazy: bool) -> Result<(), Failure>;
}
