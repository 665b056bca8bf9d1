//! OpenCode: sessions of messages of parts, in a database or, in older versions, in a directory per message.
//!
//! This file has what both have in common: what a part says. `opencode/` reads them.

mod database;
mod folder;
#[cfg(test)]
mod tests;

pub(super) use database::Database;
pub(super) use folder::Folder;

use std::path::PathBuf;

use serde_json::Value;

use super::json::{any, bytes, full, is_true, millis, path, text};
use super::out::{Call, Facts, Out, Prompt};
use super::{What, patch};
use crate::types::Time;

/// A session, as far as it is known.
#[derive(Clone, Default)]
struct Session {
    id: String,
    /// That of a subagent has one.
    parent: Option<String>,
    cwd: Option<PathBuf>,
    version: Option<String>,
}

impl Session {
    /// Whose prompts its calls belong to.
    fn asked_in(&self) -> &str {
        self.parent.as_deref().unwrap_or(&self.id)
    }
}

/// A message and its record.
struct Message<'a> {
    id: &'a str,
    session: &'a Session,
    info: &'a Value,
}

impl Message<'_> {
    fn is_user(&self) -> bool {
        text(self.info, "role") == Some("user")
    }

    fn cwd(&self) -> Option<PathBuf> {
        self.info.get("path").and_then(|place| path(place, &["cwd"]))
    }

    /// What is known of the session from this message.
    fn facts(&self, out: &mut Out) {
        let Session { id, cwd, version, .. } = self.session;
        let model =
            self.info.get("model").and_then(|model| full(model, "modelID")).or_else(|| full(self.info, "modelID"));
        let cwd = cwd.clone().or_else(|| self.cwd());
        out.session(id, Facts { cwd, version: version.clone(), model });
    }

    /// What the user said, from all parts of the message.
    fn prompt<'a>(&self, parts: impl Iterator<Item = &'a Value>, out: &mut Out) {
        let is_said = |part: &&Value| {
            text(part, "type") == Some("text") && !is_true(part, "synthetic") && !is_true(part, "ignored")
        };
        let said: Vec<&str> = parts.filter(is_said).filter_map(|part| text(part, "text")).collect();
        let said = said.join("\n").trim().to_owned();
        if said.is_empty() || !self.is_user() || self.session.parent.is_some() {
            return;
        }
        let at = self.info.get("time").and_then(|time| stamp(time, "created"));
        out.prompt(Prompt { session: &self.session.id, id: self.id.to_owned(), at, cwd: None, text: said });
    }

    /// Gives the call that a part is; whether it is one that has not ended.
    fn call(&self, id: &str, part: &Value, out: &mut Out) -> bool {
        if text(part, "type") != Some("tool") {
            return false;
        }
        let (Some(tool), Some(state)) = (text(part, "tool"), part.get("state")) else {
            out.odd += 1;
            return false;
        };
        // What it is to do is written when it begins.
        let status = text(state, "status").unwrap_or_default();
        if status == "pending" {
            return true;
        }
        let time = state.get("time").unwrap_or(&Value::Null);
        let input = state.get("input").unwrap_or(&Value::Null);
        let session = &self.session.id;
        let own = || full(self.info, "parentID").filter(|_| self.session.parent.is_none());
        let prompt = out.prompt_of(self.session.asked_in()).or_else(own);
        let cwd = path(input, &["workdir"]).filter(|cwd| cwd.is_absolute()).or_else(|| self.cwd());
        let call = Call { session, id, prompt, at: stamp(time, "start"), cwd, tool };
        out.call(call, || what(tool, input).unwrap_or(What::Other));
        let failed = match status {
            "error" => true,
            "completed" => {
                let code = state.get("metadata").and_then(|metadata| metadata.get("exit")).and_then(Value::as_i64);
                code.is_some_and(|code| code != 0)
            }
            _ => return true,
        };
        out.done(session, id, stamp(time, "end"), Some(failed));
        false
    }
}

fn stamp(time: &Value, key: &str) -> Option<Time> {
    time.get(key).and_then(Value::as_i64).map(millis)
}

fn what(tool: &str, input: &Value) -> Option<What> {
    let path = || path(input, &["filePath", "path"]);
    Some(match tool {
        "bash" | "shell" => What::Command(full(input, "command")?),
        "read" => What::Read { path: path()? },
        "write" => What::Write { path: path()?, content: bytes(input, &["content"])? },
        "edit" | "multiedit" => {
            let edit = input.get("edits").and_then(|edits| edits.get(0)).unwrap_or(input);
            What::Edit { path: path()?, old: bytes(edit, &["oldString"])?, new: bytes(edit, &["newString"])? }
        }
        "patch" | "apply_patch" => patch::what(any(input, &["patchText", "patch"])?),
        _ => return None,
    })
}
