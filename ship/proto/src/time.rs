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
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Wall-clock time as PostgreSQL sends it: microseconds since 2000-01-01 00:00 UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Seconds from the Unix epoch to PostgreSQL's.
    pub const UNIX_TO_POSTGRES_SECONDS: i64 = 946_684_800;

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn unix_micros(self) -> i64 {
        self.0 + Self::UNIX_TO_POSTGRES_SECONDS * 1_000_000
    }

    /// From microseconds since the Unix epoch.
    #[must_use]
    pub const fn from_unix_micros(micros: i64) -> Self {
        Self(micros - Self::UNIX_TO_POSTGRES_SECONDS * 1_000_000)
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
