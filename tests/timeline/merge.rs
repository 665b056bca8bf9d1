//! Bringing one timeline's work into another, while both are mounted and used.

use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{assert_ok, both, can_mount, has_programs};
use crate::scene::refusal;
use crate::stage::{Company, Stage, large, names, read, rows, write};

fn lines(from: u32, to: u32) -> String {
    (from..=to).map(|n| format!("line {n}\n")).collect()
}

/// In place `main`, and `try` beside it that has just been forked.
fn two() -> (Stage, PathBuf) {
    let stage = Stage::mounted();
    write(stage.join("text"), lines(1, 20));
    write(stage.join("binary"), [0, 1, 2]);
    let try_ = stage.forked("try");
    (stage, try_)
}

fn of<'r>(rows: &'r [Value], what: &str) -> Vec<&'r str> {
    rows.iter().filter(|row| row["what"] == what).filter_map(|row| row["path"].as_str()).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("stat").mode() & 0o7777
}

/// What both sides of a merge without conflicts do.
fn work(ours: &Path, theirs: &Path) {
    write(ours.join("text"), format!("ours\n{}", lines(2, 20)));
    write(theirs.join("text"), format!("{}theirs\n", lines(1, 19)));
    write(ours.join("only-ours"), "ours\n");
    write(theirs.join("binary"), [0, 9, 9, 9]);
    write(theirs.join("src/deep/large"), large(b't'));
    fs::rename(theirs.join("src/main"), theirs.join("src/moved")).expect("rename");
    fs::create_dir_all(theirs.join("a/b/c")).expect("mkdir");
    write(theirs.join("a/b/c/new"), "new\n");
    fs::remove_file(theirs.join("link")).expect("remove");
    fs::set_permissions(theirs.join("README"), fs::Permissions::from_mode(0o600)).expect("chmod");
    write(ours.join("README"), "ours\n");
}

fn assert_merged(root: &Path) {
    assert_eq!(names(root), [".git", "README", "a", "binary", "only-ours", "src", "text"]);
    assert_eq!(read(root.join("text")), format!("ours\n{}theirs\n", lines(2, 19)));
    assert_eq!(fs::read(root.join("binary")).expect("read"), [0, 9, 9, 9]);
    assert!(fs::read(root.join("src/deep/large")).expect("read") == large(b't'));
    assert_eq!(names(&root.join("src")), ["deep", "moved"]);
    assert_eq!(read(root.join("src/moved")), "main\n".repeat(1000));
    assert_eq!(read(root.join("a/b/c/new")), "new\n");
    assert_eq!((read(root.join("README")), mode(&root.join("README"))), ("ours\n".into(), 0o600));
}

fn assert_ours(root: &Path) {
    assert_eq!(names(root), [".git", "README", "binary", "link", "only-ours", "src", "text"]);
    assert_eq!(read(root.join("text")), format!("ours\n{}", lines(2, 20)));
    assert_eq!(fs::read(root.join("binary")).expect("read"), [0, 1, 2]);
    assert!(fs::read(root.join("src/deep/large")).expect("read") == large(b'b'));
    assert_eq!(names(&root.join("src")), ["deep", "main"]);
    assert_eq!((read(root.join("README")), mode(&root.join("README"))), ("ours\n".into(), 0o644));
}

#[test]
fn both_sides_work_comes_together_and_can_be_taken_back() {
    if !can_mount() {
        return;
    }
    let (stage, try_) = two();
    work(stage.root(), &try_);
    // All of it is in the kernel's caches.
    assert_ours(stage.root());
    assert!(!stage.join("a").exists());
    let snapshots = || stage.json(&["snapshots", "--all"]).len();
    let before = snapshots();
    let changed = [
        "README",
        "a",
        "a/b",
        "a/b/c",
        "a/b/c/new",
        "binary",
        "link",
        "src/deep/large",
        "src/main",
        "src/moved",
        "text",
    ];
    let asked = stage.timeline(&["merge", "try", "--dry-run"]);
    assert_eq!((asked[0]["op"].as_str(), asked[0]["done"].as_bool()), (Some("merge"), Some(false)), "{asked:?}");
    assert_eq!(of(&asked, "changed"), changed);
    assert_ours(stage.root());
    assert_eq!(snapshots(), before, "nothing was done");
    let merged = stage.timeline(&["merge", "try"]);
    assert_eq!(merged[0]["done"].as_bool(), Some(true), "{merged:?}");
    assert_eq!(merged[0]["note"].as_str(), Some("merge of try"));
    assert_eq!(of(&merged, "changed"), changed);
    let mixed: Vec<&str> =
        merged.iter().filter(|row| row["kind"] == "merged").filter_map(|row| row["path"].as_str()).collect();
    assert_eq!(mixed, ["README", "text"]);
    assert_merged(stage.root());
    assert_eq!(read(try_.join("text")), format!("{}theirs\n", lines(1, 19)), "the other one stays as it is");
    assert_eq!(snapshots(), before + 3, "theirs, before and after");
    // They go on apart.
    write(stage.join("a/b/c/new"), "main's\n");
    write(try_.join("binary"), "try's\n");
    assert_eq!(read(try_.join("a/b/c/new")), "new\n");
    assert_eq!(fs::read(stage.join("binary")).expect("read"), [0, 9, 9, 9]);
    write(stage.join("a/b/c/new"), "new\n");
    fs::write(try_.join("binary"), [0, 9, 9, 9]).expect("write");
    let again = stage.timeline(&["merge", "try"]);
    assert_eq!((again[0]["done"].as_bool(), again.len()), (Some(false), 1), "{again:?}");
    let undone = stage.json(&["undo", "--force"]);
    assert_eq!(undone[0]["note"].as_str(), Some("undo of merge of try"));
    assert_ours(stage.root());
    assert_ok(&stage.run(&["redo"]), "redo");
    assert_merged(stage.root());
    let said = stage.json(&["events", "--op", "rewind"]);
    let said: Vec<&str> = said.iter().filter_map(|e| e["path2"].as_str()).collect();
    assert_eq!(said, ["merge of try", "undo of merge of try", "redo of merge of try"]);
    stage.unmount();
    stage.assert_whole();
    stage.mount(&[]);
    assert_merged(stage.root());
    stage.unmount();
    // The repository on disk has seen nothing of it.
    assert_eq!(names(stage.root()), [".git", "README", "link", "src"]);
}

#[test]
fn with_a_conflict_nothing_is_changed() {
    if !can_mount() {
        return;
    }
    let (stage, try_) = two();
    write(stage.join("text"), format!("ours\n{}", lines(2, 20)));
    write(try_.join("text"), format!("theirs\n{}end\n", lines(2, 20)));
    write(stage.join("binary"), [0, 5]);
    write(try_.join("binary"), [0, 6]);
    fs::remove_file(stage.join("README")).expect("remove");
    write(try_.join("README"), "changed\n");
    fs::rename(stage.join("src/main"), stage.join("src/one")).expect("rename");
    fs::rename(try_.join("src/main"), try_.join("src/two")).expect("rename");
    write(try_.join("fine"), "fine\n");
    let snapshots = stage.json(&["snapshots", "--all"]).len();
    for dry in [&[][..], &["--dry-run"]] {
        let output = stage.try_timeline(&[&["merge", "try"], dry].concat());
        assert_eq!(output.status.code(), Some(1), "{}", both(&output));
        let said = both(&output);
        for line in [
            "4 conflicts: nothing was done (--ours or --theirs decides)",
            "conflict: README: one side removed or moved it",
            "conflict: binary: both changed it, and it cannot be merged by lines",
            "conflict: src/two: both moved it, here to src/one",
            "conflict: text: both changed line 1 here, line 1 there",
        ] {
            assert!(said.contains(line), "{line}: {said}");
        }
    }
    let output = stage.try_timeline(&["merge", "try", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let said = rows(&output);
    assert_eq!((said[0]["done"].as_bool(), said[0]["changed"].as_u64()), (Some(false), Some(0)), "{said:?}");
    assert_eq!(of(&said, "conflict"), ["README", "binary", "src/two", "text"]);
    let kinds: Vec<&str> = said.iter().filter_map(|row| row["kind"].as_str()).collect();
    assert_eq!(kinds, ["delete-change", "binary", "rename", "content"]);
    assert_eq!(said[3]["ours"].as_str(), Some("src/one"));
    assert_eq!(said[4]["lines"], serde_json::json!([{"base": [1, 2], "ours": [1, 2], "theirs": [1, 2]}]));
    assert_eq!(read(stage.join("text")), format!("ours\n{}", lines(2, 20)));
    assert_eq!(names(stage.root()), [".git", "binary", "link", "src", "text"]);
    assert_eq!(stage.json(&["snapshots", "--all"]).len(), snapshots);
    assert!(refusal(&stage.run(&["undo"]), 1).contains("nothing to undo"));
    // Decided.
    let merged = stage.timeline(&["merge", "try", "--ours"]);
    assert_eq!(merged[0]["done"].as_bool(), Some(true));
    assert_eq!(read(stage.join("text")), format!("ours\n{}end\n", lines(2, 20)));
    assert_eq!(names(stage.root()), [".git", "binary", "fine", "link", "src", "text"]);
    assert_eq!(
        (names(&stage.join("src")), fs::read(stage.join("binary")).expect("read")),
        (vec!["deep".into(), "one".into()], vec![0, 5])
    );
    assert_ok(&stage.run(&["undo"]), "undo");
    let merged = stage.timeline(&["merge", "try", "--theirs"]);
    assert_eq!(merged[0]["done"].as_bool(), Some(true));
    assert_eq!(read(stage.join("text")), format!("theirs\n{}end\n", lines(2, 20)));
    assert_eq!(read(stage.join("README")), "changed\n");
    assert_eq!(
        (names(&stage.join("src")), fs::read(stage.join("binary")).expect("read")),
        (vec!["deep".into(), "two".into()], vec![0, 6])
    );
    stage.unmount();
    stage.assert_whole();
}

#[test]
fn open_files_keep_their_bytes() {
    if !can_mount() {
        return;
    }
    let (stage, try_) = two();
    work(stage.root(), &try_);
    let open = |path: &str| fs::File::open(stage.join(path)).expect("open");
    let (mut text, mut big, mut main) = (open("text"), open("src/deep/large"), open("src/main"));
    let mut writer = fs::OpenOptions::new().append(true).open(stage.join("only-ours")).expect("open");
    let theirs = fs::OpenOptions::new().append(true).open(try_.join("a/b/c/new")).expect("open");
    big.read_exact(&mut [0; 4096]).expect("read");
    let company = Company::in_dir(&stage.join("src/deep"));
    let merged = stage.timeline(&["merge", "try"]);
    assert_eq!(of(&merged, "kept"), ["src/deep/large", "text"], "{merged:?}");
    let users: Vec<u64> =
        merged.iter().filter(|row| row["what"] == "kept").filter_map(|row| row["users"][0]["pid"].as_u64()).collect();
    assert_eq!(users, [u64::from(std::process::id()); 2]);
    assert_merged(stage.root());
    let all = |file: &mut fs::File| {
        let mut bytes = Vec::new();
        file.rewind().expect("seek");
        file.read_to_end(&mut bytes).expect("read");
        bytes
    };
    assert!(all(&mut big) == large(b'b'));
    assert_eq!(all(&mut text), format!("ours\n{}", lines(2, 20)).as_bytes());
    // Moved with it.
    assert_eq!(all(&mut main).len(), 5000);
    writer.write_all(b"more\n").expect("write");
    assert_eq!(read(stage.join("only-ours")), "ours\nmore\n");
    // What is open in the other one goes on there, and only there.
    (&theirs).write_all(b"more\n").expect("write");
    assert_eq!((read(try_.join("a/b/c/new")), read(stage.join("a/b/c/new"))), ("new\nmore\n".into(), "new\n".into()));
    drop((text, big, main, writer, theirs, company));
    stage.unmount();
    stage.assert_whole();
}

#[test]
fn what_is_in_mappings_of_either_is_merged() {
    if !can_mount() || !has_programs(&["python3"], "mappings and merges") {
        return;
    }
    let (stage, try_) = two();
    write(stage.join("text"), format!("OURS 1\n{}", lines(2, 20)));
    write(try_.join("text"), format!("{}LINE 20\n", lines(1, 19)));
    // Dirty pages of shared mappings are in the kernel only.
    let script = "import mmap, os, sys\n\
                  f = open('text', 'r+b'); m = mmap.mmap(f.fileno(), 0); at = int(sys.argv[1])\n\
                  m[at:at+4] = b'MMAP'; print('ready', flush=True); sys.stdin.readline()\n";
    let start = |dir: &Path, at: usize| {
        let mut command = Command::new("python3");
        command.args(["-c", script, &at.to_string()]).current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Company(command.spawn().expect("run python3"));
        let mut line = String::new();
        BufReader::new(child.0.stdout.take().expect("piped")).read_line(&mut line).expect("read");
        assert_eq!(line, "ready\n");
        child
    };
    let last = lines(1, 19).len();
    let (one, two) = (start(stage.root(), 0), start(&try_, last));
    let merged = stage.timeline(&["merge", "try"]);
    assert_eq!(merged[0]["done"].as_bool(), Some(true), "{merged:?}");
    assert_eq!(read(stage.join("text")), format!("MMAP 1\n{}MMAP 20\n", lines(2, 19)));
    drop((one, two));
    assert_eq!(read(stage.join("text")), format!("MMAP 1\n{}MMAP 20\n", lines(2, 19)));
    stage.unmount();
    stage.assert_whole();
}

#[test]
fn from_within_the_other_one_and_without_any_mount() {
    if !can_mount() {
        return;
    }
    let (stage, try_) = two();
    work(&try_, stage.root());
    // About the mount that it is given in.
    let output = stage.inside(&try_, &["timeline", "merge", "main", "--json"]);
    assert_ok(&output, "merge in the mount beside");
    assert_merged(&try_);
    assert_eq!(names(stage.root()), [".git", "README", "a", "binary", "src", "text"]);
    // Into main comes what was there first, without a conflict.
    write(try_.join("late"), "late\n");
    let back = stage.timeline(&["merge", "try"]);
    assert_eq!(of(&back, "changed"), ["README", "late", "only-ours", "text"], "{back:?}");
    stage.unmount_one(&try_);
    // One that nothing shows is read from the store, its changes since its last snapshot as well.
    stage.timeline(&["fork", "third"]);
    let third = stage.beside("third", &["--timeline", "third"]);
    write(third.join("third"), "third\n");
    stage.unmount_one(&third);
    stage.timeline(&["merge", "third"]);
    assert_eq!(read(stage.join("third")), "third\n");
    let third = stage.beside("third", &["--timeline", "third"]);
    write(third.join("third"), "more\n");
    stage.unmount();
    let merged = stage.timeline(&["merge", "third"]);
    assert_eq!(of(&merged, "changed"), ["third"]);
    stage.assert_whole();
    stage.mount(&[]);
    assert_eq!((read(stage.join("third")), read(stage.join("late"))), ("more\n".into(), "late\n".into()));
    stage.unmount();
}

#[test]
fn what_cannot_be_merged() {
    if !can_mount() {
        return;
    }
    let (stage, try_) = two();
    write(try_.join("new"), "new\n");
    let refused = |name: &str, code| refusal(&stage.try_timeline(&["merge", name]), code);
    assert!(refused("main", 2).contains("main is the timeline that is shown here: name another one"));
    let said = refused("nobody", 2);
    assert!(said.contains("no timeline is called nobody; there are: main, try"), "{said}");
    assert_eq!(stage.try_timeline(&["merge", "try", "--ours", "--theirs"]).status.code(), Some(2));
    // Into the past nothing can be merged.
    let id = stage.json(&["snapshot"])[0]["id"].as_str().expect("an id").to_owned();
    let past = stage.beside("past", &["--snapshot", &id]);
    let said = refusal(&stage.inside(&past, &["timeline", "merge", "try"]), 1);
    assert!(said.contains("stays as it is"), "{said}");
    stage.unmount_one(&past);
    stage.unmount_one(&try_);
    stage.timeline(&["delete", "try"]);
    let said = refused("try", 2);
    assert!(said.contains("timeline try was deleted: `regentfs timeline fork try "), "{said}");
    assert!(!stage.join("new").exists());
    // That is what helps.
    let id = said.rsplit("fork try ").next().and_then(|rest| rest.split('`').next()).expect("a snapshot").to_owned();
    stage.timeline(&["fork", "try", &id]);
    stage.timeline(&["merge", "try"]);
    assert_eq!(read(stage.join("new")), "new\n");
    stage.unmount();
    stage.assert_whole();
}
