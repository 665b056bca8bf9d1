//! Rewinds where much happens, and where there is much: under git, cargo, writers and mappings, and over many thousands of files.
//!
//! Knows the program from outside only. How long and how large it is can be chosen, see the modules.

mod common;

#[path = "load/alone.rs"]
mod alone;
#[path = "load/frozen.rs"]
mod frozen;
#[path = "load/many.rs"]
mod many;
#[path = "load/moving.rs"]
mod moving;
#[path = "model/rng.rs"]
mod rng;
#[path = "mount/scene.rs"]
mod scene;
#[path = "load/workers.rs"]
mod workers;
