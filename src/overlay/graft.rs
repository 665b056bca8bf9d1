//! Putting files of another state into the tree that is there, one path at a time, whatever became of the rest.
//!
//! Unlike a move of everything, this has to fit what was into what is. A file keeps its number unless it lives on elsewhere: then it comes back as a
//! copy. A file with several names is one file only as long as all its names get the same; otherwise those that get something else become a file of their
//! own, so that no path changes that was not asked for. Knows nothing of why: `restore.rs` and merges decide which path gets what.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};

use super::places::{Place, Places};
use super::restore::bytes_differ;
use super::transit::{InodeChange, NameChange, Plan, record_of};
use super::view::{Node, View, present};
use super::{Ctx, Overlay, Result};
use crate::store::codec::{Content, Dentry, InodeRecord, VersionRecord};
use crate::types::{Attr, Errno, Ino, Kind, Name, Path, VersionId};

/// What is to become of a path.
#[derive(Clone, Debug)]
pub enum Wish {
    /// The file that is there goes, with everything below it.
    Remove(Node),
    /// The file that is there gets the state of another with the same number; of a directory only mode, owner and attributes.
    Become(Node, Node),
    /// Nothing is there, or is removed by another wish; this comes there. A directory with all that is in it in the source, if `whole`.
    Add { node: Node, whole: bool },
}

/// Wishes by path. A path may have a [`Wish::Remove`] and a [`Wish::Add`].
#[derive(Debug, Default)]
pub struct Wishes {
    list: Vec<(Path, Wish)>,
    /// New bytes that wishes refer to; written already.
    versions: BTreeMap<VersionId, VersionRecord>,
}

impl Wishes {
    pub fn add(&mut self, path: Path, wish: Wish) {
        self.list.push((path, wish));
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// A version that is all of a file, for an inode of a wish.
    pub fn put_version(&mut self, id: VersionId, record: VersionRecord) {
        self.versions.insert(id, record);
    }
}

impl Overlay {
    /// What has to change for these wishes; directories that are missing above them are made as `source` has them. The caller keeps all changes
    /// out, as for [`Overlay::plan`].
    ///
    /// # Errors
    /// When log or base cannot be read; `ENOTDIR` when something that is no directory is in the way above a path.
    pub fn plan_wishes(&self, source: &View<'_>, wishes: Wishes, ctx: &Ctx) -> Result<Plan> {
        let now = View::now(self);
        let mut graft = Graft {
            overlay: self,
            source,
            now: &now,
            places: Places::new(&now),
            ctx,
            plan: Plan { versions: wishes.versions, ..Plan::default() },
            made: FxHashMap::default(),
            dirs: BTreeMap::new(),
            known: FxHashMap::default(),
        };
        let (mut removed, mut changed, mut added) = (Vec::new(), Vec::new(), Vec::new());
        for (path, wish) in wishes.list {
            match wish {
                Wish::Remove(node) => removed.push((path, node)),
                Wish::Become(is, then) => changed.push((path, is, then)),
                Wish::Add { node, whole } => added.push((path, node, whole)),
            }
        }
        // Removals first: what goes from one place can then come to another under its own number.
        removed.sort_by(|a, b| a.0.cmp(&b.0));
        for (path, node) in &removed {
            graft.remove_at(path, node)?;
        }
        added.extend(graft.split(&mut changed)?);
        for (path, is, then) in &changed {
            graft.change(path, is, then)?;
        }
        // Directories before what is in them.
        added.sort_by(|a, b| a.0.cmp(&b.0));
        for (path, node, whole) in &added {
            let (dir, name) = path.split_last().ok_or(Errno::EINVAL)?;
            let parent = graft.dir_at(&dir)?;
            graft.add(&parent, name, node, *whole)?;
        }
        graft.finish()
    }
}

/// A directory that gains or loses entries.
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

/// What became of a directory's entries.
struct Gained {
    path: Path,
    subdirs: i32,
    /// It came back with all that is in it: its times are those that it had.
    whole: bool,
}

struct Graft<'r, 'a> {
    overlay: &'a Overlay,
    source: &'r View<'a>,
    now: &'r View<'a>,
    places: Places<'r, 'a>,
    ctx: &'r Ctx,
    plan: Plan,
    /// Files of the source that were put somewhere: under which number each of their states is there.
    made: FxHashMap<Ino, Vec<(Node, Ino)>>,
    dirs: BTreeMap<Ino, Gained>,
    known: FxHashMap<Path, Parent>,
}

impl Graft<'_, '_> {
    /// The record as far as this plan has come.
    fn record(&self, ino: Ino) -> Result<Option<InodeRecord>> {
        match self.plan.inodes.get(&ino) {
            Some(change) => Ok(change.then.clone()),
            None => self.now.inode(ino),
        }
    }

    /// The record that a file of the base has if nothing changes it, whatever the node says.
    fn of_base(&self, node: &Node) -> Result<InodeRecord> {
        let path = node.origin_path().ok_or(Errno::ESTALE)?;
        let stat = if node.ino == Ino::ROOT { self.overlay.base.root()? } else { self.overlay.base.stat_path(path)? };
        Ok(record_of(node.ino, &stat, path))
    }

    /// The record of what is there, as far as this plan has come.
    fn present(&self, node: &Node) -> Result<InodeRecord> {
        self.record(node.ino)?.map_or_else(|| self.of_base(node), Ok)
    }

    fn put(&mut self, ino: Ino, path: &Path, then: Option<InodeRecord>) {
        self.plan.inodes.insert(ino, InodeChange { path: path.clone(), then });
    }

    /// What the overlay has for a name, as far as this plan has come.
    fn entry(&self, dir: Ino, name: &[u8]) -> Result<Option<Dentry>> {
        match self.plan.names.get(&(dir, Name::from(name))) {
            Some(change) => Ok(change.then),
            None => self.now.entry(dir, name),
        }
    }

    fn gained(&mut self, parent: &Parent) -> &mut Gained {
        let fresh = || Gained { path: parent.path.clone(), subdirs: 0, whole: false };
        self.dirs.entry(parent.ino).or_insert_with(fresh)
    }

    fn name(&mut self, parent: &Parent, name: &[u8], then: Option<Dentry>) -> Result<()> {
        let key = (parent.ino, Name::from(name));
        let now = match self.plan.names.get(&key) {
            Some(change) => change.now,
            None => self.now.entry(parent.ino, name)?,
        };
        self.plan.names.insert(key, NameChange { path: parent.path.join(name), now, then });
        self.gained(parent);
        Ok(())
    }

    /// The number of what the base has under a name.
    fn shown(&self, parent: &Parent, name: &[u8]) -> Result<Option<Ino>> {
        let Some(shown) = &parent.shows else { return Ok(None) };
        match present(self.overlay.base.stat(shown, name))? {
            Some(stat) => self.overlay.number(&stat).map(Some),
            None => Ok(None),
        }
    }

    /// Makes a name stand for nothing.
    fn no_name(&mut self, parent: &Parent, name: &[u8]) -> Result<()> {
        let hidden = self.shown(parent, name)?.map(|hid| Dentry::Whiteout { hid });
        self.name(parent, name, hidden)
    }

    /// Makes a name stand for an inode.
    fn lead(&mut self, parent: &Parent, name: &[u8], ino: Ino, kind: Kind) -> Result<bool> {
        let implied = self.shown(parent, name)? == Some(ino);
        self.name(parent, name, if implied { None } else { Some(Dentry::Entry { ino, kind }) })?;
        Ok(implied)
    }

    // What goes.

    fn remove_at(&mut self, path: &Path, node: &Node) -> Result<()> {
        let (dir, name) = path.split_last().ok_or(Errno::EBUSY)?;
        let dir_node = self.now.find(&dir)?.filter(|n| n.kind == Kind::Dir).ok_or(Errno::ENOENT)?;
        self.remove(&Parent::of(&dir_node, dir), name, node)
    }

    /// Takes a name away, and all below it.
    fn remove(&mut self, parent: &Parent, name: &[u8], node: &Node) -> Result<()> {
        if self.plan.names.contains_key(&(parent.ino, Name::from(name))) {
            // It went with a directory above it.
            return Ok(());
        }
        let path = parent.path.join(name);
        let is_dir = node.kind == Kind::Dir;
        if is_dir {
            let inside = Parent::of(node, path.clone());
            for child in self.now.names(node)? {
                if let Some(below) = self.now.child(node, &child)? {
                    self.remove(&inside, &child, &below)?;
                }
            }
            self.dirs.remove(&node.ino);
            self.gained(parent).subdirs -= 1;
        }
        self.no_name(parent, name)?;
        let mut record = self.present(node)?;
        record.attr.nlink = if is_dir { 0 } else { record.attr.nlink.saturating_sub(1) };
        record.attr.ctime = self.ctx.now;
        let then = if record.attr.nlink > 0 {
            Some(record)
        } else if record.origin.is_some() {
            // Kept without a name, as unlink does it.
            let content = if node.kind == Kind::File { Content::Base } else { Content::None };
            Some(InodeRecord { content, xattrs: None, ..record })
        } else {
            None
        };
        self.put(node.ino, &path, then);
        Ok(())
    }

    // What stays, and becomes something else.

    /// The names of a file as far as this plan has come, with where the directory is in the base if that is what leads to it.
    fn names(&self, ino: Ino, base_path: Option<&Path>) -> Result<Vec<Place>> {
        let mut names = self.places.names(ino, base_path)?;
        names.retain(|place| {
            let change = self.plan.names.get(&(place.dir, place.name.clone()));
            change.is_none_or(|change| change.then == change.now)
        });
        for (key, change) in self.plan.names.iter().filter(|(_, c)| c.then != c.now) {
            let leads = match change.then {
                Some(Dentry::Entry { ino: to, .. }) => to == ino,
                Some(Dentry::Whiteout { .. }) => false,
                None => self.overlay.plan_shows(&self.plan, key.0, &key.1)?.is_some_and(|(to, _)| to == ino),
            };
            if leads {
                names.push(Place { dir: key.0, name: key.1.clone(), base_dir: None });
            }
        }
        Ok(names)
    }

    /// Takes those changes out that only some names of a file get, and says what is to be added instead.
    fn split(&mut self, changed: &mut Vec<(Path, Node, Node)>) -> Result<Vec<(Path, Node, bool)>> {
        let mut by_file: BTreeMap<Ino, Vec<usize>> = BTreeMap::new();
        for (at, (_, is, _)) in changed.iter().enumerate().filter(|(_, (_, is, _))| is.kind != Kind::Dir) {
            by_file.entry(is.ino).or_default().push(at);
        }
        let (mut apart, mut done) = (FxHashSet::default(), FxHashSet::default());
        for (ino, all) in by_file {
            let Some((_, is, first)) = all.first().and_then(|&at| changed.get(at)) else { continue };
            let mut rest = all.iter().filter_map(|&at| changed.get(at));
            let alike = rest.try_fold(true, |alike, (_, _, then)| Ok::<_, Errno>(alike && self.same(first, then)?))?;
            let links = self.present(is)?.attr.nlink;
            if !alike || (links > 1 && self.names(ino, is.origin_path())?.len() > all.len()) {
                for at in all {
                    let same = changed.get(at).is_some_and(|(_, is, then)| self.same(is, then) == Ok(true));
                    if same {
                        done.insert(at)
                    } else {
                        apart.insert(at)
                    };
                }
            }
        }
        let (mut kept, mut added) = (Vec::new(), Vec::new());
        for (at, (path, is, then)) in std::mem::take(changed).into_iter().enumerate() {
            if apart.contains(&at) {
                self.remove_at(&path, &is)?;
                added.push((path, then, false));
            } else if !done.contains(&at) {
                kept.push((path, is, then));
            }
        }
        *changed = kept;
        Ok(added)
    }

    /// Whether two nodes are the same file in the same state, times and links apart.
    fn same(&self, one: &Node, two: &Node) -> Result<bool> {
        let (a, b) = (self.now.full(one)?, self.now.full(two)?);
        Ok(self.same_bytes(&a, &b) && (a.xattrs == b.xattrs || self.source.xattrs(one)? == self.source.xattrs(two)?))
    }

    /// Whether two records are the same but for times, numbers and attributes that only [`View::xattrs`] can tell. The same bytes may be
    /// written down in different places.
    fn same_bytes(&self, a: &InodeRecord, b: &InodeRecord) -> bool {
        let node = |r: &InodeRecord| View::log_node(r.attr.ino, r.clone());
        // What cannot be read is taken for different: then a file is copied that might have been the same.
        let same = |a: &Node, b: &Node| bytes_differ(self.source, a, b) == Ok(false);
        same_facts(a, b) && (a.content == b.content || same(&node(a), &node(b)))
    }

    fn change(&mut self, path: &Path, is: &Node, then: &Node) -> Result<()> {
        if is.kind == Kind::Dir {
            return self.change_dir(path, is, then);
        }
        let links = self.present(is)?.attr.nlink;
        let mut record = self.now.full(then)?;
        let as_in_base = then.record.is_none()
            && links == record.attr.nlink
            && !self.names(is.ino, is.origin_path())?.iter().any(|at| self.has_entry(at.dir, &at.name));
        record.attr.nlink = links;
        record.attr.ino = is.ino;
        self.put(is.ino, path, (!as_in_base).then_some(record));
        Ok(())
    }

    fn has_entry(&self, dir: Ino, name: &[u8]) -> bool {
        !matches!(self.entry(dir, name), Ok(None))
    }

    /// Mode, owner and attributes of a directory.
    fn change_dir(&mut self, path: &Path, is: &Node, then: &Node) -> Result<()> {
        let owner = |a: &Attr| (a.perm, a.uid, a.gid);
        let (has, wanted) = (self.now.xattrs(is)?, self.source.xattrs(then)?);
        if owner(&is.attr) == owner(&then.attr) && has == wanted {
            return Ok(());
        }
        let mut record = self.present(is)?;
        (record.attr.perm, record.attr.uid, record.attr.gid) = owner(&then.attr);
        record.attr.ctime = self.ctx.now;
        if has != wanted {
            record.xattrs = Some(wanted);
        }
        self.put(is.ino, path, Some(record));
        Ok(())
    }

    // What comes.

    /// The directory at a path as far as this plan has come, made as the source has it if it is missing.
    fn dir_at(&mut self, path: &Path) -> Result<Parent> {
        if let Some(parent) = self.known.get(path) {
            return Ok(parent.clone());
        }
        let found = match path.split_last() {
            None => Parent::of(&self.now.root()?, Path::root()),
            Some((above, name)) => {
                let above = self.dir_at(&above)?;
                match self.child(&above, name)? {
                    Some((ino, Kind::Dir, shows)) => Parent { ino, path: path.clone(), shows },
                    Some(_) => return Err(Errno::ENOTDIR),
                    None => {
                        let node = self.source.find(path)?.ok_or(Errno::ENOENT)?;
                        if node.kind != Kind::Dir {
                            return Err(Errno::ENOTDIR);
                        }
                        let made = self.add_dir(&above, name, &node, false)?;
                        // Only a part of it comes.
                        self.gained(&made).whole = false;
                        made
                    }
                }
            }
        };
        self.known.insert(path.clone(), found.clone());
        Ok(found)
    }

    /// What a name stands for as far as this plan has come.
    fn child(&self, parent: &Parent, name: &[u8]) -> Result<Option<(Ino, Kind, Option<Path>)>> {
        let (ino, stat) = match self.entry(parent.ino, name)? {
            Some(Dentry::Whiteout { .. }) => return Ok(None),
            Some(Dentry::Entry { ino, .. }) => (ino, None),
            None => {
                let Some(shown) = &parent.shows else { return Ok(None) };
                let Some(stat) = present(self.overlay.base.stat(shown, name))? else { return Ok(None) };
                (self.overlay.number(&stat)?, Some((stat.attr.kind, shown.join(name))))
            }
        };
        Ok(match (self.record(ino)?.filter(|r| r.attr.nlink > 0), stat) {
            (Some(record), _) => {
                let shows = record.origin.filter(|_| !record.opaque).map(|o| o.path);
                Some((ino, record.attr.kind, shows))
            }
            (None, Some((kind, path))) => Some((ino, kind, Some(path))),
            (None, None) => None,
        })
    }

    fn add(&mut self, parent: &Parent, name: &[u8], node: &Node, whole: bool) -> Result<()> {
        if node.kind == Kind::Dir {
            self.add_dir(parent, name, node, whole)?;
            return Ok(());
        }
        let path = parent.path.join(name);
        let (ino, mut record) = match self.made_before(node)? {
            Some(found) => found,
            None => {
                let found = self.come_back(node)?;
                self.made.entry(node.ino).or_default().push((node.clone(), found.0));
                found
            }
        };
        record.attr.ino = ino;
        let implied = self.lead(parent, name, ino, node.kind)?;
        // One name in the base, and that one: then the base says all.
        let as_in_base = implied && node.record.is_none() && node.attr.nlink == 1;
        self.put(ino, &path, (!as_in_base).then_some(record));
        Ok(())
    }

    /// A file that was put elsewhere already gets one more name.
    fn made_before(&self, node: &Node) -> Result<Option<(Ino, InodeRecord)>> {
        for (other, ino) in self.made.get(&node.ino).into_iter().flatten() {
            if self.same(other, node)? {
                let mut record = self.record(*ino)?.map_or_else(|| self.now.full(node), Ok)?;
                record.attr.nlink += 1;
                return Ok(Some((*ino, record)));
            }
        }
        Ok(None)
    }

    /// The number and the record under which a file of the source comes.
    fn come_back(&self, node: &Node) -> Result<(Ino, InodeRecord)> {
        let mut record = self.now.full(node)?;
        let planned = self.record(node.ino)?;
        let links = match &planned {
            Some(planned) => planned.attr.nlink,
            // A base file that nothing touched.
            None if node.base.is_some() => self.base_links(node)?,
            None => 0,
        };
        record.attr.nlink = 1;
        if links == 0 {
            return Ok((node.ino, record));
        }
        if node.attr.nlink > 1 || links > 1 {
            let names = self.names(node.ino, node.origin_path())?;
            if names.is_empty() {
                // All that is left are names outside of the repository.
                record.attr.nlink = links + 1;
                return Ok((node.ino, record));
            }
            let there = match planned {
                Some(planned) => planned,
                None => self.of_base(node)?,
            };
            let has_it = |at: &Place| self.source_has(at, node.ino);
            if self.same_bytes(&there, &record)
                && self.xattrs_of(&there)? == self.xattrs_of(&record)?
                && names.iter().map(has_it).collect::<Result<Vec<_>>>()?.contains(&true)
            {
                return Ok((node.ino, InodeRecord { attr: Attr { nlink: links + 1, ..there.attr }, ..there }));
            }
        }
        Ok((self.overlay.allocate()?, record))
    }

    fn base_links(&self, node: &Node) -> Result<u32> {
        let Some(path) = node.origin_path() else { return Ok(0) };
        let Some(stat) = present(self.overlay.base.stat_path(path))? else { return Ok(0) };
        // A copy knows where its bytes come from, and is another file.
        Ok(if self.overlay.number(&stat)? == node.ino { stat.attr.nlink } else { 0 })
    }

    fn xattrs_of(&self, record: &InodeRecord) -> Result<crate::store::codec::Xattrs> {
        self.source.xattrs(&View::log_node(record.attr.ino, record.clone()))
    }

    /// Whether a name led to an inode in the source.
    fn source_has(&self, at: &Place, ino: Ino) -> Result<bool> {
        let (dir, name) = (at.dir, &at.name);
        Ok(match self.source.entry(dir, name)? {
            Some(Dentry::Entry { ino: to, .. }) => to == ino,
            Some(Dentry::Whiteout { .. }) => false,
            None => {
                let shows = match self.source.inode(dir)? {
                    Some(record) => record.origin.filter(|_| !record.opaque && record.attr.nlink > 0).map(|o| o.path),
                    // As in the base, then as now: where that is only who found it there knows.
                    None => self.record(dir)?.and_then(|r| r.origin).map(|o| o.path).or_else(|| at.base_dir.clone()),
                };
                self.shown(&Parent { ino: dir, path: Path::root(), shows }, name)? == Some(ino)
            }
        })
    }

    /// A directory as it was; with nothing in it, unless it is wanted as a whole.
    fn add_dir(&mut self, parent: &Parent, name: &[u8], node: &Node, whole: bool) -> Result<Parent> {
        let path = parent.path.join(name);
        let lives = match self.record(node.ino)? {
            Some(record) => record.attr.nlink > 0,
            None => node.base.is_some(),
        };
        let mut record = self.now.full(node)?;
        let ino = if lives { self.overlay.allocate()? } else { node.ino };
        if lives {
            // A copy shows nothing of the base: two directories must not show the same.
            record.xattrs = Some(self.source.xattrs(node)?);
            record.origin = None;
            record.opaque = false;
            record.attr.nlink = 2;
        } else {
            record.attr.nlink = record.attr.nlink.min(2);
        }
        record.attr.ino = ino;
        let shows = record.origin.as_ref().filter(|_| !record.opaque).map(|o| o.path.clone());
        let made = Parent { ino, path: path.clone(), shows };
        self.put(ino, &path, Some(record));
        self.lead(parent, name, ino, Kind::Dir)?;
        self.gained(parent).subdirs += 1;
        self.dirs.insert(ino, Gained { path, subdirs: 0, whole: true });
        let coming = if whole { self.source.names(node)? } else { Vec::new() };
        if let Some(shown) = &made.shows {
            // Nothing of what the base has there comes by itself.
            let wanted: FxHashSet<&Name> = coming.iter().collect();
            for entry in self.overlay.base.list(shown)?.iter().filter(|e| !wanted.contains(&e.name)) {
                self.no_name(&made, &entry.name)?;
            }
        }
        for child in coming {
            if let Some(below) = self.source.child(node, &child)? {
                self.add(&made, &child, &below, true)?;
            }
        }
        Ok(made)
    }

    /// Times and link counts of directories whose entries change, and what is open.
    fn finish(mut self) -> Result<Plan> {
        self.plan.names.retain(|_, change| change.now != change.then);
        let changed: FxHashSet<Ino> = self.plan.names.keys().map(|(dir, _)| *dir).collect();
        for (ino, gained) in std::mem::take(&mut self.dirs) {
            if gained.subdirs == 0 && !changed.contains(&ino) {
                continue;
            }
            let mut record = match self.record(ino)? {
                Some(record) if record.attr.nlink == 0 => continue,
                Some(record) => record,
                None => {
                    let node = self.now.find(&gained.path)?.filter(|n| n.ino == ino).ok_or(Errno::ESTALE)?;
                    self.of_base(&node)?
                }
            };
            record.attr.nlink = super::ops::links(&record.attr, gained.subdirs);
            if !gained.whole {
                record.attr.mtime = self.ctx.now;
                record.attr.ctime = self.ctx.now;
            }
            self.put(ino, &gained.path, Some(record));
        }
        let now = self.now;
        let mut bad = None;
        self.plan.inodes.retain(|&ino, change| match now.inode(ino) {
            Ok(is) => is != change.then,
            Err(errno) => {
                bad = Some(errno);
                true
            }
        });
        if let Some(errno) = bad {
            return Err(errno);
        }
        self.overlay.renumber(&mut self.plan, &self.places)?;
        Ok(self.plan)
    }
}

/// Whether two records are the same but for bytes, times, numbers and attributes.
fn same_facts(a: &InodeRecord, b: &InodeRecord) -> bool {
    let facts = |r: &InodeRecord| {
        let attr = &r.attr;
        (attr.kind, attr.perm, attr.uid, attr.gid, attr.rdev, attr.size)
    };
    facts(a) == facts(b) && a.target == b.target
}
