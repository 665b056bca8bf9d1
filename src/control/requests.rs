//! What the requests of the protocol say: plain data, without any of its meaning.

use serde::{Deserialize, Serialize};

use crate::query::chosen::Chosen;

/// One more mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountRequest {
    /// Where, in hexadecimal.
    pub at: String,
    /// What it shows; with neither of the two, what is shown in place.
    pub timeline: Option<String>,
    pub snapshot: Option<String>,
    /// How it records; as the others, if it is not given.
    pub record: Option<String>,
}

/// Timelines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimelineRequest {
    List,
    /// `from` is a point in time, or another timeline; the present otherwise.
    Fork {
        name: String,
        from: Option<String>,
    },
    Switch {
        name: String,
    },
    Delete {
        name: String,
    },
}

/// Which snapshots are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotsFilter {
    /// Those of all timelines, not of the one that is shown.
    pub all: bool,
    /// The newest so many; 0 means all.
    pub newest: usize,
    /// Only this one: an id, a label or another name.
    pub one: Option<String>,
    /// Without counting what changed.
    pub brief: bool,
}

/// Where to go back to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rewind {
    pub to: String,
    /// To what these steps changed, instead; then nothing is in `to`.
    pub chosen: Chosen,
    /// Only these, relative to the root, in hexadecimal; none means everything.
    pub paths: Vec<String>,
    /// Say what would happen, and do nothing.
    pub dry_run: bool,
}

/// What to merge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Merge {
    /// The timeline whose changes are brought here.
    pub timeline: String,
    /// What to take where both changed something: ours, or theirs. Neither means that nothing is done then.
    pub ours: bool,
    pub theirs: bool,
    /// Say what would happen, and do nothing.
    pub dry_run: bool,
}

/// What to take back, or to do again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Undo {
    pub redo: bool,
    /// Also where the same files were changed since.
    pub force: bool,
}

/// What to bring into the base.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Apply {
    /// Only these, relative to the root, in hexadecimal; none means everything.
    pub paths: Vec<String>,
    /// The state to bring over; nothing means now.
    pub from: Option<String>,
    /// Only what changed between these two.
    pub only: Option<(String, String)>,
    /// Only what these steps changed.
    pub chosen: Chosen,
    pub dry_run: bool,
    /// Overwrite what changed in the base meanwhile.
    pub ours: bool,
    /// Leave what changed in the base meanwhile as it is.
    pub theirs: bool,
}

/// History for git.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Export {
    /// Nothing means the base.
    pub from: Option<String>,
    /// Nothing means now.
    pub to: Option<String>,
    /// Also what git ignores.
    pub all: bool,
    /// All of the range at once.
    pub single: bool,
    /// What these steps changed, at once and instead of a range.
    pub chosen: Chosen,
    /// As commits on a new branch of this name; otherwise as patches.
    pub branch: Option<String>,
}

/// Commits from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bring {
    pub branch: String,
    /// The newest commit and the file with a pack, its path in hexadecimal. Without: what the repository has already is told.
    pub tip: Option<String>,
    pub pack: String,
}

/// What to keep of the past.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gc {
    /// How long snapshots that nobody asked for are kept; nothing means for ever.
    pub keep_seconds: Option<u64>,
    /// How many bytes the store may take; nothing means no limit.
    pub max_size: Option<u64>,
    pub dry_run: bool,
}
