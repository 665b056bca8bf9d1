//! The objects that commands on time print with `--json` (docs/JSON.md).

use serde::{Deserialize, Serialize};

/// A snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRow {
    pub id: String,
    pub epoch: u64,
    pub timeline: String,
    /// The snapshot before it; null for the first.
    pub previous: Option<String>,
    pub time: String,
    /// manual, step, before, fork or after.
    pub why: String,
    pub label: Option<String>,
    pub note: String,
    /// Files that differ from the snapshot before, the overlay's start for the first.
    pub changed_files: Option<u64>,
}

/// What a rewind, an undo or another move did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedRow {
    /// rewind, restore, discard, undo, redo, merge, switch, apply.
    pub op: String,
    /// False if it was only asked for what would happen, if nothing differs, and if it was refused.
    pub done: bool,
    /// The snapshot taken just before it: what was there is in it.
    pub before: Option<String>,
    /// The snapshot taken just after it.
    pub after: Option<String>,
    /// For people.
    pub note: String,
    /// Paths that changed.
    pub changed: u64,
    /// They changed in the repository on disk, not in the mount.
    #[serde(default)]
    pub repository: bool,
    /// The timeline that is in place from now on, of a switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<String>,
}

/// A path that such a move changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRow {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    /// `changed`; `kept` for a file that processes have open: they keep its old bytes; `conflict` of an apply or a merge; `note` of an apply.
    pub what: String,
    /// For people: why, of a conflict or a note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Of a merge: `merged` where the path becomes what neither side had; the kind of a conflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Where we moved a file to that they moved to `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ours: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ours_hex: Option<String>,
    /// Of a conflict between steps: which one was to be brought in, and which one it builds on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builds_on: Option<String>,
    /// The lines of a conflict.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<LinesRow>,
    /// Who has it open, for `kept`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<UserRow>,
}

/// Lines that two sides changed, of the text before, ours and theirs: from the first one (1 is the first of a text) up to but not including the second.
/// An empty range is before its line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinesRow {
    pub base: (u64, u64),
    pub ours: (u64, u64),
    pub theirs: (u64, u64),
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRow {
    pub pid: u32,
    pub comm: String,
}

/// A timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineRow {
    pub name: String,
    /// Whether the mount in place shows it.
    pub current: bool,
    /// The timeline and the snapshot that it forked from.
    pub parent: Option<String>,
    pub forked_at: Option<String>,
    pub created: Option<String>,
    pub snapshots: u64,
    /// Where it is mounted.
    pub mountpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mountpoint_hex: Option<String>,
}

/// A patch, or a commit that was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRow {
    /// The snapshot whose state it leads to; null for the present, and for commits that belong to none.
    pub snapshot: Option<String>,
    pub subject: String,
    /// Of a commit.
    pub commit: Option<String>,
    /// Of a patch: the file's name.
    pub file: Option<String>,
}

/// A branch that was made in the repository on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchRow {
    pub branch: String,
    pub tip: String,
    /// The commit that was checked out there; null if there was none.
    pub parent: Option<String>,
    pub commits: u64,
}

/// What the repository on disk has: names of objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownRow {
    pub objects: Vec<String>,
}

/// What a collection took away, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcRow {
    /// False if it was only asked for what would go.
    pub done: bool,
    pub snapshots: u64,
    /// Of inodes and names, in the log.
    pub states: u64,
    /// Of the bytes of files.
    pub versions: u64,
    /// Bytes on disk that these versions took.
    pub bytes: u64,
    /// Bytes on disk that the store takes now.
    pub store_bytes: u64,
    /// How many it may take; null for no limit.
    pub max_size: Option<u64>,
    /// How long snapshots that nobody asked for are kept; null for ever.
    pub keep_seconds: Option<u64>,
}
