//! Answers about time: what there was, and going there. The same for a daemon and for a store that nothing is mounted from.

use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::protocol::{Apply, BytesRow, Done, Failure, ProgressRow, Request, Rewind, Row, SnapshotsFilter, Undo};
use super::steps;
use crate::apply::{Conflict, Expect, Found, Lost, Progress, Root, Stage, Watch};
use crate::clock;
use crate::diff::{self, DiffFilter};
use crate::landing::{self, Decide, Landed, Landing, Selection};
use crate::overlay::seal::Reason;
use crate::overlay::transit::Kept;
use crate::overlay::view::View;
use crate::overlay::{Ctx, Overlay};
use crate::query::{rows::text, time::format};
use crate::store::history::{self, OpKind, Snapshot, TimelineRecord, Why};
use crate::store::lineage::Lineage;
use crate::timeline::machine::Moved;
use crate::timeline::names::{NameError, Names, Place};
use crate::timeline::rows::{MovedRow, PathRow, SnapshotRow, UserRow};
use crate::timeline::spec;
use crate::timeline::undo::Direction;
use crate::timeline::{Machine, TimeError};
use crate::types::{At, Epoch, Ino, Kind, Path, unhex};

/// What a request that changes something needs besides the overlay.
pub struct Mover<'a> {
    pub machine: &'a Machine,
    pub ctx: Ctx,
    /// Files that may be mapped for writing.
    pub mapped: Vec<Ino>,
    /// Who has a file open.
    pub users: &'a dyn Fn(Ino) -> Vec<UserRow>,
    /// Whether the client wants no answer any more.
    pub cancelled: &'a dyn Fn() -> bool,
    /// Told what is new in the base, for other mounts.
    pub gained: &'a dyn Fn(&[Path]),
}

/// Tells a client how far an apply is, and the apply what the client wants.
struct Teller<'t, 's> {
    sink: &'t mut (dyn FnMut(Row) -> ControlFlow<()> + 's),
    cancelled: &'t dyn Fn() -> bool,
}

impl Watch for Teller<'_, '_> {
    fn progress(&mut self, p: Progress) {
        let what = match p.stage {
            Stage::Verify => "comparing",
            Stage::Keep => "keeping",
            Stage::Write => "writing",
            Stage::Commit => "applying",
        };
        let row = ProgressRow { what: what.to_owned(), done: p.done, total: p.total, bytes: p.bytes };
        let _ = (self.sink)(Row::Progress(row));
    }

    fn cancelled(&self) -> bool {
        (self.cancelled)()
    }
}

pub(crate) type Sink<'s> = &'s mut dyn FnMut(Row) -> ControlFlow<()>;

impl From<TimeError> for Failure {
    fn from(error: TimeError) -> Failure {
        Failure::new(error.to_string())
    }
}

impl From<NameError> for Failure {
    fn from(error: NameError) -> Failure {
        Failure { message: error.to_string(), exit: 2 }
    }
}

impl From<spec::SpecError> for Failure {
    fn from(error: spec::SpecError) -> Failure {
        Failure { message: error.to_string(), exit: 2 }
    }
}

fn os(what: &str) -> impl Fn(crate::types::Errno) -> Failure {
    move |errno| Failure::new(format!("{what}: {errno}"))
}

/// Finishes an apply that was interrupted.
///
/// # Errors
/// When it cannot be finished now.
pub fn resume(machine: &Machine, ctx: &Ctx) -> Result<(), Failure> {
    let fd = machine.overlay().base().descriptor().map_err(|e| os("cannot open the repository")(e.into()))?;
    let root = Root::new(fd);
    Ok(Landing { machine, root: &root, others: machine.others() }.resume(ctx, &mut ())?)
}

/// What a user's text stands for.
pub(crate) fn place(overlay: &Overlay, text: &str) -> Result<(Place, Names), Failure> {
    let names = Names::of(overlay)?;
    let place = match names.find(text, clock::now()) {
        Err(spec::SpecError::NotFound { .. }) if steps::is_name(text) => steps::place(overlay, text)?,
        other => other?,
    };
    Ok((place, names))
}

/// The two states that a diff compares.
pub fn sides<'o>(overlay: &'o Overlay, filter: &DiffFilter) -> Result<(View<'o>, View<'o>), Failure> {
    let view = |text: Option<&String>, otherwise: View<'o>| -> Result<View<'o>, Failure> {
        match text {
            Some(text) => {
                let place = place(overlay, text)?.0;
                let view = View::new(overlay, place.lineage(overlay)?);
                Ok(if matches!(place, Place::At(_)) { view.remembering() } else { view })
            }
            None => Ok(otherwise),
        }
    };
    let (from, to) = (view(filter.from.as_ref(), View::base(overlay))?, view(filter.to.as_ref(), View::now(overlay))?);
    if filter.paths.is_empty() {
        View::learn(&from, &to).map_err(os("cannot look at what changed"))?;
    }
    Ok((from, to))
}

/// Lists snapshots, oldest first.
pub fn snapshots(overlay: &Overlay, filter: &SnapshotsFilter, sink: Sink<'_>) -> Result<Done, Failure> {
    let kv = &*overlay.store().kv;
    let names = Names::of(overlay)?;
    let timelines = history::timelines(kv)?;
    let mut list = history::snapshots(kv)?;
    if let Some(one) = &filter.one {
        let at = match place(overlay, one)?.0 {
            Place::At(at) => at,
            Place::Base | Place::Now => return Err(Failure::new(format!("{one} is no snapshot"))),
        };
        list.retain(|s| s.epoch == at.epoch);
    } else if !filter.all {
        let lineage = overlay.lineage();
        list.retain(|s| lineage.segments().iter().any(|at| at.timeline == s.timeline && s.epoch <= at.epoch));
    }
    let skip = if filter.newest == 0 { 0 } else { list.len().saturating_sub(filter.newest) };
    for snapshot in list.into_iter().skip(skip) {
        let changed = if filter.brief { None } else { Some(changed(overlay, &snapshot)?) };
        let row = snapshot_row(&names, &timelines, snapshot, changed);
        if sink(Row::Snapshot(row)).is_break() {
            break;
        }
    }
    Ok(Done::default())
}

/// How many files differ between a snapshot and the one before it.
fn changed(overlay: &Overlay, snapshot: &Snapshot) -> Result<u64, Failure> {
    let kv = &*overlay.store().kv;
    let to = Lineage::of(kv, At { timeline: snapshot.timeline, epoch: snapshot.epoch })?;
    let from = before(kv, snapshot)?;
    let view = |lineage| View::new(overlay, Arc::new(lineage)).remembering();
    Ok(diff::count(&view(from), &view(to))?)
}

/// The state before a snapshot's own changes.
fn before(kv: &dyn crate::store::Kv, snapshot: &Snapshot) -> Result<Lineage, Failure> {
    if snapshot.previous == Epoch::BASE {
        return Ok(Lineage::of(kv, At::BASE)?);
    }
    // The one before may be of the timeline that this one forked from, or collected: then what it sealed is seen through this timeline.
    let timeline = history::snapshot(kv, snapshot.previous)?.map_or(snapshot.timeline, |s| s.timeline);
    Ok(Lineage::of(kv, At { timeline, epoch: snapshot.previous })?)
}

fn snapshot_row(names: &Names, timelines: &[TimelineRecord], s: Snapshot, changed_files: Option<u64>) -> SnapshotRow {
    let timeline = timelines.iter().find(|t| t.id == s.timeline).map_or("main", |t| &t.name);
    SnapshotRow {
        id: names.id(s.epoch),
        epoch: s.epoch.0,
        timeline: timeline.to_owned(),
        previous: (s.previous != Epoch::BASE).then(|| names.id(s.previous)),
        time: format(s.time),
        why: s.why.name().to_owned(),
        label: s.label,
        note: s.note,
        changed_files,
    }
}

/// Sends one file's bytes.
pub fn cat(overlay: &Overlay, at: &str, path: &str, sink: Sink<'_>) -> Result<Done, Failure> {
    const PIECE: usize = 64 << 10;
    let path = Path::new(&unhex(path).unwrap_or_default());
    let view = View::new(overlay, place(overlay, at)?.0.lineage(overlay)?);
    let missing = || Failure::new(format!("{at} has no {path}: `regentfs diff {at}` shows what changed since"));
    let node = view.find(&path).map_err(os("cannot look at that state"))?.ok_or_else(missing)?;
    let mut send = |bytes: &[u8]| sink(Row::Bytes(BytesRow { hex: crate::types::hex(bytes) }));
    match node.kind {
        Kind::File => {
            let reader = view.open(&node).map_err(os("cannot open that file"))?;
            let mut piece = vec![0; PIECE];
            let mut offset = 0;
            loop {
                let got = reader.read_at(offset, &mut piece).map_err(os("cannot read that file"))?;
                if got == 0 || send(piece.get(..got).unwrap_or_default()).is_break() {
                    return Ok(Done::default());
                }
                offset += got as u64;
            }
        }
        Kind::Symlink => {
            let _ = send(&view.target(&node).map_err(os("cannot read that link"))?);
            Ok(Done::default())
        }
        Kind::Dir => {
            for name in view.names(&node).map_err(os("cannot list that directory"))? {
                let mut line = name.to_vec();
                line.push(b'\n');
                if send(&line).is_break() {
                    break;
                }
            }
            Ok(Done::default())
        }
        Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
            Err(Failure::new(format!("{path} has no bytes: it is no regular file")))
        }
    }
}

impl Mover<'_> {
    /// Answers a request that changes something, except those that only a mount knows.
    ///
    /// # Errors
    /// What was refused; nothing is changed then.
    pub fn answer(&self, request: &Request, sink: Sink<'_>) -> Result<Done, Failure> {
        // What is only looked at is not collected meanwhile. What changes something waits for a collection, and looks again then.
        let looks = match request {
            Request::Export(_) => true,
            Request::Rewind(rewind) => rewind.dry_run,
            Request::Discard { dry_run } => *dry_run,
            Request::Apply(apply) => apply.dry_run,
            Request::Diff(_) => true,
            Request::Revert(revert) => revert.dry_run,
            _ => false,
        };
        let _past = looks.then(|| self.overlay().store().past.read());
        match request {
            Request::Snapshot { label } => self.snapshot(label.clone(), sink),
            Request::Rewind(rewind) if !rewind.chosen.is_empty() => self.rewind_selected(rewind, sink),
            Request::Rewind(rewind) => self.rewind(rewind, sink),
            Request::Diff(filter) => self.diff_selected(filter, sink),
            Request::Discard { dry_run } => self.discard(*dry_run, sink),
            Request::Undo(undo) => self.undo(undo, sink),
            Request::Apply(apply) => self.apply(apply, sink),
            Request::Merge(merge) => self.merge(merge, sink),
            Request::Revert(revert) => self.revert(revert, sink),
            Request::Export(export) => self.export(export, sink),
            Request::Bring(bring) => self.bring(bring, sink),
            Request::Timeline(request) => self.timeline(request, sink),
            Request::Gc(gc) => self.gc(gc, sink),
            _ => Err(Failure::new("this regentfs cannot do that: do versions differ?")),
        }
    }

    pub(super) fn overlay(&self) -> &Arc<Overlay> {
        self.machine.overlay()
    }

    fn snapshot(&self, label: Option<String>, sink: Sink<'_>) -> Result<Done, Failure> {
        if let Some(Err(why)) = label.as_deref().map(spec::valid_label) {
            return Err(Failure { message: format!("that cannot be a label: {why}"), exit: 2 });
        }
        let reason = Reason { why: Why::Manual, label, note: String::new() };
        let snapshot = self.machine.snapshot(&self.ctx, &reason, &self.mapped, true)?;
        let names = Names::of(self.overlay())?;
        let timelines = history::timelines(&*self.overlay().store().kv)?;
        let _ = sink(Row::Snapshot(snapshot_row(&names, &timelines, snapshot, None)));
        Ok(Done::default())
    }

    fn rewind(&self, rewind: &Rewind, sink: Sink<'_>) -> Result<Done, Failure> {
        let (place, names) = place(self.overlay(), &rewind.to)?;
        if place == Place::Now && rewind.paths.is_empty() {
            return Err(Failure {
                message: "now is where you are: name a snapshot (`regentfs snapshots`)".into(),
                exit: 2,
            });
        }
        let paths: Vec<Path> = rewind.paths.iter().map(|p| Path::new(&unhex(p).unwrap_or_default())).collect();
        let named = match place {
            Place::At(at) => names.id(at.epoch),
            Place::Base => "base".to_owned(),
            Place::Now => "now".to_owned(),
        };
        let target = place.lineage(self.overlay())?;
        let (kind, note) = match paths.as_slice() {
            [] => (OpKind::Rewind, format!("rewind to {named}")),
            [one] => (OpKind::Restore, format!("restore of {one} from {named}")),
            more => (OpKind::Restore, format!("restore of {} paths from {named}", more.len())),
        };
        self.go_to(&target, &paths, (kind, note), rewind.dry_run, &names, sink)
    }

    /// The tree as it is on disk; history and record stay.
    fn discard(&self, dry_run: bool, sink: Sink<'_>) -> Result<Done, Failure> {
        let (base, names) = place(self.overlay(), "base")?;
        let target = base.lineage(self.overlay())?;
        self.go_to(&target, &[], (OpKind::Discard, "discard".to_owned()), dry_run, &names, sink)
    }

    /// Goes to another state, or says what that would change. Where nothing differs nothing is done.
    fn go_to(
        &self,
        target: &Arc<Lineage>,
        paths: &[Path],
        (kind, note): (OpKind, String),
        dry_run: bool,
        names: &Names,
        sink: Sink<'_>,
    ) -> Result<Done, Failure> {
        self.go_to_with(None, target, paths, (kind, note), dry_run, names, sink)
    }

    /// The same for who holds the lock of operations already; it is let go of at the end.
    #[allow(clippy::too_many_arguments)] // a lock on top of the other's
    pub(super) fn go_to_with(
        &self,
        busy: Option<MutexGuard<'_, ()>>,
        target: &Arc<Lineage>,
        paths: &[Path],
        (kind, note): (OpKind, String),
        dry_run: bool,
        names: &Names,
        sink: Sink<'_>,
    ) -> Result<Done, Failure> {
        if dry_run || !self.machine.differs_from(target, paths)? {
            drop(busy);
            let changed = self.machine.differing_from(target, paths)?;
            let (_, kept) = self.machine.preview(&self.ctx, target, paths)?;
            let kept = if changed.is_empty() { Vec::new() } else { kept };
            let row =
                MovedRow { op: kind.name().to_owned(), note, changed: changed.len() as u64, ..MovedRow::default() };
            return Ok(self.tell(row, &changed, &kept, sink));
        }
        let (ctx, how) = (&self.ctx, (kind, note.as_str()));
        let moved = match &busy {
            Some(busy) => self.machine.rewind_with(busy, ctx, target, paths, how, &self.mapped)?,
            None => self.machine.rewind(ctx, target, paths, how, &self.mapped)?,
        };
        drop(busy);
        Ok(self.moved(kind.name(), note, &moved, names, sink))
    }

    fn undo(&self, undo: &Undo, sink: Sink<'_>) -> Result<Done, Failure> {
        let direction = if undo.redo { Direction::Redo } else { Direction::Undo };
        let next = self.machine.next_operation(direction)?;
        if next.kind == OpKind::Apply {
            let landed = self.landing_watched(sink, |l, watch| l.undo(&self.ctx, &next, undo.redo, watch))?;
            let note = format!("{} of {}", direction.name(), next.note);
            return Ok(self.landed(direction.name(), note, &landed, sink));
        }
        let (operation, moved) = self.machine.undo(&self.ctx, direction, undo.force, &self.mapped)?;
        let names = Names::of(self.overlay())?;
        let note = format!("{} of {}", direction.name(), operation.note);
        if operation.kind == OpKind::Switch {
            return self.switched(direction.name(), note, &moved, &names, sink);
        }
        Ok(self.moved(direction.name(), note, &moved, &names, sink))
    }

    pub(super) fn landing<T>(&self, act: impl FnOnce(&Landing<'_>) -> landing::Result<T>) -> Result<T, Failure> {
        let fd = self.overlay().base().descriptor().map_err(|e| os("cannot open the repository")(e.into()))?;
        let root = Root::new(fd);
        Ok(act(&Landing { machine: self.machine, root: &root, others: self.machine.others() })?)
    }

    /// The same for what takes a while: the client is told how far it is.
    pub(super) fn landing_watched<T>(
        &self,
        sink: Sink<'_>,
        act: impl FnOnce(&Landing<'_>, &mut dyn Watch) -> landing::Result<T>,
    ) -> Result<T, Failure> {
        let teller = &mut Teller { sink, cancelled: self.cancelled };
        self.landing(|landing| act(landing, teller))
    }

    fn apply(&self, apply: &Apply, sink: Sink<'_>) -> Result<Done, Failure> {
        let decide = match (apply.ours, apply.theirs) {
            (true, _) => Decide::Ours,
            (_, true) => Decide::Theirs,
            _ => Decide::Refuse,
        };
        if !apply.chosen.is_empty() {
            return self.apply_selected(apply, decide, sink);
        }
        let at = |text: &String| -> Result<Place, Failure> { Ok(place(self.overlay(), text)?.0) };
        let from = match apply.from.as_ref().map(at).transpose()? {
            Some(Place::At(at)) => Some(at),
            Some(Place::Base) => {
                return Err(Failure { message: "base is what the repository has: nothing to apply".into(), exit: 2 });
            }
            Some(Place::Now) | None => None,
        };
        let only = match &apply.only {
            Some((from, to)) => Some((at(from)?.lineage(self.overlay())?, at(to)?.lineage(self.overlay())?)),
            None => None,
        };
        let paths = apply.paths.iter().map(|p| Path::new(&unhex(p).unwrap_or_default())).collect();
        let selection = Selection { paths, from, only, made: None, decide };
        let landed = match apply.dry_run {
            true => self.landing(|landing| landing.preview(&selection))?,
            false => self.landing_watched(sink, |landing, watch| landing.apply(&self.ctx, &selection, watch))?,
        };
        Ok(self.landed("apply", "apply".to_owned(), &landed, sink))
    }

    pub(super) fn landed(&self, op: &str, note: String, landed: &Landed, sink: Sink<'_>) -> Done {
        let store = self.overlay().store();
        let id = |at: Option<At>| at.map(|at| spec::id_of(&store.format.id, at.epoch));
        let row = MovedRow {
            op: op.to_owned(),
            done: landed.after.is_some(),
            before: id(landed.before),
            after: id(landed.after),
            note,
            changed: landed.paths.len() as u64,
            repository: true,
            timeline: None,
        };
        let _ = sink(Row::Moved(row));
        let mut send = |path: &Path, what: &str, why: Option<String>| {
            let (path, path_hex) = text(path.as_bytes());
            sink(Row::Path(PathRow { path, path_hex, what: what.to_owned(), why, ..PathRow::default() })).is_break()
        };
        for path in &landed.paths {
            if send(path, "changed", None) {
                return Done::default();
            }
        }
        for conflict in &landed.conflicts {
            if send(&conflict.path, "conflict", Some(why(conflict))) {
                return Done::default();
            }
        }
        for note in &landed.notes {
            let lost = match &note.lost {
                Lost::Owner => "its owner could not be set".to_owned(),
                Lost::Mode => "its set-group-ID bit could not be set".to_owned(),
                Lost::Xattr(name) => format!("its attribute {} could not be set", String::from_utf8_lossy(name)),
            };
            if send(&note.path, "note", Some(lost)) {
                break;
            }
        }
        Done::default()
    }

    pub(crate) fn moved(&self, op: &str, note: String, moved: &Moved, names: &Names, sink: Sink<'_>) -> Done {
        let row = MovedRow {
            op: op.to_owned(),
            done: true,
            before: Some(names.id(moved.before.epoch)),
            after: Some(names.id(moved.after.epoch)),
            note,
            changed: moved.paths.len() as u64,
            repository: false,
            timeline: None,
        };
        self.tell(row, &moved.paths, &moved.kept, sink)
    }

    /// First what happened, then the paths.
    pub(super) fn tell(&self, row: MovedRow, changed: &[Path], kept: &[Kept], sink: Sink<'_>) -> Done {
        let path_row = |path: &Path, what: &str, users| {
            let (path, path_hex) = text(path.as_bytes());
            Row::Path(PathRow { path, path_hex, what: what.to_owned(), users, ..PathRow::default() })
        };
        if sink(Row::Moved(row)).is_break() {
            return Done::default();
        }
        for path in changed {
            if sink(path_row(path, "changed", Vec::new())).is_break() {
                return Done::default();
            }
        }
        for kept in kept {
            if sink(path_row(&kept.path, "kept", (self.users)(kept.old))).is_break() {
                return Done::default();
            }
        }
        Done::default()
    }
}

/// Why a path of the base was left alone.
fn why(conflict: &Conflict) -> String {
    match (&conflict.expected, &conflict.found) {
        (Expect::Nothing, Found::Is(_)) => "the repository has something there that was not there before".to_owned(),
        (Expect::Is(_), Found::Is(_)) => "it was changed in the repository".to_owned(),
        (_, Found::Nothing) => "it is gone from the repository".to_owned(),
        (_, Found::Refused(errno)) => format!("the repository does not let it: {errno}"),
        (_, Found::Blocked) => "something that it needs could not be done".to_owned(),
    }
}

impl From<landing::LandError> for Failure {
    fn from(error: landing::LandError) -> Failure {
        Failure::new(error.to_string())
    }
}
