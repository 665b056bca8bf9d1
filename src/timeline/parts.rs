//! From steps to states: between which two states of the tree each part of a step lies, and which files it is about.
//!
//! An epoch can have several steps, each with files of its own. What a step did in several epochs is one part as long as nobody else came to the
//! same files in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::overlay::Overlay;
use crate::overlay::view::Node;
use crate::query::QueryError;
use crate::query::chosen::Choice;
use crate::query::steps::{Piece, StepId, Steps, each_change, pieces};
use crate::store::history;
use crate::store::lineage::{Lineage, Touched};
use crate::store::{Kv, StoreError};
use crate::types::{ActorId, At, Epoch, Ino, Path, Seq, Timeline};

/// One change between two states, to some files only.
#[derive(Clone, Debug)]
pub struct Part {
    /// The state before it.
    pub from: Arc<Lineage>,
    pub to: Arc<Lineage>,
    pub piece: Piece,
    /// What the steps in it have in common, as whoever asked for it tells them apart.
    pub class: u64,
}

impl Part {
    /// Whether a path, with what was there and what is there, belongs to it.
    pub fn has(&self, path: &Path, old: Option<&Node>, new: Option<&Node>) -> bool {
        let inodes: Vec<_> = [old, new].into_iter().flatten().map(|node| node.ino).collect();
        self.piece.has(path, &inodes)
    }
}

/// The parts of all steps that are wanted, the oldest first.
///
/// # Errors
/// When the log cannot be read.
pub fn parts(
    overlay: &Overlay,
    steps: &Steps,
    wanted: &dyn Fn(StepId, ActorId) -> bool,
) -> Result<Vec<Part>, QueryError> {
    let kv = &*overlay.store().kv;
    let homes = homes(kv)?;
    let pieces = pieces(overlay.store(), steps, wanted)?;
    let at_home = |(epoch, piece)| Some((At { timeline: *homes.get(&epoch)?, epoch }, 0, piece));
    Ok(join(kv, pieces.into_iter().filter_map(at_home), &BTreeSet::new())?)
}

/// What is chosen of the history of a state.
#[derive(Debug, Default)]
pub struct Found {
    /// The oldest first.
    pub parts: Vec<Part>,
    /// Some of it was done in other timelines: that is left out.
    pub elsewhere: bool,
    /// The states of some of it were collected: that is left out.
    pub collected: bool,
}

/// The parts of what is chosen, as far as it is in the past of a sealed state. None of them reaches beyond one of the epochs in `apart`, or has steps of
/// two classes.
///
/// # Errors
/// When the log cannot be read.
pub fn chosen(
    overlay: &Overlay,
    steps: &Steps,
    choice: &Choice<'_>,
    class: &dyn Fn(Option<(StepId, ActorId)>) -> u64,
    state: &Lineage,
    apart: &BTreeSet<Epoch>,
) -> Result<Found, QueryError> {
    let kv = &*overlay.store().kv;
    let (homes, mut found) = (homes(kv)?, Found::default());
    let is_past = |at: &At| state.segments().iter().any(|s| s.timeline == at.timeline && at.epoch <= s.epoch);
    let mut wanted: BTreeMap<(Epoch, u64), (At, Piece)> = BTreeMap::new();
    let mut lost: BTreeMap<Epoch, Piece> = BTreeMap::new();
    each_change(overlay.store(), steps, Seq(0), &mut |event, writer| {
        let epoch = event.epoch;
        if epoch > state.at().epoch {
            return;
        }
        let at = homes.get(&epoch).map(|&timeline| At { timeline, epoch });
        match (at, choice.has(writer)) {
            (Some(at), true) if is_past(&at) => {
                wanted.entry((epoch, class(writer))).or_insert((at, Piece::default())).1.add(&event.note);
            }
            (Some(_), true) => found.elsewhere |= writer.is_some(),
            (Some(_), false) => {}
            (None, true) => found.collected = true,
            (None, false) => lost.entry(epoch).or_default().add(&event.note),
        }
    })?;
    // What was collected is a part of the next state that is still there, as far as it can be seen.
    let mut previous: BTreeMap<Epoch, Epoch> =
        history::snapshots(kv)?.into_iter().map(|s| (s.epoch, s.previous)).collect();
    previous.extend(history::living(kv)?.into_iter().map(|t| (t.head, t.last)));
    wanted.retain(|(epoch, _), (_, piece)| {
        let from = previous.get(epoch).copied().unwrap_or_default().next();
        let whole = from >= *epoch || !lost.range(from..*epoch).any(|(_, other)| other.meets(piece));
        found.collected |= !whole;
        whole
    });
    found.parts = join(kv, wanted.into_iter().map(|((_, class), (at, piece))| (at, class, piece)), apart)?;
    Ok(found)
}

/// The timeline of each epoch that is sealed or open.
pub fn homes(kv: &dyn Kv) -> Result<BTreeMap<Epoch, Timeline>, StoreError> {
    let mut homes: BTreeMap<Epoch, Timeline> =
        history::snapshots(kv)?.into_iter().map(|s| (s.epoch, s.timeline)).collect();
    homes.extend(history::living(kv)?.into_iter().map(|t| (t.head, t.id)));
    Ok(homes)
}

/// Epochs that can be looked at as one: between the first and the last nobody else came to the same files.
struct Group {
    first: At,
    last: Epoch,
    class: u64,
    piece: Piece,
    /// What others changed in it.
    others: Others,
}

#[derive(Default)]
struct Others {
    paths: BTreeSet<Path>,
    inodes: FxHashSet<Ino>,
}

impl Others {
    fn add(&mut self, (path, ino): (Path, Option<Ino>)) {
        self.paths.insert(path);
        self.inodes.extend(ino);
    }

    fn have(&self, piece: &Piece) -> bool {
        let below =
            |dir: &Path| self.paths.range(dir.clone()..).take_while(|p| starts_with(p, dir)).any(|p| p.is_below(dir));
        piece.inodes.iter().any(|ino| self.inodes.contains(ino))
            || piece.paths.iter().any(|path| self.paths.contains(path))
            || piece.below.iter().any(below)
    }
}

fn starts_with(path: &Path, with: &Path) -> bool {
    path.as_bytes().starts_with(with.as_bytes())
}

/// What was changed in a timeline after one epoch, up to another one.
fn changed(
    kv: &dyn Kv,
    timeline: Timeline,
    (after, upto): (Epoch, Epoch),
    each: &mut dyn FnMut(Path, Option<Ino>),
) -> Result<(), StoreError> {
    if after >= upto {
        return Ok(());
    }
    let line = |epoch| Lineage::of(kv, At { timeline, epoch });
    Lineage::touched(kv, &line(after)?, &line(upto)?, &mut |touched| match touched {
        Touched::Inode { ino, path } => each(path, Some(ino)),
        Touched::Name { path, .. } => each(path, None),
    })
}

fn before(epoch: Epoch) -> Epoch {
    Epoch(epoch.0.saturating_sub(1))
}

impl Group {
    fn new(kv: &dyn Kv, (first, class): (At, u64), piece: Piece) -> Result<Group, StoreError> {
        let mut group = Group { first, last: first.epoch, class, piece, others: Others::default() };
        let Group { piece, others, .. } = &mut group;
        changed(kv, first.timeline, (before(first.epoch), first.epoch), &mut |path, ino| {
            if !piece.has(&path, ino.as_slice()) {
                others.add((path, ino));
            }
        })?;
        Ok(group)
    }

    /// Takes the next epoch in, if nobody else came to what either of them is about.
    fn take(&mut self, kv: &dyn Kv, at: At, piece: &Piece) -> Result<bool, StoreError> {
        if self.first.timeline != at.timeline || self.others.have(piece) {
            return Ok(false);
        }
        let (mut quiet, mut others) = (true, Vec::new());
        changed(kv, at.timeline, (self.last, before(at.epoch)), &mut |path, ino| {
            quiet &= !self.piece.has(&path, ino.as_slice()) && !piece.has(&path, ino.as_slice());
            others.push((path, ino));
        })?;
        changed(kv, at.timeline, (before(at.epoch), at.epoch), &mut |path, ino| {
            if !piece.has(&path, ino.as_slice()) {
                quiet &= !self.piece.has(&path, ino.as_slice());
                others.push((path, ino));
            }
        })?;
        if quiet {
            self.last = at.epoch;
            self.piece.extend(piece.clone());
            others.into_iter().for_each(|one| self.others.add(one));
        }
        Ok(quiet)
    }
}

fn join(
    kv: &dyn Kv,
    pieces: impl Iterator<Item = (At, u64, Piece)>,
    apart: &BTreeSet<Epoch>,
) -> Result<Vec<Part>, StoreError> {
    let mut groups: Vec<Group> = Vec::new();
    for (at, class, piece) in pieces {
        let fits = |group: &Group| {
            group.class == class && group.last < at.epoch && apart.range(group.last.next()..=at.epoch).next().is_none()
        };
        if let Some(group) = groups.last_mut().filter(|group| fits(group))
            && group.take(kv, at, &piece)?
        {
            continue;
        }
        groups.push(Group::new(kv, (at, class), piece)?);
    }
    let line = |at: At| Lineage::of(kv, at).map(Arc::new);
    let part = |Group { first, last, class, piece, .. }: Group| {
        let from = line(At { epoch: before(first.epoch), ..first })?;
        Ok(Part { from, to: line(At { epoch: last, ..first })?, piece, class })
    };
    groups.into_iter().map(part).collect()
}
