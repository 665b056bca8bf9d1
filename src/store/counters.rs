//! Numbers that are never handed out twice, not even after a crash.
//!
//! A counter reserves a block of numbers in the log before it hands out the first of them; what a crash leaves unused is
//! skipped. Handing out a number is one atomic addition.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Batch, Kv, Result, Sync, Table, keys};

const BLOCK: u64 = 1024;

/// The counters of a store; the byte is their key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Counter {
    Ino = b'i',
    Version = b'v',
    Actor = b'a',
    Epoch = b'e',
    Timeline = b'l',
    Operation = b'o',
}

#[derive(Debug)]
struct Block {
    which: u8,
    next: AtomicU64,
    reserved: AtomicU64,
    refill: Mutex<()>,
}

/// All counters of one store.
#[derive(Debug)]
pub struct Counters {
    ino: Block,
    version: Block,
    actor: Block,
    epoch: Block,
    timeline: Block,
    operation: Block,
}

impl Counters {
    pub fn load(kv: &dyn Kv) -> Result<Counters> {
        let block = |which: Counter| -> Result<Block> {
            let stored = kv.get(Table::Meta, &keys::counter(which as u8))?;
            let next = stored.and_then(|v| Some(u64::from_le_bytes(v.try_into().ok()?))).unwrap_or(1);
            Ok(Block {
                which: which as u8,
                next: AtomicU64::new(next),
                reserved: AtomicU64::new(next),
                refill: Mutex::new(()),
            })
        };
        Ok(Counters {
            ino: block(Counter::Ino)?,
            version: block(Counter::Version)?,
            actor: block(Counter::Actor)?,
            epoch: block(Counter::Epoch)?,
            timeline: block(Counter::Timeline)?,
            operation: block(Counter::Operation)?,
        })
    }

    /// The next number, 1 or more.
    ///
    /// # Errors
    /// When a new block cannot be reserved; nothing was handed out then.
    pub fn next(&self, kv: &dyn Kv, which: Counter) -> Result<u64> {
        let block = match which {
            Counter::Ino => &self.ino,
            Counter::Version => &self.version,
            Counter::Actor => &self.actor,
            Counter::Epoch => &self.epoch,
            Counter::Timeline => &self.timeline,
            Counter::Operation => &self.operation,
        };
        loop {
            let next = block.next.load(Ordering::Acquire);
            if next < block.reserved.load(Ordering::Acquire) {
                if block.next.compare_exchange(next, next + 1, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                    return Ok(next);
                }
                continue;
            }
            let _refill = block.refill.lock();
            let reserved = block.reserved.load(Ordering::Acquire);
            if block.next.load(Ordering::Acquire) < reserved {
                continue;
            }
            let mut batch = Batch::new();
            batch.put(Table::Meta, &keys::counter(block.which), &(reserved + BLOCK).to_le_bytes());
            kv.commit(&batch, Sync::No)?;
            block.reserved.store(reserved + BLOCK, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::mem::MemKv;
    use super::*;

    #[test]
    fn numbers_are_never_reused_after_a_reopen() {
        let kv = MemKv::new();
        let mut highest = 0;
        for _ in 0..3 {
            let counters = Counters::load(&kv).unwrap();
            for _ in 0..1500 {
                let n = counters.next(&kv, Counter::Ino).unwrap();
                assert!(n > highest);
                highest = n;
            }
        }
        assert_eq!(Counters::load(&kv).unwrap().next(&kv, Counter::Version).unwrap(), 1);
    }
}
