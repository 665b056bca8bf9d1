//! The parts of the test of time; that of apply uses some of them.

#![allow(dead_code, clippy::map_entry)]

pub mod base;
pub mod compare;
pub mod kernel;
pub mod live;
pub mod op;
pub mod run;
pub mod tree;
