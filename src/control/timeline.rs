//! Answers about timelines: making, listing, deleting, switching.

use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;

use super::protocol::{Done, Failure, Row, TimelineRequest};
use super::time::{Mover, Sink, place};
use crate::overlay::{Overlay, Shown};
use crate::query::{rows::text, time::format};
use crate::store::history::{self, OpKind, Snapshot, TimelineRecord};
use crate::store::{Kv, StoreError};
use crate::timeline::branch::{self, Branch};
use crate::timeline::machine::Moved;
use crate::timeline::names::{Names, Place};
use crate::timeline::rows::{MovedRow, TimelineRow};
use crate::types::{At, Time, Timeline};

/// Where a timeline is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkPoint {
    At(At),
    /// The newest state of a timeline.
    Present(Timeline),
}

/// What a user's text stands for where a timeline is to begin: a point in time, or else a timeline of that name.
///
/// # Errors
/// When it is neither.
pub fn fork_point(overlay: &Overlay, text: &str) -> Result<ForkPoint, Failure> {
    match place(overlay, text) {
        Ok((Place::At(at), _)) => Ok(ForkPoint::At(at)),
        Ok((Place::Base, _)) => Ok(ForkPoint::At(At::BASE)),
        Ok((Place::Now, _)) => Ok(match overlay.shown() {
            Shown::Timeline(id) => ForkPoint::Present(id),
            Shown::Past(at) => ForkPoint::At(at),
        }),
        Err(failure) => {
            let living = history::living(&*overlay.store().kv)?;
            living.iter().find(|t| t.name == text).map(|t| ForkPoint::Present(t.id)).ok_or(failure)
        }
    }
}

/// What a row says besides the timeline itself.
struct Rows {
    names: Names,
    /// Deleted ones as well: they may be parents.
    all: Vec<TimelineRecord>,
}

impl Rows {
    fn load(overlay: &Overlay) -> Result<Rows, StoreError> {
        Ok(Rows { names: Names::of(overlay)?, all: history::timelines(&*overlay.store().kv)? })
    }

    fn row(&self, branch: Branch) -> Row {
        let Branch { record, current, snapshots, mountpoint } = branch;
        let name = |at: At| self.all.iter().find(|t| t.id == at.timeline).map_or(branch::MAIN, |t| &t.name).to_owned();
        let (mountpoint, mountpoint_hex) = mountpoint.map_or((None, None), |at| {
            let (lossy, hex) = text(at.as_os_str().as_bytes());
            (Some(lossy), hex)
        });
        Row::Timeline(TimelineRow {
            parent: record.parent.map(name),
            forked_at: record.parent.map(|at| self.names.id(at.epoch)),
            created: (record.created != Time::default()).then(|| format(record.created)),
            name: record.name,
            current,
            snapshots,
            mountpoint,
            mountpoint_hex,
        })
    }
}

fn snapshots_of(kv: &dyn Kv, timeline: Timeline) -> Result<u64, StoreError> {
    Ok(history::snapshots(kv)?.iter().filter(|s| s.timeline == timeline).count() as u64)
}

impl Mover<'_> {
    pub(super) fn timeline(&self, request: &TimelineRequest, sink: Sink<'_>) -> Result<Done, Failure> {
        match request {
            TimelineRequest::List => {
                let rows = Rows::load(self.overlay())?;
                for branch in self.machine.timelines()? {
                    if sink(rows.row(branch)).is_break() {
                        break;
                    }
                }
                Ok(Done::default())
            }
            TimelineRequest::Fork { name, from } => self.fork(name, from.as_deref(), sink),
            TimelineRequest::Delete { name } => self.delete(name, sink),
            TimelineRequest::Switch { name } => {
                let moved = self.machine.switch(&self.ctx, name, &self.mapped)?;
                let names = Names::of(self.overlay())?;
                self.switched(OpKind::Switch.name(), format!("switch to {name}"), &moved, &names, sink)
            }
        }
    }

    fn fork(&self, name: &str, from: Option<&str>, sink: Sink<'_>) -> Result<Done, Failure> {
        if let Err(why) = branch::valid_name(name) {
            return Err(Failure { message: format!("that cannot be a timeline's name: {why}"), exit: 2 });
        }
        let from = from.map(|text| fork_point(self.overlay(), text)).transpose()?;
        let record = match from {
            Some(ForkPoint::Present(id)) if self.overlay().shown() != Shown::Timeline(id) => {
                self.machine.fork_other(&self.ctx, name, id)?
            }
            Some(ForkPoint::At(at)) => self.machine.fork(&self.ctx, name, Some(at), &self.mapped)?,
            Some(ForkPoint::Present(_)) | None => self.machine.fork(&self.ctx, name, None, &self.mapped)?,
        };
        let branch = Branch { record, current: false, snapshots: 0, mountpoint: None };
        let _ = sink(Rows::load(self.overlay())?.row(branch));
        Ok(Done::default())
    }

    fn delete(&self, name: &str, sink: Sink<'_>) -> Result<Done, Failure> {
        let (record, last) = self.machine.delete(&self.ctx, name)?;
        let rows = Rows::load(self.overlay())?;
        let snapshots = snapshots_of(&*self.overlay().store().kv, record.id)?;
        let flow = sink(rows.row(Branch { record, current: false, snapshots, mountpoint: None }));
        let back = |last: Snapshot| {
            let id = rows.names.id(last.epoch);
            format!("its last state is snapshot {id}: `regentfs timeline fork {name} {id}` goes on from there")
        };
        let notes = last.map(back).into_iter().filter(|_| flow == ControlFlow::Continue(())).collect();
        Ok(Done { notes, ..Done::default() })
    }

    /// Says what a change of the timeline in place did.
    pub(super) fn switched(
        &self,
        op: &str,
        note: String,
        moved: &Moved,
        names: &Names,
        sink: Sink<'_>,
    ) -> Result<Done, Failure> {
        let kv = &*self.overlay().store().kv;
        let row = MovedRow {
            op: op.to_owned(),
            done: true,
            before: Some(names.id(moved.before.epoch)),
            // It goes on from its newest state, which need not be a snapshot.
            after: None,
            note,
            changed: moved.paths.len() as u64,
            timeline: Some(history::timeline(kv, moved.after.timeline)?.name),
            ..MovedRow::default()
        };
        Ok(self.tell(row, &moved.paths, &moved.kept, sink))
    }
}
