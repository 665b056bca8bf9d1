//! A user's own agents: from the text of `agents.toml` to entries for the table, and what in it cannot be used.
//!
//! Pure: knows not where the text comes from. It is taken whole or not at all.

use serde::Deserialize;

use super::agents::{INTERPRETERS, SHELLS, stem};
use super::{MARK_BYTES, redact};

/// An agent as the user describes it, checked. With the id of one that is known it adds to that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub id: String,
    pub title: Option<String>,
    #[serde(default)]
    pub names: Vec<String>,
    #[serde(default)]
    pub packages: Vec<String>,
    #[serde(default)]
    marks: Vec<String>,
    pub session: Option<String>,
}

impl Entry {
    /// Variables, with the value if only one counts.
    pub fn marks(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.marks.iter().map(|mark| match mark.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (mark.as_str(), None),
        })
    }
}

/// Why the text is no table of agents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnError {
    #[error("line {line}: {why}: write it as TOML, an `[[agent]]` for each agent")]
    Text { line: usize, why: String },
    #[error("agent {at}{}: {wrong}", name(id))]
    Entry { at: usize, id: Option<String>, wrong: Wrong },
}

/// Why an agent cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("{0}: it has id, title, names, packages, marks and session")]
    Form(String),
    #[error("the id {0:?} cannot be used: take small letters and digits, and `-`, `_` or `.` between them, at most 64")]
    Id(String),
    #[error("there is one with this id above: make one of both")]
    Twice,
    #[error("the title {0:?} cannot be used: give one line of text, or none")]
    Title(String),
    #[error("nothing tells it: give names, packages or marks")]
    Nothing,
    #[error("the name {0:?} cannot be used: give the name of its program's file, without a directory")]
    Name(String),
    #[error(
        "other programs are called {0:?} as well: give a name that only the agent's program has, or packages or marks"
    )]
    CommonName(String),
    #[error("the package {0:?} cannot be used: give its directory, as in my-agent or @scope/my-agent")]
    Package(String),
    #[error("other programs are in {0:?} as well: give a directory that only the agent's package has")]
    CommonPackage(String),
    #[error("{0:?} is no variable: give NAME or, among marks, NAME=value")]
    Variable(String),
    #[error(
        "the variable {0:?} is there without the agent too: give one that only the agent sets, or among marks NAME=value"
    )]
    CommonVariable(String),
    #[error("the variable {0:?} sounds like a secret, and its value would be recorded: give another one")]
    Secret(String),
}

fn name(id: &Option<String>) -> String {
    id.as_ref().map(|id| format!(" ({id:?})")).unwrap_or_default()
}

/// What others than agents are called, beside shells and interpreters.
const COMMON: &[&str] = &[
    "git", "env", "sudo", "su", "login", "ssh", "sshd", "tmux", "screen", "systemd", "init", "tini", "cron", "make",
    "cmake", "ninja", "cargo", "rustc", "gcc", "cc", "clang", "go", "java", "npm", "pnpm", "yarn", "pip", "pipx",
    "poetry", "ruby", "perl", "php", "lua", "tsx", "pypy", "pypy3", "tcsh", "csh", "busybox", "cat", "ls", "cp", "mv",
    "rm", "sed", "awk", "grep", "rg", "find", "xargs", "tee", "sleep", "timeout", "vi", "vim", "nvim", "emacs", "nano",
    "code", "docker", "podman", "main", "index", "cli", "app", "run", "start", "regentfs",
];

/// Directories of which each has many programs.
const COMMON_DIRS: &[&str] = &[
    "bin",
    "sbin",
    "usr",
    "lib",
    "lib64",
    "libexec",
    "share",
    "local",
    "opt",
    "home",
    "root",
    "tmp",
    "var",
    "src",
    "dist",
    "build",
    "vendor",
    "target",
    "node_modules",
    "site-packages",
    "dist-packages",
    "versions",
    "python3",
];

/// Variables that nearly every process has.
const COMMON_VARIABLES: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "TERM",
    "COLORTERM",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "EDITOR",
    "VISUAL",
    "PAGER",
    "HOSTNAME",
    "DISPLAY",
    "MAIL",
    "CI",
    "_",
];

/// The agents in a text.
///
/// # Errors
/// What is wrong first, and what to do about it.
pub fn parse(text: &[u8]) -> Result<Vec<Entry>, OwnError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(default)]
        agent: Vec<toml::Table>,
    }
    let line = |at: usize| text.iter().take(at).filter(|&&b| b == b'\n').count() + 1;
    let utf8 = std::str::from_utf8(text)
        .map_err(|e| OwnError::Text { line: line(e.valid_up_to()), why: "this is no UTF-8".to_owned() })?;
    let file: File = toml::from_str(utf8).map_err(|e| {
        let why = e.message().replace('\n', ", ");
        OwnError::Text { line: line(e.span().map_or(0, |span| span.start)), why }
    })?;
    let mut entries: Vec<Entry> = Vec::new();
    for (at, table) in (1..).zip(file.agent) {
        let id = table.get("id").and_then(toml::Value::as_str).map(str::to_owned);
        let form = |e: toml::de::Error| Wrong::Form(e.message().replace('\n', ", "));
        let entry = table.try_into::<Entry>().map_err(form).and_then(|entry| {
            let twice = entries.iter().any(|other| other.id == entry.id);
            if twice { Err(Wrong::Twice) } else { check(&entry).map(|()| entry) }
        });
        entries.push(entry.map_err(|wrong| OwnError::Entry { at, id, wrong })?);
    }
    Ok(entries)
}

fn check(entry: &Entry) -> Result<(), Wrong> {
    let is_small = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let id = entry.id.as_bytes();
    let ends = [id.first(), id.last()].into_iter().all(|end| end.is_some_and(|&b| is_small(b)));
    if !ends || id.len() > 64 || !id.iter().all(|&b| is_small(b) || b"-_.".contains(&b)) {
        return Err(Wrong::Id(entry.id.clone()));
    }
    if let Some(title) = &entry.title
        && (title.trim().is_empty() || title.chars().any(char::is_control))
    {
        return Err(Wrong::Title(title.clone()));
    }
    if super::agents::AGENTS.iter().all(|known| known.id != entry.id)
        && entry.names.is_empty()
        && entry.packages.is_empty()
        && entry.marks.is_empty()
    {
        return Err(Wrong::Nothing);
    }
    entry.names.iter().try_for_each(|name| check_name(name))?;
    entry.packages.iter().try_for_each(|package| check_package(package))?;
    entry.marks().try_for_each(|(name, value)| check_variable(name, value))?;
    entry.session.iter().try_for_each(|name| check_variable(name, None))
}

fn check_name(name: &str) -> Result<(), Wrong> {
    if name.is_empty() || name.starts_with(['.', '-']) || name.contains(|c: char| c == '/' || c.is_control()) {
        return Err(Wrong::Name(name.to_owned()));
    }
    // `python3.12` is python as well.
    let plain = stem(name.as_bytes()).to_ascii_lowercase();
    if [INTERPRETERS, SHELLS, COMMON].into_iter().flatten().any(|common| common.as_bytes() == plain) {
        return Err(Wrong::CommonName(name.to_owned()));
    }
    Ok(())
}

fn check_package(package: &str) -> Result<(), Wrong> {
    let parts: Vec<&str> = package.split('/').collect();
    let is_part = |part: &&str| !part.is_empty() && !part.starts_with('.') && !part.contains(char::is_control);
    let scope_alone = parts.len() == 1 && package.starts_with('@');
    if parts.len() > 2 || !parts.iter().all(is_part) || scope_alone {
        return Err(Wrong::Package(package.to_owned()));
    }
    if parts.len() == 1 && COMMON_DIRS.contains(&package) {
        return Err(Wrong::CommonPackage(package.to_owned()));
    }
    Ok(())
}

fn check_variable(name: &str, value: Option<&str>) -> Result<(), Wrong> {
    let is_word = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !is_word || name.starts_with(|c: char| c.is_ascii_digit()) || value.is_some_and(|v| v.len() > MARK_BYTES) {
        return Err(Wrong::Variable(name.to_owned()));
    }
    if redact::text(format!("{name}=x").as_bytes()).is_some() {
        return Err(Wrong::Secret(name.to_owned()));
    }
    let common =
        ["LC_", "XDG_", "SSH_"].iter().any(|prefix| name.starts_with(prefix)) || COMMON_VARIABLES.contains(&name);
    if common && value.is_none() {
        return Err(Wrong::CommonVariable(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(lines: &str) -> Result<Entry, OwnError> {
        parse(format!("[[agent]]\n{lines}").as_bytes()).map(|mut entries| entries.remove(0))
    }

    #[test]
    fn entries() {
        let entry =
            one("id = \"a.b\"\nnames = [\"ab.sh\"]\nmarks = [\"A\", \"B=1=2\", \"TERM=ab\"]\nsession = \"S\"").unwrap();
        assert_eq!((entry.id.as_str(), &entry.title, &entry.names[..]), ("a.b", &None, &["ab.sh".to_owned()][..]));
        let marks: Vec<_> = entry.marks().collect();
        assert_eq!(marks, [("A", None), ("B", Some("1=2")), ("TERM", Some("ab"))]);
        assert_eq!(parse(b""), Ok(Vec::new()));
        assert_eq!(parse(b"# nothing\n"), Ok(Vec::new()));
        // What is known is told already.
        assert!(one("id = \"codex\"\ntitle = \"Mine\"").is_ok());
        assert!(one("id = \"x\"\npackages = [\"x\", \"@s/x\"]").is_ok());
    }

    #[test]
    fn what_is_no_table_is_told_with_its_line() {
        for (text, line, says) in [
            (&b"[[agent]]\nid = \n"[..], 2, "TOML"),
            (b"\n[[agents]]\nid = \"x\"\n", 2, "agents"),
            (b"agent = 1\n", 1, "TOML"),
            (b"\n\n\xff", 3, "UTF-8"),
        ] {
            let error = parse(text).unwrap_err();
            let shown = error.to_string();
            assert!(matches!(error, OwnError::Text { line: at, .. } if at == line), "{shown}");
            assert!(shown.contains(says) && !shown.contains('\n'), "{shown}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_entry() {
        let wrong = |lines: &str| match one(lines) {
            Err(OwnError::Entry { at: 1, wrong, .. }) => wrong,
            other => panic!("{lines}: {other:?}"),
        };
        for id in ["", "A", "a b", "-a", "a-", "a/b", "ä", &"a".repeat(65)] {
            let lines = format!("id = {id:?}\nnames = [\"n\"]");
            assert_eq!(wrong(&lines), Wrong::Id(id.to_owned()));
        }
        let form = |lines| matches!(wrong(lines), Wrong::Form(_));
        assert!(
            form("id = \"x\"\nnmaes = []") && form("names = []") && form("id = 1") && form("id = \"x\"\nnames = \"n\"")
        );
        assert_eq!(wrong("id = \"x\"\nsession = \"S\""), Wrong::Nothing);
        assert_eq!(wrong("id = \"codex\"\ntitle = \" \""), Wrong::Title(" ".to_owned()));
        let with = |key: &str, value: &str| wrong(&format!("id = \"x\"\n{key} = [{value:?}]"));
        for name in ["", "a/b", "/", ".", "-x"] {
            assert_eq!(with("names", name), Wrong::Name(name.to_owned()));
        }
        for name in ["sh", "bash", "git", "node", "python3", "python3.12", "Node", "npx"] {
            assert_eq!(with("names", name), Wrong::CommonName(name.to_owned()));
        }
        for package in ["", "/x", "x/", "a/b/c", "..", "a/..", "@scope"] {
            assert_eq!(with("packages", package), Wrong::Package(package.to_owned()));
        }
        assert_eq!(with("packages", "node_modules"), Wrong::CommonPackage("node_modules".to_owned()));
        for mark in ["", "=1", "A B", "1A", "A-B=1"] {
            let name = mark.split('=').next().unwrap();
            assert_eq!(with("marks", mark), Wrong::Variable(name.to_owned()));
        }
        for mark in ["PATH", "LC_ALL", "XDG_SESSION_ID"] {
            assert_eq!(with("marks", mark), Wrong::CommonVariable(mark.to_owned()));
        }
        assert_eq!(with("marks", "MY_API_KEY"), Wrong::Secret("MY_API_KEY".to_owned()));
        assert_eq!(with("marks", "MY_TOKEN=1"), Wrong::Secret("MY_TOKEN".to_owned()));
        let second = parse(b"[[agent]]\nid = \"x\"\nnames = [\"n\"]\n[[agent]]\nid = \"x\"\nnames = [\"m\"]\n");
        let shown = second.unwrap_err().to_string();
        assert!(shown.starts_with("agent 2 (\"x\"): "), "{shown}");
    }
}
