//! What can be asked of a daemon, and answering what needs only the store and the overlay: the daemon's server and the
//! command line on an unmounted store share [`dispatch`].

use std::cell::RefCell;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

pub use super::candidates::{Between, CandidateRow};
use super::contents::OverlayContents;
pub use super::requests::{
    Apply, Bring, Export, Gc, Merge, MountRequest, Rewind, SnapshotsFilter, TimelineRequest, Undo,
};
use super::steps::{BlameFilter, Revert};
use super::{candidates, steps, time};
use crate::diff::{self, DiffError, DiffFilter, DiffRow};
use crate::overlay::view::View;
use crate::overlay::{Overlay, Shown};
use crate::query::{
    self, BlameRow, EventFilter, EventRow, LogFilter, PsFilter, PsRow, QueryError, ReadRow, ReadsFilter, SessionRow,
    StepRow, StoryRow, WatchFilter, WatchRow,
};
use crate::store::{Store, StoreError, history};
use crate::timeline::rows::{BranchRow, ExportRow, GcRow, KnownRow, MovedRow, PathRow, SnapshotRow, TimelineRow};
use crate::timeline::{limits, spec};
use crate::types::Seq;

/// The socket's name in the store's directory.
pub const SOCKET: &str = "control.sock";

/// One line from the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Status,
    Diff(DiffFilter),
    Ps(PsFilter),
    Sessions,
    Log(LogFilter),
    Blame(BlameFilter),
    /// All that is known of a step, by its name.
    Story(String),
    Events {
        filter: EventFilter,
        follow: bool,
    },
    Reads(ReadsFilter),
    /// Steps as they happen, until the client goes away.
    Watch(WatchFilter),
    /// `lazy` detaches even while it is in use.
    Unmount {
        lazy: bool,
        /// Only this mount, by its mountpoint in hexadecimal; all of them otherwise.
        #[serde(default)]
        at: Option<String>,
    },
    Mount(MountRequest),
    Timeline(TimelineRequest),
    /// Write everything that was seen so far to the record.
    Flush,
    Snapshot {
        label: Option<String>,
    },
    Snapshots(SnapshotsFilter),
    /// The states between two points in time.
    Candidates(Between),
    /// One file's bytes as they were at a point in time.
    Cat {
        at: String,
        /// Relative to the root, in hexadecimal.
        path: String,
    },
    Rewind(Rewind),
    /// The tree as it is on disk.
    Discard {
        dry_run: bool,
    },
    Undo(Undo),
    Apply(Apply),
    Merge(Merge),
    Revert(Revert),
    Export(Export),
    /// Commits that were made in the mount, as a branch of the repository on disk.
    Bring(Bring),
    Gc(Gc),
}

impl Request {
    /// What goes on meanwhile, for people who wait.
    pub fn what(&self) -> &'static str {
        match self {
            Request::Rewind(_) => "rewinding",
            Request::Discard { .. } => "discarding",
            Request::Undo(undo) if undo.redo => "doing again",
            Request::Undo(_) => "taking back",
            Request::Apply(_) => "applying",
            Request::Gc(_) => "collecting",
            Request::Timeline(TimelineRequest::Switch { .. }) => "switching",
            _ => "working",
        }
    }

    /// Whether it changes the tree or its history.
    pub fn moves(&self) -> bool {
        matches!(
            self,
            Request::Snapshot { .. }
                | Request::Rewind(_)
                | Request::Discard { .. }
                | Request::Undo(_)
                | Request::Apply(_)
                | Request::Merge(_)
                | Request::Revert(_)
                | Request::Export(_)
                | Request::Bring(_)
                | Request::Timeline(_)
                | Request::Gc(_)
        ) || matches!(self, Request::Diff(filter) if !filter.chosen.is_empty())
    }
}

impl Request {
    /// Whether the answer depends on which tree is meant.
    pub fn needs_a_tree(&self) -> bool {
        match self {
            Request::Diff(_)
            | Request::Snapshot { .. }
            | Request::Snapshots(_)
            | Request::Candidates(_)
            | Request::Cat { .. }
            | Request::Rewind(_)
            | Request::Discard { .. }
            | Request::Undo(_)
            | Request::Apply(_)
            | Request::Merge(_)
            | Request::Revert(_)
            | Request::Blame(_)
            | Request::Export(_)
            | Request::Bring(_) => true,
            Request::Timeline(TimelineRequest::Fork { from, .. }) => {
                // Steps back and times are looked up from where one stands.
                from.as_ref().is_none_or(|text| text.starts_with("now") || text.starts_with('@'))
            }
            Request::Status
            | Request::Ps(_)
            | Request::Sessions
            | Request::Log(_)
            | Request::Story(_)
            | Request::Events { .. }
            | Request::Reads(_)
            | Request::Watch(_)
            | Request::Unmount { .. }
            | Request::Mount(_)
            | Request::Timeline(_)
            | Request::Gc(_)
            | Request::Flush => false,
        }
    }
}

/// A request, and which of the daemon's mounts it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The mountpoint in hexadecimal.
    pub about: String,
    pub request: Request,
}

/// A piece of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BytesRow {
    pub hex: String,
}

/// How far something is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressRow {
    /// For people.
    pub what: String,
    pub done: u64,
    /// 0 if that is not known.
    pub total: u64,
    pub bytes: u64,
}

/// One line from the daemon: rows, then `done` or `error`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response<R> {
    Row(R),
    /// How far it is; may be ignored.
    Progress(ProgressRow),
    Done(Done),
    Error(Failure),
}

/// How an answer ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Done {
    /// For people: what the rows do not say.
    pub notes: Vec<String>,
    /// The number of the next event, after `events`.
    pub next_seq: Option<u64>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub message: String,
    /// The exit code of the command that asked.
    pub exit: u8,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), exit: 1 }
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Failure {
        let exit = match error {
            QueryError::Filter(_) => 2,
            QueryError::Store(_) => 1,
        };
        Failure { message: error.to_string(), exit }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::new(error.to_string())
    }
}

impl From<DiffError> for Failure {
    fn from(error: DiffError) -> Failure {
        Failure::new(error.to_string())
    }
}

/// What `status` shows (docs/JSON.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRow {
    pub mounted: bool,
    pub repo: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo_hex: Option<String>,
    pub mountpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mountpoint_hex: Option<String>,
    pub pid: Option<u32>,
    pub record: Option<String>,
    pub since: Option<String>,
    /// What it shows: a timeline; of a mount that shows a snapshot, the one that this belongs to.
    #[serde(default)]
    pub timeline: String,
    #[serde(default)]
    pub snapshot: Option<String>,
    /// All mounts of the daemon, the primary one first.
    #[serde(default)]
    pub mounts: Vec<MountRow>,
    pub changed_files: u64,
    pub events: u64,
    pub store: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_hex: Option<String>,
    /// Bytes that the store takes on disk, roughly.
    pub store_bytes: u64,
    /// How many it may take before old snapshots go; null for no limit.
    #[serde(default)]
    pub store_max: Option<u64>,
}

/// A mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRow {
    pub mountpoint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mountpoint_hex: Option<String>,
    /// It shows what is shown in place.
    pub primary: bool,
    pub timeline: String,
    /// The snapshot that it shows, read-only; null for a timeline.
    pub snapshot: Option<String>,
    pub record: String,
    pub since: String,
}

/// Any row.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Row {
    Status(StatusRow),
    Diff(DiffRow),
    Ps(PsRow),
    Session(SessionRow),
    Step(StepRow),
    Blame(BlameRow),
    Story(StoryRow),
    Watch(WatchRow),
    Candidate(CandidateRow),
    Event(EventRow),
    Read(ReadRow),
    Snapshot(SnapshotRow),
    Moved(MovedRow),
    Path(PathRow),
    Bytes(BytesRow),
    Export(ExportRow),
    Branch(BranchRow),
    Known(KnownRow),
    Timeline(TimelineRow),
    Mount(MountRow),
    Gc(GcRow),
    Progress(ProgressRow),
}

/// A kind of row, taken out of [`Row`].
pub trait FromRow: Sized {
    fn from_row(row: Row) -> Option<Self>;
}

macro_rules! rows {
    ($($variant:ident($row:ident))*) => {
        $(impl FromRow for $row {
            fn from_row(row: Row) -> Option<$row> {
                match row { Row::$variant(row) => Some(row), _ => None }
            }
        })*
    };
}

rows! {
    Status(StatusRow) Diff(DiffRow) Ps(PsRow) Event(EventRow) Read(ReadRow) Snapshot(SnapshotRow) Moved(MovedRow) Path(PathRow)
    Session(SessionRow) Step(StepRow) Blame(BlameRow) Story(StoryRow) Watch(WatchRow) Candidate(CandidateRow) Bytes(BytesRow) Export(ExportRow) Branch(BranchRow) Known(KnownRow) Timeline(TimelineRow) Mount(MountRow) Gc(GcRow)
}

/// Answers a request that changes nothing. The caller has made the record complete before ([`Request::Flush`]).
///
/// # Errors
/// A filter that cannot be understood, a damaged store; `Status`, `Unmount` and `Flush`, which only a daemon can answer.
/// Following events is the caller's: this sends what is there, and says in `next_seq` where to go on.
pub fn dispatch(
    request: &Request,
    overlay: &Overlay,
    store: &Store,
    sink: &mut dyn FnMut(Row) -> ControlFlow<()>,
) -> Result<Done, Failure> {
    // What is looked at is not collected meanwhile.
    let looks = matches!(
        request,
        Request::Diff(_)
            | Request::Snapshots(_)
            | Request::Candidates(_)
            | Request::Cat { .. }
            | Request::Blame(_)
            | Request::Log(_)
            | Request::Story(_)
            | Request::Sessions
    );
    let _past = looks.then(|| store.past.read());
    match request {
        Request::Diff(filter) if !filter.chosen.is_empty() => {
            Err(Failure::new("what steps changed is put together where the store can be written to"))
        }
        Request::Diff(filter) => {
            let sink = RefCell::new(sink);
            let progress = &mut |done, total| {
                let row = ProgressRow { what: "comparing".to_owned(), done, total, bytes: 0 };
                let _ = (sink.borrow_mut())(Row::Progress(row));
            };
            let rows = &mut |row| (sink.borrow_mut())(Row::Diff(row));
            let notes = match &filter.step {
                Some(step) => steps::diff(overlay, step, filter, rows, progress)?,
                None => {
                    let (from, to) = time::sides(overlay, filter)?;
                    diff::diff(&from, &to, filter, &|_| true, rows, progress)?
                }
            };
            Ok(Done { notes, ..Done::default() })
        }
        Request::Ps(filter) => {
            query::ps(store, filter, &mut |row| sink(Row::Ps(row)))?;
            Ok(Done::default())
        }
        Request::Sessions => steps::sessions(overlay, sink),
        Request::Log(filter) => steps::log(overlay, filter, sink),
        Request::Story(step) => steps::story(overlay, step, sink),
        Request::Blame(filter) => steps::blame(overlay, filter, sink),
        Request::Events { filter, follow: _ } => {
            let contents = OverlayContents::new(overlay);
            let Seq(next) = query::events(store, filter, &contents, &mut |row| sink(Row::Event(row)))?;
            Ok(Done { next_seq: Some(next), ..Done::default() })
        }
        Request::Reads(filter) => {
            let contents = OverlayContents::new(overlay);
            query::reads(store, filter, &contents, &mut |row| sink(Row::Read(row)))?;
            Ok(Done::default())
        }
        Request::Snapshots(filter) => time::snapshots(overlay, filter, sink),
        Request::Candidates(between) => candidates::candidates(overlay, between, sink),
        Request::Cat { at, path } => time::cat(overlay, at, path, sink),
        Request::Status
        | Request::Watch(_)
        | Request::Unmount { .. }
        | Request::Mount(_)
        | Request::Timeline(_)
        | Request::Flush
        | Request::Snapshot { .. }
        | Request::Rewind(_)
        | Request::Discard { .. }
        | Request::Undo(_)
        | Request::Apply(_)
        | Request::Merge(_)
        | Request::Revert(_)
        | Request::Export(_)
        | Request::Bring(_)
        | Request::Gc(_) => {
            Err(Failure::new("only the daemon of a mount can answer this: `regentfs mount` starts one"))
        }
    }
}

/// What an overlay shows: the timeline's name, and the snapshot's where it is one.
///
/// # Errors
/// When the log cannot be read.
pub fn what_is_shown(overlay: &Overlay) -> Result<(String, Option<String>), StoreError> {
    let store = overlay.store();
    let (timeline, snapshot) = match overlay.shown() {
        Shown::Timeline(timeline) => (timeline, None),
        Shown::Past(at) => (at.timeline, Some(spec::name_of(&store.format.id, at.epoch))),
    };
    Ok((history::timeline(&*store.kv, timeline)?.name, snapshot))
}

/// What `status` can say of a store without a daemon.
pub fn offline_status(overlay: &Overlay, store: &Store) -> Result<StatusRow, Failure> {
    use std::os::unix::ffi::OsStrExt;
    let (repo, repo_hex) = query::rows::text(store.format.repo_path().as_os_str().as_bytes());
    let (path, store_hex) = query::rows::text(store.dir.as_os_str().as_bytes());
    Ok(StatusRow {
        mounted: false,
        repo,
        repo_hex,
        mountpoint: None,
        mountpoint_hex: None,
        pid: None,
        record: None,
        since: None,
        timeline: what_is_shown(overlay)?.0,
        snapshot: None,
        mounts: Vec::new(),
        changed_files: diff::count(&View::base(overlay), &View::now(overlay))?,
        events: query::last_seq(store)?.0,
        store: path,
        store_hex,
        store_bytes: store.disk_bytes()?,
        store_max: limits::from_environment(|name| std::env::var(name).ok()).0.max_size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_documented() {
        let request = Request::Events { filter: EventFilter { pid: Some(7), ..EventFilter::default() }, follow: true };
        let line = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
        assert_eq!(serde_json::to_string(&Request::Status).unwrap(), "\"status\"");
        // Fields that a client leaves out have their defaults.
        let short = r#"{"events":{"filter":{"path":"*.rs"},"follow":false}}"#;
        let Request::Events { filter, .. } = serde_json::from_str(short).unwrap() else { panic!() };
        assert_eq!(filter, EventFilter { path: Some("*.rs".into()), ..EventFilter::default() });
        let error: Response<()> = Response::Error(Failure::new("no: why"));
        assert_eq!(serde_json::to_string(&error).unwrap(), r#"{"error":{"message":"no: why","exit":1}}"#);
    }
}
