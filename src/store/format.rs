//! The store's directory: who owns it, which format it has, and that only one process uses it.
//!
//! A format number changes when old programs would misread the store; a feature flag is added when they could still read
//! it. A program that meets a newer number or an unknown feature refuses (docs/FORMAT.md).

use std::fs;
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Result, StoreError};
use crate::types::Time;

/// The format this program writes. Older ones are upgraded when a store is opened.
pub const FORMAT: u32 = 2;
/// The features this program understands.
pub const FEATURES: &[&str] = &[];
pub const FORMAT_FILE: &str = "format.json";
const LOCK_FILE: &str = "lock";
/// How long a lock is waited for: a killed process keeps its own until the last of its threads is gone, and a child until
/// it execs.
const WAIT: std::time::Duration = std::time::Duration::from_millis(20);
const WAITS: u32 = 50;

/// The repository a store belongs to: its path, and the identity of the directory that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Absolute, without symbolic links.
    pub repo: PathBuf,
    /// Inode number of the repository's root directory.
    pub root_ino: u64,
    /// Its time of birth where the file system has one: tells a re-made directory with a reused number apart.
    pub root_born: Option<Time>,
}

/// The contents of `format.json`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Format {
    pub format: u32,
    pub features: Vec<String>,
    /// Lossy, for people.
    pub repo: String,
    /// The path's bytes in hexadecimal.
    pub repo_hex: String,
    pub root_ino: u64,
    pub root_born_ns: Option<i64>,
    /// Distinguishes this store from all others; part of the event chain's beginning.
    pub id: String,
}

impl Format {
    fn new(owner: &Owner) -> Format {
        let born = owner.root_born.map(Time::as_nanos);
        let mut hasher = blake3::Hasher::new();
        hasher.update(owner.repo.as_os_str().as_bytes());
        hasher.update(&owner.root_ino.to_le_bytes());
        hasher.update(&crate::clock::now().as_nanos().to_le_bytes());
        hasher.update(&std::process::id().to_le_bytes());
        Format {
            format: FORMAT,
            features: Vec::new(),
            repo: owner.repo.display().to_string(),
            repo_hex: crate::types::hex(owner.repo.as_os_str().as_bytes()),
            root_ino: owner.root_ino,
            root_born_ns: born,
            id: hasher.finalize().to_hex()[..32].to_owned(),
        }
    }

    /// The repository's path, exactly.
    pub fn repo_path(&self) -> PathBuf {
        let bytes = crate::types::unhex(&self.repo_hex).unwrap_or_else(|| self.repo.clone().into_bytes());
        PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))
    }

    pub fn load(dir: &Path) -> Result<Format> {
        let path = dir.join(FORMAT_FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(StoreError::Missing { path: dir.to_owned() });
            }
            Err(e) => return Err(StoreError::io("read", path)(e)),
        };
        // The number first: a newer format may have changed everything else.
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|e| StoreError::corrupt(format!("{}: {e}", path.display())))?;
        let number = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if number > u64::from(FORMAT) {
            return Err(StoreError::Newer { path: dir.to_owned(), found: number.to_string(), known: FORMAT });
        }
        let format: Format =
            serde_json::from_value(value).map_err(|e| StoreError::corrupt(format!("{}: {e}", path.display())))?;
        if let Some(unknown) = format.features.iter().find(|f| !FEATURES.contains(&f.as_str())) {
            return Err(StoreError::Newer { path: dir.to_owned(), found: format!("feature {unknown}"), known: FORMAT });
        }
        Ok(format)
    }

    /// Writes `format.json` of the store at `dir`.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| StoreError::corrupt(e.to_string()))?;
        write_atomically(&dir.join(FORMAT_FILE), &text)
    }

    /// Loads the format of the store at `dir` and checks that it belongs to `owner`, or writes a new one.
    pub fn create_or_load(dir: &Path, owner: &Owner) -> Result<Format> {
        match Format::load(dir) {
            Ok(format) => {
                if format.repo_path() != owner.repo {
                    return Err(StoreError::Foreign { path: dir.to_owned(), owner: format.repo });
                }
                let born = owner.root_born.map(Time::as_nanos);
                if format.root_ino != owner.root_ino || (format.root_born_ns.is_some() && format.root_born_ns != born) {
                    let owner = format!(
                        "another directory that used to be {} (`regentfs discard --purge` throws its overlay away)",
                        format.repo
                    );
                    return Err(StoreError::Foreign { path: dir.to_owned(), owner });
                }
                Ok(format)
            }
            Err(StoreError::Missing { .. }) => {
                let format = Format::new(owner);
                format.save(dir)?;
                Ok(format)
            }
            Err(other) => Err(other),
        }
    }
}

/// Replaces a small file as a whole: temporary file, fsync, rename, fsync of the directory.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let temp = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temp, path)?;
        match path.parent() {
            Some(dir) => fs::File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(StoreError::io("write", path))
}

/// Held while a process has the store open.
#[derive(Debug)]
pub struct Lock {
    _file: fs::File,
}

impl Lock {
    /// Makes the directory (0700) if need be and takes the lock, which the kernel drops when the process dies.
    pub fn create(dir: &Path) -> Result<Lock> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(StoreError::io("create", dir))?;
        let meta = fs::metadata(dir).map_err(StoreError::io("read", dir))?;
        if meta.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(StoreError::io("restrict", dir))?;
        }
        let path = dir.join(LOCK_FILE);
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        let mut waits = 0;
        while let Err(error) = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            match error {
                rustix::io::Errno::WOULDBLOCK if waits < WAITS => {
                    waits += 1;
                    std::thread::sleep(WAIT);
                }
                rustix::io::Errno::WOULDBLOCK => {
                    let mut pid = String::new();
                    let _ = file.read_to_string(&mut pid);
                    return Err(StoreError::Locked { path: dir.to_owned(), pid: pid.trim().to_owned() });
                }
                e => return Err(StoreError::io("lock", &path)(e.into())),
            }
        }
        let record = || -> std::io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        let mut record = record;
        record().map_err(StoreError::io("write", &path))?;
        Ok(Lock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(repo: &str, ino: u64) -> Owner {
        Owner { repo: repo.into(), root_ino: ino, root_born: None }
    }

    #[test]
    fn refuses_newer_formats_and_other_owners() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let first = Format::create_or_load(dir, &owner("/a", 7)).unwrap();
        assert_eq!(Format::create_or_load(dir, &owner("/a", 7)).unwrap(), first);
        assert!(matches!(Format::create_or_load(dir, &owner("/b", 7)), Err(StoreError::Foreign { .. })));
        assert!(matches!(Format::create_or_load(dir, &owner("/a", 8)), Err(StoreError::Foreign { .. })));
        let file = dir.join(FORMAT_FILE);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("\"format\": 2", "\"format\": 3")).unwrap();
        assert!(matches!(Format::load(dir), Err(StoreError::Newer { .. })));
        fs::write(&file, text.replace("\"features\": []", "\"features\": [\"zip\"]")).unwrap();
        assert!(matches!(Format::load(dir), Err(StoreError::Newer { .. })));
        fs::write(&file, "{").unwrap();
        assert!(matches!(Format::load(dir), Err(StoreError::Corrupt { .. })));
    }

    #[test]
    fn the_lock_names_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let held = Lock::create(dir.path()).unwrap();
        match Lock::create(dir.path()) {
            Err(StoreError::Locked { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
            other => panic!("{other:?}"),
        }
        drop(held);
        Lock::create(dir.path()).unwrap();
    }
}
