//! Random work in several timelines that are mounted beside each other, mixed with snapshots, rewinds, undo, redo, forks, merges, applies and
//! restarts. The reference is what was read from the mount when a point was taken: whatever leads back there must show that again, and what one
//! timeline does must not be seen in another.
//!
//! `REGENTFS_TIMELINE_SEED` runs one sequence again, `REGENTFS_TIMELINE_STEPS` says how long each is.

#[path = "../model/rng.rs"]
#[allow(dead_code)]
mod rng;
#[path = "../model/seeds.rs"]
mod seeds;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::common::tree::{self, Tree, View};
use crate::common::{assert_ok, both, can_mount};
use crate::stage::Stage;
use rng::Rng;
use seeds::{number, seeds};

/// A state that can be gone back to.
struct Point {
    id: String,
    /// The timeline in which it was taken.
    line: String,
    tree: Tree,
}

struct Run {
    stage: Stage,
    rng: Rng,
    /// Timelines with the directories that show them; the first is in place.
    lines: Vec<(String, PathBuf)>,
    points: Vec<Point>,
    trace: Vec<String>,
}

const NAMES: [&str; 6] = ["a", "b", "c", "d", "src", "README"];

impl Run {
    fn new(seed: u64) -> Run {
        let stage = Stage::mounted();
        let lines = vec![("main".to_owned(), stage.root().to_owned())];
        Run { stage, rng: Rng::new(seed), lines, points: Vec::new(), trace: Vec::new() }
    }

    fn note(&mut self, text: String) {
        println!("{text}");
        self.trace.push(text);
    }

    /// A path with at most three components. It need not be there.
    fn path(&mut self, root: &Path) -> PathBuf {
        let mut path = root.to_owned();
        for _ in 0..=self.rng.below(3) {
            path.push(self.rng.pick(&NAMES));
        }
        path
    }

    /// One thing that a program might do. What cannot be done is not.
    fn work(&mut self, root: &Path) {
        let (path, other) = (self.path(root), self.path(root));
        let len = self.rng.below(200_000) as usize;
        let what = self.rng.below(11);
        self.note(format!("  {what} {} {} {len}", path.display(), other.display()));
        let _ = match what {
            0 | 1 => fs::write(&path, self.rng.bytes(len)),
            2 => fs::OpenOptions::new().append(true).open(&path).and_then(|mut f| f.write_all(b"one line more\n")),
            3 => fs::create_dir_all(&path),
            4 | 5 => fs::rename(&path, &other),
            6 => fs::remove_file(&path),
            7 => fs::remove_dir_all(&path),
            8 => fs::hard_link(&path, &other),
            9 => fs::set_permissions(&path, fs::Permissions::from_mode(0o700 | (len as u32 & 0o77))),
            _ => std::os::unix::fs::symlink("a", &path),
        };
    }

    fn any_line(&mut self) -> (String, PathBuf) {
        self.rng.pick(&self.lines).clone()
    }

    fn trees(&self) -> BTreeMap<String, Tree> {
        self.lines.iter().map(|(name, root)| (name.clone(), tree::read(root))).collect()
    }

    /// All timelines but `but` show what they showed.
    fn check(&self, before: &BTreeMap<String, Tree>, but: &[&str], what: &str) {
        for (name, root) in self.lines.iter().filter(|(name, _)| !but.contains(&name.as_str())) {
            same(&before[name], root, &format!("{what}: timeline {name}"));
        }
    }

    fn command(&self, root: &Path, arguments: &[&str]) -> std::process::Output {
        self.stage.inside(root, arguments)
    }

    fn done(&self, root: &Path, arguments: &[&str]) -> String {
        let output = self.command(root, arguments);
        assert_ok(&output, &arguments.join(" "));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn snapshot(&mut self) {
        let (line, root) = self.any_line();
        let id = self.done(&root, &["snapshot"]).trim().to_owned();
        self.note(format!("snapshot {id} of {line}"));
        self.points.push(Point { id, line, tree: tree::read(&root) });
    }

    fn rewind(&mut self) {
        let (line, root) = self.any_line();
        let own: Vec<usize> = (0..self.points.len()).filter(|&at| self.points[at].line == line).collect();
        if own.is_empty() {
            return;
        }
        let at = *self.rng.pick(&own);
        let id = self.points[at].id.clone();
        let before = self.trees();
        self.note(format!("rewind {line} to {id}"));
        let output = self.command(&root, &["rewind", &id]);
        let nothing = both(&output).contains("nothing to do");
        assert!(output.status.success() || nothing, "rewind: {}", both(&output));
        let point = &self.points[at].tree;
        same(point, &root, &format!("rewind of {line} to {id}"));
        self.check(&before, &[&line], "another timeline was rewound");
        if !nothing && self.rng.one_in(3) {
            self.back_and_forth(&line, &root, &before[&line], at);
        }
    }

    /// Undo of the rewind that was just done; and redo.
    fn back_and_forth(&mut self, line: &str, root: &Path, before: &Tree, at: usize) {
        self.note(format!("undo in {line}"));
        self.done(root, &["undo"]);
        same(before, root, &format!("undo in {line}"));
        if self.rng.one_in(2) {
            self.note(format!("redo in {line}"));
            self.done(root, &["redo"]);
            same(&self.points[at].tree, root, &format!("redo in {line}"));
        }
    }

    fn fork(&mut self) {
        if self.lines.len() > 3 || self.points.is_empty() {
            return;
        }
        let at = self.rng.below(self.points.len() as u64) as usize;
        let (id, name) = (self.points[at].id.clone(), format!("line{}", self.trace.len()));
        let before = self.trees();
        self.note(format!("fork {name} from {id}"));
        self.stage.timeline(&["fork", &name, &id]);
        let root = self.stage.beside(&name, &["--timeline", &name]);
        same(&self.points[at].tree, &root, "a fork");
        self.check(&before, &[], "something was forked");
        self.lines.push((name.clone(), root));
        let tree = self.points[at].tree.clone();
        self.points.push(Point { id, line: name, tree });
    }

    fn past(&mut self) {
        if self.points.is_empty() {
            return;
        }
        let at = self.rng.below(self.points.len() as u64) as usize;
        let id = self.points[at].id.clone();
        self.note(format!("mount {id}"));
        let root = self.stage.beside("past", &["--snapshot", &id]);
        same(&self.points[at].tree, &root, &format!("snapshot {id} beside"));
        self.stage.unmount_one(&root);
    }

    /// Another timeline's work comes into the one in place, or nothing changes.
    fn merge(&mut self) {
        if self.lines.len() < 2 {
            return;
        }
        let at = 1 + self.rng.below(self.lines.len() as u64 - 1) as usize;
        let (name, main) = (self.lines[at].0.clone(), self.lines[0].1.clone());
        let before = self.trees();
        self.note(format!("merge {name}"));
        let output = self.command(&main, &["timeline", "merge", &name]);
        self.check(&before, &["main"], "another timeline was merged into");
        let said = both(&output);
        match output.status.code() {
            Some(0) if said.contains("nothing") => same(&before["main"], &main, "a merge of nothing"),
            Some(0) => {
                self.done(&main, &["undo"]);
                same(&before["main"], &main, "undo of a merge");
                if self.rng.one_in(2) {
                    self.done(&main, &["redo"]);
                }
            }
            Some(1) => same(&before["main"], &main, "a merge that was refused"),
            other => panic!("merge: {other:?}: {said}"),
        }
    }

    fn apply(&mut self) {
        let before = self.trees();
        let main = self.lines[0].1.clone();
        self.note("apply".to_owned());
        let output = self.command(&main, &["apply"]);
        let said = both(&output);
        assert!(output.status.success() || said.contains("nothing to apply"), "apply: {said}");
        self.check(&before, &[], "apply");
        if output.status.success() && self.rng.one_in(2) {
            self.note("undo of apply".to_owned());
            self.done(&main, &["undo"]);
            self.check(&before, &[], "undo of apply");
        }
    }

    fn restart(&mut self) {
        let before = self.trees();
        self.note("unmount and mount".to_owned());
        for (_, root) in self.lines.iter().skip(1) {
            self.stage.unmount_one(root);
        }
        self.stage.unmount();
        self.stage.mount(&[]);
        for (name, _) in self.lines.iter().skip(1) {
            self.stage.beside(name, &["--timeline", name]);
        }
        self.check(&before, &[], "a restart");
    }

    fn step(&mut self) {
        match self.rng.below(20) {
            0..=8 => {
                let (line, root) = self.any_line();
                let before = self.trees();
                self.note(format!("work in {line}"));
                for _ in 0..=self.rng.below(8) {
                    self.work(&root);
                }
                self.check(&before, &[&line], "work in another timeline");
            }
            9..=12 => self.snapshot(),
            13..=15 => self.rewind(),
            16 => self.fork(),
            17 => self.past(),
            18 => self.merge(),
            _ if self.rng.one_in(2) => self.apply(),
            _ => self.restart(),
        }
    }
}

/// All but the times of directories: one that was applied has those on disk from the next mount on.
fn same(expected: &Tree, root: &Path, what: &str) {
    let timeless = |tree: &Tree| {
        let mut tree = tree.clone();
        tree.values_mut().filter(|entry| entry.kind == "directory").for_each(|entry| entry.mtime = (0, 0));
        tree
    };
    let differences = tree::differences(&timeless(expected), &timeless(&tree::read(root)), &View::exact());
    assert!(differences.is_empty(), "{what}:\n{}", differences.join("\n"));
}

#[test]
fn whatever_leads_back_to_a_point_shows_it_again() {
    if !can_mount() {
        return;
    }
    for seed in seeds("TIMELINE", 3) {
        println!("REGENTFS_TIMELINE_SEED={seed}");
        sequence(seed);
    }
}

fn sequence(seed: u64) {
    let mut run = Run::new(seed);
    for _ in 0..number("REGENTFS_TIMELINE_STEPS").unwrap_or(80) {
        run.step();
    }
    for (_, root) in run.lines.clone().iter().skip(1) {
        run.stage.unmount_one(root);
    }
    run.stage.unmount();
    run.stage.assert_whole();
}
