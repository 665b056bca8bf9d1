//! `regentfs fsck`: is the store whole, is the chain of events unbroken.

use std::path::Path;

use anyhow::{Result, bail};
use serde::Serialize;

use super::exit::Silent;
use super::output::{Output, Style, count};
use super::{Which, progress, repo, source};
use crate::control::client::Client;
use crate::control::protocol::ProgressRow;
use crate::query;
use crate::store::check::check_and_tell;

/// Check that the store is whole
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Also check the chain of hashes over the whole record
    #[arg(long)]
    log: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What is found (docs/JSON.md).
#[derive(Debug, Serialize)]
struct Row {
    ok: bool,
    log_checked: bool,
    inodes: u64,
    dentries: u64,
    versions: u64,
    events: u64,
    problems: Vec<String>,
    notes: Vec<String>,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    if Client::connect(&repo.store)?.is_some() {
        bail!("the store {} is in use by a mount: `regentfs unmount` first", repo.store.display());
    }
    let store = source::open_store(&repo)?;
    let total = query::last_seq(&store)?.0;
    let report = check_and_tell(&store, args.log, &mut |done| {
        progress::show(&ProgressRow { what: "checking".to_owned(), done, total, bytes: 0 });
    });
    progress::clear();
    let report = report?;
    let row = Row {
        ok: report.problems.is_empty(),
        log_checked: args.log,
        inodes: report.inodes,
        dentries: report.dentries,
        versions: report.versions,
        events: report.events,
        problems: report.problems,
        notes: report.notes,
    };
    let mut out = Output::new();
    if args.json {
        out.json(&row)?;
    } else {
        for problem in &row.problems {
            let line = format!("{} {problem}", out.style(Style::Red, "problem:"));
            out.line(&line)?;
        }
        for note in &row.notes {
            let line = format!("{} {note}", out.style(Style::Dim, "note:"));
            out.line(&line)?;
        }
        let verdict =
            if row.ok { "the store is whole".to_owned() } else { count(row.problems.len() as u64, "problem") };
        let names = if row.dentries == 1 { "entry" } else { "entries" };
        out.line(&format!(
            "{verdict}: {}, {} directory {names}, {}, {}{}",
            count(row.inodes, "inode"),
            row.dentries,
            count(row.versions, "version"),
            count(row.events, "event"),
            if args.log { ", event chain checked" } else { "" },
        ))?;
    }
    out.flush()?;
    if row.ok { Ok(()) } else { Err(Silent(1).into()) }
}
