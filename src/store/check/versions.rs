//! The rules about versions: what lies under them, who uses them, and which are to be deleted. Knows no names.

use std::collections::BTreeSet;

use super::Check;
use crate::overlay::extents::{Extents, Source};
use crate::store::codec::{self, Parent};
use crate::store::{Result, Table, keys};
use crate::types::{Epoch, VersionId};

impl Check<'_> {
    pub(super) fn read_versions(&mut self) -> Result<()> {
        self.scan(Table::Tree, |c, key, value| {
            match (key.first(), key.len()) {
                (Some(b'v'), 9) => {
                    let id = VersionId(keys::last_number(key).unwrap_or(0));
                    c.found.versions.insert(id, codec::get_version(value)?);
                }
                (Some(b'w'), 9) => {
                    let id = VersionId(keys::last_number(key).unwrap_or(0));
                    let extents = Extents::decode(value)?;
                    let mut sources: Vec<VersionId> = extents
                        .iter()
                        .filter_map(|e| match e.source {
                            Source::Version(id) => Some(id),
                            Source::Base => None,
                        })
                        .collect();
                    sources.sort_unstable();
                    sources.dedup();
                    c.found.sources.insert(id, sources);
                }
                (Some(b'x'), 17) => {
                    let Ok(count) = <[u8; 8]>::try_from(value).map(u64::from_le_bytes) else { return Ok(false) };
                    let id = key.get(1..9).and_then(keys::last_number).unwrap_or(0);
                    let first = keys::last_number(key).unwrap_or(0);
                    c.found.chunks.entry(VersionId(id)).or_default().insert(first, count);
                }
                (Some(b'v' | b'w' | b'x'), _) => return Ok(false),
                _ => {}
            }
            Ok(true)
        })
    }

    /// The versions that must be there to read one of `from`: those themselves, and all that lie below.
    fn closure(&self, from: impl Iterator<Item = VersionId>) -> BTreeSet<VersionId> {
        let found = &self.found;
        let mut needed = BTreeSet::new();
        let mut pending: Vec<VersionId> = from.collect();
        while let Some(id) = pending.pop() {
            if !needed.insert(id) {
                continue;
            }
            match found.versions.get(&id).map(|v| v.parent) {
                Some(Parent::Version(parent)) => pending.push(parent),
                Some(Parent::Map) => pending.extend(found.sources.get(&id).into_iter().flatten()),
                Some(Parent::None | Parent::Base) | None => {}
            }
        }
        needed
    }

    pub(super) fn versions(&mut self) {
        self.report.versions = self.found.versions.len() as u64;
        let (mut wrong, mut notes) = (Vec::new(), Vec::new());
        let found = &self.found;
        let needed = self.closure(found.used.keys().chain(&found.trash).copied());
        let newest = found.timelines.values().map(|t| t.head).max().unwrap_or_default();
        for (&id, version) in &found.versions {
            if version.epoch > newest {
                wrong.push(format!("version {id} is of epoch {}, which has not begun", version.epoch));
            }
            if !needed.contains(&id) {
                let text = format!("version {id} of inode {} belongs to no file", version.ino);
                if found.is_open(version.epoch) {
                    wrong.push(text);
                } else if version.epoch > Epoch::BASE || !found.kept {
                    // What an apply kept is named by its operation, in words of its own.
                    // A collection that was cut short leaves it; the next one takes it.
                    notes.push(text);
                }
            }
            // What is to be deleted goes in any order.
            if found.trash.contains(&id) {
                continue;
            }
            match version.parent {
                Parent::None | Parent::Base => {}
                // Numbers grow, so parents that are always older cannot form a cycle.
                Parent::Version(parent) if parent >= id => {
                    wrong.push(format!("version {id} lies over version {parent}, which is not older"));
                }
                Parent::Version(parent) if !found.versions.contains_key(&parent) => {
                    wrong.push(format!("version {id} lies over version {parent}, which has no record"));
                }
                Parent::Version(_) => {}
                Parent::Map => match found.sources.get(&id) {
                    None => wrong.push(format!("version {id} has lost the extents below it")),
                    Some(sources) => {
                        for source in sources.iter().filter(|s| **s == id || !found.versions.contains_key(s)) {
                            wrong.push(format!("version {id} shows bytes of version {source}, which has no record"));
                        }
                    }
                },
            }
        }
        for (id, what) in
            found.chunks.keys().map(|id| (id, "chunks")).chain(found.sources.keys().map(|id| (id, "extents")))
        {
            if !found.versions.contains_key(id) {
                wrong.push(format!("version {id} has {what} but no record"));
            }
        }
        self.report.problems.append(&mut wrong);
        self.report.notes.append(&mut notes);
    }

    pub(super) fn trash(&mut self) {
        let found = &self.found;
        let needed = self.closure(found.used.keys().copied());
        let mut wrong = Vec::new();
        for id in &found.trash {
            if let Some(used) = found.used.get(id) {
                wrong.push(format!("version {id} is to be deleted, but file {} uses it", used.ino));
            } else if needed.contains(id) {
                wrong.push(format!("version {id} is to be deleted, but other versions lie over it"));
            } else if !found.versions.contains_key(id) {
                wrong.push(format!("version {id} is to be deleted, but has no record"));
            }
        }
        self.report.problems.append(&mut wrong);
    }
}
