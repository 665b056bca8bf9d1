//! Bringing a store of format 1 to format 2, once, when it is opened.
//!
//! Format 1 had one epoch and one timeline, and a list of changed base inodes instead of an index of changes. The states themselves are the
//! same. Everything here is worked out from them alone, so a crash on the way costs nothing: the next open begins anew. `format.json` says 2 only
//! after all of it survives power loss.

use std::ops::ControlFlow;
use std::path::Path as FsPath;

use rustc_hash::FxHashMap;

use super::codec::{self, Dentry};
use super::format::{FORMAT, Format};
use super::history::{self, TimelineRecord};
use super::space::Space;
use super::{Batch, Kv, Result, Sync, Table, keys};
use crate::types::{Epoch, Ino, Kind, Name, Path, Seq, Time, Timeline};

/// The epoch of all states of format 1.
const FIRST: Epoch = Epoch(1);
/// Keys in a batch.
const BATCH: usize = 4096;
/// Deeper than PATH_MAX allows: a loop in a damaged store.
const DEEPEST: usize = 4096;

/// Upgrades the log of the store in `dir` if it is of an older format, and says so in `format.json`.
///
/// # Errors
/// When there is no room, or log or `format.json` cannot be written: the store is then still of its old format, and nothing of it is lost.
pub fn upgrade(dir: &FsPath, kv: &dyn Kv, format: Format) -> Result<Format> {
    if format.format >= FORMAT {
        return Ok(format);
    }
    let changes = Changes::read(kv)?;
    Space::new(dir)?.claim(changes.bytes())?;
    changes.write(kv)?;
    let format = Format { format: FORMAT, ..format };
    format.save(dir)?;
    tracing::info!(states = changes.inodes.len() + changes.names.len(), "the store was brought to format {FORMAT}");
    Ok(format)
}

/// What format 1 says, and where it was changed.
#[derive(Default)]
struct Changes {
    inodes: Vec<Ino>,
    names: Vec<(Ino, Name)>,
    /// A name of an inode that the overlay gave it.
    places: FxHashMap<Ino, (Ino, Name)>,
    /// Where inodes are in the base.
    origins: FxHashMap<Ino, Path>,
    /// The changed directories, by their path in the base.
    dirs: FxHashMap<Path, Ino>,
    old: Vec<keys::Key>,
}

impl Changes {
    /// What cannot be read is taken for something without a place: fsck names it, and for that the store must open.
    fn read(kv: &dyn Kv) -> Result<Changes> {
        let mut found = Changes::default();
        let (from, to) = keys::all_inodes(Timeline::MAIN);
        kv.scan(Table::Tree, &from, &to, &mut |key, value| {
            let Some((ino, _)) = keys::parse_inode(key) else { return ControlFlow::Continue(()) };
            found.inodes.push(ino);
            if let Ok(record) = codec::get_inode(ino, value)
                && let Some(origin) = record.origin
            {
                if record.attr.kind == Kind::Dir {
                    found.dirs.insert(origin.path.clone(), ino);
                }
                found.origins.insert(ino, origin.path);
            }
            ControlFlow::Continue(())
        })?;
        let (from, to) = keys::all_dentries(Timeline::MAIN);
        kv.scan(Table::Tree, &from, &to, &mut |key, value| {
            let Some((dir, name, _)) = keys::parse_dentry(key) else { return ControlFlow::Continue(()) };
            found.names.push((dir, name.into()));
            if let Ok(Dentry::Entry { ino, .. }) = codec::get_dentry(value) {
                found.places.insert(ino, (dir, name.into()));
            }
            ControlFlow::Continue(())
        })?;
        let (from, to) = keys::old_origins();
        kv.scan(Table::Tree, &from, &to, &mut |key, _| {
            found.old.push(keys::Key::from_slice(key));
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// Bytes that the new keys will take, roughly.
    fn bytes(&self) -> u64 {
        const EACH: u64 = 256;
        (self.inodes.len() + self.names.len()) as u64 * EACH
    }

    fn write(&self, kv: &dyn Kv) -> Result<()> {
        let mut batch = Batch::new();
        let full = |batch: &mut Batch| -> Result<()> {
            if batch.len() >= BATCH {
                kv.commit(batch, Sync::No)?;
                batch.clear();
            }
            Ok(())
        };
        for &ino in &self.inodes {
            let path = self.path(ino, 0);
            batch.put(Table::Tree, &keys::touched_inode(Timeline::MAIN, FIRST, ino), path.as_bytes());
            full(&mut batch)?;
        }
        for (dir, name) in &self.names {
            let path = self.path(*dir, 0).join(name);
            batch.put(Table::Tree, &keys::touched_name(Timeline::MAIN, FIRST, *dir, name), path.as_bytes());
            full(&mut batch)?;
        }
        let main = TimelineRecord { created: begin(kv)?, ..history::timeline(kv, Timeline::MAIN)? };
        history::put_timeline(&mut batch, &main);
        for key in &self.old {
            batch.delete(Table::Tree, key);
            full(&mut batch)?;
        }
        kv.commit(&batch, Sync::Yes)
    }

    /// Where an inode is in the overlay. Format 1 noted it nowhere.
    fn path(&self, ino: Ino, depth: usize) -> Path {
        if ino == Ino::ROOT {
            return Path::root();
        }
        let origin = self.origins.get(&ino);
        if depth > DEEPEST {
            return origin.cloned().unwrap_or_default();
        }
        if let Some((dir, name)) = self.places.get(&ino) {
            return self.path(*dir, depth + 1).join(name);
        }
        let Some(origin) = origin else { return Path::root() };
        // Where the base has it: below the nearest directory that may have been moved.
        let mut below: Vec<Name> = Vec::new();
        let mut at = origin.clone();
        while let Some((dir, name)) = at.split_last() {
            below.push(name.into());
            if let Some(&moved) = self.dirs.get(&dir) {
                let path = self.path(moved, depth + 1);
                return below.iter().rev().fold(path, |path, name| path.join(name));
            }
            at = dir;
        }
        origin.clone()
    }
}

/// When the store was first used, as far as the record tells.
fn begin(kv: &dyn Kv) -> Result<Time> {
    const HASH: usize = 32;
    let mut time = Time::default();
    let (from, to) = keys::events_from(Seq(1));
    kv.scan(Table::Events, &from, &to, &mut |key, value| {
        let event = value.get(HASH..).unwrap_or_default();
        if let Ok(event) = codec::get_event(Seq(keys::last_number(key).unwrap_or(0)), event) {
            time = event.time;
        }
        ControlFlow::Break(())
    })?;
    Ok(time)
}

#[cfg(test)]
mod tests;
