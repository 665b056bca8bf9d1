//! Stores for the overlay under test: on disk as the daemon's, or behind failpoints.

use std::path::Path;
use std::sync::Arc;

use regentfs::base::{Base, DirBase};
use regentfs::store::fault::FaultKv;
use regentfs::store::format::{Format, Owner};
use regentfs::store::mem::MemKv;
use regentfs::store::rocks::Rocks;
use regentfs::store::{Data, Kv, Store};

/// Where the log is kept.
pub enum Log {
    /// In memory, behind failpoints.
    Memory(Arc<MemKv>),
    /// On disk, as the daemon has it.
    Disk,
    /// On disk, behind failpoints.
    FaultyDisk,
}

impl Log {
    /// Opens the store in `dir` of the repository `base`.
    pub fn store(&self, base: &Path, dir: &Path) -> Store {
        let stat = DirBase::open(base).and_then(|it| it.root()).expect("the base's root");
        let owner = Owner { repo: base.to_owned(), root_ino: stat.attr.ino.0, root_born: stat.born };
        let kv: Arc<dyn Kv> = match self {
            Log::Disk => return Store::create_or_open(dir, &owner).expect("open the store"),
            Log::Memory(kv) => kv.clone(),
            Log::FaultyDisk => {
                std::fs::create_dir_all(dir).expect("the store's directory");
                Arc::new(Rocks::open(&dir.join("log")).expect("open the log"))
            }
        };
        std::fs::create_dir_all(dir).expect("the store's directory");
        let format = Format::create_or_load(dir, &owner).expect("the format");
        let data = Data::open(&dir.join("data")).expect("the version files");
        Store::from_parts(dir, Arc::new(FaultKv(kv)), data, format).expect("open the store")
    }
}
