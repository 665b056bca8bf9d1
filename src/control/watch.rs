//! Steps as they happen, for a client that waits: a look at what is new in the record, again and again, for as long as somebody listens.

use std::time::Duration;

use super::protocol::{Done, Failure, Row};
use crate::clock;
use crate::engine::Engine;
use crate::query::QueryError;
use crate::query::watch::{Watch, WatchFilter};
use crate::store::history;
use crate::timeline::spec;
use crate::types::Epoch;

/// How often it is looked.
pub const EVERY: Duration = Duration::from_millis(300);

/// Tells until the mount ends, `tell` says that the client is gone, or `hung_up` does, which waits in between.
///
/// # Errors
/// When there is no such session, or the log cannot be read.
pub fn follow(
    engine: &Engine,
    filter: &WatchFilter,
    tell: &mut dyn FnMut(Row) -> bool,
    hung_up: &dyn Fn() -> bool,
) -> Result<Done, Failure> {
    let store = engine.overlay().store();
    let settle = || engine.settle().map_err(|e| Failure::new(format!("the record cannot be written: {e}")));
    let name = |epoch: Epoch| -> Result<Option<String>, QueryError> {
        Ok(history::snapshot(&*store.kv, epoch)?.map(|s| spec::id_of(&store.format.id, s.epoch)))
    };
    // Of processes that an earlier daemon knew nobody will hear any more.
    let lives = |id| engine.who().and_then(|who| who.get(id)).is_some_and(|actor| actor.exit_at.is_none());
    settle()?;
    let mut watch = Watch::start(store, filter, &name, &lives, clock::now())?;
    loop {
        let ended = engine.is_stopped();
        if !ended {
            settle()?;
        }
        for row in watch.look(store, &name, clock::now())? {
            if !tell(Row::Watch(row)) {
                return Ok(Done::default());
            }
        }
        if ended || hung_up() {
            return Ok(Done::default());
        }
    }
}
