//! A disk that is full, and one that would become so.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::json::assert_refused;
use crate::common::{MountedRepo, assert_ok, can_mount, has_programs, leave_to_root, plain_user, scratch, wait_for};
use crate::place::{out, populate, snapshot, work, write};

/// A file system in memory.
struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// A mount whose store is on a disk of this many MiB.
fn mounted(mib: u32) -> Option<(MountedRepo, SmallDisk)> {
    if plain_user() {
        leave_to_root("a full disk: needs root, to make a small one");
        return None;
    }
    if !can_mount() || !has_programs(&["git"], "a repository") {
        return None;
    }
    let dir = scratch();
    for name in ["repo", "store"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    populate(&dir.path().join("repo"));
    let at = dir.path().join("store");
    let size = format!("size={mib}m");
    let output = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "regentfs-test"]).arg(&at).output();
    assert_ok(&output.expect("run mount"), "mount a tmpfs");
    let disk = SmallDisk(at);
    Some((MountedRepo::in_dir(dir, "auto"), disk))
}

/// Takes all room there is.
fn fill(at: &Path) {
    let mut file = fs::File::create(at).unwrap();
    for size in [1 << 20, 4096] {
        while file.write_all(&vec![b'x'; size]).is_ok() {}
    }
}

#[test]
fn on_a_full_disk_nothing_changes() {
    let Some((repo, disk)) = mounted(128) else { return };
    work(&repo);
    let ballast = disk.0.join("ballast");
    let state = || {
        let names = |dir: &Path| {
            let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let base = out(&repo.run(&["diff"]));
        (names(repo.path()), names(&repo.join("src")), fs::read_to_string(repo.join("README")).unwrap(), base)
    };
    let before = state();
    let snapshots = || repo.json(&["snapshots", "-n", "0"]).len();
    let taken = snapshots();
    fill(&ballast);
    for command in
        [&["rewind", "first steps"][..], &["discard", "--yes"], &["rewind", "base", "src"], &["snapshot"], &["apply"]]
    {
        assert_refused(&repo.run(command), 1, "space");
        assert_eq!(state(), before, "{command:?}");
    }
    assert_eq!(snapshots(), taken);
    let mut fork = crate::common::regentfs();
    fork.args(["timeline", "fork", "other"]).arg("--repo").arg(repo.path()).arg("--store").arg(repo.store());
    assert_refused(&fork.output().unwrap(), 1, "space");
    // What makes room is still possible.
    assert_ok(&repo.run(&["gc", "--keep", "0s"]), "gc");
    fs::remove_file(&ballast).unwrap();
    assert_ok(&repo.run(&["rewind", "first steps"]), "rewind");
    assert_eq!(fs::read_to_string(repo.join("README")).unwrap(), "hello\nbrave new\nworld\n");
    fill(&ballast);
    let rewound = state();
    assert_refused(&repo.run(&["undo"]), 1, "space");
    assert_eq!(state(), rewound);
    fs::remove_file(&ballast).unwrap();
    assert_ok(&repo.run(&["undo"]), "undo");
    assert_eq!(state(), before);
    repo.unmount();
    assert_eq!(repo.json(&["fsck", "--log"])[0]["ok"], true);
}

#[test]
fn a_small_disk_is_a_limit_of_its_own() {
    let Some((repo, _disk)) = mounted(240) else { return };
    for n in 0..9_u8 {
        write(repo.path(), "big", &String::from_utf8_lossy(&[b'a' + n]).repeat(12 << 20));
        if n == 0 {
            snapshot(&repo, "first");
        } else {
            assert_ok(&repo.run(&["snapshot"]), "snapshot");
        }
    }
    let count = || repo.json(&["snapshots", "-n", "0", "--brief"]).len();
    assert_eq!(count(), 9);
    repo.unmount();
    // The limit of 20 GiB is never reached here.
    repo.mount();
    wait_for("room to be made", || count() < 9);
    assert!(fs::read(repo.join("big")).unwrap().iter().all(|b| *b == b'i'));
    assert!(repo.run(&["show", "first:big"]).stdout.iter().all(|b| *b == b'a'));
    repo.unmount();
    assert_eq!(repo.json(&["fsck", "--log"])[0]["ok"], true);
}
