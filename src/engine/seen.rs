//! What was read through one open file since it was last written down, joined into as few events as possible.

use smallvec::SmallVec;

use crate::types::event::ContentRef;
use crate::types::{ActorId, Known, Range, RangeSet};

/// Ranges of one handle before they are written down early, so that a random reader does not grow the daemon.
const MOST_RANGES: usize = 512;

/// What one actor saw of one state of the bytes.
#[derive(Clone, Debug)]
pub struct Sight {
    pub actor: ActorId,
    pub known: Known,
    pub content: ContentRef,
    pub ranges: RangeSet,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Seen {
    sights: SmallVec<[Sight; 1]>,
}

impl Seen {
    /// Adds a range. Returns whether it is time to write down.
    pub fn add(&mut self, actor: ActorId, known: Known, content: ContentRef, range: Range) -> bool {
        let same = |s: &&mut Sight| s.actor == actor && s.known == known && s.content == content;
        match self.sights.iter_mut().find(same) {
            Some(sight) => {
                sight.ranges.insert(range);
                sight.ranges.len() > MOST_RANGES
            }
            None => {
                let mut ranges = RangeSet::new();
                ranges.insert(range);
                self.sights.push(Sight { actor, known, content, ranges });
                self.sights.len() > MOST_RANGES
            }
        }
    }

    pub fn take(&mut self) -> SmallVec<[Sight; 1]> {
        std::mem::take(&mut self.sights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_what_is_the_same_and_keeps_apart_what_is_not() {
        let mut seen = Seen::default();
        let (a, b, c) = (ActorId(1), ActorId(2), ContentRef::default());
        let later = ContentRef { stamp: 1, ..c };
        for (actor, content, offset) in [(a, c, 0), (a, c, 10), (b, c, 0), (a, later, 20)] {
            assert!(!seen.add(actor, Known::Observed, content, Range::new(offset, 10)));
        }
        let sights = seen.take();
        assert_eq!(sights.len(), 3);
        assert_eq!(sights[0].ranges.as_slice(), [Range::new(0, 20)]);
        assert!(seen.take().is_empty());
        let mut full = false;
        for i in 0..2 * MOST_RANGES as u64 {
            full |= seen.add(a, Known::Observed, c, Range::new(i * 2, 1));
        }
        assert!(full);
    }
}
