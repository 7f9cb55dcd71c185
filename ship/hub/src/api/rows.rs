//! What the hub tells about itself: rows of the views, and where its WAL stands.

use walhub_proto::lsn::{Lsn, SystemIdentifier, TimelineId};
use walhub_proto::segment::SegmentSize;
use walhub_proto::slot::LogicalSlot;
use walhub_proto::time::Timestamp;

use crate::api::append::SyncWaitRow;
use crate::api::stream::Client;

/// What never changes once the hub has met its upstream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster whose WAL this is.
    pub system_identifier: SystemIdentifier,
    /// Size of its segments.
    pub segment_size: SegmentSize,
    /// `server_version` of the upstream, as `15.18 (Debian 15.18-0+deb12u1)`.
    pub server_version: String,
    /// `server_version_num` of the upstream, as 150018.
    pub server_version_num: u32,
}

/// Where the hub's WAL stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Positions {
    /// Timeline of everything below.
    pub timeline: TimelineId,
    /// Where this hub's local WAL begins: nothing before it can be served.
    pub oldest_lsn: Lsn,
    /// End of what was received and verified.
    pub received_lsn: Lsn,
    /// End of what may be sent to standbys now.
    pub sendable_lsn: Lsn,
    /// End of what was written.
    pub write_lsn: Lsn,
    /// End of what is durable.
    pub flush_lsn: Lsn,
}

/// A row of `pg_replication_slots`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotRow {
    /// Name of the slot.
    pub slot_name: String,
    /// Whether it goes away with its session.
    pub temporary: bool,
    /// [`Client::pid`] of the session that streams from it.
    pub active_pid: Option<u32>,
    /// Oldest transaction that the standby needs.
    pub xmin: Option<u32>,
    /// Oldest transaction whose catalogue rows the standby needs.
    pub catalog_xmin: Option<u32>,
    /// Oldest WAL that the slot holds.
    pub restart_lsn: Option<Lsn>,
    /// The timeline that `restart_lsn` is on.
    pub restart_tli: Option<TimelineId>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<&'static str>,
    /// Bytes that may still be written before the slot may be lost.
    pub safe_wal_size: Option<i64>,
    /// What a logical slot shows beside; `None` for a physical one.
    pub logical: Option<LogicalSlot>,
}

/// A row of `pg_stat_replication`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalSenderRow {
    /// The standby, as it introduced itself.
    pub client: Client,
    /// `startup`, `catchup`, `streaming`, `backup` or `stopping`.
    pub state: &'static str,
    /// Oldest transaction that the standby needs, when it streams without a slot.
    pub backend_xmin: Option<u32>,
    /// Up to where WAL was sent to it.
    pub sent_lsn: Option<Lsn>,
    /// Up to where it has written, by its own word.
    pub write_lsn: Option<Lsn>,
    /// Made durable by it.
    pub flush_lsn: Option<Lsn>,
    /// Up to where it has replayed, by its own word.
    pub replay_lsn: Option<Lsn>,
    /// Microseconds between a local flush here and its write there.
    pub write_lag_us: Option<i64>,
    /// The same for its flush.
    pub flush_lag_us: Option<i64>,
    /// The same for its replay.
    pub replay_lag_us: Option<i64>,
    /// Its place in `synchronous_standby_names`; 0 when that does not name it.
    pub sync_priority: u32,
    /// `async`, `potential`, `sync` or `quorum`.
    pub sync_state: &'static str,
    /// Send time of its last reply.
    pub reply_time: Option<Timestamp>,
}

/// A row of `pg_stat_wal_receiver`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalReceiverRow {
    /// The process id that is shown; the walreceiver has no process of its own.
    pub pid: u32,
    /// `stopped`, `starting`, `streaming`, `waiting`, `restarting` or `stopping`.
    pub status: &'static str,
    /// First position of this streaming session.
    pub receive_start_lsn: Option<Lsn>,
    /// Timeline it began on.
    pub receive_start_tli: Option<TimelineId>,
    /// Up to where WAL from the upstream is written.
    pub written_lsn: Option<Lsn>,
    /// Up to where WAL from the upstream is durable.
    pub flushed_lsn: Option<Lsn>,
    /// The timeline that WAL is received of now.
    pub received_tli: Option<TimelineId>,
    /// Send time of the last message.
    pub last_msg_send_time: Option<Timestamp>,
    /// Receipt time of the last message.
    pub last_msg_receipt_time: Option<Timestamp>,
    /// Last end of WAL that the upstream told.
    pub latest_end_lsn: Option<Lsn>,
    /// When it told that.
    pub latest_end_time: Option<Timestamp>,
    /// Slot in use on the upstream.
    pub slot_name: Option<String>,
    /// The host of the upstream.
    pub sender_host: Option<String>,
    /// The port of the upstream.
    pub sender_port: Option<u16>,
    /// Connection string, passwords hidden.
    pub conninfo: String,
}

/// Everything that the views show, at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// `None` before the first contact with the upstream.
    pub identity: Option<Identity>,
    /// `None` before the first WAL.
    pub positions: Option<Positions>,
    /// Whether there is an upstream: walhub is then a standby.
    pub in_recovery: bool,
    /// One row a walsender.
    pub wal_senders: Vec<WalSenderRow>,
    /// The walreceiver, when there is one.
    pub wal_receiver: Option<WalReceiverRow>,
    /// One row a slot.
    pub slots: Vec<SlotRow>,
    /// One row a session that waits for its commit.
    pub sync_waits: Vec<SyncWaitRow>,
}

/// A row of `walhub.core_stats`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CoreStatsRow {
    /// Number of the ship core.
    pub core: u64,
    /// Standbys that it serves now.
    pub sessions: u64,
    /// Rounds over all its sessions.
    pub rounds: u64,
    /// How often a round was put off, to go with the next one.
    pub rounds_put_off: u64,
    /// How many sends have completed.
    pub sends: u64,
    /// Bytes sent from memory.
    pub tail_bytes: u64,
    /// Bytes sent from memory without a copy.
    pub zerocopy_bytes: u64,
    /// Bytes sent from the page cache, without a copy.
    pub sendfile_bytes: u64,
    /// Bytes sent that were read from segments.
    pub read_bytes: u64,
    /// Bytes of these that were encrypted, in the records that carried them.
    pub tls_bytes: u64,
    /// Standbys taken over from another core.
    pub moved_in: u64,
}
