//! A directory tree as data, so that two of them can be compared: the result of a tool in a mount and in a plain directory.
//!
//! It knows nothing of mounts. Inode numbers and ctimes are not compared between trees: they differ between two copies.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use globset::{Glob, GlobSet, GlobSetBuilder};

/// Relative path to entry; the root is the empty path.
pub type Tree = BTreeMap<Vec<u8>, Entry>;

/// What a tool, or a person, can see of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: &'static str,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u64,
    /// Zero for a directory, whose size means nothing portable.
    pub size: u64,
    pub rdev: u64,
    /// A regular file's blake3, a symlink's target.
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path of the same inode, when it has several names.
    pub first_name: Option<Vec<u8>>,
    pub mtime: (i64, i64),
    pub ino: u64,
}

/// Which differences between two trees count.
#[derive(Default)]
pub struct View {
    /// Paths that are not looked at.
    pub absent: GlobSet,
    /// Files whose bytes and size depend on the time, a pid or an inode number.
    pub volatile: GlobSet,
    pub mtimes: Mtimes,
}

/// What is compared of an mtime.
#[derive(Clone, Copy, Default)]
pub enum Mtimes {
    /// All of it: the same tree at two moments.
    #[default]
    Exact,
    /// It is the same, or in both trees later than the start of the run that made the tree.
    SetBefore { expected: (i64, i64), actual: (i64, i64) },
    /// Nothing.
    Ignored,
}

impl View {
    pub fn new(absent: &[&str], volatile: &[&str], mtimes: Mtimes) -> View {
        View { absent: globs(absent), volatile: globs(volatile), mtimes }
    }

    /// Everything counts: the same tree at two moments.
    pub fn exact() -> View {
        View::default()
    }

    /// Everything but the times.
    pub fn but_times() -> View {
        View { mtimes: Mtimes::Ignored, ..View::default() }
    }
}

fn globs(patterns: &[&str]) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).expect("a valid glob"));
    }
    set.build().expect("valid globs")
}

/// Reads the whole tree under `root`.
pub fn read(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut names: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut pending = vec![Vec::new()];
    while let Some(relative) = pending.pop() {
        let path = root.join(std::ffi::OsStr::from_bytes(&relative));
        if fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).is_dir() {
            let listing = fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            for child in listing {
                let child = child.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let mut name = relative.clone();
                if !name.is_empty() {
                    name.push(b'/');
                }
                name.extend_from_slice(child.file_name().as_bytes());
                pending.push(name);
            }
        }
        tree.insert(relative, entry(&path));
    }
    for (path, entry) in &mut tree {
        if entry.nlink > 1 && entry.kind != "directory" {
            entry.first_name = Some(names.entry(entry.ino).or_insert_with(|| path.clone()).clone());
        }
    }
    tree
}

/// The time as the file system of `dir` sees it.
pub fn now(dir: &Path) -> (i64, i64) {
    let path = dir.join("now");
    fs::write(&path, "").expect("write a time stamp");
    let meta = fs::metadata(&path).expect("stat the time stamp");
    fs::remove_file(&path).expect("remove the time stamp");
    (meta.mtime(), meta.mtime_nsec())
}

fn entry(path: &Path) -> Entry {
    let fail = |what: &str, error: &dyn std::fmt::Display| -> ! { panic!("{what} {}: {error}", path.display()) };
    let meta = fs::symlink_metadata(path).unwrap_or_else(|error| fail("stat", &error));
    let file_type = meta.file_type();
    let (kind, content) = if file_type.is_dir() {
        ("directory", Vec::new())
    } else if file_type.is_file() {
        let mut hasher = blake3::Hasher::new();
        let mut file = fs::File::open(path).unwrap_or_else(|error| fail("open", &error));
        std::io::copy(&mut file, &mut hasher).unwrap_or_else(|error| fail("read", &error));
        ("file", hasher.finalize().as_bytes().to_vec())
    } else if file_type.is_symlink() {
        let target = fs::read_link(path).unwrap_or_else(|error| fail("readlink", &error));
        ("symlink", target.as_os_str().as_bytes().to_vec())
    } else if file_type.is_fifo() {
        ("fifo", Vec::new())
    } else if file_type.is_socket() {
        ("socket", Vec::new())
    } else {
        ("device", Vec::new())
    };
    Entry {
        kind,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        nlink: meta.nlink(),
        size: if file_type.is_dir() { 0 } else { meta.size() },
        rdev: meta.rdev(),
        content,
        xattrs: xattrs(path),
        first_name: None,
        mtime: (meta.mtime(), meta.mtime_nsec()),
        ino: meta.ino(),
    }
}

/// Somebody may take one away between the list and the look: then all are read again.
fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    const TRIES: usize = 5;
    let mut names = vec![0u8; 65536];
    for last in (0..TRIES).map(|n| n == TRIES - 1) {
        let length = rustix::fs::llistxattr(path, &mut names[..])
            .unwrap_or_else(|error| panic!("listxattr {}: {error}", path.display()));
        let value = |name: &[u8]| {
            let mut value = vec![0u8; 65536];
            let length = match rustix::fs::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value[..]) {
                Err(rustix::io::Errno::NODATA) if !last => return None,
                result => result
                    .unwrap_or_else(|error| panic!("getxattr {} {}: {error}", name.escape_ascii(), path.display())),
            };
            value.truncate(length);
            Some((name.to_vec(), value))
        };
        let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
        if let Some(all) = names.map(value).collect() {
            return all;
        }
    }
    unreachable!("the last try panics or returns")
}

/// What `actual` has that `expected` has not, one line each; empty when they are the same.
pub fn differences(expected: &Tree, actual: &Tree, view: &View) -> Vec<String> {
    let mut lines = Vec::new();
    let shown = |path: &[u8]| if path.is_empty() { ".".to_owned() } else { path.escape_ascii().to_string() };
    let counts = |path: &[u8]| !view.absent.is_match(std::ffi::OsStr::from_bytes(path));
    for (path, left) in expected.iter().filter(|(path, _)| counts(path)) {
        match actual.get(path) {
            None => lines.push(format!("{}: missing, expected a {}", shown(path), left.kind)),
            Some(right) => {
                let (mut left, mut right) = (seen(left, path, view), seen(right, path, view));
                if let Mtimes::SetBefore { expected, actual } = view.mtimes {
                    left.mtime = before(left.mtime, expected);
                    right.mtime = before(right.mtime, actual);
                    // git touches an object that it would write again; whether it would depends on what the clock showed.
                    if path.windows(9).any(|part| part == b"/objects/") {
                        right.mtime = left.mtime;
                    }
                }
                if left != right {
                    lines.push(format!(
                        "{}:\n    expected {}\n    found    {}",
                        shown(path),
                        brief(&left),
                        brief(&right)
                    ));
                }
            }
        }
    }
    for (path, right) in actual.iter().filter(|(path, _)| counts(path)) {
        if !expected.contains_key(path) {
            lines.push(format!("{}: a {} that is not expected", shown(path), right.kind));
        }
    }
    lines
}

/// Fails with the differences, if there are any.
pub fn assert_same(expected: &Tree, actual: &Tree, view: &View, what: &str) {
    let lines = differences(expected, actual, view);
    let shown = lines.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(lines.is_empty(), "{what}: {} differences\n{shown}", lines.len());
}

/// The entry with what does not count taken out.
fn seen(entry: &Entry, path: &[u8], view: &View) -> Entry {
    let mut entry = entry.clone();
    let path = std::ffi::OsStr::from_bytes(path);
    entry.ino = 0;
    if matches!(view.mtimes, Mtimes::Ignored) {
        entry.mtime = (0, 0);
    }
    if view.volatile.is_match(path) {
        entry.content.clear();
        entry.size = 0;
    }
    entry
}

/// The mtime, or nothing when it is from the run itself.
fn before(mtime: (i64, i64), start: (i64, i64)) -> (i64, i64) {
    if mtime < start { mtime } else { (0, 0) }
}

fn brief(entry: &Entry) -> String {
    let content = match entry.kind {
        "file" => entry.content.iter().take(6).map(|byte| format!("{byte:02x}")).collect(),
        _ => entry.content.escape_ascii().to_string(),
    };
    let names: Vec<String> =
        entry.xattrs.iter().map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii())).collect();
    format!(
        "{} {:04o} {}:{} nlink {} size {} mtime {}.{:09} [{content}] xattrs [{}] links to {:?}",
        entry.kind,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.nlink,
        entry.size,
        entry.mtime.0,
        entry.mtime.1,
        names.join(", "),
        entry.first_name.as_ref().map(|name| name.escape_ascii().to_string()),
    )
}
