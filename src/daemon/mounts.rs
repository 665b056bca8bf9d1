//! The mount table: which regentfs mounts there are.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::fuse::mount::FSTYPE;
use crate::sys::mountinfo;

/// A line of /proc/self/mountinfo that is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    pub id: u64,
    /// Major and minor number of the file system, as `/sys` writes them.
    pub device: String,
    pub repo: PathBuf,
    pub mountpoint: PathBuf,
}

fn parse(line: &[u8]) -> Option<Mounted> {
    let line = mountinfo::parse(line).filter(|line| line.kind == FSTYPE.as_bytes())?;
    let repo = line.source.as_os_str().as_bytes().strip_prefix(b"regentfs:")?;
    let repo = PathBuf::from(OsString::from_vec(repo.to_vec()));
    Some(Mounted { id: line.id, device: line.device, repo, mountpoint: line.mountpoint })
}

/// All regentfs mounts that this process sees, the newest last.
pub fn all() -> std::io::Result<Vec<Mounted>> {
    let table = std::fs::read(mountinfo::TABLE)?;
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
