//! `regentfs discard`: takes the tree back to what is on disk or, with `--purge`, deletes the store. The repository itself is not touched.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};

use super::output::count;
use super::repo::Repo;
use super::source::{self, Source};
use super::{Which, moved, repo};
use crate::apply;
use crate::control::client::Client;
use crate::control::protocol::{Request, SOCKET, StatusRow, offline_status};
use crate::export;
use crate::store::format::{FORMAT_FILE, Format, Lock};

/// Take the tree back to what the repository has on disk, with the commits that were made in the mount; history and record stay, and it can be undone
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Delete changes, snapshots and record for good, with the whole store
    #[arg(long)]
    purge: bool,
    /// Say what would change, and change nothing
    #[arg(long, conflicts_with = "purge")]
    dry_run: bool,
    /// JSON: one object that says what was done, then one a path
    #[arg(long, conflicts_with = "purge")]
    json: bool,
}

/// What regentfs itself puts into a store.
const OURS: &[&str] = &[FORMAT_FILE, "format.new", "lock", "log", "data", SOCKET, apply::JOURNAL, apply::JOURNAL_NEW];

/// Everything else that regentfs may leave in a store begins like one of these.
const BEGINNINGS: &[&str] = &["daemon.log", export::PREFIX];

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    if args.purge {
        return purge(&repo, args.yes);
    }
    // Before anything is asked: what there is to lose.
    let lost = if args.yes || args.dry_run { None } else { Some(what_there_is(Source::of(&repo)?)?) };
    if let Some((files, _)) = lost {
        let what = match files {
            0 => "everything that differs from the repository on disk".to_owned(),
            n => count(n, "changed file"),
        };
        let root = repo.root.display();
        if !confirmed(&format!("Take {what} back in {root}? `regentfs undo` brings it back."), &repo)? {
            bail!("nothing was discarded: answer y, or give --yes");
        }
    }
    moved::ask(&repo, &Request::Discard { dry_run: args.dry_run }, args.json)
}

/// Deletes the store.
fn purge(repo: &Repo, yes: bool) -> Result<()> {
    let dir = &repo.store;
    if Client::connect(dir)?.is_some() || !source::mountpoints(repo).is_empty() {
        bail!("{} is mounted: `regentfs unmount` first, then discard", repo.root.display());
    }
    // Only what is a store may be deleted, whatever --store says.
    Format::load(dir)?;
    if let Some(stranger) = strangers(dir)?.first() {
        bail!("{} holds {} which regentfs did not put there: move it away first", dir.display(), stranger.display());
    }
    if !yes {
        // A store that cannot be read can still be thrown away.
        let lost = match Source::of(repo).and_then(what_there_is) {
            Ok((files, events)) => format!("{} and {}", count(files, "changed file"), count(events, "event")),
            Err(_) => "the overlay".to_owned(),
        };
        let root = repo.root.display();
        if !confirmed(&format!("Delete {lost} of {root} with all snapshots? This cannot be undone."), repo)? {
            bail!("nothing was deleted: answer y, or give --yes");
        }
    }
    let doomed = {
        // Nobody may start to use it between here and the rename.
        let _lock = Lock::create(dir)?;
        let doomed = doomed(dir);
        fs::rename(dir, &doomed).map_err(|e| anyhow!("cannot move {} away: {e}", dir.display()))?;
        doomed
    };
    fs::remove_dir_all(&doomed)
        .map_err(|e| anyhow!("the overlay is gone, but {} could not be deleted ({e}): delete it", doomed.display()))?;
    println!("deleted changes, snapshots and record of {}", repo.root.display());
    Ok(())
}

/// Files in a store's directory that are not part of it.
fn strangers(dir: &Path) -> Result<Vec<OsString>> {
    let read = || -> io::Result<Vec<OsString>> { fs::read_dir(dir)?.map(|e| e.map(|e| e.file_name())).collect() };
    let mut names = read().map_err(|e| anyhow!("cannot list {}: {e}", dir.display()))?;
    let begins = |name: &OsString| BEGINNINGS.iter().any(|b| name.as_bytes().starts_with(b.as_bytes()));
    names.retain(|name| !OURS.iter().any(|ours| name == ours) && !begins(name));
    Ok(names)
}

/// A free name beside the store.
fn doomed(dir: &Path) -> PathBuf {
    let named = |suffix: String| {
        let mut name = dir.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let first = named(".discarded".to_owned());
    if first.symlink_metadata().is_err() { first } else { named(format!(".discarded-{}", std::process::id())) }
}

/// Changed files and events.
fn what_there_is(source: Source) -> Result<(u64, u64)> {
    let mut found = (0, 0);
    match source {
        Source::Offline(offline) => {
            let status = offline_status(&offline.overlay, &offline.store)?;
            found = (status.changed_files, status.events);
        }
        daemon @ Source::Daemon(_) => daemon.ask(&Request::Status, &mut |row: StatusRow| {
            found = (row.changed_files, row.events);
            Ok(())
        })?,
    }
    Ok(found)
}

/// Asks on the terminal.
fn confirmed(question: &str, repo: &Repo) -> Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("there is no terminal to ask on: give --yes to discard the changes in {}", repo.root.display());
    }
    let mut stderr = io::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
