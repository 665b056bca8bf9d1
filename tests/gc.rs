//! Collecting the past: whatever the history and whatever is kept, all that is kept shows what it showed, and nothing else is left. Wherever it is cut
//! short, the store is whole, and a second run finishes it.
//!
//! `REGENTFS_GC_SEED` runs one seed again; `REGENTFS_GC_SEEDS` says how many to run.

#[path = "gc/live.rs"]
mod live;
#[path = "gc/oracle.rs"]
mod oracle;
#[path = "model/rng.rs"]
mod rng;
#[path = "model/seeds.rs"]
mod seeds;
#[path = "gc/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use regentfs::overlay::Ctx;
use regentfs::overlay::ops::create::New;
use regentfs::overlay::ops::io::Write;
use regentfs::overlay::ops::setattr::SetAttr;
use regentfs::overlay::seal::Reason;
use regentfs::store::fault::{self, Action};
use regentfs::store::gc::Report;
use regentfs::store::history::Why;
use regentfs::timeline::retention::Policy;
use regentfs::timeline::{Gate, Machine};
use regentfs::types::{ActorId, Epoch, HandleId, Kind, Known, Op, Time};
use rng::Rng;
use world::World;

/// Failpoints are global to the process.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(|failed| {
        fault::disarm();
        failed.into_inner()
    })
}

fn seeds(count: u64) -> impl Iterator<Item = u64> {
    seeds::seeds("GC", count)
}

/// Some of the snapshots, few or many.
fn some(world: &mut World) -> BTreeSet<Epoch> {
    let rarely = world.rng.below(6) + 1;
    let snapshots = world.snapshots();
    snapshots.into_iter().filter(|_| world.rng.one_in(rarely)).map(|s| s.epoch).collect()
}

#[test]
fn what_is_kept_shows_what_it_showed_and_nothing_else_is_left() {
    let _turn = turn();
    let mut sum = Report::default();
    for seed in seeds(40) {
        let mut world = World::new(seed);
        for round in 0..4 {
            for _ in 0..world.rng.below(120) + 20 {
                world.step();
            }
            assert_eq!(world.problems(), [""; 0], "seed {seed}, round {round}\n{}", world.trace());
            let keep = some(&mut world);
            let points = world.points(&keep);
            let before = world.trees(&points);
            let trace = world.trace();
            let what = |what: &str| format!("seed {seed}, round {round}: {what}\nkept {keep:?}\n{trace}");

            let dry = world.collect(&keep, true).expect("dry run");
            assert!(world.trees(&points) == before && world.held_is_as_it_was(), "{}", what("a dry run did something"));
            let report = world.collect(&keep, false).expect("collect");
            assert_eq!(dry, report, "{}", what("the dry run said otherwise"));
            for (at, tree) in &world.trees(&points) {
                assert!(*tree == before[at], "{}", what(&format!("{at:?} shows something else")));
            }
            assert!(world.held_is_as_it_was(), "{}", what("an open file shows something else"));
            assert!(world.kept_is_whole(), "{}", what("what operations kept"));
            assert_eq!(world.problems(), [""; 0], "{}", what("damaged"));
            assert_eq!(oracle::useless(&world, &points), [""; 0], "{}", what("left"));
            assert_eq!(oracle::missing_in_the_index(&world, &points), [""; 0], "{}", what("lost"));
            let again = world.collect(&keep, false).expect("collect");
            assert_eq!(again, Report::default(), "{}", what("a second run found more"));
            sum.snapshots += report.snapshots;
            sum.states += report.states;
            sum.versions += report.versions;
            sum.bytes += report.bytes;
            if world.rng.one_in(2) {
                world.reopen();
                assert!(world.trees(&points) == before, "{}", what("after a remount"));
                // What only memory needed can go now.
                world.collect(&keep, false).expect("collect");
                world.is_whole(&what("after a remount"));
                assert!(world.trees(&points) == before, "{}", what("after a remount and one more"));
            }
        }
    }
    println!("{sum:?}");
    if seeds::number("REGENTFS_GC_SEED").is_none() {
        let Report { snapshots, states, versions, bytes } = sum;
        assert!(snapshots > 0 && states > 0 && versions > 0 && bytes > 0, "{sum:?}");
    }
}

/// A world with some history, the same for every call.
fn world() -> (World, BTreeSet<Epoch>) {
    let mut world = World::new(5);
    while world.snapshots().len() < 45 {
        world.step();
    }
    // All of it is in the log.
    world.reopen();
    let mut rng = Rng::new(9);
    let keep = world.snapshots().into_iter().filter(|_| rng.one_in(3)).map(|s| s.epoch).collect();
    (world, keep)
}

/// Collects with a fault at every passage of a failpoint. Returns how often it fired.
fn everywhere(point: &'static str, action: Action) -> u64 {
    let mut fired = 0;
    loop {
        let (mut world, keep) = world();
        let points = world.points(&keep);
        let before = world.trees(&points);
        fault::arm(point, fired + 1, action);
        let _ = world.collect(&keep, false);
        let hit = fault::disarm();
        world.reopen();
        let what = format!("{point} {}: {action:?}", fired + 1);
        assert_eq!(world.problems(), [""; 0], "{what}");
        assert!(world.trees(&points) == before, "{what}: something else is shown");
        world.collect(&keep, false).expect("collect again");
        world.is_whole(&what);
        assert!(world.kept_is_whole(), "{what}: what operations kept");
        assert!(world.trees(&points) == before, "{what}: something else is shown after a second run");
        assert_eq!(oracle::useless(&world, &points), [""; 0], "{what}");
        assert_eq!(world.collect(&keep, false).expect("collect"), Report::default(), "{what}");
        if !hit {
            return fired;
        }
        fired += 1;
    }
}

const POINTS: &[&str] = &["gc.batch", "gc.remove", "log.commit.before", "log.sync", "data.sync", "data.remove"];

#[test]
fn a_collection_that_fails_once_leaves_the_store_whole() {
    let _turn = turn();
    for point in POINTS {
        let fired = everywhere(point, Action::Error);
        println!("{point}: {fired}");
        assert!(fired > 0, "{point}");
    }
}

#[test]
fn a_collection_that_dies_leaves_the_store_whole() {
    let _turn = turn();
    for point in POINTS {
        let fired = everywhere(point, Action::Dead);
        println!("{point}: {fired}");
        assert!(fired > 0, "{point}");
    }
}

#[test]
fn changes_go_on_while_it_is_collected() {
    let _turn = turn();
    let mut found = 0;
    for seed in seeds(6) {
        let mut world = World::new(seed);
        found += live::run(&world, seed, 1500);
        assert_eq!(world.problems(), [""; 0], "seed {seed}");
        let keep = world.snapshots().into_iter().map(|s| s.epoch).collect();
        let points = world.points(&keep);
        let before = world.trees(&points);
        world.reopen();
        world.collect(&keep, false).expect("collect");
        world.is_whole(&format!("seed {seed}"));
        assert!(world.trees(&points) == before, "seed {seed}: after a remount");
    }
    assert!(found > 10, "{found} collections found something");
}

/// A machine over a fresh overlay, and a file that is written anew before each snapshot.
struct Steps {
    world: World,
    machine: Machine,
}

const DAY: i64 = 86400;
const SIZE: usize = 1 << 20;

impl Steps {
    fn new() -> Steps {
        let world = World::new(1);
        let machine = Machine::new(world.overlay.clone(), Arc::new(Gate::default()));
        let steps = Steps { world, machine };
        let root = steps.world.overlay.root().clone();
        let new = New { kind: Kind::File, perm: 0o644, umask: 0, rdev: 0, target: None };
        steps.world.overlay.create(&Steps::ctx(0), &root, b"file", &new).expect("create");
        steps
    }

    fn ctx(day: i64) -> Ctx {
        Ctx { actor: ActorId(1), uid: 0, gid: 0, now: Time::new(day * DAY, 0), epoch: Epoch(1), shared: false }
    }

    fn step(&mut self, day: i64, label: Option<&str>) -> Epoch {
        let (overlay, ctx) = (self.world.overlay.clone(), Steps::ctx(day));
        let inode = overlay.lookup(overlay.root(), b"file").expect("look up");
        overlay.setattr(&ctx, &inode, &SetAttr { size: Some(0), ..SetAttr::default() }).expect("cut");
        let data = self.world.rng.bytes(SIZE);
        let (handle, known, op) = (HandleId(1), Known::Observed, Op::Write);
        let write = Write { offset: 0, data: &data, append: false, kill_ids: false, handle, op, known };
        overlay.write(&ctx, &inode, &write).expect("write");
        let reason = Reason { why: Why::Step, label: label.map(str::to_owned), note: String::new() };
        self.machine.snapshot(&ctx, &reason, &[], false).expect("snapshot").epoch
    }

    fn gc(&self, keep: Option<u64>, max_size: Option<u64>, dry_run: bool) -> Report {
        let policy = Policy { keep: keep.map(|days| Duration::from_secs(days * DAY as u64)), max_size };
        self.machine.gc(&Steps::ctx(10), &policy, &|_| Ok(Vec::new()), dry_run).expect("gc")
    }

    fn left(&self) -> Vec<Epoch> {
        self.world.snapshots().into_iter().map(|s| s.epoch).collect()
    }
}

#[test]
fn a_policy_decides_what_goes() {
    let _turn = turn();
    let mut steps = Steps::new();
    let epochs: Vec<Epoch> = (1..=8).map(|day| steps.step(day, (day == 2).then_some("two"))).collect();
    assert_eq!(steps.gc(None, None, false), Report::default(), "nothing asks for anything to go");
    let dry = steps.gc(Some(5), None, true);
    assert_eq!(steps.left(), epochs, "a dry run");
    let report = steps.gc(Some(5), None, false);
    assert_eq!(report, dry);
    assert_eq!((report.snapshots, report.versions), (3, 3));
    assert!((3 * SIZE as u64..4 * SIZE as u64).contains(&report.bytes), "{report:?}");
    assert_eq!(steps.left(), [epochs[1], epochs[4], epochs[5], epochs[6], epochs[7]]);
    // Five files of a mebibyte are there, and the log.
    let size = (4 * SIZE + SIZE / 2) as u64;
    assert_eq!(steps.gc(Some(5), Some(size), true).snapshots, 1);
    let report = steps.gc(Some(5), Some(size - SIZE as u64), false);
    assert_eq!((report.snapshots, report.versions), (2, 2), "the oldest without a label");
    assert_eq!(steps.left(), [epochs[1], epochs[6], epochs[7]]);
    let report = steps.gc(Some(5), Some(1), false);
    assert_eq!((report.snapshots, steps.left()), (1, vec![epochs[1], epochs[7]]), "the newest stays, and the label");
    assert_eq!(steps.gc(Some(5), Some(1), false), Report::default());
    assert_eq!(steps.world.problems(), [""; 0]);
}
