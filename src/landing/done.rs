//! What the repository on disk got of history already, as the applies say that stand.

use super::{LandError, Result, keep};
use crate::overlay::Overlay;
use crate::store::history::{self, OpKind};
use crate::store::lineage::Lineage;
use crate::timeline::selected::{Done, Had};

/// Selections that are told apart.
const MOST: usize = 64;

/// How an apply of a selection of this name is called.
pub fn name_of(selection: &str) -> String {
    format!("apply of what {selection} changed")
}

fn selection_of(note: &str) -> Option<&str> {
    note.strip_prefix("apply of what ")?.strip_suffix(" changed")
}

/// What applies brought over, of all that is in the past of a state.
///
/// # Errors
/// When the log cannot be read.
pub fn done(overlay: &Overlay, state: &Lineage) -> Result<Done> {
    let store = overlay.store();
    let mut done = Done::default();
    for operation in history::operations(&*store.kv).map_err(LandError::from)?.into_iter().rev() {
        let taken = operation.brought.unwrap_or(operation.before);
        let is_past = state.segments().iter().any(|s| s.timeline == taken.timeline && taken.epoch <= s.epoch);
        if operation.kind != OpKind::Apply || operation.undone || !is_past {
            continue;
        }
        let which = match operation.brought {
            // The present, of these paths.
            None => None,
            Some(_) => match selection_of(&operation.note) {
                None if taken == operation.before => {
                    done.all = done.all.max(taken.epoch);
                    None
                }
                Some(name) => match done.by.iter().position(|known| known == name) {
                    Some(known) => Some(known),
                    None if done.by.len() < MOST => {
                        done.by.push(name.to_owned());
                        Some(done.by.len() - 1)
                    }
                    None => continue,
                },
                // An older state, or a range: of which steps that has all cannot be told.
                None => continue,
            },
        };
        for kept in keep::all(store, operation.kept)? {
            done.paths.entry(kept.path).or_default().push(Had { which, upto: taken.epoch });
        }
    }
    Ok(done)
}
