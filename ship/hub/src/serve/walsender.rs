//! One standby's stream: the walsender machine, joined to a socket, the tail and segment files.
//!
//! Not here: what to send when (`walhub_proto::walsender`), which sessions there are (`ship_core`).

mod leave;
mod tls;
mod zero_copy;

pub use leave::Moved;

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::sync::oneshot;
use walhub_engine::buffer::{Buffer, BufferPool};
use walhub_engine::io::{Done, FileId, Gather, Head, Io, Op, OpenMode, SocketId, Token, ZeroCopy};
use walhub_proto::convert::{to_u64, to_usize};
use walhub_proto::feedback::{FullTransactionId, Horizons};
use walhub_proto::lsn::{Lsn, LsnRange, TimelineId};
use walhub_proto::segment::SegNo;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::time::{Instant, Now};
use walhub_proto::walsender::{SenderEvent, Transmit, WalSender, WalSenderConfig, WalSenderState};
use walhub_proto::wire::backend::{Encoder, Report};

use crate::api::settings::ZerocopySend;
use crate::api::stream::{Client, StreamEnd};
use crate::api::tls::TlsRecords;
use crate::publish::positions::{LAG_UNKNOWN, SendPath, Shared, ShipStats, Standby};
use crate::serve::placement::{Destination, Placement};
use crate::store::tail::TailView;
use crate::store::timelines::Timelines;
use crate::store::wal_reader::removed;
use crate::store::writer::drop_front;
pub use tls::SEALED_BUFFER_LEN;
use tls::{Open, Tls};
pub use zero_copy::ZEROCOPY_UNACKED_BYTES_MAX;
use zero_copy::ZeroCopySends;

/// Bytes of a read from a socket. A reply is 39 bytes with its frame, and every idle standby waits with
/// such a buffer.
pub const REPLY_BUFFER_LEN: usize = 512;
/// How long a standby that is told why its session ends may take to hear it.
const LAST_WORDS_LINGER: Duration = Duration::from_secs(1);
/// Bytes that one message of a standby may have before it is complete.
pub const UNREAD_BYTES_MAX: usize = 64 << 10;

/// Which operation of a session completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalsenderOp {
    /// Receive.
    Recv,
    /// Send.
    Send,
    /// Open a segment.
    Open,
    /// Read a segment.
    Read,
    /// Close a segment.
    Close,
    /// Send from a segment without a copy.
    SendFile,
    /// Cancel the receive.
    Cancel,
}

impl WalsenderOp {
    /// By its number in a token.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        [Self::Recv, Self::Send, Self::Open, Self::Read, Self::Close, Self::SendFile, Self::Cancel]
            .into_iter()
            .find(|op| op.number() == number)
    }

    fn number(self) -> u64 {
        match self {
            Self::Recv => 0,
            Self::Send => 1,
            Self::Open => 2,
            Self::Read => 3,
            Self::Close => 4,
            Self::SendFile => 5,
            Self::Cancel => 6,
        }
    }

    /// The token of this operation of the session numbered `session`.
    #[must_use]
    pub fn token(self, tag: u64, session: u64) -> Token {
        Token(tag | session << 3 | self.number())
    }
}

/// What a session needs from its core.
#[derive(Debug)]
pub struct Context<'a, I: Io> {
    /// Disk and network.
    pub io: &'a mut I,
    /// Both clocks.
    pub now: Now,
    /// The newest WAL.
    pub tail: &'a TailView,
    /// Positions.
    pub shared: &'a Shared,
    /// End of what may be sent, as it was before the core last read its mail: up to here, what is not
    /// on disk is in `tail`.
    pub sendable: Lsn,
    /// The session's entry.
    pub standby: &'a Standby,
    /// Whether the entry says something new to the wal core.
    pub has_news: bool,
    /// Timelines that can be served.
    pub timelines: &'a Timelines,
    /// Where segments are.
    pub wal_dir: &'a Path,
    /// Memory for reads of segments.
    pub reads: &'a BufferPool,
    /// Memory for replies.
    pub replies: &'a BufferPool,
    /// Memory for records.
    pub sealed: &'a BufferPool,
    /// The core's place among the others; `None` when its sessions stay whatever comes.
    pub placement: Option<Placement>,
    /// Whether segments may be sent without a copy.
    pub sendfile: bool,
    /// When WAL is sent from the memory that it is in.
    pub zerocopy_send: ZerocopySend,
    /// What the core counts.
    pub stats: &'a ShipStats,
}

#[derive(Debug)]
struct Sending {
    head: Head,
    body: Gather,
    /// Of head and body, what is not sent; over TLS, what is not encrypted.
    rest: usize,
    /// The records that are on their way.
    sealed: Bytes,
    /// Whether the machine waits to hear that it was sent.
    of_machine: bool,
    wal: Option<LsnRange>,
    path: SendPath,
}

impl Sending {
    fn new(head: Head, body: Gather, wal: Option<LsnRange>) -> Self {
        let rest = head.as_slice().len() + body.iter().map(Bytes::len).sum::<usize>();
        let sealed = Bytes::new();
        Self { head, body, rest, sealed, of_machine: true, wal, path: SendPath::Tail }
    }

    fn by(self, path: SendPath) -> Self {
        Self { path, ..self }
    }

    fn not_of_machine(self) -> Self {
        Self { of_machine: false, ..self }
    }
}

/// A message whose WAL comes from segments.
#[derive(Debug)]
struct Reading {
    /// What is left to send of the header.
    header: Head,
    range: LsnRange,
    next: Lsn,
    body: Gather,
    /// Whether to try to send without a copy, before the first read.
    sendfile: bool,
    /// Whether a part of the message is with the kernel, or on its way to it.
    begun: bool,
    /// The timeline in the name of the file that was last opened.
    opened: Option<TimelineId>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Streaming,
    /// Both sides have sent CopyDone: hand the socket back once nothing is under way.
    Finishing,
    /// Send what is queued, then close once it is heard.
    LastWords,
    /// The socket is shut down: wait for what is under way, then close.
    Closing,
}

/// One standby's stream.
///
/// Invariants:
/// - at most one send, one receive and one file operation are under way; sending from a file is both;
/// - the receive is cancelled once, and only while nothing else is under way;
/// - the socket leaves only when nothing is, and the kernel sends from no memory of the tail any more.
#[derive(Debug)]
pub struct Walsender<C> {
    /// Its number on this core.
    pub number: u64,
    /// Its entry in the standby table.
    pub standby: usize,
    /// Who it is.
    pub client: Client,
    /// Where its end is told.
    pub reply: Option<oneshot::Sender<StreamEnd<C>>>,
    /// Timeline it streams.
    pub timeline: TimelineId,
    /// When its core looks at it, at the latest. The core's to set.
    pub timer: Option<Instant>,
    tag: u64,
    socket: SocketId,
    sender: WalSender,
    phase: Phase,
    unread: Vec<u8>,
    queued: Vec<u8>,
    sending: Option<Sending>,
    reading: Option<Reading>,
    receiving: bool,
    /// It goes to another core, and begins nothing here any more.
    leaving: Option<Destination>,
    cancelling: bool,
    /// The receive under way is cancelled; it may complete after its cancellation, or before.
    receive_cancelled: bool,
    file_busy: bool,
    file: Option<(SegNo, FileId)>,
    zero_copy: ZeroCopySends,
    tls: Option<Tls>,
    /// What is at the other end decodes, and has no WAL.
    logical: bool,
    reached_end_of_timeline: bool,
    /// When the session is closed that has said why it ends.
    heard_until: Option<Instant>,
}

/// How a session is begun.
#[derive(Debug)]
pub struct WalsenderStart<C> {
    /// Its number on this core.
    pub number: u64,
    /// Upper bits of its tokens.
    pub tag: u64,
    /// Its entry in the standby table.
    pub standby: usize,
    /// Who it is.
    pub client: Client,
    /// Where its end is told.
    pub reply: oneshot::Sender<StreamEnd<C>>,
    /// Timeline it streams.
    pub timeline: TimelineId,
    /// The socket.
    pub socket: SocketId,
    /// What can be sent to it without a copy.
    pub zero_copy: ZeroCopy,
    /// What encrypts on it.
    pub tls: Option<Box<dyn TlsRecords>>,
    /// Whether it decodes the WAL.
    pub logical: bool,
    /// The machine.
    pub sender: WalSender,
    /// Bytes that were read already.
    pub unread: Vec<u8>,
}

impl<C> Walsender<C> {
    /// Begins: CopyBothResponse is the first thing sent.
    #[must_use]
    pub fn new(start: WalsenderStart<C>) -> Self {
        let mut encoder = Encoder::new();
        encoder.copy_both_response();
        // What is encrypted is sent from the memory where that was done.
        let zero_copy = match start.tls {
            Some(_) => ZeroCopy::Unsupported,
            None => start.zero_copy,
        };
        Self {
            number: start.number,
            standby: start.standby,
            client: start.client,
            reply: Some(start.reply),
            timeline: start.timeline,
            timer: None,
            tag: start.tag,
            socket: start.socket,
            sender: start.sender,
            phase: Phase::Streaming,
            unread: start.unread,
            queued: encoder.take(),
            sending: None,
            reading: None,
            receiving: false,
            leaving: None,
            cancelling: false,
            receive_cancelled: false,
            file_busy: false,
            file: None,
            zero_copy: ZeroCopySends::new(zero_copy),
            tls: start.tls.map(Tls::new),
            logical: start.logical,
            reached_end_of_timeline: false,
            heard_until: None,
        }
    }

    /// The machine's state.
    #[must_use]
    pub fn state(&self) -> WalSenderState {
        self.sender.state()
    }

    /// When [`Walsender::pump`] must be called next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Streaming | Phase::Finishing => self.sender.poll_timeout(),
            Phase::LastWords => {
                self.sender.poll_timeout().into_iter().chain(self.heard_until).min()
            }
            Phase::Closing => self.zero_copy.deadline(),
        }
    }

    /// First position that this session may still need from disk.
    #[must_use]
    pub fn sent_lsn(&self) -> Lsn {
        self.sender.sent_lsn()
    }

    /// Whether nothing is under way and the session is to end.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        let idle = self.is_idle();
        match self.phase {
            Phase::Streaming | Phase::LastWords => false,
            Phase::Finishing => idle && self.queued.is_empty() && self.is_released(),
            Phase::Closing => idle && self.zero_copy.has_lingered(now),
        }
    }

    /// Whether the kernel sends from no memory of the tail any more.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.zero_copy.is_released()
    }

    fn is_idle(&self) -> bool {
        self.sending.is_none() && !self.receiving && !self.cancelling && !self.file_busy
    }

    /// Ends the session once [`Walsender::is_over`]: closes its file and gives the socket back or
    /// closes it.
    pub fn finish<I: Io<Conn = C>>(
        mut self,
        io: &mut I,
        timelines: &Timelines,
    ) -> (StreamEnd<C>, Option<FileId>) {
        let file = self.file.take().map(|(_, file)| file);
        let end = match self.phase {
            Phase::Finishing => {
                let next = self
                    .reached_end_of_timeline
                    .then(|| timelines.history.switchpoint(self.timeline))
                    .flatten()
                    .map(|(switchpoint, next)| (next, switchpoint));
                let (conn, tls) = (io.release(self.socket), self.tls.map(Tls::into_records));
                StreamEnd::Finished { conn, tls, unread: self.unread, next }
            }
            Phase::Streaming | Phase::LastWords | Phase::Closing => {
                if self.is_released() {
                    io.close_socket(self.socket);
                } else {
                    io.abort_socket(self.socket);
                }
                StreamEnd::Closed
            }
        };
        (end, file)
    }

    /// Takes new settings, after a reload.
    pub fn set_config(&mut self, config: WalSenderConfig) {
        self.sender.set_config(config);
    }

    /// The timeline being streamed ended at `switchpoint`.
    pub fn end_timeline(&mut self, now: Now, switchpoint: Lsn) {
        self.sender.handle_timeline_end(now, switchpoint);
    }

    /// The hub stops: everything up to `end` is sent, acknowledged, and the stream ended.
    pub fn begin_stop(&mut self, now: Now, end: Lsn) {
        self.sender.begin_stop(now, end);
    }

    /// Ends at once.
    pub fn close<I: Io>(&mut self, io: &mut I) {
        if self.phase != Phase::Closing {
            self.phase = Phase::Closing;
            self.zero_copy.begin_linger(Instant(io.now_ns()));
            io.shutdown(self.socket);
        }
    }

    /// Ends because somebody wants it to. The standby is told why unless it has something to read first:
    /// it may be wanted because it reads nothing.
    pub fn end<I: Io>(&mut self, context: &mut Context<'_, I>, report: Option<Report>) {
        if let Some(report) = report {
            if self.sending.is_none() && self.reading.is_none() {
                return self.fail(context, &report);
            }
            crate::api::report::report(&report);
        }
        self.close(context.io);
    }

    /// Tells the standby why, then ends.
    pub fn fail<I: Io>(&mut self, context: &mut Context<'_, I>, report: &Report) {
        crate::api::report::report(report);
        if self.phase == Phase::Closing {
            return;
        }
        if self.reading.as_ref().is_some_and(|reading| reading.begun) {
            // Nothing can be said inside a message.
            return self.close(context.io);
        }
        let mut encoder = Encoder::new();
        encoder.report(report);
        self.queued.extend(encoder.take());
        self.phase = Phase::LastWords;
        self.reading = None;
        self.pump(context);
    }

    /// Does everything that can be done now.
    pub fn pump<I: Io>(&mut self, context: &mut Context<'_, I>) {
        if self.phase == Phase::Closing {
            return;
        }
        self.sender.handle_timeout(context.now);
        if self.sender.is_timed_out() {
            tracing::info!("terminating walsender process due to replication timeout");
            return self.close(context.io);
        }
        if self.must_leave(context) {
            return;
        }
        self.receive(context);
        // A historic timeline's end is the machine's own bound.
        self.sender.handle_sendable(context.now, context.sendable);
        self.transmit(context);
        context.has_news |= context.standby.set_seam(self.sender.seam());
        context.has_news |= context.standby.set_state(self.sender.state());
    }

    fn receive<I: Io>(&mut self, context: &mut Context<'_, I>) {
        let is_wanted = match self.phase {
            // What follows the standby's CopyDone is a command, and the control plane's to receive.
            Phase::Streaming => self.sender.takes_messages(),
            Phase::LastWords => true,
            Phase::Finishing | Phase::Closing => false,
        };
        if self.receiving || !is_wanted {
            return;
        }
        let buf = context.replies.take().unwrap_or_else(|| Buffer::with_capacity(REPLY_BUFFER_LEN));
        let op = Op::Recv { socket: self.socket, buf };
        context.io.submit(WalsenderOp::Recv.token(self.tag, self.number), op);
        self.receiving = true;
    }

    fn transmit<I: Io>(&mut self, context: &mut Context<'_, I>) {
        if self.sending.is_some() || self.reading.is_some() {
            return;
        }
        if !self.queued.is_empty() || self.tls.as_ref().is_some_and(Tls::has_words) {
            let body = Gather::from_iter([Bytes::from(std::mem::take(&mut self.queued))]);
            return self.send(context, Sending::new(Head::new(&[]), body, None).not_of_machine());
        }
        match self.phase {
            Phase::Streaming | Phase::Finishing => {}
            Phase::LastWords => return self.wait_until_heard(context),
            Phase::Closing => return,
        }
        match self.sender.poll_transmit(context.now) {
            None => {
                if self.sender.is_drained() {
                    self.phase = Phase::LastWords;
                    if self.tls.is_some() {
                        // It has a last word of its own.
                        return self.wait_until_heard(context);
                    }
                    self.close(context.io);
                }
            }
            Some(Transmit::Message(message)) => {
                self.reached_end_of_timeline |= message.first() == Some(&b'c');
                let body = Gather::from_iter([Bytes::from(message)]);
                self.send(context, Sending::new(Head::new(&[]), body, None));
            }
            Some(Transmit::Wal { header, range }) => {
                let header = Head::new(&header);
                let mut body = Gather::new();
                if context.tail.gather(range, &mut body) {
                    let zero_copy = self.zero_copy.is_wanted(context.zerocopy_send, range);
                    let path = if zero_copy { SendPath::ZeroCopy } else { SendPath::Tail };
                    self.send(context, Sending::new(header, body, Some(range)).by(path));
                } else {
                    let sendfile = context.sendfile && self.tls.is_none();
                    let next = range.start;
                    self.reading = Some(Reading {
                        header,
                        range,
                        next,
                        body,
                        sendfile,
                        begun: false,
                        opened: None,
                    });
                    self.read_on(context);
                }
            }
        }
    }

    /// Closes when the standby has, or after a moment: a socket that is closed while there is something to
    /// read takes back what was sent last. PostgreSQL's walsender does not close at all after an error.
    fn wait_until_heard<I: Io>(&mut self, context: &mut Context<'_, I>) {
        if self.tls.as_mut().is_some_and(Tls::close) {
            return self.transmit(context);
        }
        let now = context.now.instant;
        if *self.heard_until.get_or_insert(now + LAST_WORDS_LINGER) <= now {
            self.close(context.io);
        }
    }

    fn send<I: Io>(&mut self, context: &mut Context<'_, I>, mut sending: Sending) {
        let (socket, mut head, mut body) = (self.socket, sending.head, Gather::new());
        match &mut self.tls {
            None => body.clone_from(&sending.body),
            Some(tls) => {
                if let Err(error) = tls.seal(&mut sending, context.sealed) {
                    tracing::info!(
                        "could not encrypt for standby \"{}\": {error}",
                        self.client.application_name
                    );
                    return self.close(context.io);
                }
                head = Head::new(&[]);
                body.push(sending.sealed.clone());
            }
        }
        let op = match sending.path {
            SendPath::ZeroCopy => Op::SendZeroCopy { socket, head, body },
            SendPath::Tail | SendPath::SendFile | SendPath::Read => Op::Send { socket, head, body },
        };
        self.sending = Some(sending);
        context.io.submit(WalsenderOp::Send.token(self.tag, self.number), op);
    }

    /// Takes the completion of one of the session's operations.
    pub fn handle<I: Io>(
        &mut self,
        context: &mut Context<'_, I>,
        op: WalsenderOp,
        result: io::Result<Done>,
    ) {
        match op {
            WalsenderOp::Recv => self.handle_received(context, result),
            WalsenderOp::Send => self.handle_sent(context, result),
            WalsenderOp::Open | WalsenderOp::Read => self.handle_file(context, op, result),
            WalsenderOp::SendFile => self.handle_sent_file(context, result),
            WalsenderOp::Cancel => self.cancelling = false,
            WalsenderOp::Close => {
                self.file_busy = false;
                self.read_on(context);
            }
        }
        self.pump(context);
    }

    fn handle_sent<I: Io>(&mut self, context: &mut Context<'_, I>, result: io::Result<Done>) {
        if let Ok(Done::Released(released)) = result {
            return self.zero_copy.handle_released(released.copied);
        }
        let Some(mut sending) = self.sending.take() else { return };
        let is_zero_copy = sending.path == SendPath::ZeroCopy;
        let count = match result {
            Ok(Done::Sent(count)) => count,
            Err(error) if is_zero_copy && self.phase != Phase::Closing => {
                // If it is the connection, the next send finds that too.
                self.zero_copy.handle_refused(&self.client.application_name, &error);
                return self.send(context, sending.by(SendPath::Tail));
            }
            // The standby went away; its own log says why.
            _ => return self.close(context.io),
        };
        context.stats.count_sent(sending.path, count);
        if is_zero_copy {
            self.zero_copy.handle_sent(sending.wal.map_or(Lsn::MAX, |wal| wal.start));
            sending.path = SendPath::Tail;
        }
        if self.tls.is_some() {
            ShipStats::add(&context.stats.counts().tls_bytes, to_u64(count));
            sending.sealed.advance(count.min(sending.sealed.len()));
            if (sending.rest > 0 || !sending.sealed.is_empty()) && self.phase != Phase::Closing {
                return self.send(context, sending);
            }
        }
        sending.rest -= count.min(sending.rest);
        if sending.rest > 0 && self.phase != Phase::Closing {
            let head_len = sending.head.as_slice().len();
            let head =
                Head::new(sending.head.as_slice().get(count.min(head_len)..).unwrap_or_default());
            drop_front(&mut sending.body, count.saturating_sub(head_len));
            return self.send(context, Sending { head, ..sending });
        }
        if self.phase == Phase::LastWords {
            return;
        }
        if sending.of_machine {
            self.finish_message(context, sending.wal.map(|wal| wal.end));
        }
    }

    /// Tells the machine that its message is with the kernel, of WAL up to `wal_to` if it had some.
    fn finish_message<I: Io>(&mut self, context: &mut Context<'_, I>, wal_to: Option<Lsn>) {
        let had_less = self.sender.has_told_beyond_sent();
        let event = self.sender.handle_sent(context.now);
        if let Some(event) = event {
            self.handle_event(context, event);
        }
        if let Some(lsn) = wal_to {
            context.standby.sent_lsn.store(lsn.0, Ordering::Relaxed);
            context.shared.note_sent(lsn, self.timeline);
            // What it has told is worth more now.
            context.has_news |= had_less;
        }
    }

    fn handle_received<I: Io>(&mut self, context: &mut Context<'_, I>, result: io::Result<Done>) {
        self.receiving = false;
        let cancelled = std::mem::take(&mut self.receive_cancelled);
        let mut buf = match result {
            Ok(Done::Received(buf)) => buf,
            // What is wrong with the connection the next receive finds, too.
            Err(_) if cancelled => return,
            _ => return self.close(context.io),
        };
        if buf.is_empty() {
            return self.close(context.io);
        }
        if self.phase == Phase::LastWords {
            return;
        }
        let Some(tls) = &mut self.tls else {
            self.unread.extend_from_slice(&buf);
            drop(buf);
            return self.take_replies(context);
        };
        let opened = tls.open(&mut buf, &mut self.unread);
        drop(buf);
        if let Err(error) = &opened {
            let name = &self.client.application_name;
            tracing::info!("SSL error on connection to standby \"{name}\": {error}");
        }
        // What came before counts.
        self.take_replies(context);
        if !matches!(opened, Ok(Open::More)) {
            self.close(context.io);
        }
    }

    /// Feeds what was received to the machine.
    pub fn take_replies<I: Io>(&mut self, context: &mut Context<'_, I>) {
        let unread = std::mem::take(&mut self.unread);
        let mut rest = unread.as_slice();
        while self.phase == Phase::Streaming {
            match self.sender.handle_bytes(context.now, &mut rest) {
                Ok(None) => break,
                Ok(Some(event)) => self.handle_event(context, event),
                Err(violation) => {
                    let report = Report::fatal(violation.sqlstate(), violation.to_string());
                    return self.fail(context, &report);
                }
            }
        }
        self.unread = rest.to_vec();
        if self.unread.len() > UNREAD_BYTES_MAX {
            self.close(context.io);
        }
    }

    /// Why a standby cannot stream from here, if it has said that it has more than this primary ever wrote.
    ///
    /// PostgreSQL looks only at where a standby asks to begin, which for its own walreceiver is the start
    /// of a segment: `StartReplication`, `RequestXLogStreaming`.
    fn refusal<I: Io>(&self, context: &Context<'_, I>) -> Option<Report> {
        let seam = self.sender.seam().filter(|_| !self.logical)?;
        if context.shared.role.load().in_recovery() || self.timeline != context.timelines.current {
            return None;
        }
        // Not what this core has heard of: the standby may have heard of more from another one.
        let flush_lsn = context.shared.flush_lsn.load();
        if seam <= flush_lsn {
            return None;
        }
        let name = &self.client.application_name;
        let report = Report::error(
            SqlState::INTERNAL_ERROR,
            format!(
                "standby \"{name}\" has WAL up to {seam}, which is ahead of the WAL flush position of this server {flush_lsn}"
            ),
        );
        Some(report.hint("Rebuild the standby, or use pg_rewind."))
    }

    fn handle_event<I: Io>(&mut self, context: &mut Context<'_, I>, event: SenderEvent) {
        let standby = context.standby;
        match event {
            SenderEvent::Status(status) => {
                if let Some(report) = self.refusal(context) {
                    return self.fail(context, &report);
                }
                standby.set_seam(self.sender.seam());
                standby.set_mode_lsns(status.write, status.flush, status.apply);
                context.has_news = true;
                standby.reply_time.store(status.sent.0, Ordering::Relaxed);
                let lag = self.sender.lags();
                for (shown, lag) in standby.lag_us.iter().zip([lag.write, lag.flush, lag.apply]) {
                    let us = lag.map_or(LAG_UNKNOWN, |lag| {
                        i64::try_from(lag.as_micros()).unwrap_or(i64::MAX)
                    });
                    shown.store(us, Ordering::Relaxed);
                }
            }
            SenderEvent::Feedback(feedback) => {
                let horizons = Horizons::of(&feedback);
                let next = context.shared.next_xid.load(Ordering::Acquire);
                // An id that comes yet, or whose rows have long been frozen: what was said before holds.
                // PostgreSQL: `ProcessStandbyHSFeedbackMessage`.
                if FullTransactionId::from_u64(next)
                    .is_some_and(|next| !horizons.are_in_recent_past(next))
                {
                    return;
                }
                let full =
                    |xid: Option<FullTransactionId>| xid.map_or(0, FullTransactionId::to_u64);
                standby.xmin.store(full(horizons.xmin), Ordering::Relaxed);
                standby.catalog_xmin.store(full(horizons.catalog_xmin), Ordering::Relaxed);
                standby.has_fed_back.store(true, Ordering::Release);
            }
            SenderEvent::StreamEnded => self.phase = Phase::Finishing,
            SenderEvent::Terminated => self.close(context.io),
        }
    }

    /// Reads the next piece of the message from its segment, or sends the message.
    fn read_on<I: Io>(&mut self, context: &mut Context<'_, I>) {
        if self.phase == Phase::Closing {
            return;
        }
        let size = context.timelines.segment_size;
        let Some(reading) = &mut self.reading else { return };
        if context.tail.start().is_some_and(|start| start <= reading.next) {
            let rest = LsnRange::new(reading.next, reading.range.end);
            if context.tail.gather(rest, &mut reading.body) {
                reading.next = rest.end;
            }
        }
        if reading.next == reading.range.end {
            let Some(reading) = self.reading.take() else { return };
            let sending = Sending::new(reading.header, reading.body, Some(reading.range));
            return self.send(context, sending.by(SendPath::Read));
        }
        if self.file_busy {
            return;
        }
        let segno = SegNo::of_start(reading.next, size);
        let timeline = context.timelines.file_timeline(self.timeline, segno);
        if let Some(report) = context.shared.damaged.refusal(timeline, segno) {
            return self.fail(context, &report);
        }
        match self.file {
            Some((open, file)) if open == segno => {
                let end = reading
                    .range
                    .end
                    .min(segno.end(size))
                    .min(context.tail.start().unwrap_or(Lsn::MAX));
                let want = to_usize(end - reading.next);
                if std::mem::take(&mut reading.sendfile) && end == reading.range.end {
                    let (socket, head) = (self.socket, reading.header);
                    let offset = size.offset(reading.next);
                    reading.begun = true;
                    let op = Op::SendFile { socket, head, file, offset, len: want };
                    context.io.submit(WalsenderOp::SendFile.token(self.tag, self.number), op);
                    self.file_busy = true;
                    return;
                }
                let buf = read_buffer(context.reads, want);
                let offset = size.offset(reading.next);
                let op = Op::Read { file, offset, buf };
                context.io.submit(WalsenderOp::Read.token(self.tag, self.number), op);
            }
            Some((_, file)) => {
                self.file = None;
                context
                    .io
                    .submit(WalsenderOp::Close.token(self.tag, self.number), Op::Close { file });
            }
            None => {
                let path = context.wal_dir.join(segno.file_name(timeline, size));
                let mode = OpenMode { create: false, direct: false };
                reading.opened = Some(timeline);
                context.io.submit(
                    WalsenderOp::Open.token(self.tag, self.number),
                    Op::Open { path, mode },
                );
            }
        }
        self.file_busy = true;
    }

    /// Takes the completion of a send from a segment. What was not in the page cache is read.
    fn handle_sent_file<I: Io>(&mut self, context: &mut Context<'_, I>, result: io::Result<Done>) {
        self.file_busy = false;
        let Ok(Done::Sent(count)) = result else { return self.close(context.io) };
        context.stats.count_sent(SendPath::SendFile, count);
        let Some(reading) = &mut self.reading else { return };
        reading.begun = count > 0;
        let of_header = count.min(reading.header.as_slice().len());
        reading.header = Head::new(reading.header.as_slice().get(of_header..).unwrap_or_default());
        reading.next = reading.next + to_u64(count - of_header);
        if reading.next < reading.range.end {
            return self.read_on(context);
        }
        let end = reading.range.end;
        self.reading = None;
        self.finish_message(context, Some(end));
    }

    fn handle_file<I: Io>(
        &mut self,
        context: &mut Context<'_, I>,
        op: WalsenderOp,
        result: io::Result<Done>,
    ) {
        self.file_busy = false;
        let size = context.timelines.segment_size;
        let Some(next) = self.reading.as_ref().map(|reading| reading.next) else {
            if let Ok(Done::Opened(file)) = result {
                self.file = Some((SegNo(u64::MAX), file));
            }
            return;
        };
        let segno = SegNo::of_start(next, size);
        let timeline = context.timelines.file_timeline(self.timeline, segno);
        let name = segno.file_name(timeline, size);
        // A segment may be recycled while it is read: what was read then is not this WAL.
        // PostgreSQL: CheckXLogRemoved.
        if segno.start(size) < context.shared.oldest_lsn.load() {
            return self.fail(context, &removed(&name));
        }
        match (op, result) {
            (_, Ok(Done::Opened(file))) => self.file = Some((segno, file)),
            (_, Ok(Done::Read(buf))) if !buf.is_empty() => {
                if let Some(reading) = &mut self.reading {
                    reading.next = reading.next + to_u64(buf.len());
                    reading.body.push(buf.freeze());
                }
            }
            (WalsenderOp::Open, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                // A timeline that has begun meanwhile has the segment under another name.
                if self.reading.as_ref().is_some_and(|reading| reading.opened == Some(timeline)) {
                    return self.fail(context, &removed(&name));
                }
            }
            (_, result) => {
                let reason = result
                    .err()
                    .map_or_else(|| "unexpected end of file".to_owned(), |error| error.to_string());
                let text = format!("could not read from WAL segment {name}, LSN {next}: {reason}");
                return self.fail(context, &Report::error(SqlState::IO_ERROR, text));
            }
        }
        self.read_on(context);
    }
}

/// A buffer that takes `want` bytes and no more: beyond them may lie the block that is being written,
/// and a cached page of it would slow the next direct write.
fn read_buffer(pool: &BufferPool, want: usize) -> Buffer {
    let pooled = if want == pool.capacity_each() { pool.take() } else { None };
    pooled.unwrap_or_else(|| Buffer::with_capacity(want))
}
