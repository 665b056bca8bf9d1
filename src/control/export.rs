//! Answers about git: history as patches or as a branch, and branches from a mount.

use std::ffi::OsString;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::protocol::{Bring, BytesRow, Done, Export, Failure, ProgressRow, Row};
use super::steps::links;
use super::time::{Mover, Sink, place};
use crate::clock;
use crate::export::{Authors, Branch, Error, Exporter, Made, NOTES, Noted, Range};
use crate::query::chosen::Chosen;
use crate::query::steps::{Step, StepId, Steps};
use crate::timeline::names::{Names, Place};
use crate::timeline::rows::{BranchRow, ExportRow, KnownRow, NotesRow};
use crate::types::{ActorId, hex, unhex};

/// Bytes of a patch in one row.
const PIECE: usize = 64 << 10;

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let exit = match error {
            Error::BadName(_) | Error::NotInPast { .. } | Error::NoBranch(_) | Error::NotExported(_) => 2,
            _ => 1,
        };
        Failure { message: error.to_string(), exit }
    }
}

fn row(made: Made, file: Option<String>) -> Row {
    let commit = file.is_none().then_some(made.commit);
    Row::Export(ExportRow { snapshot: made.snapshot, subject: made.subject, commit, file })
}

impl Mover<'_> {
    pub(super) fn export(&self, export: &Export, sink: Sink<'_>) -> Result<Done, Failure> {
        let overlay = self.machine.overlay();
        let (mut selected, mut remarks) = (None, Vec::new());
        if !export.chosen.is_empty() {
            if export.from.is_some() || export.to.is_some() {
                return Err(Failure { message: "give a range or steps, not both".to_owned(), exit: 2 });
            }
            let (at, notes) = self.selected_for_export(&export.chosen)?;
            (selected, remarks) = (Some(Place::At(at)), notes);
        }
        let steps = Steps::load(overlay.store())?;
        let chosen = (!export.chosen.is_empty()).then(|| chosen(&steps, &export.chosen)).transpose()?;
        let links = links(overlay, &steps)?;
        let authors = Authors::new(overlay, steps, links)?;
        let exporter = Exporter {
            authors: Some(&authors),
            chosen,
            co_authors: export.co_authors,
            all: export.all,
            ..self.exporter()
        };
        if let Some(branch) = &export.exported {
            return exported(&exporter, branch, export, sink);
        }
        let side = |text: &Option<String>, otherwise: &str| place(overlay, text.as_deref().unwrap_or(otherwise));
        let ((from, names), (to, _)) = (side(&export.from, "base")?, side(&export.to, "now")?);
        let (to, single) = selected.map_or((to, export.single), |selected| (selected, true));
        if from == to || from == Place::Now {
            return Err(Failure { message: "there is nothing between these two".to_owned(), exit: 2 });
        }
        let range = Range { names: &names, from, to, single };
        let sink = std::cell::RefCell::new(sink);
        let progress = |done, total| {
            let row = ProgressRow { what: "exporting".to_owned(), done, total, bytes: 0 };
            let _ = (sink.borrow_mut())(Row::Progress(row));
        };
        let exporter = Exporter { progress: &progress, ..exporter };
        if export.agent_trace {
            let (record, notes) = exporter.trace(&range)?;
            bytes(record, &mut **sink.borrow_mut());
            return Ok(Done { notes, ..Done::default() });
        }
        let Some(branch) = &export.branch else {
            let (patches, notes) = exporter.patches(&range)?;
            'all: for patch in patches {
                let mut sink = sink.borrow_mut();
                if sink(row(patch.made, Some(patch.name))).is_break() {
                    break;
                }
                for piece in patch.text.chunks(PIECE) {
                    if sink(Row::Bytes(BytesRow { hex: hex(piece) })).is_break() {
                        break 'all;
                    }
                }
            }
            remarks.extend(notes);
            return Ok(Done { notes: remarks, ..Done::default() });
        };
        let branch_made = exporter.branch(branch, &range, export.git_notes)?;
        let mut done = made(branch, branch_made, &mut **sink.borrow_mut());
        done.notes.extend(remarks);
        Ok(done)
    }

    fn exporter(&self) -> Exporter<'_> {
        Exporter {
            machine: self.machine,
            authors: None,
            chosen: None,
            co_authors: false,
            all: false,
            now: clock::now(),
            progress: &|_, _| {},
            cancelled: self.cancelled,
            gained: self.gained,
        }
    }

    pub(super) fn bring(&self, bring: &Bring, sink: Sink<'_>) -> Result<Done, Failure> {
        let exporter = self.exporter();
        let Some(tip) = &bring.tip else {
            let _ = sink(Row::Known(KnownRow { objects: exporter.known(&bring.branch)? }));
            return Ok(Done::default());
        };
        let path = PathBuf::from(OsString::from_vec(unhex(&bring.pack).unwrap_or_default()));
        let pack =
            File::open(&path).map_err(|e| Failure::new(format!("cannot open the pack {}: {e}", path.display())))?;
        Ok(made(&bring.branch, exporter.bring(&bring.branch, tip, pack)?, sink))
    }
}

/// The steps that are chosen and changed something, the oldest first.
fn chosen(steps: &Steps, chosen: &Chosen) -> Result<Vec<(StepId, ActorId)>, Failure> {
    let choice = chosen.resolve(steps)?;
    let is_chosen = |step: &&Step| step.changed.is_some() && choice.has(Some((step.id, step.session)));
    let mut found: Vec<&Step> = steps.iter().filter(is_chosen).collect();
    found.sort_by_key(|step| (step.changed, step.id));
    Ok(found.into_iter().map(|step| (step.id, step.session)).collect())
}

/// Who wrote the lines of a branch that is there already.
fn exported(exporter: &Exporter<'_>, branch: &str, export: &Export, sink: Sink<'_>) -> Result<Done, Failure> {
    let names = Names::of(exporter.machine.overlay())?;
    if export.agent_trace {
        let (records, notes) = exporter.traces(branch, &names)?;
        bytes(records, sink);
        return Ok(Done { notes, ..Done::default() });
    }
    let (noted, notes) = exporter.annotate(branch, &names)?;
    let _ = sink(noted_row(noted));
    Ok(Done { notes, ..Done::default() })
}

fn noted_row(noted: Noted) -> Row {
    Row::Notes(NotesRow { notes: NOTES.to_owned(), tip: noted.tip, added: noted.added, kept: noted.kept })
}

/// Each record in a line.
fn bytes(records: impl IntoIterator<Item = serde_json::Value>, sink: Sink<'_>) {
    for record in records {
        let line = format!("{record}\n");
        for piece in line.as_bytes().chunks(PIECE) {
            if sink(Row::Bytes(BytesRow { hex: hex(piece) })).is_break() {
                return;
            }
        }
    }
}

/// First the branch, then its commits, then what became of notes.
fn made(name: &str, branch: Branch, sink: Sink<'_>) -> Done {
    let commits = branch.commits.len() as u64;
    let first = BranchRow { branch: name.to_owned(), tip: branch.tip, parent: branch.parent, commits };
    let mut flow = sink(Row::Branch(first));
    for commit in branch.commits {
        if flow == ControlFlow::Break(()) {
            break;
        }
        flow = sink(row(commit, None));
    }
    if let Some(noted) = branch.noted.filter(|_| flow == ControlFlow::Continue(())) {
        let _ = sink(noted_row(noted));
    }
    Done { notes: branch.notes, ..Done::default() }
}
