//! A piece of work that has everything in it: the base before, the plan, and what a program with plain system calls would have made of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path as FsPath;

use regentfs::apply::{ContentId, Make, Meta, Step};
use regentfs::types::{Kind, Path};
use rustix::fs::{CWD, FileType, Mode};

use crate::fixture::{Bytes, Fixture, Sparse, at, dress, meta, with_xattr};

fn write(base: &FsPath, path: &[u8], bytes: &[u8], meta: &Meta) {
    fs::write(at(base, path), bytes).expect("write");
    dress(&at(base, path), meta);
}

fn mkdir(base: &FsPath, path: &[u8]) {
    fs::create_dir(at(base, path)).expect("mkdir");
}

fn mode(base: &FsPath, path: &[u8], mode: u32) {
    fs::set_permissions(at(base, path), fs::Permissions::from_mode(mode)).expect("chmod");
}

fn link(base: &FsPath, path: &[u8], target: &str, meta: &Meta) {
    symlink(target, at(base, path)).expect("symlink");
    dress(&at(base, path), meta);
}

fn special(base: &FsPath, path: &[u8], kind: FileType, meta: &Meta) {
    rustix::fs::mknodat(CWD, at(base, path), kind, Mode::RWXU, 0).expect("mknod");
    dress(&at(base, path), meta);
}

fn plain(perm: u16) -> Meta {
    meta(perm, 1_000_000)
}

fn new(perm: u16) -> Meta {
    meta(perm, 1_700_000_000)
}

/// As root something gets another owner.
fn given_away(perm: u16) -> Meta {
    let mut meta = new(perm);
    if rustix::process::geteuid().is_root() {
        (meta.uid, meta.gid) = (1234, 4321);
    }
    meta
}

/// Nobody may do anything; but a plain user's test has to read the file.
fn nobody() -> Meta {
    new(if rustix::process::geteuid().is_root() { 0 } else { 0o400 })
}

fn long() -> Vec<u8> {
    (0..700_001u32).map(|i| (i % 253) as u8 + 1).collect()
}

fn sparse() -> Sparse {
    let mut file = Sparse { size: 9_000_000, ..Sparse::default() };
    file.parts.insert(0, b"begin".to_vec());
    file.parts.insert(4_194_304, vec![9; 70_000]);
    file
}

pub fn before(base: &FsPath) {
    write(base, b"same", b"stays", &with_xattr(plain(0o640), "user.same", "yes"));
    write(base, b"file", b"old bytes", &with_xattr(plain(0o4755), "user.old", "1"));
    write(base, b"inherits", b"old", &with_xattr(plain(0o644), "user.stays", "2"));
    write(base, b"gone", b"going", &plain(0o600));
    write(base, b"unreadable\xff\xfe", b"x", &plain(0o644));
    write(base, b"chmod", b"bytes stay", &with_xattr(plain(0o444), "user.a", "a"));
    write(base, b"tofile-not", b"a neighbour in the order of bytes", &plain(0o644));
    // Deep, and removed.
    for dir in ["deep", "deep/a", "deep/a/b", "deep/a/b/c"] {
        mkdir(base, dir.as_bytes());
        write(base, format!("{dir}/leaf").as_bytes(), dir.as_bytes(), &plain(0o644));
    }
    // Changes of type.
    write(base, b"todir", b"a file", &plain(0o644));
    mkdir(base, b"tofile");
    mkdir(base, b"tofile/in");
    write(base, b"tofile/in/x", b"x", &plain(0o644));
    write(base, b"tolink", b"a file", &plain(0o644));
    link(base, b"link2file", "same", &plain(0));
    link(base, b"link2dir", "deep", &plain(0));
    mkdir(base, b"dir2link");
    mkdir(base, b"dir2fifo");
    special(base, b"fifo2file", FileType::Fifo, &plain(0o600));
    // One file with two names, and one with a name that the plan does not know.
    write(base, b"name1", b"linked", &plain(0o644));
    fs::hard_link(at(base, b"name1"), at(base, b"name2")).expect("link");
    write(base, b"name3", b"linked too", &plain(0o644));
    fs::hard_link(at(base, b"name3"), at(base, b"name4")).expect("link");
    mkdir(base, b"from");
    write(base, b"from/moved", &long(), &with_xattr(plain(0o600), "user.m", "m"));
    write(base, b"from/over", b"goes over another", &plain(0o600));
    write(base, b"overwritten", b"by a link", &plain(0o644));
    // Directories that stay: new mode, and nobody may write to them as they are.
    mkdir(base, b"dir");
    write(base, b"dir/stays", b"here", &plain(0o644));
    mkdir(base, b"locked");
    write(base, b"locked/old", b"old", &plain(0o444));
    write(base, b"locked/gone", b"gone", &plain(0o444));
    mkdir(base, b"lockedgone");
    write(base, b"lockedgone/x", b"x", &plain(0o444));
    mode(base, b"locked", 0o555);
    mode(base, b"lockedgone", 0o555);
    mode(base, b"", 0o755);
}

pub fn source() -> Bytes {
    let mut bytes = Bytes::of(&[(1, b"new bytes"), (2, b""), (3, b"in a directory"), (4, b"was something else")]);
    bytes.files.insert(5, long().as_slice().into());
    bytes.files.insert(6, sparse());
    bytes
}

fn file(content: u64, meta: Meta) -> Make {
    Make::File { content: ContentId(content), meta }
}

fn to(path: &[u8]) -> Make {
    Make::Link { to: Path::new(path) }
}

fn symlink_to(target: &str, meta: Meta) -> Make {
    Make::Symlink { target: target.as_bytes().into(), meta }
}

fn inherits() -> Meta {
    Meta { xattrs: None, ..new(0o644) }
}

fn dir(perm: u16) -> Make {
    Make::Dir { meta: new(perm) }
}

/// The plan, from the base as it is before. In an order that is of no use.
pub fn plan(f: &Fixture) -> Vec<Step> {
    let mut steps = vec![
        f.step(b"same", Make::Keep),
        f.step(b"file", file(1, with_xattr(given_away(0o2711), "user.new", "n"))),
        f.step(b"inherits", file(1, inherits())),
        f.step(b"gone", Make::Remove),
        f.step(b"unreadable\xff\xfe", file(2, nobody())),
        f.step(b"born\xc3\x28", file(5, new(0o400))),
        f.step(b"sparse", file(6, new(0o644))),
        f.step(b"chmod", Make::Meta { meta: with_xattr(given_away(0o640), "user.b", "b") }),
        f.step(b"deep", Make::Remove),
        f.step(b"todir", dir(0o750)),
        f.step(b"todir/in", file(3, new(0o644))),
        f.step(b"tofile", file(4, new(0o644))),
        f.step(b"tofile/in", Make::Remove),
        f.step(b"tofile/in/x", Make::Remove),
        f.step(b"tolink", symlink_to("some/where", given_away(0))),
        f.step(b"link2file", file(4, new(0o644))),
        f.step(b"link2dir", dir(0o555)),
        f.step(b"link2dir/in", file(3, new(0o444))),
        f.step(b"link2dir/sub", Make::Dir { meta: with_xattr(new(0o500), "user.d", "d") }),
        f.step(b"link2dir/sub/leaf", symlink_to("\u{1F980}", new(0))),
        f.step(b"dir2link", symlink_to("same", new(0))),
        f.step(b"dir2fifo", Make::Special { kind: Kind::Fifo, rdev: 0, meta: new(0o620) }),
        f.step(b"fifo2file", file(4, new(0o644))),
        f.step(b"socket", Make::Special { kind: Kind::Socket, rdev: 0, meta: new(0o700) }),
        f.step(b"name1", file(1, new(0o644))),
        f.step(b"name2", to(b"name1")),
        f.step(b"name5", to(b"name1")),
        f.step(b"name3", Make::Meta { meta: new(0o600) }),
        f.step(b"name4", Make::Remove),
        f.step(b"same-too", to(b"same")),
        f.step(b"into", dir(0o755)),
        f.step(b"into/moved", to(b"from/moved")),
        f.step(b"from/moved", Make::Remove),
        f.step(b"from/over", Make::Remove),
        f.step(b"from", Make::Remove),
        f.step(b"overwritten", to(b"from/over")),
        f.step(b"socket-too", to(b"socket")),
        f.step(b"dir", Make::Dir { meta: with_xattr(given_away(0o1700), "user.dir", "d") }),
        f.step(b"dir/stays", Make::Keep),
        f.step(b"locked", dir(0o511)),
        f.step(b"locked/old", file(1, new(0o444))),
        f.step(b"locked/gone", Make::Remove),
        f.step(b"locked/new", file(2, new(0o444))),
        f.step(b"lockedgone", Make::Remove),
        f.step(b"lockedgone/x", Make::Remove),
        f.step(b"", dir(0o755)),
    ];
    for path in ["deep/a", "deep/a/b", "deep/a/b/c", "deep/leaf", "deep/a/leaf", "deep/a/b/leaf", "deep/a/b/c/leaf"] {
        steps.push(f.step(path, Make::Remove));
    }
    steps
}

/// What is to come of it, made from nothing.
pub fn after(base: &FsPath) {
    write(base, b"same", b"stays", &with_xattr(plain(0o640), "user.same", "yes"));
    fs::hard_link(at(base, b"same"), at(base, b"same-too")).expect("link");
    write(base, b"file", b"new bytes", &with_xattr(given_away(0o2711), "user.new", "n"));
    write(base, b"inherits", b"new bytes", &with_xattr(inherits(), "user.stays", "2"));
    write(base, b"unreadable\xff\xfe", b"", &nobody());
    write(base, b"born\xc3\x28", &long(), &new(0o400));
    sparse().write(&at(base, b"sparse"));
    dress(&at(base, b"sparse"), &new(0o644));
    write(base, b"chmod", b"bytes stay", &with_xattr(given_away(0o640), "user.b", "b"));
    write(base, b"tofile-not", b"a neighbour in the order of bytes", &plain(0o644));
    mkdir(base, b"todir");
    write(base, b"todir/in", b"in a directory", &new(0o644));
    dress(&at(base, b"todir"), &new(0o750));
    write(base, b"tofile", b"was something else", &new(0o644));
    link(base, b"tolink", "some/where", &given_away(0));
    write(base, b"link2file", b"was something else", &new(0o644));
    mkdir(base, b"link2dir");
    write(base, b"link2dir/in", b"in a directory", &new(0o444));
    mkdir(base, b"link2dir/sub");
    link(base, b"link2dir/sub/leaf", "\u{1F980}", &new(0));
    dress(&at(base, b"link2dir/sub"), &with_xattr(new(0o500), "user.d", "d"));
    dress(&at(base, b"link2dir"), &new(0o555));
    link(base, b"dir2link", "same", &new(0));
    special(base, b"dir2fifo", FileType::Fifo, &new(0o620));
    write(base, b"fifo2file", b"was something else", &new(0o644));
    special(base, b"socket", FileType::Socket, &new(0o700));
    fs::hard_link(at(base, b"socket"), at(base, b"socket-too")).expect("link");
    write(base, b"name1", b"new bytes", &new(0o644));
    fs::hard_link(at(base, b"name1"), at(base, b"name2")).expect("link");
    fs::hard_link(at(base, b"name1"), at(base, b"name5")).expect("link");
    write(base, b"name3", b"linked too", &new(0o600));
    mkdir(base, b"into");
    write(base, b"into/moved", &long(), &with_xattr(plain(0o600), "user.m", "m"));
    dress(&at(base, b"into"), &new(0o755));
    write(base, b"overwritten", b"goes over another", &plain(0o600));
    mkdir(base, b"dir");
    write(base, b"dir/stays", b"here", &plain(0o644));
    dress(&at(base, b"dir"), &with_xattr(given_away(0o1700), "user.dir", "d"));
    mkdir(base, b"locked");
    write(base, b"locked/old", b"new bytes", &new(0o444));
    write(base, b"locked/new", b"", &new(0o444));
    dress(&at(base, b"locked"), &new(0o511));
    dress(base, &new(0o755));
}
