//! What WAL gives out and counts: transaction ids, object ids, multixacts.
//!
//! Whoever goes on with another server's WAL must go on with its numbers, too: a transaction id that is
//! given out twice mixes up two transactions on every standby, and a shutdown checkpoint makes every
//! standby believe the numbers that it names. [`CounterReader`] follows them through the WAL as
//! PostgreSQL's recovery does, and knows them from the first checkpoint on whose beginning it has seen.
//!
//! Not here: which records it is shown (`facts`), the layout of checkpoints (`xlog`), of transactions' ends
//! (`xact`).
//!
//! PostgreSQL: `xlog_redo` (src/backend/access/transam/xlog.c), `multixact_redo` (multixact.c),
//! `xact_redo_commit` (xact.c), `AdvanceNextFullTransactionIdPastXid` (varsup.c), `CommitTsParameterChange`,
//! `commit_ts_redo` (commit_ts.c).

use super::xlog::{
    Checkpoint, ParameterChange, XLOG_CHECKPOINT_ONLINE, XLOG_CHECKPOINT_SHUTDOWN, XLOG_FPW_CHANGE,
    XLOG_NEXTOID,
};
use super::{FIRST_NORMAL_XID, Fields, distance, xid_of};
use crate::lsn::Lsn;
use crate::page::WalVersion;
use crate::record::{RMGR_INFO_MASK, RecordHeader};

/// PostgreSQL: `FirstNormalObjectId`.
const FIRST_NORMAL_OID: u32 = 16_384;
/// PostgreSQL: `FirstMultiXactId`.
const FIRST_MULTI: u32 = 1;
/// The database that old transactions are said to be in. PostgreSQL: `Template1DbOid`.
const TEMPLATE1: u32 = 1;
/// PostgreSQL: `XLOG_MULTIXACT_CREATE_ID`.
const XLOG_MULTIXACT_CREATE_ID: u8 = 0x20;
/// PostgreSQL: `XLOG_MULTIXACT_TRUNCATE_ID`.
const XLOG_MULTIXACT_TRUNCATE_ID: u8 = 0x30;
/// PostgreSQL: `COMMIT_TS_TRUNCATE`.
const COMMIT_TS_TRUNCATE: u8 = 0x10;
/// PostgreSQL: `COMMIT_TS_SETTS`, which 14 has not any more.
const COMMIT_TS_SETTS: u8 = 0x20;

/// Numbers of 32 bits in [`Counters`].
pub const COUNTER_WORDS: usize = 9;

/// The numbers that a checkpoint passes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counters {
    /// The next transaction id, with its epoch.
    pub next_xid: u64,
    /// The next object id. PostgreSQL: `nextOid`.
    pub next_oid: u32,
    /// The next multixact. PostgreSQL: `nextMulti`.
    pub next_multi: u32,
    /// Where its members will be. PostgreSQL: `nextMultiOffset`.
    pub next_multi_offset: u32,
    /// The oldest transaction id that has a meaning.
    pub oldest_xid: u32,
    /// The database that has it.
    pub oldest_xid_db: u32,
    /// The oldest multixact that has a meaning.
    pub oldest_multi: u32,
    /// The database that has it.
    pub oldest_multi_db: u32,
    /// The oldest transaction id whose commit time is kept; zero when none is.
    pub oldest_commit_ts_xid: u32,
    /// The newest of them; zero when none is.
    pub newest_commit_ts_xid: u32,
    /// Whether the first change of a page after a checkpoint is logged as a whole page.
    pub full_page_writes: bool,
}

impl Counters {
    /// Those of a new cluster in which nothing was done. PostgreSQL: `BootStrapXLOG`.
    #[must_use]
    pub fn first() -> Self {
        Self {
            next_xid: u64::from(FIRST_NORMAL_XID),
            next_oid: FIRST_NORMAL_OID,
            next_multi: FIRST_MULTI,
            next_multi_offset: 0,
            oldest_xid: FIRST_NORMAL_XID,
            oldest_xid_db: TEMPLATE1,
            oldest_multi: FIRST_MULTI,
            oldest_multi_db: TEMPLATE1,
            oldest_commit_ts_xid: 0,
            newest_commit_ts_xid: 0,
            full_page_writes: true,
        }
    }

    /// All but `next_xid` and `full_page_writes`, in the order in which a checkpoint record has them.
    #[must_use]
    pub const fn words(&self) -> [u32; COUNTER_WORDS] {
        [
            self.next_oid,
            self.next_multi,
            self.next_multi_offset,
            self.oldest_xid,
            self.oldest_xid_db,
            self.oldest_multi,
            self.oldest_multi_db,
            self.oldest_commit_ts_xid,
            self.newest_commit_ts_xid,
        ]
    }

    /// The reverse of [`Counters::words`].
    #[must_use]
    pub const fn of_words(
        next_xid: u64,
        words: [u32; COUNTER_WORDS],
        full_page_writes: bool,
    ) -> Self {
        let [
            next_oid,
            next_multi,
            next_multi_offset,
            oldest_xid,
            oldest_xid_db,
            oldest_multi,
            oldest_multi_db,
            oldest_commit_ts_xid,
            newest_commit_ts_xid,
        ] = words;
        Self {
            next_xid,
            next_oid,
            next_multi,
            next_multi_offset,
            oldest_xid,
            oldest_xid_db,
            oldest_multi,
            oldest_multi_db,
            oldest_commit_ts_xid,
            newest_commit_ts_xid,
            full_page_writes,
        }
    }

    /// Goes on after `xid`, unless it lies behind. PostgreSQL: `AdvanceNextFullTransactionIdPastXid`.
    pub fn advance_past(&mut self, xid: u32) {
        let ahead = u64::try_from(distance(xid_of(self.next_xid), xid));
        if let Ok(ahead) = ahead
            && xid >= FIRST_NORMAL_XID
        {
            // Only a record that no server wrote comes near the end of the 64 bits.
            self.next_xid = self.next_xid.saturating_add(ahead + 1);
            self.skip_special_xids();
        }
    }

    /// The next transaction id, which is given out.
    pub fn take_xid(&mut self) -> u32 {
        self.skip_special_xids();
        let xid = xid_of(self.next_xid);
        self.next_xid = self.next_xid.saturating_add(1);
        self.skip_special_xids();
        xid
    }

    /// PostgreSQL: `FullTransactionIdAdvance`.
    fn skip_special_xids(&mut self) {
        while xid_of(self.next_xid) < FIRST_NORMAL_XID {
            self.next_xid += 1;
        }
    }

    /// PostgreSQL: `TransactionTreeSetCommitTsData`.
    pub fn note_commit(&mut self, xid: u32) {
        if self.newest_commit_ts_xid != 0 && distance(self.newest_commit_ts_xid, xid) > 0 {
            self.newest_commit_ts_xid = xid;
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Xid(xid) => self.advance_past(xid),
            Event::Commit(xid) => self.note_commit(xid),
            Event::NextOid(oid) => self.next_oid = oid,
            Event::Multi { next, offset } => {
                advance(&mut self.next_multi, next);
                advance(&mut self.next_multi_offset, offset);
            }
            Event::OldestMulti { multi, database } => {
                (self.oldest_multi, self.oldest_multi_db) = (multi, database);
            }
            Event::FullPageWrites(on) => self.full_page_writes = on,
            Event::TrackCommits(on) => self.track_commits(on),
            Event::OldestCommit(xid) => {
                if self.oldest_commit_ts_xid != 0 {
                    advance(&mut self.oldest_commit_ts_xid, xid);
                }
            }
        }
    }

    /// PostgreSQL: `ActivateCommitTs`, `DeactivateCommitTs`.
    fn track_commits(&mut self, on: bool) {
        if !on {
            (self.oldest_commit_ts_xid, self.newest_commit_ts_xid) = (0, 0);
        } else if self.oldest_commit_ts_xid == 0 {
            let next = xid_of(self.next_xid);
            (self.oldest_commit_ts_xid, self.newest_commit_ts_xid) = (next, next);
        }
    }

    /// Takes over what an online checkpoint says: it is from where that began, and some of it is older
    /// than what was seen since. PostgreSQL: `xlog_redo`.
    fn apply_online(&mut self, checkpoint: &Self) {
        self.next_xid = self.next_xid.max(checkpoint.next_xid);
        advance(&mut self.next_multi, checkpoint.next_multi);
        advance(&mut self.next_multi_offset, checkpoint.next_multi_offset);
        if distance(self.oldest_xid, checkpoint.oldest_xid) > 0 {
            self.oldest_xid = checkpoint.oldest_xid;
            self.oldest_xid_db = checkpoint.oldest_xid_db;
        }
        if distance(self.oldest_multi, checkpoint.oldest_multi) > 0 {
            self.oldest_multi = checkpoint.oldest_multi;
            self.oldest_multi_db = checkpoint.oldest_multi_db;
        }
        self.oldest_commit_ts_xid = checkpoint.oldest_commit_ts_xid;
        let newest = checkpoint.newest_commit_ts_xid;
        if newest == 0 || self.newest_commit_ts_xid == 0 {
            self.newest_commit_ts_xid = newest;
        } else {
            advance(&mut self.newest_commit_ts_xid, newest);
        }
    }
}

fn advance(number: &mut u32, to: u32) {
    if distance(*number, to) > 0 {
        *number = to;
    }
}

/// What one record says of the numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Xid(u32),
    Commit(u32),
    NextOid(u32),
    Multi { next: u32, offset: u32 },
    OldestMulti { multi: u32, database: u32 },
    FullPageWrites(bool),
    TrackCommits(bool),
    OldestCommit(u32),
}

/// What was seen while no checkpoint said what it adds to: the newest of each kind.
#[derive(Clone, Copy, Default, Debug)]
struct Pending {
    xid: Option<u32>,
    commit: Option<u32>,
    next_oid: Option<u32>,
    multi: Option<(u32, u32)>,
    oldest_multi: Option<(u32, u32)>,
    full_page_writes: Option<bool>,
    track_commits: Option<bool>,
    oldest_commit: Option<u32>,
}

impl Pending {
    fn note(&mut self, event: Event) {
        let newest = |known: Option<u32>, new: u32| {
            Some(known.filter(|&known| distance(known, new) <= 0).unwrap_or(new))
        };
        match event {
            Event::Xid(xid) => self.xid = newest(self.xid, xid),
            Event::Commit(xid) => self.commit = newest(self.commit, xid),
            Event::NextOid(oid) => self.next_oid = Some(oid),
            Event::Multi { next, offset } => {
                let known = self.multi;
                self.multi = newest(known.map(|known| known.0), next)
                    .zip(newest(known.map(|known| known.1), offset));
            }
            Event::OldestMulti { multi, database } => self.oldest_multi = Some((multi, database)),
            Event::FullPageWrites(on) => self.full_page_writes = Some(on),
            Event::TrackCommits(on) => self.track_commits = Some(on),
            Event::OldestCommit(xid) => self.oldest_commit = newest(self.oldest_commit, xid),
        }
    }

    fn events(&self) -> impl Iterator<Item = Event> {
        let multi = self.multi.map(|(next, offset)| Event::Multi { next, offset });
        let oldest = self.oldest_multi;
        [
            self.xid.map(Event::Xid),
            self.track_commits.map(Event::TrackCommits),
            self.oldest_commit.map(Event::OldestCommit),
            self.commit.map(Event::Commit),
            self.next_oid.map(Event::NextOid),
            multi,
            oldest.map(|(multi, database)| Event::OldestMulti { multi, database }),
            self.full_page_writes.map(Event::FullPageWrites),
        ]
        .into_iter()
        .flatten()
    }
}

/// A checkpoint's record, as far as recovery needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointSeen {
    /// Where its record starts.
    pub start: Lsn,
    /// Where replay from it begins.
    pub redo: Lsn,
    /// Whether nothing was written after it in good order: the server had stopped.
    pub is_shutdown: bool,
}

/// Follows the numbers through the records that it is shown.
#[derive(Clone, Debug)]
pub struct CounterReader {
    /// Nothing before was seen.
    from: Lsn,
    known: Option<Counters>,
    pending: Pending,
    checkpoint: Option<CheckpointSeen>,
}

impl CounterReader {
    /// Begins at `from`, where the numbers are these, if it is known.
    #[must_use]
    pub fn new(from: Lsn, known: Option<Counters>) -> Self {
        Self { from, known, pending: Pending::default(), checkpoint: None }
    }

    /// The numbers after the last record that was shown whole; `None` while too little was seen.
    #[must_use]
    pub const fn counters(&self) -> Option<Counters> {
        self.known
    }

    /// The next transaction id, with its epoch, when it is known.
    #[must_use]
    pub const fn next_xid(&self) -> Option<u64> {
        match &self.known {
            Some(known) => Some(known.next_xid),
            None => None,
        }
    }

    /// The newest checkpoint that was shown.
    #[must_use]
    pub const fn checkpoint(&self) -> Option<CheckpointSeen> {
        self.checkpoint
    }

    fn note(&mut self, event: Event) {
        match &mut self.known {
            Some(known) => known.apply(event),
            None => self.pending.note(event),
        }
    }

    /// The record belongs to a transaction, or names it.
    pub(super) fn note_xid(&mut self, xid: u32) {
        if xid >= FIRST_NORMAL_XID {
            self.note(Event::Xid(xid));
        }
    }

    /// A transaction has committed, or one of its subtransactions, which have times, too.
    /// PostgreSQL: `TransactionTreeSetCommitTsData`.
    pub(super) fn note_commit(&mut self, xid: u32) {
        if xid >= FIRST_NORMAL_XID {
            self.note(Event::Commit(xid));
        }
    }

    /// The main data of a record of `RM_XLOG`.
    pub(super) fn note_xlog(&mut self, record: &RecordHeader, data: &[u8]) -> Option<()> {
        match record.info & RMGR_INFO_MASK {
            XLOG_CHECKPOINT_SHUTDOWN => {
                let checkpoint = Checkpoint::decode(data)?;
                let (start, redo) = (record.start, checkpoint.redo);
                self.checkpoint = Some(CheckpointSeen { start, redo, is_shutdown: true });
                self.known = Some(checkpoint.counters);
            }
            XLOG_CHECKPOINT_ONLINE => {
                let checkpoint = Checkpoint::decode(data)?;
                let (start, redo) = (record.start, checkpoint.redo);
                self.checkpoint = Some(CheckpointSeen { start, redo, is_shutdown: false });
                match &mut self.known {
                    Some(known) => known.apply_online(&checkpoint.counters),
                    // What came between its beginning and the record counts, too.
                    None if checkpoint.redo >= self.from => {
                        let mut counters = checkpoint.counters;
                        self.pending.events().for_each(|event| counters.apply(event));
                        self.known = Some(counters);
                    }
                    None => {}
                }
            }
            XLOG_NEXTOID => self.note(Event::NextOid(Fields(data).u32()?)),
            XLOG_FPW_CHANGE => {
                let on = data.first().is_some_and(|&on| on != 0);
                self.note(Event::FullPageWrites(on));
            }
            info => {
                if let Some(change) = ParameterChange::decode(info, data) {
                    self.note(Event::TrackCommits(change.track_commit_timestamp));
                }
            }
        }
        Some(())
    }

    /// The main data of a record of `RM_COMMIT_TS`.
    pub(super) fn note_commit_ts(
        &mut self,
        info: u8,
        data: &[u8],
        version: WalVersion,
    ) -> Option<()> {
        let mut fields = Fields(data);
        match info & RMGR_INFO_MASK {
            COMMIT_TS_TRUNCATE => {
                // The page's number, which 17 has made longer.
                fields.bytes(if version.is_since(WalVersion::PG17) { 8 } else { 4 })?;
                self.note(Event::OldestCommit(fields.u32()?));
            }
            COMMIT_TS_SETTS => {
                fields.bytes(12)?; // When and from where, and padding.
                self.note_commit(fields.u32()?);
            }
            _ => {}
        }
        Some(())
    }

    /// The main data of a record of `RM_MULTIXACT`.
    pub(super) fn note_multixact(&mut self, info: u8, data: &[u8]) -> Option<()> {
        let mut fields = Fields(data);
        match info & RMGR_INFO_MASK {
            XLOG_MULTIXACT_CREATE_ID => {
                let (multi, offset, count) = (fields.u32()?, fields.u32()?, fields.u32()?);
                let (next, offset) = (multi.wrapping_add(1), offset.wrapping_add(count));
                self.note(Event::Multi { next, offset });
                let (members, _) = fields.0.as_chunks::<8>();
                for [a, b, c, d, ..] in members {
                    self.note_xid(u32::from_le_bytes([*a, *b, *c, *d]));
                }
            }
            XLOG_MULTIXACT_TRUNCATE_ID => {
                let (database, _start, multi) = (fields.u32()?, fields.u32()?, fields.u32()?);
                self.note(Event::OldestMulti { multi, database });
            }
            _ => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests;
