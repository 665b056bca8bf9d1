//! Timelines: forking one off, listing, deleting, and which one the mount in place shows.
//!
//! A fork copies nothing: its record says where it left its parent, and what it does not change itself is read there. Deleting one
//! only marks it; its states stay until nothing needs them and they are collected.

use std::path::PathBuf;
use std::sync::Arc;

use super::machine::{Machine, Moved, Result, TimeError, os};
use super::spec;
use crate::overlay::restore::Differences;
use crate::overlay::seal::Reason;
use crate::overlay::view::View;
use crate::overlay::{Ctx, Shown};
use crate::store::history::{self, OpKind, Operation, Snapshot, TimelineRecord, Why};
use crate::store::lineage::Lineage;
use crate::store::{Batch, Counter, Kv, StoreError, Sync};
use crate::types::{At, Epoch, Ino, Note, Op, Path, Timeline};

/// The name of the first timeline.
pub const MAIN: &str = "main";
/// Timelines that a message lists.
const LISTED: usize = 5;

/// Whether a timeline can be given this name.
///
/// # Errors
/// Why not, in words that can follow a colon.
pub fn valid_name(text: &str) -> Result<(), &'static str> {
    if text == MAIN {
        return Err("that is the first timeline's");
    }
    spec::valid_label(text)
}

/// A timeline, as a list shows it.
#[derive(Clone, Debug)]
pub struct Branch {
    pub record: TimelineRecord,
    /// The mount in place shows it, or will.
    pub current: bool,
    /// How many snapshots were taken on it.
    pub snapshots: u64,
    /// Where it is mounted.
    pub mountpoint: Option<PathBuf>,
}

/// The living timeline of that name.
///
/// # Errors
/// [`TimeError::Refused`] when there is none.
pub fn named(kv: &dyn Kv, name: &str) -> Result<TimelineRecord> {
    let living = history::living(kv)?;
    if let Some(found) = living.iter().find(|t| t.name == name) {
        return Ok(found.clone());
    }
    let mut names: Vec<&str> = living.iter().map(|t| t.name.as_str()).take(LISTED).collect();
    if living.len() > names.len() {
        names.push("…");
    }
    Err(TimeError::Refused(format!("no timeline is called {name}; there are: {}", names.join(", "))))
}

/// With the lock of operations: so it stays.
///
/// # Errors
/// [`TimeError::Refused`] when a sealed state was collected since somebody named it.
pub fn still_there(kv: &dyn Kv, at: At) -> Result<()> {
    if at != At::BASE && history::snapshot(kv, at.epoch)?.is_none() {
        return Err(TimeError::Refused(
            "that snapshot has just been collected: choose another one (`regentfs snapshots`)".to_owned(),
        ));
    }
    Ok(())
}

/// Why a snapshot is taken where a timeline begins.
fn forked_off(name: &str) -> Reason {
    Reason::new(Why::Fork, format!("where timeline {name} forked off"))
}

/// The snapshot that a timeline's newest state is, if nothing was changed since; of a fork that nothing changed, that of its parent.
pub(crate) fn sealed(kv: &dyn Kv, record: &TimelineRecord, changed: bool) -> Result<Option<At>> {
    if changed {
        return Ok(None);
    }
    if record.last == Epoch::BASE {
        return Ok(Some(At::BASE));
    }
    Ok(history::snapshot(kv, record.last)?.map(|s| At { timeline: s.timeline, epoch: s.epoch }))
}

/// What is said of a timeline that somebody has.
pub fn taken(name: &str, at: &std::path::Path) -> TimeError {
    let at = at.display();
    TimeError::Refused(format!("timeline {name} is mounted at {at}: work there, or `regentfs unmount {at}` first"))
}

impl Machine {
    /// What is shown, for people.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn describe(&self) -> Result<String, StoreError> {
        let store = self.overlay.store();
        Ok(match self.overlay.shown() {
            Shown::Timeline(id) => format!("timeline {}", history::timeline(&*store.kv, id)?.name),
            Shown::Past(at) => format!("snapshot {}", spec::name_of(&store.format.id, at.epoch)),
        })
    }

    /// All living timelines, by number.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn timelines(&self) -> Result<Vec<Branch>> {
        let kv = &*self.overlay.store().kv;
        let (shown, snapshots) = (history::shown(kv)?, history::snapshots(kv)?);
        let branch = |record: TimelineRecord| Branch {
            current: record.id == shown,
            snapshots: snapshots.iter().filter(|s| s.timeline == record.id).count() as u64,
            mountpoint: self.showing.place_of(record.id),
            record,
        };
        Ok(history::living(kv)?.into_iter().map(branch).collect())
    }

    /// Makes a timeline that begins at `from`, or at what this overlay shows now. Costs the same whatever there is.
    ///
    /// # Errors
    /// [`TimeError::Refused`] when the name is taken or cannot be one; what the log says.
    pub fn fork(&self, ctx: &Ctx, name: &str, from: Option<At>, mapped: &[Ino]) -> Result<TimelineRecord> {
        let _busy = self.begin_adding()?;
        self.is_free(name)?;
        match (from, self.overlay.shown()) {
            (Some(at), _) | (None, Shown::Past(at)) => {
                still_there(&*self.overlay.store().kv, at)?;
                self.put_fork(ctx, name, at, Batch::new())
            }
            (None, Shown::Timeline(_)) => {
                self.write_back(mapped);
                let _gate = self.gate.close();
                self.fork_present(ctx, name)
            }
        }
    }

    /// The same from the newest state of another timeline, which no mount shows.
    ///
    /// # Errors
    /// As [`Machine::fork`]; [`TimeError::Refused`] when it is mounted after all.
    pub fn fork_other(&self, ctx: &Ctx, name: &str, parent: Timeline) -> Result<TimelineRecord> {
        let _busy = self.begin_adding()?;
        self.is_free(name)?;
        let kv = &*self.overlay.store().kv;
        let record = history::timeline(kv, parent)?;
        if let Some(at) = self.showing.place_of(parent) {
            return Err(taken(&record.name, &at));
        }
        let lineage = Lineage::of(kv, At { timeline: parent, epoch: record.head })?;
        if let Some(at) = sealed(kv, &record, lineage.changed_since(kv, record.last)?)? {
            return self.put_fork(ctx, name, at, Batch::new());
        }
        let mut batch = Batch::new();
        let sealed = self.overlay.put_seal_of(ctx, &mut batch, record, &forked_off(name));
        let (sealed, _) = sealed.map_err(os("cannot take a snapshot"))?;
        self.put_fork(ctx, name, At { timeline: parent, epoch: sealed.epoch }, batch)
    }

    /// # Errors
    /// [`TimeError::Refused`] when a new timeline cannot have this name.
    fn is_free(&self, name: &str) -> Result<()> {
        valid_name(name).map_err(|why| TimeError::Refused(format!("{name:?} cannot be a timeline's name: {why}")))?;
        if history::living(&*self.overlay.store().kv)?.iter().any(|t| t.name == name) {
            return Err(TimeError::Refused(format!("there is a timeline {name} already: give another name")));
        }
        Ok(())
    }

    /// With the gate closed.
    fn fork_present(&self, ctx: &Ctx, name: &str) -> Result<TimelineRecord> {
        let kv = &*self.overlay.store().kv;
        let record = history::timeline(kv, self.overlay.timeline())?;
        if let Some(at) = sealed(kv, &record, self.overlay.is_changed()?)? {
            return self.put_fork(ctx, name, at, Batch::new());
        }
        let (mut batch, reason) = (Batch::new(), forked_off(name));
        let (sealed, next) = self.overlay.put_seal(ctx, &mut batch, &reason).map_err(os("cannot take a snapshot"))?;
        let made = self.put_fork(ctx, name, At { timeline: sealed.timeline, epoch: sealed.epoch }, batch)?;
        self.overlay.now_in(next).map_err(os("the timeline is forked, but cannot be read back"))?;
        Ok(made)
    }

    fn put_fork(&self, ctx: &Ctx, name: &str, at: At, mut batch: Batch) -> Result<TimelineRecord> {
        let record = TimelineRecord {
            id: self.new_timeline()?,
            name: name.to_owned(),
            parent: Some(at),
            head: self.overlay.new_epoch().map_err(os("no number for an epoch"))?,
            last: at.epoch,
            created: ctx.now,
            deleted: false,
        };
        history::put_timeline(&mut batch, &record);
        self.note(ctx, batch, &format!("fork {name}"))?;
        Ok(record)
    }

    /// Commits with the event that tells of it.
    fn note(&self, ctx: &Ctx, batch: Batch, text: &str) -> Result<()> {
        let note = Note::new(Op::Timeline, Ino::ROOT, Path::root()).with_path2(Path::new(text.as_bytes()));
        self.overlay.journal_commit(ctx, batch, note, Sync::No).map_err(os("nothing was changed"))
    }

    /// A number that no timeline had before.
    pub(super) fn new_timeline(&self) -> Result<Timeline> {
        let store = self.overlay.store();
        loop {
            let id = Timeline(store.counters.next(&*store.kv, Counter::Timeline)?);
            // The first one is there before anything is written.
            if id > Timeline::MAIN {
                return Ok(id);
            }
        }
    }

    /// Deletes a timeline. What was changed on it since its last snapshot becomes one more, which is returned: by that it can be had back until the
    /// states are collected.
    ///
    /// # Errors
    /// [`TimeError::Refused`] for the first timeline, the one in place, and those that are mounted; what the log says.
    pub fn delete(&self, ctx: &Ctx, name: &str) -> Result<(TimelineRecord, Option<Snapshot>)> {
        let _busy = self.begin();
        let kv = &*self.overlay.store().kv;
        let record = named(kv, name)?;
        let refuse = |why: &str| Err(TimeError::Refused(format!("timeline {name} cannot be deleted: {why}")));
        if record.id == Timeline::MAIN {
            return refuse("it is the first one, and always stays");
        }
        if record.id == history::shown(kv)? {
            return refuse("it is the one in place; `regentfs timeline switch` to another one first");
        }
        if let Some(at) = self.showing.place_of(record.id).or_else(|| self.showing.past_of(record.id)) {
            let at = at.display();
            return refuse(&format!("it is mounted at {at}; `regentfs unmount {at}` first"));
        }
        let mut batch = Batch::new();
        let lineage = Lineage::of(kv, At { timeline: record.id, epoch: record.head })?;
        let (snapshot, record) = if lineage.changed_since(kv, record.last)? {
            let reason = Reason::new(Why::Before, format!("before timeline {name} was deleted"));
            let sealed = self.overlay.put_seal_of(ctx, &mut batch, record, &reason);
            let (snapshot, record) = sealed.map_err(os("cannot take a snapshot"))?;
            (Some(snapshot), record)
        } else {
            (history::snapshot(kv, record.last)?, record)
        };
        let record = TimelineRecord { deleted: true, ..record };
        history::put_timeline(&mut batch, &record);
        self.note(ctx, batch, &format!("delete {name}"))?;
        Ok((record, snapshot))
    }

    /// Shows another timeline in place, from now on or, where nothing is mounted in place, from the next mount on.
    ///
    /// # Errors
    /// [`TimeError::Refused`] when there is no such timeline or it is mounted elsewhere; what the log says.
    pub fn switch(&self, ctx: &Ctx, name: &str, mapped: &[Ino]) -> Result<Moved> {
        let _busy = self.begin();
        let kv = &*self.overlay.store().kv;
        let target = named(kv, name)?;
        if target.id == history::shown(kv)? {
            return Err(TimeError::Refused(format!("timeline {name} is the one in place already")));
        }
        self.go_to(ctx, &target, None, &format!("switch to {name}"), mapped)
    }

    /// Goes to another timeline. `known` is the operation's record if this is not its first time. With the lock of operations.
    pub(crate) fn go_to(
        &self,
        ctx: &Ctx,
        target: &TimelineRecord,
        known: Option<Operation>,
        note: &str,
        mapped: &[Ino],
    ) -> Result<Moved> {
        if target.deleted {
            return Err(TimeError::Refused(format!(
                "timeline {} was deleted: `regentfs timeline fork` begins one from a snapshot of it",
                target.name
            )));
        }
        if let Some(at) = self.showing.place_of(target.id) {
            return Err(taken(&target.name, &at));
        }
        let kv = &*self.overlay.store().kv;
        let after = At { timeline: target.id, epoch: target.last };
        if !self.in_place {
            let shown = history::timeline(kv, history::shown(kv)?)?;
            let before = At { timeline: shown.id, epoch: shown.last };
            let batch = self.put_switch(ctx, before, after, known, note)?;
            self.overlay.journal_commit(ctx, batch, switch_event(note), Sync::No).map_err(os("nothing was changed"))?;
            return Ok(Moved { before, after, paths: Vec::new(), kept: Vec::new() });
        }
        self.write_back(mapped);
        let (moved, stale) = {
            let _gate = self.gate.close();
            let lineage = self.overlay.ready(target.id)?;
            let plan = self.overlay.plan(&lineage).map_err(os("cannot look at that timeline"))?;
            let before = self.seal_before(ctx, &format!("before {note}"))?;
            let batch = self.put_switch(ctx, before, after, known, note)?;
            let stale = self
                .overlay
                .go_over(ctx, &plan, lineage, batch, switch_event(note))
                .map_err(os("nothing was changed"))?;
            (Moved { before, after, paths: Vec::new(), kept: plan.kept }, stale)
        };
        self.tell(&stale);
        let view = |at| Ok::<_, StoreError>(View::new(&self.overlay, Arc::new(Lineage::of(kv, at)?)));
        let now = At { timeline: target.id, epoch: target.head };
        let paths = Differences::between(&view(moved.before)?, &view(now)?)
            .map(Differences::but_times)
            .map_err(os("it is done, but not what is different can be told"))?;
        Ok(Moved { paths, ..moved })
    }

    fn put_switch(&self, ctx: &Ctx, before: At, after: At, known: Option<Operation>, note: &str) -> Result<Batch> {
        let store = self.overlay.store();
        let operation = match known {
            Some(known) => known,
            None => Operation {
                id: store.counters.next(&*store.kv, Counter::Operation)?,
                time: ctx.now,
                kind: OpKind::Switch,
                before,
                after,
                last: after,
                kept: 0,
                brought: None,
                undone: false,
                note: note.to_owned(),
            },
        };
        let mut batch = Batch::new();
        history::put_shown(&mut batch, after.timeline);
        history::put_operation(&mut batch, &operation);
        Ok(batch)
    }
}

fn switch_event(note: &str) -> Note {
    Note::new(Op::Rewind, Ino::ROOT, Path::root()).with_path2(Path::new(note.as_bytes()))
}

#[cfg(test)]
mod tests;
