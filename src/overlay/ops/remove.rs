//! unlink and rmdir.

use std::sync::Arc;

use super::{alive, links, set_entry};
use crate::overlay::{Ctx, Inode, Overlay, Result};
use crate::store::{Batch, Table, keys};
use crate::types::{Attr, Errno, Kind, Note, Op};

impl Overlay {
    /// Takes a name away from a file that is no directory. Its bytes live on while it has other names or open handles.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`.
    pub fn unlink(&self, ctx: &Ctx, dir: &Arc<Inode>, name: &[u8]) -> Result<Arc<Inode>> {
        self.remove(ctx, dir, name, Op::Unlink)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`, `EBUSY` for the root.
    pub fn rmdir(&self, ctx: &Ctx, dir: &Arc<Inode>, name: &[u8]) -> Result<Arc<Inode>> {
        self.remove(ctx, dir, name, Op::Rmdir)
    }

    fn remove(&self, ctx: &Ctx, dir: &Arc<Inode>, name: &[u8], op: Op) -> Result<Arc<Inode>> {
        let path = self.child_path(dir, name);
        let _namespace = self.namespace.lock();
        let inode = self.lookup(dir, name)?;
        let is_dir = inode.kind == Kind::Dir;
        match (op, is_dir) {
            (Op::Rmdir, false) => return Err(Errno::ENOTDIR),
            (Op::Rmdir, true) if !self.is_empty(&inode)? => return Err(Errno::ENOTEMPTY),
            (Op::Unlink, true) => return Err(Errno::EISDIR),
            _ => {}
        }
        let hid = self.base_has(dir, name)?;
        let mut parent = dir.state.write();
        alive(&parent)?;
        let mut state = inode.state.write();
        let nlink = if is_dir { 0 } else { state.attr.nlink.saturating_sub(1) };
        let attr = Attr { nlink, ctime: ctx.now, ..state.attr };
        let parent_attr =
            Attr { mtime: ctx.now, ctime: ctx.now, nlink: links(&parent.attr, -i32::from(is_dir)), ..parent.attr };
        let mut batch = Batch::new();
        let left = self.put_absent(&mut batch, dir, hid, name, &path)?;
        self.put_removed(&mut batch, &inode, &state, &attr)?;
        self.put_inode(&mut batch, dir.ino, &parent, &parent_attr);
        let mut note = Note::new(op, inode.ino, path);
        note.before = state.content_ref();
        self.commit(ctx, batch, note)?;
        self.removed(&inode, &mut state, attr);
        parent.attr = parent_attr;
        set_entry(&mut parent, name, left);
        self.now_recorded(dir, &mut parent);
        drop(state);
        Ok(inode)
    }

    /// Puts what becomes of an inode that loses a name.
    pub(crate) fn put_removed(
        &self,
        batch: &mut Batch,
        inode: &Inode,
        state: &crate::overlay::inode::State,
        attr: &Attr,
    ) -> Result<()> {
        if attr.nlink > 0 {
            self.put_inode(batch, inode.ino, state, attr);
            // The path that the index has of it may be that of the name that goes: from now on none.
            batch.put(Table::Tree, &keys::touched_inode(self.timeline(), self.epoch(), inode.ino), &[]);
            return Ok(());
        }
        // The whiteouts in an emptied directory stay: they tell what was seen in the base and is to go with it.
        self.put_orphan(batch, inode, state, attr)
    }

    /// To be called after the commit of a batch with [`Overlay::put_removed`].
    pub(crate) fn removed(&self, inode: &Inode, state: &mut crate::overlay::inode::State, attr: Attr) {
        state.attr = attr;
        self.now_recorded(inode, state);
        // It was just looked up under the name that it lost.
        state.place.lost = attr.nlink > 0;
        if attr.nlink == 0 {
            state.recorded = false;
            let epoch = self.epoch();
            if let crate::overlay::inode::Bytes::Version(version) = &mut state.content {
                version.trashed |= version.record.epoch == epoch;
            }
        }
    }
}
