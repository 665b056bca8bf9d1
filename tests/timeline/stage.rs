//! A repository with several mounts: in place and beside, all taken away when dropped.

use std::ffi::OsStr;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::common::{assert_ok, both, is_mounted, plain_user, wait_for};
use crate::scene::Scene;

/// A small repository with something of everything.
pub fn populate(base: &Path) {
    fs::create_dir_all(base.join("src/deep")).expect("mkdir");
    fs::create_dir(base.join(".git")).expect("mkdir");
    fs::write(base.join("README"), "read me\n").expect("write");
    fs::write(base.join("src/main"), "main\n".repeat(1000)).expect("write");
    fs::write(base.join("src/deep/large"), large(b'b')).expect("write");
    std::os::unix::fs::symlink("src/main", base.join("link")).expect("symlink");
}

/// More than is read at once, or counts as read whole.
pub fn large(byte: u8) -> Vec<u8> {
    vec![byte; 600_000]
}

/// See the module.
pub struct Stage(pub Scene);

impl Deref for Stage {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.0
    }
}

impl Stage {
    /// Not mounted.
    pub fn new() -> Stage {
        Stage(Scene::new(populate))
    }

    /// Mounted in place.
    pub fn mounted() -> Stage {
        let stage = Stage::new();
        stage.mount(&[]);
        stage
    }

    /// A directory to mount on.
    pub fn dir(&self, name: &str) -> PathBuf {
        let dir = self.outside().join(name);
        if !dir.exists() {
            fs::create_dir(&dir).expect("mkdir");
        }
        dir
    }

    /// Tries to mount something beside, at a directory of that name.
    pub fn try_beside(&self, at: &str, what: &[&str]) -> Output {
        let mut command = self.command(["mount".as_ref(), self.repo().as_os_str()]);
        command.arg("--at").arg(self.dir(at)).args(what).output().expect("run regentfs")
    }

    pub fn beside(&self, at: &str, what: &[&str]) -> PathBuf {
        assert_ok(&self.try_beside(at, what), "mount beside");
        let at = self.dir(at);
        assert!(is_mounted(&at), "{} is no mount", at.display());
        at
    }

    /// A timeline, forked from the present in place and mounted beside at a directory of its name.
    pub fn forked(&self, name: &str) -> PathBuf {
        self.timeline(&["fork", name]);
        self.beside(name, &["--timeline", name])
    }

    /// Unmounts everything. Another test of this process may just be starting a program, which holds what is open here until it runs.
    pub fn unmount(&self) -> Output {
        let output = patiently("the mounts to be free", || self.try_unmount(&[]));
        assert!(!is_mounted(self.root()), "regentfs unmount came back but {} is a mount", self.root().display());
        output
    }

    /// Unmounts one that is beside.
    pub fn unmount_one(&self, at: &Path) -> Output {
        let output = patiently("the mount to be free", || {
            self.command(["unmount".as_ref(), at.as_os_str()]).output().expect("run regentfs")
        });
        assert!(!is_mounted(at), "regentfs unmount came back but {} is a mount", at.display());
        output
    }

    pub fn try_timeline(&self, arguments: &[&str]) -> Output {
        let (command, rest) = arguments.split_first().expect("a subcommand");
        let mut all = vec![OsStr::new("timeline"), command.as_ref(), "--repo".as_ref(), self.repo().as_os_str()];
        all.extend(rest.iter().map(OsStr::new));
        self.command(all).output().expect("run regentfs")
    }

    /// The objects that a subcommand of `timeline` prints.
    pub fn timeline(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.try_timeline(&[arguments, &["--json"]].concat());
        assert_ok(&output, &format!("timeline {}", arguments.join(" ")));
        rows(&output)
    }

    /// Runs a command with a working directory.
    pub fn inside(&self, dir: &Path, arguments: &[&str]) -> Output {
        self.command(arguments).current_dir(dir).output().expect("run regentfs")
    }

    pub fn inside_ok(&self, dir: &Path, arguments: &[&str]) -> Output {
        let output = self.inside(dir, arguments);
        assert_ok(&output, &arguments.join(" "));
        output
    }

    /// The names of the timelines that are mounted, with their places below [`Scene::outside`].
    pub fn mounts(&self) -> Vec<(String, String)> {
        let list = self.timeline(&["list"]);
        let text = |row: &Value, field: &str| row[field].as_str().map(str::to_owned);
        let place = |at: String| at.strip_prefix(self.outside().to_str().expect("UTF-8")).map(str::to_owned);
        list.iter().filter_map(|row| Some((text(row, "name")?, text(row, "mountpoint").and_then(place)?))).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What a failed test leaves; a test that passed has at most what the scene unmounts.
        let Ok(entries) = fs::read_dir(self.outside()) else { return };
        for at in entries.flatten().map(|e| e.path()).filter(|at| at != self.repo() && is_mounted(at)) {
            take_away(&at);
        }
    }
}

/// Takes a mount away as a user would do it who knows nothing of regentfs.
pub fn take_away(at: &Path) {
    let command = if plain_user() { ["fusermount3", "-uz"] } else { ["umount", "-l"] };
    let _ = Command::new(command[0]).arg(command[1]).arg(at).stderr(Stdio::null()).status();
}

/// Runs a command until it succeeds.
pub fn patiently(what: &str, mut run: impl FnMut() -> Output) -> Output {
    let mut last = run();
    if !last.status.success() {
        wait_for(&format!("{what}: {}", both(&last)), || {
            last = run();
            last.status.success()
        });
    }
    last
}

/// The objects in a command's output.
pub fn rows(output: &Output) -> Vec<Value> {
    let lines = output.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).expect("JSON")).collect()
}

pub fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub fn write(path: impl AsRef<Path>, text: impl AsRef<[u8]>) {
    let path = path.as_ref();
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// The names in a directory, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut names: Vec<String> = entries.map(|e| e.expect("list").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// A process that is ended with the test.
pub struct Company(pub Child);

impl Company {
    pub fn in_dir(dir: &Path) -> Company {
        let mut command = Command::new("sleep");
        Company(command.arg("300").current_dir(dir).stdin(Stdio::null()).spawn().expect("run sleep"))
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
