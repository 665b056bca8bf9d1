//! What was applied leaves the overlay for good, once nobody can have it open any more.
//!
//! An applied file keeps its number and its record while it is mounted, so that open handles, watchers and git's index stay right. At the next mount the base
//! speaks for itself: also where somebody has changed it since, without the mount.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::restore::differs;
use super::view::{Node, View};
use super::{Overlay, Result, failed};
use crate::store::codec::{Content, InodeRecord};
use crate::store::{Batch, Sync, Table, keys};
use crate::types::{Ino, Kind, Name, Path};

impl Overlay {
    /// Takes out what was applied and not changed here since. Returns how many files and directories.
    ///
    /// # Errors
    /// When log or base cannot be read; nothing is taken out then.
    pub(crate) fn release(&self) -> Result<usize> {
        let mut marked: Vec<(Path, Ino, InodeRecord)> = Vec::new();
        for ino in self.marked()? {
            if let Some(record) = self.record(ino)?.filter(|r| r.attr.nlink > 0)
                && let Some(path) = record.origin.as_ref().map(|o| o.path.clone())
            {
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
            if node.ino == *ino && self.may_go(&view, &base, &node, record, &may)? {
                may.insert((parent.ino, name.into()));
                found.push((path, *ino, dir, name, parent));
            }
        }
        // Directories first: what is in one that stays is only seen in the base if that one shows it.
        let mut batch = Batch::new();
        let mut released: BTreeSet<Ino> = BTreeSet::new();
        for (path, ino, dir, name, parent) in found.iter().rev() {
            if !released.contains(&parent.ino) && parent.shows() != Some(dir) {
                continue;
            }
            let (timeline, epoch) = (self.timeline(), self.epoch());
            batch.put(Table::Tree, &keys::inode(timeline, *ino, epoch), &[]);
            batch.put(Table::Tree, &keys::touched_inode(timeline, epoch, *ino), path.as_bytes());
            if view.entry(parent.ino, name)?.is_some() {
                batch.put(Table::Tree, &keys::dentry(timeline, parent.ino, name, epoch), &[]);
                batch.put(Table::Tree, &keys::touched_name(timeline, epoch, parent.ino, name), path.as_bytes());
            }
            batch.delete(Table::Meta, &keys::applied(timeline, *ino));
            released.insert(*ino);
        }
        self.store.kv.commit(&batch, Sync::No).map_err(failed)?;
        Ok(released.len())
    }

    fn marked(&self) -> Result<Vec<Ino>> {
        let mut marked = Vec::new();
        let (from, to) = keys::all_applied(self.timeline());
        self.store
            .kv
            .scan(Table::Meta, &from, &to, &mut |key, _| {
                marked.extend(keys::last_number(key).map(Ino));
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
        node: &Node,
        record: &InodeRecord,
        released: &BTreeSet<(Ino, Name)>,
    ) -> Result<bool> {
        let Some(origin) = &record.origin else { return Ok(false) };
        if node.kind == Kind::Dir {
            let mut own = false;
            self.lineage()
                .dentries(&*self.store.kv, node.ino, &mut |name, _| own |= !released.contains(&(node.ino, name.into())))
                .map_err(failed)?;
            return Ok(!own);
        }
        if record.attr.nlink != 1 || (node.kind == Kind::File && record.content != Content::Base) {
            return Ok(false);
        }
        let is = base.find(&origin.path)?;
        let print = (origin.print.size, origin.print.mtime);
        let untouched = (record.attr.size, record.attr.mtime) == print;
        match is {
            Some(is) if is.kind == node.kind && (is.size, is.attr.mtime) == print => {
                Ok(!differs(view, Some(node), Some(&is))?)
            }
            // The base went on without the mount: then its word counts, unless the overlay has one too.
            Some(_) | None => Ok(untouched),
        }
    }
}
