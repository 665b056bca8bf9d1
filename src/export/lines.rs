//! Which lines of files are new between two trees of git, and which version of history each comes from.
//!
//! git says which files differ and what was in them; the lines are compared as everywhere here, and `blame` says of each new one where it comes from. Whose
//! work that was is decided elsewhere.

use std::collections::{HashMap, HashSet};

use super::git::Repo;
use super::{Error, Result};
use crate::blame::{self, BlameError, Source, Wrote};
use crate::merge::is_text;
use crate::merge::lines::{hunks, split};
use crate::overlay::view::View;
use crate::types::Path;

/// Texts that are read from git at once, bytes.
const BATCH: u64 = 64 << 20;

/// A file that differs between two trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    pub path: Path,
    /// Where it was, when that was elsewhere.
    pub old_path: Option<Path>,
    /// The names of regular files' bytes.
    old: Option<String>,
    new: Option<String>,
}

/// Lines that follow each other and come from the same version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first line is 1; both ends count.
    pub first: u64,
    pub last: u64,
    pub wrote: Wrote,
}

/// The new lines of a file, as far as they are not the repository's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileLines {
    pub path: Path,
    pub runs: Vec<Run>,
}

/// The files that differ between two trees, renames found as git finds them.
///
/// # Errors
/// What git says.
pub fn deltas(repo: &Repo, before: &str, after: &str) -> Result<Vec<Delta>> {
    let raw = repo.git("compare", &["diff-tree", "-r", "-z", "-M", "--raw", "--no-abbrev", before, after], b"")?;
    parse(&raw).ok_or_else(|| Error::Git { what: "compare".to_owned(), why: "its answer has another form".to_owned() })
}

/// `:mode mode id id status`, then one path, or two of a rename; all end with a zero byte.
fn parse(raw: &[u8]) -> Option<Vec<Delta>> {
    let mut fields = raw.split(|&b| b == 0).filter(|field| !field.is_empty());
    let mut found = Vec::new();
    while let Some(head) = fields.next() {
        let head = std::str::from_utf8(head.strip_prefix(b":")?).ok()?;
        let [old_mode, new_mode, old, new, status] = head.split(' ').collect::<Vec<_>>().try_into().ok()?;
        let first = Path::new(fields.next()?);
        let (old_path, path) = match status.starts_with(['R', 'C']) {
            true => (Some(first), Path::new(fields.next()?)),
            false => (None, first),
        };
        let file = |mode: &str, id: &str| mode.starts_with("100").then(|| id.to_owned());
        found.push(Delta { path, old_path, old: file(old_mode, old), new: file(new_mode, new) });
    }
    Some(found)
}

/// The bytes of objects, as far as they are there and not too large.
struct Texts<'r> {
    repo: &'r Repo,
    sizes: HashMap<String, u64>,
}

impl<'r> Texts<'r> {
    fn of(repo: &'r Repo, deltas: &[Delta]) -> Result<Texts<'r>> {
        let ids: HashSet<&str> =
            deltas.iter().flat_map(|delta| [&delta.old, &delta.new]).flatten().map(|s| &**s).collect();
        let mut sizes = HashMap::new();
        if !ids.is_empty() {
            let input = ids.into_iter().collect::<Vec<_>>().join("\n") + "\n";
            let how = ["cat-file", "--batch-check=%(objectname) %(objectsize)"];
            let told = repo.line("look at files", &how, input.as_bytes())?;
            let told = told.lines().filter_map(|line| line.split_once(' '));
            sizes.extend(told.filter_map(|(id, size)| Some((id.to_owned(), size.parse().ok()?))));
        }
        Ok(Texts { repo, sizes })
    }

    /// What has to be read for a file; `None` where it cannot be looked at line by line.
    fn size(&self, delta: &Delta) -> Option<u64> {
        let new = *self.sizes.get(delta.new.as_ref()?)?;
        let old = delta.old.as_ref().map_or(Some(0), |old| self.sizes.get(old).copied())?;
        (new <= blame::LARGEST && old <= blame::LARGEST).then_some(new + old)
    }

    fn read(&self, deltas: &[&Delta]) -> Result<HashMap<String, Vec<u8>>> {
        let ids: HashSet<&str> =
            deltas.iter().flat_map(|delta| [&delta.old, &delta.new]).flatten().map(|s| &**s).collect();
        let input = ids.into_iter().collect::<Vec<_>>().join("\n") + "\n";
        let all = self.repo.git("read files", &["cat-file", "--batch"], input.as_bytes())?;
        let (mut rest, mut found) = (all.as_slice(), HashMap::new());
        while let Some(end) = rest.iter().position(|&b| b == b'\n') {
            let head = String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned();
            rest = rest.get(end + 1..).unwrap_or_default();
            let [id, "blob", size] = head.split(' ').collect::<Vec<_>>()[..] else { continue };
            let size = size.parse().unwrap_or(0);
            found.insert(id.to_owned(), rest.get(..size).unwrap_or_default().to_vec());
            rest = rest.get(size + 1..).unwrap_or_default();
        }
        Ok(found)
    }
}

/// The new lines of all files that `view` has as the newer tree does. Remarks for people go to `notes`.
///
/// # Errors
/// What git, log and base say.
pub fn written(repo: &Repo, view: &View<'_>, deltas: &[Delta], notes: &mut Vec<String>) -> Result<Vec<FileLines>> {
    let texts = Texts::of(repo, deltas)?;
    let mut found = Vec::new();
    let mut waiting: Vec<(&Delta, u64)> =
        deltas.iter().rev().filter_map(|delta| Some((delta, texts.size(delta)?))).collect();
    while !waiting.is_empty() {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some((delta, size)) = waiting.pop_if(|(_, size)| batch.is_empty() || bytes + *size <= BATCH) {
            batch.push(delta);
            bytes += size;
        }
        let read = texts.read(&batch)?;
        for delta in batch {
            let text = |id: &Option<String>| id.as_ref().and_then(|id| read.get(id)).map_or(&b""[..], |text| text);
            let runs = runs(view, delta, text(&delta.old), text(&delta.new), notes)?;
            if !runs.is_empty() {
                found.push(FileLines { path: delta.path.clone(), runs });
            }
        }
    }
    Ok(found)
}

fn runs(view: &View<'_>, delta: &Delta, old: &[u8], new: &[u8], notes: &mut Vec<String>) -> Result<Vec<Run>> {
    if !is_text(old) || !is_text(new) {
        return Ok(Vec::new());
    }
    let added: Vec<_> = hunks(old, new).into_iter().map(|hunk| hunk.after).collect();
    if added.iter().all(std::ops::Range::is_empty) {
        return Ok(Vec::new());
    }
    let blamed = match blame::blame(view, &delta.path) {
        Ok(blamed) if same_lines(&blamed.text, new) => blamed,
        Ok(_) | Err(BlameError::Missing(_) | BlameError::NoFile(_)) => {
            notes.push(format!("{} is not in git as it was written: its lines are nobody's", delta.path));
            return Ok(Vec::new());
        }
        Err(BlameError::TooLarge(_)) => return Ok(Vec::new()),
        Err(other) => return Err(other.into()),
    };
    let mut runs: Vec<Run> = Vec::new();
    let mut before = None;
    for line in added.into_iter().flatten() {
        let mark = blamed.marks.get(line as usize).copied();
        let source = mark.and_then(|mark| blamed.sources.get(mark as usize));
        let Some(Source::Version(wrote)) = source else { continue };
        let number = u64::from(line) + 1;
        match runs.last_mut().filter(|run| run.last + 1 == number && before == mark) {
            Some(run) => run.last = number,
            None => runs.push(Run { first: number, last: number, wrote: wrote.clone() }),
        }
        before = mark;
    }
    Ok(runs)
}

/// Whether git would store one as the other: lines can end otherwise.
fn same_lines(one: &[u8], other: &[u8]) -> bool {
    fn bare(line: &[u8]) -> &[u8] {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        line.strip_suffix(b"\r").unwrap_or(line)
    }
    one == other || split(one).map(bare).eq(split(other).map(bare))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_diff_tree_says() {
        let path = |text: &str| Path::new(text.as_bytes());
        let raw = b":000000 100644 0000 1111 A\0a b\0:100755 100644 2222 3333 R090\0old\0new\0:100644 120000 4444 5555 T\0link\0\
            :100644 000000 6666 0000 D\0gone\0:160000 160000 7777 8888 M\0sub\0";
        let told: Vec<_> =
            parse(raw).unwrap().into_iter().map(|d| (d.path, d.old_path, d.old.is_some(), d.new.is_some())).collect();
        let expected = vec![
            (path("a b"), None, false, true),
            (path("new"), Some(path("old")), true, true),
            (path("link"), None, true, false),
            (path("gone"), None, true, false),
            (path("sub"), None, false, false),
        ];
        assert_eq!(told, expected);
        assert_eq!(parse(b""), Some(Vec::new()));
        for broken in [&b"x\0"[..], b":1 2 3 4 M\0", b":1 2 3 4 R100\0one\0", b":1 2\0a\0"] {
            assert_eq!(parse(broken), None);
        }
    }

    #[test]
    fn ends_of_lines_do_not_matter() {
        assert!(same_lines(b"a\r\nb", b"a\nb") && same_lines(b"", b""));
        assert!(!same_lines(b"a\nb\n", b"a\nc\n") && !same_lines(b"a\n", b"a\nb\n"));
    }
}
