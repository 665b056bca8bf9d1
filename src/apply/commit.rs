//! The commit: every step in order, each looked at again, then what has to be durable; and the end, when the journal goes.
//!
//! It starts from the journal alone, so it is the same for a commit that just begins and for one that a crash interrupted.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
use rustix::io::Errno;

use super::journal::{Journal, Phase, Was, failed};
use super::node::is_root;
use super::plan::{ByPath, Expect, Make, Seen, Step, above};
use super::swap::{Done, Stop};
use super::temps::{self, base};
use super::verify::worked_in;
use super::writer::Root;
use super::{Conflict, Error, Found, Made, Note, Outcome, Progress, Result, Site, Stage, Watch, sync};
use crate::store::fault;
use crate::types::{Kind, Path, Time};

pub(super) struct Commit<'a> {
    pub root: &'a Root,
    journal: &'a Journal,
    by_path: ByPath<'a>,
    /// A crash may have left steps half done.
    pub resumed: bool,
    /// Files that several steps are about, by device and number: these steps change their ctime, and set these mtimes.
    shared: FxHashMap<(u64, u64), Vec<Time>>,
    conflicts: BTreeMap<usize, Found>,
    notes: Vec<Note>,
}

/// Does what the journal says. Its phase is `Commit`, and it is on disk.
pub(super) fn commit(
    root: &Root,
    journal: &Journal,
    resumed: bool,
    notes: Vec<Note>,
    watch: &mut dyn Watch,
) -> Result<Outcome> {
    let mut commit = Commit {
        root,
        journal,
        by_path: journal.plan.by_path(),
        resumed,
        shared: shared(journal),
        conflicts: BTreeMap::new(),
        notes,
    };
    commit.run(watch).map_err(|error| Error::Unfinished(Box::new(error)))
}

/// Ends an apply whose outcome is durable elsewhere: takes away temporary files of steps that could not be done, then the journal.
/// Returns temporary names under which something stays that regentfs did not put there. Without a journal it does nothing.
///
/// # Errors
/// [`Error::Unfinished`]: it can be called again, and so can [`resume`](super::resume).
pub fn finish(site: Site<'_>) -> Result<Vec<Path>> {
    let Some(journal) = load(site)? else { return Ok(Vec::new()) };
    if journal.phase != Phase::Commit {
        return Err(Error::Pending);
    }
    let clean = || -> Result<Vec<Path>> {
        fault::point("apply.finish", || failed("finish", site.store, libc::EIO))?;
        let by_path = journal.plan.by_path();
        let swaps = |at: &usize| journal.plan.steps.get(*at).is_some_and(Step::swaps_in);
        let ours = |at| Some(at).filter(swaps).and_then(|at| identity(&journal, &by_path, at));
        let strange = temps::clean(site.root, &journal, ours)?;
        Journal::remove(site.store)?;
        Ok(strange)
    };
    clean().map_err(|error| Error::Unfinished(Box::new(error)))
}

/// The journal of a site, if there is one, with today's device numbers.
pub(super) fn load(site: Site<'_>) -> Result<Option<Journal>> {
    let Some(mut journal) = Journal::load(site.store)? else { return Ok(None) };
    let found = site.root.look(&Path::root()).map_err(base("look at", &Path::root()))?;
    let found = found.ok_or_else(|| base("look at", &Path::root())(Errno::NOENT))?.seen;
    journal.on_device(found.dev);
    if !journal.root.same_file(&found) {
        return Err(Error::OtherRoot);
    }
    Ok(Some(journal))
}

/// Which file a step is about: what it puts in place, or what it finds there. Of the latter without the time of birth, which
/// overlayfs changes when the file changes for the first time.
fn identity(journal: &Journal, by_path: &ByPath<'_>, at: usize) -> Option<Seen> {
    let step = journal.plan.steps.get(at)?;
    match &step.make {
        Make::Link { to } => {
            let target = *by_path.get(to.as_bytes())?;
            // A plan with links to links is not carried out.
            let is_link = matches!(journal.plan.steps.get(target)?.make, Make::Link { .. });
            if is_link { None } else { identity(journal, by_path, target) }
        }
        _ if step.swaps_in() => journal.states.get(at)?.temp.as_ref()?.made,
        _ => step.expect.seen().map(|seen| Seen { born: None, ..*seen }),
    }
}

fn shared(journal: &Journal) -> FxHashMap<(u64, u64), Vec<Time>> {
    let plan = &journal.plan;
    let mut about: FxHashMap<(u64, u64), (usize, Vec<Time>)> = FxHashMap::default();
    for step in &plan.steps {
        if let Expect::Is(seen) = &step.expect
            && seen.kind != Kind::Dir
        {
            let (count, times) = about.entry((seen.dev, seen.ino)).or_default();
            *count += 1;
            if let Make::Meta { meta } = &step.make {
                times.push(meta.mtime);
            }
        }
    }
    let by_path = plan.by_path();
    for step in &plan.steps {
        if let Make::Link { to } = &step.make
            && let Some(seen) = by_path.get(to.as_bytes()).and_then(|&at| plan.steps.get(at)?.expect.seen())
        {
            about.entry((seen.dev, seen.ino)).or_default().0 += 2;
        }
    }
    about.into_iter().filter(|(_, (count, _))| *count > 1).map(|(file, (_, times))| (file, times)).collect()
}

impl<'a> Commit<'a> {
    fn steps(&self) -> &'a [Step] {
        &self.journal.plan.steps
    }

    pub(super) fn step_at(&self, path: &Path) -> Option<usize> {
        self.by_path.get(path.as_bytes()).copied()
    }

    pub(super) fn identity(&self, at: usize) -> Option<Seen> {
        identity(self.journal, &self.by_path, at)
    }

    /// The directory in which steps below this one's path work.
    pub(super) fn directory(&self, at: usize) -> Option<Seen> {
        let step = self.steps().get(at)?;
        // What is in it goes first, and then something else takes its place.
        let old = step.expect.seen().filter(|_| step.ends_dir()).map(|seen| Seen { born: None, ..*seen });
        old.or_else(|| self.identity(at))
    }

    pub(super) fn was(&self, at: usize) -> Option<Was> {
        self.journal.states.get(at)?.was
    }

    pub(super) fn temp_path(&self, at: usize) -> Option<Path> {
        self.journal.states.get(at)?.temp_path(self.journal.plan.id, at)
    }

    /// Whether this is what was expected. `untouched`: nor has the plan done anything to it yet, such as moving it.
    pub(super) fn is(&self, expected: &Seen, found: &Seen, untouched: bool) -> bool {
        let shared = self.shared.get(&(expected.dev, expected.ino));
        let untouched = untouched && shared.is_none() && expected.kind != Kind::Dir;
        let same = if untouched { expected.same_file(found) } else { expected.same_inode(found) };
        if !same || expected.kind == Kind::Dir {
            return same;
        }
        let mtime = found.mtime == expected.mtime || shared.is_some_and(|times| times.contains(&found.mtime));
        let ctime = !untouched || found.ctime == expected.ctime;
        found.size == expected.size && mtime && ctime
    }

    fn run(&mut self, watch: &mut dyn Watch) -> Result<Outcome> {
        let order = self.journal.plan.order()?;
        fault::point("apply.commit.begin", || failed("begin to apply to", "the repository", libc::EIO))?;
        self.open_dirs()?;
        let steps = || order.iter().filter_map(|&at| Some((at, self.journal.plan.steps.get(at)?)));
        let steps: Vec<(usize, &Step)> = steps().collect();
        for &(at, step) in &steps {
            let Make::Link { to } = &step.make else { continue };
            let target = self.step_at(to).and_then(|to| self.steps().get(to)).filter(|target| !target.swaps_in());
            if let Some((target, old)) = target.and_then(|target| Some((target, target.expect.seen()?))) {
                let done = self.link_aside(at, step, target, old);
                self.note(at, step, done)?;
            }
        }
        let total = steps.len() as u64;
        for (done, &(at, step)) in steps.iter().enumerate() {
            fault::point("apply.step", || failed("apply", step.path.to_string(), libc::EIO))?;
            let result = self.step(at, step);
            self.note(at, step, result)?;
            fault::point("apply.step.after", || failed("apply", step.path.to_string(), libc::EIO))?;
            watch.progress(Progress { stage: Stage::Commit, done: done as u64 + 1, total, bytes: 0 });
        }
        // From the bottom up: what is in a directory changes its times, and its mode may forbid to change what is in it.
        for &(at, step) in steps.iter().rev().filter(|(_, step)| matches!(step.make, Make::Dir { .. })) {
            if !self.conflicts.contains_key(&at) {
                let done = self.dir_meta(at, step);
                self.note(at, step, done)?;
            }
        }
        self.close_dirs();
        sync::sync(self.root, &self.touched())?;
        Ok(self.outcome())
    }

    /// Takes note of how a step went; an error if nothing may go on.
    fn note(&mut self, at: usize, step: &Step, done: Done) -> Result<()> {
        match done {
            Ok(()) => Ok(()),
            Err(Stop::Conflict(found)) => {
                self.conflicts.insert(at, found);
                Ok(())
            }
            Err(Stop::Failed(errno)) => Err(base("change", &step.path)(errno)),
            Err(Stop::Store(error)) => Err(error.into()),
        }
    }

    /// Whether something that the step depends on was not done: a directory above it, or the other name of what it removes.
    fn blocked(&self, step: &Step) -> bool {
        let failed = |at: &usize| self.conflicts.contains_key(at);
        let above = above(&step.path).any(|dir| self.by_path.get(dir).is_some_and(failed));
        let is_name = |at: &usize| match self.steps().get(*at) {
            Some(Step { make: Make::Link { to }, .. }) => *to == step.path,
            _ => false,
        };
        above || step.make == Make::Remove && self.conflicts.keys().any(is_name)
    }

    fn step(&mut self, at: usize, step: &Step) -> Done {
        if self.conflicts.contains_key(&at) {
            return Ok(());
        }
        if self.blocked(step) {
            return Err(Stop::Conflict(Found::Blocked));
        }
        match (&step.make, &step.expect) {
            (Make::Keep, _) => Ok(()),
            _ if step.swaps_in() => self.swap_in(at, step),
            (Make::Remove, Expect::Is(old)) => {
                let done =
                    if old.kind == Kind::Dir { self.remove_dir(step, old) } else { self.take_out(at, step, old) };
                match done {
                    // The directory is gone already, or something else has taken its place.
                    Err(Stop::Conflict(Found::Refused(e))) if is_gone(e) => Ok(()),
                    other => other,
                }
            }
            (Make::Meta { meta }, Expect::Is(old)) => {
                let mut notes = Vec::new();
                let done = self.meta(at, step, old, meta, &mut notes);
                self.notes.append(&mut notes);
                done
            }
            // An old directory. Its metadata comes when all is done in it.
            (Make::Dir { .. }, Expect::Is(old)) => match self.root.look(&step.path)? {
                Some(now) if self.is(old, &now.seen, true) => Ok(()),
                Some(now) => Err(Stop::Conflict(Found::Is(now.seen))),
                None => Err(Stop::Conflict(Found::Nothing)),
            },
            _ => Err(Stop::Conflict(Found::Blocked)),
        }
    }

    fn dir_meta(&mut self, at: usize, step: &Step) -> Done {
        let (Make::Dir { meta }, Some(expected)) = (&step.make, self.identity(at)) else { return Ok(()) };
        let node = self.root.node(&step.path)?;
        let now = node.look()?;
        if !expected.same_file(&now.seen) {
            return Err(Stop::Conflict(Found::Is(now.seen)));
        }
        let mut notes = Vec::new();
        let done = self.set(&node, step, Kind::Dir, meta, &mut notes);
        self.notes.append(&mut notes);
        done
    }

    /// Makes directories writable whose mode the plan may change and whose names it does change.
    fn open_dirs(&mut self) -> Result<()> {
        self.own_dirs(|at, was, perm| {
            (!self.conflicts.contains_key(&at) && perm & 0o300 != 0o300).then_some(was.perm | 0o700)
        })
    }

    /// Gives those directories their mode back that the plan could not get at.
    fn close_dirs(&mut self) {
        // What does not work here is no worse than the conflict that is reported for the directory.
        let _ = self.own_dirs(|at, was, perm| {
            (self.conflicts.contains_key(&at) && perm == was.perm | 0o700).then_some(was.perm)
        });
    }

    fn own_dirs(&self, mode: impl Fn(usize, Was, u16) -> Option<u16>) -> Result<()> {
        if is_root() {
            return Ok(());
        }
        let uid = rustix::process::geteuid().as_raw();
        let worked_in = worked_in(&self.journal.plan);
        for (at, step) in self.steps().iter().enumerate() {
            let (Expect::Is(seen), Some(was)) = (&step.expect, self.was(at)) else { continue };
            if seen.kind != Kind::Dir || was.uid != uid || was.perm & 0o300 == 0o300 || !worked_in.contains(&step.path)
            {
                continue;
            }
            let set = || -> Result<(), Errno> {
                let node = self.root.node(&step.path)?;
                let now = node.look()?;
                match mode(at, was, now.perm) {
                    Some(perm) if now.seen.same_inode(seen) => node.chmod(perm),
                    _ => Ok(()),
                }
            };
            match set() {
                Err(e) if is_gone(e.into()) => {}
                other => other.map_err(base("change the mode of", &step.path))?,
            }
        }
        Ok(())
    }

    /// Everything that has to be synced before the apply counts as done.
    fn touched(&self) -> BTreeSet<Path> {
        let mut paths = BTreeSet::new();
        for (step, state) in self.steps().iter().zip(&self.journal.states) {
            let in_place = match &step.make {
                Make::Keep => continue,
                Make::Dir { .. } => true,
                Make::Meta { .. } => step.expect.seen().is_some_and(|seen| seen.kind == Kind::File),
                _ => false,
            };
            if in_place {
                paths.insert(step.path.clone());
            }
            paths.extend(step.path.split_last().map(|(dir, _)| dir));
            paths.extend(state.temp.as_ref().map(|temp| temp.dir.clone()));
        }
        paths
    }

    fn outcome(&mut self) -> Outcome {
        let mut outcome = Outcome { notes: std::mem::take(&mut self.notes), ..Outcome::default() };
        for (at, step) in self.steps().iter().enumerate() {
            let mut conflict = self.conflicts.get(&at).copied();
            if conflict.is_none() && step.make == Make::Remove {
                outcome.done.push(Made { step: at, seen: None });
            } else if conflict.is_none() {
                // Their ctimes, at least, are only known now.
                match self.root.look(&step.path) {
                    Ok(Some(now)) if self.identity(at).is_some_and(|made| made.same_file(&now.seen)) => {
                        outcome.done.push(Made { step: at, seen: Some(now.seen) });
                    }
                    Ok(Some(now)) => conflict = Some(Found::Is(now.seen)),
                    Ok(None) => conflict = Some(Found::Nothing),
                    Err(e) => conflict = Some(Found::Refused(e.into())),
                }
            }
            if let Some(found) = conflict {
                outcome.conflicts.push(Conflict { path: step.path.clone(), expected: step.expect, found });
            }
        }
        outcome
    }
}

/// Nothing can be at a path any more whose directory answers so.
fn is_gone(errno: crate::types::Errno) -> bool {
    use crate::types::Errno;
    [Errno::ENOENT, Errno::ENOTDIR, Errno::ELOOP].contains(&errno)
}
