//! The promise of the record, against the truth: the read-set of a process is never smaller than what it read, and every
//! change is put down to who made it.
//!
//! Random programs (`promise/worker.py`) read a mount in all the ways there are and log what they got; strace confirms it. A seed is
//! one program: `REGENTFS_SEED=N` runs that one, `REGENTFS_SEEDS=N` that many.

mod common;
#[path = "promise/deeds.rs"]
mod deeds;
#[path = "mount/scene.rs"]
mod scene;
#[path = "promise/strace.rs"]
mod strace;
#[path = "promise/truth.rs"]
mod truth;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{both, can_mount, has_programs};
use scene::Scene;
use truth::Recorded;

/// Files of the base, with their sizes; 256 KiB is where a file stops to be small.
const SMALL: &[(&str, usize)] =
    &[("small/a", 1), ("small/b", 100), ("small/c", 4096), ("small/d", 70_000), ("small/e", 256 << 10)];
const LARGE: &[(&str, usize)] =
    &[("large/a", (256 << 10) + 1), ("large/b", 1_000_000), ("large/c", 3_500_000), ("large/deep/d", 700_001)];
const LIVE: &[(&str, usize)] = &[("live/small", 5000), ("live/large", 400_000)];
const GONE: &[(&str, usize)] = &[("gone/a", 9000), ("gone/b", 300_000), ("gone/c", 70_000)];

const WORKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/promise/worker.py");

pub fn populate(base: &Path) {
    for (seed, (name, size)) in [SMALL, LARGE, LIVE, GONE].concat().into_iter().enumerate() {
        let path = base.join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("mkdir");
        let mut state = seed as u64 + 1;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        })
        .take(size)
        .collect();
        fs::write(path, bytes).expect("write");
    }
    fs::create_dir(base.join("bin")).expect("mkdir");
    fs::copy("/bin/cat", base.join("bin/cat")).expect("copy cat");
    fs::write(base.join("bin/script"), "#!/bin/sh\nexec cat \"$1\"\n").expect("write");
    fs::set_permissions(base.join("bin/script"), fs::Permissions::from_mode(0o755)).expect("chmod");
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Connector {
    Used,
    Unused,
}

/// A mounted scene, and whether its daemon is told of forks by the kernel.
fn mounted(record: &str, connector: Connector) -> (Scene, bool) {
    let mut scene = Scene::new(populate);
    if connector == Connector::Unused {
        scene = scene.with_env("REGENTFS_NO_CONNECTOR", "1");
    }
    scene.mount(&["--record", record]);
    let log = fs::read_to_string(scene.store().join("daemon.log")).expect("the daemon's log");
    let forks_seen = connector == Connector::Used && !log.contains("no process connector");
    (scene, forks_seen)
}

fn seeds(ours: std::ops::Range<u64>) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match (number("REGENTFS_SEED"), number("REGENTFS_SEEDS")) {
        (Some(one), _) => vec![one],
        (None, Some(many)) => (0..many).map(|n| ours.start + n * 1000).collect(),
        (None, None) => ours.collect(),
    }
}

/// Runs programs in one mount, and compares the record with the truth after each.
fn keeps_its_promise(record: &str, connector: Connector, ours: std::ops::Range<u64>) {
    if !can_mount() || !has_programs(&["strace", "python3"], "the promise of the record") {
        return;
    }
    for seed in seeds(ours) {
        let (scene, forks_seen) = mounted(record, connector);
        let at = |name: &str| -> PathBuf { scene.outside().join(name) };
        let names = |files: &[(&str, usize)]| files.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
        let config = serde_json::json!({
            "small": names(SMALL), "large": names(LARGE), "live": names(LIVE), "gone": names(GONE),
            "budget": 14, "forks_seen": forks_seen,
            // What the page cache answers to a process that got a descriptor over a socket is not seen (docs/SEMANTICS.md).
            "pass": record == "exact" || !forks_seen,
        });
        let mut worker = strace::strace(&at("strace"));
        worker.args(["python3", WORKER]).arg(seed.to_string()).arg(scene.root()).arg(scene.outside());
        worker.arg(at("log")).arg(config.to_string()).current_dir(scene.outside());
        let what = format!("REGENTFS_SEED={seed}, --record {record}, forks seen: {forks_seen}");
        let output = scene.run_guarded(worker, &what);
        assert!(output.status.success(), "{what}: {}\n{}\n{}", output.status, both(&output), scene.log());
        let read = |name: &str| String::from_utf8_lossy(&fs::read(at(name)).expect("a log")).into_owned();
        let truth = truth::from_log(&read("log"));
        let doubts = truth::doubts(&truth, &strace::parse(&read("strace"), scene.root()), scene.root());
        assert!(doubts.is_empty(), "{what}: the truth is not known:\n{}", doubts.join("\n"));
        let check = |when: &str| {
            let recorded = Recorded::from_rows(&scene.json(&["reads"]));
            let missing = recorded.missing(&truth);
            if !missing.is_empty() && std::env::var_os("REGENTFS_KEEP").is_some() {
                for (name, rows) in [("ps", scene.json(&["ps"])), ("events", scene.json(&["events"]))] {
                    let text: Vec<_> = rows.iter().map(ToString::to_string).collect();
                    fs::write(format!("/tmp/{name}"), text.join("\n")).expect("write");
                    fs::copy(at("log"), "/tmp/log").expect("copy");
                    fs::copy(at("strace"), "/tmp/strace").expect("copy");
                }
            }
            let gaps = scene.json(&["events", "--op", "gap"]);
            let missing = missing.join("\n");
            assert!(
                missing.is_empty(),
                "{what}, {when}: not in the record:\n{missing}\ngaps: {gaps:?}\n{}",
                scene.log()
            );
            if record == "exact" {
                let wrong = recorded.inexact(&truth);
                assert!(wrong.is_empty(), "{what}, {when}: not exact:\n{}", wrong.join("\n"));
            }
        };
        check("mounted");
        scene.unmount();
        check("unmounted");
        scene.assert_whole();
        println!("{what}: {} reads", truth.values().map(Vec::len).sum::<usize>());
    }
}

#[test]
fn auto_with_the_connector() {
    keeps_its_promise("auto", Connector::Used, 100..103);
}

#[test]
fn auto_without_the_connector() {
    keeps_its_promise("auto", Connector::Unused, 200..203);
}

#[test]
fn exact_with_the_connector() {
    keeps_its_promise("exact", Connector::Used, 300..303);
}

#[test]
fn exact_without_the_connector() {
    keeps_its_promise("exact", Connector::Unused, 400..402);
}
