//! `regentfs bisect`: it finds the step that broke something, in few tries, and leaves nothing behind.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::json::{assert_documented, assert_refused, stderr, text};
use common::{MountedRepo, assert_ok, both, can_mount, is_running, make_program, regentfs, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Fails from the fourth snapshot on.
const CHECK: &str = "grep -q good state";

/// A repository with a place of its own for what is temporary.
struct Scene {
    repo: MountedRepo,
    /// Of six snapshots; the first three are good.
    ids: Vec<String>,
}

fn populate(base: &Path) {
    fs::create_dir(base.join("sub")).expect("mkdir");
    fs::write(base.join("state"), "good\n").expect("write");
    fs::write(base.join("sub/file"), "0\n").expect("write");
}

impl Scene {
    /// Mounted, with six snapshots of as many states.
    fn new() -> Option<Scene> {
        if !can_mount() {
            return None;
        }
        let repo = MountedRepo::new(populate);
        fs::create_dir(repo.outside().join("tmp")).expect("mkdir");
        let ids = (1..=6).map(|n| state(&repo, n)).collect();
        Some(Scene { repo, ids })
    }

    fn command(&self, dir: &Path, arguments: &[&str], script: &str) -> Command {
        let mut command = regentfs();
        command.arg("bisect").args(arguments).arg("--repo").arg(self.repo.path()).arg("--store");
        command.arg(self.repo.store()).args(["--", "sh", "-c", script]);
        command.current_dir(dir).env("TMPDIR", self.tmp()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str], script: &str) -> Output {
        let output = self.command(self.repo.outside(), arguments, script).output().expect("run regentfs");
        self.assert_nothing_left(&output);
        output
    }

    /// The object that a search prints.
    fn found(&self, arguments: &[&str], script: &str) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat(), script);
        assert_ok(&output, "bisect");
        let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", both(&output)));
        assert_documented("bisect", std::slice::from_ref(&found), &[]);
        found
    }

    fn tmp(&self) -> PathBuf {
        self.repo.outside().join("tmp")
    }

    /// No directory, no mount, no timeline.
    fn assert_nothing_left(&self, output: &Output) {
        let names: Vec<_> = fs::read_dir(self.tmp()).expect("list").map(|e| e.expect("list").file_name()).collect();
        assert!(names.is_empty(), "{names:?}: {}", both(output));
        assert_eq!(self.timelines(), ["main"], "{}", both(output));
        let table = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        assert!(!table.contains(self.tmp().to_str().expect("UTF-8")), "{table}");
    }

    fn timelines(&self) -> Vec<String> {
        let mut command = regentfs();
        command.args(["timeline", "list", "--json", "--repo"]).arg(self.repo.path());
        let output = command.arg("--store").arg(self.repo.store()).output().expect("run regentfs");
        assert_ok(&output, "timeline list");
        let lines = output.stdout.split(|&b| b == b'\n').filter(|l| !l.is_empty());
        lines.map(|l| text(&serde_json::from_slice::<Value>(l).expect("JSON"), "name").to_owned()).collect()
    }

    /// What the command said of each state that was tried, in order.
    fn tries(&self, found: &Value) -> Vec<(usize, String)> {
        let number = |id: &str| self.ids.iter().position(|known| known == id).map_or(0, |at| at + 1);
        let tries = found["tries"].as_array().expect("a list").iter();
        tries.map(|row| (number(text(row, "snapshot")), text(row, "result").to_owned())).collect()
    }
}

/// Makes the present the state of that number, and keeps it.
fn state(repo: &MountedRepo, n: usize) -> String {
    let root = repo.path();
    fs::write(root.join("sub/file"), format!("{n}\n")).expect("write");
    if n == 4 {
        fs::write(root.join("state"), "broken\n").expect("write");
    }
    let taken = repo.json(&["snapshot"]);
    text(&taken[0], "id").to_owned()
}

fn names(tries: &[(usize, String)]) -> Vec<(usize, &str)> {
    tries.iter().map(|(n, result)| (*n, result.as_str())).collect()
}

#[test]
fn it_finds_the_step_mounted_and_not() {
    let Some(scene) = Scene::new() else { return };
    let (first, last) = (scene.ids[0].clone(), scene.ids[5].clone());
    for mounted in [true, false] {
        let found = scene.found(&[&first, &last], CHECK);
        assert_eq!((text(&found, "first_bad"), text(&found, "last_good")), (&*scene.ids[3], &*scene.ids[2]));
        let tries = scene.tries(&found);
        assert_eq!(names(&tries)[..2], [(1, "ok"), (6, "failed")]);
        assert!(tries.len() <= 5 && names(&tries).contains(&(4, "failed")), "{tries:?}");
        assert!(names(&tries).contains(&(3, "ok")), "{tries:?}");
        // From the repository on disk to the present: the last snapshot, as nothing was changed since.
        let found = scene.found(&["base", "now"], CHECK);
        assert_eq!(text(&found, "first_bad"), scene.ids[3]);
        assert_eq!(text(&found["tries"][0], "snapshot"), "base");
        assert_eq!(text(&found["tries"][1], "snapshot"), scene.ids[5]);
        // For people.
        let output = scene.run(&[&first, &last], CHECK);
        assert_ok(&output, "bisect");
        let said = String::from_utf8(output.stdout).expect("UTF-8");
        let line = |id: &str| said.lines().find(|l| l.starts_with(id)).unwrap_or_else(|| panic!("no {id}: {said}"));
        assert!(line(&scene.ids[3]).ends_with(": failed (exit 1)") && line(&first).ends_with(": ok"), "{said}");
        assert!(said.contains(&format!("first failing snapshot: {}", scene.ids[3])), "{said}");
        assert!(said.contains(&format!("regentfs show {}", scene.ids[3])), "{said}");
        assert_eq!(common::is_mounted(scene.repo.path()), mounted);
        if mounted {
            scene.repo.unmount();
        }
    }
}

#[test]
fn the_step_is_told_with_who_did_it() {
    let Some(scene) = Scene::new() else { return };
    let agent = scene.repo.outside().join("codex");
    make_program(Path::new("/bin/bash"), &agent);
    let run = |script: &str| {
        let mut command = Command::new("setsid");
        command.arg("--wait").arg(&agent).args(["-c", script]).current_dir(scene.repo.path()).stdin(Stdio::null());
        common::without_agents(&mut command);
        assert_ok(&command.output().expect("run setsid"), script);
    };
    let sealed = |wanted: &str| {
        let mut found = Vec::new();
        wait_for("the step to be sealed", || {
            found = scene.repo.json(&["log"]);
            found.iter().any(|row| row["command"] == *wanted && row["snapshot"].is_string())
        });
        let row = found.into_iter().find(|row| row["command"] == *wanted);
        row.expect("just seen")
    };
    run("sh -c 'echo 7 > sub/file'; true");
    sealed("echo 7 > sub/file");
    run("sh -c 'echo bad > other'; true");
    let guilty = sealed("echo bad > other");
    run("sh -c 'echo 8 > sub/file'; true");
    sealed("echo 8 > sub/file");
    let found = scene.found(&[&scene.ids[5], "now"], "! test -e other");
    assert_eq!(found["first_bad"], guilty["snapshot"]);
    let [step] = &found["steps"].as_array().expect("a list")[..] else { panic!("{found}") };
    for field in ["step", "session", "agent", "command", "exit"] {
        assert_eq!(step[field], guilty[field], "{field}");
    }
    assert_eq!(text(step, "agent"), "codex");
    let output = scene.run(&[&scene.ids[5], "now"], "! test -e other");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    let by = format!("{} of {} (codex)", text(&guilty, "step"), text(&guilty, "session"));
    assert!(said.contains(&by) && said.contains("echo bad > other"), "{said}");
}

#[test]
fn the_present_counts_with_what_is_in_no_snapshot() {
    let Some(scene) = Scene::new() else { return };
    for mounted in [true, false] {
        if !mounted {
            scene.repo.unmount();
        }
        let sealed = fs::read_to_string(scene.repo.join("sub/file")).expect("read");
        if mounted {
            fs::write(scene.repo.join("late"), "broken\n").expect("write");
        }
        let found = scene.found(&[&scene.ids[5], "now"], "! test -e late");
        let id = text(&found, "first_bad");
        assert!(!scene.ids.iter().any(|known| known == id), "{found}");
        assert_ok(&scene.repo.run(&["show", id]), "show");
        assert!(!mounted || fs::read_to_string(scene.repo.join("sub/file")).expect("read") == sealed);
    }
}

#[test]
fn states_that_are_the_same_are_tried_once() {
    let Some(scene) = Scene::new() else { return };
    let again: Vec<String> = (0..5).map(|_| text(&scene.repo.json(&["snapshot"])[0], "id").to_owned()).collect();
    let found = scene.found(&[&scene.ids[4], &again[4]], "test $(cat sub/file) -lt 6");
    assert_eq!(text(&found, "first_bad"), scene.ids[5]);
    assert_eq!(names(&scene.tries(&found)), [(5, "ok"), (6, "failed")]);
    let nothing = scene.run(&[&again[0], &again[3]], "true");
    assert_refused(&nothing, 2, "nothing was changed");
}

#[test]
fn what_cannot_be_judged_is_skipped() {
    let Some(scene) = Scene::new() else { return };
    let ends = [scene.ids[0].as_str(), &scene.ids[5]];
    // The middle is gone around.
    let script = format!("case $(cat sub/file) in 3) exit 125;; esac; {CHECK}");
    let output = scene.run(&[&ends[..], &["--json"]].concat(), &script);
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(found["first_bad"], Value::Null);
    assert_eq!(found["suspects"], serde_json::json!([scene.ids[2], scene.ids[3]]));
    assert_eq!(text(&found, "last_good"), scene.ids[1]);
    let script = format!("case $(cat sub/file) in 2|5) exit 125;; esac; {CHECK}");
    let found = scene.found(&ends, &script);
    assert_eq!(text(&found, "first_bad"), scene.ids[3]);
    let output = scene.run(&ends, &format!("test -e never || exit 125; {CHECK}"));
    assert_refused(&output, 2, "cannot judge");
}

#[test]
fn ends_that_are_not_as_expected_are_refused() {
    let Some(scene) = Scene::new() else { return };
    let ids = &scene.ids;
    let refused = |start: &str, end: &str, script: &str, says: &str| {
        let output = scene.run(&[start, end], script);
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(stderr(&output).contains(says), "{}", both(&output));
    };
    refused(&ids[3], &ids[5], CHECK, "fails in it already");
    refused(&ids[0], &ids[2], CHECK, "succeeds in it");
    refused(&ids[5], &ids[0], CHECK, "not in the past");
    refused("now", &ids[5], CHECK, "not in the past");
    refused(&ids[0], "nowhere-at-all", CHECK, "nowhere-at-all");
    let output = regentfs().args(["bisect", "base", "now"]).output().expect("run regentfs");
    assert_eq!(output.status.code(), Some(2), "a command has to be given");
}

#[test]
fn a_command_that_cannot_be_run_stops_it() {
    let Some(scene) = Scene::new() else { return };
    let ends = [scene.ids[0].as_str(), &scene.ids[5]];
    for script in ["no-such-program-anywhere", "./sub/file"] {
        let output = scene.run(&ends, script);
        assert_refused(&output, 1, "cannot be run");
    }
    for program in ["no-such-program-anywhere", "./sub/file"] {
        let mut command = regentfs();
        command.arg("bisect").args(ends).arg("--repo").arg(scene.repo.path()).arg("--store").arg(scene.repo.store());
        let output = command.args(["--", program]).env("TMPDIR", scene.tmp()).output().expect("run regentfs");
        assert_refused(&output, 1, "cannot be run");
        scene.assert_nothing_left(&output);
    }
    // Somebody ended it.
    let output = scene.run(&ends, "kill -KILL $$");
    assert_refused(&output, 1, "signal 9");
    // It ended by its own fault.
    let output = scene.run(&[ends[0], ends[1]], &format!("{CHECK} || kill -SEGV $$"));
    assert_ok(&output, "bisect");
    assert!(String::from_utf8_lossy(&output.stdout).contains("failed (signal 11)"), "{}", both(&output));
}

#[test]
fn the_command_writes_where_nobody_else_sees_it() {
    let Some(scene) = Scene::new() else { return };
    let log = scene.repo.outside().join("log");
    // It writes, it says where it is, and it leaves something running there.
    let script = format!(
        "echo \"$PWD $REGENTFS_BISECT $(pwd)\" >> '{0}'; test -e ../left && exit 126; echo x > ../left; \
         echo {1} >> ../state; rm file; setsid sleep 300 & echo $! >> '{0}.pids'; sed -n 1p ../state | grep -q good",
        log.display(),
        "more"
    );
    let (root, sub) = (scene.repo.path().to_owned(), scene.repo.join("sub"));
    let before = || {
        let mut names: Vec<_> = fs::read_dir(&root).expect("list").map(|e| e.expect("list").file_name()).collect();
        names.sort();
        (names, fs::read(root.join("state")).expect("read"), fs::read(root.join("sub/file")).expect("read"))
    };
    let then = before();
    let changed = String::from_utf8(scene.repo.run(&["diff"]).stdout).expect("UTF-8");
    let output = scene.command(&sub, &[&scene.ids[0], &scene.ids[5]], &script).output().expect("run regentfs");
    scene.assert_nothing_left(&output);
    assert_ok(&output, "bisect");
    assert_eq!(before(), then);
    assert_eq!(String::from_utf8(scene.repo.run(&["diff"]).stdout).expect("UTF-8"), changed);
    let mut tried = 0;
    for line in fs::read_to_string(&log).expect("read").lines() {
        let [place, id, here] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        assert!(place == here && Path::new(place).ends_with("sub"), "{line}");
        assert!(Path::new(place).starts_with(scene.tmp().canonicalize().expect("there")), "{line}");
        assert!(scene.ids.iter().any(|known| known == id), "{line}");
        tried += 1;
    }
    assert!((4..=5).contains(&tried), "{tried}");
    for pid in fs::read_to_string(log.with_extension("pids")).expect("read").lines() {
        assert!(!is_running(pid.parse().expect("a number")), "{pid} is left");
    }
    // What it says is hidden unless somebody asks.
    let noisy = "echo out-loud; echo err-loud >&2; grep -q good state";
    let quiet = scene.run(&[&scene.ids[0], &scene.ids[5]], noisy);
    assert!(!both(&quiet).contains("-loud"), "{}", both(&quiet));
    let loud = scene.run(&[&scene.ids[0], &scene.ids[5], "--verbose"], noisy);
    assert!(stderr(&loud).contains("out-loud") && stderr(&loud).contains("err-loud"), "{}", both(&loud));
    assert!(!String::from_utf8_lossy(&loud.stdout).contains("-loud"), "{}", both(&loud));
}

#[test]
fn a_directory_that_a_state_has_not_is_no_hindrance() {
    let Some(scene) = Scene::new() else { return };
    fs::create_dir(scene.repo.join("new")).expect("mkdir");
    let script = "case $PWD in */new) false;; *) true;; esac";
    let mut command = scene.command(&scene.repo.join("new"), &["base", "now", "--json"], script);
    let output = command.output().expect("run regentfs");
    scene.assert_nothing_left(&output);
    assert_ok(&output, "bisect");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(text(&found, "last_good"), scene.ids[5]);
}

/// Starts a search, and waits until the command has begun for the second time. It ignores signals as `deaf` says.
fn in_the_middle(scene: &Scene, deaf: &str, script: &str) -> Child {
    let begun = scene.repo.outside().join("begun");
    let _ = fs::remove_file(&begun);
    let begin = format!("echo $$ >> '{}'; test $(wc -l < '{0}') -lt 2 && exit 0", begun.display());
    let script = format!("trap '' {deaf} 0; {begin}; {script}");
    let mut command = scene.command(scene.repo.outside(), &[&scene.ids[0], &scene.ids[5]], &script);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run regentfs");
    wait_for("the command to run", || fs::read_to_string(&begun).is_ok_and(|text| text.lines().count() >= 2));
    child
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id().cast_signed()).expect("a pid"), signal).expect("kill");
}

#[test]
fn interrupted_in_the_middle_it_leaves_nothing() {
    let Some(scene) = Scene::new() else { return };
    for mounted in [true, false] {
        if !mounted {
            scene.repo.unmount();
        }
        for (deaf, script, how) in [
            ("", "exec sleep 300", Signal::INT),
            ("", "sleep 300; sleep 300", Signal::TERM),
            ("INT TERM HUP", "sleep 300 & wait; sleep 300", Signal::HUP),
        ] {
            let child = in_the_middle(&scene, deaf, script);
            signal(&child, how);
            let output = child.wait_with_output().expect("wait");
            assert_eq!(output.status.code(), Some(130), "{script}: {}", both(&output));
            scene.assert_nothing_left(&output);
            let pids = fs::read_to_string(scene.repo.outside().join("begun")).expect("read");
            assert!(!pids.lines().any(|pid| is_running(pid.parse().expect("a number"))), "{script}: {pids}");
        }
        assert_eq!(common::is_mounted(scene.repo.path()), mounted);
    }
}

#[test]
fn a_view_that_is_taken_away_is_no_failure_of_the_command() {
    let Some(scene) = Scene::new() else { return };
    let command = if common::plain_user() { "fusermount3 -uz" } else { "umount -l" };
    let script = format!("cd /; {command} \"$OLDPWD\"; exit 1");
    let output = scene.run(&[&scene.ids[0], &scene.ids[5]], &script);
    assert_refused(&output, 1, "was taken away");
    // The same with its daemon.
    scene.repo.unmount();
    let status =
        format!("'{}' status --json --store '{}'", env!("CARGO_BIN_EXE_regentfs"), scene.repo.store().display());
    let script = format!("kill -KILL $({status} | sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); sleep 0.5; exit 1");
    let output = scene.run(&[&scene.ids[0], &scene.ids[5]], &script);
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(stderr(&output).contains("was taken away"), "{}", both(&output));
}

#[test]
fn a_second_interrupt_does_not_wait() {
    let Some(scene) = Scene::new() else { return };
    let child = in_the_middle(&scene, "INT TERM", "while :; do sleep 0.1; done");
    signal(&child, Signal::INT);
    std::thread::sleep(std::time::Duration::from_millis(300));
    signal(&child, Signal::INT);
    let output = child.wait_with_output().expect("wait");
    assert_eq!(output.status.code(), Some(130), "{}", both(&output));
    let said = stderr(&output);
    // It says what to do about what is left, and that works.
    let commands: Vec<&str> = said.split('`').filter(|part| part.starts_with("regentfs ")).collect();
    assert!(commands.len() == 2, "{said}");
    for command in commands {
        let words: Vec<&str> = command.split(' ').skip(1).collect();
        let mut command = regentfs();
        command.args(&words).arg("--store").arg(scene.repo.store());
        if words[0] == "timeline" {
            command.arg("--repo").arg(scene.repo.path());
        }
        wait_for(&format!("{words:?}"), || command.output().expect("run regentfs").status.success());
    }
    assert_eq!(scene.timelines(), ["main"]);
}
