//! Snapshots and rewinds of a live mount.

use super::{Caller, Engine};
use crate::timeline::Machine;
use crate::types::Ino;

impl Engine {
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// What an operation on time needs to know of who asked for it.
    pub fn ctx_for(&self, caller: Caller) -> crate::overlay::Ctx {
        self.ctx(caller)
    }

    /// Files that may be mapped for writing: their dirty pages are not here yet.
    pub fn may_be_mapped(&self) -> Vec<Ino> {
        self.handles.open_for_writing()
    }
}
