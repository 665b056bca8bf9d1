//! Random operations. They name things by numbers that are taken modulo what is there, so a sequence stays one when a part of it is left out.

use proptest::prelude::*;

/// Which of the things that are there.
#[derive(Clone, Debug)]
pub enum Pick {
    /// Any: modulo how many there are. Odd numbers mean those that were used lately, so that things happen to the same files.
    Nth(u16),
    /// By path.
    At(Vec<u8>),
}

/// A file by one of its names, or an open one.
#[derive(Clone, Debug)]
pub enum Which {
    Path(Pick),
    Open(Pick),
}

#[derive(Clone, Copy, Debug)]
pub enum Make {
    File,
    Dir,
    Symlink,
    Fifo,
}

#[derive(Clone, Copy, Debug)]
pub enum Room {
    Extend,
    Reserve,
    Punch,
    Zero,
    ZeroKeep,
}

#[derive(Clone, Debug)]
pub enum Op {
    Create {
        dir: Pick,
        name: Vec<u8>,
        what: Make,
        perm: u16,
    },
    Open {
        file: Pick,
    },
    Close {
        open: Pick,
    },
    Read {
        which: Which,
        offset: u64,
        len: u64,
    },
    Write {
        which: Which,
        offset: u64,
        len: u64,
        fill: u8,
        append: bool,
    },
    Truncate {
        which: Which,
        size: u64,
    },
    Allocate {
        which: Which,
        how: Room,
        offset: u64,
        len: u64,
    },
    Copy {
        from: Which,
        from_offset: u64,
        to: Which,
        to_offset: u64,
        len: u64,
    },
    Sync {
        which: Which,
    },
    Remove {
        spot: Pick,
    },
    /// A directory with all that is in it.
    RemoveAll {
        spot: Pick,
    },
    Rename {
        spot: Pick,
        dir: Pick,
        name: Vec<u8>,
    },
    RenameOver {
        spot: Pick,
        onto: Pick,
    },
    Exchange {
        one: Pick,
        two: Pick,
    },
    Link {
        spot: Pick,
        dir: Pick,
        name: Vec<u8>,
    },
    Chmod {
        which: Which,
        perm: u16,
    },
    Chown {
        which: Which,
        uid: u32,
        gid: u32,
    },
    Mtime {
        which: Which,
        secs: u32,
    },
    SetXattr {
        which: Which,
        name: Vec<u8>,
        len: u8,
    },
    RemoveXattr {
        which: Which,
        name: Vec<u8>,
    },
    Snapshot,
    Rewind {
        point: Pick,
    },
    /// Only some paths of a point.
    Restore {
        point: Pick,
        paths: Vec<Pick>,
    },
    Undo {
        force: bool,
    },
    Redo {
        force: bool,
    },
    /// The kernel drops a part of what it has cached.
    Forget {
        salt: u64,
    },
    /// The daemon ends, and another one starts.
    Restart,
    Compare,
    /// Compares a point as a view shows it.
    Look {
        point: Pick,
    },
    Diff {
        from: Pick,
        to: Pick,
    },
}

/// Files stay below about this.
const LARGEST: u64 = 330_000;

fn which() -> impl Strategy<Value = Which> {
    prop_oneof![2 => nth().prop_map(Which::Path), 3 => nth().prop_map(Which::Open)]
}

fn nth() -> impl Strategy<Value = Pick> {
    any::<u16>().prop_map(Pick::Nth)
}

/// Few enough that names are used again; some are those of the base.
fn name() -> impl Strategy<Value = Vec<u8>> {
    const NAMES: &[&[u8]] = &[b"n0", b"n1", b"n2", b"n3\xff", b"small", b"e", b"linked", b"large", b"h"];
    prop::sample::select(NAMES).prop_map(<[u8]>::to_vec)
}

fn xattr_name() -> impl Strategy<Value = Vec<u8>> {
    const NAMES: &[&[u8]] = &[b"user.a", b"user.b", b"user.c"];
    prop::sample::select(NAMES).prop_map(<[u8]>::to_vec)
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        0..100u64,
        (0..5u64, 0..5u64).prop_map(|(chunk, off)| (65536 * chunk + off).saturating_sub(2)),
        (0..80u64).prop_map(|page| page * 4096),
        0..LARGEST
    ]
}

fn len() -> impl Strategy<Value = u64> {
    prop_oneof![Just(1), 1..200u64, Just(4096), Just(65536), 1..10_000u64, 1..150_000u64]
}

fn perm() -> impl Strategy<Value = u16> {
    prop::sample::select(&[0o644u16, 0o755, 0o600, 0o4755, 0o2755, 0o2644, 0o1777][..])
}

fn room() -> impl Strategy<Value = Room> {
    prop::sample::select(&[Room::Extend, Room::Reserve, Room::Punch, Room::Punch, Room::Zero, Room::ZeroKeep][..])
}

fn names() -> impl Strategy<Value = Op> {
    let make = prop::sample::select(
        &[Make::File, Make::File, Make::File, Make::Dir, Make::Dir, Make::Symlink, Make::Fifo][..],
    );
    prop_oneof![
        6 => (nth(), name(), make, perm()).prop_map(|(dir, name, what, perm)| Op::Create { dir, name, what, perm }),
        4 => nth().prop_map(|spot| Op::Remove { spot }),
        2 => nth().prop_map(|spot| Op::RemoveAll { spot }),
        4 => (nth(), nth(), name()).prop_map(|(spot, dir, name)| Op::Rename { spot, dir, name }),
        3 => (nth(), nth()).prop_map(|(spot, onto)| Op::RenameOver { spot, onto }),
        2 => (nth(), nth()).prop_map(|(one, two)| Op::Exchange { one, two }),
        3 => (nth(), nth(), name()).prop_map(|(spot, dir, name)| Op::Link { spot, dir, name }),
    ]
}

fn bytes() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => nth().prop_map(|file| Op::Open { file }),
        2 => nth().prop_map(|open| Op::Close { open }),
        1 => (which(), offset(), len()).prop_map(|(which, offset, len)| Op::Read { which, offset, len }),
        8 => (which(), offset(), len(), 0..6u8, any::<bool>()).prop_map(|(which, offset, len, fill, append)| {
            Op::Write { which, offset, len, fill, append }
        }),
        4 => (which(), offset()).prop_map(|(which, size)| Op::Truncate { which, size }),
        3 => (which(), room(), offset(), len()).prop_map(|(which, how, offset, len)| Op::Allocate { which, how, offset, len }),
        1 => (which(), offset(), which(), offset(), len()).prop_map(|(from, from_offset, to, to_offset, len)| {
            Op::Copy { from, from_offset, to, to_offset, len }
        }),
        1 => which().prop_map(|which| Op::Sync { which }),
    ]
}

fn attributes() -> impl Strategy<Value = Op> {
    prop_oneof![
        (which(), perm()).prop_map(|(which, perm)| Op::Chmod { which, perm }),
        (which(), 0..3u32, 0..3u32).prop_map(|(which, uid, gid)| Op::Chown { which, uid, gid }),
        (which(), 0..9u32).prop_map(|(which, secs)| Op::Mtime { which, secs }),
        (which(), xattr_name(), 0..99u8).prop_map(|(which, name, len)| Op::SetXattr { which, name, len }),
        (which(), xattr_name()).prop_map(|(which, name)| Op::RemoveXattr { which, name }),
    ]
}

fn time() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::Snapshot),
        6 => nth().prop_map(|point| Op::Rewind { point }),
        2 => (nth(), prop::collection::vec(nth(), 1..4)).prop_map(|(point, paths)| Op::Restore { point, paths }),
        1 => any::<bool>().prop_map(|force| Op::Undo { force }),
        1 => any::<bool>().prop_map(|force| Op::Redo { force }),
        2 => any::<u64>().prop_map(|salt| Op::Forget { salt }),
        1 => Just(Op::Restart),
        1 => Just(Op::Compare),
        1 => nth().prop_map(|point| Op::Look { point }),
        1 => (nth(), nth()).prop_map(|(from, to)| Op::Diff { from, to }),
    ]
}

/// A sequence of operations.
pub fn sequence() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![5 => names(), 6 => bytes(), 2 => attributes(), 5 => time()];
    prop::collection::vec(op, 30..90)
}
