//! The real Claude Code, from its npm package, at one version; installed once beside the other tools of the tests.
//!
//! It knows how to run it without a network and without anything of the user's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use super::model::{self, Model};
use crate::common::{self, both, find_program, skip};

pub const VERSION: &str = "2.1.197";
const PACKAGE: &str = "@anthropic-ai/claude-code";

/// The program, or `None` where it cannot be had, which is said.
pub fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = PROGRAM.get_or_init(|| {
        let found = install();
        found.map_err(|why| skip(&format!("the real Claude Code {VERSION}: {why}"))).ok()
    });
    if found.is_none() {
        assert!(!common::in_ci(), "under CI nothing may be skipped: Claude Code");
    }
    found.as_deref()
}

/// Whether it runs and is of that version.
fn works(program: &Path) -> bool {
    let mut command = Command::new(program);
    clear(&mut command);
    command.arg("--version").env("HOME", "/nonexistent").stdin(Stdio::null());
    command.output().is_ok_and(|output| String::from_utf8_lossy(&output.stdout).starts_with(VERSION))
}

fn install() -> Result<PathBuf, String> {
    let default = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/regentfs/tools"));
    let tools = std::env::var_os("REGENTFS_TOOLS").map(PathBuf::from).or_else(default).ok_or("there is no HOME")?;
    let dir = tools.join(format!("claude-code-{VERSION}"));
    let program = |dir: &Path| dir.join("node_modules/.bin/claude");
    if works(&program(&dir)) {
        return Ok(program(&dir));
    }
    for needed in ["npm", "node"] {
        find_program(needed).ok_or_else(|| format!("not installed: {needed}"))?;
    }
    fs::create_dir_all(&tools).map_err(|e| format!("{}: {e}", tools.display()))?;
    // Others may do the same at this moment: what is there under its last name is complete.
    let made = tempfile::Builder::new().prefix("claude-code-").tempdir_in(&tools);
    let made = made.map_err(|e| format!("{}: {e}", tools.display()))?;
    let run = |command: &mut Command| {
        let output = command.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
        if output.status.success() {
            Ok(())
        } else {
            Err(both(&output).lines().take(8).collect::<Vec<_>>().join(" | "))
        }
    };
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--fetch-retries=1", "--prefix"]).arg(made.path());
    run(npm.arg(format!("{PACKAGE}@{VERSION}")))?;
    if !works(&program(made.path())) {
        // Where scripts of packages are not run.
        run(Command::new("node").arg("install.cjs").current_dir(made.path().join("node_modules").join(PACKAGE)))?;
    }
    if !works(&program(made.path())) {
        return Err("what npm installed does not run".to_owned());
    }
    fs::set_permissions(made.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).map_err(|e| e.to_string())?;
    let _ = fs::remove_dir_all(&dir);
    match fs::rename(made.path(), &dir) {
        Err(error) if !works(&program(&dir)) => Err(format!("{}: {error}", dir.display())),
        Ok(()) | Err(_) => Ok(program(&dir)),
    }
}

/// Takes out of a command's environment what agents leave there, and what tells Claude Code how to work.
pub fn clear(command: &mut Command) {
    crate::common::without_agents(command);
    let of_claude = |name: &str| ["CLAUDE", "ANTHROPIC"].iter().any(|begin| name.starts_with(begin));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_none_or(of_claude)) {
        command.env_remove(name);
    }
}

/// Somebody who uses it, with a home of their own.
pub struct User<'m> {
    pub home: PathBuf,
    model: &'m Model,
    program: &'static Path,
}

impl User<'_> {
    pub fn new<'m>(home: &Path, model: &'m Model) -> Option<User<'m>> {
        let program = program()?;
        fs::create_dir_all(home).expect("make a home");
        Some(User { home: home.to_owned(), model, program })
    }

    /// Starts it in a directory, in a session of its own (setsid(2)); its pid is the child's.
    pub fn start(&self, dir: &Path, arguments: &[&str], prompt: &str) -> Child {
        let mut command = Command::new("setsid");
        command.arg(self.program).args(arguments).args(["-p", prompt]);
        command.args(["--dangerously-skip-permissions", "--model", model::NAME]);
        clear(&mut command);
        command.env("HOME", &self.home).env("ANTHROPIC_BASE_URL", self.model.url()).env("ANTHROPIC_API_KEY", "x");
        command.env("IS_SANDBOX", "1").env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1");
        command.env_remove("XDG_CONFIG_HOME").env("SHELL", "/bin/bash").env("NO_PROXY", "127.0.0.1");
        command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("run setsid")
    }

    /// Where it keeps what it writes about itself.
    pub fn transcripts(&self) -> PathBuf {
        self.home.join(".claude/projects")
    }
}
