//! Writing down what open files saw: at release, a second after the first unwritten sight, and before a query.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Engine, Handle};
use crate::clock;
use crate::overlay::Inode;
use crate::types::event::ContentRef;
use crate::types::{Known, Note, Op, Path, VersionId};

/// How long a sight may stay unwritten. Nanoseconds.
const LATEST_NS: u64 = 1_000_000_000;

/// Handles that saw something which is not in the record yet, with the time of the first such sight.
#[derive(Default)]
pub(crate) struct Unsettled {
    list: Mutex<Vec<(u64, Weak<Handle>)>>,
    work: Condvar,
    woken: AtomicBool,
}

impl Unsettled {
    pub fn add(&self, handle: &Arc<Handle>) {
        if handle.listed.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut list = self.list.lock();
        list.push((clock::monotonic_ns(), Arc::downgrade(handle)));
        if list.len() == 1 {
            self.work.notify_one();
        }
    }

    pub fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.work.notify_all();
    }

    fn take_before(&self, ns: u64) -> Vec<Arc<Handle>> {
        let mut list = self.list.lock();
        let due = list.iter().take_while(|(since, _)| *since <= ns).count();
        list.drain(..due).filter_map(|(_, handle)| handle.upgrade()).collect()
    }
}

/// Starts the thread that keeps [`LATEST_NS`]. It sleeps without a timer while there is nothing to write down.
pub(crate) fn start(engine: &Arc<Engine>) -> std::io::Result<()> {
    let weak = Arc::downgrade(engine);
    std::thread::Builder::new().name("settle".into()).spawn(move || {
        while let Some(engine) = weak.upgrade() {
            if engine.is_stopped() {
                return;
            }
            {
                let mut list = engine.unsettled.list.lock();
                if list.is_empty() && !engine.unsettled.woken.load(Ordering::Acquire) {
                    engine.unsettled.work.wait(&mut list);
                }
            }
            drop(engine);
            std::thread::sleep(Duration::from_nanos(LATEST_NS / 2));
            let Some(engine) = weak.upgrade() else { return };
            engine.settle_handles(clock::monotonic_ns().saturating_sub(LATEST_NS / 2));
        }
    })?;
    Ok(())
}

impl Engine {
    /// Writes down the sights of handles that were listed before `ns`.
    pub(crate) fn settle_handles(&self, ns: u64) {
        for handle in self.unsettled.take_before(ns) {
            handle.listed.store(false, Ordering::Release);
            self.settle_handle(&handle);
        }
    }

    pub(crate) fn unsettle(&self, handle: &Arc<Handle>) {
        self.unsettled.add(handle);
    }

    /// Writes down what one handle saw.
    pub(crate) fn settle_handle(&self, handle: &Handle) {
        let sights = handle.seen.lock().take();
        if sights.is_empty() {
            return;
        }
        let path = self.overlay.path(&handle.inode);
        for sight in sights {
            let mut ranges = sight.ranges;
            let mut note = Note::new(Op::Read, handle.inode.ino, path.clone());
            note.known = sight.known;
            note.handle = handle.id;
            note.before = sight.content;
            note.after = sight.content;
            note.ranges = ranges.take();
            self.was_read(&handle.inode, sight.content, &path);
            if let Err(errno) = self.observe(sight.actor, note) {
                tracing::error!(%errno, path = %path, "a read could not be recorded");
            }
        }
    }

    /// Keeps the hash of bytes that were read, while they are there.
    pub(crate) fn was_read(&self, inode: &Inode, content: ContentRef, path: &Path) {
        if let Some(hasher) = &self.hasher
            && content.version != VersionId::BASE
        {
            hasher.read(inode.ino, content, inode.attr().size, path);
        }
    }

    /// Adds to what a handle saw.
    pub(crate) fn saw(
        &self,
        handle: &Arc<Handle>,
        actor: crate::types::ActorId,
        known: Known,
        content: crate::types::event::ContentRef,
        range: crate::types::Range,
    ) {
        let full = handle.seen.lock().add(actor, known, content, range);
        if full {
            self.settle_handle(handle);
        } else {
            self.unsettle(handle);
        }
    }
}
