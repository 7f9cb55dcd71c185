//! One upstream session: identify, start, stream, end of timeline.
//!
//! The machine begins with an authenticated connection that is ready for a query and ends with the
//! connection. It follows the upstream from timeline to timeline by itself.
//!
//! Not here: connecting and authenticating (the control plane), checking or storing WAL (`record`
//! and the daemon's `hub`), when to connect again.
//!
//! PostgreSQL: `WalReceiverMain` (src/backend/replication/walreceiver.c),
//! src/backend/replication/libpqwalreceiver.

mod error;
mod flow;
mod frames;
mod histories;
mod reply;
mod result;
mod stopping;

#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::convert::to_u64;
use crate::feedback::Horizons;
use crate::lsn::{Lsn, SystemIdentifier, TimelineId};
use crate::segment::SegmentSize;
use crate::sqlstate::SqlState;
use crate::time::{Instant, Now, Timestamp};
use crate::wire::copy::{COPY_DATA, COPY_DONE, COPY_DONE_MESSAGE, PrimaryKeepalive};
use crate::wire::error_response::ErrorResponse;
use crate::wire::reader::{FRAME_HEADER_LEN, Malformed};

use frames::{FrameSplitter, Part};
use reply::Replies;
use result::ResultSet;
use stopping::{Heard, StopDetector, Verdict};

pub use error::{Activity, UpstreamViolation};
pub use histories::{HISTORIES_MAX, KnownHistories};

/// Bytes that may come in answer to one command, or between two messages of the stream; a history file of
/// the longest kind is a quarter of it.
pub const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Settings of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalReceiverConfig {
    /// `primary_slot_name`.
    pub slot_name: Option<String>,
    /// `primary_slot_create`.
    pub slot_create: bool,
    /// `wal_receiver_status_interval`; `None` is off.
    pub status_interval: Option<Duration>,
    /// `wal_receiver_timeout`; `None` is off.
    pub timeout: Option<Duration>,
    /// `hot_standby_feedback`.
    pub hot_standby_feedback: bool,
}

impl Default for WalReceiverConfig {
    fn default() -> Self {
        Self {
            slot_name: None,
            slot_create: false,
            status_interval: Some(Duration::from_secs(10)),
            timeout: Some(Duration::from_secs(60)),
            hot_standby_feedback: false,
        }
    }
}

/// What is here already; everything is `None` on a fresh hub.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LocalWal {
    /// Whose WAL it is.
    pub system_identifier: Option<SystemIdentifier>,
    /// Size of its segments.
    pub segment_size: Option<SegmentSize>,
    /// Timeline of its end.
    pub timeline: Option<TimelineId>,
    /// Its end: the first byte that is missing.
    pub next_lsn: Option<Lsn>,
}

/// What a session is doing. PostgreSQL: `WalRcvState`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalReceiverState {
    /// The connection is over, or was never there.
    Stopped,
    /// Before the first WAL.
    Starting,
    /// The upstream sends WAL.
    Streaming,
    /// Waiting for a place to start.
    Waiting,
    /// A timeline has ended, and WAL of the next one has not come yet.
    Restarting,
    /// Told to stop, Terminate not yet sent.
    Stopping,
}

impl WalReceiverState {
    /// As `pg_stat_wal_receiver.status` shows it. PostgreSQL: `WalRcvGetStateString`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Streaming => "streaming",
            Self::Waiting => "waiting",
            Self::Restarting => "restarting",
            Self::Stopping => "stopping",
        }
    }
}

/// What the upstream has said or sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReceiverEvent<'a> {
    /// Who it is and where it stands.
    Identified {
        /// The cluster that the upstream serves.
        system_identifier: SystemIdentifier,
        /// The newest timeline that the upstream has.
        timeline: TimelineId,
        /// What it has flushed.
        flush_lsn: Lsn,
    },
    /// How large its segments are.
    SegmentSize(SegmentSize),
    /// The slot was not there and is now.
    SlotCreated,
    /// Content of the history file of a timeline, to be kept before its WAL comes.
    TimelineHistory {
        /// The timeline that the history is of.
        timeline: TimelineId,
        /// As it is in the file.
        content: Vec<u8>,
    },
    /// The upstream has no history file of a timeline that nothing here depends on.
    HistoryAbsent {
        /// The timeline whose history cannot be had.
        timeline: TimelineId,
        /// What the upstream said.
        reason: String,
    },
    /// WAL comes from here on.
    Started {
        /// The timeline of the WAL that follows.
        timeline: TimelineId,
        /// The position of its first byte.
        start: Lsn,
    },
    /// The next bytes of WAL.
    Wal {
        /// Position of the first.
        start: Lsn,
        /// The WAL itself.
        bytes: &'a [u8],
    },
    /// Where the upstream's WAL ends.
    Told {
        /// The upstream's end of WAL when it sent this.
        end: Lsn,
        /// When it said so, by its clock.
        sent: Timestamp,
    },
    /// The timeline has no more WAL; the session goes on with the next one.
    EndOfTimeline {
        /// Which one that is.
        next: TimelineId,
        /// Where the next timeline begins.
        switchpoint: Lsn,
    },
}

/// How the stream goes on, if WAL follows WAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalAhead {
    /// Bytes that are still to come of the message that has begun: the next ones are WAL.
    pub left: usize,
    /// Bytes before the first one of the next message's WAL, if it is one with WAL: 30 at most.
    pub header_len: usize,
    /// How much WAL the last message had.
    pub message_len: usize,
}

/// Which command is running, and what comes after all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    IdentifySystem,
    ShowSegmentSize,
    ReadSlot,
    CreateSlot,
    TimelineHistory(TimelineId),
    StartReplication,
    Streaming,
    /// CopyDone was received and answered.
    EndStreaming,
    /// Stopped or failed: whatever comes is dropped.
    Over,
}

/// Receives WAL from one upstream.
///
/// Invariants:
/// - One command is outstanding at a time.
/// - WAL events are contiguous from `Started.start`; `next_lsn` is where the next one begins.
#[derive(Debug)]
pub struct WalReceiver {
    config: WalReceiverConfig,
    server_version_num: u32,
    local: LocalWal,
    state: WalReceiverState,
    stage: Stage,
    /// Commands to come, the next one first.
    plan: VecDeque<Stage>,
    frames: FrameSplitter,
    result: ResultSet,
    /// The slot exists already: CREATE_REPLICATION_SLOT has said so.
    duplicate_slot: bool,
    /// A slot was created in this session.
    slot_created: bool,
    upstream_timeline: TimelineId,
    upstream_flush: Lsn,
    /// `restart_lsn` and timeline of the slot.
    slot_restart: Option<(Lsn, Option<TimelineId>)>,
    /// Histories that need not be asked for.
    known: KnownHistories,
    /// The upstream's words where it has no history file.
    history_absent: Option<String>,
    /// The timeline whose history is needed next, whatever the upstream's newest is.
    needed: Option<TimelineId>,
    /// Timeline being streamed or about to be.
    timeline: TimelineId,
    next_lsn: Lsn,
    /// What is to be sent: commands, CopyDone, Terminate.
    out: Vec<u8>,
    replies: Replies,
    /// The keepalive that came last, until it is judged.
    heard: Option<Heard>,
    stop_detector: StopDetector,
    /// Length of the WAL in the last message with WAL.
    message_len: usize,
    last_recv: Instant,
    /// When the command that is running was sent.
    step_began: Instant,
    /// Bytes of its answer so far; while WAL streams, of what has come since the last of its messages.
    answer_bytes: usize,
}

impl WalReceiver {
    /// Begins on a connection that is ready for a query; `server_version_num` is as 150018.
    #[must_use]
    pub fn new(
        config: WalReceiverConfig,
        now: Now,
        local: LocalWal,
        server_version_num: u32,
    ) -> Self {
        let mut receiver = Self {
            config,
            server_version_num,
            local,
            state: WalReceiverState::Starting,
            stage: Stage::Over,
            plan: VecDeque::from([Stage::IdentifySystem, Stage::ShowSegmentSize]),
            frames: FrameSplitter::new(),
            result: ResultSet::default(),
            duplicate_slot: false,
            slot_created: false,
            upstream_timeline: TimelineId::FIRST,
            upstream_flush: Lsn::INVALID,
            slot_restart: None,
            known: KnownHistories::default(),
            history_absent: None,
            needed: None,
            timeline: local.timeline.unwrap_or(TimelineId::FIRST),
            next_lsn: local.next_lsn.unwrap_or_default(),
            out: Vec::new(),
            replies: Replies::new(),
            heard: None,
            stop_detector: StopDetector::default(),
            message_len: 0,
            last_recv: now.instant,
            step_began: now.instant,
            answer_bytes: 0,
        };
        receiver.begin_next_step(now);
        receiver
    }

    /// Says which histories are here, at the latest in answer to [`ReceiverEvent::Identified`].
    pub fn set_known_histories(&mut self, known: KnownHistories) {
        self.known = known;
    }

    /// What the session is doing.
    #[must_use]
    pub const fn state(&self) -> WalReceiverState {
        self.state
    }

    /// Timeline that is streamed or about to be.
    #[must_use]
    pub const fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// Where the next WAL begins.
    #[must_use]
    pub const fn next_lsn(&self) -> Lsn {
        self.next_lsn
    }

    /// What comes next, for a receive that puts WAL where it belongs; `None` while no WAL streams.
    #[must_use]
    pub fn wal_ahead(&self) -> Option<WalAhead> {
        let (left, header_len) = self.frames.ahead().filter(|_| self.stage == Stage::Streaming)?;
        Some(WalAhead { left, header_len, message_len: self.message_len })
    }

    /// Looks at the keepalive that came with the last [`ReceiverEvent::Told`], if one did; `is_withheld`
    /// says whether the upstream was told less than it waits for when it stops.
    ///
    /// Returns whether it stops, and asks for that in vain. Whoever does not ask this does not find out.
    pub fn is_waiting_in_vain(&mut self, now: Now, is_withheld: bool) -> bool {
        let Some(heard) = self.heard.take() else { return false };
        match self.stop_detector.note(now.instant, heard, is_withheld) {
            Verdict::Nothing => false,
            Verdict::Ask => {
                self.replies.ask();
                false
            }
            Verdict::IsAnswered => {
                self.replies.drop_request();
                false
            }
            Verdict::Stops => true,
        }
    }

    /// Takes new settings, after a reload. The slot is that of the next session.
    pub fn set_config(&mut self, now: Now, config: WalReceiverConfig) {
        self.config = config;
        self.replies.handle_config(now, &self.config);
    }

    /// Takes bytes from the front, up to an event. All are taken when there is none: what must be
    /// kept until more come is kept inside.
    ///
    /// # Errors
    /// When the upstream refused or broke a rule; the session is over, and so is the connection.
    pub fn handle_bytes<'a>(
        &mut self,
        now: Now,
        bytes: &mut &'a [u8],
    ) -> Result<Option<ReceiverEvent<'a>>, UpstreamViolation> {
        if !bytes.is_empty() {
            self.last_recv = now.instant;
            self.replies.handle_received();
        }
        let result = self.next_event(now, bytes);
        if result.is_err() {
            self.end();
        }
        result
    }

    fn next_event<'a>(
        &mut self,
        now: Now,
        bytes: &mut &'a [u8],
    ) -> Result<Option<ReceiverEvent<'a>>, UpstreamViolation> {
        loop {
            if self.stage == Stage::Over {
                *bytes = &[];
                return Ok(None);
            }
            let Some(part) = self.frames.next(bytes)? else { return Ok(None) };
            let event = match part {
                Part::WalHeader { data, len } => {
                    self.expect_streaming(COPY_DATA)?;
                    self.answer_bytes = 0;
                    self.message_len = len;
                    self.heard = None;
                    if len > 0 && data.start != self.next_lsn {
                        let (got, want) = (data.start, self.next_lsn);
                        return Err(UpstreamViolation::Discontinuity { got, want });
                    }
                    Some(ReceiverEvent::Told { end: data.end, sent: data.sent })
                }
                Part::Wal(wal) => {
                    let start = self.next_lsn;
                    let end = start
                        .0
                        .checked_add(to_u64(wal.len()))
                        .ok_or(UpstreamViolation::WalMessage)?;
                    self.next_lsn = Lsn(end);
                    Some(ReceiverEvent::Wal { start, bytes: wal })
                }
                Part::Message { kind, body } => self.handle_message(now, kind, &body)?,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    fn handle_message(
        &mut self,
        now: Now,
        kind: u8,
        body: &[u8],
    ) -> Result<Option<ReceiverEvent<'static>>, UpstreamViolation> {
        let malformed = |malformed: Malformed| UpstreamViolation::Body { kind, malformed };
        self.answer_bytes += body.len() + FRAME_HEADER_LEN;
        if self.answer_bytes > ANSWER_BYTES_MAX {
            return Err(UpstreamViolation::Flood { during: self.activity() });
        }
        match kind {
            // Notices, parameter changes and notifications may come at any time.
            b'N' | b'S' | b'A' => Ok(None),
            b'E' => {
                let error = ErrorResponse::decode(body).map_err(malformed)?;
                self.handle_error(error).map(|()| None)
            }
            COPY_DATA => {
                self.expect_streaming(kind)?;
                self.answer_bytes = 0;
                self.handle_copy_message(body).map(Some)
            }
            COPY_DONE => {
                self.expect_streaming(kind)?;
                self.out.extend_from_slice(&COPY_DONE_MESSAGE);
                self.replies.stop();
                self.state = WalReceiverState::Restarting;
                self.result = ResultSet::default();
                self.stage = Stage::EndStreaming;
                self.step_began = now.instant;
                self.answer_bytes = 0;
                Ok(None)
            }
            b'W' if self.stage == Stage::StartReplication => {
                self.stage = Stage::Streaming;
                self.state = WalReceiverState::Streaming;
                self.answer_bytes = 0;
                self.replies.start(now, &self.config);
                let (timeline, start) = (self.timeline, self.next_lsn);
                Ok(Some(ReceiverEvent::Started { timeline, start }))
            }
            // A primary that stops ends the stream by CommandComplete alone. PostgreSQL: WalSndDone.
            b'C' if self.stage == Stage::Streaming => Err(self.terminated()),
            b'T' | b'D' | b'C' | b'Z' if self.stage != Stage::Streaming => {
                match kind {
                    b'T' => self.result.handle_description(body).map_err(malformed)?,
                    b'D' => self.result.handle_row(body).map_err(malformed)?,
                    b'Z' => return self.finish_stage(now),
                    _ => {}
                }
                Ok(None)
            }
            got => Err(UpstreamViolation::UnexpectedFrame { got, during: self.activity() }),
        }
    }

    /// PostgreSQL: `XLogWalRcvProcessMsg`.
    fn handle_copy_message(
        &mut self,
        body: &[u8],
    ) -> Result<ReceiverEvent<'static>, UpstreamViolation> {
        match body.first() {
            Some(&PrimaryKeepalive::KIND) => {
                let keepalive =
                    PrimaryKeepalive::decode(body).map_err(|_| UpstreamViolation::Keepalive)?;
                if keepalive.reply_requested {
                    self.replies.request();
                    self.heard = Some(Heard::Request);
                } else {
                    self.heard = Some(Heard::Answer);
                }
                Ok(ReceiverEvent::Told { end: keepalive.end, sent: keepalive.sent })
            }
            first => {
                let got = first.copied().unwrap_or_default();
                Err(UpstreamViolation::MessageType { got })
            }
        }
    }

    fn handle_error(&mut self, error: ErrorResponse) -> Result<(), UpstreamViolation> {
        if self.stage == Stage::CreateSlot && error.is(SqlState::DUPLICATE_OBJECT) {
            self.duplicate_slot = true;
            return Ok(());
        }
        if let Stage::TimelineHistory(timeline) = self.stage
            && !self.needs_history(timeline)
            && error.leaves_session()
            && error.is(SqlState::UNDEFINED_FILE)
        {
            self.history_absent = Some(error.message);
            return Ok(());
        }
        Err(UpstreamViolation::Server { during: self.activity(), error: Box::new(error) })
    }

    fn expect_streaming(&self, got: u8) -> Result<(), UpstreamViolation> {
        if self.stage == Stage::Streaming {
            return Ok(());
        }
        Err(UpstreamViolation::UnexpectedFrame { got, during: self.activity() })
    }

    const fn terminated(&self) -> UpstreamViolation {
        UpstreamViolation::Terminated { timeline: self.timeline, end: self.next_lsn }
    }

    const fn activity(&self) -> Activity {
        match self.stage {
            Stage::IdentifySystem => Activity::IdentifySystem,
            Stage::ShowSegmentSize => Activity::ShowSegmentSize,
            Stage::ReadSlot => Activity::ReadSlot,
            Stage::CreateSlot => Activity::CreateSlot,
            Stage::TimelineHistory(_) => Activity::TimelineHistory,
            Stage::StartReplication => Activity::StartReplication,
            Stage::Streaming | Stage::Over => Activity::Streaming,
            Stage::EndStreaming => Activity::EndStreaming,
        }
    }

    /// Our positions have moved: the upstream hears of it at once.
    pub fn handle_progress(&mut self, now: Now, write: Lsn, flush: Lsn, apply: Lsn) {
        let _ = now;
        self.replies.handle_progress(&self.config, write, flush, apply);
    }

    /// What the standbys downstream need; `None` when there are none that need anything.
    pub fn handle_feedback(&mut self, now: Now, horizons: Option<Horizons>) {
        let _ = now;
        self.replies.handle_feedback(horizons.unwrap_or_default());
    }

    /// Nothing is being received because there is no room for it here: the upstream is not silent, we
    /// are deaf.
    pub fn handle_backpressure(&mut self, now: Now) {
        self.last_recv = now.instant;
        self.step_began = now.instant;
    }

    /// Time has passed.
    ///
    /// # Errors
    /// [`UpstreamViolation::Timeout`] when the upstream was silent for too long,
    /// [`UpstreamViolation::NoAnswer`] when it says much and does not answer.
    pub fn handle_timeout(&mut self, now: Now) -> Result<(), UpstreamViolation> {
        if self.stage == Stage::Over {
            return Ok(());
        }
        if self.config.timeout.is_some_and(|timeout| now.instant >= self.last_recv + timeout) {
            self.end();
            return Err(UpstreamViolation::Timeout);
        }
        if self.answer_due().is_some_and(|due| now.instant >= due) {
            let during = self.activity();
            self.end();
            return Err(UpstreamViolation::NoAnswer { during });
        }
        self.replies.handle_timeout(now, &self.config, self.last_recv);
        Ok(())
    }

    /// When the command that is running must have been answered.
    fn answer_due(&self) -> Option<Instant> {
        let timeout = self.config.timeout.filter(|_| self.stage != Stage::Streaming)?;
        Some(self.step_began + timeout)
    }

    /// When [`WalReceiver::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.stage == Stage::Over {
            return None;
        }
        let silent = self.config.timeout.map(|timeout| self.last_recv + timeout);
        let silent = silent.into_iter().chain(self.answer_due());
        silent.chain(self.replies.poll_timeout(&self.config, self.last_recv)).min()
    }

    /// Bytes to send now, whole, before any later ones.
    ///
    /// Replies carry the newest positions at the time of the call, so the caller asks only when
    /// the last bytes are with the kernel.
    pub fn poll_transmit(&mut self, now: Now) -> Option<Vec<u8>> {
        let mut bytes = core::mem::take(&mut self.out);
        if self.state == WalReceiverState::Streaming {
            self.replies.encode(now, &self.config, &mut bytes);
        }
        if self.state == WalReceiverState::Stopping {
            self.state = WalReceiverState::Stopped;
        }
        (!bytes.is_empty()).then_some(bytes)
    }

    fn end(&mut self) {
        self.stage = Stage::Over;
        self.state = WalReceiverState::Stopped;
        self.out.clear();
        self.plan.clear();
    }

    /// Asserts the invariants.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        let streams = self.state == WalReceiverState::Streaming;
        assert!(
            streams == (self.stage == Stage::Streaming),
            "{:?} in {:?}",
            self.state,
            self.stage
        );
        let over = matches!(self.state, WalReceiverState::Stopping | WalReceiverState::Stopped);
        assert!(over == (self.stage == Stage::Over), "{:?} in {:?}", self.state, self.stage);
        let settled = streams || over || self.stage == Stage::EndStreaming;
        assert!(!settled || self.plan.is_empty(), "{:?} before {:?}", self.stage, self.plan);
    }
}
