//! `export --patch`: what `git am` and `git apply` make of it is what the snapshot was.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use crate::common::json::{assert_documented, text};
use crate::common::{MountedRepo, assert_ok, both};
use crate::place::{git, git_command, mounted, out, tree_of, work, write};

/// A clone of the repository as it is on disk.
fn clone(repo: &MountedRepo, name: &str) -> PathBuf {
    let to = repo.outside().join(name);
    let mounted = crate::common::is_mounted(repo.path());
    if mounted {
        repo.unmount();
    }
    git(repo.outside(), &["clone", "-q", repo.path().to_str().unwrap(), name]);
    if mounted {
        repo.mount();
    }
    to
}

#[test]
fn git_takes_the_patches_of_each_snapshot() {
    let Some(repo) = mounted() else { return };
    let copy = clone(&repo, "copy");
    let ids = work(&repo);
    let dir = repo.outside().join("patches");
    let rows = repo.json(&["export", "--patch", "-o", &format!("{}/", dir.display())]);
    assert_documented("export", &rows, &[]);
    let snapshots: Vec<Option<&str>> = rows.iter().map(|r| r["snapshot"].as_str()).collect();
    assert_eq!(snapshots, [Some(&*ids[0]), Some(&*ids[1]), Some(&*ids[2]), None]);
    let mut files: Vec<String> =
        fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, rows.iter().map(|r| text(r, "file")).collect::<Vec<_>>());
    assert_eq!(files[0], "0001-first-steps.patch");
    let paths: Vec<String> = files.iter().map(|f| dir.join(f).to_str().unwrap().to_owned()).collect();
    let mut arguments = vec!["am", "-q"];
    arguments.extend(paths.iter().map(String::as_str));
    git(&copy, &arguments);
    let subjects = git(&copy, &["log", "--reverse", "--format=%s", "origin/main..HEAD"]);
    assert_eq!(subjects.lines().collect::<Vec<_>>(), ["first steps", "grün", "third", "changes since third"]);
    assert_eq!(git(&copy, &["log", "-1", "--format=%an <%ae>"]), "Ada <ada@example.com>");
    let message = git(&copy, &["log", "-1", "--format=%B", "HEAD~1"]);
    assert!(message.contains(&format!("Regentfs-Snapshot: {}", ids[2])), "{message}");
    // Each commit is its snapshot.
    assert_eq!(git(&copy, &["rev-parse", "HEAD^{tree}"]), tree_of(repo.path()));
    for (back, id) in [(3, &ids[0]), (2, &ids[1]), (1, &ids[2])] {
        assert_ok(&repo.run(&["rewind", id]), "rewind");
        assert_eq!(git(&copy, &["rev-parse", &format!("HEAD~{back}^{{tree}}")]), tree_of(repo.path()), "{id}");
        assert_ok(&repo.run(&["undo"]), "undo");
    }
    let part = repo.run(&["export", "--patch", "first steps..third"]);
    assert_eq!(out(&part).matches("\nSubject: ").count(), 2, "{}", both(&part));
}

#[test]
fn the_same_patches_come_from_a_store_that_is_not_mounted() {
    let Some(repo) = mounted() else { return };
    work(&repo);
    let mounted = repo.run(&["export", "--patch", "..third"]);
    let tree = tree_of(repo.path());
    repo.unmount();
    let file = repo.outside().join("all.mbox");
    assert_ok(&repo.run(&["export", "--patch", "..third", "-o", file.to_str().unwrap()]), "export");
    assert_eq!(out(&mounted), fs::read_to_string(&file).unwrap());
    assert_ok(&repo.run(&["export", "--patch", "-o", file.to_str().unwrap()]), "export");
    git(repo.path(), &["am", "-q", file.to_str().unwrap()]);
    assert_eq!(git(repo.path(), &["rev-parse", "HEAD^{tree}"]), tree);
}

#[test]
fn one_patch_for_everything() {
    let Some(repo) = mounted() else { return };
    work(&repo);
    let copy = clone(&repo, "copy");
    let patch = repo.run(&["export", "--patch", "--single"]);
    assert_ok(&patch, "export --single");
    assert_eq!(out(&patch).matches("\nSubject: ").count(), 1);
    assert!(out(&patch).contains("GIT binary patch") && !out(&patch).contains("target/more"));
    let file = repo.outside().join("one.patch");
    fs::write(&file, &patch.stdout).unwrap();
    git(&copy, &["apply", "--index", file.to_str().unwrap()]);
    assert_eq!(git(&copy, &["write-tree"]), tree_of(repo.path()));
    // Backwards, and between two that do not follow each other.
    let back = repo.run(&["export", "--patch", "--single", "third..base"]);
    assert_ok(&back, "export backwards");
    assert!(out(&back).contains("deleted file mode"), "{}", both(&back));
    // Through a pipe, as it would be used.
    let mut am = git_command(&copy, &["am", "-q"]);
    git(&copy, &["reset", "-q", "--hard", "origin/main"]);
    git(&copy, &["clean", "-qfd"]);
    let mut child = am.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &patch.stdout).unwrap();
    assert_ok(&child.wait_with_output().unwrap(), "git am");
    assert_eq!(git(&copy, &["rev-parse", "HEAD^{tree}"]), tree_of(repo.path()));
}

#[test]
fn what_git_ignores_is_left_out_unless_it_is_wanted() {
    let Some(repo) = mounted() else { return };
    work(&repo);
    let patch = |arguments: &[&str]| out(&repo.run(&[&["export", "--patch", "--single"], arguments].concat()));
    assert!(!patch(&[]).contains("src/main.o") && !patch(&[]).contains("target/"));
    let all = patch(&["--all"]);
    assert!(all.contains("b/src/main.o") && all.contains("b/target/more") && !all.contains("b/.git/"));
    // When it is no longer ignored, it comes.
    write(repo.path(), ".gitignore", "/target\n");
    assert!(patch(&[]).contains("b/src/main.o"));
    // What git has is never ignored.
    write(repo.path(), ".gitignore", "README\n*.c\n");
    assert!(patch(&[]).contains("b/README"));
}

#[test]
fn without_git_in_the_repository_there_are_patches_too() {
    if !crate::common::can_mount() {
        return;
    }
    let repo = MountedRepo::new(|dir| write(dir, "notes", "one\ntwo\n"));
    write(repo.path(), "notes", "one\n2\n");
    write(repo.path(), "new", "x\n");
    let copy = repo.outside().join("copy");
    fs::create_dir(&copy).unwrap();
    write(&copy, "notes", "one\ntwo\n");
    let patch = repo.run(&["export", "--patch"]);
    assert_ok(&patch, "export");
    assert!(out(&patch).contains("From: regentfs <"), "{}", both(&patch));
    let file = repo.outside().join("patch");
    fs::write(&file, &patch.stdout).unwrap();
    git(&copy, &["apply", file.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(copy.join("notes")).unwrap(), "one\n2\n");
    let refused = repo.run(&["export", "--git-branch", "x"]);
    crate::common::json::assert_refused(&refused, 1, "not git's");
}
