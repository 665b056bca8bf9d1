//! The rules about the record: no holes, every event readable, an unbroken chain. Knows nothing of the tree.

use super::Check;
use crate::record::chain;
use crate::store::{Result, Table, codec, keys};
use crate::types::Seq;

/// So many events are looked at between two words about it.
const TOLD: u64 = 4096;

impl Check<'_> {
    pub(super) fn events(&mut self, log: bool, tell: &mut dyn FnMut(u64)) -> Result<()> {
        let mut last = Seq(0);
        let mut hash = chain::start(&self.store.format.id);
        let mut broken = false;
        self.scan(Table::Events, |c, key, value| {
            let Some(seq) = keys::last_number(key).map(Seq).filter(|_| key.len() == 9 && key.first() == Some(&b'e'))
            else {
                return Ok(false);
            };
            c.report.events += 1;
            if c.report.events % TOLD == 0 {
                tell(c.report.events);
            }
            if seq.0 != last.0 + 1 {
                c.problem(format!("the record jumps from event {last} to event {seq}"));
            }
            last = seq;
            let Some((stored, event)) = value.split_at_checked(32) else { return Ok(false) };
            if let Err(error) = codec::get_event(seq, event) {
                c.problem(format!("event {seq}: {error}"));
            }
            if log {
                hash = chain::next(&hash, seq, event);
                if hash != *stored && !broken {
                    broken = true;
                    c.problem(format!(
                        "the record's chain is broken at event {seq}: it, or one before it, was changed"
                    ));
                }
            }
            Ok(true)
        })
    }
}
