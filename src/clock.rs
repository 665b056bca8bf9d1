//! The only module that reads a clock (clippy.toml bans the others).

use crate::types::Time;

/// Wall-clock time (`CLOCK_REALTIME`).
pub fn now() -> Time {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Time::new(t.tv_sec, t.tv_nsec as u32)
}

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock that process events carry.
pub fn monotonic_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (t.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec as u64)
}
