//! Tests of both ways in which OpenCode keeps its sessions, with databases in all states that a writer leaves them in.

use std::fs;
use std::path::Path;

use rusqlite::{Connection, params};
use tempfile::TempDir;

use crate::transcripts::tests::{NOW, next};
use crate::transcripts::{Source, Tail};
use crate::types::Time;

const SCHEMA: &str = "
    CREATE TABLE session (id text PRIMARY KEY, project_id text NOT NULL, parent_id text, directory text NOT NULL, version text NOT NULL,
        time_created integer NOT NULL, time_updated integer NOT NULL);
    CREATE TABLE message (id text PRIMARY KEY, session_id text NOT NULL, time_created integer NOT NULL, time_updated integer NOT NULL, data text NOT NULL);
    CREATE TABLE part (id text PRIMARY KEY, message_id text NOT NULL, session_id text NOT NULL, time_created integer NOT NULL,
        time_updated integer NOT NULL, data text NOT NULL);
    CREATE INDEX part_message_id_idx ON part (message_id);";

const START: i64 = 1_700_000_000_000;

struct Kept {
    home: TempDir,
    db: Connection,
}

impl Kept {
    fn new(mode: &str) -> Kept {
        let home = TempDir::new().unwrap();
        // A name that is no URI.
        fs::create_dir(home.path().join("50% of?#")).unwrap();
        let db = Connection::open(home.path().join("50% of?#/opencode.db")).unwrap();
        db.pragma_update(None, "journal_mode", mode).unwrap();
        db.pragma_update(None, "synchronous", "off").unwrap();
        db.execute_batch(SCHEMA).unwrap();
        let kept = Kept { home, db };
        kept.session("s1", None);
        kept
    }

    fn session(&self, id: &str, parent: Option<&str>) {
        let row = "INSERT INTO session VALUES (?1, 'p', ?2, '/w', '1.2.0', 0, 0)";
        self.db.execute(row, params![id, parent]).unwrap();
    }

    fn message(&self, session: &str, id: &str, at: i64, data: &str) {
        let row = "INSERT INTO message VALUES (?1, ?2, ?3, ?3, ?4)";
        self.db.execute(row, params![id, session, START + at, data]).unwrap();
    }

    fn part(&self, message: &str, id: &str, at: i64, data: &str) {
        let row = "INSERT INTO part SELECT ?1, id, session_id, ?3, ?3, ?4 FROM message WHERE id = ?2
                   ON CONFLICT (id) DO UPDATE SET data = ?4, time_updated = ?3";
        self.db.execute(row, params![id, message, START + at, data]).unwrap();
    }

    fn asked(&self, session: &str, id: &str, text: &str) {
        let data =
            format!(r#"{{"role":"user","time":{{"created":{START}}},"model":{{"providerID":"a","modelID":"m"}}}}"#);
        self.message(session, id, 0, &data);
        self.part(id, &format!("{id}-0"), 0, r#"{"type":"text","text":"file","synthetic":true}"#);
        self.part(id, &format!("{id}-1"), 0, &serde_json::json!({ "type": "text", "text": text }).to_string());
    }

    fn answered(&self, session: &str, id: &str) {
        let data = r#"{"role":"assistant","parentID":"u1","modelID":"m","path":{"cwd":"/w/sub","root":"/w"},"time":{"created":1}}"#;
        self.message(session, id, 1, data);
    }

    fn source(&self) -> Source {
        Source::at("opencode", &self.home.path().join("50% of?#/opencode.db")).unwrap()
    }

    fn tail(&self) -> Tail {
        Tail::new(self.source())
    }

    fn names(&self) -> Vec<String> {
        names(&self.home.path().join("50% of?#"))
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn tool(tool: &str, status: &str, rest: &str) -> String {
    format!(r#"{{"type":"tool","callID":"x","tool":"{tool}","state":{{"status":"{status}",{rest}}}}}"#)
}

fn running(command: &str) -> String {
    tool("bash", "running", &format!(r#""input":{{"command":"{command}"}},"time":{{"start":{}}}"#, START + 3000))
}

#[test]
fn a_database_that_is_being_written() {
    for mode in ["wal", "delete"] {
        let kept = Kept::new(mode);
        let mut tail = kept.tail();
        assert_eq!(next(&mut tail), [] as [&str; 0], "{mode}");
        kept.asked("s1", "u1", "add it");
        kept.answered("s1", "a1");
        kept.part("a1", "p1", 1, r#"{"type":"step-start"}"#);
        kept.part("a1", "p2", 1, &tool("bash", "pending", r#""input":{},"raw":"""#));
        let before = kept.names();
        assert_eq!(next(&mut tail), ["session s1 /w 1.2.0 m", "prompt s1 u1 0.000 /w: add it"], "{mode}");
        kept.part("a1", "p2", 2, &running("make"));
        assert_eq!(next(&mut tail), ["call s1 p2 for u1 3.000 /w/sub bash: $ make"]);
        let time = format!(r#""time":{{"start":0,"end":{}}}"#, START + 5000);
        kept.part(
            "a1",
            "p2",
            3,
            &tool("bash", "completed", &format!(r#""input":{{}},"metadata":{{"exit":1}},{time}"#)),
        );
        let write = format!(r#""input":{{"filePath":"/w/n","content":"new"}},{time}"#);
        kept.part("a1", "p3", 4, &tool("write", "completed", &write));
        let edit = format!(r#""input":{{"filePath":"/w/n","oldString":"a","newString":"b"}},"error":"no",{time}"#);
        kept.part("a1", "p4", 4, &tool("edit", "error", &edit));
        assert_eq!(
            next(&mut tail),
            [
                "done s1 p2 5.000 failed Some(true)",
                "call s1 p3 for u1 -1700000000.000 /w/sub write: /w/n := new",
                "done s1 p3 5.000 failed Some(false)",
                "call s1 p4 for u1 -1700000000.000 /w/sub edit: /w/n a -> b",
                "done s1 p4 5.000 failed Some(true)",
            ]
        );
        assert_eq!(next(&mut tail), [] as [&str; 0]);
        assert_eq!(kept.names(), before, "{mode}");
        assert_eq!(tail.odd(), 0);
    }
}

#[test]
fn a_subagent_works_for_its_parents_prompt() {
    let kept = Kept::new("wal");
    kept.asked("s1", "u1", "add it");
    kept.session("s2", Some("s1"));
    kept.asked("s2", "u2", "look at it");
    kept.answered("s2", "a2");
    kept.part("a2", "p1", 1, &running("ls"));
    let items = next(&mut kept.tail());
    assert_eq!(items[2..], ["session s2 /w 1.2.0 m", "call s2 p1 for u1 3.000 /w/sub bash: $ ls"], "{items:?}");
}

#[test]
fn a_database_that_nobody_has_open() {
    let kept = Kept::new("wal");
    kept.asked("s1", "u1", "add it");
    let Kept { home, db } = kept;
    let dir = home.path().join("50% of?#");
    // As a writer leaves it that was killed: the log and its index are there.
    let killed = home.path().join("killed");
    fs::create_dir(&killed).unwrap();
    for name in names(&dir) {
        fs::copy(dir.join(&name), killed.join(&name)).unwrap();
    }
    db.close().unwrap();
    assert_eq!(names(&dir), ["opencode.db"]);
    for dir in [&dir, &killed] {
        let before = names(dir);
        let mut tail = Tail::new(Source::at("opencode", &dir.join("opencode.db")).unwrap());
        assert_eq!(next(&mut tail).last().map(String::as_str), Some("prompt s1 u1 0.000 /w: add it"), "{dir:?}");
        assert_eq!(tail.odd(), 0);
        assert_eq!(names(dir), before);
    }
}

#[test]
fn rows_that_are_gone_and_rows_with_their_numbers() {
    let kept = Kept::new("wal");
    let mut tail = kept.tail();
    kept.asked("s1", "u1", "one");
    kept.asked("s1", "u2", "two");
    assert_eq!(next(&mut tail).len(), 3);
    kept.db.execute("DELETE FROM part WHERE message_id = 'u2'", []).unwrap();
    kept.asked("s1", "u3", "three");
    kept.asked("s1", "u4", "four");
    assert_eq!(next(&mut tail), ["prompt s1 u3 0.000 /w: three", "prompt s1 u4 0.000 /w: four"]);
}

#[test]
fn what_is_long_ago_is_left_out() {
    let kept = Kept::new("wal");
    kept.message("s1", "u0", 0, r#"{"role":"user"}"#);
    for part in 0..15_000 {
        kept.part("u0", &format!("old{part}"), part, r#"{"type":"text","text":"old","ignored":true}"#);
    }
    kept.part("u0", "first", 0, r#"{"type":"text","text":"found"}"#);
    kept.asked("s1", "u1", "new");
    let since = Time::new(START / 1000 + 14, 0);
    let mut tail = Tail::new(Source { since, ..kept.source() });
    let items = next(&mut tail);
    assert!(items.contains(&"prompt s1 u1 0.000 /w: new".to_owned()), "{items:?}");
}

#[test]
fn what_is_no_database_gives_nothing() {
    for content in [&b""[..], b"text", b"SQLite format 3\0", &[0x55; 8192]] {
        let home = TempDir::new().unwrap();
        let path = home.path().join("opencode.db");
        fs::write(&path, content).unwrap();
        let mut tail = Tail::new(Source::at("opencode", &path).unwrap());
        assert_eq!(next(&mut tail), [] as [&str; 0]);
        assert_eq!(tail.read(NOW).unwrap(), []);
        assert!(tail.odd() <= 1);
        assert_eq!(names(home.path()), ["opencode.db"]);
    }
    // One that never ends.
    let home = TempDir::new().unwrap();
    let path = home.path().join("opencode.db");
    let db = Connection::open(&path).unwrap();
    let endless = SCHEMA.replace("TABLE part", "TABLE parts").replace("ON part", "ON parts")
        + "CREATE VIEW part AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id FROM n) SELECT id FROM n;";
    db.execute_batch(&endless).unwrap();
    let mut tail = Tail::new(Source::at("opencode", &path).unwrap());
    assert_eq!(next(&mut tail), [] as [&str; 0]);
}

#[test]
fn damage_does_no_harm() {
    let kept = Kept::new("delete");
    for number in 0..50 {
        kept.asked("s1", &format!("u{number:02}"), &"text ".repeat(100));
    }
    let path = kept.source().path;
    let good = fs::read(&path).unwrap();
    let mut random = 1_u64;
    for _ in 0..50 {
        let mut bytes = good.clone();
        for _ in 0..20 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (random >> 20) as usize % bytes.len();
            bytes[at] = (random >> 56) as u8;
        }
        fs::write(&path, &bytes).unwrap();
        let prompts = next(&mut kept.tail()).iter().filter(|item| item.starts_with("prompt")).count();
        assert!(prompts <= 50);
    }
}

#[test]
fn a_directory_of_an_older_version() {
    let home = TempDir::new().unwrap();
    let storage = home.path().join("storage");
    let write = |path: &str, content: &str| {
        let path = storage.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    write("session/p/s1.json", r#"{"id":"s1","directory":"/w","version":"0.9"}"#);
    write(
        "message/s1/m1.json",
        &format!(r#"{{"id":"m1","sessionID":"s1","role":"user","time":{{"created":{START}}}}}"#),
    );
    write("part/m1/p1.json", r#"{"id":"p1","messageID":"m1","type":"text","text":"add it"}"#);
    let answer =
        r#"{"id":"m2","sessionID":"s1","role":"assistant","modelID":"m","parentID":"m1","time":{"created":1}}"#;
    write("message/s1/m2.json", answer);
    write("part/m2/p2.json", &running("ls").replace(r#""callID""#, r#""id":"p2","callID""#));
    let mut tail = Tail::new(Source::at("opencode", &storage.join("message/s1")).unwrap());
    assert_eq!(
        next(&mut tail),
        [
            "session s1 /w 0.9 -",
            "prompt s1 m1 0.000 /w: add it",
            "session s1 /w 0.9 m",
            "call s1 p2 for m1 3.000 /w bash: $ ls",
        ]
    );
    let done = tool("bash", "completed", r#""input":{},"time":{"start":1,"end":2}"#);
    write("part/m2/p2.json", &done.replace(r#""callID""#, r#""id":"p2","callID""#));
    write("message/s1/m3.json", "{");
    assert_eq!(next(&mut tail), ["done s1 p2 -1700000000.002 failed Some(false)"]);
    assert_eq!(tail.odd(), 1);
}
