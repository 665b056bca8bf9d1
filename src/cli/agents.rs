//! The user's own agents: where their table is, and that it is read before agents are told.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::actors::{agents, own};

/// A table larger than this is none, bytes.
const LARGEST: u64 = 256 << 10;

/// Adds the user's own agents to those that are known. What comes back is why it could not be done: then the table is as it was.
pub fn load() -> Option<String> {
    let path = path()?;
    match read(&path) {
        Ok(None) => None,
        Ok(Some(entries)) => {
            agents::extend(&entries);
            None
        }
        Err(error) => Some(format!(
            "{}: {error:#}. Until then only the agents that regentfs knows itself are told",
            path.display()
        )),
    }
}

/// The same for a command, which goes on without them.
pub fn load_or_warn() {
    if let Some(why) = load() {
        eprintln!("regentfs: warning: {why}");
    }
}

/// `$XDG_CONFIG_HOME/regentfs/agents.toml`.
fn path() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(config.join("regentfs/agents.toml"))
}

/// `None` where there is no such file.
fn read(path: &Path) -> Result<Option<Vec<own::Entry>>> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    // A pipe must not make anybody wait.
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match open {
        Err(e) if matches!(e.kind(), NotFound | NotADirectory) => return Ok(None),
        other => other.context("cannot be read: make it readable, or take it away")?,
    };
    if !file.metadata().is_ok_and(|m| m.is_file() && m.len() <= LARGEST) {
        bail!("is no file of at most 256 KiB: make it one, or take it away");
    }
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text).context("cannot be read: make it readable, or take it away")?;
    Ok(Some(own::parse(&text)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_there_is_read_and_one_that_cannot_be_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agents.toml");
        assert_eq!(read(&path).unwrap(), None);
        assert_eq!(read(&path.join("x")).unwrap(), None);
        std::fs::write(&path, "[[agent]]\nid = \"mine\"\nnames = [\"mine\"]\n").unwrap();
        assert_eq!(read(&path).unwrap().unwrap().len(), 1);
        assert_eq!(read(&path.join("x")).unwrap(), None);
        std::fs::write(&path, "[[agent]]\nid = \"mine\"\nnames = [\"sh\"]\n").unwrap();
        let error = format!("{:#}", read(&path).unwrap_err());
        assert!(error.starts_with("agent 1 (\"mine\"): ") && error.contains("\"sh\""), "{error}");
        std::fs::write(&path, vec![b'#'; LARGEST as usize + 1]).unwrap();
        assert!(read(&path).is_err());
        assert!(read(dir.path()).is_err());
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(read(&pipe).is_err());
    }
}
