//! Reads the messages of one transaction that has committed.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::{BODY_ROOM_KEPT, DecodeError, DecoderConfig, Message, reading_start};
use crate::convert::to_usize;
use crate::lsn::Lsn;
use crate::record::{RecordHeader, RecordReader, RecordSink};
use crate::rmgr::RM_LOGICALMSG;
use crate::rmgr::message::LogicalMessage;

/// Finds a transaction's messages in the WAL again.
///
/// Hand it the WAL from [`Reread::next_lsn`] on until that is `None`, and poll the messages.
#[derive(Clone, Debug)]
pub struct Reread {
    reader: RecordReader,
    end: Lsn,
    found: Found,
}

#[derive(Clone, Debug)]
struct Found {
    start: Lsn,
    database: u32,
    xids: BTreeSet<u32>,
    body: Vec<u8>,
    messages: VecDeque<Message>,
    failed: Option<DecodeError>,
}

impl Reread {
    /// Of the messages from `start`, where a record starts, to `end`, where the commit record does.
    pub(super) fn new(config: &DecoderConfig, start: Lsn, end: Lsn, xids: BTreeSet<u32>) -> Self {
        // Not from `start` itself: a record may start where a page header ends, and where reading
        // began once it may begin again.
        let from = reading_start(start, config.segment_size, config.start_reading);
        let reader = RecordReader::new(from, config.segment_size, config.crc)
            .with_system_identifier(config.system_identifier)
            .with_version(config.version);
        let found = Found {
            start,
            database: config.database,
            xids,
            body: Vec::new(),
            messages: VecDeque::new(),
            failed: None,
        };
        Self { reader, end, found }
    }

    /// Start of the first message's record.
    #[must_use]
    pub const fn start(&self) -> Lsn {
        self.found.start
    }

    /// Position of the byte to hand in next; `None` when all is read.
    #[must_use]
    pub fn next_lsn(&self) -> Option<Lsn> {
        let next = self.reader.next_lsn();
        (next < self.end).then_some(next)
    }

    /// Decodes `bytes`, which begin at [`Reread::next_lsn`]; what goes beyond the commit is not
    /// looked at.
    ///
    /// # Errors
    /// When the WAL is wrong; every further call gives the same error.
    pub fn handle_wal(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let left = self.end.saturating_bytes_since(self.reader.next_lsn());
        let useful = to_usize(left).min(bytes.len());
        let read = self.reader.feed_to(bytes.split_at(useful).0, &mut self.found);
        if let (Err(violation), None) = (read, self.found.failed) {
            self.found.failed = Some(DecodeError::Wal(violation));
        }
        self.found.failed.map_or(Ok(()), Err)
    }

    /// Bytes that are in memory now, as [`Decoder::held_bytes`](super::Decoder::held_bytes) counts them.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        2 * self.found.body.len()
            + self.found.messages.iter().map(Message::held_bytes).sum::<usize>()
    }

    /// The next message; `None` when more WAL is needed or all is read.
    pub fn poll_message(&mut self) -> Option<Message> {
        self.found.messages.pop_front()
    }
}

impl Found {
    fn is_wanted(&self, record: &RecordHeader) -> bool {
        record.rmid == RM_LOGICALMSG
            && record.start >= self.start
            && self.xids.contains(&record.xid)
    }
}

impl RecordSink for Found {
    fn begin(&mut self, _record: &RecordHeader) {
        self.body.clear();
        self.body.shrink_to(BODY_ROOM_KEPT);
    }

    fn body(&mut self, record: &RecordHeader, piece: &[u8]) {
        if self.is_wanted(record) {
            self.body.extend_from_slice(piece);
        }
    }

    fn record(&mut self, record: &RecordHeader) {
        if !self.is_wanted(record) || self.failed.is_some() {
            return;
        }
        match LogicalMessage::decode(&self.body) {
            Some(message) if message.transactional && message.database == self.database => {
                self.messages.push_back(Message {
                    lsn: record.end,
                    transactional: true,
                    prefix: message.prefix.to_vec(),
                    content: message.content.to_vec(),
                });
            }
            Some(_) => {}
            None => {
                let (at, rmid, info) = (record.start, record.rmid, record.info);
                self.failed = Some(DecodeError::Record { at, rmid, info });
            }
        }
    }
}
