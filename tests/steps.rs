//! Steps, and whose every line is: writers that come to the same files one after another and at once, and what is taken back out.

mod common;
#[path = "model/rng.rs"]
#[allow(dead_code)]
mod rng;
#[path = "model/seeds.rs"]
mod seeds;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use common::json::text;
use common::{MountedRepo, assert_ok, can_mount, wait_for};
use rng::Rng;
use serde_json::Value;

/// Runs a program in a session of its own, as somebody else would; its name is known by an argument that does nothing.
fn as_writer(dir: &Path, name: &str, program: &str) {
    let mut command = Command::new("setsid");
    command.arg("--wait").args(["python3", "-S", "-c", program, name]).current_dir(dir).stdin(Stdio::null());
    let output = command.output().expect("run setsid");
    assert_ok(&output, program);
}

/// Blame of a file: for each line its text, its `by`, and the name of its writer.
fn blame(repo: &MountedRepo, path: &str) -> Vec<(String, String, String)> {
    let sessions: BTreeMap<String, String> = repo
        .json(&["sessions"])
        .iter()
        .map(|s| {
            let argv = s["argv"].as_array().expect("argv");
            (text(s, "session").to_owned(), argv.last().and_then(Value::as_str).unwrap_or_default().to_owned())
        })
        .collect();
    let writer = |row: &Value| row["session"].as_str().and_then(|s| sessions.get(s)).cloned().unwrap_or_default();
    let rows = repo.json(&["blame", path]);
    rows.iter().map(|row| (text(row, "text").to_owned(), text(row, "by").to_owned(), writer(row))).collect()
}

fn populate(base: &Path) {
    let lines: String = (1..=20).map(|n| format!("a line of the base with number {n}\n")).collect();
    std::fs::write(base.join("a"), lines).expect("write");
    std::fs::write(base.join("b"), "another file of the base, of one line\n").expect("write");
}

/// A change of one file to lines of which each is unique, as editors and programs make them. Returns the program and the new lines.
fn change(rng: &mut Rng, n: usize, file: &str) -> (String, Vec<String>) {
    let fresh: Vec<String> =
        (0..=rng.below(3)).map(|i| format!("a line that writer {n} wrote, its number {i}")).collect();
    let list = fresh.iter().map(|line| format!("{line:?}+'\\n'")).collect::<Vec<_>>().join(",");
    let at = rng.below(1000);
    let read = format!(
        "p={file:?};l=open(p).read().splitlines(True) if os.path.exists(p) else [];k={at}%(len(l)+1);new=[{list}]"
    );
    let edit = match rng.below(5) {
        0 => "l=l+new",
        1 => "l[k:k]=new",
        2 => "l[k:k+2]=new",
        // A block goes to the end.
        3 => "l=l[:k]+l[k+3:]+l[k:k+3]+new",
        _ => "l[:0]=new",
    };
    let write = match rng.below(3) {
        0 => "open(p,'w').writelines(l)",
        1 => "open(p+'.new','w').writelines(l);os.rename(p+'.new',p)",
        _ => "f=open(p,'r+' if os.path.exists(p) else 'w');f.truncate(0);[(f.write(x),f.flush()) for x in l];f.close()",
    };
    (format!("import os\n{read}\n{edit}\n{write}"), fresh)
}

#[test]
fn every_line_is_its_writers() {
    if !can_mount() || !common::has_programs(&["python3", "setsid"], "writers") {
        return;
    }
    for seed in seeds::seeds("STEPS", 2) {
        println!("REGENTFS_STEPS_SEED={seed}");
        let mut rng = Rng::new(seed);
        let repo = MountedRepo::new(populate);
        // Who first had a line, and whose it therefore is, wherever it goes.
        let mut owner: BTreeMap<String, String> = BTreeMap::new();
        let mut files = vec!["a".to_owned(), "b".to_owned()];
        for n in 0..24 {
            let name = format!("writer-{n}");
            let file = rng.pick(&files).clone();
            match rng.below(10) {
                0 => {
                    let copy = format!("copy-{n}");
                    as_writer(repo.path(), &name, &format!("import shutil;shutil.copyfile({file:?},{copy:?})"));
                    files.push(copy);
                }
                1 => {
                    let moved = format!("moved-{n}");
                    as_writer(repo.path(), &name, &format!("import os;os.rename({file:?},{moved:?})"));
                    files.retain(|f| *f != file);
                    files.push(moved);
                }
                2 if n > 4 => {
                    let before = repo.json(&["log", "-n", "3"]);
                    let back = before.last().and_then(|row| row["snapshot"].as_str()).map(str::to_owned);
                    if let Some(back) = back {
                        assert_ok(&repo.run(&["rewind", &back]), "rewind");
                        files.retain(|f| repo.join(f).exists());
                        for gone in ["a", "b"] {
                            if repo.join(gone).exists() && !files.iter().any(|f| f == gone) {
                                files.push(gone.to_owned());
                            }
                        }
                    }
                }
                3 => drop(repo.run(&["undo"])),
                _ => {
                    let (program, fresh) = change(&mut rng, n, &file);
                    as_writer(repo.path(), &name, &program);
                    owner.extend(fresh.into_iter().map(|line| (line, name.clone())));
                }
            }
            files.retain(|f| repo.join(f).exists());
            if files.is_empty() {
                files.push(format!("new-{n}"));
            }
        }
        let (mut all, mut wrong) = (0, Vec::new());
        for file in files.iter().filter(|f| repo.join(f).exists()) {
            for (line, by, writer) in blame(&repo, file) {
                all += 1;
                let expected = owner.get(&line).cloned().unwrap_or_default();
                let right = if expected.is_empty() { by == "base" } else { writer == expected };
                if !right {
                    wrong.push(format!("{file}: {line:?} is by {by} {writer:?}, should be {expected:?}"));
                }
            }
        }
        println!("{all} lines, {} on a wrong step", wrong.len());
        assert!(wrong.is_empty(), "seed {seed}\n{}", wrong.join("\n"));
        repo.unmount();
        assert_ok(&repo.run(&["fsck", "--log"]), "fsck");
    }
}

#[test]
fn writers_at_once_are_kept_apart() {
    if !can_mount() || !common::has_programs(&["python3", "setsid"], "writers") {
        return;
    }
    let repo = MountedRepo::new(populate);
    let dir = repo.path().to_owned();
    // All of them append to one file, a line at a time, and write files of their own.
    let program = |n: usize| {
        format!(
            "import os,time\nfor i in range(30):\n f=os.open('shared',os.O_WRONLY|os.O_CREAT|os.O_APPEND)\n \
             os.write(f,b'line %d that writer {n} added to what all share\\n'%i)\n os.close(f)\n \
             open('own-{n}-%d'%(i%3),'a').write('line %d of a file of writer {n} alone\\n'%i)\n time.sleep(0.01)"
        )
    };
    let threads: Vec<_> = (0..3)
        .map(|n| {
            let (dir, program) = (dir.clone(), program(n));
            std::thread::spawn(move || as_writer(&dir, &format!("writer-{n}"), &program))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a writer"));
    let shared = blame(&repo, "shared");
    assert_eq!(shared.len(), 90);
    for (line, _, writer) in shared {
        assert!(line.contains(&format!("that {} added", writer.replace('-', " "))), "{line:?} is by {writer}");
    }
    for n in 0..3 {
        for (line, _, writer) in blame(&repo, &format!("own-{n}-1")) {
            assert_eq!(writer, format!("writer-{n}"), "{line:?}");
        }
    }
    // Each step's diff has what that one did, and nothing of the others.
    let log = repo.json(&["log", "-n", "0"]);
    for n in 0..3 {
        let mine: Vec<&str> = log
            .iter()
            .filter(|row| row["argv"].as_array().is_some_and(|a| a.last() == Some(&Value::from(format!("writer-{n}")))))
            .map(|row| text(row, "step"))
            .collect();
        assert!(!mine.is_empty(), "{log:#?}");
        let mut added = Vec::new();
        for step in mine {
            let output = repo.run(&["show", step]);
            assert_ok(&output, "show");
            let shown = String::from_utf8_lossy(&output.stdout).into_owned();
            added.extend(shown.lines().filter(|l| l.starts_with("+line")).map(str::to_owned));
        }
        let name = format!("writer {n} ");
        assert!(added.iter().all(|line| line.contains(&name)), "{added:#?}");
        assert_eq!(added.iter().filter(|line| line.contains("what all share")).count(), 30, "{added:#?}");
    }
}

#[test]
fn a_step_that_ended_is_a_snapshot_and_comes_back_out() {
    if !can_mount() || !common::has_programs(&["python3", "setsid"], "writers") {
        return;
    }
    let repo = MountedRepo::new(populate);
    let sh = |script: &str| {
        let output = Command::new("setsid")
            .args(["--wait", "bash", "-c", script])
            .current_dir(repo.path())
            .stdin(Stdio::null())
            .output()
            .expect("run setsid");
        assert_ok(&output, script);
    };
    sh(
        "bash -c 'sed -i s/number.1$/number.ONE/ a; echo x > made; mkdir d; mv b d/b'; bash -c 'echo later >> a; rm made'; true",
    );
    let log = || -> Vec<Value> { repo.json(&["log", "--commands", "-n", "0"]) };
    wait_for("both steps to be snapshots", || {
        let found = log();
        found.len() == 2 && found.iter().all(|row| row["snapshot"].is_string())
    });
    let found = log();
    let (second, first) = (text(&found[0], "step").to_owned(), text(&found[1], "step").to_owned());
    assert_eq!(text(&found[0], "command"), "echo later >> a; rm made");
    assert_ne!(found[0]["snapshot"], found[1]["snapshot"]);
    // A step is a point in time: the state after it.
    let output = repo.run(&["show", &format!("{first}:made")]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "x\n");
    let output = repo.run(&["diff", "--name-only", &first, &second]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a\nmade\n");
    let output = repo.run(&["show", &first, "--name-only"]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.ends_with("\n\na\nd/b\nmade\n"), "{shown}");
    assert!(shown.contains("sed -i") && shown.contains("Read:"), "{shown}");

    // The first comes out, the later one stays.
    assert_ok(&repo.run(&["revert", &first, "--dry-run"]), "dry run");
    assert!(repo.join("d/b").exists());
    assert_ok(&repo.run(&["revert", &first, "a", "d", "b"]), "revert");
    let now = std::fs::read_to_string(repo.join("a")).expect("read");
    assert!(now.starts_with("a line of the base with number 1\n") && now.ends_with("later\n"), "{now}");
    assert!(repo.join("b").exists() && !repo.join("d/b").exists());
    // What came back is whose it was.
    let lines = blame(&repo, "a");
    assert_eq!(lines.first().map(|l| l.1.as_str()), Some("base"));
    assert_eq!(lines.last().map(|l| l.0.as_str()), Some("later"));
    assert_ok(&repo.run(&["undo"]), "undo");
    assert!(repo.join("d/b").exists());
    // What a later step touched as well is a conflict, and nothing happens.
    sh("sed -i s/ONE/TWO/ a");
    let before = std::fs::read(repo.join("a")).expect("read");
    let output = repo.run(&["revert", &first]);
    assert_eq!(output.status.code(), Some(1), "{}", common::both(&output));
    assert!(common::both(&output).contains("conflict: a"), "{}", common::both(&output));
    assert_eq!(std::fs::read(repo.join("a")).expect("read"), before);
    assert!(repo.join("d/b").exists());

    let output = repo.run(&["why", "a:21"]);
    let why = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(why.contains("later") && why.contains("echo later >> a; rm made") && why.contains("+later"), "{why}");
    for (arguments, says) in [
        (vec!["revert", "c99999"], "there is no step c99999"),
        (vec!["show", "e1.99999"], "there is no step"),
        (vec!["diff", "s99999"], "there is no session"),
        (vec!["blame", "nothing"], "there is no file nothing"),
        (vec!["blame", "d"], "no regular file"),
        (vec!["blame", "a:99"], "there is no line 99"),
        (vec!["why", "a"], "names no line"),
    ] {
        let output = repo.run(&arguments);
        assert!(
            !output.status.success() && common::both(&output).contains(says),
            "{arguments:?}: {}",
            common::both(&output)
        );
    }
}

#[test]
fn what_a_dead_daemon_left_is_a_step_of_its_own() {
    if !can_mount() || !common::has_programs(&["python3", "setsid"], "writers") {
        return;
    }
    let repo = MountedRepo::new(populate);
    let write = |n: usize| format!("open('a','a').write('a line that writer {n} added in the end\\n')");
    as_writer(repo.path(), "writer-0", &write(0));
    repo.kill();
    repo.mount();
    as_writer(repo.path(), "writer-1", &write(1));
    let writers: Vec<String> = blame(&repo, "a").into_iter().map(|(_, _, writer)| writer).collect();
    assert_eq!(writers.get(20..), Some(&["writer-0".to_owned(), "writer-1".to_owned()][..]));
}

/// What an editor does that saves by a temporary file and a rename, three times without a pause.
#[test]
fn saves_without_a_pause_are_steps_of_their_own() {
    if !can_mount() || !common::has_programs(&["python3", "setsid"], "an editor") {
        return;
    }
    let repo = MountedRepo::new(populate);
    let save = "def save(n, at):\n l=open('a').read().splitlines(True)\n l[at]=f'saved {n}\\n'\n t=f'a.tmp.{n}'\n \
                with open(t,'w') as f: f.writelines(l)\n os.rename(t,'a')\n";
    as_writer(repo.path(), "editor", &format!("import os\n{save}for n in (1,2,3): save(n, n*5)"));
    let steps = || {
        let log = repo.json(&["log"]);
        log.into_iter().filter(|row| row["writes"] != 0).collect::<Vec<_>>()
    };
    wait_for("the last step to end", || steps().iter().all(|row| row["snapshot"].is_string()) && steps().len() == 3);
    let names: Vec<String> = steps().iter().rev().map(|row| text(row, "step").to_owned()).collect();
    for (n, name) in (1..).zip(&names) {
        let shown = repo.run(&["show", name]);
        assert_ok(&shown, "show");
        let shown = String::from_utf8(shown.stdout).expect("UTF-8");
        assert!(shown.contains(&format!("+saved {n}")) && !shown.contains("a.tmp"), "{name}: {shown}");
        assert_eq!(shown.matches("\n+saved").count(), 1, "{name}: {shown}");
    }
    assert_ok(&repo.run(&["revert", &names[1]]), "revert");
    let now = std::fs::read_to_string(repo.join("a")).expect("read");
    assert!(now.contains("saved 1\n") && !now.contains("saved 2\n") && now.contains("saved 3\n"), "{now}");
    assert_eq!(now.lines().count(), 20);
}

/// A file that takes another one's place was made before that one was sealed: its lines go on from what was there when it did. And a step in several parts
/// comes back out, and in again, as one.
#[test]
fn what_replaces_somebody_elses_edit_goes_on_from_it() {
    if !can_mount() || !common::has_programs(&["python3", "setsid"], "writers") {
        return;
    }
    let repo = MountedRepo::new(populate);
    let lines = |from: &str| format!("l=open('a').read().splitlines(True)\n{from}\n");
    let other = lines("l[14]='by another\\n'") + "open('made-beside','w').writelines(l)\nos.rename('made-beside','a')";
    // An editor that goes on, and at once a command of somebody else.
    let program = lines("l[2]='by the editor\\n'")
        + "open('a','w').writelines(l)\nimport subprocess\n"
        + &format!(
            "subprocess.run(['setsid','--wait','bash','-c','python3 -S -c \"$0\"; true',{:?},'other'],check=True)",
            format!("import os\n{other}")
        );
    as_writer(repo.path(), "editor", &program);
    let written = || blame(&repo, "a");
    wait_for("both to be known", || written().iter().filter(|(_, by, _)| by != "base").count() == 2);
    let of = |line: &str| written().into_iter().find(|(text, ..)| text == line).map(|(.., who)| who);
    assert_eq!((of("by the editor").as_deref(), of("by another").as_deref()), (Some("editor"), Some("other")));
    let step = repo.json(&["blame", "a:15"]).first().map(|row| text(row, "step").to_owned()).expect("a line");
    let before = std::fs::read(repo.join("a")).expect("read");
    assert_ok(&repo.run(&["revert", &step]), "revert");
    let now = std::fs::read_to_string(repo.join("a")).expect("read");
    assert!(now.contains("by the editor\n") && !now.contains("by another\n"), "{now}");
    assert_ok(&repo.run(&["undo"]), "undo");
    assert_eq!(std::fs::read(repo.join("a")).expect("read"), before);
    assert!(!repo.join("made-beside").exists());
}
