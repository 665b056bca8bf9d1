//! Carrying a mark for each line from one text to the next. Pure.

use std::ops::Range;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::merge::lines::{Hunk, hunks, split};

/// Lines that were moved keep their marks if they have so many letters and digits together; fewer are likely to be there by chance. As git's `-M`.
const MOVED: usize = 20;

/// Lines of both texts that are looked at for the place from which on they are alike again.
const WINDOW: usize = 48;
/// They are alike again where so many lines in a row are the same, with so many bytes, or all that is left.
const ANCHOR: usize = 6;
const ANCHOR_BYTES: usize = 48;

/// Which lines of a text are lines of another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    /// Where they are in the new text, where they are in the old one, and how many follow one another.
    runs: Vec<(u32, u32, u32)>,
    /// Lines of the new text.
    lines: usize,
}

impl Map {
    /// Compares two texts as `git diff` does it, but for this: where two long ones differ in a few places, each of these is looked at by itself.
    pub fn of(old: &[u8], new: &[u8]) -> Map {
        let mut work = Work::default();
        let (mut old, mut new) = (old, new);
        loop {
            let head = whole_lines(alike(old, new), old, new);
            work.keep(lines(old.get(..head).unwrap_or_default()));
            (old, new) = (old.get(head..).unwrap_or_default(), new.get(head..).unwrap_or_default());
            if old.is_empty() && new.is_empty() {
                break;
            }
            let Some((from, to)) = alike_again(old, new) else {
                // Behind the end of a line in both, or at the beginning of what is left of it.
                let tail = tail_lines(alike_at_the_end(old, new), old, new);
                let (old_mid, kept) = old.split_at(old.len() - tail);
                work.differ(old_mid, new.get(..new.len() - tail).unwrap_or_default());
                work.keep(lines(kept));
                break;
            };
            let ((old_mid, old_rest), (new_mid, new_rest)) = (old.split_at(from), new.split_at(to));
            work.differ(old_mid, new_mid);
            (old, new) = (old_rest, new_rest);
        }
        work.end()
    }

    /// A mark for each line of the new text: that of the line of the old one which it is, or was moved from; `None` for a new line. `marks` are those of
    /// the old one.
    pub fn carry(&self, marks: &[u32]) -> Vec<Option<u32>> {
        let mut out = vec![None; self.lines];
        for &(to, from, count) in &self.runs {
            let (to, from, count) = (to as usize, from as usize, count as usize);
            let marks = marks.get(from..from + count).unwrap_or_default();
            for (slot, mark) in out.get_mut(to..).unwrap_or_default().iter_mut().zip(marks) {
                *slot = Some(*mark);
            }
        }
        out
    }
}

/// Where two texts that begin differently go on alike, if that is not far: the bytes before it of both.
fn alike_again(old: &[u8], new: &[u8]) -> Option<(usize, usize)> {
    let few = |text| split(text).take(WINDOW + ANCHOR).collect::<Vec<&[u8]>>();
    let (a, b) = (few(old), few(new));
    let ends = |lines: &[&[u8]], text: &[u8]| lines.iter().map(|line| line.len()).sum::<usize>() == text.len();
    let (a_ends, b_ends) = (ends(&a, old), ends(&b, new));
    let is_anchor = |from: usize, to: usize| {
        let (x, y) = (a.get(from..).unwrap_or_default(), b.get(to..).unwrap_or_default());
        let same = x.iter().zip(y).take(ANCHOR).take_while(|(x, y)| x == y).count();
        let bytes: usize = x.iter().take(same).map(|line| line.len()).sum();
        let all = same == x.len() && same == y.len() && a_ends && b_ends;
        all || (same == ANCHOR && bytes >= ANCHOR_BYTES)
    };
    for both in 1..2 * WINDOW {
        for from in both.saturating_sub(WINDOW)..=both.min(WINDOW) {
            let to = both - from;
            if from <= a.len() && to <= b.len() && is_anchor(from, to) {
                let bytes = |lines: &[&[u8]], n: usize| lines.iter().take(n).map(|line| line.len()).sum();
                return Some((bytes(&a, from), bytes(&b, to)));
            }
        }
    }
    None
}

/// Lines that follow one another, and where the first one is.
struct Run<'t> {
    start: usize,
    lines: Vec<&'t [u8]>,
}

#[derive(Default)]
struct Work<'t> {
    runs: Vec<(u32, u32, u32)>,
    /// How many lines are done of the old text, and of the new one.
    at: usize,
    out: usize,
    gone: Vec<Run<'t>>,
    came: Vec<Run<'t>>,
}

impl<'t> Work<'t> {
    /// The next lines are the same in both.
    fn keep(&mut self, count: usize) {
        if count > 0 {
            self.runs.push((self.out as u32, self.at as u32, count as u32));
        }
        self.at += count;
        self.out += count;
    }

    /// The next lines differ.
    fn differ(&mut self, old: &'t [u8], new: &'t [u8]) {
        let (old_lines, new_lines): (Vec<&[u8]>, Vec<&[u8]>) = (split(old).collect(), split(new).collect());
        let (mut from, mut to) = (0, 0);
        let (first_old, first_new) = (self.at, self.out);
        let hunks = if old.is_empty() || new.is_empty() { Vec::new() } else { hunks(old, new) };
        let whole = [Hunk { before: 0..old_lines.len() as u32, after: 0..new_lines.len() as u32 }];
        let hunks = if old.is_empty() || new.is_empty() { &whole[..] } else { &hunks };
        for hunk in hunks {
            let range = |range: &Range<u32>| range.start as usize..range.end as usize;
            let (before, after) = (range(&hunk.before), range(&hunk.after));
            self.keep(before.start - from);
            self.at += before.len();
            self.out += after.len();
            (from, to) = (before.end, after.end);
            let run = |start, lines: Option<&[&'t [u8]]>| Run { start, lines: lines.unwrap_or_default().to_vec() };
            if !before.is_empty() {
                self.gone.push(run(first_old + before.start, old_lines.get(before)));
            }
            if !after.is_empty() {
                self.came.push(run(first_new + after.start, new_lines.get(after)));
            }
        }
        debug_assert_eq!(old_lines.len() - from, new_lines.len() - to);
        self.keep(old_lines.len() - from);
    }

    fn end(mut self) -> Map {
        let moved = moved(&self.gone, &self.came);
        self.runs.extend(moved.into_iter().map(|(to, from, count)| (to as u32, from as u32, count as u32)));
        Map { runs: self.runs, lines: self.out }
    }
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
    memchr::memchr_iter(b'\n', text).count() + usize::from(text.last().is_some_and(|&b| b != b'\n'))
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

/// Runs of lines that are gone at one place and came at another: where they are in the new text, where they were, how many. Each old line is used once.
fn moved(gone: &[Run<'_>], came: &[Run<'_>]) -> Vec<(usize, usize, usize)> {
    /// A line that is gone as often as this is no sign of anything.
    const COMMON: usize = 64;
    let mut by_line: FxHashMap<&[u8], Vec<(usize, usize)>> = FxHashMap::default();
    for (n, run) in gone.iter().enumerate() {
        for (at, line) in run.lines.iter().enumerate() {
            by_line.entry(line).or_default().push((n, at));
        }
    }
    let mut used: FxHashSet<(usize, usize)> = FxHashSet::default();
    let mut found = Vec::new();
    for run in came {
        let mut at = 0;
        while let Some(line) = run.lines.get(at) {
            let starts = by_line.get(line).filter(|starts| starts.len() <= COMMON);
            let mut best = (0, 0, 0);
            for &(n, from) in starts.into_iter().flatten() {
                let old = gone.get(n).and_then(|run| run.lines.get(from..)).unwrap_or_default();
                let new = run.lines.get(at..).unwrap_or_default();
                let same = |(i, (a, b)): &(usize, (&&[u8], &&[u8]))| a == b && !used.contains(&(n, from + i));
                let len = old.iter().zip(new).enumerate().take_while(same).count();
                if len > best.2 {
                    best = (n, from, len);
                }
            }
            let (n, from, len) = best;
            let letters = run.lines.get(at..at + len).unwrap_or_default().iter().flat_map(|line| line.iter());
            if letters.filter(|b| b.is_ascii_alphanumeric() || **b >= 128).take(MOVED).count() >= MOVED {
                used.extend((from..from + len).map(|at| (n, at)));
                found.push((run.start + at, gone.get(n).map_or(0, |run| run.start) + from, len));
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
        Map::of(old.as_bytes(), new.as_bytes()).carry(&(0..count).collect::<Vec<_>>())
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
        let long = "fn one_that_is_long_enough() {}\n";
        let other = "fn other_that_is_long_enough() {}\n";
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
        for round in 0..3000 {
            // Some of them are long, with few differences.
            let mut text = |n: u64| -> String {
                let lines = next(n);
                let mut all: String = (0..lines).map(|_| format!("line with some letters {}\n", next(9))).collect();
                if next(3) == 0 {
                    all.pop();
                }
                all
            };
            let (old, mut new) = (text(if round % 3 == 0 { 200 } else { 12 }), text(12));
            if round % 3 == 0 {
                let mut lines: Vec<String> = old.split_inclusive('\n').map(str::to_owned).collect();
                for _ in 0..next(4) {
                    let at = next(lines.len() as u64 + 1) as usize;
                    lines.splice(
                        at..(at + next(3) as usize).min(lines.len()),
                        (0..next(3)).map(|n| format!("new {n}\n")),
                    );
                }
                new = lines.concat();
            }
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
