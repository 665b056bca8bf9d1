//! Timelines and the past mounted beside each other: nobody sees what is another's.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::common::tree::{self, View};
use crate::common::{assert_ok, both, can_mount, has_programs, is_mounted};
use crate::scene::refusal;
use crate::stage::{Stage, large, names, read, rows, write};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_fork_is_isolated_both_ways() {
    if !can_mount() {
        return;
    }
    let stage = Stage::mounted();
    write(stage.join("README"), "changed before\n");
    write(stage.join("early"), "early\n");
    let made = stage.timeline(&["fork", "try"]);
    assert_eq!((made[0]["name"].as_str(), made[0]["parent"].as_str()), (Some("try"), Some("main")), "{made:?}");
    let one = stage.beside("one", &["--timeline", "try"]);
    assert_eq!(names(&one), names(stage.root()));
    assert_eq!(read(one.join("README")), "changed before\n");

    // Bytes, with a file that is larger than a chunk.
    for (root, byte) in [(stage.root(), b'm'), (&*one, b't')] {
        let file = fs::OpenOptions::new().write(true).open(root.join("src/deep/large")).expect("open");
        file.write_all_at(&[byte; 70_000], 100_000).expect("write");
        write(root.join("README"), [byte; 3]);
    }
    for (root, byte) in [(stage.root(), b'm'), (&*one, b't')] {
        let mut expected = large(b'b');
        expected[100_000..170_000].fill(byte);
        assert!(fs::read(root.join("src/deep/large")).expect("read") == expected, "{}", root.display());
        assert_eq!(fs::read(root.join("README")).expect("read"), [byte; 3]);
    }
    // Names.
    fs::remove_file(stage.join("early")).expect("remove");
    fs::rename(one.join("src"), one.join("lib")).expect("rename");
    fs::remove_file(one.join("link")).expect("remove");
    assert_eq!(names(stage.root()), [".git", "README", "link", "src"]);
    assert_eq!(names(&one), [".git", "README", "early", "lib"]);
    assert_eq!(read(stage.join("src/main")), "main\n".repeat(1000));
    assert_eq!(read(one.join("lib/main")), "main\n".repeat(1000));
    // Numbers.
    let mut numbers = BTreeSet::new();
    for n in 0..20 {
        for root in [stage.root(), &*one] {
            write(root.join(format!("new{n}")), "new");
            assert!(numbers.insert(fs::metadata(root.join(format!("new{n}"))).expect("stat").ino()), "new{n}");
        }
    }
    // Attributes.
    fs::set_permissions(one.join("lib/main"), fs::Permissions::from_mode(0o600)).expect("chmod");
    let mode = |path: &Path| fs::metadata(path).expect("stat").mode() & 0o777;
    assert_eq!((mode(&one.join("lib/main")), mode(&stage.join("src/main"))), (0o600, 0o644));
    stage.unmount();
    stage.assert_whole();
}

#[test]
fn a_fork_copies_nothing() {
    if !can_mount() {
        return;
    }
    let stage = Stage::mounted();
    write(stage.join("src/deep/large"), large(b'x'));
    let count = || walk(&stage.store().join("data"));
    let before = count();
    for n in 0..5 {
        stage.timeline(&["fork", &format!("fork{n}")]);
    }
    assert_eq!(count(), before);
    assert_eq!(stage.json(&["snapshots"]).len(), 1, "one state, one snapshot");
    let forked: BTreeSet<String> = stage.timeline(&["list"]).iter().map(|row| row["forked_at"].to_string()).collect();
    assert_eq!(forked.len(), 2, "{forked:?}");
}

/// How many files there are below a directory.
fn walk(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).expect("list").flatten();
    entries.map(|e| if e.path().is_dir() { walk(&e.path()) } else { 1 }).sum()
}

/// Changes a tree for a while; what must be there afterwards follows from `who` alone.
fn work(root: &Path, who: u8, rounds: usize) {
    for round in 0..rounds {
        write(root.join(format!("same{}", round % 7)), vec![who; 1000 * (round + 1)]);
        write(root.join(format!("own-{who}-{round}")), [who; 10]);
        let file = fs::OpenOptions::new().write(true).open(root.join("src/deep/large")).expect("open");
        file.write_all_at(&[who; 5000], (round * 9000) as u64).expect("write");
        let mut log = fs::OpenOptions::new().append(true).create(true).open(root.join("log")).expect("open");
        log.write_all(&[who; 3]).expect("append");
        if round % 3 == 0 {
            fs::rename(root.join(format!("own-{who}-{round}")), root.join(format!("src/moved-{who}-{round}")))
                .expect("rename");
        }
        if round % 5 == 0 {
            fs::create_dir(root.join(format!("dir{round}"))).expect("mkdir");
            write(root.join(format!("dir{round}/in")), [who]);
            fs::remove_dir_all(root.join(format!("dir{round}"))).expect("remove");
        }
    }
}

fn worked(root: &Path, who: u8, rounds: usize) {
    let at = root.display();
    for n in 0..7 {
        let last = (0..rounds).rev().find(|round| round % 7 == n).expect("more than seven");
        let bytes = fs::read(root.join(format!("same{n}"))).expect("read");
        assert!(bytes == vec![who; 1000 * (last + 1)], "{at}: same{n} is not what was written last");
    }
    assert!(fs::read(root.join("log")).expect("read") == vec![who; 3 * rounds], "{at}: log");
    let mut expected = large(b'b');
    (0..rounds).for_each(|round| expected[round * 9000..round * 9000 + 5000].fill(who));
    assert!(fs::read(root.join("src/deep/large")).expect("read") == expected, "{at}: large");
    let foreign = |name: &String| name.contains("own-") || name.contains("moved-");
    let own = |name: &String| name.contains(&format!("-{who}-"));
    let all: Vec<String> = [names(root), names(&root.join("src"))].concat().into_iter().filter(foreign).collect();
    assert!(all.iter().all(own) && all.len() == rounds, "{at}: {all:?}");
}

#[test]
fn three_timelines_with_writers_in_each_at_once() {
    if !can_mount() {
        return;
    }
    const ROUNDS: usize = 60;
    let stage = Stage::mounted();
    let roots = [stage.root().to_owned(), stage.forked("one"), stage.forked("two")];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            roots.iter().zip(1..).map(|(root, who)| scope.spawn(move || work(root, who, ROUNDS))).collect();
        // Snapshots and forks meanwhile, in each of them.
        let stage = &stage;
        let (roots, done) = (&roots, &done);
        let historian = scope.spawn(move || {
            let mut n = 0;
            while !done.load(Ordering::Acquire) {
                let root = &roots[n % roots.len()];
                stage.inside_ok(root, &["snapshot"]);
                stage.inside_ok(root, &["timeline", "fork", &format!("fork{n}")]);
                n += 1;
            }
            n
        });
        workers.into_iter().for_each(|w| w.join().expect("a writer"));
        done.store(true, Ordering::Release);
        assert!(historian.join().expect("the historian") > 0);
    });
    for (root, who) in roots.iter().zip(1..) {
        worked(root, who, ROUNDS);
    }
    // From the log alone.
    stage.unmount();
    assert!(roots.iter().all(|root| !is_mounted(root)));
    stage.assert_whole();
    stage.mount(&[]);
    stage.beside("one", &["--timeline", "one"]);
    stage.beside("two", &["--timeline", "two"]);
    for (root, who) in roots.iter().zip(1..) {
        worked(root, who, ROUNDS);
    }
}

#[test]
fn commands_are_about_the_mount_that_they_are_given_in() {
    if !can_mount() {
        return;
    }
    let stage = Stage::mounted();
    let try_ = stage.forked("try");
    write(try_.join("only-try"), "1\n");
    let id = text(&stage.inside_ok(&try_.join("src"), &["snapshot", "--label", "good"]).stdout).trim().to_owned();
    let snapshots = rows(&stage.inside_ok(&try_, &["snapshots", "--json"]));
    assert!(snapshots.iter().any(|s| s["id"] == id.as_str() && s["timeline"] == "try"), "{snapshots:?}");
    assert!(stage.json(&["snapshots"]).iter().all(|s| s["id"] != id.as_str()), "it is not of the timeline in place");
    assert!(stage.json(&["snapshots", "--all"]).iter().any(|s| s["id"] == id.as_str()));
    let diff = |dir: &Path| text(&stage.inside_ok(dir, &["diff", "--name-only"]).stdout);
    assert_eq!(
        (diff(&try_), diff(stage.root()), diff(stage.outside())),
        ("only-try\n".into(), String::new(), String::new())
    );
    // A relative path and one that names the mount.
    write(try_.join("src/main"), "broken\n");
    write(stage.join("src/main"), "mine\n");
    stage.inside_ok(&try_.join("src"), &["rewind", "good", "main"]);
    assert_eq!(read(try_.join("src/main")), "main\n".repeat(1000));
    let repo = try_.to_str().expect("UTF-8");
    assert_ok(&stage.command(["undo", "--repo", repo]).output().expect("run"), "undo");
    assert_eq!(read(try_.join("src/main")), "broken\n");
    assert_eq!(read(stage.join("src/main")), "mine\n");
    let said = refusal(&stage.run(&["undo"]), 1);
    assert!(said.contains("nothing to undo"), "what was done elsewhere is not undone here: {said}");
    let shown = text(&stage.inside_ok(stage.outside(), &["show", "good:only-try"]).stdout);
    assert_eq!(shown, "1\n");
    // status: about the mount, with all of them.
    let status = rows(&stage.inside_ok(&try_, &["status", "--json"]));
    assert_eq!((status[0]["timeline"].as_str(), status[0]["changed_files"].as_u64()), (Some("try"), Some(2)));
    assert_eq!(Path::new(status[0]["mountpoint"].as_str().expect("a path")), try_);
    let mounts = status[0]["mounts"].as_array().expect("a list");
    let brief: Vec<_> = mounts.iter().map(|m| (m["primary"].as_bool(), m["timeline"].as_str())).collect();
    assert_eq!(brief, [(Some(true), Some("main")), (Some(false), Some("try"))]);
    assert_eq!(stage.json(&["status"])[0]["timeline"], "main");
    // A fork begins where it is asked for, or at another timeline.
    stage.inside_ok(&try_, &["timeline", "fork", "of-try"]);
    stage.timeline(&["fork", "of-main"]);
    stage.timeline(&["fork", "named", "try"]);
    stage.timeline(&["fork", "past", "good"]);
    for (name, main) in [("of-try", "broken\n"), ("of-main", "mine\n"), ("named", "broken\n")] {
        let at = stage.beside("another", &["--timeline", name]);
        assert_eq!(read(at.join("src/main")), main, "{name}");
        stage.unmount_one(&at);
    }
    let at = stage.beside("another", &["--timeline", "past"]);
    assert_eq!((read(at.join("only-try")), read(at.join("src/main"))), ("1\n".into(), "main\n".repeat(1000)));
    assert_eq!(
        stage.mounts(),
        [("main".into(), "/repo".into()), ("try".into(), "/try".into()), ("past".into(), "/another".into())]
    );
}

#[test]
fn the_past_stays_while_the_present_goes_on() {
    if !can_mount() {
        return;
    }
    let stage = Stage::mounted();
    write(stage.join("README"), "at the snapshot\n");
    write(stage.join("new"), large(b'n'));
    fs::rename(stage.join("src/deep"), stage.join("deep")).expect("rename");
    fs::remove_file(stage.join("link")).expect("remove");
    fs::hard_link(stage.join("new"), stage.join("new-too")).expect("link");
    assert_ok(&stage.run(&["snapshot", "--label", "then"]), "snapshot");
    let expected = tree::read(stage.root());
    let past = stage.beside("past", &["--snapshot", "then"]);
    let same = |what: &str| tree::assert_same(&expected, &tree::read(&past), &View::exact(), what);
    same("at once");

    write(stage.join("README"), "later\n");
    let file = fs::OpenOptions::new().write(true).open(stage.join("new")).expect("open");
    file.write_all_at(&[b'z'; 200_000], 50_000).expect("write");
    file.set_len(300_000).expect("truncate");
    fs::remove_dir_all(stage.join("deep")).expect("remove");
    write(stage.join("src/more"), "more");
    same("after changes");
    let reader = fs::File::open(past.join("new")).expect("open");
    assert_ok(&stage.run(&["rewind", "base"]), "rewind");
    assert!(!stage.join("new").exists() && stage.join("link").exists());
    same("after a rewind of the present");
    assert_ok(&stage.run(&["undo"]), "undo");
    assert_ok(&stage.run(&["rewind", "then"]), "rewind");
    tree::assert_same(&expected, &tree::read(stage.root()), &View::exact(), "the present is there again");
    stage.timeline(&["fork", "try", "base"]);
    stage.timeline(&["switch", "try"]);
    same("after a switch of the present");
    let mut bytes = vec![0; 600_000];
    reader.read_exact_at(&mut bytes, 0).expect("read");
    assert!(bytes == large(b'n'));

    // Nothing can be changed there.
    let refused = |result: std::io::Result<()>, what: &str| {
        let errno = result.expect_err(what).raw_os_error();
        assert_eq!(errno, Some(libc::EROFS), "{what}");
    };
    refused(fs::write(past.join("README"), "x"), "write");
    refused(fs::remove_file(past.join("README")), "unlink");
    refused(fs::create_dir(past.join("made")), "mkdir");
    refused(fs::rename(past.join("README"), past.join("other")), "rename");
    refused(fs::set_permissions(past.join("README"), fs::Permissions::from_mode(0o600)), "chmod");
    for (arguments, word) in
        [(&["snapshot"][..], "stays as it is"), (&["rewind", "base"], "stays"), (&["undo"], "stays")]
    {
        let said = refusal(&stage.inside(&past, arguments), 1);
        assert!(said.contains(word), "{said}");
    }
    let status = rows(&stage.inside_ok(&past, &["status", "--json"]));
    let id = stage.json(&["snapshots", "--all"]).into_iter().find(|s| s["label"] == "then").expect("the snapshot");
    assert_eq!((&status[0]["snapshot"], status[0]["timeline"].as_str()), (&id["id"], Some("main")));
    // It is the same after everything came and went.
    drop((reader, file));
    stage.unmount();
    assert!(!is_mounted(&past));
    stage.assert_whole();
    stage.beside("past", &["--snapshot", "then"]);
    same("without anything in place");
    let base = stage.beside("base", &["--snapshot", "base"]);
    assert_eq!(names(&base), [".git", "README", "link", "src"]);
    assert_eq!(read(base.join("README")), "read me\n");
}

#[test]
fn processes_in_mounts_beside_are_recorded() {
    if !can_mount() || !has_programs(&["python3"], "forks in a mount beside") {
        return;
    }
    let stage = Stage::new();
    let tool = stage.repo().join("tool");
    fs::write(&tool, "#!/bin/sh\nexec cat README\n").expect("write");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).expect("chmod");
    stage.mount(&[]);
    let try_ = stage.forked("try");
    write(try_.join("born"), "born in try\n");
    // A program in the mount, and a child that reads what its parent had open: once here, once there, both in one process.
    let mut command = Command::new(try_.join("tool"));
    let output = stage.run_guarded(
        {
            command.current_dir(&try_);
            command
        },
        "tool",
    );
    assert_eq!(text(&output.stdout), "read me\n", "{}", both(&output));
    let script = format!(
        "import os\nfds = [os.open(p, os.O_RDONLY) for p in ('src/deep/large', {:?})]\n\
         pid = os.fork()\nif pid == 0:\n    [os.read(fd, 10) for fd in fds]\n    os._exit(0)\nos.waitpid(pid, 0)\nprint(pid)",
        stage.join("README")
    );
    let mut command = Command::new("python3");
    command.args(["-c", &script]).current_dir(&try_).stderr(Stdio::inherit());
    let output = stage.run_guarded(command, "python3");
    let child: u64 = text(&output.stdout).trim().parse().expect("a pid");

    let ps = stage.json(&["ps"]);
    let with = |word: &str| ps.iter().find(|row| row["argv"].to_string().contains(word));
    let ran = with("tool").or_else(|| with("README")).unwrap_or_else(|| panic!("{ps:?}"));
    let execs = stage.json(&["events", "--op", "exec", "--path", "tool"]);
    assert!(execs.iter().any(|e| e["pid"] == ran["pid"] && e["timeline"] == "try"), "{execs:?}\n{ps:?}");
    let reads = stage.json(&["reads"]);
    let read_by = |pid: &Value, path: &str| reads.iter().any(|r| r["pid"] == *pid && r["path"] == path);
    assert!(read_by(&ran["pid"], "README"), "{reads:?}");
    assert!(read_by(&child.into(), "src/deep/large") && read_by(&child.into(), "README"), "{reads:?}");
    let heard = stage.json(&["events", "--op", "inherit,read", "--pid", &child.to_string()]);
    let of = |timeline: &str| heard.iter().any(|e| e["timeline"] == timeline);
    assert!(of("try") && of("main"), "each says which timeline it is about: {heard:?}");
    // What only a mount beside has is known by its size from everywhere.
    assert_eq!(read(try_.join("born")), "born in try\n");
    let born = stage.json(&["reads", "--path", "born", "--pid", &std::process::id().to_string()]);
    assert_eq!(born[0]["ranges"].to_string(), "[[0,12]]", "{born:?}");
    // Handles of different mounts are different ones.
    let opens = stage.json(&["events", "--op", "open"]);
    let handles: Vec<u64> = opens.iter().filter_map(|e| e["handle"].as_u64()).collect();
    let distinct: BTreeSet<u64> = handles.iter().copied().collect();
    assert_eq!(handles.len(), distinct.len(), "{handles:?}");
    let lines = stage.json(&["events", "--op", "timeline"]);
    let said: Vec<&str> = lines.iter().filter_map(|e| e["path2"].as_str()).collect();
    assert_eq!(said[0], "fork try");
    assert_eq!(said[1], format!("mount timeline try at {}", try_.display()));
}

#[test]
fn what_cannot_be_mounted_beside() {
    if !can_mount() {
        return;
    }
    let stage = Stage::mounted();
    let try_ = stage.forked("try");
    assert_ok(&stage.run(&["snapshot", "--label", "then"]), "snapshot");
    let (repo, at) = (stage.repo().to_str().expect("UTF-8"), try_.to_str().expect("UTF-8"));
    for (what, words, code) in [
        (&["--timeline", "try"][..], &[at, "unmount"][..], 1),
        (&["--timeline", "main"], &[repo], 1),
        (&["--timeline", "tyr"], &["tyr", "main, try"], 1),
        (&["--snapshot", "them"], &["them", "then"], 2),
        (&["--snapshot", "now"], &["--timeline"], 2),
        (&["--timeline", "try", "--record", "off"], &["records"], 1),
        (&[], &["already mounted", repo], 1),
    ] {
        let said = refusal(&stage.try_beside("at", what), code);
        assert!(words.iter().all(|word| said.contains(word)), "{what:?}: {said}");
        assert!(!is_mounted(&stage.dir("at")), "{what:?}");
    }
    // A place that is taken, and one in the way.
    let said = refusal(&stage.try_beside("try", &["--snapshot", "then"]), 1);
    assert!(said.contains("already mounted") && said.contains(at), "{said}");
    let within = stage.command(["mount", repo, "--snapshot", "then", "--at", &format!("{repo}/src")]).output();
    assert!(refusal(&within.expect("run"), 1).contains("inside"));
    let within = stage.command(["mount", repo, "--snapshot", "then", "--at", &format!("{at}/src")]).output();
    assert!(refusal(&within.expect("run"), 1).contains("inside"));
    for arguments in
        [&["mount", repo, "--timeline", "try"][..], &["mount", repo, "--at", at, "--timeline", "a", "--snapshot", "b"]]
    {
        assert_eq!(stage.command(arguments).output().expect("run").status.code(), Some(2), "{arguments:?}");
    }
    let said = refusal(&stage.try_timeline(&["fork", "main"]), 2);
    assert!(said.contains("first"), "{said}");
    // Everything refused has left nothing behind.
    assert_eq!(stage.mounts(), [("main".into(), "/repo".into()), ("try".into(), "/try".into())]);
    write(try_.join("README"), "still there\n");
    assert_eq!(read(try_.join("README")), "still there\n");
}

#[test]
fn a_mount_beside_takes_nothing_from_who_has_a_deleted_file_open() {
    if !can_mount() {
        return;
    }
    let stage = Stage::mounted();
    write(stage.join("gone"), large(b'g'));
    let mut file = fs::OpenOptions::new().read(true).append(true).open(stage.join("gone")).expect("open");
    fs::remove_file(stage.join("gone")).expect("remove");
    for (at, what) in [("one", "--timeline"), ("two", "--snapshot")] {
        let which = if what == "--timeline" { "try" } else { "base" };
        if what == "--timeline" {
            stage.timeline(&["fork", "try"]);
        }
        let at = stage.beside(at, &[what, which]);
        assert!(!at.join("gone").exists());
        file.write_all(b"more").expect("append");
    }
    let mut expected = large(b'g');
    expected.extend_from_slice(b"moremore");
    let mut bytes = vec![0; expected.len() + 1];
    assert_eq!(file.read_at(&mut bytes, 0).expect("read"), expected.len());
    assert!(bytes[..expected.len()] == expected);
}
