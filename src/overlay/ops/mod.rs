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

use std::ops::ControlFlow;
use std::sync::Arc;

use super::inode::{Dir, State};
use super::{Ctx, Inode, Overlay, Result, failed};
use crate::store::codec::{self, Dentry};
use crate::store::{Batch, Sync, Table, keys};
use crate::types::{Attr, Errno, Ino, Kind, Note, Path};

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
        let mut bad = None;
        let (from, to) = keys::dentries(self.timeline, dir.ino);
        let visit = &mut |key: &[u8], value: &[u8]| {
            let Some((_, name, _)) = keys::parse_dentry(key) else { return ControlFlow::Continue(()) };
            if fresh.entries.contains_key(name) {
                // Newest epoch first: an older state of the same name.
                return ControlFlow::Continue(());
            }
            match codec::get_dentry(value) {
                Ok(dentry) => {
                    fresh.entries.insert(name.into(), dentry);
                    ControlFlow::Continue(())
                }
                Err(e) => {
                    bad = Some(e);
                    ControlFlow::Break(())
                }
            }
        };
        self.store.kv.scan(Table::Tree, &from, &to, visit).map_err(failed)?;
        if let Some(e) = bad {
            return Err(failed(e));
        }
        state.dir = Some(Box::new(fresh));
        Ok(())
    }

    /// Whether the base has something called `name` in this directory that would show if nothing covered it.
    pub(crate) fn base_has(&self, dir: &State, name: &[u8]) -> Result<bool> {
        match &dir.origin {
            Some(origin) if !dir.opaque => match self.base.stat(&origin.path, name) {
                Ok(_) => Ok(true),
                Err(rustix::io::Errno::NOENT) => Ok(false),
                Err(e) => Err(e.into()),
            },
            _ => Ok(false),
        }
    }

    /// Puts the inode's record with these attributes; an inode without a name has none.
    pub(crate) fn put_inode(&self, batch: &mut Batch, ino: Ino, state: &State, attr: &Attr) {
        let mut record = state.record();
        record.attr = *attr;
        self.put_record(batch, ino, state, &record);
    }

    pub(crate) fn put_record(&self, batch: &mut Batch, ino: Ino, state: &State, record: &codec::InodeRecord) {
        if record.attr.nlink == 0 {
            return;
        }
        let mut value = Vec::with_capacity(256);
        codec::put_inode(&mut value, record);
        batch.put(Table::Tree, &keys::inode(self.timeline, ino, self.epoch()), &value);
        if !state.recorded && state.origin.is_some() && ino != Ino::ROOT {
            batch.put(Table::Tree, &keys::origin(self.timeline, ino), &[]);
        }
    }

    /// To be called after the commit of a batch with [`Overlay::put_inode`].
    pub(crate) fn now_recorded(&self, inode: &Inode, state: &mut State) {
        // One without a name has no record, whatever was put.
        if !state.recorded && state.attr.nlink > 0 {
            state.recorded = true;
            if state.origin.is_some() && inode.ino != Ino::ROOT {
                self.changed.write().insert(inode.ino);
            }
        }
    }

    pub(crate) fn put_dentry(&self, batch: &mut Batch, dir: Ino, name: &[u8], dentry: Dentry) {
        let mut value = Vec::with_capacity(16);
        codec::put_dentry(&mut value, dentry);
        batch.put(Table::Tree, &keys::dentry(self.timeline, dir, name, self.epoch()), &value);
    }

    /// Takes a name away: a whiteout where the base has it, nothing otherwise. Returns what the directory holds from now on.
    pub(crate) fn put_absent(
        &self,
        batch: &mut Batch,
        dir: &Inode,
        state: &State,
        name: &[u8],
    ) -> Result<Option<Dentry>> {
        if self.base_has(state, name)? {
            self.put_dentry(batch, dir.ino, name, Dentry::Whiteout);
            Ok(Some(Dentry::Whiteout))
        } else {
            batch.delete(Table::Tree, &keys::dentry(self.timeline, dir.ino, name, self.epoch()));
            Ok(None)
        }
    }

    /// Puts the removal of the last name of an inode: no record any more, and its version to the trash.
    pub(crate) fn put_orphan(&self, batch: &mut Batch, inode: &Inode, state: &State) {
        batch.delete(Table::Tree, &keys::inode(self.timeline, inode.ino, self.epoch()));
        if state.recorded && state.origin.is_some() {
            batch.delete(Table::Tree, &keys::origin(self.timeline, inode.ino));
        }
        if let super::inode::Bytes::Version(version) = &state.content {
            batch.put(Table::Meta, &keys::trash(version.id), &[]);
        }
    }

    pub(crate) fn commit(&self, ctx: &Ctx, mut batch: Batch, note: Note) -> Result<()> {
        self.journal.commit(ctx, &mut batch, note, Sync::No).map_err(failed)
    }

    /// An inode was dropped from memory: if it had no name left, its bytes go too.
    pub(crate) fn bury(&self, inode: &Arc<Inode>) {
        self.descriptors.drop_file(inode.ino);
        let state = inode.state.read();
        if state.attr.nlink == 0
            && let super::inode::Bytes::Version(version) = &state.content
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
