//! Tests of reading as such: files that grow, shrink, are replaced or make no sense. What each agent writes is tested beside its reader.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// What `now` is in tests.
pub(super) const NOW: Time = Time { secs: 2_000_000_000, nanos: 0 };

/// A transcript at a path in a directory of its own.
pub(super) struct Written {
    pub(super) home: TempDir,
    pub(super) path: PathBuf,
}

impl Written {
    pub(super) fn new(path: &str, content: impl AsRef<[u8]>) -> Written {
        let home = TempDir::new().unwrap();
        let path = home.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        Written { home, path }
    }

    pub(super) fn append(&self, content: impl AsRef<[u8]>) {
        OpenOptions::new().append(true).open(&self.path).unwrap().write_all(content.as_ref()).unwrap();
    }

    pub(super) fn tail(&self, agent: &str) -> Tail {
        Tail::new(Source::at(agent, &self.path).unwrap())
    }

    /// Replaces it as programs do that want all or nothing.
    fn replace(&self, content: impl AsRef<[u8]>) {
        let new = self.path.with_extension("new");
        fs::write(&new, content).unwrap();
        fs::rename(new, &self.path).unwrap();
    }
}

/// All that there is, in short, and how much was odd.
pub(super) fn read(agent: &str, path: &str, content: impl AsRef<[u8]>) -> (Vec<String>, u64) {
    let written = Written::new(path, content);
    let mut tail = written.tail(agent);
    (next(&mut tail), tail.odd())
}

pub(super) fn next(tail: &mut Tail) -> Vec<String> {
    let mut items = tail.read(NOW).unwrap();
    while tail.is_behind() {
        items.extend(tail.read(NOW).unwrap());
    }
    items.iter().map(brief).collect()
}

fn brief(item: &Item) -> String {
    let shown = |path: &Option<PathBuf>| path.as_ref().map_or("-".to_owned(), |path| path.display().to_string());
    let or = |text: &Option<String>| text.clone().unwrap_or("-".to_owned());
    let when = |at: &Option<Time>| match at {
        Some(NOW) => "now".to_owned(),
        Some(at) => format!("{}.{:03}", at.secs - 1_700_000_000, at.nanos / 1_000_000),
        None => "-".to_owned(),
    };
    let utf8 = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    match item {
        Item::Session { session, cwd, version, model } => {
            format!("session {session} {} {} {}", shown(cwd), or(version), or(model))
        }
        Item::Prompt { session, id, at, cwd, text } => {
            format!("prompt {session} {id} {} {}: {text}", when(at), shown(cwd))
        }
        Item::Call { session, id, prompt, at, cwd, tool, what } => {
            let what = match what {
                What::Command(command) => format!("$ {command}"),
                What::Write { path, content } => format!("{} := {}", path.display(), utf8(content)),
                What::Edit { path, old, new } => format!("{} {} -> {}", path.display(), utf8(old), utf8(new)),
                What::Read { path } => format!("< {}", path.display()),
                What::Other => "other".to_owned(),
            };
            format!("call {session} {id} for {} {} {} {tool}: {what}", or(prompt), when(at), shown(cwd))
        }
        Item::Done { session, id, at, failed } => format!("done {session} {id} {} failed {failed:?}", when(at)),
    }
}

/// Copilot's: the least around it.
fn prompt(id: &str, text: &str) -> String {
    let record = serde_json::json!({ "type": "user.message", "id": id, "data": { "content": text } });
    format!("{record}\n")
}

fn prompts(items: &[String]) -> Vec<&str> {
    items.iter().filter_map(|item| item.strip_prefix("prompt events ")).collect()
}

const PLACE: &str = "session-state/events.jsonl";

fn written(content: impl AsRef<[u8]>) -> (Written, Tail) {
    let written = Written::new("session-state/events/events.jsonl", content);
    let tail = written.tail("copilot-cli");
    (written, tail)
}

#[test]
fn a_line_counts_when_it_is_whole() {
    let (first, second) = (prompt("1", "one"), prompt("2", "two"));
    let (written, mut tail) = written(format!("{first}{}", &second[..20]));
    assert_eq!(prompts(&next(&mut tail)), ["1 - -: one"]);
    assert_eq!(next(&mut tail), [] as [&str; 0]);
    written.append(&second[20..second.len() - 1]);
    assert_eq!(next(&mut tail), [] as [&str; 0]);
    written.append("\n\n  \n");
    assert_eq!(prompts(&next(&mut tail)), ["2 - -: two"]);
    assert_eq!(tail.odd(), 0);
}

#[test]
fn a_file_that_was_cut_is_read_again() {
    let (written, mut tail) = written(prompt("1", "one") + &prompt("2", "two"));
    assert_eq!(next(&mut tail).len(), 2);
    File::create(&written.path).unwrap().write_all(prompt("1", "one").as_bytes()).unwrap();
    assert_eq!(next(&mut tail), [] as [&str; 0]);
    written.append(prompt("3", "three"));
    assert_eq!(prompts(&next(&mut tail)), ["3 - -: three"]);
    // Written anew under the same inode, and longer than before.
    fs::write(&written.path, prompt("4", "four").repeat(3) + &prompt("1", "one")).unwrap();
    assert_eq!(prompts(&next(&mut tail)), ["4 - -: four"]);
    assert_eq!(tail.odd(), 0);
}

#[test]
fn a_file_that_was_replaced_is_read_again() {
    let (written, mut tail) = written(prompt("1", "one") + "{\"half");
    assert_eq!(next(&mut tail).len(), 1);
    fs::remove_file(&written.path).unwrap();
    assert_eq!(tail.read(NOW).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    written.replace(prompt("2", "two") + &prompt("1", "one") + &prompt("3", "three"));
    assert_eq!(prompts(&next(&mut tail)), ["2 - -: two", "3 - -: three"]);
    assert_eq!(tail.odd(), 0);
}

#[test]
fn bytes_that_are_no_text_are_replaced() {
    let mut content = b"\xef\xbb\xbf".to_vec();
    content.extend_from_slice(prompt("1", "one").as_bytes());
    content.extend_from_slice(b"\0\0\0");
    content.extend_from_slice(prompt("2", "t\u{1}o").replace("\\u0001", "\u{1}").as_bytes());
    content.extend_from_slice(prompt("3", "thrXee").as_bytes());
    content.extend_from_slice(prompt("4", "fo\u{fffd}").replace('\u{fffd}', "\\ud83d").as_bytes());
    let at = content.windows(6).position(|part| part == b"thrXee").unwrap() + 3;
    content[at] = 0xff;
    let (_written, mut tail) = written(content);
    assert_eq!(prompts(&next(&mut tail)), ["1 - -: one", "3 - -: thr\u{fffd}ee", "4 - -: fo\u{fffd}"]);
    // A control character is no JSON.
    assert_eq!(tail.odd(), 1);
}

#[test]
fn what_is_no_record_is_counted() {
    let deep = "[".repeat(100_000);
    let odd =
        ["{", "[]", "\"x\"", "{}", "{\"type\":1,\"data\":{}}", "null", "1e999", &deep, "{\"type\":\"user.message\"}"];
    let content = odd.join("\r\n") + "\n" + &prompt("1", "one");
    let (_written, mut tail) = written(content);
    assert_eq!(prompts(&next(&mut tail)), ["1 - -: one"]);
    assert_eq!(tail.odd(), odd.len() as u64);
}

#[test]
fn a_line_of_many_megabytes_comes_in_parts() {
    let (_written, mut tail) = written(prompt("1", &"x".repeat(20 << 20)) + &prompt("2", "two"));
    assert_eq!(tail.read(NOW).unwrap(), []);
    assert!(tail.is_behind());
    let items = tail.read(NOW).unwrap();
    assert!(!tail.is_behind());
    assert!(matches!(&items[0], Item::Prompt { text, .. } if text.len() == 20 << 20), "{}", items.len());
    assert_eq!(items.len(), 2);
}

#[test]
fn a_line_that_is_too_long_is_skipped() {
    let (written, mut tail) = written("");
    let file = OpenOptions::new().append(true).open(&written.path).unwrap();
    file.set_len(files::LONGEST as u64 + 10).unwrap();
    written.append(format!("\n{}", prompt("1", "one")));
    assert_eq!(prompts(&next(&mut tail)), ["1 - -: one"]);
    assert_eq!(tail.odd(), 1);
}

#[test]
fn only_regular_files_are_opened() {
    let (written, mut tail) = written(prompt("1", "one"));
    let aside = written.home.path().join("aside");
    fs::rename(&written.path, &aside).unwrap();
    symlink(&aside, &written.path).unwrap();
    assert_eq!(tail.read(NOW).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    fs::remove_file(&written.path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &written.path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert_eq!(tail.read(NOW).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    fs::remove_file(&written.path).unwrap();
    fs::rename(&aside, &written.path).unwrap();
    assert_eq!(prompts(&next(&mut tail)), ["1 - -: one"]);
}

#[test]
fn transcripts_are_found_where_they_are_kept() {
    let home = TempDir::new().unwrap();
    let all = [
        ".claude/projects/-w/a.jsonl",
        ".claude/projects/-w/a/subagents/agent-1.jsonl",
        ".config/claude/projects/-w/b.jsonl",
        "codex/sessions/2026/01/02/rollout-2026-01-02T03-04-05-x.jsonl",
        "codex/archived_sessions/rollout-y.jsonl.zst",
        ".gemini/tmp/p/chats/session-1.jsonl",
        ".gemini/tmp/p/chats/session-0.json",
        ".local/share/opencode/opencode.db",
        ".cursor/projects/w/agent-transcripts/u/u.jsonl",
        ".copilot/session-state/s/events.jsonl",
        ".copilot/session-state/old.jsonl",
    ];
    let others = [
        ".claude/history.jsonl",
        ".claude/projects/-w/a/tool-results/agent-1.jsonl",
        ".claude/projects/-w/memory.md",
        "codex/sessions/2026/01/02/rollout-2026-01-02T03-04-05-x.jsonl.zst",
        ".gemini/tmp/p/logs.json",
        ".gemini/tmp/p/chats/notes.json",
        ".copilot/session-state/s/workspace.yaml",
    ];
    for path in all.iter().chain(&others) {
        let path = home.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    // Never through a link below.
    symlink(home.path().join(".claude/projects/-w"), home.path().join(".claude/projects/-link")).unwrap();
    symlink("a.jsonl", home.path().join(".claude/projects/-w/link.jsonl")).unwrap();
    let homes = Homes {
        home: home.path().to_owned(),
        variables: vec![
            ("CODEX_HOME".to_owned(), home.path().join("codex")),
            ("XDG_DATA_HOME".to_owned(), "relative".into()),
        ],
    };
    let found = |agents: &[&str], since| -> Vec<String> {
        let names = find(&homes, agents, since).into_iter().map(|source| source.path);
        let mut names: Vec<String> =
            names.map(|path| path.strip_prefix(home.path()).unwrap().display().to_string()).collect();
        names.sort();
        names
    };
    let mut expected: Vec<&str> = all.to_vec();
    expected.sort_unstable();
    assert_eq!(found(KNOWN, Time::default()), expected);
    let chats = [".gemini/tmp/p/chats/session-0.json", ".gemini/tmp/p/chats/session-1.jsonl"];
    assert_eq!(found(&["gemini-cli", "aider", "nobody"], Time::default()), chats);
    assert_eq!(found(KNOWN, NOW), [] as [&str; 0]);

    let old = File::options().write(true).open(home.path().join(all[0])).unwrap();
    old.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000)).unwrap();
    let sources = find(&homes, &["claude-code"], Time::default());
    assert_eq!(sources.last().map(|source| source.modified), Some(Time::new(1_000_000, 0)));
    assert_eq!(find(&homes, &["claude-code"], Time::new(1_000_001, 0)).len(), 2);
}

#[test]
fn the_agents_are_those_that_are_told_from_processes() {
    for agent in KNOWN {
        assert!(crate::actors::agents::by_id(agent).is_some(), "{agent}");
    }
    assert!(Source::at("aider", Path::new("/a/x.jsonl")).is_none());
    assert!(Source::at("codex", Path::new("/a/x.txt")).is_none());
}

#[test]
fn a_tail_can_go_to_another_thread() {
    fn can_go<T: Send>() {}
    can_go::<Tail>();
}

/// A good transcript of each agent, where it would be, and how many records of users it has.
fn good() -> Vec<(&'static str, &'static str, &'static str, usize)> {
    vec![
        ("claude-code", "projects/-w/s.jsonl", claude::SAMPLE, 9),
        ("codex", "sessions/rollout-2026-01-02T03-04-05-11111111-2222-3333-4444-555555555555.jsonl", codex::SAMPLE, 6),
        ("gemini-cli", "tmp/p/chats/session-1.jsonl", gemini::SAMPLE, 6),
        ("gemini-cli", "tmp/p/chats/session-1.json", gemini::WHOLE, 1),
        ("cursor-cli", "projects/w/u.jsonl", cursor::SAMPLE, 3),
        ("copilot-cli", PLACE, copilot::SAMPLE, 3),
    ]
}

/// Reads all of it in steps, and gives how many prompts there are.
fn count(agent: &str, path: &str, steps: &[&[u8]]) -> usize {
    let written = Written::new(path, "");
    let mut tail = written.tail(agent);
    let mut prompts = 0;
    for step in steps {
        written.append(step);
        let items = next(&mut tail);
        prompts += items.iter().filter(|item| item.starts_with("prompt ")).count();
    }
    prompts
}

/// One change of some bytes: where (of 10,000), how many go, what comes.
fn change() -> impl Strategy<Value = (usize, usize, Vec<u8>)> {
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..6),
        proptest::sample::select(vec![&b"\n"[..], b"\"", b"{", b"}]", b",null", b"\\ud800", b"[[[[", b"-1", b"\xff"])
            .prop_map(<[u8]>::to_vec),
    ];
    (0..10_000_usize, 0..40_usize, bytes)
}

fn changed(good: &[u8], changes: &[(usize, usize, Vec<u8>)]) -> Vec<u8> {
    let mut content = good.to_vec();
    for (at, gone, new) in changes {
        let at = at * content.len() / 10_000;
        let end = (at + gone).min(content.len());
        content.splice(at..end, new.iter().copied());
    }
    content
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_no_prompts(bytes in proptest::collection::vec(any::<u8>(), 0..400), which in 0..6_usize) {
        let (agent, path, ..) = good()[which];
        prop_assert_eq!(count(agent, path, &[&bytes, b"\n"]), 0);
    }

    #[test]
    fn a_damaged_transcript_has_no_more_prompts(
        changes in proptest::collection::vec(change(), 1..12),
        which in 0..6_usize,
        cut in 0..10_000_usize,
    ) {
        let (agent, path, good, users) = good()[which];
        let content = changed(good.as_bytes(), &changes);
        let (one, two) = content.split_at(cut * content.len() / 10_000);
        prop_assert!(count(agent, path, &[one, two, b"\n"]) <= users);
    }

    #[test]
    fn a_damaged_archive_gives_what_can_be_decoded(
        changes in proptest::collection::vec(change(), 0..4),
        cut in 0..10_000_usize,
    ) {
        let packed = ruzstd::encoding::compress_to_vec(codex::SAMPLE.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
        let content = changed(&packed, &changes);
        let part = &content[..cut * content.len() / 10_000];
        prop_assert!(count("codex", "rollout-x.jsonl.zst", &[part]) <= 6);
    }
}
