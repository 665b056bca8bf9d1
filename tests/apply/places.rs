//! Bases that are not just a directory on a disk: full, covered by a mount, with mounts in them, on overlayfs, read-only, immutable.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path as FsPath, PathBuf};
use std::process::Command;

use regentfs::apply::{self, Applied, ContentId, Error, Found, Make, Plan, Resumed, Site};
use regentfs::store::fault::{self, Action};
use regentfs::types::{Errno, Path};

use crate::common::{self, MountedRepo};
use crate::fixture::{Bytes, Fixture, ID, Kept, Sparse, calm, error, meta, same, turn};
use crate::work;

/// Something mounted, until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(arguments: &[&str], at: &FsPath) -> Mounted {
        let output = Command::new("mount").args(arguments).arg(at).output().expect("run mount");
        common::assert_ok(&output, &format!("mount {arguments:?}"));
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

fn root_only(what: &str) -> bool {
    if common::plain_user() {
        common::leave_to_root(what);
    }
    !common::plain_user()
}

fn file(content: u64) -> Make {
    Make::File { content: ContentId(content), meta: meta(0o644, 9) }
}

fn bytes() -> Bytes {
    Bytes::of(&[(1, b"new")])
}

#[test]
fn a_full_disk_stops_it_before_anything_happens() {
    let _turn = turn();
    if !root_only("a disk of its own, to fill it") {
        return;
    }
    let f = Fixture::new();
    let _disk = Mounted::new(&["-t", "tmpfs", "-o", "size=1m", "none"], &f.base);
    fs::create_dir(f.path("d")).unwrap();
    for name in ["a", "b", "d/c"] {
        fs::write(f.path(name), vec![7; 100_000]).unwrap();
    }
    let before = calm(f.tree());
    let mut source = bytes();
    source.files.insert(2, Sparse::from(&vec![1; 300_000][..]));
    let steps = || {
        vec![
            f.step("a", file(2)),
            f.step("b", Make::Remove),
            f.step("d/c", file(2)),
            f.step("d/e/f", file(2)),
            f.step("d/e", Make::Dir { meta: meta(0o755, 9) }),
        ]
    };
    match error(f.apply(steps(), &source)) {
        Error::Base { errno, .. } => assert_eq!(errno, Errno::ENOSPC),
        other => panic!("{other}"),
    }
    same(&before, &calm(f.tree()), "a full disk");
    f.is_over();
    // With a little less it works: the temporary files were really gone.
    source.files.insert(2, Sparse::from(&vec![1; 200_000][..]));
    f.must(steps(), &source);
    assert_eq!(f.path("d/e/f").metadata().unwrap().len(), 200_000);
}

#[test]
fn a_base_under_a_mount_is_changed_where_it_is() {
    let _turn = turn();
    if !common::can_mount() {
        return;
    }
    let after = Fixture::new();
    work::after(&after.base);
    let f = Fixture::new();
    work::before(&f.base);
    let steps = work::plan(&f);
    let root = f.root();
    // The mount needs a directory of its own to own; this one is only borrowed.
    let scratch = common::scratch();
    fs::rename(&f.base, scratch.path().join("repo")).unwrap();
    let mounted = MountedRepo::in_dir(scratch, "auto");
    let shown = mounted.join("file").metadata().unwrap();
    let outcome = f.apply_with(&root, steps, &work::source(), &mut Kept::default(), &mut ()).unwrap();
    let Applied::Done(outcome) = outcome else { panic!("{outcome:?}") };
    assert_eq!(outcome.conflicts, []);
    let site = Site { store: &f.store, root: &root };
    assert_eq!(apply::finish(site).unwrap(), []);
    assert!(common::is_mounted(mounted.path()));
    assert_eq!(mounted.join("file").metadata().unwrap().len(), shown.len(), "the mount has it in its cache");
    mounted.unmount();
    fs::rename(mounted.path(), &f.base).unwrap();
    same(&after.tree(), &f.tree(), "the base under the mount");
    f.is_over();
    // For MountedRepo, which removes it.
    fs::create_dir(mounted.path()).unwrap();
}

#[test]
fn mounts_inside_the_base_stay_and_can_be_worked_in() {
    let _turn = turn();
    if !root_only("mounts inside the base") {
        return;
    }
    let f = Fixture::new();
    fs::create_dir_all(f.path("m/n")).unwrap();
    fs::write(f.path("here"), "here").unwrap();
    fs::write(f.path("over"), "").unwrap();
    let _disk = Mounted::new(&["-t", "tmpfs", "-o", "size=1m", "none"], &f.path("m"));
    fs::create_dir(f.path("m/sub")).unwrap();
    fs::write(f.path("m/old"), "old").unwrap();
    // One that is mounted on a file.
    let _bind = Mounted::new(&["--bind", f.path("here").to_str().unwrap()], &f.path("over"));
    let before = f.tree();
    let steps = vec![
        f.step("m", Make::Remove),
        f.step("m/sub", Make::Remove),
        f.step("m/old", Make::Remove),
        f.step("over", file(1)),
    ];
    let Ok(Applied::Refused(conflicts)) = f.apply(steps, &bytes()) else { panic!("not refused") };
    let found: Vec<_> = conflicts.iter().map(|c| (c.path.as_bytes(), c.found)).collect();
    let busy = Found::Refused(Errno::EBUSY);
    assert_eq!(found, [(&b"m"[..], busy), (b"over", busy)]);
    // No name leads to another file system.
    let steps = vec![f.step("m/linked", Make::Link { to: Path::new(b"here") }), f.step("here", Make::Keep)];
    let Ok(Applied::Refused(conflicts)) = f.apply(steps, &bytes()) else { panic!("not refused") };
    assert_eq!(conflicts[0].found, Found::Refused(Errno::EXDEV));
    let steps = vec![f.step("m/linked", Make::Link { to: Path::new(b"new") }), f.step("new", file(1))];
    assert!(matches!(error(f.apply(steps, &bytes())), Error::Base { errno: Errno::EXDEV, .. }));
    same(&calm(before), &calm(f.tree()), "mounts inside the base");
    // The rest is work like any other.
    f.must(
        vec![
            f.step("m", Make::Dir { meta: meta(0o711, 9) }),
            f.step("m/old", file(1)),
            f.step("m/sub", Make::Remove),
            f.step("m/new/x", file(1)),
            f.step("m/new", Make::Dir { meta: meta(0o755, 9) }),
            f.step("m/new/again", Make::Link { to: Path::new(b"m/old") }),
        ],
        &bytes(),
    );
    assert_eq!(fs::read(f.path("m/new/x")).unwrap(), b"new");
    assert_eq!(f.path("m").metadata().unwrap().mode() & 0o7777, 0o711);
    assert_eq!(fs::read(f.path("m/new/again")).unwrap(), b"new");
}

/// A base that is an overlayfs over what `work` begins with: everything is in the lower layer, and changes when it is first touched.
fn on_overlayfs(option: &str) -> (Fixture, Mounted) {
    let f = Fixture::new();
    for layer in ["lower", "upper", "work"] {
        fs::create_dir(f.dir.path().join(layer)).unwrap();
    }
    work::before(&f.dir.path().join("lower"));
    let of = |layer: &str| f.dir.path().join(layer).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={},{option}", of("lower"), of("upper"), of("work"));
    let merged = Mounted::new(&["-t", "overlay", "-o", &options, "none"], &f.base);
    (f, merged)
}

#[test]
fn a_base_on_overlayfs_whose_files_get_other_birth_times() {
    let _turn = turn();
    if !root_only("overlayfs") {
        return;
    }
    let after = Fixture::new();
    work::after(&after.base);
    // overlayfs counts the links of directories as it likes.
    let links = |mut tree: common::tree::Tree| {
        tree.values_mut().filter(|e| e.kind == "directory").for_each(|e| e.nlink = 0);
        tree
    };
    for (point, nth) in ["apply.step.half", "apply.step.after"].iter().flat_map(|p| [1, 3, 8, 21, 34].map(|n| (p, n))) {
        let (f, _merged) = on_overlayfs("index=on");
        fault::arm(point, nth, Action::Error);
        let result = f.apply(work::plan(&f), &work::source());
        assert!(fault::disarm(), "{point}:{nth}");
        assert!(matches!(result, Err(Error::Unfinished(_))), "{result:?}");
        let root = f.root();
        let site = Site { store: &f.store, root: &root };
        let outcome = match apply::resume(site, &mut ()) {
            Ok(Some(Resumed::Committed { outcome, .. })) => outcome,
            other => panic!("{other:?}"),
        };
        assert_eq!(outcome.conflicts, [], "{point}:{nth}");
        assert_eq!(apply::finish(site).unwrap(), []);
        same(&links(after.tree()), &links(f.tree()), &format!("overlayfs, {point}:{nth}"));
        f.is_over();
    }
}

#[test]
fn names_that_overlayfs_tears_apart_are_left_alone() {
    let _turn = turn();
    if !root_only("overlayfs") {
        return;
    }
    // Without the index, a file with several names becomes several files when it is first touched.
    let (f, _merged) = on_overlayfs("index=off");
    let before = f.tree();
    let Ok(Applied::Done(outcome)) = f.apply(work::plan(&f), &work::source()) else { panic!("not applied") };
    let left: Vec<_> = outcome.conflicts.iter().map(|c| c.path.to_string()).collect();
    assert_eq!(left, ["name1", "name2", "name3", "name4"]);
    let root = f.root();
    assert_eq!(apply::finish(Site { store: &f.store, root: &root }).unwrap(), []);
    let now = f.tree();
    for name in ["name1", "name2", "name3", "name4"] {
        assert_eq!(now[name.as_bytes()].content, before[name.as_bytes()].content, "{name} has its bytes");
    }
    f.is_over();
}

#[test]
fn what_the_file_system_forbids_is_found_before_anything_happens() {
    let _turn = turn();
    if !root_only("a read-only mount, chattr") {
        return;
    }
    let f = Fixture::new();
    fs::create_dir(f.path("d")).unwrap();
    fs::write(f.path("d/x"), "x").unwrap();
    fs::write(f.path("y"), "y").unwrap();
    let steps =
        || vec![f.step("d/x", file(1)), f.step("y", Make::Meta { meta: meta(0o600, 9) }), f.step("d/z", file(1))];
    let refused = |what: &str| match f.apply(steps(), &bytes()) {
        Ok(Applied::Refused(conflicts)) => conflicts.iter().map(|c| (c.path.to_string(), c.found)).collect::<Vec<_>>(),
        other => panic!("{what}: {other:?}"),
    };
    let chattr = |flag: &str, path: &str| {
        let output = Command::new("chattr").arg(flag).arg(f.path(path)).output().expect("run chattr");
        common::assert_ok(&output, "chattr");
    };
    let perm = Found::Refused(Errno::EPERM);
    chattr("+i", "d");
    chattr("+a", "y");
    let found = refused("chattr");
    chattr("-i", "d");
    chattr("-a", "y");
    let owned = |list: &[(&str, Found)]| list.iter().map(|(p, f)| (p.to_string(), *f)).collect::<Vec<_>>();
    assert_eq!(found, owned(&[("d/x", perm), ("y", perm), ("d/z", perm)]));
    f.is_over();

    let rofs = Found::Refused(Errno::EROFS);
    let path = f.base.to_str().unwrap().to_owned();
    let _bind = Mounted::new(&["--bind", "-o", "ro", &path], &f.base);
    let found = refused("a read-only mount");
    assert_eq!(found, owned(&[("d/x", rofs), ("y", rofs), ("d/z", rofs)]));
    f.is_over();
}

#[test]
fn a_machine_that_starts_anew_may_give_other_device_numbers() {
    let _turn = turn();
    if !root_only("another mount of the same file system") {
        return;
    }
    // The same image, mounted by way of two loop devices one after the other.
    let f = Fixture::new();
    let image = f.dir.path().join("image");
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let output = Command::new("mkfs.ext4").args(["-q", "-F", "-I", "256"]).arg(&image).output().expect("run mkfs.ext4");
    common::assert_ok(&output, "mkfs.ext4");
    let copy = image.to_str().unwrap().to_owned();
    let first = Mounted::new(&["-o", "loop", &copy], &f.base);
    fs::remove_dir(f.path("lost+found")).unwrap();
    work::before(&f.base);
    let old = f.seen("").dev;
    fault::arm("apply.step", 20, Action::Error);
    let result = f.apply(work::plan(&f), &work::source());
    assert!(fault::disarm() && matches!(result, Err(Error::Unfinished(_))), "{result:?}");
    let output = Command::new("umount").arg(&f.base).output().expect("run umount");
    common::assert_ok(&output, "umount");
    drop(first);
    // Takes the first loop device away.
    let other = f.dir.path().join("other");
    fs::write(&other, vec![0; 1 << 20]).unwrap();
    let losetup = |arguments: &[&str]| {
        let output = Command::new("losetup").args(arguments).output().expect("run losetup");
        common::assert_ok(&output, "losetup");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let device = losetup(&["--find", "--show", other.to_str().unwrap()]);
    let second = Mounted::new(&["-o", "loop", &copy], &f.base);
    losetup(&["-d", &device]);
    assert_ne!(f.seen("").dev, old, "the test needs another device number");
    let root = f.root();
    let site = Site { store: &f.store, root: &root };
    let resumed = apply::resume(site, &mut ());
    let Ok(Some(Resumed::Committed { outcome, plan })) = resumed else { panic!("{resumed:?}") };
    assert_eq!(outcome.conflicts, []);
    assert_eq!(plan.steps.len(), outcome.done.len());
    apply::finish(site).unwrap();
    let after = Fixture::new();
    work::after(&after.base);
    same(&after.tree(), &f.tree(), "on another device");
    drop(root);
    drop(second);
}

#[test]
fn a_store_that_cannot_be_written_to_stops_it() {
    let _turn = turn();
    let f = Fixture::new();
    fs::write(f.path("x"), "old").unwrap();
    let before = f.tree();
    let root = f.root();
    let nowhere = f.dir.path().join("nowhere");
    let site = Site { store: &nowhere, root: &root };
    let plan = Plan { id: ID, steps: vec![f.step("x", file(1))] };
    let result = apply::apply(site, plan, &bytes(), &mut Kept::default(), &mut ());
    assert!(matches!(error(result), Error::Unfinished(_) | Error::Store(_)));
    same(&before, &f.tree(), "no store");
}
