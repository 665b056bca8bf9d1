//! `regentfs mount`: checks, starts the daemon, and returns when the mount is ready.
//!
//! The daemon is this program again, in a session of its own; it says over a pipe whether the mount is up or why not.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap_complete::engine::ArgValueCompleter;

use super::repo::{self, Repo};
use super::{agents, complete};
use crate::control::client::Client;
use crate::control::host::Shows;
use crate::control::protocol::{MountRequest, MountRow, Request};
use crate::daemon::{self, Mounting, mounts, users};
use crate::engine::Mode;
use crate::fuse::mount::{Unmount, unmount};
use crate::types::hex;

/// The word that the daemon says when the mount is up.
const READY: &str = "ready";
/// The log file in the store.
pub const LOG: &str = "daemon.log";
/// A log larger than this is started anew, bytes; the one before is kept as `daemon.log.old`.
const LOG_MAX: u64 = 4 << 20;

/// How much to record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Record {
    /// Small files count as read whole when they are opened; of larger ones the ranges are seen
    Auto,
    /// Every read with its exact range; slower
    Exact,
    #[value(hide = true)]
    Off,
}

impl From<Record> for Mode {
    fn from(record: Record) -> Mode {
        match record {
            Record::Auto => Mode::Auto,
            Record::Exact => Mode::Exact,
            Record::Off => Mode::Off,
        }
    }
}

/// Mount a copy-on-write layer over a repository, in place
#[derive(Clone, Debug, clap::Args)]
pub struct MountArgs {
    /// The repository [default: the one around the current directory]
    pub repo: Option<PathBuf>,
    /// Mount on this directory instead of over the repository itself
    #[arg(long, value_name = "DIR")]
    pub at: Option<PathBuf>,
    /// Show this timeline, beside what is shown in place
    #[arg(long, value_name = "NAME", requires = "at", conflicts_with = "snapshot", add = ArgValueCompleter::new(complete::timeline))]
    pub timeline: Option<String>,
    /// Show the past, read-only: an id, a label, base, @{yesterday}
    #[arg(long, value_name = "SNAPSHOT", requires = "at", add = ArgValueCompleter::new(complete::snapshot))]
    pub snapshot: Option<String>,
    /// How reads are known [default: auto; beside another mount, as there]
    #[arg(long, value_enum)]
    pub record: Option<Record>,
    /// Stay in the foreground, and log to the terminal
    #[arg(long)]
    pub foreground: bool,
}

/// The daemon itself; started by `mount`.
#[derive(Clone, Debug, clap::Args)]
pub struct DaemonArgs {
    #[arg(long)]
    repo: PathBuf,
    #[arg(long)]
    at: PathBuf,
    #[arg(long)]
    timeline: Option<String>,
    #[arg(long)]
    snapshot: Option<String>,
    #[arg(long, value_enum)]
    record: Record,
}

fn shows(timeline: Option<&String>, snapshot: Option<&String>) -> Shows {
    match (timeline, snapshot) {
        (Some(name), _) => Shows::Timeline(name.clone()),
        (None, Some(text)) => Shows::Snapshot(text.clone()),
        (None, None) => Shows::Primary,
    }
}

pub fn run(args: &MountArgs, store: Option<&Path>) -> Result<()> {
    let repo = repo::to_mount(args.repo.as_deref(), store)?;
    let mountpoint = match &args.at {
        Some(at) => directory(at).with_context(|| format!("the mountpoint {}", at.display()))?,
        None => repo.root.clone(),
    };
    check_places(&repo, &mountpoint)?;
    detach_dead(&repo, &mountpoint)?;
    let mounting = Mounting {
        repo: repo.root.clone(),
        mountpoint,
        store: repo.store.clone(),
        mode: args.record.unwrap_or(Record::Auto).into(),
        shows: shows(args.timeline.as_ref(), args.snapshot.as_ref()),
    };
    if let Some(client) = Client::connect(&repo.store)? {
        if args.foreground {
            bail!("a daemon serves {} already: leave --foreground out to add a mount to it", repo.root.display());
        }
        return beside(client, &mounting, args.record);
    }
    // Mounts of a living daemon that has another store.
    if let Some(mounted) = mounts::of(&repo.root)?.last() {
        bail!(
            "{} is already mounted at {}: `regentfs unmount` first, or work in it",
            repo.root.display(),
            mounted.mountpoint.display()
        );
    }
    let inside = if mounting.is_elsewhere() { Vec::new() } else { users::inside(&mounting.repo) };
    if args.foreground {
        log_to_terminal();
        agents::load_or_warn();
        warn_inside(&inside);
        let running = daemon::start(&mounting)?;
        println!("{}", ready_text(&mounting));
        std::io::stdout().flush()?;
        running.serve();
        return Ok(());
    }
    // The daemon reads it for itself, and has nobody to tell.
    agents::load_or_warn();
    spawn_daemon(&mounting)?;
    warn_inside(&inside);
    println!("{}", ready_text(&mounting));
    Ok(())
}

/// Asks a daemon for one more mount.
fn beside(client: Client, mounting: &Mounting, record: Option<Record>) -> Result<()> {
    let inside = if mounting.is_elsewhere() { Vec::new() } else { users::inside(&mounting.repo) };
    let (timeline, snapshot) = match &mounting.shows {
        Shows::Primary => (None, None),
        Shows::Timeline(name) => (Some(name.clone()), None),
        Shows::Snapshot(text) => (None, Some(text.clone())),
    };
    let at = hex(mounting.mountpoint.as_os_str().as_bytes());
    let record = record.map(|r| Mode::from(r).name().to_owned());
    let mut made: Option<MountRow> = None;
    client.ask(&Request::Mount(MountRequest { at, timeline, snapshot, record }), &mut |row| {
        made = Some(row);
        ControlFlow::Continue(())
    })?;
    let made = made.context("the daemon did not say what it mounted: do versions differ?")?;
    let mode = Mode::from_name(&made.record).unwrap_or(mounting.mode);
    warn_inside(&inside);
    println!("{}", ready_text(&Mounting { mode, ..mounting.clone() }));
    Ok(())
}

fn ready_text(mounting: &Mounting) -> String {
    let mut text = format!("mounted {}", mounting.repo.display());
    match &mounting.shows {
        Shows::Primary => {}
        Shows::Timeline(name) => text += &format!(", timeline {name},"),
        Shows::Snapshot(name) => text += &format!(" as of {name}, read-only,"),
    }
    if mounting.is_elsewhere() {
        text += &format!(" at {}", mounting.mountpoint.display());
    }
    let ends = if mounting.shows == Shows::Primary { &mounting.repo } else { &mounting.mountpoint };
    text += &format!(" (record {}); end with: regentfs unmount {}", mounting.mode.name(), ends.display());
    text
}

/// An existing directory, absolute and without symbolic links.
fn directory(path: &Path) -> Result<PathBuf> {
    let found = path.canonicalize().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => anyhow::anyhow!("does not exist: make it first"),
        _ => anyhow::anyhow!("cannot be used: {e}"),
    })?;
    if !found.is_dir() {
        bail!("is no directory: give a directory");
    }
    Ok(found)
}

/// Where a path really is, as far as it exists: symbolic links resolved, what is not there yet appended.
fn really(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    for ancestor in path.ancestors() {
        if let Ok(found) = ancestor.canonicalize() {
            return missing.iter().rev().fold(found, |at, name| at.join(name));
        }
        missing.extend(ancestor.file_name());
    }
    path.to_owned()
}

/// Refuses places that would put one thing inside another.
pub(super) fn check_places(repo: &Repo, mountpoint: &Path) -> Result<()> {
    let (root, store) = (&repo.root, &really(&repo.store));
    if store.starts_with(root) || store.starts_with(mountpoint) {
        bail!("the store {} is inside the mount: give a directory outside with --store", store.display());
    }
    if mountpoint != root && (mountpoint.starts_with(root) || root.starts_with(mountpoint)) {
        bail!(
            "the mountpoint {} and the repository {} are inside each other: choose a directory elsewhere with --at",
            mountpoint.display(),
            root.display()
        );
    }
    for mounted in mounts::all().context("the mount table cannot be read")? {
        let at = &mounted.mountpoint;
        if at == mountpoint || at == root {
            continue;
        }
        if root.starts_with(at) || mountpoint.starts_with(at) {
            bail!("{} is inside the mount at {}: mount outside of it", root.display(), at.display());
        }
        if at.starts_with(root) || at.starts_with(mountpoint) {
            bail!(
                "the mount at {} is inside {}: `regentfs unmount {}` first",
                at.display(),
                root.display(),
                at.display()
            );
        }
    }
    Ok(())
}

/// Takes away mounts whose daemon died; refuses when something lives at the mountpoint.
fn detach_dead(repo: &Repo, mountpoint: &Path) -> Result<()> {
    let mut shown = mounts::of(&repo.root)?;
    shown.extend(mounts::at(mountpoint)?.filter(|m| m.repo != repo.root));
    // The newest first: one may lie on another.
    for mounted in shown.iter().rev() {
        let at = mounted.mountpoint.display();
        if mounts::is_dead(&mounted.mountpoint) {
            unmount(&mounted.mountpoint, Unmount::Detach)
                .with_context(|| format!("the dead mount at {at} cannot be detached: `umount -l {at}` as root"))?;
            eprintln!("regentfs: detached the mount at {at}, whose daemon had died");
        } else if mounted.mountpoint == mountpoint {
            bail!("{} is already mounted at {at}: `regentfs unmount` first, or work in it", mounted.repo.display());
        }
    }
    Ok(())
}

fn warn_inside(inside: &[users::User]) {
    if inside.is_empty() {
        return;
    }
    eprintln!(
        "regentfs: these processes are inside the repository already and bypass the mount until they `cd` again:"
    );
    for user in inside.iter().take(10) {
        eprintln!("  {:>7}  {}  ({})", user.pid, user.command, user.what);
    }
    if inside.len() > 10 {
        eprintln!("  and {} more", inside.len() - 10);
    }
}

pub(super) fn spawn_daemon(mounting: &Mounting) -> Result<()> {
    let log = open_log(&mounting.store)?;
    // By its own name, so that it is called `regentfs` in lists of processes too.
    let program = std::env::current_exe().ok().filter(|p| p.exists()).unwrap_or_else(|| "/proc/self/exe".into());
    // In one word: what a user writes may look like an option.
    let shows = match &mounting.shows {
        Shows::Primary => None,
        Shows::Timeline(name) => Some(format!("--timeline={name}")),
        Shows::Snapshot(text) => Some(format!("--snapshot={text}")),
    };
    let mut child = Command::new(program)
        .arg("--store")
        .arg(&mounting.store)
        .arg("daemon")
        .arg("--repo")
        .arg(&mounting.repo)
        .arg("--at")
        .arg(&mounting.mountpoint)
        .arg("--record")
        .arg(mounting.mode.name())
        .args(shows)
        // Queries run in threads of their own; glibc would keep an arena for each.
        .env("MALLOC_ARENA_MAX", "2")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("the daemon cannot be started")?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    match line.trim_end() {
        READY => Ok(()),
        "" => {
            let status = child.wait()?;
            bail!("the daemon ended with {status} before the mount was up: see {}", mounting.store.join(LOG).display())
        }
        reason => {
            // The daemon has said why; its exit code adds nothing.
            let _ = child.wait();
            bail!("{reason}")
        }
    }
}

fn open_log(store: &Path) -> Result<std::fs::File> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(store)
        .with_context(|| format!("the store {} cannot be made: give a writable place with --store", store.display()))?;
    let path = store.join(LOG);
    if std::fs::metadata(&path).is_ok_and(|m| m.len() > LOG_MAX) {
        let _ = std::fs::rename(&path, store.join("daemon.log.old"));
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("{} cannot be written: give a writable place with --store", path.display()))
}

/// The daemon's life.
pub fn run_daemon(args: &DaemonArgs, store: Option<&Path>) -> Result<()> {
    log_to_terminal();
    if let Some(fault) = crate::store::fault::arm_from_environment() {
        tracing::warn!(fault, "a fault is armed");
    }
    // Before the mount: it may cover the table.
    if let Some(why) = agents::load() {
        tracing::warn!("{why}");
    }
    // Its own session: the terminal's Ctrl-C and hang-up are not for it.
    if let Err(error) = rustix::process::setsid() {
        tracing::warn!(%error, "no session of its own");
    }
    let store = store.context("the daemon needs --store")?;
    let mounting = Mounting {
        repo: args.repo.clone(),
        mountpoint: args.at.clone(),
        store: store.to_owned(),
        mode: args.record.into(),
        shows: shows(args.timeline.as_ref(), args.snapshot.as_ref()),
    };
    let started = daemon::start(&mounting);
    let word = match &started {
        Ok(_) => READY.to_owned(),
        Err(e) => e.to_string().replace('\n', " "),
    };
    // `mount` may have been interrupted: then nobody listens.
    let _ = writeln!(std::io::stdout(), "{word}");
    let _ = std::io::stdout().flush();
    close_stdout();
    match started {
        Ok(running) => {
            tracing::info!(repo = %mounting.repo.display(), at = %mounting.mountpoint.display(), "mounted");
            running.serve();
            Ok(())
        }
        Err(error) => {
            tracing::error!(%error, "not mounted");
            std::process::exit(1)
        }
    }
}

/// The pipe to `mount` must not stay open: who reads `mount`'s output would wait for the daemon.
fn close_stdout() {
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null")
        && let Err(error) = rustix::stdio::dup2_stdout(&null)
    {
        tracing::warn!(%error, "standard output stays open");
    }
}

/// Log lines on standard error; for a daemon that is its log file.
fn log_to_terminal() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("REGENTFS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,fuser=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
