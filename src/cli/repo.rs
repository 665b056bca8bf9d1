//! Which repository is meant, and where its store is.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};

use crate::daemon::mounts::{self, Mounted};
use crate::store::format::{FORMAT_FILE, Format};

/// A repository, mounted or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    /// Absolute, without symbolic links. Where it is mounted in place, this path leads into the mount.
    pub root: PathBuf,
    pub store: PathBuf,
    /// The mount of it that is meant, where the path is in one.
    pub about: Option<PathBuf>,
}

/// The repository that a command is about: of `path`, or of the current directory.
///
/// In order: that of the mount that the path is in; with `--store` alone, the one that the store belongs to; the nearest
/// directory upwards that has a store or is a git top level; the path itself.
pub fn discover(path: Option<&Path>, store: Option<&Path>) -> Result<Repo> {
    let mounts = mounts::all().unwrap_or_default();
    if let (None, Some(store)) = (path, store)
        && let Ok(format) = Format::load(store)
    {
        let root = format.repo_path();
        let here = std::env::current_dir().ok();
        let mount = here.and_then(|here| mount_of(&mounts, &here)).filter(|mount| mount.repo == root);
        return Ok(Repo { about: mount.map(|m| first_of(&mounts, m)), root, store: absolute(store)? });
    }
    let start = start(path)?;
    let of_mount = |mount: &Mounted| -> Result<Repo> {
        Ok(Repo { about: Some(first_of(&mounts, mount)), ..with_store(mount.repo.clone(), store)? })
    };
    if let Some(mount) = mount_of(&mounts, &start) {
        return of_mount(mount);
    }
    let start = canonical(&start)?;
    if let Some(mount) = mount_of(&mounts, &start) {
        return of_mount(mount);
    }
    if path.is_some() && !start.is_dir() {
        bail!("{} is not a directory: give the repository's directory", start.display());
    }
    let known = |dir: &Path| store.is_none() && default_store(dir).is_ok_and(|s| s.join(FORMAT_FILE).exists());
    let root = start.ancestors().find(|dir| known(dir) || dir.join(".git").exists()).unwrap_or(&start);
    with_store(root.to_owned(), store)
}

/// The repository to mount: exactly the directory that was given, or the git top level of the current one.
pub fn to_mount(path: Option<&Path>, store: Option<&Path>) -> Result<Repo> {
    let Some(path) = path else {
        return discover(None, None).and_then(|repo| with_store(repo.root, store));
    };
    let lexical = absolute(path)?;
    // A dead mount cannot be looked at any more, but its place in the mount table can.
    if let Some(mount) = mounts::all().unwrap_or_default().iter().rev().find(|m| m.mountpoint == lexical) {
        return with_store(mount.repo.clone(), store);
    }
    let root = canonical(&lexical)?;
    if !root.is_dir() {
        bail!("{} is not a directory: give the repository's directory", path.display());
    }
    with_store(root, store)
}

fn with_store(root: PathBuf, store: Option<&Path>) -> Result<Repo> {
    let store = match store {
        Some(dir) => absolute(dir)?,
        None => default_store(&root)?,
    };
    Ok(Repo { root, store, about: None })
}

fn start(path: Option<&Path>) -> Result<PathBuf> {
    match path {
        Some(path) => absolute(path),
        None => std::env::current_dir()
            .map_err(|e| anyhow!("cannot tell the current directory ({e}): go to another one, or name the repository")),
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| anyhow!("{}: {e}: give a path that exists", path.display()))
}

fn canonical(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => anyhow!("{} does not exist: give the repository's directory", path.display()),
        _ => anyhow!("cannot look at {}: {e}", path.display()),
    })
}

/// The innermost regentfs mount that a path is in.
fn mount_of<'m>(mounts: &'m [Mounted], path: &Path) -> Option<&'m Mounted> {
    mounts.iter().filter(|m| path.starts_with(&m.mountpoint)).max_by_key(|m| m.mountpoint.as_os_str().len())
}

/// Where the daemon put a mount that can also be reached by a bind mount: that came later.
fn first_of(mounts: &[Mounted], mount: &Mounted) -> PathBuf {
    mounts.iter().find(|m| m.device == mount.device).unwrap_or(mount).mountpoint.clone()
}

/// `$XDG_STATE_HOME/regentfs/<name>-<hash>`: the name for people, the hash of the whole path for uniqueness.
pub fn default_store(root: &Path) -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let state = match set("XDG_STATE_HOME") {
        Some(dir) => dir,
        None => match set("HOME") {
            Some(home) => home.join(".local/state"),
            None => bail!("neither XDG_STATE_HOME nor HOME is set: give a directory with --store"),
        },
    };
    let hash = blake3::hash(root.as_os_str().as_bytes()).to_hex();
    let mut name = root.file_name().map_or_else(|| b"root".to_vec(), |n| n.as_bytes().to_vec());
    // Room for the hash within NAME_MAX.
    name.truncate(200);
    name.push(b'-');
    name.extend(hash.bytes().take(8));
    Ok(state.join("regentfs").join(OsString::from_vec(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_told_apart_by_path() {
        let (a, b) = (default_store(Path::new("/x/repo")).unwrap(), default_store(Path::new("/y/repo")).unwrap());
        assert_ne!(a, b);
        let name = a.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("repo-") && name.len() == "repo-".len() + 8, "{name}");
        assert!(default_store(Path::new("/")).unwrap().file_name().unwrap().as_bytes().starts_with(b"root-"));
    }

    #[test]
    fn finds_the_top_level_and_the_innermost_mount() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(top.join("repo/.git")).unwrap();
        std::fs::create_dir_all(top.join("repo/src/deep")).unwrap();
        assert_eq!(discover(Some(&top.join("repo/src/deep")), None).unwrap().root, top.join("repo"));
        assert_eq!(to_mount(Some(&top.join("repo/src")), None).unwrap().root, top.join("repo/src"));
        let missing = discover(Some(&top.join("none")), None).unwrap_err().to_string();
        assert!(missing.contains("does not exist"), "{missing}");
        let mount =
            |at: &str| Mounted { id: 1, device: format!("0:{}", at.len()), repo: "/r".into(), mountpoint: at.into() };
        let mounts = [mount("/a"), mount("/a/b"), mount("/ab")];
        assert_eq!(mount_of(&mounts, Path::new("/a/b/c")).unwrap().mountpoint, Path::new("/a/b"));
        assert_eq!(mount_of(&mounts, Path::new("/abc")), None);
        let bound = Mounted { mountpoint: "/elsewhere".into(), ..mount("/a") };
        assert_eq!(first_of(&mounts, &bound), Path::new("/a"));
    }
}
