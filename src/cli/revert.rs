//! `regentfs revert`: one step is taken back out, what came later stays.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap_complete::engine::ArgValueCompleter;

use super::{Which, complete, diff, moved, repo};
use crate::control::protocol::Request;
use crate::control::steps::Revert;

/// Take one step back out and keep what came later; with a conflict nothing is done
#[derive(clap::Args, Debug)]
pub struct Args {
    /// As `log` shows it
    #[arg(add = ArgValueCompleter::new(complete::step))]
    step: String,
    /// Only these files and directories
    paths: Vec<PathBuf>,
    #[command(flatten)]
    which: Which,
    /// Where later changes touch it: keep these
    #[arg(long, conflicts_with = "theirs")]
    ours: bool,
    /// Where later changes touch it: take what was there before the step
    #[arg(long)]
    theirs: bool,
    /// Say what would happen, and do nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// JSON: one object that says what was done, then one a path
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    super::agents::load_or_warn();
    let paths = args.paths.iter().map(|path| diff::relative(path, &repo)).collect::<Result<_>>()?;
    let request =
        Revert { step: args.step.clone(), paths, ours: args.ours, theirs: args.theirs, dry_run: args.dry_run };
    moved::ask(&repo, &Request::Revert(request), args.json)
}
