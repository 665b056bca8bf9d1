//! What really happened, and what the record says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use regentfs::types::{Range, RangeSet};
use serde_json::Value;

use super::strace::Call;

/// A process and a file, by its path below the root.
pub type Key = (u32, String);

/// What the worker logged of one process and file: how, range.
pub type Truth = BTreeMap<Key, Vec<(String, Range)>>;

/// Calls whose exact ranges `--record exact` promises.
const PLAIN: &[&str] = &["read", "pread64", "readv", "preadv", "tool"];

pub fn from_log(text: &str) -> Truth {
    let mut truth = Truth::new();
    for line in text.lines() {
        let entry: Value = serde_json::from_str(line).expect("the worker writes JSON");
        let number = |name: &str| entry[name].as_u64().unwrap_or_else(|| panic!("{name}: {line}"));
        let text = |name: &str| entry[name].as_str().unwrap_or_else(|| panic!("{name}: {line}")).to_owned();
        let pid = u32::try_from(number("pid")).expect("a pid");
        let range = Range::new(number("off"), number("len"));
        truth.entry((pid, text("path"))).or_default().push((text("how"), range));
    }
    truth
}

/// What differs between the worker's log and strace: then the truth is not known.
pub fn doubts(truth: &Truth, calls: &[Call], root: &Path) -> Vec<String> {
    let mut seen: BTreeMap<Key, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        let path = call.path.strip_prefix(root).expect("filtered by the root").to_str().expect("ASCII");
        // strace shows the name that the file has by now.
        let path = path.strip_suffix("-renamed").unwrap_or(path).to_owned();
        seen.entry((call.pid, path)).or_default().push(call);
    }
    let keys: BTreeSet<&Key> = truth.keys().chain(seen.keys()).collect();
    let mut doubts = Vec::new();
    for key in keys {
        let (logged, called) =
            (truth.get(key).map_or(&[][..], Vec::as_slice), seen.get(key).map_or(&[][..], Vec::as_slice));
        let by_tool: u64 = logged.iter().filter(|(how, _)| how == "tool").map(|(_, range)| range.len).sum();
        let mut logged: Vec<(&str, Option<u64>, u64)> = logged
            .iter()
            .filter(|(how, _)| !["mmap", "exec", "tool"].contains(&how.as_str()))
            .map(|(how, range)| (&**how, Some(range.offset), range.len))
            .collect();
        let mut called: Vec<_> = called.iter().map(|c| (&*c.name, c.offset, c.len)).collect();
        if by_tool > 0 {
            // A tool reads as it likes.
            let called: u64 = called.iter().map(|c| c.2).sum();
            let logged = by_tool + logged.iter().map(|l| l.2).sum::<u64>();
            if logged != called {
                doubts.push(format!("{key:?}: a tool read {logged} bytes, by strace {called}"));
            }
            continue;
        }
        called.sort();
        // read(2) and its like do not say where they read.
        for call in called.iter().filter(|c| c.1.is_some()).chain(called.iter().filter(|c| c.1.is_none())) {
            let same =
                |l: &(&str, Option<u64>, u64)| (l.0, l.2) == (call.0, call.2) && call.1.is_none_or(|o| l.1 == Some(o));
            match logged.iter().position(same) {
                Some(at) => drop(logged.swap_remove(at)),
                None => doubts.push(format!("{key:?}: {call:?} by strace, not logged")),
            }
        }
        doubts.extend(logged.iter().map(|call| format!("{key:?}: {call:?} logged, not seen by strace")));
    }
    doubts
}

/// The recorded read-sets: of each process and file what was observed, and all.
#[derive(Default)]
pub struct Recorded {
    observed: BTreeMap<Key, RangeSet>,
    all: BTreeMap<Key, RangeSet>,
}

impl Recorded {
    /// From the objects of `regentfs reads --json`.
    pub fn from_rows(rows: &[Value]) -> Recorded {
        let mut recorded = Recorded::default();
        for row in rows {
            let pid = row["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
            let key = (pid, row["path"].as_str().expect("a path").to_owned());
            for range in row["ranges"].as_array().expect("ranges") {
                let range = Range::new(range[0].as_u64().expect("an offset"), range[1].as_u64().expect("a length"));
                recorded.all.entry(key.clone()).or_default().insert(range);
                match row["known"].as_str() {
                    Some("observed") => {
                        recorded.observed.entry(key.clone()).or_default().insert(range);
                    }
                    Some("inferred") => {}
                    other => panic!("known: {other:?}"),
                }
            }
        }
        recorded
    }

    /// Ranges that a process read and that the record does not have.
    pub fn missing(&self, truth: &Truth) -> Vec<String> {
        let mut missing = Vec::new();
        for (key, reads) in truth {
            let (pid, path) = key;
            let mut all = self.all.get(key).cloned().unwrap_or_default();
            // A file that got another name meanwhile may be in the record under either.
            let renamed = self.all.get(&(*pid, format!("{path}-renamed"))).cloned().unwrap_or_default();
            renamed.as_slice().iter().for_each(|range| {
                all.insert(*range);
            });
            for (how, range) in reads {
                if !all.contains(*range) {
                    let has = all.as_slice();
                    missing.push(format!("{pid} {path}: {how} of {range:?}, recorded {has:?}"));
                }
            }
        }
        missing
    }

    /// Where what was observed is not what was read, of files that a process read by read(2) and its like only.
    pub fn inexact(&self, truth: &Truth) -> Vec<String> {
        let mut wrong = Vec::new();
        for (key, reads) in truth {
            if !reads.iter().all(|(how, _)| PLAIN.contains(&how.as_str())) || key.1.starts_with("gone/") {
                continue;
            }
            let mut read = RangeSet::new();
            for (_, range) in reads {
                read.insert(*range);
            }
            let observed = self.observed.get(key).cloned().unwrap_or_default();
            if observed != read {
                wrong.push(format!("{key:?}: read {:?}, observed {:?}", read.as_slice(), observed.as_slice()));
            }
        }
        // Nobody is said to have read what it did not.
        for (key, ranges) in &self.observed {
            if !truth.contains_key(key) && !key.1.ends_with("-renamed") {
                wrong.push(format!("{key:?}: never read, observed {:?}", ranges.as_slice()));
            }
        }
        wrong
    }
}
