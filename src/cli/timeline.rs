//! `regentfs timeline`: several lines of history, and which of them is in place.

use std::path::Path;

use anyhow::Result;
use clap_complete::engine::ArgValueCompleter;

use super::output::{Align, Output, Style, Table, ago};
use super::{Which, complete, merge, moved, repo, source::Source};
use crate::control::protocol::{Request, TimelineRequest};
use crate::timeline::rows::TimelineRow;

/// Fork the history, list the timelines, show another one in place
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    Fork(Fork),
    List(List),
    Switch(Switch),
    Merge(merge::Args),
    Delete(Delete),
}

/// Begin a timeline at the present state, or at another one; copies nothing
#[derive(clap::Args, Debug)]
struct Fork {
    name: String,
    /// A snapshot, base, @{10 minutes ago}, now~2; or another timeline
    #[arg(add = ArgValueCompleter::new(complete::snapshot_or_timeline))]
    from: Option<String>,
    #[command(flatten)]
    which: Which,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// List the timelines
#[derive(clap::Args, Debug)]
struct List {
    #[command(flatten)]
    which: Which,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Show another timeline in place; live, and undoable
#[derive(clap::Args, Debug)]
struct Switch {
    #[arg(add = ArgValueCompleter::new(complete::timeline))]
    name: String,
    #[command(flatten)]
    which: Which,
    /// JSON: one object that says what was done, then one a path
    #[arg(long)]
    json: bool,
}

/// Delete a timeline; its snapshots stay until they are collected
#[derive(clap::Args, Debug)]
struct Delete {
    #[arg(add = ArgValueCompleter::new(complete::timeline))]
    name: String,
    #[command(flatten)]
    which: Which,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    match &args.command {
        Command::Fork(args) => {
            let request = TimelineRequest::Fork { name: args.name.clone(), from: args.from.clone() };
            one(&args.which, store, request, args.json, &|row| {
                let (parent, at) = (row.parent.as_deref().unwrap_or("?"), row.forked_at.as_deref().unwrap_or("?"));
                let name = &row.name;
                format!(
                    "timeline {name} begins at {at} of {parent}: `regentfs timeline switch {name}` puts it in place, \
                     `regentfs mount --timeline {name} --at DIR` shows it beside"
                )
            })
        }
        Command::List(args) => list(args, store),
        Command::Switch(args) => {
            let repo = repo::discover(args.which.repo.as_deref(), store)?;
            let request = Request::Timeline(TimelineRequest::Switch { name: args.name.clone() });
            moved::ask(&repo, &request, args.json)
        }
        Command::Merge(args) => merge::run(args, store),
        Command::Delete(args) => {
            let request = TimelineRequest::Delete { name: args.name.clone() };
            one(&args.which, store, request, args.json, &|row| format!("deleted timeline {}", row.name))
        }
    }
}

/// Asks for what answers with one timeline.
fn one(
    which: &Which,
    store: Option<&Path>,
    request: TimelineRequest,
    json: bool,
    said: &dyn Fn(&TimelineRow) -> String,
) -> Result<()> {
    let repo = repo::discover(which.repo.as_deref(), store)?;
    let mut out = Output::new();
    Source::of(&repo)?.ask(&Request::Timeline(request), &mut |row: TimelineRow| {
        if json {
            out.json(&row)?
        } else {
            out.line(&said(&row))?
        }
        Ok(())
    })?;
    Ok(out.flush()?)
}

fn list(args: &List, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    let mut out = Output::new();
    let columns = [
        ("", Align::Left),
        ("NAME", Align::Left),
        ("FROM", Align::Left),
        ("CREATED", Align::Right),
        ("SNAPSHOTS", Align::Right),
        ("MOUNTED AT", Align::Left),
    ];
    let mut table = Table::new(&columns);
    Source::of(&repo)?.ask(&Request::Timeline(TimelineRequest::List), &mut |row: TimelineRow| {
        if args.json {
            out.json(&row)?;
            return Ok(());
        }
        let from = match (&row.parent, &row.forked_at) {
            (Some(parent), Some(at)) => format!("{at} of {parent}"),
            _ => String::new(),
        };
        let style = if row.current { Style::Green } else { Style::Plain };
        table.row(vec![
            (if row.current { "*" } else { "" }.to_owned(), style),
            (row.name, style),
            (from, Style::Yellow),
            (row.created.as_deref().map(ago).unwrap_or_default(), Style::Plain),
            (row.snapshots.to_string(), Style::Plain),
            (row.mountpoint.unwrap_or_default(), Style::Plain),
        ]);
        Ok(())
    })?;
    if !args.json {
        table.print(&mut out)?;
    }
    Ok(out.flush()?)
}
