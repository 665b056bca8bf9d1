//! `regentfs show`: what one snapshot or step changed, or a file as it was then.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap_complete::engine::ArgValueCompleter;

use super::diff::{self, How};
use super::output::{Output, Style, ago, printable};
use super::ps::{ended, quoted};
use super::repo::Repo;
use super::{Which, complete, log, repo, source::Source};
use crate::control::protocol::{BytesRow, Request, SnapshotsFilter};
use crate::diff::DiffFilter;
use crate::query::StoryRow;
use crate::query::steps::StepId;
use crate::timeline::rows::SnapshotRow;
use crate::types::unhex;

/// Show what one snapshot or step changed, or one file's bytes as they were
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A snapshot; a step, as `log` shows it; or SNAPSHOT:PATH for a file (or a directory's names) as it was; also base:PATH and now:PATH
    #[arg(value_name = "STEP|SNAPSHOT[:PATH]", add = ArgValueCompleter::new(complete::snapshot))]
    what: String,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    how: How,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    super::agents::load_or_warn();
    let mut out = Output::paged();
    if let Some((at, path)) = split(&args.what) {
        let path = diff::relative(&PathBuf::from(path), &repo)?;
        Source::of(&repo)?.ask(&Request::Cat { at: at.to_owned(), path }, &mut |row: BytesRow| {
            let bytes = unhex(&row.hex).ok_or_else(|| anyhow!("the daemon sent something that is no file"))?;
            Ok(out.raw(&bytes)?)
        })?;
        return Ok(out.flush()?);
    }
    if args.what.parse::<StepId>().is_ok() {
        return step(&mut out, &repo, &args.what, &args.how, Vec::new(), false);
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

/// Shows a step: what is known of it, then what exactly it changed. With `before`, also what its session had read before it.
pub fn step(out: &mut Output, repo: &Repo, id: &str, how: &How, paths: Vec<String>, before: bool) -> Result<()> {
    let mut found: Option<StoryRow> = None;
    Source::of(repo)?.ask(&Request::Story(id.to_owned()), &mut |row: StoryRow| {
        found = Some(row);
        Ok(())
    })?;
    let story = found.ok_or_else(|| anyhow!("there is no step {id}"))?;
    if how.json {
        out.json(&story)?;
    } else {
        tell(out, &story, before)?;
    }
    diff::show_filtered(out, repo, how, DiffFilter { paths, step: Some(id.to_owned()), ..DiffFilter::default() })
}

/// How many files are listed.
const LISTED: usize = 20;

fn tell(out: &mut Output, story: &StoryRow, before: bool) -> Result<()> {
    let row = &story.step;
    out.line(&out.style(Style::Yellow, &format!("step {}", row.step)))?;
    let who = row.agent.as_deref().unwrap_or(&row.by);
    let mut facts = vec![("Session", format!("{} ({who})", row.session)), ("What", printable(&log::what(row)))];
    if row.kind == "command" {
        facts.push(("Directory", printable(&row.cwd)));
        let (end, _) = ended(&row.started, row.ended.as_deref(), row.exit, row.signal, true);
        facts.push(("End", end));
    }
    facts.push(("Date", format!("{} ({})", row.started, ago(&row.started))));
    if let Some(snapshot) = &row.snapshot {
        facts.push(("Snapshot", snapshot.clone()));
    }
    for (name, value) in facts {
        out.line(&format!("{:<11}{value}", format!("{name}:")))?;
    }
    if let (Some(prompt), Some(link)) = (&row.prompt, &row.link) {
        out.line(&format!("Prompt:    ({}: {})", link.confidence, link.method))?;
        for line in prompt.lines() {
            out.line(&out.style(Style::Cyan, &format!("  {}", printable(line))))?;
        }
    }
    if story.processes.len() > 1 {
        out.line("Processes:")?;
        for process in &story.processes {
            let (end, _) = ended(&process.started, process.ended.as_deref(), process.exit, process.signal, true);
            let indent = "  ".repeat(process.depth as usize + 1);
            out.line(&format!("{indent}{} {} [{end}]", process.pid, printable(&quoted(&process.argv))))?;
        }
    }
    let lists = [("Read", &story.read), ("Read before by its session", &story.read_before)];
    for (title, list) in lists.into_iter().take(if before { 2 } else { 1 }).filter(|(_, list)| !list.is_empty()) {
        out.line(&format!("{title}:"))?;
        for seen in list.iter().take(LISTED) {
            let note = if seen.known == "inferred" { " (inferred)" } else { "" };
            out.line(&format!("  {}{note}", printable(&seen.path)))?;
        }
        if list.len() > LISTED {
            out.line(&format!("  and {} more", list.len() - LISTED))?;
        }
    }
    Ok(out.line("")?)
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
