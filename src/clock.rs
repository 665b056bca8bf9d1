//! The only module that reads a clock (clippy.toml bans the others).

use crate::types::Time;

/// Wall-clock time (`CLOCK_REALTIME`).
pub fn now() -> Time {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Time::new(t.tv_sec, t.tv_nsec as u32)
}

/// When the machine was started, by the wall clock as it is set now.
pub fn booted() -> Time {
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let up = up.tv_sec.saturating_mul(1_000_000_000).saturating_add(up.tv_nsec);
    Time::from_nanos(now().as_nanos().saturating_sub(up))
}

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock that process events carry.
pub fn monotonic_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (t.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec as u64)
}
