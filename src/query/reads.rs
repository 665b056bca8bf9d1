//! Read-sets: which bytes of which files each process saw, or may have seen.
//!
//! The promise of the record carries over: a read-set is never smaller than what was read. Where a size is not known any
//! more, a range to the end stays open up to the largest size a file can have.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::actors::Names;
use super::events::each_event;
use super::rows::text;
use super::{Contents, PathGlob, ReadRow, Result, Sink, Size, UNKNOWN_END, seen_content, sees};
use crate::store::Store;
use crate::types::event::ContentRef;
use crate::types::{ActorId, Ino, Known, Path, Range, RangeSet, Seq, hex};

/// Which reads; an empty filter means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReadsFilter {
    pub pid: Option<u32>,
    /// See [`PathGlob`].
    pub path: Option<String>,
}

/// What one process saw of one state of one file under one path.
#[derive(Default)]
struct Seen {
    observed: RangeSet,
    inferred: RangeSet,
}

type File = (Ino, ContentRef);

/// Sends one row for each process, path, content and way of knowing; by process, then by path.
///
/// What a process was observed to read of some bytes is not repeated as inferred.
pub fn reads(store: &Store, filter: &ReadsFilter, contents: &dyn Contents, sink: Sink<'_, ReadRow>) -> Result<()> {
    let glob = filter.path.as_deref().map(PathGlob::new).transpose()?;
    let mut names = Names::new(store);
    let mut seen: FxHashMap<(ActorId, Path), FxHashMap<File, Seen>> = FxHashMap::default();
    // How far into each file anything ever reached: no file was longer, unless its base file is.
    let mut reached: FxHashMap<Ino, u64> = FxHashMap::default();
    each_event(store, Seq(0), &mut |event| {
        let note = &event.note;
        if note.errno.is_none() {
            let end = note.ranges.iter().map(|r| r.end()).filter(|&end| end != Range::TO_END).max();
            if let Some(end) = end {
                let reached = reached.entry(note.ino).or_default();
                *reached = end.max(*reached);
            }
        }
        let counts = sees(note.op)
            && note.errno.is_none()
            && !note.ranges.is_empty()
            && glob.as_ref().is_none_or(|g| g.matches(&note.path));
        if !counts || (filter.pid.is_some() && filter.pid != Some(names.get(event.actor)?.0)) {
            return Ok(ControlFlow::Continue(()));
        }
        let file = (note.ino, seen_content(note));
        let entry = seen.entry((event.actor, note.path.clone())).or_default().entry(file).or_default();
        let set = match note.known {
            Known::Observed => &mut entry.observed,
            Known::Inferred => &mut entry.inferred,
        };
        for range in &note.ranges {
            set.insert(*range);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let reached = |ino| reached.get(&ino).copied().unwrap_or_default();
    let mut observed: FxHashMap<(ActorId, File), RangeSet> = FxHashMap::default();
    let mut ordered: BTreeMap<(ActorId, Path), Vec<(File, Seen)>> = BTreeMap::new();
    for ((actor, path), files) in seen {
        for (file, seen) in &files {
            let all = observed.entry((actor, *file)).or_default();
            for range in seen.observed.as_slice() {
                all.insert(*range);
            }
        }
        let mut files: Vec<_> = files.into_iter().collect();
        files.sort_by_key(|((ino, content), _)| (*ino, content.version, content.stamp));
        ordered.insert((actor, path), files);
    }
    for ((actor, path), files) in ordered {
        let (pid, comm) = names.get(actor)?.clone();
        for ((ino, content), seen) in files {
            let end = match contents.size(ino, content, &path) {
                Some(Size::Exact(size)) => End::Exact(size),
                Some(Size::Now(size)) => End::Open(size.max(reached(ino))),
                None if ino.is_allocated() => End::Open(reached(ino)),
                None => End::Open(UNKNOWN_END),
            };
            let known = observed.get(&(actor, (ino, content))).cloned().unwrap_or_default();
            let inferred = without(seen.inferred.as_slice(), known.as_slice());
            let hash = std::cell::LazyCell::new(|| contents.hash(ino, content, &path));
            for (known, ranges) in [(Known::Observed, seen.observed.as_slice()), (Known::Inferred, &inferred)] {
                if ranges.is_empty() {
                    continue;
                }
                let (path, path_hex) = text(path.as_bytes());
                let row = ReadRow {
                    actor: actor.0,
                    pid,
                    comm: comm.clone(),
                    ino: ino.0,
                    path,
                    path_hex,
                    ranges: ranges.iter().filter_map(|r| end.clip(*r)).collect(),
                    known: known.name().to_owned(),
                    content: hash.map(|h| format!("blake3:{}", hex(&h))),
                };
                if sink(row).is_break() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Where a file ends.
#[derive(Clone, Copy)]
enum End {
    /// These bytes end there: nothing behind it was seen.
    Exact(u64),
    /// Stands in for "to the end"; ranges with a length are left alone.
    Open(u64),
}

impl End {
    fn clip(self, range: Range) -> Option<(u64, u64)> {
        let end = match self {
            End::Exact(size) => range.end().min(size),
            End::Open(size) if range.end() == Range::TO_END => size,
            End::Open(_) => range.end(),
        };
        (end > range.offset).then(|| (range.offset, end - range.offset))
    }
}

/// The parts of `ranges` that `taken` does not have; both sorted, neither overlapping.
fn without(ranges: &[Range], taken: &[Range]) -> Vec<Range> {
    let mut left = Vec::new();
    let mut next = 0;
    for range in ranges {
        let mut at = range.offset;
        while let Some(hole) = taken.get(next).filter(|t| t.offset < range.end()) {
            if hole.offset > at {
                left.push(Range::new(at, hole.offset - at));
            }
            at = at.max(hole.end());
            if hole.end() > range.end() {
                break;
            }
            next += 1;
        }
        if at < range.end() {
            left.push(Range::new(at, range.end() - at));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtracts_ranges() {
        let ranges = |list: &[(u64, u64)]| list.iter().map(|&(o, l)| Range::new(o, l)).collect::<Vec<_>>();
        for (from, taken, left) in [
            (&[(0, 10)][..], &[][..], &[(0, 10)][..]),
            (&[(0, 10)], &[(0, 10)], &[]),
            (&[(0, 10)], &[(2, 3)], &[(0, 2), (5, 5)]),
            (&[(0, 10), (20, 10)], &[(5, 20)], &[(0, 5), (25, 5)]),
            (&[(0, 10), (20, 10)], &[(5, 50)], &[(0, 5)]),
            (&[(10, 10)], &[(0, 5), (12, 1), (19, 9)], &[(10, 2), (13, 6)]),
            (&[(0, Range::TO_END)], &[(0, 4096)], &[(4096, Range::TO_END - 4096)]),
        ] {
            assert_eq!(without(&ranges(from), &ranges(taken)), ranges(left), "{from:?} - {taken:?}");
        }
    }

    #[test]
    fn clips_to_the_end() {
        assert_eq!(End::Exact(5).clip(Range::new(0, Range::TO_END)), Some((0, 5)));
        assert_eq!(End::Exact(5).clip(Range::new(2, 100)), Some((2, 3)));
        assert_eq!(End::Exact(5).clip(Range::new(5, 1)), None);
        assert_eq!(End::Open(5).clip(Range::new(2, 100)), Some((2, 100)));
        assert_eq!(End::Open(5).clip(Range::new(4096, Range::TO_END - 4096)), None);
    }
}
