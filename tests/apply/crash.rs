//! A fault at every failpoint, at each of its passages: the step fails, or the process dies there. Afterwards the base is as it was, or
//! `resume` makes it what it is to be; and the same if `resume` itself is hit.

use std::collections::BTreeMap;
use std::path::Path as FsPath;
use std::process::Command;

use regentfs::apply::{self, Applied, Error, Outcome, Plan, Resumed, Root, Site};
use regentfs::store::fault::{self, Action, POINTS};

use crate::common::tree::Tree;
use crate::fixture::{Fixture, ID, Kept, calm, root, same, turn};
use crate::work;

/// Where the child works; set only for it.
const CHILD: &str = "REGENTFS_APPLY_CHILD";

fn points() -> impl Iterator<Item = &'static str> {
    POINTS.iter().copied().filter(|p| p.starts_with("apply."))
}

/// Those that a plan passes before it can be undone no more, always.
const BEFORE: [&str; 3] = ["apply.keep", "apply.journal", "apply.temp"];
/// Those that it passes only afterwards.
const AFTER: [&str; 5] = ["apply.commit.begin", "apply.step", "apply.step.half", "apply.step.after", "apply.finish"];

/// The base before, and as it has to be after.
struct Trees {
    before: Tree,
    after: Tree,
}

impl Trees {
    fn new() -> Trees {
        let (before, after) = (Fixture::new(), Fixture::new());
        work::before(&before.base);
        work::after(&after.base);
        Trees { before: calm(before.tree()), after: after.tree() }
    }
}

fn started() -> Fixture {
    let f = Fixture::new();
    work::before(&f.base);
    f
}

/// With `plain`, without renameat2's flags.
fn open(f: &Fixture, plain: bool) -> Root {
    if plain { f.root().without_rename_flags() } else { f.root() }
}

/// Applies and finishes; the error of whichever failed.
fn whole(f: &Fixture, root: &Root) -> apply::Result<Outcome> {
    let site = Site { store: &f.store, root };
    let plan = Plan { id: ID, steps: work::plan(f) };
    match apply::apply(site, plan, &work::source(), &mut Kept::default(), &mut ())? {
        Applied::Done(outcome) => {
            assert_eq!(apply::finish(site)?, []);
            Ok(outcome)
        }
        Applied::Refused(conflicts) => panic!("{conflicts:?}"),
    }
}

/// What a resume without faults makes of it; returns whether the work was done in the end.
fn recover(f: &Fixture, root: &Root, trees: &Trees, what: &str) -> bool {
    let site = Site { store: &f.store, root };
    let done = match apply::resume(site, &mut ()).unwrap_or_else(|e| panic!("{what}: resume: {e}")) {
        None => false,
        Some(Resumed::RolledBack { plan }) => {
            assert_eq!(plan.id, ID, "{what}");
            false
        }
        Some(Resumed::Committed { plan, outcome }) => {
            assert_eq!(outcome.conflicts, [], "{what}");
            assert_eq!(outcome.done.len(), plan.steps.len(), "{what}");
            // The caller may die as well before it is finished.
            let Ok(Some(Resumed::Committed { outcome: again, .. })) = apply::resume(site, &mut ()) else {
                panic!("{what}: the journal is gone before it was finished")
            };
            let names = |o: &Outcome| o.done.iter().map(|m| (m.step, m.seen.map(|s| s.ino))).collect::<Vec<_>>();
            assert_eq!(names(&outcome), names(&again), "{what}: resumed twice");
            assert_eq!(apply::finish(site).unwrap_or_else(|e| panic!("{what}: finish: {e}")), []);
            true
        }
    };
    judge(f, done, trees, what);
    done
}

fn judge(f: &Fixture, done: bool, trees: &Trees, what: &str) {
    if done {
        same(&trees.after, &f.tree(), &format!("{what}: committed"));
    } else {
        same(&trees.before, &calm(f.tree()), &format!("{what}: undone"));
    }
    f.is_over();
}

/// Whether the outcome agrees with where the fault was.
fn agrees(point: &str, nth: u64, done: bool) {
    if BEFORE.contains(&point) {
        assert!(!done, "{point}:{nth} was before the point of no return");
    } else if AFTER.contains(&point) {
        assert!(done, "{point}:{nth} was after the point of no return");
    }
}

/// Each passage of each point until the work does not get that far. Returns how often each was hit.
fn everywhere(
    points: impl Iterator<Item = &'static str>,
    mut hit: impl FnMut(&'static str, u64) -> bool,
) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for point in points {
        let count = (1..).take_while(|&nth| hit(point, nth)).count() as u64;
        counts.insert(point, count);
    }
    println!("{counts:?}");
    assert!(counts.values().all(|&n| n > 0), "failpoints that the work does not pass: {counts:?}");
    assert_eq!(counts["apply.step"], work::plan(&started()).len() as u64);
    counts
}

#[test]
fn a_step_that_fails_leaves_it_as_it_was_or_to_be_resumed() {
    let _turn = turn();
    let trees = Trees::new();
    let counts = everywhere(points(), |point, nth| {
        let f = started();
        let root = f.root();
        fault::arm(point, nth, Action::Error);
        let result = whole(&f, &root);
        if !fault::disarm() {
            result.unwrap_or_else(|e| panic!("{point}:{nth} did not fire, but {e}"));
            judge(&f, true, &trees, "without a fault");
            return false;
        }
        let what = format!("{point}:{nth}:error");
        match result {
            // It says that nothing has happened: so there is nothing to resume.
            Err(error) if !matches!(error, Error::Unfinished(_)) => {
                judge(&f, false, &trees, &what);
                agrees(point, nth, false);
            }
            Err(_) => agrees(point, nth, recover(&f, &root, &trees, &what)),
            Ok(_) => panic!("{what}: swallowed"),
        }
        true
    });
    assert_eq!((counts["apply.journal"], counts["apply.step.after"]), (2, counts["apply.step"]));
}

/// Runs this test binary again, as a process that dies. `doing`: `apply`, or `resume`. Returns whether it died.
fn dies(f: &Fixture, doing: &str, plain: bool, point: &str, nth: u64) -> bool {
    let output = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "crash::child", "--nocapture"])
        .env(CHILD, f.dir.path())
        .env("REGENTFS_APPLY_DOING", doing)
        .env("REGENTFS_APPLY_PLAIN", if plain { "1" } else { "" })
        .env("REGENTFS_FAULT", format!("{point}:{nth}:abort"))
        .output()
        .expect("run the test binary");
    let died = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(libc::SIGABRT);
    assert!(died || output.status.success(), "{}", crate::common::both(&output));
    died
}

/// Not a test: what [`dies`] runs.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let dir = FsPath::new(&dir);
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|v| v == value);
    rustix::process::setrlimit(
        rustix::process::Resource::Core,
        rustix::process::Rlimit { current: Some(0), maximum: Some(0) },
    )
    .expect("no core dumps");
    let root = root(&dir.join("repo"));
    let root = if is("REGENTFS_APPLY_PLAIN", "1") { root.without_rename_flags() } else { root };
    let store = dir.join("store");
    let site = Site { store: &store, root: &root };
    fault::arm_from_environment().expect("a fault");
    if is("REGENTFS_APPLY_DOING", "resume") {
        assert!(matches!(apply::resume(site, &mut ()), Ok(Some(Resumed::Committed { .. }))));
    } else {
        // The fixture must not be dropped here: the directory is the parent's.
        let f = std::mem::ManuallyDrop::new(Fixture {
            base: dir.join("repo"),
            store: store.clone(),
            dir: tempfile::TempDir::new_in(dir).expect("a directory"),
        });
        let _ = std::fs::remove_dir(f.dir.path());
        let plan = Plan { id: ID, steps: work::plan(&f) };
        let applied = apply::apply(site, plan, &work::source(), &mut Kept::default(), &mut ());
        assert!(matches!(applied, Ok(Applied::Done(_))), "{applied:?}");
    }
    assert_eq!(apply::finish(site).expect("finish"), []);
}

#[test]
fn death_at_every_point_leaves_it_as_it_was_or_to_be_resumed() {
    let _turn = turn();
    let trees = Trees::new();
    for plain in [false, true] {
        // Without the flags, only what is between steps and inside them is different.
        let points = points().filter(|p| !plain || ["apply.step", "apply.step.half"].contains(p));
        everywhere(points, |point, nth| {
            let f = started();
            let died = dies(&f, "apply", plain, point, nth);
            let what = format!("{point}:{nth}:abort, plain {plain}");
            if died {
                agrees(point, nth, recover(&f, &open(&f, plain), &trees, &what));
            } else {
                judge(&f, true, &trees, &what);
            }
            died
        });
    }
}

#[test]
fn death_while_it_is_resumed_leaves_it_to_be_resumed_again() {
    let _turn = turn();
    let trees = Trees::new();
    for first in [("apply.commit.begin", 1), ("apply.step.half", 9), ("apply.step.after", 30)] {
        for point in AFTER {
            // All middles; of what is between them, some.
            for nth in (1..).step_by(if point == "apply.step.half" { 1 } else { 5 }) {
                let f = started();
                assert!(dies(&f, "apply", false, first.0, first.1));
                let died = dies(&f, "resume", false, point, nth);
                let what = format!("{first:?}, then {point}:{nth}");
                if !died {
                    judge(&f, true, &trees, &what);
                    assert!(nth > 1 || first.0 == "apply.step.after", "{what}: not passed");
                    break;
                }
                assert!(recover(&f, &f.root(), &trees, &what), "{what}: it was committed");
            }
        }
    }
}

#[test]
fn death_while_it_is_undone_leaves_it_to_be_undone_again() {
    let _turn = turn();
    let trees = Trees::new();
    let steps = work::plan(&started()).iter().filter(|s| s.swaps_in()).count() as u64;
    for nth in [1, 2, steps / 2, steps] {
        let f = started();
        assert!(dies(&f, "apply", false, "apply.temp", nth));
        let root = f.root();
        let site = Site { store: &f.store, root: &root };
        fault::arm("apply.dirsync", 1, Action::Error);
        let resumed = apply::resume(site, &mut ());
        assert!(fault::disarm());
        assert!(matches!(resumed, Err(Error::Unfinished(_))), "{resumed:?}");
        assert!(!recover(&f, &root, &trees, "undone twice"));
    }
}

#[test]
fn another_repository_is_not_touched_by_a_journal() {
    let _turn = turn();
    let (f, other) = (started(), Fixture::new());
    assert!(dies(&f, "apply", false, "apply.step", 5));
    let root = other.root();
    let site = Site { store: &f.store, root: &root };
    assert!(matches!(apply::resume(site, &mut ()), Err(Error::OtherRoot)));
    assert!(matches!(apply::finish(site), Err(Error::OtherRoot)));
    // A damaged one is not guessed at.
    let mut bytes = std::fs::read(f.journal()).expect("read the journal");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(f.journal(), &bytes).expect("write the journal");
    let root = f.root();
    let site = Site { store: &f.store, root: &root };
    assert!(matches!(apply::resume(site, &mut ()), Err(Error::Store(_))));
    let refused = apply::apply(site, Plan { id: 1, steps: Vec::new() }, &work::source(), &mut Kept::default(), &mut ());
    assert!(matches!(refused, Err(Error::Pending)));
}
