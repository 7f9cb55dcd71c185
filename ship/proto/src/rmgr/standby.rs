//! What hot standby needs to know before it answers queries.
//!
//! PostgreSQL: `xl_running_xacts` (src/include/storage/standbydefs.h), `LogCurrentRunningXacts`
//! (src/backend/storage/ipc/standby.c).

use alloc::vec::Vec;

use super::{FIRST_NORMAL_XID, Fields, body_of, main_data};

/// PostgreSQL: `XLOG_RUNNING_XACTS`.
pub const XLOG_RUNNING_XACTS: u8 = 0x10;

/// The body of a record which says that no transaction runs and that the next gets `next_xid`.
#[must_use]
pub fn running_xacts(next_xid: u32) -> Vec<u8> {
    let latest_completed = xid_before(next_xid);
    let mut data = Vec::with_capacity(24);
    // xcnt, subxcnt, subxid_overflow and its padding.
    data.extend_from_slice(&[0; 12]);
    data.extend_from_slice(&next_xid.to_le_bytes());
    data.extend_from_slice(&next_xid.to_le_bytes()); // oldestRunningXid
    data.extend_from_slice(&latest_completed.to_le_bytes());
    body_of(&data)
}

/// Which transactions run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunningXacts {
    /// The next transaction gets this id.
    pub next_xid: u32,
    /// No older one runs.
    pub oldest_running_xid: u32,
    /// The newest that has ended.
    pub latest_completed_xid: u32,
    /// Those that run, top-level ones first.
    pub xids: Vec<u32>,
}

impl RunningXacts {
    /// Decodes a record of `RM_STANDBY`; `None` when it is none of this kind.
    #[must_use]
    pub fn decode(info: u8, body: &[u8]) -> Option<Self> {
        if info & 0xF0 != XLOG_RUNNING_XACTS {
            return None;
        }
        let mut fields = Fields(main_data(body)?.data);
        let count = u64::from(fields.u32()?) + u64::from(fields.u32()?);
        fields.u32()?; // subxid_overflow
        let next_xid = fields.u32()?;
        let oldest_running_xid = fields.u32()?;
        let latest_completed_xid = fields.u32()?;
        let (xids, _) =
            fields.bytes(usize::try_from(count.checked_mul(4)?).ok()?)?.as_chunks::<4>();
        let xids = xids.iter().map(|xid| u32::from_le_bytes(*xid)).collect();
        Some(Self { next_xid, oldest_running_xid, latest_completed_xid, xids })
    }
}

/// The next transaction id, from the beginning of the main data of a record of `RM_STANDBY`; `None` when
/// it does not say.
pub(super) fn running_next_xid(info: u8, data: &[u8]) -> Option<u32> {
    let is_running = info & 0xF0 == XLOG_RUNNING_XACTS;
    let mut fields = Fields(data);
    fields.bytes(12)?; // xcnt, subxcnt, subxid_overflow
    fields.u32().filter(|_| is_running)
}

/// The id before `xid`. PostgreSQL: `TransactionIdRetreat`.
pub(super) fn xid_before(xid: u32) -> u32 {
    if xid <= FIRST_NORMAL_XID { u32::MAX } else { xid - 1 }
}
