//! A slot's file: written anew as a whole, and read at start.
//!
//! Big-endian: magic, CRC-32C of what follows, version, length of the rest, and the fields.
//!
//! PostgreSQL: `SaveSlotToPath`, `RestoreSlotFromDisk` (src/backend/replication/slot.c).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::{LogicalSlot, SLOT_NAME_BYTES_MAX, Slot, validate_name};
use crate::convert::to_u32;
use crate::feedback::FullTransactionId;
use crate::lsn::{Lsn, TimelineId};
use crate::wire::reader::{Malformed, Reader};

/// What is in the first four bytes of a slot's file.
const MAGIC: u32 = u32::from_be_bytes(*b"WHsl");
/// Changes with the layout. This is a physical slot's.
const VERSION: u32 = 1;
/// A logical slot's: the same, and what only logical slots have.
const VERSION_LOGICAL: u32 = 2;
/// Magic, checksum, version, length of the rest.
const HEADER_LEN: usize = 16;
/// Where the part that the checksum covers begins.
const CHECKED_FROM: usize = 8;
/// Largest file there can be.
pub const SLOT_FILE_BYTES_MAX: usize = HEADER_LEN
    + (8 + 4 + 8 + 8 + 8 + 1 + SLOT_NAME_BYTES_MAX)
    + (8 + 4 + 1 + 2 * (1 + SLOT_NAME_BYTES_MAX));
/// Flags of a logical slot.
const TWO_PHASE: u8 = 1;
const FAILOVER: u8 = 2;

/// CRC-32C, continued from an earlier value; the first is 0.
pub type Crc32c = fn(u32, &[u8]) -> u32;

/// A file that does not hold a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotFileError {
    /// Not a slot's file.
    Magic {
        /// What stands in its place.
        got: u32,
    },
    /// Of a release that writes another layout.
    Version {
        /// What the file has.
        got: u32,
    },
    /// Shorter or longer than it says.
    Length {
        /// The length that the file says it has.
        got: u32,
    },
    /// The checksum is another one: the file is damaged.
    Checksum {
        /// The checksum of the bytes.
        got: u32,
        /// The checksum that the file has.
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
///
/// # Panics
/// If a name has more than [`SLOT_NAME_BYTES_MAX`] bytes.
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
    put_name(&mut body, &slot.name);
    let mut version = VERSION;
    if let Some(logical) = &slot.logical {
        version = VERSION_LOGICAL;
        body.extend_from_slice(&logical.confirmed_flush_lsn.0.to_be_bytes());
        body.extend_from_slice(&logical.database_oid.to_be_bytes());
        let flag = |set, flag| if set { flag } else { 0 };
        body.push(flag(logical.two_phase, TWO_PHASE) | flag(logical.failover, FAILOVER));
        put_name(&mut body, &logical.plugin);
        put_name(&mut body, &logical.database);
    }

    let mut checked = Vec::new();
    checked.extend_from_slice(&version.to_be_bytes());
    checked.extend_from_slice(&to_u32(body.len()).to_be_bytes());
    checked.extend_from_slice(&body);
    let mut file = Vec::new();
    file.extend_from_slice(&MAGIC.to_be_bytes());
    file.extend_from_slice(&crc32c(0, &checked).to_be_bytes());
    file.extend_from_slice(&checked);
    file
}

fn put_name(body: &mut Vec<u8>, name: &str) {
    assert!(name.len() <= SLOT_NAME_BYTES_MAX, "a name of {} bytes", name.len());
    body.push(u8::try_from(name.len()).expect("a name is short"));
    body.extend_from_slice(name.as_bytes());
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
    if version != VERSION && version != VERSION_LOGICAL {
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
    decode_fields(reader, version == VERSION_LOGICAL).ok().flatten().ok_or(SlotFileError::Fields)
}

fn decode_fields(mut reader: Reader<'_>, logical: bool) -> Result<Option<Slot>, Malformed> {
    let restart_lsn = Lsn(reader.u64()?).valid();
    let restart_tli = TimelineId::new(reader.u32()?);
    let xmin_epoch = reader.u32()?;
    let xmin = FullTransactionId::new(xmin_epoch, reader.u32()?);
    let catalog_epoch = reader.u32()?;
    let catalog_xmin = FullTransactionId::new(catalog_epoch, reader.u32()?);
    let invalidated = Lsn(reader.u64()?).valid();
    let name = take_name(&mut reader)?;
    let logical = if logical { Some(decode_logical(&mut reader)?) } else { None };
    reader.end()?;
    if validate_name(&name).is_err() {
        return Ok(None);
    }
    let slot = Slot::new(name, false);
    Ok(Some(Slot { restart_lsn, restart_tli, xmin, catalog_xmin, invalidated, logical, ..slot }))
}

fn decode_logical(reader: &mut Reader<'_>) -> Result<LogicalSlot, Malformed> {
    let confirmed_flush_lsn = Lsn(reader.u64()?);
    let database_oid = reader.u32()?;
    let flags = reader.u8()?;
    let plugin = take_name(reader)?;
    let database = take_name(reader)?;
    Ok(LogicalSlot {
        plugin,
        database,
        database_oid,
        confirmed_flush_lsn,
        two_phase: flags & TWO_PHASE != 0,
        failover: flags & FAILOVER != 0,
    })
}

fn take_name(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    let got = reader.u8()?;
    let len = usize::from(got);
    if len > SLOT_NAME_BYTES_MAX {
        return Err(Malformed::Length { got: got.into() });
    }
    let name = core::str::from_utf8(reader.take(len)?).map_err(|_| Malformed::InvalidUtf8)?;
    Ok(String::from(name))
}
