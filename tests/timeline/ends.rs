//! How several mounts end: one by one, all together, from outside, and with a dead daemon.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::common::{assert_ok, both, can_mount, is_mounted, is_running, plain_user, wait_for};
use crate::scene::refusal;
use crate::stage::{Company, Stage, names, patiently, read, write};

/// umount(8), or what a plain user has of it.
fn umount(at: &Path) {
    patiently("umount", || {
        let mut command = if plain_user() {
            let mut command = Command::new("fusermount3");
            command.arg("-u");
            command
        } else {
            Command::new("umount")
        };
        command.arg(at).output().expect("run umount")
    });
}

#[test]
fn a_killed_daemon_leaves_mounts_that_the_next_one_takes_away() {
    if !can_mount() {
        return;
    }
    let stage = Stage::mounted();
    let (one, two) = (stage.forked("one"), stage.forked("two"));
    assert_ok(&stage.run(&["snapshot", "--label", "then"]), "snapshot");
    let past = stage.beside("past", &["--snapshot", "then"]);
    for (root, text) in [(stage.root(), "main"), (&*one, "one"), (&*two, "two")] {
        write(root.join("README"), text);
    }
    let all = [stage.root(), &one, &two, &past];
    // Each of the three ways to clean up.
    for round in 0..3 {
        stage.end_daemon(Signal::KILL);
        assert!(all.iter().all(|at| is_mounted(at)), "a killed daemon leaves its mounts");
        let said = refusal(&stage.run(&["status"]), 1);
        assert!(said.contains("gone"), "{said}");
        match round {
            0 => {
                let output = stage.mount(&[]);
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(said.matches("had died").count(), 4, "{said}");
            }
            1 => {
                stage.beside("one", &["--timeline", "one"]);
                assert!(!is_mounted(stage.root()) && !is_mounted(&two) && !is_mounted(&past));
                stage.mount(&[]);
            }
            _ => {
                let output = stage.unmount();
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                assert_eq!(said.matches("had died").count(), 4, "{said}");
                assert!(all.iter().all(|at| !is_mounted(at)));
                stage.mount(&[]);
            }
        }
        for (name, what) in [("one", "--timeline"), ("two", "--timeline"), ("past", "--snapshot")] {
            let which = if name == "past" { "then" } else { name };
            if !is_mounted(&stage.dir(name)) {
                stage.beside(name, &[what, which]);
            }
        }
        for (root, text) in [(stage.root(), "main"), (&*one, "one"), (&*two, "two"), (&*past, "read me\n")] {
            assert_eq!(read(root.join("README")), text, "round {round}");
        }
    }
    assert_eq!(stage.json(&["events", "--op", "gap"]).len(), 3);
    stage.unmount();
    stage.assert_whole();
}

#[test]
fn one_beside_can_go_alone() {
    if !can_mount() {
        return;
    }
    let stage = Stage::mounted();
    let (one, two) = (stage.forked("one"), stage.forked("two"));
    let daemon = stage.daemon();
    // By name, and by standing in it.
    let output = stage.unmount_one(&one);
    assert!(String::from_utf8_lossy(&output.stdout).contains(one.to_str().expect("UTF-8")), "{}", both(&output));
    assert!(!is_mounted(&one) && is_mounted(&two) && is_mounted(stage.root()) && is_running(daemon));
    let company = Company::in_dir(&two.join("src"));
    let said = stage.inside(&two, &["unmount"]);
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(
        !said.status.success() && text.contains("sleep 300") && text.contains(&company.0.id().to_string()),
        "{text}"
    );
    assert!(is_mounted(&two));
    drop(company);
    patiently("unmount", || stage.inside(&two, &["unmount"]));
    assert!(!is_mounted(&two) && is_mounted(stage.root()) && is_running(daemon));
    // Its timeline is free again, at the same place or another.
    write(stage.beside("two", &["--timeline", "one"]).join("README"), "one at two\n");
    umount(&two);
    wait_for("the mount to end", || stage.mounts() == [("main".into(), "/repo".into())]);
    assert!(is_running(daemon) && is_mounted(stage.root()));
    assert_eq!(read(stage.beside("one", &["--timeline", "one"]).join("README")), "one at two\n");
    // Detached while it is used, it goes with its last user, and until then nobody else gets its timeline.
    let file = fs::File::open(one.join("README")).expect("open");
    assert_ok(
        &stage.command(["unmount".as_ref(), "--lazy".as_ref(), one.as_os_str()]).output().expect("run"),
        "unmount",
    );
    assert!(!is_mounted(&one));
    let said = refusal(&stage.try_beside("two", &["--timeline", "one"]), 1);
    assert!(said.contains("one"), "{said}");
    drop(file);
    wait_for("the mount to end", || stage.mounts() == [("main".into(), "/repo".into())]);
    stage.beside("two", &["--timeline", "one"]);
}

#[test]
fn with_the_one_in_place_all_go() {
    if !can_mount() {
        return;
    }
    let stage = Stage::mounted();
    let (one, two) = (stage.forked("one"), stage.forked("two"));
    write(one.join("in-one"), "1");
    let daemon = stage.daemon();
    let company = Company::in_dir(&one);
    let output = stage.try_unmount(&[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("sleep 300") && said.contains(&company.0.id().to_string()), "{said}");
    assert!([stage.root(), &one, &two].iter().all(|at| is_mounted(at)), "all or none");
    drop(company);
    let output = stage.unmount();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(one.to_str().expect("UTF-8")) && said.contains(two.to_str().expect("UTF-8")), "{said}");
    assert!(!is_mounted(&one) && !is_mounted(&two));
    wait_for("the daemon to go", || !is_running(daemon));

    // Lazily, while one of them is used.
    stage.mount(&[]);
    stage.beside("one", &["--timeline", "one"]);
    let (daemon, company) = (stage.daemon(), Company::in_dir(&one));
    assert_ok(&stage.try_unmount(&["--lazy"]), "unmount --lazy");
    assert!(!is_mounted(stage.root()) && !is_mounted(&one) && is_running(daemon));
    drop(company);
    wait_for("the daemon to go", || !is_running(daemon));

    // From outside; what is open beside is served until it is closed.
    stage.mount(&[]);
    stage.beside("one", &["--timeline", "one"]);
    let daemon = stage.daemon();
    let file = fs::File::open(one.join("src/deep/large")).expect("open");
    umount(stage.root());
    wait_for("the mount beside to go", || !is_mounted(&one));
    assert!(is_running(daemon));
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut [0; 4096], 400_000).expect("it is served");
    drop(file);
    wait_for("the daemon to go", || !is_running(daemon));

    // By a signal.
    stage.mount(&[]);
    stage.beside("one", &["--timeline", "one"]);
    stage.beside("two", &["--snapshot", "base"]);
    stage.end_daemon(Signal::TERM);
    assert!([stage.root(), &one, &two].iter().all(|at| !is_mounted(at)));
    stage.assert_whole();
    stage.mount(&[]);
    assert_eq!(stage.json(&["events", "--op", "gap"]).len(), 0);
    let one = stage.beside("one", &["--timeline", "one"]);
    assert_eq!(read(one.join("in-one")), "1");
}

#[test]
fn without_one_in_place_each_is_for_itself() {
    if !can_mount() {
        return;
    }
    let stage = Stage::mounted();
    stage.timeline(&["fork", "one"]);
    stage.timeline(&["fork", "two"]);
    stage.unmount();
    let one = stage.beside("one", &["--timeline", "one"]);
    let daemon = stage.daemon();
    write(one.join("README"), "one\n");
    assert_eq!(read(stage.repo().join("README")), "read me\n", "the repository is not covered");
    // Alone it is the one in question.
    assert_eq!(stage.json(&["status"])[0]["timeline"], "one");
    let two = stage.beside("two", &["--timeline", "two"]);
    assert_eq!(read(two.join("README")), "read me\n");
    let said = refusal(&stage.run(&["snapshot"]), 2);
    assert!(said.contains("/one") && said.contains("/two") && said.contains("--repo"), "{said}");
    assert_ok(&stage.inside(&two, &["snapshot"]), "snapshot");
    // A switch is for the mount in place to come, which joins them.
    let said = refusal(&stage.try_timeline(&["switch", "two"]), 1);
    assert!(said.contains("/two"), "{said}");
    stage.timeline(&["fork", "three", "one"]);
    stage.timeline(&["switch", "three"]);
    assert!(!is_mounted(stage.repo()));
    stage.mount(&[]);
    assert_eq!(stage.daemon(), daemon, "one daemon for all");
    assert_eq!(read(stage.join("README")), "one\n");
    assert_eq!(
        stage.mounts(),
        [("one".into(), "/one".into()), ("two".into(), "/two".into()), ("three".into(), "/repo".into())]
    );
    assert_eq!(names(&one), names(stage.root()));
    stage.unmount();
    assert!(!is_mounted(&one) && !is_mounted(&two));
    // The last one ends the daemon, whichever it is.
    stage.beside("one", &["--timeline", "one"]);
    stage.beside("two", &["--snapshot", "base"]);
    let daemon = stage.daemon();
    for at in [&one, &two] {
        assert!(is_running(daemon));
        stage.unmount_one(at);
    }
    wait_for("the daemon to go", || !is_running(daemon));
    stage.assert_whole();
}
