//! Which versions are needed, and taking away the others. Knows no states.
//!
//! A version is needed in one of two ways. *As a whole*: something shows it, or builds on it. *As a source*: others show some of its bytes and say themselves
//! which, so only its file counts. A sealed version that lies over one which nothing shows gets a map; so chains of dead versions are
//! not kept for their own sake.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use rustc_hash::FxHashSet;

use super::{Hand, MOST, Report};
use crate::overlay::extents::{Extents, Source};
use crate::overlay::tree::load_version;
use crate::store::codec::{self, Parent, VersionRecord};
use crate::store::history::TimelineRecord;
use crate::store::{Result, Store, StoreError, Table, fault, keys};
use crate::types::{At, Epoch, Timeline, VersionId};

/// A map with more extents is not made: it would be read whole for every open of the file.
const LONGEST: usize = 4096;
/// Versions that go between two commits.
const GROUP: usize = 64;

pub(super) struct Versions<'s> {
    store: &'s Store,
    /// All that were there at the start, and those that were looked up since.
    list: BTreeMap<VersionId, VersionRecord>,
    /// Those to look at: what came later is not in it.
    old: BTreeSet<VersionId>,
    trash: FxHashSet<VersionId>,
    /// Epochs in which versions are written to.
    open: BTreeSet<Epoch>,
    newest: Epoch,
    /// What states and operations refer to.
    pub used: FxHashSet<VersionId>,
    /// What is read from memory. Memory knows where the bytes are, so only the files count.
    pub live: FxHashSet<VersionId>,
}

/// What is needed, as far as it is known.
#[derive(Default)]
struct Needed {
    whole: FxHashSet<VersionId>,
    sources: FxHashSet<VersionId>,
    /// Sealed versions with something below them, which is not decided yet.
    over: BTreeSet<VersionId>,
}

impl<'s> Versions<'s> {
    pub fn read(
        store: &'s Store,
        timelines: &BTreeMap<Timeline, TimelineRecord>,
        shown: &[At],
    ) -> Result<Versions<'s>> {
        let mut found = Versions {
            store,
            list: BTreeMap::new(),
            old: BTreeSet::new(),
            trash: FxHashSet::default(),
            open: timelines.values().filter(|t| !t.deleted).map(|t| t.head).collect(),
            newest: timelines.values().map(|t| t.head).max().unwrap_or_default(),
            used: FxHashSet::default(),
            live: FxHashSet::default(),
        };
        found.open.extend(shown.iter().map(|at| at.epoch));
        let (from, to) = keys::all_trash();
        store.kv.scan(Table::Meta, &from, &to, &mut |key, _| {
            found.trash.extend(keys::last_number(key).map(VersionId));
            ControlFlow::Continue(())
        })?;
        let mut bad = None;
        let (from, to) = keys::all_versions();
        store.kv.scan(Table::Tree, &from, &to, &mut |key, value| match (
            keys::last_number(key),
            codec::get_version(value),
        ) {
            (Some(id), Ok(version)) => {
                found.list.insert(VersionId(id), version);
                found.old.insert(VersionId(id));
                ControlFlow::Continue(())
            }
            (None, _) => ControlFlow::Continue(()),
            (_, Err(error)) => {
                bad = Some(error);
                ControlFlow::Break(())
            }
        })?;
        bad.map_or(Ok(found), Err)
    }

    /// The versions of which one shows bytes.
    pub fn below(&mut self, id: VersionId) -> Result<Vec<VersionId>> {
        let Some(version) = self.record(id)? else { return Ok(Vec::new()) };
        match version.parent {
            Parent::Version(_) | Parent::Map if version.limit > 0 => {}
            Parent::None | Parent::Base | Parent::Version(_) | Parent::Map => return Ok(Vec::new()),
        }
        match self.shown_below(id, &version) {
            Ok(shown) => Ok(sources(&shown)),
            // One of an open epoch that went since with the last handle of a file that was removed.
            Err(_) if self.store.kv.get(Table::Tree, &keys::version(id))?.is_none() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Whether a version may be written to.
    pub fn is_open(&self, version: &VersionRecord) -> bool {
        self.open.contains(&version.epoch) || version.epoch > self.newest
    }

    pub fn open(&self) -> impl Iterator<Item = VersionId> {
        self.list.iter().filter(|(_, version)| self.is_open(version)).map(|(&id, _)| id)
    }

    fn record(&mut self, id: VersionId) -> Result<Option<VersionRecord>> {
        if let Some(version) = self.list.get(&id) {
            return Ok(Some(*version));
        }
        // Made since the start.
        let Some(value) = self.store.kv.get(Table::Tree, &keys::version(id))? else { return Ok(None) };
        let version = codec::get_version(&value)?;
        self.list.insert(id, version);
        Ok(Some(version))
    }

    /// The extents that are written down with a version.
    fn extents(&self, id: VersionId) -> Result<Extents> {
        match self.store.kv.get(Table::Tree, &keys::extents(id))? {
            Some(value) => Extents::decode(&value),
            // Collected by the version's own deletion, or damage that fsck names: nothing is read through it.
            None => Ok(Extents::default()),
        }
    }

    /// Takes away what nothing needs.
    pub fn sweep(mut self, hand: &mut Hand<'_>, report: &mut Report) -> Result<()> {
        let needed = self.needed(hand)?;
        self.strip(hand, &needed)?;
        hand.flush()?;
        // The youngest first: what lies over something goes before it.
        let dead: Vec<VersionId> = self
            .old
            .iter()
            .rev()
            .copied()
            .filter(|id| !needed.whole.contains(id) && !needed.sources.contains(id))
            .collect();
        self.remove(hand, &dead, report)
    }

    /// Finds out what is needed, and writes maps on the way.
    fn needed(&mut self, hand: &mut Hand<'_>) -> Result<Needed> {
        let mut needed = Needed { sources: self.live.clone(), ..Needed::default() };
        let roots: Vec<VersionId> = self.used.iter().copied().chain(self.open()).collect();
        self.add(&mut needed, roots)?;
        while let Some(id) = needed.over.pop_first() {
            let Some(version) = self.record(id)? else { continue };
            let parent = match version.parent {
                Parent::Version(parent) if needed.whole.contains(&parent) => continue,
                Parent::Version(parent) => Some(parent),
                Parent::Map => None,
                Parent::None | Parent::Base => continue,
            };
            let shown = self.shown_below(id, &version)?;
            match parent {
                Some(parent) if shown.iter().count() > LONGEST => {
                    self.add(&mut needed, vec![parent])?;
                    continue;
                }
                Some(_) => self.put_map(hand, id, version, &shown)?,
                // What it covered while it was written to does not have to be there any more.
                None if sources(&shown) != sources(&self.extents(id)?) => self.put_map(hand, id, version, &shown)?,
                None => {}
            }
            needed.sources.extend(sources(&shown));
        }
        hand.flush()?;
        Ok(needed)
    }

    /// Adds versions that are needed as a whole, and what that takes.
    fn add(&mut self, needed: &mut Needed, roots: Vec<VersionId>) -> Result<()> {
        let mut pending = roots;
        while let Some(id) = pending.pop() {
            if !needed.whole.insert(id) {
                continue;
            }
            let Some(version) = self.record(id)? else { continue };
            match version.parent {
                Parent::None | Parent::Base => {}
                // One that may be written to is left as it is.
                Parent::Version(parent) if self.is_open(&version) => pending.push(parent),
                Parent::Map if self.is_open(&version) => needed.sources.extend(sources(&self.extents(id)?)),
                Parent::Version(_) | Parent::Map => {
                    needed.over.insert(id);
                }
            }
        }
        Ok(())
    }

    /// Where the bytes are that a version shows and has not itself.
    fn shown_below(&self, id: VersionId, version: &VersionRecord) -> Result<Extents> {
        let mut shown = Extents::default();
        for extent in load_version(self.store, id, 0)?.flatten(version.limit).iter() {
            if extent.source != Source::Version(id) {
                shown.push(*extent);
            }
        }
        Ok(shown)
    }

    fn put_map(&self, hand: &mut Hand<'_>, id: VersionId, version: VersionRecord, map: &Extents) -> Result<()> {
        hand.room(2)?;
        hand.batch.put(Table::Tree, &keys::extents(id), &map.encode());
        put(hand, id, &VersionRecord { parent: Parent::Map, ..version });
        Ok(())
    }

    /// Makes versions of which only the file counts say so: they lie over nothing. Those in the trash are not written to: they may be deleted at
    /// any moment.
    fn strip(&mut self, hand: &mut Hand<'_>, needed: &Needed) -> Result<()> {
        let lent = |id: &&VersionId| !needed.whole.contains(id) && !self.trash.contains(id);
        for id in needed.sources.iter().filter(lent).copied().collect::<Vec<_>>() {
            let Some(version) = self.record(id)?.filter(|v| !self.is_open(v)) else { continue };
            if version.parent == Parent::None && version.limit == 0 {
                continue;
            }
            hand.room(2)?;
            put(hand, id, &VersionRecord { parent: Parent::None, limit: 0, ..version });
            if version.parent == Parent::Map {
                hand.batch.delete(Table::Tree, &keys::extents(id));
            }
        }
        Ok(())
    }

    fn remove(&self, hand: &mut Hand<'_>, dead: &[VersionId], report: &mut Report) -> Result<()> {
        for &id in dead {
            report.versions += 1;
            report.bytes += self.store.data.allocated(id)?;
        }
        if hand.dry_run || dead.is_empty() {
            return Ok(());
        }
        for &id in dead.iter().filter(|id| !self.trash.contains(id)) {
            hand.room(1)?;
            hand.batch.put(Table::Meta, &keys::trash(id), &[]);
        }
        hand.flush()?;
        // A log that forgets after a power loss that they went must not be left without their bytes.
        self.store.data.sync_all()?;
        self.store.kv.sync()?;
        for group in dead.chunks(GROUP) {
            for &id in group {
                let removed =
                    fault::point("gc.remove", || fault_error(self.store, id)).and_then(|()| self.store.data.remove(id));
                if let Err(error) = removed {
                    tracing::warn!(%error, %id, "could not delete a version: the next collection tries again");
                    report.versions -= 1;
                    report.bytes = report.bytes.saturating_sub(self.store.data.allocated(id)?);
                    continue;
                }
                self.forget(hand, id)?;
            }
            hand.flush()?;
        }
        Ok(())
    }

    /// Takes a version out of the log whose file is gone; its place in the trash last.
    fn forget(&self, hand: &mut Hand<'_>, id: VersionId) -> Result<()> {
        let mut chunks = Vec::new();
        let (from, to) = keys::chunks(id);
        self.store.kv.scan(Table::Tree, &from, &to, &mut |key, _| {
            chunks.push(keys::Key::from_slice(key));
            ControlFlow::Continue(())
        })?;
        for keys in chunks.chunks(MOST) {
            hand.room(keys.len())?;
            keys.iter().for_each(|key| hand.batch.delete(Table::Tree, key));
        }
        hand.room(3)?;
        hand.batch.delete(Table::Tree, &keys::version(id));
        hand.batch.delete(Table::Tree, &keys::extents(id));
        hand.batch.delete(Table::Meta, &keys::trash(id));
        Ok(())
    }
}

fn put(hand: &mut Hand<'_>, id: VersionId, version: &VersionRecord) {
    let mut value = Vec::with_capacity(40);
    codec::put_version(&mut value, version);
    hand.batch.put(Table::Tree, &keys::version(id), &value);
}

/// The versions in a map.
fn sources(extents: &Extents) -> Vec<VersionId> {
    let mut found: Vec<VersionId> = extents
        .iter()
        .filter_map(|e| match e.source {
            Source::Version(id) => Some(id),
            Source::Base => None,
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn fault_error(store: &Store, id: VersionId) -> StoreError {
    StoreError::io("remove", store.data.path(id))(rustix::io::Errno::IO.into())
}
