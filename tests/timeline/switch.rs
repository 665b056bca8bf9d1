//! Another timeline in place, under the feet of those who work there.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use crate::common::{both, can_mount, has_programs};
use crate::scene::refusal;
use crate::stage::{Company, Stage, large, names, read, write};

/// In place `main` with changes, and `try` that goes on from an earlier state with others.
fn two() -> Stage {
    let stage = Stage::mounted();
    write(stage.join("README"), "before\n");
    stage.timeline(&["fork", "try"]);
    let try_ = stage.beside("try", &["--timeline", "try"]);
    write(try_.join("README"), "of try\n");
    write(try_.join("src/deep/large"), large(b't'));
    write(try_.join("born"), "born in try\n");
    fs::remove_file(try_.join("link")).expect("remove");
    stage.unmount_one(&try_);
    write(stage.join("README"), "of main\n");
    write(stage.join("late"), "late in main\n");
    stage
}

fn assert_main(stage: &Stage) {
    assert_eq!(names(stage.root()), [".git", "README", "late", "link", "src"]);
    assert_eq!(read(stage.join("README")), "of main\n");
    assert!(fs::read(stage.join("src/deep/large")).expect("read") == large(b'b'));
}

fn assert_try(stage: &Stage) {
    assert_eq!(names(stage.root()), [".git", "README", "born", "src"]);
    assert_eq!(read(stage.join("README")), "of try\n");
    assert!(fs::read(stage.join("src/deep/large")).expect("read") == large(b't'));
}

#[test]
fn who_has_files_open_keeps_their_bytes() {
    if !can_mount() {
        return;
    }
    let stage = two();
    let open = |path: &str| fs::File::open(stage.join(path)).expect("open");
    let (readme, big, late, main) = (open("README"), open("src/deep/large"), open("late"), open("src/main"));
    let writer = fs::OpenOptions::new().read(true).write(true).open(stage.join("src/main")).expect("open");
    let company = Company::in_dir(&stage.join("src/deep"));
    // A part is in the page cache, the rest is not.
    big.read_exact_at(&mut [0; 4096], 0).expect("read");
    let moved = stage.timeline(&["switch", "try"]);
    assert_eq!((moved[0]["op"].as_str(), moved[0]["timeline"].as_str()), (Some("switch"), Some("try")), "{moved:?}");
    let of = |what: &str| -> Vec<&str> {
        moved.iter().filter(|row| row["what"] == what).filter_map(|row| row["path"].as_str()).collect()
    };
    assert_eq!(of("changed"), ["README", "born", "late", "link", "src/deep/large"]);
    assert_eq!(of("kept"), ["README", "src/deep/large"], "{moved:?}");
    assert_try(&stage);
    let all = |file: &fs::File, len: usize| {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0).expect("read");
        bytes
    };
    assert_eq!(all(&readme, 8), b"of main\n");
    assert!(all(&big, 600_000) == large(b'b'));
    assert_eq!(all(&late, 13), b"late in main\n");
    // A file with the same bytes in both is one file still: what is written through it is in the timeline that is shown.
    writer.write_all_at(b"TRY!", 0).expect("write");
    assert!(read(stage.join("src/main")).starts_with("TRY!\n"));
    assert_eq!(all(&main, 4), b"TRY!");
    drop(company);
    stage.timeline(&["switch", "main"]);
    assert_main(&stage);
    assert!(read(stage.join("src/main")).starts_with("main\n"));
    assert_eq!(all(&readme, 8), b"of main\n");
    drop((readme, big, late, main, writer));
    stage.unmount();
    stage.assert_whole();
    stage.mount(&[]);
    assert_main(&stage);
    stage.timeline(&["switch", "try"]);
    assert_try(&stage);
    assert!(read(stage.join("src/main")).starts_with("TRY!\n"));
}

#[test]
fn a_dirty_mapping_belongs_to_the_timeline_that_it_was_written_in() {
    if !can_mount() || !has_programs(&["python3"], "mappings and timelines") {
        return;
    }
    let stage = two();
    let script = "import mmap, sys\n\
                  f = open('README', 'r+b'); m = mmap.mmap(f.fileno(), 0)\n\
                  m[0:4] = b'MMAP'; print('ready', flush=True)\n\
                  sys.stdin.readline(); print(bytes(m[0:8]).decode().strip(), flush=True)\n\
                  m[0:4] = b'LOST'; print('done', flush=True); sys.stdin.readline()\n";
    let mut command = Command::new("python3");
    command.args(["-c", script]).current_dir(stage.root()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Company(command.spawn().expect("run python3"));
    let mut lines = BufReader::new(child.0.stdout.take().expect("piped")).lines();
    let mut input = child.0.stdin.take().expect("piped");
    let mut say = || lines.next().expect("a line").expect("read");
    assert_eq!(say(), "ready");
    stage.timeline(&["switch", "try"]);
    assert_try(&stage);
    input.write_all(b"\n").expect("write");
    assert_eq!(say(), "MMAPain", "the process still has what it wrote");
    assert_eq!(say(), "done");
    assert_try(&stage);
    stage.timeline(&["switch", "main"]);
    assert_eq!(read(stage.join("README")), "MMAPain\n", "dirty pages were of main when they were written");
    input.write_all(b"\n").expect("write");
    drop(child);
    assert_eq!(read(stage.join("README")), "MMAPain\n", "and what came later is nobody's");
    stage.timeline(&["switch", "try"]);
    assert_try(&stage);
    stage.unmount();
    stage.assert_whole();
}

#[test]
fn undo_and_redo_switch_back_and_forth() {
    if !can_mount() {
        return;
    }
    let stage = two();
    stage.timeline(&["switch", "try"]);
    write(stage.join("made"), "on try\n");
    let undone = stage.json(&["undo"]);
    assert_eq!((undone[0]["op"].as_str(), undone[0]["timeline"].as_str()), (Some("undo"), Some("main")), "{undone:?}");
    assert_main(&stage);
    let redone = stage.json(&["redo"]);
    assert_eq!((redone[0]["op"].as_str(), redone[0]["timeline"].as_str()), (Some("redo"), Some("try")));
    assert_eq!(read(stage.join("made")), "on try\n", "what was changed on it since is there");
    // Each timeline has its own operations; a switch stands between them.
    let status = stage.run(&["rewind", "base"]);
    assert!(status.status.success(), "{}", both(&status));
    assert!(!stage.join("made").exists());
    assert_eq!(stage.json(&["undo"])[0]["timeline"].as_str(), None);
    assert!(stage.join("made").exists());
    assert_eq!(stage.json(&["undo"])[0]["timeline"].as_str(), Some("main"));
    let said = refusal(&stage.run(&["undo"]), 1);
    assert!(said.contains("nothing to undo"), "{said}");
    assert_eq!(stage.json(&["redo"])[0]["timeline"].as_str(), Some("try"));
    let said = stage.json(&["events", "--op", "rewind"]);
    let said: Vec<&str> = said.iter().filter_map(|e| e["path2"].as_str()).collect();
    assert_eq!(said[..3], ["switch to try", "undo of switch to try", "redo of switch to try"]);
    // Mounted elsewhere it cannot be gone back to; deleted, it is passed over.
    stage.beside("main", &["--timeline", "main"]);
    let said = refusal(&stage.run(&["undo"]), 1);
    assert!(said.contains("main") && said.contains("unmount"), "{said}");
}

#[test]
fn the_next_mount_goes_on_with_it() {
    if !can_mount() {
        return;
    }
    let stage = two();
    stage.timeline(&["switch", "try"]);
    write(stage.join("more"), "more\n");
    stage.unmount();
    // Without a mount it is the one in question as well, and can be changed.
    assert_eq!(stage.json(&["status"])[0]["timeline"], "try");
    let diff = String::from_utf8_lossy(&stage.run(&["diff", "--name-only"]).stdout).into_owned();
    assert_eq!(diff, "README\nborn\nlink\nmore\nsrc/deep/large\n");
    stage.mount(&[]);
    assert_eq!(read(stage.join("more")), "more\n");
    assert_eq!(stage.mounts(), [("try".into(), "/repo".into())]);
    stage.unmount();
    stage.timeline(&["switch", "main"]);
    stage.assert_whole();
    stage.mount(&[]);
    assert_main(&stage);
    assert_eq!(stage.json(&["undo"])[0]["timeline"].as_str(), Some("try"));
    assert_eq!(read(stage.join("more")), "more\n");
    // A killed daemon forgets nothing of it.
    write(stage.join("even-more"), "x");
    stage.end_daemon(rustix::process::Signal::KILL);
    stage.mount(&[]);
    assert_eq!((read(stage.join("more")), read(stage.join("even-more"))), ("more\n".into(), "x".into()));
}

#[test]
fn what_cannot_be_switched_to_or_deleted() {
    if !can_mount() {
        return;
    }
    let stage = two();
    let try_ = stage.beside("try", &["--timeline", "try"]);
    let at = try_.to_str().expect("UTF-8");
    for (arguments, words) in [
        (&["switch", "try"][..], &[at, "unmount"][..]),
        (&["switch", "main"], &["already"]),
        (&["switch", "none"], &["none", "main, try"]),
        (&["delete", "main"], &["first"]),
        (&["delete", "try"], &[at, "unmount"]),
        (&["delete", "none"], &["none"]),
        (&["fork", "try"], &["already"]),
    ] {
        let said = refusal(&stage.try_timeline(arguments), 1);
        assert!(words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
    }
    assert_main(&stage);
    stage.unmount_one(&try_);
    stage.timeline(&["switch", "try"]);
    let said = refusal(&stage.try_timeline(&["delete", "try"]), 1);
    assert!(said.contains("in place") && said.contains("switch"), "{said}");
    stage.timeline(&["switch", "main"]);
    let output = stage.try_timeline(&["delete", "try"]);
    assert!(output.status.success(), "{}", both(&output));
    // It says how to have it back, and that works.
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let id = said.split("fork try ").nth(1).and_then(|rest| rest.split('`').next()).unwrap_or_else(|| panic!("{said}"));
    assert_eq!(stage.timeline(&["list"]).len(), 1);
    stage.timeline(&["fork", "try", id]);
    stage.timeline(&["switch", "try"]);
    assert_try(&stage);
    stage.unmount();
    stage.assert_whole();
}

#[test]
fn what_the_base_became_meanwhile_covers_no_change_of_a_timeline() {
    if !can_mount() {
        return;
    }
    let stage = two();
    stage.unmount();
    // As git checkout does it.
    fs::write(stage.outside().join("temp"), "the base went on\n").expect("write");
    fs::rename(stage.outside().join("temp"), stage.repo().join("README")).expect("rename");
    stage.mount(&[]);
    assert_main(&stage);
    stage.timeline(&["switch", "try"]);
    assert_try(&stage);
    stage.timeline(&["fork", "plain", "base"]);
    stage.timeline(&["switch", "plain"]);
    assert_eq!(read(stage.join("README")), "the base went on\n");
    stage.timeline(&["switch", "main"]);
    assert_main(&stage);
    let try_ = stage.beside("try", &["--timeline", "try"]);
    assert_eq!(read(try_.join("README")), "of try\n");
}
