//! `regentfs undo` and `regentfs redo`: takes the last rewind, discard, merge or apply back, or does it again.

use std::path::Path;

use anyhow::Result;

use super::{Which, moved, repo};
use crate::control::protocol::{Request, Undo};

/// Take the last rewind, discard, merge or apply back
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Also where the same files were changed since; they are kept in a snapshot
    #[arg(long)]
    force: bool,
    /// JSON: one object that says what was done, then one a path
    #[arg(long)]
    json: bool,
}

/// Do what was last undone again
#[derive(clap::Args, Debug)]
pub struct RedoArgs {
    #[command(flatten)]
    args: Args,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    go(args, store, false)
}

pub fn run_redo(args: &RedoArgs, store: Option<&Path>) -> Result<()> {
    go(&args.args, store, true)
}

fn go(args: &Args, store: Option<&Path>, redo: bool) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    moved::ask(&repo, &Request::Undo(Undo { redo, force: args.force }), args.json)
}
