//! Who closed a descriptor that another process opened: asked of /proc after the answer, beside the requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam::channel::{Sender, unbounded};

use super::{Engine, Handle};
use crate::actors::Closing;

/// How long a query waits for a process that does not answer.
const PATIENCE: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(1);

/// Processes that are not known yet.
#[derive(Default)]
pub(crate) struct Heirs {
    send: OnceLock<Sender<(Closing, Arc<Handle>)>>,
    waiting: AtomicU64,
}

impl Heirs {
    pub fn later(&self, closing: Closing, handle: Arc<Handle>) {
        if let Some(send) = self.send.get() {
            self.waiting.fetch_add(1, Ordering::AcqRel);
            if send.send((closing, handle)).is_err() {
                self.waiting.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    /// Waits, not for ever, until all that were handed over are known.
    pub fn drain(&self) {
        let mut waited = Duration::ZERO;
        while self.waiting.load(Ordering::Acquire) > 0 && waited < PATIENCE {
            std::thread::sleep(PAUSE);
            waited += PAUSE;
        }
    }
}

/// Starts the thread; it ends with the engine.
pub(crate) fn start(engine: &Arc<Engine>) -> std::io::Result<()> {
    let (send, receive) = unbounded::<(Closing, Arc<Handle>)>();
    let weak = Arc::downgrade(engine);
    std::thread::Builder::new().name("heirs".into()).spawn(move || {
        for (closing, handle) in receive {
            let Some(engine) = weak.upgrade() else { return };
            if let Some(actors) = engine.who() {
                let actor = actors.resolve_closed(closing);
                if actor != handle.opener {
                    engine.inherit(&handle, actor);
                }
            }
            engine.heirs.waiting.fetch_sub(1, Ordering::AcqRel);
        }
    })?;
    let _ = engine.heirs.send.set(send);
    Ok(())
}
