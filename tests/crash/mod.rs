//! A scripted piece of work, and its repetition with a fault at one place.

#![allow(dead_code)]

pub mod daemon;

use std::path::Path as FsPath;
use std::sync::Arc;

use regentfs::store::fault::{self, Action};
use regentfs::store::mem::MemKv;
use regentfs::types::Time;

use crate::model::base::populate;
use crate::model::compare::Compare;
use crate::model::dir::Dir;
use crate::model::layer::Layer;
use crate::model::log::Log;
use crate::model::system::{How, Make, Mode, Op, Slot, Swap, System, Value};

/// Where the store of a run keeps its log.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Memory,
    Disk,
}

/// A fault: the `nth` passage of a failpoint.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub point: &'static str,
    pub nth: u64,
    pub action: Action,
}

fn open(slot: Slot, path: &str, mode: Mode, make: Make) -> Op {
    Op::Open { slot, path: path.into(), mode, make, truncate: false }
}

fn write(slot: Slot, offset: u64, len: usize) -> Op {
    // No zero byte: what should not be there is seen against holes.
    let data = (0..len).map(|i| (i % 251) as u8 + 1 + slot as u8 % 4).collect();
    Op::Write { slot, offset, data }
}

fn rename(from: &str, to: &str, swap: Swap) -> Op {
    Op::Rename { from: from.into(), to: to.into(), swap }
}

/// Work that passes every failpoint and every operation. Each step succeeds when nothing fails.
pub fn script() -> Vec<Op> {
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let path = |text: &str| text.as_bytes().to_vec();
    vec![
        // A base file of several chunks: inside, over an edge, growing.
        open(0, "src/large", Mode::ReadWrite, Make::No),
        write(0, 100_000, 10),
        write(0, 65_530, 12),
        write(0, 299_990, 5000),
        Op::Sync { slot: 0 },
        // Into the holes of a base file: what a failed write leaves behind must never show.
        open(1, "sparse", Mode::ReadWrite, Make::No),
        write(1, 1000, 500),
        write(1, 150_000, 700),
        write(1, 180_000, 10),
        write(1, 200_000, 700),
        write(1, 330_000, 100),
        write(1, 390_000, 100),
        Op::Truncate { slot: 0, size: 120_000 },
        Op::Truncate { slot: 0, size: 250_000 },
        write(0, 240_000, 20_000),
        Op::Allocate { slot: 0, mode: PUNCH, offset: 60_000, len: 20_000 },
        Op::Allocate { slot: 1, mode: libc::FALLOC_FL_ZERO_RANGE, offset: 70_500, len: 100 },
        Op::Allocate { slot: 1, mode: 0, offset: 499_000, len: 9000 },
        Op::Copy { from: 0, from_offset: 100, to: 1, to_offset: 262_100, len: 70_000 },
        // Born here.
        Op::Mkdir { path: path("work"), perm: 0o755 },
        open(2, "work/new", Mode::ReadWrite, Make::New),
        write(2, 0, 5000),
        open(3, "work/new", Mode::Append, Make::No),
        write(3, 0, 300),
        Op::Truncate { slot: 2, size: 1000 },
        write(2, 2000, 10),
        Op::Sync { slot: 2 },
        Op::Mkfifo { path: path("work/fifo"), perm: 0o600 },
        Op::Symlink { path: path("work/link"), target: path("new") },
        Op::Link { path: path("work/new"), new: path("docs/again") },
        Op::Link { path: path("small"), new: path("work/small") },
        // Renames: over a file, of a base directory, exchanged.
        rename("src/page", "work/page", Swap::NoReplace),
        rename("work/page", "src/chunks", Swap::Replace),
        rename("src/deep", "work/moved", Swap::Replace),
        rename("work/moved/deeper", "docs", Swap::Exchange),
        rename("docs/file", "src/file", Swap::Replace),
        Op::Chmod { path: path("none"), perm: 0o640 },
        Op::Times { path: path("src"), atime: Time::new(1, 2), mtime: Time::new(1_000_000_000, 4) },
        Op::SetXattr { path: path("small"), name: path("user.c"), value: path("value"), how: How::Create },
        Op::RemoveXattr { path: path("src/large"), name: path("user.a") },
        // Nameless but open, written to, and gone.
        open(4, "tree/b/leaf", Mode::ReadWrite, Make::No),
        Op::Unlink { path: path("tree/b/leaf") },
        write(4, 65_000, 1000),
        Op::Read { slot: 4, offset: 0, len: 100_000 },
        Op::Close { slot: 4 },
        Op::Rmdir { path: path("tree/b") },
        Op::Open { slot: 4, path: path("docs/again"), mode: Mode::ReadWrite, make: Make::No, truncate: true },
        Op::Unlink { path: path("work/new") },
        Op::Unlink { path: path("docs/again") },
        Op::Close { slot: 2 },
        Op::Close { slot: 3 },
        Op::Close { slot: 4 },
        open(2, "none", Mode::ReadWrite, Make::Maybe),
        write(2, 0, 10),
    ]
}

/// Writes beside what the script wrote, so that anything left in a chunk would come to light.
fn probe() -> Vec<Op> {
    let mut ops = Vec::new();
    for (slot, path) in [(0, "src/large"), (1, "sparse")] {
        ops.push(open(slot, path, Mode::ReadWrite, Make::No));
        ops.extend((0..8).map(|chunk| write(slot, chunk * 65_536 + 40_000, 3)));
        ops.push(Op::Truncate { slot, size: 600_000 });
        ops.push(Op::Close { slot });
    }
    ops
}

/// The bytes that a failed operation may have changed all the same.
fn range(op: &Op) -> Option<(Slot, u64, u64)> {
    match op {
        Op::Write { slot, offset, data } => Some((*slot, *offset, data.len() as u64)),
        Op::Allocate { slot, offset, len, .. } => Some((*slot, *offset, *len)),
        Op::Copy { to, to_offset, len, .. } => Some((*to, *to_offset, *len)),
        _ => None,
    }
}

/// The script on an overlay whose store fails at one place, beside a directory that shows what was acknowledged.
pub struct Run {
    fault: Fault,
    plain: Dir,
    layer: Layer,
    compare: Compare,
    /// The path by which each slot was opened.
    paths: std::collections::BTreeMap<Slot, Vec<u8>>,
    _dir: tempfile::TempDir,
}

impl Run {
    pub fn new(dir: tempfile::TempDir, kind: Kind, fault: Fault) -> Run {
        let (base, plain) = (dir.path().join("base"), dir.path().join("plain"));
        for place in [&base, &plain] {
            std::fs::create_dir(place).expect("mkdir");
            populate(place);
        }
        let log = match kind {
            Kind::Memory => Log::Memory(Arc::new(MemKv::new())),
            Kind::Disk => Log::FaultyDisk,
        };
        let layer = Layer::new(&base, FsPath::new(&dir.path().join("store")), log);
        let compare = Compare::new(regentfs::clock::now());
        let plain = Dir::new("plain", &plain, None);
        Run { fault, plain, layer, compare, paths: std::collections::BTreeMap::new(), _dir: dir }
    }

    /// Runs the script with the fault. Returns whether the fault happened.
    pub fn run(&mut self) -> bool {
        fault::arm(self.fault.point, self.fault.nth, self.fault.action);
        let mut fired = false;
        for op in script() {
            let found = self.layer.apply(&op);
            let hit = !fired && fault::fired();
            fired |= hit;
            if hit && self.fault.action == Action::Dead {
                self.die();
            }
            if hit && found.is_err() {
                self.in_flight(&op);
            } else {
                self.acknowledged(&op, found);
            }
            if hit {
                match self.fault.action {
                    Action::Dead => break,
                    Action::Error | Action::Abort => self.same("right after the fault"),
                }
            }
        }
        self.same("at the end");
        fault::disarm();
        self.reopen("after the fault");
        for op in probe() {
            let found = self.layer.apply(&op);
            self.acknowledged(&op, found);
        }
        self.same("after more work");
        self.reopen("after more work");
        fired
    }

    /// Nothing more reaches the store; what it has is found again by the next process.
    fn die(&mut self) {
        let late = Op::Mkdir { path: b"late".to_vec(), perm: 0o755 };
        if self.layer.apply(&late).is_ok() {
            self.fail("a dead store took a change");
        }
        self.layer.stop();
        fault::disarm();
        self.layer.reopen();
    }

    fn fail(&self, what: &str) -> ! {
        panic!("{:?}: {what}", self.fault);
    }

    fn acknowledged(&mut self, op: &Op, found: Result<Value, regentfs::types::Errno>) {
        let right = self.plain.apply(op);
        if let Some(difference) = self.compare.answers(op, &right, &found) {
            self.fail(&difference);
        }
        if let (Op::Open { slot, path, .. }, Ok(_)) = (op, &right) {
            self.paths.insert(*slot, path.clone());
        }
    }

    /// The operation failed: the bytes inside its range may be old or new, but from now on they are what they are.
    fn in_flight(&mut self, op: &Op) {
        let Some((slot, offset, len)) = range(op) else { return };
        if self.fault.action == Action::Dead {
            // Its process is gone: the file is seen again by its name, if it still has one.
            let Some(path) = self.paths.get(&slot).cloned() else { return };
            let again = Op::Open { slot, path, mode: Mode::ReadWrite, make: Make::No, truncate: false };
            if self.layer.apply(&again).is_err() || self.plain.apply(&again).is_err() {
                return;
            }
        }
        let whole = Op::Read { slot, offset: 0, len: 1 << 20 };
        match (self.plain.apply(&whole), self.layer.apply(&whole)) {
            (Ok(Value::Bytes(right)), Ok(Value::Bytes(found))) => {
                if right.len() != found.len() {
                    self.fail(&format!("{op:?} failed, but changed the size"));
                }
                let inside = |at: usize| (offset..offset + len).contains(&(at as u64));
                if let Some(at) = (0..right.len()).find(|&at| right[at] != found[at] && !inside(at)) {
                    self.fail(&format!("{op:?} failed, but changed byte {at}"));
                }
                self.plain.heal(slot, &found);
            }
            (right, found) => self.fail(&format!("read after {op:?}: {right:?}, {found:?}")),
        }
    }

    fn same(&mut self, when: &str) {
        let (right, found) = (self.plain.tree(), self.layer.tree());
        let lines = self.compare.trees(&right, &found);
        if !lines.is_empty() {
            self.fail(&format!("{when}: {} differences\n{}", lines.len(), lines.join("\n")));
        }
    }

    fn reopen(&mut self, when: &str) {
        self.plain.reopen();
        self.layer.reopen();
        self.same(when);
        let problems = self.layer.check().problems;
        if !problems.is_empty() {
            self.fail(&format!("{when}: the store is not whole\n{}", problems.join("\n")));
        }
    }
}
