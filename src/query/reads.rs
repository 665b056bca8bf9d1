//! Read-sets: which bytes of which files each process saw, or may have seen.
//!
//! The promise of the record carries over: a read-set is never smaller than what was read. Where a size is not known any
//! more, a range to the end stays open up to the largest size a file can have.

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

/// Who saw which file where.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    actor: ActorId,
    path: Path,
    file: File,
}

impl Key {
    fn order(&self) -> (ActorId, &Path, Ino, u64, u64) {
        let (ino, content) = self.file;
        (self.actor, &self.path, ino, content.version.0, content.stamp)
    }
}

/// Sends one row for each process, path, content and way of knowing; by process, then by path.
///
/// What a process was observed to read of some bytes is not repeated as inferred.
pub fn reads(store: &Store, filter: &ReadsFilter, contents: &dyn Contents, sink: Sink<'_, ReadRow>) -> Result<()> {
    let glob = filter.path.as_deref().map(PathGlob::new).transpose()?;
    let mut names = Names::new(store);
    let mut seen: FxHashMap<Key, Seen> = FxHashMap::default();
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
        let key = Key { actor: event.actor, path: note.path.clone(), file: (note.ino, seen_content(note)) };
        let entry = seen.entry(key).or_default();
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
    for (key, seen) in seen.iter().filter(|(_, seen)| !seen.observed.is_empty()) {
        let all = observed.entry((key.actor, key.file)).or_default();
        for range in seen.observed.as_slice() {
            all.insert(*range);
        }
    }
    let mut ordered: Vec<(Key, Seen)> = seen.into_iter().collect();
    ordered.sort_unstable_by(|(a, _), (b, _)| a.order().cmp(&b.order()));
    for (Key { actor, path, file }, seen) in ordered {
        let (pid, comm) = names.get(actor)?.clone();
        let (ino, content) = file;
        let end = match contents.size(ino, content, &path) {
            Some(Size::Exact(size)) => End::Exact(size),
            Some(Size::Now(size)) => End::Open(size.max(reached(ino))),
            None if ino.is_allocated() => End::Open(reached(ino)),
            None => End::Open(UNKNOWN_END),
        };
        let known = observed.get(&(actor, file)).map_or(&[][..], RangeSet::as_slice);
        let inferred = without(seen.inferred.as_slice(), known);
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

    /// Sizes and hashes as a test gives them.
    struct Sizes(FxHashMap<ContentRef, Size>);

    impl Contents for Sizes {
        fn hash(&self, _ino: Ino, content: ContentRef, _path: &Path) -> Option<[u8; 32]> {
            matches!(self.0.get(&content), Some(Size::Exact(_))).then_some([7; 32])
        }

        fn size(&self, _ino: Ino, content: ContentRef, _path: &Path) -> Option<Size> {
            self.0.get(&content).copied()
        }
    }

    #[test]
    fn one_row_for_each_process_content_and_way_of_knowing() {
        use crate::record::{Observation, Record};
        use crate::store::{Data, format, mem::MemKv};
        use crate::types::{Epoch, Errno, Note, Op, Time};
        let dir = tempfile::tempdir().unwrap();
        let owner = format::Owner { repo: "/r".into(), root_ino: 1, root_born: None };
        let format = format::Format::create_or_load(dir.path(), &owner).unwrap();
        let data = Data::open(&dir.path().join("data")).unwrap();
        let kv = std::sync::Arc::new(MemKv::new());
        let store = std::sync::Arc::new(Store::from_parts(dir.path(), kv, data, format).unwrap());
        let record = Record::open(store.clone()).unwrap();
        let (now, gone) =
            (ContentRef { stamp: 1, ..ContentRef::default() }, ContentRef { stamp: 2, ..ContentRef::default() });
        let note = |op, known, ino, path: &str, content, range| {
            let note = Note::new(op, Ino(ino), Path::new(path.as_bytes())).with_range(range);
            Note { known, before: content, after: content, ..note }
        };
        let whole = Range::new(0, Range::TO_END);
        let (seen, maybe) = (Known::Observed, Known::Inferred);
        for (actor, note) in [
            (1, note(Op::Open, maybe, 5, "a", now, whole)),
            (1, note(Op::Read, seen, 5, "a", now, Range::new(0, 10))),
            (1, note(Op::Read, seen, 5, "a", now, Range::new(10, 10))),
            (2, note(Op::Open, maybe, 5, "a", gone, whole)),
            (2, note(Op::Read, seen, 6, "b", now, whole).with_errno(Errno::EIO)),
            (2, note(Op::Write, seen, 5, "a", gone, Range::new(100, 50))),
        ] {
            let observation = Observation { time: Time::default(), epoch: Epoch(1), actor: ActorId(actor), note };
            record.append(&[observation], crate::store::Sync::No).unwrap();
        }
        let contents = Sizes([(now, Size::Exact(40)), (gone, Size::Now(3))].into_iter().collect());
        let mut rows = Vec::new();
        let all = ReadsFilter::default();
        reads(&store, &all, &contents, &mut |row| {
            rows.push((row.actor, row.path, row.known, row.ranges, row.content.is_some()));
            ControlFlow::Continue(())
        })
        .unwrap();
        let row = |actor, known: &str, ranges: &[(u64, u64)], hash| {
            (actor, "a".to_owned(), known.to_owned(), ranges.to_vec(), hash)
        };
        assert_eq!(
            rows,
            [
                row(1, "observed", &[(0, 20)], true),
                // What was observed is not repeated; the end is that of these very bytes.
                row(1, "inferred", &[(20, 20)], true),
                // The bytes are gone: as far as anything ever reached into the file.
                row(2, "inferred", &[(0, 150)], false),
            ]
        );
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
