//! History for git: snapshots as patches, or as commits on a new branch of the repository on disk; and commits that were made in the mount.
//!
//! git itself makes objects and patches, in a directory in the store (`git.rs`); what it is given are files of a state (`stage.rs`). The repository gets
//! a pack and a reference, and only through `apply/`; nothing else of it is written, and no hook runs.

mod annotate;
mod authors;
mod chain;
mod git;
mod index;
mod lines;
mod mount;
mod notes;
mod place;
mod stage;
mod trace;
mod trailers;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path as FsPath, PathBuf};

use crate::apply;
use crate::blame::BlameError;
use crate::diff::{self, DiffError};
use crate::overlay::Overlay;
use crate::overlay::view::View;
use crate::query::QueryError;
use crate::query::steps::StepId;
use crate::store::StoreError;
use crate::timeline::{Machine, TimeError};
use crate::types::{ActorId, Errno, Path, Time};

use annotate::Worked;
use git::{Base, Commit, Repo, Scratch};
use place::Reference;
use stage::Stage;

pub use annotate::Noted;
pub use authors::Authors;
pub use chain::{Chain, Range};
pub use git::PREFIX;
pub use mount::Mounted;
pub use notes::REFERENCE as NOTES;

/// Why there is no export. Then the repository is as it was, but perhaps for a pack that nothing refers to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {what} {path}: {source}", path = .path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("git is needed for this and is not there: install it")]
    NoGit,
    #[error("git cannot {what}: {why}")]
    Git { what: String, why: String },
    #[error(
        "the repository's .git is not a directory in it (a worktree or a submodule): work with `regentfs export --patch`"
    )]
    Linked,
    #[error("the repository is not git's: there is no .git")]
    NotGit,
    #[error(
        "the repository keeps its branches in a reftable, to which regentfs cannot add one: use `regentfs export --patch`"
    )]
    Reftable,
    #[error("{0:?} cannot be the name of a branch: see `man git-check-ref-format`")]
    BadName(String),
    #[error("the repository has a branch {0} already: give another name")]
    Taken(String),
    #[error("the repository has a branch {other}, beside which there cannot be one called {name}: give another name")]
    Beside { name: String, other: String },
    #[error("the repository has no branch {0}: `regentfs export --git-branch` makes one")]
    NoBranch(String),
    #[error("no commit of branch {0} says that it is a snapshot which this store has")]
    NotExported(String),
    #[error("the repository has a reference {0}, beside which there can be no notes in refs/notes/ai")]
    BesideNotes(String),
    #[error("another git process holds {0} in the repository; if there is none, remove that file")]
    Held(Path),
    #[error("nothing changed there that git would store")]
    Nothing,
    #[error("{from} is not in the past of {to}: with --single the way from one to the other is one patch")]
    NotInPast { from: String, to: String },
    #[error("the commits are not whole: {0}")]
    Broken(String),
    #[error("cannot read {path} as it was: {errno}")]
    Unread { path: Path, errno: Errno },
    #[error("cannot look at that state: {0}")]
    Os(#[from] Errno),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Diff(#[from] DiffError),
    #[error(transparent)]
    Time(#[from] TimeError),
    #[error(transparent)]
    Blame(#[from] BlameError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Apply(apply::Error),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(what: &'static str, path: impl AsRef<FsPath>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_owned();
        move |source| Error::Io { what, path, source }
    }
}

impl From<apply::Error> for Error {
    fn from(error: apply::Error) -> Error {
        match error {
            apply::Error::InTheWay { path } => Error::Held(path),
            other => Error::Apply(other),
        }
    }
}

/// A commit that was made, or a patch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    pub commit: String,
    /// The snapshot that it is the state of; `None` for the present, and for what was there before the first.
    pub snapshot: Option<String>,
    pub subject: String,
}

/// A patch as a file.
pub struct Patch {
    pub made: Made,
    /// As git names it: `0001-subject.patch`.
    pub name: String,
    pub text: Vec<u8>,
}

/// Commits on their way into the repository.
struct Commits {
    list: Vec<Made>,
    /// Those in front of the first state.
    before: usize,
    tip: Option<String>,
    notes: Vec<String>,
    /// Of those that are a state of history.
    worked: Vec<Worked>,
}

/// A branch that was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Branch {
    /// Where it begins; `None` if the repository had no commit.
    pub parent: Option<String>,
    pub tip: String,
    pub commits: Vec<Made>,
    /// What became of git's notes, if they were asked for.
    pub noted: Option<Noted>,
    /// For people.
    pub notes: Vec<String>,
}

/// What is exported, and from what.
pub struct Exporter<'m> {
    pub machine: &'m Machine,
    /// Who did what; `None` where that is not told.
    pub authors: Option<&'m Authors>,
    /// Of a state that was put together of these steps: they are told, and no snapshot.
    pub chosen: Option<Vec<(StepId, ActorId)>>,
    /// Commits name agents as their co-authors.
    pub co_authors: bool,
    /// Also files that git would ignore.
    pub all: bool,
    pub now: Time,
    /// Told how many states are done, of how many.
    pub progress: &'m dyn Fn(u64, u64),
    /// Asked until the repository is about to be changed.
    pub cancelled: &'m dyn Fn() -> bool,
    /// Told what is new in the repository on disk, for other mounts of it.
    pub gained: &'m dyn Fn(&[Path]),
}

impl Exporter<'_> {
    fn overlay(&self) -> &Overlay {
        self.machine.overlay()
    }

    fn base(&self, scratch: &Scratch) -> Result<Option<Base>> {
        let root = self.overlay().base().descriptor().map_err(|e| Error::io("open", "the repository")(e.into()))?;
        Base::open(&root, scratch.path())
    }

    /// The same for what only reads it. A worktree has git's settings and files elsewhere; its .gitignore files count all the same.
    fn base_to_read(&self, scratch: &Scratch) -> Result<Option<Base>> {
        match self.base(scratch) {
            Err(Error::Linked) => Ok(None),
            other => other,
        }
    }

    fn scratch(&self) -> Result<Scratch> {
        Scratch::new(&self.overlay().store().dir)
    }

    /// One patch for each state of a range that changed something. Second, remarks for people.
    ///
    /// # Errors
    /// What git, log and base say. Nothing to tell of is no error.
    pub fn patches(&self, range: &Range<'_>) -> Result<(Vec<Patch>, Vec<String>)> {
        let overlay = self.overlay();
        let chain = Chain::new(overlay, range, self.now)?;
        let scratch = self.scratch()?;
        let base = self.base_to_read(&scratch)?;
        let repo = Repo::new(scratch.path(), base.as_ref())?;
        let stage = self.stage_touched(&repo, base.as_ref(), &chain)?;
        let author = base.as_ref().map(|b| b.author.clone()).unwrap_or_default();
        let seed = self.commit(&repo, &stage, None, &author, (&chain.start_name, None, chain.start_time), &[])?;
        let commits = self.commits(&repo, stage, &chain, &author, vec![seed])?;
        let (Some(seed), Some(tip)) = (commits.list.first(), &commits.tip) else { return Err(Error::Nothing) };
        let dir = scratch.join("patches");
        let (range, out) = (format!("{}..{tip}", seed.commit), format!("{}", dir.display()));
        let signature = concat!("--signature=regentfs ", env!("CARGO_PKG_VERSION"));
        let how = ["format-patch", "-q", "--zero-commit", "--binary", "-M", signature, "-o", &out, &range];
        repo.git("make patches", &how, b"")?;
        let mut names: Vec<_> = match fs::read_dir(&dir) {
            Ok(entries) => entries.flatten().map(|e| e.file_name()).collect(),
            // Nothing to write.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io("list", &dir)(e)),
        };
        names.sort();
        let mut patches = Vec::new();
        for (name, made) in names.into_iter().zip(commits.list.into_iter().skip(commits.before)) {
            let at = dir.join(&name);
            let text = fs::read(&at).map_err(Error::io("read", &at))?;
            patches.push(Patch { made, name: name.to_string_lossy().into_owned(), text });
        }
        Ok((patches, commits.notes))
    }

    /// The start of a chain with no more than the files that are changed in it.
    fn stage_touched<'r>(&self, repo: &'r Repo, base: Option<&Base>, chain: &Chain) -> Result<Stage<'r>> {
        let overlay = self.overlay();
        let mut stage = Stage::new(repo, base, self.all)?;
        stage.empty()?;
        let mut touched = BTreeSet::new();
        for (before, after, _) in chain.pairs(overlay) {
            touched.extend(diff::plain(&before, &after)?.0.into_iter().map(|change| change.path));
        }
        stage.take_paths(&View::new(overlay, chain.start.clone()), &touched)?;
        Ok(stage)
    }

    /// Commits what the index is; second the snapshot, third its time.
    fn commit(
        &self,
        repo: &Repo,
        stage: &Stage<'_>,
        parent: Option<&str>,
        author: &git::Author,
        (subject, snapshot, time): (&str, Option<&str>, Time),
        steps: &[trailers::Told],
    ) -> Result<Made> {
        let message = trailers::message(subject, snapshot, steps, self.co_authors);
        let commit = repo.commit(&stage.tree()?, parent, &Commit { author, seconds: time.secs, message })?;
        Ok(Made { commit, snapshot: snapshot.map(str::to_owned), subject: subject.to_owned() })
    }

    /// One commit for each state that changed something, after those that are there.
    fn commits(
        &self,
        repo: &Repo,
        mut stage: Stage<'_>,
        chain: &Chain,
        author: &git::Author,
        list: Vec<Made>,
    ) -> Result<Commits> {
        let tip = list.last().map(|m| m.commit.clone());
        let mut commits = Commits { before: list.len(), list, tip, notes: Vec::new(), worked: Vec::new() };
        let pairs = chain.pairs(self.overlay());
        let total = pairs.len() as u64;
        let mut tree = stage.tree()?;
        for (done, (before, after, link)) in pairs.iter().enumerate() {
            (self.progress)(done as u64, total);
            self.still_wanted()?;
            stage.go(before, after)?;
            let next = stage.tree()?;
            if next != tree {
                let snapshot = link.snapshot.as_deref().filter(|_| self.chosen.is_none());
                let name = (link.subject.as_str(), snapshot, link.time);
                let mut worked = self.worked((before, after), lines::deltas(repo, &tree, &next)?)?;
                if let Some(chosen) = &self.chosen {
                    worked.steps.clone_from(chosen);
                }
                let told = self.told(&worked.steps);
                let made = self.commit(repo, &stage, commits.tip.as_deref(), author, name, &told)?;
                worked.commit.clone_from(&made.commit);
                commits.worked.push(worked);
                commits.tip = Some(made.commit.clone());
                commits.list.push(made);
                tree = next;
            }
        }
        commits.notes = std::mem::take(&mut stage.notes);
        commits.notes.sort();
        commits.notes.dedup();
        Ok(commits)
    }

    /// A git repository that takes a branch of this name.
    fn base_for(&self, scratch: &Scratch, name: &str) -> Result<(Base, Repo)> {
        let base = self.base(scratch)?.ok_or(Error::NotGit)?;
        let repo = Repo::new(scratch.path(), Some(&base))?;
        if !base.has_files_for_refs() {
            return Err(Error::Reftable);
        }
        let full = format!("refs/heads/{name}");
        let valid = repo.git("check the name", &["check-ref-format", &full], b"");
        if name.starts_with('-') || name == "HEAD" || valid.is_err() {
            return Err(Error::BadName(name.to_owned()));
        }
        let below = |one: &str, other: &str| one.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'));
        for (there, _) in &base.refs {
            if *there == full {
                return Err(Error::Taken(name.to_owned()));
            }
            if below(there, &full) || below(&full, there) {
                let other = there.strip_prefix("refs/heads/").unwrap_or(there).to_owned();
                return Err(Error::Beside { name: name.to_owned(), other });
            }
        }
        Ok((base, repo))
    }

    /// Commits of the states of a range, on a new branch of the repository on disk; and notes that say who wrote their lines, if `noting`.
    ///
    /// # Errors
    /// [`Error::Nothing`] when nothing changed that git would store; [`Error::Taken`]; what git, log and base say.
    pub fn branch(&self, name: &str, range: &Range<'_>, noting: bool) -> Result<Branch> {
        let overlay = self.overlay();
        let chain = Chain::new(overlay, range, self.now)?;
        let scratch = self.scratch()?;
        let (base, repo) = self.base_for(&scratch, name)?;
        let mut stage = Stage::new(&repo, Some(&base), self.all)?;
        let (disk, start) = (View::base(overlay), View::new(overlay, chain.start.clone()));
        stage.take_base(&base, &disk)?;
        stage.go(&disk, &start)?;
        let had = match &base.head {
            Some(head) => Some(repo.line("read the commit", &["rev-parse", &format!("{head}^{{tree}}")], b"")?),
            None => None,
        };
        let tree = stage.tree()?;
        let mut list = Vec::new();
        // What the repository has and nobody committed is nobody's step.
        if had.as_ref() != Some(&tree) {
            let subject = match chain.start.is_base() {
                true => "uncommitted changes of the repository".to_owned(),
                false => format!("the state at {}", chain.start_name),
            };
            let name = (subject.as_str(), None, chain.start_time);
            list.push(self.commit(&repo, &stage, base.head.as_deref(), &base.author, name, &[])?);
        }
        let mut commits;
        if list.is_empty() {
            // The first commit follows HEAD.
            let head = base.head.iter().map(|head| Made { commit: head.clone(), ..Made::default() }).collect();
            commits = self.commits(&repo, stage, &chain, &base.author, head)?;
            commits.list.drain(..std::mem::take(&mut commits.before));
        } else {
            commits = self.commits(&repo, stage, &chain, &base.author, list)?;
        }
        let Some(tip) = commits.tip.filter(|_| commits.list.len() > commits.before) else { return Err(Error::Nothing) };
        let mut wanted = format!("{tip}\n");
        if let Some(head) = &base.head {
            wanted.push_str(&format!("^{head}\n"));
        }
        let mut references = Vec::new();
        let mut noted = None;
        if noting {
            let (made, reference) = self.note(&base, &repo, &commits.worked, &mut commits.notes)?;
            noted = Some(made);
            references.extend(reference);
        }
        // Notes first: should they be refused, there is no branch either.
        references.push(Reference::new_branch(name, &tip));
        self.pack(&scratch, &repo, wanted, &references)?;
        self.still_wanted()?;
        self.place(&repo, &references, &base)?;
        Ok(Branch { parent: base.head, tip, commits: commits.list, noted, notes: commits.notes })
    }

    /// What a branch of commits from the mount would begin at: the names of all objects that references of the repository on disk name.
    ///
    /// # Errors
    /// [`Error::Taken`] when the name is in use; what git says.
    pub fn known(&self, name: &str) -> Result<Vec<String>> {
        let scratch = self.scratch()?;
        let (base, _) = self.base_for(&scratch, name)?;
        let mut known: Vec<String> = base.refs.iter().map(|(_, id)| id.clone()).chain(base.head).collect();
        known.sort();
        known.dedup();
        Ok(known)
    }

    /// Takes commits over that were made elsewhere, as a new branch. Their pack is checked before anything of it comes into the repository.
    ///
    /// # Errors
    /// [`Error::Broken`] when something is missing or wrong in them; [`Error::Taken`]; what git says.
    pub fn bring(&self, name: &str, tip: &str, pack: File) -> Result<Branch> {
        let scratch = self.scratch()?;
        let (base, repo) = self.base_for(&scratch, name)?;
        let broken = |error| match error {
            Error::Git { why, .. } => Error::Broken(why),
            other => other,
        };
        repo.git_from("check the commits", &["index-pack", "--strict", "--stdin"], pack).map_err(broken)?;
        let kind = repo.line("find the commit", &["cat-file", "-t", tip], b"").map_err(broken)?;
        if kind != "commit" || !tip.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Error::Broken(format!("{tip} is no commit")));
        }
        let mut wanted = format!("{tip}\n");
        for id in base.refs.iter().map(|(_, id)| id).chain(&base.head) {
            wanted.push_str(&format!("^{id}\n"));
        }
        let walk = |how: &[&str]| {
            let arguments = [how, &["--stdin"]].concat();
            repo.git("walk the commits", &arguments, wanted.as_bytes()).map_err(broken)
        };
        // Everything that they need is there.
        walk(&["rev-list", "--objects", "--quiet"])?;
        let list = walk(&["log", "--reverse", "--format=%H %s"])?;
        let made = |line: &str| {
            let (commit, subject) = line.split_once(' ').unwrap_or((line, ""));
            Made { commit: commit.to_owned(), snapshot: None, subject: subject.to_owned() }
        };
        let commits: Vec<Made> = String::from_utf8_lossy(&list).lines().map(made).collect();
        if commits.is_empty() {
            return Err(Error::Nothing);
        }
        self.still_wanted()?;
        self.place(&repo, &[Reference::new_branch(name, tip)], &base)?;
        Ok(Branch { parent: base.head, tip: tip.to_owned(), commits, ..Branch::default() })
    }

    fn still_wanted(&self) -> Result<()> {
        if (self.cancelled)() { Err(Error::Apply(apply::Error::Cancelled)) } else { Ok(()) }
    }
}
