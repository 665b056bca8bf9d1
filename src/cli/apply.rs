//! `regentfs apply`: brings changes that a person accepts into the repository on disk.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::output::{Output, Style, count, printable};
use super::rewind::MoveRow;
use super::{Which, diff, repo, source::Source};
use crate::control::protocol::{Apply, Request};
use crate::timeline::rows::{MovedRow, PathRow};

/// Bring changes into the repository on disk; undoable. .git is never copied: commits come over with --as-branch
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only these files and directories
    paths: Vec<PathBuf>,
    #[command(flatten)]
    which: Which,
    /// The state to bring over, instead of the present one
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "only")]
    from: Option<String>,
    /// Only what changed between two snapshots, merged into what the repository has
    #[arg(long, value_name = "FROM..TO")]
    only: Option<String>,
    /// The commits of the mount's HEAD that the repository does not have, as a new branch of this name there; files are left alone
    #[arg(long, value_name = "NAME", conflicts_with_all = ["paths", "from", "only", "ours", "theirs", "dry_run"])]
    as_branch: Option<String>,
    /// Where the repository was changed meanwhile: overwrite it
    #[arg(long, conflicts_with = "theirs")]
    ours: bool,
    /// Where the repository was changed meanwhile: leave it as it is
    #[arg(long)]
    theirs: bool,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// JSON: one object that says what was done, then one a path
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    if let Some(name) = &args.as_branch {
        return super::bring::run(&repo, name, args.json);
    }
    let paths = args.paths.iter().map(|path| diff::relative(path, &repo)).collect::<Result<Vec<_>>>()?;
    let paths = if paths.iter().any(String::is_empty) { Vec::new() } else { paths };
    let only = match &args.only {
        Some(text) => match text.split_once("..") {
            Some((from, to)) if !from.is_empty() => {
                Some((from.to_owned(), if to.is_empty() { "now".to_owned() } else { to.to_owned() }))
            }
            _ => return Err(super::exit::Usage(format!("--only {text}: give two snapshots, as in FROM..TO")).into()),
        },
        None => None,
    };
    let (ours, theirs, dry_run) = (args.ours, args.theirs, args.dry_run);
    let request = Request::Apply(Apply { paths, from: args.from.clone(), only, dry_run, ours, theirs });
    let mut out = Output::new();
    let (mut first, mut rows): (Option<MovedRow>, Vec<PathRow>) = (None, Vec::new());
    Source::of(&repo)?.ask(&request, &mut |row: MoveRow| {
        match row {
            MoveRow::Moved(row) => {
                if args.json {
                    out.json(&row)?;
                }
                first = Some(row);
            }
            MoveRow::Path(row) => {
                if args.json {
                    out.json(&row)?;
                }
                rows.push(row);
            }
        }
        Ok(())
    })?;
    let Some(row) = first else { bail!("the daemon did not say what it did: see daemon.log in the store") };
    finish(&mut out, &row, &rows, args.json)
}

/// Shows what came of it. Conflicts are an error.
pub fn finish(out: &mut Output, row: &MovedRow, rows: &[PathRow], json: bool) -> Result<()> {
    let of = |what: &str| rows.iter().filter(|r| r.what == what).collect::<Vec<_>>();
    let (changed, conflicts, notes) = (of("changed"), of("conflict"), of("note"));
    if !json {
        let dry = if row.done { "" } else { "would be " };
        if row.done || conflicts.is_empty() {
            for path in &changed {
                out.line(&format!("  {}", printable(&path.path)))?;
            }
            let text = format!("{}: {} {dry}changed in the repository", row.note, count(changed.len() as u64, "path"));
            out.line(&out.style(Style::Bold, &text))?;
        }
        for note in notes {
            out.line(&format!("  note: {}: {}", printable(&note.path), note.why.as_deref().unwrap_or_default()))?;
        }
        for conflict in &conflicts {
            let why = conflict.why.as_deref().unwrap_or_default();
            let line = format!("  conflict: {}: {why}", printable(&conflict.path));
            out.line(&out.style(Style::Red, &line))?;
        }
        if row.done {
            out.line("`regentfs undo` takes it back")?;
        }
    }
    out.flush()?;
    match (conflicts.len(), row.done) {
        (0, _) => Ok(()),
        (n, true) => bail!("{} left as it is", count(n as u64, "path")),
        (n, false) => bail!(
            "{}: nothing was done (--ours overwrites what the repository has there, --theirs leaves it)",
            count(n as u64, "conflict")
        ),
    }
}
