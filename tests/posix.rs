//! POSIX semantics, by two foreign suites: `pjdfstest` (what each system call must do) and `fsx` (whether the bytes are right).
//!
//! Both run in a plain directory and in a mount. A pjdfstest case that passes in the plain directory must pass in the mount, or
//! stand with its reason in `tests/posix/pjdfstest.exclude`; a case that stands there and passes is stale, and fails as well.

mod common;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{MountedRepo, both, can_mount, find_program, plain_user, scratch, skip};

const EXCLUDE: &str = include_str!("posix/pjdfstest.exclude");
const PJDFSTEST_CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/posix/pjdfstest.toml");

/// What is mixed, the configuration, and how many operations.
const FSX_CONFIGS: &[(&str, &str, u32)] = &[
    ("every operation", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/posix/fsx-all.toml"), 10_000),
    ("small and aligned", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/posix/fsx-small.toml"), 20_000),
    ("a file of 8 MiB", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/posix/fsx-large.toml"), 2_000),
];

/// A program that `scripts/test` installs with cargo, from its directory or from PATH.
fn suite(name: &str) -> Option<PathBuf> {
    let default = || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache/regentfs/tools");
    let root = std::env::var_os("REGENTFS_TOOLS").map_or_else(default, PathBuf::from);
    let installed = root.join("bin").join(name);
    let found = if installed.is_file() { Some(installed) } else { find_program(name) };
    if found.is_none() {
        skip(&format!(
            "{name}: not installed; scripts/test does it, or: cargo install {name} --root {}",
            root.display()
        ));
    }
    found
}

/// What a case did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    Skipped,
}

/// The verdict, and for a failure what it said.
type Report = BTreeMap<String, (Verdict, String)>;

/// Reads pjdfstest's lines: `name   ok|FAILED|skipped`, each followed by indented details.
fn parse(output: &Output) -> Report {
    let mut report = Report::new();
    let mut current = None;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if line.starts_with(char::is_whitespace) {
            if let Some((_, details)) = current.as_ref().and_then(|name| report.get_mut(name)) {
                details.push_str(line);
                details.push('\n');
            }
            continue;
        }
        let mut words = line.split_whitespace();
        let verdict = match (words.next_back(), words.next(), words.next()) {
            (Some("ok"), Some(name), None) => Some((name, Verdict::Passed)),
            (Some("FAILED"), Some(name), None) => Some((name, Verdict::Failed)),
            (Some("skipped"), Some(name), None) => Some((name, Verdict::Skipped)),
            _ => None,
        };
        current = verdict.map(|(name, verdict)| {
            report.insert(name.to_owned(), (verdict, String::new()));
            name.to_owned()
        });
    }
    report
}

fn pjdfstest(program: &Path, path: &Path, other_file_system: Option<&Path>) -> Report {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "1200"]).arg(program).env("NO_COLOR", "1").env_remove("RUST_BACKTRACE");
    command.arg("-c").arg(PJDFSTEST_CONFIG).arg("-p").arg(path);
    if let Some(other) = other_file_system {
        command.arg("-s").arg(other);
    }
    let output = command.output().expect("run pjdfstest");
    let report = parse(&output);
    let finished = String::from_utf8_lossy(&output.stdout).contains("Summary:");
    assert!(finished, "pjdfstest did not come to its end in {}:\n{}", path.display(), both(&output));
    report
}

/// The excluded cases with their reasons.
///
/// # Panics
/// When a line has no reason.
fn excluded() -> BTreeMap<String, String> {
    EXCLUDE
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| match line.split_once('#') {
            Some((name, reason)) if !reason.trim().is_empty() => (name.trim().to_owned(), reason.trim().to_owned()),
            _ => panic!("tests/posix/pjdfstest.exclude: a line without a reason: {line}"),
        })
        .collect()
}

/// Compares the two reports; one line for each case that is wrong.
fn judge(plain: &Report, mounted: &Report, excluded: &BTreeMap<String, String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, (expected, _)) in plain {
        let (found, details) = match mounted.get(name) {
            Some((found, details)) => (*found, details.as_str()),
            None => (Verdict::Skipped, "not in the list of cases"),
        };
        let as_good = found == Verdict::Passed || found == *expected || *expected != Verdict::Passed;
        match excluded.contains_key(name) {
            true if found == Verdict::Passed => {
                wrong.push(format!("{name}: passes now: take it out of tests/posix/pjdfstest.exclude"));
            }
            false if !as_good => {
                wrong.push(format!("{name}: {expected:?} in a plain directory, {found:?} in the mount\n{details}"));
            }
            true | false => {}
        }
    }
    for name in excluded.keys().filter(|name| !plain.contains_key(*name)) {
        wrong.push(format!("{name}: in tests/posix/pjdfstest.exclude, but no such case"));
    }
    wrong
}

#[test]
fn pjdfstest_passes_what_it_passes_in_a_plain_directory() {
    if !can_mount() {
        return;
    }
    let Some(program) = suite("pjdfstest") else { return };
    let plain = scratch();
    let elsewhere =
        Path::new("/dev/shm").is_dir().then(|| tempfile::tempdir_in("/dev/shm").expect("a directory in /dev/shm"));
    let elsewhere = elsewhere.as_ref().map(tempfile::TempDir::path);
    if elsewhere.is_none() {
        skip("pjdfstest's cases that need a second file system: there is no /dev/shm");
    }
    let expected = pjdfstest(&program, plain.path(), elsewhere);
    let count = |verdict| expected.values().filter(|(found, _)| *found == verdict).count();
    assert!(count(Verdict::Passed) > if plain_user() { 20 } else { 300 }, "pjdfstest ran too little: {expected:#?}");

    // The base is not empty, and the cases run in a directory of the base.
    let mount = MountedRepo::new(|base| {
        fs::create_dir(base.join("cases")).expect("a directory of the base");
        fs::write(base.join("file"), "of the base").expect("a file of the base");
    });
    let found = pjdfstest(&program, &mount.join("cases"), elsewhere);
    // A plain user's list of failures is a part of root's: what is stale shows only as root.
    let listed = if plain_user() { relevant(excluded(), &found) } else { excluded() };
    let wrong = judge(&expected, &found, &listed);
    assert!(wrong.is_empty(), "{} of {} pjdfstest cases are wrong:\n{}", wrong.len(), expected.len(), wrong.join("\n"));
}

/// The exclusions of cases that did fail in the mount.
fn relevant(excluded: BTreeMap<String, String>, found: &Report) -> BTreeMap<String, String> {
    let failed = |name: &String| found.get(name).is_some_and(|(verdict, _)| *verdict != Verdict::Passed);
    excluded.into_iter().filter(|(name, _)| failed(name)).collect()
}

/// Runs fsx on `file` with the seed; it compares every byte that it reads with what it wrote.
fn fsx(program: &Path, config: &str, file: &Path, seed: u64, operations: u32, artifacts: &Path) -> Output {
    let arguments: [OsString; 8] = [
        "-f".into(),
        config.into(),
        "-S".into(),
        seed.to_string().into(),
        "-N".into(),
        operations.to_string().into(),
        "-P".into(),
        artifacts.into(),
    ];
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "600"]).arg(program).args(arguments).arg(file);
    command.output().expect("run fsx")
}

fn fsx_in_a_mount(record: &str) {
    if !can_mount() {
        return;
    }
    let Some(program) = suite("fsx") else { return };
    let mount = MountedRepo::with_record(record, |base| {
        // fsx truncates it first: a base file that is copied up by a truncate.
        fs::write(base.join("base-file"), vec![b'x'; 300_000]).expect("a file of the base");
    });
    for &(what, config, operations) in FSX_CONFIGS {
        for (seed, name) in [(1, "new-file"), (7, "base-file"), (1234, "new-file")] {
            let plain = fsx(&program, config, &mount.outside().join("plain"), seed, operations, mount.outside());
            common::assert_ok(&plain, &format!("fsx in a plain directory: {what}, seed {seed}"));
            let output = fsx(&program, config, &mount.join(name), seed, operations, mount.outside());
            common::assert_ok(&output, &format!("fsx on {name}, --record {record}: {what}, seed {seed}"));
            let same = fs::read(mount.outside().join("plain")).ok() == fs::read(mount.join(name)).ok();
            assert!(same, "fsx, {what}, seed {seed}: the file differs from that of the same run in a plain directory");
        }
    }
    let before = common::tree::read(mount.path());
    mount.unmount();
    mount.mount();
    let after = common::tree::read(mount.path());
    common::tree::assert_same(&before, &after, &common::tree::View::exact(), "what fsx left, after a remount");
}

#[test]
fn fsx_finds_no_wrong_byte() {
    fsx_in_a_mount("auto");
}

#[test]
fn fsx_finds_no_wrong_byte_with_exact_recording() {
    fsx_in_a_mount("exact");
}

#[test]
fn the_judge_sees_regressions_and_stale_exclusions() {
    let report = |cases: &[(&str, Verdict)]| -> Report {
        cases.iter().map(|&(name, verdict)| (name.to_owned(), (verdict, String::new()))).collect()
    };
    use Verdict::{Failed, Passed, Skipped};
    let plain = report(&[("a", Passed), ("b", Passed), ("c", Failed), ("d", Skipped), ("e", Passed), ("f", Passed)]);
    let mounted = report(&[("a", Passed), ("b", Failed), ("c", Failed), ("d", Skipped), ("e", Skipped), ("f", Failed)]);
    let excluded: BTreeMap<String, String> =
        ["a", "f", "gone"].iter().map(|name| ((*name).to_owned(), "reason".to_owned())).collect();
    let wrong = judge(&plain, &mounted, &excluded);
    let names: Vec<&str> = wrong.iter().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(names, ["a", "b", "e", "gone"]);
}
