//! What some steps changed, out of everything that was done: on an overlay without a mount.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;

use regentfs::actors::{Actor, Details, codec};
use regentfs::control::protocol::{Apply, Failure, Request, Rewind, Row, Undo};
use regentfs::control::steps::Revert;
use regentfs::control::time::Mover;
use regentfs::query::chosen::Chosen;
use regentfs::store::{Batch, Counter, Kv, Sync, Table, check, history, keys};
use regentfs::timeline::retention::Policy;
use regentfs::timeline::rows::{MovedRow, PathRow};
use regentfs::types::{ActorId, Time, Timeline};

use super::common::{leave_to_root, plain_user};
use super::random::{self, Edits, Trace, edit, seeds};
use super::rng::Rng;
use super::scene::{Scene, Tree, part, same};

/// A process that is a session of its own; the third one has a terminal.
fn session(scene: &Scene, id: u64) {
    let actor = Actor {
        id: ActorId(id),
        pid: id as u32,
        start: id,
        ppid: 0,
        parent: None,
        uid: 0,
        sid: id as u32,
        tty: if id == 3 { 7 } else { 0 },
        prompts: false,
        comm: b"sh".to_vec(),
        exe: b"/bin/sh".to_vec(),
        argv: vec![b"sh".to_vec()],
        argv_truncated: false,
        cwd: Vec::new(),
        marks: Vec::new(),
        version: None,
        images: Vec::new(),
        first: Time::default(),
        last: Time::default(),
        exit: None,
        exit_at: None,
        details: Details::Full,
    };
    // Numbers are given, never taken.
    while scene.store.counters.next(&*scene.store.kv, Counter::Actor).expect("a number") < id {}
    let mut batch = Batch::new();
    batch.put(Table::Meta, &keys::actor(actor.id), &codec::encode(&actor));
    scene.kv.commit(&batch, Sync::No).expect("write a process down");
}

/// Three sessions in a repository.
fn scene(populate: impl FnOnce(&std::path::Path)) -> Scene {
    let scene = Scene::new(populate);
    (1..=3).for_each(|id| session(&scene, id));
    scene
}

/// What follows is done by another one: nothing has two writers in one epoch.
fn by(scene: &Scene, id: u64) {
    if scene.actor.get() != id {
        scene.snapshot();
        scene.actor.set(id);
    }
}

fn of(sessions: &[u64]) -> Chosen {
    Chosen { sessions: sessions.iter().map(|id| format!("s{id}")).collect(), ..Chosen::default() }
}

fn but(names: &[&str]) -> Chosen {
    Chosen { except: names.iter().map(|&name| name.to_owned()).collect(), ..Chosen::default() }
}

#[derive(Default, Debug)]
struct Answer {
    moved: MovedRow,
    paths: Vec<PathRow>,
    notes: Vec<String>,
}

impl Answer {
    fn conflicts(&self) -> Vec<&PathRow> {
        self.paths.iter().filter(|row| row.what == "conflict").collect()
    }
}

fn ask(scene: &Scene, request: &Request) -> Result<Answer, Failure> {
    let (ctx, mut answer) = (scene.ctx(), Answer::default());
    let mover = Mover {
        machine: &scene.machine,
        ctx,
        mapped: Vec::new(),
        users: &|_| Vec::new(),
        cancelled: &|| false,
        gained: &|_| {},
    };
    let done = mover.answer(request, &mut |row| {
        match row {
            Row::Moved(row) => answer.moved = row,
            Row::Path(row) => answer.paths.push(row),
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    answer.notes = done.notes;
    Ok(answer)
}

/// The store is whole, and nothing is left of what was put together. What was applied gets other numbers at another start, so that is not looked at.
fn verify(scene: &Scene) {
    let report = check::check(&scene.store, true).expect("fsck");
    assert!(report.problems.is_empty(), "the store is not whole: {:#?}", report.problems);
    same(&scene.tree(), &scene.view_tree(None), "the tree in memory and the log");
    // Nobody sees the timelines in which states are put together.
    let living = history::living(&*scene.kv).unwrap();
    assert!(living.iter().all(|t| t.id == Timeline::MAIN), "{living:?}");
}

fn rewind(scene: &Scene, chosen: Chosen) -> Answer {
    let request = Request::Rewind(Rewind { chosen, ..Rewind::default() });
    let answer = ask(scene, &request).unwrap_or_else(|e| panic!("rewind: {e}"));
    verify(scene);
    answer
}

fn apply(scene: &Scene, chosen: Chosen) -> Result<Answer, Failure> {
    let answer = ask(scene, &Request::Apply(Apply { chosen, ..Apply::default() }));
    verify(scene);
    answer
}

fn undo(scene: &Scene) {
    ask(scene, &Request::Undo(Undo::default())).unwrap_or_else(|e| panic!("undo: {e}"));
}

fn lines() -> String {
    (1..=20).map(|n| format!("line {n}\n")).collect()
}

/// A text with other lines.
fn with(changes: &[(usize, &str)]) -> String {
    let changes: BTreeMap<usize, &str> = changes.iter().copied().collect();
    (1..=20).map(|n| changes.get(&n).map_or_else(|| format!("line {n}\n"), |line| format!("{line}\n"))).collect()
}

fn texts(repo: &std::path::Path) {
    for name in ["f", "g", "old"] {
        fs::write(repo.join(name), lines()).unwrap();
    }
}

fn disk(scene: &Scene, path: &str) -> String {
    fs::read_to_string(scene.repo.join(path)).unwrap_or_else(|e| format!("{e}"))
}

#[test]
fn two_sessions_in_the_same_and_in_other_files() {
    let scene = scene(texts);
    by(&scene, 1);
    scene.save("f", &with(&[(2, "one")]));
    scene.rename("old", "new");
    by(&scene, 2);
    scene.write("f", &with(&[(2, "one"), (18, "two")]));
    scene.write("two", "two\n");
    by(&scene, 1);
    scene.write("f", &with(&[(2, "one"), (10, "one"), (18, "two")]));
    scene.remove("g");
    let all = scene.tree();
    rewind(&scene, of(&[1]));
    assert_eq!(scene.text("f"), with(&[(2, "one"), (10, "one")]));
    assert!(!scene.exists("g") && !scene.exists("two") && !scene.exists("old"));
    assert_eq!(scene.text("new"), lines());
    undo(&scene);
    same(&all, &scene.tree(), "after undo");
    rewind(&scene, of(&[2]));
    assert_eq!(scene.text("f"), with(&[(18, "two")]));
    assert_eq!((scene.text("g"), scene.text("old"), scene.text("two")), (lines(), lines(), "two\n".to_owned()));
    undo(&scene);
    // Everything is what there is.
    let answer = rewind(&scene, of(&[1, 2]));
    assert!(!answer.moved.done && answer.paths.is_empty(), "{answer:?}");
    // One after the other into the repository, and the second time nothing.
    apply(&scene, of(&[1])).expect("apply");
    assert_eq!((disk(&scene, "f"), disk(&scene, "new")), (with(&[(2, "one"), (10, "one")]), lines()));
    assert!(!scene.repo.join("g").exists() && !scene.repo.join("two").exists());
    same(&all, &scene.tree(), "an apply leaves the mount as it is");
    let again = apply(&scene, of(&[1])).expect_err("there is nothing more");
    assert!(again.message.contains("nothing to apply"), "{again}");
    by(&scene, 1);
    scene.write("f", &with(&[(2, "one"), (10, "one again"), (18, "two")]));
    apply(&scene, of(&[1])).expect("what is new");
    assert_eq!(disk(&scene, "f"), with(&[(2, "one"), (10, "one again")]));
    apply(&scene, of(&[2])).expect("the other one");
    assert_eq!((disk(&scene, "f"), disk(&scene, "two")), (scene.text("f"), "two\n".to_owned()));
}

#[test]
fn everything_but_some() {
    let scene = scene(texts);
    by(&scene, 1);
    scene.write("f", &with(&[(2, "one")]));
    scene.snapshot();
    scene.write("f", &with(&[(2, "one"), (10, "more")]));
    scene.write("g", "one\n");
    by(&scene, 3);
    scene.write("f", &with(&[(2, "one"), (10, "more"), (18, "a person")]));
    // Nobody knows who that was.
    by(&scene, 99);
    scene.write("strange", "x\n");
    by(&scene, 1);
    let steps: Vec<String> =
        history::snapshots(&*scene.kv).unwrap().iter().map(|s| format!("e{}.1", s.epoch.0)).collect();
    let all = scene.tree();
    rewind(&scene, but(&[&steps[1]]));
    assert_eq!(scene.text("f"), with(&[(2, "one"), (18, "a person")]));
    assert_eq!((scene.text("g"), scene.text("strange")), (lines(), "x\n".to_owned()));
    undo(&scene);
    rewind(&scene, Chosen { except: vec![steps[1].clone()], ..of(&[1]) });
    assert_eq!((scene.text("f"), scene.exists("strange")), (with(&[(2, "one")]), false));
    undo(&scene);
    rewind(&scene, Chosen { by: vec!["human".into()], ..Chosen::default() });
    assert_eq!(scene.text("f"), with(&[(18, "a person")]));
    undo(&scene);
    same(&all, &scene.tree(), "after undo");
    let nobody = ask(&scene, &Request::Rewind(Rewind { chosen: of(&[42]), ..Rewind::default() }));
    assert_eq!(nobody.expect_err("there is no such session").exit, 2);
    // Who changed nothing.
    let nothing = ask(&scene, &Request::Rewind(Rewind { chosen: of(&[2]), ..Rewind::default() }));
    assert_eq!(nothing.expect_err("that would empty the mount").exit, 1);
    same(&all, &scene.tree(), "after refusals");
}

#[test]
fn what_builds_on_something_else_is_told_and_nothing_is_done() {
    let scene = scene(texts);
    by(&scene, 1);
    scene.write("f", &with(&[(5, "one")]));
    scene.write("made", "one\n");
    by(&scene, 2);
    scene.write("f", &with(&[(5, "two"), (18, "two")]));
    scene.write("made", "one\ntwo\n");
    scene.write("free", "two\n");
    by(&scene, 1);
    let all = scene.tree();
    let answer = rewind(&scene, of(&[2]));
    assert!(!answer.moved.done);
    let told: Vec<_> = answer.conflicts().iter().map(|row| (row.path.as_str(), row.kind.as_deref())).collect();
    assert_eq!(told, [("f", Some("content")), ("made", Some("delete-change"))]);
    let f = answer.conflicts()[0];
    assert_eq!(f.lines.iter().map(|l| l.theirs).collect::<Vec<_>>(), [(5, 6)]);
    let step = |name: &Option<String>| name.as_ref().map(|n| n.rsplit('.').next().unwrap().to_owned());
    assert_eq!((step(&f.step), step(&f.builds_on)), (Some("2".into()), Some("1".into())), "{f:?}");
    same(&all, &scene.tree(), "with a conflict nothing is done");
    let answer = apply(&scene, of(&[2])).expect("an answer");
    assert_eq!((answer.conflicts().len(), answer.moved.done), (2, false));
    assert_eq!((disk(&scene, "f"), scene.repo.join("free").exists()), (lines(), false));
    // What is not asked for is not in the way.
    let only = Rewind { chosen: of(&[2]), paths: vec![regentfs::types::hex(b"free")], ..Rewind::default() };
    ask(&scene, &Request::Rewind(only)).expect("rewind");
    same(&all, &scene.tree(), "it is as it is there");
    // What a crash in the middle leaves is collected.
    let policy = Policy::default();
    scene.machine.gc(&scene.ctx(), &policy, &|_| Ok(Vec::new()), false).expect("gc");
    verify(&scene);
    let timelines = history::timelines(&*scene.kv).unwrap();
    assert!(timelines.iter().all(|t| t.id == Timeline::MAIN), "{timelines:?}");
}

#[test]
fn what_was_taken_back_stays_out() {
    let scene = scene(texts);
    by(&scene, 1);
    scene.write("f", &with(&[(2, "one")]));
    by(&scene, 2);
    scene.write("f", &with(&[(2, "one"), (18, "two")]));
    by(&scene, 1);
    scene.write("f", &with(&[(2, "one"), (10, "bad"), (18, "two")]));
    let bad = format!("e{}.1", scene.overlay.epoch().0);
    scene.write("bad", "one\n");
    scene.snapshot();
    ask(&scene, &Request::Revert(Revert { step: bad, ..Revert::default() })).expect("revert");
    apply(&scene, of(&[1])).expect("apply");
    assert_eq!((disk(&scene, "f"), scene.repo.join("bad").exists()), (with(&[(2, "one")]), false));
    undo(&scene);
    assert_eq!(disk(&scene, "f"), lines());
    // All of it, and something new.
    ask(&scene, &Request::Discard { dry_run: false }).expect("discard");
    assert!(apply(&scene, of(&[2])).expect_err("nothing stands").message.contains("nothing to apply"));
    scene.write("g", &with(&[(1, "new")]));
    by(&scene, 2);
    apply(&scene, of(&[1])).expect("apply");
    assert_eq!((disk(&scene, "f"), disk(&scene, "g")), (lines(), with(&[(1, "new")])));
}

#[test]
fn what_was_taken_out_of_anothers_work_is_not_ones_own() {
    let scene = scene(texts);
    by(&scene, 1);
    scene.write("f", &with(&[(2, "one")]));
    let first = format!("e{}.1", scene.overlay.epoch().0);
    by(&scene, 2);
    scene.write("f", &with(&[(2, "one"), (18, "two")]));
    scene.snapshot();
    apply(&scene, of(&[1])).expect("apply");
    ask(&scene, &Request::Revert(Revert { step: first, ..Revert::default() })).expect("revert");
    apply(&scene, of(&[2])).expect("apply");
    assert_eq!(disk(&scene, "f"), with(&[(2, "one"), (18, "two")]));
    verify(&scene);
}

#[test]
fn what_was_applied_is_the_base_of_what_comes_later() {
    let scene = scene(texts);
    by(&scene, 1);
    scene.write("f", &with(&[(5, "one")]));
    by(&scene, 2);
    scene.write("f", &with(&[(5, "two")]));
    ask(&scene, &Request::Apply(Apply::default())).expect("apply everything");
    by(&scene, 1);
    scene.write("f", &with(&[(5, "three")]));
    by(&scene, 3);
    scene.write("f", &with(&[(5, "three"), (15, "a person")]));
    by(&scene, 1);
    let all = scene.tree();
    // It builds on what is in the repository by now.
    rewind(&scene, of(&[1]));
    assert_eq!(scene.text("f"), with(&[(5, "three")]));
    undo(&scene);
    same(&all, &scene.tree(), "after undo");
    apply(&scene, of(&[1])).expect("apply");
    assert_eq!(disk(&scene, "f"), with(&[(5, "three")]));
    assert!(apply(&scene, of(&[2])).expect_err("it is there").message.contains("nothing to apply"));
    apply(&scene, Chosen { by: vec!["human".into()], ..Chosen::default() }).expect("apply");
    assert_eq!(disk(&scene, "f"), scene.text("f"));
}

/// A step that came to several epochs has nothing of others in it, also where these came to another of its files in one of them.
#[test]
fn regression_a_step_in_several_epochs_has_nothing_of_others() {
    let scene = scene(texts);
    by(&scene, 1);
    scene.write("a", "one\n");
    // In the same epoch, as the engine lets it: another file.
    scene.actor.set(2);
    scene.write("b", "two\n");
    scene.snapshot();
    scene.actor.set(1);
    scene.write("b", "two\none\n");
    scene.snapshot();
    let answer = rewind(&scene, of(&[1]));
    let conflicts = answer.conflicts();
    assert!(conflicts.len() == 1 && conflicts[0].path == "b", "{answer:?}");
    rewind(&scene, of(&[2]));
    assert_eq!((scene.text("b"), scene.exists("a")), ("two\n".to_owned(), false));
}

#[test]
fn whatever_everybody_did() {
    if plain_user() {
        leave_to_root("applies between random selections");
    }
    for seed in seeds(40) {
        run(seed);
    }
}

/// Everything together is the present, whoever did what; and nothing that is looked at changes what is there.
fn run(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut trace = Trace(seed, Vec::new());
    let scene = scene(random::base);
    let which = Edits { links: false, xattrs: true };
    for _ in 0..2 + rng.below(12) {
        let id = 1 + rng.below(3);
        by(&scene, id);
        for _ in 0..1 + rng.below(3) {
            trace.1.push(format!("{id}: {}", edit(&scene, &mut rng, which)));
        }
        if rng.one_in(3) {
            scene.snapshot();
        }
        // What has no permissions in the repository on disk cannot be looked at there by its owner.
        if rng.one_in(8) && !plain_user() {
            let applied = ask(&scene, &Request::Apply(Apply::default()));
            trace.1.push(format!("apply: {:?}", applied.map(|a| a.moved.changed)));
        }
    }
    by(&scene, 1);
    let all = scene.tree();
    for chosen in [of(&[1, 2, 3]), Chosen { except: vec!["s1".into()], ..of(&[1, 2, 3]) }, of(&[2]), but(&["s3"])] {
        trace.1.push(chosen.name());
        let whole = chosen == of(&[1, 2, 3]);
        match ask(&scene, &Request::Rewind(Rewind { chosen, ..Rewind::default() })) {
            Ok(answer) if !answer.conflicts().is_empty() => {
                assert!(!whole, "everything has no conflicts: {answer:?}");
                same(&all, &scene.tree(), "with a conflict nothing is done");
            }
            Ok(answer) => {
                if whole {
                    same(&all, &scene.tree(), "everything is what there is");
                }
                verify(&scene);
                if answer.moved.done {
                    undo(&scene);
                }
                same(&all, &scene.tree(), "after undo");
            }
            Err(failure) => assert!(failure.message.contains("nothing was changed by it"), "{failure}"),
        }
    }
    verify(&scene);
}

/// A directory that an apply took from the repository, and a file in its place: a discard could not be taken back.
#[test]
fn regression_undo_where_the_repository_lost_a_directory() {
    run(667505371970047);
    // A link in its place.
    run(518194179281255);
}

#[test]
fn each_in_a_directory_of_their_own() {
    for seed in seeds(20) {
        own_directories(seed);
    }
}

/// The part of each session is then known: its directory as it is, and the others as they were.
fn own_directories(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut trace = Trace(seed, Vec::new());
    let scene = scene(|repo| {
        for id in 1..=3 {
            fs::create_dir_all(repo.join(format!("{id}/sub"))).unwrap();
            for name in ["a", "b", "sub/a"] {
                fs::write(repo.join(format!("{id}/{name}")), lines()).unwrap();
            }
        }
    });
    let before = scene.tree();
    for _ in 0..20 {
        let id = 1 + rng.below(3);
        by(&scene, id);
        let name = |rng: &mut Rng| format!("{id}/{}", rng.pick(&["a", "b", "c", "sub/a", "sub/b", "sub"]));
        let (one, other) = (name(&mut rng), name(&mut rng));
        let done = match rng.below(4) {
            0 => scene.try_rename(&one, &other),
            1 => scene.try_remove(&one),
            2 => scene.try_write(&one, with(&[(1 + rng.below(20) as usize, "changed")]).as_bytes()),
            _ => scene.try_make(&one, regentfs::types::Kind::Dir, None),
        };
        trace.1.push(format!("{id}: {one} {other}: {done:?}"));
    }
    by(&scene, 1);
    let all = scene.tree();
    let of_it = |tree: &Tree, id: u64| part(tree, &[&format!("{id}")], true);
    for id in 1..=3 {
        let answer = ask(&scene, &Request::Rewind(Rewind { chosen: of(&[id]), ..Rewind::default() }));
        let answer = match answer {
            Err(failure) => {
                assert!(failure.message.contains("nothing was changed by it"), "{failure}");
                continue;
            }
            Ok(answer) => answer,
        };
        assert!(answer.conflicts().is_empty(), "{answer:?}");
        for other in 1..=3 {
            let right = if other == id { &all } else { &before };
            same(&of_it(right, other), &of_it(&scene.tree(), other), "a session's own directory");
        }
        verify(&scene);
        if answer.moved.done {
            undo(&scene);
        }
        same(&all, &scene.tree(), "after undo");
    }
}
