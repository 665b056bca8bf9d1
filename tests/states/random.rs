//! Random edits of a small tree, and what must hold whatever they were.
//!
//! `REGENTFS_STATES_SEED` runs one seed again, `REGENTFS_STATES_SEEDS` says how many to run.

use std::collections::BTreeSet;
use std::fs;

use regentfs::types::Kind;

use super::rng::Rng;
use super::scene::{Scene, part, same};
use super::seeds;

/// The seeds to run.
pub fn seeds(count: u64) -> impl Iterator<Item = u64> {
    seeds::seeds("STATES", count)
}

pub fn base(repo: &std::path::Path) {
    for dir in ["a/b/c", "b/a"] {
        fs::create_dir_all(repo.join(dir)).unwrap();
    }
    for path in ["c", "a/a", "a/b/a", "a/b/b", "a/b/c/a", "b/b", "b/a/c"] {
        fs::write(repo.join(path), text(path.len() as u64, 12)).unwrap();
    }
    fs::hard_link(repo.join("a/b/b"), repo.join("b/l")).unwrap();
    std::os::unix::fs::symlink("c", repo.join("b/s")).unwrap();
}

/// Lines of text.
pub fn text(seed: u64, lines: u64) -> String {
    (0..lines).map(|line| format!("line {line} of {seed}\n")).collect()
}

/// Which edits there are.
#[derive(Clone, Copy)]
pub struct Edits {
    pub links: bool,
    pub xattrs: bool,
}

/// One edit; what cannot be done is not. Returns what it was.
pub fn edit(scene: &Scene, rng: &mut Rng, which: Edits) -> String {
    let mut paths: Vec<String> = scene.tree().into_keys().collect();
    paths.sort();
    let name = |rng: &mut Rng| (*rng.pick(&["a", "b", "c", "d"])).to_owned();
    let dirs: Vec<String> = [String::new()]
        .into_iter()
        .chain(paths.iter().filter(|p| scene.find(p).unwrap().kind == Kind::Dir).cloned())
        .collect();
    let fresh = |rng: &mut Rng| {
        let dir = rng.pick(&dirs).clone();
        if dir.is_empty() { name(rng) } else { format!("{dir}/{}", name(rng)) }
    };
    let some = |rng: &mut Rng| if paths.is_empty() { fresh(rng) } else { rng.pick(&paths).clone() };
    let say = |what: &str, result: Result<(), regentfs::types::Errno>| {
        format!("{what}{}", result.err().map_or(String::new(), |e| format!(": {e}")))
    };
    match rng.below(20) {
        0..=4 => {
            let path = some(rng);
            // One line of it, as a person edits.
            let Ok(inode) = scene.find(&path) else { return String::new() };
            if inode.kind != Kind::File {
                return String::new();
            }
            let mut lines: Vec<String> = scene.text(&path).lines().map(|l| format!("{l}\n")).collect();
            let at = rng.below(lines.len() as u64 + 1) as usize;
            let new = format!("new {}\n", rng.below(1000));
            if at < lines.len() && rng.one_in(2) {
                lines[at] = new;
            } else {
                lines.insert(at, new);
            }
            let text = lines.concat();
            if rng.one_in(3) && path.len() < 40 {
                let temp = format!("{path}~");
                let done = scene.try_write(&temp, text.as_bytes()).and_then(|()| scene.try_rename(&temp, &path));
                return say(&format!("save {path} line {at}"), done);
            }
            say(&format!("edit {path} line {at}"), scene.try_write(&path, text.as_bytes()))
        }
        5..=7 => {
            let path = fresh(rng);
            let text = text(rng.below(5), rng.below(6));
            say(&format!("write {path}"), scene.try_write(&path, text.as_bytes()))
        }
        8 => {
            let path = fresh(rng);
            say(&format!("mkdir {path}"), scene.try_make(&path, Kind::Dir, None))
        }
        9..=11 => {
            let path = some(rng);
            say(&format!("rm -r {path}"), scene.try_remove(&path))
        }
        12..=15 => {
            let (from, to) = (some(rng), if rng.one_in(2) { fresh(rng) } else { some(rng) });
            say(&format!("mv {from} {to}"), scene.try_rename(&from, &to))
        }
        16 if which.links => {
            let (from, to) = (some(rng), fresh(rng));
            say(&format!("ln {from} {to}"), scene.try_link(&from, &to))
        }
        17 => {
            let (path, target) = (fresh(rng), name(rng));
            say(&format!("ln -s {target} {path}"), scene.try_make(&path, Kind::Symlink, Some(&target)))
        }
        18 if which.xattrs => {
            let (path, value) = (some(rng), name(rng));
            let Ok(inode) = scene.find(&path) else { return String::new() };
            if !matches!(inode.kind, Kind::File | Kind::Dir) {
                return String::new();
            }
            say(&format!("setfattr {path} {value}"), scene.try_setxattr(&path, "user.a", &value))
        }
        _ => {
            let (path, perm) = (some(rng), *rng.pick(&[0o644, 0o755, 0o600, 0o700]));
            let Ok(inode) = scene.find(&path) else { return String::new() };
            if inode.kind == Kind::Symlink {
                return String::new();
            }
            let set = regentfs::overlay::ops::setattr::SetAttr { perm: Some(perm), ..Default::default() };
            say(&format!("chmod {perm:o} {path}"), scene.set(&path, set))
        }
    }
}

/// Says the seed and what was done, if the test ends in a panic.
pub struct Trace(pub u64, pub Vec<String>);

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("again: REGENTFS_STATES_SEED={}\n{}", self.0, self.1.join("\n"));
        }
    }
}

#[test]
fn any_paths_from_any_state() {
    for seed in seeds(60) {
        restore_run(seed);
    }
}

fn restore_run(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut trace = Trace(seed, Vec::new());
    let scene = Scene::new(base);
    let which = Edits { links: true, xattrs: true };
    let mut states = vec![(None, scene.tree())];
    for _ in 0..6 {
        for _ in 0..rng.below(12) {
            trace.1.push(edit(&scene, &mut rng, which));
            if rng.one_in(4) {
                let salt = rng.below(3) as usize;
                scene.forget(|at| at % 3 == salt);
            }
        }
        let before = scene.shot();
        states.push((Some(scene.snapshot()), before.tree.clone()));
        trace.1.push(format!("-- state {}", states.len() - 1));
        let from = rng.below(states.len() as u64) as usize;
        let (at, past) = states[from].clone();
        let all: Vec<&String> = past.keys().chain(before.tree.keys()).collect::<BTreeSet<_>>().into_iter().collect();
        if all.is_empty() {
            continue;
        }
        let chosen: BTreeSet<&str> = (0..1 + rng.below(3)).map(|_| rng.pick(&all).as_str()).collect();
        let paths: Vec<&str> = chosen.into_iter().collect();
        trace.1.push(format!("restore {paths:?} from {from}"));
        let in_the_way = |path: &&str| {
            let mut above = *path;
            while let Some((dir, _)) = above.rsplit_once('/') {
                above = dir;
                let blocks = before.tree.get(dir).is_some_and(|f| f.kind != Kind::Dir);
                if blocks
                    && past.contains_key(*path)
                    && !paths.iter().any(|p| dir == *p || dir.starts_with(&format!("{p}/")))
                {
                    return true;
                }
            }
            false
        };
        match scene.try_restore(at, &paths) {
            Ok(_) => {}
            Err(e) if paths.iter().any(in_the_way) => {
                trace.1.push(format!("refused: {e}"));
                same(&before.tree, &scene.tree(), "after a refusal");
                continue;
            }
            Err(e) => panic!("restore: {e}"),
        }
        let now = scene.shot();
        same(&part(&past, &paths, true), &part(&now.tree, &paths, true), "what was asked for");
        let mut rest = part(&now.tree, &paths, false);
        rest.retain(|path, file| {
            let made = file.kind == Kind::Dir && paths.iter().any(|p| p.starts_with(&format!("{path}/")));
            before.tree.contains_key(path) || !made
        });
        same(&part(&before.tree, &paths, false), &rest, "what was not asked for");
        scene.verify();
    }
    // All of it back, and every state is still what it was.
    for (at, tree) in &states {
        if at.is_some() {
            same(tree, &scene.view_tree(*at), "a state of the past");
        }
    }
    while scene.machine.undo(&scene.ctx(), regentfs::timeline::undo::Direction::Undo, true, &[]).is_ok() {
        scene.verify();
    }
}
