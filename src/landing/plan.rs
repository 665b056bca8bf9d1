//! From what differs between the base and a view to the steps that bring the view's state into the base.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::keep::{Made, Ours};
use super::settle::seen;
use super::shown::Shown;
use super::{Decide, Result, Selection, os};
use crate::apply::{self, Conflict, Content, ContentId, Expect, Found, Make, Meta, Plan, Seen, Step};
use crate::merge::{self, Favor, Merged};
use crate::overlay::Overlay;
use crate::overlay::places::Places;
use crate::overlay::restore::differs;
use crate::overlay::view::{Node, Reader, View};
use crate::overlay::walk::{Met, walk};
use crate::store::codec::Content as Bytes;
use crate::types::{Errno, Kind, Path, Range, VersionId};

/// Larger files are not merged. Bytes.
const LARGEST: u64 = 8 << 20;

/// Where the bytes of a step come from.
#[derive(Clone, Debug)]
pub enum Wanted {
    File(Box<Node>),
    Bytes(Arc<[u8]>),
    /// A kept version, of this size.
    Version(VersionId, u64),
}

/// The bytes of all steps.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    list: Vec<Wanted>,
}

/// A plan, and what keeps it from being carried out as it is.
#[derive(Clone, Debug)]
pub struct Planned {
    pub plan: Plan,
    pub contents: Contents,
    pub conflicts: Vec<Conflict>,
    /// What somebody else has there is overwritten, as the user wants it.
    pub decided: Vec<Path>,
}

impl Planned {
    pub(super) fn new(id: u64) -> Planned {
        let plan = Plan { id, steps: Vec::new() };
        Planned { plan, contents: Contents::default(), conflicts: Vec::new(), decided: Vec::new() }
    }

    pub fn paths(&self) -> Vec<Path> {
        let is_change = |s: &&Step| s.make != Make::Keep;
        let mut paths: Vec<Path> = self.plan.steps.iter().filter(is_change).map(|s| s.path.clone()).collect();
        paths.sort();
        paths
    }
}

impl Contents {
    pub(super) fn add(&mut self, wanted: Wanted) -> ContentId {
        self.list.push(wanted);
        ContentId(self.list.len() as u64 - 1)
    }

    pub(super) fn source<'o>(&'o self, overlay: &'o Overlay) -> Bytesource<'o> {
        Bytesource { overlay, contents: self }
    }
}

/// Opens the bytes of a plan's steps.
pub(super) struct Bytesource<'o> {
    overlay: &'o Overlay,
    contents: &'o Contents,
}

impl apply::Source for Bytesource<'_> {
    fn open(&self, content: ContentId) -> Result<Box<dyn Content + '_>, Errno> {
        let at = usize::try_from(content.0).map_err(|_| Errno::EINVAL)?;
        Ok(match self.contents.list.get(at).ok_or(Errno::EINVAL)? {
            Wanted::File(node) => Box::new(Open { size: node.size, reader: View::base(self.overlay).open(node)? }),
            Wanted::Bytes(bytes) => Box::new(Memory(bytes)),
            Wanted::Version(id, size) => Box::new(Stored { overlay: self.overlay, id: *id, size: *size }),
        })
    }
}

struct Open<'o> {
    size: u64,
    reader: Reader<'o>,
}

impl Content for Open<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<usize, Errno> {
        self.reader.read_at(offset, out)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range>, Errno> {
        self.reader.next_data(offset, self.size)
    }
}

struct Memory<'o>(&'o [u8]);

impl Content for Memory<'_> {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<usize, Errno> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.0.get(at..)).unwrap_or_default();
        let len = rest.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        Ok(len)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range>, Errno> {
        Ok((offset < self.size()).then(|| Range::new(offset, self.size() - offset)))
    }
}

struct Stored<'o> {
    overlay: &'o Overlay,
    id: VersionId,
    size: u64,
}

impl Content for Stored<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<usize, Errno> {
        let len = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        let piece = out.get_mut(..len).unwrap_or_default();
        self.overlay.store().data.read(self.id, offset, piece).map_err(|e| e.errno())?;
        Ok(len)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range>, Errno> {
        self.overlay.version_data(self.id, offset, self.size)
    }
}

/// The steps for everything selected that differs between the base and `target`.
///
/// # Errors
/// When base or log cannot be read.
pub fn plan(overlay: &Overlay, target: &View<'_>, selection: &Selection, id: u64) -> Result<Planned> {
    let look = os("cannot compare with the repository");
    let base = View::base(overlay);
    let mut maker = Maker {
        base: &base,
        now: View::now(overlay),
        target,
        selection,
        planned: Planned::new(id),
        places: Places::new(target),
        links: FxHashMap::default(),
        ours: None,
        shown: Shown::default(),
        left: Vec::new(),
    };
    let from = match &selection.only {
        Some((from, _)) => View::new(overlay, from.clone()),
        None => base.clone(),
    };
    let (mut pairs, mut bad) = (BTreeMap::new(), None);
    let skip = |name: &[u8]| name == b".git";
    let enters =
        |dir: &Path| selection.paths.is_empty() || selection.paths.iter().any(|p| p.is_below(dir) || dir.is_below(p));
    let has = |path: &Path| selection.paths.is_empty() || selection.paths.iter().any(|p| path.is_below(p));
    walk(&from, target, &skip, &enters, &mut |path, met| match met {
        Met::Pair(old, new) if has(&path) => {
            pairs.insert(path, (old, new));
        }
        Met::Pair(..) => {}
        Met::CannotList(errno) | Met::CannotLook(errno) => bad = Some(errno),
    })
    .map_err(&look)?;
    if let Some(errno) = bad {
        return Err(look(errno));
    }
    for (path, (old, new)) in &pairs {
        if selection.only.is_some() {
            maker.change(path, old.as_ref(), new.as_ref()).map_err(&look)?;
        } else {
            maker.state(path, old.as_ref(), new.as_ref()).map_err(&look)?;
        }
    }
    maker.around_left();
    maker.directories_above().map_err(&look)?;
    Ok(maker.planned)
}

struct Maker<'m, 'o> {
    base: &'m View<'o>,
    now: View<'o>,
    target: &'m View<'o>,
    selection: &'m Selection,
    planned: Planned,
    places: Places<'m, 'o>,
    /// Files with several names: the path of the first.
    links: FxHashMap<crate::types::Ino, Path>,
    /// What regentfs itself did in the base; found out when it matters.
    ours: Option<Ours>,
    shown: Shown,
    /// Left as the base has them.
    left: Vec<Path>,
}

type Look<T> = Result<T, Errno>;

impl Maker<'_, '_> {
    /// The base is to be as the target at one path.
    fn state(&mut self, path: &Path, base: Option<&Node>, target: Option<&Node>) -> Look<()> {
        if !differs(self.target, base, target)? {
            return Ok(());
        }
        let Some(expect) = self.expect(path, base, target)? else { return Ok(()) };
        let make = match target {
            Some(node) => self.make(path, base, node)?,
            None => Make::Remove,
        };
        self.planned.plan.steps.push(Step { path: path.clone(), expect, make });
        Ok(())
    }

    /// What changed between two states at one path is to be done to what the base has.
    fn change(&mut self, path: &Path, old: Option<&Node>, new: Option<&Node>) -> Look<()> {
        if !differs(self.target, old, new)? {
            return Ok(());
        }
        let base = self.base.find(path)?;
        if !differs(self.target, base.as_ref(), new)? {
            return Ok(());
        }
        if !differs(self.target, base.as_ref(), old)? {
            return self.state(path, base.as_ref(), new);
        }
        let both = match (&base, old, new) {
            (Some(base), Some(old), Some(new)) => self.merged(base, old, new)?.map(|bytes| (base, new, bytes)),
            _ => None,
        };
        match both {
            Some((base, new, bytes)) => {
                let Some(expect) = self.expect(path, Some(base), Some(new))? else { return Ok(()) };
                let content = self.planned.contents.add(Wanted::Bytes(bytes.into()));
                let make = Make::File { content, meta: self.meta(Some(base), new)? };
                self.planned.plan.steps.push(Step { path: path.clone(), expect, make });
            }
            None if self.selection.decide == Decide::Ours => return self.state(path, base.as_ref(), new),
            None => {
                let found = base.as_ref().map_or(Found::Nothing, |b| Found::Is(seen(b)));
                let expected = old.map_or(Expect::Nothing, |o| Expect::Is(seen(o)));
                self.planned.conflicts.push(Conflict { path: path.clone(), expected, found });
            }
        }
        Ok(())
    }

    /// The bytes with both changes, if they can be had.
    fn merged(&self, base: &Node, old: &Node, new: &Node) -> Look<Option<Vec<u8>>> {
        let all = [base, old, new];
        if all.iter().any(|n| n.kind != Kind::File || n.size > LARGEST) {
            return Ok(None);
        }
        let load = |node: &Node| -> Look<Vec<u8>> {
            let mut bytes = vec![0; usize::try_from(node.size).map_err(|_| Errno::EFBIG)?];
            let got = self.base.open(node)?.read_at(0, &mut bytes)?;
            bytes.truncate(got);
            Ok(bytes)
        };
        let (ours, ancestor, theirs) = (load(base)?, load(old)?, load(new)?);
        if [&ours, &ancestor, &theirs].iter().any(|b| !merge::is_text(b)) {
            return Ok(None);
        }
        let favor = match self.selection.decide {
            Decide::Refuse => Favor::None,
            Decide::Theirs => Favor::Ours,
            Decide::Ours => Favor::Theirs,
        };
        Ok(match merge::merge(&ancestor, &ours, &theirs, ("repository", "overlay"), favor) {
            Merged::Clean(bytes) => Some(bytes),
            Merged::Conflicts { .. } => None,
        })
    }

    /// What the overlay saw of the base at a path, which must still be there; `None` when the path is left alone.
    fn expect(&mut self, path: &Path, base: Option<&Node>, target: Option<&Node>) -> Look<Option<Expect>> {
        let (expected, found) = match base {
            None => {
                let lost =
                    target.and_then(|t| t.record.as_ref()).and_then(|r| r.origin.as_ref()).filter(|o| o.path == *path);
                let lost = lost.zip(target).map(|(origin, target)| of_origin(target.kind, origin));
                match lost {
                    // Changed here, and gone from the base since.
                    Some(lost) if !self.ours()?.took(&lost) => (Expect::Is(lost), Found::Nothing),
                    _ => return Ok(Some(Expect::Nothing)),
                }
            }
            Some(base) => {
                let is = seen(base);
                match self.known(path, base)? {
                    Some(known) if same(&known, &is) => return Ok(Some(Expect::Is(is))),
                    known if self.is_ours(known.as_ref(), &is)? => return Ok(Some(Expect::Is(is))),
                    Some(known) => (Expect::Is(known), Found::Is(is)),
                    None => (Expect::Nothing, Found::Is(is)),
                }
            }
        };
        match self.selection.decide {
            Decide::Ours => {
                self.planned.decided.push(path.clone());
                Ok(Some(base.map_or(Expect::Nothing, |b| Expect::Is(seen(b)))))
            }
            Decide::Theirs => {
                self.left.push(path.clone());
                Ok(None)
            }
            Decide::Refuse => {
                self.planned.conflicts.push(Conflict { path: path.clone(), expected, found });
                Ok(None)
            }
        }
    }

    /// What regentfs itself did there is nobody else's change, also where a rewind led to before it.
    fn ours(&mut self) -> Look<&Ours> {
        let ours = match self.ours.take() {
            Some(known) => known,
            None => Ours::load(self.base.overlay().store()).map_err(|e| e.errno())?,
        };
        Ok(self.ours.insert(ours))
    }

    /// Whether a file is there that was made by an apply, or is what is known of it but for a name that one took from it: that changes its ctime.
    fn is_ours(&mut self, known: Option<&Seen>, is: &Seen) -> Look<bool> {
        Ok(is_ours(self.ours()?, known, is, 0))
    }

    /// What the overlay knows of the base file that is there; `None` for one that it never saw.
    fn known(&mut self, path: &Path, base: &Node) -> Look<Option<Seen>> {
        let record = self.now.inode(base.ino)?;
        let covered = match path.split_last() {
            Some((dir, name)) => match self.base.find(&dir)? {
                Some(dir) => self.now.entry(dir.ino, name)?.is_some(),
                None => false,
            },
            None => false,
        };
        Ok(match record {
            Some(record) if covered || record.attr.nlink > 0 => record.origin.as_ref().map(|o| of_origin(base.kind, o)),
            // Nothing of the overlay covers it: it is seen as it is. But what came into a directory that was removed or replaced here nobody saw.
            _ if !covered && self.is_shown(path, base)? => Some(seen(base)),
            _ => None,
        })
    }

    fn is_shown(&mut self, path: &Path, base: &Node) -> Look<bool> {
        let here = self.now.find(path)?.is_some_and(|node| node.ino == base.ino);
        Ok(here || self.shown.has(&self.now, base.ino, path)?)
    }

    /// What stands above something that is left as it is cannot go, or become a file.
    fn around_left(&mut self) {
        let left = std::mem::take(&mut self.left);
        let keeps = |make: &Make| matches!(make, Make::Dir { .. } | Make::Meta { .. } | Make::Keep);
        self.planned.plan.steps.retain(|step| keeps(&step.make) || !left.iter().any(|p| p.is_below(&step.path)));
    }

    /// The metadata of a node, where the base has another one or nothing.
    fn meta(&self, base: Option<&Node>, node: &Node) -> Look<Meta> {
        // Those of the same file that nobody set stay as they are.
        let stay = base.is_some_and(|b| b.ino == node.ino) && node.record.as_ref().is_some_and(|r| r.xattrs.is_none());
        let xattrs = if stay { None } else { Some(self.target.xattrs(node)?) };
        let a = &node.attr;
        Ok(Meta { perm: a.perm, uid: a.uid, gid: a.gid, atime: a.atime, mtime: a.mtime, xattrs })
    }

    fn make(&mut self, path: &Path, base: Option<&Node>, node: &Node) -> Look<Make> {
        if node.kind == Kind::Dir {
            return Ok(Make::Dir { meta: self.meta(base, node)? });
        }
        // The same bytes of the same file: only its metadata.
        if base.is_some_and(|b| b.kind == node.kind && b.base == node.base && b.base.is_some())
            && (node.kind != Kind::File || node.content() == Bytes::Base)
            && node.kind != Kind::Symlink
            && !self.is_shared(node, base)?
        {
            return Ok(Make::Meta { meta: self.meta(base, node)? });
        }
        if node.attr.nlink > 1 {
            if let Some(first) = self.links.get(&node.ino) {
                return Ok(Make::Link { to: first.clone() });
            }
            if let Some(other) = self.other_name(path, node)? {
                return Ok(Make::Link { to: other });
            }
            self.links.insert(node.ino, path.clone());
        }
        let meta = self.meta(base, node)?;
        Ok(match node.kind {
            Kind::File => Make::File { content: self.planned.contents.add(Wanted::File(Box::new(node.clone()))), meta },
            Kind::Symlink => Make::Symlink { target: self.target.target(node)?.into(), meta },
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice | Kind::Dir => {
                Make::Special { kind: node.kind, rdev: node.attr.rdev, meta }
            }
        })
    }

    /// Whether the base has the file under names that stand for something else here: then it must not be changed where it is.
    fn is_shared(&self, node: &Node, base: Option<&Node>) -> Look<bool> {
        let (Some(_), Some(origin)) = (base.filter(|b| b.attr.nlink > 1), node.origin_path()) else { return Ok(false) };
        for path in self.places.base_paths(origin)? {
            let is_base = self.base.find(&path)?.is_some_and(|b| base.is_some_and(|base| b.base == base.base));
            if is_base && self.target.find(&path)?.is_some_and(|other| other.ino != node.ino) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Another name of a file that the base has under it as well, unchanged: a new name is linked to it.
    fn other_name(&mut self, path: &Path, node: &Node) -> Look<Option<Path>> {
        let Some(origin) = node.origin_path().cloned() else { return Ok(None) };
        let mut others = vec![origin.clone()];
        for place in self.places.names(node.ino, Some(&origin))? {
            others.extend(self.places.path_at(&place)?);
        }
        for other in others.into_iter().filter(|o| o != path) {
            let (Some(base), Some(there)) = (self.base.find(&other)?, self.target.find(&other)?) else { continue };
            if base.ino != node.ino || there.ino != node.ino || differs(self.target, Some(&base), Some(&there))? {
                continue;
            }
            let steps = &mut self.planned.plan.steps;
            if !steps.iter().any(|s| s.path == other) {
                steps.push(Step { path: other.clone(), expect: Expect::Is(seen(&base)), make: Make::Keep });
            }
            self.links.insert(node.ino, other.clone());
            return Ok(Some(other));
        }
        Ok(None)
    }

    /// Directories that what is made needs and that were not selected themselves.
    fn directories_above(&mut self) -> Look<()> {
        let steps = self.planned.plan.steps.iter().map(|s| &s.path);
        let have: BTreeSet<Path> = steps.chain(self.planned.conflicts.iter().map(|c| &c.path)).cloned().collect();
        let mut needed: BTreeSet<Path> = BTreeSet::new();
        for step in self.planned.plan.steps.iter().filter(|s| s.make != Make::Remove) {
            let mut at = step.path.clone();
            while let Some((dir, _)) = at.split_last() {
                if dir == Path::root() || have.contains(&dir) || !needed.insert(dir.clone()) {
                    break;
                }
                at = dir;
            }
        }
        for path in needed {
            let base = self.base.find(&path)?;
            if base.as_ref().is_some_and(|b| b.kind == Kind::Dir) {
                continue;
            }
            let target = self.target.find(&path)?;
            self.state(&path, base.as_ref(), target.as_ref())?;
        }
        Ok(())
    }
}

fn of_origin(kind: Kind, o: &crate::store::codec::Origin) -> Seen {
    Seen { kind, dev: o.dev, ino: o.ino, born: o.born, size: o.print.size, mtime: o.print.mtime, ctime: o.print.ctime }
}

/// Takings back of takings back that are followed.
pub(super) const DEEPEST: usize = 64;

fn is_ours(ours: &Ours, known: Option<&Seen>, is: &Seen, depth: usize) -> bool {
    let like = |known: &Seen| {
        known.kind != Kind::Dir
            && known.same_file(is)
            && (known.size, known.mtime) == (is.size, is.mtime)
            && ours.took_a_name(is)
    };
    let made = ours.made(is).iter().rfind(|made| same(&made.seen, is) || like(&made.seen));
    let ours = match made {
        None => false,
        // Taking an apply back brings back what somebody else had put there as well.
        Some(Made { instead: Some(instead), foreign: true, .. }) => {
            known.is_some_and(|known| same(known, instead))
                || depth < DEEPEST && is_ours(ours, known, instead, depth + 1)
        }
        Some(_) => true,
    };
    ours || known.is_some_and(like)
}

/// Whether a file is still what it was when it was seen. Of a directory only that it is the same one.
pub(super) fn same(known: &Seen, is: &Seen) -> bool {
    known.same_file(is)
        && (known.kind == Kind::Dir || (known.size, known.mtime, known.ctime) == (is.size, is.mtime, is.ctime))
}
