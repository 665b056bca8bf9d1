//! `regentfs rewind`: the tree, or some paths of it, as they were.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap_complete::engine::ArgValueCompleter;

use super::{Which, complete, diff, moved, repo};
use crate::control::protocol::{Request, Rewind};

/// Take the tree, or only some paths, back to a snapshot; live, and undoable
#[derive(clap::Args, Debug)]
pub struct Args {
    /// An id or its beginning, a label, base, @{10 minutes ago}, now~2
    #[arg(add = ArgValueCompleter::new(complete::snapshot))]
    snapshot: String,
    /// Only these files and directories
    paths: Vec<PathBuf>,
    #[command(flatten)]
    which: Which,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// JSON: one object that says what was done, then one a path
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    let paths = args.paths.iter().map(|path| diff::relative(path, &repo)).collect::<Result<Vec<_>>>()?;
    if paths.iter().any(String::is_empty) && paths.len() > 1 {
        bail!("the root is among the paths: leave the others out");
    }
    // The root alone is everything.
    let paths = if paths.iter().any(String::is_empty) { Vec::new() } else { paths };
    let request = Request::Rewind(Rewind { to: args.snapshot.clone(), paths, dry_run: args.dry_run });
    moved::ask(&repo, &request, args.json)
}
