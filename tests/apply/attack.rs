//! Nobody can make apply write outside the base, or to another file than the plan is about, by what he puts into the base.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path as FsPath;

use regentfs::apply::{self, Applied, ContentId, Error, Found, Make, Plan, Prepared, Site, Step};
use regentfs::store::fault::{self, Action};
use regentfs::types::{Errno, Path};

use crate::common::tree;
use crate::fixture::{Bytes, Fixture, ID, Kept, meta, same, turn};

fn file() -> Make {
    Make::File { content: ContentId(1), meta: meta(0o644, 9) }
}

fn bytes() -> Bytes {
    Bytes::of(&[(1, b"new")])
}

/// A base with a directory `d`, and one outside with the same names in it.
fn with_outside() -> (Fixture, std::path::PathBuf) {
    let f = Fixture::new();
    let outside = f.dir.path().join("outside");
    for dir in [f.path("d"), outside.clone()] {
        fs::create_dir(&dir).unwrap();
        fs::create_dir(dir.join("sub")).unwrap();
        for name in ["old", "gone", "mode", "sub/x"] {
            fs::write(dir.join(name), "old").unwrap();
        }
    }
    (f, outside)
}

fn steps(f: &Fixture) -> Vec<Step> {
    vec![
        f.step("d/old", file()),
        f.step("d/new", file()),
        f.step("d/gone", Make::Remove),
        f.step("d/mode", Make::Meta { meta: meta(0o600, 9) }),
        f.step("d/dir", Make::Dir { meta: meta(0o755, 9) }),
        f.step("d/dir/in", file()),
        f.step("d/sub/x", Make::Remove),
        f.step("d/sub", Make::Remove),
        f.step("d/linked", Make::Link { to: Path::new(b"d/mode") }),
    ]
}

/// Puts a link to the outside in the place of `d`.
fn turn_away(f: &Fixture, outside: &FsPath) {
    fs::rename(f.path("d"), f.path("away")).unwrap();
    symlink(outside, f.path("d")).unwrap();
}

#[test]
fn a_link_in_the_place_of_a_directory_leads_nowhere() {
    let _turn = turn();
    let (f, outside) = with_outside();
    let there = tree::read(&outside);
    let plan = steps(&f);
    turn_away(&f, &outside);
    let here = f.tree();
    let Ok(Applied::Refused(conflicts)) = f.apply(plan, &bytes()) else { panic!("not refused") };
    assert_eq!(conflicts.len(), 9);
    for conflict in &conflicts {
        let Found::Refused(errno) = conflict.found else { panic!("{conflict:?}") };
        assert!([Errno::ELOOP, Errno::ENOTDIR].contains(&errno), "{conflict:?}");
    }
    same(&there, &tree::read(&outside), "outside");
    same(&here, &f.tree(), "inside");
    f.is_over();
}

#[test]
fn a_link_that_comes_in_the_last_moment_leads_nowhere() {
    let _turn = turn();
    let (f, outside) = with_outside();
    let there = tree::read(&outside);
    let root = f.root();
    let site = Site { store: &f.store, root: &root };
    let prepared = apply::prepare(site, Plan { id: ID, steps: steps(&f) }, &bytes(), &mut Kept::default(), &mut ());
    let Ok(Prepared::Ready(ready)) = prepared else { panic!("refused") };
    turn_away(&f, &outside);
    let outcome = ready.commit(&mut ()).unwrap();
    // What is below `d` cannot be reached any more; for removals that is as good as done.
    let mut left: Vec<String> = outcome.conflicts.iter().map(|c| c.path.to_string()).collect();
    left.sort();
    assert_eq!(left, ["d/dir", "d/dir/in", "d/linked", "d/mode", "d/new", "d/old"]);
    apply::finish(site).unwrap();
    same(&there, &tree::read(&outside), "outside");
    assert_eq!(fs::read(f.path("away/old")).unwrap(), b"old");
}

#[test]
fn a_link_that_comes_between_two_steps_leads_nowhere() {
    let _turn = turn();
    for nth in 1..=9 {
        let (f, outside) = with_outside();
        let there = tree::read(&outside);
        fault::arm("apply.step.after", nth, Action::Error);
        let result = f.apply(steps(&f), &bytes());
        assert!(fault::disarm() && matches!(result, Err(Error::Unfinished(_))), "{result:?}");
        turn_away(&f, &outside);
        let root = f.root();
        let site = Site { store: &f.store, root: &root };
        apply::resume(site, &mut ()).unwrap();
        apply::finish(site).unwrap();
        same(&there, &tree::read(&outside), &format!("outside, after step {nth}"));
    }
}

#[test]
fn links_where_files_are_made_are_not_followed() {
    let _turn = turn();
    let f = Fixture::new();
    let victim = f.dir.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let before = fs::symlink_metadata(&victim).unwrap().modified().unwrap();
    let temp = |step: usize| f.path(format!(".regentfs-{ID}-{step}.tmp"));
    fs::write(f.path("x"), "x").unwrap();
    // Under the temporary name, when it was looked at already.
    let mut kept = Kept { hook: Some(Box::new(|_| symlink(&victim, temp(0)).unwrap())), ..Kept::default() };
    let made = f.apply_with(&f.root(), vec![f.step("x", file())], &bytes(), &mut kept, &mut ());
    assert!(matches!(made, Err(Error::InTheWay { .. })), "{made:?}");
    drop(kept);
    fs::remove_file(temp(0)).unwrap();
    // In the place of a file that gets new metadata.
    let root = f.root();
    let site = Site { store: &f.store, root: &root };
    for make in [Make::Meta { meta: meta(0o777, 1) }, Make::Remove, file()] {
        fs::write(f.path("x"), "x").unwrap();
        let plan = Plan { id: ID, steps: vec![f.step("x", make)] };
        let Ok(Prepared::Ready(ready)) = apply::prepare(site, plan, &bytes(), &mut Kept::default(), &mut ()) else {
            panic!("refused")
        };
        fs::remove_file(f.path("x")).unwrap();
        symlink(&victim, f.path("x")).unwrap();
        assert_eq!(ready.commit(&mut ()).unwrap().conflicts.len(), 1);
        apply::finish(site).unwrap();
        assert_eq!(fs::read_link(f.path("x")).unwrap(), victim, "somebody's link stays");
        fs::remove_file(f.path("x")).unwrap();
    }
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert_eq!(fs::symlink_metadata(&victim).unwrap().modified().unwrap(), before);
}

#[test]
fn a_plan_that_leads_out_is_no_plan() {
    let _turn = turn();
    let (f, outside) = with_outside();
    let there = tree::read(&outside);
    for path in ["../outside/new", "d/../../outside/new", "/etc/x", "d/./x", "d//x", "d/", ".."] {
        let step = Step { path: Path::new(path.as_bytes()), ..f.step("free", file()) };
        assert!(matches!(f.apply(vec![step], &bytes()), Err(Error::Plan(_))), "{path}");
    }
    same(&there, &tree::read(&outside), "outside");
    f.is_over();
}
