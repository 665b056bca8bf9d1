//! Rewinds while everybody works: what only the test changes is compared after each of them, and, when the workers stand for a
//! moment, the whole tree.
//!
//! For 15 seconds; for a minute under CI; `REGENTFS_LOAD_SECONDS` says otherwise. Longer when there were too few rewinds by then.
//! `REGENTFS_LOAD_SEED` makes other changes than usual.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::tree::{self, Tree, View};
use crate::common::{assert_ok, can_mount, has_programs, in_ci, is_mounted, run_script, wait_for};
use crate::frozen;
use crate::rng::Rng;
use crate::scene::Scene;
use crate::workers::{CRATE, Floor, GIT_INIT, STATIC, Stop, Worker, unchanging};

/// Fewer rewinds than this are no load test.
const FEWEST_REWINDS: usize = 11;
/// More rounds than this are not waited for.
const MOST_ROUNDS: usize = 40;
/// How long the workers may take for a step each.
const STEPS_TAKE: Duration = Duration::from_secs(300);

/// A number from the environment.
pub fn number(name: &str, otherwise: u64) -> u64 {
    let name = format!("REGENTFS_LOAD_{name}");
    std::env::var(&name).map_or(otherwise, |text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

fn seconds() -> Duration {
    Duration::from_secs(number("SECONDS", if in_ci() { 60 } else { 15 }))
}

/// The repository: git's history, a program, what nobody changes, and what only the test changes.
fn populate(base: &Path) {
    for dir in ["static", "frozen", "crate", "src", "mapped", "scratch"] {
        fs::create_dir(base.join(dir)).expect("mkdir");
    }
    (0..STATIC).for_each(|n| fs::write(base.join(format!("static/{n}")), unchanging(n)).expect("write"));
    frozen::make(&base.join("frozen"));
    fs::write(base.join("mapped/file"), vec![b'm'; 300_000]).expect("write");
    fs::write(base.join(".gitignore"), "/frozen\n/scratch\n/mapped\n/crate\n").expect("write");
    let script = format!(
        "for i in $(seq 1 50); do seq 1 $((i * 20)) > src/$i.txt; done; {GIT_INIT}\n\
         for i in 1 2 3; do echo $i >> src/$i.txt; git commit -qam $i; done; cd crate; {CRATE}"
    );
    assert_ok(&run_script(base, &script, &[]), "prepare");
}

/// A state that can be gone back to.
struct Mark {
    name: String,
    /// What frozen/ was then.
    frozen: Tree,
}

struct Load<'a> {
    scene: &'a Scene,
    floor: &'a Floor,
    workers: Vec<&'a Worker>,
    rng: Rng,
    marks: Vec<Mark>,
    rewinds: usize,
}

#[test]
#[allow(clippy::disallowed_methods)] // a length in real time; crate::clock is for what is recorded
fn rewinds_while_git_cargo_writers_and_mappings_go_on() {
    if !can_mount() || !has_programs(&["git", "python3"], "rewinds under load") {
        return;
    }
    let seed = number("SEED", 42);
    let with_cargo = has_programs(&["cargo"], "cargo build while rewinds happen");
    let scene = Scene::new(populate);
    let base = tree::read(scene.repo());
    scene.mount(&[]);
    let floor = Floor::new(scene.root(), scene.outside());
    let all = ["git", "writer", "mapper", "reader", "cargo"].map(Worker::new);
    let [git, writer, mapper, reader, cargo] = &all;
    let workers: Vec<&Worker> = all.iter().filter(|who| with_cargo || who.name != "cargo").collect();
    let mut load = Load {
        scene: &scene,
        floor: &floor,
        workers,
        rng: Rng::new(seed),
        marks: vec![Mark { name: "base".to_owned(), frozen: tree::read(&scene.join("frozen")) }],
        rewinds: 0,
    };
    std::thread::scope(|scope| {
        let floor = &floor;
        let _stop = Stop(floor);
        scope.spawn(move || floor.git(git));
        scope.spawn(move || floor.writer(writer));
        scope.spawn(move || floor.mapper(mapper));
        scope.spawn(move || floor.reader(reader));
        if with_cargo {
            scope.spawn(move || floor.cargo(cargo));
        }
        let deadline = Instant::now() + seconds();
        for round in 0..MOST_ROUNDS.max(seconds().as_secs() as usize) {
            if Instant::now() >= deadline && load.rewinds >= FEWEST_REWINDS {
                break;
            }
            for n in 0..3 {
                load.live(round * 3 + n);
            }
            // What is kept is whole, whatever goes on meanwhile.
            load.run(&["gc"]);
            load.whole(round);
        }
    });
    let steps: Vec<_> = load
        .workers
        .iter()
        .map(|who| (who.name, who.good(), who.steps.load(std::sync::atomic::Ordering::Acquire)))
        .collect();
    eprintln!("seed {seed}: {} rewinds and undos; (who, good steps, steps): {steps:?}", load.rewinds);
    assert!(load.rewinds >= FEWEST_REWINDS, "only {} rewinds: {steps:?}", load.rewinds);

    let last = tree::read(scene.root());
    // What a worker had open is released a moment after it was closed.
    wait_for("the mount to be free", || scene.try_unmount(&[]).status.success());
    tree::assert_same(&base, &tree::read(scene.repo()), &View::exact(), "the base");
    scene.assert_whole();
    scene.mount(&[]);
    tree::assert_same(&last, &tree::read(scene.root()), &View::exact(), "everything after a remount");
}

impl Load<'_> {
    fn run(&self, arguments: &[&str]) {
        assert_ok(&self.scene.run(arguments), &arguments.join(" "));
    }

    /// Goes somewhere, which must be somewhere else.
    fn go(&mut self, arguments: &[&str]) {
        let done = self.floor.rewinding(|| self.scene.json(arguments));
        assert_eq!(done[0]["done"], true, "{}: {:?}", arguments.join(" "), done[0]);
        self.rewinds += 1;
    }

    fn frozen(&self) -> Tree {
        tree::read(&self.scene.join("frozen"))
    }

    fn frozen_is(&self, expected: &Tree, view: &View, what: &str) {
        tree::assert_same(expected, &self.frozen(), view, what);
    }

    /// There and back while everybody works.
    fn live(&mut self, n: usize) {
        assert!(!self.workers.is_empty());
        frozen::change(&self.scene.join("frozen"), &mut self.rng, 40);
        let before = self.frozen();
        let name = format!("live {n}");
        self.run(&["snapshot", "--label", &name]);
        self.frozen_is(&before, &View::exact(), "a snapshot changes nothing");
        // Any of the last ones, or now and then the repository as it was.
        let far = self.rng.below(self.marks.len().min(8) as u64 + 1) as usize;
        let mark = if far == 0 { &self.marks[0] } else { &self.marks[self.marks.len() - far] };
        let (to, expected) = (mark.name.clone(), mark.frozen.clone());
        if n.is_multiple_of(2) {
            self.go(&["rewind", &to]);
            self.frozen_is(&expected, &View::exact(), &format!("{n}: rewind to {to}"));
            // The others changed what the rewind changed.
            self.go(&["undo", "--force"]);
            self.frozen_is(&before, &View::exact(), &format!("{n}: undo of the rewind to {to}"));
        } else {
            // Path by path: a directory has the time when its names came and went, and what differs in times alone stays.
            let frozen = self.scene.join("frozen");
            self.go(&["rewind", &to, frozen.to_str().expect("UTF-8")]);
            self.frozen_is(&expected, &View::but_times(), &format!("{n}: rewind of frozen/ to {to}"));
            self.go(&["undo"]);
            self.frozen_is(&before, &View::but_times(), &format!("{n}: undo of the rewind of frozen/ to {to}"));
        }
        self.marks.push(Mark { name, frozen: before });
    }

    /// The same for everything, while all stand.
    fn whole(&mut self, round: usize) {
        let label = format!("whole {round}");
        let (then, past) = {
            let _standing = self.floor.pause();
            let then = tree::read(self.scene.root());
            self.run(&["snapshot", "--label", &label]);
            (then, self.beside(&label))
        };
        let is = |at: &Path, expected: &Tree, what: &str| {
            tree::assert_same(expected, &tree::read(at), &View::exact(), &format!("round {round}: {what}"));
        };
        is(&past, &then, "the snapshot beside, while the present goes on");
        self.everybody_works();
        frozen::change(&self.scene.join("frozen"), &mut self.rng, 30);
        {
            // Not of `self`: what follows changes it.
            let floor = self.floor;
            let _standing = floor.pause();
            let root = self.scene.root().to_owned();
            let now = tree::read(&root);
            self.go(&["rewind", &label]);
            is(&root, &then, "the rewind");
            is(&past, &then, "the snapshot beside, after the rewind");
            self.shown(&label, &then);
            self.go(&["undo"]);
            is(&root, &now, "the undo");
            self.go(&["redo"]);
            is(&root, &then, "the redo");
            is(&past, &then, "the snapshot beside, at last");
            let marked = Mark { name: label, frozen: self.frozen() };
            self.marks.push(marked);
        }
        let unmount = || self.scene.command(["unmount".as_ref(), past.as_os_str()]).output().expect("run regentfs");
        wait_for("the mount beside to be free", || unmount().status.success());
    }

    /// A snapshot, mounted beside.
    fn beside(&self, label: &str) -> std::path::PathBuf {
        let at = self.scene.outside().join("past");
        fs::create_dir_all(&at).expect("mkdir");
        let mut command = self.scene.command(["mount".as_ref(), self.scene.repo().as_os_str()]);
        let output = command.arg("--at").arg(&at).args(["--snapshot", label]).output().expect("run regentfs");
        assert_ok(&output, "mount beside");
        assert!(is_mounted(&at), "{} is no mount", at.display());
        at
    }

    /// `show` of some files of a snapshot is what they were.
    fn shown(&mut self, label: &str, then: &Tree) {
        let files: Vec<(&Vec<u8>, _)> =
            then.iter().filter(|(path, entry)| entry.kind == "file" && std::str::from_utf8(path).is_ok()).collect();
        for _ in 0..8 {
            let (path, entry) = *self.rng.pick(&files);
            let name = format!("{label}:{}", String::from_utf8_lossy(path));
            let output = self.scene.run(&["show", &name]);
            assert_ok(&output, &name);
            assert!(blake3::hash(&output.stdout).as_bytes()[..] == entry.content, "show {name}: other bytes");
        }
    }

    /// Waits until each of the workers did something that it meant to do.
    #[allow(clippy::disallowed_methods)] // a deadline in real time
    fn everybody_works(&self) {
        let before: Vec<usize> = self.workers.iter().map(|who| who.good()).collect();
        let deadline = Instant::now() + STEPS_TAKE;
        loop {
            let mut idle = self.workers.iter().zip(&before).filter(|(who, before)| who.good() == **before);
            let Some((who, _)) = idle.next() else { break };
            assert!(!self.floor.is_stopped(), "a worker failed, see above");
            assert!(Instant::now() < deadline, "{} got nothing done in {STEPS_TAKE:?}", who.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
