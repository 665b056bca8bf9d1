//! Gemini CLI: `tmp/PROJECT/chats/session-TIME-ID.jsonl`, in older versions one document (`.json`) that is written anew each time.
//!
//! A message is written again when more is known of it; the last one counts. Of a project, only the file `.project_root` beside the chats is read.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::json::{self, after_elements, bytes, content, full, path, text};
use super::out::{Call, Facts, Out, Place, Prompt, Reader};
use super::{What, files};

/// Elements that the program puts into the user's place.
const INJECTED: &[&str] = &["hook_context", "session_context", "state_snapshot"];

pub(super) struct Gemini {
    session: String,
    /// In which the project's directory is written.
    root_file: Option<PathBuf>,
    root: Option<PathBuf>,
    is_subagent: bool,
    /// The messages of the conversation as it is now, and whether they are prompts.
    messages: Vec<(String, bool)>,
    listed: HashSet<String>,
    /// What the file's name says.
    name: String,
    was_subagent: bool,
}

impl Gemini {
    pub(super) fn new(path: &Path) -> Gemini {
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let chats = path.ancestors().find(|dir| dir.file_name().is_some_and(|name| name == "chats"));
        let root_file = chats.and_then(Path::parent).map(|project| project.join(".project_root"));
        // Those of subagents are in a directory named as their parent's session.
        let is_subagent = chats.is_some() && path.parent() != chats;
        let session = name.clone();
        Gemini {
            session,
            root_file,
            root: None,
            is_subagent,
            messages: Vec::new(),
            listed: HashSet::new(),
            name,
            was_subagent: is_subagent,
        }
    }

    fn head(&mut self, record: &Value, out: &mut Out) {
        if let Some(session) = full(record, "sessionId") {
            self.session = session;
        }
        self.is_subagent |= text(record, "kind") == Some("subagent");
        if let Some(file) = self.root_file.take() {
            let root = files::read(&file, 16 << 10).ok().map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
            self.root = root.map(PathBuf::from).filter(|root| root.is_absolute());
        }
        out.session(&self.session, Facts { cwd: self.root.clone(), ..Facts::default() });
    }

    /// `is_new`: not one of those that are only listed again.
    fn message(&mut self, message: &Value, is_new: bool, out: &mut Out) {
        let Some(id) = full(message, "id") else {
            out.odd += 1;
            return;
        };
        let is_prompt = match text(message, "type") {
            Some("user") => is_new && self.prompt(&id, message, out),
            Some("gemini") => {
                self.calls(message, out);
                false
            }
            Some("info" | "error" | "warning") => false,
            _ => {
                out.odd += 1;
                return;
            }
        };
        if self.listed.insert(id.clone()) {
            self.messages.push((id, is_prompt));
        }
    }

    fn prompt(&mut self, id: &str, message: &Value, out: &mut Out) -> bool {
        let read = |key: &str| {
            let value = message.get(key).unwrap_or(&Value::Null);
            content(value, |block| after_elements(block, INJECTED))
        };
        // What was shown is without the files that were named in it.
        let said = Some(read("displayContent")).filter(|shown| !shown.is_empty()).unwrap_or_else(|| read("content"));
        // `/help` and `?` are for the program, not for the model.
        let is_command = said.starts_with(['/', '?']) && !said.contains(char::is_whitespace);
        if said.is_empty() || is_command || self.is_subagent {
            return false;
        }
        let at = json::time(message, "timestamp");
        out.prompt(Prompt { session: &self.session, id: id.to_owned(), at, cwd: None, text: said });
        true
    }

    fn calls(&mut self, message: &Value, out: &mut Out) {
        out.session(&self.session, Facts { model: full(message, "model"), ..Facts::default() });
        for call in message.get("toolCalls").and_then(Value::as_array).into_iter().flatten() {
            let (Some(id), Some(tool)) = (text(call, "id"), text(call, "name")) else {
                out.odd += 1;
                continue;
            };
            // A call is written down when it is over; the message, when the model asked for it.
            let over = json::time(call, "timestamp");
            let at = json::time(message, "timestamp").or(over);
            let given = call.get("args").unwrap_or(&Value::Null);
            let prompt = out.prompt_of(&self.session).filter(|_| !self.is_subagent);
            let place = path(given, &["dir_path", "directory"]).filter(|_| tool == "run_shell_command");
            let cwd = place.map(|place| self.root.as_ref().map(|root| root.join(&place)).unwrap_or(place));
            let new = Call { session: &self.session, id, prompt, at, cwd, tool };
            out.call(new, || what(tool, given).unwrap_or(What::Other));
            let failed = match text(call, "status") {
                Some("success") => Some(false),
                Some("error" | "cancelled") => Some(true),
                _ => continue,
            };
            out.done(&self.session, id, over, failed);
        }
    }

    /// The conversation goes on from before a message; from its beginning, if that is not known.
    fn rewind(&mut self, to: &str, out: &mut Out) {
        let at = self.messages.iter().position(|(id, _)| id == to).unwrap_or_default();
        for (id, _) in self.messages.drain(at..) {
            self.listed.remove(&id);
        }
        let last = self.messages.iter().rev().find(|(_, is_prompt)| *is_prompt).map(|(id, _)| id.clone());
        out.last_is(&self.session, last);
    }
}

impl Reader for Gemini {
    fn record(&mut self, record: &Value, _: &Place, out: &mut Out) {
        let listed = |record: &Value| record.get("messages").and_then(Value::as_array).cloned();
        if let Some(to) = text(record, "$rewindTo") {
            self.rewind(to, out);
        } else if let Some(set) = record.get("$set") {
            self.head(set, out);
            // The history after a compression: what is new there is a summary.
            if let Some(messages) = listed(set) {
                messages.iter().for_each(|message| self.message(message, false, out));
            }
        } else if record.get("id").is_some() {
            self.message(record, true, out);
        } else if record.get("sessionId").is_some() {
            self.head(record, out);
            let messages = listed(record).unwrap_or_default();
            messages.iter().for_each(|message| self.message(message, true, out));
        } else {
            out.odd += 1;
        }
    }

    fn restart(&mut self) {
        self.session = self.name.clone();
        self.is_subagent = self.was_subagent;
        self.messages.clear();
        self.listed.clear();
    }
}

fn what(tool: &str, given: &Value) -> Option<What> {
    let path = || path(given, &["file_path", "absolute_path", "path"]);
    Some(match tool {
        "run_shell_command" => What::Command(full(given, "command")?),
        "read_file" => What::Read { path: path()? },
        "write_file" => What::Write { path: path()?, content: bytes(given, &["content"])? },
        "replace" | "edit" => {
            What::Edit { path: path()?, old: bytes(given, &["old_string"])?, new: bytes(given, &["new_string"])? }
        }
        _ => return None,
    })
}

#[cfg(test)]
pub(super) use tests::{SAMPLE, WHOLE};

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::{Written, next, read};

    pub(in super::super) const SAMPLE: &str = concat!(
        r#"{"sessionId":"s1","projectHash":"h","startTime":"2023-11-14T22:13:20.000Z","lastUpdated":"2023-11-14T22:13:20.000Z","kind":"main"}"#,
        "\n",
        r#"{"id":"m0","timestamp":"2023-11-14T22:13:20.000Z","type":"user","content":[{"text":"<session_context>\nx\n</session_context>"}]}"#,
        "\n",
        r#"{"id":"m1","timestamp":"2023-11-14T22:13:21.000Z","type":"user","content":[{"text":"read @a\n--- Content from referenced files ---\nx"}],"displayContent":[{"text":"read @a"}]}"#,
        "\n",
        r#"{"$set":{"lastUpdated":"2023-11-14T22:13:21.000Z"}}"#,
        "\n",
        r#"{"id":"m2","timestamp":"2023-11-14T22:13:22.000Z","type":"gemini","content":"","thoughts":[],"model":"gemini-3-pro"}"#,
        "\n",
        r#"{"id":"m2","timestamp":"2023-11-14T22:13:22.000Z","type":"gemini","content":"","model":"gemini-3-pro","toolCalls":[{"id":"c1","name":"run_shell_command","args":{"command":"ls","dir_path":"sub"},"status":"error","timestamp":"2023-11-14T22:13:23.000Z"}]}"#,
        "\n",
        r#"{"id":"m2","timestamp":"2023-11-14T22:13:22.000Z","type":"gemini","content":"","model":"gemini-3-pro","toolCalls":[{"id":"c1","name":"run_shell_command","args":{"command":"ls","dir_path":"sub"},"status":"error","timestamp":"2023-11-14T22:13:23.000Z"},{"id":"c2","name":"write_file","args":{"file_path":"n.txt","content":"new\n"},"status":"success","timestamp":"2023-11-14T22:13:24.000Z"}]}"#,
        "\n",
        r#"{"id":"m3","timestamp":"2023-11-14T22:13:25.000Z","type":"user","content":"/help"}"#,
        "\n",
        r#"{"id":"m4","timestamp":"2023-11-14T22:13:26.000Z","type":"user","content":"change it"}"#,
        "\n",
        r#"{"id":"m5","timestamp":"2023-11-14T22:13:27.000Z","type":"info","content":"x"}"#,
        "\n",
        r#"{"$rewindTo":"m4"}"#,
        "\n",
        r#"{"id":"m6","timestamp":"2023-11-14T22:13:28.000Z","type":"gemini","content":"","toolCalls":[{"id":"c3","name":"replace","args":{"file_path":"/w/n.txt","old_string":"a","new_string":"b"},"status":"executing"},{"id":"c4","name":"read_file","args":{"absolute_path":"/w/n.txt"},"status":"cancelled"}]}"#,
        "\n",
        r#"{"$set":{"messages":[{"id":"m7","type":"user","content":"a summary"},{"id":"m1","type":"user","content":"read @a"}]}}"#,
        "\n",
    );

    pub(in super::super) const WHOLE: &str = r#"{
  "sessionId": "s1", "projectHash": "h", "startTime": "2023-11-14T22:13:20.000Z",
  "messages": [
    {"id": "m1", "timestamp": "2023-11-14T22:13:21.000Z", "type": "user", "content": "add it"},
    {"id": "m2", "timestamp": "2023-11-14T22:13:22.000Z", "type": "gemini", "content": "", "toolCalls": [
      {"id": "c1", "name": "write_file", "args": {"file_path": "/w/n", "content": "x"}, "status": "success", "timestamp": "2023-11-14T22:13:23.000Z"}]}
  ]
}"#;

    #[test]
    fn prompts_and_calls() {
        let written = Written::new("tmp/p/chats/session-2023-11-14T22-13-abc.jsonl", SAMPLE);
        fs::write(written.home.path().join("tmp/p/.project_root"), "/w\n").unwrap();
        let mut tail = written.tail("gemini-cli");
        assert_eq!(
            next(&mut tail),
            [
                "session s1 /w - -",
                "prompt s1 m1 1.000 /w: read @a",
                "session s1 /w - gemini-3-pro",
                "call s1 c1 for m1 2.000 /w/sub run_shell_command: $ ls",
                "done s1 c1 3.000 failed Some(true)",
                "call s1 c2 for m1 2.000 /w write_file: n.txt := new\n",
                "done s1 c2 4.000 failed Some(false)",
                "prompt s1 m4 6.000 /w: change it",
                "call s1 c3 for m1 8.000 /w replace: /w/n.txt a -> b",
                "call s1 c4 for m1 8.000 /w read_file: < /w/n.txt",
                "done s1 c4 - failed Some(true)",
            ]
        );
        assert_eq!(tail.odd(), 0);
    }

    #[test]
    fn a_document_is_read_when_it_changes() {
        let written = Written::new("tmp/p/chats/session-1.json", WHOLE);
        let mut tail = written.tail("gemini-cli");
        let first = [
            "prompt s1 m1 1.000 -: add it",
            "call s1 c1 for m1 2.000 - write_file: /w/n := x",
            "done s1 c1 3.000 failed Some(false)",
        ];
        assert_eq!(next(&mut tail), first);
        assert_eq!(next(&mut tail), [] as [&str; 0]);
        // While it is being written.
        fs::write(&written.path, &WHOLE[..300]).unwrap();
        assert_eq!(next(&mut tail), [] as [&str; 0]);
        assert_eq!(tail.odd(), 1);
        let more = r#""messages": [{"id": "m0", "type": "user", "content": "first"},"#;
        fs::write(&written.path, WHOLE.replace(r#""messages": ["#, more)).unwrap();
        assert_eq!(next(&mut tail), ["prompt s1 m0 - -: first"]);
    }

    #[test]
    fn what_an_agent_asks_of_another_is_no_prompt() {
        let items = read("gemini-cli", "tmp/p/chats/s1/s2.jsonl", SAMPLE.replace("\"s1\"", "\"s2\"")).0;
        assert!(items.iter().any(|item| item.starts_with("call s2 c1 for - ")), "{items:?}");
        assert_eq!(items.iter().filter(|item| item.starts_with("prompt")).count(), 0);
    }
}
