//! The reference model: the same random operations on the overlay and on a plain directory give the same answers and the
//! same tree, whatever is remounted or forgotten in between.
//!
//! `REGENTFS_MODEL_SEED` and `REGENTFS_MODEL_STEPS` run one seed again; `REGENTFS_MODEL_SEEDS` says how many to run. What may differ (docs/SEMANTICS.md): access times,
//! blocks, the size of directories.

#[path = "common/mod.rs"]
mod common;
#[path = "model/mod.rs"]
mod model;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use model::dir::Dir;
use model::layer::Layer;
use model::log::Log;
use model::run::{Plan, run};
use model::seeds::{self, number};
use regentfs::store::mem::MemKv;

/// The seeds to run: the one asked for, or as many as there is time for.
fn seeds(count: u64) -> impl Iterator<Item = u64> {
    seeds::seeds("MODEL", count)
}

fn plan(seed: u64, steps: u64) -> Plan {
    let steps = number("REGENTFS_MODEL_STEPS").unwrap_or(steps);
    Plan { seed, steps, compare_every: 60, reopen_every: 80, shrink_every: 25 }
}

/// A base, a plain copy of it, and a place for the store.
struct Place {
    base: PathBuf,
    plain: PathBuf,
    store: PathBuf,
    before: common::tree::Tree,
    _dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        rustix::process::umask(rustix::fs::Mode::empty());
        let dir = common::scratch();
        let (base, plain) = (dir.path().join("base"), dir.path().join("plain"));
        std::fs::create_dir(&base).expect("create the base");
        model::base::populate(&base);
        common::copy_tree(&base, &plain);
        let before = common::tree::read(&base);
        Place { store: dir.path().join("store"), base, plain, before, _dir: dir }
    }

    fn base_is_untouched(&self) {
        let after = common::tree::read(&self.base);
        common::tree::assert_same(&self.before, &after, &common::tree::View::exact(), "the base was changed");
    }
}

fn overlay_run(plan: &Plan, log: impl FnOnce(&Path) -> Log) {
    let place = Place::new();
    let log = log(&place.store);
    let mut plain = Dir::new("plain", &place.plain, None);
    let mut layer = Layer::new(&place.base, &place.store, log);
    run(plan, &mut plain, &mut layer);
    place.base_is_untouched();
}

#[test]
fn overlay_with_the_log_in_memory() {
    for seed in seeds(80) {
        println!("seed {seed}");
        overlay_run(&plan(seed, 600), |_| Log::Memory(Arc::new(MemKv::new())));
    }
}

#[test]
fn overlay_with_the_log_on_disk() {
    for seed in seeds(16) {
        println!("seed {seed}");
        overlay_run(&plan(seed, 600), |_| Log::Disk);
    }
}

/// Unmounted, the store must be whole; mounted again, everything must be there.
fn remount(mounted: &common::MountedRepo) {
    mounted.unmount();
    let output = mounted.run(&["fsck", "--log"]);
    common::assert_ok(&output, "regentfs fsck --log");
    mounted.mount();
}

fn mount_run(record: &str, plan: &Plan) {
    rustix::process::umask(rustix::fs::Mode::empty());
    let dir = common::scratch();
    let (base, plain) = (dir.path().join("repo"), dir.path().join("plain"));
    std::fs::create_dir(&base).expect("create the base");
    model::base::populate(&base);
    common::copy_tree(&base, &plain);
    let before = common::tree::read(&base);
    let mounted = Rc::new(common::MountedRepo::in_dir(dir, record));
    let again = mounted.clone();
    let mut plain = Dir::new("plain", &plain, None);
    let mut mount = Dir::new("mount", &base, Some(Box::new(move || remount(&again))));
    run(plan, &mut plain, &mut mount);
    drop(mount);
    mounted.unmount();
    common::tree::assert_same(
        &before,
        &common::tree::read(&base),
        &common::tree::View::exact(),
        "the base was changed",
    );
}

#[test]
fn mount_that_records_by_the_page_cache() {
    if common::can_mount() {
        for seed in seeds(4) {
            println!("seed {seed}");
            mount_run("auto", &plan(seed, 600));
        }
    }
}

#[test]
fn mount_that_records_every_read() {
    if common::can_mount() {
        for seed in seeds(3) {
            println!("seed {seed}");
            mount_run("exact", &plan(seed, 600));
        }
    }
}

#[test]
fn base_attributes_show_verbatim() {
    let place = Place::new();
    let mut layer = Layer::new(&place.base, &place.store, Log::Memory(Arc::new(MemKv::new())));
    compare_verbatim(&place.base, &mut layer);
}

fn compare_verbatim(base: &Path, layer: &mut Layer) {
    use model::system::System;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    for path in layer.tree().into_keys() {
        let real = std::fs::symlink_metadata(base.join(std::ffi::OsStr::from_bytes(&path))).expect("stat");
        let mut inode = layer.overlay().root().clone();
        for name in path.split(|&b| b == b'/').filter(|n| !n.is_empty()) {
            inode = layer.overlay().lookup(&inode, name).expect("look up");
        }
        let shown = inode.attr();
        let time = |t: regentfs::types::Time| (t.secs, i64::from(t.nanos));
        assert_eq!(
            (shown.ino.0, shown.mode(), u64::from(shown.nlink), shown.uid, shown.gid, shown.size, shown.blocks),
            (real.ino(), real.mode(), real.nlink(), real.uid(), real.gid(), real.size(), real.blocks()),
            "{}",
            path.escape_ascii()
        );
        assert_eq!(
            (time(shown.mtime), time(shown.ctime)),
            ((real.mtime(), real.mtime_nsec()), (real.ctime(), real.ctime_nsec())),
            "{}",
            path.escape_ascii()
        );
    }
}
