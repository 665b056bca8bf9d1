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
        self.sync_copied()?;
        self.store.kv.sync().map_err(failed)
    }

    /// Syncs everything that was acknowledged: the file system of the version files, then the log.
    pub fn sync_all(&self) -> Result<()> {
        self.data().sync_all().map_err(failed)?;
        self.store.kv.sync().map_err(failed)
    }

    /// Syncs what was copied from the base for other files: their records become durable with this file's.
    fn sync_copied(&self) -> Result<()> {
        let copied = std::mem::take(&mut *self.copied.lock());
        for (done, &id) in copied.iter().enumerate() {
            if let Err(error) = self.data().sync(id) {
                self.copied.lock().extend(copied.iter().skip(done));
                return Err(failed(error));
            }
        }
        Ok(())
    }
}
