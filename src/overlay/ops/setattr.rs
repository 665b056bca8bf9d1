//! chmod, chown, utimens and truncate.

use super::xattr::{CAPABILITY, put_xattr};
use crate::overlay::acl;
use crate::overlay::inode::{Bytes, State, Version};
use crate::overlay::{Ctx, Inode, Overlay, Result, failed};
use crate::store::Batch;
use crate::store::codec::Content;
use crate::types::{Attr, Errno, Kind, Note, Op, Range, Time};

/// A time to set. See utimensat(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    Now,
    To(Time),
}

/// What to change; `None` leaves a thing alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    pub perm: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    /// Whether a truncation also takes the set-id bits away (the caller lacks CAP_FSETID).
    pub kill_ids: bool,
}

/// The largest size that a file may have: what lseek can express.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// Permission bits after a write, truncation or chown by somebody who may not keep set-id bits. See `setattr_should_drop_sgid` in
/// fs/attr.c: set-group-ID goes only with group execute permission; without it, it means mandatory locking.
pub(crate) fn without_ids(perm: u16) -> u16 {
    let perm = perm & !0o4000;
    if perm & 0o010 != 0 { perm & !0o2000 } else { perm }
}

impl Overlay {
    /// Changes attributes; all of them or none.
    ///
    /// # Errors
    /// `EISDIR`/`EINVAL` for a size of something that is no file, `EFBIG`, `ENOSPC`.
    pub fn setattr(&self, ctx: &Ctx, inode: &Inode, set: &SetAttr) -> Result<Attr> {
        let path = self.path(inode);
        let mut state = inode.state.write();
        // On a full disk a file must still be cut: the reserve is for that.
        if set.size.is_some_and(|size| size > state.attr.size) {
            self.store.space.claim(512).map_err(failed)?;
        }
        let mut batch = Batch::new();
        let mut attr = state.attr;
        if let Some(perm) = set.perm {
            attr.perm = perm & 0o7777;
        }
        let chowned = set.uid.is_some() || set.gid.is_some();
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        if chowned && inode.kind != Kind::Dir && set.perm.is_none() {
            attr.perm = without_ids(attr.perm);
        }
        let mut op = Op::Setattr;
        let mut cut = None;
        if let Some(size) = set.size {
            op = Op::Truncate;
            match inode.kind {
                Kind::File => {}
                Kind::Dir => return Err(Errno::EISDIR),
                Kind::Symlink | Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                    return Err(Errno::EINVAL);
                }
            }
            if size > MAX_SIZE {
                return Err(Errno::EFBIG);
            }
            if set.kill_ids {
                attr.perm = without_ids(attr.perm);
            }
            cut = self.resize(ctx, inode, &state, size, &mut batch)?;
            attr.size = size;
            attr.mtime = ctx.now;
        }
        let time = |t: SetTime| match t {
            SetTime::Now => ctx.now,
            SetTime::To(time) => time,
        };
        attr.atime = set.atime.map_or(attr.atime, time);
        attr.mtime = set.mtime.map_or(attr.mtime, time);
        attr.ctime = ctx.now;
        let mut note = Note::new(op, inode.ino, path);
        note.flags = attr.mode();
        note.before = state.content_ref();
        note.after = note.before;
        if let Some(size) = set.size {
            note.ranges.push(Range::new(size, 0));
        }
        let mut record = state.record();
        if let Some(version) = &cut {
            attr.blocks = self.blocks(version);
            record.content = Content::Version { id: version.id, stamp: version.stamp };
            note.after.version = version.id;
            note.after.stamp = version.stamp;
            self.put_trash_if_orphan(&mut batch, &state, version);
        }
        record.attr = attr;
        // On chown the kernel leaves file capabilities to the file system as well (FUSE_HANDLE_KILLPRIV_V2).
        if chowned && inode.kind == Kind::File {
            record.xattrs = self.without_capability(&state)?.or(record.xattrs);
        }
        if set.perm.is_some()
            && let Some(mut access) = self.access_acl(&state)?
        {
            access.chmod(attr.perm);
            let mut list = record.xattrs.map_or_else(|| self.all_xattrs(&state), Ok)?;
            put_xattr(&mut list, acl::ACCESS, access.encode());
            record.xattrs = Some(list);
        }
        self.put_record(&mut batch, inode.ino, &state, &record);
        self.commit(ctx, batch, note)?;
        state.xattrs = record.xattrs.map(Box::new);
        state.attr = attr;
        self.now_recorded(inode, &mut state);
        if let Some(mut version) = cut {
            // After the commit: bytes that were acknowledged must not go before the size that hides them.
            if version.ragged {
                match self.data().truncate(version.id, attr.size) {
                    Ok(()) => version.ragged = false,
                    Err(error) => tracing::warn!(%error, "a version file stays longer than its file for now"),
                }
            }
            attr.blocks = self.blocks(&version);
            state.attr.blocks = attr.blocks;
            state.content = Bytes::Version(Box::new(version));
        }
        Ok(attr)
    }

    /// The version with the new size; `None` when nothing about the bytes changes.
    fn resize(&self, ctx: &Ctx, inode: &Inode, state: &State, size: u64, batch: &mut Batch) -> Result<Option<Version>> {
        if size == state.attr.size {
            return Ok(None);
        }
        if matches!(state.content, Bytes::None) && size == 0 {
            return Ok(None);
        }
        let mut version = self.writable(ctx, inode, state, batch)?;
        if size > state.attr.size {
            self.trim(&mut version, state.attr.size)?;
        } else {
            version.ragged = true;
            if size < version.record.limit {
                version.record.limit = size;
                self.put_version(batch, version.id, &version.record);
            }
        }
        version.stamp += 1;
        Ok(Some(version))
    }

    /// What is written to a file without a name must not outlive its handles, whenever the daemon ends.
    pub(crate) fn put_trash_if_orphan(&self, batch: &mut Batch, state: &State, version: &Version) {
        if state.attr.nlink == 0 {
            batch.put(crate::store::Table::Meta, &crate::store::keys::trash(version.id), &[]);
        }
    }

    /// The xattrs without file capabilities, if there are any to lose.
    pub(crate) fn without_capability(&self, state: &State) -> Result<Option<crate::store::codec::Xattrs>> {
        match (&state.xattrs, &state.origin) {
            (Some(list), _) if list.iter().any(|(name, _)| **name == *CAPABILITY) => {}
            (None, Some(origin)) if self.base.getxattr(&origin.path, CAPABILITY).is_ok() => {}
            _ => return Ok(None),
        }
        let mut list = self.all_xattrs(state)?;
        list.retain(|(name, _)| **name != *CAPABILITY);
        Ok(Some(list))
    }
}
