//! regentfs: a copy-on-write layer over a repository that records what every process in it reads and writes.
//!
//! docs/ARCHITECTURE.md has the map. Data flows one way: fuse -> engine -> overlay -> store; the record beside it.

pub mod actors;
pub mod apply;
pub mod base;
pub mod blame;
pub mod cli;
pub mod clock;
pub mod control;
pub mod daemon;
pub mod diff;
pub mod engine;
pub mod export;
pub mod fuse;
pub mod landing;
pub mod merge;
pub mod overlay;
pub mod query;
pub mod record;
pub mod store;
pub mod sys;
pub mod timeline;
pub mod transcripts;
pub mod types;
