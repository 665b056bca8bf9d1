//! Directories that go and come back while somebody is in them: the kernel keeps its inode of a removed directory, which is dead for good.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::{assert_ok, can_mount};
use crate::stage::{Company, Stage, names, read, write};

/// Everything works in it.
fn is_alive(dir: &Path, has: &[&str]) {
    assert_eq!(names(dir), has, "{}", dir.display());
    for name in has.iter().filter(|name| !dir.join(name).is_dir()) {
        read(dir.join(name));
    }
    write(dir.join("try"), "new");
    fs::rename(dir.join("try"), dir.join("tried")).expect("rename");
    fs::remove_file(dir.join("tried")).expect("remove");
    fs::create_dir(dir.join("try")).expect("mkdir");
    fs::remove_dir(dir.join("try")).expect("rmdir");
}

#[test]
fn a_directory_that_was_removed_is_alive_when_it_is_back() {
    if !can_mount() {
        return;
    }
    let stage = Stage::mounted();
    fs::create_dir_all(stage.join("made/in")).expect("mkdir");
    write(stage.join("made/in/file"), "made\n");
    assert_ok(&stage.run(&["snapshot", "--label", "then"]), "snapshot");
    // One of the base and one that is new, held by a working directory, an open file in it, and itself.
    for (dir, file) in [("src/deep", "large"), ("made/in", "file")] {
        for round in 0..3 {
            let at = stage.join(dir);
            let company = (round == 0).then(|| Company::in_dir(&at));
            let file = (round == 1).then(|| fs::File::open(at.join(file)).expect("open"));
            let itself = (round == 2).then(|| fs::File::open(&at).expect("open"));
            fs::remove_dir_all(&at).expect("remove");
            assert_ok(&stage.run(&["rewind", "then"]), "rewind");
            is_alive(&at, &names(&at).iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(names(&at).len(), 1, "{dir}, round {round}");
            // Once more, while the first one is still held.
            fs::remove_dir_all(at.parent().expect("a directory above")).expect("remove");
            assert_ok(&stage.run(&["undo", "--force"]), "undo");
            assert_ok(&stage.run(&["rewind", "then"]), "rewind");
            assert_eq!(names(&at).len(), 1, "{dir}, round {round}");
            is_alive(&at, &[names(&at)[0].as_str()]);
            assert_ok(&stage.run(&["rewind", "then"]), "rewind");
            drop((company, file, itself));
        }
    }
}

#[test]
fn undo_brings_back_a_working_directory_that_a_rewind_took() {
    if !can_mount() {
        return;
    }
    let stage = Stage::mounted();
    fs::create_dir_all(stage.join("new/deep")).expect("mkdir");
    write(stage.join("new/deep/file"), "in it\n");
    let mut shell = Shell::in_dir(&stage.join("new/deep"));
    let company = Company::in_dir(&stage.join("new"));
    for _ in 0..2 {
        assert_ok(&stage.run(&["rewind", "base"]), "rewind");
        assert!(!stage.join("new").exists());
        assert_ok(&stage.run(&["undo"]), "undo");
        is_alive(&stage.join("new"), &["deep"]);
        is_alive(&stage.join("new/deep"), &["file"]);
    }
    // Who was in it goes there again.
    let there = stage.join("new/deep");
    shell.run(&format!("cd {} && cat file > copy", there.display()));
    assert_eq!(read(there.join("copy")), "in it\n");
    drop(company);
}

/// A shell that is told what to do.
struct Shell(Child);

impl Shell {
    fn in_dir(dir: &Path) -> Shell {
        let mut command = Command::new("sh");
        Shell(command.current_dir(dir).stdin(Stdio::piped()).spawn().expect("run sh"))
    }

    /// Runs the last command.
    fn run(&mut self, command: &str) {
        let mut to = self.0.stdin.take().expect("a pipe");
        writeln!(to, "{command}").expect("tell the shell");
        drop(to);
        assert!(self.0.wait().expect("wait").success(), "{command}");
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
