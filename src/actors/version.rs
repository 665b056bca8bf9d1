//! Which version of an agent a process runs: from the paths of its programs, and from the packages that these lie in.
//!
//! Knows agents, paths and a way to read; nothing of processes that run. What is not written down where a package has it stays unknown.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Actor;
use super::agents::{self, Agent};
use super::files::Files;

/// Directories above a program in which the package may begin.
const GENERATIONS: usize = 5;
/// Bytes of package.json that are read in all.
const PACKAGE_BYTES: usize = 256 << 10;
/// Bytes of a version.
const LONGEST: usize = 64;

/// The version of an agent, by a process that is it. Without `files` by its paths alone.
pub fn of(agent: &Agent, actor: &Actor, files: Option<&Files>) -> Option<Vec<u8>> {
    let exe = actor.exe.strip_suffix(b" (deleted)").unwrap_or(&actor.exe);
    let title = actor.argv.first().map(Vec::as_slice);
    let script = agents::script(&actor.exe, &actor.argv).map(|path| absolute(path, &actor.cwd));
    let called = title.filter(|title| title.contains(&b'/')).map(|path| absolute(path, &actor.cwd));
    let paths: Vec<PathBuf> = [script.clone(), Some(PathBuf::from(OsStr::from_bytes(exe))), called.clone()]
        .into_iter()
        .flatten()
        .filter(|path| path.is_absolute())
        .collect();
    if let Some(version) = paths.iter().find_map(|path| in_path(agent, path)) {
        return Some(version);
    }
    let files = files?;
    let mut left = PACKAGE_BYTES;
    for path in paths.iter().filter_map(|path| files.real(path)) {
        let found = in_path(agent, &path).or_else(|| of_npm(agent, &path, files, &mut left));
        if found.is_some() {
            return found;
        }
    }
    let is_python = |program: &[u8]| agents::file_name(program).starts_with(b"py");
    if !is_python(exe) && !title.is_some_and(is_python) {
        return None;
    }
    // The interpreter of an environment is a link to another one: where it lies counts, not where it leads.
    let environment = called.as_deref().and_then(Path::parent).and_then(|bin| files.real(bin));
    let script = script.and_then(|script| files.real(&script));
    of_python(agent, &Python { script, environment, interpreter: agents::file_name(exe) }, files)
}

fn absolute(path: &[u8], cwd: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(cwd)).join(OsStr::from_bytes(path))
}

/// A version as packages write it: a number with a point in it, and what may follow.
fn version(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_prefix(b"v").unwrap_or(text);
    let is_plain = text.iter().all(|b| b.is_ascii_alphanumeric() || b".-+_".contains(b));
    let numbered = text.first().is_some_and(u8::is_ascii_digit) && text.contains(&b'.');
    (is_plain && numbered && text.len() <= LONGEST).then(|| text.to_vec())
}

/// The version in `.../claude/versions/2.1.197/...`, `.../versions/2.1.197/claude` and `.../codex-1.2.3/...`.
fn in_path(agent: &Agent, path: &Path) -> Option<Vec<u8>> {
    let parts: Vec<&[u8]> = path.iter().map(OsStr::as_bytes).collect();
    let last_of = |package: &&'static str| package.rsplit('/').next().unwrap_or(package);
    let labels: Vec<&[u8]> = [agent.id]
        .into_iter()
        .chain(agent.names.iter().copied())
        .chain(agent.packages.iter().map(last_of))
        .map(str::as_bytes)
        .collect();
    let is_label = |part: &[u8]| labels.contains(&part.strip_prefix(b".").unwrap_or(part));
    parts.iter().enumerate().rev().find_map(|(at, part)| {
        let named = labels.iter().find_map(|label| version(part.strip_prefix(*label)?.strip_prefix(b"-")?));
        // Interpreters are kept like that as well: it has to be the agent's own.
        let above = at.checked_sub(1).and_then(|above| parts.get(above))?;
        let owner = at.checked_sub(2).and_then(|owner| parts.get(owner)).is_some_and(|owner| is_label(owner));
        let child = parts.get(at + 1).filter(|_| parts.len() == at + 2).is_some_and(|child| is_label(child));
        let kept = if *above == b"versions" && (owner || child) { version(part) } else { None };
        named.or(kept)
    })
}

/// The version in the first package.json above a program that is of one of the agent's packages.
fn of_npm(agent: &Agent, program: &Path, files: &Files, left: &mut usize) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
    }
    program.ancestors().skip(1).take(GENERATIONS).find_map(|dir| {
        let text = files.read(&dir.join("package.json"), *left)?;
        *left -= text.len();
        let package: Package = serde_json::from_slice(&text).ok()?;
        agent.packages.contains(&package.name.as_str()).then(|| version(package.version.as_bytes()))?
    })
}

/// Where a Python program is. Paths without symbolic links.
struct Python<'a> {
    script: Option<PathBuf>,
    /// The directory of the interpreter.
    environment: Option<PathBuf>,
    /// The interpreter's file name.
    interpreter: &'a [u8],
}

/// The version in the name of `<package>-<version>.dist-info`, beside the package or where a script of this place finds it.
fn of_python(agent: &Agent, place: &Python<'_>, files: &Files) -> Option<Vec<u8>> {
    let is_site = |dir: &&Path| dir.file_name().is_some_and(|name| name == "site-packages" || name == "dist-packages");
    let beside = place.script.iter().flat_map(|script| script.ancestors().find(is_site)).map(Path::to_owned);
    let bins = place.script.as_deref().and_then(Path::parent).into_iter().chain(place.environment.as_deref());
    let installed = bins.filter(|bin| bin.file_name().is_some_and(|name| name == "bin")).filter_map(Path::parent);
    let sites = installed.flat_map(|prefix| {
        let lib = prefix.join("lib");
        let mut pythons = files.names(&lib);
        pythons.retain(|name| name.as_bytes().starts_with(b"py"));
        // That of the interpreter before those of others.
        pythons.sort_by_key(|name| (name.as_bytes() != place.interpreter, name.clone()));
        pythons.into_iter().flat_map(move |python| {
            let of = lib.join(python);
            [of.join("site-packages"), of.join("dist-packages")]
        })
    });
    beside.chain(sites).find_map(|site| {
        let names = files.names(&site);
        agent.packages.iter().find_map(|package| names.iter().find_map(|name| in_dist_info(package, name.as_bytes())))
    })
}

/// Of `aider_chat-0.86.1.dist-info` and the package `aider-chat`, the version.
fn in_dist_info(package: &str, name: &[u8]) -> Option<Vec<u8>> {
    let name = name.strip_suffix(b".dist-info")?;
    let dash = name.iter().rposition(|&b| b == b'-')?;
    // Names of Python packages are the same whatever their case, and whichever of these characters they have.
    let plain = |name: &[u8]| -> Vec<u8> {
        name.iter().map(|&b| if b"-_.".contains(&b) { b'_' } else { b.to_ascii_lowercase() }).collect()
    };
    (plain(name.get(..dash)?) == plain(package.as_bytes())).then(|| version(name.get(dash + 1..)?))?
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::codec::sample;
    use super::*;

    fn actor(exe: impl AsRef<Path>, argv: &[&Path]) -> Actor {
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        Actor {
            exe: bytes(exe.as_ref()),
            argv: argv.iter().map(|path| bytes(path)).collect(),
            cwd: b"/nowhere".to_vec(),
            ..sample()
        }
    }

    fn text(version: Option<Vec<u8>>) -> Option<String> {
        version.map(|version| String::from_utf8(version).unwrap())
    }

    fn agent(id: &str) -> &'static Agent {
        agents::AGENTS.iter().find(|agent| agent.id == id).unwrap()
    }

    #[test]
    fn versions_in_paths() {
        for (id, exe, expected) in [
            ("claude-code", "/home/a/.local/share/claude/versions/2.1.197", Some("2.1.197")),
            ("claude-code", "/home/a/.local/share/claude/versions/2.1.197 (deleted)", Some("2.1.197")),
            ("claude-code", "/home/a/.claude/versions/2.1.197/bin/claude", Some("2.1.197")),
            ("claude-code", "/opt/versions/v2.1.197/claude", Some("2.1.197")),
            ("cursor-cli", "/a/cursor-agent/versions/2025.09.18-7ae6800/node", Some("2025.09.18-7ae6800")),
            ("codex", "/opt/codex-1.2.3/bin/codex", Some("1.2.3")),
            ("codex", "/opt/codex-0.50.0-alpha.1/codex", Some("0.50.0-alpha.1")),
            ("codex", "/opt/codex-x86_64-unknown-linux-musl/codex", None),
            ("codex", "/usr/bin/codex", None),
            // Of the interpreter, or of something else.
            ("aider", "/home/a/.pyenv/versions/3.12.1/bin/aider", None),
            ("codex", "/home/a/.nvm/versions/node/v20.11.0/bin/codex", None),
            ("codex", "/opt/node-20.1.0/bin/codex", None),
            ("claude-code", "/home/a/claude/versions/latest/claude", None),
            ("claude-code", "/home/a/claude/versions/2/claude", None),
            ("claude-code", "", None),
            ("claude-code", "/", None),
        ] {
            assert_eq!(text(of(agent(id), &actor(exe, &[Path::new("x")]), None)).as_deref(), expected, "{exe}");
        }
        // What an interpreter runs, and the name by which a program of another user was called.
        let script = Path::new("/x/claude/versions/1.2.3/cli.js");
        assert_eq!(
            text(of(agent("claude-code"), &actor("/usr/bin/node", &[Path::new("node"), script]), None)).as_deref(),
            Some("1.2.3")
        );
        let called = Path::new("/x/codex-1.2.3/codex");
        assert_eq!(text(of(agent("codex"), &actor("", &[called]), None)).as_deref(), Some("1.2.3"));
    }

    #[test]
    fn versions_of_npm_packages() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let package = top.join("lib/node_modules/@openai/codex");
        let deep = package.join("vendor/x86_64/codex");
        fs::create_dir_all(&deep).unwrap();
        fs::create_dir(package.join("bin")).unwrap();
        fs::create_dir(top.join("bin")).unwrap();
        let (script, native) = (package.join("bin/codex.js"), deep.join("codex"));
        fs::write(&script, "").unwrap();
        fs::write(&native, "").unwrap();
        symlink("../lib/node_modules/@openai/codex/bin/codex.js", top.join("bin/codex")).unwrap();
        // One on the way that is not the agent's.
        fs::write(package.join("bin/package.json"), r#"{"type": "module"}"#).unwrap();
        fs::write(package.join("vendor/package.json"), r#"{"name": "other", "version": "7.7.7"}"#).unwrap();
        let write = |text: &str| fs::write(package.join("package.json"), text).unwrap();
        write(r#"{"name": "@openai/codex", "version": "0.50.0", "bin": {"codex": "bin/codex.js"}}"#);
        let files = Files::now().unwrap();
        let (node, codex) = (Path::new("/usr/bin/node"), agent("codex"));
        let link = top.join("bin/codex");
        let told = |actor: &Actor| text(of(codex, actor, Some(&files)));
        for program in [&script, &link] {
            assert_eq!(told(&actor(node, &[Path::new("node"), program])).as_deref(), Some("0.50.0"), "{program:?}");
        }
        assert_eq!(told(&actor(&native, &[Path::new("codex")])).as_deref(), Some("0.50.0"));
        assert_eq!(text(of(codex, &actor(&native, &[]), None)), None, "nothing may be read");
        // By a path from where it is.
        let relative = Actor {
            cwd: top.join("lib").into_os_string().into_encoded_bytes(),
            ..actor(node, &[Path::new("node"), Path::new("../bin/codex")])
        };
        assert_eq!(told(&relative).as_deref(), Some("0.50.0"));
        let other = actor(node, &[Path::new("node"), &script]);
        assert_eq!(text(of(agent("gemini-cli"), &other, Some(&files))), None, "of another package");
        // What lies in a mount is not looked at.
        let table = format!("36 35 0:40 / {} rw - fuse.regentfs regentfs:/x rw\n", package.display());
        assert_eq!(
            text(of(codex, &actor(node, &[Path::new("node"), &link]), Some(&Files::of(table.as_bytes())))),
            None
        );
        for bad in [
            r#"{"name": "@openai/codex"}"#,
            r#"{"name": "@openai/codex", "version": 1}"#,
            r#"{"name": "@openai/codex", "version": "new"}"#,
            r#"{"name": "@openai/codex", "version": "1.0\n"}"#,
            "{",
            "",
        ] {
            write(bad);
            assert_eq!(told(&other), None, "{bad}");
        }
        // Too much to read.
        let filler = " ".repeat(PACKAGE_BYTES);
        write(&format!(r#"{{"name": "@openai/codex", "version": "0.50.0"}}{filler}"#));
        assert_eq!(told(&other), None);
    }

    #[test]
    fn a_package_is_not_looked_for_further_up() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        fs::write(top.join("package.json"), r#"{"name": "@openai/codex", "version": "1.2.3"}"#).unwrap();
        fs::create_dir_all(top.join("1/2/3/4/5")).unwrap();
        let files = Files::now().unwrap();
        for (program, found) in [("1/2/3/4/codex", true), ("1/2/3/4/5/codex", false)] {
            let program = top.join(program);
            fs::write(&program, "").unwrap();
            assert_eq!(of(agent("codex"), &actor(&program, &[]), Some(&files)).is_some(), found, "{program:?}");
        }
    }

    #[test]
    fn versions_of_python_packages() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let venv = top.join("tools/aider-chat");
        let site = venv.join("lib/python3.12/site-packages");
        let older = venv.join("lib/python3.11/site-packages");
        fs::create_dir_all(site.join("aider")).unwrap();
        fs::create_dir_all(site.join("aider_chat-0.86.1.dist-info")).unwrap();
        fs::create_dir_all(site.join("aider_chat_extra-7.7.7.dist-info")).unwrap();
        fs::create_dir_all(older.join("aider_chat-0.10.0.dist-info")).unwrap();
        fs::create_dir_all(venv.join("bin")).unwrap();
        fs::create_dir_all(top.join("usr/bin")).unwrap();
        let (real, python) = (top.join("usr/bin/python3.12"), venv.join("bin/python"));
        fs::write(&real, "").unwrap();
        symlink(&real, &python).unwrap();
        let (script, main) = (venv.join("bin/aider"), site.join("aider/__main__.py"));
        fs::write(&script, "").unwrap();
        fs::write(&main, "").unwrap();
        let link = top.join("usr/bin/aider");
        symlink(&script, &link).unwrap();
        let files = Files::now().unwrap();
        let told = |argv: &[&Path]| text(of(agent("aider"), &actor(&real, argv), Some(&files)));
        let plain = Path::new("python3");
        let newer = Some("0.86.1".to_owned());
        assert_eq!(told(&[plain, &script]), newer);
        assert_eq!(told(&[plain, &link]), newer);
        assert_eq!(told(&[plain, &main]), newer);
        assert_eq!(told(&[&python, Path::new("-m"), Path::new("aider")]), newer);
        assert_eq!(told(&[plain, Path::new("-m"), Path::new("aider")]), None);
        assert_eq!(text(of(agent("aider"), &actor("/bin/bash", &[&script]), Some(&files))), None, "no Python");
        let other = text(of(agent("aider"), &actor(top.join("x/python3.11"), &[plain, &script]), Some(&files)));
        assert_eq!(other.as_deref(), Some("0.10.0"));
    }

    #[test]
    fn names_of_python_packages() {
        for (package, name, expected) in [
            ("aider-chat", "aider_chat-0.86.1.dist-info", Some("0.86.1")),
            ("aider-chat", "Aider.Chat-0.86.1.post2.dist-info", Some("0.86.1.post2")),
            ("aider", "aider_chat-0.86.1.dist-info", None),
            ("aider", "aider-0.1.egg-info", None),
            ("aider", "aider.dist-info", None),
            ("aider", "aider-x.dist-info", None),
        ] {
            assert_eq!(text(in_dist_info(package, name.as_bytes())).as_deref(), expected, "{name}");
        }
    }
}
