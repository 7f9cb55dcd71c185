//! Replication slots, physical and logical.
//!
//! A slot remembers how far one standby, or one client of logical decoding, is, so that what it
//! still needs is kept. On disk each slot is one small file, written anew as a whole.
//!
//! Not here: the files themselves and who may use a slot (the daemon's `hub`), which segments slots
//! keep (`retention`).
//!
//! PostgreSQL: src/backend/replication/slot.c, `PhysicalConfirmReceivedLocation` (walsender.c),
//! `LogicalConfirmReceivedLocation` (logical.c).

mod file;

pub use file::{Crc32c, SLOT_FILE_BYTES_MAX, SlotFileError, decode_slot, encode_slot};

use alloc::format;
use alloc::string::String;

use crate::feedback::{FullTransactionId, Horizons};
use crate::lsn::{Lsn, TimelineId};
use crate::sqlstate::SqlState;
use crate::wire::backend::Report;

/// Most bytes in a name. PostgreSQL: `NAMEDATALEN` - 1.
pub const SLOT_NAME_BYTES_MAX: usize = 63;

/// A name that no slot can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotNameError {
    /// A name without a character.
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

/// A replication slot: the WAL that one standby or one decoder still needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Its name, which [`validate_name`] has accepted.
    pub name: String,
    /// Oldest WAL that is kept for it; `None` while it keeps none.
    pub restart_lsn: Option<Lsn>,
    /// The timeline that `restart_lsn` is on.
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
    /// What only a logical slot has; `None` for a physical one.
    pub logical: Option<LogicalSlot>,
}

/// What a logical slot has beside what all slots have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogicalSlot {
    /// Name of the output plugin.
    pub plugin: String,
    /// Name of the database whose changes are decoded.
    pub database: String,
    /// The oid of that database.
    pub database_oid: u32,
    /// The client has all of the transactions that committed before.
    pub confirmed_flush_lsn: Lsn,
    /// Decodes transactions when they are prepared.
    pub two_phase: bool,
    /// Is kept on standbys too.
    pub failover: bool,
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
            logical: None,
        }
    }

    /// The client has everything before `flush`, and to go on from there `restart_lsn` is needed.
    ///
    /// Returns whether the slot changed. Neither position goes back, nor does anything happen to a
    /// physical slot. PostgreSQL: `LogicalConfirmReceivedLocation`.
    pub fn confirm_decoded(
        &mut self,
        flush: Lsn,
        restart_lsn: Lsn,
        restart_tli: TimelineId,
    ) -> bool {
        let Some(logical) = self.logical.as_mut().filter(|_| self.invalidated.is_none()) else {
            return false;
        };
        let mut changed = false;
        if flush > logical.confirmed_flush_lsn {
            logical.confirmed_flush_lsn = flush;
            changed = true;
        }
        if self.restart_lsn.is_none_or(|before| restart_lsn > before) {
            self.restart_lsn = Some(restart_lsn);
            self.restart_tli = Some(restart_tli);
            changed = true;
        }
        changed
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

    fn logical() -> Slot {
        let logical = LogicalSlot {
            plugin: String::from("pgoutput"),
            database: String::from("postgres"),
            database_oid: 5,
            confirmed_flush_lsn: Lsn(0x1_0300_0060),
            two_phase: false,
            failover: true,
        };
        Slot { logical: Some(logical), ..slot() }
    }

    #[test]
    fn a_physical_slot_s_file_is_what_it_always_was() {
        let file = encode_slot(&slot(), crc32c::crc32c_append);
        let want = "5748736c 35b4173d 00000001 0000002e 0000000103000028 00000007 \
                    00000001000002bc 0000000000000000 0000000000000000 09 7374616e6462795f31";
        let got: String = file.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(got, want.replace(' ', ""));
    }

    #[test]
    fn a_logical_slot_goes_forward_only() {
        let mut slot = logical();
        assert!(!slot.confirm_decoded(Lsn(0x1_0300_0060), Lsn(0x1_0300_0028), TimelineId::FIRST));
        assert!(slot.confirm_decoded(Lsn(0x1_0300_0070), Lsn(5), TimelineId::FIRST));
        assert_eq!(
            (slot.restart_lsn, slot.restart_tli),
            (Some(Lsn(0x1_0300_0028)), TimelineId::new(7))
        );
        assert!(slot.confirm_decoded(Lsn(5), Lsn(0x1_0300_0030), TimelineId::FIRST));
        let confirmed = slot.logical.as_ref().map(|logical| logical.confirmed_flush_lsn);
        assert_eq!(
            (slot.restart_lsn, confirmed),
            (Some(Lsn(0x1_0300_0030)), Some(Lsn(0x1_0300_0070)))
        );
        slot.invalidate();
        assert!(!slot.confirm_decoded(Lsn(0x2_0000_0000), Lsn(0x2_0000_0000), TimelineId::FIRST));
        assert!(!self::slot().confirm_decoded(Lsn(1 << 40), Lsn(1 << 40), TimelineId::FIRST));
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
        let longest = Slot {
            logical: Some(LogicalSlot {
                plugin: "p".repeat(63),
                database: "d".repeat(63),
                ..logical().logical.unwrap()
            }),
            ..named.clone()
        };
        for slot in [slot(), Slot::new(String::from("a"), false), named, logical(), longest] {
            let active = Slot { active_pid: Some(4), ..slot.clone() };
            let file = encode_slot(&active, crc32c::crc32c_append);
            assert!(file.len() <= SLOT_FILE_BYTES_MAX);
            assert_eq!(decode_slot(&file, crc32c::crc32c_append), Ok(slot));
        }
    }

    #[test]
    fn no_truncation_extension_or_flipped_bit_decodes() {
        let file = encode_slot(&logical(), crc32c::crc32c_append);
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
