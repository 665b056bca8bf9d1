//! Who wrote the lines of a commit, in the form of a git note that git-ai's standard 3.0.0 describes ("authorship logs", `refs/notes/ai`).
//!
//! A line of an agent has the key of its session and of its step. Lines of people, scripts and what is not known have none: the standard keeps the key of
//! a human for what an editor saw being typed. Numbers that are not known (`prompts` has some) are not made up: `sessions` needs none.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::authors::{Authors, Session};
use super::lines::{FileLines, Run};
use crate::query::steps::StepId;
use crate::query::who::Kind;
use crate::types::{ActorId, Path, hex};

/// Where they are.
pub const REFERENCE: &str = "refs/notes/ai";
const VERSION: &str = "authorship/3.0.0";
/// An attribute with the names of our sessions, separated by blanks.
const SESSIONS: &str = "regentfs_sessions";
/// Digits of a key.
const DIGITS: usize = 14;

fn key(letter: char, text: &str) -> String {
    let digits = hex(&Sha256::digest(text.as_bytes()));
    format!("{letter}_{}", digits.get(..DIGITS).unwrap_or(&digits))
}

/// What git-ai calls an agent.
fn tool(agent: &str) -> &str {
    match agent {
        "claude-code" => "claude",
        "gemini-cli" => "gemini",
        "cursor-cli" => "cursor",
        "copilot-cli" => "copilot",
        other => other,
    }
}

/// The session of an agent, as the standard has it.
struct Known {
    key: String,
    record: Value,
}

impl Known {
    fn new(store: &str, session: &Session, human: Option<&str>) -> Option<Known> {
        let tool = tool(session.agent.as_deref()?);
        let id = session.name.clone().unwrap_or_else(|| format!("{store}:{}", session.id));
        let mut own = Map::new();
        own.insert(SESSIONS.to_owned(), session.id.clone().into());
        if let Some(version) = &session.version {
            own.insert("agent_version".to_owned(), version.clone().into());
        }
        let key = key('s', &format!("{tool}:{id}"));
        let model = session.model.as_deref().unwrap_or("unknown");
        let mut record = json!({ "agent_id": { "tool": tool, "id": id, "model": model } });
        if let Some(human) = human {
            record["human_author"] = human.into();
        }
        record["custom_attributes"] = own.into();
        Some(Known { key, record })
    }

    /// An agent that went on with a session of its own, as with `--resume`: what is one there is several here.
    fn join(all: Vec<Known>) -> Map<String, Value> {
        let mut joined: Map<String, Value> = Map::new();
        for Known { key, record } in all {
            match joined.get_mut(&key) {
                Some(there) => {
                    let ids =
                        |record: &Value| record["custom_attributes"][SESSIONS].as_str().unwrap_or_default().to_owned();
                    there["custom_attributes"][SESSIONS] = format!("{} {}", ids(there), ids(&record)).into();
                }
                None => drop(joined.insert(key, record)),
            }
        }
        joined
    }
}

/// The note of a commit that was made of these steps and has these lines; `None` when no agent had a part in it. Remarks for people go to `notes`.
pub fn note(
    authors: &Authors,
    commit: &str,
    human: Option<&str>,
    (files, steps): (&[FileLines], &[(StepId, ActorId)]),
    notes: &mut Vec<String>,
) -> Option<String> {
    let mut sessions: BTreeMap<ActorId, Known> = BTreeMap::new();
    let mut meet = |id: ActorId| {
        if !sessions.contains_key(&id)
            && matches!(authors.kind(id), Kind::Agent(_))
            && let Some(known) = Known::new(&authors.store, &authors.session(id), human)
        {
            sessions.insert(id, known);
        }
        sessions.get(&id).map(|known| known.key.clone())
    };
    for (_, session) in steps {
        meet(*session);
    }
    let mut lines = String::new();
    for file in files {
        let mut keys: Vec<(String, Vec<&Run>)> = Vec::new();
        for run in &file.runs {
            let Some((step, session)) = authors.of(&run.wrote) else { continue };
            let Some(session) = meet(session) else { continue };
            let key = format!("{session}::{}", key('t', &format!("{}:{step}", authors.store)));
            match keys.iter_mut().find(|(known, _)| *known == key) {
                Some((_, runs)) => runs.push(run),
                None => keys.push((key, vec![run])),
            }
        }
        if keys.is_empty() {
            continue;
        }
        let Some(name) = file_name(&file.path) else {
            notes.push(format!("the notes cannot name {}: its lines are left out", file.path));
            continue;
        };
        lines.push_str(&format!("{name}\n"));
        for (key, runs) in keys {
            lines.push_str(&format!("  {key} {}\n", ranges(&runs)));
        }
    }
    if sessions.is_empty() {
        return None;
    }
    let sessions = Known::join(sessions.into_values().collect());
    let metadata = json!({
        "schema_version": VERSION,
        "base_commit_sha": commit,
        "prompts": {},
        "sessions": sessions,
    });
    Some(format!("{lines}---\n{metadata:#}\n"))
}

/// A path on a line of its own; `None` where the form has no way to say it. What could be taken for something else is quoted.
fn file_name(path: &Path) -> Option<String> {
    let name = std::str::from_utf8(path.as_bytes()).ok().filter(|name| !name.contains(['\n', '\r']))?;
    let quoted = name.contains(|c: char| c.is_whitespace() || c.is_control()) || name.starts_with('"') || name == "---";
    Some(if quoted { format!("\"{name}\"") } else { name.to_owned() })
}

fn ranges(runs: &[&Run]) -> String {
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for run in runs {
        match joined.last_mut().filter(|(_, last)| *last + 1 == run.first) {
            Some((_, last)) => *last = run.last,
            None => joined.push((run.first, run.last)),
        }
    }
    let text = |(first, last): (u64, u64)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    joined.into_iter().map(text).collect::<Vec<_>>().join(",")
}

/// What `git fast-import` makes one commit of notes of, after `parent`.
pub fn import(who: &str, seconds: i64, parent: Option<&str>, notes: &[(String, String)]) -> Vec<u8> {
    let message = "Notes added by 'regentfs export'\n";
    let mut text =
        format!("commit {REFERENCE}\ncommitter {who} {} +0000\ndata {}\n{message}\n", seconds.max(0), message.len());
    text.extend(parent.map(|parent| format!("from {parent}\n")));
    for (commit, note) in notes {
        text.push_str(&format!("N inline {commit}\ndata {}\n{note}\n", note.len()));
    }
    text.push_str("\ndone\n");
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blame::Wrote;
    use crate::types::{Epoch, VersionId};

    fn run(first: u64, last: u64) -> Run {
        let wrote = Wrote { version: VersionId(1), epoch: Epoch(1), by: ActorId(1), path: Path::root() };
        Run { first, last, wrote }
    }

    #[test]
    fn names_and_ranges_as_the_standard_writes_them() {
        let name = |text: &str| file_name(&Path::new(text.as_bytes()));
        for (path, expected) in [
            ("src/main.rs", Some("src/main.rs")),
            ("src/my file.rs", Some("\"src/my file.rs\"")),
            ("a\tb", Some("\"a\tb\"")),
            ("---", Some("\"---\"")),
            ("\"a\"", Some("\"\"a\"\"")),
            ("\u{a0}x", Some("\"\u{a0}x\"")),
            ("gr\u{fc}n", Some("gr\u{fc}n")),
            ("a\nb", None),
        ] {
            assert_eq!(name(path).as_deref(), expected, "{path:?}");
        }
        assert_eq!(file_name(&Path::new(b"na\xffme")), None);
        assert_eq!(ranges(&[&run(1, 4), &run(5, 5), &run(9, 9), &run(12, 14)]), "1-5,9,12-14");
    }

    #[test]
    fn keys_are_those_that_git_ai_makes() {
        // `printf claude:conv_abc123 | sha256sum`
        assert_eq!(key('s', "claude:conv_abc123"), "s_ee976e8f82d55b");
        let session = Session { id: "s7".into(), agent: Some("claude-code".into()), ..Session::default() };
        let known =
            Known::new("store", &Session { name: Some("conv_abc123".into()), ..session.clone() }, None).unwrap();
        assert_eq!(known.key, key('s', "claude:conv_abc123"));
        assert_eq!(known.record["agent_id"], json!({ "tool": "claude", "id": "conv_abc123", "model": "unknown" }));
        let known = Known::new("store", &session, Some("Ada <ada@example.com>")).unwrap();
        assert_eq!(
            (&known.record["agent_id"]["id"], &known.record["human_author"]),
            (&"store:s7".into(), &"Ada <ada@example.com>".into())
        );
        assert!(Known::new("store", &Session { agent: None, ..session.clone() }, None).is_none());
        let named = |id: &str| Session { id: id.into(), name: Some("abc".into()), ..session.clone() };
        let all = ["s7", "s9"].iter().filter_map(|id| Known::new("store", &named(id), None)).collect();
        let joined: Vec<Value> = Known::join(all).into_iter().map(|(_, record)| record).collect();
        assert!(joined.len() == 1 && joined[0]["custom_attributes"][SESSIONS] == "s7 s9", "{joined:?}");
    }
}
