//! Branches in the repository on disk: made of snapshots, and of commits that were made in the mount.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::common::json::{assert_documented, assert_refused, text};
use crate::common::{MountedRepo, assert_ok, both};
use crate::place::{git, git_command, mounted, out, tree_of, work, write};

/// Hooks of every name that git knows; each leaves a mark.
fn hooks(dir: &Path, mark: &Path) {
    for name in [
        "pre-commit",
        "post-commit",
        "prepare-commit-msg",
        "commit-msg",
        "reference-transaction",
        "post-index-change",
        "post-checkout",
        "post-applypatch",
        "pre-auto-gc",
        "post-rewrite",
        "fsmonitor-watchman",
    ] {
        let at = dir.join(".git/hooks").join(name);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(&at, format!("#!/bin/sh\necho {name} >> '{}'\n", mark.display())).unwrap();
        fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Everything in a repository that an export must leave alone: index, HEAD, settings, files.
fn state(dir: &Path) -> Vec<(String, Vec<u8>)> {
    // First: it writes an index anew whose files are as old as itself.
    let status = git(dir, &["status", "--porcelain", "--ignored"]).into_bytes();
    ["index", "HEAD", "config", "refs/heads/main"]
        .map(|name| (name.to_owned(), fs::read(dir.join(".git").join(name)).unwrap_or_default()))
        .into_iter()
        .chain([("status".to_owned(), status)])
        .collect()
}

#[test]
fn a_branch_has_a_commit_for_each_snapshot() {
    let Some(repo) = mounted() else { return };
    let mark = repo.outside().join("hooks-ran");
    repo.unmount();
    hooks(repo.path(), &mark);
    let before = state(repo.path());
    let _ = fs::remove_file(&mark);
    repo.mount();
    let ids = work(&repo);
    let tree = tree_of(repo.path());
    let _ = fs::remove_file(&mark);
    let rows = repo.json(&["export", "--git-branch", "try/it"]);
    assert_documented("branch", &rows[..1], &[]);
    assert_documented("export", &rows[1..], &[]);
    assert!(!mark.exists(), "hooks ran: {}", fs::read_to_string(&mark).unwrap_or_default());
    assert_eq!((text(&rows[0], "branch"), &rows[0]["commits"]), ("try/it", &4.into()));
    assert_eq!(
        rows[1..].iter().map(|r| r["snapshot"].as_str()).collect::<Vec<_>>(),
        [Some(&*ids[0]), Some(&*ids[1]), Some(&*ids[2]), None]
    );
    // The mount shows it at once.
    assert_eq!(git(repo.path(), &["rev-parse", "try/it"]), text(&rows[0], "tip"));
    assert_eq!(git(repo.path(), &["rev-parse", "try/it^{tree}"]), tree);
    assert_eq!(git(repo.path(), &["rev-parse", "try/it~4"]), git(repo.path(), &["rev-parse", "main"]));
    for (back, id) in [(3, &ids[0]), (2, &ids[1]), (1, &ids[2])] {
        assert_ok(&repo.run(&["rewind", id]), "rewind");
        assert_eq!(git(repo.path(), &["rev-parse", &format!("try/it~{back}^{{tree}}")]), tree_of(repo.path()), "{id}");
        assert_ok(&repo.run(&["undo"]), "undo");
    }
    // It is a branch that can be worked with.
    assert_eq!(
        git(repo.path(), &["log", "--format=%s %an", "main..try/it"]).lines().next(),
        Some("changes since third Ada")
    );
    assert_refused(&repo.run(&["export", "--git-branch", "try/it"]), 1, "already");
    repo.unmount();
    let _ = fs::remove_file(&mark);
    assert_eq!(state(repo.path()), before);
    let _ = fs::remove_file(&mark);
    git(repo.path(), &["fsck", "--strict", "--no-dangling"]);
    git(repo.path(), &["checkout", "-q", "try/it"]);
    assert_eq!(fs::read_to_string(repo.join("turns/into")).unwrap(), "a directory\n");
    assert!(repo.join("target/cache").exists() && !repo.join("target/more").exists());
    assert!(repo.store().read_dir().unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().starts_with("export-")));
}

#[test]
fn what_nobody_committed_comes_first() {
    let Some(repo) = mounted() else { return };
    repo.unmount();
    write(repo.path(), "src/main.c", "int main(void) { return 1; }\n");
    write(repo.path(), "untracked", "x\n");
    write(repo.path(), "staged", "y\n");
    git(repo.path(), &["add", "staged"]);
    fs::remove_file(repo.join("src/old.c")).unwrap();
    let dirty = tree_of(repo.path());
    repo.mount();
    write(repo.path(), "README", "changed\n");
    let rows = repo.json(&["export", "--git-branch", "mounted"]);
    assert_eq!(
        rows.iter().skip(1).map(|r| text(r, "subject")).collect::<Vec<_>>(),
        ["uncommitted changes of the repository", "changes since base"]
    );
    assert_eq!(git(repo.path(), &["rev-parse", "mounted~1^{tree}"]), dirty);
    assert_eq!(git(repo.path(), &["rev-parse", "mounted^{tree}"]), tree_of(repo.path()));
    let tree = tree_of(repo.path());
    repo.unmount();
    assert_ok(&repo.run(&["export", "--git-branch", "offline"]), "export");
    assert_eq!(git(repo.path(), &["rev-parse", "offline^{tree}", "offline~1^{tree}"]), format!("{tree}\n{dirty}"));
    assert_eq!(git(repo.path(), &["status", "--porcelain"]), " M src/main.c\n D src/old.c\nA  staged\n?? untracked");
}

#[test]
fn repositories_of_all_kinds() {
    let Some(repo) = mounted() else { return };
    // A repository inside, a submodule's entry and lines that end otherwise.
    repo.unmount();
    let at = repo.path().to_owned();
    write(&at, "inner/file", "inner\n");
    git(&at.join("inner"), &["init", "-q"]);
    git(&at.join("inner"), &["add", "."]);
    git(&at.join("inner"), &["commit", "-qm", "inner"]);
    write(&at, ".gitattributes", "*.txt text eol=crlf\n");
    write(&at, "crlf.txt", "one\r\ntwo\r\n");
    git(&at, &["add", "inner", ".gitattributes", "crlf.txt"]);
    git(&at, &["commit", "-qm", "more"]);
    // Everything in packs, and references as well.
    git(&at, &["gc", "-q"]);
    repo.mount();
    write(&at, "inner/file", "changed inside\n");
    write(&at, "inner/new", "x\n");
    write(&at, "other/.git/HEAD", "ref: refs/heads/x\n");
    write(&at, "other/file", "x\n");
    write(&at, "crlf.txt", "one\r\nzwei\r\n");
    write(&at, ".GIT/config", "evil\n");
    let output = repo.run(&["export", "--git-branch", "kinds"]);
    assert_ok(&output, "export");
    assert!(String::from_utf8_lossy(&output.stderr).contains(".GIT/config is left out"), "{}", both(&output));
    assert_eq!(git(&at, &["diff", "--name-only", "main", "kinds"]), "crlf.txt");
    assert_eq!(git(&at, &["show", "kinds:crlf.txt"]), "one\nzwei");
    assert_eq!(git(&at, &["rev-parse", "kinds:inner"]), git(&at, &["rev-parse", "main:inner"]));
    repo.unmount();
    // A worktree has its git elsewhere: patches only.
    let tree = repo.outside().join("linked");
    git(&at, &["worktree", "add", "-q", tree.to_str().unwrap(), "-b", "linked"]);
    let linked = |arguments: &[&str]| {
        let mut command = crate::common::regentfs();
        command.args(arguments).arg("--store").arg(repo.outside().join("store-of-linked"));
        command.output().expect("run regentfs")
    };
    assert_ok(&linked(&["mount", tree.to_str().unwrap()]), "mount");
    write(&tree, "README", "in a worktree\n");
    let (branch, patch) = (linked(&["export", "--git-branch", "x"]), linked(&["export", "--patch"]));
    assert_ok(&linked(&["unmount", tree.to_str().unwrap()]), "unmount");
    assert_refused(&branch, 1, "worktree");
    assert!(out(&patch).contains("+in a worktree"), "{}", both(&patch));
}

#[test]
fn before_the_first_commit() {
    if !crate::common::can_mount() {
        return;
    }
    let repo = MountedRepo::new(|dir| {
        write(dir, "a", "a\n");
        git(dir, &["init", "-q", "-b", "main"]);
    });
    write(repo.path(), "b", "b\n");
    let rows = repo.json(&["export", "--git-branch", "first"]);
    assert_eq!((&rows[0]["parent"], &rows[0]["commits"]), (&Value::Null, &2.into()));
    assert_eq!(git(repo.path(), &["ls-tree", "--name-only", "first"]), "a\nb");
    assert_refused(&repo.run(&["apply", "--as-branch", "x"]), 1, "no commit in the mount");
}

#[test]
fn commits_of_the_mount_come_over_as_they_are() {
    let Some(repo) = mounted() else { return };
    let at = repo.path().to_owned();
    write(&at, "README", "by the agent\n");
    git(&at, &["checkout", "-q", "-b", "work"]);
    git(&at, &["commit", "-qam", "one"]);
    write(&at, "new", "x\n");
    git(&at, &["add", "new"]);
    git(&at, &["commit", "-qm", "two"]);
    write(&at, "not-committed", "x\n");
    // Whoever works in the mount can write what he likes into its settings: nothing of it runs.
    let mark = repo.outside().join("ran");
    for name in ["core.fsmonitor", "core.sshCommand", "diff.external", "uploadpack.packObjectsHook"] {
        git(&at, &["config", name, &format!("sh -c 'echo {name} >> {}'", mark.display())]);
    }
    hooks(&at, &mark);
    let head = fs::read_to_string(at.join(".git/refs/heads/work")).unwrap();
    let _ = fs::remove_file(&mark);
    let rows = repo.json(&["apply", "--as-branch", "work"]);
    assert_documented("branch", &rows[..1], &[]);
    assert_documented("export", &rows[1..], &[]);
    assert_eq!((text(&rows[0], "tip"), rows.len()), (head.trim(), 3));
    assert_eq!(rows[1..].iter().map(|r| text(r, "subject")).collect::<Vec<_>>(), ["one", "two"]);
    assert!(!mark.exists(), "{}", fs::read_to_string(&mark).unwrap_or_default());
    assert_refused(&repo.run(&["apply", "--as-branch", "work"]), 1, "has a branch work already");
    assert_refused(&repo.run(&["apply", "--as-branch", "again"]), 1, "nothing to bring over");
    assert_refused(&repo.run(&["apply", "--as-branch", "a..b"]), 2, "cannot be the name");
    repo.unmount();
    assert_eq!(git(&at, &["rev-parse", "work"]), head.trim());
    assert_eq!(git(&at, &["log", "--format=%s", "main..work"]), "two\none");
    git(&at, &["fsck", "--strict"]);
    assert_eq!(git(&at, &["status", "--porcelain", "--branch"]), "## main");
    // The next ones lean on these.
    repo.mount();
    write(&at, "new", "y\n");
    git_command(&at, &["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=", "commit", "-qam", "three"])
        .output()
        .unwrap();
    let rows = repo.json(&["apply", "--as-branch", "more"]);
    assert_eq!(rows[1..].iter().map(|r| text(r, "subject")).collect::<Vec<_>>(), ["three"]);
    repo.unmount();
    assert_eq!(git(&at, &["log", "--format=%s", "main..more"]), "three\ntwo\none");
}

#[test]
fn commits_that_are_not_whole_or_not_right_stay_outside() {
    let Some(repo) = mounted() else { return };
    let at = repo.path().to_owned();
    let packs = || {
        let dir = at.join(".git/objects/pack");
        fs::read_dir(dir).map_or(0, |entries| entries.count())
    };
    // A tree with a name that leads into git's own directory.
    let blob = git(&at, &["hash-object", "-w", "README"]);
    let mut mktree = git_command(&at, &["mktree"]);
    let mut child = mktree.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), format!("100644 blob {blob}\t.git\n").as_bytes())
        .unwrap();
    let tree = out(&child.wait_with_output().unwrap()).trim().to_owned();
    let commit = git(&at, &["commit-tree", "-p", "main", "-m", "evil", &tree]);
    git(&at, &["checkout", "-q", "-b", "evil"]);
    fs::write(at.join(".git/refs/heads/evil"), format!("{commit}\n")).unwrap();
    assert_refused(&repo.run(&["apply", "--as-branch", "evil"]), 1, "not whole");
    // An object is missing.
    write(&at, "README", "changed\n");
    git(&at, &["checkout", "-q", "-f", "-B", "holey", "main"]);
    write(&at, "README", "changed\n");
    git(&at, &["commit", "-qam", "holey"]);
    let blob = git(&at, &["rev-parse", "HEAD:README"]);
    fs::remove_file(at.join(format!(".git/objects/{}/{}", &blob[..2], &blob[2..]))).unwrap();
    let output = repo.run(&["apply", "--as-branch", "holey"]);
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    repo.unmount();
    assert_eq!(git(&at, &["branch", "--format=%(refname:short)"]), "main");
    assert_eq!(packs(), 0, "nothing of it came into the repository");
}
