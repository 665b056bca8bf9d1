//! The real Claude Code with a model that answers at once, from a directory below, on files and with commands that are unusual.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::claude::User;
use super::judge::{Script, assert_changes, assert_session, changed, judge};
use super::model::Model;
use super::real::{THINKING, populate, settled};
use crate::common::json::text;
use crate::common::{self, MountedRepo, assert_ok, can_mount};

#[test]
fn at_full_speed_with_odd_commands_and_files() {
    if !can_mount() {
        return;
    }
    let repo = MountedRepo::new(|base| {
        populate(base);
        fs::write(base.join("dos"), "one\r\ntwo\r\nthree\r\n").expect("write");
        fs::write(base.join("gr\u{fc}n"), "eins\nzwei\n").expect("write");
    });
    let model = Model::new(Duration::ZERO);
    let Some(user) = User::new(&repo.outside().join("home"), &model) else { return };
    let mut s = Script::new("odd", repo.path());
    s.bash("pwd && ls ..", 0, &[]);
    s.bash("cd .. && echo x > x && cd -", 0, &["x"]);
    s.bash("  \n# a comment\necho y > ../y\n\n", 0, &["y"]);
    s.bash("echo 'gr\u{fc}n \u{1f600}' > ../z; printf 'a\\tb' | wc -c", 0, &["z"]);
    s.bash(&format!("cat > ../long <<'END'\n{}END", "0123456789abcdef\n".repeat(3000)), 0, &["long"]);
    s.bash("ls", 0, &[]);
    s.bash("for i in 1 2 3; do (echo $i >> ../many) & done; wait; exit 5", 5, &["many"]);
    s.bash("false || { echo failed; exit 4; }", 4, &[]);
    s.bash("bash -c 'echo inner > ../inner'; exec bash -c 'exit 9'", 9, &["inner"]);
    s.read("dos");
    s.and().read("gr\u{fc}n");
    s.and().read("notes");
    s.and().read("README");
    let slow = s.stop();
    let dos = s.edit("dos", "two", "TWO\nand more");
    s.bash("wc -l ../dos", 0, &[]);
    let slower = s.stop();
    s.edit("gr\u{fc}n", "zwei", "zw\u{f6}lf");
    s.edit("notes", "one", "first");
    s.edit("notes", "two", "second");
    s.edit("notes", "three\n", "");
    s.edit("notes", "first", "third");
    s.bash("wc -l ../notes", 0, &[]);
    s.edit("README", "hello", "hello there");
    s.and().edit("README", "world", "World");
    s.write("deep/er/new", "no newline at the end");
    s.write("empty", "");
    s.edit("empty", "", "no more\n");
    s.bash("rm ../empty", 0, &["empty"]);
    s.give(&model);
    let agent = user.start(&repo.join("src"), &[], &s.prompt());
    let pid = agent.id();
    for stop in [slow, slower] {
        stop.wait();
        // The step before it is over.
        settled(&repo);
        stop.go_on();
    }
    assert_ok(&agent.wait_with_output().expect("wait"), "the agent");
    let log = settled(&repo);
    let judged = judge(&log, &[&s]);
    judged.tell("at full speed, odd commands and files");
    judged.assert_right(&repo);
    assert_session(&repo.json(&["sessions"]), &judged, &s, pid);
    assert_eq!(changed(&repo, text(judged.step(&dos), "step")), ["dos"]);
}

#[test]
fn in_a_timeline_that_is_mounted_elsewhere() {
    if !can_mount() {
        return;
    }
    let repo = MountedRepo::new(populate);
    let model = Model::new(THINKING);
    let Some(user) = User::new(&repo.outside().join("home"), &model) else { return };
    let beside = repo.outside().join("beside");
    let link = repo.outside().join("link");
    std::os::unix::fs::symlink(&beside, &link).expect("make a link");
    let regentfs = |arguments: &[&str]| {
        let mut command = common::regentfs();
        command.arg(arguments[0]).args(&arguments[1..]).arg("--store").arg(repo.store());
        assert_ok(&command.output().expect("run regentfs"), arguments[0]);
    };
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    fs::create_dir(&beside).expect("mkdir");
    regentfs(&["timeline", "fork", "idea", "--repo", &path(repo.path())]);
    regentfs(&["mount", &path(repo.path()), "--timeline", "idea", "--at", &path(&beside)]);
    let mut s = Script::new("idea", &beside);
    s.read("notes");
    s.edit("notes", "one", "ONE");
    s.bash("echo made > made", 0, &["made"]);
    s.write("src/new", "new\n");
    s.give(&model);
    // By a path that is none of the mount's own.
    let mut l = Script::new("link", &link);
    l.write("src/linked", "linked\n");
    l.bash("true; cat src/linked", 0, &[]);
    l.give(&model);
    for (script, dir) in [(&s, &beside), (&l, &link)] {
        assert_ok(&user.start(dir, &[], &script.prompt()).wait_with_output().expect("wait"), "the agent");
    }
    let judged = judge(&settled(&repo), &[&s, &l]);
    judged.tell("in a timeline that is mounted elsewhere");
    judged.assert_right(&repo);
    assert_changes(&repo, &judged, &[&s, &l]);
    assert!(!repo.join("made").exists() && beside.join("made").exists());
    regentfs(&["unmount", &path(&beside)]);
}
