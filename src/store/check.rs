//! Whether a store is whole: every reference has its target, every state can be read, every number is below its counter, and the
//! record's chain is unbroken.
//!
//! Reads the store alone. It cannot know what the base has, so what only the base could prove wrong is not looked at. A
//! store is checked while nothing else changes it.

mod events;
mod history;
mod points;
mod states;
mod versions;
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::codec::{Dentry, VersionRecord};
use super::history::{Operation, Snapshot, TimelineRecord};
use super::{Counter, Result, Store, Table, keys};
use crate::overlay::chunks::Chunks;
use crate::types::{At, Epoch, Ino, Kind, Name, Path, Time, Timeline, VersionId, hex};

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What must not be.
    pub problems: Vec<String>,
    /// What is odd but harmless: left by a write that was never acknowledged, or by a collection that was cut short.
    pub notes: Vec<String>,
    /// Inodes and directory entries in the newest states of all timelines.
    pub inodes: u64,
    pub dentries: u64,
    pub versions: u64,
    pub events: u64,
}

/// Checks everything; the event chain's hashes only with `log`, since that reads the whole record.
///
/// # Errors
/// When the store cannot be read at all. Whatever is wrong with what was read is in the report.
pub fn check(store: &Store, log: bool) -> Result<Report> {
    check_and_tell(store, log, &mut |_| {})
}

/// As [`check`]; `tell` hears how many events were looked at, now and then.
///
/// # Errors
/// As [`check`].
pub fn check_and_tell(store: &Store, log: bool, tell: &mut dyn FnMut(u64)) -> Result<Report> {
    let mut check = Check { store, report: Report::default(), found: Found::default() };
    check.read_meta()?;
    check.read_versions()?;
    check.read_files()?;
    check.read_states()?;
    check.history();
    check.index();
    check.points();
    check.versions();
    check.trash();
    check.counters()?;
    check.events(log, tell)?;
    Ok(check.report)
}

/// What one epoch of one timeline says.
#[derive(Default)]
struct Changes {
    inodes: BTreeMap<Ino, State<Facts>>,
    names: BTreeMap<(Ino, Name), State<Dentry>>,
}

/// One state, and whether the index of changes has it.
struct State<T> {
    /// `None`: there is none from here on.
    value: Option<T>,
    indexed: bool,
}

/// What the rules about names need of an inode.
#[derive(Clone)]
struct Facts {
    kind: Kind,
    nlink: u32,
    born: bool,
    /// Where a directory is in the base.
    base_path: Option<Path>,
}

/// How states use a version.
#[derive(Clone, Copy)]
struct Use {
    ino: Ino,
    stamp: u64,
    /// The first epoch that does.
    epoch: Epoch,
    /// Whose bytes they are in the version's own epoch, in which it is written to.
    writer: Option<Ino>,
}

/// The store's contents.
#[derive(Default)]
struct Found {
    snapshots: BTreeMap<Epoch, Snapshot>,
    timelines: BTreeMap<Timeline, TimelineRecord>,
    operations: Vec<Operation>,
    changes: BTreeMap<(Timeline, Epoch), Changes>,
    /// All numbers of inodes that have or had a state.
    numbers: BTreeSet<Ino>,
    versions: BTreeMap<VersionId, VersionRecord>,
    /// The versions in the extents of versions that have such.
    sources: BTreeMap<VersionId, Vec<VersionId>>,
    /// Chunks that versions have themselves.
    chunks: BTreeMap<VersionId, Chunks>,
    used: BTreeMap<VersionId, Use>,
    trash: BTreeSet<VersionId>,
    files: BTreeSet<VersionId>,
    foreign: Vec<u64>,
    actors: Vec<u64>,
    /// Whether an apply kept anything.
    kept: bool,
}

impl Found {
    /// The timelines from which one forked, oldest first, and up to which epoch each counts for it.
    fn ancestors(&self, timeline: Timeline) -> Vec<At> {
        let mut found = Vec::new();
        let mut at = timeline;
        // A fork is always from an older timeline: this ends, whatever the disk holds.
        while let Some(parent) = self.timelines.get(&at).and_then(|t| t.parent).filter(|p| p.timeline < at) {
            found.push(parent);
            at = parent.timeline;
        }
        found.reverse();
        found
    }

    fn is_open(&self, epoch: Epoch) -> bool {
        self.timelines.values().any(|t| !t.deleted && t.head == epoch)
    }
}

struct Check<'a> {
    store: &'a Store,
    report: Report,
    found: Found,
}

impl Check<'_> {
    fn problem(&mut self, text: String) {
        self.report.problems.push(text);
    }

    fn note(&mut self, text: String) {
        self.report.notes.push(text);
    }

    fn unreadable(&mut self, table: &str, key: &[u8]) {
        self.problem(format!("the {table} entry {} is unreadable", hex(key)));
    }

    /// Hands every key and value of a table to `each`, which says whether it made sense of them.
    fn scan(&mut self, table: Table, mut each: impl FnMut(&mut Self, &[u8], &[u8]) -> Result<bool>) -> Result<()> {
        let store = self.store;
        let name = match table {
            Table::Meta => "meta",
            Table::Tree => "tree",
            Table::Events => "events",
        };
        store.kv.scan(table, &[], &[0xff; 8], &mut |key, value| {
            match each(self, key, value) {
                Ok(true) => {}
                Ok(false) => self.unreadable(name, key),
                Err(error) => self.problem(format!("the {name} entry {}: {error}", hex(key))),
            }
            ControlFlow::Continue(())
        })
    }

    fn read_meta(&mut self) -> Result<()> {
        use super::{history, said};
        self.scan(Table::Meta, |c, key, value| {
            let number = keys::last_number(key).unwrap_or(0);
            match (key.first(), key.len(), value.len()) {
                (Some(b'c'), 2, 8) | (Some(b'h'), 25, 32) | (Some(b'm'), 1, _) | (Some(b'y'), 1, 8) => {}
                (Some(b'a'), 9, 1..) => c.found.actors.push(number),
                (Some(b't'), 9, 0) => {
                    c.found.trash.insert(VersionId(number));
                }
                (Some(b's'), 9, _) => {
                    c.found.snapshots.insert(Epoch(number), history::get_snapshot(Epoch(number), value)?);
                }
                (Some(b'l'), 9, _) => {
                    let timeline = Timeline(number);
                    c.found.timelines.insert(timeline, history::get_timeline(timeline, value)?);
                }
                (Some(b'k'), 17, 1..) => c.found.kept = true,
                (Some(b'b'), 17, _) => {}
                (Some(b'u'), 9, _) => c.found.operations.push(history::get_operation(number, value)?),
                (Some(b'f'), 25, 8) => match <[u8; 8]>::try_from(value).map(u64::from_le_bytes) {
                    Ok(number) => c.found.foreign.push(number),
                    Err(_) => return Ok(false),
                },
                (Some(b'q'), 18, _) => return said::is_whole(key, value),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        // Written down with the first snapshot only.
        self.found.timelines.entry(Timeline::MAIN).or_insert_with(|| TimelineRecord {
            id: Timeline::MAIN,
            name: "main".to_owned(),
            parent: None,
            head: Epoch(1),
            last: Epoch::BASE,
            created: Time::default(),
            deleted: false,
        });
        Ok(())
    }

    fn read_files(&mut self) -> Result<()> {
        for (id, len) in self.store.data.list()? {
            if !self.found.versions.contains_key(&id) {
                self.note(format!("the file of version {id} ({len} bytes) has no record"));
            }
            self.found.files.insert(id);
        }
        Ok(())
    }

    fn counters(&mut self) -> Result<()> {
        let found = &self.found;
        let born = |ino: Ino| if ino.is_allocated() { ino.0 & !Ino::BORN } else { 0 };
        let foreign = found.foreign.iter().map(|&n| born(Ino(n))).max().unwrap_or(0);
        let ino = found.numbers.iter().next_back().map_or(0, |&ino| born(ino)).max(foreign);
        let highest = |set: Option<&VersionId>| set.map_or(0, |v| v.0);
        let version = highest(found.versions.keys().next_back()).max(highest(found.files.iter().next_back()));
        let actor = found.actors.iter().copied().max().unwrap_or(0);
        let epochs = found.timelines.values().map(|t| t.head).chain(found.snapshots.keys().copied());
        let epoch = epochs.chain(found.changes.keys().map(|&(_, epoch)| epoch)).max().unwrap_or_default().0;
        let timeline = found.timelines.keys().next_back().map_or(0, |t| t.0);
        let operation = found.operations.last().map_or(0, |o| o.id);
        // The first epoch of the first timeline needs no counter.
        let but_first = |n: u64| if n > 1 { n } else { 0 };
        let used = [
            (Counter::Ino, ino),
            (Counter::Version, version),
            (Counter::Actor, actor),
            (Counter::Epoch, but_first(epoch)),
            (Counter::Timeline, but_first(timeline)),
            (Counter::Operation, operation),
        ];
        let mut wrong = Vec::new();
        for (which, highest) in used {
            let stored = self.store.kv.get(Table::Meta, &keys::counter(which as u8))?;
            let next = stored.and_then(|v| <[u8; 8]>::try_from(v).ok()).map_or(1, u64::from_le_bytes);
            if highest >= next {
                wrong.push(format!("counter {which:?} is at {next}, but number {highest} is in use"));
            }
        }
        for number in found.foreign.iter().filter(|&&n| !Ino(n).is_allocated()) {
            wrong.push(format!("base files of other devices have the number {number}, which was not allocated"));
        }
        self.report.problems.append(&mut wrong);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
