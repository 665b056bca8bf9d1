//! The overlay under test, with the machine of time over it, as a daemon has them; and trees read from it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use regentfs::base::DirBase;
use regentfs::overlay::view::{Node, View};
use regentfs::overlay::{Ctx, Inode, Overlay, Shown};
use regentfs::record::Record;
use regentfs::store::Store;
use regentfs::store::lineage::Lineage;
use regentfs::timeline::{Gate, Machine};
use regentfs::types::{ActorId, At, Attr, Epoch, Errno, Ino, Kind, Path, Range, Time};

use super::kernel::Notes;
use super::tree::{File, Number, ROOT, Tree, join, show};
use crate::model::log::Log;

/// What is in memory between two starts.
pub struct Live {
    base: PathBuf,
    dir: PathBuf,
    log: Log,
    running: Option<Running>,
    /// Look-ups that the kernel would have counted.
    known: HashMap<Ino, u64>,
}

struct Running {
    store: Arc<Store>,
    overlay: Arc<Overlay>,
    machine: Machine,
    kernel: Arc<Notes>,
}

fn number(ino: Ino) -> Number {
    ino.0
}

impl Live {
    pub fn new(base: &std::path::Path, dir: &std::path::Path, log: Log) -> Live {
        let mut live = Live { base: base.into(), dir: dir.into(), log, running: None, known: HashMap::new() };
        live.start();
        live
    }

    fn start(&mut self) {
        let store = Arc::new(self.log.store(&self.base, &self.dir));
        let base = Arc::new(DirBase::open(&self.base).expect("open the base"));
        let journal = Arc::new(Record::open(store.clone()).expect("open the record"));
        let overlay = Arc::new(Overlay::open(store.clone(), base, journal, false).expect("open the overlay"));
        let machine = Machine::new(overlay.clone(), Arc::new(Gate::default()));
        let kernel = Arc::new(Notes::default());
        machine.set_kernel(kernel.clone());
        self.running = Some(Running { store, overlay, machine, kernel });
    }

    /// Everything must have been closed.
    pub fn restart(&mut self) {
        self.known.clear();
        self.running = None;
        self.start();
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs")
    }

    pub fn overlay(&self) -> &Arc<Overlay> {
        &self.running().overlay
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.running().store
    }

    pub fn machine(&self) -> &Machine {
        &self.running().machine
    }

    pub fn kernel(&self) -> &Notes {
        &self.running().kernel
    }

    pub fn ctx(now: Time) -> Ctx {
        Ctx { actor: ActorId(1), uid: 0, gid: 0, now, epoch: Epoch(1), shared: false }
    }

    /// Counts a look-up, as the daemon does when it answers one.
    pub fn remember(&mut self, inode: &Arc<Inode>) {
        self.overlay().remember(inode);
        *self.known.entry(inode.ino).or_default() += 1;
    }

    pub fn lookup(&mut self, dir: &Inode, name: &[u8]) -> Result<Arc<Inode>, Errno> {
        let inode = self.overlay().lookup(dir, name)?;
        self.remember(&inode);
        Ok(inode)
    }

    pub fn walk(&mut self, path: &[u8]) -> Result<Arc<Inode>, Errno> {
        let mut at = self.overlay().root().clone();
        for name in path.split(|&b| b == b'/').filter(|n| !n.is_empty()) {
            at = self.lookup(&at, name)?;
        }
        Ok(at)
    }

    /// Whether the kernel knows a file.
    pub fn knows(&self, number: Number) -> bool {
        number == ROOT || self.known.contains_key(&Ino(number))
    }

    pub fn is_dir(&self, number: Number) -> bool {
        self.overlay().inode(Ino(number)).is_some_and(|inode| inode.kind == Kind::Dir)
    }

    pub fn known(&self) -> Vec<Number> {
        let mut known: Vec<Number> = self.known.keys().copied().map(number).collect();
        known.sort_unstable();
        known
    }

    /// The kernel drops a file from its cache.
    pub fn drop_inode(&mut self, number: Number) {
        if let Some(count) = self.known.remove(&Ino(number)) {
            self.overlay().forget(Ino(number), count);
        }
    }

    /// What the mount shows.
    pub fn tree(&mut self) -> Result<Tree, String> {
        let overlay = self.overlay().clone();
        let root = overlay.root().clone();
        self.tree_of(&overlay, root, true)
    }

    fn tree_of(&mut self, overlay: &Overlay, root: Arc<Inode>, counted: bool) -> Result<Tree, String> {
        let mut tree = Tree::default();
        let mut dirs = vec![(Vec::new(), root.clone())];
        tree.files.insert(ROOT, shown(overlay, &root).map_err(|e| format!("the root: {e}"))?);
        while let Some((path, dir)) = dirs.pop() {
            let mut entries = BTreeMap::new();
            let fail = |what: &str, path: &[u8], e: Errno| format!("{what} {}: {e}", show(path));
            for entry in overlay.list(&dir).map_err(|e| fail("list", &path, e))? {
                let below = join(&path, &entry.name);
                let child = overlay.lookup(&dir, &entry.name).map_err(|e| fail("look up what is listed", &below, e))?;
                if counted {
                    self.remember(&child);
                }
                if (child.ino, child.kind) != (entry.ino, entry.kind) {
                    return Err(format!(
                        "{} is listed as {:x} {:?}, is {:x} {:?}",
                        show(&below),
                        entry.ino.0,
                        entry.kind,
                        child.ino.0,
                        child.kind
                    ));
                }
                let remembered = overlay.path(&child);
                if counted && (child.kind == Kind::Dir || child.attr().nlink == 1) && remembered.as_bytes() != below {
                    return Err(format!("{} is remembered as {remembered}", show(&below)));
                }
                if entries.insert(entry.name.to_vec(), number(child.ino)).is_some() {
                    return Err(format!("{} is listed twice", show(&below)));
                }
                if let Entry::Vacant(place) = tree.files.entry(number(child.ino)) {
                    place.insert(shown(overlay, &child).map_err(|e| fail("read", &below, e))?);
                    if child.kind == Kind::Dir {
                        dirs.push((below, child));
                    }
                } else if child.kind == Kind::Dir {
                    return Err(format!("directory {} is there twice", show(&below)));
                }
            }
            tree.files.get_mut(&number(dir.ino)).expect("it was entered").entries = Rc::new(entries);
        }
        Ok(tree)
    }

    /// What an overlay that is opened for a sealed state only shows of it.
    pub fn tree_of_past(&mut self, at: At) -> Result<Tree, String> {
        let base = Arc::new(DirBase::open(&self.base).map_err(|e| e.to_string())?);
        let store = self.store().clone();
        let journal = Arc::new(regentfs::overlay::NoJournal(store.clone()));
        let past = Overlay::open_shown(store, base, journal, false, Shown::Past(at)).map_err(|e| e.to_string())?;
        let root = past.root().clone();
        self.tree_of(&past, root, false)
    }

    /// The way back from a point; `None` is the base.
    pub fn lineage(&self, at: Option<At>) -> Arc<Lineage> {
        Arc::new(match at {
            Some(at) => Lineage::of(&*self.store().kv, at).expect("a timeline"),
            None => Lineage::base(),
        })
    }

    pub fn view(&self, at: Option<At>) -> View<'_> {
        View::new(self.overlay(), self.lineage(at))
    }
}

fn file_of(attr: &Attr) -> File {
    File {
        kind: attr.kind,
        perm: attr.perm,
        uid: attr.uid,
        gid: attr.gid,
        nlink: attr.nlink,
        size: attr.size,
        mtime: attr.mtime,
        ctime: attr.ctime,
        bytes: Rc::default(),
        target: Rc::default(),
        xattrs: Rc::default(),
        entries: Rc::default(),
    }
}

/// What the mount shows of a file, a directory's entries left out.
pub fn shown(overlay: &Overlay, inode: &Inode) -> Result<File, Errno> {
    let attr = overlay.getattr(inode)?;
    let mut file = file_of(&attr);
    match inode.kind {
        Kind::File => {
            // One more than there should be.
            let mut bytes = vec![0xaa; attr.size as usize + 1];
            let got = overlay.read(inode, 0, &mut bytes)?.len;
            bytes.truncate(got);
            file.bytes = Rc::new(bytes);
        }
        Kind::Symlink => file.target = Rc::new(overlay.readlink(inode)?),
        _ => {}
    }
    for name in overlay.listxattr(inode)?.iter().filter(|n| n.starts_with(b"user.")) {
        let value = overlay.getxattr(inode, name)?;
        Rc::make_mut(&mut file.xattrs).insert(name.to_vec(), value);
    }
    Ok(file)
}

/// A view's tree.
pub fn tree_of_view(view: &View<'_>) -> Result<Tree, String> {
    let mut tree = Tree::default();
    let root = view.root().map_err(|e| format!("the root: {e}"))?;
    let mut dirs = vec![(Path::root(), root.clone())];
    tree.files.insert(ROOT, node_file(view, &root)?);
    while let Some((path, dir)) = dirs.pop() {
        let mut entries = BTreeMap::new();
        for name in view.names(&dir).map_err(|e| format!("list {path}: {e}"))? {
            let below = path.join(&name);
            let child = view.child(&dir, &name).map_err(|e| format!("look at {below}: {e}"))?;
            let child = child.ok_or_else(|| format!("{below} is listed, but not there"))?;
            entries.insert(name.to_vec(), number(child.ino));
            if tree.files.contains_key(&number(child.ino)) {
                continue;
            }
            tree.files.insert(number(child.ino), node_file(view, &child).map_err(|e| format!("{below}: {e}"))?);
            if child.kind == Kind::Dir {
                dirs.push((below, child));
            }
        }
        tree.files.get_mut(&number(dir.ino)).expect("it was entered").entries = Rc::new(entries);
    }
    Ok(tree)
}

fn node_file(view: &View<'_>, node: &Node) -> Result<File, String> {
    let said = |e: Errno| e.to_string();
    let mut file = file_of(&node.attr);
    if (node.kind, node.perm, node.size) != (file.kind, file.perm, file.size) {
        return Err("a node that contradicts itself".to_owned());
    }
    match node.kind {
        Kind::File => {
            let reader = view.open(node).map_err(said)?;
            let mut bytes = vec![0xaa; node.size as usize + 1];
            let got = reader.read_at(0, &mut bytes).map_err(said)?;
            bytes.truncate(got);
            holes_are_zero(&bytes, |offset| reader.next_data(offset, node.size).map_err(said))?;
            file.bytes = Rc::new(bytes);
        }
        Kind::Symlink => file.target = Rc::new(view.target(node).map_err(said)?),
        _ => {}
    }
    let xattrs = view.xattrs(node).map_err(said)?;
    let xattrs = xattrs.into_iter().filter(|(name, _)| name.starts_with(b"user."));
    file.xattrs = Rc::new(xattrs.map(|(name, value)| (name.to_vec(), value.to_vec())).collect());
    Ok(file)
}

/// Whether what is said to be no data is zero.
fn holes_are_zero(bytes: &[u8], next: impl Fn(u64) -> Result<Option<Range>, String>) -> Result<(), String> {
    let mut at = 0;
    while at < bytes.len() {
        let data = next(at as u64)?;
        let start = data.map_or(bytes.len(), |range| range.offset as usize);
        let end = data.map_or(bytes.len(), |range| range.end() as usize);
        if start < at || end > bytes.len() || (data.is_some() && end <= start) {
            return Err(format!("data from {start} to {end}, asked from {at} on, of {} bytes", bytes.len()));
        }
        if bytes[at..start].iter().any(|&b| b != 0) {
            return Err(format!("a hole from {at} to {start} that is not empty"));
        }
        at = end;
    }
    Ok(())
}
