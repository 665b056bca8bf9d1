//! `regentfs unmount`: ends a mount and says what it leaves behind.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::output;
use super::repo;
use crate::control::client::{Client, ClientError};
use crate::control::protocol::{Request, StatusRow};
use crate::daemon::{mounts, users};
use crate::fuse::mount::{Unmount, unmount};
use crate::store::StoreError;
use crate::store::format::Lock;

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
        let Some(mounted) = mounted else {
            bail!("{} is not mounted: `regentfs mount` mounts it", repo.root.display());
        };
        if !mounts::is_dead(&mounted.mountpoint) {
            let (at, dir) = (mounted.mountpoint.display(), repo.store.display());
            bail!("{at} is mounted, but not from the store {dir}: give the mount's own store with --store");
        }
        unmount(&mounted.mountpoint, Unmount::Detach)
            .with_context(|| format!("the dead mount at {} cannot be detached", mounted.mountpoint.display()))?;
        println!("detached {}, whose daemon had died; its changes are kept", mounted.mountpoint.display());
        return Ok(());
    };
    let mut status: Option<StatusRow> = None;
    client.ask(&Request::Status, &mut |row| {
        status = Some(row);
        ControlFlow::Continue(())
    })?;
    let client = Client::connect(&repo.store)?.context("the daemon ended by itself: nothing to do")?;
    match client.ask::<serde_json::Value>(&Request::Unmount { lazy: args.lazy }, &mut |_| ControlFlow::Continue(())) {
        Ok(_) | Err(ClientError::Cut) => {}
        Err(ClientError::Failed(failure)) => {
            let Some(mounted) = mounted else { bail!("{failure}") };
            let users = users::of_mount(mounted.id, &mounted.mountpoint);
            if users.is_empty() {
                bail!("{failure}: end what uses it, or give --lazy");
            }
            let list: Vec<String> =
                users.iter().take(20).map(|u| format!("  {:>7}  {}  ({})", u.pid, u.command, u.what)).collect();
            bail!("{failure} by these processes: end them, `cd` out of it, or give --lazy\n{}", list.join("\n"));
        }
        Err(e) => return Err(e.into()),
    }
    if !args.lazy {
        wait_for_the_end(&repo.store)?;
    }
    report(&repo.root, status.as_ref());
    Ok(())
}

/// The daemon gives its lock back as the last thing it does.
fn wait_for_the_end(store: &Path) -> Result<()> {
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

fn report(root: &Path, status: Option<&StatusRow>) {
    let name = root.display();
    let Some(status) = status else {
        println!("unmounted {name}");
        return;
    };
    let files = output::count(status.changed_files, "changed file");
    println!("unmounted {name}: {files} and {} kept in {}", output::count(status.events, "event"), status.store);
    if status.changed_files > 0 {
        println!(
            "the repository itself is as it was; `regentfs diff` shows the changes, `regentfs mount` goes on with them, \
                  `regentfs apply` brings them into the repository, `regentfs discard` takes them back"
        );
    }
}
