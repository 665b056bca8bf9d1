//! Bad input and bad moments: one line that says why, an exit code, and nothing changed.

use std::collections::HashMap;
use std::fs;

use crate::common::assert_ok;
use crate::common::json::{assert_documented, assert_refused, text};
use crate::place::{git, mounted, out, snapshot, work, write};

#[test]
fn names_that_are_none() {
    let Some(repo) = mounted() else { return };
    snapshot(&repo, "start");
    for command in [&["rewind"][..], &["show"], &["diff"], &["apply", "--from"], &["export", "--patch"]] {
        let with = |name: &str| repo.run(&[command, &[name]].concat());
        assert_refused(&with("stat"), 2, "did you mean start");
        assert_refused(&with("nothing-like-it"), 2, "no snapshot is called nothing-like-it");
        assert_refused(&with("@{tomorrow}"), 2, "cannot read the time");
    }
    assert_refused(&repo.run(&["show", "start~3:README"]), 2, "not 3");
    assert_refused(&repo.run(&["show", "start:none"]), 1, "has no none");
    assert_refused(&repo.run(&["snapshot", "-m", "start"]), 1, "already used");
    assert_refused(&repo.run(&["snapshot", "-m", "a..b"]), 2, "as ranges do");
    assert_refused(&repo.run(&["snapshot", "-m", "now"]), 2, "always there");
    assert_refused(&repo.run(&["rewind", "now"]), 2, "now is where you are");
    assert_refused(&repo.run(&["apply", "--from", "base"]), 2, "nothing to apply");
    assert_refused(&repo.run(&["apply", "--only", "start"]), 2, "FROM..TO");
    assert_refused(&repo.run(&["apply"]), 1, "nothing to apply");
    assert_refused(&repo.run(&["undo"]), 1, "nothing to undo");
    assert_refused(&repo.run(&["redo"]), 1, "nothing to redo");
    // More snapshots than letters: two of them begin alike.
    for _ in 0..16 {
        assert_ok(&repo.run(&["snapshot"]), "snapshot");
    }
    let mut first: HashMap<char, u32> = HashMap::new();
    for row in repo.json(&["snapshots", "-n", "0", "--brief"]) {
        *first.entry(text(&row, "id").chars().next().unwrap()).or_default() += 1;
    }
    let (letter, count) = first.into_iter().max_by_key(|(_, n)| *n).unwrap();
    assert!(count > 1);
    assert_refused(&repo.run(&["rewind", &letter.to_string()]), 2, "give more letters");
}

#[test]
fn paths_that_are_none() {
    let Some(repo) = mounted() else { return };
    work(&repo);
    let outside = repo.outside().to_str().unwrap().to_owned();
    for command in [&["rewind", "base"][..], &["apply"]] {
        let with = |path: &str| repo.run(&[command, &[path]].concat());
        assert_refused(&with("../elsewhere"), 2, "is not in");
        assert_refused(&with(&outside), 2, "is not in");
    }
    assert_refused(&repo.run(&["rewind", "base", "no-such-file"]), 1, "neither there now nor was it then");
    assert_refused(&repo.run(&["rewind", "base", "--dry-run", "no-such-file"]), 1, "neither there now nor was it then");
    assert_refused(&repo.run(&["rewind", "base", ".", "README"]), 1, "the root is among the paths");
    assert_eq!(fs::read_to_string(repo.join("README")).unwrap(), "hello\nbrave new\nworld\nand more");
}

#[test]
fn what_changed_since_is_not_undone() {
    let Some(repo) = mounted() else { return };
    work(&repo);
    assert_ok(&repo.run(&["rewind", "first steps"]), "rewind");
    write(repo.path(), "README", "mine\n");
    write(repo.path(), "other", "mine too\n");
    assert_refused(&repo.run(&["undo"]), 1, "README changed since");
    assert_eq!(fs::read_to_string(repo.join("README")).unwrap(), "mine\n");
    assert_ok(&repo.run(&["undo", "--force"]), "undo --force");
    assert_eq!(fs::read_to_string(repo.join("README")).unwrap(), "hello\nbrave new\nworld\nand more");
    // What was overwritten is in the snapshot before.
    let before = repo.json(&["snapshots", "--brief"]);
    let kept = before.iter().rev().find(|s| text(s, "why") == "before").unwrap();
    assert_eq!(out(&repo.run(&["show", &format!("{}:README", text(kept, "id"))])), "mine\n");
}

#[test]
fn conflicts_are_listed_and_decided() {
    let Some(repo) = mounted() else { return };
    work(&repo);
    repo.unmount();
    // Meanwhile in the repository.
    write(repo.path(), "README", "somebody else's\n");
    let base = || fs::read_to_string(repo.join("README")).unwrap();
    let said = repo.run(&["apply", "README", "picture"]);
    assert_eq!(said.status.code(), Some(1));
    let text_of = (out(&said), String::from_utf8_lossy(&said.stderr).into_owned());
    assert!(text_of.0.contains("conflict: README: it was changed in the repository"), "{text_of:?}");
    assert!(text_of.1.contains("nothing was done") && text_of.1.contains("--theirs"), "{text_of:?}");
    assert!(base() == "somebody else's\n" && !repo.join("picture").exists());
    let said = repo.run(&["apply", "--json", "README", "picture"]);
    assert_eq!(said.status.code(), Some(1));
    let rows: Vec<serde_json::Value> = out(&said).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_documented("moves", &rows[..1], &[]);
    assert_documented("paths", &rows[1..], &["why", "users", "kind", "lines", "step", "builds_on"]);
    let conflict = rows.iter().find(|r| r["what"] == "conflict").unwrap();
    assert_eq!((text(conflict, "path"), rows[0]["done"] == false), ("README", true));
    assert_ok(&repo.run(&["apply", "--theirs", "README", "picture"]), "apply --theirs");
    assert!(base() == "somebody else's\n" && repo.join("picture").exists());
    assert_ok(&repo.run(&["apply", "--ours", "README"]), "apply --ours");
    assert_eq!(base(), "hello\nbrave new\nworld\nand more");
    assert_ok(&repo.run(&["undo"]), "undo");
    assert_eq!(base(), "somebody else's\n");
}

#[test]
fn exports_that_are_not_made() {
    let Some(repo) = mounted() else { return };
    let ids = work(&repo);
    let branch = |name: &str, range: &str| repo.run(&["export", "--git-branch", name, range]);
    for name in ["a..b", "-x", "a b", "a.lock", "a/", "HEAD", "", "a~b"] {
        let output = repo.run(&["export", &format!("--git-branch={name}")]);
        assert_eq!(output.status.code(), Some(2), "{name:?}: {}", crate::common::both(&output));
    }
    assert_refused(&branch("main", "base.."), 1, "has a branch main already");
    assert_refused(&branch("main/deeper", "base.."), 1, "beside which");
    assert_refused(&branch("try", "third..third"), 2, "nothing between");
    assert_refused(&branch("try", "third..first steps"), 2, "not in the past");
    assert_refused(&branch("try", &format!("{}..", "nope")), 2, "no snapshot is called nope");
    assert_refused(&repo.run(&["export", "--patch", "--json"]), 2, "--output");
    assert_eq!(repo.run(&["export"]).status.code(), Some(2), "of what kind?");
    // Nothing that git would store.
    assert_ok(&repo.run(&["discard", "--yes"]), "discard");
    snapshot(&repo, "clean");
    write(repo.path(), "target/more", "ignored\n");
    assert_refused(&branch("try", "clean.."), 1, "nothing changed there");
    let output = repo.run(&["export", "--patch", "clean.."]);
    assert_ok(&output, "export --patch");
    assert!(output.stdout.is_empty() && String::from_utf8_lossy(&output.stderr).contains("no patch"));
    repo.unmount();
    assert_eq!(git(repo.path(), &["branch", "--format=%(refname)"]), "refs/heads/main");
    assert_refused(&repo.run(&["apply", "--as-branch", "x"]), 1, "is not mounted");
    assert!(!ids.is_empty());
}
