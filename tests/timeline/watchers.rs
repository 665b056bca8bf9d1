//! What inotify tells of a rewind: see "What programs notice of a rewind" in docs/SEMANTICS.md.

use std::fs;
use std::io::Write;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

use crate::common::{assert_ok, can_mount, wait_for};
use crate::stage::{Stage, names, read, write};

/// Everything that is no mere look.
const CHANGES: [(ReadFlags, &str); 9] = [
    (ReadFlags::MODIFY, "modify"),
    (ReadFlags::ATTRIB, "attrib"),
    (ReadFlags::MOVED_FROM, "moved_from"),
    (ReadFlags::MOVED_TO, "moved_to"),
    (ReadFlags::CREATE, "create"),
    (ReadFlags::DELETE, "delete"),
    (ReadFlags::DELETE_SELF, "delete_self"),
    (ReadFlags::MOVE_SELF, "move_self"),
    (ReadFlags::IGNORED, "ignored"),
];

struct Watcher {
    fd: OwnedFd,
    root: PathBuf,
    watched: Vec<(i32, String)>,
    heard: Vec<String>,
}

impl Watcher {
    fn new(root: &Path) -> Watcher {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("inotify");
        Watcher { fd, root: root.to_owned(), watched: Vec::new(), heard: Vec::new() }
    }

    fn watch(&mut self, path: &str) {
        let flags = WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::MOVE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        let id = inotify::add_watch(&self.fd, self.root.join(path), flags).expect("watch");
        self.watched.push((id, path.to_owned()));
    }

    fn listen(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut reader = Reader::new(&self.fd, &mut buffer);
        while let Ok(event) = reader.next() {
            let of = self.watched.iter().rev().find(|(id, _)| *id == event.wd()).map_or("?", |(_, path)| path);
            for (flag, what) in CHANGES {
                if event.events().contains(flag) {
                    let name =
                        event.file_name().map_or_else(String::new, |name| format!(" {}", name.to_string_lossy()));
                    self.heard.push(format!("{of}: {what}{name}"));
                }
            }
        }
    }

    /// Waits until it was told of that.
    fn hears(&mut self, what: &str) {
        wait_for(&format!("{what:?}; heard so far: {:?}", self.heard), || {
            self.listen();
            self.heard.iter().any(|heard| heard == what)
        });
    }

    /// All that it was told of by now. What is told later than the end of a command is waited for with [`Watcher::hears`] before.
    fn all(&mut self) -> Vec<String> {
        self.listen();
        let mut heard = std::mem::take(&mut self.heard);
        heard.sort();
        heard
    }
}

#[test]
fn watchers_hear_of_what_a_rewind_removes() {
    if !can_mount() {
        return;
    }
    let stage = Stage::mounted();
    write(stage.join("changes"), "then\n");
    write(stage.join("changes-and-is-open"), "then\n");
    write(stage.join("stays"), "stays\n");
    write(stage.join("two-names"), "one file\n");
    fs::create_dir(stage.join("sub")).expect("mkdir");
    write(stage.join("sub/file"), "file\n");
    assert_ok(&stage.run(&["snapshot", "--label", "then"]), "snapshot");
    write(stage.join("added"), "added\n");
    write(stage.join("added-and-open"), "open\n");
    fs::create_dir_all(stage.join("added-dir/deep")).expect("mkdir");
    write(stage.join("added-dir/deep/file"), "below\n");
    write(stage.join("changes-and-is-open"), "now\n");
    write(stage.join("changes"), "now\n");
    write(stage.join("README"), "changed\n");
    fs::remove_file(stage.join("src/main")).expect("remove");
    fs::hard_link(stage.join("two-names"), stage.join("second-name")).expect("link");
    fs::rename(stage.join("sub"), stage.join("moved")).expect("rename");

    let mut watcher = Watcher::new(stage.root());
    for path in [
        "",
        "src",
        "moved",
        "moved/file",
        "changes",
        "README",
        "stays",
        "added",
        "added-and-open",
        "added-dir",
        "added-dir/deep",
        "added-dir/deep/file",
        "changes-and-is-open",
        "two-names",
    ] {
        watcher.watch(path);
    }
    let open = ["added-and-open", "changes-and-is-open"].map(|name| fs::File::open(stage.join(name)).expect("open"));
    assert_eq!(watcher.all(), [""; 0]);
    assert_ok(&stage.run(&["rewind", "then"]), "rewind");
    assert_eq!(
        names(stage.root()),
        [".git", "README", "changes", "changes-and-is-open", "link", "src", "stays", "sub", "two-names"]
    );
    // Files and directories that are gone: who watches them is told.
    for gone in ["added", "added-dir", "added-dir/deep", "added-dir/deep/file"] {
        watcher.hears(&format!("{gone}: delete_self"));
        watcher.hears(&format!("{gone}: ignored"));
    }
    // One that is open, and one that lost its name to other bytes, is gone for its watchers when it is closed.
    assert!(!watcher.heard.iter().any(|heard| heard.contains("open")), "{:?}", watcher.heard);
    drop(open);
    watcher.hears("added-and-open: ignored");
    watcher.hears("changes-and-is-open: ignored");
    assert_eq!(
        watcher.all(),
        [
            "added-and-open: delete_self",
            "added-and-open: ignored",
            "added-dir/deep/file: delete_self",
            "added-dir/deep/file: ignored",
            "added-dir/deep: delete_self",
            "added-dir/deep: ignored",
            "added-dir: delete_self",
            "added-dir: ignored",
            "added: delete_self",
            "added: ignored",
            "changes-and-is-open: delete_self",
            "changes-and-is-open: ignored",
        ],
        "the kernel tells those who watch a directory nothing; nor of what came, changed or has other names"
    );
    // What is still there is watched still, also under another name.
    for (name, heard) in
        [("stays", "stays: modify"), ("sub/file", "moved/file: modify"), ("two-names", "two-names: modify")]
    {
        let mut file = fs::OpenOptions::new().append(true).open(stage.join(name)).expect("open");
        file.write_all(b"more").expect("append");
        watcher.hears(heard);
    }
    for (name, heard) in [("new", ": create new"), ("src/new", "src: create new"), ("sub/new", "moved: create new")] {
        write(stage.join(name), "new");
        watcher.hears(heard);
    }
    // The times of change tell of the rest.
    assert_eq!(read(stage.join("changes")), "then\n");
    assert_eq!(read(stage.join("src/main")), "main\n".repeat(1000));
}
