//! Who did what, for what prompt: the real Claude Code, driven by a scripted model, and agents made for the purpose.
//!
//! Claude Code comes from npm, once, into the directory of the tests' tools. Nothing here leaves the machine but that.

mod common;

#[path = "agents/beside.rs"]
mod beside;
#[path = "agents/claude.rs"]
mod claude;
#[path = "agents/judge.rs"]
mod judge;
#[path = "agents/lies.rs"]
mod lies;
#[path = "agents/model.rs"]
mod model;
#[path = "agents/odd.rs"]
mod odd;
#[path = "agents/own.rs"]
mod own;
#[path = "agents/real.rs"]
mod real;
#[path = "agents/rough.rs"]
mod rough;
