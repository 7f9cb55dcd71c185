//! What the control plane may ask of the hub, and what the hub tells about itself.
//!
//! Not here: how the hub does it.

use std::io;
use std::net::SocketAddr;

use tokio::sync::oneshot;
use walhub_proto::history::TimelineHistory;
use walhub_proto::lsn::{Lsn, SystemIdentifier, TimelineId};
use walhub_proto::segment::SegmentSize;
use walhub_proto::slot::LogicalSlot;
use walhub_proto::syncrep::WaitLevel;
use walhub_proto::time::Timestamp;
use walhub_proto::wire::backend::Report;

use crate::api::append::{self, Append, AppendAnswer, SyncWaitRow, Waited, WalRequest};
use crate::publish::latency::LatencyRow;
use crate::store::wal_reader::WalReader;

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

/// A downstream connection that asked for WAL, and everything needed to serve it.
#[derive(Debug)]
pub struct StartStreaming<C> {
    /// The socket. CopyBothResponse has not been sent yet.
    pub conn: C,
    /// Bytes that were read from the socket after the command.
    pub unread: Vec<u8>,
    /// Slot to stream from.
    pub slot: Option<String>,
    /// Whether the WAL is decoded on the other end: the slot must be a logical one then, and a
    /// physical one otherwise.
    pub logical: bool,
    /// The first position that the standby wants.
    pub start: Lsn,
    /// Timeline asked for, or the current one.
    pub timeline: TimelineId,
    /// The standby, as it introduced itself.
    pub client: Client,
}

/// Who a downstream connection is, as the views show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Client {
    /// A number of its own, shown as the backend's process id.
    pub pid: u32,
    /// `user` of the startup packet.
    pub user: String,
    /// `application_name`.
    pub application_name: String,
    /// Where from; `None` for a unix socket.
    pub address: Option<SocketAddr>,
    /// When the connection was made.
    pub backend_start: Timestamp,
}

/// How a streaming session gave its connection back.
#[derive(Debug)]
pub enum StreamEnd<C> {
    /// The session streamed its timeline to the end, or the client ended the stream: both sides
    /// have sent CopyDone and the connection is in command mode again.
    Finished {
        /// The socket, for what comes next on it.
        conn: C,
        /// Bytes that were read from the socket after the client's CopyDone.
        unread: Vec<u8>,
        /// The next timeline and where it begins, when the end of the timeline was reached.
        next: Option<(TimelineId, Lsn)>,
    },
    /// Refused before the stream began; the socket is as it was.
    Refused {
        /// The socket, for telling the standby why.
        conn: C,
        /// Bytes that were read from the socket after the command.
        unread: Vec<u8>,
        /// What the standby is told.
        report: Report,
    },
    /// The connection is closed.
    Closed,
}

/// A change to the replication slots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SlotRequest {
    /// CREATE_REPLICATION_SLOT name [TEMPORARY] PHYSICAL [RESERVE_WAL].
    Create {
        /// Name, already checked by `ReplicationSlotValidateName`'s rules.
        name: String,
        /// Dropped with the session `owner`.
        temporary: bool,
        /// Holds WAL from now on.
        reserve_wal: bool,
        /// [`Client::pid`] of the asking session.
        owner: u32,
    },
    /// CREATE_REPLICATION_SLOT name [TEMPORARY] LOGICAL plugin.
    CreateLogical {
        /// Name, as for a physical one.
        name: String,
        /// Dropped with the session `owner`.
        temporary: bool,
        /// What is special about it. WAL is kept from its `confirmed_flush_lsn` on.
        logical: LogicalSlot,
        /// [`Client::pid`] of the asking session.
        owner: u32,
    },
    /// The client of a logical slot has everything before `flush`, and needs WAL from `restart_lsn`
    /// on to go on. The answer comes at once; the slot's file follows in a moment.
    Confirm {
        /// Name of the slot.
        name: String,
        /// What the client has.
        flush: Lsn,
        /// The first position that decoding still needs.
        restart_lsn: Lsn,
    },
    /// DROP_REPLICATION_SLOT name [WAIT].
    Drop {
        /// Name of the slot.
        name: String,
        /// Wait until the slot is free.
        wait: bool,
    },
    /// Drops the temporary slots of a session that ended.
    DropTemporary {
        /// [`Client::pid`] of the session.
        owner: u32,
    },
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
    /// Standbys taken over from another core.
    pub moved_in: u64,
}

/// The hub, as the control plane sees it. `C` is a connected socket.
pub trait Hub<C>: Send + Sync + 'static {
    /// `None` before the first contact with the upstream.
    fn identity(&self) -> Option<Identity>;

    /// `None` before the first WAL.
    fn positions(&self) -> Option<Positions>;

    /// Content of the history file of `timeline`, or of an earlier one without a file what is known of it
    /// ([`TimelineHistory::stand_in`]); `None` when there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    fn timeline_history(&self, timeline: TimelineId) -> io::Result<Option<Vec<u8>>>;

    /// The parsed history of the current timeline.
    fn history(&self) -> Option<TimelineHistory>;

    /// Changes the slots; the answer comes when the change is durable. For `Create` it is the
    /// slot's row.
    fn slot(&self, request: SlotRequest) -> oneshot::Receiver<Result<Option<SlotRow>, Report>>;

    /// Hands a connection to a ship core; it comes back when the stream has ended.
    fn start(&self, start: Box<StartStreaming<C>>) -> oneshot::Receiver<StreamEnd<C>>;

    /// Ends the stream of the session `pid`, and tells its client why; does nothing when there is none.
    fn end_stream(&self, _pid: u32, _report: Report) {}

    /// Whether the hub is stopping: no new connection is served.
    fn is_stopping(&self) -> bool;

    /// Everything that the views show.
    fn snapshot(&self) -> Snapshot;

    /// Where commits' time goes, one row a stage.
    fn commit_latency(&self) -> Vec<LatencyRow> {
        Vec::new()
    }

    /// Forgets what [`Hub::commit_latency`] has counted.
    fn reset_commit_latency(&self) {}

    /// What each ship core has counted since the start.
    fn core_stats(&self) -> Vec<CoreStatsRow> {
        Vec::new()
    }

    /// Whether there is an upstream: nothing can be appended then. PostgreSQL: `RecoveryInProgress`.
    fn in_recovery(&self) -> bool {
        true
    }

    /// Appends records to the own WAL. All requests of all sessions are taken in the order of the
    /// calls; the answer comes when what the request waits for is reached.
    fn append(&self, _append: Append) -> AppendAnswer {
        answered(Err(append::in_recovery("pg_logical_emit_message()")))
    }

    /// Waits until `lsn` is reached at `level`, for the session `owner`.
    fn wait(&self, _lsn: Lsn, _level: WaitLevel, _owner: u32) -> oneshot::Receiver<Waited> {
        answered(Waited::Canceled)
    }

    /// Ends the wait of a session for standbys: what it waits for is answered as soon as it is durable
    /// here. Does nothing when it does not wait.
    fn cancel_wait(&self, _owner: u32) {}

    /// Reads WAL from the segment files; `None` before the first WAL.
    fn wal_reader(&self) -> Option<WalReader> {
        None
    }

    /// Makes a standby the primary of its WAL; the answer comes when it is one.
    fn promote(&self) -> oneshot::Receiver<Result<(), Report>> {
        answered(Err(append::not_in_recovery()))
    }

    /// Does something else with the own WAL.
    fn wal(&self, request: WalRequest) -> oneshot::Receiver<Result<Lsn, Report>> {
        answered(Err(append::in_recovery(request.command())))
    }
}

fn answered<T>(answer: T) -> oneshot::Receiver<T> {
    let (reply, receiver) = oneshot::channel();
    drop(reply.send(answer));
    receiver
}
