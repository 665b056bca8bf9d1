//! Random merges of two timelines: what only one side changed is as that side has it, whatever happened before.

use std::collections::BTreeSet;
use std::time::Duration;

use regentfs::store::history;
use regentfs::timeline::TimeError;
use regentfs::timeline::combine::Favor;
use regentfs::timeline::retention::Policy;
use regentfs::timeline::undo::Direction;
use regentfs::types::Kind;

use super::merge::{how, try_merge};
use super::random::{self, Edits, Trace, edit, seeds};
use super::rng::Rng;
use super::scene::{Scene, Tree, differences, same};

/// What a side changed: path by path, directories that only gained or lost names left out.
fn changed(from: &Tree, to: &Tree) -> BTreeSet<String> {
    from.keys().chain(to.keys()).filter(|p| from.get(*p) != to.get(*p)).cloned().collect()
}

#[test]
fn whatever_both_sides_did() {
    for seed in seeds(80) {
        merge_run(seed);
    }
}

fn merge_run(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut trace = Trace(seed, Vec::new());
    let ours = Scene::new(random::base);
    let which = Edits { links: rng.one_in(3), xattrs: true };
    for _ in 0..rng.below(5) {
        trace.1.push(edit(&ours, &mut rng, which));
    }
    let theirs = ours.fork("theirs");
    let from = ours.tree();
    for (scene, name) in [(&ours, "ours"), (&theirs, "theirs")] {
        for _ in 0..rng.below(7) {
            trace.1.push(format!("{name}: {}", edit(scene, &mut rng, which)));
            if rng.one_in(4) {
                scene.forget(|at| at % 2 == 0);
            }
        }
    }
    let (a, b) = (ours.tree(), theirs.tree());
    // Both ways, each from the same states.
    let (their_state, our_state) = (theirs.snapshot(), ours.snapshot());
    let merged = try_merge(&ours, their_state, how(Favor::None, false)).expect("merge");
    let reverse = try_merge(&theirs, our_state, how(Favor::None, false)).expect("the reverse merge");
    trace.1.push(format!("conflicts {:?}, reverse {:?}", merged.conflicts, reverse.conflicts));
    assert_eq!(merged.conflicts.is_empty(), reverse.conflicts.is_empty(), "conflicts one way only");
    if !merged.conflicts.is_empty() {
        same(&a, &ours.tree(), "with a conflict nothing is done");
        same(&b, &theirs.tree(), "with a conflict nothing is done");
        let favor = *rng.pick(&[Favor::Ours, Favor::Theirs]);
        trace.1.push(format!("decided: {favor:?}"));
        let decided = try_merge(&ours, their_state, how(favor, false)).expect("a merge that is decided");
        assert_eq!(decided.conflicts, []);
        ours.verify();
        return;
    }
    let result = ours.tree();
    only_what_they_did(&from, &a, &b, &result);
    let back = differences(&result, &theirs.tree());
    assert!(back.is_empty(), "the other way round: {}", back.join("\n"));
    ours.verify();
    theirs.verify();
    // Everything is there now: nothing more to merge.
    let none = try_merge(&ours, their_state, how(Favor::None, true)).expect("merge again");
    assert_eq!((none.conflicts, none.changed), (vec![], vec![]), "a second merge");
    ours.machine
        .undo(&ours.ctx(), Direction::Undo, false, &[])
        .map_or_else(|e| assert!(matches!(e, TimeError::Nothing(_)), "{e}"), |_| same(&a, &ours.tree(), "after undo"));
    ours.verify();
}

/// Whether a merge of `a` and `b`, which both come from `from`, is right path by path, as far as only one side changed it.
fn only_what_they_did(from: &Tree, a: &Tree, b: &Tree, result: &Tree) {
    let (by_us, by_them) = (changed(from, a), changed(from, b));
    // A directory that one side removed stays if the other put something into it.
    let kept = |path: &str| {
        result.get(path).is_some_and(|f| f.kind == Kind::Dir)
            && result.keys().any(|p| p.starts_with(&format!("{path}/")))
    };
    for path in by_us.union(&by_them) {
        let right = match (by_us.contains(path), by_them.contains(path)) {
            (true, false) => a.get(path),
            (false, true) => b.get(path),
            _ if a.get(path) == b.get(path) => a.get(path),
            _ => continue,
        };
        assert!(
            result.get(path) == right || (right.is_none() && kept(path)),
            "{path}: {:?} is {:?}",
            right,
            result.get(path)
        );
    }
    for (path, file) in result {
        let known = from.get(path) == Some(file) || by_us.contains(path) || by_them.contains(path);
        assert!(known || kept(path), "{path} was changed by nobody");
    }
}

#[test]
fn timelines_that_go_on_and_are_merged_again() {
    for seed in seeds(30) {
        long_run(seed);
    }
}

/// A merge that was carried out: into which side, and what it brought.
struct Done {
    into: usize,
    brought: Tree,
    undone: bool,
}

fn long_run(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut trace = Trace(seed, Vec::new());
    let main = Scene::new(random::base);
    let which = Edits { links: false, xattrs: true };
    for _ in 0..rng.below(4) {
        trace.1.push(edit(&main, &mut rng, which));
    }
    let fork = main.tree();
    let other = main.fork("other");
    let sides = [main, other];
    let mut done: Vec<Done> = Vec::new();
    for _ in 0..12 {
        let into = rng.below(2) as usize;
        let (ours, theirs) = (&sides[into], &sides[1 - into]);
        match rng.below(10) {
            0..=4 => {
                for _ in 0..rng.below(4) {
                    trace.1.push(format!("{into}: {}", edit(ours, &mut rng, which)));
                }
            }
            5..=7 => {
                let favor = *rng.pick(&[Favor::None, Favor::None, Favor::Ours, Favor::Theirs]);
                trace.1.push(format!("merge into {into}, {favor:?}"));
                let (a, b) = (ours.tree(), theirs.tree());
                let merged = ours.machine.merge(&ours.ctx(), theirs.timeline, how(favor, false), &[]).expect("merge");
                same(&b, &theirs.tree(), "the other side");
                if merged.moved.is_none() {
                    same(&a, &ours.tree(), "where nothing was to be done");
                    continue;
                }
                let base = done.iter().rfind(|d| !d.undone).map_or(&fork, |d| &d.brought);
                if favor == Favor::None {
                    only_what_they_did(base, &a, &b, &ours.tree());
                }
                done.push(Done { into, brought: b, undone: false });
            }
            8 => {
                let undone = ours.machine.undo(&ours.ctx(), Direction::Undo, false, &[]);
                trace.1.push(format!("undo in {into}: {:?}", undone.as_ref().map(|_| ())));
                if undone.is_ok() {
                    done.iter_mut().rfind(|d| d.into == into && !d.undone).expect("a merge").undone = true;
                }
            }
            _ => {
                let policy = Policy { keep: Some(Duration::from_secs(rng.below(2) * 1000)), max_size: None };
                trace.1.push(format!("gc {policy:?}"));
                let trees: Vec<Tree> = sides.iter().map(Scene::tree).collect();
                ours.machine.gc(&ours.ctx(), &policy, &|_| Ok(Vec::new()), false).expect("gc");
                for (side, tree) in sides.iter().zip(&trees) {
                    same(tree, &side.tree(), "gc takes nothing that is there");
                }
                if policy.keep == Some(Duration::ZERO) {
                    // Without its operation a merge is forgotten: then it is the model's word against nobody's.
                    let known = history::operations(&*ours.store.kv).unwrap().len();
                    if known < done.len() {
                        break;
                    }
                }
            }
        }
        sides[0].verify();
        sides[1].verify();
    }
    // What came from the other one stays when that goes.
    let [main, other] = sides;
    drop(other);
    let before = main.tree();
    main.machine.delete(&main.ctx(), "other").expect("delete");
    let policy = Policy { keep: Some(Duration::ZERO), max_size: None };
    main.machine.gc(&main.ctx(), &policy, &|_| Ok(Vec::new()), false).expect("gc");
    main.forget(|_| true);
    same(&before, &main.tree(), "after the other one was deleted and collected");
    main.verify();
}
