//! Bringing the change between two states into the present: what becomes of each path, and what excludes each other.
//!
//! A merge is this with the point where two timelines parted and the newest state of the other one. Decides by path: what only one side
//! changed is as that side has it, and the same change twice is one. Nothing is written here, and with any conflict nothing at all is to be.
//! Files are known by their numbers only to notice that both sides moved one.

mod both;

use std::collections::{BTreeMap, BTreeSet, HashMap};

pub use crate::merge::{Favor, Region};
use crate::overlay::restore::{differing, differs};
use crate::overlay::view::{Node, View};
use crate::types::{Errno, Ino, Kind, Path, Time};

pub use both::{LARGEST, texts};
use both::{Outcome, Three, both};

/// Why two changes exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConflictKind {
    /// Both changed the same lines of a text.
    Content,
    /// Both changed what cannot be merged by lines: it is no text, too large, or the target of a link.
    Binary,
    /// One removed or moved what the other changed, or moved.
    DeleteChange,
    /// Both made it, and not the same.
    AddAdd,
    /// A file is where the other side has a directory, or two types of files.
    Type,
    /// Both changed mode, owner or extended attributes, and not the same way.
    Attributes,
    /// Both moved it, to different places.
    Rename,
}

impl ConflictKind {
    /// The name used in JSON.
    pub fn name(self) -> &'static str {
        match self {
            ConflictKind::Content => "content",
            ConflictKind::Binary => "binary",
            ConflictKind::DeleteChange => "delete-change",
            ConflictKind::AddAdd => "add-add",
            ConflictKind::Type => "type",
            ConflictKind::Attributes => "attributes",
            ConflictKind::Rename => "rename",
        }
    }
}

/// Where two changes exclude each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub path: Path,
    pub kind: ConflictKind,
    /// For [`ConflictKind::Content`], the lines.
    pub regions: Vec<Region>,
    /// For [`ConflictKind::Rename`], where we moved it; `path` is where they did.
    pub ours: Option<Path>,
}

/// What becomes of a path that they changed.
#[derive(Clone, Debug)]
pub enum Choice {
    /// It stays as it is.
    Ours,
    /// It is as they have it; `None`: not there.
    Theirs(Option<Node>),
    /// Something of both, with the bytes of one.
    Mixed(Node),
    /// Something of both, with merged bytes.
    Text(Node),
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Combined {
    pub choices: BTreeMap<Path, Choice>,
    /// In the order of their paths. With a [`Favor`] none is left.
    pub conflicts: Vec<Conflict>,
}

/// Which paths of a change count, given what was there and what is there.
pub type Only<'o> = &'o dyn Fn(&Path, Option<&Node>, Option<&Node>) -> bool;

/// Combines the change from `from` to `theirs`, as far as it counts, with what `ours` has. `now` is the time that merged files get.
///
/// # Errors
/// When one of the states cannot be read.
pub fn combine(
    from: &View<'_>,
    ours: &View<'_>,
    theirs: &View<'_>,
    favor: Favor,
    now: Time,
    only: Only<'_>,
) -> Result<Combined, Errno> {
    let mut changed = BTreeSet::new();
    for path in differing(from, theirs)? {
        if only(&path, from.find(&path)?.as_ref(), theirs.find(&path)?.as_ref()) {
            changed.insert(path);
        }
    }
    let mut work = Work {
        views: (from, ours, theirs),
        favor,
        now,
        theirs: changed,
        ours: differing(from, ours)?.into_iter().collect(),
        choices: BTreeMap::new(),
        conflicts: BTreeMap::new(),
    };
    work.each_path()?;
    work.moved_by_both()?;
    work.directories_that_stay()?;
    work.directories_that_must_be()?;
    let Work { choices, conflicts, .. } = work;
    Ok(Combined { choices, conflicts: conflicts.into_values().collect() })
}

struct Work<'c, 'a> {
    views: (&'c View<'a>, &'c View<'a>, &'c View<'a>),
    favor: Favor,
    now: Time,
    /// The paths that each side changed.
    theirs: BTreeSet<Path>,
    ours: BTreeSet<Path>,
    choices: BTreeMap<Path, Choice>,
    conflicts: BTreeMap<Path, Conflict>,
}

/// A file's three states.
type Nodes = (Option<Node>, Option<Node>, Option<Node>);

fn is_dir(node: &Option<Node>) -> bool {
    node.as_ref().is_some_and(|n| n.kind == Kind::Dir)
}

/// The paths of a set that are below one.
fn below<'s>(set: &'s BTreeSet<Path>, dir: &Path) -> impl Iterator<Item = &'s Path> {
    let (first, dir) = (dir.join(b""), dir.clone());
    set.range(first..).take_while(move |path| path.is_below(&dir))
}

impl Work<'_, '_> {
    fn nodes(&self, path: &Path) -> Result<Nodes, Errno> {
        let (from, ours, theirs) = self.views;
        Ok((from.find(path)?, ours.find(path)?, theirs.find(path)?))
    }

    /// What is at a path, as far as it is decided.
    fn result(&self, path: &Path) -> Result<Option<Node>, Errno> {
        match self.choices.get(path) {
            None | Some(Choice::Ours) => self.views.1.find(path),
            Some(Choice::Theirs(node)) => Ok(node.clone()),
            Some(Choice::Mixed(node) | Choice::Text(node)) => Ok(Some(node.clone())),
        }
    }

    /// Notes a conflict, unless it is decided whose side is taken.
    fn conflict(&mut self, path: &Path, kind: ConflictKind, regions: Vec<Region>, ours: Option<Path>) {
        if self.favor == Favor::None {
            let conflict = Conflict { path: path.clone(), kind, regions, ours };
            self.conflicts.entry(path.clone()).or_insert(conflict);
        }
    }

    /// First every path for itself.
    fn each_path(&mut self) -> Result<(), Errno> {
        for path in self.theirs.clone() {
            let nodes = self.nodes(&path)?;
            let choice = match self.index(&path) {
                Some(true) => Choice::Theirs(nodes.2),
                Some(false) => Choice::Ours,
                None if !self.ours.contains(&path) => self.only_theirs(nodes)?,
                None => self.by_both(&path, nodes)?,
            };
            self.choices.insert(path, choice);
        }
        Ok(())
    }

    fn only_theirs(&self, (_, ours, theirs): Nodes) -> Result<Choice, Errno> {
        let same = !differs(self.views.1, ours.as_ref(), theirs.as_ref())?;
        Ok(if same { Choice::Ours } else { Choice::Theirs(theirs) })
    }

    fn by_both(&mut self, path: &Path, (from, ours, theirs): Nodes) -> Result<Choice, Errno> {
        let three = Three { from: from.as_ref(), ours: ours.as_ref(), theirs: theirs.as_ref() };
        Ok(match both(self.views.1, three, self.favor, self.now)? {
            Outcome::Ours => Choice::Ours,
            Outcome::Mixed(node) => Choice::Mixed(node),
            Outcome::Text(node) => Choice::Text(node),
            Outcome::Clash(kind, regions) => {
                self.conflict(path, kind, regions, None);
                if self.favor == Favor::Theirs { Choice::Theirs(theirs) } else { Choice::Ours }
            }
        })
    }

    /// git writes its index anew whenever somebody asks for the status: changed by both, it is that of the side that did something else in that
    /// repository, or else ours. Whether it is theirs; `None` for any other path.
    fn index(&self, path: &Path) -> Option<bool> {
        let (dir, name) = path.split_last()?;
        let git = dir.as_bytes() == b".git" || dir.as_bytes().ends_with(b"/.git");
        if !git || !matches!(name, b"index" | b"index.lock") || !self.ours.contains(path) {
            return None;
        }
        let works = |set: &BTreeSet<Path>| {
            let counts = |p: &&Path| !matches!(p.split_last(), Some((d, b"index" | b"index.lock")) if d == dir);
            below(set, &dir).any(|p| counts(&p))
        };
        Some(works(&self.theirs) && !works(&self.ours))
    }

    /// Files and directories that one side moved and the other moved elsewhere, or removed.
    fn moved_by_both(&mut self) -> Result<(), Errno> {
        let theirs = self.moves(&self.theirs, self.views.2)?;
        let ours = self.moves(&self.ours, self.views.1)?;
        let mut told: BTreeSet<Path> = BTreeSet::new();
        let mut clashes: Vec<(Path, ConflictKind, Option<Path>)> = Vec::new();
        for (ino, was) in &theirs.left {
            if ours.left.get(ino) != Some(was) {
                continue;
            }
            match (theirs.came.get(ino), ours.came.get(ino)) {
                (Some(there), Some(here)) if there != here => {
                    clashes.push((there.clone(), ConflictKind::Rename, Some(here.clone())));
                }
                (Some(there), None) => clashes.push((there.clone(), ConflictKind::DeleteChange, None)),
                (None, Some(here)) => clashes.push((here.clone(), ConflictKind::DeleteChange, Some(here.clone()))),
                _ => {}
            }
        }
        clashes.sort();
        for (path, kind, here) in clashes {
            if !told.iter().any(|above| path.is_below(above)) {
                // What is in a directory goes with it.
                told.insert(path.clone());
                self.conflict(&path, kind, Vec::new(), here.clone().filter(|_| kind == ConflictKind::Rename));
            }
            match self.favor {
                Favor::None => {}
                Favor::Ours if self.theirs.contains(&path) => {
                    self.choices.insert(path, Choice::Ours);
                }
                Favor::Ours => {}
                Favor::Theirs => {
                    if let Some(here) = here {
                        let node = self.views.2.find(&here)?;
                        self.choices.insert(here, Choice::Theirs(node));
                    }
                }
            }
        }
        Ok(())
    }

    /// Which files one side took away from a path, and where such files came to.
    fn moves(&self, changed: &BTreeSet<Path>, side: &View<'_>) -> Result<Moves, Errno> {
        let mut moves = Moves::default();
        for path in changed {
            let (was, is) = (self.views.0.find(path)?, side.find(path)?);
            if was.as_ref().map(|n| n.ino) == is.as_ref().map(|n| n.ino) {
                continue;
            }
            // A file with several names is at several places anyway.
            let one_name = |node: &Node| node.kind == Kind::Dir || node.attr.nlink == 1;
            if let Some(was) = was.filter(one_name) {
                moves.left.insert(was.ino, path.clone());
            }
            if let Some(is) = is.filter(one_name) {
                moves.came.insert(is.ino, path.clone());
            }
        }
        Ok(moves)
    }

    /// A directory that they removed stays while something is in it.
    fn directories_that_stay(&mut self) -> Result<(), Errno> {
        let all: BTreeSet<Path> = self.theirs.union(&self.ours).chain(self.choices.keys()).cloned().collect();
        let gone = |choice: &Choice| match choice {
            Choice::Theirs(node) => !is_dir(node),
            Choice::Ours | Choice::Mixed(_) | Choice::Text(_) => false,
        };
        let removed: Vec<Path> = self.choices.iter().filter(|(_, c)| gone(c)).map(|(path, _)| path.clone()).collect();
        for path in removed {
            if !is_dir(&self.views.1.find(&path)?) {
                continue;
            }
            let mut left = Vec::new();
            for inside in below(&all, &path) {
                if self.result(inside)?.is_some() {
                    left.push(inside.clone());
                }
            }
            if left.is_empty() {
                continue;
            }
            if matches!(self.choices.get(&path), Some(Choice::Theirs(None))) {
                self.choices.insert(path, Choice::Ours);
                continue;
            }
            // They have a file there.
            self.conflict(&path, ConflictKind::Type, Vec::new(), None);
            if self.favor == Favor::Theirs {
                self.choices.extend(left.into_iter().map(|inside| (inside, Choice::Theirs(None))));
            } else {
                self.choices.insert(path, Choice::Ours);
            }
        }
        Ok(())
    }

    /// What they have in a directory needs that directory.
    fn directories_that_must_be(&mut self) -> Result<(), Errno> {
        let takes = |choice: &Choice| !matches!(choice, Choice::Ours | Choice::Theirs(None));
        let taken: Vec<Path> = self.choices.iter().filter(|(_, c)| takes(c)).map(|(path, _)| path.clone()).collect();
        let mut good: HashMap<Path, bool> = HashMap::new();
        for path in taken {
            let mut above = Vec::new();
            let mut at = path.clone();
            while let Some((dir, _)) = at.split_last() {
                at = dir.clone();
                above.push(dir);
            }
            for dir in above.into_iter().rev() {
                let fits = match good.get(&dir) {
                    Some(&fits) => fits,
                    None => {
                        let found = self.result(&dir)?;
                        let fits = found.is_none() || is_dir(&found);
                        good.insert(dir.clone(), fits);
                        fits
                    }
                };
                if fits {
                    continue;
                }
                self.conflict(&dir, ConflictKind::Type, Vec::new(), None);
                if self.favor == Favor::Theirs {
                    let node = self.views.2.find(&dir)?;
                    self.choices.insert(dir.clone(), Choice::Theirs(node));
                    good.insert(dir, true);
                } else {
                    self.choices.insert(path.clone(), Choice::Ours);
                    break;
                }
            }
        }
        Ok(())
    }
}

/// See [`Work::moves`].
#[derive(Default)]
struct Moves {
    left: BTreeMap<Ino, Path>,
    came: BTreeMap<Ino, Path>,
}
