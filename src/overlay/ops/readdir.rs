//! Listing a directory: the base's entries without what is covered, and the overlay's own.

use crate::overlay::{Inode, Overlay, Result};
use crate::store::codec::Dentry;
use crate::types::{Ino, Kind, Name};

/// One line of a listing.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: Name,
    /// As far as it is known without looking the entry up.
    pub ino: Ino,
    pub kind: Kind,
}

impl Overlay {
    /// Everything in `dir`, without `.` and `..`, in no particular but repeatable order.
    pub fn list(&self, dir: &Inode) -> Result<Vec<Entry>> {
        self.ensure_loaded(dir)?;
        let state = dir.state.read();
        let mut entries = Vec::new();
        let changes = state.dir.as_ref().map(|d| &d.entries);
        if state.shows_base()
            && let Some(origin) = &state.origin
        {
            let listed = self.base.list(&origin.path)?;
            entries.reserve(listed.len());
            for entry in listed {
                if changes.is_some_and(|c| c.contains_key(&entry.name)) {
                    continue;
                }
                // A number that the log knows may have been another file's.
                let known = self.changed.read().contains(&Ino(entry.ino));
                let (ino, kind) = match entry.kind {
                    Some(kind) if !known => (Ino(entry.ino), kind),
                    // Gone since: then it is not listed.
                    _ => match self.base.stat(&origin.path, &entry.name) {
                        Ok(stat) => (if known { self.number(&stat)? } else { Ino(entry.ino) }, stat.attr.kind),
                        Err(_) => continue,
                    },
                };
                entries.push(Entry { name: entry.name, ino, kind });
            }
        }
        if let Some(changes) = changes {
            let from = entries.len();
            entries.extend(changes.iter().filter_map(|(name, dentry)| match dentry {
                Dentry::Entry { ino, kind } => Some(Entry { name: name.clone(), ino: *ino, kind: *kind }),
                Dentry::Whiteout { .. } => None,
            }));
            entries[from..].sort_unstable_by(|a, b| a.name.cmp(&b.name));
        }
        Ok(entries)
    }

    /// Whether nothing is in `dir`.
    pub(crate) fn is_empty(&self, dir: &Inode) -> Result<bool> {
        Ok(self.list(dir)?.is_empty())
    }
}
