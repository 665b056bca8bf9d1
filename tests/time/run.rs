//! One run: the same operations on the overlay and on the reference, compared on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use regentfs::overlay::Inode;
use regentfs::overlay::ops::create::New;
use regentfs::overlay::ops::io::Write;
use regentfs::overlay::ops::rename::{Rename, Spot as Place};
use regentfs::overlay::ops::setattr::{SetAttr, SetTime};
use regentfs::overlay::ops::space::Allocate;
use regentfs::overlay::ops::xattr::SetXattr;
use regentfs::overlay::seal::Reason;
use regentfs::overlay::view::View;
use regentfs::store::check;
use regentfs::store::history::{OpKind, Why};
use regentfs::timeline::TimeError;
use regentfs::timeline::machine::Moved;
use regentfs::timeline::undo::Direction;
use regentfs::types::{At, Errno, HandleId, Ino, Kind, Known, Op as Did, Path as InPath, Range, Time};

use super::compare::Pair;
use super::kernel::Told;
use super::live::{Live, shown, tree_of_view};
use super::op::{Make, Op, Pick, Room, Which};
use super::tree::{File, Name, Number, Path, ROOT, Spot, Tree, differences, is_below, join, show};
use crate::model::rng::Rng;

/// So many files are open at most.
const OPEN: usize = 5;

/// A state that can be gone back to.
struct Point {
    /// `None`: the base.
    at: Option<At>,
    tree: Tree,
}

pub struct Run {
    live: Live,
    tree: Tree,
    points: Vec<Point>,
    open: Vec<(Number, Arc<Inode>)>,
    clock: i64,
    /// What was done, for people.
    pub trace: Vec<String>,
}

type Done<T = ()> = Result<T, String>;

/// For errors of the overlay where there must be none.
fn no(what: &str) -> impl Fn(Errno) -> String {
    let what = what.to_owned();
    move |errno| format!("{what}: {errno}")
}

fn pick<T>(list: &[T], which: Pick) -> Option<&T> {
    if list.is_empty() { None } else { list.get(usize::from(which) % list.len()) }
}

/// Few enough that names are used again; some are those of the base.
fn new_name(which: u8) -> Name {
    [&b"n0"[..], b"n1", b"n2", b"n3\xff", b"small", b"e", b"linked", b"large", b"h"][usize::from(which) % 9].to_vec()
}

fn xattr_name(which: u8) -> Vec<u8> {
    [&b"user.a"[..], b"user.b", b"user.c"][usize::from(which) % 3].to_vec()
}

fn data(fill: u8, offset: u64, len: u64) -> Vec<u8> {
    match fill {
        0 => vec![0; len as usize],
        _ => Rng::new(u64::from(fill) << 32 | offset).bytes(len as usize),
    }
}

impl Run {
    pub fn new(live: Live, base: &Tree) -> Run {
        let points = vec![Point { at: None, tree: base.clone() }];
        Run { live, tree: base.clone(), points, open: Vec::new(), clock: 1_800_000_000, trace: Vec::new() }
    }

    /// Closes what is open and hands over what there is, with the points that were sealed.
    pub fn into_parts(mut self) -> (Live, Vec<At>) {
        self.open.clear();
        let points = self.points.iter().filter_map(|p| p.at).collect();
        (self.live, points)
    }

    fn now(&mut self) -> Time {
        self.clock += 1;
        Time::new(self.clock, 5)
    }

    fn note(&mut self, line: String) {
        self.trace.push(line);
    }

    /// A file: by path, or an open one.
    fn target(&mut self, which: Which, wanted: impl Fn(&File) -> bool) -> Done<Option<(Number, Arc<Inode>, String)>> {
        if let Which::Open(which) = which
            && let Some((number, inode)) = pick(&self.open, which)
            && wanted(self.tree.file(*number))
        {
            return Ok(Some((*number, inode.clone(), format!("#{number:x}"))));
        }
        let which = match which {
            Which::Path(which) | Which::Open(which) => which,
        };
        let spots: Vec<Spot> = self.tree.spots().into_iter().filter(|s| wanted(self.tree.file(s.number))).collect();
        let Some(spot) = pick(&spots, which) else { return Ok(None) };
        let inode = self.inode(&spot.path, spot.number)?;
        Ok(Some((spot.number, inode, show(&spot.path))))
    }

    fn inode(&mut self, path: &[u8], number: Number) -> Done<Arc<Inode>> {
        let inode = self.live.walk(path).map_err(no(&format!("walk to {}", show(path))))?;
        if inode.ino.0 != number {
            return Err(format!("{} should be inode {number:x}, is {:x}", show(path), inode.ino.0));
        }
        Ok(inode)
    }

    fn spot(&self, which: Pick) -> Option<Spot> {
        pick(&self.tree.spots(), which).cloned()
    }

    fn dir(&mut self, which: Pick) -> Done<(Path, Number, Arc<Inode>)> {
        let dirs = self.tree.dirs();
        let (path, number) = pick(&dirs, which).cloned().expect("the root is there");
        let inode = self.inode(&path, number)?;
        Ok((path, number, inode))
    }

    /// The directory of a name.
    fn above(&mut self, spot: &Spot) -> Done<Arc<Inode>> {
        let len = spot.path.len() - spot.name.len();
        self.inode(spot.path[..len].strip_suffix(b"/").unwrap_or(b""), spot.dir)
    }

    pub fn step(&mut self, op: &Op) -> Done {
        match op {
            Op::Create { dir, name, what, perm } => self.create(*dir, *name, *what, *perm),
            Op::Open { file } => self.open(*file),
            Op::Close { open } => {
                if !self.open.is_empty() {
                    let at = usize::from(*open) % self.open.len();
                    self.close(at);
                }
                Ok(())
            }
            Op::Read { which, offset, len } => self.read(*which, *offset, *len),
            Op::Write { which, offset, len, fill, append } => self.write(*which, *offset, *len, *fill, *append),
            Op::Truncate { which, size } => self.truncate(*which, *size),
            Op::Allocate { which, how, offset, len } => self.allocate(*which, *how, *offset, *len),
            Op::Copy { from, from_offset, to, to_offset, len } => {
                self.copy((*from, *from_offset), (*to, *to_offset), *len)
            }
            Op::Sync { which } => match self.target(*which, is_file)? {
                Some((_, inode, _)) => self.live.overlay().sync(&inode).map_err(no("sync")),
                None => Ok(()),
            },
            Op::Remove { spot } => match self.spot(*spot) {
                Some(spot) => self.remove(&spot),
                None => Ok(()),
            },
            Op::RemoveAll { spot } => match self.spot(*spot) {
                Some(spot) => self.remove_all(&spot),
                None => Ok(()),
            },
            Op::Rename { spot, dir, name } => {
                let (Some(from), (path, dir, _)) = (self.spot(*spot), self.dir(*dir)?) else { return Ok(()) };
                self.rename(&from, &join(&path, &new_name(*name)), dir, &new_name(*name))
            }
            Op::RenameOver { spot, onto } => {
                let (Some(from), Some(to)) = (self.spot(*spot), self.spot(*onto)) else { return Ok(()) };
                self.rename(&from, &to.path, to.dir, &to.name)
            }
            Op::Exchange { one, two } => {
                let (Some(one), Some(two)) = (self.spot(*one), self.spot(*two)) else { return Ok(()) };
                self.exchange(&one, &two)
            }
            Op::Link { spot, dir, name } => self.link(*spot, *dir, *name),
            Op::Chmod { which, perm } => {
                let set = SetAttr { perm: Some(*perm), ..SetAttr::default() };
                let done = self.set(*which, |f| f.kind != Kind::Symlink, "chmod", &set)?;
                if let Some((number, now)) = done {
                    self.tree.chmod(now, number, *perm);
                }
                Ok(())
            }
            Op::Chown { which, uid, gid } => {
                let set = SetAttr { uid: Some(*uid), gid: Some(*gid), ..SetAttr::default() };
                if let Some((number, now)) = self.set(*which, |_| true, "chown", &set)? {
                    self.tree.chown(now, number, *uid, *gid);
                }
                Ok(())
            }
            Op::Mtime { which, secs } => {
                let mtime = Time::new(i64::from(*secs), 7);
                let set = SetAttr { mtime: Some(SetTime::To(mtime)), ..SetAttr::default() };
                if let Some((number, now)) = self.set(*which, |_| true, "utimens", &set)? {
                    self.tree.set_mtime(now, number, mtime);
                }
                Ok(())
            }
            Op::SetXattr { which, name, len } => {
                self.xattr(*which, &xattr_name(*name), Some(vec![*len; *len as usize]))
            }
            Op::RemoveXattr { which, name } => self.xattr(*which, &xattr_name(*name), None),
            Op::Snapshot => self.snapshot(),
            Op::Rewind { point } => self.rewind(*point),
            Op::Restore { point, paths } => self.restore(*point, paths),
            Op::Undo { force } => self.undo(Direction::Undo, *force),
            Op::Redo { force } => self.undo(Direction::Redo, *force),
            Op::Forget { salt } => {
                self.note("forget".to_owned());
                self.forget(*salt);
                Ok(())
            }
            Op::Restart => self.restart(),
            Op::Compare => self.compare(),
            Op::Look { point } => {
                let at = usize::from(*point) % self.points.len();
                self.look(at)
            }
            Op::Diff { from, to } => {
                // One more than there are points: the present.
                let many = self.points.len() + 1;
                self.diff(usize::from(*from) % many, usize::from(*to) % many)
            }
        }
    }

    fn create(&mut self, dir: Pick, name: u8, what: Make, perm: u16) -> Done {
        let (path, number, parent) = self.dir(dir)?;
        let name = new_name(name);
        let (kind, perm, target) = match what {
            Make::File => (Kind::File, perm, None),
            Make::Dir => (Kind::Dir, perm & 0o1777, None),
            Make::Symlink => (Kind::Symlink, 0o777, Some(&b"some/where"[..])),
            Make::Fifo => (Kind::Fifo, perm, None),
        };
        let now = self.now();
        let ctx = Live::ctx(now);
        let what = format!("create {} {kind:?} {perm:o}", show(&join(&path, &name)));
        let made = self.live.overlay().create(&ctx, &parent, &name, &New { kind, perm, umask: 0, rdev: 0, target });
        if self.tree.file(number).entries.contains_key(&name) {
            return match made {
                Err(Errno::EEXIST) => Ok(()),
                other => Err(format!("{what}: {:?}, should be EEXIST", other.map(|i| i.ino))),
            };
        }
        self.note(what.clone());
        let inode = made.map_err(no(&what))?;
        self.live.remember(&inode);
        let target = target.unwrap_or_default().to_vec();
        let size = if kind == Kind::Dir { 4096 } else { target.len() as u64 };
        let file = File {
            kind,
            perm,
            uid: ctx.uid,
            gid: ctx.gid,
            nlink: if kind == Kind::Dir { 2 } else { 1 },
            size,
            mtime: now,
            ctime: now,
            bytes: Rc::default(),
            target: Rc::new(target),
            xattrs: Rc::default(),
            entries: Rc::default(),
        };
        if self.tree.files.contains_key(&inode.ino.0) {
            return Err(format!("{what}: the number {:x} is taken", inode.ino.0));
        }
        self.tree.create(now, number, &name, inode.ino.0, file);
        Ok(())
    }

    fn open(&mut self, file: Pick) -> Done {
        let Some((number, inode, what)) = self.target(Which::Path(file), is_file)? else { return Ok(()) };
        if self.open.len() == OPEN {
            self.close(0);
        }
        self.note(format!("open {what} as #{number:x}"));
        inode.opened();
        self.open.push((number, inode));
        Ok(())
    }

    fn close(&mut self, at: usize) {
        let (number, inode) = self.open.remove(at);
        self.note(format!("close #{number:x}"));
        if inode.closed() {
            self.live.overlay().forget(inode.ino, 0);
        }
        self.unused(number);
    }

    /// What the kernel does with an inode that has lost its last name or user.
    fn unused(&mut self, number: Number) {
        let is_open = self.open.iter().any(|(open, _)| *open == number);
        if !is_open && self.tree.files.get(&number).is_none_or(|f| f.nlink == 0) {
            self.live.drop_inode(number);
            self.tree.files.remove(&number);
        }
    }

    fn read(&mut self, which: Which, offset: u64, len: u64) -> Done {
        let Some((number, inode, what)) = self.target(which, is_file)? else { return Ok(()) };
        let mut out = vec![0xaa; len as usize];
        let got = self.live.overlay().read(&inode, offset, &mut out).map_err(no(&format!("read {what}")))?.len;
        let bytes = &self.tree.file(number).bytes;
        let start = (offset as usize).min(bytes.len());
        let end = (offset + len).min(bytes.len() as u64) as usize;
        if out[..got] != bytes[start..end.max(start)] {
            return Err(format!("read {what} {offset}+{len}: {got} bytes that are not those that should be there"));
        }
        Ok(())
    }

    fn write(&mut self, which: Which, offset: u64, len: u64, fill: u8, append: bool) -> Done {
        let Some((number, inode, what)) = self.target(which, is_file)? else { return Ok(()) };
        let now = self.now();
        let at = if append { self.tree.file(number).size } else { offset };
        let bytes = data(fill, at, len);
        self.note(format!("write {what} {at}+{len} (fill {fill}, append {append})"));
        let handle = HandleId(1);
        let (op, known) = (Did::Write, Known::Observed);
        let write = Write { offset, data: &bytes, append, kill_ids: false, handle, op, known };
        let landed = self.live.overlay().write(&Live::ctx(now), &inode, &write).map_err(no("write"))?;
        if landed != at {
            return Err(format!("written at {landed}, should be {at}"));
        }
        self.tree.write(now, number, at, &bytes);
        Ok(())
    }

    fn truncate(&mut self, which: Which, size: u64) -> Done {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        if let Some((number, now)) = self.set(which, is_file, "truncate", &set)? {
            self.tree.truncate(now, number, size);
        }
        Ok(())
    }

    fn set(
        &mut self,
        which: Which,
        wanted: impl Fn(&File) -> bool,
        name: &str,
        set: &SetAttr,
    ) -> Done<Option<(Number, Time)>> {
        let Some((number, inode, what)) = self.target(which, wanted)? else { return Ok(None) };
        let now = self.now();
        let given = [set.perm.map(u64::from), set.uid.map(u64::from), set.gid.map(u64::from), set.size];
        self.note(format!("{name} {what} {:?}", given.iter().flatten().collect::<Vec<_>>()));
        self.live.overlay().setattr(&Live::ctx(now), &inode, set).map_err(no(name))?;
        Ok(Some((number, now)))
    }

    fn allocate(&mut self, which: Which, how: Room, offset: u64, len: u64) -> Done {
        let Some((number, inode, what)) = self.target(which, is_file)? else { return Ok(()) };
        let now = self.now();
        self.note(format!("fallocate {what} {how:?} {offset}+{len}"));
        let (mode, grows, clears) = match how {
            Room::Extend => (Allocate::Extend, true, false),
            Room::Reserve => (Allocate::Reserve, false, false),
            Room::Punch => (Allocate::Punch, false, true),
            Room::Zero => (Allocate::Zero { keep_size: false }, true, true),
            Room::ZeroKeep => (Allocate::Zero { keep_size: true }, false, true),
        };
        let (ctx, range) = (Live::ctx(now), Range::new(offset, len));
        self.live.overlay().fallocate(&ctx, &inode, range, mode, HandleId(1)).map_err(no("fallocate"))?;
        self.tree.zero(now, number, (offset, len), grows, clears);
        Ok(())
    }

    fn copy(&mut self, (from, from_offset): (Which, u64), (to, to_offset): (Which, u64), len: u64) -> Done {
        let Some((source, source_inode, what)) = self.target(from, is_file)? else { return Ok(()) };
        let Some((target, target_inode, onto)) = self.target(to, is_file)? else { return Ok(()) };
        let bytes = self.tree.file(source).bytes.clone();
        // The kernel cuts the length to the source's size before it looks for an overlap.
        let len = len.min((bytes.len() as u64).saturating_sub(from_offset));
        if len == 0 || (source == target && from_offset < to_offset + len && to_offset < from_offset + len) {
            return Ok(());
        }
        let now = self.now();
        self.note(format!("copy {what} {from_offset}+{len} -> {onto} {to_offset}"));
        let ends = ((&source_inode, from_offset), (&target_inode, to_offset));
        let copied = self.live.overlay().copy_range(&Live::ctx(now), ends.0, ends.1, len, HandleId(1));
        let (copied, _) = copied.map_err(no("copy"))?;
        if copied != len {
            return Err(format!("{copied} bytes copied instead of {len}"));
        }
        let start = from_offset as usize;
        self.tree.write(now, target, to_offset, &bytes[start..start + len as usize]);
        Ok(())
    }

    fn remove(&mut self, spot: &Spot) -> Done {
        let file = self.tree.file(spot.number);
        let is_dir = file.kind == Kind::Dir;
        let full = !file.entries.is_empty();
        let dir = self.above(spot)?;
        let now = self.now();
        let ctx = Live::ctx(now);
        let what = format!("{} {}", if is_dir { "rmdir" } else { "unlink" }, show(&spot.path));
        let overlay = self.live.overlay();
        let done = if is_dir { overlay.rmdir(&ctx, &dir, &spot.name) } else { overlay.unlink(&ctx, &dir, &spot.name) };
        if full {
            return match done {
                Err(Errno::ENOTEMPTY) => Ok(()),
                other => Err(format!("{what}: {:?}, should be ENOTEMPTY", other.map(|i| i.ino))),
            };
        }
        self.note(what.clone());
        let gone = done.map_err(no(&what))?;
        self.live.overlay().forget(gone.ino, 0);
        self.tree.remove(now, spot.dir, &spot.name);
        self.unused(spot.number);
        Ok(())
    }

    fn remove_all(&mut self, spot: &Spot) -> Done {
        let inside = |s: &Spot| s.path != spot.path && is_below(&s.path, &spot.path);
        let mut below: Vec<Spot> = self.tree.spots().into_iter().filter(inside).collect();
        // What is inside before what it is in.
        below.sort_by(|a, b| b.path.cmp(&a.path));
        for inner in &below {
            self.remove(inner)?;
        }
        self.remove(spot)
    }

    fn rename(&mut self, from: &Spot, to_path: &[u8], to_dir: Number, to_name: &[u8]) -> Done {
        let there = self.tree.file(to_dir).entries.get(to_name).copied();
        let (moved, is_dir) = (self.tree.file(from.number), |f: &File| f.kind == Kind::Dir);
        let same = there == Some(from.number);
        let fits = there.is_none_or(|n| is_dir(self.tree.file(n)) == is_dir(moved));
        let full = there.is_some_and(|n| !self.tree.file(n).entries.is_empty());
        let into_itself = is_dir(moved) && self.tree.is_inside(to_dir, from.number);
        // The kernel refuses these itself.
        if into_itself || is_below(&from.path, to_path) && !same {
            return Ok(());
        }
        let dir = self.above(from)?;
        let len = to_path.len() - to_name.len();
        let target = self.inode(to_path[..len].strip_suffix(b"/").unwrap_or(b""), to_dir)?;
        let now = self.now();
        let what = format!("rename {} {}", show(&from.path), show(to_path));
        let places = (Place { dir: &dir, name: &from.name }, Place { dir: &target, name: to_name });
        let done = self.live.overlay().rename(&Live::ctx(now), places.0, places.1, Rename::Replace);
        if !same && (!fits || full) {
            return match done {
                Err(Errno::ENOTEMPTY | Errno::EISDIR | Errno::ENOTDIR) => Ok(()),
                other => Err(format!("{what}: {:?}, should be refused", other.map(|i| i.map(|i| i.ino)))),
            };
        }
        self.note(what.clone());
        let replaced = done.map_err(no(&what))?;
        if same {
            return Ok(());
        }
        if replaced.as_ref().map(|i| i.ino.0) != there {
            return Err(format!("{what}: replaced {:?}, should be {there:?}", replaced.map(|i| i.ino)));
        }
        self.tree.rename(now, (from.dir, &from.name), (to_dir, to_name));
        if let Some(there) = there {
            self.live.overlay().forget(Ino(there), 0);
            self.unused(there);
        }
        Ok(())
    }

    fn exchange(&mut self, one: &Spot, two: &Spot) -> Done {
        if one.number == two.number || is_below(&one.path, &two.path) || is_below(&two.path, &one.path) {
            return Ok(());
        }
        let (dir, target) = (self.above(one)?, self.above(two)?);
        let now = self.now();
        let what = format!("exchange {} {}", show(&one.path), show(&two.path));
        self.note(what.clone());
        let places = (Place { dir: &dir, name: &one.name }, Place { dir: &target, name: &two.name });
        let done = self.live.overlay().rename(&Live::ctx(now), places.0, places.1, Rename::Exchange);
        done.map_err(no(&what))?;
        self.tree.exchange(now, (one.dir, &one.name), (two.dir, &two.name));
        Ok(())
    }

    fn link(&mut self, spot: Pick, dir: Pick, name: u8) -> Done {
        let Some(spot) = self.spot(spot) else { return Ok(()) };
        let (path, number, parent) = self.dir(dir)?;
        let name = new_name(name);
        if self.tree.file(spot.number).kind == Kind::Dir || self.tree.file(number).entries.contains_key(&name) {
            return Ok(());
        }
        let inode = self.inode(&spot.path, spot.number)?;
        let now = self.now();
        let what = format!("link {} {}", show(&spot.path), show(&join(&path, &name)));
        self.note(what.clone());
        self.live.overlay().link(&Live::ctx(now), &inode, &parent, &name).map_err(no(&what))?;
        self.tree.link(now, spot.number, number, &name);
        Ok(())
    }

    fn xattr(&mut self, which: Which, name: &[u8], value: Option<Vec<u8>>) -> Done {
        let may =
            |f: &File| matches!(f.kind, Kind::File | Kind::Dir) && (value.is_some() || f.xattrs.contains_key(name));
        let Some((number, inode, what)) = self.target(which, may)? else { return Ok(()) };
        let now = self.now();
        let ctx = Live::ctx(now);
        self.note(format!("xattr {what} {} {:?}", show(name), value.as_ref().map(Vec::len)));
        match &value {
            Some(value) => self.live.overlay().setxattr(&ctx, &inode, name, value, SetXattr::Either),
            None => self.live.overlay().removexattr(&ctx, &inode, name),
        }
        .map_err(no("xattr"))?;
        self.tree.set_xattr(now, number, name, value);
        Ok(())
    }

    fn snapshot(&mut self) -> Done {
        let now = self.now();
        let reason = Reason::new(Why::Manual, "");
        let taken = self.live.machine().snapshot(&Live::ctx(now), &reason, &[], false);
        let taken = taken.map_err(|e| format!("snapshot: {e}"))?;
        self.note(format!("snapshot {} is point {}", taken.epoch, self.points.len()));
        self.points
            .push(Point { at: Some(At { timeline: taken.timeline, epoch: taken.epoch }), tree: self.tree.named() });
        Ok(())
    }

    /// Notes the states around an operation; one that is known must be the same as before.
    fn points_of(&mut self, moved: &Moved, before: &Tree, after: &Tree) -> Done {
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
                self.note(format!("    epoch {} is point {}", at.epoch, self.points.len()));
                self.points.push(Point { at: Some(at), tree: tree.named() });
            }
        }
        Ok(())
    }

    fn rewind(&mut self, point: Pick) -> Done {
        let at = usize::from(point) % self.points.len();
        let (place, target) = (self.points[at].at, self.points[at].tree.clone());
        let now = self.now();
        self.note(format!("rewind to point {at} with {} open", self.open.len()));
        self.live.kernel().take();
        let lineage = self.live.lineage(place);
        let ctx = Live::ctx(now);
        let moved = self.live.machine().rewind(&ctx, &lineage, &[], (OpKind::Rewind, "test"), &[]);
        let moved = moved.map_err(|e| format!("rewind: {e}"))?;
        self.arrive(target, &moved)
    }

    /// After everything went back to a tree.
    fn arrive(&mut self, mut after: Tree, moved: &Moved) -> Done {
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
        self.tree = after;
        self.check_open()?;
        let after = self.tree.named();
        self.points_of(moved, &before.named(), &after)?;
        self.settle();
        Ok(())
    }

    /// Files that are open stay as they were for who has them open.
    fn keep_open(&self, before: &Tree, after: &mut Tree) -> Done {
        for number in self.open.iter().map(|(number, _)| *number).collect::<BTreeSet<_>>() {
            let was = before.file(number);
            match after.files.get(&number) {
                Some(is) if is.bytes != was.bytes => {
                    return Err(format!("the open file {number:x} has other bytes now: {:?}", differences(was, is)));
                }
                Some(_) => {}
                None => {
                    after.files.insert(number, File { nlink: 0, ..was.clone() });
                }
            }
        }
        Ok(())
    }

    /// The kernel must hear of all that it may have cached and that is different now.
    fn check_told(&self, told: &Told, before: &Tree, after: &Tree) -> Done {
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

    /// What is open must be as it should be.
    fn check_open(&self) -> Done {
        for (number, inode) in &self.open {
            let mut found = shown(self.live.overlay(), inode).map_err(no(&format!("read #{number:x}")))?;
            found.entries = Rc::default();
            if let Some(line) = differences(self.tree.file(*number), &found) {
                return Err(format!("open file #{number:x}: {line}"));
            }
        }
        Ok(())
    }

    /// The kernel lets go of what has no name any more, half of the time.
    fn settle(&mut self) {
        if self.clock % 2 == 0 {
            return;
        }
        for number in self.live.known() {
            self.unused_now(number);
        }
    }

    fn unused_now(&mut self, number: Number) {
        if !self.tree.files.contains_key(&number) || self.tree.file(number).nlink == 0 {
            self.unused(number);
        }
    }

    fn restore(&mut self, point: Pick, paths: &[Pick]) -> Done {
        let at = usize::from(point) % self.points.len();
        let (place, target) = (self.points[at].at, self.points[at].tree.clone());
        let mut all: Vec<Path> = target.paths().into_keys().chain(self.tree.paths().into_keys()).collect();
        all.sort();
        all.dedup();
        let chosen: Vec<Path> = paths.iter().filter_map(|p| pick(&all, *p).cloned()).collect();
        let list: Vec<InPath> = chosen.iter().map(|p| InPath::new(p)).collect();
        let names = chosen.iter().map(|p| show(p)).collect::<Vec<_>>().join(" ");
        self.note(format!("restore {names} from point {at} with {} open", self.open.len()));
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
    fn in_the_way(&self, paths: &[Path], target: &Tree) -> bool {
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
    fn arrive_in_part(&mut self, paths: &[Path], target: &Tree, moved: &Moved) -> Done {
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
        self.tree = after;
        self.check_open()?;
        let after = self.tree.named();
        self.points_of(moved, &before.named(), &after)?;
        self.settle();
        Ok(())
    }

    fn undo(&mut self, direction: Direction, force: bool) -> Done {
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
        self.note(format!("{name} (force {force}) to epoch {} with {} open", to.epoch, self.open.len()));
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

    fn forget(&mut self, salt: u64) {
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
            if !open && !kept && !rng.one_in(3) {
                self.live.drop_inode(spot.number);
            }
        }
    }

    fn close_all(&mut self) {
        while !self.open.is_empty() {
            self.close(0);
        }
    }

    fn restart(&mut self) -> Done {
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
    fn whole(&self, when: &str) -> Done {
        let report = check::check(self.live.store(), true).map_err(|e| format!("fsck: {e}"))?;
        let lines: Vec<String> = report.problems.into_iter().chain(report.notes).collect();
        if lines.is_empty() { Ok(()) } else { Err(format!("the store is not whole {when}:\n{}", lines.join("\n"))) }
    }

    fn compare(&mut self) -> Done {
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

    fn look(&self, at: usize) -> Done {
        let point = &self.points[at];
        let found = tree_of_view(&self.live.view(point.at)).map_err(|e| format!("point {at}: {e}"))?;
        let lines = point.tree.differences(&found);
        if lines.is_empty() { Ok(()) } else { Err(format!("point {at} is not as it was:\n{}", lines.join("\n"))) }
    }

    fn diff(&self, from: usize, to: usize) -> Done {
        let side = |at: usize| match self.points.get(at) {
            Some(point) => (&point.tree, self.live.view(point.at)),
            None => (&self.tree, View::now(self.live.overlay())),
        };
        let ((old, from_view), (new, to_view)) = (side(from), side(to));
        let pair = Pair { old, new, from: from_view, to: to_view };
        pair.check().map_err(|e| format!("from point {from} to {to} (of {}): {e}", self.points.len()))
    }

    /// Compares everything with everything once more.
    pub fn end(&mut self) -> Done {
        self.note("end".to_owned());
        self.compare()?;
        for at in 0..self.points.len() {
            self.look(at)?;
        }
        let mut rng = Rng::new(self.clock as u64);
        for _ in 0..4 {
            let many = self.points.len() as u64 + 1;
            let (from, to) = (rng.below(many) as usize, rng.below(many) as usize);
            self.diff(from, to)?;
            self.diff(to, from)?;
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

fn is_file(file: &File) -> bool {
    file.kind == Kind::File
}
