//! Which processes stand inside a directory or use a mount: for the warning before a mount, and for the reason why an unmount fails.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A process and what it has there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub pid: u32,
    pub command: String,
    /// `cwd`, `root`, `file` or `mapping`, with the path.
    pub what: String,
}

fn pids() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// The command line, in one line.
fn command(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = bytes.split(|&b| b == 0).filter(|w| !w.is_empty()).map(String::from_utf8_lossy).collect();
    let line = words.join(" ");
    if line.is_empty() {
        return std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    }
    line.chars().take(120).collect()
}

fn is_below(path: &Path, dir: &Path) -> bool {
    path.starts_with(dir)
}

/// Processes whose working directory is in `dir` now: what they reach by relative paths stays the base when something is mounted
/// over it.
pub fn inside(dir: &Path) -> Vec<User> {
    let own = std::process::id();
    let mut found = Vec::new();
    for pid in pids().into_iter().filter(|&p| p != own) {
        if let Ok(cwd) = std::fs::read_link(format!("/proc/{pid}/cwd"))
            && is_below(&cwd, dir)
        {
            found.push(User { pid, command: command(pid), what: format!("cwd {}", cwd.display()) });
        }
    }
    found
}

/// Processes that use the mount `id` at `mountpoint`. Asks only /proc, never the mount.
pub fn of_mount(id: u64, mountpoint: &Path) -> Vec<User> {
    let own = std::process::id();
    let mut found = Vec::new();
    for pid in pids().into_iter().filter(|&p| p != own) {
        if let Some(what) = uses(pid, id, mountpoint) {
            found.push(User { pid, command: command(pid), what });
        }
    }
    found
}

fn uses(pid: u32, id: u64, mountpoint: &Path) -> Option<String> {
    for link in ["cwd", "root"] {
        let path = format!("/proc/{pid}/{link}");
        if mount_id(Path::new(&path)) == Some(id) {
            let target = std::fs::read_link(&path).unwrap_or_default();
            return Some(format!("{link} {}", target.display()));
        }
    }
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten() {
        let info = format!("/proc/{pid}/fdinfo/{}", entry.file_name().to_string_lossy());
        let of_mount = std::fs::read_to_string(info).is_ok_and(|text| {
            text.lines().any(|l| l.strip_prefix("mnt_id:").is_some_and(|n| n.trim() == id.to_string()))
        });
        if of_mount {
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            return Some(format!("file {}", target.display()));
        }
    }
    let maps = std::fs::read(format!("/proc/{pid}/maps")).ok()?;
    let mapped = maps.split(|&b| b == b'\n').find_map(|line| {
        let at = line.iter().position(|&b| b == b'/')?;
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(line.get(at..)?));
        is_below(&path, mountpoint).then_some(path)
    })?;
    Some(format!("mapping {}", mapped.display()))
}

/// The mount that a path is on, without asking its file system for anything.
fn mount_id(path: &Path) -> Option<u64> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let stat = statx(CWD, path, AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT, StatxFlags::MNT_ID).ok()?;
    (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_process_by_its_working_directory() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").current_dir(&dir).spawn().unwrap();
        // Its parent goes on before the kernel has put its arguments in place.
        let mut found = inside(&dir);
        for _ in 0..1000 {
            if found.iter().any(|u| u.command == "sleep 60") {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
            found = inside(&dir);
        }
        assert!(found.iter().any(|u| u.pid == child.id() && u.command == "sleep 60"), "{found:?}");
        let id = mount_id(&dir).unwrap();
        assert!(of_mount(id, Path::new("/nonexistent")).iter().any(|u| u.pid == child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
