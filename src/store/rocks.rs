//! The log on RocksDB. The only module that names the crate.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, Direction, Options,
    ReadOptions, WriteBatch, WriteOptions,
};

use super::keys::Key;
use super::{Batch, Change, Kv, Result, StoreError, Sync, Table, Visit, VisitFirst};

/// Sizes are for a daemon that must stay small (docs/PERFORMANCE.md), not for a database server.
const BLOCK_CACHE: usize = 8 << 20;
const WRITE_BUFFER: usize = 8 << 20;
const MAX_WAL: u64 = 64 << 20;

/// See the module.
pub struct Rocks {
    db: DB,
    plain: WriteOptions,
    synced: WriteOptions,
    broken: AtomicBool,
}

impl Rocks {
    pub fn open(dir: &Path) -> Result<Rocks> {
        let cache = Cache::new_lru_cache(BLOCK_CACHE);
        let table = |bloom: bool| {
            let mut block = BlockBasedOptions::default();
            block.set_block_cache(&cache);
            block.set_block_size(16 << 10);
            block.set_cache_index_and_filter_blocks(true);
            if bloom {
                block.set_bloom_filter(10.0, false);
            }
            let mut options = Options::default();
            options.set_block_based_table_factory(&block);
            options.set_compression_type(DBCompressionType::Lz4);
            options.set_write_buffer_size(WRITE_BUFFER);
            options.set_max_write_buffer_number(2);
            options
        };
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_max_total_wal_size(MAX_WAL);
        options.set_max_open_files(128);
        options.set_max_background_jobs(2);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_skip_stats_update_on_db_open(true);
        // What was acknowledged and is intact must come back; a torn tail was not acknowledged.
        options.set_wal_recovery_mode(rocksdb::DBRecoveryMode::TolerateCorruptedTailRecords);
        let families = [("meta", true), ("tree", true), ("events", false)]
            .map(|(name, bloom)| ColumnFamilyDescriptor::new(name, table(bloom)));
        let db = DB::open_cf_descriptors(&options, dir, families).map_err(|e| {
            let text = e.to_string();
            if text.contains("No space left") {
                StoreError::Io {
                    what: "open",
                    path: dir.to_owned(),
                    source: std::io::Error::from_raw_os_error(libc::ENOSPC),
                }
            } else {
                StoreError::Broken(text)
            }
        })?;
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        Ok(Rocks { db, plain: WriteOptions::default(), synced, broken: AtomicBool::new(false) })
    }

    fn family(&self, table: Table) -> Result<&ColumnFamily> {
        let name = match table {
            Table::Meta => "meta",
            Table::Tree => "tree",
            Table::Events => "events",
        };
        self.db.cf_handle(name).ok_or_else(|| StoreError::corrupt(format!("column family {name} is missing")))
    }

    fn failed(&self, error: &rocksdb::Error) -> StoreError {
        self.broken.store(true, Ordering::Release);
        StoreError::Broken(error.to_string())
    }

    fn range(&self, table: Table, from: &[u8], to: &[u8], direction: Direction, visit: Visit<'_>) -> Result<()> {
        let mut read = ReadOptions::default();
        read.set_iterate_lower_bound(from);
        read.set_iterate_upper_bound(to);
        // Most ranges of the tree are the states of one thing, of which a rewind looks up thousands side by side: without the cache each of them
        // would unpack a block of its own. The record is only ever read from end to end, and would push those out.
        read.fill_cache(table != Table::Events);
        let mut entries = self.db.raw_iterator_cf_opt(self.family(table)?, read);
        match direction {
            Direction::Forward => entries.seek_to_first(),
            Direction::Reverse => entries.seek_to_last(),
        }
        while let Some((key, value)) = entries.item() {
            if let ControlFlow::Break(()) = visit(key, value) {
                return Ok(());
            }
            match direction {
                Direction::Forward => entries.next(),
                Direction::Reverse => entries.prev(),
            }
        }
        entries.status().map_err(|e| StoreError::corrupt(e.to_string()))
    }
}

impl Kv for Rocks {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db.get_cf(self.family(table)?, key).map_err(|e| StoreError::corrupt(e.to_string()))
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<()> {
        self.range(table, from, to, Direction::Forward, visit)
    }

    fn firsts(&self, table: Table, ranges: &[(Key, Key)], visit: VisitFirst<'_>) -> Result<()> {
        // One iterator for all of them: making one costs as much as its search does.
        const STEPS: usize = 4;
        let mut entries = self.db.raw_iterator_cf(self.family(table)?);
        for (number, (from, to)) in ranges.iter().enumerate() {
            let mut steps = 0;
            while steps < STEPS && entries.key().is_some_and(|key| key < from.as_slice()) {
                entries.next();
                steps += 1;
            }
            // Not at a key: it was not asked yet, or has come to the end, after which there is nothing for the later ranges either.
            if entries.key().is_none_or(|key| key < from.as_slice()) {
                entries.seek(from);
            }
            match entries.item() {
                Some((key, value)) if key < to.as_slice() => visit(number, key, value),
                Some(_) => {}
                None => break,
            }
        }
        entries.status().map_err(|e| StoreError::corrupt(e.to_string()))
    }

    fn scan_back(&self, table: Table, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<()> {
        self.range(table, from, to, Direction::Reverse, visit)
    }

    fn commit(&self, batch: &Batch, sync: Sync) -> Result<()> {
        if self.broken.load(Ordering::Acquire) {
            return Err(StoreError::Broken("an earlier write failed".into()));
        }
        let (meta, tree, events) = (self.family(Table::Meta)?, self.family(Table::Tree)?, self.family(Table::Events)?);
        let mut write = WriteBatch::default();
        for (table, change) in batch.changes() {
            let family = match table {
                Table::Meta => meta,
                Table::Tree => tree,
                Table::Events => events,
            };
            match change {
                Change::Put(key, value) => write.put_cf(family, key, value),
                Change::Delete(key) => write.delete_cf(family, key),
            }
        }
        let options = match sync {
            Sync::No => &self.plain,
            Sync::Yes => &self.synced,
        };
        self.db.write_opt(write, options).map_err(|e| self.failed(&e))
    }

    fn sync(&self) -> Result<()> {
        self.db.flush_wal(true).map_err(|e| self.failed(&e))
    }

    fn disk_bytes(&self) -> u64 {
        let property = |table, name| {
            self.family(table).ok().and_then(|f| self.db.property_int_value_cf(f, name).ok().flatten()).unwrap_or(0)
        };
        [Table::Meta, Table::Tree, Table::Events]
            .into_iter()
            .map(|t| property(t, "rocksdb.total-sst-files-size") + property(t, "rocksdb.size-all-mem-tables"))
            .sum()
    }
}
