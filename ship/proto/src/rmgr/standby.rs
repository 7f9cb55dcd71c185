//! What hot standby needs to know before it answers queries.
//!
//! PostgreSQL: `xl_running_xacts`, `xl_standby_locks` (src/include/storage/standbydefs.h),
//! `LogCurrentRunningXacts`, `LogAccessExclusiveLocks` (src/backend/storage/ipc/standby.c).

use alloc::vec::Vec;

use crate::convert::to_u32;

use super::{FIRST_NORMAL_XID, Fields, body_of, main_data};

/// PostgreSQL: `XLOG_STANDBY_LOCK`.
pub const XLOG_STANDBY_LOCK: u8 = 0x00;
/// PostgreSQL: `XLOG_RUNNING_XACTS`.
pub const XLOG_RUNNING_XACTS: u8 = 0x10;

/// The body of a record which says that no transaction runs and that the next gets `next_xid`.
#[must_use]
pub fn running_xacts(next_xid: u32) -> Vec<u8> {
    RunningXacts::none(next_xid).body()
}

/// The transactions that ran when the record was written. PostgreSQL: `xl_running_xacts`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunningXacts {
    /// The next transaction gets this id.
    pub next_xid: u32,
    /// No older one runs.
    pub oldest_running_xid: u32,
    /// The newest that has ended.
    pub latest_completed_xid: u32,
    /// Those that run: all of the top-level ones.
    pub xids: Vec<u32>,
    /// Ids of their subtransactions.
    pub subxids: Vec<u32>,
    /// There are more subtransactions than are listed. PostgreSQL: `subxid_overflow`.
    pub is_overflowed: bool,
}

impl RunningXacts {
    /// Nothing runs, and the next transaction gets `next_xid`.
    #[must_use]
    pub fn none(next_xid: u32) -> Self {
        Self {
            next_xid,
            oldest_running_xid: next_xid,
            latest_completed_xid: xid_before(next_xid),
            xids: Vec::new(),
            subxids: Vec::new(),
            is_overflowed: false,
        }
    }

    /// The body of the record.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let head = [
            to_u32(self.xids.len()),
            to_u32(self.subxids.len()),
            // With its padding.
            u32::from(self.is_overflowed),
            self.next_xid,
            self.oldest_running_xid,
            self.latest_completed_xid,
        ];
        words_body([head.as_slice(), &self.xids, &self.subxids])
    }

    /// Decodes a record of `RM_STANDBY`; `None` when it is none of this kind.
    #[must_use]
    pub fn decode(info: u8, body: &[u8]) -> Option<Self> {
        Self::decode_data(info, main_data(body)?.data)
    }

    pub(super) fn decode_data(info: u8, data: &[u8]) -> Option<Self> {
        if info & 0xF0 != XLOG_RUNNING_XACTS {
            return None;
        }
        let mut fields = Fields(data);
        let (count, subxid_count) = (fields.u32()?, fields.u32()?);
        let is_overflowed = fields.u32()? & 0xFF != 0;
        let next_xid = fields.u32()?;
        let oldest_running_xid = fields.u32()?;
        let latest_completed_xid = fields.u32()?;
        let xids = fields.xids(count)?;
        let subxids = fields.xids(subxid_count)?;
        Some(Self {
            next_xid,
            oldest_running_xid,
            latest_completed_xid,
            xids,
            subxids,
            is_overflowed,
        })
    }
}

/// A lock on a relation that no reader may share. PostgreSQL: `xl_standby_lock`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StandbyLock {
    /// The transaction or subtransaction that holds it.
    pub xid: u32,
    /// The database of the relation; zero when all share it.
    pub database: u32,
    /// The oid of the relation.
    pub relation: u32,
}

impl StandbyLock {
    /// The body of a record that says which are held.
    #[must_use]
    pub fn body_of(locks: &[Self]) -> Vec<u8> {
        let words: Vec<u32> =
            locks.iter().flat_map(|lock| [lock.xid, lock.database, lock.relation]).collect();
        words_body([&[to_u32(locks.len())], words.as_slice(), &[]])
    }

    /// The locks that the main data of a record of `RM_STANDBY` says are held, as far as it is there;
    /// `None` when it is of another kind.
    pub(super) fn decode_data(info: u8, data: &[u8]) -> Option<impl Iterator<Item = Self>> {
        if info & 0xF0 != XLOG_STANDBY_LOCK {
            return None;
        }
        let mut fields = Fields(data);
        let count = usize::try_from(fields.u32()?).ok()?;
        let lock = move |_| {
            let (xid, database) = (fields.u32()?, fields.u32()?);
            Some(Self { xid, database, relation: fields.u32()? })
        };
        Some((0..count).map_while(lock))
    }
}

fn words_body(words: [&[u32]; 3]) -> Vec<u8> {
    let bytes: Vec<u8> =
        words.iter().flat_map(|w| w.iter()).flat_map(|w| w.to_le_bytes()).collect();
    body_of(&bytes)
}

/// The id before `xid`. PostgreSQL: `TransactionIdRetreat`.
pub(super) fn xid_before(xid: u32) -> u32 {
    if xid <= FIRST_NORMAL_XID { u32::MAX } else { xid - 1 }
}
