//! The real Claude Code, interrupted and killed, and with a daemon that is killed: what was done until then, and afterwards, is known all the same.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::claude::User;
use super::judge::{Did, Script, assert_changes, assert_session, changed, judge, paths};
use super::model::Model;
use super::real::{THINKING, populate, settled};
use crate::common::json::text;
use crate::common::{MountedRepo, assert_ok, can_mount, wait_for};

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a positive pid");
    kill_process(pid, signal).expect("send a signal");
}

/// The one step with this command.
fn step<'l>(log: &'l [Value], command: &str) -> &'l Value {
    match log.iter().filter(|step| step["command"] == command).collect::<Vec<_>>()[..] {
        [one] => one,
        _ => panic!("{command} in {log:#?}"),
    }
}

#[test]
fn interrupted_and_killed_in_the_middle_of_a_command() {
    if !can_mount() {
        return;
    }
    for (name, signal) in [("interrupted", Signal::INT), ("killed", Signal::KILL)] {
        let repo = MountedRepo::new(populate);
        let model = Model::new(THINKING);
        let Some(user) = User::new(&repo.outside().join("home"), &model) else { return };
        let command = format!("echo before > {name}; sleep 4; echo after >> {name}");
        let mut script = Script::new(name, repo.path());
        script.write(&format!("{name}-first"), "written\n");
        let call = script.bash(&command, 0, &[name]);
        script.write(&format!("{name}-never"), "never\n");
        script.give(&model);
        let agent = user.start(repo.path(), &[], &script.prompt());
        let pid = agent.id();
        wait_for("the command to begin", || repo.join(name).exists());
        send(pid, signal);
        agent.wait_with_output().expect("wait");
        // Whatever becomes of the command: until it ends, which it does of itself.
        let is_over = |log: &[Value]| step(log, &command)["ended"].is_string();
        wait_for("the command to end", || is_over(&repo.json(&["log"])));
        let log = settled(&repo);
        // It did not end as it was to: that is the only call whose end differs.
        let step = step(&log, &command);
        script.calls.retain(|call| !matches!(&call.did, Did::Wrote(path) if path.ends_with("-never")));
        if let Some(Did::Ran(_, end)) = script.calls.iter_mut().find(|c| c.id == call).map(|c| &mut c.did) {
            *end = step["exit"].as_i64().or(step["signal"].as_i64().map(|n| -n)).unwrap_or_else(|| panic!("{step:#}"))
                as i32;
        }
        assert_eq!(paths(step), [name]);
        assert_eq!(changed(&repo, text(step, "step")), [name]);
        let judged = judge(&log, &[&script]);
        judged.tell(name);
        judged.assert_right(&repo);
        let sessions = repo.json(&["sessions"]);
        let session = assert_session(&sessions, &judged, &script, pid);
        assert_eq!((&session["prompts"], &session["name"].is_string()), (&1.into(), &true), "{session:#}");
        assert!(!repo.join(format!("{name}-never")).exists());
    }
}

/// Its own directory may be gone for an agent whose mount died: it works with absolute paths.
fn absolute(root: &Path, path: &str) -> String {
    root.join(path).display().to_string()
}

#[test]
fn the_daemon_is_killed_and_mounted_again() {
    if !can_mount() {
        return;
    }
    let repo = MountedRepo::new(populate);
    let model = Model::new(THINKING);
    let Some(user) = User::new(&repo.outside().join("home"), &model) else { return };
    let mut script = Script::new("crash", repo.path());
    script.read("notes");
    script.edit("notes", "one", "ONE");
    script.bash("echo before > before; true", 0, &["before"]);
    let stop = script.stop();
    let after = format!("echo after > {}", absolute(repo.path(), "after"));
    script.bash(&after, 0, &["after"]);
    script.write("written-after", "written\n");
    script.bash("true", 0, &[]);
    script.give(&model);
    let agent = user.start(repo.path(), &[], &script.prompt());
    let pid = agent.id();
    stop.wait();
    // What is to survive is in a snapshot.
    settled(&repo);
    repo.kill();
    repo.mount();
    stop.go_on();
    assert_ok(&agent.wait_with_output().expect("wait"), "the agent");
    let log = settled(&repo);
    let judged = judge(&log, &[&script]);
    judged.tell("a daemon that was killed");
    judged.assert_right(&repo);
    assert_changes(&repo, &judged, &[&script]);
    let sessions = repo.json(&["sessions"]);
    // The process is met again, and is the same.
    let of_it: Vec<&Value> = sessions.iter().filter(|session| session["pid"] == pid).collect();
    assert_eq!(of_it.iter().map(|session| session["prompts"].as_u64()).collect::<Vec<_>>(), [Some(1)]);
    repo.unmount();
    judge(&repo.json(&["log"]), &[&script]).assert_right(&repo);
    assert_ok(&repo.run(&["fsck", "--log"]), "fsck");
}
