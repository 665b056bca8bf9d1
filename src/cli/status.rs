//! `regentfs status`: what is mounted, since when, how much is changed, how much is recorded.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::output::{Output, Style, ago, count, size};
use super::{Which, repo, source::Source};
use crate::control::protocol::{Request, StatusRow, offline_status};

/// A daemon that does not answer this is in trouble.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is mounted, since when, how much is changed, how much is recorded
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    let mut out = Output::new();
    let mut show = |row: StatusRow| -> Result<()> {
        if args.json {
            out.json(&row)?
        } else {
            print(&mut out, &row)?
        }
        Ok(out.flush()?)
    };
    match Source::of(&repo)? {
        Source::Offline(offline) => show(offline_status(&offline.overlay, &offline.store)?),
        Source::Daemon(client) => {
            client.patience(PATIENCE)?;
            Source::Daemon(client).ask(&Request::Status, &mut show)
        }
    }
}

fn print(out: &mut Output, row: &StatusRow) -> std::io::Result<()> {
    let state = match (&row.mountpoint, row.pid) {
        (Some(at), Some(pid)) => {
            let since = row.since.as_deref().map(ago).unwrap_or_default();
            let record = row.record.as_deref().unwrap_or("?");
            format!("{at}  (pid {pid}, record {record}, since {since})")
        }
        _ => "no".to_owned(),
    };
    let shown = match &row.snapshot {
        Some(id) => format!("snapshot {id} of timeline {}", row.timeline),
        None => row.timeline.clone(),
    };
    let of = row.store_max.map(|max| format!(" of {}", size(max))).unwrap_or_default();
    let room = format!("{}{of}", size(row.store_bytes));
    let mounted = if row.mounted { Style::Green } else { Style::Yellow };
    for (name, value, style) in [
        ("repository", row.repo.clone(), Style::Bold),
        ("mounted", state, mounted),
        ("shows", shown, Style::Plain),
        ("changed", count(row.changed_files, "file"), Style::Plain),
        ("recorded", count(row.events, "event"), Style::Plain),
        ("store", row.store.clone(), Style::Plain),
        ("size", room, Style::Plain),
    ] {
        let line = format!("{}{}", out.style(Style::Dim, &format!("{name:<12}")), out.style(style, &value));
        out.line(&line)?;
    }
    for other in row.mounts.iter().filter(|m| Some(&m.mountpoint) != row.mountpoint.as_ref()) {
        let what = match &other.snapshot {
            Some(id) => format!("snapshot {id}"),
            None => format!("timeline {}", other.timeline),
        };
        let text = format!("{}  ({what})", other.mountpoint);
        let line = format!("{}{text}", out.style(Style::Dim, &format!("{:<12}", "beside")));
        out.line(&line)?;
    }
    Ok(())
}
