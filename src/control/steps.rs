//! Answers about steps: which there are, what exactly one changed, who wrote a line; and taking one back out. The same for a daemon and for a store
//! that nothing is mounted from.

use std::ops::ControlFlow;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::protocol::{Done, Failure, Row};
use super::time::{Mover, Sink, place as point};
use crate::blame::{self, BlameError, Source};
use crate::diff::{self, DiffFilter, DiffRow};
use crate::overlay::Overlay;
use crate::overlay::view::{Node, View};
use crate::query::log::{agent_of, find_session, find_step};
use crate::query::prompts::{Links, Written};
use crate::query::rows::{text, texts};
use crate::query::steps::{Step, StepId, Steps, session_id, session_of};
use crate::query::{self, BlameRow, LogFilter, time::format};
use crate::store::history::{self, OpKind, Operation};
use crate::store::lineage::Lineage;
use crate::store::{Store, StoreError};
use crate::timeline::combine::{Favor, Only};
use crate::timeline::merging::{How, Merged};
use crate::timeline::names::Place;
use crate::timeline::parts::{Part, homes, parts};
use crate::timeline::spec;
use crate::types::{At, Epoch, Kind, Path, Timeline, unhex};

/// Which lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlameFilter {
    /// Relative to the root, in hexadecimal.
    pub path: String,
    /// The first line is 1; both ends count.
    pub lines: Option<(u64, u64)>,
    /// The state that is looked at; nothing means now.
    pub at: Option<String>,
}

/// What to take back out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Revert {
    pub step: String,
    /// Only these, relative to the root, in hexadecimal; none means everything.
    pub paths: Vec<String>,
    /// What to take where later changes touch it: what is there, or what was there before. Neither means that nothing is done then.
    pub ours: bool,
    pub theirs: bool,
    /// Say what would happen, and do nothing.
    pub dry_run: bool,
}

impl From<BlameError> for Failure {
    fn from(error: BlameError) -> Failure {
        let exit = if matches!(error, BlameError::Missing(_) | BlameError::NoFile(_)) { 2 } else { 1 };
        Failure { message: error.to_string(), exit }
    }
}

/// Whether a text has the form of the name of a step or session.
pub fn is_name(text: &str) -> bool {
    text.parse::<StepId>().is_ok() || session_of(text).is_some()
}

/// How a snapshot is called.
fn namer(store: &Store) -> Result<impl Fn(Epoch) -> Option<String>, StoreError> {
    let sealed: rustc_hash::FxHashSet<_> = history::snapshots(&*store.kv)?.into_iter().map(|s| s.epoch).collect();
    let id = store.format.id.clone();
    Ok(move |epoch| sealed.contains(&epoch).then(|| spec::id_of(&id, epoch)))
}

/// Lists steps, the newest first.
pub fn log(overlay: &Overlay, filter: &LogFilter, sink: Sink<'_>) -> Result<Done, Failure> {
    let steps = Steps::load(overlay.store())?;
    let links = links(overlay, &steps)?;
    query::log(&steps, &links, filter, &namer(overlay.store())?, &mut |row| sink(Row::Step(row)))?;
    Ok(Done::default())
}

/// Lists sessions, the one that began first in front.
pub fn sessions(overlay: &Overlay, sink: Sink<'_>) -> Result<Done, Failure> {
    let steps = Steps::load(overlay.store())?;
    let links = links(overlay, &steps)?;
    query::sessions(&steps, &links, &mut |row| sink(Row::Session(row)))?;
    Ok(Done::default())
}

/// Which steps go back to which prompts.
pub fn links(overlay: &Overlay, steps: &Steps) -> Result<Links, Failure> {
    use std::os::unix::ffi::OsStrExt;
    let store = overlay.store();
    let root = store.format.repo_path().as_os_str().as_bytes().to_vec();
    let homes = homes(&*store.kv)?;
    Ok(Links::load(store, steps, &[root], &WrittenIn { overlay, homes })?)
}

/// Looks into the states after steps.
struct WrittenIn<'o> {
    overlay: &'o Overlay,
    homes: std::collections::BTreeMap<Epoch, Timeline>,
}

impl WrittenIn<'_> {
    fn bytes(&self, step: &Step, path: &[u8]) -> Option<Vec<u8>> {
        // The file after the step's last change; of what an agent did itself there is only one.
        let epoch = *step.epochs.last()?;
        let at = At { timeline: *self.homes.get(&epoch)?, epoch };
        let lineage = Lineage::of(&*self.overlay.store().kv, at).ok()?;
        let view = View::new(self.overlay, Arc::new(lineage));
        let node = view.find(&Path::new(path)).ok()??;
        if node.kind != Kind::File || node.size > blame::LARGEST {
            return None;
        }
        let (reader, mut bytes) = (view.open(&node).ok()?, vec![0; node.size as usize]);
        let mut at = 0;
        while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
            match reader.read_at(at as u64, rest).ok()? {
                0 => return None,
                got => at += got,
            }
        }
        Some(bytes)
    }
}

impl Written for WrittenIn<'_> {
    fn is(&self, step: &Step, path: &[u8], hash: &[u8; 32], len: u64) -> Option<bool> {
        let bytes = self.bytes(step, path)?;
        Some(bytes.len() as u64 == len && blake3::hash(&bytes).as_bytes() == hash)
    }

    fn contains(&self, step: &Step, path: &[u8], text: &[u8]) -> Option<bool> {
        let bytes = self.bytes(step, path)?;
        Some(text.is_empty() || bytes.windows(text.len()).any(|part| part == text))
    }
}

/// Sends all that is known of a step but its changes.
pub fn story(overlay: &Overlay, step: &str, sink: Sink<'_>) -> Result<Done, Failure> {
    let store = overlay.store();
    let steps = Steps::load(store)?;
    let links = links(overlay, &steps)?;
    let step = find_step(&steps, step)?;
    let row = query::story::story(store, &steps, &links, step, &namer(store)?)?;
    let _ = sink(Row::Story(row));
    Ok(Done::default())
}

/// The state just after a step, or after the last one of a session.
pub fn place(overlay: &Overlay, name: &str) -> Result<Place, Failure> {
    let store = overlay.store();
    let steps = Steps::load(store)?;
    let last = if session_of(name).is_some() {
        let session = find_session(&steps, name)?;
        steps.iter().filter(|step| step.session == session).filter_map(|step| step.epochs.last().copied()).max()
    } else {
        find_step(&steps, name)?.epochs.last().copied()
    };
    let Some(epoch) = last else {
        return Err(Failure { message: format!("{name} changed nothing: there is no state after it"), exit: 2 });
    };
    let home = homes(&*store.kv)?.get(&epoch).copied();
    let Some(timeline) = home else {
        return Err(Failure { message: format!("the state after {name} was collected: choose another one"), exit: 2 });
    };
    let at = At { timeline, epoch };
    Ok(if at == overlay.lineage().at() { Place::Now } else { Place::At(at) })
}

/// Sends what exactly one step changed. Returns remarks for people.
pub fn diff(
    overlay: &Overlay,
    step: &str,
    filter: &DiffFilter,
    sink: &mut dyn FnMut(DiffRow) -> ControlFlow<()>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<String>, Failure> {
    let steps = Steps::load(overlay.store())?;
    let id = find_step(&steps, step)?.id;
    let mut notes = Vec::new();
    let parts = parts(overlay, &steps, &|other, _| other == id)?;
    let mut ended = false;
    for (n, part) in parts.iter().enumerate() {
        let (from, to) = (View::new(overlay, part.from.clone()), View::new(overlay, part.to.clone()));
        let only = |change: &diff::Change| part.has(&change.path, change.old.as_ref(), change.new.as_ref());
        let mut take = |row| {
            let flow = sink(row);
            ended |= flow.is_break();
            flow
        };
        notes.extend(diff::diff(&from, &to, filter, &only, &mut take, progress)?);
        if ended {
            break;
        }
        if n == 0 && parts.len() > 1 {
            notes.push(format!("{step} changed files in {} parts, with others in between", parts.len()));
        }
    }
    Ok(notes)
}

/// Who wrote what is in a blamed file, by source.
struct Writers<'s> {
    store: &'s Store,
    steps: Steps,
    links: Links,
    names: Box<dyn Fn(Epoch) -> Option<String> + 's>,
}

impl Writers<'_> {
    fn row(&self, source: &Source) -> Result<BlameRow, Failure> {
        let mut row = BlameRow {
            line: 0,
            text: String::new(),
            text_hex: None,
            by: "base".to_owned(),
            step: None,
            session: None,
            agent: None,
            argv: None,
            command: None,
            prompt: None,
            time: None,
            snapshot: None,
            path: None,
            path_hex: None,
        };
        let Source::Version(wrote) = source else { return Ok(row) };
        let (path, path_hex) = text(wrote.path.as_bytes());
        (row.path, row.path_hex) = (Some(path), path_hex);
        row.snapshot = (self.names)(wrote.epoch);
        row.time = history::snapshot(&*self.store.kv, wrote.epoch)?.map(|s| format(s.time));
        let Some(place) = self.steps.who.place(wrote.by) else {
            row.by = "unknown".to_owned();
            return Ok(row);
        };
        let id = match place.command {
            Some(top) => StepId::Command(top),
            None => StepId::Own { epoch: wrote.epoch, session: place.session },
        };
        let kind = self.steps.who.kind(place.session);
        row.by = kind.map_or("unknown", |kind| kind.name()).to_owned();
        row.agent = kind.and_then(agent_of);
        row.step = Some(id.to_string());
        row.prompt = self.links.of(id).map(|(_, prompt)| prompt.text.clone());
        row.session = Some(session_id(place.session));
        if let Some(actor) = place.command.and_then(|top| self.steps.who.actor(top)) {
            row.argv = Some(texts(&actor.argv).0);
            row.command = self.steps.who.asked(actor).map(|asked| String::from_utf8_lossy(&asked).into_owned());
        }
        Ok(row)
    }
}

/// Sends a row for each line.
pub fn blame(overlay: &Overlay, filter: &BlameFilter, sink: Sink<'_>) -> Result<Done, Failure> {
    let store = overlay.store();
    let path = Path::new(&unhex(&filter.path).unwrap_or_default());
    let view = match &filter.at {
        Some(at) => View::new(overlay, point(overlay, at)?.0.lineage(overlay)?),
        None => View::now(overlay),
    };
    let blamed = blame::blame(&view, &path)?;
    let steps = Steps::load(store)?;
    let links = links(overlay, &steps)?;
    let writers = Writers { store, steps, links, names: Box::new(namer(store)?) };
    let (first, last) = filter.lines.unwrap_or((1, u64::MAX));
    if filter.lines.is_some() && (first == 0 || first > last || first > blamed.marks.len() as u64) {
        let message = format!("{path} has {} lines: there is no line {first}", blamed.marks.len());
        return Err(Failure { message, exit: 2 });
    }
    let mut rows: FxHashMap<u32, BlameRow> = FxHashMap::default();
    for ((line, mark), number) in crate::merge::lines::split(&blamed.text).zip(&blamed.marks).zip(1..) {
        if number < first || number > last {
            continue;
        }
        let row = match rows.get(mark) {
            Some(row) => row,
            None => {
                let source = blamed.sources.get(*mark as usize).unwrap_or(&Source::Base);
                rows.entry(*mark).or_insert(writers.row(source)?)
            }
        };
        let (text, text_hex) = text(line.strip_suffix(b"\n").unwrap_or(line));
        if sink(Row::Blame(BlameRow { line: number, text, text_hex, ..row.clone() })).is_break() {
            break;
        }
    }
    Ok(Done::default())
}

impl Mover<'_> {
    /// Takes a step back out of what there is now; later changes stay.
    ///
    /// # Errors
    /// What was refused; nothing is changed then. Conflicts are rows.
    pub(super) fn revert(&self, asked: &Revert, sink: Sink<'_>) -> Result<Done, Failure> {
        let favor = match (asked.ours, asked.theirs) {
            (true, true) => {
                return Err(Failure { message: "--ours and --theirs exclude each other".to_owned(), exit: 2 });
            }
            (true, false) => Favor::Ours,
            (false, true) => Favor::Theirs,
            (false, false) => Favor::None,
        };
        let steps = Steps::load(self.overlay().store())?;
        let id = find_step(&steps, &asked.step)?.id;
        let parts = parts(self.overlay(), &steps, &|other, _| other == id)?;
        if parts.is_empty() {
            return Err(Failure { message: format!("{id} changed nothing that is still known"), exit: 2 });
        }
        let paths: Vec<Path> = asked.paths.iter().map(|p| Path::new(&unhex(p).unwrap_or_default())).collect();
        let note = format!("{REVERT}{id}");
        let how = How { favor, dry_run: asked.dry_run, note: &note };
        let is_asked = |path: &Path| paths.is_empty() || paths.iter().any(|p| path.is_below(p));
        let of =
            |part: &Part, path: &Path, was: Option<&Node>, is: Option<&Node>| part.has(path, was, is) && is_asked(path);
        let merged = match parts.as_slice() {
            [part] => {
                let only = |path: &Path, was: Option<&Node>, is: Option<&Node>| of(part, path, was, is);
                self.machine.bring(&self.ctx, (&part.to, &part.from, &only), OpKind::Revert, how, &self.mapped)?
            }
            parts => self.revert_parts(parts, &of, how)?,
        };
        self.tell_merged(OpKind::Revert, note, &merged, sink)
    }

    /// Takes several changes back out as one move.
    fn revert_parts(&self, parts: &[Part], of: Of<'_>, how: How<'_>) -> Result<Merged, Failure> {
        let machine = self.machine;
        let busy = machine.begin_adding()?;
        let before = machine.sealed(&self.ctx, &format!("before {}", how.note))?;
        // The last change first.
        let only: Vec<_> = parts
            .iter()
            .rev()
            .map(|part| move |path: &Path, was: Option<&Node>, is: Option<&Node>| of(part, path, was, is))
            .collect();
        let changes: Vec<_> =
            parts.iter().rev().zip(&only).map(|(part, only)| (&part.to, &part.from, only as Only<'_>)).collect();
        let at = match machine.stacked(&busy, &self.ctx, before, &changes, how.favor)? {
            Ok(at) => at,
            Err(conflicts) => return Ok(Merged { conflicts, ..Merged::default() }),
        };
        let kv = &*self.overlay().store().kv;
        let (from, to) = (Arc::new(Lineage::of(kv, before)?), Arc::new(Lineage::of(kv, at)?));
        // What others do meanwhile stays.
        Ok(machine.bring_with(&busy, &self.ctx, (&from, &to, &|_, _, _| true), OpKind::Revert, how, &self.mapped)?)
    }
}

/// What the note of such an operation begins with.
const REVERT: &str = "revert of ";

/// The step that an operation took back out.
pub(super) fn reverted(operation: &Operation) -> Option<StepId> {
    operation.note.strip_prefix(REVERT).filter(|_| operation.kind == OpKind::Revert)?.parse().ok()
}

/// Which paths of a part count.
type Of<'o> = &'o dyn Fn(&Part, &Path, Option<&Node>, Option<&Node>) -> bool;
