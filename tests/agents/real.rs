//! The real Claude Code, alone in a mount: two prompts in one of its sessions, and everything that can be asked about them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::claude::{self, User};
use super::judge::{Judged, Script, assert_blamed, assert_changes, assert_session, judge, say, sees_forks};
use super::model::{self, Model, Stop};
use crate::common::json::text;
use crate::common::{MountedRepo, assert_ok, can_mount, wait_for};

/// A model does not answer at once; what an agent does between two answers is a step.
pub const THINKING: Duration = Duration::from_millis(500);
const SESSION: &str = "11111111-1111-4111-8111-111111111111";

pub fn populate(base: &Path) {
    fs::create_dir(base.join("src")).expect("mkdir");
    fs::write(base.join("README"), "hello\n\nmiddle\n\nworld\n").expect("write");
    fs::write(base.join("src/app.py"), "def a():\n  return 1\n\ndef b():\n  return 2\n").expect("write");
    fs::write(base.join("notes"), "one\ntwo\nthree\nfour\nfive\n").expect("write");
}

/// The log as soon as all steps are over: everything that changed something is in a snapshot.
pub fn settled(repo: &MountedRepo) -> Vec<Value> {
    let mut log = Vec::new();
    wait_for("the last step to be sealed", || {
        log = repo.json(&["log"]);
        log.iter().all(|step| step["writes"] == 0 || step["snapshot"].is_string())
    });
    log
}

/// The calls that lines are of.
struct Told {
    readme: String,
    reindent: String,
    three: String,
    notes: String,
    world: String,
    late: String,
    lines: String,
    made: String,
}

/// What the first prompt comes to, and the place at which the model thinks for long.
fn first<'r>(root: &'r Path, sub: &Script) -> (Script<'r>, Told, Stop) {
    let mut s = Script::new("alpha", root);
    s.read("README");
    let long = s.stop();
    let readme = s.edit("README", "hello", "hello there");
    s.write("src/new.py", "x = 1\n");
    s.bash("cat missing", 1, &[]);
    let made = s.bash("echo made > made.txt; mkdir out && cp made.txt out/copy.txt", 0, &["made.txt", "out/copy.txt"]);
    let late = s.bash("(sleep 1; echo late >> late.txt) > /dev/null 2>&1 &", 0, &["late.txt"]);
    s.leaves();
    // As a formatter does it.
    let reindent = s.bash("sed -i 's/^  /    /' src/app.py", 0, &["src/app.py"]);
    s.read("src/app.py");
    s.and().read("notes");
    let three = s.edit("src/app.py", "return 2", "return 3");
    s.bash("true", 0, &[]);
    s.bash("exec sh -c 'exit 3'", 3, &[]);
    s.bash(r#"printf '%s\n' "it's" '"quoted"' '$HOME' "a\\b" > quotes.txt"#, 0, &["quotes.txt"]);
    let lines = s.bash("cat > lines.txt <<'END'\none\n\n  two\nEND", 0, &["lines.txt"]);
    s.bash("echo again >> again.txt", 0, &["again.txt"]);
    s.bash("echo again >> again.txt", 0, &["again.txt"]);
    // Two files in one turn: one step.
    let notes = s.edit("notes", "one", "ONE");
    s.changes_also(&["README"]);
    let world = s.and().edit("README", "world", "World");
    s.changes_also(&["notes"]);
    s.bash("echo left > left.txt", 0, &["left.txt"]);
    s.and().bash("echo right > right.txt; exit 7", 7, &["right.txt"]);
    s.bash("mv made.txt moved.txt && rm again.txt", 0, &["again.txt", "made.txt", "moved.txt"]);
    let secret = |value: &str| format!("API_TOKEN={value} sh -c 'echo with > token.txt'");
    s.secret(&secret("s3cr3t-value"), &secret("[redacted]"), &["token.txt"]);
    s.background("sleep 1; echo behind > behind.txt", &["behind.txt"]);
    let task = json!({"description": "A part", "prompt": sub.prompt(), "subagent_type": "general-purpose"});
    s.other("Agent", task);
    s.bash("ls src; grep -c two notes", 0, &[]);
    (s, Told { readme, reindent, three, notes, world, late, lines, made }, long)
}

/// What the second one comes to, and the calls that append a line and edit one.
fn second(root: &Path) -> (Script<'_>, String, String) {
    let mut s = Script::new("beta", root);
    let append = s.bash("echo second >> moved.txt", 0, &["moved.txt"]);
    s.read("README");
    let again = s.edit("README", "hello there", "hello again");
    // The same as for the first prompt.
    s.bash("true", 0, &[]);
    s.bash("cat missing", 1, &[]);
    s.read("src/new.py");
    s.write("src/new.py", "x = 2\n");
    s.bash("kill -9 $$", -9, &[]);
    (s, append, again)
}

/// The agent and what it did, in numbers.
fn assert_sums(session: &Value, log: &[Value]) {
    assert_eq!((text(session, "agent"), text(session, "version")), ("claude-code", claude::VERSION));
    assert_eq!((text(session, "name"), text(session, "model")), (SESSION, model::NAME));
    assert_eq!(session["prompts"], 1, "{session:#}");
    let own: Vec<&Value> = log.iter().filter(|step| step["session"] == session["session"]).collect();
    let commands: Vec<&&Value> = own.iter().filter(|step| text(step, "kind") == "command").collect();
    let failed = commands.iter().filter(|step| step["exit"] != 0).count();
    assert_eq!((&session["steps"], &session["commands"]), (&own.len().into(), &commands.len().into()));
    assert_eq!(session["failed"], failed);
    assert!(session["ended"].is_string(), "{session:#}");
}

/// Takes steps out again, and puts them back in.
fn assert_reverts(repo: &MountedRepo, judged: &Judged, told: &Told) {
    let read = |path: &str| fs::read_to_string(repo.join(path)).unwrap_or_default();
    let step = |call: &str| text(judged.step(call), "step").to_owned();
    let revert = |call: &str| repo.run(&["revert", &step(call), "--json"]);
    let (readme, notes) = (read("README"), read("notes"));
    assert_ok(&revert(&told.notes), "revert of two edits");
    assert_eq!((read("README"), read("notes")), (readme.replace("World", "world"), notes.replace("ONE", "one")));
    assert_ok(&repo.run(&["undo"]), "undo");
    assert_eq!((read("README"), read("notes")), (readme.clone(), notes));
    assert_ok(&revert(&told.lines), "revert of a new file");
    assert!(!repo.join("lines.txt").exists() && repo.join("quotes.txt").exists());
    assert_ok(&repo.run(&["undo"]), "undo");
    // Reindenting goes, what was edited afterwards stays: both touch one line.
    let output = revert(&told.reindent);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let output = repo.run(&["revert", &step(&told.reindent), "--ours"]);
    assert_ok(&output, "revert --ours");
    assert_eq!(read("src/app.py"), "def a():\n  return 1\n\ndef b():\n    return 3\n");
    assert_ok(&repo.run(&["undo"]), "undo");
    // Changed again by the second prompt.
    assert_eq!(revert(&told.readme).status.code(), Some(1));
    assert_eq!(read("README"), readme);
}

#[test]
fn two_prompts_in_one_session() {
    if !can_mount() {
        return;
    }
    let repo = MountedRepo::new(populate);
    let model = Model::new(THINKING);
    let Some(user) = User::new(&repo.outside().join("home"), &model) else { return };
    let mut sub = Script::below("sub", "alpha", repo.path());
    sub.bash("echo from below > below.txt", 0, &["below.txt"]);
    sub.write("src/below.py", "y = 1\n");
    let (a, told, long) = first(repo.path(), &sub);
    let (b, append, again) = second(repo.path());
    let scripts = [&a, &b, &sub];
    for script in scripts {
        script.give(&model);
    }

    let child = user.start(repo.path(), &["--session-id", SESSION], &a.prompt());
    let one = child.id();
    long.wait();
    // Between looking at a file and changing it a model may think for long.
    std::thread::sleep(Duration::from_secs(4));
    long.go_on();
    assert_ok(&child.wait_with_output().expect("wait"), "the first prompt");
    wait_for("what was left running", || repo.join("late.txt").exists());
    let child = user.start(repo.path(), &["--continue"], &b.prompt());
    let two = child.id();
    assert_ok(&child.wait_with_output().expect("wait"), "the second prompt");

    let log = settled(&repo);
    let judged = judge(&log, &scripts);
    // Of the two edits in one turn, which are one step, either may stand for it.
    let told = Told { notes: judged.either(&told.notes, &told.world).to_owned(), ..told };
    judged.tell("one session, two prompts and a subagent");
    judged.assert_right(&repo);
    let sessions = repo.json(&["sessions"]);
    for (script, pid) in [(&a, one), (&sub, one), (&b, two)] {
        assert_sums(assert_session(&sessions, &judged, script, pid), &log);
    }
    let shown = assert_changes(&repo, &judged, &scripts);
    let (base, append, again) = ("base", append.as_str(), again.as_str());
    let blame = |path: &str, lines: &[(&str, &str)]| assert_blamed(&repo, &judged, path, lines);
    let lines =
        blame("README", &[("hello again", again), ("", base), ("middle", base), ("", base), ("World", &told.notes)])
            + blame("notes", &[("ONE", &told.notes), ("two", base), ("three", base), ("four", base), ("five", base)])
            + blame(
                "src/app.py",
                &[
                    ("def a():", base),
                    ("    return 1", &told.reindent),
                    ("", base),
                    ("def b():", base),
                    ("    return 3", &told.three),
                ],
            )
            + blame("lines.txt", &[("one", &told.lines), ("", &told.lines), ("  two", &told.lines)])
            + blame("moved.txt", &[("made", &told.made), ("second", append)]);
    if sees_forks(&repo) {
        blame("late.txt", &[("late", &told.late)]);
    }
    say(&format!(
        "one session: {shown} of {shown} steps show exactly what they changed, {lines} of {lines} lines are of the right step"
    ));
    assert_reverts(&repo, &judged, &told);

    // What the agent wrote about itself goes, the prompts stay.
    fs::remove_dir_all(user.transcripts()).expect("remove the transcripts");
    let known = |log: &[Value]| judge(log, &scripts).steps.keys().cloned().collect::<Vec<_>>();
    assert_eq!(known(&repo.json(&["log"])), judged.steps.keys().cloned().collect::<Vec<_>>());
    repo.unmount();
    let after = judge(&repo.json(&["log"]), &scripts);
    after.tell("the same, unmounted and without transcripts");
    after.assert_right(&repo);
    assert_ok(&repo.run(&["fsck", "--log"]), "fsck");
    repo.mount();
    judge(&repo.json(&["log"]), &scripts).assert_right(&repo);
}
