//! The overlay without a mount: does what the kernel does before it asks a file system, and asks the overlay.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use regentfs::base::DirBase;
use regentfs::overlay::ops::create::New;
use regentfs::overlay::ops::io::Write;
use regentfs::overlay::ops::rename::{Rename, Spot};
use regentfs::overlay::ops::setattr::{SetAttr, SetTime};
use regentfs::overlay::ops::space::Allocate;
use regentfs::overlay::ops::xattr::SetXattr;
use regentfs::overlay::{Ctx, Inode, Overlay};
use regentfs::record::Record;
use regentfs::store::Store;
use regentfs::store::check::{self, Report};
use regentfs::types::{ActorId, Attr, Epoch, Errno, HandleId, Ino, Kind, Known, Op as Did, Range, Time};

use super::log::Log;
use super::rng::Rng;
use super::system::{File, How, Make, Mode, Op, Path, Result, Slot, Stat, Swap, System, Tree, Value};

/// What is in memory between two starts.
struct Running {
    store: Arc<Store>,
    overlay: Overlay,
}

pub struct Layer {
    base: PathBuf,
    dir: PathBuf,
    log: Log,
    running: Option<Running>,
    open: BTreeMap<Slot, (Arc<Inode>, Mode)>,
    /// Look-ups that the kernel would have counted.
    known: HashMap<Ino, u64>,
}

impl Layer {
    /// An overlay over `base` with its store in `dir`.
    pub fn new(base: &std::path::Path, dir: &std::path::Path, log: Log) -> Layer {
        let mut layer = Layer {
            base: base.into(),
            dir: dir.into(),
            log,
            running: None,
            open: BTreeMap::new(),
            known: HashMap::new(),
        };
        layer.start();
        layer
    }

    fn start(&mut self) {
        let store = Arc::new(self.log.store(&self.base, &self.dir));
        let base = Arc::new(DirBase::open(&self.base).expect("open the base"));
        let journal = Arc::new(Record::open(store.clone()).expect("open the record"));
        let overlay = Overlay::open(store.clone(), base, journal, false).expect("open the overlay");
        self.running = Some(Running { store, overlay });
    }

    pub fn stop(&mut self) {
        self.open.clear();
        self.known.clear();
        self.running = None;
    }

    pub fn overlay(&self) -> &Overlay {
        &self.running.as_ref().expect("it runs").overlay
    }

    pub fn check(&self) -> Report {
        check::check(&self.running.as_ref().expect("it runs").store, true).expect("check the store")
    }

    fn ctx() -> Ctx {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Ctx { actor: ActorId(1), uid, gid, now: regentfs::clock::now(), epoch: Epoch(1), shared: false }
    }

    /// Whether the kernel tells the file system to take set-id bits away: for all but CAP_FSETID.
    fn loses_ids() -> bool {
        !rustix::process::geteuid().is_root()
    }

    fn resized(size: u64) -> SetAttr {
        SetAttr { size: Some(size), kill_ids: Layer::loses_ids(), ..SetAttr::default() }
    }

    fn lookup(&mut self, dir: &Inode, name: &[u8]) -> Result<Arc<Inode>> {
        let inode = self.overlay().lookup(dir, name)?;
        self.overlay().remember(&inode);
        *self.known.entry(inode.ino).or_default() += 1;
        Ok(inode)
    }

    fn walk(&mut self, path: &[u8]) -> Result<Arc<Inode>> {
        let mut at = self.overlay().root().clone();
        for name in path.split(|&b| b == b'/').filter(|n| !n.is_empty()) {
            match at.kind {
                Kind::Dir => at = self.lookup(&at, name)?,
                Kind::Symlink => return Err(Errno::ELOOP),
                _ => return Err(Errno::ENOTDIR),
            }
        }
        Ok(at)
    }

    fn parent<'a>(&mut self, path: &'a [u8]) -> Result<(Arc<Inode>, &'a [u8])> {
        let at = path.iter().rposition(|&b| b == b'/');
        let (dir, name) = at.map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
        let dir = self.walk(dir)?;
        match dir.kind {
            Kind::Dir => Ok((dir, name)),
            Kind::Symlink => Err(Errno::ELOOP),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn find(&mut self, path: &[u8]) -> Result<Arc<Inode>> {
        let (dir, name) = self.parent(path)?;
        if name.is_empty() { Ok(dir) } else { self.lookup(&dir, name) }
    }

    fn slot(&self, slot: Slot) -> Result<(Arc<Inode>, Mode)> {
        self.open.get(&slot).cloned().ok_or(Errno::EBADF)
    }

    fn writable(&self, slot: Slot, otherwise: Errno) -> Result<(Arc<Inode>, Mode)> {
        self.slot(slot).and_then(|(inode, mode)| if mode == Mode::Read { Err(otherwise) } else { Ok((inode, mode)) })
    }

    fn close(&mut self, slot: Slot) {
        if let Some((inode, _)) = self.open.remove(&slot) {
            self.overlay().forget(inode.ino, 1);
            // The kernel drops a nameless inode with its last user.
            let unused = self.open.values().all(|(other, _)| other.ino != inode.ino);
            if unused && inode.attr().nlink == 0 {
                self.drop_inode(inode.ino);
            }
        }
    }

    fn drop_inode(&mut self, ino: Ino) {
        if let Some(count) = self.known.remove(&ino) {
            self.overlay().forget(ino, count);
        }
    }

    /// What the kernel does with an inode that lost a name.
    fn removed(&mut self, inode: &Inode) {
        if inode.attr().nlink == 0 && self.open.values().all(|(open, _)| open.ino != inode.ino) {
            self.drop_inode(inode.ino);
        }
    }

    fn open(&mut self, path: &[u8], mode: Mode, make: Make, truncate: bool) -> Result<Arc<Inode>> {
        let (dir, name) = self.parent(path)?;
        let inode = match self.lookup(&dir, name) {
            Ok(inode) if inode.kind == Kind::Fifo => return Err(Errno::EOPNOTSUPP),
            Ok(_) if make == Make::New => return Err(Errno::EEXIST),
            Ok(inode) => inode,
            Err(Errno::ENOENT) if make != Make::No => return self.create(&dir, name, Kind::File, 0o644, None),
            Err(e) => return Err(e),
        };
        match inode.kind {
            Kind::Symlink => return Err(Errno::ELOOP),
            Kind::Dir if mode != Mode::Read || make == Make::Maybe || truncate => return Err(Errno::EISDIR),
            _ => {}
        }
        if truncate {
            self.set(&inode, Layer::resized(0))?;
        }
        Ok(inode)
    }

    fn create(
        &mut self,
        dir: &Arc<Inode>,
        name: &[u8],
        kind: Kind,
        perm: u16,
        target: Option<&[u8]>,
    ) -> Result<Arc<Inode>> {
        let inode = self.overlay().create(&Layer::ctx(), dir, name, &New { kind, perm, umask: 0, rdev: 0, target })?;
        self.overlay().remember(&inode);
        *self.known.entry(inode.ino).or_default() += 1;
        Ok(inode)
    }

    fn set(&self, inode: &Inode, set: SetAttr) -> Result<Attr> {
        self.overlay().setattr(&Layer::ctx(), inode, &set)
    }

    fn write(&self, inode: &Inode, offset: u64, data: &[u8], append: bool) -> Result<u64> {
        if data.is_empty() {
            return Ok(0);
        }
        let handle = HandleId(1);
        let known = Known::Observed;
        let write = Write { offset, data, append, kill_ids: Layer::loses_ids(), handle, op: Did::Write, known };
        self.overlay().write(&Layer::ctx(), inode, &write)?;
        Ok(data.len() as u64)
    }

    fn copy(&self, from: Slot, from_offset: u64, to: Slot, to_offset: u64, len: u64) -> Result<u64> {
        let (source, _) = self.slot(from)?;
        let (target, mode) = self.writable(to, Errno::EBADF)?;
        if mode == Mode::Append {
            return Err(Errno::EBADF);
        }
        let mut done = 0;
        while done < len {
            let size = self.overlay().getattr(&source)?.size;
            let at = from_offset + done;
            // The kernel cuts the length to the source's size before it looks for an overlap.
            let count = (len - done).min(size.saturating_sub(at));
            if count == 0 {
                break;
            }
            let ends = ((&source, at), (&target, to_offset + done));
            let (copied, _) = self.overlay().copy_range(&Layer::ctx(), ends.0, ends.1, count, HandleId(1))?;
            if copied == 0 {
                break;
            }
            done += copied;
        }
        Ok(done)
    }

    fn rename(&mut self, from: &[u8], to: &[u8], swap: Swap) -> Result<()> {
        let (dir, name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        self.lookup(&dir, name)?;
        let other = match self.lookup(&to_dir, to_name) {
            Ok(other) => Some(other),
            Err(Errno::ENOENT) => None,
            Err(e) => return Err(e),
        };
        let inside = |outer: &[u8], path: &[u8]| path.strip_prefix(outer).is_some_and(|rest| rest.starts_with(b"/"));
        match (swap, &other) {
            (Swap::NoReplace, Some(_)) => return Err(Errno::EEXIST),
            (Swap::Exchange, None) => return Err(Errno::ENOENT),
            _ if inside(from, to) => return Err(Errno::EINVAL),
            (Swap::Exchange, _) if inside(to, from) => return Err(Errno::EINVAL),
            _ if inside(to, from) => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        let how = match swap {
            Swap::Replace => Rename::Replace,
            Swap::NoReplace => Rename::NoReplace,
            Swap::Exchange => Rename::Exchange,
        };
        let (from, to) = (Spot { dir: &dir, name }, Spot { dir: &to_dir, name: to_name });
        if let Some(replaced) = self.overlay().rename(&Layer::ctx(), from, to, how)? {
            self.removed(&replaced);
        }
        Ok(())
    }

    /// Only files and directories have user attributes. See xattr(7).
    fn may_have_xattrs(inode: &Inode, errno: Errno) -> Result<()> {
        if matches!(inode.kind, Kind::File | Kind::Dir) { Ok(()) } else { Err(errno) }
    }

    fn xattrs(&self, inode: &Inode) -> Result<Vec<Vec<u8>>> {
        let names = self.overlay().listxattr(inode)?;
        let mut names: Vec<Vec<u8>> = names.iter().filter(|n| n.starts_with(b"user.")).map(|n| n.to_vec()).collect();
        names.sort();
        Ok(names)
    }

    fn walk_tree(&mut self, inode: &Arc<Inode>, path: Path, tree: &mut Tree) {
        let fail = |what: &str, e: Errno| -> ! { panic!("{what} {}: {e}", path.escape_ascii()) };
        let attr = self.overlay().getattr(inode).unwrap_or_else(|e| fail("getattr", e));
        let bytes = match inode.kind {
            Kind::File => {
                let mut bytes = vec![0xaa; attr.size as usize + 1];
                let read = self.overlay().read(inode, 0, &mut bytes).unwrap_or_else(|e| fail("read", e));
                bytes.truncate(read.len);
                bytes
            }
            Kind::Symlink => self.overlay().readlink(inode).unwrap_or_else(|e| fail("readlink", e)),
            _ => Vec::new(),
        };
        let names = self.xattrs(inode).unwrap_or_else(|e| fail("listxattr", e));
        let xattrs = names.into_iter().map(|n| {
            let value = self.overlay().getxattr(inode, &n).unwrap_or_else(|e| fail("getxattr", e));
            (n, value)
        });
        let file =
            File { stat: Stat::from(&attr), ino: attr.ino.0, born: Time::default(), bytes, xattrs: xattrs.collect() };
        if inode.kind == Kind::Dir {
            for entry in self.overlay().list(inode).unwrap_or_else(|e| fail("list", e)) {
                let below = if path.is_empty() { entry.name.to_vec() } else { [&path[..], b"/", &entry.name].concat() };
                let child = self.lookup(inode, &entry.name).unwrap_or_else(|e| fail("look up what is listed in", e));
                let (shown, name) = (self.overlay().path(&child), below.escape_ascii());
                assert_eq!(child.attr().ino, entry.ino, "the listed number of {name}");
                assert_eq!(child.kind, entry.kind, "the listed type of {name}");
                if child.attr().nlink == 1 || child.kind == Kind::Dir {
                    assert_eq!(shown.as_bytes(), &below[..], "the remembered path of {name}");
                }
                assert!(!tree.contains_key(&below), "{name} is listed twice");
                self.walk_tree(&child, below, tree);
            }
        }
        tree.insert(path, file);
    }
}

impl System for Layer {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn apply(&mut self, op: &Op) -> Result<Value> {
        match op {
            Op::Open { slot, path, mode, make, truncate } => {
                let inode = self.open(path, *mode, *make, *truncate)?;
                if inode.kind == Kind::File {
                    self.close(*slot);
                    // Look-ups that the kernel keeps for the open file.
                    self.overlay().remember(&inode);
                    self.open.insert(*slot, (inode, *mode));
                }
            }
            Op::Close { slot } => self.close(*slot),
            Op::Read { slot, offset, len } => {
                let (inode, _) = self.slot(*slot)?;
                let mut bytes = vec![0xaa; *len];
                let read = self.overlay().read(&inode, *offset, &mut bytes)?;
                bytes.truncate(read.len);
                return Ok(Value::Bytes(bytes));
            }
            Op::Write { slot, offset, data } => {
                let (inode, mode) = self.writable(*slot, Errno::EBADF)?;
                return self.write(&inode, *offset, data, mode == Mode::Append).map(Value::Number);
            }
            Op::Truncate { slot, size } => {
                let (inode, _) = self.writable(*slot, Errno::EINVAL)?;
                self.set(&inode, Layer::resized(*size))?;
            }
            Op::TruncatePath { path, size } => {
                let inode = self.open(path, Mode::ReadWrite, Make::No, false)?;
                self.set(&inode, Layer::resized(*size))?;
            }
            Op::Allocate { slot, mode, offset, len } => {
                let (inode, _) = self.writable(*slot, Errno::EBADF)?;
                let how = Allocate::from_mode(*mode).ok_or(Errno::EOPNOTSUPP)?;
                self.overlay().fallocate(&Layer::ctx(), &inode, Range::new(*offset, *len), how, HandleId(1))?;
            }
            Op::Seek { slot, offset, data } => {
                let (inode, _) = self.slot(*slot)?;
                return self.overlay().seek(&inode, *offset, *data).map(Value::Number);
            }
            Op::Copy { from, from_offset, to, to_offset, len } => {
                return self.copy(*from, *from_offset, *to, *to_offset, *len).map(Value::Number);
            }
            Op::Sync { slot } => {
                let (inode, _) = self.slot(*slot)?;
                self.overlay().sync(&inode)?;
            }
            Op::Stat { path } => {
                let inode = self.find(path)?;
                return Ok(Value::Stat(Stat::from(&self.overlay().getattr(&inode)?)));
            }
            Op::StatOpen { slot } => {
                let (inode, _) = self.slot(*slot)?;
                return Ok(Value::Stat(Stat::from(&self.overlay().getattr(&inode)?)));
            }
            Op::Mkdir { path, perm } => {
                let (dir, name) = self.parent(path)?;
                // mkdir(2) takes no set-id bits.
                self.create(&dir, name, Kind::Dir, *perm & 0o1777, None)?;
            }
            Op::Mkfifo { path, perm } => {
                let (dir, name) = self.parent(path)?;
                self.create(&dir, name, Kind::Fifo, *perm, None)?;
            }
            Op::Symlink { path, target } => {
                let (dir, name) = self.parent(path)?;
                self.create(&dir, name, Kind::Symlink, 0o777, Some(target))?;
            }
            Op::Readlink { path } => {
                let inode = self.find(path)?;
                return self.overlay().readlink(&inode).map(Value::Bytes);
            }
            Op::Link { path, new } => {
                let inode = self.find(path)?;
                let (dir, name) = self.parent(new)?;
                match self.lookup(&dir, name) {
                    Ok(_) => return Err(Errno::EEXIST),
                    Err(Errno::ENOENT) => {}
                    Err(e) => return Err(e),
                }
                self.overlay().link(&Layer::ctx(), &inode, &dir, name)?;
            }
            Op::Unlink { path } => {
                let (dir, name) = self.parent(path)?;
                let inode = self.overlay().unlink(&Layer::ctx(), &dir, name)?;
                self.removed(&inode);
            }
            Op::Rmdir { path } => {
                let (dir, name) = self.parent(path)?;
                let inode = self.overlay().rmdir(&Layer::ctx(), &dir, name)?;
                self.removed(&inode);
            }
            Op::Rename { from, to, swap } => self.rename(from, to, *swap)?,
            Op::Chmod { path, perm } => {
                let inode = self.find(path)?;
                if inode.kind == Kind::Symlink {
                    return Err(Errno::EOPNOTSUPP);
                }
                self.set(&inode, SetAttr { perm: Some(*perm), ..SetAttr::default() })?;
            }
            Op::Chown { path, uid, gid } => {
                let inode = self.find(path)?;
                self.set(&inode, SetAttr { uid: *uid, gid: *gid, ..SetAttr::default() })?;
            }
            Op::Times { path, atime, mtime } => {
                let inode = self.find(path)?;
                let (atime, mtime) = (Some(SetTime::To(*atime)), Some(SetTime::To(*mtime)));
                let attr = self.set(&inode, SetAttr { atime, mtime, ..SetAttr::default() })?;
                return Ok(Value::Bytes(format!("atime {}.{:09}", attr.atime.secs, attr.atime.nanos).into_bytes()));
            }
            Op::SetXattr { path, name, value, how } => {
                let inode = self.find(path)?;
                Layer::may_have_xattrs(&inode, Errno::EPERM)?;
                let how = match how {
                    How::Either => SetXattr::Either,
                    How::Create => SetXattr::Create,
                    How::Replace => SetXattr::Replace,
                };
                self.overlay().setxattr(&Layer::ctx(), &inode, name, value, how)?;
            }
            Op::GetXattr { path, name } => {
                let inode = self.find(path)?;
                Layer::may_have_xattrs(&inode, Errno::ENODATA)?;
                return self.overlay().getxattr(&inode, name).map(Value::Bytes);
            }
            Op::RemoveXattr { path, name } => {
                let inode = self.find(path)?;
                Layer::may_have_xattrs(&inode, Errno::EPERM)?;
                self.overlay().removexattr(&Layer::ctx(), &inode, name)?;
            }
            Op::ListXattr { path } => {
                let inode = self.find(path)?;
                return self.xattrs(&inode).map(Value::List);
            }
            Op::List { path } => {
                let inode = self.find(path)?;
                let mut names: Vec<_> =
                    self.overlay().list(&inode)?.into_iter().map(|e| (e.name.to_vec(), e.kind)).collect();
                names.sort_by(|a, b| a.0.cmp(&b.0));
                return Ok(Value::Names(names));
            }
        }
        Ok(Value::Nothing)
    }

    fn tree(&mut self) -> Tree {
        let mut tree = Tree::new();
        let root = self.overlay().root().clone();
        self.walk_tree(&root, Vec::new(), &mut tree);
        tree
    }

    fn reopen(&mut self) {
        self.stop();
        self.start();
    }

    fn shrink(&mut self, salt: u64) {
        // An open file keeps its directories in the kernel's cache, so they stay while anything is open.
        let mut rng = Rng::new(salt);
        let open: Vec<Ino> = self.open.values().map(|(inode, _)| inode.ino).collect();
        let mut inos: Vec<Ino> = self.known.keys().copied().collect();
        inos.sort();
        for ino in inos {
            let is_dir = self.overlay().inode(ino).is_some_and(|inode| inode.kind == Kind::Dir);
            if open.contains(&ino) || (is_dir && !open.is_empty()) || (!is_dir && rng.one_in(3)) {
                continue;
            }
            self.drop_inode(ino);
        }
    }

    fn problems(&mut self) -> Vec<String> {
        let report = self.check();
        report.problems.into_iter().chain(report.notes).collect()
    }
}
