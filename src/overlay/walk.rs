//! Going through two views side by side, only where they may differ.
//!
//! The index of changes has the path that each change had when it happened. A directory above may have been moved since, even away and back;
//! so a directory whose own name was touched is gone through as a whole. Every path in the index is right as far down as the first such name.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::places::{Places, base_links};
use super::view::{Node, View, present};
use super::{Result, failed};
use crate::store::codec::{Dentry, Origin};
use crate::store::lineage::{Lineage, Touched};
use crate::types::{Ino, Kind, Name, Path};

/// Paths as a tree.
#[derive(Default)]
pub struct Trie {
    below: BTreeMap<Name, Trie>,
    /// The name itself was touched: what is below it may have changed while it was elsewhere.
    named: bool,
}

impl Trie {
    fn add(&mut self, path: &Path) -> &mut Trie {
        let mut at = self;
        for name in path.components() {
            at = at.below.entry(name.into()).or_default();
        }
        at
    }

    /// Whether a name on the way to a path was touched.
    fn is_named_above(&self, path: &Path) -> bool {
        let mut at = Some(self);
        path.components().any(|name| {
            at = at.and_then(|trie| trie.below.get(name));
            at.is_some_and(|trie| trie.named)
        })
    }
}

/// What the index says was changed.
struct Touches {
    /// With one of the names that each had.
    inodes: FxHashMap<Ino, Path>,
    names: FxHashMap<Path, (Ino, Name)>,
}

impl Touches {
    /// Whether a file with one name certainly has the one in the index: it was given here, or no name on the way to it was touched.
    fn is_sure(&self, trie: &Trie, view: &View<'_>, ino: Ino, path: &Path) -> Result<bool> {
        match self.names.get(path) {
            Some((dir, name)) => {
                Ok(matches!(view.entry(*dir, name)?, Some(Dentry::Entry { ino: to, .. }) if to == ino))
            }
            // The index does not know where a file was that lost a name.
            None => Ok(*path != Path::root() && !trie.is_named_above(path)),
        }
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
        match (self, old, new) {
            (Part::These(trie), Some(old), Some(new))
                if !trie.named && old.ino == new.ino && old.shows() == new.shows() =>
            {
                self
            }
            _ => Part::All,
        }
    }

    /// What may differ at a name; `None` when nothing does.
    pub fn at(self, name: &[u8]) -> Option<Part<'t>> {
        match self {
            Part::These(trie) => trie.below.get(name).map(Part::These),
            Part::All => Some(Part::All),
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
#[allow(clippy::large_enum_variant)]
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
    let trie = from.candidates(to, skip)?;
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
            if (old_dir.is_some() || new_dir.is_some())
                && enters(&below)
                && let Some(part) = part.at(name)
            {
                dirs.push((below.clone(), old_dir, new_dir, part));
            }
            visit(below, Met::Pair(old, new));
        }
    }
    Ok(())
}

impl View<'_> {
    /// The paths at which this view and another may differ: everything that does is at or, in a directory that was moved, below one
    /// of them. `skip` names directories that are left out of the search for further names of files with several.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn candidates(&self, other: &View<'_>, skip: &dyn Fn(&[u8]) -> bool) -> Result<Trie> {
        let kv = &*self.overlay().store.kv;
        let mut trie = Trie::default();
        let (mut inodes, mut names) = (FxHashMap::default(), FxHashMap::default());
        Lineage::touched(kv, self.lineage(), other.lineage(), &mut |touched| match touched {
            Touched::Inode { ino, path } => {
                trie.add(&path);
                let known = inodes.entry(ino).or_insert_with(|| path.clone());
                // Once unknown, always unknown.
                if path == Path::root() || *known != Path::root() {
                    *known = path;
                }
            }
            Touched::Name { dir, name, path } => {
                trie.add(&path).named = true;
                names.insert(path, (dir, name));
            }
        })
        .map_err(failed)?;
        self.other_names(other, &Touches { inodes, names }, skip, &mut trie)?;
        Ok(trie)
    }

    /// Adds the other names of changed files that have several, or may have lost the one that the index has. Costs a walk over the base where one
    /// of them has several names there.
    fn other_names(
        &self,
        other: &View<'_>,
        touches: &Touches,
        skip: &dyn Fn(&[u8]) -> bool,
        trie: &mut Trie,
    ) -> Result<()> {
        let overlay = self.overlay();
        let (mut of_base, mut linked) = (FxHashSet::default(), FxHashMap::default());
        for view in [self, other] {
            for (&ino, path) in &touches.inodes {
                let Some(record) = view.inode(ino)?.filter(|r| r.attr.kind != Kind::Dir && r.attr.nlink > 0) else {
                    continue;
                };
                let origin = record.origin.as_ref();
                let stat = origin.map(|o| present(overlay.base.stat_path(&o.path))).transpose()?.flatten();
                let several = |o: &&Origin| stat.is_some_and(|s| s.attr.nlink > 1 && s.attr.ino.0 == o.ino);
                let linked_in_base = origin.filter(several);
                of_base.extend(linked_in_base.map(|o| o.ino));
                if record.attr.nlink > 1 || linked_in_base.is_some() || !touches.is_sure(trie, view, ino, path)? {
                    linked.insert(ino, origin.map(|o| o.path.clone()));
                }
            }
        }
        if linked.is_empty() {
            return Ok(());
        }
        let links = Rc::new(match of_base.is_empty() {
            true => FxHashMap::default(),
            false => base_links(&*self.overlay().base, &|ino| of_base.contains(&ino), skip)?,
        });
        for view in [self, other] {
            let places = Places::new(view);
            places.know_links(links.clone());
            for (&ino, base_path) in &linked {
                for place in places.names(ino, base_path.as_ref())? {
                    if let Some(path) = places.path_at(&place)? {
                        trie.add(&path);
                    }
                }
            }
        }
        Ok(())
    }
}
