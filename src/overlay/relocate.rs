//! Paths for the index of changes where a plan puts states of the past again.
//!
//! The index leads to what differs between two points only if each path in it was right when the change was made. The paths that the
//! past noted are those of its own time; a directory above, or the file itself, may be somewhere else in the states between which the plan leads.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::places::Places;
use super::transit::Plan;
use super::view::{Node, View};
use super::{Overlay, Result, failed};
use crate::types::{Ino, Kind, Path};

/// The paths that inodes had when they were changed before; an empty one was not known. In order, as the log has them: thousands of look-ups
/// in no order would unpack a block each.
pub(super) type Noted = BTreeMap<Ino, SmallVec<[Path; 1]>>;

impl Overlay {
    /// Puts right the paths in a plan that leads from what is shown now to `target`.
    ///
    /// # Errors
    /// When log or base cannot be read.
    pub(super) fn relocate(&self, plan: &mut Plan, noted: &Noted, target: &View<'_>) -> Result<()> {
        let now = View::now(self);
        let mut states = [State::new(target, &now), State::new(&now, target)];
        for (&ino, change) in &mut plan.inodes {
            let right = |states: &mut [State<'_, '_>; 2]| -> Result<Option<Path>> {
                for path in noted.get(&ino).into_iter().flatten().filter(|p| ino == Ino::ROOT || **p != Path::root()) {
                    for state in states.iter_mut() {
                        if state.leads_to(path, ino)? {
                            return Ok(Some(path.clone()));
                        }
                    }
                }
                for state in states {
                    if let Some(path) = state.path(ino)? {
                        return Ok(Some(path));
                    }
                }
                Ok(None)
            };
            if let Some(path) = right(&mut states)? {
                change.path = path;
            }
        }
        for ((dir, name), change) in &mut plan.names {
            let right = |states: &mut [State<'_, '_>; 2]| -> Result<Option<Path>> {
                let Some((above, _)) = change.path.split_last() else { return Ok(None) };
                for state in states.iter_mut() {
                    if state.dir(&above)?.is_some_and(|node| node.ino == *dir) {
                        return Ok(Some(above));
                    }
                }
                for state in states {
                    if let Some(path) = state.path_of_dir(*dir)? {
                        return Ok(Some(path));
                    }
                }
                Ok(None)
            };
            if let Some(above) = right(&mut states)? {
                change.path = above.join(name);
            }
        }
        Ok(())
    }
}

/// A state of the tree, with what was found in it.
struct State<'v, 'a> {
    view: &'v View<'a>,
    /// Knows where things are in the base of which this one knows nothing, since nothing was changed in it.
    other: &'v View<'a>,
    dirs: FxHashMap<Path, Option<Node>>,
    places: Places<'v, 'a>,
    paths: FxHashMap<Ino, Option<Path>>,
}

impl<'v, 'a> State<'v, 'a> {
    fn new(view: &'v View<'a>, other: &'v View<'a>) -> State<'v, 'a> {
        State { view, other, dirs: FxHashMap::default(), places: Places::new(view), paths: FxHashMap::default() }
    }

    /// The directory at a path.
    fn dir(&mut self, path: &Path) -> Result<Option<Node>> {
        if let Some(known) = self.dirs.get(path) {
            return Ok(known.clone());
        }
        let found = match path.split_last() {
            None => Some(self.view.root()?),
            Some((above, name)) => match self.dir(&above)? {
                Some(above) => self.view.child(&above, name)?.filter(|n| n.kind == Kind::Dir),
                None => None,
            },
        };
        self.dirs.insert(path.clone(), found.clone());
        Ok(found)
    }

    fn leads_to(&mut self, path: &Path, ino: Ino) -> Result<bool> {
        let Some((above, name)) = path.split_last() else { return Ok(ino == Ino::ROOT) };
        let Some(above) = self.dir(&above)? else { return Ok(false) };
        Ok(self.view.child(&above, name)?.is_some_and(|node| node.ino == ino))
    }

    /// One of the paths of an inode.
    fn path(&self, ino: Ino) -> Result<Option<Path>> {
        for place in self.places.names(ino, self.base_path(ino)?.as_ref())? {
            if let Some(path) = self.places.path_at(&place)? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    fn path_of_dir(&mut self, dir: Ino) -> Result<Option<Path>> {
        if let Some(known) = self.paths.get(&dir) {
            return Ok(known.clone());
        }
        let found = match self.base_path(dir)? {
            Some(base_path) => self.places.path_of_base(dir, &base_path)?,
            None => self.places.path(dir)?,
        };
        self.paths.insert(dir, found.clone());
        Ok(found)
    }

    /// Where an inode is in the base, as any of its states tells.
    fn base_path(&self, ino: Ino) -> Result<Option<Path>> {
        let kv = &*self.view.overlay().store.kv;
        for view in [self.view, self.other] {
            if let Some(origin) = view.lineage().origin(kv, ino).map_err(failed)? {
                return Ok(Some(origin.path));
            }
        }
        Ok(None)
    }
}
