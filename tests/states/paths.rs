//! Bringing single paths back to a past state: what was asked for is as it was, the rest as it is.

use std::fs;

use regentfs::engine::{Caller, Config, Engine, Mode};
use regentfs::timeline::TimeError;
use regentfs::types::{Kind, Time};

use super::scene::{Scene, part, same};

/// A base with a bit of everything.
fn base(repo: &std::path::Path) {
    for dir in ["d/sub/deep", "e"] {
        fs::create_dir_all(repo.join(dir)).unwrap();
    }
    for (path, text) in [
        ("top", "top\n"),
        ("d/f", "one\n"),
        ("d/g", "two\n"),
        ("d/sub/h", "three\n"),
        ("d/sub/deep/i", "four\n"),
        ("e/x", "five\n"),
    ] {
        fs::write(repo.join(path), text).unwrap();
    }
    fs::hard_link(repo.join("e/x"), repo.join("e/y")).unwrap();
    std::os::unix::fs::symlink("top", repo.join("link")).unwrap();
}

fn scene() -> Scene {
    Scene::new(base)
}

/// Restores paths after `change`, from before it, and holds the result against what was there before and after.
fn back(change: impl FnOnce(&Scene), paths: &[&str]) -> Scene {
    let scene = scene();
    check_back(&scene, change, paths);
    scene
}

fn check_back(scene: &Scene, change: impl FnOnce(&Scene), paths: &[&str]) {
    let before = scene.shot();
    let at = scene.snapshot();
    change(scene);
    let changed = scene.shot();
    let moved = scene.restore(Some(at), paths);
    let now = scene.shot();
    same(&part(&before.tree, paths, true), &part(&now.tree, paths, true), "what was asked for");
    let mut rest = part(&now.tree, paths, false);
    let expected = part(&changed.tree, paths, false);
    // Directories above may have been made again.
    rest.retain(|path, _| expected.contains_key(path) || !paths.iter().any(|p| p.starts_with(&format!("{path}/"))));
    same(&expected, &rest, "what was not asked for");
    // Files are the same ones, unless they live on elsewhere.
    for (path, ino) in &now.ino {
        let was = before.ino.get(path) == Some(ino) || changed.ino.get(path) == Some(ino);
        let copied = before.ino.get(path).is_some_and(|ino| now.ino.iter().any(|(p, i)| p != path && i == ino));
        let parent_made = !changed.ino.contains_key(path) && !paths.iter().any(|p| path.starts_with(p));
        let unshared = now.nlink.get(path) != before.nlink.get(path);
        assert!(was || copied || parent_made || unshared, "{path} has the new number {ino}");
    }
    // Once more changes nothing.
    let there: Vec<&str> = paths.iter().copied().filter(|path| scene.exists(path)).collect();
    let times = if there.is_empty() { 1 } else { 2 };
    if !there.is_empty() {
        let again = scene.restore(Some(at), &there);
        assert_eq!(again.paths, [], "after {:?}", moved.paths);
        assert_eq!(scene.shot().ino, now.ino);
    }
    // Undo of both is where it began.
    for _ in 0..times {
        scene.machine.undo(&scene.ctx(), regentfs::timeline::undo::Direction::Undo, false, &[]).unwrap();
        scene.verify();
    }
    same(&changed.tree, &scene.tree(), "after undo");
    assert_eq!(scene.shot().ino, changed.ino, "numbers after undo");
    for _ in 0..times {
        scene.machine.undo(&scene.ctx(), regentfs::timeline::undo::Direction::Redo, false, &[]).unwrap();
        scene.verify();
    }
    same(&now.tree, &scene.tree(), "after redo");
}

#[test]
fn a_changed_file() {
    let scene = back(|s| s.write("top", "other\n"), &["top"]);
    assert_eq!(scene.text("top"), "top\n");
    back(|s| s.append("d/f", "more"), &["d/f"]);
    back(|s| s.append("d/f", "more"), &["d"]);
    back(|s| s.save("d/f", "saved"), &["d/f"]);
    // And only that one.
    let scene = back(
        |s| {
            s.append("d/f", "more");
            s.append("d/g", "more");
        },
        &["d/f"],
    );
    assert_eq!((scene.text("d/f"), scene.text("d/g")), ("one\n".into(), "two\nmore".into()));
}

#[test]
fn a_born_file() {
    let scene = scene();
    scene.write("d/new", "born");
    check_back(&scene, |s| s.append("d/new", " and raised"), &["d/new"]);
    check_back(&scene, |s| s.remove("d/new"), &["d/new"]);
    check_back(&scene, |s| s.save("d/new", "another"), &["d/new"]);
    check_back(&scene, |s| s.rename("d/new", "moved"), &["d/new"]);
    check_back(&scene, |s| s.remove("d"), &["d/new"]);
}

#[test]
fn a_deleted_file() {
    let scene = back(|s| s.remove("d/f"), &["d/f"]);
    assert_eq!(scene.ino("d/f"), fs::metadata(scene.repo.join("d/f")).map(|m| ino_of(&m)).unwrap());
    back(|s| s.remove("d/f"), &["d"]);
    back(|s| s.remove("link"), &["link"]);
}

fn ino_of(meta: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(meta)
}

#[test]
fn an_added_file() {
    let scene = back(|s| s.write("d/new", "new"), &["d/new"]);
    assert!(!scene.exists("d/new"));
    back(|s| s.write("d/new", "new"), &["d"]);
    back(
        |s| {
            s.mkdir("d/n");
            s.write("d/n/new", "new");
            s.symlink("d/n/link", "new");
            s.try_make("d/n/pipe", Kind::Fifo, None).unwrap();
        },
        &["d/n"],
    );
}

#[test]
fn a_file_renamed_away_comes_back_as_a_copy() {
    let scene = back(|s| s.rename("d/f", "moved"), &["d/f"]);
    assert_eq!((scene.text("d/f"), scene.text("moved")), ("one\n".into(), "one\n".into()));
    assert_ne!(scene.ino("d/f"), scene.ino("moved"));
    // They are two files.
    scene.append("moved", "more");
    scene.append("d/f", "less");
    assert_eq!((scene.text("d/f"), scene.text("moved")), ("one\nless".into(), "one\nmore".into()));
    scene.verify();
    // With changes, of before and after.
    let scene = self::scene();
    scene.append("d/f", "before\n");
    check_back(
        &scene,
        |s| {
            s.rename("d/f", "moved");
            s.append("moved", "after\n");
        },
        &["d/f"],
    );
    assert_eq!((scene.text("d/f"), scene.text("moved")), ("one\nbefore\n".into(), "one\nbefore\nafter\n".into()));
    scene.append("d/f", "x");
    scene.append("moved", "y");
    assert_eq!((scene.text("d/f"), scene.text("moved")), ("one\nbefore\nx".into(), "one\nbefore\nafter\ny".into()));
    scene.verify();
}

#[test]
fn a_file_moved_back_keeps_its_number() {
    let scene = back(|s| s.rename("d/f", "a"), &["a", "d/f"]);
    let number = ino_of(&fs::metadata(scene.repo.join("d/f")).unwrap());
    assert_eq!(scene.ino("d/f"), number);
    let scene = back(|s| s.rename("d/f", "z"), &["d/f", "z"]);
    assert_eq!(scene.ino("d/f"), number_of(&scene, "d/f"));
    // Two that changed places.
    let scene = back(
        |s| {
            s.rename("d/f", "t");
            s.rename("d/g", "d/f");
            s.rename("t", "d/g");
        },
        &["d/f", "d/g"],
    );
    assert_eq!((scene.ino("d/f"), scene.ino("d/g")), (number_of(&scene, "d/f"), number_of(&scene, "d/g")));
}

fn number_of(scene: &Scene, path: &str) -> u64 {
    ino_of(&fs::symlink_metadata(scene.repo.join(path)).unwrap())
}

#[test]
fn a_deleted_directory() {
    for paths in [&["d"][..], &["d/sub"], &["d/f"], &["d/sub/deep/i"], &["d/sub/deep"], &["d/g", "d/sub/h"]] {
        let scene = back(|s| s.remove("d"), paths);
        for path in paths {
            assert_eq!(scene.ino(path), number_of(&scene, path), "{path}");
        }
    }
    for paths in [&["d"][..], &["d/n"], &["d/n/m/b"], &["d/n/a"], &["d/sub"]] {
        let scene = self::scene();
        scene.mkdir("d/n");
        scene.mkdir("d/n/m");
        scene.write("d/n/a", "a");
        scene.write("d/n/m/b", "b");
        scene.append("d/sub/h", "more");
        check_back(&scene, |s| s.remove("d"), paths);
    }
}

#[test]
fn a_directory_made_again_by_somebody_else() {
    let again = |s: &Scene| {
        s.remove("d");
        s.mkdir("d");
        s.write("d/f", "other");
        s.write("d/new", "new");
    };
    let scene = back(again, &["d"]);
    assert_eq!(scene.ino("d"), number_of(&scene, "d"));
    back(again, &["d/f"]);
    back(again, &["d/sub/h"]);
    back(again, &["d/f", "d/new"]);
}

#[test]
fn a_directory_replaced_by_a_file_and_back() {
    let replaced = |s: &Scene| {
        s.remove("d");
        s.write("d", "a file");
    };
    back(replaced, &["d"]);
    let scene = scene();
    check_back(
        &scene,
        |s| {
            s.remove("top");
            s.mkdir("top");
            s.write("top/inside", "x");
        },
        &["top"],
    );
    let at = scene.snapshot();
    replaced(&scene);
    let before = scene.tree();
    match scene.try_restore(Some(at), &["d/f"]) {
        Err(TimeError::Refused(why)) => assert!(why.contains("d is in the way"), "{why}"),
        other => panic!("{other:?}"),
    }
    same(&before, &scene.tree(), "after the refusal");
    scene.verify();
}

#[test]
fn symbolic_links_and_special_files() {
    let scene = back(
        |s| {
            s.remove("link");
            s.symlink("link", "elsewhere");
        },
        &["link"],
    );
    assert_eq!(scene.ino("link"), number_of(&scene, "link"));
    back(|s| s.rename("link", "d/link"), &["link"]);
    back(
        |s| {
            s.remove("link");
            s.write("link", "text");
        },
        &["link"],
    );
    scene.try_make("pipe", Kind::Fifo, None).unwrap();
    scene.symlink("born", "somewhere");
    check_back(
        &scene,
        |s| {
            s.remove("pipe");
            s.remove("born");
        },
        &["pipe", "born"],
    );
    check_back(&scene, |s| s.rename("pipe", "d/pipe"), &["pipe"]);
    check_back(&scene, |s| s.rename("born", "d/born"), &["born"]);
}

#[test]
fn modes_attributes_and_times() {
    let scene = back(|s| s.chmod("top", 0o600), &["top"]);
    assert_eq!(scene.find("top").unwrap().attr().perm, 0o644);
    back(|s| s.chmod("d", 0o700), &["d"]);
    back(|s| s.setxattr("top", "user.a", "1"), &["top"]);
    back(|s| s.setxattr("d", "user.a", "1"), &["d"]);
    back(
        |s| {
            s.setxattr("d/sub", "user.a", "1");
            s.chmod("d/sub", 0o711);
            s.remove("d");
        },
        &["d/sub/h"],
    );
    let scene = self::scene();
    scene.setxattr("d", "user.a", "1");
    scene.setxattr("d/f", "user.a", "1");
    check_back(
        &scene,
        |s| {
            s.remove("d");
            s.write("d", "x");
        },
        &["d"],
    );
    check_back(&scene, |s| s.rename("d", "moved"), &["d"]);
    check_back(&scene, |s| s.setxattr("d/f", "user.a", "2"), &["d/f"]);
    // The time of a file is that of its bytes; that of a directory is now.
    let time = Time::new(1_000_000_000, 5);
    scene.touch("top", time);
    let at = scene.snapshot();
    scene.append("top", "more");
    scene.restore(Some(at), &["top"]);
    assert_eq!(scene.find("top").unwrap().attr().mtime, time);
}

#[test]
fn names_of_one_file_in_the_base() {
    // Changed under both names: both get it back, and stay one file.
    let scene = back(|s| s.append("e/x", "more"), &["e/x", "e/y"]);
    assert_eq!(scene.ino("e/x"), scene.ino("e/y"));
    let scene = back(|s| s.append("e/x", "more"), &["e"]);
    assert_eq!(scene.ino("e/x"), scene.ino("e/y"));
    // Asked for one: the other stays as it is, so they are two from then on.
    let scene = back(|s| s.append("e/x", "more"), &["e/x"]);
    assert_eq!((scene.text("e/x"), scene.text("e/y")), ("five\n".into(), "five\nmore".into()));
    // A name that was taken away is one of the same file again.
    for path in ["e/x", "e/y"] {
        let scene = back(|s| s.remove(path), &[path]);
        assert_eq!(scene.ino("e/x"), scene.ino("e/y"));
    }
    let scene = back(|s| s.remove("e"), &["e/y", "e/x"]);
    assert_eq!(scene.ino("e/x"), scene.ino("e/y"));
    back(|s| s.remove("e"), &["e/y"]);
    // Unless that was changed since.
    let scene = back(
        |s| {
            s.remove("e/x");
            s.append("e/y", "more");
        },
        &["e/x"],
    );
    assert_ne!(scene.ino("e/x"), scene.ino("e/y"));
    back(|s| s.link("e/x", "d/z"), &["d/z"]);
    back(|s| s.link("e/x", "d/z"), &["e"]);
    back(|s| s.rename("e", "d/e"), &["e"]);
    back(|s| s.rename("e/x", "d/x"), &["e/x"]);
    back(|s| s.rename("e/x", "d/x"), &["e/x", "d/x"]);
}

#[test]
fn names_of_one_born_file() {
    let scene = scene();
    scene.write("a", "text\n");
    scene.link("a", "d/b");
    scene.link("top", "d/top");
    for paths in [&["a", "d/b"][..], &["a"], &["d/b"], &["d"]] {
        check_back(&scene, |s| s.append("a", "more"), paths);
        scene.restore_all_links();
    }
    for path in ["a", "d/b"] {
        check_back(&scene, |s| s.remove(path), &[path]);
        assert_eq!(scene.ino("a"), scene.ino("d/b"));
    }
    check_back(&scene, |s| s.remove("d"), &["d"]);
    assert_eq!(scene.ino("a"), scene.ino("d/b"));
    check_back(
        &scene,
        |s| {
            s.remove("a");
            s.remove("d/b");
        },
        &["a", "d/b"],
    );
    assert_eq!(scene.ino("a"), scene.ino("d/b"));
    check_back(&scene, |s| s.rename("a", "c"), &["a"]);
    check_back(&scene, |s| s.remove("top"), &["top"]);
    assert_eq!(scene.ino("top"), scene.ino("d/top"));
}

impl Scene {
    /// Makes `a` and `d/b` one file again.
    fn restore_all_links(&self) {
        if self.ino("a") != self.ino("d/b") {
            self.remove("d/b");
            self.link("a", "d/b");
        }
        self.write("a", "text\n");
    }
}

/// Only which names are one file is different: that is brought back as well, whatever else was changed since.
#[test]
fn names_are_one_file_again_after_undo_and_rewind() {
    for parted in [false, true] {
        let scene = scene();
        scene.write("a", "text\n");
        scene.link("a", "d/b");
        let linked = scene.snapshot();
        scene.remove("d/b");
        scene.write("d/b", "text\n");
        let apart = scene.snapshot();
        let (from, to) = if parted { (linked, apart) } else { (apart, linked) };
        scene.restore(Some(from), &[]);
        let moved = scene.restore(Some(to), &[]);
        assert_ne!(moved.paths, [], "a rewind that only parts or joins names says so");
        assert_eq!(scene.ino("a") == scene.ino("d/b"), !parted);
        scene.write("else", "somebody goes on\n");
        scene.machine.undo(&scene.ctx(), regentfs::timeline::undo::Direction::Undo, false, &[]).unwrap();
        scene.verify();
        assert_eq!(scene.ino("a") == scene.ino("d/b"), parted);
        assert!(scene.exists("else"));
        // One path alone.
        scene.restore(Some(to), &["d/b"]);
        assert_eq!(scene.ino("a") == scene.ino("d/b"), !parted);
        assert_eq!(scene.restore(Some(to), &["d/b"]).paths, []);
    }
}

#[test]
fn names_outside_of_the_repository_count_as_links_only() {
    let scene = Scene::new(|repo| {
        fs::create_dir(repo.join("d")).unwrap();
        fs::write(repo.join("d/f"), "x").unwrap();
        fs::hard_link(repo.join("d/f"), repo.parent().unwrap().join("outside")).unwrap();
    });
    let at = scene.snapshot();
    scene.remove("d/f");
    scene.try_restore(Some(at), &["d/f"]).unwrap();
    assert_eq!((scene.ino("d/f"), scene.find("d/f").unwrap().attr().nlink), (number_of(&scene, "d/f"), 2));
    scene.rename("d/f", "f");
    scene.try_restore(Some(at), &["d/f"]).unwrap();
    assert_eq!((scene.text("f"), scene.text("d/f")), ("x".into(), "x".into()));
    assert_ne!(scene.ino("d/f"), scene.ino("f"));
}

#[test]
fn a_directory_moved_elsewhere_comes_back_as_a_copy() {
    let scene = back(|s| s.rename("d", "moved"), &["d"]);
    assert_eq!(scene.ino("moved"), number_of(&scene, "d"));
    assert_eq!(scene.ino("moved/sub/h"), number_of(&scene, "d/sub/h"));
    // Nothing done to one shows in the other.
    scene.append("moved/sub/h", "more");
    scene.remove("moved/sub/deep");
    scene.write("moved/new", "new");
    scene.append("d/f", "x");
    assert_eq!(scene.text("d/sub/h"), "three\n");
    assert_eq!(scene.text("d/sub/deep/i"), "four\n");
    assert!(!scene.exists("d/new"));
    assert_eq!(scene.text("moved/f"), "one\n");
    scene.verify();
    back(|s| s.rename("d", "e/moved"), &["d/sub"]);
    back(|s| s.rename("d", "e/moved"), &["d/sub/deep/i"]);
    back(|s| s.rename("d/sub", "sub"), &["d"]);
    // Both places: moved back.
    let scene = back(|s| s.rename("d", "moved"), &["d", "moved"]);
    assert_eq!((scene.ino("d"), scene.ino("d/sub/h")), (number_of(&scene, "d"), number_of(&scene, "d/sub/h")));
    // Into each other's place.
    let scene = back(
        |s| {
            s.rename("d", "t");
            s.rename("e", "d");
            s.rename("t", "e");
        },
        &["d", "e"],
    );
    assert_eq!((scene.ino("d"), scene.ino("e")), (number_of(&scene, "d"), number_of(&scene, "e")));
    // Below itself, in a way.
    let scene = back(
        |s| {
            s.rename("d", "t");
            s.mkdir("d");
            s.rename("t", "d/d");
        },
        &["d"],
    );
    assert_eq!(scene.ino("d"), number_of(&scene, "d"));
    back(
        |s| {
            s.rename("d/sub", "t");
            s.rename("d", "t/d");
            s.rename("t", "d");
        },
        &["d"],
    );
}

#[test]
fn what_changed_while_its_directory_was_elsewhere() {
    let away_and_back = |s: &Scene| {
        s.rename("d", "t");
        s.append("t/sub/h", "more");
        s.write("t/sub/new", "new");
        s.rename("t", "d");
    };
    let scene = back(away_and_back, &["d"]);
    assert_eq!(scene.text("d/sub/h"), "three\n");
    back(away_and_back, &["d/sub/h"]);
    back(away_and_back, &["d/sub"]);
    let deeper = |s: &Scene| {
        s.rename("d/sub", "e/sub");
        s.rename("e", "g");
        s.append("g/sub/h", "more");
        s.rename("g", "e");
        s.rename("e/sub", "d/sub");
    };
    back(deeper, &["d/sub"]);
    // Another name of a file whose directory was moved.
    let scene = self::scene();
    scene.link("top", "d/top");
    scene.rename("d", "moved");
    check_back(&scene, |s| s.append("top", "more"), &["moved/top", "top"]);
    assert_eq!(scene.ino("moved/top"), scene.ino("top"));
}

#[test]
fn from_the_base() {
    let scene = scene();
    let before = scene.tree();
    scene.append("d/f", "more");
    scene.remove("d/sub");
    scene.rename("top", "d/top");
    scene.write("d/new", "new");
    scene.restore(None, &["d"]);
    same(&part(&before, &["d"], true), &part(&scene.tree(), &["d"], true), "d");
    assert!(!scene.exists("top"));
    scene.restore(None, &["top"]);
    same(&before, &scene.tree(), "everything");
    assert_eq!(scene.ino("top"), number_of(&scene, "top"));
    scene.remove("e");
    scene.rename("d", "e");
    scene.restore(None, &["e", "d"]);
    same(&before, &scene.tree(), "everything");
}

#[test]
fn paths_below_each_other_and_the_root() {
    let scene = scene();
    let before = scene.tree();
    let at = scene.snapshot();
    scene.remove("d");
    scene.write("d.x", "x");
    scene.append("top", "more");
    scene.restore(Some(at), &["d/f", "d", "d.x", "d/sub/h"]);
    assert_eq!(scene.text("top"), "top\nmore");
    same(&part(&before, &["d"], true), &part(&scene.tree(), &["d", "d.x"], true), "d");
    scene.chmod("", 0o700);
    scene.restore(Some(at), &[""]);
    same(&before, &scene.tree(), "everything");
    assert_eq!(scene.overlay.root().attr().perm, 0o755);
    match scene.try_restore(Some(at), &["nothing/there"]) {
        Err(TimeError::Refused(why)) => assert!(why.contains("nothing/there"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_done_twice_for_a_copy() {
    let scene = scene();
    let at = scene.snapshot();
    scene.rename("d", "moved");
    scene.restore(Some(at), &["d"]);
    let numbers = scene.shot().ino;
    scene.restore(Some(at), &["d"]);
    assert_eq!(scene.shot().ino, numbers);
    // A copy that was changed is brought in line, whatever it is a copy of.
    scene.append("d/f", "more");
    scene.remove("d/sub/deep");
    scene.restore(Some(at), &["d"]);
    assert_eq!((scene.text("d/f"), scene.text("d/sub/deep/i")), ("one\n".into(), "four\n".into()));
    assert_eq!(scene.ino("moved"), number_of(&scene, "d"));
}

#[test]
fn an_open_file_keeps_its_bytes() {
    let scene = scene();
    let config = Config { mode: Mode::Off, live_base: false, connector: false, quiet: None };
    let engine = Engine::start(scene.store.clone(), scene.overlay.base().clone(), &config).unwrap();
    let overlay = engine.overlay();
    let caller = Caller { tid: 0, uid: 0, gid: 0 };
    let root = regentfs::types::Ino::ROOT;
    let open = |path: &str| {
        let ino = path.split('/').fold(root, |dir, name| {
            let found = overlay.inode(dir).and_then(|dir| overlay.lookup(&dir, name.as_bytes()).ok());
            let found = found.unwrap_or_else(|| panic!("{path}"));
            overlay.remember(&found);
            found.ino
        });
        (ino, engine.open(caller, ino, libc::O_RDWR).unwrap().handle)
    };
    let read = |handle| {
        let mut out = [0; 64];
        let len = engine.read(caller, handle, 0, &mut out, regentfs::engine::io::Fill::Direct).unwrap();
        String::from_utf8(out[..len].to_vec()).unwrap()
    };
    let write = |ino, text: &str| {
        let inode = overlay.inode(ino).unwrap();
        overlay
            .write(
                &scene.ctx(),
                &inode,
                &regentfs::overlay::ops::io::Write {
                    offset: 0,
                    data: text.as_bytes(),
                    append: false,
                    kill_ids: false,
                    handle: regentfs::types::HandleId(0),
                    op: regentfs::types::Op::Write,
                    known: regentfs::types::Known::Observed,
                },
            )
            .unwrap();
    };
    let rewind = |paths: &[&str], at| {
        let paths: Vec<_> = paths.iter().map(|p| regentfs::types::Path::new(p.as_bytes())).collect();
        let kind = regentfs::store::history::OpKind::Restore;
        engine.machine().rewind(&scene.ctx(), &scene.lineage(at), &paths, (kind, "a test"), &[]).unwrap()
    };
    let snapshot = || {
        let reason = regentfs::overlay::seal::Reason::new(regentfs::store::history::Why::Manual, "");
        let taken = engine.machine().snapshot(&scene.ctx(), &reason, &[], false).unwrap();
        regentfs::types::At { timeline: taken.timeline, epoch: taken.epoch }
    };
    // One that is changed: who has it open keeps the changed bytes.
    let at = snapshot();
    let (ino, handle) = open("top");
    write(ino, "TOP");
    let moved = rewind(&["top"], at);
    assert_eq!(moved.kept.len(), 1);
    assert_eq!(read(handle), "TOP\n");
    let now = scene.again();
    assert_eq!(now.text("top"), "top\n");
    assert_ne!(now.ino("top"), ino.0);
    now.verify();
    // What is written to it goes to nobody.
    write(ino, "XXX");
    assert_eq!((read(handle), scene.again().text("top")), ("XXX\n".into(), "top\n".into()));
    engine.release(handle);
    // Another name that was not asked for stays what it is.
    let at = snapshot();
    let (ino, handle) = open("e/x");
    write(ino, "FIVE");
    rewind(&["e/x"], at);
    let now = scene.again();
    assert_eq!((now.text("e/x"), now.text("e/y"), now.ino("e/y")), ("five\n".into(), "FIVE\n".into(), ino.0));
    assert_eq!(read(handle), "FIVE\n");
    now.verify();
    engine.release(handle);
    // Moved and changed, in a directory that was moved: found whatever its path was when it was changed.
    let at = snapshot();
    let (ino, handle) = open("d/sub/h");
    write(ino, "ONE");
    let dir = |path: &str| scene_dir(overlay, path);
    let spot = regentfs::overlay::ops::rename::Spot { dir: &dir(""), name: b"d" };
    let to = regentfs::overlay::ops::rename::Spot { dir: &dir("e"), name: b"d" };
    overlay.rename(&scene.ctx(), spot, to, regentfs::overlay::ops::rename::Rename::Replace).unwrap();
    write(ino, "TWO");
    let moved = rewind(&["d", "e"], at);
    assert_eq!(moved.kept.len(), 1, "{:?}", moved.kept);
    assert_eq!(read(handle), "TWOee\n");
    let now = scene.again();
    assert_eq!(now.text("d/sub/h"), "three\n");
    now.verify();
    engine.release(handle);
    // One that was deleted, and is open: its number lives again, with its bytes.
    let at = snapshot();
    let (ino, handle) = open("d/g");
    overlay.unlink(&scene.ctx(), &dir("d"), b"g").unwrap();
    rewind(&["d/g"], at);
    assert_eq!(
        (read(handle), scene.again().text("d/g"), scene.again().ino("d/g")),
        ("two\n".into(), "two\n".into(), ino.0)
    );
    // Unless it was written to without a name.
    overlay.unlink(&scene.ctx(), &dir("d"), b"g").unwrap();
    write(ino, "TWO");
    rewind(&["d/g"], at);
    assert_eq!((read(handle), scene.again().text("d/g")), ("TWO\n".into(), "two\n".into()));
    engine.release(handle);
    scene.again().verify();
    engine.stop();
}

fn scene_dir(
    overlay: &std::sync::Arc<regentfs::overlay::Overlay>,
    path: &str,
) -> std::sync::Arc<regentfs::overlay::Inode> {
    let names = path.split('/').filter(|n| !n.is_empty());
    names.fold(overlay.root().clone(), |dir, name| overlay.lookup(&dir, name.as_bytes()).unwrap())
}

#[test]
fn regression_a_name_that_came_and_went() {
    let scene = scene();
    let before = scene.tree();
    scene.link("d/f", "d/b");
    // The kernel forgets it: it is known by its other name from then on.
    scene.forget(|_| true);
    scene.append("d/b", "more");
    scene.remove("d/b");
    scene.snapshot();
    scene.restore(None, &["d/f"]);
    same(&before, &scene.tree(), "everything");
}
