//! `regentfs gc`: lets go of the past that nobody asked to keep.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::output::{Output, count, size};
use super::{Which, pager, progress, repo, source::Source};
use crate::control::protocol::{Gc, Request};
use crate::timeline::limits;
use crate::timeline::rows::GcRow;

/// Take away old snapshots that nobody asked for, and bytes that no snapshot needs; a mount does it by itself every hour. The record stays
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// How long to keep snapshots that were taken by themselves, and what can be undone: 30d, 12h, forever [default: $REGENTFS_KEEP, or 30d]
    #[arg(long, value_name = "TIME", value_parser = keep)]
    keep: Option<Keep>,
    /// How large the store may be: the oldest snapshots without a label go until it fits; 20G, 500M, none [default: $REGENTFS_MAX_SIZE, or 20G]
    #[arg(long, value_name = "SIZE", value_parser = max_size)]
    max_size: Option<MaxSize>,
    /// Say what would go, and take nothing away
    #[arg(long)]
    dry_run: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug)]
struct Keep(Option<Duration>);

#[derive(Clone, Copy, Debug)]
struct MaxSize(Option<u64>);

fn keep(text: &str) -> Result<Keep, String> {
    limits::parse_keep(text).map(Keep)
}

fn max_size(text: &str) -> Result<MaxSize, String> {
    limits::parse_size(text).map(MaxSize)
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    let (policy, wrong) = limits::from_environment(|name| std::env::var(name).ok());
    for wrong in wrong {
        pager::remark(&format!("regentfs: note: {wrong}"));
    }
    let keep = args.keep.map_or(policy.keep, |Keep(keep)| keep);
    let max_size = args.max_size.map_or(policy.max_size, |MaxSize(size)| size);
    let request = Request::Gc(Gc { keep_seconds: keep.map(|d| d.as_secs()), max_size, dry_run: args.dry_run });
    let mut out = Output::new();
    progress::begin(request.what());
    Source::of(&repo)?.ask(&request, &mut |row: GcRow| {
        if args.json {
            return Ok(out.json(&row)?);
        }
        let (snapshots, versions) = (count(row.snapshots, "snapshot"), count(row.versions, "old version"));
        let verb = if row.done { "took" } else { "would take" };
        out.line(&format!("{verb} {snapshots} and {versions} of files away: {}", size(row.bytes)))?;
        let of = row.max_size.map(|max| format!(" of {}", size(max))).unwrap_or_default();
        Ok(out.line(&format!("the store has {}{of}", size(row.store_bytes)))?)
    })?;
    Ok(out.flush()?)
}
