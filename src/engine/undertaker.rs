//! Deletes the bytes of files that lost their last name, beside the requests.
//!
//! What it does not get to stays in the trash of the log, which the next mount empties.

use std::sync::{Arc, Weak};

use crate::overlay::Overlay;
use crate::types::VersionId;

/// Starts the thread; it ends with the overlay.
pub(crate) fn start(overlay: &Arc<Overlay>) -> std::io::Result<()> {
    let (send, receive) = crossbeam::channel::unbounded::<VersionId>();
    let weak: Weak<Overlay> = Arc::downgrade(overlay);
    std::thread::Builder::new().name("undertaker".into()).spawn(move || {
        for id in receive {
            let Some(overlay) = weak.upgrade() else { return };
            if let Err(error) = overlay.delete_version(id) {
                tracing::warn!(%error, %id, "could not delete a version");
            }
        }
    })?;
    overlay.bury_elsewhere(send);
    Ok(())
}
