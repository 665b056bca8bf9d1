//! The parts of the test of time; that of apply uses some of them.

#![allow(dead_code)] // each test binary uses its own part

pub mod base;
pub mod compare;
mod deeds;
pub mod kernel;
pub mod known;
pub mod live;
mod moves;
pub mod op;
pub mod run;
pub mod script;
pub mod shorter;
pub mod tree;
