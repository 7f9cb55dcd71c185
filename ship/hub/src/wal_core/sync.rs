//! Synchronous standbys: their replies in, what enough of them have reached out.
//!
//! Not here: who counts (`walhub_proto::syncrep`), sending the reply (`upstream`), slots (`keep`).
//!
//! PostgreSQL: `SyncRepReleaseWaiters` (src/backend/replication/syncrep.c).

use std::sync::atomic::Ordering;

use walhub_engine::io::{Io, Waker};
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::syncrep::{
    ModeLsns, RelayPolicy, RelayReply, SyncRepConfig, SyncStandbys, Synced, WaitMode,
};
use walhub_proto::time::Now;
use walhub_proto::walreceiver::WalReceiverState;

use super::upstream::{Drop, State};
use super::{Attached, WalCore};
use crate::role::Role;

/// What `synchronous_standby_names` makes of the connected standbys.
#[derive(Debug)]
pub(super) struct SyncRep {
    standbys: SyncStandbys,
    policy: RelayPolicy,
    /// The last one that was published.
    synced: Synced,
    /// The log says that the upstream's commits wait.
    waiting_logged: bool,
}

impl SyncRep {
    pub(super) fn new(config: Option<SyncRepConfig>) -> Self {
        Self {
            standbys: SyncStandbys::new(config),
            policy: RelayPolicy::new(),
            synced: Synced::Undefined,
            waiting_logged: false,
        }
    }

    /// A standby has a session, and nothing to say yet.
    pub(super) fn connect(&mut self, standby: usize, application_name: &str) {
        self.standbys.handle_connected(standby, application_name);
    }

    /// A standby's session is over.
    pub(super) fn disconnect(&mut self, standby: usize) {
        self.standbys.handle_disconnected(standby);
    }

    /// WAL begins to stream from the upstream: nothing was told yet.
    pub(super) fn restart_policy(&mut self) {
        self.policy.restart();
    }

    /// What the upstream is to be told, from the positions of the own disk.
    pub(super) fn reply(&mut self, write_lsn: Lsn, flush_lsn: Lsn) -> RelayReply {
        self.policy.reply(write_lsn, flush_lsn, self.standbys.synced())
    }

    /// Whether the upstream was not told of `flush_lsn` because too few standbys are streaming.
    pub(super) fn withholds(&self, flush_lsn: Lsn) -> bool {
        self.synced == Synced::TooFew && self.policy.told().flush < flush_lsn
    }
}

impl<C: Send + 'static, W: Waker> WalCore<C, W> {
    /// Takes what standbys have said since the last call. What it moves is told at once.
    pub fn take_replies<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        let timeline = self.current_timeline();
        let (sync, attached) = (&mut self.sync, &self.attached);
        self.config.standbys.drain(|index, entry| {
            // A session that has ended may leave a mark.
            let Some(Attached { timeline: streamed, .. }) = attached.get(&index) else { return };
            sync.standbys.handle_state(index, entry.state());
            // On another timeline the same position is other WAL.
            if Some(*streamed) == timeline {
                sync.standbys.handle_reply(index, entry.counted());
            }
        });
        self.settle_sync(io, now);
    }

    /// Takes `synchronous_standby_names` over, after a reload.
    pub(super) fn handle_standby_names<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        let config = self.config.settings.synchronous_standby_names.clone();
        if self.sync.standbys.config() == config.as_ref() {
            return;
        }
        self.sync.standbys.handle_config(config);
        self.restart_sync();
        self.settle_sync(io, now);
        self.tell_commits();
        // What was told may have been less than is true without a list.
        self.acknowledge(io, now);
    }

    /// Begins a generation in which nothing was reached yet.
    pub(super) fn restart_sync(&mut self) {
        let defined = self.sync.standbys.config().is_some();
        self.config.shared.synced.restart(defined);
        self.sync.synced = if defined { Synced::TooFew } else { Synced::Undefined };
    }

    /// The WAL goes on on another timeline: what was said of the old one says nothing about it.
    pub(super) fn forget_replies(&mut self) {
        for &standby in self.attached.keys() {
            self.sync.standbys.handle_reply(standby, ModeLsns::default());
        }
        self.sync.restart_policy();
        self.followed.forget_all();
        self.restart_sync();
    }

    /// Lets an upstream go that stops and waits for a position that cannot be told.
    ///
    /// It waits until everything is acknowledged as durable, and `synchronous_standby_names` may ask for
    /// standbys that do not come. Everything is durable here: what is left is to end the stream without
    /// telling anything that is not so. PostgreSQL: `WalSndDone`.
    pub(super) fn note_requests(&mut self, now: Now, end: Lsn) -> Result<(), Drop> {
        let State::Live(live) = &mut self.link.state else { return Ok(()) };
        let flush_lsn = self.config.shared.flush_lsn.load();
        let withheld = flush_lsn == end && self.sync.withholds(flush_lsn);
        if live.receiver.is_waiting_in_vain(now, withheld) { Err(Drop::Leave) } else { Ok(()) }
    }

    /// Publishes and tells what the standbys have come to, if that is something else.
    fn settle_sync<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        let synced = self.sync.standbys.synced();
        while let Some(takeover) = self.sync.standbys.poll_takeover() {
            tracing::info!("{takeover}");
        }
        if std::mem::replace(&mut self.sync.synced, synced) != synced {
            self.config.shared.synced.publish(synced);
            self.tell_commits();
            self.reach(now);
            self.acknowledge(io, now);
        }
        self.log_waiting();
    }

    /// Says once that commits wait because too few standbys are there, and once that they do not.
    fn log_waiting(&mut self) {
        let waits = self.sync.synced == Synced::TooFew;
        let has_commits = self.is_receiving() || self.role() == Role::Primary;
        if waits == self.sync.waiting_logged || (waits && !has_commits) {
            return;
        }
        self.sync.waiting_logged = waits;
        // Of those that count it is not asked how far they are.
        match self.sync.standbys.gate(WaitMode::Flush, Lsn(1)).filter(|_| waits) {
            Some(gate) => tracing::warn!(
                detail = "Too few of the standbys in synchronous_standby_names are streaming.",
                "commits on the primary wait for {gate}"
            ),
            None => tracing::info!("commits on the primary no longer wait for standbys to stream"),
        }
    }

    fn is_receiving(&self) -> bool {
        match &self.link.state {
            State::Live(live) => live.receiver.state() == WalReceiverState::Streaming,
            State::Off | State::Waiting { .. } | State::Connecting | State::Closing { .. } => false,
        }
    }

    fn current_timeline(&self) -> Option<TimelineId> {
        TimelineId::new(self.config.shared.timeline.load(Ordering::Relaxed))
    }
}
