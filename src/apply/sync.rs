//! Making directories, and files whose metadata was changed in place, survive power loss.
//!
//! It knows paths and file systems only. A few are synced one by one; of many, the whole file system is.

use std::collections::BTreeSet;

use rustix::io::Errno;

use super::journal::failed;
use super::writer::{Os, Root};
use super::{Error, Result};
use crate::store::fault;
use crate::types::Path;

/// So many are synced one by one.
const FEW: usize = 64;

/// Syncs what is at these paths. What is gone by now needs none.
pub(super) fn sync(root: &Root, paths: &BTreeSet<Path>) -> Result<()> {
    let mut systems = BTreeSet::new();
    for path in paths {
        let done = if paths.len() > FEW { whole(root, path, &mut systems) } else { one(root, path) };
        done.or_else(|error| match error {
            Failed::Os(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            // What cannot be opened is synced with all the rest, if at least the root can.
            Failed::Os(Errno::ACCESS) => match root.read_dir(&Path::root()).and_then(rustix::fs::syncfs) {
                Ok(()) | Err(Errno::ACCESS) => Ok(()),
                Err(e) => Err(Failed::Os(e)),
            },
            // Neither a FIFO nor a device can be synced itself.
            Failed::Os(Errno::INVAL) => {
                let above = path.split_last().map_or_else(Path::root, |(dir, _)| dir);
                Ok(root.read_dir(&above).and_then(rustix::fs::syncfs)?)
            }
            error => Err(error),
        })
        .map_err(|error| match error {
            Failed::Os(e) => Error::Base { what: "sync", path: path.clone(), errno: e.into() },
            Failed::Point(error) => error,
        })?;
    }
    Ok(())
}

enum Failed {
    Os(Errno),
    Point(Error),
}

impl From<Errno> for Failed {
    fn from(errno: Errno) -> Failed {
        Failed::Os(errno)
    }
}

fn point(path: &Path) -> Result<(), Failed> {
    let error = || failed("sync", path.to_string(), libc::EIO);
    fault::point("apply.dirsync", error).map_err(|e| Failed::Point(e.into()))
}

fn one(root: &Root, path: &Path) -> Result<(), Failed> {
    point(path)?;
    Ok(root.node(path)?.sync()?)
}

/// Syncs the file system, unless that was done for another path.
fn whole(root: &Root, path: &Path, systems: &mut BTreeSet<u64>) -> Result<(), Failed> {
    let Some(look) = root.look(path)? else { return Ok(()) };
    if !systems.contains(&look.seen.dev) {
        point(path)?;
        let dir = if look.seen.kind == crate::types::Kind::Dir {
            path.clone()
        } else {
            path.split_last().map_or_else(Path::root, |(dir, _)| dir)
        };
        let synced: Os<()> = root.read_dir(&dir).and_then(rustix::fs::syncfs);
        synced?;
        systems.insert(look.seen.dev);
    }
    Ok(())
}
