//! The same script through a mount, whose daemon ends at a failpoint without any clean-up.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use regentfs::store::fault::Action;

use super::{Fault, range, script};
use crate::common::{self, MountedRepo};
use crate::model::base::populate;
use crate::model::compare::Compare;
use crate::model::dir::Dir;
use crate::model::system::{Make, Mode, Op, System, Tree, Value};
use regentfs::types::Errno;

/// Mounts with a fault armed in the daemon. Returns whether it lived long enough to be mounted.
fn mount_to_die(mounted: &MountedRepo, fault: Fault) -> bool {
    let output = common::regentfs()
        .arg("mount")
        .arg(mounted.path())
        .arg("--store")
        .arg(mounted.store())
        .env("REGENTFS_FAULT", format!("{}:{}:abort", fault.point, fault.nth))
        .output()
        .expect("run regentfs");
    output.status.success()
}

/// The script on a mount whose daemon dies, beside a directory that shows what was acknowledged.
struct Run {
    fault: Fault,
    plain: Dir,
    mount: Dir,
    compare: Compare,
    plain_root: PathBuf,
    paths: std::collections::BTreeMap<usize, Vec<u8>>,
}

/// Runs the script; returns whether the daemon died on the way.
pub fn run(point: &'static str, nth: u64) -> bool {
    let fault = Fault { point, nth, action: Action::Abort };
    let dir = common::scratch();
    let (base, plain_root) = (dir.path().join("repo"), dir.path().join("plain"));
    for place in [&base, &plain_root] {
        std::fs::create_dir(place).expect("mkdir");
        populate(place);
    }
    let mounted = Rc::new(MountedRepo::in_dir(dir, "auto"));
    mounted.unmount();
    let mut fired = !mount_to_die(&mounted, fault);
    // It may die of what it writes down about the mount itself, or while it is asked who it is.
    fired = fired || !mounted.run(&["status", "--json"]).status.success();
    if fired {
        mounted.mount();
    }
    let daemon = mounted.daemon();
    let again = mounted.clone();
    let mount = Dir::new("mount", &base, Some(Box::new(move || again.mount())));
    let plain = Dir::new("plain", &plain_root, None);
    let compare = Compare::new(regentfs::clock::now());
    let mut run = Run { fault, plain, mount, compare, plain_root, paths: std::collections::BTreeMap::new() };

    let steps = if fired { Vec::new() } else { script() };
    for op in steps {
        let found = run.mount.apply(&op);
        // The one whose request it was hears ECONNABORTED, those after it ENOTCONN.
        if found.as_ref().is_err_and(|e| [libc::ECONNABORTED, libc::ENOTCONN].contains(&e.0)) {
            common::wait_for("the daemon to end", || !common::is_running(daemon));
            fired = true;
            run.recover(&op);
            break;
        }
        if let Some(done) = shorter(&op, &found) {
            // The kernel asked in pieces, and only the first were answered.
            common::wait_for("the daemon to end", || !common::is_running(daemon));
            fired = true;
            run.plain.apply(&done).expect("a plain write");
            run.recover(&op);
            break;
        }
        let right = run.plain.apply(&op);
        if let Some(difference) = run.compare.answers(&op, &right, &found) {
            run.fail(&difference);
        }
        if let (Op::Open { slot, path, .. }, Ok(_)) = (&op, &right) {
            run.paths.insert(*slot, path.clone());
        }
    }
    if common::is_running(daemon) {
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.same_as_plain())) {
            // It may have died of what it writes down about who looks.
            std::thread::sleep(std::time::Duration::from_millis(500));
            if common::is_running(daemon) {
                std::panic::resume_unwind(panic);
            }
            fired = true;
        }
        // It may yet die while it says good-bye.
        drop(run);
        let _ = mounted.try_unmount();
        common::wait_for("the daemon to end", || !common::is_running(daemon));
        mounted.mount();
    } else {
        drop(run);
    }
    mounted.unmount();
    let output = mounted.run(&["fsck", "--log"]);
    common::assert_ok(&output, &format!("{fault:?}: regentfs fsck --log"));
    fired
}

/// The part of a write or copy that was answered, when that is not all of it.
fn shorter(op: &Op, found: &Result<Value, Errno>) -> Option<Op> {
    let Ok(Value::Number(n)) = *found else { return None };
    let mut part = op.clone();
    match &mut part {
        Op::Write { data, .. } if n < data.len() as u64 => data.truncate(n as usize),
        Op::Copy { len, .. } if n < *len => *len = n,
        _ => return None,
    }
    Some(part)
}

/// What may have been done of an operation: all of it, or the pages of a write that the kernel asked for first.
fn parts(op: &Op) -> Vec<Op> {
    let (slot, offset, data) = match op {
        Op::Write { slot, offset, data } => (slot, offset, data),
        // Or, of a copy, what came before the end of a page: each part is answered by itself.
        Op::Copy { to_offset, len, .. } => {
            let ends = (1..=*len).filter(|&n| n == *len || (to_offset + n).is_multiple_of(4096));
            return ends
                .filter_map(|n| if n == *len { Some(op.clone()) } else { shorter(op, &Ok(Value::Number(n))) })
                .collect();
        }
        _ => return vec![op.clone()],
    };
    let ends = (1..=data.len()).filter(|&n| n == data.len() || (offset + n as u64).is_multiple_of(4096));
    ends.map(|n| Op::Write { slot: *slot, offset: *offset, data: data[..n].to_vec() }).collect()
}

impl Run {
    fn fail(&self, what: &str) -> ! {
        panic!("{:?}: {what}", self.fault);
    }

    fn same_as_plain(&mut self) {
        let (right, found) = (self.plain.tree(), self.mount.tree());
        let lines = self.compare.trees(&right, &found);
        if !lines.is_empty() {
            self.fail(&lines.join("\n"));
        }
    }

    /// The operation got no answer: it happened or it did not, and then its range may have new bytes.
    fn recover(&mut self, op: &Op) {
        self.mount.reopen();
        let found = self.mount.tree();
        self.heal(op, None, &found);
        let mut without = self.compare.clone();
        let lines = without.trees(&self.plain.tree(), &found);
        if lines.is_empty() {
            return;
        }
        let mut otherwise = Vec::new();
        for part in parts(op) {
            let _ = self.plain.apply(&part);
            self.heal(op, Some(&part), &found);
            let mut with = self.compare.clone();
            otherwise = with.trees(&self.plain.tree(), &found);
            if otherwise.is_empty() {
                self.compare = with;
                return;
            }
        }
        self.fail(&format!("neither before {op:?}\n{}\nnor after it\n{}", lines.join("\n"), otherwise.join("\n")));
    }

    /// Takes over new bytes inside the range of an operation that was not answered, if only they differ; of one
    /// of which a part was done, inside what is left of it.
    fn heal(&mut self, op: &Op, done: Option<&Op>, found: &Tree) {
        let Some((slot, offset, len)) = range(op) else { return };
        let before = done.and_then(range).map_or(0, |(_, _, len)| len);
        let (offset, len) = (offset + before, len - before);
        if len == 0 {
            return;
        }
        let Some(path) = self.paths.get(&slot).cloned() else { return };
        let at = self.plain_root.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&path));
        let (Some(found), Ok(right)) = (found.get(&path), std::fs::read(Path::new(&at))) else { return };
        let inside = |at: usize| (offset..offset + len).contains(&(at as u64));
        let same = |at: usize| right[at] == found.bytes[at] || inside(at);
        if right.len() != found.bytes.len() || !(0..right.len()).all(same) {
            return;
        }
        // Only when it did not happen as a whole: then the times are old.
        let open = Op::Open { slot: 9, path, mode: Mode::ReadWrite, make: Make::No, truncate: false };
        let mtime = self.plain.tree().get(&self.paths[&slot]).map(|f| f.stat.mtime);
        let old = mtime == Some(found.stat.mtime);
        if (old || done.is_some()) && self.plain.apply(&open).is_ok() {
            self.plain.heal(9, &found.bytes);
            let _ = self.plain.apply(&Op::Close { slot: 9 });
        }
    }
}

/// All failpoints, each at passages that grow apart, until the script does not get that far.
pub fn everywhere() -> std::collections::BTreeMap<&'static str, u64> {
    let mut fired = std::collections::BTreeMap::new();
    for point in crate::points() {
        let count = fired.entry(point).or_default();
        for nth in [1, 2, 3, 5, 9, 17, 40, 80] {
            if !run(point, nth) {
                break;
            }
            *count += 1;
        }
    }
    fired
}
