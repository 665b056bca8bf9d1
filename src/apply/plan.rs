//! What apply is to do, as plain data: one step for each path of the base that changes.
//!
//! Whoever fills a plan says for every path what must be there now and what is to be there afterwards; [`Plan::order`] rejects what
//! contradicts itself and says in which order it can be done. No I/O, and nothing of the overlay: the bytes of a file are a number
//! ([`ContentId`]) that the filler's [`Source`](super::Source) understands.

use rustc_hash::FxHashMap;

use crate::store::codec::Xattrs;
use crate::types::{Kind, Path, Time};

/// The bytes of a file that is to be made. The number means what the `Source` of the same plan takes it for; apply only hands it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentId(pub u64);

/// A complete plan. It is what the journal holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Different for every plan of a store: it is in the names of temporary files.
    pub id: u64,
    /// In any order, one for each path at most.
    pub steps: Vec<Step>,
}

/// What happens at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Below the base's root. The root itself may only be [`Make::Dir`] or [`Make::Keep`].
    pub path: Path,
    pub expect: Expect,
    pub make: Make,
}

/// What must be in the base at that path, or nothing at all is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Nothing,
    Is(Seen),
}

/// What a file of the base looked like. Of a directory only kind, number and birth count: working in it changes the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub kind: Kind,
    /// `st_dev`, major << 32 | minor, as it is since the machine started.
    pub dev: u64,
    pub ino: u64,
    /// Birth time where the file system has one. `None` matches every birth time.
    pub born: Option<Time>,
    /// Bytes.
    pub size: u64,
    pub mtime: Time,
    /// Not compared, once the work has begun, for a file that several steps of the plan are about: they change it themselves.
    pub ctime: Time,
}

/// What is to be at the path afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Make {
    /// Nothing. A directory must be empty by then: everything in it has a `Remove` of its own.
    Remove,
    /// What is there. The step only says that the plan relies on it.
    Keep,
    File {
        content: ContentId,
        meta: Meta,
    },
    Symlink {
        target: Box<[u8]>,
        meta: Meta,
    },
    /// A directory: a new one, or new metadata for the one that is there.
    Dir {
        meta: Meta,
    },
    /// New metadata for what is there, which is no directory. Its bytes stay.
    Meta {
        meta: Meta,
    },
    /// A FIFO, a socket's node or a device; `rdev` in the kernel's 32-bit encoding, 0 for the first two.
    Special {
        kind: Kind,
        rdev: u32,
        meta: Meta,
    },
    /// Another name of what another step makes or keeps. `to` may also be one that is removed: then the file moves, with its inode
    /// number. Not if `to` is in a directory that something else takes the place of; and no `Link` leads to a `Link`.
    Link {
        to: Path,
    },
}

/// The metadata of what is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Permission, set-id and sticky bits (`0o7777`); means nothing for a symbolic link.
    pub perm: u16,
    pub uid: u32,
    pub gid: u32,
    pub atime: Time,
    pub mtime: Time,
    /// All of them, or `None`: those that are there stay, also where a file of the same type takes the place of another. Something
    /// new has none then. Names of security modules (`security.*` but for `security.capability`) stay whatever the list says.
    pub xattrs: Option<Xattrs>,
}

/// Why a plan cannot be carried out whatever the base looks like: an error of whoever made it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plan contradicts itself at {path}: {why}; this is a bug in regentfs, please report it")]
pub struct Contradiction {
    pub path: Path,
    pub why: &'static str,
}

impl Seen {
    /// Whether both are the same file, whatever happened to it.
    pub fn same_file(&self, other: &Seen) -> bool {
        let born = self.born.is_none() || other.born.is_none() || self.born == other.born;
        self.same_inode(other) && born
    }

    /// As [`Seen::same_file`], also if its file system gives it a new time of birth when it is first changed (overlayfs does).
    pub fn same_inode(&self, other: &Seen) -> bool {
        self.kind == other.kind && self.dev == other.dev && self.ino == other.ino
    }
}

impl Expect {
    pub fn seen(&self) -> Option<&Seen> {
        match self {
            Expect::Nothing => None,
            Expect::Is(seen) => Some(seen),
        }
    }

    pub fn is_dir(&self) -> bool {
        self.seen().is_some_and(|s| s.kind == Kind::Dir)
    }
}

impl Make {
    pub fn meta(&self) -> Option<&Meta> {
        match self {
            Make::Remove | Make::Keep | Make::Link { .. } => None,
            Make::File { meta, .. }
            | Make::Symlink { meta, .. }
            | Make::Dir { meta }
            | Make::Meta { meta }
            | Make::Special { meta, .. } => Some(meta),
        }
    }
}

impl Step {
    /// Whether a directory comes where none is.
    pub fn new_dir(&self) -> bool {
        matches!(self.make, Make::Dir { .. }) && !self.expect.is_dir()
    }

    /// Whether something else than a directory takes a directory's place.
    pub fn ends_dir(&self) -> bool {
        let stays = matches!(self.make, Make::Dir { .. } | Make::Keep | Make::Meta { .. } | Make::Remove);
        self.expect.is_dir() && !stays
    }

    /// Whether something new is prepared under a temporary name and put in place whole.
    pub fn swaps_in(&self) -> bool {
        match self.make {
            Make::File { .. } | Make::Symlink { .. } | Make::Special { .. } | Make::Link { .. } => true,
            Make::Dir { .. } => self.new_dir(),
            Make::Remove | Make::Keep | Make::Meta { .. } => false,
        }
    }

    /// Whether the step changes the names in its directory.
    pub fn changes_names(&self) -> bool {
        self.swaps_in() || self.make == Make::Remove
    }
}

/// The directories above a path, the nearest first and the root last.
pub fn above(path: &Path) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(path.as_bytes()).filter(|p| !p.is_empty());
    std::iter::from_fn(move || {
        let dir = match rest?.iter().rposition(|&b| b == b'/') {
            Some(at) => rest?.get(..at)?,
            None => b"",
        };
        rest = Some(dir).filter(|d| !d.is_empty());
        Some(dir)
    })
}

/// Where each path's step is.
pub type ByPath<'a> = FxHashMap<&'a [u8], usize>;

impl Plan {
    /// The steps by their paths.
    pub fn by_path(&self) -> ByPath<'_> {
        self.steps.iter().enumerate().map(|(at, step)| (step.path.as_bytes(), at)).collect()
    }

    /// The numbers of the steps in an order in which they can be done: removals inside directories that become something else,
    /// then what is made, directories before what is in them, then the other removals, directories after what was in them.
    pub fn order(&self) -> Result<Vec<usize>, Contradiction> {
        let by_path = self.by_path();
        let mut in_the_way = vec![false; self.steps.len()];
        for (at, step) in self.steps.iter().enumerate() {
            let wrong = |why| Contradiction { path: step.path.clone(), why };
            if by_path.get(step.path.as_bytes()) != Some(&at) {
                return Err(wrong("two steps for one path"));
            }
            check_path(step).map_err(wrong)?;
            check_step(step).map_err(wrong)?;
            for over in above(&step.path).filter_map(|dir| self.steps.get(*by_path.get(dir)?)) {
                check_below(over, step).map_err(wrong)?;
                if over.ends_dir()
                    && let Some(flag) = in_the_way.get_mut(at)
                {
                    *flag = true;
                }
            }
        }
        for step in &self.steps {
            let Make::Link { to } = &step.make else { continue };
            let wrong = |why| Contradiction { path: step.path.clone(), why };
            let at = by_path.get(to.as_bytes()).copied().ok_or_else(|| wrong("a link to a path without a step"))?;
            let Some(target) = self.steps.get(at) else { continue };
            match &target.make {
                Make::File { .. } | Make::Symlink { .. } | Make::Special { .. } | Make::Meta { .. } => {}
                Make::Keep | Make::Remove if target.expect.is_dir() => return Err(wrong("a link to a directory")),
                Make::Remove if in_the_way.get(at).copied().unwrap_or(true) => {
                    return Err(wrong("a link to what must be gone before"));
                }
                Make::Keep | Make::Remove => {}
                Make::Dir { .. } => return Err(wrong("a link to a directory")),
                Make::Link { .. } => return Err(wrong("a link to a link")),
            }
        }
        let (mut first, mut makes, mut last) = (Vec::new(), Vec::new(), Vec::new());
        for ((at, step), in_the_way) in self.steps.iter().enumerate().zip(in_the_way) {
            match step.make {
                Make::Remove if in_the_way => first.push((&step.path, at)),
                Make::Remove => last.push((&step.path, at)),
                _ => makes.push((&step.path, at)),
            }
        }
        // A path is greater than those of the directories above it, since they are its beginnings.
        first.sort_unstable_by(|a, b| b.cmp(a));
        makes.sort_unstable();
        last.sort_unstable_by(|a, b| b.cmp(a));
        Ok(first.into_iter().chain(makes).chain(last).map(|(_, at)| at).collect())
    }
}

fn check_path(step: &Step) -> Result<(), &'static str> {
    let path = step.path.as_bytes();
    if path.is_empty() {
        let may = step.expect.is_dir() && matches!(step.make, Make::Dir { .. } | Make::Keep);
        return if may { Ok(()) } else { Err("the root can only be kept or get new metadata") };
    }
    for name in path.split(|&b| b == b'/') {
        match name {
            b"" => return Err("an empty name"),
            b"." | b".." => return Err("a name that is no name"),
            name if name.contains(&0) => return Err("a name with a zero byte"),
            name if name.len() > 255 => return Err("a name of more than 255 bytes"),
            _ => {}
        }
    }
    Ok(())
}

fn check_step(step: &Step) -> Result<(), &'static str> {
    if let Some(meta) = step.make.meta() {
        if meta.perm & !0o7777 != 0 {
            return Err("a mode of more than twelve bits");
        }
        if meta.atime.nanos >= 1_000_000_000 || meta.mtime.nanos >= 1_000_000_000 {
            return Err("a time with too many nanoseconds");
        }
        let bad = |name: &[u8]| name.is_empty() || name.len() > 255 || name.contains(&0);
        if meta.xattrs.iter().flatten().any(|(name, _)| bad(name)) {
            return Err("an extended attribute without a name");
        }
    }
    let nothing = step.expect == Expect::Nothing;
    match &step.make {
        Make::Remove | Make::Keep | Make::Meta { .. } if nothing => Err("there is nothing to work on"),
        Make::Meta { .. } if step.expect.is_dir() => Err("metadata of a directory as if it were a file"),
        Make::Symlink { target, .. } if target.is_empty() || target.len() > 4095 || target.contains(&0) => {
            Err("a symbolic link that cannot be")
        }
        Make::Special { kind: Kind::File | Kind::Dir | Kind::Symlink, .. } => Err("a special file that is none"),
        _ => Ok(()),
    }
}

/// Whether `step` can be somewhere below `over`.
fn check_below(over: &Step, step: &Step) -> Result<(), &'static str> {
    match over.make {
        _ if over.new_dir() && step.expect == Expect::Nothing => Ok(()),
        _ if over.new_dir() => Err("something is expected in a directory that is not there yet"),
        Make::Dir { .. } => Ok(()),
        Make::Keep if over.expect.is_dir() => Ok(()),
        _ if !over.expect.is_dir() => Err("a path through a step that is no directory"),
        _ if step.make == Make::Remove => Ok(()),
        Make::Remove => Err("it would stay in a directory that is removed"),
        _ => Err("a path through a step that is no directory"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(kind: Kind) -> Expect {
        Expect::Is(Seen { kind, dev: 1, ino: 2, born: None, size: 3, mtime: Time::default(), ctime: Time::default() })
    }

    fn meta() -> Meta {
        Meta { perm: 0o644, uid: 0, gid: 0, atime: Time::default(), mtime: Time::default(), xattrs: None }
    }

    fn file() -> Make {
        Make::File { content: ContentId(1), meta: meta() }
    }

    fn dir() -> Make {
        Make::Dir { meta: meta() }
    }

    fn to(path: &str) -> Make {
        Make::Link { to: Path::new(path.as_bytes()) }
    }

    fn step(path: &str, expect: Expect, make: Make) -> Step {
        Step { path: Path::new(path.as_bytes()), expect, make }
    }

    fn ordered(steps: Vec<Step>) -> Result<Vec<String>, &'static str> {
        let plan = Plan { id: 1, steps };
        let order = plan.order().map_err(|e| e.why)?;
        Ok(order.into_iter().map(|at| plan.steps[at].path.to_string()).collect())
    }

    #[test]
    fn what_is_in_the_way_goes_first_and_what_is_just_gone_last() {
        let (is_dir, is_file, none) = (seen(Kind::Dir), seen(Kind::File), Expect::Nothing);
        let order = ordered(vec![
            step("z/gone", is_file, Make::Remove),
            step("new/sub/x", none, file()),
            step("z", is_dir, Make::Remove),
            step("new/sub", none, dir()),
            step("was-dir", is_dir, file()),
            step("was-dir/a", is_dir, Make::Remove),
            step("new", none, dir()),
            step("was-dir/a/b", is_file, Make::Remove),
            step("new-er", none, to("z/gone")),
            step("was-file", is_file, dir()),
            step("was-file/in", none, file()),
            step("", is_dir, dir()),
        ]);
        let expected = [
            "was-dir/a/b",
            "was-dir/a",
            "",
            "new",
            "new-er",
            "new/sub",
            "new/sub/x",
            "was-dir",
            "was-file",
            "was-file/in",
            "z/gone",
            "z",
        ];
        assert_eq!(order.unwrap(), expected);
        assert_eq!(ordered(Vec::new()).unwrap(), [] as [String; 0]);
    }

    #[test]
    fn contradictions_are_rejected() {
        let (is_dir, is_file, none) = (seen(Kind::Dir), seen(Kind::File), Expect::Nothing);
        let wrong = |steps: Vec<Step>, why: &str| assert_eq!(ordered(steps).unwrap_err(), why);
        wrong(vec![step("a", none, file()), step("a", none, dir())], "two steps for one path");
        for path in ["/a", "a/", "a//b"] {
            wrong(vec![step(path, none, file())], "an empty name");
        }
        for path in ["..", "a/../b", "./a"] {
            wrong(vec![step(path, none, file())], "a name that is no name");
        }
        wrong(vec![step("a\0b", none, file())], "a name with a zero byte");
        wrong(vec![step(&"n".repeat(256), none, file())], "a name of more than 255 bytes");
        wrong(vec![step("", is_dir, Make::Remove)], "the root can only be kept or get new metadata");
        wrong(vec![step("", is_dir, file())], "the root can only be kept or get new metadata");
        for make in [Make::Remove, Make::Keep, Make::Meta { meta: meta() }] {
            wrong(vec![step("a", none, make)], "there is nothing to work on");
        }
        wrong(vec![step("a", is_dir, Make::Meta { meta: meta() })], "metadata of a directory as if it were a file");
        let special = Make::Special { kind: Kind::File, rdev: 0, meta: meta() };
        wrong(vec![step("a", none, special)], "a special file that is none");
        let symlink = Make::Symlink { target: b""[..].into(), meta: meta() };
        wrong(vec![step("a", none, symlink)], "a symbolic link that cannot be");
        let wide = Make::Dir { meta: Meta { perm: 0o10755, ..meta() } };
        wrong(vec![step("a", none, wide)], "a mode of more than twelve bits");
        // What is above must be a directory, and stay one if something is to be in it.
        let stays = "it would stay in a directory that is removed";
        wrong(vec![step("a", is_dir, Make::Remove), step("a/b/c", none, file())], stays);
        wrong(vec![step("a", is_dir, Make::Remove), step("a/b", is_file, Make::Keep)], stays);
        let through = "a path through a step that is no directory";
        wrong(vec![step("a", none, file()), step("a/b", none, file())], through);
        wrong(vec![step("a", is_dir, file()), step("a/b", none, file())], through);
        wrong(vec![step("a", is_file, Make::Remove), step("a/b", is_file, Make::Remove)], through);
        wrong(vec![step("a", is_file, Make::Keep), step("a/b", none, file())], through);
        let not_there = "something is expected in a directory that is not there yet";
        wrong(vec![step("a", none, dir()), step("a/b", is_file, Make::Remove)], not_there);
        wrong(vec![step("a", is_file, dir()), step("a/b/c", is_file, file())], not_there);
        // Links.
        wrong(vec![step("a", none, to("b"))], "a link to a path without a step");
        wrong(vec![step("a", none, to("b")), step("b", none, dir())], "a link to a directory");
        wrong(vec![step("a", none, to("b")), step("b", is_dir, Make::Remove)], "a link to a directory");
        wrong(vec![step("a", none, to("b")), step("b", none, to("a"))], "a link to a link");
        let moved = vec![step("d", is_dir, file()), step("d/x", is_file, Make::Remove), step("a", none, to("d/x"))];
        wrong(moved, "a link to what must be gone before");
    }

    #[test]
    fn above_ends_with_the_root() {
        let all = |path: &str| above(&Path::new(path.as_bytes())).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(all("a/b/c"), [&b"a/b"[..], b"a", b""]);
        assert_eq!(all("a"), [b""]);
        assert_eq!(all(""), [] as [Vec<u8>; 0]);
    }
}
