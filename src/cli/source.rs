//! Where answers come from: the daemon of the mount, or the store itself when nothing is mounted.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use serde::de::DeserializeOwned;

use super::exit::Interrupted;
use super::interrupt::Interrupt;
use super::repo::Repo;
use super::{pager, progress};
use crate::base::DirBase;
use crate::clock;
use crate::control::client::{Client, ClientError};
use crate::control::protocol::{Done, Failure, FromRow, Request, Row, SnapshotsFilter, dispatch};
use crate::control::steps;
use crate::control::time::{self as moves, Mover};
use crate::daemon::mounts;
use crate::overlay::{Ctx, Overlay};
use crate::query::time;
use crate::record::Record;
use crate::store::Store;
use crate::timeline::rows::SnapshotRow;
use crate::timeline::{Gate, Machine, spec};
use crate::types::{ActorId, Epoch, Timeline};

/// A store without a daemon.
pub struct Offline {
    pub store: Arc<Store>,
    pub overlay: Arc<Overlay>,
    machine: Machine,
}

impl Offline {
    /// Finishes an apply that was interrupted, before anybody looks.
    fn finish_apply(&self) -> Result<()> {
        moves::resume(&self.machine, &self.ctx()).map_err(|failure| anyhow!("{failure}"))
    }

    fn ctx(&self) -> Ctx {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        // Nothing is mounted, so no process is known by a number: these events are regentfs's own.
        Ctx { actor: ActorId::KERNEL, uid, gid, now: clock::now(), epoch: self.overlay.epoch(), shared: false }
    }

    /// Answers as the daemon of a mount would.
    fn answer(
        &self,
        request: &Request,
        interrupt: &Interrupt,
        sink: &mut dyn FnMut(Row) -> ControlFlow<()>,
    ) -> Result<Done, Failure> {
        if !request.moves() {
            return dispatch(request, &self.overlay, &self.store, sink);
        }
        let cancelled = || interrupt.is_asked();
        let ctx = self.ctx();
        Mover {
            machine: &self.machine,
            ctx,
            mapped: Vec::new(),
            users: &|_| Vec::new(),
            cancelled: &cancelled,
            gained: &|_| {},
        }
        .answer(request, sink)
    }
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
            return Ok(Source::Daemon(client.about(repo.about.as_deref())));
        }
        let store = Arc::new(open_store(repo)?);
        let base = DirBase::open(&repo.root)
            .map_err(|e| anyhow!("cannot open the repository {}: {}", repo.root.display(), std::io::Error::from(e)))?;
        let record = Arc::new(Record::open(store.clone())?);
        let overlay = Arc::new(Overlay::open(store.clone(), Arc::new(base), record, false)?);
        let machine = Machine::new(overlay.clone(), Arc::new(Gate::default()));
        let offline = Offline { store, overlay, machine };
        offline.finish_apply()?;
        Ok(Source::Offline(Box::new(offline)))
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
        let interrupt = match &self {
            _ if !request.moves() || matches!(request, Request::Diff(_)) => Interrupt::default(),
            Source::Daemon(client) => Interrupt::watch(client.stream().ok()),
            Source::Offline(_) => Interrupt::watch(None),
        };
        let answer = match self {
            Source::Daemon(client) => {
                client.ask_and_watch(request, &mut take, &mut |row| progress::show(&row)).map_err(anyhow::Error::from)
            }
            Source::Offline(offline) => offline
                .answer(request, &interrupt, &mut |row| match row {
                    Row::Progress(row) => {
                        progress::show(&row);
                        ControlFlow::Continue(())
                    }
                    row => R::from_row(row).map_or(ControlFlow::Continue(()), &mut take),
                })
                .map_err(anyhow::Error::from),
        };
        progress::clear();
        let asked = interrupt.end();
        let Done { notes, .. } = match answer {
            Err(error) if asked => {
                let early = matches!(error.downcast_ref(), Some(ClientError::NotAsked(_)));
                return Err(if early { anyhow!("nothing was done") } else { error }.context(Interrupted));
            }
            other => other?,
        };
        if asked {
            pager::remark("regentfs: note: it was too late to stop: it is done");
        }
        outcome?;
        for note in notes {
            pager::remark(&format!("regentfs: note: {note}"));
        }
        Ok(())
    }
}

/// The places where a repository is mounted, as the mount table knows them; the one that is meant first, then the one in place.
pub fn mountpoints(repo: &Repo) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = mounts::of(&repo.root).unwrap_or_default().into_iter().map(|m| m.mountpoint).collect();
    all.sort_by_key(|at| (Some(at) != repo.about.as_ref(), *at != repo.root));
    all
}

/// Opens the store of a repository that is not mounted.
pub fn open_store(repo: &Repo) -> Result<Store> {
    if let Some(mountpoint) = mountpoints(repo).into_iter().next() {
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

/// What words may stand for a point in time.
pub struct Words {
    rows: Vec<SnapshotRow>,
}

/// The snapshots of a repository, for telling their names from paths.
pub fn names(repo: &Repo) -> Result<Words> {
    let mut rows = Vec::new();
    let filter = SnapshotsFilter { all: true, brief: true, ..SnapshotsFilter::default() };
    Source::of(repo)?.ask(&Request::Snapshots(filter), &mut |row: SnapshotRow| {
        rows.push(row);
        Ok(())
    })?;
    Ok(Words { rows })
}

impl Words {
    /// Whether a word is a point in time.
    pub fn has(&self, text: &str) -> bool {
        self.check(text).is_ok()
    }

    /// # Errors
    /// Why it is none.
    pub fn check(&self, text: &str) -> Result<()> {
        let candidate = |row: &SnapshotRow| spec::Candidate {
            id: row.id.clone(),
            label: row.label.clone(),
            epoch: Epoch(row.epoch),
            timeline: Timeline::MAIN,
            previous: Epoch::BASE,
            time: time::parse_rfc3339(&row.time).unwrap_or_default(),
        };
        let candidates: Vec<_> = self.rows.iter().map(candidate).collect();
        let usage = |e: spec::SpecError| anyhow::Error::from(super::exit::Usage(e.to_string()));
        // Who knows the record will say whether there is such a step.
        if steps::is_name(text) && !candidates.iter().any(|one| one.label.as_deref() == Some(text)) {
            return Ok(());
        }
        let parsed = spec::parse(text, clock::now()).map_err(usage)?;
        // Steps and times are looked up where the history is; here only the name matters.
        let name = match parsed {
            spec::Spec::Back(inner, _) => *inner,
            other => other,
        };
        match name {
            spec::Spec::Name(_) => spec::resolve(&candidates, Epoch::BASE, &name).map(|_| ()).map_err(usage),
            _ => Ok(()),
        }
    }
}
