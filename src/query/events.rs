//! The record itself, filtered.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::actors::Names;
use super::lines::Timelines;
use super::rows::text;
use super::{Contents, EventRow, PathGlob, QueryError, Result, Sink, Size, UNKNOWN_END, seen_content, time};
use crate::store::{Store, StoreError, Table, codec, keys};
use crate::types::{Event, Op, Range, Seq, Time};

/// Which events; an empty filter means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventFilter {
    pub pid: Option<u32>,
    /// See [`PathGlob`].
    pub path: Option<String>,
    /// Names of operations; none means all.
    pub ops: Vec<String>,
    /// Nanoseconds since 1970: only events at or after this.
    pub since: Option<i64>,
    /// Only events with this number or a higher one.
    pub from_seq: u64,
}

/// A filter that was understood.
struct Compiled {
    pid: Option<u32>,
    path: Option<PathGlob>,
    ops: Vec<Op>,
    since: Option<Time>,
}

impl EventFilter {
    fn compile(&self) -> Result<Compiled> {
        let op = |name: &String| {
            Op::from_name(name).ok_or_else(|| {
                let all: Vec<&str> = Op::ALL.iter().map(|op| op.name()).collect();
                QueryError::Filter(format!("no operation {name:?}: there are {}", all.join(", ")))
            })
        };
        Ok(Compiled {
            pid: self.pid,
            path: self.path.as_deref().map(PathGlob::new).transpose()?,
            ops: self.ops.iter().map(op).collect::<Result<_>>()?,
            since: self.since.map(Time::from_nanos),
        })
    }
}

impl Compiled {
    /// All but the process, which costs a look-up.
    fn admits(&self, event: &Event) -> bool {
        let note = &event.note;
        let path = |glob: &PathGlob| {
            let other = note.path2.as_ref().filter(|_| matches!(note.op, Op::Rename | Op::Link));
            glob.matches(&note.path) || other.is_some_and(|p| glob.matches(p))
        };
        (self.ops.is_empty() || self.ops.contains(&note.op))
            && self.since.is_none_or(|since| event.time >= since)
            && self.path.as_ref().is_none_or(path)
    }
}

/// Splits a value of the events table into the chain's hash and the event.
pub fn decode(key: &[u8], value: &[u8]) -> Result<([u8; 32], Event), StoreError> {
    let seq = keys::last_number(key).map(Seq).ok_or_else(|| StoreError::corrupt("the key of an event"))?;
    let (hash, bytes) =
        value.split_first_chunk::<32>().ok_or_else(|| StoreError::corrupt(format!("event {seq}: too short")))?;
    Ok((*hash, codec::get_event(seq, bytes)?))
}

/// Visits events from a number on, in order.
pub(crate) fn each_event(
    store: &Store,
    from: Seq,
    visit: &mut dyn FnMut(Event) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut outcome = Ok(());
    let (from, to) = keys::events_from(from);
    store.kv.scan(Table::Events, &from, &to, &mut |key, value| match decode(key, value)
        .map_err(QueryError::from)
        .and_then(|(_, event)| visit(event))
    {
        Ok(flow) => flow,
        Err(e) => {
            outcome = Err(e);
            ControlFlow::Break(())
        }
    })?;
    outcome
}

/// The number of the newest event; 0 when there is none. As there are no holes, it is also their count.
pub fn last_seq(store: &Store) -> Result<Seq> {
    let mut last = Seq(0);
    let (from, to) = keys::events_from(Seq(0));
    store.kv.scan_back(Table::Events, &from, &to, &mut |key, _| {
        last = keys::last_number(key).map_or(last, Seq);
        ControlFlow::Break(())
    })?;
    Ok(last)
}

/// The first event at or after a time, or the number behind the last one. Events are in order but for observations, which may be a second late.
///
/// # Errors
/// When the log cannot be read.
pub fn seq_at(store: &Store, time: Time) -> Result<Seq> {
    let (mut from, mut to) = (1, last_seq(store)?.0 + 1);
    while from < to {
        let mid = from + (to - from) / 2;
        let value = store.kv.get(Table::Events, &keys::event(Seq(mid)))?;
        let value = value.ok_or_else(|| StoreError::corrupt(format!("event {mid} is missing")))?;
        if decode(&keys::event(Seq(mid)), &value)?.1.time < time {
            from = mid + 1;
        } else {
            to = mid;
        }
    }
    Ok(Seq(from))
}

/// Sends the events that pass the filter; returns the number to continue from.
pub fn events(store: &Store, filter: &EventFilter, contents: &dyn Contents, sink: Sink<'_, EventRow>) -> Result<Seq> {
    let compiled = filter.compile()?;
    let (mut names, mut timelines) = (Names::new(store), Timelines::new(store));
    let mut next = Seq(filter.from_seq);
    each_event(store, next, &mut |event| {
        next = Seq(event.seq.0 + 1);
        if !compiled.admits(&event) {
            return Ok(ControlFlow::Continue(()));
        }
        let (pid, comm) = names.get(event.actor)?;
        if compiled.pid.is_some_and(|wanted| wanted != *pid) {
            return Ok(ControlFlow::Continue(()));
        }
        let timeline = timelines.name_of(event.epoch)?;
        Ok(sink(row(&event, (*pid, comm), timeline, contents)))
    })?;
    Ok(next)
}

fn row(event: &Event, (pid, comm): (u32, &str), timeline: Option<String>, contents: &dyn Contents) -> EventRow {
    let note = &event.note;
    let (path, path_hex) = text(note.path.as_bytes());
    let (path2, path2_hex) = note.path2.as_ref().map_or((None, None), |p| {
        let (text, hex) = text(p.as_bytes());
        (Some(text), hex)
    });
    let open_ended = note.ranges.iter().any(|r| r.end() == Range::TO_END);
    let end = if open_ended { end_of(note, contents) } else { UNKNOWN_END };
    EventRow {
        seq: event.seq.0,
        time: time::format(event.time),
        actor: event.actor.0,
        pid,
        comm: comm.to_owned(),
        op: note.op.name().to_owned(),
        ino: note.ino.0,
        path,
        path_hex,
        path2,
        path2_hex,
        ranges: note.ranges.iter().map(|r| closed(*r, end)).collect(),
        known: note.known.name().to_owned(),
        errno: note.errno.map(|e| e.to_string()),
        handle: note.handle.0,
        flags: note.flags,
        timeline,
    }
}

/// Where "to the end" is for the bytes of this event.
fn end_of(note: &crate::types::Note, contents: &dyn Contents) -> u64 {
    match contents.size(note.ino, seen_content(note), &note.path) {
        Some(Size::Exact(size) | Size::Now(size)) => size,
        None => UNKNOWN_END,
    }
}

/// Offset and length of a range, given where the file ends.
pub(super) fn closed(range: Range, end: u64) -> (u64, u64) {
    let len = if range.end() == Range::TO_END { end.saturating_sub(range.offset) } else { range.len };
    (range.offset, len)
}
