//! Who may stream: standbys are let in here, given to a ship core, and taken back.
//!
//! Not here: their streams (`crate::serve::walsender`).
//!
//! PostgreSQL: `StartReplication` (src/backend/replication/walsender.c).

use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use walhub_engine::io::{Io, Waker};
use walhub_proto::lsn::Lsn;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use super::{Attached, Stopping, WalCore};
use crate::api::hub::{StartStreaming, StreamEnd};
use crate::mail::{NewSession, ToShip};
use crate::serve::moves::Serves;

/// How a standby is admitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admitted {
    /// Streaming begins.
    Stream,
    /// It already has all of that timeline: this is the next one.
    AtEndOfTimeline((walhub_proto::lsn::TimelineId, Lsn)),
}

impl<C: Send + 'static, W: Waker> WalCore<C, W> {
    pub(super) fn handle_start(&mut self, session: NewSession<C>) {
        let NewSession { start, standby, reply } = session;
        match self.admit(&start) {
            Ok(Admitted::Stream) => {}
            Ok(Admitted::AtEndOfTimeline(next)) => {
                let end = StreamEnd::Finished {
                    conn: start.conn,
                    unread: start.unread,
                    next: Some(next),
                };
                self.config.standbys.free(standby);
                return drop(reply.send(end));
            }
            Err(report) => {
                self.config.standbys.free(standby);
                let end = StreamEnd::Refused { conn: start.conn, unread: start.unread, report };
                return drop(reply.send(end));
            }
        }
        let entry = self.config.standbys.standby(standby);
        entry.sent_lsn.store(start.start.0, Ordering::Release);
        if let Some(slot) = &start.slot {
            self.slots.acquire(slot, start.client.pid);
            self.publish_slots();
        }
        let ships = self.config.ships.iter_mut().enumerate();
        let live = ships.filter(|(_, link)| link.serves == Serves::Live);
        let Some((ship, link)) = live.min_by_key(|(_, link)| link.sessions) else {
            return;
        };
        link.sessions += 1;
        let (slot, timeline, pid) = (start.slot.clone(), start.timeline, start.client.pid);
        self.attached.insert(standby, Attached { pid, ship, timeline, slot });
        entry.home.store(ship, Ordering::Relaxed);
        self.sync.connect(standby, &start.client.application_name);
        let sent = link.mail.send(ToShip::Start(NewSession { start, standby, reply }));
        assert!(sent.is_ok(), "a ship core does not read its mail");
    }

    /// Has the stream of a session ended, if there still is one.
    pub(super) fn end_stream(&self, pid: u32, report: &Report) {
        self.end_sessions(|attached| attached.pid == pid, Some(report));
    }

    /// Has the sessions that `are_meant` ended, and told why.
    pub(super) fn end_sessions(
        &self,
        are_meant: impl Fn(&Attached) -> bool,
        report: Option<&Report>,
    ) {
        for (&standby, attached) in &self.attached {
            if are_meant(attached) {
                // It may be on its way between two cores: the one where it arrives finds the mark.
                self.config.standbys.standby(standby).must_end.store(true, Ordering::Release);
                self.mail_ships(|| ToShip::End { standby, report: report.cloned() });
            }
        }
    }

    /// Whether a standby may stream what it asks for. PostgreSQL: `StartReplication`.
    pub(super) fn admit(&self, start: &StartStreaming<C>) -> Result<Admitted, Report> {
        if self.stopping != Stopping::No {
            return Err(Report::fatal(
                SqlState::CANNOT_CONNECT_NOW,
                "the database system is shutting down",
            ));
        }
        let Some(timelines) = self.timelines() else {
            return Err(Report::fatal(
                SqlState::CANNOT_CONNECT_NOW,
                "the database system is starting up",
            ));
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
    fn check_not_ahead(&self, start: &StartStreaming<C>) -> Result<(), Report> {
        let flush_lsn = self.config.shared.flush_lsn.load();
        if self.role().in_recovery() || start.logical || start.start <= flush_lsn {
            return Ok(());
        }
        Err(Report::error(
            SqlState::INTERNAL_ERROR,
            format!(
                "requested starting point {} is ahead of the WAL flush position of this server {flush_lsn}",
                start.start
            ),
        ))
    }

    /// Has a session go from the live core with most of them to that with fewest, when that brings them
    /// nearer. It goes the next time there is something to send to it: before, it costs nothing.
    fn balance(&mut self) {
        let ships = self.config.ships.iter().enumerate();
        let live = ships.filter(|(_, link)| link.serves == Serves::Live);
        let loads = live.map(|(ship, link)| (link.sessions, ship));
        let (Some((fewest, to)), Some((most, from))) = (loads.clone().min(), loads.max()) else {
            return;
        };
        let mut sessions = self.attached.iter_mut();
        let of_most = sessions.find(|(_, attached)| attached.ship == from);
        let (true, Some((&standby, attached))) = (most > fewest + 1, of_most) else { return };
        attached.ship = to;
        self.config.standbys.standby(standby).home.store(to, Ordering::Relaxed);
        for (ship, sessions) in [(from, most - 1), (to, fewest + 1)] {
            if let Some(link) = self.config.ships.get_mut(ship) {
                link.sessions = sessions;
            }
        }
    }

    pub(super) fn handle_ended<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        standby: usize,
        reply: oneshot::Sender<StreamEnd<C>>,
        end: StreamEnd<C>,
    ) {
        self.take_reply(standby);
        if let Some(attached) = self.attached.remove(&standby) {
            self.sync.disconnect(standby);
            if let Some(link) = self.config.ships.get_mut(attached.ship) {
                link.sessions = link.sessions.saturating_sub(1);
            }
            self.balance();
            if let Some(slot) = attached.slot {
                self.slots.release(&slot);
                self.publish_slots();
            }
        }
        self.config.standbys.free(standby);
        self.save_slots(io);
        drop(reply.send(end));
    }
}
