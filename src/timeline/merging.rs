//! Merging a timeline into the one that is shown: `combine.rs` decides, here it is carried out as one move that undo can take back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::branch::sealed;
use super::combine::{Choice, Combined, Conflict, Favor, Only, combine, texts};
use super::machine::{Doing, Machine, Moved, Result, TimeError, os};
use crate::merge::Merged as Text;
use crate::overlay::graft::{Wish, Wishes};
use crate::overlay::restore::differs;
use crate::overlay::seal::Reason;
use crate::overlay::transit::{Kept, Plan, Stale};
use crate::overlay::view::{Node, View};
use crate::overlay::{Ctx, Overlay};
use crate::store::codec::{Content, Parent, VersionRecord};
use crate::store::history::{self, OpKind, Operation, Why};
use crate::store::lineage::Lineage;
use crate::store::{Counter, Kv, StoreError};
use crate::types::{ActorId, At, Epoch, Errno, Ino, Kind, Path, Timeline, VersionId};

/// What a merge did, or would do.
#[derive(Debug, Default)]
pub struct Merged {
    /// `None` when nothing was done: there are conflicts, nothing is new, or it was only asked for.
    pub moved: Option<Moved>,
    pub conflicts: Vec<Conflict>,
    /// Paths that are to be, or are, as neither side had them.
    pub merged_paths: Vec<Path>,
    /// Paths that change, or would.
    pub changed: Vec<Path>,
    /// Files that are open: their old bytes stay with who has them open.
    pub kept: Vec<Kept>,
}

/// What is merged, and how.
#[derive(Clone, Copy, Debug)]
pub struct How<'n> {
    pub favor: Favor,
    /// Say what would happen, and do nothing.
    pub dry_run: bool,
    /// For people: what it is.
    pub note: &'n str,
}

/// New version files, deleted again unless they came to be used.
struct Files<'o> {
    overlay: &'o Overlay,
    ids: Vec<VersionId>,
    /// Those of files with several names, with their bytes: all names are of one file again.
    shared: BTreeMap<Ino, Vec<(VersionId, Vec<u8>)>>,
}

impl Files<'_> {
    /// The version with a file's merged bytes.
    fn version(&mut self, node: &Node, bytes: Vec<u8>, dry_run: bool, wishes: &mut Wishes) -> Result<VersionId, Errno> {
        let several = node.attr.nlink > 1;
        let shared = self.shared.get(&node.ino).into_iter().flatten();
        if let Some((id, _)) = shared.clone().find(|(_, same)| several && *same == bytes) {
            return Ok(*id);
        }
        let store = self.overlay.store();
        let id = VersionId(store.counters.next(&*store.kv, Counter::Version).map_err(|e| e.errno())?);
        if !dry_run {
            self.ids.push(id);
            self.overlay.write_version(id, &bytes)?;
        }
        // The epoch is that in which it is carried out.
        wishes.put_version(
            id,
            VersionRecord { ino: node.ino, epoch: Epoch::BASE, parent: Parent::None, limit: 0, by: ActorId::KERNEL },
        );
        if several {
            self.shared.entry(node.ino).or_default().push((id, bytes));
        }
        Ok(id)
    }

    fn used(mut self) {
        self.ids.clear();
    }
}

impl Drop for Files<'_> {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            if let Err(error) = self.overlay.store().data.remove(id) {
                tracing::warn!(%error, "a version file without a record is left for fsck");
            }
        }
    }
}

/// Two states, and as what the change between them is brought in.
struct Change<'l> {
    from: &'l Arc<Lineage>,
    to: &'l Arc<Lineage>,
    kind: OpKind,
    /// The state that a merge brings in.
    brought: Option<At>,
    only: Only<'l>,
}

/// For a change of which all counts.
pub fn everything(_: &Path, _: Option<&Node>, _: Option<&Node>) -> bool {
    true
}

impl Machine {
    /// Brings what a timeline changed since it and this one parted into what is shown here. It is read as it is now; what was not in a snapshot
    /// yet becomes one, if anything of it comes here. With any conflict nothing is done.
    ///
    /// # Errors
    /// [`TimeError::Refused`] where the past is shown, and for this timeline and deleted ones; `ENOSPC` and what the log says: nothing is changed then.
    pub fn merge(&self, ctx: &Ctx, theirs: Timeline, how: How<'_>, mapped: &[Ino]) -> Result<Merged> {
        let _busy = if how.dry_run { self.begin() } else { self.begin_adding()? };
        self.can_move()?;
        let kv = &*self.overlay.store().kv;
        let record = history::timeline(kv, theirs)?;
        let refuse = |why: &str| Err(TimeError::Refused(format!("timeline {} {why}", record.name)));
        if theirs == self.overlay.timeline() {
            return refuse("is the one that is shown here: name another one");
        }
        if record.deleted {
            return refuse("was deleted");
        }
        self.write_back(mapped);
        let (merged, stale) = {
            // Both stand still: what comes is a state that was there.
            let beside = self.showing.of(theirs);
            let _theirs = beside.as_ref().map(|(_, gate)| gate.close());
            let head = At { timeline: theirs, epoch: record.head };
            let changed = Lineage::of(kv, head)?.changed_since(kv, record.last)?;
            let (at, open) = match sealed(kv, &record, changed)? {
                Some(at) => (at, false),
                None => (head, true),
            };
            self.merge_state(ctx, at, how, &|| {
                // Bytes are shared from then on, so nobody may be able to change them.
                let reason = Reason::new(Why::Before, format!("before {}", how.note));
                match (&beside, open) {
                    (_, false) => Ok(()),
                    (Some((overlay, _)), true) => overlay.seal(ctx, &reason).map(|_| ()),
                    (None, true) => self.overlay.seal_of(ctx, record.clone(), &reason),
                }
                .map_err(os("cannot take a snapshot of it"))
            })?
        };
        self.merged(merged, &stale)
    }

    /// The same for a sealed state of another timeline.
    ///
    /// # Errors
    /// As [`Machine::merge`]; [`TimeError::Refused`] for a state that can still change.
    pub fn merge_sealed(&self, ctx: &Ctx, theirs: At, how: How<'_>, mapped: &[Ino]) -> Result<Merged> {
        let _busy = if how.dry_run { self.begin() } else { self.begin_adding()? };
        self.can_move()?;
        if history::timeline(&*self.overlay.store().kv, theirs.timeline)?.head == theirs.epoch {
            return Err(TimeError::Refused("that state is not sealed yet: take a snapshot of it first".to_owned()));
        }
        self.is_there(theirs)?;
        self.write_back(mapped);
        let (merged, stale) = self.merge_state(ctx, theirs, how, &|| Ok(()))?;
        self.merged(merged, &stale)
    }

    fn merge_state(
        &self,
        ctx: &Ctx,
        theirs: At,
        how: How<'_>,
        seal: &dyn Fn() -> Result<()>,
    ) -> Result<(Merged, Stale)> {
        let kv = &*self.overlay.store().kv;
        let _gate = self.gate.close();
        let to = Arc::new(Lineage::of(kv, theirs)?);
        let from = Arc::new(Lineage::of(kv, merge_base(kv, &self.overlay.lineage(), &to)?)?);
        self.bring_in(
            ctx,
            &Change { from: &from, to: &to, kind: OpKind::Merge, brought: Some(theirs), only: &everything },
            how,
            seal,
        )
    }

    /// Brings the change from one sealed state to another, as far as it counts, into what there is, as an operation of a kind.
    ///
    /// # Errors
    /// [`TimeError::Refused`] where the past is shown; `ENOSPC` and what the log says: nothing is changed then.
    pub fn bring(
        &self,
        ctx: &Ctx,
        (from, to, only): (&Arc<Lineage>, &Arc<Lineage>, Only<'_>),
        kind: OpKind,
        how: How<'_>,
        mapped: &[Ino],
    ) -> Result<Merged> {
        let busy = if how.dry_run { self.begin() } else { self.begin_adding()? };
        self.bring_with(&busy, ctx, (from, to, only), kind, how, mapped)
    }

    /// The same for who holds the lock of operations already.
    ///
    /// # Errors
    /// As [`Machine::bring`].
    pub(crate) fn bring_with(
        &self,
        _busy: &MutexGuard<'_, ()>,
        ctx: &Ctx,
        (from, to, only): (&Arc<Lineage>, &Arc<Lineage>, Only<'_>),
        kind: OpKind,
        how: How<'_>,
        mapped: &[Ino],
    ) -> Result<Merged> {
        self.can_move()?;
        self.write_back(mapped);
        let (merged, stale) = {
            let _gate = self.gate.close();
            self.bring_in(ctx, &Change { from, to, kind, brought: None, only }, how, &|| Ok(()))?
        };
        self.merged(merged, &stale)
    }

    /// With the gate closed. `seal` makes sure that the state which is brought stays as it is; it is called before anything changes.
    fn bring_in(
        &self,
        ctx: &Ctx,
        change: &Change<'_>,
        how: How<'_>,
        seal: &dyn Fn() -> Result<()>,
    ) -> Result<(Merged, Stale)> {
        let (from, to) = (View::new(&self.overlay, change.from.clone()), View::new(&self.overlay, change.to.clone()));
        let now = View::now(&self.overlay);
        let combined =
            combine(&from, &now, &to, how.favor, ctx.now, change.only).map_err(os("cannot look at these states"))?;
        if !combined.conflicts.is_empty() {
            return Ok((Merged { conflicts: combined.conflicts, ..Merged::default() }, Stale::default()));
        }
        let changed = changed(&now, &combined).map_err(os("cannot look at these states"))?;
        let mut merged = Merged { merged_paths: mixed(&combined), changed, ..Merged::default() };
        let mut files = Files { overlay: &self.overlay, ids: Vec::new(), shared: BTreeMap::new() };
        let plan =
            self.realize(ctx, (&from, &now, &to), combined, how, &mut files).map_err(os("nothing was changed"))?;
        merged.kept = plan.kept.clone();
        if plan.is_empty() || how.dry_run {
            return Ok((merged, Stale::default()));
        }
        seal()?;
        let before = self.seal_before_bringing(ctx, &format!("before {}", how.note), change.to.at())?;
        let doing = Doing::New(change.kind, change.brought);
        let (moved, stale) = self.carry_out(ctx, &plan, before, doing, how.note)?;
        files.used();
        merged.moved = Some(moved);
        Ok((merged, stale))
    }

    /// Brings a change into a timeline that nobody sees, without a snapshot before or after it. Returns why not; then nothing was changed.
    pub(super) fn put_in(
        &self,
        ctx: &Ctx,
        (from, to, only): (&Arc<Lineage>, &Arc<Lineage>, Only<'_>),
        favor: Favor,
    ) -> Result<Vec<Conflict>> {
        let (from, to) = (View::new(&self.overlay, from.clone()), View::new(&self.overlay, to.clone()));
        let now = View::now(&self.overlay);
        let combined = combine(&from, &now, &to, favor, ctx.now, only).map_err(os("cannot look at these states"))?;
        if !combined.conflicts.is_empty() {
            return Ok(combined.conflicts);
        }
        let mut files = Files { overlay: &self.overlay, ids: Vec::new(), shared: BTreeMap::new() };
        let how = How { favor, dry_run: false, note: "" };
        let plan = self.realize(ctx, (&from, &now, &to), combined, how, &mut files);
        self.put(ctx, &plan.map_err(os("what is selected cannot be put together"))?)?;
        files.used();
        Ok(Vec::new())
    }

    /// Tells the kernel, and what differs now. Without any gate.
    fn merged(&self, mut merged: Merged, stale: &Stale) -> Result<Merged> {
        self.tell(stale);
        if let Some(moved) = merged.moved.take() {
            let moved = self.report(moved)?;
            merged.changed = moved.paths.clone();
            merged.moved = Some(moved);
        }
        Ok(merged)
    }

    /// From choices to what has to change. Writes merged bytes, unless it is only asked for.
    fn realize(
        &self,
        ctx: &Ctx,
        (from, now, to): (&View<'_>, &View<'_>, &View<'_>),
        combined: Combined,
        how: How<'_>,
        files: &mut Files<'_>,
    ) -> Result<Plan, Errno> {
        let mut wishes = Wishes::default();
        for (path, choice) in combined.choices {
            let is = now.find(&path)?;
            let then = match choice {
                Choice::Ours => continue,
                Choice::Theirs(node) => node,
                Choice::Mixed(node) => Some(node),
                Choice::Text(node) => {
                    let bytes = match (from.find(&path)?, is.as_ref(), to.find(&path)?) {
                        (Some(from), Some(ours), Some(theirs)) => texts(now, &from, ours, &theirs, how.favor)?,
                        _ => None,
                    };
                    let Some(Text::Clean(bytes)) = bytes else { return Err(Errno::EIO) };
                    let size = bytes.len() as u64;
                    let id = files.version(&node, bytes, how.dry_run, &mut wishes)?;
                    let mut record = now.full(&node)?;
                    record.content = Content::Version { id, stamp: 1 };
                    record.attr.size = size;
                    record.attr.blocks = size.div_ceil(4096) * 8;
                    (record.attr.mtime, record.attr.ctime) = (ctx.now, ctx.now);
                    Some(View::log_node(node.ino, record))
                }
            };
            wish(&mut wishes, path, is, then);
        }
        self.overlay.plan_wishes(to, wishes, ctx)
    }
}

/// The newest state that both sides have all of: where they parted, or what was merged from one into the other since. What was merged and then taken
/// back, by undo or by going back to another state, does not count.
///
/// # Errors
/// When the log cannot be read.
pub fn merge_base(kv: &dyn Kv, ours: &Lineage, theirs: &Lineage) -> Result<At, StoreError> {
    let has = |lineage: &Lineage, at: At| {
        lineage.segments().iter().any(|segment| segment.timeline == at.timeline && at.epoch <= segment.epoch)
    };
    let operations = history::operations(kv)?;
    let gone_back = |into: &Lineage, merge: &Operation| {
        let back = |o: &&Operation| matches!(o.kind, OpKind::Rewind | OpKind::Discard) && !o.undone;
        operations.iter().filter(back).any(|o| o.id > merge.id && has(into, o.after))
    };
    for merge in operations.iter().rev().filter(|o| o.kind == OpKind::Merge && !o.undone) {
        let Some(brought) = merge.brought else { continue };
        for (into, other) in [(ours, theirs), (theirs, ours)] {
            // Without its snapshot a state may have been collected.
            if has(into, merge.after)
                && has(other, brought)
                && !gone_back(into, merge)
                && history::snapshot(kv, brought.epoch)?.is_some()
            {
                return Ok(brought);
            }
        }
    }
    Ok(Lineage::common(ours, theirs))
}

/// The paths that will differ from what is there now.
fn changed(now: &View<'_>, combined: &Combined) -> Result<Vec<Path>, Errno> {
    let mut paths = BTreeSet::new();
    for (path, choice) in &combined.choices {
        let then = match choice {
            Choice::Ours => continue,
            Choice::Theirs(node) => node.as_ref(),
            Choice::Mixed(node) | Choice::Text(node) => Some(node),
        };
        let is = now.find(path)?;
        if !matches!(choice, Choice::Text(_)) && !differs(now, is.as_ref(), then)? {
            continue;
        }
        paths.insert(path.clone());
        // The directories above come with it.
        let (mut at, mut comes) = (path.clone(), is.is_none());
        while comes && let Some((dir, _)) = at.split_last() {
            comes = now.find(&dir)?.is_none() && paths.insert(dir.clone());
            at = dir;
        }
    }
    Ok(paths.into_iter().collect())
}

/// The paths that become what neither side had.
fn mixed(combined: &Combined) -> Vec<Path> {
    let is_mixed = |choice: &Choice| matches!(choice, Choice::Mixed(_) | Choice::Text(_));
    combined.choices.iter().filter(|(_, choice)| is_mixed(choice)).map(|(path, _)| path.clone()).collect()
}

/// Adds what is to become of a path.
fn wish(wishes: &mut Wishes, path: Path, is: Option<Node>, then: Option<Node>) {
    match (is, then) {
        (None, None) => {}
        (Some(is), None) => wishes.add(path, Wish::Remove(is)),
        (None, Some(node)) => wishes.add(path, Wish::Add { node, whole: false }),
        (Some(is), Some(then)) if is.kind == then.kind && (is.kind == Kind::Dir || is.ino == then.ino) => {
            wishes.add(path, Wish::Become(is, then));
        }
        (Some(is), Some(node)) => {
            wishes.add(path.clone(), Wish::Remove(is));
            wishes.add(path, Wish::Add { node, whole: false });
        }
    }
}
