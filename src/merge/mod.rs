//! The three-way merge of texts, line by line, with the result of `git merge-file`.
//!
//! Two texts that descend from one base become one that has the changes of both; where the changes touch, it is a conflict. A pure function
//! of bytes: knows no files, no snapshots and no encoding. A line ends with its LF, so a text whose last line has none differs from one that has it,
//! and a CR before it is a byte like any other.

pub mod lines;
mod regions;
mod write;

use std::ops::Range;

use lines::{Differ, Texts};
use regions::Kind;

/// More lines than this in one of the texts, and they are not compared line by line. A merge needs memory for each line, up to 200 MB
/// at this limit, and its time can grow with the power 1.5 of the lines: seconds, if three texts of this length have all lines in another order.
pub const MOST_LINES: usize = 1 << 20;

/// What came of a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merged {
    /// The changes of both.
    Clean(Vec<u8>),
    /// Changes that exclude each other.
    Conflicts {
        /// Never empty; in the order of the text. As many as there are `<<<<<<<` in `marked`.
        regions: Vec<Region>,
        /// The merged text with the conflicts between markers, for a person to resolve. Lines of the texts that look like markers are left as they are,
        /// as git does.
        marked: Vec<u8>,
    },
}

/// Where one conflict is: lines, the first of a text being 1, from `start` up to but not including `end`. An empty range is before its line.
///
/// Lines that both sides have alike are taken out of a conflict, which can cut it in several. What the base had for each of these
/// is not known then: all have the range of the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    pub base: Range<u64>,
    pub ours: Range<u64>,
    pub theirs: Range<u64>,
}

/// What to take where changes exclude each other. Changes of one side alone are taken in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Favor {
    /// Nothing: it is a conflict.
    #[default]
    None,
    /// Our lines; the merge is clean.
    Ours,
    /// Their lines; the merge is clean.
    Theirs,
}

/// Merges two descendants of `base`. `labels` name ours and theirs in the conflict markers.
///
/// If a text has more than [`MOST_LINES`] lines, and not two of the three are the same, all of it is one conflict. In long texts of few different
/// lines a conflict can be larger than it would have to be.
pub fn merge(base: &[u8], ours: &[u8], theirs: &[u8], labels: (&str, &str), favor: Favor) -> Merged {
    if let Some(same) = whole(base, ours, theirs) {
        return Merged::Clean(same.to_vec());
    }
    let counts = [base, ours, theirs].map(lines::count);
    if counts.iter().any(|&n| n > MOST_LINES) {
        return too_many_lines([base, ours, theirs], counts, labels, favor);
    }
    merge_lines(&Texts::new(base, ours, theirs), labels, favor, &mut lines::diff)
}

/// Whether git would take this for text: no NUL among the first 8000 bytes.
pub fn is_text(bytes: &[u8]) -> bool {
    !bytes.iter().take(8000).any(|&b| b == 0)
}

/// The result where only one side changed something, or both did the same.
fn whole<'a>(base: &[u8], ours: &'a [u8], theirs: &'a [u8]) -> Option<&'a [u8]> {
    if base == ours {
        Some(theirs)
    } else if base == theirs || ours == theirs {
        Some(ours)
    } else {
        None
    }
}

/// The merge, with any way to compare lines: tests bring another one.
fn merge_lines(texts: &Texts<'_>, labels: (&str, &str), favor: Favor, diff: &mut Differ<'_>) -> Merged {
    let (ours, theirs) = (diff(&texts.base, &texts.ours), diff(&texts.base, &texts.theirs));
    let parts = regions::parts(texts, &ours, &theirs);
    let parts = regions::join(texts, regions::refine(texts, parts, diff));
    let bytes = write::write(texts, &parts, labels, favor);
    let conflicts = parts.iter().filter(|part| part.kind == Kind::Conflict);
    let regions: Vec<Region> = match favor {
        Favor::None => conflicts.map(|part| region(&part.base, &part.ours, &part.theirs)).collect(),
        Favor::Ours | Favor::Theirs => Vec::new(),
    };
    if regions.is_empty() { Merged::Clean(bytes) } else { Merged::Conflicts { regions, marked: bytes } }
}

fn region(base: &Range<usize>, ours: &Range<usize>, theirs: &Range<usize>) -> Region {
    let number = |lines: &Range<usize>| lines.start as u64 + 1..lines.end as u64 + 1;
    Region { base: number(base), ours: number(ours), theirs: number(theirs) }
}

fn too_many_lines(texts: [&[u8]; 3], counts: [usize; 3], labels: (&str, &str), favor: Favor) -> Merged {
    let [_, ours, theirs] = texts;
    match favor {
        Favor::Ours => Merged::Clean(ours.to_vec()),
        Favor::Theirs => Merged::Clean(theirs.to_vec()),
        Favor::None => {
            let [base_lines, our_lines, their_lines] = counts;
            let mut marked = Vec::with_capacity(ours.len() + theirs.len() + 64);
            // The end of a text's first line speaks for all.
            let crlf = texts.iter().all(|text| lines::split(text).next().is_some_and(|line| line.ends_with(b"\r\n")));
            write::conflict(&mut marked, [ours].into_iter(), [theirs].into_iter(), labels, crlf);
            Merged::Conflicts { regions: vec![region(&(0..base_lines), &(0..our_lines), &(0..their_lines))], marked }
        }
    }
}

#[cfg(test)]
mod tests;
