//! A base that changes behind the mount: trouble for the files concerned, and for no other.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::common::{can_mount, plain_user};
use crate::populate;
use crate::scene::Scene;

fn files(base: &Path) {
    populate(base);
    for name in ["gone", "shorter", "replaced", "closed", "dir/child"] {
        fs::create_dir_all(base.join(name).parent().expect("a parent")).expect("mkdir");
        fs::write(base.join(name), name.repeat(50_000)).expect("write");
    }
}

#[test]
fn only_the_file_itself_suffers() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new(files).elsewhere();
    scene.mount(&[]);
    // Known to the kernel and to the daemon, and one of them open.
    for name in ["gone", "shorter", "replaced", "closed", "dir/child"] {
        assert!(scene.join(name).metadata().expect("stat").len() > 0);
    }
    let open = fs::File::open(scene.join("gone")).expect("open");
    // Changed in the overlay: its other bytes are still the base's.
    use std::os::unix::fs::FileExt;
    let changed = fs::OpenOptions::new().read(true).write(true).open(scene.join("shorter")).expect("open");
    changed.write_all_at(b"changed", 0).expect("write");

    let base = |name: &str| scene.repo().join(name);
    fs::remove_file(base("gone")).expect("remove");
    fs::write(base("shorter"), "x").expect("write");
    fs::rename(base("README"), base("replaced")).expect("rename");
    fs::set_permissions(base("closed"), fs::Permissions::from_mode(0o000)).expect("chmod");
    fs::remove_dir_all(base("dir")).expect("remove");
    // What the kernel may believe meanwhile.
    std::thread::sleep(std::time::Duration::from_millis(1100));

    // Any answer but a wrong one: an error, or the bytes of before, or those of now.
    let before_or_now = |name: &str, now: Option<&str>| match fs::read(scene.join(name)) {
        Ok(bytes) => {
            let before = name.repeat(50_000);
            let known = bytes == before.as_bytes() || now.is_some_and(|now| bytes == now.as_bytes());
            assert!(known, "{name}: {} strange bytes", bytes.len());
        }
        Err(error) => {
            let expected = [libc::EIO, libc::ENOENT, libc::ESTALE, libc::EACCES, libc::EPERM];
            assert!(expected.contains(&error.raw_os_error().unwrap_or(0)), "{name}: {error}");
        }
    };
    before_or_now("gone", None);
    before_or_now("replaced", Some("read me\n"));
    before_or_now("dir/child", None);
    if plain_user() {
        let error = fs::read(scene.join("closed")).expect_err("chmod 000");
        assert!([Some(libc::EACCES), Some(libc::EIO)].contains(&error.raw_os_error()), "{error}");
    }
    let mut bytes = [0u8; 10];
    let _ = open.read_at(&mut bytes, 0);
    let _ = changed.read_at(&mut bytes, 100_000);
    changed.read_exact_at(&mut bytes[..7], 0).expect("what was written here");
    assert_eq!(&bytes[..7], b"changed");

    // Everything else goes on.
    assert_eq!(fs::read_to_string(scene.join("src/main")).expect("read"), "main\n".repeat(1000));
    fs::write(scene.join("new"), "new").expect("write");
    fs::write(scene.join("src/deep/large"), "overwritten").expect("write");
    let _ = fs::remove_file(scene.join("gone"));
    assert!(fs::read_dir(scene.root()).expect("list").count() > 3);
    drop((open, changed));
    for command in [&["status"][..], &["events"], &["reads"], &["ps"], &["diff"]] {
        let output = scene.run(command);
        assert!(output.status.code() == Some(0) || !output.stderr.is_empty(), "{command:?}");
    }
    scene.unmount();
    scene.mount(&[]);
    assert_eq!(fs::read_to_string(scene.join("new")).expect("read"), "new");
    assert_eq!(fs::read_to_string(scene.join("src/deep/large")).expect("read"), "overwritten");
}

#[test]
fn new_files_of_the_base_show() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new(populate).elsewhere();
    scene.mount(&[]);
    assert!(!scene.join("late").exists());
    fs::write(scene.repo().join("late"), "late").expect("write");
    fs::write(scene.repo().join("README"), "another text").expect("write");
    crate::common::wait_for("the base's new file to show", || scene.join("late").exists());
    crate::common::wait_for("the base's new bytes to show", || {
        fs::read_to_string(scene.join("README")).is_ok_and(|text| text == "another text")
    });
}
