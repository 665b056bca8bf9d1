//! What only some did, out of everything: `apply`, `diff`, `export` and `rewind` with --session, --step, --by and --except, in real mounts.

mod common;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::json::{assert_refused, stderr, text};
use common::{MountedRepo, assert_ok, both, can_mount, has_programs, make_program, regentfs};
use serde_json::Value;

/// A mounted repository, and the directory under the mount.
struct Place {
    repo: MountedRepo,
    base: File,
    agent: PathBuf,
}

fn lines() -> String {
    (1..=20).map(|n| format!("line {n}\n")).collect()
}

/// A text with other lines.
fn with(changes: &[(usize, &str)]) -> String {
    let line =
        |n| changes.iter().find(|(at, _)| *at == n).map_or_else(|| format!("line {n}\n"), |(_, l)| format!("{l}\n"));
    (1..=20).map(line).collect()
}

impl Place {
    fn new() -> Place {
        let mut base = None;
        let repo = MountedRepo::new(|at| {
            for name in ["f", "g", "old"] {
                fs::write(at.join(name), lines()).expect("write");
            }
            base = Some(File::open(at).expect("open the base"));
        });
        let agent = repo.outside().join("codex");
        make_program(Path::new("/bin/bash"), &agent);
        Place { repo, base: base.expect("populated"), agent }
    }

    /// A file of the repository on disk.
    fn disk(&self, name: &str) -> Option<String> {
        fs::read_to_string(format!("/proc/self/fd/{}/{name}", self.base.as_raw_fd())).ok()
    }

    fn mounted(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.repo.join(name)).ok()
    }

    /// Runs something in a session of its own.
    fn run(&self, command: &mut Command) {
        common::without_agents(command);
        let output = command.current_dir(self.repo.path()).stdin(Stdio::null()).output().expect("run");
        assert_ok(&output, &format!("{command:?}"));
    }

    fn agent(&self, script: &str) {
        self.run(Command::new("setsid").arg("--wait").arg(&self.agent).args(["-c", &format!("{script}; true")]));
    }

    fn script(&self, script: &str) {
        self.run(Command::new("setsid").args(["--wait", "/bin/bash", "-c", &format!("{script}; true")]));
    }

    /// At a terminal.
    fn person(&self, script: &str) {
        let mut command = Command::new("setsid");
        command.args(["--wait", "script", "-qefc", &format!("{script}; true"), "/dev/null"]);
        self.run(command.env("SHELL", "/bin/bash"));
    }

    /// The newest session of somebody.
    fn session(&self, by: &str) -> String {
        let sessions = self.repo.json(&["sessions"]);
        let found = sessions.iter().rfind(|s| text(s, "by") == by && s["files_written"] != 0);
        text(found.unwrap_or_else(|| panic!("nobody is {by}: {sessions:?}")), "session").to_owned()
    }

    /// The step of a command.
    fn step(&self, says: &str) -> String {
        let log = self.repo.json(&["log"]);
        let has = |row: &&Value| row["argv"].as_array().expect("a list").iter().any(|w| w == says);
        text(log.iter().find(has).unwrap_or_else(|| panic!("no {says} in {log:?}")), "step").to_owned()
    }

    fn ok(&self, arguments: &[&str]) -> Output {
        let output = self.repo.run(arguments);
        assert_ok(&output, &arguments.join(" "));
        output
    }
}

fn names(rows: &[Value]) -> Vec<&str> {
    rows.iter().filter_map(|row| row["path"].as_str()).collect()
}

const SED: &str = "sed -i";

#[test]
fn an_agent_and_a_script_in_the_same_files() {
    if !can_mount() || !has_programs(&["sed", "setsid"], "selections") {
        return;
    }
    let place = Place::new();
    place.agent(&format!("{SED} 2cagent f; mv old new; echo agent > a"));
    place.script(&format!("{SED} 18cscript f; echo script > s"));
    let (agent, script) = (place.session("agent"), place.session("script"));
    place.agent(&format!("{SED} 10cagent f; rm g"));
    let later = place.session("agent");
    assert_ne!(agent, later);
    let all = [("a", Some("agent\n".to_owned())), ("f", place.mounted("f")), ("g", None), ("new", Some(lines()))];

    let diff = place.repo.json(&["diff", "--name-only", "--session", &agent, "--session", &later]);
    assert_eq!(names(&diff), ["a", "f", "g", "new"]);
    assert_eq!(names(&place.repo.json(&["diff", "--name-only", "--by", "script"])), ["f", "s"]);
    let some = place.ok(&["diff", "--name-only", "--by", "agent", "--", "g", "a"]);
    assert_eq!(String::from_utf8_lossy(&some.stdout), "a\ng\n");
    let patch = String::from_utf8_lossy(&place.ok(&["diff", "--session", &script]).stdout).into_owned();
    assert!(patch.contains("+script") && !patch.contains("agent"), "{patch}");

    let dry = place.repo.json(&["apply", "--by", "agent", "--dry-run"]);
    assert_eq!((&dry[0]["done"], place.disk("a")), (&false.into(), None));
    place.ok(&["apply", "--session", &agent]);
    assert_eq!((place.disk("f"), place.disk("new")), (Some(with(&[(2, "agent")])), Some(lines())));
    assert_eq!((place.disk("g"), place.disk("old"), place.disk("s")), (Some(lines()), None, None));
    place.ok(&["apply", "--by", "agent"]);
    assert_eq!((place.disk("f"), place.disk("g")), (Some(with(&[(2, "agent"), (10, "agent")])), None));
    // The mount is as it was, also for those who look again.
    for (name, right) in &all {
        assert_eq!(place.mounted(name), *right, "{name}");
    }
    place.ok(&["undo"]);
    assert_eq!((place.disk("f"), place.disk("g")), (Some(with(&[(2, "agent")])), Some(lines())));
    assert_refused(&place.repo.run(&["apply", "--session", &agent]), 1, "nothing to apply");
    place.ok(&["apply"]);
    assert_eq!((place.disk("f"), place.disk("s")), (place.mounted("f"), Some("script\n".to_owned())));
    place.repo.unmount();
    assert_ok(&place.repo.run(&["fsck"]), "fsck");
}

#[test]
fn all_but_a_step() {
    if !can_mount() || !has_programs(&["sed", "setsid"], "selections") {
        return;
    }
    let place = Place::new();
    place.agent(&format!("{SED} 2cgood f; {SED} 10cbad f; sh -c 'echo bad > bad' bad; {SED} 18cgood f"));
    place.script("echo script > s");
    let (agent, bad, file) = (place.session("agent"), place.step("10cbad"), place.step("echo bad > bad"));
    let good = with(&[(2, "good"), (18, "good")]);
    place.ok(&["apply", "--session", &agent, "--except", &bad, "--except", &file]);
    assert_eq!((place.disk("f"), place.disk("bad"), place.disk("s")), (Some(good.clone()), None, None));
    place.ok(&["undo"]);
    assert_eq!(place.disk("f"), Some(lines()));
    // A step alone.
    assert_eq!(names(&place.repo.json(&["diff", "--name-only", "--step", &file])), ["bad"]);
    place.ok(&["rewind", "--except", &bad]);
    assert_eq!((place.mounted("f"), place.mounted("bad")), (Some(good.clone()), Some("bad\n".to_owned())));
    assert_eq!(place.mounted("s").as_deref(), Some("script\n"));
    place.ok(&["undo"]);
    assert_eq!(place.mounted("f"), Some(with(&[(2, "good"), (10, "bad"), (18, "good")])));
    for (arguments, says) in [
        (&["apply", "--session", "s99999"][..], "there is no session"),
        (&["apply", "--except", "c99999"], "there is no step"),
        (&["apply", "--by", "agent", "--from", "base"], "leave --from and --only out"),
        (&["diff", "base", "now", "--by", "agent"], "points in time or steps"),
        (&["export", "--patch", "--by", "agent", "base..now"], "a range or steps"),
    ] {
        assert_refused(&place.repo.run(arguments), 2, says);
    }
    assert_refused(&place.repo.run(&["rewind", "--by", "human"]), 1, "nothing was changed by it");
}

#[test]
fn a_persons_own_edits_come_back_in_one_word() {
    if !can_mount() || !has_programs(&["sed", "setsid", "script"], "a person at a terminal") {
        return;
    }
    let place = Place::new();
    place.agent(&format!("{SED} 2cagent f; echo agent > a"));
    place.person(&format!("{SED} 18cperson f; echo person > p"));
    place.agent(&format!("{SED} 10cagent f; rm g"));
    let all = place.mounted("f");
    let dry = place.repo.json(&["rewind", "--by", "human", "--dry-run"]);
    assert_eq!((&dry[0]["done"], place.mounted("f")), (&false.into(), all.clone()));
    place.ok(&["rewind", "--by", "human"]);
    assert_eq!((place.mounted("f"), place.mounted("p")), (Some(with(&[(18, "person")])), Some("person\n".to_owned())));
    assert_eq!((place.mounted("a"), place.mounted("g")), (None, Some(lines())));
    place.ok(&["undo"]);
    assert_eq!((place.mounted("f"), place.mounted("g")), (all.clone(), None));
    place.ok(&["redo"]);
    assert_eq!((place.mounted("f"), place.mounted("a")), (Some(with(&[(18, "person")])), None));
    // What was gone back behind does not come over.
    assert_refused(&place.repo.run(&["apply", "--by", "agent"]), 1, "nothing to apply");
    place.ok(&["undo"]);
    place.ok(&["apply", "--by", "human"]);
    assert_eq!((place.disk("f"), place.disk("a")), (Some(with(&[(18, "person")])), None));
    // Only some paths: the others stay.
    place.ok(&["rewind", "--by", "human", "g"]);
    assert_eq!((place.mounted("f"), place.mounted("g")), (all, Some(lines())));
}

#[test]
fn what_builds_on_something_that_is_not_selected() {
    if !can_mount() || !has_programs(&["sed", "setsid"], "selections") {
        return;
    }
    let place = Place::new();
    place.agent(&format!("{SED} 5cagent f"));
    place.script(&format!("{SED} 5cscript f; echo script > s"));
    let (ours, theirs) = (place.step("5cagent"), place.step("5cscript"));
    let output = place.repo.run(&["apply", "--by", "script", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    let rows: Vec<Value> = output
        .stdout
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).expect("JSON"))
        .collect();
    let [first, conflict] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((&first["op"], &first["done"]), (&"apply".into(), &false.into()));
    assert_eq!((text(conflict, "path"), text(conflict, "what"), text(conflict, "kind")), ("f", "conflict", "content"));
    assert_eq!((text(conflict, "step"), text(conflict, "builds_on")), (theirs.as_str(), ours.as_str()));
    assert_eq!(conflict["lines"][0]["theirs"], serde_json::json!([5, 6]));
    assert_eq!((place.disk("f"), place.disk("s")), (Some(lines()), None));
    // For people, and where there is nothing to list.
    let told = place.repo.run(&["apply", "--by", "script"]);
    let said = String::from_utf8_lossy(&told.stdout).into_owned() + &stderr(&told);
    assert!(said.contains(&format!("{theirs} builds on {ours}")) && said.contains("line 5"), "{said}");
    assert_refused(&place.repo.run(&["diff", "--by", "script"]), 1, &format!("{theirs} builds on {ours}"));
    assert_eq!(place.mounted("f"), Some(with(&[(5, "script")])));
    place.ok(&["apply", "--by", "script", "s"]);
    assert_eq!((place.disk("f"), place.disk("s")), (Some(lines()), Some("script\n".to_owned())));
    place.ok(&["apply", "--by", "script", "--step", &ours]);
    assert_eq!(place.disk("f"), Some(with(&[(5, "script")])));
}

#[test]
fn without_a_mount_and_as_a_patch() {
    if !can_mount() || !has_programs(&["sed", "setsid", "git"], "selections") {
        return;
    }
    let place = Place::new();
    place.agent(&format!("{SED} 2cagent f; mv old new; rm g"));
    place.script(&format!("{SED} 18cscript f"));
    place.repo.unmount();
    assert_eq!(names(&place.repo.json(&["diff", "--name-only", "--by", "agent"])), ["f", "g", "new"]);
    let patch = place.repo.outside().join("agent.patch");
    place.ok(&["export", "--patch", "--by", "agent", "-o", patch.to_str().expect("UTF-8")]);
    let patch = fs::read_to_string(&patch).expect("a patch");
    assert!(patch.contains("+agent") && !patch.contains("script") && patch.contains("changes of by agent"), "{patch}");
    place.ok(&["apply", "--by", "agent"]);
    let read = |name: &str| fs::read_to_string(place.repo.join(name)).ok();
    assert_eq!((read("f"), read("new"), read("g")), (Some(with(&[(2, "agent")])), Some(lines()), None));
    place.ok(&["undo"]);
    assert_eq!(read("f"), Some(lines()));
    place.ok(&["rewind", "--by", "script"]);
    place.repo.mount();
    assert_eq!(fs::read_to_string(place.repo.join("f")).ok(), Some(with(&[(18, "script")])));
    assert!(Path::new(&place.repo.join("old")).exists() && place.repo.join("g").exists());
    // Nobody is bothered with how it was put together.
    let list = ["timeline", "list", "--json", "--repo"];
    let timelines = regentfs().args(list).arg(place.repo.path()).arg("--store").arg(place.repo.store()).output();
    let timelines = String::from_utf8_lossy(&timelines.expect("run regentfs").stdout).into_owned();
    assert_eq!(timelines.lines().count(), 1, "{timelines}");
    place.ok(&["gc"]);
    place.repo.unmount();
    assert_ok(&place.repo.run(&["fsck"]), "fsck");
}

/// What is exported tells of the steps that it was put together of; and everything but the only step is the repository.
#[test]
fn a_patch_of_chosen_steps_names_them() {
    if !can_mount() || !has_programs(&["setsid", "script", "git"], "sessions") {
        return;
    }
    let place = Place::new();
    place.agent(&format!("{SED} s/line.3$/three/ f"));
    let (session, step) = (place.session("agent"), place.step("-i"));
    let patch =
        String::from_utf8_lossy(&place.ok(&["export", "--patch", "--by", "agent", "--co-authors"]).stdout).into_owned();
    for line in
        [format!("Regentfs-Session: {session}"), format!("Regentfs-Step: {step}"), "Regentfs-Agent: codex".into()]
    {
        assert!(patch.contains(&line), "{line} in {patch}");
    }
    assert!(patch.contains("Co-authored-by: Codex") && !patch.contains("Regentfs-Snapshot"), "{patch}");
    assert_refused(&place.repo.run(&["rewind", "--by", "human"]), 1, "regentfs discard");
    place.ok(&["rewind", "--except", &step]);
    assert_eq!(place.mounted("f"), Some(lines()));
    place.ok(&["undo"]);
    assert_ne!(place.mounted("f"), Some(lines()));
}
