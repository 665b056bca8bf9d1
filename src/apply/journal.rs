//! The journal: one file in the store that says what an apply is about, so that whoever finds it can undo or finish the work.
//!
//! It is replaced as a whole, by a rename, and checked by a hash. It knows nothing of the base.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path as FsPath, PathBuf};

use super::codec;
use super::plan::{Expect, Plan, Seen};
use crate::store::{Result, StoreError, fault};
use crate::types::Path;

pub const FILE: &str = "apply.journal";
/// By which it is replaced; left over only by a crash, and of no meaning.
pub const NEW: &str = "apply.journal.new";

/// How far it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Temporary files may be there, nothing else: undo.
    Prepare,
    /// Everything is prepared, and steps may have been done: finish.
    Commit,
}

/// A temporary file: where, and which one. Its name follows from the plan and the step ([`temp_name`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Temp {
    /// The directory it is in: that of the path, or one above it which is there already and can be written to.
    pub dir: Path,
    /// What was made there. `None` before, and where something of the base only passes through.
    pub made: Option<Seen>,
}

/// What metadata steps overwrite in place, so that a half-done one is known as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Was {
    pub perm: u16,
    pub uid: u32,
    pub gid: u32,
}

/// What is known of a step besides the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub temp: Option<Temp>,
    pub was: Option<Was>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    pub phase: Phase,
    /// The base's root directory.
    pub root: Seen,
    pub plan: Plan,
    /// One for each step of the plan.
    pub states: Vec<State>,
}

/// The name of a step's temporary file.
pub fn temp_name(plan: u64, step: usize) -> String {
    format!(".regentfs-{plan}-{step}.tmp")
}

impl State {
    /// Where the temporary file of this step is, if it has one.
    pub fn temp_path(&self, plan: u64, step: usize) -> Option<Path> {
        Some(self.temp.as_ref()?.dir.join(temp_name(plan, step).as_bytes()))
    }
}

impl Journal {
    /// The device numbers of file systems may change when the machine starts anew: those of the root's are put right.
    pub fn on_device(&mut self, dev: u64) {
        let old = std::mem::replace(&mut self.root.dev, dev);
        let expected = self.plan.steps.iter_mut().filter_map(|step| match &mut step.expect {
            Expect::Nothing => None,
            Expect::Is(seen) => Some(seen),
        });
        let made = self.states.iter_mut().filter_map(|state| state.temp.as_mut()?.made.as_mut());
        for seen in expected.chain(made).filter(|seen| seen.dev == old) {
            seen.dev = dev;
        }
    }

    /// Writes it, durably, in place of the one before.
    pub fn write(&self, store: &FsPath) -> Result<()> {
        let mut bytes = Vec::new();
        codec::put_journal(&mut bytes, self);
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        let (file, new) = (store.join(FILE), store.join(NEW));
        fault::point("apply.journal", || failed("write", &file, libc::EIO))?;
        let write = || -> std::io::Result<()> {
            let mut out = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            out.write_all(&bytes)?;
            out.sync_all()
        };
        write().map_err(StoreError::io("write", &new))?;
        fs::rename(&new, &file).map_err(StoreError::io("rename", &new))?;
        sync(store)
    }

    /// The journal of a store, if there is one.
    pub fn load(store: &FsPath) -> Result<Option<Journal>> {
        let file = store.join(FILE);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io("read", file)(e)),
        };
        let checked = bytes.split_last_chunk::<32>().filter(|(body, hash)| blake3::hash(body) == **hash);
        let (body, _) = checked.ok_or_else(|| StoreError::corrupt(format!("{}: wrong checksum", file.display())))?;
        codec::get_journal(body).map(Some)
    }

    /// Deletes it; the apply is over.
    pub fn remove(store: &FsPath) -> Result<()> {
        for file in [store.join(FILE), store.join(NEW)] {
            match fs::remove_file(&file) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(StoreError::io("delete", file)(e)),
                _ => {}
            }
        }
        sync(store)
    }

    /// Whether there is one, readable or not.
    pub fn exists(store: &FsPath) -> bool {
        store.join(FILE).symlink_metadata().is_ok()
    }
}

fn sync(store: &FsPath) -> Result<()> {
    fs::File::open(store).and_then(|dir| dir.sync_all()).map_err(StoreError::io("sync", store))
}

/// What a failpoint fails with.
pub(super) fn failed(what: &'static str, path: impl Into<PathBuf>, errno: i32) -> StoreError {
    StoreError::io(what, path)(std::io::Error::from_raw_os_error(errno))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::apply::plan::{Make, Step};
    use crate::types::{Kind, Time};

    #[test]
    fn is_replaced_as_a_whole_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path();
        assert_eq!(Journal::load(store).unwrap(), None);
        let time = Time::new(1, 2);
        let root = Seen { kind: Kind::Dir, dev: 5, ino: 6, born: None, size: 7, mtime: time, ctime: time };
        let other = Seen { dev: 9, ..root };
        let step =
            |path: &str, seen| Step { path: Path::new(path.as_bytes()), expect: Expect::Is(seen), make: Make::Keep };
        let plan = Plan { id: 3, steps: vec![step("a", root), step("b", other)] };
        let temp = Temp { dir: Path::root(), made: Some(root) };
        let states = vec![State { temp: Some(temp), was: None }, State::default()];
        let mut journal = Journal { phase: Phase::Prepare, root, plan, states };
        journal.write(store).unwrap();
        journal.phase = Phase::Commit;
        journal.write(store).unwrap();
        assert_eq!(store.join(FILE).metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!store.join(NEW).exists());
        // What a crash leaves beside it means nothing.
        fs::write(store.join(NEW), "half").unwrap();
        assert_eq!(Journal::load(store).unwrap(), Some(journal.clone()));
        assert_eq!(journal.states[0].temp_path(3, 0), Some(Path::new(b".regentfs-3-0.tmp")));

        journal.on_device(8);
        let dev = |expect: &Expect| expect.seen().unwrap().dev;
        assert_eq!((dev(&journal.plan.steps[0].expect), dev(&journal.plan.steps[1].expect)), (8, 9));
        assert_eq!(journal.states[0].temp.as_ref().unwrap().made.unwrap().dev, 8);

        let mut bytes = fs::read(store.join(FILE)).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 0x10;
            fs::write(store.join(FILE), &bytes).unwrap();
            assert!(matches!(Journal::load(store), Err(StoreError::Corrupt { .. })), "byte {at}");
            bytes[at] ^= 0x10;
        }
        Journal::remove(store).unwrap();
        Journal::remove(store).unwrap();
        assert_eq!(fs::read_dir(store).unwrap().count(), 0);
    }
}
