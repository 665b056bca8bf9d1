//! `regentfs reads`: the read-sets, per process and file.

use std::path::Path;

use anyhow::Result;

use super::events::glob;
use super::output::{Output, Style, printable, ranges};
use super::{Which, repo, source::Source};
use crate::control::protocol::Request;
use crate::query::{ReadRow, ReadsFilter};

/// What each process read, or may have read: file, byte ranges, content
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Only this process
    #[arg(long, value_name = "N")]
    pid: Option<u32>,
    /// Only these files: a glob relative to the repository; without a slash it matches at any depth
    #[arg(long, value_name = "GLOB")]
    path: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    let filter = ReadsFilter { pid: args.pid, path: glob(args.path.as_ref(), &repo)? };
    let mut out = Output::paged();
    let mut actor = None;
    Source::of(&repo)?.ask(&Request::Reads(filter), &mut |row: ReadRow| {
        if args.json {
            return Ok(out.json(&row)?);
        }
        if actor != Some(row.actor) {
            let head = format!("{} {}", row.pid, printable(&row.comm));
            let head = out.style(Style::Bold, &head);
            out.line(&head)?;
            actor = Some(row.actor);
        }
        Ok(print(&mut out, &row)?)
    })?;
    Ok(out.flush()?)
}

fn print(out: &mut Output, row: &ReadRow) -> std::io::Result<()> {
    let content = match &row.content {
        // Enough to tell contents apart by eye.
        Some(hash) => hash.chars().take("blake3:".len() + 12).collect(),
        None => "content gone".to_owned(),
    };
    let known = format!("{:<8}", row.known);
    let known = if row.known == "observed" { out.style(Style::Cyan, &known) } else { out.style(Style::Dim, &known) };
    let detail = out.style(Style::Dim, &format!("{}  {content}", ranges(&row.ranges)));
    let line = format!("  {known}  {}  {detail}", printable(&row.path));
    out.line(&line)
}
