//! The diff of an overlay against its base: what it shows, and that `git apply` turns the base into what the mount shows.
//!
//! No mount is needed: the operations are done on the overlay and, as the model, on a plain copy of the base.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path as StdPath, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use regentfs::base::DirBase;
use regentfs::diff::{Detail, DiffFilter, DiffRow, count, diff};
use regentfs::overlay::ops::create::New;
use regentfs::overlay::ops::io::Write;
use regentfs::overlay::ops::rename::{Rename, Spot};
use regentfs::overlay::ops::setattr::{SetAttr, SetTime};
use regentfs::overlay::view::View;
use regentfs::overlay::{Ctx, Inode, NoJournal, Overlay};
use regentfs::store::format::{Format, Owner};
use regentfs::store::{Data, Store, mem::MemKv};
use regentfs::types::{ActorId, Epoch, HandleId, Kind, Known, Op, Time, hex};

/// A base on disk, an overlay over it, and a plain directory that gets the same changes.
struct World {
    dir: tempfile::TempDir,
    overlay: Overlay,
}

impl World {
    fn new(populate: impl FnOnce(&StdPath)) -> World {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        fs::create_dir(&base).unwrap();
        populate(&base);
        let copied = Command::new("cp").arg("-a").arg(&base).arg(dir.path().join("model")).status().unwrap();
        assert!(copied.success());
        let store = dir.path().join("store");
        fs::create_dir(&store).unwrap();
        let owner = Owner { repo: base.clone(), root_ino: 1, root_born: None };
        let format = Format::create_or_load(&store, &owner).unwrap();
        let data = Data::open(&store.join("data")).unwrap();
        let store = Arc::new(Store::from_parts(&store, Arc::new(MemKv::new()), data, format).unwrap());
        let journal = Arc::new(NoJournal(store.clone()));
        let overlay = Overlay::open(store, Arc::new(DirBase::open(&base).unwrap()), journal, false).unwrap();
        World { dir, overlay }
    }

    fn model(&self, path: &str) -> PathBuf {
        self.dir.path().join("model").join(path)
    }

    fn ctx(&self) -> Ctx {
        Ctx { actor: ActorId(1), uid: 0, gid: 0, now: Time::new(1_700_000_000, 0), epoch: Epoch(1), shared: false }
    }

    fn inode(&self, path: &str) -> Arc<Inode> {
        let names = path.split('/').filter(|n| !n.is_empty());
        names.fold(self.overlay.root().clone(), |dir, name| self.overlay.lookup(&dir, name.as_bytes()).unwrap())
    }

    fn parent<'p>(&self, path: &'p str) -> (Arc<Inode>, &'p [u8]) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.inode(dir), name.as_bytes())
    }

    fn make(&self, path: &str, kind: Kind, target: Option<&str>) {
        let (dir, name) = self.parent(path);
        let perm = if kind == Kind::Dir { 0o755 } else { 0o644 };
        let new = New { kind, perm, umask: 0, rdev: 0, target: target.map(str::as_bytes) };
        self.overlay.create(&self.ctx(), &dir, name, &new).unwrap();
        match kind {
            Kind::Dir => fs::create_dir(self.model(path)).unwrap(),
            Kind::Symlink => std::os::unix::fs::symlink(target.unwrap(), self.model(path)).unwrap(),
            Kind::File => fs::write(self.model(path), b"").unwrap(),
            _ => {}
        }
    }

    /// Writes the whole file, making it if it is not there.
    fn write(&self, path: &str, bytes: &[u8]) {
        if !self.model(path).exists() {
            self.make(path, Kind::File, None);
        }
        let inode = self.inode(path);
        let set = SetAttr { size: Some(0), ..SetAttr::default() };
        self.overlay.setattr(&self.ctx(), &inode, &set).unwrap();
        self.write_at(&inode, 0, bytes);
        fs::write(self.model(path), bytes).unwrap();
    }

    fn write_at(&self, inode: &Inode, offset: u64, data: &[u8]) {
        let (handle, known) = (HandleId(1), Known::Observed);
        let write = Write { offset, data, append: false, kill_ids: false, handle, op: Op::Write, known };
        self.overlay.write(&self.ctx(), inode, &write).unwrap();
    }

    fn chmod(&self, path: &str, perm: u16) {
        let set = SetAttr { perm: Some(perm), ..SetAttr::default() };
        self.overlay.setattr(&self.ctx(), &self.inode(path), &set).unwrap();
        fs::set_permissions(self.model(path), fs::Permissions::from_mode(perm.into())).unwrap();
    }

    fn remove(&self, path: &str) {
        let (dir, name) = self.parent(path);
        if self.inode(path).kind == Kind::Dir {
            self.overlay.rmdir(&self.ctx(), &dir, name).unwrap();
            fs::remove_dir(self.model(path)).unwrap();
        } else {
            self.overlay.unlink(&self.ctx(), &dir, name).unwrap();
            fs::remove_file(self.model(path)).unwrap();
        }
    }

    fn rename(&self, from: &str, to: &str) {
        let ((from_dir, from_name), (to_dir, to_name)) = (self.parent(from), self.parent(to));
        let (a, b) = (Spot { dir: &from_dir, name: from_name }, Spot { dir: &to_dir, name: to_name });
        self.overlay.rename(&self.ctx(), a, b, Rename::Replace).unwrap();
        fs::rename(self.model(from), self.model(to)).unwrap();
    }

    fn rows(&self, filter: &DiffFilter) -> Vec<DiffRow> {
        let mut rows = Vec::new();
        let (base, now) = (View::base(&self.overlay), View::now(&self.overlay));
        let notes = diff(
            &base,
            &now,
            filter,
            &|_| true,
            &mut |row| {
                rows.push(row);
                ControlFlow::Continue(())
            },
            &mut |_, _| {},
        );
        assert_eq!(notes.unwrap(), Vec::<String>::new());
        rows
    }

    fn patch(&self) -> String {
        self.rows(&DiffFilter::default()).into_iter().map(|row| row.text.unwrap()).collect()
    }

    /// `R old -> new` and the like.
    fn summary(&self) -> Vec<String> {
        let rows = self.rows(&DiffFilter { detail: Detail::Names, ..DiffFilter::default() });
        assert_eq!(rows.len() as u64, count(&View::base(&self.overlay), &View::now(&self.overlay)).unwrap());
        rows.into_iter()
            .map(|r| match r.old_path {
                Some(old) => format!("{}{} {old} -> {}", r.status, r.similarity.unwrap(), r.path),
                None => format!("{} {}", r.status, r.path),
            })
            .collect()
    }

    /// Applies the patch to a copy of the base with git and compares the result with the model.
    fn check_apply(&self, what: &str) {
        let patch = self.patch();
        let applied = self.dir.path().join("applied");
        let _ = fs::remove_dir_all(&applied);
        let copied = Command::new("cp").arg("-a").arg(self.dir.path().join("base")).arg(&applied).status().unwrap();
        assert!(copied.success());
        if !patch.is_empty() {
            let mut git = Command::new("git")
                .args(["apply", "--whitespace=nowarn", "-"])
                .current_dir(&applied)
                .env("GIT_CEILING_DIRECTORIES", self.dir.path())
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .env_remove("GIT_DIR")
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            std::io::Write::write_all(&mut git.stdin.take().unwrap(), patch.as_bytes()).unwrap();
            let output = git.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{what}: git apply: {stderr}\n{patch}");
        }
        let (got, expected) = (tree(&applied), tree(&self.dir.path().join("model")));
        assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}\n{patch}");
        for (path, entry) in &expected {
            assert_eq!(got.get(path), Some(entry), "{what}: {path:?}\n{patch}");
        }
    }
}

/// Files and links below a directory: mode as git sees it, and bytes or target.
fn tree(root: &StdPath) -> BTreeMap<PathBuf, (&'static str, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let key = path.strip_prefix(root).unwrap().to_owned();
            if meta.is_dir() {
                dirs.push(path);
            } else if meta.is_symlink() {
                found.insert(key, ("link", fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()));
            } else {
                let mode = if meta.permissions().mode() & 0o100 != 0 { "exec" } else { "file" };
                found.insert(key, (mode, fs::read(&path).unwrap()));
            }
        }
    }
    found
}

fn lines(range: std::ops::Range<u32>) -> String {
    range.map(|i| format!("line {i}\n")).collect()
}

fn small(base: &StdPath) {
    fs::create_dir_all(base.join("src/deep")).unwrap();
    fs::write(base.join("README"), "hello\n").unwrap();
    fs::write(base.join("src/a.rs"), lines(0..40)).unwrap();
    fs::write(base.join("src/b.rs"), lines(100..140)).unwrap();
    fs::write(base.join("src/deep/c.rs"), lines(200..210)).unwrap();
    fs::write(base.join("src/deep/data.bin"), b"\0\x01\x02").unwrap();
    std::os::unix::fs::symlink("README", base.join("link")).unwrap();
    fs::create_dir(base.join(".git")).unwrap();
    fs::write(base.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
}

#[test]
fn an_untouched_overlay_has_no_differences() {
    let world = World::new(small);
    assert_eq!(world.summary(), Vec::<String>::new());
}

#[test]
fn what_git_ignores_is_no_difference() {
    let world = World::new(small);
    world.write("README", b"hello\n");
    world.chmod("src/a.rs", 0o600);
    let now = SetAttr { mtime: Some(SetTime::To(Time::new(5, 5))), ..SetAttr::default() };
    world.overlay.setattr(&world.ctx(), &world.inode("src/b.rs"), &now).unwrap();
    let owner = SetAttr { uid: Some(5), ..SetAttr::default() };
    world.overlay.setattr(&world.ctx(), &world.inode("link"), &owner).unwrap();
    world.make("empty-dir", Kind::Dir, None);
    world.rename("src/a.rs", "src/tmp");
    world.rename("src/tmp", "src/a.rs");
    world.write(".git/HEAD", b"elsewhere\n");
    assert_eq!(world.summary(), Vec::<String>::new());
    let all = world.rows(&DiffFilter { all: true, ..DiffFilter::default() });
    assert_eq!(all.iter().map(|r| r.path.as_str()).collect::<Vec<_>>(), [".git/HEAD"]);
}

#[test]
fn the_text_is_that_of_git() {
    let world = World::new(small);
    world.write("README", b"hello\nworld");
    world.chmod("src/a.rs", 0o755);
    world.write("new file", b"x\n");
    world.write("src/deep/data.bin", b"\0\x03");
    world.remove("src/deep/c.rs");
    world.write("empty", b"");
    assert_starts(
        &world.patch(),
        r#"diff --git a/README b/README
index ce01362..9db7df0 100644
--- a/README
+++ b/README
@@ -1 +1,2 @@
 hello
+world
\ No newline at end of file
diff --git a/empty b/empty
new file mode 100644
index 0000000..e69de29
diff --git a/new file b/new file
new file mode 100644
index 0000000..587be6b
--- /dev/null
+++ b/new file	
@@ -0,0 +1 @@
+x
diff --git a/src/a.rs b/src/a.rs
old mode 100644
new mode 100755
diff --git a/src/deep/c.rs b/src/deep/c.rs
deleted file mode 100644
"#,
    );
}

/// The patch starts with this text.
fn assert_starts(patch: &str, expected: &str) {
    let head: String = patch.chars().take(expected.chars().count()).collect();
    assert_eq!(head, expected, "{patch}");
}

/// git itself, asked to compare base and model, gives the same text for each file.
#[test]
fn agrees_with_git_on_text() {
    let world = World::new(small);
    world.write("src/a.rs", lines(0..40).replace("line 7\n", "line seven\n").replace("line 30\n", "").as_bytes());
    world.write("src/b.rs", lines(101..141).as_bytes());
    world.write("README", b"");
    world.rename("src/deep/c.rs", "c2.rs");
    world.write("c2.rs", (lines(200..209) + "other\n").as_bytes());
    let output = Command::new("git")
        .args(["diff", "--no-index", "--no-color", "-M", "--histogram", "base", "model"])
        .current_dir(world.dir.path())
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CEILING_DIRECTORIES", world.dir.path())
        .output()
        .unwrap();
    // --no-index names the two directories; everything else is the same.
    let theirs = String::from_utf8(output.stdout).unwrap();
    let theirs = theirs.replace("a/base/", "a/").replace("b/model/", "b/");
    let theirs = theirs.replace("from base/", "from ").replace("to model/", "to ");
    let sorted = |text: &str| {
        let mut parts: Vec<String> = text.split("diff --git ").map(str::to_owned).collect();
        parts.sort();
        parts
    };
    assert_eq!(sorted(&world.patch()), sorted(&theirs));
}

#[test]
fn renames_are_found() {
    let world = World::new(small);
    world.rename("src/deep", "moved");
    world.rename("src/a.rs", "a.rs");
    world.write("a.rs", lines(0..41).as_bytes());
    world.write("copy.rs", lines(100..140).as_bytes());
    world.remove("src/b.rs");
    let expected = [
        "R97 src/a.rs -> a.rs",
        "R100 src/b.rs -> copy.rs",
        "R100 src/deep/c.rs -> moved/c.rs",
        "R100 src/deep/data.bin -> moved/data.bin",
    ];
    assert_eq!(world.summary(), expected);
    world.check_apply("renames");
}

#[test]
fn saving_by_rename_is_a_modification() {
    let world = World::new(small);
    world.write("README.tmp", b"hello you\n");
    world.rename("README.tmp", "README");
    assert_eq!(world.summary(), ["M README"]);
    world.check_apply("save by rename");
}

#[test]
fn a_file_in_a_moved_directory_is_compared_with_where_it_was() {
    let world = World::new(small);
    world.rename("src", "lib");
    world.write("lib/deep/c.rs", lines(200..212).as_bytes());
    world.write("lib/deep/new.rs", b"new\n");
    world.remove("lib/a.rs");
    let expected = [
        "R100 src/b.rs -> lib/b.rs",
        "R83 src/deep/c.rs -> lib/deep/c.rs",
        "R100 src/deep/data.bin -> lib/deep/data.bin",
        "A lib/deep/new.rs",
        "D src/a.rs",
    ];
    assert_eq!(world.summary(), expected);
    world.check_apply("moved directory");
}

#[test]
fn a_directory_that_replaces_another_hides_its_files() {
    let world = World::new(small);
    for file in ["src/deep/c.rs", "src/deep/data.bin"] {
        world.remove(file);
    }
    world.remove("src/deep");
    world.make("src/deep", Kind::Dir, None);
    world.write("src/deep/other", b"other\n");
    assert_eq!(world.summary(), ["D src/deep/c.rs", "D src/deep/data.bin", "A src/deep/other"]);
    world.remove("link");
    world.write("link", b"a file now\n");
    assert_eq!(world.summary()[0], "T link");
    let link = &world.rows(&DiffFilter { paths: vec![hex(b"link")], ..DiffFilter::default() })[0];
    assert!(link.text.as_ref().unwrap().contains("deleted file mode 120000"), "{link:?}");
    assert!(link.text.as_ref().unwrap().contains("new file mode 100644"), "{link:?}");
}

#[test]
fn a_hard_link_changes_under_all_its_names() {
    let world = World::new(|base| {
        small(base);
        fs::hard_link(base.join("README"), base.join("src/README")).unwrap();
    });
    world.write_at(&world.inode("README"), 0, b"J");
    assert_eq!(world.summary(), ["M README", "M src/README"]);
}

#[test]
fn one_byte_of_a_large_file() {
    let world = World::new(|base| {
        let file = fs::File::create(base.join("large")).unwrap();
        file.set_len(60 << 20).unwrap();
    });
    world.write_at(&world.inode("large"), 50 << 20, b"\0");
    assert_eq!(world.summary(), Vec::<String>::new(), "a zero over a zero");
    world.write_at(&world.inode("large"), 50 << 20, b"x");
    assert_eq!(world.summary(), ["M large"]);
    assert!(world.patch().ends_with("Binary files a/large and b/large differ\n"));
}

#[test]
fn paths_limit_the_comparison() {
    let world = World::new(small);
    world.write("README", b"x\n");
    world.write("src/deep/c.rs", b"x\n");
    world.write("src/deeper", b"x\n");
    let paths = |path: &str| -> Vec<String> {
        let filter = DiffFilter { paths: vec![hex(path.as_bytes())], ..DiffFilter::default() };
        world.rows(&filter).into_iter().map(|r| r.path).collect()
    };
    assert_eq!(paths("src"), ["src/deep/c.rs", "src/deeper"]);
    assert_eq!(paths("src/deep"), ["src/deep/c.rs"]);
    assert_eq!(paths("src/deep/"), ["src/deep/c.rs"]);
    assert_eq!(paths("README"), ["README"]);
    assert_eq!(paths("none"), Vec::<String>::new());
    assert_eq!(paths(""), ["README", "src/deep/c.rs", "src/deeper"]);
}

/// xorshift64*, so that a failing seed can be run again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn pick<'l, T>(&mut self, list: &'l [T]) -> Option<&'l T> {
        if list.is_empty() { None } else { list.get(self.below(list.len())) }
    }
}

/// Paths in the model: files and links, and directories.
fn listing(world: &World) -> (Vec<String>, Vec<String>) {
    let root = world.model("");
    let (mut files, mut dirs, mut todo) = (Vec::new(), vec![String::new()], vec![root.clone()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && !path.is_symlink() {
                dirs.push(name);
                todo.push(path);
            } else {
                files.push(name);
            }
        }
    }
    files.sort();
    dirs.sort();
    (files, dirs)
}

fn text(random: &mut Random) -> String {
    let count = random.below(40);
    let mut text: String = (0..count).map(|_| format!("{}\n", "word ".repeat(random.below(5)))).collect();
    if random.below(4) == 0 {
        text.push_str("no newline");
    }
    text
}

fn step(world: &World, random: &mut Random, fresh: &mut u32) {
    let (files, dirs) = listing(world);
    *fresh += 1;
    let names = ["plain", "with blank", "quo\"te", "gr\u{fc}n", "tab\tname"];
    let name = format!("{} {fresh}", names[random.below(names.len())]).replace("plain ", "plain");
    let dir = random.pick(&dirs).unwrap().clone();
    let place = if dir.is_empty() { name } else { format!("{dir}/{name}") };
    let regular = |path: &&String| !world.model(path).is_symlink();
    let texts: Vec<String> = files.iter().filter(regular).cloned().collect();
    match random.below(10) {
        0 | 1 => world.write(&place, text(random).as_bytes()),
        2 | 3 => {
            if let Some(path) = random.pick(&texts) {
                let old = fs::read_to_string(world.model(path)).unwrap();
                let mut lines: Vec<&str> = old.split_inclusive('\n').collect();
                for _ in 0..=random.below(3) {
                    let at = random.below(lines.len() + 1);
                    if random.below(2) == 0 && at < lines.len() {
                        lines.remove(at);
                    } else if at < lines.len() || old.ends_with('\n') {
                        lines.insert(at, "inserted\n");
                    }
                }
                world.write(path, lines.concat().as_bytes());
            }
        }
        4 => {
            if let Some(path) = random.pick(&files) {
                world.remove(path);
            }
        }
        5 => {
            if let Some(path) = random.pick(&texts) {
                world.chmod(path, [0o644, 0o755, 0o600][random.below(3)]);
            }
        }
        6 => {
            if let Some(path) = random.pick(&files) {
                world.rename(path, &place);
            }
        }
        7 => {
            let from = random.pick(&dirs).unwrap();
            if !from.is_empty() && !place.starts_with(&format!("{from}/")) {
                world.rename(from, &place);
            }
        }
        8 => world.make(&place, Kind::Dir, None),
        _ => world.make(&place, Kind::Symlink, Some("some/target")),
    }
}

fn random_base(base: &StdPath, random: &mut Random) {
    for d in 0..4 {
        let dir = base.join(format!("d{d}/sub{}", random.below(3)));
        fs::create_dir_all(&dir).unwrap();
        for f in 0..5 {
            fs::write(dir.join(format!("f{f}")), text(random)).unwrap();
            fs::write(base.join(format!("d{d}/g{f}")), text(random)).unwrap();
        }
    }
    std::os::unix::fs::symlink("d0", base.join("link")).unwrap();
}

#[test]
fn git_apply_turns_the_base_into_what_the_mount_shows() {
    let seeds = std::env::var("REGENTFS_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(40);
    for seed in 1..=seeds {
        let mut random = Random(seed * 0x9e37_79b9);
        let world = World::new(|base| random_base(base, &mut random));
        let mut fresh = 0;
        for _ in 0..1 + random.below(40) {
            step(&world, &mut random, &mut fresh);
        }
        world.check_apply(&format!("seed {seed}"));
    }
}
