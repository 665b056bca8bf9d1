//! Which states a range of history is made of, and what each is called.

use std::sync::Arc;

use super::{Error, Result};
use crate::overlay::Overlay;
use crate::overlay::view::View;
use crate::store::history::{self, OpKind, Snapshot};
use crate::store::lineage::Lineage;
use crate::timeline::names::{Names, Place};
use crate::types::{At, Epoch, Time};

/// One state after another.
pub struct Chain {
    pub start: Arc<Lineage>,
    /// How people call the start.
    pub start_name: String,
    pub start_time: Time,
    pub links: Vec<Link>,
}

/// A state.
pub struct Link {
    pub state: Arc<Lineage>,
    /// The snapshot's id; `None` for the present.
    pub snapshot: Option<String>,
    /// One line.
    pub subject: String,
    pub time: Time,
}

/// What a range is made of: from where, to where, and whether the states between them count.
pub struct Range<'n> {
    pub names: &'n Names,
    pub from: Place,
    pub to: Place,
    /// The way from one end to the other at once.
    pub single: bool,
}

impl Chain {
    /// # Errors
    /// [`Error::NotInPast`] when one end is not in the past of the other; what the log says.
    pub fn new(overlay: &Overlay, range: &Range<'_>, now: Time) -> Result<Chain> {
        let kv = &*overlay.store().kv;
        let snapshots = history::snapshots(kv)?;
        let to = range.to.lineage(overlay)?;
        let past = |s: &&Snapshot| to.segments().iter().any(|at| at.timeline == s.timeline && s.epoch <= at.epoch);
        let mut path: Vec<&Snapshot> = snapshots.iter().filter(past).collect();
        path.sort_by_key(|s| s.epoch);
        let mut start_time = path.first().map_or(now, |s| s.time);
        match range.from {
            Place::Base => {
                let since = applied(overlay, &to)?;
                path.retain(|s| s.epoch >= since);
            }
            Place::Now => path.clear(),
            Place::At(from) => {
                if let Some(start) = snapshots.iter().find(|s| s.epoch == from.epoch) {
                    start_time = start.time;
                }
                if !path.iter().any(|s| s.epoch == from.epoch) && !range.single {
                    let (from, to) = (name(range.names, range.from), name(range.names, range.to));
                    return Err(Error::NotInPast { from, to });
                }
                path.retain(|s| s.epoch > from.epoch);
            }
        }
        let mut links = Vec::new();
        for snapshot in path {
            let at = At { timeline: snapshot.timeline, epoch: snapshot.epoch };
            links.push(Link {
                state: Arc::new(Lineage::of(kv, at)?),
                snapshot: Some(range.names.id(snapshot.epoch)),
                subject: subject(range.names, snapshot),
                time: snapshot.time,
            });
        }
        let start_name = name(range.names, range.from);
        if range.to == Place::Now {
            let since = links.last().map_or(&start_name, |l| &l.subject);
            links.push(Link { subject: format!("changes since {since}"), state: to, snapshot: None, time: now });
        } else if range.to == Place::Base {
            links = vec![Link { state: to, snapshot: None, subject: "back to base".to_owned(), time: now }];
        }
        if range.single {
            links.drain(..links.len().saturating_sub(1));
            if let Some(only) = links.first_mut().filter(|l| l.snapshot.is_none() && range.to == Place::Now) {
                only.subject = format!("changes since {start_name}");
            }
        }
        Ok(Chain { start: range.from.lineage(overlay)?, start_name, start_time, links })
    }

    /// The states in pairs: each with the one before it.
    pub fn pairs<'o>(&self, overlay: &'o Overlay) -> Vec<(View<'o>, View<'o>, &Link)> {
        let mut before = View::new(overlay, self.start.clone());
        let pair = |link| {
            let link: &Link = link;
            let after = View::new(overlay, link.state.clone());
            (std::mem::replace(&mut before, after.clone()), after, link)
        };
        self.links.iter().map(pair).collect()
    }
}

/// What was brought into the base is part of it: the first epoch after the last time that this happened.
fn applied(overlay: &Overlay, to: &Lineage) -> Result<Epoch> {
    let operations = history::operations(&*overlay.store().kv)?;
    let on_the_way = |at: At| to.segments().iter().any(|s| s.timeline == at.timeline && at.epoch <= s.epoch);
    let standing = operations.iter().filter(|o| o.kind == OpKind::Apply && on_the_way(o.last));
    Ok(standing.map(|o| o.last.epoch).max().unwrap_or(Epoch::BASE))
}

fn name(names: &Names, place: Place) -> String {
    match place {
        Place::Base => "base".to_owned(),
        Place::Now => "now".to_owned(),
        Place::At(at) => names.id(at.epoch),
    }
}

fn subject(names: &Names, snapshot: &Snapshot) -> String {
    match &snapshot.label {
        Some(label) => label.clone(),
        None if !snapshot.note.is_empty() => snapshot.note.clone(),
        None => format!("snapshot {}", names.id(snapshot.epoch)),
    }
}
