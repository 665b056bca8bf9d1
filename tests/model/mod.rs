//! The parts of the reference model; tests/crash.rs uses them too.

#![allow(dead_code)] // each test binary uses its own part

pub mod base;
pub mod compare;
pub mod dir;
pub mod layer;
pub mod log;
pub mod random;
pub mod rng;
pub mod run;
pub mod seeds;
pub mod system;
