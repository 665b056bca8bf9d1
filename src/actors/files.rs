//! Reading small files and directories of other programs, where that can reach neither a mount of ours nor anything that may make us wait for ever.
//!
//! Goes from the root component by component, so that it is known of each step on which mount it is: whatever lies at or below a mountpoint of FUSE or of
//! a file system on the network is not touched, and where a symbolic link leads is looked up by hand. For the background thread only.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat2, readlinkat};

use crate::sys::mountinfo;

/// Kinds of file systems, and beginnings of kinds, that another program or machine answers for.
const FOREIGN: &[&[u8]] =
    &[b"fuse", b"nfs", b"cifs", b"smb", b"9p", b"ceph", b"afs", b"autofs", b"virtiofs", b"lustre"];
/// Symbolic links in one path, as in the kernel.
const MOST_LINKS: usize = 40;
/// Names of one directory that are looked at.
const MOST_NAMES: usize = 16 * 1024;

/// The places that are not touched.
pub struct Files {
    foreign: Vec<PathBuf>,
}

impl Files {
    /// By the mounts of this moment; `None` when they cannot be known.
    pub fn now() -> Option<Files> {
        Some(Files::of(&std::fs::read(mountinfo::TABLE).ok()?))
    }

    /// By the text of a mount table.
    pub fn of(table: &[u8]) -> Files {
        let lines = table.split(|&b| b == b'\n').filter_map(mountinfo::parse);
        let foreign = lines.filter(|line| FOREIGN.iter().any(|kind| line.kind.starts_with(kind)));
        Files { foreign: foreign.map(|line| line.mountpoint).collect() }
    }

    /// Opens what is at an absolute path without a symbolic link in it, or such a link itself.
    fn open(&self, path: &Path, flags: OFlags) -> Option<OwnedFd> {
        // Also what was mounted below such a place: to get there leads through it.
        if self.foreign.iter().any(|place| path.starts_with(place)) {
            return None;
        }
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(CWD, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve).ok()
    }

    /// Where an absolute path leads; `None` when that is not there, or not to be touched.
    pub fn real(&self, path: &Path) -> Option<PathBuf> {
        let names = |path: &Path| -> Vec<OsString> {
            let names = path.components().rev().filter_map(|part| match part {
                Component::Normal(name) => Some(name.to_owned()),
                Component::ParentDir => Some("..".into()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
            });
            names.collect()
        };
        let mut at = PathBuf::from("/");
        let mut rest = if path.is_absolute() { names(path) } else { return None };
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == ".." {
                at.pop();
                continue;
            }
            at.push(name);
            let file = self.open(&at, OFlags::PATH)?;
            if FileType::from_raw_mode(fstat(&file).ok()?.st_mode) != FileType::Symlink {
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return None;
            }
            let target = readlinkat(&file, "", Vec::new()).ok()?;
            let target = Path::new(OsStr::from_bytes(target.to_bytes()));
            at = if target.is_absolute() { PathBuf::from("/") } else { at.parent()?.to_owned() };
            rest.extend(names(target));
        }
        Some(at)
    }

    /// The bytes of a regular file that has at most `most`. The path has no symbolic link in it.
    pub fn read(&self, path: &Path, most: usize) -> Option<Vec<u8>> {
        // Not waiting for the other end of what is a pipe.
        let file = self.open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let stat = fstat(&file).ok()?;
        let size = usize::try_from(stat.st_size).ok().filter(|&size| size <= most)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let mut bytes = vec![0; size];
        let mut filled = 0;
        while filled < size {
            match rustix::io::read(&file, bytes.get_mut(filled..)?) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        bytes.truncate(filled);
        Some(bytes)
    }

    /// The first names in a directory. The path has no symbolic link in it.
    pub fn names(&self, path: &Path) -> Vec<OsString> {
        let Some(dir) = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY) else { return Vec::new() };
        let Ok(dir) = Dir::new(dir) else { return Vec::new() };
        dir.flatten().take(MOST_NAMES).map(|entry| OsString::from_vec(entry.file_name().to_bytes().to_vec())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn goes_where_the_kernel_would_go() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/b/file"), "text").unwrap();
        symlink("a", top.join("relative")).unwrap();
        symlink(top.join("relative/b/../b"), top.join("absolute")).unwrap();
        symlink("loop", top.join("loop")).unwrap();
        let files = Files::now().unwrap();
        for path in ["a/b/file", "relative/b/file", "absolute/file", "a/../absolute/./file", "absolute/../b/file"] {
            let path = top.join(path);
            assert_eq!(files.real(&path), Some(path.canonicalize().unwrap()), "{path:?}");
        }
        assert_eq!(files.real(&top.join("loop")), None);
        assert_eq!(files.real(&top.join("missing")), None);
        assert_eq!(files.real(Path::new("a")), None);
        assert_eq!(files.real(Path::new("/")), Some(PathBuf::from("/")));
        assert_eq!(files.read(&top.join("a/b/file"), 4).as_deref(), Some(&b"text"[..]));
        assert_eq!(files.read(&top.join("a/b/file"), 3), None, "too large");
        assert_eq!(files.read(&top.join("relative/b/file"), 4), None, "through a symbolic link");
        assert_eq!(files.read(&top.join("a"), 1 << 20), None, "a directory");
        let names: Vec<OsString> = files.names(&top.join("a")).into_iter().filter(|n| n != "." && n != "..").collect();
        assert_eq!(names, ["b"]);
        let pipe = top.join("pipe");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(files.read(&pipe, 4), None);
    }

    #[test]
    fn what_is_foreign_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("mount point/below")).unwrap();
        fs::create_dir(top.join("mount")).unwrap();
        fs::write(top.join("mount point/below/file"), "text").unwrap();
        fs::write(top.join("mount/file"), "text").unwrap();
        symlink("mount point/below", top.join("link")).unwrap();
        let at = top.join("mount point").to_str().unwrap().replace(' ', "\\040");
        for (kind, foreign) in
            [("fuse", true), ("fuse.regentfs", true), ("fuseblk", true), ("nfs4", true), ("ext4", false)]
        {
            let line = |at: &str, kind: &str| format!("36 35 0:40 / {at} rw - {kind} source rw\n");
            let below = line(&format!("{at}/below"), "ext4");
            let files = Files::of(format!("{}{}{below}", line("/", "ext4"), line(&at, kind)).as_bytes());
            let readable = |path: &str| {
                let path = files.real(&top.join(path));
                path.is_some_and(|path| files.read(&path, 4).is_some())
            };
            assert!(readable("mount/file"), "{kind}");
            for path in ["mount point/below/file", "link/file"] {
                assert_eq!(readable(path), !foreign, "{kind}: {path}");
            }
            assert_eq!(files.real(&top.join("mount point")).is_none(), foreign);
            assert_eq!(files.real(&top.join("link")).is_none(), foreign);
            assert_eq!(files.names(&top.join("mount point")).is_empty(), foreign);
            assert_eq!(files.read(&top.join("mount point/below/file"), 4).is_none(), foreign);
        }
    }
}
