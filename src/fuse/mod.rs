//! The kernel's side: mounting, the FUSE protocol, and the translation between it and plain types.
//!
//! The only module that names the `fuser` crate. No decision about files is made here.

mod adapter;
mod convert;
pub mod mount;
pub mod session;
