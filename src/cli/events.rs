//! `regentfs events`: the record, one line for each thing that a process did or saw.

use std::path::Path;

use anyhow::Result;
use clap_complete::engine::ArgValueCompleter;

use super::output::{Output, Style, printable, ranges, time_of_day};
use super::repo::Repo;
use super::{Which, complete, repo, source::Source};
use crate::clock;
use crate::control::protocol::Request;
use crate::query::{EventFilter, EventRow, PathGlob, time};
use crate::types::{Op, Time};

/// What processes did and saw, in order
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Wait for more, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Only this process
    #[arg(long, value_name = "N")]
    pid: Option<u32>,
    /// Only these files: a glob relative to the repository; without a slash it matches at any depth
    #[arg(long, value_name = "GLOB")]
    path: Option<String>,
    /// Only these operations, such as open,read,write
    #[arg(long, value_name = "OP", value_delimiter = ',', value_parser = op, add = ArgValueCompleter::new(complete::operation))]
    op: Vec<String>,
    /// Only from then on: a time (RFC 3339) or how long ago (30s, 10m, 2h, 1d)
    #[arg(long, value_name = "T", value_parser = since)]
    since: Option<Time>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

fn op(text: &str) -> Result<String, String> {
    let all = || Op::ALL.iter().map(|op| op.name()).collect::<Vec<_>>().join(", ");
    Op::from_name(text).map(|op| op.name().to_owned()).ok_or_else(|| format!("operations are {}", all()))
}

fn since(text: &str) -> Result<Time, String> {
    time::parse_since(text, clock::now())
        .ok_or_else(|| "give a time such as 2024-05-01T12:00:00Z, or how long ago: 30s, 10m, 2h, 1d".to_owned())
}

/// A glob as the record needs it: an absolute one is made relative to the repository.
pub fn glob(pattern: Option<&String>, repo: &Repo) -> Result<Option<String>> {
    let Some(pattern) = pattern else { return Ok(None) };
    let mountpoints = super::source::mountpoints(repo);
    let below = [&repo.root].into_iter().chain(&mountpoints).find_map(|dir| {
        let rest = pattern.strip_prefix(dir.to_str()?)?;
        // The leading slash stays: it ties the glob to the root.
        if rest.is_empty() { Some("/") } else { rest.starts_with('/').then_some(rest) }
    });
    let pattern = below.unwrap_or(pattern).to_owned();
    PathGlob::new(&pattern).map_err(|e| super::exit::Usage(e.to_string()))?;
    Ok(Some(pattern))
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    let filter = EventFilter {
        pid: args.pid,
        path: glob(args.path.as_ref(), &repo)?,
        ops: args.op.clone(),
        since: args.since.map(Time::as_nanos),
        from_seq: 0,
    };
    let source = Source::of(&repo)?;
    let live = source.is_daemon();
    let mut out = if args.follow { Output::new() } else { Output::paged() };
    source.ask(&Request::Events { filter, follow: args.follow && live }, &mut |row: EventRow| {
        if args.json {
            out.json(&row)?
        } else {
            print(&mut out, &row)?
        }
        if args.follow {
            out.flush()?;
        }
        Ok(())
    })?;
    out.flush()?;
    if args.follow && !live {
        eprintln!("regentfs: note: nothing is mounted, so there is nothing to wait for");
    }
    Ok(())
}

fn print(out: &mut Output, row: &EventRow) -> std::io::Result<()> {
    let style = match row.op.as_str() {
        "open" | "read" | "exec" | "readdir" | "readlink" | "inherit" => Style::Cyan,
        "mount" | "unmount" | "fsync" => Style::Dim,
        "gap" => Style::Red,
        _ => Style::Yellow,
    };
    let path = if row.path.is_empty() { ".".to_owned() } else { printable(&row.path) };
    let mut line = format!(
        "{}  {:>7}  {:<15}  {}  {}",
        out.style(Style::Dim, time_of_day(&row.time)),
        row.pid,
        printable(&row.comm),
        out.style(style, &format!("{:<11}", row.op)),
        path,
    );
    if let Some(path2) = &row.path2 {
        line.push_str(&format!(" -> {}", printable(path2)));
    }
    if !row.ranges.is_empty() {
        line.push_str(&out.style(Style::Dim, &format!("  {}", ranges(&row.ranges))));
    }
    if row.known == "inferred" {
        line.push_str(&out.style(Style::Dim, "  inferred"));
    }
    if let Some(errno) = &row.errno {
        line.push_str(&out.style(Style::Red, &format!("  {errno}")));
    }
    out.line(&line)
}
