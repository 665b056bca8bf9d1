//! Copilot CLI: `session-state/SESSION/events.jsonl`, in older versions `session-state/SESSION.jsonl`.
//!
//! It knows no file.

use std::path::Path;

use serde_json::Value;

use super::json::{self, arguments, bytes, full, path, text};
use super::out::{Call, Facts, Out, Place, Prompt, Reader};
use super::{What, patch};

pub(super) struct Copilot {
    session: String,
    name: String,
}

impl Copilot {
    pub(super) fn new(path: &Path) -> Copilot {
        let stem = path.file_stem().filter(|stem| *stem != "events");
        let name = stem.or_else(|| path.parent()?.file_name());
        let name = name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Copilot { session: name.clone(), name }
    }
}

impl Reader for Copilot {
    fn record(&mut self, record: &Value, _: &Place, out: &mut Out) {
        let at = json::time(record, "timestamp");
        let (Some(kind), Some(data)) = (text(record, "type"), record.get("data")) else {
            out.odd += 1;
            return;
        };
        match kind {
            "session.start" | "session.resume" => {
                // A copy of another session keeps that one's.
                self.session = full(data, "sessionId").unwrap_or_else(|| self.session.clone());
                let cwd = data.get("context").and_then(|context| path(context, &["cwd"]));
                let facts = Facts { cwd, version: full(data, "copilotVersion"), model: full(data, "selectedModel") };
                out.session(&self.session, facts);
            }
            "session.model_change" => {
                out.session(&self.session, Facts { model: full(data, "newModel"), ..Facts::default() });
            }
            "user.message" => {
                let Some(said) = text(data, "content") else {
                    out.odd += 1;
                    return;
                };
                // Skills and the program itself speak in the user's place, too.
                let is_user = text(data, "source").is_none_or(|source| source == "user");
                match full(record, "id") {
                    Some(id) if is_user && !said.trim().is_empty() => {
                        let text = said.trim().to_owned();
                        out.prompt(Prompt { session: &self.session, id, at, cwd: None, text });
                    }
                    Some(_) => {}
                    None => out.odd += 1,
                }
            }
            "tool.execution_start" => {
                let (Some(id), Some(tool)) = (text(data, "toolCallId"), text(data, "toolName")) else {
                    out.odd += 1;
                    return;
                };
                let given = arguments(data.get("arguments").unwrap_or(&Value::Null));
                let prompt = out.prompt_of(&self.session);
                let cwd = path(&given, &["cwd", "workdir"]);
                let call = Call { session: &self.session, id, prompt, at, cwd, tool };
                out.call(call, || what(tool, &given).unwrap_or(What::Other));
            }
            "tool.execution_complete" => match text(data, "toolCallId") {
                Some(id) => {
                    let failed = data.get("success").and_then(Value::as_bool).map(|success| !success);
                    out.done(&self.session, id, at, failed);
                }
                None => out.odd += 1,
            },
            // All others are named like these.
            _ if kind.contains('.') || kind == "abort" => {}
            _ => out.odd += 1,
        }
    }

    fn restart(&mut self) {
        self.session = self.name.clone();
    }
}

fn what(tool: &str, given: &Value) -> Option<What> {
    let path = || path(given, &["path", "file_path", "filePath"]);
    // One tool with several commands.
    let tool = if tool == "str_replace_editor" { text(given, "command")? } else { tool };
    Some(match tool {
        "bash" | "shell" | "local_shell" => What::Command(full(given, "command")?),
        "view" | "read_file" => What::Read { path: path()? },
        "create" | "write_file" => What::Write { path: path()?, content: bytes(given, &["file_text", "content"])? },
        "edit" | "str_replace" => What::Edit {
            path: path()?,
            old: bytes(given, &["old_str", "old_string"])?,
            new: bytes(given, &["new_str", "new_string"])?,
        },
        "apply_patch" => given.as_str().or_else(|| json::any(given, &["input", "patch"])).map(patch::what)?,
        _ => return None,
    })
}

#[cfg(test)]
pub(super) use tests::SAMPLE;

#[cfg(test)]
mod tests {
    use super::super::tests::read;

    pub(in super::super) const SAMPLE: &str = concat!(
        r#"{"type":"session.start","data":{"sessionId":"s1","version":1,"producer":"copilot-agent","copilotVersion":"0.0.420","startTime":"2023-11-14T22:13:20.000Z","context":{"cwd":"/w","gitRoot":"/w","branch":"main"}},"id":"e0","timestamp":"2023-11-14T22:13:20.000Z","parentId":null}"#,
        "\n",
        r#"{"type":"session.model_change","data":{"newModel":"gpt-5"},"id":"e1","timestamp":"2023-11-14T22:13:20.000Z","parentId":"e0"}"#,
        "\n",
        r#"{"type":"user.message","data":{"content":"review it","transformedContent":"<current_datetime>x</current_datetime>\n\nreview it","attachments":[]},"id":"e2","timestamp":"2023-11-14T22:13:21.000Z","parentId":"e1"}"#,
        "\n",
        r#"{"type":"assistant.message","data":{"messageId":"m1","content":"","toolRequests":[{"toolCallId":"c1","name":"bash","arguments":{"command":"git diff"}}]},"id":"e3","timestamp":"2023-11-14T22:13:22.000Z","parentId":"e2"}"#,
        "\n",
        r#"{"type":"tool.execution_start","data":{"toolCallId":"c1","toolName":"bash","arguments":{"command":"git diff"}},"id":"e4","timestamp":"2023-11-14T22:13:23.000Z","parentId":"e3"}"#,
        "\n",
        r#"{"type":"tool.execution_complete","data":{"toolCallId":"c1","success":true,"result":{"content":"x"}},"id":"e5","timestamp":"2023-11-14T22:13:24.000Z","parentId":"e4"}"#,
        "\n",
        r#"{"type":"user.message","data":{"content":"a skill","source":"skill-pdf"},"id":"e6","timestamp":"2023-11-14T22:13:25.000Z","parentId":"e5"}"#,
        "\n",
        r#"{"type":"tool.execution_start","data":{"toolCallId":"c2","toolName":"create","arguments":"{\"path\":\"/w/n\",\"file_text\":\"new\\n\"}"},"id":"e7","timestamp":"2023-11-14T22:13:26.000Z"}"#,
        "\n",
        r#"{"type":"tool.execution_start","data":{"toolCallId":"c3","toolName":"str_replace_editor","arguments":{"command":"str_replace","path":"/w/n","old_str":"a","new_str":"b"}},"id":"e8","timestamp":"2023-11-14T22:13:27.000Z"}"#,
        "\n",
        r#"{"type":"tool.execution_complete","data":{"toolCallId":"c3","success":false,"error":{"message":"no"}},"id":"e9","timestamp":"2023-11-14T22:13:28.000Z"}"#,
        "\n",
        r#"{"type":"user.message","data":{"content":"go on"},"id":"e10","timestamp":"2023-11-14T22:13:29.000Z"}"#,
        "\n",
        r#"{"type":"tool.execution_start","data":{"toolCallId":"c4","toolName":"view","arguments":{"path":"/w/n"}},"id":"e11","timestamp":"2023-11-14T22:13:30.000Z"}"#,
        "\n",
        r#"{"type":"abort","data":{"reason":"user_initiated"},"id":"e12","timestamp":"2023-11-14T22:13:31.000Z"}"#,
        "\n",
    );

    #[test]
    fn prompts_and_calls() {
        let (items, odd) = read("copilot-cli", "session-state/s1/events.jsonl", SAMPLE);
        assert_eq!(
            items,
            [
                "session s1 /w 0.0.420 -",
                "session s1 /w 0.0.420 gpt-5",
                "prompt s1 e2 1.000 /w: review it",
                "call s1 c1 for e2 3.000 /w bash: $ git diff",
                "done s1 c1 4.000 failed Some(false)",
                "call s1 c2 for e2 6.000 /w create: /w/n := new\n",
                "call s1 c3 for e2 7.000 /w str_replace_editor: /w/n a -> b",
                "done s1 c3 8.000 failed Some(true)",
                "prompt s1 e10 9.000 /w: go on",
                "call s1 c4 for e10 10.000 /w view: < /w/n",
            ]
        );
        assert_eq!(odd, 0);
    }

    #[test]
    fn without_a_beginning_the_name_is_the_session() {
        let rest: String = SAMPLE.lines().skip(2).take(1).collect::<Vec<_>>().join("") + "\n";
        assert_eq!(read("copilot-cli", "session-state/s2/events.jsonl", &rest).0, ["prompt s2 e2 1.000 -: review it"]);
        assert_eq!(read("copilot-cli", "session-state/s3.jsonl", &rest).0, ["prompt s3 e2 1.000 -: review it"]);
    }
}
