//! Another timeline, the upstream's or this server's own: what it is to the other parts, in which order.
//!
//! Not here: the steps of a switch (`crate::policy::switch`), who may be promoted (`crate::policy::promotion`),
//! own records (`crate::intake::own`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use walhub_engine::io::{Io, Waker};
use walhub_proto::history::TimelineHistory;
use walhub_proto::lsn::Lsn;
use walhub_proto::recovery::CheckpointSeen;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::time::Now;
use walhub_proto::wire::backend::Report;

use crate::intake::own::{OwnWal, refuse_jobs, small_len};
use crate::mail::{PromoteReply, ToControl, ToShip};
use crate::policy::promotion::{self, Promotion};
use crate::policy::switch::{NextStep, Purpose, Switch};
use crate::role::Role;
use crate::store::Store;
use crate::store::disk_trouble::DiskFault;
use crate::store::jobs::Finished;
use crate::store::segments::FileJob;
use crate::store::timelines::Timelines;
use crate::wal_core::duty::Duty;
use crate::wal_core::{Stopping, WalCore};

impl<C: Send + 'static, W: Waker> WalCore<C, W> {
    /// Begins to go over to another timeline. Everything up to `start` is durable, and nothing was written
    /// after it.
    pub(super) fn begin_switch<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        purpose: Purpose,
        history: TimelineHistory,
        start: Lsn,
    ) {
        assert!(self.switch.is_none(), "one switch after the other");
        let Some(Store { local, .. }) = &self.store else { return };
        self.switch = Some(Switch::new(purpose, history, start, local));
        self.make_switch_files(io, now);
    }

    fn make_switch_files<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        let wal_dir = self.wal_dir();
        if let (Some(switch), Some(Store { local, .. })) = (&mut self.switch, &mut self.store) {
            switch.make_files(io, &mut self.jobs, &wal_dir, local);
            self.go_on_switching(io, now);
        }
    }

    /// Tries again what failed, unless the server stops: the next start is on the old timeline then.
    pub(super) fn retry_switch<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        if self.stopping == Stopping::No {
            self.make_switch_files(io, now);
        }
    }

    pub(super) fn handle_switch_files<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        finished: Finished<FileJob>,
    ) {
        let (Some(switch), Some(Store { local, .. })) = (&mut self.switch, &self.store) else {
            return;
        };
        match switch.handle_files(finished.result, local.segments.size()) {
            Ok(()) => {
                if switch.purpose == Purpose::Promote {
                    self.histories.note_file(switch.timeline);
                }
                self.go_on_switching(io, now);
            }
            Err(error) => {
                let what = format!("could not begin a new timeline: {error}");
                self.disk.handle_fault(now, DiskFault::of(&error), &what);
            }
        }
    }

    /// Whether a switch is under way that goes on by itself.
    pub(super) fn is_switching(&self) -> bool {
        let (Some(switch), Some(store)) = (&self.switch, &self.store) else { return false };
        switch.goes_on(&store.control)
    }

    /// Saves the control file, or goes over to the timeline that it names.
    pub(super) fn go_on_switching<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        let (Some(switch), Some(store)) = (&self.switch, &mut self.store) else { return };
        match switch.next_step(&store.control) {
            NextStep::Wait => {}
            NextStep::SaveControl => {
                store.move_bound();
                store.control.wait();
                self.save_control(io);
            }
            NextStep::Adopt => self.finish_switch(io, now),
        }
    }

    fn finish_switch<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        let Some(switch) = self.switch.take() else { return };
        let (purpose, timeline, start) = (switch.purpose, switch.timeline, switch.start);
        if let Some(Store { control, .. }) = &mut self.store {
            control.adopt_saved();
        }
        self.note_disk_has_room();
        match purpose {
            Purpose::Follow => {
                self.adopt_timeline(io, switch);
                tracing::info!("new target timeline is {timeline}");
                self.note_started(now, timeline, start);
                // What has come meanwhile.
                self.publish_received();
                self.acknowledge(io, now);
                self.resume_receiving(io, now);
            }
            Purpose::Promote => {
                let standbys = &self.config.standbys;
                promotion::name_those_ahead(&self.attached, standbys, start, timeline);
                self.adopt_timeline(io, switch);
                self.must_keep_partial = true;
                self.finish_promotion(now);
            }
        }
    }

    /// Goes on on a timeline that the control file knows.
    fn adopt_timeline<I: Io<Conn = C>>(&mut self, io: &mut I, switch: Switch) {
        let (timeline, copied) = (switch.timeline, switch.copied());
        self.histories.adopt(timeline);
        let Some(Store { local, timelines, .. }) = &mut self.store else { return };
        local.segments.switch_timeline(io, &mut self.jobs, timeline, copied);
        local.set_timeline(timeline);
        let flush_lsn = local.flush_lsn();
        let history = switch.history;
        let new = Arc::new(Timelines { current: timeline, history, ..(**timelines).clone() });
        *timelines = Arc::clone(&new);
        // Before any position of the new timeline is published.
        self.ships.mail(|| ToShip::Timelines(Arc::clone(&new)));
        self.config.shared.begin_timeline(timeline);
        self.forget_replies();
        self.slots.hold_from(flush_lsn, timeline);
        self.save_slots(io);
        self.publish_slots();
    }

    pub(super) fn handle_promote<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        reply: PromoteReply,
    ) {
        let is_stopping = self.stopping != Stopping::No;
        let (store, lost_to) = (self.store.as_ref(), self.mark.lost_to());
        if let Err(report) = promotion::may_promote(self.role(), is_stopping, store, lost_to) {
            if report.sqlstate != SqlState::CANNOT_CONNECT_NOW && self.role().in_recovery() {
                crate::api::report::report_as_log(&report);
            }
            drop(reply.send(Err(report)));
            return;
        }
        if let Duty::Promote(promotion) = &mut self.duty {
            return promotion.join(reply);
        }
        tracing::info!("received promote request");
        self.link.stop_for_good(io, now);
        self.take_duty(Duty::Promote(Promotion::new(reply)));
    }

    /// Goes on with a promotion, as far as it can now.
    pub(super) fn turn_promotion<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        let is_ready = self.role() == Role::Promoting
            && self.switch.is_none()
            && self.link.is_settled()
            && !self.must_wait_for_files()
            && !self.disk.is_waiting();
        if !is_ready {
            return;
        }
        let Some(Store { local, .. }) = &mut self.store else { return };
        let mut opened = Vec::new();
        let is_whole = promotion::fill_after_switch(local, &mut opened);
        self.ships.announce(opened);
        self.publish_received();
        let Some(store) = &self.store else { return };
        let local = &store.local;
        // There must be room for the first records, too.
        let has_room = || local.has_room(small_len(&local.facts().database));
        if !is_whole || !local.is_flushed() || !has_room() {
            return;
        }
        match promotion::next_timeline(&self.histories, store) {
            Ok((history, switchpoint)) => {
                self.begin_switch(io, now, Purpose::Promote, history, switchpoint);
            }
            Err(report) => self.end_promotion(&Err(report)),
        }
    }

    /// The control file says that this is the primary: so it is.
    fn finish_promotion(&mut self, now: Now) {
        let promoting = self.begin_own(now, None, None);
        self.publish_receiver();
        tracing::info!("archive recovery complete");
        (self.config.control)(ToControl::Promoted);
        if let Some(Duty::Promote(promotion)) = promoting {
            promotion.answer(&Ok(()));
        }
    }

    /// This stays a relay.
    pub(super) fn end_promotion(&mut self, answer: &Result<(), Report>) {
        if self.role() == Role::Promoting
            && let Duty::Promote(promotion) = self.take_duty(Duty::Receive)
        {
            promotion.answer(answer);
        }
    }

    /// From now on this hub writes WAL of its own. Returns what it had to do before.
    pub(super) fn begin_own(
        &mut self,
        now: Now,
        checkpoint: Option<CheckpointSeen>,
        last_open: Option<u32>,
    ) -> Option<Duty> {
        let own = OwnWal::begin(self.store.as_mut()?, now, checkpoint, last_open);
        let before = self.take_duty(Duty::Write(Box::new(own)));
        self.config.shared.forward_flushed.store(true, Ordering::Relaxed);
        Some(before)
    }

    /// Takes the sessions' jobs.
    pub(super) fn turn_own(&mut self, now: Now) {
        let (commits, role) = (&self.config.commits, self.duty.role());
        let mut opened = Vec::new();
        let must_tell = match (&mut self.duty, &mut self.store) {
            (Duty::Write(own), Some(Store { local, .. })) => {
                own.turn(now, local, commits, &self.config.shared.latencies, &mut opened)
            }
            _ => refuse_jobs(commits, role),
        };
        self.ships.announce(opened);
        self.publish_received();
        if must_tell {
            self.tell_commits();
        }
    }

    /// Wakes the control plane when a session waits for what was just published.
    pub(super) fn tell_commits(&self) {
        if self.config.commits.must_tell() {
            (self.config.control)(ToControl::Commits);
        }
    }
}
