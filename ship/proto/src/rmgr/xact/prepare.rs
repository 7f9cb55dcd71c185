//! The record that prepares a transaction: what of it outlives the server.
//!
//! PostgreSQL: `xl_xact_prepare` (src/include/access/xact.h), `StartPrepare`, `EndPrepare`,
//! `TwoPhaseRecordOnDisk` (src/backend/access/transam/twophase.c), `TwoPhaseLockRecord`
//! (src/backend/storage/lmgr/lock.c).

use alloc::vec::Vec;

use super::super::Fields;
use super::XLOG_XACT_PREPARE;
use crate::page::WalVersion;

/// The parts of the record begin at multiples of this. PostgreSQL: `MAXALIGN`.
const ALIGN: usize = 8;
/// PostgreSQL: `TWOPHASE_RM_END_ID`.
const TWOPHASE_END: u8 = 0;
/// PostgreSQL: `TWOPHASE_RM_LOCK_ID`.
const TWOPHASE_LOCK: u8 = 1;
/// PostgreSQL: `LOCKTAG_RELATION`.
const LOCKTAG_RELATION: u8 = 0;
/// PostgreSQL: `AccessExclusiveLock`, which a standby takes, too.
const ACCESS_EXCLUSIVE: u32 = 8;
/// PostgreSQL: `sizeof(SharedInvalidationMessage)`.
const INVALIDATION_LEN: usize = 16;
/// PostgreSQL: `sizeof(RelFileLocator)`.
const RELFILELOCATOR_LEN: usize = 12;

/// A transaction that was prepared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct XactPrepare {
    /// Id of the prepared transaction.
    pub xid: u32,
    /// The oid of its database.
    pub database: u32,
    /// Ids of its subtransactions.
    pub subxacts: Vec<u32>,
    /// Database and relation of the locks that no reader may share.
    pub locks: Vec<(u32, u32)>,
    /// The record was not there as a whole, and something may be missing above.
    pub is_cut: bool,
}

impl XactPrepare {
    /// Decodes the main data of a record of `RM_XACT`, as far as it is there; `None` when it is none of this
    /// kind.
    #[must_use]
    pub fn decode(info: u8, data: &[u8], version: WalVersion) -> Option<Self> {
        if info & super::XLOG_XACT_OPMASK != XLOG_XACT_PREPARE {
            return None;
        }
        let head = Head::decode(data, version)?;
        let mut prepare = Self {
            xid: head.xid,
            database: head.database,
            subxacts: Vec::new(),
            locks: Vec::new(),
            is_cut: true,
        };
        if prepare.read_rest(data, &head, version).is_some() {
            prepare.is_cut = false;
        }
        Some(prepare)
    }

    fn read_rest(&mut self, data: &[u8], head: &Head, version: WalVersion) -> Option<()> {
        let mut parts = Parts { data, at: head.len };
        parts.take(head.gid_len)?;
        self.subxacts = Fields(parts.array(head.subxacts, 4)?).xids(head.subxacts)?;
        let stats_len = if version.is_since(WalVersion::PG18) { 16 } else { 12 };
        for relations in head.relations {
            parts.array(relations, RELFILELOCATOR_LEN)?;
        }
        for stats in head.stats {
            parts.array(stats, stats_len)?;
        }
        parts.array(head.invalidations, INVALIDATION_LEN)?;
        loop {
            let mut fields = Fields(parts.take(8)?);
            let len = usize::try_from(fields.u32()?).ok()?;
            let [kind, _, _, _] = fields.take()?;
            if kind == TWOPHASE_END {
                return Some(());
            }
            let content = parts.take(len)?;
            if kind == TWOPHASE_LOCK {
                self.locks.extend(exclusive_lock(content)?);
            }
        }
    }
}

/// Database and relation, when it is a lock that a standby takes. Its length tells that it is a lock.
#[allow(clippy::option_option, reason = "no lock at all, and a lock that is of no interest")]
fn exclusive_lock(content: &[u8]) -> Option<Option<(u32, u32)>> {
    let mut fields = Fields(content);
    let (database, relation) = (fields.u32()?, fields.u32()?);
    fields.bytes(6)?; // The rest of the numbers in the tag.
    let [kind, _method] = fields.take()?;
    let mode = fields.u32()?;
    let is_exclusive = kind == LOCKTAG_RELATION && mode == ACCESS_EXCLUSIVE;
    Some(is_exclusive.then_some((database, relation)))
}

/// What stands before the lists. PostgreSQL: `xl_xact_prepare`.
struct Head {
    len: usize,
    xid: u32,
    database: u32,
    subxacts: u32,
    /// To be removed at commit, and at abort.
    relations: [u32; 2],
    /// The same of statistics, since 15.
    stats: [u32; 2],
    invalidations: u32,
    gid_len: usize,
}

impl Head {
    fn decode(data: &[u8], version: WalVersion) -> Option<Self> {
        let mut fields = Fields(data);
        let (_magic, _total_len) = (fields.u32()?, fields.u32()?);
        let (xid, database) = (fields.u32()?, fields.u32()?);
        let (_prepared_at, _owner) = (fields.u64()?, fields.u32()?);
        let subxacts = fields.u32()?;
        let relations = [fields.u32()?, fields.u32()?];
        let has_stats = version.is_since(WalVersion::PG15);
        let stats = if has_stats { [fields.u32()?, fields.u32()?] } else { [0; 2] };
        let invalidations = fields.u32()?;
        fields.bytes(2)?; // Whether the relation cache's file is void, and padding.
        let gid_len = usize::from(u16::from_le_bytes(fields.take()?));
        fields.bytes(16)?; // Position and time of the origin.
        let len = data.len() - fields.0.len();
        Some(Self { len, xid, database, subxacts, relations, stats, invalidations, gid_len })
    }
}

/// Cuts aligned parts off.
struct Parts<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Parts<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let start = self.at.checked_next_multiple_of(ALIGN)?;
        let end = start.checked_add(len)?;
        let part = self.data.get(start..end)?;
        self.at = end;
        Some(part)
    }

    fn array(&mut self, count: u32, item_len: usize) -> Option<&'a [u8]> {
        self.take(usize::try_from(count).ok()?.checked_mul(item_len)?)
    }
}
