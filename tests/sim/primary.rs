//! The simulated primary: makes WAL, flushes it now and then, and sends it as a walsender does.

use std::collections::BTreeMap;
use std::time::Duration;

use walhub_proto::command::Command;
use walhub_proto::lsn::{Lsn, LsnRange, TimelineId};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::walsender::{SenderEvent, Transmit, WalSender, WalSenderConfig};
use walhub_proto::wire::backend::Report;

use crate::answers::{self, Asked, Talk};
use crate::io::now;
use crate::net::End;
use crate::rng::{Rng, bytes, size};
use crate::source::Source;
use crate::world::{Actor, Event, World};

/// From when on it is looked at how long a hub takes nothing: before, its first segment is being made.
const STALLS_FROM_NS: u64 = 3_000_000_000;

/// How the primary works.
#[derive(Clone, Debug)]
pub(crate) struct PrimaryPlan {
    /// Nanoseconds between two bursts.
    pub(crate) pause_ns: (u64, u64),
    /// Bytes of a burst.
    pub(crate) burst: (u64, u64),
    /// All WAL that is made.
    pub(crate) total: u64,
    /// Bursts that end a segment, in cases of a thousand.
    pub(crate) switch: u64,
    pub(crate) message_bytes_max: u64,
    pub(crate) timeout: Option<Duration>,
    /// Bytes damaged on the way, in messages of a thousand. Outside the fault model.
    pub(crate) flip: u64,
}

#[derive(Debug)]
struct Streaming {
    sender: WalSender,
    tli: TimelineId,
    slot: Option<String>,
    /// A transmit is not with the kernel yet.
    outstanding: bool,
}

#[derive(Debug)]
struct Session {
    /// The hub at the other end.
    hub: usize,
    talk: Talk,
    streaming: Option<Streaming>,
    timer: u64,
    /// Bytes that the hub does not take, and since when.
    stalled: Option<(usize, u64)>,
}

/// The simulated primary.
#[derive(Debug)]
pub(crate) struct Primary {
    pub(crate) source: Source,
    pub(crate) plan: PrimaryPlan,
    rng: Rng,
    made: u64,
    pub(crate) down_until: u64,
    sessions: BTreeMap<End, Session>,
    slots: BTreeMap<String, Lsn>,
    next_burst: u64,
    /// Highest flush position that each hub acknowledged.
    pub(crate) acknowledged: BTreeMap<usize, Lsn>,
    /// What hubs have told since it was last looked at: which hub, flushed on which timeline.
    pub(crate) told: Vec<(usize, TimelineId, Lsn)>,
    /// How many bytes were damaged.
    pub(crate) flipped: u64,
    /// No more WAL is made.
    pub(crate) quiet: bool,
    /// The longest time for which a hub took nothing of what there was for it.
    pub(crate) stalled_ns: u64,
}

impl Primary {
    pub(crate) fn new(source: Source, plan: PrimaryPlan, rng: Rng) -> Self {
        Self {
            source,
            plan,
            rng,
            made: 0,
            down_until: 0,
            sessions: BTreeMap::new(),
            slots: BTreeMap::new(),
            next_burst: 0,
            acknowledged: BTreeMap::new(),
            told: Vec::new(),
            flipped: 0,
            quiet: false,
            stalled_ns: 0,
        }
    }

    pub(crate) fn accept(&mut self, end: End, hub: usize) {
        self.sessions.insert(
            end,
            Session { hub, talk: Talk::default(), streaming: None, timer: 0, stalled: None },
        );
    }

    /// All connections end; with `promoted` a new primary comes.
    pub(crate) fn restart(&mut self, world: &mut World, down_ns: u64, promoted: bool) {
        self.down_until = world.now + down_ns;
        for (end, _) in std::mem::take(&mut self.sessions) {
            world.net.reset(world.now, end.conn);
            world.net.close(world.now, end);
        }
        if promoted {
            self.source.promote();
        } else {
            self.source.lose_unflushed();
        }
    }

    /// The server goes over to a new timeline with its sessions alive, as a cascading standby does.
    pub(crate) fn switch_timeline(&mut self, world: &mut World) {
        let old = self.source.current().tli;
        self.source.promote();
        let switchpoint = self.source.current().begin;
        let ends: Vec<End> = self.sessions.keys().copied().collect();
        for end in ends {
            if let Some(Session { streaming: Some(streaming), .. }) = self.sessions.get_mut(&end)
                && streaming.tli == old
            {
                streaming.sender.handle_timeline_end(now(world), switchpoint);
            }
            self.pump(world, end);
        }
    }

    /// Makes WAL when it is time to, and serves `end`.
    pub(crate) fn wake(&mut self, world: &mut World, end: Option<End>) -> Result<(), String> {
        if let Some(end) = end {
            return self.serve(world, end);
        }
        if world.now >= self.next_burst {
            self.next_burst =
                world.now + self.rng.log_range(self.plan.pause_ns.0, self.plan.pause_ns.1);
            world.at(self.next_burst, Event::Wake(Actor::Primary, None));
            if world.now >= self.down_until {
                self.burst();
                self.pump_all(world);
            }
        }
        Ok(())
    }

    fn burst(&mut self) {
        if self.made < self.plan.total && !self.quiet {
            let count = self.rng.log_range(self.plan.burst.0, self.plan.burst.1);
            let before = self.source.current().end();
            self.source.generate(count);
            if self.rng.chance(self.plan.switch) {
                self.source.switch_segment();
            }
            self.made += self.source.current().end() - before;
        }
        if self.quiet || self.rng.chance(500) {
            self.source.flush_all();
        } else {
            self.source.flush_some();
        }
    }

    pub(crate) fn pump_all(&mut self, world: &mut World) {
        let ends: Vec<End> = self.sessions.keys().copied().collect();
        for end in ends {
            self.pump(world, end);
        }
    }

    /// Reads and answers.
    fn serve(&mut self, world: &mut World, end: End) -> Result<(), String> {
        while let Some(session) = self.sessions.get_mut(&end) {
            match world.net.take(world.now, end, 4096) {
                None => break,
                Some(Ok(data)) if !data.is_empty() => session.talk.input.extend(data),
                Some(_) => {
                    self.hang_up(world, end);
                    break;
                }
            }
            self.read(world, end)?;
        }
        self.pump(world, end);
        Ok(())
    }

    fn hang_up(&mut self, world: &mut World, end: End) {
        self.sessions.remove(&end);
        world.net.close(world.now, end);
    }

    fn read(&mut self, world: &mut World, end: End) -> Result<(), String> {
        loop {
            let Some(session) = self.sessions.get_mut(&end) else { return Ok(()) };
            if let Some(streaming) = &mut session.streaming {
                let before = session.talk.input.len();
                let mut rest = session.talk.input.as_slice();
                let event = streaming.sender.handle_bytes(now(world), &mut rest);
                let taken = before - rest.len();
                session.talk.input.drain(..taken);
                match event {
                    Err(violation) => {
                        return Err(format!(
                            "the hub broke the protocol towards its upstream: {violation:?}"
                        ));
                    }
                    Ok(Some(SenderEvent::Status(status))) => self.note_status(end, status)?,
                    Ok(Some(SenderEvent::StreamEnded)) => self.end_stream(end),
                    Ok(Some(SenderEvent::Terminated)) => {
                        self.hang_up(world, end);
                        return Ok(());
                    }
                    Ok(Some(SenderEvent::Feedback(_))) => {}
                    Ok(None) => return Ok(()),
                }
            } else {
                match session.talk.next() {
                    None => return Ok(()),
                    Some(Asked::Goodbye) => {
                        self.hang_up(world, end);
                        return Ok(());
                    }
                    Some(Asked::Command(command)) => self.command(world, end, command),
                }
            }
        }
    }

    fn note_status(
        &mut self,
        end: End,
        status: walhub_proto::wire::copy::StandbyStatusUpdate,
    ) -> Result<(), String> {
        let Some(session) = self.sessions.get(&end) else { return Ok(()) };
        let hub = session.hub;
        let sent =
            session.streaming.as_ref().map(|streaming| (streaming.tli, streaming.slot.clone()));
        if status.flush > status.write {
            return Err(format!(
                "hub {hub} acknowledged flush {} past write {}",
                status.flush, status.write
            ));
        }
        if status.apply.is_valid() {
            return Err(format!(
                "hub {hub} acknowledged apply {}: it replays nothing",
                status.apply
            ));
        }
        let end_lsn = self.source.current().end();
        if status.write > end_lsn {
            return Err(format!(
                "hub {hub} acknowledged write {} past the end of all WAL {end_lsn}",
                status.write
            ));
        }
        let acknowledged = self.acknowledged.entry(hub).or_default();
        *acknowledged = (*acknowledged).max(status.flush);
        if let Some((tli, _)) = &sent {
            self.told.push((hub, *tli, status.flush));
        }
        if let Some((_, Some(slot))) = sent
            && status.flush.is_valid()
        {
            self.slots.insert(slot, status.flush);
        }
        Ok(())
    }

    fn end_stream(&mut self, end: End) {
        let Some(session) = self.sessions.get_mut(&end) else { return };
        let Some(streaming) = session.streaming.take() else { return };
        let next = self.source.history.switchpoint(streaming.tli).map(|(lsn, tli)| (tli, lsn));
        session.talk.answer(|out| answers::stream_ended(out, next));
    }

    fn command(&mut self, world: &World, end: End, command: Command) {
        let Some(session) = self.sessions.get_mut(&end) else { return };
        let talk = &mut session.talk;
        let current = self.source.current();
        match command {
            Command::IdentifySystem => {
                talk.answer(|out| answers::identify(out, current.tli, current.flush_lsn))
            }
            Command::Show { name } => {
                talk.answer(|out| answers::show(out, &name, &self.source.size.to_string()))
            }
            Command::TimelineHistory { timeline } => {
                let history = self.source.history_of(timeline);
                let content = Ok(history.map(|history| history.content().to_vec()));
                talk.answer(|out| answers::history(out, timeline, &content));
            }
            Command::ReadReplicationSlot { slot } => {
                let slot = self
                    .slots
                    .get(&slot)
                    .map(|lsn| (Some(*lsn), Some(self.source.history.timeline_of(*lsn))));
                talk.answer(|out| answers::read_slot(out, slot));
            }
            Command::CreateReplicationSlot { slot, .. } => {
                // PostgreSQL reserves from the last checkpoint's redo position.
                let begin = self.source.timelines[0].begin;
                let reserved = self.source.size.start_of(current.flush_lsn).max(begin);
                self.slots.entry(slot.clone()).or_insert(reserved);
                talk.answer(|out| answers::created_slot(out, &slot));
            }
            Command::StartReplication { slot, start, timeline } => {
                let tli = timeline.unwrap_or(current.tli);
                let switchpoint = self.source.history.switchpoint(tli).map(|(lsn, _)| lsn);
                let end_of_timeline = switchpoint.unwrap_or(current.flush_lsn);
                if start > end_of_timeline {
                    let text = format!(
                        "requested starting point {start} is ahead of the WAL flush position of this server {end_of_timeline}"
                    );
                    talk.answer(|out| {
                        out.report(&Report::error(SqlState::INTERNAL_ERROR, text))
                            .ready_for_query(b'I');
                    });
                    return;
                }
                if switchpoint == Some(start) {
                    let next = self.source.history.switchpoint(tli).map(|(lsn, tli)| (tli, lsn));
                    return talk.answer(|out| answers::stream_ended(out, next));
                }
                let config = WalSenderConfig {
                    timeout: self.plan.timeout,
                    message_bytes_max: self.plan.message_bytes_max,
                };
                talk.answer(|out| {
                    out.copy_both_response();
                });
                let sender = WalSender::new(config, now(world), start, switchpoint);
                session.streaming = Some(Streaming { sender, tli, slot, outstanding: false });
            }
            other => panic!("a hub sent {other:?}"),
        }
    }

    /// Sends what can be sent.
    fn pump(&mut self, world: &mut World, end: End) {
        let time = now(world);
        loop {
            let Some(session) = self.sessions.get_mut(&end) else { return };
            let flushed = session.talk.flush(world.now, &mut world.net, end);
            let unsent = session.talk.unsent();
            if let Some((_, since)) = session.stalled.filter(|(before, _)| *before != unsent) {
                session.stalled = None;
                if since > STALLS_FROM_NS {
                    self.stalled_ns = self.stalled_ns.max(world.now - since);
                }
            }
            match flushed {
                None => return self.hang_up(world, end),
                Some(false) => {
                    session.stalled.get_or_insert((unsent, world.now));
                    return self.arm(world, end);
                }
                Some(true) => {}
            }
            let Some(streaming) = &mut session.streaming else { return };
            if std::mem::take(&mut streaming.outstanding)
                && streaming.sender.handle_sent(time).is_some()
            {
                self.end_stream(end);
                continue;
            }
            streaming.sender.handle_timeout(time);
            if streaming.sender.is_timed_out() {
                return self.hang_up(world, end);
            }
            let timeline =
                self.source.timeline(streaming.tli).expect("a timeline that was asked for");
            streaming.sender.handle_sendable(time, timeline.flush_lsn);
            match streaming.sender.poll_transmit(time) {
                None => return self.arm(world, end),
                Some(Transmit::Message(message)) => session.talk.queue(&message),
                Some(Transmit::Wal { header, range }) => {
                    session.talk.queue(&header);
                    let flip = self.rng.chance(self.plan.flip);
                    let wal = timeline.get(range).expect("the timeline has what it sends");
                    self.flipped +=
                        u64::from(flip && queue_damaged(&mut session.talk, wal, &mut self.rng));
                    if !flip {
                        session.talk.queue(wal);
                    }
                }
            }
            streaming.outstanding = true;
        }
    }

    fn arm(&mut self, world: &mut World, end: End) {
        let Some(session) = self.sessions.get_mut(&end) else { return };
        let Some(at) =
            session.streaming.as_ref().and_then(|streaming| streaming.sender.poll_timeout())
        else {
            return;
        };
        // What is overdue is looked at once a millisecond, however many events ask for it.
        let at = at.0.max(world.now + 1_000_000);
        if session.timer <= world.now || at < session.timer {
            session.timer = at;
            world.at(session.timer, Event::Wake(Actor::Primary, Some(end)));
        }
    }

    /// The bytes of a range of a timeline that exist and were durable.
    pub(crate) fn flushed(&self, tli: TimelineId, range: LsnRange) -> Option<&[u8]> {
        let timeline = self.source.timeline(tli)?;
        if range.end > timeline.flush_lsn {
            return None;
        }
        timeline.get(range)
    }
}

/// Queues `wal` with one bit wrong; false when there is no byte whose damage must be noticed.
fn queue_damaged(talk: &mut Talk, wal: &[u8], rng: &mut Rng) -> bool {
    let mut wal = wal.to_vec();
    let at = size(rng.below(bytes(wal.len())));
    // Zeros may be filling between records, which no checksum covers.
    let found = wal.iter().skip(at).position(|&byte| byte != 0);
    if let Some(found) = found {
        wal[at + found] ^= 1 << rng.below(8);
    }
    talk.queue(&wal);
    found.is_some()
}
