//! Questions to the record: events, read-sets, processes. Works on a store alone; knows no daemon, no socket, no terminal.
//!
//! Rows are the objects of docs/JSON.md. They go to a sink one by one, so that a long record needs no memory.

pub mod actors;
pub mod chosen;
pub mod events;
pub mod glob;
mod lines;
pub mod log;
pub mod prompts;
pub mod ps;
pub mod reads;
pub mod rows;
pub mod steps;
pub mod story;
pub mod time;
pub mod watch;
pub mod who;

use std::ops::ControlFlow;

use crate::store::StoreError;
use crate::types::event::ContentRef;
use crate::types::{Ino, Op, Path};

pub use events::{EventFilter, events, last_seq};
pub use glob::PathGlob;
pub use log::{LogFilter, log, sessions};
pub use ps::{PsFilter, ps};
pub use reads::{ReadsFilter, reads};
pub use rows::{BlameRow, EventRow, ImageRow, ProcessRow, PsRow, ReadRow, SeenRow, SessionRow, StepRow, StoryRow};
pub use watch::{WatchFilter, WatchRow};

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Filter(String),
}

pub type Result<T, E = QueryError> = std::result::Result<T, E>;

/// Takes rows; `Break` ends the query.
pub type Sink<'a, R> = &'a mut dyn FnMut(R) -> ControlFlow<()>;

/// What is known of bytes that the record refers to. `path` is where the file was at that time.
pub trait Contents {
    /// The blake3 hash; `None` when these bytes are gone.
    fn hash(&self, ino: Ino, content: ContentRef, path: &Path) -> Option<[u8; 32]>;

    /// The size in bytes: of exactly these bytes, or else of what the file has now; `None` when the file is gone.
    fn size(&self, ino: Ino, content: ContentRef, path: &Path) -> Option<Size>;
}

/// A size, and whether it is that of the very bytes that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Exact(u64),
    Now(u64),
}

/// For questions that do not need bytes: knows nothing of them.
pub struct NoContents;

impl Contents for NoContents {
    fn hash(&self, _ino: Ino, _content: ContentRef, _path: &Path) -> Option<[u8; 32]> {
        None
    }

    fn size(&self, _ino: Ino, _content: ContentRef, _path: &Path) -> Option<Size> {
        None
    }
}

/// The largest file size: stands for "to the end" of a file whose size is not known any more.
pub const UNKNOWN_END: u64 = i64::MAX as u64;

/// Whether the ranges of such an event are bytes that its process saw, or may have seen.
pub(crate) fn sees(op: Op) -> bool {
    matches!(op, Op::Open | Op::Read | Op::Exec | Op::Inherit)
}

/// Whether such an event makes or changes a file's bytes.
pub(crate) fn changes(op: Op) -> bool {
    matches!(op, Op::Write | Op::Truncate | Op::Fallocate | Op::Copy | Op::Create | Op::Mknod | Op::Symlink)
}

/// Which bytes an event is about: those before it, if it says so, otherwise those after it.
pub(crate) fn seen_content(note: &crate::types::Note) -> ContentRef {
    if note.before == ContentRef::default() { note.after } else { note.before }
}
