//! What was applied leaves the overlay for good, once nobody can have it open any more.
//!
//! An applied file keeps its number and its record while it is mounted, so that open handles, watchers and git's index stay right. At the next mount the base
//! speaks for itself: also where somebody has changed it since, without the mount.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::restore::differs;
use super::view::{Node, View};
use super::{Overlay, Result, failed};
use crate::store::codec::{self, Content, Dentry, InodeRecord};
use crate::store::{Batch, Sync, Table, keys};
use crate::types::{Attr, Ino, Kind, Name, Path};

impl Overlay {
    /// Takes out what was applied and not changed here since. Returns how many files and directories.
    ///
    /// # Errors
    /// When log or base cannot be read; nothing is taken out then.
    pub(crate) fn release(&self) -> Result<usize> {
        let mut marked: Vec<(Path, Ino, InodeRecord)> = Vec::new();
        for (ino, path) in self.marked()? {
            if let Some(record) = self.record(ino)?.filter(|r| r.attr.nlink > 0) {
                marked.push((path, ino, record));
            }
        }
        // What is in a directory before the directory.
        marked.sort_by(|a, b| b.0.cmp(&a.0));
        let (view, base) = (View::now(self), View::base(self));
        let mut may: BTreeSet<(Ino, Name)> = BTreeSet::new();
        let mut found = Vec::new();
        for (path, ino, record) in &marked {
            let Some((dir, name)) = path.split_last() else { continue };
            let (Some(node), Some(parent)) = (view.find(path)?, view.find(&dir)?) else { continue };
            if node.ino == *ino && self.may_go(&view, &base, path, &node, record, &may)? {
                may.insert((parent.ino, name.into()));
                found.push(Found { path, ino: *ino, is_dir: node.kind == Kind::Dir, dir, name, parent });
            }
        }
        // Directories first: what is in one that stays is only seen in the base if that one shows it.
        found.reverse();
        let mut gone: BTreeSet<Ino> = found.iter().map(|f| f.ino).collect();
        let mut inside: BTreeMap<Ino, Vec<Ino>> = BTreeMap::new();
        for one in &found {
            inside.entry(one.parent.ino).or_default().push(one.ino);
        }
        loop {
            let before = gone.len();
            for one in &found {
                let whole = inside.get(&one.ino).into_iter().flatten().all(|ino| gone.contains(ino));
                if gone.contains(&one.ino) && !(whole && self.can_go(&base, one, &gone)?) {
                    gone.remove(&one.ino);
                }
            }
            if gone.len() == before {
                break;
            }
        }
        let mut batch = Batch::new();
        let (timeline, epoch) = (self.timeline(), self.epoch());
        for one in found.iter().filter(|f| gone.contains(&f.ino)) {
            let Found { path, ino, parent, name, .. } = one;
            let mut value = Vec::new();
            if let Some(covered) = self.covered(&view, &base, *ino, path)? {
                codec::put_inode(&mut value, &covered);
            }
            batch.put(Table::Tree, &keys::inode(timeline, *ino, epoch), &value);
            batch.put(Table::Tree, &keys::touched_inode(timeline, epoch, *ino), path.as_bytes());
            let mut names = vec![(parent.ino, Name::from(*name), (*path).clone())];
            // What takes its place was covered: it may say again what it has.
            let takes = base.find(path)?.map(|node| node.ino).filter(|takes| takes != ino);
            if let Some(takes) = takes
                && self.record(takes)?.is_some()
            {
                batch.put(Table::Tree, &keys::inode(timeline, takes, epoch), &[]);
                batch.put(Table::Tree, &keys::touched_inode(timeline, epoch, takes), path.as_bytes());
            }
            for dir in [Some(*ino), takes].into_iter().flatten().filter(|_| one.is_dir) {
                self.lineage()
                    .dentries(&*self.store.kv, dir, &mut |name, _| names.push((dir, name.into(), path.join(name))))
                    .map_err(failed)?;
            }
            for (dir, name, path) in names {
                if view.entry(dir, &name)?.is_some() {
                    batch.put(Table::Tree, &keys::dentry(timeline, dir, &name, epoch), &[]);
                    batch.put(Table::Tree, &keys::touched_name(timeline, epoch, dir, &name), path.as_bytes());
                }
            }
            batch.delete(Table::Meta, &keys::applied(timeline, *ino));
        }
        self.store.kv.commit(&batch, Sync::No).map_err(failed)?;
        Ok(gone.len())
    }

    /// What is noted of a directory of the base that is still where it was, with something else over it, when it goes from its new place.
    fn covered(&self, view: &View<'_>, base: &View<'_>, ino: Ino, path: &Path) -> Result<Option<InodeRecord>> {
        let Some(mut record) = self.record(ino)? else { return Ok(None) };
        let Some(origin) = record.origin.as_ref().filter(|o| o.path != *path) else { return Ok(None) };
        let is_there = base.find(&origin.path)?.is_some_and(|node| node.base == Some((origin.dev, origin.ino)));
        let shows = view.find(&origin.path)?.is_some_and(|node| node.ino == ino);
        record.attr.nlink = 0;
        Ok((is_there && !shows).then_some(record))
    }

    /// Whether the base shows, where something goes, what takes its place, if all of `gone` goes.
    fn can_go(&self, base: &View<'_>, one: &Found<'_>, gone: &BTreeSet<Ino>) -> Result<bool> {
        if !gone.contains(&one.parent.ino) && one.parent.shows() != Some(&one.dir) {
            return Ok(false);
        }
        // A directory of the base whose number is that of another one here cannot show itself.
        let Some(takes) = base.find(one.path)?.map(|node| node.ino) else { return Ok(true) };
        let used = takes != one.ino && !gone.contains(&takes) && self.record(takes)?.is_some_and(|r| r.attr.nlink > 0);
        Ok(!used)
    }

    /// With the path at which each was applied.
    fn marked(&self) -> Result<Vec<(Ino, Path)>> {
        let mut marked = Vec::new();
        let (from, to) = keys::all_applied(self.timeline());
        self.store
            .kv
            .scan(Table::Meta, &from, &to, &mut |key, path| {
                marked.extend(keys::last_number(key).map(|n| (Ino(n), Path::new(path))));
                ControlFlow::Continue(())
            })
            .map_err(failed)?;
        Ok(marked)
    }

    /// Whether the overlay has nothing of its own about an applied file.
    fn may_go(
        &self,
        view: &View<'_>,
        base: &View<'_>,
        path: &Path,
        node: &Node,
        record: &InodeRecord,
        released: &BTreeSet<(Ino, Name)>,
    ) -> Result<bool> {
        if node.kind == Kind::Dir {
            // Where the base has none, this one would go from view.
            let Some(is) = base.find(path)?.filter(|n| n.kind == Kind::Dir) else { return Ok(false) };
            // As the base's was then, if that was noted: somebody may have changed that one since.
            let covered = self.record(is.ino)?.filter(|r| is.ino != node.ino && r.attr.nlink == 0);
            let then = covered.map_or(is.attr, |r| r.attr);
            let owner = |a: &Attr| (a.perm, a.uid, a.gid);
            if owner(&then) != owner(&node.attr) || view.xattrs(node)? != base.xattrs(&is)? {
                return Ok(false);
            }
            let mut names: Vec<(Name, bool)> = Vec::new();
            self.lineage()
                .dentries(&*self.store.kv, node.ino, &mut |name, dentry| {
                    names.push((name.into(), matches!(dentry, Dentry::Entry { .. })));
                })
                .map_err(failed)?;
            for (name, is_entry) in names {
                // One that is covered must not come to light.
                let goes = match is_entry {
                    true => released.contains(&(node.ino, name)),
                    false => base.child(&is, &name)?.is_none(),
                };
                if !goes {
                    return Ok(false);
                }
            }
            // What was taken out of one that was made here leaves no trace in it.
            for name in base.names(&is)? {
                if view.child(node, &name)?.is_none() {
                    return Ok(false);
                }
            }
            // One that shows another directory of the base must have nothing from there.
            let elsewhere = node.shows().is_some_and(|shows| shows != path);
            return Ok(!elsewhere || view.names(node)?.iter().all(|name| released.contains(&(node.ino, name.clone()))));
        }
        let Some(origin) = &record.origin else { return Ok(false) };
        if record.attr.nlink != 1 || (node.kind == Kind::File && record.content != Content::Base) {
            return Ok(false);
        }
        let is = base.find(&origin.path)?;
        let print = (origin.print.size, origin.print.mtime);
        // Whoever changes anything of it changes its ctime.
        let untouched = (record.attr.size, record.attr.mtime) == print && record.attr.ctime <= origin.print.ctime;
        match is {
            Some(is) if is.kind == node.kind && (is.size, is.attr.mtime) == print => {
                Ok(!differs(view, Some(node), Some(&is))?)
            }
            // The base went on without the mount: then its word counts, unless the overlay has one too.
            Some(_) | None => Ok(untouched),
        }
    }
}

/// What may go, and where it is.
struct Found<'f> {
    path: &'f Path,
    ino: Ino,
    is_dir: bool,
    dir: Path,
    name: &'f [u8],
    parent: Node,
}
