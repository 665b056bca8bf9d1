//! Which program is a coding agent: a table of what each is called, where it is installed, and what it sets in the environment of what it starts.
//!
//! Pure. A process is told by its own image, or by variables that only a child of the agent has: then its nearest ancestor without them
//! is the agent, whatever that is called. A name alone counts only where nothing else is called so.

use super::Actor;

/// A coding agent.
#[derive(Debug, PartialEq, Eq)]
pub struct Agent {
    /// As in `--json`; never changes its meaning.
    pub id: &'static str,
    pub title: &'static str,
    /// File names of its executable or script.
    names: &'static [&'static str],
    /// Directories in the path of its executable or script: npm and Python packages.
    packages: &'static [&'static str],
    /// Variables in the environment of what it starts, with the value if only one counts.
    marks: &'static [(&'static str, Option<&'static str>)],
    /// Of those, the one whose value is the name of its session.
    session: Option<&'static str>,
}

/// Those that are known.
pub const AGENTS: &[Agent] = &[
    Agent {
        id: "claude-code",
        title: "Claude Code",
        names: &["claude"],
        packages: &["@anthropic-ai/claude-code"],
        marks: &[("CLAUDECODE", Some("1"))],
        session: Some("CLAUDE_CODE_SESSION_ID"),
    },
    Agent {
        id: "codex",
        title: "Codex CLI",
        names: &["codex"],
        packages: &["@openai/codex"],
        marks: &[("CODEX_THREAD_ID", None), ("CODEX_SANDBOX", None)],
        session: Some("CODEX_THREAD_ID"),
    },
    Agent {
        id: "gemini-cli",
        title: "Gemini CLI",
        names: &["gemini"],
        packages: &["@google/gemini-cli"],
        marks: &[("GEMINI_CLI", Some("1"))],
        session: None,
    },
    Agent {
        id: "opencode",
        title: "OpenCode",
        names: &["opencode"],
        packages: &["opencode-ai"],
        marks: &[("OPENCODE", Some("1"))],
        session: None,
    },
    Agent {
        id: "cursor-cli",
        title: "Cursor CLI",
        names: &["cursor-agent"],
        packages: &["cursor-agent"],
        marks: &[("CURSOR_AGENT", Some("1"))],
        session: None,
    },
    Agent {
        id: "copilot-cli",
        title: "Copilot CLI",
        names: &["copilot"],
        packages: &["@github/copilot"],
        marks: &[("COPILOT_CLI", Some("1"))],
        session: None,
    },
    Agent {
        id: "aider",
        title: "aider",
        names: &["aider"],
        packages: &["aider-chat", "aider"],
        marks: &[],
        session: None,
    },
    Agent { id: "goose", title: "Goose", names: &["goose"], packages: &[], marks: &[], session: None },
    Agent {
        id: "amp",
        title: "Amp",
        names: &["amp"],
        packages: &["@sourcegraph/amp"],
        marks: &[("AGENT", Some("amp"))],
        session: Some("AMP_CURRENT_THREAD_ID"),
    },
    // Too short a name to be told by.
    Agent {
        id: "pi",
        title: "Pi",
        names: &[],
        packages: &["@mariozechner/pi-coding-agent"],
        marks: &[("PI_CODING_AGENT", None)],
        session: None,
    },
];

/// Programs that run a script, which is the first argument that is no option.
const INTERPRETERS: &[&str] = &["node", "nodejs", "bun", "deno", "python", "python3", "uv", "npx"];

/// How an agent was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The process itself is the agent.
    Image,
    /// The process was started by it.
    Environment,
}

/// The variables that are looked for in a process' environment.
pub fn variables() -> impl Iterator<Item = &'static str> {
    AGENTS.iter().flat_map(|agent| agent.marks.iter().map(|(name, _)| *name).chain(agent.session))
}

fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&b| b == b'/').next().unwrap_or(path)
}

/// A file name without the version or ending that it may have: `python3.12`, `claude.exe`, `codex.js`.
fn stem(path: &[u8]) -> &[u8] {
    let name = file_name(path);
    name.split(|&b| b == b'.').next().unwrap_or(name)
}

/// Whether a path goes through a directory (of one or two components).
fn is_through(path: &[u8], package: &str) -> bool {
    let wanted = [b"/", package.as_bytes(), b"/"].concat();
    path.windows(wanted.len()).any(|part| part == wanted)
}

impl Agent {
    /// Whether a program is this agent: its executable, or the script that an interpreter runs.
    fn is(&self, program: &[u8]) -> bool {
        let named = self.names.iter().any(|name| stem(program) == name.as_bytes());
        named || self.packages.iter().any(|package| is_through(program, package))
    }

    fn has_marked(&self, actor: &Actor) -> bool {
        self.marks.iter().any(|(name, value)| {
            actor.variable(name).is_some_and(|has| value.is_none_or(|value| has == value.as_bytes()))
        })
    }

    /// What it calls its session, in the environment of something that it started.
    pub fn session_of<'a>(&self, actor: &'a Actor) -> Option<&'a [u8]> {
        actor.variable(self.session?)
    }
}

/// The agent with an id.
pub fn by_id(id: &str) -> Option<&'static Agent> {
    AGENTS.iter().find(|agent| agent.id == id)
}

/// The agent that a process is, or that started it. What it is itself counts first: one agent may have started another.
pub fn recognise(actor: &Actor) -> Option<(&'static Agent, By)> {
    let is = |agent: &&Agent| programs(actor).any(|program| agent.is(program));
    let image = AGENTS.iter().find(is).map(|agent| (agent, By::Image));
    image.or_else(|| AGENTS.iter().find(|agent| agent.has_marked(actor)).map(|agent| (agent, By::Environment)))
}

/// What a shell was given to run, without what an agent wraps around it; `None` for what is no such shell.
pub fn asked(argv: &[Vec<u8>]) -> Option<Vec<u8>> {
    let (shell, rest) = argv.split_first()?;
    if ![&b"sh"[..], b"bash", b"zsh", b"dash"].contains(&stem(shell)) {
        return None;
    }
    let is_option = |arg: &&Vec<u8>| arg.first() == Some(&b'-') && arg.get(1) != Some(&b'-');
    let options: Vec<&Vec<u8>> = rest.iter().take_while(is_option).collect();
    if !options.iter().any(|option| option.contains(&b'c')) {
        return None;
    }
    let script = rest.get(options.len())?;
    Some(inner(script).unwrap_or_else(|| script.clone()))
}

/// Of what Claude Code hands to a shell, the command: it reads the user's settings before and asks for the directory afterwards.
fn inner(script: &[u8]) -> Option<Vec<u8>> {
    const BEFORE: &[u8] = b" && eval ";
    const AFTER: &[u8] = b" && pwd -P >| ";
    if !script.windows(SNAPSHOTS.len()).any(|part| part == SNAPSHOTS) {
        return None;
    }
    let from = script.windows(BEFORE.len()).position(|part| part == BEFORE)? + BEFORE.len();
    let to = script.windows(AFTER.len()).rposition(|part| part == AFTER)?;
    let quoted = script.get(from..to)?;
    unquoted(quoted.strip_suffix(b" < /dev/null").unwrap_or(quoted))
}

/// Where Claude Code keeps a user's shell settings.
const SNAPSHOTS: &[u8] = b"/shell-snapshots/snapshot-";

/// One word of a shell, without its quotes; `None` when it is none, or more than one.
fn unquoted(word: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut rest) = (Vec::with_capacity(word.len()), word.iter().copied());
    while let Some(byte) = rest.next() {
        match byte {
            b'\'' => loop {
                match rest.next()? {
                    b'\'' => break,
                    inside => out.push(inside),
                }
            },
            b'"' => loop {
                match rest.next()? {
                    b'"' => break,
                    b'\\' => match rest.next()? {
                        special @ (b'$' | b'`' | b'"' | b'\\') => out.push(special),
                        other => out.extend_from_slice(&[b'\\', other]),
                    },
                    b'$' | b'`' => return None,
                    inside => out.push(inside),
                }
            },
            b'\\' => out.push(rest.next()?),
            b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'<' | b'>' | b'(' | b')' | b'$' | b'`' => return None,
            plain => out.push(plain),
        }
    }
    Some(out)
}

/// What a process runs: its executable, the name that it goes by, and an interpreter's script.
fn programs(actor: &Actor) -> impl Iterator<Item = &[u8]> {
    let interpreter = [&actor.exe[..], actor.argv.first().map_or(&[][..], Vec::as_slice)]
        .into_iter()
        .any(|program| INTERPRETERS.iter().any(|name| stem(program) == name.as_bytes()));
    let script = actor.argv.iter().skip(1).find(|arg| arg.first() != Some(&b'-')).filter(|_| interpreter);
    let title = actor.argv.first().map(Vec::as_slice);
    [Some(&actor.exe[..]), title, script.map(Vec::as_slice)].into_iter().flatten().filter(|program| !program.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::codec::sample;
    use super::*;

    fn actor(exe: &str, argv: &[&str], marks: &[(&str, &str)]) -> Actor {
        let bytes = |text: &&str| text.as_bytes().to_vec();
        Actor {
            exe: bytes(&exe),
            argv: argv.iter().map(bytes).collect(),
            marks: marks.iter().map(|(name, value)| (bytes(name), bytes(value))).collect(),
            ..sample()
        }
    }

    fn told(exe: &str, argv: &[&str], marks: &[(&str, &str)]) -> Option<(&'static str, By)> {
        recognise(&actor(exe, argv, marks)).map(|(agent, by)| (agent.id, by))
    }

    #[test]
    fn agents_are_told_by_what_they_run() {
        let image = |id| Some((id, By::Image));
        assert_eq!(told("/usr/bin/node", &["node", "/usr/local/bin/claude", "-p", "hi"], &[]), image("claude-code"));
        // It gives itself that title.
        assert_eq!(told("/usr/bin/node", &["claude"], &[]), image("claude-code"));
        let script = "/home/ada/.npm/node_modules/@anthropic-ai/claude-code/cli.js";
        assert_eq!(told("/usr/bin/node", &["node", "--no-warnings", script], &[]), image("claude-code"));
        assert_eq!(told("/opt/codex/bin/codex", &["codex", "exec"], &[]), image("codex"));
        assert_eq!(told("/usr/bin/python3.12", &["python3", "/home/ada/.local/bin/aider"], &[]), image("aider"));
        let pi = "/usr/lib/node_modules/@mariozechner/pi-coding-agent/dist/cli.js";
        assert_eq!(told("/usr/bin/node", &["node", pi], &[]), image("pi"));
    }

    #[test]
    fn agents_are_told_by_what_they_set() {
        let by = |id| Some((id, By::Environment));
        assert_eq!(told("/bin/bash", &["bash", "-c", "ls"], &[("CLAUDECODE", "1")]), by("claude-code"));
        assert_eq!(told("/bin/bash", &["bash"], &[("CLAUDECODE", "0")]), None);
        assert_eq!(told("/bin/bash", &["bash"], &[("CODEX_THREAD_ID", "x")]), by("codex"));
        // One that another one started.
        assert_eq!(told("/usr/bin/codex", &["codex"], &[("CLAUDECODE", "1")]), Some(("codex", By::Image)));
        let shell = actor("/bin/bash", &["bash"], &[("CLAUDECODE", "1"), ("CLAUDE_CODE_SESSION_ID", "abc")]);
        assert_eq!(by_id("claude-code").unwrap().session_of(&shell), Some(&b"abc"[..]));
    }

    #[test]
    fn others_are_none() {
        for (exe, argv) in [
            ("/bin/bash", &["-bash"][..]),
            ("/usr/bin/vim", &["vim", "claude"]),
            ("/usr/bin/cat", &["cat", "/usr/lib/node_modules/@anthropic-ai/claude-code/cli.js"]),
            ("/usr/bin/python3", &["python3", "-m", "pi"]),
            ("/home/claude/bin/ls", &["ls"]),
            ("", &[]),
        ] {
            assert_eq!(told(exe, argv, &[]), None, "{exe} {argv:?}");
        }
    }

    #[test]
    fn what_a_shell_was_asked_for() {
        let asked = |argv: &[&str]| {
            let argv: Vec<Vec<u8>> = argv.iter().map(|arg| arg.as_bytes().to_vec()).collect();
            super::asked(&argv).map(|command| String::from_utf8(command).unwrap())
        };
        // As version 2.1.197 does it.
        let claude = |quoted: &str| {
            let before = "source /home/a/.claude/shell-snapshots/snapshot-bash-1-2.sh 2>/dev/null || true && shopt -u extglob 2>/dev/null || true";
            asked(&[
                "/bin/bash",
                "-c",
                &format!("{before} && eval {quoted} < /dev/null && pwd -P >| /tmp/claude-de15-cwd"),
            ])
        };
        assert_eq!(claude("true").as_deref(), Some("true"));
        assert_eq!(claude("'echo new > made.txt; ls'").as_deref(), Some("echo new > made.txt; ls"));
        let nested = r#"'python3 -c '"'"'import a; print(a.f())'"'"' && wc -l a.py'"#;
        assert_eq!(claude(nested).as_deref(), Some("python3 -c 'import a; print(a.f())' && wc -l a.py"));
        assert_eq!(claude("'a && pwd -P >| b'").as_deref(), Some("a && pwd -P >| b"));
        // What is quoted in a way that is not known stays as it is.
        assert!(claude("$(x)").unwrap().starts_with("source "));
        assert!(claude("'open").unwrap().starts_with("source "));
        assert_eq!(asked(&["bash", "-lc", "make test"]).as_deref(), Some("make test"));
        assert_eq!(asked(&["/bin/zsh", "-l", "-c", "ls"]).as_deref(), Some("ls"));
        for none in
            [&["bash", "script.sh"][..], &["bash"], &["make", "-c", "x"], &["sh", "-c"], &["bash", "--norc"], &[]]
        {
            assert_eq!(asked(none), None, "{none:?}");
        }
    }

    #[test]
    fn ids_are_different() {
        let mut ids: Vec<&str> = AGENTS.iter().map(|agent| agent.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), AGENTS.len());
    }
}
