//! The processes that touched the mount.

use std::ops::ControlFlow;

use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

use super::actors::each_actor;
use super::events::each_event;
use super::rows::{ImageRow, PsRow, text, texts};
use super::{Result, Sink, changes, sees, time};
use crate::actors::{Actor, Details, Exit};
use crate::store::Store;
use crate::types::{ActorId, Ino, Seq};

/// Which processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PsFilter {
    /// Also ancestors that made no request themselves.
    pub all: bool,
}

#[derive(Default)]
struct Counts {
    events: u64,
    read: FxHashSet<Ino>,
    written: FxHashSet<Ino>,
}

/// Sends one row for each process, oldest number first.
pub fn ps(store: &Store, filter: &PsFilter, sink: Sink<'_, PsRow>) -> Result<()> {
    let mut counts: FxHashMap<ActorId, Counts> = FxHashMap::default();
    each_event(store, Seq(0), &mut |event| {
        let counts = counts.entry(event.actor).or_default();
        counts.events += 1;
        let note = &event.note;
        if note.errno.is_none() {
            if sees(note.op) && !note.ranges.is_empty() {
                counts.read.insert(note.ino);
            }
            if changes(note.op) {
                counts.written.insert(note.ino);
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    each_actor(store, &mut |actor| match counts.get(&actor.id) {
        Some(counts) => sink(row(&actor, counts)),
        None if filter.all => sink(row(&actor, &Counts::default())),
        None => ControlFlow::Continue(()),
    })
}

fn row(actor: &Actor, counts: &Counts) -> PsRow {
    let (exe, exe_hex) = text(&actor.exe);
    let (argv, argv_hex) = texts(&actor.argv);
    let (cwd, cwd_hex) = text(&actor.cwd);
    let (exit, signal) = match actor.exit {
        Some(Exit::Code(code)) => (Some(code), None),
        Some(Exit::Signal(signal)) => (None, Some(signal)),
        Some(Exit::Unknown) | None => (None, None),
    };
    let images = actor.images.iter().map(|image| {
        let (exe, exe_hex) = text(&image.exe);
        let (argv, argv_hex) = texts(&image.argv);
        ImageRow { until: time::format(image.until), exe, exe_hex, argv, argv_hex }
    });
    PsRow {
        actor: actor.id.0,
        pid: actor.pid,
        ppid: actor.ppid,
        parent: actor.parent.map(|p| p.0),
        uid: actor.uid,
        comm: text(&actor.comm).0,
        exe,
        exe_hex,
        argv,
        argv_hex,
        argv_truncated: actor.argv_truncated,
        cwd,
        cwd_hex,
        details: match actor.details {
            Details::Full => "full",
            Details::Inherited => "inherited",
            Details::Missing => "missing",
        }
        .to_owned(),
        first: time::format(actor.first),
        last: time::format(actor.last),
        exit,
        signal,
        exit_at: actor.exit_at.map(time::format),
        images: images.collect(),
        events: counts.events,
        files_read: counts.read.len() as u64,
        files_written: counts.written.len() as u64,
    }
}
