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

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use crash::{Fault, Kind, Run};
use regentfs::store::fault::{self, Action, POINTS};

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    rustix::process::umask(rustix::fs::Mode::empty());
    TURN.lock().unwrap_or_else(|failed| {
        fault::disarm();
        failed.into_inner()
    })
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
