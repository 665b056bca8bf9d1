//! The objects that `--json` prints (docs/JSON.md). Field names and meanings are stable; fields may be added.

use serde::{Deserialize, Serialize};

use crate::types::hex;

/// Bytes as text for people, and in hexadecimal when the text alone would lose something.
pub fn text(bytes: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(bytes).into_owned(), Some(hex(bytes))),
    }
}

/// A list of [`text`]s; the second list is there when one of them needs it.
pub fn texts(list: &[Vec<u8>]) -> (Vec<String>, Option<Vec<String>>) {
    let lossy = list.iter().any(|b| std::str::from_utf8(b).is_err());
    let texts = list.iter().map(|b| String::from_utf8_lossy(b).into_owned()).collect();
    (texts, lossy.then(|| list.iter().map(|b| hex(b)).collect()))
}

/// The bytes behind a [`text`].
pub fn bytes(text: &str, in_hex: Option<&String>) -> Vec<u8> {
    in_hex.and_then(|h| crate::types::unhex(h)).unwrap_or_else(|| text.as_bytes().to_vec())
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRow {
    pub seq: u64,
    pub time: String,
    pub actor: u64,
    pub pid: u32,
    pub comm: String,
    pub op: String,
    pub ino: u64,
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path2: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path2_hex: Option<String>,
    /// Offset and length.
    pub ranges: Vec<(u64, u64)>,
    pub known: String,
    pub errno: Option<String>,
    pub handle: u64,
    pub flags: u32,
    /// The timeline that it is about; null when that is not known any more.
    #[serde(default)]
    pub timeline: Option<String>,
}

/// What a process saw, or may have seen, of one state of a file's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadRow {
    pub actor: u64,
    pub pid: u32,
    pub comm: String,
    pub ino: u64,
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    pub ranges: Vec<(u64, u64)>,
    pub known: String,
    /// `blake3:<hex>`, or null when these bytes are gone.
    pub content: Option<String>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PsRow {
    pub actor: u64,
    pub pid: u32,
    pub ppid: u32,
    /// The parent's actor number.
    pub parent: Option<u64>,
    pub uid: u32,
    pub comm: String,
    pub exe: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe_hex: Option<String>,
    pub argv: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv_hex: Option<Vec<String>>,
    pub argv_truncated: bool,
    pub cwd: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd_hex: Option<String>,
    pub details: String,
    pub first: String,
    pub last: String,
    pub exit: Option<i32>,
    pub signal: Option<i32>,
    pub exit_at: Option<String>,
    pub images: Vec<ImageRow>,
    pub events: u64,
    pub files_read: u64,
    pub files_written: u64,
}

/// What a process ran before an execve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRow {
    pub until: String,
    pub exe: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe_hex: Option<String>,
    pub argv: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv_hex: Option<Vec<String>>,
}

/// An agent with all that it started, or what was started from one shell or by one script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    pub session: String,
    /// `agent`, `human` or `script`.
    pub by: String,
    pub agent: Option<String>,
    /// Of the agent.
    #[serde(default)]
    pub version: Option<String>,
    /// What the agent calls it.
    pub name: Option<String>,
    /// As the agent's transcript says.
    pub model: Option<String>,
    pub prompts: u64,
    /// The process at its top.
    pub actor: u64,
    pub pid: u32,
    pub argv: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv_hex: Option<Vec<String>>,
    pub cwd: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd_hex: Option<String>,
    /// Commands, and what it changed by itself.
    pub steps: u64,
    pub commands: u64,
    pub failed: u64,
    pub files_read: u64,
    pub files_written: u64,
    pub started: String,
    /// Null while one of its processes lives, or the end was not seen.
    pub ended: Option<String>,
}

/// What belongs together of what a session did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRow {
    pub step: String,
    pub session: String,
    /// As in [`SessionRow`].
    pub by: String,
    pub agent: Option<String>,
    /// `command`; `edit`: changes by the agent, shell or editor itself; `read`: the same without changes.
    pub kind: String,
    /// What a shell was given to run, without what the agent wraps around it.
    pub command: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_hex: Option<String>,
    pub argv: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv_hex: Option<Vec<String>>,
    pub cwd: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd_hex: Option<String>,
    pub exit: Option<i32>,
    pub signal: Option<i32>,
    pub started: String,
    pub ended: Option<String>,
    /// Files.
    pub reads: u64,
    pub writes: u64,
    /// The first few that were changed.
    pub paths: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths_hex: Option<Vec<String>>,
    /// The snapshot with its last change; null when it changed nothing, or is not over.
    pub snapshot: Option<String>,
    /// What the user had asked for, where that is proven.
    pub prompt: Option<String>,
    /// As the agent calls it.
    pub prompt_id: Option<String>,
    /// How that is known: `environment+content`, `content` or `environment`; and how sure that makes it: `certain`, `high` or `medium`.
    pub link: Option<LinkRow>,
}

/// How a prompt was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRow {
    pub method: String,
    pub confidence: String,
    /// The tool call, as the agent calls it.
    pub call: Option<String>,
}

/// All that is known of a step but its changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoryRow {
    pub step: StepRow,
    pub processes: Vec<ProcessRow>,
    /// What it read, in the order in which it first did.
    pub read: Vec<SeenRow>,
    /// What its session had read before, the last first.
    pub read_before: Vec<SeenRow>,
}

/// A process of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRow {
    pub actor: u64,
    pub pid: u32,
    /// Generations below the one at the top.
    pub depth: u32,
    pub argv: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv_hex: Option<Vec<String>>,
    pub exit: Option<i32>,
    pub signal: Option<i32>,
    pub started: String,
    pub ended: Option<String>,
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenRow {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    /// `observed`, or `inferred` where that is all that is known.
    pub known: String,
    pub time: String,
}

/// A line of a file, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlameRow {
    /// The first is 1.
    pub line: u64,
    /// Without its end.
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_hex: Option<String>,
    /// `agent`, `human` or `script`; `base` for what the repository on disk has; `unknown` for what is not known, as of a store from before
    /// writers were kept.
    pub by: String,
    pub step: Option<String>,
    pub session: Option<String>,
    pub agent: Option<String>,
    /// Of the step, if it is a command.
    pub argv: Option<Vec<String>>,
    pub command: Option<String>,
    pub prompt: Option<String>,
    /// When its version was sealed; null while it can still change.
    pub time: Option<String>,
    /// The snapshot with it.
    pub snapshot: Option<String>,
    /// What the file was called then.
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive() {
        for original in [&b"a/b"[..], b"\xff/x", b""] {
            let (lossy, in_hex) = text(original);
            assert_eq!(bytes(&lossy, in_hex.as_ref()), original);
        }
        assert_eq!(text(b"a\xff"), ("a\u{fffd}".to_owned(), Some("61ff".to_owned())));
        assert_eq!(texts(&[b"a".to_vec(), b"\xff".to_vec()]).1, Some(vec!["61".to_owned(), "ff".to_owned()]));
    }
}
