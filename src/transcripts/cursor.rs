//! Cursor CLI: `projects/DIRECTORY/agent-transcripts/SESSION/SESSION.jsonl`.
//!
//! Records have neither time nor id nor directory, and results are not written. A line that comes while the file is being watched gets the
//! time at which it was read. It knows no file.

use std::path::Path;

use serde_json::Value;

use super::What;
use super::json::{any, bytes, content, full, path, text};
use super::out::{Call, Out, Place, Prompt, Reader, made_id};

pub(super) struct Cursor {
    session: String,
    is_subagent: bool,
}

impl Cursor {
    pub(super) fn new(path: &Path) -> Cursor {
        let mut above = path.ancestors();
        let is_subagent = above.any(|dir| dir.file_name().is_some_and(|name| name == "subagents"));
        let session = if is_subagent { above.next().and_then(Path::file_name) } else { path.file_stem() };
        let session = session.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Cursor { session, is_subagent }
    }
}

impl Reader for Cursor {
    fn record(&mut self, record: &Value, place: &Place, out: &mut Out) {
        let said = record.get("message").and_then(|message| message.get("content"));
        match (text(record, "role"), said) {
            (Some("user"), Some(said)) => {
                let said = content(said, |text| text);
                if let Some(asked) = asked(&said).filter(|asked| !asked.is_empty() && !self.is_subagent) {
                    let (id, text) = (made_id(&self.session, place.line, asked), asked.to_owned());
                    out.prompt(Prompt { session: &self.session, id, at: place.appended, cwd: None, text });
                }
            }
            (Some("assistant"), Some(said)) => {
                let uses =
                    said.as_array().into_iter().flatten().filter(|block| text(block, "type") == Some("tool_use"));
                for (number, block) in uses.enumerate() {
                    let Some(tool) = text(block, "name") else {
                        out.odd += 1;
                        continue;
                    };
                    let input = block.get("input").unwrap_or(&Value::Null);
                    let id = made_id(&self.session, place.line, &format!("{number} {tool} {input}"));
                    let prompt = out.prompt_of(&self.session).filter(|_| !self.is_subagent);
                    let cwd = path(input, &["working_directory", "cwd"]);
                    let call = Call { session: &self.session, id: &id, prompt, at: place.appended, cwd, tool };
                    out.call(call, || what(tool, input).unwrap_or(What::Other));
                }
            }
            (Some("system" | "tool"), _) => {}
            (None, _) if record.get("type").is_some_and(Value::is_string) => {}
            _ => out.odd += 1,
        }
    }
}

/// What the user typed. Around it there are times, open files and rules.
fn asked(said: &str) -> Option<&str> {
    const BEGIN: &str = "<user_query>";
    const END: &str = "</user_query>";
    let begin = said.find(BEGIN)? + BEGIN.len();
    let rest = said.get(begin..)?;
    rest.get(..rest.rfind(END).unwrap_or(rest.len())).map(str::trim)
}

fn what(tool: &str, input: &Value) -> Option<What> {
    let path = || path(input, &["path", "file_path", "target_file"]);
    let edit = input.get("edits").and_then(|edits| edits.get(0)).unwrap_or(input);
    Some(match tool {
        "Shell" | "Bash" | "run_terminal_cmd" => What::Command(full(input, "command")?),
        "Read" | "read_file" => What::Read { path: path()? },
        "Write" | "Create" | "write" => What::Write { path: path()?, content: bytes(input, &["contents", "content"])? },
        "Edit" | "MultiEdit" | "StrReplace" | "search_replace" => {
            let old = any(edit, &["old_string", "old_str"])?.as_bytes().to_vec();
            What::Edit { path: path()?, old, new: bytes(edit, &["new_string", "new_str"])? }
        }
        _ => return None,
    })
}

#[cfg(test)]
pub(super) use tests::SAMPLE;

#[cfg(test)]
mod tests {
    use super::super::tests::{Written, next, read};

    pub(in super::super) const SAMPLE: &str = concat!(
        r#"{"role":"user","message":{"content":[{"type":"text","text":"<timestamp>Tuesday</timestamp>\n<user_query>\nadd a file\n</user_query>"}]}}"#,
        "\n",
        r#"{"role":"assistant","message":{"content":[{"type":"text","text":"I will."},{"type":"tool_use","name":"Write","input":{"path":"/w/a","contents":"new\n"}},{"type":"tool_use","name":"Shell","input":{"command":"make","working_directory":"/w"}}]}}"#,
        "\n",
        r#"{"type":"turn_ended","status":"success"}"#,
        "\n",
        r#"{"role":"user","message":{"content":[{"type":"text","text":"<system_reminder>nothing</system_reminder>"}]}}"#,
        "\n",
        r#"{"role":"user","message":{"content":"<user_query>go on</user_query>"}}"#,
        "\n",
        r#"{"role":"assistant","message":{"content":[{"type":"tool_use","name":"StrReplace","input":{"path":"/w/a","old_string":"n","new_string":"o"}},{"type":"tool_use","name":"Read","input":{"path":"/w/a"}}]}}"#,
        "\n",
    );

    #[test]
    fn prompts_and_calls() {
        let (items, odd) = read("cursor-cli", "projects/w/agent-transcripts/u/u.jsonl", SAMPLE);
        assert_eq!(
            items,
            [
                "prompt u u:1:333cb81562f7 - -: add a file",
                "call u u:2:f72b37d7c824 for u:1:333cb81562f7 - - Write: /w/a := new\n",
                "call u u:2:5e0facb9cb83 for u:1:333cb81562f7 - /w Shell: $ make",
                "prompt u u:5:24f033cab6da - -: go on",
                "call u u:6:0cf461ae8c5a for u:5:24f033cab6da - - StrReplace: /w/a n -> o",
                "call u u:6:33f678aa2307 for u:5:24f033cab6da - - Read: < /w/a",
            ]
        );
        assert_eq!(odd, 0);
        // Those of a subagent are not the user's, and belong to the parent's session.
        let items = read("cursor-cli", "agent-transcripts/u/subagents/v.jsonl", SAMPLE).0;
        assert_eq!(items.len(), 4);
        assert!(items.iter().all(|item| item.starts_with("call u ") && item.contains(" for - ")), "{items:?}");
    }

    #[test]
    fn what_is_appended_has_the_time_at_which_it_was_read() {
        let (there, new) = SAMPLE.split_at(SAMPLE.find(r#"{"type":"turn_ended""#).unwrap());
        let written = Written::new("u.jsonl", there);
        let mut tail = written.tail("cursor-cli");
        assert!(next(&mut tail).iter().all(|item| !item.contains(" now ")));
        let (one, two) = new.split_at(new.len() - 10);
        written.append(one);
        let items = next(&mut tail);
        assert!(items[0].ends_with(" now -: go on"), "{items:?}");
        written.append(two);
        let items = next(&mut tail);
        assert_eq!(items.iter().filter(|item| item.contains(" now - ")).count(), 2, "{items:?}");
    }
}
