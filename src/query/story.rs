//! One step as a whole: its processes, what it read, and what its session had read before.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::events::each_event;
use super::log::{SnapshotName, exit, row};
use super::prompts::Links;
use super::rows::{ProcessRow, SeenRow, StoryRow, text, texts};
use super::steps::{Step, StepId, Steps};
use super::{Result, sees, time};
use crate::actors::Actor;
use crate::store::Store;
use crate::types::{ActorId, Event, Known, Path, Seq};

/// So many files that were read before are told.
const BEFORE: usize = 20;

/// What is known of a step.
///
/// # Errors
/// When the log cannot be read.
pub fn story(store: &Store, steps: &Steps, links: &Links, step: &Step, name: SnapshotName<'_>) -> Result<StoryRow> {
    let (mut read, mut before) = (Vec::new(), Vec::new());
    let first = step.first.map_or(Seq(u64::MAX), |(seq, _)| seq);
    let last = step.last.map_or(Seq(0), |(seq, _)| seq);
    let mut met: HashSet<Path> = HashSet::new();
    each_event(store, Seq(0), &mut |event| {
        if event.seq > last {
            return Ok(ControlFlow::Break(()));
        }
        let note = &event.note;
        if note.errno.is_some() || !sees(note.op) || note.ranges.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        match steps.of_event(&event) {
            Some((id, _)) if id == step.id && met.insert(note.path.clone()) => read.push(seen(&event)),
            Some((_, session)) if session == step.session && event.seq < first => {
                let row = seen(&event);
                before.retain(|known: &SeenRow| known.path != row.path || known.path_hex != row.path_hex);
                before.push(row);
                if before.len() > BEFORE {
                    before.remove(0);
                }
            }
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    })?;
    before.reverse();
    Ok(StoryRow { step: row(steps, links, step, name), processes: processes(steps, step), read, read_before: before })
}

fn seen(event: &Event) -> SeenRow {
    let (path, path_hex) = text(event.note.path.as_bytes());
    let known = if event.note.known == Known::Observed { "observed" } else { "inferred" };
    SeenRow { path, path_hex, known: known.to_owned(), time: time::format(event.time) }
}

/// The processes of a step, each behind its parent.
fn processes(steps: &Steps, step: &Step) -> Vec<ProcessRow> {
    let StepId::Command(top) = step.id else {
        let alone = steps.who.actor(step.session);
        return alone.map(|actor| process(actor, 0)).into_iter().collect();
    };
    let of_it = |actor: &&Actor| steps.who.place(actor.id).is_some_and(|place| place.command == Some(top));
    let mut all: Vec<&Actor> = steps.who.actors().filter(of_it).collect();
    all.sort_by_key(|actor| (actor.first, actor.id));
    let mut rows = Vec::new();
    let mut waiting = vec![(top, 0)];
    let mut met: HashSet<ActorId> = HashSet::new();
    while let Some((id, depth)) = waiting.pop() {
        if !met.insert(id) {
            continue;
        }
        rows.extend(steps.who.actor(id).map(|actor| process(actor, depth)));
        let children = all.iter().rev().filter(|actor| actor.parent == Some(id));
        waiting.extend(children.map(|actor| (actor.id, depth + 1)));
    }
    rows
}

fn process(actor: &Actor, depth: u32) -> ProcessRow {
    let (argv, argv_hex) = texts(&actor.argv);
    let (exit, signal) = exit(actor);
    ProcessRow {
        actor: actor.id.0,
        pid: actor.pid,
        depth,
        argv,
        argv_hex,
        exit,
        signal,
        started: time::format(actor.first),
        ended: actor.exit_at.map(time::format),
    }
}
