//! Collections and changes at the same time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use regentfs::overlay::ops::create::New;
use regentfs::overlay::ops::io::Write;
use regentfs::overlay::ops::setattr::SetAttr;
use regentfs::overlay::seal::Reason;
use regentfs::overlay::{Ctx, Inode, Overlay};
use regentfs::store::gc::{Keep, Report, collect};
use regentfs::store::history::{self, Why};
use regentfs::types::{ActorId, Epoch, HandleId, Kind, Known, Op, Time};

use crate::rng::Rng;
use crate::world::World;

const FILES: u64 = 12;

fn ctx() -> Ctx {
    Ctx { actor: ActorId(1), uid: 0, gid: 0, now: Time::new(1_600_000_000, 0), epoch: Epoch(1), shared: false }
}

fn bytes(overlay: &Overlay, inode: &Inode) -> Vec<u8> {
    let mut out = vec![0xaa; inode.attr().size as usize];
    let got = overlay.read(inode, 0, &mut out).expect("read").len;
    out.truncate(got);
    out
}

/// What one file is to show.
fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    bytes.resize(bytes.len().max(end), 0);
    bytes[offset..end].copy_from_slice(data);
}

/// Changes files and looks at them, open ones without a name among them, while another thread collects all the time. Returns how often that
/// found something.
pub fn run(world: &World, seed: u64, steps: u64) -> u64 {
    let (overlay, store) = (world.overlay.clone(), world.store.clone());
    let done = Arc::new(AtomicBool::new(false));
    let collector = {
        let (overlay, store, done) = (overlay.clone(), store.clone(), done.clone());
        std::thread::spawn(move || {
            let mut found = 0;
            while !done.load(Ordering::Acquire) {
                let _busy = store.busy.lock();
                // The newest and one older.
                let snapshots = history::snapshots(&*store.kv).expect("snapshots");
                let keep = snapshots.iter().rev().step_by(3).take(2).map(|s| s.epoch).collect();
                let (live, shown) = (|| overlay.versions_in_memory(), [overlay.lineage().at()]);
                let keep = Keep { snapshots: &keep, shown: &shown, live: &live, kept: &|_| Ok(Vec::new()) };
                let report = collect(&store, &keep, false).expect("collect");
                found += u64::from(report != Report::default());
            }
            found
        })
    };
    let mut rng = Rng::new(seed);
    let root = overlay.root().clone();
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut held: Vec<(Arc<Inode>, Vec<u8>)> = Vec::new();
    for step in 0..steps {
        let name = format!("f{}", rng.below(FILES));
        let what = |what: &str| format!("seed {seed}, step {step}: {name} {what}");
        match (rng.below(12), files.contains_key(&name)) {
            (0, _) => {
                let _busy = store.busy.lock();
                overlay.seal(&ctx(), &Reason::new(Why::Step, "")).expect("seal");
            }
            (_, false) => {
                let new = New { kind: Kind::File, perm: 0o644, umask: 0, rdev: 0, target: None };
                overlay.create(&ctx(), &root, name.as_bytes(), &new).expect("create");
                files.insert(name, Vec::new());
            }
            (1..=5, true) => {
                let inode = overlay.lookup(&root, name.as_bytes()).expect("look up");
                let offset = rng.below(3) * 65536 + rng.below(100);
                let len = rng.below(70_000) as usize + 1;
                let data = rng.bytes(len);
                let (handle, known) = (HandleId(1), Known::Observed);
                let write = Write { offset, data: &data, append: false, kill_ids: false, handle, op: Op::Write, known };
                overlay.write(&ctx(), &inode, &write).expect("write");
                put(files.get_mut(&name).expect("it is there"), offset as usize, &data);
            }
            (6, true) => {
                let inode = overlay.lookup(&root, name.as_bytes()).expect("look up");
                let size = rng.below(200_000);
                overlay.setattr(&ctx(), &inode, &SetAttr { size: Some(size), ..SetAttr::default() }).expect("cut");
                files.get_mut(&name).expect("it is there").resize(size as usize, 0);
            }
            (7, true) => {
                let inode = overlay.unlink(&ctx(), &root, name.as_bytes()).expect("unlink");
                overlay.remember(&inode);
                held.push((inode, files.remove(&name).expect("it is there")));
                if held.len() > 4 {
                    let (gone, right) = held.remove(0);
                    assert!(bytes(&overlay, &gone) == right, "{}", what("an open file without a name"));
                    overlay.forget(gone.ino, 1);
                }
            }
            (8, true) => {
                // The kernel forgets it: it comes from the log the next time.
                let inode = overlay.lookup(&root, name.as_bytes()).expect("look up");
                overlay.forget(inode.ino, 0);
            }
            (_, true) => {
                let inode = overlay.lookup(&root, name.as_bytes()).expect("look up");
                assert!(bytes(&overlay, &inode) == files[&name], "{}", what("shows something else"));
            }
        }
        if let Some((inode, right)) = held.get(rng.below(4) as usize) {
            assert!(bytes(&overlay, inode) == *right, "seed {seed}, step {step}: an open file without a name");
        }
    }
    done.store(true, Ordering::Release);
    let found = collector.join().expect("the collector");
    for (name, right) in &files {
        let inode = overlay.lookup(&root, name.as_bytes()).expect("look up");
        assert!(bytes(&overlay, &inode) == *right, "seed {seed}: {name} at the end");
    }
    found
}
