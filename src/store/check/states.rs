//! Reading the states of inodes and names, of all epochs, with the rules that each of them keeps alone, and the index of changes.

use super::{Check, Facts, State, Use};
use crate::overlay::chunks::{CHUNK, Chunks};
use crate::store::codec::{self, Content, InodeRecord, Parent};
use crate::store::{Result, Table, keys};
use crate::types::{Attr, Epoch, Ino, Kind, Timeline};

impl Check<'_> {
    /// Needs the versions and their files.
    pub(super) fn read_states(&mut self) -> Result<()> {
        self.scan(Table::Tree, |c, key, value| match key.first() {
            Some(b'i') => c.read_inode(key, value),
            Some(b'd') => c.read_dentry(key, value),
            Some(b'n') => Ok(c.read_touched_inode(key)),
            Some(b'p') => Ok(c.read_touched_name(key)),
            // Read before.
            Some(b'v' | b'w' | b'x') => Ok(true),
            _ => Ok(false),
        })
    }

    fn read_inode(&mut self, key: &[u8], value: &[u8]) -> Result<bool> {
        let Some((ino, epoch)) = keys::parse_inode(key).filter(|_| key.len() == 25) else { return Ok(false) };
        let Some(timeline) = keys::timeline_of(key) else { return Ok(false) };
        let mut facts = None;
        if !value.is_empty() {
            let record = codec::get_inode(ino, value)?;
            self.record(ino, epoch, &record);
            facts = Some(Facts {
                kind: record.attr.kind,
                nlink: record.attr.nlink,
                born: record.origin.is_none(),
                base_path: record.origin.filter(|_| record.attr.kind == Kind::Dir).map(|o| o.path),
            });
        }
        self.found.numbers.insert(ino);
        let changes = self.found.changes.entry((timeline, epoch)).or_default();
        changes.inodes.insert(ino, State { value: facts, indexed: false });
        Ok(true)
    }

    fn read_dentry(&mut self, key: &[u8], value: &[u8]) -> Result<bool> {
        let Some((dir, name, epoch)) = keys::parse_dentry(key) else { return Ok(false) };
        let Some(timeline) = keys::timeline_of(key) else { return Ok(false) };
        let value = if value.is_empty() { None } else { Some(codec::get_dentry(value)?) };
        let changes = self.found.changes.entry((timeline, epoch)).or_default();
        changes.names.insert((dir, name.into()), State { value, indexed: false });
        Ok(true)
    }

    fn read_touched_inode(&mut self, key: &[u8]) -> bool {
        let Some((timeline, epoch)) = keys::parse_touched(key).filter(|_| key.len() == 25) else { return false };
        let Some(ino) = keys::last_number(key).map(Ino) else { return false };
        match self.found.changes.get_mut(&(timeline, epoch)).and_then(|c| c.inodes.get_mut(&ino)) {
            Some(state) => state.indexed = true,
            None => self.note(format!("the index has a change of inode {ino} in epoch {epoch} that is not there")),
        }
        true
    }

    fn read_touched_name(&mut self, key: &[u8]) -> bool {
        let Some((timeline, epoch)) = keys::parse_touched(key) else { return false };
        let Some((dir, name)) = keys::parse_touched_name(key) else { return false };
        match self.found.changes.get_mut(&(timeline, epoch)).and_then(|c| c.names.get_mut(&(dir, name.into()))) {
            Some(state) => state.indexed = true,
            None => {
                let name = String::from_utf8_lossy(name).into_owned();
                self.note(format!(
                    "the index has a change of {name:?} in directory {dir} in epoch {epoch} that is not there"
                ));
            }
        }
        true
    }

    /// What is not in the index of changes is not found by diff and rewind.
    pub(super) fn index(&mut self) {
        let mut wrong = Vec::new();
        for (&(timeline, epoch), changes) in &self.found.changes {
            let at = |timeline: Timeline| format!("in epoch {epoch} of timeline {timeline}");
            for ino in changes.inodes.iter().filter(|(_, state)| !state.indexed).map(|(ino, _)| ino) {
                wrong.push(format!("the change of inode {ino} {} is not in the index", at(timeline)));
            }
            for (dir, name) in changes.names.iter().filter(|(_, state)| !state.indexed).map(|(key, _)| key) {
                let name = String::from_utf8_lossy(name);
                wrong.push(format!("the change of {name:?} in directory {dir} {} is not in the index", at(timeline)));
            }
        }
        self.report.problems.append(&mut wrong);
    }

    /// The rules that a record keeps alone.
    fn record(&mut self, ino: Ino, epoch: Epoch, record: &InodeRecord) {
        let born = record.origin.is_none();
        if born && !ino.is_allocated() {
            self.problem(format!("inode {ino} has a number of the base, but is not in it"));
        }
        if born && record.attr.nlink == 0 {
            self.problem(format!("inode {ino} has a record but no link"));
        }
        if record.attr.kind == Kind::Symlink && born && record.target.is_none() {
            self.problem(format!("symbolic link {ino} has no target"));
        }
        self.content(ino, epoch, record);
    }

    fn content(&mut self, ino: Ino, epoch: Epoch, record: &InodeRecord) {
        let Attr { kind, size, blocks, .. } = record.attr;
        let (id, stamp) = match record.content {
            Content::None if kind == Kind::File && size > 0 => {
                return self.problem(format!("file {ino} has {size} bytes but no content"));
            }
            Content::None => return,
            _ if kind != Kind::File => return self.problem(format!("inode {ino} has content but is no file")),
            Content::Base if record.origin.is_none() => {
                return self.problem(format!("file {ino} has the base's content but is not in it"));
            }
            Content::Base => return,
            Content::Version { id, stamp } => (id, stamp),
        };
        let Some(version) = self.found.versions.get(&id).copied() else {
            self.found.used.insert(id, Use { ino, stamp, epoch, writer: None });
            return self.problem(format!("version {id} of file {ino} has no record"));
        };
        if version.limit > size {
            let limit = version.limit;
            self.problem(format!("version {id} shows {limit} bytes of its parent, file {ino} has {size}"));
        }
        if version.parent == Parent::Base && record.origin.is_none() {
            self.problem(format!("version {id} lies over the base, but file {ino} is not in it"));
        }
        if version.epoch > epoch {
            self.problem(format!("file {ino} has version {id} of epoch {} in epoch {epoch} already", version.epoch));
        }
        // Blocks beyond those that the parent may account for were counted in the version's own file.
        let own = self.found.chunks.get(&id).map_or(0, Chunks::count).saturating_mul(CHUNK);
        let shown = version.limit.saturating_sub(own).div_ceil(512);
        if blocks > shown && !self.found.files.contains(&id) {
            self.problem(format!("version {id} of file {ino} has lost its bytes"));
        }
        let used = self.found.used.entry(id).or_insert(Use { ino, stamp, epoch, writer: None });
        let mut wrong = Vec::new();
        // Only the epoch of a version may change it; all states since then have the same bytes.
        if used.stamp != stamp {
            let (one, two) = (used.epoch.min(epoch), used.epoch.max(epoch));
            wrong.push(format!("version {id} was changed between the epochs {one} and {two}, after it was sealed"));
        }
        used.epoch = used.epoch.min(epoch);
        // Sealed bytes may be shared, by a copy that was brought back beside its original.
        if version.epoch == epoch && epoch > Epoch::BASE {
            if let Some(other) = used.writer.filter(|&other| other != ino) {
                wrong.push(format!("version {id} belongs to the inodes {other} and {ino}"));
            }
            used.writer = Some(ino);
        }
        self.report.problems.append(&mut wrong);
    }
}
