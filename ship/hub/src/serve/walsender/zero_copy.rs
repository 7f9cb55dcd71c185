//! When a session's WAL is sent from memory that the kernel itself reads, and until when.
//!
//! The tail cache cannot use a slab again while a peer has not acknowledged what was sent from it. So
//! that a slow standby pins a few slabs and no more, WAL is copied again while the oldest that is not
//! acknowledged is far behind. A session keeps its socket until everything is released; one that
//! ends waits for that a moment, and then throws away what its standby has not acknowledged.
//!
//! Not here: whether the kernel can (`walhub_engine::io::ZeroCopy`), what slabs there are (`tail`).

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use walhub_engine::io::ZeroCopy;
use walhub_proto::lsn::{Lsn, LsnRange};
use walhub_proto::time::Instant;

use crate::api::settings::ZerocopySend;

/// Messages with less WAL are copied: a copy is then cheaper than pinning pages and a second completion.
/// With memory that the ring does not know beforehand the two cost the same at 4 to 8 kB on a fast
/// network card, and the kernel's documentation says 10 kB.
pub(super) const ZEROCOPY_BYTES_MIN: u64 = 16 << 10;
/// How far the end of a message may be from the first WAL that is sent from its memory and not
/// acknowledged. More is on its way on fast and long lines only; there the rest is copied.
pub const ZEROCOPY_UNACKED_BYTES_MAX: u64 = 1 << 20;
/// How long a session that ends waits for its standby to acknowledge.
const LINGER: Duration = Duration::from_secs(1);

/// How one session sends without a copy.
#[derive(Debug)]
pub(super) struct ZeroCopySends {
    reach: ZeroCopy,
    /// The kernel has copied what it need not have.
    copied: bool,
    /// The kernel did not take such a send.
    refused: bool,
    /// Where the WAL begins that was sent and is not released, in order. Acknowledgements come in that
    /// order too.
    unacked: VecDeque<Lsn>,
    /// Until when a session that ends waits.
    linger_until: Option<Instant>,
}

impl ZeroCopySends {
    pub(super) fn new(reach: ZeroCopy) -> Self {
        let unacked = VecDeque::new();
        Self { reach, copied: false, refused: false, unacked, linger_until: None }
    }

    /// Whether a message with this WAL is to be sent from the memory that it is in.
    pub(super) fn is_wanted(&self, setting: ZerocopySend, wal: LsnRange) -> bool {
        let is_wanted = match (setting, self.reach) {
            (ZerocopySend::Off, _) | (_, ZeroCopy::Unsupported) => false,
            (ZerocopySend::Auto, ZeroCopy::Local) => false,
            (ZerocopySend::Auto, ZeroCopy::Remote) => !self.copied,
            (ZerocopySend::On, ZeroCopy::Local | ZeroCopy::Remote) => true,
        };
        let oldest = self.unacked.front().copied().unwrap_or(wal.start);
        is_wanted
            && !self.refused
            && wal.len() >= ZEROCOPY_BYTES_MIN
            && wal.end - oldest <= ZEROCOPY_UNACKED_BYTES_MAX
    }

    /// A message with WAL from `start` on is with the kernel.
    pub(super) fn handle_sent(&mut self, start: Lsn) {
        self.unacked.push_back(start);
    }

    /// The kernel is done with the oldest message's memory.
    pub(super) fn handle_released(&mut self, copied: bool) {
        self.copied |= copied;
        assert!(self.unacked.pop_front().is_some(), "memory was released that was not in use");
    }

    /// The kernel did not take a message; nothing of it was sent. From now on all are copied.
    pub(super) fn handle_refused(&mut self, name: &str, error: &io::Error) {
        self.refused = true;
        if error.kind() == io::ErrorKind::OutOfMemory {
            tracing::info!(
                hint =
                    "Raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=), or set zerocopy_send = off.",
                "WAL for standby \"{name}\" is copied from now on: memory that the kernel sends from counts as locked"
            );
        } else {
            tracing::debug!("WAL for standby \"{name}\" is copied from now on: {error}");
        }
    }

    /// Whether the kernel needs no memory of ours any more.
    pub(super) fn is_released(&self) -> bool {
        self.unacked.is_empty()
    }

    /// The session ends at `now`, as soon as everything is released or soon.
    pub(super) fn begin_linger(&mut self, now: Instant) {
        self.linger_until = Some(now + LINGER);
    }

    /// When a session that ends is to be looked at.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.linger_until.filter(|_| !self.is_released())
    }

    /// Whether the session waits no longer.
    pub(super) fn has_lingered(&self, now: Instant) -> bool {
        self.is_released() || self.linger_until.is_some_and(|until| until <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: u64 = ZEROCOPY_BYTES_MIN;
    const MAX: u64 = ZEROCOPY_UNACKED_BYTES_MAX;

    fn range(start: u64, end: u64) -> LsnRange {
        LsnRange::new(Lsn(start), Lsn(end))
    }

    #[test]
    fn setting_and_peer_decide() {
        use ZeroCopy::{Local, Remote, Unsupported};
        use ZerocopySend::{Auto, Off, On};
        let wanted = |setting, reach| ZeroCopySends::new(reach).is_wanted(setting, range(0, MIN));
        let all =
            [Off, Auto, On].map(|setting| [Unsupported, Local, Remote].map(|r| wanted(setting, r)));
        assert_eq!(all, [[false; 3], [false, false, true], [false, true, true]]);
    }

    #[test]
    fn small_messages_are_copied() {
        let sends = ZeroCopySends::new(ZeroCopy::Remote);
        assert!(!sends.is_wanted(ZerocopySend::On, range(5, 5 + MIN - 1)));
        assert!(sends.is_wanted(ZerocopySend::On, range(5, 5 + MIN)));
    }

    #[test]
    fn a_standby_that_does_not_acknowledge_pins_a_bounded_stretch() {
        let mut sends = ZeroCopySends::new(ZeroCopy::Remote);
        sends.handle_sent(Lsn(100));
        sends.handle_sent(Lsn(100 + MAX / 2));
        let is_wanted =
            |sends: &ZeroCopySends, end| sends.is_wanted(ZerocopySend::On, range(end - MIN, end));
        assert!(is_wanted(&sends, 100 + MAX) && !is_wanted(&sends, 101 + MAX));
        sends.handle_released(false);
        assert!(is_wanted(&sends, 101 + MAX));
    }

    #[test]
    fn what_is_copied_nonetheless_is_not_tried_again_unless_it_is_forced() {
        let mut sends = ZeroCopySends::new(ZeroCopy::Remote);
        sends.handle_sent(Lsn(0));
        sends.handle_released(true);
        assert!(!sends.is_wanted(ZerocopySend::Auto, range(0, MIN)));
        assert!(sends.is_wanted(ZerocopySend::On, range(0, MIN)));
        sends.handle_refused("a", &io::Error::from(io::ErrorKind::OutOfMemory));
        assert!(!sends.is_wanted(ZerocopySend::On, range(0, MIN)));
    }

    #[test]
    fn an_end_waits_for_what_is_not_released_and_not_for_ever() {
        let mut sends = ZeroCopySends::new(ZeroCopy::Remote);
        sends.begin_linger(Instant(0));
        assert!(sends.has_lingered(Instant(0)) && sends.deadline().is_none());
        sends.handle_sent(Lsn(0));
        let until = sends.deadline().unwrap();
        assert!(!sends.has_lingered(Instant(until.0 - 1)) && sends.has_lingered(until));
        sends.handle_released(false);
        assert!(sends.has_lingered(Instant(0)));
    }
}
