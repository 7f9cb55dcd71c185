//! Logical decoding of messages: WAL in, whole transactions and messages out, in commit order.
//!
//! Bytes of WAL go into [`Decoder::handle_wal`]; what they mean comes out of
//! [`Decoder::poll_change`]. A transaction comes out at its commit record, a message outside of one
//! at its own. Messages of open transactions are kept in memory up to a bound; beyond it the largest
//! transaction is let go, and once it commits a [`Reread`] finds its messages in the WAL again.
//! [`Decoder::restart_lsn`] says from where the WAL must be kept for that and for a new start.
//!
//! Not here: rows. A transaction without messages is as if it never was. Not here either: what goes
//! over the wire (`pgoutput`).
//!
//! PostgreSQL: src/backend/replication/logical/decode.c, `reorderbuffer.c`, `SnapBuildXactNeedsSkip`
//! (snapbuild.c).

mod open;
mod reread;

pub use reread::Reread;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use crate::lsn::{Lsn, SystemIdentifier};
use crate::page::WalVersion;
use crate::record::{Crc32c, RecordHeader, RecordReader, RecordSink, WalViolation};
use crate::rmgr::message::LogicalMessage;
use crate::rmgr::standby::RunningXacts;
use crate::rmgr::xact::XactEnd;
use crate::rmgr::{RM_LOGICALMSG, RM_STANDBY, RM_XACT};
use crate::segment::SegmentSize;
use crate::time::Timestamp;
use open::{Ended, OpenXacts, Unconfirmed};

/// Room for a record's body that is kept for the next.
const BODY_ROOM_KEPT: usize = 64 << 10;

/// What is to be decoded.
#[derive(Clone, Copy, Debug)]
pub struct DecoderConfig {
    /// The cluster whose WAL it is.
    pub system_identifier: SystemIdentifier,
    /// Size of its segments.
    pub segment_size: SegmentSize,
    /// Version of its pages.
    pub version: WalVersion,
    /// Computes the checksums of records.
    pub crc: Crc32c,
    /// Messages of other databases are passed over.
    pub database: u32,
    /// Where reading begins: see [`reading_start`].
    pub start_reading: Lsn,
    /// What committed before comes out no more. PostgreSQL: `start_decoding_at`.
    pub start_decoding_at: Lsn,
    /// Bytes of messages of open transactions that are kept. What goes beyond is read again.
    pub kept_bytes_max: usize,
}

/// Where reading must begin so that everything from `restart_lsn` on is seen: at a place where WAL
/// can be read from for sure, which is the start of the segment, or `oldest_lsn`, where the WAL
/// that is there begins.
#[must_use]
pub fn reading_start(restart_lsn: Lsn, segment_size: SegmentSize, oldest_lsn: Lsn) -> Lsn {
    restart_lsn.align_down(segment_size.bytes()).max(oldest_lsn)
}

/// A message that was decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// End of its record, which is the position that PostgreSQL gives it.
    pub lsn: Lsn,
    /// Whether it belongs to the transaction that comes out around it.
    pub transactional: bool,
    /// Its prefix, as it was given to `pg_logical_emit_message`.
    pub prefix: Vec<u8>,
    /// Its content, as it was given to `pg_logical_emit_message`.
    pub content: Vec<u8>,
}

impl Message {
    /// Bytes of memory that it takes.
    pub(crate) const fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.prefix.len() + self.content.len()
    }
}

/// What a logical stream is told, in the order of commits.
#[derive(Clone, Debug)]
pub enum Change {
    /// A transaction begins, of which messages follow.
    Begin(Begin),
    /// A message, of the transaction that began last or of none.
    Message(Message),
    /// All messages of the transaction that has begun: they were too many to keep. Take them from
    /// the [`Reread`] before the next change.
    Reread(Box<Reread>),
    /// The transaction is at its end.
    Commit(Commit),
}

/// The beginning of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Begin {
    /// Id of the transaction.
    pub xid: u32,
    /// Start of its commit record.
    pub commit_lsn: Lsn,
    /// When it committed, by the clock of the server that wrote it.
    pub commit_time: Timestamp,
    /// The position that this has in the stream: that of its first message.
    pub lsn: Lsn,
}

/// The end of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Commit {
    /// Start of its commit record.
    pub commit_lsn: Lsn,
    /// End of its commit record: what a client confirms that has all of the transaction.
    pub end_lsn: Lsn,
    /// When it committed, by the clock of the server that wrote it.
    pub commit_time: Timestamp,
}

impl Change {
    /// The position that this has in the stream.
    #[must_use]
    pub const fn lsn(&self) -> Lsn {
        match self {
            Self::Begin(begin) => begin.lsn,
            Self::Message(message) => message.lsn,
            Self::Reread(reread) => reread.start(),
            Self::Commit(commit) => commit.end_lsn,
        }
    }
}

/// Why decoding cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// The WAL is not valid.
    Wal(WalViolation),
    /// A record is valid and its body is not laid out as such a record's is.
    Record {
        /// Where the record starts.
        at: Lsn,
        /// The record's resource manager.
        rmid: u8,
        /// The record's `xl_info`.
        info: u8,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wal(violation) => fmt::Display::fmt(violation, f),
            Self::Record { at, rmid, info } => {
                write!(f, "could not decode WAL record at {at}: rmid {rmid}, info {info:02X}")
            }
        }
    }
}

impl core::error::Error for DecodeError {}

/// Follows WAL and decodes the messages in it.
///
/// Memory: [`DecoderConfig::kept_bytes_max`], the record that is under way, and what was decoded
/// from the bytes that were handed in last and not yet polled.
#[derive(Clone, Debug)]
pub struct Decoder {
    reader: RecordReader,
    decoding: Decoding,
}

impl Decoder {
    /// Begins to read at `config.start_reading`.
    ///
    /// # Panics
    /// If that is not aligned or lies inside a page header.
    #[must_use]
    pub fn new(config: DecoderConfig) -> Self {
        let reader = RecordReader::new(config.start_reading, config.segment_size, config.crc)
            .with_system_identifier(config.system_identifier)
            .with_version(config.version);
        let decoding = Decoding {
            config,
            body: Vec::new(),
            open: OpenXacts::new(config.kept_bytes_max),
            unconfirmed: Unconfirmed::default(),
            changes: VecDeque::new(),
            failed: None,
        };
        Self { reader, decoding }
    }

    /// Position of the byte that must be handed in next.
    #[must_use]
    pub const fn next_lsn(&self) -> Lsn {
        self.reader.next_lsn()
    }

    /// Everything that ends before is decoded: what a client may confirm that has polled all
    /// changes.
    #[must_use]
    pub const fn decoded_lsn(&self) -> Lsn {
        self.reader.verified_lsn()
    }

    /// Decodes `bytes`, which begin at [`Decoder::next_lsn`].
    ///
    /// # Errors
    /// When the WAL is wrong. What was decoded before can still be polled; every further call gives
    /// the same error.
    pub fn handle_wal(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        if let Some(error) = self.decoding.failed {
            return Err(error);
        }
        let read = self.reader.feed_to(bytes, &mut self.decoding);
        if let (Err(violation), None) = (read, self.decoding.failed) {
            self.decoding.failed = Some(DecodeError::Wal(violation));
        }
        self.decoding.failed.map_or(Ok(()), Err)
    }

    /// What comes out next; `None` when more WAL is needed.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.decoding.changes.pop_front()
    }

    /// The client has made everything before `lsn` durable.
    pub fn handle_confirmed(&mut self, lsn: Lsn) {
        self.decoding.unconfirmed.confirm(lsn);
    }

    /// From where the WAL is needed by a client that has confirmed `confirmed`: from the first
    /// record of the oldest transaction that is open, or was at that position, or else from there.
    /// Never from after what is decoded: what begins there is unknown.
    ///
    /// PostgreSQL: `LogicalIncreaseRestartDecodingForSlot`.
    #[must_use]
    pub fn restart_lsn(&self, confirmed: Lsn) -> Lsn {
        let open = self.decoding.open.oldest_start();
        let unconfirmed = self.decoding.unconfirmed.oldest_start(confirmed);
        let known = confirmed.min(self.decoded_lsn());
        [open, unconfirmed].into_iter().flatten().fold(known, Lsn::min)
    }

    /// Bytes that are in memory now: of the record under way, which is copied once it is whole, of open
    /// transactions, and of what was decoded and not yet polled.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let decoded = self.decoding.changes.iter().map(|change| match change {
            Change::Message(message) => message.held_bytes(),
            Change::Begin(_) | Change::Commit(_) | Change::Reread(_) => 0,
        });
        2 * self.decoding.body.len() + self.kept_bytes() + decoded.sum::<usize>()
    }

    /// Bytes of messages of open transactions that are kept now.
    #[must_use]
    pub const fn kept_bytes(&self) -> usize {
        self.decoding.open.kept_bytes()
    }
}

/// What the records do to.
#[derive(Clone, Debug)]
struct Decoding {
    config: DecoderConfig,
    /// Of the record under way, when it is of use.
    body: Vec<u8>,
    open: OpenXacts,
    unconfirmed: Unconfirmed,
    changes: VecDeque<Change>,
    failed: Option<DecodeError>,
}

impl RecordSink for Decoding {
    fn begin(&mut self, _record: &RecordHeader) {
        self.body.clear();
        // Not the room that one long record took.
        self.body.shrink_to(BODY_ROOM_KEPT);
    }

    fn body(&mut self, record: &RecordHeader, piece: &[u8]) {
        if matches!(record.rmid, RM_LOGICALMSG | RM_XACT | RM_STANDBY) {
            self.body.extend_from_slice(piece);
        }
    }

    fn record(&mut self, record: &RecordHeader) {
        if self.failed.is_some() {
            return;
        }
        let mut body = core::mem::take(&mut self.body);
        let decoded = match record.rmid {
            RM_LOGICALMSG => self.handle_message(record, &body),
            RM_XACT => self.handle_xact(record, &body),
            RM_STANDBY => {
                if let Some(running) = RunningXacts::decode(record.info, &body) {
                    // What is older and has not ended never will. PostgreSQL: ReorderBufferAbortOld.
                    self.open.abort_older_than(running.oldest_running_xid);
                }
                Some(())
            }
            _ => Some(()),
        };
        body.clear();
        self.body = body;
        if decoded.is_none() {
            let (at, rmid, info) = (record.start, record.rmid, record.info);
            self.failed = Some(DecodeError::Record { at, rmid, info });
        }
    }
}

impl Decoding {
    /// PostgreSQL: `logicalmsg_decode`.
    fn handle_message(&mut self, record: &RecordHeader, body: &[u8]) -> Option<()> {
        let message = LogicalMessage::decode(body)?;
        if message.database != self.config.database {
            return Some(());
        }
        let decoded = |message: LogicalMessage<'_>| Message {
            lsn: record.end,
            transactional: message.transactional,
            prefix: message.prefix.to_vec(),
            content: message.content.to_vec(),
        };
        if message.transactional {
            self.open.push(record.xid, record.start, decoded(message));
        } else if record.start >= self.config.start_decoding_at {
            self.changes.push_back(Change::Message(decoded(message)));
        }
        Some(())
    }

    /// PostgreSQL: `xact_decode`.
    fn handle_xact(&mut self, record: &RecordHeader, body: &[u8]) -> Option<()> {
        use crate::rmgr::xact;
        let kind = record.info & xact::XLOG_XACT_OPMASK;
        let ends = [
            xact::XLOG_XACT_COMMIT,
            xact::XLOG_XACT_COMMIT_PREPARED,
            xact::XLOG_XACT_ABORT,
            xact::XLOG_XACT_ABORT_PREPARED,
        ];
        if !ends.contains(&kind) {
            return Some(());
        }
        let end = XactEnd::decode(record.info, body, self.config.version)?;
        let xid = end.prepared_xid.unwrap_or(record.xid);
        let Some(ended) = self.open.end(xid, &end.subxacts) else { return Some(()) };
        // PostgreSQL: DecodeTXNNeedSkip.
        if end.committed && record.start >= self.config.start_decoding_at {
            self.unconfirmed.push(record.start, ended.start());
            self.commit(xid, record, end.time, ended);
        }
        Some(())
    }

    fn commit(&mut self, xid: u32, record: &RecordHeader, commit_time: Timestamp, ended: Ended) {
        let (commit_lsn, end_lsn) = (record.start, record.end);
        let lsn = ended.first_lsn();
        self.changes.push_back(Change::Begin(Begin { xid, commit_lsn, commit_time, lsn }));
        match ended {
            Ended::Kept { messages, .. } => {
                self.changes.extend(messages.into_iter().map(Change::Message));
            }
            Ended::LetGo { start, xids, .. } => {
                let reread = Reread::new(&self.config, start, commit_lsn, xids);
                self.changes.push_back(Change::Reread(Box::new(reread)));
            }
        }
        self.changes.push_back(Change::Commit(Commit { commit_lsn, end_lsn, commit_time }));
    }
}

#[cfg(test)]
mod tests;
