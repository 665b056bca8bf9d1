//! The mount table: which regentfs mounts there are.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::fuse::mount::FSTYPE;

/// A line of /proc/self/mountinfo that is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    pub id: u64,
    /// Major and minor number of the file system, as `/sys` writes them.
    pub device: String,
    pub repo: PathBuf,
    pub mountpoint: PathBuf,
}

/// Undoes the octal escapes of proc(5).
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|d| first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match digits {
            Some(d) => {
                bytes.push(d.iter().fold(0u8, |n, b| n.wrapping_mul(8).wrapping_add(b - b'0')));
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn parse(line: &[u8]) -> Option<Mounted> {
    let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let id = std::str::from_utf8(fields.first()?).ok()?.parse().ok()?;
    let device = String::from_utf8(fields.get(2)?.to_vec()).ok()?;
    let mountpoint = unescape(fields.get(4)?);
    let dash = fields.iter().position(|f| *f == b"-")?;
    if *fields.get(dash + 1)? != FSTYPE.as_bytes() {
        return None;
    }
    let source = unescape(fields.get(dash + 2)?);
    let repo = source.as_os_str().as_bytes().strip_prefix(b"regentfs:")?;
    Some(Mounted { id, device, repo: PathBuf::from(OsString::from_vec(repo.to_vec())), mountpoint })
}

/// All regentfs mounts that this process sees, the newest last.
pub fn all() -> std::io::Result<Vec<Mounted>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|&b| b == b'\n').filter_map(parse).collect())
}

/// Whether the daemon of a mount is gone. What the kernel remembers of the mount it goes on telling; this it has to ask for.
pub fn is_dead(mountpoint: &Path) -> bool {
    rustix::fs::statvfs(mountpoint).is_err_and(|e| e == rustix::io::Errno::NOTCONN)
}

/// The mount on exactly this directory.
pub fn at(mountpoint: &Path) -> std::io::Result<Option<Mounted>> {
    Ok(all()?.into_iter().rev().find(|m| m.mountpoint == mountpoint))
}

/// The mounts that show this repository, the newest last.
pub fn of(repo: &Path) -> std::io::Result<Vec<Mounted>> {
    let mut list = all()?;
    list.retain(|m| m.repo == repo);
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_mount_table() {
        let line = br"36 35 0:40 / /a\040b rw,nosuid shared:1 - fuse.regentfs regentfs:/c\134d rw,user_id=0";
        let mounted = parse(line).unwrap();
        assert_eq!((mounted.id, mounted.mountpoint), (36, PathBuf::from("/a b")));
        assert_eq!(mounted.repo, PathBuf::from(r"/c\d"));
        assert_eq!(parse(b"36 35 0:40 / /a rw - ext4 /dev/x rw"), None);
        assert_eq!(parse(b""), None);
    }
}
