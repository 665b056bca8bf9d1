//! The snapshot barrier: changes pass while it is open; a snapshot closes it for an instant and then sees no change half done.

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// See the module.
#[derive(Debug, Default)]
pub struct Gate(RwLock<()>);

impl Gate {
    /// Held by every change from its first look at the tree to its commit.
    pub fn pass(&self) -> RwLockReadGuard<'_, ()> {
        self.0.read()
    }

    /// Waits for the changes under way and keeps new ones out.
    pub fn close(&self) -> RwLockWriteGuard<'_, ()> {
        self.0.write()
    }
}
