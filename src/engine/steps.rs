//! Where a step ends, and with it an epoch: before a second writer comes to what a first one changed, when a command is over, when nothing happens.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::RwLockReadGuard;
use smallvec::SmallVec;

use super::claims::{What, Writer};
use super::{Caller, Engine, Mode};
use crate::clock;
use crate::overlay::{Ctx, Inode};
use crate::types::{ActorId, Ino};

/// How long a change waits for an operation on time to end, so that it can be kept apart from another writer's. Such an operation may itself wait for
/// the change (it writes mappings back), so this cannot be without an end.
const PATIENCE: Duration = Duration::from_millis(100);

/// The same for the last step of a mount.
pub(super) const LAST: Duration = Duration::from_secs(10);

/// A change under way: the gate is passed, and it is known who changes what.
pub(crate) struct Entered<'a> {
    pub ctx: Ctx,
    pub writer: Option<Writer>,
    _gate: RwLockReadGuard<'a, ()>,
}

/// What a change is about to change.
pub(crate) enum Reach<'a> {
    Of(&'a [What]),
    /// The same, and the first of them gets other contents.
    Anew(&'a [What]),
    /// A new name.
    Made {
        dir: Ino,
        name: &'a [u8],
    },
    /// A directory gets another path, and with it everything below.
    Everything(&'a [What]),
}

impl Engine {
    /// Begins a change by a process that is known.
    pub(crate) fn enter_as(&self, caller: Caller, actor: ActorId, reach: &Reach<'_>) -> Entered<'_> {
        if self.mode == Mode::Off {
            let gate = self.gate.pass();
            return Entered { ctx: self.ctx_of(caller, actor), writer: None, _gate: gate };
        }
        let writer = self.common.tended.writer(actor);
        let sources = |dir, name| if writer.lasts { What::sources(dir, name) } else { SmallVec::default() };
        let made;
        let whats: &[What] = match reach {
            Reach::Of(whats) | Reach::Anew(whats) | Reach::Everything(whats) => whats,
            Reach::Made { dir, name } => {
                made = [What::name(*dir, name)];
                &made
            }
        };
        let mut tries = 0;
        loop {
            let gate = self.gate.pass();
            let (epoch, now) = (self.overlay.epoch(), clock::monotonic_ns());
            let alone = match reach {
                Reach::Of(_) => self.claims.claim(epoch, writer, whats, &[], now),
                Reach::Anew(_) => self.claims.claim(epoch, writer, whats, whats.get(..1).unwrap_or_default(), now),
                Reach::Made { dir, name } => self.claims.claim(epoch, writer, whats, &sources(*dir, name), now),
                Reach::Everything(_) => self.claims.claim_all(epoch, writer, whats, now),
            };
            let mut ctx = self.ctx_of(caller, actor);
            if alone || self.overlay.is_read_only() {
                return Entered { ctx, writer: Some(writer), _gate: gate };
            }
            tries += 1;
            drop(gate);
            // Others may come in between again; whoever is that unlucky goes on all the same.
            if tries > 8 || !self.seal_step("before another step changed the same", PATIENCE) {
                let gate = self.gate.pass();
                self.claims.share(self.overlay.epoch(), writer, whats, now);
                ctx.shared = true;
                return Entered { ctx, writer: Some(writer), _gate: gate };
            }
        }
    }

    /// A change, still under way, made something new.
    pub(crate) fn made(&self, entered: &Entered<'_>, inode: &Inode) {
        if let Some(writer) = entered.writer {
            self.claims.share(self.overlay.epoch(), writer, &[What::file(inode.ino)], clock::monotonic_ns());
        }
    }

    /// A process is done with what it wrote to.
    pub(crate) fn done_with(&self, actor: ActorId, what: What) {
        if self.mode != Mode::Off {
            self.claims.done(self.overlay.epoch(), self.common.tended.writer(actor), what);
        }
    }

    /// Whether a name that goes away may hide what another writer did.
    pub(crate) fn is_busy_place(&self, actor: ActorId) -> bool {
        self.mode != Mode::Off && self.claims.has_others(self.overlay.epoch(), self.common.tended.writer(actor))
    }

    /// Seals what a daemon before this one left in the open epoch: whose it was is not in memory any more. Before the first request.
    pub(super) fn seal_left_behind(&self) {
        if matches!(self.overlay.is_changed(), Ok(true)) {
            self.seal_step("what was open when the daemon ended", LAST);
        }
    }

    /// Ends the open epoch if anything was changed in it. Waits so long for operations on time. Returns false if it goes on.
    pub(crate) fn seal_step(&self, why: &str, patience: Duration) -> bool {
        if self.overlay.is_read_only() {
            return false;
        }
        let Some(_busy) = self.overlay.store().busy.try_lock_for(patience) else { return false };
        let (actor, epoch) = (ActorId::KERNEL, self.overlay.epoch());
        let ctx = self.ctx_of(Caller { tid: 0, uid: 0, gid: 0 }, actor);
        match self.machine.seal_step(&ctx, why) {
            Ok(()) => {
                self.claims.sealed(epoch);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "a step could not be sealed: it goes on in the next one");
                false
            }
        }
    }
}

/// Starts the thread that ends steps.
pub(super) fn start(engine: &Arc<Engine>) -> std::io::Result<()> {
    let weak: Weak<Engine> = Arc::downgrade(engine);
    std::thread::Builder::new().name("steps".to_owned()).spawn(move || {
        while let Some(engine) = weak.upgrade() {
            if engine.is_stopped() {
                return;
            }
            if engine.claims.wait(&clock::monotonic_ns) && !engine.seal_step("a step ended", PATIENCE) {
                engine.claims.put_off(clock::monotonic_ns());
            }
        }
    })?;
    Ok(())
}
