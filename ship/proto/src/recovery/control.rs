//! The control file: what the hub knows about its WAL before it reads any.
//!
//! Two copies of one block each, written in turn, so that a torn write leaves the other whole.
//! Layout, little-endian:
//!
//! ```text
//!    0  8  "walhubCF"            44  8  flush_lsn
//!    8  4  format                52  8  last_record, zero when none
//!   12  8  system_identifier     60  8  sequence
//!   20  4  segment_size          68  2  wal_version, zero when unknown
//!   24  4  server_version_num    70  2  length of server_version
//!   28  4  timeline              72  8  next_xid
//!   32  4  flags: 1 own_wal      80  8  checkpoint_lsn, zero when none
//!   36  8  start_lsn             88  8  redo_lsn, zero when none
//!   96  4  next_oid             100  4  next_multi
//!  104  4  next_multi_offset    108  4  oldest_xid
//!  112  4  oldest_xid_db        116  4  oldest_multi
//!  120  4  oldest_multi_db      124  4  oldest_commit_ts_xid
//!  128  4  newest_commit_ts_xid 132  4  full_page_writes: 0 or 1
//!                               136  .. server_version, then zeros
//!                              1024  .. facts about the database (`recovery::facts`), then zeros
//!                              4092  4  CRC-32C of all before
//! ```
//!
//! `next_xid` is zero, and so is everything from 96 to 136, when the counters are not known. Formats 1 and
//! 2 are read too: 2 has nothing between 96 and the version, and 1 nothing between 72 and it, and no flags.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::facts;
use crate::lsn::{Lsn, SystemIdentifier, TimelineId};
use crate::page::WalVersion;
use crate::record::Crc32c;
use crate::rmgr::counters::{COUNTER_WORDS, Counters};
use crate::rmgr::facts::{DatabaseFacts, Facts};
use crate::segment::SegmentSize;

/// Bytes of a copy: one disk block.
pub const CONTROL_COPY_LEN: usize = 4096;
/// Bytes of [`ControlFile::server_version`] that are kept.
pub const SERVER_VERSION_BYTES_MAX: usize = 256;

const MAGIC: [u8; 8] = *b"walhubCF";
const FORMAT: u32 = 3;
/// The formats before.
const FORMAT_1: u32 = 1;
const FORMAT_2: u32 = 2;
const FIXED_LEN: usize = 136;
/// Flag: [`ControlFile::own_wal`].
const OWN_WAL: u32 = 1;
const CRC_AT: usize = CONTROL_COPY_LEN - 4;
const _: () = assert!(FIXED_LEN + SERVER_VERSION_BYTES_MAX <= facts::AT);
const _: () = assert!(facts::AT + facts::LEN_MAX <= CRC_AT);

/// What is known about the hub's WAL without reading it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlFile {
    /// The cluster whose WAL this is.
    pub system_identifier: SystemIdentifier,
    /// Size of its segments.
    pub segment_size: SegmentSize,
    /// `server_version_num` of the upstream.
    pub server_version_num: u32,
    /// `server_version` of the upstream; what exceeds [`SERVER_VERSION_BYTES_MAX`] is not kept.
    pub server_version: String,
    /// Version of the WAL, once some was seen.
    pub wal_version: Option<WalVersion>,
    /// Timeline of the newest WAL.
    pub timeline: TimelineId,
    /// Where local WAL begins: a page boundary or a record boundary.
    pub start_lsn: Lsn,
    /// A lower bound of what is durable; the reader has verified up to here.
    pub flush_lsn: Lsn,
    /// Start of the last record that ends at or before `flush_lsn`.
    pub last_record: Option<Lsn>,
    /// This directory writes WAL of its own: it has no upstream.
    pub own_wal: bool,
    /// What the WAL up to `flush_lsn` has given out, once that is known.
    pub counters: Option<Counters>,
    /// What else it says about the database.
    pub database: DatabaseFacts,
    /// Start of the last checkpoint record.
    pub checkpoint_lsn: Option<Lsn>,
    /// Where replay from that checkpoint begins.
    pub redo_lsn: Option<Lsn>,
    /// Greater by one with every write.
    pub sequence: u64,
}

/// One of the two copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlSlot {
    /// The copy at offset 0.
    First,
    /// The copy at offset [`CONTROL_COPY_LEN`].
    Second,
}

impl ControlSlot {
    /// Where in the file the copy begins.
    #[must_use]
    pub const fn offset(self) -> u64 {
        match self {
            Self::First => 0,
            Self::Second => 4096,
        }
    }

    /// Where the next write goes.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// A copy of the control file that cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlFileError {
    /// It is not a whole block.
    Length {
        /// How many bytes there are.
        got: usize,
    },
    /// It does not begin as a control file does.
    Magic {
        /// The eight bytes that it begins with.
        got: u64,
    },
    /// The checksum does not fit.
    Checksum {
        /// Of what was read.
        got: u32,
        /// What the copy says.
        want: u32,
    },
    /// It is whole, but of another format.
    Format {
        /// The format that the copy has.
        got: u32,
        /// The format that this program writes.
        want: u32,
    },
    /// It is whole, but a field has a value that it cannot have.
    Field {
        /// Name of the field.
        name: &'static str,
    },
}

impl fmt::Display for ControlFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { got } => {
                write!(f, "control file is damaged: got {got} bytes, want {CONTROL_COPY_LEN}")
            }
            Self::Magic { got } => write!(
                f,
                "control file is damaged: got magic {got:016X}, want {:016X}",
                u64::from_be_bytes(MAGIC)
            ),
            Self::Checksum { got, want } => {
                write!(f, "incorrect checksum in control file: got {got:08X}, want {want:08X}")
            }
            Self::Format { got, want } => write!(
                f,
                "control file was written by an incompatible walhub: got format {got}, want {want}"
            ),
            Self::Field { name } => write!(f, "control file contains invalid {name}"),
        }
    }
}

impl ControlFile {
    /// Of WAL that begins at `start`, nothing of which is known yet.
    #[must_use]
    pub fn beginning(
        system_identifier: SystemIdentifier,
        segment_size: SegmentSize,
        timeline: TimelineId,
        start: Lsn,
    ) -> Self {
        Self {
            system_identifier,
            segment_size,
            server_version_num: 0,
            server_version: String::new(),
            wal_version: None,
            timeline,
            start_lsn: start,
            flush_lsn: start,
            last_record: None,
            own_wal: false,
            counters: None,
            database: DatabaseFacts::default(),
            checkpoint_lsn: None,
            redo_lsn: None,
            sequence: 0,
        }
    }

    /// The block to write to a slot.
    #[must_use]
    pub fn encode(&self, crc: Crc32c) -> Vec<u8> {
        let version = truncated(&self.server_version, SERVER_VERSION_BYTES_MAX);
        let version_len = u16::try_from(version.len()).expect("it was just truncated");
        let last_record = self.last_record.unwrap_or(Lsn::INVALID);
        let mut block = Vec::with_capacity(CONTROL_COPY_LEN);
        block.extend_from_slice(&MAGIC);
        block.extend_from_slice(&FORMAT.to_le_bytes());
        block.extend_from_slice(&self.system_identifier.0.to_le_bytes());
        block.extend_from_slice(&self.segment_size.to_u32().to_le_bytes());
        block.extend_from_slice(&self.server_version_num.to_le_bytes());
        block.extend_from_slice(&self.timeline.to_u32().to_le_bytes());
        block.extend_from_slice(&if self.own_wal { OWN_WAL } else { 0 }.to_le_bytes());
        block.extend_from_slice(&self.start_lsn.0.to_le_bytes());
        block.extend_from_slice(&self.flush_lsn.0.to_le_bytes());
        block.extend_from_slice(&last_record.0.to_le_bytes());
        block.extend_from_slice(&self.sequence.to_le_bytes());
        block.extend_from_slice(&self.wal_version.map_or(0, WalVersion::magic).to_le_bytes());
        block.extend_from_slice(&version_len.to_le_bytes());
        let next_xid = self.counters.map_or(0, |counters| counters.next_xid);
        block.extend_from_slice(&next_xid.to_le_bytes());
        block.extend_from_slice(&self.checkpoint_lsn.unwrap_or(Lsn::INVALID).0.to_le_bytes());
        block.extend_from_slice(&self.redo_lsn.unwrap_or(Lsn::INVALID).0.to_le_bytes());
        let words = self.counters.map_or([0; COUNTER_WORDS], |counters| counters.words());
        let full_page_writes = self.counters.is_some_and(|counters| counters.full_page_writes);
        for word in words.into_iter().chain([u32::from(full_page_writes)]) {
            block.extend_from_slice(&word.to_le_bytes());
        }
        assert_eq!(block.len(), FIXED_LEN);
        block.extend_from_slice(version.as_bytes());
        block.resize(facts::AT, 0);
        facts::encode(&self.database, &mut block);
        block.resize(CRC_AT, 0);
        let checksum = crc(0, &block);
        block.extend_from_slice(&checksum.to_le_bytes());
        block
    }

    /// Decodes one copy.
    ///
    /// # Errors
    /// What makes the copy unusable.
    pub fn decode(block: &[u8], crc: Crc32c) -> Result<Self, ControlFileError> {
        let length = ControlFileError::Length { got: block.len() };
        let block: &[u8; CONTROL_COPY_LEN] = block.try_into().map_err(|_| length)?;
        let (checked, stored) = block.split_at(CRC_AT);
        let mut fields = Fields(checked);
        let magic = fields.take::<8>();
        if magic != MAGIC {
            return Err(ControlFileError::Magic { got: u64::from_be_bytes(magic) });
        }
        let (got, want) = (crc(0, checked), u32::from_le_bytes(Fields(stored).take()));
        if got != want {
            return Err(ControlFileError::Checksum { got, want });
        }
        let format = fields.u32();
        if ![FORMAT, FORMAT_1, FORMAT_2].contains(&format) {
            return Err(ControlFileError::Format { got: format, want: FORMAT });
        }
        let control = Self::decode_fields(fields, format)?;
        let part = if format == FORMAT { checked.split_at(facts::AT).1 } else { &[0; CRC_AT] };
        let database = facts::decode(part, control.own_wal)
            .ok_or(ControlFileError::Field { name: "facts about the database" })?;
        Ok(Self { database, ..control })
    }

    /// What the WAL up to `flush_lsn` says about the database.
    #[must_use]
    pub fn facts(&self) -> Facts {
        Facts { counters: self.counters, database: self.database.clone() }
    }

    fn decode_fields(mut fields: Fields<'_>, format: u32) -> Result<Self, ControlFileError> {
        let invalid = |name| ControlFileError::Field { name };
        let system_identifier = SystemIdentifier(fields.u64());
        let segment_size = SegmentSize::new(u64::from(fields.u32()));
        let server_version_num = fields.u32();
        let timeline = TimelineId::new(fields.u32());
        let flags = fields.u32();
        let (start_lsn, flush_lsn) = (Lsn(fields.u64()), Lsn(fields.u64()));
        let last_record = Lsn(fields.u64()).valid();
        let sequence = fields.u64();
        let wal_version = match u16::from_le_bytes(fields.take()) {
            0 => None,
            magic => Some(WalVersion::from_magic(magic).ok_or(invalid("WAL version"))?),
        };
        let version_len = usize::from(u16::from_le_bytes(fields.take()));
        let (mut counters, mut checkpoint_lsn, mut redo_lsn) = (None, None, None);
        if format != FORMAT_1 {
            let next_xid = Some(fields.u64()).filter(|&next_xid| next_xid != 0);
            checkpoint_lsn = Lsn(fields.u64()).valid();
            redo_lsn = Lsn(fields.u64()).valid();
            // Format 2 has them of WAL that never had any others.
            counters = next_xid.map(|next_xid| Counters { next_xid, ..Counters::first() });
        }
        if format == FORMAT {
            let words = core::array::from_fn(|_| fields.u32());
            let full_page_writes = fields.u32() != 0;
            counters = counters
                .map(|counters| Counters::of_words(counters.next_xid, words, full_page_writes));
        }
        let server_version = fields
            .0
            .get(..version_len)
            .and_then(|bytes| core::str::from_utf8(bytes).ok())
            .ok_or(invalid("server version"))?;
        if last_record.is_some_and(|record| record >= flush_lsn) {
            return Err(invalid("last record"));
        }
        if flags & !OWN_WAL != 0 {
            return Err(invalid("flags"));
        }
        Ok(Self {
            system_identifier,
            segment_size: segment_size.ok_or(invalid("WAL segment size"))?,
            server_version_num,
            server_version: String::from(server_version),
            wal_version,
            timeline: timeline.ok_or(invalid("timeline"))?,
            start_lsn,
            flush_lsn,
            last_record,
            own_wal: flags & OWN_WAL != 0,
            counters,
            database: DatabaseFacts::default(),
            checkpoint_lsn,
            redo_lsn,
            sequence,
        })
    }

    /// The newest valid of the two copies, and the slot it is in; write the next to the other.
    ///
    /// `None` when neither was ever written: both are empty or nothing but zeros. A copy that is
    /// damaged gives way to one that is whole; one of an unknown format does not, because it may be
    /// the newer.
    ///
    /// # Errors
    /// Why the first copy cannot be used (or the second, when the first was never written), when
    /// neither can.
    pub fn choose(
        first: &[u8],
        second: &[u8],
        crc: Crc32c,
    ) -> Result<Option<(Self, ControlSlot)>, ControlFileError> {
        let blank = |copy: &[u8]| copy.iter().all(|&byte| byte == 0);
        let first_blank = blank(first);
        if first_blank && blank(second) {
            return Ok(None);
        }
        let foreign = |error: &ControlFileError| match error {
            ControlFileError::Format { .. } | ControlFileError::Field { .. } => true,
            ControlFileError::Length { .. }
            | ControlFileError::Magic { .. }
            | ControlFileError::Checksum { .. } => false,
        };
        let choice = match (Self::decode(first, crc), Self::decode(second, crc)) {
            (Err(error), _) | (_, Err(error)) if foreign(&error) => return Err(error),
            (Ok(first), Ok(second)) if second.sequence > first.sequence => {
                (second, ControlSlot::Second)
            }
            (Ok(first), _) => (first, ControlSlot::First),
            (Err(_), Ok(second)) => (second, ControlSlot::Second),
            (Err(_), Err(error)) if first_blank => return Err(error),
            (Err(error), Err(_)) => return Err(error),
        };
        Ok(Some(choice))
    }
}

/// Cuts fields off the front of a block that is long enough for all of them.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((head, rest)) = self.0.split_first_chunk() else {
            unreachable!("the block was measured")
        };
        self.0 = rest;
        *head
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// The longest prefix of `text` of at most `bytes_max` bytes.
fn truncated(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.split_at(end).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rmgr::xlog::WalLevel;
    use std::string::ToString;
    use std::{format, vec};

    fn counters() -> Counters {
        Counters::of_words((1 << 32) + 5, [1, 2, 3, 4, 5, 6, 7, 8, 9], true)
    }

    fn control(sequence: u64) -> ControlFile {
        ControlFile {
            system_identifier: SystemIdentifier(u64::MAX - 5),
            segment_size: SegmentSize::DEFAULT,
            server_version_num: 150_018,
            server_version: String::from("15.18 (Debian 15.18-0+deb12u1)"),
            wal_version: Some(WalVersion::PG15),
            timeline: TimelineId::new(3).unwrap(),
            start_lsn: Lsn(0x0100_0000),
            flush_lsn: Lsn(0x0300_0028),
            last_record: Some(Lsn(0x02FF_FF00)),
            own_wal: true,
            counters: Some(counters()),
            database: DatabaseFacts::of_own_wal(),
            checkpoint_lsn: Some(Lsn(0x0200_0100)),
            redo_lsn: Some(Lsn(0x0200_0028)),
            sequence,
        }
    }

    const CRC: Crc32c = crc32c::crc32c_append;

    #[test]
    fn a_copy_round_trips() {
        let without = ControlFile {
            wal_version: None,
            last_record: None,
            own_wal: false,
            counters: None,
            database: Default::default(),
            checkpoint_lsn: None,
            redo_lsn: None,
            ..control(1)
        };
        for control in [control(7), without] {
            let block = control.encode(CRC);
            assert_eq!(block.len(), CONTROL_COPY_LEN);
            assert_eq!(ControlFile::decode(&block, CRC), Ok(control));
        }
        let long = ControlFile { server_version: "\u{e9}".repeat(300), ..control(1) };
        let kept = ControlFile::decode(&long.encode(CRC), CRC).unwrap().server_version;
        assert_eq!(kept, "\u{e9}".repeat(SERVER_VERSION_BYTES_MAX / 2));
        // A character that would be cut is left out.
        let server_version = format!("a{}", "\u{e9}".repeat(300));
        let odd = ControlFile { server_version, ..control(1) };
        let kept = ControlFile::decode(&odd.encode(CRC), CRC).unwrap().server_version;
        assert_eq!(kept, format!("a{}", "\u{e9}".repeat(SERVER_VERSION_BYTES_MAX / 2 - 1)));
        // What nothing can be assumed of instead.
        let database = DatabaseFacts {
            prepared: Some(Default::default()),
            lock_holders: vec![7].into(),
            wal_level: Some(WalLevel::Minimal),
        };
        let known = ControlFile { own_wal: false, database, ..control(1) };
        assert_eq!(ControlFile::decode(&known.encode(CRC), CRC), Ok(known));
    }

    #[test]
    fn a_copy_of_format_1_is_read_as_of_a_hub_without_wal_of_its_own() {
        let mut block = control(7).encode(CRC);
        block[8] = 1;
        block[32] = 0;
        without(&mut block, 72..136);
        let want = ControlFile {
            own_wal: false,
            counters: None,
            database: Default::default(),
            checkpoint_lsn: None,
            redo_lsn: None,
            ..control(7)
        };
        assert_eq!(ControlFile::decode(&block, CRC), Ok(want));
    }

    /// Takes bytes out, as an earlier format did not have them.
    fn without(block: &mut Vec<u8>, bytes: core::ops::Range<usize>) {
        block.truncate(CRC_AT);
        block.drain(bytes);
        block.resize(CRC_AT, 0);
        let crc = CRC(0, block);
        block.extend_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn a_copy_of_format_2_has_the_counters_of_a_new_cluster_or_none() {
        for known in [true, false] {
            let counters = known.then(counters);
            let mut block = ControlFile { counters, ..control(7) }.encode(CRC);
            block[8] = 2;
            without(&mut block, 96..136);
            let counters =
                counters.map(|of| Counters { next_xid: of.next_xid, ..Counters::first() });
            let want = ControlFile { counters, ..control(7) };
            assert_eq!(ControlFile::decode(&block, CRC), Ok(want));
        }
    }

    #[test]
    fn a_copy_that_says_nothing_of_prepared_transactions_is_read() {
        let mut block = control(7).encode(CRC);
        block.truncate(facts::AT);
        without(&mut block, 0..0);
        assert_eq!(ControlFile::decode(&block, CRC), Ok(control(7)));
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_noticed() {
        let block = control(7).encode(CRC);
        for cut in 0..CONTROL_COPY_LEN {
            let error = ControlFile::decode(&block[..cut], CRC).unwrap_err();
            assert_eq!(error, ControlFileError::Length { got: cut });
        }
        for byte in 0..CONTROL_COPY_LEN {
            let mut flipped = block.clone();
            flipped[byte] ^= 1 << (byte % 8);
            assert!(ControlFile::decode(&flipped, CRC).is_err(), "byte {byte}");
        }
    }

    #[test]
    fn the_newest_whole_copy_wins() {
        let (old, new) = (control(7), control(8));
        let (a, b) = (old.encode(CRC), new.encode(CRC));
        let choose = |first: &[u8], second: &[u8]| ControlFile::choose(first, second, CRC);
        let zeros = vec![0; CONTROL_COPY_LEN];
        let mut torn = b.clone();
        torn[512..].copy_from_slice(&a[512..]);

        assert_eq!(choose(&a, &b), Ok(Some((new.clone(), ControlSlot::Second))));
        assert_eq!(choose(&b, &a), Ok(Some((new, ControlSlot::First))));
        assert_eq!(choose(&a, &torn), Ok(Some((old.clone(), ControlSlot::First))));
        assert_eq!(choose(&torn, &a), Ok(Some((old.clone(), ControlSlot::Second))));
        assert_eq!(choose(&a, &zeros), Ok(Some((old.clone(), ControlSlot::First))));
        assert_eq!(choose(&a, &a), Ok(Some((old.clone(), ControlSlot::First))), "as it is made");
        assert_eq!(choose(&zeros, &a), Ok(Some((old, ControlSlot::Second))));
        assert_eq!(ControlSlot::First.offset(), 0);
        assert_eq!(usize::try_from(ControlSlot::Second.offset()), Ok(CONTROL_COPY_LEN));
        assert_eq!(choose(&a[..100], &[]), Err(ControlFileError::Length { got: 100 }));
        assert_eq!(choose(&[], &[]), Ok(None));
        assert_eq!(choose(&zeros, &zeros), Ok(None));
        assert!(matches!(choose(&zeros, &torn), Err(ControlFileError::Checksum { .. })));
        assert!(matches!(choose(&torn, &torn), Err(ControlFileError::Checksum { .. })));
    }

    #[test]
    fn an_error_says_what_was_found_and_what_was_wanted() {
        for (error, text) in [
            (
                ControlFileError::Length { got: 100 },
                "control file is damaged: got 100 bytes, want 4096",
            ),
            (
                ControlFileError::Magic { got: 255 },
                "control file is damaged: got magic 00000000000000FF, want 77616C6875624346",
            ),
            (
                ControlFileError::Checksum { got: 1, want: 2 },
                "incorrect checksum in control file: got 00000001, want 00000002",
            ),
            (
                ControlFileError::Format { got: 9, want: FORMAT },
                "control file was written by an incompatible walhub: got format 9, want 3",
            ),
            (
                ControlFileError::Field { name: "timeline" },
                "control file contains invalid timeline",
            ),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn a_torn_copy_at_any_sector_gives_way_to_the_other() {
        let (old, newest) = (control(7), control(9));
        let older = ControlFile { flush_lsn: Lsn(0x0300_0010), ..control(6) };
        for sector in 1..8 {
            // The slot held `older`; `newest` was written over it and arrived up to here.
            let mut torn = newest.encode(CRC);
            torn[sector * 512..].copy_from_slice(&older.encode(CRC)[sector * 512..]);
            let chosen = ControlFile::choose(&torn, &old.encode(CRC), CRC);
            assert_eq!(chosen, Ok(Some((old.clone(), ControlSlot::Second))), "sector {sector}");
        }
    }

    #[test]
    fn a_copy_of_another_format_is_refused_even_beside_a_good_one() {
        let mut block = control(7).encode(CRC);
        block[8] = 4;
        let crc = CRC(0, &block[..CRC_AT]);
        block[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        let good = control(8).encode(CRC);
        let want = Err(ControlFileError::Format { got: 4, want: FORMAT });
        assert_eq!(ControlFile::choose(&block, &good, CRC), want);
        assert_eq!(ControlFile::choose(&good, &block, CRC), want);
    }
}
