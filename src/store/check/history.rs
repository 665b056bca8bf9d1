//! The rules about snapshots, timelines and operations, and between them and the states. Knows no names and no bytes.

use std::collections::BTreeMap;

use super::Check;
use crate::types::{Epoch, Timeline};

impl Check<'_> {
    pub(super) fn history(&mut self) {
        let mut wrong = Vec::new();
        self.timelines(&mut wrong);
        self.snapshots(&mut wrong);
        let (found, mut expired) = (&self.found, Vec::new());
        for operation in &found.operations {
            for (when, at) in [("before", operation.before), ("after", operation.after), ("last after", operation.last)]
            {
                // A switch to a timeline that begins at the base, before its first snapshot.
                let is_known = at.epoch == Epoch::BASE || found.snapshots.contains_key(&at.epoch);
                if !is_known || !found.timelines.contains_key(&at.timeline) {
                    expired.push(format!(
                        "operation {} refers to the state {when} it (epoch {}), of which there is no snapshot",
                        operation.id, at.epoch
                    ));
                }
            }
        }
        for &(timeline, epoch) in found.changes.keys() {
            match found.timelines.get(&timeline) {
                None => wrong.push(format!("there are states of timeline {timeline}, which has no record")),
                Some(t) if epoch > t.head => {
                    wrong.push(format!("there are states of epoch {epoch}, but timeline {timeline} is at {}", t.head));
                }
                Some(_) => {}
            }
        }
        wrong.dedup();
        wrong.append(&mut expired);
        self.report.problems.append(&mut wrong);
    }

    fn timelines(&self, wrong: &mut Vec<String>) {
        let mut heads: BTreeMap<Epoch, Timeline> = BTreeMap::new();
        for (&id, timeline) in &self.found.timelines {
            let head = timeline.head;
            if let Some(other) = heads.insert(head, id) {
                wrong.push(format!("the timelines {other} and {id} are both in epoch {head}"));
            }
            if timeline.last >= head {
                wrong
                    .push(format!("timeline {id} is in epoch {head}, its last snapshot is of epoch {}", timeline.last));
            }
            let Some(parent) = timeline.parent else { continue };
            if parent.timeline >= id {
                wrong.push(format!("timeline {id} forks off timeline {}, which is not older", parent.timeline));
            }
            match self.found.timelines.get(&parent.timeline) {
                None => {
                    wrong.push(format!("timeline {id} forks off timeline {}, which has no record", parent.timeline))
                }
                Some(p) if parent.epoch >= p.head || parent.epoch >= head => wrong.push(format!(
                    "timeline {id} forks off epoch {} of timeline {}, which was not sealed",
                    parent.epoch, parent.timeline
                )),
                Some(_) => {}
            }
        }
    }

    fn snapshots(&self, wrong: &mut Vec<String>) {
        let mut labels: BTreeMap<&str, Epoch> = BTreeMap::new();
        for (&epoch, snapshot) in &self.found.snapshots {
            let timeline = snapshot.timeline;
            match self.found.timelines.get(&timeline) {
                None => {
                    wrong.push(format!("the snapshot of epoch {epoch} is of timeline {timeline}, which has no record"))
                }
                Some(t) if epoch >= t.head => {
                    wrong.push(format!("epoch {epoch} has a snapshot, but timeline {timeline} is at {}", t.head));
                }
                Some(_) => {}
            }
            let previous = snapshot.previous;
            if previous >= epoch {
                wrong.push(format!("the snapshot of epoch {epoch} follows that of epoch {previous}"));
            } else if previous != Epoch::BASE && !self.found.snapshots.contains_key(&previous) {
                wrong.push(format!(
                    "the snapshot of epoch {epoch} follows that of epoch {previous}, which is not there"
                ));
            }
            if let Some(label) = &snapshot.label
                && let Some(other) = labels.insert(label, epoch)
            {
                wrong.push(format!("the snapshots of the epochs {other} and {epoch} have the same label {label:?}"));
            }
        }
    }
}
