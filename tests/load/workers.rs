//! Those who work in the mount all the time: git, cargo, a writer, a mapping, a reader.
//!
//! Each works in steps, and all of them stand between two steps while the test holds [`Floor::pause`]. What a rewind under their feet
//! does to a repository that git is just writing is no fault: then they begin anew. What is never allowed: that an open file or a
//! mapping has other bytes than were written there, that reading an open file fails, that an unchanged file is not there.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{RwLock, RwLockWriteGuard};

use crate::common::{both, run_script};
use crate::rng::Rng;

/// Files that nobody ever changes.
pub const STATIC: usize = 60;

/// What the file of that number holds.
pub fn unchanging(n: usize) -> Vec<u8> {
    Rng::new(n as u64).bytes(n * 1500)
}

/// Where they work, and how the test holds them.
pub struct Floor {
    root: PathBuf,
    /// For what tools leave behind, beside the mount.
    outside: PathBuf,
    standing: RwLock<()>,
    stop: AtomicBool,
    /// Odd while a rewind is under way.
    rewinds: AtomicUsize,
}

/// One of those who work.
#[derive(Default)]
pub struct Worker {
    pub name: &'static str,
    /// Steps that did what they should.
    pub good: AtomicUsize,
    pub steps: AtomicUsize,
}

impl Worker {
    pub fn new(name: &'static str) -> Worker {
        Worker { name, ..Worker::default() }
    }

    pub fn good(&self) -> usize {
        self.good.load(Ordering::Acquire)
    }
}

/// Ends them all, also when the test fails.
pub struct Stop<'a>(pub &'a Floor);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Release);
    }
}

impl Floor {
    pub fn new(root: &Path, outside: &Path) -> Floor {
        let (root, outside) = (root.to_owned(), outside.to_owned());
        let (standing, stop, rewinds) = (RwLock::new(()), AtomicBool::new(false), AtomicUsize::new(0));
        Floor { root, outside, standing, stop, rewinds }
    }

    /// Returns when all stand between two steps; they do until it is dropped.
    pub fn pause(&self) -> RwLockWriteGuard<'_, ()> {
        self.standing.write()
    }

    /// Does something that changes the tree under those who work.
    pub fn rewinding<T>(&self, act: impl FnOnce() -> T) -> T {
        self.rewinds.fetch_add(1, Ordering::AcqRel);
        let done = act();
        self.rewinds.fetch_add(1, Ordering::AcqRel);
        done
    }

    fn rewinds(&self) -> usize {
        self.rewinds.load(Ordering::Acquire)
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Steps until the end. A step says whether it did what it should.
    fn work(&self, who: &Worker, mut step: impl FnMut(usize) -> bool) {
        // A step that fails ends the rest: they are waited for.
        let _stop = Stop(self);
        for n in 0.. {
            let _here = self.standing.read();
            if self.is_stopped() {
                break;
            }
            if step(n) {
                who.good.fetch_add(1, Ordering::AcqRel);
            }
            who.steps.fetch_add(1, Ordering::AcqRel);
        }
        // Only the test ends them.
        std::mem::forget(_stop);
    }

    /// Edits, commits, changes branches, packs.
    pub fn git(&self, who: &Worker) {
        self.work(who, |n| {
            let what = match n % 8 {
                3 => "git checkout -q -B other && echo other >> src/1.txt && git commit -qam other && git checkout -q main",
                6 => "git gc -q --prune=now",
                7 => "rm -f src/5.txt && git stash -q && git stash drop -q",
                _ => "git status --porcelain && git add -A && git commit -q --allow-empty -m step && git diff HEAD~1",
            };
            let script = format!("rm -f .git/*.lock; mkdir -p src; seq {n} 200 > src/{}.txt; {what}", n % 50);
            if run_script(&self.root, &script, &[]).status.success() {
                return true;
            }
            // A rewind took something from under it.
            let _ = run_script(&self.root, &format!("rm -rf .git; {GIT_INIT}"), &[]);
            false
        });
    }

    /// Builds a program after each change of it, and runs it.
    pub fn cargo(&self, who: &Worker) {
        let home = std::env::var_os("HOME").unwrap_or_default();
        let rustup =
            std::env::var_os("RUSTUP_HOME").unwrap_or_else(|| Path::new(&home).join(".rustup").into_os_string());
        let cargo = self.outside.join("cargo");
        let env: [(&str, &OsStr); 2] = [("RUSTUP_HOME", &rustup), ("CARGO_HOME", cargo.as_os_str())];
        self.work(who, |n| {
            let before = self.rewinds();
            let script = format!(
                "unset CARGO_TARGET_DIR RUSTC_WRAPPER RUSTFLAGS CARGO_BUILD_TARGET_DIR; export CARGO_BUILD_JOBS=1\n\
                 cd crate; sed -i 's/return .*/return {n};/' src/lib.rs; cargo build -q --offline; target/debug/tiny"
            );
            let output = run_script(&self.root, &script, &env);
            let calm = before.is_multiple_of(2) && before == self.rewinds();
            if output.status.success() {
                let said = String::from_utf8_lossy(&output.stdout);
                assert!(
                    !calm || said == format!("this is {n}\n"),
                    "step {n}: what was built says {said:?}\n{}",
                    both(&run_script(&self.root, LOOK, &env))
                );
                return true;
            }
            let _ = run_script(&self.root, &format!("mkdir -p crate; cd crate; rm -rf target; {CRATE}"), &[]);
            false
        });
    }

    /// Creates, appends, renames and deletes; what it has open keeps the bytes that it wrote.
    pub fn writer(&self, who: &Worker) {
        let mut rng = Rng::new(7);
        let mut held: Vec<(fs::File, Vec<u8>)> = Vec::new();
        let dir = self.root.join("scratch");
        self.work(who, |n| {
            let _ = fs::create_dir_all(&dir);
            let name = |n: usize| dir.join(format!("w{}", n % 40));
            let made = fs::OpenOptions::new().read(true).append(true).create_new(true).open(name(n));
            let good = made.is_ok();
            held.extend(made.map(|file| (file, Vec::new())));
            if held.len() > 12 {
                held.remove(0);
            }
            for (file, written) in &mut held {
                let more = rng.bytes(700 + n % 5000);
                file.write_all(&more).expect("append to an open file");
                written.extend_from_slice(&more);
                let mut found = vec![0; written.len() + 1];
                let len = file.read_at(&mut found, 0).expect("read an open file");
                assert!(len == written.len() && found[..len] == **written, "step {n}: an open file has other bytes");
            }
            // A rewind may have taken away or brought back any of them.
            let _ = fs::rename(name(n + 1), dir.join(format!("moved{}", n % 20)));
            let _ = fs::remove_file(name(n + 5));
            let _ = fs::hard_link(name(n), dir.join("second name"));
            let _ = fs::remove_file(dir.join("second name"));
            good
        });
    }

    /// A process with shared mappings of a file that it writes to.
    pub fn mapper(&self, who: &Worker) {
        let mut process = Mapper::start(&self.root.join("mapped/file"));
        self.work(who, |n| {
            let said = process.step(n);
            assert!(said == "ok\n" || said == "no file\n", "step {n}: {said}");
            said == "ok\n"
        });
    }

    /// What there is to know about a file that has other bytes than it should.
    fn differs(&self, path: &Path, found: &[u8], expected: &[u8]) -> String {
        let at = found.iter().zip(expected).position(|(a, b)| a != b);
        let again = fs::read(path).map(|bytes| bytes == expected);
        let mut events = crate::common::regentfs();
        let name = path.strip_prefix(&self.root).expect("below the root");
        let events = events.args(["events", "--path"]).arg(name).current_dir(&self.root).output().map(|o| both(&o));
        format!(
            "{}: {} bytes instead of {}, the first other one at {at:?}; read again it is right: {again:?}; {} zeros\n{}",
            path.display(),
            found.len(),
            expected.len(),
            found.iter().filter(|byte| **byte == 0).count(),
            events.unwrap_or_else(|e| e.to_string())
        )
    }

    /// Reads everything, a part in each step. What nobody ever changes is always there.
    pub fn reader(&self, who: &Worker) {
        let mut rng = Rng::new(9);
        self.work(who, |_| {
            for n in 0..STATIC {
                let path = self.root.join(format!("static/{n}"));
                let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                assert!(bytes == unchanging(n), "{}", self.differs(&path, &bytes, &unchanging(n)));
            }
            let part = rng.pick(&["src", ".git", "crate", "frozen", "scratch", "mapped", "static"]);
            let mut pending = vec![self.root.join(part)];
            let mut left = 200;
            while let Some(dir) = pending.pop() {
                let Ok(listing) = fs::read_dir(&dir) else { continue };
                // A directory that is gone ends its listing.
                for entry in listing.map_while(Result::ok) {
                    match entry.file_type() {
                        Ok(kind) if kind.is_dir() => pending.push(entry.path()),
                        Ok(kind) if kind.is_file() && left > 0 => {
                            left -= 1;
                            read_whole(&entry.path());
                        }
                        _ => {}
                    }
                }
            }
            true
        });
    }
}

/// Opening may fail, as the name may be gone or something else by now; reading what is open may not.
fn read_whole(path: &Path) {
    // Not blocking: the name may be that of a FIFO by now.
    let mut options = fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK | libc::O_NOFOLLOW);
    match options.read(true).open(path) {
        Ok(mut file) if file.metadata().expect("stat an open file").is_file() => {
            std::io::copy(&mut file, &mut std::io::sink())
                .unwrap_or_else(|e| panic!("{}: reading an open file: {e}", path.display()));
        }
        Ok(_) => {}
        Err(e) => {
            let gone =
                matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::StaleNetworkFileHandle);
            assert!(gone || e.raw_os_error() == Some(libc::ELOOP), "{}: {e}", path.display());
        }
    }
}

/// See tests/load/mapper.py.
struct Mapper {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Mapper {
    fn start(path: &Path) -> Mapper {
        let mut child = Command::new("python3")
            .args(["-c", include_str!("mapper.py")])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run python3");
        let (to, from) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        Mapper { child, to, from: BufReader::new(from) }
    }

    fn step(&mut self, n: usize) -> String {
        writeln!(self.to, "{n}").expect("tell the mapping process");
        let mut said = String::new();
        self.from.read_line(&mut said).expect("hear from the mapping process");
        said
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What there is to know about a program that is not what it should be.
const LOOK: &str = "cd crate; cat src/lib.rs; date +%T.%N; stat -c '%y %i %h %n' src/* target/debug/tiny target/debug/*.rlib \
     target/debug/deps/* target/debug/.fingerprint/*/*; target/debug/tiny; unset CARGO_TARGET_DIR; cargo build -v --offline; \
     target/debug/tiny";

/// The program that is built all the time.
pub const CRATE: &str = r#"
mkdir -p src
printf '[package]\nname = "tiny"\nversion = "0.1.0"\nedition = "2021"\n' > Cargo.toml
printf 'pub fn number() -> u64 {\n    return 0;\n}\n' > src/lib.rs
printf 'fn main() {\n    println!("this is {}", tiny::number());\n}\n' > src/main.rs
"#;

/// A new history for what is there.
pub const GIT_INIT: &str = "git init -q -b main; git config gc.auto 0; git config gc.autoDetach false; \
     git config maintenance.auto false; git add -A; git commit -q --allow-empty -m first; git commit -q --allow-empty -m second";
