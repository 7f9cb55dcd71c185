//! Follows which transactions are prepared, or may be.
//!
//! Until the first list of running transactions those that were prepared before the first WAL are unknown.
//! What happens until then is remembered: who on that list has written something here is alive, and will be
//! seen to prepare or to end; who has just ended is on the list only because that was made before.
//!
//! PostgreSQL: `LogStandbySnapshot`, which writes the list after the locks on it are let go.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::super::distance;
use super::super::prepared::PreparedXacts;
use super::super::standby::{RunningXacts, StandbyLock};
use super::super::xact::XactPrepare;
use super::{DatabaseFacts, FIRST_NORMAL_XID};

/// Transactions that are remembered as alive until the first list.
const ALIVE_MAX: usize = 65_536;
/// Ends that are remembered until the first list. The race that they are for is one of microseconds.
const ENDED_MAX: usize = 16_384;
/// Locks that are remembered until the first list.
const EARLY_LOCKS_MAX: usize = 4096;
/// Holders of locks that are followed; what more of them hold stays as long as a PostgreSQL standby keeps it.
pub const HOLDERS_MAX: usize = 256;

/// What happened before the first list of running transactions.
#[derive(Clone, Debug, Default)]
struct Early {
    alive: BTreeSet<u32>,
    ended: VecDeque<u32>,
    locks: Vec<StandbyLock>,
}

impl Early {
    fn note_end(&mut self, xid: u32) {
        self.alive.remove(&xid);
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(xid);
    }
}

#[derive(Clone, Debug)]
pub(super) struct PreparedReader {
    xacts: Arc<PreparedXacts>,
    /// `None` once the first list has come.
    early: Option<Early>,
    /// One of `xacts` is unseen.
    has_unseen: bool,
    holders: Arc<Vec<u32>>,
}

impl PreparedReader {
    pub(super) fn new(known: DatabaseFacts) -> Self {
        let early = if known.prepared.is_some() { None } else { Some(Early::default()) };
        let xacts = known.prepared.unwrap_or_default();
        let has_unseen = xacts.has_unseen();
        Self { xacts, early, has_unseen, holders: known.lock_holders }
    }

    pub(super) fn known(&self) -> Option<Arc<PreparedXacts>> {
        if self.early.is_none() { Some(Arc::clone(&self.xacts)) } else { None }
    }

    pub(super) fn lock_holders(&self) -> Arc<Vec<u32>> {
        Arc::clone(&self.holders)
    }

    pub(super) fn note_prepare(&mut self, prepare: &XactPrepare) {
        Arc::make_mut(&mut self.xacts).prepare(prepare);
        self.has_unseen = self.xacts.has_unseen();
        if let Some(early) = &mut self.early {
            early.alive.remove(&prepare.xid);
        }
        self.release(prepare.xid, prepare.subxacts.iter().copied());
        if prepare.is_cut {
            self.forget_holders();
        }
    }

    pub(super) fn note_end(&mut self, xid: u32, subxids: impl Iterator<Item = u32> + Clone) {
        if self.xacts.concern(xid, subxids.clone()) {
            Arc::make_mut(&mut self.xacts).remove(xid, subxids.clone());
            self.has_unseen = self.xacts.has_unseen();
        }
        if let Some(early) = &mut self.early {
            core::iter::once(xid).chain(subxids.clone()).for_each(|xid| early.note_end(xid));
        }
        self.release(xid, subxids);
    }

    /// One was prepared, and it is not known which: the next list tells.
    pub(super) fn note_unknown(&mut self) {
        self.early = Some(Early::default());
        self.forget_holders();
    }

    /// Some of them may be at their end, or prepared. Whoever is not known to be over must not be ended.
    pub(super) fn forget_holders(&mut self) {
        if !self.holders.is_empty() {
            self.holders = Arc::default();
        }
    }

    /// It is neither prepared nor at its end.
    pub(super) fn note_alive(&mut self, xid: u32) {
        if let Some(early) = &mut self.early {
            if xid >= FIRST_NORMAL_XID && early.alive.len() < ALIVE_MAX {
                early.alive.insert(xid);
            }
        } else if self.has_unseen && self.xacts.is_unseen(xid) {
            Arc::make_mut(&mut self.xacts).remove(xid, core::iter::empty());
            self.has_unseen = self.xacts.has_unseen();
        }
    }

    /// Of a prepared transaction they are told again with each list.
    pub(super) fn note_locks(&mut self, locks: impl Iterator<Item = StandbyLock>) {
        for lock in locks {
            if self.xacts.contains(lock.xid) {
                Arc::make_mut(&mut self.xacts).lock(&lock);
                continue;
            }
            if let Some(early) = &mut self.early
                && early.locks.len() < EARLY_LOCKS_MAX
            {
                early.locks.push(lock);
            }
            if self.holders.len() < HOLDERS_MAX && !self.holders.contains(&lock.xid) {
                Arc::make_mut(&mut self.holders).push(lock.xid);
            }
        }
    }

    /// A list of all that runs, prepared transactions included.
    pub(super) fn note_running(&mut self, running: &RunningXacts) {
        // Standbys let go of these. PostgreSQL: StandbyReleaseOldLocks.
        let is_old = |xid: u32| distance(xid, running.oldest_running_xid) > 0;
        if self.holders.iter().any(|&xid| is_old(xid)) {
            Arc::make_mut(&mut self.holders).retain(|&xid| !is_old(xid));
        }
        if let Some(early) = self.early.take() {
            self.note_first_running(running, &early);
        } else if self.has_unseen {
            Arc::make_mut(&mut self.xacts).keep_running(running);
        }
        self.has_unseen = self.xacts.has_unseen();
    }

    fn note_first_running(&mut self, running: &RunningXacts, early: &Early) {
        let ended: BTreeSet<u32> = early.ended.iter().copied().collect();
        let is_unseen = |xid: &u32| !early.alive.contains(xid) && !ended.contains(xid);
        let unseen: Vec<u32> = running.xids.iter().copied().filter(is_unseen).collect();
        if unseen.iter().all(|&xid| self.xacts.contains(xid)) {
            return;
        }
        let xacts = Arc::make_mut(&mut self.xacts);
        unseen.iter().for_each(|&xid| xacts.add_unseen(xid));
        let subxids = running.subxids.iter().copied().filter(is_unseen);
        xacts.add_unseen_subxids(subxids, running.is_overflowed);
        early.locks.iter().for_each(|lock| xacts.lock(lock));
        let holders = Arc::make_mut(&mut self.holders);
        holders.retain(|&xid| !xacts.contains(xid));
    }

    /// The server can have no prepared transactions.
    pub(super) fn note_none(&mut self) {
        self.early = None;
        if self.has_unseen {
            Arc::make_mut(&mut self.xacts).forget_unseen();
            self.has_unseen = false;
        }
    }

    /// Their locks have gone, or are a prepared transaction's now.
    fn release(&mut self, xid: u32, subxids: impl Iterator<Item = u32> + Clone) {
        let is_over = |held: u32| held == xid || subxids.clone().any(|subxid| subxid == held);
        if self.holders.iter().any(|&held| is_over(held)) {
            Arc::make_mut(&mut self.holders).retain(|&held| !is_over(held));
        }
    }
}
