//! create, mkdir, mknod, symlink.

use std::sync::Arc;

use super::xattr::put_xattr;
use super::{alive, check_name, links, set_entry};
use crate::overlay::acl;
use crate::overlay::inode::{Bytes, Dir, State};
use crate::overlay::{Ctx, Inode, Overlay, Result, failed};
use crate::store::Batch;
use crate::store::codec::{Dentry, Xattrs};
use crate::types::{Attr, Epoch, Errno, Kind, Note, Op, Path};

/// What is to be made.
#[derive(Clone, Debug)]
pub struct New<'a> {
    pub kind: Kind,
    /// Permission bits as the caller asked for them.
    pub perm: u16,
    /// The caller's umask. It counts where the directory has no default ACL.
    pub umask: u16,
    /// Device number, for devices.
    pub rdev: u32,
    /// For symbolic links.
    pub target: Option<&'a [u8]>,
}

/// Size that a new directory shows, as on ext4.
const DIR_SIZE: u64 = 4096;

impl Overlay {
    /// Makes `name` in `dir`.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT` when `dir` was removed, `ENAMETOOLONG`, `ENOSPC`.
    pub fn create(&self, ctx: &Ctx, dir: &Arc<Inode>, name: &[u8], new: &New<'_>) -> Result<Arc<Inode>> {
        check_name(name)?;
        self.store.space.claim(1024).map_err(failed)?;
        let path = self.child_path(dir, name);
        let _namespace = self.namespace.lock();
        match self.lookup(dir, name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(e) => return Err(e),
        }
        let ino = self.allocate()?;
        let place = self.new_place(dir, name);
        let mut parent = dir.state.write();
        alive(&parent)?;
        let inherits = parent.attr.perm & 0o2000 != 0;
        let is_dir = new.kind == Kind::Dir;
        let size = match new.kind {
            Kind::Dir => DIR_SIZE,
            Kind::Symlink => new.target.map_or(0, <[u8]>::len) as u64,
            Kind::File | Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => 0,
        };
        let born = self.born(&mut parent, new)?;
        let attr = Attr {
            ino,
            kind: new.kind,
            perm: if inherits && is_dir { born.perm | 0o2000 } else { born.perm },
            nlink: if is_dir { 2 } else { 1 },
            uid: ctx.uid,
            gid: if inherits { parent.attr.gid } else { ctx.gid },
            rdev: new.rdev,
            size,
            blocks: if is_dir { 8 } else { 0 },
            atime: ctx.now,
            mtime: ctx.now,
            ctime: ctx.now,
        };
        let mut state = State {
            attr,
            content: Bytes::None,
            origin: None,
            recorded: false,
            touched: Epoch::BASE,
            opaque: false,
            place,
            dir: is_dir.then(|| Box::new(Dir { loaded: true, ..Dir::default() })),
            target: new.target.map(Into::into),
            xattrs: Some(Box::new(born.xattrs)),
        };
        let parent_attr =
            Attr { mtime: ctx.now, ctime: ctx.now, nlink: links(&parent.attr, i32::from(is_dir)), ..parent.attr };
        let dentry = Dentry::Entry { ino, kind: new.kind };
        let mut batch = Batch::new();
        let mut note = Note::new(op_of(new.kind), ino, path.clone());
        note.flags = attr.mode();
        note.path2 = new.target.map(Path::new);
        self.put_inode(&mut batch, ino, &state, &attr);
        self.put_dentry(&mut batch, dir.ino, name, dentry, &path);
        self.put_inode(&mut batch, dir.ino, &parent, &parent_attr);
        self.commit(ctx, batch, note)?;
        state.recorded = true;
        state.touched = self.epoch();
        self.changed.write().insert(ino);
        parent.attr = parent_attr;
        set_entry(&mut parent, name, Some(dentry));
        self.now_recorded(dir, &mut parent);
        drop(parent);
        Ok(self.inodes.insert_or_get(Arc::new(Inode::new(ino, new.kind, state))))
    }
}

/// What something new has from its directory and its caller.
struct Born {
    perm: u16,
    xattrs: Xattrs,
}

impl Overlay {
    /// Permission bits and ACLs of something new. See `posix_acl_create` in fs/posix_acl.c.
    fn born(&self, parent: &mut State, new: &New<'_>) -> Result<Born> {
        if new.kind == Kind::Symlink {
            return Ok(Born { perm: new.perm, xattrs: Xattrs::new() });
        }
        let Some(default) = self.default_acl(parent)? else {
            return Ok(Born { perm: new.perm & !new.umask, xattrs: Xattrs::new() });
        };
        let acl::Born { perm, access } = default.born(new.perm);
        let mut xattrs = Xattrs::new();
        if let Some(access) = access {
            put_xattr(&mut xattrs, acl::ACCESS, access.encode());
        }
        if new.kind == Kind::Dir {
            put_xattr(&mut xattrs, acl::DEFAULT, default.encode());
        }
        Ok(Born { perm, xattrs })
    }
}

fn op_of(kind: Kind) -> Op {
    match kind {
        Kind::File => Op::Create,
        Kind::Dir => Op::Mkdir,
        Kind::Symlink => Op::Symlink,
        Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => Op::Mknod,
    }
}
