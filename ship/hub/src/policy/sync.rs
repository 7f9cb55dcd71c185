//! Synchronous standbys: their replies in, what enough of them have reached out.
//!
//! Not here: who counts (`walhub_proto::syncrep`), sending the reply (`crate::intake::upstream`), slots (`slots`).
//!
//! PostgreSQL: `SyncRepReleaseWaiters` (src/backend/replication/syncrep.c).

use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::syncrep::{
    ModeLsns, RelayPolicy, RelayReply, SyncRepConfig, SyncStandbys, Synced, WaitMode,
};

use crate::policy::attached::{Attached, Walsenders};
use crate::publish::positions::StandbyTable;
use crate::publish::synced::PublishedSynced;

/// What `synchronous_standby_names` makes of the connected standbys.
#[derive(Debug)]
pub(crate) struct SyncRep {
    standbys: SyncStandbys,
    policy: RelayPolicy,
    /// The last one that was published.
    synced: Synced,
    /// The log says that the upstream's commits wait.
    waiting_logged: bool,
}

impl SyncRep {
    pub(crate) fn new(config: Option<SyncRepConfig>) -> Self {
        Self {
            standbys: SyncStandbys::new(config),
            policy: RelayPolicy::new(),
            synced: Synced::Undefined,
            waiting_logged: false,
        }
    }

    /// A standby has a session, and nothing to say yet.
    pub(crate) fn connect(&mut self, standby: usize, application_name: &str) {
        self.standbys.handle_connected(standby, application_name);
    }

    /// A standby's session is over.
    pub(crate) fn disconnect(&mut self, standby: usize) {
        self.standbys.handle_disconnected(standby);
    }

    /// WAL begins to stream from the upstream: nothing was told yet.
    pub(crate) fn restart_policy(&mut self) {
        self.policy.restart();
    }

    /// What the upstream is to be told, from the positions of the own disk.
    pub(crate) fn reply(&mut self, write_lsn: Lsn, flush_lsn: Lsn) -> RelayReply {
        self.policy.reply(write_lsn, flush_lsn, self.standbys.synced())
    }

    /// Whether the upstream was not told of `flush_lsn` because too few standbys are streaming.
    pub(crate) fn withholds(&self, flush_lsn: Lsn) -> bool {
        self.synced == Synced::TooFew && self.policy.told().flush < flush_lsn
    }

    /// Takes what standbys have said since the last call.
    pub(crate) fn take_replies(
        &mut self,
        standbys: &StandbyTable,
        attached: &Walsenders,
        current: Option<TimelineId>,
    ) {
        standbys.drain(|index, entry| {
            // A session that has ended may leave a mark.
            let Some(Attached { timeline: streamed, .. }) = attached.get(&index) else { return };
            self.standbys.handle_state(index, entry.state());
            // On another timeline the same position is other WAL.
            if Some(*streamed) == current {
                self.standbys.handle_reply(index, entry.counted());
            }
        });
    }

    /// Takes `synchronous_standby_names` over; whether it says something else than before.
    pub(crate) fn handle_config(
        &mut self,
        config: Option<&SyncRepConfig>,
        published: &PublishedSynced,
    ) -> bool {
        if self.standbys.config() == config {
            return false;
        }
        self.standbys.handle_config(config.cloned());
        self.restart(published);
        true
    }

    /// Begins a generation in which nothing was reached yet.
    pub(crate) fn restart(&mut self, published: &PublishedSynced) {
        let defined = self.standbys.config().is_some();
        published.restart(defined);
        self.synced = if defined { Synced::TooFew } else { Synced::Undefined };
    }

    /// The WAL goes on on another timeline: what was said of the old one says nothing about it.
    pub(crate) fn forget_replies(&mut self, attached: &Walsenders, published: &PublishedSynced) {
        for &standby in attached.keys() {
            self.standbys.handle_reply(standby, ModeLsns::default());
        }
        self.restart_policy();
        self.restart(published);
    }

    /// Publishes what the standbys have come to; whether that is something else.
    pub(crate) fn publish(&mut self, published: &PublishedSynced) -> bool {
        let synced = self.standbys.synced();
        while let Some(takeover) = self.standbys.poll_takeover() {
            tracing::info!("{takeover}");
        }
        let is_news = std::mem::replace(&mut self.synced, synced) != synced;
        if is_news {
            published.publish(synced);
        }
        is_news
    }

    /// Says once that commits wait because too few standbys are there, and once that they do not.
    pub(crate) fn log_waiting(&mut self, has_commits: bool) {
        let waits = self.synced == Synced::TooFew;
        if waits == self.waiting_logged || (waits && !has_commits) {
            return;
        }
        self.waiting_logged = waits;
        // Of those that count it is not asked how far they are.
        match self.standbys.gate(WaitMode::Flush, Lsn(1)).filter(|_| waits) {
            Some(gate) => tracing::warn!(
                detail = "Too few of the standbys in synchronous_standby_names are streaming.",
                "commits on the primary wait for {gate}"
            ),
            None => tracing::info!("commits on the primary no longer wait for standbys to stream"),
        }
    }
}
