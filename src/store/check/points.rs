//! The rules between names and inodes, at every point of history that can be shown: each snapshot, and the newest state of each timeline.
//!
//! A timeline is gone through once, from its beginning; at each point only what changed since the one before is judged, so the work grows with
//! the number of states and not with that of the snapshots.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::{Changes, Check, Facts, Found};
use crate::store::codec::Dentry;
use crate::types::{Epoch, Ino, Kind, Path, Timeline};

/// Directories inside each other deeper than this are a loop.
const DEEPEST: u32 = 4096;

/// What a directory holds.
#[derive(Clone, Copy, Default)]
struct Inside {
    entries: u64,
    dirs: u64,
    whiteouts: u64,
}

/// All that the log says at one point.
#[derive(Default)]
pub(super) struct Tree<'f> {
    inodes: FxHashMap<Ino, &'f Facts>,
    names: BTreeMap<(Ino, &'f [u8]), Dentry>,
    /// Names that say what the base had before an apply: they may be of directories that come into view later.
    pinned: BTreeSet<(Ino, &'f [u8])>,
    /// How many names say that an inode is of a type.
    links: FxHashMap<Ino, SmallVec<[(Kind, u64); 1]>>,
    inside: FxHashMap<Ino, Inside>,
    /// Directories with a name, by their path in the base.
    of_base: FxHashMap<&'f Path, Ino>,
}

impl<'f> Tree<'f> {
    pub(super) fn facts(&self, ino: Ino) -> Option<&'f Facts> {
        self.inodes.get(&ino).copied()
    }

    pub(super) fn of_base(&self, path: &Path) -> Option<Ino> {
        if path.as_bytes().is_empty() { Some(Ino::ROOT) } else { self.of_base.get(path).copied() }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = (Ino, &'f [u8], Dentry)> {
        self.names.iter().map(|(&(dir, name), &dentry)| (dir, name, dentry))
    }

    /// Goes on by an epoch. Adds the inodes about which something may be different.
    fn apply(&mut self, epoch: Epoch, changes: &'f Changes, dirty: &mut BTreeSet<Ino>) {
        for (&ino, state) in &changes.inodes {
            dirty.insert(ino);
            if let Some(old) = self.inodes.remove(&ino)
                && let Some(path) = old.base_path.as_ref().filter(|path| self.of_base.get(path) == Some(&ino))
            {
                self.of_base.remove(path);
            }
            let Some(facts) = &state.value else { continue };
            self.inodes.insert(ino, facts);
            if let Some(path) = facts.base_path.as_ref().filter(|_| facts.nlink > 0) {
                self.of_base.insert(path, ino);
            }
        }
        for ((dir, name), state) in &changes.names {
            let key = (*dir, &**name);
            if epoch == Epoch::BASE {
                self.pinned.insert(key);
            } else {
                self.pinned.remove(&key);
            }
            let was = match state.value {
                Some(dentry) => self.names.insert(key, dentry),
                None => self.names.remove(&key),
            };
            dirty.insert(*dir);
            for (dentry, more) in was.iter().map(|d| (d, false)).chain(state.value.iter().map(|d| (d, true))) {
                dirty.extend(self.count(*dir, *dentry, more));
            }
            // What the base has here may have lost its name by this.
            let below = self.facts(*dir).and_then(|f| f.base_path.as_ref()).map(|path| path.join(name));
            dirty.extend(below.and_then(|path| self.of_base(&path)));
        }
    }

    /// Counts a name, or takes it back; returns the inode that it stands for.
    fn count(&mut self, dir: Ino, dentry: Dentry, more: bool) -> Option<Ino> {
        let step = |n: &mut u64| *n = if more { *n + 1 } else { n.saturating_sub(1) };
        let inside = self.inside.entry(dir).or_default();
        match dentry {
            Dentry::Whiteout { .. } => {
                step(&mut inside.whiteouts);
                None
            }
            Dentry::Entry { ino, kind } => {
                step(&mut inside.entries);
                if kind == Kind::Dir {
                    step(&mut inside.dirs);
                }
                let links = self.links.entry(ino).or_default();
                match links.iter_mut().find(|(has, _)| *has == kind) {
                    Some((_, n)) => step(n),
                    None => links.push((kind, 1)),
                }
                Some(ino)
            }
        }
    }

    /// Whether a name is of a directory that is not there at this point, and tells what the base had in it at another one: an apply writes that
    /// down wherever it may be seen from.
    fn is_hidden(&self, dir: Ino, name: &[u8], dentry: &Dentry) -> bool {
        let later = dir != Ino::ROOT && self.is_of_base(dentry);
        self.facts(dir).is_none_or(|f| f.nlink == 0) && (later || self.pinned.contains(&(dir, name)))
    }

    /// Whether a name may stand for a file of the base, or for none, which only an apply says.
    fn is_of_base(&self, dentry: &Dentry) -> bool {
        match dentry {
            Dentry::Entry { ino, .. } => self.facts(*ino).is_none_or(|f| !f.born),
            Dentry::Whiteout { hid } => hid.0 == 0,
        }
    }

    /// Whether a directory that is not there has names that nothing explains.
    fn has_stray(&self, dir: Ino, entries_only: bool) -> bool {
        self.names
            .range((dir, &b""[..])..)
            .take_while(|((of, _), _)| *of == dir)
            .any(|((_, name), d)| !self.is_hidden(dir, name, d) && (!entries_only || matches!(d, Dentry::Entry { .. })))
    }

    /// What is wrong with one inode and its names.
    fn judge(&self, ino: Ino, shown: &Names<'_, 'f>, wrong: &mut Vec<String>) {
        let facts = self.facts(ino);
        let links: SmallVec<[(Kind, u64); 1]> =
            self.links.get(&ino).into_iter().flatten().filter(|(_, n)| *n > 0).copied().collect();
        for &(kind, _) in &links {
            let why = match facts {
                None => format!("points to inode {ino}, which has no record"),
                Some(f) if f.nlink == 0 => format!("points to inode {ino}, which is deleted"),
                Some(f) if f.kind != kind => format!("is a {kind:?}, its inode {ino} a {:?}", f.kind),
                Some(_) => continue,
            };
            wrong.extend(shown.of(ino, kind).map(|name| format!("{name} {why}")));
        }
        let inside = self.inside.get(&ino).copied().unwrap_or_default();
        let is_entry = |d: &Dentry| matches!(d, Dentry::Entry { .. });
        let why: Option<(&str, Which<'_>)> = match facts {
            _ if inside.entries + inside.whiteouts == 0 => None,
            None if !self.has_stray(ino, false) => None,
            None => Some(("the directory has no record", &|_| true)),
            Some(f) if f.kind != Kind::Dir && self.has_stray(ino, false) => Some(("that is no directory", &|_| true)),
            // The whiteouts of a removed directory of the base stay: they tell what went with it.
            Some(f) if f.nlink == 0 && inside.entries > 0 && self.has_stray(ino, true) => {
                Some(("the directory is deleted", &is_entry))
            }
            Some(f) if f.born && ino != Ino::ROOT && inside.whiteouts > 0 => {
                Some(("a whiteout covers nothing, the directory is not in the base", &|d| !is_entry(d)))
            }
            Some(_) => None,
        };
        if let Some((why, which)) = why {
            wrong.push(format!("{}: {why}", shown.in_directory(ino, which)));
        }
        if let Some(facts) = facts.filter(|_| ino != Ino::ROOT) {
            let mut has: u64 = links.iter().map(|(_, n)| n).sum();
            if has > u64::from(facts.nlink) {
                has = links.iter().map(|(kind, _)| shown.of(ino, *kind).count() as u64).sum();
            }
            self.links(ino, facts, has, inside.dirs, wrong);
        }
    }

    fn links(&self, ino: Ino, facts: &Facts, has: u64, dirs: u64, wrong: &mut Vec<String>) {
        let links = u64::from(facts.nlink);
        if links == 0 {
            return;
        }
        if has == 0 && (facts.born || self.lost_its_name(facts)) {
            wrong.push(format!("inode {ino} has no name"));
        }
        if facts.kind == Kind::Dir {
            if has > 1 {
                wrong.push(format!("directory {ino} has {has} names"));
            }
            if facts.born && links != dirs + 2 {
                wrong.push(format!("directory {ino} has {dirs} directories in it but {links} links"));
            }
        } else if (facts.born && links != has) || links < has {
            wrong.push(format!("inode {ino} has {has} names but {links} links"));
        }
    }

    /// Whether the base name of a directory without any other is covered. A file may have more names in the base, which only the
    /// base knows.
    fn lost_its_name(&self, facts: &Facts) -> bool {
        let Some((dir, name)) = facts.base_path.as_ref().and_then(Path::split_last) else { return false };
        self.of_base(&dir).is_some_and(|dir| self.names.contains_key(&(dir, name)))
    }
}

/// Directory, name, and the type that it says.
type Entry<'f> = (Ino, &'f [u8], Kind);
/// Says whether it is about a name.
type Which<'w> = &'w dyn Fn(&Dentry) -> bool;

/// How names are shown, found when the first one has to be.
struct Names<'t, 'f> {
    tree: &'t Tree<'f>,
    by_inode: OnceCell<FxHashMap<Ino, Vec<Entry<'f>>>>,
}

impl<'t, 'f> Names<'t, 'f> {
    fn new(tree: &'t Tree<'f>) -> Names<'t, 'f> {
        Names { tree, by_inode: OnceCell::new() }
    }

    fn shown(dir: Ino, name: &[u8]) -> String {
        format!("{:?} in directory {dir}", String::from_utf8_lossy(name))
    }

    fn by_inode(&self) -> &FxHashMap<Ino, Vec<Entry<'f>>> {
        self.by_inode.get_or_init(|| {
            let mut found: FxHashMap<Ino, Vec<_>> = FxHashMap::default();
            for (dir, name, dentry) in self.tree.names() {
                if let Dentry::Entry { ino, kind } = dentry
                    && !self.tree.is_hidden(dir, name, &dentry)
                {
                    found.entry(ino).or_default().push((dir, name, kind));
                }
            }
            found
        })
    }

    /// The names that say that an inode is of a type.
    fn of(&self, ino: Ino, kind: Kind) -> impl Iterator<Item = String> {
        let names = self.by_inode().get(&ino).into_iter().flatten().filter(move |&&(dir, _, has)| {
            has == kind && !(self.tree.is_of_base(&Dentry::Entry { ino, kind }) && self.is_out_of_view(dir, 0))
        });
        names.map(|&(dir, name, _)| Names::shown(dir, name))
    }

    /// Whether a directory is below one that is not there at this point.
    fn is_out_of_view(&self, dir: Ino, depth: u32) -> bool {
        if dir == Ino::ROOT || depth > DEEPEST {
            return false;
        }
        let Some(facts) = self.tree.facts(dir).filter(|f| f.nlink > 0) else { return true };
        let entries = self.by_inode().get(&dir).map(Vec::as_slice).unwrap_or_default();
        if !entries.is_empty() {
            return entries.iter().all(|&(above, ..)| self.is_out_of_view(above, depth + 1));
        }
        let mut path = facts.base_path.clone();
        while let Some((above, name)) = path.as_ref().and_then(Path::split_last) {
            if let Some(known) = self.tree.of_base(&above) {
                return self.tree.names.contains_key(&(known, name)) || self.is_out_of_view(known, depth + 1);
            }
            path = Some(above);
        }
        false
    }

    /// One of the names in a directory.
    fn in_directory(&self, dir: Ino, which: Which<'_>) -> String {
        let mut names = self.tree.names.range((dir, &b""[..])..).take_while(|((of, _), _)| *of == dir);
        let found = names.find(|(_, dentry)| which(dentry));
        found.map_or_else(|| format!("directory {dir}"), |((dir, name), _)| Names::shown(*dir, name))
    }
}

/// A point at which the rules must hold, and how it is called.
fn points(found: &Found, timeline: Timeline) -> Vec<(Epoch, String)> {
    let of_it = found.snapshots.iter().filter(|(_, s)| s.timeline == timeline);
    let mut points: Vec<_> = of_it.map(|(&epoch, _)| (epoch, format!(" (in the snapshot of epoch {epoch})"))).collect();
    if let Some(record) = found.timelines.get(&timeline).filter(|t| !t.deleted) {
        points.retain(|(epoch, _)| *epoch < record.head);
        let when = if timeline == Timeline::MAIN { String::new() } else { format!(" (in timeline {})", record.name) };
        points.push((record.head, when));
    }
    points
}

impl Check<'_> {
    pub(super) fn points(&mut self) {
        let found = &self.found;
        let mut problems = Vec::new();
        for (&timeline, record) in &found.timelines {
            let points = points(found, timeline);
            if points.is_empty() {
                continue;
            }
            let mut tree = Tree::default();
            for at in found.ancestors(timeline) {
                // Judged where it is their own.
                let states = found.changes.range((at.timeline, Epoch::BASE)..=(at.timeline, at.epoch));
                states.for_each(|(&(_, epoch), changes)| tree.apply(epoch, changes, &mut BTreeSet::new()));
            }
            let mut next = Epoch::BASE;
            for (epoch, when) in points {
                let mut dirty = BTreeSet::new();
                for (&(_, of), changes) in found.changes.range((timeline, next)..=(timeline, epoch)) {
                    tree.apply(of, changes, &mut dirty);
                }
                next = Epoch(epoch.0.saturating_add(1));
                let names = Names::new(&tree);
                let mut wrong = Vec::new();
                for ino in dirty {
                    tree.judge(ino, &names, &mut wrong);
                }
                if epoch == record.head {
                    wrong.extend(tree.loops().into_iter().map(|dir| format!("directory {dir} is inside itself")));
                    self.report.inodes += tree.inodes.values().filter(|f| f.nlink > 0).count() as u64;
                    let is_entry = |d: &&Dentry| matches!(d, Dentry::Entry { .. });
                    self.report.dentries += tree.names.values().filter(is_entry).count() as u64;
                }
                problems.extend(wrong.into_iter().map(|line| line + &when));
            }
        }
        self.report.problems.append(&mut problems);
    }
}
