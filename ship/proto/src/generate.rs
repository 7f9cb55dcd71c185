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

pub use stream::WalGenerator;

use alloc::vec::Vec;

use crate::lsn::{Lsn, LsnRange, SystemIdentifier, TimelineId};
use crate::page::{
    FIRST_IS_CONTRECORD, LONG_HEADER, LongHeader, PAGE_BYTES, PageHeader, WalVersion, header_len,
};
use crate::record::{
    CHECKED_HEADER_LEN, Crc32c, RECORD_HEADER_LEN, RECORD_LEN_MAX, RM_XLOG, XLOG_SWITCH,
};
use crate::segment::SegmentSize;

/// What is the same on every page that a writer makes.
#[derive(Clone, Copy, Debug)]
pub struct WalShape {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// Size of its segments.
    pub segment_size: SegmentSize,
    /// Timeline of every page.
    pub timeline: TimelineId,
    /// PostgreSQL major that could have written it.
    pub version: WalVersion,
    /// Computes the checksums.
    pub crc: Crc32c,
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
        let header = u64::try_from(header_len(page, shape.segment_size)).unwrap_or(PAGE_BYTES);
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

    /// Where the next record will start: after the page header, when one is due.
    /// PostgreSQL: `XLogBytePosToRecPtr`.
    #[must_use]
    pub fn next_record(&self) -> Lsn {
        if self.lsn.0.is_multiple_of(PAGE_BYTES) {
            let header = header_len(self.lsn, self.shape.segment_size);
            self.lsn + u64::try_from(header).unwrap_or(0)
        } else {
            self.lsn
        }
    }

    /// Appends one record to `out`, page headers and filling included; returns where it lies.
    ///
    /// `payload` is what follows the record header, in pieces.
    ///
    /// # Panics
    /// If the record is longer than [`RECORD_LEN_MAX`].
    pub fn append_record(
        &mut self,
        rmid: u8,
        info: u8,
        xid: u32,
        payload: &[&[u8]],
        out: &mut Vec<u8>,
    ) -> LsnRange {
        let len = payload.iter().fold(RECORD_HEADER_LEN, |sum, piece| sum + piece.len());
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        assert!(len <= RECORD_LEN_MAX, "a record of {len} bytes");
        let header = self.record_header(len, rmid, info, xid, payload);

        if self.lsn.0.is_multiple_of(PAGE_BYTES) {
            self.begin_page(0, out);
        }
        let start = self.lsn;
        let mut left = len;
        self.put(&header, &mut left, out);
        for piece in payload {
            self.put(piece, &mut left, out);
        }
        let end = self.lsn.maxalign();
        self.zeros(end - self.lsn, out);
        self.last_record = Some(start);
        LsnRange::new(start, end)
    }

    /// Ends the segment: appends a switch record and fills the rest with zeros.
    ///
    /// Does nothing at the start of a segment. PostgreSQL: `ReserveXLogSwitch`.
    pub fn switch_segment(&mut self, out: &mut Vec<u8>) {
        let size = self.shape.segment_size;
        if size.offset(self.lsn) == 0 {
            return;
        }
        self.append_record(RM_XLOG, XLOG_SWITCH, 0, &[], out);
        self.zeros(self.lsn.align_up(size.bytes()) - self.lsn, out);
    }

    fn record_header(
        &self,
        len: u32,
        rmid: u8,
        info: u8,
        xid: u32,
        payload: &[&[u8]],
    ) -> [u8; RECORD_HEADER_LEN] {
        let prev = self.last_record.unwrap_or(Lsn::INVALID);
        let mut header = [0; RECORD_HEADER_LEN];
        let (checked, stored) = header.split_at_mut(CHECKED_HEADER_LEN);
        let fields = len
            .to_le_bytes()
            .into_iter()
            .chain(xid.to_le_bytes())
            .chain(prev.0.to_le_bytes())
            .chain([info, rmid, 0, 0]);
        checked.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
        let crc = payload.iter().fold(0, |crc, piece| (self.shape.crc)(crc, piece));
        stored.copy_from_slice(&(self.shape.crc)(crc, checked).to_le_bytes());
        header
    }

    /// Appends a piece of a record of which `left` bytes are still to come, this piece included.
    fn put(&mut self, mut piece: &[u8], left: &mut u32, out: &mut Vec<u8>) {
        while !piece.is_empty() {
            if self.lsn.0.is_multiple_of(PAGE_BYTES) {
                self.begin_page(*left, out);
            }
            let room = usize::try_from(PAGE_BYTES - self.lsn.0 % PAGE_BYTES).unwrap_or(usize::MAX);
            let (now, later) = piece.split_at(room.min(piece.len()));
            out.extend_from_slice(now);
            let bytes = u32::try_from(now.len()).unwrap_or(u32::MAX);
            self.lsn = self.lsn + u64::from(bytes);
            *left -= bytes;
            piece = later;
        }
    }

    fn zeros(&mut self, bytes: u64, out: &mut Vec<u8>) {
        out.resize(out.len() + usize::try_from(bytes).unwrap_or(0), 0);
        self.lsn = self.lsn + bytes;
    }

    fn begin_page(&mut self, rem_len: u32, out: &mut Vec<u8>) {
        let size = self.shape.segment_size;
        let long = (size.offset(self.lsn) == 0).then(|| LongHeader {
            system_identifier: self.shape.system_identifier,
            segment_size: u32::try_from(size.bytes()).unwrap_or(u32::MAX),
            page_len: u32::try_from(PAGE_BYTES).unwrap_or(u32::MAX),
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
        header.encode(out);
        let bytes = header_len(self.lsn, size);
        self.lsn = self.lsn + u64::try_from(bytes).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests;
