//! Lets go of the past by itself: at the start, every hour, and when the store has grown near to what it may be. Requests wait for none of it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::process::{getegid, geteuid};

use super::hold::Hold;
use crate::control::gc;
use crate::control::host::Host;
use crate::engine::{Caller, Engine};
use crate::store::space::RESERVE;
use crate::timeline::retention::Policy;

/// How often the store's size is looked at.
const LOOK: Duration = Duration::from_secs(60);
/// So many looks apart old snapshots are collected whatever the size.
const HOURLY: u32 = 60;
/// Near to its limit: this part of it, per cent.
const NEAR: u64 = 90;
/// What a collection could not make smaller is tried again when it has grown by this part of the limit, per cent.
const GROWN: u64 = 2;
/// What of the disk is to stay free: this part of it, per cent, but so many bytes at least and at most. More than what writers are refused for.
const FREE: u64 = 5;
const FREE_LEAST: u64 = 2 * RESERVE;
const FREE_MOST: u64 = 1 << 30;

/// Starts the thread; it ends with the last mount.
pub fn start(hold: &Arc<Hold>, policy: Policy) -> std::io::Result<()> {
    let weak = Arc::downgrade(hold);
    std::thread::Builder::new().name("collector".into()).spawn(move || run(&weak, policy))?;
    Ok(())
}

fn run(hold: &Weak<Hold>, policy: Policy) {
    if let Err(error) = rustix::process::nice(10) {
        tracing::debug!(%error, "the collector runs at normal priority");
    }
    let (mut looks, mut events, mut left) = (0_u32, None, 0);
    loop {
        // Any of the mounts will do: they share the store.
        let mount = hold.upgrade().and_then(|hold| hold.mounts().into_iter().find(|m| !m.engine.is_stopped()));
        let Some(mount) = mount else { return };
        let engine = &mount.engine;
        let hourly = looks % HOURLY == 0;
        let now = engine.events();
        if hourly || events != Some(now) {
            events = Some(now);
            let store = engine.overlay().store();
            let size = store.disk_bytes().unwrap_or(0);
            let max_size = within(policy.max_size, size, store.space.disk());
            if hourly || is_near(size, left, max_size) {
                collect(engine, &Policy { max_size, ..policy });
                left = engine.overlay().store().disk_bytes().unwrap_or(0);
            }
        }
        looks = looks.wrapping_add(1);
        drop(mount);
        std::thread::sleep(LOOK);
    }
}

/// What a store of this size may have: no more than its disk. `disk` says what is free there, and how large it is; who wants no limit gets none.
fn within(max: Option<u64>, size: u64, disk: Option<(u64, u64)>) -> Option<u64> {
    let (max, Some((free, total))) = (max?, disk) else { return max };
    let spare = (total / 100 * FREE).clamp(FREE_LEAST, FREE_MOST);
    Some(max.min(size.saturating_add(free).saturating_sub(spare)))
}

/// Whether a store of this size is to be collected; `left` is what the last collection left.
fn is_near(size: u64, left: u64, max: Option<u64>) -> bool {
    max.is_some_and(|max| size >= max / 100 * NEAR && size.saturating_sub(left) >= max / 100 * GROWN)
}

fn collect(engine: &Engine, policy: &Policy) {
    let ours = Caller { tid: std::process::id(), uid: geteuid().as_raw(), gid: getegid().as_raw() };
    // Somewhat less than is allowed, so that there is room until the next time.
    let policy = Policy { max_size: policy.max_size.map(|max| max / 100 * NEAR), ..*policy };
    if let Err(failure) = gc::collect(engine.machine(), &engine.ctx_for(ours), &policy, false) {
        tracing::info!(%failure, "not collected");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_a_limit() {
        let (mib, gib) = (1 << 20, 1_u64 << 30);
        assert_eq!(within(None, gib, Some((0, gib))), None);
        assert_eq!(within(Some(20 * gib), gib, None), Some(20 * gib));
        assert_eq!(within(Some(20 * gib), gib, Some((100 * gib, 200 * gib))), Some(20 * gib));
        assert_eq!(within(Some(20 * gib), 3 * gib, Some((2 * gib, 200 * gib))), Some(4 * gib));
        assert_eq!(within(Some(20 * gib), 100 * mib, Some((10 * mib, 150 * mib))), Some(46 * mib));
        assert_eq!(within(Some(20 * gib), 0, Some((0, gib))), Some(0));
    }

    #[test]
    fn near_the_limit_and_grown_since() {
        let max = Some(1_000_000);
        assert!(!is_near(899_000, 0, max) && is_near(900_000, 0, max) && is_near(2_000_000, 0, max));
        assert!(!is_near(950_000, 940_000, max) && is_near(960_000, 940_000, max));
        assert!(!is_near(u64::MAX, 0, None));
    }
}
