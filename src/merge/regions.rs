//! From the changes of two sides to the parts of the merged text: whose lines are taken where, and where nobody can say.
//!
//! Knows tokens, not bytes, except for one question of taste in [`join`]. Line numbers are from 0 here.

use std::ops::Range;

use super::lines::{Differ, Hunk, Texts, Token};

/// Between two conflicts, so many lines that are no conflict are too few to be worth a break.
const NARROW: usize = 3;

/// Whose lines are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ours,
    Theirs,
    Conflict,
}

/// Lines of the base, and what they became on both sides. Between two parts, all lines of ours are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub kind: Kind,
    pub base: Range<usize>,
    pub ours: Range<usize>,
    pub theirs: Range<usize>,
}

/// The lines of a range; none if there is no such range.
pub fn of<'t>(tokens: &'t [Token], range: &Range<usize>) -> &'t [Token] {
    tokens.get(range.clone()).unwrap_or_default()
}

/// One side's changes on the way through the base.
struct Side<'h> {
    hunks: std::iter::Peekable<std::slice::Iter<'h, Hunk>>,
    /// Where the base line after the last change is: in the base, and in this side.
    stands: (usize, usize),
}

impl<'h> Side<'h> {
    fn new(hunks: &'h [Hunk]) -> Side<'h> {
        Side { hunks: hunks.iter().peekable(), stands: (0, 0) }
    }

    fn next_start(&mut self) -> Option<usize> {
        self.hunks.peek().map(|hunk| hunk.before.start as usize)
    }

    /// Where a base line is that follows the last change, with nothing changed between.
    fn place(&self, base: usize) -> usize {
        self.stands.1 + base.saturating_sub(self.stands.0)
    }

    /// The next change, if it begins at this base line or before it: then its lines of the base.
    fn take(&mut self, until: usize) -> Option<Range<usize>> {
        let hunk = self.hunks.next_if(|hunk| hunk.before.start as usize <= until)?;
        self.stands = (hunk.before.end as usize, hunk.after.end as usize);
        Some(hunk.before.start as usize..self.stands.0)
    }
}

/// Groups changes that touch. A group with changes of one side is that side's; one with changes of both is a conflict,
/// unless it is the same change twice, which needs no part. Changes touch if not even one unchanged line is between them.
pub fn parts(texts: &Texts<'_>, ours: &[Hunk], theirs: &[Hunk]) -> Vec<Part> {
    let (mut our_side, mut their_side) = (Side::new(ours), Side::new(theirs));
    let mut parts = Vec::new();
    loop {
        let start = match (our_side.next_start(), their_side.next_start()) {
            (Some(a), Some(b)) => a.min(b),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return parts,
        };
        let begins = (our_side.place(start), their_side.place(start));
        let mut end = start;
        let (mut our_first, mut their_first) = (None, None);
        loop {
            if let Some(lines) = our_side.take(end) {
                end = end.max(lines.end);
                our_first.get_or_insert(lines);
            } else if let Some(lines) = their_side.take(end) {
                end = end.max(lines.end);
                their_first.get_or_insert(lines);
            } else {
                break;
            }
        }
        let ours = begins.0..our_side.place(end);
        let theirs = begins.1..their_side.place(end);
        let kind = match (our_first, their_first) {
            (_, None) => Kind::Ours,
            (None, _) => Kind::Theirs,
            // One change each, of the same lines. If both came to the same lines by other ways, `refine` will see it.
            (Some(a), Some(b))
                if a == b && a == (start..end) && of(&texts.ours, &ours) == of(&texts.theirs, &theirs) =>
            {
                continue;
            }
            _ => Kind::Conflict,
        };
        parts.push(Part { kind, base: start..end, ours, theirs });
    }
}

/// Takes out of conflicts the lines that both sides have alike, as git does ("zealous").
pub fn refine(texts: &Texts<'_>, parts: Vec<Part>, diff: &mut Differ<'_>) -> Vec<Part> {
    let mut refined = Vec::with_capacity(parts.len());
    for part in parts {
        if part.kind != Kind::Conflict {
            refined.push(part);
            continue;
        }
        let hunks = diff(of(&texts.ours, &part.ours), of(&texts.theirs, &part.theirs));
        if hunks.is_empty() {
            refined.push(Part { kind: Kind::Ours, ..part });
            continue;
        }
        let (ours, theirs) = (part.ours.start, part.theirs.start);
        refined.extend(hunks.iter().map(|hunk| Part {
            kind: Kind::Conflict,
            base: part.base.clone(),
            ours: ours + hunk.before.start as usize..ours + hunk.before.end as usize,
            theirs: theirs + hunk.after.start as usize..theirs + hunk.after.end as usize,
        }));
    }
    refined
}

/// Joins neighbouring conflicts where the lines between them are few, or only blanks and brackets: easier to read, and git's way.
pub fn join(texts: &Texts<'_>, parts: Vec<Part>) -> Vec<Part> {
    let mut joined: Vec<Part> = Vec::with_capacity(parts.len());
    for part in parts {
        match joined.last_mut() {
            Some(last) if last.kind == Kind::Conflict && part.kind == Kind::Conflict => {
                let between = of(&texts.ours, &(last.ours.end..part.ours.start));
                let says_something = |&token: &Token| texts.line(token).iter().any(u8::is_ascii_alphanumeric);
                if between.len() > NARROW && between.iter().any(says_something) {
                    joined.push(part);
                } else {
                    last.base.end = part.base.end;
                    last.ours.end = part.ours.end;
                    last.theirs.end = part.theirs.end;
                }
            }
            _ => joined.push(part),
        }
    }
    joined
}
