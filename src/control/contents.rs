//! The bytes that the record refers to: their hashes and sizes, worked out from overlay and base when somebody asks.

use std::cell::RefCell;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::overlay::Overlay;
use crate::query::{Contents, Size};
use crate::store::history;
use crate::store::lineage::Lineage;
use crate::types::event::ContentRef;
use crate::types::{Ino, Path};

/// Answers from the log where the hash is known, and otherwise reads what is still there. One per query.
pub struct OverlayContents<'a> {
    overlay: &'a Overlay,
    /// The timeline that is shown, then the others: the record is one for all of them.
    lines: Vec<Arc<Lineage>>,
    sizes: RefCell<FxHashMap<(Ino, ContentRef), Option<Size>>>,
}

impl<'a> OverlayContents<'a> {
    pub fn new(overlay: &'a Overlay) -> OverlayContents<'a> {
        let kv = &*overlay.store().kv;
        let own = overlay.lineage();
        // Without them some sizes are not known, which is no reason to answer nothing.
        let mut others = history::living(kv).unwrap_or_default();
        others.retain(|t| t.id != own.at().timeline);
        let others = others.into_iter().filter_map(|t| history::lineage(kv, t.id).ok().map(Arc::new));
        OverlayContents { overlay, lines: [own].into_iter().chain(others).collect(), sizes: RefCell::default() }
    }
}

impl Contents for OverlayContents<'_> {
    fn hash(&self, ino: Ino, content: ContentRef, path: &Path) -> Option<[u8; 32]> {
        match self.overlay.hash_content(ino, content, path) {
            Ok(hash) => hash,
            Err(errno) => {
                tracing::debug!(%errno, %path, "no hash");
                None
            }
        }
    }

    fn size(&self, ino: Ino, content: ContentRef, path: &Path) -> Option<Size> {
        if let Some(known) = self.sizes.borrow().get(&(ino, content)) {
            return *known;
        }
        let exact = |line| self.overlay.find_size(line, ino, content, path).ok().flatten();
        let now = |line| self.overlay.known_size(line, ino, path).ok().flatten();
        let lines = || self.lines.iter().map(|line| &**line);
        let size = lines().find_map(exact).map(Size::Exact);
        let size = size.or_else(|| lines().filter_map(now).max().map(Size::Now));
        self.sizes.borrow_mut().insert((ino, content), size);
        size
    }
}
