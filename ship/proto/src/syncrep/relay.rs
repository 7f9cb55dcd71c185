//! What a hub tells its upstream about write, flush and apply.
//!
//! With `synchronous_standby_names` each position stands for the required standbys as well as the
//! own disk; so one session on the primary carries the policy of everything behind the hub.
//!
//! PostgreSQL: `XLogWalRcvSendReply` (src/backend/replication/walreceiver.c) tells its own only.

use super::level::{ModeLsns, Synced};
use crate::lsn::Lsn;

/// Positions for a status update, zero where nothing can be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RelayReply {
    /// Up to where WAL is written.
    pub write: Lsn,
    /// Up to where WAL is durable.
    pub flush: Lsn,
    /// Up to where WAL is replayed.
    pub apply: Lsn,
}

/// The replies of one upstream connection.
///
/// No reply goes backwards. When another standby takes over, or one goes away and too few are
/// left, the last reply stays until the present ones have passed it: what it told was true of the
/// standbys that were required then, and the upstream has acted on it. PostgreSQL's primary keeps
/// its own released positions in the same way (`SyncRepReleaseWaiters`).
///
/// Before enough standbys stream for the first time, every position is zero: for the upstream this
/// is a standby that does not count yet, and its slot does not move.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RelayPolicy {
    told: ModeLsns,
}

impl RelayPolicy {
    /// For a connection on which nothing was told.
    #[must_use]
    pub const fn new() -> Self {
        Self { told: ModeLsns { write: None, flush: None, apply: None } }
    }

    /// WAL begins to stream from the upstream, perhaps on another timeline: what was told before
    /// binds no more.
    pub fn restart(&mut self) {
        *self = Self::new();
    }

    /// The next reply, from the positions of the own disk and those of the standbys.
    ///
    /// # Panics
    /// If the own disk has flushed more than it has written.
    pub fn reply(&mut self, write_lsn: Lsn, flush_lsn: Lsn, synced: Synced) -> RelayReply {
        assert!(flush_lsn <= write_lsn, "flushed {flush_lsn} of {write_lsn}");
        let present = match synced {
            // A hub replays nothing itself.
            Synced::Undefined => ModeLsns::of_wire(write_lsn, flush_lsn, Lsn::INVALID),
            Synced::TooFew => ModeLsns::default(),
            // A standby may be ahead of what was sent to it; WAL is not safe here by that. What
            // can be read must also survive, so apply does not pass the own flush.
            Synced::Reached(lsns) => {
                lsns.zip(ModeLsns::of_wire(write_lsn, flush_lsn, flush_lsn), Ord::min)
            }
        };
        self.told = self.told.zip(present, Ord::max);
        self.told()
    }

    /// The reply that the upstream was sent last.
    #[must_use]
    pub fn told(&self) -> RelayReply {
        let wire = Option::unwrap_or_default;
        RelayReply {
            write: wire(self.told.write),
            flush: wire(self.told.flush),
            apply: wire(self.told.apply),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn reply(write: u64, flush: u64, apply: u64) -> RelayReply {
        RelayReply { write: Lsn(write), flush: Lsn(flush), apply: Lsn(apply) }
    }

    const fn reached(write: u64, flush: u64, apply: u64) -> Synced {
        Synced::Reached(ModeLsns::of_wire(Lsn(write), Lsn(flush), Lsn(apply)))
    }

    #[test]
    fn without_a_policy_the_own_disk_is_told_and_no_apply() {
        let mut policy = RelayPolicy::new();
        assert_eq!(policy.reply(Lsn(90), Lsn(70), Synced::Undefined), reply(90, 70, 0));
    }

    #[test]
    fn with_a_policy_each_mode_is_the_least_of_disk_and_standbys() {
        let mut policy = RelayPolicy::new();
        assert_eq!(policy.reply(Lsn(90), Lsn(70), reached(80, 60, 50)), reply(80, 60, 50));
        // Ahead of the own disk: received from somewhere else.
        assert_eq!(policy.reply(Lsn(91), Lsn(71), reached(99, 98, 97)), reply(91, 71, 71));
    }

    #[test]
    fn nothing_is_told_until_there_are_enough_and_nothing_is_taken_back_after() {
        let mut policy = RelayPolicy::new();
        let (write, flush) = (Lsn(100), Lsn(100));
        assert_eq!(policy.reply(write, flush, Synced::TooFew), reply(0, 0, 0));
        assert_eq!(policy.reply(write, flush, reached(90, 80, 70)), reply(90, 80, 70));
        assert_eq!(policy.reply(write, flush, Synced::TooFew), reply(90, 80, 70));
        // A slower one has taken over.
        assert_eq!(policy.reply(write, flush, reached(85, 82, 10)), reply(90, 82, 70));
        // One that never replays.
        assert_eq!(policy.reply(write, flush, reached(95, 95, 0)), reply(95, 95, 70));
        assert_eq!(policy.reply(write, flush, Synced::Undefined), reply(100, 100, 70));
        policy.restart();
        assert_eq!(policy.told(), reply(0, 0, 0));
        assert_eq!(policy.reply(write, flush, reached(85, 82, 10)), reply(85, 82, 10));
    }
}
