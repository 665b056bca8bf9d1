//! What the log says about time: snapshots, timelines, and the operations that undo can take back.

use std::ops::ControlFlow;

use super::codec::{Reader, Writer};
use super::lineage::Lineage;
use super::{Batch, Kv, Result, StoreError, Table, keys};
use crate::types::{At, Epoch, Time, Timeline};

/// Why a snapshot was taken. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Why {
    /// Somebody asked for it.
    Manual = 1,
    /// A step of an agent's work ended.
    Step = 2,
    /// Before something that changes many files at once: rewind, undo, merge, apply, discard.
    Before = 3,
    /// Where a timeline forked off.
    Fork = 4,
    /// After something that changes many files at once.
    After = 5,
}

impl Why {
    pub const ALL: &'static [Why] = &[Why::Manual, Why::Step, Why::Before, Why::Fork, Why::After];

    pub fn name(self) -> &'static str {
        match self {
            Why::Manual => "manual",
            Why::Step => "step",
            Why::Before => "before",
            Why::Fork => "fork",
            Why::After => "after",
        }
    }

    fn from_u8(byte: u8) -> Option<Why> {
        Why::ALL.iter().copied().find(|w| *w as u8 == byte)
    }
}

/// A sealed epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub epoch: Epoch,
    pub timeline: Timeline,
    /// The snapshot before it in its timeline, or where that forked off; [`Epoch::BASE`] for the first.
    pub previous: Epoch,
    pub time: Time,
    pub why: Why,
    /// A name given by a person; unique.
    pub label: Option<String>,
    /// For people: what it was taken before or after.
    pub note: String,
}

/// A line of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineRecord {
    pub id: Timeline,
    pub name: String,
    /// Where it forked off.
    pub parent: Option<At>,
    /// The epoch that is open: its changes are not part of a snapshot yet.
    pub head: Epoch,
    /// The newest snapshot of it, or where it forked off.
    pub last: Epoch,
    pub created: Time,
    /// Deleted: kept only while something else needs its states.
    pub deleted: bool,
}

/// What an operation did to many files at once. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpKind {
    Rewind = 1,
    /// A rewind of some paths only.
    Restore = 2,
    Apply = 3,
    Discard = 4,
    Merge = 5,
    /// The timeline that the mount shows was changed.
    Switch = 6,
    /// One step was taken back out, what came later stayed.
    Revert = 7,
}

impl OpKind {
    pub const ALL: &'static [OpKind] = &[
        OpKind::Rewind,
        OpKind::Restore,
        OpKind::Apply,
        OpKind::Discard,
        OpKind::Merge,
        OpKind::Switch,
        OpKind::Revert,
    ];

    pub fn name(self) -> &'static str {
        match self {
            OpKind::Rewind => "rewind",
            OpKind::Restore => "restore",
            OpKind::Apply => "apply",
            OpKind::Discard => "discard",
            OpKind::Merge => "merge",
            OpKind::Switch => "switch",
            OpKind::Revert => "revert",
        }
    }

    fn from_u8(byte: u8) -> Option<OpKind> {
        OpKind::ALL.iter().copied().find(|k| *k as u8 == byte)
    }
}

/// An operation that can be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub id: u64,
    pub time: Time,
    pub kind: OpKind,
    /// The sealed states just before and just after it.
    pub before: At,
    pub after: At,
    /// The sealed state after it was last done, undone or done again: what differs from it was changed since.
    pub last: At,
    /// Under which number what it destroyed in the base is kept; 0 for what leaves the base alone.
    pub kept: u64,
    /// The sealed state that a merge brought in.
    pub brought: Option<At>,
    /// Taken back by undo, and not done again by redo since.
    pub undone: bool,
    /// For people: what it was.
    pub note: String,
}

const LAYOUT: u8 = 1;

fn text(reader: &mut Reader<'_>) -> Result<String> {
    let bytes = reader.bytes()?;
    String::from_utf8(bytes.to_vec()).map_err(|_| reader.corrupt("text is not UTF-8"))
}

fn put_at(w: &mut Writer<'_>, at: At) {
    w.u64(at.timeline.0);
    w.u64(at.epoch.0);
}

fn get_at(r: &mut Reader<'_>) -> Result<At> {
    Ok(At { timeline: Timeline(r.u64()?), epoch: Epoch(r.u64()?) })
}

fn flag(r: &mut Reader<'_>) -> Result<bool> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(r.corrupt("a flag is neither 0 nor 1")),
    }
}

/// Puts a snapshot's record.
pub fn put_snapshot(batch: &mut Batch, s: &Snapshot) {
    let mut value = Vec::with_capacity(64);
    let mut w = Writer(&mut value);
    w.u8(LAYOUT);
    w.u64(s.timeline.0);
    w.u64(s.previous.0);
    w.time(s.time);
    w.u8(s.why as u8);
    w.u8(u8::from(s.label.is_some()));
    if let Some(label) = &s.label {
        w.bytes(label.as_bytes());
    }
    w.bytes(s.note.as_bytes());
    batch.put(Table::Meta, &keys::snapshot(s.epoch), &value);
}

pub fn get_snapshot(epoch: Epoch, value: &[u8]) -> Result<Snapshot> {
    let mut r = Reader::new(value, "snapshot");
    r.layout(LAYOUT)?;
    let (timeline, previous, time) = (Timeline(r.u64()?), Epoch(r.u64()?), r.time()?);
    let why = Why::from_u8(r.u8()?).ok_or_else(|| r.corrupt("unknown reason"))?;
    let label = if flag(&mut r)? { Some(text(&mut r)?) } else { None };
    let note = text(&mut r)?;
    r.end()?;
    Ok(Snapshot { epoch, timeline, previous, time, why, label, note })
}

/// Puts a timeline's record.
pub fn put_timeline(batch: &mut Batch, t: &TimelineRecord) {
    let mut value = Vec::with_capacity(64);
    let mut w = Writer(&mut value);
    w.u8(LAYOUT);
    w.bytes(t.name.as_bytes());
    w.u8(u8::from(t.parent.is_some()));
    if let Some(parent) = t.parent {
        put_at(&mut w, parent);
    }
    w.u64(t.head.0);
    w.u64(t.last.0);
    w.time(t.created);
    w.u8(u8::from(t.deleted));
    batch.put(Table::Meta, &keys::timeline(t.id), &value);
}

pub fn get_timeline(id: Timeline, value: &[u8]) -> Result<TimelineRecord> {
    let mut r = Reader::new(value, "timeline");
    r.layout(LAYOUT)?;
    let name = text(&mut r)?;
    let parent = if flag(&mut r)? { Some(get_at(&mut r)?) } else { None };
    let (head, last, created) = (Epoch(r.u64()?), Epoch(r.u64()?), r.time()?);
    let deleted = flag(&mut r)?;
    r.end()?;
    Ok(TimelineRecord { id, name, parent, head, last, created, deleted })
}

/// Puts an operation's record.
pub fn put_operation(batch: &mut Batch, o: &Operation) {
    let mut value = Vec::with_capacity(64);
    let mut w = Writer(&mut value);
    w.u8(LAYOUT);
    w.time(o.time);
    w.u8(o.kind as u8);
    put_at(&mut w, o.before);
    put_at(&mut w, o.after);
    put_at(&mut w, o.last);
    w.u64(o.kept);
    w.u8(u8::from(o.brought.is_some()));
    if let Some(at) = o.brought {
        put_at(&mut w, at);
    }
    w.u8(u8::from(o.undone));
    w.bytes(o.note.as_bytes());
    batch.put(Table::Meta, &keys::operation(o.id), &value);
}

pub fn get_operation(id: u64, value: &[u8]) -> Result<Operation> {
    let mut r = Reader::new(value, "operation");
    r.layout(LAYOUT)?;
    let time = r.time()?;
    let kind = OpKind::from_u8(r.u8()?).ok_or_else(|| r.corrupt("unknown operation"))?;
    let (before, after, last) = (get_at(&mut r)?, get_at(&mut r)?, get_at(&mut r)?);
    let kept = r.u64()?;
    let brought = if flag(&mut r)? { Some(get_at(&mut r)?) } else { None };
    let undone = flag(&mut r)?;
    let note = text(&mut r)?;
    r.end()?;
    Ok(Operation { id, time, kind, before, after, last, kept, brought, undone, note })
}

type Bounds = (keys::Key, keys::Key);

fn all<T>(kv: &dyn Kv, (from, to): Bounds, get: &dyn Fn(u64, &[u8]) -> Result<T>) -> Result<Vec<T>> {
    let mut found = Vec::new();
    let mut bad = None;
    kv.scan(Table::Meta, &from, &to, &mut |key, value| match get(keys::last_number(key).unwrap_or(0), value) {
        Ok(one) => {
            found.push(one);
            ControlFlow::Continue(())
        }
        Err(error) => {
            bad = Some(error);
            ControlFlow::Break(())
        }
    })?;
    bad.map_or(Ok(found), Err)
}

/// All snapshots of all timelines, oldest first.
pub fn snapshots(kv: &dyn Kv) -> Result<Vec<Snapshot>> {
    all(kv, keys::all_snapshots(), &|n, value| get_snapshot(Epoch(n), value))
}

/// The snapshot that sealed an epoch.
pub fn snapshot(kv: &dyn Kv, epoch: Epoch) -> Result<Option<Snapshot>> {
    kv.get(Table::Meta, &keys::snapshot(epoch))?.map(|value| get_snapshot(epoch, &value)).transpose()
}

/// All timelines, deleted ones as well, by number.
pub fn timelines(kv: &dyn Kv) -> Result<Vec<TimelineRecord>> {
    all(kv, keys::all_timelines(), &|n, value| get_timeline(Timeline(n), value))
}

/// A timeline's record. The first one of a store that has never been written to is as it will be.
///
/// # Errors
/// When there is no such timeline.
pub fn timeline(kv: &dyn Kv, id: Timeline) -> Result<TimelineRecord> {
    match kv.get(Table::Meta, &keys::timeline(id))? {
        Some(value) => get_timeline(id, &value),
        None if id == Timeline::MAIN => Ok(TimelineRecord {
            id,
            name: "main".to_owned(),
            parent: None,
            head: Epoch(1),
            last: Epoch::BASE,
            created: Time::default(),
            deleted: false,
        }),
        None => Err(StoreError::corrupt(format!("timeline {id} is missing"))),
    }
}

/// The timelines that are not deleted, by number; the first is among them even if nothing was ever written to it.
pub fn living(kv: &dyn Kv) -> Result<Vec<TimelineRecord>> {
    let mut list = timelines(kv)?;
    if list.first().is_none_or(|t| t.id != Timeline::MAIN) {
        list.insert(0, timeline(kv, Timeline::MAIN)?);
    }
    list.retain(|t| !t.deleted);
    Ok(list)
}

/// The timeline that the mount in place shows.
pub fn shown(kv: &dyn Kv) -> Result<Timeline> {
    let stored = kv.get(Table::Meta, &keys::shown())?;
    let id = stored.and_then(|v| Some(Timeline(u64::from_le_bytes(v.try_into().ok()?)))).unwrap_or(Timeline::MAIN);
    // Only a living one is ever put; should it be gone all the same, the first is always there.
    Ok(if living(kv)?.iter().any(|t| t.id == id) { id } else { Timeline::MAIN })
}

/// Puts which timeline the mount in place shows from now on.
pub fn put_shown(batch: &mut Batch, id: Timeline) {
    batch.put(Table::Meta, &keys::shown(), &id.0.to_le_bytes());
}

/// All operations, oldest first.
pub fn operations(kv: &dyn Kv) -> Result<Vec<Operation>> {
    all(kv, keys::all_operations(), &get_operation)
}

/// The way back from a timeline's newest state.
pub fn lineage(kv: &dyn Kv, id: Timeline) -> Result<Lineage> {
    let head = timeline(kv, id)?.head;
    Lineage::of(kv, At { timeline: id, epoch: head })
}

#[cfg(test)]
mod tests {
    use super::super::mem::MemKv;
    use super::super::{Change, Sync};
    use super::*;

    fn value(batch: &Batch) -> Vec<u8> {
        batch.changes().find_map(|(_, c)| if let Change::Put(_, v) = c { Some(v.to_vec()) } else { None }).unwrap()
    }

    #[test]
    fn records_read_back_and_damage_is_noticed() {
        let at = |t, e| At { timeline: Timeline(t), epoch: Epoch(e) };
        let mut snapshot = Snapshot {
            epoch: Epoch(7),
            timeline: Timeline(2),
            previous: Epoch(5),
            time: Time::new(3, 4),
            why: Why::Before,
            label: Some("grün".into()),
            note: "before a rewind".into(),
        };
        let timeline = TimelineRecord {
            id: Timeline(2),
            name: "try".into(),
            parent: Some(at(1, 6)),
            head: Epoch(9),
            last: Epoch(7),
            created: Time::new(1, 2),
            deleted: true,
        };
        let operation = Operation {
            id: 3,
            time: Time::new(5, 6),
            kind: OpKind::Merge,
            before: at(1, 2),
            after: at(1, 3),
            last: at(1, 4),
            kept: 3,
            brought: Some(at(2, 6)),
            undone: true,
            note: "n".into(),
        };
        let mut batch = Batch::new();
        put_snapshot(&mut batch, &snapshot);
        let bytes = value(&batch);
        assert_eq!(get_snapshot(Epoch(7), &bytes).unwrap(), snapshot);
        for len in 0..bytes.len() {
            assert!(get_snapshot(Epoch(7), &bytes[..len]).is_err());
        }
        snapshot.label = None;
        put_snapshot(&mut batch, &snapshot);
        put_timeline(&mut batch, &timeline);
        put_operation(&mut batch, &operation);
        let kv = MemKv::new();
        kv.commit(&batch, Sync::No).unwrap();
        assert_eq!(snapshots(&kv).unwrap(), [snapshot]);
        assert_eq!(timelines(&kv).unwrap(), [timeline]);
        assert_eq!(operations(&kv).unwrap(), [operation]);
        assert_eq!(super::timeline(&kv, Timeline::MAIN).unwrap().head, Epoch(1));
        assert!(super::timeline(&kv, Timeline(9)).is_err());
    }
}
