//! Values of the store as bytes. Little-endian, each with a leading layout number; docs/FORMAT.md describes every field.
//!
//! Decoding never panics: whatever the disk holds, the answer is a value or [`StoreError::Corrupt`].

use smallvec::SmallVec;

use super::{Result, StoreError};
use crate::types::event::ContentRef;
use crate::types::{
    ActorId, Attr, Epoch, Errno, Event, HandleId, Ino, Kind, Known, Name, Note, Op, Path, Range, Seq, Time, VersionId,
};

/// Appends fields to a buffer.
pub struct Writer<'a>(pub &'a mut Vec<u8>);

impl Writer<'_> {
    pub fn u8(&mut self, v: u8) {
        self.0.push(v);
    }

    pub fn u16(&mut self, v: u16) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }

    pub fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }

    pub fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }

    pub fn time(&mut self, t: Time) {
        self.0.extend_from_slice(&t.secs.to_le_bytes());
        self.u32(t.nanos);
    }

    /// A length (u32) and that many bytes.
    pub fn bytes(&mut self, v: &[u8]) {
        // Names, paths, targets and xattr values are bounded by the kernel far below 4 GiB.
        self.u32(u32::try_from(v.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(v);
    }
}

/// Takes fields from a buffer.
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], what: &'static str) -> Reader<'a> {
        Reader { rest: bytes, what }
    }

    pub fn corrupt(&self, why: &str) -> StoreError {
        StoreError::corrupt(format!("{}: {why}", self.what))
    }

    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(n) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(self.corrupt("too short")),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| self.corrupt("too short"))
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn time(&mut self) -> Result<Time> {
        let secs = i64::from_le_bytes(self.array()?);
        let nanos = self.u32()?;
        if nanos >= 1_000_000_000 {
            return Err(self.corrupt("nanoseconds out of range"));
        }
        Ok(Time::new(secs, nanos))
    }

    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    pub fn layout(&mut self, known: u8) -> Result<()> {
        match self.u8()? {
            n if n == known => Ok(()),
            n => Err(self.corrupt(&format!("layout {n}, expected {known}"))),
        }
    }

    /// Everything must have been taken.
    pub fn end(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.corrupt("too long")) }
    }
}

/// Where the bytes of a regular file come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The base file, as it is.
    Base,
    /// A version in the store, changed `stamp` times.
    Version { id: VersionId, stamp: u64 },
    /// Not a regular file, or an empty one that was never written.
    None,
}

/// What a base file looked like when its inode was first changed here: apply compares it before it overwrites anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Print {
    pub size: u64,
    pub mtime: Time,
    pub ctime: Time,
}

/// Where an inode comes from in the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Path below the base's root at first sight; for a directory its children are still found below it.
    pub path: Path,
    pub dev: u64,
    pub ino: u64,
    /// Birth time where the file system has one.
    pub born: Option<Time>,
    pub print: Print,
}

/// Extended attributes, sorted by name.
pub type Xattrs = Vec<(Name, Box<[u8]>)>;

/// An inode that differs from the base or is not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InodeRecord {
    pub attr: Attr,
    pub content: Content,
    /// A directory that shows nothing of its base directory.
    pub opaque: bool,
    pub origin: Option<Origin>,
    pub target: Option<Box<[u8]>>,
    /// `None`: those of the base file, if there is one.
    pub xattrs: Option<Xattrs>,
}

const INODE_LAYOUT: u8 = 1;

pub fn put_inode(out: &mut Vec<u8>, r: &InodeRecord) {
    let mut w = Writer(out);
    w.u8(INODE_LAYOUT);
    w.u8(r.attr.kind as u8);
    w.u16(r.attr.perm);
    w.u32(r.attr.nlink);
    w.u32(r.attr.uid);
    w.u32(r.attr.gid);
    w.u32(r.attr.rdev);
    w.u64(r.attr.size);
    w.u64(r.attr.blocks);
    w.time(r.attr.atime);
    w.time(r.attr.mtime);
    w.time(r.attr.ctime);
    let (tag, id, stamp) = match r.content {
        Content::None => (0, 0, 0),
        Content::Base => (1, 0, 0),
        Content::Version { id, stamp } => (2, id.0, stamp),
    };
    w.u8(tag);
    w.u64(id);
    w.u64(stamp);
    let flags = u8::from(r.opaque)
        | u8::from(r.origin.is_some()) << 1
        | u8::from(r.target.is_some()) << 2
        | u8::from(r.xattrs.is_some()) << 3;
    w.u8(flags);
    if let Some(o) = &r.origin {
        w.bytes(o.path.as_bytes());
        w.u64(o.dev);
        w.u64(o.ino);
        w.u8(u8::from(o.born.is_some()));
        w.time(o.born.unwrap_or_default());
        w.u64(o.print.size);
        w.time(o.print.mtime);
        w.time(o.print.ctime);
    }
    if let Some(target) = &r.target {
        w.bytes(target);
    }
    if let Some(xattrs) = &r.xattrs {
        w.u32(xattrs.len() as u32);
        for (name, value) in xattrs {
            w.bytes(name);
            w.bytes(value);
        }
    }
}

pub fn get_inode(ino: Ino, bytes: &[u8]) -> Result<InodeRecord> {
    let mut r = Reader::new(bytes, "inode");
    r.layout(INODE_LAYOUT)?;
    let kind = Kind::from_u8(r.u8()?).ok_or_else(|| r.corrupt("unknown file type"))?;
    let attr = Attr {
        ino,
        kind,
        perm: r.u16()?,
        nlink: r.u32()?,
        uid: r.u32()?,
        gid: r.u32()?,
        rdev: r.u32()?,
        size: r.u64()?,
        blocks: r.u64()?,
        atime: r.time()?,
        mtime: r.time()?,
        ctime: r.time()?,
    };
    let (tag, id, stamp) = (r.u8()?, r.u64()?, r.u64()?);
    let content = match tag {
        0 => Content::None,
        1 => Content::Base,
        2 => Content::Version { id: VersionId(id), stamp },
        _ => return Err(r.corrupt("unknown content")),
    };
    let flags = r.u8()?;
    if flags & !0xf != 0 {
        return Err(r.corrupt("unknown flags"));
    }
    let origin = if flags & 2 != 0 {
        let path = Path::new(r.bytes()?);
        let (dev, ino) = (r.u64()?, r.u64()?);
        let has_born = r.u8()? != 0;
        let born = r.time()?;
        let print = Print { size: r.u64()?, mtime: r.time()?, ctime: r.time()? };
        Some(Origin { path, dev, ino, born: has_born.then_some(born), print })
    } else {
        None
    };
    let target = if flags & 4 != 0 { Some(r.bytes()?.into()) } else { None };
    let xattrs = if flags & 8 != 0 {
        let count = r.u32()?;
        let mut list = Vec::new();
        for _ in 0..count {
            let name = r.bytes()?.into();
            list.push((name, r.bytes()?.into()));
        }
        Some(list)
    } else {
        None
    };
    r.end()?;
    Ok(InodeRecord { attr, content, opaque: flags & 1 != 0, origin, target, xattrs })
}

/// What a name in a directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dentry {
    /// The base's entry of that name is gone. The number is that of the base file it hid, 0 where that is not known.
    Whiteout {
        hid: Ino,
    },
    Entry {
        ino: Ino,
        kind: Kind,
    },
}

const DENTRY_LAYOUT: u8 = 1;

pub fn put_dentry(out: &mut Vec<u8>, d: Dentry) {
    let mut w = Writer(out);
    w.u8(DENTRY_LAYOUT);
    match d {
        Dentry::Whiteout { hid } => {
            w.u8(0);
            w.u64(hid.0);
        }
        Dentry::Entry { ino, kind } => {
            w.u8(kind as u8);
            w.u64(ino.0);
        }
    }
}

pub fn get_dentry(bytes: &[u8]) -> Result<Dentry> {
    let mut r = Reader::new(bytes, "dentry");
    r.layout(DENTRY_LAYOUT)?;
    let (kind, ino) = (r.u8()?, r.u64()?);
    let dentry = match Kind::from_u8(kind) {
        Some(kind) => Dentry::Entry { ino: Ino(ino), kind },
        None if kind == 0 => Dentry::Whiteout { hid: Ino(ino) },
        None => return Err(r.corrupt("unknown file type")),
    };
    r.end()?;
    Ok(dentry)
}

/// What lies under a version: where the chunks come from that it does not have itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// Nothing: all bytes are the version's own.
    None,
    Base,
    Version(VersionId),
    /// Extents that are written down with the version: no other version has to be looked at to read it.
    Map,
}

/// A version without its own chunks, which are keys of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRecord {
    pub ino: Ino,
    pub epoch: Epoch,
    pub parent: Parent,
    /// Bytes of the parent that still show: behind it, what is not the version's own is zero.
    pub limit: u64,
    /// Who made it; everybody else who wrote to it belongs to the same step. The kernel for what no process wrote, and where that is not known.
    pub by: ActorId,
}

/// Layout 1 does not know who.
const VERSION_LAYOUT: u8 = 2;

pub fn put_version(out: &mut Vec<u8>, v: &VersionRecord) {
    let mut w = Writer(out);
    w.u8(VERSION_LAYOUT);
    w.u64(v.ino.0);
    w.u64(v.epoch.0);
    let (tag, parent) = match v.parent {
        Parent::None => (0, 0),
        Parent::Base => (1, 0),
        Parent::Version(id) => (2, id.0),
        Parent::Map => (3, 0),
    };
    w.u8(tag);
    w.u64(parent);
    w.u64(v.limit);
    w.u64(v.by.0);
}

pub fn get_version(bytes: &[u8]) -> Result<VersionRecord> {
    let mut r = Reader::new(bytes, "version");
    let layout = r.u8()?;
    if !(1..=VERSION_LAYOUT).contains(&layout) {
        return Err(r.corrupt(&format!("layout {layout}, expected {VERSION_LAYOUT}")));
    }
    let (ino, epoch, tag, parent) = (Ino(r.u64()?), Epoch(r.u64()?), r.u8()?, r.u64()?);
    let parent = match tag {
        0 => Parent::None,
        1 => Parent::Base,
        2 => Parent::Version(VersionId(parent)),
        3 => Parent::Map,
        _ => return Err(r.corrupt("unknown parent")),
    };
    let limit = r.u64()?;
    let by = ActorId(if layout == 1 { 0 } else { r.u64()? });
    r.end()?;
    Ok(VersionRecord { ino, epoch, parent, limit, by })
}

const EVENT_LAYOUT: u8 = 1;

/// The event without its number, which is its key.
pub fn put_event(out: &mut Vec<u8>, time: Time, epoch: Epoch, actor: ActorId, note: &Note) {
    let mut w = Writer(out);
    w.u8(EVENT_LAYOUT);
    w.u8(note.op as u8);
    w.u8(note.known as u8);
    w.u8(u8::from(note.path2.is_some()));
    w.time(time);
    w.u64(epoch.0);
    w.u64(actor.0);
    w.u64(note.ino.0);
    w.u64(note.handle.0);
    w.u32(note.flags);
    w.u32(note.errno.map_or(0, |e| e.0 as u32));
    for content in [note.before, note.after] {
        w.u64(content.version.0);
        w.u64(content.stamp);
    }
    w.bytes(note.path.as_bytes());
    if let Some(path2) = &note.path2 {
        w.bytes(path2.as_bytes());
    }
    w.u32(note.ranges.len() as u32);
    for range in &note.ranges {
        w.u64(range.offset);
        w.u64(range.len);
    }
}

pub fn get_event(seq: Seq, bytes: &[u8]) -> Result<Event> {
    let mut r = Reader::new(bytes, "event");
    r.layout(EVENT_LAYOUT)?;
    let op = Op::from_u8(r.u8()?).ok_or_else(|| r.corrupt("unknown operation"))?;
    let known = match r.u8()? {
        1 => Known::Observed,
        2 => Known::Inferred,
        _ => return Err(r.corrupt("unknown way of knowing")),
    };
    let has_path2 = r.u8()? != 0;
    let (time, epoch, actor) = (r.time()?, Epoch(r.u64()?), ActorId(r.u64()?));
    let (ino, handle, flags, errno) = (Ino(r.u64()?), HandleId(r.u64()?), r.u32()?, r.u32()?);
    let mut content = || -> Result<ContentRef> { Ok(ContentRef { version: VersionId(r.u64()?), stamp: r.u64()? }) };
    let (before, after) = (content()?, content()?);
    let path = Path::new(r.bytes()?);
    let path2 = if has_path2 { Some(Path::new(r.bytes()?)) } else { None };
    let count = r.u32()?;
    let mut ranges = SmallVec::new();
    for _ in 0..count {
        ranges.push(Range::new(r.u64()?, r.u64()?));
    }
    r.end()?;
    let errno = (errno != 0).then_some(Errno(errno as i32));
    let note = Note { op, known, ino, path, path2, handle, flags, ranges, errno, before, after };
    Ok(Event { seq, time, epoch, actor, note })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::hex;

    fn inode() -> InodeRecord {
        InodeRecord {
            attr: Attr {
                ino: Ino(9),
                kind: Kind::File,
                perm: 0o644,
                nlink: 2,
                uid: 1000,
                gid: 1001,
                rdev: 0,
                size: 5,
                blocks: 8,
                atime: Time::new(1, 2),
                mtime: Time::new(-3, 4),
                ctime: Time::new(5, 6),
            },
            content: Content::Version { id: VersionId(7), stamp: 3 },
            opaque: false,
            origin: Some(Origin {
                path: Path::new(b"a/b"),
                dev: 1,
                ino: 9,
                born: Some(Time::new(8, 9)),
                print: Print { size: 4, mtime: Time::new(1, 1), ctime: Time::new(2, 2) },
            }),
            target: None,
            xattrs: Some(vec![(b"user.x"[..].into(), b"y"[..].into())]),
        }
    }

    fn event() -> (Time, Epoch, ActorId, Note) {
        let mut note = Note::new(Op::Rename, Ino(9), Path::new(b"a"))
            .with_path2(Path::new(b"b\xff"))
            .with_range(Range::new(1, 2))
            .with_errno(Errno::EXDEV);
        note.after = ContentRef { version: VersionId(4), stamp: 5 };
        (Time::new(1, 2), Epoch(1), ActorId(3), note)
    }

    /// The layouts are on users' disks: a change here needs a new layout number and a line in docs/FORMAT.md.
    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        put_inode(&mut out, &inode());
        assert_eq!(
            hex(&out),
            concat!(
                "0101a40102000000e8030000e9030000000000000500000000000000080000000000000001000000000000000200",
                "0000fdffffffffffffff04000000050000000000000006000000020700000000000000030000000000000",
                "00a03000000612f620100000000000000090000000000000001080000000000000009000000040000000000000001",
                "0000000000000001000000020000000000000002000000010000000600000",
                "0757365722e780100000079"
            )
        );
        assert_eq!(get_inode(Ino(9), &out).unwrap(), inode());

        out.clear();
        put_dentry(&mut out, Dentry::Entry { ino: Ino(258), kind: Kind::Dir });
        assert_eq!(hex(&out), "01020201000000000000");
        assert_eq!(get_dentry(&out).unwrap(), Dentry::Entry { ino: Ino(258), kind: Kind::Dir });

        out.clear();
        let version = VersionRecord {
            ino: Ino(1),
            epoch: Epoch(2),
            parent: Parent::Version(VersionId(3)),
            limit: 4,
            by: ActorId(5),
        };
        put_version(&mut out, &version);
        assert_eq!(
            hex(&out),
            "02010000000000000002000000000000000203000000000000000400000000000000050000000000000".to_owned() + "0"
        );
        assert_eq!(get_version(&out).unwrap(), version);
        out[0] = 1;
        out.truncate(out.len() - 8);
        assert_eq!(get_version(&out).unwrap(), VersionRecord { by: ActorId::KERNEL, ..version });

        out.clear();
        let (time, epoch, actor, note) = event();
        put_event(&mut out, time, epoch, actor, &note);
        assert_eq!(
            hex(&out),
            concat!(
                "010e010101000000000000000200000001000000000000000300000000000000",
                "090000000000000000000000000000000000000012000000",
                "0000000000000000000000000000000004000000000000000500000000000000",
                "01000000610200000062ff0100000001000000000000000200000000000000"
            )
        );
        assert_eq!(get_event(Seq(8), &out).unwrap(), Event { seq: Seq(8), time, epoch, actor, note });
    }

    #[test]
    fn damaged_bytes_are_an_error_never_a_panic() {
        let mut good = Vec::new();
        put_inode(&mut good, &inode());
        let (time, epoch, actor, note) = event();
        let mut good_event = Vec::new();
        put_event(&mut good_event, time, epoch, actor, &note);
        for cut in 0..good.len() {
            assert!(get_inode(Ino(9), &good[..cut]).is_err());
        }
        for cut in 0..good_event.len() {
            assert!(get_event(Seq(1), &good_event[..cut]).is_err());
        }
        for at in 0..good.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = byte;
                let _ = get_inode(Ino(9), &bad);
            }
        }
        for at in 0..good_event.len() {
            let mut bad = good_event.clone();
            bad[at] = 0xff;
            let _ = get_event(Seq(1), &bad);
        }
        assert!(get_dentry(&[]).is_err() && get_version(&[9]).is_err());
    }
}
