//! An actor as bytes in the store: a version byte, then its fields, little-endian, byte strings with their length.
//!
//! Knows no keys and no store. Decoding never trusts a length: garbage gives a [`DecodeError`], not a panic or a huge
//! allocation. The layout is pinned by a golden test; a change of it needs a new version byte.

use super::{Actor, Details, Exit, Image};
use crate::types::{ActorId, Time};

/// The layout that is written; those before are read.
const VERSION: u8 = 4;

/// Why bytes are not an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("written by a newer regentfs (actor layout {0})")]
    Version(u8),
    #[error("cut short")]
    Short,
    #[error("{0} bytes too many")]
    Trailing(usize),
    #[error("no such {0}: {1}")]
    Tag(&'static str, u8),
}

/// The bytes that [`decode`] reads back.
pub fn encode(actor: &Actor) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(256));
    out.byte(VERSION);
    out.long(actor.id.0);
    out.word(actor.pid);
    out.long(actor.start);
    out.word(actor.ppid);
    match actor.parent {
        None => out.byte(0),
        Some(parent) => {
            out.byte(1);
            out.long(parent.0);
        }
    }
    out.word(actor.uid);
    out.word(actor.sid);
    out.word(actor.tty);
    out.byte(u8::from(actor.prompts));
    out.bytes(&actor.comm);
    out.bytes(&actor.exe);
    out.list(&actor.argv);
    out.byte(u8::from(actor.argv_truncated));
    out.bytes(&actor.cwd);
    out.word(actor.marks.len() as u32);
    for (name, value) in &actor.marks {
        out.bytes(name);
        out.bytes(value);
    }
    out.bytes(actor.version.as_deref().unwrap_or_default());
    out.word(actor.images.len() as u32);
    for image in &actor.images {
        out.time(image.until);
        out.bytes(&image.exe);
        out.list(&image.argv);
    }
    out.time(actor.first);
    out.time(actor.last);
    match actor.exit {
        None => out.byte(0),
        Some(exit) => {
            let (tag, value) = match exit {
                Exit::Code(code) => (1, code),
                Exit::Signal(signal) => (2, signal),
                Exit::Unknown => (3, 0),
            };
            out.byte(tag);
            out.word(value as u32);
            out.time(actor.exit_at.unwrap_or(actor.last));
        }
    }
    out.byte(match actor.details {
        Details::Full => 0,
        Details::Inherited => 1,
        Details::Missing => 2,
    });
    out.0
}

/// The actor that [`encode`] wrote.
pub fn decode(bytes: &[u8]) -> Result<Actor, DecodeError> {
    let mut from = Reader(bytes);
    let version = from.byte()?;
    if !(1..=VERSION).contains(&version) {
        return Err(DecodeError::Version(version));
    }
    let id = ActorId(from.long()?);
    let pid = from.word()?;
    let start = from.long()?;
    let ppid = from.word()?;
    let parent = match from.byte()? {
        0 => None,
        1 => Some(ActorId(from.long()?)),
        tag => return Err(DecodeError::Tag("parent", tag)),
    };
    let uid = from.word()?;
    let (sid, tty) = if version > 1 { (from.word()?, from.word()?) } else { (0, 0) };
    let prompts = version > 3 && from.flag("mark of a prompt")?;
    let comm = from.bytes()?;
    let exe = from.bytes()?;
    let argv = from.list()?;
    let argv_truncated = from.flag("truncation mark")?;
    let cwd = from.bytes()?;
    let mut marks = Vec::new();
    for _ in 0..if version > 1 { from.word()? } else { 0 } {
        marks.push((from.bytes()?, from.bytes()?));
    }
    let running = if version > 2 { Some(from.bytes()?).filter(|running| !running.is_empty()) } else { None };
    let mut images = Vec::new();
    for _ in 0..from.word()? {
        images.push(Image { until: from.time()?, exe: from.bytes()?, argv: from.list()? });
    }
    let first = from.time()?;
    let last = from.time()?;
    let (exit, exit_at) = match from.byte()? {
        0 => (None, None),
        tag => {
            let value = from.word()? as i32;
            let exit = match tag {
                1 => Exit::Code(value),
                2 => Exit::Signal(value),
                3 => Exit::Unknown,
                tag => return Err(DecodeError::Tag("exit", tag)),
            };
            (Some(exit), Some(from.time()?))
        }
    };
    let details = match from.byte()? {
        0 => Details::Full,
        1 => Details::Inherited,
        2 => Details::Missing,
        tag => return Err(DecodeError::Tag("level of detail", tag)),
    };
    if !from.0.is_empty() {
        return Err(DecodeError::Trailing(from.0.len()));
    }
    Ok(Actor {
        id,
        pid,
        start,
        ppid,
        parent,
        uid,
        sid,
        tty,
        prompts,
        comm,
        exe,
        argv,
        argv_truncated,
        cwd,
        marks,
        version: running,
        images,
        first,
        last,
        exit,
        exit_at,
        details,
    })
}

struct Writer(Vec<u8>);

impl Writer {
    fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    fn word(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn long(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn time(&mut self, time: Time) {
        self.long(time.secs as u64);
        self.word(time.nanos);
    }

    /// What is written here is at most [`super::procfs::CMDLINE_BYTES`], so the length fits.
    fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
    }

    fn list(&mut self, list: &[Vec<u8>]) {
        self.word(list.len() as u32);
        list.iter().for_each(|bytes| self.bytes(bytes));
    }
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, length: usize) -> Result<&'b [u8], DecodeError> {
        let (head, tail) = self.0.split_at_checked(length).ok_or(DecodeError::Short)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Short)?;
        self.0 = tail;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(DecodeError::Tag(what, tag)),
        }
    }

    fn word(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    fn time(&mut self) -> Result<Time, DecodeError> {
        Ok(Time { secs: self.long()? as i64, nanos: self.word()? })
    }

    fn bytes(&mut self) -> Result<Vec<u8>, DecodeError> {
        let length = self.word()? as usize;
        self.take(length).map(<[u8]>::to_vec)
    }

    fn list(&mut self) -> Result<Vec<Vec<u8>>, DecodeError> {
        let mut list = Vec::new();
        for _ in 0..self.word()? {
            list.push(self.bytes()?);
        }
        Ok(list)
    }
}

/// One with something in every field.
#[cfg(test)]
pub(super) fn sample() -> Actor {
    Actor {
        id: ActorId(7),
        pid: 4242,
        start: 99,
        ppid: 41,
        parent: Some(ActorId(3)),
        uid: 1000,
        sid: 40,
        tty: 34816,
        prompts: true,
        comm: b"sh".to_vec(),
        exe: b"/bin/\xff".to_vec(),
        argv: vec![b"sh".to_vec(), b"".to_vec()],
        argv_truncated: false,
        cwd: b"/".to_vec(),
        marks: vec![(b"M".to_vec(), b"1".to_vec())],
        version: Some(b"1.2".to_vec()),
        images: vec![Image { until: Time::new(5, 6), exe: b"/e".to_vec(), argv: vec![b"a".to_vec()] }],
        first: Time::new(-1, 999_999_999),
        last: Time::new(2, 3),
        exit: Some(Exit::Signal(9)),
        exit_at: Some(Time::new(4, 5)),
        details: Details::Inherited,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        #[rustfmt::skip]
        let golden: &[u8] = &[
            4,
            7, 0, 0, 0, 0, 0, 0, 0,
            0x92, 0x10, 0, 0,
            99, 0, 0, 0, 0, 0, 0, 0,
            41, 0, 0, 0,
            1, 3, 0, 0, 0, 0, 0, 0, 0,
            0xe8, 3, 0, 0,
            40, 0, 0, 0, 0, 0x88, 0, 0,
            1,
            2, 0, 0, 0, b's', b'h',
            6, 0, 0, 0, b'/', b'b', b'i', b'n', b'/', 0xff,
            2, 0, 0, 0, 2, 0, 0, 0, b's', b'h', 0, 0, 0, 0,
            0,
            1, 0, 0, 0, b'/',
            1, 0, 0, 0, 1, 0, 0, 0, b'M', 1, 0, 0, 0, b'1',
            3, 0, 0, 0, b'1', b'.', b'2',
            1, 0, 0, 0,
            5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 2, 0, 0, 0, b'/', b'e', 1, 0, 0, 0, 1, 0, 0, 0, b'a',
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc9, 0x9a, 0x3b,
            2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0,
            2, 9, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0,
            1,
        ];
        assert_eq!(encode(&sample()), golden);
        assert_eq!(decode(golden), Ok(sample()));
    }

    /// What stores have that were written before sessions and agents were told apart.
    #[test]
    fn layout_1_is_read() {
        #[rustfmt::skip]
        let golden: &[u8] = &[
            1,
            7, 0, 0, 0, 0, 0, 0, 0,
            0x92, 0x10, 0, 0,
            99, 0, 0, 0, 0, 0, 0, 0,
            41, 0, 0, 0,
            1, 3, 0, 0, 0, 0, 0, 0, 0,
            0xe8, 3, 0, 0,
            2, 0, 0, 0, b's', b'h',
            6, 0, 0, 0, b'/', b'b', b'i', b'n', b'/', 0xff,
            2, 0, 0, 0, 2, 0, 0, 0, b's', b'h', 0, 0, 0, 0,
            0,
            1, 0, 0, 0, b'/',
            1, 0, 0, 0,
            5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 2, 0, 0, 0, b'/', b'e', 1, 0, 0, 0, 1, 0, 0, 0, b'a',
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc9, 0x9a, 0x3b,
            2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0,
            2, 9, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0,
            1,
        ];
        assert_eq!(
            decode(golden),
            Ok(Actor { sid: 0, tty: 0, prompts: false, marks: Vec::new(), version: None, ..sample() })
        );
    }

    /// What stores have that were written before versions of agents were known.
    #[test]
    fn layout_2_is_read() {
        #[rustfmt::skip]
        let golden: &[u8] = &[
            2,
            7, 0, 0, 0, 0, 0, 0, 0,
            0x92, 0x10, 0, 0,
            99, 0, 0, 0, 0, 0, 0, 0,
            41, 0, 0, 0,
            1, 3, 0, 0, 0, 0, 0, 0, 0,
            0xe8, 3, 0, 0,
            40, 0, 0, 0, 0, 0x88, 0, 0,
            2, 0, 0, 0, b's', b'h',
            6, 0, 0, 0, b'/', b'b', b'i', b'n', b'/', 0xff,
            2, 0, 0, 0, 2, 0, 0, 0, b's', b'h', 0, 0, 0, 0,
            0,
            1, 0, 0, 0, b'/',
            1, 0, 0, 0, 1, 0, 0, 0, b'M', 1, 0, 0, 0, b'1',
            1, 0, 0, 0,
            5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 2, 0, 0, 0, b'/', b'e', 1, 0, 0, 0, 1, 0, 0, 0, b'a',
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc9, 0x9a, 0x3b,
            2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0,
            2, 9, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0,
            1,
        ];
        assert_eq!(decode(golden), Ok(Actor { prompts: false, version: None, ..sample() }));
    }

    /// What stores have that were written before nested shells were told apart from commands.
    #[test]
    fn layout_3_is_read() {
        #[rustfmt::skip]
        let golden: &[u8] = &[
            3,
            7, 0, 0, 0, 0, 0, 0, 0,
            0x92, 0x10, 0, 0,
            99, 0, 0, 0, 0, 0, 0, 0,
            41, 0, 0, 0,
            1, 3, 0, 0, 0, 0, 0, 0, 0,
            0xe8, 3, 0, 0,
            40, 0, 0, 0, 0, 0x88, 0, 0,
            2, 0, 0, 0, b's', b'h',
            6, 0, 0, 0, b'/', b'b', b'i', b'n', b'/', 0xff,
            2, 0, 0, 0, 2, 0, 0, 0, b's', b'h', 0, 0, 0, 0,
            0,
            1, 0, 0, 0, b'/',
            1, 0, 0, 0, 1, 0, 0, 0, b'M', 1, 0, 0, 0, b'1',
            3, 0, 0, 0, b'1', b'.', b'2',
            1, 0, 0, 0,
            5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 2, 0, 0, 0, b'/', b'e', 1, 0, 0, 0, 1, 0, 0, 0, b'a',
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc9, 0x9a, 0x3b,
            2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0,
            2, 9, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0,
            1,
        ];
        assert_eq!(decode(golden), Ok(Actor { prompts: false, ..sample() }));
    }

    #[test]
    fn every_variant_comes_back() {
        for exit in [None, Some(Exit::Code(-1)), Some(Exit::Code(3)), Some(Exit::Signal(11)), Some(Exit::Unknown)] {
            for details in [Details::Full, Details::Inherited, Details::Missing] {
                let exit_at = exit.map(|_| Time::new(9, 9));
                let actor =
                    Actor { exit, exit_at, details, parent: None, argv_truncated: true, version: None, ..sample() };
                assert_eq!(decode(&encode(&actor)), Ok(actor));
            }
        }
    }

    #[test]
    fn garbage_is_refused() {
        let good = encode(&sample());
        for length in 0..good.len() {
            assert_eq!(decode(&good[..length]), Err(DecodeError::Short));
        }
        let mut long = good.clone();
        long.push(0);
        assert_eq!(decode(&long), Err(DecodeError::Trailing(1)));
        assert_eq!(decode(&[9]), Err(DecodeError::Version(9)));
        // No byte may make it panic or allocate without bound, whatever it becomes.
        for at in 0..good.len() {
            for value in [0, 1, 2, 4, 0x7f, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = decode(&bad);
            }
        }
    }
}
