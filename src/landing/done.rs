//! What the repository on disk has of history by now.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Result, keep, os};
use crate::overlay::Overlay;
use crate::overlay::restore::differs;
use crate::overlay::view::{Node, View};
use crate::store::history::{self, OpKind};
use crate::store::lineage::Lineage;
use crate::timeline::selected::Brought;
use crate::types::{Errno, Kind, Path, VersionId};

/// What a path of the repository was, looking back.
enum Was {
    /// What it is now.
    Disk,
    /// What an apply found there.
    Found(Option<keep::Lost>),
}

/// Paths that applies brought into the repository as they were in the past of a state. Of a path of which later ones brought a part only, or of which somebody
/// made something else since, that is what was there before.
///
/// # Errors
/// When base or log cannot be read.
pub fn done(overlay: &Overlay, state: &Lineage) -> Result<BTreeMap<Path, Brought>> {
    let look = os("cannot compare with the repository");
    let store = overlay.store();
    let base = View::base(overlay);
    let (mut found, mut open): (BTreeMap<Path, Brought>, BTreeMap<Path, Was>) = Default::default();
    for operation in history::operations(&*store.kv)?.iter().rev() {
        if operation.kind != OpKind::Apply || operation.undone {
            continue;
        }
        let at = operation.last;
        let is_past = state.segments().iter().any(|s| s.timeline == at.timeline && at.epoch <= s.epoch);
        let after = View::new(overlay, Arc::new(Lineage::of(&*store.kv, at)?));
        for kept in keep::all(store, operation.kept)? {
            if found.contains_key(&kept.path) {
                continue;
            }
            let was = open.remove(&kept.path).unwrap_or(Was::Disk);
            let shown = after.find(&kept.path).map_err(&look)?;
            // A directory stands for what is in it.
            let is_dir = shown.as_ref().is_some_and(|node| node.kind == Kind::Dir);
            let (whole, state) = match &was {
                Was::Disk => {
                    let is = base.find(&kept.path).map_err(&look)?;
                    (!differs(&base, is.as_ref(), shown.as_ref()).map_err(&look)?, None)
                }
                Was::Found(lost) => (is_same(&after, lost.as_ref(), shown.as_ref()).map_err(&look)?, Some(at)),
            };
            if is_past && whole && !is_dir {
                found.insert(kept.path, Brought { upto: operation.before.epoch, state });
            } else {
                open.insert(kept.path, Was::Found(kept.old));
            }
        }
    }
    Ok(found)
}

/// Whether what an apply found is what a state has. What cannot be told is not.
fn is_same(view: &View<'_>, lost: Option<&keep::Lost>, node: Option<&Node>) -> Result<bool, Errno> {
    const PIECE: usize = 64 << 10;
    let (Some(lost), Some(node)) = (lost, node) else { return Ok(lost.is_none() && node.is_none()) };
    let meta = (lost.meta.perm, lost.meta.uid, lost.meta.gid);
    if lost.seen.kind != node.kind || lost.seen.size != node.size || meta != (node.perm, node.attr.uid, node.attr.gid) {
        return Ok(false);
    }
    if node.kind == Kind::Symlink {
        return Ok(lost.target.as_deref() == Some(&*view.target(node)?));
    }
    if node.kind != Kind::File || lost.version == VersionId::BASE {
        return Ok(false);
    }
    let (reader, data) = (view.open(node)?, &view.overlay().store().data);
    let (mut a, mut b, mut at) = (vec![0; PIECE], vec![0; PIECE], 0);
    while at < node.size {
        let len = usize::try_from(node.size - at).unwrap_or(PIECE).min(PIECE);
        let (one, other) = (a.get_mut(..len).unwrap_or_default(), b.get_mut(..len).unwrap_or_default());
        data.read(lost.version, at, other).map_err(|e| e.errno())?;
        if reader.read_at(at, one)? != len || one != other {
            return Ok(false);
        }
        at += len as u64;
    }
    Ok(true)
}
