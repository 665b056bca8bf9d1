//! Which files differ, file by file, before renames are looked for.

use super::bytes;
use crate::overlay::view::{Node, View};
use crate::overlay::walk::{Met, walk};
use crate::types::{Errno, Kind, Path};

/// What happened to a file, in git's letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Added,
    Modified,
    Deleted,
    Renamed,
    /// A file became a symbolic link, or the other way round.
    TypeChanged,
}

impl Status {
    pub fn letter(self) -> &'static str {
        match self {
            Status::Added => "A",
            Status::Modified => "M",
            Status::Deleted => "D",
            Status::Renamed => "R",
            Status::TypeChanged => "T",
        }
    }
}

/// A file that differs.
#[derive(Clone, Debug)]
pub struct Change {
    /// Where it is now, or was when it is gone.
    pub path: Path,
    /// Where it was, when that was elsewhere.
    pub old_path: Option<Path>,
    pub old: Option<Node>,
    pub new: Option<Node>,
    /// Percent, for a rename.
    pub similarity: Option<u8>,
    /// The bytes are the same: only mode or path differ.
    pub same_bytes: bool,
}

impl Change {
    pub fn status(&self) -> Status {
        match (&self.old, &self.new) {
            (None, _) => Status::Added,
            (_, None) => Status::Deleted,
            _ if self.old_path.is_some() => Status::Renamed,
            (Some(old), Some(new)) if old.kind != new.kind => Status::TypeChanged,
            _ => Status::Modified,
        }
    }
}

/// What the comparison found.
#[derive(Default)]
pub struct Found {
    pub changes: Vec<Change>,
    pub notes: Vec<String>,
    special: u64,
}

impl Found {
    /// All remarks for people.
    pub fn notes(mut self) -> Vec<String> {
        if self.special > 0 {
            let what = "FIFOs, sockets or device files differ too; a patch cannot carry them";
            self.notes.push(format!("{} {what}", self.special));
        }
        self.notes
    }
}

/// The mode that git would store.
pub fn mode(node: &Node) -> u32 {
    match node.kind {
        Kind::Symlink => 0o120_000,
        Kind::File if node.perm & 0o100 != 0 => 0o100_755,
        _ => 0o100_644,
    }
}

/// What git would track.
fn tracked(node: &Node) -> bool {
    matches!(node.kind, Kind::File | Kind::Symlink)
}

/// Which paths count.
struct Scope<'p> {
    paths: &'p [Path],
    all: bool,
}

fn is_below(path: &Path, dir: &Path) -> bool {
    dir.as_bytes().is_empty()
        || path.as_bytes().strip_prefix(dir.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

impl Scope<'_> {
    fn has(&self, path: &Path) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|p| is_below(path, p))
    }

    /// Whether something below the directory may count.
    fn enters(&self, dir: &Path) -> bool {
        self.has(dir) || self.paths.iter().any(|p| is_below(p, dir))
    }

    fn skips(&self, name: &[u8]) -> bool {
        name == b".git" && !self.all
    }
}

/// Finds all differences, in the order of their paths.
pub fn compare(from: &View<'_>, to: &View<'_>, paths: &[Path], all: bool) -> Result<Found, Errno> {
    let scope = Scope { paths, all };
    let mut found = Found::default();
    walk(from, to, &|name| scope.skips(name), &|dir| scope.enters(dir), &mut |path, met| match met {
        Met::Pair(old, new) if scope.has(&path) => judge(to, path, old, new, &mut found),
        Met::Pair(..) => {}
        Met::CannotList(errno) => found.notes.push(format!("cannot list {path}: {errno}")),
        Met::CannotLook(errno) => found.notes.push(format!("cannot look at {path}: {errno}")),
    })?;
    found.changes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Notes a difference between what a path was and what it is.
fn judge(view: &View<'_>, path: Path, old: Option<Node>, new: Option<Node>, found: &mut Found) {
    let special = |node: &Option<Node>| node.clone().filter(|n| n.kind != Kind::Dir && !tracked(n));
    let (was, is) = (special(&old), special(&new));
    if was.as_ref().map(|n| (n.kind, n.base)) != is.as_ref().map(|n| (n.kind, n.base)) {
        found.special += 1;
    }
    let (old, new) = (old.filter(tracked), new.filter(tracked));
    let same_bytes = match (&old, &new) {
        (Some(old), Some(new)) if old.kind == new.kind => match bytes::same(view, old, new) {
            Ok(same) => same,
            Err(errno) => {
                found.notes.push(format!("cannot read {path}: {errno}"));
                false
            }
        },
        _ => false,
    };
    let differs = match (&old, &new) {
        (None, None) => false,
        (Some(old), Some(new)) => !same_bytes || mode(old) != mode(new),
        _ => true,
    };
    if differs {
        found.changes.push(Change { path, old_path: None, old, new, similarity: None, same_bytes });
    }
}
