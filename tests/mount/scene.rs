//! A repository that a test mounts and unmounts as it likes, with any options and environment.
//!
//! Where `common::MountedRepo` is a mount that simply is there, a scene may fail to mount, and say why.

#![allow(dead_code)] // each test binary uses its own part

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::common::{self, both, is_mounted, regentfs, scratch};

/// How long a command in a mount may take.
const HANGS: Duration = Duration::from_secs(60);

/// A base, a store and perhaps a mount; unmounted when dropped.
pub struct Scene {
    dir: Option<tempfile::TempDir>,
    repo: PathBuf,
    store: PathBuf,
    /// Elsewhere than over the repository.
    at: Option<PathBuf>,
    env: Vec<(OsString, OsString)>,
}

impl Scene {
    /// A base filled by `populate`, not mounted.
    pub fn new(populate: impl FnOnce(&Path)) -> Scene {
        let dir = scratch();
        let path = dir.path().canonicalize().expect("the test directory");
        let repo = path.join("repo");
        fs::create_dir(&repo).expect("create the base");
        populate(&repo);
        Scene { repo, store: path.join("store"), at: None, env: Vec::new(), dir: Some(dir) }
    }

    /// To be mounted on a directory of its own.
    pub fn elsewhere(mut self) -> Scene {
        let at = self.outside().join("at");
        fs::create_dir(&at).expect("create the mountpoint");
        self.at = Some(at);
        self
    }

    /// With another place for the store.
    pub fn with_store(mut self, store: &Path) -> Scene {
        self.store = store.to_owned();
        self
    }

    /// With a variable in the environment of every regentfs.
    pub fn with_env(mut self, name: &str, value: &str) -> Scene {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The repository's own path.
    pub fn repo(&self) -> &Path {
        &self.repo
    }

    pub fn store(&self) -> &Path {
        &self.store
    }

    /// The root of the mount.
    pub fn root(&self) -> &Path {
        self.at.as_deref().unwrap_or(&self.repo)
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root().join(name)
    }

    /// The directory that holds repository and store.
    pub fn outside(&self) -> &Path {
        self.repo.parent().expect("it was joined")
    }

    /// A command line with the scene's store and environment.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = regentfs();
        command.args(arguments).arg("--store").arg(&self.store).stdin(Stdio::null()).current_dir(self.outside());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn try_mount(&self, options: &[&str]) -> Output {
        let mut command = self.command(["mount".as_ref(), self.repo.as_os_str()]);
        if let Some(at) = &self.at {
            command.arg("--at").arg(at);
        }
        command.args(options).output().expect("run regentfs")
    }

    pub fn mount(&self, options: &[&str]) -> Output {
        let output = self.try_mount(options);
        common::assert_ok(&output, "regentfs mount");
        assert!(is_mounted(self.root()), "regentfs mount came back but {} is no mount", self.root().display());
        output
    }

    pub fn try_unmount(&self, options: &[&str]) -> Output {
        self.command(["unmount".as_ref(), self.repo.as_os_str()]).args(options).output().expect("run regentfs")
    }

    pub fn unmount(&self) -> Output {
        let output = self.try_unmount(&[]);
        common::assert_ok(&output, "regentfs unmount");
        assert!(!is_mounted(self.root()), "regentfs unmount came back but {} is a mount", self.root().display());
        output
    }

    /// Runs a subcommand that takes `--repo`.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let (command, rest) = arguments.split_first().expect("a subcommand");
        self.command([OsStr::new(command), "--repo".as_ref(), self.repo.as_os_str()])
            .args(rest)
            .output()
            .expect("run regentfs")
    }

    /// The objects that a subcommand prints with `--json`.
    pub fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.run(&[arguments, &["--json"]].concat());
        common::assert_ok(&output, &format!("regentfs {}", arguments.join(" ")));
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

    /// Fails unless `fsck`, with and without the event chain, finds nothing.
    pub fn assert_whole(&self) {
        for arguments in [&["fsck"][..], &["fsck", "--log"]] {
            common::assert_ok(&self.run(arguments), &arguments.join(" "));
        }
    }

    /// What the daemon said.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.store.join("daemon.log")).unwrap_or_default()).into_owned()
    }

    /// Runs a command that works in the mount. Should it not end, the daemon is killed: that alone frees processes which wait
    /// for it.
    pub fn run_guarded(&self, mut command: Command, what: &str) -> Output {
        let daemon = rustix::process::Pid::from_raw(self.daemon()).expect("a positive pid");
        let (done, ended) = std::sync::mpsc::channel::<()>();
        let guard = std::thread::spawn(move || {
            let late = ended.recv_timeout(HANGS) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
            if late {
                let _ = rustix::process::kill_process(daemon, rustix::process::Signal::KILL);
            }
            late
        });
        let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{what}: {e}"));
        drop(done);
        assert!(!guard.join().expect("the guard"), "{what}: not done after {HANGS:?}\n{}", both(&output));
        output
    }

    pub fn daemon(&self) -> i32 {
        let status = self.json(&["status"]);
        let pid = status.first().and_then(|object| object["pid"].as_i64());
        pid.and_then(|pid| i32::try_from(pid).ok()).expect("status names the daemon's pid")
    }

    /// Sends the daemon a signal and waits until it is gone.
    pub fn end_daemon(&self, signal: rustix::process::Signal) {
        let raw = self.daemon();
        let pid = rustix::process::Pid::from_raw(raw).expect("a positive pid");
        rustix::process::kill_process(pid, signal).expect("signal the daemon");
        common::wait_for("the daemon to go", || !common::is_running(raw));
        // Its last threads may outlive its first one for a moment.
        let free = || regentfs::store::format::Lock::create(&self.store).is_ok();
        common::wait_for("the daemon to let go of its store", free);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let root = self.root().to_owned();
        if is_mounted(&root) {
            let output = self.try_unmount(&[]);
            if !output.status.success() {
                use std::io::Write;
                let _ = std::io::stderr().write_all(format!("regentfs unmount: {}\n", both(&output)).as_bytes());
            }
        }
        if is_mounted(&root) {
            let command = if common::plain_user() { ["fusermount3", "-uz"] } else { ["umount", "-l"] };
            let _ = Command::new(command[0]).arg(command[1]).arg(&root).output();
        }
        if is_mounted(&root)
            && let Some(dir) = self.dir.take()
        {
            // Removing the directory now would remove through a mount.
            let _ = dir.keep();
        }
    }
}

/// The one line that a refusal prints; also checks its exit code, and that nothing is on standard output.
pub fn refusal(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", both(output));
    assert!(output.stdout.is_empty(), "{}", both(output));
    let text = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    assert_eq!(text.lines().count(), 1, "one line: {text}");
    assert!(text.starts_with("regentfs: "), "{text}");
    text
}
