//! Collecting what no kept point of history needs: snapshots, states, versions.
//!
//! Which snapshots are kept is decided elsewhere. Here everything that none of them shows is taken away, in steps that each leave the store whole, so
//! that nobody waits and a crash costs nothing but a second run:
//!
//! 1. operations and snapshots that expire. From then on nobody can ask for them.
//! 2. states that no point sees, each with its place in the index (`states.rs`).
//! 3. timelines that were deleted and have no states left.
//! 4. versions: those that lie over dead ones get a map of their own, and then the dead ones go (`versions.rs`).
//!
//! It runs beside changes. What is of an open epoch is never touched, and what became newer since the start is not looked at.

mod estimate;
mod states;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::history::{self, TimelineRecord};
use super::{Batch, Result, Store, StoreError, Sync, Table, fault, keys};
use crate::types::{At, Epoch, Timeline, VersionId};

pub use estimate::{Estimate, estimate};

/// Keys in a batch.
const MOST: usize = 1000;
/// How long somebody may look at the past while a collection waits.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// What must stay.
pub struct Keep<'a> {
    /// The snapshots that are kept.
    pub snapshots: &'a BTreeSet<Epoch>,
    /// What is mounted.
    pub shown: &'a [At],
    /// The versions that are read from memory. Asked when the states were gone through, so that nothing is missing that was opened meanwhile.
    pub live: &'a dyn Fn() -> Vec<VersionId>,
    /// The versions that an apply kept under a number.
    pub kept: &'a dyn Fn(u64) -> Result<Vec<VersionId>>,
}

/// What was taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub snapshots: u64,
    /// States of inodes and names.
    pub states: u64,
    pub versions: u64,
    /// Bytes on disk of the files of these versions.
    pub bytes: u64,
}

/// Takes away what is not needed. With `dry_run` it only says what that would be. The caller holds [`Store::busy`].
///
/// # Errors
/// What the log says; a damaged store is left alone. What was done until then stays done, and the store is whole.
pub fn collect(store: &Store, keep: &Keep<'_>, dry_run: bool) -> Result<Report> {
    let mut report = Report::default();
    let timelines = all_timelines(store)?;
    let mut hand = Hand { store, dry_run, batch: Batch::new() };
    // Before the states: a version that is in the log from here on is in a state that is yet to be looked at.
    let mut versions = versions::Versions::read(store, &timelines, keep.shown)?;
    let gone = expire(&mut hand, keep, &mut report)?;
    let points = Points::new(store, &timelines, keep)?;
    for timeline in timelines.keys() {
        states::sweep(&mut hand, &points, *timeline, &mut versions.used, &mut report.states)?;
    }
    // Nothing of them is left. One goes before that from which it forked off.
    for timeline in timelines.keys().rev().filter(|t| !points.epochs.contains_key(t)) {
        hand.room(1)?;
        hand.batch.delete(Table::Meta, &keys::timeline(*timeline));
    }
    hand.flush()?;
    versions.live.extend((keep.live)());
    versions.used.extend(kept_versions(store, keep, &gone)?);
    versions.sweep(&mut hand, &mut report)?;
    Ok(report)
}

/// The points of history that are still there, by timeline and in order. What is between two of them nobody sees, and it may have been taken away.
///
/// # Errors
/// When the log cannot be read.
pub fn points(store: &Store) -> Result<BTreeMap<Timeline, Vec<Epoch>>> {
    let snapshots = history::snapshots(&*store.kv)?.into_iter().map(|s| s.epoch).collect();
    let keep = Keep { snapshots: &snapshots, shown: &[], live: &Vec::new, kept: &|_| Ok(Vec::new()) };
    Ok(Points::new(store, &all_timelines(store)?, &keep)?.epochs)
}

/// All timelines, the first one in any case.
fn all_timelines(store: &Store) -> Result<BTreeMap<Timeline, TimelineRecord>> {
    let kv = &*store.kv;
    let mut found: BTreeMap<_, _> = history::timelines(kv)?.into_iter().map(|t| (t.id, t)).collect();
    found.insert(Timeline::MAIN, history::timeline(kv, Timeline::MAIN)?);
    Ok(found)
}

/// The versions that applies kept, but for those under the numbers in `gone`.
fn kept_versions(store: &Store, keep: &Keep<'_>, gone: &BTreeSet<u64>) -> Result<Vec<VersionId>> {
    let mut found = Vec::new();
    for number in kept_numbers(store)?.difference(gone) {
        found.extend((keep.kept)(*number)?);
    }
    Ok(found)
}

/// The numbers under which applies kept something.
fn kept_numbers(store: &Store) -> Result<BTreeSet<u64>> {
    let mut numbers = BTreeSet::new();
    let (from, to) = keys::everything_kept();
    store.kv.scan(Table::Meta, &from, &to, &mut |key, _| {
        numbers.extend(keys::parse_kept(key));
        ControlFlow::Continue(())
    })?;
    Ok(numbers)
}

/// Takes away the operations that cannot be undone any more, and the snapshots that are not kept. Returns the numbers under which such operations had kept
/// something.
fn expire(hand: &mut Hand<'_>, keep: &Keep<'_>, report: &mut Report) -> Result<BTreeSet<u64>> {
    let store = hand.store;
    // Who found a snapshot before may finish with it. Not for ever: new ones wait behind us, and all operations on time.
    let _past = match hand.dry_run {
        true => None,
        false => Some(store.past.try_write_for(PATIENCE).ok_or(StoreError::Looking)?),
    };
    let kv = &*store.kv;
    let mut snapshots: BTreeMap<Epoch, _> = history::snapshots(kv)?.into_iter().map(|s| (s.epoch, s)).collect();
    let stays = |epoch: Epoch| keep.snapshots.contains(&epoch) || keep.shown.iter().any(|at| at.epoch == epoch);
    let operations = history::operations(kv)?;
    let whole = |at: At| stays(at.epoch) && snapshots.contains_key(&at.epoch);
    // They are undone in their order: behind one that cannot be, none can.
    let dead = operations.iter().rposition(|o| ![o.before, o.after, o.last].into_iter().all(whole));
    let (expired, left) = operations.split_at(dead.map_or(0, |last| last + 1));
    let mut gone = BTreeSet::new();
    for operation in expired {
        // As a whole: half of what an apply kept would be half an undo.
        hand.flush()?;
        hand.batch.delete(Table::Meta, &keys::operation(operation.id));
        if operation.kept != 0 {
            gone.insert(operation.kept);
            hand.forget_kept(operation.kept)?;
        }
    }
    // What they had kept when they were taken back and done again earlier, each time under a new number.
    let first = left.iter().map(|o| o.id).min().unwrap_or(u64::MAX);
    for number in kept_numbers(store)?.range(..first) {
        if !gone.contains(number) && left.iter().all(|o| o.kept != *number) {
            gone.insert(*number);
            hand.flush()?;
            hand.forget_kept(*number)?;
        }
    }
    // The newest first, so that what one follows is there until it goes itself.
    let expired: Vec<Epoch> = snapshots.keys().rev().copied().filter(|&epoch| !stays(epoch)).collect();
    let mut followers: BTreeMap<Epoch, Vec<Epoch>> = BTreeMap::new();
    for snapshot in snapshots.values() {
        followers.entry(snapshot.previous).or_default().push(snapshot.epoch);
    }
    let mut timelines = all_timelines(store)?;
    for epoch in expired {
        let Some(snapshot) = snapshots.remove(&epoch) else { continue };
        let behind = followers.remove(&epoch).unwrap_or_default();
        hand.room(1 + behind.len() + timelines.len())?;
        hand.batch.delete(Table::Meta, &keys::snapshot(epoch));
        for follower in behind {
            if let Some(follower) = snapshots.get_mut(&follower) {
                follower.previous = snapshot.previous;
                history::put_snapshot(&mut hand.batch, follower);
                followers.entry(snapshot.previous).or_default().push(follower.epoch);
            }
        }
        for timeline in timelines.values_mut().filter(|t| t.last == epoch) {
            timeline.last = snapshot.previous;
            history::put_timeline(&mut hand.batch, timeline);
        }
        report.snapshots += 1;
    }
    hand.flush()?;
    Ok(gone)
}

/// The points of history whose states stay.
struct Points {
    /// By timeline, in order.
    epochs: BTreeMap<Timeline, Vec<Epoch>>,
    /// The open epochs: what is in them, or newer, stays.
    heads: BTreeMap<Timeline, Epoch>,
    timelines: BTreeMap<Timeline, TimelineRecord>,
}

impl Points {
    fn new(store: &Store, timelines: &BTreeMap<Timeline, TimelineRecord>, keep: &Keep<'_>) -> Result<Points> {
        let mut epochs: BTreeMap<Timeline, BTreeSet<Epoch>> = BTreeMap::new();
        let mut heads = BTreeMap::new();
        for (&id, timeline) in timelines.iter().filter(|(_, t)| !t.deleted) {
            heads.insert(id, timeline.head);
            epochs.entry(id).or_default().insert(timeline.head);
        }
        for at in keep.shown {
            epochs.entry(at.timeline).or_default().insert(at.epoch);
        }
        for snapshot in history::snapshots(&*store.kv)? {
            if keep.snapshots.contains(&snapshot.epoch) {
                epochs.entry(snapshot.timeline).or_default().insert(snapshot.epoch);
                // What the first one changed is told from what was there before it.
                if snapshot.previous == Epoch::BASE {
                    epochs.entry(Timeline::MAIN).or_default().insert(Epoch::BASE);
                }
            }
        }
        if timelines.get(&Timeline::MAIN).is_some_and(|main| main.last == Epoch::BASE && !main.deleted) {
            epochs.entry(Timeline::MAIN).or_default().insert(Epoch::BASE);
        }
        // A fork is from an older timeline: the youngest first.
        for timeline in timelines.values().rev() {
            if let Some(fork) =
                timeline.parent.filter(|p| p.timeline < timeline.id && epochs.contains_key(&timeline.id))
            {
                epochs.entry(fork.timeline).or_default().insert(fork.epoch);
            }
        }
        let epochs = epochs.into_iter().map(|(id, set)| (id, set.into_iter().collect())).collect();
        Ok(Points { epochs, heads, timelines: timelines.clone() })
    }

    fn is_open(&self, timeline: Timeline, epoch: Epoch) -> bool {
        self.heads.get(&timeline).is_some_and(|&head| epoch >= head)
    }

    /// The points that see a state: those from its epoch on, up to before the next state's.
    fn seeing(&self, timeline: Timeline, epoch: Epoch, next: Option<Epoch>) -> &[Epoch] {
        let epochs = self.epochs.get(&timeline).map(Vec::as_slice).unwrap_or_default();
        let from = epochs.partition_point(|&point| point < epoch);
        let to = next.map_or(epochs.len(), |next| epochs.partition_point(|&point| point < next));
        epochs.get(from..to).unwrap_or_default()
    }
}

/// Writes in batches, or only does as if.
struct Hand<'s> {
    store: &'s Store,
    dry_run: bool,
    batch: Batch,
}

impl Hand<'_> {
    /// Makes room for so many keys that go together.
    fn room(&mut self, keys: usize) -> Result<()> {
        if self.batch.len() + keys > MOST { self.flush() } else { Ok(()) }
    }

    /// What an apply kept under a number; in the batch that is open.
    fn forget_kept(&mut self, number: u64) -> Result<()> {
        let (from, to) = keys::all_kept(number);
        let store = self.store;
        store.kv.scan(Table::Meta, &from, &to, &mut |key, _| {
            self.batch.delete(Table::Meta, key);
            ControlFlow::Continue(())
        })
    }

    fn flush(&mut self) -> Result<()> {
        if !self.dry_run && !self.batch.is_empty() {
            fault::point("gc.batch", || StoreError::io("write", "log")(rustix::io::Errno::NOSPC.into()))?;
            self.store.kv.commit(&self.batch, Sync::No)?;
        }
        self.batch.clear();
        Ok(())
    }
}
