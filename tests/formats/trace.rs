//! `export --agent-trace`: records that the schema of Agent Trace takes, and that say what `blame` says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::common::json::{assert_refused, text};
use crate::common::{self, MountedRepo, assert_ok, make_program};
use crate::place::{git, out, write};
use crate::{Place, SESSION, commits, my_agent, new_lines, run, values, work};

/// What each line is said to be: type, session and model.
type Lines = BTreeMap<u64, (String, String, Option<String>)>;

/// An object with these fields and no others; the first so many must be there.
fn object<'v>(value: &'v Value, required: &[&str], optional: &[&str]) -> &'v serde_json::Map<String, Value> {
    let object = value.as_object().unwrap_or_else(|| panic!("no object: {value}"));
    assert!(required.iter().all(|name| object.contains_key(*name)), "{required:?} in {value}");
    assert!(object.keys().all(|key| required.contains(&&**key) || optional.contains(&&**key)), "{value}");
    object
}

fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    scheme.bytes().all(|b| b.is_ascii_alphanumeric()) && !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic())
}

/// What the schema of Agent Trace 0.1.0 asks for. Returns what each line of each file is said to be: type, session and model.
fn valid(record: &Value) -> BTreeMap<String, Lines> {
    object(record, &["version", "id", "timestamp", "files"], &["vcs", "tool", "metadata"]);
    let version: Vec<_> = text(record, "version").split('.').collect();
    assert!(version.len() == 3 && version.iter().all(|n| n.parse::<u32>().is_ok()));
    assert_eq!(version, ["0", "1", "0"]);
    let id: Vec<_> = text(record, "id").split('-').collect();
    assert_eq!(id.iter().map(|part| part.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    assert!(id.concat().bytes().all(|b| b.is_ascii_hexdigit()) && (b'1'..=b'8').contains(&id[2].as_bytes()[0]));
    assert!(b"89ab".contains(&id[3].as_bytes()[0]));
    let time = text(record, "timestamp");
    assert!(time.ends_with('Z') && regentfs::types::rfc3339::parse_rfc3339(time).is_some(), "{time}");
    if let Some(vcs) = record.get("vcs") {
        object(vcs, &["type", "revision"], &[]);
        assert!(text(vcs, "type") == "git" && text(vcs, "revision").len() == 40);
    }
    object(&record["tool"], &["name", "version"], &[]);
    let mut files = BTreeMap::new();
    for file in record["files"].as_array().expect("a list") {
        object(file, &["path", "conversations"], &[]);
        let mut lines = BTreeMap::new();
        for talk in file["conversations"].as_array().expect("a list") {
            object(talk, &["ranges"], &["url", "contributor", "related"]);
            let contributor = object(&talk["contributor"], &["type"], &["model_id"]);
            let kind = contributor["type"].as_str().expect("text");
            assert!(["human", "ai", "mixed", "unknown"].contains(&kind));
            let model = contributor.get("model_id").map(|m| m.as_str().expect("text").to_owned());
            assert!(model.as_ref().is_none_or(|model| model.len() <= 250));
            let url = talk.get("url").map_or("", |url| url.as_str().expect("text"));
            assert!(url.is_empty() || is_uri(url), "{url}");
            for related in talk.get("related").and_then(Value::as_array).into_iter().flatten() {
                object(related, &["type", "url"], &[]);
                assert!(is_uri(text(related, "url")), "{related}");
            }
            let session = url.rsplit('/').next().unwrap_or_default();
            for range in talk["ranges"].as_array().expect("a list") {
                object(range, &["start_line", "end_line"], &["content_hash", "contributor"]);
                let (from, to) = (range["start_line"].as_u64().unwrap(), range["end_line"].as_u64().unwrap());
                assert!(1 <= from && from <= to);
                for line in from..=to {
                    let said = (kind.to_owned(), session.to_owned(), model.clone());
                    assert_eq!(lines.insert(line, said), None, "{file}");
                }
            }
        }
        assert_eq!(files.insert(text(file, "path").to_owned(), lines), None);
    }
    files
}

/// The record says of these files what `blame` says; of lines that are in `new`. Returns how many these are.
fn trace_is_true(
    place: &Place,
    record: &Value,
    at: &str,
    paths: &[String],
    new: &dyn Fn(&str, u64, &Value) -> bool,
) -> usize {
    let files = valid(record);
    let none = BTreeMap::new();
    let mut seen = 0;
    for path in paths.iter().filter(|path| *path != "picture") {
        let lines = files.get(path).unwrap_or(&none);
        for (number, row) in (1..).zip(place.blame(path, at)) {
            let told = lines.get(&number);
            assert_eq!(
                told.is_some(),
                row["by"] != "base" && new(path, number, &row),
                "{path}:{number}: {row} {record}"
            );
            let Some((kind, session, model)) = told else { continue };
            let expected = match text(&row, "by") {
                "agent" => "ai",
                "human" => "human",
                _ => "unknown",
            };
            assert_eq!((kind.as_str(), session.as_str()), (expected, text(&row, "session")), "{path}:{number}");
            let known = (row["agent"] == "claude-code").then_some("anthropic/claude-opus-4-5");
            assert_eq!(model.as_deref(), known, "{path}:{number}");
            seen += 1;
        }
    }
    assert!(files.keys().all(|path| paths.contains(path)), "{paths:?} {record}");
    seen
}

#[test]
fn agent_trace_says_what_blame_says() {
    let Some(place) = Place::new(|_| {}) else { return };
    let dir = place.repo.path().to_owned();
    let [one, two] = work(&place);
    let snapshots = place.json(&["snapshots"]);
    let epoch =
        |id: &str| snapshots.iter().find(|s| s["id"] == id).and_then(|s| s["epoch"].as_u64()).expect("an epoch");
    run(&my_agent(&place), &dir, "sh -c 'echo \"not in a snapshot\" > present.txt'");
    assert_ok(&place.run(&["export", "--git-branch", "try", "..two"]), "export");
    let mut ranges = Vec::new();
    for is_mounted in [true, false] {
        let output = place.run(&["export", "--agent-trace"]);
        assert_ok(&output, "export");
        assert_eq!(out(&output).lines().count(), 1);
        let record: Value = serde_json::from_str(&out(&output)).expect("JSON");
        assert!(record.get("vcs").is_none(), "no commit has these lines: {record}");
        let paths = ["README", "made.txt", "with space.txt", "src/new.c", "plain.txt", "dir/---", "present.txt"]
            .map(str::to_owned);
        assert!(trace_is_true(&place, &record, "now", &paths, &|_, _, _| true) > 10);
        let own = &record["metadata"]["dev.regentfs"];
        assert_eq!((text(own, "from"), text(own, "to")), ("base", "now"));
        let sessions = own["sessions"].as_object().expect("an object");
        let claude = sessions.values().find(|s| s["agent"] == "claude-code").expect("it wrote lines");
        assert_eq!((text(claude, "version"), text(claude, "name")), ("2.1.197", SESSION));
        assert!(!record.to_string().contains("greeting"), "no prompt's text: {record}");
        ranges.push(record["files"].clone());

        // Part of the time.
        let file = place.repo.outside().join("trace.jsonl");
        assert_ok(&place.run(&["export", "--agent-trace", "one..two", "-o", file.to_str().unwrap()]), "export");
        let record: Value = serde_json::from_str(&fs::read_to_string(&file).expect("read")).expect("JSON");
        let paths = ["README", "made.txt", "plain.txt", "dir/---"].map(str::to_owned);
        let since = |_: &str, _: u64, row: &Value| epoch(text(row, "snapshot")) > epoch(&one);
        assert!(trace_is_true(&place, &record, &two, &paths, &since) > 5);

        // One for each commit.
        let output = place.run(&["export", "--agent-trace", "--branch", "try"]);
        assert_ok(&output, "export");
        let records: Vec<Value> = out(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let (mut told, mut seen) = (0, 0);
        for commit in commits(&dir, "try") {
            let record = records.iter().find(|record| record["vcs"]["revision"] == commit.as_str());
            told += usize::from(record.is_some());
            let changed = git(&dir, &["diff", "--name-only", "--diff-filter=d", &format!("{commit}^"), &commit]);
            let paths: Vec<String> = changed.lines().map(|line| line.trim_matches('"').to_owned()).collect();
            let is_new = |path: &str, number: u64, _: &Value| new_lines(&dir, &commit, path).contains(&number);
            if let Some(record) = record {
                let [at] = &values(&dir, &commit, "Regentfs-Snapshot")[..] else { panic!("{commit} is no snapshot") };
                seen += trace_is_true(&place, record, at, &paths, &is_new);
            } else {
                let is_text = |path: &&String| *path != "picture";
                assert!(
                    paths.iter().filter(is_text).all(|path| new_lines(&dir, &commit, path).is_empty()),
                    "{commit} has no record"
                );
            }
        }
        assert!(told == records.len() && told > 3 && seen > 10, "{told} {seen}");
        let ids: BTreeSet<&str> = records.iter().map(|record| text(record, "id")).collect();
        assert_eq!(ids.len(), records.len());
        if is_mounted {
            place.repo.unmount();
        }
    }
    assert_eq!(ranges[0], ranges[1]);
    let nothing = place.run(&["export", "--agent-trace", "now..now"]);
    assert_refused(&nothing, 2, "nothing between");
}

#[test]
fn agent_trace_without_git() {
    if !common::can_mount() {
        return;
    }
    let repo = MountedRepo::new(|dir| write(dir, "notes", "one\ntwo\n"));
    let program = repo.outside().join("codex");
    make_program("/bin/bash".as_ref(), &program);
    run(&program, repo.path(), "sh -c 'printf \"one\\nnew\\ntwo\\n\" > notes'; true");
    let output = repo.run(&["export", "--agent-trace"]);
    assert_ok(&output, "export");
    let files = valid(&serde_json::from_str(&out(&output)).expect("JSON"));
    let lines: Vec<_> = files["notes"].iter().map(|(line, (kind, ..))| (*line, kind.as_str())).collect();
    assert_eq!(lines, [(2, "ai")]);
    assert_refused(&repo.run(&["export", "--git-notes", "--branch", "x"]), 1, "not git's");
}
