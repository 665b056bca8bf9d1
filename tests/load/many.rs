//! Rewinds over `target/` and `node_modules` in a repository of many files; the whole tree is compared each time.
//!
//! 8,000 files; `REGENTFS_LOAD_FILES=80000` takes more than ten minutes on two busy cores, most of them for writing and reading the trees.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::common::tree::{self, View};
use crate::common::{assert_ok, can_mount, wait_for};
use crate::moving::number;
use crate::rng::Rng;
use crate::scene::Scene;

/// Files of a package, as npm leaves them.
const PACKAGE: usize = 15;
/// Files that cargo leaves for a crate.
const CRATE: usize = 5;

fn files() -> usize {
    number("FILES", 8000) as usize
}

fn put(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().expect("below a directory")).expect("mkdir");
    fs::write(path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn source(root: &Path, n: usize) -> PathBuf {
    root.join(format!("src_{}/lib_{}/file_{n}.rs", n % 7, n % 140))
}

/// Half of them sources, the rest packages and what was built.
fn populate(root: &Path, many: usize) {
    let mut rng = Rng::new(3);
    for n in 0..many / 2 {
        let size = rng.below(1500) as usize;
        put(source(root, n), rng.bytes(size));
    }
    packages(&root.join("node_modules"), 0..many / 40, "old");
    built(&root.join("target/debug"), many / 80, 1);
}

/// Many small files in directories of directories, and commands as symbolic links to scripts.
fn packages(root: &Path, numbers: impl Iterator<Item = usize>, version: &str) {
    for number in numbers {
        let home = root.join(format!("pkg-{number}"));
        put(home.join("package.json"), format!("{{\"name\": \"pkg-{number}\", \"version\": {version:?}}}\n"));
        put(home.join("bin/cli.js"), format!("#!/usr/bin/env node\n// {number}\n"));
        fs::set_permissions(home.join("bin/cli.js"), fs::Permissions::from_mode(0o755)).expect("chmod");
        for part in 0..PACKAGE - 3 {
            let dir = ["lib", "dist/esm", "dist/cjs", "types"][part % 4];
            put(home.join(format!("{dir}/{part}.js")), format!("// {version} {number}\n").repeat(part + 1));
        }
        fs::create_dir_all(root.join(".bin")).expect("mkdir");
        let link = root.join(format!(".bin/pkg-{number}"));
        if fs::symlink_metadata(&link).is_err() {
            symlink(format!("../pkg-{number}/bin/cli.js"), link).expect("symlink");
        }
    }
}

/// Outputs under two names, fingerprints, incremental directories.
fn built(root: &Path, crates: usize, version: u64) {
    for number in 0..crates {
        let mut rng = Rng::new(number as u64 * 7 + version);
        let hashed = format!("{:016x}", rng.next());
        let data = rng.bytes(1000 + number % 90_000);
        put(root.join(format!("deps/libcrate_{number}-{hashed}.rlib")), &data);
        put(root.join(format!("deps/crate_{number}-{hashed}.d")), "deps\n".repeat(CRATE));
        put(root.join(format!(".fingerprint/crate_{number}-{hashed}/lib-crate_{number}")), &hashed);
        put(root.join(format!(".fingerprint/crate_{number}-{hashed}/invoked.timestamp")), "");
        if number.is_multiple_of(4) {
            let out = root.join(format!("libcrate_{number}.rlib"));
            let _ = fs::remove_file(&out);
            fs::hard_link(root.join(format!("deps/libcrate_{number}-{hashed}.rlib")), out).expect("link");
            put(root.join(format!("incremental/crate_{number}-{hashed}/s-{version}/query-cache.bin")), &data);
        }
    }
}

/// What `npm install` of other versions, a build, and an agent do.
fn change(root: &Path, many: usize) {
    let modules = root.join("node_modules");
    for number in (0..many / 40).step_by(2) {
        fs::remove_dir_all(modules.join(format!("pkg-{number}"))).expect("remove");
    }
    packages(&modules.join(".staging"), (0..many / 40).step_by(2), "new");
    for number in (0..many / 40).step_by(2) {
        let name = format!("pkg-{number}");
        fs::rename(modules.join(".staging").join(&name), modules.join(&name)).expect("rename");
    }
    fs::remove_dir_all(modules.join(".staging")).expect("remove");
    // More than the names that one directory may have lost or gained at once.
    packages(&modules, many / 40..many / 30, "new");

    let target = root.join("target");
    fs::remove_dir_all(target.join("debug/incremental")).expect("remove");
    fs::rename(target.join("debug"), target.join("old")).expect("rename");
    built(&target.join("debug"), many / 80, 2);
    fs::create_dir_all(root.join("new/er")).expect("mkdir");
    fs::rename(target.join("old"), root.join("new/er/old")).expect("rename");

    for n in (7..many / 2).step_by(10) {
        put(source(root, n), format!("edited {n}\n"));
    }
    for n in (3..many / 2).step_by(50) {
        fs::set_permissions(source(root, n), fs::Permissions::from_mode(0o600)).expect("chmod");
    }
    fs::rename(root.join("src_3"), root.join("src_moved")).expect("rename");
    fs::remove_dir_all(root.join("src_5")).expect("remove");
    fs::write(root.join("src_5"), "a file now\n").expect("write");
}

#[test]
fn many_files_with_target_and_node_modules_among_the_changes() {
    if !can_mount() {
        return;
    }
    let many = files();
    let scene = Scene::new(|base| populate(base, many));
    let base = tree::read(scene.repo());
    assert!(base.len() > many * 4 / 5, "only {} paths", base.len());
    scene.mount(&[]);
    let is = |expected: &tree::Tree, what: &str| {
        tree::assert_same(expected, &tree::read(scene.root()), &View::exact(), &format!("{many} files: {what}"));
    };
    let remount = || {
        wait_for("the mount to be free", || scene.try_unmount(&[]).status.success());
        scene.mount(&[]);
    };
    assert_ok(&scene.run(&["snapshot", "--label", "then"]), "snapshot");
    change(scene.root(), many);
    let after = tree::read(scene.root());
    assert!(after != base);

    let rows = scene.json(&["rewind", "then"]);
    assert_eq!(rows[0]["done"], true, "{:?}", rows[0]);
    assert!(rows.len() > many / 4, "the rewind names only {} paths", rows.len() - 1);
    is(&base, "the rewind");
    assert_ok(&scene.run(&["undo"]), "undo");
    is(&after, "the undo");
    remount();
    is(&after, "the undo, after a remount");
    // With nothing in the kernel's memory, and only a part of it.
    assert_ok(&scene.run(&["redo"]), "redo");
    is(&base, "the redo");
    remount();
    is(&base, "the redo, after a remount");
    assert_ok(&scene.run(&["undo"]), "undo");
    let paths = ["target", "node_modules"].map(|name| scene.join(name));
    let [target, modules] = paths.each_ref().map(|path| path.to_str().expect("UTF-8"));
    assert_ok(&scene.run(&["rewind", "then", target, modules]), "rewind of two directories");
    let part = |tree: &tree::Tree, name: &str| -> tree::Tree {
        let own = tree.iter().filter(|(path, _)| path.starts_with(name.as_bytes()));
        // A file may have other names elsewhere, which stay what they are.
        own.map(|(path, entry)| (path.clone(), tree::Entry { nlink: 0, first_name: None, ..entry.clone() })).collect()
    };
    let now = tree::read(scene.root());
    for (name, expected) in [("node_modules", &base), ("target", &base), ("src", &after)] {
        let what = format!("{many} files: {name} after a rewind of paths");
        tree::assert_same(&part(expected, name), &part(&now, name), &View::but_times(), &what);
    }
    assert_ok(&scene.run(&["undo"]), "undo");
    is(&after, "the undo of a rewind of paths");

    wait_for("the mount to be free", || scene.try_unmount(&[]).status.success());
    tree::assert_same(&base, &tree::read(scene.repo()), &View::exact(), "the base");
    scene.assert_whole();
}
