//! Bringing single paths back, and merging timelines: on an overlay without a mount.

#[path = "states/paths.rs"]
mod paths;
#[path = "states/random.rs"]
mod random;
#[path = "model/rng.rs"]
mod rng;
#[path = "states/scene.rs"]
mod scene;
