//! How much two files have in common, estimated as git does it (`diffcore-delta.c`): by lines, cut at 64 bytes.

use rustc_hash::FxHasher;
use std::hash::Hasher;

/// Bytes of one span at most.
const SPAN: usize = 64;

/// The spans of a file: hash and how many bytes have it, by hash.
pub struct Spans {
    counts: Vec<(u64, u64)>,
    size: u64,
}

impl Spans {
    pub fn new(bytes: &[u8]) -> Spans {
        let mut all: Vec<(u64, u64)> = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let line = rest.iter().take(SPAN).position(|&b| b == b'\n').map_or(SPAN, |at| at + 1).min(rest.len());
            let (span, tail) = rest.split_at(line);
            let mut hasher = FxHasher::default();
            hasher.write(span);
            all.push((hasher.finish(), span.len() as u64));
            rest = tail;
        }
        all.sort_unstable();
        let mut counts: Vec<(u64, u64)> = Vec::with_capacity(all.len());
        for (hash, len) in all {
            match counts.last_mut() {
                Some(last) if last.0 == hash => last.1 += len,
                _ => counts.push((hash, len)),
            }
        }
        counts.shrink_to_fit();
        Spans { counts, size: bytes.len() as u64 }
    }

    /// Whether the sizes alone allow this likeness.
    pub fn may_reach(&self, other: &Spans, percent: u8) -> bool {
        self.size.min(other.size) * 100 >= self.size.max(other.size) * u64::from(percent)
    }

    /// What is in both, in percent of the larger one.
    pub fn similarity(&self, other: &Spans) -> u8 {
        let larger = self.size.max(other.size);
        if larger == 0 {
            return 100;
        }
        let mut common = 0;
        let (mut left, mut right) = (self.counts.iter().peekable(), other.counts.iter().peekable());
        while let (Some((a, n)), Some((b, m))) = (left.peek(), right.peek()) {
            match a.cmp(b) {
                std::cmp::Ordering::Less => drop(left.next()),
                std::cmp::Ordering::Greater => drop(right.next()),
                std::cmp::Ordering::Equal => {
                    common += n.min(m);
                    left.next();
                    right.next();
                }
            }
        }
        (common * 100 / larger) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_common_lines() {
        let similarity = |a: &[u8], b: &[u8]| Spans::new(a).similarity(&Spans::new(b));
        assert_eq!(similarity(b"a\nb\nc\nd\n", b"a\nb\nc\nd\n"), 100);
        assert_eq!(similarity(b"a\nb\nc\nd\n", b"d\nc\nx\ny\n"), 50);
        assert_eq!(similarity(b"a\nb\n", b"c\nd\n"), 0);
        assert_eq!(similarity(b"", b""), 100);
        assert_eq!(similarity(b"", b"x"), 0);
        assert_eq!(similarity(&[b'x'; 128], &[b'x'; 256]), 50);
    }
}
