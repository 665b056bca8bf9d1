//! `regentfs timeline merge`: brings what another timeline changed into the one that is shown.

use std::path::Path;

use anyhow::Result;
use clap_complete::engine::ArgValueCompleter;

use super::{Which, complete, moved, repo};
use crate::control::protocol::{Merge, Request};

/// Bring what another timeline changed since both parted into this one; live, and undoable
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The other timeline
    #[arg(add = ArgValueCompleter::new(complete::timeline))]
    name: String,
    #[command(flatten)]
    which: Which,
    /// Where both changed something: keep what is here
    #[arg(long, conflicts_with = "theirs")]
    ours: bool,
    /// Where both changed something: take what the other timeline has
    #[arg(long)]
    theirs: bool,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// JSON: one object that says what was done, then one a path
    #[arg(long)]
    json: bool,
}

/// # Errors
/// Conflicts; why it was not done.
pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    let (ours, theirs, dry_run) = (args.ours, args.theirs, args.dry_run);
    let request = Request::Merge(Merge { timeline: args.name.clone(), ours, theirs, dry_run });
    moved::ask(&repo, &request, args.json)
}
