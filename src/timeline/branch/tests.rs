//! Timelines over a real base and a log in memory, without a mount.

use std::ops::ControlFlow;
use std::path::Path as FsPath;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::*;
use crate::base::DirBase;
use crate::overlay::ops::create::New;
use crate::overlay::ops::io::Write;
use crate::overlay::ops::rename::{Rename, Spot};
use crate::overlay::{Inode, NoJournal, Overlay};
use crate::store::format::{Format, Owner};
use crate::store::mem::MemKv;
use crate::store::{Data, Store, Table};
use crate::timeline::undo::Direction;
use crate::timeline::{Gate, Showing};
use crate::types::{ActorId, Errno, HandleId, Kind, Known, Time};

const CTX: Ctx =
    Ctx { actor: ActorId(1), uid: 0, gid: 0, now: Time { secs: 9, nanos: 9 }, epoch: Epoch(1), shared: false };

/// A base, a store, and the overlay in place.
struct World {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    showing: Arc<Showing>,
    main: Machine,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let (repo, place) = (dir.path().join("repo"), dir.path().join("store"));
        std::fs::create_dir_all(repo.join("dir")).unwrap();
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(repo.join("a"), "base a").unwrap();
        std::fs::write(repo.join("dir/b"), "base b").unwrap();
        let owner = Owner { repo, root_ino: 1, root_born: None };
        let format = Format::create_or_load(&place, &owner).unwrap();
        let data = Data::open(&place.join("data")).unwrap();
        let store = Arc::new(Store::from_parts(&place, Arc::new(MemKv::new()), data, format).unwrap());
        let showing = Arc::new(Showing::default());
        let main = in_place(dir.path(), &store, &showing);
        World { dir, store, showing, main }
    }

    /// As the next mount would have it.
    fn again(&mut self) {
        self.showing.remove(self.main.overlay());
        self.main = in_place(self.dir.path(), &self.store, &self.showing);
    }

    fn beside(&self, shown: Shown) -> Machine {
        machine(self.main.overlay().open_beside(shown, false).unwrap(), &self.showing, "/beside", false)
    }

    /// A fork of the present, in a mount of its own.
    fn forked(&self, name: &str) -> Machine {
        let record = self.main.fork(&CTX, name, None, &[]).unwrap();
        self.beside(Shown::Timeline(record.id))
    }

    fn record(&self, name: &str) -> TimelineRecord {
        named(&*self.store.kv, name).unwrap()
    }

    fn keys(&self, table: Table) -> usize {
        let mut n = 0;
        self.store
            .kv
            .scan(table, &[0], &[0xff], &mut |_, _| {
                n += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        n
    }
}

fn in_place(dir: &FsPath, store: &Arc<Store>, showing: &Arc<Showing>) -> Machine {
    let base = Arc::new(DirBase::open(&dir.join("repo")).unwrap());
    let overlay = Overlay::open(store.clone(), base, Arc::new(NoJournal(store.clone())), false).unwrap();
    machine(overlay, showing, "/repo", true)
}

fn machine(overlay: Overlay, showing: &Arc<Showing>, at: &str, in_place: bool) -> Machine {
    let (overlay, gate) = (Arc::new(overlay), Arc::new(Gate::default()));
    showing.add(&overlay, &gate, FsPath::new(at));
    Machine::beside(overlay, gate, showing.clone(), in_place)
}

fn find(machine: &Machine, path: &str) -> Result<Arc<Inode>, Errno> {
    let overlay = machine.overlay();
    path.split('/')
        .filter(|p| !p.is_empty())
        .try_fold(overlay.root().clone(), |dir, name| overlay.lookup(&dir, name.as_bytes()))
}

fn read_inode(machine: &Machine, inode: &Inode) -> String {
    let mut out = [0; 64];
    let n = machine.overlay().read(inode, 0, &mut out).unwrap().len;
    String::from_utf8(out[..n].to_vec()).unwrap()
}

/// The bytes at a path, or why there are none.
fn read(machine: &Machine, path: &str) -> Result<String, Errno> {
    Ok(read_inode(machine, &*find(machine, path)?))
}

fn write_inode(machine: &Machine, inode: &Inode, text: &str) {
    let write = Write {
        offset: 0,
        data: text.as_bytes(),
        append: false,
        kill_ids: false,
        handle: HandleId(0),
        op: Op::Write,
        known: Known::Observed,
    };
    machine.overlay().write(&CTX, inode, &write).unwrap();
}

fn write(machine: &Machine, path: &str, text: &str) {
    write_inode(machine, &find(machine, path).unwrap(), text);
}

fn make(machine: &Machine, dir: &str, name: &str, text: &str) -> Ino {
    let new = New { kind: Kind::File, perm: 0o644, umask: 0, rdev: 0, target: None };
    let dir = find(machine, dir).unwrap();
    let inode = machine.overlay().create(&CTX, &dir, name.as_bytes(), &new).unwrap();
    write_inode(machine, &inode, text);
    inode.ino
}

fn unlink(machine: &Machine, dir: &str, name: &str) {
    machine.overlay().unlink(&CTX, &find(machine, dir).unwrap(), name.as_bytes()).unwrap();
}

fn refused<T: std::fmt::Debug>(result: Result<T>, words: &[&str]) {
    let said = result.unwrap_err().to_string();
    assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
}

#[test]
fn a_fork_costs_the_same_whatever_there_is() {
    let world = World::new();
    let mut costs = Vec::new();
    for (name, files) in [("few", 1), ("many", 200)] {
        for n in 0..files {
            make(&world.main, "dir", &format!("{name}{n}"), "x");
        }
        let before = (world.keys(Table::Tree), world.keys(Table::Meta));
        world.main.fork(&CTX, name, None, &[]).unwrap();
        costs.push((world.keys(Table::Tree) - before.0, world.keys(Table::Meta) - before.1));
    }
    // A snapshot and two timelines, of which the first one had no record yet; later one less. Counters reserve in blocks.
    assert_eq!(costs.iter().map(|c| c.0).collect::<Vec<_>>(), [0, 0], "no states are put");
    assert!(costs.iter().all(|c| c.1 <= 5), "{costs:?}");
    let list = world.main.timelines().unwrap();
    let all: Vec<_> = list.iter().map(|b| (b.record.name.as_str(), b.current, b.snapshots)).collect();
    assert_eq!(all, [("main", true, 2), ("few", false, 0), ("many", false, 0)]);
}

#[test]
fn a_fork_of_what_is_sealed_takes_no_snapshot() {
    let world = World::new();
    world.main.fork(&CTX, "first", None, &[]).unwrap();
    assert_eq!(world.record("first").parent, Some(At::BASE), "nothing was changed yet");
    write(&world.main, "a", "one.");
    let snapshot = world.main.snapshot(&CTX, &Reason::new(Why::Manual, ""), &[], false).unwrap();
    let at = At { timeline: Timeline::MAIN, epoch: snapshot.epoch };
    let beside = world.forked("second");
    assert_eq!(world.record("second").parent, Some(at));
    // A fork that nothing changed is where its parent was, and not something of its own that would have to stay.
    beside.fork(&CTX, "third", None, &[]).unwrap();
    assert_eq!(world.record("third").parent, Some(at));
    let third = world.beside(Shown::Timeline(world.record("third").id));
    assert_eq!(read(&third, "a").unwrap(), "one. a");
    let (main, old) = (&world.main, history::snapshots(&*world.store.kv).unwrap());
    assert_eq!(old.len(), 1, "{old:?}");
    write(main, "a", "two.");
    main.fork(&CTX, "past", Some(at), &[]).unwrap();
    let past = world.beside(Shown::Timeline(world.record("past").id));
    assert_eq!(read(&past, "a").unwrap(), "one. a");
    main.fork(&CTX, "from-base", Some(At::BASE), &[]).unwrap();
    let base = world.beside(Shown::Timeline(world.record("from-base").id));
    assert_eq!(read(&base, "a").unwrap(), "base a");
    assert_eq!(read(main, "a").unwrap(), "two. a");
}

#[test]
fn timelines_do_not_see_each_other() {
    let world = World::new();
    write(&world.main, "a", "seen");
    let beside = world.forked("try");
    let mut numbers = Vec::new();
    for (machine, text) in [(&world.main, "main"), (&beside, "try!")] {
        write(machine, "a", text);
        numbers.push(make(machine, "dir", "new", text));
        let overlay = machine.overlay();
        let (root, dir) = (overlay.root().clone(), find(machine, "dir").unwrap());
        let to = format!("moved-{text}");
        let (from, to) = (Spot { dir: &dir, name: b"b" }, Spot { dir: &root, name: to.as_bytes() });
        overlay.rename(&CTX, from, to, Rename::Replace).unwrap();
    }
    assert_ne!(numbers[0], numbers[1]);
    for (machine, text, other) in [(&world.main, "main", "try!"), (&beside, "try!", "main")] {
        assert_eq!(read(machine, "a").unwrap(), format!("{text} a"));
        assert_eq!(read(machine, "dir/new").unwrap(), text);
        assert_eq!(read(machine, &format!("moved-{text}")).unwrap(), "base b");
        assert_eq!(read(machine, &format!("moved-{other}")), Err(Errno::ENOENT));
        assert_eq!(read(machine, "dir/b"), Err(Errno::ENOENT));
    }
    unlink(&beside, "", "a");
    assert_eq!(read(&beside, "a"), Err(Errno::ENOENT));
    assert_eq!(read(&world.main, "a").unwrap(), "main a");
    // The rest of the tree in memory is that of each one's own log.
    let fresh =
        machine(beside.overlay().open_beside(beside.overlay().shown(), false).unwrap(), &Arc::default(), "/x", false);
    assert_eq!(read(&fresh, "a"), Err(Errno::ENOENT));
    assert_eq!(read(&fresh, "dir/new").unwrap(), "try!");
}

#[test]
fn names_that_cannot_be() {
    let world = World::new();
    world.main.fork(&CTX, "try", None, &[]).unwrap();
    for (name, word) in
        [("main", "first"), ("", "empty"), ("try", "already"), ("a..b", ".."), ("now", "always"), ("-x", "-")]
    {
        refused(world.main.fork(&CTX, name, None, &[]), &[word]);
    }
    refused(world.main.switch(&CTX, "tyr", &[]), &["tyr", "main, try"]);
    world.main.delete(&CTX, "try").unwrap();
    world.main.fork(&CTX, "try", None, &[]).unwrap();
}

#[test]
fn switching_shows_the_other_and_survives() {
    let mut world = World::new();
    write(&world.main, "a", "main");
    world.main.fork(&CTX, "try", Some(At::BASE), &[]).unwrap();
    make(&world.main, "dir", "new", "of main");
    let moved = world.main.switch(&CTX, "try", &[]).unwrap();
    let paths: Vec<String> = moved.paths.iter().map(ToString::to_string).collect();
    assert_eq!(paths, ["a", "dir/new"]);
    assert_eq!(read(&world.main, "a").unwrap(), "base a");
    assert_eq!(read(&world.main, "dir/new"), Err(Errno::ENOENT));
    assert!(!world.main.overlay().is_changed().unwrap(), "nothing was put into the timeline that is shown");
    make(&world.main, "dir", "new", "of try");
    refused(world.main.switch(&CTX, "try", &[]), &["already"]);
    world.again();
    assert_eq!(read(&world.main, "dir/new").unwrap(), "of try");
    assert_eq!(world.main.timelines().unwrap().iter().find(|b| b.current).unwrap().record.name, "try");
    // Back: what was changed on each of them is there.
    world.main.switch(&CTX, "main", &[]).unwrap();
    assert_eq!(read(&world.main, "dir/new").unwrap(), "of main");
    assert_eq!(read(&world.main, "a").unwrap(), "main a");
    world.main.switch(&CTX, "try", &[]).unwrap();
    assert_eq!(read(&world.main, "dir/new").unwrap(), "of try");
}

#[test]
fn who_has_a_file_open_keeps_it_through_a_switch() {
    let mut world = World::new();
    write(&world.main, "a", "main");
    world.main.fork(&CTX, "try", None, &[]).unwrap();
    write(&world.main, "a", "more");
    let born = make(&world.main, "", "born", "born");
    let open: Vec<_> = ["a", "born", "dir/b"].map(|path| find(&world.main, path).unwrap()).into();
    for inode in &open {
        inode.opens.fetch_add(1, Ordering::AcqRel);
        world.main.overlay().remember(inode);
    }
    let moved = world.main.switch(&CTX, "try", &[]).unwrap();
    let kept: Vec<_> = moved.kept.iter().map(|k| (k.path.to_string(), k.old)).collect();
    assert_eq!(kept, [("a".to_owned(), open[0].ino)], "only where there are other bytes under the same name");
    assert_eq!(read_inode(&world.main, &open[0]), "more a");
    assert_eq!(read_inode(&world.main, &open[1]), "born");
    let there = find(&world.main, "a").unwrap();
    assert_ne!(there.ino, open[0].ino);
    assert_eq!(read(&world.main, "a").unwrap(), "main a");
    // What a holder writes now is no timeline's; what it writes where both have the same bytes is of the one shown.
    write_inode(&world.main, &open[0], "lost");
    write_inode(&world.main, &open[1], "lost");
    write_inode(&world.main, &open[2], "shared");
    assert_eq!(read(&world.main, "a").unwrap(), "main a");
    assert_eq!(read(&world.main, "dir/b").unwrap(), "shared");
    world.again();
    assert_eq!(read(&world.main, "a").unwrap(), "main a", "the new number is in the log");
    assert_eq!(find(&world.main, "a").unwrap().ino, there.ino);
    world.main.fork(&CTX, "of-try", None, &[]).unwrap();
    let fork = world.beside(Shown::Timeline(world.record("of-try").id));
    assert_eq!(read(&fork, "a").unwrap(), "main a");
    world.main.switch(&CTX, "main", &[]).unwrap();
    for (path, text) in [("a", "more a"), ("born", "born"), ("dir/b", "base b")] {
        assert_eq!(read(&world.main, path).unwrap(), text, "{path}");
    }
    assert_eq!(find(&world.main, "born").unwrap().ino, born);
}

#[test]
fn undo_goes_back_and_forth_and_each_timeline_has_its_own() {
    let world = World::new();
    let main = &world.main;
    write(main, "a", "one.");
    let one = main.snapshot(&CTX, &Reason::new(Why::Manual, ""), &[], false).unwrap();
    write(main, "a", "two.");
    main.fork(&CTX, "try", None, &[]).unwrap();
    let target = Arc::new(Lineage::of(&*world.store.kv, At { timeline: Timeline::MAIN, epoch: one.epoch }).unwrap());
    let rewind = |machine: &Machine| machine.rewind(&CTX, &target, &[], (OpKind::Rewind, "rewind"), &[]).map(|_| ());
    let undo = |machine: &Machine, direction| machine.undo(&CTX, direction, false, &[]).map(|(o, _)| o.kind);
    rewind(main).unwrap();
    main.switch(&CTX, "try", &[]).unwrap();
    assert_eq!(read(main, "a").unwrap(), "two. a");
    rewind(main).unwrap();
    assert_eq!(read(main, "a").unwrap(), "one. a");
    // On try: its rewind, then the switch; on main: the other rewind.
    assert_eq!(undo(main, Direction::Undo).unwrap(), OpKind::Rewind);
    assert_eq!(read(main, "a").unwrap(), "two. a");
    assert_eq!(undo(main, Direction::Undo).unwrap(), OpKind::Switch);
    assert_eq!((main.overlay().timeline(), read(main, "a").unwrap()), (Timeline::MAIN, "one. a".to_owned()));
    assert_eq!(undo(main, Direction::Undo).unwrap(), OpKind::Rewind);
    assert_eq!(read(main, "a").unwrap(), "two. a");
    assert!(matches!(undo(main, Direction::Undo), Err(TimeError::Nothing(_))));
    // And all the way forward.
    for (kind, text) in [(OpKind::Rewind, "one. a"), (OpKind::Switch, "two. a"), (OpKind::Rewind, "one. a")] {
        assert_eq!(undo(main, Direction::Redo).unwrap(), kind);
        assert_eq!(read(main, "a").unwrap(), text);
    }
    assert!(matches!(undo(main, Direction::Redo), Err(TimeError::Nothing(_))));
    assert_eq!(main.overlay().timeline(), world.record("try").id);
    // Beside it, switches are nobody's matter.
    main.switch(&CTX, "main", &[]).unwrap();
    let beside = world.beside(Shown::Timeline(world.record("try").id));
    assert_eq!(undo(&beside, Direction::Undo).unwrap(), OpKind::Rewind);
    assert!(matches!(undo(&beside, Direction::Undo), Err(TimeError::Nothing(_))));
    // The last switch leads to a timeline that is mounted now; deleted, it is passed over.
    refused(undo(main, Direction::Undo), &["try", "/beside"]);
    world.showing.remove(beside.overlay());
    drop(beside);
    main.delete(&CTX, "try").unwrap();
    assert_eq!(undo(main, Direction::Undo).unwrap(), OpKind::Rewind);
    assert_eq!(read(main, "a").unwrap(), "two. a");
}

#[test]
fn deleting_is_refused_where_somebody_would_miss_it() {
    let world = World::new();
    refused(world.main.delete(&CTX, "main"), &["first"]);
    refused(world.main.delete(&CTX, "none"), &["none", "main"]);
    let beside = world.forked("try");
    refused(world.main.delete(&CTX, "try"), &["/beside", "unmount"]);
    refused(world.main.switch(&CTX, "try", &[]), &["/beside", "unmount"]);
    write(&beside, "a", "only here");
    let at = beside.snapshot(&CTX, &Reason::new(Why::Manual, ""), &[], false).unwrap();
    write(&beside, "a", "not sealed");
    world.showing.remove(beside.overlay());
    drop(beside);
    let past = world.beside(Shown::Past(At { timeline: at.timeline, epoch: at.epoch }));
    refused(world.main.delete(&CTX, "try"), &["/beside"]);
    world.showing.remove(past.overlay());
    world.main.switch(&CTX, "try", &[]).unwrap();
    refused(world.main.delete(&CTX, "try"), &["in place"]);
    world.main.switch(&CTX, "main", &[]).unwrap();
    let (record, last) = world.main.delete(&CTX, "try").unwrap();
    assert!(record.deleted);
    assert_eq!(world.main.timelines().unwrap().len(), 1);
    refused(world.main.switch(&CTX, "try", &[]), &["no timeline"]);
    // Its last state, sealed or not, can be had back.
    let last = last.expect("a snapshot");
    let from = At { timeline: last.timeline, epoch: last.epoch };
    world.main.fork(&CTX, "try", Some(from), &[]).unwrap();
    world.main.switch(&CTX, "try", &[]).unwrap();
    assert_eq!(read(&world.main, "a").unwrap(), "not sealed");
}

#[test]
fn what_was_never_sealed_is_sealed_by_deleting_and_by_forking_from_outside() {
    let world = World::new();
    let beside = world.forked("try");
    write(&beside, "a", "changed");
    let id = beside.overlay().timeline();
    refused(world.main.fork_other(&CTX, "copy", id), &["/beside"]);
    world.showing.remove(beside.overlay());
    drop(beside);
    world.main.fork_other(&CTX, "copy", id).unwrap();
    world.main.fork_other(&CTX, "again", id).unwrap();
    assert_eq!(world.record("copy").parent, world.record("again").parent, "sealed once");
    let copy = world.beside(Shown::Timeline(world.record("copy").id));
    assert_eq!(read(&copy, "a").unwrap(), "changed");
    let again = world.beside(Shown::Timeline(id));
    write(&again, "a", "further");
    world.showing.remove(again.overlay());
    let (_, last) = world.main.delete(&CTX, "try").unwrap();
    assert_eq!(last.expect("a snapshot").why, Why::Before);
    assert_eq!(read(&copy, "a").unwrap(), "changed");
}

#[test]
fn the_past_does_not_change() {
    let world = World::new();
    write(&world.main, "a", "then");
    let at = world.main.snapshot(&CTX, &Reason::new(Why::Manual, ""), &[], false).unwrap();
    let past = world.beside(Shown::Past(At { timeline: at.timeline, epoch: at.epoch }));
    write(&world.main, "a", "now!");
    assert_eq!(read(&past, "a").unwrap(), "then a");
    let inode = find(&past, "a").unwrap();
    let write = Write {
        offset: 0,
        data: b"x",
        append: false,
        kill_ids: false,
        handle: HandleId(0),
        op: Op::Write,
        known: Known::Observed,
    };
    let (overlay, root) = (past.overlay(), past.overlay().root());
    assert_eq!(overlay.write(&CTX, &inode, &write), Err(Errno::EROFS));
    let new = New { kind: Kind::File, perm: 0o644, umask: 0, rdev: 0, target: None };
    assert_eq!(overlay.create(&CTX, root, b"new", &new).err(), Some(Errno::EROFS));
    assert_eq!(overlay.unlink(&CTX, root, b"a").err(), Some(Errno::EROFS));
    let list = world.store.data.list().unwrap();
    assert_eq!(list.len(), 2, "no version was begun: {list:?}");
    refused(past.snapshot(&CTX, &Reason::new(Why::Manual, ""), &[], false), &["stays as it is"]);
    refused(past.undo(&CTX, Direction::Undo, true, &[]), &["stays as it is"]);
    // But something can begin there.
    let made = past.fork(&CTX, "from-past", None, &[]).unwrap();
    assert_eq!(made.parent, Some(At { timeline: at.timeline, epoch: at.epoch }));
    assert_eq!(world.showing.pasts(), [At { timeline: at.timeline, epoch: at.epoch }]);
}

#[test]
fn with_nothing_in_place_a_switch_is_for_the_next_mount() {
    let mut world = World::new();
    let beside = world.forked("try");
    world.main.fork(&CTX, "other", None, &[]).unwrap();
    world.showing.remove(world.main.overlay());
    refused(beside.switch(&CTX, "try", &[]), &["/beside"]);
    beside.switch(&CTX, "other", &[]).unwrap();
    assert_eq!(beside.overlay().timeline(), world.record("try").id, "what is mounted beside stays");
    world.again();
    assert_eq!(world.main.overlay().timeline(), world.record("other").id);
    let kind = world.main.undo(&CTX, Direction::Undo, false, &[]).unwrap().0.kind;
    assert_eq!((kind, world.main.overlay().timeline()), (OpKind::Switch, Timeline::MAIN));
}

#[test]
fn a_name_that_the_log_has_lost_shows_the_first_timeline() {
    let mut world = World::new();
    world.main.fork(&CTX, "try", None, &[]).unwrap();
    let mut batch = Batch::new();
    history::put_shown(&mut batch, Timeline(77));
    world.store.kv.commit(&batch, Sync::No).unwrap();
    world.again();
    assert_eq!(world.main.overlay().timeline(), Timeline::MAIN);
}
