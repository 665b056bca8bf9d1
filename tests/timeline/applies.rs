//! Several applies with work, rewinds and restarts between them: every point shows what was there when it was taken, beside and after a rewind to it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::common::tree::{self, Tree, View};
use crate::common::{assert_ok, can_mount};
use crate::stage::{Stage, write};

struct Chain {
    stage: Stage,
    points: Vec<(String, Tree)>,
}

/// All but the times of directories: one that was applied has those on disk from the next mount on.
fn assert_same(expected: &Tree, root: &Path, what: &str) {
    let timeless = |mut tree: Tree| {
        tree.values_mut().filter(|entry| entry.kind == "directory").for_each(|entry| entry.mtime = (0, 0));
        tree
    };
    let differences = tree::differences(&timeless(expected.clone()), &timeless(tree::read(root)), &View::exact());
    assert!(differences.is_empty(), "{what}:\n{}", differences.join("\n"));
}

impl Chain {
    fn new() -> Chain {
        Chain { stage: Stage::mounted(), points: Vec::new() }
    }

    fn root(&self) -> PathBuf {
        self.stage.root().to_owned()
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    fn command(&self, arguments: &[&str]) -> String {
        let output = self.stage.inside(&self.root(), arguments);
        assert_ok(&output, &arguments.join(" "));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn point(&mut self) -> usize {
        let id = self.command(&["snapshot"]).trim().to_owned();
        self.points.push((id, tree::read(&self.root())));
        self.points.len() - 1
    }

    fn apply(&self) {
        let before = tree::read(&self.root());
        self.command(&["apply"]);
        assert_same(&before, &self.root(), "an apply");
    }

    fn rewind(&self, point: usize) {
        let (id, tree) = &self.points[point];
        self.command(&["rewind", id]);
        assert_same(tree, &self.root(), &format!("rewind to point {point}"));
    }

    fn restart(&self) {
        let before = tree::read(&self.root());
        assert_ok(&self.stage.unmount(), "unmount");
        self.stage.mount(&[]);
        assert_same(&before, &self.root(), "a restart");
    }

    fn chmod(&self, path: &str, mode: u32) {
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(mode)).expect("chmod");
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("mkdir");
        write(path, text);
    }

    /// Looks at all points, goes to all of them, and to the last one by undo.
    fn end(self) {
        for (at, (id, tree)) in self.points.iter().enumerate() {
            let past = self.stage.beside("past", &["--snapshot", id]);
            assert_same(tree, &past, &format!("point {at} beside"));
            self.stage.unmount_one(&past);
        }
        let before = tree::read(&self.root());
        for (at, (id, tree)) in self.points.iter().enumerate() {
            let output = self.stage.inside(&self.root(), &["rewind", id]);
            assert_same(tree, &self.root(), &format!("rewind to point {at} at the end"));
            if output.status.success() {
                self.command(&["undo"]);
            }
            assert_same(&before, &self.root(), &format!("undo of the rewind to point {at}"));
        }
        assert_ok(&self.stage.unmount(), "unmount");
        self.stage.assert_whole();
    }
}

#[test]
fn what_an_apply_made_and_the_next_one_changes_is_kept_as_it_was() {
    if !can_mount() {
        return;
    }
    let mut chain = Chain::new();
    chain.point();
    chain.write("made/file", "one\n");
    chain.write("made/other", "other\n");
    chain.write("single", "single\n");
    for path in ["made/file", "made/other", "single"] {
        chain.chmod(path, 0o600);
    }
    chain.chmod("made", 0o700);
    chain.apply();
    chain.restart();
    chain.point();
    for path in ["made/file", "single"] {
        chain.chmod(path, 0o644);
    }
    chain.chmod("made", 0o755);
    write(chain.at("made/other"), "changed\n");
    chain.apply();
    chain.end();
}

#[test]
fn what_was_out_of_view_for_a_while_is_kept_as_it_was() {
    if !can_mount() {
        return;
    }
    for removed in [false, true] {
        let mut chain = Chain::new();
        let before = chain.point();
        chain.write("made/file", "one\n");
        chain.write("made/deep/file", "deep\n");
        chain.apply();
        chain.restart();
        let made = chain.point();
        chain.write("made/file", "two\n");
        chain.chmod("made/deep/file", 0o600);
        chain.rewind(before);
        chain.rewind(made);
        if removed {
            fs::remove_dir_all(chain.at("made")).expect("remove");
        } else {
            chain.write("made/file", "three\n");
            chain.chmod("made/deep/file", 0o640);
        }
        chain.apply();
        chain.end();
    }
}

#[test]
fn what_was_applied_and_changed_since_stays_changed() {
    if !can_mount() {
        return;
    }
    let chain = Chain::new();
    chain.write("made/file", "one\n");
    chain.write("single", "single\n");
    chain.apply();
    chain.chmod("made", 0o711);
    chain.chmod("made/file", 0o640);
    chain.chmod("single", 0o640);
    chain.write("emptied/inner/file", "goes on elsewhere\n");
    chain.command(&["apply", "emptied"]);
    fs::rename(chain.at("emptied/inner"), chain.at("elsewhere")).expect("rename");
    // The base goes on as well.
    assert_ok(&chain.stage.unmount(), "unmount");
    let expected = |path: &str| fs::metadata(chain.at(path)).expect("stat").permissions().mode() & 0o7777;
    write(chain.at("single"), "changed on disk\n");
    chain.stage.mount(&[]);
    assert_eq!([expected("made"), expected("made/file"), expected("single")], [0o711, 0o640, 0o640]);
    assert!(!chain.at("emptied/inner").exists() && chain.at("elsewhere/file").exists());
    chain.end();
}

#[test]
fn a_file_that_several_applies_replaced_and_removed_can_be_applied_again() {
    if !can_mount() {
        return;
    }
    let mut chain = Chain::new();
    let before = chain.point();
    fs::remove_file(chain.at("README")).expect("remove");
    chain.write("README", "another file\n");
    chain.apply();
    fs::remove_file(chain.at("README")).expect("remove");
    chain.apply();
    chain.restart();
    chain.rewind(before);
    chain.apply();
    chain.end();
}

#[test]
fn a_name_more_or_less_in_the_base_shows_in_no_other_state() {
    if !can_mount() {
        return;
    }
    let mut chain = Chain::new();
    chain.point();
    fs::hard_link(chain.at("README"), chain.at("second")).expect("link");
    chain.apply();
    chain.point();
    chain.restart();
    fs::hard_link(chain.at("README"), chain.at("src/third")).expect("link");
    fs::create_dir(chain.at("new")).expect("mkdir");
    fs::hard_link(chain.at("src/main"), chain.at("new/main")).expect("link");
    chain.chmod("README", 0o600);
    chain.apply();
    chain.point();
    chain.command(&["undo"]);
    chain.point();
    chain.command(&["redo"]);
    chain.restart();
    fs::remove_file(chain.at("second")).expect("remove");
    chain.apply();
    chain.end();
}
