//! A git repository with a mount over it, and a work of three snapshots that has some of everything in it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{MountedRepo, assert_ok, can_mount, has_programs};

/// git in a directory, with nothing of the tester's own settings.
pub fn git_command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(dir);
    for (name, value) in [
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_AUTHOR_NAME", "Test"),
        ("GIT_AUTHOR_EMAIL", "test@example.com"),
        ("GIT_COMMITTER_NAME", "Test"),
        ("GIT_COMMITTER_EMAIL", "test@example.com"),
        ("LC_ALL", "C"),
    ] {
        command.env(name, value);
    }
    command
}

/// What git says; it must succeed.
pub fn git(dir: &Path, arguments: &[&str]) -> String {
    let output = git_command(dir, arguments).output().expect("run git");
    assert_ok(&output, &format!("git {}", arguments.join(" ")));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// The tree that git would commit of what a directory has; nothing is written there. Objects are a copy: git touches those that it would write again.
pub fn tree_of(dir: &Path) -> String {
    let index = dir.parent().expect("not the root").join("index-of-a-test");
    let _ = fs::copy(dir.join(".git/index"), &index);
    let objects = dir.parent().expect("not the root").join("objects-of-a-test");
    let _ = fs::remove_dir_all(&objects);
    let copied = Command::new("cp").arg("-r").arg(dir.join(".git/objects")).arg(&objects).output().expect("run cp");
    assert_ok(&copied, "cp");
    let run = |arguments: &[&str]| {
        let output = git_command(dir, arguments)
            .env("GIT_INDEX_FILE", &index)
            .env("GIT_OBJECT_DIRECTORY", &objects)
            .output()
            .expect("run git");
        assert_ok(&output, &format!("git {}", arguments.join(" ")));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    };
    run(&["add", "-A"]);
    let tree = run(&["write-tree"]);
    fs::remove_file(&index).expect("remove the index");
    tree
}

pub fn write(dir: &Path, name: &str, text: &str) {
    let at = dir.join(name);
    fs::create_dir_all(at.parent().expect("below a directory")).expect("mkdir");
    fs::write(at, text).expect("write");
}

/// A committed repository with an ignored directory, and its user.
pub fn populate(repo: &Path) {
    write(repo, "README", "hello\nworld\n");
    write(repo, "src/main.c", "int main(void)\n{\n\treturn 0;\n}\n");
    write(repo, "src/old.c", &(1..60).map(|n| format!("int number_{n};\n")).collect::<String>());
    write(repo, "gone", "this goes\n");
    write(repo, ".gitignore", "/target\n*.o\n");
    write(repo, "target/cache", "built before\n");
    git(repo, &["init", "-q", "-b", "main"]);
    git(repo, &["config", "user.name", "Ada"]);
    git(repo, &["config", "user.email", "ada@example.com"]);
    git(repo, &["add", "."]);
    git(repo, &["commit", "-qm", "the beginning"]);
}

/// A mount over such a repository.
pub fn mounted() -> Option<MountedRepo> {
    (can_mount() && has_programs(&["git"], "history for git")).then(|| MountedRepo::new(populate))
}

/// Takes a snapshot.
pub fn snapshot(repo: &MountedRepo, label: &str) -> String {
    let output = repo.run(&["snapshot", "-m", label]);
    assert_ok(&output, "snapshot");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

/// Three snapshots, and something more that is in none. Returns their ids.
pub fn work(repo: &MountedRepo) -> Vec<String> {
    let at = repo.path();
    let mut ids = Vec::new();
    write(at, "README", "hello\nbrave new\nworld\n");
    fs::remove_file(at.join("gone")).expect("remove");
    ids.push(snapshot(repo, "first steps"));
    fs::write(at.join("picture"), [0_u8, 159, 146, 150, 10, 0]).expect("write");
    symlink("README", at.join("link")).expect("symlink");
    fs::set_permissions(at.join("src/main.c"), fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::write(at.join(OsStr::from_bytes(b"na\xffme")), "odd\n").expect("write");
    write(at, "target/more", "built\n");
    write(at, "src/main.o", "object\n");
    write(at, "turns", "a file\n");
    ids.push(snapshot(repo, "grün"));
    fs::rename(at.join("src/old.c"), at.join("src/new.c")).expect("rename");
    fs::remove_file(at.join("turns")).expect("remove");
    write(at, "turns/into", "a directory\n");
    fs::write(at.join("picture"), [0_u8, 1, 2, 3]).expect("write");
    write(at, "empty", "");
    ids.push(snapshot(repo, "third"));
    write(at, "README", "hello\nbrave new\nworld\nand more");
    ids
}

/// Standard output as text.
pub fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
