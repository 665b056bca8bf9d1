//! From a plan to the point of no return, back from there, and what to do with a journal that is found.
//!
//! Until [`Ready::commit`] has written its journal, everything can be taken away again and is, whatever goes wrong.

use std::path::PathBuf;

use rustix::io::Errno;

use super::commit::{commit, load};
use super::journal::{Journal, Phase, failed};
use super::plan::{Expect, Make, Meta, Plan, Step};
use super::temps::{self, Temps, base};
use super::verify::{as_expected, verify};
use super::writer::Root;
use super::{
    Conflict, Error, Found, Keeper, Note, Old, Outcome, Progress, Result, Resumed, Site, Source, Stage, Watch,
};
use crate::store::fault;
use crate::types::{Kind, Path};

/// What [`prepare`] came to.
pub enum Prepared<'a> {
    /// The base is not what the plan expects. Nothing was done.
    Refused(Vec<Conflict>),
    Ready(Ready<'a>),
}

/// Everything is prepared. When this is dropped without a commit, the temporary files stay until [`resume`].
#[must_use = "commit it or roll it back"]
pub struct Ready<'a> {
    store: PathBuf,
    root: &'a Root,
    journal: Journal,
    notes: Vec<Note>,
}

/// Compares the base with the plan, keeps what will be destroyed, and writes what is new under temporary names.
///
/// # Errors
/// [`Error::Pending`] if there is a journal. After any other the base is as it was, but for the times of directories.
pub fn prepare<'a>(
    site: Site<'a>,
    plan: Plan,
    source: &dyn Source,
    keeper: &mut dyn Keeper,
    watch: &mut dyn Watch,
) -> Result<Prepared<'a>> {
    let order = plan.order()?;
    if Journal::exists(site.store) {
        return Err(Error::Pending);
    }
    let verified = verify(site.root, &plan, watch);
    if !verified.conflicts.is_empty() {
        return Ok(Prepared::Refused(verified.conflicts));
    }
    let conflicts = keep(site.root, &plan, keeper, watch)?;
    if !conflicts.is_empty() {
        return Ok(Prepared::Refused(conflicts));
    }
    let looked = site.root.look(&Path::root()).and_then(|look| look.ok_or(Errno::NOENT));
    let root = looked.map_err(base("look at", &Path::root()))?.seen;
    let journal = Journal { phase: Phase::Prepare, root, plan, states: verified.states };
    let mut ready = Ready { store: site.store.to_owned(), root: site.root, journal, notes: Vec::new() };
    match ready.write(&order, source, watch) {
        Ok(()) => Ok(Prepared::Ready(ready)),
        Err(error) => Err(ready.undo(error)),
    }
}

/// Finishes or undoes what a crash interrupted, or what ended with [`Error::Unfinished`]; `None` if there is nothing. After a commit
/// the caller makes its own state durable, if that was not done, and calls [`finish`](super::finish).
///
/// # Errors
/// The journal stays, and so the work can be resumed once more.
pub fn resume(site: Site<'_>, watch: &mut dyn Watch) -> Result<Option<Resumed>> {
    let Some(journal) = load(site)? else { return Ok(None) };
    match journal.phase {
        Phase::Prepare => {
            temps::remove(site.root, &journal, true).map_err(|e| Error::Unfinished(Box::new(e)))?;
            Journal::remove(site.store)?;
            Ok(Some(Resumed::RolledBack { plan: journal.plan }))
        }
        Phase::Commit => {
            let outcome = commit(site.root, &journal, true, Vec::new(), watch)?;
            Ok(Some(Resumed::Committed { plan: journal.plan, outcome }))
        }
    }
}

impl Ready<'_> {
    fn write(&mut self, order: &[usize], source: &dyn Source, watch: &mut dyn Watch) -> Result<()> {
        self.journal.write(&self.store)?;
        let progress = Progress { stage: Stage::Write, done: 0, total: 0, bytes: 0 };
        let (plan, states) = (&self.journal.plan, &mut self.journal.states);
        let mut temps = Temps { root: self.root, plan, states, source, watch, notes: Vec::new(), progress };
        temps.write(order)?;
        self.notes = temps.notes;
        Ok(())
    }

    /// Does it. This is the point of no return: it cannot be cancelled any more once the journal says so.
    ///
    /// # Errors
    /// [`Error::Unfinished`] if it was begun and is to be resumed. After any other the base is as it was.
    pub fn commit(mut self, watch: &mut dyn Watch) -> Result<Outcome> {
        if watch.cancelled() {
            return Err(self.undo(Error::Cancelled));
        }
        self.journal.phase = Phase::Commit;
        if let Err(error) = self.journal.write(&self.store) {
            // It may be there all the same: nothing may be taken away as long as it could say that all is prepared.
            self.journal.phase = Phase::Prepare;
            return Err(match self.journal.write(&self.store) {
                Ok(()) => self.undo(error.into()),
                Err(_) => Error::Unfinished(Box::new(error.into())),
            });
        }
        commit(self.root, &self.journal, false, self.notes, watch)
    }

    /// Takes everything away again.
    pub fn roll_back(self) -> Result<()> {
        let undo = || -> Result<()> {
            temps::remove(self.root, &self.journal, false)?;
            Ok(Journal::remove(&self.store)?)
        };
        undo().map_err(|error| Error::Unfinished(Box::new(error)))
    }

    /// Rolls back because of an error, and returns it.
    fn undo(self, error: Error) -> Error {
        match self.roll_back() {
            Ok(()) => error,
            // The journal tells what is left to undo.
            Err(_) => Error::Unfinished(Box::new(error)),
        }
    }
}

/// Hands everything that will be destroyed to the keeper. What turns out to have changed meanwhile, or cannot be read, is a conflict.
fn keep(root: &Root, plan: &Plan, keeper: &mut dyn Keeper, watch: &mut dyn Watch) -> Result<Vec<Conflict>> {
    let mut conflicts = Vec::new();
    let total = plan.steps.len() as u64;
    for (at, step) in plan.steps.iter().enumerate() {
        if watch.cancelled() {
            return Err(Error::Cancelled);
        }
        if step.expect != Expect::Nothing && step.make != Make::Keep {
            fault::point("apply.keep", || failed("keep", step.path.to_string(), libc::ENOSPC))?;
            if let Err(found) = keep_one(root, at, step, keeper)? {
                conflicts.push(Conflict { path: step.path.clone(), expected: step.expect, found });
            }
        }
        watch.progress(Progress { stage: Stage::Keep, done: at as u64 + 1, total, bytes: 0 });
    }
    Ok(conflicts)
}

fn keep_one(root: &Root, at: usize, step: &Step, keeper: &mut dyn Keeper) -> Result<Result<(), Found>> {
    let Expect::Is(expected) = &step.expect else { return Ok(Ok(())) };
    let read = || -> Result<_, Errno> {
        let node = root.node(&step.path)?;
        let look = node.look()?;
        let target = if expected.kind == Kind::Symlink { Some(root.slot(&step.path)?.target()?) } else { None };
        let bytes_go = expected.kind == Kind::File && step.changes_names();
        let file = if bytes_go { Some(root.slot(&step.path)?.open()?) } else { None };
        Ok((node.xattrs()?, look, target, file, node))
    };
    let (xattrs, look, target, file, node) = match read() {
        Ok(all) => all,
        Err(Errno::NOENT) => return Ok(Err(Found::Nothing)),
        Err(e) => return Ok(Err(Found::Refused(e.into()))),
    };
    let same = |other: &super::writer::Look| as_expected(expected, &other.seen);
    let same_open = match &file {
        Some(file) => super::writer::look(file, b"").is_ok_and(|look| same(&look)),
        None => true,
    };
    if !same(&look) || !same_open {
        return Ok(Err(Found::Is(look.seen)));
    }
    let (perm, uid, gid, atime, mtime) = (look.perm, look.uid, look.gid, look.atime, look.seen.mtime);
    let meta = Meta { perm, uid, gid, atime, mtime, xattrs: Some(xattrs) };
    let (target, file) = (target.as_deref(), file.as_ref());
    keeper.keep(at, &Old { seen: expected, meta: &meta, rdev: look.rdev, target, file })?;
    // It must not have changed while it was copied.
    let after = node.look().map_err(base("look at", &step.path))?;
    Ok(if same(&after) { Ok(()) } else { Err(Found::Is(after.seen)) })
}
