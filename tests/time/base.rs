//! A small repository with one of everything, and what the model has of it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::rc::Rc;

use regentfs::types::{Kind, Time};

use super::tree::{File, Number, ROOT, Tree, Xattrs};
use crate::model::rng::Rng;

/// Fills an empty directory.
pub fn populate(root: &Path) {
    let mut rng = Rng::new(11);
    for dir in ["d", "d/e", "d/e/f", "empty", "g", "g/h", "many"] {
        fs::create_dir(root.join(dir)).expect("mkdir");
    }
    let mut write = |name: &[u8], len: usize| {
        fs::write(root.join(OsStr::from_bytes(name)), rng.bytes(len)).expect("write");
    };
    write(b"small", 11);
    write(b"none", 0);
    write(b"d/large", 300 << 10);
    write(b"d/e/one", 5000);
    write(b"d/e/f/leaf", 70_000);
    write(b"d/linked", 100);
    write(b"g/h/chunk", 65536);
    write(b"many/a", 3);
    write(b"many/b\xff", 4);
    fs::hard_link(root.join("d/linked"), root.join("g/linked")).expect("link");
    fs::hard_link(root.join("d/linked"), root.join("many/third")).expect("link");
    fs::hard_link(root.join("many/a"), root.with_extension("outside")).expect("link");
    symlink("d/e", root.join("to-dir")).expect("symlink");
    symlink("nowhere", root.join("g/dangling")).expect("symlink");
    rustix::fs::mkfifoat(rustix::fs::CWD, root.join("g/fifo"), rustix::fs::Mode::from_bits_truncate(0o640))
        .expect("mkfifo");
    let sparse = fs::File::create(root.join("sparse")).expect("create");
    sparse.write_all_at(&rng.bytes(5000), 70_000).expect("write");
    sparse.write_all_at(&rng.bytes(100), 262_144).expect("write");
    sparse.set_len(330_000).expect("truncate");
    fs::set_permissions(root.join("d/e/one"), fs::Permissions::from_mode(0o4755)).expect("chmod");
    fs::set_permissions(root.join("g"), fs::Permissions::from_mode(0o2775)).expect("chmod");
    for (path, name) in [("small", "user.a"), ("d", "user.b"), ("d/large", "user.a"), ("d/linked", "user.c")] {
        let none = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(root.join(path), name, b"from the base", none).expect("setxattr");
    }
}

/// Reads a directory of the disk into a tree.
pub fn read(root: &Path) -> Tree {
    let mut tree = Tree::default();
    enter(root, true, &mut tree);
    tree
}

fn enter(path: &Path, is_root: bool, tree: &mut Tree) -> Number {
    let meta = fs::symlink_metadata(path).expect("stat");
    let kind = Kind::from_mode(meta.mode()).expect("a known type");
    let number = if is_root { ROOT } else { meta.ino() };
    let mut entries = std::collections::BTreeMap::new();
    if kind == Kind::Dir {
        for entry in fs::read_dir(path).expect("list") {
            let entry = entry.expect("list");
            entries.insert(entry.file_name().as_bytes().to_vec(), enter(&entry.path(), false, tree));
        }
    }
    let bytes = if kind == Kind::File { fs::read(path).expect("read") } else { Vec::new() };
    let target = match kind {
        Kind::Symlink => fs::read_link(path).expect("readlink").into_os_string().as_bytes().to_vec(),
        _ => Vec::new(),
    };
    let file = File {
        kind,
        perm: (meta.mode() & 0o7777) as u16,
        uid: meta.uid(),
        gid: meta.gid(),
        nlink: meta.nlink() as u32,
        size: meta.size(),
        mtime: Time::new(meta.mtime(), meta.mtime_nsec() as u32),
        ctime: Time::new(meta.ctime(), meta.ctime_nsec() as u32),
        bytes: Rc::new(bytes),
        target: Rc::new(target),
        xattrs: Rc::new(xattrs(path)),
        entries: Rc::new(entries),
    };
    tree.files.insert(number, file);
    number
}

fn xattrs(path: &Path) -> Xattrs {
    let mut list = vec![0; 4096];
    let len = rustix::fs::llistxattr(path, &mut list[..]).expect("listxattr");
    let names = list[..len].split(|&b| b == 0).filter(|n| n.starts_with(b"user."));
    let value = |name: &[u8]| {
        let mut value = vec![0; 4096];
        let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).expect("getxattr");
        value.truncate(len);
        value
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}
