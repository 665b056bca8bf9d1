//! Random operations, aimed at what exists.

use regentfs::types::{Kind, Time};

use super::base::long_name;
use super::rng::Rng;
use super::system::{How, Make, Mode, Op, Path, Swap, Tree};

pub const SLOTS: u64 = 5;
/// Files stay below this, so that comparing trees stays quick.
const LARGEST: u64 = 400_000;

/// Makes operations from a seed and from the paths that were there when it was last told.
pub struct Random {
    pub rng: Rng,
    paths: Vec<Path>,
    dirs: Vec<Path>,
    fresh: u64,
    root_user: bool,
}

impl Random {
    pub fn new(seed: u64) -> Random {
        let root_user = rustix::process::geteuid().is_root();
        Random { rng: Rng::new(seed), paths: vec![b"small".to_vec()], dirs: vec![Vec::new()], fresh: 0, root_user }
    }

    /// Tells what is there now.
    pub fn look_at(&mut self, tree: &Tree) {
        self.paths = tree.keys().filter(|p| !p.is_empty()).cloned().collect();
        self.dirs = tree.iter().filter(|(_, f)| f.stat.kind == Kind::Dir).map(|(p, _)| p.clone()).collect();
        if self.paths.is_empty() {
            self.paths.push(b"small".to_vec());
        }
    }

    fn existing(&mut self) -> Path {
        match self.rng.below(40) {
            0 => self.new_path(),
            // Below something that may be no directory.
            1 => [&self.rng.pick(&self.paths)[..], b"/below"].concat(),
            2 => self.rng.pick(&self.dirs).clone(),
            _ => self.rng.pick(&self.paths).clone(),
        }
    }

    /// Something that has a name of its own: not the root.
    fn named(&mut self) -> Path {
        let path = self.existing();
        if path.is_empty() { b"small".to_vec() } else { path }
    }

    fn dir(&mut self) -> Path {
        if self.rng.one_in(20) { self.existing() } else { self.rng.pick(&self.dirs).clone() }
    }

    fn new_path(&mut self) -> Path {
        self.fresh += 1;
        let name = match self.rng.below(24) {
            0 => [&[0xff, 0xfe, b'0' + (self.fresh % 10) as u8][..]].concat(),
            1 => long_name(),
            2 => [long_name(), b"n".to_vec()].concat(),
            3 => b"small".to_vec(),
            // Few enough that names are used again.
            _ => format!("new{}", self.rng.below(25)).into_bytes(),
        };
        let dir = self.dir();
        let path = if dir.is_empty() { name } else { [&dir[..], b"/", &name].concat() };
        if path.len() > 2000 {
            return b"shorter".to_vec();
        }
        if !self.rng.one_in(4) {
            self.paths.push(path.clone());
        }
        path
    }

    fn offset(&mut self) -> u64 {
        match self.rng.below(6) {
            0 => 0,
            1 => self.rng.below(100),
            // Around the edges of chunks.
            2 | 3 => (65536 * self.rng.below(5) + self.rng.below(5)).saturating_sub(2),
            4 => 4096 * self.rng.below(80),
            _ => self.rng.below(LARGEST),
        }
    }

    fn len(&mut self) -> u64 {
        match self.rng.below(6) {
            0 => 1,
            1 => self.rng.below(200),
            2 => 4096,
            3 => 65536,
            4 => self.rng.below(10_000),
            _ => self.rng.below(150_000),
        }
    }

    fn slot(&mut self) -> usize {
        self.rng.below(SLOTS) as usize
    }

    fn perm(&mut self) -> u16 {
        if !self.root_user {
            // What the owner may do is the kernel's affair: none of these takes anything from him.
            return *self.rng.pick(&[0o744, 0o700, 0o755, 0o4755, 0o2755, 0o2744, 0o6711]);
        }
        // No sticky directory that all may write to: fs.protected_* sysctls have their say there.
        *self.rng.pick(&[0o644, 0o600, 0o755, 0o4755, 0o2755, 0o2644, 0o700, 0o1755, 0o6711])
    }

    fn data(&mut self) -> Vec<u8> {
        let len = self.len() as usize;
        if self.rng.one_in(6) { vec![0; len] } else { self.rng.bytes(len) }
    }

    fn xattr(&mut self) -> Vec<u8> {
        self.rng.pick(&[&b"user.a"[..], b"user.b", b"user.c"]).to_vec()
    }

    fn time(&mut self) -> Time {
        Time::new(1_000_000_000 + self.rng.below(500_000_000) as i64, self.rng.below(1_000_000_000) as u32)
    }

    pub fn next(&mut self) -> Op {
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        const MODES: &[i32] = &[0, libc::FALLOC_FL_KEEP_SIZE, PUNCH, PUNCH, libc::FALLOC_FL_ZERO_RANGE, ZERO_KEEP];
        match self.rng.below(100) {
            0..=13 => {
                let mode =
                    *self.rng.pick(&[Mode::Read, Mode::ReadWrite, Mode::ReadWrite, Mode::ReadWrite, Mode::Append]);
                let make = *self.rng.pick(&[Make::No, Make::No, Make::No, Make::Maybe, Make::New]);
                let path = if make == Make::New { self.new_path() } else { self.named() };
                let truncate = mode != Mode::Read && self.rng.one_in(8);
                Op::Open { slot: self.slot(), path, mode, make, truncate }
            }
            14..=15 => Op::Close { slot: self.slot() },
            16..=20 => Op::Read { slot: self.slot(), offset: self.offset(), len: self.len() as usize },
            21..=37 => Op::Write { slot: self.slot(), offset: self.offset(), data: self.data() },
            38..=41 => Op::Truncate { slot: self.slot(), size: self.offset() },
            42 => Op::TruncatePath { path: self.named(), size: self.offset() },
            43..=48 => {
                let mode = *self.rng.pick(MODES);
                Op::Allocate { slot: self.slot(), mode, offset: self.offset(), len: self.len().max(1) }
            }
            49..=51 => Op::Seek { slot: self.slot(), offset: self.offset(), data: self.rng.one_in(2) },
            52..=54 => Op::Copy {
                from: self.slot(),
                from_offset: self.offset(),
                to: self.slot(),
                to_offset: self.offset(),
                len: self.len().max(1),
            },
            55 => Op::Sync { slot: self.slot() },
            56..=57 => Op::Stat { path: self.existing() },
            58 => Op::StatOpen { slot: self.slot() },
            59..=61 => Op::Mkdir { path: self.new_path(), perm: self.perm() },
            62 => Op::Mkfifo { path: self.new_path(), perm: self.perm() },
            63..=64 => {
                let target = self.named();
                Op::Symlink { path: self.new_path(), target }
            }
            65 => Op::Readlink { path: self.existing() },
            66..=68 => Op::Link { path: self.named(), new: self.new_path() },
            69..=73 => Op::Unlink { path: self.named() },
            74..=76 => Op::Rmdir { path: self.named() },
            77..=85 => {
                let swap = *self.rng.pick(&[Swap::Replace, Swap::Replace, Swap::NoReplace, Swap::Exchange]);
                let from = self.named();
                let to = if swap == Swap::Exchange || self.rng.one_in(2) { self.named() } else { self.new_path() };
                Op::Rename { from, to, swap }
            }
            86..=87 => Op::Chmod { path: self.existing(), perm: self.perm() },
            88 if self.root_user => {
                let ids = [None, Some(0), Some(1000), Some(1001)];
                let (uid, gid) = (*self.rng.pick(&ids), *self.rng.pick(&ids));
                Op::Chown { path: self.existing(), uid: uid.or(Some(1002).filter(|_| gid.is_none())), gid }
            }
            88..=90 => Op::Times { path: self.existing(), atime: self.time(), mtime: self.time() },
            91..=93 => {
                let how = *self.rng.pick(&[How::Either, How::Either, How::Create, How::Replace]);
                let len = self.rng.below(200) as usize;
                Op::SetXattr { path: self.existing(), name: self.xattr(), value: self.rng.bytes(len), how }
            }
            94 => Op::GetXattr { path: self.existing(), name: self.xattr() },
            95 => Op::RemoveXattr { path: self.existing(), name: self.xattr() },
            96 => Op::ListXattr { path: self.existing() },
            _ => Op::List { path: self.dir() },
        }
    }
}
