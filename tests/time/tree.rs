//! The reference: a tree of files in plain memory, with what each operation does to it. Knows nothing of overlay and store.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use regentfs::types::{Kind, Time};

/// An inode number; the root's is 1.
pub type Number = u64;
pub const ROOT: Number = 1;

pub type Name = Vec<u8>;

/// A path below the root; the root's is empty.
pub type Path = Vec<u8>;

/// Extended attributes.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub kind: Kind,
    pub perm: u16,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub size: u64,
    pub mtime: Time,
    pub ctime: Time,
    pub bytes: Rc<Vec<u8>>,
    pub target: Rc<Vec<u8>>,
    pub xattrs: Rc<Xattrs>,
    /// A directory's names.
    pub entries: Rc<BTreeMap<Name, Number>>,
}

/// What a user means by "the same file", whatever its times, number and links.
pub type Looks = (Kind, u16, u32, u32, Rc<Vec<u8>>, Rc<Vec<u8>>, Rc<Xattrs>);

impl File {
    pub fn looks(&self) -> Looks {
        let same = (self.bytes.clone(), self.target.clone(), self.xattrs.clone());
        (self.kind, self.perm, self.uid, self.gid, same.0, same.1, same.2)
    }

    /// What stat(2) shows.
    pub fn attributes(&self) -> (Kind, u16, u32, u32, u32, u64, Time, Time) {
        (self.kind, self.perm, self.uid, self.gid, self.nlink, self.size, self.mtime, self.ctime)
    }
}

/// A name in a tree.
#[derive(Clone, Debug)]
pub struct Spot {
    pub path: Path,
    pub dir: Number,
    pub name: Name,
    pub number: Number,
}

/// All files, those without a name (`nlink` 0) too.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    pub files: BTreeMap<Number, File>,
}

pub fn join(dir: &[u8], name: &[u8]) -> Path {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

pub fn is_below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

pub fn show(path: &[u8]) -> String {
    if path.is_empty() { "/".to_owned() } else { path.escape_ascii().to_string() }
}

/// A directory's link count; file systems that do not count keep their 1.
fn links(nlink: u32, change: i32) -> u32 {
    if nlink < 2 { nlink } else { nlink.saturating_add_signed(change).max(2) }
}

/// Permission bits after a change of owner.
fn without_ids(perm: u16) -> u16 {
    let perm = perm & !0o4000;
    if perm & 0o010 != 0 { perm & !0o2000 } else { perm }
}

impl Tree {
    pub fn file(&self, number: Number) -> &File {
        &self.files[&number]
    }

    fn get(&mut self, number: Number) -> &mut File {
        self.files.get_mut(&number).expect("a file of the model")
    }

    /// Every name, parents first.
    pub fn spots(&self) -> Vec<Spot> {
        let mut found = Vec::new();
        let mut dirs = vec![(Path::new(), ROOT)];
        while let Some((above, dir)) = dirs.pop() {
            for (name, &number) in &*self.file(dir).entries {
                let path = join(&above, name);
                if self.file(number).kind == Kind::Dir {
                    dirs.push((path.clone(), number));
                }
                found.push(Spot { path, dir, name: name.clone(), number });
            }
        }
        found
    }

    pub fn paths(&self) -> BTreeMap<Path, Number> {
        let mut paths: BTreeMap<_, _> = self.spots().into_iter().map(|s| (s.path, s.number)).collect();
        paths.insert(Path::new(), ROOT);
        paths
    }

    /// Directories with their paths, the root among them.
    pub fn dirs(&self) -> Vec<(Path, Number)> {
        self.paths().into_iter().filter(|(_, number)| self.file(*number).kind == Kind::Dir).collect()
    }

    /// Without the files that have no name.
    pub fn named(&self) -> Tree {
        Tree { files: self.files.iter().filter(|(_, f)| f.nlink > 0).map(|(n, f)| (*n, f.clone())).collect() }
    }

    fn touch(&mut self, dir: Number, now: Time, subdirs: i32) {
        let file = self.get(dir);
        file.mtime = now;
        file.ctime = now;
        file.nlink = links(file.nlink, subdirs);
    }

    fn enter(&mut self, dir: Number, name: &[u8], number: Number) {
        Rc::make_mut(&mut self.get(dir).entries).insert(name.to_vec(), number);
    }

    fn leave(&mut self, dir: Number, name: &[u8]) {
        Rc::make_mut(&mut self.get(dir).entries).remove(name);
    }

    pub fn create(&mut self, now: Time, dir: Number, name: &[u8], number: Number, mut file: File) {
        let is_dir = file.kind == Kind::Dir;
        let parent = self.file(dir);
        if parent.perm & 0o2000 != 0 {
            file.gid = parent.gid;
            file.perm |= if is_dir { 0o2000 } else { 0 };
        }
        file.mtime = now;
        file.ctime = now;
        self.files.insert(number, file);
        self.enter(dir, name, number);
        self.touch(dir, now, i32::from(is_dir));
    }

    fn lose_name(&mut self, now: Time, number: Number) {
        let file = self.get(number);
        file.nlink = if file.kind == Kind::Dir { 0 } else { file.nlink - 1 };
        file.ctime = now;
    }

    /// unlink and rmdir.
    pub fn remove(&mut self, now: Time, dir: Number, name: &[u8]) {
        let number = self.file(dir).entries[name];
        let is_dir = self.file(number).kind == Kind::Dir;
        self.lose_name(now, number);
        self.leave(dir, name);
        self.touch(dir, now, -i32::from(is_dir));
    }

    pub fn link(&mut self, now: Time, number: Number, dir: Number, name: &[u8]) {
        let file = self.get(number);
        file.nlink += 1;
        file.ctime = now;
        self.enter(dir, name, number);
        self.touch(dir, now, 0);
    }

    /// Whether a directory is another one, or below it.
    pub fn is_inside(&self, dir: Number, of: Number) -> bool {
        let inside = |&child: &Number| self.file(child).kind == Kind::Dir && self.is_inside(dir, child);
        dir == of || self.file(of).entries.values().any(inside)
    }

    pub fn rename(&mut self, now: Time, from: (Number, &[u8]), to: (Number, &[u8])) {
        let moved = self.file(from.0).entries[from.1];
        let replaced = self.file(to.0).entries.get(to.1).copied();
        let is_dir = |tree: &Tree, number: Number| i32::from(tree.file(number).kind == Kind::Dir);
        let lost = replaced.map_or(0, |number| is_dir(self, number));
        let carried = is_dir(self, moved);
        if let Some(replaced) = replaced {
            self.lose_name(now, replaced);
        }
        self.leave(from.0, from.1);
        self.enter(to.0, to.1, moved);
        self.get(moved).ctime = now;
        if from.0 == to.0 {
            self.touch(from.0, now, -lost);
        } else {
            self.touch(from.0, now, -carried);
            self.touch(to.0, now, carried - lost);
        }
    }

    pub fn exchange(&mut self, now: Time, one: (Number, &[u8]), two: (Number, &[u8])) {
        let first = self.file(one.0).entries[one.1];
        let second = self.file(two.0).entries[two.1];
        let is_dir = |number: Number| i32::from(self.file(number).kind == Kind::Dir);
        let change = is_dir(second) - is_dir(first);
        self.enter(one.0, one.1, second);
        self.enter(two.0, two.1, first);
        self.get(first).ctime = now;
        self.get(second).ctime = now;
        if one.0 == two.0 {
            self.touch(one.0, now, 0);
        } else {
            self.touch(one.0, now, change);
            self.touch(two.0, now, -change);
        }
    }

    fn changed(&mut self, now: Time, number: Number) -> &mut File {
        let file = self.get(number);
        file.mtime = now;
        file.ctime = now;
        file
    }

    pub fn write(&mut self, now: Time, number: Number, offset: u64, data: &[u8]) {
        let file = self.changed(now, number);
        let bytes = Rc::make_mut(&mut file.bytes);
        let end = offset as usize + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(data);
        file.size = bytes.len() as u64;
    }

    pub fn truncate(&mut self, now: Time, number: Number, size: u64) {
        let file = self.changed(now, number);
        Rc::make_mut(&mut file.bytes).resize(size as usize, 0);
        file.size = size;
    }

    /// Zeros in a range; the file grows only if asked to.
    pub fn zero(&mut self, now: Time, number: Number, (offset, len): (u64, u64), grows: bool, clears: bool) {
        let file = self.changed(now, number);
        let bytes = Rc::make_mut(&mut file.bytes);
        let end = (offset + len) as usize;
        if grows && bytes.len() < end {
            bytes.resize(end, 0);
        }
        let (start, end) = ((offset as usize).min(bytes.len()), end.min(bytes.len()));
        if clears {
            bytes[start..end].fill(0);
        }
        file.size = bytes.len() as u64;
    }

    pub fn chmod(&mut self, now: Time, number: Number, perm: u16) {
        let file = self.get(number);
        file.perm = perm;
        file.ctime = now;
    }

    pub fn chown(&mut self, now: Time, number: Number, uid: u32, gid: u32) {
        let file = self.get(number);
        (file.uid, file.gid, file.ctime) = (uid, gid, now);
        if file.kind != Kind::Dir {
            file.perm = without_ids(file.perm);
        }
    }

    pub fn set_mtime(&mut self, now: Time, number: Number, mtime: Time) {
        let file = self.get(number);
        file.mtime = mtime;
        file.ctime = now;
    }

    pub fn set_xattr(&mut self, now: Time, number: Number, name: &[u8], value: Option<Vec<u8>>) {
        let file = self.get(number);
        file.ctime = now;
        let xattrs = Rc::make_mut(&mut file.xattrs);
        match value {
            Some(value) => xattrs.insert(name.to_vec(), value),
            None => xattrs.remove(name),
        };
    }

    /// What is different from another tree, which should be the same, one line each.
    pub fn differences(&self, found: &Tree) -> Vec<String> {
        let (right, wrong) = (self.paths(), found.paths());
        let mut lines = Vec::new();
        for path in right.keys().collect::<BTreeSet<_>>().union(&wrong.keys().collect()) {
            let line = match (right.get(*path), wrong.get(*path)) {
                (Some(_), None) => Some("is missing".to_owned()),
                (None, Some(_)) => Some("should not be there".to_owned()),
                (Some(a), Some(b)) if a != b => Some(format!("should be inode {a:x}, is {b:x}")),
                (Some(a), Some(_)) => differences(self.file(*a), found.file(*a)),
                (None, None) => None,
            };
            lines.extend(line.map(|line| format!("{}: {line}", show(path))));
        }
        lines
    }
}

/// What is different about a file that should be the same.
pub fn differences(right: &File, found: &File) -> Option<String> {
    if right == found {
        return None;
    }
    if right.attributes() != found.attributes() {
        return Some(format!("expected {:?}\n    found    {:?}", right.attributes(), found.attributes()));
    }
    if right.bytes != found.bytes {
        let at = right.bytes.iter().zip(&*found.bytes).position(|(a, b)| a != b);
        let lens = (right.bytes.len(), found.bytes.len());
        let pair = at.map(|at| (right.bytes[at], found.bytes[at]));
        return Some(format!("bytes differ from {at:?} on (expected and found {pair:?}); lengths {lens:?}"));
    }
    if right.entries != found.entries {
        return Some("holds other entries".to_owned());
    }
    Some(format!(
        "target {:?} xattrs {:?}\n    found {:?} {:?}",
        right.target, right.xattrs, found.target, found.xattrs
    ))
}
