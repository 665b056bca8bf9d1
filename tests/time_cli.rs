//! Time, as a user meets it: the real binary on real mounts, what it prints, how it refuses, and what git makes of what it gives.
//!
//! Knows the program from outside only. docs/JSON.md is what the objects are compared with.

mod common;

#[path = "time_cli/basics.rs"]
mod basics;
#[path = "time_cli/branches.rs"]
mod branches;
#[path = "time_cli/collecting.rs"]
mod collecting;
#[path = "time_cli/patches.rs"]
mod patches;
#[path = "time_cli/place.rs"]
mod place;
#[path = "time_cli/refused.rs"]
mod refused;
#[path = "time_cli/room.rs"]
mod room;
#[path = "time_cli/terminal.rs"]
mod terminal;
