//! WAL page headers, one WAL version per PostgreSQL major.
//!
//! Every 8 KiB of WAL begin with a header; the first page of a segment has a longer one that says
//! whose WAL it is. Fields are little-endian: walhub serves clusters of little-endian machines.
//!
//! Not here: what lies between the headers (`record`).
//!
//! PostgreSQL: `XLogPageHeaderData`, `XLogLongPageHeaderData` (src/include/access/xlog_internal.h),
//! `XLogReaderValidatePageHeader` (src/backend/access/transam/xlogreader.c).

use alloc::vec::Vec;
use core::fmt;

use crate::convert::to_u64;
use crate::lsn::{Lsn, SystemIdentifier, TimelineId};
use crate::segment::{SegNo, SegmentSize};

/// Bytes of a page. PostgreSQL: `XLOG_BLCKSZ`.
pub const PAGE_LEN: usize = 8192;
/// [`PAGE_LEN`], as positions count.
pub const PAGE_BYTES: u64 = 8192;
/// Bytes of most headers. PostgreSQL: `SizeOfXLogShortPHD`.
pub const SHORT_HEADER_LEN: usize = 24;
/// Bytes of the header of a segment's first page. PostgreSQL: `SizeOfXLogLongPHD`.
pub const LONG_HEADER_LEN: usize = 40;

const _: () = assert!(SHORT_HEADER_LEN == 2 + 2 + 4 + 8 + 4 + 4);
const _: () = assert!(LONG_HEADER_LEN == SHORT_HEADER_LEN + 8 + 4 + 4);
const _: () = assert!(PAGE_LEN as u64 == PAGE_BYTES && PAGE_BYTES.is_power_of_two());

/// The page begins with the rest of a record. PostgreSQL: `XLP_FIRST_IS_CONTRECORD`.
pub const FIRST_IS_CONTRECORD: u16 = 0x0001;
/// The header is the long one. PostgreSQL: `XLP_LONG_HEADER`.
pub const LONG_HEADER: u16 = 0x0002;
/// Full-page images that follow may be dropped. PostgreSQL: `XLP_BKP_REMOVABLE`.
pub const BKP_REMOVABLE: u16 = 0x0004;
/// The record that should go on here was lost and is void.
/// PostgreSQL: `XLP_FIRST_IS_OVERWRITE_CONTRECORD`.
pub const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
/// PostgreSQL: `XLP_ALL_FLAGS`.
const ALL_FLAGS: u16 =
    FIRST_IS_CONTRECORD | LONG_HEADER | BKP_REMOVABLE | FIRST_IS_OVERWRITE_CONTRECORD;

/// The format of WAL: one per PostgreSQL major. PostgreSQL: `XLOG_PAGE_MAGIC`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct WalVersion(u16);

impl WalVersion {
    /// PostgreSQL 13.
    pub const PG13: Self = Self(0xD106);
    /// PostgreSQL 14.
    pub const PG14: Self = Self(0xD10D);
    /// PostgreSQL 15.
    pub const PG15: Self = Self(0xD110);
    /// PostgreSQL 16.
    pub const PG16: Self = Self(0xD113);
    /// PostgreSQL 17.
    pub const PG17: Self = Self(0xD116);
    /// PostgreSQL 18.
    pub const PG18: Self = Self(0xD118);

    const KNOWN: [(u32, Self); 6] = [
        (13, Self::PG13),
        (14, Self::PG14),
        (15, Self::PG15),
        (16, Self::PG16),
        (17, Self::PG17),
        (18, Self::PG18),
    ];

    /// The version with this magic number; `None` when it cannot be one.
    ///
    /// A number that no known major has is taken, as a version without a [`WalVersion::major`]:
    /// pages and records have had one layout since 9.5.
    #[must_use]
    pub const fn from_magic(magic: u16) -> Option<Self> {
        if magic & 0xFF00 == 0xD100 { Some(Self(magic)) } else { None }
    }

    /// The version that PostgreSQL `major` writes.
    #[must_use]
    pub fn of_major(major: u32) -> Option<Self> {
        Self::KNOWN.iter().find(|(known, _)| *known == major).map(|(_, version)| *version)
    }

    /// The number on every page.
    #[must_use]
    pub const fn magic(self) -> u16 {
        self.0
    }

    /// The PostgreSQL major that writes it, when known.
    #[must_use]
    pub fn major(self) -> Option<u32> {
        Self::KNOWN.iter().find(|(_, version)| *version == self).map(|(major, _)| *major)
    }

    /// Whether records have the layouts of `first` or of a later major.
    #[must_use]
    pub const fn is_since(self, first: Self) -> bool {
        self.0 >= first.0
    }

    /// Whether a record may belong to `rmid`. PostgreSQL: `RmgrIdIsValid`.
    ///
    /// Every known major has 22 built-in resource managers; extensions have the upper half since
    /// 15. Of an unknown version nothing is known.
    #[must_use]
    pub const fn has_rmgr(self, rmid: u8) -> bool {
        match self {
            Self::PG13 | Self::PG14 => rmid < 22,
            Self::PG15 | Self::PG16 | Self::PG17 | Self::PG18 => rmid < 22 || rmid >= 128,
            Self(_) => true,
        }
    }
}

impl fmt::Debug for WalVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04X}", self.0)
    }
}

/// Bytes of the header of the page at `page_addr`. PostgreSQL: `XLogPageHeaderSize`.
///
/// By position, not by flag: PostgreSQL writes the long header at the start of each segment and
/// nowhere else, and [`PageHeader::check`] holds it to that.
#[must_use]
pub const fn header_len(page_addr: Lsn, segment_size: SegmentSize) -> usize {
    if segment_size.offset(page_addr) == 0 { LONG_HEADER_LEN } else { SHORT_HEADER_LEN }
}

/// Where a record starts when the one before it ends at `lsn`: after the page header, when one is due.
/// PostgreSQL: `XLogBytePosToRecPtr`.
#[must_use]
pub fn record_start(lsn: Lsn, segment_size: SegmentSize) -> Lsn {
    if lsn.0.is_multiple_of(PAGE_BYTES) { lsn + to_u64(header_len(lsn, segment_size)) } else { lsn }
}

/// What the first page of a segment says beside what all pages say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LongHeader {
    /// `xlp_sysid`.
    pub system_identifier: SystemIdentifier,
    /// `xlp_seg_size`.
    pub segment_size: u32,
    /// `xlp_xlog_blcksz`.
    pub page_len: u32,
}

/// A page header as it is on the page, right or wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageHeader {
    /// `xlp_magic`.
    pub magic: u16,
    /// `xlp_info`: [`FIRST_IS_CONTRECORD`] and its like.
    pub info: u16,
    /// `xlp_tli`: timeline of the first record on the page; zero on no valid page.
    pub tli: u32,
    /// `xlp_pageaddr`.
    pub page_addr: Lsn,
    /// `xlp_rem_len`: bytes of the contrecord that are still to come, those of this page included.
    pub rem_len: u32,
    /// Present when `info` has [`LONG_HEADER`].
    pub long: Option<LongHeader>,
}

impl PageHeader {
    /// Decodes the header at the start of `bytes`; `None` when it is not all there.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let mut header = Self {
            magic: u16::from_le_bytes(fields.take()?),
            info: u16::from_le_bytes(fields.take()?),
            tli: u32::from_le_bytes(fields.take()?),
            page_addr: Lsn(u64::from_le_bytes(fields.take()?)),
            rem_len: u32::from_le_bytes(fields.take()?),
            long: None,
        };
        fields.take::<4>()?;
        if header.info & LONG_HEADER != 0 {
            header.long = Some(LongHeader {
                system_identifier: SystemIdentifier(u64::from_le_bytes(fields.take()?)),
                segment_size: u32::from_le_bytes(fields.take()?),
                page_len: u32::from_le_bytes(fields.take()?),
            });
        }
        Some(header)
    }

    /// Appends the header to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (bytes, len) = self.to_bytes();
        out.extend_from_slice(bytes.split_at(len).0);
    }

    /// The header, and how many of the bytes it has.
    #[must_use]
    pub fn to_bytes(&self) -> ([u8; LONG_HEADER_LEN], usize) {
        let mut bytes = [0; LONG_HEADER_LEN];
        let mut rest = bytes.as_mut_slice();
        let mut put = |field: &[u8]| {
            let (head, tail) = core::mem::take(&mut rest).split_at_mut(field.len());
            head.copy_from_slice(field);
            rest = tail;
        };
        put(&self.magic.to_le_bytes());
        put(&self.info.to_le_bytes());
        put(&self.tli.to_le_bytes());
        put(&self.page_addr.0.to_le_bytes());
        put(&self.rem_len.to_le_bytes());
        put(&[0; 4]);
        if let Some(long) = &self.long {
            put(&long.system_identifier.0.to_le_bytes());
            put(&long.segment_size.to_le_bytes());
            put(&long.page_len.to_le_bytes());
        }
        (bytes, if self.long.is_some() { LONG_HEADER_LEN } else { SHORT_HEADER_LEN })
    }

    /// Whether `info` has `flag`.
    #[must_use]
    pub const fn has(&self, flag: u16) -> bool {
        self.info & flag != 0
    }

    /// Whether this is the header of the page at `at`, in the WAL that `want` describes.
    ///
    /// # Errors
    /// The first rule that it breaks, in the order in which PostgreSQL looks.
    pub fn check(&self, at: Lsn, want: &PageWant) -> Result<(), PageViolation> {
        match self.broken_rule(at, want) {
            None => Ok(()),
            Some(rule) => Err(PageViolation {
                at,
                tli: want.timeline.unwrap_or(TimelineId::FIRST),
                segment_size: want.segment_size,
                rule,
            }),
        }
    }

    fn broken_rule(&self, at: Lsn, want: &PageWant) -> Option<PageRule> {
        let got = WalVersion::from_magic(self.magic);
        if got.is_none() || want.version.is_some_and(|version| got != Some(version)) {
            return Some(PageRule::Magic { got: self.magic, want: want.version });
        }
        let first_of_segment = want.segment_size.offset(at) == 0;
        if self.info & !ALL_FLAGS != 0 || self.has(LONG_HEADER) != first_of_segment {
            return Some(PageRule::InfoBits { got: self.info });
        }
        if let Some(rule) = self.long.and_then(|long| long.broken_rule(want)) {
            return Some(rule);
        }
        if self.page_addr != at {
            return Some(PageRule::PageAddr { got: self.page_addr });
        }
        // A child's timeline is greater than its parent's, so timelines never go back.
        if self.tli < want.tli_min.to_u32() {
            return Some(PageRule::TimelineOutOfSequence { got: self.tli, after: want.tli_min });
        }
        // Nor is there a page of a timeline that began later than the one being read.
        if want.timeline.is_some_and(|timeline| self.tli > timeline.to_u32()) {
            return Some(PageRule::UnexpectedTimeline { got: self.tli });
        }
        None
    }
}

impl LongHeader {
    fn broken_rule(self, want: &PageWant) -> Option<PageRule> {
        if let Some(system_identifier) = want.system_identifier
            && self.system_identifier != system_identifier
        {
            let got = self.system_identifier;
            return Some(PageRule::SystemIdentifier { got, want: system_identifier });
        }
        if u64::from(self.segment_size) != want.segment_size.bytes() {
            return Some(PageRule::SegmentSize { got: self.segment_size });
        }
        if u64::from(self.page_len) != PAGE_BYTES {
            return Some(PageRule::PageLen { got: self.page_len });
        }
        None
    }
}

/// What is known about the WAL that a page should belong to.
#[derive(Clone, Copy, Debug)]
pub struct PageWant {
    /// Size of its segments.
    pub segment_size: SegmentSize,
    /// Its version: that of the pages before.
    pub version: Option<WalVersion>,
    /// The cluster that the WAL must be of; `None` while it is not known.
    pub system_identifier: Option<SystemIdentifier>,
    /// Timeline of the page before, or the first.
    pub tli_min: TimelineId,
    /// The timeline that is being read: no page belongs to a later one. It names the file too.
    pub timeline: Option<TimelineId>,
}

impl PageWant {
    /// Knows nothing but the segment size.
    #[must_use]
    pub const fn new(segment_size: SegmentSize) -> Self {
        Self {
            segment_size,
            version: None,
            system_identifier: None,
            tli_min: TimelineId::FIRST,
            timeline: None,
        }
    }
}

/// A page header that is not the one which belongs there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageViolation {
    /// Where the page lies.
    pub at: Lsn,
    /// Timeline in the name of the file.
    pub tli: TimelineId,
    /// Size of the file.
    pub segment_size: SegmentSize,
    /// The rule that the page breaks.
    pub rule: PageRule,
}

/// The rules for page headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageRule {
    /// `xlp_magic` is that of the pages before.
    Magic {
        /// What the page has.
        got: u16,
        /// `None` when any version would do.
        want: Option<WalVersion>,
    },
    /// `xlp_info` has known flags only, and the long header is where it belongs.
    InfoBits {
        /// What the page has.
        got: u16,
    },
    /// `xlp_sysid` is the cluster's.
    SystemIdentifier {
        /// What the page has.
        got: SystemIdentifier,
        /// What the cluster has.
        want: SystemIdentifier,
    },
    /// `xlp_seg_size` is the cluster's.
    SegmentSize {
        /// What the page has.
        got: u32,
    },
    /// `xlp_xlog_blcksz` is [`PAGE_LEN`].
    PageLen {
        /// What the page has.
        got: u32,
    },
    /// `xlp_pageaddr` is where the page lies.
    PageAddr {
        /// What the page has.
        got: Lsn,
    },
    /// `xlp_tli` never decreases.
    TimelineOutOfSequence {
        /// What the page has.
        got: u32,
        /// Of the page before.
        after: TimelineId,
    },
    /// `xlp_tli` is not later than the timeline being read.
    UnexpectedTimeline {
        /// What the page has.
        got: u32,
    },
}

impl fmt::Display for PageViolation {
    /// In the words of PostgreSQL 15.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const FOREIGN: &str = "WAL file is from different database system: ";
        let segno = SegNo::of_start(self.at, self.segment_size);
        let file = segno.file_name(self.tli, self.segment_size);
        let offset = self.segment_size.offset(self.at);
        match self.rule {
            PageRule::Magic { got, .. } => {
                write!(f, "invalid magic number {got:04X} in log segment {file}, offset {offset}")
            }
            PageRule::InfoBits { got } => {
                write!(f, "invalid info bits {got:04X} in log segment {file}, offset {offset}")
            }
            PageRule::SystemIdentifier { got, want } => write!(
                f,
                "{FOREIGN}WAL file database system identifier is {got}, \
                 pg_control database system identifier is {want}"
            ),
            PageRule::SegmentSize { .. } => {
                write!(f, "{FOREIGN}incorrect segment size in page header")
            }
            PageRule::PageLen { .. } => {
                write!(f, "{FOREIGN}incorrect XLOG_BLCKSZ in page header")
            }
            PageRule::PageAddr { got } => {
                write!(f, "unexpected pageaddr {got} in log segment {file}, offset {offset}")
            }
            PageRule::TimelineOutOfSequence { got, after } => write!(
                f,
                "out-of-sequence timeline ID {got} (after {after}) \
                 in log segment {file}, offset {offset}"
            ),
            PageRule::UnexpectedTimeline { got } => {
                write!(f, "unexpected timeline ID {got} in log segment {file}, offset {offset}")
            }
        }
    }
}

/// Cuts little-endian fields off the front of a slice.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }
}

#[cfg(test)]
mod tests;
