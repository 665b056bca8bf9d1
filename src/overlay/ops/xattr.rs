//! Extended attributes. The first change copies those of the base file into the inode's record.

use crate::overlay::inode::State;
use crate::overlay::{Ctx, Inode, Overlay, Result, failed};
use crate::store::Batch;
use crate::store::codec::Xattrs;
use crate::types::{Attr, Errno, Name, Note, Op, Path};

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

impl Overlay {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// `ENODATA` when there is none.
    pub fn getxattr(&self, inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        let state = inode.state.read();
        match (&state.xattrs, &state.origin) {
            (Some(list), _) => list.iter().find(|(n, _)| **n == *name).map(|(_, v)| v.to_vec()).ok_or(Errno::ENODATA),
            (None, Some(origin)) => Ok(self.base.getxattr(&origin.path, name)?),
            (None, None) => Err(Errno::ENODATA),
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

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `EEXIST`, `ENODATA` (see [`SetXattr`]), `ERANGE`, `E2BIG`, `ENOSPC`.
    pub fn setxattr(&self, ctx: &Ctx, inode: &Inode, name: &[u8], value: &[u8], how: SetXattr) -> Result<()> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(Errno::ERANGE);
        }
        if value.len() > SIZE_MAX {
            return Err(Errno::E2BIG);
        }
        self.store.space.claim(value.len() as u64 + 512).map_err(failed)?;
        self.change_xattrs(ctx, inode, Op::Setxattr, name, |list| {
            let at = list.binary_search_by(|(n, _)| (**n).cmp(name));
            match (at, how) {
                (Ok(_), SetXattr::Create) => Err(Errno::EEXIST),
                (Err(_), SetXattr::Replace) => Err(Errno::ENODATA),
                (Ok(at), _) => {
                    if let Some(entry) = list.get_mut(at) {
                        entry.1 = value.into();
                    }
                    Ok(())
                }
                (Err(at), _) => {
                    list.insert(at, (name.into(), value.into()));
                    Ok(())
                }
            }
        })
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `ENODATA` when there is none.
    pub fn removexattr(&self, ctx: &Ctx, inode: &Inode, name: &[u8]) -> Result<()> {
        self.change_xattrs(ctx, inode, Op::Removexattr, name, |list| {
            let before = list.len();
            list.retain(|(n, _)| **n != *name);
            if list.len() == before { Err(Errno::ENODATA) } else { Ok(()) }
        })
    }

    fn change_xattrs(
        &self,
        ctx: &Ctx,
        inode: &Inode,
        op: Op,
        name: &[u8],
        change: impl FnOnce(&mut Xattrs) -> Result<()>,
    ) -> Result<()> {
        let path = self.path(inode);
        let mut state = inode.state.write();
        let mut list = self.all_xattrs(&state)?;
        change(&mut list)?;
        let attr = Attr { ctime: ctx.now, ..state.attr };
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
        let mut list = Xattrs::new();
        if let Some(origin) = &state.origin {
            let names = match self.base.listxattr(&origin.path) {
                Err(rustix::io::Errno::OPNOTSUPP) => Vec::new(),
                other => other?,
            };
            for name in names {
                match self.base.getxattr(&origin.path, &name) {
                    Ok(value) => list.push((name, value.into())),
                    // Gone since it was listed, or not ours to read (security.* of another user's file).
                    Err(rustix::io::Errno::NODATA | rustix::io::Errno::PERM) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        list.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(list)
    }
}
