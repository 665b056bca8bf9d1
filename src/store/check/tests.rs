//! Damaged stores, and what is said of them.

use std::sync::Arc;

use super::*;
use crate::overlay::extents::{Extent, Extents, Source};
use crate::record::chain;
use crate::store::codec::{self, Content, InodeRecord, Origin, Parent, Print};
use crate::store::history::{self as log, OpKind, Why};
use crate::store::said;
use crate::store::{Batch, Data, Kv as _, Sync, format, mem::MemKv};
use crate::types::{ActorId, Attr, Note, Op, Seq};

fn store(dir: &std::path::Path) -> Store {
    let owner = format::Owner { repo: "/r".into(), root_ino: 2, root_born: None };
    let format = format::Format::create_or_load(dir, &owner).unwrap();
    Store::from_parts(dir, Arc::new(MemKv::new()), Data::open(&dir.join("data")).unwrap(), format).unwrap()
}

fn record(ino: Ino, kind: Kind, nlink: u32, content: Content) -> InodeRecord {
    let time = Time::default();
    let size = if kind == Kind::File { 5 } else { 0 };
    let attr = Attr {
        ino,
        kind,
        perm: 0o644,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        size,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
    };
    InodeRecord { attr, content, opaque: false, origin: None, target: None, xattrs: None }
}

fn file(ino: Ino, nlink: u32, content: Content) -> Vec<u8> {
    let mut out = Vec::new();
    codec::put_inode(&mut out, &record(ino, Kind::File, nlink, content));
    out
}

fn check_filled(fill: impl FnOnce(&mut Batch)) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut batch = Batch::new();
    fill(&mut batch);
    store.kv.commit(&batch, Sync::No).unwrap();
    check(&store, true).unwrap()
}

fn problems(fill: impl FnOnce(&mut Batch)) -> Vec<String> {
    check_filled(fill).problems
}

#[test]
fn an_empty_store_is_whole() {
    assert_eq!(problems(|_| ()), Vec::<String>::new());
}

#[test]
fn names_what_is_missing() {
    let born = Ino(Ino::BORN | 1);
    let (t, e) = (Timeline::MAIN, Epoch(1));
    let lines = problems(|batch| {
        let content = Content::Version { id: VersionId(3), stamp: 1 };
        batch.put(Table::Tree, &keys::inode(t, born, e), &file(born, 1, content));
        let mut dentry = Vec::new();
        codec::put_dentry(&mut dentry, Dentry::Entry { ino: Ino(77), kind: Kind::File });
        batch.put(Table::Tree, &keys::dentry(t, Ino::ROOT, b"x", e), &dentry);
        batch.put(Table::Tree, &keys::chunk(VersionId(9), 0), &1u64.to_le_bytes());
        batch.put(Table::Tree, b"i?", b"");
        batch.put(Table::Meta, &keys::trash(VersionId(3)), b"");
    });
    let expected = [
        "is unreadable",
        "version 3 of file 9223372036854775809 has no record",
        "the directory has no record",
        "points to inode 77, which has no record",
        "inode 9223372036854775809 has no name",
        "inode 9223372036854775809 has 0 names but 1 links",
        "version 9 has chunks but no record",
        "version 3 is to be deleted, but file 9223372036854775809 uses it",
        "counter Ino is at 1, but number 1 is in use",
    ];
    for text in expected {
        assert!(lines.iter().any(|line| line.contains(text)), "{text:?} is not in {lines:#?}");
    }
}

/// A whole store: the main timeline with the snapshots 1 and 2, in epoch 3; timeline 2 from snapshot 1, in epoch 4.
///
/// `file` is in version 1 in snapshot 1, in version 2 over it since snapshot 2. `gone` was deleted in epoch 2. `dir` has lost the base's `old`,
/// and is itself removed in epoch 3.
struct World<'b>(&'b mut Batch);

const MAIN: Timeline = Timeline::MAIN;
const SIDE: Timeline = Timeline(2);
const FILE: Ino = Ino(Ino::BORN | 1);
const GONE: Ino = Ino(Ino::BORN | 2);
const DIR: Ino = Ino(30);

fn version(id: u64, stamp: u64) -> Content {
    Content::Version { id: VersionId(id), stamp }
}

impl World<'_> {
    fn inode(&mut self, timeline: Timeline, epoch: u64, ino: Ino, record: Option<&InodeRecord>) {
        let mut value = Vec::new();
        if let Some(record) = record {
            codec::put_inode(&mut value, record);
        }
        self.0.put(Table::Tree, &keys::inode(timeline, ino, Epoch(epoch)), &value);
        self.0.put(Table::Tree, &keys::touched_inode(timeline, Epoch(epoch), ino), b"somewhere");
    }

    fn name(&mut self, timeline: Timeline, epoch: u64, dir: Ino, name: &[u8], dentry: Option<Dentry>) {
        let mut value = Vec::new();
        if let Some(dentry) = dentry {
            codec::put_dentry(&mut value, dentry);
        }
        self.0.put(Table::Tree, &keys::dentry(timeline, dir, name, Epoch(epoch)), &value);
        self.0.put(Table::Tree, &keys::touched_name(timeline, Epoch(epoch), dir, name), b"somewhere");
    }

    fn file(&mut self, timeline: Timeline, epoch: u64, ino: Ino, content: Content) {
        self.inode(timeline, epoch, ino, Some(&record(ino, Kind::File, 1, content)));
    }

    /// A file's name, and that of a directory.
    fn entry(&mut self, timeline: Timeline, epoch: u64, dir: Ino, name: &[u8], ino: Ino, kind: Kind) {
        self.name(timeline, epoch, dir, name, Some(Dentry::Entry { ino, kind }));
    }

    fn dir(&mut self, timeline: Timeline, epoch: u64, ino: Ino, nlink: u32, path: &str) {
        let origin =
            Origin { path: Path::new(path.as_bytes()), dev: 1, ino: ino.0, born: None, print: Print::default() };
        let record = InodeRecord { origin: Some(origin), ..record(ino, Kind::Dir, nlink, Content::None) };
        self.inode(timeline, epoch, ino, Some(&record));
    }

    fn version(&mut self, id: u64, epoch: u64, parent: Parent) {
        let mut value = Vec::new();
        let ino = FILE;
        let limit = if parent == Parent::None { 0 } else { 5 };
        codec::put_version(&mut value, &VersionRecord { ino, epoch: Epoch(epoch), parent, limit, by: ActorId(1) });
        self.0.put(Table::Tree, &keys::version(VersionId(id)), &value);
    }

    fn extents(&mut self, id: u64, source: u64) {
        let mut extents = Extents::default();
        extents.push(Extent { start: 0, end: 5, source: Source::Version(VersionId(source)) });
        self.0.put(Table::Tree, &keys::extents(VersionId(id)), &extents.encode());
    }

    fn snapshot(&mut self, timeline: Timeline, epoch: u64, previous: u64, label: Option<&str>) {
        let snapshot = Snapshot {
            epoch: Epoch(epoch),
            timeline,
            previous: Epoch(previous),
            time: Time::default(),
            why: Why::Manual,
            label: label.map(str::to_owned),
            note: String::new(),
        };
        log::put_snapshot(self.0, &snapshot);
    }

    fn timeline(&mut self, id: u64, parent: Option<(u64, u64)>, head: u64, last: u64) {
        let timeline = TimelineRecord {
            id: Timeline(id),
            name: format!("t{id}"),
            parent: parent.map(|(t, e)| At { timeline: Timeline(t), epoch: Epoch(e) }),
            head: Epoch(head),
            last: Epoch(last),
            created: Time::default(),
            deleted: false,
        };
        log::put_timeline(self.0, &timeline);
    }

    fn operation(&mut self, id: u64, before: u64, after: u64) {
        let at = |epoch| At { timeline: MAIN, epoch: Epoch(epoch) };
        let (before, after) = (at(before), at(after));
        let (time, kind, note) = (Time::default(), OpKind::Rewind, String::new());
        let (last, kept, undone) = (after, 0, false);
        log::put_operation(
            self.0,
            &Operation { id, time, kind, before, after, last, kept, brought: None, undone, note },
        );
    }

    fn counter(&mut self, which: Counter, next: u64) {
        self.0.put(Table::Meta, &keys::counter(which as u8), &next.to_le_bytes());
    }

    fn fill(&mut self) {
        for which in [Counter::Ino, Counter::Version, Counter::Epoch, Counter::Timeline, Counter::Operation] {
            self.counter(which, 100);
        }
        self.timeline(1, None, 3, 2);
        self.timeline(2, Some((1, 1)), 4, 1);
        self.snapshot(MAIN, 1, 0, Some("one"));
        self.snapshot(MAIN, 2, 1, Some("two"));
        self.operation(1, 1, 2);

        self.dir(MAIN, 1, Ino::ROOT, 3, "");
        self.version(1, 1, Parent::None);
        self.file(MAIN, 1, FILE, version(1, 4));
        self.entry(MAIN, 1, Ino::ROOT, b"file", FILE, Kind::File);
        self.file(MAIN, 1, GONE, version(3, 1));
        self.version(3, 1, Parent::None);
        self.entry(MAIN, 1, Ino::ROOT, b"gone", GONE, Kind::File);
        self.dir(MAIN, 1, DIR, 2, "dir");
        self.name(MAIN, 1, DIR, b"old", Some(Dentry::Whiteout { hid: Ino(31) }));

        self.version(2, 2, Parent::Version(VersionId(1)));
        self.file(MAIN, 2, FILE, version(2, 1));
        self.inode(MAIN, 2, GONE, None);
        self.name(MAIN, 2, Ino::ROOT, b"gone", None);

        self.dir(MAIN, 3, DIR, 0, "dir");
        self.name(MAIN, 3, Ino::ROOT, b"dir", Some(Dentry::Whiteout { hid: DIR }));
        // Its attributes only: the same bytes in another epoch.
        self.file(MAIN, 3, FILE, version(2, 1));

        // An open file of a side timeline after a rewind: under a new number, with the bytes of the old one.
        let new = Ino(Ino::BORN | 4);
        self.inode(SIDE, 4, FILE, None);
        self.file(SIDE, 4, new, version(1, 4));
        self.entry(SIDE, 4, Ino::ROOT, b"file", new, Kind::File);
        self.version(4, 4, Parent::Map);
        self.extents(4, 3);
        self.file(SIDE, 4, GONE, version(4, 1));
    }
}

fn world(damage: impl FnOnce(&mut World<'_>)) -> Report {
    check_filled(|batch| {
        let mut world = World(batch);
        world.fill();
        damage(&mut world);
    })
}

#[test]
fn a_store_with_history_is_whole() {
    let report = world(|_| ());
    assert_eq!((report.problems, report.notes), (Vec::new(), Vec::new()));
    // `file` and the root in the main timeline; the same, `gone` and `dir` in the other.
    assert_eq!((report.inodes, report.dentries, report.versions), (2 + 4, 1 + 2, 4));
}

/// What an agent wrote of itself, as entries of a log.
fn claims(batch: &mut Batch) {
    let (agent, session, id) = ("codex".to_owned(), "s".to_owned(), "i".to_owned());
    let whose = said::SaidSession { agent: agent.clone(), session: session.clone(), ..Default::default() };
    said::put_session(batch, &whose);
    let prompt = said::Prompt { agent: agent.clone(), session: session.clone(), id: id.clone(), ..Default::default() };
    said::put_prompt(batch, &prompt);
    said::put_call(batch, &said::Call { agent, session, id, ..Default::default() });
}

#[test]
fn regression_what_agents_wrote_is_no_damage() {
    let report = world(|w| claims(w.0));
    assert_eq!((report.problems, report.notes), (Vec::new(), Vec::new()));
    for kind in [b's', b'p', b'c'] {
        let key = keys::said(kind, "codex", "s", if kind == b's' { "" } else { "i" });
        let lines = world(|w| w.0.put(Table::Meta, &key, b"\x01")).problems;
        assert!(matches!(&lines[..], [line] if line.contains("meta entry 71")), "{lines:?}");
        // Under another's key.
        let lines = world(|w| {
            let mut batch = Batch::new();
            claims(&mut batch);
            let kv = MemKv::new();
            kv.commit(&batch, Sync::No).unwrap();
            let value = kv.get(Table::Meta, &key).unwrap().unwrap();
            w.0.put(Table::Meta, &keys::said(kind, "codex", "other", "i"), &value);
        })
        .problems;
        assert!(matches!(&lines[..], [line] if line.contains("is unreadable")), "{lines:?}");
    }
}

#[test]
fn every_damage_is_named() {
    type Damage = fn(&mut World<'_>);
    const A: u64 = Ino::BORN | 50;
    let cases: &[(&str, Damage)] = &[
        // States of epochs that nothing shows any more.
        ("too short", |w| w.0.put(Table::Tree, &keys::inode(MAIN, FILE, Epoch(1)), b"\x01")),
        ("too short", |w| w.0.put(Table::Tree, &keys::dentry(MAIN, Ino::ROOT, b"gone", Epoch(1)), b"\x01")),
        ("is unreadable", |w| w.0.put(Table::Tree, b"o\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x1e", b"")),
        // Names and links, in the newest state and in older ones.
        (
            "\"gone\" in directory 1 points to inode 9223372036854775810, which has no record (in the snapshot of epoch 1)",
            |w| {
                w.inode(MAIN, 1, GONE, None);
            },
        ),
        ("\"file\" in directory 1 points to inode 9223372036854775809, which has no record", |w| {
            w.inode(MAIN, 3, FILE, None);
        }),
        ("points to inode 30, which is deleted", |w| w.entry(MAIN, 3, Ino::ROOT, b"dir", DIR, Kind::Dir)),
        ("is a Dir, its inode 9223372036854775809 a File (in the snapshot of epoch 2)", |w| {
            w.entry(MAIN, 2, Ino::ROOT, b"file", FILE, Kind::Dir);
        }),
        ("\"x\" in directory 30: the directory is deleted", |w| w.entry(MAIN, 3, DIR, b"x", FILE, Kind::File)),
        ("\"x\" in directory 9223372036854775809: that is no directory", |w| {
            w.entry(MAIN, 3, FILE, b"x", FILE, Kind::File);
        }),
        ("has 2 names but 1 links (in the snapshot of epoch 1)", |w| {
            w.entry(MAIN, 1, Ino::ROOT, b"again", FILE, Kind::File);
            w.name(MAIN, 2, Ino::ROOT, b"again", None);
        }),
        ("has no name (in timeline t2)", |w| w.name(SIDE, 4, Ino::ROOT, b"file", None)),
        ("inode 30 has no name (in the snapshot of epoch 2)", |w| {
            w.name(MAIN, 2, Ino::ROOT, b"dir", Some(Dentry::Whiteout { hid: DIR }));
        }),
        ("has a record but no link", |w| {
            w.inode(MAIN, 3, FILE, Some(&record(FILE, Kind::File, 0, version(2, 1))));
        }),
        ("directory 30 is inside itself (in timeline t2)", |w| w.entry(SIDE, 4, DIR, b"self", DIR, Kind::Dir)),
        ("version 2 belongs to the inodes 9223372036854775809 and 9223372036854775810", |w| {
            w.file(MAIN, 2, GONE, version(2, 1));
        }),
        ("a whiteout covers nothing", |w| {
            w.inode(MAIN, 3, Ino(A), Some(&record(Ino(A), Kind::Dir, 2, Content::None)));
            w.entry(MAIN, 3, Ino::ROOT, b"a", Ino(A), Kind::Dir);
            w.name(MAIN, 3, Ino(A), b"x", Some(Dentry::Whiteout { hid: Ino(0) }));
        }),
        // Versions.
        ("version 1 of file 9223372036854775809 has no record", |w| {
            w.0.delete(Table::Tree, &keys::version(VersionId(1)))
        }),
        ("version 2 lies over version 1, which has no record", |w| {
            w.0.delete(Table::Tree, &keys::version(VersionId(1)))
        }),
        ("version 2 lies over version 4, which is not older", |w| w.version(2, 2, Parent::Version(VersionId(4)))),
        ("version 4 has lost the extents below it", |w| w.0.delete(Table::Tree, &keys::extents(VersionId(4)))),
        ("version 4 shows bytes of version 9, which has no record", |w| w.extents(4, 9)),
        ("version 4 shows bytes of version 4, which has no record", |w| w.extents(4, 4)),
        ("version 9 has extents but no record", |w| w.extents(9, 1)),
        ("version 2 was changed between the epochs 2 and 3, after it was sealed", |w| {
            w.file(MAIN, 3, FILE, version(2, 2))
        }),
        ("has version 4 of epoch 4 in epoch 3 already", |w| w.file(MAIN, 3, FILE, version(4, 1))),
        ("version 9 is of epoch 50, which has not begun", |w| w.version(9, 50, Parent::None)),
        ("version 9 of inode 9223372036854775809 belongs to no file", |w| w.version(9, 3, Parent::None)),
        ("version 2 is to be deleted, but file 9223372036854775809 uses it", |w| {
            w.0.put(Table::Meta, &keys::trash(VersionId(2)), b"");
        }),
        ("version 9 is to be deleted, but other versions lie over it", |w| {
            w.version(9, 1, Parent::None);
            w.extents(4, 9);
            w.0.put(Table::Meta, &keys::trash(VersionId(9)), b"");
        }),
        // The index.
        ("the change of inode 9223372036854775809 in epoch 1 of timeline 1 is not in the index", |w| {
            w.0.delete(Table::Tree, &keys::touched_inode(MAIN, Epoch(1), FILE));
        }),
        ("the change of \"gone\" in directory 1 in epoch 2 of timeline 1 is not in the index", |w| {
            w.0.delete(Table::Tree, &keys::touched_name(MAIN, Epoch(2), Ino::ROOT, b"gone"));
        }),
        // Snapshots, timelines, operations.
        ("the snapshot of epoch 1 is of timeline 7, which has no record", |w| w.snapshot(Timeline(7), 1, 0, None)),
        ("epoch 3 has a snapshot, but timeline 1 is at 3", |w| w.snapshot(MAIN, 3, 2, None)),
        ("the snapshot of epoch 2 follows that of epoch 2", |w| w.snapshot(MAIN, 2, 2, None)),
        ("the snapshot of epoch 2 follows that of epoch 1, which is not there", |w| {
            w.0.delete(Table::Meta, &keys::snapshot(Epoch(1)));
        }),
        ("the snapshots of the epochs 1 and 2 have the same label \"one\"", |w| w.snapshot(MAIN, 2, 1, Some("one"))),
        ("the meta entry 730000000000000002: damaged record", |w| {
            w.0.put(Table::Meta, &keys::snapshot(Epoch(2)), b"?")
        }),
        ("the timelines 1 and 2 are both in epoch 3", |w| w.timeline(2, Some((1, 1)), 3, 1)),
        ("timeline 2 is in epoch 4, its last snapshot is of epoch 4", |w| w.timeline(2, Some((1, 1)), 4, 4)),
        ("timeline 2 forks off timeline 2, which is not older", |w| w.timeline(2, Some((2, 1)), 4, 1)),
        ("timeline 3 forks off timeline 0, which has no record", |w| w.timeline(3, Some((0, 1)), 5, 1)),
        ("timeline 2 forks off epoch 3 of timeline 1, which was not sealed", |w| w.timeline(2, Some((1, 3)), 4, 1)),
        ("there are states of timeline 2, which has no record", |w| w.0.delete(Table::Meta, &keys::timeline(SIDE))),
        ("there are states of epoch 9, but timeline 1 is at 3", |w| w.file(MAIN, 9, FILE, version(2, 1))),
        ("operation 1 refers to the state before it (epoch 1)", |w| w.0.delete(Table::Meta, &keys::snapshot(Epoch(1)))),
        ("operation 1 refers to the state after it (epoch 2)", |w| w.0.delete(Table::Meta, &keys::snapshot(Epoch(2)))),
        // Counters.
        ("counter Epoch is at 4, but number 4 is in use", |w| w.counter(Counter::Epoch, 4)),
        ("counter Timeline is at 2, but number 2 is in use", |w| w.counter(Counter::Timeline, 2)),
        ("counter Operation is at 1, but number 1 is in use", |w| w.counter(Counter::Operation, 1)),
    ];
    for (text, damage) in cases {
        let lines = world(damage).problems;
        assert!(lines.iter().any(|line| line.contains(text)), "{text:?} is not in {lines:#?}");
    }
}

#[test]
fn what_is_left_over_is_a_note() {
    let left = |damage: fn(&mut World<'_>)| {
        let report = world(damage);
        assert_eq!(report.problems, Vec::<String>::new());
        report.notes.join("\n")
    };
    let text = left(|w| w.version(9, 2, Parent::None));
    assert_eq!(text, "version 9 of inode 9223372036854775809 belongs to no file");
    // Unless an apply may have kept it.
    let text = left(|w| {
        w.version(9, 0, Parent::None);
        w.0.put(Table::Meta, &keys::kept(1, 0), b"?");
    });
    assert_eq!(text, "");
    let text = left(|w| w.0.put(Table::Tree, &keys::touched_inode(MAIN, Epoch(2), Ino(99)), b""));
    assert_eq!(text, "the index has a change of inode 99 in epoch 2 that is not there");
    let text = left(|w| w.0.put(Table::Tree, &keys::touched_name(MAIN, Epoch(2), DIR, b"x"), b""));
    assert_eq!(text, "the index has a change of \"x\" in directory 30 in epoch 2 that is not there");
    // What is to be deleted may have lost what it lay over.
    let text = left(|w| {
        w.version(9, 2, Parent::Version(VersionId(8)));
        w.0.put(Table::Meta, &keys::trash(VersionId(9)), b"");
    });
    assert_eq!(text, "");
}

#[test]
fn a_chain_breaks_where_it_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut hash = chain::start(&store.format.id);
    let mut batch = Batch::new();
    for seq in 1..=5 {
        let mut event = Vec::new();
        let note = Note::new(Op::Create, Ino(9), Path::new(b"a"));
        codec::put_event(&mut event, Time::default(), Epoch(1), ActorId(0), &note);
        hash = chain::next(&hash, Seq(seq), &event);
        batch.put(Table::Events, &keys::event(Seq(seq)), &[&hash[..], &event].concat());
    }
    store.kv.commit(&batch, Sync::No).unwrap();
    let whole = check(&store, true).unwrap();
    assert_eq!((whole.problems, whole.events), (Vec::new(), 5));

    let mut value = store.kv.get(Table::Events, &keys::event(Seq(3))).unwrap().unwrap();
    // A byte of the time, of which any value is valid.
    value[36] ^= 1;
    let mut batch = Batch::new();
    batch.put(Table::Events, &keys::event(Seq(3)), &value);
    batch.delete(Table::Events, &keys::event(Seq(5)));
    store.kv.commit(&batch, Sync::No).unwrap();
    let lines = check(&store, true).unwrap().problems;
    assert_eq!(lines, ["the record's chain is broken at event 3: it, or one before it, was changed"]);
    assert_eq!(check(&store, false).unwrap().problems, Vec::<String>::new());
}
