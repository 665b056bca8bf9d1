//! A small repository that has one of everything.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use super::rng::Rng;

/// A name as long as a name may be.
pub fn long_name() -> Vec<u8> {
    vec![b'n'; 255]
}

/// Fills an empty directory. The times are all in the past, so that a change shows.
pub fn populate(root: &Path) {
    let mut rng = Rng::new(7);
    for dir in ["src", "src/deep", "src/deep/deeper", "empty", "docs", "tree", "tree/a", "tree/b", "tree/a/x"] {
        fs::create_dir(root.join(dir)).expect("mkdir");
    }
    let mut write = |name: &[u8], len: usize| {
        fs::write(root.join(OsStr::from_bytes(name)), rng.bytes(len)).expect("write");
    };
    write(b"small", 11);
    write(b"none", 0);
    write(b"src/page", 4096);
    write(b"src/large", 300_000);
    write(b"src/chunks", 3 * 65536);
    write(b"src/deep/file", 1000);
    write(b"src/deep/deeper/file", 70_000);
    write(b"docs/one", 100);
    write(b"tree/a/x/leaf", 5);
    write(b"tree/b/leaf", 65537);
    write(b"docs/\xff\xfe\x80", 20);
    write(&long_name(), 30);
    fs::hard_link(root.join("docs/one"), root.join("docs/two")).expect("link");
    fs::hard_link(root.join("docs/one"), root.join("src/three")).expect("link");
    symlink("small", root.join("link")).expect("symlink");
    symlink("../nowhere", root.join("docs/dangling")).expect("symlink");
    symlink("src/deep", root.join("to-dir")).expect("symlink");

    let sparse = fs::File::create(root.join("sparse")).expect("create");
    sparse.write_all_at(&rng.bytes(5000), 70_000).expect("write");
    sparse.write_all_at(&rng.bytes(100), 262_144).expect("write");
    sparse.set_len(500_000).expect("truncate");
    fs::File::create(root.join("src/hole")).and_then(|f| f.set_len(200_000)).expect("truncate");

    fs::set_permissions(root.join("src/page"), fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::set_permissions(root.join("docs"), fs::Permissions::from_mode(0o2775)).expect("chmod");
    for (path, name) in [("small", "user.a"), ("src", "user.b"), ("src/large", "user.a")] {
        let none = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(root.join(path), name, b"from the base", none).expect("setxattr");
    }
    age(root);
}

/// Sets the times of everything below a directory, and then its own.
fn age(path: &Path) {
    let meta = fs::symlink_metadata(path).expect("stat");
    if meta.is_dir() {
        for entry in fs::read_dir(path).expect("list") {
            age(&entry.expect("list").path());
        }
    }
    let time = rustix::fs::Timespec { tv_sec: 1_600_000_000, tv_nsec: 123_456_789 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).expect("utimens");
}
