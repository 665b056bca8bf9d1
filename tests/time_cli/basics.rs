//! Every command's ordinary way, and the objects that it prints.

use std::fs;
use std::process::Stdio;

use serde_json::Value;

use crate::common::json::{assert_documented, assert_refused, text};
use crate::common::{MountedRepo, assert_ok, both, regentfs};
use crate::place::{mounted, out, snapshot, work, write};

/// The first object of a move, and the paths that it changed.
fn moved(repo: &MountedRepo, arguments: &[&str]) -> (Value, Vec<String>) {
    let rows = repo.json(arguments);
    assert_documented("moves", &rows[..1], &[]);
    if rows.len() > 1 {
        assert_documented("paths", &rows[1..], &["why", "users", "kind", "lines", "step", "builds_on"]);
    }
    let paths = rows[1..].iter().filter(|r| text(r, "what") == "changed").map(|r| text(r, "path").to_owned()).collect();
    (rows[0].clone(), paths)
}

#[test]
fn snapshots_are_listed_and_shown() {
    let Some(repo) = mounted() else { return };
    let taken = repo.json(&["snapshot", "-m", "start"]);
    assert_documented("snapshots", &taken, &[]);
    let ids = work(&repo);
    let rows = repo.json(&["snapshots"]);
    assert_documented("snapshots", &rows, &[]);
    let labels: Vec<&str> = rows.iter().map(|r| text(r, "label")).collect();
    assert_eq!(labels, ["start", "first steps", "grün", "third"], "the oldest first");
    assert_eq!(rows.iter().map(|r| r["changed_files"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 2, 7, 5], "{rows:?}");
    for (at, row) in rows.iter().enumerate().skip(1) {
        assert_eq!(text(row, "previous"), text(&rows[at - 1], "id"));
        assert_eq!((text(row, "id"), text(row, "why"), text(row, "timeline")), (&*ids[at - 1], "manual", "main"));
    }
    assert_eq!(repo.json(&["snapshots", "-n", "2", "--brief"]).len(), 2);
    // For people the newest is first.
    let list = out(&repo.run(&["snapshots"]));
    assert!(list.find("third").unwrap() < list.find("first steps").unwrap(), "{list}");
    let shown = out(&repo.run(&["show", "first steps", "--name-only"]));
    assert!(shown.contains("Label:    first steps") && shown.ends_with("README\ngone\n"), "{shown}");
    assert_eq!(out(&repo.run(&["show", "first steps:README"])), "hello\nbrave new\nworld\n");
    assert_eq!(out(&repo.run(&["show", "base:README"])), "hello\nworld\n");
    assert_eq!(out(&repo.run(&["show", &format!("{}:turns", &ids[1][..6])])), "a file\n");
    assert_eq!(out(&repo.run(&["show", "now:turns"])), "into\n", "a directory's names");
    assert_eq!(
        out(&repo.run(&["diff", "grün", "third", "--name-only"])),
        "empty\npicture\nsrc/new.c\nturns\nturns/into\n"
    );
    assert_eq!(out(&repo.run(&["diff", "third..", "--name-only"])), "README\n");
    let only = out(&repo.run(&["diff", "base..third", "--name-only", "src"]));
    assert_eq!(only, "src/main.c\nsrc/main.o\nsrc/new.c\n");
}

#[test]
fn there_and_back_again() {
    let Some(repo) = mounted() else { return };
    let ids = work(&repo);
    let readme = || fs::read_to_string(repo.join("README")).unwrap();
    let now = readme();
    // What a dry run names is what happens, and it does nothing.
    let (would, paths) = moved(&repo, &["rewind", "first steps", "--dry-run"]);
    assert_eq!((&would["done"], text(&would, "op"), readme()), (&Value::Bool(false), "rewind", now.clone()));
    assert!(!paths.contains(&String::new()) && paths.contains(&"README".to_owned()), "{paths:?}");
    let (did, changed) = moved(&repo, &["rewind", "first steps"]);
    assert_eq!((&did["done"], &changed), (&Value::Bool(true), &paths));
    assert_eq!(readme(), "hello\nbrave new\nworld\n");
    assert!(!repo.join("picture").exists() && repo.join("src/old.c").exists());
    // Once more is nothing, and nothing to take back.
    let before = repo.json(&["snapshots"]).len();
    let (again, paths) = moved(&repo, &["rewind", "first steps"]);
    assert_eq!((&again["done"], paths.len()), (&Value::Bool(false), 0));
    assert_eq!(repo.json(&["snapshots"]).len(), before);
    let said = out(&repo.run(&["rewind", &ids[0]]));
    assert!(said.contains("nothing differs"), "{said}");
    let (undone, _) = moved(&repo, &["undo"]);
    assert_eq!((text(&undone, "op"), readme()), ("undo", now.clone()));
    assert!(text(&undone, "note").starts_with("undo of rewind to "), "{undone}");
    let said = out(&repo.run(&["redo"]));
    assert!(said.contains("redo of rewind to") && said.contains("`regentfs undo` takes it back"), "{said}");
    assert_eq!(readme(), "hello\nbrave new\nworld\n");
    let said = out(&repo.run(&["undo"]));
    assert!(said.contains("`regentfs redo` does it again"), "{said}");
    // Only some paths.
    let (_, paths) = moved(&repo, &["rewind", "base", "src", "gone"]);
    assert_eq!(paths, ["gone", "src/main.c", "src/main.o", "src/new.c", "src/old.c"]);
    assert_eq!((readme(), repo.join("picture").exists()), (now, true));
    assert_ok(&repo.run(&["undo"]), "undo");
    assert!(!repo.join("gone").exists());
}

#[test]
fn the_same_without_a_mount() {
    let Some(repo) = mounted() else { return };
    work(&repo);
    repo.unmount();
    let names = || out(&repo.run(&["diff", "--name-only"]));
    let all = names();
    let (did, _) = moved(&repo, &["rewind", "base"]);
    assert_eq!((text(&did, "op"), names().as_str()), ("rewind", ""));
    assert_ok(&repo.run(&["undo"]), "undo");
    assert_eq!(names(), all);
    assert_documented("snapshots", &repo.json(&["snapshot", "-m", "later"]), &[]);
    let (applied, paths) = moved(&repo, &["apply", "README"]);
    assert_eq!(
        (text(&applied, "op"), &applied["repository"], &paths[..]),
        ("apply", &Value::Bool(true), &["README".to_owned()][..])
    );
    assert_eq!(fs::read_to_string(repo.join("README")).unwrap(), "hello\nbrave new\nworld\nand more");
    let said = out(&repo.run(&["undo"]));
    assert!(said.contains("in the repository"), "{said}");
    assert_eq!(fs::read_to_string(repo.join("README")).unwrap(), "hello\nworld\n");
    repo.mount();
    assert_eq!(names(), all);
}

#[test]
fn apply_brings_changes_over_and_undo_takes_them_back() {
    let Some(repo) = mounted() else { return };
    work(&repo);
    let base = |name: &str| out(&repo.run(&["show", &format!("base:{name}")]));
    let (would, paths) = moved(&repo, &["apply", "--dry-run"]);
    assert_eq!(would["done"], false);
    assert!(paths.contains(&"README".to_owned()) && !paths.iter().any(|p| p.starts_with(".git/")), "{paths:?}");
    assert_eq!(base("README"), "hello\nworld\n");
    let said = out(&repo.run(&["apply", "README", "src"]));
    assert!(said.contains("changed in the repository") && said.contains("`regentfs undo` takes it back"), "{said}");
    assert_eq!(base("README"), "hello\nbrave new\nworld\nand more");
    assert!(!out(&repo.run(&["diff", "--name-only"])).contains("README"), "it is the base's now");
    let (undone, _) = moved(&repo, &["undo"]);
    assert_eq!((text(&undone, "op"), &undone["repository"]), ("undo", &Value::Bool(true)));
    assert_eq!(base("README"), "hello\nworld\n");
    assert_eq!(fs::read_to_string(repo.join("README")).unwrap(), "hello\nbrave new\nworld\nand more");
    // From an older state, and of a part of history.
    moved(&repo, &["apply", "--from", "first steps", "README"]);
    assert_eq!(base("README"), "hello\nbrave new\nworld\n");
    moved(&repo, &["apply", "--only", "third..", "README"]);
    assert_eq!(base("README"), "hello\nbrave new\nworld\nand more");
    // What is said at the end is true of a repository that was changed.
    let said = repo.try_unmount();
    assert_ok(&said, "unmount");
    assert!(out(&said).contains("not in the repository on disk") && !out(&said).contains("as it was"), "{said:?}");
}

#[test]
fn an_apply_that_was_taken_back_can_be_done_again() {
    let Some(repo) = mounted() else { return };
    work(&repo);
    write(repo.path(), "deep/down/file", "new\n");
    let base_has = || repo.run(&["show", "base:deep/down/file"]).status.success() && base_lacks(&repo, "gone");
    for remounted in [false, true] {
        let again = || {
            if remounted {
                repo.unmount();
                repo.mount();
            }
        };
        moved(&repo, &["apply"]);
        again();
        assert!(base_has());
        moved(&repo, &["undo"]);
        again();
        assert!(!base_has());
        moved(&repo, &["redo"]);
        again();
        assert!(base_has());
        moved(&repo, &["undo"]);
        again();
        let (_, paths) = moved(&repo, &["apply", "--dry-run"]);
        assert!(
            ["deep", "deep/down/file", "gone", "turns/into"].iter().all(|p| paths.iter().any(|q| p == q)),
            "{paths:?}"
        );
    }
    // What somebody else takes away is a change of theirs.
    moved(&repo, &["apply"]);
    repo.unmount();
    fs::remove_file(repo.join("deep/down/file")).unwrap();
    repo.mount();
    assert!(!repo.join("deep/down/file").exists(), "the base went on");
}

fn base_lacks(repo: &MountedRepo, name: &str) -> bool {
    !repo.run(&["show", &format!("base:{name}")]).status.success()
}

#[test]
fn two_at_once_without_a_mount() {
    let Some(repo) = mounted() else { return };
    work(&repo);
    repo.unmount();
    let start = |arguments: &[&str]| {
        let mut command = regentfs();
        command.args(arguments).arg("--repo").arg(repo.path()).arg("--store").arg(repo.store());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run regentfs")
    };
    let children: Vec<_> =
        (0..6).map(|n| start(if n % 2 == 0 { &["rewind", "base"] } else { &["snapshot"] })).collect();
    for child in children {
        let output = child.wait_with_output().expect("wait");
        assert!(output.status.success() || both(&output).contains("in use by process"), "{}", both(&output));
    }
    // Who does not let go is named.
    let lock = fs::OpenOptions::new().write(true).open(repo.store().join("lock")).expect("the lock");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("lock");
    fs::write(repo.store().join("lock"), "4711\n").expect("write");
    assert_refused(&repo.run(&["rewind", "first steps"]), 1, "is in use by process 4711");
    drop(lock);
    assert_ok(&repo.run(&["rewind", "first steps"]), "rewind");
    assert_eq!(repo.json(&["fsck", "--log"])[0]["ok"], true);
}

#[test]
fn two_at_once_do_not_mix() {
    let Some(repo) = mounted() else { return };
    snapshot(&repo, "start");
    let start = |arguments: &[&str]| {
        let mut command = regentfs();
        command.args(arguments).arg("--repo").arg(repo.path()).arg("--store").arg(repo.store());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run regentfs")
    };
    for round in 0..5 {
        write(repo.path(), "README", &format!("round {round}\n"));
        write(repo.path(), &format!("new-{round}"), "x\n");
        let children = [
            start(&["rewind", "start"]),
            start(&["snapshot"]),
            start(&["discard", "--yes"]),
            start(&["snapshot", "-m", &format!("round {round}")]),
            start(&["undo", "--force"]),
            start(&["diff", "start"]),
            start(&["snapshots"]),
        ];
        for child in children {
            let output = child.wait_with_output().expect("wait");
            let said = both(&output);
            // Whoever comes first may leave nothing to do for another; nobody meets half of something.
            assert!(output.status.success() || said.contains("nothing to undo"), "{said}");
        }
        // All of it, or nothing.
        let readme = fs::read_to_string(repo.join("README")).unwrap();
        let is_new = repo.join(format!("new-{round}")).exists();
        assert_eq!(is_new, readme == format!("round {round}\n"), "{readme:?}, {is_new}");
        assert_ok(&repo.run(&["rewind", "start"]), "rewind");
    }
    repo.unmount();
    assert_eq!(repo.json(&["fsck", "--log"])[0]["ok"], true);
}
