//! How an upstream that stops and waits for what it cannot be told is known from one that lives.
//!
//! Both ask for a reply. One that stops asks again as soon as it has been answered; one that lives asks
//! once it has heard nothing for half of its `wal_sender_timeout`, which may be a minute or a few
//! milliseconds, and is not known here. So neither a count nor a pause tells them apart, but an order
//! does: every status that is sent here while this is in doubt requests an answer. An upstream that stops
//! asks again each time that it has answered all that has come, which may be two or three statuses at once.
//! One that lives has just heard from us, and does not ask at all.
//!
//! Not here: what an upstream cannot be told (walhub's `policy::sync`).
//!
//! PostgreSQL: `WalSndDone`, `WalSndKeepaliveIfNecessary`, `ProcessStandbyReplyMessage`
//! (src/backend/replication/walsender.c).

use core::time::Duration;

use crate::time::Instant;

/// How long an upstream that stops may ask for what cannot be told.
const PATIENCE: Duration = Duration::from_secs(1);
/// Answers that were each followed by another request, at least.
const ROUNDS_MIN: u32 = 3;
/// Answers in a row without a request between them: the upstream lives.
const SILENT_ANSWERS_MAX: u32 = 8;

/// A keepalive, as far as it tells whether the upstream lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// One that requests a reply.
    Request,
    /// One that does not: the answer to a status that requested it.
    Answer,
}

/// What to do about a keepalive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// What is always done.
    Nothing,
    /// The next status requests an answer, and is sent now.
    Ask,
    /// The request needs no reply: a status that was sent after it was made is under way.
    IsAnswered,
    /// The upstream stops, and waits for what it cannot be told.
    Stops,
}

/// Looks at keepalives that come while the upstream waits for more than it is told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StopDetector {
    probe: Option<Probe>,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    since: Instant,
    /// An answer has come.
    is_answered: bool,
    /// A request has come since the last answer.
    has_asked: bool,
    /// The last status was sent because of an answer, and the request that may have followed that one
    /// has not come.
    is_covered: bool,
    rounds: u32,
    /// Answers since the last request.
    silent_answers: u32,
}

impl StopDetector {
    /// Takes a keepalive; `is_withheld` says whether the upstream was told less than it waits for.
    pub(super) fn note(&mut self, now: Instant, heard: Heard, is_withheld: bool) -> Verdict {
        if !is_withheld {
            self.probe = None;
            return Verdict::Nothing;
        }
        match (heard, &mut self.probe) {
            (Heard::Request, None) => {
                self.probe = Some(Probe {
                    since: now,
                    is_answered: false,
                    has_asked: false,
                    is_covered: false,
                    rounds: 0,
                    silent_answers: 0,
                });
                Verdict::Ask
            }
            (Heard::Request, Some(probe)) if probe.is_covered => {
                (probe.has_asked, probe.is_covered) = (true, false);
                probe.silent_answers = 0;
                Verdict::IsAnswered
            }
            // It is an answer, too: walhub says both with one keepalive.
            (Heard::Request, Some(probe)) => {
                probe.silent_answers = 0;
                probe.end_round(now)
            }
            (Heard::Answer, None) => Verdict::Nothing,
            (Heard::Answer, Some(probe)) if probe.is_answered && !probe.has_asked => {
                probe.silent_answers += 1;
                if probe.silent_answers >= SILENT_ANSWERS_MAX {
                    self.probe = None;
                    return Verdict::Nothing;
                }
                probe.is_covered = true;
                Verdict::Ask
            }
            (Heard::Answer, Some(probe)) => {
                let is_first = !probe.is_answered;
                (probe.is_answered, probe.has_asked, probe.is_covered) = (true, false, true);
                if is_first { Verdict::Ask } else { probe.end_round(now) }
            }
        }
    }
}

impl Probe {
    fn end_round(&mut self, now: Instant) -> Verdict {
        self.rounds += 1;
        let is_patient = now < self.since + PATIENCE;
        if is_patient || self.rounds < ROUNDS_MIN { Verdict::Ask } else { Verdict::Stops }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::vec::Vec;

    use super::*;

    /// An upstream at the other end of a line, as PostgreSQL's walsender: what it says and when.
    struct Upstream {
        rtt_us: u64,
        /// Half of `wal_sender_timeout`.
        asks_after_us: Option<u64>,
        stops_at_us: Option<u64>,
        /// Says the answer and the request in one, as walhub does.
        is_walhub: bool,
        waits: bool,
        last_reply_us: u64,
        /// To the hub, and to the upstream: when it comes, and whether it asks for an answer.
        down: VecDeque<(u64, Heard)>,
        up: VecDeque<(u64, bool)>,
        statuses: u64,
    }

    fn due<T: Copy>(line: &mut VecDeque<(u64, T)>, now: u64) -> Option<T> {
        let &(at, what) = line.front()?;
        (at <= now).then(|| line.pop_front())?;
        Some(what)
    }

    impl Upstream {
        fn new(rtt_us: u64) -> Self {
            let (down, up) = (VecDeque::new(), VecDeque::new());
            Self {
                rtt_us,
                asks_after_us: None,
                stops_at_us: None,
                is_walhub: false,
                waits: false,
                last_reply_us: 0,
                down,
                up,
                statuses: 0,
            }
        }

        fn say(&mut self, now: u64, heard: Heard) {
            self.down.push_back((now + self.rtt_us / 2, heard));
        }

        /// One turn of it. PostgreSQL: `WalSndLoop`.
        fn turn(&mut self, now: u64) {
            let mut answer = false;
            while let Some(requests) = due(&mut self.up, now) {
                (self.waits, self.last_reply_us) = (false, now);
                answer |= requests;
                if requests && !self.is_walhub {
                    self.say(now, Heard::Answer);
                }
            }
            let stops = self.stops_at_us.is_some_and(|at| now >= at);
            let asks = self.asks_after_us.is_some_and(|after| now >= self.last_reply_us + after);
            if !self.waits && (stops || asks) {
                self.waits = true;
                self.say(now, Heard::Request);
            } else if answer && self.is_walhub {
                self.say(now, Heard::Answer);
            }
        }

        /// When the hub leaves, if it does before `end_us`.
        fn run(
            &mut self,
            stop_detector: &mut StopDetector,
            withheld: impl Fn(u64) -> bool,
            end_us: u64,
        ) -> Option<u64> {
            for now in (0..end_us).step_by(10) {
                self.turn(now);
                let mut status = None;
                while let Some(heard) = due(&mut self.down, now) {
                    let instant = Instant(now * 1_000);
                    match (stop_detector.note(instant, heard, withheld(now)), heard) {
                        (Verdict::Stops, _) => return Some(now),
                        (Verdict::Ask, _) => status = Some(true),
                        (Verdict::Nothing, Heard::Request) => status = status.or(Some(false)),
                        (Verdict::Nothing | Verdict::IsAnswered, _) => {}
                    }
                }
                if let Some(requests) = status {
                    self.statuses += 1;
                    self.up.push_back((now + self.rtt_us / 2, requests));
                }
            }
            None
        }
    }

    const SECOND: u64 = 1_000_000;

    #[test]
    fn an_upstream_that_stops_is_left_after_a_second_of_asking_at_every_round_trip() {
        for rtt_us in [20, 1_000, 40_000, 300_000] {
            for is_walhub in [false, true] {
                let mut upstream = Upstream { is_walhub, ..Upstream::new(rtt_us) };
                upstream.stops_at_us = Some(5 * SECOND);
                let left = upstream.run(&mut StopDetector::default(), |_| true, 12 * SECOND);
                let after = left.expect("it stops") - 5 * SECOND;
                assert!((SECOND..SECOND + 5 * rtt_us).contains(&after), "{rtt_us}: {after}");
                // One status is under way at a time.
                assert!(upstream.statuses <= after / rtt_us + 3, "{rtt_us}: {}", upstream.statuses);
            }
        }
    }

    #[test]
    fn a_primary_with_a_wal_sender_timeout_under_two_seconds_is_not_left() {
        // Half of the timeout is more than a round trip, else no answer would come in time.
        for (timeout_ms, rtt_us) in
            [(1_000, 100), (1_000, 400_000), (200, 100), (10, 100), (4, 1_500)]
        {
            for is_walhub in [false, true] {
                let mut upstream = Upstream { is_walhub, ..Upstream::new(rtt_us) };
                upstream.asks_after_us = Some(timeout_ms * 1_000 / 2);
                let left = upstream.run(&mut StopDetector::default(), |_| true, 60 * SECOND);
                assert_eq!(left, None, "{timeout_ms} ms, {rtt_us} us");
                // For each time that it asks: the reply, and those that show that it lives.
                let asked = 60_000 / (timeout_ms / 2);
                let each = u64::from(SILENT_ANSWERS_MAX) + 2;
                assert!(upstream.statuses <= each * asked, "{}", upstream.statuses);
            }
        }
    }

    /// As PostgreSQL 15 was seen to say it: it reads two statuses before it looks whether it may end.
    #[test]
    fn an_upstream_that_stops_is_left_though_it_answers_two_statuses_at_once() {
        let mut stop_detector = StopDetector::default();
        let mut words = [Heard::Answer, Heard::Answer, Heard::Request].into_iter().cycle();
        assert_eq!(stop_detector.note(Instant(0), Heard::Request, true), Verdict::Ask);
        let stops = (1..40_000).map(|step| Instant(step * 50_000)).find(|&now| {
            let heard = words.next().expect("a cycle");
            stop_detector.note(now, heard, true) == Verdict::Stops
        });
        assert!(stops.is_some_and(|stops| stops.0 < 1_100_000_000), "{stops:?}");
    }

    #[test]
    fn one_that_has_lived_for_long_is_left_once_it_stops() {
        let mut upstream = Upstream::new(200);
        (upstream.asks_after_us, upstream.stops_at_us) = (Some(SECOND / 2), Some(20 * SECOND));
        let left = upstream.run(&mut StopDetector::default(), |_| true, 30 * SECOND);
        assert!(left.is_some_and(|left| (21 * SECOND..22 * SECOND).contains(&left)), "{left:?}");
    }

    #[test]
    fn one_that_is_told_what_it_waits_for_is_not_left() {
        let mut upstream = Upstream::new(200);
        upstream.stops_at_us = Some(0);
        let mut stop_detector = StopDetector::default();
        assert_eq!(upstream.run(&mut stop_detector, |_| false, 5 * SECOND), None);
        // From here on it is not: a second more.
        upstream = Upstream { stops_at_us: Some(0), ..Upstream::new(200) };
        let left = upstream.run(&mut stop_detector, |now| now >= 3 * SECOND, 5 * SECOND);
        assert!(left.is_some_and(|left| left >= 4 * SECOND), "{left:?}");
    }

    #[test]
    fn one_that_answers_no_status_is_not_left_unanswered() {
        let mut stop_detector = StopDetector::default();
        let verdicts: Vec<Verdict> =
            (0..3).map(|n| stop_detector.note(Instant(n), Heard::Request, true)).collect();
        assert_eq!(verdicts, [Verdict::Ask; 3]);
    }
}
