//! What apply and its undo write to the repository shows in no mount that is beside: neither in the past nor on another timeline.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use crate::common::tree::{self, Mtimes, Tree, View};
use crate::common::{assert_ok, can_mount, is_mounted};
use crate::stage::{Stage, large, write};

fn xattr(path: &Path, name: &str, value: &str) {
    rustix::fs::lsetxattr(path, name, value.as_bytes(), XattrFlags::empty()).expect("setxattr");
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

/// Something of everything that apply can change, in the base.
fn populate(root: &Path) {
    for dir in ["renamed/in/side", "goes/down", "was-dir", "stays", "inner/one"] {
        fs::create_dir_all(root.join(dir)).expect("mkdir");
    }
    for n in 0..12 {
        write(root.join(format!("renamed/in/{n}")), format!("{n}\n").repeat(n * 500));
        write(root.join(format!("goes/down/{n}")), format!("goes {n}\n"));
        write(root.join(format!("stays/{n}")), format!("stays {n}\n").repeat(10_000));
        write(root.join(format!("inner/one/{n}")), format!("inner {n}\n"));
    }
    write(root.join("renamed/in/side/large"), large(b'r'));
    write(root.join("changed-small"), "small\n");
    write(root.join("changed-large"), large(b'c'));
    write(root.join("truncated"), large(b't'));
    write(root.join("replaced"), "before\n");
    write(root.join("was-dir/file"), "in a directory\n");
    write(root.join("was-file"), "a file\n");
    write(root.join("moded"), "moded\n");
    chmod(&root.join("moded"), 0o640);
    write(root.join("timed"), "timed\n");
    write(root.join("attributed"), "attributed\n");
    xattr(&root.join("attributed"), "user.old", "old");
    xattr(&root.join("attributed"), "user.both", "before");
    write(root.join("pair-one"), large(b'p'));
    fs::hard_link(root.join("pair-one"), root.join("stays/pair-two")).expect("link");
    write(root.join("parted"), "parted\n");
    fs::hard_link(root.join("parted"), root.join("parted-too")).expect("link");
    write(root.join("single"), "single\n");
    symlink("changed-small", root.join("symbolic")).expect("symlink");
    write(root.join(OsStr::from_bytes(b"na\xffme")), "odd\n");
    write(root.join("swap-a"), "a\n");
    write(root.join("swap-b"), large(b'b'));
}

/// Changes of every kind, as somebody in `root` makes them.
fn change(root: &Path, who: &str) {
    let at = |name: &str| root.join(name);
    write(at("changed-small"), format!("small, changed by {who}\n"));
    let file = fs::OpenOptions::new().write(true).open(at("changed-large")).expect("open");
    file.write_all_at(&[who.as_bytes()[0]; 90_000], 200_000).expect("write");
    drop(file);
    fs::OpenOptions::new().write(true).open(at("truncated")).expect("open").set_len(70_001).expect("truncate");
    fs::remove_file(at("replaced")).expect("remove");
    write(at("replaced"), format!("another file of {who}\n"));
    fs::rename(at("renamed"), at("moved")).expect("rename");
    write(at("moved/in/3"), format!("changed after the rename by {who}\n"));
    fs::remove_dir_all(at("goes")).expect("remove");
    fs::remove_dir_all(at("was-dir")).expect("remove");
    write(at("was-dir"), format!("a file of {who} now\n"));
    fs::remove_file(at("was-file")).expect("remove");
    fs::create_dir(at("was-file")).expect("mkdir");
    write(at("was-file/in"), who);
    // A directory under the name of another one.
    fs::rename(at("inner/one"), at("inner/two")).expect("rename");
    fs::create_dir(at("inner/one")).expect("mkdir");
    write(at("inner/one/5"), who);
    chmod(&at("moded"), 0o755);
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    fs::OpenOptions::new().write(true).open(at("timed")).expect("open").set_modified(time).expect("set the time");
    rustix::fs::lremovexattr(at("attributed"), "user.old").expect("removexattr");
    xattr(&at("attributed"), "user.both", who);
    xattr(&at("attributed"), "user.new", who);
    // One file of two names, changed through one; two that are parted; one that becomes three.
    let file = fs::OpenOptions::new().write(true).open(at("pair-one")).expect("open");
    file.write_all_at(who.as_bytes(), 100_000).expect("write");
    drop(file);
    fs::remove_file(at("parted-too")).expect("remove");
    write(at("parted-too"), format!("parted by {who}\n"));
    fs::hard_link(at("single"), at("stays/second")).expect("link");
    fs::hard_link(at("single"), at("moved/in/third")).expect("link");
    fs::remove_file(at("symbolic")).expect("remove");
    symlink(format!("of-{who}"), at("symbolic")).expect("symlink");
    fs::remove_file(root.join(OsStr::from_bytes(b"na\xffme"))).expect("remove");
    write(root.join(OsStr::from_bytes(b"n\xfeew")), who);
    fs::rename(at("swap-a"), at("swap")).expect("rename");
    fs::rename(at("swap-b"), at("swap-a")).expect("rename");
    fs::rename(at("swap"), at("swap-b")).expect("rename");
    fs::create_dir_all(at("new/dir/empty")).expect("mkdir");
    write(at("new/dir/file"), large(who.as_bytes()[0]));
    rustix::fs::mknodat(CWD, at("new/fifo"), FileType::Fifo, Mode::from(0o600), 0).expect("mkfifo");
    fs::rename(at("stays/7"), at("new/seven")).expect("rename");
}

/// Mounts that must not change, with what they show.
struct Shown {
    mounts: Vec<(PathBuf, Tree)>,
    /// A file of each, open all the time.
    open: Vec<(fs::File, Vec<u8>)>,
}

impl Shown {
    fn of(mounts: &[&Path]) -> Shown {
        let open = |path: PathBuf| {
            let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            (fs::File::open(&path).expect("open"), bytes)
        };
        let files = ["changed-large", "truncated", "pair-one"];
        Shown {
            mounts: mounts.iter().map(|&at| (at.to_owned(), tree::read(at))).collect(),
            open: mounts.iter().flat_map(|at| files.map(|name| open(at.join(name)))).collect(),
        }
    }

    /// What is not as it was.
    fn differences(&self, view: &View, what: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (at, expected) in &self.mounts {
            let name = at.file_name().unwrap_or_default().to_string_lossy();
            let lines = tree::differences(expected, &tree::read(at), view);
            found.extend(lines.iter().map(|line| format!("{name}, {what}: {line}")));
        }
        for (file, expected) in &self.open {
            let mut bytes = vec![0; expected.len() + 1];
            let len = file.read_at(&mut bytes, 0).expect("read");
            if len != expected.len() || bytes[..len] != **expected {
                found.push(format!("an open file beside, {what}"));
            }
        }
        found
    }

    fn same(&self, what: &str) {
        let found = self.differences(&View::exact(), what);
        assert!(found.is_empty(), "{}", found.join("\n"));
    }

    /// Looks at them again and again while something is done, and once more when it is over.
    fn while_doing(&self, what: &str, act: impl FnOnce()) {
        self.same(&format!("before {what}"));
        let done = AtomicBool::new(false);
        let during = std::thread::scope(|scope| {
            let looker = scope.spawn(|| {
                // Files that get other attributes and keep their bytes are changed in place: see "What apply does" in docs/SEMANTICS.md.
                let view = View::new(&["moded", "timed", "attributed"], &[], Mtimes::Exact);
                let mut found = Vec::new();
                while found.is_empty() && !done.load(Ordering::Acquire) {
                    found = self.differences(&view, &format!("during {what}"));
                }
                found
            });
            // Also when it fails: the other thread is waited for.
            let ended = Done(&done);
            act();
            drop(ended);
            looker.join().expect("it looks only")
        });
        self.same(&format!("after {what}"));
        assert!(during.is_empty(), "{}", during.join("\n"));
    }
}

struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn apply_and_its_undo_show_in_no_mount_beside() {
    if !can_mount() {
        return;
    }
    let stage = Stage::new();
    populate(stage.repo());
    let base = tree::read(stage.repo());
    stage.mount(&[]);
    assert_ok(&stage.run(&["snapshot", "--label", "start"]), "snapshot");
    // A timeline with changes of its own beside what it shows of the base, and one that has none.
    let other = stage.forked("other");
    write(other.join("changed-small"), "small, of the other\n");
    fs::rename(other.join("stays"), other.join("stayed")).expect("rename");
    fs::remove_file(other.join("goes/down/4")).expect("remove");
    fs::hard_link(other.join("moded"), other.join("moded-too")).expect("link");
    let plain = stage.forked("plain");
    // A snapshot between: with half of the work.
    write(stage.join("changed-small"), "half done\n");
    fs::remove_file(stage.join("timed")).expect("remove");
    fs::rename(stage.join("stays/1"), stage.join("one")).expect("rename");
    assert_ok(&stage.run(&["snapshot", "--label", "half"]), "snapshot");
    write(stage.join("timed"), "again\n");
    change(stage.root(), "main");
    let (start, half) =
        (stage.beside("start", &["--snapshot", "start"]), stage.beside("half", &["--snapshot", "half"]));
    let mine = tree::read(stage.root());
    let all = [&*other, &*plain, &*start, &*half];
    let mut shown = Shown::of(&all);
    tree::assert_same(&base, &shown.mounts[2].1, &View::exact(), "the first snapshot is the base");

    for round in 0..2 {
        for command in [&["apply"][..], &["undo"], &["redo"], &["undo"]] {
            let what = format!("{} ({round})", command[0]);
            shown.while_doing(&what, || assert_ok(&stage.run(command), &what));
            tree::assert_same(&mine, &tree::read(stage.root()), &View::exact(), &format!("in place, after {what}"));
            let applied = matches!(command[0], "apply" | "redo");
            let shows = stage.run(&["show", "base:moved/in/3"]).status.success();
            assert_eq!(shows, applied, "the repository after {what}");
        }
        // And once more with nothing of it in anybody's memory.
        shown = remounted(&stage, &all, shown, (round, &base));
        tree::assert_same(&mine, &tree::read(stage.root()), &View::exact(), "in place, after a remount");
    }
    // Applied for good.
    shown.while_doing("the last apply", || assert_ok(&stage.run(&["apply"]), "apply"));
    let Shown { mounts, open } = remounted(&stage, &all, shown, (2, &mine));
    drop(open);
    tree::assert_same(&own(&mine), &own(&tree::read(stage.root())), &View::exact(), "in place, after the last remount");
    // What is beside goes on by itself, from what it shows.
    change(&plain, "plain");
    let changed = tree::read(&plain);
    mounts.iter().filter(|(at, _)| *at != plain).for_each(|(at, expected)| {
        tree::assert_same(expected, &tree::read(at), &View::exact(), "after changes in another one");
    });
    stage.unmount();
    stage.assert_whole();
    on_disk(&stage, &mine, "the repository is what was applied");
    let plain = stage.beside("plain", &["--timeline", "plain"]);
    tree::assert_same(&changed, &tree::read(&plain), &View::exact(), "the timeline that went on");
}

/// Unmounts everything, mounts it again, and finds in the mounts beside what was there.
fn remounted(stage: &Stage, all: &[&Path], shown: Shown, (round, base): (usize, &Tree)) -> Shown {
    let Shown { mounts, open } = shown;
    drop(open);
    stage.unmount();
    assert!(all.iter().all(|at| !is_mounted(at)));
    on_disk(stage, base, &format!("the repository, {round}"));
    // Those beside are there first, once.
    if round != 1 {
        stage.mount(&[]);
    }
    for at in all {
        let name = at.file_name().and_then(OsStr::to_str).expect("UTF-8");
        let what = if matches!(name, "start" | "half") { "--snapshot" } else { "--timeline" };
        stage.beside(name, &[what, name]);
    }
    if round == 1 {
        stage.mount(&[]);
    }
    for (at, expected) in &mounts {
        let what = format!("{}, after remount {round}", at.display());
        tree::assert_same(expected, &tree::read(at), &View::exact(), &what);
    }
    Shown::of(all)
}

/// What the repository has, times apart.
fn on_disk(stage: &Stage, expected: &Tree, what: &str) {
    tree::assert_same(expected, &tree::read(stage.repo()), &View::but_times(), what);
}

/// A tree without what directories that were applied take over from the base when they are looked up anew: their times and link counts.
fn own(tree: &Tree) -> Tree {
    let mut tree = tree.clone();
    for entry in tree.values_mut().filter(|entry| entry.kind == "directory") {
        (entry.nlink, entry.mtime) = (0, (0, 0));
    }
    tree
}
