//! Steps as they happen: what began, what ended and what was sealed since the last look. Reads of the record only what is new, and keeps in memory
//! only what goes on; what a row says is what `log` says of the same step.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

use super::actors::{actor, each_new_actor};
use super::events::{decode, each_event, last_seq};
use super::log::{find_session, row};
use super::prompts::Links;
use super::rows::StepRow;
use super::steps::{StepId, Steps};
use super::who::{Kind, Who};
use super::{Result, time};
use crate::actors::{Actor, Details};
use crate::store::{Store, Table, keys};
use crate::types::{ActorId, Epoch, Seq, Time};

/// Numbers of processes may be written down in another order than they are given: of the newest so many, each is looked for.
const UNORDERED: u64 = 256;
/// A process that ended is known for so long: what it did last may come late.
const LATE: Duration = Duration::from_secs(10);
/// The end of a command is told when what it changed is sealed, or after this time.
const UNSEALED: Duration = Duration::from_secs(2);
/// An observation is written down so much later than it was made, at most.
const BEHIND: Duration = Duration::from_secs(2);

/// Which steps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchFilter {
    /// Only this session.
    pub session: Option<String>,
}

/// Something that happened to a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchRow {
    /// `start` or `end` of a command; `edit`: a step that changed something by itself is over.
    pub what: String,
    /// When.
    pub time: String,
    #[serde(flatten)]
    pub step: StepRow,
}

/// How a snapshot is called; `None` as long as there is none of that epoch.
pub type Sealed<'a> = &'a dyn Fn(Epoch) -> Result<Option<String>>;

/// A command that goes on.
#[derive(Clone, Copy, Debug, Default)]
struct Running {
    /// Its start was told.
    told: bool,
    /// It was there at the last look.
    seen: bool,
}

/// See the module.
pub struct Watch {
    steps: Steps,
    only: Option<ActorId>,
    next: Seq,
    /// The newest processes that were read, and the highest number among them.
    recent: BTreeSet<ActorId>,
    /// Processes whose end is still to come.
    living: FxHashSet<ActorId>,
    running: BTreeMap<ActorId, Running>,
    /// Commands of which nothing more is to be told.
    over: FxHashSet<ActorId>,
    /// What was done in epochs that are not sealed yet, but for commands.
    open: BTreeMap<Epoch, BTreeSet<StepId>>,
}

fn back(time: Time, by: Duration) -> i64 {
    time.as_nanos().saturating_sub(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX))
}

impl Watch {
    /// From now on. Commands that go on already are told at the first look. `lives`: whether the end of a process will be heard of.
    ///
    /// # Errors
    /// When there is no such session, or the log cannot be read.
    pub fn start(
        store: &Store,
        filter: &WatchFilter,
        sealed: Sealed<'_>,
        lives: &dyn Fn(ActorId) -> bool,
        now: Time,
    ) -> Result<Watch> {
        let upto = last_seq(store)?;
        let steps = Steps::without_events(Who::load(store)?);
        let only = filter.session.as_deref().map(|text| find_session(&steps, text)).transpose()?;
        let ids: BTreeSet<ActorId> = steps.who.actors().map(|a| a.id).collect();
        let living: FxHashSet<ActorId> =
            steps.who.actors().filter(|a| a.exit_at.is_none() && lives(a.id)).map(|a| a.id).collect();
        let mut watch = Watch {
            steps,
            only,
            next: Seq(0),
            recent: ids.into_iter().rev().take(UNORDERED as usize).collect(),
            living,
            running: BTreeMap::new(),
            over: FxHashSet::default(),
            open: BTreeMap::new(),
        };
        watch.renew(Vec::new(), now);
        // What goes on has done something already; and an edit that is not sealed may have begun a while ago.
        let since = watch.running.keys().filter_map(|id| watch.steps.who.actor(*id)).map(|a| a.first).min();
        watch.next = first_since(store, back(since.unwrap_or(now).min(now), BEHIND).min(back(now, LATE)))?;
        watch.read(store, upto)?;
        for epoch in watch.open.keys().copied().collect::<Vec<_>>() {
            if sealed(epoch)?.is_some() {
                watch.close(epoch);
            }
        }
        Ok(watch)
    }

    /// What happened since the last look, in order.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn look(&mut self, store: &Store, sealed: Sealed<'_>, now: Time) -> Result<Vec<WatchRow>> {
        // Whoever did that is written down already.
        let upto = last_seq(store)?;
        let news = self.news(store)?;
        if !news.is_empty() {
            self.renew(news, now);
        }
        self.read(store, upto)?;
        let mut rows = Vec::new();
        self.commands(sealed, now, &mut rows)?;
        self.edits(sealed, &mut rows)?;
        rows.sort_by_key(|(at, _)| *at);
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    /// Processes that are new, or of which something else is known by now.
    fn news(&mut self, store: &Store) -> Result<Vec<Actor>> {
        let mut news = Vec::new();
        for &id in &self.living {
            let Some(now) = actor(store, id)? else { continue };
            // Times of activity change all the time, and say nothing here.
            let same = |known: &Actor| Actor { last: now.last, ..known.clone() } == now;
            if !self.steps.who.actor(id).is_some_and(same) {
                news.push(now);
            }
        }
        let from = self.recent.last().map_or(0, |id| id.0.saturating_sub(UNORDERED));
        let recent = &mut self.recent;
        let living = &mut self.living;
        each_new_actor(store, ActorId(from), &mut |actor| {
            if recent.insert(actor.id) {
                living.insert(actor.id);
                news.push(actor);
            }
            ControlFlow::Continue(())
        })?;
        while self.recent.len() > 2 * UNORDERED as usize {
            self.recent.pop_first();
        }
        Ok(news)
    }

    /// Takes note of processes, and forgets those that do not matter any more.
    fn renew(&mut self, news: Vec<Actor>, now: Time) {
        for gone in news.iter().filter(|a| a.exit_at.is_some()) {
            self.living.remove(&gone.id);
        }
        let (living, running, long_ago) = (&self.living, &self.running, back(now, LATE));
        let stays = |a: &Actor| {
            living.contains(&a.id)
                || running.contains_key(&a.id)
                || a.exit_at.is_some_and(|at| at.as_nanos() > long_ago)
        };
        let new: FxHashSet<ActorId> = news.iter().map(|a| a.id).collect();
        self.steps.who.renew(news, &stays);
        self.over.retain(|id| self.steps.who.actor(*id).is_some());
        let mut tops = Vec::new();
        for actor in self.steps.who.actors() {
            let Some(place) = self.steps.who.place(actor.id) else { continue };
            let goes_on = self.living.contains(&actor.id) || new.contains(&actor.id);
            if place.command == Some(actor.id) && goes_on && !self.over.contains(&actor.id) {
                tops.push((actor.id, place.session));
            }
        }
        // What was taken for a command may have turned out to be an agent, or a part of one.
        self.running.retain(|id, _| self.steps.who.place(*id).is_some_and(|p| p.command == Some(*id)));
        for (id, session) in tops {
            self.steps.begin(StepId::Command(id), session);
            self.running.entry(id).or_default();
        }
    }

    /// Reads the events that are new.
    fn read(&mut self, store: &Store, upto: Seq) -> Result<()> {
        let (steps, running, open, next) = (&mut self.steps, &self.running, &mut self.open, &mut self.next);
        each_event(store, *next, &mut |event| {
            if event.seq > upto {
                return Ok(ControlFlow::Break(()));
            }
            *next = Seq(event.seq.0 + 1);
            match steps.of_event(&event) {
                Some((StepId::Command(top), _)) if running.contains_key(&top) => steps.add(&event),
                Some((id @ StepId::Own { epoch, .. }, _)) => {
                    steps.add(&event);
                    open.entry(epoch).or_default().insert(id);
                }
                // What a command left running does after its end was told.
                Some(_) | None => {}
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn commands(&mut self, sealed: Sealed<'_>, now: Time, rows: &mut Vec<(Time, WatchRow)>) -> Result<()> {
        let mut over = Vec::new();
        for (&id, running) in &mut self.running {
            let (Some(actor), Some(step)) = (self.steps.who.actor(id), self.steps.get(StepId::Command(id))) else {
                over.push(id);
                continue;
            };
            let wanted = self.only.is_none_or(|only| only == step.session);
            // Of others than agents only what touches the mount counts, as in `log`.
            let counts = matches!(self.steps.kind(step.session), Kind::Agent(_)) || step.touched.events > 0;
            // Before its execve it looks like its parent.
            let known = running.seen || actor.details != Details::Inherited || actor.exit_at.is_some();
            running.seen = true;
            if wanted && counts && known && !running.told {
                running.told = true;
                let begun = row(&self.steps, &Links::default(), step, &|_| None);
                let step = StepRow { exit: None, signal: None, ended: None, ..begun };
                rows.push((actor.first, told("start", actor.first, step)));
            }
            let Some(ended) = actor.exit_at else { continue };
            let names = names(sealed, step.epochs.iter().copied())?;
            if names.len() < step.epochs.len() && ended.as_nanos() > back(now, UNSEALED) {
                continue;
            }
            if running.told {
                let row = row(&self.steps, &Links::default(), step, &|epoch| names.get(&epoch).cloned());
                rows.push((ended, told("end", ended, row)));
            }
            over.push(id);
        }
        for id in over {
            self.running.remove(&id);
            self.over.insert(id);
            self.steps.forget(StepId::Command(id));
        }
        Ok(())
    }

    fn edits(&mut self, sealed: Sealed<'_>, rows: &mut Vec<(Time, WatchRow)>) -> Result<()> {
        for epoch in self.open.keys().copied().collect::<Vec<_>>() {
            let Some(name) = sealed(epoch)? else { continue };
            for step in self.open.get(&epoch).into_iter().flatten().filter_map(|id| self.steps.get(*id)) {
                let wanted = self.only.is_none_or(|only| only == step.session) && !step.epochs.is_empty();
                if let Some((_, at)) = step.last.filter(|_| wanted) {
                    let row = row(&self.steps, &Links::default(), step, &|_| Some(name.clone()));
                    rows.push((at, told("edit", at, row)));
                }
            }
            self.close(epoch);
        }
        Ok(())
    }

    /// Of an epoch there is nothing more to tell.
    fn close(&mut self, epoch: Epoch) {
        for id in self.open.remove(&epoch).into_iter().flatten() {
            self.steps.forget(id);
        }
    }
}

fn told(what: &str, at: Time, step: StepRow) -> WatchRow {
    WatchRow { what: what.to_owned(), time: time::format(at), step }
}

/// The snapshots of those epochs that are sealed.
fn names(sealed: Sealed<'_>, epochs: impl Iterator<Item = Epoch>) -> Result<FxHashMap<Epoch, String>> {
    let mut names = FxHashMap::default();
    for epoch in epochs {
        if let Some(name) = sealed(epoch)? {
            names.insert(epoch, name);
        }
    }
    Ok(names)
}

/// The number of the first event of the newest ones that are all at or after a time, in nanoseconds.
fn first_since(store: &Store, since: i64) -> Result<Seq> {
    let mut first = Seq(last_seq(store)?.0 + 1);
    let mut bad = None;
    let (from, to) = keys::events_from(Seq(0));
    store.kv.scan_back(Table::Events, &from, &to, &mut |key, value| match decode(key, value) {
        Ok((_, event)) if event.time.as_nanos() >= since => {
            first = event.seq;
            ControlFlow::Continue(())
        }
        Ok(_) => ControlFlow::Break(()),
        Err(e) => {
            bad = Some(e);
            ControlFlow::Break(())
        }
    })?;
    bad.map_or(Ok(first), |e| Err(e.into()))
}
