//! Running git's plumbing beside a repository: in a directory of its own, with settings of its own, without hooks and filters.
//!
//! The repository is read through a descriptor, so it is the one on disk also where a mount covers it. It is never written to from here. Knows no
//! overlay: what is to be made of which state is decided elsewhere.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::index::{self, Entry};
use super::{Error, Result};
use crate::types::Time;

/// A directory for one piece of work, removed in the end.
#[derive(Debug)]
pub struct Scratch(PathBuf);

/// What the directories of this kind begin with; a process id and a number follow.
pub const PREFIX: &str = "export-";

impl Scratch {
    /// A new one in `dir`. Those that other processes left there are removed: only one process uses a store at a time.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(dir: &Path) -> Result<Scratch> {
        let own = format!("{PREFIX}{}-", std::process::id());
        for entry in fs::read_dir(dir).map_err(Error::io("list", dir))?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(PREFIX) && !name.starts_with(&own) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Scratch::make(dir, &own)
    }

    /// A new one in `dir` whose name begins so.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make(dir: &Path, prefix: &str) -> Result<Scratch> {
        use std::os::unix::fs::DirBuilderExt;
        let mut number = 0;
        loop {
            let path = dir.join(format!("{prefix}{number}"));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Scratch(path)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(Error::io("create", &path)(e)),
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "a directory is left over");
        }
    }
}

/// The settings of git that decide what it would store, and that run nothing.
const SETTINGS: &[&str] = &["core.autocrlf", "core.eol", "core.fileMode", "core.symlinks", "core.ignoreCase"];
/// The same for settings that name a file.
const FILES: &[&str] = &["core.excludesFile", "core.attributesFile"];

/// git, as it is called here: nothing of the caller's surroundings counts.
pub(super) fn bare_command() -> Command {
    let mut command = Command::new("git");
    for (name, _) in std::env::vars_os() {
        if name.as_bytes().starts_with(b"GIT_") {
            command.env_remove(name);
        }
    }
    command
        .env("LC_ALL", "C")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_DEFAULT_REF_FORMAT", "files")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a command to its end. `input` is written beside the reading, so neither waits for the other.
///
/// # Errors
/// [`Error::NoGit`]; [`Error::Git`] with what it said.
pub(super) fn run(mut command: Command, what: &str, input: &[u8]) -> Result<Vec<u8>> {
    // A file that was given as its input stays that.
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let started = command.spawn();
    let mut child = started.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::NoGit,
        _ => Error::io("run", "git")(e),
    })?;
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            // Who stops reading says in its exit code whether that was right.
            if let Some(mut stdin) = stdin {
                let _ = stdin.write_all(input);
            }
        });
        child.wait_with_output()
    })
    .map_err(Error::io("run", "git"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().filter(|l| !l.trim().is_empty()).take(3).collect::<Vec<_>>().join("; ");
    let why = if said.is_empty() { output.status.to_string() } else { said };
    Err(Error::Git { what: what.to_owned(), why })
}

/// A line of text.
pub(super) fn line(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}

/// A git repository on disk that is only read.
#[derive(Debug)]
pub struct Base {
    /// Not closed at exec: git reaches the repository through it.
    root: OwnedFd,
    scratch: PathBuf,
    /// The commit that is checked out; `None` before the first one.
    pub head: Option<String>,
    /// All references with their full names.
    pub refs: Vec<(String, String)>,
    /// `sha1` or `sha256`.
    pub format: String,
    settings: Vec<(String, String)>,
    pub author: Author,
}

/// Who commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    pub name: String,
    pub email: String,
}

impl Default for Author {
    fn default() -> Author {
        Author { name: "regentfs".to_owned(), email: "regentfs@localhost".to_owned() }
    }
}

impl Base {
    /// The repository whose root directory this is; `None` when it is not git's. `scratch` is a directory for what reading it needs.
    ///
    /// # Errors
    /// [`Error::Linked`] when its `.git` is elsewhere; what git says.
    pub fn open(root: &OwnedFd, scratch: &Path) -> Result<Option<Base>> {
        let root = rustix::io::dup(root).map_err(|e| Error::io("open", "the repository")(e.into()))?;
        let git = PathBuf::from(format!("/proc/self/fd/{}/.git", root.as_raw_fd()));
        match git.symlink_metadata() {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(Error::Linked),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("look at", ".git")(e)),
        }
        let dir = scratch.join("base.git");
        let make = |path: &Path| fs::create_dir_all(path).map_err(Error::io("create", path));
        make(&dir)?;
        let objects = scratch.join("base.objects");
        make(&objects.join("info"))?;
        // git follows these links by itself, but for the directory's own name, which it would resolve into the mount: so the directory is real.
        for first in 0..=255_u8 {
            link(&git.join(format!("objects/{first:02x}")), &objects.join(format!("{first:02x}")))?;
        }
        link(&git.join("objects/pack"), &objects.join("pack"))?;
        alternates(&git.join("objects"), &objects)?;
        link(&objects, &dir.join("objects"))?;
        for name in ["refs", "packed-refs", "reftable", "shallow"] {
            if git.join(name).symlink_metadata().is_ok() {
                link(&git.join(name), &dir.join(name))?;
            }
        }
        // git does not take a repository for one whose HEAD is a link to elsewhere.
        for name in ["HEAD", "config"] {
            copy(&git.join(name), &dir.join(name))?;
        }
        let mut base = Base {
            root,
            scratch: scratch.to_owned(),
            head: None,
            refs: Vec::new(),
            format: String::new(),
            settings: Vec::new(),
            author: Author::default(),
        };
        base.read_settings()?;
        let text = line(base.ask(&dir, "list the branches", &["for-each-ref", "--format=%(objectname) %(refname)"])?);
        base.refs = text.lines().filter_map(|l| l.split_once(' ')).map(|(id, name)| (name.into(), id.into())).collect();
        base.head = base.ask(&dir, "find HEAD", &["rev-parse", "-q", "--verify", "HEAD^{commit}"]).ok().map(line);
        Ok(Some(base))
    }

    fn ask(&self, dir: &Path, what: &str, arguments: &[&str]) -> Result<Vec<u8>> {
        let mut command = bare_command();
        command.env("GIT_DIR", dir).env("GIT_WORK_TREE", ".").args(arguments).current_dir(&self.scratch);
        run(command, what, b"")
    }

    /// The user's own settings and those of the repository, which is the user's as well. Reading them runs nothing. Asked where the repository really is, since
    /// settings can depend on that.
    fn read_settings(&mut self) -> Result<()> {
        let dir = self.git_path("");
        let get = |name: &str, kind: &str| {
            let kind: &[&str] = if kind.is_empty() { &[] } else { &[kind] };
            let got = self.ask(&dir, "read its settings", &[&["config"], kind, &["--get", name]].concat());
            got.ok().map(line).filter(|value| !value.is_empty())
        };
        let mut settings = Vec::new();
        for (names, kind) in [(SETTINGS, ""), (FILES, "--type=path")] {
            settings.extend(names.iter().filter_map(|name| Some(((*name).to_owned(), get(name, kind)?))));
        }
        let name = get("user.name", "");
        let author = Author {
            email: get("user.email", "").unwrap_or_else(|| match &name {
                Some(_) => String::new(),
                None => Author::default().email,
            }),
            name: name.unwrap_or_else(|| Author::default().name),
        };
        let format = get("extensions.objectFormat", "").unwrap_or_else(|| "sha1".to_owned());
        (self.settings, self.author, self.format) = (settings, author, format);
        Ok(())
    }

    /// Whether references are files, as most have them.
    pub fn has_files_for_refs(&self) -> bool {
        self.scratch.join("base.git/reftable").symlink_metadata().is_err()
    }

    fn git_path(&self, name: &str) -> PathBuf {
        git_path(&self.root, name)
    }

    /// What a reference is when this is asked, now or later; `None` if there is none.
    ///
    /// # Errors
    /// When the repository cannot be held.
    pub fn asking_for(&self, name: &str) -> Result<impl Fn() -> Option<String> + use<>> {
        let root = self.root.try_clone().map_err(Error::io("open", "the repository"))?;
        let name = name.to_owned();
        Ok(move || match fs::read_to_string(git_path(&root, &name)) {
            Ok(text) => Some(text.trim_end().to_owned()),
            // git leaves empty directories where references were.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => {
                let packed = fs::read_to_string(git_path(&root, "packed-refs")).unwrap_or_default();
                let mut lines = packed.lines().filter_map(|line| line.split_once(' '));
                lines.find(|(_, packed)| *packed == name).map(|(id, _)| id.to_owned())
            }
            // Something else than it was, whatever it was.
            Err(_) => Some(String::new()),
        })
    }
}

fn git_path(root: &OwnedFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/.git/{name}", root.as_raw_fd()))
}

pub(super) fn link(to: &Path, at: &Path) -> Result<()> {
    std::os::unix::fs::symlink(to, at).map_err(Error::io("create", at))
}

/// Copies a file; one that is missing is nothing.
pub(super) fn copy(from: &Path, to: &Path) -> Result<bool> {
    let mut bytes = Vec::new();
    match fs::File::open(from).and_then(|mut file| file.read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io("read", from)(e)),
    }
    fs::write(to, bytes).map_err(Error::io("write", to))?;
    Ok(true)
}

/// Where a repository borrows objects from, said so that it is right in another place.
fn alternates(objects: &Path, copy: &Path) -> Result<()> {
    let Ok(list) = fs::read(objects.join("info/alternates")) else { return Ok(()) };
    let mut text = Vec::new();
    for entry in list.split(|&b| b == b'\n').filter(|l| !l.is_empty() && !l.starts_with(b"#")) {
        let entry = objects.join(OsStr::from_bytes(entry));
        text.extend_from_slice(entry.as_os_str().as_bytes());
        text.push(b'\n');
    }
    let at = copy.join("info/alternates");
    fs::write(&at, text).map_err(Error::io("write", at))
}

/// A repository of its own in a scratch directory. What a base has is there too, without being copied.
#[derive(Debug)]
pub struct Repo {
    dir: PathBuf,
    scratch: PathBuf,
    index: PathBuf,
    /// The length of an object's name, bytes.
    hash: usize,
}

impl Repo {
    /// A new one, with the settings and the objects of `base` if there is one.
    ///
    /// # Errors
    /// What git says.
    pub fn new(scratch: &Path, base: Option<&Base>) -> Result<Repo> {
        let dir = scratch.join("repo.git");
        let format = base.map_or("sha1", |b| &b.format);
        let hash = if format == "sha256" { 32 } else { 20 };
        let repo = Repo { dir: dir.clone(), scratch: scratch.to_owned(), index: scratch.join("index"), hash };
        let format = format!("--object-format={format}");
        repo.git("prepare", &["init", "-q", "--bare", "--template=", "-b", "main", &format], b"")?;
        let mut config = String::from("[core]\n\tbare = false\n\tlogAllRefUpdates = false\n\tsafecrlf = false\n");
        for (name, value) in base.iter().flat_map(|b| &b.settings) {
            let Some((section, key)) = name.split_once('.') else { continue };
            let value = value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', "\\n");
            config.push_str(&format!("[{section}]\n\t{key} = \"{value}\"\n"));
        }
        let at = dir.join("config");
        let mut had = fs::read_to_string(&at).map_err(Error::io("read", &at))?;
        had.push_str(&config);
        fs::write(&at, had).map_err(Error::io("write", &at))?;
        for name in ["info", "objects/info"] {
            fs::create_dir_all(dir.join(name)).map_err(Error::io("create", name))?;
        }
        let Some(base) = base else { return Ok(repo) };
        let borrowed = scratch.join("base.objects");
        let at = dir.join("objects/info/alternates");
        fs::write(&at, [borrowed.as_os_str().as_bytes(), b"\n"].concat()).map_err(Error::io("write", at))?;
        for name in ["info/exclude", "info/attributes", "shallow"] {
            copy(&base.git_path(name), &dir.join(name))?;
        }
        Ok(repo)
    }

    fn command(&self) -> Command {
        let mut command = bare_command();
        command
            .env("GIT_DIR", &self.dir)
            .env("GIT_INDEX_FILE", &self.index)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .current_dir(&self.scratch);
        command
    }

    /// Runs git. `what` says for people what it is to do.
    ///
    /// # Errors
    /// [`Error::NoGit`]; [`Error::Git`] with what it said.
    pub fn git(&self, what: &str, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
        let mut command = self.command();
        command.args(arguments);
        run(command, what, input)
    }

    /// As [`Repo::git`], for an answer of one line.
    ///
    /// # Errors
    /// As [`Repo::git`].
    pub fn line(&self, what: &str, arguments: &[&str], input: &[u8]) -> Result<String> {
        self.git(what, arguments, input).map(line)
    }

    /// Runs git with a directory of files.
    ///
    /// # Errors
    /// As [`Repo::git`].
    pub fn git_in(&self, files: &Path, what: &str, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
        let mut command = self.command();
        command.env("GIT_WORK_TREE", files).current_dir(files).args(arguments);
        run(command, what, input)
    }

    /// Runs git in the directory of the repository on disk, which is entered by descriptor. Only for what lists files: much of git goes to its top
    /// directory by name, and that would be the mount.
    ///
    /// # Errors
    /// As [`Repo::git`].
    pub fn git_in_base(&self, base: &Base, what: &str, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
        let mut command = self.command();
        let files = format!("/proc/self/fd/{}", base.root.as_raw_fd());
        command.env("GIT_WORK_TREE", ".").current_dir(files).args(arguments);
        run(command, what, input)
    }

    /// Runs git with a file as its input.
    ///
    /// # Errors
    /// As [`Repo::git`].
    pub fn git_from(&self, what: &str, arguments: &[&str], input: fs::File) -> Result<Vec<u8>> {
        let mut command = self.command();
        command.args(arguments).stdin(input);
        run(command, what, b"")
    }

    /// Commits a tree.
    ///
    /// # Errors
    /// As [`Repo::git`].
    pub fn commit(&self, tree: &str, parent: Option<&str>, commit: &Commit<'_>) -> Result<String> {
        let mut command = self.command();
        command.args(["commit-tree", "-F", "-", tree]);
        if let Some(parent) = parent {
            command.args(["-p", parent]);
        }
        let Author { name, email } = commit.author;
        let date = format!("{} +0000", commit.seconds.max(0));
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), name).env(format!("GIT_{who}_EMAIL"), email);
            command.env(format!("GIT_{who}_DATE"), &date);
        }
        run(command, "commit", commit.message.as_bytes()).map(line)
    }

    /// The index, for what is to be in a tree.
    pub fn index(&self) -> &Path {
        &self.index
    }

    /// Starts with what the base's own index knows: so unchanged files are not read. Returns when that was written.
    ///
    /// # Errors
    /// When it cannot be copied; what git says.
    pub fn take_index(&self, base: &Base) -> Result<Time> {
        let from = base.git_path("index");
        // Before it is read: what is changed meanwhile must not look older.
        let written = fs::metadata(&from).map(|m| Time::new(m.mtime(), u32::try_from(m.mtime_nsec()).unwrap_or(0)));
        if copy(&from, &self.index)? {
            let dir = base.git_path("");
            for entry in fs::read_dir(&dir).map_err(Error::io("list", dir))?.flatten() {
                if entry.file_name().as_bytes().starts_with(b"sharedindex.") {
                    copy(&entry.path(), &self.dir.join(entry.file_name()))?;
                }
            }
        } else if let Some(head) = &base.head {
            self.git("read the commit", &["read-tree", head], b"")?;
        }
        Ok(written.unwrap_or_default())
    }

    /// What the index has, with what it knows of the files.
    ///
    /// # Errors
    /// When it cannot be read; what git says.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        if self.index.symlink_metadata().is_err() {
            return Ok(Vec::new());
        }
        // In one file, and in the form that is read here.
        let how = ["update-index", "--no-split-index", "--index-version", "2", "--force-write-index"];
        self.git("read the index", &how, b"")?;
        let bytes = fs::read(&self.index).map_err(Error::io("read", &self.index))?;
        index::parse(&bytes, self.hash).ok_or_else(|| Error::Git {
            what: "read the index".to_owned(),
            why: "it has a form that regentfs does not know".to_owned(),
        })
    }

    /// The packs that were made here: paths without their endings.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn packs(&self) -> Result<Vec<PathBuf>> {
        let dir = self.dir.join("objects/pack");
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io("list", &dir))?,
        };
        let paths = entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "pack"));
        Ok(paths.map(|p| p.with_extension("")).collect())
    }
}

/// What a commit says.
pub struct Commit<'a> {
    pub author: &'a Author,
    /// Since 1970.
    pub seconds: i64,
    pub message: String,
}

/// Names that git separates by zero bytes.
pub fn names(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&b| b == 0).filter(|name| !name.is_empty())
}

/// A file name of bytes.
pub fn os(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_what_it_is_when_it_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join("repo/.git").join(name);
        let (root, scratch) = (dir.path().join("repo"), dir.path().join("scratch"));
        for dir in [&root, &scratch] {
            fs::create_dir(dir).unwrap();
        }
        let mut init = bare_command();
        init.args(["init", "-q"]).arg(&root);
        run(init, "begin", b"").unwrap();
        let root = OwnedFd::from(fs::File::open(root).unwrap());
        let base = Base::open(&root, &scratch).unwrap().unwrap();
        let ask = base.asking_for("refs/notes/ai").unwrap();
        drop(base);
        assert_eq!(ask(), None);
        fs::create_dir_all(at("refs/notes/ai")).unwrap();
        assert_eq!(ask(), None);
        fs::write(at("packed-refs"), "# pack-refs with: peeled\naa refs/notes/aim\nbb refs/notes/ai\n^cc\n").unwrap();
        assert_eq!(ask().as_deref(), Some("bb"));
        fs::remove_dir(at("refs/notes/ai")).unwrap();
        assert_eq!(ask().as_deref(), Some("bb"));
        fs::write(at("refs/notes/ai"), "dd\n").unwrap();
        assert_eq!(ask().as_deref(), Some("dd"));
        fs::write(at("refs/notes/ai"), "ref: refs/notes/other\n").unwrap();
        assert_eq!(ask().as_deref(), Some("ref: refs/notes/other"));
        // What cannot be read is nothing that it was.
        fs::write(at("refs/notes/ai"), b"\xff").unwrap();
        assert_eq!(ask().as_deref(), Some(""));
    }
}
