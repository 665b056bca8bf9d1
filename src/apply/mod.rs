//! `apply`: the one place that changes the base, from a complete plan and so that a crash never leaves it in between.
//!
//! It knows the base only as a directory ([`Root`]) and the overlay not at all: what is to be made comes as a [`Plan`], bytes through a
//! [`Source`], and what is about to be destroyed goes to a [`Keeper`] first. docs/FORMAT.md describes the journal and what a crash costs.
//!
//! The way: [`prepare`] compares every path with what the plan expects and refuses if anything differs; writes the journal; writes all
//! that is new under temporary names. [`Ready::commit`] is the point of no return: from there on the work is finished, by it or by
//! [`resume`]. The caller then makes its own state durable and calls [`finish`]. Between [`prepare`] and [`finish`] the caller holds the
//! store's lock.

mod add;
mod codec;
mod commit;
mod journal;
mod node;
mod plan;
mod prepare;
mod swap;
mod sync;
mod temps;
mod verify;
mod writer;

use std::fs::File;
use std::path::Path as FsPath;

use crate::store::StoreError;
use crate::types::{Errno, Path, Range};

pub use add::{Addition, There, add};
pub use codec::{get_plan, put_plan};
pub use commit::finish;
pub use journal::{FILE as JOURNAL, NEW as JOURNAL_NEW};
pub use node::Lost;
pub use plan::{ByPath, ContentId, Contradiction, Expect, Make, Meta, Plan, Seen, Step};
pub use prepare::{Prepared, Ready, prepare, resume};
pub use writer::Root;

/// What can go wrong. Unless it is [`Error::Unfinished`], the base is as it was, but for the times of directories.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {what} {path} in the repository: {errno}")]
    Base { what: &'static str, path: Path, errno: Errno },
    #[error("cannot read the new bytes of {path}: {errno}")]
    Content { path: Path, errno: Errno },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Plan(#[from] Contradiction),
    #[error("cancelled: the repository is as it was")]
    Cancelled,
    #[error("an earlier apply was not finished: finish it first")]
    Pending,
    #[error("the journal of an unfinished apply belongs to another repository: give that one")]
    OtherRoot,
    #[error("{path} is in the way in the repository, left over by an apply: remove it")]
    InTheWay { path: Path },
    #[error("{path} in the repository was changed meanwhile by somebody else: nothing was done; try again")]
    Moved { path: Path },
    /// The journal is still there. [`resume`] finishes the work, or undoes it if it had not begun.
    #[error("the apply was interrupted and is to be finished: {0}")]
    Unfinished(Box<Error>),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The store, where the journal is, and the base.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    pub store: &'a FsPath,
    pub root: &'a Root,
}

/// Gives the bytes of what the plan makes.
pub trait Source {
    fn open(&self, content: ContentId) -> Result<Box<dyn Content + '_>, Errno>;
}

/// The bytes of one file; they do not change while it is open.
pub trait Content {
    /// In bytes.
    fn size(&self) -> u64;
    /// Reads at `offset`; fewer bytes than asked for only at the end.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<usize, Errno>;
    /// The first range at or after `offset` that is no hole; `None` when there is none before the end.
    fn next_data(&self, offset: u64) -> Result<Option<Range>, Errno>;
}

/// What a step is about to destroy.
pub struct Old<'a> {
    pub seen: &'a Seen,
    /// Its list of extended attributes is never `None`; those of security modules are not in it.
    pub meta: &'a Meta,
    /// Of a device, in the kernel's 32-bit encoding.
    pub rdev: u32,
    /// The target of a symbolic link.
    pub target: Option<&'a [u8]>,
    /// A regular file, for reading, if its bytes go. They may stay behind another name.
    pub file: Option<&'a File>,
}

/// Keeps what steps destroy, before anything happens. What it kept for an apply that is then refused, fails or is rolled back is of
/// no use: throwing it away is the caller's.
pub trait Keeper {
    /// `step` is the number of the step in the plan. Durable when it returns.
    fn keep(&mut self, step: usize, old: &Old<'_>) -> Result<(), StoreError>;
}

/// What apply is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Comparing the base with the plan.
    Verify,
    /// Keeping what goes.
    Keep,
    /// Writing what comes, under temporary names.
    Write,
    /// Making it so.
    Commit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub stage: Stage,
    /// Steps of this stage that are done, of `total`.
    pub done: u64,
    pub total: u64,
    /// Bytes written into the base so far.
    pub bytes: u64,
}

/// Follows an apply and may end it.
pub trait Watch {
    fn progress(&mut self, _progress: Progress) {}

    /// Asked until the commit begins, also between pieces of a file.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody watches.
impl Watch for () {}

/// Why a path was left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing is there.
    Nothing,
    /// Something else is there, or it was changed.
    Is(Seen),
    /// It could not be looked at or not be changed.
    Refused(Errno),
    /// A step that this one depends on was not done.
    Blocked,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub path: Path,
    pub expected: Expect,
    pub found: Found,
}

/// A step that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its number in the plan.
    pub step: usize,
    /// What is at its path now; `None` after a removal.
    pub seen: Option<Seen>,
}

/// Something that could not be made as the plan has it, though the step counts as done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub path: Path,
    pub lost: Lost,
}

/// What came of a commit. Every step of the plan is either in `done` or in `conflicts`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub done: Vec<Made>,
    /// What changed in the base since it was compared, in the moment before or while the machine was down.
    pub conflicts: Vec<Conflict>,
    /// After a crash only those of the commit itself.
    pub notes: Vec<Note>,
}

/// What [`resume`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// Nothing had been changed: it was undone, and its journal is gone.
    RolledBack { plan: Plan },
    /// It is done now. The caller goes on as after [`Ready::commit`], though it may have gone on before: then again.
    Committed { plan: Plan, outcome: Outcome },
}

/// What [`apply`] came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The base is not what the plan expects; nothing was done.
    Refused(Vec<Conflict>),
    Done(Outcome),
}

/// [`prepare`] and [`Ready::commit`] at once.
pub fn apply(
    site: Site<'_>,
    plan: Plan,
    source: &dyn Source,
    keeper: &mut dyn Keeper,
    watch: &mut dyn Watch,
) -> Result<Applied> {
    match prepare(site, plan, source, keeper, watch)? {
        Prepared::Refused(conflicts) => Ok(Applied::Refused(conflicts)),
        Prepared::Ready(ready) => ready.commit(watch).map(Applied::Done),
    }
}
