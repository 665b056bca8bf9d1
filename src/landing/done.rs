//! What the repository on disk has of history by now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Result, keep, os};
use crate::overlay::Overlay;
use crate::overlay::restore::differs;
use crate::overlay::view::View;
use crate::store::history::{self, OpKind};
use crate::store::lineage::Lineage;
use crate::types::{Epoch, Kind, Path};

/// Paths that applies brought into the repository as they were in the past of a state, and up to which epoch: the repository has all of that. A path of which
/// only a part was brought is not among them, nor one that somebody changed there since in another way.
///
/// # Errors
/// When base or log cannot be read.
pub fn done(overlay: &Overlay, state: &Lineage) -> Result<BTreeMap<Path, Epoch>> {
    let look = os("cannot compare with the repository");
    let store = overlay.store();
    let base = View::base(overlay);
    let (mut found, mut seen) = (BTreeMap::new(), BTreeSet::new());
    for operation in history::operations(&*store.kv)?.iter().rev() {
        if operation.kind != OpKind::Apply || operation.undone {
            continue;
        }
        let at = operation.last;
        let is_past = state.segments().iter().any(|s| s.timeline == at.timeline && at.epoch <= s.epoch);
        let after = View::new(overlay, Arc::new(Lineage::of(&*store.kv, at)?));
        for kept in keep::all(store, operation.kept)? {
            if !seen.insert(kept.path.clone()) || !is_past {
                continue;
            }
            let (is, was) = (base.find(&kept.path).map_err(&look)?, after.find(&kept.path).map_err(&look)?);
            // A directory stands for what is in it.
            let whole = is.as_ref().is_none_or(|node| node.kind != Kind::Dir);
            if whole && !differs(&base, is.as_ref(), was.as_ref()).map_err(&look)? {
                found.insert(kept.path, operation.before.epoch);
            }
        }
    }
    Ok(found)
}
