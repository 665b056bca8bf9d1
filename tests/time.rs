//! Time, without a mount: random operations mixed with snapshots, rewinds, undo, restarts and a forgetful kernel, against a reference that keeps a
//! plain tree per point in time. After each of them every point must show exactly what was there, and two points must differ in exactly what they
//! differ in.
//!
//! `REGENTFS_TIME_CASES` says how many sequences to run, `REGENTFS_TIME_SEED` runs those of one seed again, `REGENTFS_TIME_SCRIPT` what is in a file. A
//! sequence that fails is made shorter and printed, as such a file.

#[path = "common/mod.rs"]
mod common;
#[path = "model/mod.rs"]
mod model;
#[path = "time/mod.rs"]
mod time;

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;

use model::log::Log;
use model::seeds::{number, seed};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use regentfs::store::mem::MemKv;
use time::live::Live;
use time::op::{Op, sequence};
use time::run::Run;
use time::shorter::shorter;
use time::tree::Tree;

/// A base that every sequence starts from: none may change it.
struct World {
    base: PathBuf,
    tree: Tree,
    before: common::tree::Tree,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        rustix::process::umask(rustix::fs::Mode::empty());
        let dir = common::scratch();
        let base = dir.path().join("base");
        std::fs::create_dir(&base).expect("create the base");
        time::base::populate(&base);
        let tree = time::base::read(&base);
        let before = common::tree::read(&base);
        World { base, tree, before, dir }
    }

    /// Runs one sequence; a failure comes with everything that was done.
    fn run(&self, log: Log, ops: &[Op], thorough: bool) -> Result<(), String> {
        let store = tempfile::tempdir_in(self.dir.path()).expect("a directory for the store");
        let mut run = Run::new(Live::new(&self.base, &store.path().join("store"), log), &self.tree);
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
            for op in ops {
                run.step(op)?;
            }
            run.end(thorough)
        }));
        let why = match result {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => why,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                format!("panic: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?"))
            }
        };
        Err(format!("{why}\nafter:\n{}", run.trace.join("\n")))
    }
}

fn check(cases: u32, log: impl Fn() -> Log) {
    let world = World::new();
    let seed = seed("REGENTFS_TIME_SEED");
    let cases = number("REGENTFS_TIME_CASES").map_or(cases, |n| n as u32);
    println!("REGENTFS_TIME_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    match runner.run(&sequence(), |ops| world.run(log(), &ops, false).map_err(TestCaseError::fail)) {
        Ok(()) => {}
        Err(TestError::Fail(why, ops)) => {
            let why =
                shorter(ops, |ops| world.run(log(), ops, true).err()).unwrap_or_else(|| format!("{why}\n(not again)"));
            panic!("REGENTFS_TIME_SEED={seed}: {why}");
        }
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
    let (before, after) = (&world.before, common::tree::read(&world.base));
    common::tree::assert_same(before, &after, &common::tree::View::exact(), "the base was changed");
}

#[test]
fn time_with_the_log_in_memory() {
    check(300, || Log::Memory(Arc::new(MemKv::new())));
}

#[test]
fn time_with_the_log_on_disk() {
    check(40, || Log::Disk);
}

/// What was wrong once.
#[test]
fn known_sequences() {
    let world = World::new();
    let asked = std::env::var_os("REGENTFS_TIME_SCRIPT").map(|path| std::fs::read_to_string(path).expect("the script"));
    let known = time::known::SCRIPTS.iter().filter(|_| asked.is_none()).map(|(name, text)| (*name, *text));
    let asked = asked.as_deref().map(|text| ("REGENTFS_TIME_SCRIPT", text));
    let mut failures = Vec::new();
    for (name, text) in known.chain(asked) {
        let ops = time::script::parse(text);
        failures.extend(
            world.run(Log::Memory(Arc::new(MemKv::new())), &ops, true).err().map(|why| format!("{name}: {why}")),
        );
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}
