//! The daemon and its commands, through the real binary: mounting, what is refused, ending in every way, bad disks and bad bases.

mod common;

#[path = "mount/base.rs"]
mod base;
#[path = "mount/full.rs"]
mod full;
#[path = "mount/life.rs"]
mod life;
#[path = "mount/names.rs"]
mod names;
#[path = "mount/refusals.rs"]
mod refusals;
#[path = "mount/scene.rs"]
mod scene;

use std::fs;
use std::path::Path;

/// A small repository.
pub fn populate(base: &Path) {
    fs::create_dir_all(base.join("src/deep")).expect("mkdir");
    fs::create_dir(base.join(".git")).expect("mkdir");
    fs::write(base.join("README"), "read me\n").expect("write");
    fs::write(base.join("src/main"), "main\n".repeat(1000)).expect("write");
    fs::write(base.join("src/deep/large"), vec![7u8; 600_000]).expect("write");
}
