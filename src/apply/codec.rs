//! Plans and the journal around them as bytes: the values of `store/codec.rs` in spirit and in types. docs/FORMAT.md has every field.
//!
//! Decoding never panics. Whether a plan makes sense is not decided here.

use super::journal::{Journal, Phase, State, Temp, Was};
use super::plan::{ContentId, Expect, Make, Meta, Plan, Seen, Step};
use crate::store::Result;
use crate::store::codec::{Reader, Writer, Xattrs};
use crate::types::{Kind, Path};

const PLAN_LAYOUT: u8 = 1;
const JOURNAL_LAYOUT: u8 = 1;

fn put_seen(w: &mut Writer<'_>, seen: &Seen) {
    w.u8(seen.kind as u8);
    w.u64(seen.dev);
    w.u64(seen.ino);
    w.u8(u8::from(seen.born.is_some()));
    w.time(seen.born.unwrap_or_default());
    w.u64(seen.size);
    w.time(seen.mtime);
    w.time(seen.ctime);
}

fn get_kind(r: &mut Reader<'_>) -> Result<Kind> {
    let kind = r.u8()?;
    Kind::from_u8(kind).ok_or_else(|| r.corrupt("unknown file type"))
}

fn get_flag(r: &mut Reader<'_>) -> Result<bool> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(r.corrupt("neither yes nor no")),
    }
}

fn get_seen(r: &mut Reader<'_>) -> Result<Seen> {
    let kind = get_kind(r)?;
    let (dev, ino) = (r.u64()?, r.u64()?);
    let has_born = get_flag(r)?;
    let born = r.time()?;
    Ok(Seen { kind, dev, ino, born: has_born.then_some(born), size: r.u64()?, mtime: r.time()?, ctime: r.time()? })
}

fn put_meta(w: &mut Writer<'_>, meta: &Meta) {
    w.u16(meta.perm);
    w.u32(meta.uid);
    w.u32(meta.gid);
    w.time(meta.atime);
    w.time(meta.mtime);
    w.u8(u8::from(meta.xattrs.is_some()));
    if let Some(xattrs) = &meta.xattrs {
        w.u32(xattrs.len() as u32);
        for (name, value) in xattrs {
            w.bytes(name);
            w.bytes(value);
        }
    }
}

fn get_meta(r: &mut Reader<'_>) -> Result<Meta> {
    let (perm, uid, gid, atime, mtime) = (r.u16()?, r.u32()?, r.u32()?, r.time()?, r.time()?);
    let xattrs = if get_flag(r)? {
        let mut list = Xattrs::new();
        for _ in 0..r.u32()? {
            let name = r.bytes()?.into();
            list.push((name, r.bytes()?.into()));
        }
        Some(list)
    } else {
        None
    };
    Ok(Meta { perm, uid, gid, atime, mtime, xattrs })
}

fn put_make(w: &mut Writer<'_>, make: &Make) {
    match make {
        Make::Remove => w.u8(1),
        Make::Keep => w.u8(2),
        Make::File { content, .. } => {
            w.u8(3);
            w.u64(content.0);
        }
        Make::Symlink { target, .. } => {
            w.u8(4);
            w.bytes(target);
        }
        Make::Dir { .. } => w.u8(5),
        Make::Meta { .. } => w.u8(6),
        Make::Special { kind, rdev, .. } => {
            w.u8(7);
            w.u8(*kind as u8);
            w.u32(*rdev);
        }
        Make::Link { to } => {
            w.u8(8);
            w.bytes(to.as_bytes());
        }
    }
    if let Some(meta) = make.meta() {
        put_meta(w, meta);
    }
}

fn get_make(r: &mut Reader<'_>) -> Result<Make> {
    Ok(match r.u8()? {
        1 => Make::Remove,
        2 => Make::Keep,
        3 => Make::File { content: ContentId(r.u64()?), meta: get_meta(r)? },
        4 => Make::Symlink { target: r.bytes()?.into(), meta: get_meta(r)? },
        5 => Make::Dir { meta: get_meta(r)? },
        6 => Make::Meta { meta: get_meta(r)? },
        7 => Make::Special { kind: get_kind(r)?, rdev: r.u32()?, meta: get_meta(r)? },
        8 => Make::Link { to: Path::new(r.bytes()?) },
        _ => return Err(r.corrupt("unknown thing to make")),
    })
}

pub fn put_plan(out: &mut Vec<u8>, plan: &Plan) {
    let mut w = Writer(out);
    w.u8(PLAN_LAYOUT);
    w.u64(plan.id);
    w.u32(plan.steps.len() as u32);
    for step in &plan.steps {
        w.bytes(step.path.as_bytes());
        match &step.expect {
            Expect::Nothing => w.u8(0),
            Expect::Is(seen) => {
                w.u8(1);
                put_seen(&mut w, seen);
            }
        }
        put_make(&mut w, &step.make);
    }
}

pub fn get_plan(bytes: &[u8]) -> Result<Plan> {
    let mut r = Reader::new(bytes, "plan of an apply");
    r.layout(PLAN_LAYOUT)?;
    let id = r.u64()?;
    let mut steps = Vec::new();
    for _ in 0..r.u32()? {
        let path = Path::new(r.bytes()?);
        let expect = if get_flag(&mut r)? { Expect::Is(get_seen(&mut r)?) } else { Expect::Nothing };
        steps.push(Step { path, expect, make: get_make(&mut r)? });
    }
    r.end()?;
    Ok(Plan { id, steps })
}

/// Without the checksum.
pub fn put_journal(out: &mut Vec<u8>, journal: &Journal) {
    let mut plan = Vec::new();
    put_plan(&mut plan, &journal.plan);
    let mut w = Writer(out);
    w.u8(JOURNAL_LAYOUT);
    w.u8(match journal.phase {
        Phase::Prepare => 1,
        Phase::Commit => 2,
    });
    put_seen(&mut w, &journal.root);
    w.bytes(&plan);
    w.u32(journal.states.len() as u32);
    for state in &journal.states {
        let made = state.temp.as_ref().and_then(|t| t.made.as_ref());
        let flags = u8::from(state.temp.is_some()) | u8::from(made.is_some()) << 1 | u8::from(state.was.is_some()) << 2;
        w.u8(flags);
        if let Some(temp) = &state.temp {
            w.bytes(temp.dir.as_bytes());
        }
        if let Some(made) = made {
            put_seen(&mut w, made);
        }
        if let Some(was) = &state.was {
            w.u16(was.perm);
            w.u32(was.uid);
            w.u32(was.gid);
        }
    }
}

pub fn get_journal(bytes: &[u8]) -> Result<Journal> {
    let mut r = Reader::new(bytes, "journal of an apply");
    r.layout(JOURNAL_LAYOUT)?;
    let phase = match r.u8()? {
        1 => Phase::Prepare,
        2 => Phase::Commit,
        _ => return Err(r.corrupt("unknown phase")),
    };
    let root = get_seen(&mut r)?;
    let plan = get_plan(r.bytes()?)?;
    let mut states = Vec::new();
    for _ in 0..r.u32()? {
        let flags = r.u8()?;
        if flags & !7 != 0 || flags & 3 == 2 {
            return Err(r.corrupt("unknown flags"));
        }
        let dir = if flags & 1 != 0 { Some(Path::new(r.bytes()?)) } else { None };
        let made = if flags & 2 != 0 { Some(get_seen(&mut r)?) } else { None };
        let was = if flags & 4 != 0 { Some(Was { perm: r.u16()?, uid: r.u32()?, gid: r.u32()? }) } else { None };
        states.push(State { temp: dir.map(|dir| Temp { dir, made }), was });
    }
    if states.len() != plan.steps.len() {
        return Err(r.corrupt("another number of steps than the plan has"));
    }
    r.end()?;
    Ok(Journal { phase, root, plan, states })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Time, hex};

    fn seen(kind: Kind) -> Seen {
        Seen {
            kind,
            dev: 1,
            ino: 2,
            born: Some(Time::new(3, 4)),
            size: 5,
            mtime: Time::new(-6, 7),
            ctime: Time::new(8, 9),
        }
    }

    fn plan() -> Plan {
        let plain = Meta {
            perm: 0o644,
            uid: 10,
            gid: 11,
            atime: Time::new(12, 13),
            mtime: Time::new(14, 15),
            xattrs: Some(vec![(b"user.x"[..].into(), b"y"[..].into())]),
        };
        let meta = || Meta { xattrs: None, ..plain.clone() };
        let old = || Expect::Is(Seen { born: None, ..seen(Kind::File) });
        let step = |path: &str, expect, make| Step { path: Path::new(path.as_bytes()), expect, make };
        Plan {
            id: 0x1122,
            steps: vec![
                step("a", old(), Make::Remove),
                step("b", Expect::Is(seen(Kind::Dir)), Make::Keep),
                step("c", Expect::Nothing, Make::File { content: ContentId(16), meta: plain.clone() }),
                step("d", Expect::Nothing, Make::Symlink { target: b"to"[..].into(), meta: meta() }),
                step("e", Expect::Nothing, Make::Dir { meta: meta() }),
                step("f", old(), Make::Meta { meta: meta() }),
                step("g", Expect::Nothing, Make::Special { kind: Kind::Fifo, rdev: 17, meta: meta() }),
                step("h", Expect::Nothing, Make::Link { to: Path::new(b"c") }),
            ],
        }
    }

    fn journal() -> Journal {
        let temp = |made| Some(Temp { dir: Path::new(b"t"), made });
        let mut states = vec![State::default(); 8];
        states[0] = State { temp: temp(None), was: Some(Was { perm: 0o600, uid: 18, gid: 19 }) };
        states[2] = State { temp: temp(Some(seen(Kind::File))), was: None };
        Journal { phase: Phase::Commit, root: seen(Kind::Dir), plan: plan(), states }
    }

    /// The layouts are on users' disks: a change here needs a new layout number and a line in docs/FORMAT.md.
    #[test]
    fn golden_bytes() {
        let seen_dir = concat!(
            "02",
            "0100000000000000",
            "0200000000000000",
            "01",
            "030000000000000004000000",
            "0500000000000000",
            "faffffffffffffff07000000",
            "080000000000000009000000"
        );
        let seen_file = seen_dir.replacen("02", "01", 1);
        let old = seen_file.replacen("01030000000000000004000000", "00000000000000000000000000", 1);
        let meta = "a4010a0000000b0000000c000000000000000d0000000e000000000000000f000000";
        let plan_hex = [
            "01",
            "2211000000000000",
            "08000000",
            "0100000061",
            "01",
            &old,
            "01",
            "0100000062",
            "01",
            seen_dir,
            "02",
            "0100000063",
            "00",
            "03",
            "1000000000000000",
            meta,
            "01",
            "01000000",
            "06000000757365722e78",
            "0100000079",
            "0100000064",
            "00",
            "04",
            "02000000746f",
            meta,
            "00",
            "0100000065",
            "00",
            "05",
            meta,
            "00",
            "0100000066",
            "01",
            &old,
            "06",
            meta,
            "00",
            "0100000067",
            "00",
            "07",
            "04",
            "11000000",
            meta,
            "00",
            "0100000068",
            "00",
            "08",
            "0100000063",
        ]
        .concat();
        let mut out = Vec::new();
        put_plan(&mut out, &plan());
        assert_eq!(hex(&out), plan_hex);
        assert_eq!(get_plan(&out).unwrap(), plan());

        let length = hex(&(out.len() as u32).to_le_bytes());
        out.clear();
        put_journal(&mut out, &journal());
        let expected = [
            "01",
            "02",
            seen_dir,
            &length,
            &plan_hex,
            "08000000",
            "05",
            "0100000074",
            "8001",
            "12000000",
            "13000000",
            "00",
            "03",
            "0100000074",
            &seen_file,
            "0000000000",
        ]
        .concat();
        assert_eq!(hex(&out), expected);
        assert_eq!(get_journal(&out).unwrap(), journal());
    }

    #[test]
    fn damaged_bytes_are_an_error_never_a_panic() {
        let mut good = Vec::new();
        put_journal(&mut good, &journal());
        for cut in 0..good.len() {
            assert!(get_journal(&good[..cut]).is_err());
        }
        for at in 0..good.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = byte;
                let _ = get_journal(&bad);
            }
        }
    }
}
