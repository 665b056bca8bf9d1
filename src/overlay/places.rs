//! Where an inode is in a state of the tree: its names, and the paths of directories.
//!
//! Nothing stores that. Entries of the overlay are collected by one pass over all of them; where the base leads to an inode is asked of the base. Both
//! only when somebody wants to know.

use std::cell::OnceCell;
use std::ops::ControlFlow;
use std::rc::Rc;

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::view::{View, present};
use super::{Result, failed};
use crate::base::Base;
use crate::store::codec::{self, Dentry};
use crate::store::{Table, keys};
use crate::types::{Ino, Kind, Name, Path};

/// A name in a directory.
pub type Spot = (Ino, Name);

/// One of the names of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub dir: Ino,
    pub name: Name,
    /// Where the directory is in the base, if it is the base that leads to the inode here.
    pub base_dir: Option<Path>,
}

/// The entries that lead to each inode.
pub type Entries = FxHashMap<Ino, SmallVec<[Spot; 1]>>;

/// The paths of base files with several names, by their numbers in the base.
pub type Links = FxHashMap<u64, Vec<Path>>;

/// Directories inside each other deeper than this are a loop.
const DEEPEST: usize = 4096;

/// See the module.
pub struct Places<'v, 'a> {
    view: &'v View<'a>,
    entries: OnceCell<Rc<Entries>>,
    /// The paths of base files with several names in the repository, by their numbers in the base.
    linked: OnceCell<Rc<Links>>,
}

impl<'v, 'a> Places<'v, 'a> {
    pub fn new(view: &'v View<'a>) -> Places<'v, 'a> {
        Places { view, entries: OnceCell::new(), linked: OnceCell::new() }
    }

    pub fn view(&self) -> &'v View<'a> {
        self.view
    }

    /// The same of another view of the same point, whose entries were collected before.
    pub fn with(view: &'v View<'a>, entries: Rc<Entries>) -> Places<'v, 'a> {
        Places { view, entries: OnceCell::from(entries), linked: OnceCell::new() }
    }

    /// What was collected, for [`Places::with`].
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn collected(&self) -> Result<Rc<Entries>> {
        match self.entries.get() {
            Some(entries) => Ok(entries.clone()),
            None => {
                let found = Rc::new(self.collect()?);
                Ok(self.entries.get_or_init(|| found).clone())
            }
        }
    }

    /// Tells which base files have several names in the repository. Otherwise the whole base is looked through for them.
    pub fn know_links(&self, linked: Rc<Links>) {
        let _ = self.linked.set(linked);
    }

    /// The entries of the overlay that lead to an inode.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn entries(&self, ino: Ino) -> Result<&[Spot]> {
        if self.entries.get().is_none() {
            self.collected()?;
        }
        Ok(self.entries.get().and_then(|entries| entries.get(&ino)).map_or(&[], |spots| spots))
    }

    fn collect(&self) -> Result<Entries> {
        let kv = &*self.view.overlay().store.kv;
        let mut entries = Entries::default();
        let mut seen: FxHashSet<Spot> = FxHashSet::default();
        let mut bad = None;
        for at in self.view.lineage().segments() {
            let (from, to) = keys::all_dentries(at.timeline);
            let scanned = kv.scan(Table::Tree, &from, &to, &mut |key, value| {
                let Some((dir, name, epoch)) = keys::parse_dentry(key) else { return ControlFlow::Continue(()) };
                // Newest epoch first: what comes later of the same name is older.
                if epoch > at.epoch || !seen.insert((dir, name.into())) || value.is_empty() {
                    return ControlFlow::Continue(());
                }
                match codec::get_dentry(value) {
                    Ok(Dentry::Entry { ino, .. }) => entries.entry(ino).or_default().push((dir, name.into())),
                    Ok(Dentry::Whiteout { .. }) => {}
                    Err(error) => {
                        bad = Some(error);
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            });
            scanned.map_err(failed)?;
            if let Some(error) = bad {
                return Err(failed(error));
            }
        }
        Ok(entries)
    }

    /// All names of an inode. `base_path` is where it is in the base, if it is of it.
    ///
    /// # Errors
    /// When log or base cannot be read.
    pub fn names(&self, ino: Ino, base_path: Option<&Path>) -> Result<Vec<Place>> {
        let entry = |(dir, name): &Spot| Place { dir: *dir, name: name.clone(), base_dir: None };
        let mut names: Vec<Place> = self.entries(ino)?.iter().map(entry).collect();
        let Some(base_path) = base_path else { return Ok(names) };
        for path in self.base_paths(base_path)? {
            names.extend(self.shown(ino, &path)?);
        }
        Ok(names)
    }

    /// All paths at which the base has the file that it has at one of them.
    ///
    /// # Errors
    /// When the base cannot be read.
    pub fn base_paths(&self, path: &Path) -> Result<Vec<Path>> {
        let Some(stat) = present(self.view.overlay().base.stat_path(path))? else { return Ok(Vec::new()) };
        let several = stat.attr.nlink > 1 && stat.attr.kind != Kind::Dir;
        let linked = if several { self.linked()?.get(&stat.attr.ino.0) } else { None };
        // Its other names may all be outside of the repository.
        Ok(linked.cloned().unwrap_or_else(|| vec![path.clone()]))
    }

    /// The name by which the base leads to an inode, if nothing covers it.
    fn shown(&self, ino: Ino, path: &Path) -> Result<Option<Place>> {
        let Some((base_dir, name)) = path.split_last() else { return Ok(None) };
        let Some(dir) = self.base_dir(&base_dir)? else { return Ok(None) };
        if self.view.entry(dir, name)?.is_some() {
            return Ok(None);
        }
        let overlay = self.view.overlay();
        let Some(stat) = present(overlay.base.stat_path(path))? else { return Ok(None) };
        let is_it = self.view.number_of(stat.dev, stat.attr.ino, stat.born)? == ino;
        Ok(is_it.then(|| Place { dir, name: name.into(), base_dir: Some(base_dir) }))
    }

    /// The directory that shows what a base directory has.
    fn base_dir(&self, path: &Path) -> Result<Option<Ino>> {
        if *path == Path::root() {
            return Ok(Some(Ino::ROOT));
        }
        let Some(stat) = present(self.view.overlay().base.stat_path(path))? else { return Ok(None) };
        let ino = self.view.number_of(stat.dev, stat.attr.ino, stat.born)?;
        Ok(match self.view.inode(ino)? {
            // Not touched: then no directory above was removed.
            None => (stat.attr.kind == Kind::Dir).then_some(ino),
            Some(record) => {
                let shows = record.attr.nlink > 0
                    && !record.opaque
                    && record.attr.kind == Kind::Dir
                    && record.origin.is_some_and(|o| o.path == *path);
                shows.then_some(ino)
            }
        })
    }

    /// The path of a directory; `None` when it is not in the tree, or nothing but the base knows where it is.
    ///
    /// # Errors
    /// When log or base cannot be read.
    pub fn path(&self, dir: Ino) -> Result<Option<Path>> {
        self.path_of(dir, None, 0)
    }

    /// As [`Places::path`], for a directory that is at `base_path` in the base.
    ///
    /// # Errors
    /// When log or base cannot be read.
    pub fn path_of_base(&self, dir: Ino, base_path: &Path) -> Result<Option<Path>> {
        self.path_of(dir, Some(base_path), 0)
    }

    fn path_of(&self, dir: Ino, base_path: Option<&Path>, depth: usize) -> Result<Option<Path>> {
        if dir == Ino::ROOT {
            return Ok(Some(Path::root()));
        }
        if depth > DEEPEST {
            return Ok(None);
        }
        if let Some((above, name)) = self.entries(dir)?.first() {
            return Ok(self.path_of(*above, None, depth + 1)?.map(|above| above.join(name)));
        }
        let base_path = match base_path {
            Some(path) => path.clone(),
            None => match self.view.inode(dir)?.and_then(|r| r.origin) {
                Some(origin) => origin.path,
                None => return Ok(None),
            },
        };
        let Some(Place { dir: above, name, base_dir }) = self.shown(dir, &base_path)? else { return Ok(None) };
        Ok(self.path_of(above, base_dir.as_ref(), depth + 1)?.map(|above| above.join(&name)))
    }

    /// The path of a name.
    ///
    /// # Errors
    /// When log or base cannot be read.
    pub fn path_at(&self, place: &Place) -> Result<Option<Path>> {
        Ok(self.path_of(place.dir, place.base_dir.as_ref(), 0)?.map(|dir| dir.join(&place.name)))
    }

    /// Base files with several names, if they were looked for.
    pub fn known_links(&self) -> Option<Rc<Links>> {
        self.linked.get().cloned()
    }

    fn linked(&self) -> Result<&Rc<Links>> {
        if let Some(linked) = self.linked.get() {
            return Ok(linked);
        }
        let mut found = base_links(&*self.view.overlay().base, &|_| true, &|_| false)?;
        found.retain(|_, paths| paths.len() > 1);
        Ok(self.linked.get_or_init(|| Rc::new(found)))
    }
}

/// The paths of those files of the base whose numbers `wanted` names; `skip` names directories that are left out.
///
/// # Errors
/// When the base's root cannot be listed.
pub(crate) fn base_links(base: &dyn Base, wanted: &dyn Fn(u64) -> bool, skip: &dyn Fn(&[u8]) -> bool) -> Result<Links> {
    let mut found = Links::default();
    let mut dirs = vec![(Path::root(), base.list(&Path::root())?)];
    while let Some((dir, entries)) = dirs.pop() {
        for entry in entries {
            let path = dir.join(&entry.name);
            match entry.kind {
                Some(Kind::Dir) if skip(&entry.name) => {}
                // One that cannot be listed shows nothing in any state.
                Some(Kind::Dir) => dirs.push((path.clone(), base.list(&path).unwrap_or_default())),
                _ if wanted(entry.ino) => found.entry(entry.ino).or_default().push(path),
                _ => {}
            }
        }
    }
    Ok(found)
}
