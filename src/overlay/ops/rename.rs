//! rename, with RENAME_NOREPLACE and RENAME_EXCHANGE. A base directory moves with one entry and one whiteout.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{alive, check_name, links, set_entry};
use crate::overlay::inode::State;
use crate::overlay::{Ctx, Inode, Overlay, Result, failed};
use crate::store::Batch;
use crate::store::codec::Dentry;
use crate::types::{Attr, Errno, Ino, Kind, Note, Op};

/// What to do when the new name is taken. See renameat2(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    Replace,
    NoReplace,
    Exchange,
}

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
pub struct Spot<'a> {
    pub dir: &'a Arc<Inode>,
    pub name: &'a [u8],
}

impl Overlay {
    /// Renames `from` to `to`. Returns the inode that was replaced, if one was.
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST` (NoReplace), `EISDIR`, `ENOTDIR`, `ENOTEMPTY`, `EINVAL` for a directory into itself.
    pub fn rename(&self, ctx: &Ctx, from: Spot<'_>, to: Spot<'_>, how: Rename) -> Result<Option<Arc<Inode>>> {
        check_name(to.name)?;
        self.store.space.claim(1024).map_err(failed)?;
        let (old_path, new_path) = (self.child_path(from.dir, from.name), self.child_path(to.dir, to.name));
        let _namespace = self.namespace.lock();
        let moved = self.lookup(from.dir, from.name)?;
        let other = match self.lookup(to.dir, to.name) {
            Ok(inode) => Some(inode),
            Err(Errno::ENOENT) => None,
            Err(e) => return Err(e),
        };
        match (how, &other) {
            (Rename::NoReplace, Some(_)) => return Err(Errno::EEXIST),
            (Rename::Exchange, None) => return Err(Errno::ENOENT),
            _ => {}
        }
        self.not_into_itself(&moved, to.dir)?;
        if let (Rename::Exchange, Some(other)) = (how, &other) {
            self.not_into_itself(other, from.dir)?;
        }
        if let Some(other) = &other {
            if other.ino == moved.ino {
                return Ok(None);
            }
            if how != Rename::Exchange {
                match (moved.kind == Kind::Dir, other.kind == Kind::Dir) {
                    (true, false) => return Err(Errno::ENOTDIR),
                    (false, true) => return Err(Errno::EISDIR),
                    (true, true) if !self.is_empty(other)? => return Err(Errno::ENOTEMPTY),
                    _ => {}
                }
            }
        }
        let mut note = Note::new(Op::Rename, moved.ino, old_path).with_path2(new_path);
        note.flags = match how {
            Rename::Replace => 0,
            Rename::NoReplace => libc::RENAME_NOREPLACE,
            Rename::Exchange => libc::RENAME_EXCHANGE,
        };
        match (how, other) {
            (Rename::Exchange, Some(other)) => {
                self.exchange(ctx, from, to, &moved, &other, note)?;
                Ok(None)
            }
            (_, other) => {
                self.move_over(ctx, from, to, &moved, other.as_ref(), note)?;
                Ok(other)
            }
        }
    }

    /// A directory must not become its own descendant.
    fn not_into_itself(&self, moved: &Inode, target: &Arc<Inode>) -> Result<()> {
        if moved.kind != Kind::Dir {
            return Ok(());
        }
        let mut at = target.clone();
        loop {
            if at.ino == moved.ino {
                return Err(Errno::EINVAL);
            }
            if at.ino == Ino::ROOT {
                return Ok(());
            }
            let parent = at.state.read().place.parent;
            match self.inode(parent) {
                Some(parent) => at = parent,
                // The kernel keeps the ancestors of what it uses; without them it has checked this itself.
                None => return Ok(()),
            }
        }
    }

    fn move_over(
        &self,
        ctx: &Ctx,
        from: Spot<'_>,
        to: Spot<'_>,
        moved: &Arc<Inode>,
        replaced: Option<&Arc<Inode>>,
        mut note: Note,
    ) -> Result<()> {
        let is_dir = moved.kind == Kind::Dir;
        let place = self.new_place(to.dir, to.name);
        let same_dir = from.dir.ino == to.dir.ino;
        let hid = self.base_has(from.dir, from.name)?;
        let mut source = from.dir.state.write();
        alive(&source)?;
        let mut target = if same_dir { None } else { Some(to.dir.state.write()) };
        if let Some(target) = &target {
            alive(target)?;
        }
        let mut state = moved.state.write();
        let mut victim = replaced.map(|inode| inode.state.write());

        let lost = i32::from(replaced.is_some_and(|r| r.kind == Kind::Dir));
        let gained = i32::from(is_dir) - lost;
        let touched =
            |attr: &Attr, change: i32| Attr { mtime: ctx.now, ctime: ctx.now, nlink: links(attr, change), ..*attr };
        let source_attr = touched(&source.attr, if same_dir { -lost } else { -i32::from(is_dir) });
        let target_attr = target.as_ref().map(|t| touched(&t.attr, gained));
        let attr = Attr { ctime: ctx.now, ..state.attr };
        let dentry = Dentry::Entry { ino: moved.ino, kind: moved.kind };

        let mut batch = Batch::new();
        let (old_path, new_path) = (note.path.clone(), note.path2.clone().unwrap_or_default());
        let left = self.put_absent(&mut batch, from.dir, hid, from.name, &old_path)?;
        self.put_dentry(&mut batch, to.dir.ino, to.name, dentry, &new_path);
        self.put_inode(&mut batch, moved.ino, &state, &attr);
        self.put_inode(&mut batch, from.dir.ino, &source, &source_attr);
        if let (Some(target), Some(attr)) = (&target, &target_attr) {
            self.put_inode(&mut batch, to.dir.ino, target, attr);
        }
        let mut victim_attr = None;
        if let (Some(inode), Some(victim)) = (replaced, &victim) {
            let nlink = if inode.kind == Kind::Dir { 0 } else { victim.attr.nlink.saturating_sub(1) };
            let attr = Attr { nlink, ctime: ctx.now, ..victim.attr };
            note.before = victim.content_ref();
            self.put_removed(&mut batch, inode, victim, &attr)?;
            victim_attr = Some(attr);
        }
        note.after = state.content_ref();
        self.commit(ctx, batch, note)?;

        if let (Some(inode), Some(victim), Some(attr)) = (replaced, &mut victim, victim_attr) {
            self.removed(inode, victim, attr);
        }
        state.attr = attr;
        state.place = place;
        self.now_recorded(moved, &mut state);
        source.attr = source_attr;
        set_entry(&mut source, from.name, left);
        self.now_recorded(from.dir, &mut source);
        let into: &mut State = match &mut target {
            Some(target) => target,
            None => &mut source,
        };
        set_entry(into, to.name, Some(dentry));
        if let Some(attr) = target_attr {
            into.attr = attr;
            self.now_recorded(to.dir, into);
        }
        if is_dir {
            state.place.as_of = self.renames.fetch_add(1, Ordering::AcqRel) + 1;
        }
        Ok(())
    }

    fn exchange(
        &self,
        ctx: &Ctx,
        from: Spot<'_>,
        to: Spot<'_>,
        first: &Arc<Inode>,
        second: &Arc<Inode>,
        note: Note,
    ) -> Result<()> {
        let (first_place, second_place) = (self.new_place(to.dir, to.name), self.new_place(from.dir, from.name));
        let same_dir = from.dir.ino == to.dir.ino;
        let mut source = from.dir.state.write();
        alive(&source)?;
        let mut target = if same_dir { None } else { Some(to.dir.state.write()) };
        let mut one = first.state.write();
        let mut two = second.state.write();
        let dirs = |inode: &Inode| i32::from(inode.kind == Kind::Dir);
        let change = if same_dir { 0 } else { dirs(second) - dirs(first) };
        let touched =
            |attr: &Attr, change: i32| Attr { mtime: ctx.now, ctime: ctx.now, nlink: links(attr, change), ..*attr };
        let source_attr = touched(&source.attr, change);
        let target_attr = target.as_ref().map(|t| touched(&t.attr, -change));
        let one_attr = Attr { ctime: ctx.now, ..one.attr };
        let two_attr = Attr { ctime: ctx.now, ..two.attr };
        let to_first = Dentry::Entry { ino: first.ino, kind: first.kind };
        let to_second = Dentry::Entry { ino: second.ino, kind: second.kind };

        let mut batch = Batch::new();
        let new_path = note.path2.clone().unwrap_or_default();
        self.put_dentry(&mut batch, from.dir.ino, from.name, to_second, &note.path);
        self.put_dentry(&mut batch, to.dir.ino, to.name, to_first, &new_path);
        self.put_inode(&mut batch, first.ino, &one, &one_attr);
        self.put_inode(&mut batch, second.ino, &two, &two_attr);
        self.put_inode(&mut batch, from.dir.ino, &source, &source_attr);
        if let (Some(target), Some(attr)) = (&target, &target_attr) {
            self.put_inode(&mut batch, to.dir.ino, target, attr);
        }
        self.commit(ctx, batch, note)?;

        one.attr = one_attr;
        one.place = first_place;
        self.now_recorded(first, &mut one);
        two.attr = two_attr;
        two.place = second_place;
        self.now_recorded(second, &mut two);
        source.attr = source_attr;
        set_entry(&mut source, from.name, Some(to_second));
        self.now_recorded(from.dir, &mut source);
        let into: &mut State = match &mut target {
            Some(target) => target,
            None => &mut source,
        };
        set_entry(into, to.name, Some(to_first));
        if let Some(attr) = target_attr {
            into.attr = attr;
            self.now_recorded(to.dir, into);
        }
        if first.kind == Kind::Dir || second.kind == Kind::Dir {
            let count = self.renames.fetch_add(1, Ordering::AcqRel) + 1;
            one.place.as_of = count;
            two.place.as_of = count;
        }
        Ok(())
    }
}
