//! Two sessions of the real Claude Code at once in one mount, and somebody at a terminal: on different files, and on the same ones.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::claude::{User, clear};
use super::judge::{Script, assert_blamed, assert_changes, assert_session, judge, paths, say};
use super::model::{Model, Stop};
use super::real::{THINKING, populate, settled};
use crate::common::json::text;
use crate::common::{MountedRepo, can_mount, has_programs, wait_for};

/// Somebody who types into a shell on a terminal of their own.
struct Human {
    child: Child,
    lines: usize,
}

impl Human {
    fn new(dir: &Path) -> Human {
        let mut command = Command::new("script");
        clear(&mut command);
        // Which does not exec the shell, so that this is inside another one.
        command.env("SHELL", "/bin/sh");
        command.args(["--quiet", "--return", "--command", "bash --norc --noprofile", "/dev/null"]);
        command.current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Human { child: command.spawn().expect("run script"), lines: 0 }
    }

    /// Types a line, and waits until the shell has done it. `done` is a file outside of the mount.
    fn types(&mut self, line: &str, done: &Path) {
        self.lines += 1;
        let stdin = self.child.stdin.as_mut().expect("piped");
        writeln!(stdin, "{line}; echo {} > {}", self.lines, done.display()).expect("type");
        let expected = format!("{}\n", self.lines);
        wait_for(line, || std::fs::read_to_string(done).is_ok_and(|text| text == expected));
    }

    fn leaves(mut self) {
        writeln!(self.child.stdin.as_mut().expect("piped"), "exit").expect("type");
        assert!(self.child.wait().expect("wait").success());
    }
}

/// What each of the two does after the other one has done its part: much of it the same.
fn alike(script: &mut Script, name: &str) -> Vec<String> {
    let mut same = Vec::new();
    for n in 0..3 {
        same.push(script.bash("echo same >> same", 0, &["same"]));
        let own = format!("own-{name}-{n}");
        script.bash(&format!("echo {n} > {own}"), 0, &[&own]);
        script.bash("true", 0, &[]);
        script.bash("cat missing", 1, &[]);
        script.write(&format!("by-{name}-{n}"), "the same\n");
    }
    same
}

#[test]
fn two_sessions_and_a_human_beside_them() {
    if !can_mount() || !has_programs(&["script"], "somebody at a terminal beside agents") {
        return;
    }
    let repo = MountedRepo::new(populate);
    let model = Model::new(THINKING);
    let Some(user) = User::new(&repo.outside().join("home"), &model) else { return };
    let (mut a, mut b) = (Script::new("anna", repo.path()), Script::new("bert", repo.path()));
    let stop = |script: &mut Script| -> Stop { script.stop() };

    let a_begins = stop(&mut a);
    a.read("notes");
    let a_edit = a.edit("notes", "one", "ONE");
    let a_line = a.bash("echo anna >> shared", 0, &["shared"]);
    let a_rests = stop(&mut a);
    let a_same = alike(&mut a, "anna");

    let b_begins = stop(&mut b);
    b.read("notes");
    let b_edit = b.edit("notes", "three", "THREE");
    let b_line = b.bash("echo bert >> shared", 0, &["shared"]);
    let b_rests = stop(&mut b);
    let b_same = alike(&mut b, "bert");
    for script in [&a, &b] {
        script.give(&model);
    }

    let done = repo.outside().join("done");
    let mut human = Human::new(repo.path());
    let (anna, bert) = (user.start(repo.path(), &[], &a.prompt()), user.start(repo.path(), &[], &b.prompt()));
    let (a_pid, b_pid) = (anna.id(), bert.id());
    // One after the other on the same files.
    a_begins.wait();
    b_begins.wait();
    a_begins.go_on();
    a_rests.wait();
    human.types("sed -i s/five/FIVE/ notes", &done);
    human.types("echo human >> shared", &done);
    b_begins.go_on();
    b_rests.wait();
    human.types("sed -i s/two/TWO/ notes", &done);
    // All at once.
    a_rests.go_on();
    b_rests.go_on();
    for n in 0..3 {
        human.types(&format!("echo {n} >> same; echo {n} > by-human-{n}"), &done);
    }
    for agent in [anna, bert] {
        let output = agent.wait_with_output().expect("wait");
        assert!(output.status.success(), "{output:?}");
    }
    human.leaves();

    let log = settled(&repo);
    let judged = judge(&log, &[&a, &b]);
    judged.tell("two sessions and a human at once");
    judged.assert_right(&repo);
    let sessions = repo.json(&["sessions"]);
    for (script, pid) in [(&a, a_pid), (&b, b_pid)] {
        let session = assert_session(&sessions, &judged, script, pid);
        assert_eq!((text(session, "by"), &session["prompts"]), ("agent", &1.into()), "{session:#}");
    }
    // What the human did is the human's alone.
    let human: Vec<&Value> = log.iter().filter(|step| text(step, "by") == "human").collect();
    let ran =
        |first: &str| human.iter().filter(|step| step["argv"][0] == first && text(step, "kind") == "command").count();
    assert_eq!(ran("sed"), 2, "{human:#?}");
    assert!(human.iter().all(|step| step["prompt"].is_null() && step["agent"].is_null()), "{human:#?}");
    for n in 0..3 {
        let path = format!("by-human-{n}");
        assert!(human.iter().any(|step| paths(step).contains(&path.as_str())), "{path} in {human:#?}");
    }

    let shown = assert_changes(&repo, &judged, &[&a, &b]);
    let notes =
        [("ONE", a_edit.as_str()), ("TWO", "human"), ("THREE", b_edit.as_str()), ("four", "base"), ("FIVE", "human")];
    let mut lines = assert_blamed(&repo, &judged, "notes", &notes);
    let shared = [("anna", a_line.as_str()), ("human", "human"), ("bert", b_line.as_str())];
    lines += assert_blamed(&repo, &judged, "shared", &shared);
    // In whatever order these came.
    let same = super::judge::blamed(&repo, &judged, "same");
    lines += same.len();
    let mut found: Vec<&str> = same.iter().map(|(_, who)| who.as_str()).collect();
    found.sort_unstable();
    let mut expected: Vec<&str> = a_same.iter().chain(&b_same).map(String::as_str).chain(["human"; 3]).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert!(same.iter().all(|(line, who)| (line == "same") != (who == "human")), "{same:#?}");
    say(&format!(
        "two sessions and a human: {shown} of {shown} steps show exactly what they changed, {lines} of {lines} lines are of the right one"
    ));
}
