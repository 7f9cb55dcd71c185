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

use std::sync::atomic::Ordering;
use std::vec;

use bytes::Bytes;
use walhub_engine::crc::crc32c;
use walhub_engine::io::Waker;
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

use super::duty::Duty;
use super::{Store, WalCore};
use crate::api::append::{NewRecord, WalRequest, in_recovery};
use crate::mail::ToControl;
use crate::publish::commits::{Job, Place};
use crate::publish::front::micros_between;
use crate::publish::latency::Stage;
use crate::role::Role;
use crate::store::control_file::ControlFileKeeper;
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
pub(super) fn small_len(database: &DatabaseFacts) -> usize {
    let prepared = database.prepared.iter().map(|prepared| {
        let running = prepared.running(0);
        running.xids.len() + running.subxids.len() + prepared.locks().count()
    });
    let listed: usize = prepared.sum();
    SMALL_LEN + LISTED_LEN * listed + ABORT_LEN * (database.lock_holders.len() + 1)
}

/// The end of the own WAL, and what is being appended to it.
#[derive(Debug)]
pub(super) struct Own {
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
    place: Place,
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

impl Own {
    /// Goes on where `local` ends.
    pub(super) fn new(
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

impl<C: Send + 'static, W: Waker> WalCore<C, W> {
    /// From now on this hub writes WAL of its own. Returns what it had to do before.
    ///
    /// `last_open` is the transaction of walhub's own that a crash has cut off, if any.
    pub(super) fn begin_own(
        &mut self,
        now: Now,
        checkpoint: Option<CheckpointSeen>,
        last_open: Option<u32>,
    ) -> Option<Duty> {
        let parent = self.unused_timeline();
        let Some(Store { control, local, .. }) = &mut self.store else { return None };
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
        let mut own = Own::new(local, shape, counters, has_database, database, now.instant);
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
        let before = self.take_duty(Duty::Write(Box::new(own)));
        self.config.shared.forward_flushed.store(true, Ordering::Relaxed);
        Some(before)
    }

    /// The timeline before the current one, while nothing was written on the current one. Its first
    /// record must say where it comes from: standbys go over to it there.
    fn unused_timeline(&self) -> Option<TimelineId> {
        let Store { timelines, local, .. } = self.store.as_ref()?;
        let [.., parent, current] = timelines.history.entries() else { return None };
        (local.verified_lsn() == current.begin).then_some(parent.tli)
    }

    /// Takes the sessions' jobs.
    pub(super) fn turn_own(&mut self, now: Now) {
        let mut must_tell = false;
        let mut opened = Vec::new();
        while let (Duty::Write(own), Some(Store { local, .. })) = (&mut self.duty, &mut self.store)
        {
            if own.work.is_some() {
                if own.step(local, &mut opened) == Step::NoRoom {
                    break;
                }
                let Some(work) = own.work.take() else { continue };
                let (answer, is_urgent) = match work {
                    Work::Append(appending) => {
                        let micros = micros_between(appending.since, now.wall);
                        self.config.shared.latencies.record(Stage::Append, micros);
                        (Some(appending.place), appending.is_urgent)
                    }
                    Work::Filling { answer } => {
                        own.idle_end = own.writer.lsn();
                        own.segment_since = now.instant;
                        let place = Place::end;
                        (answer.map(place), false)
                    }
                };
                if let Some(place) = answer {
                    // No flush will tell of what is durable already: nothing may have been appended, or
                    // the last of it long before.
                    must_tell |= is_urgent || place.end <= local.flush_lsn();
                    self.config.commits.answer(Ok(place));
                }
                own.hand_over_if_full(local, &mut opened);
                continue;
            }
            if !own.has_room(local, own.small_len) {
                break;
            }
            let Some(job) = self.config.commits.next() else { break };
            if own.is_closed {
                self.config.commits.answer(Err(shutting_down()));
                must_tell = true;
                continue;
            }
            match job {
                Job::Append { records, commit, is_urgent, since } => {
                    let (xid, warning) = match commit.map(|_| own.take_xid(now.wall)).transpose() {
                        Ok(taken) => taken.unzip(),
                        Err(report) => {
                            self.config.commits.answer(Err(report));
                            must_tell = true;
                            continue;
                        }
                    };
                    let place = Place {
                        ends: Vec::with_capacity(records.len()),
                        xid,
                        end: own.writer.lsn(),
                        warning: warning.flatten(),
                    };
                    let records = records.into_iter();
                    let appending =
                        Appending { records, open: None, xid, commit, place, is_urgent, since };
                    own.work = Some(Work::Append(appending));
                }
                Job::Wal(WalRequest::SwitchSegment) => {
                    let answer = Some(own.begin_switch());
                    own.work = Some(Work::Filling { answer });
                }
                Job::Wal(WalRequest::Checkpoint) => {
                    let end = own.put_checkpoint(false, now.wall);
                    self.config.commits.answer(Ok(Place::end(end)));
                }
            }
        }
        if let (Duty::Write(own), Some(Store { local, .. })) = (&mut self.duty, &mut self.store) {
            own.hand_over(local, &mut opened);
        } else {
            must_tell |= self.refuse_jobs();
        }
        self.announce_slabs(opened);
        self.publish_received();
        if must_tell {
            self.tell_commits();
        }
    }

    fn refuse_jobs(&self) -> bool {
        let mut refused = false;
        while let Some(job) = self.config.commits.next() {
            let command = match job {
                Job::Append { .. } => "pg_logical_emit_message()",
                Job::Wal(request) => request.command(),
            };
            let answer = match self.duty.role() {
                Role::Fenced => fenced(command),
                Role::Relay | Role::Promoting | Role::Primary => in_recovery(command),
            };
            self.config.commits.answer(Err(answer));
            refused = true;
        }
        refused
    }

    /// Wakes the control plane when a session waits for what was just published.
    pub(super) fn tell_commits(&self) {
        if self.config.commits.must_tell() {
            (self.config.control)(ToControl::Commits);
        }
    }

    /// The last checkpoint before the process ends, as soon as there is room for it.
    pub(super) fn close_own(&mut self, now: Now) {
        let (Duty::Write(own), Some(Store { local, .. })) = (&mut self.duty, &self.store) else {
            return;
        };
        if own.is_closed || own.work.is_some() || !own.has_room(local, own.small_len) {
            return;
        }
        own.is_closed = true;
        if own.shutdown_end != own.writer.lsn() {
            own.put_checkpoint(true, now.wall);
        }
    }

    /// Whether nothing more will be appended.
    pub(super) fn is_own_closed(&self) -> bool {
        self.duty
            .own()
            .is_none_or(|own| own.is_closed && own.work.is_none() && own.batch.is_empty())
    }

    /// Where the last checkpoint record and its redo position are, once the record is durable and as long as
    /// the control file does not know it.
    pub(super) fn durable_checkpoint(&self) -> Option<(Lsn, Lsn)> {
        let (own, local) = (self.duty.own()?, self.local()?);
        let at = own.unsaved.filter(|at| at.end <= local.flush_lsn())?;
        Some((at.start, at.redo))
    }

    /// The control file may know it now.
    pub(super) fn forget_saved_checkpoint(&mut self) {
        let saved = self.control_file().and_then(ControlFileKeeper::saved);
        let saved = saved.and_then(|saved| saved.checkpoint_lsn);
        if let Some(own) = self.duty.own_mut() {
            own.unsaved = own.unsaved.filter(|at| saved != Some(at.start));
        }
    }

    /// Ends a segment that has waited for more for too long. PostgreSQL: `CheckArchiveTimeout`.
    pub(super) fn check_archive_timeout(&mut self, now: Now) {
        let timeout = self.config.settings.archive_timeout;
        let (Duty::Write(own), Some(Store { local, .. })) = (&mut self.duty, &self.store) else {
            return;
        };
        let is_idle = own.writer.lsn() == own.idle_end;
        if own.work.is_some() || own.is_closed || timeout.is_zero() {
            return;
        }
        if is_idle {
            // The clock runs from the first record.
            own.segment_since = now.instant;
        } else if own.segment_since + timeout <= now.instant && own.has_room(local, own.small_len) {
            own.begin_switch();
            own.work = Some(Work::Filling { answer: None });
        }
    }
}

impl Own {
    /// Appends the switch record, unless the segment is empty; returns where the WAL then ends.
    /// PostgreSQL: `ReserveXLogSwitch`, `RequestXLogSwitch`.
    fn begin_switch(&mut self) -> Lsn {
        if self.writer.shape().segment_size.offset(self.writer.lsn()) == 0 {
            return self.writer.lsn();
        }
        self.put(RM_XLOG, XLOG_SWITCH, 0, &[]).1
    }
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

#[cfg(test)]
mod tests;
