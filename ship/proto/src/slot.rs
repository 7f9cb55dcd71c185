//! Physical replication slots.
//!
//! A slot remembers how far one standby is, so that what it still needs is kept. On disk each slot
//! is one small file, written anew as a whole.
//!
//! Not here: the files themselves and who may use a slot (the daemon's `hub`), which segments slots
//! keep (`retention`).
//!
//! PostgreSQL: src/backend/replication/slot.c, `PhysicalConfirmReceivedLocation` (walsender.c).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::feedback::{FullTransactionId, Horizons};
use crate::lsn::{Lsn, TimelineId};
use crate::sqlstate::SqlState;
use crate::wire::backend::Report;
use crate::wire::reader::{Malformed, Reader};

/// Most bytes in a name. PostgreSQL: `NAMEDATALEN` - 1.
pub const SLOT_NAME_BYTES_MAX: usize = 63;

/// A name that no slot can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotNameError {
    /// It is empty.
    TooShort,
    /// It has more than [`SLOT_NAME_BYTES_MAX`] bytes.
    TooLong,
    /// It has a character that is not allowed.
    InvalidCharacter,
}

impl SlotNameError {
    /// SQLSTATE of the report.
    #[must_use]
    pub const fn sqlstate(self) -> SqlState {
        match self {
            Self::TooShort | Self::InvalidCharacter => SqlState::INVALID_NAME,
            Self::TooLong => SqlState::NAME_TOO_LONG,
        }
    }

    /// The error about `name`.
    #[must_use]
    pub fn report(self, name: &str) -> Report {
        let what = match self {
            Self::TooShort => "is too short",
            Self::TooLong => "is too long",
            Self::InvalidCharacter => "contains invalid character",
        };
        let message = format!("replication slot name \"{name}\" {what}");
        let report = Report::error(self.sqlstate(), message);
        match self {
            Self::TooShort | Self::TooLong => report,
            Self::InvalidCharacter => report.hint(
                "Replication slot names may only contain lower case letters, numbers, and the \
                 underscore character.",
            ),
        }
    }
}

/// Checks a name, which becomes a file's name. PostgreSQL: `ReplicationSlotValidateName`.
///
/// # Errors
/// When no slot can have it.
pub fn validate_name(name: &str) -> Result<(), SlotNameError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.is_empty() {
        Err(SlotNameError::TooShort)
    } else if name.len() > SLOT_NAME_BYTES_MAX {
        Err(SlotNameError::TooLong)
    } else if !name.bytes().all(allowed) {
        Err(SlotNameError::InvalidCharacter)
    } else {
        Ok(())
    }
}

/// One standby's place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Checked by [`validate_name`].
    pub name: String,
    /// Oldest WAL that is kept for it; `None` while it keeps none.
    pub restart_lsn: Option<Lsn>,
    /// Timeline of `restart_lsn`.
    pub restart_tli: Option<TimelineId>,
    /// Oldest transaction that the standby needs.
    pub xmin: Option<FullTransactionId>,
    /// Oldest transaction whose catalogue rows it needs.
    pub catalog_xmin: Option<FullTransactionId>,
    /// Goes away with the session that made it; never on disk.
    pub temporary: bool,
    /// The session that streams from it; never on disk.
    pub active_pid: Option<u32>,
    /// The `restart_lsn` at which its WAL was given up.
    pub invalidated: Option<Lsn>,
}

impl Slot {
    /// A slot that keeps nothing yet.
    #[must_use]
    pub const fn new(name: String, temporary: bool) -> Self {
        Self {
            name,
            restart_lsn: None,
            restart_tli: None,
            xmin: None,
            catalog_xmin: None,
            temporary,
            active_pid: None,
            invalidated: None,
        }
    }

    /// The standby has made everything before `flush` durable: that is no longer kept.
    ///
    /// Returns whether the slot changed. An invalid position says nothing, as from a client that
    /// never flushes. PostgreSQL: `PhysicalConfirmReceivedLocation`.
    pub fn confirm_received(&mut self, flush: Lsn, timeline: TimelineId) -> bool {
        if !flush.is_valid() || self.invalidated.is_some() {
            return false;
        }
        let before = (self.restart_lsn, self.restart_tli);
        self.restart_lsn = Some(flush);
        self.restart_tli = Some(timeline);
        before != (self.restart_lsn, self.restart_tli)
    }

    /// The standby needs these transactions. Returns whether the slot changed.
    /// PostgreSQL: `PhysicalReplicationSlotNewXmin`.
    pub fn set_horizons(&mut self, horizons: Horizons) -> bool {
        let before = (self.xmin, self.catalog_xmin);
        (self.xmin, self.catalog_xmin) = (horizons.xmin, horizons.catalog_xmin);
        before != (self.xmin, self.catalog_xmin)
    }

    /// The transactions that the standby needs.
    #[must_use]
    pub const fn horizons(&self) -> Horizons {
        Horizons { xmin: self.xmin, catalog_xmin: self.catalog_xmin }
    }

    /// Gives up the WAL that is kept. PostgreSQL: `InvalidatePossiblyObsoleteSlot`.
    pub const fn invalidate(&mut self) {
        if let Some(restart_lsn) = self.restart_lsn.take() {
            self.invalidated = Some(restart_lsn);
            self.restart_tli = None;
        }
    }
}

/// What is in the first four bytes of a slot's file.
const MAGIC: u32 = u32::from_be_bytes(*b"WHsl");
/// Changes with the layout.
const VERSION: u32 = 1;
/// Magic, checksum, version, length of the rest.
const HEADER_LEN: usize = 16;
/// Where the part that the checksum covers begins.
const CHECKED_FROM: usize = 8;
/// Largest file there can be.
pub const SLOT_FILE_BYTES_MAX: usize = HEADER_LEN + 8 + 4 + 8 + 8 + 8 + 1 + SLOT_NAME_BYTES_MAX;

/// CRC-32C, continued from an earlier value; the first is 0.
pub type Crc32c = fn(u32, &[u8]) -> u32;

/// A file that does not hold a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotFileError {
    /// Not a slot's file.
    Magic {
        /// What is there.
        got: u32,
    },
    /// Of a release that writes another layout.
    Version {
        /// What is there.
        got: u32,
    },
    /// Shorter or longer than it says.
    Length {
        /// What it says.
        got: u32,
    },
    /// Damaged.
    Checksum {
        /// Of the bytes.
        got: u32,
        /// What it says.
        want: u32,
    },
    /// The checksum fits and the fields do not: not written by this code.
    Fields,
}

impl SlotFileError {
    /// The message about the file at `path`. PostgreSQL: `RestoreSlotFromDisk`.
    #[must_use]
    pub fn message(self, path: &str) -> String {
        format!("{}", About { error: self, path })
    }
}

struct About<'a> {
    error: SlotFileError,
    path: &'a str,
}

impl fmt::Display for About<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = format_args!("replication slot file \"{}\"", self.path);
        match self.error {
            SlotFileError::Magic { got } => {
                write!(f, "{file} has wrong magic number: {got} instead of {MAGIC}")
            }
            SlotFileError::Version { got } => write!(f, "{file} has unsupported version {got}"),
            SlotFileError::Length { got } => write!(f, "{file} has corrupted length {got}"),
            SlotFileError::Checksum { got, want } => {
                write!(f, "checksum mismatch for {file}: is {got}, should be {want}")
            }
            SlotFileError::Fields => write!(f, "{file} has corrupted fields"),
        }
    }
}

/// Encodes what of `slot` is durable.
#[must_use]
pub fn encode_slot(slot: &Slot, crc32c: Crc32c) -> Vec<u8> {
    let mut body = Vec::new();
    let lsn = |lsn: Option<Lsn>| lsn.unwrap_or_default().0.to_be_bytes();
    let xid = |xid: Option<FullTransactionId>| {
        let (epoch, xid) = xid.map_or((0, 0), |full| (full.epoch(), full.xid()));
        (u64::from(epoch) << 32 | u64::from(xid)).to_be_bytes()
    };
    body.extend_from_slice(&lsn(slot.restart_lsn));
    body.extend_from_slice(&slot.restart_tli.map_or(0, TimelineId::to_u32).to_be_bytes());
    body.extend_from_slice(&xid(slot.xmin));
    body.extend_from_slice(&xid(slot.catalog_xmin));
    body.extend_from_slice(&lsn(slot.invalidated));
    body.push(u8::try_from(slot.name.len()).unwrap_or(u8::MAX));
    body.extend_from_slice(slot.name.as_bytes());

    let mut checked = Vec::new();
    checked.extend_from_slice(&VERSION.to_be_bytes());
    checked.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    checked.extend_from_slice(&body);
    let mut file = Vec::new();
    file.extend_from_slice(&MAGIC.to_be_bytes());
    file.extend_from_slice(&crc32c(0, &checked).to_be_bytes());
    file.extend_from_slice(&checked);
    file
}

/// Decodes a slot's file.
///
/// # Errors
/// When it is not a whole and undamaged one.
pub fn decode_slot(file: &[u8], crc32c: Crc32c) -> Result<Slot, SlotFileError> {
    let short = |_: Malformed| SlotFileError::Length { got: 0 };
    let mut reader = Reader::new(file);
    let magic = reader.u32().map_err(short)?;
    if magic != MAGIC {
        return Err(SlotFileError::Magic { got: magic });
    }
    let want = reader.u32().map_err(short)?;
    let version = reader.u32().map_err(short)?;
    if version != VERSION {
        return Err(SlotFileError::Version { got: version });
    }
    let length = reader.u32().map_err(short)?;
    if usize::try_from(length) != Ok(reader.rest().len()) {
        return Err(SlotFileError::Length { got: length });
    }
    let got = crc32c(0, file.get(CHECKED_FROM..).unwrap_or_default());
    if got != want {
        return Err(SlotFileError::Checksum { got, want });
    }
    decode_fields(reader).ok().flatten().ok_or(SlotFileError::Fields)
}

fn decode_fields(mut reader: Reader<'_>) -> Result<Option<Slot>, Malformed> {
    let restart_lsn = Lsn(reader.u64()?).valid();
    let restart_tli = TimelineId::new(reader.u32()?);
    let xmin_epoch = reader.u32()?;
    let xmin = FullTransactionId::new(xmin_epoch, reader.u32()?);
    let catalog_epoch = reader.u32()?;
    let catalog_xmin = FullTransactionId::new(catalog_epoch, reader.u32()?);
    let invalidated = Lsn(reader.u64()?).valid();
    let name_len = usize::from(reader.u8()?);
    let name = core::str::from_utf8(reader.take(name_len)?).map_err(|_| Malformed::InvalidUtf8)?;
    reader.end()?;
    if validate_name(name).is_err() {
        return Ok(None);
    }
    let slot = Slot::new(String::from(name), false);
    Ok(Some(Slot { restart_lsn, restart_tli, xmin, catalog_xmin, invalidated, ..slot }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> Slot {
        Slot {
            restart_lsn: Some(Lsn(0x1_0300_0028)),
            restart_tli: TimelineId::new(7),
            xmin: FullTransactionId::new(1, 700),
            ..Slot::new(String::from("standby_1"), false)
        }
    }

    #[test]
    fn names_are_judged_as_postgres_does() {
        let long = "a".repeat(64);
        assert_eq!(validate_name(&long[..63]), Ok(()));
        assert_eq!(validate_name("standby_1"), Ok(()));
        let text = |name: &str| {
            let error = validate_name(name).unwrap_err();
            let report = error.report(name);
            (report.sqlstate.0, report.message, report.hint.is_some())
        };
        let message = |name, what| format!("replication slot name \"{name}\" {what}");
        assert_eq!(text(""), ("42602", message("", "is too short"), false));
        assert_eq!(text(&long), ("42622", message(long.as_str(), "is too long"), false));
        for name in ["A", "a-b", "a/b", "..", "a b", "\u{e9}", "a\0"] {
            assert_eq!(text(name), ("42602", message(name, "contains invalid character"), true));
        }
    }

    #[test]
    fn a_slot_survives_its_file_and_loses_what_is_not_durable() {
        let named = Slot { name: "x".repeat(63), invalidated: Some(Lsn(9)), ..slot() };
        for slot in [slot(), Slot::new(String::from("a"), false), named] {
            let active = Slot { active_pid: Some(4), ..slot.clone() };
            let file = encode_slot(&active, crc32c::crc32c_append);
            assert!(file.len() <= SLOT_FILE_BYTES_MAX);
            assert_eq!(decode_slot(&file, crc32c::crc32c_append), Ok(slot));
        }
    }

    #[test]
    fn no_truncation_extension_or_flipped_bit_decodes() {
        let file = encode_slot(&slot(), crc32c::crc32c_append);
        let decode = |file: &[u8]| decode_slot(file, crc32c::crc32c_append);
        for cut in 0..file.len() {
            assert!(decode(&file[..cut]).is_err(), "cut at {cut}");
        }
        let mut longer = file.clone();
        longer.push(0);
        assert!(matches!(decode(&longer), Err(SlotFileError::Length { .. })));
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_err(), "bit {bit}");
        }
        let mut damaged = file;
        *damaged.last_mut().unwrap() ^= 1;
        let message = decode(&damaged).unwrap_err().message("slots/a");
        assert!(
            message.starts_with("checksum mismatch for replication slot file \"slots/a\": is ")
        );
    }

    #[test]
    fn restart_lsn_follows_the_flush_of_the_standby() {
        let mut slot = Slot::new(String::from("a"), false);
        assert!(!slot.confirm_received(Lsn::INVALID, TimelineId::FIRST));
        assert_eq!(slot.restart_lsn, None);
        assert!(slot.confirm_received(Lsn(100), TimelineId::FIRST));
        assert!(!slot.confirm_received(Lsn(100), TimelineId::FIRST));
        slot.invalidate();
        assert_eq!((slot.restart_lsn, slot.invalidated), (None, Some(Lsn(100))));
        assert!(!slot.confirm_received(Lsn(200), TimelineId::FIRST));
    }
}
