//! The bytes that the record refers to: their hashes and sizes, worked out from overlay and base when somebody asks.

use std::cell::RefCell;

use rustc_hash::FxHashMap;

use crate::overlay::Overlay;
use crate::query::{Contents, Size};
use crate::store::{Batch, Sync, Table, keys};
use crate::types::event::ContentRef;
use crate::types::{Ino, Path};

/// Bytes that are hashed between two looks at the state.
const BLOCK: usize = 256 << 10;

/// Answers from the log where the hash is known, and otherwise reads what is still there. One per query.
pub struct OverlayContents<'a> {
    overlay: &'a Overlay,
    sizes: RefCell<FxHashMap<(Ino, ContentRef), Option<Size>>>,
}

impl<'a> OverlayContents<'a> {
    pub fn new(overlay: &'a Overlay) -> OverlayContents<'a> {
        OverlayContents { overlay, sizes: RefCell::default() }
    }

    fn read_hash(&self, ino: Ino, content: ContentRef, path: &Path) -> Option<[u8; 32]> {
        let found = self.overlay.find_content(ino, content, path).ok()??;
        let mut hasher = blake3::Hasher::new();
        let mut block = vec![0; BLOCK.min(usize::try_from(found.size).unwrap_or(BLOCK)).max(1)];
        let mut at = 0;
        loop {
            let got = found.reader.read_at(at, &mut block).ok()?;
            if got == 0 {
                break;
            }
            hasher.update(block.get(..got)?);
            at += got as u64;
        }
        // Changed while it was read: then these are not the bytes that were asked for.
        let after = self.overlay.find_content(ino, content, path).ok()??;
        (after.size == at).then(|| *hasher.finalize().as_bytes())
    }
}

impl Contents for OverlayContents<'_> {
    fn hash(&self, ino: Ino, content: ContentRef, path: &Path) -> Option<[u8; 32]> {
        let kv = &self.overlay.store().kv;
        let key = keys::hash(content.version, ino, content.stamp);
        if let Ok(Some(known)) = kv.get(Table::Meta, &key) {
            return known.try_into().ok();
        }
        let hash = self.read_hash(ino, content, path)?;
        let mut batch = Batch::new();
        batch.put(Table::Meta, &key, &hash);
        if let Err(error) = kv.commit(&batch, Sync::No) {
            // Only a shortcut for the next time.
            tracing::debug!(%error, "could not keep a content hash");
        }
        Some(hash)
    }

    fn size(&self, ino: Ino, content: ContentRef, path: &Path) -> Option<Size> {
        if let Some(known) = self.sizes.borrow().get(&(ino, content)) {
            return *known;
        }
        let exact = self.overlay.find_content(ino, content, path).ok().flatten().map(|found| Size::Exact(found.size));
        let size = exact.or_else(|| self.overlay.known_size(ino, path).ok().flatten().map(Size::Now));
        self.sizes.borrow_mut().insert((ino, content), size);
        size
    }
}
