//! The hash chain over the record: changing, dropping or reordering an event breaks every hash after it.
//!
//! It shows tampering by who cannot recompute the chain to its end unnoticed; it does not prevent it (docs/SEMANTICS.md).

use crate::types::Seq;

pub type Hash = [u8; 32];

/// The hash before the first event: of the store's own id, so that records of two stores cannot be exchanged.
pub fn start(id: &str) -> Hash {
    *blake3::hash(id.as_bytes()).as_bytes()
}

/// The hash of an event: over the previous hash, its number and its bytes.
pub fn next(previous: &Hash, seq: Seq, event: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous);
    hasher.update(&seq.0.to_le_bytes());
    hasher.update(event);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts() {
        let first = next(&start("a"), Seq(1), b"x");
        assert_ne!(first, next(&start("b"), Seq(1), b"x"));
        assert_ne!(first, next(&start("a"), Seq(2), b"x"));
        assert_ne!(first, next(&start("a"), Seq(1), b"y"));
    }
}
