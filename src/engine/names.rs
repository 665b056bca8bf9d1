//! Operations on names and attributes.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::claims::What;
use super::steps::Reach;
use super::{Caller, Engine};
use crate::actors::Depth;
use crate::overlay::ops::create::New;
use crate::overlay::ops::readdir::Entry;
use crate::overlay::ops::rename::{Rename, Spot};
use crate::overlay::ops::setattr::SetAttr;
use crate::overlay::ops::xattr::SetXattr;
use crate::overlay::{Inode, Result};
use crate::types::{Attr, Errno, HandleId, Ino, Kind, Name, Note, Op, Path};

impl Engine {
    /// Looks a name up; counts one look-up for [`Engine::forget`].
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        // What a look-up brings into memory must not be older than a rewind that it crosses.
        let _gate = self.gate.pass();
        let parent = self.inode(parent)?;
        let inode = self.overlay.lookup(&parent, name)?;
        self.overlay.remember(&inode);
        Ok(shown(&inode))
    }

    /// Looks an entry of a listing up, for readdirplus; counts one look-up. `None` when it is gone.
    ///
    /// # Errors
    /// What keeps the entry from being looked at; it is there all the same.
    pub fn lookup_entry(&self, dir: &Arc<Inode>, entry: &Entry) -> Result<Option<Attr>> {
        let _gate = self.gate.pass();
        let inode = match self.overlay.lookup(dir, &entry.name) {
            Err(Errno::ENOENT) => return Ok(None),
            other => other?,
        };
        self.overlay.remember(&inode);
        Ok(Some(shown(&inode)))
    }

    fn child(&self, dir: &Arc<Inode>, name: &[u8]) -> Option<Arc<Inode>> {
        let _gate = self.gate.pass();
        self.overlay.lookup(dir, name).ok()
    }

    /// The kernel drops `count` look-ups.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.overlay.forget(ino, count);
    }

    pub fn getattr(&self, ino: Ino, handle: Option<HandleId>) -> Result<Attr> {
        match handle.and_then(|h| self.handles.get(h)) {
            Some(handle) => Ok(handle.inode.attr()),
            None => self.overlay.getattr(&*self.inode(ino)?),
        }
    }

    pub fn setattr(&self, caller: Caller, ino: Ino, handle: Option<HandleId>, set: &SetAttr) -> Result<Attr> {
        let inode = match handle.and_then(|h| self.handles.get(h)) {
            Some(handle) => handle.inode.clone(),
            None => self.inode(ino)?,
        };
        let actor = self.actor(caller, Depth::Full);
        let result = {
            let reach = [What::file(inode.ino)];
            let reach = if set.size.is_some() { Reach::Anew(&reach) } else { Reach::Of(&reach) };
            let entered = self.enter_as(caller, actor, &reach);
            self.overlay.setattr(&entered.ctx, &inode, set)
        };
        let op = if set.size.is_some() { Op::Truncate } else { Op::Setattr };
        self.or_refuse(actor, result, || Note::new(op, ino, self.overlay.path(&inode)))
    }

    pub fn readlink(&self, caller: Caller, ino: Ino) -> Result<Vec<u8>> {
        let inode = self.inode(ino)?;
        let target = self.overlay.readlink(&inode)?;
        if self.records() {
            let actor = self.actor(caller, Depth::Full);
            self.observe(actor, Note::new(Op::Readlink, ino, self.overlay.path(&inode)))?;
        }
        Ok(target)
    }

    /// mkdir, mknod, symlink, and the first half of create; counts one look-up.
    pub fn make(&self, caller: Caller, parent: Ino, name: &[u8], new: &New<'_>) -> Result<Attr> {
        let dir = self.inode(parent)?;
        let actor = self.actor(caller, Depth::Full);
        let result = {
            let entered = self.enter_as(caller, actor, &Reach::Made { dir: parent, name });
            let made = self.overlay.create(&entered.ctx, &dir, name, new);
            made.inspect(|inode| self.made(&entered, inode))
        };
        let op = match new.kind {
            Kind::File => Op::Create,
            Kind::Dir => Op::Mkdir,
            Kind::Symlink => Op::Symlink,
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => Op::Mknod,
        };
        let inode = self.or_refuse(actor, result, || Note::new(op, Ino(0), self.overlay.child_path(&dir, name)))?;
        self.overlay.remember(&inode);
        Ok(shown(&inode))
    }

    /// Gives a file another name; counts one look-up.
    pub fn link(&self, caller: Caller, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        let (inode, dir) = (self.inode(ino)?, self.inode(parent)?);
        let actor = self.actor(caller, Depth::Full);
        let result = {
            let reach = [What::name(parent, name), What::file(inode.ino)];
            let entered = self.enter_as(caller, actor, &Reach::Of(&reach));
            self.overlay.link(&entered.ctx, &inode, &dir, name)
        };
        self.or_refuse(actor, result, || {
            Note::new(Op::Link, ino, self.overlay.path(&inode)).with_path2(self.overlay.child_path(&dir, name))
        })?;
        self.overlay.remember(&inode);
        Ok(shown(&inode))
    }

    pub fn unlink(&self, caller: Caller, parent: Ino, name: &[u8]) -> Result<()> {
        self.remove(caller, parent, name, Op::Unlink)
    }

    pub fn rmdir(&self, caller: Caller, parent: Ino, name: &[u8]) -> Result<()> {
        self.remove(caller, parent, name, Op::Rmdir)
    }

    fn remove(&self, caller: Caller, parent: Ino, name: &[u8], op: Op) -> Result<()> {
        let dir = self.inode(parent)?;
        let actor = self.actor(caller, Depth::Full);
        let result = {
            let mut reach: SmallVec<[What; 2]> = smallvec![What::name(parent, name)];
            if self.is_busy_place(actor) {
                reach.extend(self.child(&dir, name).map(|inode| What::file(inode.ino)));
            }
            let entered = self.enter_as(caller, actor, &Reach::Of(&reach));
            match op {
                Op::Rmdir => self.overlay.rmdir(&entered.ctx, &dir, name),
                _ => self.overlay.unlink(&entered.ctx, &dir, name),
            }
        };
        let gone = self.or_refuse(actor, result, || Note::new(op, Ino(0), self.overlay.child_path(&dir, name)))?;
        // Should the kernel know nothing of it, nobody would ever forget it.
        self.overlay.forget(gone.ino, 0);
        Ok(())
    }

    pub fn rename(&self, caller: Caller, from: (Ino, &[u8]), to: (Ino, &[u8]), how: Rename) -> Result<()> {
        let (old, new) = (self.inode(from.0)?, self.inode(to.0)?);
        let actor = self.actor(caller, Depth::Full);
        let result = {
            let moved = self.child(&old, from.1);
            let replaced = self.child(&new, to.1);
            let target = What::name(to.0, to.1);
            let files = [&moved, &replaced].into_iter().flatten();
            let mut reach: SmallVec<[What; 4]> = smallvec![target, What::name(from.0, from.1)];
            reach.extend(files.clone().map(|inode| What::file(inode.ino)));
            let reach = match files.clone().any(|inode| inode.kind == Kind::Dir) {
                true => Reach::Everything(&reach),
                false => Reach::Anew(&reach),
            };
            let entered = self.enter_as(caller, actor, &reach);
            let (from, to) = (Spot { dir: &old, name: from.1 }, Spot { dir: &new, name: to.1 });
            let renamed = self.overlay.rename(&entered.ctx, from, to, how);
            // Files are replaced by new ones under their name: that is the end of a change to one.
            renamed.inspect(|_| self.done_with(actor, target))
        };
        let replaced = self.or_refuse(actor, result, || {
            Note::new(Op::Rename, Ino(0), self.overlay.child_path(&old, from.1))
                .with_path2(self.overlay.child_path(&new, to.1))
        })?;
        if let Some(replaced) = replaced {
            self.overlay.forget(replaced.ino, 0);
        }
        Ok(())
    }

    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.overlay.getxattr(&*self.inode(ino)?, name)
    }

    pub fn listxattr(&self, ino: Ino) -> Result<Vec<Name>> {
        self.overlay.listxattr(&*self.inode(ino)?)
    }

    pub fn setxattr(&self, caller: Caller, ino: Ino, name: &[u8], value: &[u8], how: SetXattr) -> Result<()> {
        let inode = self.inode(ino)?;
        let actor = self.actor(caller, Depth::Full);
        let result = {
            let entered = self.enter_as(caller, actor, &Reach::Of(&[What::file(inode.ino)]));
            self.overlay.setxattr(&entered.ctx, &inode, name, value, how)
        };
        self.or_refuse(actor, result, || {
            Note::new(Op::Setxattr, ino, self.overlay.path(&inode)).with_path2(Path::new(name))
        })
    }

    pub fn removexattr(&self, caller: Caller, ino: Ino, name: &[u8]) -> Result<()> {
        let inode = self.inode(ino)?;
        let actor = self.actor(caller, Depth::Full);
        let result = {
            let entered = self.enter_as(caller, actor, &Reach::Of(&[What::file(inode.ino)]));
            self.overlay.removexattr(&entered.ctx, &inode, name)
        };
        // That there is none is an answer, not a refusal.
        match result {
            Err(Errno::ENODATA) => result,
            other => self.or_refuse(actor, other, || {
                Note::new(Op::Removexattr, ino, self.overlay.path(&inode)).with_path2(Path::new(name))
            }),
        }
    }
}

/// Attributes with the number by which the kernel asks: the node id.
fn shown(inode: &Inode) -> Attr {
    Attr { ino: inode.ino, ..inode.attr() }
}
