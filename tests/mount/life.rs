//! From mount to unmount, and what comes in between: signals, crashes, processes in the way.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use regentfs::control::protocol::SOCKET;
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{assert_ok, both, can_mount, is_mounted, wait_for};
use crate::populate;
use crate::scene::{Scene, refusal};

/// A process that is ended with the test.
struct Company(Child);

impl Company {
    /// Sleeps with this working directory and this standard input.
    fn in_dir(dir: &Path, input: Stdio) -> Company {
        Company(Command::new("sleep").arg("300").current_dir(dir).stdin(input).spawn().expect("run sleep"))
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).permissions().mode() & 0o7777
}

fn gaps(scene: &Scene) -> usize {
    scene.json(&["events", "--op", "gap"]).len()
}

#[test]
fn mount_is_ready_when_it_returns() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new(populate);
    let output = scene.mount(&[]);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("mounted "), "{}", both(&output));
    assert_eq!(fs::read_to_string(scene.join("README")).expect("read"), "read me\n");
    let status = scene.json(&["status"]);
    let [status] = &status[..] else { panic!("{status:?}") };
    assert_eq!(Path::new(status["repo"].as_str().expect("repo")), scene.repo());
    assert_eq!(Path::new(status["mountpoint"].as_str().expect("mountpoint")), scene.root());
    assert_eq!(Path::new(status["store"].as_str().expect("store")), scene.store());
    assert_eq!((status["record"].as_str(), status["mounted"].as_bool()), (Some("auto"), Some(true)));
    assert_eq!(status["changed_files"].as_u64(), Some(0), "{status}");
    assert!(status["events"].as_u64() > Some(0) && status["since"].is_string(), "{status}");
    assert_eq!(mode(scene.store()), 0o700);
    let socket = scene.store().join(SOCKET);
    assert_eq!(mode(&socket), 0o600);
    assert!(fs::symlink_metadata(&socket).expect("stat").file_type().is_socket());
    assert_eq!(mode(&scene.store().join("daemon.log")), 0o600);
    assert!(scene.log().contains("mounted"), "{}", scene.log());
    scene.unmount();
    let status = scene.json(&["status"]);
    assert_eq!((status[0]["mounted"].as_bool(), status[0]["pid"].as_u64()), (Some(false), None), "{status:?}");
}

#[test]
fn unmounting_keeps_the_overlay() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new(populate);
    scene.mount(&[]);
    fs::write(scene.join("new"), "new").expect("write");
    fs::remove_file(scene.join("README")).expect("remove");
    fs::rename(scene.join("src/deep"), scene.join("moved")).expect("rename");
    let output = scene.unmount();
    assert!(String::from_utf8_lossy(&output.stdout).contains("regentfs discard"), "{}", both(&output));
    assert!(scene.join("README").exists() && !scene.join("new").exists() && !scene.join("moved").exists());
    scene.assert_whole();
    scene.mount(&[]);
    assert_eq!(fs::read_to_string(scene.join("new")).expect("read"), "new");
    assert!(!scene.join("README").exists());
    assert_eq!(fs::read(scene.join("moved/large")).expect("read"), vec![7u8; 600_000]);
    assert_eq!(gaps(&scene), 0);
}

#[test]
fn signals_end_it_cleanly() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new(populate);
    for (n, signal) in [Signal::TERM, Signal::INT, Signal::HUP].into_iter().enumerate() {
        scene.mount(&[]);
        fs::write(scene.join(format!("new{n}")), "x").expect("write");
        scene.end_daemon(signal);
        assert!(!is_mounted(scene.root()));
    }
    scene.assert_whole();
    scene.mount(&[]);
    for n in 0..3 {
        assert_eq!(fs::read(scene.join(format!("new{n}"))).expect("read"), b"x");
    }
    assert_eq!(gaps(&scene), 0);
}

/// Whether an operation found the daemon dead; any other error is a failure.
fn ends(result: std::io::Result<()>) -> bool {
    match result {
        Ok(()) => false,
        Err(error) if [Some(libc::ENOTCONN), Some(libc::ECONNABORTED)].contains(&error.raw_os_error()) => true,
        Err(error) => panic!("while the daemon lives: {error}"),
    }
}

/// Changes files until the mount is gone; returns what was acknowledged, and the names that the last operation was about.
fn work(root: &Path, seed: u64, mut files: BTreeMap<String, Vec<u8>>) -> (BTreeMap<String, Vec<u8>>, Vec<String>) {
    use std::os::unix::fs::FileExt;
    let mut state = seed | 1;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for n in 0.. {
        let name = format!("work{}", random(40));
        let at = root.join(&name);
        let step = random(10);
        match (step, files.get_mut(&name)) {
            (0, Some(_)) => {
                let to = format!("work{}", random(40));
                if ends(fs::rename(&at, root.join(&to))) {
                    return (files, vec![name, to]);
                }
                let bytes = files.remove(&name).expect("just found");
                files.insert(to, bytes);
            }
            (1, Some(_)) => {
                if ends(fs::remove_file(&at)) {
                    return (files, vec![name]);
                }
                files.remove(&name);
            }
            (2..6, Some(bytes)) => {
                let (offset, len) = (random(200_000) as usize, 1 + random(5000) as usize);
                let data = vec![n as u8; len];
                let written = fs::OpenOptions::new().write(true).open(&at).and_then(|file| {
                    file.write_all_at(&data, offset as u64)?;
                    if step == 2 { file.sync_all() } else { Ok(()) }
                });
                if ends(written) {
                    return (files, vec![name]);
                }
                if bytes.len() < offset + len {
                    bytes.resize(offset + len, 0);
                }
                bytes[offset..offset + len].copy_from_slice(&data);
            }
            (_, _) => {
                let data = vec![n as u8; random(70_000) as usize];
                if ends(fs::write(&at, &data)) {
                    return (files, vec![name]);
                }
                files.insert(name, data);
            }
        }
    }
    unreachable!("it ends with an error")
}

#[test]
fn killed_at_any_moment_it_goes_on() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new(populate);
    let mut files = BTreeMap::new();
    const ROUNDS: u64 = 8;
    for round in 0..ROUNDS {
        let output = scene.mount(&[]);
        assert_eq!(String::from_utf8_lossy(&output.stderr).contains("had died"), round > 0, "{}", both(&output));
        for (name, bytes) in &files {
            let found = fs::read(scene.join(name)).unwrap_or_else(|e| panic!("round {round}: {name}: {e}"));
            assert!(found == *bytes, "round {round}: {name} is not as it was acknowledged");
        }
        assert_eq!(gaps(&scene) as u64, round);
        let daemon = Pid::from_raw(scene.daemon()).expect("a pid");
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20 + round * 37 % 200));
            kill_process(daemon, Signal::KILL).expect("kill the daemon");
        });
        let root = scene.root().to_owned();
        let (acknowledged, in_flight) = work(&root, 12345 + round, files);
        killer.join().expect("the killer");
        files = acknowledged;
        for name in in_flight {
            files.remove(&name);
        }
    }
    assert!(files.len() > 5, "{files:?}");
    scene.mount(&[]);
    scene.unmount();
    scene.assert_whole();
}

#[test]
fn a_dead_mount_can_be_unmounted() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new(populate);
    scene.mount(&[]);
    fs::write(scene.join("new"), "new").expect("write");
    scene.end_daemon(Signal::KILL);
    assert!(is_mounted(scene.root()), "a killed daemon leaves its mount");
    // A question to a dead daemon says so.
    let said = refusal(&scene.run(&["status"]), 1);
    assert!(said.contains("daemon") && said.contains("gone"), "{said}");
    scene.unmount();
    assert_eq!(fs::read_to_string(scene.join("README")).expect("read"), "read me\n");
    scene.mount(&[]);
    assert_eq!(fs::read_to_string(scene.join("new")).expect("read"), "new");
}

#[test]
fn a_busy_mount_names_who_holds_it() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new(populate);
    scene.mount(&[]);
    let file = fs::File::open(scene.join("src/main")).expect("open");
    for company in [
        Company::in_dir(&scene.join("src"), Stdio::null()),
        Company::in_dir(scene.outside(), file.try_clone().expect("dup").into()),
    ] {
        let output = scene.try_unmount(&[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("sleep 300") && said.contains(&company.pid()) && said.contains("--lazy"), "{said}");
        assert!(is_mounted(scene.root()));
    }
    drop(file);
    let company = Company::in_dir(&scene.join("src"), Stdio::null());
    let daemon = scene.daemon();
    assert_ok(&scene.try_unmount(&["--lazy"]), "unmount --lazy");
    assert!(!is_mounted(scene.root()));
    drop(company);
    wait_for("the daemon to end with the last user", || !crate::common::is_running(daemon));
    scene.assert_whole();
    scene.mount(&[]);
    assert_eq!(gaps(&scene), 0);
}

#[test]
fn who_is_inside_already_is_named() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new(populate);
    let company = Company::in_dir(&scene.repo().join("src"), Stdio::null());
    let output = scene.mount(&[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("sleep 300") && said.contains(&company.pid()), "{said}");
}

#[test]
fn without_a_name_it_is_the_repository_around() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new(populate);
    let output = scene.command(["mount"]).current_dir(scene.repo().join("src/deep")).output().expect("run regentfs");
    assert_ok(&output, "mount");
    assert!(is_mounted(scene.root()));
    let output = scene.command(["status", "--json"]).current_dir(scene.join("src")).output().expect("run regentfs");
    assert_ok(&output, "status");
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"mounted\":true"), "{}", both(&output));
    let output = scene.command(["unmount"]).current_dir(scene.outside()).output().expect("run regentfs");
    assert_ok(&output, "unmount");
}

#[test]
fn the_default_store_is_in_the_state_directory() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new(populate);
    let state = scene.outside().join("state");
    let run = |arguments: &[&str]| {
        let mut command = crate::common::regentfs();
        let output = command.args(arguments).env("XDG_STATE_HOME", &state).current_dir(scene.repo()).output();
        let output = output.expect("run regentfs");
        assert_ok(&output, &arguments.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let repo = scene.repo().to_str().expect("UTF-8");
    run(&["mount", repo]);
    let stores: Vec<_> = fs::read_dir(state.join("regentfs")).expect("list").flatten().collect();
    let name = stores[0].file_name().into_string().expect("UTF-8");
    assert!(stores.len() == 1 && name.starts_with("repo-"), "{name}");
    assert_eq!(mode(&stores[0].path()), 0o700);
    assert!(run(&["status"]).contains(&name));
    run(&["unmount", repo]);
    // Without a name, from inside: the store tells which repository it is, not only git.
    run(&["fsck"]);
}

#[test]
fn two_repositories_at_once() {
    if !can_mount() {
        return;
    }
    let scenes = [Scene::new(populate), Scene::new(populate).elsewhere()];
    scenes.iter().for_each(|scene| drop(scene.mount(&[])));
    for (n, scene) in scenes.iter().enumerate() {
        fs::write(scene.join("which"), n.to_string()).expect("write");
    }
    for (n, scene) in scenes.iter().enumerate() {
        assert_eq!(fs::read_to_string(scene.join("which")).expect("read"), n.to_string());
        assert_eq!(scene.json(&["status"])[0]["changed_files"], 1);
    }
    scenes[0].unmount();
    assert_eq!(fs::read_to_string(scenes[1].join("which")).expect("read"), "1");
    assert!(!scenes[1].repo().join("which").exists());
    scenes[1].unmount();
    scenes.iter().for_each(Scene::assert_whole);
}

#[test]
fn purge_throws_the_store_away() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new(populate);
    scene.mount(&[]);
    fs::write(scene.join("README"), "changed").expect("write");
    let said = refusal(&scene.run(&["discard", "--purge", "--yes"]), 1);
    assert!(said.contains("unmount"), "{said}");
    scene.unmount();
    let said = refusal(&scene.run(&["discard", "--purge"]), 1);
    assert!(said.contains("--yes") && scene.store().exists(), "{said}");
    // What is not ours stays.
    fs::write(scene.store().join("mine"), "x").expect("write");
    let said = refusal(&scene.run(&["discard", "--purge", "--yes"]), 1);
    assert!(said.contains("mine"), "{said}");
    fs::remove_file(scene.store().join("mine")).expect("remove");
    assert_ok(&scene.run(&["discard", "--purge", "--yes"]), "discard");
    assert!(!scene.store().exists());
    scene.mount(&[]);
    assert_eq!(fs::read_to_string(scene.join("README")).expect("read"), "read me\n");
    assert_eq!(scene.json(&["status"])[0]["changed_files"], 0);
}

#[test]
fn in_the_foreground_it_ends_with_ctrl_c() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new(populate);
    let mut command = scene.command(["mount".as_ref(), scene.repo().as_os_str(), "--foreground".as_ref()]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("run regentfs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    assert!(line.starts_with("mounted "), "{line}");
    assert_eq!(fs::read_to_string(scene.join("README")).expect("read"), "read me\n");
    assert_eq!(scene.daemon() as u32, child.id());
    kill_process(Pid::from_raw(child.id() as i32).expect("a pid"), Signal::INT).expect("signal");
    assert!(child.wait().expect("wait").success());
    assert!(!is_mounted(scene.root()));
}
