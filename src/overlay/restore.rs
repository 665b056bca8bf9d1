//! Bringing single paths back to another state, whatever became of the rest of the tree.
//!
//! Unlike a rewind of everything, this has to fit what is there into what was: a file that lives on elsewhere comes back as a copy under a
//! number of its own, directories are made again where they are gone, and what was added since is removed only below the paths asked for.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::transit::{InodeChange, NameChange, Plan, record_of};
use super::view::{Node, View};
use super::walk::{Met, Part, Trie, walk};
use super::{Ctx, Overlay, Result, failed};
use crate::store::codec::{Content, Dentry, InodeRecord};
use crate::types::{Attr, Errno, Ino, Kind, Path, Range};

/// Paths at which two views differ: other bytes, other attributes, not there. Directories that only gained or lost names are left out, and
/// so are times and numbers.
///
/// # Errors
/// When log or base cannot be read.
pub fn differing(one: &View<'_>, two: &View<'_>) -> Result<Vec<Path>> {
    let (mut found, mut bad) = (Vec::new(), None);
    walk(one, two, &|_| false, &|_| true, &mut |path, met| match met {
        Met::Pair(old, new) => match differs(two, old.as_ref(), new.as_ref()) {
            Ok(true) => found.push(path),
            Ok(false) => {}
            Err(errno) => bad = Some(errno),
        },
        Met::CannotList(errno) | Met::CannotLook(errno) => bad = Some(errno),
    })?;
    found.sort();
    bad.map_or(Ok(found), Err)
}

/// Whether two nodes of one path are not the same. Reads bytes only where they may differ.
///
/// # Errors
/// When bytes, targets or attributes cannot be read.
pub fn differs(view: &View<'_>, old: Option<&Node>, new: Option<&Node>) -> Result<bool> {
    const PIECE: usize = 128 << 10;
    let (Some(old), Some(new)) = (old, new) else { return Ok(old.is_some() != new.is_some()) };
    let owner = |a: &Attr| (a.perm, a.uid, a.gid, a.rdev);
    if old.kind != new.kind || owner(&old.attr) != owner(&new.attr) {
        return Ok(true);
    }
    let given = |n: &Node| n.record.as_ref().is_some_and(|r| r.xattrs.is_some());
    if (given(old) || given(new)) && view.xattrs(old)? != view.xattrs(new)? {
        return Ok(true);
    }
    match old.kind {
        Kind::Symlink => return Ok(view.target(old)? != view.target(new)?),
        Kind::File if old.size != new.size => return Ok(true),
        Kind::File if old.ino == new.ino && old.content() == new.content() => return Ok(false),
        Kind::File => {}
        Kind::Dir | Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => return Ok(false),
    }
    let suspect = view.suspect(old, new)?.unwrap_or_else(|| vec![Range::new(0, old.size)]);
    let (left, right) = (view.open(old)?, view.open(new)?);
    let (mut a, mut b) = (vec![0; PIECE], vec![0; PIECE]);
    for range in suspect {
        let (mut at, end) = (range.offset, range.end().min(old.size));
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let (x, y) = (a.get_mut(..want).unwrap_or_default(), b.get_mut(..want).unwrap_or_default());
            let (got, other) = (left.read_at(at, x)?, right.read_at(at, y)?);
            if got != other || x.get(..got) != y.get(..got) {
                return Ok(true);
            }
            if got == 0 {
                break;
            }
            at += got as u64;
        }
    }
    Ok(false)
}

impl Overlay {
    /// What has to change so that these paths are as in `past`; the rest stays. The caller keeps all changes out, as for [`Overlay::plan`].
    ///
    /// # Errors
    /// When log or base cannot be read; `ENOTDIR` when something that is no directory is in the way above a path.
    pub fn plan_paths(&self, past: &View<'_>, paths: &[Path], ctx: &Ctx) -> Result<Plan> {
        let now = View::now(self);
        let candidates = now.candidates(past, &|_| false)?;
        let trie = Trie::of(&candidates);
        let mut restore = Restore {
            overlay: self,
            past,
            now: &now,
            ctx,
            plan: Plan::default(),
            made: FxHashMap::default(),
            dirs: BTreeMap::new(),
        };
        let mut paths: Vec<&Path> = paths.iter().collect();
        paths.sort();
        let mut done: Option<&Path> = None;
        for path in paths {
            let covered = |done: &Path| {
                path.as_bytes()
                    .strip_prefix(done.as_bytes())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/") || done.as_bytes().is_empty())
            };
            if done.is_some_and(covered) {
                continue;
            }
            done = Some(path);
            restore.path(path, &trie)?;
        }
        restore.finish_dirs()?;
        let mut plan = restore.plan;
        plan.inodes.retain(|&ino, change| match now.inode(ino) {
            Ok(is) => is != change.then,
            Err(_) => true,
        });
        plan.names.retain(|_, change| change.now != change.then);
        self.renumber(&mut plan, &[past, &now])?;
        Ok(plan)
    }
}

/// A directory of the present that gains or loses entries.
#[derive(Clone)]
struct Parent {
    ino: Ino,
    path: Path,
    /// Where its base entries are, if it shows any.
    shows: Option<Path>,
}

impl Parent {
    fn of(node: &Node, path: Path) -> Parent {
        Parent { ino: node.ino, path, shows: node.shows().cloned() }
    }
}

struct Restore<'r, 'a> {
    overlay: &'a Overlay,
    past: &'r View<'a>,
    now: &'r View<'a>,
    ctx: &'r Ctx,
    plan: Plan,
    /// Inodes of the past that were brought back, and under which number.
    made: FxHashMap<Ino, Ino>,
    /// Directories whose entries change: how many subdirectories more, and their path.
    dirs: BTreeMap<Ino, (i32, Path)>,
}

impl Restore<'_, '_> {
    fn path(&mut self, path: &Path, trie: &Trie) -> Result<()> {
        let Some((dir, name)) = path.split_last() else {
            let (cur, old) = (self.now.root()?, self.past.root()?);
            return self.same_dir(&cur, &old, path, Part::These(trie));
        };
        let old = self.past.find(path)?;
        let cur = self.now.find(path)?;
        if cur.is_none() && old.is_none() {
            return Ok(());
        }
        let parent = self.parent(&dir)?;
        let mut part = Part::These(trie);
        for name in path.components() {
            part = part.below(name);
        }
        let implicit = self.is_implicit(&dir, parent.ino, name)?;
        self.sync(&parent, name, cur, old, implicit, part)
    }

    /// Whether in the past the base showed that name, in the directory that is there now.
    fn is_implicit(&self, dir: &Path, present: Ino, name: &[u8]) -> Result<bool> {
        let Some(was) = self.past.find(dir)? else { return Ok(false) };
        Ok(was.ino == present && self.past_dentry(was.ino, name)?.is_none())
    }

    fn past_dentry(&self, dir: Ino, name: &[u8]) -> Result<Option<Dentry>> {
        self.past.lineage().dentry(&*self.overlay.store.kv, dir, name).map_err(failed)
    }

    /// The directory of the present at a path, made again if it is gone.
    fn parent(&mut self, path: &Path) -> Result<Parent> {
        if let Some(node) = self.now.find(path)? {
            return match node.kind {
                Kind::Dir => Ok(Parent::of(&node, path.clone())),
                _ => Err(Errno::ENOTDIR),
            };
        }
        let (above, name) = path.split_last().ok_or(Errno::ENOENT)?;
        let old = self.past.find(path)?.ok_or(Errno::ENOENT)?;
        let above = self.parent(&above)?;
        if let Some(Some(Dentry::Entry { ino, .. })) = self.plan.names.get(&(above.ino, name.into())).map(|n| n.then) {
            // Made for another path before.
            let shows = self.record(ino)?.filter(|r| !r.opaque).and_then(|r| r.origin).map(|o| o.path);
            return Ok(Parent { ino, path: path.clone(), shows });
        }
        self.empty_dir(&above, name, &old)
    }

    /// The record as far as this plan has come.
    fn record(&self, ino: Ino) -> Result<Option<InodeRecord>> {
        match self.plan.inodes.get(&ino) {
            Some(change) => Ok(change.then.clone()),
            None => self.now.inode(ino),
        }
    }

    /// Whether the present has an inode, with this plan as far as it has come.
    fn lives(&self, ino: Ino) -> Result<bool> {
        Ok(match self.record(ino)? {
            Some(record) => record.attr.nlink > 0,
            // A file of the base that nothing touched, or one that was born and is gone.
            None => !ino.is_allocated(),
        })
    }

    fn put(&mut self, ino: Ino, path: &Path, then: Option<InodeRecord>) {
        self.plan.inodes.insert(ino, InodeChange { path: path.clone(), then });
    }

    fn name(&mut self, parent: &Parent, name: &[u8], then: Option<Dentry>) -> Result<()> {
        let key = (parent.ino, crate::types::Name::from(name));
        let now = match self.plan.names.get(&key) {
            Some(change) => change.now,
            None => self.now.lineage().dentry(&*self.overlay.store.kv, parent.ino, name).map_err(failed)?,
        };
        self.plan.names.insert(key, NameChange { path: parent.path.join(name), now, then });
        self.dirs.entry(parent.ino).or_insert((0, parent.path.clone()));
        Ok(())
    }

    /// Makes a name stand for nothing.
    fn no_name(&mut self, parent: &Parent, name: &[u8]) -> Result<()> {
        let hidden = match &parent.shows {
            Some(shown) => match self.overlay.base.stat(shown, name) {
                Ok(stat) => Some(Dentry::Whiteout { hid: self.overlay.number(&stat)? }),
                Err(rustix::io::Errno::NOENT) => None,
                Err(e) => return Err(e.into()),
            },
            None => None,
        };
        self.name(parent, name, hidden)
    }

    fn subdirs(&mut self, parent: &Parent, change: i32) {
        self.dirs.entry(parent.ino).or_insert((0, parent.path.clone())).0 += change;
    }

    /// Makes one path as it was.
    fn sync(
        &mut self,
        parent: &Parent,
        name: &[u8],
        cur: Option<Node>,
        old: Option<Node>,
        implicit: bool,
        part: Part<'_>,
    ) -> Result<()> {
        match (cur, old) {
            (None, None) => Ok(()),
            (Some(cur), None) => self.remove(parent, name, &cur),
            (None, Some(old)) => self.add(parent, name, &old, implicit),
            (Some(cur), Some(old)) if cur.kind == Kind::Dir && old.kind == Kind::Dir => {
                self.same_dir(&cur, &old, &parent.path.join(name), part)
            }
            (Some(cur), Some(old)) if cur.ino == old.ino => {
                let then = match &old.record {
                    Some(record) => {
                        let mut record = (**record).clone();
                        record.attr.nlink = cur.attr.nlink;
                        Some(record)
                    }
                    None if cur.attr.nlink == old.attr.nlink && self.record_is_implied(&cur) => None,
                    None => {
                        let mut record = self.of_base(&old)?;
                        record.attr.nlink = cur.attr.nlink;
                        Some(record)
                    }
                };
                self.put(cur.ino, &parent.path.join(name), then);
                Ok(())
            }
            (Some(cur), Some(old)) => {
                self.remove(parent, name, &cur)?;
                self.add(parent, name, &old, implicit)
            }
        }
    }

    /// Whether an inode needs no record to be found: no entry of the overlay leads to it.
    fn record_is_implied(&self, cur: &Node) -> bool {
        cur.record.as_ref().is_none_or(|r| r.origin.is_some() && !cur.ino.is_allocated() && r.attr.nlink == 1)
            && !self.overlay.has_entry(self.now, cur)
    }

    fn of_base(&self, node: &Node) -> Result<InodeRecord> {
        let path = node.origin_path().ok_or(Errno::ESTALE)?;
        let stat = if node.ino == Ino::ROOT { self.overlay.base.root()? } else { self.overlay.base.stat_path(path)? };
        Ok(record_of(node.ino, &stat, path))
    }

    /// A directory that is there: its attributes, and what is in it.
    fn same_dir(&mut self, cur: &Node, old: &Node, path: &Path, part: Part<'_>) -> Result<()> {
        let owner = |a: &Attr| (a.perm, a.uid, a.gid);
        let (now_xattrs, old_xattrs) = (self.now.xattrs(cur)?, self.past.xattrs(old)?);
        if owner(&cur.attr) != owner(&old.attr) || now_xattrs != old_xattrs {
            let mut record = match self.record(cur.ino)? {
                Some(record) => record,
                None => self.of_base(cur)?,
            };
            (record.attr.perm, record.attr.uid, record.attr.gid) = owner(&old.attr);
            record.attr.ctime = self.ctx.now;
            record.xattrs = Some(old_xattrs);
            self.put(cur.ino, path, Some(record));
        }
        let part = part.of(Some(old), Some(cur));
        let parent = Parent::of(cur, path.clone());
        for name in part.names((self.past, Some(old)), (self.now, Some(cur)))? {
            let (now, then) = (self.now.child(cur, &name)?, self.past.child(old, &name)?);
            let implicit = cur.ino == old.ino && self.past_dentry(old.ino, &name)?.is_none();
            self.sync(&parent, &name, now, then, implicit, part.below(&name))?;
        }
        Ok(())
    }

    /// Takes a name away, and all below it.
    fn remove(&mut self, parent: &Parent, name: &[u8], cur: &Node) -> Result<()> {
        let path = parent.path.join(name);
        if cur.kind == Kind::Dir {
            let inside = Parent::of(cur, path.clone());
            for child in self.now.names(cur)? {
                if let Some(node) = self.now.child(cur, &child)? {
                    self.remove(&inside, &child, &node)?;
                }
            }
            self.dirs.remove(&cur.ino);
            self.subdirs(parent, -1);
        }
        self.no_name(parent, name)?;
        let mut record = match self.record(cur.ino)? {
            Some(record) => record,
            None => self.of_base(cur)?,
        };
        record.attr.nlink = if cur.kind == Kind::Dir { 0 } else { record.attr.nlink.saturating_sub(1) };
        record.attr.ctime = self.ctx.now;
        let then = if record.attr.nlink > 0 {
            Some(record)
        } else if record.origin.is_some() {
            let content = if cur.kind == Kind::File { Content::Base } else { Content::None };
            Some(InodeRecord { content, xattrs: None, ..record })
        } else {
            None
        };
        self.put(cur.ino, &path, then);
        Ok(())
    }

    /// The record and the number under which an inode of the past comes back.
    fn revive(&mut self, old: &Node) -> Result<(Ino, InodeRecord)> {
        let mut record = match &old.record {
            Some(record) => (**record).clone(),
            None => self.of_base(old)?,
        };
        let ino = if self.lives(old.ino)? { self.overlay.allocate()? } else { old.ino };
        record.attr.ino = ino;
        record.attr.nlink = 1;
        Ok((ino, record))
    }

    /// An empty directory with the attributes that it had.
    fn empty_dir(&mut self, parent: &Parent, name: &[u8], old: &Node) -> Result<Parent> {
        let path = parent.path.join(name);
        let (ino, mut record) = self.revive(old)?;
        record.attr.nlink = 2;
        if ino != old.ino {
            record = self.detached(old, record)?;
        }
        let shows = record.origin.as_ref().filter(|_| !record.opaque).map(|o| o.path.clone());
        let made = Parent { ino, path: path.clone(), shows: shows.clone() };
        self.put(ino, &path, Some(record));
        self.name(parent, name, Some(Dentry::Entry { ino, kind: Kind::Dir }))?;
        self.subdirs(parent, 1);
        if let Some(shown) = shows {
            // Nothing of what the base has there comes back by itself.
            for entry in self.overlay.base.list(&shown)? {
                self.no_name(&made, &entry.name)?;
            }
        }
        Ok(made)
    }

    /// A directory that is a copy: it shows nothing of the base.
    fn detached(&self, old: &Node, mut record: InodeRecord) -> Result<InodeRecord> {
        record.xattrs = Some(self.past.xattrs(old)?);
        record.origin = None;
        record.opaque = false;
        Ok(record)
    }

    /// Brings a name of the past back, and all that was below it.
    fn add(&mut self, parent: &Parent, name: &[u8], old: &Node, implicit: bool) -> Result<()> {
        let path = parent.path.join(name);
        if let Some(&ino) = self.made.get(&old.ino)
            && let Some(mut record) = self.record(ino)?
        {
            // One more name of a file that has come back already.
            record.attr.nlink += 1;
            self.put(ino, &path, Some(record));
            return self.name(parent, name, Some(Dentry::Entry { ino, kind: old.kind }));
        }
        let (ino, mut record) = self.revive(old)?;
        let copied = ino != old.ino;
        if old.kind != Kind::Dir {
            self.made.insert(old.ino, ino);
            let is_base = old.record.is_none() && old.attr.nlink == 1;
            let then = if is_base && implicit && !copied { None } else { Some(record) };
            let entry = if implicit && !copied { None } else { Some(Dentry::Entry { ino, kind: old.kind }) };
            self.put(ino, &path, then);
            return self.name(parent, name, entry);
        }
        record.attr.nlink = old.attr.nlink;
        if copied {
            record = self.detached(old, record)?;
        }
        let shows = record.origin.as_ref().filter(|_| !record.opaque).map(|o| o.path.clone());
        let inside = Parent { ino, path: path.clone(), shows };
        self.put(ino, &path, Some(record));
        let entry = if implicit && !copied { None } else { Some(Dentry::Entry { ino, kind: Kind::Dir }) };
        self.name(parent, name, entry)?;
        self.subdirs(parent, 1);
        let mut names = self.past.names(old)?;
        if !copied {
            let kv = &*self.overlay.store.kv;
            self.now.lineage().dentries(kv, ino, &mut |name, _| names.push(name.into())).map_err(failed)?;
            names.sort();
            names.dedup();
        }
        for child in names {
            let implicit = !copied && self.past_dentry(old.ino, &child)?.is_none();
            match self.past.child(old, &child)? {
                Some(node) => self.add(&inside, &child, &node, implicit)?,
                None => self.no_name(&inside, &child)?,
            }
        }
        // Counted by the record already.
        self.dirs.remove(&ino);
        Ok(())
    }

    /// Times and link counts of directories whose entries change.
    fn finish_dirs(&mut self) -> Result<()> {
        for (ino, (change, path)) in std::mem::take(&mut self.dirs) {
            let mut record = match self.record(ino)? {
                Some(record) => record,
                None if ino == Ino::ROOT => {
                    let stat = self.overlay.base.root()?;
                    record_of(ino, &stat, &Path::root())
                }
                None => {
                    let node = self.now.find(&path)?.ok_or(Errno::ESTALE)?;
                    self.of_base(&node)?
                }
            };
            if record.attr.nlink == 0 {
                continue;
            }
            record.attr.nlink = super::ops::links(&record.attr, change);
            record.attr.mtime = self.ctx.now;
            record.attr.ctime = self.ctx.now;
            self.put(ino, &path, Some(record));
        }
        Ok(())
    }
}

impl Overlay {
    /// Whether an entry of the overlay, and not the base, leads to a node.
    fn has_entry(&self, view: &View<'_>, node: &Node) -> bool {
        let Some(origin) = node.origin_path() else { return true };
        let found = view.find(origin).ok().flatten();
        !found.is_some_and(|f| f.ino == node.ino) || {
            let Some((dir, name)) = origin.split_last() else { return false };
            let Ok(Some(dir)) = view.find(&dir) else { return true };
            !matches!(view.lineage().dentry(&*self.store.kv, dir.ino, name), Ok(None))
        }
    }
}
