//! Extended attributes. The first change copies those of the base file into the inode's record.

use crate::overlay::acl::{self, Acl};
use crate::overlay::inode::{BaseDefault, State};
use crate::overlay::{Ctx, Inode, Overlay, Result, failed};
use crate::store::Batch;
use crate::store::codec::Xattrs;
use crate::types::{Attr, Errno, Kind, Name, Note, Op, Path};

pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// Limits of Linux (XATTR_NAME_MAX, XATTR_SIZE_MAX, XATTR_LIST_MAX).
const NAME_MAX: usize = 255;
const SIZE_MAX: usize = 65536;

/// Whether an attribute of that name may, must or must not be there. See setxattr(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetXattr {
    Either,
    Create,
    Replace,
}

fn is_acl(name: &[u8]) -> bool {
    matches!(name, acl::ACCESS | acl::DEFAULT)
}

fn has_xattr(list: &Xattrs, name: &[u8]) -> bool {
    list.iter().any(|(n, _)| **n == *name)
}

/// Puts an attribute into a list that is sorted by name.
pub(crate) fn put_xattr(list: &mut Xattrs, name: &[u8], value: Box<[u8]>) {
    match list.binary_search_by(|(n, _)| (**n).cmp(name)) {
        Ok(at) => {
            if let Some(entry) = list.get_mut(at) {
                entry.1 = value;
            }
        }
        Err(at) => list.insert(at, (name.into(), value)),
    }
}

impl Overlay {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// `ENODATA` when there is none.
    pub fn getxattr(&self, inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        self.xattr(&inode.state.read(), name)
    }

    fn xattr(&self, state: &State, name: &[u8]) -> Result<Vec<u8>> {
        match (&state.xattrs, &state.origin) {
            (Some(list), _) => list.iter().find(|(n, _)| **n == *name).map(|(_, v)| v.to_vec()).ok_or(Errno::ENODATA),
            (None, Some(origin)) => match self.base.getxattr(&origin.path, name) {
                // A base without ACLs, or a file that is gone from it: to the kernel any error but ENODATA would be a reason to
                // refuse access.
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOENT) if is_acl(name) => Err(Errno::ENODATA),
                other => Ok(other?),
            },
            (None, None) => Err(Errno::ENODATA),
        }
    }

    /// The ACL that decides about access to a file, if it says more than the mode bits.
    pub(crate) fn access_acl(&self, state: &State) -> Result<Option<Acl>> {
        if state.attr.kind == Kind::Symlink { Ok(None) } else { self.acl(state, acl::ACCESS) }
    }

    /// The ACL that is born with what is made in a directory. Asks the base once.
    pub(crate) fn default_acl(&self, state: &mut State) -> Result<Option<Acl>> {
        if state.xattrs.is_some() {
            return self.acl(state, acl::DEFAULT);
        }
        match state.dir.as_deref().map(|dir| &dir.base_default) {
            Some(BaseDefault::None) => return Ok(None),
            Some(BaseDefault::Is(acl)) => return Ok(Some(acl.clone())),
            Some(BaseDefault::Unasked) | None => {}
        }
        let found = self.acl(state, acl::DEFAULT)?;
        if let Some(dir) = &mut state.dir {
            dir.base_default = found.clone().map_or(BaseDefault::None, BaseDefault::Is);
        }
        Ok(found)
    }

    fn acl(&self, state: &State, name: &[u8]) -> Result<Option<Acl>> {
        match self.xattr(state, name) {
            Ok(value) => Acl::parse(&value).map(Some),
            Err(Errno::ENODATA) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The names of all extended attributes.
    pub fn listxattr(&self, inode: &Inode) -> Result<Vec<Name>> {
        let state = inode.state.read();
        match (&state.xattrs, &state.origin) {
            (Some(list), _) => Ok(list.iter().map(|(n, _)| n.clone()).collect()),
            (None, Some(origin)) => match self.base.listxattr(&origin.path) {
                Err(rustix::io::Errno::OPNOTSUPP) => Ok(Vec::new()),
                other => Ok(other?),
            },
            (None, None) => Ok(Vec::new()),
        }
    }

    /// Sets an extended attribute. An access ACL sets the permission bits as well, and is not kept when they say all of it.
    ///
    /// # Errors
    /// `EEXIST`, `ENODATA` (see [`SetXattr`]), `ERANGE`, `E2BIG`, `ENOSPC`; for ACLs `EINVAL` when it is none, and `EACCES` for a
    /// default ACL of something that is no directory.
    pub fn setxattr(&self, ctx: &Ctx, inode: &Inode, name: &[u8], value: &[u8], how: SetXattr) -> Result<()> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(Errno::ERANGE);
        }
        if value.len() > SIZE_MAX {
            return Err(Errno::E2BIG);
        }
        self.store.space.claim(value.len() as u64 + 512).map_err(failed)?;
        let acl = match name {
            acl::DEFAULT if inode.kind != Kind::Dir => return Err(Errno::EACCES),
            acl::ACCESS | acl::DEFAULT => Some(Acl::parse(value)?),
            _ => None,
        };
        self.change_xattrs(ctx, inode, Op::Setxattr, name, |list, attr| {
            match (has_xattr(list, name), how) {
                (true, SetXattr::Create) => return Err(Errno::EEXIST),
                (false, SetXattr::Replace) => return Err(Errno::ENODATA),
                (true, SetXattr::Either | SetXattr::Replace) | (false, SetXattr::Either | SetXattr::Create) => {}
            }
            match &acl {
                Some(acl) if name == acl::ACCESS => {
                    attr.perm = acl.applied_to(attr.perm);
                    // The kernel knows whether the caller is in the group (FUSE_SETXATTR_ACL_KILL_SGID); fuser does not pass it on.
                    if ctx.uid != 0 && ctx.gid != attr.gid {
                        attr.perm &= !0o2000;
                    }
                    list.retain(|(n, _)| **n != *name);
                    if !acl.is_mode() {
                        put_xattr(list, name, acl.encode());
                    }
                }
                Some(_) | None => put_xattr(list, name, value.into()),
            }
            Ok(())
        })
    }

    /// Removes an extended attribute. Permission bits stay as they are when an ACL goes.
    ///
    /// # Errors
    /// `ENODATA` when there is none.
    pub fn removexattr(&self, ctx: &Ctx, inode: &Inode, name: &[u8]) -> Result<()> {
        let result = self.change_xattrs(ctx, inode, Op::Removexattr, name, |list, _| {
            let before = list.len();
            list.retain(|(n, _)| **n != *name);
            if list.len() == before { Err(Errno::ENODATA) } else { Ok(()) }
        });
        match result {
            // As on ext4: that a file has no ACL is just what was asked for.
            Err(Errno::ENODATA) if is_acl(name) => Ok(()),
            other => other,
        }
    }

    fn change_xattrs(
        &self,
        ctx: &Ctx,
        inode: &Inode,
        op: Op,
        name: &[u8],
        change: impl FnOnce(&mut Xattrs, &mut Attr) -> Result<()>,
    ) -> Result<()> {
        let path = self.path(inode);
        let mut state = inode.state.write();
        let mut list = self.all_xattrs(&state)?;
        let mut attr = Attr { ctime: ctx.now, ..state.attr };
        change(&mut list, &mut attr)?;
        let mut record = state.record();
        record.attr = attr;
        record.xattrs = Some(list);
        let mut batch = Batch::new();
        self.put_record(&mut batch, inode.ino, &state, &record);
        self.commit(ctx, batch, Note::new(op, inode.ino, path).with_path2(Path::new(name)))?;
        state.attr = attr;
        state.xattrs = record.xattrs.map(Box::new);
        self.now_recorded(inode, &mut state);
        Ok(())
    }

    /// All extended attributes with their values, sorted by name.
    pub(crate) fn all_xattrs(&self, state: &State) -> Result<Xattrs> {
        if let Some(list) = &state.xattrs {
            return Ok((**list).clone());
        }
        match &state.origin {
            Some(origin) => self.base_xattrs(&origin.path),
            None => Ok(Xattrs::new()),
        }
    }

    /// Those of a base file, sorted by name.
    pub(crate) fn base_xattrs(&self, path: &Path) -> Result<Xattrs> {
        let names = match self.base.listxattr(path) {
            Err(rustix::io::Errno::OPNOTSUPP) => Vec::new(),
            other => other?,
        };
        let mut list = Xattrs::new();
        for name in names {
            match self.base.getxattr(path, &name) {
                Ok(value) => list.push((name, value.into())),
                // Gone since it was listed, or not ours to read (security.* of another user's file).
                Err(rustix::io::Errno::NODATA | rustix::io::Errno::PERM) => {}
                Err(e) => return Err(e.into()),
            }
        }
        list.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(list)
    }
}
