//! Faults: every write, sync and commit of the store fails once, and is once the last thing that works. Nothing that was
//! acknowledged is lost, nothing else changes, and the store is whole afterwards.
//!
//! Failpoints are global to the process, so the tests here take turns.

#[path = "common/mod.rs"]
mod common;
#[path = "crash/mod.rs"]
mod crash;
#[path = "model/mod.rs"]
mod model;
#[path = "states/scene.rs"]
mod scene;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use crash::{Fault, Kind, Run};
use regentfs::store::fault::{self, Action, POINTS};

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    let turn = TURN.lock().unwrap_or_else(|failed| {
        fault::disarm();
        failed.into_inner()
    });
    // Whoever had the turn before may have set another one.
    rustix::process::umask(rustix::fs::Mode::empty());
    turn
}

/// The failpoints of the store; those of apply and of a collection have tests of their own (`tests/apply.rs`, `tests/gc.rs`).
pub fn points() -> impl Iterator<Item = &'static str> {
    POINTS.iter().copied().filter(|point| !point.starts_with("apply.") && !point.starts_with("gc."))
}

/// Runs the script with the fault at each passage of each point until the script does not get that far. Returns how often each fired.
fn everywhere(kind: Kind, action: Action, step: u64) -> BTreeMap<&'static str, u64> {
    let mut fired = BTreeMap::new();
    for point in points() {
        let count = fired.entry(point).or_default();
        for nth in (1..).step_by(step as usize) {
            if !Run::new(common::scratch(), kind, Fault { point, nth, action }).run() {
                break;
            }
            *count += 1;
        }
    }
    fired
}

#[test]
fn the_script_succeeds_when_nothing_fails() {
    let _turn = turn();
    let fault = Fault { point: "nowhere", nth: 1, action: Action::Error };
    assert!(!Run::new(common::scratch(), Kind::Disk, fault).run());
}

#[test]
fn a_write_that_fails_once_changes_nothing_else() {
    let _turn = turn();
    let fired = everywhere(Kind::Memory, Action::Error, 1);
    println!("{fired:?}");
    // An answer that came after the commit cannot be an error any more.
    let silent: Vec<_> = fired.iter().filter(|&(_, &n)| n == 0).map(|(&p, _)| p).collect();
    assert_eq!(silent, ["log.commit.after"], "failpoints that the script does not pass");
}

#[test]
fn what_was_acknowledged_survives_death_at_every_point() {
    let _turn = turn();
    let fired = everywhere(Kind::Memory, Action::Dead, 1);
    println!("{fired:?}");
    assert!(fired.values().all(|&n| n > 0), "failpoints that the script does not pass: {fired:?}");
}

#[test]
fn what_was_acknowledged_survives_death_with_the_log_on_disk() {
    let _turn = turn();
    let fired = everywhere(Kind::Disk, Action::Dead, 5);
    assert!(fired.values().all(|&n| n > 0), "failpoints that the script does not pass: {fired:?}");
}

#[test]
fn what_was_acknowledged_survives_the_death_of_the_daemon() {
    let _turn = turn();
    if common::can_mount() {
        let fired = crash::daemon::everywhere();
        println!("{fired:?}");
        assert!(fired.values().all(|&n| n > 0), "failpoints that the script does not pass: {fired:?}");
    }
}

/// Merges two timelines with a fault at one place; returns whether it happened.
fn merge_with(fault: Fault) -> bool {
    use regentfs::timeline::combine::Favor;
    use regentfs::timeline::merging::How;
    let ours = scene::Scene::new(|repo| {
        std::fs::create_dir(repo.join("d")).expect("a directory");
        for name in ["text", "d/a", "d/b"] {
            let lines: String = (1..20).map(|n| format!("line {n}\n")).collect();
            std::fs::write(repo.join(name), lines).expect("a file");
        }
    });
    ours.write("text", &format!("ours\n{}", ours.text("text")));
    let theirs = ours.fork("theirs");
    for name in ["text", "d/b"] {
        theirs.append(name, "theirs\n");
    }
    ours.write("d/b", &format!("ours\n{}", ours.text("d/b")));
    theirs.remove("d/a");
    theirs.write("d/new", "new\n");
    // Not sealed: that is done on the way.
    let timeline = theirs.timeline;
    let before = ours.shot();
    fault::arm(fault.point, fault.nth, fault.action);
    let how = How { favor: Favor::None, dry_run: false, note: "merge of theirs" };
    let done = ours.machine.merge(&ours.ctx(), timeline, how, &[]);
    let fired = fault::disarm();
    let failed = done.is_err();
    if fault.action == Action::Error {
        if failed {
            assert_eq!(ours.shot().ino, before.ino, "{fault:?}");
            scene::same(&before.tree, &ours.tree(), &format!("{fault:?}: the tree that goes on"));
        }
        ours.verify();
    }
    let again = ours.again();
    again.verify();
    let tree = again.tree();
    let happened = tree.contains_key("d/new");
    if happened {
        assert_eq!(again.text("d/b").lines().count(), 21, "{fault:?}");
        assert!(again.text("text").ends_with("theirs\n") && !again.exists("d/a"), "{fault:?}");
    } else {
        scene::same(&before.tree, &tree, &format!("{fault:?}: before or after, and nothing between"));
    }
    assert!(failed || happened, "{fault:?}: it was acknowledged");
    // What a failed one left behind is in nobody's way.
    drop((ours, theirs));
    again.machine.merge(&again.ctx(), timeline, how, &[]).expect("the same merge once more");
    again.verify();
    assert!(again.exists("d/new"));
    fired
}

#[test]
fn a_merge_is_there_as_a_whole_or_not_at_all() {
    let _turn = turn();
    let points = ["data.create", "data.write", "log.commit.before", "log.commit.after"];
    for action in [Action::Error, Action::Dead] {
        for point in points {
            let fired = (1..).take_while(|&nth| merge_with(Fault { point, nth, action })).count();
            // An answer that came after the commit cannot be an error any more.
            let silent = action == Action::Error && point == "log.commit.after";
            assert_eq!(fired == 0, silent, "{point} {action:?}: {fired} times");
        }
    }
}
