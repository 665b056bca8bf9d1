//! Views of states for commands that may write to them: each a timeline of its own, mounted outside of the repository while it is used, and gone
//! afterwards. What is shown in place, and every other timeline, stays as it is.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;

use super::child::Minder;
use super::mount::{check_places, spawn_daemon};
use super::repo::Repo;
use super::source::Source;
use super::unmount::wait_for_the_end;
use super::{mount::Record, pager};
use crate::control::client::{Client, ClientError};
use crate::control::host::Shows;
use crate::control::protocol::{MountRequest, Request, StatusRow, TimelineRequest};
use crate::daemon::{Mounting, mounts};
use crate::fuse::mount::{Unmount, unmount};
use crate::timeline::rows::TimelineRow;
use crate::types::hex;

/// How long it is tried to take a view away while something, such as an indexer, looks at it.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// Where views are shown, one at a time.
pub struct Views {
    repo: Repo,
    minder: Minder,
    /// What timelines are called, but for a number.
    prefix: String,
    made: u32,
    /// What holds the views; nobody else can look into it.
    dir: PathBuf,
    /// Where nothing is mounted, this keeps a daemon: the repository as it is, read-only.
    anchor: Option<PathBuf>,
    view: Option<PathBuf>,
    /// Those that are still there.
    timelines: Vec<String>,
}

/// A timeline that nobody works on yet.
#[derive(Clone, Debug)]
pub struct Fork {
    pub name: String,
    /// The snapshot at which it begins; `base` for the repository as it is.
    pub at: String,
}

/// One that is shown.
pub struct View {
    pub at: PathBuf,
    /// Of the mount.
    id: u64,
}

impl View {
    /// Whether it is still there: somebody may have taken it away.
    pub fn is_there(&self) -> bool {
        let same = mounts::at(&self.at).ok().flatten().is_some_and(|m| m.id == self.id);
        same && !mounts::is_dead(&self.at)
    }
}

impl Views {
    /// `what` is for names. Nothing is mounted yet.
    ///
    /// # Errors
    /// When there is no place for them.
    pub fn new(repo: &Repo, minder: &Minder, what: &str) -> Result<Views> {
        let temp = std::env::temp_dir();
        let temp = temp.canonicalize().with_context(|| format!("the directory {} for a view", temp.display()))?;
        let prefix = format!("{what}-{}", std::process::id());
        let dir = temp.join(format!("regentfs-{prefix}"));
        check_places(repo, &dir)?;
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("cannot make {} for a view: choose another place with TMPDIR", dir.display()))?;
        let (repo, minder) = (repo.clone(), minder.clone());
        Ok(Views { repo, minder, prefix, made: 0, dir, anchor: None, view: None, timelines: Vec::new() })
    }

    /// Makes a timeline that begins at a point in time; without one, at the present of what the command is about, which becomes a snapshot.
    ///
    /// # Errors
    /// Why there is none.
    pub fn fork(&mut self, from: Option<&str>) -> Result<Fork> {
        let name = format!("{}-{}", self.prefix, self.made);
        let request =
            Request::Timeline(TimelineRequest::Fork { name: name.clone(), from: from.map(ToOwned::to_owned) });
        let mut row = None;
        let mut take = |found: TimelineRow| row = Some(found);
        match self.ask(&request)? {
            Some(rows) => rows.into_iter().for_each(&mut take),
            None => Source::of(&self.repo)?.ask(&request, &mut |found| {
                take(found);
                Ok(())
            })?,
        }
        self.made += 1;
        self.timelines.push(name.clone());
        self.tell_minder();
        let at = row
            .and_then(|row| row.forked_at)
            .context("a timeline was made, and not said where: do versions differ?")?;
        Ok(Fork { name, at })
    }

    /// Mounts a timeline.
    ///
    /// # Errors
    /// Why not.
    pub fn show(&mut self, fork: &Fork) -> Result<View> {
        if Client::connect(&self.repo.store)?.is_none() {
            self.start_daemon()?;
        }
        let name = self.repo.root.file_name().unwrap_or("view".as_ref());
        let at = self.make(Path::new(name))?;
        let request = MountRequest {
            at: hex(at.as_os_str().as_bytes()),
            timeline: Some(fork.name.clone()),
            ..MountRequest::default()
        };
        self.view = Some(at.clone());
        self.tell_minder();
        self.ask::<serde_json::Value>(&Request::Mount(request))?.context("the daemon went away")?;
        let id = mounts::at(&at)?.map(|m| m.id).with_context(|| format!("nothing is mounted at {}", at.display()))?;
        Ok(View { at, id })
    }

    /// Takes away what is shown, with its timeline.
    ///
    /// # Errors
    /// What is left.
    pub fn hide(&mut self, fork: &Fork) -> Result<()> {
        if let Some(at) = self.view.take() {
            self.take_away(&at)?;
            remove(&at);
        }
        let deleted = self.delete(&fork.name);
        if deleted.is_ok() {
            self.timelines.retain(|name| *name != fork.name);
        }
        self.tell_minder();
        deleted
    }

    fn delete(&self, name: &str) -> Result<()> {
        let request = Request::Timeline(TimelineRequest::Delete { name: name.to_owned() });
        let mut waited = Duration::ZERO;
        let deleted = loop {
            match self.ask::<TimelineRow>(&request) {
                Ok(Some(_)) => break Ok(()),
                Ok(None) => break Source::of(&self.repo).and_then(|s| s.ask(&request, &mut |_: TimelineRow| Ok(()))),
                // What was detached holds its timeline until nobody uses it any more.
                Err(_) if waited < PATIENCE => {
                    std::thread::sleep(PAUSE);
                    waited += PAUSE;
                }
                Err(e) => break Err(e),
            }
        };
        deleted.with_context(|| format!("timeline {name} is left: `regentfs timeline delete {name}`"))
    }

    /// The end of it all.
    ///
    /// # Errors
    /// What is left.
    pub fn close(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let mut cleared = Ok(());
        if let Some(at) = self.view.take() {
            cleared = self.take_away(&at);
            remove(&at);
        }
        // While it is there, nobody else gets at the store.
        if let Some(at) = self.anchor.take_if(|at| mounts::is_dead(at)) {
            cleared = cleared.and(self.take_away(&at));
            remove(&at);
        }
        for name in std::mem::take(&mut self.timelines) {
            cleared = cleared.and(self.delete(&name));
        }
        let ended = match self.anchor.take() {
            Some(at) => self.end_daemon(&at),
            None => Ok(()),
        };
        remove(&self.dir);
        cleared.and(ended)
    }

    /// A daemon of our own, which stays as long as the anchor does.
    fn start_daemon(&mut self) -> Result<()> {
        // A mount of ours that is gone from the kernel: what it showed may be what somebody wanted to be rid of.
        if self.anchor.is_some() {
            bail!("the daemon ended in the middle: see daemon.log in {}", self.repo.store.display());
        }
        let at = self.make(Path::new(".base"))?;
        self.anchor = Some(at.clone());
        self.tell_minder();
        spawn_daemon(&Mounting {
            repo: self.repo.root.clone(),
            mountpoint: at,
            store: self.repo.store.clone(),
            mode: Record::Auto.into(),
            shows: Shows::Snapshot("base".to_owned()),
        })
    }

    fn end_daemon(&self, at: &Path) -> Result<()> {
        let status = self.ask::<StatusRow>(&Request::Status)?.unwrap_or_default();
        let last = status.first().is_none_or(|status| status.mounts.len() < 2);
        self.take_away(at)?;
        remove(at);
        // Whoever comes next finds the store free.
        if last { wait_for_the_end(&self.repo.store) } else { Ok(()) }
    }

    /// Asks the daemon; `None` when there is none.
    fn ask<R: DeserializeOwned>(&self, request: &Request) -> Result<Option<Vec<R>>> {
        let Some(client) = Client::connect(&self.repo.store)? else { return Ok(None) };
        let mut rows = Vec::new();
        client.about(self.repo.about.as_deref().filter(|_| request.needs_a_tree())).ask(request, &mut |row| {
            rows.push(row);
            ControlFlow::Continue(())
        })?;
        Ok(Some(rows))
    }

    /// Unmounts; what is still in use is detached in the end.
    fn take_away(&self, at: &Path) -> Result<()> {
        let here = || matches!(mounts::at(at), Ok(Some(_)));
        let mut waited = Duration::ZERO;
        if mounts::is_dead(at) {
            // Nobody is there any more who could be asked.
            unmount(at, Unmount::Detach).with_context(|| format!("{} is left", at.display()))?;
        }
        while here() {
            let request = Request::Unmount { lazy: waited >= PATIENCE, at: Some(hex(at.as_os_str().as_bytes())) };
            let said = match self.ask::<serde_json::Value>(&request) {
                Ok(_) => None,
                Err(e) if matches!(e.downcast_ref(), Some(ClientError::Cut)) => None,
                Err(e) => Some(e),
            };
            if !here() {
                break;
            }
            if waited > PATIENCE {
                let why = said.unwrap_or_else(|| anyhow!("its daemon does not answer"));
                return Err(why.context(format!("{} is left: `regentfs unmount --lazy {0}`", at.display())));
            }
            std::thread::sleep(PAUSE);
            waited += PAUSE;
        }
        Ok(())
    }

    /// A directory to mount on.
    fn make(&self, name: &Path) -> Result<PathBuf> {
        let at = self.dir.join(name);
        match fs::create_dir(&at) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(e).with_context(|| format!("cannot make {}", at.display()))
            }
            Ok(()) | Err(_) => Ok(at),
        }
    }

    /// What is said if there is no time to clean up.
    fn tell_minder(&self) {
        let mut text = String::new();
        for at in self.view.iter().chain(&self.anchor) {
            text += &format!("; `regentfs unmount {}`", at.display());
        }
        for name in &self.timelines {
            text += &format!("; `regentfs timeline delete {name}`");
        }
        self.minder.would_leave(if text.is_empty() { text } else { format!(", so this is left to do{text}") });
    }
}

impl Drop for Views {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            pager::remark(&format!("regentfs: {error:#}"));
        }
    }
}

/// Only what is empty, and so no mount.
fn remove(dir: &Path) {
    let _ = fs::remove_dir(dir);
}
