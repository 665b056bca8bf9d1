//! The path under which an inode was last seen, for the record and for messages.
//!
//! Paths are remembered as text, since the record needs one for every event, and worked out again only after a directory was
//! renamed. A file with several names is reported under the one that was looked up last.

use std::sync::atomic::Ordering;

use super::{Inode, Overlay};
use crate::types::{Ino, Path};

/// Deeper than PATH_MAX allows: a loop in the notes, which must not become a loop in the daemon.
const DEEPEST: usize = 4096;

impl Overlay {
    /// Must be called without the inode's state lock.
    pub fn path(&self, inode: &Inode) -> Path {
        self.path_below(inode, 0)
    }

    fn path_below(&self, inode: &Inode, depth: usize) -> Path {
        let now = self.renames.load(Ordering::Acquire);
        let (parent, name) = {
            let state = inode.state.read();
            if state.place.as_of == now || inode.ino == Ino::ROOT {
                return state.place.path.clone();
            }
            (state.place.parent, state.place.name.clone())
        };
        let Some(parent) = self.inode(parent).filter(|_| depth < DEEPEST) else {
            return inode.state.read().place.path.clone();
        };
        let path = self.path_below(&parent, depth + 1).join(&name);
        let mut state = inode.state.write();
        if state.place.parent == parent.ino && state.place.name == name {
            state.place.path = path.clone();
            state.place.as_of = now;
        }
        path
    }
}
