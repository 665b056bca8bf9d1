//! One run: the same operations on the overlay and on the reference, compared on the way.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use regentfs::overlay::Inode;
use regentfs::overlay::ops::setattr::{SetAttr, SetTime};
use regentfs::overlay::view::View;
use regentfs::store::check;
use regentfs::timeline::undo::Direction;
use regentfs::types::{At, Errno, Kind, Time};

use super::compare::Pair;
use super::live::{Live, shown, tree_of_view};
use super::op::{Op, Pick, Which};
use super::tree::{File, Number, Path, Spot, Tree, differences, is_below, join, show};
use crate::model::rng::Rng;

/// A state that can be gone back to.
pub(super) struct Point {
    /// `None`: the base.
    pub at: Option<At>,
    pub tree: Tree,
}

pub struct Run {
    pub(super) live: Live,
    pub(super) tree: Tree,
    pub(super) points: Vec<Point>,
    pub(super) open: Vec<(Number, Arc<Inode>)>,
    pub(super) clock: i64,
    /// Files that something was done to lately, the last one first.
    recent: Vec<Number>,
    /// Files that had more than one name at some time.
    pub(super) linked: BTreeSet<Number>,
    /// What was done, for people.
    pub trace: Vec<String>,
}

pub(super) type Done<T = ()> = Result<T, String>;

/// For errors of the overlay where there must be none.
pub(super) fn no(what: &str) -> impl Fn(Errno) -> String {
    let what = what.to_owned();
    move |errno| format!("{what}: {errno}")
}

pub(super) fn data(fill: u8, offset: u64, len: u64) -> Vec<u8> {
    match fill {
        0 => vec![0; len as usize],
        _ => Rng::new(u64::from(fill) << 32 | offset).bytes(len as usize),
    }
}

impl Run {
    pub fn new(live: Live, base: &Tree) -> Run {
        let points = vec![Point { at: None, tree: base.clone() }];
        let linked = base.files.iter().filter(|(_, f)| f.nlink > 1 && f.kind != Kind::Dir).map(|(n, _)| *n).collect();
        Run {
            live,
            tree: base.clone(),
            points,
            open: Vec::new(),
            clock: 1_800_000_000,
            recent: Vec::new(),
            linked,
            trace: Vec::new(),
        }
    }

    /// Closes what is open and hands over what there is, with the points that were sealed.
    pub fn into_parts(mut self) -> (Live, Vec<At>) {
        self.open.clear();
        let points = self.points.iter().filter_map(|p| p.at).collect();
        (self.live, points)
    }

    pub(super) fn now(&mut self) -> Time {
        self.clock += 1;
        Time::new(self.clock, 5)
    }

    /// Chooses one of several things with a path and a number.
    pub(super) fn pick<T: Clone>(
        &mut self,
        list: &[T],
        which: &Pick,
        key: impl Fn(&T) -> (&[u8], Number),
    ) -> Option<T> {
        let found = match which {
            Pick::At(path) => list.iter().find(|one| key(one).0 == path).cloned(),
            Pick::Nth(_) if list.is_empty() => None,
            Pick::Nth(nth) => {
                let lately: Vec<&T> = list.iter().filter(|one| self.recent.contains(&key(one).1)).collect();
                let place = usize::from(nth / 2);
                match nth % 2 {
                    1 if !lately.is_empty() => Some(lately[place % lately.len()].clone()),
                    _ => Some(list[place % list.len()].clone()),
                }
            }
        };
        if let Some(found) = &found {
            let number = key(found).1;
            self.recent.retain(|n| *n != number);
            self.recent.insert(0, number);
            self.recent.truncate(3);
        }
        found
    }

    pub(super) fn place(which: &Pick, many: usize) -> usize {
        match which {
            Pick::Nth(nth) => usize::from(*nth) % many,
            Pick::At(text) => std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).expect("a number"),
        }
    }

    pub(super) fn note(&mut self, line: String) {
        self.trace.push(line);
    }

    /// A file: by path, or an open one.
    pub(super) fn target(
        &mut self,
        which: &Which,
        wanted: impl Fn(&File) -> bool,
    ) -> Done<Option<(Number, Arc<Inode>, String)>> {
        if let Which::Open(which) = which
            && !self.open.is_empty()
        {
            let at = Run::place(which, self.open.len());
            let (number, inode) = self.open[at].clone();
            if wanted(self.tree.file(number)) {
                return Ok(Some((number, inode, format!("#{at}"))));
            }
        }
        let which = match which {
            Which::Path(which) | Which::Open(which) => which,
        };
        let spots: Vec<Spot> = self.tree.spots().into_iter().filter(|s| wanted(self.tree.file(s.number))).collect();
        let Some(spot) = self.pick(&spots, which, key) else { return Ok(None) };
        let inode = self.inode(&spot.path, spot.number)?;
        Ok(Some((spot.number, inode, show(&spot.path))))
    }

    pub(super) fn inode(&mut self, path: &[u8], number: Number) -> Done<Arc<Inode>> {
        let inode = self.live.walk(path).map_err(no(&format!("walk to {}", show(path))))?;
        if inode.ino.0 != number {
            return Err(format!("{} should be inode {number:x}, is {:x}", show(path), inode.ino.0));
        }
        Ok(inode)
    }

    pub(super) fn spot(&mut self, which: &Pick) -> Option<Spot> {
        let spots = self.tree.spots();
        self.pick(&spots, which, key)
    }

    pub(super) fn dir(&mut self, which: &Pick) -> Done<(Path, Number, Arc<Inode>)> {
        let dirs = self.tree.dirs();
        let found = self.pick(&dirs, which, |(path, number)| (path, *number));
        let (path, number) = found.ok_or("there is no such directory")?;
        let inode = self.inode(&path, number)?;
        Ok((path, number, inode))
    }

    /// The directory of a name.
    pub(super) fn above(&mut self, spot: &Spot) -> Done<Arc<Inode>> {
        let len = spot.path.len() - spot.name.len();
        self.inode(spot.path[..len].strip_suffix(b"/").unwrap_or(b""), spot.dir)
    }

    pub fn step(&mut self, op: &Op) -> Done {
        match op {
            Op::Create { dir, name, what, perm } => self.create(dir, name, *what, *perm),
            Op::Open { file } => self.open(file),
            Op::Close { open } => {
                if !self.open.is_empty() {
                    self.close(Run::place(open, self.open.len()));
                }
                Ok(())
            }
            Op::Read { which, offset, len } => self.read(which, *offset, *len),
            Op::Write { which, offset, len, fill, append } => self.write(which, *offset, *len, *fill, *append),
            Op::Truncate { which, size } => self.truncate(which, *size),
            Op::Allocate { which, how, offset, len } => self.allocate(which, *how, *offset, *len),
            Op::Copy { from, from_offset, to, to_offset, len } => {
                self.copy((from, *from_offset), (to, *to_offset), *len)
            }
            Op::Sync { which } => match self.target(which, is_file)? {
                Some((_, inode, _)) => self.live.overlay().sync(&inode).map_err(no("sync")),
                None => Ok(()),
            },
            Op::Remove { spot } => match self.spot(spot) {
                Some(spot) => self.remove(&spot),
                None => Ok(()),
            },
            Op::RemoveAll { spot } => match self.spot(spot) {
                Some(spot) => self.remove_all(&spot),
                None => Ok(()),
            },
            Op::Rename { spot, dir, name } => {
                let (Some(from), (path, dir, _)) = (self.spot(spot), self.dir(dir)?) else { return Ok(()) };
                self.rename(&from, &join(&path, name), dir, name)
            }
            Op::RenameOver { spot, onto } => {
                let (Some(from), Some(to)) = (self.spot(spot), self.spot(onto)) else { return Ok(()) };
                self.rename(&from, &to.path, to.dir, &to.name)
            }
            Op::Exchange { one, two } => {
                let (Some(one), Some(two)) = (self.spot(one), self.spot(two)) else { return Ok(()) };
                self.exchange(&one, &two)
            }
            Op::Link { spot, dir, name } => self.link(spot, dir, name),
            Op::Chmod { which, perm } => {
                let set = SetAttr { perm: Some(*perm), ..SetAttr::default() };
                let done = self.set(which, |f| f.kind != Kind::Symlink, "chmod", &set)?;
                if let Some((number, now)) = done {
                    self.tree.chmod(now, number, *perm);
                }
                Ok(())
            }
            Op::Chown { which, uid, gid } => {
                let set = SetAttr { uid: Some(*uid), gid: Some(*gid), ..SetAttr::default() };
                if let Some((number, now)) = self.set(which, |_| true, "chown", &set)? {
                    self.tree.chown(now, number, *uid, *gid);
                }
                Ok(())
            }
            Op::Mtime { which, secs } => {
                let mtime = Time::new(i64::from(*secs), 7);
                let set = SetAttr { mtime: Some(SetTime::To(mtime)), ..SetAttr::default() };
                if let Some((number, now)) = self.set(which, |_| true, "utimens", &set)? {
                    self.tree.set_mtime(now, number, mtime);
                }
                Ok(())
            }
            Op::SetXattr { which, name, len } => self.xattr(which, name, Some(vec![*len; *len as usize])),
            Op::RemoveXattr { which, name } => self.xattr(which, name, None),
            Op::Snapshot => self.snapshot(),
            Op::Rewind { point } => self.rewind(point),
            Op::Restore { point, paths } => self.restore(point, paths),
            Op::Undo { force } => self.undo(Direction::Undo, *force),
            Op::Redo { force } => self.undo(Direction::Redo, *force),
            Op::Forget { salt } => {
                self.note(format!("forget {salt}"));
                self.forget(*salt);
                Ok(())
            }
            Op::Restart => self.restart(),
            Op::Compare => self.compare(),
            Op::Look { point } => {
                let at = Run::place(point, self.points.len());
                self.look(at)
            }
            Op::Diff { from, to } => {
                // One more than there are points: the present.
                let many = self.points.len() + 1;
                self.diff(Run::place(from, many), Run::place(to, many))
            }
        }
    }

    pub(super) fn close(&mut self, at: usize) {
        let (number, inode) = self.open.remove(at);
        self.note(format!("close #{at} ({number:x})"));
        if inode.closed() {
            self.live.overlay().forget(inode.ino, 0);
        }
        self.unused(number);
    }

    /// What the kernel does with an inode that has lost its last name or user.
    pub(super) fn unused(&mut self, number: Number) {
        let is_open = self.open.iter().any(|(open, _)| *open == number);
        if !is_open && self.tree.files.get(&number).is_none_or(|f| f.nlink == 0) {
            if !self.open.is_empty() && self.live.is_dir(number) {
                // What is open keeps the directories in which it was found, removed ones as well.
                return;
            }
            self.live.drop_inode(number);
            self.tree.files.remove(&number);
        }
    }

    /// What is open must be as it should be.
    pub(super) fn check_open(&mut self) -> Done {
        let spots = self.tree.spots();
        let linked = self.tree.files.iter().filter(|(_, f)| f.kind != Kind::Dir && f.nlink > 1).map(|(n, _)| *n);
        self.linked.extend(linked);
        for (number, inode) in &self.open {
            let mut found = shown(self.live.overlay(), inode).map_err(no(&format!("read #{number:x}")))?;
            found.entries = Rc::default();
            if let Some(line) = differences(self.tree.file(*number), &found) {
                return Err(format!("open file #{number:x}: {line}"));
            }
            if self.linked.contains(number) {
                continue;
            }
            // What events are told of.
            let path = self.live.overlay().path(inode);
            if let Some(right) = spots.iter().find(|s| s.number == *number && s.path != path.as_bytes()) {
                return Err(format!("open file #{number:x} is remembered as {path}, is {}", show(&right.path)));
            }
        }
        Ok(())
    }

    pub(super) fn unused_now(&mut self, number: Number) {
        if !self.tree.files.contains_key(&number) || self.tree.file(number).nlink == 0 {
            self.unused(number);
        }
    }

    pub(super) fn forget(&mut self, salt: u64) {
        let mut rng = Rng::new(salt);
        let mut spots = self.tree.spots();
        spots.sort_by(|a, b| b.path.cmp(&a.path));
        let names: BTreeSet<Number> = spots.iter().map(|s| s.number).collect();
        for number in self.live.known() {
            if !names.contains(&number) {
                self.unused_now(number);
            }
        }
        // What is in a directory goes before the directory: the kernel keeps those above what it knows.
        for spot in &spots {
            let open = self.open.iter().any(|(n, _)| *n == spot.number);
            let kept =
                spots.iter().any(|s| s.path != spot.path && is_below(&s.path, &spot.path) && self.live.knows(s.number));
            let held = !self.open.is_empty() && self.live.is_dir(spot.number);
            if !open && !kept && !held && !rng.one_in(3) {
                self.live.drop_inode(spot.number);
            }
        }
    }

    pub(super) fn close_all(&mut self) {
        while !self.open.is_empty() {
            self.close(0);
        }
    }

    pub(super) fn restart(&mut self) -> Done {
        self.close_all();
        self.forget(1);
        self.whole("before a restart")?;
        self.note("restart".to_owned());
        self.tree = self.tree.named();
        self.live.restart();
        self.whole("after a restart")?;
        self.compare()
    }

    /// fsck finds nothing.
    pub(super) fn whole(&self, when: &str) -> Done {
        let report = check::check(self.live.store(), true).map_err(|e| format!("fsck: {e}"))?;
        let lines: Vec<String> = report.problems.into_iter().chain(report.notes).collect();
        if lines.is_empty() { Ok(()) } else { Err(format!("the store is not whole {when}:\n{}", lines.join("\n"))) }
    }

    pub(super) fn compare(&mut self) -> Done {
        let found = self.live.tree()?;
        let lines = self.tree.differences(&found);
        if !lines.is_empty() {
            return Err(format!("the mount shows something else:\n{}", lines.join("\n")));
        }
        self.check_open()?;
        let now = tree_of_view(&View::now(self.live.overlay())).map_err(|e| format!("the view of now: {e}"))?;
        let lines = self.tree.differences(&now);
        if lines.is_empty() {
            Ok(())
        } else {
            Err(format!("the view of now shows something else:\n{}", lines.join("\n")))
        }
    }

    pub(super) fn look(&self, at: usize) -> Done {
        let point = &self.points[at];
        let found = tree_of_view(&self.live.view(point.at)).map_err(|e| format!("point {at}: {e}"))?;
        let lines = point.tree.differences(&found);
        if lines.is_empty() { Ok(()) } else { Err(format!("point {at} is not as it was:\n{}", lines.join("\n"))) }
    }

    pub(super) fn diff(&self, from: usize, to: usize) -> Done {
        let side = |at: usize| match self.points.get(at) {
            Some(point) => (&point.tree, self.live.view(point.at)),
            None => (&self.tree, View::now(self.live.overlay())),
        };
        let ((old, from_view), (new, to_view)) = (side(from), side(to));
        let pair = Pair { old, new, from: from_view, to: to_view };
        pair.check().map_err(|e| format!("from point {from} to {to} (of {}): {e}", self.points.len()))
    }

    /// Compares everything once more; two points, only some of the pairs unless it is to be `thorough`.
    pub fn end(&mut self, thorough: bool) -> Done {
        self.note("(end)".to_owned());
        self.compare()?;
        for at in 0..self.points.len() {
            self.look(at)?;
        }
        let mut rng = Rng::new(self.clock as u64);
        let many = self.points.len() + 1;
        let all = (0..many).flat_map(|from| (0..many).map(move |to| (from, to)));
        let some = (0..4).map(|_| (rng.below(many as u64) as usize, rng.below(many as u64) as usize));
        let some: Vec<_> = some.flat_map(|(from, to)| [(from, to), (to, from)]).collect();
        for (from, to) in if thorough { all.collect() } else { some } {
            self.diff(from, to)?;
        }
        self.restart()?;
        let last = self.points.len() - 1;
        for at in [rng.below(self.points.len() as u64) as usize, last] {
            self.look(at)?;
            if let Some(place) = self.points[at].at {
                let found = self.live.tree_of_past(place).map_err(|e| format!("a mount of point {at}: {e}"))?;
                let lines = self.points[at].tree.differences(&found);
                if !lines.is_empty() {
                    return Err(format!("a mount of point {at} shows something else:\n{}", lines.join("\n")));
                }
            }
        }
        Ok(())
    }
}

pub(super) fn key(spot: &Spot) -> (&[u8], Number) {
    (&spot.path, spot.number)
}

pub(super) fn is_file(file: &File) -> bool {
    file.kind == Kind::File
}
