//! Where the bytes under a version come from: a map of the file, flattened over all versions below it.

use crate::store::codec::{Reader, Writer};
use crate::store::{Result, StoreError};
use crate::types::VersionId;

/// Who has a range of bytes, at the same offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The base file.
    Base,
    /// A version file.
    Version(VersionId),
}

/// `[start, end)` of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub start: u64,
    pub end: u64,
    pub source: Source,
}

/// Extents in order, none empty, none overlapping. Between them, and behind the last, there are zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents {
    list: Vec<Extent>,
}

impl Extents {
    /// One extent, if it is not empty.
    pub fn one(start: u64, end: u64, source: Source) -> Extents {
        let mut extents = Extents::default();
        extents.push(Extent { start, end, source });
        extents
    }

    /// Adds an extent behind the others; one that continues the last one is joined with it.
    pub fn push(&mut self, extent: Extent) {
        if extent.start >= extent.end {
            return;
        }
        match self.list.last_mut() {
            Some(last) if last.source == extent.source && last.end == extent.start => last.end = extent.end,
            _ => self.list.push(extent),
        }
    }

    /// Adds the part of another map that lies in `[start, end)`.
    pub fn push_part(&mut self, other: &Extents, start: u64, end: u64) {
        let first = other.list.partition_point(|e| e.end <= start);
        for extent in other.list.iter().skip(first).take_while(|e| e.start < end) {
            self.push(Extent { start: extent.start.max(start), end: extent.end.min(end), ..*extent });
        }
    }

    /// What is at `offset`, and where that changes.
    pub fn at(&self, offset: u64) -> (Option<Source>, u64) {
        let next = self.list.partition_point(|e| e.end <= offset);
        match self.list.get(next) {
            Some(e) if e.start <= offset => (Some(e.source), e.end),
            Some(e) => (None, e.start),
            None => (None, u64::MAX),
        }
    }

    /// The same map with one source in the place of another.
    pub fn replaced(&self, old: Source, new: Source) -> Extents {
        let mut extents = Extents::default();
        for extent in &self.list {
            let source = if extent.source == old { new } else { extent.source };
            extents.push(Extent { source, ..*extent });
        }
        extents
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Extent> {
        self.list.iter()
    }

    /// For the log: u8 layout, u32 count, then start, end and version (0: the base) of each.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(8 + self.list.len() * 24);
        let mut w = Writer(&mut value);
        w.u8(1);
        w.u32(u32::try_from(self.list.len()).unwrap_or(u32::MAX));
        for extent in &self.list {
            w.u64(extent.start);
            w.u64(extent.end);
            w.u64(match extent.source {
                Source::Base => VersionId::BASE.0,
                Source::Version(id) => id.0,
            });
        }
        value
    }

    pub fn decode(value: &[u8]) -> Result<Extents, StoreError> {
        let mut r = Reader::new(value, "extents");
        r.layout(1)?;
        let count = r.u32()?;
        let mut list = Vec::new();
        let mut behind = 0;
        for _ in 0..count {
            let (start, end, id) = (r.u64()?, r.u64()?, VersionId(r.u64()?));
            if start < behind || end <= start {
                return Err(r.corrupt("extents are not in order"));
            }
            behind = end;
            list.push(Extent {
                start,
                end,
                source: if id == VersionId::BASE { Source::Base } else { Source::Version(id) },
            });
        }
        r.end()?;
        Ok(Extents { list })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_join_are_cut_and_read_back() {
        let v = |n| Source::Version(VersionId(n));
        let mut map = Extents::one(0, 10, Source::Base);
        map.push(Extent { start: 10, end: 10, source: v(1) });
        map.push(Extent { start: 10, end: 20, source: Source::Base });
        map.push(Extent { start: 30, end: 40, source: v(2) });
        assert_eq!(map.iter().count(), 2);
        assert_eq!(map.at(5), (Some(Source::Base), 20));
        assert_eq!(map.at(20), (None, 30));
        assert_eq!(map.at(39), (Some(v(2)), 40));
        assert_eq!(map.at(40), (None, u64::MAX));
        let mut part = Extents::default();
        part.push_part(&map, 15, 35);
        let pieces: Vec<_> = part.iter().map(|e| (e.start, e.end)).collect();
        assert_eq!(pieces, [(15, 20), (30, 35)]);
        let bytes = map.encode();
        assert_eq!(Extents::decode(&bytes).unwrap(), map);
        for len in 0..bytes.len() {
            assert!(Extents::decode(&bytes[..len]).is_err());
        }
    }
}
