//! `regentfs log`: the commands that were run.

use std::path::Path;

use anyhow::Result;

use super::output::{Align, Output, Style, Table, ago};
use super::ps::{ended, quoted};
use super::{Which, agents, repo, source::Source};
use crate::control::protocol::Request;
use crate::query::{CommandRow, LogFilter};

/// The commands that were run, the newest first: command line, how each ended, files read and written
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Only those of this session, as `sessions` shows it
    session: Option<String>,
    /// How many; 0 means all
    #[arg(long = "number", short = 'n', value_name = "N", default_value_t = 50)]
    newest: usize,
    /// Also what others than agents ran and that did not touch the mount
    #[arg(long)]
    all: bool,
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

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    use Align::{Left, Right};
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    agents::load_or_warn();
    let filter = LogFilter { session: args.session.clone(), newest: args.newest, all: args.all };
    let mut out = Output::paged();
    let columns = [
        ("STEP", Left),
        ("SESSION", Left),
        ("WHO", Left),
        ("START", Right),
        ("END", Left),
        ("READ", Right),
        ("WRITTEN", Right),
        ("COMMAND", Left),
    ];
    let mut table = Table::new(&columns);
    let source = Source::of(&repo)?;
    let live = source.is_daemon();
    let mut none = true;
    source.ask(&Request::Log(filter), &mut |row: CommandRow| {
        none = false;
        if args.json {
            return Ok(out.json(&row)?);
        }
        let (end, style) = ended(&row.started, row.ended.as_deref(), row.exit, row.signal, live);
        table.row(vec![
            (row.step.clone(), Style::Bold),
            (row.session.clone(), Style::Plain),
            (row.agent.unwrap_or(row.by), Style::Plain),
            (ago(&row.started), Style::Plain),
            (end, style),
            (row.reads.to_string(), Style::Plain),
            (row.writes.to_string(), Style::Plain),
            (row.command.map_or_else(|| quoted(&row.argv), |command| one_line(&command)), Style::Plain),
        ]);
        Ok(())
    })?;
    if none && !args.json {
        eprintln!("no commands yet");
    } else if !args.json {
        table.print(&mut out)?;
    }
    Ok(out.flush()?)
}
