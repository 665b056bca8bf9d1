//! Going through time: what the reference expects of snapshots, rewinds and undo.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use regentfs::overlay::seal::Reason;
use regentfs::store::history::{OpKind, Why};
use regentfs::timeline::TimeError;
use regentfs::timeline::machine::Moved;
use regentfs::timeline::undo::Direction;
use regentfs::types::{At, Kind, Path as InPath};

use super::kernel::Told;
use super::live::{Live, shown};
use super::op::Pick;
use super::run::{Done, Point, Run, no};
use super::tree::{File, Number, Path, ROOT, Tree, differences, is_below, show};

impl Run {
    pub(super) fn snapshot(&mut self) -> Done {
        let now = self.now();
        let reason = Reason::new(Why::Manual, "");
        let taken = self.live.machine().snapshot(&Live::ctx(now), &reason, &[], false);
        let taken = taken.map_err(|e| format!("snapshot: {e}"))?;
        self.note(format!("snapshot (epoch {} is point {})", taken.epoch, self.points.len()));
        self.points
            .push(Point { at: Some(At { timeline: taken.timeline, epoch: taken.epoch }), tree: self.tree.named() });
        Ok(())
    }

    /// Notes the states around an operation; one that is known must be the same as before.
    pub(super) fn points_of(&mut self, moved: &Moved, before: &Tree, after: &Tree) -> Done {
        for (at, tree) in [(moved.before, before), (moved.after, after)] {
            if let Some(known) = self.points.iter().find(|p| p.at == Some(at)) {
                let lines = known.tree.differences(tree);
                if !lines.is_empty() {
                    return Err(format!("epoch {} is not the state before:\n{}", at.epoch, lines.join("\n")));
                }
            } else if at.epoch.0 == 0 {
                let lines = self.points[0].tree.differences(tree);
                if !lines.is_empty() {
                    return Err(format!("this is not the base:\n{}", lines.join("\n")));
                }
            } else {
                self.note(format!("    (epoch {} is point {})", at.epoch, self.points.len()));
                self.points.push(Point { at: Some(at), tree: tree.named() });
            }
        }
        Ok(())
    }

    pub(super) fn rewind(&mut self, point: &Pick) -> Done {
        let at = Run::place(point, self.points.len());
        let (place, target) = (self.points[at].at, self.points[at].tree.clone());
        let now = self.now();
        self.note(format!("rewind {at} ({} open)", self.open.len()));
        self.live.kernel().take();
        let lineage = self.live.lineage(place);
        let ctx = Live::ctx(now);
        let moved = self.live.machine().rewind(&ctx, &lineage, &[], (OpKind::Rewind, "test"), &[]);
        let moved = moved.map_err(|e| format!("rewind: {e}"))?;
        self.arrive(target, &moved)
    }

    /// After everything went back to a tree.
    pub(super) fn arrive(&mut self, mut after: Tree, moved: &Moved) -> Done {
        let before = self.tree.clone();
        for kept in &moved.kept {
            let (old, new) = (kept.old.0, kept.new.0);
            if before.files.contains_key(&new) || after.files.contains_key(&new) {
                return Err(format!("the number {new:x} is taken"));
            }
            if !self.open.iter().any(|(open, _)| *open == old) {
                return Err(format!("{} is said to be open", kept.path));
            }
            let names = after.spots().iter().filter(|s| s.number == old).count() as u32;
            let Some(mut file) = after.files.remove(&old) else {
                return Err(format!("{} is kept, but it has no name in the target", kept.path));
            };
            file.nlink = names;
            after.files.insert(new, file);
            for file in after.files.values_mut().filter(|f| f.entries.values().any(|n| *n == old)) {
                Rc::make_mut(&mut file.entries).values_mut().filter(|n| **n == old).for_each(|n| *n = new);
            }
        }
        self.keep_open(&before, &mut after)?;
        let told = self.live.kernel().take();
        self.check_told(&told, &before, &after)?;
        self.arrived(moved, &before, after)
    }

    /// What is to be there after a move is: the two points that it made are known from now on.
    fn arrived(&mut self, moved: &Moved, before: &Tree, after: Tree) -> Done {
        self.tree = after;
        self.check_open()?;
        let after = self.tree.named();
        self.points_of(moved, &before.named(), &after)?;
        self.settle();
        Ok(())
    }

    /// Files that are open stay as they were for who has them open.
    pub(super) fn keep_open(&self, before: &Tree, after: &mut Tree) -> Done {
        let named: BTreeSet<Number> = after.spots().iter().map(|s| s.number).collect();
        for (number, inode) in &self.open {
            let was = before.file(*number);
            match after.files.get(number).cloned() {
                Some(is) if named.contains(number) => {
                    if is.bytes != was.bytes {
                        return Err(format!("the open file {number:x} has other bytes: {:?}", differences(was, &is)));
                    }
                }
                // It may have names outside the repository: then it is as it was then, or as it was now.
                then => {
                    let has_names = |tree: &Tree| tree.spots().iter().filter(|s| s.number == *number).count() as u32;
                    let outside = was.nlink > has_names(before) || then.as_ref().is_some_and(|f| f.nlink > 0);
                    let found = shown(self.live.overlay(), inode).map_err(no(&format!("read #{number:x}")))?;
                    let file =
                        if outside && found.bytes == was.bytes { found } else { File { nlink: 0, ..was.clone() } };
                    after.files.insert(*number, file);
                }
            }
        }
        Ok(())
    }

    /// The kernel must hear of all that it may have cached and that is different now.
    pub(super) fn check_told(&self, told: &Told, before: &Tree, after: &Tree) -> Done {
        for number in self.live.known().into_iter().chain([ROOT]) {
            let (Some(was), Some(is)) = (before.files.get(&number), after.files.get(&number)) else { continue };
            if was != is && !told.inodes.contains(&number) {
                return Err(format!(
                    "the kernel is not told that inode {number:x} changed: {:?}",
                    differences(was, is)
                ));
            }
            for name in was.entries.keys().chain(is.entries.keys()) {
                if was.entries.get(name) != is.entries.get(name) && !told.names.contains(&(number, name.clone())) {
                    return Err(format!("the kernel is not told that {} in {number:x} changed", show(name)));
                }
            }
        }
        let alive = |number: &Number| after.files.get(number).is_some_and(|f| f.nlink > 0 && f.kind == Kind::Dir);
        match told.deleted.iter().find(|number| alive(number)) {
            Some(number) => Err(format!("the kernel is told that directory {number:x} is dead")),
            None => Ok(()),
        }
    }

    /// The kernel lets go of what has no name any more, half of the time.
    pub(super) fn settle(&mut self) {
        if self.clock % 2 == 0 {
            return;
        }
        for number in self.live.known() {
            self.unused_now(number);
        }
    }

    pub(super) fn restore(&mut self, point: &Pick, paths: &[Pick]) -> Done {
        let at = Run::place(point, self.points.len());
        let (place, target) = (self.points[at].at, self.points[at].tree.clone());
        let mut all: Vec<Path> = target.paths().into_keys().chain(self.tree.paths().into_keys()).collect();
        all.sort();
        all.dedup();
        let choose = |p: &Pick| match p {
            Pick::At(path) => path.clone(),
            Pick::Nth(nth) => all[usize::from(*nth) % all.len()].clone(),
        };
        let chosen: Vec<Path> = paths.iter().map(choose).collect();
        let list: Vec<InPath> = chosen.iter().map(|p| InPath::new(p)).collect();
        let names = chosen.iter().map(|p| show(p)).collect::<Vec<_>>().join(" ");
        self.note(format!("restore {at} {names} ({} open)", self.open.len()));
        let now = self.now();
        self.live.kernel().take();
        let lineage = self.live.lineage(place);
        let ctx = Live::ctx(now);
        let moved = self.live.machine().rewind(&ctx, &lineage, &list, (OpKind::Restore, "test"), &[]);
        match moved {
            Ok(moved) => self.arrive_in_part(&chosen, &target, &moved),
            Err(TimeError::Refused(_)) if self.in_the_way(&chosen, &target) => self.compare(),
            Err(e) => Err(format!("restore {names}: {e}")),
        }
    }

    /// Whether something that is no directory is above one of the paths.
    pub(super) fn in_the_way(&self, paths: &[Path], target: &Tree) -> bool {
        let (now, then) = (self.tree.paths(), target.paths());
        let blocks = |path: &Path| {
            let above = |p: &&Path| *p != path && is_below(path, p);
            let of = |map: &BTreeMap<Path, Number>, tree: &Tree| {
                map.iter().any(|(p, n)| above(&p) && tree.file(*n).kind != Kind::Dir)
            };
            of(&now, &self.tree) || of(&then, target)
        };
        paths.iter().any(blocks)
    }

    /// After only some paths went back. Takes over what is there now, as far as it can be right.
    pub(super) fn arrive_in_part(&mut self, paths: &[Path], target: &Tree, moved: &Moved) -> Done {
        let before = self.tree.clone();
        let told = self.live.kernel().take();
        let known = self.live.known();
        let mut after = self.live.tree()?;
        let (was, is, then) = (before.paths(), after.paths(), target.paths());
        let looks = |tree: &Tree, number: Option<&Number>| number.map(|n| tree.file(*n).looks());
        for path in was.keys().chain(is.keys()).chain(then.keys()).collect::<BTreeSet<_>>() {
            let asked = paths.iter().any(|p| is_below(path, p));
            let above = paths.iter().any(|p| is_below(p, path));
            let (right, tree) = if asked { (&then, target) } else { (&was, &before) };
            let found = looks(&after, is.get(path));
            if found == looks(tree, right.get(path)) {
                continue;
            }
            // One of several names of a file goes with the others; a directory above is made if need be.
            let linked = |tree: &Tree, paths: &BTreeMap<Path, Number>| {
                paths.get(path).is_some_and(|n| tree.file(*n).kind != Kind::Dir && tree.file(*n).nlink > 1)
            };
            if linked(&before, &was) || linked(&after, &is) || linked(target, &then) {
                continue;
            }
            if above && !asked && found == looks(target, then.get(path)) {
                continue;
            }
            let with = if asked { "as it was then" } else { "left alone" };
            return Err(format!("{} is not {with}", show(path)));
        }
        for (number, file) in &after.files {
            let names = after.spots().iter().filter(|s| s.number == *number).count() as u32;
            if file.kind != Kind::Dir && file.nlink < names {
                return Err(format!("inode {number:x} has {names} names but {} links", file.nlink));
            }
        }
        self.keep_open(&before, &mut after)?;
        let known: BTreeSet<Number> = known.into_iter().collect();
        let of_known = |tree: &Tree| Tree {
            files: tree
                .files
                .iter()
                .filter(|(n, _)| known.contains(n) || **n == ROOT)
                .map(|(n, f)| (*n, f.clone()))
                .collect(),
        };
        self.check_told(&told, &of_known(&before), &of_known(&after))?;
        self.arrived(moved, &before, after)
    }

    pub(super) fn undo(&mut self, direction: Direction, force: bool) -> Done {
        let name = direction.name();
        let Ok(operation) = self.live.machine().next_operation(direction) else { return Ok(()) };
        let (from, to) = match direction {
            Direction::Undo => (operation.after, operation.before),
            Direction::Redo => (operation.before, operation.after),
        };
        let tree_of = |at: At| self.points.iter().find(|p| p.at == Some(at) || (p.at.is_none() && at.epoch.0 == 0));
        let (Some(source), Some(target)) = (tree_of(from), tree_of(to)) else {
            return Err(format!("{name}: the states of the operation are not known"));
        };
        let last = tree_of(operation.last).ok_or(format!("{name}: the last state is not known"))?;
        let (source, target, last) = (source.tree.clone(), target.tree.clone(), last.tree.clone());
        self.note(format!(
            "{name}{} (to epoch {}, {} open)",
            if force { " force" } else { "" },
            to.epoch,
            self.open.len()
        ));
        let now = self.now();
        self.live.kernel().take();
        let done = self.live.machine().undo(&Live::ctx(now), direction, force, &[]);
        let touched = |one: &Tree, two: &Tree| -> Vec<Path> {
            let (a, b) = (one.paths(), two.paths());
            let looks = |tree: &Tree, n: Option<&Number>| n.map(|n| tree.file(*n).looks());
            let all: BTreeSet<&Path> = a.keys().chain(b.keys()).collect();
            let differs = |p: &&Path| looks(one, a.get(*p)) != looks(two, b.get(*p));
            all.into_iter().filter(differs).cloned().collect()
        };
        let (since, mine) = (touched(&last, &self.tree), touched(&source, &target));
        let both = since.iter().any(|a| mine.iter().any(|b| is_below(a, b) || is_below(b, a)));
        match done {
            Ok(_) if both && !force => Err(format!("{name}: takes back what was changed since")),
            Ok((_, moved)) if since.is_empty() || force => self.arrive(target, &moved),
            Ok((_, moved)) => self.arrive_in_part(&mine, &target, &moved),
            Err(TimeError::Changed(_)) if both && !force => self.compare(),
            Err(e) => Err(format!("{name}: {e}")),
        }
    }
}
