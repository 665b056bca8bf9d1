//! `regentfs snapshots`: what states there are to go back to.

use std::path::Path;

use anyhow::Result;

use super::output::{Align, Output, Style, Table, ago};
use super::{Which, repo, source::Source};
use crate::control::protocol::{Request, SnapshotsFilter};
use crate::timeline::rows::SnapshotRow;

/// List the states that can be gone back to, the newest first
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Those of all timelines
    #[arg(long)]
    all: bool,
    /// How many; 0 means all
    #[arg(long = "number", short = 'n', value_name = "N", default_value_t = 50)]
    newest: usize,
    /// Without the number of changed files, which takes a comparison each
    #[arg(long)]
    brief: bool,
    /// One JSON object a line, the oldest first
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    let filter = SnapshotsFilter { all: args.all, newest: args.newest, one: None, brief: args.brief };
    let mut out = Output::paged();
    let mut rows = Vec::new();
    Source::of(&repo)?.ask(&Request::Snapshots(filter), &mut |row: SnapshotRow| {
        if args.json {
            out.json(&row)?
        } else {
            rows.push(row)
        }
        Ok(())
    })?;
    if args.json {
        return Ok(out.flush()?);
    }
    if rows.is_empty() {
        eprintln!("no snapshots yet: `regentfs snapshot` takes one");
        return Ok(());
    }
    let mut columns = vec![
        ("ID", Align::Left),
        ("WHEN", Align::Right),
        ("WHY", Align::Left),
        ("FILES", Align::Right),
        ("WHAT", Align::Left),
    ];
    if args.all {
        columns.insert(1, ("TIMELINE", Align::Left));
    }
    let mut table = Table::new(&columns);
    for row in rows.iter().rev() {
        let what = match &row.label {
            Some(label) => (label.clone(), Style::Bold),
            None => (row.note.clone(), Style::Plain),
        };
        let files = row.changed_files.map(|n| n.to_string()).unwrap_or_default();
        let mut cells = vec![
            (row.id.clone(), Style::Yellow),
            (ago(&row.time), Style::Plain),
            (row.why.clone(), Style::Dim),
            (files, Style::Plain),
            what,
        ];
        if args.all {
            cells.insert(1, (row.timeline.clone(), Style::Cyan));
        }
        table.row(cells);
    }
    table.print(&mut out)?;
    Ok(out.flush()?)
}
