//! One file's part of a patch, in the format of git: what `git apply` takes.

use imara_diff::{Algorithm, Diff, Hunk, InternedInput};

use super::bytes::{self, LARGE};
use super::compare::{Change, Status, mode};
use super::quote::quote;
use crate::overlay::view::{Node, View};
use crate::types::Path;

/// Unchanged lines around a change.
const CONTEXT: u32 = 3;
/// Bytes of the line that a hunk's header quotes.
const HEADING: usize = 80;

/// See the module.
#[derive(Debug, Default)]
pub struct Patch {
    pub binary: bool,
    pub added: u64,
    pub deleted: u64,
    /// Empty when no text was asked for.
    pub text: Vec<u8>,
}

/// The bytes of one side.
enum Side {
    Absent,
    Bytes(Vec<u8>),
    /// Too large, or not readable.
    Opaque,
}

impl Side {
    fn bytes(&self) -> &[u8] {
        match self {
            Side::Bytes(bytes) => bytes,
            Side::Absent | Side::Opaque => &[],
        }
    }

    fn is_binary(&self) -> bool {
        match self {
            Side::Absent => false,
            Side::Bytes(bytes) => bytes::is_binary(bytes),
            Side::Opaque => true,
        }
    }

    /// The blob's name; zeros when there is none. `None` when it is not known.
    fn id(&self) -> Option<String> {
        match self {
            Side::Absent => Some("0000000".to_owned()),
            Side::Bytes(bytes) => Some(bytes::blob_id(bytes)),
            Side::Opaque => None,
        }
    }
}

/// Works out the patch of a change; `with_text` says whether its text is wanted.
pub fn patch(view: &View<'_>, change: &Change, with_text: bool, notes: &mut Vec<String>) -> Patch {
    let mut patch = Patch::default();
    if change.status() == Status::TypeChanged {
        // As in git: the old file goes, and another comes.
        let half = |old: Option<Node>, new: Option<Node>| Change { old, new, ..change.clone() };
        section(view, &half(change.old.clone(), None), with_text, notes, &mut patch);
        section(view, &half(None, change.new.clone()), with_text, notes, &mut patch);
    } else {
        section(view, change, with_text, notes, &mut patch);
    }
    patch
}

fn side(view: &View<'_>, path: &Path, node: Option<&Node>, notes: &mut Vec<String>) -> Side {
    let Some(node) = node else { return Side::Absent };
    if node.size > LARGE {
        return Side::Opaque;
    }
    match bytes::load(view, node) {
        Ok(bytes) => Side::Bytes(bytes),
        Err(errno) => {
            notes.push(format!("cannot read {path}: {errno}"));
            Side::Opaque
        }
    }
}

fn section(view: &View<'_>, change: &Change, with_text: bool, notes: &mut Vec<String>, patch: &mut Patch) {
    let old_path = change.old_path.as_ref().unwrap_or(&change.path);
    let (old, new) = if change.same_bytes {
        (Side::Absent, Side::Absent)
    } else {
        (side(view, old_path, change.old.as_ref(), notes), side(view, &change.path, change.new.as_ref(), notes))
    };
    let binary = old.is_binary() || new.is_binary();
    patch.binary |= binary;
    if with_text {
        header(change, old_path, &old, &new, &mut patch.text);
    }
    if change.same_bytes || (old.bytes().is_empty() && new.bytes().is_empty() && !binary) {
        return;
    }
    let name = |prefix: &str, path: &Path, node: &Option<Node>| match node {
        Some(_) => quote(prefix, path.as_bytes()),
        None => b"/dev/null".to_vec(),
    };
    let (from, to) = (name("a/", old_path, &change.old), name("b/", &change.path, &change.new));
    if binary {
        if with_text {
            patch.text.extend([&b"Binary files "[..], &from, b" and ", &to, b" differ\n"].concat());
        }
        return;
    }
    let input = InternedInput::new(old.bytes(), new.bytes());
    let mut diff = Diff::compute(Algorithm::Histogram, &input);
    diff.postprocess_lines(&input);
    patch.added += u64::from(diff.count_additions());
    patch.deleted += u64::from(diff.count_removals());
    if with_text {
        // A name with a blank ends with a tab, so that patch(1) knows where it ends.
        let tab = |name: &[u8]| if name.contains(&b' ') && !name.starts_with(b"\"") { "\t" } else { "" };
        for (mark, name) in [("--- ", &from), ("+++ ", &to)] {
            patch.text.extend_from_slice(mark.as_bytes());
            patch.text.extend_from_slice(name);
            patch.text.extend_from_slice(tab(name).as_bytes());
            patch.text.push(b'\n');
        }
        hunks(&diff, &input, &mut patch.text);
    }
}

fn header(change: &Change, old_path: &Path, old: &Side, new: &Side, out: &mut Vec<u8>) {
    let mut line = |parts: &[&[u8]]| {
        parts.iter().for_each(|part| out.extend_from_slice(part));
        out.push(b'\n');
    };
    let (a, b) = (quote("a/", old_path.as_bytes()), quote("b/", change.path.as_bytes()));
    line(&[b"diff --git ", &a, b" ", &b]);
    let octal = |node: &Node| format!("{:06o}", mode(node));
    let modes = (change.old.as_ref().map(octal), change.new.as_ref().map(octal));
    let mut kept = String::new();
    match &modes {
        (Some(old), Some(new)) if old != new => {
            line(&[b"old mode ", old.as_bytes()]);
            line(&[b"new mode ", new.as_bytes()]);
        }
        (Some(same), Some(_)) => kept = format!(" {same}"),
        (Some(old), None) => line(&[b"deleted file mode ", old.as_bytes()]),
        (None, Some(new)) => line(&[b"new file mode ", new.as_bytes()]),
        (None, None) => {}
    }
    if change.old_path.is_some() {
        let similarity = change.similarity.unwrap_or_default();
        line(&[format!("similarity index {similarity}%").as_bytes()]);
        line(&[b"rename from ", &quote("", old_path.as_bytes())]);
        line(&[b"rename to ", &quote("", change.path.as_bytes())]);
    }
    if !change.same_bytes
        && let (Some(old), Some(new)) = (old.id(), new.id())
    {
        line(&[format!("index {old}..{new}{kept}").as_bytes()]);
    }
}

/// Prints changes with their context; those whose contexts touch share a hunk.
fn hunks(diff: &Diff, input: &InternedInput<&[u8]>, out: &mut Vec<u8>) {
    let mut group: Vec<Hunk> = Vec::new();
    let mut heading = Heading { line: None, looked: 0 };
    for hunk in diff.hunks() {
        if group.last().is_some_and(|last| hunk.before.start - last.before.end > 2 * CONTEXT) {
            print(&group, input, &mut heading, out);
            group.clear();
        }
        group.push(hunk);
    }
    print(&group, input, &mut heading, out);
}

/// The last line before a hunk that looks like the start of a function: not indented, and beginning like a name.
struct Heading {
    line: Option<u32>,
    looked: u32,
}

impl Heading {
    fn before(&mut self, start: u32, input: &InternedInput<&[u8]>) -> Vec<u8> {
        let text = |at: u32| input.before.get(at as usize).map_or(&b""[..], |token| input.interner[*token]);
        let starts = |at: &u32| text(*at).first().is_some_and(|b| b.is_ascii_alphabetic() || matches!(b, b'_' | b'$'));
        self.line = (self.looked..start).rev().find(starts).or(self.line);
        self.looked = start;
        let line = self.line.map_or(&b""[..], text);
        let line = line.get(..HEADING).unwrap_or(line).trim_ascii_end();
        if line.is_empty() { Vec::new() } else { [b" ", line].concat() }
    }
}

fn print(group: &[Hunk], input: &InternedInput<&[u8]>, heading: &mut Heading, out: &mut Vec<u8>) {
    let (Some(first), Some(last)) = (group.first(), group.last()) else { return };
    let start = first.before.start.saturating_sub(CONTEXT);
    let end = (last.before.end + CONTEXT).min(input.before.len() as u32);
    let new_start = first.after.start - (first.before.start - start);
    let new_end = last.after.end + (end - last.before.end);
    let span = |start: u32, end: u32| match end - start {
        // An empty range names the line before it.
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        n => format!("{},{n}", start + 1),
    };
    out.extend(format!("@@ -{} +{} @@", span(start, end), span(new_start, new_end)).into_bytes());
    out.extend(heading.before(start, input));
    out.push(b'\n');
    let mut lines = |mark: u8, tokens: &[imara_diff::Token], from: u32, to: u32| {
        for token in tokens.get(from as usize..to as usize).unwrap_or_default() {
            let line = input.interner[*token];
            out.push(mark);
            out.extend_from_slice(line);
            if !line.ends_with(b"\n") {
                out.extend_from_slice(b"\n\\ No newline at end of file\n");
            }
        }
    };
    let mut at = start;
    for hunk in group {
        lines(b' ', &input.before, at, hunk.before.start);
        lines(b'-', &input.before, hunk.before.start, hunk.before.end);
        lines(b'+', &input.after, hunk.after.start, hunk.after.end);
        at = hunk.before.end;
    }
    lines(b' ', &input.before, at, end);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(old: &str, new: &str) -> String {
        let input = InternedInput::new(old.as_bytes(), new.as_bytes());
        let mut diff = Diff::compute(Algorithm::Histogram, &input);
        diff.postprocess_lines(&input);
        let mut out = Vec::new();
        hunks(&diff, &input, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn hunks_as_git_prints_them() {
        assert_eq!(text("", "a\nb\n"), "@@ -0,0 +1,2 @@\n+a\n+b\n");
        assert_eq!(text("a\n", ""), "@@ -1 +0,0 @@\n-a\n");
        assert_eq!(text("a\nb", "a\nb\n"), "@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+b\n");
        let lines = |range: std::ops::Range<u32>| range.map(|i| format!(" {i}\n")).collect::<String>();
        let old = format!("fn main()\n{}", lines(1..30));
        let new = old.replace(" 5\n", " five\n").replace(" 25\n", "");
        assert_eq!(
            text(&old, &new),
            "@@ -3,7 +3,7 @@ fn main()\n  2\n  3\n  4\n- 5\n+ five\n  6\n  7\n  8\n\
             @@ -23,7 +23,6 @@ fn main()\n  22\n  23\n  24\n- 25\n  26\n  27\n  28\n"
        );
        // Six unchanged lines between two changes: one hunk.
        let near = old.replace(" 5\n", " five\n").replace(" 12\n", "");
        assert_eq!(text(&old, &near).matches("@@ -").count(), 1);
    }
}
