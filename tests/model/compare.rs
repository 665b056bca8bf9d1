//! Whether two systems show the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use regentfs::types::Time;

use super::system::{Op, Result, Stat, Tree, Value};

/// How far apart two clocks may stamp the same operation: one of them is the kernel's coarse one.
const SAME_MOMENT: i64 = 20_000_000_000;

/// Compares what two systems show, the first being right.
#[derive(Clone)]
pub struct Compare {
    /// Times from here on were stamped by an operation of this test; earlier ones were set and must be equal.
    start: Time,
    /// The inode number for each file of the right system (number and birth): it must never change.
    numbers: HashMap<(u64, Time), u64>,
}

impl Compare {
    pub fn new(start: Time) -> Compare {
        Compare { start, numbers: HashMap::new() }
    }

    fn same_time(&self, right: Time, found: Time) -> bool {
        // The kernel's coarse clock may be a tick behind.
        let from = self.start.as_nanos() - 20_000_000;
        match (right.as_nanos() >= from, found.as_nanos() >= from) {
            (false, false) => right == found,
            (true, true) => (right.as_nanos() - found.as_nanos()).abs() < SAME_MOMENT,
            _ => false,
        }
    }

    pub fn stats(&self, right: &Stat, found: &Stat) -> bool {
        let same = Stat { mtime: right.mtime, ..found.clone() };
        *right == same && self.same_time(right.mtime, found.mtime)
    }

    /// What is wrong with the answer to `op`, if anything.
    pub fn answers(&self, op: &Op, right: &Result<Value>, found: &Result<Value>) -> Option<String> {
        let same = match (right, found) {
            (Ok(Value::Stat(a)), Ok(Value::Stat(b))) => self.stats(a, b),
            // Which holes there are is up to each system; what they mean is checked with the bytes.
            (Ok(_), Ok(_)) if matches!(op, Op::Seek { .. }) => true,
            (Err(regentfs::types::Errno::ENXIO), Ok(_)) | (Ok(_), Err(regentfs::types::Errno::ENXIO))
                if matches!(op, Op::Seek { .. }) =>
            {
                true
            }
            (a, b) => a == b,
        };
        (!same).then(|| format!("{op:?}\n    expected {right:?}\n    found    {found:?}"))
    }

    /// All differences between two trees, one line each.
    pub fn trees(&mut self, right: &Tree, found: &Tree) -> Vec<String> {
        let mut lines = Vec::new();
        let right_names: BTreeSet<_> = right.keys().collect();
        let found_names: BTreeSet<_> = found.keys().collect();
        for path in right_names.difference(&found_names) {
            lines.push(format!("{} is missing", path.escape_ascii()));
        }
        for path in found_names.difference(&right_names) {
            lines.push(format!("{} should not be there", path.escape_ascii()));
        }
        let mut links = BTreeMap::new();
        for (path, a) in right {
            let Some(b) = found.get(path) else { continue };
            let path = path.escape_ascii();
            if !self.stats(&a.stat, &b.stat) {
                lines.push(format!("{path}: expected {:?}\n    found {:?}", a.stat, b.stat));
            }
            if a.bytes != b.bytes {
                let at = a.bytes.iter().zip(&b.bytes).position(|(x, y)| x != y);
                let zero = |bytes: &[u8]| at.map_or(0, |at| bytes[at..].iter().take_while(|&&b| b == 0).count());
                lines.push(format!(
                    "{path}: the bytes differ from {at:?} on ({} expected from there are zero, {} found); lengths {} and {}",
                    zero(&a.bytes),
                    zero(&b.bytes),
                    a.bytes.len(),
                    b.bytes.len()
                ));
            }
            if a.xattrs != b.xattrs {
                lines.push(format!("{path}: xattrs {:?}\n    found {:?}", a.xattrs.keys(), b.xattrs.keys()));
            }
            let known = *self.numbers.entry((a.ino, a.born)).or_insert(b.ino);
            if known != b.ino {
                lines.push(format!("{path}: was inode {known}, is {}", b.ino));
            }
            let first = links.entry(b.ino).or_insert((a.ino, a.born));
            if *first != (a.ino, a.born) {
                lines.push(format!("{path}: shares inode {} with another file", b.ino));
            }
        }
        lines
    }
}

/// Whether an answer of lseek(2) is true for a file with these bytes.
pub fn seek_is_true(bytes: &[u8], offset: u64, data: bool, answer: &Result<Value>) -> std::result::Result<(), String> {
    let size = bytes.len() as u64;
    let zeros = |from: u64, to: u64| bytes[from as usize..to as usize].iter().all(|&b| b == 0);
    let holds = match answer {
        _ if offset >= size => matches!(answer, Err(regentfs::types::Errno::ENXIO)),
        Ok(Value::Number(at)) if data => *at >= offset && *at < size && zeros(offset, *at),
        Ok(Value::Number(at)) => *at >= offset && *at <= size && (*at == size || bytes[*at as usize] == 0),
        Err(regentfs::types::Errno::ENXIO) => data && zeros(offset, size),
        _ => false,
    };
    if holds {
        Ok(())
    } else {
        Err(format!("seek to {} from {offset} in {size} bytes: {answer:?}", if data { "data" } else { "a hole" }))
    }
}
