//! Where answers come from: the daemon of the mount, or the store itself when nothing is mounted.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use serde::de::DeserializeOwned;

use super::repo::Repo;
use crate::base::DirBase;
use crate::control::client::Client;
use crate::control::protocol::{Done, FromRow, Request, dispatch};
use crate::daemon::mounts;
use crate::overlay::{NoJournal, Overlay};
use crate::store::Store;

/// A store without a daemon.
pub struct Offline {
    pub store: Arc<Store>,
    pub overlay: Overlay,
}

/// Who answers.
pub enum Source {
    Daemon(Client),
    Offline(Box<Offline>),
}

impl Source {
    /// Finds out who can answer for a repository.
    pub fn of(repo: &Repo) -> Result<Source> {
        if let Some(client) = Client::connect(&repo.store)? {
            return Ok(Source::Daemon(client));
        }
        let store = Arc::new(open_store(repo)?);
        let base = DirBase::open(&repo.root)
            .map_err(|e| anyhow!("cannot open the repository {}: {}", repo.root.display(), std::io::Error::from(e)))?;
        let overlay = Overlay::open(store.clone(), Arc::new(base), Arc::new(NoJournal(store.clone())), false)?;
        Ok(Source::Offline(Box::new(Offline { store, overlay })))
    }

    pub fn is_daemon(&self) -> bool {
        matches!(self, Source::Daemon(_))
    }

    /// Asks; `sink` gets the rows and may end it with an error. Remarks go to stderr.
    pub fn ask<R: DeserializeOwned + FromRow>(
        self,
        request: &Request,
        sink: &mut dyn FnMut(R) -> Result<()>,
    ) -> Result<()> {
        let mut outcome = Ok(());
        let mut take = |row: R| match sink(row) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => {
                outcome = Err(e);
                ControlFlow::Break(())
            }
        };
        let Done { notes, .. } = match self {
            Source::Daemon(client) => client.ask(request, &mut take)?,
            Source::Offline(offline) => dispatch(request, &offline.overlay, &offline.store, &mut |row| {
                R::from_row(row).map_or(ControlFlow::Continue(()), &mut take)
            })?,
        };
        outcome?;
        for note in notes {
            eprintln!("regentfs: note: {note}");
        }
        Ok(())
    }
}

/// The place where a repository is mounted, as the mount table knows it.
pub fn mountpoint(repo: &Repo) -> Option<PathBuf> {
    mounts::of(&repo.root).ok().flatten().map(|m| m.mountpoint)
}

/// Opens the store of a repository that is not mounted.
pub fn open_store(repo: &Repo) -> Result<Store> {
    if let Some(mountpoint) = mountpoint(repo) {
        let (store, at) = (repo.store.display(), mountpoint.display());
        // Asking the mount itself tells a dead daemon from one that has another store.
        if mounts::is_dead(&mountpoint) {
            bail!(
                "the daemon of the mount at {at} is gone: `regentfs mount` continues it, `regentfs unmount` removes it"
            );
        }
        bail!("{at} is mounted, but not from the store {store}: give the mount's own store with --store");
    }
    Ok(Store::open(&repo.store)?)
}
