//! Which chunks of a file a version has itself: sorted runs of chunk numbers.

use std::collections::BTreeMap;

/// Bytes in a chunk: what is copied at least when a byte of a base file changes.
pub const CHUNK: u64 = 64 << 10;

/// A set of chunk numbers, kept as runs that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    runs: BTreeMap<u64, u64>,
}

impl Chunks {
    /// Adds `count` chunks from `first`, joining runs.
    pub fn insert(&mut self, first: u64, count: u64) {
        if count == 0 {
            return;
        }
        let (mut start, mut end) = (first, first.saturating_add(count));
        while let Some((&run, &len)) = self.runs.range(..=end).next_back().filter(|&(&run, &len)| run + len >= start) {
            start = start.min(run);
            end = end.max(run + len);
            self.runs.remove(&run);
        }
        self.runs.insert(start, end - start);
    }

    pub fn contains(&self, chunk: u64) -> bool {
        self.runs.range(..=chunk).next_back().is_some_and(|(&run, &len)| chunk < run + len)
    }

    /// From `chunk` on: whether it is in the set, and the first chunk for which that is different (`u64::MAX` if none).
    pub fn run_at(&self, chunk: u64) -> (bool, u64) {
        if let Some((&run, &len)) = self.runs.range(..=chunk).next_back()
            && chunk < run + len
        {
            return (true, run + len);
        }
        (false, self.runs.range(chunk..).next().map_or(u64::MAX, |(&run, _)| run))
    }

    /// Whether all chunks below `end` are in the set.
    pub fn covers(&self, end: u64) -> bool {
        end == 0 || self.run_at(0) == (true, u64::MAX) || matches!(self.run_at(0), (true, next) if next >= end)
    }

    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub fn count(&self) -> u64 {
        self.runs.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_join_and_answer() {
        let mut chunks = Chunks::default();
        chunks.insert(4, 2);
        chunks.insert(0, 1);
        assert_eq!(chunks.run_at(0), (true, 1));
        assert_eq!(chunks.run_at(1), (false, 4));
        assert_eq!(chunks.run_at(6), (false, u64::MAX));
        chunks.insert(1, 3);
        assert_eq!(chunks.run_at(0), (true, 6));
        assert!(chunks.covers(6) && !chunks.covers(7) && chunks.contains(5));
        chunks.insert(2, 10);
        assert_eq!(chunks.count(), 12);
        chunks.insert(20, 1);
        chunks.insert(19, 1);
        assert_eq!(chunks.run_at(12), (false, 19));
    }
}
