//! git's index as it is on disk, versions 2 and 3: which files it knows, and what they looked like when it last read them.
//!
//! Documentation/gitformat-index.txt of git. Pure.

use crate::types::{Attr, Kind, Time};

/// A file that git knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: Vec<u8>,
    /// It counts as it is whatever is on disk: a submodule, or the user said so (sparse checkouts, `--assume-unchanged`).
    pub is_pinned: bool,
    /// Git has read it, and nothing was in the way.
    is_known: bool,
    mode: u32,
    ctime: (u32, u32),
    mtime: (u32, u32),
    ino: u32,
    size: u32,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_be_bytes)
}

/// The entries of an index; `None` when it has another form. `hash` is the length of an object's name, bytes.
pub fn parse(bytes: &[u8], hash: usize) -> Option<Vec<Entry>> {
    let version = u32_at(bytes, 4)?;
    if bytes.get(..4)? != b"DIRC" || !matches!(version, 2 | 3) {
        return None;
    }
    let mut entries = Vec::new();
    let mut at = 12_usize;
    for _ in 0..u32_at(bytes, 8)? {
        let field = |n: usize| u32_at(bytes, at + 4 * n);
        let flags_at = at + 40 + hash;
        let flags = u16::from_be_bytes(bytes.get(flags_at..flags_at + 2)?.try_into().ok()?);
        let (mut path_at, mut more) = (flags_at + 2, 0);
        if flags & 0x4000 != 0 {
            more = u16::from_be_bytes(bytes.get(path_at..path_at + 2)?.try_into().ok()?);
            path_at += 2;
        }
        let len = bytes.get(path_at..)?.iter().position(|&b| b == 0)?;
        let mode = field(6)?;
        let (assumed, skipped, intended) = (flags & 0x8000 != 0, more & 0x4000 != 0, more & 0x2000 != 0);
        let stage = flags & 0x3000;
        entries.push(Entry {
            path: bytes.get(path_at..path_at + len)?.to_vec(),
            is_pinned: assumed || skipped || mode & 0o170_000 == 0o160_000,
            is_known: stage == 0 && !intended,
            mode,
            ctime: (field(0)?, field(1)?),
            mtime: (field(2)?, field(3)?),
            ino: field(5)?,
            size: field(9)?,
        });
        // Padded with one to eight zero bytes to a multiple of eight.
        at += (path_at + len - at) / 8 * 8 + 8;
    }
    Some(entries)
}

impl Entry {
    /// Whether a file, with the number `ino` on disk, is surely what git has read: in doubt it is not. `written` is when the index was written: what was changed since may look the same.
    pub fn is_of(&self, attr: &Attr, ino: u64, written: Time) -> bool {
        if self.is_pinned {
            return true;
        }
        let kind = match attr.kind {
            Kind::Symlink => 0o120_000,
            Kind::File if attr.perm & 0o100 != 0 => 0o100_755,
            Kind::File => 0o100_644,
            _ => return false,
        };
        // git may have been built without nanoseconds, or be told not to look at the ctime; then it is read again.
        let same = |time: Time, known: (u32, u32)| (time.secs as u32, time.nanos) == known;
        self.is_known
            && self.mode == kind
            && self.size == attr.size as u32
            && self.ino == ino as u32
            && same(attr.mtime, self.mtime)
            && same(attr.ctime, self.ctime)
            && attr.mtime < written
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    use super::*;
    use crate::types::Ino;

    #[test]
    fn reads_what_git_writes() {
        let dir = tempfile::tempdir().unwrap();
        let git = |arguments: &[&str]| {
            let output = Command::new("git").args(arguments).current_dir(dir.path()).output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        git(&["init", "-q"]);
        for (name, text) in [("a", "one"), ("b-with-a-long-name", "two"), ("c", ""), ("dir", "x")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        git(&["add", "."]);
        let read = || parse(&std::fs::read(dir.path().join(".git/index")).unwrap(), 20).unwrap();
        let paths = |entries: &[Entry]| entries.iter().map(|e| e.path.clone()).collect::<Vec<_>>();
        let entries = read();
        assert_eq!(paths(&entries), [&b"a"[..], b"b-with-a-long-name", b"c", b"dir"]);
        let attr = |name: &str| {
            let meta = std::fs::metadata(dir.path().join(name)).unwrap();
            Attr {
                ino: Ino(meta.ino()),
                kind: Kind::File,
                perm: 0o644,
                nlink: 1,
                uid: 0,
                gid: 0,
                rdev: 0,
                size: meta.size(),
                blocks: 0,
                atime: Time::default(),
                mtime: Time::new(meta.mtime(), meta.mtime_nsec() as u32),
                ctime: Time::new(meta.ctime(), meta.ctime_nsec() as u32),
            }
        };
        let later = Time::new(i64::MAX, 0);
        for entry in &entries {
            let attr = attr(std::str::from_utf8(&entry.path).unwrap());
            assert!(entry.is_of(&attr, attr.ino.0, later), "{entry:?} {attr:?}");
            assert!(
                !entry.is_of(&attr, attr.ino.0, attr.mtime),
                "it may have been changed after the index was written"
            );
            for other in [
                Attr { size: attr.size + 1, ..attr },
                Attr { mtime: Time::new(attr.mtime.secs, attr.mtime.nanos ^ 1), ..attr },
                Attr { perm: 0o755, ..attr },
                Attr { ino: Ino(attr.ino.0 + 1), ..attr },
            ] {
                assert!(!entry.is_of(&other, other.ino.0, later), "{other:?}");
            }
        }
        // With more flags the version is 3.
        git(&["update-index", "--skip-worktree", "c"]);
        git(&["update-index", "--assume-unchanged", "a"]);
        let entries = read();
        assert_eq!(entries.iter().map(|e| e.is_pinned).collect::<Vec<_>>(), [true, false, true, false]);
        assert_eq!(paths(&entries).len(), 4);
        let bytes = std::fs::read(dir.path().join(".git/index")).unwrap();
        // Cut short within its entries it is none; what follows them (extensions, the hash) differs between versions of git.
        for len in 0..bytes.len() {
            assert!(parse(&bytes[..len], 20).is_none() || len >= 4 * 72, "{len}");
        }
    }
}
