//! How long WAL takes from here to a standby's write, flush and apply.
//!
//! Samples of (end of WAL, time) go in when WAL becomes sendable; when the standby reports that it
//! has passed a sample, the time since then is its lag.
//!
//! PostgreSQL: `LagTrackerWrite`, `LagTrackerRead` (src/backend/replication/walsender.c).

use alloc::vec::Vec;
use core::time::Duration;

use crate::lsn::Lsn;
use crate::time::Instant;

/// Samples kept for one standby. PostgreSQL: `LAG_TRACKER_BUFFER_SIZE`.
pub const LAG_SAMPLES_MAX: usize = 8192;

/// Which of the standby's positions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LagHead {
    /// How far it has written: `write_lag`.
    Write,
    /// How far it has flushed: `flush_lag`.
    Flush,
    /// How far it has replayed: `replay_lag`.
    Apply,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sample {
    lsn: Lsn,
    time: Instant,
}

#[derive(Clone, Copy, Default, Debug)]
struct Head {
    /// Index of the oldest sample that this position has not passed.
    next: usize,
    /// The last sample that it passed, while there are younger ones.
    last_read: Option<Sample>,
}

/// A circular buffer of samples with one read position for each [`LagHead`].
///
/// Invariants:
/// - Samples between a head and `write_next` have growing positions.
/// - The slot at `write_next` holds nothing: a full buffer has one slot free.
#[derive(Clone, Default, Debug)]
pub struct LagTracker {
    last_lsn: Option<Lsn>,
    /// Grows up to [`LAG_SAMPLES_MAX`], so that an idle standby costs nothing.
    samples: Vec<Sample>,
    write_next: usize,
    write: Head,
    flush: Head,
    apply: Head,
}

impl LagTracker {
    /// A tracker without samples.
    #[must_use]
    pub const fn new() -> Self {
        let head = Head { next: 0, last_read: None };
        Self {
            last_lsn: None,
            samples: Vec::new(),
            write_next: 0,
            write: head,
            flush: head,
            apply: head,
        }
    }

    /// Notes that WAL up to `lsn` was there at `now`.
    ///
    /// A position that does not lie after the last one is not a sample.
    pub fn handle_wal(&mut self, now: Instant, lsn: Lsn) {
        if self.last_lsn.is_some_and(|last| lsn <= last) {
            return;
        }
        self.last_lsn = Some(lsn);
        let after = (self.write_next + 1) % LAG_SAMPLES_MAX;
        let full = [self.write.next, self.flush.next, self.apply.next].contains(&after);
        // A full buffer forgets its youngest sample: the oldest ones are what a standby that is
        // far behind reaches next. PostgreSQL: LagTrackerWrite.
        let (slot, next) = if full {
            ((self.write_next + LAG_SAMPLES_MAX - 1) % LAG_SAMPLES_MAX, self.write_next)
        } else {
            (self.write_next, after)
        };
        let sample = Sample { lsn, time: now };
        match self.samples.get_mut(slot) {
            Some(old) => *old = sample,
            None => self.samples.push(sample),
        }
        self.write_next = next;
    }

    /// The lag of a standby that reports `lsn` for `head` at `now`; `None` when nothing new can
    /// be said.
    pub fn read(&mut self, now: Instant, head: LagHead, lsn: Lsn) -> Option<Duration> {
        let samples = &self.samples;
        let write_next = self.write_next;
        let head = match head {
            LagHead::Write => &mut self.write,
            LagHead::Flush => &mut self.flush,
            LagHead::Apply => &mut self.apply,
        };
        let mut passed = None;
        let mut upcoming = None;
        while head.next != write_next {
            let sample = *samples.get(head.next)?;
            if sample.lsn > lsn {
                upcoming = Some(sample);
                break;
            }
            passed = Some(sample);
            head.last_read = passed;
            head.next = (head.next + 1) % LAG_SAMPLES_MAX;
        }
        let Some(upcoming) = upcoming else {
            // Everything was processed: the next burst must not be measured from a sample that
            // lies before an idle time.
            head.last_read = None;
            return passed.map(|sample| now.since(sample.time));
        };
        let time = match (passed, head.last_read) {
            (Some(sample), _) => sample.time,
            // A standby that stands still between two samples shows a growing lag.
            (None, Some(last)) => interpolate(last, upcoming, lsn)?,
            // Idle until now: the lag if the first new sample were processed at this moment.
            (None, None) => upcoming.time,
        };
        Some(now.since(time))
    }
}

/// When WAL up to `lsn` was there, estimated between two samples.
fn interpolate(last: Sample, upcoming: Sample, lsn: Lsn) -> Option<Instant> {
    if lsn < last.lsn {
        return None;
    }
    let passed = u128::from(lsn - last.lsn);
    let distance = u128::from(upcoming.lsn - last.lsn);
    let took = upcoming.time.since(last.time).as_nanos();
    let share = took.checked_mul(passed)?.checked_div(distance)?;
    Some(last.time + Duration::from_nanos(u64::try_from(share).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    const fn secs(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn lag_is_the_age_of_the_last_sample_passed() {
        let mut lag = LagTracker::new();
        lag.handle_wal(at(1), Lsn(100));
        lag.handle_wal(at(2), Lsn(200));
        lag.handle_wal(at(2), Lsn(200));
        lag.handle_wal(at(4), Lsn(300));
        assert_eq!(lag.read(at(5), LagHead::Write, Lsn(250)), secs(3));
        assert_eq!(lag.read(at(5), LagHead::Flush, Lsn(100)), secs(4));
        assert_eq!(lag.read(at(9), LagHead::Write, Lsn(300)), secs(5));
        assert_eq!(lag.read(at(9), LagHead::Write, Lsn(300)), None, "nothing new");
    }

    #[test]
    fn a_stuck_position_shows_growing_lag_by_interpolation() {
        let mut lag = LagTracker::new();
        lag.handle_wal(at(10), Lsn(100));
        lag.handle_wal(at(20), Lsn(200));
        assert_eq!(lag.read(at(21), LagHead::Apply, Lsn(100)), secs(11));
        assert_eq!(lag.read(at(30), LagHead::Apply, Lsn(150)), secs(15));
        assert_eq!(lag.read(at(40), LagHead::Apply, Lsn(150)), secs(25));
        assert_eq!(lag.read(at(40), LagHead::Apply, Lsn(90)), None, "it moved backwards");
    }

    #[test]
    fn the_first_burst_after_idleness_counts_from_its_own_sample() {
        let mut lag = LagTracker::new();
        lag.handle_wal(at(1), Lsn(100));
        assert_eq!(lag.read(at(2), LagHead::Apply, Lsn(100)), secs(1));
        lag.handle_wal(at(1000), Lsn(200));
        assert_eq!(lag.read(at(1003), LagHead::Apply, Lsn(100)), secs(3));
    }

    #[test]
    fn a_full_buffer_keeps_the_oldest_samples_and_the_youngest() {
        let mut lag = LagTracker::new();
        for i in 1..=20_000 {
            lag.handle_wal(at(i), Lsn(i));
        }
        assert_eq!(lag.samples.len(), LAG_SAMPLES_MAX - 1);
        assert_eq!(lag.read(at(20_000), LagHead::Write, Lsn(5)), secs(19_995));
        assert_eq!(lag.read(at(20_001), LagHead::Write, Lsn(20_000)), secs(1));
        // The slower heads still hold the buffer; the ring goes around once they move.
        lag.read(at(20_001), LagHead::Flush, Lsn(8_000));
        lag.read(at(20_001), LagHead::Apply, Lsn(8_000));
        for i in 20_001..=25_000 {
            lag.handle_wal(at(i), Lsn(i));
        }
        assert_eq!(lag.samples.len(), LAG_SAMPLES_MAX);
        assert_eq!(lag.read(at(25_001), LagHead::Apply, Lsn(24_000)), secs(1001));
    }
}
