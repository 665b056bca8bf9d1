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
    repo.unmount();
    assert_eq!(offered(&["show", "fi"]), ["first-steps"]);
    // Where there is nothing to know there is nothing to say.
    let outside = tab(&repo, &["regentfs", "--store", "/nonexistent/store", "show", "fi"]);
    assert_eq!(outside, [""]);
    for shell in ["zsh", "fish"] {
        let output = regentfs().args(["completion", shell]).output().unwrap();
        assert!(output.status.success() && out(&output).contains("__complete"));
    }
}

#[test]
fn after_ctrl_c_it_is_said_what_holds() {
    let Some(repo) = mounted() else { return };
    let line = "something to write down, again and again\n";
    for n in 0..40 {
        write(repo.path(), &format!("new/{n}"), &line.repeat(20_000));
    }
    let base_has = |name: &str| repo.run(&["show", &format!("base:{name}")]).status.success();
    let mut stopped = 0;
    for wait in 0..20_u64 {
        let mut child = regentfs()
            .args(["apply", "--repo"])
            .arg(repo.path())
            .arg("--store")
            .arg(repo.store())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5 + wait * 3));
        kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::INT).unwrap();
        let status = child.wait().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let there: Vec<bool> = (0..40).map(|n| base_has(&format!("new/{n}"))).collect();
        match status.code() {
            Some(130) => {
                stopped += 1;
                assert!(said.contains("the repository is as it was"), "{said}");
                assert!(there.iter().all(|&is| !is), "{there:?}");
            }
            Some(0) => {
                assert!(said.is_empty() || said.contains("it is done"), "{said}");
                assert!(there.iter().all(|&is| is), "{there:?}");
                assert_ok(&repo.run(&["undo"]), "undo");
            }
            // Before it could listen.
            None => assert!(there.iter().all(|&is| !is) || there.iter().all(|&is| is), "{there:?}"),
            other => panic!("{other:?}: {said}"),
        }
        if there[0] && status.code().is_none() {
            assert_ok(&repo.run(&["undo"]), "undo");
        }
    }
    // Whatever came of them: it still works.
    assert_ok(&repo.run(&["apply"]), "apply");
    assert!(base_has("new/39"), "after {stopped} that were stopped");
    repo.unmount();
    assert_eq!(repo.json(&["fsck", "--log"])[0]["ok"], true);
    assert_eq!(fs::read_dir(repo.join("new")).unwrap().count(), 40);
}
