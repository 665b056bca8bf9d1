//! A session of an older OpenCode: `storage/message/SESSION/MESSAGE.json`, with `storage/part/MESSAGE/PART.json` and
//! `storage/session/PROJECT/SESSION.json` beside it.
//!
//! Names are in order of time. A message that ended, and is followed by another one, is not looked at again.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Message, Session};
use crate::transcripts::files::{self, BUDGET, LONGEST};
use crate::transcripts::json::{self, full, path, text};
use crate::transcripts::out::Out;

/// The most files that one call opens.
const MOST_FILES: usize = 4096;
/// The most projects that are searched for the session's record.
const MOST_PROJECTS: usize = 4096;

#[derive(Default)]
pub(in crate::transcripts) struct Folder {
    session: Option<Session>,
    /// Messages that will not change.
    settled: HashSet<PathBuf>,
}

/// What one call may still do.
struct Left {
    files: usize,
    bytes: u64,
}

impl Folder {
    /// Reads what is new in the directory of a session's messages; whether the limit was met.
    pub(in crate::transcripts) fn read(&mut self, dir: &Path, out: &mut Out) -> io::Result<bool> {
        let mut messages: Vec<PathBuf> = json_files(dir)?;
        messages.sort();
        let session = self.session.get_or_insert_with(|| session(dir)).clone();
        let storage = dir.parent().and_then(Path::parent).unwrap_or(dir);
        let mut left = Left { files: MOST_FILES, bytes: BUDGET };
        let last = messages.last().cloned();
        for file in messages {
            if self.settled.contains(&file) {
                continue;
            }
            if left.files == 0 || left.bytes == 0 {
                return Ok(true);
            }
            let Some(info) = document(&file, &mut left, out) else { continue };
            let id = full(&info, "id")
                .or_else(|| Some(file.file_stem()?.to_string_lossy().into_owned()))
                .unwrap_or_default();
            let message = Message { id: &id, session: &session, info: &info };
            message.facts(out);
            let mut parts = json_files(&storage.join("part").join(&id)).unwrap_or_default();
            parts.sort();
            let parts: Vec<Value> = parts.iter().filter_map(|part| document(part, &mut left, out)).collect();
            message.prompt(parts.iter(), out);
            let mut is_open = false;
            for part in &parts {
                match text(part, "id") {
                    Some(id) => is_open |= message.call(id, part, out),
                    None => out.odd += 1,
                }
            }
            let has_ended = info.get("time").is_some_and(|time| time.get("completed").is_some());
            if Some(&file) != last.as_ref() && !is_open && (has_ended || message.is_user()) {
                self.settled.insert(file);
            }
        }
        Ok(false)
    }
}

fn json_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(dir)?.take(100_000).flatten().map(|entry| entry.path());
    Ok(paths.filter(|path| path.extension().is_some_and(|end| end == "json")).collect())
}

fn document(file: &Path, left: &mut Left, out: &mut Out) -> Option<Value> {
    left.files = left.files.saturating_sub(1);
    let Ok(bytes) = files::read(file, LONGEST) else {
        out.odd += 1;
        return None;
    };
    left.bytes = left.bytes.saturating_sub(bytes.len() as u64);
    let read = json::parse(&bytes);
    // One that is being written will be whole the next time.
    out.odd += u64::from(read.is_none() && !bytes.is_empty());
    read
}

fn session(dir: &Path) -> Session {
    let id = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let known = dir.parent().and_then(Path::parent).map(|storage| storage.join("session"));
    let projects = known.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten().take(MOST_PROJECTS);
    let mut records = projects.map(|entry| entry.path().join(format!("{id}.json")));
    let record = records.find_map(|file| json::parse(&files::read(&file, LONGEST).ok()?));
    let Some(record) = record else { return Session { id, ..Session::default() } };
    let (parent, version) = (full(&record, "parentID"), full(&record, "version"));
    Session { id, parent, cwd: path(&record, &["directory"]), version }
}
