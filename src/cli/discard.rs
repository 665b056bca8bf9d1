//! `regentfs discard`: throws the overlay and its record away. The repository itself is not touched.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};

use super::output::count;
use super::repo::Repo;
use super::source::{self, Source};
use super::{Which, repo};
use crate::control::client::Client;
use crate::control::protocol::{SOCKET, offline_status};
use crate::store::format::{FORMAT_FILE, Format, Lock};

/// Throw the changes and their record away; the repository stays as it is on disk
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// What regentfs itself puts into a store.
const OURS: &[&str] = &[FORMAT_FILE, "format.new", "lock", "log", "data", SOCKET];

/// Everything else that regentfs may leave in a store begins like this.
const LOG_FILE: &str = "daemon.log";

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    let dir = &repo.store;
    if Client::connect(dir)?.is_some() || source::mountpoint(&repo).is_some() {
        bail!("{} is mounted: `regentfs unmount` first, then discard", repo.root.display());
    }
    // Only what is a store may be deleted, whatever --store says.
    Format::load(dir)?;
    if let Some(stranger) = strangers(dir)?.first() {
        bail!("{} holds {} which regentfs did not put there: move it away first", dir.display(), stranger.display());
    }
    if !args.yes && !confirmed(&repo)? {
        bail!("nothing was discarded: answer y, or give --yes");
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
    println!("discarded the overlay of {}", repo.root.display());
    Ok(())
}

/// Files in a store's directory that are not part of it.
fn strangers(dir: &Path) -> Result<Vec<OsString>> {
    let read = || -> io::Result<Vec<OsString>> { fs::read_dir(dir)?.map(|e| e.map(|e| e.file_name())).collect() };
    let mut names = read().map_err(|e| anyhow!("cannot list {}: {e}", dir.display()))?;
    names.retain(|name| !OURS.iter().any(|ours| name == ours) && !name.as_bytes().starts_with(LOG_FILE.as_bytes()));
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

/// Asks on the terminal.
fn confirmed(repo: &Repo) -> Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("there is no terminal to ask on: give --yes to discard the overlay of {}", repo.root.display());
    }
    // What is lost; a store that cannot be read can still be thrown away.
    let lost = match Source::of(repo) {
        Ok(Source::Offline(offline)) => offline_status(&offline.overlay, &offline.store)
            .map(|s| format!("{} and {}", count(s.changed_files, "changed file"), count(s.events, "event")))
            .unwrap_or_else(|_| "the overlay".to_owned()),
        Ok(Source::Daemon(_)) | Err(_) => "the overlay".to_owned(),
    };
    let mut stderr = io::stderr();
    write!(stderr, "Discard {lost} of {}? This cannot be undone. [y/N] ", repo.root.display())?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
