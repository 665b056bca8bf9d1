//! Real tools in a mount do what they do in a plain directory.
//!
//! Each scenario is a shell script in `tests/tools/`. It runs once in a plain directory and once in a mount of an identical
//! base at the *same path*, so that outputs which name the path can be compared as they are. What is compared: the exit code,
//! standard output, and the whole tree. Then the mount is taken away and put back: the base must be as it was, and the tree
//! as the tool left it.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::tree::{self, Mtimes, Tree, View};
use common::{MountedRepo, both, can_mount, find_program, has_programs, scratch, skip};

/// One tool's session.
struct Scenario {
    name: &'static str,
    /// Programs without which it cannot run.
    needs: &'static [&'static str],
    /// Fills the base; runs in it, before it is copied and mounted.
    prepare: &'static str,
    script: &'static str,
    /// Paths that differ between two runs of the tool in plain directories already.
    absent: &'static [&'static str],
    /// Files whose bytes differ so.
    volatile: &'static [&'static str],
}

impl Scenario {
    fn run(&self) {
        self.run_with(&[]);
    }

    fn run_with(&self, env: &[(&str, &OsStr)]) {
        if !can_mount() || !has_programs(self.needs, self.name) {
            return;
        }
        let dir = scratch();
        let at = |name: &str| dir.path().join(name);
        let (repo, pristine) = (at("repo"), at("pristine"));
        fs::create_dir(&repo).expect("create the base");
        fs::create_dir(at("home")).expect("create a home");
        let prepared = self.script_in(&repo, self.prepare, env);
        common::assert_ok(&prepared, &format!("{}: prepare", self.name));
        common::copy_tree(&repo, &pristine);

        let plain_start = tree::now(dir.path());
        let plain = self.once(&repo, &at("home-plain"), env);
        let plain_tree = tree::read(&repo);
        fs::rename(&repo, at("plain")).expect("move the plain result away");

        fs::rename(&pristine, &repo).expect("move the copy to where the plain directory was");
        let base = tree::read(&repo);
        let mount = MountedRepo::in_dir(dir, "auto");
        let mount_start = tree::now(mount.outside());
        let mounted = self.once(mount.path(), &mount.outside().join("home-mount"), env);
        let mount_tree = tree::read(mount.path());
        let mtimes = Mtimes::SetBefore { expected: plain_start, actual: mount_start };
        self.compare((&plain, &plain_tree), (&mounted, &mount_tree), mtimes);

        mount.unmount();
        let what = |text: &str| format!("{}: {text}", self.name);
        tree::assert_same(&base, &tree::read(mount.path()), &View::exact(), &what("the base after unmounting"));
        mount.mount();
        tree::assert_same(&mount_tree, &tree::read(mount.path()), &View::exact(), &what("the tree after remounting"));
    }

    /// Runs the script in `dir`, with an empty home directory of its own.
    fn once(&self, dir: &Path, home: &Path, env: &[(&str, &OsStr)]) -> Output {
        fs::create_dir(home).expect("create a home");
        // The same path in both runs: a home is named in caches and outputs as well.
        let current = home.with_file_name("home");
        fs::remove_dir_all(&current).expect("remove the last run's home");
        fs::rename(home, &current).expect("move the new home in place");
        self.script_in(dir, self.script, env)
    }

    fn script_in(&self, dir: &Path, script: &str, env: &[(&str, &OsStr)]) -> Output {
        let home = dir.with_file_name("home");
        let mut all = vec![("SCENARIO_HOME", home.as_os_str())];
        all.extend_from_slice(env);
        common::run_script(dir, script, &all)
    }

    fn compare(&self, plain: (&Output, &Tree), mounted: (&Output, &Tree), mtimes: Mtimes) {
        let name = self.name;
        let outputs = || format!("plain directory:\n{}\n\nmount:\n{}", both(plain.0), both(mounted.0));
        assert_eq!(plain.0.status, mounted.0.status, "{name}: exit codes differ\n{}", outputs());
        assert!(plain.0.status.success(), "{name}: the script fails even in a plain directory\n{}", outputs());
        assert!(plain.0.stdout == mounted.0.stdout, "{name}: outputs differ\n{}", outputs());
        assert!(!plain.0.stdout.is_empty(), "{name}: a script that prints nothing shows nothing");
        let view = View::new(self.absent, self.volatile, mtimes);
        tree::assert_same(
            plain.1,
            mounted.1,
            &view,
            &format!("{name}: the mount's tree against the plain directory's"),
        );
    }
}

/// A small source tree: nested directories, several sizes, links, odd names, an ignored part.
const SOURCE_TREE: &str = include_str!("tools/source-tree.sh");

#[test]
fn git() {
    Scenario {
        name: "git",
        needs: &["git"],
        prepare: include_str!("tools/git-prepare.sh"),
        script: include_str!("tools/git.sh"),
        absent: &[],
        // An index holds inode numbers and ctimes; a reflog entry made by the clone holds nothing else.
        volatile: &["**/index", "**/.git/index"],
    }
    .run();
}

#[test]
fn git_finds_nothing_changed_in_a_fresh_mount() {
    if !can_mount() || !has_programs(&["git", "strace"], "git status rehashes nothing") {
        return;
    }
    let mount = MountedRepo::new(|base| {
        let prepare =
            format!("{SOURCE_TREE}\ngit init -q . && git add -A && git commit -qm base && sleep 1.1 && git add -A");
        common::assert_ok(&common::run_script(base, &prepare, &[]), "prepare");
    });
    let status = common::run_script(mount.path(), "git status --porcelain && git diff-files", &[]);
    common::assert_ok(&status, "git status");
    assert!(status.stdout.is_empty(), "git sees changes in a fresh mount:\n{}", both(&status));
    let opened = mount.json(&["events", "--path", "src/**", "--op", "open,read"]);
    assert!(opened.is_empty(), "git opened files to see whether they are changed: {opened:?}");

    // The same, as the kernel saw it.
    let traced = common::run_script(
        mount.path(),
        "strace -f -qq -e trace=openat -o ../trace git status --porcelain; \
         grep -F 'src/' ../trace | grep -v -e ENOENT -e O_DIRECTORY || true",
        &[],
    );
    common::assert_ok(&traced, "git status under strace");
    assert!(traced.stdout.is_empty(), "git opened files to see whether they are changed:\n{}", both(&traced));
}

#[test]
fn cargo_build() {
    // rustup's `cargo` needs to know where it lives; its home is not ours.
    let home = std::env::var_os("HOME").unwrap_or_default();
    let rustup = std::env::var_os("RUSTUP_HOME").unwrap_or_else(|| Path::new(&home).join(".rustup").into_os_string());
    Scenario {
        name: "cargo build",
        needs: &["cargo"],
        prepare: include_str!("tools/cargo-prepare.sh"),
        script: include_str!("tools/cargo.sh"),
        absent: &[],
        // Fingerprints and rustc's info cache hold times.
        volatile: &["target/**"],
    }
    .run_with(&[("RUSTUP_HOME", &rustup)]);
}

#[test]
fn npm_install() {
    let registry = find_program("npm").is_some() && {
        let view = "npm view is-number@7.0.0 version --fetch-retries=1 --fetch-timeout=20000";
        Command::new("sh").args(["-c", view]).output().is_ok_and(|output| output.status.success())
    };
    if !registry && find_program("npm").is_some() {
        skip("npm install from a registry: none can be reached; only a file: dependency is installed");
    }
    Scenario {
        name: "npm install",
        needs: &["npm", "node"],
        prepare: include_str!("tools/npm-prepare.sh"),
        script: include_str!("tools/npm.sh"),
        absent: &[],
        volatile: &[],
    }
    .run_with(&[("REGISTRY", OsStr::new(if registry { "yes" } else { "no" }))]);
}

#[test]
fn python_venv_pip_and_pytest() {
    let Some(python) = find_program("python3") else {
        skip("python venv: not installed: python3");
        return;
    };
    let dir = scratch();
    let probe = "python3 -m venv v && v/bin/pip download -q --no-deps pytest";
    let output = Command::new("sh").args(["-euc", probe]).current_dir(dir.path()).output().expect("run sh");
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
        skip(&format!("python venv with pip and pytest ({}): {why}", python.display()));
        return;
    }
    Scenario {
        name: "python venv, pip, pytest",
        needs: &["python3"],
        prepare: include_str!("tools/python-prepare.sh"),
        script: include_str!("tools/python.sh"),
        absent: &[],
        // Byte code holds the mtime of its source.
        volatile: &["**/*.pyc"],
    }
    .run();
}

#[test]
fn sqlite_in_wal_mode_with_two_processes() {
    Scenario {
        name: "SQLite",
        needs: &["sqlite3"],
        prepare: include_str!("tools/sqlite-prepare.sh"),
        script: include_str!("tools/sqlite.sh"),
        absent: &[],
        // The writers interleave as they please.
        volatile: &["*.db", "*.db-wal", "*.db-shm"],
    }
    .run();
}

#[test]
fn ripgrep() {
    Scenario {
        name: "ripgrep",
        needs: &["rg"],
        prepare: SOURCE_TREE,
        script: include_str!("tools/ripgrep.sh"),
        absent: &[],
        volatile: &[],
    }
    .run();
}

#[test]
fn tar_round_trip() {
    Scenario {
        name: "tar",
        needs: &["tar"],
        prepare: SOURCE_TREE,
        script: include_str!("tools/tar.sh"),
        absent: &[],
        volatile: &[],
    }
    .run();
}

#[test]
fn rsync_with_hard_links_acls_and_xattrs() {
    Scenario {
        name: "rsync",
        needs: &["rsync", "setfattr", "setfacl"],
        prepare: concat!(include_str!("tools/source-tree.sh"), "\n", include_str!("tools/rsync-prepare.sh")),
        script: include_str!("tools/rsync.sh"),
        absent: &[],
        volatile: &[],
    }
    .run();
}

#[test]
fn acls_decide_and_are_inherited() {
    Scenario {
        name: "POSIX ACLs",
        needs: &["setfacl", "getfacl", "setfattr", "setpriv"],
        prepare: include_str!("tools/acl-prepare.sh"),
        script: include_str!("tools/acl.sh"),
        absent: &[],
        volatile: &[],
    }
    .run();
}

#[test]
fn make_builds_and_rebuilds_only_what_changed() {
    let Some(compiler) = ["cc", "gcc", "clang"].iter().find_map(|name| find_program(name)) else {
        skip("make: no C compiler");
        return;
    };
    Scenario {
        name: "make",
        needs: &["make"],
        prepare: include_str!("tools/make-prepare.sh"),
        script: include_str!("tools/make.sh"),
        absent: &[],
        volatile: &[],
    }
    .run_with(&[("CC", compiler.as_os_str())]);
}
