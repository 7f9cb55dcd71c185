//! Who may stream what.
//!
//! Not here: who does (`attached`), the streams (`crate::serve::walsender`).
//!
//! PostgreSQL: `StartReplication` (src/backend/replication/walsender.c).

use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use crate::api::stream::StartStreaming;
use crate::policy::slots::SlotTable;
use crate::role::Role;
use crate::store::timelines::Timelines;

/// How a standby is admitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admitted {
    /// Streaming begins.
    Stream,
    /// It already has all of that timeline: this is the next one.
    AtEndOfTimeline((TimelineId, Lsn)),
}

/// What decides whether a standby may stream.
#[derive(Debug)]
pub(crate) struct Admission<'a> {
    /// The server is shutting down.
    pub(crate) is_stopping: bool,
    /// This server's role.
    pub(crate) role: Role,
    /// What can be served, once there is WAL.
    pub(crate) timelines: Option<&'a Timelines>,
    /// End of what was published as durable.
    pub(crate) flush_lsn: Lsn,
    /// Replication slots.
    pub(crate) slots: &'a SlotTable,
}

impl Admission<'_> {
    /// Whether a standby may stream what it asks for. PostgreSQL: `StartReplication`.
    ///
    /// # Errors
    /// What it is told if not.
    pub(crate) fn admit<C>(&self, start: &StartStreaming<C>) -> Result<Admitted, Report> {
        let not_now = |text| Err(Report::fatal(SqlState::CANNOT_CONNECT_NOW, text));
        if self.is_stopping {
            return not_now("the database system is shutting down");
        }
        let Some(timelines) = self.timelines else {
            return not_now("the database system is starting up");
        };
        if let Some(slot) = &start.slot {
            self.slots.check_usable(slot, start.logical)?;
        }
        if start.timeline == timelines.current {
            return self.check_not_ahead(start).map(|()| Admitted::Stream);
        }
        let Some((switchpoint, next)) = timelines.history.switchpoint(start.timeline) else {
            let text =
                format!("requested timeline {} is not in this server's history", start.timeline);
            return Err(Report::error(SqlState::INTERNAL_ERROR, text));
        };
        if switchpoint < start.start {
            let text = format!(
                "requested starting point {} on timeline {} is not in this server's history",
                start.start, start.timeline
            );
            let detail = format!(
                "This server's history forked from timeline {} at {switchpoint}.",
                start.timeline
            );
            return Err(Report::error(SqlState::INTERNAL_ERROR, text).detail(detail));
        }
        if switchpoint == start.start {
            Ok(Admitted::AtEndOfTimeline((next, switchpoint)))
        } else {
            Ok(Admitted::Stream)
        }
    }

    /// A primary has nothing to say to a standby that has more WAL of its timeline than there ever was: it
    /// has a future that was abandoned. Of a relay the upstream may have that WAL, so there it waits. Where
    /// a logical slot's client is says nothing about WAL that it has.
    fn check_not_ahead<C>(&self, start: &StartStreaming<C>) -> Result<(), Report> {
        if self.role.in_recovery() || start.logical || start.start <= self.flush_lsn {
            return Ok(());
        }
        Err(Report::error(
            SqlState::INTERNAL_ERROR,
            format!(
                "requested starting point {} is ahead of the WAL flush position of this server {}",
                start.start, self.flush_lsn
            ),
        ))
    }
}
