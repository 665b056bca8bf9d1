//! `regentfs snapshot`: keeps the present state, under an id and, if wanted, a label.

use std::path::Path;

use anyhow::Result;

use super::output::Output;
use super::{Which, repo, source::Source};
use crate::control::protocol::Request;
use crate::timeline::rows::SnapshotRow;

/// Keep the present state; prints its id
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// A name for it, by which it can be meant instead of by its id; labelled ones are never collected
    #[arg(long = "label", short = 'm', value_name = "LABEL")]
    label: Option<String>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    let request = Request::Snapshot { label: args.label.clone() };
    let mut out = Output::new();
    Source::of(&repo)?.ask(&request, &mut |row: SnapshotRow| {
        if args.json {
            out.json(&row)?
        } else {
            out.line(&row.id)?
        }
        Ok(())
    })?;
    Ok(out.flush()?)
}
