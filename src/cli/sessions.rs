//! `regentfs sessions`: who worked in the mount.

use std::path::Path;

use anyhow::Result;

use super::output::{Align, Output, Style, Table, ago, between, duration};
use super::ps::quoted;
use super::{Which, agents, repo, source::Source};
use crate::control::protocol::Request;
use crate::query::SessionRow;

/// Who worked in the mount: agents with all that they started, people, scripts
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    use Align::{Left, Right};
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    agents::load_or_warn();
    let mut out = Output::paged();
    let columns = [
        ("SESSION", Left),
        ("WHO", Left),
        ("START", Right),
        ("END", Left),
        ("MODEL", Left),
        ("PROMPTS", Right),
        ("STEPS", Right),
        ("COMMANDS", Right),
        ("FAILED", Right),
        ("READ", Right),
        ("WRITTEN", Right),
        ("COMMAND", Left),
    ];
    let mut table = Table::new(&columns);
    let source = Source::of(&repo)?;
    let live = source.is_daemon();
    let mut none = true;
    source.ask(&Request::Sessions, &mut |row: SessionRow| {
        none = false;
        if args.json {
            out.json(&row)?;
        } else {
            table.row(cells(&row, live));
        }
        Ok(())
    })?;
    if none && !args.json {
        eprintln!("nobody has touched the mount yet");
    } else if !args.json {
        table.print(&mut out)?;
    }
    Ok(out.flush()?)
}

fn cells(row: &SessionRow, live: bool) -> Vec<(String, Style)> {
    let who = match (&row.agent, &row.version) {
        (Some(agent), Some(version)) => format!("{agent} {version}"),
        (Some(agent), None) => agent.clone(),
        (None, _) => row.by.clone(),
    };
    let end = match &row.ended {
        Some(at) => {
            (between(&row.started, at).map(|t| format!("after {}", duration(t))).unwrap_or_default(), Style::Plain)
        }
        None if live => ("active".to_owned(), Style::Green),
        None => ("not seen".to_owned(), Style::Dim),
    };
    let failed = if row.failed > 0 { Style::Red } else { Style::Plain };
    vec![
        (row.session.clone(), Style::Bold),
        (who, Style::Plain),
        (ago(&row.started), Style::Plain),
        end,
        (row.model.clone().unwrap_or_default(), Style::Plain),
        (row.prompts.to_string(), Style::Plain),
        (row.steps.to_string(), Style::Plain),
        (row.commands.to_string(), Style::Plain),
        (row.failed.to_string(), failed),
        (row.files_read.to_string(), Style::Plain),
        (row.files_written.to_string(), Style::Plain),
        (quoted(&row.argv), Style::Plain),
    ]
}
