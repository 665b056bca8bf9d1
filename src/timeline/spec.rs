//! How a user names a point in time, and which snapshot that is.
//!
//! ```text
//! point = place [ "~" [ steps ] ]...
//! place = "base" | "now" | "@{" time "}" | label | a snapshot's id or the beginning of one
//! range = [ point ] ".." [ point ] | point
//! ```
//!
//! Pure: snapshots come in as a list. Times without an offset are UTC, as everywhere.

use std::fmt;

use crate::query::time;
use crate::types::{Epoch, Time, Timeline};

/// The letters of an id, for the digits 0 to 15. Jujutsu's choice: no id can be taken for a hash of git or a number, and few words for an id.
const ALPHABET: &[u8; 16] = b"zyxwvutsrqponmlk";
/// Letters of an id.
pub const ID_LEN: usize = 8;
/// Letters of an id that no two snapshots share by chance, but for a rare one.
const ID_LIKE: usize = 6;
/// Characters of a label, at most.
pub const LABEL_LEN: usize = 100;
/// What a message lists of candidates, and of similar names.
const LISTED: usize = 5;
const SIMILAR: usize = 3;

/// A named point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// The repository as it is without the overlay.
    Base,
    /// The present state.
    Now,
    /// The newest snapshot that is not younger.
    Time(Time),
    /// A label, an id, or the beginning of one.
    Name(String),
    /// So many snapshots before another point; at least one.
    Back(Box<Spec>, u32),
}

/// A snapshot, as far as naming goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// From [`id_of`].
    pub id: String,
    pub label: Option<String>,
    pub epoch: Epoch,
    pub timeline: Timeline,
    /// The snapshot before it, in its timeline or in the one which that forked off; epoch 0 for the first.
    /// An epoch that is not in the list ends the past as 0 does.
    pub previous: Epoch,
    pub time: Time,
}

/// What a point in time turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point<'a> {
    Base,
    Now,
    Snapshot(&'a Candidate),
}

/// Why a name is not that of a point in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("an empty name for a point in time; say base, now, @{{TIME}}, a label or the id of a snapshot")]
    Empty,
    #[error(
        "cannot read the time in {text}; say it like @{{10 minutes ago}}, @{{yesterday}} or @{{2026-11-22 10:30}} (UTC)"
    )]
    BadTime { text: String },
    #[error("{text} is {}, which is yet to come; times without an offset are UTC", moment(.time))]
    Future { text: String, time: Time },
    #[error("{text}: ~ takes a number of snapshots to go back, as in now~2")]
    BadSteps { text: String },
    #[error("{text} is a range; one point in time is wanted here")]
    Range { text: String },
    #[error("{text:?} cannot be the name of a snapshot: {why}")]
    BadName { text: String, why: &'static str },
    #[error("no snapshot is called {name}{}", did_you_mean(.near))]
    NotFound {
        name: String,
        /// Names that are like it, the nearest first.
        near: Vec<String>,
    },
    #[error("snapshot {name} is not there any more: it was collected; `regentfs snapshots` lists those that are")]
    Collected { name: String },
    #[error("{name} can be any of {count} snapshots: {}; {}", listed(.first, *.count), way_out(.name))]
    Ambiguous {
        name: String,
        /// By epoch; the first few of them.
        first: Vec<Candidate>,
        count: usize,
    },
    #[error("there was no snapshot at {} yet{}", moment(.time), first_is(.first.as_ref()))]
    TooOld { time: Time, first: Option<Candidate> },
    #[error("{from} has {have} snapshots before it, not {steps}; the state before the first is called base")]
    TooFarBack { from: String, steps: u32, have: u32 },
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spec::Base => f.write_str("base"),
            Spec::Now => f.write_str("now"),
            Spec::Time(time) => write!(f, "@{{{}}}", time::format(*time)),
            Spec::Name(name) => f.write_str(name),
            Spec::Back(from, steps) => write!(f, "{from}~{steps}"),
        }
    }
}

/// To the second: enough for people.
fn moment(time: &Time) -> String {
    let text = time::format(*time);
    text.split_once('.').map_or(text.clone(), |(seconds, _)| format!("{seconds}Z"))
}

fn describe(candidate: &Candidate) -> String {
    let label = candidate.label.as_ref().map(|label| format!("{label:?}, ")).unwrap_or_default();
    format!("{} ({label}{})", candidate.id, moment(&candidate.time))
}

fn listed(first: &[Candidate], count: usize) -> String {
    let mut text = first.iter().map(describe).collect::<Vec<_>>().join(", ");
    if count > first.len() {
        text.push_str(&format!(" and {} more", count - first.len()));
    }
    text
}

fn way_out(name: &str) -> &'static str {
    if name.len() < ID_LEN { "give more letters" } else { "use their labels, or times" }
}

fn did_you_mean(near: &[String]) -> String {
    match near {
        [] => "; base, now and @{TIME} are there always".to_owned(),
        near => format!("; did you mean {}", near.join(" or ")),
    }
}

fn first_is(first: Option<&Candidate>) -> String {
    match first {
        Some(first) => format!("; the first is {}, and the state before it is called base", describe(first)),
        None => ", nor is there one now; the state before the first is called base".to_owned(),
    }
}

/// The name of a snapshot: the same in every copy of a store, and most likely no other store's.
///
/// The beginning of a BLAKE3 hash of the store's id and the epoch (u64, little endian). Two snapshots of a store can have the same id (one
/// pair among 10,000 in about one store of a hundred): then it is ambiguous, and a label helps.
pub fn id_of(store_id: &str, epoch: Epoch) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(store_id.as_bytes());
    hasher.update(&epoch.0.to_le_bytes());
    let letter = |digit: u8| ALPHABET.get(usize::from(digit)).map(|&letter| char::from(letter));
    let digits = hasher.finalize().as_bytes().iter().flat_map(|byte| [byte >> 4, byte & 15]).collect::<Vec<_>>();
    digits.into_iter().take(ID_LEN).filter_map(letter).collect()
}

/// What a sealed state is called: the id of its snapshot, or `base`.
pub fn name_of(store_id: &str, epoch: Epoch) -> String {
    if epoch == Epoch::BASE { "base".to_owned() } else { id_of(store_id, epoch) }
}

/// Whether so much of an id is there that it is hardly anything else.
pub fn is_like_id(text: &str) -> bool {
    text.len() >= ID_LIKE && may_be_id(text)
}

/// Whether this can be an id or, if it is shorter, the beginning of one.
fn may_be_id(text: &str) -> bool {
    (1..=ID_LEN).contains(&text.len()) && text.bytes().all(|b| ALPHABET.contains(&b))
}

/// Whether a snapshot can be given this label.
///
/// # Errors
/// Why not, in words that can follow a colon.
pub fn valid_label(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.chars().count() > LABEL_LEN {
        return Err("it has more than 100 characters");
    }
    if text.chars().any(char::is_control) {
        return Err("it contains a control character");
    }
    if text.starts_with('-') {
        return Err("it begins with -, as options do");
    }
    if text.starts_with('@') {
        return Err("it begins with @, as times do");
    }
    if matches!(text, "base" | "now") {
        return Err("that is the name of a point which is always there");
    }
    if text.contains("..") {
        return Err("it contains .., as ranges do");
    }
    if text.contains(':') {
        return Err("it contains a colon");
    }
    if text.contains('~') {
        return Err("it contains ~, which goes back from a point");
    }
    if text.len() == ID_LEN && may_be_id(text) {
        return Err("it has the form of an id");
    }
    Ok(())
}

/// Splits `A..B`. Either side may be missing; text that is no range is the side before the dots.
///
/// What a missing side means is the caller's matter: to `diff`, nothing after the dots is the present.
pub fn range(text: &str) -> (Option<&str>, Option<&str>) {
    let side = |text| Some(text).filter(|text: &&str| !text.is_empty());
    match text.split_once("..") {
        Some((from, to)) => (side(from), side(to)),
        None => (side(text), None),
    }
}

/// Reads the name of one point in time. Whether there is such a snapshot is for [`resolve`] to say.
///
/// # Errors
/// When nothing can be named so, and for times after `now`.
pub fn parse(text: &str, now: Time) -> Result<Spec, SpecError> {
    let whole = || text.to_owned();
    // No label has a tilde, and no time does.
    let place_len = text.find('~').unwrap_or(text.len());
    let (place, steps) = text.split_at(place_len);
    let spec = match place {
        "" => return Err(SpecError::Empty),
        "base" => Spec::Base,
        "now" => Spec::Now,
        _ if place.starts_with("@{") => {
            let time = place.strip_prefix("@{").and_then(|rest| rest.strip_suffix('}'));
            let time = time.and_then(|time| time::parse_moment(time.trim(), now));
            let time = time.ok_or_else(|| SpecError::BadTime { text: place.to_owned() })?;
            if time > now {
                return Err(SpecError::Future { text: place.to_owned(), time });
            }
            Spec::Time(time)
        }
        _ if place.contains("..") => return Err(SpecError::Range { text: whole() }),
        _ if place.starts_with('@') => return Err(SpecError::BadTime { text: place.to_owned() }),
        _ => {
            if !may_be_id(place) {
                valid_label(place).map_err(|why| SpecError::BadName { text: place.to_owned(), why })?;
            }
            Spec::Name(place.to_owned())
        }
    };
    // `~` is one step, as in git, and several of them add up.
    let mut total = 0_u32;
    for step in steps.split('~').skip(1) {
        let digits = step.bytes().all(|b| b.is_ascii_digit());
        let step = if step.is_empty() { Some(1) } else { step.parse::<u32>().ok().filter(|_| digits) };
        let sum = step.and_then(|step| total.checked_add(step));
        total = sum.ok_or_else(|| SpecError::BadSteps { text: whole() })?;
    }
    Ok(if total == 0 { spec } else { Spec::Back(Box::new(spec), total) })
}

/// Finds the snapshot that is named. `names` are all snapshots of all timelines, by epoch; `last` is the newest of the timeline that the question is about
/// (or where that forked off; epoch 0 if there is none): times, and steps back from `now`, are looked up from there.
///
/// A name is a label first, then an id, then the beginning of an id.
///
/// # Errors
/// When there is no such snapshot, or more than one.
pub fn resolve<'a>(names: &'a [Candidate], last: Epoch, spec: &Spec) -> Result<Point<'a>, SpecError> {
    match spec {
        Spec::Base => Ok(Point::Base),
        Spec::Now => Ok(Point::Now),
        Spec::Time(time) => {
            let found = chain(names, last).find(|one| one.time <= *time);
            let first = || chain(names, last).last().cloned();
            found.map(Point::Snapshot).ok_or_else(|| SpecError::TooOld { time: *time, first: first() })
        }
        Spec::Name(name) => by_name(names, name).map(Point::Snapshot),
        Spec::Back(from, steps) => {
            let start = match resolve(names, last, from)? {
                Point::Base => Epoch(0),
                Point::Now => last,
                Point::Snapshot(one) => one.previous,
            };
            let skipped = usize::try_from(steps.saturating_sub(1)).unwrap_or(usize::MAX);
            chain(names, start).nth(skipped).map(Point::Snapshot).ok_or_else(|| SpecError::TooFarBack {
                from: from.to_string(),
                steps: *steps,
                have: chain(names, start).count() as u32,
            })
        }
    }
}

/// The snapshot of this epoch, the one before it, and so on.
fn chain(names: &[Candidate], last: Epoch) -> impl Iterator<Item = &Candidate> {
    let of = |epoch: Epoch| names.get(names.binary_search_by_key(&epoch, |one| one.epoch).ok()?);
    // Epochs only get smaller, whatever a damaged store says: else this might not end.
    std::iter::successors(of(last), move |one| of(one.previous).filter(|previous| previous.epoch < one.epoch))
}

fn by_name<'a>(names: &'a [Candidate], name: &str) -> Result<&'a Candidate, SpecError> {
    let labelled = |one: &&Candidate| one.label.as_deref() == Some(name);
    if let Some(found) = names.iter().find(labelled) {
        return Ok(found);
    }
    let begins = |one: &&Candidate| !name.is_empty() && one.id.starts_with(name);
    let mut found = names.iter().filter(begins);
    match (found.next(), found.count()) {
        (Some(only), 0) => Ok(only),
        (Some(_), more) => Err(SpecError::Ambiguous {
            name: name.to_owned(),
            first: names.iter().filter(begins).take(LISTED).cloned().collect(),
            count: more + 1,
        }),
        (None, _) => Err(SpecError::NotFound { name: name.to_owned(), near: near(names, name) }),
    }
}

/// Names that could have been meant: labels that go on where this one ends, and those with few letters changed.
fn near(names: &[Candidate], name: &str) -> Vec<String> {
    let wanted: Vec<char> = name.to_lowercase().chars().collect();
    let most = match wanted.len() {
        0 | 1 => 0,
        len => (len / 3).max(1),
    };
    let labels = names.iter().rev().filter_map(|one| one.label.as_deref());
    let ids = names.iter().rev().map(|one| one.id.as_str());
    let mut found: Vec<(usize, &str)> = Vec::new();
    for other in ["now", "base"].into_iter().chain(labels).chain(ids) {
        let letters: Vec<char> = other.to_lowercase().chars().collect();
        let distance = match distance(&wanted, &letters, most) {
            Some(distance) => distance,
            None if wanted.len() >= 3 && letters.starts_with(&wanted) => most,
            None => continue,
        };
        found.push((distance, other));
    }
    // Stable: of equals, the newest comes first.
    found.sort_by_key(|(distance, _)| *distance);
    found.into_iter().take(SIMILAR).map(|(_, other)| other.to_owned()).collect()
}

/// How many letters have to be added, removed, changed or swapped with their neighbour to make one text of the other; `None` if more than `most`.
fn distance(one: &[char], other: &[char], most: usize) -> Option<usize> {
    if one.len().abs_diff(other.len()) > most {
        return None;
    }
    // A row for each letter of `one`: the distances to all beginnings of `other`.
    let mut row: Vec<usize> = (0..=other.len()).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Option<char> = None;
    for (at, &letter) in one.iter().enumerate() {
        let mut next = vec![at + 1];
        let mut left = at + 1;
        let mut last_other: Option<char> = None;
        for (place, (&theirs, pair)) in other.iter().zip(row.windows(2)).enumerate() {
            let &[diagonal, above] = pair else { continue };
            let mut cost = (diagonal + usize::from(letter != theirs)).min(above + 1).min(left + 1);
            if last == Some(theirs) && last_other == Some(letter) {
                // Two rows up and two places to the left.
                cost = before.get(place.wrapping_sub(1)).map_or(cost, |swapped| cost.min(swapped + 1));
            }
            next.push(cost);
            left = cost;
            last_other = Some(theirs);
        }
        before = std::mem::replace(&mut row, next);
        last = Some(letter);
    }
    row.last().copied().filter(|distance| *distance <= most)
}

#[cfg(test)]
mod tests;
