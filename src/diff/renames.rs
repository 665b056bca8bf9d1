//! Which deleted file is which added one: by identity first, which is knowledge; then by equal bytes; then by likeness.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::bytes;
use super::compare::Change;
use super::spans::Spans;
use crate::overlay::view::{Node, View};
use crate::types::{Errno, Kind, Path};

/// Larger files are only compared for equality.
const LARGEST: u64 = 1 << 20;
/// Pairs that are looked at for likeness: git's `diff.renameLimit` of 1000, squared.
const MOST_PAIRS: usize = 1_000_000;
/// The likeness from which a pair counts as a rename, in percent.
const ENOUGH: u8 = 50;

/// A file that is gone, or new, until it finds its other half.
struct Half {
    path: Path,
    node: Node,
    paired: bool,
}

impl Half {
    fn name(&self) -> &[u8] {
        self.path.as_bytes().rsplit(|&b| b == b'/').next().unwrap_or_default()
    }
}

/// Joins deletions and additions to renames.
pub fn pair(view: &View<'_>, changes: Vec<Change>, notes: &mut Vec<String>) -> Vec<Change> {
    let (mut gone, mut born, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    for change in changes {
        match (change.old, change.new) {
            (Some(node), None) => gone.push(Half { path: change.path, node, paired: false }),
            (None, Some(node)) => born.push(Half { path: change.path, node, paired: false }),
            (old, new) => rest.push(Change { old, new, ..change }),
        }
    }
    if !gone.is_empty() && !born.is_empty() {
        let mut pairs = Pairs { view, gone, born, found: Vec::new() };
        pairs.by_identity();
        pairs.by_equality();
        pairs.by_likeness(notes);
        rest.append(&mut pairs.found);
        (gone, born) = (pairs.gone, pairs.born);
    }
    let alone = |half: Half, gone: bool| {
        let (old, new) = if gone { (Some(half.node), None) } else { (None, Some(half.node)) };
        Change { path: half.path, old_path: None, old, new, similarity: None, same_bytes: false }
    };
    rest.extend(gone.into_iter().filter(|h| !h.paired).map(|h| alone(h, true)));
    rest.extend(born.into_iter().filter(|h| !h.paired).map(|h| alone(h, false)));
    rest.sort_by(|a, b| a.path.cmp(&b.path));
    rest
}

struct Pairs<'v, 'a> {
    view: &'v View<'a>,
    gone: Vec<Half>,
    born: Vec<Half>,
    found: Vec<Change>,
}

impl Pairs<'_, '_> {
    fn join(&mut self, from: usize, to: usize, similarity: u8, same_bytes: bool) {
        let (Some(old), Some(new)) = (self.gone.get_mut(from), self.born.get_mut(to)) else { return };
        old.paired = true;
        new.paired = true;
        self.found.push(Change {
            path: new.path.clone(),
            old_path: Some(old.path.clone()),
            old: Some(old.node.clone()),
            new: Some(new.node.clone()),
            similarity: Some(similarity),
            same_bytes,
        });
    }

    /// The candidate for an added file: one with the same name before any other.
    fn choose(&self, candidates: &[usize], to: &Half) -> Option<usize> {
        let free = || candidates.iter().copied().filter(|&i| self.gone.get(i).is_some_and(|g| !g.paired));
        free().find(|&i| self.gone.get(i).is_some_and(|g| g.name() == to.name())).or_else(|| free().next())
    }

    fn by_identity(&mut self) {
        // A file of the base is known by what it is there; one that was born here by its number.
        let identity = |node: &Node| node.base.unwrap_or((u64::MAX, node.ino.0));
        let mut by_file: FxHashMap<(u64, u64), Vec<usize>> = FxHashMap::default();
        for (i, half) in self.gone.iter().enumerate() {
            by_file.entry(identity(&half.node)).or_default().push(i);
        }
        for to in 0..self.born.len() {
            let Some(half) = self.born.get(to) else { continue };
            let Some(candidates) = by_file.get(&identity(&half.node)) else { continue };
            let Some(from) = self.choose(candidates, half) else { continue };
            let Some(old) = self.gone.get(from).filter(|old| old.node.kind == half.node.kind) else { continue };
            let same = bytes::same(self.view, &old.node, &half.node).unwrap_or(false);
            let similarity = if same { 100 } else { self.likeness(&old.node, &half.node).min(99) };
            self.join(from, to, similarity, same);
        }
    }

    /// How much of a changed file is left.
    fn likeness(&self, old: &Node, new: &Node) -> u8 {
        let load = |node: &Node| if node.size <= LARGEST { bytes::load(self.view, node).ok() } else { None };
        match (load(old), load(new)) {
            (Some(old), Some(new)) => Spans::new(&old).similarity(&Spans::new(&new)),
            _ => bytes::untouched(self.view, old, new).unwrap_or(0),
        }
    }

    fn by_equality(&mut self) {
        let key = |node: &Node| (node.kind as u8, node.size);
        let mut by_size: FxHashMap<(u8, u64), Vec<usize>> = FxHashMap::default();
        for (i, half) in self.gone.iter().enumerate().filter(|(_, h)| !h.paired && h.node.size <= bytes::LARGE) {
            by_size.entry(key(&half.node)).or_default().push(i);
        }
        let mut hashes: FxHashMap<(u8, u64), BTreeMap<[u8; 32], Vec<usize>>> = FxHashMap::default();
        for to in 0..self.born.len() {
            let Some(half) = self.born.get(to).filter(|h| !h.paired) else { continue };
            let Some(same_size) = by_size.get(&key(&half.node)) else { continue };
            let hashed = hashes.entry(key(&half.node)).or_insert_with(|| {
                let mut hashed: BTreeMap<[u8; 32], Vec<usize>> = BTreeMap::new();
                for &i in same_size {
                    if let Some(hash) = self.gone.get(i).and_then(|g| bytes::hash(self.view, &g.node).ok()) {
                        hashed.entry(hash).or_default().push(i);
                    }
                }
                hashed
            });
            let Ok(hash) = bytes::hash(self.view, &half.node) else { continue };
            if let Some(from) = hashed.get(&hash).and_then(|candidates| self.choose(candidates, half)) {
                self.join(from, to, 100, true);
            }
        }
    }

    fn by_likeness(&mut self, notes: &mut Vec<String>) {
        let open = |halves: &[Half]| -> Vec<usize> {
            let fits = |h: &Half| !h.paired && h.node.kind == Kind::File && h.node.size <= LARGEST && h.node.size > 0;
            halves.iter().enumerate().filter(|(_, h)| fits(h)).map(|(i, _)| i).collect()
        };
        let (gone, born) = (open(&self.gone), open(&self.born));
        if gone.len().saturating_mul(born.len()) > MOST_PAIRS {
            notes.push(format!(
                "renames with changes were not looked for: {} deleted and {} added files are too many",
                gone.len(),
                born.len()
            ));
            return;
        }
        if gone.is_empty() || born.is_empty() {
            return;
        }
        let spans = |halves: &[Half], chosen: &[usize]| -> Vec<(usize, Spans)> {
            let load = |i: usize| -> Result<(usize, Spans), Errno> {
                let half = halves.get(i).ok_or(Errno::ENOENT)?;
                Ok((i, Spans::new(&bytes::load(self.view, &half.node)?)))
            };
            chosen.iter().filter_map(|&i| load(i).ok()).collect()
        };
        let (gone, born) = (spans(&self.gone, &gone), spans(&self.born, &born));
        let mut candidates = Vec::new();
        for (to, new) in &born {
            for (from, old) in &gone {
                if !new.may_reach(old, ENOUGH) {
                    continue;
                }
                let similarity = new.similarity(old);
                if similarity >= ENOUGH {
                    let (a, b) = (self.gone.get(*from), self.born.get(*to));
                    let other_name = a.map(Half::name) != b.map(Half::name);
                    candidates.push((std::cmp::Reverse(similarity), other_name, *to, *from));
                }
            }
        }
        candidates.sort_unstable();
        for (std::cmp::Reverse(similarity), _, to, from) in candidates {
            let free = |halves: &[Half], i: usize| halves.get(i).is_some_and(|h| !h.paired);
            if free(&self.gone, from) && free(&self.born, to) {
                // Equal bytes were paired before; what reaches 100 here differs in the order of its lines.
                self.join(from, to, similarity.min(99), false);
            }
        }
    }
}
