//! Open files and directories, and who may read through them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::seen::Seen;
use crate::overlay::Inode;
use crate::overlay::ops::readdir::Entry;
use crate::types::event::ContentRef;
use crate::types::{ActorId, HandleId, Ino};

const SHARDS: usize = 16;

/// How long a closed file is remembered, for forks of which the kernel has not told yet. Nanoseconds.
const GRACE_NS: u64 = 2_000_000_000;
const GRACE_MOST: usize = 8192;

/// An open file description.
#[derive(Debug)]
pub struct Handle {
    pub id: HandleId,
    pub inode: Arc<Inode>,
    /// As given to open(2).
    pub flags: i32,
    pub readable: bool,
    pub writable: bool,
    /// The whole file counts as read by who holds this: the page cache answers.
    pub whole: bool,
    pub opener: ActorId,
    pub opened_ns: u64,
    pub content: ContentRef,
    /// The opener and all that inherited it.
    pub(crate) holders: Mutex<SmallVec<[ActorId; 2]>>,
    pub(crate) seen: Mutex<Seen>,
    /// In the list of handles whose sights are to be written down.
    pub(crate) listed: AtomicBool,
}

impl Handle {
    pub fn appends(&self) -> bool {
        self.flags & libc::O_APPEND != 0
    }
}

/// A file that was open, as a later fork event needs it.
#[derive(Clone, Debug)]
pub(crate) struct Closed {
    pub handle: Arc<Handle>,
    pub closed_ns: u64,
}

type Few = SmallVec<[Arc<Handle>; 2]>;
type Map<K, V> = Mutex<FxHashMap<K, V>>;

/// All open files: by number, by file, and by who may read through them.
#[derive(Default)]
pub(crate) struct Handles {
    by_id: [Map<HandleId, Arc<Handle>>; SHARDS],
    by_file: [Map<Ino, Few>; SHARDS],
    by_actor: [Map<ActorId, Vec<Arc<Handle>>>; SHARDS],
    closed: Mutex<VecDeque<Closed>>,
    /// When the last of the closed files that are no longer remembered was closed.
    forgotten_ns: AtomicU64,
}

fn shard<T>(shards: &[T; SHARDS], n: u64) -> &T {
    &shards[((n ^ n >> 4) % SHARDS as u64) as usize]
}

impl Handles {
    pub fn add(&self, handle: Arc<Handle>) {
        if handle.readable {
            shard(&self.by_actor, handle.opener.0).lock().entry(handle.opener).or_default().push(handle.clone());
        }
        shard(&self.by_file, handle.inode.ino.0).lock().entry(handle.inode.ino).or_default().push(handle.clone());
        shard(&self.by_id, handle.id.0).lock().insert(handle.id, handle);
    }

    pub fn get(&self, id: HandleId) -> Option<Arc<Handle>> {
        shard(&self.by_id, id.0).lock().get(&id).cloned()
    }

    /// Forgets a handle that the kernel released.
    pub fn remove(&self, id: HandleId, now_ns: u64) -> Option<Arc<Handle>> {
        let handle = shard(&self.by_id, id.0).lock().remove(&id)?;
        {
            let mut files = shard(&self.by_file, handle.inode.ino.0).lock();
            if let Some(list) = files.get_mut(&handle.inode.ino) {
                list.retain(|h| h.id != id);
                if list.is_empty() {
                    files.remove(&handle.inode.ino);
                }
            }
        }
        if handle.readable {
            // First into the list of the closed: a fork event in between must find it in one of the two.
            {
                let mut closed = self.closed.lock();
                while closed
                    .front()
                    .is_some_and(|c| closed.len() >= GRACE_MOST || now_ns.saturating_sub(c.closed_ns) > GRACE_NS)
                {
                    if let Some(forgotten) = closed.pop_front() {
                        self.forgotten_ns.fetch_max(forgotten.closed_ns, Ordering::AcqRel);
                    }
                }
                closed.push_back(Closed { handle: handle.clone(), closed_ns: now_ns });
            }
            let holders = handle.holders.lock().clone();
            for actor in holders {
                let mut actors = shard(&self.by_actor, actor.0).lock();
                if let Some(list) = actors.get_mut(&actor) {
                    list.retain(|h| h.id != id);
                    if list.is_empty() {
                        actors.remove(&actor);
                    }
                }
            }
        }
        Some(handle)
    }

    /// The open handles of one file.
    pub fn of_file(&self, ino: Ino) -> Few {
        shard(&self.by_file, ino.0).lock().get(&ino).cloned().unwrap_or_default()
    }

    /// Files open for reading and writing, which a shared mapping for writing needs.
    pub fn open_for_writing(&self) -> Vec<Ino> {
        let mut found = Vec::new();
        for files in &self.by_file {
            let files = files.lock();
            found.extend(
                files.iter().filter(|(_, list)| list.iter().any(|h| h.readable && h.writable)).map(|(i, _)| *i),
            );
        }
        found
    }

    /// Whether a file is open for something other than this handle.
    pub fn is_shared(&self, ino: Ino) -> bool {
        shard(&self.by_file, ino.0).lock().get(&ino).is_some_and(|list| list.len() > 1)
    }

    /// Whether everything that was open at that time is still remembered.
    pub fn remembers(&self, at_ns: u64) -> bool {
        at_ns > self.forgotten_ns.load(Ordering::Acquire)
    }

    /// What `actor` could read through at the time `at_ns`, closed since or not.
    pub fn held_at(&self, actor: ActorId, at_ns: u64) -> Vec<Arc<Handle>> {
        let mut held: Vec<_> = shard(&self.by_actor, actor.0)
            .lock()
            .get(&actor)
            .map(|list| list.iter().filter(|h| h.opened_ns <= at_ns).cloned().collect())
            .unwrap_or_default();
        let closed = self.closed.lock();
        let was_open = |c: &&Closed| c.handle.opened_ns <= at_ns && at_ns <= c.closed_ns;
        for c in closed.iter().filter(was_open) {
            if c.handle.holders.lock().contains(&actor) {
                held.push(c.handle.clone());
            }
        }
        held
    }

    /// `actor` may read through `handle` from now on. Returns whether that is new.
    pub fn share(&self, handle: &Arc<Handle>, actor: ActorId) -> bool {
        {
            let mut holders = handle.holders.lock();
            if holders.contains(&actor) {
                return false;
            }
            holders.push(actor);
        }
        // Already released: then nobody reads through it any more, and nothing would take it off the list.
        if self.get(handle.id).is_some() {
            shard(&self.by_actor, actor.0).lock().entry(actor).or_default().push(handle.clone());
        }
        true
    }
}

/// An entry of a listing.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Where a listing goes on behind this entry. It depends on the name alone, so it means the same in every listing of the
    /// directory: the kernel answers from its cache of an earlier listing until that is outdated, and then goes on here.
    pub cookie: u64,
    pub entry: Entry,
}

impl Listed {
    /// In the order of their cookies, which are above 2 (`.` and `..` come first) and fit into a positive `off_t`.
    pub(crate) fn sorted(entries: Vec<Entry>) -> Vec<Listed> {
        let mut listed: Vec<Listed> =
            entries.into_iter().map(|entry| Listed { cookie: cookie(&entry.name), entry }).collect();
        listed.sort_unstable_by(|a, b| (a.cookie, &a.entry.name).cmp(&(b.cookie, &b.entry.name)));
        let mut last = 0;
        for listed in &mut listed {
            // Two names of one hash, once in a universe's life: the second is moved on.
            listed.cookie = listed.cookie.max(last + 1);
            last = listed.cookie;
        }
        listed
    }
}

fn cookie(name: &[u8]) -> u64 {
    use std::hash::Hasher;
    let mut hasher = rustc_hash::FxHasher::default();
    hasher.write(name);
    // FxHasher leaves the low bits poor; the product mixes upwards.
    let mixed = (hasher.finish() ^ hasher.finish() >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 2).saturating_add(3)
}

/// An open directory. Its listing is taken once, at the first read, and does not change after that.
#[derive(Debug)]
pub struct DirHandle {
    pub inode: Arc<Inode>,
    pub(crate) listing: Mutex<Option<Arc<Vec<Listed>>>>,
}

#[derive(Default)]
pub(crate) struct DirHandles {
    by_id: [Map<HandleId, Arc<DirHandle>>; SHARDS],
}

impl DirHandles {
    pub fn add(&self, id: HandleId, handle: DirHandle) {
        shard(&self.by_id, id.0).lock().insert(id, Arc::new(handle));
    }

    pub fn get(&self, id: HandleId) -> Option<Arc<DirHandle>> {
        shard(&self.by_id, id.0).lock().get(&id).cloned()
    }

    pub fn remove(&self, id: HandleId) -> Option<Arc<DirHandle>> {
        shard(&self.by_id, id.0).lock().remove(&id)
    }
}
