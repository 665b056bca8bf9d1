//! Which step wrote each line of a file: through all its versions, back to the base.
//!
//! A version is the work of one step (`engine/claims.rs`), so a line belongs to the step of the version that first had it. What was there before a version
//! is found by its file and epoch, not by the history of a path: so a state that a rewind brought back has its own history, and renames need nothing.
//! What replaced another file under its name goes on from that one; a copy goes on from what its writer read.

mod copies;
pub mod lines;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use lines::Map;

use crate::overlay::Overlay;
use crate::overlay::view::{Node, View};
use crate::store::codec::{self, Content, VersionRecord};
use crate::store::history::{self, OpKind};
use crate::store::lineage::{Lineage, Touched};
use crate::store::{StoreError, Table, keys};
use crate::types::{ActorId, At, Epoch, Errno, Ino, Kind, Path, VersionId};

/// Larger files are not looked at line by line, bytes.
pub const LARGEST: u64 = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum BlameError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot look at {0}: {1}")]
    Os(Path, Errno),
    #[error("there is no file {0} there")]
    Missing(Path),
    #[error("{0} is no regular file: it has no lines")]
    NoFile(Path),
    #[error("{0} has more than 64 MiB")]
    TooLarge(Path),
}

pub type Result<T, E = BlameError> = std::result::Result<T, E>;

/// Where a line comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The repository on disk.
    Base,
    Version(Wrote),
}

/// The version that first had a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrote {
    pub version: VersionId,
    pub epoch: Epoch,
    /// A process of the step; the kernel where that is not known, and for what a merge made of two sides.
    pub by: ActorId,
    /// What the file was called then.
    pub path: Path,
}

/// A file's lines with where they come from.
#[derive(Debug)]
pub struct Blamed {
    pub text: Vec<u8>,
    /// For each line, which of `sources`.
    pub marks: Vec<u32>,
    pub sources: Vec<Source>,
    /// How many versions were looked at.
    pub versions: usize,
}

/// A state of the file's bytes.
struct Stage {
    found: Found,
    source: Source,
    /// What could have been the text before, nearest first: numbers of earlier stages.
    before: Vec<usize>,
}

/// The lines of a file as a view has it.
///
/// # Errors
/// When there is no such file, or it cannot be read.
pub fn blame(view: &View<'_>, path: &Path) -> Result<Blamed> {
    let os = |errno| BlameError::Os(path.clone(), errno);
    let node = view.find(path).map_err(os)?.ok_or_else(|| BlameError::Missing(path.clone()))?;
    if node.kind != Kind::File {
        return Err(BlameError::NoFile(path.clone()));
    }
    let mut work = Work { overlay: view.overlay(), stages: Vec::new(), known: FxHashMap::default() };
    let newest = work.collect(view, node, path.clone())?;
    work.carry(newest)
}

/// Where a text is to be read from, and what it was called.
struct Found {
    lineage: Arc<Lineage>,
    node: Node,
    path: Path,
}

struct Work<'o> {
    overlay: &'o Overlay,
    stages: Vec<Stage>,
    /// The stage of a version that was met.
    known: FxHashMap<VersionId, usize>,
}

/// The texts of stages; those that were read last are kept.
struct Texts<'w> {
    overlay: &'w Overlay,
    stages: &'w [Stage],
    last: RefCell<VecDeque<(usize, Rc<Vec<u8>>)>>,
}

impl<'w> Texts<'w> {
    fn new(overlay: &'w Overlay, stages: &'w [Stage]) -> Texts<'w> {
        Texts { overlay, stages, last: RefCell::default() }
    }

    fn get(&self, number: usize) -> Result<Rc<Vec<u8>>> {
        let mut last = self.last.borrow_mut();
        if let Some((_, text)) = last.iter().find(|(known, _)| *known == number) {
            return Ok(text.clone());
        }
        let stage = self.stages.get(number).ok_or_else(|| StoreError::corrupt("a state of a file without a number"))?;
        let text = Rc::new(read(self.overlay, &stage.found)?);
        last.push_front((number, text.clone()));
        last.truncate(TEXTS);
        Ok(text)
    }

    /// What is the same in two of them.
    fn map(&self, (number, before): Edge) -> Result<Map> {
        Ok(Map::of(&self.get(before)?, &self.get(number)?))
    }
}

/// What stages have of those before them.
type Maps = FxHashMap<Edge, Map>;
/// A stage, and one that was before it.
type Edge = (usize, usize);

fn read(overlay: &Overlay, found: &Found) -> Result<Vec<u8>> {
    if found.node.size > LARGEST {
        return Err(BlameError::TooLarge(found.path.clone()));
    }
    let os = |errno| BlameError::Os(found.path.clone(), errno);
    let reader = View::new(overlay, found.lineage.clone()).open(&found.node).map_err(os)?;
    let mut text = vec![0; found.node.size as usize];
    let mut at = 0;
    while let Some(rest) = text.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match reader.read_at(at as u64, rest).map_err(os)? {
            0 => break,
            got => at += got,
        }
    }
    text.truncate(at);
    Ok(text)
}

/// In so many states before it is looked for a line that came back.
const BROUGHT_BACK: usize = 64;
/// So many texts are kept at once.
const TEXTS: usize = 4;
/// So many threads compare at most; one alone where a text has more bytes than this, or there are few to compare.
const THREADS: usize = 8;
const LARGE: u64 = 4 << 20;
const FEW: usize = 16;

impl<'o> Work<'o> {
    fn view(&self, lineage: &Arc<Lineage>) -> View<'o> {
        View::new(self.overlay, lineage.clone())
    }

    /// Collects the stages of a file; returns the newest one's number. They are numbered from the newest to the oldest.
    fn collect(&mut self, view: &View<'_>, node: Node, path: Path) -> Result<usize> {
        let mut waiting = vec![(None, Found { lineage: view.lineage().clone(), node, path })];
        let mut newest = None;
        while let Some((after, found)) = waiting.pop() {
            let known = match found.node.content() {
                Content::Version { id, .. } => self.known.get(&id).copied(),
                Content::Base | Content::None => None,
            };
            let number = match known {
                Some(number) => number,
                None => {
                    let (number, before) = self.stage(found)?;
                    waiting.extend(before.into_iter().rev().map(|found| (Some(number), found)));
                    number
                }
            };
            match after {
                Some(after) => {
                    if let Some(stage) = self.stages.get_mut(after) {
                        stage.before.push(number);
                    }
                }
                None => newest = Some(number),
            }
        }
        newest.ok_or_else(|| StoreError::corrupt("a file without a state").into())
    }

    /// Adds a stage; returns what was before it.
    fn stage(&mut self, found: Found) -> Result<(usize, Vec<Found>)> {
        let number = self.stages.len();
        let (source, before) = match found.node.content() {
            Content::Version { id, .. } => {
                self.known.insert(id, number);
                let record = self.version(id)?;
                if record.ino == Ino(0) {
                    // What an apply kept of the base.
                    let before = self.applied(&found)?;
                    self.stages.push(Stage { found, source: Source::Base, before: Vec::new() });
                    return Ok((number, before));
                }
                let (path, before) = self.before(id, &record, &found)?;
                (Source::Version(Wrote { version: id, epoch: record.epoch, by: record.by, path }), before)
            }
            Content::Base => (Source::Base, self.applied(&found)?),
            Content::None => (Source::Base, Vec::new()),
        };
        self.stages.push(Stage { found, source, before: Vec::new() });
        Ok((number, before))
    }

    fn version(&self, id: VersionId) -> Result<VersionRecord> {
        let value = self.overlay.store().kv.get(Table::Tree, &keys::version(id))?;
        let value = value.ok_or_else(|| StoreError::corrupt(format!("version {} is missing", id.0)))?;
        Ok(codec::get_version(&value)?)
    }

    /// The timeline in which a file had a state in an epoch, and its path then.
    fn state(&self, lineage: &Lineage, ino: Ino, epoch: Epoch) -> Result<Option<(At, Option<Path>)>> {
        let kv = &*self.overlay.store().kv;
        let mut timelines: Vec<_> = lineage.segments().iter().map(|at| at.timeline).collect();
        timelines.extend(history::timelines(kv)?.into_iter().map(|t| t.id));
        for timeline in timelines {
            if kv.get(Table::Tree, &keys::inode(timeline, ino, epoch))?.is_some() {
                let path = kv.get(Table::Tree, &keys::touched_inode(timeline, epoch, ino))?;
                return Ok(Some((At { timeline, epoch }, path.map(|path| Path::new(&path)))));
            }
        }
        Ok(None)
    }

    /// What the file was called when a version was made, and what was there before it.
    fn before(&self, id: VersionId, record: &VersionRecord, found: &Found) -> Result<(Path, Vec<Found>)> {
        let os = |errno| BlameError::Os(found.path.clone(), errno);
        let kv = &*self.overlay.store().kv;
        let known = self.state(&found.lineage, record.ino, record.epoch)?;
        let Some((at, touched)) = known else { return Ok((found.path.clone(), Vec::new())) };
        let then = Arc::new(Lineage::of(kv, at)?);
        let earlier = Arc::new(Lineage::of(kv, At { epoch: Epoch(at.epoch.0.saturating_sub(1)), ..at })?);
        let earlier = self.before_empty(earlier, record.ino)?;
        let (view, view_before) = (self.view(&then), self.view(&earlier));
        // The name that it had then: that by which it is asked for, if it had it, or that which it had when it changed.
        let is_it = |path: &Path| -> Result<bool> {
            Ok(view.find(path).map_err(os)?.is_some_and(|node| node.ino == record.ino))
        };
        let mut path = found.path.clone();
        if !is_it(&path)? {
            let mut names: Vec<Path> = touched.into_iter().collect();
            if !names.first().map_or(Ok(false), is_it)? {
                // Or that which it got afterwards.
                let before = Lineage::of(kv, At { epoch: Epoch(at.epoch.0.saturating_sub(1)), ..at })?;
                Lineage::touched(kv, &before, &then, &mut |touched| match touched {
                    Touched::Name { path, .. } => names.push(path),
                    Touched::Inode { .. } => {}
                })?;
            }
            for name in names {
                if is_it(&name)? {
                    path = name;
                    break;
                }
            }
        }
        let is_file = |node: &Node| node.kind == Kind::File;
        let mut before = Vec::new();
        let own = view_before.by_number(record.ino).map_err(os)?.filter(is_file);
        let own = match own.filter(|node| node.content() != Content::None) {
            Some(node) => Some((earlier.clone(), node)),
            None => self.base_of(&view, record.ino)?,
        };
        if let Some((lineage, node)) = own {
            before.push(Found { lineage, node, path: path.clone() });
        } else if let Some(node) = view_before.find(&path).map_err(os)?.filter(is_file) {
            // It replaced another file.
            before.push(Found { lineage: earlier.clone(), node, path: path.clone() });
        } else if let Some(replaced) = self.replaced(found, record)? {
            before.push(replaced);
        } else if record.by != ActorId::KERNEL {
            before.extend(self.copied(&view_before, record, at.epoch, &found.node)?.map(|(node, path)| Found {
                lineage: earlier.clone(),
                node,
                path,
            }));
        }
        if record.by == ActorId::KERNEL {
            before.extend(self.other_side(at, &path)?);
        }
        before.retain(|found| !matches!(found.node.content(), Content::Version { id: same, .. } if same == id));
        Ok((path, before))
    }

    /// What a file took the place of when it got the name that it has, later than when it was written.
    fn replaced(&self, found: &Found, record: &VersionRecord) -> Result<Option<Found>> {
        let os = |errno| BlameError::Os(found.path.clone(), errno);
        let Some((dir, name)) = found.path.split_last() else { return Ok(None) };
        let Some(dir) = self.view(&found.lineage).find(&dir).map_err(os)? else { return Ok(None) };
        let kv = &*self.overlay.store().kv;
        for segment in found.lineage.segments() {
            let (from, to) = keys::dentry_states(segment.timeline, dir.ino, name, segment.epoch);
            let mut named = None;
            kv.scan(Table::Tree, &from, &to, &mut |key, _| {
                named = keys::last_number(key).map(|epoch| Epoch(!epoch));
                ControlFlow::Break(())
            })?;
            // A name that was there when the file was written is no later one.
            let Some(epoch) = named else { continue };
            if epoch <= record.epoch {
                return Ok(None);
            }
            let at = At { timeline: segment.timeline, epoch: Epoch(epoch.0.saturating_sub(1)) };
            // It was renamed if it was there before; a rewind brings back what was not.
            let then = Arc::new(Lineage::of(kv, at)?);
            let was = self.view(&then).by_number(record.ino).map_err(os)?;
            if was.is_none_or(|was| was.attr.nlink == 0 || was.content() != found.node.content()) {
                return Ok(None);
            }
            let node = self.at(at, &found.path)?;
            return Ok(node.filter(|before| before.node.ino != record.ino));
        }
        Ok(None)
    }

    /// The state before a file was made, if it was empty and never written to in the state that is given; otherwise that one.
    fn before_empty(&self, at: Arc<Lineage>, ino: Ino) -> Result<Arc<Lineage>> {
        let kv = &*self.overlay.store().kv;
        let mut earlier = at;
        loop {
            let node = self.view(&earlier).by_number(ino).map_err(|errno| BlameError::Os(Path::root(), errno))?;
            if node.is_none_or(|node| node.content() != Content::None) {
                return Ok(earlier);
            }
            let mut found = None;
            for segment in earlier.segments() {
                let (from, to) = keys::inode_states(segment.timeline, ino, segment.epoch);
                kv.scan(Table::Tree, &from, &to, &mut |key, _| {
                    found = keys::parse_inode(key).map(|(_, epoch)| At { timeline: segment.timeline, epoch });
                    ControlFlow::Break(())
                })?;
                if found.is_some() {
                    break;
                }
            }
            // Epochs get smaller, so this ends.
            let Some(at) = found.filter(|at| at.epoch > Epoch::BASE) else { return Ok(earlier) };
            earlier = Arc::new(Lineage::of(kv, At { epoch: Epoch(at.epoch.0.saturating_sub(1)), ..at })?);
        }
    }

    /// The base file that a file of the overlay began as.
    fn base_of(&self, view: &View<'_>, ino: Ino) -> Result<Option<(Arc<Lineage>, Node)>> {
        let record = view.by_number(ino).map_err(|errno| BlameError::Os(Path::root(), errno))?.and_then(|n| n.record);
        let Some(origin) = record.and_then(|record| record.origin.clone()) else { return Ok(None) };
        let base = View::base(self.overlay);
        let node = base.find(&origin.path).map_err(|errno| BlameError::Os(origin.path.clone(), errno))?;
        Ok(node.filter(|node| node.kind == Kind::File).map(|node| (base.lineage().clone(), node)))
    }

    /// A merge brought a text from another state.
    fn other_side(&self, at: At, path: &Path) -> Result<Option<Found>> {
        let kv = &*self.overlay.store().kv;
        let merge = history::operations(kv)?.into_iter().find(|o| o.kind == OpKind::Merge && o.after == at);
        let Some(brought) = merge.and_then(|merge| merge.brought) else { return Ok(None) };
        self.at(brought, path)
    }

    /// What is in the base may have come there by an apply.
    fn applied(&self, found: &Found) -> Result<Vec<Found>> {
        let kv = &*self.overlay.store().kv;
        let has = |at: At| found.lineage.segments().iter().any(|s| s.timeline == at.timeline && at.epoch <= s.epoch);
        let applies = history::operations(kv)?;
        for apply in applies.iter().rev().filter(|o| o.kind == OpKind::Apply && !o.undone && has(o.before)) {
            let before = self.at(apply.before, &found.path)?;
            if let Some(before) = before.filter(|f| matches!(f.node.content(), Content::Version { .. })) {
                return Ok(vec![before]);
            }
        }
        Ok(Vec::new())
    }

    fn at(&self, at: At, path: &Path) -> Result<Option<Found>> {
        let lineage = Arc::new(Lineage::of(&*self.overlay.store().kv, at)?);
        let node = self.view(&lineage).find(path).map_err(|errno| BlameError::Os(path.clone(), errno))?;
        let node = node.filter(|node| node.kind == Kind::File);
        Ok(node.map(|node| Found { lineage, node, path: path.clone() }))
    }

    /// Compares each stage with those before it.
    fn maps(&self) -> Result<Maps> {
        let of = |(number, stage): (usize, &Stage)| {
            stage.before.iter().map(move |&before| (number, before)).collect::<Vec<_>>()
        };
        let edges: Vec<Edge> = self.stages.iter().enumerate().flat_map(of).collect();
        let largest = self.stages.iter().map(|stage| stage.found.node.size).max().unwrap_or_default();
        let threads = match largest > LARGE || edges.len() < FEW {
            true => 1,
            false => std::thread::available_parallelism().map_or(1, usize::from).min(THREADS),
        };
        let some = |edges: &[Edge]| -> Result<Vec<(Edge, Map)>> {
            let texts = Texts::new(self.overlay, &self.stages);
            edges.iter().map(|&edge| Ok((edge, texts.map(edge)?))).collect()
        };
        // Neighbours share a text.
        let parts: Vec<&[Edge]> = edges.chunks(edges.len().div_ceil(threads).max(1)).collect();
        let found: Vec<Result<Vec<(Edge, Map)>>> = match parts.as_slice() {
            [] => Vec::new(),
            [only] => vec![some(only)],
            [first, rest @ ..] => std::thread::scope(|scope| {
                let others: Vec<_> = rest.iter().map(|part| scope.spawn(|| some(part))).collect();
                let first = some(first);
                let joined = |other: std::thread::ScopedJoinHandle<'_, _>| {
                    other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                };
                std::iter::once(first).chain(others.into_iter().map(joined)).collect()
            }),
        };
        let mut maps = Maps::default();
        for part in found {
            maps.extend(part?);
        }
        Ok(maps)
    }

    /// From the oldest stage to the newest.
    fn carry(self, newest: usize) -> Result<Blamed> {
        let texts = Texts::new(self.overlay, &self.stages);
        let maps = self.maps()?;
        let mut marks: Vec<Option<Vec<u32>>> = (0..self.stages.len()).map(|_| None).collect();
        // Each after those that are before it, whatever the numbers are.
        let mut todo = vec![newest];
        let mut entered = vec![false; self.stages.len()];
        while let Some(&number) = todo.last() {
            let Some(stage) = self.stages.get(number) else { break };
            let open = |n: &usize| marks.get(*n).is_some_and(Option::is_none) && entered.get(*n) == Some(&false);
            let waits: Vec<usize> = stage.before.iter().copied().filter(open).collect();
            if let Some(slot) = entered.get_mut(number) {
                *slot = true;
            }
            if !waits.is_empty() {
                todo.extend(waits);
                continue;
            }
            todo.pop();
            if marks.get(number).is_some_and(Option::is_some) {
                continue;
            }
            let done = self.marks_of(number, &marks, &maps, &texts)?;
            if let Some(slot) = marks.get_mut(number) {
                *slot = Some(done);
            }
        }
        let versions = self.stages.len();
        let sources = self.stages.iter().map(|stage| stage.source.clone()).collect();
        let text = texts.get(newest)?.to_vec();
        let marks = marks.get_mut(newest).and_then(Option::take).unwrap_or_default();
        Ok(Blamed { text, marks, sources, versions })
    }

    /// What no process wrote was there before: lines that a step had removed, and that came back when it was taken out again.
    fn brought_back(
        &self,
        number: usize,
        texts: &Texts<'_>,
        marks: &[Option<Vec<u32>>],
        lines: &mut [Option<u32>],
    ) -> Result<()> {
        let mut at = number;
        for _ in 0..BROUGHT_BACK {
            let next = self.stages.get(at).and_then(|stage| stage.before.first());
            let Some(&before) = next.filter(|_| lines.iter().any(Option::is_none)) else { break };
            if let Some(Some(known)) = marks.get(before) {
                let carried = texts.map((number, before))?.carry(known);
                lines.iter_mut().zip(carried).for_each(|(line, other)| *line = line.or(other));
            }
            at = before;
        }
        Ok(())
    }

    fn marks_of(&self, number: usize, marks: &[Option<Vec<u32>>], maps: &Maps, texts: &Texts<'_>) -> Result<Vec<u32>> {
        let Some(stage) = self.stages.get(number) else { return Ok(Vec::new()) };
        let mut lines: Vec<Option<u32>> = Vec::new();
        for before in &stage.before {
            let (Some(Some(known)), Some(map)) = (marks.get(*before), maps.get(&(number, *before))) else { continue };
            let carried = map.carry(known);
            if lines.is_empty() {
                lines = carried;
            } else {
                lines.iter_mut().zip(carried).for_each(|(line, other)| *line = line.or(other));
            }
        }
        if lines.is_empty() {
            lines = vec![None; lines::lines(&texts.get(number)?)];
        }
        if matches!(&stage.source, Source::Version(wrote) if wrote.by == ActorId::KERNEL) {
            self.brought_back(number, texts, marks, &mut lines)?;
        }
        Ok(lines.into_iter().map(|mark| mark.unwrap_or(number as u32)).collect())
    }
}
