//! The command line: what the commands print, with which exit code, mounted and not.
//!
//! Knows the program from outside only. `docs/JSON.md` is what the objects are compared with.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::json::{assert_documented, assert_refused, stderr, text};
use common::{MountedRepo, assert_ok, both, can_mount, regentfs, run_script, scratch};
use serde_json::Value;

fn populate(repo: &Path) {
    fs::create_dir_all(repo.join("src")).unwrap();
    fs::create_dir(repo.join(".git")).unwrap();
    fs::write(repo.join("README"), "hello\n").unwrap();
    fs::write(repo.join("src/main.c"), "int main(void)\n{\n\treturn 0;\n}\n").unwrap();
    fs::write(repo.join("src/old.c"), "int old;\n").unwrap();
    fs::write(repo.join(OsStr::from_bytes(b"na\xffme")), "odd\n").unwrap();
}

#[test]
fn usage_errors_are_2() {
    for arguments in [
        &["frobnicate"][..],
        &["diff", "--stat", "--name-only"],
        &["events", "--op", "frobnicate"],
        &["events", "--since", "yesterday"],
        &["ps", "--pid"],
    ] {
        let output = regentfs().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", both(&output));
    }
    assert_eq!(regentfs().arg("--version").output().unwrap().status.code(), Some(0));
}

#[test]
fn without_an_overlay_it_says_what_to_do() {
    let dir = scratch();
    let repo = dir.path().join("repo");
    fs::create_dir(&repo).unwrap();
    for command in ["status", "diff", "ps", "events", "reads", "discard", "fsck"] {
        let output =
            regentfs().arg(command).arg("--repo").arg(&repo).env("XDG_STATE_HOME", dir.path()).output().unwrap();
        assert_refused(&output, 1, "`regentfs mount` makes one");
        let output = regentfs().arg(command).arg("--repo").arg(dir.path().join("none")).output().unwrap();
        assert_refused(&output, 1, "does not exist");
        let output = regentfs().arg(command).arg("--repo").arg("/dev/null").output().unwrap();
        assert_refused(&output, 1, "not a directory");
    }
    assert!(!dir.path().join("regentfs").exists(), "asking makes nothing");
}

#[test]
fn discard_deletes_stores_only() {
    let dir = scratch();
    let store = dir.path().join("not-a-store");
    fs::create_dir(&store).unwrap();
    fs::write(store.join("precious"), "x").unwrap();
    let discard = || {
        regentfs()
            .args(["discard", "--purge", "--yes", "--repo"])
            .arg(dir.path())
            .arg("--store")
            .arg(&store)
            .output()
            .unwrap()
    };
    assert_refused(&discard(), 1, "no regentfs store");
    assert!(store.join("precious").exists());
}

/// Some of everything: reads, writes, renames, refusals, a name that is not UTF-8.
const WORK: &str = "
cat README src/main.c >/dev/null
cat na*me >/dev/null
echo more >> README
mv src/old.c src/new.c
mkdir dir
rmdir dir
cat missing 2>/dev/null || true
printf 'a\\0b' > binary
chmod +x src/main.c
";

fn worked() -> Option<MountedRepo> {
    if !can_mount() {
        return None;
    }
    let repo = MountedRepo::new(populate);
    assert_ok(&run_script(repo.path(), WORK, &[]), "the work");
    Some(repo)
}

#[test]
fn objects_are_as_documented_mounted_and_not() {
    let Some(repo) = worked() else { return };
    let look = |mounted: bool| {
        let status = repo.json(&["status"]);
        assert_documented("status", &status, &[]);
        assert_eq!(status[0]["mounted"], mounted);
        assert_eq!(status[0]["pid"].is_u64(), mounted);
        assert_eq!(status[0]["changed_files"], 4, "{}", status[0]);

        let ps = repo.json(&["ps"]);
        assert_documented("ps", &ps, &[]);
        let cat = ps
            .iter()
            .find(|p| p["argv"].get(1) == Some(&"src/main.c".into()) || p["argv"].get(2) == Some(&"src/main.c".into()));
        let cat = cat.unwrap_or_else(|| panic!("no cat in {ps:?}"));
        assert_eq!((text(cat, "comm"), &cat["files_read"], &cat["files_written"]), ("cat", &2.into(), &0.into()));
        assert_eq!(text(cat, "cwd"), repo.path().to_str().unwrap());

        let events = repo.json(&["events"]);
        assert_documented("events", &events, &["path2"]);
        let seqs: Vec<u64> = events.iter().map(|e| e["seq"].as_u64().unwrap()).collect();
        assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
        let rename = events.iter().find(|e| text(e, "op") == "rename").unwrap();
        assert_eq!((text(rename, "path"), text(rename, "path2")), ("src/old.c", "src/new.c"));
        let append = events.iter().find(|e| text(e, "op") == "write" && text(e, "path") == "README").unwrap();
        assert_eq!(append["ranges"], serde_json::json!([[6, 5]]));

        let reads = repo.json(&["reads", "--path", "README"]);
        assert_documented("reads", &reads, &[]);
        let cats = reads.iter().find(|r| text(r, "comm") == "cat").unwrap();
        assert_eq!(cats["ranges"], serde_json::json!([[0, 6]]));
        assert_eq!(text(cats, "content"), format!("blake3:{}", blake3::hash(b"hello\n").to_hex()));

        let odd = repo.json(&["reads", "--path", "na*me"]);
        assert_eq!((text(&odd[0], "path"), text(&odd[0], "path_hex")), ("na\u{fffd}me", "6e61ff6d65"));

        let diff = repo.json(&["diff"]);
        assert_documented("diff", &diff, &["old_path"]);
        let statuses: Vec<(&str, &str)> = diff.iter().map(|d| (text(d, "status"), text(d, "path"))).collect();
        assert_eq!(statuses, [("M", "README"), ("A", "binary"), ("M", "src/main.c"), ("R", "src/new.c")]);
    };
    look(true);
    repo.unmount();
    look(false);
    let fsck = repo.json(&["fsck", "--log"]);
    assert_documented("fsck", &fsck, &[]);
    assert_eq!(fsck[0]["ok"], true);
    repo.mount();
    look(true);
}

#[test]
fn filters() {
    let Some(repo) = worked() else { return };
    let events = |arguments: &[&str]| repo.json(&[&["events"], arguments].concat());
    let all = events(&[]);
    let ops = events(&["--op", "mkdir,rmdir"]);
    assert_eq!(ops.iter().map(|e| text(e, "op")).collect::<Vec<_>>(), ["mkdir", "rmdir"]);
    let pid = ops[0]["pid"].to_string();
    assert!(events(&["--pid", &pid]).iter().all(|e| e["pid"] == pid.parse::<u64>().unwrap()));
    assert!(!events(&["--pid", &pid]).is_empty());
    assert!(events(&["--path", "src"]).iter().all(|e| text(e, "path").starts_with("src")));
    // A rename is found under both names; an absolute glob means the same as a relative one.
    let by_new = events(&["--path", "new.c", "--op", "rename"]);
    let absolute = format!("{}/src/old.c", repo.path().display());
    assert_eq!(by_new, events(&["--path", &absolute, "--op", "rename"]));
    assert_eq!(by_new.len(), 1);
    assert_eq!(events(&["--since", "1h"]), all);
    assert_eq!(events(&["--since", "2999-01-01"]), [] as [Value; 0]);
    assert_refused(&repo.run(&["events", "--path", "a["]), 2, "bad glob");
    assert_refused(&repo.run(&["diff", "../elsewhere"]), 2, "is not in");
}

#[test]
fn the_repository_is_found_from_inside() {
    let Some(repo) = worked() else { return };
    let in_src = |arguments: &[&str]| {
        let output =
            regentfs().args(arguments).arg("--store").arg(repo.store()).current_dir(repo.join("src")).output().unwrap();
        assert_ok(&output, &arguments.join(" "));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(in_src(&["status", "--json"]).contains(&format!("\"mountpoint\":{:?}", repo.path())));
    // Paths start at the current directory, as in git.
    assert_eq!(in_src(&["diff", "--name-only", "."]), "src/main.c\nsrc/new.c\n");
    assert_eq!(in_src(&["diff", "--name-only", "../README"]), "README\n");
    assert_eq!(in_src(&["diff", "--name-only"]), "README\nbinary\nsrc/main.c\nsrc/new.c\n");
}

#[test]
fn human_output_has_no_colour_without_a_terminal() {
    let Some(repo) = worked() else { return };
    for command in [&["status"][..], &["ps"], &["events"], &["reads"], &["diff"], &["diff", "--stat"]] {
        let output = repo.run(command);
        assert_ok(&output, &command.join(" "));
        assert!(!output.stdout.is_empty() && !output.stdout.contains(&0x1b), "{command:?}: {}", both(&output));
    }
    let stat = String::from_utf8(repo.run(&["diff", "--stat"]).stdout).unwrap();
    assert!(stat.contains(" src/{old.c => new.c} | "), "{stat}");
    assert!(stat.ends_with(" 4 files changed, 1 insertion(+)\n"), "{stat}");
}

#[test]
fn following_shows_what_happens() {
    let Some(repo) = worked() else { return };
    let mut follow = regentfs()
        .args(["events", "--follow", "--json", "--op", "mkdir", "--repo"])
        .arg(repo.path())
        .arg("--store")
        .arg(repo.store())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(text(&next(), "path"), "dir");
    fs::create_dir(repo.join("later")).unwrap();
    assert_eq!(text(&next(), "path"), "later");
    follow.kill().unwrap();
    follow.wait().unwrap();
}

#[test]
fn a_closed_pipe_is_no_error() {
    let Some(repo) = worked() else { return };
    assert_ok(&run_script(repo.path(), "for i in $(seq 300); do cat README >/dev/null; done", &[]), "many events");
    let mut child = regentfs()
        .args(["events", "--repo"])
        .arg(repo.path())
        .arg("--store")
        .arg(repo.store())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[test]
fn purge_asks_and_refuses_while_mounted() {
    let Some(repo) = worked() else { return };
    assert_refused(&repo.run(&["discard", "--purge", "--yes"]), 1, "`regentfs unmount` first");
    assert_refused(&repo.run(&["fsck"]), 1, "`regentfs unmount` first");
    repo.unmount();
    let command = |arguments: &[&str]| {
        let mut command = regentfs();
        command.args(arguments).arg("--repo").arg(repo.path()).arg("--store").arg(repo.store()).stdin(Stdio::null());
        command.output().unwrap()
    };
    assert_refused(&command(&["discard", "--purge"]), 1, "--yes");
    fs::write(repo.store().join("stranger"), "").unwrap();
    assert_refused(&command(&["discard", "--purge", "--yes"]), 1, "stranger");
    fs::remove_file(repo.store().join("stranger")).unwrap();
    assert_ok(&command(&["discard", "--purge", "--yes"]), "discard --purge");
    assert!(!repo.store().exists());
    assert_eq!(fs::read_to_string(repo.join("README")).unwrap(), "hello\n");
    assert!(repo.join("src/old.c").exists());
}

#[test]
fn discard_can_be_undone_mounted_and_not() {
    let Some(repo) = worked() else { return };
    let readme = || fs::read_to_string(repo.join("README")).unwrap();
    let names = || String::from_utf8(repo.run(&["diff", "--name-only"]).stdout).unwrap();
    let changed = "README\nbinary\nsrc/main.c\nsrc/new.c\n";
    let events = repo.json(&["status"])[0]["events"].as_u64().unwrap();
    assert_refused(&repo.run(&["discard"]), 1, "--yes");
    assert_eq!((names().as_str(), readme().as_str()), (changed, "hello\nmore\n"), "it only asked");
    let would = repo.json(&["discard", "--dry-run"]);
    assert_eq!((&would[0]["done"], names().as_str()), (&false.into(), changed), "{}", would[0]);
    let moved = repo.json(&["discard", "--yes"]);
    assert_eq!((text(&moved[0], "op"), &moved[0]["done"]), ("discard", &true.into()));
    assert_eq!((names().as_str(), readme().as_str()), ("", "hello\n"));
    assert!(repo.join("src/old.c").exists() && !repo.join("binary").exists());
    assert!(repo.json(&["status"])[0]["events"].as_u64().unwrap() > events, "the record stays");
    // There is nothing more to discard, and that is no operation.
    assert_eq!(repo.json(&["discard", "--yes"])[0]["done"], false);
    assert_ok(&repo.run(&["undo"]), "undo");
    assert_eq!((names().as_str(), readme().as_str()), (changed, "hello\nmore\n"));
    assert_ok(&repo.run(&["redo"]), "redo");
    assert_eq!(names(), "");
    repo.unmount();
    assert_ok(&repo.run(&["undo"]), "undo without a mount");
    assert_eq!(names(), changed);
    assert_ok(&repo.run(&["discard", "--yes"]), "discard without a mount");
    assert_eq!(names(), "");
    assert_ok(&repo.run(&["undo"]), "undo without a mount");
    repo.mount();
    assert_eq!((names().as_str(), readme().as_str()), (changed, "hello\nmore\n"));
}

#[test]
fn the_patch_applies_with_git() {
    let Some(repo) = worked() else { return };
    let copy = repo.outside().join("copy");
    repo.unmount();
    common::copy_tree(repo.path(), &copy);
    let diff = repo.run(&["diff", "README", "src"]);
    assert_ok(&diff, "diff");
    let patch = repo.outside().join("patch");
    fs::write(&patch, &diff.stdout).unwrap();
    let applied = Command::new("git").arg("apply").arg(&patch).current_dir(&copy).output().unwrap();
    assert_ok(&applied, "git apply");
    assert_eq!(fs::read_to_string(copy.join("README")).unwrap(), "hello\nmore\n");
    assert!(copy.join("src/new.c").exists() && !copy.join("src/old.c").exists());
}
