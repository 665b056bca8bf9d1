//! The bytes of a merged text: whose lines come where, and the markers around conflicts. Decides nothing about the merge.

use std::ops::Range;

use super::Favor;
use super::lines::{Texts, Token};
use super::regions::{Kind, Part, of};

/// Writes the merged text.
pub fn write(texts: &Texts<'_>, parts: &[Part], labels: (&str, &str), favor: Favor) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    for part in parts {
        copy(&mut out, texts, &texts.ours, &(at..part.ours.start));
        match (part.kind, favor) {
            (Kind::Ours, _) | (Kind::Conflict, Favor::Ours) => copy(&mut out, texts, &texts.ours, &part.ours),
            (Kind::Theirs, _) | (Kind::Conflict, Favor::Theirs) => copy(&mut out, texts, &texts.theirs, &part.theirs),
            (Kind::Conflict, Favor::None) => {
                let lines = |tokens, range| of(tokens, range).iter().map(|&token| texts.line(token));
                let (ours, theirs) = (lines(&texts.ours, &part.ours), lines(&texts.theirs, &part.theirs));
                conflict(&mut out, ours, theirs, labels, crlf_markers(texts, part));
            }
        }
        at = part.ours.end;
    }
    copy(&mut out, texts, &texts.ours, &(at..texts.ours.len()));
    out
}

fn copy(out: &mut Vec<u8>, texts: &Texts<'_>, tokens: &[Token], range: &Range<usize>) {
    for &token in of(tokens, range) {
        out.extend_from_slice(texts.line(token));
    }
}

/// Writes a conflict. A side whose last line has no end is given one, since a marker follows.
pub fn conflict<'l>(
    out: &mut Vec<u8>,
    ours: impl Iterator<Item = &'l [u8]>,
    theirs: impl Iterator<Item = &'l [u8]>,
    (our_label, their_label): (&str, &str),
    crlf: bool,
) {
    let end: &[u8] = if crlf { b"\r\n" } else { b"\n" };
    out.extend([b"<<<<<<< ", our_label.as_bytes(), end].concat());
    for line in ours {
        whole_line(out, line, end);
    }
    out.extend([b"=======", end].concat());
    for line in theirs {
        whole_line(out, line, end);
    }
    out.extend([b">>>>>>> ", their_label.as_bytes(), end].concat());
}

fn whole_line(out: &mut Vec<u8>, line: &[u8], end: &[u8]) {
    out.extend_from_slice(line);
    if !line.ends_with(b"\n") {
        out.extend_from_slice(end);
    }
}

/// Whether markers end with CRLF, as git decides it: only if the lines before the conflict do in both sides, and the first line of the base.
/// A text that does not show how its lines end agrees to anything, but the base has to show it.
fn crlf_markers(texts: &Texts<'_>, part: &Part) -> bool {
    let before = |range: &Range<usize>| range.start.saturating_sub(1);
    crlf(texts, &texts.ours, before(&part.ours)) != Some(false)
        && crlf(texts, &texts.theirs, before(&part.theirs)) != Some(false)
        && crlf(texts, &texts.base, 0) == Some(true)
}

/// Whether a line ends with CRLF. `None` if there is no such line, or it is a last one without an end. (git looks at the line before that; but a line
/// before a conflict is a last one only if it is the first, too.)
fn crlf(texts: &Texts<'_>, tokens: &[Token], at: usize) -> Option<bool> {
    let line = tokens.get(at).map(|&token| texts.line(token))?;
    line.ends_with(b"\n").then(|| line.ends_with(b"\r\n"))
}
