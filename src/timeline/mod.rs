//! Time: snapshots, rewinds, undo, timelines.
//!
//! Works on an overlay, mounted or not. Every operation here is in the history itself: what was before it is sealed, and what it does is one batch
//! in a new epoch. Knows no FUSE; what the kernel has to forget goes through [`Kernel`].

pub mod branch;
pub mod collect;
pub mod combine;
pub mod gain;
pub mod gate;
pub mod limits;
pub mod machine;
pub mod merging;
pub mod names;
pub mod parts;
pub mod retention;
pub mod rows;
pub mod selected;
pub mod showing;
pub mod spec;
pub mod undo;

use crate::types::Ino;

pub use gate::Gate;
pub use machine::{Machine, TimeError};
pub use showing::Showing;

/// What can be said to the kernel about its caches. Called from threads that hold no lock; the kernel may ask back before it answers.
pub trait Kernel: Send + Sync {
    /// The name may stand for something else.
    fn forget_name(&self, dir: Ino, name: &[u8]);
    /// The name is gone: watchers are told.
    fn deleted(&self, dir: Ino, child: Ino, name: &[u8]);
    /// Attributes and bytes may be others. Dirty pages of mappings are written back first.
    fn forget_inode(&self, ino: Ino);
}

/// Nobody has anything cached: nothing is mounted.
#[derive(Debug, Default)]
pub struct NoKernel;

impl Kernel for NoKernel {
    fn forget_name(&self, _dir: Ino, _name: &[u8]) {}
    fn deleted(&self, _dir: Ino, _child: Ino, _name: &[u8]) {}
    fn forget_inode(&self, _ino: Ino) {}
}
