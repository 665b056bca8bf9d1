//! Bringing single paths back to another state, whatever became of the rest of the tree: which paths get what. `graft.rs` finds out what has to change for it.

use rustc_hash::FxHashSet;

use super::graft::{Wish, Wishes};
use super::places::Places;
use super::transit::Plan;
use super::view::{Node, View};
use super::walk::{Met, Part, walk};
use super::{Ctx, Overlay, Result};
use crate::types::{Attr, Kind, Path, Range};

/// In what two views differ, each in the order of its paths. Directories that only gained or lost names are left out, and so are numbers.
#[derive(Debug, Default)]
pub struct Differences {
    /// Other bytes, other attributes, not there.
    pub paths: Vec<Path>,
    /// Files that are the same, but under other names as well, or not any more.
    pub links: Vec<Path>,
    /// Files that are the same but for their times.
    pub times: Vec<Path>,
}

impl Differences {
    /// Finds them all.
    ///
    /// # Errors
    /// When log or base cannot be read.
    pub fn between(one: &View<'_>, two: &View<'_>) -> Result<Differences> {
        let (mut found, mut bad) = (Differences::default(), None);
        let (before, after) = (Places::new(one), Places::new(two));
        walk(one, two, &|_| false, &|_| true, &mut |path, met| match met {
            Met::Pair(old, new) => {
                let judged = differs(two, old.as_ref(), new.as_ref()).and_then(|other| {
                    let both = old.as_ref().zip(new.as_ref()).filter(|_| !other);
                    Ok((other, both.map_or(Ok(false), |(old, new)| parted((&before, old), (&after, new)))?))
                });
                match judged {
                    Ok((true, _)) => found.paths.push(path),
                    Ok((false, true)) => found.links.push(path),
                    Ok((false, false)) => {
                        let later = |(a, b): (&Node, &Node)| a.kind != Kind::Dir && a.attr.mtime != b.attr.mtime;
                        if old.as_ref().zip(new.as_ref()).is_some_and(later) {
                            found.times.push(path);
                        }
                    }
                    Err(errno) => bad = Some(errno),
                }
            }
            Met::CannotList(errno) | Met::CannotLook(errno) => bad = Some(errno),
        })?;
        for paths in [&mut found.paths, &mut found.links, &mut found.times] {
            paths.sort();
        }
        bad.map_or(Ok(found), Err)
    }

    /// All but times.
    pub fn but_times(mut self) -> Vec<Path> {
        self.paths.append(&mut self.links);
        self.paths.sort();
        self.paths
    }
}

/// Paths at which two views differ, as [`Differences::paths`] has them.
///
/// # Errors
/// When log or base cannot be read.
pub fn differing(one: &View<'_>, two: &View<'_>) -> Result<Vec<Path>> {
    Ok(Differences::between(one, two)?.paths)
}

/// Whether what is the same at one path in two states is a file with other names in each of them. The numbers do not matter: who had it open
/// may have kept the old one.
fn parted(one: (&Places<'_, '_>, &Node), two: (&Places<'_, '_>, &Node)) -> Result<bool> {
    if one.1.kind == Kind::Dir || one.1.ino == two.1.ino || (one.1.attr.nlink < 2 && two.1.attr.nlink < 2) {
        return Ok(false);
    }
    // A name that is new, or gone, is a difference at that name alone.
    let in_both = |(places, node): (&Places<'_, '_>, &Node), other: &Places<'_, '_>| -> Result<Vec<Path>> {
        let mut paths = Vec::new();
        for path in names(places, node)? {
            if other.view().find(&path)?.is_some() {
                paths.push(path);
            }
        }
        Ok(paths)
    };
    Ok(in_both(one, two.0)? != in_both(two, one.0)?)
}

/// All paths of a file, in order.
fn names(places: &Places<'_, '_>, node: &Node) -> Result<Vec<Path>> {
    let mut paths = Vec::new();
    for place in places.names(node.ino, node.origin_path())? {
        paths.extend(places.path_at(&place)?);
    }
    paths.sort();
    Ok(paths)
}

/// Whether two nodes of one path are not the same. Reads bytes only where they may differ.
///
/// # Errors
/// When bytes, targets or attributes cannot be read.
pub fn differs(view: &View<'_>, old: Option<&Node>, new: Option<&Node>) -> Result<bool> {
    let (Some(old), Some(new)) = (old, new) else { return Ok(old.is_some() != new.is_some()) };
    let owner = |a: &Attr| (a.perm, a.uid, a.gid, a.rdev);
    if old.kind != new.kind || owner(&old.attr) != owner(&new.attr) {
        return Ok(true);
    }
    let given = |n: &Node| n.record.as_ref().is_some_and(|r| r.xattrs.is_some());
    // Those of a base file are not in the log.
    if (old.ino != new.ino || given(old) || given(new)) && view.xattrs(old)? != view.xattrs(new)? {
        return Ok(true);
    }
    bytes_differ(view, old, new)
}

/// Whether two nodes of the same type have other bytes, or other targets.
///
/// # Errors
/// When bytes or targets cannot be read.
pub fn bytes_differ(view: &View<'_>, old: &Node, new: &Node) -> Result<bool> {
    const PIECE: usize = 128 << 10;
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
        let trie = now.candidates(past, &|_| false)?;
        // What is below another one comes with it.
        let asked: FxHashSet<&Path> = paths.iter().collect();
        let tops = |path: &&&Path| path.split_last().is_none_or(|(above, _)| !within(&asked, &above));
        let (places, then) = (Places::new(&now), Places::new(past));
        let mut restore = Restore { past, now: &now, places, then, asked: &asked, wishes: Wishes::default() };
        for path in asked.iter().filter(tops) {
            restore.top(path, Part::These(&trie))?;
        }
        let wishes = restore.wishes;
        self.plan_wishes(past, wishes, ctx)
    }
}

/// Whether a path, or one above it, is in a set.
fn within(set: &FxHashSet<&Path>, path: &Path) -> bool {
    let mut at = path.clone();
    loop {
        if set.contains(&at) {
            return true;
        }
        match at.split_last() {
            Some((above, _)) => at = above,
            None => return false,
        }
    }
}

struct Restore<'r, 'a> {
    past: &'r View<'a>,
    now: &'r View<'a>,
    places: Places<'r, 'a>,
    then: Places<'r, 'a>,
    asked: &'r FxHashSet<&'r Path>,
    wishes: Wishes,
}

impl Restore<'_, '_> {
    /// A path that is asked for.
    fn top(&mut self, path: &Path, mut part: Part<'_>) -> Result<()> {
        let (mut is, mut was) = (Some(self.now.root()?), Some(self.past.root()?));
        for name in path.components() {
            part = match part.of(was.as_ref(), is.as_ref()).at(name) {
                Some(part) => part,
                // Nothing was changed there.
                None => return Ok(()),
            };
            let look = |view: &View<'_>, dir: Option<Node>| match dir.filter(|d| d.kind == Kind::Dir) {
                Some(dir) => view.child(&dir, name),
                None => Ok(None),
            };
            (is, was) = (look(self.now, is)?, look(self.past, was)?);
        }
        self.pair(path, is, was, part)
    }

    /// What a path is, and what it was.
    fn pair(&mut self, path: &Path, is: Option<Node>, was: Option<Node>, part: Part<'_>) -> Result<()> {
        match (is, was) {
            (None, None) => {}
            (Some(is), None) => self.wishes.add(path.clone(), Wish::Remove(is)),
            (None, Some(was)) => self.wishes.add(path.clone(), Wish::Add { node: was, whole: true }),
            (Some(is), Some(was)) if is.kind == Kind::Dir && was.kind == Kind::Dir => {
                if is.ino != was.ino && self.is_free(path, &was)? {
                    self.replace(path, is, was);
                    return Ok(());
                }
                self.wishes.add(path.clone(), Wish::Become(is.clone(), was.clone()));
                let part = part.of(Some(&was), Some(&is));
                for name in part.names((self.past, Some(&was)), (self.now, Some(&is)))? {
                    let (below, then) = (self.now.child(&is, &name)?, self.past.child(&was, &name)?);
                    let part = part.at(&name).unwrap_or(Part::All);
                    self.pair(&path.join(&name), below, then, part)?;
                }
            }
            (Some(is), Some(was)) if is.ino == was.ino => self.wishes.add(path.clone(), Wish::Become(is, was)),
            // Another file with the same bytes may stay.
            (Some(is), Some(was))
                if !differs(self.now, Some(&was), Some(&is))? && !self.can_be_linked(&is, &was)? => {}
            (Some(is), Some(was)) => self.replace(path, is, was),
        }
        Ok(())
    }

    /// Whether a file that is the same as it was has names that it did not have, or can have those again.
    fn can_be_linked(&self, is: &Node, was: &Node) -> Result<bool> {
        if !parted((&self.places, is), (&self.then, was))? {
            return Ok(false);
        }
        let (has, had) = (names(&self.places, is)?, names(&self.then, was)?);
        // That file is free to come back under all names that are asked for.
        let gone = self.now.inode(was.ino)?.map_or(was.base.is_none(), |record| record.attr.nlink == 0);
        if gone || has.iter().any(|path| !had.contains(path)) {
            return Ok(true);
        }
        let mut others = had.iter().filter(|path| !has.contains(path));
        others.try_fold(false, |can, path| {
            let lives = self.now.find(path)?.filter(|node| node.ino == was.ino);
            Ok(can || (lives.is_some() && !differs(self.now, Some(was), lives.as_ref())?))
        })
    }

    fn replace(&mut self, path: &Path, is: Node, was: Node) {
        self.wishes.add(path.clone(), Wish::Remove(is));
        self.wishes.add(path.clone(), Wish::Add { node: was, whole: true });
    }

    /// Whether a directory of the past can come back under its number: it is gone, or where it is now it goes.
    fn is_free(&self, path: &Path, dir: &Node) -> Result<bool> {
        let at = match self.now.inode(dir.ino)? {
            Some(record) if record.attr.nlink == 0 => return Ok(true),
            Some(_) => self.places.path(dir.ino)?,
            None if dir.base.is_none() => return Ok(true),
            None => match dir.origin_path() {
                Some(base_path) => self.places.path_of_base(dir.ino, base_path)?,
                None => None,
            },
        };
        Ok(at.is_none_or(|at| at != *path && within(self.asked, &at)))
    }
}
