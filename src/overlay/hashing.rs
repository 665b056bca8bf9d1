//! Content hashes: which bytes a version or base file had, said in 32 bytes.
//!
//! Never on a request's path: called by a background thread and by queries. A hash is kept only when nothing changed the bytes
//! while they were read.

use super::{Overlay, Result, failed};
use crate::store::{Batch, Sync, Table, keys};
use crate::types::event::ContentRef;
use crate::types::{Ino, Path};

/// Bytes read at a time.
const BLOCK: usize = 256 << 10;

impl Overlay {
    /// The blake3 hash of what `content` refers to: from the log, or worked out and kept. `None` when these bytes are gone.
    pub fn hash_content(&self, ino: Ino, content: ContentRef, path: &Path) -> Result<Option<[u8; 32]>> {
        let kv = &self.store.kv;
        let key = keys::hash(content.version, ino, content.stamp);
        if let Some(known) = kv.get(Table::Meta, &key).map_err(failed)? {
            return Ok(known.try_into().ok());
        }
        let Some(hash) = self.read_hash(ino, content, path)? else { return Ok(None) };
        let mut batch = Batch::new();
        batch.put(Table::Meta, &key, &hash);
        kv.commit(&batch, Sync::No).map_err(failed)?;
        Ok(Some(hash))
    }

    fn read_hash(&self, ino: Ino, content: ContentRef, path: &Path) -> Result<Option<[u8; 32]>> {
        let Some(found) = self.find_content(ino, content, path)? else { return Ok(None) };
        let mut hasher = blake3::Hasher::new();
        let mut block = vec![0; BLOCK.min(usize::try_from(found.size).unwrap_or(BLOCK)).max(1)];
        let mut at = 0;
        loop {
            let got = found.reader.read_at(at, &mut block)?;
            if got == 0 {
                break;
            }
            hasher.update(block.get(..got).unwrap_or_default());
            at += got as u64;
        }
        // A writer changes bytes before it commits, and holds the state's lock for both: with the lock, either it has not begun
        // or the reference is another one.
        if let Some(inode) = self.inode(ino)
            && content != ContentRef::default()
            && inode.content() != content
            && content.version != crate::types::VersionId::BASE
        {
            return Ok(None);
        }
        let after = self.find_content(ino, content, path)?;
        Ok(after.is_some_and(|f| f.size == at).then(|| *hasher.finalize().as_bytes()))
    }
}
