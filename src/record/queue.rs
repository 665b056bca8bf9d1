//! The way of observations to the log: a bounded queue and one writer.
//!
//! Pushing costs no system call: the writer naps while there is traffic and is woken only from its sleep, or when the queue
//! runs full. With no traffic it sleeps without a timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use parking_lot::{Condvar, Mutex};

use super::{Observation, Record};
use crate::store::Sync;
use crate::types::Errno;

/// Observations that may wait.
const CAPACITY: usize = 8192;
/// Observations per batch: bounds how long a change waits for the chain.
const BATCH: usize = 128;
/// How long the writer naps between two looks while there is traffic; what `kill -9` can cost at most.
const NAP: Duration = Duration::from_millis(20);
/// Naps without work before it sleeps.
const NAPS: u32 = 10;
/// How long an observer waits for room before the operation fails.
const PATIENCE: Duration = Duration::from_secs(10);

struct Shared {
    record: Arc<Record>,
    queue: ArrayQueue<Observation>,
    asleep: AtomicBool,
    stop: AtomicBool,
    pushed: AtomicU64,
    /// Observations written, or `failed` when the log does not take them.
    done: Mutex<Done>,
    progress: Condvar,
}

#[derive(Default)]
struct Done {
    written: u64,
    failed: Option<Errno>,
}

/// See the module.
pub struct Queue {
    shared: Arc<Shared>,
    writer: Thread,
    join: Mutex<Option<JoinHandle<()>>>,
}

impl Queue {
    pub fn start(record: Arc<Record>) -> std::io::Result<Queue> {
        let shared = Arc::new(Shared {
            record,
            queue: ArrayQueue::new(CAPACITY),
            asleep: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            pushed: AtomicU64::new(0),
            done: Mutex::default(),
            progress: Condvar::new(),
        });
        let of_writer = shared.clone();
        let join = std::thread::Builder::new().name("record".into()).spawn(move || of_writer.run())?;
        Ok(Queue { shared, writer: join.thread().clone(), join: Mutex::new(Some(join)) })
    }

    /// Hands an observation to the writer.
    ///
    /// # Errors
    /// When the record cannot be written and no more can wait: the operation must then fail, rather than go unrecorded.
    pub fn push(&self, mut observation: Observation) -> Result<(), Errno> {
        loop {
            match self.shared.queue.push(observation) {
                Ok(()) => {
                    self.shared.pushed.fetch_add(1, Ordering::AcqRel);
                    if self.shared.asleep.swap(false, Ordering::AcqRel) || self.shared.queue.len() > CAPACITY * 3 / 4 {
                        self.writer.unpark();
                    }
                    return Ok(());
                }
                Err(back) => observation = back,
            }
            self.writer.unpark();
            let mut done = self.shared.done.lock();
            if let Some(errno) = done.failed {
                return Err(errno);
            }
            if self.shared.queue.is_full() && self.shared.progress.wait_for(&mut done, PATIENCE).timed_out() {
                return Err(done.failed.unwrap_or(Errno::EIO));
            }
        }
    }

    /// Waits until everything that was pushed before is in the log.
    ///
    /// # Errors
    /// When the log does not take it.
    pub fn drain(&self) -> Result<(), Errno> {
        let goal = self.shared.pushed.load(Ordering::Acquire);
        let mut done = self.shared.done.lock();
        while done.written < goal {
            self.writer.unpark();
            self.shared.progress.wait_for(&mut done, NAP);
            if let Some(errno) = done.failed {
                return Err(errno);
            }
        }
        Ok(())
    }

    /// Writes what is left and ends the writer.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.writer.unpark();
        if let Some(join) = self.join.lock().take()
            && join.join().is_err()
        {
            tracing::error!("the record's writer panicked");
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut idle = 0;
        loop {
            let stopping = self.stop.load(Ordering::Acquire);
            while batch.len() < BATCH {
                match self.queue.pop() {
                    Some(observation) => batch.push(observation),
                    None => break,
                }
            }
            if batch.is_empty() {
                if stopping {
                    return;
                }
                idle += 1;
                if idle < NAPS {
                    std::thread::park_timeout(NAP);
                    continue;
                }
                self.asleep.store(true, Ordering::Release);
                // Pushed between the last look and the store above: that push may not have seen us asleep.
                if self.queue.is_empty() && !self.stop.load(Ordering::Acquire) {
                    std::thread::park();
                }
                self.asleep.store(false, Ordering::Release);
                idle = 0;
                continue;
            }
            idle = 0;
            self.write(&mut batch, stopping);
            if self.queue.len() < BATCH && !stopping {
                std::thread::park_timeout(NAP);
            }
        }
    }

    /// Commits a batch; keeps it and tries again later when the log does not take it.
    fn write(&self, batch: &mut Vec<Observation>, stopping: bool) {
        match self.record.append(batch, Sync::No) {
            Ok(()) => {
                let mut done = self.done.lock();
                done.written += batch.len() as u64;
                done.failed = None;
                self.progress.notify_all();
                batch.clear();
            }
            Err(error) => {
                let mut done = self.done.lock();
                if done.failed.is_none() {
                    tracing::error!(%error, "the record cannot be written: opening files fails until it can");
                }
                done.failed = Some(error.errno());
                self.progress.notify_all();
                if stopping {
                    tracing::error!(lost = batch.len(), "observations are lost");
                    batch.clear();
                } else {
                    drop(done);
                    std::thread::park_timeout(NAP * 10);
                }
            }
        }
    }
}
