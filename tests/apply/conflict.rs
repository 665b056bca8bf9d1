//! The base is not what the plan expects: then nothing is done. It changes in the last moment: then that path is left alone, nothing that
//! somebody else made is lost, and the rest is done.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path as FsPath;

use regentfs::apply::{
    self, Applied, Conflict, ContentId, Error, Expect, Found, Make, Outcome, Plan, Prepared, Resumed,
};
use regentfs::apply::{Site, Step};
use regentfs::store::fault::{self, Action};
use regentfs::types::Errno;

use crate::common::tree::Tree;
use crate::fixture::{Bytes, Fixture, ID, Kept, calm, is_temp, meta, same, seen, turn};
use crate::work;

/// Something that somebody does to the base of `work`.
struct Change {
    name: &'static str,
    make: fn(&FsPath),
    /// The paths that are in conflict when it is found at first.
    refused: &'static [&'static str],
    /// Those that are not done when it happens after that.
    left: &'static [&'static str],
}

fn append(path: &FsPath, bytes: &str) {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().append(true).open(path).expect("open");
    file.write_all(bytes.as_bytes()).expect("append");
}

fn replace(path: &FsPath, bytes: &str) {
    let new = path.with_extension("by-somebody");
    fs::write(&new, bytes).expect("write");
    fs::rename(&new, path).expect("rename");
}

const CHANGES: &[Change] = &[
    Change { name: "nothing", make: |_| {}, refused: &[], left: &[] },
    Change {
        name: "a file is written to",
        make: |b| append(&b.join("file"), "more"),
        refused: &["file"],
        left: &["file"],
    },
    Change {
        name: "a file is replaced",
        make: |b| replace(&b.join("file"), "old bytes"),
        refused: &["file"],
        left: &["file"],
    },
    Change {
        name: "a file is touched",
        make: |b| fs::File::open(b.join("file")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap(),
        refused: &["file"],
        left: &["file"],
    },
    Change {
        name: "a file's mode is changed",
        make: |b| fs::set_permissions(b.join("file"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap(),
        refused: &["file"],
        left: &["file"],
    },
    Change {
        name: "a file is gone",
        make: |b| fs::remove_file(b.join("file")).unwrap(),
        refused: &["file"],
        left: &["file"],
    },
    Change {
        name: "what is to be removed is written to",
        make: |b| append(&b.join("gone"), "more"),
        refused: &["gone"],
        left: &["gone"],
    },
    Change {
        name: "what is to be removed is gone",
        make: |b| fs::remove_file(b.join("gone")).unwrap(),
        refused: &["gone"],
        left: &[],
    },
    Change {
        name: "what gets a new mode has got one",
        make: |b| fs::set_permissions(b.join("chmod"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap(),
        refused: &["chmod"],
        left: &["chmod"],
    },
    Change {
        name: "what gets a new mode is replaced",
        make: |b| replace(&b.join("chmod"), "other"),
        refused: &["chmod"],
        left: &["chmod"],
    },
    Change {
        name: "something is where nothing was",
        make: |b| fs::write(b.join("sparse"), "here").unwrap(),
        refused: &["sparse"],
        left: &["sparse"],
    },
    Change {
        name: "a directory is where a new one is to be",
        make: |b| fs::create_dir(b.join("into")).unwrap(),
        refused: &["into"],
        left: &["into", "into/moved", "from/moved", "from"],
    },
    Change {
        name: "a dangling link is where a name is to be",
        make: |b| symlink("nowhere", b.join("name5")).unwrap(),
        refused: &["name5"],
        left: &["name5"],
    },
    Change {
        name: "a directory that goes is not empty",
        make: |b| fs::write(b.join("deep/a/b/mine"), "mine").unwrap(),
        refused: &["deep/a/b/mine"],
        left: &["deep/a/b", "deep/a", "deep"],
    },
    Change {
        name: "a directory that becomes a file is not empty",
        make: |b| fs::write(b.join("tofile/mine"), "mine").unwrap(),
        refused: &["tofile/mine"],
        left: &["tofile"],
    },
    Change {
        name: "an empty directory that becomes a link is not empty",
        make: |b| fs::create_dir(b.join("dir2link/mine")).unwrap(),
        refused: &["dir2link/mine"],
        left: &["dir2link"],
    },
    Change {
        name: "a directory is another one",
        make: |b| {
            fs::rename(b.join("dir"), b.join("somewhere")).unwrap();
            fs::create_dir(b.join("dir")).unwrap();
        },
        refused: &["dir", "dir/stays"],
        left: &["dir", "dir/stays"],
    },
    Change {
        name: "a directory is a file",
        make: |b| {
            fs::rename(b.join("dir"), b.join("somewhere")).unwrap();
            fs::write(b.join("dir"), "no directory").unwrap();
        },
        refused: &["dir", "dir/stays"],
        left: &["dir", "dir/stays"],
    },
    Change {
        name: "a link points elsewhere",
        make: |b| {
            fs::remove_file(b.join("link2file")).unwrap();
            symlink("elsewhere", b.join("link2file")).unwrap();
        },
        refused: &["link2file"],
        left: &["link2file"],
    },
    Change {
        name: "a link that becomes a directory is one already",
        make: |b| {
            fs::remove_file(b.join("link2dir")).unwrap();
            fs::create_dir(b.join("link2dir")).unwrap();
        },
        refused: &["link2dir"],
        left: &["link2dir", "link2dir/in", "link2dir/sub", "link2dir/sub/leaf"],
    },
    Change {
        name: "what is relied on is written to",
        make: |b| append(&b.join("same"), "not the same"),
        refused: &["same"],
        left: &["same-too"],
    },
    Change {
        name: "what moves is written to",
        make: |b| append(&b.join("from/moved"), "more"),
        refused: &["from/moved"],
        left: &["into/moved", "from/moved", "from"],
    },
    Change {
        name: "one of two names is another file",
        make: |b| replace(&b.join("name2"), "mine"),
        // Losing a name changes the ctime of the other as well.
        refused: &["name1", "name2"],
        left: &["name2"],
    },
];

fn base() -> Fixture {
    let f = Fixture::new();
    work::before(&f.base);
    f
}

fn paths(conflicts: &[Conflict]) -> BTreeSet<String> {
    conflicts.iter().map(|c| c.path.to_string()).collect()
}

fn set(paths: &[&str]) -> BTreeSet<String> {
    paths.iter().map(|&p| p.to_owned()).collect()
}

#[test]
fn a_base_that_is_not_as_expected_is_not_touched() {
    let _turn = turn();
    for change in CHANGES.iter().filter(|c| !c.refused.is_empty()) {
        let f = base();
        let steps = work::plan(&f);
        (change.make)(&f.base);
        let before = f.tree();
        let mut kept = Kept::default();
        match f.apply_with(&f.root(), steps, &work::source(), &mut kept, &mut ()) {
            Ok(Applied::Refused(conflicts)) => assert_eq!(paths(&conflicts), set(change.refused), "{}", change.name),
            other => panic!("{}: {other:?}", change.name),
        }
        same(&before, &f.tree(), change.name);
        f.is_over();
        assert_eq!(kept.was.len(), 0, "{}", change.name);
    }
}

#[test]
fn all_conflicts_are_told_at_once() {
    let _turn = turn();
    let f = base();
    let steps = work::plan(&f);
    let (gone, file) = (f.seen("gone"), f.is("file"));
    fs::remove_file(f.path("file")).unwrap();
    append(&f.path("gone"), "more");
    fs::write(f.path("into"), "here").unwrap();
    fs::rename(f.path("deep"), f.path("moved-away")).unwrap();
    let before = f.tree();
    let Ok(Applied::Refused(conflicts)) = f.apply(steps, &work::source()) else { panic!("not refused") };
    let found =
        |path: &str| *conflicts.iter().find(|c| c.path.as_bytes() == path.as_bytes()).map(|c| &c.found).unwrap();
    assert_eq!(found("file"), Found::Nothing);
    assert_eq!(conflicts.iter().find(|c| c.path.as_bytes() == b"file").unwrap().expected, file);
    assert_eq!(found("gone"), Found::Is(f.seen("gone")));
    assert_ne!(f.seen("gone"), gone);
    assert_eq!(found("into"), Found::Is(f.seen("into")));
    assert_eq!(found("deep"), Found::Nothing);
    assert_eq!(found("deep/a/b/leaf"), Found::Refused(Errno::ENOENT));
    assert_eq!(conflicts.len(), 3 + 8);
    same(&before, &f.tree(), "several conflicts");
}

/// The entries at these paths and below them.
fn part(tree: &Tree, paths: &BTreeSet<String>, of_them: bool) -> Tree {
    let below = |path: &[u8]| {
        paths
            .iter()
            .map(|p| p.as_bytes())
            .any(|p| path.starts_with(p) && [None, Some(&b'/')].contains(&path.get(p.len())))
    };
    tree.iter().filter(|(path, _)| below(path) == of_them).map(|(p, e)| (p.clone(), e.clone())).collect()
}

/// Numbers of links change with what happens elsewhere.
fn alone(mut tree: Tree) -> Tree {
    for entry in tree.values_mut() {
        entry.nlink = 0;
        entry.first_name = None;
    }
    tree
}

fn prepare_and(f: &Fixture, steps: Vec<Step>, source: &Bytes, then: impl FnOnce()) -> apply::Result<Outcome> {
    let root = f.root();
    let site = Site { store: &f.store, root: &root };
    let prepared = apply::prepare(site, Plan { id: ID, steps }, source, &mut Kept::default(), &mut ())?;
    let Prepared::Ready(ready) = prepared else { panic!("refused") };
    then();
    ready.commit(&mut ())
}

#[test]
fn what_changes_in_the_last_moment_is_left_alone_and_the_rest_is_done() {
    let _turn = turn();
    let after = Fixture::new();
    work::after(&after.base);
    for change in CHANGES {
        let f = base();
        let steps = work::plan(&f);
        let mut changed = Tree::new();
        let outcome = prepare_and(&f, steps.clone(), &work::source(), || {
            (change.make)(&f.base);
            changed = f.tree();
        })
        .unwrap_or_else(|e| panic!("{}: {e}", change.name));
        assert_eq!(paths(&outcome.conflicts), set(change.left), "{}", change.name);
        assert_eq!(outcome.done.len() + outcome.conflicts.len(), steps.len(), "{}", change.name);
        let root = f.root();
        let site = Site { store: &f.store, root: &root };
        assert_eq!(apply::finish(site).expect("finish"), [], "{}", change.name);
        f.is_over();
        // What was left alone is as it was, but for what was to be removed below it.
        let (left, now) = (set(change.left), f.tree());
        let removed = |path: &[u8]| steps.iter().any(|s| s.make == Make::Remove && s.path.as_bytes() == path);
        let mut stays = part(&changed, &left, true);
        stays.retain(|path, _| left.contains(&*String::from_utf8_lossy(path)) || !removed(path));
        same(&alone(calm(stays)), &alone(calm(part(&now, &left, true))), change.name);
        // The rest is as it is to be, with what somebody else did beside it.
        let mut rest = part(&after.tree(), &left, false);
        for (path, entry) in &changed {
            let known = steps.iter().any(|s| s.path.as_bytes() == path && s.make != Make::Keep);
            if !known && !is_temp(path) {
                rest.insert(path.clone(), entry.clone());
            }
        }
        same(&alone(calm(part(&rest, &left, false))), &alone(calm(part(&now, &left, false))), change.name);
    }
}

fn file(content: u64) -> Make {
    Make::File { content: ContentId(content), meta: meta(0o644, 9) }
}

fn bytes() -> Bytes {
    Bytes::of(&[(1, b"new")])
}

/// The step stops in its middle. Then `then` happens, and it is resumed.
fn in_the_middle(f: &Fixture, steps: Vec<Step>, then: impl FnOnce(&FsPath)) -> Outcome {
    fault::arm("apply.step.half", 1, Action::Error);
    let result = f.apply(steps, &bytes());
    assert!(fault::disarm() && matches!(result, Err(Error::Unfinished(_))), "{result:?}");
    let temp = f.path(format!(".regentfs-{ID}-0.tmp"));
    assert!(temp.symlink_metadata().is_ok(), "the old thing is out of the way");
    then(&temp);
    let root = f.root();
    let site = Site { store: &f.store, root: &root };
    match apply::resume(site, &mut ()) {
        Ok(Some(Resumed::Committed { outcome, .. })) => outcome,
        other => panic!("{other:?}"),
    }
}

fn finish(f: &Fixture) -> Vec<String> {
    let root = f.root();
    apply::finish(Site { store: &f.store, root: &root }).expect("finish").iter().map(ToString::to_string).collect()
}

#[test]
fn what_came_out_unexpectedly_is_put_back() {
    let _turn = turn();
    // A replacement: what is under the temporary name is what was there in that instant.
    let f = Fixture::new();
    fs::write(f.path("x"), "old").unwrap();
    let outcome = in_the_middle(&f, vec![f.step("x", file(1))], |temp| replace(temp, "somebody's"));
    assert_eq!(outcome.conflicts[0].found, Found::Is(seen(&f.path("x"))));
    assert_eq!(fs::read(f.path("x")).unwrap(), b"somebody's");
    assert_eq!(finish(&f), [] as [String; 0]);
    f.is_over();

    // Written to in that instant: the same.
    let f = Fixture::new();
    fs::write(f.path("x"), "old").unwrap();
    let outcome = in_the_middle(&f, vec![f.step("x", file(1))], |temp| append(temp, " and more"));
    assert!(matches!(outcome.conflicts[0].found, Found::Is(_)));
    assert_eq!(fs::read(f.path("x")).unwrap(), b"old and more");
    assert_eq!(finish(&f), [] as [String; 0]);

    // A directory in which something was made.
    let f = Fixture::new();
    fs::create_dir(f.path("x")).unwrap();
    let outcome = in_the_middle(&f, vec![f.step("x", file(1))], |temp| fs::write(temp.join("mine"), "mine").unwrap());
    assert_eq!(outcome.conflicts[0].found, Found::Refused(Errno::ENOTEMPTY));
    assert_eq!(fs::read(f.path("x/mine")).unwrap(), b"mine");
    assert_eq!(finish(&f), [] as [String; 0]);
    f.is_over();

    // A removal.
    let f = Fixture::new();
    fs::write(f.path("x"), "old").unwrap();
    let outcome = in_the_middle(&f, vec![f.step("x", Make::Remove)], |temp| replace(temp, "somebody's"));
    assert!(matches!(outcome.conflicts[0].found, Found::Is(_)));
    assert_eq!(fs::read(f.path("x")).unwrap(), b"somebody's");
    assert_eq!(finish(&f), [] as [String; 0]);
    f.is_over();
}

#[test]
fn what_comes_while_a_step_is_half_done_is_not_lost() {
    let _turn = turn();
    // The old is out, and somebody made a new one.
    let f = Fixture::new();
    fs::write(f.path("x"), "old").unwrap();
    let outcome = in_the_middle(&f, vec![f.step("x", Make::Remove)], |_| fs::write(f.path("x"), "somebody's").unwrap());
    assert!(matches!(outcome.conflicts[0].found, Found::Is(_)));
    assert_eq!(fs::read(f.path("x")).unwrap(), b"somebody's");
    assert_eq!(finish(&f), [] as [String; 0]);
    f.is_over();

    // Both the name and what came out are somebody's: neither goes.
    let f = Fixture::new();
    fs::write(f.path("x"), "old").unwrap();
    let outcome = in_the_middle(&f, vec![f.step("x", Make::Remove)], |temp| {
        replace(temp, "one");
        fs::write(f.path("x"), "two").unwrap();
    });
    assert_eq!(outcome.conflicts.len(), 1);
    let temp = format!(".regentfs-{ID}-0.tmp");
    assert_eq!(finish(&f), [temp.as_str()]);
    assert_eq!(fs::read(f.path(&temp)).unwrap(), b"one");
    assert_eq!(fs::read(f.path("x")).unwrap(), b"two");

    // What was put in place is replaced: it stays, and the old one is not put back.
    let f = Fixture::new();
    fs::write(f.path("x"), "old").unwrap();
    let outcome = in_the_middle(&f, vec![f.step("x", file(1))], |_| replace(&f.path("x"), "two"));
    assert!(matches!(outcome.conflicts[0].found, Found::Is(_)));
    assert_eq!(fs::read(f.path("x")).unwrap(), b"two");
    assert_eq!(finish(&f), [] as [String; 0]);
    f.is_over();

    // Half a change of metadata, and somebody makes another one.
    let f = Fixture::new();
    fs::write(f.path("x"), "old").unwrap();
    fault::arm("apply.step.half", 1, Action::Error);
    let result = f.apply(vec![f.step("x", Make::Meta { meta: meta(0o640, 9) })], &bytes());
    assert!(fault::disarm() && matches!(result, Err(Error::Unfinished(_))), "{result:?}");
    fs::set_permissions(f.path("x"), std::os::unix::fs::PermissionsExt::from_mode(0o701)).unwrap();
    let root = f.root();
    let resumed = apply::resume(Site { store: &f.store, root: &root }, &mut ());
    let Ok(Some(Resumed::Committed { outcome, .. })) = resumed else { panic!("{resumed:?}") };
    assert_eq!(outcome.conflicts.len(), 1);
    assert_eq!(finish(&f), [] as [String; 0]);
}

#[test]
fn a_temporary_name_in_use_is_refused_and_stays() {
    let _turn = turn();
    let f = Fixture::new();
    fs::write(f.path("x"), "old").unwrap();
    let temp = format!(".regentfs-{ID}-0.tmp");
    fs::write(f.path(&temp), "somebody's").unwrap();
    let before = f.tree();
    let Ok(Applied::Refused(conflicts)) = f.apply(vec![f.step("x", file(1))], &bytes()) else { panic!("not refused") };
    assert_eq!(
        conflicts,
        [Conflict {
            path: regentfs::types::Path::new(temp.as_bytes()),
            expected: Expect::Nothing,
            found: Found::Is(f.seen(&temp)),
        }]
    );
    same(&before, &f.tree(), "a temporary name in use");
    fs::remove_file(f.path(&temp)).unwrap();

    // It comes after that was looked at.
    for make in
        [file(1), Make::Symlink { target: b"a"[..].into(), meta: meta(0, 9) }, Make::Dir { meta: meta(0o755, 9) }]
    {
        let mut kept =
            Kept { hook: Some(Box::new(|_| fs::write(f.path(&temp), "somebody's").unwrap())), ..Kept::default() };
        let steps = vec![f.step("x", make)];
        match f.apply_with(&f.root(), steps, &bytes(), &mut kept, &mut ()) {
            Err(Error::InTheWay { path }) => assert_eq!(path.as_bytes(), temp.as_bytes()),
            other => panic!("{other:?}"),
        }
        assert_eq!(fs::read(f.path(&temp)).unwrap(), b"somebody's");
        assert_eq!(fs::read(f.path("x")).unwrap(), b"old");
        assert!(!f.journal().exists());
        fs::remove_file(f.path(&temp)).unwrap();
    }
}

#[test]
fn what_was_prepared_and_is_not_there_any_more_is_not_put_in_place() {
    let _turn = turn();
    let tamper: [fn(&FsPath); 4] = [
        |temp| append(temp, "more"),
        |temp| fs::OpenOptions::new().write(true).open(temp).unwrap().set_len(1).unwrap(),
        |temp| replace(temp, "new"),
        |temp| fs::remove_file(temp).unwrap(),
    ];
    for (case, tamper) in tamper.into_iter().enumerate() {
        for old in [true, false] {
            let f = Fixture::new();
            if old {
                fs::write(f.path("x"), "old").unwrap();
            }
            let temp = f.path(format!(".regentfs-{ID}-0.tmp"));
            let outcome = prepare_and(&f, vec![f.step("x", file(1))], &bytes(), || tamper(&temp)).unwrap();
            assert_eq!(outcome.conflicts[0].found, Found::Blocked, "case {case}");
            assert_eq!(fs::read(f.path("x")).ok(), old.then(|| b"old".to_vec()), "case {case}");
            // What was put there by somebody else is his.
            assert_eq!(finish(&f).len(), usize::from(case == 2), "case {case}");
        }
    }
}

#[test]
fn what_changes_while_it_is_kept_is_a_conflict() {
    let _turn = turn();
    let f = Fixture::new();
    fs::write(f.path("x"), "old").unwrap();
    fs::write(f.path("y"), "old").unwrap();
    let steps = vec![f.step("x", file(1)), f.step("y", Make::Remove)];
    let hook = |step| if step == 0 { append(&f.path("x"), "more") } else { replace(&f.path("x"), "other") };
    let mut kept = Kept { hook: Some(Box::new(hook)), ..Kept::default() };
    match f.apply_with(&f.root(), steps, &bytes(), &mut kept, &mut ()) {
        Ok(Applied::Refused(conflicts)) => assert_eq!(paths(&conflicts), set(&["x"])),
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read(f.path("x")).unwrap(), b"other");
    assert_eq!(fs::read(f.path("y")).unwrap(), b"old");
    drop(kept);
    f.is_over();
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let _turn = turn();
    if !crate::common::plain_user() {
        return; // root can read everything
    }
    let f = Fixture::new();
    fs::OpenOptions::new().write(true).create_new(true).mode(0o200).open(f.path("x")).unwrap();
    let Ok(Applied::Refused(conflicts)) = f.apply(vec![f.step("x", Make::Remove)], &bytes()) else {
        panic!("not refused")
    };
    assert_eq!(conflicts[0].found, Found::Refused(Errno::EACCES));
    fs::remove_file(f.path("x")).unwrap();
    // Nor can a name be made in a directory that nobody may write to, unless the plan gives it another mode.
    fs::create_dir(f.path("d")).unwrap();
    fs::set_permissions(f.path("d"), std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
    let Ok(Applied::Refused(conflicts)) = f.apply(vec![f.step("d/x", file(1))], &bytes()) else {
        panic!("not refused")
    };
    assert_eq!(conflicts[0].found, Found::Refused(Errno::EACCES));
    f.must(vec![f.step("d/x", file(1)), f.step("d", Make::Dir { meta: meta(0o555, 9) })], &bytes());
}

/// Somebody puts a file at the path in the very moment. Whoever was first, his file is there in the end.
#[test]
fn nothing_that_comes_in_the_very_moment_is_lost() {
    let _turn = turn();
    let f = Fixture::new();
    let (x, mine) = (f.path("x"), f.dir.path().join("mine"));
    let mut lost_to_them = 0;
    for round in 0..400u32 {
        let (with_old, make) = match round % 3 {
            0 => (true, file(1)),
            1 => (true, Make::Remove),
            _ => (false, file(1)),
        };
        let _ = fs::remove_file(&x);
        if with_old {
            fs::write(&x, "old").unwrap();
        }
        fs::write(&mine, "mine").unwrap();
        let root = f.root();
        let site = Site { store: &f.store, root: &root };
        let plan = Plan { id: ID, steps: vec![f.step("x", make)] };
        let prepared = apply::prepare(site, plan, &bytes(), &mut Kept::default(), &mut ()).unwrap();
        let Prepared::Ready(ready) = prepared else { panic!("refused") };
        // The step comes after the journal was synced: they meet somewhere around it.
        let journal = f.journal();
        let before = fs::metadata(&journal).map(|m| std::os::unix::fs::MetadataExt::ino(&m)).unwrap();
        let (outcome, came) = std::thread::scope(|scope| {
            let somebody = scope.spawn(|| {
                while fs::metadata(&journal).is_ok_and(|m| std::os::unix::fs::MetadataExt::ino(&m) == before) {
                    std::hint::spin_loop();
                }
                // While the directory of the journal is synced, and the first look is taken.
                for _ in 0..round * 131 % 4001 * 8 {
                    std::hint::spin_loop();
                }
                if with_old { fs::rename(&mine, &x) } else { fs::hard_link(&mine, &x) }
            });
            let outcome = ready.commit(&mut ()).unwrap();
            (outcome, somebody.join().unwrap())
        });
        let found = fs::read(&x).unwrap();
        match came {
            Ok(()) => assert_eq!(found, b"mine", "round {round}: {outcome:?}"),
            Err(_) => assert_eq!((&found[..], with_old), (&b"new"[..], false), "round {round}"),
        }
        lost_to_them += u32::from(!outcome.conflicts.is_empty());
        assert_eq!(finish(&f), [] as [String; 0], "round {round}: {outcome:?}");
        f.is_over();
    }
    println!("{lost_to_them} of 400 were conflicts");
}
