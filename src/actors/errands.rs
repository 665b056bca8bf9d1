//! The other background thread: what following processes needs done and may wait for a disk.
//!
//! The thread that follows processes (`watch.rs`) has to read them before they end, some a millisecond after they began. While the disk is busy a
//! commit takes a hundred times that, so it leaves commits, and the files of agents' packages, to this one.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};
use parking_lot::{Condvar, Mutex};

use super::files::Files;
use super::resolve::Shared;
use super::table::Entry;
use super::{agents, version};

/// How long a question waits for what is to be written down.
const PATIENCE: Duration = Duration::from_secs(5);

/// Something to do.
pub enum Errand {
    /// To write down what is known of a process.
    Save(Arc<Entry>),
    /// To find the version of an agent. It may have ended meanwhile; its files are still there.
    Version(Arc<Entry>),
}

/// What is to be done, in order.
#[derive(Default)]
pub struct Errands {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Default)]
struct State {
    send: Option<Sender<Errand>>,
    given: u64,
    done: u64,
}

impl Errands {
    /// From now on errands are taken, until [`Errands::close`].
    pub fn open(&self) -> Receiver<Errand> {
        let (send, receive) = unbounded();
        self.state.lock().send = Some(send);
        receive
    }

    /// Returns false when nobody does errands (any more).
    pub fn give(&self, errand: Errand) -> bool {
        let mut state = self.state.lock();
        let given = state.send.as_ref().is_some_and(|send| send.send(errand).is_ok());
        state.given += u64::from(given);
        given
    }

    pub fn close(&self) {
        self.state.lock().send = None;
    }

    /// Waits, not for ever, until all that was given before is done.
    pub fn wait(&self) {
        let mut state = self.state.lock();
        let given = state.given;
        self.done.wait_while_for(&mut state, |state| state.done < given, PATIENCE);
    }
}

impl Shared {
    /// Does errands until there will be no more.
    pub fn run(&self, errands: &Receiver<Errand>) {
        for errand in errands {
            match errand {
                Errand::Save(entry) => self.write(&entry),
                Errand::Version(entry) => self.find_version(&entry),
            }
            self.errands.state.lock().done += 1;
            self.errands.done.notify_all();
        }
    }

    fn find_version(&self, entry: &Arc<Entry>) {
        let (actor, here) = {
            let state = entry.state.lock();
            (state.actor.clone(), state.here)
        };
        let Some(agent) = agents::image(&actor.exe, &actor.argv) else { return };
        let files = Files::now();
        let Some(found) = version::of(agent, &actor, files.as_ref().filter(|_| here)) else { return };
        {
            let mut state = entry.state.lock();
            // It may run something else by now.
            if state.actor.exe != actor.exe || state.actor.argv != actor.argv {
                return;
            }
            state.actor.version = Some(found);
        }
        self.save(entry);
    }
}
