//! `regentfs log`: the steps, one after another.

use std::path::Path;

use anyhow::Result;

use super::output::{Align, Output, Style, Table, ago};
use super::ps::{ended, quoted};
use super::{Which, agents, repo, source::Source};
use crate::control::protocol::Request;
use crate::query::{LogFilter, StepRow};

/// What was done, the newest first: commands with how each ended, and what agents and people changed by themselves
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Only those of this session, as `sessions` shows it
    session: Option<String>,
    /// How many; 0 means all
    #[arg(long = "number", short = 'n', value_name = "N", default_value_t = 50)]
    newest: usize,
    /// Also commands of others than agents that did not touch the mount
    #[arg(long)]
    all: bool,
    /// Only commands
    #[arg(long)]
    commands: bool,
    /// Also what a session looked at by itself
    #[arg(long)]
    reads: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// The first line of a text, and whether there are more.
fn one_line(text: &str) -> String {
    match text.trim().split_once('\n') {
        Some((first, _)) => format!("{first} …"),
        None => text.trim().to_owned(),
    }
}

/// What a step did, in a line.
pub fn what(row: &StepRow) -> String {
    match (row.kind.as_str(), &row.command) {
        ("command", Some(command)) => one_line(command),
        ("command", None) => quoted(&row.argv),
        (kind, _) => {
            let more = row.writes.saturating_sub(row.paths.len() as u64);
            let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{kind} {}{rest}", row.paths.join(" "))
        }
    }
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    use Align::{Left, Right};
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    agents::load_or_warn();
    let filter = LogFilter {
        session: args.session.clone(),
        newest: args.newest,
        all: args.all,
        commands: args.commands,
        reads: args.reads,
        ..LogFilter::default()
    };
    let mut out = Output::paged();
    let columns = [
        ("STEP", Left),
        ("SESSION", Left),
        ("WHO", Left),
        ("START", Right),
        ("END", Left),
        ("READ", Right),
        ("WRITTEN", Right),
        ("SNAPSHOT", Left),
        ("WHAT", Left),
    ];
    let mut table = Table::new(&columns);
    let source = Source::of(&repo)?;
    let live = source.is_daemon();
    let mut none = true;
    source.ask(&Request::Log(filter), &mut |row: StepRow| {
        none = false;
        if args.json {
            return Ok(out.json(&row)?);
        }
        let what = what(&row);
        let (end, style) = ended(&row.started, row.ended.as_deref(), row.exit, row.signal, live);
        table.row(vec![
            (row.step.clone(), Style::Bold),
            (row.session.clone(), Style::Plain),
            (row.agent.unwrap_or(row.by), Style::Plain),
            (ago(&row.started), Style::Plain),
            (end, style),
            (row.reads.to_string(), Style::Plain),
            (row.writes.to_string(), Style::Plain),
            (row.snapshot.unwrap_or_default(), Style::Plain),
            (what, Style::Plain),
        ]);
        Ok(())
    })?;
    if none && !args.json {
        eprintln!("no steps yet");
    } else if !args.json {
        table.print(&mut out)?;
    }
    Ok(out.flush()?)
}
