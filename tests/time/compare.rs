//! What two points in time differ in, by comparing whole trees, against what the code says that looks only at what was changed.

use std::collections::BTreeSet;

use regentfs::diff::{self, Change, Status};
use regentfs::overlay::restore;
use regentfs::overlay::view::View;
use regentfs::overlay::walk::walk;
use regentfs::types::Kind;

use super::tree::{File, Path, Tree, show};

/// What git would store: executable or not, or a link; and the bytes. Nothing for what it does not track.
fn tracked(file: Option<&File>) -> Option<(Kind, bool, &[u8])> {
    let file = file?;
    match file.kind {
        Kind::File => Some((Kind::File, file.perm & 0o100 != 0, &file.bytes)),
        Kind::Symlink => Some((Kind::Symlink, false, &file.target)),
        _ => None,
    }
}

/// Two points as trees and as views.
pub struct Pair<'p> {
    pub old: &'p Tree,
    pub new: &'p Tree,
    pub from: View<'p>,
    pub to: View<'p>,
}

impl Pair<'_> {
    fn at<'t>(tree: &'t Tree, paths: &std::collections::BTreeMap<Path, u64>, path: &[u8]) -> Option<&'t File> {
        paths.get(path).map(|number| tree.file(*number))
    }

    /// Everything that is said about the difference must be so, and nothing may be missing.
    pub fn check(&self) -> Result<(), String> {
        self.check_diff()?;
        self.check_differing()?;
        self.check_walk()
    }

    fn check_diff(&self) -> Result<(), String> {
        let (old_paths, new_paths) = (self.old.paths(), self.new.paths());
        let old = |path: &[u8]| tracked(Self::at(self.old, &old_paths, path));
        let new = |path: &[u8]| tracked(Self::at(self.new, &new_paths, path));
        let all: BTreeSet<&Path> = old_paths.keys().chain(new_paths.keys()).collect();
        let right: BTreeSet<Path> = all.into_iter().filter(|p| old(p) != new(p)).cloned().collect();
        let changes = diff::changes(&self.from, &self.to, &[], true).map_err(|e| format!("diff: {e}"))?;
        let mut found = BTreeSet::new();
        for change in &changes {
            let path = change.path.as_bytes().to_vec();
            let before = change.old_path.as_ref().map_or(path.clone(), |p| p.as_bytes().to_vec());
            let status = status(change.old_path.is_some(), old(&before), new(&path));
            if status != Some(change.status()) {
                return Err(format!("diff: {} is {:?}, should be {status:?}", show(&path), change.status()));
            }
            check_bytes(change, old(&before), new(&path))?;
            let renamed = change.old_path.is_some();
            if renamed && (old(&path).is_some() || new(&before).is_some()) {
                return Err(format!("diff: {} -> {} is no rename", show(&before), show(&path)));
            }
            if !found.insert(path.clone()) || (renamed && !found.insert(before)) {
                return Err(format!("diff: {} is there twice", show(&path)));
            }
        }
        same_paths("diff", &right, &found)
    }

    fn check_differing(&self) -> Result<(), String> {
        let (old_paths, new_paths) = (self.old.paths(), self.new.paths());
        let looks = |tree: &Tree, number: Option<&u64>| number.map(|n| tree.file(*n).looks());
        let all: BTreeSet<&Path> = old_paths.keys().chain(new_paths.keys()).collect();
        let differs = |path: &&Path| looks(self.old, old_paths.get(*path)) != looks(self.new, new_paths.get(*path));
        let right: BTreeSet<Path> = all.into_iter().filter(differs).cloned().collect();
        let found = restore::differing(&self.from, &self.to).map_err(|e| format!("differing: {e}"))?;
        let found = found.iter().map(|p| p.as_bytes().to_vec()).collect();
        same_paths("differing", &right, &found)
    }

    /// The index of changes may lead to too much, but never to too little. It knows of times and links as well.
    fn check_walk(&self) -> Result<(), String> {
        let mut met = BTreeSet::new();
        let walked = walk(&self.from, &self.to, &|_| false, &|_| true, &mut |path, _| {
            met.insert(path.as_bytes().to_vec());
        });
        walked.map_err(|e| format!("walk: {e}"))?;
        let (old_paths, new_paths) = (self.old.paths(), self.new.paths());
        // What is in a directory is in its paths.
        let seen = |tree: &Tree, number: &u64| (tree.file(*number).attributes(), tree.file(*number).looks());
        for path in old_paths.keys().chain(new_paths.keys()).filter(|path| !path.is_empty()) {
            let (a, b) = (old_paths.get(path), new_paths.get(path));
            let same = a == b && a.map(|n| seen(self.old, n)) == b.map(|n| seen(self.new, n));
            if !same && !met.contains(path) {
                return Err(format!("the index of changes does not lead to {}", show(path)));
            }
        }
        Ok(())
    }
}

fn status(renamed: bool, old: Option<(Kind, bool, &[u8])>, new: Option<(Kind, bool, &[u8])>) -> Option<Status> {
    Some(match (old, new) {
        (None, None) => return None,
        (None, Some(_)) => Status::Added,
        (Some(_), None) => Status::Deleted,
        _ if renamed => Status::Renamed,
        (Some(a), Some(b)) if a.0 != b.0 => Status::TypeChanged,
        _ => Status::Modified,
    })
}

fn check_bytes(
    change: &Change,
    old: Option<(Kind, bool, &[u8])>,
    new: Option<(Kind, bool, &[u8])>,
) -> Result<(), String> {
    let same = matches!((old, new), (Some(a), Some(b)) if a.0 == b.0 && a.2 == b.2);
    if change.same_bytes && !same {
        return Err(format!("diff: the bytes of {} are not the same", change.path));
    }
    if change.similarity == Some(100) && !same {
        return Err(format!("diff: {} is not 100% like what it was", change.path));
    }
    Ok(())
}

fn same_paths(what: &str, right: &BTreeSet<Path>, found: &BTreeSet<Path>) -> Result<(), String> {
    let list = |a: &BTreeSet<Path>, b: &BTreeSet<Path>| a.difference(b).map(|p| show(p)).collect::<Vec<_>>().join(", ");
    if right == found {
        return Ok(());
    }
    Err(format!("{what}: missing: {}; too many: {}", list(right, found), list(found, right)))
}
