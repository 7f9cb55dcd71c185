//! One downstream session: startup, catchup, streaming, stopping.
//!
//! The machine begins when START_REPLICATION was accepted and CopyBothResponse is on its way; it
//! ends when both sides have sent CopyDone, or with the connection.
//!
//! Not here: parsing the command (`command`), which WAL may be sent (the daemon's `hub` says so by
//! [`WalSender::handle_sendable`]), the bytes of WAL (they go out as ranges).
//!
//! PostgreSQL: `WalSndLoop`, `XLogSendPhysical`, `ProcessRepliesIfAny`, `WalSndDone`
//! (src/backend/replication/walsender.c).

mod violation;

#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::time::Duration;

use crate::lag::{LagHead, LagTracker};
use crate::lsn::{Lsn, LsnRange};
use crate::time::{Instant, Now};
use crate::wire::backend::Encoder;
use crate::wire::copy::{
    COPY_DATA, COPY_DONE, COPY_DONE_MESSAGE, HotStandbyFeedback, PrimaryKeepalive,
    StandbyStatusUpdate, XLOGDATA_HEADER_LEN, XLogData,
};
use crate::wire::reader::{FRAME_HEADER_LEN, Malformed, decode_frame};

pub use violation::PeerViolation;

/// Largest body of a message from a standby. PostgreSQL: `PQ_SMALL_MESSAGE_LIMIT`.
///
/// PostgreSQL lets CopyData grow to a gigabyte (`PQ_LARGE_MESSAGE_LIMIT`); no message of a physical
/// standby has more than 34 bytes, and a peer must not make us hold more than this.
pub const STANDBY_MESSAGE_BYTES_MAX: usize = 10_000;

/// Default of [`WalSenderConfig::message_bytes_max`]. PostgreSQL: `MAX_SEND_SIZE`.
pub const MESSAGE_BYTES_DEFAULT: u64 = 128 << 10;

/// Smallest and largest [`WalSenderConfig::message_bytes_max`] that has an effect: a page of WAL,
/// and what libpq can still hold in one message.
pub const MESSAGE_BYTES_BOUNDS: (u64, u64) = (WAL_PAGE_BYTES, 512 << 20);

/// Unit that messages are cut at. PostgreSQL: `XLOG_BLCKSZ`.
const WAL_PAGE_BYTES: u64 = 8192;

/// What a session is doing. PostgreSQL: `WalSndState`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum WalSenderState {
    /// The standby has not asked for WAL yet.
    Startup,
    /// Sending a base backup.
    Backup,
    /// Sending WAL that is already old.
    Catchup,
    /// Has once had everything; sends WAL as it comes.
    Streaming,
    /// Sending the last WAL before the server stops.
    Stopping,
}

impl WalSenderState {
    /// As `pg_stat_replication.state` shows it. PostgreSQL: `WalSndGetStateString`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Backup => "backup",
            Self::Catchup => "catchup",
            Self::Streaming => "streaming",
            Self::Stopping => "stopping",
        }
    }
}

/// Settings of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalSenderConfig {
    /// `wal_sender_timeout`; `None` is off.
    pub timeout: Option<Duration>,
    /// Most WAL in one message, held within [`MESSAGE_BYTES_BOUNDS`].
    pub message_bytes_max: u64,
}

impl Default for WalSenderConfig {
    fn default() -> Self {
        Self { timeout: Some(Duration::from_secs(60)), message_bytes_max: MESSAGE_BYTES_DEFAULT }
    }
}

/// What to send next, whole, before anything else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transmit {
    /// These bytes, which are whole messages.
    Message(Vec<u8>),
    /// The header, then the WAL in the range.
    Wal {
        /// CopyData frame and XLogData header.
        header: [u8; XLOGDATA_HEADER_LEN],
        /// The WAL that follows the header.
        range: LsnRange,
    },
}

/// What a standby has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SenderEvent {
    /// It said how far it is.
    Status(StandbyStatusUpdate),
    /// It said which rows its queries need.
    Feedback(HotStandbyFeedback),
    /// Both CopyDones are exchanged: the connection is in command mode again, after the result
    /// that ends START_REPLICATION.
    StreamEnded,
    /// It sent Terminate: the connection is to be closed.
    Terminated,
}

/// How long WAL takes to a standby, as `pg_stat_replication` shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lags {
    /// `write_lag`.
    pub write: Option<Duration>,
    /// `flush_lag`.
    pub flush: Option<Duration>,
    /// `replay_lag`.
    pub apply: Option<Duration>,
}

/// Which message was given out and is not yet with the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum InFlight {
    Keepalive,
    Wal { end: Lsn },
    CopyDone,
    CommandComplete,
}

/// One of the two directions of the stream, or the farewell of a stopping server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Farewell {
    Open,
    /// To be sent.
    Due,
    /// With the kernel.
    Sent,
}

/// Sends WAL to one standby.
///
/// Invariants:
/// - At most one transmit is outstanding; `sent_lsn` counts only what the kernel has taken.
/// - No WAL is given out past `sendable_lsn`, nor past `timeline_end`, nor after CopyDone.
#[derive(Debug)]
pub struct WalSender {
    config: WalSenderConfig,
    state: WalSenderState,
    sent_lsn: Lsn,
    /// `None` until the hub has said what may be sent.
    sendable_lsn: Option<Lsn>,
    /// Where the timeline ends, once it is historic.
    timeline_end: Option<Lsn>,
    /// See [`WalSender::seam`].
    seam: Option<Lsn>,
    in_flight: Option<InFlight>,
    copy_done: Farewell,
    copy_done_received: bool,
    terminated: bool,
    /// Where WAL will end, once the server is stopping.
    stop_at: Option<Lsn>,
    command_complete: Farewell,
    last_reply: Instant,
    /// A keepalive that requests a reply is out, and nothing has come since.
    waiting_for_ping_response: bool,
    ping_due: bool,
    /// The standby has requested a reply.
    reply_due: bool,
    timed_out: bool,
    status: Option<StandbyStatusUpdate>,
    lag: LagTracker,
    lags: Lags,
    fully_applied_last_time: bool,
}

impl WalSender {
    /// Begins to stream at `start`; `end_of_timeline` is the switchpoint when the timeline is a
    /// historic one.
    #[must_use]
    pub fn new(
        config: WalSenderConfig,
        now: Now,
        start: Lsn,
        end_of_timeline: Option<Lsn>,
    ) -> Self {
        let mut sender = Self {
            config,
            state: WalSenderState::Startup,
            sent_lsn: start,
            sendable_lsn: None,
            timeline_end: None,
            // Until it is known what this server has.
            seam: Some(start).filter(|_| end_of_timeline.is_none()),
            in_flight: None,
            copy_done: Farewell::Open,
            copy_done_received: false,
            terminated: false,
            stop_at: None,
            command_complete: Farewell::Open,
            last_reply: now.instant,
            waiting_for_ping_response: false,
            ping_due: false,
            reply_due: false,
            timed_out: false,
            status: None,
            lag: LagTracker::new(),
            lags: Lags::default(),
            fully_applied_last_time: false,
        };
        if let Some(switchpoint) = end_of_timeline {
            sender.handle_timeline_end(now, switchpoint);
        }
        sender
    }

    /// What the session is doing.
    #[must_use]
    pub const fn state(&self) -> WalSenderState {
        self.state
    }

    /// End of the WAL that the kernel has taken.
    #[must_use]
    pub const fn sent_lsn(&self) -> Lsn {
        self.sent_lsn
    }

    /// The standby's last status update.
    #[must_use]
    pub const fn status(&self) -> Option<StandbyStatusUpdate> {
        self.status
    }

    /// End of the WAL that the standby has and did not get from here: it asked to begin there, or said
    /// that it has WAL up to there, when this server had less. `None` when it never had more.
    ///
    /// A relay that has lost its last WAL in a crash sees that of honest standbys; a server that came back
    /// in an earlier state sees standbys with a future that was abandoned. What they say of positions up to
    /// the seam is no word about this server's WAL. Of those beyond it is: they were sent from here.
    ///
    /// The seam goes when this server's own WAL ends exactly there: then a record ends in both at the same
    /// place of the same timeline. Otherwise it stays as long as the stream.
    #[must_use]
    pub const fn seam(&self) -> Option<Lsn> {
        self.seam
    }

    /// What a position that the standby told is worth: nothing up to the seam, and no more than was sent.
    #[must_use]
    pub fn counted(&self, told: Lsn) -> Option<Lsn> {
        let lsn = told.min(self.sent_lsn).valid()?;
        (self.seam < Some(lsn)).then_some(lsn)
    }

    /// Whether the standby has told something that it could not have yet of what is with the kernel:
    /// it is worth more once more is sent.
    #[must_use]
    pub fn has_told_beyond_sent(&self) -> bool {
        self.status.is_some_and(|status| status.write.max(status.flush) > self.sent_lsn)
    }

    /// How long WAL takes to the standby.
    #[must_use]
    pub const fn lags(&self) -> Lags {
        self.lags
    }

    /// Whether the standby has been silent for `wal_sender_timeout`: the connection is to be
    /// closed without a message, "terminating walsender process due to replication timeout".
    #[must_use]
    pub const fn is_timed_out(&self) -> bool {
        self.timed_out
    }

    /// Whether both CopyDones are exchanged, ours taken by the kernel.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.copy_done_received && self.copy_done == Farewell::Sent
    }

    /// Whether more messages may come: not after the standby's CopyDone, nor after Terminate.
    #[must_use]
    pub const fn takes_messages(&self) -> bool {
        !self.copy_done_received && !self.terminated
    }

    /// Whether a stopping server owes the standby nothing more: the connection is to be closed.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.command_complete == Farewell::Sent
    }

    /// Takes new settings, after a reload.
    pub fn set_config(&mut self, config: WalSenderConfig) {
        self.config = config;
    }

    /// Takes a complete frame from the front of `bytes`; each is an event, except a CopyDone that
    /// is still to be answered.
    ///
    /// `Ok(None)` when the rest needs more bytes; the caller keeps it. Nothing is taken after the
    /// standby's CopyDone: what follows is a command, and not ours.
    ///
    /// # Errors
    /// When the standby broke a rule; the session is over.
    pub fn handle_bytes(
        &mut self,
        now: Now,
        bytes: &mut &[u8],
    ) -> Result<Option<SenderEvent>, PeerViolation> {
        let Some(&kind) = bytes.first().filter(|_| self.takes_messages()) else {
            return Ok(None);
        };
        if ![COPY_DATA, COPY_DONE, b'X'].contains(&kind) {
            return Err(PeerViolation::FrameType { got: kind });
        }
        let frame = decode_frame(bytes, STANDBY_MESSAGE_BYTES_MAX).map_err(violation)?;
        let Some(frame) = frame else { return Ok(None) };
        *bytes = bytes.get(frame.len..).unwrap_or_default();
        // Any message is a sign of life. PostgreSQL: ProcessRepliesIfAny.
        self.last_reply = now.instant;
        self.waiting_for_ping_response = false;
        self.ping_due = false;
        if kind == COPY_DATA {
            return self.handle_message(now, frame.body).map(Some);
        }
        if kind == COPY_DONE {
            self.copy_done_received = true;
            if self.copy_done == Farewell::Open {
                self.copy_done = Farewell::Due;
            }
            return Ok(self.is_ended().then_some(SenderEvent::StreamEnded));
        }
        self.terminated = true;
        Ok(Some(SenderEvent::Terminated))
    }

    /// PostgreSQL: `ProcessStandbyMessage`.
    fn handle_message(&mut self, now: Now, body: &[u8]) -> Result<SenderEvent, PeerViolation> {
        match body.first() {
            Some(&StandbyStatusUpdate::KIND) => {
                let status = StandbyStatusUpdate::decode(body).map_err(violation)?;
                self.handle_status(now, status);
                Ok(SenderEvent::Status(status))
            }
            Some(&HotStandbyFeedback::KIND) => {
                let feedback = HotStandbyFeedback::decode(body).map_err(violation)?;
                Ok(SenderEvent::Feedback(feedback))
            }
            Some(&got) => Err(PeerViolation::MessageType { got }),
            None => Err(PeerViolation::Body(Malformed::Truncated)),
        }
    }

    /// PostgreSQL: `ProcessStandbyReplyMessage`.
    fn handle_status(&mut self, now: Now, status: StandbyStatusUpdate) {
        let read = Lags {
            write: self.lag.read(now.instant, LagHead::Write, status.write),
            flush: self.lag.read(now.instant, LagHead::Flush, status.flush),
            apply: self.lag.read(now.instant, LagHead::Apply, status.apply),
        };
        // A standby that has replayed everything twice in a row is idle: its old lag would only
        // mislead.
        let fully_applied = status.apply == self.sent_lsn;
        let clear = fully_applied && self.fully_applied_last_time;
        self.fully_applied_last_time = fully_applied;
        let kept = if clear { Lags::default() } else { self.lags };
        self.lags = Lags {
            write: read.write.or(kept.write),
            flush: read.flush.or(kept.flush),
            apply: read.apply.or(kept.apply),
        };
        self.reply_due |= status.reply_requested;
        self.status = Some(status);
        let told = status.write.max(status.flush).max(status.apply);
        if self.timeline_end.is_none() && Some(told) > self.sendable_lsn {
            self.seam = self.seam.max(Some(told));
        }
        self.advance();
    }

    /// WAL up to `sendable` may be sent. A position before an earlier one changes nothing.
    pub fn handle_sendable(&mut self, now: Now, sendable: Lsn) {
        let is_first = self.sendable_lsn.is_none();
        self.sendable_lsn = self.sendable_lsn.max(Some(sendable));
        if self.seam == self.sendable_lsn || is_first && self.seam < self.sendable_lsn {
            self.seam = None;
        }
        self.lag.handle_wal(now.instant, self.request_lsn().unwrap_or(sendable));
        self.advance();
    }

    /// The timeline ends at `switchpoint`: WAL is sent up to there, then CopyDone. Whatever was
    /// sent past it stays sent, and CopyDone follows at once, as PostgreSQL does.
    pub fn handle_timeline_end(&mut self, now: Now, switchpoint: Lsn) {
        // Where a timeline was left never changes.
        let end = *self.timeline_end.get_or_insert(switchpoint);
        self.lag.handle_wal(now.instant, end);
        self.advance();
    }

    /// The server stops (fast): everything up to `end` is sent, then awaited.
    /// PostgreSQL: `HandleWalSndInitStopping`, `WalSndDone`.
    pub fn begin_stop(&mut self, now: Now, end: Lsn) {
        self.stop_at = Some(end);
        self.state = WalSenderState::Stopping;
        self.handle_sendable(now, end);
    }

    /// The last transmit was taken whole by the kernel.
    ///
    /// Returns [`SenderEvent::StreamEnded`] when it was the CopyDone that ends the stream.
    ///
    /// # Panics
    /// If no transmit is outstanding.
    pub fn handle_sent(&mut self, now: Now) -> Option<SenderEvent> {
        let _ = now;
        let sent = self.in_flight.take();
        assert!(sent.is_some(), "no transmit is outstanding");
        match sent? {
            InFlight::Keepalive => {}
            InFlight::Wal { end } => self.sent_lsn = end,
            InFlight::CopyDone => self.copy_done = Farewell::Sent,
            InFlight::CommandComplete => self.command_complete = Farewell::Sent,
        }
        self.advance();
        (sent? == InFlight::CopyDone && self.is_ended()).then_some(SenderEvent::StreamEnded)
    }

    /// Time has passed. PostgreSQL: `WalSndCheckTimeOut`, `WalSndKeepaliveIfNecessary`.
    pub fn handle_timeout(&mut self, now: Now) {
        let Some(timeout) = self.config.timeout else { return };
        if now.instant >= self.last_reply + timeout {
            self.timed_out = true;
        } else if !self.waiting_for_ping_response && now.instant >= self.last_reply + timeout / 2 {
            self.ping_due = true;
        }
    }

    /// When [`WalSender::handle_timeout`] has something to do. PostgreSQL: `WalSndComputeSleeptime`.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timeout = self.config.timeout.filter(|_| !self.timed_out)?;
        let pinged = self.waiting_for_ping_response || self.ping_due;
        Some(self.last_reply + if pinged { timeout } else { timeout / 2 })
    }

    /// What to send now; `None` while a transmit is outstanding or when nothing is due.
    pub fn poll_transmit(&mut self, now: Now) -> Option<Transmit> {
        if self.in_flight.is_some() || self.timed_out || self.terminated || self.is_ended() {
            return None;
        }
        if self.state == WalSenderState::Startup {
            self.state = WalSenderState::Catchup;
            self.advance();
        }
        let (in_flight, transmit) = self.next_transmit(now)?;
        self.in_flight = Some(in_flight);
        Some(transmit)
    }

    fn next_transmit(&mut self, now: Now) -> Option<(InFlight, Transmit)> {
        if self.is_replicated() {
            if self.command_complete == Farewell::Sent {
                return None;
            }
            self.command_complete = Farewell::Due;
            let mut encoder = Encoder::new();
            encoder.command_complete("COPY 0");
            return Some((InFlight::CommandComplete, Transmit::Message(encoder.take())));
        }
        // After our CopyDone the direction is closed, for keepalives too.
        if self.copy_done == Farewell::Sent {
            return None;
        }
        // While a server stops, a standby is asked until it has everything. PostgreSQL: WalSndDone.
        let stop_ping = self.stop_at.is_some() && self.is_caught_up();
        self.ping_due |= stop_ping && !self.waiting_for_ping_response;
        if self.ping_due || self.reply_due {
            let reply_requested = core::mem::take(&mut self.ping_due);
            self.reply_due = false;
            self.waiting_for_ping_response |= reply_requested;
            let keepalive =
                PrimaryKeepalive { end: self.sent_lsn, sent: now.wall, reply_requested };
            let message = Vec::from(keepalive.encode());
            return Some((InFlight::Keepalive, Transmit::Message(message)));
        }
        if self.copy_done == Farewell::Due {
            return Some((InFlight::CopyDone, Transmit::Message(Vec::from(COPY_DONE_MESSAGE))));
        }
        let (range, end) = self.next_range()?;
        let data = XLogData { start: range.start, end, sent: now.wall };
        let header = data.encode_header(range.len());
        Some((InFlight::Wal { end: range.end }, Transmit::Wal { header, range }))
    }

    /// The next piece of WAL, and the end of all there is. PostgreSQL: `XLogSendPhysical`.
    fn next_range(&self) -> Option<(LsnRange, Lsn)> {
        let request = self.request_lsn()?;
        if request <= self.sent_lsn {
            return None;
        }
        let (min, max) = MESSAGE_BYTES_BOUNDS;
        let bytes_max = self.config.message_bytes_max.clamp(min, max);
        let end = if request - self.sent_lsn <= bytes_max {
            request
        } else {
            // A cut on a page boundary: a record may then be parted only where a page header
            // parts it anyway, which PostgreSQL's recovery counts on.
            (self.sent_lsn + bytes_max).align_down(WAL_PAGE_BYTES)
        };
        Some((LsnRange::new(self.sent_lsn, end), request))
    }

    /// How far WAL may be sent. PostgreSQL: `SendRqstPtr`.
    fn request_lsn(&self) -> Option<Lsn> {
        match (self.sendable_lsn, self.timeline_end) {
            (Some(sendable), Some(end)) => Some(sendable.min(end)),
            // All of a historic timeline is there.
            (None, end) => end,
            (sendable, None) => sendable,
        }
    }

    /// Whether nothing remains to be sent right now. PostgreSQL: `WalSndCaughtUp`.
    fn is_caught_up(&self) -> bool {
        if self.in_flight.is_some() {
            return false;
        }
        match self.timeline_end {
            // Not all of a timeline that was left is here yet, and no more will come.
            Some(end) if self.stop_at.is_some_and(|stop| stop < end) => {
                self.stop_at.is_some_and(|stop| stop <= self.sent_lsn)
            }
            Some(_) => self.copy_done == Farewell::Sent,
            None => {
                self.copy_done == Farewell::Sent
                    || self.request_lsn().is_some_and(|request| request <= self.sent_lsn)
            }
        }
    }

    /// Whether a stopping server has sent everything and the standby has it.
    /// PostgreSQL: `WalSndDone`.
    fn is_replicated(&self) -> bool {
        let status = self.status.unwrap_or_default();
        let replicated = status.flush.valid().unwrap_or(status.write);
        // A standby that claims more than was sent has all of it: it would never be equal.
        self.stop_at.is_some() && self.is_caught_up() && replicated >= self.sent_lsn
    }

    /// Does what follows from the positions.
    fn advance(&mut self) {
        let at_end = self.timeline_end.is_some_and(|end| {
            end <= self.sent_lsn && !matches!(self.in_flight, Some(InFlight::Wal { .. }))
        });
        if at_end && self.copy_done == Farewell::Open {
            self.copy_done = Farewell::Due;
        }
        let is_joined = self.is_joined();
        if self.state == WalSenderState::Catchup && is_joined && self.is_caught_up() {
            self.state = WalSenderState::Streaming;
        } else if self.state == WalSenderState::Streaming && !is_joined {
            // It has only now said that it is ahead.
            self.state = WalSenderState::Catchup;
        }
    }

    /// Whether the standby goes on with this server's WAL: it was not ahead, or has made durable what
    /// was sent to it beyond the seam.
    fn is_joined(&self) -> bool {
        let flush = self.status.map(|status| status.flush).unwrap_or_default();
        self.seam.is_none() || self.counted(flush).is_some()
    }

    /// Asserts the invariants.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        if let Some(InFlight::Wal { end }) = self.in_flight {
            assert!(end > self.sent_lsn, "an empty message at {}", self.sent_lsn);
            assert!(Some(end) <= self.sendable_lsn.max(self.timeline_end), "{end} is not sendable");
            assert!(self.copy_done != Farewell::Sent, "WAL after CopyDone");
        }
        if let Some(InFlight::CopyDone) = self.in_flight {
            assert!(self.copy_done == Farewell::Due, "CopyDone twice");
        }
        assert!(!self.is_drained() || self.stop_at.is_some(), "drained without a stop");
        assert!(
            self.stop_at.is_none() || self.state == WalSenderState::Stopping,
            "stopping in state {:?}",
            self.state
        );
    }
}

fn violation(malformed: Malformed) -> PeerViolation {
    match malformed {
        Malformed::Length { got } => PeerViolation::MessageLength { got },
        Malformed::Truncated
        | Malformed::Empty
        | Malformed::TrailingBytes { .. }
        | Malformed::UnterminatedString
        | Malformed::InvalidUtf8
        | Malformed::MessageType { .. } => PeerViolation::Body(malformed),
    }
}

const _: () = assert!(FRAME_HEADER_LEN == COPY_DONE_MESSAGE.len());
