//! Making a sequence that fails shorter.

use super::op::Op;

/// Leaves out of a sequence what it fails without, and says how it fails then. Cutting pieces out is quicker than what proptest does, for which
/// each operation is a value to be made smaller.
pub fn shorter(mut ops: Vec<Op>, fails: impl Fn(&[Op]) -> Option<String>) -> Option<String> {
    let mut why = fails(&ops)?;
    let mut piece = ops.len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        let before = ops.len();
        while at < ops.len() {
            let mut fewer = ops.clone();
            fewer.drain(at..(at + piece).min(ops.len()));
            match fails(&fewer) {
                Some(text) => (why, ops) = (text, fewer),
                None => at += piece,
            }
        }
        if piece > 1 || ops.len() == before {
            piece /= 2;
        }
    }
    Some(why)
}
