//! What every test that mounts shares: a repository mounted by the real binary, and the running of tools in a directory.
//!
//! It knows the command line of `regentfs` and nothing of its inside. A test process is one user: root, or a plain user
//! when `scripts/as-plain-user` started it; nothing here switches users.

#![allow(dead_code)] // each test binary uses its own part

pub mod json;
pub mod tree;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a daemon may take to go away, or a condition to come true.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The binary under test.
pub fn regentfs() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regentfs"));
    command.env_remove("XDG_STATE_HOME");
    // Without a table of agents of the user who runs the tests.
    command.env("XDG_CONFIG_HOME", "/nonexistent");
    if COUNTS_SNAPSHOTS.contains(&env!("CARGO_CRATE_NAME")) {
        command.env("REGENTFS_QUIET_MS", "60000");
    }
    command
}

/// Tests that a disk which is busy for a moment must not give a snapshot more.
const COUNTS_SNAPSHOTS: [&str; 4] = ["time_cli", "gc", "landing", "timeline"];

/// True where a test that cannot run is a failure.
pub fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
}

/// True when the tests run without privileges, and so mount through `fusermount3`.
pub fn plain_user() -> bool {
    !rustix::process::geteuid().is_root()
}

/// Says past libtest's capture that something was not tested, and keeps it for the summary of `scripts/test`.
///
/// # Panics
/// Under CI, where nothing may be skipped.
pub fn skip(what: &str) {
    report_skipped(what);
    assert!(!in_ci(), "under CI nothing may be skipped: {what}");
}

/// Says that something needs root, for which the same test runs too: `scripts/test` runs every test both ways.
pub fn leave_to_root(what: &str) {
    assert!(plain_user(), "only a plain user may leave something to root: {what}");
    report_skipped(what);
}

fn report_skipped(what: &str) {
    let who = if plain_user() { "plain user" } else { "root" };
    let line = format!("SKIPPED ({who}): {what}\n");
    // Straight to the descriptor: libtest captures only the print macros.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(file) = std::env::var_os("REGENTFS_SKIPPED") {
        let _ =
            fs::OpenOptions::new().append(true).create(true).open(file).and_then(|mut f| f.write_all(line.as_bytes()));
    }
}

/// Takes out of a command's environment what agents leave there: the tests may themselves be run by one.
pub fn without_agents(command: &mut Command) -> &mut Command {
    regentfs::actors::agents::variables().fold(command, |command, name| command.env_remove(name))
}

/// Makes a program: a copy of one, or of a script. Another process writes it, as what this one has open for writing is open in the children that tests
/// beside this one are just forking too, and until they exec nobody else can execute it.
pub fn make_program(from: &Path, to: &Path) {
    let output = Command::new("install").args(["-m", "755"]).args([from, to]).output().expect("run install");
    assert_ok(&output, "install");
}

/// The same for a script, by its text.
pub fn make_script(text: &str, to: &Path) {
    let mut draft = to.as_os_str().to_owned();
    draft.push(".draft");
    fs::write(&draft, text).expect("write a script");
    make_program(Path::new(&draft), to);
    fs::remove_file(draft).expect("remove the draft");
}

/// Whether this machine and user can mount FUSE at all; says so when not.
pub fn can_mount() -> bool {
    match fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => {}
        Err(error) => {
            skip(&format!("every test that mounts: /dev/fuse: {error}"));
            return false;
        }
    }
    if plain_user() && find_program("fusermount3").is_none() {
        skip("every test that mounts: fusermount3 is not installed (Debian package fuse3)");
        return false;
    }
    true
}

/// The program's path, if it is on PATH.
pub fn find_program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// True when every program is there; says which ones are not.
pub fn has_programs(names: &[&str], for_what: &str) -> bool {
    let missing: Vec<&str> = names.iter().copied().filter(|name| find_program(name).is_none()).collect();
    if !missing.is_empty() {
        skip(&format!("{for_what}: not installed: {}", missing.join(" ")));
    }
    missing.is_empty()
}

/// A fresh directory on a real disk: `/tmp` is often a tmpfs, which has other semantics than a developer's disk.
pub fn scratch() -> tempfile::TempDir {
    let parent = std::env::var_os("REGENTFS_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let dir = tempfile::Builder::new()
        .prefix("regentfs-test-")
        .tempdir_in(&parent)
        .unwrap_or_else(|error| panic!("a test directory in {}: {error}", parent.display()));
    // Other users (pjdfstest's) walk through it.
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod own directory");
    dir
}

/// Copies a tree with everything that a copy can keep.
pub fn copy_tree(from: &Path, to: &Path) {
    let output = Command::new("cp").arg("-a").arg(from).arg(to).output().expect("run cp");
    assert_ok(&output, "cp -a");
}

/// Fails with both outputs unless the command succeeded.
pub fn assert_ok(output: &Output, what: &str) {
    assert!(output.status.success(), "{what}: {}\n{}", output.status, both(output));
}

/// What a command printed, for a failure message.
pub fn both(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("--- stdout\n{}\n--- stderr\n{}", text(&output.stdout), text(&output.stderr))
}

/// Waits until `ready` holds.
#[allow(clippy::disallowed_methods)] // a deadline in real time; crate::clock is for what is recorded
pub fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a shell script with `dir` as its current directory; killed when it hangs.
pub fn run_script(dir: &Path, script: &str, env: &[(&str, &OsStr)]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "900", "sh", "-eu", "-c", script]);
    command.current_dir(dir).stdin(Stdio::null()).env("PWD", dir);
    for (name, value) in TOOL_ENVIRONMENT {
        command.env(name, value);
    }
    for (name, value) in env {
        command.env(name, value);
    }
    command.output().expect("run sh")
}

/// What makes two runs of a tool comparable.
const TOOL_ENVIRONMENT: &[(&str, &str)] = &[
    ("LC_ALL", "C.UTF-8"),
    ("TZ", "UTC"),
    ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_AUTHOR_NAME", "Test"),
    ("GIT_AUTHOR_EMAIL", "test@example.com"),
    ("GIT_AUTHOR_DATE", "2024-01-02T03:04:05Z"),
    ("GIT_COMMITTER_NAME", "Test"),
    ("GIT_COMMITTER_EMAIL", "test@example.com"),
    ("GIT_COMMITTER_DATE", "2024-01-02T03:04:05Z"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("NO_COLOR", "1"),
];

/// A directory with a base mounted in place by the real binary, and its store; unmounted when dropped.
pub struct MountedRepo {
    repo: PathBuf,
    store: PathBuf,
    record: String,
    /// Last: removed after [`Drop`] has unmounted. `None` when the mount could not be removed.
    dir: Option<tempfile::TempDir>,
}

impl MountedRepo {
    /// A new base filled by `populate`, mounted with `--record auto`.
    pub fn new(populate: impl FnOnce(&Path)) -> MountedRepo {
        MountedRepo::with_record("auto", populate)
    }

    pub fn with_record(record: &str, populate: impl FnOnce(&Path)) -> MountedRepo {
        let dir = scratch();
        let repo = dir.path().join("repo");
        fs::create_dir(&repo).expect("create the base");
        populate(&repo);
        MountedRepo::in_dir(dir, record)
    }

    /// Mounts over `dir/repo`, with the store in `dir/store`.
    pub fn in_dir(dir: tempfile::TempDir, record: &str) -> MountedRepo {
        let repo = dir.path().join("repo");
        let store = dir.path().join("store");
        let mounted = MountedRepo { repo, store, record: record.to_owned(), dir: Some(dir) };
        mounted.mount();
        mounted
    }

    /// The repository's path: the mount while mounted, the base otherwise.
    pub fn path(&self) -> &Path {
        &self.repo
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.repo.join(name)
    }

    pub fn store(&self) -> &Path {
        &self.store
    }

    /// The directory that holds `repo` and `store`, on the same file system.
    pub fn outside(&self) -> &Path {
        self.dir.as_ref().expect("only Drop takes it").path()
    }

    /// Mounts (again), with the mode of recording that it was made with.
    pub fn mount(&self) {
        let output = regentfs()
            .arg("mount")
            .arg(&self.repo)
            .args(["--record", &self.record, "--store"])
            .arg(&self.store)
            .output()
            .expect("run regentfs");
        assert_ok(&output, "regentfs mount");
        assert!(is_mounted(&self.repo), "regentfs mount came back but nothing is mounted at {}", self.repo.display());
    }

    pub fn unmount(&self) {
        let output = self.try_unmount();
        assert_ok(&output, "regentfs unmount");
        assert!(!is_mounted(&self.repo), "regentfs unmount came back but {} is mounted", self.repo.display());
    }

    pub fn try_unmount(&self) -> Output {
        regentfs().arg("unmount").arg(&self.repo).arg("--store").arg(&self.store).output().expect("run regentfs")
    }

    /// Runs a subcommand that takes `--repo`; its result is the caller's to judge.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let (command, rest) = arguments.split_first().expect("a subcommand");
        regentfs()
            .arg(command)
            .arg("--repo")
            .arg(&self.repo)
            .arg("--store")
            .arg(&self.store)
            .args(rest)
            .output()
            .expect("run regentfs")
    }

    /// The objects that a subcommand prints with `--json`, one a line.
    pub fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let mut all = arguments.to_vec();
        all.push("--json");
        let output = self.run(&all);
        assert_ok(&output, &format!("regentfs {}", all.join(" ")));
        output
            .stdout
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| {
                serde_json::from_slice(line)
                    .unwrap_or_else(|error| panic!("not JSON: {error}: {}", String::from_utf8_lossy(line)))
            })
            .collect()
    }

    /// The daemon's process, as `status` names it.
    pub fn daemon(&self) -> i32 {
        let status = self.json(&["status"]);
        let pid = status.first().and_then(|object| object.get("pid")).and_then(Value::as_i64);
        pid.and_then(|pid| i32::try_from(pid).ok()).expect("status names the daemon's pid")
    }

    /// Kills the daemon without warning and waits until it is gone; the dead mount stays.
    pub fn kill(&self) {
        let raw = self.daemon();
        let pid = rustix::process::Pid::from_raw(raw).expect("a positive pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill the daemon");
        wait_for("the killed daemon to go", || !is_running(raw));
    }
}

impl Drop for MountedRepo {
    fn drop(&mut self) {
        if is_mounted(&self.repo) {
            let output = self.try_unmount();
            if !output.status.success() {
                let _ = std::io::stderr().write_all(format!("regentfs unmount: {}\n", both(&output)).as_bytes());
            }
        }
        if is_mounted(&self.repo) {
            detach(&self.repo);
        }
        if is_mounted(&self.repo) {
            // Removing the directory now would remove through a mount.
            if let Some(dir) = self.dir.take() {
                let _ = dir.keep();
            }
        }
    }
}

/// True when `path` is the root of a mount, also of one whose daemon is dead.
pub fn is_mounted(path: &Path) -> bool {
    let Some(parent) = path.parent() else { return true };
    match (fs::metadata(path), fs::metadata(parent)) {
        (Ok(own), Ok(parent)) => own.dev() != parent.dev(),
        (Err(error), _) => error.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error()),
        (Ok(_), Err(_)) => false,
    }
}

/// True while the process exists and is no zombie.
pub fn is_running(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// The last resort against a mount that a failed test leaves.
fn detach(path: &Path) {
    let command = if plain_user() { ["fusermount3", "-uz"] } else { ["umount", "-l"] };
    let _ = Command::new(command[0]).arg(command[1]).arg(path).output();
}
