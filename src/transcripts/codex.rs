//! Codex CLI: `sessions/YYYY/MM/DD/rollout-TIME-SESSION.jsonl`, and `.jsonl.zst` when it is old.
//!
//! A record is an envelope around what went to the model (`response_item`) or to the screen (`event_msg`); a prompt is usually in both. It
//! knows no file.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::json::{self, arguments, bytes, content, full, path, text};
use super::out::{Call, Facts, Out, Place, Prompt, Reader, made_id};
use super::{What, patch};
use crate::types::Time;

/// Kinds of records that say nothing about prompts or calls.
const SILENT: &[&str] = &[
    "compacted",
    "ghost_snapshot",
    "inter_agent_communication",
    "inter_agent_communication_metadata",
    "realtime_item",
    "security_risk_score",
    "state",
    "world_state",
];
/// The same, of response items.
const SILENT_ITEMS: &[&str] = &[
    "additional_tools",
    "agent_message",
    "compaction",
    "compaction_summary",
    "compaction_trigger",
    "context_compaction",
    "ghost_snapshot",
    "image_generation_call",
    "other",
    "reasoning",
    "tool_search_call",
    "tool_search_output",
    "web_search_call",
];
/// How texts begin that the program puts into the user's place, beside elements whose name has an underscore.
const NOT_SAID: &[&str] = &["# AGENTS.md instructions", "<INSTRUCTIONS>", "<skill>", "<image", "</image"];
/// So many prompts are remembered, to tell the two records of one from two prompts.
const REMEMBERED: usize = 8;

/// Where a prompt was recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Record {
    Response = 1,
    Event = 2,
    Item = 4,
}

pub(super) struct Codex {
    /// Of the first record, or of the file's name: what was copied from another session at a fork counts to this one.
    session: String,
    is_told: bool,
    /// Its user is another agent.
    is_subagent: bool,
    prompts: u64,
    /// The last prompts, and where they were recorded.
    recent: Vec<(String, u8)>,
    /// The session as the file's name has it.
    name: String,
    /// When the record was written.
    at: Option<Time>,
}

impl Codex {
    pub(super) fn new(path: &Path) -> Codex {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let stem = name.split('.').next().unwrap_or_default();
        // A UUID has 36 characters.
        let id = stem.len().checked_sub(36).and_then(|at| stem.get(at..)).unwrap_or(stem);
        let name = id.to_owned();
        Codex {
            session: name.clone(),
            is_told: false,
            is_subagent: false,
            prompts: 0,
            recent: Vec::new(),
            name,
            at: None,
        }
    }

    fn session(&mut self, meta: &Value, out: &mut Out) {
        if self.is_told {
            return;
        }
        let Some(id) = full(meta, "id").or_else(|| full(meta, "session_id")) else {
            out.odd += 1;
            return;
        };
        self.is_told = true;
        self.session = id;
        let source = meta.get("source");
        self.is_subagent =
            source.is_some_and(|source| source.as_str() == Some("subagent") || source.get("subagent").is_some());
        let facts =
            Facts { cwd: local(meta, &["cwd"]), version: full(meta, "cli_version"), model: full(meta, "model") };
        out.session(&self.session, facts);
    }

    fn prompt(&mut self, said: &str, record: Record, out: &mut Out) {
        let said = said.trim();
        if said.is_empty() || self.is_subagent {
            return;
        }
        let bit = record as u8;
        let same = |(text, places): &&mut (String, u8)| places & bit == 0 && text == said;
        if let Some((_, places)) = self.recent.iter_mut().rev().find(same) {
            *places |= bit;
            return;
        }
        // One of the two may have what a client put around it.
        if let Some((text, places)) = self.recent.last_mut()
            && *places & bit == 0
            && (text.contains(said) || said.contains(text.as_str()))
        {
            *places |= bit;
            return;
        }
        self.prompts += 1;
        if self.recent.len() >= REMEMBERED {
            self.recent.remove(0);
        }
        self.recent.push((said.to_owned(), bit));
        let id = made_id(&self.session, self.prompts, said);
        out.prompt(Prompt { session: &self.session, id, at: self.at, cwd: None, text: said.to_owned() });
    }

    fn call(&self, id: Option<&str>, tool: &str, did: Did, out: &mut Out) {
        let Some(id) = id else {
            out.odd += 1;
            return;
        };
        let prompt = out.prompt_of(&self.session);
        let home = out.cwd_of(&self.session);
        let cwd = did.cwd.map(|cwd| home.map(|home| home.join(&cwd)).unwrap_or(cwd));
        let tool = did.tool.unwrap_or(tool);
        out.call(Call { session: &self.session, id, prompt, at: self.at, cwd, tool }, || did.what);
    }

    /// What went to the model or came from it.
    fn response(&mut self, item: &Value, out: &mut Out) {
        let id = || text(item, "call_id").or_else(|| text(item, "id"));
        let name = text(item, "name").unwrap_or_default();
        match text(item, "type") {
            Some("message") => {
                if text(item, "role") == Some("user") {
                    let said = content(item.get("content").unwrap_or(&Value::Null), said);
                    self.prompt(&said, Record::Response, out);
                }
            }
            Some("function_call") => {
                let given = arguments(item.get("arguments").unwrap_or(&Value::Null));
                self.call(id(), name, function(name, &given), out);
            }
            Some("custom_tool_call") => {
                let input = text(item, "input").unwrap_or_default();
                let what = if name == "apply_patch" { patch::what(input) } else { What::Other };
                self.call(id(), name, Did { what, cwd: None, tool: None }, out);
            }
            Some("local_shell_call") => {
                let action = item.get("action").unwrap_or(&Value::Null);
                self.call(id(), "local_shell", shell(action), out);
            }
            Some("function_call_output" | "custom_tool_call_output" | "local_shell_call_output") => match id() {
                Some(id) => out.done(&self.session, id, self.at, failed(item.get("output").unwrap_or(&Value::Null))),
                None => out.odd += 1,
            },
            Some(kind) if SILENT_ITEMS.contains(&kind) => {}
            _ => out.odd += 1,
        }
    }

    /// What went to the screen. There are dozens of kinds, and new ones all the time.
    fn event(&mut self, event: &Value, out: &mut Out) {
        let id = text(event, "call_id");
        match text(event, "type") {
            Some("user_message") => {
                let is_plain = text(event, "kind").is_none_or(|kind| kind == "plain");
                if let Some(said) = text(event, "message").filter(|_| is_plain) {
                    self.prompt(said, Record::Event, out);
                }
            }
            Some("exec_command_end") => {
                let failed = event.get("exit_code").and_then(Value::as_i64).map(|code| code != 0);
                id.into_iter().for_each(|id| out.done(&self.session, id, self.at, failed));
            }
            Some("patch_apply_end") => {
                let failed = event.get("success").and_then(Value::as_bool).map(|success| !success);
                id.into_iter().for_each(|id| out.done(&self.session, id, self.at, failed));
            }
            Some("item_completed") => self.item(event.get("item").unwrap_or(&Value::Null), out),
            Some(_) => {}
            None => out.odd += 1,
        }
    }

    /// From version 0.149 on, events are items. Those of calls come at the end of the call.
    fn item(&mut self, item: &Value, out: &mut Out) {
        let failed = text(item, "status").map(|status| !matches!(status, "completed" | "Completed"));
        match text(item, "type") {
            Some("UserMessage") => {
                let said = content(item.get("content").unwrap_or(&Value::Null), |text| text);
                self.prompt(&said, Record::Item, out);
            }
            Some("CommandExecution") => {
                let Some(id) = text(item, "id") else { return };
                self.call(Some(id), "exec_command", shell(item), out);
                let code = item.get("exit_code").and_then(Value::as_i64).map(|code| code != 0);
                out.done(&self.session, id, self.at, code.or(failed));
            }
            Some("FileChange") => {
                let Some(id) = text(item, "id") else { return };
                self.call(Some(id), "apply_patch", Did { what: change(item), cwd: None, tool: None }, out);
                out.done(&self.session, id, self.at, failed);
            }
            _ => {}
        }
    }
}

impl Reader for Codex {
    fn record(&mut self, record: &Value, _: &Place, out: &mut Out) {
        self.at = json::time(record, "timestamp");
        let kind = text(record, "type").or_else(|| text(record, "record_type"));
        // The first versions had no envelope, and a head without a type.
        let Some(payload) = record.get("payload") else {
            match kind {
                Some(kind) if SILENT.contains(&kind) => {}
                Some(_) => self.response(record, out),
                None => self.session(record, out),
            }
            return;
        };
        match kind {
            Some("session_meta") => self.session(payload, out),
            Some("turn_context") => {
                let facts = Facts { cwd: local(payload, &["cwd"]), version: None, model: full(payload, "model") };
                out.session(&self.session, facts);
            }
            Some("response_item") => self.response(payload, out),
            Some("event_msg") => self.event(payload, out),
            Some(kind) if SILENT.contains(&kind) => {}
            _ => out.odd += 1,
        }
    }

    fn restart(&mut self) {
        self.session = self.name.clone();
        self.is_told = false;
        self.is_subagent = false;
        self.prompts = 0;
        self.recent.clear();
    }
}

/// What a call does, where, and its name if not the function's.
struct Did {
    what: What,
    cwd: Option<PathBuf>,
    tool: Option<&'static str>,
}

/// A text in the user's place, or nothing if it is the program's: one of those known, or just an element named with an underscore.
fn said(block: &str) -> &str {
    let block = block.trim();
    let is_element = || {
        let name = block.strip_prefix('<')?.split(['>', ' ', '\n']).next()?;
        let is_name = name.contains('_') && name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_');
        Some(is_name && block.ends_with(&format!("</{name}>")))
    };
    let is_injected = NOT_SAID.iter().any(|begin| block.starts_with(begin)) || is_element().unwrap_or_default();
    if is_injected { "" } else { block }
}

/// A path, or the URI of one on this machine.
fn local(value: &Value, keys: &[&str]) -> Option<PathBuf> {
    let given = path(value, keys)?;
    Some(given.strip_prefix("file:///").map(|path| Path::new("/").join(path)).unwrap_or(given))
}

fn function(name: &str, given: &Value) -> Did {
    match name {
        "shell" | "container.exec" | "shell_command" | "exec_command" | "local_shell" => shell(given),
        "apply_patch" => {
            let what = json::any(given, &["input", "patch"]).map_or(What::Other, patch::what);
            Did { what, cwd: None, tool: None }
        }
        "view_image" => {
            let what = path(given, &["path"]).map_or(What::Other, |path| What::Read { path });
            Did { what, cwd: None, tool: None }
        }
        _ => Did { what: What::Other, cwd: None, tool: None },
    }
}

/// A command: text, or a list of words. One that only hands over a patch is a patch.
fn shell(given: &Value) -> Did {
    let cwd = local(given, &["workdir", "working_directory", "cwd"]);
    let words: Option<Vec<&str>> = given.get("command").and_then(Value::as_array).map(|words| {
        // All of them, or none.
        words.iter().map(Value::as_str).collect::<Option<_>>().unwrap_or_default()
    });
    let command = match words.as_deref() {
        Some(["apply_patch" | "applypatch", patch]) => {
            return Did { what: patch::what(patch), cwd, tool: Some("apply_patch") };
        }
        Some([shell, option, script]) if is_shell(shell) && option.starts_with('-') && option.ends_with('c') => {
            Some((*script).to_owned())
        }
        Some([]) => None,
        Some(words) => Some(words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")),
        None => full(given, "command").or_else(|| full(given, "cmd")),
    };
    let Some(command) = command else { return Did { what: What::Other, cwd, tool: None } };
    match patch::in_command(&command) {
        Some(patch) => Did { what: patch::what(patch), cwd, tool: Some("apply_patch") },
        None => Did { what: What::Command(command), cwd, tool: None },
    }
}

fn is_shell(program: &str) -> bool {
    let name = program.rsplit('/').next().unwrap_or(program);
    ["sh", "bash", "zsh", "dash"].contains(&name)
}

/// A word as a shell would be given it.
fn quoted(word: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./=:,+@%".contains(&b);
    if !word.is_empty() && word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Of changed files, the one that was added if there is no other.
fn change(item: &Value) -> What {
    let Some(changes) = item.get("changes").and_then(Value::as_object).filter(|changes| changes.len() == 1) else {
        return What::Other;
    };
    let added = changes.iter().find_map(|(path, change)| {
        let content = bytes(change, &["content"]).filter(|_| text(change, "type") == Some("add"))?;
        Some(What::Write { path: PathBuf::from(path), content })
    });
    added.unwrap_or(What::Other)
}

/// Whether a result says that the call failed: there is no field for it, but an exit code in the text.
fn failed(output: &Value) -> Option<bool> {
    if let Some(success) = output.get("success").and_then(Value::as_bool) {
        return Some(!success);
    }
    let said = content(output.get("content").unwrap_or(output), |text| text);
    let code = json::parse(said.as_bytes()).and_then(|said| said.get("metadata")?.get("exit_code")?.as_i64());
    let in_text = || {
        // What the command itself wrote comes after this.
        said.lines().take(6).find_map(|line| {
            let code = line.strip_prefix("Exit code: ").or_else(|| line.strip_prefix("Process exited with code "))?;
            code.trim().parse::<i64>().ok()
        })
    };
    code.or_else(in_text).map(|code| code != 0)
}

#[cfg(test)]
pub(super) use tests::SAMPLE;

#[cfg(test)]
mod tests {
    use super::super::tests::{Written, next, read};

    /// What is said twice is, and what is not said is there.
    pub(in super::super) const SAMPLE: &str = concat!(
        r#"{"timestamp":"2023-11-14T22:13:20.000Z","type":"session_meta","payload":{"id":"s1","timestamp":"2023-11-14T22:13:20.000Z","cwd":"/w","originator":"codex_cli_rs","cli_version":"0.140.0","source":"cli","model_provider":"openai"}}"#,
        "\n",
        r#"{"timestamp":"2023-11-14T22:13:20.100Z","type":"response_item","payload":{"type":"message","role":"developer","content":[{"type":"input_text","text":"<permissions instructions>"}]}}"#,
        "\n",
        r##"{"timestamp":"2023-11-14T22:13:20.200Z","type":"response_item","payload":{"type":"message","role":"user","content":[{"type":"input_text","text":"# AGENTS.md instructions for /w\n\n<INSTRUCTIONS>x</INSTRUCTIONS>"},{"type":"input_text","text":"<environment_context>\n  <cwd>/w</cwd>\n</environment_context>"}]}}"##,
        "\n",
        r#"{"timestamp":"2023-11-14T22:13:21.000Z","type":"turn_context","payload":{"turn_id":"1","cwd":"/w","approval_policy":"never","model":"gpt-5-codex"}}"#,
        "\n",
        r#"{"timestamp":"2023-11-14T22:13:21.000Z","type":"response_item","payload":{"type":"message","role":"user","content":[{"type":"input_text","text":"fix it"}]}}"#,
        "\n",
        r#"{"timestamp":"2023-11-14T22:13:21.001Z","type":"event_msg","payload":{"type":"user_message","message":"fix it\n","images":[]}}"#,
        "\n",
        r#"{"timestamp":"2023-11-14T22:13:22.000Z","type":"response_item","payload":{"type":"reasoning","summary":[]}}"#,
        "\n",
        r#"{"timestamp":"2023-11-14T22:13:22.000Z","type":"response_item","payload":{"type":"function_call","name":"shell","arguments":"{\"command\":[\"bash\",\"-lc\",\"make test\"],\"workdir\":\"/w/sub\"}","call_id":"c1"}}"#,
        "\n",
        r#"{"timestamp":"2023-11-14T22:13:23.000Z","type":"response_item","payload":{"type":"function_call_output","call_id":"c1","output":"{\"output\":\"bad\",\"metadata\":{\"exit_code\":2,\"duration_seconds\":0.1}}"}}"#,
        "\n",
        r#"{"timestamp":"2023-11-14T22:13:24.000Z","type":"response_item","payload":{"type":"function_call","name":"exec_command","arguments":"{\"cmd\":\"ls\",\"workdir\":\"sub\"}","call_id":"c2"}}"#,
        "\n",
        r#"{"timestamp":"2023-11-14T22:13:25.000Z","type":"response_item","payload":{"type":"function_call_output","call_id":"c2","output":"Chunk ID: 1\nWall time: 0.1 seconds\nProcess exited with code 0\nOutput:\nExit code: 9"}}"#,
        "\n",
        r#"{"timestamp":"2023-11-14T22:13:26.000Z","type":"response_item","payload":{"type":"custom_tool_call","status":"completed","call_id":"c3","name":"apply_patch","input":"*** Begin Patch\n*** Add File: n.txt\n+new\n*** End Patch"}}"#,
        "\n",
        r#"{"timestamp":"2023-11-14T22:13:27.000Z","type":"event_msg","payload":{"type":"patch_apply_end","call_id":"c3","success":true}}"#,
        "\n",
        r#"{"timestamp":"2023-11-14T22:13:27.500Z","type":"response_item","payload":{"type":"custom_tool_call_output","call_id":"c3","output":"Success"}}"#,
        "\n",
        r#"{"timestamp":"2023-11-14T22:13:28.000Z","type":"response_item","payload":{"type":"local_shell_call","call_id":"c4","status":"completed","action":{"type":"exec","command":["git","commit","-m","a b"],"working_directory":"/w"}}}"#,
        "\n",
        r#"{"timestamp":"2023-11-14T22:13:29.000Z","type":"response_item","payload":{"type":"function_call","name":"shell_command","arguments":"{\"command\":\"apply_patch <<'EOF'\\n*** Begin Patch\\n*** Update File: n.txt\\n@@\\n-new\\n+old\\n*** End Patch\\nEOF\"}","call_id":"c5"}}"#,
        "\n",
        r#"{"timestamp":"2023-11-14T22:13:30.000Z","type":"event_msg","payload":{"type":"user_message","message":"fix it"}}"#,
        "\n",
        r#"{"timestamp":"2023-11-14T22:13:30.001Z","type":"response_item","payload":{"type":"message","role":"user","content":[{"type":"input_text","text":"fix it"}]}}"#,
        "\n",
        r#"{"timestamp":"2023-11-14T22:13:31.000Z","type":"event_msg","payload":{"type":"item_completed","thread_id":"s1","turn_id":"2","item":{"type":"CommandExecution","id":"c6","command":["/bin/zsh","-lc","true"],"cwd":"file:///w/sub","status":"completed","exit_code":0}}}"#,
        "\n",
        r#"{"timestamp":"2023-11-14T22:13:32.000Z","type":"event_msg","payload":{"type":"item_completed","item":{"type":"FileChange","id":"c7","changes":{"/w/m.txt":{"type":"add","content":"m\n"}},"status":"failed"}}}"#,
        "\n",
        r#"{"timestamp":"2023-11-14T22:13:33.000Z","type":"event_msg","payload":{"type":"item_completed","item":{"type":"UserMessage","id":"i1","content":[{"type":"text","text":"and more"}]}}}"#,
        "\n",
    );

    const FILE: &str = "sessions/2023/11/14/rollout-2023-11-14T22-13-20-11111111-2222-3333-4444-555555555555.jsonl";

    #[test]
    fn prompts_and_calls() {
        let (items, odd) = read("codex", FILE, SAMPLE);
        assert_eq!(
            items,
            [
                "session s1 /w 0.140.0 -",
                "session s1 /w 0.140.0 gpt-5-codex",
                "prompt s1 s1:1:6df0e4e9f256 1.000 /w: fix it",
                "call s1 c1 for s1:1:6df0e4e9f256 2.000 /w/sub shell: $ make test",
                "done s1 c1 3.000 failed Some(true)",
                "call s1 c2 for s1:1:6df0e4e9f256 4.000 /w/sub exec_command: $ ls",
                "done s1 c2 5.000 failed Some(false)",
                "call s1 c3 for s1:1:6df0e4e9f256 6.000 /w apply_patch: n.txt := new\n",
                "done s1 c3 7.000 failed Some(false)",
                "call s1 c4 for s1:1:6df0e4e9f256 8.000 /w local_shell: $ git commit -m 'a b'",
                "call s1 c5 for s1:1:6df0e4e9f256 9.000 /w apply_patch: other",
                "prompt s1 s1:2:6df0e4e9f256 10.000 /w: fix it",
                "call s1 c6 for s1:2:6df0e4e9f256 11.000 /w/sub exec_command: $ true",
                "done s1 c6 11.000 failed Some(false)",
                "call s1 c7 for s1:2:6df0e4e9f256 12.000 /w apply_patch: /w/m.txt := m\n",
                "done s1 c7 12.000 failed Some(true)",
                "prompt s1 s1:3:49fd40325c93 13.000 /w: and more",
            ]
        );
        assert_eq!(odd, 0);
    }

    #[test]
    fn one_prompt_may_differ_between_its_records() {
        let content = concat!(
            r##"{"type":"event_msg","payload":{"type":"user_message","message":"# Context from my IDE setup:\n## My request for Codex:\nfix it"}}"##,
            "\n",
            r#"{"type":"response_item","payload":{"type":"message","role":"user","content":[{"type":"input_text","text":"fix it"},{"type":"input_text","text":"<image name=x>"}]}}"#,
            "\n",
            r#"{"type":"event_msg","payload":{"type":"user_message","kind":"environment_context","message":"not said"}}"#,
            "\n",
            r#"{"type":"event_msg","payload":{"type":"user_message","message":"<my_tag>said</my_tag>"}}"#,
            "\n",
        );
        let (items, odd) = read("codex", FILE, content);
        assert_eq!(items.len(), 2, "{items:?}");
        assert!(items[1].ends_with("- -: <my_tag>said</my_tag>"));
        assert!(items[0].starts_with("prompt 11111111-2222-3333-4444-555555555555 "));
        assert_eq!(odd, 0);
    }

    #[test]
    fn what_an_agent_asks_of_another_is_no_prompt() {
        let content =
            SAMPLE.replace(r#""source":"cli""#, r#""source":{"subagent":{"thread_spawn":{"parent_thread_id":"s0"}}}"#);
        let items = read("codex", FILE, content).0;
        assert_eq!(items.iter().filter(|item| item.starts_with("prompt")).count(), 0);
        assert!(items.iter().any(|item| item.starts_with("call s1 c1 for - ")), "{items:?}");
    }

    #[test]
    fn what_was_copied_at_a_fork_counts_to_the_fork() {
        let head = r#"{"type":"session_meta","payload":{"id":"s2","forked_from_id":"s1","cwd":"/v"}}"#;
        let items = read("codex", FILE, format!("{head}\n{SAMPLE}")).0;
        assert_eq!(items[0], "session s2 /v - -");
        assert!(items[1..].iter().all(|item| item.contains(" s2 ")), "{items:?}");
    }

    #[test]
    fn the_first_versions_had_no_envelope() {
        let content = concat!(
            r#"{"id":"s0","timestamp":"2023-11-14T22:13:20.000Z","instructions":null,"git":{}}"#,
            "\n",
            r#"{"record_type":"state"}"#,
            "\n",
            r#"{"type":"message","role":"user","content":[{"type":"input_text","text":"hello"}]}"#,
            "\n",
            r#"{"type":"function_call","name":"shell","arguments":"{\"command\":[\"ls\"]}","call_id":"c1"}"#,
            "\n",
            r#"{"type":"function_call_output","call_id":"c1","output":"Exit code: 0\nWall time: 1 s\nOutput:\n"}"#,
            "\n",
        );
        let (items, odd) = read("codex", FILE, content);
        assert!(items[0].starts_with("prompt s0 s0:1:"), "{items:?}");
        assert!(items[1].ends_with("- - shell: $ ls"), "{items:?}");
        assert_eq!(items[2], "done s0 c1 - failed Some(false)");
        assert_eq!(odd, 0);
    }

    #[test]
    fn what_is_not_known_is_counted() {
        let content = concat!(
            r#"{"type":"news","payload":{}}"#,
            "\n",
            r#"{"type":"response_item","payload":{"type":"news"}}"#,
            "\n",
            r#"{"type":"event_msg","payload":{"type":"news"}}"#,
            "\n",
            r#"{"type":"response_item","payload":{"type":"function_call","name":"x","arguments":"not JSON"}}"#,
            "\n",
            r#"{"type":"response_item","payload":{"type":"function_call","name":"shell","arguments":"not JSON","call_id":"c1"}}"#,
            "\n",
        );
        let (items, odd) = read("codex", FILE, content);
        assert_eq!(items.len(), 1, "{items:?}");
        assert!(items[0].ends_with("shell: other"));
        assert_eq!(odd, 3);
    }

    #[test]
    fn compressed_ones_are_read_as_far_as_they_go() {
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let packed = ruzstd::encoding::compress_to_vec(SAMPLE.as_bytes(), level);
        let name = "archived_sessions/rollout-2023-11-14T22-13-20-s1.jsonl.zst";
        let (items, odd) = read("codex", name, &packed);
        assert_eq!((items, odd), read("codex", FILE, SAMPLE));
        // Many blocks, cut in the last one.
        let filler = format!("{}\n", r#"{"type":"event_msg","payload":{"type":"token_count","n":1}}"#).repeat(20_000);
        let packed = ruzstd::encoding::compress_to_vec((SAMPLE.to_owned() + &filler).as_bytes(), level);
        let written = Written::new(name, &packed[..packed.len() - 3]);
        let mut tail = written.tail("codex");
        assert_eq!(next(&mut tail).len(), 17);
        assert_eq!(tail.odd(), 1);
        assert_eq!(next(&mut tail), [] as [&str; 0]);
        assert_eq!(tail.odd(), 1);
        written.append(&packed[packed.len() - 3..]);
        assert_eq!(next(&mut tail), [] as [&str; 0]);
        assert_eq!(tail.odd(), 1);
    }
}
