//! The hub's own copy of the WAL: verified as it comes in, kept in the tail, written to segments.
//!
//! Positions in order: `flush_lsn <= write_lsn <= received_lsn` and
//! `verified_lsn <= received_lsn`. Nothing after `verified_lsn` is acknowledged or forwarded; it is
//! written only when a record is too large to be held in memory.
//!
//! Not here: where the bytes come from (`upstream`), who gets them (`ship_core`).

use std::collections::VecDeque;
use std::io;

use walhub_engine::buffer::SlabRoom;
use walhub_engine::io::{Done, Io};
use walhub_proto::lsn::{Lsn, SystemIdentifier, TimelineId};
use walhub_proto::page::WalVersion;
use walhub_proto::record::{RecordReader, WalViolation};
use walhub_proto::rmgr::counters::Counters;
use walhub_proto::rmgr::facts::{FactReader, Facts};
use walhub_proto::segment::SegNo;

use crate::store::jobs::Jobs;
use crate::store::segments::{FileJob, Segments};
use crate::store::tail::{Tail, TailFull, TailSlab, TruncateError};
use crate::store::writer::{Flushed, Writer};

/// Why bytes were not taken.
#[derive(Debug)]
pub enum AppendError {
    /// They are no valid WAL.
    Violation(WalViolation),
    /// They do not begin where the WAL ends.
    Gap {
        /// Where they begin.
        got: Lsn,
        /// Where the WAL ends.
        want: Lsn,
    },
    /// Memory is pinned elsewhere.
    Full,
}

impl From<TailFull> for AppendError {
    fn from(TailFull: TailFull) -> Self {
        Self::Full
    }
}

/// The end of a record.
#[derive(Clone, Debug)]
struct RecordEnd {
    lsn: Lsn,
    /// The record's start, when it is known.
    start: Option<Lsn>,
    /// What the WAL up to there says about the database.
    facts: Facts,
}

/// WAL from the first position this hub holds to the last one it received.
#[derive(Debug)]
pub struct LocalWal {
    tail: Tail,
    reader: RecordReader,
    /// The version of the pages, once a record of them was verified.
    version: Option<WalVersion>,
    /// What the header of the page says that the first record begins in, when the reader began after it.
    page_version: Option<WalVersion>,
    facts: FactReader,
    /// Segment files.
    pub segments: Segments,
    writer: Writer,
    system_identifier: SystemIdentifier,
    /// Bytes of an unverified record that are held back from the disk at most.
    unverified_bytes_max: u64,
    paused: bool,
    /// End of the record that was under way where the first reading began.
    unseen_end: Option<Lsn>,
    /// Ends of records that writes were begun for: oldest first.
    targets: VecDeque<RecordEnd>,
    /// The last of them that is durable.
    durable: RecordEnd,
}

impl LocalWal {
    /// Joins the parts, all standing at the same position; `facts` is what the WAL before it says.
    ///
    /// # Panics
    /// If they do not.
    #[must_use]
    pub fn new(
        tail: Tail,
        reader: RecordReader,
        segments: Segments,
        writer: Writer,
        system_identifier: SystemIdentifier,
        unverified_bytes_max: u64,
        facts: Facts,
    ) -> Self {
        assert!(tail.end() == reader.next_lsn() && writer.write_lsn() == tail.end());
        let (lsn, start) = (writer.flush_lsn(), reader.last_record());
        let durable = RecordEnd { lsn, start, facts: facts.clone() };
        Self {
            facts: FactReader::new(tail.end(), facts),
            tail,
            version: reader.version(),
            page_version: None,
            reader,
            segments,
            writer,
            system_identifier,
            unverified_bytes_max,
            paused: false,
            unseen_end: None,
            targets: VecDeque::new(),
            durable,
        }
    }

    /// No record was verified yet, and WAL ends in a page whose header says this.
    #[must_use]
    pub fn with_page_version(self, page_version: Option<WalVersion>) -> Self {
        Self { page_version, ..self }
    }

    /// End of what was received.
    #[must_use]
    pub fn received_lsn(&self) -> Lsn {
        self.tail.end()
    }

    /// End of the last whole valid record.
    #[must_use]
    pub fn verified_lsn(&self) -> Lsn {
        self.reader.verified_lsn()
    }

    /// Start of the last whole valid record.
    #[must_use]
    pub fn last_record(&self) -> Option<Lsn> {
        self.reader.last_record()
    }

    /// End of what may be called written.
    #[must_use]
    pub fn write_lsn(&self) -> Lsn {
        self.writer.write_lsn().min(self.verified_lsn())
    }

    /// End of what may be called durable: the end of a record, because a start-up goes back to one.
    #[must_use]
    pub fn flush_lsn(&self) -> Lsn {
        self.durable.lsn
    }

    /// Start of the record that ends at [`LocalWal::flush_lsn`].
    #[must_use]
    pub fn flushed_record(&self) -> Option<Lsn> {
        self.durable.start
    }

    /// What the WAL up to [`LocalWal::flush_lsn`] says about the database.
    #[must_use]
    pub fn flushed_facts(&self) -> &Facts {
        &self.durable.facts
    }

    /// What the WAL up to [`LocalWal::verified_lsn`] has given out, when that is known.
    #[must_use]
    pub fn counters(&self) -> Option<Counters> {
        self.facts.counters()
    }

    /// What the WAL up to [`LocalWal::verified_lsn`] says about the database.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.facts.facts()
    }

    /// The next transaction id after the verified WAL, with its epoch, when it is known.
    #[must_use]
    pub fn next_xid(&self) -> Option<u64> {
        self.facts.next_xid()
    }

    /// Bytes that could be written now and are not.
    #[must_use]
    pub fn unwritten(&self) -> u64 {
        self.verified_lsn().saturating_bytes_since(self.writer.write_lsn())
    }

    /// Whether everything received and verified is durable and nothing is under way.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.writer.is_idle() && self.flush_lsn() == self.verified_lsn()
    }

    /// Whether no write is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.writer.is_idle()
    }

    /// Whether `bytes` more can be taken now.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.tail.has_room(bytes, self.writer.needed_from())
    }

    /// Takes `bytes` that begin at `start`, verifies them, and hands each slab that was opened to
    /// `opened`.
    ///
    /// # Errors
    /// [`AppendError`]; after a violation the caller must [`LocalWal::rewind`].
    pub fn append(
        &mut self,
        start: Lsn,
        bytes: &[u8],
        opened: &mut impl FnMut(TailSlab),
    ) -> Result<(), AppendError> {
        self.check_continues(start)?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (count, slab) = self.tail.append(rest)?;
            slab.into_iter().for_each(&mut *opened);
            rest = rest.get(count..).unwrap_or_default();
        }
        self.verify(bytes)
    }

    /// Lends memory where the next WAL belongs, for `len` bytes or fewer, and gives the slab if one was
    /// opened. `None` while there is no room.
    pub fn lend(&mut self, len: usize) -> Option<(SlabRoom, Option<TailSlab>)> {
        if self.has_room(1) { self.tail.lend(len).ok() } else { None }
    }

    /// As [`LocalWal::append`], with the first `count` bytes of `room`, which stay where they are.
    ///
    /// # Errors
    /// As [`LocalWal::append`].
    ///
    /// # Panics
    /// If [`LocalWal::rewind`] came between.
    pub fn append_lent(
        &mut self,
        start: Lsn,
        room: &mut SlabRoom,
        count: usize,
    ) -> Result<(), AppendError> {
        self.check_continues(start)?;
        let bytes = self.tail.keep(room, count);
        self.verify(&bytes)
    }

    fn check_continues(&self, got: Lsn) -> Result<(), AppendError> {
        let want = self.received_lsn();
        if got == want { Ok(()) } else { Err(AppendError::Gap { got, want }) }
    }

    fn verify(&mut self, bytes: &[u8]) -> Result<(), AppendError> {
        let fed = self.reader.feed_to(bytes, &mut self.facts).map_err(AppendError::Violation);
        self.unseen_end = self.unseen_end.or(self.reader.unseen_end());
        if self.version.is_none() && self.reader.last_record().is_some() {
            self.version = self.reader.version().or(self.page_version);
        }
        fed
    }

    /// Version of the WAL, once a record of it was verified or when it was known before. A server's WAL
    /// never changes it: who upgrades makes another cluster.
    #[must_use]
    pub fn version(&self) -> Option<WalVersion> {
        self.version
    }

    /// Goes back to the end of the last valid record: what came after it will come again. `block` is the
    /// beginning of the block that this lies in, when it was read back. The caller waits until
    /// [`LocalWal::can_rewind`].
    ///
    /// # Errors
    /// When there is no memory for it now, or the block is on disk only.
    pub fn rewind<I: Io>(
        &mut self,
        io: &mut I,
        jobs: &mut Jobs<FileJob>,
        reader: RecordReader,
        block: Option<&[u8]>,
    ) -> Result<TailSlab, TruncateError> {
        let end = self.verified_lsn();
        assert!(reader.next_lsn() == end);
        // What waits for room on the disk must not be dropped for it.
        if !self.tail.can_truncate(end, self.writer.needed_from()) {
            return Err(TailFull.into());
        }
        let slab = self.tail.truncate(end, block)?;
        if self.writer.write_lsn() > end {
            self.writer.truncate(end);
            self.segments.rewind(io, jobs, SegNo::of_start(end, self.segments.size()));
        }
        // What begins in the middle of a page has seen no page header.
        self.page_version = self.page_version.or(self.reader.version());
        self.reader = match self.version {
            Some(version) => reader.with_version(version),
            None => reader,
        };
        Ok(slab)
    }

    /// Whether no write is under way, and no segment is being made ready that would have to go.
    #[must_use]
    pub fn can_rewind(&self) -> bool {
        let keeps_files = self.writer.write_lsn() <= self.verified_lsn();
        self.writer.is_idle() && (keeps_files || self.segments.is_settled())
    }

    /// The WAL goes on on another timeline.
    pub fn set_timeline(&mut self, timeline: TimelineId) {
        self.reader.set_timeline(timeline);
    }

    /// Whether the disk had no room at the last try, and nothing more can be written for now.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused || (self.writer.is_idle() && self.segments.is_blocked())
    }

    /// Stops writing until [`LocalWal::resume`].
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Tries again.
    pub fn resume(&mut self) {
        self.paused = false;
    }

    /// Starts the next write when there is something to write and somewhere to write it.
    pub fn pump<I: Io>(&mut self, io: &mut I, jobs: &mut Jobs<FileJob>) {
        let size = self.segments.size();
        if self.paused || !self.writer.can_start(size) {
            return;
        }
        let unverified = self.received_lsn() - self.verified_lsn();
        let target = if unverified > self.unverified_bytes_max {
            self.received_lsn()
        } else {
            self.verified_lsn()
        };
        let written = self.writer.write_lsn();
        if target <= written {
            return;
        }
        if let Some(version) = self.reader.version() {
            self.segments.set_format(self.system_identifier, version);
        }
        let segno = SegNo::of_start(written, size);
        let Some(file) = self.segments.file_of(io, jobs, segno, self.verified_lsn()) else {
            return;
        };
        self.writer.start(io, file, size, target, self.tail.view());
        let lsn = self.verified_lsn();
        if self.targets.back().unwrap_or(&self.durable).lsn < lsn {
            let (start, facts) = (self.last_record(), self.facts());
            self.targets.push_back(RecordEnd { lsn, start, facts });
        }
    }

    /// Takes the completion of a write.
    pub fn handle_write<I: Io>(&mut self, io: &mut I, result: io::Result<Done>) -> Flushed {
        let flushed = self.writer.handle_write(io, result);
        self.note_durable();
        flushed
    }

    /// Takes the completion of a flush.
    pub fn handle_sync<I: Io>(&mut self, io: &mut I, result: io::Result<Done>) -> Flushed {
        let flushed = self.writer.handle_sync(io, result);
        self.note_durable();
        flushed
    }

    /// What is durable goes on to the last record that is so as a whole.
    fn note_durable(&mut self) {
        let flush_lsn = self.writer.flush_lsn();
        while self.targets.front().is_some_and(|target| target.lsn <= flush_lsn) {
            let Some(target) = self.targets.pop_front() else { break };
            self.durable = target;
        }
    }

    /// The tail, for a new reader of it.
    #[must_use]
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// End of the record that was under way where the first WAL begins, and is taken unverified.
    #[must_use]
    pub fn unseen_end(&self) -> Option<Lsn> {
        self.unseen_end
    }

    /// The reader that follows the WAL.
    #[must_use]
    pub fn reader(&self) -> &RecordReader {
        &self.reader
    }
}

#[cfg(test)]
mod tests;
