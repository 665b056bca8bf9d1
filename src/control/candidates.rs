//! Which states lie between two points in time, in the order in which they came about: what a search through history goes through.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::protocol::{Done, Failure, Row};
use super::time::{Sink, place};
use crate::clock;
use crate::export::{Chain, Error, Range};
use crate::overlay::Overlay;
use crate::query::time::format;
use crate::store::lineage::Lineage;
use crate::store::{Kv, StoreError, history};
use crate::timeline::names::Place;
use crate::types::Time;

/// From where to where, as a user names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Between {
    pub from: String,
    pub to: String,
}

/// A state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateRow {
    /// The snapshot, or `base`; null for the present.
    pub snapshot: Option<String>,
    /// For people.
    pub what: String,
    pub time: String,
    /// Nothing at all was changed since the state before it.
    pub same: bool,
}

/// Whether nothing was written down between two states.
fn is_same(kv: &dyn Kv, one: &Lineage, other: &Lineage) -> Result<bool, StoreError> {
    let mut same = true;
    Lineage::touched(kv, one, other, &mut |_| same = false)?;
    Ok(same)
}

/// Sends a row for each state, the older end first.
///
/// # Errors
/// When one end is not in the past of the other, or nothing lies between them.
pub fn candidates(overlay: &Overlay, wanted: &Between, sink: Sink<'_>) -> Result<Done, Failure> {
    let kv = &*overlay.store().kv;
    let wrong = |message: String| Failure { message, exit: 2 };
    let ((from, names), (to, _)) = (place(overlay, &wanted.from)?, place(overlay, &wanted.to)?);
    let not_in_past = || wrong(format!("{} is not in the past of {}", wanted.from, wanted.to));
    if from == to || from == Place::Now || to == Place::Base {
        return Err(not_in_past());
    }
    let range = Range { names: &names, from, to, single: false };
    let chain = Chain::new(overlay, &range, clock::now()).map_err(|error| match error {
        Error::NotInPast { .. } => not_in_past(),
        other => other.into(),
    })?;
    let (what, time) = match from {
        Place::At(at) => match history::snapshot(kv, at.epoch)? {
            Some(snapshot) => (snapshot.label.unwrap_or(snapshot.note), snapshot.time),
            None => (String::new(), chain.start_time),
        },
        Place::Base | Place::Now => ("the repository on disk".to_owned(), chain.start_time),
    };
    let row =
        |snapshot, what, time: Time, same| Row::Candidate(CandidateRow { snapshot, what, time: format(time), same });
    let mut before: Arc<Lineage> = chain.start.clone();
    let mut flow = sink(row(Some(chain.start_name.clone()), what, time, false));
    for link in chain.links {
        if flow.is_break() {
            break;
        }
        let same = is_same(kv, &before, &link.state)?;
        flow = sink(row(link.snapshot, link.subject, link.time, same));
        before = link.state;
    }
    Ok(Done::default())
}
