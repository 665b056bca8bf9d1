//! `regentfs rewind`: the tree, or some paths of it, as they were.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap_complete::engine::ArgValueCompleter;

use super::{Which, chosen, complete, diff, moved, repo};
use crate::control::protocol::{Request, Rewind};

/// Take the tree, or only some paths, back to a snapshot, or to what some steps changed and nothing else; live, and undoable
#[derive(clap::Args, Debug)]
pub struct Args {
    /// An id or its beginning, a label, base, @{10 minutes ago}, now~2
    #[arg(add = ArgValueCompleter::new(complete::snapshot), required_unless_present_any = ["session", "step", "by", "except"])]
    snapshot: Option<PathBuf>,
    /// Only these files and directories
    paths: Vec<PathBuf>,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    steps: chosen::Steps,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// JSON: one object that says what was done, then one a path
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    let chosen = args.steps.chosen();
    // With steps there is no snapshot: the first word is a path like the others.
    let (to, first) = match &args.snapshot {
        Some(word) if chosen.is_empty() => match word.to_str() {
            Some(word) => (word.to_owned(), None),
            None => bail!("{} is no snapshot", word.display()),
        },
        word => (String::new(), word.as_ref()),
    };
    let paths =
        first.into_iter().chain(&args.paths).map(|path| diff::relative(path, &repo)).collect::<Result<Vec<_>>>()?;
    if paths.iter().any(String::is_empty) && paths.len() > 1 {
        bail!("the root is among the paths: leave the others out");
    }
    // The root alone is everything.
    let paths = if paths.iter().any(String::is_empty) { Vec::new() } else { paths };
    let request = Request::Rewind(Rewind { to, chosen, paths, dry_run: args.dry_run });
    moved::ask(&repo, &request, args.json)
}
