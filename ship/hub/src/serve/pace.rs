//! How often a ship core gives new WAL to all its standbys.
//!
//! What came while a round ran goes with the next one. With many standbys and small commits that is
//! not enough: the rounds then follow each other without a pause, take the CPU that the primary needs,
//! and carry a commit or two each. So rounds may take a part of the core's time only, and a round that
//! would come too early waits, a bounded time. What a round costs is measured: with few standbys the
//! pause is a few microseconds, and on an idle core there is none.
//!
//! Not here: what a round is (`ship_core`).

use std::time::Duration;

use walhub_proto::time::Instant;

/// A round begins this many times its own length after the last one began, at the earliest.
const PERIOD_PER_ROUND: u32 = 4;

/// Paces the rounds of a core.
#[derive(Debug, Default)]
pub struct Pace {
    /// When the last round began.
    began: Option<Instant>,
    /// Sends that had completed when the last round began, until its length is known.
    sends_before: Option<u64>,
    /// What a round takes, smoothed.
    length: Duration,
    put_off_until: Option<Instant>,
}

impl Pace {
    /// A turn begins, `sends` have completed. The first one after a round in which sends have
    /// completed tells what the round took: sends run in the enter between them, and a core that has
    /// completions does not sleep.
    pub fn handle_turn(&mut self, now: Instant, sends: u64) {
        if let (Some(before), Some(began)) = (self.sends_before.take(), self.began)
            && sends > before
        {
            let length = Duration::from_nanos(now.0.saturating_sub(began.0));
            self.length = (self.length * 3 + length) / 4;
        }
    }

    /// Whether a round may begin now. If not, it may at [`Pace::put_off_until`], `delay_max` from now
    /// at the latest.
    pub fn may_begin(&mut self, now: Instant, delay_max: Duration) -> bool {
        let period = (self.length * PERIOD_PER_ROUND).min(delay_max);
        self.put_off_until = self.began.map(|began| began + period).filter(|&at| at > now);
        self.put_off_until.is_none()
    }

    /// A round begins, `sends` have completed before it.
    pub fn begin(&mut self, now: Instant, sends: u64) {
        (self.began, self.sends_before, self.put_off_until) = (Some(now), Some(sends), None);
    }

    /// When the round that was put off may begin.
    #[must_use]
    pub fn put_off_until(&self) -> Option<Instant> {
        self.put_off_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_millis(1);

    /// Rounds of that length, one after the other, until their length is known well.
    fn paced(length_us: u64) -> (Pace, Instant) {
        let (mut pace, mut now) = (Pace::default(), Instant(0));
        for sends in 0..40 {
            pace.begin(now, sends);
            now = now + Duration::from_micros(length_us);
            pace.handle_turn(now, sends + 1);
        }
        pace.begin(now, 40);
        (pace, now)
    }

    #[test]
    fn the_first_round_and_one_after_a_pause_begin_at_once() {
        assert!(Pace::default().may_begin(Instant(0), MAX));
        let (mut pace, began) = paced(100);
        assert!(pace.may_begin(began + Duration::from_secs(1), MAX));
        assert_eq!(pace.put_off_until(), None);
    }

    #[test]
    fn rounds_take_a_part_of_the_time() {
        let (mut pace, began) = paced(100);
        let now = began + Duration::from_micros(150);
        assert!(!pace.may_begin(now, MAX));
        let until = pace.put_off_until().unwrap();
        let period = Duration::from_nanos(until.0 - began.0);
        assert!(period > Duration::from_micros(395) && period <= Duration::from_micros(400));
        assert!(pace.may_begin(until, MAX));
    }

    #[test]
    fn the_delay_is_bounded_and_can_be_off() {
        let (mut pace, began) = paced(800);
        let now = began + Duration::from_micros(800);
        assert!(!pace.may_begin(now, MAX));
        assert_eq!(pace.put_off_until(), Some(began + MAX));
        assert!(pace.may_begin(now, Duration::ZERO));
    }

    #[test]
    fn a_round_that_sent_nothing_says_nothing() {
        let mut pace = Pace::default();
        pace.begin(Instant(0), 7);
        pace.handle_turn(Instant(5_000_000), 7);
        assert!(pace.may_begin(Instant(5_000_001), MAX));
        assert_eq!(pace.length, Duration::ZERO);
    }
}
