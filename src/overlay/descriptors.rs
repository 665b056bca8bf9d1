//! A bounded cache of open base files.

use std::fs::File;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::types::Ino;

const OPEN_FILES: usize = 192;
const SHARDS: usize = 8;

/// Of an inode, the base file with this number of its own.
type Shard = Vec<(Ino, u64, Arc<File>)>;

/// Least recently used first, per shard.
#[derive(Default)]
pub struct Descriptors {
    shards: [Mutex<Shard>; SHARDS],
}

impl Descriptors {
    fn shard(&self, ino: Ino) -> &Mutex<Shard> {
        &self.shards[(ino.0 % SHARDS as u64) as usize]
    }

    pub fn get(&self, ino: Ino, of: u64) -> Option<Arc<File>> {
        let mut shard = self.shard(ino).lock();
        let at = shard.iter().rposition(|(have, base, _)| *have == ino && *base == of)?;
        let entry = shard.remove(at);
        let file = entry.2.clone();
        shard.push(entry);
        Some(file)
    }

    pub fn put(&self, ino: Ino, of: u64, file: Arc<File>) {
        let mut shard = self.shard(ino).lock();
        let evicted = if shard.len() >= OPEN_FILES / SHARDS { Some(shard.remove(0)) } else { None };
        shard.push((ino, of, file));
        // Closed after the lock is gone.
        drop(shard);
        drop(evicted);
    }

    pub fn drop_file(&self, ino: Ino) {
        self.shard(ino).lock().retain(|(have, _, _)| *have != ino);
    }
}
