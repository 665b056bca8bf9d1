//! The changes of frozen.rs, and rewinds of all of it and of its path alone, with nobody else there: what goes wrong here can be repeated.
//!
//! `REGENTFS_LOAD_SEED` makes other changes, `REGENTFS_LOAD_CHANGES` fewer or more of them in a round.

use std::fs;

use crate::common::tree::{self, View};
use crate::common::{assert_ok, can_mount};
use crate::frozen;
use crate::moving::number;
use crate::rng::Rng;
use crate::scene::Scene;

const ROUNDS: usize = 6;

#[test]
fn rewinds_of_a_directory_and_their_undo() {
    if !can_mount() {
        return;
    }
    // With the second pair a linked file has its old bytes again, in another place.
    for (seed, count) in [(7, 25), (4, 60)] {
        there_and_back(number("SEED", seed), number("CHANGES", count));
    }
}

fn there_and_back(seed: u64, count: u64) {
    let scene = Scene::new(|base| {
        fs::create_dir(base.join("frozen")).expect("mkdir");
        frozen::make(&base.join("frozen"));
    });
    scene.mount(&[]);
    let at = scene.join("frozen");
    let path = at.to_str().expect("UTF-8");
    let mut rng = Rng::new(seed);
    let mut marks = vec![("base".to_owned(), tree::read(&at))];
    for round in 0..ROUNDS {
        frozen::change(&at, &mut rng, usize::try_from(count).expect("a small number"));
        let before = tree::read(&at);
        let (to, then) = rng.pick(&marks);
        let is = |expected: &tree::Tree, view: &View, what: &str| {
            let what = format!("seed {seed}, round {round}, to {to}: {what}");
            tree::assert_same(expected, &tree::read(&at), view, &what);
        };
        let run = |arguments: &[&str]| assert_ok(&scene.run(arguments), &arguments.join(" "));
        let label = format!("round {round}");
        run(&["snapshot", "--label", &label]);
        run(&["rewind", to, path]);
        is(then, &View::but_times(), "rewind of the path");
        // Something else was changed since: the undo goes path by path as well.
        fs::write(scene.join("elsewhere"), label.as_bytes()).expect("write");
        run(&["undo"]);
        is(&before, &View::but_times(), "undo path by path");
        run(&["rewind", &label]);
        is(&before, &View::exact(), "rewind of everything");
        run(&["rewind", to, path]);
        is(then, &View::but_times(), "rewind of the path again");
        run(&["undo"]);
        is(&before, &View::exact(), "undo with nothing changed since");
        marks.push((label, before));
    }
    scene.unmount();
    scene.assert_whole();
}
