//! The borders that docs/ARCHITECTURE.md draws hold in the source, and the documents say what they have to.
//!
//! Looks at text only: it builds nothing, mounts nothing and knows no user.

use std::fs;
use std::path::{Path, PathBuf};

use regentfs::store::fault::POINTS;
use regentfs::types::Op;

/// The longest that a source file may get, in lines.
const LONGEST: usize = 600;

/// What each module may name of the others. What is not listed is deliberately absent.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("sys", &[]),
    ("clock", &["types"]),
    ("base", &["types"]),
    // `check` looks at the whole: the tree's rules and the event chain.
    ("store", &["clock", "overlay", "record", "types"]),
    ("overlay", &["base", "clock", "store", "types"]),
    ("record", &["overlay", "store", "types"]),
    // It gets a plan and knows nothing of where that comes from.
    ("apply", &["store", "types"]),
    ("actors", &["clock", "sys", "types"]),
    ("timeline", &["clock", "merge", "overlay", "query", "store", "types"]),
    ("engine", &["actors", "base", "clock", "overlay", "record", "store", "timeline", "transcripts", "types"]),
    ("fuse", &["engine", "overlay", "sys", "timeline", "types"]),
    ("query", &["actors", "store", "types"]),
    ("merge", &[]),
    ("blame", &["merge", "overlay", "query", "store", "types"]),
    // It reads what agents wrote, and does not know what becomes of it.
    ("transcripts", &["sys", "types"]),
    ("diff", &["base", "control", "merge", "overlay", "query", "store", "types"]),
    ("export", &["apply", "blame", "diff", "landing", "merge", "overlay", "query", "store", "timeline", "types"]),
    // It brings what apply knows nothing of together with what knows nothing of apply.
    ("landing", &["apply", "merge", "overlay", "store", "timeline", "types"]),
    (
        "control",
        &[
            "actors", "apply", "blame", "clock", "diff", "engine", "export", "fuse", "landing", "merge", "overlay",
            "query", "store", "timeline", "types",
        ],
    ),
    ("daemon", &["base", "clock", "control", "engine", "fuse", "overlay", "store", "sys", "timeline", "types"]),
    (
        "cli",
        &[
            "actors", "apply", "base", "clock", "control", "daemon", "diff", "engine", "export", "fuse", "overlay",
            "query", "record", "store", "timeline", "types",
        ],
    ),
];

const DOCS: &[&str] = &["README.md", "docs/ARCHITECTURE.md", "docs/SEMANTICS.md", "docs/FORMAT.md", "docs/JSON.md"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below src/: its path relative to src/, and its text.
fn sources() -> Vec<(PathBuf, String)> {
    let src = root().join("src");
    let mut pending = vec![src.clone()];
    let mut found = Vec::new();
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).expect("list src") {
            let path = entry.expect("list src").path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("read a source file");
                found.push((path.strip_prefix(&src).expect("below src").to_owned(), text));
            }
        }
    }
    assert!(found.len() > 30, "src/ is not there: {found:?}");
    found.sort();
    found
}

/// The code without comments and string literals: those may speak of anything.
fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let raw_hashes = |from: usize| {
        let hashes = bytes[from..].iter().take_while(|&&b| b == b'#').count();
        (bytes.get(from + hashes) == Some(&b'"')).then_some(hashes)
    };
    while at < bytes.len() {
        let rest = &text[at..];
        let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            at += rest.find("*/").map_or(rest.len(), |end| end + 2);
        } else if bytes[at] == b'r' && !word_before && raw_hashes(at + 1).is_some() {
            let hashes = raw_hashes(at + 1).expect("just seen");
            let start = at + 2 + hashes;
            let end = format!("\"{}", "#".repeat(hashes));
            at = text[start..].find(&end).map_or(text.len(), |e| start + e + end.len());
            out.push(' ');
        } else if bytes[at] == b'"' {
            at += 1;
            while at < bytes.len() && bytes[at] != b'"' {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            at += 1;
            out.push(' ');
        } else if bytes[at] == b'\'' {
            // A character, or a lifetime.
            let len = match rest[1..].chars().next() {
                Some('\\') => rest[2..].find('\'').map(|e| e + 3).filter(|&e| e <= 12),
                Some(c) => (rest[1 + c.len_utf8()..].starts_with('\'')).then_some(2 + c.len_utf8()),
                None => None,
            };
            at += match len {
                // The quote right after the backslash belongs to it.
                Some(_) if rest.starts_with("'\\''") => 4,
                Some(len) => len,
                None => 1,
            };
            out.push(' ');
        } else {
            let c = rest.chars().next().expect("not at the end");
            out.push(c);
            at += c.len_utf8();
        }
    }
    out
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == word)
}

/// The files outside `allowed` whose code has the word; a path ending in a slash allows all below it.
fn strangers(word: &str, allowed: &[&str]) -> Vec<PathBuf> {
    let is_allowed = |path: &Path| {
        allowed.iter().any(|a| match a.strip_suffix('/') {
            Some(dir) => path.starts_with(dir),
            None => path == Path::new(a),
        })
    };
    sources()
        .into_iter()
        .filter(|(path, text)| !is_allowed(path) && has_word(&code(text), word))
        .map(|(path, _)| path)
        .collect()
}

#[test]
fn the_scanner_sees_code_only() {
    let text = "// unsafe\nlet a = \"unsafe \\\" unsafe\"; /* unsafe */ let b = 'x'; let c = r#\"unsafe \" \"#;\n\
                fn f<'a>(x: &'a u8) -> char { '\"' }\nlet q = '\\''; let d = b\"\\\\\"; x();";
    assert!(!has_word(&code(text), "unsafe"), "{}", code(text));
    for word in ["b", "c", "f", "q", "d", "x"] {
        assert!(has_word(&code(text), word), "{word}: {}", code(text));
    }
    assert!(has_word(&code("let s = \"a\"; unsafe { x }"), "unsafe"));
    assert!(!has_word("unsafe_code", "unsafe"));
}

#[test]
fn only_fuse_names_fuser() {
    assert_eq!(strangers("fuser", &["fuse/"]), [] as [PathBuf; 0]);
}

#[test]
fn only_the_rocks_file_names_rocksdb() {
    assert_eq!(strangers("rocksdb", &["store/rocks.rs"]), [] as [PathBuf; 0]);
}

#[test]
fn only_sys_has_unsafe() {
    assert_eq!(strangers("unsafe", &["sys/", "fuse/uring/"]), [] as [PathBuf; 0]);
}

#[test]
fn only_the_clock_reads_the_clock() {
    for word in ["clock_gettime", "gettimeofday"] {
        assert_eq!(strangers(word, &["clock.rs"]), [] as [PathBuf; 0], "{word}");
    }
    for (path, text) in sources().iter().filter(|(path, _)| path != Path::new("clock.rs")) {
        let squeezed: String = code(text).split_whitespace().collect();
        for call in ["SystemTime::now", "Instant::now", "Utc::now", "Local::now"] {
            assert!(!squeezed.contains(call), "{}: {call}", path.display());
        }
    }
}

#[test]
fn modules_know_only_what_they_may() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let mut parts = path.iter().map(|p| p.to_str().expect("our names are UTF-8"));
        let module = parts.next().expect("not empty").trim_end_matches(".rs").to_owned();
        if ["lib", "main"].contains(&&*module) {
            continue;
        }
        let Some((_, allowed)) = MAY_KNOW.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{}: a module that MAY_KNOW does not have", path.display()));
            continue;
        };
        // Tests, at the end of a file or in one of their own, may build what they test on.
        if path.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        let code = code(&text);
        let code = code.split("mod tests {").next().unwrap_or_default();
        for (at, _) in code.match_indices("crate::") {
            let name: String = code[at + 7..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            if !name.is_empty() && name != module && !allowed.contains(&&*name) {
                wrong.push(format!("{}: names crate::{name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_owns_and_is_not_too_long() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if !text.starts_with("//! ") {
            wrong.push(format!("{}: does not begin with //!", path.display()));
        }
        let lines = text.lines().count();
        if lines > LONGEST {
            wrong.push(format!("{}: {lines} lines, at most {LONGEST}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_documents_are_there() {
    for name in DOCS {
        let text = fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(text.len() > 500, "{name} says nothing");
    }
}

#[test]
fn every_operation_is_documented() {
    let text = fs::read_to_string(root().join("docs/JSON.md")).expect("docs/JSON.md");
    let missing: Vec<_> = Op::ALL.iter().filter(|op| !text.contains(&format!("`{}`", op.name()))).collect();
    assert!(missing.is_empty(), "docs/JSON.md does not have {missing:?}");
}

#[test]
fn every_failpoint_is_documented() {
    let text = fs::read_to_string(root().join("docs/FORMAT.md")).expect("docs/FORMAT.md");
    let missing: Vec<_> = POINTS.iter().filter(|p| !text.contains(&format!("`{p}`"))).collect();
    assert!(missing.is_empty(), "docs/FORMAT.md does not have {missing:?}");
}
