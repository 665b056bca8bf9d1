//! Going through two views side by side, only where they may differ.

use std::collections::{BTreeMap, BTreeSet};

use super::Result;
use super::view::{Node, View};
use crate::types::{Kind, Name, Path};

/// Paths as a tree.
#[derive(Default)]
pub struct Trie {
    below: BTreeMap<Name, Trie>,
}

impl Trie {
    pub fn of<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Trie {
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
#[derive(Clone, Copy)]
pub enum Part<'t> {
    /// The same directory on both sides: only these names.
    These(&'t Trie),
    /// Everything: it is another directory, or is below one.
    All,
}

impl<'t> Part<'t> {
    /// What may differ in two directories of which this is known so far.
    pub fn of(self, old: Option<&Node>, new: Option<&Node>) -> Part<'t> {
        match (old, new) {
            (Some(old), Some(new)) if old.ino == new.ino && old.shows() == new.shows() => self,
            _ => Part::All,
        }
    }

    pub fn below(self, name: &[u8]) -> Part<'t> {
        match self {
            Part::These(trie) => trie.below.get(name).map_or(Part::All, Part::These),
            Part::All => Part::All,
        }
    }

    /// The names to look at.
    ///
    /// # Errors
    /// When a directory cannot be listed.
    pub fn names(self, from: (&View<'_>, Option<&Node>), to: (&View<'_>, Option<&Node>)) -> Result<Vec<Name>> {
        match self {
            Part::These(trie) => Ok(trie.below.keys().cloned().collect()),
            Part::All => {
                let mut names = BTreeSet::new();
                for (view, dir) in [from, to] {
                    if let Some(dir) = dir {
                        names.extend(view.names(dir)?);
                    }
                }
                Ok(names.into_iter().collect())
            }
        }
    }
}

/// What a walk meets.
pub enum Met {
    /// What two views have at a path.
    Pair(Option<Node>, Option<Node>),
    CannotList(crate::types::Errno),
    CannotLook(crate::types::Errno),
}

/// Visits every path at which two views may differ. `skip` leaves names out with all that is below, `enters` says whether anything below a directory counts.
///
/// # Errors
/// When the log or the roots cannot be read; what cannot be looked at further down is told to `visit`.
pub fn walk(
    from: &View<'_>,
    to: &View<'_>,
    skip: &dyn Fn(&[u8]) -> bool,
    enters: &dyn Fn(&Path) -> bool,
    visit: &mut dyn FnMut(Path, Met),
) -> Result<()> {
    let candidates = from.candidates(to, skip)?;
    let trie = Trie::of(&candidates);
    let mut dirs = vec![(Path::root(), Some(from.root()?), Some(to.root()?), Part::These(&trie))];
    while let Some((path, old, new, part)) = dirs.pop() {
        let part = part.of(old.as_ref(), new.as_ref());
        let names = match part.names((from, old.as_ref()), (to, new.as_ref())) {
            Ok(names) => names,
            Err(errno) => {
                visit(path, Met::CannotList(errno));
                continue;
            }
        };
        for name in names.iter().filter(|name| !skip(name)) {
            let below = path.join(name);
            let look = || -> Result<_> {
                let old = old.as_ref().map(|dir| from.child(dir, name)).transpose()?.flatten();
                let new = new.as_ref().map(|dir| to.child(dir, name)).transpose()?.flatten();
                Ok((old, new))
            };
            let (old, new) = match look() {
                Ok(pair) => pair,
                Err(errno) => {
                    visit(below, Met::CannotLook(errno));
                    continue;
                }
            };
            let dir = |node: &Option<Node>| node.clone().filter(|n| n.kind == Kind::Dir);
            let (old_dir, new_dir) = (dir(&old), dir(&new));
            if (old_dir.is_some() || new_dir.is_some()) && enters(&below) {
                dirs.push((below.clone(), old_dir, new_dir, part.below(name)));
            }
            visit(below, Met::Pair(old, new));
        }
    }
    Ok(())
}
