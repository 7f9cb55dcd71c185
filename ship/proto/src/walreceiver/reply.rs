//! When a status update or hot standby feedback is due.
//!
//! PostgreSQL: `XLogWalRcvSendReply`, `XLogWalRcvSendHSFeedback`, `WalRcvComputeNextWakeup`
//! (src/backend/replication/walreceiver.c).

use alloc::vec::Vec;

use crate::feedback::Horizons;
use crate::lsn::Lsn;
use crate::time::{Instant, Now};
use crate::wire::copy::StandbyStatusUpdate;

use super::WalReceiverConfig;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Positions {
    write: Lsn,
    flush: Lsn,
    apply: Lsn,
}

/// What is owed to the upstream while WAL streams.
#[derive(Debug)]
pub(super) struct Replies {
    streaming: bool,
    positions: Positions,
    status_due: bool,
    /// The upstream has requested a reply.
    requested: bool,
    /// The status to come requests a reply: nothing was heard for half of the timeout.
    ping_due: bool,
    /// It does so because the upstream may be stopping.
    ask_due: bool,
    ping_sent: bool,
    next_status: Option<Instant>,
    /// What the standbys downstream need; `None` while that is not known.
    horizons: Option<Horizons>,
    feedback_due: bool,
    next_feedback: Option<Instant>,
    /// The upstream may still hold rows for us. PostgreSQL: `primary_has_standby_xmin`.
    upstream_has_xmin: bool,
}

impl Replies {
    pub(super) fn new() -> Self {
        Self {
            streaming: false,
            positions: Positions::default(),
            status_due: false,
            requested: false,
            ping_due: false,
            ask_due: false,
            ping_sent: false,
            next_status: None,
            horizons: None,
            feedback_due: false,
            next_feedback: None,
            // A slot remembers what an earlier session said.
            upstream_has_xmin: true,
        }
    }

    /// WAL begins to stream: the upstream hears at once where we are.
    pub(super) fn start(&mut self, now: Now, config: &WalReceiverConfig) {
        self.streaming = true;
        self.requested = false;
        self.ask_due = false;
        self.ping_due = false;
        self.ping_sent = false;
        self.status_due = true;
        self.feedback_due = true;
        self.next_status = config.status_interval.map(|interval| now.instant + interval);
        self.next_feedback = self.next_status;
    }

    /// Our direction of the stream is closed.
    pub(super) fn stop(&mut self) {
        self.streaming = false;
    }

    /// Something came from the upstream.
    pub(super) fn handle_received(&mut self) {
        self.ping_due = false;
        self.ping_sent = false;
    }

    /// The upstream wants to hear from us.
    pub(super) fn request(&mut self) {
        self.requested = true;
    }

    /// It has what it requested: nothing is sent for that alone.
    pub(super) fn drop_request(&mut self) {
        self.requested = false;
    }

    /// The next status is due now, and requests an answer.
    pub(super) fn ask(&mut self) {
        self.status_due = true;
        self.ask_due = true;
    }

    pub(super) fn handle_config(&mut self, now: Now, config: &WalReceiverConfig) {
        let next = config.status_interval.map(|interval| now.instant + interval);
        self.next_status = next;
        self.next_feedback = next;
        self.feedback_due = true;
    }

    pub(super) fn handle_progress(
        &mut self,
        config: &WalReceiverConfig,
        write: Lsn,
        flush: Lsn,
        apply: Lsn,
    ) {
        let positions = Positions { write, flush, apply };
        // Without an interval the upstream hears of us only when it asks.
        self.status_due |= positions != self.positions && config.status_interval.is_some();
        self.positions = positions;
    }

    pub(super) fn handle_feedback(&mut self, horizons: Horizons) {
        // The end of all need is told at once, so that the upstream can clean up; anything else
        // waits for its interval.
        let first = self.horizons.is_none();
        let ended = horizons.is_empty() && self.horizons != Some(horizons);
        self.feedback_due |= first || ended;
        self.horizons = Some(horizons);
    }

    pub(super) fn handle_timeout(
        &mut self,
        now: Now,
        config: &WalReceiverConfig,
        last_recv: Instant,
    ) {
        if !self.streaming {
            return;
        }
        let passed = |due: Option<Instant>| due.is_some_and(|due| now.instant >= due);
        if passed(self.ping_at(config, last_recv)) {
            self.ping_due = true;
            self.status_due = true;
        }
        self.status_due |= passed(self.next_status);
        self.feedback_due |= passed(self.feedback_at(config));
    }

    pub(super) fn poll_timeout(
        &self,
        config: &WalReceiverConfig,
        last_recv: Instant,
    ) -> Option<Instant> {
        if !self.streaming {
            return None;
        }
        let status = self.next_status.filter(|_| !self.status_due);
        let feedback = self.feedback_at(config).filter(|_| !self.feedback_due);
        [self.ping_at(config, last_recv), status, feedback].into_iter().flatten().min()
    }

    /// When to ask whether the upstream is still there.
    fn ping_at(&self, config: &WalReceiverConfig, last_recv: Instant) -> Option<Instant> {
        let timeout = config.timeout.filter(|_| !self.ping_sent && !self.ping_due)?;
        Some(last_recv + timeout / 2)
    }

    /// When feedback may be sent again, if there is any to send.
    fn feedback_at(&self, config: &WalReceiverConfig) -> Option<Instant> {
        self.feedback_to_send(config).and(self.next_feedback)
    }

    /// What the upstream should know; `None` when it knows or when we do not.
    fn feedback_to_send(&self, config: &WalReceiverConfig) -> Option<Horizons> {
        let wanted = config.hot_standby_feedback && config.status_interval.is_some();
        let horizons = if wanted { self.horizons? } else { Horizons::default() };
        (!horizons.is_empty() || self.upstream_has_xmin).then_some(horizons)
    }

    /// Appends what is due.
    pub(super) fn encode(&mut self, now: Now, config: &WalReceiverConfig, out: &mut Vec<u8>) {
        if !self.streaming {
            return;
        }
        let requested = core::mem::take(&mut self.requested);
        if core::mem::take(&mut self.status_due) || requested {
            let is_ping = core::mem::take(&mut self.ping_due);
            self.ping_sent |= is_ping;
            let reply_requested = core::mem::take(&mut self.ask_due) || is_ping;
            let Positions { write, flush, apply } = self.positions;
            let sent = now.wall;
            let status = StandbyStatusUpdate { write, flush, apply, sent, reply_requested };
            out.extend_from_slice(&status.encode());
            self.next_status = config.status_interval.map(|interval| now.instant + interval);
        }
        if !self.feedback_due {
            return;
        }
        if let Some(horizons) = self.feedback_to_send(config) {
            out.extend_from_slice(&horizons.message(now.wall).encode());
            self.upstream_has_xmin = !horizons.is_empty();
            self.next_feedback = config.status_interval.map(|interval| now.instant + interval);
        }
        self.feedback_due = false;
    }
}
