//! How WAL can be wrong, in PostgreSQL's words.

use core::fmt;

use crate::lsn::Lsn;
use crate::page::{PageRule, PageViolation};

/// A rule that a WAL stream breaks.
///
/// `Display` gives the words of PostgreSQL 15; [`WalViolation::numbers`] what it leaves out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalViolation {
    /// A page header is not the one which belongs there.
    Page(PageViolation),
    /// `xl_tot_len` is shorter than a header. Where WAL ends, zeros say so.
    RecordLength {
        /// Start of the record.
        at: Lsn,
        /// `xl_tot_len`.
        got: u32,
        /// The least it can be.
        want: u32,
    },
    /// `xl_tot_len` is longer than any record.
    RecordTooLong {
        /// Start of the record.
        at: Lsn,
        /// `xl_tot_len`.
        got: u32,
        /// The most it can be.
        max: u32,
    },
    /// `xl_rmid` is no resource manager of this version.
    ResourceManager {
        /// Start of the record.
        at: Lsn,
        /// `xl_rmid`.
        got: u8,
    },
    /// `xl_prev` does not point to the record before.
    PrevLink {
        /// Start of the record.
        at: Lsn,
        /// `xl_prev`.
        got: Lsn,
        /// The record before; `None` when it is unknown and `got` does not even lie before.
        want: Option<Lsn>,
    },
    /// The checksum does not fit header and payload.
    Checksum {
        /// Start of the record.
        at: Lsn,
        /// Of what was read.
        got: u32,
        /// `xl_crc`.
        want: u32,
    },
    /// The page goes on with a record, but none is under way.
    ContrecordRequested {
        /// End of the page's header.
        at: Lsn,
    },
    /// A record is under way, but the page does not go on with it.
    NoContrecordFlag {
        /// Start of the record.
        at: Lsn,
        /// Start of the page.
        page: Lsn,
    },
    /// The page goes on with a record that has another number of bytes left.
    ContrecordLength {
        /// Start of the record.
        at: Lsn,
        /// Start of the page.
        page: Lsn,
        /// `xlp_rem_len`.
        got: u32,
        /// What is left of the record.
        want: u32,
    },
    /// What is always zero is not: the filling after a segment switch, the bytes between a record and the
    /// next aligned position, the end of a page header.
    Filling {
        /// Where the byte lies.
        at: Lsn,
        /// The byte that stands there.
        got: u8,
    },
}

impl WalViolation {
    /// Where the record or page begins that breaks the rule.
    #[must_use]
    pub const fn lsn(&self) -> Lsn {
        match self {
            Self::Page(page) => page.at,
            Self::RecordLength { at, .. }
            | Self::RecordTooLong { at, .. }
            | Self::ResourceManager { at, .. }
            | Self::PrevLink { at, .. }
            | Self::Checksum { at, .. }
            | Self::ContrecordRequested { at }
            | Self::NoContrecordFlag { at, .. }
            | Self::ContrecordLength { at, .. }
            | Self::Filling { at, .. } => *at,
        }
    }

    /// What was found and what should have been, for the detail line of an error.
    #[must_use]
    pub const fn numbers(&self) -> Numbers<'_> {
        Numbers(self)
    }
}

impl fmt::Display for WalViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page(page) => fmt::Display::fmt(page, f),
            Self::RecordLength { at, got, want } => {
                write!(f, "invalid record length at {at}: wanted {want}, got {got}")
            }
            Self::RecordTooLong { at, got, .. } => {
                write!(f, "record length {got} at {at} too long")
            }
            Self::ResourceManager { at, got } => {
                write!(f, "invalid resource manager ID {got} at {at}")
            }
            Self::PrevLink { at, got, .. } => {
                write!(f, "record with incorrect prev-link {got} at {at}")
            }
            Self::Checksum { at, .. } => {
                write!(f, "incorrect resource manager data checksum in record at {at}")
            }
            Self::ContrecordRequested { at } => write!(f, "contrecord is requested by {at}"),
            Self::NoContrecordFlag { at, .. } => {
                write!(f, "there is no contrecord flag at {at}")
            }
            Self::ContrecordLength { at, got, want, .. } => {
                write!(f, "invalid contrecord length {got} (expected {want}) at {at}")
            }
            Self::Filling { at, .. } => {
                write!(f, "invalid filling at {at}: a byte that belongs to no record is not zero")
            }
        }
    }
}

/// Prints what a [`WalViolation`] found and what should have been, as `got .., want ..`.
#[derive(Clone, Copy, Debug)]
pub struct Numbers<'a>(&'a WalViolation);

impl fmt::Display for Numbers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            WalViolation::Page(page) => page_numbers(page, f),
            WalViolation::RecordLength { got, want, .. } => {
                write!(f, "got length {got}, want at least {want}")
            }
            WalViolation::RecordTooLong { got, max, .. } => {
                write!(f, "got length {got}, want at most {max}")
            }
            WalViolation::ResourceManager { got, .. } => {
                write!(f, "got resource manager {got}, want one that exists")
            }
            WalViolation::PrevLink { got, want: Some(want), .. } => {
                write!(f, "got prev-link {got}, want {want}")
            }
            WalViolation::PrevLink { at, got, want: None } => {
                write!(f, "got prev-link {got}, want one before {at}")
            }
            WalViolation::Checksum { got, want, .. } => {
                write!(f, "got checksum {got:08X}, want {want:08X}")
            }
            WalViolation::ContrecordRequested { .. } => {
                f.write_str("got the rest of a record, want a new one")
            }
            WalViolation::NoContrecordFlag { page, .. } => {
                write!(f, "got a new record on page {page}, want the rest of one")
            }
            WalViolation::ContrecordLength { page, got, want, .. } => {
                write!(f, "got {got} bytes left on page {page}, want {want}")
            }
            WalViolation::Filling { got, .. } => write!(f, "got byte {got:02X}, want 00"),
        }
    }
}

fn page_numbers(page: &PageViolation, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match page.rule {
        PageRule::Magic { got, want: Some(want) } => {
            write!(f, "got magic {got:04X}, want {:04X}", want.magic())
        }
        PageRule::Magic { got, want: None } => write!(f, "got magic {got:04X}, want D1xx"),
        PageRule::InfoBits { got } => {
            let offset = page.segment_size.offset(page.at);
            let header = if offset == 0 { "a long" } else { "a short" };
            write!(f, "got info bits {got:04X}, want those of {header} header")
        }
        PageRule::SystemIdentifier { got, want } => {
            write!(f, "got system identifier {got}, want {want}")
        }
        PageRule::SegmentSize { got } => {
            write!(f, "got segment size {got}, want {}", page.segment_size.bytes())
        }
        PageRule::PageLen { got } => write!(f, "got page length {got}, want 8192"),
        PageRule::PageAddr { got } => write!(f, "got pageaddr {got}, want {}", page.at),
        PageRule::TimelineOutOfSequence { got, after } => {
            write!(f, "got timeline {got}, want {after} or later")
        }
        PageRule::UnexpectedTimeline { got } => {
            write!(f, "got timeline {got}, want {} or earlier", page.tli)
        }
    }
}
