//! Standbys: let in, heard, and the WAL that stays for them and their slots.
//!
//! Not here: who may stream (`crate::policy::admit`), which standbys count (`crate::policy::sync`), what stays
//! (`crate::policy::retention`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use walhub_engine::io::{Io, Waker};
use walhub_proto::feedback::Horizons;
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::time::Now;
use walhub_proto::walreceiver::WalReceiverState;
use walhub_proto::wire::backend::Report;

use crate::api::rows::SlotRow;
use crate::api::stream::{SlotRequest, StartStreaming, StreamEnd};
use crate::mail::{NewWalsender, SlotReply, ToShip};
use crate::policy::admit::{Admission, Admitted};
use crate::policy::attached::Attached;
use crate::policy::promotion;
use crate::policy::slot_files::{Answer, Later};
use crate::policy::slots::standby_horizons;
use crate::role::Role;
use crate::store::Store;
use crate::store::jobs::JobError;
use crate::wal_core::duty::Duty;
use crate::wal_core::{Stopping, WalCore};

impl<C: Send + 'static, W: Waker> WalCore<C, W> {
    pub(super) fn handle_start(&mut self, session: NewWalsender<C>) {
        let NewWalsender { start, standby, reply } = session;
        let admission = Admission {
            is_stopping: self.stopping != Stopping::No,
            role: self.role(),
            timelines: self.timelines(),
            flush_lsn: self.config.shared.flush_lsn.load(),
            slots: &self.slots,
        };
        let refused = match admission.admit(&start) {
            Ok(Admitted::Stream) => None,
            Ok(Admitted::AtEndOfTimeline(next)) => Some(Ok(next)),
            Err(report) => Some(Err(report)),
        };
        if let Some(answer) = refused {
            let StartStreaming { conn, tls, unread, .. } = *start;
            self.config.standbys.free(standby);
            let end = match answer {
                Ok(next) => StreamEnd::Finished { conn, tls, unread, next: Some(next) },
                Err(report) => StreamEnd::Refused { conn, tls, unread, report },
            };
            return drop(reply.send(end));
        }
        let entry = self.config.standbys.standby(standby);
        entry.sent_lsn.store(start.start.0, Ordering::Release);
        if let Some(slot) = &start.slot {
            self.slots.acquire(slot, start.client.pid);
            self.publish_slots();
        }
        let Some(ship) = self.ships.take_place() else { return };
        let (slot, timeline, pid) = (start.slot.clone(), start.timeline, start.client.pid);
        self.attached.insert(standby, Attached { pid, ship, timeline, slot });
        entry.home.store(ship, Ordering::Relaxed);
        self.sync.connect(standby, &start.client.application_name);
        self.ships.start(ship, NewWalsender { start, standby, reply });
    }

    /// Has the streams that `are_meant` ended, and their clients told why.
    pub(super) fn end_streams(
        &self,
        are_meant: impl Fn(&Attached) -> bool,
        report: Option<&Report>,
    ) {
        for (&standby, _) in self.attached.iter().filter(|(_, attached)| are_meant(attached)) {
            // It may be on its way between two cores: the one where it arrives finds the mark.
            self.config.standbys.standby(standby).must_end.store(true, Ordering::Release);
            self.ships.mail(|| ToShip::End { standby, report: report.cloned() });
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
            self.ships.leave_place(attached.ship);
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

    /// Has a walsender go to the core that has the fewest. It goes the next time there is something to send
    /// to it: before, it costs nothing.
    fn balance(&mut self) {
        let Some((from, to)) = self.ships.imbalance() else { return };
        let mut walsenders = self.attached.iter_mut();
        let of_most = walsenders.find(|(_, attached)| attached.ship == from);
        let Some((&standby, attached)) = of_most else { return };
        attached.ship = to;
        self.config.standbys.standby(standby).home.store(to, Ordering::Relaxed);
        self.ships.count_move(from, to);
    }

    /// Takes what standbys have said since the last call. What it moves is told at once.
    pub fn take_replies<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        let timeline = TimelineId::new(self.config.shared.timeline.load(Ordering::Relaxed));
        self.sync.take_replies(&self.config.standbys, &self.attached, timeline);
        self.settle_sync(io, now);
    }

    /// Publishes and tells what the standbys have come to, if that is something else.
    pub(super) fn settle_sync<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        if self.sync.publish(&self.config.shared.synced) {
            self.tell_commits();
            self.reach(now);
            self.acknowledge(io, now);
        }
        let is_receiving = self.link.receiver_state() == WalReceiverState::Streaming;
        self.sync.log_waiting(is_receiving || self.role() == Role::Primary);
    }

    pub(super) fn forget_replies(&mut self) {
        self.sync.forget_replies(&self.attached, &self.config.shared.synced);
        self.followed.forget_all();
    }

    /// Takes a standby's reply over into its slot.
    fn take_reply(&mut self, standby: usize) {
        if let (Some(attached), Some(store)) = (self.attached.get(&standby), &self.store) {
            let entry = self.config.standbys.standby(standby);
            self.slots.take_reply(attached, entry, &store.timelines);
        }
    }

    pub(super) fn handle_slot_request(&mut self, request: SlotRequest, reply: SlotReply) {
        let limits = self.config.keeper().slot_limits(self.store.as_ref());
        let answer = self.slots.handle_request(request, reply, limits);
        self.answer_slots(answer);
    }

    pub(super) fn handle_slots_done<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        result: &Result<(), JobError>,
    ) {
        let mut later = Later::new();
        let answers = self.slots.handle_job_done(result, &mut later);
        self.answer_slots(answers);
        for (request, reply) in later {
            self.handle_slot_request(request, reply);
        }
        self.finish_drops();
        self.slots.start_job(io, &mut self.jobs);
    }

    fn finish_drops(&mut self) {
        let limits = self.config.keeper().slot_limits(self.store.as_ref());
        let answers = self.slots.finish_drops(limits);
        self.answer_slots(answers);
    }

    /// Who is answered finds the views up to date.
    fn answer_slots(&self, answers: impl IntoIterator<Item = Answer>) {
        let mut answers = answers.into_iter().peekable();
        if answers.peek().is_none() {
            return;
        }
        self.publish_slots();
        let rows = self.config.slots.load();
        for (reply, answer) in answers {
            let row = |name| rows.iter().find(|row| row.slot_name == name).cloned();
            drop(reply.send(answer.map(|name| name.and_then(row))));
        }
    }

    pub(super) fn slot_rows(&self) -> Vec<SlotRow> {
        self.config.keeper().slot_rows(self.store.as_ref(), &self.slots)
    }

    /// Replaces the rows of the view when they changed.
    pub(super) fn publish_slots(&self) {
        let rows = self.slot_rows();
        if **self.config.slots.load() != rows {
            self.config.slots.store(Arc::new(rows));
        }
    }

    pub(super) fn save_slots<I: Io<Conn = C>>(&mut self, io: &mut I) {
        self.slots.save(Lsn::MAX);
        self.slots.start_job(io, &mut self.jobs);
    }

    /// What is done a few times a second.
    pub(super) fn housekeep<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        let with_slot = self.attached.iter().filter(|(_, attached)| attached.slot.is_some());
        let with_slot: Vec<usize> = with_slot.map(|(&standby, _)| standby).collect();
        for standby in with_slot {
            self.take_reply(standby);
        }
        self.finish_drops();
        if let (Duty::Write(own), Some(Store { local, .. })) = (&mut self.duty, &self.store) {
            own.check_archive_timeout(now, self.config.settings.archive_timeout, local);
        }
        self.keep_partial(io);
        // A slot that has come to keep WAL for the first time keeps it after a crash, too.
        self.slots.save(Lsn::INVALID);
        self.slots.save_confirmed(now.instant);
        if self.config.settings.hot_standby_feedback {
            let standbys =
                self.config.standbys.in_use().map(|(_, standby)| standby_horizons(standby));
            let horizons = standbys.fold(self.slots.horizons(), Horizons::oldest);
            self.link.tell_horizons(now, horizons);
        }
        self.remove_old_segments(io);
        self.slots.start_job(io, &mut self.jobs);
        self.publish_slots();
    }

    /// Renames the old timeline's last segment, a moment after the ship cores have heard that its WAL is
    /// in the new timeline's.
    fn keep_partial<I: Io<Conn = C>>(&mut self, io: &mut I) {
        if !std::mem::take(&mut self.must_keep_partial) {
            return;
        }
        let wal_dir = self.wal_dir();
        let store = self.store.as_ref();
        if let Some((job, steps)) = store.and_then(|store| promotion::keep_partial(store, &wal_dir))
        {
            self.jobs.start(io, job, steps);
        }
    }

    pub(super) fn remove_old_segments<I: Io<Conn = C>>(&mut self, io: &mut I) {
        let Some(store) = &self.store else { return };
        let Some(plan) = self.config.keeper().plan(store, &self.slots) else { return };
        for invalidation in &plan.invalidations {
            tracing::info!("{}", invalidation.message());
            if let Some(slot) = self.slots.get_mut(&invalidation.name) {
                slot.invalidate();
            }
            self.end_streams(|attached| attached.slot.as_ref() == Some(&invalidation.name), None);
        }
        let Some(store) = &mut self.store else { return };
        self.slots.save(plan.oldest_kept.start(store.local.segments.size()));
        self.slots.start_job(io, &mut self.jobs);
        self.config.keeper().remove(io, &mut self.jobs, store, &self.slots, &plan);
    }
}
