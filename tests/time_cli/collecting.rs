//! `gc`, and the limits that a mount keeps by itself.

use std::fs;

use crate::common::json::{assert_documented, text};
use crate::common::{MountedRepo, assert_ok, regentfs, wait_for};
use crate::place::{mounted, out, snapshot, write};

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
    let small = ["--max-size", "1M", "--keep", "0s"];
    let gc = |arguments: &[&str]| {
        let rows = repo.json(&[&["gc"], arguments].concat());
        assert_documented("gc", &rows, &[]);
        rows.into_iter().next().unwrap()
    };
    let would = gc(&[&small[..], &["--dry-run"]].concat());
    assert_eq!((&would["done"], snapshots().len()), (&false.into(), 10));
    assert!(would["snapshots"].as_u64().unwrap() > 0 && would["bytes"].as_u64().unwrap() > 1 << 20, "{would}");
    // Enough room: nothing goes that somebody asked for.
    assert_eq!(gc(&["--max-size", "none", "--keep", "0s"])["snapshots"], 0);
    let did = gc(&small);
    assert_eq!(did["snapshots"], would["snapshots"]);
    assert!(did["store_bytes"].as_u64() < would["store_bytes"].as_u64(), "{did} {would}");
    let left = snapshots();
    let labels: Vec<&str> = left.iter().filter_map(|s| s["label"].as_str()).collect();
    assert_eq!(labels, ["state 0", "state 2", "state 4", "state 6", "state 8"]);
    for (n, label) in [(0_u8, "state 0"), (8, "state 8")] {
        let bytes = repo.run(&["show", &format!("{label}:big")]).stdout;
        assert!(bytes.len() == 1 << 20 && bytes.iter().all(|b| *b == b'a' + n), "{label}");
    }
    assert_ok(&repo.run(&["rewind", "state 2"]), "rewind");
    assert!(fs::read_to_string(repo.join("big")).unwrap().starts_with("cccc"));
    // Again there is nothing; and for people it is one sentence.
    assert_eq!(gc(&small)["snapshots"], 0);
    assert!(out(&repo.run(&["gc", "--dry-run"])).starts_with("would take 0 snapshots"));
    repo.unmount();
    assert_eq!(gc(&small)["done"], true);
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
