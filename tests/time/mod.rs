//! The parts of the test of time.

pub mod base;
pub mod compare;
pub mod kernel;
pub mod live;
pub mod op;
pub mod run;
pub mod tree;
