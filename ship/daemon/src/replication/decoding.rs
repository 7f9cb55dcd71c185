//! A stream of decoded messages: WAL from the hub in, pgoutput's messages to the client out.
//!
//! Towards the hub this is a standby of one physical stream: what the client says of its positions is
//! passed on, and so are the hub's requests for a reply, so the hub's walsender counts its timeout,
//! shows it in `pg_stat_replication` and waits for it at a shutdown as for any other.
//!
//! Memory: [`OUTPUT_BYTES_MAX`] and one message of what is to be sent, [`KEPT_BYTES_MAX`] of open
//! transactions. While the client takes nothing, no WAL is read.
//!
//! Not here: what the WAL means (`walhub_proto::decode`), who may decode (`logical`).
//!
//! PostgreSQL: `XLogSendLogical`, `WalSndWriteData`, `WalSndWaitForWal` (walsender.c).

mod source;

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use walhub_engine::crc::crc32c;
use walhub_proto::decode::{Change, DecodeError, Decoder, DecoderConfig, Message, Reread};
use walhub_proto::lsn::{Lsn, SystemIdentifier, TimelineId};
use walhub_proto::page::WalVersion;
use walhub_proto::pgoutput;
use walhub_proto::segment::SegmentSize;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::walsender::{PeerViolation, STANDBY_MESSAGE_BYTES_MAX};
use walhub_proto::wire::backend::{Report, Severity};
use walhub_proto::wire::copy::{
    COPY_DATA, COPY_DONE, COPY_DONE_MESSAGE, HotStandbyFeedback, PrimaryKeepalive,
    StandbyStatusUpdate, XLOGDATA_HEADER_LEN, XLogData,
};
use walhub_proto::wire::reader::{Malformed, decode_frame};

pub(super) use self::source::{Said, Source};
use crate::clock::now;
use crate::net::session::{Ended, log_report};
use crate::net::stream::Connection;
use crate::placement::spawn_blocking;
use walhub_hub::api::append::DATABASE;
use walhub_hub::api::hub::{Hub, SlotRequest, SlotRow};
use walhub_hub::store::wal_reader::WalReader;

/// Bytes of open transactions that are kept; what is beyond is read again at their commit.
/// PostgreSQL: the default of `logical_decoding_work_mem`.
const KEPT_BYTES_MAX: usize = 64 << 20;
/// Bytes that wait for the client before the next message is made.
const OUTPUT_BYTES_MAX: usize = 256 << 10;
/// Room of the output that is kept when all of it is sent.
const OUTPUT_ROOM_KEPT: usize = 1 << 20;
/// How long a client that is to be let go may take for what it has still to read.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(5);

/// What is to be decoded, and from where.
pub(super) struct DecodingStart {
    pub(super) slot: String,
    /// Whether the client wants messages; there is nothing else.
    pub(super) messages: bool,
    pub(super) system_identifier: SystemIdentifier,
    pub(super) segment_size: SegmentSize,
    pub(super) timeline: TimelineId,
    pub(super) restart_lsn: Lsn,
    /// What the slot says that the client has.
    pub(super) confirmed: Lsn,
    pub(super) start_reading: Lsn,
    pub(super) start_decoding_at: Lsn,
}

impl DecodingStart {
    fn decoder(&self, version: WalVersion) -> Decoder {
        Decoder::new(DecoderConfig {
            system_identifier: self.system_identifier,
            segment_size: self.segment_size,
            version,
            crc: crc32c,
            database: DATABASE,
            start_reading: self.start_reading,
            start_decoding_at: self.start_decoding_at,
            kept_bytes_max: KEPT_BYTES_MAX,
        })
    }
}

/// Why the stream is over.
enum Over {
    /// The client has sent CopyDone and has everything that was said before.
    CopyDone,
    /// The client is gone.
    Gone(Ended),
    /// The hub has ended it, and may have said why.
    Hub,
    /// It cannot go on.
    Failed(Report),
}

impl From<io::Error> for Over {
    fn from(error: io::Error) -> Self {
        Self::Gone(Ended::Io(error))
    }
}

/// What there is to be waited for.
enum Event {
    Sent(io::Result<usize>),
    Received(io::Result<usize>),
    Wal(io::Result<usize>),
    Forwarded(io::Result<usize>),
    HubEnded,
    Confirmed,
    Piece(Option<Box<Piece>>),
}

/// What was read again, and the reader of it.
type Piece = (WalReader, Result<Vec<u8>, Report>);
type Confirming = oneshot::Receiver<Result<Option<SlotRow>, Report>>;

/// Bytes on their way out.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    sent: usize,
}

impl Output {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    fn take_sent(&mut self, count: usize) {
        self.sent += count;
        if self.sent >= self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(OUTPUT_ROOM_KEPT);
            self.sent = 0;
        } else if self.sent >= OUTPUT_ROOM_KEPT {
            // There may be something to send for ever.
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}

/// One client's stream.
pub(super) struct Decoding {
    hub: Arc<dyn Hub<OwnedFd>>,
    request: DecodingStart,
    source: Source,
    /// Made when the first WAL is there, which says its version.
    decoder: Option<Decoder>,
    /// A transaction whose messages are read again, and the read that is under way.
    reread: Option<Box<Reread>>,
    reader: Option<WalReader>,
    piece: Option<oneshot::Receiver<Piece>>,
    out: Output,
    /// On its way to the hub.
    forward: Output,
    /// The client's last word about its positions, when the hub is still to be told.
    forward_due: Option<StandbyStatusUpdate>,
    input: Vec<u8>,
    status: StandbyStatusUpdate,
    /// What the client was told to be the position of the stream.
    told: Lsn,
    copy_done: bool,
    /// The client has asked where the stream is.
    reply_due: bool,
    confirm_due: Option<Lsn>,
    confirming: Option<Confirming>,
}

impl Decoding {
    pub(super) fn new(hub: Arc<dyn Hub<OwnedFd>>, request: DecodingStart, source: Source) -> Self {
        Self {
            hub,
            source,
            decoder: None,
            reread: None,
            reader: None,
            piece: None,
            out: Output::default(),
            forward: Output::default(),
            forward_due: None,
            input: Vec::new(),
            status: StandbyStatusUpdate::default(),
            // PostgreSQL: StartLogicalReplication.
            told: request.confirmed,
            copy_done: false,
            reply_due: false,
            confirm_due: None,
            confirming: None,
            request,
        }
    }

    /// Streams to the end. The connection is in command mode again when there is no error.
    pub(super) async fn run(mut self, client: Connection) -> (Connection, Result<(), Ended>) {
        let Connection { stream, read, mut out, .. } = client;
        out.copy_both_response();
        self.out.bytes = out.take();
        self.input = read;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let over = match self.take_replies() {
            Ok(()) => self.stream(&mut reader, &mut writer).await,
            Err(over) => over,
        };
        let (unread, ended) = self.end(over, &mut writer).await;
        (Connection::new(reader.unsplit(writer), unread), ended)
    }

    async fn stream<R, W>(&mut self, reader: &mut R, writer: &mut W) -> Over
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            if let Err(report) = self.advance() {
                return Over::Failed(report);
            }
            if self.copy_done && self.out.rest().is_empty() {
                return Over::CopyDone;
            }
            // However often it asks, it gets no more answers than it reads.
            if self.out.rest().len() < OUTPUT_BYTES_MAX && std::mem::take(&mut self.reply_due) {
                self.put_keepalive(false);
            }
            self.send_confirmed();
            self.send_status();
            let takes_wal = self.takes_wal();
            self.input.reserve(STANDBY_MESSAGE_BYTES_MAX);
            self.source.incoming.reserve();
            let Source { from_hub, to_hub, incoming, answer, is_over, .. } = &mut self.source;
            let event = tokio::select! {
                sent = writer.write(self.out.rest()), if !self.out.rest().is_empty() => {
                    Event::Sent(sent)
                }
                received = reader.read_buf(&mut self.input), if !self.copy_done => {
                    Event::Received(received)
                }
                read = from_hub.read_buf(&mut incoming.bytes), if takes_wal => Event::Wal(read),
                sent = to_hub.write(self.forward.rest()), if !self.forward.rest().is_empty() => {
                    Event::Forwarded(sent)
                }
                _ = answer, if !*is_over => Event::HubEnded,
                () = answered(&mut self.confirming) => Event::Confirmed,
                piece = read_again(&mut self.piece) => Event::Piece(piece),
            };
            if let Err(over) = self.handle(event) {
                return over;
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Over> {
        match event {
            Event::Sent(sent) => self.out.take_sent(sent?),
            Event::Received(received) => {
                if received? == 0 {
                    return Err(Over::Gone(Ended::Quietly));
                }
                self.take_replies()?;
            }
            // The end of the stream from the hub is told by its answer.
            Event::Wal(Ok(0) | Err(_)) => self.source.is_silent = true,
            Event::Wal(Ok(_)) => {}
            Event::Forwarded(Ok(sent)) => self.forward.take_sent(sent),
            Event::Forwarded(Err(_)) => self.forward = Output::default(),
            Event::HubEnded => {
                self.source.is_over = true;
                return Err(Over::Hub);
            }
            Event::Confirmed => self.confirming = None,
            Event::Piece(piece) => self.take_piece(piece).map_err(Over::Failed)?,
        }
        Ok(())
    }

    /// Whether WAL is to be read: not while the client has enough to read.
    fn takes_wal(&self) -> bool {
        let has_room = self.out.rest().len() < OUTPUT_BYTES_MAX;
        has_room && self.reread.is_none() && !self.copy_done && !self.source.is_silent
    }

    /// Decodes as much as there is room for, and tells the client how far it is when there is
    /// nothing else to tell.
    fn advance(&mut self) -> Result<(), Report> {
        while !self.copy_done && self.out.rest().len() < OUTPUT_BYTES_MAX {
            if self.step()? {
                continue;
            }
            if self.reread.is_none() {
                self.tell_progress();
            }
            break;
        }
        Ok(())
    }

    /// Does the next thing; `false` when it needs WAL that is not there.
    fn step(&mut self) -> Result<bool, Report> {
        if let Some(reread) = &mut self.reread {
            if let Some(message) = reread.poll_message() {
                self.put_message(&message);
                return Ok(true);
            }
            let Some(next) = reread.next_lsn() else {
                self.reread = None;
                return Ok(true);
            };
            self.begin_piece(next)?;
            return Ok(false);
        }
        if let Some(change) = self.decoder.as_mut().and_then(Decoder::poll_change) {
            self.put_change(change);
            return Ok(true);
        }
        match self.source.incoming.next() {
            Err(malformed) => Err(internal(&malformed.to_string())),
            Ok(None) => Ok(false),
            Ok(Some(Said::Nothing)) => Ok(true),
            Ok(Some(Said::Wal(wal))) => {
                let decoder = match &mut self.decoder {
                    Some(decoder) => decoder,
                    None => {
                        let magic = wal.first_chunk().map_or(0, |magic| u16::from_le_bytes(*magic));
                        let version = WalVersion::from_magic(magic)
                            .ok_or_else(|| internal(&format!("page magic {magic:04X}")))?;
                        self.decoder.insert(self.request.decoder(version))
                    }
                };
                decoder.handle_wal(wal).map_err(undecodable)?;
                Ok(true)
            }
            Ok(Some(Said::Keepalive(keepalive))) => {
                if keepalive.reply_requested {
                    self.put_keepalive(true);
                }
                Ok(true)
            }
            Ok(Some(Said::Done)) => Err(internal("its timeline has ended")),
            Ok(Some(Said::LastWord(frame))) => {
                self.out.bytes.extend_from_slice(frame);
                Ok(true)
            }
        }
    }

    fn put_change(&mut self, change: Change) {
        // Without messages there is nothing in a transaction, and it is not sent.
        if !self.request.messages {
            return;
        }
        match change {
            Change::Message(message) => self.put_message(&message),
            Change::Reread(reread) => self.reread = Some(reread),
            Change::Begin(_) | Change::Commit(_) => {
                self.put(change.lsn(), |out| pgoutput::encode_change(&change, out));
            }
        }
    }

    fn put_message(&mut self, message: &Message) {
        self.put(message.lsn, |out| pgoutput::encode_message(message, out));
    }

    /// Appends an XLogData message. PostgreSQL: `WalSndPrepareWrite`, `WalSndWriteData`.
    fn put(&mut self, lsn: Lsn, encode: impl FnOnce(&mut Vec<u8>)) {
        let out = &mut self.out.bytes;
        let start = out.len();
        out.extend_from_slice(&[0; XLOGDATA_HEADER_LEN]);
        encode(out);
        let payload = out.len() - start - XLOGDATA_HEADER_LEN;
        let data = XLogData { start: lsn, end: lsn, sent: now() };
        let header = data.encode_header(u64::try_from(payload).unwrap_or(u64::MAX));
        if let Some(place) = out.get_mut(start..start + XLOGDATA_HEADER_LEN) {
            place.copy_from_slice(&header);
        }
        self.told = self.told.max(lsn);
    }

    /// PostgreSQL: `WalSndKeepalive`.
    fn put_keepalive(&mut self, reply_requested: bool) {
        let keepalive = PrimaryKeepalive { end: self.told, sent: now(), reply_requested };
        self.out.bytes.extend_from_slice(&keepalive.encode());
    }

    /// Tells a client that has nothing of what was decoded last that it need not wait for it.
    /// PostgreSQL: `WalSndWaitForWal`.
    fn tell_progress(&mut self) {
        let Some(decoded) = self.decoder.as_ref().map(Decoder::decoded_lsn) else { return };
        if decoded > self.told {
            self.told = decoded;
            if self.status.flush < decoded && self.status.write < decoded {
                self.put_keepalive(false);
            }
        }
    }

    fn begin_piece(&mut self, lsn: Lsn) -> Result<(), Report> {
        if self.piece.is_some() {
            return Ok(());
        }
        let reader = self.reader.take().or_else(|| self.hub.wal_reader());
        let mut reader = reader.ok_or_else(|| internal("there is no WAL"))?;
        self.piece = Some(spawn_blocking(move || {
            let read = reader.read(lsn).map(<[u8]>::to_vec);
            (reader, read)
        }));
        Ok(())
    }

    fn take_piece(&mut self, piece: Option<Box<Piece>>) -> Result<(), Report> {
        self.piece = None;
        let (reader, read) = *piece.ok_or_else(|| internal("a read was abandoned"))?;
        self.reader = Some(reader);
        let Some(reread) = &mut self.reread else { return Ok(()) };
        let bytes = read?;
        if bytes.is_empty() {
            return Err(internal("WAL that was decoded is not durable"));
        }
        reread.handle_wal(&bytes).map_err(undecodable)
    }

    /// Takes what the client has sent. PostgreSQL: `ProcessRepliesIfAny`.
    fn take_replies(&mut self) -> Result<(), Over> {
        let fatal = |violation: PeerViolation| {
            Over::Failed(Report::fatal(violation.sqlstate(), violation.to_string()))
        };
        let mut consumed = 0;
        while !self.copy_done {
            let rest = self.input.get(consumed..).unwrap_or_default();
            let Some(&kind) = rest.first() else { break };
            if ![COPY_DATA, COPY_DONE, b'X'].contains(&kind) {
                return Err(fatal(PeerViolation::FrameType { got: kind }));
            }
            let frame = match decode_frame(rest, STANDBY_MESSAGE_BYTES_MAX) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(Malformed::Length { got }) => {
                    return Err(fatal(PeerViolation::MessageLength { got }));
                }
                Err(malformed) => return Err(fatal(PeerViolation::Body(malformed))),
            };
            consumed += frame.len;
            match (kind, frame.body.first()) {
                (COPY_DATA, Some(&StandbyStatusUpdate::KIND)) => {
                    let status = StandbyStatusUpdate::decode(frame.body)
                        .map_err(|malformed| fatal(PeerViolation::Body(malformed)))?;
                    self.take_status(status);
                }
                // It holds no rows back where there are none.
                (COPY_DATA, Some(&HotStandbyFeedback::KIND)) => {}
                (COPY_DATA, Some(&got)) => return Err(fatal(PeerViolation::MessageType { got })),
                (COPY_DATA, None) => {
                    return Err(fatal(PeerViolation::Body(Malformed::Truncated)));
                }
                (COPY_DONE, _) => {
                    self.copy_done = true;
                    self.out.bytes.extend_from_slice(&COPY_DONE_MESSAGE);
                }
                _ => return Err(Over::Gone(Ended::Quietly)),
            }
        }
        self.input.drain(..consumed);
        Ok(())
    }

    /// PostgreSQL: `ProcessStandbyReplyMessage`.
    fn take_status(&mut self, status: StandbyStatusUpdate) {
        self.status = status;
        self.forward_due = Some(StandbyStatusUpdate { reply_requested: false, ..status });
        self.reply_due |= status.reply_requested;
        if let Some(flush) = status.flush.valid() {
            // What does not exist yet cannot be confirmed: it would be skipped when it does.
            let end = self.hub.positions().map_or(flush, |positions| positions.flush_lsn);
            self.confirm_due = Some(flush.min(end));
        }
    }

    /// Passes the client's last word on to the hub, once its slot knows: at a shutdown the hub lets
    /// a client go that has everything, and the slot is saved as it is then.
    fn send_status(&mut self) {
        if self.forward.rest().is_empty()
            && self.confirming.is_none()
            && self.confirm_due.is_none()
            && let Some(status) = self.forward_due.take()
        {
            self.forward.bytes.extend_from_slice(&status.encode());
        }
    }

    /// Has the slot go forward, one step at a time.
    fn send_confirmed(&mut self) {
        if self.confirming.is_some() {
            return;
        }
        let Some(flush) = self.confirm_due.take() else { return };
        let restart_lsn = match &mut self.decoder {
            None => self.request.restart_lsn,
            Some(decoder) => {
                let restart_lsn = decoder.restart_lsn(flush);
                decoder.handle_confirmed(flush);
                restart_lsn
            }
        };
        let name = self.request.slot.clone();
        self.confirming = Some(self.hub.slot(SlotRequest::Confirm { name, flush, restart_lsn }));
    }

    /// Ends the stream: what was said goes out, and the slot is left as the client confirmed it.
    async fn end<W>(mut self, over: Over, writer: &mut W) -> (Vec<u8>, Result<(), Ended>)
    where
        W: AsyncWrite + Unpin,
    {
        if self.confirming.is_some() {
            answered(&mut self.confirming).await;
            self.confirming = None;
        }
        self.send_confirmed();
        if self.confirming.is_some() {
            answered(&mut self.confirming).await;
        }
        let mut incoming = self.source.leave().await;
        if matches!(over, Over::Hub) {
            // WAL that comes now is of no use: the hub is done with this client.
            while let Ok(Some(said)) = incoming.next() {
                if let Said::LastWord(frame) = said {
                    self.out.bytes.extend_from_slice(frame);
                }
            }
        }
        let last_words = async {
            writer.write_all(self.out.rest()).await?;
            writer.flush().await
        };
        let said = match &over {
            Over::Gone(_) => true,
            Over::CopyDone | Over::Hub | Over::Failed(_) => {
                tokio::time::timeout(LAST_WORDS_TIMEOUT, last_words).await.is_ok()
            }
        };
        let ended = match over {
            Over::CopyDone => Ok(()),
            Over::Gone(ended) => Err(ended),
            // After half a message no other can be told from it.
            Over::Failed(report) if said => {
                Err(Ended::Fatal(Report { severity: Severity::Fatal, ..report }))
            }
            Over::Failed(report) => {
                log_report(&report, None);
                Err(Ended::Quietly)
            }
            Over::Hub => Err(Ended::Quietly),
        };
        (self.input, ended)
    }
}

/// Waits for an answer; without one for ever.
async fn answered(confirming: &mut Option<Confirming>) {
    match confirming {
        Some(answer) => drop(answer.await),
        None => pending().await,
    }
}

/// Waits for a read; without one for ever.
async fn read_again(piece: &mut Option<oneshot::Receiver<Piece>>) -> Option<Box<Piece>> {
    match piece {
        Some(read) => read.await.ok().map(Box::new),
        None => pending().await,
    }
}

fn undecodable(error: DecodeError) -> Report {
    Report::error(SqlState::INTERNAL_ERROR, error.to_string())
}

fn internal(what: &str) -> Report {
    Report::error(SqlState::INTERNAL_ERROR, format!("could not decode WAL: {what}"))
}
