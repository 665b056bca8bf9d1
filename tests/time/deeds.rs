//! The operations of an ordinary file system, done to the overlay and to the reference.

use std::rc::Rc;

use regentfs::overlay::ops::create::New;
use regentfs::overlay::ops::io::Write;
use regentfs::overlay::ops::rename::{Rename, Spot as Place};
use regentfs::overlay::ops::setattr::{SetAttr, SetTime};
use regentfs::overlay::ops::space::Allocate;
use regentfs::overlay::ops::xattr::SetXattr;
use regentfs::types::{Errno, HandleId, Ino, Kind, Known, Op as Did, Range, Time};

use super::live::Live;
use super::op::{Make, Pick, Room, Which};
use super::run::{Done, Run, data, is_file, no};
use super::tree::{File, Number, Spot, is_below, join, show};

/// So many files are open at most.
const OPEN: usize = 5;

impl Run {
    pub(super) fn create(&mut self, dir: &Pick, name: &[u8], what: Make, perm: u16) -> Done {
        let (path, number, parent) = self.dir(dir)?;
        let (kind, perm, target) = match what {
            Make::File => (Kind::File, perm, None),
            Make::Dir => (Kind::Dir, perm & 0o1777, None),
            Make::Symlink => (Kind::Symlink, 0o777, Some(&b"some/where"[..])),
            Make::Fifo => (Kind::Fifo, perm, None),
        };
        let now = self.now();
        let ctx = Live::ctx(now);
        let what = format!("create {} {} {perm:o}", show(&join(&path, name)), format!("{kind:?}").to_lowercase());
        let made = self.live.overlay().create(&ctx, &parent, name, &New { kind, perm, umask: 0, rdev: 0, target });
        if self.tree.file(number).entries.contains_key(name) {
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
        self.tree.create(now, number, name, inode.ino.0, file);
        Ok(())
    }

    pub(super) fn open(&mut self, file: &Pick) -> Done {
        let Some((number, inode, what)) = self.target(&Which::Path(file.clone()), is_file)? else { return Ok(()) };
        if self.open.len() == OPEN {
            self.close(0);
        }
        self.note(format!("open {what} (#{}, {number:x})", self.open.len()));
        inode.opened();
        self.open.push((number, inode));
        Ok(())
    }

    pub(super) fn read(&mut self, which: &Which, offset: u64, len: u64) -> Done {
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

    pub(super) fn write(&mut self, which: &Which, offset: u64, len: u64, fill: u8, append: bool) -> Done {
        let Some((number, inode, what)) = self.target(which, is_file)? else { return Ok(()) };
        let now = self.now();
        let at = if append { self.tree.file(number).size } else { offset };
        let bytes = data(fill, at, len);
        self.note(format!("write {what} {at} {len} {fill}{}", if append { " append" } else { "" }));
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

    pub(super) fn truncate(&mut self, which: &Which, size: u64) -> Done {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        if let Some((number, now)) = self.set(which, is_file, "truncate", &set)? {
            self.tree.truncate(now, number, size);
        }
        Ok(())
    }

    pub(super) fn set(
        &mut self,
        which: &Which,
        wanted: impl Fn(&File) -> bool,
        name: &str,
        set: &SetAttr,
    ) -> Done<Option<(Number, Time)>> {
        let Some((number, inode, what)) = self.target(which, wanted)? else { return Ok(None) };
        let now = self.now();
        let mtime = set.mtime.map(|t| if let SetTime::To(time) = t { time.secs.to_string() } else { String::new() });
        let ids = [set.uid, set.gid, set.size.map(|s| s as u32)].into_iter().flatten().map(|n| n.to_string());
        let given = set.perm.map(|p| format!("{p:o}")).into_iter().chain(ids).chain(mtime);
        self.note(format!("{name} {what} {}", given.collect::<Vec<_>>().join(" ")));
        self.live.overlay().setattr(&Live::ctx(now), &inode, set).map_err(no(name))?;
        Ok(Some((number, now)))
    }

    pub(super) fn allocate(&mut self, which: &Which, how: Room, offset: u64, len: u64) -> Done {
        let Some((number, inode, what)) = self.target(which, is_file)? else { return Ok(()) };
        let now = self.now();
        self.note(format!("fallocate {what} {how:?} {offset} {len}"));
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

    pub(super) fn copy(
        &mut self,
        (from, from_offset): (&Which, u64),
        (to, to_offset): (&Which, u64),
        len: u64,
    ) -> Done {
        let Some((source, source_inode, what)) = self.target(from, is_file)? else { return Ok(()) };
        let Some((target, target_inode, onto)) = self.target(to, is_file)? else { return Ok(()) };
        let bytes = self.tree.file(source).bytes.clone();
        // The kernel cuts the length to the source's size before it looks for an overlap.
        let len = len.min((bytes.len() as u64).saturating_sub(from_offset));
        if len == 0 || (source == target && from_offset < to_offset + len && to_offset < from_offset + len) {
            return Ok(());
        }
        let now = self.now();
        self.note(format!("copy {what} {from_offset} {onto} {to_offset} {len}"));
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

    pub(super) fn remove(&mut self, spot: &Spot) -> Done {
        let file = self.tree.file(spot.number);
        let is_dir = file.kind == Kind::Dir;
        let full = !file.entries.is_empty();
        let dir = self.above(spot)?;
        let now = self.now();
        let ctx = Live::ctx(now);
        let what = format!("remove {} ({:x})", show(&spot.path), spot.number);
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

    pub(super) fn remove_all(&mut self, spot: &Spot) -> Done {
        let inside = |s: &Spot| s.path != spot.path && is_below(&s.path, &spot.path);
        let mut below: Vec<Spot> = self.tree.spots().into_iter().filter(inside).collect();
        // What is inside before what it is in.
        below.sort_by(|a, b| b.path.cmp(&a.path));
        for inner in &below {
            self.remove(inner)?;
        }
        self.remove(spot)
    }

    pub(super) fn rename(&mut self, from: &Spot, to_path: &[u8], to_dir: Number, to_name: &[u8]) -> Done {
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

    pub(super) fn exchange(&mut self, one: &Spot, two: &Spot) -> Done {
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

    pub(super) fn link(&mut self, spot: &Pick, dir: &Pick, name: &[u8]) -> Done {
        let Some(spot) = self.spot(spot) else { return Ok(()) };
        let (path, number, parent) = self.dir(dir)?;
        if self.tree.file(spot.number).kind == Kind::Dir || self.tree.file(number).entries.contains_key(name) {
            return Ok(());
        }
        let inode = self.inode(&spot.path, spot.number)?;
        let now = self.now();
        let what = format!("link {} {}", show(&spot.path), show(&join(&path, name)));
        self.note(what.clone());
        self.live.overlay().link(&Live::ctx(now), &inode, &parent, name).map_err(no(&what))?;
        self.tree.link(now, spot.number, number, name);
        self.linked.insert(spot.number);
        Ok(())
    }

    pub(super) fn xattr(&mut self, which: &Which, name: &[u8], value: Option<Vec<u8>>) -> Done {
        let may =
            |f: &File| matches!(f.kind, Kind::File | Kind::Dir) && (value.is_some() || f.xattrs.contains_key(name));
        let Some((number, inode, what)) = self.target(which, may)? else { return Ok(()) };
        let now = self.now();
        let ctx = Live::ctx(now);
        self.note(match &value {
            Some(value) => format!("setxattr {what} {} {}", show(name), value.len()),
            None => format!("removexattr {what} {}", show(name)),
        });
        match &value {
            Some(value) => self.live.overlay().setxattr(&ctx, &inode, name, value, SetXattr::Either),
            None => self.live.overlay().removexattr(&ctx, &inode, name),
        }
        .map_err(no("xattr"))?;
        self.tree.set_xattr(now, number, name, value);
        Ok(())
    }
}
