//! Every kind of thing is made, exactly; what it says about it is right; and it can be cancelled.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use regentfs::apply::{self, Applied, Error, Expect, Lost, Make, Plan, Prepared, Progress, Site, Stage, Step, Watch};
use regentfs::types::{Errno, Kind};

use crate::common;
use crate::fixture::{Bytes, Fixture, Kept, calm, error, ino, meta, same, seen, turn};
use crate::work;

/// What the work is to come to.
fn after() -> Fixture {
    let f = Fixture::new();
    work::after(&f.base);
    f
}

fn find<'a>(steps: &'a [Step], path: &[u8]) -> (usize, &'a Step) {
    steps.iter().enumerate().find(|(_, s)| s.path.as_bytes() == path).expect("a step")
}

#[test]
fn everything_is_made_exactly() {
    let _turn = turn();
    let (f, after) = (Fixture::new(), after());
    work::before(&f.base);
    let moved = ino(&f.path("from/moved"));
    let steps = work::plan(&f);
    let source = work::source();
    let mut kept = Kept::default();
    let outcome = f.done(f.apply_with(&f.root(), steps.clone(), &source, &mut kept, &mut ()));
    same(&after.tree(), &f.tree(), "after the apply");
    assert_eq!((outcome.conflicts.len(), outcome.notes.len()), (0, 0), "{outcome:?}");
    assert!(source.largest.get() <= 1 << 20, "files are copied in pieces");

    // What it says is there is what is there.
    assert_eq!(outcome.done.iter().map(|m| m.step).collect::<Vec<_>>(), (0..steps.len()).collect::<Vec<_>>());
    for made in &outcome.done {
        let path = f.path(steps[made.step].path.as_bytes());
        assert_eq!(made.seen, path.symlink_metadata().is_ok().then(|| seen(&path)), "{}", path.display());
    }
    assert_eq!(ino(&f.path("into/moved")), moved, "a file that moves stays the same");
    assert!(f.path("sparse").metadata().unwrap().blocks() < 1000, "holes stay holes");

    // What went was kept before.
    let (at, step) = find(&steps, b"file");
    let was = &kept.was[&at];
    assert_eq!((Expect::Is(was.seen), was.meta.perm), (step.expect, 0o4755));
    assert_eq!(was.meta.xattrs.as_deref(), Some(&[(b"user.old"[..].into(), b"1"[..].into())][..]));
    assert_eq!(was.bytes.as_deref(), Some(&b"old bytes"[..]));
    assert_eq!(kept.was[&find(&steps, b"link2dir").0].target.as_deref(), Some(&b"deep"[..]));
    assert_eq!(kept.was[&find(&steps, b"chmod").0].bytes, None, "bytes that stay are not kept");
    assert_eq!(kept.was[&find(&steps, b"deep").0].meta.perm, 0o777);
    let expected = steps.iter().filter(|s| s.expect != Expect::Nothing && s.make != Make::Keep).count();
    assert_eq!(kept.was.len(), expected);
}

#[test]
fn everything_is_made_without_the_flags_of_rename() {
    let _turn = turn();
    let (f, after) = (Fixture::new(), after());
    work::before(&f.base);
    let root = f.root().without_rename_flags();
    let outcome = f.done(f.apply_with(&root, work::plan(&f), &work::source(), &mut Kept::default(), &mut ()));
    assert_eq!(outcome.conflicts, []);
    same(&after.tree(), &f.tree(), "after the apply");
}

#[test]
fn applying_what_was_made_the_other_way_round_is_possible_as_well() {
    let _turn = turn();
    let f = Fixture::new();
    fs::create_dir_all(f.path("d/e")).unwrap();
    fs::write(f.path("d/e/f"), "1").unwrap();
    let source = Bytes::of(&[(1, b"one")]);
    let file = || Make::File { content: apply::ContentId(1), meta: meta(0o644, 9) };
    let dir = || Make::Dir { meta: meta(0o755, 8) };
    // A directory becomes a file, and a directory again.
    f.must(vec![f.step("d", file()), f.step("d/e", Make::Remove), f.step("d/e/f", Make::Remove)], &source);
    let now = f.tree();
    assert_eq!(now.keys().map(|k| &k[..]).collect::<Vec<_>>(), [&b""[..], b"d"]);
    f.must(vec![f.step("d/e/f", file()), f.step("d/e", dir()), f.step("d", dir())], &source);
    assert_eq!(fs::read(f.path("d/e/f")).unwrap(), b"one");
    assert_eq!(f.path("d").metadata().unwrap().mtime(), 8, "times are set after the last change in it");
    // Nothing to do is nothing done.
    let before = f.tree();
    f.must(Vec::new(), &source);
    same(&before, &f.tree(), "an empty plan");
}

#[test]
fn devices_are_made_as_they_are() {
    let _turn = turn();
    if common::plain_user() {
        return common::leave_to_root("device nodes");
    }
    let f = Fixture::new();
    let device = |kind, major: u32, minor: u32| {
        let rdev = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
        Make::Special { kind, rdev, meta: meta(0o660, 77) }
    };
    let steps = vec![
        f.step("null", device(Kind::CharDevice, 1, 3)),
        f.step("far", device(Kind::BlockDevice, 259, 70_000)),
        f.step("whiteout", device(Kind::CharDevice, 0, 0)),
    ];
    f.must(steps, &Bytes::default());
    let null = f.path("null").symlink_metadata().unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!((null.rdev(), null.mode() & 0o7777, null.mtime()), (rustix::fs::makedev(1, 3), 0o660, 77));
    let far = f.path("far").symlink_metadata().unwrap();
    assert!(far.file_type().is_block_device());
    assert_eq!(far.rdev(), rustix::fs::makedev(259, 70_000));
    assert_eq!(f.path("whiteout").symlink_metadata().unwrap().rdev(), 0);
}

#[test]
fn what_a_user_cannot_give_away_is_noted() {
    let _turn = turn();
    let f = Fixture::new();
    fs::write(f.path("chown"), "x").unwrap();
    let mut foreign = meta(0o644, 9);
    foreign.uid = 4242;
    let steps = vec![
        f.step("new", Make::File { content: apply::ContentId(1), meta: foreign.clone() }),
        f.step("chown", Make::Meta { meta: foreign.clone() }),
        f.step("dir", Make::Dir { meta: foreign }),
    ];
    let outcome = f.must(steps, &Bytes::of(&[(1, b"1")]));
    let notes: Vec<_> = outcome.notes.iter().map(|n| (n.path.as_bytes(), &n.lost)).collect();
    if common::plain_user() {
        for path in ["new", "chown", "dir"] {
            assert!(notes.contains(&(path.as_bytes(), &Lost::Owner)), "{path}: {notes:?}");
        }
    } else {
        assert_eq!(notes, []);
        assert_eq!(f.path("dir").metadata().unwrap().uid(), 4242);
    }
    for path in ["new", "chown"] {
        assert_eq!(f.path(path).metadata().unwrap().mtime(), 9, "the rest is made all the same");
    }
}

/// Cancels at a moment, and notes what it was told.
#[derive(Default)]
struct Cancel {
    asked: Cell<u64>,
    at: u64,
    told: Vec<Progress>,
}

impl Watch for Cancel {
    fn progress(&mut self, progress: Progress) {
        self.told.push(progress);
    }

    fn cancelled(&self) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.asked.get() == self.at
    }
}

#[test]
fn progress_is_told_stage_by_stage() {
    let _turn = turn();
    let f = Fixture::new();
    work::before(&f.base);
    let mut watch = Cancel::default();
    let steps = work::plan(&f);
    let total = steps.len() as u64;
    f.done(f.apply_with(&f.root(), steps, &work::source(), &mut Kept::default(), &mut watch));
    let stages = [Stage::Verify, Stage::Keep, Stage::Write, Stage::Commit];
    let mut told: Vec<Stage> = watch.told.iter().map(|p| p.stage).collect();
    told.dedup();
    assert_eq!(told, stages);
    let last = |stage| *watch.told.iter().rfind(|p| p.stage == stage).expect("told");
    for stage in stages {
        assert_eq!(last(stage).done, last(stage).total, "{stage:?}");
    }
    assert_eq!(last(Stage::Commit).total, total);
    let bytes: u64 = work::source().files.values().flat_map(|f| f.parts.values()).map(|p| p.len() as u64).sum();
    assert!(last(Stage::Write).bytes >= bytes);
    assert!(watch.told.iter().filter(|p| p.stage == Stage::Write).count() > 25, "also in the middle of a file");
}

#[test]
fn cancelled_at_any_moment_before_the_commit_it_leaves_everything_as_it_was() {
    let _turn = turn();
    let f = Fixture::new();
    work::before(&f.base);
    let before = calm(f.tree());
    let mut cancelled = 0;
    for at in 1.. {
        let mut watch = Cancel { at, ..Cancel::default() };
        match f.apply_with(&f.root(), work::plan(&f), &work::source(), &mut Kept::default(), &mut watch) {
            Ok(done) => {
                assert!(matches!(&done, Applied::Done(_)), "{done:?}");
                assert!(watch.asked.get() < at, "asked after the point of no return");
                break;
            }
            Err(Error::Cancelled) => {
                cancelled += 1;
                same(&before, &calm(f.tree()), "after a cancelled apply");
                f.is_over();
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(cancelled > 80, "asked only {cancelled} times");
}

#[test]
fn bytes_that_cannot_be_read_or_kept_stop_it_before_anything_happens() {
    let _turn = turn();
    let f = Fixture::new();
    work::before(&f.base);
    let before = calm(f.tree());
    let broken = Bytes { broken: Some(6), ..work::source() };
    match error(f.apply(work::plan(&f), &broken)) {
        Error::Content { path, errno } => assert_eq!((path.as_bytes(), errno), (&b"sparse"[..], Errno::EIO)),
        other => panic!("{other}"),
    }
    let mut missing = work::source();
    missing.files.remove(&3);
    assert!(matches!(error(f.apply(work::plan(&f), &missing)), Error::Content { .. }));
    let mut full = Kept { fails: true, ..Kept::default() };
    let refused = f.apply_with(&f.root(), work::plan(&f), &work::source(), &mut full, &mut ());
    assert!(matches!(error(refused), Error::Store(_)));
    same(&before, &calm(f.tree()), "after applies that failed");
    f.is_over();
}

#[test]
fn prepared_and_rolled_back_nothing_is_left() {
    let _turn = turn();
    let f = Fixture::new();
    work::before(&f.base);
    let before = calm(f.tree());
    let root = f.root();
    let site = Site { store: &f.store, root: &root };
    let plan = || Plan { id: 3, steps: work::plan(&f) };
    let prepared = apply::prepare(site, plan(), &work::source(), &mut Kept::default(), &mut ()).unwrap();
    let Prepared::Ready(ready) = prepared else { panic!("refused") };
    assert_ne!(calm(f.tree()), before, "temporary files are there");
    // One at a time.
    let again = apply::prepare(site, plan(), &work::source(), &mut Kept::default(), &mut ());
    assert!(matches!(again, Err(Error::Pending)));
    assert!(matches!(apply::finish(site), Err(Error::Pending)), "nothing to finish: it was not committed");
    ready.roll_back().unwrap();
    same(&before, &calm(f.tree()), "rolled back");
    f.is_over();
    assert_eq!(apply::resume(site, &mut ()).unwrap(), None);
    assert_eq!(apply::finish(site).unwrap(), []);
}
