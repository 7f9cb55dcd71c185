//! WAL of the hub's own: records of sessions get their places and go into the tail.
//!
//! Only the wal core knows where a record will lie and which record is before it, so only it can end a
//! record's checksum. Small records are laid out in a batch, which goes into the tail and through
//! the record reader in one piece, as WAL from an upstream would; what the reader does not accept
//! is never written.
//!
//! A job that finds no room in the tail stops where it is and goes on when there is some: that is
//! the back-pressure.
//!
//! Not here: who waits (`crate::publish::commits`), the layout of pages (`walhub_proto::generate`) and
//! of records (`walhub_proto::rmgr`).
//!
//! PostgreSQL: `XLogInsertRecord`, `RecordTransactionCommit`, `CreateCheckPoint`, `RequestXLogSwitch`.

use std::time::Duration;
use std::vec;

use bytes::Bytes;
use walhub_engine::crc::crc32c;
use walhub_proto::generate::{OpenRecord, RecordKind, WalShape, WalWriter};
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::page::WalVersion;
use walhub_proto::record::{RM_XLOG, XLOG_SWITCH};
use walhub_proto::recovery::CheckpointSeen;
use walhub_proto::rmgr::counters::Counters;
use walhub_proto::rmgr::facts::DatabaseFacts;
use walhub_proto::rmgr::standby::StandbyLock;
use walhub_proto::rmgr::xlog::{
    Checkpoint, WalLevel, XLOG_CHECKPOINT_ONLINE, XLOG_CHECKPOINT_REDO, XLOG_CHECKPOINT_SHUTDOWN,
    XLOG_END_OF_RECOVERY, checkpoint_redo, end_of_recovery,
};
use walhub_proto::rmgr::{RM_STANDBY, RM_XACT, standby, xact, xid_of};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::time::{Instant, Now, Timestamp};
use walhub_proto::wire::backend::Report;

use crate::api::append::{NewRecord, WalRequest, in_recovery};
use crate::publish::commits::{AppendedAt, CommitLink, Job};
use crate::publish::handle::micros_between;
use crate::publish::latency::{Latencies, Stage};
use crate::role::Role;
use crate::store::Store;
use crate::store::local::LocalWal;
use crate::store::recover;
use crate::store::tail::TailSlab;

/// Bytes that are laid out before they go into the tail.
const BATCH_LEN: usize = 256 << 10;
/// Bytes of a large record that are taken at a time.
const PIECE_LEN: usize = 256 << 10;
const PIECE_BYTES: u64 = 256 << 10;

/// More than the records take up that are laid out without asking again, while nothing is prepared: those
/// of a checkpoint.
const SMALL_LEN: usize = 1024;
/// More than a record that ends a transaction takes up.
const ABORT_LEN: usize = 64;
/// More than a listed transaction or lock takes up.
const LISTED_LEN: usize = 16;

/// The same, with what is prepared and who holds locks.
pub(crate) fn small_len(database: &DatabaseFacts) -> usize {
    let prepared = database.prepared.iter().map(|prepared| {
        let running = prepared.running(0);
        running.xids.len() + running.subxids.len() + prepared.locks().count()
    });
    let listed: usize = prepared.sum();
    SMALL_LEN + LISTED_LEN * listed + ABORT_LEN * (database.lock_holders.len() + 1)
}

/// The end of the own WAL, and what is being appended to it.
#[derive(Debug)]
pub(crate) struct OwnWal {
    writer: WalWriter,
    /// Laid out, and not yet in the tail.
    batch: Vec<u8>,
    /// The tail takes a batch of at least so many bytes.
    room: usize,
    counters: Counters,
    /// Rows of a database have transaction ids of this WAL.
    has_database: bool,
    /// What the old primary has left, which nothing here changes.
    database: DatabaseFacts,
    /// Bytes that [`small_len`] says.
    small_len: usize,
    work: Option<Work>,
    /// The last checkpoint record, while the control file does not know it.
    unsaved: Option<CheckpointAt>,
    /// End of the WAL while nothing about anybody's data follows the last switch.
    idle_end: Lsn,
    /// End of the last shutdown checkpoint.
    shutdown_end: Lsn,
    /// When the current segment was begun, for `archive_timeout`.
    segment_since: Instant,
    /// The last checkpoint of this life is laid out.
    is_closed: bool,
}

/// Where a checkpoint record lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct CheckpointAt {
    start: Lsn,
    redo: Lsn,
    end: Lsn,
}

/// A job that is under way.
#[derive(Debug)]
enum Work {
    Append(Appending),
    /// Zeros up to the end of the segment.
    Filling {
        answer: Option<Lsn>,
    },
}

#[derive(Debug)]
struct Appending {
    records: vec::IntoIter<NewRecord>,
    /// A record, and what is missing of it.
    open: Option<(OpenRecord, [Bytes; 2])>,
    xid: Option<u32>,
    commit: Option<(Timestamp, bool)>,
    place: AppendedAt,
    is_urgent: bool,
    since: Timestamp,
}

/// What a step came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Done,
    /// The tail has no room now.
    NoRoom,
}

impl OwnWal {
    /// Goes on where `local` ends.
    fn new(
        local: &LocalWal,
        shape: WalShape,
        counters: Counters,
        has_database: bool,
        database: DatabaseFacts,
        now: Instant,
    ) -> Self {
        let end = local.verified_lsn();
        Self {
            small_len: small_len(&database),
            database,
            writer: WalWriter::new(shape, end, local.last_record()),
            batch: Vec::with_capacity(2 * BATCH_LEN),
            room: 0,
            counters,
            has_database,
            work: None,
            unsaved: None,
            idle_end: end,
            shutdown_end: end,
            segment_since: now,
            is_closed: false,
        }
    }

    /// Where its records go, for tests.
    #[cfg(test)]
    pub(crate) fn writer(&self) -> &WalWriter {
        &self.writer
    }

    /// What it has given out, for tests.
    #[cfg(test)]
    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    fn version(&self) -> WalVersion {
        self.writer.shape().version
    }

    /// Appends one small record.
    fn put(&mut self, rmid: u8, info: u8, xid: u32, body: &[u8]) -> (Lsn, Lsn) {
        let kind = RecordKind { rmid, info, xid };
        let batch = &mut self.batch;
        let mut sink = |bytes: &[u8]| batch.extend_from_slice(bytes);
        let range = self.writer.append_checked(kind, &[body], crc32c(0, body), &mut sink);
        (range.start, range.end)
    }

    /// Whether so much more can be laid out. The tail looks at each of its slabs to answer, so it is
    /// asked for a whole batch at a time.
    fn has_room(&mut self, local: &LocalWal, bytes: usize) -> bool {
        let wanted = self.batch.len() + with_headers(bytes);
        if wanted > self.room {
            let ahead = wanted + BATCH_LEN;
            self.room = if local.has_room(ahead) { ahead } else { 0 };
        }
        wanted <= self.room || local.has_room(wanted)
    }

    /// Says what is under way: of walhub's own nothing ever is, but a prepared transaction is until somebody
    /// ends it, and so are its locks. PostgreSQL: `LogStandbySnapshot`.
    fn put_running_xacts(&mut self) {
        let (next_xid, prepared) = (self.counters.next_xid, self.database.prepared.clone());
        let prepared = prepared.unwrap_or_default();
        let locks: Vec<StandbyLock> = prepared.locks().collect();
        if !locks.is_empty() {
            let body = StandbyLock::body_of(&locks);
            self.put(RM_STANDBY, standby::XLOG_STANDBY_LOCK, 0, &body);
        }
        let body = prepared.running(next_xid).body();
        self.put(RM_STANDBY, standby::XLOG_RUNNING_XACTS, 0, &body);
    }

    /// While something is prepared the list of what runs does not tell that what is younger is over. So the
    /// old primary's transactions that hold a lock on standbys are ended by name, for nobody can read behind
    /// it, and so is walhub's own that a crash has cut off, for which who decodes waits. PostgreSQL:
    /// `StandbyReleaseOldLocks`, `ReorderBufferAbortOld`, which do wait until the prepared transaction has
    /// ended; here nothing ends it.
    fn put_aborts(&mut self, last_open: Option<u32>, now: Timestamp) {
        let prepared = self.database.prepared.clone().unwrap_or_default();
        if prepared.is_empty() {
            return;
        }
        let holders = std::mem::take(&mut self.database.lock_holders);
        let (info, body) = xact::abort(now);
        let last_open = last_open.filter(|xid| !holders.contains(xid));
        for xid in holders.iter().copied().chain(last_open).filter(|&xid| !prepared.contains(xid)) {
            self.put(RM_XACT, info, xid, &body);
        }
    }

    /// How much the WAL says.
    fn wal_level(&self) -> WalLevel {
        // Where records say it, a checkpoint has said it. PostgreSQL: WAL_LEVEL_REPLICA is the default.
        self.database.wal_level.unwrap_or(WalLevel::Replica)
    }

    /// Begins the timeline that left `parent`. PostgreSQL: `CreateEndOfRecoveryRecord`.
    fn put_end_of_recovery(&mut self, parent: TimelineId, now: Timestamp) {
        let (version, timeline) = (self.version(), self.writer.shape().timeline);
        let body = end_of_recovery(now, timeline, parent, self.wal_level(), version);
        self.put(RM_XLOG, XLOG_END_OF_RECOVERY, 0, &body);
    }

    /// Lays out a checkpoint. PostgreSQL: `CreateCheckPoint`.
    fn put_checkpoint(&mut self, is_shutdown: bool, now: Timestamp) -> Lsn {
        self.freeze();
        let version = self.version();
        let is_idle = self.writer.lsn() == self.idle_end;
        let mut redo = self.writer.next_record();
        if !is_shutdown && let Some(body) = checkpoint_redo(self.wal_level(), version) {
            redo = self.put(RM_XLOG, XLOG_CHECKPOINT_REDO, 0, &body).0;
        }
        // Who decodes need not wait for the transaction that a crash has cut off, and a relay that begins here
        // may be promoted. PostgreSQL: BackgroundWriterMain logs one soon after each start.
        self.put_running_xacts();
        if is_shutdown {
            redo = self.writer.next_record();
        }
        let timeline = self.writer.shape().timeline;
        // PostgreSQL: GetOldestActiveTransactionId.
        let next_xid = self.counters.next_xid;
        let oldest = self.database.prepared.as_ref().and_then(|prepared| prepared.oldest(next_xid));
        let oldest = oldest.unwrap_or(xid_of(next_xid));
        let body = Checkpoint {
            redo,
            timeline,
            prev_timeline: timeline,
            wal_level: self.wal_level(),
            counters: self.counters,
            time: now,
            oldest_active_xid: if is_shutdown { 0 } else { oldest },
        }
        .body(version);
        let info = if is_shutdown { XLOG_CHECKPOINT_SHUTDOWN } else { XLOG_CHECKPOINT_ONLINE };
        let (start, end) = self.put(RM_XLOG, info, 0, &body);
        self.unsaved = Some(CheckpointAt { start, redo, end });
        // What came before it still waits. PostgreSQL: GetLastImportantRecPtr, XLOG_MARK_UNIMPORTANT.
        if is_idle {
            self.idle_end = end;
        }
        if is_shutdown {
            self.shutdown_end = end;
        }
        end
    }

    /// Goes on with what is under way.
    fn step(&mut self, local: &mut LocalWal, opened: &mut Vec<TailSlab>) -> Step {
        match self.work.take() {
            None => Step::Done,
            Some(Work::Append(mut appending)) => {
                let step = self.step_append(local, opened, &mut appending);
                self.work = Some(Work::Append(appending));
                step
            }
            Some(Work::Filling { answer }) => {
                let step = self.step_filling(local, opened);
                self.work = Some(Work::Filling { answer });
                step
            }
        }
    }

    fn step_append(
        &mut self,
        local: &mut LocalWal,
        opened: &mut Vec<TailSlab>,
        appending: &mut Appending,
    ) -> Step {
        loop {
            if let Some((open, rest)) = &mut appending.open {
                while let Some(rest) = rest.iter_mut().find(|rest| !rest.is_empty()) {
                    let len = rest.len().min(PIECE_LEN);
                    if !self.has_room(local, len) {
                        return Step::NoRoom;
                    }
                    let piece = rest.split_to(len);
                    let batch = &mut self.batch;
                    self.writer.put_body(open, &piece, &mut |bytes| batch.extend_from_slice(bytes));
                    self.hand_over_if_full(local, opened);
                }
                let Some((open, _)) = appending.open.take() else { continue };
                let batch = &mut self.batch;
                let range =
                    self.writer.end_record(open, &mut |bytes| batch.extend_from_slice(bytes));
                appending.place.ends.push(range.end);
                appending.place.end = range.end;
            }
            // A job that is whole is answered even when there is no room for another.
            if appending.records.as_slice().is_empty() {
                break;
            }
            if !self.has_room(local, 64) {
                return Step::NoRoom;
            }
            let Some(record) = appending.records.next() else { break };
            let xid = if record.transactional { appending.xid.unwrap_or(0) } else { 0 };
            let kind = RecordKind { rmid: record.rmid, info: record.info, xid };
            let batch = &mut self.batch;
            let mut sink = |bytes: &[u8]| batch.extend_from_slice(bytes);
            let (len, crc) = (record.body_len(), record.crc);
            let open = self.writer.begin_record(kind, len, crc, &mut sink);
            appending.open = Some((open, [record.body, record.rest]));
        }
        if let Some((time, apply_feedback)) = appending.commit {
            if !self.has_room(local, 128) {
                return Step::NoRoom;
            }
            let (info, body) = xact::commit(time, apply_feedback);
            let xid = appending.xid.unwrap_or(0);
            appending.commit = None;
            appending.place.end = self.put(RM_XACT, info, xid, &body).1;
            self.counters.note_commit(xid);
        }
        Step::Done
    }

    fn step_filling(&mut self, local: &mut LocalWal, opened: &mut Vec<TailSlab>) -> Step {
        let size = self.writer.shape().segment_size;
        while size.offset(self.writer.lsn()) != 0 {
            if !self.has_room(local, PIECE_LEN) {
                return Step::NoRoom;
            }
            let batch = &mut self.batch;
            self.writer.fill_segment(PIECE_BYTES, &mut |bytes| batch.extend_from_slice(bytes));
            self.hand_over_if_full(local, opened);
        }
        Step::Done
    }

    fn hand_over_if_full(&mut self, local: &mut LocalWal, opened: &mut Vec<TailSlab>) {
        if self.batch.len() >= BATCH_LEN {
            self.hand_over(local, opened);
        }
    }

    /// Moves the batch into the tail.
    ///
    /// # Panics
    /// If the reader does not accept what the writer made.
    fn hand_over(&mut self, local: &mut LocalWal, opened: &mut Vec<TailSlab>) {
        if self.batch.is_empty() {
            return;
        }
        let start = local.received_lsn();
        let appended = local.append(start, &self.batch, &mut |slab| opened.push(slab));
        assert!(appended.is_ok(), "own WAL at {start}: {appended:?}");
        self.batch.clear();
        self.room = 0;
    }
}

/// Bytes that so many may take up with the page headers and the filling between them.
fn with_headers(bytes: usize) -> usize {
    bytes + bytes / 128 + 256
}

impl OwnWal {
    /// From now on this hub writes WAL of its own, and the first of it is laid out.
    ///
    /// `checkpoint` is the newest that recovery has read, `last_open` the transaction of walhub's own that a
    /// crash has cut off, if any.
    pub(crate) fn begin(
        store: &mut Store,
        now: Now,
        checkpoint: Option<CheckpointSeen>,
        last_open: Option<u32>,
    ) -> Self {
        let parent = unused_timeline(store);
        let Store { control, local, .. } = store;
        let control = &mut control.wanted;
        // Whoever has WAL of its own knows both: `recover` and `may_promote` see to that.
        let (Some(version), Some(counters)) = (control.wal_version, local.counters()) else {
            unreachable!(
                "own WAL of version {:?} after {:?}",
                control.wal_version,
                local.counters()
            )
        };
        if let Some(seen) = checkpoint {
            (control.checkpoint_lsn, control.redo_lsn) = (Some(seen.start), Some(seen.redo));
        }
        let shape = WalShape {
            system_identifier: control.system_identifier,
            segment_size: control.segment_size,
            timeline: control.timeline,
            version,
            crc: crc32c,
        };
        let has_database = recover::has_database(control);
        let database = local.facts().database;
        let mut own = Self::new(local, shape, counters, has_database, database, now.instant);
        // PostgreSQL ends its recovery with one, too; a clean stop has left one.
        let clean = checkpoint.filter(|seen| seen.is_shutdown).map(|seen| seen.start);
        if let Some(parent) = parent {
            own.put_end_of_recovery(parent, now.wall);
            own.put_aborts(last_open, now.wall);
            // Standbys learn from it which transactions of the old primary will never end.
            own.put_checkpoint(false, now.wall);
        } else if clean.is_none() || local.last_record() != clean {
            own.put_aborts(last_open, now.wall);
            own.put_checkpoint(true, now.wall);
        }
        own.warn_of_limits();
        // Its first segment may be made before any page header was read.
        local.segments.set_format(shape.system_identifier, shape.version);
        own
    }

    /// Takes the sessions' jobs, as far as there is room. Whether somebody must be told of an answer at once,
    /// which no flush will tell.
    pub(crate) fn turn(
        &mut self,
        now: Now,
        local: &mut LocalWal,
        commits: &CommitLink,
        latencies: &Latencies,
        opened: &mut Vec<TailSlab>,
    ) -> bool {
        let mut must_tell = false;
        loop {
            if self.work.is_some() {
                if self.step(local, opened) == Step::NoRoom {
                    break;
                }
                must_tell |= self.answer_work(now, local.flush_lsn(), commits, latencies);
                self.hand_over_if_full(local, opened);
                continue;
            }
            if !self.has_room(local, self.small_len) {
                break;
            }
            let Some(job) = commits.next() else { break };
            if let Err(report) = self.begin_job(now, commits, job) {
                commits.answer(Err(report));
                must_tell = true;
            }
        }
        self.hand_over(local, opened);
        must_tell
    }

    /// Answers the job that is done; whether at once.
    fn answer_work(
        &mut self,
        now: Now,
        flush_lsn: Lsn,
        commits: &CommitLink,
        latencies: &Latencies,
    ) -> bool {
        let (answer, is_urgent) = match self.work.take() {
            None => return false,
            Some(Work::Append(appending)) => {
                latencies.record(Stage::Append, micros_between(appending.since, now.wall));
                (Some(appending.place), appending.is_urgent)
            }
            Some(Work::Filling { answer }) => {
                self.idle_end = self.writer.lsn();
                self.segment_since = now.instant;
                (answer.map(AppendedAt::end), false)
            }
        };
        let Some(place) = answer else { return false };
        // No flush will tell of what is durable already: nothing may have been appended, or the last of it
        // long before.
        let must_tell = is_urgent || place.end <= flush_lsn;
        commits.answer(Ok(place));
        must_tell
    }

    fn begin_job(&mut self, now: Now, commits: &CommitLink, job: Job) -> Result<(), Report> {
        if self.is_closed {
            return Err(shutting_down());
        }
        match job {
            Job::Append { records, commit, is_urgent, since } => {
                let taken = commit.map(|_| self.take_xid(now.wall)).transpose()?;
                let (xid, warning) = taken.unzip();
                let place = AppendedAt {
                    ends: Vec::with_capacity(records.len()),
                    xid,
                    end: self.writer.lsn(),
                    warning: warning.flatten(),
                };
                let records = records.into_iter();
                let appending =
                    Appending { records, open: None, xid, commit, place, is_urgent, since };
                self.work = Some(Work::Append(appending));
            }
            Job::Wal(WalRequest::SwitchSegment) => {
                let answer = Some(self.begin_switch());
                self.work = Some(Work::Filling { answer });
            }
            Job::Wal(WalRequest::Checkpoint) => {
                let end = self.put_checkpoint(false, now.wall);
                commits.answer(Ok(AppendedAt::end(end)));
            }
        }
        Ok(())
    }

    /// The last checkpoint before the process ends, as soon as there is room for it.
    pub(crate) fn close(&mut self, now: Now, local: &LocalWal) {
        if self.is_closed || self.work.is_some() || !self.has_room(local, self.small_len) {
            return;
        }
        self.is_closed = true;
        if self.shutdown_end != self.writer.lsn() {
            self.put_checkpoint(true, now.wall);
        }
    }

    /// Whether nothing more will be appended.
    pub(crate) fn has_ended(&self) -> bool {
        self.is_closed && self.work.is_none() && self.batch.is_empty()
    }

    /// Where the last checkpoint record and its redo position are, once the record is durable and as long as
    /// the control file does not know it.
    pub(crate) fn durable_checkpoint(&self, flush_lsn: Lsn) -> Option<(Lsn, Lsn)> {
        let at = self.unsaved.filter(|at| at.end <= flush_lsn)?;
        Some((at.start, at.redo))
    }

    /// The control file names the checkpoint that begins at `saved`.
    pub(crate) fn handle_checkpoint_saved(&mut self, saved: Option<Lsn>) {
        self.unsaved = self.unsaved.filter(|at| saved != Some(at.start));
    }

    /// Ends a segment that has waited for more for too long. PostgreSQL: `CheckArchiveTimeout`.
    pub(crate) fn check_archive_timeout(&mut self, now: Now, timeout: Duration, local: &LocalWal) {
        let is_idle = self.writer.lsn() == self.idle_end;
        if self.work.is_some() || self.is_closed || timeout.is_zero() {
            return;
        }
        if is_idle {
            // The clock runs from the first record.
            self.segment_since = now.instant;
        } else if self.segment_since + timeout <= now.instant
            && self.has_room(local, self.small_len)
        {
            self.begin_switch();
            self.work = Some(Work::Filling { answer: None });
        }
    }

    /// Appends the switch record, unless the segment is empty; returns where the WAL then ends.
    /// PostgreSQL: `ReserveXLogSwitch`, `RequestXLogSwitch`.
    fn begin_switch(&mut self) -> Lsn {
        if self.writer.shape().segment_size.offset(self.writer.lsn()) == 0 {
            return self.writer.lsn();
        }
        self.put(RM_XLOG, XLOG_SWITCH, 0, &[]).1
    }
}

/// The timeline before the current one, while nothing was written on the current one. Its first record must
/// say where it comes from: standbys go over to it there.
fn unused_timeline(store: &Store) -> Option<TimelineId> {
    let [.., parent, current] = store.timelines.history.entries() else { return None };
    (store.local.verified_lsn() == current.begin).then_some(parent.tli)
}

/// Refuses the sessions' jobs in a role that writes nothing; whether there were any.
pub(crate) fn refuse_jobs(commits: &CommitLink, role: Role) -> bool {
    let mut refused = false;
    while let Some(job) = commits.next() {
        let command = match job {
            Job::Append { .. } => "pg_logical_emit_message()",
            Job::Wal(request) => request.command(),
        };
        let answer = match role {
            Role::Fenced => fenced(command),
            Role::Relay | Role::Promoting | Role::Primary => in_recovery(command),
        };
        commits.answer(Err(answer));
        refused = true;
    }
    refused
}

fn fenced(command: &str) -> Report {
    let message = format!("cannot execute {command}: this server must not be the primary any more");
    Report::error(SqlState::READ_ONLY_SQL_TRANSACTION, message)
        .hint("Connect to the server that is the primary now.")
}

fn shutting_down() -> Report {
    Report::fatal(SqlState::CANNOT_CONNECT_NOW, "the database system is shutting down")
}

mod xids;
