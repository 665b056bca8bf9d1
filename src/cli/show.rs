//! `regentfs show`: what one snapshot changed, or a file as it was then.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap_complete::engine::ArgValueCompleter;

use super::diff::{self, How};
use super::output::{Output, Style, ago};
use super::{Which, complete, repo, source::Source};
use crate::control::protocol::{BytesRow, Request, SnapshotsFilter};
use crate::timeline::rows::SnapshotRow;
use crate::types::unhex;

/// Show what one snapshot changed, or one file's bytes as they were
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A snapshot, or SNAPSHOT:PATH for a file (or a directory's names) as it was; also base:PATH and now:PATH
    #[arg(value_name = "SNAPSHOT[:PATH]", add = ArgValueCompleter::new(complete::snapshot))]
    what: String,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    how: How,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    let mut out = Output::paged();
    if let Some((at, path)) = split(&args.what) {
        let path = diff::relative(&PathBuf::from(path), &repo)?;
        Source::of(&repo)?.ask(&Request::Cat { at: at.to_owned(), path }, &mut |row: BytesRow| {
            let bytes = unhex(&row.hex).ok_or_else(|| anyhow!("the daemon sent something that is no file"))?;
            Ok(out.raw(&bytes)?)
        })?;
        return Ok(out.flush()?);
    }
    let filter = SnapshotsFilter { one: Some(args.what.clone()), brief: true, ..SnapshotsFilter::default() };
    let mut found: Option<SnapshotRow> = None;
    Source::of(&repo)?.ask(&Request::Snapshots(filter), &mut |row: SnapshotRow| {
        found = Some(row);
        Ok(())
    })?;
    let row = found.ok_or_else(|| anyhow!("there is no snapshot {}", args.what))?;
    if !args.how.json {
        let title = format!("snapshot {}", row.id);
        out.line(&out.style(Style::Yellow, &title))?;
        for (name, value) in
            [("Label", row.label.as_deref()), ("Why", Some(row.why.as_str())), ("Note", Some(row.note.as_str()))]
        {
            if let Some(value) = value.filter(|v| !v.is_empty()) {
                out.line(&format!("{:<10}{value}", format!("{name}:")))?;
            }
        }
        out.line(&format!("{:<10}{} ({})", "Date:", row.time, ago(&row.time)))?;
        out.line("")?;
    }
    let from = row.previous.clone().unwrap_or_else(|| "base".to_owned());
    diff::show(&mut out, &repo, &args.how, (Some(from), Some(row.id)), Vec::new())
}

/// `AT:PATH`; a time has colons of its own inside its braces.
fn split(text: &str) -> Option<(&str, &str)> {
    let from = if text.starts_with("@{") { text.find('}')? } else { 0 };
    let at = from + text.get(from..)?.find(':')?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn splits_at_the_first_colon_outside_of_a_time() {
        assert_eq!(super::split("zyx:a:b"), Some(("zyx", "a:b")));
        assert_eq!(super::split("@{2026-11-22 10:30}:a"), Some(("@{2026-11-22 10:30}", "a")));
        assert_eq!(super::split("@{2026-11-22 10:30}"), None);
        assert_eq!(super::split("zyx"), None);
    }
}
