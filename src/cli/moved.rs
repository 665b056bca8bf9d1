//! What a rewind, an undo, an apply or another move of many files came to, for people and as JSON.

use anyhow::{Result, bail};

use super::output::{Output, Style, count, printable};
use super::progress;
use super::repo::Repo;
use super::source::Source;
use crate::control::protocol::{FromRow, Request, Row};
use crate::timeline::rows::{MovedRow, PathRow};

/// Paths that are listed on a terminal.
const SHOWN: usize = 20;

/// The rows of a move.
#[derive(serde::Deserialize)]
#[serde(untagged)]
pub enum MoveRow {
    Moved(MovedRow),
    Path(PathRow),
}

impl FromRow for MoveRow {
    fn from_row(row: Row) -> Option<MoveRow> {
        match row {
            Row::Moved(row) => Some(MoveRow::Moved(row)),
            Row::Path(row) => Some(MoveRow::Path(row)),
            _ => None,
        }
    }
}

/// Asks for a move and shows what it did.
///
/// # Errors
/// Why it was not done; conflicts.
pub fn ask(repo: &Repo, request: &Request, json: bool) -> Result<()> {
    let mut out = Output::new();
    let (mut first, mut paths): (Option<MovedRow>, Vec<PathRow>) = (None, Vec::new());
    progress::begin(request.what());
    Source::of(repo)?.ask(request, &mut |row: MoveRow| {
        match row {
            MoveRow::Moved(row) => {
                if json {
                    out.json(&row)?;
                }
                first = Some(row);
            }
            MoveRow::Path(row) => {
                if json {
                    out.json(&row)?;
                }
                paths.push(row);
            }
        }
        Ok(())
    })?;
    let Some(row) = first else { bail!("the daemon did not say what it did: see daemon.log in the store") };
    if !json {
        print(&mut out, &row, &paths)?;
    }
    out.flush()?;
    let conflicts = paths.iter().filter(|p| p.what == "conflict").count() as u64;
    match (conflicts, row.done, row.op.as_str()) {
        (0, ..) => Ok(()),
        (n, true, _) => bail!("{} left as it is", count(n, "path")),
        (n, false, _) if paths.iter().any(|p| p.step.is_some() || p.builds_on.is_some()) => {
            bail!("{}: nothing was done (select the steps as well that are built on)", count(n, "conflict"))
        }
        (n, false, "apply") => bail!(
            "{}: nothing was done (--ours overwrites what the repository has there, --theirs leaves it)",
            count(n, "conflict")
        ),
        (n, false, "merge" | "revert") => {
            bail!("{}: nothing was done (--ours or --theirs decides)", count(n, "conflict"))
        }
        (n, false, _) => bail!("{}: nothing was done", count(n, "conflict")),
    }
}

fn print(out: &mut Output, row: &MovedRow, paths: &[PathRow]) -> std::io::Result<()> {
    let of = |what: &'static str| paths.iter().filter(move |p| p.what == what);
    let changed: Vec<_> = of("changed").collect();
    let conflicts = of("conflict").count();
    if changed.is_empty() && conflicts == 0 && row.timeline.is_none() {
        return out.line("nothing differs: nothing to do");
    }
    if row.done || conflicts == 0 {
        for path in changed.iter().take(SHOWN) {
            let merged = if path.kind.as_deref() == Some("merged") { " (merged)" } else { "" };
            out.line(&format!("  {}{merged}", printable(&path.path)))?;
        }
        if changed.len() > SHOWN {
            out.line(&format!("  and {} more", changed.len() - SHOWN))?;
        }
        let paths = count(changed.len() as u64, "path");
        let verb = if row.done { "changed" } else { "would change" };
        let place = if row.repository { " in the repository" } else { "" };
        let text = match &row.timeline {
            // Nothing was changed: something else is shown.
            Some(timeline) => format!("{}: timeline {timeline} is in place, {paths} differ", row.note),
            None => format!("{}: {paths} {verb}{place}", row.note),
        };
        out.line(&out.style(Style::Bold, &text))?;
    }
    for path in of("kept") {
        let users: Vec<String> = path.users.iter().map(|u| format!("{} ({})", printable(&u.comm), u.pid)).collect();
        let who = if users.is_empty() { "a process".to_owned() } else { users.join(", ") };
        let keeps = if row.done { "keeps" } else { "would keep" };
        out.line(&format!("  {who} {keeps} the old {} until it is opened again", printable(&path.path)))?;
    }
    for note in of("note") {
        out.line(&format!("  note: {}: {}", printable(&note.path), note.why.as_deref().unwrap_or_default()))?;
    }
    for conflict in of("conflict") {
        let why = conflict.why.as_deref().unwrap_or_default();
        let line = format!("  conflict: {}: {why}", printable(&conflict.path));
        out.line(&out.style(Style::Red, &line))?;
    }
    if !row.done {
        return Ok(());
    }
    match (row.op.as_str(), &row.before) {
        ("undo", _) => out.line("`regentfs redo` does it again"),
        ("redo", _) | (_, None) => out.line("`regentfs undo` takes it back"),
        _ if row.repository || row.timeline.is_some() => out.line("`regentfs undo` takes it back"),
        (_, Some(before)) => {
            out.line(&format!("what was there is in snapshot {before}; `regentfs undo` brings it back"))
        }
    }
}
