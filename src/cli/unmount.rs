//! `regentfs unmount`: ends a mount and says what it leaves behind.

use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::output;
use super::repo::{self, Repo};
use crate::control::client::{Client, ClientError};
use crate::control::protocol::{Request, StatusRow};
use crate::daemon::mounts::{self, Mounted};
use crate::daemon::users::{self, User};
use crate::fuse::mount::{Unmount, unmount};
use crate::query::rows::bytes;
use crate::store::StoreError;
use crate::store::format::Lock;
use crate::types::hex;

/// How long the daemon may take to write down what is left.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(10);

/// End a mount; its changes and its record are kept
#[derive(Clone, Debug, clap::Args)]
pub struct UnmountArgs {
    /// The repository, or where it is mounted [default: the one around the current directory]
    pub repo: Option<PathBuf>,
    /// Take the mount away even while processes use it
    #[arg(long)]
    pub lazy: bool,
}

pub fn run(args: &UnmountArgs, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.repo.as_deref(), store)?;
    let mounted = mounts::of(&repo.root).context("the mount table cannot be read")?;
    // Called from inside the mount, this very process would hold it.
    std::env::set_current_dir("/").context("cannot leave the current directory")?;
    let Some(client) = Client::connect(&repo.store)? else {
        return detach(&repo, &mounted);
    };
    let mut status: Option<StatusRow> = None;
    client.about(repo.about.as_deref()).ask(&Request::Status, &mut |row| {
        status = Some(row);
        ControlFlow::Continue(())
    })?;
    let status = status.context("the daemon did not say what is mounted: do versions differ?")?;
    let only = one_of(&repo, &status);
    let doomed: Vec<&Mounted> = mounted.iter().filter(|m| only.as_ref().is_none_or(|at| m.mountpoint == *at)).collect();
    if !args.lazy && doomed.len() > 1 {
        // All or none: one that is in use must be known before the first is gone.
        refuse_users(&doomed, "in use")?;
    }
    let request = Request::Unmount { lazy: args.lazy, at: only.as_ref().map(|at| hex(at.as_os_str().as_bytes())) };
    let client = Client::connect(&repo.store)?.context("the daemon ended by itself: nothing to do")?;
    match client.ask::<serde_json::Value>(&request, &mut |_| ControlFlow::Continue(())) {
        Ok(_) | Err(ClientError::Cut) => {}
        Err(ClientError::Failed(failure)) => {
            refuse_users(&doomed, &failure.message)?;
            bail!("{failure}: end what uses it, or give --lazy");
        }
        Err(e) => return Err(e.into()),
    }
    if let Some(at) = only {
        println!("unmounted {}", at.display());
        return Ok(());
    }
    if !args.lazy {
        wait_for_the_end(&repo.store)?;
    }
    report(&repo.root, &status);
    Ok(())
}

/// The one mount that is meant, if others stay.
fn one_of(repo: &Repo, status: &StatusRow) -> Option<PathBuf> {
    let at = repo.about.as_ref()?;
    let row =
        status.mounts.iter().find(|m| bytes(&m.mountpoint, m.mountpoint_hex.as_ref()) == at.as_os_str().as_bytes())?;
    (!row.primary && status.mounts.len() > 1).then(|| at.clone())
}

/// Without a daemon: dead mounts are taken away.
fn detach(repo: &Repo, mounted: &[Mounted]) -> Result<()> {
    if mounted.is_empty() {
        bail!("{} is not mounted: `regentfs mount` mounts it", repo.root.display());
    }
    if let Some(living) = mounted.iter().find(|m| !mounts::is_dead(&m.mountpoint)) {
        let (at, dir) = (living.mountpoint.display(), repo.store.display());
        bail!("{at} is mounted, but not from the store {dir}: give the mount's own store with --store");
    }
    for dead in mounted.iter().rev() {
        let at = dead.mountpoint.display();
        unmount(&dead.mountpoint, Unmount::Detach)
            .with_context(|| format!("the dead mount at {at} cannot be detached"))?;
        println!("detached {at}, whose daemon had died; its changes are kept");
    }
    Ok(())
}

/// # Errors
/// When processes use one of the mounts: names them.
fn refuse_users(doomed: &[&Mounted], why: &str) -> Result<()> {
    let users: Vec<User> = doomed.iter().flat_map(|m| users::of_mount(m.id, &m.mountpoint)).collect();
    if users.is_empty() {
        return Ok(());
    }
    let list: Vec<String> =
        users.iter().take(20).map(|u| format!("  {:>7}  {}  ({})", u.pid, u.command, u.what)).collect();
    bail!("{why} by these processes: end them, `cd` out of it, or give --lazy\n{}", list.join("\n"));
}

/// The daemon gives its lock back as the last thing it does.
pub(super) fn wait_for_the_end(store: &Path) -> Result<()> {
    let mut waited = Duration::ZERO;
    loop {
        match Lock::create(store) {
            Ok(_) => return Ok(()),
            Err(StoreError::Locked { pid, .. }) if waited >= PATIENCE => {
                bail!("unmounted, but the daemon (process {pid}) still writes: see daemon.log in {}", store.display());
            }
            Err(StoreError::Locked { .. }) => {
                std::thread::sleep(PAUSE);
                waited += PAUSE;
            }
            Err(e) => return Err(e.into()),
        }
    }
}

fn report(root: &Path, status: &StatusRow) {
    let name = root.display();
    let files = output::count(status.changed_files, "changed file");
    println!("unmounted {name}: {files} and {} kept in {}", output::count(status.events, "event"), status.store);
    for beside in status.mounts.iter().filter(|m| !m.primary) {
        println!("unmounted {} as well", beside.mountpoint);
    }
    if status.changed_files > 0 {
        println!(
            "the changes are not in the repository on disk: `regentfs diff` shows them, `regentfs mount` goes on with them, \
             `regentfs apply` brings them there, `regentfs discard` takes them back"
        );
    }
}
