//! `regentfs watch`: what happens is told while it happens, and says what `log` says of it afterwards.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use common::json::{assert_refused, documented, text};
use common::{MountedRepo, PATIENCE, assert_ok, can_mount, make_program, regentfs, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn populate(base: &Path) {
    fs::write(base.join("README"), "hello\n").expect("write");
}

fn agent(repo: &MountedRepo) -> PathBuf {
    let path = repo.outside().join("codex");
    make_program(Path::new("/bin/bash"), &path);
    path
}

/// A script in a session of its own.
fn start(program: &Path, dir: &Path, script: &str) -> Child {
    let mut command = Command::new("setsid");
    command.arg("--wait").arg(program).args(["-c", script]).current_dir(dir).stdin(Stdio::null());
    common::without_agents(&mut command);
    command.spawn().expect("run setsid")
}

fn run(program: &Path, dir: &Path, script: &str) {
    assert!(start(program, dir, script).wait().expect("wait").success(), "{script}");
}

/// Somebody who watches.
struct Watching {
    child: Child,
    lines: Receiver<String>,
}

impl Watching {
    fn new(repo: &MountedRepo, arguments: &[&str]) -> Watching {
        let mut command = regentfs();
        command.arg("watch").args(arguments).arg("--repo").arg(repo.path()).arg("--store").arg(repo.store());
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run regentfs");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Watching { child, lines }
    }

    /// The next row, if it comes.
    fn next(&self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE).expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    /// Takes rows until one is as wanted.
    fn until(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut rows = Vec::new();
        loop {
            let row = self.next();
            rows.push(row);
            if rows.last().is_some_and(&wanted) {
                return rows;
            }
        }
    }

    /// Waits for something that proves that it watches, done again until it shows.
    fn ready(&self, repo: &MountedRepo, agent: &Path) {
        wait_for("the first row", || {
            run(agent, repo.path(), "sh -c 'cat README > /dev/null; : ready'; true");
            self.lines.recv_timeout(std::time::Duration::from_millis(900)).is_ok()
        });
        std::thread::sleep(std::time::Duration::from_millis(700));
        while self.lines.try_recv().is_ok() {}
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().cast_signed()).expect("a pid"), signal).expect("kill");
    }

    /// The exit code, and what was said on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let mut status = None;
        wait_for("watch to end", || {
            status = self.child.try_wait().expect("wait");
            status.is_some()
        });
        let mut said = String::new();
        let stderr = self.child.stderr.take().expect("piped");
        std::io::Read::read_to_string(&mut BufReader::new(stderr), &mut said).expect("read");
        (status.and_then(|s| s.code()), said)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is(row: &Value, what: &str, command: &str) -> bool {
    row["what"] == what && row["command"] == command
}

#[test]
fn commands_and_edits_are_told_as_they_happen() {
    if !can_mount() {
        return;
    }
    let repo = MountedRepo::new(populate);
    let agent = agent(&repo);
    let watching = Watching::new(&repo, &["--json"]);
    watching.ready(&repo, &agent);
    let go = repo.outside().join("go");
    let slow = format!("cat README > made; while ! test -e '{}'; do sleep 0.05; done; exit 3", go.display());
    let mut codex = start(&agent, repo.path(), &format!("sh -c \"{slow}\"; echo mine > own; sleep 1; true"));
    // While it runs its start is told, and nothing else of it.
    let begun = watching.until(|row| is(row, "start", &slow)).pop().expect("a row");
    assert_eq!((text(&begun, "agent"), &begun["ended"], &begun["exit"]), ("codex", &Value::Null, &Value::Null));
    fs::write(&go, "").expect("write");
    let ended = watching.until(|row| is(row, "end", &slow));
    assert!(!ended.iter().any(|row| is(row, "start", &slow)), "once: {ended:?}");
    let ended = ended.last().expect("a row");
    assert_eq!((&ended["exit"], &ended["reads"], &ended["writes"]), (&3.into(), &1.into(), &1.into()));
    assert!(ended["snapshot"].is_string() && ended["time"] == ended["ended"], "{ended}");
    // What the agent did itself, when it is sealed.
    let edit = watching.until(|row| row["what"] == "edit").pop().expect("a row");
    assert_eq!((&edit["paths"], &edit["session"]), (&serde_json::json!(["own"]), &begun["session"]));
    assert!(edit["snapshot"].is_string(), "{edit}");
    assert!(codex.wait().expect("wait").success());
    // It is what `log` says.
    let log = repo.json(&["log"]);
    for row in [ended, &edit] {
        let logged = log.iter().find(|l| l["step"] == row["step"]).unwrap_or_else(|| panic!("{row} is not in {log:?}"));
        let mut row = row.as_object().expect("an object").clone();
        row.retain(|field, _| field != "what" && field != "time");
        assert_eq!(&Value::Object(row), logged);
    }
    for field in documented("watch") {
        assert!(begun.get(&field).is_some(), "{field}: {begun}");
    }
    // It tells how it ends.
    watching.signal(Signal::INT);
    assert_eq!(watching.end(), (Some(130), String::new()));
}

#[test]
fn what_runs_already_is_told_first_and_sessions_are_kept_apart() {
    if !can_mount() {
        return;
    }
    let repo = MountedRepo::new(populate);
    let agent = agent(&repo);
    let go = repo.outside().join("go");
    let waits = format!("cat README > early; while ! test -e '{}'; do sleep 0.05; done", go.display());
    let mut first = start(&agent, repo.path(), &format!("sh -c \"{waits}\"; true"));
    let mut session = String::new();
    wait_for("the first session", || {
        let log = repo.json(&["log"]);
        let found = log.iter().find(|row| row["command"] == *waits && row["writes"] == 1);
        session = found.map(|row| text(row, "session").to_owned()).unwrap_or_default();
        !session.is_empty()
    });
    let watching = Watching::new(&repo, &[&session, "--json"]);
    assert!(is(&watching.next(), "start", &waits));
    run(&agent, repo.path(), "sh -c 'echo other > other'; echo mine > own; true");
    fs::write(&go, "").expect("write");
    let rows = watching.until(|row| is(row, "end", &waits));
    assert!(rows.iter().all(|row| row["session"] == *session), "{rows:?}");
    // With what it did before anybody watched.
    let last = rows.last().expect("a row");
    assert_eq!((&last["reads"], &last["writes"], &last["exit"]), (&1.into(), &1.into(), &0.into()));
    assert!(first.wait().expect("wait").success());
    drop(watching);
    assert_refused(&repo.run(&["watch", "s999999"]), 2, "regentfs sessions");
    // For people.
    let watching = Watching::new(&repo, &[]);
    let mut said = Vec::new();
    wait_for("a line", || {
        run(&agent, repo.path(), "sh -c 'echo more > other; exit 4'; true");
        std::thread::sleep(std::time::Duration::from_millis(500));
        said.extend(watching.lines.try_iter());
        said.iter().any(|line| line.contains("end  ") && line.contains("exit 4 after") && line.contains("wrote 1 file"))
    });
    assert!(
        said.iter().any(|l| l.contains("start") && l.contains("codex") && l.contains("echo more > other")),
        "{said:?}"
    );
}

#[test]
fn it_ends_with_the_mount_and_with_its_reader() {
    if !can_mount() {
        return;
    }
    let repo = MountedRepo::new(populate);
    let agent = agent(&repo);
    // Nobody reads any more: it does not wait for something to write.
    let mut command = regentfs();
    command.arg("watch").arg("--repo").arg(repo.path()).arg("--store").arg(repo.store());
    let mut unread = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("run regentfs");
    drop(unread.stdout.take());
    let mut status = None;
    wait_for("it to notice", || {
        status = unread.try_wait().expect("wait");
        status.is_some()
    });
    assert_eq!(status.and_then(|s| s.code()), Some(0));
    let watching = Watching::new(&repo, &["--json"]);
    watching.ready(&repo, &agent);
    repo.unmount();
    let (code, said) = watching.end();
    assert_eq!((code, said.contains("the mount ended")), (Some(0), true), "{said}");
    assert_refused(&repo.run(&["watch"]), 1, "is not mounted");
    // When the daemon dies, that is an error.
    repo.mount();
    let watching = Watching::new(&repo, &["--json"]);
    watching.ready(&repo, &agent);
    repo.kill();
    let (code, said) = watching.end();
    assert_eq!((code, said.contains("the daemon went away")), (Some(1), true), "{said}");
    repo.mount();
    assert_ok(&repo.run(&["status"]), "status");
}
