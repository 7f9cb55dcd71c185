//! Group commit: one write and flush under way; what arrives meanwhile is the next one.
//!
//! With direct I/O, whole blocks go straight from the tail's slabs; the partial block at the end
//! goes from a copy, padded with zeros, and is rewritten at the same place by the next flush. As only
//! one is ever under way, rewrites of a block cannot overtake each other.
//!
//! Not here: what is durable (`walhub_proto::progress`), which file (`segments`).
//!
//! PostgreSQL: `XLogWrite`, `issue_xlog_fsync` (src/backend/access/transam/xlog.c).

use std::io;

use walhub_engine::buffer::BufferPool;
use walhub_engine::io::{BLOCK_LEN, Done, FileId, GATHER_PIECES_MAX, Gather, Io, Op, Token};
use walhub_proto::lsn::{Lsn, LsnRange};
use walhub_proto::progress::{FlushTicket, WriteProgress};
use walhub_proto::segment::SegmentSize;

use super::tail::TailView;

/// Bytes of one write at most.
pub const WRITE_BYTES_MAX: u64 = 4 << 20;
const _: () = assert!(WRITE_BYTES_MAX / (1 << 20) + 2 <= GATHER_PIECES_MAX as u64);
const BLOCK_BYTES: u64 = 4096;

/// How a write becomes durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushMethod {
    /// The write itself, with RWF_DSYNC. PostgreSQL: `open_datasync`.
    DurableWrite,
    /// fdatasync after the write. PostgreSQL: `fdatasync`.
    WriteThenSync,
}

/// What a completion meant.
#[derive(Debug)]
pub enum Flushed {
    /// More of the same flush is under way.
    NotYet,
    /// Everything up to the new flush position is durable.
    Done,
    /// There is no room. Nothing was acknowledged and everything is still in memory: the same write
    /// can be made again.
    DiskFull(io::Error),
    /// Nothing is known about what was to be made durable. Never retried.
    Failed(&'static str, io::Error),
}

#[derive(Debug)]
struct Flight {
    file: FileId,
    range: LsnRange,
    /// What is written, where, and how much of it the device has taken.
    data: Gather,
    offset: u64,
    taken: usize,
    syncing: Option<FlushTicket>,
}

/// Writes the tail to its segment files, in order.
#[derive(Debug)]
pub struct Writer {
    token: Token,
    method: FlushMethod,
    direct: bool,
    blocks: BufferPool,
    progress: WriteProgress,
    flight: Option<Flight>,
}

impl Writer {
    /// Everything up to `flush_lsn` is durable already.
    #[must_use]
    pub fn new(token: Token, method: FlushMethod, direct: bool, flush_lsn: Lsn) -> Self {
        Self {
            token,
            method,
            direct,
            blocks: BufferPool::new(BLOCK_LEN, 2),
            progress: WriteProgress::new(flush_lsn),
            flight: None,
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
        self.flight.is_none()
    }

    /// First byte that the tail must keep: the block in which the written part ends.
    #[must_use]
    pub fn needed_from(&self) -> Lsn {
        let unwritten = self
            .flight
            .as_ref()
            .map_or(self.write_lsn(), |flight| flight.range.start.min(self.write_lsn()));
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

    /// Starts to write and flush up to `target`, or as far as the segment and one write reach.
    ///
    /// # Panics
    /// If something is under way already, or the tail does not hold the range.
    pub fn start<I: Io>(
        &mut self,
        io: &mut I,
        file: FileId,
        size: SegmentSize,
        target: Lsn,
        tail: &TailView,
    ) {
        assert!(self.is_idle(), "one flush at a time");
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
        self.flight = Some(Flight { file, range, data, offset, taken: 0, syncing: None });
        self.submit(io);
    }

    fn padded_block(&self, part: LsnRange, tail: &TailView) -> bytes::Bytes {
        let mut pieces = Gather::new();
        assert!(tail.gather(part, &mut pieces), "{} is not in memory", part.start);
        let mut block = self.blocks.take().expect("one flush at a time needs one block");
        block.clear();
        for piece in &pieces {
            block.extend_from_slice(piece);
        }
        block.zero_pad_to(BLOCK_LEN);
        block.freeze()
    }

    fn submit<I: Io>(&self, io: &mut I) {
        let Some(flight) = &self.flight else { return };
        let op = if flight.syncing.is_some() {
            Op::Sync { file: flight.file }
        } else {
            let durable = self.method == FlushMethod::DurableWrite;
            // A short direct write may end inside a block; the next one may not begin there.
            let taken =
                if self.direct { flight.taken - flight.taken % BLOCK_LEN } else { flight.taken };
            let mut data = flight.data.clone();
            drop_front(&mut data, taken);
            let offset = flight.offset + u64::try_from(taken).unwrap_or(0);
            Op::Write { file: flight.file, offset, data, durable }
        };
        io.submit(self.token, op);
    }

    /// Takes the completion of the write or of the flush.
    ///
    /// # Panics
    /// If nothing was under way.
    pub fn handle<I: Io>(&mut self, io: &mut I, result: io::Result<Done>) -> Flushed {
        let flight = self.flight.as_mut().expect("a flush is under way");
        match result {
            Ok(Done::Wrote(0)) => {
                self.flight = None;
                return Flushed::Failed("write to", io::Error::from(io::ErrorKind::WriteZero));
            }
            Ok(Done::Wrote(count)) => {
                let before = if self.direct {
                    flight.taken - flight.taken % BLOCK_LEN
                } else {
                    flight.taken
                };
                flight.taken = before + count;
                let len: usize = flight.data.iter().map(bytes::Bytes::len).sum();
                if flight.taken < len {
                    self.submit(io);
                    return Flushed::NotYet;
                }
                if self.method == FlushMethod::WriteThenSync {
                    self.progress.handle_written(flight.range);
                    flight.syncing = Some(self.progress.begin_flush());
                    self.submit(io);
                    return Flushed::NotYet;
                }
                self.progress.handle_written_durably(flight.range);
            }
            Ok(Done::Synced) => {
                if let Some(ticket) = flight.syncing {
                    self.progress.handle_flushed(ticket);
                }
            }
            Ok(other) => unreachable!("{other:?} for a flush"),
            Err(error) if flight.syncing.is_none() && is_disk_full(&error) => {
                self.flight = None;
                return Flushed::DiskFull(error);
            }
            Err(error) => {
                let step = if flight.syncing.is_some() { "fdatasync" } else { "write to" };
                self.flight = None;
                return Flushed::Failed(step, error);
            }
        }
        self.flight = None;
        Flushed::Done
    }
}

/// Whether there was no room.
#[must_use]
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
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
