//! Promotion: a relay becomes the primary of its WAL.
//!
//! Step by step, and a crash between any two of them leaves either the relay or the primary:
//!
//! 1. The stream from the upstream ends, and what is not whole and valid is forgotten.
//! 2. What is left becomes durable. Its end is where the new timeline begins.
//! 3. The new timeline's history file, the segment in which it begins and the control file (`switch`). Who
//!    starts from that is the primary.
//! 4. Standbys are told, and own WAL begins (`own`). The old timeline's last segment is renamed.
//!
//! Not here: what the first records are (`own`), what a timeline's change does (`switch`, `timeline`).
//!
//! PostgreSQL: `FinishWalRecovery`, `StartupXLOG` (src/backend/access/transam/xlog.c).

use std::io::ErrorKind;
use std::sync::atomic::Ordering;

use walhub_engine::io::{Io, Waker};
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::page::WalVersion;
use walhub_proto::rmgr::facts::Facts;
use walhub_proto::rmgr::prepared::PREPARED_MAX;
use walhub_proto::segment::SegNo;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::time::Now;
use walhub_proto::wire::backend::Report;

use super::duty::Duty;
use super::own::small_len;
use super::switch::Purpose;
use super::{Stopping, Store, WalCore};
use crate::api::append::not_in_recovery;
use crate::mail::{PromoteReply, ToControl};
use crate::role::Role;
use crate::store::jobs::{JobError, Step};
use crate::store::recover::partial_name;
use crate::store::segments::FileJob;

/// Zeros that are appended at a time.
const ZEROS_LEN: usize = 256 << 10;
/// What the history file says. PostgreSQL: `getRecoveryStopReason`.
const REASON: &str = "no recovery target specified";

/// A promotion that is under way.
#[derive(Debug)]
pub(super) struct Promotion {
    waiters: Vec<PromoteReply>,
}

impl Promotion {
    fn answer(self, answer: &Result<(), Report>) {
        for waiter in self.waiters {
            drop(waiter.send(answer.clone()));
        }
    }
}

fn unknown_version(version: Option<WalVersion>) -> Report {
    let state = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
    match version {
        None => Report::error(state, "cannot promote before a whole WAL record was received")
            .detail("Only the WAL says which version of PostgreSQL it is of.")
            .hint("Set primary_conninfo, and promote once WAL has streamed."),
        Some(version) => Report::error(state, "cannot promote a server whose WAL is of an unknown version")
            .detail(format!(
                "Pages with the magic number {:04X} are of no PostgreSQL release that this walhub knows.",
                version.magic()
            ))
            .hint("Promote a standby, or use a walhub that knows the version."),
    }
}

/// Whether everything is known that the records of the new timeline must say.
fn may_go_on(facts: &Facts) -> Result<(), Report> {
    let state = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
    let hint = "Run CHECKPOINT on the primary and promote then. If it is lost, promote a standby that has \
                replayed the WAL.";
    if facts.counters.is_none() {
        let report = Report::error(state, "cannot promote before a checkpoint was received");
        let detail = "Only a checkpoint record says which transaction and object ids come next, and the WAL \
                      here has had none since it began.";
        return Err(report.detail(detail).hint(hint));
    }
    let Some(prepared) = &facts.database.prepared else {
        let message = "cannot promote before the primary has listed its running transactions";
        let detail = "Prepared transactions may be older than the WAL here, and standbys lose those that their \
                      primary does not name.";
        return Err(Report::error(state, message).detail(detail).hint(hint));
    };
    if prepared.len() > PREPARED_MAX {
        let message = "cannot promote while so many transactions are prepared";
        let count = prepared.len();
        let detail = format!(
            "There are {count} prepared transactions, or such as may be, of maximum {PREPARED_MAX}."
        );
        let hint =
            "End some on the primary. If it is lost, promote a standby that has replayed the WAL.";
        return Err(Report::error(state, message).detail(detail).hint(hint));
    }
    Ok(())
}

impl<C: Send + 'static, W: Waker> WalCore<C, W> {
    /// Begins, unless that is not possible.
    pub(super) fn handle_promote<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        reply: PromoteReply,
    ) {
        if let Err(report) = self.may_promote() {
            if report.sqlstate != SqlState::CANNOT_CONNECT_NOW && self.role().in_recovery() {
                crate::api::report::report_as_log(&report);
            }
            drop(reply.send(Err(report)));
            return;
        }
        if let Duty::Promote(promotion) = &mut self.duty {
            return promotion.waiters.push(reply);
        }
        tracing::info!("received promote request");
        self.link.stop(io, now);
        self.link.rewind = true;
        self.take_duty(Duty::Promote(Promotion { waiters: vec![reply] }));
    }

    fn may_promote(&self) -> Result<(), Report> {
        if !self.role().in_recovery() {
            return Err(not_in_recovery());
        }
        if self.stopping != Stopping::No {
            let message = "the database system is shutting down";
            return Err(Report::fatal(SqlState::CANNOT_CONNECT_NOW, message));
        }
        let state = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
        let Some(Store { local, .. }) = &self.store else {
            let message = "cannot promote a server that has never received WAL";
            let report = Report::error(state, message);
            return Err(report.hint("Set primary_conninfo, and promote once WAL has streamed."));
        };
        let flush_lsn = local.flush_lsn();
        if let Some(lost_to) = self.mark.lost_to().filter(|&lost| lost > flush_lsn) {
            let message = "cannot promote before damaged WAL was received again";
            return Err(Report::error(state, message)
                .detail(format!(
                    "WAL from {flush_lsn} to {lost_to} was durable here and acknowledged, and was found \
                     damaged at start."
                ))
                .hint(format!(
                    "Let it be received from the primary, or promote a standby that has it. To give it up, \
                     start this server once with --accept-loss-after {flush_lsn}."
                )));
        }
        may_go_on(&local.facts())?;
        // The layouts of its first records and the number on their pages are the version's.
        if local.version().is_none_or(|version| version.major().is_none()) {
            return Err(unknown_version(local.version()));
        }
        Ok(())
    }

    /// Nobody is promoted while the server stops.
    pub(super) fn give_up_promotion(&mut self) {
        let message = "the database system is shutting down";
        self.end_promotion(&Err(Report::fatal(SqlState::CANNOT_CONNECT_NOW, message)));
    }

    /// Goes on with a promotion, as far as it can now.
    pub(super) fn turn_promotion<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        let is_ready = self.role() == Role::Promoting
            && self.switch.is_none()
            && self.link.is_closed()
            && !self.link.rewind
            && !self.must_wait_for_files()
            && self.retry_disk_at.is_none()
            && self.fill_after_switch();
        if is_ready && self.is_settled() {
            self.begin_timeline(io, now);
        }
    }

    /// Whether everything is durable, and there is room for the first records.
    fn is_settled(&self) -> bool {
        let Some(Store { local, .. }) = &self.store else { return false };
        local.is_flushed() && local.has_room(small_len(&local.facts().database))
    }

    /// A record that ends its segment counts to the end of it: what has not come of the filling, which is
    /// zeros, is made. Whether it is whole.
    fn fill_after_switch(&mut self) -> bool {
        let mut opened = Vec::new();
        let Some(Store { local, .. }) = &mut self.store else { return true };
        let size = local.segments.size();
        let zeros = vec![0; ZEROS_LEN];
        while local.reader().filling().is_some() {
            let end = local.received_lsn();
            let left = usize::try_from(size.start_of(end) + size.bytes() - end);
            let left = left.unwrap_or(ZEROS_LEN).min(ZEROS_LEN);
            if size.offset(end) == 0 || !local.has_room(left) {
                break;
            }
            let appended = local
                .append(end, zeros.get(..left).unwrap_or_default(), &mut |slab| opened.push(slab));
            assert!(appended.is_ok(), "filling at {end}: {appended:?}");
        }
        let end = local.received_lsn();
        let is_whole = local.reader().filling().is_none() || size.offset(end) == 0;
        self.announce_slabs(opened);
        self.publish_received();
        is_whole
    }

    /// The timeline after the greatest that is known here. PostgreSQL: `findNewestTimeLine`.
    fn begin_timeline<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        let Some(Store { local, timelines, .. }) = &self.store else { return };
        let newest = self.history_files.last().copied().max(Some(timelines.current));
        let newest = newest.unwrap_or(TimelineId::FIRST);
        let Some(timeline) = newest.to_u32().checked_add(1).and_then(TimelineId::new) else {
            let report = Report::error(
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                "cannot promote: there is no timeline left",
            );
            return self.end_promotion(&Err(report));
        };
        tracing::info!("selected new timeline ID: {timeline}");
        let switchpoint = local.flush_lsn();
        let history = timelines.history.clone().extend(timeline, switchpoint, REASON);
        self.begin_switch(io, now, Purpose::Promote, history, switchpoint);
    }

    /// Says which standbys have WAL that the new timeline has not: a crash here has lost it.
    pub(super) fn name_those_ahead(&self, switchpoint: Lsn, timeline: TimelineId) {
        for (&standby, attached) in &self.attached {
            let entry = self.config.standbys.standby(standby);
            let ahead = Lsn(entry.write_lsn.load(Ordering::Relaxed));
            if ahead > switchpoint {
                tracing::warn!(
                    detail = format!(
                        "Timeline {timeline} begins at {switchpoint}, and the standby has written up to {ahead}."
                    ),
                    hint = "Rebuild it, or use pg_rewind.",
                    "standby with PID {} has {} bytes of WAL that are not part of timeline {timeline}",
                    attached.pid,
                    ahead - switchpoint
                );
            }
        }
    }

    /// The control file says that this is the primary: so it is.
    pub(super) fn finish_promotion(&mut self, now: Now) {
        let promoting = self.begin_own(now, None, None);
        self.publish_receiver();
        tracing::info!("archive recovery complete");
        (self.config.control)(ToControl::Promoted);
        if let Some(Duty::Promote(promotion)) = promoting {
            promotion.answer(&Ok(()));
        }
    }

    /// This stays a relay.
    fn end_promotion(&mut self, answer: &Result<(), Report>) {
        if self.role() == Role::Promoting
            && let Duty::Promote(promotion) = self.take_duty(Duty::Receive)
        {
            promotion.answer(answer);
        }
    }

    /// Renames the old timeline's last segment, a moment after the ship cores have heard that its WAL is
    /// in the new timeline's.
    pub(super) fn keep_partial<I: Io<Conn = C>>(&mut self, io: &mut I) {
        if !std::mem::take(&mut self.must_keep_partial) {
            return;
        }
        let wal_dir = self.wal_dir();
        let Some(Store { local, timelines, .. }) = &self.store else { return };
        let size = local.segments.size();
        let Some((segno, name, partial)) = partial_name(size, &timelines.history) else { return };
        let rename = Step::Rename(wal_dir.join(name), wal_dir.join(&partial));
        let job = FileJob::Partial(segno, partial);
        self.jobs.start(io, job, vec![rename, Step::SyncDir(wal_dir)]);
    }

    /// Takes the end of a [`FileJob::Partial`].
    pub(super) fn handle_partial_kept(
        &mut self,
        segno: SegNo,
        name: String,
        result: Result<(), JobError>,
    ) {
        let Some(Store { local, .. }) = &mut self.store else { return };
        match result {
            // The next start does it.
            Err(error) if error.error.kind() != ErrorKind::NotFound => {
                tracing::warn!("could not rename the old timeline's last segment: {error}");
            }
            Ok(()) | Err(_) => local.segments.hold_partial(segno, name),
        }
    }
}
