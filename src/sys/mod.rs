//! System calls that need `unsafe`, and the formats of kernel interfaces that no crate has. The only module with `unsafe`.

pub mod mountinfo;
pub mod pidfd;
pub mod procconn;
pub mod sched;
