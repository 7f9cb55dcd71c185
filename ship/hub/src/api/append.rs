//! What sessions ask of a hub that writes WAL of its own, and what they are told.
//!
//! Not here: how it is done (`intake::own`), who waits (`commits`).
//!
//! PostgreSQL: `XLogInsert`, `SyncRepWaitForLSN`.

use bytes::Bytes;
use tokio::sync::oneshot;
use walhub_engine::crc::crc32c;
use walhub_proto::lsn::Lsn;
use walhub_proto::rmgr::message::{XLOG_LOGICAL_MESSAGE, logical_message, logical_message_head};
use walhub_proto::rmgr::{RM_LOGICALMSG, TooLong};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::syncrep::{SynchronousCommit, WaitLevel};
use walhub_proto::time::Timestamp;
use walhub_proto::wire::backend::Report;

/// The `dbId` of messages: that of `postgres` in a new PostgreSQL cluster.
pub const DATABASE: u32 = 5;

/// A record but for its header, which only the wal core can make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewRecord {
    /// The resource manager of the record.
    pub rmid: u8,
    /// `xl_info`.
    pub info: u8,
    /// Whether it belongs to the transaction, and carries its xid.
    pub transactional: bool,
    /// Everything after the record header, but for `rest`.
    pub body: Bytes,
    /// What follows: content that is too large to be copied to the end of `body`.
    pub rest: Bytes,
    /// CRC-32C of `body` and `rest`.
    pub crc: u32,
}

impl NewRecord {
    /// A message. PostgreSQL: `LogLogicalMessage`.
    ///
    /// # Errors
    /// When it would be longer than a record may be.
    ///
    /// # Panics
    /// If the prefix has a NUL.
    pub fn message(transactional: bool, prefix: &str, content: &[u8]) -> Result<Self, TooLong> {
        let body = logical_message(DATABASE, transactional, prefix, content)?;
        Ok(Self::of_message(transactional, body, Bytes::new()))
    }

    /// As [`NewRecord::message`], with content that is copied once: into the WAL.
    ///
    /// # Errors
    /// When it would be longer than a record may be.
    ///
    /// # Panics
    /// If the prefix has a NUL.
    pub fn large_message(
        transactional: bool,
        prefix: &str,
        content: Bytes,
    ) -> Result<Self, TooLong> {
        let head = logical_message_head(DATABASE, transactional, prefix, content.len())?;
        Ok(Self::of_message(transactional, head, content))
    }

    fn of_message(transactional: bool, body: Vec<u8>, rest: Bytes) -> Self {
        let crc = crc32c(crc32c(0, &body), &rest);
        let (rmid, info) = (RM_LOGICALMSG, XLOG_LOGICAL_MESSAGE);
        Self { rmid, info, transactional, body: Bytes::from(body), rest, crc }
    }

    /// Bytes after the record header.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.body.len() + self.rest.len()
    }
}

/// Records to append, one after the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Append {
    /// The records. At least one, unless there is a commit.
    pub records: Vec<NewRecord>,
    /// Whether they are a whole transaction: it gets an xid, and a commit record of this time follows.
    pub commit: Option<Timestamp>,
    /// What to wait for before the answer; `None`: only for the positions.
    pub wait: Option<WaitLevel>,
    /// [`Client::pid`](crate::api::hub::Client::pid) of the session. It has one such request at a time.
    pub owner: u32,
}

/// Where appended records lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Appended {
    /// One past each record of the request.
    pub ends: Vec<Lsn>,
    /// The id of the transaction that the records are part of.
    pub xid: Option<u32>,
    /// One past the last record, the commit record included.
    pub end: Lsn,
    /// Whether what was waited for is reached.
    pub waited: Waited,
    /// What the session is to be told beside that.
    pub warning: Option<Box<Report>>,
}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waited {
    /// Everything that was asked for is so.
    Reached,
    /// [`Hub::cancel_wait`](crate::api::hub::Hub::cancel_wait) or a shutdown ended the wait for
    /// standbys: it is durable here, and perhaps nowhere else.
    Canceled,
}

/// Answer to an [`Append`].
pub type AppendAnswer = oneshot::Receiver<Result<Appended, Report>>;

/// Something else for the wal core to do with its own WAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalRequest {
    /// Ends the segment. The answer is one past the switch record, or the end of the WAL when the
    /// segment is empty. PostgreSQL: `pg_switch_wal`.
    SwitchSegment,
    /// Writes a checkpoint record, waits until it is durable and moves the position from which a
    /// start-up reads. PostgreSQL: `RequestCheckpoint`.
    Checkpoint,
}

impl WalRequest {
    /// As an error names it.
    #[must_use]
    pub const fn command(self) -> &'static str {
        match self {
            Self::SwitchSegment => "pg_switch_wal()",
            Self::Checkpoint => "CHECKPOINT",
        }
    }
}

/// A session that waits for its commit, as `walhub.sync_wait` shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncWaitRow {
    /// [`Client::pid`](crate::api::hub::Client::pid) of the session.
    pub pid: u32,
    /// What it waits for.
    pub level: SynchronousCommit,
    /// Up to where it waits.
    pub lsn: Lsn,
    /// When the append began to wait.
    pub since: Timestamp,
    /// The standby that gates it; `None` when it waits for the own disk.
    pub standby: Option<String>,
}

/// The error of what can be done to a standby only. PostgreSQL: src/backend/access/transam/xlogfuncs.c.
#[must_use]
pub fn not_in_recovery() -> Report {
    let state = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
    let report = Report::error(state, "recovery is not in progress");
    report.hint("Recovery control functions can only be executed during recovery.")
}

/// The error of everything that writes while there is an upstream. PostgreSQL:
/// `PreventCommandDuringRecovery`.
#[must_use]
pub fn in_recovery(command: &str) -> Report {
    let text = format!("cannot execute {command} during recovery");
    Report::error(SqlState::READ_ONLY_SQL_TRANSACTION, text)
}
