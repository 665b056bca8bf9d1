//! What bad input gets: one line that says what to do, exit code 1 (2 for wrong usage), and nothing changed.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use regentfs::store::format::Lock;

use crate::common::{both, can_mount, is_mounted, plain_user, regentfs};
use crate::populate;
use crate::scene::{Scene, refusal};

#[test]
fn wrong_usage() {
    for arguments in [
        &["nonsense"][..],
        &[],
        &["mount", "--record", "sometimes"],
        &["reads", "--pid", "x"],
        &["events", "--op", "x"],
    ] {
        let output = regentfs().args(arguments).output().expect("run regentfs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", both(&output));
        assert!(!output.stderr.is_empty());
    }
    for arguments in [&["-h"][..], &["--help"], &["--version"], &["mount", "-h"], &["reads", "--help"]] {
        let output = regentfs().args(arguments).output().expect("run regentfs");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", both(&output));
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{}", both(&output));
    }
}

#[test]
fn no_such_place() {
    let scene = Scene::new(populate);
    let at = |name: &str| scene.outside().join(name).into_os_string().into_string().expect("UTF-8");
    fs::write(at("file"), "x").expect("write");
    let (repo, file, none) = (scene.repo().to_str().expect("UTF-8").to_owned(), at("file"), at("none"));
    for (arguments, words) in [
        (vec!["mount", &none], &["none", "does not exist"][..]),
        (vec!["mount", &file], &["file", "directory"]),
        (vec!["mount", &repo, "--at", &none], &["none", "does not exist"]),
        (vec!["mount", &repo, "--at", &file], &["file", "director"]),
        (vec!["unmount", &repo], &["not mounted"]),
        (vec!["status", "--repo", &none], &["none", "does not exist"]),
    ] {
        let said = refusal(&scene.command(&arguments).output().expect("run regentfs"), 1);
        assert!(words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
        assert!(!scene.store().exists(), "{arguments:?} made a store");
    }
}

#[test]
fn nothing_to_ask() {
    let scene = Scene::new(populate);
    for command in ["status", "diff", "ps", "events", "reads", "fsck", "discard"] {
        let said = refusal(&scene.run(&[command]), 1);
        assert!(
            said.contains(scene.store().to_str().expect("UTF-8")) || said.contains("regentfs mount"),
            "{command}: {said}"
        );
        assert!(!scene.store().exists(), "{command} made a store");
    }
}

#[test]
fn one_in_another() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new(populate);
    let path = |path: std::path::PathBuf| path.into_os_string().into_string().expect("UTF-8");
    let (repo, deep, outside) =
        (path(scene.repo().to_owned()), path(scene.repo().join("src/deep")), path(scene.outside().to_owned()));
    let said = refusal(&scene.try_mount(&["--at", &deep]), 1);
    assert!(said.contains("inside"), "{said}");
    let said = refusal(&scene.try_mount(&["--at", &outside]), 1);
    assert!(said.contains("inside"), "{said}");
    let other_store = |name: &str, arguments: &[&str]| {
        regentfs().args(arguments).arg("--store").arg(name).current_dir(scene.outside()).output().expect("run regentfs")
    };
    let inside = path(scene.repo().join("store"));
    let said = refusal(&other_store(&inside, &["mount", &repo]), 1);
    assert!(said.contains("store") && said.contains("--store") && !scene.repo().join("store").exists(), "{said}");

    scene.mount(&[]);
    let said = refusal(&scene.try_mount(&[]), 1);
    assert!(said.contains("already mounted"), "{said}");
    let second = path(scene.outside().join("second"));
    for arguments in [&["mount", &repo][..], &["mount", &deep], &["mount", &outside]] {
        let said = refusal(&other_store(&second, arguments), 1);
        assert!(said.contains("mount"), "{said}");
    }
    assert!(is_mounted(scene.root()) && !is_mounted(&scene.repo().join("src/deep")) && !is_mounted(scene.outside()));
    assert_eq!(fs::read_to_string(scene.join("README")).expect("read"), "read me\n");
}

#[test]
fn stores_that_are_not_ours() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new(populate);
    scene.mount(&[]);
    scene.unmount();
    let format = scene.store().join("format.json");
    let text = fs::read_to_string(&format).expect("read");
    let refused = |words: &[&str]| {
        let said = refusal(&scene.try_mount(&[]), 1);
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
        assert!(!is_mounted(scene.root()));
    };
    fs::write(&format, text.replace("\"format\": 2", "\"format\": 99")).expect("write");
    refused(&["99", "newer"]);
    fs::write(&format, text.replace("\"features\": []", "\"features\": [\"time-travel\"]")).expect("write");
    refused(&["time-travel"]);
    fs::write(&format, "not json").expect("write");
    refused(&["format.json"]);
    fs::write(&format, &text).expect("write");
    // Of another repository.
    let other = Scene::new(populate).with_store(scene.store());
    let said = refusal(&other.try_mount(&[]), 1);
    assert!(said.contains(scene.repo().to_str().expect("UTF-8")) && said.contains("--store"), "{said}");
    // Of a directory that has another one in its place.
    fs::rename(scene.repo(), scene.outside().join("old")).expect("rename");
    fs::create_dir(scene.repo()).expect("mkdir");
    refused(&["discard --purge"]);
    fs::remove_dir(scene.repo()).expect("rmdir");
    fs::rename(scene.outside().join("old"), scene.repo()).expect("rename");
    // In use.
    let held = Lock::create(scene.store()).expect("lock");
    refused(&[&std::process::id().to_string()]);
    drop(held);
    scene.mount(&[]);
}

#[test]
fn places_that_cannot_be_written() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new(populate).with_store(std::path::Path::new("/proc/regentfs-store"));
    let said = refusal(&scene.try_mount(&[]), 1);
    assert!(said.contains("/proc/regentfs-store") && said.contains("--store"), "{said}");
    if !plain_user() {
        // Root writes everywhere.
        return;
    }
    let scene = Scene::new(populate);
    let closed = scene.outside().join("closed");
    fs::create_dir(&closed).expect("mkdir");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).expect("chmod");
    let scene = scene.with_store(&closed.join("store"));
    let said = refusal(&scene.try_mount(&[]), 1);
    assert!(said.contains("closed/store") && said.contains("--store"), "{said}");
    assert!(!is_mounted(scene.root()));
}
