//! A simulated standby: receives from a hub, checks every byte, acknowledges, stalls, dies, comes back.

use std::time::Duration;

use walhub_proto::history::TimelineHistory;
use walhub_proto::lsn::{Lsn, LsnRange, TimelineId};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::syncrep::WaitMode;
use walhub_proto::walreceiver::{
    Activity, LocalWal, ReceiverEvent, UpstreamViolation, WalReceiver, WalReceiverConfig,
    WalReceiverState,
};

use crate::io::now;
use crate::net::End;
use crate::primary::Primary;
use crate::rng::{Rng, bytes};
use crate::source::Source;
use crate::world::{Actor, Event, World};

/// How a standby works.
#[derive(Clone, Debug)]
pub(crate) struct StandbyPlan {
    /// Which hub it streams from.
    pub(crate) hub: usize,
    pub(crate) slot: bool,
    /// Nanoseconds from receipt to flush.
    pub(crate) flush_ns: (u64, u64),
    /// After a restart it asks from the start of the segment, as PostgreSQL's walreceiver does.
    pub(crate) whole_segments: bool,
    pub(crate) status_interval: Option<Duration>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retry_ns: u64,
    /// Nanoseconds from flush to replay of one that replays, and tells each position at once.
    pub(crate) apply_ns: Option<(u64, u64)>,
    /// Calls durable what it has received. Outside the fault model.
    pub(crate) lies: bool,
}

#[derive(Debug)]
struct Session {
    end: End,
    receiver: WalReceiver,
    out: Vec<u8>,
    sent: usize,
    timer: u64,
}

/// A simulated standby.
#[derive(Debug)]
pub(crate) struct Standby {
    pub(crate) number: usize,
    pub(crate) plan: StandbyPlan,
    rng: Rng,
    session: Option<Session>,
    /// Received and checked.
    received: Option<(TimelineId, Lsn)>,
    /// Survives its death.
    pub(crate) flushed: Option<(TimelineId, Lsn)>,
    /// The furthest that it ever had durable.
    pub(crate) confirmed: Option<(TimelineId, Lsn)>,
    flush_at: Option<u64>,
    /// Highest position that it ever received.
    received_max: Option<(TimelineId, Lsn)>,
    /// Its WAL beyond this position is not the hub's any more, which has come back in an earlier state.
    abandoned_after: Option<Lsn>,
    applied: Option<(TimelineId, Lsn)>,
    /// When it will have replayed up to a position.
    apply_at: Option<(u64, (TimelineId, Lsn))>,
    pub(crate) down_until: u64,
    /// Whether its slot exists on the hub.
    pub(crate) has_slot: bool,
    /// How often it was made anew because it had WAL that was abandoned.
    pub(crate) rebuilt: u64,
    /// How often it had to begin afresh because WAL was gone.
    pub(crate) removed: u64,
    pub(crate) bytes: u64,
    pub(crate) last_error: String,
}

/// What a standby wants of the world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Want {
    Nothing,
    Connect,
}

impl Standby {
    pub(crate) fn new(number: usize, plan: StandbyPlan, rng: Rng) -> Self {
        Self {
            number,
            plan,
            rng,
            session: None,
            received: None,
            flushed: None,
            confirmed: None,
            flush_at: None,
            received_max: None,
            abandoned_after: None,
            applied: None,
            apply_at: None,
            down_until: 0,
            has_slot: false,
            rebuilt: 0,
            removed: 0,
            bytes: 0,
            last_error: String::new(),
        }
    }

    pub(crate) fn slot_name(&self) -> Option<String> {
        self.plan.slot.then(|| format!("standby_{}", self.number))
    }

    /// Where it stands, for a message.
    pub(crate) fn describe(&self, world: &World) -> String {
        let session = self.session.as_ref().map(|session| {
            format!(
                "{:?} from {} on {}, {} of {} bytes to send, {}",
                session.receiver.state(),
                session.receiver.next_lsn(),
                session.end.conn,
                session.sent,
                session.out.len(),
                world.net.describe(session.end)
            )
        });
        format!(
            "received {:?}, flush at {:?}, down until {}, session {session:?}",
            self.received, self.flush_at, self.down_until
        )
    }

    /// How far it has received, while it streams.
    pub(crate) fn received(&self) -> Option<Lsn> {
        let streams = self
            .session
            .as_ref()
            .is_some_and(|session| session.receiver.state() == WalReceiverState::Streaming);
        self.received.filter(|_| streams).map(|(_, lsn)| lsn)
    }

    /// Whether it has the WAL before `lsn` of the newest timeline, in this mode and whatever it has told.
    pub(crate) fn has(&self, source: &Source, mode: WaitMode, lsn: Lsn) -> bool {
        let reached = match mode {
            // One that is new begins at a position as if it had everything before.
            WaitMode::Write => self.received_max.max(self.flushed),
            WaitMode::Flush => self.flushed,
            WaitMode::Apply => self.applied,
        };
        let current = source.current().tli;
        reached.is_some_and(|(tli, end)| {
            end >= lsn
                && (tli == current || source.has(tli, lsn))
                && self.abandoned_after.is_none_or(|after| lsn <= after)
        })
    }

    /// Whether it has WAL that is not the hub's any more.
    fn is_abandoned(&self, source: &Source) -> bool {
        let newest = self.flushed.max(self.received_max);
        self.abandoned_after.is_some() || newest.is_some_and(|(tli, lsn)| !source.has(tli, lsn))
    }

    /// Its hub has come back in an earlier state, which ends at `end`.
    pub(crate) fn note_abandoned(&mut self, end: Lsn) {
        let positions = [self.flushed, self.received_max, self.received];
        if positions.into_iter().flatten().any(|(_, lsn)| lsn > end) {
            self.abandoned_after = Some(end);
        }
    }

    /// Somebody makes it anew.
    fn rebuild(&mut self) {
        self.rebuilt += 1;
        (self.received, self.received_max, self.flushed) = (None, None, None);
        (self.flush_at, self.applied, self.apply_at) = (None, None, None);
        self.abandoned_after = None;
    }

    /// Tells its positions.
    fn report(&mut self, world: &World) {
        let (Some(session), Some((_, flushed))) = (&mut self.session, self.flushed) else { return };
        if self.plan.apply_ns.is_none() && !self.plan.lies {
            return session.receiver.handle_progress(now(world), flushed, flushed, Lsn::INVALID);
        }
        let received = self.received.map_or(flushed, |(_, lsn)| lsn.max(flushed));
        let flushed = if self.plan.lies { received } else { flushed };
        session.receiver.handle_progress(now(world), received, flushed, lsn_of(self.applied));
    }

    fn apply_soon(&mut self, world: &mut World) {
        if let (Some(range), None) = (self.plan.apply_ns, self.apply_at)
            && self.flushed > self.applied
        {
            let at = world.now + self.rng.log_range(range.0, range.1);
            self.apply_at = self.flushed.map(|flushed| (at, flushed));
            world.at(at, Event::Wake(self.actor(), None));
        }
    }

    fn actor(&self) -> Actor {
        Actor::Standby(self.number)
    }

    /// The connection was made.
    pub(crate) fn connected(
        &mut self,
        world: &mut World,
        end: End,
        size: Option<walhub_proto::segment::SegmentSize>,
    ) {
        let next_lsn = self.flushed.map(|(tli, lsn)| match size {
            Some(size) if self.plan.whole_segments => (tli, size.start_of(lsn)),
            _ => (tli, lsn),
        });
        let local = LocalWal {
            system_identifier: self.flushed.map(|_| crate::source::SYSTEM),
            segment_size: None,
            timeline: next_lsn.map(|(tli, _)| tli),
            next_lsn: next_lsn.map(|(_, lsn)| lsn),
        };
        let config = WalReceiverConfig {
            slot_name: self.slot_name(),
            slot_create: self.plan.slot,
            status_interval: self.plan.status_interval,
            timeout: self.plan.timeout,
            hot_standby_feedback: false,
        };
        self.received = next_lsn;
        let mut receiver = WalReceiver::new(config, now(world), local, 150_018);
        if let Some((_, lsn)) = self.flushed {
            receiver.handle_progress(now(world), lsn, lsn, lsn_of(self.applied));
        }
        self.session = Some(Session { end, receiver, out: Vec::new(), sent: 0, timer: 0 });
        self.pump(world);
    }

    pub(crate) fn end(&self) -> Option<End> {
        self.session.as_ref().map(|session| session.end)
    }

    /// Ends its connection; `reset`: without a word to read the rest.
    pub(crate) fn disconnect(&mut self, world: &mut World, reset: bool, retry_ns: u64) {
        if let Some(session) = self.session.take() {
            if reset {
                world.net.reset(world.now, session.end.conn);
            }
            world.net.close(world.now, session.end);
        }
        self.down_until = self.down_until.max(world.now + retry_ns);
        world.at(self.down_until, Event::Wake(self.actor(), None));
    }

    /// The standby dies, and comes back with what it had flushed.
    pub(crate) fn die(&mut self, world: &mut World, down_ns: u64) {
        self.flush_at = None;
        self.disconnect(world, true, down_ns);
    }

    pub(crate) fn wake(
        &mut self,
        world: &mut World,
        end: Option<End>,
        primary: &Primary,
    ) -> Result<Want, String> {
        if self.flush_at.is_some_and(|at| at <= world.now) {
            self.flush_at = None;
            // What comes again after a restart is older than what is durable.
            let newer = |received: &(TimelineId, Lsn)| {
                self.flushed.is_none_or(|flushed| *received >= flushed)
            };
            self.flushed = self.received.filter(newer).or(self.flushed);
            self.confirmed = self.confirmed.max(self.flushed);
            self.report(world);
            self.apply_soon(world);
        }
        if let Some((_, lsn)) = self.apply_at.filter(|(at, _)| *at <= world.now) {
            self.apply_at = None;
            self.applied = Some(lsn);
            self.report(world);
            self.apply_soon(world);
        }
        if self.session.is_none() {
            let due = world.now >= self.down_until;
            return Ok(if due { Want::Connect } else { Want::Nothing });
        }
        if end.is_some() && end != self.end() {
            return Ok(Want::Nothing);
        }
        self.receive(world, primary)?;
        if let Some(session) = &mut self.session
            && let Err(violation) = session.receiver.handle_timeout(now(world))
        {
            self.last_error = violation.to_string();
            self.disconnect(world, false, self.plan.retry_ns);
        }
        self.pump(world);
        Ok(Want::Nothing)
    }

    fn receive(&mut self, world: &mut World, primary: &Primary) -> Result<(), String> {
        while let Some(session) = &mut self.session {
            let data = match world.net.take(world.now, session.end, 1 << 18) {
                None => return Ok(()),
                Some(Ok(data)) if !data.is_empty() => data,
                Some(_) => {
                    self.last_error = "connection closed".to_owned();
                    self.disconnect(world, false, self.plan.retry_ns);
                    return Ok(());
                }
            };
            let mut rest = data.as_slice();
            while let Some(session) = &mut self.session {
                match session.receiver.handle_bytes(now(world), &mut rest) {
                    Ok(None) => break,
                    Ok(Some(event)) => {
                        let tli = session.receiver.timeline();
                        let slot = (&mut self.has_slot, self.plan.slot);
                        handle_event(self.number, &mut self.received, slot, tli, &event, primary)?;
                        if let ReceiverEvent::Started { timeline, start } = event
                            && self.flushed.is_none()
                        {
                            self.flushed = Some((timeline, start));
                            self.confirmed = self.confirmed.max(self.flushed);
                            if self.plan.apply_ns.is_some() {
                                // As a base backup is that was taken here.
                                self.applied = self.flushed;
                            }
                            let applied = lsn_of(self.applied);
                            session.receiver.handle_progress(now(world), start, start, applied);
                        }
                        if let ReceiverEvent::Wal { bytes: wal, .. } = event {
                            self.bytes += bytes(wal.len());
                            self.received_max = self.received_max.max(self.received);
                            if self.plan.apply_ns.is_some() || self.plan.lies {
                                self.report(world);
                            }
                            self.flush_soon(world);
                        }
                    }
                    Err(violation) => {
                        self.handle_violation(world, &violation, &primary.source)?;
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn flush_soon(&mut self, world: &mut World) {
        if self.flush_at.is_none() {
            let at = world.now + self.rng.log_range(self.plan.flush_ns.0, self.plan.flush_ns.1);
            self.flush_at = Some(at);
            world.at(at, Event::Wake(self.actor(), None));
        }
    }

    fn handle_violation(
        &mut self,
        world: &mut World,
        violation: &UpstreamViolation,
        source: &Source,
    ) -> Result<(), String> {
        self.last_error = format!("{violation}");
        match violation {
            refusal if is_of_history(refusal) => {
                if !self.is_abandoned(source) {
                    return Err(format!(
                        "standby {} has flushed {:?}, which the hub's WAL goes on from, yet: {violation}",
                        self.number, self.flushed
                    ));
                }
                self.rebuild();
            }
            UpstreamViolation::Server {
                during: Activity::StartReplication | Activity::Streaming,
                error,
            } if error.is_wal_removed() => {
                if self.has_slot && self.flushed.is_some() {
                    return Err(format!(
                        "standby {} streams from a slot and has flushed {:?}, yet: {}",
                        self.number, self.flushed, error.message
                    ));
                }
                self.removed += 1;
                self.received = None;
                self.flushed = None;
                self.flush_at = None;
            }
            UpstreamViolation::Server { error, .. } => {
                // An invalidated slot is of no more use; PostgreSQL's administrator would drop it.
                if error.is(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE)
                    && error.message.starts_with("can no longer")
                {
                    self.removed += 1;
                    self.plan.slot = false;
                    self.has_slot = false;
                }
            }
            UpstreamViolation::Terminated { .. } | UpstreamViolation::Timeout => {}
            other => {
                return Err(format!(
                    "standby {}: the hub broke the protocol: {other:?}: {other}",
                    self.number
                ));
            }
        }
        self.disconnect(world, false, self.plan.retry_ns);
        Ok(())
    }

    fn pump(&mut self, world: &mut World) {
        let time = now(world);
        loop {
            let Some(session) = &mut self.session else { return };
            if session.sent == session.out.len() {
                let Some(more) = session.receiver.poll_transmit(time) else { break };
                session.out = more;
                session.sent = 0;
            }
            match world.net.send(world.now, session.end, &session.out[session.sent..]) {
                None => return self.disconnect(world, false, self.plan.retry_ns),
                Some(0) => return,
                Some(count) => session.sent += count,
            }
        }
        let actor = self.actor();
        let Some(session) = &mut self.session else { return };
        let overdue = world.now + 1_000_000;
        if let Some(at) = session.receiver.poll_timeout().map(|at| at.0.max(overdue))
            && (session.timer <= world.now || at < session.timer)
        {
            session.timer = at;
            let end = session.end;
            world.at(session.timer, Event::Wake(actor, Some(end)));
        }
    }
}

fn lsn_of(position: Option<(TimelineId, Lsn)>) -> Lsn {
    position.map(|(_, lsn)| lsn).unwrap_or_default()
}

/// Whether the upstream says that the standby's WAL is not of its history.
fn is_of_history(violation: &UpstreamViolation) -> bool {
    let words = ["is not in this server's history", "ahead of the WAL flush position"];
    match violation {
        UpstreamViolation::ForkedBehind { .. } => true,
        UpstreamViolation::Server { error, .. } => {
            words.iter().any(|words| error.message.contains(words))
        }
        _ => false,
    }
}

fn handle_event(
    number: usize,
    received: &mut Option<(TimelineId, Lsn)>,
    (has_slot, uses_slot): (&mut bool, bool),
    tli: TimelineId,
    event: &ReceiverEvent<'_>,
    primary: &Primary,
) -> Result<(), String> {
    match event {
        ReceiverEvent::Wal { start, bytes: wal } => {
            let range = LsnRange::new(*start, *start + bytes(wal.len()));
            match primary.flushed(tli, range) {
                None => {
                    return Err(format!(
                        "standby {number} received {range:?} of timeline {tli}, which the primary has not made durable"
                    ));
                }
                Some(truth) if truth != *wal => {
                    let at = truth.iter().zip(*wal).position(|(a, b)| a != b).unwrap_or(0);
                    return Err(format!(
                        "standby {number} received bytes on timeline {tli} that differ from the primary's at {}",
                        *start + bytes(at)
                    ));
                }
                Some(_) => {}
            }
            *received = Some((tli, range.end));
        }
        ReceiverEvent::Started { start, timeline } => {
            *has_slot |= uses_slot;
            *received = Some((*timeline, *start));
        }
        ReceiverEvent::SlotCreated => *has_slot = true,
        ReceiverEvent::EndOfTimeline { next, switchpoint } => {
            let truth = primary.source.timeline(*next).map(|timeline| timeline.begin);
            if truth != Some(*switchpoint) {
                return Err(format!(
                    "standby {number} was told that timeline {next} begins at {switchpoint}, in truth {truth:?}"
                ));
            }
        }
        ReceiverEvent::TimelineHistory { timeline, content } => {
            let truth = primary.source.history_of(*timeline);
            // A promotion that a crash broke off has left the history of a timeline that never was.
            let never_was = truth.is_none() && TimelineHistory::parse(content, *timeline).is_ok();
            let truth = truth.as_ref().map(TimelineHistory::content);
            if !never_was && truth != Some(content.as_slice()) {
                return Err(format!(
                    "standby {number} received a wrong history file of timeline {timeline}"
                ));
            }
        }
        // The primary has them all.
        ReceiverEvent::HistoryAbsent { timeline, reason } => {
            return Err(format!("standby {number} asked for timeline {timeline}: {reason}"));
        }
        ReceiverEvent::Identified { .. }
        | ReceiverEvent::SegmentSize(_)
        | ReceiverEvent::Told { .. } => {}
    }
    Ok(())
}
