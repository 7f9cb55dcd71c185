//! What a downstream connection asks for: WAL, and changes to the replication slots.

use std::net::SocketAddr;

use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::slot::LogicalSlot;
use walhub_proto::time::Timestamp;
use walhub_proto::wire::backend::Report;

use crate::api::tls::TlsRecords;

/// A downstream connection that asked for WAL, and everything needed to serve it.
#[derive(Debug)]
pub struct StartStreaming<C> {
    /// The socket. CopyBothResponse has not been sent yet.
    pub conn: C,
    /// What encrypts on the socket. It comes back with it.
    pub tls: Option<Box<dyn TlsRecords>>,
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
        /// What encrypts on it.
        tls: Option<Box<dyn TlsRecords>>,
        /// Bytes that were read from the socket after the client's CopyDone.
        unread: Vec<u8>,
        /// The next timeline and where it begins, when the end of the timeline was reached.
        next: Option<(TimelineId, Lsn)>,
    },
    /// Refused before the stream began; the socket is as it was.
    Refused {
        /// The socket, for telling the standby why.
        conn: C,
        /// What encrypts on it.
        tls: Option<Box<dyn TlsRecords>>,
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
