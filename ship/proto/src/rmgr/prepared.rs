//! Which transactions outlive the server that ran them, and what of them a standby must keep.
//!
//! A transaction that runs when its server is lost is over: no record will end it. A prepared one is not.
//! Its rows, its subtransactions and its locks wait for COMMIT PREPARED on whatever server comes next, and a
//! standby forgets them as soon as the server that it follows no longer names them: it looks for the state
//! files of its own restartpoints only, which may be older. So whoever goes on with the WAL names them in
//! each record that lists what runs, for as long as nothing has ended them.
//!
//! A transaction that was prepared before the first WAL here cannot be told from one that ran: both are only
//! listed as running. It is kept as *unseen* until it is known to be alive, or over. Naming one that is over
//! costs nothing; not naming one that is prepared loses its rows.
//!
//! | a record that a primary writes about itself | what is followed | what a promoted hub writes |
//! |---|---|---|
//! | `XACT_PREPARE` | id, subtransactions, locks | listed in each `RUNNING_XACTS`, its locks before it |
//! | `XACT_COMMIT`, `ABORT`, `.._PREPARED` | ends one | not listed any more |
//! | `XACT_ASSIGNMENT` | its transaction is alive | |
//! | `RUNNING_XACTS` | those from before the first WAL | as above, `oldestRunningXid` the oldest of them |
//! | `STANDBY_LOCK` | locks of those from before; who else holds one | an `ABORT` for the others, which releases it |
//! | `CHECKPOINT_*`, `NEXTOID`, `FPW_CHANGE` | `counters`; `wal_level` since 17 | the same, `oldestActiveXid` of the oldest |
//! | `PARAMETER_CHANGE` | `wal_level`, commit times on or off, no prepared transactions at all | none: nothing changes |
//! | `END_OF_RECOVERY`, `CHECKPOINT_REDO` | | the primary's `wal_level` |
//! | `COMMIT_TS_TRUNCATE`, `_SETTS`, `MULTIXACT_*` | `counters` | in each checkpoint |
//! | `CLOG_TRUNCATE`, `RESTORE_POINT`, `BACKUP_END`, `NOOP` | nothing that is passed on | |
//!
//! Not here: which records say so (`facts`), numbers that only grow (`counters`).
//!
//! PostgreSQL: `StandbyTransactionIdIsPrepared` (src/backend/access/transam/twophase.c),
//! `ProcArrayApplyRecoveryInfo`, `GetRunningTransactionData` (src/backend/storage/ipc/procarray.c),
//! `StandbyReleaseOldLocks`, `LogStandbySnapshot` (src/backend/storage/ipc/standby.c).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::standby::{RunningXacts, StandbyLock, xid_before};
use super::xact::XactPrepare;
use super::{distance, xid_of};

mod words;

pub use words::PREPARED_WORDS_MAX;

/// Prepared transactions at a time: no more fit into a control file, and with more nothing is promoted.
pub const PREPARED_MAX: usize = 350;
/// Subtransactions of one that are listed; of more none are, which the record then says.
/// PostgreSQL: `PGPROC_MAX_CACHED_SUBXIDS`.
pub const SUBXIDS_MAX: usize = 64;
/// Locks that are kept in all. A standby that starts afresh is not told of more.
pub const LOCKS_MAX: usize = 4096;

/// A transaction that is prepared, or may be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Prepared {
    /// Its subtransactions, unless there are too many.
    subxids: Vec<u32>,
    /// There are too many.
    is_overflowed: bool,
    /// It began before the first WAL here, and may be over.
    is_unseen: bool,
    /// Database and relation of each lock that no reader may share.
    locks: BTreeSet<(u32, u32)>,
}

/// The transactions that are prepared, or may be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PreparedXacts {
    xacts: BTreeMap<u32, Prepared>,
    /// Subtransactions that are listed beside unseen ones. Whose they are is not said.
    unseen_subxids: BTreeSet<u32>,
    /// Too many to be listed.
    unseen_overflowed: bool,
}

impl PreparedXacts {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.xacts.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.xacts.is_empty()
    }

    /// Their ids, each with whether it is known to be prepared.
    pub fn xids(&self) -> impl Iterator<Item = (u32, bool)> {
        self.xacts.iter().map(|(&xid, xact)| (xid, !xact.is_unseen))
    }

    /// The oldest of them, seen from the next id that is given out.
    #[must_use]
    pub fn oldest(&self, next_xid: u64) -> Option<u32> {
        let next = xid_of(next_xid);
        self.xacts.keys().copied().max_by_key(|&xid| distance(xid, next))
    }

    /// What is said when nothing else runs. PostgreSQL: `GetRunningTransactionData`, where one that has too
    /// many subtransactions leaves out those of all.
    #[must_use]
    pub fn running(&self, next_xid: u64) -> RunningXacts {
        let next = xid_of(next_xid);
        let is_overflowed =
            self.unseen_overflowed || self.xacts.values().any(|xact| xact.is_overflowed);
        let mut xids: Vec<u32> = self.xacts.keys().copied().collect();
        xids.sort_by_key(|&xid| core::cmp::Reverse(distance(xid, next)));
        let known = self.xacts.values().flat_map(|xact| xact.subxids.iter().copied());
        let subxids = known.chain(self.unseen_subxids.iter().copied());
        RunningXacts {
            next_xid: next,
            oldest_running_xid: self.oldest(next_xid).unwrap_or(next),
            latest_completed_xid: xid_before(next),
            xids,
            subxids: if is_overflowed { Vec::new() } else { subxids.collect() },
            is_overflowed,
        }
    }

    /// The locks that they hold. PostgreSQL: `GetRunningTransactionLocks`.
    pub fn locks(&self) -> impl Iterator<Item = StandbyLock> {
        self.xacts.iter().flat_map(|(&xid, xact)| {
            xact.locks.iter().map(move |&(database, relation)| StandbyLock {
                xid,
                database,
                relation,
            })
        })
    }

    /// Whether `xid` is one of them.
    #[must_use]
    pub fn contains(&self, xid: u32) -> bool {
        self.xacts.contains_key(&xid)
    }

    /// Whether one of them is from before the first WAL.
    pub(super) fn has_unseen(&self) -> bool {
        self.xacts.values().any(|xact| xact.is_unseen)
    }

    pub(super) fn is_unseen(&self, xid: u32) -> bool {
        self.xacts.get(&xid).is_some_and(|xact| xact.is_unseen)
    }

    pub(super) fn prepare(&mut self, prepare: &XactPrepare) {
        let is_overflowed = prepare.subxacts.len() > SUBXIDS_MAX || prepare.is_cut;
        let subxids = if is_overflowed { Vec::new() } else { prepare.subxacts.clone() };
        let prepared = Prepared { subxids, is_overflowed, ..Prepared::default() };
        self.xacts.insert(prepare.xid, prepared);
        for subxid in &prepare.subxacts {
            self.unseen_subxids.remove(subxid);
        }
        let lock = |&(database, relation)| StandbyLock { xid: prepare.xid, database, relation };
        prepare.locks.iter().map(lock).for_each(|lock| self.lock(&lock));
        self.forget_unseen_subxids();
    }

    /// One of them has a lock.
    pub(super) fn lock(&mut self, lock: &StandbyLock) {
        let count: usize = self.xacts.values().map(|xact| xact.locks.len()).sum();
        if count < LOCKS_MAX
            && let Some(xact) = self.xacts.get_mut(&lock.xid)
        {
            xact.locks.insert((lock.database, lock.relation));
        }
    }

    /// A transaction has ended, and its subtransactions have, or is known to be alive.
    pub(super) fn remove(&mut self, xid: u32, subxids: impl Iterator<Item = u32>) {
        self.xacts.remove(&xid);
        for subxid in subxids {
            self.unseen_subxids.remove(&subxid);
        }
        self.forget_unseen_subxids();
    }

    /// Whether [`PreparedXacts::remove`] would change anything.
    pub(super) fn concern(&self, xid: u32, mut subxids: impl Iterator<Item = u32>) -> bool {
        let is_listed = |subxid: u32| self.unseen_subxids.contains(&subxid);
        self.contains(xid) || (!self.unseen_subxids.is_empty() && subxids.any(is_listed))
    }

    /// One that runs and was not seen to begin.
    pub(super) fn add_unseen(&mut self, xid: u32) {
        let unseen = Prepared { is_unseen: true, ..Prepared::default() };
        self.xacts.entry(xid).or_insert(unseen);
    }

    /// The subtransactions that are listed beside unseen ones.
    pub(super) fn add_unseen_subxids(
        &mut self,
        subxids: impl Iterator<Item = u32>,
        is_overflowed: bool,
    ) {
        let known: BTreeSet<u32> =
            self.xacts.values().flat_map(|xact| xact.subxids.iter().copied()).collect();
        let unseen = subxids.filter(|subxid| !known.contains(subxid));
        self.unseen_subxids.extend(unseen.take(PREPARED_MAX * SUBXIDS_MAX));
        self.unseen_overflowed = is_overflowed;
        self.forget_unseen_subxids();
    }

    /// Unseen ones that are not among those that run are over.
    pub(super) fn keep_running(&mut self, running: &RunningXacts) {
        self.xacts.retain(|xid, xact| !xact.is_unseen || running.xids.contains(xid));
        if !running.is_overflowed && !self.unseen_subxids.is_empty() {
            let listed: BTreeSet<u32> = running.subxids.iter().copied().collect();
            self.unseen_subxids.retain(|subxid| listed.contains(subxid));
        }
        self.forget_unseen_subxids();
    }

    /// There is none but those that were seen.
    pub(super) fn forget_unseen(&mut self) {
        self.xacts.retain(|_, xact| !xact.is_unseen);
        self.forget_unseen_subxids();
    }

    fn forget_unseen_subxids(&mut self) {
        if !self.has_unseen() {
            self.unseen_subxids.clear();
            self.unseen_overflowed = false;
        }
    }
}

#[cfg(test)]
mod tests;
