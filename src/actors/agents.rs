//! Which program is a coding agent: a table of what each is called, where it is installed, and what it sets in the environment of what it starts.
//!
//! Pure but for the table, which a user may add to once (`own.rs`). A process is told by its own image, or by variables that only a child of the agent has: then its nearest ancestor without them
//! is the agent, whatever that is called. A name alone counts only where nothing else is called so.

use std::sync::OnceLock;

use super::Actor;
use super::own::Entry;

/// A coding agent.
#[derive(Debug, PartialEq, Eq)]
pub struct Agent {
    /// As in `--json`; never changes its meaning.
    pub id: &'static str,
    pub title: &'static str,
    /// File names of its executable or script.
    pub(super) names: &'static [&'static str],
    /// Directories in the path of its executable or script: npm and Python packages.
    pub(super) packages: &'static [&'static str],
    /// Variables in the environment of what it starts, with the value if only one counts.
    marks: &'static [(&'static str, Option<&'static str>)],
    /// Those whose value is the name of its session; the first one that is there.
    session: &'static [&'static str],
}

/// Those that are known to everybody; [`table`] has a user's own as well.
pub const AGENTS: &[Agent] = &[
    Agent {
        id: "claude-code",
        title: "Claude Code",
        names: &["claude"],
        packages: &["@anthropic-ai/claude-code"],
        marks: &[("CLAUDECODE", Some("1"))],
        session: &["CLAUDE_CODE_SESSION_ID"],
    },
    Agent {
        id: "codex",
        title: "Codex CLI",
        names: &["codex"],
        packages: &["@openai/codex"],
        marks: &[("CODEX_THREAD_ID", None), ("CODEX_SANDBOX", None)],
        session: &["CODEX_THREAD_ID"],
    },
    Agent {
        id: "gemini-cli",
        title: "Gemini CLI",
        names: &["gemini"],
        packages: &["@google/gemini-cli"],
        marks: &[("GEMINI_CLI", Some("1"))],
        session: &[],
    },
    Agent {
        id: "opencode",
        title: "OpenCode",
        names: &["opencode"],
        packages: &["opencode-ai"],
        marks: &[("OPENCODE", Some("1"))],
        session: &[],
    },
    Agent {
        id: "cursor-cli",
        title: "Cursor CLI",
        names: &["cursor-agent"],
        packages: &["cursor-agent"],
        marks: &[("CURSOR_AGENT", Some("1"))],
        session: &[],
    },
    Agent {
        id: "copilot-cli",
        title: "Copilot CLI",
        names: &["copilot"],
        packages: &["@github/copilot"],
        marks: &[("COPILOT_CLI", Some("1"))],
        session: &[],
    },
    Agent {
        id: "aider",
        title: "aider",
        names: &["aider"],
        packages: &["aider-chat", "aider"],
        marks: &[],
        session: &[],
    },
    Agent { id: "goose", title: "Goose", names: &["goose"], packages: &[], marks: &[], session: &[] },
    Agent {
        id: "amp",
        title: "Amp",
        names: &["amp"],
        packages: &["@sourcegraph/amp"],
        marks: &[("AGENT", Some("amp"))],
        session: &["AMP_CURRENT_THREAD_ID"],
    },
    // Too short a name to be told by.
    Agent {
        id: "pi",
        title: "Pi",
        names: &[],
        packages: &["@mariozechner/pi-coding-agent"],
        marks: &[("PI_CODING_AGENT", None)],
        session: &[],
    },
];

/// Programs that run a script, which is the first argument that is no option.
pub(super) const INTERPRETERS: &[&str] = &["node", "nodejs", "bun", "deno", "python", "python3", "uv", "npx"];

/// Programs that do so as well, but whose first argument may be a command.
pub(super) const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "fish"];

static TABLE: OnceLock<Vec<Agent>> = OnceLock::new();

/// All agents: a user's own first, then [`AGENTS`] with what the user added to them.
pub fn table() -> &'static [Agent] {
    TABLE.get().map_or(AGENTS, Vec::as_slice)
}

/// Adds a user's own. Once, before anything is told apart by the table: later calls do nothing.
pub fn extend(own: &[Entry]) {
    let _ = TABLE.set(extended(own));
}

/// What [`extend`] makes the table. It lives as long as the program, and so do its texts.
fn extended(own: &[Entry]) -> Vec<Agent> {
    fn leak(text: &str) -> &'static str {
        text.to_owned().leak()
    }
    fn both<T: Copy>(own: impl Iterator<Item = T>, known: &[T]) -> &'static [T] {
        own.chain(known.iter().copied()).collect::<Vec<T>>().leak()
    }
    let texts = |list: &[String], known| both(list.iter().map(|text| leak(text)), known);
    let join = |own: &Entry, known: Option<&Agent>| Agent {
        id: leak(&own.id),
        title: own.title.as_deref().map_or(known.map_or(leak(&own.id), |known| known.title), leak),
        names: texts(&own.names, known.map_or(&[], |known| known.names)),
        packages: texts(&own.packages, known.map_or(&[], |known| known.packages)),
        marks: both(
            own.marks().map(|(name, value)| (leak(name), value.map(leak))),
            known.map_or(&[], |known| known.marks),
        ),
        session: both(own.session.iter().map(|name| leak(name)), known.map_or(&[], |known| known.session)),
    };
    let is_known = |own: &&Entry| AGENTS.iter().any(|known| known.id == own.id);
    let known = AGENTS.iter().map(|known| match own.iter().find(|own| own.id == known.id) {
        Some(own) => join(own, Some(known)),
        None => Agent { ..*known },
    });
    own.iter().filter(|own| !is_known(own)).map(|own| join(own, None)).chain(known).collect()
}

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
    table().iter().flat_map(|agent| agent.marks.iter().map(|(name, _)| *name).chain(agent.session.iter().copied()))
}

pub(super) fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&b| b == b'/').next().unwrap_or(path)
}

/// A file name without the version or ending that it may have: `python3.12`, `claude.exe`, `codex.js`.
pub(super) fn stem(path: &[u8]) -> &[u8] {
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
        let called = [stem(program), file_name(program)];
        let named = self.names.iter().any(|name| called.contains(&name.as_bytes()));
        named || self.packages.iter().any(|package| is_through(program, package))
    }

    fn has_marked(&self, actor: &Actor) -> bool {
        self.marks.iter().any(|(name, value)| {
            actor.variable(name).is_some_and(|has| value.is_none_or(|value| has == value.as_bytes()))
        })
    }

    /// What it calls its session, in the environment of something that it started.
    pub fn session_of<'a>(&self, actor: &'a Actor) -> Option<&'a [u8]> {
        self.session.iter().find_map(|name| actor.variable(name))
    }
}

/// The agent with an id.
pub fn by_id(id: &str) -> Option<&'static Agent> {
    table().iter().find(|agent| agent.id == id)
}

/// The agent that a process is, or that started it. What it is itself counts first: one agent may have started another.
pub fn recognise(actor: &Actor) -> Option<(&'static Agent, By)> {
    recognise_in(table(), actor)
}

fn recognise_in<'t>(table: &'t [Agent], actor: &Actor) -> Option<(&'t Agent, By)> {
    let image = image_in(table, &actor.exe, &actor.argv).map(|agent| (agent, By::Image));
    image.or_else(|| table.iter().find(|agent| agent.has_marked(actor)).map(|agent| (agent, By::Environment)))
}

/// The agent that a process is, by its executable and its command line.
pub fn image(exe: &[u8], argv: &[Vec<u8>]) -> Option<&'static Agent> {
    image_in(table(), exe, argv)
}

fn image_in<'t>(table: &'t [Agent], exe: &[u8], argv: &[Vec<u8>]) -> Option<&'t Agent> {
    table.iter().find(|agent| programs(exe, argv).any(|program| agent.is(program)))
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

/// The words of a script that is one plain command; `None` where a shell would do more than to run it.
pub fn words(script: &[u8]) -> Option<Vec<Vec<u8>>> {
    const SPECIAL: &[u8] = b"*?[]{}~#!=";
    let (mut words, mut word, mut rest) = (Vec::new(), Vec::new(), script.trim_ascii().iter().copied());
    while let Some(byte) = rest.next() {
        match byte {
            b' ' | b'\t' if word.is_empty() => {}
            b' ' | b'\t' => words.push(unquoted(&std::mem::take(&mut word))?),
            b'\'' | b'"' => {
                word.push(byte);
                loop {
                    let inside = rest.next()?;
                    word.push(inside);
                    match inside {
                        b'\\' if byte == b'"' => word.push(rest.next()?),
                        inside if inside == byte => break,
                        _ => {}
                    }
                }
            }
            b'\\' => word.extend([byte, rest.next()?]),
            plain if SPECIAL.contains(&plain) => return None,
            plain => word.push(plain),
        }
    }
    words.push(unquoted(&word)?);
    Some(words)
}

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
fn programs<'a>(exe: &'a [u8], argv: &'a [Vec<u8>]) -> impl Iterator<Item = &'a [u8]> {
    let title = argv.first().map(Vec::as_slice);
    [Some(exe), title, script(exe, argv)].into_iter().flatten().filter(|program| !program.is_empty())
}

/// The script that a process runs, when its program is an interpreter.
pub(super) fn script<'a>(exe: &[u8], argv: &'a [Vec<u8>]) -> Option<&'a [u8]> {
    let (title, rest) = argv.split_first()?;
    let is_one_of = |list: &[&str]| {
        [exe, title].into_iter().any(|program| list.iter().any(|name| stem(program) == name.as_bytes()))
    };
    if is_one_of(INTERPRETERS) {
        return rest.iter().find(|arg| arg.first() != Some(&b'-')).map(Vec::as_slice);
    }
    if !is_one_of(SHELLS) {
        return None;
    }
    match given(title, rest) {
        Given::Script(script) => Some(script),
        Given::Command | Given::Nothing => None,
    }
}

/// Whether it is the command line of a shell that reads its commands from its standard input.
pub(super) fn is_bare_shell(argv: &[Vec<u8>]) -> bool {
    let Some((title, rest)) = argv.split_first() else { return false };
    // A login shell's begins with a dash.
    let name = stem(title);
    let name = name.strip_prefix(b"-").unwrap_or(name);
    SHELLS.iter().any(|shell| name == shell.as_bytes()) && matches!(given(title, rest), Given::Nothing)
}

/// What a shell was given to do.
enum Given<'a> {
    Script(&'a [u8]),
    /// In an argument.
    Command,
    /// It reads its standard input.
    Nothing,
}

fn given<'a>(title: &[u8], arguments: &'a [Vec<u8>]) -> Given<'a> {
    let is_fish = stem(title) == b"fish";
    let mut rest = arguments.iter().map(Vec::as_slice);
    while let Some(arg) = rest.next() {
        match arg {
            b"--" => return rest.next().map_or(Given::Nothing, Given::Script),
            b"-o" | b"+o" | b"-O" | b"+O" | b"--rcfile" | b"--init-file" | b"--init-command" => _ = rest.next(),
            b"-C" if is_fish => _ = rest.next(),
            b"--command" => return Given::Command,
            [b'-', b'-', option @ ..] if option.starts_with(b"command=") => return Given::Command,
            [b'-', b'-', ..] | [b'+', ..] => {}
            [b'-', letters @ ..] if letters.contains(&b'c') => return Given::Command,
            // What follows are the arguments of what it reads.
            [b'-', letters @ ..] if letters.contains(&b's') => return Given::Nothing,
            [b'-', ..] => {}
            script => return Given::Script(script),
        }
    }
    Given::Nothing
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
    fn a_shell_that_runs_a_script_is_told_by_it() {
        let image = |id| Some((id, By::Image));
        assert_eq!(told("/usr/bin/dash", &["/bin/sh", "/home/ada/bin/codex", "exec"], &[]), image("codex"));
        assert_eq!(told("/usr/bin/bash", &["bash", "-eu", "-o", "pipefail", "codex.sh"], &[]), image("codex"));
        assert_eq!(told("/usr/bin/bash", &["bash", "--norc", "--", "codex"], &[]), image("codex"));
        for argv in [
            &["bash", "-c", "codex"][..],
            &["sh", "-lc", "codex"],
            &["bash", "-s", "codex"],
            &["bash", "-o", "codex"],
            &["bash", "build.sh", "codex"],
            &["bash", "-"],
        ] {
            assert_eq!(told("/usr/bin/bash", argv, &[]), None, "{argv:?}");
        }
    }

    #[test]
    fn a_users_own_come_first_and_add_to_the_others() {
        let own = super::super::own::parse(
            br#"
            [[agent]]
            id = "my-agent"
            title = "Mine"
            names = ["my-agent", "mine.sh"]
            packages = ["@me/agent"]
            marks = ["MY_AGENT", "OTHER=1"]
            session = "MY_SESSION"
            [[agent]]
            id = "codex"
            names = ["kodex"]
            session = "KODEX"
            "#,
        )
        .unwrap();
        let table = extended(&own);
        assert_eq!(table.len(), AGENTS.len() + 1);
        let told = |exe: &str, argv: &[&str], marks: &[(&str, &str)]| {
            recognise_in(&table, &actor(exe, argv, marks)).map(|(agent, by)| (agent.id, by))
        };
        let mine = Some(("my-agent", By::Image));
        assert_eq!(told("/usr/bin/dash", &["/bin/sh", "/x/my-agent"], &[]), mine);
        assert_eq!(told("/usr/bin/dash", &["/bin/sh", "/x/mine.sh"], &[]), mine);
        assert_eq!(told("/usr/bin/node", &["node", "/x/node_modules/@me/agent/cli.js"], &[]), mine);
        let by = |id| Some((id, By::Environment));
        assert_eq!(told("/bin/ls", &["ls"], &[("MY_AGENT", "")]), by("my-agent"));
        assert_eq!(told("/bin/ls", &["ls"], &[("OTHER", "2")]), None);
        assert_eq!(told("/bin/ls", &["ls"], &[("OTHER", "1"), ("CLAUDECODE", "1")]), by("my-agent"));
        assert_eq!(told("/x/kodex", &["kodex"], &[]), Some(("codex", By::Image)));
        assert_eq!(told("/x/codex", &["codex"], &[]), Some(("codex", By::Image)));
        assert_eq!((table[0].title, table[0].id), ("Mine", "my-agent"));
        let codex = table.iter().find(|agent| agent.id == "codex").unwrap();
        assert_eq!((codex.title, codex.session), ("Codex CLI", &["KODEX", "CODEX_THREAD_ID"][..]));
        let marks = [("CODEX_THREAD_ID", "old")];
        assert_eq!(codex.session_of(&actor("/bin/ls", &["ls"], &marks)), Some(&b"old"[..]));
        // Everything else is as it was.
        assert_eq!(extended(&[]), AGENTS);
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
    fn words_of_a_plain_command() {
        let words = |script: &str| {
            let words = super::words(script.as_bytes())?;
            Some(words.into_iter().map(|word| String::from_utf8(word).unwrap()).collect::<Vec<_>>())
        };
        let list = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(words("make  -s test "), list(&["make", "-s", "test"]));
        assert_eq!(words(r#"grep -c "it's \"x\" \n" 'a b'\ c"#), list(&["grep", "-c", "it's \"x\" \\n", "a b c"]));
        assert_eq!(words("echo ''"), list(&["echo", ""]));
        for more in [
            "a; b", "a && b", "a | b", "a > b", "a $b", "a `b`", "a *.c", "A=1 b", "a ~", "a # b", "a 'b", "a\nb",
            "a \\",
        ] {
            assert_eq!(words(more), None, "{more}");
        }
    }

    #[test]
    fn shells_that_read_commands() {
        let argv = |line: &str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
        for bare in [
            "bash",
            "-zsh",
            "/bin/sh -l",
            "bash --norc --noprofile -i",
            "bash --rcfile /tmp/rc",
            "zsh -o vi",
            "bash -s one two",
            "fish -C ls",
        ] {
            assert!(is_bare_shell(&argv(bare)), "{bare}");
        }
        for other in [
            "bash x.sh",
            "bash -C x.sh",
            "sh -c ls",
            "bash -lc ls",
            "bash -- x",
            "fish --command=ls",
            "python3",
            "vim",
            "-",
            "",
        ] {
            assert!(!is_bare_shell(&argv(other)), "{other}");
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
