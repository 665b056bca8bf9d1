//! Which files differ, file by file, before renames are looked for.

use std::collections::{BTreeMap, BTreeSet};

use super::bytes;
use crate::overlay::view::{Node, View};
use crate::types::{Errno, Kind, Name, Path};

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

/// The paths that may differ, as a tree.
#[derive(Default)]
struct Trie {
    below: BTreeMap<Name, Trie>,
}

impl Trie {
    fn of(paths: &BTreeSet<Path>) -> Trie {
        let mut root = Trie::default();
        for path in paths {
            let mut at = &mut root;
            for name in path.components() {
                at = at.below.entry(name.into()).or_default();
            }
        }
        root
    }
}

/// What may differ in a directory.
enum Where<'t> {
    /// The same directory on both sides: only these.
    These(&'t Trie),
    /// Everything: it is another directory, or is below one.
    All,
}

/// Finds all differences, in the order of their paths.
pub fn compare(from: &View<'_>, to: &View<'_>, paths: &[Path], all: bool) -> Result<Found, Errno> {
    let scope = Scope { paths, all };
    let trie = Trie::of(&from.candidates(to, &|name| scope.skips(name))?);
    let mut found = Found::default();
    let mut dirs = vec![(Path::root(), Some(from.root()?), Some(to.root()?), Where::These(&trie))];
    while let Some((path, old, new, mut place)) = dirs.pop() {
        let same = matches!((&old, &new), (Some(old), Some(new)) if old.ino == new.ino && old.shows() == new.shows());
        if !same {
            place = Where::All;
        }
        let names = match &place {
            Where::These(trie) => trie.below.keys().cloned().collect(),
            Where::All => match names(from, to, old.as_ref(), new.as_ref()) {
                Ok(names) => names,
                Err(errno) => {
                    found.notes.push(format!("cannot list {path}: {errno}"));
                    continue;
                }
            },
        };
        for name in names.iter().filter(|name| !scope.skips(name)) {
            let below = path.join(name);
            let entry = || -> Result<_, Errno> {
                let old = old.as_ref().map(|dir| from.child(dir, name)).transpose()?.flatten();
                let new = new.as_ref().map(|dir| to.child(dir, name)).transpose()?.flatten();
                Ok((old, new))
            };
            let (old, new) = match entry() {
                Ok(entry) => entry,
                Err(errno) => {
                    found.notes.push(format!("cannot look at {below}: {errno}"));
                    continue;
                }
            };
            let is_dir = |node: &Option<Node>| node.as_ref().is_some_and(|n| n.kind == Kind::Dir);
            if (is_dir(&old) || is_dir(&new)) && scope.enters(&below) {
                let dir = |node: &Option<Node>| node.clone().filter(|n| n.kind == Kind::Dir);
                let place = match &place {
                    Where::These(trie) => trie.below.get(name).map_or(Where::All, Where::These),
                    Where::All => Where::All,
                };
                dirs.push((below.clone(), dir(&old), dir(&new), place));
            }
            if scope.has(&below) {
                judge(to, below, old, new, &mut found);
            }
        }
    }
    found.changes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// All names in two directories.
fn names(from: &View<'_>, to: &View<'_>, old: Option<&Node>, new: Option<&Node>) -> Result<Vec<Name>, Errno> {
    let mut names = BTreeSet::new();
    if let Some(old) = old {
        names.extend(from.names(old)?);
    }
    if let Some(new) = new {
        names.extend(to.names(new)?);
    }
    Ok(names.into_iter().collect())
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
