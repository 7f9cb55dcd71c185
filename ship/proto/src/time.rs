//! Time, always handed in.
//!
//! PostgreSQL: `TimestampTz` (src/include/datatype/timestamp.h).

use core::ops::Add;
use core::time::Duration;

/// A point on the monotonic clock of this process, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// Time from `earlier` to here, zero when `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        let saturated = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(saturated))
    }
}

/// Wall-clock time as PostgreSQL sends it: microseconds since 2000-01-01 00:00 UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Seconds from the Unix epoch to PostgreSQL's.
    pub const UNIX_TO_POSTGRES_SECONDS: i64 = 946_684_800;

    /// Microseconds since the Unix epoch; what a peer or a record says may lie outside, and is held there.
    #[must_use]
    pub const fn unix_micros(self) -> i64 {
        self.0.saturating_add(Self::UNIX_TO_POSTGRES_SECONDS * 1_000_000)
    }

    /// From microseconds since the Unix epoch, held as [`Timestamp::unix_micros`] is.
    #[must_use]
    pub const fn from_unix_micros(micros: i64) -> Self {
        Self(micros.saturating_sub(Self::UNIX_TO_POSTGRES_SECONDS * 1_000_000))
    }
}

/// Both clocks at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// For deadlines and durations.
    pub instant: Instant,
    /// For what is sent and shown.
    pub wall: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_outside_of_what_can_be_said_is_held_and_does_not_overflow() {
        assert_eq!(Timestamp::from_unix_micros(i64::MIN).0, i64::MIN);
        assert_eq!(Timestamp(i64::MAX).unix_micros(), i64::MAX);
        assert_eq!(Timestamp::from_unix_micros(0).unix_micros(), 0);
    }
}
