//! Segments: the files that WAL is kept in, their size and their names.
//!
//! Not here: reading or writing them (the daemon's `hub`), page headers (`page`).
//!
//! PostgreSQL: `XLByteToSeg`, `XLByteToPrevSeg`, `XLogFileName`
//! (src/include/access/xlog_internal.h).

use alloc::format;
use alloc::string::String;
use core::fmt;

use crate::convert::low_u32;
use crate::lsn::{Lsn, TimelineId};

/// Size of every segment of a cluster: a power of two from 1 MiB to 1 GiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentSize(u64);

impl SegmentSize {
    /// PostgreSQL's default, 16 MiB.
    pub const DEFAULT: Self = Self(16 << 20);
    /// The smallest that PostgreSQL allows. PostgreSQL: `WalSegMinSize`.
    pub const MIN: Self = Self(1 << 20);
    /// The largest that PostgreSQL allows. PostgreSQL: `WalSegMaxSize`.
    pub const MAX: Self = Self(1 << 30);

    /// `None` unless `bytes` is a power of two within the bounds. PostgreSQL: `IsValidWalSegSize`.
    #[must_use]
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= Self::MIN.0 && bytes <= Self::MAX.0 {
            Some(Self(bytes))
        } else {
            None
        }
    }

    /// How many bytes a segment has.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Size in bytes, as page headers and the control file have it.
    #[must_use]
    pub const fn to_u32(self) -> u32 {
        low_u32(self.0)
    }

    /// Where in its segment `lsn` lies. PostgreSQL: `XLogSegmentOffset`.
    #[must_use]
    pub const fn offset(self, lsn: Lsn) -> u64 {
        lsn.0 & (self.0 - 1)
    }

    /// First position of the segment that holds the byte at `lsn`.
    #[must_use]
    pub const fn start_of(self, lsn: Lsn) -> Lsn {
        lsn.align_down(self.0)
    }

    /// Segments in 4 GiB, the unit of a file name's middle part. PostgreSQL: `XLogSegmentsPerXLogId`.
    const fn per_xlog_id(self) -> u64 {
        (1 << 32) / self.0
    }
}

impl fmt::Display for SegmentSize {
    /// As `SHOW wal_segment_size` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 1 << 30 {
            write!(f, "{}GB", self.0 >> 30)
        } else {
            write!(f, "{}MB", self.0 >> 20)
        }
    }
}

/// The number of a segment, counted from position zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegNo(pub u64);

impl SegNo {
    /// The segment that holds the byte at `lsn`. PostgreSQL: `XLByteToSeg`.
    #[must_use]
    pub const fn of_start(lsn: Lsn, size: SegmentSize) -> Self {
        Self(lsn.0 / size.0)
    }

    /// The segment that holds the byte before the end position `lsn`.
    ///
    /// An end on a segment boundary belongs to the segment that it finishes.
    /// PostgreSQL: `XLByteToPrevSeg`.
    #[must_use]
    pub const fn of_end(lsn: Lsn, size: SegmentSize) -> Self {
        Self(lsn.0.saturating_sub(1) / size.0)
    }

    /// First position of the segment.
    #[must_use]
    pub const fn start(self, size: SegmentSize) -> Lsn {
        Lsn(self.0 * size.0)
    }

    /// One past the last position of the segment.
    #[must_use]
    pub const fn end(self, size: SegmentSize) -> Lsn {
        Lsn((self.0 + 1) * size.0)
    }

    /// The segment after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Name of the segment's file on `tli`. PostgreSQL: `XLogFileName`.
    #[must_use]
    pub fn file_name(self, tli: TimelineId, size: SegmentSize) -> String {
        let per_id = size.per_xlog_id();
        format!("{:08X}{:08X}{:08X}", tli.to_u32(), self.0 / per_id, self.0 % per_id)
    }

    /// Timeline and number in a segment's file name; `None` when it is not one.
    ///
    /// PostgreSQL: `IsXLogFileName`, `XLogFromFileName`.
    #[must_use]
    pub fn parse_file_name(name: &str, size: SegmentSize) -> Option<(TimelineId, Self)> {
        let upper_hex = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
        if name.len() != 24 || !name.bytes().all(upper_hex) {
            return None;
        }
        let part = |range| name.get(range).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let (tli, id, seg) = (part(0..8)?, u64::from(part(8..16)?), u64::from(part(16..24)?));
        if seg >= size.per_xlog_id() {
            return None;
        }
        Some((TimelineId::new(tli)?, Self(id * size.per_xlog_id() + seg)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [u64; 4] = [1 << 20, 16 << 20, 64 << 20, 1 << 30];

    #[test]
    fn only_powers_of_two_within_bounds_are_sizes() {
        for bytes in [0, 1, 1 << 19, 3 << 20, (16 << 20) + 1, 1 << 31] {
            assert_eq!(SegmentSize::new(bytes), None, "{bytes}");
        }
        for bytes in SIZES {
            assert_eq!(SegmentSize::new(bytes).map(SegmentSize::bytes), Some(bytes));
        }
    }

    #[test]
    fn end_lsn_on_segment_boundary_belongs_to_previous_segment() {
        let size = SegmentSize::DEFAULT;
        let boundary = Lsn(3 << 24);
        assert_eq!(SegNo::of_start(boundary, size), SegNo(3));
        assert_eq!(SegNo::of_end(boundary, size), SegNo(2));
        assert_eq!(SegNo::of_end(boundary + 1, size), SegNo(3));
    }

    #[test]
    fn file_names_round_trip_at_every_size() {
        for bytes in SIZES {
            let size = SegmentSize::new(bytes).unwrap();
            for segno in [0, 1, 254, 255, 256, 257, 4095, 4096, 1 << 20] {
                let name = SegNo(segno).file_name(TimelineId::FIRST, size);
                let parsed = SegNo::parse_file_name(&name, size);
                assert_eq!(parsed, Some((TimelineId::FIRST, SegNo(segno))), "{name}");
            }
        }
        let name = SegNo(256).file_name(TimelineId::new(0x1F).unwrap(), SegmentSize::DEFAULT);
        assert_eq!(name, "0000001F0000000100000000");
    }

    #[test]
    fn names_of_other_files_are_not_segments() {
        let size = SegmentSize::DEFAULT;
        for name in [
            "00000001000000000000000",
            "0000000100000000000000001",
            "00000001000000000000000a",
            "000000010000000000000100",
            "000000000000000000000001",
            "000000010000000000000001.partial",
            "00000002.history",
        ] {
            assert_eq!(SegNo::parse_file_name(name, size), None, "{name}");
        }
    }
}
