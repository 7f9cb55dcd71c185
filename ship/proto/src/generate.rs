//! Makes valid WAL: the source of the demo, the simulator and the bench, and walhub's own WAL.
//!
//! [`WalWriter`] lays records out on pages; [`WalGenerator`] feeds it logical messages of seeded
//! sizes. The same seed gives the same bytes, however they are asked for.
//!
//! Not here: anything random. All comes from the seed.
//!
//! PostgreSQL: `CopyXLogRecordToWAL`, `AdvanceXLInsertBuffer`
//! (src/backend/access/transam/xlog.c), `XLogRecordAssemble` (xloginsert.c).

mod stream;

pub use stream::{WalGenerator, next_random};

use alloc::vec::Vec;

use crate::convert::{to_u32, to_u64, to_usize};
use crate::lsn::{Lsn, LsnRange, SystemIdentifier, TimelineId};
use crate::page::{
    FIRST_IS_CONTRECORD, LONG_HEADER, LONG_HEADER_LEN, LongHeader, PAGE_BYTES, PAGE_LEN,
    PageHeader, SHORT_HEADER_LEN, WalVersion, header_len, record_start,
};
use crate::record::{
    CHECKED_HEADER_LEN, Crc32c, RECORD_HEADER_LEN, RECORD_LEN_MAX, RM_XLOG, XLOG_SWITCH,
};
use crate::segment::SegmentSize;

/// What fills a page or a segment.
static ZEROS: [u8; PAGE_LEN] = [0; PAGE_LEN];
/// Bytes of a record's header, as positions count.
const RECORD_HEADER_BYTES: u64 = 24;
/// Bytes of most page headers, as positions count.
const SHORT_HEADER_BYTES: u64 = 24;
/// Bytes of the header of a segment's first page, as positions count.
const LONG_HEADER_BYTES: u64 = 40;

const _: () = assert!(RECORD_HEADER_LEN == 24 && SHORT_HEADER_LEN == 24 && LONG_HEADER_LEN == 40);

/// What is the same on every page that a writer makes.
#[derive(Clone, Copy, Debug)]
pub struct WalShape {
    /// The cluster that the WAL is of.
    pub system_identifier: SystemIdentifier,
    /// Size of its segments.
    pub segment_size: SegmentSize,
    /// Timeline of every page.
    pub timeline: TimelineId,
    /// PostgreSQL major that could have written it.
    pub version: WalVersion,
    /// Computes the checksums of records.
    pub crc: Crc32c,
}

/// What a record's header says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordKind {
    /// Number of the resource manager, `xl_rmid`.
    pub rmid: u8,
    /// What kind of its records, and flags.
    pub info: u8,
    /// Id of the transaction that writes it, or zero: `xl_xid`.
    pub xid: u32,
}

/// A record that was begun and is not yet whole.
#[derive(Debug)]
#[must_use = "what follows would be taken for its body"]
pub struct OpenRecord {
    start: Lsn,
    /// Bytes that are still to come.
    left: u32,
}

/// Lays records out on pages.
#[derive(Clone, Debug)]
pub struct WalWriter {
    shape: WalShape,
    lsn: Lsn,
    last_record: Option<Lsn>,
}

impl WalWriter {
    /// Goes on at `lsn`, a record boundary, after the record that starts at `last_record`.
    ///
    /// # Panics
    /// If `lsn` is not aligned or lies inside a page header.
    #[must_use]
    pub fn new(shape: WalShape, lsn: Lsn, last_record: Option<Lsn>) -> Self {
        let page = lsn.align_down(PAGE_BYTES);
        let header = to_u64(header_len(page, shape.segment_size));
        assert!(lsn == lsn.maxalign(), "{lsn} is not aligned");
        assert!(lsn == page || lsn - page >= header, "{lsn} lies inside a page header");
        Self { shape, lsn, last_record }
    }

    /// End of what was written.
    #[must_use]
    pub const fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Start of the last record.
    #[must_use]
    pub const fn last_record(&self) -> Option<Lsn> {
        self.last_record
    }

    /// What is the same on every page.
    #[must_use]
    pub const fn shape(&self) -> &WalShape {
        &self.shape
    }

    /// Where the next record will start.
    #[must_use]
    pub fn next_record(&self) -> Lsn {
        record_start(self.lsn, self.shape.segment_size)
    }

    /// Where a record whose body has `body_len` bytes would lie, were it the next.
    ///
    /// PostgreSQL: `ReserveXLogInsertLocation`.
    #[must_use]
    pub fn record_range(&self, body_len: usize) -> LsnRange {
        let size = self.shape.segment_size;
        let len = RECORD_HEADER_BYTES.saturating_add(to_u64(body_len)).next_multiple_of(8);
        let end = usable_to_end(usable_before(self.lsn, size) + len, size);
        LsnRange::new(self.next_record(), end)
    }

    /// Appends one record to `out`, page headers and filling included; returns where it lies.
    ///
    /// `body` is what follows the record header, in pieces.
    ///
    /// # Panics
    /// If the record is longer than [`RECORD_LEN_MAX`].
    pub fn append_record(
        &mut self,
        rmid: u8,
        info: u8,
        xid: u32,
        body: &[&[u8]],
        out: &mut Vec<u8>,
    ) -> LsnRange {
        let body_crc = body.iter().fold(0, |crc, piece| (self.shape.crc)(crc, piece));
        let record = RecordKind { rmid, info, xid };
        self.append_checked(record, body, body_crc, &mut |bytes| out.extend_from_slice(bytes))
    }

    /// As [`WalWriter::append_record`], of a body whose checksum is known; all bytes go to `sink`,
    /// in order.
    ///
    /// `body_crc` is the CRC-32C of the pieces one after the other, begun with zero.
    ///
    /// # Panics
    /// If the record is longer than [`RECORD_LEN_MAX`].
    pub fn append_checked(
        &mut self,
        record: RecordKind,
        body: &[&[u8]],
        body_crc: u32,
        sink: &mut impl FnMut(&[u8]),
    ) -> LsnRange {
        let body_len = body.iter().map(|piece| piece.len()).sum();
        let mut open = self.begin_record(record, body_len, body_crc, sink);
        for piece in body {
            self.put_body(&mut open, piece, sink);
        }
        self.end_record(open, sink)
    }

    /// Begins a record whose body comes in pieces: [`WalWriter::put_body`], then
    /// [`WalWriter::end_record`].
    ///
    /// # Panics
    /// If the record is longer than [`RECORD_LEN_MAX`].
    pub fn begin_record(
        &mut self,
        record: RecordKind,
        body_len: usize,
        body_crc: u32,
        sink: &mut impl FnMut(&[u8]),
    ) -> OpenRecord {
        let len = to_u32(RECORD_HEADER_LEN.saturating_add(body_len));
        assert!(len <= RECORD_LEN_MAX, "a record of {len} bytes");
        let header = self.record_header(len, record, body_crc);
        if self.lsn.0.is_multiple_of(PAGE_BYTES) {
            self.begin_page(0, sink);
        }
        let mut open = OpenRecord { start: self.lsn, left: len };
        self.put(&header, &mut open.left, sink);
        open
    }

    /// Appends the next piece of the body of a record that was begun.
    ///
    /// # Panics
    /// If the body is longer than was said.
    pub fn put_body(&mut self, open: &mut OpenRecord, piece: &[u8], sink: &mut impl FnMut(&[u8])) {
        assert!(u32::try_from(piece.len()).is_ok_and(|len| len <= open.left), "a longer body");
        self.put(piece, &mut open.left, sink);
    }

    /// Ends a record whose body is whole; returns where it lies.
    ///
    /// # Panics
    /// If the body is shorter than was said.
    pub fn end_record(&mut self, open: OpenRecord, sink: &mut impl FnMut(&[u8])) -> LsnRange {
        assert!(open.left == 0, "{} bytes of a body are missing", open.left);
        let end = self.lsn.maxalign();
        self.zeros(end - self.lsn, sink);
        self.last_record = Some(open.start);
        LsnRange::new(open.start, end)
    }

    /// Appends zeros up to the end of the segment, `bytes` at most: the filling after a switch record.
    pub fn fill_segment(&mut self, bytes: u64, sink: &mut impl FnMut(&[u8])) {
        let left = self.lsn.align_up(self.shape.segment_size.bytes()) - self.lsn;
        self.zeros(left.min(bytes), sink);
    }

    /// Ends the segment: appends a switch record and fills the rest with zeros.
    ///
    /// Does nothing at the start of a segment. PostgreSQL: `ReserveXLogSwitch`.
    pub fn switch_segment(&mut self, out: &mut Vec<u8>) {
        self.switch_segment_to(&mut |bytes| out.extend_from_slice(bytes));
    }

    /// As [`WalWriter::switch_segment`]; all bytes go to `sink`, in order. Returns where record and
    /// filling lie.
    pub fn switch_segment_to(&mut self, sink: &mut impl FnMut(&[u8])) -> LsnRange {
        let size = self.shape.segment_size;
        if size.offset(self.lsn) == 0 {
            return LsnRange::new(self.lsn, self.lsn);
        }
        let switch = RecordKind { rmid: RM_XLOG, info: XLOG_SWITCH, xid: 0 };
        let record = self.append_checked(switch, &[], 0, sink);
        self.zeros(self.lsn.align_up(size.bytes()) - self.lsn, sink);
        LsnRange::new(record.start, self.lsn)
    }

    fn record_header(
        &self,
        len: u32,
        record: RecordKind,
        body_crc: u32,
    ) -> [u8; RECORD_HEADER_LEN] {
        let prev = self.last_record.unwrap_or(Lsn::INVALID);
        let mut header = [0; RECORD_HEADER_LEN];
        let (checked, stored) = header.split_at_mut(CHECKED_HEADER_LEN);
        let fields = len
            .to_le_bytes()
            .into_iter()
            .chain(record.xid.to_le_bytes())
            .chain(prev.0.to_le_bytes())
            .chain([record.info, record.rmid, 0, 0]);
        checked.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
        stored.copy_from_slice(&(self.shape.crc)(body_crc, checked).to_le_bytes());
        header
    }

    /// Appends a piece of a record of which `left` bytes are still to come, this piece included.
    fn put(&mut self, mut piece: &[u8], left: &mut u32, sink: &mut impl FnMut(&[u8])) {
        while !piece.is_empty() {
            if self.lsn.0.is_multiple_of(PAGE_BYTES) {
                self.begin_page(*left, sink);
            }
            let room = to_usize(PAGE_BYTES - self.lsn.0 % PAGE_BYTES);
            let (now, later) = piece.split_at(room.min(piece.len()));
            sink(now);
            let bytes = to_u32(now.len());
            self.lsn = self.lsn + u64::from(bytes);
            *left -= bytes;
            piece = later;
        }
    }

    fn zeros(&mut self, bytes: u64, sink: &mut impl FnMut(&[u8])) {
        let mut left = to_usize(bytes);
        while left > 0 {
            let now = left.min(ZEROS.len());
            sink(ZEROS.split_at(now).0);
            left -= now;
        }
        self.lsn = self.lsn + bytes;
    }

    fn begin_page(&mut self, rem_len: u32, sink: &mut impl FnMut(&[u8])) {
        let size = self.shape.segment_size;
        let long = (size.offset(self.lsn) == 0).then(|| LongHeader {
            system_identifier: self.shape.system_identifier,
            segment_size: size.to_u32(),
            page_len: to_u32(PAGE_LEN),
        });
        let header = PageHeader {
            magic: self.shape.version.magic(),
            info: if rem_len > 0 { FIRST_IS_CONTRECORD } else { 0 }
                | if long.is_some() { LONG_HEADER } else { 0 },
            tli: self.shape.timeline.to_u32(),
            page_addr: self.lsn,
            rem_len,
            long,
        };
        let (bytes, len) = header.to_bytes();
        sink(bytes.split_at(len).0);
        self.lsn = self.lsn + to_u64(len);
    }
}

/// Bytes for records on a page with a short header. PostgreSQL: `UsableBytesInPage`.
const PAGE_USABLE: u64 = PAGE_BYTES - SHORT_HEADER_BYTES;

/// Bytes for records in a segment. PostgreSQL: `UsableBytesInSegment`.
const fn segment_usable(size: SegmentSize) -> u64 {
    size.bytes() / PAGE_BYTES * PAGE_USABLE - (LONG_HEADER_BYTES - SHORT_HEADER_BYTES)
}

/// Bytes for records before `lsn`, all of WAL counted. PostgreSQL: `XLogRecPtrToBytePos`.
const fn usable_before(lsn: Lsn, size: SegmentSize) -> u64 {
    let offset = size.offset(lsn);
    let segments = (lsn.0 - offset) / size.bytes();
    let (pages, on_page) = (offset / PAGE_BYTES, offset % PAGE_BYTES);
    let in_segment = if pages == 0 {
        on_page.saturating_sub(LONG_HEADER_BYTES)
    } else {
        pages * PAGE_USABLE - (LONG_HEADER_BYTES - SHORT_HEADER_BYTES)
            + on_page.saturating_sub(SHORT_HEADER_BYTES)
    };
    segments * segment_usable(size) + in_segment
}

/// The end of what has `usable` bytes for records before it; a page boundary stays before the
/// header. PostgreSQL: `XLogBytePosToEndRecPtr`.
const fn usable_to_end(usable: u64, size: SegmentSize) -> Lsn {
    const LONGER: u64 = LONG_HEADER_BYTES - SHORT_HEADER_BYTES;
    let segments = usable / segment_usable(size);
    // As if all headers were short; the difference is on the first page.
    let left = usable % segment_usable(size);
    let offset = if left == 0 {
        0
    } else {
        let left = left + LONGER;
        let (pages, on_page) = (left / PAGE_USABLE, left % PAGE_USABLE);
        pages * PAGE_BYTES + if on_page == 0 { 0 } else { on_page + SHORT_HEADER_BYTES }
    };
    Lsn(segments * size.bytes() + offset)
}

#[cfg(test)]
mod tests;
