//! Answers about steps. The same for a daemon and for a store that nothing is mounted from.

use super::protocol::{Done, Failure, Row};
use super::time::Sink;
use crate::query::{self, LogFilter};
use crate::store::{Store, history};
use crate::timeline::spec;

/// Lists steps, the newest first.
pub fn log(store: &Store, filter: &LogFilter, sink: Sink<'_>) -> Result<Done, Failure> {
    let sealed: rustc_hash::FxHashSet<_> = history::snapshots(&*store.kv)?.into_iter().map(|s| s.epoch).collect();
    let name = |epoch| sealed.contains(&epoch).then(|| spec::id_of(&store.format.id, epoch));
    query::log(store, filter, &name, &mut |row| sink(Row::Step(row)))?;
    Ok(Done::default())
}
