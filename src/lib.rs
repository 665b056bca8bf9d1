//! regentfs: a copy-on-write layer over a repository that records what every process in it reads and writes.
//!
//! docs/ARCHITECTURE.md has the map. Data flows one way: fuse -> engine -> overlay -> store; the record beside it.

pub mod base;
pub mod clock;
pub mod overlay;
pub mod store;
pub mod types;
pub mod actors;
pub mod engine;
pub mod fuse;
pub mod record;
pub mod sys;
pub mod query;
pub mod control;
pub mod diff;
pub mod daemon;
pub mod cli;
