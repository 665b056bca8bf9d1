//! Who did it: sessions and commands, of programs that know nothing of regentfs.

mod common;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::json::{assert_documented, stderr, text};
use common::{MountedRepo, assert_ok, can_mount, make_program, make_script, regentfs};
use serde_json::Value;

/// A shell under another name.
fn program(repo: &MountedRepo, name: &str) -> PathBuf {
    let path = repo.outside().join(name);
    make_program(Path::new("/bin/bash"), &path);
    path
}

/// A script that does what its second argument says, as a shell does after `-c`.
fn script(path: PathBuf) -> PathBuf {
    std::fs::create_dir_all(path.parent().expect("not the root")).expect("make directories");
    make_script("#!/bin/sh\neval \"$2\"\n", &path);
    path
}

/// A directory of settings with this table of agents.
fn table(repo: &MountedRepo, text: &str) -> PathBuf {
    let config = repo.outside().join("config");
    std::fs::create_dir_all(config.join("regentfs")).expect("make directories");
    std::fs::write(config.join("regentfs/agents.toml"), text).expect("write a table");
    config
}

/// A subcommand, of a user who has these settings.
fn with_settings(repo: &MountedRepo, config: &Path, arguments: &[&str]) -> Output {
    let mut command = regentfs();
    command.args(arguments).env("XDG_CONFIG_HOME", config).arg("--store").arg(repo.store());
    if arguments == ["mount"] {
        command.arg(repo.path());
    } else {
        command.arg("--repo").arg(repo.path());
    }
    let output = command.output().expect("run regentfs");
    assert_ok(&output, &arguments.join(" "));
    output
}

fn rows(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The one session of an agent.
fn only_agent(sessions: &[Value]) -> &Value {
    let [session] = sessions.iter().filter(|s| text(s, "by") == "agent").collect::<Vec<_>>()[..] else {
        panic!("{sessions:?}")
    };
    session
}

/// Runs a script in a session of its own, as a login or a service would begin one.
fn run(program: &Path, dir: &Path, script: &str, variables: &[(&str, &str)]) {
    let mut command = Command::new("setsid");
    command.arg("--wait").arg(program).args(["-c", script]).current_dir(dir).stdin(Stdio::null());
    common::without_agents(&mut command);
    let output = command.envs(variables.iter().copied()).output().expect("run setsid");
    assert_ok(&output, script);
}

fn populate(base: &Path) {
    std::fs::write(base.join("README"), "hello\n").expect("write");
}

fn argv(row: &Value) -> Vec<&str> {
    row["argv"].as_array().expect("a list").iter().map(|word| word.as_str().expect("text")).collect()
}

#[test]
fn an_agent_a_script_and_what_each_ran() {
    if !can_mount() {
        return;
    }
    let repo = MountedRepo::new(populate);
    let agent = program(&repo, "codex");
    let script =
        "cat README > /dev/null; sh -c 'echo made > new; exit 3'; sh -c 'sh -c \"cat new new\"' > /dev/null; true";
    run(&agent, repo.path(), script, &[]);
    run(Path::new("/bin/bash"), repo.path(), "cat README > /dev/null; true", &[]);
    for mounted in [true, false] {
        let sessions = repo.json(&["sessions"]);
        assert_documented("sessions", &sessions, &[]);
        let of = |by: &str| sessions.iter().filter(|s| text(s, "by") == by).collect::<Vec<_>>();
        let [codex] = of("agent")[..] else { panic!("{sessions:?}") };
        assert_eq!((text(codex, "agent"), &codex["commands"], &codex["failed"]), ("codex", &3.into(), &1.into()));
        assert_eq!((&codex["files_read"], &codex["files_written"]), (&2.into(), &1.into()));
        assert!(codex["ended"].is_string(), "{codex}");
        let scripts = of("script");
        let [bash] = scripts.iter().filter(|s| argv(s)[0] == "/bin/bash").collect::<Vec<_>>()[..] else {
            panic!("{sessions:?}")
        };
        assert_eq!((&bash["agent"], &bash["commands"], &bash["failed"]), (&Value::Null, &1.into(), &0.into()));

        let log = repo.json(&["log", text(codex, "session")]);
        assert_documented("log", &log, &[]);
        // The newest first.
        let told: Vec<_> =
            log.iter().map(|c| (argv(c), c["exit"].as_i64(), c["reads"].as_u64(), c["writes"].as_u64())).collect();
        let expected = [
            (vec!["sh", "-c", "sh -c \"cat new new\""], Some(0), Some(1), Some(0)),
            (vec!["sh", "-c", "echo made > new; exit 3"], Some(3), Some(0), Some(1)),
            (vec!["cat", "README"], Some(0), Some(1), Some(0)),
        ];
        assert_eq!(told, expected);
        assert_eq!((&log[1]["command"], &log[2]["command"]), (&"echo made > new; exit 3".into(), &Value::Null));
        assert!(log.iter().all(|c| text(c, "session") == text(codex, "session") && text(c, "agent") == "codex"));
        assert_eq!(repo.json(&["log", "-n", "1"]).len(), 1);
        let output = repo.run(&["log", "s0"]);
        assert!(!output.status.success(), "there is no such session");
        assert!(String::from_utf8_lossy(&output.stderr).contains("regentfs sessions"), "{output:?}");
        // For people.
        for command in ["sessions", "log"] {
            let output = repo.run(&[command]);
            assert_ok(&output, command);
            assert!(String::from_utf8_lossy(&output.stdout).to_lowercase().contains("codex"), "{output:?}");
        }
        if mounted {
            repo.unmount();
        }
    }
}

#[test]
fn an_agent_that_only_its_environment_tells() {
    if !can_mount() {
        return;
    }
    let repo = MountedRepo::new(populate);
    let agent = program(&repo, "something-else");
    let script = "export CLAUDECODE=1 CLAUDE_CODE_SESSION_ID=abc-1; cat README > /dev/null; true";
    run(&agent, repo.path(), script, &[]);
    let sessions = repo.json(&["sessions"]);
    let [session] = sessions.iter().filter(|s| text(s, "by") == "agent").collect::<Vec<_>>()[..] else {
        panic!("{sessions:?}")
    };
    assert_eq!((text(session, "agent"), text(session, "name")), ("claude-code", "abc-1"));
    assert_eq!(argv(session)[0], agent.to_str().expect("UTF-8"));
    let log = repo.json(&["log", text(session, "session")]);
    assert_eq!(log.iter().map(argv).collect::<Vec<_>>(), [["cat", "README"]]);
}

#[test]
fn commands_that_touch_nothing_are_seen_where_the_kernel_tells_of_forks() {
    // The process connector is root's.
    if !can_mount() || common::plain_user() {
        return;
    }
    let repo = MountedRepo::new(populate);
    let agent = program(&repo, "codex");
    run(&agent, repo.path(), "cat README > /dev/null; cd /; /bin/sleep 0.3; sh -c 'sleep 0.3; exit 4'; true", &[]);
    let log = repo.json(&["log"]);
    let of = |first: &str| log.iter().find(|c| argv(c)[0] == first).unwrap_or_else(|| panic!("no {first} in {log:?}"));
    assert_eq!((argv(of("/bin/sleep")), of("/bin/sleep")["exit"].as_i64()), (vec!["/bin/sleep", "0.3"], Some(0)));
    assert_eq!(of("sh")["exit"].as_i64(), Some(4));
    // A file that is not there is no event.
    let script = "cat missing 2> /dev/null; sleep 0.3; exit 1";
    run(&agent, repo.path(), &format!("cat README > /dev/null; sh -c '{script}'; true"), &[]);
    let log = repo.json(&["log"]);
    let missing = log.iter().find(|c| argv(c) == ["sh", "-c", script]).unwrap_or_else(|| panic!("{log:?}"));
    assert_eq!((missing["exit"].as_i64(), missing["reads"].as_u64()), (Some(1), Some(0)));
}

#[test]
fn secrets_in_command_lines_are_not_kept() {
    if !can_mount() {
        return;
    }
    let repo = MountedRepo::new(populate);
    run(
        Path::new("/bin/bash"),
        repo.path(),
        "sh -c 'cat README' --password hunter2 TOKEN=s3cr3t > /dev/null; true",
        &[],
    );
    let ps = repo.json(&["ps", "--all"]);
    let all = format!("{ps:?}");
    assert!(!all.contains("hunter2") && !all.contains("s3cr3t"), "{all}");
    assert!(all.contains("[redacted]") && all.contains("--password"), "{all}");
}

#[test]
fn an_agent_of_the_users_own() {
    if !can_mount() {
        return;
    }
    let repo = MountedRepo::new(populate);
    repo.unmount();
    let entry =
        "[[agent]]\nid = \"my-agent\"\nnames = [\"my-agent.sh\"]\nmarks = [\"MINE=1\"]\nsession = \"MY_SESSION\"\n";
    let config = table(&repo, entry);
    let mount = with_settings(&repo, &config, &["mount"]);
    assert_eq!(stderr(&mount), "");
    let agent = script(repo.outside().join("my-agent.sh"));
    run(
        &agent,
        repo.path(),
        "export MY_SESSION=abc; cat README > /dev/null; sh -c 'cat README; exit 3' > /dev/null; true",
        &[],
    );
    for mounted in [true, false] {
        let sessions = rows(&with_settings(&repo, &config, &["sessions", "--json"]));
        assert_documented("sessions", &sessions, &[]);
        let session = only_agent(&sessions);
        assert_eq!((text(session, "agent"), text(session, "name")), ("my-agent", "abc"));
        assert_eq!(
            (&session["commands"], &session["failed"], &session["version"]),
            (&2.into(), &1.into(), &Value::Null)
        );
        let log = rows(&with_settings(&repo, &config, &["log", text(session, "session"), "--json"]));
        assert_eq!(log.iter().map(|c| text(c, "agent")).collect::<Vec<_>>(), ["my-agent"; 2]);
        for command in ["sessions", "log"] {
            let shown = with_settings(&repo, &config, &[command]);
            assert!(String::from_utf8_lossy(&shown.stdout).contains("my-agent "), "{shown:?}");
        }
        // The daemon has the table that it was started with; without one it is asked with that of the question.
        let without = repo.json(&["sessions"]);
        assert_eq!(without.iter().any(|s| text(s, "by") == "agent"), mounted, "{without:?}");
        if mounted {
            repo.unmount();
        }
    }
    // By what it sets.
    assert_ok(&with_settings(&repo, &config, &["mount"]), "mount");
    let other = program(&repo, "something-else");
    run(&other, repo.path(), "export MINE=1 MY_SESSION=def; cat README > /dev/null; true", &[]);
    let sessions = rows(&with_settings(&repo, &config, &["sessions", "--json"]));
    let told: Vec<_> = sessions.iter().filter(|s| text(s, "by") == "agent").map(|s| text(s, "name")).collect();
    assert_eq!(told, ["abc", "def"], "{sessions:?}");
}

#[test]
fn a_table_that_cannot_be_used_is_no_reason_to_fail() {
    if !can_mount() {
        return;
    }
    let repo = MountedRepo::new(populate);
    repo.unmount();
    let config =
        table(&repo, "[[agent]]\nid = \"good\"\nnames = [\"good\"]\n[[agent]]\nid = \"mine\"\nnames = [\"sh\"]\n");
    let mount = with_settings(&repo, &config, &["mount"]);
    let warns = |said: &str| {
        let file = config.join("regentfs/agents.toml");
        said.contains(file.to_str().expect("UTF-8")) && said.contains("agent 2") && said.contains("give a name")
    };
    assert!(warns(&stderr(&mount)), "{mount:?}");
    let daemon = std::fs::read_to_string(repo.store().join("daemon.log")).expect("read daemon.log");
    // In one line.
    assert!(daemon.lines().any(|line| line.contains("WARN") && warns(line)), "{daemon}");
    run(&program(&repo, "codex"), repo.path(), "cat README > /dev/null; true", &[]);
    run(&program(&repo, "good"), repo.path(), "cat README > /dev/null; true", &[]);
    for mounted in [true, false] {
        for command in ["sessions", "log"] {
            let output = with_settings(&repo, &config, &[command, "--json"]);
            assert!(warns(&stderr(&output)), "{output:?}");
            let agents: Vec<_> = rows(&output).iter().filter_map(|r| r["agent"].as_str().map(str::to_owned)).collect();
            assert_eq!(agents, ["codex"], "the others are told, and nothing of the table");
        }
        if mounted {
            repo.unmount();
        }
    }
}

#[test]
fn the_version_of_an_agent() {
    if !can_mount() {
        return;
    }
    let package = |above: &Path| {
        let program = script(above.join("lib/node_modules/@anthropic-ai/claude-code/cli.js"));
        let json = r#"{"name": "@anthropic-ai/claude-code", "version": "9.9.9", "bin": {"claude": "cli.js"}}"#;
        std::fs::write(program.with_file_name("package.json"), json).expect("write package.json");
        program
    };
    let repo = MountedRepo::new(|base| {
        populate(base);
        package(base);
    });
    let program = package(repo.outside());
    // As npm puts it on the PATH.
    let link = repo.outside().join("claude");
    symlink(&program, &link).expect("make a link");
    for program in [&program, &link] {
        run(program, repo.path(), "cat README > /dev/null", &[]);
    }
    for mounted in [true, false] {
        let sessions = repo.json(&["sessions"]);
        let told: Vec<_> = sessions.iter().filter(|s| text(s, "by") == "agent").collect();
        let told: Vec<_> = told.iter().map(|s| (text(s, "agent"), s["version"].as_str())).collect();
        assert_eq!(told, [("claude-code", Some("9.9.9")); 2], "{sessions:?}");
        assert!(sessions.iter().filter(|s| text(s, "by") != "agent").all(|s| s["version"].is_null()), "{sessions:?}");
        let shown = repo.run(&["sessions"]);
        assert!(String::from_utf8_lossy(&shown.stdout).contains("claude-code 9.9.9"), "{shown:?}");
        if mounted {
            repo.unmount();
        }
    }
}

#[test]
fn what_lies_in_the_mount_is_not_looked_at_for_a_version() {
    if !can_mount() {
        return;
    }
    let path = "node_modules/@anthropic-ai/claude-code/cli.js";
    let repo = MountedRepo::new(|base| {
        populate(base);
        let program = script(base.join(path));
        let json = r#"{"name": "@anthropic-ai/claude-code", "version": "9.9.9"}"#;
        std::fs::write(program.with_file_name("package.json"), json).expect("write package.json");
    });
    // By its own path, and by a link that leads into the mount.
    let link = repo.outside().join("claude");
    symlink(repo.join(path), &link).expect("make a link");
    for program in [&repo.join(path), &link] {
        run(program, repo.path(), "cat README > /dev/null", &[]);
    }
    let sessions = repo.json(&["sessions"]);
    assert!(sessions.iter().all(|session| session["version"].is_null()), "{sessions:?}");
    // What was seen before its execve is known to have become the agent at once where the kernel tells; the process connector is root's.
    let agents = sessions.iter().filter(|session| text(session, "by") == "agent").count();
    assert!(agents == 2 || common::plain_user(), "{sessions:?}");
    let events = repo.json(&["events"]);
    assert!(events.iter().any(|event| text(event, "path") == path), "the script was read");
    let daemon = i64::from(repo.daemon());
    let strange =
        |event: &&Value| event["pid"].as_i64() == Some(daemon) || text(event, "path").ends_with("package.json");
    assert_eq!(events.iter().find(strange), None);
}
