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

    /// Who may read through open files of this inode.
    pub fn users_of(&self, ino: Ino) -> Vec<(crate::types::ActorId, u32, Vec<u8>)> {
        let Some(actors) = self.who() else { return Vec::new() };
        let mut found: Vec<crate::types::ActorId> = Vec::new();
        for handle in self.handles.of_file(ino) {
            found.push(handle.opener);
            found.extend(handle.holders.lock().iter().copied());
        }
        found.sort_unstable();
        found.dedup();
        found.into_iter().filter_map(|id| actors.get(id).map(|a| (id, a.pid, a.comm))).collect()
    }
}
