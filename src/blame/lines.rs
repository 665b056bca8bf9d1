//! Carrying a mark for each line from one text to the next. Pure.

use std::ops::Range;

use rustc_hash::FxHashMap;

use crate::merge::lines::{hunks, split};

/// Lines that were moved keep their marks if they have so many letters and digits together; fewer are likely to be there by chance. As git's `-M`.
const MOVED: usize = 20;

/// A mark for each line of `new`: that of the line of `old` which it is, or was moved from; `None` for a new line. `marks` are those of `old`.
pub fn carry(old: &[u8], marks: &[u32], new: &[u8]) -> Vec<Option<u32>> {
    let head = whole_lines(alike(old, new), old, new);
    let (old_rest, new_rest) = (old.get(head..).unwrap_or_default(), new.get(head..).unwrap_or_default());
    let same = alike_at_the_end(old_rest, new_rest);
    // Behind the end of a line in both, or at the beginning of what is left of it.
    let tail = tail_lines(same, old_rest, new_rest);
    let old_mid = old_rest.get(..old_rest.len() - tail).unwrap_or_default();
    let new_mid = new_rest.get(..new_rest.len() - tail).unwrap_or_default();

    let at = lines(old.get(..head).unwrap_or_default());
    let mut out: Vec<Option<u32>> = marks.iter().take(at).map(|mark| Some(*mark)).collect();
    if !(old_mid.is_empty() && new_mid.is_empty()) {
        middle(old_mid, marks.get(at..).unwrap_or_default(), new_mid, &mut out);
    }
    let kept = lines(old_rest.get(old_rest.len() - tail..).unwrap_or_default());
    out.extend(marks.get(marks.len().saturating_sub(kept)..).unwrap_or_default().iter().map(|mark| Some(*mark)));
    out
}

/// How many bytes both begin with.
fn alike(one: &[u8], other: &[u8]) -> usize {
    const BLOCK: usize = 256;
    let blocks = one.chunks_exact(BLOCK).zip(other.chunks_exact(BLOCK)).take_while(|(a, b)| a == b).count() * BLOCK;
    let (one, other) = (one.get(blocks..).unwrap_or_default(), other.get(blocks..).unwrap_or_default());
    blocks + one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

/// How many bytes both end with.
fn alike_at_the_end(one: &[u8], other: &[u8]) -> usize {
    const BLOCK: usize = 256;
    let blocks = one.rchunks_exact(BLOCK).zip(other.rchunks_exact(BLOCK)).take_while(|(a, b)| a == b).count() * BLOCK;
    let left = |text: &[u8]| text.len() - blocks;
    let (one, other) = (one.get(..left(one)).unwrap_or_default(), other.get(..left(other)).unwrap_or_default());
    blocks + one.iter().rev().zip(other.iter().rev()).take_while(|(a, b)| a == b).count()
}

/// How many lines there are.
pub fn lines(text: &[u8]) -> usize {
    split(text).count()
}

/// The first `same` bytes of both, cut back to the end of a line.
fn whole_lines(same: usize, old: &[u8], new: &[u8]) -> usize {
    if same == old.len() && same == new.len() {
        return same;
    }
    old.get(..same).unwrap_or_default().iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1)
}

/// Of the last `same` bytes of both, those from the beginning of a line on.
fn tail_lines(same: usize, old: &[u8], new: &[u8]) -> usize {
    let begins = |text: &[u8]| same == text.len() || text.get(text.len() - same - 1) == Some(&b'\n');
    if begins(old) && begins(new) {
        return same;
    }
    let part = old.get(old.len() - same..).unwrap_or_default();
    part.iter().position(|&b| b == b'\n').map_or(0, |at| same - at - 1)
}

fn middle(old: &[u8], marks: &[u32], new: &[u8], out: &mut Vec<Option<u32>>) {
    let (old_lines, new_lines): (Vec<&[u8]>, Vec<&[u8]>) = (split(old).collect(), split(new).collect());
    let hunks = hunks(old, new);
    let mut done = vec![None; new_lines.len()];
    let (mut from, mut to) = (0, 0);
    let same = |done: &mut Vec<Option<u32>>, from: usize, to: Range<usize>| {
        for (slot, mark) in done.get_mut(to).unwrap_or_default().iter_mut().zip(marks.get(from..).unwrap_or_default()) {
            *slot = Some(*mark);
        }
    };
    for hunk in &hunks {
        same(&mut done, from, to..hunk.after.start as usize);
        (from, to) = (hunk.before.end as usize, hunk.after.end as usize);
    }
    same(&mut done, from, to..new_lines.len());
    let range = |range: &Range<u32>| range.start as usize..range.end as usize;
    let gone: Vec<Range<usize>> = hunks.iter().map(|hunk| range(&hunk.before)).filter(|r| !r.is_empty()).collect();
    let came: Vec<Range<usize>> = hunks.iter().map(|hunk| range(&hunk.after)).filter(|r| !r.is_empty()).collect();
    for (to, from, len) in moved(&old_lines, &gone, &new_lines, &came) {
        same(&mut done, from, to..to + len);
    }
    out.extend(done);
}

/// Runs of lines that are gone at one place and came at another: where they are in the new text, where they were, how many. Each old line is used once.
fn moved(old: &[&[u8]], gone: &[Range<usize>], new: &[&[u8]], came: &[Range<usize>]) -> Vec<(usize, usize, usize)> {
    /// A line that is gone as often as this is no sign of anything.
    const COMMON: usize = 64;
    let mut by_line: FxHashMap<&[u8], Vec<(usize, usize)>> = FxHashMap::default();
    for range in gone {
        for at in range.clone() {
            if let Some(line) = old.get(at) {
                by_line.entry(line).or_default().push((at, range.end));
            }
        }
    }
    let mut used = vec![false; old.len()];
    let mut found = Vec::new();
    for range in came {
        let mut at = range.start;
        while at < range.end {
            let starts = new.get(at).and_then(|line| by_line.get(line)).filter(|starts| starts.len() <= COMMON);
            let mut best = (0, 0);
            for &(from, end) in starts.into_iter().flatten() {
                let most = (range.end - at).min(end - from);
                let same = |i: &usize| old.get(from + i) == new.get(at + i) && used.get(from + i) == Some(&false);
                let len = (0..most).take_while(same).count();
                if len > best.1 {
                    best = (from, len);
                }
            }
            let (from, len) = best;
            let letters = new.get(at..at + len).unwrap_or_default().iter().flat_map(|line| line.iter());
            if letters.filter(|b| b.is_ascii_alphanumeric() || **b >= 128).take(MOVED).count() >= MOVED {
                used.get_mut(from..from + len).unwrap_or_default().fill(true);
                found.push((at, from, len));
                at += len;
            } else {
                at += 1;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(old: &str, new: &str) -> Vec<Option<u32>> {
        let count = lines(old.as_bytes()) as u32;
        carry(old.as_bytes(), &(0..count).collect::<Vec<_>>(), new.as_bytes())
    }

    #[test]
    fn what_stays_keeps_its_mark() {
        assert_eq!(marks("a\nb\nc\n", "a\nb\nc\n"), [Some(0), Some(1), Some(2)]);
        assert_eq!(marks("a\nb\nc\n", "a\nx\nc\n"), [Some(0), None, Some(2)]);
        assert_eq!(marks("a\nb\nc\n", "x\na\nb\ny\nc\nz\n"), [None, Some(0), Some(1), None, Some(2), None]);
        assert_eq!(marks("a\nb\nc\n", "c\n"), [Some(2)]);
        assert_eq!(marks("", "a\n"), [None]);
        assert_eq!(marks("a\n", ""), []);
        // A last line without its end is another one once it has it.
        assert_eq!(marks("a\nb", "a\nb\n"), [Some(0), None]);
        assert_eq!(marks("a\nb\n", "a\nb"), [Some(0), None]);
        assert_eq!(marks("a", "a"), [Some(0)]);
        assert_eq!(marks("ab\nc\n", "b\nc\n"), [None, Some(1)]);
        assert_eq!(marks("b\nc\n", "ab\nc\n"), [None, Some(1)]);
        // Head and tail overlap.
        assert_eq!(marks("a\na\n", "a\na\na\n"), [Some(0), Some(1), None]);
        assert_eq!(marks("a\na\na\n", "a\n"), [Some(0)]);
    }

    #[test]
    fn what_moved_keeps_its_mark() {
        let long = "fn one_that_is_long() {}\n";
        let other = "fn other_that_is_long() {}\n";
        let old = format!("{long}{other}end\n");
        assert_eq!(marks(&old, &format!("{other}{long}end\n")), [Some(1), Some(0), Some(2)]);
        // Twice there, once before: one of them is new.
        let twice = marks(&format!("{long}x\ny\n"), &format!("x\ny\n{long}{long}"));
        assert_eq!(twice.iter().filter(|m| **m == Some(0)).count(), 1);
        // A brace is moved by nobody.
        assert_eq!(
            marks("}\nlonger line a\nlonger line b\n", "longer line a\nlonger line b\n}\n"),
            [Some(1), Some(2), None]
        );
    }

    #[test]
    fn random_texts_have_a_mark_for_each_line_and_only_true_ones() {
        let mut seed = 7_u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for _ in 0..2000 {
            let mut text = |n: u64| -> String {
                let lines = next(n);
                let mut all: String = (0..lines).map(|_| format!("line with some letters {}\n", next(9))).collect();
                if next(3) == 0 {
                    all.pop();
                }
                all
            };
            let (old, new) = (text(12), text(12));
            let found = marks(&old, &new);
            let (old, new): (Vec<&[u8]>, Vec<&[u8]>) =
                (split(old.as_bytes()).collect(), split(new.as_bytes()).collect());
            assert_eq!(found.len(), new.len());
            for (mark, line) in found.iter().zip(&new) {
                assert!(mark.is_none_or(|mark| old[mark as usize] == *line), "{old:?} {new:?} {found:?}");
            }
            let mut used: Vec<u32> = found.iter().flatten().copied().collect();
            let all = used.len();
            used.sort_unstable();
            used.dedup();
            assert_eq!(used.len(), all, "{old:?} {new:?} {found:?}");
        }
    }
}
