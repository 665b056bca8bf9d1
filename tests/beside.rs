//! The repository changes behind the mount, and the mount changes after an apply: what somebody else did is neither overwritten nor forgotten.

mod common;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use common::json::{assert_refused, stderr, text};
use common::{MountedRepo, assert_ok, can_mount, run_script, wait_for};

struct Place {
    repo: MountedRepo,
    base: File,
}

impl Place {
    fn new(script: &str) -> Option<Place> {
        let mut base = None;
        let repo = can_mount().then(|| {
            MountedRepo::new(|at| {
                assert_ok(&run_script(at, script, &[]), script);
                base = Some(File::open(at).expect("open the base"));
            })
        })?;
        Some(Place { repo, base: base.expect("populated") })
    }

    /// The repository on disk, under the mount.
    fn disk(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.base.as_raw_fd()).into()
    }

    fn on_disk(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.disk().join(name)).ok()
    }

    fn shown(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.repo.join(name)).ok()
    }

    /// In the mount, as a step of its own.
    fn does(&self, script: &str) {
        let mut command = Command::new("setsid");
        command
            .args(["--wait", "bash", "-c", &format!("{script}\ntrue")])
            .current_dir(self.repo.path())
            .stdin(Stdio::null());
        assert_ok(&command.output().expect("run setsid"), script);
    }

    /// In the repository while nothing is mounted.
    fn elsewhere(&self, script: &str) {
        self.repo.unmount();
        assert_ok(&run_script(self.repo.path(), script, &[]), script);
        self.repo.mount();
    }

    fn ok(&self, arguments: &[&str]) -> Output {
        let output = self.repo.run(arguments);
        assert_ok(&output, &arguments.join(" "));
        output
    }

    /// The step that wrote a file last.
    fn step_of(&self, path: &str) -> String {
        let has = |row: &serde_json::Value| row["paths"].as_array().is_some_and(|all| all.iter().any(|p| p == path));
        let find = || self.repo.json(&["log"]).into_iter().find(|row| has(row) && row["snapshot"].is_string());
        wait_for("the step to end", || find().is_some());
        text(&find().expect("just found"), "step").to_owned()
    }
}

#[test]
fn an_undo_of_an_apply_leaves_the_mount_alone() {
    let Some(place) = Place::new("seq 1 20 > a; seq 1 20 > b") else { return };
    place.does("sed -i s/^3$/three/ a; mkdir new; echo one > new/f; rm b");
    let before = (place.on_disk("a"), place.on_disk("b"));
    place.ok(&["apply"]);
    let applied = place.on_disk("a");
    assert_ne!(applied, before.0);
    place.does("sed -i s/^15$/fifteen/ a; echo important > new/g; echo again > b");
    let shown = || ["a", "b", "new/f", "new/g"].map(|name| place.shown(name));
    let now = shown();
    place.ok(&["undo"]);
    assert_eq!(shown(), now, "the mount shows what it showed");
    assert_eq!((place.on_disk("a"), place.on_disk("b"), place.on_disk("new/f")), (before.0, before.1, None));
    place.ok(&["redo"]);
    assert_eq!(shown(), now);
    assert_eq!((place.on_disk("a"), place.on_disk("b")), (applied, None));
    // All of it is still there to be brought over.
    place.ok(&["apply"]);
    assert_eq!(["a", "b", "new/f", "new/g"].map(|name| place.on_disk(name)), now);
    assert_eq!(shown(), now);
    place.repo.unmount();
    assert_ok(&place.repo.run(&["fsck", "--log"]), "fsck");
}

#[test]
fn what_others_put_into_a_directory_is_not_taken_with_it() {
    let Some(place) = Place::new("echo q > q; mkdir d e; echo 1 > d/1; echo 1 > e/1; mkdir m; echo 1 > m/1") else {
        return;
    };
    place.does("mkdir n; cp q n/f; rm -r d; rm -r e; echo file > e; mv m moved");
    place.elsewhere("mkdir n; for at in n/h d/2 e/2 m/2; do echo precious > $at; done");
    // What was moved shows what came into it.
    assert_eq!(place.shown("moved/2").as_deref(), Some("precious\n"));
    let refused = place.repo.run(&["apply"]);
    assert_refused(&refused, 1, "3 conflicts");
    let said = String::from_utf8_lossy(&refused.stdout).into_owned() + &stderr(&refused);
    assert!(["n/h", "d/2", "e/2"].iter().all(|name| said.contains(name)) && !said.contains("m/2"), "{said}");
    let precious = || ["n/h", "d/2", "e/2"].map(|name| place.on_disk(name));
    assert_eq!(precious(), [(); 3].map(|()| Some("precious\n".to_owned())));
    place.ok(&["apply", "--theirs"]);
    assert_eq!(precious(), [(); 3].map(|()| Some("precious\n".to_owned())));
    assert_eq!(place.on_disk("n/f").as_deref(), Some("q\n"));
    assert_eq!(["d/1", "e/1", "m/2"].map(|name| place.on_disk(name)), [None, None, None]);
    assert_eq!(place.on_disk("moved/2").as_deref(), Some("precious\n"));
    place.ok(&["apply", "--ours"]);
    assert_eq!(precious(), [None, None, None]);
    assert_eq!(place.on_disk("e").as_deref(), Some("file\n"));
    place.ok(&["undo"]);
    assert_eq!(precious(), [(); 3].map(|()| Some("precious\n".to_owned())));
}

#[test]
fn a_conflict_that_was_decided_is_one_again_after_the_undo() {
    let Some(place) = Place::new("seq 1 9 > a; seq 1 9 > b") else { return };
    place.does("sed -i s/^5$/A/ a; sed -i s/^5$/B/ b");
    place.elsewhere("sed -i 's/^9$/OUT/' a");
    let theirs = place.on_disk("a");
    assert_refused(&place.repo.run(&["apply"]), 1, "1 conflict");
    place.ok(&["apply", "--ours"]);
    assert_ne!(place.on_disk("a"), theirs);
    place.ok(&["undo"]);
    assert_eq!(place.on_disk("a"), theirs);
    assert_refused(&place.repo.run(&["apply"]), 1, "1 conflict");
    place.ok(&["apply", "--theirs"]);
    assert_eq!(place.on_disk("a"), theirs);
    // What nobody else touched is none, however often it is taken back.
    assert!(place.on_disk("b").is_some_and(|text| text.contains('B')));
    place.ok(&["undo"]);
    place.ok(&["apply", "--theirs"]);
    assert!(place.on_disk("b").is_some_and(|text| text.contains('B')));
}

#[test]
fn applies_of_one_file_are_taken_back_one_after_the_other() {
    for how in ["sed -i", "ed"] {
        let Some(place) = Place::new("seq 1 20 > a; mkdir d; seq 1 9 > d/f; ln -s one link") else { return };
        let edit = |from: &str, to: &str| match how {
            "ed" => place.does(&format!("sed s/^{from}$/{to}/ a > ../t; cat ../t > a")),
            _ => place.does(&format!("sed -i s/^{from}$/{to}/ a")),
        };
        let mut states = vec![place.on_disk("a")];
        for (n, (from, to)) in [("3", "three"), ("15", "fifteen"), ("9", "nine")].into_iter().enumerate() {
            edit(from, to);
            place.does(["chmod 700 d/f", "rm -r d", "mkdir d; echo new > d/f; ln -sf two link"][n]);
            place.ok(&["apply"]);
            states.push(place.on_disk("a"));
        }
        let shown = place.shown("a");
        for state in states.iter().rev().skip(1) {
            place.ok(&["undo"]);
            assert_eq!(place.on_disk("a"), *state, "{how}");
            assert_eq!(place.shown("a"), shown);
        }
        assert_refused(&place.repo.run(&["undo"]), 1, "nothing to undo");
        for state in &states[1..] {
            place.ok(&["redo"]);
            assert_eq!(place.on_disk("a"), *state, "{how}");
        }
        assert_eq!(place.on_disk("d/f").as_deref(), Some("new\n"));
        // What somebody else does in between is not overwritten.
        place.ok(&["undo"]);
        fs::write(place.disk().join("a"), "somebody else\n").expect("write");
        assert_refused(&place.repo.run(&["undo"]), 1, "conflict");
        assert_eq!(place.on_disk("a").as_deref(), Some("somebody else\n"));
        place.repo.unmount();
        assert_ok(&place.repo.run(&["fsck", "--log"]), "fsck");
    }
}

#[test]
fn the_first_step_is_told_from_what_was_there_before_it() {
    let Some(place) = Place::new("seq 1 9 > a; seq 1 9 > b") else { return };
    place.does("echo ten >> a; sed -i s/^3$/three/ b");
    let step = place.step_of("b");
    place.ok(&["apply"]);
    place.does("echo later >> b");
    place.repo.unmount();
    assert_ok(&place.repo.run(&["gc"]), "gc");
    place.repo.mount();
    let shown = place.ok(&["show", &step]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("+three") && !shown.contains("new file") && !shown.contains("later"), "{shown}");
    assert_eq!(text(&place.repo.json(&["blame", "b:3"])[0], "step"), step);
    place.ok(&["revert", &step]);
    assert!(
        place.shown("b").is_some_and(|b| b.lines().count() == 10 && !b.contains("three")),
        "{:?}",
        place.shown("b")
    );
}

#[test]
fn a_directory_that_both_made_is_one() {
    let Some(place) = Place::new("echo q > q") else { return };
    place.does("mkdir n; cp q n/f");
    let step = place.step_of("n/f");
    place.elsewhere("mkdir n; echo other > n/g");
    place.ok(&["apply", "--step", &step]);
    assert_eq!(place.on_disk("n/f").as_deref(), Some("q\n"));
    assert_eq!(place.on_disk("n/g").as_deref(), Some("other\n"));
    place.repo.unmount();
    assert_ok(&place.repo.run(&["fsck", "--log"]), "fsck");
}

#[test]
fn lines_of_the_repository_stay_its_own_through_an_apply() {
    let Some(place) = Place::new("seq 1 9 > a") else { return };
    place.does("echo ten >> a");
    let step = place.step_of("a");
    let blame = || {
        let rows = place.repo.json(&["blame", "a"]);
        let by = |row: &serde_json::Value| row["step"].as_str().unwrap_or(text(row, "by")).to_owned();
        rows.iter().map(by).collect::<Vec<_>>()
    };
    let expected: Vec<String> = vec!["base".to_owned(); 9].into_iter().chain([step]).collect();
    assert_eq!(blame(), expected);
    for command in ["apply", "undo", "redo"] {
        place.ok(&[command]);
        assert_eq!(blame(), expected, "after {command}");
    }
    place.repo.unmount();
    place.repo.mount();
    assert_eq!(blame(), expected, "in the next mount");
}
