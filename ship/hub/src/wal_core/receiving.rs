//! What comes from the upstream, and what it is told.
//!
//! Not here: the connection (`crate::intake::upstream`).
//!
//! PostgreSQL: `WalReceiverMain`, `WaitForWALToBecomeAvailable`.

use std::sync::atomic::Ordering;

use walhub_engine::io::{Io, Waker};
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::time::Now;
use walhub_proto::walreceiver::LocalWal as LocalState;

use crate::intake::first_contact::FirstContact;
use crate::intake::trouble::Fault;
use crate::intake::upstream::{Intake, Link, LinkEnd, LinkEvent};
use crate::mail::{ToControl, Upstream};
use crate::policy::switch::Purpose;
use crate::role::Role;
use crate::store::Store;
use crate::store::local::LocalWal;
use crate::store::tail::TailSlab;
use crate::wal_core::{Stopping, WalCore};

impl<C: Send + 'static, W: Waker> WalCore<C, W> {
    /// The link, and what it works with.
    pub(super) fn intake<'a>(
        &'a mut self,
        now: Now,
        opened: &'a mut Vec<TailSlab>,
    ) -> (&'a mut Link, Intake<'a>) {
        let (settings, shared) = (&*self.config.settings, &*self.config.shared);
        let intake = Intake { now, settings, shared, store: self.store.as_mut(), opened };
        (&mut self.link, intake)
    }

    /// Connects, keeps time, replies.
    pub(super) fn turn_link<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        self.rewind(io);
        if self.link.take_unwanted_attempt() {
            (self.config.control)(ToControl::GiveUpConnecting);
        }
        if self.stopping != Stopping::No {
            return;
        }
        // Where the next connection begins is not known before.
        let is_settled = self.switch.is_none() && !self.must_wait_for_files();
        if is_settled && self.link.is_due(now) {
            let conninfo = self.config.settings.primary_conninfo.clone();
            // A primary keeps to its own WAL, whatever a reload says. PostgreSQL: primary_conninfo is
            // of no effect on a server that is no standby.
            if conninfo.is_empty() || self.role() != Role::Relay {
                self.link.switch_off();
            } else {
                self.link.begin_attempt();
                (self.config.control)(ToControl::Connect { conninfo });
            }
        }
        if self.link.live().is_none() {
            return;
        }
        match self.link.handle_timeout(now) {
            Ok(()) => {
                self.link.reply(io, now);
                self.resume_receiving(io, now);
            }
            Err(why) => self.end_link(io, now, why),
        }
    }

    pub(super) fn handle_not_connected(&mut self, now: Now, reason: &str, fault: Fault) {
        let verified = self.local().map(LocalWal::verified_lsn);
        self.link.fail(now, &self.config.settings, reason, fault, verified);
    }

    pub(super) fn handle_connected<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        upstream: Upstream<C>,
    ) {
        let control = self.control_file().map(|control| &control.wanted);
        let local = LocalState {
            system_identifier: control.map(|control| control.system_identifier),
            segment_size: control.map(|control| control.segment_size),
            timeline: self.timelines().map(|timelines| timelines.current),
            next_lsn: self.local().map(LocalWal::received_lsn),
        };
        self.link.handle_connected(io, now, upstream, local, &self.config.settings);
        if self.link.live().is_some() {
            self.publish_receiver();
            self.acknowledge(io, now);
            self.resume_receiving(io, now);
        }
    }

    /// Tells the upstream how far the WAL is safe.
    pub(super) fn acknowledge<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        self.tell_progress(now);
        self.link.reply(io, now);
    }

    /// Gives the link what its next reply says.
    fn tell_progress(&mut self, now: Now) {
        let (Some(_), Some(Store { local, .. })) = (self.link.live(), &self.store) else { return };
        let flush_lsn = self.config.shared.flush_lsn.load();
        self.link.tell_progress(now, self.sync.reply(local.write_lsn(), flush_lsn));
    }

    /// Takes what was received as far as there is room for it, and receives more.
    pub(super) fn resume_receiving<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        if let Err(why) = self.take_events(io, now) {
            return self.end_link(io, now, why);
        }
        self.publish_received();
        self.publish_receiver();
        self.pump(io);
        self.link.reply(io, now);
        let mut opened = Vec::new();
        let (link, mut intake) = self.intake(now, &mut opened);
        link.receive(io, &mut intake);
        self.ships.announce(opened);
    }

    fn take_events<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) -> Result<(), LinkEnd> {
        while !self.must_wait_for_files() {
            let mut opened = Vec::new();
            let (link, mut intake) = self.intake(now, &mut opened);
            let event = link.next_event(&mut intake);
            self.ships.announce(opened);
            let Some(event) = event? else { break };
            self.handle_event(io, now, event)?;
        }
        Ok(())
    }

    fn handle_event<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        event: LinkEvent,
    ) -> Result<(), LinkEnd> {
        match event {
            LinkEvent::Identified(system_identifier, timeline) => {
                self.histories.meet(system_identifier, timeline);
                self.link.set_known_histories(self.histories.known());
            }
            LinkEvent::History(timeline, content) => {
                let (wal_dir, jobs) = (self.wal_dir(), &mut self.jobs);
                let kept = self.histories.handle_received(io, jobs, &wal_dir, timeline, content);
                if let Err(text) = kept {
                    if self.link.live().is_some_and(|live| live.receiver.needs_history(timeline)) {
                        return Err(LinkEnd::refused(text));
                    }
                    self.histories.note_absent(timeline, &text);
                }
            }
            LinkEvent::HistoryAbsent(timeline, detail) => {
                self.histories.note_absent(timeline, &detail);
            }
            LinkEvent::Started(timeline, start) => {
                return self.handle_started(io, now, timeline, start);
            }
            LinkEvent::Told(end) => {
                let flush_lsn = self.config.shared.flush_lsn.load();
                let withheld = flush_lsn == end && self.sync.withholds(flush_lsn);
                return self.link.check_requests(now, withheld);
            }
        }
        Ok(())
    }

    fn handle_started<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        timeline: TimelineId,
        start: Lsn,
    ) -> Result<(), LinkEnd> {
        let Some(Store { local, timelines, .. }) = &mut self.store else {
            let history = self.histories.of_first(timeline).map_err(LinkEnd::refused)?;
            let Some(live) = self.link.live() else { return Ok(()) };
            let (jobs, data_dir) = (&mut self.jobs, &self.config.data_dir);
            self.first_contact = FirstContact::begin(io, jobs, data_dir, live, history, start);
            return Ok(());
        };
        if timelines.current == timeline {
            self.note_started(now, timeline, start);
            return Ok(());
        }
        let current = local.segments.timeline();
        let history = self.histories.of_next(timeline, current, start).map_err(LinkEnd::refused)?;
        if local.flush_lsn() != start || local.received_lsn() != start || !local.is_flushed() {
            return Err(LinkEnd::lost(format!(
                "timeline {timeline} begins at {start}, but local WAL ends at {}",
                local.flush_lsn()
            )));
        }
        // What comes now is the new timeline's.
        local.set_timeline(timeline);
        self.begin_switch(io, now, Purpose::Follow, history, start);
        Ok(())
    }

    /// The control file of the first contact is durable.
    pub(super) fn finish_first_contact<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        contact: FirstContact,
    ) {
        let FirstContact { control, wal } = contact;
        let (timeline, start) = (wal.timelines.current, wal.end);
        self.open_store(control, wal);
        self.histories.adopt(timeline);
        self.note_started(now, timeline, start);
        self.resume_receiving(io, now);
    }

    /// WAL of this timeline streams from there on, if the connection is still there.
    pub(super) fn note_started(&mut self, now: Now, timeline: TimelineId, start: Lsn) {
        let Some(live) = self.link.live() else { return };
        if let Some(Store { control, .. }) = &mut self.store {
            control.wanted.server_version.clone_from(&live.server_version);
            control.wanted.server_version_num = live.server_version_num;
        }
        let receiver = &self.config.shared.receiver;
        receiver.start_lsn.store(start.0, Ordering::Relaxed);
        receiver.start_tli.store(timeline.to_u32(), Ordering::Relaxed);
        self.link.log_start(timeline, start);
        (self.config.control)(ToControl::Status);
        self.sync.restart_policy();
        self.tell_progress(now);
    }

    pub(super) fn publish_receiver(&self) {
        self.config.shared.receiver.set_state(self.link.receiver_state());
    }

    /// Ends the connection, says why once, and tries again later.
    pub(super) fn end_link<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now, why: LinkEnd) {
        let verified = self.local().map(LocalWal::verified_lsn);
        if !self.link.end(io, now, &self.config.settings, verified, why) {
            return;
        }
        self.publish_received();
        self.publish_receiver();
        (self.config.control)(ToControl::Status);
        self.rewind(io);
    }

    /// Forgets what came after the last valid record: a new connection begins there.
    fn rewind<I: Io<Conn = C>>(&mut self, io: &mut I) {
        // On the way to another timeline it is not yet said which one goes on.
        if self.switch.is_some() {
            return;
        }
        match &mut self.store {
            Some(store) => {
                let slab = self.link.rewind(io, &mut self.jobs, store, &self.disk);
                self.ships.announce(slab);
            }
            None if self.first_contact.is_none() => self.link.forget_rewind(),
            None => {}
        }
    }
}
