//! lookup, getattr, readlink.

use std::sync::Arc;

use super::NAME_MAX;
use crate::overlay::tree::print;
use crate::overlay::{Inode, Overlay, Result};
use crate::store::codec::Dentry;
use crate::types::{Attr, Errno, Kind};

impl Overlay {
    /// The inode that `name` stands for in `dir`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`, or what the base says.
    pub fn lookup(&self, dir: &Inode, name: &[u8]) -> Result<Arc<Inode>> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        self.ensure_loaded(dir)?;
        let base_dir = {
            let state = dir.state.read();
            match state.dir.as_ref().and_then(|d| d.entries.get(name)) {
                Some(Dentry::Whiteout { .. }) => return Err(Errno::ENOENT),
                Some(Dentry::Entry { ino, .. }) => {
                    let ino = *ino;
                    drop(state);
                    return self.load(ino, dir, name);
                }
                None if state.shows_base() => state.origin.as_ref().map(|o| o.path.clone()),
                None => None,
            }
        };
        let base_dir = base_dir.ok_or(Errno::ENOENT)?;
        let stat = self.base.stat(&base_dir, name)?;
        self.of_base(&stat, dir, name, base_dir.join(name))
    }

    /// What stat(2) shows.
    pub fn getattr(&self, inode: &Inode) -> Result<Attr> {
        if self.live_base {
            self.refresh(inode)?;
        }
        Ok(inode.attr())
    }

    /// Takes over what the base says now about a file that the overlay does not change.
    fn refresh(&self, inode: &Inode) -> Result<()> {
        let path = {
            let state = inode.state.read();
            match &state.origin {
                // A file that lost its last name here is not what the base has at that path.
                Some(origin) if !state.recorded && state.attr.nlink > 0 => origin.path.clone(),
                _ => return Ok(()),
            }
        };
        let stat = self.base.stat_path(&path)?;
        let mut state = inode.state.write();
        if state.recorded || state.attr.nlink == 0 {
            return Ok(());
        }
        let same = state.origin.as_ref().is_some_and(|o| o.ino == stat.attr.ino.0) && inode.kind == stat.attr.kind;
        if !same {
            return Err(Errno::ESTALE);
        }
        state.attr = Attr { ino: state.attr.ino, ..stat.attr };
        if let Some(origin) = &mut state.origin {
            origin.print = print(&stat.attr);
        }
        Ok(())
    }

    /// Where a symbolic link points.
    pub fn readlink(&self, inode: &Inode) -> Result<Vec<u8>> {
        if inode.kind != Kind::Symlink {
            return Err(Errno::EINVAL);
        }
        let state = inode.state.read();
        if let Some(target) = &state.target {
            return Ok(target.to_vec());
        }
        let origin = state.origin.as_ref().ok_or(Errno::EIO)?;
        Ok(self.base.readlink(&origin.path)?)
    }
}
