//! From a state of the tree to what git would store of it: changed files are put into a directory, and git takes them into its index from there.
//!
//! So what is ignored, how lines end and what is executable is decided by git itself, from the .gitignore and .gitattributes files of that very state.
//! Each state gets a directory of its own: a symbolic link of one can be a directory of the next.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::git::{self, Base, Repo};
use super::{Error, Result};
use crate::diff;
use crate::overlay::view::{Node, View};
use crate::types::{Kind, Path, Time};

/// Bytes that are copied at once.
const PIECE: usize = 256 << 10;
/// What decides how git takes the files beside and below.
const RULES: [&[u8]; 2] = [b".gitignore", b".gitattributes"];

/// The index, state by state.
pub struct Stage<'r> {
    repo: &'r Repo,
    /// Also what git would ignore.
    all: bool,
    /// Paths that git has, here or in the base: these are never ignored.
    tracked: HashSet<Vec<u8>>,
    /// Directories that are other repositories.
    links: HashSet<Vec<u8>>,
    /// What was left out because it is ignored: that can change.
    ignored: BTreeSet<Path>,
    states: u32,
    /// When the base's index was written.
    index_time: Time,
    pub notes: Vec<String>,
}

/// What is to be taken over.
#[derive(Default)]
struct Changes {
    gone: Vec<Path>,
    there: Vec<(Path, Node)>,
}

impl<'r> Stage<'r> {
    /// Begins with an empty index. What the base's index has counts as tracked.
    ///
    /// # Errors
    /// What git says.
    pub fn new(repo: &'r Repo, base: Option<&Base>, all: bool) -> Result<Stage<'r>> {
        let mut stage = Stage {
            repo,
            all,
            tracked: HashSet::new(),
            links: HashSet::new(),
            ignored: BTreeSet::new(),
            states: 0,
            index_time: Time::default(),
            notes: Vec::new(),
        };
        if let Some(base) = base {
            stage.index_time = repo.take_index(base)?;
            stage.read_tracked()?;
        }
        Ok(stage)
    }

    fn read_tracked(&mut self) -> Result<()> {
        for entry in git::names(&self.repo.git("list the files", &["ls-files", "-z", "-s"], b"")?) {
            let Some(at) = entry.iter().position(|&b| b == b'\t') else { continue };
            let (head, path) = (entry.get(..at).unwrap_or_default(), entry.get(at + 1..).unwrap_or_default());
            if head.starts_with(b"160000") {
                self.links.insert(path.to_vec());
            }
            self.tracked.insert(path.to_vec());
        }
        Ok(())
    }

    /// Forgets what the index has, but not what is tracked.
    ///
    /// # Errors
    /// What git says.
    pub fn empty(&self) -> Result<()> {
        self.repo.git("begin", &["read-tree", "--empty"], b"").map(drop)
    }

    /// Makes the index, which is the base's own, what the base's files are.
    ///
    /// # Errors
    /// What git says; when the base cannot be read.
    pub fn take_base(&mut self, base: &Base, disk: &View<'_>) -> Result<()> {
        let mut taken = Changes::default();
        for entry in self.repo.entries()? {
            let path = Path::new(&entry.path);
            match disk.find(&path)?.filter(|n| matches!(n.kind, Kind::File | Kind::Symlink)) {
                None if entry.is_pinned => {}
                None => taken.gone.push(path),
                Some(node) if entry.is_of(&node.attr, node.base.unwrap_or_default().1, self.index_time) => {}
                Some(node) => taken.there.push((path, node)),
            }
        }
        let how: &[&str] = if self.all { &[] } else { &["--exclude-standard"] };
        let arguments = [&["ls-files", "-o", "-z"], how].concat();
        for name in git::names(&self.repo.git_in_base(base, "look at the repository", &arguments, b"")?) {
            // A directory with a repository of its own ends so.
            let path = Path::new(name);
            if !name.ends_with(b"/")
                && let Some(node) = disk.find(&path)?.filter(|n| matches!(n.kind, Kind::File | Kind::Symlink))
            {
                taken.there.push((path, node));
            }
        }
        self.take(disk, taken)
    }

    /// Takes over how `to` differs from `from`, which the index is.
    ///
    /// # Errors
    /// When a state cannot be read; what git says.
    pub fn go(&mut self, from: &View<'_>, to: &View<'_>) -> Result<()> {
        let (changes, notes) = diff::plain(from, to)?;
        self.notes.extend(notes);
        let mut taken = Changes::default();
        for change in changes {
            match change.new {
                Some(node) => taken.there.push((change.path, node)),
                None => taken.gone.push(change.path),
            }
        }
        let rules = |path: &Path| path.split_last().is_some_and(|(_, name)| RULES.contains(&name));
        if taken.gone.iter().chain(taken.there.iter().map(|(p, _)| p)).any(rules) {
            for path in std::mem::take(&mut self.ignored) {
                if !taken.there.iter().any(|(p, _)| *p == path)
                    && let Some(node) = to.find(&path)?.filter(|n| matches!(n.kind, Kind::File | Kind::Symlink))
                {
                    taken.there.push((path, node));
                }
            }
        }
        self.take(to, taken)
    }

    /// Takes the files at some paths as they are in a state, which the index is otherwise.
    ///
    /// # Errors
    /// As [`Stage::go`].
    pub fn take_paths(&mut self, state: &View<'_>, paths: &BTreeSet<Path>) -> Result<()> {
        let mut taken = Changes::default();
        for path in paths {
            if let Some(node) = state.find(path)?.filter(|n| matches!(n.kind, Kind::File | Kind::Symlink)) {
                taken.there.push((path.clone(), node));
            }
        }
        self.take(state, taken)
    }

    fn take(&mut self, state: &View<'_>, mut taken: Changes) -> Result<()> {
        self.drop_foreign(state, &mut taken)?;
        self.states += 1;
        let dir = Files::new(self.repo.index().with_file_name(format!("state-{}", self.states)))?;
        let mut seen = HashSet::new();
        for (path, _) in &taken.there {
            dir.rules_above(state, path, &mut seen)?;
        }
        self.drop_ignored(&dir, &mut taken)?;
        for (path, node) in &taken.there {
            dir.put(state, path, node)?;
        }
        let update = |how: &[&str], paths: Vec<u8>| match paths.is_empty() {
            true => Ok(Vec::new()),
            false => self.repo.git_in(
                &dir.root,
                "take a state's files",
                &[&["update-index"], how, &["-z", "--stdin"]].concat(),
                &paths,
            ),
        };
        update(&["--force-remove"], list(taken.gone.iter().filter(|p| self.tracked.contains(p.as_bytes()))))?;
        // What git has as a file can be a directory now, and the other way round.
        update(&["--add", "--replace"], list(taken.there.iter().map(|(path, _)| path)))?;
        for path in &taken.gone {
            self.tracked.remove(path.as_bytes());
            self.ignored.remove(path);
        }
        self.tracked.extend(taken.there.iter().map(|(p, _)| p.as_bytes().to_vec()));
        Ok(())
    }

    /// Leaves out what belongs to repositories inside this one, and names that git refuses.
    fn drop_foreign(&mut self, state: &View<'_>, taken: &mut Changes) -> Result<()> {
        let mut known = std::collections::HashMap::new();
        let mut is_foreign = |path: &Path| -> Result<bool> {
            let mut at = path.clone();
            while let Some((dir, _)) = at.split_last().filter(|(dir, _)| *dir != Path::root()) {
                let foreign = match known.get(&dir) {
                    Some(&known) => known,
                    None => {
                        let found = self.links.contains(dir.as_bytes()) || state.find(&dir.join(b".git"))?.is_some();
                        known.insert(dir.clone(), found);
                        found
                    }
                };
                if foreign {
                    return Ok(true);
                }
                at = dir;
            }
            Ok(self.links.contains(path.as_bytes()))
        };
        let mut keep = Vec::new();
        for (path, node) in taken.there.drain(..) {
            if path.components().any(is_refused) {
                self.notes.push(format!("{path} is left out: git takes no such name"));
            } else if !is_foreign(&path)? {
                keep.push((path, node));
            }
        }
        taken.there = keep;
        let mut gone = Vec::new();
        for path in taken.gone.drain(..) {
            if !is_foreign(&path)? {
                gone.push(path);
            }
        }
        taken.gone = gone;
        Ok(())
    }

    fn drop_ignored(&mut self, dir: &Files, taken: &mut Changes) -> Result<()> {
        if self.all {
            return Ok(());
        }
        let asked = list(taken.there.iter().map(|(path, _)| path).filter(|p| !self.tracked.contains(p.as_bytes())));
        if asked.is_empty() {
            return Ok(());
        }
        // With ./ in front no name is taken for a pattern.
        let asked = git::names(&asked).flat_map(|name| [b"./", name, b"\0"].concat()).collect::<Vec<u8>>();
        let arguments = ["check-ignore", "--no-index", "-z", "--stdin"];
        let ignored = match self.repo.git_in(&dir.root, "tell what is ignored", &arguments, &asked) {
            Ok(list) => list,
            // Exit code 1 and no word: nothing is.
            Err(Error::Git { why, .. }) if why.ends_with("exit status: 1") => Vec::new(),
            Err(error) => return Err(error),
        };
        let ignored: HashSet<&[u8]> = git::names(&ignored).filter_map(|name| name.strip_prefix(b"./")).collect();
        taken.there.retain(|(path, _)| {
            let stays = !ignored.contains(path.as_bytes());
            if !stays {
                self.ignored.insert(path.clone());
            }
            stays
        });
        Ok(())
    }

    /// The tree of the index.
    ///
    /// # Errors
    /// What git says.
    pub fn tree(&self) -> Result<String> {
        // What the base lacks itself (a partial clone) is not missed.
        self.repo.line("write a tree", &["write-tree", "--missing-ok"], b"")
    }
}

/// Paths, each with a zero byte behind it.
fn list<'p>(paths: impl Iterator<Item = &'p Path>) -> Vec<u8> {
    let mut list = Vec::new();
    for path in paths {
        list.extend_from_slice(path.as_bytes());
        list.push(0);
    }
    list
}

/// Names that lead git, or git on other systems, into a repository's own directory.
fn is_refused(name: &[u8]) -> bool {
    let lower = name.to_ascii_lowercase();
    let after = lower.strip_prefix(b".git").or_else(|| lower.strip_prefix(b"git~1"));
    after.is_some_and(|rest| rest.is_empty() || rest.iter().all(|b| matches!(b, b' ' | b'.')) || rest.starts_with(b":"))
        || (lower.starts_with(b".") && !name.is_ascii() && lower.iter().filter(|b| b.is_ascii()).eq(b".git"))
}

/// A directory with files of one state; removed in the end.
struct Files {
    root: PathBuf,
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

impl Files {
    fn new(root: PathBuf) -> Result<Files> {
        fs::create_dir(&root).map_err(Error::io("create", &root))?;
        Ok(Files { root })
    }

    /// Puts the files that say how git takes `path`.
    fn rules_above(&self, state: &View<'_>, path: &Path, seen: &mut HashSet<Path>) -> Result<()> {
        let mut at = path.clone();
        while let Some((dir, _)) = at.split_last() {
            if !seen.insert(dir.clone()) {
                break;
            }
            for name in RULES {
                let path = dir.join(name);
                if let Some(node) = state.find(&path)?.filter(|n| n.kind == Kind::File) {
                    self.put(state, &path, &node)?;
                }
            }
            at = dir;
        }
        Ok(())
    }

    /// Puts one file, unless it is there.
    fn put(&self, state: &View<'_>, path: &Path, node: &Node) -> Result<()> {
        let at = self.root.join(git::os(path.as_bytes()));
        let failed = |what| Error::io(what, &at);
        if let Some(dir) = at.parent() {
            fs::create_dir_all(dir).map_err(failed("create"))?;
        }
        let unread = |errno| Error::Unread { path: path.clone(), errno };
        if node.kind == Kind::Symlink {
            let target = state.target(node).map_err(unread)?;
            return std::os::unix::fs::symlink(git::os(&target), &at).map_err(failed("create"));
        }
        let mode = if node.perm & 0o100 != 0 { 0o700 } else { 0o600 };
        let mut file = match fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&at) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
            Err(e) => return Err(failed("create")(e)),
        };
        let reader = state.open(node).map_err(unread)?;
        let mut piece = vec![0; PIECE];
        let mut offset = 0;
        while offset < node.size {
            let left = usize::try_from(node.size - offset).unwrap_or(PIECE).min(PIECE);
            let got = reader.read_at(offset, piece.get_mut(..left).unwrap_or_default()).map_err(unread)?;
            if got == 0 {
                break;
            }
            file.write_all(piece.get(..got).unwrap_or_default()).map_err(failed("write"))?;
            offset += got as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_into_gits_own_directory() {
        for name in [".git", ".GIT", "git~1", ".git ", ".git...", ".git::$INDEX_ALLOCATION", ".g\u{200c}it"] {
            assert!(is_refused(name.as_bytes()), "{name}");
        }
        for name in [".gitignore", "git", ".github", "git~10", ".gitmodules", "\u{fc}.git"] {
            assert!(!is_refused(name.as_bytes()), "{name}");
        }
    }
}
