//! What is new, written under temporary names: complete, with its metadata, and durable, before anything of the base changes.
//!
//! It notes in the states of the steps what it made, and knows how to take all of it away again. What a commit does with it is not
//! its business.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::io::Errno as Os;

use super::journal::{Journal, State, failed};
use super::plan::{ContentId, Make, Meta, Plan, Seen, Step};
use super::sync;
use super::writer::{Root, Slot};
use super::{Error, Note, Progress, Result, Source, Stage, Watch};
use crate::store::codec::Xattrs;
use crate::store::fault;
use crate::types::{Errno, Kind, Path};

/// Bytes that are copied at once.
const PIECE: u64 = 256 << 10;

/// Writes the temporary files of one plan.
pub(super) struct Temps<'a> {
    pub root: &'a Root,
    pub plan: &'a Plan,
    pub states: &'a mut Vec<State>,
    pub source: &'a dyn Source,
    pub watch: &'a mut dyn Watch,
    pub notes: Vec<Note>,
    pub progress: Progress,
}

/// The attributes that a step's result must have; `None` if they are to stay as they are.
pub(super) fn xattrs_of<'a>(step: &Step, meta: &'a Meta, old: &'a Xattrs) -> Option<&'a Xattrs> {
    match &meta.xattrs {
        Some(list) => Some(list),
        None => step.swaps_in().then_some(old),
    }
}

/// The kind of what a step makes of its own.
fn kind(make: &Make) -> Option<Kind> {
    match make {
        Make::File { .. } => Some(Kind::File),
        Make::Symlink { .. } => Some(Kind::Symlink),
        Make::Dir { .. } => Some(Kind::Dir),
        Make::Special { kind, .. } => Some(*kind),
        Make::Remove | Make::Keep | Make::Meta { .. } | Make::Link { .. } => None,
    }
}

pub(super) fn base(what: &'static str, path: &Path) -> impl Fn(Os) -> Error + use<> {
    let path = path.clone();
    move |errno| Error::Base { what, path: path.clone(), errno: errno.into() }
}

impl Temps<'_> {
    /// Writes all of them. After an error [`remove`] takes away what is there.
    pub fn write(&mut self, order: &[usize]) -> Result<()> {
        let plan = self.plan;
        let by_path = plan.by_path();
        let steps = || order.iter().filter_map(|&at| Some((at, plan.steps.get(at)?))).filter(|(_, s)| s.swaps_in());
        let total = steps().count() as u64;
        self.progress = Progress { stage: Stage::Write, done: 0, total, bytes: 0 };
        for (at, step) in steps().filter(|(_, step)| !matches!(step.make, Make::Link { .. })) {
            self.begin(step)?;
            self.make(at, step)?;
            self.step_done();
        }
        let mut probed = false;
        for (at, step) in steps() {
            let Make::Link { to } = &step.make else { continue };
            self.begin(step)?;
            let target =
                by_path.get(to.as_bytes()).copied().filter(|&to| plan.steps.get(to).is_some_and(Step::swaps_in));
            match target {
                Some(target) => self.link(at, target, step)?,
                None if !probed => self.probe(at, step)?,
                None => {}
            }
            probed |= target.is_none();
            self.step_done();
        }
        // All data is on its way to the disk by now, so that these do not wait for one another.
        for (at, step) in steps() {
            if let Make::File { meta, .. } = &step.make {
                self.check_cancelled()?;
                self.finish_file(at, step, meta)?;
            }
        }
        let dirs: BTreeSet<Path> = self.states.iter().filter_map(|s| Some(s.temp.as_ref()?.dir.clone())).collect();
        sync::sync(self.root, &dirs)
    }

    fn begin(&mut self, step: &Step) -> Result<()> {
        self.check_cancelled()?;
        fault::point("apply.temp", || failed("write", step.path.to_string(), libc::ENOSPC))?;
        Ok(())
    }

    fn step_done(&mut self) {
        self.progress.done += 1;
        self.watch.progress(self.progress);
    }

    fn check_cancelled(&self) -> Result<()> {
        if self.watch.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn temp_path(&self, at: usize) -> Path {
        self.states.get(at).and_then(|s| s.temp_path(self.plan.id, at)).unwrap_or_default()
    }

    fn slot(&self, at: usize) -> Result<Slot> {
        let path = self.temp_path(at);
        self.root.slot(&path).map_err(base("open the directory of", &path))
    }

    /// What making a temporary file failed with.
    fn not_made(&self, at: usize, what: &'static str, step: &Step) -> impl FnOnce(Os) -> Error + use<> {
        let (temp, fail) = (self.temp_path(at), base(what, &step.path));
        move |errno| if errno == Os::EXIST { Error::InTheWay { path: temp } } else { fail(errno) }
    }

    /// Notes what was made, so that exactly this is taken away again.
    fn made(&mut self, at: usize, slot: &Slot, step: &Step) -> Result<Seen> {
        let look = slot.look().and_then(|look| look.ok_or(Os::NOENT));
        let seen = look.map_err(base("look at the new", &step.path))?.seen;
        if let Some(State { temp: Some(temp), .. }) = self.states.get_mut(at) {
            temp.made = Some(seen);
        }
        Ok(seen)
    }

    fn make(&mut self, at: usize, step: &Step) -> Result<()> {
        let path = &step.path;
        let slot = self.slot(at)?;
        let not_made = self.not_made(at, "make", step);
        match &step.make {
            Make::File { content, .. } => {
                let file = slot.make_file().map_err(not_made)?;
                self.made(at, &slot, step)?;
                self.copy(&file, *content, path)?;
            }
            Make::Symlink { target, .. } => slot.make_symlink(target).map_err(not_made)?,
            Make::Dir { .. } => slot.make_dir().map_err(not_made)?,
            Make::Special { kind, rdev, .. } => slot.make_special(*kind, *rdev).map_err(not_made)?,
            Make::Remove | Make::Keep | Make::Meta { .. } | Make::Link { .. } => return Ok(()),
        }
        let seen = self.made(at, &slot, step)?;
        let Some(meta) = step.make.meta() else { return Ok(()) };
        let node = slot.node().map_err(base("open", path))?;
        let old = self.old_xattrs(step, seen.kind)?;
        let notes = &mut self.notes;
        let mut lost = |lost| notes.push(Note { path: path.clone(), lost });
        let fail = base("set attributes of", path);
        node.set_owner_and_xattrs(meta, xattrs_of(step, meta, &old), &mut lost).map_err(&fail)?;
        // The mode of files follows in `finish_file`, that of directories when everything is in them.
        if !matches!(seen.kind, Kind::File | Kind::Dir) {
            node.set_mode_and_times(seen.kind, meta, &mut lost).map_err(&fail)?;
            self.made(at, &slot, step)?;
        }
        Ok(())
    }

    /// The attributes of what a file of the same type takes the place of.
    fn old_xattrs(&self, step: &Step, kind: Kind) -> Result<Xattrs> {
        let wanted = step.make.meta().is_some_and(|m| m.xattrs.is_none());
        if !wanted || step.expect.seen().is_none_or(|seen| seen.kind != kind) {
            return Ok(Xattrs::new());
        }
        self.root.node(&step.path).and_then(|node| node.xattrs()).map_err(base("read attributes of", &step.path))
    }

    fn copy(&mut self, file: &File, content: ContentId, path: &Path) -> Result<()> {
        let read = |errno| Error::Content { path: path.clone(), errno };
        let write = |e: std::io::Error| Error::Base { what: "write", path: path.clone(), errno: Errno::from_io(&e) };
        let content = self.source.open(content).map_err(read)?;
        let size = content.size();
        let mut buffer = vec![0; PIECE.min(size) as usize];
        let mut at = 0;
        while at < size
            && let Some(data) = content.next_data(at).map_err(read)?
        {
            let end = data.end().min(size);
            at = at.max(data.offset);
            if at >= end {
                break;
            }
            while at < end {
                self.check_cancelled()?;
                let want = PIECE.min(end - at) as usize;
                let piece = buffer.get_mut(..want).unwrap_or_default();
                if content.read_at(at, piece).map_err(read)? != want {
                    // Shorter than it said: not what was planned.
                    return Err(read(Errno::EIO));
                }
                file.write_all_at(piece, at).map_err(write)?;
                at += want as u64;
                self.progress.bytes += want as u64;
                self.watch.progress(self.progress);
            }
        }
        file.set_len(size).map_err(write)?;
        // Begins to write it out; whether that worked is known from fsync.
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
        Ok(())
    }

    /// The last of a regular file: mode and times, and the disk has it.
    fn finish_file(&mut self, at: usize, step: &Step, meta: &Meta) -> Result<()> {
        let path = &step.path;
        let slot = self.slot(at)?;
        let node = slot.node().map_err(base("open", path))?;
        // Opened before the mode may forbid it.
        let file = slot.open().map_err(base("open", path))?;
        let notes = &mut self.notes;
        node.set_mode_and_times(Kind::File, meta, |lost| notes.push(Note { path: path.clone(), lost }))
            .map_err(base("set attributes of", path))?;
        rustix::fs::fsync(&file).map_err(base("sync", path))?;
        self.made(at, &slot, step)?;
        Ok(())
    }

    /// Another name of something that was made here.
    fn link(&mut self, at: usize, target: usize, step: &Step) -> Result<()> {
        let node = self.slot(target)?.node().map_err(base("open the target of", &step.path))?;
        let slot = self.slot(at)?;
        slot.make_link(&node).map_err(self.not_made(at, "link", step))?;
        self.made(at, &slot, step)?;
        Ok(())
    }

    /// Fails if there are no hard links, which would come to light in the middle of the commit otherwise: files of the base that get
    /// another name are not touched before.
    fn probe(&mut self, at: usize, step: &Step) -> Result<()> {
        let slot = self.slot(at)?;
        let Some(path) = self.states.get(at).and_then(|state| probe_path(self.plan, state)) else { return Ok(()) };
        let other = self.root.slot(&path).map_err(base("open the directory of", &path))?;
        slot.make_file().map_err(self.not_made(at, "link", step))?;
        let linked = slot.node().and_then(|node| other.make_link(&node));
        let removed = if linked.is_ok() { other.remove(Kind::File) } else { Ok(()) };
        let removed = slot.remove(Kind::File).and(removed);
        linked.and(removed).map_err(base("make another name of a file for", &step.path))
    }
}

/// Where it is tried whether the file system has hard links.
fn probe_path(plan: &Plan, state: &State) -> Option<Path> {
    Some(state.temp.as_ref()?.dir.join(format!(".regentfs-{}-link.tmp", plan.id).as_bytes()))
}

/// Takes all temporary files away from before the commit, when nothing else has been changed. Those of this process are known exactly;
/// after a crash (`crashed`), what has such a name and is of the kind that would have been made.
pub(super) fn remove(root: &Root, journal: &Journal, crashed: bool) -> Result<()> {
    let plan = &journal.plan;
    let by_path = plan.by_path();
    let mut dirs = BTreeSet::new();
    for ((at, step), state) in plan.steps.iter().enumerate().zip(&journal.states) {
        let Some((temp, path)) = state.temp.as_ref().zip(state.temp_path(plan.id, at)) else { continue };
        let expected = match &step.make {
            Make::Link { to } => {
                let target = by_path.get(to.as_bytes()).and_then(|&to| plan.steps.get(to)).filter(|s| s.swaps_in());
                if let (true, None, Some(probe)) = (crashed, target, probe_path(plan, state)) {
                    remove_if(root, &probe, |seen| seen.kind == Kind::File)?;
                }
                // What is in the base already has no second name yet; at most it was tried with an empty file.
                target.map_or(Some(Kind::File), |target| kind(&target.make))
            }
            make => kind(make),
        };
        remove_if(root, &path, |seen| match &temp.made {
            Some(made) => made.same_file(seen),
            None => crashed && Some(seen.kind) == expected,
        })?;
        dirs.insert(temp.dir.clone());
    }
    sync::sync(root, &dirs)
}

/// Takes away what a commit left: temporary files of steps that could not be done. `identity` says what a step's is. Returns those
/// that are something else, which stay.
pub(super) fn clean(root: &Root, journal: &Journal, identity: impl Fn(usize) -> Option<Seen>) -> Result<Vec<Path>> {
    let (mut strange, mut dirs) = (Vec::new(), BTreeSet::new());
    for (at, state) in journal.states.iter().enumerate() {
        let Some(path) = state.temp_path(journal.plan.id, at) else { continue };
        if remove_if(root, &path, |seen| identity(at).is_some_and(|made| made.same_file(seen)))? {
            dirs.extend(path.split_last().map(|(dir, _)| dir));
        } else {
            strange.push(path);
        }
    }
    sync::sync(root, &dirs)?;
    Ok(strange)
}

/// Removes what is at a path if it is apply's; false if something stays there.
fn remove_if(root: &Root, path: &Path, ours: impl Fn(&Seen) -> bool) -> Result<bool> {
    let gone = || -> Result<bool, Os> {
        let slot = root.slot(path)?;
        let Some(found) = slot.look()? else { return Ok(true) };
        if ours(&found.seen) { slot.remove(found.seen.kind).map(|()| true) } else { Ok(false) }
    };
    match gone() {
        Err(Os::NOENT | Os::NOTDIR | Os::LOOP) => Ok(true),
        Err(Os::NOTEMPTY) => Ok(false),
        other => other.map_err(base("remove", path)),
    }
}
