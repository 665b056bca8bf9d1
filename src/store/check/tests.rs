//! Damaged stores, and what is said of them.

use std::sync::Arc;

use super::*;
use crate::store::{Batch, Data, Sync, format, mem::MemKv};
use crate::types::{ActorId, Epoch, Note, Op, Time, Timeline};

fn store(dir: &std::path::Path) -> Store {
    let owner = format::Owner { repo: "/r".into(), root_ino: 2, root_born: None };
    let format = format::Format::create_or_load(dir, &owner).unwrap();
    Store::from_parts(dir, Arc::new(MemKv::new()), Data::open(&dir.join("data")).unwrap(), format).unwrap()
}

fn file(ino: Ino, nlink: u32, content: Content) -> Vec<u8> {
    let time = Time::default();
    let attr = Attr {
        ino,
        kind: Kind::File,
        perm: 0o644,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 5,
        blocks: 8,
        atime: time,
        mtime: time,
        ctime: time,
    };
    let mut out = Vec::new();
    let record = InodeRecord { attr, content, opaque: false, origin: None, target: None, xattrs: None };
    codec::put_inode(&mut out, &record);
    out
}

fn problems(fill: impl FnOnce(&mut Batch)) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut batch = Batch::new();
    fill(&mut batch);
    store.kv.commit(&batch, Sync::No).unwrap();
    check(&store, true).unwrap().problems
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
