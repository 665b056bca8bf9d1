//! What a new file was copied from: something that its writer had read before.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::lines::{self, Map};
use super::{LARGEST, Result, Work};
use crate::overlay::view::{Node, View};
use crate::query::events::{each_event, seq_at};
use crate::query::sees;
use crate::store::codec::VersionRecord;
use crate::store::{StoreError, history};
use crate::types::{Epoch, Kind, Path, Seq, Time};

/// A file that has no more than one line in so many from another one is no copy of it.
const SHARED: usize = 2;
/// Of one that read more files than this it is not looked for.
const MOST: usize = 64;
/// Observations may be written down so much later, nanoseconds.
const LATE: i64 = 5_000_000_000;

impl Work<'_> {
    /// The file that a new one is a copy of, as it was before the epoch, and its path.
    pub(super) fn copied(
        &self,
        before: &View<'_>,
        record: &VersionRecord,
        epoch: Epoch,
        node: &Node,
    ) -> Result<Option<(Node, Path)>> {
        let store = self.overlay.store();
        // Sealed, or still open.
        let (previous, until) = match history::snapshot(&*store.kv, epoch)? {
            Some(sealed) => (sealed.previous, sealed.time.as_nanos().saturating_add(LATE)),
            None => (history::timeline(&*store.kv, before.lineage().at().timeline)?.last, i64::MAX),
        };
        let since = history::snapshot(&*store.kv, previous)?.map_or(Time::default(), |s| s.time);
        let query = |error| match error {
            crate::query::QueryError::Store(error) => error,
            crate::query::QueryError::Filter(text) => StoreError::corrupt(text),
        };
        // Observations are written down a little late.
        let from = seq_at(store, since).map_err(query)?;
        let mut seen: BTreeMap<Path, ()> = BTreeMap::new();
        each_event(store, Seq(from.0.saturating_sub(256)), &mut |event| {
            if event.time.as_nanos() > until {
                return Ok(ControlFlow::Break(()));
            }
            let note = &event.note;
            if event.actor == record.by && note.errno.is_none() && sees(note.op) && note.ino != record.ino {
                seen.insert(note.path.clone(), ());
            }
            Ok(ControlFlow::Continue(()))
        })
        .map_err(query)?;
        if seen.len() > MOST {
            return Ok(None);
        }
        let os = |path: &Path| {
            let path = path.clone();
            move |errno| super::BlameError::Os(path, errno)
        };
        let found = super::Found { lineage: before.lineage().clone(), node: node.clone(), path: Path::root() };
        let text = super::read(self.overlay, &found)?;
        let all = lines::lines(&text);
        let mut best: Option<(usize, Node, Path)> = None;
        for path in seen.into_keys() {
            let Some(other) = before.find(&path).map_err(os(&path))? else { continue };
            if other.kind != Kind::File || other.size > LARGEST || other.size == 0 {
                continue;
            }
            let found = super::Found { lineage: before.lineage().clone(), node: other.clone(), path: path.clone() };
            let theirs = super::read(self.overlay, &found)?;
            let marks = vec![0; lines::lines(&theirs)];
            let shared = Map::of(&theirs, &text).carry(&marks).iter().flatten().count();
            if shared * SHARED >= all && shared > best.as_ref().map_or(0, |best| best.0) {
                best = Some((shared, other, path));
            }
        }
        Ok(best.map(|(_, node, path)| (node, path)))
    }
}
