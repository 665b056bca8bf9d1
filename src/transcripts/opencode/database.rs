//! OpenCode's database: tables `session`, `message` and `part`, the latter two with JSON in `data`.
//!
//! It is read as it is and never written to, nor is a file made beside it: a log in use is read through the index that its writer keeps, and
//! where there is none, nobody writes. New parts have higher row ids; of a call that has not ended, the row changes.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, config::DbConfig};
use serde_json::Value;

use super::{Message, Session};
use crate::transcripts::files::{self, BUDGET, LONGEST, Stamp};
use crate::transcripts::json::{self, millis};
use crate::transcripts::out::Out;
use crate::types::Time;

/// The most rows that one call looks at.
const MOST_ROWS: usize = 20_000;
/// The most calls that have not ended and are still looked at. Those of a program that was killed never end.
const MOST_OPEN: usize = 512;
/// So many rows are read again when the last one is not there any more, or before the first one of interest.
const BACK: i64 = 10_000;
const BUSY: Duration = Duration::from_millis(50);
/// In steps of 1000 instructions: what a query may do before it is given up. A database may have been made to never end.
const PATIENCE: u32 = 10_000;

pub(in crate::transcripts) struct Database {
    since: Time,
    before: Option<[Option<Stamp>; 2]>,
    /// The last row that was read, and its part; `None` before the first call.
    last: Option<(i64, Option<Vec<u8>>)>,
    /// Rows of calls that have not ended.
    open: VecDeque<i64>,
    behind: bool,
}

/// What one call may still do, and has done.
struct Left {
    bytes: u64,
    /// The message of a user that was read last, with all its parts.
    asked: Option<String>,
}

/// A row of parts, with what belongs to it.
struct Part {
    row: i64,
    id: Vec<u8>,
    message: String,
    session: Session,
    data: Option<Vec<u8>>,
    info: Option<Vec<u8>>,
}

impl Database {
    pub(in crate::transcripts) fn new(since: Time) -> Database {
        Database { since, before: None, last: None, open: VecDeque::new(), behind: false }
    }

    /// Reads what is new; whether the limit was met. A database that is in use or damaged gives what it can; the next call tries again.
    pub(in crate::transcripts) fn read(&mut self, path: &Path, now: Time, out: &mut Out) -> io::Result<bool> {
        let (_, stamp) = files::open(path)?;
        let log = fs::symlink_metadata(beside(path, "-wal")).ok().map(|metadata| Stamp::of(&metadata));
        let state = [Some(stamp), log];
        // Two changes may have the same time.
        let is_old = state.iter().flatten().all(|stamp| stamp.modified.secs.saturating_add(2) < now.secs);
        if !self.behind && is_old && self.before == Some(state) {
            return Ok(false);
        }
        let had_other = self.before.is_some_and(|before| before[0].map(|stamp| stamp.file) != Some(stamp.file));
        if had_other {
            *self = Database::new(self.since);
        }
        let last = self.last.as_ref().map(|(row, _)| *row);
        match self.query(path, log.is_some_and(|log| log.size > 0), out) {
            Ok(()) => self.before = Some(state),
            Err(e) => {
                use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked, OperationInterrupted};
                let is_busy = matches!(e.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked));
                let is_slow = e.sqlite_error_code() == Some(OperationInterrupted);
                // Reported once for each state of the file.
                out.odd += u64::from(!is_busy && self.before != Some(state));
                self.before = (!is_busy).then_some(state);
                self.behind = is_slow && self.last.as_ref().map(|(row, _)| *row) > last;
            }
        }
        Ok(self.behind)
    }

    fn query(&mut self, path: &Path, has_log: bool, out: &mut Out) -> rusqlite::Result<()> {
        let db = open(path, has_log)?;
        let tables =
            "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('session', 'message', 'part')";
        if db.query_row(tables, [], |row| row.get::<_, i64>(0))? != 3 {
            self.behind = false;
            return Ok(());
        }
        let select = select(&db)?;
        let mut left = Left { bytes: BUDGET, asked: None };
        let open = std::mem::take(&mut self.open);
        for row in &open {
            let part = db.query_row(&format!("{select} WHERE p.rowid = ?1"), [row], read_part).optional();
            let given = part.and_then(|part| part.map_or(Ok(()), |part| self.part(&db, part, &mut left, out)));
            if let Err(e) = given {
                self.open = open;
                return Err(e);
            }
        }
        let after = self.start(&db)?;
        self.behind = false;
        let mut statement = db.prepare(&format!("{select} WHERE p.rowid > ?1 ORDER BY p.rowid LIMIT ?2"))?;
        let mut rows = statement.query([after, i64::try_from(MOST_ROWS).unwrap_or(i64::MAX)])?;
        let (mut count, mut before) = (0, after);
        while let Some(row) = rows.next()? {
            let part = read_part(row)?;
            // A damaged tree may lead back to where it began.
            if part.row <= before {
                out.odd += 1;
                break;
            }
            before = part.row;
            self.last = Some((part.row, Some(part.id.clone())));
            self.part(&db, part, &mut left, out)?;
            count += 1;
            if left.bytes == 0 || count == MOST_ROWS {
                self.behind = true;
                break;
            }
        }
        Ok(())
    }

    /// After which row to go on.
    fn start(&mut self, db: &Connection) -> rusqlite::Result<i64> {
        let at = |row: i64| {
            let id = "SELECT id FROM part WHERE rowid = ?1";
            db.query_row(id, [row], |row| Ok(raw(row.get_ref(0)?).unwrap_or_default())).optional()
        };
        let (row, id) = match self.last.take() {
            Some(last) => last,
            None => (first_since(db, self.since)?.saturating_sub(BACK).max(0), None),
        };
        let is_there = id.is_none() || at(row)? == id;
        // Rows were taken away, and others may have their numbers.
        let newest = || db.query_row("SELECT coalesce(max(rowid), 0) FROM part", [], |row| row.get::<_, i64>(0));
        let (row, id) = if is_there { (row, id) } else { (row.min(newest()?).saturating_sub(BACK).max(0), None) };
        self.last = Some((row, id));
        Ok(row)
    }

    fn part(&mut self, db: &Connection, part: Part, left: &mut Left, out: &mut Out) -> rusqlite::Result<()> {
        let size = [&part.data, &part.info].into_iter().flatten().map(Vec::len).sum::<usize>();
        left.bytes = left.bytes.saturating_sub(size as u64 + 64);
        let (Some(data), Some(info)) = (parsed(&part.data), parsed(&part.info)) else {
            out.odd += 1;
            return Ok(());
        };
        let message = Message { id: &part.message, session: &part.session, info: &info };
        message.facts(out);
        if message.is_user() {
            if left.asked.as_ref() != Some(&part.message) {
                let all = parts_of(db, &part.message)?;
                message.prompt(all.iter(), out);
                left.asked = Some(part.message);
            }
        } else if message.call(&String::from_utf8_lossy(&part.id), &data, out) {
            self.open.push_back(part.row);
            if self.open.len() > MOST_OPEN {
                self.open.pop_front();
            }
        }
        Ok(())
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// Opens it so that nothing is written.
///
/// SQLite's readers of a log register in its index (`-shm`), and make it if it is not there. `readonly_shm` reads the one that a writer
/// has; without one there is no writer, and the file can be read as if it never changed. <https://www.sqlite.org/wal.html#readonly>
fn open(path: &Path, has_log: bool) -> rusqlite::Result<Connection> {
    let has_index = fs::symlink_metadata(beside(path, "-shm")).is_ok();
    let how = match (is_logged(path), has_index) {
        (true, true) if has_log => "readonly_shm=1",
        (true, _) => "immutable=1",
        (false, _) => "mode=ro",
    };
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => uri.push(char::from(byte)),
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let db = Connection::open_with_flags(format!("{uri}?{how}"), flags)?;
    db.busy_timeout(BUSY)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    let mut left = PATIENCE;
    db.progress_handler(
        1000,
        Some(move || {
            left = left.saturating_sub(1);
            left == 0
        }),
    )?;
    Ok(db)
}

/// Whether the header says that changes go into a log.
fn is_logged(path: &Path) -> bool {
    use std::os::unix::fs::FileExt;
    let mut version = [0; 2];
    let read = files::open(path).and_then(|(file, _)| file.read_exact_at(&mut version, 18));
    read.is_ok() && version == [2, 2]
}

/// The query for parts with their messages and sessions. Columns that this version does not have are null.
fn select(db: &Connection) -> rusqlite::Result<String> {
    let mut columns = HashSet::new();
    let mut statement = db.prepare("SELECT name FROM pragma_table_info('session')")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        columns.insert(row.get::<_, String>(0)?);
    }
    let column = |name: &str| if columns.contains(name) { format!("s.{name}") } else { "NULL".to_owned() };
    let data = |table: &str| format!("CASE WHEN octet_length({table}.data) <= {LONGEST} THEN {table}.data END");
    Ok(format!(
        "SELECT p.rowid, p.id, p.message_id, p.session_id, {}, {}, {}, {}, {} FROM part p \
         LEFT JOIN message m ON m.id = p.message_id LEFT JOIN session s ON s.id = p.session_id",
        column("parent_id"),
        column("directory"),
        column("version"),
        data("p"),
        data("m"),
    ))
}

fn read_part(row: &Row) -> rusqlite::Result<Part> {
    let text =
        |at| Ok::<_, rusqlite::Error>(raw(row.get_ref(at)?).map(|text| String::from_utf8_lossy(&text).into_owned()));
    let full = |at| Ok::<_, rusqlite::Error>(text(at)?.filter(|text| !text.is_empty()));
    let session = Session {
        id: text(3)?.unwrap_or_default(),
        parent: full(4)?,
        cwd: full(5)?.map(PathBuf::from),
        version: full(6)?,
    };
    Ok(Part {
        row: row.get(0)?,
        id: raw(row.get_ref(1)?).unwrap_or_default(),
        message: text(2)?.unwrap_or_default(),
        session,
        data: raw(row.get_ref(7)?),
        info: raw(row.get_ref(8)?),
    })
}

fn raw(value: ValueRef) -> Option<Vec<u8>> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes.to_vec()),
        _ => None,
    }
}

fn parsed(bytes: &Option<Vec<u8>>) -> Option<Value> {
    json::parse(bytes.as_ref()?).filter(Value::is_object)
}

/// All parts of a message, in their order.
fn parts_of(db: &Connection, message: &str) -> rusqlite::Result<Vec<Value>> {
    let query = format!(
        "SELECT data FROM part WHERE message_id = ?1 AND octet_length(data) <= {LONGEST} ORDER BY id LIMIT 256"
    );
    let mut statement = db.prepare(&query)?;
    let mut rows = statement.query([message])?;
    let (mut parts, mut left) = (Vec::new(), BUDGET);
    while let Some(row) = rows.next()?.filter(|_| left > 0) {
        let data = raw(row.get_ref(0)?);
        left = left.saturating_sub(data.as_ref().map_or(0, Vec::len) as u64);
        parts.extend(parsed(&data));
    }
    Ok(parts)
}

/// The first row that is as new as that, found by halving: rows are nearly in order of time, and there is no index for it.
fn first_since(db: &Connection, since: Time) -> rusqlite::Result<i64> {
    let bounds = "SELECT coalesce(min(rowid), 0), coalesce(max(rowid), 0) FROM part";
    let (mut low, mut high) = db.query_row(bounds, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
    let mut statement = db.prepare("SELECT time_created FROM part WHERE rowid >= ?1 ORDER BY rowid LIMIT 1")?;
    while low < high {
        let middle = low.midpoint(high);
        let created =
            statement.query_row([middle], |row| Ok(row.get_ref(0)?.as_i64().unwrap_or_default())).optional()?;
        match created {
            Some(created) if millis(created) < since => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}
