//! Answers about what some steps changed: brought into the repository, compared, exported, or left alone in the mount.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::merge::lines;
use super::protocol::{Apply, Done, Failure, ProgressRow, Rewind, Row};
use super::steps::reverted;
use super::time::{Mover, Sink};
use crate::diff::{self, DiffFilter};
use crate::landing::{self, Decide, Selection};
use crate::overlay::view::View;
use crate::query::chosen::{Choice, Chosen};
use crate::query::rows::text;
use crate::query::steps::{StepId, Steps, each_change};
use crate::store::history::{self, OpKind, Operation};
use crate::store::lineage::Lineage;
use crate::timeline::combine::ConflictKind;
use crate::timeline::names::Names;
use crate::timeline::parts::{self, Found};
use crate::timeline::rows::{MovedRow, PathRow};
use crate::timeline::selected::{self, Clash, Selected, Wanted, moves};
use crate::types::{At, Epoch, Event, Ino, Path, Seq, unhex};

/// What is chosen of history.
struct Picked {
    found: Found,
    /// Everything but some steps.
    all: bool,
    /// The sealed state in whose past it is.
    state: Arc<Lineage>,
    /// What the repository on disk has of it.
    done: selected::Done,
    /// The operations that were known then, and which of them took something out that is chosen.
    operations: Vec<Operation>,
    reverts: BTreeSet<u64>,
    paths: Vec<Path>,
    name: String,
    notes: Vec<String>,
}

/// A clash, and the steps behind it.
struct Told {
    clash: Clash,
    inodes: Vec<Ino>,
    /// What was to be brought in, and what it builds on.
    step: Option<StepId>,
    on: Option<StepId>,
}

fn paths(hex: &[String]) -> Vec<Path> {
    hex.iter().map(|p| Path::new(&unhex(p).unwrap_or_default())).collect()
}

impl Mover<'_> {
    /// Seals what there is, and finds what is chosen. Without any lock held.
    fn pick(&self, chosen: &Chosen, paths: Vec<Path>) -> Result<Picked, Failure> {
        let steps = Steps::load(self.overlay().store())?;
        // A name that is none changes nothing.
        let choice = chosen.resolve(&steps)?;
        let operations = history::operations(&*self.overlay().store().kv)?;
        let state = self.machine.settle(&self.ctx, "before a selection", &self.mapped)?;
        let moves = moves(self.machine, &state)?;
        let apart: BTreeSet<Epoch> = moves.iter().flat_map(|o| [o.after.epoch, o.last.epoch]).collect();
        let done = landing::done(self.overlay(), &state)?;
        let apart = apart
            .into_iter()
            .chain([done.all.next()])
            .chain(done.paths.values().flatten().map(|had| had.upto.next()))
            .collect();
        // What is chosen is told apart by the selections that were brought over before. One of which a name means nothing any more is of nobody.
        let before: Vec<Option<Choice<'_>>> =
            done.by.iter().map(|name| Chosen::parse(name)?.resolve(&steps).ok()).collect();
        let class = |writer| {
            let has = |one: &&Option<Choice<'_>>| one.as_ref().is_some_and(|choice| choice.has(writer));
            let bits =
                before.iter().enumerate().filter(|(_, one)| has(one)).map(|(at, _)| 1_u64.wrapping_shl(at as u32));
            bits.fold(0, |all, bit| all | bit)
        };
        let found = parts::chosen(self.overlay(), &steps, &choice, &class, &state, &apart)?;
        let mut notes = Vec::new();
        if found.elsewhere {
            notes.push("what was changed in other timelines is left out".to_owned());
        }
        if found.collected {
            notes.push("what was changed in states that were collected since is left out".to_owned());
        }
        if !choice.is_all() && moves.iter().any(|o| o.kind == OpKind::Merge) {
            notes.push("what merges brought from other timelines is left out".to_owned());
        }
        let (all, name) = (choice.is_all(), chosen.name());
        let is_chosen = |operation: &&Operation| {
            let step = reverted(operation).and_then(|id| steps.get(id));
            step.is_some_and(|step| choice.has(Some((step.id, step.session))))
        };
        let reverts = operations.iter().filter(is_chosen).map(|operation| operation.id).collect();
        Ok(Picked { all, found, state, done, operations, reverts, paths, name, notes })
    }

    fn nothing(picked: &Picked) -> Failure {
        let why = if picked.notes.is_empty() { String::new() } else { format!(" ({})", picked.notes.join("; ")) };
        Failure::new(format!("{}: nothing was changed by it{why}", picked.name))
    }

    /// Puts the state together.
    fn put_together(&self, busy: &MutexGuard<'_, ()>, picked: &Picked) -> Result<Selected, Failure> {
        if history::operations(&*self.overlay().store().kv)? != picked.operations {
            return Err(Failure::new("somebody applied or took something back meanwhile: nothing was done, try again"));
        }
        let wanted = Wanted {
            found: &picked.found,
            all: picked.all,
            paths: &picked.paths,
            state: &picked.state,
            done: &picked.done,
            reverts: &picked.reverts,
            note: &format!("changes of {}", picked.name),
        };
        Ok(self.machine.select(busy, &self.ctx, &wanted)?)
    }

    /// The state that is selected, for looking at it: others go on as soon as it is there.
    ///
    /// # Errors
    /// What excludes something else, and what was refused.
    fn look_at(&self, chosen: &Chosen, picked: &Picked) -> Result<At, Failure> {
        let selected = {
            let busy = self.machine.begin_adding()?;
            self.put_together(&busy, picked)?
        };
        match selected {
            Selected::State(at) => Ok(at),
            Selected::Clashes(clashes) => {
                let told = self.explain(chosen, clashes)?;
                let all: Vec<String> =
                    told.iter().map(|one| format!("{}: {}", one.clash.conflict.path, why(one))).collect();
                let what = if all.len() == 1 { "a conflict".to_owned() } else { format!("{} conflicts", all.len()) };
                Err(Failure::new(format!("{what}: {}", all.join("; "))))
            }
        }
    }

    /// Brings what some steps changed into the repository on disk, or says what that would do.
    ///
    /// # Errors
    /// What was refused; nothing is changed then. Conflicts are rows.
    pub(super) fn apply_selected(&self, apply: &Apply, decide: Decide, sink: Sink<'_>) -> Result<Done, Failure> {
        if apply.from.is_some() || apply.only.is_some() {
            let message = "steps are selected from the present: leave --from and --only out".to_owned();
            return Err(Failure { message, exit: 2 });
        }
        let picked = self.pick(&apply.chosen, paths(&apply.paths))?;
        if picked.found.parts.is_empty() {
            return Err(Self::nothing(&picked));
        }
        let busy = self.machine.begin_adding()?;
        let from = match self.put_together(&busy, &picked)? {
            Selected::State(at) => Some(at),
            Selected::Clashes(clashes) => {
                drop(busy);
                return self.tell_clashes(&apply.chosen, "apply", &picked, clashes, sink);
            }
        };
        let name = landing::name_of(&picked.name);
        let made = Some((name.clone(), picked.state.at()));
        let selection = Selection { paths: picked.paths.clone(), from, only: None, made, decide };
        let landed = if apply.dry_run {
            drop(busy);
            self.landing(|landing| landing.preview(&selection))?
        } else {
            let landed =
                self.landing_watched(sink, |landing, watch| landing.apply_with(&busy, &self.ctx, &selection, watch))?;
            drop(busy);
            landed
        };
        let done = self.landed("apply", name, &landed, sink);
        Ok(Done { notes: picked.notes, ..done })
    }

    /// The mount becomes the repository on disk with what some steps changed, and with nothing else.
    ///
    /// # Errors
    /// What was refused; nothing is changed then. Conflicts are rows.
    pub(super) fn rewind_selected(&self, rewind: &Rewind, sink: Sink<'_>) -> Result<Done, Failure> {
        if !rewind.to.is_empty() {
            let message = "give a snapshot or steps, not both".to_owned();
            return Err(Failure { message, exit: 2 });
        }
        let picked = self.pick(&rewind.chosen, paths(&rewind.paths))?;
        // Everything but all that was done is nothing; but who named somebody did not mean that nothing is to be left.
        if picked.found.parts.is_empty() && (!picked.all || !picked.notes.is_empty()) {
            let Failure { message, exit } = Self::nothing(&picked);
            return Err(Failure {
                message: format!("{message}: `regentfs discard` goes back to the repository"),
                exit,
            });
        }
        if picked.all && picked.found.collected {
            return Err(Failure::new(
                "not all of history is kept any more, and what is not would be lost: `regentfs revert STEP` takes a step back out",
            ));
        }
        let busy = self.machine.begin_adding()?;
        let at = match self.put_together(&busy, &picked)? {
            Selected::State(at) => at,
            Selected::Clashes(clashes) => {
                drop(busy);
                return self.tell_clashes(&rewind.chosen, OpKind::Rewind.name(), &picked, clashes, sink);
            }
        };
        let target = Arc::new(Lineage::of(&*self.overlay().store().kv, at)?);
        let kind = if picked.paths.is_empty() { OpKind::Rewind } else { OpKind::Restore };
        let note = format!("rewind to what {} changed", picked.name);
        let names = Names::of(self.overlay())?;
        let done = self.go_to_with(Some(busy), &target, &picked.paths, (kind, note), rewind.dry_run, &names, sink)?;
        Ok(Done { notes: picked.notes, ..done })
    }

    /// Sends what exactly some steps changed, as one comparison with the repository on disk.
    ///
    /// # Errors
    /// What excludes something else, and what was refused.
    pub(super) fn diff_selected(&self, filter: &DiffFilter, sink: Sink<'_>) -> Result<Done, Failure> {
        if filter.from.is_some() || filter.to.is_some() || filter.step.is_some() {
            let message = "give points in time or steps, not both".to_owned();
            return Err(Failure { message, exit: 2 });
        }
        let picked = self.pick(&filter.chosen, paths(&filter.paths))?;
        if picked.found.parts.is_empty() {
            return Ok(Done { notes: picked.notes, ..Done::default() });
        }
        let at = self.look_at(&filter.chosen, &picked)?;
        let overlay = self.overlay();
        let from = View::base(overlay);
        let to = View::new(overlay, Arc::new(Lineage::of(&*overlay.store().kv, at)?)).remembering();
        let sink = std::cell::RefCell::new(sink);
        let progress = &mut |done, total| {
            let row = ProgressRow { what: "comparing".to_owned(), done, total, bytes: 0 };
            let _ = (sink.borrow_mut())(Row::Progress(row));
        };
        let rows = &mut |row| (sink.borrow_mut())(Row::Diff(row));
        let mut notes = picked.notes;
        notes.extend(diff::diff(&from, &to, filter, &|_| true, rows, progress)?);
        Ok(Done { notes, ..Done::default() })
    }

    /// The state that an export is to lead to, and remarks for people.
    ///
    /// # Errors
    /// What excludes something else, and what was refused.
    pub(super) fn selected_for_export(&self, chosen: &Chosen) -> Result<(At, Vec<String>), Failure> {
        let picked = self.pick(chosen, Vec::new())?;
        if picked.found.parts.is_empty() {
            return Err(Self::nothing(&picked));
        }
        Ok((self.look_at(chosen, &picked)?, picked.notes))
    }

    /// Finds the steps behind conflicts.
    fn explain(&self, chosen: &Chosen, clashes: Vec<Clash>) -> Result<Vec<Told>, Failure> {
        let overlay = self.overlay();
        let steps = Steps::load(overlay.store())?;
        let choice = chosen.resolve(&steps)?;
        let mut told = Vec::new();
        for clash in clashes {
            let mut inodes = Vec::new();
            for state in [&clash.part.from, &clash.part.to] {
                let node = View::new(overlay, state.clone()).find(&clash.conflict.path);
                let look = |errno| Failure::new(format!("cannot look at that state: {errno}"));
                inodes.extend(node.map_err(look)?.map(|node| node.ino));
            }
            told.push(Told { clash, inodes, step: None, on: None });
        }
        each_change(overlay.store(), &steps, Seq(0), &mut |event, writer| {
            for one in &mut told {
                one.learn(event, writer, &choice);
            }
        })?;
        Ok(told)
    }

    /// Says why nothing was done.
    fn tell_clashes(
        &self,
        chosen: &Chosen,
        op: &str,
        picked: &Picked,
        clashes: Vec<Clash>,
        sink: Sink<'_>,
    ) -> Result<Done, Failure> {
        let told = self.explain(chosen, clashes)?;
        let (note, repository) = (format!("{op} of what {} changed", picked.name), op == "apply");
        let mut flow = sink(Row::Moved(MovedRow { op: op.to_owned(), note, repository, ..MovedRow::default() }));
        for one in &told {
            if flow == ControlFlow::Break(()) {
                break;
            }
            let conflict = &one.clash.conflict;
            let (path, path_hex) = text(conflict.path.as_bytes());
            flow = sink(Row::Path(PathRow {
                path,
                path_hex,
                what: "conflict".to_owned(),
                why: Some(why(one)),
                kind: Some(conflict.kind.name().to_owned()),
                lines: conflict.regions.iter().map(lines).collect(),
                step: one.step.map(|id| id.to_string()),
                builds_on: one.on.map(|id| id.to_string()),
                ..PathRow::default()
            }));
        }
        Ok(Done { notes: picked.notes.clone(), ..Done::default() })
    }
}

impl Told {
    fn learn(&mut self, event: &Event, writer: Option<(StepId, crate::types::ActorId)>, choice: &Choice<'_>) {
        let part = &self.clash.part;
        if event.epoch > part.to.at().epoch {
            return;
        }
        let path = &self.clash.conflict.path;
        let at = |other: &Path| path.is_below(other) && *other != Path::root();
        let note = &event.note;
        if !at(&note.path) && !note.path2.as_ref().is_some_and(at) && !self.inodes.contains(&note.ino) {
            return;
        }
        match writer {
            Some((id, _)) if !choice.has(writer) => self.on = Some(id),
            Some((id, _)) if event.epoch > part.from.at().epoch => self.step = Some(id),
            Some(_) | None => {}
        }
    }
}

/// A conflict for people.
fn why(told: &Told) -> String {
    let conflict = &told.clash.conflict;
    let range = |range: &std::ops::Range<u64>| match range.end.saturating_sub(range.start) {
        0 => format!("before line {}", range.start),
        1 => format!("line {}", range.start),
        _ => format!("lines {} to {}", range.start, range.end.saturating_sub(1)),
    };
    let what = match conflict.kind {
        ConflictKind::Content => conflict.regions.iter().map(|r| range(&r.theirs)).collect::<Vec<_>>().join(", "),
        ConflictKind::Binary => "its bytes, which cannot be merged by lines".to_owned(),
        ConflictKind::DeleteChange | ConflictKind::Rename => "that it is there, or where".to_owned(),
        ConflictKind::AddAdd => "what it is made as".to_owned(),
        ConflictKind::Type => "whether it is a file or a directory".to_owned(),
        ConflictKind::Attributes => "its mode, owner or attributes".to_owned(),
    };
    let step = told.step.map_or_else(|| "what is selected".to_owned(), |id| id.to_string());
    match told.on {
        Some(on) => format!("{step} builds on {on}, which is not selected: {what}"),
        None => format!("{step} builds on what is not selected: {what}"),
    }
}
