//! Every directory's way up must end at the root: a loop would be a part of the tree that nobody can reach.

use std::collections::{BTreeMap, BTreeSet};

use super::points::Tree;
use crate::store::codec::Dentry;
use crate::types::{Ino, Kind};

impl Tree<'_> {
    /// The directories that are inside themselves.
    pub(super) fn loops(&self) -> Vec<Ino> {
        let moved: BTreeMap<Ino, Ino> = self
            .names()
            .filter_map(|(dir, _, dentry)| match dentry {
                Dentry::Entry { ino, kind: Kind::Dir } => Some((ino, dir)),
                Dentry::Entry { .. } | Dentry::Whiteout { .. } => None,
            })
            .collect();
        // One that has no entry is where the base has it: below the nearest changed directory on its base path.
        let above_in_base = |ino: Ino| {
            let mut path = self.facts(ino)?.base_path.clone()?;
            loop {
                path = path.split_last()?.0;
                if let Some(ino) = self.of_base(&path) {
                    return Some(ino);
                }
            }
        };
        let mut good: BTreeSet<Ino> = BTreeSet::from([Ino::ROOT]);
        let mut loops = Vec::new();
        for &start in moved.keys() {
            let mut way = BTreeSet::new();
            let mut at = Some(start);
            while let Some(dir) = at.filter(|dir| !good.contains(dir)) {
                if !way.insert(dir) {
                    loops.push(dir);
                    break;
                }
                at = moved.get(&dir).copied().or_else(|| above_in_base(dir));
            }
            good.append(&mut way);
        }
        loops
    }
}
