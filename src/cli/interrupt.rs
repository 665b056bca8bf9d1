//! Ctrl-C while something changes: it is asked to stop while that leaves no trace, and either way the command says what holds.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use super::pager;

/// The exit code of what Ctrl-C ended.
pub const CODE: u8 = 130;

/// How it stands: nobody asked to stop; somebody did; it is over, and what comes now comes too late to be said anything about.
const GOING: u8 = 0;
const ASKED: u8 = 1;
const OVER: u8 = 2;

/// From its start on Ctrl-C no longer ends the process. A second one does.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    state: Arc<AtomicU8>,
}

fn turn(state: &AtomicU8, from: u8, to: u8) -> bool {
    state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

impl Interrupt {
    /// Watches from now on. `daemon` is told by the end of what is said to it.
    pub fn watch(daemon: Option<UnixStream>) -> Interrupt {
        let interrupt = Interrupt::default();
        let state = interrupt.state.clone();
        let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]) else { return interrupt };
        // Lives as long as the process.
        let _ = std::thread::Builder::new().name("interrupt".into()).spawn(move || {
            for _ in signals.forever() {
                if state.load(Ordering::Acquire) == ASKED {
                    pager::remark(match daemon {
                        Some(_) => "regentfs: not waiting any longer: `regentfs snapshots` shows whether it was done",
                        None => "regentfs: ended in the middle: the next command finishes it, or takes it back",
                    });
                    std::process::exit(CODE.into());
                }
                if !turn(&state, GOING, ASKED) {
                    continue;
                }
                if let Some(stream) = &daemon {
                    let _ = stream.shutdown(Shutdown::Write);
                }
                pager::remark("regentfs: stopping, if it is not too late (again: do not wait for it)");
            }
        });
        interrupt
    }

    pub fn is_asked(&self) -> bool {
        self.state.load(Ordering::Acquire) == ASKED
    }

    /// It is over, and its end will be told; whether somebody had asked to stop it.
    pub fn end(&self) -> bool {
        !turn(&self.state, GOING, OVER)
    }
}
