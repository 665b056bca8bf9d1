//! Byte ranges, and sets of them that stay small.

use smallvec::SmallVec;

/// `len` bytes from `offset`. `len` may be [`Range::TO_END`]: up to the end of the file, however long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    pub offset: u64,
    pub len: u64,
}

impl Range {
    pub const TO_END: u64 = u64::MAX;

    pub fn new(offset: u64, len: u64) -> Range {
        Range { offset, len }
    }

    /// One past the last byte, saturating.
    pub fn end(self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    pub fn contains(self, other: Range) -> bool {
        self.offset <= other.offset && other.end() <= self.end()
    }
}

/// Sorted ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    ranges: SmallVec<[Range; 2]>,
}

impl RangeSet {
    pub fn new() -> RangeSet {
        RangeSet::default()
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    pub fn as_slice(&self) -> &[Range] {
        &self.ranges
    }

    /// Adds a range, joining it with those it overlaps or touches. Returns whether the set grew. Empty ranges are ignored.
    pub fn insert(&mut self, range: Range) -> bool {
        if range.len == 0 {
            return false;
        }
        let first = self.ranges.partition_point(|r| r.end() < range.offset);
        let mut last = first;
        let (mut start, mut end) = (range.offset, range.end());
        while let Some(r) = self.ranges.get(last).filter(|r| r.offset <= end) {
            if last == first && r.contains(range) {
                return false;
            }
            start = start.min(r.offset);
            end = end.max(r.end());
            last += 1;
        }
        self.ranges.drain(first..last);
        self.ranges.insert(first, Range::new(start, end - start));
        true
    }

    pub fn contains(&self, range: Range) -> bool {
        if range.len == 0 {
            return true;
        }
        let at = self.ranges.partition_point(|r| r.end() < range.end());
        self.ranges.get(at).is_some_and(|r| r.contains(range))
    }

    /// Empties the set and returns what was in it.
    pub fn take(&mut self) -> SmallVec<[Range; 2]> {
        std::mem::take(&mut self.ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u64, u64)]) -> RangeSet {
        let mut set = RangeSet::new();
        for &(offset, len) in ranges {
            set.insert(Range::new(offset, len));
        }
        set
    }

    #[test]
    fn joins_overlapping_and_touching() {
        let pairs = |s: &RangeSet| s.as_slice().iter().map(|r| (r.offset, r.len)).collect::<Vec<_>>();
        assert_eq!(pairs(&set(&[(0, 10), (10, 10)])), [(0, 20)]);
        assert_eq!(pairs(&set(&[(20, 5), (0, 10)])), [(0, 10), (20, 5)]);
        assert_eq!(pairs(&set(&[(0, 10), (20, 5), (5, 20)])), [(0, 25)]);
        assert_eq!(pairs(&set(&[(0, 10), (20, 5), (40, 1), (9, 12)])), [(0, 25), (40, 1)]);
        assert_eq!(pairs(&set(&[(0, Range::TO_END), (5, 5)])), [(0, Range::TO_END)]);
        assert_eq!(pairs(&set(&[(3, 0)])), []);
    }

    #[test]
    fn grows_only_when_something_is_new() {
        let mut s = set(&[(0, 10)]);
        assert!(!s.insert(Range::new(2, 3)));
        assert!(s.insert(Range::new(9, 2)));
        assert!(s.contains(Range::new(0, 11)));
        assert!(!s.contains(Range::new(0, 12)));
        assert!(s.contains(Range::new(100, 0)));
    }
}
