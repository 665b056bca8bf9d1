//! Adding single files to the base: what git itself does when it stores a pack and makes or moves a reference.
//!
//! Without a journal: each file is complete and durable before its name appears, and they appear in the order given, so whoever dies in between leaves
//! files that nobody refers to. It knows neither git nor plans; which files these are is the caller's matter.

use std::fs::File;
use std::io::{Read, Write};

use rustix::io::Errno as Os;

use super::node::is_root;
use super::plan::Meta;
use super::writer::{Look, Root, Slot};
use super::{Error, Result};
use crate::types::{Kind, Path, Time};

/// Bytes that are copied at once.
const PIECE: usize = 256 << 10;

/// A file to be added.
pub struct Addition {
    pub path: Path,
    /// The name that it has until it is complete, in the same directory. It must be free: so it can be a lock that others respect.
    pub temporary: Box<[u8]>,
    /// From here to its end.
    pub content: Box<dyn Read>,
    /// Permission bits. Owner and group are those of the directory, as far as this process may give files away.
    pub perm: u16,
    pub there: There,
    /// Asked while the temporary name is there, so under the lock that it may be: whether the file is still wanted.
    pub still: Option<Box<dyn Fn() -> bool>>,
}

/// What becomes of a file that has the name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum There {
    /// It stays, and nothing is added.
    Refused,
    /// It is taken for the same one.
    Same,
    /// It goes.
    Replaced,
}

fn base(what: &'static str, path: &Path) -> impl Fn(Os) -> Error + use<> {
    let path = path.clone();
    move |errno| Error::Base { what, path: path.clone(), errno: errno.into() }
}

/// Adds files, one after the other. Directories that are missing above them are made. Returns the paths that are new.
///
/// # Errors
/// [`Error::InTheWay`] when a temporary name is in use; `EEXIST` when a path is; [`Error::Moved`] when a file is no longer wanted. Those before the one that
/// failed are there then.
pub fn add(root: &Root, files: Vec<Addition>) -> Result<Vec<Path>> {
    let mut made = Vec::new();
    for mut file in files {
        let path = file.path.clone();
        let (dir, _) = path.split_last().ok_or_else(|| base("add", &path)(Os::ISDIR))?;
        make_dirs(root, &dir, &mut made)?;
        let failed = |what| base(what, &path);
        let slot = root.slot(&path).map_err(failed("look at"))?;
        match slot.look().map_err(failed("look at"))? {
            Some(there) if there.seen.kind == Kind::File && file.there == There::Same => continue,
            Some(there) if there.seen.kind == Kind::File && file.there == There::Replaced => {}
            // git leaves directories behind when it deletes branches.
            Some(there) if there.seen.kind == Kind::Dir => remove_empty(root, &path).map_err(failed("add"))?,
            Some(_) => return Err(failed("add")(Os::EXIST)),
            None => {}
        }
        let temporary_path = dir.join(&file.temporary);
        let temporary = root.slot(&temporary_path).map_err(failed("look at"))?;
        let into = match temporary.make_file() {
            Ok(into) => into,
            Err(Os::EXIST) => return Err(Error::InTheWay { path: temporary_path }),
            Err(e) => return Err(failed("add")(e)),
        };
        let parent = slot.look_at_dir().map_err(failed("look at"))?;
        let place = || match file.there {
            There::Replaced => temporary.move_over(&slot),
            There::Refused | There::Same => temporary.put_at_free(&slot, Kind::File),
        };
        let still = file.still.as_ref().is_none_or(|still| still());
        let placed = match still {
            true => fill(&mut file.content, &path, (&into, file.perm), &parent, &temporary)
                .and_then(|()| place().map_err(failed("add"))),
            false => Err(Error::Moved { path: path.clone() }),
        };
        if let Err(error) = placed {
            let _ = temporary.remove(Kind::File);
            return Err(error);
        }
        root.node(&dir).and_then(|node| node.sync()).map_err(base("sync", &dir))?;
        made.push(path);
    }
    Ok(made)
}

fn fill(content: &mut dyn Read, path: &Path, (mut into, perm): (&File, u16), parent: &Look, slot: &Slot) -> Result<()> {
    let failed = |what| base(what, path);
    let os = |e: std::io::Error| Os::from_io_error(&e).unwrap_or(Os::IO);
    let mut piece = vec![0; PIECE];
    loop {
        let got = content.read(&mut piece).map_err(|e| failed("write")(os(e)))?;
        if got == 0 {
            break;
        }
        into.write_all(piece.get(..got).unwrap_or_default()).map_err(|e| failed("write")(os(e)))?;
    }
    let node = slot.node().map_err(failed("look at"))?;
    own(&node, parent, perm).map_err(failed("write"))?;
    rustix::fs::fsync(into).map_err(failed("sync"))
}

/// Gives something new its mode, and the owner of the directory that it is in.
fn own(node: &super::node::Node, parent: &Look, perm: u16) -> Result<(), Os> {
    let uid = if is_root() { parent.uid } else { rustix::process::geteuid().as_raw() };
    let meta = Meta { perm, uid, gid: parent.gid, atime: Time::default(), mtime: Time::default(), xattrs: None };
    // Another group than wanted is no reason not to go on.
    node.set_owner_and_xattrs(&meta, None, |_| {})?;
    node.chmod(perm)
}

fn make_dirs(root: &Root, dir: &Path, made: &mut Vec<Path>) -> Result<()> {
    let Some((above, _)) = dir.split_last() else { return Ok(()) };
    let failed = |what| base(what, dir);
    make_dirs(root, &above, made)?;
    let slot = root.slot(dir).map_err(failed("look at"))?;
    match slot.look().map_err(failed("look at"))? {
        Some(there) if there.seen.kind == Kind::Dir => Ok(()),
        Some(_) => Err(failed("add")(Os::NOTDIR)),
        None => {
            let parent = slot.look_at_dir().map_err(failed("look at"))?;
            match slot.make_dir() {
                // Somebody was faster.
                Err(Os::EXIST) => return Ok(()),
                other => other.map_err(failed("add"))?,
            }
            let node = slot.node().map_err(failed("look at"))?;
            own(&node, &parent, parent.perm).map_err(failed("add"))?;
            root.node(&above).and_then(|node| node.sync()).map_err(base("sync", &above))?;
            made.push(dir.clone());
            Ok(())
        }
    }
}

/// Removes a directory in which there are only directories.
fn remove_empty(root: &Root, dir: &Path) -> Result<(), Os> {
    for name in root.names(dir)? {
        let below = dir.join(&name);
        match root.look(&below)? {
            Some(there) if there.seen.kind == Kind::Dir => remove_empty(root, &below)?,
            Some(_) => return Err(Os::EXIST),
            None => {}
        }
    }
    root.slot(dir)?.remove(Kind::Dir)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use rustix::fs::{Mode, OFlags};

    use super::*;

    fn file(path: &str, bytes: &'static [u8]) -> Addition {
        Addition {
            path: Path::new(path.as_bytes()),
            temporary: b"name.lock"[..].into(),
            content: Box::new(bytes),
            perm: 0o444,
            there: There::Refused,
            still: None,
        }
    }

    #[test]
    fn what_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let root = Root::new(rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap());
        let paths = |paths: &[&str]| paths.iter().map(|p| Path::new(p.as_bytes())).collect::<Vec<_>>();
        assert_eq!(add(&root, vec![file("a/b/c", b"one")]).unwrap(), paths(&["a", "a/b", "a/b/c"]));
        assert_eq!(fs::read(at("a/b/c")).unwrap(), b"one");
        assert_eq!(fs::metadata(at("a/b/c")).unwrap().permissions().mode() & 0o7777, 0o444);
        let exists = |files| match add(&root, files).unwrap_err() {
            Error::Base { errno, .. } => errno,
            other => panic!("{other}"),
        };
        assert_eq!(exists(vec![file("a/b/c", b"two")]), Os::EXIST.into());
        assert_eq!(exists(vec![file("a/b/c/d", b"two")]), Os::NOTDIR.into());
        assert_eq!(exists(vec![file("a", b"two")]), Os::EXIST.into());
        let again = Addition { there: There::Same, ..file("a/b/c", b"two") };
        assert_eq!(add(&root, vec![again]).unwrap(), paths(&[]));
        assert_eq!(fs::read(at("a/b/c")).unwrap(), b"one");
        // What is replaced goes at once, and only if it is still wanted while its lock is held.
        let replaces = |still: bool| {
            let lock = at("a/b/name.lock");
            let still: Box<dyn Fn() -> bool> = Box::new(move || lock.exists() && still);
            vec![Addition { there: There::Replaced, still: Some(still), ..file("a/b/c", b"two") }]
        };
        assert!(matches!(add(&root, replaces(false)).unwrap_err(), Error::Moved { .. }));
        assert!(fs::read(at("a/b/c")).unwrap() == b"one" && !at("a/b/name.lock").exists());
        assert_eq!(add(&root, replaces(true)).unwrap(), paths(&["a/b/c"]));
        assert_eq!(fs::read(at("a/b/c")).unwrap(), b"two");
        // Empty directories make room.
        fs::create_dir_all(at("d/e/f")).unwrap();
        assert_eq!(add(&root, vec![file("d", b"file")]).unwrap(), paths(&["d"]));
        // Somebody holds the lock.
        fs::write(at("a/name.lock"), "").unwrap();
        assert!(matches!(add(&root, vec![file("a/x", b"")]).unwrap_err(), Error::InTheWay { .. }));
        assert!(at("a/name.lock").exists() && !at("a/x").exists());
        // Nothing is written through a symbolic link.
        std::os::unix::fs::symlink("a", at("link")).unwrap();
        assert_eq!(exists(vec![file("link/y", b"")]), Os::NOTDIR.into());
    }
}
