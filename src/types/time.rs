//! Timestamps with the resolution of the kernel's: seconds and nanoseconds, before 1970 too.

/// A point in time since the Unix epoch. `nanos` is below 1e9; times before 1970 have negative `secs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    pub secs: i64,
    pub nanos: u32,
}

impl Time {
    pub fn new(secs: i64, nanos: u32) -> Time {
        Time { secs, nanos }
    }

    /// Nanoseconds since 1970, saturating (covers the years 1677 to 2262).
    pub fn as_nanos(self) -> i64 {
        self.secs.saturating_mul(1_000_000_000).saturating_add(i64::from(self.nanos))
    }

    pub fn from_nanos(nanos: i64) -> Time {
        Time { secs: nanos.div_euclid(1_000_000_000), nanos: nanos.rem_euclid(1_000_000_000) as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanos_round_trip_before_and_after_1970() {
        for nanos in [-1, 0, 1, -1_500_000_000, 1_700_000_000_123_456_789] {
            assert_eq!(Time::from_nanos(nanos).as_nanos(), nanos);
        }
        assert_eq!(Time::from_nanos(-1), Time::new(-1, 999_999_999));
    }
}
