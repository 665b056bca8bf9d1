//! The operations on time, one at a time.

use std::sync::{Arc, OnceLock};

use parking_lot::MutexGuard;

use super::{Gate, Kernel, Showing};
use crate::clock;
use crate::overlay::restore::{Differences, differs};
use crate::overlay::seal::Reason;
use crate::overlay::transit::{Kept, Plan, Stale};
use crate::overlay::view::View;
use crate::overlay::{Ctx, Overlay};
use crate::store::history::{self, OpKind, Operation, Snapshot, Why};
use crate::store::lineage::{Lineage, Touched};
use crate::store::{Batch, Counter, StoreError};
use crate::types::{At, Epoch, Errno, Ino, Kind, Note, Op, Path};

/// Why an operation did not happen. Then everything is as it was.
#[derive(Debug, thiserror::Error)]
pub enum TimeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{what}: {errno}")]
    Os { what: &'static str, errno: Errno },
    #[error("the label {0:?} is already used: give another one")]
    LabelUsed(String),
    #[error("there is nothing to {0}")]
    Nothing(&'static str),
    /// Changed since by somebody else.
    #[error("{} changed since: nothing was done (--force takes them back as well; a snapshot is kept)", list(.0))]
    Changed(Vec<Path>),
    #[error("{0}")]
    Refused(String),
}

/// What the snapshots around an operation take at most, in bytes.
const ROOM: u64 = 64 << 10;

/// The first few of a list of paths.
fn list(paths: &[Path]) -> String {
    const SHOWN: usize = 5;
    let mut text: Vec<String> = paths.iter().take(SHOWN).map(Path::to_string).collect();
    if paths.len() > SHOWN {
        text.push(format!("and {} more", paths.len() - SHOWN));
    }
    text.join(", ")
}

pub(crate) fn os(what: &'static str) -> impl Fn(Errno) -> TimeError {
    move |errno| TimeError::Os { what, errno }
}

pub type Result<T, E = TimeError> = std::result::Result<T, E>;

/// What an operation did.
#[derive(Clone, Debug)]
pub struct Moved {
    /// The sealed state just before it.
    pub before: At,
    pub after: At,
    /// What differs between the two.
    pub paths: Vec<Path>,
    /// Files that are open: their old bytes stay with who has them open.
    pub kept: Vec<Kept>,
}

/// Where the time of an operation goes, in microseconds, for `REGENTFS_LOG=regentfs::timeline=debug` and scripts/bench-time.
struct Watch {
    last: u64,
    laps: Vec<(&'static str, u64)>,
}

impl Watch {
    fn start() -> Watch {
        Watch { last: clock::monotonic_ns(), laps: Vec::new() }
    }

    fn lap(&mut self, what: &'static str) {
        let now = clock::monotonic_ns();
        self.laps.push((what, now.saturating_sub(self.last) / 1000));
        self.last = now;
    }

    fn tell(&self, what: &str) {
        tracing::debug!(us = ?self.laps, "{what}");
    }
}

/// Which operation is carried out.
pub(crate) enum Doing {
    /// A new one; of a merge, with the state that it brings in.
    New(OpKind, Option<At>),
    /// One that is undone or done again, with its record as it is to be.
    Again(Operation),
}

/// See the module.
pub struct Machine {
    pub(crate) overlay: Arc<Overlay>,
    pub(crate) gate: Arc<Gate>,
    kernel: OnceLock<Arc<dyn Kernel>>,
    pub(crate) showing: Arc<Showing>,
    /// Whether this is what the mount in place shows, which another timeline can be switched to.
    pub(crate) in_place: bool,
}

impl Machine {
    pub fn new(overlay: Arc<Overlay>, gate: Arc<Gate>) -> Machine {
        Machine::beside(overlay, gate, Arc::default(), true)
    }

    /// One of several in a process. `showing` is the same for all of them.
    pub fn beside(overlay: Arc<Overlay>, gate: Arc<Gate>, showing: Arc<Showing>, in_place: bool) -> Machine {
        Machine { overlay, gate, kernel: OnceLock::new(), showing, in_place }
    }

    /// From now on the kernel is told.
    pub fn set_kernel(&self, kernel: Arc<dyn Kernel>) {
        let _ = self.kernel.set(kernel);
    }

    pub fn overlay(&self) -> &Arc<Overlay> {
        &self.overlay
    }

    /// Waits until no other operation is under way, in this mount or another one of the store.
    pub(crate) fn begin(&self) -> MutexGuard<'_, ()> {
        self.overlay.store().busy.lock()
    }

    /// The same for what adds something: it is refused before it begins when the disk is full.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub(crate) fn begin_adding(&self) -> Result<MutexGuard<'_, ()>> {
        let busy = self.begin();
        let space = &self.overlay.store().space;
        space.look();
        space.claim(ROOM)?;
        Ok(busy)
    }

    /// The other overlays of the store that are in memory, with the gates that keep changes out of them.
    pub fn others(&self) -> Vec<(Arc<Overlay>, Arc<Gate>)> {
        self.showing.others(&self.overlay)
    }

    /// # Errors
    /// [`TimeError::Refused`] where the past is shown.
    pub(crate) fn can_move(&self) -> Result<()> {
        if self.overlay.is_read_only() {
            let why = "this mount shows a snapshot, which stays as it is: do that in the mount of a timeline";
            return Err(TimeError::Refused(why.to_owned()));
        }
        Ok(())
    }

    /// Whether a snapshot that was found before the lock of operations was taken is still there.
    ///
    /// # Errors
    /// [`TimeError::Refused`] when it was collected meanwhile.
    pub(crate) fn is_there(&self, at: At) -> Result<()> {
        let sealed = at.epoch != Epoch::BASE && at != self.overlay.lineage().at();
        if sealed && history::snapshot(&*self.overlay.store().kv, at.epoch)?.is_none() {
            return Err(TimeError::Refused(
                "that snapshot has just been collected: choose another one (`regentfs snapshots`)".to_owned(),
            ));
        }
        Ok(())
    }

    /// Writes back what processes changed through mappings of these files; called without any lock.
    pub(crate) fn write_back(&self, mapped: &[Ino]) {
        if let Some(kernel) = self.kernel.get() {
            for &ino in mapped {
                kernel.forget_inode(ino);
            }
        }
    }

    /// Seals what there is. `mapped` are files whose mappings may have unwritten pages. Durable when this returns, if `durable`.
    ///
    /// # Errors
    /// [`TimeError::LabelUsed`]; what the log says.
    pub fn snapshot(&self, ctx: &Ctx, reason: &Reason, mapped: &[Ino], durable: bool) -> Result<Snapshot> {
        let _busy = self.begin_adding()?;
        self.can_move()?;
        if let Some(label) = &reason.label {
            let kv = &*self.overlay.store().kv;
            if history::snapshots(kv)?.iter().any(|s| s.label.as_ref() == Some(label)) {
                return Err(TimeError::LabelUsed(label.clone()));
            }
        }
        self.write_back(mapped);
        let mut watch = Watch::start();
        let snapshot = {
            let _gate = self.gate.close();
            watch.lap("waited");
            self.overlay.seal(ctx, reason).map_err(os("cannot take a snapshot"))?
        };
        watch.lap("closed");
        if durable {
            self.overlay.sync_all().map_err(os("the snapshot is taken, but may not survive a power loss"))?;
            watch.lap("synced");
        }
        watch.tell("snapshot");
        Ok(snapshot)
    }

    /// Seals what there is if anything was changed, and returns the newest sealed state; of a view of the past, what it shows.
    ///
    /// # Errors
    /// A full disk; what the log says.
    pub fn settle(&self, ctx: &Ctx, note: &str, mapped: &[Ino]) -> Result<Arc<Lineage>> {
        if self.overlay.is_read_only() {
            return Ok(self.overlay.lineage());
        }
        let _busy = self.begin_adding()?;
        self.write_back(mapped);
        let _gate = self.gate.close();
        if self.overlay.is_changed()? {
            self.overlay.seal(ctx, &Reason::new(Why::Step, note)).map_err(os("cannot take a snapshot"))?;
        }
        let kv = &*self.overlay.store().kv;
        let At { timeline, epoch } = self.overlay.lineage().at();
        let last = At { timeline, epoch: Epoch(epoch.0.saturating_sub(1)) };
        Ok(Arc::new(Lineage::of(kv, last)?))
    }

    /// Seals what there is if anything was changed. The caller holds [`Store::busy`](crate::store::Store::busy).
    ///
    /// # Errors
    /// A full disk; what the log says.
    pub fn seal_step(&self, ctx: &Ctx, note: &str) -> Result<()> {
        let space = &self.overlay.store().space;
        space.claim(ROOM)?;
        let _gate = self.gate.close();
        if self.overlay.is_changed()? {
            self.overlay.seal(ctx, &Reason::new(Why::Step, note)).map_err(os("cannot take a snapshot"))?;
        }
        Ok(())
    }

    /// Seals what there is if anything was changed since the last snapshot; returns the newest one's state either way.
    pub(crate) fn sealed(&self, ctx: &Ctx, note: &str) -> Result<At> {
        let _gate = self.gate.close();
        self.seal_before(ctx, note)
    }

    /// The same for who has closed the gate.
    pub(crate) fn seal_before(&self, ctx: &Ctx, note: &str) -> Result<At> {
        let timeline = self.overlay.timeline();
        let last = history::timeline(&*self.overlay.store().kv, timeline)?.last;
        if self.overlay.is_changed()? || history::snapshot(&*self.overlay.store().kv, last)?.is_none() {
            let snapshot =
                self.overlay.seal(ctx, &Reason::new(Why::Before, note)).map_err(os("cannot take a snapshot"))?;
            return Ok(At { timeline, epoch: snapshot.epoch });
        }
        // A fork without changes: its last state is where it forked off, whose own timeline is another one.
        Ok(At { timeline, epoch: last })
    }

    /// The same before states of `brought` are put into the open epoch, which has to be the newer one then: a timeline's open epoch can be
    /// older than the past of another one, and no state may have a version that is newer than itself.
    pub(crate) fn seal_before_bringing(&self, ctx: &Ctx, note: &str, brought: At) -> Result<At> {
        if brought.epoch <= self.overlay.epoch() {
            return self.seal_before(ctx, note);
        }
        let reason = Reason::new(Why::Before, note);
        let snapshot = self.overlay.seal(ctx, &reason).map_err(os("cannot take a snapshot"))?;
        Ok(At { timeline: snapshot.timeline, epoch: snapshot.epoch })
    }

    /// Takes the mount, or only some paths of it, to the state of `target`.
    ///
    /// # Errors
    /// `ENOSPC` and what the log says; nothing is changed then.
    pub fn rewind(
        &self,
        ctx: &Ctx,
        target: &Arc<Lineage>,
        paths: &[Path],
        (kind, note): (OpKind, &str),
        mapped: &[Ino],
    ) -> Result<Moved> {
        let busy = self.begin_adding()?;
        self.rewind_with(&busy, ctx, target, paths, (kind, note), mapped)
    }

    /// The same for who holds the lock of operations already.
    ///
    /// # Errors
    /// As [`Machine::rewind`].
    pub(crate) fn rewind_with(
        &self,
        _busy: &MutexGuard<'_, ()>,
        ctx: &Ctx,
        target: &Arc<Lineage>,
        paths: &[Path],
        (kind, note): (OpKind, &str),
        mapped: &[Ino],
    ) -> Result<Moved> {
        self.can_move()?;
        self.is_there(target.at())?;
        self.write_back(mapped);
        let mut watch = Watch::start();
        let (moved, stale) = {
            let _gate = self.gate.close();
            watch.lap("waited");
            let plan = self.plan(ctx, target, paths)?;
            watch.lap("planned");
            let before = self.seal_before_bringing(ctx, &format!("before {note}"), target.at())?;
            self.carry_out(ctx, &plan, before, Doing::New(kind, None), note)?
        };
        watch.lap("done");
        self.tell(&stale);
        watch.lap("told");
        let moved = self.report(moved)?;
        watch.lap("reported");
        watch.tell("rewind");
        Ok(moved)
    }

    /// Fills in which paths a move changed. Takes no lock: others go on.
    pub(crate) fn report(&self, moved: Moved) -> Result<Moved> {
        let kv = &*self.overlay.store().kv;
        let view = |at| Ok::<_, StoreError>(View::new(&self.overlay, Arc::new(Lineage::of(kv, at)?)).remembering());
        let (before, after) = (view(moved.before)?, view(moved.after)?);
        let paths = View::learn(&before, &after)
            .and_then(|()| Differences::between(&before, &after))
            .map(Differences::but_times)
            .map_err(os("it is done, but not what changed can be told"))?;
        Ok(Moved { paths, ..moved })
    }

    /// What [`Machine::rewind`] would change, and which files are open.
    ///
    /// # Errors
    /// When the states cannot be read.
    pub fn preview(&self, ctx: &Ctx, target: &Arc<Lineage>, paths: &[Path]) -> Result<(Vec<Path>, Vec<Kept>)> {
        let _busy = self.begin();
        let _gate = self.gate.close();
        let plan = self.plan(ctx, target, paths)?;
        Ok((plan.paths(), plan.kept))
    }

    /// Paths at which the present differs from another state, directories that only gained or lost names left out.
    ///
    /// # Errors
    /// When the states cannot be read.
    pub fn differing_from(&self, target: &Arc<Lineage>, paths: &[Path]) -> Result<Vec<Path>> {
        let (now, then) = (View::now(&self.overlay), View::new(&self.overlay, target.clone()));
        let mut found = Differences::between(&now, &then).map_err(os("cannot look at that state"))?.but_times();
        found.retain(|path| paths.is_empty() || paths.iter().any(|p| path.is_below(p)));
        Ok(found)
    }

    /// Whether the present differs from another state as [`Machine::differing_from`] would tell. Usually the first changed path that is
    /// looked at settles it, so this costs next to nothing where much differs.
    ///
    /// # Errors
    /// When the states cannot be read.
    pub fn differs_from(&self, target: &Arc<Lineage>, paths: &[Path]) -> Result<bool> {
        const TRIED: usize = 16;
        let (now, then) = (View::now(&self.overlay), View::new(&self.overlay, target.clone()));
        let mut tried: Vec<Path> = Vec::new();
        Lineage::touched(&*self.overlay.store().kv, now.lineage(), target, &mut |touched| {
            let (Touched::Inode { path, .. } | Touched::Name { path, .. }) = touched;
            if tried.len() < TRIED && (paths.is_empty() || paths.iter().any(|p| path.is_below(p))) {
                tried.push(path);
            }
        })?;
        for path in tried {
            let look = || differs(&then, now.find(&path)?.as_ref(), then.find(&path)?.as_ref());
            if look().map_err(os("cannot look at that state"))? {
                return Ok(true);
            }
        }
        Ok(!self.differing_from(target, paths)?.is_empty())
    }

    fn plan(&self, ctx: &Ctx, target: &Arc<Lineage>, paths: &[Path]) -> Result<Plan> {
        let plan = if paths.is_empty() {
            self.overlay.plan(target)
        } else {
            let view = View::new(&self.overlay, target.clone());
            for path in paths {
                let is_there =
                    |v: &View<'_>| v.find(path).map(|n| n.is_some()).map_err(os("cannot look at that state"));
                let (was, is) = (is_there(&view)?, is_there(&View::now(&self.overlay))?);
                if !was && !is {
                    return Err(TimeError::Refused(format!(
                        "{path} is neither there now nor was it then: `regentfs diff` shows what differs"
                    )));
                }
                if was && !is {
                    self.nothing_above(path, paths)?;
                }
            }
            self.overlay.plan_paths(&view, paths, ctx)
        };
        plan.map_err(os("cannot look at that state"))
    }

    /// Refuses to bring a path back under something that is no directory now, unless that goes with it.
    fn nothing_above(&self, path: &Path, paths: &[Path]) -> Result<()> {
        let now = View::now(&self.overlay);
        let mut at = path.clone();
        while let Some((dir, _)) = at.split_last() {
            let node = now.find(&dir).map_err(os("cannot look at that state"))?;
            if node.is_some_and(|n| n.kind != Kind::Dir) && !paths.iter().any(|p| dir.is_below(p)) {
                let text = format!("{dir} is in the way of {path}: it is no directory now; bring it back as well");
                return Err(TimeError::Refused(text));
            }
            at = dir;
        }
        Ok(())
    }

    /// Carries a plan out in one batch with the seal behind it and the operation's record. With the gate closed.
    pub(crate) fn carry_out(
        &self,
        ctx: &Ctx,
        plan: &Plan,
        before: At,
        doing: Doing,
        note: &str,
    ) -> Result<(Moved, Stale)> {
        let kv = &*self.overlay.store().kv;
        let mut batch = Batch::new();
        let reason = Reason::new(Why::After, format!("after {note}"));
        let (sealed, next) = self.overlay.put_seal(ctx, &mut batch, &reason).map_err(os("cannot take a snapshot"))?;
        let after = At { timeline: sealed.timeline, epoch: sealed.epoch };
        match doing {
            Doing::Again(known) => history::put_operation(&mut batch, &Operation { last: after, ..known }),
            Doing::New(kind, brought) => {
                let id = self.overlay.store().counters.next(kv, Counter::Operation)?;
                let (time, last, note) = (ctx.now, after, note.to_owned());
                let operation =
                    Operation { id, time, kind, before, after, last, kept: 0, brought, undone: false, note };
                history::put_operation(&mut batch, &operation);
            }
        }
        let event = Note::new(Op::Rewind, Ino::ROOT, Path::root()).with_path2(Path::new(note.as_bytes()));
        let stale = self.overlay.carry_out(ctx, plan, batch, event).map_err(os("nothing was changed"))?;
        self.overlay.now_in(next).map_err(os("the state was changed, but cannot be read back"))?;
        Ok((Moved { before, after, paths: Vec::new(), kept: plan.kept.clone() }, stale))
    }

    /// Tells the kernel. Without the gate, and without any other lock.
    pub(crate) fn tell(&self, stale: &Stale) {
        let Some(kernel) = self.kernel.get() else { return };
        for (dir, name, child) in &stale.names {
            match child {
                Some(child) => kernel.deleted(*dir, *child, name),
                None => kernel.forget_name(*dir, name),
            }
        }
        for &ino in &stale.inodes {
            kernel.forget_inode(ino);
        }
    }
}
