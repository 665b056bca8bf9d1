//! Answers about merging a timeline into the one that is shown.

use super::protocol::{Done, Failure, Merge, Row};
use super::time::{Mover, Sink};
use crate::overlay::Shown;
use crate::query::rows::text;
use crate::store::history::{self, OpKind};
use crate::timeline::combine::{Conflict, ConflictKind, Favor, Region};
use crate::timeline::merging::{How, Merged};
use crate::timeline::names::Names;
use crate::timeline::rows::{LinesRow, MovedRow, PathRow};
use crate::timeline::{branch, spec};
use crate::types::{Path, Timeline};

impl Mover<'_> {
    /// Merges, or says what that would do.
    ///
    /// # Errors
    /// What was refused; nothing is changed then. Conflicts are rows.
    pub(super) fn merge(&self, asked: &Merge, sink: Sink<'_>) -> Result<Done, Failure> {
        let usage = |message: String| Failure { message, exit: 2 };
        let theirs = self.timeline_called(&asked.timeline).map_err(usage)?;
        if self.overlay().shown() == Shown::Timeline(theirs) {
            return Err(usage(format!("{} is the timeline that is shown here: name another one", asked.timeline)));
        }
        let favor = match (asked.ours, asked.theirs) {
            (true, true) => return Err(usage("--ours and --theirs exclude each other".to_owned())),
            (true, false) => Favor::Ours,
            (false, true) => Favor::Theirs,
            (false, false) => Favor::None,
        };
        let note = format!("merge of {}", asked.timeline);
        let how = How { favor, dry_run: asked.dry_run, note: &note };
        let merged = self.machine.merge(&self.ctx, theirs, how, &self.mapped)?;
        self.tell_merged(OpKind::Merge, note, &merged, sink)
    }

    /// # Errors
    /// Why there is none, for people.
    fn timeline_called(&self, name: &str) -> Result<Timeline, String> {
        let kv = &*self.overlay().store().kv;
        let failed = match branch::named(kv, name) {
            Ok(record) => return Ok(record.id),
            Err(error) => error.to_string(),
        };
        let deleted = history::timelines(kv).map_err(|e| e.to_string())?.into_iter().rfind(|t| t.name == name);
        let Some(deleted) = deleted else { return Err(failed) };
        let last = history::snapshot(kv, deleted.last).map_err(|e| e.to_string())?;
        Err(match last {
            Some(last) => {
                let id = spec::id_of(&self.overlay().store().format.id, last.epoch);
                format!("timeline {name} was deleted: `regentfs timeline fork {name} {id}` goes on from its last state")
            }
            None => format!("timeline {name} was deleted"),
        })
    }

    pub(super) fn tell_merged(
        &self,
        kind: OpKind,
        note: String,
        merged: &Merged,
        sink: Sink<'_>,
    ) -> Result<Done, Failure> {
        let names = Names::of(self.overlay())?;
        let row = MovedRow {
            op: kind.name().to_owned(),
            done: merged.moved.is_some(),
            before: merged.moved.as_ref().map(|m| names.id(m.before.epoch)),
            after: merged.moved.as_ref().map(|m| names.id(m.after.epoch)),
            note,
            changed: merged.changed.len() as u64,
            ..MovedRow::default()
        };
        let mut flow = sink(Row::Moved(row));
        let row = |path: &Path, what: &str| {
            let (path, path_hex) = text(path.as_bytes());
            PathRow { path, path_hex, what: what.to_owned(), ..PathRow::default() }
        };
        let changed = merged.changed.iter().map(|path| {
            let both = merged.merged_paths.binary_search(path).is_ok();
            PathRow { kind: both.then(|| "merged".to_owned()), ..row(path, "changed") }
        });
        let kept = merged.kept.iter().map(|kept| PathRow { users: (self.users)(kept.old), ..row(&kept.path, "kept") });
        let conflicts = merged.conflicts.iter().map(|conflict| {
            let (ours, ours_hex) = match &conflict.ours {
                Some(ours) => {
                    let (ours, hex) = text(ours.as_bytes());
                    (Some(ours), hex)
                }
                None => (None, None),
            };
            PathRow {
                why: Some(why(conflict)),
                kind: Some(conflict.kind.name().to_owned()),
                ours,
                ours_hex,
                lines: conflict.regions.iter().map(lines).collect(),
                ..row(&conflict.path, "conflict")
            }
        });
        for row in changed.chain(kept).chain(conflicts) {
            if flow.is_break() {
                break;
            }
            flow = sink(Row::Path(row));
        }
        Ok(Done::default())
    }
}

pub(super) fn lines(region: &Region) -> LinesRow {
    let range = |range: &std::ops::Range<u64>| (range.start, range.end);
    LinesRow { base: range(&region.base), ours: range(&region.ours), theirs: range(&region.theirs) }
}

/// A conflict for people.
fn why(conflict: &Conflict) -> String {
    let range = |range: &std::ops::Range<u64>| match range.end.saturating_sub(range.start) {
        0 => format!("before line {}", range.start),
        1 => format!("line {}", range.start),
        _ => format!("lines {} to {}", range.start, range.end.saturating_sub(1)),
    };
    match conflict.kind {
        ConflictKind::Content => {
            let parts: Vec<String> = conflict
                .regions
                .iter()
                .map(|r| format!("{} here, {} there", range(&r.ours), range(&r.theirs)))
                .collect();
            format!("both changed {}", parts.join("; "))
        }
        ConflictKind::Binary => "both changed it, and it cannot be merged by lines".to_owned(),
        ConflictKind::DeleteChange => "one side removed or moved it, the other changed or moved it".to_owned(),
        ConflictKind::AddAdd => "both made it, with other contents".to_owned(),
        ConflictKind::Type => "a file where the other side has a directory, or another type of file".to_owned(),
        ConflictKind::Attributes => "both changed its mode, owner or attributes".to_owned(),
        ConflictKind::Rename => match &conflict.ours {
            Some(ours) => format!("both moved it, here to {ours}"),
            None => "both moved it".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_are_told_in_words() {
        let conflict = |kind, regions| Conflict { path: Path::new(b"a"), kind, regions, ours: None };
        let region = Region { base: 3..4, ours: 3..6, theirs: 3..3 };
        assert_eq!(
            why(&conflict(ConflictKind::Content, vec![region.clone()])),
            "both changed lines 3 to 5 here, before line 3 there"
        );
        assert_eq!(lines(&region), LinesRow { base: (3, 4), ours: (3, 6), theirs: (3, 3) });
        let moved = Conflict { ours: Some(Path::new(b"b")), ..conflict(ConflictKind::Rename, Vec::new()) };
        assert_eq!(why(&moved), "both moved it, here to b");
    }
}
