//! Who wrote which line, in the forms of others: trailers, git-ai's notes and Agent Trace records, as git and a reader of their descriptions find them,
//! held against `regentfs blame` line by line.

mod common;
#[allow(dead_code)] // a part of it
#[path = "time_cli/place.rs"]
mod place;
#[path = "formats/trace.rs"]
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::json::{assert_documented, assert_refused, text};
use common::{MountedRepo, assert_ok, both, make_program, wait_for};
use place::{git, mounted, out, tree_of, write};
use serde_json::Value;

const SESSION: &str = "1f0e8a52-0000-4000-8000-000000000001";

/// A mount whose daemon knows an agent of the user's own.
struct Place {
    repo: MountedRepo,
    config: PathBuf,
}

impl Place {
    /// `before` is done in the repository first.
    fn new(before: impl FnOnce(&Path)) -> Option<Place> {
        let repo = mounted()?;
        repo.unmount();
        before(repo.path());
        let config = repo.outside().join("config");
        fs::create_dir_all(config.join("regentfs")).expect("mkdir");
        let entry =
            "[[agent]]\nid = \"my-agent\"\nnames = [\"my-agent.sh\"]\nmarks = [\"MINE=1\"]\nsession = \"MY_SESSION\"\n";
        fs::write(config.join("regentfs/agents.toml"), entry).expect("write a table");
        let place = Place { repo, config };
        place.mount();
        Some(place)
    }

    fn mount(&self) {
        let path = self.repo.path().to_str().expect("UTF-8");
        let output = self.command(&["mount", path]).output().expect("run regentfs");
        assert_ok(&output, "mount");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = common::regentfs();
        command.args(arguments).env("XDG_CONFIG_HOME", &self.config).arg("--store").arg(self.repo.store());
        if arguments.first() != Some(&"mount") {
            command.arg("--repo").arg(self.repo.path());
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("run regentfs")
    }

    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert_ok(&output, &arguments.join(" "));
        out(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn snapshot(&self, label: &str) -> String {
        let output = self.run(&["snapshot", "-m", label]);
        assert_ok(&output, "snapshot");
        out(&output).trim().to_owned()
    }

    fn blame(&self, path: &str, at: &str) -> Vec<Value> {
        let path = self.repo.join(path);
        self.json(&["blame", path.to_str().expect("UTF-8"), "--at", at])
    }
}

/// A program in a session of its own, as a login or a service would begin one.
fn start(program: &Path, dir: &Path, script: &str, variables: &[(&str, &str)]) -> Child {
    let mut command = Command::new("setsid");
    command.arg("--wait").arg(program).args(["-c", script]).current_dir(dir).stdin(Stdio::null());
    common::without_agents(&mut command);
    command.envs(variables.iter().copied()).spawn().expect("run setsid")
}

fn run(program: &Path, dir: &Path, script: &str) {
    assert!(start(program, dir, script, &[]).wait().expect("wait").success(), "{script}");
}

/// The agent of the table: a script that does what its second argument says.
fn my_agent(place: &Place) -> PathBuf {
    let path = place.repo.outside().join("my-agent.sh");
    fs::write(&path, "#!/bin/sh\nexport MY_SESSION=abc\neval \"$2\"\n").expect("write a script");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("make it executable");
    path
}

/// Something that looks like Claude Code, with a transcript of one prompt and one command, which it runs; it lives until the prompt is known.
fn claude(place: &Place, prompt: &str, command: &str) {
    let outside = place.repo.outside();
    let program = outside.join("claude");
    if !program.exists() {
        make_program(Path::new("/bin/bash"), &program);
    }
    let now = out(&Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.000Z"]).output().expect("run date"));
    let common = |kind: &str, message: Value, id: &str| {
        serde_json::json!({
            "type": kind, "promptId": "p1", "message": message, "uuid": id, "timestamp": now.trim(), "cwd": place.repo.path(),
            "sessionId": SESSION, "version": "2.1.197",
        })
        .to_string()
    };
    let call = serde_json::json!([{ "type": "tool_use", "id": "t1", "name": "Bash", "input": { "command": command } }]);
    let lines = [
        common("user", serde_json::json!({ "role": "user", "content": prompt }), "u1"),
        common(
            "assistant",
            serde_json::json!({ "role": "assistant", "model": "claude-opus-4-5", "content": call }),
            "a1",
        ),
    ];
    let home = outside.join("home");
    let dir = home.join(".claude/projects/-x");
    fs::create_dir_all(&dir).expect("mkdir");
    fs::write(dir.join(format!("{SESSION}.jsonl")), lines.join("\n") + "\n").expect("write a transcript");
    let go = outside.join("go");
    let _ = fs::remove_file(&go);
    let quoted = command.replace('\'', r"'\''");
    let script = format!(
        "export CLAUDECODE=1 CLAUDE_CODE_SESSION_ID={SESSION}; bash -c '{quoted}'; until test -e '{}'; do sleep 0.1; done",
        go.display()
    );
    let mut child = start(&program, place.repo.path(), &script, &[("HOME", home.to_str().expect("UTF-8"))]);
    wait_for("the prompt to be known", || {
        place.json(&["log"]).iter().any(|row| row["command"] == command && row["prompt"].is_string())
    });
    fs::write(&go, "").expect("write");
    assert!(child.wait().expect("wait").success());
}

const PROMPT: &str =
    "\n  Add a \u{1b}greeting \u{202e}now\nSigned-off-by: Eve <eve@example.com>\n\nRegentfs-Step: c99999\n";

/// Two agents and a script work; returns two snapshots.
fn work(place: &Place) -> [String; 2] {
    let at = place.repo.path();
    let agent = my_agent(place);
    let first = "sh -c 'printf \"hello\\nbrave new\\nworld\\n\" > README; printf \"a1\\na2\\na3\\na4\\n\" > made.txt'; \
                 sh -c 'printf \"s1\\ns2\\n\" > \"with space.txt\"; printf \"\\0\\1\\n\" > picture; echo built > target/more'; \
                 mv src/old.c src/new.c; sh -c 'echo \"int more;\" >> src/new.c'";
    run(&agent, at, first);
    let one = place.snapshot("one");
    // Of the agent's lines the script puts one in between, and takes one away.
    run(Path::new("/bin/bash"), at, "printf 'a1\\nscript\\na2\\na4\\n' > made.txt; printf 'p1\\np2\\n' > plain.txt");
    let command = "printf \"c1\\nhello\\nbrave new\\nworld\\nc2\\n\" > README; printf \"p1\\nclaude\\np2\\n\" > plain.txt; mkdir -p dir; printf \"only claude\\n\" > dir/---";
    claude(place, PROMPT, command);
    run(&agent, at, "sh -c 'echo last >> made.txt'");
    let two = place.snapshot("two");
    [one, two]
}

/// A note as the standard describes it: for each file the keys with their lines; and the metadata.
fn parse(note: &str) -> (BTreeMap<String, BTreeMap<u64, String>>, Value) {
    let note = &format!("\n{note}");
    let (attestations, metadata) = note.split_once("\n---\n").expect("a divider");
    let mut files: BTreeMap<String, BTreeMap<u64, String>> = BTreeMap::new();
    let mut file = None;
    for line in attestations.lines().skip(1) {
        let Some(entry) = line.strip_prefix("  ") else {
            let bare = line.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(line);
            file = Some(bare.to_owned());
            continue;
        };
        let (key, ranges) = entry.split_once(' ').expect("a key and lines");
        let lines = files.entry(file.clone().expect("a path before its lines")).or_default();
        let mut last = 0;
        for range in ranges.split(',') {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            let (from, to): (u64, u64) = (from.parse().unwrap(), to.parse().unwrap());
            assert!(from > last && to >= from, "{note}");
            last = to;
            for line in from..=to {
                assert_eq!(lines.insert(line, key.to_owned()), None, "{note}");
            }
        }
    }
    (files, serde_json::from_str(metadata).expect("JSON"))
}

fn is_key(key: &str, letter: char) -> bool {
    key.strip_prefix(letter).and_then(|rest| rest.strip_prefix('_')).is_some_and(|digits| {
        digits.len() == 14 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// The lines that git says are new in a commit.
fn new_lines(dir: &Path, commit: &str, path: &str) -> BTreeSet<u64> {
    let blame = git(dir, &["blame", "--porcelain", commit, "--", path]);
    let heads = blame.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (id, _, line) = (words.next()?, words.next()?, words.next()?);
        (id == commit).then(|| line.parse().ok()).flatten()
    });
    heads.collect()
}

/// Of a commit that is a snapshot: its note says exactly what `regentfs blame` says of the lines that are new in it. Returns how many these are, and the
/// note's metadata.
fn note_is_true(place: &Place, commit: &str) -> (usize, Value) {
    let dir = place.repo.path();
    let [snapshot] = &values(dir, commit, "Regentfs-Snapshot")[..] else { panic!("{commit} is no snapshot") };
    let (files, metadata) = parse(&git(dir, &["notes", "--ref=ai", "show", commit]));
    assert_eq!((text(&metadata, "schema_version"), text(&metadata, "base_commit_sha")), ("authorship/3.0.0", commit));
    assert_eq!(metadata["prompts"], serde_json::json!({}));
    let sessions = metadata["sessions"].as_object().expect("an object");
    for (id, record) in sessions {
        assert!(is_key(id, 's'), "{metadata}");
        for field in ["tool", "id", "model"] {
            text(&record["agent_id"], field);
        }
        for none in ["messages", "messages_url", "total_additions", "accepted_lines"] {
            assert!(record.get(none).is_none(), "{metadata}");
        }
    }
    let changed = git(
        dir,
        &["-c", "core.quotePath=false", "diff", "--name-only", "--diff-filter=d", &format!("{commit}^"), commit],
    );
    let mut traces: BTreeMap<String, String> = BTreeMap::new();
    let mut seen = 0;
    for path in changed.lines().filter(|path| *path != "picture") {
        let new = new_lines(dir, commit, path);
        let none = BTreeMap::new();
        let noted = files.get(path).unwrap_or(&none);
        for (number, row) in (1..).zip(place.blame(path, snapshot)) {
            let is_agents = row["by"] == "agent" && new.contains(&number);
            assert_eq!(noted.contains_key(&number), is_agents, "{path}:{number}: {row} {files:?}");
            let Some(key) = noted.get(&number) else { continue };
            let (session, trace) = key.split_once("::").expect("a session and a trace");
            assert!(is_key(session, 's') && is_key(trace, 't'), "{key}");
            let record = &sessions[session];
            let mut ours = text(&record["custom_attributes"], "regentfs_sessions").split(' ');
            assert!(ours.any(|id| row["session"] == id), "{row} {record}");
            // One trace a step.
            let step = text(&row, "step").to_owned();
            assert_eq!(traces.entry(trace.to_owned()).or_insert(step.clone()), &step);
            seen += 1;
        }
    }
    assert!(files.keys().all(|path| changed.lines().any(|line| line == path)), "{files:?}");
    let steps: BTreeSet<&String> = traces.values().collect();
    assert_eq!(steps.len(), traces.len());
    (seen, metadata)
}

/// The commits of a branch that are snapshots, the first one first.
fn commits(dir: &Path, branch: &str) -> Vec<String> {
    git(dir, &["log", "--reverse", "--format=%H", &format!("main..{branch}")]).lines().map(str::to_owned).collect()
}

fn values(dir: &Path, commit: &str, key: &str) -> Vec<String> {
    let format = format!("--format=%(trailers:key={key},valueonly)");
    git(dir, &["log", "-1", &format, commit]).lines().filter(|l| !l.is_empty()).map(str::to_owned).collect()
}

#[test]
fn trailers_and_notes_of_an_exported_branch() {
    let notes = |dir: &Path| git(dir, &["notes", "--ref=ai", "add", "-m", "somebody's own", "main"]);
    let Some(place) = Place::new(|dir| drop(notes(dir))) else { return };
    let dir = place.repo.path().to_owned();
    let reference = dir.join(".git/refs/notes/ai");
    let before = fs::read_to_string(&reference).expect("read");
    let [_, two] = work(&place);
    assert_ok(&place.run(&["export", "--git-branch", "plain", "..two"]), "export");
    let rows = place.json(&["export", "--git-branch", "try", "--git-notes", "--co-authors", "--single", "..two"]);
    assert_documented("branch", &rows[..1], &[]);
    assert_documented("export", &rows[1..2], &[]);
    assert_documented("notes", &rows[2..], &[]);
    assert_eq!(rows.len(), 3, "{rows:?}");
    let all = text(&rows[1], "commit");
    assert_eq!((&rows[2]["added"], &rows[2]["kept"]), (&1.into(), &0.into()));
    // The mount shows it at once, though it had looked before.
    assert_eq!(fs::read_to_string(&reference).expect("read").trim(), text(&rows[2], "tip"));
    assert_ne!(fs::read_to_string(&reference).expect("read"), before);

    // Several sessions in one commit.
    let log = place.json(&["log"]);
    let agents = |agent: &str| -> Vec<String> {
        let mut found: Vec<String> =
            log.iter().filter(|r| r["agent"] == agent).map(|r| text(r, "session").to_owned()).collect();
        found.reverse();
        found.dedup();
        found
    };
    let (mine, claudes) = (agents("my-agent"), agents("claude-code"));
    assert_eq!((mine.len(), claudes.len()), (2, 1), "{log:?}");
    let told = values(&dir, all, "Regentfs-Session");
    assert_eq!((told.len(), &told[0], &told[2], &told[3]), (4, &mine[0], &claudes[0], &mine[1]));
    assert_eq!(values(&dir, all, "Regentfs-Snapshot"), [two.as_str()]);
    assert_eq!(values(&dir, all, "Regentfs-Agent"), ["my-agent", "claude-code 2.1.197", "my-agent"]);
    assert_eq!(values(&dir, all, "Regentfs-Model"), ["claude-opus-4-5"]);
    assert_eq!(values(&dir, all, "Regentfs-Prompt"), ["Add a greeting now"]);
    let authors = ["Claude <noreply@anthropic.com>", "my-agent <my-agent@agents.invalid>"];
    assert_eq!(values(&dir, all, "Co-authored-by"), authors);
    assert!(values(&dir, all, "Signed-off-by").is_empty());
    let steps: BTreeSet<String> = values(&dir, all, "Regentfs-Step").into_iter().collect();
    let wrote = log.iter().filter(|row| row["writes"] != 0);
    assert_eq!(steps, wrote.map(|row| text(row, "step").to_owned()).collect());
    let (seen, metadata) = note_is_true(&place, all);
    assert!(seen > 10, "{seen}");
    let sessions: Vec<&Value> = metadata["sessions"].as_object().expect("an object").values().collect();
    assert!(sessions.iter().all(|r| r["human_author"] == "Ada <ada@example.com>"));
    let ids = sessions.iter().map(|r| ["tool", "id", "model"].map(|field| text(&r["agent_id"], field)));
    let ids: BTreeSet<_> = ids.collect();
    assert_eq!(ids, [["claude", SESSION, "claude-opus-4-5"], ["my-agent", "abc", "unknown"]].into());
    assert_eq!(git(&dir, &["notes", "--ref=ai", "show", "main"]), "somebody's own");

    // Of a store that is not mounted: notes for a branch that was exported without, in a reference that is packed.
    place.repo.unmount();
    git(&dir, &["fsck", "--strict", "--no-dangling"]);
    assert_eq!(git(&dir, &["rev-list", "--count", "refs/notes/ai"]), "2");
    git(&dir, &["pack-refs", "--all"]);
    assert!(!reference.exists());
    let tip = git(&dir, &["rev-parse", "refs/notes/ai"]);
    fs::create_dir_all(dir.join(".git/refs/notes")).expect("mkdir");
    let lock = dir.join(".git/refs/notes/ai.lock");
    fs::write(&lock, "").expect("write");
    let held = "another git process holds .git/refs/notes/ai.lock";
    assert_refused(&place.run(&["export", "--git-notes", "--branch", "plain"]), 1, held);
    assert_refused(&place.run(&["export", "--git-branch", "none", "--git-notes", "--single", "..one"]), 1, held);
    assert_eq!(
        (git(&dir, &["rev-parse", "refs/notes/ai"]), git(&dir, &["branch", "--list", "none"])),
        (tip, String::new())
    );
    fs::remove_file(&lock).expect("remove");
    let plain = commits(&dir, "plain");
    let by_agents: Vec<&String> =
        plain.iter().filter(|commit| !values(&dir, commit, "Regentfs-Agent").is_empty()).collect();
    assert!(by_agents.len() > 3 && by_agents.len() < plain.len(), "{plain:?}");
    let rows = place.json(&["export", "--git-notes", "--branch", "plain"]);
    assert_documented("notes", &rows, &[]);
    assert_eq!((rows.len(), rows[0]["added"].as_u64(), &rows[0]["kept"]), (1, Some(by_agents.len() as u64), &0.into()));
    assert!(reference.exists());
    let mut seen = 0;
    for commit in &by_agents {
        seen += note_is_true(&place, commit).0;
        let [snapshot] = &values(&dir, commit, "Regentfs-Snapshot")[..] else { panic!("{commit} is no snapshot") };
        let steps = values(&dir, commit, "Regentfs-Step");
        let ended = log.iter().filter(|row| row["snapshot"] == snapshot.as_str() && row["writes"] != 0);
        assert!(ended.map(|row| text(row, "step").to_owned()).all(|step| steps.contains(&step)), "{steps:?} {log:?}");
        assert!(values(&dir, commit, "Co-authored-by").is_empty());
    }
    assert!(seen > 10, "{seen}");
    note_is_true(&place, all);
    assert_eq!(git(&dir, &["notes", "--ref=ai", "show", "main"]), "somebody's own");
    assert_eq!(git(&dir, &["notes", "--ref=ai", "list"]).lines().count(), by_agents.len() + 2);
    git(&dir, &["fsck", "--strict", "--no-dangling"]);

    // The same commits again: what has a note keeps it.
    git(&dir, &["notes", "--ref=ai", "add", "-f", "-m", "changed by hand", by_agents[0]]);
    let tip = git(&dir, &["rev-parse", "refs/notes/ai"]);
    let rows = place.json(&["export", "--git-branch", "again", "--git-notes", "..two"]);
    let last = rows.last().expect("what became of notes");
    assert_eq!((&last["added"], last["kept"].as_u64()), (&0.into(), Some(by_agents.len() as u64)));
    assert_eq!(commits(&dir, "again"), plain);
    assert_eq!(git(&dir, &["rev-parse", "refs/notes/ai"]), tip);
    assert_eq!(git(&dir, &["notes", "--ref=ai", "show", by_agents[0]]), "changed by hand");
    assert_eq!(git(&dir, &["status", "--porcelain", "--untracked-files=all"]), "");

    // What is not as it was written is nobody's.
    git(&dir, &["checkout", "-q", "plain"]);
    write(&dir, "made.txt", "a1\nother\n");
    git(&dir, &["commit", "-q", "-a", "--amend", "--no-edit"]);
    git(&dir, &["checkout", "-q", "main"]);
    let output = place.run(&["export", "--git-notes", "--branch", "plain"]);
    assert_ok(&output, "export");
    assert!(both(&output).contains("made.txt is not in git as it was written"), "{}", both(&output));
    let (files, _) = parse(&git(&dir, &["notes", "--ref=ai", "show", "plain"]));
    assert!(!files.contains_key("made.txt"), "{files:?}");

    assert_refused(&place.run(&["export", "--git-notes"]), 2, "--branch NAME");
    assert_refused(&place.run(&["export", "--git-notes", "--branch", "nowhere"]), 2, "no branch nowhere");
    assert_refused(&place.run(&["export", "--git-notes", "--branch", "main"]), 2, "no commit of branch main");
}

#[test]
fn patches_tell_of_their_steps() {
    let Some(place) = Place::new(|_| {}) else { return };
    run(&my_agent(&place), place.repo.path(), "sh -c 'echo new > made.txt'");
    place.snapshot("one");
    let tree = tree_of(place.repo.path());
    let patch = place.repo.outside().join("one.patch");
    assert_ok(&place.run(&["export", "--patch", "..one", "-o", patch.to_str().unwrap()]), "export");
    place.repo.unmount();
    git(place.repo.path(), &["am", "-q", patch.to_str().unwrap()]);
    assert_eq!(git(place.repo.path(), &["rev-parse", "HEAD^{tree}"]), tree);
    assert_eq!(values(place.repo.path(), "HEAD", "Regentfs-Agent"), ["my-agent"]);
    assert_eq!(values(place.repo.path(), "HEAD", "Regentfs-Step").len(), 1);
    // A patch has no branch, but its commit says what it is.
    assert_eq!(place.run(&["export", "--patch", "--agent-trace"]).status.code(), Some(2));
    let output = place.run(&["export", "--git-notes", "--branch", "main", "--json"]);
    assert!(out(&output).contains("\"added\":1"), "{}", both(&output));
}
