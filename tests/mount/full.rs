//! A store on a disk that fills.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{assert_ok, can_mount, leave_to_root, plain_user, wait_for};
use crate::populate;
use crate::scene::{Scene, refusal};

/// A file system in memory, of this many MiB.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: PathBuf, mib: u32) -> SmallDisk {
        fs::create_dir(&at).expect("mkdir");
        let size = format!("size={mib}m");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "regentfs-test"]).arg(&at).output();
        assert_ok(&output.expect("run mount"), "mount a tmpfs");
        SmallDisk(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// What takes the room.
fn du(dir: &Path) -> String {
    let output = Command::new("du").arg("-ak").arg(dir).output().expect("run du");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn usable(what: &str) -> bool {
    if plain_user() {
        leave_to_root(&format!("{what}: needs root, to make a small disk"));
        return false;
    }
    can_mount()
}

#[test]
fn nothing_is_lost_on_a_full_disk() {
    if !usable("a full disk") {
        return;
    }
    let scene = Scene::new(populate);
    let disk = SmallDisk::new(scene.outside().join("disk"), 160);
    let scene = scene.with_store(&disk.0.join("store"));
    scene.mount(&[]);
    let name = |n: usize| format!("file{n}");
    let content = |n: usize| -> Vec<u8> { (0..1 << 20).map(|i: usize| (i / 7 + n) as u8).collect() };
    // Whole files that were acknowledged, until there is no room.
    let fill = |from: usize| -> usize {
        for n in from..from + 200 {
            let written = fs::File::create(scene.join(name(n))).and_then(|mut file| file.write_all(&content(n)));
            match written {
                Ok(()) => {}
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
                    return n;
                }
            }
        }
        panic!("200 MiB on a disk of 160");
    };
    let intact = |range: std::ops::Range<usize>, when: &str| {
        for n in range {
            assert!(fs::read(scene.join(name(n))).expect("read") == content(n), "{when}: {} is damaged", name(n));
        }
    };
    let end = fill(0);
    assert!(end > 20, "only {end} MiB fit: {}", du(&disk.0));
    intact(0..end, "full");
    // Full is full, and says so; reading, listing and the record go on.
    let again = fs::write(scene.join("one more"), content(0)).expect_err("the disk is full");
    assert_eq!(again.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(fs::read_to_string(scene.join("src/main")).expect("read"), "main\n".repeat(1000));
    assert!(!scene.json(&["reads", "--path", "src/main"]).is_empty());
    // Room again.
    for n in 0..end / 2 {
        fs::remove_file(scene.join(name(n))).expect("removing needs no room");
    }
    let _ = fs::remove_file(scene.join(name(end)));
    wait_for("room after removing files", || fs::write(scene.join("after"), content(3)).is_ok());
    let second = fill(1000);
    assert!(second > 1005, "only {} MiB are free again", second - 1000);
    intact(end / 2..end, "filled again");
    intact(1000..second, "filled again");
    scene.unmount();
    scene.assert_whole();
    scene.mount(&[]);
    intact(end / 2..end, "mounted again");
    intact(1000..second, "mounted again");
    for n in (end / 2..end).chain(1000..second + 1) {
        let _ = fs::remove_file(scene.join(name(n)));
    }
    wait_for("room after removing files", || fs::write(scene.join("last"), content(4)).is_ok());
    scene.unmount();
    scene.assert_whole();
    let store: &Path = scene.store();
    assert!(store.exists());
}

#[test]
fn a_store_on_a_full_disk_is_refused() {
    if !usable("a store on a full disk") {
        return;
    }
    let scene = Scene::new(populate);
    let disk = SmallDisk::new(scene.outside().join("disk"), 4);
    let scene = scene.with_store(&disk.0.join("store"));
    let said = refusal(&scene.try_mount(&[]), 1);
    assert!(said.contains("full") || said.contains("room") || said.contains("space"), "{said}");
    assert!(!crate::common::is_mounted(scene.root()));
}
