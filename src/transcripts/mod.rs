//! What coding agents write about themselves: prompts, tool calls and their results, read from the transcripts they keep on disk.
//!
//! Pure reading of files. It knows no store, no processes and no clock: where a time has to be stamped, `now` comes in. Nothing that a
//! transcript contains can make it fail or panic; what is not understood is skipped and counted. One file per agent has its format.

mod claude;
mod codex;
mod copilot;
mod cursor;
mod files;
mod find;
mod gemini;
mod json;
mod opencode;
mod out;
mod patch;
mod tail;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use find::find;
pub use tail::Tail;

use crate::types::Time;

/// Where to look: the home and environment of the user who runs the agents.
///
/// Of the variables, those count that say where an agent keeps its files: CLAUDE_CONFIG_DIR, CODEX_HOME, GEMINI_CLI_HOME, XDG_DATA_HOME,
/// XDG_CONFIG_HOME, CURSOR_CONFIG_DIR and COPILOT_HOME.
#[derive(Clone, Debug, Default)]
pub struct Homes {
    pub home: PathBuf,
    pub variables: Vec<(String, PathBuf)>,
}

impl Homes {
    fn variable(&self, name: &str) -> Option<&Path> {
        let set = self.variables.iter().find(|(key, path)| key == name && path.is_absolute());
        set.map(|(_, path)| path.as_path())
    }
}

/// A transcript: of which agent, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As in `actors/agents.rs`.
    pub agent: &'static str,
    pub path: PathBuf,
    /// When it was last changed, as far as [`find`] saw.
    pub modified: Time,
    /// From when on it is of interest. Only databases are not read as a whole: there, what is long before it is left out.
    pub since: Time,
    shape: Shape,
}

/// How a transcript is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// A JSON document per line, appended to.
    Lines,
    /// The same, compressed, never changed.
    Packed,
    /// One JSON document, written anew each time.
    Whole,
    /// SQLite.
    Database,
    /// A directory of JSON documents.
    Folder,
}

/// The agents whose transcripts are known.
const KNOWN: &[&str] = &["claude-code", "codex", "gemini-cli", "opencode", "cursor-cli", "copilot-cli"];

impl Source {
    /// The transcript at a path, whole, whatever its age; `None` for agents that are not known and for names that none of theirs have.
    pub fn at(agent: &str, path: &Path) -> Option<Source> {
        let agent = KNOWN.iter().find(|known| **known == agent)?;
        let name = path.file_name()?.to_string_lossy();
        let shape = match *agent {
            "opencode" if name.ends_with(".db") => Shape::Database,
            "opencode" => Shape::Folder,
            "gemini-cli" if name.ends_with(".json") => Shape::Whole,
            "codex" if name.ends_with(".jsonl.zst") => Shape::Packed,
            _ if name.ends_with(".jsonl") => Shape::Lines,
            _ => return None,
        };
        let (modified, since) = (Time::default(), Time::new(i64::MIN, 0));
        Some(Source { agent, path: path.to_owned(), modified, since, shape })
    }
}

/// Something that an agent wrote down.
///
/// Ids are those of the agent where it has some, else made of the session, the place and the text; they are the same at each reading. An
/// agent may copy records of one session to another's file: those come from both tails, with the same id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Facts about the session, each time more is known. `cwd` is where it began.
    Session { session: String, cwd: Option<PathBuf>, version: Option<String>, model: Option<String> },
    /// What the user asked for. What programs put into the user's place (reminders, environments, commands of the agent itself) is none.
    Prompt { session: String, id: String, at: Option<Time>, cwd: Option<PathBuf>, text: String },
    /// A tool call, with the id of the prompt it belongs to: the last one of its session before it. For subagents the parent's, where it is known.
    Call {
        session: String,
        id: String,
        prompt: Option<String>,
        at: Option<Time>,
        cwd: Option<PathBuf>,
        tool: String,
        what: What,
    },
    /// Its result. `failed` is `None` where the agent does not say.
    Done { session: String, id: String, at: Option<Time>, failed: Option<bool> },
}

/// What a tool call is to do. Paths are as the agent wrote them, so they may be relative to the call's `cwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Of a call that a shell runs, the script.
    Command(String),
    Write {
        path: PathBuf,
        content: Vec<u8>,
    },
    /// Of several edits in one call, the first.
    Edit {
        path: PathBuf,
        old: Vec<u8>,
        new: Vec<u8>,
    },
    Read {
        path: PathBuf,
    },
    Other,
}
