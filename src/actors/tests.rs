//! Real processes, with the process connector and without it.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::*;

#[derive(Default)]
struct Memory {
    ids: AtomicU64,
    seen: Mutex<FxHashMap<ActorId, Actor>>,
    saved: Mutex<FxHashMap<ActorId, Actor>>,
    forks: Mutex<Vec<(ActorId, u32)>>,
    exits: Mutex<Vec<ActorId>>,
}

impl Sink for Memory {
    fn next_id(&self) -> ActorId {
        ActorId(self.ids.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn see(&self, actor: &Actor) {
        self.seen.lock().insert(actor.id, actor.clone());
    }

    fn save(&self, actor: &Actor) {
        let stored = codec::decode(&codec::encode(actor)).unwrap();
        assert_eq!(&stored, actor);
        self.saved.lock().insert(actor.id, stored);
    }

    fn forked(&self, parent: ActorId, child_pid: u32, _at_monotonic_ns: u64) {
        self.forks.lock().push((parent, child_pid));
    }

    fn exited(&self, actor: ActorId) {
        assert!(self.seen.lock()[&actor].exit.is_some());
        self.exits.lock().push(actor);
    }

    fn gap(&self, reason: &str) {
        panic!("a gap: {reason}");
    }
}

/// Runs a test in both modes; the one with the connector only where there is one.
fn both(test: impl Fn(&Arc<Actors>, &Memory)) {
    for connector in [false, true] {
        let sink = Arc::new(Memory::default());
        let actors = Actors::start(Arc::<Memory>::clone(&sink), Options { connector }).unwrap();
        if connector && !actors.tracks_forks() {
            eprintln!("SKIPPED: the process connector does not work here");
            return;
        }
        assert_eq!(actors.tracks_forks(), connector);
        test(&actors, &sink);
        actors.stop();
    }
}

fn shell(script: &str) -> Child {
    Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// A shell that has begun to run its script, which must `echo;` once.
fn running_shell(script: &str) -> Child {
    let mut child = shell(script);
    let mut byte = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
    child
}

fn argv(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn own_tid() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get() as u32
}

/// Waits until `done`, at most 10 s.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = crate::clock::monotonic_ns() + 10_000_000_000;
    while !done() {
        assert!(crate::clock::monotonic_ns() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_kernel_is_no_process() {
    both(|actors, sink| {
        assert_eq!(actors.resolve(0, Depth::Full), ActorId::KERNEL);
        assert!(actors.get(ActorId::KERNEL).is_none());
        assert!(sink.saved.lock().is_empty());
    });
}

#[test]
fn threads_belong_to_their_process() {
    both(|actors, sink| {
        let id = actors.resolve(own_tid(), Depth::Full);
        assert_eq!(actors.resolve(std::process::id(), Depth::Minimal), id);
        let other = {
            let actors = Arc::clone(actors);
            std::thread::spawn(move || (actors.resolve(own_tid(), Depth::Full), own_tid())).join().unwrap()
        };
        assert_eq!(other.0, id);
        until("own details", || actors.get(id).unwrap().details == Details::Full);
        let actor = actors.get(id).unwrap();
        assert_eq!(actor.pid, std::process::id());
        assert_eq!(actor.argv.len(), std::env::args_os().count());
        assert_eq!(actor.exe, std::env::current_exe().unwrap().into_os_string().into_encoded_bytes());
        assert_eq!(actor.uid, rustix::process::geteuid().as_raw());
        assert!(sink.saved.lock().contains_key(&id));
        if actors.tracks_forks() {
            until("the thread's end", || {
                actors.drain();
                matches!(actors.shared.tids.hit(other.1, crate::clock::now().as_nanos(), true), table::Hit::Unknown)
            });
        }
    });
}

#[test]
fn a_child_its_parents_and_its_end() {
    both(|actors, sink| {
        let mut child = running_shell("echo; read x; exit 7");
        let id = actors.resolve(child.id(), Depth::Full);
        let actor = actors.get(id).unwrap();
        assert_eq!((actor.pid, actor.ppid, actor.details), (child.id(), std::process::id(), Details::Full));
        assert_eq!(actor.argv, argv(&["sh", "-c", "echo; read x; exit 7"]));
        assert_eq!(actor.comm, b"sh");
        assert_eq!(actor.cwd, std::env::current_dir().unwrap().into_os_string().into_encoded_bytes());
        assert_eq!((actor.exit, actor.exit_at), (None, None));
        let saved = sink.saved.lock().clone();
        assert_eq!(saved[&id], actor);
        let mut oldest = actor;
        while let Some(parent) = oldest.parent {
            assert!(saved[&parent].start <= oldest.start);
            assert_eq!(oldest.ppid, saved[&parent].pid);
            oldest = saved[&parent].clone();
        }
        assert_eq!(oldest.ppid, 0, "the chain ends before the first process");
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        child.wait().unwrap();
        actors.drain();
        let actor = actors.get(id).unwrap();
        assert_eq!(actor.exit, Some(Exit::Code(7)));
        assert!(actor.exit_at.is_some());
        assert_eq!(*sink.exits.lock(), [id]);
        assert_eq!(sink.saved.lock()[&id].exit, Some(Exit::Code(7)));
    });
}

#[test]
fn ends_by_signal_and_unreaped() {
    both(|actors, _| {
        let mut child = running_shell("echo; read x");
        let id = actors.resolve(child.id(), Depth::Full);
        child.kill().unwrap();
        until("the exit of a zombie", || {
            actors.drain();
            actors.get(id).unwrap().exit.is_some()
        });
        assert_eq!(actors.get(id).unwrap().exit, Some(Exit::Signal(9)));
        child.wait().unwrap();
    });
}

#[test]
fn an_exec_keeps_the_image_before() {
    both(|actors, sink| {
        let mut child = running_shell("echo; sleep 0.2; exec sleep 100");
        let id = actors.resolve(child.id(), Depth::Full);
        let before = actors.get(id).unwrap();
        until("the new image", || {
            assert_eq!(actors.resolve(child.id(), Depth::Full), id);
            actors.drain();
            actors.get(id).unwrap().argv == argv(&["sleep", "100"])
        });
        let after = actors.get(id).unwrap();
        assert_eq!((after.comm.as_slice(), after.details), (&b"sleep"[..], Details::Full));
        assert_eq!(after.images.len(), 1);
        assert_eq!((&after.images[0].argv, &after.images[0].exe), (&before.argv, &before.exe));
        assert!(after.images[0].until > before.first);
        assert!(!sink.saved.lock()[&id].images.is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn many_execs_are_bounded() {
    both(|actors, _| {
        if !actors.tracks_forks() {
            return;
        }
        let script = "i=${1:-0}; [ $i -lt 20 ] || { echo; read x; exit; }; exec sh -c \"$0\" \"$0\" $((i+1))";
        let mut child = Command::new("sh");
        child.args(["-c", &format!("read x; exec sh -c '{script}' '{script}'")]);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let id = actors.resolve(child.id(), Depth::Full);
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        actors.drain();
        let actor = actors.get(id).unwrap();
        assert_eq!(actor.argv.last().unwrap(), b"20");
        // Images that were replaced before anybody could read them leave no trace.
        assert!((1..=MAX_IMAGES).contains(&actor.images.len()), "{}", actor.images.len());
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn a_minimal_look_is_completed() {
    both(|actors, sink| {
        let mut child = running_shell("echo; read x");
        let id = actors.resolve(child.id(), Depth::Minimal);
        assert!(sink.saved.lock().contains_key(&id));
        until("the details", || actors.get(id).unwrap().details == Details::Full);
        let actor = actors.get(id).unwrap();
        assert_eq!(actor.argv, argv(&["sh", "-c", "echo; read x"]));
        assert!(actor.images.is_empty());
        drop(child.stdin.take());
        child.wait().unwrap();
    });
}

#[test]
fn a_fork_child_is_like_its_parent() {
    both(|actors, sink| {
        let mut child = running_shell("exec 3<&0; echo; read x; (read y <&3; exit 3) & wait $!; exit 4");
        let id = actors.resolve(child.id(), Depth::Full);
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let parent = actors.get(id).unwrap();
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let mut grandchild = 0;
        until("a grandchild", || {
            let text = std::fs::read_to_string(&children).unwrap();
            grandchild = text.split_whitespace().next().map_or(0, |pid| pid.parse().unwrap());
            grandchild != 0
        });
        let grandchild_id = if actors.tracks_forks() {
            actors.drain();
            assert_eq!(sink.forks.lock().iter().filter(|&&fork| fork == (id, grandchild)).count(), 1);
            let grandchild_id = actors.resolve_child(grandchild, id);
            assert_eq!(actors.get(grandchild_id).unwrap().details, Details::Inherited);
            assert_eq!(actors.resolve(grandchild, Depth::Minimal), grandchild_id);
            assert_eq!(actors.resolve_child(grandchild, id), grandchild_id);
            grandchild_id
        } else {
            actors.resolve(grandchild, Depth::Minimal)
        };
        let actor = actors.get(grandchild_id).unwrap();
        assert_eq!((actor.pid, actor.ppid, actor.parent), (grandchild, child.id(), Some(id)));
        assert_eq!((actor.argv, actor.exe, actor.cwd), (parent.argv, parent.exe, parent.cwd));
        drop(child.stdin.take());
        child.wait().unwrap();
        actors.drain();
        assert_eq!(actors.get(id).unwrap().exit, Some(Exit::Code(4)));
        assert_eq!(actors.get(grandchild_id).unwrap().exit, Some(Exit::Code(3)));
    });
}

#[test]
fn a_process_that_is_gone_is_an_actor_too() {
    both(|actors, sink| {
        let mut parent = running_shell("echo; read x");
        let parent_id = actors.resolve(parent.id(), Depth::Full);
        let mut child = shell("exit 0");
        child.wait().unwrap();
        let id = actors.resolve(child.id(), Depth::Full);
        let actor = actors.get(id).unwrap();
        assert_eq!((actor.pid, actor.start, actor.details), (child.id(), 0, Details::Missing));
        assert!(actor.exit.is_some());
        assert!(sink.saved.lock().contains_key(&id));
        assert_eq!(actors.resolve(child.id(), Depth::Full), id);

        let mut other = shell("exit 5");
        other.wait().unwrap();
        let other_id = actors.resolve_child(other.id(), parent_id);
        let other = actors.get(other_id).unwrap();
        assert_eq!((other.parent, other.details), (Some(parent_id), Details::Inherited));
        assert_eq!(other.argv, argv(&["sh", "-c", "echo; read x"]));
        parent.kill().unwrap();
        parent.wait().unwrap();
    });
}

#[test]
fn all_threads_see_the_same_newcomer() {
    both(|actors, sink| {
        for _ in 0..10 {
            let mut child = running_shell("echo; read x");
            let pid = child.id();
            let barrier = std::sync::Barrier::new(8);
            let ids = std::thread::scope(|scope| {
                let see = || {
                    barrier.wait();
                    let id = actors.resolve(pid, Depth::Full);
                    assert!(sink.saved.lock().contains_key(&id), "returned before it was saved");
                    id
                };
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(see)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
            });
            assert!(ids.iter().all(|&id| id == ids[0]));
            drop(child.stdin.take());
            child.wait().unwrap();
            actors.drain();
            assert!(actors.get(ids[0]).unwrap().exit.is_some());
        }
    });
}

#[test]
fn an_old_entry_of_the_thread_cache_is_verified() {
    both(|actors, _| {
        let id = actors.resolve(std::process::id(), Depth::Full);
        let entry = actors.shared.lookup(std::process::id()).unwrap();
        let long_ago = || crate::clock::now().as_nanos() - 2 * table::TRUST_NS;
        let actors_of_thread = Arc::clone(actors);
        let thread = std::thread::spawn(move || {
            let tid = own_tid();
            assert_eq!(actors_of_thread.resolve(tid, Depth::Full), id);
            tid
        });
        let tid = thread.join().unwrap();
        until("the thread is gone", || !actors.shared.proc.is_thread(std::process::id(), tid));
        actors.shared.tids.put(tid, &entry, long_ago());
        assert_ne!(actors.resolve(tid, Depth::Full), id, "a thread that is gone is still trusted");
        actors.shared.tids.put(own_tid(), &entry, long_ago());
        assert_eq!(actors.resolve(own_tid(), Depth::Full), id);
    });
}

#[test]
fn the_last_activity_is_saved_on_flush() {
    both(|actors, sink| {
        let mut child = running_shell("echo; read x");
        let id = actors.resolve(child.id(), Depth::Full);
        let first = sink.saved.lock()[&id].last;
        std::thread::sleep(Duration::from_millis(5));
        actors.resolve(child.id(), Depth::Full);
        assert_eq!(sink.saved.lock()[&id].last, first);
        actors.flush();
        assert!(sink.saved.lock()[&id].last > first);
        assert_eq!(sink.saved.lock()[&id], actors.get(id).unwrap());
        drop(child.stdin.take());
        child.wait().unwrap();
    });
}

#[test]
fn nothing_of_the_dead_stays_cached() {
    both(|actors, _| {
        let before = actors.shared.tids.len();
        for _ in 0..20 {
            let mut child = running_shell("echo; read x");
            actors.resolve(child.id(), Depth::Full);
            drop(child.stdin.take());
            child.wait().unwrap();
        }
        actors.drain();
        assert_eq!(actors.shared.tids.len(), before);
    });
}

#[test]
fn an_idle_watcher_sleeps() {
    let sink = Arc::new(Memory::default());
    let actors = Actors::start(sink, Options { connector: false }).unwrap();
    let mut child = running_shell("echo; read x");
    let id = actors.resolve(child.id(), Depth::Minimal);
    until("the details", || actors.get(id).unwrap().details == Details::Full);
    let switches = || {
        let fence = actors.shared.fence.lock();
        fence.rounds
    };
    std::thread::sleep(Duration::from_millis(100));
    let before = switches();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(switches(), before);
    drop(child.stdin.take());
    child.wait().unwrap();
}

/// An agent's script in a package, which says that it runs, waits for a line, and becomes `cat`.
fn packaged() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let package = dir.path().canonicalize().unwrap().join("node_modules/@openai/codex");
    std::fs::create_dir_all(&package).unwrap();
    std::fs::write(package.join("package.json"), r#"{"name": "@openai/codex", "version": "1.2.3"}"#).unwrap();
    let script = package.join("cli.js");
    std::fs::write(&script, "echo; read x; exec cat").unwrap();
    (dir, script)
}

fn running(mut command: Command) -> Child {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    child
}

#[test]
fn the_version_of_an_agent_comes_after_it_and_goes_with_its_image() {
    both(|actors, sink| {
        let (_dir, script) = packaged();
        let mut command = Command::new("sh");
        command.arg(&script);
        let mut child = running(command);
        let id = actors.resolve(child.id(), Depth::Full);
        let version = || sink.saved.lock()[&id].version.clone();
        until("the version", || version().as_deref() == Some(b"1.2.3"));
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        until("another image", || {
            actors.resolve(child.id(), Depth::Full);
            version().is_none()
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(actors.get(id).unwrap().images.len(), 1);
    });
}

#[test]
fn what_another_mount_namespace_has_is_not_taken_for_ours() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root has mount namespaces");
        return;
    }
    both(|actors, _| {
        let (_dir, script) = packaged();
        for (program, expected) in [(&["unshare", "-m", "sh"][..], None), (&["sh"], Some(&b"1.2.3"[..]))] {
            let mut command = Command::new(program[0]);
            command.args(&program[1..]).arg(&script);
            let mut child = running(command);
            let id = actors.resolve(child.id(), Depth::Full);
            assert_eq!(actors.get(id).unwrap().details, Details::Full);
            // What was asked for before has been done then.
            actors.drain();
            assert_eq!(actors.get(id).unwrap().version.as_deref(), expected, "{program:?}");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    });
}

#[test]
fn who_was_known_to_an_earlier_run_is_the_same() {
    for connector in [false, true] {
        let (earlier, later) = (Arc::new(Memory::default()), Arc::new(Memory::default()));
        let actors = Actors::start(Arc::<Memory>::clone(&earlier), Options { connector }).unwrap();
        let [mut stays, mut execs, mut ends] =
            ["echo; read x", "echo; read x; exec sleep 100", "echo; read x"].map(running_shell);
        let ids = [&stays, &execs, &ends].map(|child| actors.resolve(child.id(), Depth::Full));
        actors.stop();
        drop(actors);
        execs.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let cmdline = format!("/proc/{}/cmdline", execs.id());
        until("the exec", || std::fs::read(&cmdline).is_ok_and(|line| line.starts_with(b"sleep")));
        ends.kill().unwrap();
        ends.wait().unwrap();

        later.ids.store(1000, Ordering::Relaxed);
        let mut known: Vec<Actor> = earlier.saved.lock().values().cloned().collect();
        // Another boot's, and another process of the same pid.
        let mut other = earlier.saved.lock()[&ids[0]].clone();
        (other.id, other.first) = (ActorId(900), Time::new(1000, 0));
        let mut long_gone = earlier.saved.lock()[&ids[2]].clone();
        (long_gone.id, long_gone.first) = (ActorId(902), Time::new(1000, 0));
        let mut reused = earlier.saved.lock()[&ids[0]].clone();
        (reused.id, reused.start) = (ActorId(901), reused.start + 1);
        known.extend([other, reused, long_gone]);
        let actors = Actors::start(Arc::<Memory>::clone(&later), Options { connector }).unwrap();
        actors.adopt(known);
        assert_eq!(actors.resolve(stays.id(), Depth::Full), ids[0]);
        assert_eq!(actors.resolve(execs.id(), Depth::Full), ids[1]);
        let saved = |id: ActorId| later.saved.lock().get(&id).cloned();
        assert_eq!(saved(ids[2]).unwrap().exit, Some(Exit::Unknown));
        assert_eq!(saved(ActorId(901)).unwrap().exit, Some(Exit::Unknown));
        assert_eq!(saved(ActorId(902)).unwrap().exit, Some(Exit::Unknown), "of another boot, and gone");
        assert!(saved(ActorId(900)).is_none());
        // Those above it were told of before it.
        assert!(later.seen.lock().contains_key(&actors.get(ids[0]).unwrap().parent.unwrap()));
        until("the new image", || {
            actors.drain();
            actors.get(ids[1]).unwrap().argv == argv(&["sleep", "100"])
        });
        assert_eq!(actors.get(ids[1]).unwrap().images.len(), 1);
        stays.stdin.take().unwrap().write_all(b"\n").unwrap();
        stays.wait().unwrap();
        until("its end", || {
            actors.drain();
            actors.get(ids[0]).unwrap().exit.is_some()
        });
        assert!(later.exits.lock().contains(&ids[0]));
        execs.kill().unwrap();
        execs.wait().unwrap();
        actors.stop();
    }
}
