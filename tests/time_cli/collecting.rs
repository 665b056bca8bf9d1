//! `gc`, and the limits that a mount keeps by itself.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::common::json::{assert_documented, assert_refused, text};
use crate::common::{MountedRepo, assert_ok, can_mount, is_mounted, regentfs, wait_for};
use crate::place::{mounted, out, populate, snapshot, write};

/// Two ends of the policy: everything that nobody named, and nothing is to be undone.
const SMALL: [&str; 4] = ["--max-size", "1M", "--keep", "0s"];

/// Ten states of one file of a mebibyte; those with an even number have a label.
fn grow(repo: &MountedRepo) {
    for n in 0..10 {
        let byte = [b'a' + n];
        write(repo.path(), "big", &String::from_utf8_lossy(&byte).repeat(1 << 20));
        if n % 2 == 0 {
            snapshot(repo, &format!("state {n}"));
        } else {
            assert_ok(&repo.run(&["snapshot"]), "snapshot");
        }
    }
}

#[test]
fn what_nobody_named_goes_for_lack_of_room() {
    let Some(repo) = mounted() else { return };
    grow(&repo);
    let snapshots = || repo.json(&["snapshots", "-n", "0", "--brief"]);
    let gc = |arguments: &[&str]| {
        let rows = repo.json(&[&["gc"], arguments].concat());
        assert_documented("gc", &rows, &[]);
        rows.into_iter().next().unwrap()
    };
    let would = gc(&[&SMALL[..], &["--dry-run"]].concat());
    assert_eq!((&would["done"], snapshots().len()), (&false.into(), 10));
    assert!(would["snapshots"].as_u64().unwrap() > 0 && would["bytes"].as_u64().unwrap() > 1 << 20, "{would}");
    // Enough room: nothing goes that somebody asked for.
    assert_eq!(gc(&["--max-size", "none", "--keep", "0s"])["snapshots"], 0);
    let did = gc(&SMALL);
    assert_eq!(did["snapshots"], would["snapshots"]);
    assert!(did["store_bytes"].as_u64() < would["store_bytes"].as_u64(), "{did} {would}");
    let left = snapshots();
    let labels: Vec<&str> = left.iter().filter_map(|s| s["label"].as_str()).collect();
    assert_eq!(labels, ["state 0", "state 2", "state 4", "state 6", "state 8"]);
    for (n, label) in [(0_u8, "state 0"), (8, "state 8")] {
        let bytes = repo.run(&["show", &format!("{label}:big")]).stdout;
        assert!(bytes.len() == 1 << 20 && bytes.iter().all(|b| *b == b'a' + n), "{label}");
    }
    // Again there is nothing; and for people it is one sentence.
    assert_eq!(gc(&SMALL)["snapshots"], 0);
    assert_ok(&repo.run(&["rewind", "state 2"]), "rewind");
    assert!(fs::read_to_string(repo.join("big")).unwrap().starts_with("cccc"));
    assert!(out(&repo.run(&["gc", "--dry-run"])).starts_with("would take 0 snapshots"));
    repo.unmount();
    assert_eq!(gc(&SMALL)["done"], true);
    assert_eq!(repo.json(&["fsck", "--log"])[0]["ok"], true);
    for bad in [["--keep", "long"], ["--max-size", "much"]] {
        assert_eq!(repo.run(&[&["gc"], &bad[..]].concat()).status.code(), Some(2));
    }
}

#[test]
fn a_mount_collects_when_it_starts() {
    let Some(repo) = mounted() else { return };
    grow(&repo);
    repo.unmount();
    let count = |repo: &MountedRepo| repo.json(&["snapshots", "-n", "0", "--brief"]).len();
    assert_eq!(count(&repo), 10);
    let mut mount = regentfs();
    mount.arg("mount").arg(repo.path()).arg("--store").arg(repo.store());
    mount.env("REGENTFS_MAX_SIZE", "1M").env("REGENTFS_KEEP", "0s");
    assert_ok(&mount.output().unwrap(), "mount");
    wait_for("the past to be collected", || count(&repo) < 10);
    let status = &repo.json(&["status"])[0];
    assert_eq!(status["store_max"], 1 << 20, "{status}");
    assert!(text(status, "store").ends_with("store") && status["store_bytes"].as_u64().unwrap() > 0);
}

/// Mounts something beside, at a directory of this name.
fn beside(repo: &MountedRepo, name: &str, what: &[&str]) -> PathBuf {
    let at = repo.outside().join(name);
    fs::create_dir(&at).unwrap();
    let mut mount = regentfs();
    mount.arg("mount").arg(repo.path()).arg("--store").arg(repo.store()).args(what).arg("--at").arg(&at);
    assert_ok(&mount.output().unwrap(), "mount");
    assert!(is_mounted(&at));
    at
}

/// Whether a whole file has this byte and no other. Read through the daemon: the mounts record exactly, which leaves the page cache out.
fn is_all(file: &fs::File, byte: u8) -> bool {
    let mut bytes = vec![0; (1 << 20) + 1];
    let mut len = 0;
    while let Ok(got @ 1..) = file.read_at(&mut bytes[len..], len as u64) {
        len += got;
    }
    len == 1 << 20 && bytes[..len].iter().all(|b| *b == byte)
}

#[test]
fn what_is_mounted_beside_or_open_stays() {
    if !can_mount() {
        return;
    }
    let repo = MountedRepo::with_record("exact", populate);
    grow(&repo);
    let ids: Vec<String> =
        repo.json(&["snapshots", "-n", "0", "--brief"]).iter().map(|s| text(s, "id").to_owned()).collect();
    let fork = |name: &str, from: &str| {
        let mut fork = regentfs();
        fork.args(["timeline", "fork", name, from]).arg("--repo").arg(repo.path()).arg("--store").arg(repo.store());
        assert_ok(&fork.output().unwrap(), "timeline fork");
    };
    fork("other", &ids[3]);
    let other = beside(&repo, "other", &["--timeline", "other"]);
    let past = beside(&repo, "past", &["--snapshot", &ids[5]]);
    // Of the other timeline's file one byte is its own, the rest is a snapshot's.
    fs::OpenOptions::new().write(true).open(other.join("big")).unwrap().write_all_at(b"d", 300_000).unwrap();
    write(&other, "mine", "mine\n");
    let open_in_past = fs::File::open(past.join("big")).unwrap();
    // In place two files are open that nobody can name any more: one by a rewind, one by its removal.
    write(repo.path(), "big", &"z".repeat(1 << 20));
    let rewound = fs::File::open(repo.join("big")).unwrap();
    write(repo.path(), "doomed", &"k".repeat(1 << 20));
    let removed = fs::File::open(repo.join("doomed")).unwrap();
    fs::remove_file(repo.join("doomed")).unwrap();
    assert_ok(&repo.run(&["rewind", "state 0"]), "rewind");
    let gc = || repo.json(&[&["gc"], &SMALL[..]].concat()).remove(0);
    let did = gc();
    let left: Vec<String> =
        repo.json(&["snapshots", "-n", "0", "--brief", "--all"]).iter().map(|s| text(s, "id").to_owned()).collect();
    let is_left = |n: usize| left.contains(&ids[n]);
    assert_eq!((0..10).filter(|&n| is_left(n)).collect::<Vec<_>>(), [0, 2, 3, 4, 5, 6, 8], "{did}");
    assert!(did["versions"].as_u64().unwrap() >= 2, "{did}");
    for round in ["at first", "after a second collection"] {
        assert!(is_all(&fs::File::open(other.join("big")).unwrap(), b'd'), "{round}: another timeline");
        assert_eq!(fs::read_to_string(other.join("mine")).unwrap(), "mine\n", "{round}");
        assert!(is_all(&fs::File::open(past.join("big")).unwrap(), b'f'), "{round}: the past");
        assert!(is_all(&open_in_past, b'f'), "{round}: open in the past");
        assert!(is_all(&rewound, b'z'), "{round}: open, and rewound");
        assert!(is_all(&removed, b'k'), "{round}: open, and removed");
        assert!(is_all(&fs::File::open(repo.join("big")).unwrap(), b'a'), "{round}: in place");
        gc();
    }
    // What is gone is said to be.
    for gone in [&ids[1], &ids[7][..6]] {
        for command in
            [&["rewind"][..], &["show"], &["diff"], &["diff", "base"], &["apply", "--from"], &["export", "--patch"]]
        {
            assert_refused(&repo.run(&[command, &[gone]].concat()), 2, "was collected");
        }
        assert_refused(&repo.run(&["show", &format!("{gone}:big")]), 2, "was collected");
    }
    // What needed them has let go.
    drop((open_in_past, rewound, removed));
    let unmount = regentfs().arg("unmount").arg(&past).arg("--store").arg(repo.store()).output().unwrap();
    assert_ok(&unmount, "unmount");
    let last = gc();
    assert_eq!(last["snapshots"], 1, "{last}");
    assert_refused(&repo.run(&["show", &ids[5]]), 2, "was collected");
    assert!(is_all(&fs::File::open(other.join("big")).unwrap(), b'd'));
    repo.unmount();
    assert!(!is_mounted(&other));
    assert_eq!(repo.json(&["fsck", "--log"])[0]["ok"], true);
}

/// Bytes on disk of all versions.
fn version_bytes(repo: &MountedRepo) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let dirs = fs::read_dir(repo.store().join("data")).unwrap();
    let files = dirs.flat_map(|dir| fs::read_dir(dir.unwrap().path()).unwrap());
    files.map(|file| file.unwrap().metadata().unwrap().blocks() * 512).sum()
}

#[test]
fn what_applies_kept_goes_with_them() {
    let Some(repo) = mounted() else { return };
    repo.unmount();
    write(repo.path(), "big", &"B".repeat(1 << 20));
    repo.mount();
    write(repo.path(), "big", &"m".repeat(1 << 20));
    assert_ok(&repo.run(&["apply"]), "apply");
    for _ in 0..3 {
        assert_ok(&repo.run(&["undo"]), "undo");
        assert_ok(&repo.run(&["redo"]), "redo");
    }
    assert!(version_bytes(&repo) > 6 << 20, "{}", version_bytes(&repo));
    // As long as it can be taken back all of it stays that is needed for that.
    assert_ok(&repo.run(&["gc"]), "gc");
    assert_ok(&repo.run(&["undo"]), "undo");
    assert!(repo.run(&["show", "base:big"]).stdout.iter().all(|b| *b == b'B'));
    assert_ok(&repo.run(&["redo"]), "redo");
    assert!(repo.run(&["show", "base:big"]).stdout.iter().all(|b| *b == b'm'));
    write(repo.path(), "more", "later\n");
    assert_ok(&repo.run(&["snapshot"]), "snapshot");
    assert_ok(&repo.run(&[&["gc"], &SMALL[..]].concat()), "gc");
    assert!(version_bytes(&repo) < 3 << 20, "{}", version_bytes(&repo));
    assert_refused(&repo.run(&["undo"]), 1, "nothing to undo");
    assert!(fs::read(repo.join("big")).unwrap().iter().all(|b| *b == b'm'));
    repo.unmount();
    assert!(fs::read(repo.join("big")).unwrap().iter().all(|b| *b == b'm'));
    assert_eq!(repo.json(&["fsck", "--log"])[0]["ok"], true);
}
