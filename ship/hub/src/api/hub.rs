//! What the control plane may ask of the hub, and what the hub tells about itself.
//!
//! Not here: how the hub does it.

use std::io;

use tokio::sync::oneshot;
use walhub_proto::history::TimelineHistory;
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::syncrep::WaitLevel;
use walhub_proto::wire::backend::Report;

use crate::api::append::{Append, AppendAnswer, Waited, WalRequest};
pub use crate::api::rows::{
    CoreStatsRow, Identity, Positions, SlotRow, Snapshot, WalReceiverRow, WalSenderRow,
};
pub use crate::api::stream::{Client, SlotRequest, StartStreaming, StreamEnd};
use crate::publish::latency::LatencyRow;
use crate::store::wal_reader::WalReader;

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
    fn end_stream(&self, pid: u32, report: Report);

    /// Whether the hub is stopping: no new connection is served.
    fn is_stopping(&self) -> bool;

    /// Everything that the views show.
    fn snapshot(&self) -> Snapshot;

    /// Where commits' time goes, one row a stage.
    fn commit_latency(&self) -> Vec<LatencyRow>;

    /// Forgets what [`Hub::commit_latency`] has counted.
    fn reset_commit_latency(&self);

    /// What each ship core has counted since the start.
    fn core_stats(&self) -> Vec<CoreStatsRow>;

    /// Whether there is an upstream: nothing can be appended then. PostgreSQL: `RecoveryInProgress`.
    fn in_recovery(&self) -> bool;

    /// Appends records to the own WAL. All requests of all sessions are taken in the order of the
    /// calls; the answer comes when what the request waits for is reached.
    fn append(&self, append: Append) -> AppendAnswer;

    /// Waits until `lsn` is reached at `level`, for the session `owner`.
    fn wait(&self, lsn: Lsn, level: WaitLevel, owner: u32) -> oneshot::Receiver<Waited>;

    /// Ends the wait of a session for standbys: what it waits for is answered as soon as it is durable
    /// here. Does nothing when it does not wait.
    fn cancel_wait(&self, owner: u32);

    /// Reads WAL from the segment files; `None` before the first WAL.
    fn wal_reader(&self) -> Option<WalReader>;

    /// Makes a standby the primary of its WAL; the answer comes when it is one.
    fn promote(&self) -> oneshot::Receiver<Result<(), Report>>;

    /// Does something else with the own WAL.
    fn wal(&self, request: WalRequest) -> oneshot::Receiver<Result<Lsn, Report>>;
}
