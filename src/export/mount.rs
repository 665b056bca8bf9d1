//! The commits that a mount has, read through the mount by whoever asks; never by the daemon.
//!
//! The mount's own settings of git are not read: whoever works there could have written programs to run into them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::git::{Scratch, bare_command, copy, line, link, run};
use super::{Error, Result};

/// A directory of git's with what a mount has and settings of its own.
#[derive(Debug)]
pub struct Mounted {
    scratch: Scratch,
}

impl Mounted {
    /// # Errors
    /// [`Error::NotGit`]; [`Error::Linked`] when its commits are elsewhere.
    pub fn open(mountpoint: &Path) -> Result<Mounted> {
        let git = mountpoint.join(".git");
        match git.symlink_metadata() {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(Error::Linked),
            Err(_) => return Err(Error::NotGit),
        }
        let scratch = Scratch::make(&std::env::temp_dir(), &format!("regentfs-{}-", std::process::id()))?;
        let work = Mounted { scratch };
        let mut config = "[core]\n\trepositoryformatversion = 1\n\tbare = true\n".to_owned();
        let theirs = git.join("config").display().to_string();
        for name in ["objectFormat", "refStorage"] {
            let mut command = bare_command();
            command.args(["config", "--file", &theirs, "--get", &format!("extensions.{name}")]);
            if let Ok(value) = run(command, "read the settings", b"") {
                config.push_str(&format!("[extensions]\n\t{name} = {}\n", line(value)));
            }
        }
        let at = work.scratch.join("config");
        fs::write(&at, config).map_err(Error::io("write", &at))?;
        copy(&git.join("HEAD"), &work.scratch.join("HEAD"))?;
        for name in ["objects", "refs", "packed-refs", "reftable", "shallow"] {
            if git.join(name).symlink_metadata().is_ok() {
                link(&git.join(name), &work.scratch.join(name))?;
            }
        }
        Ok(work)
    }

    fn git(&self, arguments: &[&str]) -> Command {
        let mut command = bare_command();
        command
            .env("GIT_DIR", self.scratch.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .args(arguments)
            .current_dir(self.scratch.path());
        command
    }

    /// The commit that is checked out; `None` before the first one.
    pub fn head(&self) -> Option<String> {
        let command = self.git(&["rev-parse", "-q", "--verify", "HEAD^{commit}"]);
        run(command, "find HEAD", b"").ok().map(line)
    }

    /// Writes all that `tip` needs and that whoever has `known` lacks into one pack; `None` when that is nothing.
    ///
    /// # Errors
    /// What git says.
    pub fn pack(&self, tip: &str, known: &[String]) -> Result<Option<PathBuf>> {
        // What the mount does not have any more cannot be left out here.
        let command = self.git(&["cat-file", "--batch-check=%(objectname)"]);
        let there = line(run(command, "look for commits", format!("{}\n", known.join("\n")).as_bytes())?);
        let mut wanted = format!("{tip}\n");
        for id in there.lines().filter(|line| !line.contains(' ')) {
            wanted.push_str(&format!("^{id}\n"));
        }
        let command = self.git(&["rev-list", "--count", "--stdin"]);
        if line(run(command, "count the commits", wanted.as_bytes())?) == "0" {
            return Ok(None);
        }
        let path = self.scratch.join("new.pack");
        let mut command = self.git(&["pack-objects", "-q", "--revs", "--stdout"]);
        command.stdout(File::create(&path).map_err(Error::io("create", &path))?);
        run(command, "pack the commits", wanted.as_bytes())?;
        Ok(Some(path))
    }
}
