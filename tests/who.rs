//! Who did it: sessions and commands, of programs that know nothing of regentfs.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::json::{assert_documented, text};
use common::{MountedRepo, assert_ok, can_mount};
use serde_json::Value;

/// What agents leave in the environment: the tests may themselves be run by one.
const MARKS: [&str; 11] = [
    "CLAUDECODE",
    "CLAUDE_CODE_SESSION_ID",
    "CODEX_THREAD_ID",
    "CODEX_SANDBOX",
    "GEMINI_CLI",
    "OPENCODE",
    "CURSOR_AGENT",
    "COPILOT_CLI",
    "AGENT",
    "AMP_CURRENT_THREAD_ID",
    "PI_CODING_AGENT",
];

/// A shell under another name.
fn program(repo: &MountedRepo, name: &str) -> PathBuf {
    let path = repo.outside().join(name);
    std::fs::copy("/bin/bash", &path).expect("copy a shell");
    path
}

/// Runs a script in a session of its own, as a login or a service would begin one.
fn run(program: &Path, dir: &Path, script: &str, variables: &[(&str, &str)]) {
    let mut command = Command::new("setsid");
    command.arg("--wait").arg(program).args(["-c", script]).current_dir(dir).stdin(Stdio::null());
    for name in MARKS {
        command.env_remove(name);
    }
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
