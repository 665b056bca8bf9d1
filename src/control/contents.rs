//! The bytes that the record refers to: their hashes and sizes, worked out from overlay and base when somebody asks.

use std::cell::RefCell;

use rustc_hash::FxHashMap;

use crate::overlay::Overlay;
use crate::query::{Contents, Size};
use crate::types::event::ContentRef;
use crate::types::{Ino, Path};

/// Answers from the log where the hash is known, and otherwise reads what is still there. One per query.
pub struct OverlayContents<'a> {
    overlay: &'a Overlay,
    sizes: RefCell<FxHashMap<(Ino, ContentRef), Option<Size>>>,
}

impl<'a> OverlayContents<'a> {
    pub fn new(overlay: &'a Overlay) -> OverlayContents<'a> {
        OverlayContents { overlay, sizes: RefCell::default() }
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
        let exact = self.overlay.find_size(ino, content, path).ok().flatten().map(Size::Exact);
        let size = exact.or_else(|| self.overlay.known_size(ino, path).ok().flatten().map(Size::Now));
        self.sizes.borrow_mut().insert((ino, content), size);
        size
    }
}
