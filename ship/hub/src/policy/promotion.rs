//! Promotion: a relay becomes the primary of its WAL.
//!
//! Step by step, and a crash between any two of them leaves either the relay or the primary:
//!
//! 1. The stream from the upstream ends, and what is not whole and valid is forgotten.
//! 2. What is left becomes durable. Its end is where the new timeline begins.
//! 3. The new timeline's history file, the segment in which it begins and the control file (`switch`). Who
//!    starts from that is the primary.
//! 4. Standbys are told, and own WAL begins. The old timeline's last segment is renamed.
//!
//! Not here: what the first records are (`crate::intake::own`), what a timeline's change does (`switch`),
//! when the next step is due (`crate::wal_core`).
//!
//! PostgreSQL: `FinishWalRecovery`, `StartupXLOG` (src/backend/access/transam/xlog.c).

use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::Ordering;

use walhub_proto::convert::to_usize;
use walhub_proto::history::TimelineHistory;
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::page::WalVersion;
use walhub_proto::rmgr::facts::Facts;
use walhub_proto::rmgr::prepared::PREPARED_MAX;
use walhub_proto::segment::SegNo;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use crate::api::append::not_in_recovery;
use crate::mail::PromoteReply;
use crate::policy::attached::Walsenders;
use crate::policy::histories::Histories;
use crate::publish::positions::StandbyTable;
use crate::role::Role;
use crate::store::Store;
use crate::store::jobs::{JobError, Step};
use crate::store::local::LocalWal;
use crate::store::recover::partial_name;
use crate::store::segments::FileJob;
use crate::store::tail::TailSlab;

/// Zeros that are appended at a time.
const ZEROS_LEN: usize = 256 << 10;
/// What the history file says. PostgreSQL: `getRecoveryStopReason`.
const REASON: &str = "no recovery target specified";

/// A promotion that is under way.
#[derive(Debug)]
pub(crate) struct Promotion {
    waiters: Vec<PromoteReply>,
}

impl Promotion {
    pub(crate) fn new(waiter: PromoteReply) -> Self {
        Self { waiters: vec![waiter] }
    }

    /// Somebody else asks for it.
    pub(crate) fn join(&mut self, waiter: PromoteReply) {
        self.waiters.push(waiter);
    }

    /// Tells everybody who asked.
    pub(crate) fn answer(self, answer: &Result<(), Report>) {
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

/// Whether a server may be promoted now. WAL up to `lost_to` was durable here once, and has not come again.
///
/// # Errors
/// Why not.
pub(crate) fn may_promote(
    role: Role,
    is_stopping: bool,
    store: Option<&Store>,
    lost_to: Option<Lsn>,
) -> Result<(), Report> {
    if !role.in_recovery() {
        return Err(not_in_recovery());
    }
    if is_stopping {
        return Err(shutting_down());
    }
    let state = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
    let Some(Store { local, .. }) = store else {
        let message = "cannot promote a server that has never received WAL";
        let report = Report::error(state, message);
        return Err(report.hint("Set primary_conninfo, and promote once WAL has streamed."));
    };
    let flush_lsn = local.flush_lsn();
    if let Some(lost_to) = lost_to.filter(|&lost| lost > flush_lsn) {
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
pub(crate) fn shutting_down() -> Report {
    Report::fatal(SqlState::CANNOT_CONNECT_NOW, "the database system is shutting down")
}

/// A record that ends its segment counts to the end of it: what has not come of the filling, which is
/// zeros, is made. Whether it is whole.
pub(crate) fn fill_after_switch(local: &mut LocalWal, opened: &mut Vec<TailSlab>) -> bool {
    let size = local.segments.size();
    let zeros = vec![0; ZEROS_LEN];
    while local.reader().filling().is_some() {
        let end = local.received_lsn();
        let left = to_usize(size.start_of(end) + size.bytes() - end).min(ZEROS_LEN);
        if size.offset(end) == 0 || !local.has_room(left) {
            break;
        }
        let appended =
            local.append(end, zeros.get(..left).unwrap_or_default(), &mut |slab| opened.push(slab));
        assert!(appended.is_ok(), "filling at {end}: {appended:?}");
    }
    local.reader().filling().is_none() || size.offset(local.received_lsn()) == 0
}

/// The history of the timeline that the server goes over to, and where that begins: at the end of what is
/// durable. It is the timeline after the greatest that is known here. PostgreSQL: `findNewestTimeLine`.
///
/// # Errors
/// When there is none left.
pub(crate) fn next_timeline(
    histories: &Histories,
    store: &Store,
) -> Result<(TimelineHistory, Lsn), Report> {
    let newest = histories.newest(store.timelines.current);
    let Some(timeline) = newest.to_u32().checked_add(1).and_then(TimelineId::new) else {
        return Err(Report::error(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            "cannot promote: there is no timeline left",
        ));
    };
    tracing::info!("selected new timeline ID: {timeline}");
    let switchpoint = store.local.flush_lsn();
    Ok((store.timelines.history.clone().extend(timeline, switchpoint, REASON), switchpoint))
}

/// Says which standbys have WAL that the new timeline has not: a crash here has lost it.
pub(crate) fn name_those_ahead(
    attached: &Walsenders,
    standbys: &StandbyTable,
    switchpoint: Lsn,
    timeline: TimelineId,
) {
    for (&standby, attached) in attached {
        let ahead = Lsn(standbys.standby(standby).write_lsn.load(Ordering::Relaxed));
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

/// What renames the old timeline's last segment, if it has a part of one.
pub(crate) fn keep_partial(store: &Store, wal_dir: &Path) -> Option<(FileJob, Vec<Step>)> {
    let size = store.local.segments.size();
    let (segno, name, partial) = partial_name(size, &store.timelines.history)?;
    let rename = Step::Rename(wal_dir.join(name), wal_dir.join(&partial));
    let steps = vec![rename, Step::SyncDir(wal_dir.to_owned())];
    Some((FileJob::Partial(segno, partial), steps))
}

/// Takes the end of a [`FileJob::Partial`].
pub(crate) fn handle_partial_kept(
    local: &mut LocalWal,
    segno: SegNo,
    name: String,
    result: Result<(), JobError>,
) {
    match result {
        // The next start does it.
        Err(error) if error.error.kind() != ErrorKind::NotFound => {
            tracing::warn!("could not rename the old timeline's last segment: {error}");
        }
        Ok(()) | Err(_) => local.segments.hold_partial(segno, name),
    }
}
