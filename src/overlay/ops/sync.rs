//! fsync: what was acknowledged survives power loss from here on.

use crate::overlay::inode::Bytes;
use crate::overlay::{Inode, Overlay, Result, failed};

impl Overlay {
    /// Syncs the file's bytes, then the log that refers to them.
    pub fn sync(&self, inode: &Inode) -> Result<()> {
        let version = match &inode.state.read().content {
            Bytes::Version(version) => Some(version.id),
            Bytes::None | Bytes::Base => None,
        };
        if let Some(id) = version {
            self.data().sync(id).map_err(failed)?;
        }
        self.store.kv.sync().map_err(failed)
    }
}
