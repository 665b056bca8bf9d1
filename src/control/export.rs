//! Answers about git: history as patches or as a branch, and branches from a mount.

use std::ffi::OsString;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::protocol::{Bring, BytesRow, Done, Export, Failure, ProgressRow, Row};
use super::time::{Mover, Sink, place};
use crate::clock;
use crate::export::{Branch, Error, Exporter, Made, Range};
use crate::timeline::names::Place;
use crate::timeline::rows::{BranchRow, ExportRow, KnownRow};
use crate::types::{hex, unhex};

/// Bytes of a patch in one row.
const PIECE: usize = 64 << 10;

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let exit = match error {
            Error::BadName(_) | Error::NotInPast { .. } => 2,
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
        let (now, cancelled, gained) = (clock::now(), self.cancelled, self.gained);
        let exporter = Exporter { machine: self.machine, all: export.all, now, progress: &progress, cancelled, gained };
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
        let branch_made = exporter.branch(branch, &range)?;
        let mut done = made(branch, branch_made, &mut **sink.borrow_mut());
        done.notes.extend(remarks);
        Ok(done)
    }

    pub(super) fn bring(&self, bring: &Bring, sink: Sink<'_>) -> Result<Done, Failure> {
        let (now, cancelled, gained) = (clock::now(), self.cancelled, self.gained);
        let exporter = Exporter { machine: self.machine, all: false, now, progress: &|_, _| {}, cancelled, gained };
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

/// First the branch, then its commits.
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
    Done { notes: branch.notes, ..Done::default() }
}
