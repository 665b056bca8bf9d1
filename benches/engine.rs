//! What the daemon itself costs per request, without the kernel's round trip.
//!
//! Each line names a workload and its baseline (the same thing done directly on the file system), and prints the ratio of the
//! medians. `cargo bench --bench engine`.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use regentfs::base::{Base, DirBase};
use regentfs::clock::monotonic_ns;
use regentfs::engine::io::{Fill, WriteRequest};
use regentfs::engine::{Caller, Config, Engine, Mode};
use regentfs::overlay::ops::create::New;
use regentfs::store::Store;
use regentfs::store::format::Owner;
use regentfs::types::{Ino, Kind};

const FILES: usize = 2000;
const RUNS: usize = 7;

/// Nanoseconds per call: the median of some runs over `n` calls each.
fn time(n: usize, mut call: impl FnMut(usize)) -> f64 {
    let mut runs: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = monotonic_ns();
            (0..n).for_each(&mut call);
            (monotonic_ns() - start) as f64 / n as f64
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    runs[RUNS / 2]
}

fn line(name: &str, baseline: &str, ours: f64, theirs: f64) {
    println!(
        "{name:<34} {:>8.2} us   {baseline:<24} {:>8.2} us   ratio {:>5.2}",
        ours / 1e3,
        theirs / 1e3,
        ours / theirs
    );
}

fn engine(repo: &Path, store: &Path, mode: Mode) -> Arc<Engine> {
    let base = Arc::new(DirBase::open(repo).expect("the base opens"));
    let root = base.root().expect("the base has a root");
    let owner = Owner { repo: repo.to_owned(), root_ino: root.attr.ino.0, root_born: root.born };
    let store = Arc::new(Store::create_or_open(store, &owner).expect("the store opens"));
    Engine::start(store, base, &Config { mode, live_base: false, connector: true, quiet: None })
        .expect("the engine starts")
}

fn main() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let (repo, native) = (dir.path().join("repo"), dir.path().join("native"));
    for at in [&repo, &native] {
        std::fs::create_dir(at).expect("a directory");
        for n in 0..FILES {
            std::fs::write(at.join(format!("f{n}")), vec![b'x'; 3000]).expect("a file");
        }
        std::fs::write(at.join("log"), b"").expect("a file");
    }
    let caller = Caller { tid: std::process::id(), uid: 0, gid: 0 };
    for mode in [Mode::Off, Mode::Auto] {
        let engine = engine(&repo, &dir.path().join(mode.name()), mode);
        let label = |what: &str| format!("{what} (record {})", mode.name());
        let names: Vec<String> = (0..FILES).map(|n| format!("f{n}")).collect();

        let ours = time(FILES, |n| {
            let attr = engine.lookup(Ino::ROOT, names[n].as_bytes()).expect("found");
            engine.forget(attr.ino, 1);
        });
        let theirs = time(FILES, |n| {
            std::fs::symlink_metadata(native.join(&names[n])).expect("found");
        });
        line(&label("lookup, forget"), "stat", ours, theirs);

        let inos: Vec<Ino> = names.iter().map(|n| engine.lookup(Ino::ROOT, n.as_bytes()).expect("found").ino).collect();
        let ours = time(FILES, |n| {
            let opened = engine.open(caller, inos[n], libc::O_RDONLY).expect("opens");
            engine.release(opened.handle);
        });
        let theirs = time(FILES, |n| drop(File::open(native.join(&names[n])).expect("opens")));
        line(&label("open, release"), "open, close", ours, theirs);

        let mut buffer = vec![0; 4096];
        let ours = time(FILES, |n| {
            let opened = engine.open(caller, inos[n], libc::O_RDONLY).expect("opens");
            engine.read(caller, opened.handle, 0, &mut buffer, Fill::Page).expect("reads");
            engine.release(opened.handle);
        });
        let theirs = time(FILES, |n| {
            let file = File::open(native.join(&names[n])).expect("opens");
            file.read_at(&mut buffer, 0).expect("reads");
        });
        line(&label("open, read 3 KB, release"), "open, pread, close", ours, theirs);

        let log = engine.lookup(Ino::ROOT, b"log").expect("found").ino;
        let handle = engine.open(caller, log, libc::O_WRONLY).expect("opens").handle;
        let data = [b'y'; 4096];
        let ours = time(FILES, |n| {
            let offset = n as u64 * 4096;
            let request = WriteRequest { ino: log, handle, offset, data: &data, kill_ids: false, from_cache: false };
            engine.write(caller, &request).expect("writes");
        });
        engine.release(handle);
        let file = OpenOptions::new().write(true).open(native.join("log")).expect("opens");
        let theirs = time(FILES, |n| file.write_all_at(&data, n as u64 * 4096).expect("writes"));
        line(&label("write 4 KiB"), "pwrite", ours, theirs);

        let mut made = 0;
        let ours = time(FILES, |_| {
            made += 1;
            let name = format!("n{made}");
            let new = New { kind: Kind::File, perm: 0o644, umask: 0, rdev: 0, target: None };
            let (_, opened) = engine.create(caller, Ino::ROOT, name.as_bytes(), &new, libc::O_WRONLY).expect("made");
            engine.release(opened.handle);
        });
        let theirs = time(FILES, |_| {
            made += 1;
            drop(File::create(native.join(format!("{}{made}", mode.name()))).expect("made"));
        });
        line(&label("create, release"), "creat, close", ours, theirs);
        engine.stop();
    }
}
