//! Claude Code: `projects/DIRECTORY/SESSION.jsonl`, and for subagents `SESSION/subagents/agent-ID.jsonl` beside it.
//!
//! A record has its session, which need not be the file's: resuming copies records. It knows no file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::What;
use super::json::{self, after_elements, bytes, content, full, is_true, path, text};
use super::out::{Call, Facts, Out, Place, Prompt, Reader};
use crate::types::Time;

/// Kinds of records that say nothing about prompts or calls.
const SILENT: &[&str] = &[
    "agent-color",
    "agent-name",
    "agent-setting",
    "ai-title",
    "attribution-snapshot",
    "bridge-session",
    "content-replacement",
    "custom-title",
    "file-history-snapshot",
    "fork-context-ref",
    "isolation-latch",
    "last-prompt",
    "marble-origami-commit",
    "marble-origami-reset",
    "marble-origami-snapshot",
    "mode",
    "permission-mode",
    "pr-link",
    "progress",
    "queue-operation",
    "relocated",
    "summary",
    "system",
    "tag",
    "worktree-state",
];

/// Elements that the program puts into the user's place. What follows them in the same text is the user's again.
const INJECTED: &[&str] = &[
    "bash-input",
    "bash-stderr",
    "bash-stdout",
    "command-args",
    "command-contents",
    "command-message",
    "command-name",
    "cross-session-message",
    "ide_diagnostics",
    "ide_opened_file",
    "ide_selection",
    "local-command-caveat",
    "local-command-stderr",
    "local-command-stdout",
    "system-reminder",
    "task-notification",
    "teammate-message",
    "user-memory-input",
];

/// How texts begin that are not the user's.
const NOT_SAID: &[&str] =
    &["[Request interrupted by user", "Caveat:", "This session is being continued from a previous conversation"];

pub(super) struct Claude {
    /// For records without a session.
    file: String,
    is_subagent: bool,
    /// The prompts of this file, by the record's id.
    ids: HashMap<String, String>,
    /// The ids that they have, and of which record.
    taken: HashMap<String, String>,
}

impl Claude {
    pub(super) fn new(path: &Path) -> Claude {
        let mut above = path.ancestors();
        let is_subagent = above.any(|dir| dir.file_name().is_some_and(|name| name == "subagents"));
        let session = if is_subagent { above.next().and_then(Path::file_name) } else { path.file_stem() };
        let file = session.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Claude { file, is_subagent, ids: HashMap::new(), taken: HashMap::new() }
    }

    fn user(&mut self, about: &About, out: &mut Out) {
        let record = about.record;
        let Some(said) = record.get("message").and_then(|message| message.get("content")) else {
            out.odd += 1;
            return;
        };
        let mut has_result = false;
        for block in said.as_array().into_iter().flatten().filter(|block| text(block, "type") == Some("tool_result")) {
            has_result = true;
            match text(block, "tool_use_id") {
                Some(id) => out.done(&about.session, id, about.at, Some(is_true(block, "is_error"))),
                None => out.odd += 1,
            }
        }
        // A subagent is asked by the agent; which prompt that was for is said nevertheless.
        if about.is_subagent {
            if let Some(prompt) = full(record, "promptId").filter(|_| self.is_subagent) {
                out.last_is(&about.session, Some(prompt));
            }
            return;
        }
        let is_injected =
            ["isMeta", "isCompactSummary", "isVisibleInTranscriptOnly"].iter().any(|key| is_true(record, key));
        if !has_result && !is_injected && is_human(record) {
            self.prompt(record.get("uuid"), said, about, out);
        }
    }

    /// Something that was typed while the agent worked is an attachment.
    fn attachment(&mut self, about: &About, out: &mut Out) {
        let Some(queued) = about.record.get("attachment").filter(|it| text(it, "type") == Some("queued_command"))
        else {
            return;
        };
        let is_prompt = text(queued, "commandMode").is_none_or(|mode| mode == "prompt");
        if is_prompt && !about.is_subagent && !is_true(queued, "isMeta") && is_human(queued) {
            let id = queued.get("source_uuid").or_else(|| about.record.get("uuid"));
            self.prompt(id, queued.get("prompt").unwrap_or(&Value::Null), about, out);
        }
    }

    fn prompt(&mut self, uuid: Option<&Value>, said: &Value, about: &About, out: &mut Out) {
        let text = content(said, said_by_user);
        let Some(uuid) = uuid.and_then(Value::as_str) else {
            out.odd += u64::from(!text.is_empty());
            return;
        };
        if text.is_empty() {
            return;
        }
        // Subagents know the prompt by its own id. Several texts may have it; it is the first one's.
        let taken = &mut self.taken;
        let id = self.ids.entry(uuid.to_owned()).or_insert_with(|| {
            let shared = full(about.record, "promptId").unwrap_or_else(|| uuid.to_owned());
            let owner = taken.entry(shared.clone()).or_insert_with(|| uuid.to_owned());
            if *owner == uuid { shared } else { uuid.to_owned() }
        });
        let (id, cwd) = (id.clone(), about.cwd.clone());
        out.prompt(Prompt { session: &about.session, id, at: about.at, cwd, text });
    }
}

/// What all records say.
struct About<'a> {
    record: &'a Value,
    session: String,
    at: Option<Time>,
    cwd: Option<PathBuf>,
    is_subagent: bool,
}

impl Reader for Claude {
    fn record(&mut self, record: &Value, _: &Place, out: &mut Out) {
        let about = About {
            record,
            session: full(record, "sessionId").unwrap_or_else(|| self.file.clone()),
            at: json::time(record, "timestamp"),
            cwd: path(record, &["cwd"]),
            is_subagent: self.is_subagent || is_true(record, "isSidechain"),
        };
        match text(record, "type") {
            Some("user" | "assistant" | "attachment") => {}
            Some(kind) if SILENT.contains(&kind) => return,
            _ => {
                out.odd += 1;
                return;
            }
        }
        let model = record.get("message").and_then(|message| full(message, "model"));
        let model = model.filter(|model| !model.starts_with('<') && !about.is_subagent);
        out.session(&about.session, Facts { cwd: about.cwd.clone(), version: full(record, "version"), model });
        match text(record, "type") {
            Some("user") => self.user(&about, out),
            Some("attachment") => self.attachment(&about, out),
            _ => calls(&about, out),
        }
    }

    fn restart(&mut self) {
        self.ids.clear();
        self.taken.clear();
    }
}

/// Whether the program says that somebody else spoke.
fn is_human(record: &Value) -> bool {
    record.get("origin").and_then(|origin| text(origin, "kind")).is_none_or(|kind| kind == "human")
}

/// Of a text, what the user said.
fn said_by_user(text: &str) -> &str {
    let said = after_elements(text, INJECTED);
    if NOT_SAID.iter().any(|begin| said.starts_with(begin)) { "" } else { said.trim() }
}

fn calls(about: &About, out: &mut Out) {
    let Some(said) = about.record.get("message").and_then(|message| message.get("content")) else {
        out.odd += 1;
        return;
    };
    for block in said.as_array().into_iter().flatten().filter(|block| text(block, "type") == Some("tool_use")) {
        let (Some(id), Some(tool)) = (text(block, "id"), text(block, "name")) else {
            out.odd += 1;
            continue;
        };
        let prompt = out.prompt_of(&about.session);
        let call = Call { session: &about.session, id, prompt, at: about.at, cwd: about.cwd.clone(), tool };
        out.call(call, || what(tool, block.get("input").unwrap_or(&Value::Null)).unwrap_or(What::Other));
    }
}

fn what(tool: &str, input: &Value) -> Option<What> {
    let path = || path(input, &["file_path", "notebook_path"]);
    Some(match tool {
        "Bash" => What::Command(full(input, "command")?),
        "Read" | "NotebookRead" => What::Read { path: path()? },
        "Write" => What::Write { path: path()?, content: bytes(input, &["content"])? },
        "Edit" | "MultiEdit" => {
            let edit = input.get("edits").and_then(|edits| edits.get(0)).unwrap_or(input);
            What::Edit { path: path()?, old: bytes(edit, &["old_string"])?, new: bytes(edit, &["new_string"])? }
        }
        // What the cell was is not said.
        "NotebookEdit" => What::Edit { path: path()?, old: Vec::new(), new: bytes(input, &["new_source"])? },
        _ => return None,
    })
}

#[cfg(test)]
pub(super) use tests::SAMPLE;

#[cfg(test)]
mod tests {
    use super::super::tests::read;

    /// As version 2.1.197 writes it, without what is not looked at.
    pub(in super::super) const SAMPLE: &str = concat!(
        r#"{"type":"queue-operation","operation":"enqueue","timestamp":"2023-11-14T22:13:20.000Z","sessionId":"s1","content":"add a script"}"#,
        "\n",
        r#"{"parentUuid":null,"isSidechain":false,"promptId":"p1","type":"user","message":{"role":"user","content":"add a script"},"uuid":"u1","timestamp":"2023-11-14T22:13:20.409Z","cwd":"/w","sessionId":"s1","version":"2.1.197"}"#,
        "\n",
        r#"{"parentUuid":"u1","attachment":{"type":"skill_listing","content":"- x"},"type":"attachment","uuid":"a1","timestamp":"2023-11-14T22:13:20.500Z","cwd":"/w","sessionId":"s1","version":"2.1.197"}"#,
        "\n",
        r##"{"parentUuid":"a1","message":{"id":"m1","role":"assistant","model":"claude-opus","content":[{"type":"text","text":"ok"},{"type":"tool_use","id":"t1","name":"Write","input":{"file_path":"/w/a.sh","content":"#!/bin/sh\n"}}]},"type":"assistant","uuid":"a2","timestamp":"2023-11-14T22:13:21.000Z","cwd":"/w","sessionId":"s1","version":"2.1.197"}"##,
        "\n",
        r#"{"promptId":"p1","type":"user","message":{"role":"user","content":[{"tool_use_id":"t1","type":"tool_result","content":"File created"}]},"uuid":"u2","timestamp":"2023-11-14T22:13:22.000Z","toolUseResult":{"type":"create"},"cwd":"/w","sessionId":"s1"}"#,
        "\n",
        r#"{"message":{"role":"assistant","model":"<synthetic>","content":[{"type":"tool_use","id":"t2","name":"Bash","input":{"command":"./a.sh","description":"run"}},{"type":"tool_use","id":"t3","name":"Edit","input":{"file_path":"/w/a.sh","old_string":"a","new_string":"b"}}]},"type":"assistant","uuid":"a3","timestamp":"2023-11-14T22:13:23.000Z","cwd":"/w/sub","sessionId":"s1"}"#,
        "\n",
        r#"{"type":"user","message":{"role":"user","content":[{"type":"tool_result","content":"Exit code 1","is_error":true,"tool_use_id":"t2"}]},"uuid":"u3","timestamp":"2023-11-14T22:13:24.000Z","cwd":"/w","sessionId":"s1"}"#,
        "\n",
        r#"{"type":"user","isMeta":true,"message":{"role":"user","content":"Caveat: not said"},"uuid":"u4","timestamp":"2023-11-14T22:13:25.000Z","cwd":"/w","sessionId":"s1"}"#,
        "\n",
        r#"{"type":"user","message":{"role":"user","content":"<command-name>/clear</command-name>\n<command-message>clear</command-message>\n<command-args></command-args>"},"uuid":"u5","timestamp":"2023-11-14T22:13:25.000Z","cwd":"/w","sessionId":"s1"}"#,
        "\n",
        r#"{"type":"user","message":{"role":"user","content":[{"type":"text","text":"[Request interrupted by user for tool use]"}]},"uuid":"u6","timestamp":"2023-11-14T22:13:25.000Z","cwd":"/w","sessionId":"s1"}"#,
        "\n",
        r#"{"type":"user","isCompactSummary":true,"message":{"role":"user","content":"This session went on"},"uuid":"u7","timestamp":"2023-11-14T22:13:25.000Z","cwd":"/w","sessionId":"s1"}"#,
        "\n",
        r#"{"type":"user","promptId":"p1","message":{"role":"user","content":[{"type":"text","text":"<ide_opened_file>x</ide_opened_file>"},{"type":"text","text":"<system-reminder>y</system-reminder> now test it"},{"type":"image","source":{}}]},"uuid":"u8","timestamp":"2023-11-14T22:13:26.000Z","cwd":"/w","sessionId":"s1"}"#,
        "\n",
        r#"{"type":"attachment","attachment":{"type":"queued_command","prompt":"and run it","source_uuid":"u9","commandMode":"prompt"},"uuid":"a9","timestamp":"2023-11-14T22:13:27.000Z","cwd":"/w","sessionId":"s1"}"#,
        "\n",
        r#"{"type":"assistant","message":{"role":"assistant","content":[{"type":"tool_use","id":"t4","name":"Task","input":{"prompt":"look"}},{"type":"tool_use","id":"t5","name":"MultiEdit","input":{"file_path":"/w/b","edits":[{"old_string":"1","new_string":"2"},{"old_string":"3","new_string":"4"}]}}]},"uuid":"a10","timestamp":"2023-11-14T22:13:28.000Z","cwd":"/w","sessionId":"s1"}"#,
        "\n",
    );

    const FILE: &str = "projects/-w/file.jsonl";

    #[test]
    fn prompts_and_calls() {
        let (items, odd) = read("claude-code", FILE, SAMPLE);
        assert_eq!(
            items,
            [
                "session s1 /w 2.1.197 -",
                "prompt s1 p1 0.409 /w: add a script",
                "session s1 /w 2.1.197 claude-opus",
                "call s1 t1 for p1 1.000 /w Write: /w/a.sh := #!/bin/sh\n",
                "done s1 t1 2.000 failed Some(false)",
                "call s1 t2 for p1 3.000 /w/sub Bash: $ ./a.sh",
                "call s1 t3 for p1 3.000 /w/sub Edit: /w/a.sh a -> b",
                "done s1 t2 4.000 failed Some(true)",
                "prompt s1 u8 6.000 /w: now test it",
                "prompt s1 u9 7.000 /w: and run it",
                "call s1 t4 for u9 8.000 /w Task: other",
                "call s1 t5 for u9 8.000 /w MultiEdit: /w/b 1 -> 2",
            ]
        );
        assert_eq!(odd, 0);
    }

    #[test]
    fn a_subagent_works_for_its_parents_prompt() {
        let content = concat!(
            r#"{"isSidechain":true,"promptId":"p1","agentId":"x","type":"user","message":{"role":"user","content":"look at it"},"uuid":"u1","cwd":"/w","sessionId":"s1"}"#,
            "\n",
            r#"{"isSidechain":true,"agentId":"x","type":"assistant","message":{"model":"small","content":[{"type":"tool_use","id":"t1","name":"Bash","input":{"command":"ls"}}]},"uuid":"u2","cwd":"/w","sessionId":"s1"}"#,
            "\n",
        );
        let (items, odd) = read("claude-code", "projects/-w/s1/subagents/agent-x.jsonl", content);
        assert_eq!(items, ["session s1 /w - -", "call s1 t1 for p1 - /w Bash: $ ls"]);
        assert_eq!(odd, 0);
        // In older versions in the same file, without a prompt of their own.
        let items = read("claude-code", FILE, SAMPLE.to_owned() + content).0;
        assert_eq!(items.iter().filter(|item| item.starts_with("prompt")).count(), 3, "{items:?}");
    }

    #[test]
    fn a_prompt_counts_once_and_a_record_has_its_own_session() {
        let other = SAMPLE.replace("\"s1\"", "\"s2\"");
        let items = read("claude-code", FILE, other.clone() + SAMPLE).0;
        assert_eq!(items.iter().filter(|item| item.starts_with("prompt s2")).count(), 3);
        assert_eq!(items.iter().filter(|item| item.starts_with("prompt s1")).count(), 0, "{items:?}");
        let without = SAMPLE.replace(r#","sessionId":"s1""#, "");
        assert_eq!(read("claude-code", FILE, without).0[1], "prompt file p1 0.409 /w: add a script");
    }

    #[test]
    fn what_is_not_known_is_counted() {
        let content = concat!(
            r#"{"type":"news","sessionId":"s1"}"#,
            "\n",
            r#"{"type":"user","sessionId":"s1"}"#,
            "\n",
            r#"{"type":"assistant","message":{"content":[{"type":"tool_use","name":"X"}]}}"#,
            "\n",
            r#"{"type":"user","message":{"content":"no id"}}"#,
            "\n",
            r#"{"type":"assistant","message":{"content":[{"type":"tool_use","id":"t1","name":"Write","input":{"file_path":5}}]}}"#,
            "\n",
        );
        let (items, odd) = read("claude-code", FILE, content);
        assert_eq!(items, ["call file t1 for - - - Write: other"]);
        assert_eq!(odd, 4);
    }
}
