//! Group commit: one write and one flush under way; what arrives meanwhile goes with the next ones.
//!
//! With direct I/O, whole blocks go straight from the tail's slabs; the partial block at the end
//! goes from a copy, padded with zeros, and is rewritten at the same place by the next write. As only
//! one write is ever under way, rewrites of a block cannot overtake each other. A flush does not hold
//! up the next write: it covers what was written before it began, and that write goes with the next.
//!
//! Not here: what is durable (`walhub_proto::progress`), which file (`segments`).
//!
//! PostgreSQL: `XLogWrite`, `issue_xlog_fsync` (src/backend/access/transam/xlog.c).

use std::io;

use walhub_engine::buffer::BufferPool;
use walhub_engine::io::{BLOCK_LEN, Done, FileId, GATHER_PIECES_MAX, Gather, Io, Op, Token};
use walhub_proto::convert::to_u64;
use walhub_proto::lsn::{Lsn, LsnRange};
use walhub_proto::progress::{FlushTicket, WriteProgress};
use walhub_proto::segment::SegmentSize;

use crate::store::tail::TailView;

/// Bytes of one write at most.
pub const WRITE_BYTES_MAX: u64 = 4 << 20;
/// Bytes of a small write at most.
const SMALL_BYTES_MAX: u64 = 256 << 10;
const _: () = assert!(WRITE_BYTES_MAX / (1 << 20) + 2 <= GATHER_PIECES_MAX as u64);
const BLOCK_BYTES: u64 = 4096;

/// How a write becomes durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushMethod {
    /// The write itself, with RWF_DSYNC. PostgreSQL: `open_datasync`.
    DurableWrite,
    /// fdatasync after the write, while the next write is under way. PostgreSQL: `fdatasync`.
    WriteThenSync,
    /// A small write that finds everything before it durable is so itself; others are flushed after:
    /// one operation for whom commits wait, and the overlap for volume.
    BySize,
}

/// What a completion meant.
#[derive(Debug)]
pub enum Flushed {
    /// Nothing more is durable than before.
    NotYet,
    /// Everything up to the new flush position is durable.
    Done,
    /// There is no room. Nothing was acknowledged and everything is still in memory: the same write
    /// can be made again.
    DiskFull(io::Error),
    /// The disk did not take the write for now. Nothing was acknowledged and everything is still in memory: the same
    /// write can be made again, after a pause.
    Busy(io::Error),
    /// Nothing is known about what was to be made durable. Never retried.
    Failed(&'static str, io::Error),
}

/// A write that is under way.
#[derive(Debug)]
struct Flight {
    file: FileId,
    range: LsnRange,
    /// What is written, where, and how much of it the device has taken.
    data: Gather,
    offset: u64,
    taken: usize,
    durable: bool,
}

/// Writes the tail to its segment files, in order.
#[derive(Debug)]
pub struct Writer {
    tokens: WriterTokens,
    method: FlushMethod,
    direct: bool,
    blocks: BufferPool,
    progress: WriteProgress,
    writing: Option<Flight>,
    syncing: Option<FlushTicket>,
    /// What was written last, and is to be flushed.
    file: Option<FileId>,
}

/// Names of the writer's operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriterTokens {
    /// The write.
    pub write: Token,
    /// The flush.
    pub sync: Token,
}

impl Writer {
    /// Everything up to `flush_lsn` is durable already.
    #[must_use]
    pub fn new(tokens: WriterTokens, method: FlushMethod, direct: bool, flush_lsn: Lsn) -> Self {
        Self {
            tokens,
            method,
            direct,
            blocks: BufferPool::new(BLOCK_LEN, 2),
            progress: WriteProgress::new(flush_lsn),
            writing: None,
            syncing: None,
            file: None,
        }
    }

    /// End of what was written.
    #[must_use]
    pub fn write_lsn(&self) -> Lsn {
        self.progress.write_lsn()
    }

    /// End of what is durable.
    #[must_use]
    pub fn flush_lsn(&self) -> Lsn {
        self.progress.flush_lsn()
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.writing.is_none() && self.syncing.is_none()
    }

    /// Whether a write can be started; into another segment only once the last one is durable. So all that
    /// is not durable lies in one segment, which `recover::damage` relies on.
    #[must_use]
    pub fn can_start(&self, size: SegmentSize) -> bool {
        let synced = self.syncing.is_none() && self.flush_lsn() == self.write_lsn();
        self.writing.is_none() && (synced || size.offset(self.write_lsn()) != 0)
    }

    /// First byte that the tail must keep: the block in which the written part ends.
    #[must_use]
    pub fn needed_from(&self) -> Lsn {
        let writing = self.writing.as_ref().map(|flight| flight.range.start);
        let unwritten = writing.map_or(self.write_lsn(), |start| start.min(self.write_lsn()));
        unwritten.align_down(BLOCK_BYTES)
    }

    /// Forgets that anything after `lsn` was written: those bytes were wrong and will be replaced.
    ///
    /// # Panics
    /// If something is under way, or what lies after `lsn` is durable.
    pub fn truncate(&mut self, lsn: Lsn) {
        assert!(self.is_idle());
        self.progress.truncate(lsn);
    }

    /// Starts to write up to `target`, or as far as the segment and one write reach; the flush follows.
    ///
    /// # Panics
    /// If a write is under way already, or the tail does not hold the range.
    pub fn start<I: Io>(
        &mut self,
        io: &mut I,
        file: FileId,
        size: SegmentSize,
        target: Lsn,
        tail: &TailView,
    ) {
        assert!(self.can_start(size), "one write at a time, in one segment");
        let written = self.write_lsn();
        let begin = if self.direct { written.align_down(BLOCK_BYTES) } else { written };
        let segment_end = size.start_of(written) + size.bytes();
        let end = target.min(segment_end).min(begin + WRITE_BYTES_MAX);
        assert!(written < end, "nothing to write from {written} to {target}");
        let mut data = Gather::new();
        let whole = if self.direct { end.align_down(BLOCK_BYTES) } else { end };
        assert!(tail.gather(LsnRange::new(begin, whole), &mut data), "{begin} is not in memory");
        if whole < end {
            data.push(self.padded_block(LsnRange::new(whole, end), tail));
        }
        let (offset, range) = (size.offset(begin), LsnRange::new(written, end));
        let durable = match self.method {
            FlushMethod::DurableWrite => true,
            FlushMethod::WriteThenSync => false,
            // A durable write says nothing about the writes before it.
            FlushMethod::BySize => {
                self.syncing.is_none()
                    && self.flush_lsn() == written
                    && end - begin <= SMALL_BYTES_MAX
            }
        };
        self.writing = Some(Flight { file, range, data, offset, taken: 0, durable });
        self.submit_write(io);
    }

    fn padded_block(&self, part: LsnRange, tail: &TailView) -> bytes::Bytes {
        let mut pieces = Gather::new();
        assert!(tail.gather(part, &mut pieces), "{} is not in memory", part.start);
        let mut block = self.blocks.take().expect("one write at a time needs one block");
        block.clear();
        for piece in &pieces {
            block.extend_from_slice(piece);
        }
        block.zero_pad_to(BLOCK_LEN);
        block.freeze()
    }

    fn submit_write<I: Io>(&self, io: &mut I) {
        let Some(flight) = &self.writing else { return };
        let taken = self.on_block(flight.taken);
        let mut data = flight.data.clone();
        drop_front(&mut data, taken);
        let offset = flight.offset + to_u64(taken);
        let durable = flight.durable;
        io.submit(self.tokens.write, Op::Write { file: flight.file, offset, data, durable });
    }

    /// A short direct write may end inside a block; the next one may not begin there.
    fn on_block(&self, taken: usize) -> usize {
        if self.direct { taken - taken % BLOCK_LEN } else { taken }
    }

    /// Takes the completion of the write.
    ///
    /// # Panics
    /// If none was under way.
    pub fn handle_write<I: Io>(&mut self, io: &mut I, result: io::Result<Done>) -> Flushed {
        let mut flight = self.writing.take().expect("a write is under way");
        match result {
            Ok(Done::Wrote(0)) => {
                Flushed::Failed("write to", io::Error::from(io::ErrorKind::WriteZero))
            }
            Ok(Done::Wrote(count)) => {
                flight.taken = self.on_block(flight.taken) + count;
                let len: usize = flight.data.iter().map(bytes::Bytes::len).sum();
                if flight.taken < len {
                    self.writing = Some(flight);
                    self.submit_write(io);
                    return Flushed::NotYet;
                }
                if flight.durable {
                    self.progress.handle_written_durably(flight.range);
                    return Flushed::Done;
                }
                self.progress.handle_written(flight.range);
                self.begin_sync(io, flight.file);
                Flushed::NotYet
            }
            Ok(other) => unreachable!("{other:?} for a write"),
            Err(error) if is_disk_full(&error) => Flushed::DiskFull(error),
            Err(error) if is_passing(&error) => Flushed::Busy(error),
            Err(error) => Flushed::Failed("write to", error),
        }
    }

    /// Flushes what is written, unless a flush is under way: then it is the next one's.
    fn begin_sync<I: Io>(&mut self, io: &mut I, file: FileId) {
        self.file = Some(file);
        if self.syncing.is_none() {
            self.syncing = Some(self.progress.begin_flush());
            io.submit(self.tokens.sync, Op::Sync { file });
        }
    }

    /// Takes the completion of the flush.
    ///
    /// # Panics
    /// If none was under way.
    pub fn handle_sync<I: Io>(&mut self, io: &mut I, result: io::Result<Done>) -> Flushed {
        let ticket = self.syncing.take().expect("a flush is under way");
        if let Err(error) = result {
            return Flushed::Failed("fdatasync", error);
        }
        self.progress.handle_flushed(ticket);
        // A write that is under way has its flush when it completes, which then covers everything.
        if self.writing.is_none()
            && self.write_lsn() > self.flush_lsn()
            && let Some(file) = self.file
        {
            self.begin_sync(io, file);
        }
        Flushed::Done
    }
}

/// Whether there was no room: on the disk, or under the limit on the size of files.
#[must_use]
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Whether nothing was done, and the same may be tried again: EAGAIN, EINTR.
#[must_use]
pub fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Drops the first `count` bytes.
pub fn drop_front(gather: &mut Gather, mut count: usize) {
    let mut whole = 0;
    for piece in gather.iter_mut() {
        if count < piece.len() {
            let _written = piece.split_to(count);
            break;
        }
        count -= piece.len();
        whole += 1;
    }
    gather.drain(..whole);
}
