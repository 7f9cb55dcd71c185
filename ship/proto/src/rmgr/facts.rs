//! What a primary's WAL says about the database: all that whoever goes on with it has to say, too.
//!
//! [`FactReader`] looks at each record once and hands it to whom it concerns: `counters` and `prepared`. The
//! table of who follows what is in `prepared`.
//!
//! A restart begins again somewhere before the position that [`Facts`] were true at. To be shown the same
//! records again changes nothing: what they say is set, not added.
//!
//! Not here: where the records come from.
//!
//! PostgreSQL: `xlog_redo`, `xact_redo`, `standby_redo`, `multixact_redo`, `commit_ts_redo`.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::counters::{CheckpointSeen, CounterReader, Counters};
use super::prepared::PreparedXacts;
use super::standby::{RunningXacts, StandbyLock, xid_before};
use super::xact::{
    Listed, XLOG_XACT_ABORT, XLOG_XACT_ABORT_PREPARED, XLOG_XACT_COMMIT, XLOG_XACT_COMMIT_PREPARED,
    XLOG_XACT_OPMASK, XLOG_XACT_PREPARE, XactEnd, XactPrepare, listed_xids,
};
use super::xlog::{
    Checkpoint, ParameterChange, WalLevel, XLOG_CHECKPOINT_ONLINE, XLOG_CHECKPOINT_SHUTDOWN,
};
use super::{FIRST_NORMAL_XID, RM_COMMIT_TS, RM_MULTIXACT, RM_STANDBY, RM_XACT, main_data_start};
use crate::lsn::Lsn;
use crate::page::WalVersion;
use crate::record::{RM_XLOG, RMGR_INFO_MASK, RecordHeader, RecordSink};

mod follow;

pub use follow::HOLDERS_MAX;
use follow::PreparedReader;

/// Bytes of a record's body that are kept when it lists transactions: more than 200 000 of them.
const LIST_KEPT_LEN: usize = 1 << 20;
/// The same when it prepares a transaction or ends a prepared one, where what matters may come last.
const PREPARED_KEPT_LEN: usize = 16 << 20;
/// The same for the other records that are looked into.
const BODY_KEPT_LEN: usize = 128;
/// Bytes of room for a body that are not given back after each record.
const BODY_ROOM_KEPT: usize = 64 << 10;

/// What outlives the primary and is no number that only grows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DatabaseFacts {
    /// The transactions that are prepared, or may be. `None` while transactions may be prepared that nothing
    /// here has named.
    pub prepared: Option<Arc<PreparedXacts>>,
    /// Who holds locks that a standby has taken, too, and is neither prepared nor at its end.
    pub lock_holders: Arc<Vec<u32>>,
    /// How much the WAL says, when that is known.
    pub wal_level: Option<WalLevel>,
}

impl DatabaseFacts {
    /// Those of WAL that has been walhub's from the beginning: it has no database.
    #[must_use]
    pub fn of_own_wal() -> Self {
        Self {
            prepared: Some(Arc::default()),
            lock_holders: Arc::default(),
            wal_level: Some(WalLevel::Logical),
        }
    }
}

/// What the WAL up to some position says about the database.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// What was given out, once a checkpoint was seen.
    pub counters: Option<Counters>,
    /// What is known of transactions, locks and the WAL's level.
    pub database: DatabaseFacts,
}

/// Follows what the WAL says about the database through the records that it is shown.
#[derive(Clone, Debug)]
pub struct FactReader {
    counters: CounterReader,
    prepared: PreparedReader,
    wal_level: Option<WalLevel>,
    /// The transaction of the last record that belonged to one, until its end.
    last_open: Option<u32>,
    version: Option<WalVersion>,
    /// The beginning of a record's body.
    body: Vec<u8>,
}

impl FactReader {
    /// Begins at `from`, where this is known.
    #[must_use]
    pub fn new(from: Lsn, known: Facts) -> Self {
        let Facts { counters, database } = known;
        Self {
            counters: CounterReader::new(from, counters),
            wal_level: database.wal_level,
            prepared: PreparedReader::new(database),
            last_open: None,
            version: None,
            body: Vec::new(),
        }
    }

    /// What is known after the last record that was shown whole.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let (prepared, lock_holders) = (self.prepared.known(), self.prepared.lock_holders());
        let database = DatabaseFacts { prepared, lock_holders, wal_level: self.wal_level };
        Facts { counters: self.counters(), database }
    }

    /// The numbers among them; `None` while too little was seen.
    #[must_use]
    pub const fn counters(&self) -> Option<Counters> {
        self.counters.counters()
    }

    /// The next transaction id, with its epoch, when it is known.
    #[must_use]
    pub const fn next_xid(&self) -> Option<u64> {
        self.counters.next_xid()
    }

    /// The newest checkpoint that was shown.
    #[must_use]
    pub const fn checkpoint(&self) -> Option<CheckpointSeen> {
        self.counters.checkpoint()
    }

    /// The transaction that the last record of any belonged to, if that has not ended it. Where WAL is
    /// written one transaction after the other, it is the one that a crash has cut off.
    #[must_use]
    pub const fn last_open(&self) -> Option<u32> {
        self.last_open
    }

    fn note_xlog(&mut self, record: &RecordHeader, data: &[u8]) {
        let info = record.info & RMGR_INFO_MASK;
        // One that is laid out otherwise says nothing that is understood here.
        let _ = self.counters.note_xlog(record, data);
        if let Some(change) = ParameterChange::decode(info, data) {
            self.wal_level = Some(change.wal_level);
            if change.max_prepared_xacts == 0 {
                self.prepared.note_none();
            }
        }
        let is_checkpoint = matches!(info, XLOG_CHECKPOINT_SHUTDOWN | XLOG_CHECKPOINT_ONLINE);
        if is_checkpoint
            && self.version.is_some_and(|version| version.is_since(WalVersion::PG17))
            && let Some(checkpoint) = Checkpoint::decode(data)
        {
            self.wal_level = Some(checkpoint.wal_level);
        }
    }

    fn note_standby(&mut self, record: &RecordHeader, data: &[u8]) {
        if let Some(locks) = StandbyLock::decode_data(record.info, data) {
            self.prepared.note_locks(locks);
        } else if let Some(running) = RunningXacts::decode_data(record.info, data) {
            self.counters.note_xid(xid_before(running.next_xid));
            self.prepared.note_running(&running);
        }
    }

    fn note_xact(&mut self, record: &RecordHeader, data: &[u8]) {
        match record.info & XLOG_XACT_OPMASK {
            XLOG_XACT_PREPARE => {
                let decode = |version| XactPrepare::decode(record.info, data, version);
                if let Some(prepare) = self.version.and_then(decode) {
                    self.prepared.note_prepare(&prepare);
                    prepare.subxacts.iter().for_each(|&xid| self.counters.note_xid(xid));
                } else {
                    self.prepared.note_unknown();
                }
            }
            XLOG_XACT_COMMIT | XLOG_XACT_ABORT => {
                let Some(listed) = self.note_ended(record, data) else {
                    return self.prepared.forget_holders();
                };
                self.prepared.note_end(record.xid, ids(listed.xids));
                if listed.is_cut {
                    self.prepared.forget_holders();
                }
            }
            XLOG_XACT_COMMIT_PREPARED | XLOG_XACT_ABORT_PREPARED => {
                self.note_ended(record, data);
                let decode = |version| XactEnd::decode_data(record.info, data, version);
                let Some(end) = self.version.and_then(decode) else { return };
                let Some(xid) = end.prepared_xid else { return };
                self.counters.note_xid(xid);
                if end.committed {
                    self.counters.note_commit(xid);
                }
                self.prepared.note_end(xid, end.subxacts.iter().copied());
            }
            _ => {
                // An assignment, or what others must not keep in their caches.
                self.prepared.note_alive(record.xid);
                if let Some(listed) = listed_xids(record.info, data) {
                    ids(listed.xids).for_each(|xid| self.counters.note_xid(xid));
                    // Whose they are.
                    listed.assigned_to.into_iter().for_each(|xid| self.prepared.note_alive(xid));
                }
            }
        }
    }

    /// What the end of a transaction adds to the numbers.
    fn note_ended<'a>(&mut self, record: &RecordHeader, data: &'a [u8]) -> Option<Listed<'a>> {
        let listed = listed_xids(record.info, data)?;
        ids(listed.xids).for_each(|xid| self.counters.note_xid(xid));
        if listed.is_committed {
            self.counters.note_commit(record.xid);
            ids(listed.xids).for_each(|xid| self.counters.note_commit(xid));
        }
        Some(listed)
    }
}

/// Whether the record is the last of its transaction, until another server goes on with it.
const fn is_last(record: &RecordHeader) -> bool {
    let kind = record.info & XLOG_XACT_OPMASK;
    record.rmid == RM_XACT && matches!(kind, XLOG_XACT_COMMIT | XLOG_XACT_ABORT | XLOG_XACT_PREPARE)
}

fn ids(bytes: &[u8]) -> impl Iterator<Item = u32> + Clone {
    let (ids, _) = bytes.as_chunks::<4>();
    ids.iter().map(|id| u32::from_le_bytes(*id))
}

/// How much of a record's body is looked at.
const fn kept_len(record: &RecordHeader) -> usize {
    match record.rmid {
        RM_XACT => match record.info & XLOG_XACT_OPMASK {
            XLOG_XACT_PREPARE | XLOG_XACT_COMMIT_PREPARED | XLOG_XACT_ABORT_PREPARED => {
                PREPARED_KEPT_LEN
            }
            _ => LIST_KEPT_LEN,
        },
        RM_MULTIXACT | RM_STANDBY => LIST_KEPT_LEN,
        RM_XLOG | RM_COMMIT_TS => BODY_KEPT_LEN,
        _ => 0,
    }
}

impl RecordSink for FactReader {
    fn version(&mut self, version: WalVersion) {
        self.version = Some(version);
    }

    fn begin(&mut self, _record: &RecordHeader) {
        self.body.clear();
    }

    fn body(&mut self, record: &RecordHeader, piece: &[u8]) {
        let room = kept_len(record).saturating_sub(self.body.len());
        self.body.extend_from_slice(piece.get(..room).unwrap_or(piece));
    }

    fn record(&mut self, record: &RecordHeader) {
        if record.xid >= FIRST_NORMAL_XID {
            self.counters.note_xid(record.xid);
            self.last_open = if is_last(record) { None } else { Some(record.xid) };
            if record.rmid != RM_XACT {
                self.prepared.note_alive(record.xid);
            }
        }
        if kept_len(record) == 0 {
            return;
        }
        let mut body = core::mem::take(&mut self.body);
        if let Some((main, _)) = main_data_start(&body) {
            match record.rmid {
                RM_XLOG => self.note_xlog(record, main.data),
                RM_STANDBY => self.note_standby(record, main.data),
                RM_MULTIXACT => drop(self.counters.note_multixact(record.info, main.data)),
                RM_XACT => self.note_xact(record, main.data),
                _ => {
                    let (info, data) = (record.info, main.data);
                    let note = |version| self.counters.note_commit_ts(info, data, version);
                    let _ = self.version.and_then(note);
                }
            }
        } else if record.rmid == RM_XACT {
            self.prepared.forget_holders();
        }
        body.clear();
        // Not the room that one long record took.
        body.shrink_to(BODY_ROOM_KEPT);
        self.body = body;
    }
}

#[cfg(test)]
mod tests;
