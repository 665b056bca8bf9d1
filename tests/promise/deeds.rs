//! Who did what: writes, refusals, listings and programs run are put down to the right process, which is described rightly.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{PATIENCE, assert_ok, can_mount, has_programs, wait_for};
use crate::scene::Scene;
use crate::{Connector, mounted};

/// Runs a test with and without the process connector, in both ways of recording.
fn everywhere(test: impl Fn(&Scene, bool)) {
    if !can_mount() || !has_programs(&["python3"], "who did what") {
        return;
    }
    for (record, connector) in [("auto", Connector::Used), ("exact", Connector::Unused)] {
        let (scene, forks_seen) = mounted(record, connector);
        println!("--record {record}, forks seen: {forks_seen}");
        test(&scene, forks_seen);
        scene.unmount();
        scene.assert_whole();
    }
}

/// Runs a Python program in the mount, with its root as `sys.argv[1]`; returns the JSON that it prints.
fn python(scene: &Scene, program: &str) -> Value {
    let mut command = Command::new("python3");
    command.args(["-c", program]).arg(scene.root()).current_dir(scene.outside());
    let output = scene.run_guarded(command, "python3");
    assert_ok(&output, program);
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stdout)))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a number: {value}"))
}

fn ranges(event: &Value) -> Vec<(u64, u64)> {
    event["ranges"].as_array().expect("ranges").iter().map(|r| (number(&r[0]), number(&r[1]))).collect()
}

fn events(scene: &Scene, op: &str, path: &str) -> Vec<Value> {
    let rows = scene.json(&["events", "--op", op, "--path", path]);
    rows.into_iter().filter(|row| row["op"] == op).collect()
}

#[test]
fn programs_that_are_run() {
    everywhere(|scene, _| {
        for (program, arguments) in [("bin/cat", &[][..]), ("bin/script", &["small/c"][..])] {
            let mut command = Command::new(scene.join(program));
            command.args(arguments.iter().map(|a| scene.join(a))).stdin(Stdio::null()).stdout(Stdio::null());
            let mut child = command.spawn().expect("run a program of the mount");
            let pid = u64::from(child.id());
            assert!(child.wait().expect("wait").success());
            let found = events(scene, "exec", program);
            assert_eq!(found.iter().map(|e| number(&e["pid"])).collect::<Vec<_>>(), [pid], "{program}: {found:?}");
            let reads = scene.json(&["reads", "--pid", &pid.to_string(), "--path", program]);
            assert!(reads.iter().any(|r| ranges(r).first().is_some_and(|r| r.0 == 0)), "{program}: {reads:?}");
        }
    });
}

#[test]
fn refusals_have_their_errno() {
    // What the kernel refuses on its own never comes to us: a name that exists and that it knows, permissions, a directory opened
    // for writing (docs/SEMANTICS.md).
    everywhere(|scene, _| {
        let pid = python(
            scene,
            "import os, sys, json; os.chdir(sys.argv[1])\n\
             def refused(f, *a):\n\
             \x20try: f(*a)\n\
             \x20except OSError: return\n\
             \x20raise SystemExit('not refused')\n\
             os.mkdir('full'); os.mkdir('full/x'); os.mkdir('other'); os.setxattr('small/a', 'user.x', b'1')\n\
             refused(os.rmdir, 'full'); refused(os.rename, 'other', 'full')\n\
             refused(os.setxattr, 'small/a', 'user.x', b'2', os.XATTR_CREATE)\n\
             refused(os.setxattr, 'small/a', 'user.y', b'2', os.XATTR_REPLACE)\n\
             print(json.dumps(os.getpid()))",
        );
        for (op, path, errno) in [
            ("rmdir", "full", "ENOTEMPTY"),
            ("rename", "other", "ENOTEMPTY"),
            ("setxattr", "small/a", "EEXIST"),
            ("setxattr", "small/a", "ENODATA"),
        ] {
            let found = events(scene, op, path);
            let matching = found.iter().filter(|e| e["errno"] == errno && e["pid"] == pid && e["path"] == path).count();
            assert_eq!(matching, 1, "{op} {path} {errno}: {found:?}");
        }
        // Reads that were refused are not reads, and refused changes change nothing.
        assert!(scene.join("full/x").is_dir() && scene.join("other").is_dir());
    });
}

#[test]
fn listings() {
    everywhere(|scene, _| {
        let pid = python(
            scene,
            "import os, sys, json; os.listdir(sys.argv[1] + '/small'); os.listdir(sys.argv[1]); print(json.dumps(os.getpid()))",
        );
        let found = scene.json(&["events", "--op", "readdir", "--pid", &number(&pid).to_string()]);
        let paths: Vec<_> = found.iter().map(|e| e["path"].as_str().expect("a path").to_owned()).collect();
        assert!(paths.contains(&"small".to_owned()), "{found:?}");
        assert_eq!(paths.len(), 2, "{found:?}");
    });
}

/// Ranges in their order, those that go on where the one before ended joined: the kernel may make several requests of one write.
fn joined(ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for &(at, len) in ranges {
        match joined.last_mut() {
            Some(last) if last.0 + last.1 == at => last.1 += len,
            _ => joined.push((at, len)),
        }
    }
    joined
}

#[test]
fn concurrent_writes_to_one_file() {
    everywhere(|scene, _| {
        let written = python(
            scene,
            "import os, sys, json, random; os.chdir(sys.argv[1])\n\
             def append(n):\n\
             \x20fd = os.open('appended', os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)\n\
             \x20for i in range(40): os.write(fd, bytes([65 + n]) * (1 + (i * 37 + n) % 5000))\n\
             \x20return []\n\
             def place(n):\n\
             \x20fd = os.open('placed', os.O_RDWR | os.O_CREAT, 0o644); mine = random.Random(n); done = []\n\
             \x20for i in range(40):\n\
             \x20\x20at, size = mine.randrange(300000), 1 + mine.randrange(9000)\n\
             \x20\x20done.append([at, os.pwrite(fd, bytes([65 + n]) * size, at)])\n\
             \x20return done\n\
             pipes = []\n\
             for n in range(6):\n\
             \x20back, out = os.pipe(); pid = os.fork()\n\
             \x20if pid == 0:\n\
             \x20\x20os.write(out, json.dumps((append if n < 3 else place)(n)).encode()); os._exit(0)\n\
             \x20os.close(out); pipes.append((n, pid, back))\n\
             result = []\n\
             for n, pid, back in pipes:\n\
             \x20text = b''\n\
             \x20while part := os.read(back, 65536): text += part\n\
             \x20assert os.waitpid(pid, 0)[1] == 0; result.append([n, pid, json.loads(text)])\n\
             print(json.dumps(result))",
        );
        let by_pid = |path: &str| {
            let mut map: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
            for event in events(scene, "write", path) {
                assert_eq!(event["known"], "observed", "{event}");
                map.entry(number(&event["pid"])).or_default().extend(ranges(&event));
            }
            map
        };
        let (appended, placed) = (by_pid("appended"), by_pid("placed"));
        let bytes = fs::read(scene.join("appended")).expect("read");
        let mut total = 0;
        for entry in written.as_array().expect("a list") {
            let (n, pid) = (number(&entry[0]), number(&entry[1]));
            if n < 3 {
                let own = appended.get(&pid).unwrap_or_else(|| panic!("{pid} wrote nothing: {appended:?}"));
                for &(at, len) in own {
                    let part = &bytes[at as usize..(at + len) as usize];
                    assert!(part.iter().all(|&b| u64::from(b) == 65 + n), "{at}+{len} is not by {pid}");
                    total += len;
                }
            } else {
                let own: Vec<(u64, u64)> =
                    entry[2].as_array().expect("a list").iter().map(|r| (number(&r[0]), number(&r[1]))).collect();
                assert_eq!(placed.get(&pid).map(|p| joined(p)), Some(joined(&own)), "{pid}");
            }
        }
        assert_eq!((total, appended.len(), placed.len()), (bytes.len() as u64, 3, 3));
    });
}

#[test]
fn writes_through_mappings() {
    everywhere(|scene, _| {
        let pids = python(
            scene,
            "import os, sys, json, mmap; os.chdir(sys.argv[1])\n\
             def child(body):\n\
             \x20pid = os.fork()\n\
             \x20if pid == 0: body(); os._exit(0)\n\
             \x20os.waitpid(pid, 0); return pid\n\
             def write():\n\
             \x20fd = os.open('live/large', os.O_RDWR); m = mmap.mmap(fd, 0); os.close(fd)\n\
             \x20m[70000:70100] = b'm' * 100; m[200000:200010] = b'n' * 10; m.flush(); m.close()\n\
             def read():\n\
             \x20fd = os.open('live/large', os.O_RDONLY); os.pread(fd, 10, 0)\n\
             print(json.dumps([child(read), child(write)]))",
        );
        let found = events(scene, "write", "live/large");
        assert!(!found.is_empty());
        for event in &found {
            assert_eq!((&event["pid"], event["known"].as_str()), (&pids[1], Some("inferred")), "{event}");
        }
        let touched: Vec<_> = found.iter().flat_map(ranges).collect();
        for (at, len) in [(70_000, 100), (200_000, 10)] {
            assert!(touched.iter().any(|&(o, l)| o <= at && at + len <= o + l), "{at}+{len}: {touched:?}");
        }
        let bytes = fs::read(scene.join("live/large")).expect("read");
        assert_eq!((&bytes[70_000..70_100], &bytes[200_000..200_010]), (&[b'm'; 100][..], &[b'n'; 10][..]));
    });
}

/// The row of a process, when it has ended.
fn ended(scene: &Scene, pid: u32) -> Value {
    let mut row = Value::Null;
    wait_for(&format!("the end of {pid} to be known, at most {PATIENCE:?}"), || {
        let rows = scene.json(&["ps"]);
        row = rows.into_iter().rfind(|row| row["pid"] == pid).unwrap_or(Value::Null);
        row["exit_at"].is_string()
    });
    row
}

#[test]
fn processes_are_described_rightly() {
    everywhere(|scene, _| {
        let cat = fs::canonicalize("/bin/cat").expect("cat");
        let small = scene.join("small/b");
        for (script, code, signal) in [
            ("cat \"$1\"; exit 7", Some(7), None),
            ("read x < \"$1\"; kill -9 $$", None, Some(9)),
            ("exec cat \"$1\"", Some(0), None),
        ] {
            let mut command = Command::new("sh");
            command.args(["-c", script, "name", small.to_str().expect("UTF-8")]).current_dir(scene.outside());
            let mut child = command.stdout(Stdio::null()).spawn().expect("run sh");
            let pid = child.id();
            let status = child.wait().expect("wait");
            assert_eq!((status.code(), status.signal()), (code, signal));
            // The reader may be the shell itself, or its child.
            let reader = scene
                .json(&["reads", "--path", "small/b"])
                .iter()
                .map(|row| number(&row["pid"]) as u32)
                .max_by_key(|&reader| (reader >= pid, reader))
                .expect("a reader");
            let row = ended(scene, reader);
            let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            assert_eq!(Path::new(&text("cwd")), scene.outside(), "{row}");
            if reader == pid {
                assert_eq!(row["exit"].as_i64(), code.map(i64::from), "{row}");
                assert_eq!(row["signal"].as_i64(), signal.map(i64::from), "{row}");
                assert_eq!(number(&row["ppid"]), u64::from(std::process::id()), "{row}");
            } else {
                assert_eq!((number(&row["ppid"]), row["exit"].as_i64()), (u64::from(pid), Some(0)), "{row}");
            }
            if script.contains("cat") {
                let argv: Vec<_> = row["argv"].as_array().expect("argv").iter().filter_map(Value::as_str).collect();
                assert_eq!(argv, ["cat", small.to_str().expect("UTF-8")], "{row}");
                assert_eq!(Path::new(&text("exe")), cat, "{row}");
            }
        }
    });
}

#[test]
fn a_process_keeps_its_past_over_an_exec() {
    everywhere(|scene, forks_seen| {
        let (first, second) = (scene.join("large/a"), scene.join("small/c"));
        let mut command = Command::new("python3");
        command.args(["-c", "import os, sys; open(sys.argv[1], 'rb').read(); os.execvp('cat', ['cat', sys.argv[2]])"]);
        let mut child = command.args([&first, &second]).stdout(Stdio::null()).spawn().expect("run python3");
        let pid = child.id();
        assert!(child.wait().expect("wait").success());
        let rows = scene.json(&["reads", "--pid", &pid.to_string()]);
        let actors: std::collections::BTreeSet<u64> = rows.iter().map(|row| number(&row["actor"])).collect();
        let paths: Vec<&str> = rows.iter().filter_map(|row| row["path"].as_str()).collect();
        assert_eq!(actors.len(), 1, "{rows:?}");
        assert!(paths.contains(&"large/a") && paths.contains(&"small/c"), "{rows:?}");
        if !forks_seen {
            // Nobody tells of the exec, and a process is looked at anew only after a second.
            return;
        }
        let row = ended(scene, pid);
        assert_eq!(row["argv"][0], "cat", "{row}");
        let images = row["images"].as_array().expect("images");
        assert!(images.iter().any(|i| i["argv"][0].as_str().is_some_and(|a| a.contains("python3"))), "{row}");
    });
}
