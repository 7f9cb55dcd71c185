//! Follows a WAL stream record by record and checks each.
//!
//! The bytes come in by reference, in any pieces, and are never copied except for a header that is
//! split between two pieces or pages. Nothing is allocated: a record's checksum is carried along.
//!
//! Not here: what a record means. Block references inside a record are covered by its checksum.
//!
//! PostgreSQL: `XLogDecodeNextRecord`, `ValidXLogRecordHeader`, `ValidXLogRecord`
//! (src/backend/access/transam/xlogreader.c).

mod violation;

pub use violation::{Numbers, WalViolation};

use crate::convert::{to_u32, to_u64, to_usize};
use crate::lsn::{Lsn, SystemIdentifier, TimelineId};
use crate::page::{
    FIRST_IS_CONTRECORD, FIRST_IS_OVERWRITE_CONTRECORD, LONG_HEADER_LEN, PAGE_BYTES, PAGE_LEN,
    PageHeader, PageWant, SHORT_HEADER_LEN, WalVersion, header_len,
};
use crate::segment::SegmentSize;

/// Continues a CRC-32C over more bytes; the contract of `crc32c::crc32c_append`.
pub type Crc32c = fn(u32, &[u8]) -> u32;

/// Bytes of a record before its payload. PostgreSQL: `SizeOfXLogRecord`.
pub const RECORD_HEADER_LEN: usize = 24;
/// [`RECORD_HEADER_LEN`], as `xl_tot_len` counts.
const RECORD_LEN_MIN: u32 = 24;
/// The part of the header that the checksum covers, after the payload.
pub(crate) const CHECKED_HEADER_LEN: usize = 20;
/// The longest record. PostgreSQL: `XLogRecordMaxSize` is 1020 MiB since 16; before, a record had
/// to fit an allocation of 1 GiB.
pub const RECORD_LEN_MAX: u32 = 1 << 30;

/// Resource manager of the log itself. PostgreSQL: `RM_XLOG_ID`.
pub const RM_XLOG: u8 = 0;
/// The rest of the segment is void. PostgreSQL: `XLOG_SWITCH`.
pub const XLOG_SWITCH: u8 = 0x40;
/// The part of `xl_info` that is the resource manager's. PostgreSQL: `~XLR_INFO_MASK`.
pub const RMGR_INFO_MASK: u8 = 0xF0;

/// Bytes at the end of a short page header that mean nothing.
const VOID_LEN: usize = 4;

const _: () = assert!(RECORD_HEADER_LEN == 4 + 4 + 8 + 1 + 1 + 2 + 4);
const _: () = assert!(RECORD_LEN_MIN as usize == RECORD_HEADER_LEN);

/// The header of a record that was found valid, and where the record lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// First byte of the header.
    pub start: Lsn,
    /// One past the last byte, aligned: where the next record may begin (before a page header).
    pub end: Lsn,
    /// `xl_prev`: start of the record before; [`Lsn::INVALID`] in the first of all.
    pub prev: Lsn,
    /// `xl_tot_len`: bytes of header and payload.
    pub len: u32,
    /// `xl_xid`.
    pub xid: u32,
    /// `xl_rmid`.
    pub rmid: u8,
    /// `xl_info`.
    pub info: u8,
}

impl RecordHeader {
    /// Whether nothing but filling follows in the segment.
    #[must_use]
    pub const fn is_switch(&self) -> bool {
        self.rmid == RM_XLOG && self.info & RMGR_INFO_MASK == XLOG_SWITCH
    }
}

/// Is shown the records that a [`RecordReader`] follows.
///
/// Of each it sees the beginning, the body in pieces and, if the record turns out valid, the whole.
/// A record that never becomes whole is followed by the beginning of another, if by anything.
pub trait RecordSink {
    /// What follows is WAL of this version.
    fn version(&mut self, version: WalVersion) {
        let _ = version;
    }

    /// A record begins; its checksum is not yet known to be right, and its end is not known.
    fn begin(&mut self, record: &RecordHeader) {
        let _ = record;
    }

    /// The next piece of the body of the record that has begun.
    fn body(&mut self, record: &RecordHeader, piece: &[u8]) {
        let _ = (record, piece);
    }

    /// The record is whole and valid.
    fn record(&mut self, record: &RecordHeader);
}

struct HeadersOnly<F>(F);

impl<F: FnMut(&RecordHeader)> RecordSink for HeadersOnly<F> {
    fn record(&mut self, record: &RecordHeader) {
        (self.0)(record);
    }
}

/// What the next byte is, page headers apart.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Of a record header, `got` bytes of which are in `header`.
    Header { got: usize },
    /// Of the payload, `left` bytes of which are to come.
    Payload { left: u32 },
    /// Of the end of a record whose beginning was never seen.
    Unseen { left: u32 },
    /// Filling up to the next aligned position.
    Padding { left: u32 },
    /// Filling up to the end of the segment.
    Switched,
}

/// Follows a stream of WAL and verifies every record.
///
/// Invariants:
/// - `verified <= next`.
/// - Every byte below `verified` belongs to a valid record, to a checked page header, to filling,
///   or to the end of the record that was under way where reading began.
#[derive(Clone, Debug)]
pub struct RecordReader {
    crc: Crc32c,
    want: PageWant,
    next: Lsn,
    verified: Lsn,
    last_record: Option<Lsn>,
    unseen_end: Option<Lsn>,
    /// Where the filling begins, when the last record is a segment switch.
    filling: Option<Lsn>,
    /// Filling from here on is passed over unlooked at.
    filling_checked_to: Lsn,
    /// Reading began on a page boundary, in what may be the middle of a record.
    may_begin_inside: bool,
    phase: Phase,
    page_header: [u8; LONG_HEADER_LEN],
    header: [u8; RECORD_HEADER_LEN],
    /// The record that is under way; `end` is not yet known.
    record: RecordHeader,
    record_crc: u32,
    failed: Option<WalViolation>,
}

impl RecordReader {
    /// Begins at `start`: a record boundary, or the start of a page.
    ///
    /// At the start of a page the end of a record that began before is passed over unverified.
    ///
    /// # Panics
    /// If `start` is not aligned or lies inside a page header.
    #[must_use]
    pub fn new(start: Lsn, segment_size: SegmentSize, crc: Crc32c) -> Self {
        let on_page = offset_in_page(start);
        let header = header_len(start.align_down(PAGE_BYTES), segment_size);
        assert!(start == start.maxalign(), "{start} is not aligned");
        assert!(on_page == 0 || on_page >= header, "{start} lies inside a page header");
        Self {
            crc,
            want: PageWant::new(segment_size),
            next: start,
            verified: start,
            last_record: None,
            unseen_end: None,
            filling: None,
            filling_checked_to: Lsn::MAX,
            may_begin_inside: on_page == 0,
            phase: Phase::Header { got: 0 },
            page_header: [0; LONG_HEADER_LEN],
            header: [0; RECORD_HEADER_LEN],
            record: RecordHeader {
                start,
                end: start,
                prev: Lsn::INVALID,
                len: 0,
                xid: 0,
                rmid: 0,
                info: 0,
            },
            record_crc: 0,
            failed: None,
        }
    }

    /// The record that ends where reading begins: the first record must point back to it.
    #[must_use]
    pub const fn with_prev(mut self, last_record: Lsn) -> Self {
        self.last_record = Some(last_record);
        self.may_begin_inside = false;
        self
    }

    /// Whose WAL every segment must be.
    #[must_use]
    pub const fn with_system_identifier(mut self, system_identifier: SystemIdentifier) -> Self {
        self.want.system_identifier = Some(system_identifier);
        self
    }

    /// The version that every page must have; otherwise that of the first.
    #[must_use]
    pub const fn with_version(mut self, version: WalVersion) -> Self {
        self.want.version = Some(version);
        self
    }

    /// The timeline that is being read: see [`RecordReader::set_timeline`].
    #[must_use]
    pub const fn with_timeline(mut self, timeline: TimelineId) -> Self {
        self.want.timeline = Some(timeline);
        self
    }

    /// The timeline that is being read from now on: it names the files in errors, and pages of a
    /// later one are refused. Pages of earlier ones precede the switchpoint and are welcome.
    pub const fn set_timeline(&mut self, timeline: TimelineId) {
        self.want.timeline = Some(timeline);
    }

    /// Reading begins at `next`, in the filling after a segment switch, which began at `filling`.
    #[must_use]
    pub const fn with_filling(mut self, filling: Lsn, next: Lsn) -> Self {
        self.filling = Some(filling);
        self.phase = Phase::Switched;
        self.next = next;
        self.verified = next;
        self
    }

    /// Of the filling after a segment switch only what lies before `lsn` must be zeros: what a crash has
    /// interrupted may have left anything there.
    #[must_use]
    pub const fn with_filling_checked_to(mut self, lsn: Lsn) -> Self {
        self.filling_checked_to = lsn;
        self
    }

    /// Position of the byte that must be fed next.
    #[must_use]
    pub const fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// End of the last whole valid record, aligned.
    ///
    /// An end on a page boundary stays before the next header, as `XLogBytePosToEndRecPtr` has it.
    /// After a segment switch the filling counts as it arrives.
    #[must_use]
    pub const fn verified_lsn(&self) -> Lsn {
        self.verified
    }

    /// Start of the last whole valid record.
    #[must_use]
    pub const fn last_record(&self) -> Option<Lsn> {
        self.last_record
    }

    /// Where the filling begins, when the last record is a segment switch. It has no checksum, but
    /// nothing except zeros, page headers included: any other byte is refused.
    /// PostgreSQL: `CopyXLogRecordToWAL`.
    #[must_use]
    pub const fn filling(&self) -> Option<Lsn> {
        self.filling
    }

    /// End of the record that was under way where reading began, and was passed over unverified.
    #[must_use]
    pub const fn unseen_end(&self) -> Option<Lsn> {
        self.unseen_end
    }

    /// Version of the pages, once one was seen.
    #[must_use]
    pub const fn version(&self) -> Option<WalVersion> {
        self.want.version
    }

    /// Verifies `bytes`, which begin at [`RecordReader::next_lsn`].
    ///
    /// # Errors
    /// The first rule that the WAL breaks. Nothing after [`RecordReader::verified_lsn`] may be
    /// trusted then, and every further call gives the same error.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), WalViolation> {
        self.feed_with(bytes, |_| ())
    }

    /// As [`RecordReader::feed`], and shows every record once it is whole and valid.
    ///
    /// # Errors
    /// As [`RecordReader::feed`].
    pub fn feed_with(
        &mut self,
        bytes: &[u8],
        record: impl FnMut(&RecordHeader),
    ) -> Result<(), WalViolation> {
        self.feed_to(bytes, &mut HeadersOnly(record))
    }

    /// As [`RecordReader::feed`], and shows every record, its body included.
    ///
    /// # Errors
    /// As [`RecordReader::feed`].
    pub fn feed_to(
        &mut self,
        mut bytes: &[u8],
        sink: &mut impl RecordSink,
    ) -> Result<(), WalViolation> {
        if let Some(violation) = self.failed {
            return Err(violation);
        }
        self.want.version.into_iter().for_each(|version| sink.version(version));
        while !bytes.is_empty() {
            let result = if matches!(self.phase, Phase::Switched) {
                self.read_filling(&mut bytes)
            } else if self.in_page_header() {
                self.read_page_header(&mut bytes, sink)
            } else {
                self.read_page_rest(&mut bytes, sink)
            };
            if let Err(violation) = result {
                self.failed = Some(violation);
                return Err(violation);
            }
        }
        debug_assert!(self.verified <= self.next);
        Ok(())
    }

    fn in_page_header(&self) -> bool {
        let page = self.next.align_down(PAGE_BYTES);
        offset_in_page(self.next) < header_len(page, self.want.segment_size)
    }

    fn advance(&mut self, bytes: usize) {
        self.next = self.next + to_u64(bytes);
    }

    /// PostgreSQL pretends that the switch record extends to the end of its segment.
    fn read_filling(&mut self, bytes: &mut &[u8]) -> Result<(), WalViolation> {
        let size = self.want.segment_size.bytes();
        let left = size - self.want.segment_size.offset(self.next);
        let taken = to_usize(left).min(bytes.len());
        let (filling, rest) = bytes.split_at(taken);
        let checked = self.filling_checked_to.0.saturating_sub(self.next.0);
        let checked = to_usize(checked).min(taken);
        if let Some((zeros, got)) = first_non_zero(filling.split_at(checked).0) {
            self.advance(zeros);
            self.verified = self.next;
            return Err(WalViolation::Filling { at: self.next, got });
        }
        *bytes = rest;
        self.advance(taken);
        self.verified = self.next;
        if self.want.segment_size.offset(self.next) == 0 {
            self.phase = Phase::Header { got: 0 };
        }
        Ok(())
    }

    fn read_page_header(
        &mut self,
        bytes: &mut &[u8],
        sink: &mut impl RecordSink,
    ) -> Result<(), WalViolation> {
        let page = self.next.align_down(PAGE_BYTES);
        let len = header_len(page, self.want.segment_size);
        let got = offset_in_page(self.next);
        let taken = fill(self.page_header.split_at_mut(len).0, got, bytes);
        *bytes = bytes.split_at(taken).1;
        self.advance(taken);
        if got + taken < len {
            return Ok(());
        }
        // Past `len` lies the long header of an older page, if anything. A short header that claims
        // to be long is refused before that is looked at.
        let Some(header) = PageHeader::decode(&self.page_header) else { return Ok(()) };
        header.check(page, &self.want).map_err(WalViolation::Page)?;
        self.check_void(page)?;
        self.want.version = WalVersion::from_magic(header.magic);
        self.want.version.into_iter().for_each(|version| sink.version(version));
        self.want.tli_min = TimelineId::new(header.tli).unwrap_or(TimelineId::FIRST);
        self.enter_page(page, &header)
    }

    /// What no checksum covers and no reader uses is zero. PostgreSQL: `AdvanceXLInsertBuffer` clears a page
    /// before anything is put on it.
    fn check_void(&self, page: Lsn) -> Result<(), WalViolation> {
        let at = page + to_u64(SHORT_HEADER_LEN - VOID_LEN);
        let void = self.page_header.get(SHORT_HEADER_LEN - VOID_LEN..SHORT_HEADER_LEN);
        match void.and_then(first_non_zero) {
            Some((zeros, got)) => Err(WalViolation::Filling { at: at + to_u64(zeros), got }),
            None => Ok(()),
        }
    }

    /// Relates what was under way at the end of the last page to how this page says it begins.
    fn enter_page(&mut self, page: Lsn, header: &PageHeader) -> Result<(), WalViolation> {
        let first = core::mem::replace(&mut self.may_begin_inside, false);
        let left = match self.phase {
            Phase::Header { got: 0 } if !header.has(FIRST_IS_CONTRECORD) => {
                return nothing_left(page, header);
            }
            Phase::Header { got: 0 } if !first => {
                return Err(WalViolation::ContrecordRequested { at: self.next });
            }
            Phase::Header { got: 0 } => {
                self.record.start = page;
                self.phase = Phase::Unseen { left: header.rem_len };
                header.rem_len
            }
            // Pages and records are aligned, so the length is among the bytes that are there.
            Phase::Header { got } => less(self.record_len()?, got),
            Phase::Payload { left } | Phase::Unseen { left } => left,
            Phase::Padding { .. } | Phase::Switched => unreachable!("filling crosses no page"),
        };
        if header.has(FIRST_IS_OVERWRITE_CONTRECORD) {
            // The rest of the record was lost in a crash; this page begins with a new one, which
            // points back to the last whole one.
            self.phase = Phase::Header { got: 0 };
            return nothing_left(page, header);
        }
        let at = self.record.start;
        if !header.has(FIRST_IS_CONTRECORD) {
            return Err(WalViolation::NoContrecordFlag { at, page });
        }
        if header.rem_len == 0 || header.rem_len != left {
            return Err(WalViolation::ContrecordLength {
                at,
                page,
                got: header.rem_len,
                want: left,
            });
        }
        Ok(())
    }

    /// Reads one thing that ends on this page or goes on to its end.
    fn read_page_rest(
        &mut self,
        bytes: &mut &[u8],
        sink: &mut impl RecordSink,
    ) -> Result<(), WalViolation> {
        let room = PAGE_LEN - offset_in_page(self.next);
        let on_page = bytes.split_at(room.min(bytes.len())).0;
        let (taken, left) = match self.phase {
            Phase::Header { got } => {
                return self.read_record_header(got, on_page, bytes, sink);
            }
            Phase::Payload { left } => {
                let taken = at_most(left, on_page);
                self.record_crc = (self.crc)(self.record_crc, taken);
                sink.body(&self.record, taken);
                (taken.len(), less(left, taken.len()))
            }
            Phase::Unseen { left } => {
                let taken = at_most(left, on_page).len();
                (taken, less(left, taken))
            }
            Phase::Padding { left } => {
                let taken = at_most(left, on_page);
                if let Some((zeros, got)) = first_non_zero(taken) {
                    return Err(WalViolation::Filling { at: self.next + to_u64(zeros), got });
                }
                (taken.len(), less(left, taken.len()))
            }
            Phase::Switched => unreachable!("skipped by the caller"),
        };
        *bytes = bytes.split_at(taken).1;
        self.advance(taken);
        match (&mut self.phase, left) {
            (
                Phase::Payload { left } | Phase::Unseen { left } | Phase::Padding { left },
                rest @ 1..,
            ) => *left = rest,
            (Phase::Payload { .. }, 0) => self.finish_record(sink)?,
            (Phase::Unseen { .. }, 0) => self.pad(None, sink),
            (Phase::Padding { .. }, 0) => self.end_record(sink),
            (Phase::Header { .. } | Phase::Switched, _) => unreachable!("not read here"),
        }
        Ok(())
    }

    fn read_record_header(
        &mut self,
        got: usize,
        on_page: &[u8],
        bytes: &mut &[u8],
        sink: &mut impl RecordSink,
    ) -> Result<(), WalViolation> {
        if got == 0 {
            self.record.start = self.next;
        }
        let taken = fill(&mut self.header, got, on_page);
        *bytes = bytes.split_at(taken).1;
        self.advance(taken);
        let got = got + taken;
        if got >= 4 {
            self.record_len()?;
        }
        if got < RECORD_HEADER_LEN {
            self.phase = Phase::Header { got };
            return Ok(());
        }
        self.begin_record(sink)?;
        let left = less(self.record.len, RECORD_HEADER_LEN);
        self.phase = Phase::Payload { left };
        if left == 0 { self.finish_record(sink) } else { Ok(()) }
    }

    /// `xl_tot_len`, as soon as it is there.
    fn record_len(&self) -> Result<u32, WalViolation> {
        let len = self.header_u32::<0>();
        let at = self.record.start;
        if len < RECORD_LEN_MIN {
            return Err(WalViolation::RecordLength { at, got: len, want: RECORD_LEN_MIN });
        }
        if len > RECORD_LEN_MAX {
            return Err(WalViolation::RecordTooLong { at, got: len, max: RECORD_LEN_MAX });
        }
        Ok(len)
    }

    /// PostgreSQL: `ValidXLogRecordHeader`.
    fn begin_record(&mut self, sink: &mut impl RecordSink) -> Result<(), WalViolation> {
        let at = self.record.start;
        // The last eight bytes: xl_info, xl_rmid, two unused, xl_crc.
        let [.., info, rmid, _, _, _, _, _, _] = self.header;
        let (low, high) = (self.header_u32::<8>(), self.header_u32::<12>());
        let prev = Lsn(u64::from(high) << 32 | u64::from(low));
        self.record = RecordHeader {
            start: at,
            end: at,
            prev,
            len: self.record_len()?,
            xid: self.header_u32::<4>(),
            rmid,
            info,
        };
        if self.want.version.is_some_and(|version| !version.has_rmgr(rmid)) {
            return Err(WalViolation::ResourceManager { at, got: rmid });
        }
        // Without the record before, all that is sure is that it lies before.
        if self.last_record.map_or(prev >= at, |want| prev != want) {
            return Err(WalViolation::PrevLink { at, got: prev, want: self.last_record });
        }
        self.record_crc = 0;
        sink.begin(&self.record);
        Ok(())
    }

    /// PostgreSQL: `ValidXLogRecord`: the payload first, the header last.
    fn finish_record(&mut self, sink: &mut impl RecordSink) -> Result<(), WalViolation> {
        let (checked, _) = self.header.split_at(CHECKED_HEADER_LEN);
        let got = (self.crc)(self.record_crc, checked);
        let want = self.header_u32::<CHECKED_HEADER_LEN>();
        if got != want {
            return Err(WalViolation::Checksum { at: self.record.start, got, want });
        }
        self.pad(Some(self.record.len), sink);
        Ok(())
    }

    /// Goes on to the next aligned position. `len` is `None` for a record that was not verified.
    fn pad(&mut self, len: Option<u32>, sink: &mut impl RecordSink) {
        self.record.len = len.unwrap_or(0);
        self.record.end = self.next.maxalign();
        if self.record.end == self.next {
            self.end_record(sink);
        } else {
            let left = u32::try_from(self.record.end - self.next).expect("less than eight");
            self.phase = Phase::Padding { left };
        }
    }

    fn end_record(&mut self, sink: &mut impl RecordSink) {
        self.verified = self.next;
        self.phase = Phase::Header { got: 0 };
        if self.record.len == 0 {
            self.unseen_end = Some(self.next);
            return;
        }
        self.last_record = Some(self.record.start);
        self.filling = None;
        if self.record.is_switch() && self.want.segment_size.offset(self.next) != 0 {
            self.phase = Phase::Switched;
            self.filling = Some(self.next);
        }
        sink.record(&self.record);
    }

    fn header_u32<const AT: usize>(&self) -> u32 {
        self.header
            .get(AT..)
            .and_then(|bytes| bytes.first_chunk())
            .map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }
}

/// Where on its page `lsn` lies.
fn offset_in_page(lsn: Lsn) -> usize {
    to_usize(lsn.0 % PAGE_BYTES)
}

/// `left` less `bytes`, which is never more.
fn less(left: u32, bytes: usize) -> u32 {
    left.checked_sub(to_u32(bytes)).expect("no more is taken than is left")
}

/// A page that begins with a record of its own has nothing left of another.
fn nothing_left(page: Lsn, header: &PageHeader) -> Result<(), WalViolation> {
    match header.rem_len {
        0 => Ok(()),
        got => Err(WalViolation::ContrecordLength { at: page, page, got, want: 0 }),
    }
}

/// How many zeros `bytes` begin with, and the byte after them; `None` when there is nothing else.
fn first_non_zero(bytes: &[u8]) -> Option<(usize, u8)> {
    // Whole pieces are looked at without a branch for each byte.
    let zeros =
        bytes.chunks(64).take_while(|piece| piece.iter().fold(0, |or, byte| or | byte) == 0);
    let passed: usize = zeros.map(<[u8]>::len).sum();
    let rest = bytes.get(passed..).unwrap_or_default();
    let (more, &got) = rest.iter().enumerate().find(|(_, byte)| **byte != 0)?;
    Some((passed + more, got))
}

/// The first `max` bytes, or all when there are fewer.
fn at_most(max: u32, bytes: &[u8]) -> &[u8] {
    bytes.split_at(to_usize(max.into()).min(bytes.len())).0
}

/// Fills `buffer` from its byte `got` on with the front of `bytes`; returns how many it took.
fn fill(buffer: &mut [u8], got: usize, bytes: &[u8]) -> usize {
    let room = buffer.split_at_mut(got).1;
    let taken = room.len().min(bytes.len());
    room.split_at_mut(taken).0.copy_from_slice(bytes.split_at(taken).0);
    taken
}

#[cfg(test)]
mod tests;
