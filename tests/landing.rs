//! Apply, without a mount: after random work the base must be what the overlay showed, the overlay must have nothing of its own left, and every
//! point of the past must show what it showed before; undo and redo of it, restarts in between, and faults at every point as well.
//!
//! `REGENTFS_LANDING_CASES` says how many sequences to run, `REGENTFS_LANDING_SEED` runs those of one seed again.

#[path = "common/mod.rs"]
mod common;
#[path = "landing/dump.rs"]
mod dump;
#[path = "landing/known.rs"]
mod known;
#[path = "model/mod.rs"]
mod model;
#[path = "time/mod.rs"]
mod time;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::Path as FsPath;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dump::dump;
use model::log::Log;
use model::seeds::{number, seed};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use regentfs::apply::Root;
use regentfs::landing::{Landing, Selection};
use regentfs::overlay::restore::differing;
use regentfs::overlay::view::View;
use regentfs::store::check::check;
use regentfs::store::fault;
use regentfs::store::history;
use regentfs::store::mem::MemKv;
use regentfs::timeline::undo::Direction;
use regentfs::types::{At, Kind, Time};
use time::live::Live;
use time::op::{Op, sequence};
use time::run::Run;
use time::shorter::shorter;
use time::tree::{File, Tree, show};

/// Failpoints are the process's: tests take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same where owners are given to files, which a plain user may not do on disk.
fn turn_of_root(what: &str) -> Option<MutexGuard<'static, ()>> {
    if common::plain_user() {
        common::leave_to_root(what);
        return None;
    }
    let turn = turn();
    rustix::process::umask(rustix::fs::Mode::empty());
    Some(turn)
}

/// What counts about a file: all but numbers, links and the times that nobody can set.
#[allow(clippy::type_complexity)]
fn looks(file: &File) -> (Kind, u16, u32, u32, u64, Option<Time>, &[u8], &[u8], String) {
    let times = (file.kind != Kind::Dir).then_some(file.mtime);
    let size = if file.kind == Kind::File { file.size } else { 0 };
    (file.kind, file.perm, file.uid, file.gid, size, times, &file.bytes, &file.target, format!("{:?}", file.xattrs))
}

fn by_path(tree: &Tree) -> BTreeMap<Vec<u8>, &File> {
    tree.paths().into_iter().map(|(path, number)| (path, tree.file(number))).collect()
}

fn assert_same(right: &Tree, found: &Tree, what: &str) {
    compare(right, found, what, true);
}

/// The base against what was applied: a file of which only the time changed is not applied.
fn assert_applied(right: &Tree, found: &Tree, what: &str) {
    compare(right, found, what, false);
}

fn compare(right: &Tree, found: &Tree, what: &str, times: bool) {
    let (right, found) = (by_path(right), by_path(found));
    let ours = |path: &&Vec<u8>| !path.split(|&b| b == b'/').any(|name| name.starts_with(b".regentfs-"));
    for path in right.keys().chain(found.keys()).filter(ours) {
        match (right.get(path), found.get(path)) {
            (Some(a), Some(b)) => {
                let (mut a, mut b) = (looks(a), looks(b));
                if !times {
                    (a.5, b.5) = (None, None);
                }
                assert!(
                    a == b,
                    "{what}: {}: {:?} {:?}, found {:?} {:?}",
                    show(path),
                    (a.0, a.1, a.2, a.3, a.4, a.5, a.6.len()),
                    (a.7, &a.8),
                    (b.0, b.1, b.2, b.3, b.4, b.5, b.6.len()),
                    (b.7, &b.8)
                );
            }
            (Some(_), None) => panic!("{what}: {} is missing", show(path)),
            (None, _) => panic!("{what}: {} should not be there", show(path)),
        }
    }
}

/// What everything shows before an apply.
struct Before {
    now: Tree,
    points: Vec<(At, Tree)>,
}

impl Before {
    fn of(live: &mut Live, points: &[At]) -> Before {
        let now = live.tree().expect("read the tree");
        let points = points.iter().map(|&at| (at, live.tree_of_past(at).expect("read a point"))).collect();
        Before { now, points }
    }

    fn check(&self, live: &mut Live, what: &str) {
        assert_same(&self.now, &live.tree().unwrap_or_else(|e| panic!("{what}: {e}")), &format!("{what}: now"));
        for (at, tree) in &self.points {
            let found = live.tree_of_past(*at).unwrap_or_else(|e| panic!("{what}: {at:?}: {e}"));
            assert_same(tree, &found, &format!("{what}: {at:?}"));
        }
        let report = check(live.store(), true).expect("fsck");
        assert!(report.problems.is_empty(), "{what}: {:#?}", report.problems);
    }
}

fn with<T>(live: &Live, act: impl FnOnce(&Landing<'_>) -> T) -> T {
    let root = Root::new(live.overlay().base().descriptor().expect("the base"));
    act(&Landing { machine: live.machine(), root: &root, others: Vec::new() })
}

fn apply(live: &Live, now: Time) -> Result<(), String> {
    apply_only(live, now, Vec::new())
}

fn apply_only(live: &Live, now: Time, paths: Vec<regentfs::types::Path>) -> Result<(), String> {
    let ctx = Live::ctx(now);
    let selection = Selection { paths, ..Selection::default() };
    match with(live, |landing| landing.apply(&ctx, &selection, &mut ())) {
        Ok(landed) if landed.conflicts.is_empty() => Ok(()),
        Ok(landed) => Err(format!("conflicts: {:?}", landed.conflicts)),
        Err(error) => Err(error.to_string()),
    }
}

fn undo(live: &Live, now: Time, direction: Direction) {
    let operation = live.machine().next_operation(direction).expect("there is one");
    let ctx = Live::ctx(now);
    let redo = direction == Direction::Redo;
    let landed = with(live, |landing| landing.undo(&ctx, &operation, redo, &mut ())).expect("undo");
    assert!(landed.conflicts.is_empty(), "{:?}", landed.conflicts);
}

fn nothing_left(live: &Live, what: &str) {
    let (base, now) = (View::base(live.overlay()), View::now(live.overlay()));
    let left = differing(&base, &now).expect("compare");
    assert!(left.is_empty(), "{what}: still in the overlay: {left:?}");
}

/// Why a sequence fails, with what was done. `parts`: some of the paths are applied before the others.
fn failure(ops: &[Op], log: Log, parts: bool) -> Option<String> {
    let mut trace = Vec::new();
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| case(ops, log, parts, &mut trace)));
    let panic = result.err()?;
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let why = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?");
    Some(format!("{why}\nafter:\n{}", trace.join("\n")))
}

fn case(ops: &[Op], log: Log, parts: bool, trace: &mut Vec<String>) {
    let dir = common::scratch();
    let base = dir.path().join("base");
    std::fs::create_dir(&base).expect("create the base");
    time::base::populate(&base);
    let tree = time::base::read(&base);
    let mut run = Run::new(Live::new(&base, &dir.path().join("store"), log), &tree);
    for op in ops {
        let done = run.step(op);
        trace.clone_from(&run.trace);
        done.expect("a step of the work");
    }
    let (mut live, points) = run.into_parts();
    live.restart();
    let before = Before::of(&mut live, &points);
    let original = time::base::read(&base);
    dump(&live, &base, "before apply");
    if parts {
        let several = |(path, file): (Vec<u8>, &File)| (file.nlink > 1 && file.kind != Kind::Dir).then_some(path);
        let links = by_path(&original).into_iter().filter_map(several).collect();
        if !in_parts(&mut live, &before, &links) {
            return;
        }
        assert_applied(&before.now, &time::base::read(&base), "the base after apply in parts");
        return;
    }
    match apply(&live, Time::new(2_000_000_000, 1)) {
        Err(error) if error.contains("nothing to apply") => return,
        other => other.expect("apply"),
    }
    dump(&live, &base, "after apply");
    before.check(&mut live, "after apply");
    nothing_left(&live, "after apply");
    assert_applied(&before.now, &time::base::read(&base), "the base after apply");
    undo(&live, Time::new(2_000_000_001, 1), Direction::Undo);
    assert_same(&original, &time::base::read(&base), "the base after undo");
    dump(&live, &base, "after undo");
    before.check(&mut live, "after undo");
    undo(&live, Time::new(2_000_000_002, 1), Direction::Redo);
    assert_applied(&before.now, &time::base::read(&base), "the base after redo");
    dump(&live, &base, "after redo");
    before.check(&mut live, "after redo");
    live.restart();
    dump(&live, &base, "after a restart");
    before.check(&mut live, "after a restart");
    nothing_left(&live, "after a restart");
    // What regentfs itself took out of the base again is nobody else's change.
    undo(&live, Time::new(2_000_000_003, 1), Direction::Undo);
    apply(&live, Time::new(2_000_000_004, 1)).expect("apply once more");
    assert_applied(&before.now, &time::base::read(&base), "the base after the second apply");
    before.check(&mut live, "after the second apply");
}

/// Applies every third path that differs, and what is below; then, after a restart, the rest. Whether that was all; `links` are paths of files with
/// several names.
fn in_parts(live: &mut Live, before: &Before, links: &BTreeSet<Vec<u8>>) -> bool {
    let preview = with(live, |landing| landing.preview(&Selection::default())).expect("preview");
    let some: Vec<_> = preview.paths.iter().step_by(3).cloned().collect();
    let nothing = |error: &String| error.contains("nothing to apply");
    if !some.is_empty() {
        let done = apply_only(live, Time::new(2_000_000_000, 1), some.clone());
        assert!(done.is_ok() || done.as_ref().is_err_and(nothing), "apply of {some:?}: {done:?}");
        before.check(live, &format!("after apply of {some:?}"));
        live.restart();
        before.check(live, &format!("after a restart after apply of {some:?}"));
    }
    let done = apply(live, Time::new(2_000_000_001, 1));
    // Where some names of a file were applied, what is left of it may be taken for somebody else's change. Nothing is done then.
    if let Err(error) = &done
        && error.contains("conflicts")
    {
        let rest = with(live, |landing| landing.preview(&Selection::default())).expect("preview");
        let several = |path: &regentfs::types::Path| links.contains(path.as_bytes());
        assert!(rest.conflicts.iter().all(|c| several(&c.path)), "after {some:?}: {error}");
        before.check(live, &format!("after the rest after {some:?} was refused"));
        return false;
    }
    assert!(done.is_ok() || done.as_ref().is_err_and(nothing), "apply of the rest after {some:?}: {done:?}");
    before.check(live, &format!("after apply of the rest after {some:?}"));
    nothing_left(live, "after apply in parts");
    true
}

fn sequences(cases: u32) -> Vec<Vec<Op>> {
    let seed = seed("REGENTFS_LANDING_SEED");
    let cases = number("REGENTFS_LANDING_CASES").map_or(cases, |n| n as u32);
    println!("REGENTFS_LANDING_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut one = || sequence().new_tree(&mut runner).expect("a sequence").current();
    (0..cases).map(|_| one()).collect()
}

#[test]
fn what_is_applied_leaves_the_overlay_and_the_past_stays() {
    let Some(_turn) = turn_of_root("applies after random work") else { return };
    let memory = || Log::Memory(Arc::new(MemKv::new()));
    for (at, ops) in sequences(80).into_iter().enumerate() {
        let log = if at % 6 == 0 { Log::Disk } else { memory() };
        let parts = at % 4 == 3;
        if let Some(why) = failure(&ops, log, parts) {
            panic!("case {at} (parts: {parts}): {}", shorter(ops, |ops| failure(ops, memory(), parts)).unwrap_or(why));
        }
    }
}

/// What was wrong once; `REGENTFS_LANDING_SCRIPT` runs what is in a file instead.
#[test]
fn known_sequences() {
    let Some(_turn) = turn_of_root("applies after known sequences") else { return };
    let asked = std::env::var_os("REGENTFS_LANDING_SCRIPT").map(|p| std::fs::read_to_string(p).expect("the script"));
    let known: Vec<(&str, &str)> = match &asked {
        Some(text) => vec![("REGENTFS_LANDING_SCRIPT", text)],
        None => known::SCRIPTS.to_vec(),
    };
    let run = |name: &str, text: &str, parts| {
        let why = failure(&time::script::parse(text), Log::Memory(Arc::new(MemKv::new())), parts)?;
        Some(format!("{name} (parts: {parts}): {why}"))
    };
    let both = |(name, text): &(&str, &str)| [run(name, text, false), run(name, text, true)].into_iter().flatten();
    let failures: Vec<String> = known.iter().flat_map(both).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

fn write(path: impl AsRef<FsPath>, text: &str) {
    std::fs::write(path, text).expect("write");
}

#[test]
fn a_base_that_moved_is_refused_and_untouched() {
    let _turn = turn();
    let dir = common::scratch();
    let base = dir.path().join("base");
    std::fs::create_dir(&base).expect("create the base");
    for name in ["a", "b", "c"] {
        write(base.join(name), "old\n");
    }
    let log = Log::Memory(Arc::new(MemKv::new()));
    let mut live = Live::new(&base, &dir.path().join("store"), log);
    let ctx = Live::ctx(Time::new(1_900_000_000, 0));
    for name in ["a", "b"] {
        let inode = live.walk(name.as_bytes()).expect("walk");
        let write = regentfs::overlay::ops::io::Write {
            offset: 0,
            data: b"new\n",
            append: true,
            kill_ids: false,
            handle: regentfs::types::HandleId(0),
            op: regentfs::types::Op::Write,
            known: regentfs::types::Known::Observed,
        };
        live.overlay().write(&ctx, &inode, &write).expect("write");
    }
    let root = live.overlay().root().clone();
    live.overlay().unlink(&ctx, &root, b"c").expect("unlink");
    write(base.join("a"), "somebody else's\n");
    write(base.join("c"), "longer than before\n");
    let before = common::tree::read(&base);
    let landed = with(&live, |l| l.apply(&ctx, &Selection::default(), &mut ())).expect("an answer");
    let mut paths: Vec<String> = landed.conflicts.iter().map(|c| c.path.to_string()).collect();
    paths.sort();
    assert_eq!(paths, ["a", "c"]);
    assert!(landed.after.is_none());
    let after = common::tree::read(&base);
    common::tree::assert_same(&before, &after, &common::tree::View::exact(), "a refused apply changed the base");
    // The one without a conflict can be had by itself.
    let only = Selection { paths: vec![regentfs::types::Path::new(b"b")], ..Selection::default() };
    let landed = with(&live, |l| l.apply(&ctx, &only, &mut ())).expect("apply b");
    assert!(landed.conflicts.is_empty());
    assert_eq!(std::fs::read_to_string(base.join("b")).expect("read"), "old\nnew\n");
    assert_eq!(std::fs::read_to_string(base.join("a")).expect("read"), "somebody else's\n");
}

/// Every failpoint of apply and of the log, one after the other, fails once: base and overlay are then as before or as after, and a restart
/// followed by another apply leads to the end.
#[test]
fn a_fault_anywhere_leaves_before_or_after() {
    let _turn = turn();
    let points = [
        "apply.keep",
        "apply.journal",
        "apply.temp",
        "apply.commit.begin",
        "apply.step",
        "apply.step.after",
        "apply.dirsync",
        "apply.finish",
        "data.write",
        "log.commit.before",
        "data.sync",
        "log.sync",
    ];
    for point in points {
        for nth in 1..=6 {
            let dir = common::scratch();
            let base = dir.path().join("base");
            std::fs::create_dir_all(base.join("d/e")).expect("create the base");
            for name in ["a", "b", "d/one", "d/e/two"] {
                write(base.join(name), "old\n");
            }
            let original = time::base::read(&base);
            let mut live = Live::new(&base, &dir.path().join("store"), Log::FaultyDisk);
            let ctx = Live::ctx(Time::new(1_900_000_000, 0));
            let root = live.overlay().root().clone();
            let (a, d) = (live.walk(b"a").expect("walk"), live.walk(b"d").expect("walk"));
            let write = regentfs::overlay::ops::io::Write {
                offset: 0,
                data: b"new\n",
                append: true,
                kill_ids: false,
                handle: regentfs::types::HandleId(0),
                op: regentfs::types::Op::Write,
                known: regentfs::types::Known::Observed,
            };
            live.overlay().write(&ctx, &a, &write).expect("write");
            live.overlay().unlink(&ctx, &root, b"b").expect("unlink");
            let spot = |dir, name| regentfs::overlay::ops::rename::Spot { dir, name };
            let how = regentfs::overlay::ops::rename::Rename::Replace;
            live.overlay().rename(&ctx, spot(&d, b"e"), spot(&root, b"moved"), how).expect("rename");
            drop((a, d));
            let first = live.machine().snapshot(
                &ctx,
                &regentfs::overlay::seal::Reason::new(history::Why::Manual, ""),
                &[],
                false,
            );
            let point_at = At { timeline: live.overlay().timeline(), epoch: first.expect("snapshot").epoch };
            let before = Before::of(&mut live, &[point_at]);
            fault::arm(point, nth, fault::Action::Error);
            let result = apply(&live, Time::new(2_000_000_000, 1));
            fault::disarm();
            let what = format!("{point}:{nth} ({result:?})");
            live.restart();
            let now = time::base::read(&base);
            let is_after = by_path(&now).contains_key(&b"moved"[..]);
            // One that was interrupted in its middle is finished by the next.
            let interrupted = result.as_ref().is_err_and(|e| e.contains("interrupted"));
            if result.is_err() && !interrupted && !is_after {
                assert_same(&original, &now, &format!("{what}: the base"));
            }
            match apply(&live, Time::new(2_000_000_005, 1)) {
                Err(error) if error.contains("nothing to apply") => {}
                other => other.unwrap_or_else(|e| panic!("{what}: and then {e}")),
            }
            assert_applied(&before.now, &time::base::read(&base), &format!("{what}: the base in the end"));
            before.check(&mut live, &what);
            nothing_left(&live, &what);
        }
    }
}
