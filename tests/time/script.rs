//! Operations as text: what a failed run prints can be run again, and what was wrong once is kept as such a text.
//!
//! A line is an operation; what is in parentheses at its end is for people. A file is a path (`/` is the root) or `#` and the place of an open one.

use super::op::{Make, Op, Pick, Room, Which};
use super::tree::show;

/// The bytes of a path as [`show`] prints it.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.trim_start_matches('/').as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.strip_prefix(b"x").filter(|_| first == b'\\').and_then(|d| d.get(..2));
        let byte = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[3..] } else { after };
    }
    bytes
}

struct Words<'t> {
    line: &'t str,
    words: std::vec::IntoIter<&'t str>,
}

impl<'t> Words<'t> {
    fn next(&mut self) -> &'t str {
        self.words.next().unwrap_or_else(|| panic!("too short: {}", self.line))
    }

    fn number(&mut self) -> u64 {
        let word = self.next();
        word.parse().unwrap_or_else(|_| panic!("{word} is no number: {}", self.line))
    }

    fn perm(&mut self) -> u16 {
        u16::from_str_radix(self.next(), 8).unwrap_or_else(|_| panic!("no permissions: {}", self.line))
    }

    fn at(&mut self) -> Pick {
        Pick::At(unescaped(self.next()))
    }

    /// A directory and a name in it.
    fn place(&mut self) -> (Pick, Vec<u8>) {
        let path = unescaped(self.next());
        let at = path.iter().rposition(|&b| b == b'/');
        let (dir, name) = at.map_or((&b""[..], &path[..]), |at| (&path[..at], &path[at + 1..]));
        (Pick::At(dir.to_vec()), name.to_vec())
    }

    fn which(&mut self) -> Which {
        let word = self.next();
        match word.strip_prefix('#') {
            Some(place) => Which::Open(Pick::At(place.as_bytes().to_vec())),
            None => Which::Path(Pick::At(unescaped(word))),
        }
    }

    fn point(&mut self) -> Pick {
        Pick::At(self.next().as_bytes().to_vec())
    }

    fn make(&mut self) -> Make {
        match self.next() {
            "file" => Make::File,
            "dir" => Make::Dir,
            "symlink" => Make::Symlink,
            "fifo" => Make::Fifo,
            other => panic!("what is {other}?"),
        }
    }

    fn room(&mut self) -> Room {
        match self.next() {
            "Extend" => Room::Extend,
            "Reserve" => Room::Reserve,
            "Punch" => Room::Punch,
            "Zero" => Room::Zero,
            "ZeroKeep" => Room::ZeroKeep,
            other => panic!("what is {other}?"),
        }
    }
}

/// The operation in a line.
fn op(line: &str) -> Op {
    let words: Vec<&str> = line.split('(').next().unwrap_or_default().split_whitespace().collect();
    let mut w = Words { line, words: words.into_iter() };
    match w.next() {
        "create" => {
            let (dir, name) = w.place();
            Op::Create { dir, name, what: w.make(), perm: w.perm() }
        }
        "open" => Op::Open { file: w.at() },
        "close" => match w.which() {
            Which::Open(open) => Op::Close { open },
            Which::Path(_) => panic!("close what? {line}"),
        },
        "write" => Op::Write {
            which: w.which(),
            offset: w.number(),
            len: w.number(),
            fill: w.number() as u8,
            append: w.words.next() == Some("append"),
        },
        "truncate" => Op::Truncate { which: w.which(), size: w.number() },
        "fallocate" => Op::Allocate { which: w.which(), how: w.room(), offset: w.number(), len: w.number() },
        "copy" => {
            Op::Copy { from: w.which(), from_offset: w.number(), to: w.which(), to_offset: w.number(), len: w.number() }
        }
        "remove" => Op::Remove { spot: w.at() },
        "rename" => {
            let spot = w.at();
            let (dir, name) = w.place();
            Op::Rename { spot, dir, name }
        }
        "exchange" => Op::Exchange { one: w.at(), two: w.at() },
        "link" => {
            let spot = w.at();
            let (dir, name) = w.place();
            Op::Link { spot, dir, name }
        }
        "chmod" => Op::Chmod { which: w.which(), perm: w.perm() },
        "chown" => Op::Chown { which: w.which(), uid: w.number() as u32, gid: w.number() as u32 },
        "utimens" => Op::Mtime { which: w.which(), secs: w.number() as u32 },
        "setxattr" => Op::SetXattr { which: w.which(), name: unescaped(w.next()), len: w.number() as u8 },
        "removexattr" => Op::RemoveXattr { which: w.which(), name: unescaped(w.next()) },
        "snapshot" => Op::Snapshot,
        "rewind" => Op::Rewind { point: w.point() },
        "restore" => Op::Restore { point: w.point(), paths: w.words.map(|p| Pick::At(unescaped(p))).collect() },
        "undo" => Op::Undo { force: w.words.next() == Some("force") },
        "redo" => Op::Redo { force: w.words.next() == Some("force") },
        "forget" => Op::Forget { salt: w.number() },
        "restart" => Op::Restart,
        "look" => Op::Look { point: w.point() },
        "diff" => Op::Diff { from: w.point(), to: w.point() },
        "compare" => Op::Compare,
        other => panic!("what is {other}? {line}"),
    }
}

/// The operations in a text.
///
/// # Panics
/// When a line makes no sense.
pub fn parse(text: &str) -> Vec<Op> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('(')).map(op).collect()
}

#[test]
fn what_is_shown_is_read_back() {
    for path in [&b"a/b"[..], b"", b"n3\xff", b"x/\xfe\x01y"] {
        assert_eq!(unescaped(&show(path)), path);
    }
}
