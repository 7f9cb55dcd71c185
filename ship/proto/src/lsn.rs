//! Positions in the write-ahead log.
//!
//! Not here: which file holds a position (`segment`), or what lies there (`page`, `record`).
//!
//! PostgreSQL: `XLogRecPtr`, `TimeLineID` (src/include/access/xlogdefs.h).

use core::fmt;
use core::num::NonZeroU32;
use core::ops::{Add, Sub};
use core::str::FromStr;

/// A byte position in the WAL of one timeline.
///
/// Progress positions (`flush_lsn`, `write_lsn`, ...) are exclusive ends: "last byte + 1".
/// Zero is PostgreSQL's `InvalidXLogRecPtr`; here it is [`Lsn::INVALID`], and an `Option<Lsn>`
/// wherever absence is a case of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// PostgreSQL's `InvalidXLogRecPtr`.
    pub const INVALID: Self = Self(0);
    /// The last position there can be.
    pub const MAX: Self = Self(u64::MAX);

    /// Whether this is a position at all. PostgreSQL: `XLogRecPtrIsInvalid`.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// `None` for PostgreSQL's invalid position.
    #[must_use]
    pub const fn valid(self) -> Option<Self> {
        if self.is_valid() { Some(self) } else { None }
    }

    /// Rounds up to the 8-byte alignment that records have. PostgreSQL: `MAXALIGN64`.
    #[must_use]
    pub const fn maxalign(self) -> Self {
        Self(self.0.wrapping_add(7) & !7)
    }

    /// Rounds down to a multiple of `unit`, a power of two.
    #[must_use]
    pub const fn align_down(self, unit: u64) -> Self {
        debug_assert!(unit.is_power_of_two());
        Self(self.0 & !(unit - 1))
    }

    /// Rounds up to a multiple of `unit`, a power of two.
    #[must_use]
    pub const fn align_up(self, unit: u64) -> Self {
        debug_assert!(unit.is_power_of_two());
        Self(self.0.wrapping_add(unit - 1) & !(unit - 1))
    }

    /// Bytes from `earlier` to here, zero when `earlier` is not earlier.
    #[must_use]
    pub const fn saturating_bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Lsn {
    type Output = Self;
    fn add(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

impl Sub<Self> for Lsn {
    type Output = u64;
    fn sub(self, earlier: Self) -> u64 {
        self.0 - earlier.0
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not an LSN of the form `X/X`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidLsn;

impl fmt::Display for InvalidLsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid input syntax for type pg_lsn")
    }
}

impl FromStr for Lsn {
    type Err = InvalidLsn;

    /// Parses `X/X`, one to eight hexadecimal digits on each side. PostgreSQL: `pg_lsn_in_internal`.
    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let (high, low) = text.split_once('/').ok_or(InvalidLsn)?;
        let half = |digits: &str| {
            let well_formed = (1..=8).contains(&digits.len())
                && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            if well_formed {
                u64::from_str_radix(digits, 16).map_err(|_| InvalidLsn)
            } else {
                Err(InvalidLsn)
            }
        };
        Ok(Self(half(high)? << 32 | half(low)?))
    }
}

/// A half-open range of WAL bytes, `start..end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LsnRange {
    /// Position of the first byte.
    pub start: Lsn,
    /// One past the last byte.
    pub end: Lsn,
}

impl LsnRange {
    /// # Panics
    /// If `end` lies before `start`.
    #[must_use]
    pub fn new(start: Lsn, end: Lsn) -> Self {
        assert!(start <= end, "range {start}..{end}");
        Self { start, end }
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether there is no byte in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// A timeline: which history of the cluster a position belongs to. Never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TimelineId(NonZeroU32);

impl TimelineId {
    /// The timeline of a cluster that was never promoted.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// `None` for zero, which PostgreSQL uses for no timeline.
    #[must_use]
    pub const fn new(tli: u32) -> Option<Self> {
        match NonZeroU32::new(tli) {
            Some(tli) => Some(Self(tli)),
            None => None,
        }
    }

    /// The number, as it is on the wire and in WAL.
    #[must_use]
    pub const fn to_u32(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The cluster's unique number, made by initdb. Zero is never one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SystemIdentifier(pub u64);

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn lsn_prints_and_parses_as_postgres_does() {
        for (lsn, text) in
            [(Lsn(0x0300_0000), "0/3000000"), (Lsn(0x16_B374_D848), "16/B374D848"), (Lsn(0), "0/0")]
        {
            assert_eq!(lsn.to_string(), text);
            assert_eq!(text.parse(), Ok(lsn));
        }
        for text in
            ["", "/", "0", "0/", "/0", "123456789/0", "0/123456789", "g/0", "0/0/0", "+1/0", " 0/0"]
        {
            assert_eq!(text.parse::<Lsn>(), Err(InvalidLsn), "{text:?}");
        }
    }

    #[test]
    fn alignment_rounds_to_units() {
        assert_eq!(Lsn(9).maxalign(), Lsn(16));
        assert_eq!(Lsn(16).maxalign(), Lsn(16));
        assert_eq!(Lsn(4097).align_down(4096), Lsn(4096));
        assert_eq!(Lsn(4097).align_up(4096), Lsn(8192));
    }
}
