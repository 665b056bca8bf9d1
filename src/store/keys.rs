//! Every key of the store in one place. Numbers in keys are big-endian, so that byte order is number order.
//!
//! | table  | key                                             | value                    | why this order |
//! |--------|-------------------------------------------------|--------------------------|----------------|
//! | meta   | `c` counter                                     | u64                      | first number not reserved yet |
//! | meta   | `a` actor                                       | actor                    | by id |
//! | meta   | `h` version, ino, stamp                         | 32 bytes                 | content hash; version 0 is the base |
//! | meta   | `f` device, ino, birth time                     | u64                      | numbers given to base files of other devices |
//! | meta   | `t` version                                     | empty                    | version files to delete |
//! | meta   | `m`                                             | mount record             | present while a daemon runs: still there after a crash |
//! | meta   | `s` epoch                                       | snapshot                 | the epoch that it sealed |
//! | meta   | `l` timeline                                    | timeline                 | by number |
//! | meta   | `u` operation                                   | operation                | what undo can take back, in order |
//! | meta   | `y`                                             | u64 timeline             | what the mount in place shows, if it is not the first |
//! | meta   | `k` operation, step                             | kept                     | what an apply destroyed in the base |
//! | meta   | `b` timeline, ino                               | path                     | applied there: leaves the overlay at the next mount |
//! | tree   | `i` timeline, ino, !epoch                       | inode                    | newest epoch first |
//! | tree   | `d` timeline, dir, name, 0, !epoch              | dentry                   | one directory is one range; names hold no NUL |
//! | tree   | `v` version                                     | version                  | by id |
//! | tree   | `x` version, first chunk                        | u64 chunks               | one version's own chunks are one range |
//! | tree   | `w` version                                     | extents                  | what lies under a version whose parent is a map |
//! | tree   | `n` timeline, epoch, ino                        | path                     | what changed in an epoch: inodes |
//! | tree   | `p` timeline, epoch, dir, name                  | path                     | what changed in an epoch: names |
//! | events | `e` seq                                         | chain hash, event        | order of commit |

use crate::types::{ActorId, Epoch, Ino, Seq, Timeline, VersionId};

/// A key that is about to be used; all but directory entries fit without an allocation.
pub type Key = smallvec::SmallVec<[u8; 36]>;

fn key(tag: u8, parts: &[u64]) -> Key {
    let mut key = Key::new();
    key.push(tag);
    for part in parts {
        key.extend_from_slice(&part.to_be_bytes());
    }
    key
}

pub fn counter(which: u8) -> Key {
    Key::from_slice(&[b'c', which])
}

pub fn actor(id: ActorId) -> Key {
    key(b'a', &[id.0])
}

/// All actors: `[from, to)`.
pub fn actors() -> (Key, Key) {
    (Key::from_slice(b"a"), Key::from_slice(b"b"))
}

pub fn hash(version: VersionId, ino: Ino, stamp: u64) -> Key {
    key(b'h', &[version.0, ino.0, stamp])
}

pub fn foreign(dev: u64, ino: u64, born: u64) -> Key {
    key(b'f', &[dev, ino, born])
}

/// All those of one device.
pub fn all_foreign(dev: u64) -> (Key, Key) {
    (key(b'f', &[dev]), key(b'f', &[dev, u64::MAX, u64::MAX]))
}

/// The inode number in the base in a key of [`foreign`].
pub fn parse_foreign(key: &[u8]) -> Option<u64> {
    number_at(key, 9)
}

pub fn trash(version: VersionId) -> Key {
    key(b't', &[version.0])
}

pub fn all_trash() -> (Key, Key) {
    (Key::from_slice(b"t"), Key::from_slice(b"u"))
}

pub fn mounted() -> Key {
    Key::from_slice(b"m")
}

pub fn inode(timeline: Timeline, ino: Ino, epoch: Epoch) -> Key {
    key(b'i', &[timeline.0, ino.0, !epoch.0])
}

/// The states of one inode up to `upto`, newest first. The number after the largest inode number does not exist, so this range has an end.
pub fn inode_states(timeline: Timeline, ino: Ino, upto: Epoch) -> (Key, Key) {
    (inode(timeline, ino, upto), key(b'i', &[timeline.0, ino.0.saturating_add(1)]))
}

pub fn all_inodes(timeline: Timeline) -> (Key, Key) {
    (key(b'i', &[timeline.0]), key(b'i', &[timeline.0 + 1]))
}

pub fn dentry(timeline: Timeline, dir: Ino, name: &[u8], epoch: Epoch) -> Key {
    let mut key = key(b'd', &[timeline.0, dir.0]);
    key.extend_from_slice(name);
    key.push(0);
    key.extend_from_slice(&(!epoch.0).to_be_bytes());
    key
}

/// The states of one name up to `upto`, newest first.
pub fn dentry_states(timeline: Timeline, dir: Ino, name: &[u8], upto: Epoch) -> (Key, Key) {
    let mut to = key(b'd', &[timeline.0, dir.0]);
    to.extend_from_slice(name);
    to.push(1);
    (dentry(timeline, dir, name, upto), to)
}

pub fn dentries(timeline: Timeline, dir: Ino) -> (Key, Key) {
    (key(b'd', &[timeline.0, dir.0]), key(b'd', &[timeline.0, dir.0.saturating_add(1)]))
}

pub fn all_dentries(timeline: Timeline) -> (Key, Key) {
    (key(b'd', &[timeline.0]), key(b'd', &[timeline.0 + 1]))
}

/// The list of changed base inodes that format 1 kept.
pub fn old_origins() -> (Key, Key) {
    (Key::from_slice(b"o"), Key::from_slice(b"p"))
}

pub fn touched_inode(timeline: Timeline, epoch: Epoch, ino: Ino) -> Key {
    key(b'n', &[timeline.0, epoch.0, ino.0])
}

/// The inodes that changed in the epochs from `first` up to `upto`.
pub fn touched_inodes(timeline: Timeline, first: Epoch, upto: Epoch) -> (Key, Key) {
    (key(b'n', &[timeline.0, first.0]), key(b'n', &[timeline.0, upto.0.saturating_add(1)]))
}

pub fn touched_name(timeline: Timeline, epoch: Epoch, dir: Ino, name: &[u8]) -> Key {
    let mut key = key(b'p', &[timeline.0, epoch.0, dir.0]);
    key.extend_from_slice(name);
    key
}

/// The names that changed in the epochs from `first` up to `upto`.
pub fn touched_names(timeline: Timeline, first: Epoch, upto: Epoch) -> (Key, Key) {
    (key(b'p', &[timeline.0, first.0]), key(b'p', &[timeline.0, upto.0.saturating_add(1)]))
}

/// The directory and name in a key of [`touched_name`].
pub fn parse_touched_name(key: &[u8]) -> Option<(Ino, &[u8])> {
    Some((Ino(number_at(key, 17)?), key.get(25..)?))
}

pub fn snapshot(epoch: Epoch) -> Key {
    key(b's', &[epoch.0])
}

pub fn all_snapshots() -> (Key, Key) {
    (Key::from_slice(b"s"), Key::from_slice(b"t"))
}

pub fn timeline(timeline: Timeline) -> Key {
    key(b'l', &[timeline.0])
}

pub fn all_timelines() -> (Key, Key) {
    (Key::from_slice(b"l"), Key::from_slice(b"m"))
}

/// The timeline that the mount in place shows.
pub fn shown() -> Key {
    Key::from_slice(b"y")
}

pub fn operation(id: u64) -> Key {
    key(b'u', &[id])
}

pub fn all_operations() -> (Key, Key) {
    (Key::from_slice(b"u"), Key::from_slice(b"v"))
}

/// What an apply kept of one of its steps.
pub fn kept(plan: u64, step: u64) -> Key {
    key(b'k', &[plan, step])
}

/// What all applies kept.
pub fn everything_kept() -> (Key, Key) {
    (Key::from_slice(b"k"), Key::from_slice(b"l"))
}

/// The number in a key of [`kept`].
pub fn parse_kept(key: &[u8]) -> Option<u64> {
    number_at(key, 1)
}

pub fn all_kept(plan: u64) -> (Key, Key) {
    (key(b'k', &[plan]), key(b'k', &[plan.saturating_add(1)]))
}

/// A file that was applied: it leaves the overlay for good at the next mount.
pub fn applied(timeline: Timeline, ino: Ino) -> Key {
    key(b'b', &[timeline.0, ino.0])
}

pub fn all_applied(timeline: Timeline) -> (Key, Key) {
    (key(b'b', &[timeline.0]), key(b'b', &[timeline.0.saturating_add(1)]))
}

/// What an agent wrote of itself: `kind` is `s` for a session, `p` for a prompt, `c` for a tool call. Agents' ids are of any length, so their hash stands for them.
pub fn said(kind: u8, agent: &str, session: &str, id: &str) -> Key {
    let mut hasher = blake3::Hasher::new();
    for part in [agent, session, id] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut key = Key::from_slice(&[b'q', kind]);
    key.extend_from_slice(hasher.finalize().as_bytes().get(..16).unwrap_or_default());
    key
}

/// All of one kind: `[from, to)`.
pub fn all_said(kind: u8) -> (Key, Key) {
    (Key::from_slice(&[b'q', kind]), Key::from_slice(&[b'q', kind.saturating_add(1)]))
}

pub fn extents(version: VersionId) -> Key {
    key(b'w', &[version.0])
}

pub fn version(id: VersionId) -> Key {
    key(b'v', &[id.0])
}

pub fn all_versions() -> (Key, Key) {
    (Key::from_slice(b"v"), Key::from_slice(b"w"))
}

pub fn chunk(version: VersionId, first: u64) -> Key {
    key(b'x', &[version.0, first])
}

pub fn chunks(version: VersionId) -> (Key, Key) {
    (key(b'x', &[version.0]), key(b'x', &[version.0.saturating_add(1)]))
}

pub fn event(seq: Seq) -> Key {
    key(b'e', &[seq.0])
}

pub fn events_from(seq: Seq) -> (Key, Key) {
    (event(seq), Key::from_slice(b"f"))
}

fn number_at(key: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(at..at + 8)?.try_into().ok()?))
}

/// The timeline in a key of the tree that begins with one.
pub fn timeline_of(key: &[u8]) -> Option<Timeline> {
    Some(Timeline(number_at(key, 1)?))
}

/// The timeline and epoch in a key of [`touched_inode`] or [`touched_name`].
pub fn parse_touched(key: &[u8]) -> Option<(Timeline, Epoch)> {
    Some((timeline_of(key)?, Epoch(number_at(key, 9)?)))
}

/// The last number of a key made of numbers only.
pub fn last_number(key: &[u8]) -> Option<u64> {
    number_at(key, key.len().checked_sub(8)?)
}

/// The inode and epoch in a key of [`inode`].
pub fn parse_inode(key: &[u8]) -> Option<(Ino, Epoch)> {
    Some((Ino(number_at(key, 9)?), Epoch(!number_at(key, 17)?)))
}

/// The directory, name and epoch in a key of [`dentry`].
pub fn parse_dentry(key: &[u8]) -> Option<(Ino, &[u8], Epoch)> {
    let end = key.len().checked_sub(9)?;
    if key.get(end) != Some(&0) {
        return None;
    }
    Some((Ino(number_at(key, 9)?), key.get(17..end)?, Epoch(!number_at(key, end + 1)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_documented() {
        let t = Timeline::MAIN;
        assert!(inode(t, Ino(5), Epoch(2)) < inode(t, Ino(5), Epoch(1)), "newest epoch first");
        assert!(inode(t, Ino(5), Epoch(1)) < inode(t, Ino(6), Epoch(9)));
        assert!(dentry(t, Ino(5), b"a", Epoch(1)) < dentry(t, Ino(5), b"a\x01", Epoch(9)));
        let (from, to) = dentries(t, Ino(5));
        let inside = dentry(t, Ino(5), &[0xff; 255], Epoch(0));
        assert!(from < inside && inside < to);
        assert!(event(Seq(255)) < event(Seq(256)));
    }

    #[test]
    fn keys_parse_back() {
        let t = Timeline::MAIN;
        assert_eq!(parse_inode(&inode(t, Ino(7), Epoch(3))), Some((Ino(7), Epoch(3))));
        assert_eq!(parse_dentry(&dentry(t, Ino(7), b"x\xff", Epoch(3))), Some((Ino(7), &b"x\xff"[..], Epoch(3))));
        assert_eq!(parse_dentry(b"d"), None);
        assert_eq!(last_number(&event(Seq(9))), Some(9));
    }
}
