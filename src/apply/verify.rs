//! The comparison of the whole base with the plan, before anything is done: every conflict is found, and nothing is changed.
//!
//! It also decides where the temporary files go. Foreseeable refusals (permissions, mount points, immutable files) are found here
//! rather than in the middle of a commit.

use rustc_hash::{FxHashMap, FxHashSet};
use rustix::io::Errno;

use super::journal::{State, Temp, Was, temp_name};
use super::node::is_root;
use super::plan::{ByPath, Expect, Make, Plan, Seen, Step, above};
use super::writer::{Look, Os, Root};
use super::{Conflict, Found, Progress, Stage, Watch};
use crate::types::{Kind, Path};

/// A directory that is there.
#[derive(Clone, Copy)]
struct Dir {
    look: Look,
    /// Whether names in it can be changed.
    may: Os<()>,
}

pub(super) struct Verified {
    /// One for each step.
    pub states: Vec<State>,
    /// Empty if the base is as the plan expects.
    pub conflicts: Vec<Conflict>,
}

struct Verify<'a> {
    root: &'a Root,
    plan: &'a Plan,
    by_path: ByPath<'a>,
    dirs: FxHashMap<Path, Os<Dir>>,
    conflicts: Vec<Conflict>,
    uid: u32,
}

/// Whether what was found is what was expected.
pub(super) fn as_expected(expected: &Seen, found: &Seen) -> bool {
    let same = expected.size == found.size && expected.mtime == found.mtime && expected.ctime == found.ctime;
    expected.same_file(found) && (same || expected.kind == Kind::Dir)
}

/// Compares all steps with the base.
pub(super) fn verify(root: &Root, plan: &Plan, watch: &mut dyn Watch) -> Verified {
    let uid = rustix::process::geteuid().as_raw();
    let (by_path, dirs) = (plan.by_path(), FxHashMap::default());
    let mut verify = Verify { root, plan, by_path, dirs, conflicts: Vec::new(), uid };
    let total = plan.steps.len() as u64;
    let mut states = Vec::with_capacity(plan.steps.len());
    for (at, step) in plan.steps.iter().enumerate() {
        states.push(verify.step(at, step).unwrap_or_else(|found| {
            verify.conflicts.push(Conflict { path: step.path.clone(), expected: step.expect, found });
            State::default()
        }));
        watch.progress(Progress { stage: Stage::Verify, done: at as u64 + 1, total, bytes: 0 });
    }
    Verified { states, conflicts: verify.conflicts }
}

fn refused(errno: Errno) -> Found {
    Found::Refused(errno.into())
}

impl Verify<'_> {
    fn step_at(&self, path: &[u8]) -> Option<&Step> {
        self.plan.steps.get(*self.by_path.get(path)?)
    }

    fn dir(&mut self, path: &Path) -> Os<Dir> {
        if let Some(dir) = self.dirs.get(path) {
            return *dir;
        }
        let see = || -> Os<Dir> {
            let look = self.root.node(path)?.look()?;
            if look.seen.kind != Kind::Dir {
                return Err(Errno::NOTDIR);
            }
            let may = if look.fixed { Err(Errno::PERM) } else { self.root.may_change(path) };
            Ok(Dir { look, may })
        };
        let dir = see();
        self.dirs.insert(path.clone(), dir);
        dir
    }

    /// Whether this process can make a directory writable, and the plan has the right to do that: it removes the directory or says
    /// what its mode is to be.
    fn will_open(&self, path: &Path, dir: &Dir) -> bool {
        let ours = self.step_at(path.as_bytes()).is_some_and(|s| s.expect.is_dir() && s.make != Make::Keep);
        ours && dir.may == Err(Errno::ACCESS) && dir.look.uid == self.uid && dir.look.perm & 0o300 != 0o300
    }

    fn step(&mut self, at: usize, step: &Step) -> Result<State, Found> {
        let Some((parent, _)) = step.path.split_last() else {
            let look = self.root.look(&step.path).map_err(refused)?.ok_or(Found::Nothing)?;
            return self.existing(step, &look);
        };
        // In a directory that is not there yet nothing can be, and the plan expects nothing.
        let fresh = above(&step.path).filter_map(|dir| self.step_at(dir)).any(Step::new_dir);
        let mut state = State::default();
        if !fresh {
            let dir = self.dir(&parent).map_err(refused)?;
            let found = self.root.look(&step.path).map_err(refused)?;
            match (&step.expect, &found) {
                (Expect::Nothing, None) => {}
                (Expect::Nothing, Some(look)) => return Err(Found::Is(look.seen)),
                (Expect::Is(_), None) => return Err(Found::Nothing),
                (Expect::Is(expected), Some(look)) if as_expected(expected, &look.seen) => {}
                (Expect::Is(_), Some(look)) => return Err(Found::Is(look.seen)),
            }
            if let Some(look) = &found {
                state = self.existing(step, look)?;
            }
            if step.changes_names() {
                dir.may.or_else(|e| if self.will_open(&parent, &dir) { Ok(()) } else { Err(e) }).map_err(refused)?;
                self.replaceable(&dir, found.as_ref())?;
            }
        }
        if let Make::Link { to } = &step.make {
            self.linkable(to, &parent)?;
        }
        let temp = match step.make {
            _ if step.swaps_in() => Some(self.place(&parent)?),
            // Passes through a temporary name of the same directory on its way out.
            Make::Remove if !step.expect.is_dir() => Some(parent),
            _ => None,
        };
        if let Some(dir) = temp {
            self.free(&dir.join(temp_name(self.plan.id, at).as_bytes()));
            state.temp = Some(Temp { dir, made: None });
        }
        Ok(state)
    }

    /// Checks what is there and is to change.
    fn existing(&mut self, step: &Step, look: &Look) -> Result<State, Found> {
        if let Expect::Is(expected) = &step.expect
            && !as_expected(expected, &look.seen)
        {
            return Err(Found::Is(look.seen));
        }
        if step.make == Make::Keep {
            return Ok(State::default());
        }
        if look.fixed {
            return Err(refused(Errno::PERM));
        }
        let in_place = !step.changes_names();
        if in_place && !is_root() && look.uid != self.uid {
            return Err(refused(Errno::PERM));
        }
        let dir = if look.seen.kind == Kind::Dir { None } else { step.path.split_last().map(|(dir, _)| dir) };
        let dir = self.dir(dir.as_ref().unwrap_or(&step.path)).map_err(refused)?;
        if in_place && dir.may == Err(Errno::ROFS) {
            return Err(refused(Errno::ROFS));
        }
        if !in_place && look.mounted {
            return Err(refused(Errno::BUSY));
        }
        if step.make == Make::Remove && step.expect.is_dir() || step.ends_dir() {
            self.emptied(&step.path)?;
        }
        Ok(State { temp: None, was: Some(Was { perm: look.perm, uid: look.uid, gid: look.gid }) })
    }

    /// Everything in a directory that goes must go, too.
    fn emptied(&mut self, dir: &Path) -> Result<(), Found> {
        for name in self.root.names(dir).map_err(refused)? {
            let path = dir.join(&name);
            if self.step_at(path.as_bytes()).is_some_and(|s| s.make == Make::Remove) {
                continue;
            }
            let found = match self.root.look(&path) {
                Ok(Some(look)) => Found::Is(look.seen),
                Ok(None) => continue,
                Err(e) => refused(e),
            };
            self.conflicts.push(Conflict { path, expected: Expect::Nothing, found });
        }
        Ok(())
    }

    /// In a directory with the sticky bit only owners can change what is there.
    fn replaceable(&self, dir: &Dir, found: Option<&Look>) -> Result<(), Found> {
        let Some(look) = found.filter(|_| !is_root() && dir.look.perm & 0o1000 != 0) else { return Ok(()) };
        if look.uid == self.uid || dir.look.uid == self.uid { Ok(()) } else { Err(refused(Errno::PERM)) }
    }

    /// Whether a name in `parent` can lead to the file at `to`.
    fn linkable(&mut self, to: &Path, parent: &Path) -> Result<(), Found> {
        let made = self.step_at(to.as_bytes()).is_none_or(Step::swaps_in);
        if made {
            // Tried in earnest, with the temporary files.
            return Ok(());
        }
        let Ok(Some(target)) = self.root.look(to) else { return Err(Found::Blocked) };
        let from = self.dir(&self.nearest(parent)).map_err(refused)?;
        if from.look.mount != target.mount {
            return Err(refused(Errno::XDEV));
        }
        // What /proc/sys/fs/protected_hardlinks forbids. It may be off, but mostly it is not.
        if !is_root() && target.uid != self.uid {
            return Err(refused(Errno::PERM));
        }
        Ok(())
    }

    /// The nearest directory, from `dir` upwards, that is there now.
    fn nearest(&self, dir: &Path) -> Path {
        let mut at = dir.clone();
        loop {
            let is_new = |dir: &[u8]| self.step_at(dir).is_some_and(Step::new_dir);
            let fresh = is_new(at.as_bytes()) || above(&at).any(is_new);
            match at.split_last() {
                Some((dir, _)) if fresh => at = dir,
                _ => return at,
            }
        }
    }

    /// The directory for a temporary file of something in `parent`: the nearest that is there and can be written to before the
    /// plan has changed any mode, in the same mount.
    fn place(&mut self, parent: &Path) -> Result<Path, Found> {
        let mut at = self.nearest(parent);
        let first = self.dir(&at).map_err(refused)?;
        let mut dir = first;
        loop {
            match dir.may {
                Ok(()) if dir.look.mount == first.look.mount => return Ok(at),
                Ok(()) => return Err(refused(Errno::ACCESS)),
                Err(e) if !self.will_open(&at, &dir) => return Err(refused(e)),
                Err(e) => at = at.split_last().ok_or_else(|| refused(e))?.0,
            }
            dir = self.dir(&at).map_err(refused)?;
        }
    }

    /// A temporary name must not be in use.
    fn free(&mut self, path: &Path) {
        let found = match self.root.look(path) {
            Ok(None) => return,
            Ok(Some(look)) => Found::Is(look.seen),
            Err(e) => refused(e),
        };
        self.conflicts.push(Conflict { path: path.clone(), expected: Expect::Nothing, found });
    }
}

/// Paths of the directories whose names a plan changes.
pub(super) fn worked_in(plan: &Plan) -> FxHashSet<Path> {
    plan.steps.iter().filter(|s| s.changes_names()).filter_map(|s| Some(s.path.split_last()?.0)).collect()
}
