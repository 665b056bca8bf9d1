//! `regentfs rewind`: the tree, or some paths of it, as they were.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::output::{Output, Style, count, printable};
use super::repo::Repo;
use super::{Which, diff, repo, source::Source};
use crate::control::protocol::{Request, Rewind, Row};
use crate::timeline::rows::{MovedRow, PathRow};

/// Take the tree, or only some paths, back to a snapshot; live, and undoable
#[derive(clap::Args, Debug)]
pub struct Args {
    /// An id or its beginning, a label, base, @{10 minutes ago}, now~2
    snapshot: String,
    /// Only these files and directories
    paths: Vec<PathBuf>,
    #[command(flatten)]
    which: Which,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// JSON: one object that says what was done, then one a path
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    let paths = args.paths.iter().map(|path| diff::relative(path, &repo)).collect::<Result<Vec<_>>>()?;
    if paths.iter().any(String::is_empty) && paths.len() > 1 {
        bail!("the root is among the paths: leave the others out");
    }
    // The root alone is everything.
    let paths = if paths.iter().any(String::is_empty) { Vec::new() } else { paths };
    let request = Request::Rewind(Rewind { to: args.snapshot.clone(), paths, dry_run: args.dry_run });
    moved(&repo, &request, args.json)
}

/// Paths that are listed on a terminal.
const SHOWN: usize = 20;

/// Asks for a move and shows what it did.
pub fn moved(repo: &Repo, request: &Request, json: bool) -> Result<()> {
    let mut out = Output::new();
    let (mut first, mut paths): (Option<MovedRow>, Vec<PathRow>) = (None, Vec::new());
    Source::of(repo)?.ask(request, &mut |row: MoveRow| {
        match row {
            MoveRow::Moved(row) if json => out.json(&row)?,
            MoveRow::Path(row) if json => out.json(&row)?,
            MoveRow::Moved(row) => first = Some(row),
            MoveRow::Path(row) => paths.push(row),
        }
        Ok(())
    })?;
    if let Some(row) = first {
        if row.done && !paths.iter().any(|p| matches!(p.what.as_str(), "conflict" | "note")) {
            print(&mut out, &row, &paths)?;
        } else if row.op == "rewind" || row.op == "restore" {
            print(&mut out, &row, &paths)?;
        } else {
            return super::apply::finish(&mut out, &row, &paths, json);
        }
    }
    Ok(out.flush()?)
}

fn print(out: &mut Output, row: &MovedRow, paths: &[PathRow]) -> std::io::Result<()> {
    let (kept, changed): (Vec<_>, Vec<_>) = paths.iter().partition(|p| p.what == "kept");
    if changed.is_empty() {
        return out.line("nothing differs: nothing to do");
    }
    for path in changed.iter().take(SHOWN) {
        out.line(&format!("  {}", printable(&path.path)))?;
    }
    if changed.len() > SHOWN {
        out.line(&format!("  and {} more", changed.len() - SHOWN))?;
    }
    let paths = count(changed.len() as u64, "path");
    let text =
        if row.done { format!("{}: {paths} changed", row.note) } else { format!("{}: {paths} would change", row.note) };
    out.line(&out.style(Style::Bold, &text))?;
    for path in &kept {
        let users: Vec<String> = path.users.iter().map(|u| format!("{} ({})", printable(&u.comm), u.pid)).collect();
        let who = if users.is_empty() { "a process".to_owned() } else { users.join(", ") };
        let keeps = if row.done { "keeps" } else { "would keep" };
        out.line(&format!("  {who} {keeps} the old {} until it is opened again", printable(&path.path)))?;
    }
    if row.done {
        let before = row.before.as_deref().unwrap_or("?");
        out.line(&format!("what was there is in snapshot {before}; `regentfs undo` brings it back"))?;
    }
    Ok(())
}

/// The rows of a move.
#[derive(serde::Deserialize)]
#[serde(untagged)]
pub enum MoveRow {
    Moved(MovedRow),
    Path(PathRow),
}

impl crate::control::protocol::FromRow for MoveRow {
    fn from_row(row: Row) -> Option<MoveRow> {
        match row {
            Row::Moved(row) => Some(MoveRow::Moved(row)),
            Row::Path(row) => Some(MoveRow::Path(row)),
            _ => None,
        }
    }
}
