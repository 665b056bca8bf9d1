//! `regentfs ps`: the processes that touched the mount.

use std::path::Path;

use anyhow::Result;

use super::output::{Align, Output, Style, Table, ago, between, duration};
use super::{Which, repo, source::Source};
use crate::control::protocol::Request;
use crate::query::{PsFilter, PsRow};

/// The processes that touched the mount: command line, parent, first and last seen, files read and written
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Also ancestors that did not touch the mount themselves
    #[arg(long)]
    all: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    use Align::{Left, Right};
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    let mut out = Output::paged();
    let columns = [
        ("PID", Right),
        ("PPID", Right),
        ("START", Right),
        ("END", Left),
        ("READ", Right),
        ("WRITTEN", Right),
        ("COMMAND", Left),
    ];
    let mut table = Table::new(&columns);
    let request = Request::Ps(PsFilter { all: args.all });
    let source = Source::of(&repo)?;
    let live = source.is_daemon();
    source.ask(&request, &mut |row: PsRow| {
        if args.json {
            out.json(&row)?;
        } else {
            let (end, style) = end(&row, live);
            table.row(vec![
                (row.pid.to_string(), Style::Bold),
                (row.ppid.to_string(), Style::Plain),
                (ago(&row.first), Style::Plain),
                (end, style),
                (row.files_read.to_string(), Style::Plain),
                (row.files_written.to_string(), Style::Plain),
                (command(&row), Style::Plain),
            ]);
        }
        Ok(())
    })?;
    if !args.json {
        table.print(&mut out)?;
    }
    Ok(out.flush()?)
}

fn end(row: &PsRow, live: bool) -> (String, Style) {
    ended(&row.first, row.exit_at.as_deref(), row.exit, row.signal, live)
}

/// How a process ended, and after how long. Without a daemon nobody knows what became of those whose end was not seen.
pub fn ended(first: &str, at: Option<&str>, exit: Option<i32>, signal: Option<i32>, live: bool) -> (String, Style) {
    let Some(at) = at else {
        return if live { ("running".to_owned(), Style::Green) } else { ("not seen".to_owned(), Style::Dim) };
    };
    let took = between(first, at).map(duration).unwrap_or_default();
    match (exit, signal) {
        (Some(0), _) => (format!("ok after {took}"), Style::Plain),
        (Some(code), _) => (format!("exit {code} after {took}"), Style::Red),
        (None, Some(signal)) => (format!("signal {signal} after {took}"), Style::Red),
        (None, None) => (format!("ended after {took}"), Style::Plain),
    }
}

/// The command line, quoted where a shell would need it.
fn command(row: &PsRow) -> String {
    if row.argv.is_empty() {
        return if row.exe.is_empty() { format!("[{}]", row.comm) } else { row.exe.clone() };
    }
    let mut line = quoted(&row.argv);
    if row.argv_truncated {
        line.push_str(" …");
    }
    line
}

/// A command line in one line.
pub fn quoted(argv: &[String]) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%^".contains(c);
    let quoted = |word: &String| {
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    argv.iter().map(quoted).collect::<Vec<_>>().join(" ")
}
