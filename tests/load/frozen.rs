//! A directory with some of everything that nobody changes but the test itself, and random changes of it.
//!
//! It knows nothing of mounts.

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FallocateFlags, FileType, Mode, RenameFlags, XattrFlags};

use crate::rng::Rng;

/// There are never fewer files than this after a change.
const FEWEST: usize = 200;
const ATTRIBUTES: [&str; 3] = ["user.a", "user.b", "user.from"];
/// None so small that two files are the same by chance: a rewind of paths lets such a file stay.
const SIZES: [usize; 6] = [20, 100, 300, 5000, 70_000, 200_000];

/// Some hundred files.
pub fn make(dir: &Path) {
    let mut rng = Rng::new(1);
    for d in 0..15 {
        let below = dir.join(format!("d{d}/deep/deeper"));
        fs::create_dir_all(&below).expect("mkdir");
        for f in 0..16 {
            let place = [&below, below.parent().expect("deep"), &dir.join(format!("d{d}"))][f % 3].to_owned();
            let path = place.join(format!("f{f}"));
            let size = if f == 3 { 150_000 } else { 100 * f };
            fs::write(&path, rng.bytes(size)).expect("write");
            match f {
                4 => fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).expect("chmod"),
                5 => xattr(&path, "user.from", b"the base"),
                6 => fs::hard_link(&path, dir.join(format!("d{d}/link of 6"))).expect("link"),
                7 => symlink("../f1", place.join("symbolic")).expect("symlink"),
                8 => sparse(&path, 500_000),
                9 => fs::write(place.join(std::ffi::OsStr::from_bytes(b"na\xffme")), "odd").expect("write"),
                10 => fifo(&place.join("fifo")),
                11 => fs::create_dir(place.join("empty")).expect("mkdir"),
                _ => {}
            }
        }
    }
}

fn xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).expect("setxattr");
}

fn fifo(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from(0o600), 0).expect("mkfifo");
}

/// A file with holes, and a few bytes between them.
fn sparse(path: &Path, len: u64) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("open");
    file.set_len(len).expect("truncate");
    file.write_all_at(b"between holes", len / 2).expect("write");
}

/// The directories below `root`, and everything else there, sorted.
fn all(root: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut dirs, mut files, mut pending) = (Vec::new(), Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).expect("list") {
            let entry = entry.expect("list");
            if entry.file_type().expect("a type").is_dir() {
                pending.push(entry.path());
                dirs.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    dirs.sort();
    files.sort();
    (dirs, files)
}

/// Makes `count` random changes of every kind.
pub fn change(root: &Path, rng: &mut Rng, count: usize) {
    let (mut dirs, mut files) = all(root);
    for n in 0..count {
        if once(root, rng, &dirs, &files, n) {
            (dirs, files) = all(root);
        }
    }
    for n in files.len()..FEWEST {
        let mut dir = root.join(format!("more{}", rng.below(20)));
        if dir.symlink_metadata().is_ok_and(|meta| !meta.is_dir()) {
            // It changed places with something else.
            dir = root.join(format!("more{:x}", rng.next()));
        }
        fs::create_dir_all(&dir).expect("mkdir");
        fs::write(dir.join(format!("{n}-{:x}", rng.next())), rng.bytes(2000)).expect("write");
    }
}

/// One change; true when names changed.
fn once(root: &Path, rng: &mut Rng, dirs: &[PathBuf], files: &[PathBuf], n: usize) -> bool {
    let is_file = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    let regular: Vec<&PathBuf> = files.iter().filter(|path| is_file(path)).collect();
    let (file, any) = ((*rng.pick(&regular)).clone(), rng.pick(files).clone());
    let dir = if dirs.is_empty() { root.to_owned() } else { rng.pick(dirs).clone() };
    let new = dir.join(format!("new{n}-{:x}", rng.next()));
    let size = *rng.pick(&SIZES);
    let open = || fs::OpenOptions::new().read(true).write(true).open(&file).expect("open");
    match rng.below(20) {
        0 => fs::write(&file, rng.bytes(size)).expect("write"),
        1 => {
            let mut end = fs::OpenOptions::new().append(true).open(&file).expect("open");
            end.write_all(&rng.bytes(size)).expect("append");
        }
        2 => open().write_all_at(&rng.bytes(3000), rng.below(100_000)).expect("write"),
        3 => open().set_len(rng.below(300_000)).expect("truncate"),
        4 => {
            let mode = *rng.pick(&[0o600, 0o644, 0o755, 0o664, 0o1640]);
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("chmod");
        }
        5 => xattr(&file, ATTRIBUTES[rng.below(3) as usize], &rng.bytes(size % 3000)),
        6 => {
            let _ = rustix::fs::lremovexattr(&file, ATTRIBUTES[rng.below(3) as usize]);
        }
        7 => {
            fs::remove_file(&any).expect("remove");
            return true;
        }
        // Deleted and made again, as something else.
        8 => {
            fs::remove_file(&any).expect("remove");
            fs::write(&any, rng.bytes(size)).expect("write");
        }
        9 => {
            fs::remove_file(&any).expect("remove");
            fs::create_dir(&any).expect("mkdir");
            fs::write(any.join("in"), rng.bytes(size)).expect("write");
            return true;
        }
        10 if !dirs.is_empty() && files.len() > FEWEST => {
            fs::remove_dir_all(&dir).expect("remove");
            fs::write(&dir, rng.bytes(size)).expect("write");
            return true;
        }
        11 => {
            fs::rename(&any, &new).expect("rename");
            return true;
        }
        12 if !dirs.is_empty() => {
            fs::rename(&dir, root.join(format!("moved{n}-{:x}", rng.next()))).expect("rename");
            return true;
        }
        13 => {
            fs::hard_link(&file, &new).expect("link");
            return true;
        }
        14 => {
            symlink(format!("to/{n}"), &new).expect("symlink");
            return true;
        }
        15 => sparse(&file, 1 + rng.below(900_000)),
        16 => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(open(), flags, rng.below(50_000), 1 + rng.below(100_000)).expect("punch");
        }
        17 => {
            let to = rng.pick(&regular);
            rustix::fs::renameat_with(CWD, &file, CWD, *to, RenameFlags::EXCHANGE).expect("exchange");
        }
        18 => {
            fs::rename(&any, &file).expect("rename over");
            return true;
        }
        _ if rng.one_in(2) => {
            fifo(&new);
            return true;
        }
        _ => {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(rng.below(1 << 60));
            open().set_modified(time).expect("set the time");
        }
    }
    false
}
