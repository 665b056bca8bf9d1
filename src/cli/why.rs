//! `regentfs why`: the story of one line.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};

use super::exit::Usage;
use super::output::{Output, Style};
use super::{Which, blame, diff, repo, show, source::Source};
use crate::control::protocol::Request;
use crate::control::steps::BlameFilter;
use crate::query::BlameRow;

/// The story of one line: prompt, what was read before, command, change
#[derive(clap::Args, Debug)]
pub struct Args {
    #[arg(value_name = "PATH:LINE")]
    what: PathBuf,
    #[command(flatten)]
    which: Which,
    /// JSON: the line, then its step, then the change
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    super::agents::load_or_warn();
    let (path, lines) = blame::lines(&args.what)?;
    let (first, _) = lines
        .filter(|(first, last)| first == last)
        .ok_or_else(|| Usage(format!("{} names no line: give PATH:LINE", args.what.display())))?;
    let mut out = Output::paged();
    let filter = BlameFilter { path: diff::relative(&path, &repo)?, lines: Some((first, first)), at: None };
    let mut found: Option<BlameRow> = None;
    Source::of(&repo)?.ask(&Request::Blame(filter), &mut |row: BlameRow| {
        found = Some(row);
        Ok(())
    })?;
    let row = found.ok_or_else(|| anyhow!("{} has no line {first}", path.display()))?;
    if args.json {
        out.json(&row)?;
    } else {
        out.line(&out.style(Style::Bold, &format!("{}:{first}: {}", path.display(), row.text)))?;
    }
    let Some(step) = row.step else {
        if !args.json {
            out.line(match row.by.as_str() {
                "base" => "it is in the repository on disk: no step wrote it (`git blame` may know more)",
                _ => "who wrote it is not known",
            })?;
        }
        return Ok(out.flush()?);
    };
    let was = row.path.unwrap_or_else(|| path.display().to_string());
    let how = diff::How { json: args.json, ..diff::How::default() };
    let paths = vec![crate::types::hex(&crate::query::rows::bytes(&was, row.path_hex.as_ref()))];
    show::step(&mut out, &repo, &step, &how, paths, true)
}
