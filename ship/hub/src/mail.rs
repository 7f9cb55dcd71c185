//! What the threads of a hub tell each other.

use std::sync::Arc;

use tokio::sync::oneshot;
use walhub_proto::lsn::Lsn;
use walhub_proto::wire::backend::Report;

use crate::api::rows::SlotRow;
use crate::api::settings::HubSettings;
use crate::api::stream::{SlotRequest, StartStreaming, StreamEnd};
use crate::api::tls::TlsRecords;
use crate::serve::walsender::Moved;
use crate::store::tail::TailSlab;
use crate::store::timelines::Timelines;

/// Mail that one core holds at most. Slabs are one a megabyte, sessions come and go: a core that is
/// this far behind has stopped.
pub const MAILBOX_MESSAGES_MAX: usize = 4096;

/// How the hub stops. PostgreSQL: the shutdown modes of `pg_ctl stop`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum StopMode {
    /// Wait until the SQL sessions have ended, then as fast.
    Smart,
    /// Ship everything to the connected standbys, then stop.
    Fast,
    /// At once.
    Immediate,
}

/// An authenticated connection to the upstream, in ReadyForQuery state.
#[derive(Debug)]
pub struct Upstream<C> {
    /// The socket.
    pub conn: C,
    /// What encrypts on it.
    pub tls: Option<Box<dyn TlsRecords>>,
    /// Bytes that were read after ReadyForQuery.
    pub unread: Vec<u8>,
    /// `server_version`.
    pub server_version: String,
    /// `server_version_num`.
    pub server_version_num: u32,
}

/// What became of an attempt to connect to the upstream.
#[derive(Debug)]
pub enum ConnectAnswer<C> {
    /// The control plane reached the upstream.
    Connected(Upstream<C>),
    /// The control plane could not reach the upstream, or has given up trying to.
    Failed(String),
    /// The control plane reached it, and it or we refused.
    Refused(String),
}

/// Answer to a [`SlotRequest`].
pub type SlotReply = oneshot::Sender<Result<Option<SlotRow>, Report>>;

/// Answer to a promotion: once the server is a primary.
pub type PromoteReply = oneshot::Sender<Result<(), Report>>;

/// Mail for the wal core.
#[derive(Debug)]
pub enum ToWal<C> {
    /// What became of an attempt to connect.
    Connect(ConnectAnswer<C>),
    /// A change to the slots.
    Slot(SlotRequest, SlotReply),
    /// A connection that wants WAL.
    Start(NewWalsender<C>),
    /// A session ended.
    Ended {
        /// Its entry in the standby table.
        standby: usize,
        /// What to tell the control plane once the entry and the slot are free.
        reply: oneshot::Sender<StreamEnd<C>>,
        /// How it ended.
        end: StreamEnd<C>,
    },
    /// Another session has asked for the end of this one's stream.
    EndStream {
        /// Its pid.
        pid: u32,
        /// Why.
        report: Report,
    },
    /// New settings.
    Settings(Arc<HubSettings>),
    /// Become the primary of the WAL.
    Promote(PromoteReply),
    /// Stop.
    Stop(StopMode),
    /// A ship core has sent everything and has no session left.
    Drained,
}

/// A connection that wants WAL, on its way to a ship core.
#[derive(Debug)]
pub struct NewWalsender<C> {
    /// What was asked for.
    pub start: Box<StartStreaming<C>>,
    /// Its entry in the standby table.
    pub standby: usize,
    /// Where the end is told.
    pub reply: oneshot::Sender<StreamEnd<C>>,
}

/// Mail for a ship core.
#[derive(Debug)]
pub enum ToShip<C> {
    /// The tail has a new slab; sent before any position in it is published.
    Slab(TailSlab),
    /// The first WAL: from now on sessions can be served.
    Begin(Arc<Timelines>),
    /// The hub went over to a new timeline.
    Timelines(Arc<Timelines>),
    /// A session to serve.
    Start(NewWalsender<C>),
    /// A session to go on with, from another ship core.
    Move(Box<Moved<C>>),
    /// End the session of this entry, wherever it is.
    End {
        /// Its entry in the standby table.
        standby: usize,
        /// What to tell it. Of a slot that was invalidated, nothing.
        report: Option<Report>,
    },
    /// New settings.
    Settings(Arc<HubSettings>),
    /// Send everything up to `end`, wait for it to be acknowledged, end all sessions.
    Stop {
        /// Where the WAL ends.
        end: Lsn,
    },
}

/// What the wal core asks of the control plane.
#[derive(Debug)]
pub enum ToControl {
    /// Connect to the upstream and mail the result.
    Connect {
        /// `primary_conninfo`.
        conninfo: String,
    },
    /// End the attempt to connect that is under way, and mail that it failed.
    GiveUpConnecting,
    /// The walreceiver's or hub's state changed: the process title is out of date.
    Status,
    /// A position that sessions wait for has moved, or an answer to them is there.
    Commits,
    /// This is a primary now.
    Promoted,
    /// Everything is durable and sent: the process can end.
    Stopped,
    /// A core cannot go on: the process must end.
    Failed(String),
}
