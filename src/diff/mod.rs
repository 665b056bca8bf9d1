//! The overlay against the base, as git would show it.
//!
//! Costs are those of the changes: the base is looked at only where something changed. Knows neither daemon nor terminal; rows
//! are the objects of docs/JSON.md and carry the patch text.

mod bytes;
mod compare;
mod patch;
mod quote;
mod renames;
mod spans;

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::overlay::view::View;
use crate::query::chosen::Chosen;
use crate::query::rows::text;
use crate::store::StoreError;
use crate::types::{Errno, Path, unhex};

pub use compare::{Change, Status};
pub use quote::quote;

/// How much is wanted of each file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    /// Which files, and how.
    Names,
    /// Also how many lines.
    Counts,
    /// Also the patch.
    #[default]
    Patch,
}

/// What to compare.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiffFilter {
    /// Files and directories, relative to the root, their bytes in hexadecimal; none means everything.
    pub paths: Vec<String>,
    /// Also inside `.git` directories.
    pub all: bool,
    pub detail: Detail,
    /// The older state as a user names it; nothing means the base.
    pub from: Option<String>,
    /// The newer state; nothing means now.
    pub to: Option<String>,
    /// Exactly what this step changed, instead of all that differs between two states.
    pub step: Option<String>,
    /// What these steps changed, all of them together, as a comparison with the base.
    pub chosen: Chosen,
}

/// A changed file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffRow {
    /// `A`, `M`, `D`, `R` or `T`, as in `git diff --name-status`.
    pub status: String,
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_path_hex: Option<String>,
    pub old_mode: Option<String>,
    pub new_mode: Option<String>,
    pub old_size: Option<u64>,
    pub new_size: Option<u64>,
    /// Percent, for a rename.
    pub similarity: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_hex: Option<String>,
}

/// Why there is no comparison.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot compare with the base: {0}")]
    Os(#[from] Errno),
}

impl DiffFilter {
    fn paths(&self) -> Vec<Path> {
        let bytes = self.paths.iter().filter_map(|p| unhex(p));
        bytes.map(|b| Path::new(b.strip_suffix(b"/").unwrap_or(&b))).collect()
    }
}

/// Sends a row for each file that differs between two views, by path. Returns remarks for people: what was left out, and why.
/// `only` says which count. `progress` is told how many files were looked at, and of how many.
pub fn diff(
    from: &View<'_>,
    to: &View<'_>,
    filter: &DiffFilter,
    only: &dyn Fn(&Change) -> bool,
    sink: &mut dyn FnMut(DiffRow) -> ControlFlow<()>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<String>, DiffError> {
    let mut found = compare::compare(from, to, &filter.paths(), filter.all)?;
    found.changes.retain(only);
    let changes = renames::pair(to, std::mem::take(&mut found.changes), &mut found.notes);
    for (done, change) in changes.iter().enumerate() {
        progress(done as u64, changes.len() as u64);
        let row = row(to, change, filter.detail, &mut found.notes);
        if sink(row).is_break() {
            break;
        }
    }
    Ok(found.notes())
}

/// The files that differ between two views, with renames found.
///
/// # Errors
/// When the log or the base cannot be read.
pub fn changes(from: &View<'_>, to: &View<'_>, paths: &[Path], all: bool) -> Result<Vec<Change>, DiffError> {
    let mut found = compare::compare(from, to, paths, all)?;
    Ok(renames::pair(to, std::mem::take(&mut found.changes), &mut found.notes))
}

/// The files that differ between two views, a renamed one as one that is gone and one that is new; and remarks for people.
///
/// # Errors
/// When the log or the base cannot be read.
pub fn plain(from: &View<'_>, to: &View<'_>) -> Result<(Vec<Change>, Vec<String>), DiffError> {
    let mut found = compare::compare(from, to, &[], false)?;
    Ok((std::mem::take(&mut found.changes), found.notes()))
}

/// How many files differ: the rows that [`diff`] would send for everything.
pub fn count(from: &View<'_>, to: &View<'_>) -> Result<u64, DiffError> {
    Ok(changes(from, to, &[], false)?.len() as u64)
}

fn row(view: &View<'_>, change: &Change, detail: Detail, notes: &mut Vec<String>) -> DiffRow {
    let (path, path_hex) = text(change.path.as_bytes());
    let (old_path, old_path_hex) = match &change.old_path {
        Some(old) => {
            let (path, hex) = text(old.as_bytes());
            (Some(path), hex)
        }
        None => (None, None),
    };
    let mode = |node: &Option<crate::overlay::view::Node>| node.as_ref().map(|n| format!("{:06o}", compare::mode(n)));
    let mut row = DiffRow {
        status: change.status().letter().to_owned(),
        path,
        path_hex,
        old_path,
        old_path_hex,
        old_mode: mode(&change.old),
        new_mode: mode(&change.new),
        old_size: change.old.as_ref().map(|n| n.size),
        new_size: change.new.as_ref().map(|n| n.size),
        similarity: change.similarity,
        ..DiffRow::default()
    };
    if detail == Detail::Names {
        return row;
    }
    let patch = patch::patch(view, change, detail == Detail::Patch, notes);
    row.binary = Some(patch.binary);
    row.added = Some(patch.added);
    row.deleted = Some(patch.deleted);
    if detail == Detail::Patch {
        match String::from_utf8(patch.text) {
            Ok(text) => row.text = Some(text),
            Err(bytes) => row.text_hex = Some(crate::types::hex(bytes.as_bytes())),
        }
    }
    row
}
