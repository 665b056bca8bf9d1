//! `regentfs log`: the steps, one after another.

use std::path::Path;

use anyhow::Result;

use super::output::{Align, Output, Style, Table, ago};
use super::ps::{ended, quoted};
use super::{Which, agents, repo, source::Source};
use crate::control::protocol::Request;
use crate::diff::{Detail, DiffFilter, DiffRow};
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
    /// With the files that each step changed
    #[arg(long)]
    stat: bool,
    /// A lane for each session, to see who worked at once
    #[arg(long)]
    graph: bool,
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
    let mut rows: Vec<StepRow> = Vec::new();
    source.ask(&Request::Log(filter), &mut |row: StepRow| {
        if args.json {
            return Ok(out.json(&row)?);
        }
        rows.push(row);
        Ok(())
    })?;
    if args.json {
        return Ok(out.flush()?);
    }
    if rows.is_empty() {
        eprintln!("no steps yet");
    }
    let mut lanes = Lanes::default();
    let mut prompt: Option<(String, String)> = None;
    for row in rows {
        let own = row.prompt_id.clone().map(|id| (row.session.clone(), id));
        // A step without one must not seem to belong to the prompt above it.
        if own != prompt {
            match &row.prompt {
                Some(text) => table.heading(&format!("> {}", one_line(text)), Style::Cyan),
                None => table.heading("> (no prompt is known)", Style::Dim),
            }
            prompt = own;
        }
        let what = match args.graph {
            true => format!("{} {}", lanes.draw(&row.session), what(&row)),
            false => what(&row),
        };
        let stat = if args.stat && row.snapshot.is_some() { stat(&repo, &row.step)? } else { Vec::new() };
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
        stat.iter().for_each(|line| table.heading(line, Style::Plain));
    }
    if !table.is_empty() {
        table.print(&mut out)?;
    }
    Ok(out.flush()?)
}

/// The files that a step changed, a line each.
fn stat(repo: &repo::Repo, step: &str) -> Result<Vec<String>> {
    let filter = DiffFilter { step: Some(step.to_owned()), detail: Detail::Counts, all: true, ..DiffFilter::default() };
    let mut lines = Vec::new();
    Source::of(repo)?.ask(&Request::Diff(filter), &mut |row: DiffRow| {
        let counts = match row.binary {
            Some(true) => "binary".to_owned(),
            _ => format!("+{} -{}", row.added.unwrap_or(0), row.deleted.unwrap_or(0)),
        };
        lines.push(format!("      {} {} {counts}", row.status, row.path));
        Ok(())
    })?;
    Ok(lines)
}

/// A lane for each session, in the order in which they were met.
#[derive(Default)]
struct Lanes {
    sessions: Vec<String>,
}

impl Lanes {
    fn draw(&mut self, session: &str) -> String {
        let at = self.sessions.iter().position(|known| known == session).unwrap_or_else(|| {
            self.sessions.push(session.to_owned());
            self.sessions.len() - 1
        });
        let lane = |n: usize| if n == at { "*" } else { "|" };
        (0..self.sessions.len()).map(lane).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_of_sessions() {
        let mut lanes = Lanes::default();
        let drawn: Vec<String> = ["s1", "s2", "s1", "s3"].into_iter().map(|s| lanes.draw(s)).collect();
        assert_eq!(drawn, ["*", "| *", "* |", "| | *"]);
    }
}
