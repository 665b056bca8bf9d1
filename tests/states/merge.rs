//! Merging timelines: what only one side changed is as that side has it, and with any conflict nothing happens.

use std::collections::BTreeMap;
use std::fs;

use regentfs::store::history::{self, OpKind};
use regentfs::timeline::combine::{ConflictKind, Favor, Only};
use regentfs::timeline::merging::{How, Merged, everything};
use regentfs::timeline::undo::Direction;
use regentfs::timeline::{TimeError, machine};
use regentfs::types::{At, Kind};

use super::scene::{Scene, same};

fn lines(from: u32, to: u32) -> String {
    (from..=to).map(|n| format!("line {n}\n")).collect()
}

fn base(repo: &std::path::Path) {
    for dir in ["d/sub", "e", ".git"] {
        fs::create_dir_all(repo.join(dir)).unwrap();
    }
    for (path, text) in [
        ("text", lines(1, 20)),
        ("d/f", lines(1, 10)),
        ("d/sub/g", "g\n".into()),
        ("e/h", "h\n".into()),
        ("binary", "a\0b".into()),
        (".git/index", "index\0".into()),
        (".git/HEAD", "ref\n".into()),
    ] {
        fs::write(repo.join(path), text).unwrap();
    }
    fs::hard_link(repo.join("e/h"), repo.join("e/i")).unwrap();
    std::os::unix::fs::symlink("text", repo.join("link")).unwrap();
}

/// Two timelines that have just parted.
fn two() -> (Scene, Scene) {
    let ours = Scene::new(base);
    ours.write("born", &lines(1, 8));
    let theirs = ours.fork("theirs");
    (ours, theirs)
}

pub fn how(favor: Favor, dry_run: bool) -> How<'static> {
    How { favor, dry_run, note: "merge of theirs" }
}

pub fn try_merge(ours: &Scene, theirs: At, how: How<'_>) -> machine::Result<Merged> {
    ours.machine.merge_sealed(&ours.ctx(), theirs, how, &[])
}

/// Merges, after it was asked what that would do.
fn merge_with(ours: &Scene, theirs: &Scene, favor: Favor) -> Merged {
    let at = theirs.snapshot();
    let before = ours.shot();
    let operations = ours.machine.next_operation(Direction::Undo).ok();
    let asked = try_merge(ours, at, how(favor, true)).unwrap();
    assert!(asked.moved.is_none());
    let files = ours.version_files();
    let merged = try_merge(ours, at, how(favor, false)).unwrap();
    assert_eq!(asked.conflicts, merged.conflicts);
    assert_eq!(asked.merged_paths, merged.merged_paths);
    ours.verify();
    if merged.moved.is_none() {
        same(&before.tree, &ours.tree(), "where nothing was to be done");
        assert_eq!((before.ino, before.mtime), (ours.shot().ino, ours.shot().mtime));
        assert_eq!(ours.version_files(), files);
        assert_eq!(ours.machine.next_operation(Direction::Undo).ok(), operations);
    } else {
        assert_eq!(paths(&asked.changed), paths(&merged.changed), "what was foretold, and what came");
        // Undo and redo know it.
        let after = ours.shot();
        ours.machine.undo(&ours.ctx(), Direction::Undo, false, &[]).unwrap();
        same(&before.tree, &ours.tree(), "after undo");
        assert_eq!(before.ino, ours.shot().ino);
        ours.verify();
        ours.machine.undo(&ours.ctx(), Direction::Redo, false, &[]).unwrap();
        same(&after.tree, &ours.tree(), "after redo");
        assert_eq!(after.ino, ours.shot().ino);
        ours.verify();
    }
    theirs.verify();
    merged
}

/// Merges, without any conflict.
fn merge(ours: &Scene, theirs: &Scene) -> Merged {
    let merged = merge_with(ours, theirs, Favor::None);
    assert_eq!(merged.conflicts, []);
    merged
}

/// Merges in vain; returns the conflicts.
fn conflicts(ours: &Scene, theirs: &Scene) -> Vec<(String, ConflictKind)> {
    let merged = merge_with(ours, theirs, Favor::None);
    assert!(merged.moved.is_none());
    merged.conflicts.iter().map(|c| (c.path.to_string(), c.kind)).collect()
}

fn paths(list: &[regentfs::types::Path]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[test]
fn what_only_they_changed() {
    let (ours, theirs) = two();
    let untouched = ours.ino("text");
    theirs.append("text", "more\n");
    theirs.save("d/f", "saved\n");
    theirs.append("born", "more\n");
    theirs.write("new", "new\n");
    theirs.mkdir("n");
    theirs.mkdir("n/m");
    theirs.write("n/m/file", "x\n");
    theirs.remove("e");
    theirs.chmod("d", 0o700);
    theirs.remove("link");
    theirs.symlink("link", "d/f");
    theirs.try_make("pipe", Kind::Fifo, None).unwrap();
    let merged = merge(&ours, &theirs);
    same(&theirs.tree(), &ours.tree(), "ours");
    assert_eq!(ours.ino("text"), untouched);
    // A file born there is the same one here.
    assert_eq!((ours.ino("new"), ours.ino("n/m")), (theirs.ino("new"), theirs.ino("n/m")));
    assert!(merged.moved.is_some() && merged.merged_paths.is_empty());
    // And nothing that is done here shows there.
    ours.append("text", "ours\n");
    ours.append("new", "ours\n");
    theirs.append("new", "theirs\n");
    theirs.remove("n");
    assert_eq!((ours.text("new"), theirs.text("new")), ("new\nours\n".into(), "new\ntheirs\n".into()));
    assert_eq!(ours.text("n/m/file"), "x\n");
    assert!(theirs.text("text").ends_with("more\n"));
    ours.verify();
    theirs.verify();
}

#[test]
fn nothing_to_merge() {
    let (ours, theirs) = two();
    assert!(merge(&ours, &theirs).moved.is_none());
    ours.append("text", "ours");
    assert!(merge(&ours, &theirs).moved.is_none());
    theirs.append("text", "ours");
    assert!(merge(&ours, &theirs).moved.is_none());
    theirs.rename("d/sub/g", "g");
    merge(&ours, &theirs);
    assert!(merge(&ours, &theirs).moved.is_none());
    let head = history::timeline(&*ours.store.kv, theirs.timeline).unwrap().head;
    let open = At { timeline: theirs.timeline, epoch: head };
    assert!(matches!(try_merge(&ours, open, how(Favor::None, false)), Err(TimeError::Refused(_))));
}

#[test]
fn a_text_that_both_changed() {
    let (ours, theirs) = two();
    let number = ours.ino("text");
    ours.write("text", &format!("ours\n{}", lines(2, 20)));
    theirs.write("text", &format!("{}theirs\n", lines(1, 19)));
    ours.write("born", &format!("ours\n{}", lines(2, 8)));
    theirs.save("born", &format!("{}theirs\n", lines(1, 7)));
    let (before, files) = (ours.now(), ours.version_files());
    let merged = merge(&ours, &theirs);
    assert_eq!(ours.text("text"), format!("ours\n{}theirs\n", lines(2, 19)));
    assert_eq!(ours.text("born"), format!("ours\n{}theirs\n", lines(2, 7)));
    assert_eq!(paths(&merged.merged_paths), ["born", "text"]);
    assert_eq!(paths(&merged.changed), ["born", "text"]);
    assert_eq!(ours.ino("text"), number);
    assert!(ours.find("text").unwrap().attr().mtime > before);
    assert_eq!(ours.version_files(), files + 2);
    assert_eq!(theirs.text("text"), format!("{}theirs\n", lines(1, 19)));
    // It can be written to, on from there and after a restart.
    ours.append("text", "on\n");
    ours.snapshot();
    ours.append("text", "and on\n");
    ours.verify();
    assert_eq!(ours.again().text("text"), format!("ours\n{}theirs\non\nand on\n", lines(2, 19)));
    // Merged to nothing.
    let (ours, theirs) = two();
    ours.write("born", &lines(1, 4));
    theirs.write("born", &lines(5, 8));
    merge_with(&ours, &theirs, Favor::None);
}

#[test]
fn lines_that_both_changed() {
    let (ours, theirs) = two();
    ours.write("text", &format!("ours\n{}", lines(2, 20)));
    theirs.write("text", &format!("theirs\n{}end\n", lines(2, 20)));
    theirs.write("new", "new\n");
    let merged = merge_with(&ours, &theirs, Favor::None);
    let [conflict] = &merged.conflicts[..] else { panic!("{merged:?}") };
    assert_eq!((conflict.path.to_string().as_str(), conflict.kind), ("text", ConflictKind::Content));
    assert_eq!(conflict.regions.len(), 1);
    assert_eq!((conflict.regions[0].base.clone(), conflict.regions[0].ours.clone()), (1..2, 1..2));
    assert!(!ours.exists("new"), "with a conflict nothing is done");
    // Where it is decided, only in these lines.
    let (ours_again, theirs_again) = two();
    ours_again.write("text", &format!("ours\n{}", lines(2, 20)));
    theirs_again.write("text", &format!("theirs\n{}end\n", lines(2, 20)));
    merge_with(&ours, &theirs, Favor::Ours);
    assert_eq!(ours.text("text"), format!("ours\n{}end\n", lines(2, 20)));
    assert_eq!(ours.text("new"), "new\n");
    merge_with(&ours_again, &theirs_again, Favor::Theirs);
    assert_eq!(ours_again.text("text"), format!("theirs\n{}end\n", lines(2, 20)));
}

/// What each side does, the conflicts, and what there is of some paths if ours, or theirs, is taken.
struct Case {
    ours: fn(&Scene),
    theirs: fn(&Scene),
    conflicts: &'static [(&'static str, ConflictKind)],
    /// Text, or `None` where there is nothing, or a directory.
    with_ours: &'static [(&'static str, Option<&'static str>)],
    with_theirs: &'static [(&'static str, Option<&'static str>)],
}

#[test]
fn what_excludes_each_other() {
    use ConflictKind::*;
    let cases = [
        Case {
            ours: |s| s.write("binary", "ours\0"),
            theirs: |s| s.write("binary", "theirs\0"),
            conflicts: &[("binary", Binary)],
            with_ours: &[("binary", Some("ours\0"))],
            with_theirs: &[("binary", Some("theirs\0"))],
        },
        Case {
            ours: |s| s.remove("text"),
            theirs: |s| s.write("text", "theirs"),
            conflicts: &[("text", DeleteChange)],
            with_ours: &[("text", None)],
            with_theirs: &[("text", Some("theirs"))],
        },
        Case {
            ours: |s| s.write("text", "ours"),
            theirs: |s| s.remove("text"),
            conflicts: &[("text", DeleteChange)],
            with_ours: &[("text", Some("ours"))],
            with_theirs: &[("text", None)],
        },
        Case {
            ours: |s| s.write("new", "ours"),
            theirs: |s| s.write("new", "theirs"),
            conflicts: &[("new", AddAdd)],
            with_ours: &[("new", Some("ours"))],
            with_theirs: &[("new", Some("theirs"))],
        },
        Case {
            ours: |s| s.write("new", "ours"),
            theirs: |s| {
                s.mkdir("new");
                s.write("new/in", "theirs");
            },
            conflicts: &[("new", Type)],
            with_ours: &[("new", Some("ours"))],
            with_theirs: &[("new/in", Some("theirs"))],
        },
        Case {
            ours: |s| {
                s.mkdir("new");
                s.write("new/in", "ours");
            },
            theirs: |s| s.write("new", "theirs"),
            conflicts: &[("new", Type)],
            with_ours: &[("new/in", Some("ours"))],
            with_theirs: &[("new", Some("theirs"))],
        },
        // A directory that one removed, and the other put something into.
        Case {
            ours: |s| {
                s.remove("d");
                s.write("d", "ours");
            },
            theirs: |s| s.write("d/new", "theirs"),
            conflicts: &[("d", Type)],
            with_ours: &[("d", Some("ours"))],
            with_theirs: &[("d/new", Some("theirs")), ("d/f", None)],
        },
        Case {
            ours: |s| s.write("d/new", "ours"),
            theirs: |s| {
                s.remove("d");
                s.write("d", "theirs");
            },
            conflicts: &[("d", Type)],
            with_ours: &[("d/new", Some("ours")), ("d/f", None)],
            with_theirs: &[("d", Some("theirs"))],
        },
        Case {
            ours: |s| {
                s.remove("link");
                s.symlink("link", "ours");
            },
            theirs: |s| {
                s.remove("link");
                s.symlink("link", "theirs");
            },
            conflicts: &[("link", Binary)],
            with_ours: &[],
            with_theirs: &[],
        },
        Case {
            ours: |s| {
                s.remove("text");
                s.symlink("text", "ours");
            },
            theirs: |s| s.write("text", "theirs"),
            conflicts: &[("text", Type)],
            with_ours: &[],
            with_theirs: &[("text", Some("theirs"))],
        },
        Case {
            ours: |s| s.setxattr("text", "user.a", "1"),
            theirs: |s| s.setxattr("text", "user.a", "2"),
            conflicts: &[("text", Attributes)],
            with_ours: &[],
            with_theirs: &[],
        },
        // Moved by both.
        Case {
            ours: |s| s.rename("text", "one"),
            theirs: |s| s.rename("text", "two"),
            conflicts: &[("two", Rename)],
            with_ours: &[("two", None), ("text", None)],
            with_theirs: &[("one", None), ("text", None)],
        },
        Case {
            ours: |s| s.rename("d", "one"),
            theirs: |s| s.rename("d", "two"),
            conflicts: &[("two", Rename)],
            with_ours: &[("one/sub/g", Some("g\n")), ("two", None)],
            with_theirs: &[("two/sub/g", Some("g\n")), ("one", None), ("one/f", None)],
        },
        Case {
            ours: |s| s.remove("d"),
            theirs: |s| s.rename("d", "two"),
            conflicts: &[("two", DeleteChange)],
            with_ours: &[("two", None), ("d", None)],
            with_theirs: &[("two/sub/g", Some("g\n")), ("d", None)],
        },
        Case {
            ours: |s| s.rename("d", "one"),
            theirs: |s| s.remove("d"),
            conflicts: &[("one", DeleteChange)],
            with_ours: &[("one/sub/g", Some("g\n"))],
            with_theirs: &[("one", None), ("d", None)],
        },
        Case {
            ours: |s| s.append("d/sub/g", "ours\n"),
            theirs: |s| s.rename("d", "two"),
            conflicts: &[("d/sub/g", DeleteChange)],
            with_ours: &[("d/sub/g", Some("g\nours\n")), ("two/sub/g", Some("g\n")), ("d/f", None)],
            with_theirs: &[("d", None), ("two/sub/g", Some("g\n"))],
        },
    ];
    for (at, case) in cases.iter().enumerate() {
        let run = |favor| {
            let (ours, theirs) = two();
            (case.ours)(&ours);
            (case.theirs)(&theirs);
            let merged = merge_with(&ours, &theirs, favor);
            let found: Vec<_> = merged.conflicts.iter().map(|c| (c.path.to_string(), c.kind)).collect();
            (ours, found)
        };
        let (_, found) = run(Favor::None);
        let found: Vec<_> = found.iter().map(|(path, kind)| (path.as_str(), *kind)).collect();
        assert_eq!(found, case.conflicts, "case {at}");
        for (favor, expected) in [(Favor::Ours, case.with_ours), (Favor::Theirs, case.with_theirs)] {
            let (ours, left) = run(favor);
            assert_eq!(left, [], "case {at}");
            for &(path, text) in expected {
                let found = ours.exists(path).then(|| ours.text(path));
                assert_eq!(found.as_deref(), text, "case {at}, {favor:?}: {path}");
            }
        }
    }
}

#[test]
fn every_conflict_is_named() {
    let (ours, theirs) = two();
    ours.write("text", "ours\n");
    theirs.write("text", "theirs\n");
    ours.remove("d/f");
    theirs.write("d/f", "theirs\n");
    ours.write("binary", "o\0");
    theirs.write("binary", "t\0");
    let expected = [
        ("binary".to_owned(), ConflictKind::Binary),
        ("d/f".to_owned(), ConflictKind::DeleteChange),
        ("text".to_owned(), ConflictKind::Content),
    ];
    assert_eq!(conflicts(&ours, &theirs), expected);
}

#[test]
fn bytes_mode_and_attributes_apart() {
    let (ours, theirs) = two();
    ours.chmod("text", 0o755);
    theirs.write("text", "theirs\n");
    ours.write("d/f", "ours\n");
    theirs.chmod("d/f", 0o600);
    ours.setxattr("born", "user.a", "1");
    theirs.setxattr("born", "user.b", "2");
    // Each bit for itself.
    ours.chmod("binary", 0o744);
    theirs.chmod("binary", 0o600);
    ours.setxattr("d", "user.a", "1");
    theirs.chmod("d", 0o700);
    theirs.setxattr("d", "user.b", "1");
    let merged = merge(&ours, &theirs);
    assert_eq!(paths(&merged.merged_paths), ["binary", "born", "d", "d/f", "text"]);
    let tree = ours.tree();
    assert_eq!((tree["text"].perm, ours.text("text")), (0o755, "theirs\n".into()));
    assert_eq!((tree["d/f"].perm, ours.text("d/f")), (0o600, "ours\n".into()));
    assert_eq!(tree["binary"].perm, 0o700);
    let both = BTreeMap::from([(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), b"2".to_vec())]);
    assert_eq!(tree["born"].xattrs, both);
    assert_eq!((tree["d"].perm, tree["d"].xattrs.len()), (0o700, 2));
}

#[test]
fn directories_that_one_side_removed() {
    // Something new in it: it stays, with only that.
    for (mine, other) in [(false, true), (true, false)] {
        let (ours, theirs) = two();
        for (scene, removes) in [(&ours, mine), (&theirs, other)] {
            if removes { scene.remove("d") } else { scene.write("d/sub/new", "new") }
        }
        merge(&ours, &theirs);
        assert_eq!(ours.text("d/sub/new"), "new");
        assert!(!ours.exists("d/f") && !ours.exists("d/sub/g"));
    }
    let (ours, theirs) = two();
    theirs.rename("d", "moved");
    ours.write("d/new", "new");
    ours.append("text", "x");
    merge(&ours, &theirs);
    assert_eq!((ours.text("d/new"), ours.text("moved/sub/g")), ("new".into(), "g\n".into()));
    assert!(!ours.exists("d/f") && !ours.exists("d/sub"));
    assert_eq!(ours.ino("moved/sub/g"), theirs.ino("moved/sub/g"));
    // Each into the other's.
    let (ours, theirs) = two();
    ours.rename("e", "d/e");
    theirs.rename("d", "e/d");
    merge(&ours, &theirs);
    assert_eq!((ours.text("d/e/h"), ours.text("e/d/sub/g")), ("h\n".into(), "g\n".into()));
}

#[test]
fn moved_by_one() {
    let (ours, theirs) = two();
    let (dir, file) = (ours.ino("d"), ours.ino("d/sub/g"));
    theirs.rename("d", "e/d");
    theirs.append("e/d/f", "more\n");
    ours.append("text", "ours\n");
    merge(&ours, &theirs);
    assert_eq!((ours.ino("e/d"), ours.ino("e/d/sub/g")), (dir, file));
    assert!(ours.text("e/d/f").ends_with("more\n"));
    let names: Vec<_> = ours.tree().into_keys().collect();
    assert_eq!(names, theirs.tree().into_keys().collect::<Vec<_>>());
}

#[test]
fn files_with_several_names() {
    let (ours, theirs) = two();
    theirs.append("e/h", "more\n");
    theirs.link("text", "d/text");
    merge(&ours, &theirs);
    assert_eq!((ours.text("e/h"), ours.ino("e/h")), ("h\nmore\n".into(), ours.ino("e/i")));
    assert_eq!(ours.ino("text"), ours.ino("d/text"));
    // A name that only we have does not get their change.
    let (ours, theirs) = two();
    ours.link("e/h", "d/h");
    theirs.append("e/h", "more\n");
    merge(&ours, &theirs);
    assert_eq!(
        (ours.text("e/h"), ours.text("e/i"), ours.text("d/h")),
        ("h\nmore\n".into(), "h\nmore\n".into(), "h\n".into())
    );
    assert_eq!(ours.ino("e/h"), ours.ino("e/i"));
    // Merged bytes for both names.
    let (ours, theirs) = two();
    ours.link("text", "again");
    let theirs_too = ours.fork("three");
    drop(theirs);
    ours.write("again", &format!("ours\n{}", lines(2, 20)));
    theirs_too.write("again", &format!("{}theirs\n", lines(1, 19)));
    merge(&ours, &theirs_too);
    assert_eq!(ours.text("text"), format!("ours\n{}theirs\n", lines(2, 19)));
    assert_eq!(ours.ino("text"), ours.ino("again"));
}

/// A name that became a file of its own comes over with the number that it has there: it is not the file of the base any more.
#[test]
fn a_name_that_was_parted_from_its_file() {
    let (ours, theirs) = two();
    ours.setxattr("e/i", "user.a", "1");
    ours.remove("e/h");
    theirs.append("e/i", "more\n");
    merge_with(&theirs, &ours, Favor::Ours);
    assert_eq!((theirs.text("e/h"), theirs.text("e/i")), ("h\nmore\n".into(), "h\nmore\n".into()));
    assert_ne!(theirs.ino("e/h"), theirs.ino("e/i"));
    merge(&ours, &theirs);
    same(&theirs.tree(), &ours.tree(), "ours");
    assert_eq!(ours.ino("e/i"), theirs.ino("e/i"));
}

#[test]
fn gits_index_is_nobodys_work() {
    // Both looked at the status.
    let (ours, theirs) = two();
    ours.write(".git/index", "ours\0");
    theirs.write(".git/index", "theirs\0");
    theirs.write("new", "new");
    merge(&ours, &theirs);
    assert_eq!((ours.text(".git/index"), ours.text("new")), ("ours\0".into(), "new".into()));
    // They made a commit.
    let (ours, theirs) = two();
    ours.write(".git/index", "ours\0");
    theirs.write(".git/index", "theirs\0");
    theirs.write(".git/HEAD", "commit");
    merge(&ours, &theirs);
    assert_eq!((ours.text(".git/index"), ours.text(".git/HEAD")), ("theirs\0".into(), "commit".into()));
}

#[test]
fn a_timeline_of_a_timeline_and_back() {
    let (ours, theirs) = two();
    theirs.append("text", "theirs\n");
    let third = theirs.fork("third");
    third.write("third", "third\n");
    theirs.write("second", "second\n");
    // From the grandchild: all that it has and we have not.
    merge(&ours, &third);
    assert_eq!(ours.text("third"), "third\n");
    assert!(ours.text("text").ends_with("theirs\n") && !ours.exists("second"));
    merge(&ours, &theirs);
    assert_eq!(ours.text("second"), "second\n");
    // And back.
    ours.write("ours", "ours\n");
    merge(&theirs, &ours);
    same(&ours.tree(), &theirs.tree(), "theirs");
}

#[test]
fn what_was_merged_once_is_not_merged_again() {
    let (ours, theirs) = two();
    theirs.write("new", "new\n");
    theirs.write("text", &format!("theirs\n{}", lines(2, 20)));
    merge(&ours, &theirs);
    // Here it is not wanted any more; there the work goes on.
    ours.remove("new");
    ours.write("text", &lines(1, 20));
    theirs.write("other", "other\n");
    merge(&ours, &theirs);
    assert_eq!((ours.text("text"), ours.text("other")), (lines(1, 20), "other\n".into()));
    assert!(!ours.exists("new"));
    // The other way round they get what was done here, and on from there the same lines may be changed again.
    theirs.write("d/f", "theirs\n");
    merge(&theirs, &ours);
    assert_eq!(theirs.text("text"), lines(1, 20));
    assert!(!theirs.exists("new"));
    theirs.write("text", &format!("again\n{}", lines(2, 20)));
    merge(&ours, &theirs);
    assert_eq!((ours.text("text"), ours.text("d/f")), (format!("again\n{}", lines(2, 20)), "theirs\n".into()));
    same(&ours.tree(), &theirs.tree(), "theirs");
    // What was taken back counts as never merged.
    let (ours, theirs) = two();
    let start = ours.snapshot();
    theirs.write("new", "new\n");
    merge(&ours, &theirs);
    ours.machine.undo(&ours.ctx(), Direction::Undo, false, &[]).unwrap();
    assert!(!ours.exists("new"));
    merge(&ours, &theirs);
    assert!(ours.exists("new"));
    ours.restore(Some(start), &[]);
    assert!(!ours.exists("new"));
    merge(&ours, &theirs);
    assert!(ours.exists("new"));
}

#[test]
fn an_open_file_keeps_its_bytes() {
    let (ours, theirs) = two();
    let inode = ours.find("text").unwrap();
    inode.opened();
    theirs.write("text", "theirs\n");
    let at = theirs.snapshot();
    let merged = try_merge(&ours, at, how(Favor::None, false)).unwrap();
    assert_eq!((merged.kept.len(), merged.kept[0].old), (1, inode.ino));
    let mut out = [0; 7];
    ours.overlay.read(&inode, 0, &mut out).unwrap();
    assert_eq!(&out, b"line 1\n");
    assert_eq!(ours.text("text"), "theirs\n");
    inode.closed();
    ours.verify();
}

#[test]
fn an_open_file_keeps_its_bytes_where_both_changed_it() {
    let (ours, theirs) = two();
    ours.write("text", &format!("ours\n{}", lines(2, 20)));
    theirs.append("text", "theirs\n");
    let inode = ours.find("text").unwrap();
    inode.opened();
    let merged = ours.machine.merge(&ours.ctx(), theirs.timeline, how(Favor::None, false), &[]).unwrap();
    assert_eq!((merged.kept.len(), merged.kept[0].old), (1, inode.ino));
    assert_eq!(ours.text("text"), format!("ours\n{}theirs\n", lines(2, 20)));
    // What is written through it is in no state.
    ours.write_at(&inode, 0, b"lost").unwrap();
    let mut out = [0; 4];
    ours.overlay.read(&inode, 0, &mut out).unwrap();
    assert_eq!(&out, b"lost");
    assert_eq!(ours.text("text"), format!("ours\n{}theirs\n", lines(2, 20)));
    inode.closed();
    ours.verify();
    theirs.verify();
}

#[test]
fn the_change_between_any_two_states() {
    let scene = Scene::new(base);
    let (from, _) = (scene.snapshot(), scene.write("new", "new\n"));
    scene.write("text", &format!("step\n{}", lines(2, 20)));
    let to = scene.snapshot();
    scene.append("text", "later\n");
    scene.write("other", "other\n");
    // One step taken back, what came later stays.
    let (from, to) = (scene.lineage(from), scene.lineage(to));
    let change = (&to, &from, &everything as Only<'_>);
    let done = scene.machine.bring(&scene.ctx(), change, OpKind::Restore, how(Favor::None, false), &[]).unwrap();
    assert_eq!(done.conflicts, []);
    assert_eq!(scene.text("text"), format!("{}later\n", lines(1, 20)));
    assert!(!scene.exists("new") && scene.exists("other"));
    scene.verify();
}

#[test]
fn only_what_is_merged_becomes_a_snapshot() {
    let snapshots = |scene: &Scene| history::snapshots(&*scene.store.kv).unwrap().len();
    let (ours, theirs) = two();
    let timeline = theirs.timeline;
    let merge = |favor, dry_run| ours.machine.merge(&ours.ctx(), timeline, how(favor, dry_run), &[]).unwrap();
    // Nothing was changed there.
    let count = snapshots(&ours);
    assert!(merge(Favor::None, false).moved.is_none());
    theirs.write("new", "new\n");
    ours.write("new", "ours\n");
    let asked = merge(Favor::Theirs, true);
    assert_eq!((asked.changed.len(), asked.conflicts.len()), (1, 0));
    assert_eq!(merge(Favor::None, false).conflicts.len(), 1);
    assert_eq!(snapshots(&ours), count, "nothing was merged");
    // It is shown by another overlay, which goes on from there.
    assert!(merge(Favor::Theirs, false).moved.is_some());
    assert_eq!(snapshots(&ours), count + 3, "theirs, ours before and ours after");
    theirs.append("new", "more\n");
    ours.append("new", "other\n");
    assert_eq!((ours.text("new"), theirs.text("new")), ("new\nother\n".into(), "new\nmore\n".into()));
    ours.verify();
    theirs.verify();
    ours.write("new", "new\n");
    // Nobody shows it.
    drop(theirs);
    assert!(merge(Favor::None, false).moved.is_some());
    assert_eq!(ours.text("new"), "new\nmore\n");
    ours.verify();
    assert_eq!(ours.beside(timeline).text("new"), "new\nmore\n");
    let refused = |timeline| {
        matches!(ours.machine.merge(&ours.ctx(), timeline, how(Favor::None, false), &[]), Err(TimeError::Refused(_)))
    };
    assert!(refused(ours.timeline), "with itself");
    ours.machine.delete(&ours.ctx(), "theirs").unwrap();
    assert!(refused(timeline), "a deleted one");
    assert_eq!(ours.text("new"), "new\nmore\n");
    ours.verify();
}

/// An open epoch that is older than what is brought into it.
#[test]
fn no_state_has_a_version_that_is_newer_than_itself() {
    let (ours, theirs) = two();
    theirs.write("new", "new\n");
    let at = theirs.snapshot();
    assert!(ours.overlay.epoch() < at.epoch);
    let merged = try_merge(&ours, at, how(Favor::None, false)).unwrap();
    assert!(merged.moved.unwrap().before.epoch < ours.overlay.epoch());
    ours.verify();
    ours.machine.undo(&ours.ctx(), Direction::Undo, false, &[]).unwrap();
    assert!(!ours.exists("new"));
    ours.verify();
    // Going to a state of another timeline is the same.
    let (ours, theirs) = two();
    theirs.write("new", "new\n");
    let at = theirs.snapshot();
    ours.restore(Some(at), &[]);
    assert_eq!(ours.text("new"), "new\n");
    let (ours, theirs) = two();
    theirs.write("new", "new\n");
    let at = theirs.snapshot();
    ours.restore(Some(at), &["new"]);
    ours.append("new", "more\n");
    assert_eq!(theirs.text("new"), "new\n");
    ours.verify();
}
