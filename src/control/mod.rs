//! The daemon's control socket: what is asked and answered over it, and both of its ends.
//!
//! One request on a line, then rows, then one line that says how it ended; all JSON (docs/JSON.md has the rows).

mod candidates;
pub mod client;
pub mod contents;
pub mod export;
pub mod gc;
pub mod host;
mod merge;
pub mod protocol;
mod requests;
pub mod selected;
pub mod server;
pub mod steps;
pub mod time;
pub mod timeline;
mod watch;
