//! The operations, one file per family. What they share is here: looking at directory entries, and writing inodes down.

pub mod create;
pub mod io;
pub mod link;
pub mod lookup;
pub mod readdir;
pub mod remove;
pub mod rename;
pub mod setattr;
pub mod space;
pub mod sync;
pub mod xattr;

use std::sync::Arc;

use super::inode::{Dir, State};
use super::{Ctx, Inode, Overlay, Result, failed};
use crate::store::codec::{self, Dentry};
use crate::store::{Batch, Sync, Table, keys};
use crate::types::{Attr, Epoch, Errno, Ino, Kind, Note, Path};

/// NAME_MAX of Linux; FUSE itself would let 1024 through.
pub const NAME_MAX: usize = 255;

pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    match name {
        b"" => Err(Errno::ENOENT),
        b"." | b".." => Err(Errno::EEXIST),
        _ if name.len() > NAME_MAX => Err(Errno::ENAMETOOLONG),
        _ if name.contains(&b'/') || name.contains(&0) => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

impl Overlay {
    /// Reads a directory's changes from the log unless that was done already.
    pub(crate) fn ensure_loaded(&self, dir: &Inode) -> Result<()> {
        if dir.kind != Kind::Dir {
            return Err(Errno::ENOTDIR);
        }
        if dir.state.read().dir.as_ref().is_some_and(|d| d.loaded) {
            return Ok(());
        }
        let mut state = dir.state.write();
        if state.dir.as_ref().is_some_and(|d| d.loaded) {
            return Ok(());
        }
        let mut fresh = Dir { loaded: true, ..Dir::default() };
        self.lineage()
            .dentries(&*self.store.kv, dir.ino, &mut |name, dentry| {
                fresh.entries.insert(name.into(), dentry);
            })
            .map_err(failed)?;
        state.dir = Some(Box::new(fresh));
        Ok(())
    }

    /// The number of what the base has under `name` in this directory, if it would show if nothing covered it. Not to be called with any
    /// inode's state locked: which number a base file has is also a question to the inode that has it.
    pub(crate) fn base_has(&self, dir: &Inode, name: &[u8]) -> Result<Option<Ino>> {
        let path = match &*dir.state.read() {
            state if !state.opaque => state.origin.as_ref().map(|o| o.path.clone()),
            _ => None,
        };
        let Some(path) = path else { return Ok(None) };
        match self.base.stat(&path, name) {
            Ok(stat) => Ok(Some(self.number(&stat)?)),
            // The directory itself may be gone from there, by an apply.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Puts the inode's record with these attributes.
    pub(crate) fn put_inode(&self, batch: &mut Batch, ino: Ino, state: &State, attr: &Attr) {
        let mut record = state.record();
        record.attr = *attr;
        self.put_record(batch, ino, state, &record);
    }

    /// Puts an inode's record, unless it has no name any more.
    pub(crate) fn put_record(&self, batch: &mut Batch, ino: Ino, state: &State, record: &codec::InodeRecord) {
        if record.attr.nlink == 0 {
            return;
        }
        let mut value = Vec::with_capacity(256);
        codec::put_inode(&mut value, record);
        self.put_inode_state(batch, ino, state.touched, &state.place.known(), &value);
    }

    pub(crate) fn put_inode_state(&self, batch: &mut Batch, ino: Ino, touched: Epoch, path: &Path, value: &[u8]) {
        let (timeline, epoch) = (self.timeline(), self.epoch());
        batch.put(Table::Tree, &keys::inode(timeline, ino, epoch), value);
        if touched != epoch {
            batch.put(Table::Tree, &keys::touched_inode(timeline, epoch, ino), path.as_bytes());
        }
    }

    /// To be called after the commit of a batch with [`Overlay::put_inode`].
    pub(crate) fn now_recorded(&self, inode: &Inode, state: &mut State) {
        state.touched = self.epoch();
        // One without a name has no record, whatever was put.
        if !state.recorded && state.attr.nlink > 0 {
            state.recorded = true;
            self.changed.write().insert(inode.ino);
        }
    }

    /// Puts what a name stands for; `path` is the name's.
    pub(crate) fn put_dentry(&self, batch: &mut Batch, dir: Ino, name: &[u8], dentry: Dentry, path: &Path) {
        let mut value = Vec::with_capacity(16);
        codec::put_dentry(&mut value, dentry);
        self.put_dentry_state(batch, dir, name, &value, path);
    }

    fn put_dentry_state(&self, batch: &mut Batch, dir: Ino, name: &[u8], value: &[u8], path: &Path) {
        let (timeline, epoch) = (self.timeline(), self.epoch());
        batch.put(Table::Tree, &keys::dentry(timeline, dir, name, epoch), value);
        batch.put(Table::Tree, &keys::touched_name(timeline, epoch, dir, name), path.as_bytes());
    }

    /// Takes a name away: a whiteout where the base has it (`hid`, see [`Overlay::base_has`]), nothing otherwise. Returns what the directory
    /// holds from now on.
    pub(crate) fn put_absent(
        &self,
        batch: &mut Batch,
        dir: &Inode,
        hid: Option<Ino>,
        name: &[u8],
        path: &Path,
    ) -> Result<Option<Dentry>> {
        if let Some(hid) = hid {
            self.put_dentry(batch, dir.ino, name, Dentry::Whiteout { hid }, path);
            return Ok(Some(Dentry::Whiteout { hid }));
        }
        let (kv, lineage, epoch) = (&*self.store.kv, self.lineage(), self.epoch());
        if lineage.has_past(epoch) && lineage.dentry_before(kv, dir.ino, name, epoch).map_err(failed)? {
            self.put_dentry_state(batch, dir.ino, name, &[], path);
        } else {
            batch.delete(Table::Tree, &keys::dentry(self.timeline(), dir.ino, name, epoch));
            batch.delete(Table::Tree, &keys::touched_name(self.timeline(), epoch, dir.ino, name));
        }
        Ok(None)
    }

    /// Puts the removal of the last name of an inode; the version that only it had goes to the trash.
    pub(crate) fn put_orphan(&self, batch: &mut Batch, inode: &Inode, state: &State, attr: &Attr) -> Result<()> {
        let (kv, lineage, epoch) = (&*self.store.kv, self.lineage(), self.epoch());
        if state.origin.is_some() {
            // Kept without a name: it tells what the base file looked like.
            let content = if inode.kind == Kind::File { codec::Content::Base } else { codec::Content::None };
            let record = codec::InodeRecord { attr: *attr, content, xattrs: None, ..state.record() };
            let mut value = Vec::with_capacity(256);
            codec::put_inode(&mut value, &record);
            self.put_inode_state(batch, inode.ino, state.touched, &state.place.known(), &value);
        } else if lineage.has_past(epoch) && lineage.inode_before(kv, inode.ino, epoch).map_err(failed)? {
            self.put_inode_state(batch, inode.ino, state.touched, &state.place.known(), &[]);
        } else {
            batch.delete(Table::Tree, &keys::inode(self.timeline(), inode.ino, epoch));
            batch.delete(Table::Tree, &keys::touched_inode(self.timeline(), epoch, inode.ino));
        }
        if let super::inode::Bytes::Version(version) = &state.content
            && version.record.epoch == epoch
        {
            batch.put(Table::Meta, &keys::trash(version.id), &[]);
        }
        Ok(())
    }

    pub(crate) fn commit(&self, ctx: &Ctx, mut batch: Batch, note: Note) -> Result<()> {
        if self.read_only {
            return Err(Errno::EROFS);
        }
        // A snapshot may have been taken since the operation came in; here the gate keeps the epoch as it is.
        let ctx = Ctx { epoch: self.epoch(), ..*ctx };
        self.journal.commit(&ctx, &mut batch, note, Sync::No).map_err(failed)
    }

    /// An inode was dropped from memory: if it had no name left, its bytes go too.
    pub(crate) fn bury(&self, inode: &Arc<Inode>) {
        self.descriptors.drop_file(inode.ino);
        let state = inode.state.read();
        // One of an earlier epoch is part of history.
        if state.attr.nlink == 0
            && let super::inode::Bytes::Version(version) = &state.content
            && version.trashed
        {
            let id = version.id;
            drop(state);
            if let Some(graves) = self.graves.get()
                && graves.send(id).is_ok()
            {
                return;
            }
            if let Err(error) = super::delete_version(&self.store, id) {
                // It stays in the trash; the next mount tries again.
                tracing::warn!(%error, %id, "could not delete a version");
            }
        }
    }

    /// The path of `name` in `dir`, for the record. Not to be called with `dir`'s state locked.
    pub(crate) fn child_path(&self, dir: &Inode, name: &[u8]) -> Path {
        self.path(dir).join(name)
    }
}

/// The state of a directory that names can be added to.
pub(crate) fn alive(state: &State) -> Result<()> {
    if state.attr.nlink == 0 { Err(Errno::ENOENT) } else { Ok(()) }
}

/// Sets or clears what a directory holds under a name.
pub(crate) fn set_entry(state: &mut State, name: &[u8], dentry: Option<Dentry>) {
    let dir = state.dir.get_or_insert_with(|| Box::new(Dir { loaded: true, ..Dir::default() }));
    match dentry {
        Some(dentry) => dir.entries.insert(name.into(), dentry),
        None => dir.entries.remove(name),
    };
}

/// A directory's link count after gaining or losing subdirectories; file systems that do not count keep their 1.
pub(crate) fn links(attr: &Attr, change: i32) -> u32 {
    if attr.nlink < 2 { attr.nlink } else { attr.nlink.saturating_add_signed(change).max(2) }
}
