//! The wal core's connection to the upstream: bytes in, events acted on, replies out.
//!
//! Not here: the replication protocol (`walhub_proto::walreceiver`), connecting (the control plane).
//!
//! PostgreSQL: `WalReceiverMain`, `WaitForWALToBecomeAvailable`.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use walhub_engine::buffer::{Buffer, BufferPool, SlabRoom};
use walhub_engine::io::{Done, Gather, Head, Io, Op, Scatter, Scattered, SocketId, Token};
use walhub_proto::convert::to_usize;
use walhub_proto::feedback::Horizons;
use walhub_proto::lsn::{Lsn, LsnRange, SystemIdentifier, TimelineId};
use walhub_proto::segment::SegmentSize;
use walhub_proto::syncrep::RelayReply;
use walhub_proto::time::{Instant, Now, Timestamp};
use walhub_proto::walreceiver::{
    KnownHistories, LocalWal as LocalState, ReceiverEvent, UpstreamViolation, WalReceiver,
    WalReceiverConfig, WalReceiverState,
};

use crate::api::settings::HubSettings;
use crate::api::tls::{TlsRecords, sealed_len_max};
use crate::intake::trouble::{FAULTS_MAX, Fault, RETRY_PAUSE_MAX, Trouble};
use crate::mail::Upstream;
use crate::publish::handle::micros_between;
use crate::publish::latency::Stage;
use crate::publish::positions::Shared;
use crate::store::Store;
use crate::store::disk_trouble::DiskTrouble;
use crate::store::jobs::{Finished, JobError, Jobs};
use crate::store::local::AppendError;
use crate::store::segments::FileJob;
use crate::store::tail::{TailSlab, TruncateError};

/// Bytes of one receive from the upstream.
const RECEIVE_LEN: usize = 256 << 10;
const RECEIVE_BUFFERS: usize = 4;
/// WAL of messages that are at least so long is received where it belongs. Of shorter ones several come
/// with one receive, and what is between them has to be taken out.
const SCATTER_MESSAGE_LEN_MIN: usize = 16 << 10;
/// WAL that is received in place after the next header, at most: a walsender's whole message.
/// PostgreSQL: `MAX_SEND_SIZE`.
const SCATTER_LEN: usize = 128 << 10;

/// The connection to the upstream.
#[derive(Debug)]
pub(crate) struct Link {
    tokens: LinkTokens,
    buffers: BufferPool,
    state: State,
    attempt: Attempt,
    /// Why there is no stream.
    trouble: Trouble,
    /// Where the last stream began.
    last_start: Option<(Lsn, TimelineId)>,
    /// What was received after the last valid record must be forgotten before connecting again.
    rewind: bool,
    /// The block in which that record ends, when it is needed from the disk.
    block: Block,
    /// There was a reload since the attempt that is under way began: it is begun again.
    outdated: bool,
}

/// Of the link's operations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkTokens {
    pub(crate) receive: Token,
    pub(crate) send: Token,
}

/// What a link works with.
pub(crate) struct Intake<'a> {
    pub(crate) now: Now,
    pub(crate) settings: &'a HubSettings,
    pub(crate) shared: &'a Shared,
    /// Where WAL goes, from the first contact on.
    pub(crate) store: Option<&'a mut Store>,
    /// Slabs that were opened for it.
    pub(crate) opened: &'a mut Vec<TailSlab>,
}

impl Intake<'_> {
    /// The upstream's WAL ends at `end`, it says.
    fn note_told(&self, end: Lsn, sent: Timestamp) {
        let receiver = &self.shared.receiver;
        let micros = micros_between(sent, self.now.wall);
        self.shared.latencies.record(Stage::Receive, micros);
        receiver.last_send_time.store(sent.0, Ordering::Relaxed);
        receiver.last_receipt_time.store(self.now.wall.0, Ordering::Relaxed);
        if receiver.latest_end_lsn.swap(end.0, Ordering::Relaxed) != end.0 {
            receiver.latest_end_time.store(sent.0, Ordering::Relaxed);
        }
    }
}

/// What the upstream has said that does not concern the link alone.
#[derive(Clone, Debug)]
pub(crate) enum LinkEvent {
    /// Who it is, and on which timeline.
    Identified(SystemIdentifier, TimelineId),
    /// A history file.
    History(TimelineId, Vec<u8>),
    /// It has no history file of this timeline, and why.
    HistoryAbsent(TimelineId, String),
    /// WAL comes from there on.
    Started(TimelineId, Lsn),
    /// Where its WAL ends.
    Told(Lsn),
}

/// What the control plane does for us: it answers each attempt once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Attempt {
    None,
    UnderWay,
    /// It was told to give it up, and has not answered yet.
    GivenUp,
}

#[derive(Debug)]
enum State {
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
enum Block {
    Unwanted,
    Reading(LsnRange),
    /// The block, from the range's start on.
    Read(LsnRange, Vec<u8>),
}

#[derive(Debug)]
pub(crate) struct Live {
    socket: SocketId,
    /// What encrypts on it.
    tls: Option<Box<dyn TlsRecords>>,
    pub(crate) receiver: WalReceiver,
    receiving: bool,
    sending: Option<(Bytes, usize)>,
    /// Received bytes that wait for room or for a timeline's last flush.
    held: Bytes,
    /// What was said between WAL that was received in place.
    events: VecDeque<LinkEvent>,
    /// Between two timelines: where the old one ends. Nothing is taken before it is durable.
    switchpoint: Option<Lsn>,
    pub(crate) server_version: String,
    pub(crate) server_version_num: u32,
    pub(crate) identified: Option<SystemIdentifier>,
    pub(crate) segment_size: Option<SegmentSize>,
}

/// Why a connection ends.
pub(crate) enum LinkEnd {
    /// The network, an upstream that is about to go or to come, or this server.
    Lost { text: String, detail: Option<String>, hint: Option<String> },
    /// The upstream is there, and what it says will not do.
    Refused { text: String, detail: Option<String>, hint: Option<String> },
    /// The upstream stops in order, and will be back.
    Orderly { text: String, detail: Option<String> },
    /// The upstream stops, and waits for what it cannot be told.
    Leave,
    /// WAL that is not valid.
    BadWal(String),
}

impl From<UpstreamViolation> for LinkEnd {
    fn from(violation: UpstreamViolation) -> Self {
        let (text, detail, hint) = (violation.to_string(), violation.detail(), violation.hint());
        match violation {
            UpstreamViolation::Terminated { .. } => Self::Orderly { text, detail },
            violation if violation.is_passing() => Self::Lost { text, detail, hint },
            _ => Self::Refused { text, detail, hint },
        }
    }
}

impl From<AppendError> for LinkEnd {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Violation(violation) => {
                Self::BadWal(format!("{violation} ({})", violation.numbers()))
            }
            AppendError::Gap { got, want } => {
                Self::lost(format!("WAL stream begins at {got}, expected {want}"))
            }
            AppendError::Full => Self::Lost {
                text: "out of memory for the WAL tail".to_owned(),
                detail: None,
                hint: Some("Raise tail_cache_size, or lower max_wal_senders.".to_owned()),
            },
        }
    }
}

impl LinkEnd {
    /// The network, an upstream that is about to go or to come, or this server.
    pub(crate) fn lost(text: String) -> Self {
        Self::Lost { text, detail: None, hint: None }
    }

    /// What the upstream says will not do.
    pub(crate) fn refused(text: String) -> Self {
        Self::Refused { text, detail: None, hint: None }
    }
}

impl Link {
    pub(crate) fn new(tokens: LinkTokens) -> Self {
        Self {
            tokens,
            buffers: BufferPool::new(RECEIVE_LEN, RECEIVE_BUFFERS),
            state: State::Waiting { until: Instant(0) },
            attempt: Attempt::None,
            trouble: Trouble::default(),
            last_start: None,
            rewind: false,
            block: Block::Unwanted,
            outdated: false,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
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

    pub(crate) fn is_closed(&self) -> bool {
        !matches!(self.state, State::Live(_) | State::Closing { .. })
    }

    /// The control plane could not connect.
    pub(crate) fn fail(
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
    pub(crate) fn take_unwanted_attempt(&mut self) -> bool {
        let is_wanted = matches!(self.state, State::Connecting) && !self.outdated;
        if is_wanted || self.attempt != Attempt::UnderWay {
            return false;
        }
        self.attempt = Attempt::GivenUp;
        true
    }

    /// Ends receiving for good, and forgets what is not whole: this server will be the primary.
    pub(crate) fn stop_for_good<I: Io>(&mut self, io: &mut I, now: Now) {
        self.stop(io, now);
        self.rewind = true;
    }

    /// Whether there is no connection, and nothing to be forgotten.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_closed() && !self.rewind
    }

    /// There is nothing that could be forgotten.
    pub(crate) fn forget_rewind(&mut self) {
        self.rewind = false;
    }

    /// Ends receiving for good: the last status and Terminate are sent, then the socket goes.
    pub(crate) fn stop<I: Io>(&mut self, io: &mut I, now: Now) {
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
                if let Some(bytes) = farewell.and_then(|bytes| live.last_words(bytes)) {
                    let body = Gather::from_iter([bytes]);
                    io.submit(self.tokens.send, Op::Send { socket, head: Head::new(&[]), body });
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

    pub(crate) fn settings_changed<I: Io>(
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

impl Link {
    /// Whether a connection is due, as far as the link itself knows.
    pub(crate) fn is_due(&self, now: Now) -> bool {
        match self.state {
            State::Waiting { until } => {
                until <= now.instant && !self.rewind && self.attempt == Attempt::None
            }
            State::Off | State::Connecting | State::Live(_) | State::Closing { .. } => false,
        }
    }

    /// The control plane is asked to connect.
    pub(crate) fn begin_attempt(&mut self) {
        self.state = State::Connecting;
        self.attempt = Attempt::UnderWay;
    }

    /// There is no upstream to connect to.
    pub(crate) fn switch_off(&mut self) {
        self.state = State::Off;
    }

    /// Takes over a connection, unless nobody wants it any more: then it is closed.
    pub(crate) fn handle_connected<I: Io>(
        &mut self,
        io: &mut I,
        now: Now,
        upstream: Upstream<I::Conn>,
        local: LocalState,
        settings: &HubSettings,
    ) {
        let socket = io.adopt(upstream.conn);
        self.attempt = Attempt::None;
        if !matches!(self.state, State::Connecting) {
            return io.close_socket(socket);
        }
        if std::mem::take(&mut self.outdated) {
            self.state = State::Waiting { until: now.instant };
            return io.close_socket(socket);
        }
        let config = receiver_config(settings);
        let receiver = WalReceiver::new(config, now, local, upstream.server_version_num);
        self.state = State::Live(Box::new(Live {
            socket,
            tls: upstream.tls,
            receiver,
            receiving: false,
            sending: None,
            held: Bytes::from(upstream.unread),
            events: VecDeque::new(),
            switchpoint: None,
            server_version: upstream.server_version,
            server_version_num: upstream.server_version_num,
            identified: None,
            segment_size: None,
        }));
    }

    /// The connection, if there is one.
    pub(crate) fn live(&self) -> Option<&Live> {
        match &self.state {
            State::Live(live) => Some(live),
            State::Off | State::Waiting { .. } | State::Connecting | State::Closing { .. } => None,
        }
    }

    fn live_mut(&mut self) -> Option<&mut Live> {
        match &mut self.state {
            State::Live(live) => Some(live),
            State::Off | State::Waiting { .. } | State::Connecting | State::Closing { .. } => None,
        }
    }

    /// What the views show.
    pub(crate) fn receiver_state(&self) -> WalReceiverState {
        match &self.state {
            State::Live(live) => live.receiver.state(),
            State::Connecting => WalReceiverState::Starting,
            State::Off | State::Waiting { .. } | State::Closing { .. } => WalReceiverState::Stopped,
        }
    }

    /// Keeps time.
    ///
    /// # Errors
    /// When the upstream has been silent for too long.
    pub(crate) fn handle_timeout(&mut self, now: Now) -> Result<(), LinkEnd> {
        let Some(live) = self.live_mut() else { return Ok(()) };
        if !live.held.is_empty() {
            live.receiver.handle_backpressure(now);
        }
        Ok(live.receiver.handle_timeout(now)?)
    }

    /// What the next reply says.
    pub(crate) fn tell_progress(&mut self, now: Now, reply: RelayReply) {
        if let Some(live) = self.live_mut() {
            live.receiver.handle_progress(now, reply.write, reply.flush, reply.apply);
        }
    }

    /// What the standbys' transactions need.
    pub(crate) fn tell_horizons(&mut self, now: Now, horizons: Horizons) {
        if let Some(live) = self.live_mut() {
            live.receiver.handle_feedback(now, (!horizons.is_empty()).then_some(horizons));
        }
    }

    /// What the upstream need not be asked for.
    pub(crate) fn set_known_histories(&mut self, known: KnownHistories) {
        if let Some(live) = self.live_mut() {
            live.receiver.set_known_histories(known);
        }
    }

    /// Lets an upstream go that stops and waits for a position that cannot be told, because it is withheld.
    ///
    /// It waits until everything is acknowledged as durable, and `synchronous_standby_names` may ask for
    /// standbys that do not come. Everything is durable here: what is left is to end the stream without
    /// telling anything that is not so. PostgreSQL: `WalSndDone`.
    pub(crate) fn check_requests(&mut self, now: Now, withheld: bool) -> Result<(), LinkEnd> {
        let is_in_vain =
            self.live_mut().is_some_and(|live| live.receiver.is_waiting_in_vain(now, withheld));
        if is_in_vain { Err(LinkEnd::Leave) } else { Ok(()) }
    }

    /// Sends what there is to say, unless something is being sent.
    pub(crate) fn reply<I: Io>(&mut self, io: &mut I, now: Now) {
        let State::Live(live) = &mut self.state else { return };
        if live.sending.is_some() {
            return;
        }
        let has_words = live.tls.as_ref().is_some_and(|tls| tls.has_words());
        let bytes = live.receiver.poll_transmit(now);
        if bytes.is_some() || has_words {
            // A connection that takes nothing any more gives nothing either: the next receive says so.
            let Some(bytes) = live.seal(bytes.unwrap_or_default()) else { return };
            live.sending = Some((bytes, 0));
            live.send(io, self.tokens.send);
        }
    }

    /// Takes the end of a send.
    ///
    /// # Errors
    /// When it has failed.
    pub(crate) fn handle_sent<I: Io>(
        &mut self,
        io: &mut I,
        now: Now,
        result: io::Result<Done>,
    ) -> Result<(), LinkEnd> {
        match &mut self.state {
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
                        live.send(io, self.tokens.send);
                    }
                }
                other => {
                    live.sending = None;
                    let why = other.err().map_or_else(String::new, |error| error.to_string());
                    return Err(LinkEnd::lost(format!("could not send data to WAL stream: {why}")));
                }
            },
            State::Closing { socket, sending, .. } => {
                *sending = false;
                io.shutdown(*socket);
                self.finish_closing(io);
            }
            State::Off | State::Waiting { .. } | State::Connecting => {}
        }
        Ok(())
    }

    /// Takes the end of a receive. Whether anything was received: [`Link::next_event`] says what.
    ///
    /// # Errors
    /// When the connection has ended, or what came will not do.
    pub(crate) fn handle_received<I: Io>(
        &mut self,
        io: &mut I,
        result: io::Result<Done>,
        intake: &mut Intake<'_>,
    ) -> Result<bool, LinkEnd> {
        match &mut self.state {
            State::Live(live) => {
                live.receiving = false;
                match result {
                    Ok(Done::Received(buf)) if !buf.is_empty() => live.take_received(buf)?,
                    Ok(Done::Scattered(scattered)) if !scattered.is_empty() => {
                        self.take_scattered(scattered, intake)?;
                    }
                    Err(error) => {
                        let text = format!("could not receive data from WAL stream: {error}");
                        return Err(LinkEnd::lost(text));
                    }
                    Ok(_) => {
                        return Err(closed());
                    }
                }
                Ok(true)
            }
            State::Closing { receiving, .. } => {
                *receiving = false;
                self.finish_closing(io);
                Ok(false)
            }
            State::Off | State::Waiting { .. } | State::Connecting => Ok(false),
        }
    }

    /// Receives more, once everything was taken.
    pub(crate) fn receive<I: Io>(&mut self, io: &mut I, intake: &mut Intake<'_>) {
        let State::Live(live) = &mut self.state else { return };
        if live.receiving || !live.held.is_empty() {
            return;
        }
        live.receiving = true;
        let socket = live.socket;
        let op = match live.scatter(intake) {
            Some(scatter) => Op::RecvScatter { socket, scatter },
            None => {
                let buf = self.buffers.take().unwrap_or_else(|| Buffer::with_capacity(RECEIVE_LEN));
                Op::Recv { socket, buf }
            }
        };
        io.submit(self.tokens.receive, op);
    }

    /// Takes what was received in place, as far as it turns out to be WAL; what is not is held.
    fn take_scattered(
        &mut self,
        scattered: Scattered,
        intake: &mut Intake<'_>,
    ) -> Result<(), LinkEnd> {
        let Scattered { mut room, before, header, after } = scattered;
        self.take_in_place(intake, &mut room, before)?;
        // A header of WAL is as long as was foreseen, and other messages are too short to be followed by
        // WAL before its end: no event here is WAL.
        let mut rest = header.as_slice();
        while let State::Live(live) = &mut self.state
            && live.switchpoint.is_none()
            && let Some(event) = live.receiver.handle_bytes(intake.now, &mut rest)?
        {
            let event = self.take_event(intake, event)?;
            if let (Some(live), Some(event)) = (self.live_mut(), event) {
                live.events.push_back(event);
            }
        }
        let Some(live) = self.live() else { return Ok(()) };
        let left = live.receiver.wal_ahead().map_or(0, |ahead| ahead.left);
        let in_place = if rest.is_empty() { left.min(after) } else { 0 };
        self.take_in_place(intake, &mut room, in_place)?;
        let Some(live) = self.live_mut() else { return Ok(()) };
        let misplaced = room.get(..after - in_place).unwrap_or_default();
        if !rest.is_empty() || !misplaced.is_empty() {
            live.held = Bytes::from([rest, misplaced].concat());
        }
        Ok(())
    }

    /// Takes the first `count` bytes of `room`, all of which are WAL of one message.
    fn take_in_place(
        &mut self,
        intake: &mut Intake<'_>,
        room: &mut SlabRoom,
        count: usize,
    ) -> Result<(), LinkEnd> {
        let (State::Live(live), Some(Store { local, .. })) = (&mut self.state, &mut intake.store)
        else {
            return Ok(());
        };
        if count == 0 {
            return Ok(());
        }
        let mut bytes = room.get(..count).unwrap_or_default();
        let Some(event) = live.receiver.handle_bytes(intake.now, &mut bytes)? else {
            return Ok(());
        };
        let ReceiverEvent::Wal { start, bytes } = event else {
            unreachable!("{count} bytes of WAL were to come")
        };
        assert!(bytes.len() == count, "{count} bytes of WAL were to come, got {}", bytes.len());
        let appended = local.append_lent(start, room, count);
        self.trouble.handle_verified(local.verified_lsn());
        Ok(appended?)
    }

    /// Takes what was received as far as there is room for it, up to the next event.
    ///
    /// # Errors
    /// When what came will not do.
    pub(crate) fn next_event(
        &mut self,
        intake: &mut Intake<'_>,
    ) -> Result<Option<LinkEvent>, LinkEnd> {
        loop {
            let Some(live) = self.live_mut() else { return Ok(None) };
            if let Some(event) = live.events.pop_front() {
                return Ok(Some(event));
            }
            if live.held.is_empty() || !ready_for(live, intake.store.as_deref()) {
                return Ok(None);
            }
            live.switchpoint = None;
            let held = std::mem::take(&mut live.held);
            let mut rest: &[u8] = &held;
            let event = live.receiver.handle_bytes(intake.now, &mut rest);
            let taken = held.len() - rest.len();
            let event = match event {
                Ok(None) => return Ok(None),
                Ok(Some(event)) => self.take_event(intake, event),
                Err(violation) => Err(violation.into()),
            };
            if let Some(live) = self.live_mut() {
                live.held = held.slice(taken..);
            }
            if let Some(event) = event? {
                return Ok(Some(event));
            }
        }
    }

    fn take_event(
        &mut self,
        intake: &mut Intake<'_>,
        event: ReceiverEvent<'_>,
    ) -> Result<Option<LinkEvent>, LinkEnd> {
        let State::Live(live) = &mut self.state else { return Ok(None) };
        match event {
            ReceiverEvent::Wal { start, bytes } => {
                let Some(Store { local, .. }) = &mut intake.store else { return Ok(None) };
                let opened = &mut *intake.opened;
                let appended = local.append(start, bytes, &mut |slab| opened.push(slab));
                // Good records may have come before a bad one.
                self.trouble.handle_verified(local.verified_lsn());
                appended?;
                Ok(None)
            }
            ReceiverEvent::Told { end, sent } => {
                self.trouble.handle_stream(intake.now.instant);
                intake.note_told(end, sent);
                Ok(Some(LinkEvent::Told(end)))
            }
            ReceiverEvent::Identified { system_identifier, timeline, .. } => {
                live.identified = Some(system_identifier);
                Ok(Some(LinkEvent::Identified(system_identifier, timeline)))
            }
            ReceiverEvent::SegmentSize(size) => {
                live.segment_size = Some(size);
                Ok(None)
            }
            ReceiverEvent::SlotCreated => {
                let slot = intake.settings.primary_slot_name.as_deref().unwrap_or_default();
                tracing::info!("created replication slot \"{slot}\" on the primary");
                Ok(None)
            }
            ReceiverEvent::TimelineHistory { timeline, content } => {
                Ok(Some(LinkEvent::History(timeline, content)))
            }
            ReceiverEvent::HistoryAbsent { timeline, reason } => {
                let detail = format!("The primary server says: {reason}.");
                Ok(Some(LinkEvent::HistoryAbsent(timeline, detail)))
            }
            ReceiverEvent::Started { timeline, start } => {
                Ok(Some(LinkEvent::Started(timeline, start)))
            }
            ReceiverEvent::EndOfTimeline { switchpoint, .. } => {
                let timeline = intake.shared.timeline.load(Ordering::Relaxed);
                tracing::info!(
                    detail = format!("End of WAL reached on timeline {timeline} at {switchpoint}."),
                    "replication terminated by primary server"
                );
                live.switchpoint = Some(switchpoint);
                Ok(None)
            }
        }
    }

    /// WAL streams from there on. Logged, unless an upstream lets a stream begin and then ends it for the
    /// same reason each time.
    pub(crate) fn log_start(&mut self, timeline: TimelineId, start: Lsn) {
        let again = self.trouble.is_old_news() && self.last_start == Some((start, timeline));
        self.last_start = Some((start, timeline));
        if !again {
            tracing::info!("started streaming WAL from primary at {start} on timeline {timeline}");
        }
    }

    /// Ends the connection, says why once, and tries again later. Whether there was one.
    pub(crate) fn end<I: Io>(
        &mut self,
        io: &mut I,
        now: Now,
        settings: &HubSettings,
        verified: Option<Lsn>,
        why: LinkEnd,
    ) -> bool {
        let State::Live(live) = &self.state else { return false };
        let (socket, receiving, sending) = (live.socket, live.receiving, live.sending.is_some());
        let leaves = matches!(why, LinkEnd::Leave);
        let interval = settings.wal_retrieve_retry_interval;
        match why {
            LinkEnd::Lost { text, detail, hint } => {
                let (detail, hint) = (detail.as_deref(), hint.as_deref());
                self.log_once(&text, detail, hint, Fault::Nobodys, verified);
            }
            LinkEnd::Refused { text, detail, hint } => {
                let (detail, hint) = (detail.as_deref(), hint.as_deref());
                self.log_once(&text, detail, hint, Fault::Peers, verified);
            }
            LinkEnd::Orderly { text, detail } => tracing::info!(detail, "{text}"),
            LinkEnd::Leave => tracing::info!(
                detail = "Everything is durable here, and too few of synchronous_standby_names are there to have it.",
                "the upstream is shutting down and waits for standbys, ending the stream"
            ),
            LinkEnd::BadWal(text) => {
                self.note_bad_wal(&text, verified.unwrap_or_default(), interval);
            }
        }
        let retry_at = Some(now.instant + self.trouble.pause(interval));
        self.rewind = true;
        if leaves {
            self.leave(io, now, retry_at);
        } else {
            io.shutdown(socket);
            self.state = State::Closing { socket, receiving, sending, retry_at };
            self.finish_closing(io);
        }
        true
    }

    /// Says so the first time, and once more when it is no accident.
    fn note_bad_wal(&mut self, text: &str, verified: Lsn, interval: Duration) {
        let reason = format!("received invalid WAL: {text}");
        self.trouble.note(&reason, Fault::Peers, Some(verified));
        match self.trouble.faults() {
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
                    RETRY_PAUSE_MAX.max(interval).as_secs()
                ),
                hint = "Look at the WAL of the upstream with pg_waldump, and whether the server at \
                        primary_conninfo is the right one. What was received before is still served.",
                "no valid WAL is received after {verified}"
            ),
            _ => {}
        }
    }

    /// Forgets what came after the last valid record, once nothing is under way there: a new connection
    /// begins there. Gives the slab that the tail then has.
    pub(crate) fn rewind<I: Io>(
        &mut self,
        io: &mut I,
        jobs: &mut Jobs<FileJob>,
        store: &mut Store,
        disk: &DiskTrouble,
    ) -> Option<TailSlab> {
        if !self.rewind {
            return None;
        }
        let verified = store.local.verified_lsn();
        if store.local.received_lsn() == verified {
            self.rewind = false;
            return None;
        }
        if !store.local.can_rewind() || matches!(self.block, Block::Reading(_)) {
            return None;
        }
        let reader = store.next_reader();
        let local = &mut store.local;
        let block = match &self.block {
            Block::Read(range, bytes) if range.end == verified => bytes.get(..block_len(*range)),
            Block::Read(..) | Block::Reading(_) | Block::Unwanted => None,
        };
        match local.rewind(io, jobs, reader, block) {
            Ok(slab) => {
                self.rewind = false;
                self.block = Block::Unwanted;
                return Some(slab);
            }
            // At the next turn, then.
            Err(TruncateError::Full) => {}
            Err(TruncateError::Missing(range)) if !disk.is_waiting() => {
                self.block = Block::Reading(range);
                let steps = local.segments.read_steps(range);
                jobs.start(io, FileJob::ReadBack, steps);
            }
            Err(TruncateError::Missing(_)) => {}
        }
        None
    }

    /// Takes the end of a [`FileJob::ReadBack`].
    ///
    /// # Errors
    /// When it could not be read.
    pub(crate) fn handle_read_back(&mut self, finished: Finished<FileJob>) -> Result<(), JobError> {
        let Block::Reading(range) = self.block else { return Ok(()) };
        self.block = Block::Unwanted;
        finished.result?;
        self.block = Block::Read(range, finished.data);
        Ok(())
    }
}

fn closed() -> LinkEnd {
    LinkEnd::lost(
        "could not receive data from WAL stream: server closed the connection unexpectedly"
            .to_owned(),
    )
}

impl Live {
    /// Holds what was received, decrypted if it has to be. Of a part of a record nothing is held yet.
    fn take_received(&mut self, mut buf: Buffer) -> Result<(), LinkEnd> {
        let Some(tls) = &mut self.tls else {
            self.held = buf.freeze();
            return Ok(());
        };
        let mut plain = Vec::with_capacity(buf.len());
        let opened = tls.open(&mut buf, &mut plain);
        let is_closed = tls.is_closed_by_peer();
        self.held = Bytes::from(plain);
        match opened {
            // What came before is taken first, as long as there is any.
            _ if !self.held.is_empty() => Ok(()),
            Ok(()) if is_closed => Err(closed()),
            Ok(()) => Ok(()),
            Err(error) => {
                let text = format!("could not receive data from WAL stream: SSL error: {error}");
                Err(LinkEnd::lost(text))
            }
        }
    }

    /// Bytes as they go to the upstream; `None` when nothing goes there any more.
    fn seal(&mut self, bytes: Vec<u8>) -> Option<Bytes> {
        let Some(tls) = &mut self.tls else { return Some(Bytes::from(bytes)) };
        let mut sealed = vec![0; sealed_len_max(bytes.len(), 1)];
        match tls.seal(&[&bytes], &mut sealed) {
            Ok(len) => {
                sealed.truncate(len);
                Some(Bytes::from(sealed))
            }
            Err(error) => {
                tracing::info!("could not encrypt for the upstream: {error}");
                None
            }
        }
    }

    /// The last bytes, and that nothing comes after them.
    fn last_words(&mut self, bytes: Vec<u8>) -> Option<Bytes> {
        let bytes = self.seal(bytes)?;
        let Some(tls) = &mut self.tls else { return Some(bytes) };
        tls.close();
        let goodbye = self.seal(Vec::new())?;
        Some(Bytes::from([bytes, goodbye].concat()))
    }

    /// Where the next bytes belong, when they are a large message's WAL.
    fn scatter(&self, intake: &mut Intake<'_>) -> Option<Scatter> {
        if self.tls.is_some() {
            // What comes is not what belongs there.
            return None;
        }
        let local = &mut intake.store.as_mut()?.local;
        let ahead = self.receiver.wal_ahead()?;
        if ahead.left.max(ahead.message_len) < SCATTER_MESSAGE_LEN_MIN
            || self.receiver.next_lsn() != local.received_lsn()
        {
            return None;
        }
        let (room, opened) = local.lend(ahead.left + SCATTER_LEN)?;
        intake.opened.extend(opened);
        let before = ahead.left.min(room.len());
        let header_len = if before == ahead.left { ahead.header_len } else { 0 };
        Some(Scatter::new(room, before, header_len))
    }

    fn send<I: Io>(&self, io: &mut I, token: Token) {
        let Some((bytes, sent)) = &self.sending else { return };
        let body = Gather::from_iter([bytes.slice(*sent..)]);
        io.submit(token, Op::Send { socket: self.socket, head: Head::new(&[]), body });
    }
}

/// Whether what was received can be taken now.
fn ready_for(live: &Live, store: Option<&Store>) -> bool {
    let Some(Store { local, .. }) = store else { return true };
    (live.switchpoint.is_none() || local.is_flushed()) && local.has_room(live.held.len())
}

/// Bytes of a range within a block.
fn block_len(range: LsnRange) -> usize {
    to_usize(range.len())
}
