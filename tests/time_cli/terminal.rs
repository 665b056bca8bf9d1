//! On a terminal: the pager, the words of Tab, and Ctrl-C.

use std::fs;
use std::io::Read;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{MountedRepo, assert_ok, both, has_programs, regentfs};
use crate::place::{mounted, out, snapshot, write};

/// Runs a shell command on a terminal of twenty lines.
fn on_a_terminal(repo: &MountedRepo, command: &str, pager: &str) -> Output {
    let binary = env!("CARGO_BIN_EXE_regentfs");
    let script = format!(
        "stty rows 20 cols 80; {binary} {command} --repo '{}' --store '{}'",
        repo.path().display(),
        repo.store().display()
    );
    Command::new("script")
        .args(["-qefc", &script, "/dev/null"])
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh")
        .env("REGENTFS_PAGER", pager)
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .output()
        .expect("run script")
}

#[test]
fn long_output_goes_through_a_pager() {
    let Some(repo) = mounted() else { return };
    if !has_programs(&["script", "stty", "sed"], "the pager") {
        return;
    }
    write(repo.path(), "README", &(0..100).map(|n| format!("line {n}\n")).collect::<String>());
    let paged = |output: &Output| out(output).matches("paged:").count();
    let pager = "sed 's/^/paged:/'";
    let long = on_a_terminal(&repo, "diff", pager);
    assert_ok(&long, "diff");
    assert!(paged(&long) > 100 && out(&long).contains("\u{1b}[32m+line 99"), "{}", both(&long));
    let plain = on_a_terminal(&repo, "diff --no-pager", pager);
    assert!(paged(&plain) == 0 && out(&plain).contains("+line 99"), "{}", both(&plain));
    // What fits needs none.
    let short = on_a_terminal(&repo, "diff --stat", pager);
    assert!(paged(&short) == 0 && out(&short).contains("1 file changed"), "{}", both(&short));
    // One that looks at the first lines only.
    let head = on_a_terminal(&repo, "diff", "head -n 3");
    assert_ok(&head, "diff");
    assert!(out(&head).lines().count() <= 4 && !out(&head).contains("regentfs:"), "{}", both(&head));
    // One that is not there.
    let none = on_a_terminal(&repo, "diff", "no-such-pager-anywhere");
    assert!(out(&none).contains("+line 99"), "{}", both(&none));
    // Without a terminal there is none.
    let output = regentfs()
        .args(["diff", "--repo"])
        .arg(repo.path())
        .arg("--store")
        .arg(repo.store())
        .env("REGENTFS_PAGER", pager)
        .env("TERM", "xterm")
        .output()
        .unwrap();
    assert_eq!(paged(&output), 0);
}

/// What bash would offer.
fn tab(repo: &MountedRepo, words: &[&str]) -> Vec<String> {
    let script = "eval \"$($REGENTFS completion bash)\"; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _regentfs; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let output = Command::new("bash")
        .args(["-c", script, "bash", env!("CARGO_BIN_EXE_regentfs")])
        .args(&words[1..])
        .env("REGENTFS", env!("CARGO_BIN_EXE_regentfs"))
        .current_dir(repo.path())
        .output()
        .expect("run bash");
    assert_ok(&output, "bash");
    out(&output).lines().map(str::to_owned).collect()
}

#[test]
fn tab_knows_commands_options_and_snapshots() {
    let Some(repo) = mounted() else { return };
    if !has_programs(&["bash"], "completion") {
        return;
    }
    let id = snapshot(&repo, "first-steps");
    let store = repo.store().to_str().unwrap();
    let offered = |words: &[&str]| tab(&repo, &[&["regentfs", "--store", store], words].concat());
    assert_eq!(offered(&["rew"]), ["rewind"]);
    assert!(!offered(&[""]).iter().any(|word| word.contains("complete") || word == "daemon"));
    assert_eq!(offered(&["rewind", "fi"]), ["first-steps"]);
    assert!(offered(&["rewind", &id[..4]]).contains(&id));
    assert_eq!(offered(&["export", "--patch", "base..fi"]), ["base..first-steps"]);
    assert_eq!(offered(&["events", "--op", "open,rew"]), ["open,rewind"]);
    assert_eq!(offered(&["apply", "--dry"]), ["--dry-run"]);
    let mut fork = regentfs();
    fork.args(["timeline", "fork", "finer"]).arg("--repo").arg(repo.path()).arg("--store").arg(repo.store());
    assert_ok(&fork.output().unwrap(), "timeline fork");
    let timelines = |offered: &dyn Fn(&[&str]) -> Vec<String>| {
        assert_eq!(offered(&["timeline", "switch", "fi"]), ["finer"]);
        assert_eq!(offered(&["timeline", "delete", ""]), ["main", "finer"]);
        assert_eq!(offered(&["timeline", "fork", "x", "fi"]), ["first-steps", "finer"]);
        assert_eq!(offered(&["mount", "--timeline", "ma"]), ["main"]);
        assert_eq!(offered(&["mount", "--snapshot", "fi"]), ["first-steps"]);
    };
    timelines(&offered);
    repo.unmount();
    timelines(&offered);
    assert_eq!(offered(&["show", "fi"]), ["first-steps"]);
    // Where there is nothing to know there is nothing to say.
    let outside = tab(&repo, &["regentfs", "--store", "/nonexistent/store", "show", "fi"]);
    assert_eq!(outside, [""]);
    for shell in ["zsh", "fish"] {
        let output = regentfs().args(["completion", shell]).output().unwrap();
        assert!(output.status.success() && out(&output).contains("__complete"));
    }
}

/// Starts a command, presses Ctrl-C after so many milliseconds, and returns the exit code and what it said.
fn interrupted(repo: &MountedRepo, arguments: &[&str], after: u64) -> (Option<i32>, String) {
    let mut child = regentfs()
        .args(arguments)
        .arg("--repo")
        .arg(repo.path())
        .arg("--store")
        .arg(repo.store())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(after));
    kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::INT).unwrap();
    let status = child.wait().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (status.code(), said)
}

/// Forty files that were not there.
fn forty(repo: &MountedRepo) {
    let line = "something to write down, again and again\n";
    for n in 0..40 {
        write(repo.path(), &format!("new/{n}"), &line.repeat(20_000));
    }
}

/// Interrupts an apply at many moments, and holds what it says against what is there.
fn interrupt_applies(repo: &MountedRepo) {
    let base_has = |n: usize| repo.run(&["show", &format!("base:new/{n}")]).status.success();
    for wait in 0..12_u64 {
        let (code, said) = interrupted(repo, &["apply"], 2 + wait * 7);
        let there: Vec<bool> = (0..40).map(base_has).collect();
        match code {
            Some(130) => {
                let holds = ["the repository is as it was", "nothing was done"];
                assert!(holds.iter().any(|text| said.contains(text)), "{said}");
                assert!(there.iter().all(|&is| !is), "{there:?}");
            }
            Some(0) => {
                assert!(said.is_empty() || said.contains("it is done"), "{said}");
                assert!(there.iter().all(|&is| is), "{there:?}");
                assert_ok(&repo.run(&["undo"]), "undo");
            }
            // Before it had asked for anything.
            None => assert!(there.iter().all(|&is| !is), "{there:?}"),
            other => panic!("{other:?}: {said}"),
        }
    }
}

#[test]
fn after_ctrl_c_it_is_said_what_holds() {
    let Some(repo) = mounted() else { return };
    forty(&repo);
    interrupt_applies(&repo);
    // Whatever came of them: it still works; and without a mount as well.
    assert_ok(&repo.run(&["apply"]), "apply");
    assert_ok(&repo.run(&["undo"]), "undo");
    repo.unmount();
    interrupt_applies(&repo);
    assert_ok(&repo.run(&["apply"]), "apply");
    assert_eq!(repo.json(&["fsck", "--log"])[0]["ok"], true);
    assert_eq!(fs::read_dir(repo.join("new")).unwrap().count(), 40);
}

#[test]
fn ctrl_c_leaves_no_half_of_a_rewind() {
    let Some(repo) = mounted() else { return };
    snapshot(&repo, "start");
    forty(&repo);
    fs::remove_file(repo.join("gone")).unwrap();
    snapshot(&repo, "forty");
    for wait in 0..30_u64 {
        let (code, said) = interrupted(&repo, &["rewind", "start"], wait);
        let there = (0..40).filter(|n| repo.join(format!("new/{n}")).exists()).count();
        let is_back = repo.join("gone").exists();
        match code {
            Some(0) => {
                assert!(said.is_empty() || said.contains("it is done"), "{said}");
                assert_eq!((there, is_back), (0, true), "{said}");
            }
            Some(130) => {
                assert!(said.contains("nothing was done"), "{said}");
                assert_eq!((there, is_back), (40, false), "{said}");
            }
            None => assert_eq!((there, is_back), (40, false), "{said}"),
            other => panic!("{other:?}: {said}"),
        }
        assert_ok(&repo.run(&["rewind", "forty"]), "rewind");
    }
    repo.unmount();
    assert_eq!(repo.json(&["fsck", "--log"])[0]["ok"], true);
}

#[test]
fn what_waits_shows_that_it_goes_on() {
    let Some(repo) = mounted() else { return };
    if !has_programs(&["script", "stty"], "progress") {
        return;
    }
    snapshot(&repo, "start");
    write(repo.path(), "README", "changed\n");
    repo.unmount();
    let lock = fs::OpenOptions::new().write(true).open(repo.store().join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    // Nobody lets go: half a second later there is a sign of life, and after a second an error without it.
    let waited = on_a_terminal(&repo, "rewind start", "cat");
    assert_eq!(waited.status.code(), Some(1));
    let text = out(&waited);
    let (sign, error) = (text.find("rewinding"), text.find("regentfs: "));
    assert!(sign.is_some() && sign < error && text[error.unwrap()..].contains("is in use by process"), "{text:?}");
    drop(lock);
    let done = on_a_terminal(&repo, "rewind start", "cat");
    assert!(done.status.success() && out(&done).contains("1 path changed"), "{}", both(&done));
}

#[test]
fn what_takes_long_shows_how_far_it_is() {
    let Some(repo) = mounted() else { return };
    if !has_programs(&["script", "stty"], "progress") {
        return;
    }
    // A bar comes after half a second: more files until it takes that long.
    let mut files = 1000;
    let shown = loop {
        for n in 0..files {
            write(repo.path(), &format!("many/{files}/{n}"), "x\n");
        }
        let output = on_a_terminal(&repo, "apply", "cat");
        assert_ok(&output, "apply");
        let text = out(&output);
        if text.contains('█') || files > 30_000 {
            break text;
        }
        files *= 2;
    };
    assert!(["writing", "applying", "comparing"].iter().any(|what| shown.contains(what)), "{shown}");
    assert!(shown.contains(&format!("/{}", files + 1)) || shown.contains(&format!("/{}", files + 2)), "{shown}");
    // The bar is taken away before the result is shown.
    let result = shown.rfind("paths changed in the repository").expect("the result");
    assert!(shown.rfind('█').is_some_and(|bar| bar < result) && shown[result..].lines().count() <= 2, "{shown}");
    // Without a terminal there is none.
    assert_ok(&repo.run(&["undo"]), "undo");
    let plain = repo.run(&["apply"]);
    assert!(plain.status.success() && plain.stderr.is_empty(), "{}", both(&plain));
}
