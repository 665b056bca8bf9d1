//! `regentfs blame`: who wrote each line.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap_complete::engine::ArgValueCompleter;

use super::exit::Usage;
use super::output::{Output, Style, ago, printable};
use super::{Which, complete, diff, repo, source::Source};
use crate::control::protocol::Request;
use crate::control::steps::BlameFilter;
use crate::query::BlameRow;

/// Show for each line of a file which step wrote it, and who that was
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A file; PATH:LINE and PATH:FIRST-LAST for some of its lines
    #[arg(value_name = "PATH[:LINE[-LINE]]")]
    what: PathBuf,
    /// As it was at another point in time
    #[arg(long, value_name = "SNAPSHOT", add = ArgValueCompleter::new(complete::snapshot))]
    at: Option<String>,
    #[command(flatten)]
    which: Which,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// A path, and the lines of it that are wanted. A file whose name has a colon is meant where there is one.
///
/// # Errors
/// Lines that are none.
pub fn lines(what: &Path) -> Result<(PathBuf, Option<(u64, u64)>)> {
    let Some((path, lines)) = what.to_str().and_then(|text| text.rsplit_once(':')) else {
        return Ok((what.to_owned(), None));
    };
    if what.symlink_metadata().is_ok() || path.is_empty() {
        return Ok((what.to_owned(), None));
    }
    let (first, last) = lines.split_once('-').unwrap_or((lines, lines));
    let number = |text: &str| text.parse::<u64>().ok().filter(|n| *n > 0);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok((path.into(), Some((first, last)))),
        _ => Err(Usage(format!("{lines:?} are no lines: 12, or 12-20, with the first line being 1")).into()),
    }
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    super::agents::load_or_warn();
    let (path, lines) = lines(&args.what)?;
    let filter = BlameFilter { path: diff::relative(&path, &repo)?, lines, at: args.at.clone() };
    let mut out = Output::paged();
    let mut rows: Vec<BlameRow> = Vec::new();
    Source::of(&repo)?.ask(&Request::Blame(filter), &mut |row: BlameRow| {
        if args.json {
            return Ok(out.json(&row)?);
        }
        rows.push(row);
        Ok(())
    })?;
    let columns: Vec<[String; 3]> = rows.iter().map(head).collect();
    let width = |n: usize| columns.iter().map(|c| c.get(n).map_or(0, |t| t.chars().count())).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let digits = rows.last().map_or(1, |row| row.line.to_string().len());
    for (row, head) in rows.iter().zip(&columns) {
        let [step, who, when] = head;
        let [a, b, c] = widths;
        let style = match row.by.as_str() {
            "agent" => Style::Cyan,
            "human" => Style::Green,
            "base" => Style::Plain,
            _ => Style::Yellow,
        };
        let head = out.style(style, &format!("{step:a$}  {who:b$}  {when:>c$}"));
        out.line(&format!("{head}  {:>digits$}  {}", row.line, printable(&row.text)))?;
    }
    Ok(out.flush()?)
}

/// Step, writer and age of a line.
fn head(row: &BlameRow) -> [String; 3] {
    let step = row.step.clone().unwrap_or_else(|| row.by.clone());
    let who = match &row.step {
        Some(_) => row.agent.clone().unwrap_or_else(|| row.by.clone()),
        None => String::new(),
    };
    let when = match (&row.time, row.by.as_str()) {
        (Some(time), _) => ago(time),
        (None, "base") => String::new(),
        (None, _) => "now".to_owned(),
    };
    [step, who, when]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_lines() {
        let lines = |text: &str| lines(Path::new(text)).ok();
        assert_eq!(lines("a/b"), Some(("a/b".into(), None)));
        assert_eq!(lines("a:3"), Some(("a".into(), Some((3, 3)))));
        assert_eq!(lines("a:b:3-9"), Some(("a:b".into(), Some((3, 9)))));
        for bad in ["a:0", "a:x", "a:3-", "a:4-3", "a:"] {
            assert_eq!(lines(bad), None, "{bad}");
        }
    }
}
