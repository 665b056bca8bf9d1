//! link: one more name for a file.

use std::sync::Arc;

use super::{alive, check_name, set_entry};
use crate::overlay::{Ctx, Inode, Overlay, Result, failed};
use crate::store::Batch;
use crate::store::codec::Dentry;
use crate::types::{Attr, Errno, Kind, Note, Op};

/// The most names a file may have, as on ext4.
const LINK_MAX: u32 = 65000;

impl Overlay {
    /// Gives `inode` the name `name` in `dir`.
    ///
    /// # Errors
    /// `EPERM` for directories, `EEXIST`, `EMLINK`, `ENOENT` when the file or the directory has no name any more.
    pub fn link(&self, ctx: &Ctx, inode: &Arc<Inode>, dir: &Arc<Inode>, name: &[u8]) -> Result<()> {
        check_name(name)?;
        if inode.kind == Kind::Dir {
            return Err(Errno::EPERM);
        }
        self.store.space.claim(1024).map_err(failed)?;
        let (old_path, path) = (self.path(inode), self.child_path(dir, name));
        let _namespace = self.namespace.lock();
        match self.lookup(dir, name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(e) => return Err(e),
        }
        let place = self.new_place(dir, name);
        let mut parent = dir.state.write();
        alive(&parent)?;
        let mut state = inode.state.write();
        alive(&state)?;
        if state.attr.nlink >= LINK_MAX {
            return Err(Errno::EMLINK);
        }
        let attr = Attr { nlink: state.attr.nlink + 1, ctime: ctx.now, ..state.attr };
        let parent_attr = Attr { mtime: ctx.now, ctime: ctx.now, ..parent.attr };
        let dentry = Dentry::Entry { ino: inode.ino, kind: inode.kind };
        let mut batch = Batch::new();
        self.put_inode(&mut batch, inode.ino, &state, &attr);
        self.put_dentry(&mut batch, dir.ino, name, dentry, &path);
        self.put_inode(&mut batch, dir.ino, &parent, &parent_attr);
        self.commit(ctx, batch, Note::new(Op::Link, inode.ino, old_path).with_path2(path))?;
        state.attr = attr;
        state.place = place;
        self.now_recorded(inode, &mut state);
        parent.attr = parent_attr;
        set_entry(&mut parent, name, Some(dentry));
        self.now_recorded(dir, &mut parent);
        Ok(())
    }
}
