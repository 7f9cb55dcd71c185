//! Requests for a reply: how an upstream is known that stops and waits for what it cannot be told.
//!
//! Not here: what it cannot be told (`sync`), ending the stream (`upstream`).
//!
//! PostgreSQL: `WalSndDone`, `WalSndKeepaliveIfNecessary` (src/backend/replication/walsender.c).

use std::time::Duration;

use walhub_proto::time::Instant;

/// An upstream that stops asks again as soon as it has been answered; a living one asks at most once
/// in half of its `wal_sender_timeout`.
const STOPPING_REQUESTS_MIN: u32 = 10;
/// How long an upstream that stops may ask for what cannot be told, and the pause between two requests
/// from which on it is a living one.
const STOPPING_PATIENCE: Duration = Duration::from_secs(1);
/// Requests for a reply in a row that were answered with less than the upstream waits for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Requests {
    /// All requests until now.
    seen: u64,
    /// How many of them in a row.
    in_row: u32,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Requests {
    /// Notes how many requests there were; true when they can only come from an upstream that stops.
    pub(super) fn note(&mut self, now: Instant, requests: u64, withheld: bool) -> bool {
        if self.seen == requests {
            return false;
        }
        self.seen = requests;
        let soon = self.last.is_some_and(|last| now < last + STOPPING_PATIENCE);
        self.last = Some(now);
        if !soon || !withheld {
            self.in_row = 0;
            self.first = Some(now);
        }
        self.in_row += 1;
        let patient = self.first.is_some_and(|first| now < first + STOPPING_PATIENCE);
        withheld && !patient && self.in_row >= STOPPING_REQUESTS_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn an_upstream_that_stops_asks_again_and_again_for_a_while() {
        let mut requests = Requests::default();
        let stops: Vec<u64> = (1..=200).filter(|&n| requests.note(at(n * 10), n, true)).collect();
        assert_eq!(stops.first(), Some(&101));
    }

    #[test]
    fn an_upstream_that_lives_asks_now_and_then() {
        let mut requests = Requests::default();
        assert!((1..=200).all(|n| !requests.note(at(n * 1_000), n, true)));
        // Nothing was requested.
        assert!((1..=200).all(|n| !requests.note(at(300_000 + n * 10), 200, true)));
    }

    #[test]
    fn an_upstream_that_is_told_what_it_asks_for_is_not_left() {
        let mut requests = Requests::default();
        assert!((1..=200).all(|n| !requests.note(at(n * 10), n, false)));
        // From here on it is not.
        let stops: Vec<u64> = (201..=400).filter(|&n| requests.note(at(n * 10), n, true)).collect();
        assert_eq!(stops.first(), Some(&300));
    }
}
