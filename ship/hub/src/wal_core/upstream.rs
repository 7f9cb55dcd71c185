//! The wal core's connection to the upstream: bytes in, events acted on, replies out.
//!
//! Not here: the replication protocol (`walhub_proto::walreceiver`), connecting (the control plane).
//!
//! PostgreSQL: `WalReceiverMain`, `WaitForWALToBecomeAvailable`.

use std::io;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use walhub_engine::buffer::SlabRoom;
use walhub_engine::io::{Done, Gather, Head, Io, Op, Scatter, Scattered, SocketId, Waker};
use walhub_proto::feedback::Horizons;
use walhub_proto::lsn::{Lsn, LsnRange, SystemIdentifier, TimelineId};
use walhub_proto::segment::SegmentSize;
use walhub_proto::time::{Instant, Now};
use walhub_proto::walreceiver::{
    LocalWal as LocalState, ReceiverEvent, UpstreamViolation, WalReceiver, WalReceiverConfig,
    WalReceiverState,
};

use super::timeline::reader_at;
use super::trouble::{FAULTS_MAX, Fault, RETRY_PAUSE_MAX, Trouble};
use super::{LINK_RECV, LINK_SEND, Stopping, Store, WalCore};
use crate::api::settings::HubSettings;
use crate::mail::{ToControl, Upstream};
use crate::publish::front::micros_between;
use crate::publish::latency::Stage;
use crate::role::Role;
use crate::store::jobs::Finished;
use crate::store::local::{AppendError, LocalWal};
use crate::store::segments::FileJob;
use crate::store::tail::TruncateError;

/// WAL of messages that are at least so long is received where it belongs. Of shorter ones several come
/// with one receive, and what is between them has to be taken out.
const LANDING_MESSAGE_LEN_MIN: usize = 16 << 10;
/// WAL that is received in place after the next header, at most: a walsender's whole message.
/// PostgreSQL: `MAX_SEND_SIZE`.
const LANDING_LEN: usize = 128 << 10;
/// The connection to the upstream.
#[derive(Debug)]
pub(super) struct Link<C> {
    pub(super) state: State,
    pub(super) attempt: Attempt,
    /// Why there is no stream.
    pub(super) trouble: Trouble,
    /// Where the last stream began.
    pub(super) last_start: Option<(Lsn, TimelineId)>,
    /// What was received after the last valid record must be forgotten before connecting again.
    pub(super) rewind: bool,
    /// The block in which that record ends, when it is needed from the disk.
    pub(super) block: Block,
    /// There was a reload since the attempt that is under way began: it is begun again.
    pub(super) outdated: bool,
    pub(super) marker: std::marker::PhantomData<fn(C)>,
}

/// What the control plane does for us: it answers each attempt once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Attempt {
    None,
    UnderWay,
    /// It was told to give it up, and has not answered yet.
    GivenUp,
}

#[derive(Debug)]
pub(super) enum State {
    /// No upstream.
    Off,
    Waiting {
        until: Instant,
    },
    Connecting,
    Live(Box<Live>),
    /// The socket is shut down; what is under way completes.
    Closing {
        socket: SocketId,
        receiving: bool,
        sending: bool,
        retry_at: Option<Instant>,
    },
}

/// A part of a block that is on disk only.
#[derive(Debug)]
pub(super) enum Block {
    Unwanted,
    Reading(LsnRange),
    /// The block, from the range's start on.
    Read(LsnRange, Vec<u8>),
}

#[derive(Debug)]
pub(super) struct Live {
    pub(super) socket: SocketId,
    pub(super) receiver: WalReceiver,
    pub(super) receiving: bool,
    pub(super) sending: Option<(Bytes, usize)>,
    /// Received bytes that wait for room or for a timeline's last flush.
    pub(super) held: Bytes,
    /// Between two timelines: where the old one ends. Nothing is taken before it is durable.
    pub(super) switchpoint: Option<Lsn>,
    pub(super) server_version: String,
    pub(super) server_version_num: u32,
    pub(super) identified: Option<SystemIdentifier>,
    pub(super) segment_size: Option<SegmentSize>,
}

/// Why a connection ends.
pub(super) enum Drop {
    /// The network, an upstream that is about to go or to come, or this server.
    Reason { text: String, detail: Option<String>, hint: Option<String> },
    /// The upstream is there, and what it says will not do.
    Refused { text: String, detail: Option<String>, hint: Option<String> },
    /// The upstream stops in order, and will be back.
    Orderly { text: String, detail: Option<String> },
    /// The upstream stops, and waits for what it cannot be told.
    Leave,
    /// WAL that is not valid.
    BadWal(String),
}

impl From<UpstreamViolation> for Drop {
    fn from(violation: UpstreamViolation) -> Self {
        let (text, detail, hint) = (violation.to_string(), violation.detail(), violation.hint());
        match violation {
            UpstreamViolation::Terminated { .. } => Self::Orderly { text, detail },
            violation if violation.is_passing() => Self::Reason { text, detail, hint },
            _ => Self::Refused { text, detail, hint },
        }
    }
}

impl<C> Link<C> {
    pub(super) fn new() -> Self {
        Self {
            state: State::Waiting { until: Instant(0) },
            attempt: Attempt::None,
            trouble: Trouble::default(),
            last_start: None,
            rewind: false,
            block: Block::Unwanted,
            outdated: false,
            marker: std::marker::PhantomData,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Off | State::Connecting | State::Closing { .. } => None,
            // Going back waits for a write or a segment; their completions are turns, too.
            State::Waiting { .. } if self.rewind => None,
            // So is the answer to an attempt that was given up.
            State::Waiting { .. } if self.attempt != Attempt::None => None,
            State::Waiting { until } => Some(*until),
            State::Live(live) => live.receiver.poll_timeout(),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        !matches!(self.state, State::Live(_) | State::Closing { .. })
    }

    /// The control plane could not connect.
    pub(super) fn fail(
        &mut self,
        now: Now,
        settings: &HubSettings,
        reason: &str,
        fault: Fault,
        verified: Option<Lsn>,
    ) {
        self.attempt = Attempt::None;
        if !matches!(self.state, State::Connecting) {
            return;
        }
        if std::mem::take(&mut self.outdated) {
            self.state = State::Waiting { until: now.instant };
            return;
        }
        self.log_once(reason, None, None, fault, verified);
        let until = now.instant + self.trouble.pause(settings.wal_retrieve_retry_interval);
        self.state = State::Waiting { until };
    }

    fn log_once(
        &mut self,
        reason: &str,
        detail: Option<&str>,
        hint: Option<&str>,
        fault: Fault,
        verified: Option<Lsn>,
    ) {
        if self.trouble.note(reason, fault, verified) {
            tracing::error!(detail, hint, "{reason}");
        }
    }

    /// The attempt that nobody wants any more, if there is one: it is given up now.
    fn take_unwanted_attempt(&mut self) -> bool {
        let is_wanted = matches!(self.state, State::Connecting) && !self.outdated;
        if is_wanted || self.attempt != Attempt::UnderWay {
            return false;
        }
        self.attempt = Attempt::GivenUp;
        true
    }

    /// Ends receiving for good: the last status and Terminate are sent, then the socket goes.
    pub(super) fn stop<I: Io>(&mut self, io: &mut I, now: Now) {
        self.leave(io, now, None);
    }

    /// The same, until `retry_at`.
    fn leave<I: Io>(&mut self, io: &mut I, now: Now, retry_at: Option<Instant>) {
        match &mut self.state {
            State::Live(live) => {
                let (socket, receiving) = (live.socket, live.receiving);
                let farewell = if live.sending.is_none() {
                    live.receiver.stop(now);
                    live.receiver.poll_transmit(now)
                } else {
                    None
                };
                if let Some(bytes) = farewell {
                    let body = Gather::from_iter([Bytes::from(bytes)]);
                    io.submit(LINK_SEND, Op::Send { socket, head: Head::new(&[]), body });
                    self.state = State::Closing { socket, receiving, sending: true, retry_at };
                } else {
                    let sending = live.sending.is_some();
                    io.shutdown(socket);
                    self.state = State::Closing { socket, receiving, sending, retry_at };
                }
                self.finish_closing(io);
            }
            State::Closing { retry_at: after, .. } => *after = retry_at,
            State::Off | State::Waiting { .. } | State::Connecting => self.state = State::Off,
        }
    }

    fn finish_closing<I: Io>(&mut self, io: &mut I) {
        if let State::Closing { socket, receiving: false, sending: false, retry_at } = self.state {
            io.close_socket(socket);
            self.state = retry_at.map_or(State::Off, |until| State::Waiting { until });
        }
    }

    pub(super) fn settings_changed<I: Io>(
        &mut self,
        io: &mut I,
        now: Now,
        old: &HubSettings,
        new: &HubSettings,
    ) {
        let elsewhere = old.primary_conninfo != new.primary_conninfo
            || old.primary_slot_name != new.primary_slot_name
            || old.primary_slot_create != new.primary_slot_create;
        match &mut self.state {
            State::Live(live) if !elsewhere => live.receiver.set_config(now, receiver_config(new)),
            State::Live(live) => {
                tracing::info!("WAL receiver process shutdown requested");
                let (socket, receiving, sending) =
                    (live.socket, live.receiving, live.sending.is_some());
                io.shutdown(socket);
                self.rewind = true;
                self.state =
                    State::Closing { socket, receiving, sending, retry_at: Some(now.instant) };
                self.finish_closing(io);
            }
            // A reload is also how the operator says "try again".
            State::Off | State::Waiting { .. } => {
                self.trouble.forget();
                self.state = State::Waiting { until: now.instant };
            }
            // So this attempt, which may be one that nobody answers, is given up.
            State::Connecting => {
                self.trouble.forget();
                self.outdated = true;
            }
            State::Closing { retry_at, .. } => {
                self.trouble.forget();
                if let Some(at) = retry_at {
                    *at = now.instant;
                }
            }
        }
    }
}

fn receiver_config(settings: &HubSettings) -> WalReceiverConfig {
    WalReceiverConfig {
        slot_name: settings.primary_slot_name.clone(),
        slot_create: settings.primary_slot_create,
        status_interval: settings.wal_receiver_status_interval,
        timeout: settings.wal_receiver_timeout,
        hot_standby_feedback: settings.hot_standby_feedback,
    }
}

impl<C: Send + 'static, W: Waker> WalCore<C, W> {
    /// Connects, keeps time, replies.
    pub(super) fn turn_link<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        self.rewind_when_idle(io);
        if self.link.take_unwanted_attempt() {
            (self.config.control)(ToControl::GiveUpConnecting);
        }
        if self.stopping != Stopping::No {
            return;
        }
        // Where the next connection begins is not known before.
        let is_settled = !self.link.rewind && self.switch.is_none() && !self.must_wait_for_files();
        match &mut self.link.state {
            State::Waiting { until }
                if *until <= now.instant && is_settled && self.link.attempt == Attempt::None =>
            {
                let conninfo = self.config.settings.primary_conninfo.clone();
                // A primary keeps to its own WAL, whatever a reload says. PostgreSQL: primary_conninfo is
                // of no effect on a server that is no standby.
                if conninfo.is_empty() || self.duty.role() != Role::Relay {
                    self.link.state = State::Off;
                } else {
                    self.link.state = State::Connecting;
                    self.link.attempt = Attempt::UnderWay;
                    (self.config.control)(ToControl::Connect { conninfo });
                }
            }
            State::Live(live) => {
                if !live.held.is_empty() {
                    live.receiver.handle_backpressure(now);
                }
                if let Err(violation) = live.receiver.handle_timeout(now) {
                    return self.drop_link(io, now, violation.into());
                }
                self.reply(io, now);
                self.resume_receiving(io, now);
            }
            State::Off | State::Waiting { .. } | State::Connecting | State::Closing { .. } => {}
        }
    }

    pub(super) fn handle_connected<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        upstream: Upstream<C>,
    ) {
        let socket = io.adopt(upstream.conn);
        self.link.attempt = Attempt::None;
        if !matches!(self.link.state, State::Connecting) || self.stopping != Stopping::No {
            return io.close_socket(socket);
        }
        if std::mem::take(&mut self.link.outdated) {
            self.link.state = State::Waiting { until: now.instant };
            return io.close_socket(socket);
        }
        let local = LocalState {
            system_identifier: self.control_file().map(|control| control.wanted.system_identifier),
            segment_size: self.control_file().map(|control| control.wanted.segment_size),
            timeline: self.timelines().map(|timelines| timelines.current),
            next_lsn: self.local().map(LocalWal::received_lsn),
        };
        let config = receiver_config(&self.config.settings);
        let receiver = WalReceiver::new(config, now, local, upstream.server_version_num);
        self.link.state = State::Live(Box::new(Live {
            socket,
            receiver,
            receiving: false,
            sending: None,
            held: Bytes::from(upstream.unread),
            switchpoint: None,
            server_version: upstream.server_version,
            server_version_num: upstream.server_version_num,
            identified: None,
            segment_size: None,
        }));
        self.publish_receiver();
        self.acknowledge(io, now);
        self.resume_receiving(io, now);
    }

    /// Tells the upstream how far the WAL is safe.
    pub(super) fn acknowledge<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        self.tell_progress(now);
        self.reply(io, now);
    }

    /// Gives the receiver what its next reply says.
    pub(super) fn tell_progress(&mut self, now: Now) {
        let (State::Live(live), Some(Store { local, .. })) = (&mut self.link.state, &self.store)
        else {
            return;
        };
        let flush_lsn = self.config.shared.flush_lsn.load();
        let reply = self.sync.reply(local.write_lsn(), flush_lsn);
        live.receiver.handle_progress(now, reply.write, reply.flush, reply.apply);
    }

    /// Tells the upstream what the standbys' transactions need.
    pub(super) fn link_feedback(&mut self, now: Now, horizons: Horizons) {
        if let State::Live(live) = &mut self.link.state {
            live.receiver.handle_feedback(now, (!horizons.is_empty()).then_some(horizons));
        }
    }

    fn reply<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        let State::Live(live) = &mut self.link.state else { return };
        if live.sending.is_some() {
            return;
        }
        if let Some(bytes) = live.receiver.poll_transmit(now) {
            live.sending = Some((Bytes::from(bytes), 0));
            live.send(io);
        }
    }

    pub(super) fn handle_link_sent<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        result: io::Result<Done>,
    ) {
        match &mut self.link.state {
            State::Live(live) => match result {
                Ok(Done::Sent(count)) => {
                    let finished = live.sending.as_mut().is_none_or(|(bytes, sent)| {
                        *sent += count;
                        *sent >= bytes.len()
                    });
                    if finished {
                        live.sending = None;
                        self.reply(io, now);
                    } else {
                        live.send(io);
                    }
                }
                other => {
                    live.sending = None;
                    let why = other.err().map_or_else(String::new, |error| error.to_string());
                    let text = format!("could not send data to WAL stream: {why}");
                    self.drop_link(io, now, Drop::Reason { text, detail: None, hint: None });
                }
            },
            State::Closing { socket, sending, .. } => {
                *sending = false;
                io.shutdown(*socket);
                self.link.finish_closing(io);
            }
            State::Off | State::Waiting { .. } | State::Connecting => {}
        }
    }

    pub(super) fn handle_link_received<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        result: io::Result<Done>,
    ) {
        match &mut self.link.state {
            State::Live(live) => {
                live.receiving = false;
                match result {
                    Ok(Done::Received(buf)) if !buf.is_empty() => {
                        live.held = buf.freeze();
                        self.received = true;
                        self.resume_receiving(io, now);
                    }
                    Ok(Done::Scattered(scattered)) if !scattered.is_empty() => {
                        self.received = true;
                        match self.take_scattered(io, now, scattered) {
                            Ok(()) => self.resume_receiving(io, now),
                            Err(why) => self.drop_link(io, now, why),
                        }
                    }
                    other => {
                        let text = match other {
                            Err(error) => format!("could not receive data from WAL stream: {error}"),
                            _ => "could not receive data from WAL stream: server closed the connection unexpectedly".to_owned(),
                        };
                        self.drop_link(io, now, Drop::Reason { text, detail: None, hint: None });
                    }
                }
            }
            State::Closing { receiving, .. } => {
                *receiving = false;
                self.link.finish_closing(io);
            }
            State::Off | State::Waiting { .. } | State::Connecting => {}
        }
    }

    /// Takes what was received as far as there is room for it, and receives more.
    pub(super) fn resume_receiving<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        if let Err(why) = self.take_held(io, now) {
            return self.drop_link(io, now, why);
        }
        self.publish_received();
        self.publish_receiver();
        self.pump(io);
        self.reply(io, now);
        let State::Live(live) = &mut self.link.state else { return };
        if !live.receiving && live.held.is_empty() {
            live.receiving = true;
            let socket = live.socket;
            let op = match self.scatter() {
                Some(scatter) => Op::RecvScatter { socket, scatter },
                None => Op::Recv { socket, buf: self.receive_buffer() },
            };
            io.submit(LINK_RECV, op);
        }
    }

    /// Where the next bytes belong, when they are a large message's WAL.
    fn scatter(&mut self) -> Option<Scatter> {
        let (State::Live(live), Some(Store { local, .. })) = (&self.link.state, &mut self.store)
        else {
            return None;
        };
        let ahead = live.receiver.wal_ahead()?;
        if ahead.left.max(ahead.message_len) < LANDING_MESSAGE_LEN_MIN
            || live.receiver.next_lsn() != local.received_lsn()
        {
            return None;
        }
        let (room, opened) = local.lend(ahead.left + LANDING_LEN)?;
        self.announce_slabs(opened);
        let before = ahead.left.min(room.len());
        let header_len = if before == ahead.left { ahead.header_len } else { 0 };
        Some(Scatter::new(room, before, header_len))
    }

    /// Takes what was received in place, as far as it turns out to be WAL; what is not is held.
    fn take_scattered<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        scattered: Scattered,
    ) -> Result<(), Drop> {
        let Scattered { mut room, before, header, after } = scattered;
        self.take_in_place(now, &mut room, before)?;
        // A header of WAL is as long as was foreseen, and other messages are too short to be followed by
        // WAL before its end: no event here is WAL.
        let mut rest = header.as_slice();
        while let State::Live(live) = &mut self.link.state
            && live.switchpoint.is_none()
            && let Some(event) = live.receiver.handle_bytes(now, &mut rest)?
        {
            self.handle_receiver_event(io, now, event)?;
        }
        let State::Live(live) = &self.link.state else { return Ok(()) };
        let left = live.receiver.wal_ahead().map_or(0, |ahead| ahead.left);
        let in_place = if rest.is_empty() { left.min(after) } else { 0 };
        self.take_in_place(now, &mut room, in_place)?;
        let State::Live(live) = &mut self.link.state else { return Ok(()) };
        let misplaced = room.get(..after - in_place).unwrap_or_default();
        if !rest.is_empty() || !misplaced.is_empty() {
            live.held = Bytes::from([rest, misplaced].concat());
        }
        Ok(())
    }

    /// Takes the first `count` bytes of `room`, all of which are WAL of one message.
    fn take_in_place(&mut self, now: Now, room: &mut SlabRoom, count: usize) -> Result<(), Drop> {
        let (State::Live(live), Some(Store { local, .. })) =
            (&mut self.link.state, &mut self.store)
        else {
            return Ok(());
        };
        if count == 0 {
            return Ok(());
        }
        let mut bytes = room.get(..count).unwrap_or_default();
        let Some(event) = live.receiver.handle_bytes(now, &mut bytes)? else { return Ok(()) };
        let ReceiverEvent::Wal { start, bytes } = event else {
            unreachable!("{count} bytes of WAL were to come")
        };
        assert!(bytes.len() == count, "{count} bytes of WAL were to come, got {}", bytes.len());
        let appended = local.append_lent(start, room, count);
        self.note_appended(appended)
    }

    fn take_held<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) -> Result<(), Drop> {
        loop {
            let must_wait = self.must_wait_for_files();
            let State::Live(live) = &mut self.link.state else { return Ok(()) };
            if live.held.is_empty()
                || must_wait
                || !ready_for(live, self.store.as_ref().map(|store| &store.local))
            {
                return Ok(());
            }
            live.switchpoint = None;
            let held = std::mem::take(&mut live.held);
            let mut rest: &[u8] = &held;
            let event = live.receiver.handle_bytes(now, &mut rest);
            let taken = held.len() - rest.len();
            let result = match event {
                Ok(None) => return Ok(()),
                Ok(Some(event)) => self.handle_receiver_event(io, now, event),
                Err(violation) => Err(violation.into()),
            };
            if let State::Live(live) = &mut self.link.state {
                live.held = held.slice(taken..);
            }
            result?;
        }
    }

    fn handle_receiver_event<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        event: ReceiverEvent<'_>,
    ) -> Result<(), Drop> {
        let receiver = &self.config.shared.receiver;
        match event {
            ReceiverEvent::Wal { start, bytes } => return self.append(start, bytes),
            ReceiverEvent::Told { end, sent } => {
                self.link.trouble.handle_stream(now.instant);
                let micros = micros_between(sent, now.wall);
                self.config.shared.latencies.record(Stage::Receive, micros);
                receiver.last_send_time.store(sent.0, Ordering::Relaxed);
                receiver.last_receipt_time.store(now.wall.0, Ordering::Relaxed);
                if receiver.latest_end_lsn.swap(end.0, Ordering::Relaxed) != end.0 {
                    receiver.latest_end_time.store(sent.0, Ordering::Relaxed);
                }
                return self.note_requests(now, end);
            }
            ReceiverEvent::Identified { system_identifier, timeline, .. } => {
                self.histories.meet(system_identifier, timeline);
                if let State::Live(live) = &mut self.link.state {
                    live.identified = Some(system_identifier);
                    live.receiver.set_known_histories(self.histories.known());
                }
            }
            ReceiverEvent::SegmentSize(size) => {
                if let State::Live(live) = &mut self.link.state {
                    live.segment_size = Some(size);
                }
            }
            ReceiverEvent::SlotCreated => {
                let slot = self.config.settings.primary_slot_name.as_deref().unwrap_or_default();
                tracing::info!("created replication slot \"{slot}\" on the primary");
            }
            ReceiverEvent::TimelineHistory { timeline, content } => {
                return self.keep_history(io, timeline, &content);
            }
            ReceiverEvent::HistoryAbsent { timeline, reason } => {
                let detail = format!("The primary server says: {reason}.");
                self.note_history_absent(timeline, detail);
            }
            ReceiverEvent::Started { timeline, start } => {
                return self.handle_started(io, now, timeline, start);
            }
            ReceiverEvent::EndOfTimeline { switchpoint, .. } => {
                let timeline = self.config.shared.timeline.load(Ordering::Relaxed);
                tracing::info!(
                    detail = format!("End of WAL reached on timeline {timeline} at {switchpoint}."),
                    "replication terminated by primary server"
                );
                if let State::Live(live) = &mut self.link.state {
                    live.switchpoint = Some(switchpoint);
                }
            }
        }
        Ok(())
    }

    fn append(&mut self, start: Lsn, bytes: &[u8]) -> Result<(), Drop> {
        let Some(Store { local, .. }) = &mut self.store else { return Ok(()) };
        let mut opened = Vec::new();
        let appended = local.append(start, bytes, &mut |slab| opened.push(slab));
        self.announce_slabs(opened);
        self.note_appended(appended)
    }

    fn note_appended(&mut self, appended: Result<(), AppendError>) -> Result<(), Drop> {
        let Some(Store { local, .. }) = &self.store else { return Ok(()) };
        let verified = local.verified_lsn();
        match appended {
            Ok(()) => {
                self.link.trouble.handle_verified(verified);
                Ok(())
            }
            Err(AppendError::Violation(violation)) => {
                // Good records may have come before the bad one.
                self.link.trouble.handle_verified(verified);
                Err(Drop::BadWal(format!("{violation} ({})", violation.numbers())))
            }
            Err(AppendError::Gap { got, want }) => {
                let text = format!("WAL stream begins at {got}, expected {want}");
                Err(Drop::Reason { text, detail: None, hint: None })
            }
            Err(AppendError::Full) => {
                let text = "out of memory for the WAL tail".to_owned();
                let hint = Some("Raise tail_cache_size, or lower max_wal_senders.".to_owned());
                Err(Drop::Reason { text, detail: None, hint })
            }
        }
    }

    pub(super) fn publish_receiver(&self) {
        let state = match &self.link.state {
            State::Live(live) => live.receiver.state(),
            State::Connecting => WalReceiverState::Starting,
            State::Off | State::Waiting { .. } | State::Closing { .. } => WalReceiverState::Stopped,
        };
        self.config.shared.receiver.set_state(state);
    }

    /// Ends the connection, says why once, and tries again later.
    pub(super) fn drop_link<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now, why: Drop) {
        let State::Live(live) = &self.link.state else { return };
        let (socket, receiving, sending) = (live.socket, live.receiving, live.sending.is_some());
        let leaves = matches!(why, Drop::Leave);
        let verified = self.local().map(LocalWal::verified_lsn);
        match why {
            Drop::Reason { text, detail, hint } => {
                let (detail, hint) = (detail.as_deref(), hint.as_deref());
                self.link.log_once(&text, detail, hint, Fault::Nobodys, verified);
            }
            Drop::Refused { text, detail, hint } => {
                let (detail, hint) = (detail.as_deref(), hint.as_deref());
                self.link.log_once(&text, detail, hint, Fault::Peers, verified);
            }
            Drop::Orderly { text, detail } => tracing::info!(detail, "{text}"),
            Drop::Leave => tracing::info!(
                detail = "Everything is durable here, and too few of synchronous_standby_names are there to have it.",
                "the upstream is shutting down and waits for standbys, ending the stream"
            ),
            Drop::BadWal(text) => self.note_bad_wal(&text, verified.unwrap_or_default()),
        }
        let pause = self.link.trouble.pause(self.config.settings.wal_retrieve_retry_interval);
        let retry_at = Some(now.instant + pause);
        self.link.rewind = true;
        if leaves {
            self.link.leave(io, now, retry_at);
        } else {
            io.shutdown(socket);
            self.link.state = State::Closing { socket, receiving, sending, retry_at };
            self.link.finish_closing(io);
        }
        self.publish_received();
        self.publish_receiver();
        (self.config.control)(ToControl::Status);
        self.rewind_when_idle(io);
    }

    /// Says so the first time, and once more when it is no accident.
    fn note_bad_wal(&mut self, text: &str, verified: Lsn) {
        let reason = format!("received invalid WAL: {text}");
        self.link.trouble.note(&reason, Fault::Peers, Some(verified));
        match self.link.trouble.faults() {
            1 => tracing::error!(
                sqlstate = "XX001",
                detail = format!("The WAL after {verified} is requested again."),
                "{reason}"
            ),
            FAULTS_MAX => tracing::error!(
                sqlstate = "XX001",
                detail = format!(
                    "{text}. The WAL was requested {FAULTS_MAX} times and was wrong each time. It is requested \
                     again at least every {} seconds.",
                    RETRY_PAUSE_MAX.max(self.config.settings.wal_retrieve_retry_interval).as_secs()
                ),
                hint = "Look at the WAL of the upstream with pg_waldump, and whether the server at \
                        primary_conninfo is the right one. What was received before is still served.",
                "no valid WAL is received after {verified}"
            ),
            _ => {}
        }
    }

    /// Forgets what came after the last valid record: a new connection begins there.
    fn rewind_when_idle<I: Io<Conn = C>>(&mut self, io: &mut I) {
        // On the way to another timeline it is not yet said which one goes on.
        if !self.link.rewind || self.switch.is_some() {
            return;
        }
        let Some(Store { local, control, .. }) = &mut self.store else {
            self.link.rewind = self.first_contact.is_some();
            return;
        };
        if local.received_lsn() == local.verified_lsn() {
            self.link.rewind = false;
            return;
        }
        if !local.can_rewind() || matches!(self.link.block, Block::Reading(_)) {
            return;
        }
        let (verified, last, timeline) =
            (local.verified_lsn(), local.last_record(), local.segments.timeline());
        let filling = local.reader().filling();
        let in_filling = local.segments.size().offset(verified) != 0;
        let mut reader = reader_at(&control.wanted, verified.align_down(8), last, timeline);
        if let Some(filling) = filling.filter(|_| in_filling) {
            reader = reader.with_filling(filling, verified);
        }
        let block = match &self.link.block {
            Block::Read(range, bytes) if range.end == verified => bytes.get(..block_len(*range)),
            Block::Read(..) | Block::Reading(_) | Block::Unwanted => None,
        };
        match local.rewind(io, &mut self.jobs, reader, block) {
            Ok(slab) => {
                self.link.rewind = false;
                self.link.block = Block::Unwanted;
                self.announce_slabs([slab]);
            }
            // At the next turn, then.
            Err(TruncateError::Full) => {}
            Err(TruncateError::Missing(range)) if self.retry_disk_at.is_none() => {
                self.link.block = Block::Reading(range);
                let steps = local.segments.read_steps(range);
                self.jobs.start(io, FileJob::ReadBack, steps);
            }
            Err(TruncateError::Missing(_)) => {}
        }
    }

    /// Takes the end of a [`FileJob::ReadBack`].
    pub(super) fn handle_read_back(&mut self, now: Now, finished: Finished<FileJob>) {
        let Block::Reading(range) = self.link.block else { return };
        match finished.result {
            Ok(_) => self.link.block = Block::Read(range, finished.data),
            Err(error) => {
                self.link.block = Block::Unwanted;
                self.wait_for_disk(now, error.is_disk_full(), &error.to_string());
            }
        }
    }
}

impl Live {
    fn send<I: Io>(&self, io: &mut I) {
        let Some((bytes, sent)) = &self.sending else { return };
        let body = Gather::from_iter([bytes.slice(*sent..)]);
        io.submit(LINK_SEND, Op::Send { socket: self.socket, head: Head::new(&[]), body });
    }
}

/// Whether what was received can be taken now.
fn ready_for(live: &Live, local: Option<&LocalWal>) -> bool {
    let Some(local) = local else { return true };
    (live.switchpoint.is_none() || local.is_flushed()) && local.has_room(live.held.len())
}

/// Bytes of a range within a block.
fn block_len(range: LsnRange) -> usize {
    usize::try_from(range.len()).unwrap_or(0)
}
