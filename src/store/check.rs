//! Whether a store is whole: every reference has its target, every number is below its counter, every value can be read,
//! and the record's chain is unbroken.
//!
//! Reads the store alone. It cannot know what the base has, so what only the base could prove wrong is not looked at. A
//! store is checked while nothing else changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::codec::{self, Content, Dentry, InodeRecord, Origin, Parent, VersionRecord};
use super::{Counter, Result, Store, Table, keys};
use crate::record::chain;
use crate::types::{Attr, Ino, Kind, Name, Path, Seq, VersionId, hex};

const CHUNK: u64 = crate::overlay::chunks::CHUNK;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What must not be.
    pub problems: Vec<String>,
    /// What is odd but harmless: left by a write that was never acknowledged.
    pub notes: Vec<String>,
    pub inodes: u64,
    pub dentries: u64,
    pub versions: u64,
    pub events: u64,
}

/// Checks everything; the event chain's hashes only with `log`, since that reads the whole record.
///
/// # Errors
/// When the store cannot be read at all. Whatever is wrong with what was read is in the report.
pub fn check(store: &Store, log: bool) -> Result<Report> {
    let mut check = Check { store, report: Report::default(), found: Found::default() };
    check.read_meta()?;
    check.read_tree()?;
    check.read_files()?;
    check.inodes();
    check.dentries();
    check.directories();
    check.versions();
    check.trash();
    check.counters()?;
    check.events(log)?;
    Ok(check.report)
}

/// The store's contents, the newest epoch of each.
#[derive(Default)]
struct Found {
    gone: BTreeSet<Ino>,
    gone_names: BTreeSet<(Ino, Name)>,
    inodes: BTreeMap<Ino, InodeRecord>,
    dentries: BTreeMap<(Ino, Name), Dentry>,
    origins: BTreeSet<Ino>,
    versions: BTreeMap<VersionId, VersionRecord>,
    /// Chunks that versions have themselves, counted.
    chunks: BTreeMap<VersionId, u64>,
    /// Versions that some state of an inode refers to, with whose it is.
    used: BTreeMap<VersionId, Ino>,
    trash: BTreeSet<VersionId>,
    files: BTreeSet<VersionId>,
    foreign: Vec<u64>,
    actors: Vec<u64>,
}

struct Check<'a> {
    store: &'a Store,
    report: Report,
    found: Found,
}

impl Check<'_> {
    fn problem(&mut self, text: String) {
        self.report.problems.push(text);
    }

    /// Hands every key and value of a table to `each`.
    fn scan(&mut self, table: Table, mut each: impl FnMut(&mut Self, &[u8], &[u8])) -> Result<()> {
        let store = self.store;
        store.kv.scan(table, &[], &[0xff; 8], &mut |key, value| {
            each(self, key, value);
            ControlFlow::Continue(())
        })
    }

    fn read_meta(&mut self) -> Result<()> {
        self.scan(Table::Meta, |c, key, value| match (key.first(), key.len(), value.len()) {
            (Some(b'c'), 2, 8) | (Some(b'h'), 25, 32) | (Some(b'm'), 1, _) | (Some(b's' | b'l' | b'u'), _, _) => {}
            (Some(b'a'), 9, 1..) => c.found.actors.extend(keys::last_number(key)),
            (Some(b't'), 9, 0) => c.found.trash.extend(keys::last_number(key).map(VersionId)),
            (Some(b'f'), 25, 8) => match <[u8; 8]>::try_from(value).map(u64::from_le_bytes) {
                Ok(number) => c.found.foreign.push(number),
                Err(_) => c.unreadable("meta", key),
            },
            _ => c.unreadable("meta", key),
        })
    }

    fn unreadable(&mut self, table: &str, key: &[u8]) {
        self.problem(format!("the {table} entry {} is unreadable", hex(key)));
    }

    fn read_tree(&mut self) -> Result<()> {
        self.scan(Table::Tree, |c, key, value| {
            let read = match key.first() {
                Some(b'i') => c.read_inode(key, value),
                Some(b'd') => c.read_dentry(key, value),
                Some(b'o') if key.len() == 17 => {
                    c.found.origins.extend(keys::last_number(key).map(Ino));
                    Ok(true)
                }
                Some(b'v') if key.len() == 9 => c.read_version(key, value),
                Some(b'x') if key.len() == 17 && value.len() == 8 => {
                    let version = key.get(1..9).and_then(keys::last_number);
                    let count = <[u8; 8]>::try_from(value).map(u64::from_le_bytes).unwrap_or(0);
                    let sum = c.found.chunks.entry(VersionId(version.unwrap_or(0))).or_default();
                    *sum = sum.saturating_add(count);
                    Ok(true)
                }
                Some(b'n' | b'p' | b'w') => Ok(true),
                _ => Ok(false),
            };
            match read {
                Ok(true) => {}
                Ok(false) => c.unreadable("tree", key),
                Err(error) => c.problem(format!("the tree entry {}: {error}", hex(key))),
            }
        })
    }

    fn read_inode(&mut self, key: &[u8], value: &[u8]) -> Result<bool> {
        let Some((ino, _)) = keys::parse_inode(key).filter(|_| key.len() == 25) else { return Ok(false) };
        if value.is_empty() {
            self.found.gone.insert(ino);
            return Ok(true);
        }
        let record = codec::get_inode(ino, value)?;
        if let Content::Version { id, .. } = record.content
            && let Some(other) = self.found.used.insert(id, ino).filter(|&other| other != ino)
        {
            self.problem(format!("version {id} belongs to the inodes {other} and {ino}"));
        }
        // Newest epoch first: what comes later is older.
        if record.attr.nlink == 0 {
            self.found.gone.insert(ino);
        }
        if !self.found.gone.contains(&ino) {
            self.found.inodes.entry(ino).or_insert(record);
        }
        Ok(true)
    }

    fn read_dentry(&mut self, key: &[u8], value: &[u8]) -> Result<bool> {
        let Some((dir, name, _)) = keys::parse_dentry(key) else { return Ok(false) };
        if value.is_empty() {
            self.found.gone_names.insert((dir, name.into()));
            return Ok(true);
        }
        let dentry = codec::get_dentry(value)?;
        if self.found.gone_names.contains(&(dir, Name::from(name))) || self.found.gone.contains(&dir) {
            return Ok(true);
        }
        self.found.dentries.entry((dir, name.into())).or_insert(dentry);
        Ok(true)
    }

    fn read_version(&mut self, key: &[u8], value: &[u8]) -> Result<bool> {
        let Some(id) = keys::last_number(key) else { return Ok(false) };
        self.found.versions.insert(VersionId(id), codec::get_version(value)?);
        Ok(true)
    }

    fn read_files(&mut self) -> Result<()> {
        for (id, len) in self.store.data.list()? {
            if !self.found.versions.contains_key(&id) {
                self.report.notes.push(format!("the file of version {id} ({len} bytes) has no record"));
            }
            self.found.files.insert(id);
        }
        Ok(())
    }

    fn inodes(&mut self) {
        let inodes = std::mem::take(&mut self.found.inodes);
        self.report.inodes = inodes.len() as u64;
        for (&ino, record) in &inodes {
            if record.origin.is_none() && !ino.is_allocated() {
                self.problem(format!("inode {ino} has a number of the base, but is not in it"));
            }
            if record.attr.nlink == 0 {
                self.problem(format!("inode {ino} has a record but no link"));
            }
            if record.attr.kind == Kind::Symlink && record.origin.is_none() && record.target.is_none() {
                self.problem(format!("symbolic link {ino} has no target"));
            }
            self.content(ino, record);
        }
        let lost: Vec<Ino> = self.found.origins.iter().copied().filter(|ino| !inodes.contains_key(ino)).collect();
        for ino in lost {
            self.problem(format!("base inode {ino} is listed as changed but has no record"));
        }
        self.found.inodes = inodes;
    }

    fn content(&mut self, ino: Ino, record: &InodeRecord) {
        let Attr { kind, size, blocks, .. } = record.attr;
        match record.content {
            Content::None if kind == Kind::File && size > 0 => {
                self.problem(format!("file {ino} has {size} bytes but no content"));
            }
            Content::None => {}
            _ if kind != Kind::File => self.problem(format!("inode {ino} has content but is no file")),
            Content::Base if record.origin.is_none() => {
                self.problem(format!("file {ino} has the base's content but is not in it"));
            }
            Content::Base => {}
            Content::Version { id, .. } => match self.found.versions.get(&id).copied() {
                None => self.problem(format!("version {id} of file {ino} has no record")),
                Some(version) => {
                    if version.limit > size {
                        let limit = version.limit;
                        self.problem(format!("version {id} shows {limit} bytes of its parent, file {ino} has {size}"));
                    }
                    if version.parent == Parent::Base && record.origin.is_none() {
                        self.problem(format!("version {id} lies over the base, but file {ino} is not in it"));
                    }
                    // Blocks beyond those that the parent may account for were counted in the version's own file.
                    let own = self.found.chunks.get(&id).copied().unwrap_or(0).saturating_mul(CHUNK);
                    let shown = version.limit.saturating_sub(own).div_ceil(512);
                    if blocks > shown && !self.found.files.contains(&id) {
                        self.problem(format!("version {id} of file {ino} has lost its bytes"));
                    }
                }
            },
        }
    }

    fn dentries(&mut self) {
        let dentries = std::mem::take(&mut self.found.dentries);
        let mut names: BTreeMap<Ino, u64> = BTreeMap::new();
        let mut subdirs: BTreeMap<Ino, u64> = BTreeMap::new();
        for ((dir, name), dentry) in &dentries {
            if self.found.gone.contains(dir) {
                continue;
            }
            let shown = || format!("{:?} in directory {dir}", String::from_utf8_lossy(name));
            match self.found.inodes.get(dir).map(|d| (d.attr.kind, d.origin.is_some())) {
                Some((Kind::Dir, of_base)) => {
                    if matches!(dentry, Dentry::Whiteout { .. }) && !of_base && *dir != Ino::ROOT {
                        self.problem(format!("{} covers nothing: the directory is not in the base", shown()));
                    }
                }
                Some(_) => self.problem(format!("{}: that is no directory", shown())),
                None => self.problem(format!("{}: the directory has no record", shown())),
            }
            let Dentry::Entry { ino, kind } = dentry else { continue };
            self.report.dentries += 1;
            *names.entry(*ino).or_default() += 1;
            if *kind == Kind::Dir {
                *subdirs.entry(*dir).or_default() += 1;
            }
            match self.found.inodes.get(ino).map(|i| i.attr.kind) {
                Some(has) if has == *kind => {}
                Some(has) => self.problem(format!("{} is a {kind:?}, its inode {ino} a {has:?}", shown())),
                None => self.problem(format!("{} points to inode {ino}, which has no record", shown())),
            }
        }
        self.found.dentries = dentries;
        let mut wrong = Vec::new();
        for (&ino, record) in self.found.inodes.iter().filter(|&(&ino, _)| ino != Ino::ROOT) {
            let (has, links) = (names.get(&ino).copied().unwrap_or(0), u64::from(record.attr.nlink));
            let born = record.origin.is_none();
            if has == 0 && (born || record.origin.as_ref().is_some_and(|o| self.lost_its_name(record.attr.kind, o))) {
                wrong.push(format!("inode {ino} has no name"));
            }
            if record.attr.kind == Kind::Dir {
                let inside = subdirs.get(&ino).copied().unwrap_or(0);
                if has > 1 {
                    wrong.push(format!("directory {ino} has {has} names"));
                }
                if born && links != inside + 2 {
                    wrong.push(format!("directory {ino} has {inside} directories in it but {links} links"));
                }
            } else if (born && links != has) || links < has {
                wrong.push(format!("inode {ino} has {has} names but {links} links"));
            }
        }
        self.report.problems.append(&mut wrong);
    }

    /// Whether the base name of an inode without any other is covered. A file may have more names in the base, which only the
    /// base knows.
    fn lost_its_name(&self, kind: Kind, origin: &Origin) -> bool {
        let Some((dir, name)) = origin.path.split_last() else { return false };
        let covered = |dir: Ino| self.found.dentries.contains_key(&(dir, Name::from(name)));
        kind == Kind::Dir && self.directory_of_base(&dir).is_some_and(covered)
    }

    /// The changed directory that has this path in the base.
    fn directory_of_base(&self, path: &Path) -> Option<Ino> {
        if path.as_bytes().is_empty() {
            return Some(Ino::ROOT);
        }
        let is_it = |r: &InodeRecord| r.attr.kind == Kind::Dir && r.origin.as_ref().is_some_and(|o| o.path == *path);
        self.found.inodes.iter().find(|(_, record)| is_it(record)).map(|(&ino, _)| ino)
    }

    /// Every directory's way up must end at the root: a loop would be a part of the tree that nobody can reach.
    fn directories(&mut self) {
        let entry = |(at, dentry): (&(Ino, Name), &Dentry)| match dentry {
            Dentry::Entry { ino, kind: Kind::Dir } => Some((*ino, at.0)),
            Dentry::Entry { .. } | Dentry::Whiteout { .. } => None,
        };
        let moved: BTreeMap<Ino, Ino> = self.found.dentries.iter().filter_map(entry).collect();
        let of_base: BTreeMap<&[u8], Ino> = self
            .found
            .inodes
            .iter()
            .filter(|(_, r)| r.attr.kind == Kind::Dir)
            .filter_map(|(&ino, r)| Some((r.origin.as_ref()?.path.as_bytes(), ino)))
            .collect();
        // One that has no entry is where the base has it: below the nearest changed directory on its base path.
        let above_in_base = |ino: &Ino| {
            let mut path = self.found.inodes.get(ino)?.origin.as_ref()?.path.clone();
            loop {
                path = path.split_last()?.0;
                if let Some(&ino) = of_base.get(path.as_bytes()) {
                    return Some(ino);
                }
            }
        };
        let mut good: BTreeSet<Ino> = BTreeSet::from([Ino::ROOT]);
        let mut loops = Vec::new();
        for &start in moved.keys() {
            let mut way = BTreeSet::new();
            let mut at = Some(start);
            while let Some(dir) = at.filter(|dir| !good.contains(dir)) {
                if !way.insert(dir) {
                    loops.push(format!("directory {dir} is inside itself"));
                    break;
                }
                at = moved.get(&dir).copied().or_else(|| above_in_base(&dir));
            }
            good.append(&mut way);
        }
        self.report.problems.append(&mut loops);
    }

    fn versions(&mut self) {
        let versions = std::mem::take(&mut self.found.versions);
        self.report.versions = versions.len() as u64;
        let mut needed: BTreeSet<VersionId> = BTreeSet::new();
        for &id in self.found.used.keys().chain(&self.found.trash) {
            let mut at = Some(id);
            while let Some(id) = at.filter(|&id| needed.insert(id)) {
                at = versions.get(&id).and_then(|v| match v.parent {
                    Parent::Version(parent) => Some(parent),
                    Parent::None | Parent::Base | Parent::Map => None,
                });
            }
        }
        for (&id, version) in &versions {
            if !needed.contains(&id) {
                self.problem(format!("version {id} of inode {} belongs to no file", version.ino));
            }
            if self.found.used.get(&id).is_some_and(|&ino| ino != version.ino) {
                self.problem(format!("version {id} says that it belongs to inode {}", version.ino));
            }
            if let Parent::Version(parent) = version.parent {
                match versions.get(&parent) {
                    None => self.problem(format!("version {id} lies over version {parent}, which has no record")),
                    Some(p) if p.ino != version.ino => {
                        self.problem(format!("version {id} lies over version {parent} of another file"));
                    }
                    // Numbers grow, so parents that are always older cannot form a cycle.
                    Some(_) if parent >= id => {
                        self.problem(format!("version {id} lies over version {parent}, which is not older"));
                    }
                    Some(_) => {}
                }
            }
        }
        let lost: Vec<VersionId> = self.found.chunks.keys().copied().filter(|id| !versions.contains_key(id)).collect();
        for id in lost {
            self.problem(format!("version {id} has chunks but no record"));
        }
        self.found.versions = versions;
    }

    fn trash(&mut self) {
        for id in std::mem::take(&mut self.found.trash) {
            if let Some(ino) = self.found.used.get(&id) {
                self.problem(format!("version {id} is to be deleted, but file {ino} uses it"));
            } else if !self.found.versions.contains_key(&id) {
                self.problem(format!("version {id} is to be deleted, but has no record"));
            }
        }
    }

    fn counters(&mut self) -> Result<()> {
        let found = &self.found;
        let numbers = |list: &mut dyn Iterator<Item = Ino>| {
            list.filter(|ino| ino.is_allocated()).map(|ino| ino.0 & !Ino::BORN).max().unwrap_or(0)
        };
        let ino = numbers(&mut found.inodes.keys().copied()).max(numbers(&mut found.foreign.iter().map(|&n| Ino(n))));
        let highest = |set: Option<VersionId>| set.map_or(0, |v| v.0);
        let version =
            highest(found.versions.keys().next_back().copied()).max(highest(found.files.iter().next_back().copied()));
        let actor = found.actors.iter().copied().max().unwrap_or(0);
        let mut wrong = Vec::new();
        for (which, highest) in [(Counter::Ino, ino), (Counter::Version, version), (Counter::Actor, actor)] {
            let stored = self.store.kv.get(Table::Meta, &keys::counter(which as u8))?;
            let next = stored.and_then(|v| <[u8; 8]>::try_from(v).ok()).map_or(1, u64::from_le_bytes);
            if highest >= next {
                wrong.push(format!("counter {which:?} is at {next}, but number {highest} is in use"));
            }
        }
        for number in found.foreign.iter().filter(|&&n| !Ino(n).is_allocated()) {
            wrong.push(format!("base files of other devices have the number {number}, which was not allocated"));
        }
        self.report.problems.append(&mut wrong);
        Ok(())
    }

    fn events(&mut self, log: bool) -> Result<()> {
        let mut last = Seq(0);
        let mut hash = chain::start(&self.store.format.id);
        let mut broken = false;
        self.scan(Table::Events, |c, key, value| {
            let Some(seq) = keys::last_number(key).map(Seq).filter(|_| key.len() == 9 && key.first() == Some(&b'e'))
            else {
                return c.unreadable("events", key);
            };
            c.report.events += 1;
            if seq.0 != last.0 + 1 {
                c.problem(format!("the record jumps from event {last} to event {seq}"));
            }
            last = seq;
            let Some((stored, event)) = value.split_at_checked(32) else { return c.unreadable("events", key) };
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
        })
    }
}

#[cfg(test)]
mod tests;
