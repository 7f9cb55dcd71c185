//! What the hub can be told: the part of the server's settings that is its own.
//!
//! Not here: names, defaults, ranges and where a value comes from.

use std::time::Duration;

use walhub_engine::io::{CongestionControl, TcpTuning};
use walhub_proto::syncrep::SyncRepConfig;

/// How WAL that is no longer in memory is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CatchupPath {
    /// What measured best: from the page cache without a copy, through a buffer what is not there.
    Auto,
    /// Always through a buffer.
    Read,
}

/// Whether WAL that is in memory is sent to standbys without a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ZerocopySend {
    /// To standbys elsewhere, as long as the kernel then really does not copy.
    Auto,
    /// Whatever the kernel makes of it.
    On,
    /// `off`: every send copies.
    Off,
}

/// When WAL may be sent on to standbys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forward {
    /// Once it is received and verified.
    Received,
    /// Once it is durable here.
    Flushed,
}

/// The hub's settings, each under the name of the server's setting. Sizes are bytes.
#[derive(Clone, PartialEq, Debug)]
pub struct HubSettings {
    /// Memory for the newest WAL.
    pub tail_cache_size: u64,
    /// Recycled segments to keep.
    pub min_wal_size: u64,
    /// How long a segment may be kept open for more; zero is for ever.
    pub archive_timeout: Duration,
    /// Most walsenders at once.
    pub max_wal_senders: u32,
    /// How many slots there may be at most.
    pub max_replication_slots: u32,
    /// WAL kept for standbys without a slot.
    pub wal_keep_size: u64,
    /// Most WAL that a slot may hold; `None` is no limit.
    pub max_slot_wal_keep_size: Option<u64>,
    /// Silence after which a standby is dropped; `None` is never.
    pub wal_sender_timeout: Option<Duration>,
    /// Which standbys a commit, or the upstream's, waits for; `None` is none.
    pub synchronous_standby_names: Option<SyncRepConfig>,
    /// Most WAL in one message.
    pub wal_sender_message_size: u64,
    /// Congestion control of standbys' sockets.
    pub tcp_congestion_control: CongestionControl,
    /// Send buffer of standbys' sockets; `None` lets the kernel size it.
    pub wal_sender_sndbuf: Option<u64>,
    /// How much may wait unsent in a standby's socket; `None` is the system's default.
    pub tcp_notsent_lowat: Option<u64>,
    /// Longest time that WAL is put off under load.
    pub coalesce_us: Duration,
    /// How old WAL is sent.
    pub catchup_path: CatchupPath,
    /// Whether new WAL is sent without a copy.
    pub zerocopy_send: ZerocopySend,
    /// When WAL may be sent on.
    pub forward: Forward,
    /// Connection string of the upstream; empty is none.
    pub primary_conninfo: String,
    /// Slot to use on the upstream.
    pub primary_slot_name: Option<String>,
    /// Create that slot when it is missing.
    pub primary_slot_create: bool,
    /// Send the standbys' feedback upstream.
    pub hot_standby_feedback: bool,
    /// Silence after which the upstream is dropped; `None` is never.
    pub wal_receiver_timeout: Option<Duration>,
    /// Longest time between replies to the upstream; `None` is only when asked or when there is news.
    pub wal_receiver_status_interval: Option<Duration>,
    /// Time between attempts to connect.
    pub wal_retrieve_retry_interval: Duration,
}

impl HubSettings {
    /// How standbys' sockets are tuned.
    #[must_use]
    pub fn tcp_tuning(&self) -> TcpTuning {
        TcpTuning {
            send_buffer: self.wal_sender_sndbuf,
            notsent_lowat: self.tcp_notsent_lowat,
            congestion_control: self.tcp_congestion_control.clone(),
        }
    }
}

/// Settings for tests of a part, which say what they depend on.
#[cfg(test)]
pub(crate) fn for_tests() -> HubSettings {
    HubSettings {
        tail_cache_size: 64 << 20,
        min_wal_size: 80 << 20,
        archive_timeout: Duration::ZERO,
        max_wal_senders: 10,
        max_replication_slots: 10,
        wal_keep_size: 0,
        max_slot_wal_keep_size: None,
        wal_sender_timeout: Some(Duration::from_secs(60)),
        synchronous_standby_names: None,
        wal_sender_message_size: 128 << 10,
        tcp_congestion_control: CongestionControl::System,
        wal_sender_sndbuf: None,
        tcp_notsent_lowat: None,
        coalesce_us: Duration::ZERO,
        catchup_path: CatchupPath::Auto,
        zerocopy_send: ZerocopySend::Auto,
        forward: Forward::Received,
        primary_conninfo: String::new(),
        primary_slot_name: None,
        primary_slot_create: false,
        hot_standby_feedback: false,
        wal_receiver_timeout: Some(Duration::from_secs(60)),
        wal_receiver_status_interval: Some(Duration::from_secs(10)),
        wal_retrieve_retry_interval: Duration::from_secs(5),
    }
}
