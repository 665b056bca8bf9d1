//! One step of a commit: looks at the base again and puts something in place, takes something out, or changes metadata.
//!
//! Every function here can be called again after a crash at any point of itself, and then finishes or finds that nothing is left to do.
//! What is in between is told by the files: which of them are at the path and at the step's temporary name. What comes out of an
//! exchange is looked at before it goes; if it is not what the plan expected, it is put back.

use rustix::io::Errno;

use super::commit::Commit;
use super::journal::failed;
use super::node::Node;
use super::plan::{Expect, Make, Meta, Seen, Step};
use super::temps::xattrs_of;
use super::writer::{Look, Slot};
use super::{Found, Note};
use crate::store::codec::Xattrs;
use crate::store::{StoreError, fault};
use crate::types::Kind;

/// Others may move things under our hands; so often it is looked at again.
const TRIES: usize = 8;

/// Why a step was not done.
pub(super) enum Stop {
    /// The base is not as expected, or will not have it. The rest goes on.
    Conflict(Found),
    /// A full disk, an I/O error: nothing goes on, the journal stays.
    Failed(Errno),
    Store(StoreError),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Stop {
        match errno {
            Errno::NOSPC
            | Errno::DQUOT
            | Errno::IO
            | Errno::NOMEM
            | Errno::NFILE
            | Errno::MFILE
            | Errno::INTR
            | Errno::ROFS => Stop::Failed(errno),
            errno => Stop::Conflict(Found::Refused(errno.into())),
        }
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Stop {
        Stop::Store(error)
    }
}

pub(super) type Done = Result<(), Stop>;

fn conflict(found: Option<Look>) -> Stop {
    Stop::Conflict(found.map_or(Found::Nothing, |look| Found::Is(look.seen)))
}

fn refused(errno: Errno) -> Stop {
    Stop::Conflict(Found::Refused(errno.into()))
}

/// In the middle of a step.
fn half(step: &Step) -> Result<(), StoreError> {
    fault::point("apply.step.half", || failed("apply", step.path.to_string(), libc::EIO))
}

impl Commit<'_> {
    /// The path's name in its directory; if the plan is about the directory, in that one and no other.
    fn place(&self, step: &Step) -> Result<Slot, Stop> {
        let slot = self.root.slot(&step.path)?;
        let parent = step.path.split_last().and_then(|(dir, _)| self.step_at(&dir));
        if let Some(expected) = parent.and_then(|at| self.directory(at)) {
            let found = slot.look_at_dir()?.seen;
            if !expected.same_file(&found) {
                return Err(Stop::Conflict(Found::Blocked));
            }
        }
        Ok(slot)
    }

    fn aside(&self, at: usize) -> Result<Slot, Stop> {
        let path = self.temp_path(at).ok_or(Stop::Conflict(Found::Blocked))?;
        Ok(self.root.slot(&path)?)
    }

    /// Whether the temporary file is as it was made.
    fn intact(step: &Step, new: &Seen, found: &Seen) -> bool {
        let whole = !matches!(step.make, Make::File { .. }) || new.size == found.size && new.mtime == found.mtime;
        new.same_file(found) && whole
    }

    /// Puts what has been prepared in place.
    pub(super) fn swap_in(&self, at: usize, step: &Step) -> Done {
        let new = self.identity(at).ok_or(Stop::Conflict(Found::Blocked))?;
        let (place, aside) = (self.place(step)?, self.aside(at)?);
        for _ in 0..TRIES {
            let (now, out) = (place.look()?, aside.look()?);
            if now.is_some_and(|now| new.same_file(&now.seen)) {
                return match out {
                    Some(out) => self.let_go(step, &new, &place, &aside, &out),
                    None => Ok(()),
                };
            }
            let ready = out.is_some_and(|out| Self::intact(step, &new, &out.seen));
            match (&step.expect, now) {
                (Expect::Nothing, Some(_)) => return Err(conflict(now)),
                // Someone took away what was prepared.
                (Expect::Nothing, None) if !ready => return Err(Stop::Conflict(Found::Blocked)),
                (Expect::Nothing, None) => self.put(&aside, &place, new.kind)?,
                (Expect::Is(old), Some(seen)) if self.is(old, &seen.seen, true) => {
                    if !ready {
                        return Err(Stop::Conflict(Found::Blocked));
                    }
                    match aside.exchange(&place) {
                        Ok(()) => half(step)?,
                        Err(Errno::NOENT) => {}
                        // overlayfs does not move directories of its lower layers.
                        Err(Errno::INVAL | Errno::XDEV) => self.replace(step, &aside, &place, old.kind, new.kind)?,
                        Err(e) => return Err(e.into()),
                    }
                }
                // A crash between the two halves of `replace`.
                (Expect::Is(old), None) if ready && self.resumed && takes_two(old.kind, new.kind) => {
                    self.put(&aside, &place, new.kind)?;
                }
                (Expect::Is(old), _) => {
                    // The old is out already, and somebody has replaced the new.
                    if let Some(out) = out.filter(|out| self.is(old, &out.seen, false)) {
                        match aside.remove(out.seen.kind) {
                            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => {}
                            Err(e) => return Err(e.into()),
                        }
                    }
                    return Err(conflict(now));
                }
            }
        }
        Err(refused(Errno::AGAIN))
    }

    /// Moves to a free name. That it is not free, or that there is nothing to move, shows at the next look.
    fn put(&self, from: &Slot, to: &Slot, kind: Kind) -> Done {
        match from.put_at_free(to, kind) {
            Ok(()) | Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Without an exchange: between the look and this, something unexpected can take the name and be lost.
    fn replace(&self, step: &Step, aside: &Slot, place: &Slot, old: Kind, new: Kind) -> Done {
        if takes_two(old, new) {
            place.remove(old)?;
            half(step)?;
            return self.put(aside, place, new);
        }
        Ok(aside.move_over(place)?)
    }

    /// The new is in place, and something is still at the temporary name: what was there before, which may go.
    fn let_go(&self, step: &Step, new: &Seen, place: &Slot, aside: &Slot, out: &Look) -> Done {
        if new.same_file(&out.seen) {
            // Both names of it, where moving takes a link.
            return Ok(aside.remove(new.kind)?);
        }
        let expected = step.expect.seen().is_some_and(|old| self.is(old, &out.seen, false));
        let refused = match expected.then(|| aside.remove(out.seen.kind)) {
            Some(Ok(()) | Err(Errno::NOENT)) => return Ok(()),
            // A directory in which something has been made, for one.
            Some(Err(e)) => match Stop::from(e) {
                Stop::Conflict(found) => Some(found),
                stop => return Err(stop),
            },
            None => None,
        };
        // If not even this works, it stays under the temporary name, where nobody deletes it.
        place.exchange(aside)?;
        match refused {
            Some(found) => Err(Stop::Conflict(found)),
            None => Err(conflict(place.look()?)),
        }
    }

    /// Takes something out that is no directory.
    pub(super) fn take_out(&self, at: usize, step: &Step, old: &Seen) -> Done {
        let (place, aside) = (self.place(step)?, self.aside(at)?);
        for _ in 0..TRIES {
            match (place.look()?, aside.look()?) {
                (None, None) => return Ok(()),
                (None, Some(out)) if self.is(old, &out.seen, false) => return Ok(aside.remove(out.seen.kind)?),
                (None, Some(out)) => {
                    self.put(&aside, &place, out.seen.kind)?;
                    return Err(conflict(place.look()?));
                }
                (Some(now), None) if self.is(old, &now.seen, true) => match place.move_to_free(&aside) {
                    Ok(()) => half(step)?,
                    Err(Errno::EXIST | Errno::NOENT) => {}
                    Err(Errno::INVAL) => return Ok(place.remove(now.seen.kind)?),
                    Err(e) => return Err(e.into()),
                },
                // Ours is out, and something new has come.
                (Some(now), Some(out)) if !now.seen.same_inode(&out.seen) && self.is(old, &out.seen, false) => {
                    aside.remove(out.seen.kind)?;
                    return Err(conflict(Some(now)));
                }
                (now, _) => return Err(conflict(now)),
            }
        }
        Err(refused(Errno::AGAIN))
    }

    pub(super) fn remove_dir(&self, step: &Step, old: &Seen) -> Done {
        let place = self.place(step)?;
        match place.look()? {
            None => Ok(()),
            // Only an empty one goes, so there is no race to lose.
            Some(now) if self.is(old, &now.seen, true) => Ok(place.remove(Kind::Dir)?),
            now => Err(conflict(now)),
        }
    }

    /// New metadata for what is there. After a crash it may be half done: everything is what it was or what it is to be.
    pub(super) fn meta(&self, at: usize, step: &Step, old: &Seen, meta: &Meta, notes: &mut Vec<Note>) -> Done {
        let node = self.place(step)?.node()?;
        let now = node.look()?;
        if !self.is(old, &now.seen, true) {
            let same = old.same_inode(&now.seen) && old.size == now.seen.size;
            if same && node.has(meta)? {
                return Ok(());
            }
            if !same || !self.resumed || !self.half_made(at, old, meta, &now) {
                return Err(conflict(Some(now)));
            }
        }
        self.set(&node, step, now.seen.kind, meta, notes)
    }

    /// Whether the mode may be half way between two. The group's bits are left out, since ACLs change them; so are set-id bits,
    /// which go when the owner changes.
    fn half_made(&self, at: usize, old: &Seen, meta: &Meta, now: &Look) -> bool {
        let Some(was) = self.was(at) else { return false };
        let perm = |perm: u16| now.perm & 0o1507 == perm & 0o1507 || now.seen.kind == Kind::Symlink;
        (now.seen.mtime == old.mtime || now.seen.mtime == meta.mtime)
            && (now.uid == was.uid || now.uid == meta.uid)
            && (now.gid == was.gid || now.gid == meta.gid)
            && (perm(was.perm) || perm(meta.perm))
    }

    /// Sets everything of `meta`.
    pub(super) fn set(&self, node: &Node, step: &Step, kind: Kind, meta: &Meta, notes: &mut Vec<Note>) -> Done {
        let mut lost = |lost| notes.push(Note { path: step.path.clone(), lost });
        let none = Xattrs::new();
        match node.set_owner_and_xattrs(meta, xattrs_of(step, meta, &none), &mut lost) {
            // An attribute that is too large says the same: waiting for room would be for ever.
            Err(Errno::NOSPC) if meta.xattrs.as_ref().is_some_and(|list| !list.is_empty()) => {
                return Err(refused(Errno::NOSPC));
            }
            other => other?,
        }
        half(step)?;
        Ok(node.set_mode_and_times(kind, meta, &mut lost)?)
    }

    /// Gives a file of the base, which a later step may remove, its second name, yet under the temporary one.
    pub(super) fn link_aside(&self, at: usize, step: &Step, target: &Step, old: &Seen) -> Done {
        if self.root.look(&step.path).ok().flatten().is_some_and(|now| now.seen.same_inode(old)) {
            return Ok(());
        }
        let aside = self.aside(at)?;
        match aside.look()? {
            Some(out) if out.seen.same_inode(old) => return Ok(()),
            // What the new name takes the place of: exchanged already.
            Some(out) if step.expect.seen().is_some_and(|e| self.is(e, &out.seen, false)) => return Ok(()),
            Some(_) => return Err(refused(Errno::EXIST)),
            None => {}
        }
        let node = self.place(target)?.node()?;
        let found = node.look()?;
        if !self.is(old, &found.seen, true) {
            return Err(Stop::Conflict(Found::Blocked));
        }
        Ok(aside.make_link(&node)?)
    }
}

/// Whether rename(2) cannot put the one in the place of the other.
fn takes_two(old: Kind, new: Kind) -> bool {
    (old == Kind::Dir) != (new == Kind::Dir)
}
