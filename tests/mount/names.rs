//! Names that are not text, long names, deep paths, large directories.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::common::can_mount;
use crate::scene::Scene;

#[test]
fn names_are_bytes() {
    if !can_mount() {
        return;
    }
    let names: Vec<Vec<u8>> = vec![
        b"\xff\xfe\x80".to_vec(),
        b"a\nb".to_vec(),
        b"quote\"back\\slash".to_vec(),
        b" ".to_vec(),
        b"\x01\x7f".to_vec(),
        vec![b'x'; 255],
        "ü".repeat(127).into_bytes(),
        [vec![0xe4; 254], vec![b'y']].concat(),
    ];
    let os = |name: &[u8]| OsStr::from_bytes(name).to_owned();
    let scene = Scene::new(|base| {
        for name in &names {
            fs::create_dir(base.join(os(name))).expect("mkdir");
            fs::write(base.join(os(name)).join("in base"), name).expect("write");
        }
    });
    scene.mount(&[]);
    for name in &names {
        let dir = scene.join(os(name));
        assert_eq!(fs::read(dir.join("in base")).expect("read"), *name);
        fs::write(dir.join(os(name)), name).expect("write");
    }
    let long = fs::write(scene.join(OsString::from("x".repeat(256))), "x").expect_err("256 bytes");
    assert_eq!(long.raw_os_error(), Some(libc::ENAMETOOLONG));
    scene.unmount();
    scene.mount(&[]);
    let listed: BTreeSet<Vec<u8>> =
        fs::read_dir(scene.root()).expect("list").map(|e| e.expect("list").file_name().as_bytes().to_vec()).collect();
    assert_eq!(listed, names.iter().cloned().collect());
    for name in &names {
        assert_eq!(fs::read(scene.join(os(name)).join(os(name))).expect("read"), *name);
    }
    // The record has them without loss.
    let created: BTreeSet<Vec<u8>> = scene
        .json(&["events", "--op", "create"])
        .iter()
        .map(|event| {
            let path = event["path"].as_str().expect("path").as_bytes().to_vec();
            event["path_hex"].as_str().map_or(path, |hex| regentfs::types::unhex(hex).expect("hexadecimal"))
        })
        .collect();
    assert_eq!(created, names.iter().map(|name| [name, &b"/"[..], name].concat()).collect());
    let diff = scene.run(&["diff", "--name-only"]);
    assert_eq!(diff.stdout.split(|&b| b == b'\n').filter(|line| !line.is_empty()).count(), names.len());
    scene.unmount();
    scene.assert_whole();
}

#[test]
fn paths_as_deep_as_they_get() {
    if !can_mount() {
        return;
    }
    let name = "d".repeat(99);
    let scene = Scene::new(|base| fs::create_dir_all(base.join(&name).join(&name)).expect("mkdir"));
    scene.mount(&[]);
    let mut deep: PathBuf = scene.join(&name).join(&name);
    while deep.as_os_str().len() + 1 + name.len() + "/file".len() < libc::PATH_MAX as usize {
        deep.push(&name);
    }
    fs::create_dir_all(&deep).expect("mkdir");
    let file = deep.join("file");
    fs::write(&file, "deep").expect("write");
    let long = fs::write(deep.join("f".repeat(200)), "x").expect_err("longer than PATH_MAX");
    assert_eq!(long.raw_os_error(), Some(libc::ENAMETOOLONG));
    // Deeper still, step by step, as rm -r and tar go.
    let mut dir = rustix::fs::open(&deep, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).expect("open");
    for _ in 0..30 {
        rustix::fs::mkdirat(&dir, &*name, rustix::fs::Mode::RWXU).expect("mkdirat");
        dir = rustix::fs::openat(&dir, &*name, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).expect("openat");
    }
    drop(dir);
    scene.unmount();
    scene.assert_whole();
    scene.mount(&[]);
    assert_eq!(fs::read_to_string(&file).expect("read"), "deep");
    let reads = scene.json(&["reads", "--path", "file"]);
    assert!(reads.iter().any(|row| scene.root().join(row["path"].as_str().expect("path")) == file), "{}", reads.len());
    fs::remove_dir_all(scene.join(&name)).expect("remove");
    assert!(!scene.join(&name).exists());
}

#[test]
fn a_hundred_thousand_entries() {
    const MANY: usize = 100_000;
    if !can_mount() {
        return;
    }
    let scene = Scene::new(|base| {
        fs::create_dir(base.join("many")).expect("mkdir");
        for n in 0..MANY {
            fs::File::create(base.join(format!("many/{n}"))).expect("create");
        }
    });
    scene.mount(&[]);
    let list = || -> Vec<OsString> {
        fs::read_dir(scene.join("many")).expect("list").map(|entry| entry.expect("list").file_name()).collect()
    };
    let all = list();
    assert_eq!((all.len(), all.iter().collect::<BTreeSet<_>>().len()), (MANY, MANY));
    // Removed while they are listed, as rm -r does: nothing twice, and what stays is there.
    let mut seen = BTreeSet::new();
    let mut removed = BTreeSet::new();
    for (n, entry) in fs::read_dir(scene.join("many")).expect("list").enumerate() {
        let name = entry.expect("list").file_name();
        assert!(seen.insert(name.clone()), "{name:?} twice");
        if n % 10 == 0 && !removed.contains(&name) {
            fs::remove_file(scene.join("many").join(&name)).expect("remove");
            removed.insert(name);
            // One that is still to come, or was already.
            let other = OsString::from((n * 7919 % MANY).to_string());
            if removed.insert(other.clone()) {
                fs::remove_file(scene.join("many").join(&other)).expect("remove");
            }
        }
    }
    let lost: Vec<_> = all.iter().filter(|name| !seen.contains(*name) && !removed.contains(*name)).take(20).collect();
    assert!(lost.is_empty(), "not listed: {lost:?}\n{}", scene.log());
    let left: BTreeSet<OsString> = list().into_iter().collect();
    assert_eq!(left.len(), MANY - removed.len());
    assert!(left.is_disjoint(&removed));
    // All of it can go.
    fs::remove_dir_all(scene.join("many"))
        .unwrap_or_else(|e| panic!("remove: {e}; left: {:?}\n{}", list().len(), scene.log()));
    scene.unmount();
    scene.assert_whole();
}
