//! Ends of transactions.
//!
//! PostgreSQL: `xl_xact_commit` and its parts (src/include/access/xact.h), `XactLogCommitRecord`
//! (src/backend/access/transam/xact.c), `ParseCommitRecord` (src/backend/access/rmgrdesc/xactdesc.c).

use alloc::vec::Vec;

use super::{Fields, body_of, main_data};

mod prepare;

pub use prepare::XactPrepare;

use crate::lsn::Lsn;
use crate::page::WalVersion;
use crate::time::Timestamp;

/// PostgreSQL: `XLOG_XACT_COMMIT`.
pub const XLOG_XACT_COMMIT: u8 = 0x00;
/// PostgreSQL: `XLOG_XACT_PREPARE`.
pub const XLOG_XACT_PREPARE: u8 = 0x10;
/// PostgreSQL: `XLOG_XACT_ABORT`.
pub const XLOG_XACT_ABORT: u8 = 0x20;
/// PostgreSQL: `XLOG_XACT_COMMIT_PREPARED`.
pub const XLOG_XACT_COMMIT_PREPARED: u8 = 0x30;
/// PostgreSQL: `XLOG_XACT_ABORT_PREPARED`.
pub const XLOG_XACT_ABORT_PREPARED: u8 = 0x40;
/// PostgreSQL: `XLOG_XACT_ASSIGNMENT`.
pub const XLOG_XACT_ASSIGNMENT: u8 = 0x50;
/// What of `xl_info` is the kind. PostgreSQL: `XLOG_XACT_OPMASK`.
pub const XLOG_XACT_OPMASK: u8 = 0x70;
/// `xinfo` follows the time. PostgreSQL: `XLOG_XACT_HAS_INFO`.
pub const XLOG_XACT_HAS_INFO: u8 = 0x80;

/// PostgreSQL: `XACT_XINFO_HAS_*`.
const HAS_DBINFO: u32 = 1 << 0;
const HAS_SUBXACTS: u32 = 1 << 1;
const HAS_RELFILELOCATORS: u32 = 1 << 2;
const HAS_INVALS: u32 = 1 << 3;
const HAS_TWOPHASE: u32 = 1 << 4;
const HAS_ORIGIN: u32 = 1 << 5;
/// PostgreSQL: `XACT_XINFO_HAS_AE_LOCKS`.
const HAS_LOCKS: u32 = 1 << 6;
const HAS_GID: u32 = 1 << 7;
const HAS_DROPPED_STATS: u32 = 1 << 8;
/// PostgreSQL: `XACT_COMPLETION_APPLY_FEEDBACK`.
const COMPLETION_APPLY_FEEDBACK: u32 = 1 << 29;

/// `xl_info` and body of a commit record.
///
/// With `apply_feedback` a standby reports at once that it has applied the record.
#[must_use]
pub fn commit(time: Timestamp, apply_feedback: bool) -> (u8, Vec<u8>) {
    let time = time.0.to_le_bytes();
    if !apply_feedback {
        return (XLOG_XACT_COMMIT, body_of(&time));
    }
    let mut data = Vec::from(time);
    data.extend_from_slice(&COMPLETION_APPLY_FEEDBACK.to_le_bytes());
    (XLOG_XACT_COMMIT | XLOG_XACT_HAS_INFO, body_of(&data))
}

/// `xl_info` and body of a record that says that a transaction was rolled back, which has standbys let go of
/// the locks that it holds there.
#[must_use]
pub fn abort(time: Timestamp) -> (u8, Vec<u8>) {
    let mut data = Vec::from(time.0.to_le_bytes());
    data.extend_from_slice(&HAS_LOCKS.to_le_bytes());
    (XLOG_XACT_ABORT | XLOG_XACT_HAS_INFO, body_of(&data))
}

/// A record that ends a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct XactEnd {
    /// Whether it committed; else it was rolled back.
    pub committed: bool,
    /// When it ended, by the clock of the server that wrote it.
    pub time: Timestamp,
    /// The database, when the record says.
    pub database: Option<u32>,
    /// Its subtransactions that end as it does.
    pub subxacts: Vec<u32>,
    /// The prepared transaction that ended; otherwise it is that of the record.
    pub prepared_xid: Option<u32>,
    /// Where the change came from: the position and time of the commit there.
    pub origin: Option<(Lsn, Timestamp)>,
    /// The number of where it came from.
    pub origin_id: Option<u16>,
    /// Whether a standby is to report at once that it applied this.
    pub apply_feedback: bool,
}

impl XactEnd {
    /// Decodes a record of `RM_XACT`; `None` when it ends no transaction.
    #[must_use]
    pub fn decode(info: u8, body: &[u8], version: WalVersion) -> Option<Self> {
        let main = main_data(body)?;
        let end = Self::decode_data(info, main.data, version)?;
        Some(Self { origin_id: main.origin, ..end })
    }

    pub(super) fn decode_data(info: u8, data: &[u8], version: WalVersion) -> Option<Self> {
        let committed = match info & XLOG_XACT_OPMASK {
            XLOG_XACT_COMMIT | XLOG_XACT_COMMIT_PREPARED => true,
            XLOG_XACT_ABORT | XLOG_XACT_ABORT_PREPARED => false,
            _ => return None,
        };
        let mut fields = Fields(data);
        let time = Timestamp(fields.i64()?);
        let xinfo = if info & XLOG_XACT_HAS_INFO == 0 { 0 } else { fields.u32()? };
        let has = |flag: u32| xinfo & flag != 0;
        let mut end = Self {
            committed,
            time,
            database: None,
            subxacts: Vec::new(),
            prepared_xid: None,
            origin: None,
            origin_id: None,
            apply_feedback: has(COMPLETION_APPLY_FEEDBACK),
        };
        if has(HAS_DBINFO) {
            end.database = Some(fields.u32()?);
            fields.u32()?; // The tablespace.
        }
        if has(HAS_SUBXACTS) {
            let (xids, _) = fields.array(4)?.as_chunks::<4>();
            end.subxacts = xids.iter().map(|xid| u32::from_le_bytes(*xid)).collect();
        }
        if has(HAS_RELFILELOCATORS) {
            fields.array(12)?;
        }
        if has(HAS_DROPPED_STATS) {
            fields.array(if version.is_since(WalVersion::PG18) { 16 } else { 12 })?;
        }
        if committed && has(HAS_INVALS) {
            fields.array(16)?;
        }
        if has(HAS_TWOPHASE) {
            end.prepared_xid = Some(fields.u32()?);
            if has(HAS_GID) {
                let len = fields.0.iter().position(|&byte| byte == 0)?;
                fields.bytes(len + 1)?;
            }
        }
        if has(HAS_ORIGIN) {
            end.origin = Some((Lsn(fields.u64()?), Timestamp(fields.i64()?)));
        }
        Some(end)
    }
}

/// The subtransactions that a record lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Listed<'a> {
    /// Their ids, four bytes each.
    pub(super) xids: &'a [u8],
    /// The top-level transaction, when the record only says that they are its.
    pub(super) assigned_to: Option<u32>,
    /// Whether they and the record's transaction committed.
    pub(super) is_committed: bool,
    /// There are more of them than are here.
    pub(super) is_cut: bool,
}

/// The subtransactions that the main data of a record of `RM_XACT` lists, as far as it is there; `None`
/// when it is of no kind that lists any. The part that lists them is the same in all majors.
pub(super) fn listed_xids(info: u8, data: &[u8]) -> Option<Listed<'_>> {
    let kind = info & XLOG_XACT_OPMASK;
    let mut fields = Fields(data);
    let is_committed = matches!(kind, XLOG_XACT_COMMIT | XLOG_XACT_COMMIT_PREPARED);
    let is_ended = is_committed || matches!(kind, XLOG_XACT_ABORT | XLOG_XACT_ABORT_PREPARED);
    let mut listed = Listed { xids: &[], assigned_to: None, is_committed, is_cut: false };
    if kind == XLOG_XACT_ASSIGNMENT {
        listed.assigned_to = Some(fields.u32()?);
    } else if is_ended {
        fields.i64()?; // When.
        let xinfo = if info & XLOG_XACT_HAS_INFO == 0 { 0 } else { fields.u32()? };
        if xinfo & HAS_SUBXACTS == 0 {
            return Some(listed);
        }
        if xinfo & HAS_DBINFO != 0 {
            fields.bytes(8)?;
        }
    } else {
        return None;
    }
    let len = usize::try_from(fields.u32()?).ok()?.checked_mul(4)?;
    listed.is_cut = fields.0.len() < len;
    listed.xids = fields.0.get(..len).unwrap_or(fields.0);
    Some(listed)
}

/// Which subtransactions belong to which transaction, told when a backend has many.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct XactAssignment {
    /// Id of the top-level transaction.
    pub toplevel_xid: u32,
    /// Ids of its subtransactions.
    pub subxacts: Vec<u32>,
}

impl XactAssignment {
    /// Decodes a record of `RM_XACT`; `None` when it is none of this kind.
    #[must_use]
    pub fn decode(info: u8, body: &[u8]) -> Option<Self> {
        if info & XLOG_XACT_OPMASK != XLOG_XACT_ASSIGNMENT {
            return None;
        }
        let mut fields = Fields(main_data(body)?.data);
        let toplevel_xid = fields.u32()?;
        let (xids, _) = fields.array(4)?.as_chunks::<4>();
        let subxacts = xids.iter().map(|xid| u32::from_le_bytes(*xid)).collect();
        Some(Self { toplevel_xid, subxacts })
    }
}

#[cfg(test)]
mod tests;
