//! Transcripts that lie, or are broken: steps stay what was seen, and no prompt comes to them by a claim alone.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::claude::clear;
use super::judge::{paths, say};
use super::real::populate;
use crate::common::json::text;
use crate::common::{MountedRepo, assert_ok, can_mount, make_script, wait_for};

/// A program called `claude` that runs a script of the test's; it knows where its transcript is, and the time as transcripts have it.
const AGENT: &str = r#"#!/bin/bash
now() { date -u -d "${AT:-now}" +%Y-%m-%dT%H:%M:%S.%3NZ; }
# record SESSION TYPE CONTENT [MORE]: a line of the transcript, with the present time.
record() {
    printf '{"type":"%s","uuid":"%s","sessionId":"%s","cwd":"%s","version":"9.9.9","timestamp":"%s","message":{"role":"%s","model":"m","content":%s}}\n' \
        "$2" "u$RANDOM$RANDOM$RANDOM" "$1" "$PWD" "$(now)" "$2" "$3" >> "$transcripts/$1.jsonl"
}
prompt() { record "$1" user "\"$2\""; }
# call SESSION ID TOOL INPUT
call() { record "$1" assistant "[{\"type\":\"tool_use\",\"id\":\"$2\",\"name\":\"$3\",\"input\":$4}]"; }
result() { record "$1" user "[{\"type\":\"tool_result\",\"tool_use_id\":\"$2\",\"content\":\"ok\"}]"; }
transcripts=$HOME/.claude/projects/x
mkdir -p "$transcripts"
. "$1"
"#;

/// Somebody whose agent is a fake one.
struct Liar<'r> {
    repo: &'r MountedRepo,
    program: PathBuf,
    home: PathBuf,
}

impl Liar<'_> {
    fn new<'r>(repo: &'r MountedRepo, home: &str) -> Liar<'r> {
        let program = repo.outside().join("claude");
        make_script(AGENT, &program);
        let home = repo.outside().join(home);
        fs::create_dir_all(home.join(".claude/projects/x")).expect("make a home");
        Liar { repo, program, home }
    }

    /// Runs a script as the agent, and returns the steps of its session, oldest first.
    fn run(&self, name: &str, script: &str) -> Vec<Value> {
        let path = self.home.join(name);
        fs::write(&path, script).expect("write a script");
        let mut command = Command::new("setsid");
        clear(&mut command);
        command.args(["--wait", "env", "-u", "CLAUDECODE"]).arg(&self.program).arg(&path);
        command.env("HOME", &self.home).current_dir(self.repo.path()).stdin(Stdio::null());
        assert_ok(&command.output().expect("run setsid"), name);
        let sessions = self.repo.json(&["sessions"]);
        let is_it =
            |s: &&Value| s["argv"].as_array().is_some_and(|argv| argv.iter().any(|a| *a == *path.to_string_lossy()));
        let session = sessions.iter().find(is_it).unwrap_or_else(|| panic!("no session of {name}: {sessions:#?}"));
        assert_eq!(text(session, "agent"), "claude-code");
        let mut log = self.repo.json(&["log", "--reads", text(session, "session")]);
        log.reverse();
        log
    }
}

/// The one step that was given this to run, or that changed this by itself.
fn only<'l>(log: &'l [Value], is_it: impl Fn(&Value) -> bool, what: &str) -> &'l Value {
    match log.iter().filter(|step| is_it(step)).collect::<Vec<_>>()[..] {
        [one] => one,
        _ => panic!("{what} in {log:#?}"),
    }
}

fn ran<'l>(log: &'l [Value], command: &str) -> &'l Value {
    only(log, |step| step["command"] == command, command)
}

fn wrote<'l>(log: &'l [Value], path: &str) -> &'l Value {
    only(log, |step| text(step, "kind") == "edit" && paths(step) == [path], path)
}

/// The call and the confidence of a link.
fn link(step: &Value) -> Option<(Option<&str>, &str)> {
    let link = &step["link"];
    assert_eq!(link.is_null(), step["prompt"].is_null(), "{step}");
    (!link.is_null()).then(|| (link["call"].as_str(), text(link, "confidence")))
}

const HIGH: &str = "high";

#[test]
fn a_claim_that_nothing_bears_out_links_nothing() {
    if !can_mount() {
        return;
    }
    let repo = MountedRepo::new(populate);
    let liar = Liar::new(&repo, "home");
    let log = liar.run(
        "script",
        r#"
prompt s1 "an honest prompt"
call s1 honest Bash '{"command":"echo a > a"}'; sh -c 'echo a > a'; result s1 honest
call s1 never Bash '{"command":"rm -rf src README"}'; result s1 never
call s1 other Bash '{"command":"echo b > c"}'; sh -c 'echo b > b'; result s1 other
AT='1 hour ago' call s1 before Bash '{"command":"echo d > d"}'; AT='59 minutes ago' result s1 before; sh -c 'echo d > d'
AT='1 hour' call s1 later Bash '{"command":"echo e > e"}'; sh -c 'echo e > e'; AT='1 hour' result s1 later
sleep 0.5
call s1 write Write "{\"file_path\":\"$PWD/f\",\"content\":\"f\\n\"}"; echo f > f; result s1 write
sleep 0.5
call s1 bytes Write "{\"file_path\":\"$PWD/g\",\"content\":\"else\\n\"}"; echo g > g; result s1 bytes
sleep 0.5
call s1 path Write "{\"file_path\":\"$PWD/i\",\"content\":\"h\\n\"}"; echo h > h; result s1 path
sleep 0.5
call s1 edit Edit "{\"file_path\":\"$PWD/notes\",\"old_string\":\"five\",\"new_string\":\"six\"}"; echo seven >> notes; result s1 edit
sleep 0.5
call s1 twice Bash '{"command":"echo j >> j"}'; sh -c 'echo j >> j'; sh -c 'echo j >> j;'; result s1 twice
true
"#,
    );
    for (command, expected) in [
        ("echo a > a", Some((Some("honest"), HIGH))),
        ("echo b > b", None),
        ("echo d > d", None),
        ("echo e > e", None),
        ("echo j >> j", Some((Some("twice"), HIGH))),
        ("echo j >> j;", None),
    ] {
        assert_eq!(link(ran(&log, command)), expected, "{command}: {log:#?}");
    }
    for (path, expected) in [("f", Some((Some("write"), HIGH))), ("g", None), ("h", None), ("notes", None)] {
        assert_eq!(link(wrote(&log, path)), expected, "{path}: {log:#?}");
    }
    // What never happened is no step, and changed nothing.
    assert!(!log.iter().any(|step| step.to_string().contains("rm -rf")), "{log:#?}");
    assert!(repo.join("README").exists() && repo.join("src/app.py").exists());
    let blame = repo.json(&["blame", repo.join("b").to_str().expect("UTF-8")]);
    assert_eq!((text(&blame[0], "command"), &blame[0]["prompt"]), ("echo b > b", &Value::Null));
    say("transcripts that lie: 3 of 3 true claims linked, 0 of 8 false ones");
}

#[test]
fn a_claim_about_others_is_not_believed() {
    if !can_mount() {
        return;
    }
    let repo = MountedRepo::new(populate);
    let (honest, liar) = (Liar::new(&repo, "home"), Liar::new(&repo, "other"));
    // It names its session to what it starts, as Claude Code does.
    let named = r#"
prompt s1 "an honest prompt"
export CLAUDECODE=1 CLAUDE_CODE_SESSION_ID=s1
call s1 honest Bash '{"command":"echo a > a"}'; sh -c 'echo a > a'; result s1 honest
sh -c 'echo secretly > b'
"#;
    let log = honest.run("named", named);
    assert_eq!(link(ran(&log, "echo a > a")), Some((Some("honest"), "certain")));
    // The conversation is certain, the call is not known.
    assert_eq!(link(ran(&log, "echo secretly > b")), Some((None, "medium")));
    // Another one claims to have done that, and what a script does.
    let script = Command::new("setsid")
        .args(["--wait", "sh", "-c", "sh -c 'echo c > c'; true"])
        .current_dir(repo.path())
        .output();
    assert_ok(&script.expect("run setsid"), "a script");
    let lies = r#"
AT='1 minute ago' prompt s2 "a lie"
AT='1 minute ago' call s2 lie1 Bash '{"command":"echo a > a"}'
AT='1 minute ago' call s2 lie2 Bash '{"command":"echo secretly > b"}'
AT='1 minute ago' call s2 lie3 Bash '{"command":"echo c > c"}'
for n in 1 2 3; do result s2 lie$n; done
sh -c 'cat README' > /dev/null
"#;
    liar.run("lies", lies);
    let all = repo.json(&["log", "--all", "--reads"]);
    assert!(all.iter().all(|step| step["prompt"] != "a lie"), "{all:#?}");
    assert_eq!(link(ran(&all, "echo a > a")), Some((Some("honest"), "certain")));
    assert_eq!(link(ran(&all, "echo c > c")), None);
    let asked: Vec<_> =
        repo.json(&["sessions"]).iter().filter(|s| text(s, "by") == "agent").map(|s| s["prompts"].clone()).collect();
    assert_eq!(asked, [json!(1), json!(0)]);
}

#[test]
fn broken_transcripts_hurt_nobody() {
    if !can_mount() {
        return;
    }
    let repo = MountedRepo::new(populate);
    let liar = Liar::new(&repo, "home");
    let dir = liar.home.join(".claude/projects/x");
    let record = |id: &str, content: &str| {
        let cwd = repo.path().display();
        format!(
            r#"{{"type":"user","uuid":"{id}","sessionId":"{id}","cwd":"{cwd}","timestamp":"2024-01-01T00:00:00.000Z","message":{{"role":"user","content":{content}}}}}"#
        )
    };
    let whole = record("whole", "\"a prompt from before\"");
    let write = |name: &str, bytes: &[u8]| fs::write(dir.join(name), bytes).expect("write a transcript");
    write("empty.jsonl", b"");
    write("cut.jsonl", &whole.as_bytes()[..whole.len() / 2]);
    write("bytes.jsonl", &[whole.as_bytes(), b"\n\xff\xfe\x80{\"type\":\"user\"}\n\0\0\0\n", &[0xc3; 3000]].concat());
    write("deep.jsonl", &[record("deep", "").trim_end_matches("}}").as_bytes(), &vec![b'['; 1 << 18], b"\n"].concat());
    write("numbers.jsonl", format!("{}\n", whole.replace("\"2024", "1e999, \"x\": \"2024")).as_bytes());
    write("long.jsonl", &[record("long", &format!("\"{}\"", "x".repeat(20 << 20))).as_bytes(), b"\n"].concat());
    let many: String = (0..5_000).map(|n| record(&format!("many{n}"), "\"one of many\"") + "\n").collect();
    write("many.jsonl", many.as_bytes());
    fs::create_dir(dir.join("dir.jsonl")).expect("mkdir");
    std::os::unix::fs::symlink("/etc/passwd", dir.join("link.jsonl")).expect("make a link");
    std::os::unix::fs::symlink(repo.join("notes"), dir.join("inside.jsonl")).expect("make a link");
    assert_ok(&Command::new("mkfifo").arg(dir.join("pipe.jsonl")).output().expect("run mkfifo"), "mkfifo");
    let log = liar.run(
        "script",
        r#"
prompt s1 "an honest prompt"
call s1 one Bash '{"command":"echo a > a"}'; sh -c 'echo a > a'; result s1 one
# Cut off in the middle of a record, and begun anew.
printf '{"type":"user","sess' >> "$transcripts/s1.jsonl"; sleep 1.5
: > "$transcripts/s1.jsonl"
prompt s1 "a second prompt"
call s1 two Bash '{"command":"echo b > b"}'; sh -c 'echo b > b'; result s1 two
printf '{"type":"assistant","message":{"content":[{"type":"tool_use"' >> "$transcripts/s1.jsonl"
true
"#,
    );
    let of = |command: &str| (link(ran(&log, command)), ran(&log, command)["prompt"].clone());
    assert_eq!(of("echo b > b"), (Some((Some("two"), HIGH)), json!("a second prompt")), "{log:#?}");
    assert_eq!(of("echo a > a"), (Some((Some("one"), HIGH)), json!("an honest prompt")), "{log:#?}");
    // Nobody but those who asked for it opened what a link in the transcripts' directory leads to.
    let events = repo.json(&["events", "--path", "notes"]);
    assert!(events.is_empty(), "{events:#?}");
    fs::remove_dir_all(&liar.home).expect("remove the transcripts");
    wait_for("an answer without them", || repo.json(&["log"]).iter().any(|step| step["prompt"] == "a second prompt"));
    repo.unmount();
    let log = repo.json(&["log"]);
    assert_eq!(ran(&log, "echo a > a")["prompt"], "an honest prompt");
    assert_ok(&repo.run(&["fsck", "--log"]), "fsck");
}
