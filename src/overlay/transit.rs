//! Going to another state of the tree at once: first a plan, then one batch, then the inodes in memory.
//!
//! The past is never changed: the target's states are put again, into the open epoch. A file that is open and whose bytes would change goes on
//! under a new number, so who has it open keeps the bytes that it had.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::inode::{self, Bytes, State, Version};
use super::places::{Place, Places};
use super::relocate::Noted;
use super::tree::{load_version, print};
use super::view::View;
use super::{Ctx, Inode, Overlay, Result, failed};
use crate::base::BaseStat;
use crate::store::codec::{self, Content, Dentry, InodeRecord, Origin, VersionRecord};
use crate::store::lineage::{Lineage, Touched};
use crate::store::{Batch, Table, keys};
use crate::types::{At, Epoch, Errno, Ino, Kind, Name, Note, Path, VersionId};

/// What will be different.
#[derive(Default, Debug)]
pub struct Plan {
    pub(super) inodes: BTreeMap<Ino, InodeChange>,
    pub(super) names: BTreeMap<(Ino, Name), NameChange>,
    /// Versions that are new with it; their bytes are written already, and are all their own.
    pub(super) versions: BTreeMap<VersionId, VersionRecord>,
    /// Files that are open: who has them open keeps the old number, and the old bytes.
    pub kept: Vec<Kept>,
}

#[derive(Debug, Clone)]
pub(super) struct InodeChange {
    pub path: Path,
    pub then: Option<InodeRecord>,
}

#[derive(Debug, Clone)]
pub(super) struct NameChange {
    pub path: Path,
    pub now: Option<Dentry>,
    pub then: Option<Dentry>,
}

/// A file that goes on under a new number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub old: Ino,
    pub new: Ino,
    pub path: Path,
}

/// What the kernel has to forget.
#[derive(Default, Debug, Clone)]
pub struct Stale {
    /// Names, with the number of the file that had it where that is known and it lost it.
    pub names: Vec<(Ino, Name, Option<Ino>)>,
    pub inodes: Vec<Ino>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty() && self.names.is_empty()
    }

    /// Adds what it changes.
    pub fn touched(&self, inodes: &mut BTreeMap<Ino, Path>, names: &mut BTreeMap<(Ino, Name), Path>) {
        inodes.extend(self.inodes.iter().map(|(&ino, change)| (ino, change.path.clone())));
        names.extend(self.names.iter().map(|(key, change)| (key.clone(), change.path.clone())));
    }

    /// Whether an inode will have no name any more.
    fn kills(&self, ino: Ino) -> bool {
        self.inodes.get(&ino).is_some_and(|change| match &change.then {
            Some(record) => record.attr.nlink == 0,
            None => ino.is_allocated(),
        })
    }

    /// Paths of what changes, in order; a directory that only gains or loses names is not among them.
    pub fn paths(&self) -> Vec<Path> {
        let mut paths: Vec<Path> = self.names.values().map(|n| n.path.clone()).collect();
        let is_dir = |i: &&InodeChange| i.then.as_ref().is_some_and(|r| r.attr.kind == Kind::Dir);
        paths.extend(self.inodes.values().filter(|i| !is_dir(i)).map(|i| i.path.clone()));
        // Of a file with several names the index may not know any.
        paths.retain(|path| *path != Path::root());
        paths.sort();
        paths.dedup();
        paths
    }
}

impl Overlay {
    /// What has to change so that the mount shows the end of `target`. The caller keeps all changes out from here to the end of
    /// [`Overlay::carry_out`].
    ///
    /// # Errors
    /// When log or base cannot be read.
    pub fn plan(&self, target: &Arc<Lineage>) -> Result<Plan> {
        let (kv, now) = (&*self.store.kv, self.lineage());
        let mut plan = Plan::default();
        // Nothing changes either state meanwhile.
        let view = View::new(self, target.clone()).remembering();
        let (mut inodes, mut names) = (Noted::default(), BTreeMap::default());
        Lineage::touched(kv, &now, target, &mut |touched| match touched {
            Touched::Inode { ino, path } => inodes.entry(ino).or_default().push(path),
            Touched::Name { dir, name, path } => {
                names.insert((dir, name), path);
            }
        })
        .map_err(failed)?;
        for ((dir, name), path) in names {
            let (was, then) = (now.dentry(kv, dir, &name), target.dentry(kv, dir, &name));
            let (was, then) = (was.map_err(failed)?, then.map_err(failed)?);
            if was != then {
                plan.names.insert((dir, name), NameChange { path, now: was, then });
            }
        }
        let numbers: Vec<Ino> = inodes.keys().copied().collect();
        let present = View::now(self).remembering();
        view.learn_all(&numbers)?;
        present.learn_all(&numbers)?;
        for (&ino, noted) in &inodes {
            let (was, then) = (present.inode(ino)?, view.inode(ino)?);
            if was != then {
                let path = noted.last().cloned().unwrap_or_default();
                plan.inodes.insert(ino, InodeChange { path, then });
            }
        }
        self.relocate(&mut plan, &inodes, &view)?;
        let places = Places::new(&view);
        self.cover(&mut plan, &present, &view, &places)?;
        self.renumber(&mut plan, &places)?;
        Ok(plan)
    }

    /// Files of the base that came there after the target, by an apply, and that it covers: as after unlink they get a record without a name. What is
    /// said of them later about today would otherwise hold for the target as well.
    fn cover(&self, plan: &mut Plan, now: &View<'_>, target: &View<'_>, places: &Places<'_, '_>) -> Result<()> {
        let mut covered = Vec::new();
        for ((dir, name), change) in &plan.names {
            let to = match (change.now, change.then) {
                (None, Some(Dentry::Whiteout { hid })) if plan.inodes.contains_key(&hid) => continue,
                (None, Some(Dentry::Whiteout { .. })) => None,
                (None, Some(Dentry::Entry { ino, .. })) => Some(ino),
                _ => continue,
            };
            let record = match now.inode(*dir)? {
                Some(record) => Some(record),
                None => target.inode(*dir)?,
            };
            let Some(origin) = record.filter(|r| r.attr.nlink > 0 && !r.opaque).and_then(|r| r.origin) else {
                continue;
            };
            let Some(stat) = super::view::present(self.base.stat(&origin.path, name))? else { continue };
            let ino = target.number_of(stat.dev, stat.attr.ino, stat.born)?;
            if to == Some(ino) || plan.inodes.contains_key(&ino) || target.inode(ino)?.is_some() {
                continue;
            }
            let path = origin.path.join(name);
            let several = stat.attr.nlink > 1 && stat.attr.kind != Kind::Dir;
            if !several || places.names(ino, Some(&path))?.is_empty() {
                let mut record = record_of(ino, &stat, &path);
                record.attr.nlink = 0;
                covered.push((ino, InodeChange { path: change.path.clone(), then: Some(record) }));
            }
        }
        plan.inodes.extend(covered);
        Ok(())
    }

    /// Gives files that are open and would change their bytes a new number.
    /// `places` tells what names they have, where the plan does not.
    pub(super) fn renumber(&self, plan: &mut Plan, places: &Places<'_, '_>) -> Result<()> {
        let open: Vec<Ino> = plan.inodes.keys().copied().filter(|&ino| self.is_open_file(ino)).collect();
        for ino in open {
            let (Some(inode), Some(change)) = (self.inode(ino), plan.inodes.get(&ino).cloned()) else { continue };
            let Some(record) = self.restored(&inode, change.then.as_ref())? else { continue };
            if self.has_content(&inode, &record) {
                continue;
            }
            let names = self.names_in(plan, places, ino, record.origin.as_ref().map(|o| &o.path))?;
            if names.is_empty() {
                // It has names outside the repository only: nobody will see it but who has it open, so it stays as it is.
                plan.inodes.remove(&ino);
                continue;
            }
            let path = names.first().map_or_else(Path::root, |(_, path)| path.clone());
            let new = self.allocate()?;
            let mut record = record;
            record.attr.ino = new;
            record.attr.nlink = names.len() as u32;
            for (Place { dir, name, base_dir }, path) in names {
                self.record_dir(plan, dir, &path, base_dir.as_ref())?;
                let now = match plan.names.get(&(dir, name.clone())) {
                    Some(change) => change.now,
                    None => self.lineage().dentry(&*self.store.kv, dir, &name).map_err(failed)?,
                };
                let then = Some(Dentry::Entry { ino: new, kind: Kind::File });
                plan.names.insert((dir, name), NameChange { path, now, then });
            }
            let gone = record.origin.is_some().then(|| {
                let mut gone = record.clone();
                gone.attr.ino = ino;
                gone.attr.nlink = 0;
                gone.content = Content::Base;
                gone.xattrs = None;
                gone
            });
            plan.inodes.insert(ino, InodeChange { path: path.clone(), then: gone });
            plan.inodes.insert(new, InodeChange { path: path.clone(), then: Some(record) });
            plan.kept.push(Kept { old: ino, new, path });
        }
        Ok(())
    }

    fn is_open_file(&self, ino: Ino) -> bool {
        self.inodes.get(ino).is_some_and(|inode| inode.kind == Kind::File && inode.is_open())
    }

    /// The record that an inode will have, made up where it will be a file of the base as it is; `None` when it will have no name.
    fn restored(&self, inode: &Inode, then: Option<&InodeRecord>) -> Result<Option<InodeRecord>> {
        if let Some(record) = then {
            return Ok((record.attr.nlink > 0).then(|| record.clone()));
        }
        let origin = inode.state.read().origin.as_deref().cloned();
        match origin {
            Some(origin) => Ok(self.base_record(inode.ino, &origin)?),
            None => Ok(None),
        }
    }

    /// What the record of a base file would be that nothing ever changed.
    fn base_record(&self, ino: Ino, origin: &Origin) -> Result<Option<InodeRecord>> {
        let looked = if ino == Ino::ROOT { self.base.root() } else { self.base.stat_path(&origin.path) };
        let stat = match looked {
            // One that a rewind gave a number of its own is no base file any more.
            Ok(stat) if ino == Ino::ROOT || (stat.attr.ino.0 == origin.ino && self.number(&stat)? == ino) => stat,
            Ok(_) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                return Ok(None);
            }
            Err(e) => return Err(e.into()),
        };
        Ok(Some(record_of(ino, &stat, &origin.path)))
    }

    /// Whether an inode in memory has the bytes that a record tells of.
    fn has_content(&self, inode: &Inode, record: &InodeRecord) -> bool {
        let state = inode.state.read();
        match (&state.content, record.content) {
            (Bytes::None, Content::None) => true,
            (Bytes::Base, Content::Base) => true,
            (Bytes::Version(v), Content::Version { id, stamp }) => {
                v.id == id && v.stamp == stamp && state.attr.size == record.attr.size
            }
            _ => false,
        }
    }

    /// The names that an inode will have.
    fn names_in(
        &self,
        plan: &Plan,
        places: &Places<'_, '_>,
        ino: Ino,
        base_path: Option<&Path>,
    ) -> Result<Vec<(Place, Path)>> {
        let mut names = Vec::new();
        for ((dir, name), change) in &plan.names {
            let base_dir = match change.then {
                Some(Dentry::Entry { ino: to, .. }) if to == ino => None,
                Some(Dentry::Entry { .. } | Dentry::Whiteout { .. }) => continue,
                // Then the base decides, in a directory that shows it.
                None => match self.plan_shows(plan, *dir, name)? {
                    Some((shown, base_dir)) if shown == ino => Some(base_dir),
                    Some(_) | None => continue,
                },
            };
            names.push((Place { dir: *dir, name: name.clone(), base_dir }, change.path.clone()));
        }
        for place in places.names(ino, base_path)? {
            if !plan.names.contains_key(&(place.dir, place.name.clone()))
                && let Some(path) = places.path_at(&place)?
            {
                names.push((place, path));
            }
        }
        Ok(names)
    }

    /// The number of what the base has under a name of a directory as it will be, and where the directory is in the base.
    pub(super) fn plan_shows(&self, plan: &Plan, dir: Ino, name: &[u8]) -> Result<Option<(Ino, Path)>> {
        // One that will be as in the base shows what its record, which it has until then, names.
        let record = match plan.inodes.get(&dir).and_then(|change| change.then.clone()) {
            Some(record) if record.attr.nlink == 0 => None,
            Some(record) => Some(record),
            None => self.record(dir)?,
        };
        let Some(shown) = record.filter(|r| !r.opaque).and_then(|r| r.origin).map(|o| o.path) else { return Ok(None) };
        match super::view::present(self.base.stat(&shown, name))? {
            Some(stat) => Ok(Some((self.number(&stat)?, shown))),
            None => Ok(None),
        }
    }

    /// A directory that gets an entry needs a record, or nobody looks for its entries.
    fn record_dir(&self, plan: &mut Plan, dir: Ino, below: &Path, base_path: Option<&Path>) -> Result<()> {
        let has = match plan.inodes.get(&dir) {
            Some(change) => change.then.as_ref().is_some_and(|r| r.attr.nlink > 0),
            None => self.record(dir)?.is_some_and(|r| r.attr.nlink > 0),
        };
        if has {
            return Ok(());
        }
        let path = below.split_last().map_or_else(Path::root, |(dir, _)| dir);
        let origin = if dir == Ino::ROOT { Path::root() } else { base_path.cloned().ok_or(Errno::ESTALE)? };
        let stat = self.base.stat_path(&origin)?;
        if dir != Ino::ROOT && self.number(&stat)? != dir {
            return Err(Errno::ESTALE);
        }
        plan.inodes.insert(dir, InodeChange { path, then: Some(record_of(dir, &stat, &origin)) });
        Ok(())
    }

    /// After something else than an operation of this overlay changed states in the log: makes these inodes and names as the log has them.
    /// The caller keeps all changes out.
    ///
    /// # Errors
    /// When log or base cannot be read.
    pub fn reload(&self, inodes: &BTreeMap<Ino, Path>, names: &BTreeMap<(Ino, Name), Path>) -> Result<Stale> {
        let _namespace = self.namespace.lock();
        let (kv, lineage) = (&*self.store.kv, self.lineage());
        let mut plan = Plan::default();
        for (&ino, path) in inodes {
            let then = lineage.inode(kv, ino).map_err(failed)?;
            plan.inodes.insert(ino, InodeChange { path: path.clone(), then });
        }
        for ((dir, name), path) in names {
            let then = lineage.dentry(kv, *dir, name).map_err(failed)?;
            plan.names.insert((*dir, name.clone()), NameChange { path: path.clone(), now: then, then });
        }
        // Those of files that are not in memory as well.
        for &ino in inodes.keys() {
            self.descriptors.drop_file(ino);
        }
        let fresh = self.prepare(&plan)?;
        // Put by others, who keep an index of their own.
        self.show(&plan, fresh, &|_| Epoch::BASE);
        let known = |ino: &Ino| self.inode(*ino).is_some();
        let mut inodes: Vec<Ino> =
            plan.inodes.keys().chain(plan.names.keys().map(|(d, _)| d)).copied().filter(known).collect();
        inodes.sort_unstable();
        inodes.dedup();
        let names = plan.names.into_keys().filter(|(dir, _)| known(dir)).map(|(dir, name)| (dir, name, None)).collect();
        Ok(Stale { names, inodes })
    }

    /// Where the data of a version file is: the first range at or after `offset` below `size` that is no hole.
    ///
    /// # Errors
    /// When the version file cannot be read.
    pub fn version_data(
        &self,
        id: crate::types::VersionId,
        offset: u64,
        size: u64,
    ) -> Result<Option<crate::types::Range>> {
        use super::content::seek_file;
        let Some(file) = self.data().existing(id).map_err(failed)? else { return Ok(None) };
        let Some(start) = seek_file(&file, offset, true, size)? else { return Ok(None) };
        let end = seek_file(&file, start, false, size)?.unwrap_or(size);
        Ok((end > start).then(|| crate::types::Range::new(start, end - start)))
    }

    /// Commits a batch with its event, as the operations do.
    ///
    /// # Errors
    /// When the log does not take it: nothing has changed then.
    pub fn journal_commit(&self, ctx: &Ctx, mut batch: Batch, note: Note, sync: crate::store::Sync) -> Result<()> {
        let ctx = Ctx { epoch: self.epoch(), ..*ctx };
        self.journal.commit(&ctx, &mut batch, note, sync).map_err(failed)
    }

    /// Puts a plan down and makes it visible. Returns what the kernel has to forget.
    ///
    /// # Errors
    /// When the log does not take it: nothing has changed then.
    pub fn carry_out(&self, ctx: &Ctx, plan: &Plan, mut batch: Batch, note: Note) -> Result<Stale> {
        let _namespace = self.namespace.lock();
        self.put_plan(&mut batch, plan);
        // What must be readable is read before anything is said.
        let fresh = self.prepare(plan)?;
        let stale = self.stale(plan)?;
        self.store.space.claim(batch.bytes() as u64).map_err(failed)?;
        self.commit(ctx, batch, note)?;
        self.show(plan, fresh, &|_| self.epoch());
        Ok(stale)
    }

    /// Puts a plan's states into the open epoch.
    pub fn put_plan(&self, batch: &mut Batch, plan: &Plan) {
        self.put_plan_at(batch, At { timeline: self.timeline(), epoch: self.epoch() }, plan);
    }

    /// The same for an epoch that is open in another timeline.
    pub(super) fn put_plan_at(&self, batch: &mut Batch, at: At, plan: &Plan) {
        let At { timeline, epoch } = at;
        let mut value = Vec::new();
        for (&ino, change) in &plan.inodes {
            value.clear();
            if let Some(record) = &change.then {
                codec::put_inode(&mut value, record);
            }
            batch.put(Table::Tree, &keys::inode(timeline, ino, epoch), &value);
            batch.put(Table::Tree, &keys::touched_inode(timeline, epoch, ino), change.path.as_bytes());
            // What was applied is not what it is from now on.
            batch.delete(Table::Meta, &keys::applied(timeline, ino));
        }
        for ((dir, name), change) in &plan.names {
            value.clear();
            if let Some(dentry) = change.then {
                codec::put_dentry(&mut value, dentry);
            }
            if let Some(Dentry::Entry { ino, .. }) = change.then {
                batch.delete(Table::Meta, &keys::applied(timeline, ino));
            }
            batch.put(Table::Tree, &keys::dentry(timeline, *dir, name, epoch), &value);
            batch.put(Table::Tree, &keys::touched_name(timeline, epoch, *dir, name), change.path.as_bytes());
        }
        for (&id, record) in &plan.versions {
            self.put_version(batch, id, &VersionRecord { epoch, ..*record });
        }
    }

    /// What the inodes in memory will be, and where.
    pub(super) fn prepare(&self, plan: &Plan) -> Result<Prepared> {
        let mut places = Vec::new();
        for ((dir, name), change) in &plan.names {
            let child = match change.then {
                Some(Dentry::Entry { ino, .. }) => Some(ino),
                Some(Dentry::Whiteout { .. }) => None,
                // What the base has there shows again.
                None => self.plan_shows(plan, *dir, name)?.map(|(ino, _)| ino),
            };
            let inode = child.and_then(|ino| self.inode(ino));
            places.extend(inode.map(|inode| (inode, *dir, name.clone(), change.path.clone())));
        }
        let mut fresh = Vec::new();
        for (&ino, change) in &plan.inodes {
            let Some(inode) = self.inode(ino) else { continue };
            let record = self.restored(&inode, change.then.as_ref())?;
            let content = match record.as_ref().map(|r| r.content) {
                Some(Content::Version { id, stamp }) => Bytes::Version(Box::new(match plan.versions.get(&id) {
                    Some(record) => Version::whole(id, VersionRecord { epoch: self.epoch(), ..*record }, stamp),
                    None => load_version(&self.store, id, stamp).map_err(failed)?,
                })),
                Some(Content::Base) => Bytes::Base,
                Some(Content::None) | None => Bytes::None,
            };
            fresh.push((inode, Fresh { record, recorded: change.then.is_some(), content }));
        }
        Ok(Prepared { fresh, places })
    }

    pub(super) fn stale(&self, plan: &Plan) -> Result<Stale> {
        let mut stale = Stale::default();
        // What is below a directory that goes, before it: with it the kernel drops what it knows of the rest, and those who watch that hear nothing.
        let mut names: Vec<_> = plan.names.iter().collect();
        names.sort_by_cached_key(|(_, change)| std::cmp::Reverse(change.path.components().count()));
        for ((dir, name), change) in names {
            let Some(parent) = self.inode(*dir) else { continue };
            let child = match change.now {
                Some(Dentry::Entry { ino, .. }) => Some(ino),
                Some(Dentry::Whiteout { .. }) => None,
                None => self.base_has(&parent, name)?,
            };
            // The kernel takes what it hears that of for dead, and drops who watches it.
            let child = child.filter(|&ino| plan.kills(ino));
            stale.names.push((*dir, name.clone(), child));
            stale.inodes.push(*dir);
        }
        stale.inodes.extend(plan.inodes.keys().copied().filter(|&ino| self.inode(ino).is_some()));
        stale.inodes.sort_unstable();
        stale.inodes.dedup();
        Ok(stale)
    }

    /// Makes a plan visible that is in the log. `touched` says in which epoch the index of changes has an inode, if that is the current one.
    pub(super) fn show(&self, plan: &Plan, prepared: Prepared, touched: &dyn Fn(Ino) -> Epoch) {
        self.changed.write().extend(plan.inodes.keys().copied());
        for (inode, fresh) in prepared.fresh {
            self.descriptors.drop_file(inode.ino);
            let mut state = inode.state.write();
            if inode.kind == Kind::Dir
                && state.attr.nlink == 0
                && fresh.record.as_ref().is_some_and(|r| r.attr.nlink > 0)
            {
                inode.revived.fetch_add(1, Ordering::AcqRel);
                self.revivals.fetch_add(1, Ordering::AcqRel);
            }
            state.become_(fresh, touched(inode.ino));
            state.place.lost |= plan.names.contains_key(&(state.place.parent, state.place.name.clone()));
        }
        for ((dir, name), change) in &plan.names {
            if let Some(dir) = self.inode(*dir) {
                let mut state = dir.state.write();
                if state.dir.as_ref().is_some_and(|d| d.loaded) {
                    super::ops::set_entry(&mut state, name, change.then);
                }
            }
        }
        for (inode, parent, name, path) in prepared.places {
            let mut state = inode.state.write();
            // The path counts where the directory is not in memory.
            state.place = inode::Place { parent, name, path, as_of: state.place.as_of, lost: false };
        }
        // From now on all paths are worked out again, from these places up.
        self.renames.fetch_add(1, Ordering::AcqRel);
    }
}

/// See [`Overlay::prepare`].
pub(super) struct Prepared {
    fresh: Vec<(Arc<Inode>, Fresh)>,
    /// Files with the directory, name and path that they have from now on.
    places: Vec<(Arc<Inode>, Ino, Name, Path)>,
}

/// What an inode in memory becomes.
pub(super) struct Fresh {
    /// `None`: it has no name any more.
    record: Option<InodeRecord>,
    /// Whether the log has that record, or it is a base file as it is.
    recorded: bool,
    content: Bytes,
}

impl State {
    fn become_(&mut self, fresh: Fresh, touched: Epoch) {
        self.touched = touched;
        let Some(record) = fresh.record else {
            // Who has it open keeps it; its bytes are part of history.
            self.attr.nlink = 0;
            self.recorded = false;
            return;
        };
        // The number that stat(2) shows: the root's own is that of the base.
        self.attr = crate::types::Attr { ino: self.attr.ino, ..record.attr };
        self.recorded = fresh.recorded;
        self.content = fresh.content;
        self.opaque = record.opaque;
        self.origin = record.origin.map(Box::new);
        self.target = record.target;
        self.xattrs = record.xattrs.map(Box::new);
        if let Some(dir) = &mut self.dir {
            dir.base_default = Default::default();
        }
    }
}

/// The record of a base file as it is.
pub fn record_of(ino: Ino, stat: &BaseStat, path: &Path) -> InodeRecord {
    let mut attr = stat.attr;
    attr.ino = ino;
    let origin =
        Origin { path: path.clone(), dev: stat.dev, ino: stat.attr.ino.0, born: stat.born, print: print(&stat.attr) };
    InodeRecord {
        attr,
        content: if attr.kind == Kind::File { Content::Base } else { Content::None },
        opaque: false,
        origin: Some(origin),
        target: None,
        xattrs: None,
    }
}
