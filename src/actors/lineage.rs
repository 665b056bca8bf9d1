//! The parents of a process, up to the first one known or to the machine's first process.

use std::sync::Arc;

use super::Depth;
use super::resolve::{Observed, Shared};
use super::table::Entry;

/// Generations followed; deeper trees are cut here rather than followed for ever through pids that change meanwhile.
const MAX_GENERATIONS: usize = 128;

impl Shared {
    /// The live process `ppid` as the parent of a process started at `child_start`, its ancestors recorded first.
    ///
    /// A parent is never younger than its child, so a pid that was given away again in the meantime ends the chain.
    pub(super) fn parent(&self, ppid: u32, child_start: u64, depth: Depth) -> Option<Arc<Entry>> {
        let mut unknown: Vec<Observed> = Vec::new();
        let mut anchor = None;
        let (mut pid, mut start) = (ppid, child_start);
        while pid != 0 && unknown.len() < MAX_GENERATIONS {
            if let Some(known) = self.lookup(pid) {
                anchor = Some(known).filter(|known| known.start <= start);
                break;
            }
            let Some(observed) = self.observe(pid, depth) else { break };
            if observed.start() > start {
                break;
            }
            (pid, start) = (observed.ppid(), observed.start());
            unknown.push(observed);
        }
        for observed in unknown.into_iter().rev() {
            anchor = Some(self.admit(observed, anchor.as_ref(), depth));
        }
        anchor
    }
}
