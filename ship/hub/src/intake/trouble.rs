//! What keeps WAL from coming: what of it is logged, and how long to wait before the next attempt.
//!
//! A peer's fault is never kept as a state of ours: the upstream is tried again for as long as the server
//! runs, in pauses that have a maximum, and from the start once it answers otherwise.
//!
//! PostgreSQL: `WaitForWALToBecomeAvailable`, whose pause is `wal_retrieve_retry_interval` and whose every
//! attempt is logged.

use std::collections::VecDeque;
use std::time::Duration;

use walhub_proto::lsn::Lsn;
use walhub_proto::time::Instant;

use super::reason;

/// The same fault in a row before the pauses grow, and the streams between which it is logged again.
pub(crate) const FAULTS_MAX: u32 = 3;
/// The longest pause that a peer's fault leads to, unless `wal_retrieve_retry_interval` is longer. Commits
/// may wait for this server, and a peer that is mended says so only when it is asked.
pub(crate) const RETRY_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A stream that has lasted so long is a good one, even if no WAL came.
const STEADY: Duration = Duration::from_secs(60);
/// Reasons that are remembered: those before are logged again.
const REASONS_MAX: usize = 8;

/// Who is at fault that there is no stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Nobody is there, or the connection broke, or it is this server's own: tried again at the usual pace.
    Nobodys,
    /// The peer is there and what it says will not do: a peer like that is asked less and less often.
    Peers,
}

#[derive(Debug)]
struct Reason {
    kind: String,
    logged: u32,
    /// It streamed since this was logged last.
    streamed: bool,
}

/// The attempts since WAL came last.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    reasons: VecDeque<Reason>,
    /// The kind of the peer's last fault, and how often in a row.
    faults: Option<(String, u32)>,
    /// Where the WAL ended then.
    at: Option<Lsn>,
    streams_since: Option<Instant>,
}

impl Trouble {
    /// Notes why there is no stream; whether to log it.
    pub(crate) fn note(&mut self, text: &str, fault: Fault, verified: Option<Lsn>) -> bool {
        let kind = reason::kind_of(text);
        self.streams_since = None;
        self.at = verified;
        self.faults = match (fault, self.faults.take()) {
            (Fault::Nobodys, _) => None,
            (Fault::Peers, Some((last, count))) if last == kind => {
                Some((last, count.saturating_add(1)))
            }
            (Fault::Peers, _) => Some((kind.clone(), 1)),
        };
        if let Some(known) = self.reasons.iter_mut().find(|reason| reason.kind == kind) {
            let news = std::mem::take(&mut known.streamed) && known.logged < FAULTS_MAX;
            known.logged += u32::from(news);
            return news;
        }
        if self.reasons.len() == REASONS_MAX {
            self.reasons.pop_front();
        }
        self.reasons.push_back(Reason { kind, logged: 1, streamed: false });
        true
    }

    /// How often in a row the peer's fault was the same.
    pub(crate) fn faults(&self) -> u32 {
        self.faults.as_ref().map_or(0, |(_, count)| *count)
    }

    /// How long to wait before the next attempt.
    pub(crate) fn pause(&self, interval: Duration) -> Duration {
        let doublings = self.faults().saturating_sub(FAULTS_MAX);
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        interval.saturating_mul(factor).min(RETRY_PAUSE_MAX.max(interval))
    }

    /// Whether a stream that begins again where the last one did is nothing new.
    pub(crate) fn is_old_news(&self) -> bool {
        let is_old = |reason: &Reason| !reason.streamed || reason.logged >= FAULTS_MAX;
        !self.reasons.is_empty() && self.reasons.iter().any(is_old)
    }

    /// The upstream streams: what ends it now is news, unless that goes on and on.
    pub(crate) fn handle_stream(&mut self, now: Instant) {
        if self.reasons.is_empty() {
            return;
        }
        let since = *self.streams_since.get_or_insert(now);
        if now >= since + STEADY {
            self.forget();
        } else {
            self.reasons.iter_mut().for_each(|reason| reason.streamed = true);
        }
    }

    /// WAL is here and valid up to `verified`.
    pub(crate) fn handle_verified(&mut self, verified: Lsn) {
        if self.at.is_some_and(|at| verified > at) {
            self.forget();
        }
    }

    /// Whatever comes is news.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(100);

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    #[test]
    fn pauses_grow_to_a_maximum_and_never_end() {
        let mut trouble = Trouble::default();
        let mut pauses = vec![];
        for _ in 0..200 {
            trouble.note("bad WAL", Fault::Peers, Some(Lsn(1)));
            pauses.push(trouble.pause(INTERVAL));
        }
        let ms: Vec<u128> = pauses.iter().take(8).map(Duration::as_millis).collect();
        assert_eq!(ms, [100, 100, 100, 200, 400, 800, 1600, 3200]);
        assert_eq!(pauses.last(), Some(&RETRY_PAUSE_MAX));
        // A longer interval is the operator's wish.
        assert_eq!(trouble.pause(Duration::from_secs(60)), Duration::from_secs(60));
    }

    fn bad_wal(trouble: &mut Trouble) {
        for _ in 0..10 {
            trouble.note("bad WAL", Fault::Peers, Some(Lsn(1)));
        }
    }

    #[test]
    fn a_peer_that_answers_otherwise_is_a_new_one() {
        let mut trouble = Trouble::default();
        bad_wal(&mut trouble);
        assert!(trouble.pause(INTERVAL) > INTERVAL);
        trouble.note("Connection refused", Fault::Nobodys, Some(Lsn(1)));
        assert_eq!(trouble.pause(INTERVAL), INTERVAL);
        trouble.note("bad WAL", Fault::Peers, Some(Lsn(1)));
        assert_eq!(trouble.pause(INTERVAL), INTERVAL);
        bad_wal(&mut trouble);
        trouble.handle_verified(Lsn(1));
        assert!(trouble.pause(INTERVAL) > INTERVAL, "no WAL came");
        trouble.handle_verified(Lsn(2));
        assert_eq!(trouble.pause(INTERVAL), INTERVAL);
    }

    #[test]
    fn a_reason_is_logged_once_and_a_few_times_if_streams_come_and_go() {
        let mut trouble = Trouble::default();
        let logged = (0..100).filter(|_| trouble.note("refused", Fault::Nobodys, None)).count();
        assert_eq!(logged, 1);
        let moved = |at: u32| format!("WAL stream begins at 0/{at:X}, expected 0/{at}");
        let logged = (100..200).filter(|&at| trouble.note(&moved(at), Fault::Peers, None)).count();
        assert_eq!((logged, trouble.faults()), (1, 100));
        let mut trouble = Trouble::default();
        let mut logged = 0;
        for second in 0..100 {
            trouble.handle_stream(at(second));
            logged += u32::from(trouble.note("closed", Fault::Nobodys, None));
        }
        assert_eq!(logged, FAULTS_MAX);
        assert!(trouble.is_old_news());
        // Two that take turns are two.
        let turns = ["refused", "closed"].iter().cycle().take(100);
        assert_eq!(turns.filter(|text| trouble.note(text, Fault::Nobodys, None)).count(), 1);
    }

    #[test]
    fn a_stream_that_lasts_makes_everything_news_again() {
        let mut trouble = Trouble::default();
        assert!(trouble.note("closed", Fault::Nobodys, Some(Lsn(1))));
        trouble.handle_stream(at(1));
        trouble.handle_stream(at(60));
        assert!(trouble.note("closed", Fault::Nobodys, Some(Lsn(1))), "it streamed");
        trouble.handle_stream(at(70));
        trouble.handle_stream(at(130));
        assert!(!trouble.is_old_news());
        assert!(trouble.note("closed", Fault::Nobodys, Some(Lsn(1))));
    }
}
