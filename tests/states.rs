//! Bringing single paths back, and merging timelines: on an overlay without a mount.

#[path = "common/mod.rs"]
mod common;
#[path = "states/merge.rs"]
mod merge;
#[path = "states/merges.rs"]
mod merges;
#[path = "states/paths.rs"]
mod paths;
#[path = "states/random.rs"]
mod random;
#[allow(dead_code)] // shared with other tests
#[path = "model/rng.rs"]
mod rng;
#[path = "states/scene.rs"]
mod scene;
#[path = "model/seeds.rs"]
mod seeds;
#[path = "states/selected.rs"]
mod selected;
