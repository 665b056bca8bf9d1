//! A kernel that notes what it is told to forget.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use regentfs::timeline::Kernel;
use regentfs::types::Ino;

#[derive(Debug, Default, Clone)]
pub struct Told {
    pub names: BTreeSet<(u64, Vec<u8>)>,
    /// Files that were said to be gone, by the name that they had.
    pub deleted: BTreeSet<u64>,
    pub inodes: BTreeSet<u64>,
}

#[derive(Debug, Default)]
pub struct Notes(Mutex<Told>);

impl Notes {
    pub fn take(&self) -> Told {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Kernel for Notes {
    fn forget_name(&self, dir: Ino, name: &[u8]) {
        self.0.lock().names.insert((dir.0, name.to_vec()));
    }

    fn deleted(&self, dir: Ino, child: Ino, name: &[u8]) {
        let mut told = self.0.lock();
        told.names.insert((dir.0, name.to_vec()));
        told.deleted.insert(child.0);
    }

    fn forget_inode(&self, ino: Ino) {
        self.0.lock().inodes.insert(ino.0);
    }
}
