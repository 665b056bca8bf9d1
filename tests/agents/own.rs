//! Agents of a user's own, known by agents.toml: one in shell, one in Python, several at once, and somebody at a terminal beside them.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::claude::clear;
use super::judge::{changed, paths};
use super::real::populate;
use crate::common::json::text;
use crate::common::{MountedRepo, assert_ok, can_mount, has_programs, make_script, regentfs};

const TABLE: &str = r#"
[[agent]]
id = "shell-agent"
names = ["shell-agent.sh"]
[[agent]]
id = "python-agent"
title = "Python's"
names = ["python-agent.py"]
session = "PYTHON_AGENT_SESSION"
"#;

/// Rounds of each agent.
const ROUNDS: usize = 4;

/// Each round: a command that writes, one that fails, and something that the agent writes itself.
const SHELL: &str = r#"#!/bin/bash
for n in 1 2 3 4; do
    sh -c "echo shell $n >> shared; echo $n > $1-$n"
    sh -c "cat README missing > /dev/null 2>&1; exit $n"
    sleep 0.5
    echo "$1 $n" >> "$1"
    sleep 0.5
done
"#;

const PYTHON: &str = r#"#!/usr/bin/env python3
import os, subprocess, sys, time
name = sys.argv[1]
os.environ["PYTHON_AGENT_SESSION"] = "session-of-" + name
for n in range(1, 5):
    subprocess.run(["sh", "-c", f"echo python {n} >> shared; echo {n} > {name}-{n}"])
    subprocess.run(["sh", "-c", f"cat README missing > /dev/null 2>&1; exit {n}"])
    time.sleep(0.5)
    with open(name, "a") as file:
        file.write(f"{name} {n}\n")
    time.sleep(0.5)
"#;

/// The daemon and the commands of a user with that table.
struct Settings<'r> {
    repo: &'r MountedRepo,
    config: PathBuf,
}

impl Settings<'_> {
    /// Mounts anew with it.
    fn new(repo: &MountedRepo) -> Settings<'_> {
        let config = repo.outside().join("config");
        fs::create_dir_all(config.join("regentfs")).expect("make directories");
        fs::write(config.join("regentfs/agents.toml"), TABLE).expect("write a table");
        repo.unmount();
        let settings = Settings { repo, config };
        let mount = settings.command().arg("mount").arg(repo.path()).arg("--store").arg(repo.store()).output();
        assert_ok(&mount.expect("run regentfs"), "mount");
        settings
    }

    fn command(&self) -> Command {
        let mut command = regentfs();
        command.env("XDG_CONFIG_HOME", &self.config);
        command
    }

    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let mut command = self.command();
        command.args(arguments).arg("--json").arg("--repo").arg(self.repo.path()).arg("--store").arg(self.repo.store());
        let output = command.output().expect("run regentfs");
        assert_ok(&output, &arguments.join(" "));
        String::from_utf8_lossy(&output.stdout).lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
    }
}

/// Starts a script of its own name in a session of its own (setsid(2)).
fn start(repo: &MountedRepo, file: &str, content: &str, name: &str) -> Child {
    let path = repo.outside().join(file);
    if !path.exists() {
        make_script(content, &path);
    }
    let mut command = Command::new("setsid");
    clear(&mut command);
    command.arg("--wait").arg(&path).arg(name).current_dir(repo.path()).stdin(Stdio::null());
    command.spawn().expect("run setsid")
}

#[test]
fn agents_of_the_users_own_work_side_by_side() {
    if !can_mount() || !has_programs(&["python3"], "an agent in Python") {
        return;
    }
    let repo = MountedRepo::new(populate);
    let settings = Settings::new(&repo);
    let agents = [
        ("shell-agent", "shell-agent.sh", SHELL, "sh-a"),
        ("shell-agent", "shell-agent.sh", SHELL, "sh-b"),
        ("python-agent", "python-agent.py", PYTHON, "py-a"),
        ("python-agent", "python-agent.py", PYTHON, "py-b"),
    ];
    let running: Vec<Child> = agents.iter().map(|(_, file, content, name)| start(&repo, file, content, name)).collect();
    for mut child in running {
        assert!(child.wait().expect("wait").success());
    }
    for mounted in [true, false] {
        let sessions = settings.json(&["sessions"]);
        assert_eq!(sessions.iter().filter(|s| text(s, "by") == "agent").count(), agents.len(), "{sessions:#?}");
        let (mut commands, mut edits) = (0, 0);
        for (id, _, _, name) in agents {
            let session = of_argument(&sessions, name);
            assert_eq!(text(session, "agent"), id);
            let own = (id == "python-agent").then(|| format!("session-of-{name}"));
            assert_eq!(session["name"].as_str(), own.as_deref(), "{session}");
            assert_eq!(session["failed"], ROUNDS, "{session}");
            let log = settings.json(&["log", text(session, "session")]);
            let word = if id == "shell-agent" { "shell" } else { "python" };
            for n in 1..=ROUNDS {
                let writes = format!("echo {word} {n} >> shared; echo {n} > {name}-{n}");
                let fails = format!("cat README missing > /dev/null 2>&1; exit {n}");
                let one = |command: &str| match log.iter().filter(|s| s["command"] == command).collect::<Vec<_>>()[..] {
                    [one] => one,
                    _ => panic!("{command} of {name} in {log:#?}"),
                };
                assert_eq!(one(&writes)["exit"], 0);
                assert_eq!(one(&fails)["exit"], n);
                assert_eq!(paths(one(&fails)), [""; 0]);
                commands += 2;
                if !mounted {
                    continue;
                }
                let made = changed(&repo, text(one(&writes), "step"));
                assert_eq!(made, [format!("{name}-{n}"), "shared".to_owned()], "{log:#?}");
            }
            let own: Vec<&Value> = log.iter().filter(|s| text(s, "kind") == "edit").collect();
            assert_eq!(own.len(), ROUNDS, "{log:#?}");
            edits += own.len();
            assert!(own.iter().all(|step| changed(&repo, text(step, "step")) == [name]), "{own:#?}");
            assert!(log.iter().all(|step| step["link"].is_null() && step["prompt"].is_null()), "{log:#?}");
        }
        assert_lines(&settings, &sessions, &agents.map(|(.., name)| name));
        super::judge::say(&format!("agents of the user's own: {commands} commands and {edits} edits, each found once"));
        if mounted {
            repo.unmount();
        }
    }
}

/// The session whose program has this argument.
fn of_argument<'s>(sessions: &'s [Value], argument: &str) -> &'s Value {
    let has = |s: &&Value| s["argv"].as_array().is_some_and(|argv| argv.last().is_some_and(|last| last == argument));
    let found: Vec<&Value> = sessions.iter().filter(|s| text(s, "by") == "agent").filter(has).collect();
    match found[..] {
        [one] => one,
        _ => panic!("the session of {argument}: {sessions:#?}"),
    }
}

/// Each line of the files that agents wrote themselves is its own session's; of the one that all wrote, each is of a command with that text.
fn assert_lines(settings: &Settings, sessions: &[Value], names: &[&str]) {
    let blame = |path: &str| settings.json(&["blame", settings.repo.join(path).to_str().expect("UTF-8")]);
    for name in names {
        let session = text(of_argument(sessions, name), "session");
        let lines = blame(name);
        assert_eq!(lines.len(), ROUNDS);
        assert!(lines.iter().all(|line| line["session"] == session), "{lines:#?}");
    }
    let lines = blame("shared");
    assert_eq!(lines.len(), ROUNDS * names.len());
    for line in lines {
        let command = line["command"].as_str().unwrap_or_else(|| panic!("{line}"));
        assert!(command.contains(&format!("echo {} >>", text(&line, "text"))), "{line}");
    }
}
