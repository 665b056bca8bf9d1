//! `regentfs apply`: brings changes that a person accepts into the repository on disk.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap_complete::engine::ArgValueCompleter;

use super::{Which, chosen, complete, diff, moved, repo};
use crate::control::protocol::{Apply, Request};

/// Bring changes into the repository on disk; undoable. .git is never copied: commits come over with --as-branch
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only these files and directories
    paths: Vec<PathBuf>,
    #[command(flatten)]
    which: Which,
    /// The state to bring over, instead of the present one
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "only", add = ArgValueCompleter::new(complete::snapshot))]
    from: Option<String>,
    /// Only what changed between two snapshots, merged into what the repository has
    #[arg(long, value_name = "FROM..TO", add = ArgValueCompleter::new(complete::range))]
    only: Option<String>,
    #[command(flatten)]
    steps: chosen::Steps,
    /// The commits of the mount's HEAD that the repository does not have, as a new branch of this name there; files are left alone
    #[arg(long, value_name = "NAME", conflicts_with_all = ["paths", "from", "only", "ours", "theirs", "dry_run", "session", "step", "by", "except"])]
    as_branch: Option<String>,
    /// Where the repository was changed meanwhile: overwrite it
    #[arg(long, conflicts_with = "theirs")]
    ours: bool,
    /// Where the repository was changed meanwhile: leave it as it is
    #[arg(long)]
    theirs: bool,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// JSON: one object that says what was done, then one a path
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    if let Some(name) = &args.as_branch {
        return super::bring::run(&repo, name, args.json);
    }
    let paths = args.paths.iter().map(|path| diff::relative(path, &repo)).collect::<Result<Vec<_>>>()?;
    let paths = if paths.iter().any(String::is_empty) { Vec::new() } else { paths };
    let only = match &args.only {
        Some(text) => match text.split_once("..") {
            Some((from, to)) if !from.is_empty() => {
                Some((from.to_owned(), if to.is_empty() { "now".to_owned() } else { to.to_owned() }))
            }
            _ => return Err(super::exit::Usage(format!("--only {text}: give two snapshots, as in FROM..TO")).into()),
        },
        None => None,
    };
    let (ours, theirs, dry_run) = (args.ours, args.theirs, args.dry_run);
    let (from, chosen) = (args.from.clone(), args.steps.chosen());
    let request = Request::Apply(Apply { paths, from, only, chosen, dry_run, ours, theirs });
    moved::ask(&repo, &request, args.json)
}
