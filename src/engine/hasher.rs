//! Hashes what was read before it can be overwritten, beside the requests.
//!
//! Only versions of the overlay need it: base files stay as they are and are hashed when somebody asks. What the queue cannot take, or
//! what is overwritten first, has no hash; the read itself is in the record all the same.

use std::sync::{Arc, Weak};

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::overlay::Overlay;
use crate::types::event::ContentRef;
use crate::types::{Ino, Path, VersionId};

const WAITING: usize = 4096;
/// Larger files are hashed when somebody asks, if they are unchanged then. Bytes.
const LARGEST: u64 = 64 << 20;

/// The way to the hashing thread.
pub(crate) struct Hasher {
    send: Sender<(Ino, ContentRef, Path)>,
}

impl Hasher {
    /// Starts the thread; it ends with the hasher.
    pub fn start(overlay: &Arc<Overlay>) -> std::io::Result<Hasher> {
        let (send, receive) = bounded(WAITING);
        let weak = Arc::downgrade(overlay);
        std::thread::Builder::new().name("hasher".into()).spawn(move || run(&receive, &weak))?;
        Ok(Hasher { send })
    }

    /// These bytes were read.
    pub fn read(&self, ino: Ino, content: ContentRef, size: u64, path: &Path) {
        if content.version != VersionId::BASE && size <= LARGEST {
            // Full: then these bytes go without.
            let _ = self.send.try_send((ino, content, path.clone()));
        }
    }
}

fn run(receive: &Receiver<(Ino, ContentRef, Path)>, overlay: &Weak<Overlay>) {
    // Others first: whoever reads waits for none of this.
    if let Err(error) = rustix::process::nice(10) {
        tracing::debug!(%error, "the hasher runs at normal priority");
    }
    for (ino, content, path) in receive {
        let Some(overlay) = overlay.upgrade() else { return };
        if let Err(errno) = overlay.hash_content(ino, content, &path) {
            tracing::debug!(%errno, %path, "no hash");
        }
    }
}
