//! The embedded source: as much of a primary's walsender as a hub needs.
//!
//! Anyone on the loopback may connect; one connection at a time streams. It sends what
//! [`super::wal`] makes, as fast as it is taken in bulk and by the clock for small commits, and
//! remembers what the hub acknowledged.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use walhub_engine::clock;
use walhub_proto::lsn::Lsn;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::walsender::{SenderEvent, Transmit, WalSender, WalSenderConfig};
use walhub_proto::wire::backend::{Column, ColumnType, Encoder, Report};
use walhub_proto::wire::reader::{Malformed, Reader, decode_frame};

use super::wal::{SEGMENT, SHAPE, Wal, WalStream};

/// Small commits in a second.
pub(super) const COMMITS_PER_SECOND: u64 = 2_000;
const COMMIT_INTERVAL_NS: u64 = 1_000_000_000 / COMMITS_PER_SECOND;
/// How late a timer may be. A commit that is later than that was held up, and its clock runs from
/// when it was due: a stall counts against each commit that waited for it.
const TIMER_SLACK_NS: u64 = 1_000_000;
/// Bulk WAL made at a time.
const BATCH_BYTES: usize = 1 << 20;
/// Largest startup packet or command. PostgreSQL: `MAX_STARTUP_PACKET_LENGTH`.
const COMMAND_BYTES_MAX: usize = 10_000;
/// How soon a thread that waits sees that the demo is over.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

const PROTOCOL_3_0: u32 = 3 << 16;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;

/// A hub began to stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Started {
    /// From here.
    pub(super) lsn: Lsn,
    /// What had been acknowledged before.
    pub(super) acked: Lsn,
    /// When.
    pub(super) at: Instant,
}

/// What the hub has said.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    /// Newest flush position.
    pub(super) acked: Lsn,
    /// How often it moved.
    pub(super) acks: u64,
    /// Every start of streaming.
    pub(super) starts: Vec<Started>,
}

/// The source, as its threads and the demo see it.
#[derive(Debug)]
pub(super) struct Source {
    /// What it sends.
    pub(super) wal: Wal,
    /// Bulk is made up to here.
    limit: AtomicU64,
    /// When small commits begin, on the monotonic clock; 0 is not yet.
    live_from_ns: AtomicU64,
    heard: Mutex<Heard>,
    /// Held by the connection that streams.
    streaming: Mutex<()>,
    stop: AtomicBool,
}

impl Source {
    /// A source that has sent nothing.
    pub(super) fn new(wal: Wal) -> Self {
        Self {
            wal,
            limit: AtomicU64::new(0),
            live_from_ns: AtomicU64::new(0),
            heard: Mutex::default(),
            streaming: Mutex::default(),
            stop: AtomicBool::new(false),
        }
    }

    /// Listens on a port of its own; returns the port.
    pub(super) fn listen(self: &Arc<Self>) -> io::Result<(u16, JoinHandle<()>)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let source = Arc::clone(self);
        let accept = move || {
            while let Ok((stream, _)) = listener.accept() {
                if source.is_stopped() {
                    return;
                }
                let source = Arc::clone(&source);
                // A connection that breaks is the hub's to make again.
                let serve = move || drop(Connection::new(stream, source).map(Connection::serve));
                let _ = thread::Builder::new().name("source".into()).spawn(serve);
            }
        };
        Ok((port, thread::Builder::new().name("source".into()).spawn(accept)?))
    }

    /// Lets bulk be made up to `lsn`.
    pub(super) fn allow_bulk(&self, lsn: Lsn) {
        self.limit.store(lsn.0, Ordering::Relaxed);
    }

    /// Lets the small commits begin.
    pub(super) fn begin_commits(&self) {
        self.live_from_ns.store(clock::monotonic_ns(), Ordering::Relaxed);
    }

    /// What the hub has said.
    pub(super) fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every thread of the source, which listens on `port`.
    pub(super) fn stop(&self, port: u16) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A connection from the hub.
struct Connection {
    stream: TcpStream,
    source: Arc<Source>,
    /// Bytes that came and are not decoded yet.
    input: Vec<u8>,
}

impl Connection {
    fn new(stream: TcpStream, source: Arc<Source>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(POLL_INTERVAL))?;
        Ok(Self { stream, source, input: Vec::new() })
    }

    fn serve(mut self) -> io::Result<()> {
        if !self.start_up()? {
            return Ok(());
        }
        let mut hello = Encoder::new();
        hello.authentication_ok();
        for (name, value) in [
            ("server_version", "15.0 (walhub demo)"),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
            ("in_hot_standby", "off"),
            ("default_transaction_read_only", "off"),
        ] {
            hello.parameter_status(name, value);
        }
        hello.backend_key_data(1, 1).ready_for_query(b'I');
        self.stream.write_all(hello.bytes())?;
        loop {
            let (kind, body) = self.next_frame()?;
            match kind {
                b'Q' => {
                    let query = Reader::new(&body).cstr().map_err(malformed)?.to_owned();
                    self.run_command(&query)?;
                }
                b'X' => return Ok(()),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    /// Reads startup packets up to the real one; whether there was one.
    fn start_up(&mut self) -> io::Result<bool> {
        loop {
            let (packet_len, code) = loop {
                let mut reader = Reader::new(&self.input);
                if let (Ok(length), Ok(code)) = (reader.u32(), reader.u32()) {
                    let len = usize::try_from(length).unwrap_or(usize::MAX);
                    if !(8..=COMMAND_BYTES_MAX).contains(&len) {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                    if self.input.len() >= len {
                        break (len, code);
                    }
                }
                self.receive()?;
            };
            self.input.drain(..packet_len);
            match code {
                PROTOCOL_3_0 => return Ok(true),
                SSL_REQUEST | GSSENC_REQUEST => self.stream.write_all(b"N")?,
                _ => return Ok(false),
            }
        }
    }

    fn next_frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        loop {
            let frame = decode_frame(&self.input, COMMAND_BYTES_MAX).map_err(malformed)?;
            if let Some(frame) = frame {
                let (kind, body, len) = (frame.kind, frame.body.to_vec(), frame.len);
                self.input.drain(..len);
                return Ok((kind, body));
            }
            self.receive()?;
        }
    }

    /// Waits for more bytes.
    fn receive(&mut self) -> io::Result<()> {
        let mut buf = [0; 4096];
        let count = read(&self.stream, &self.source, &mut buf)?;
        self.input.extend_from_slice(buf.get(..count).unwrap_or_default());
        Ok(())
    }

    fn run_command(&mut self, query: &str) -> io::Result<()> {
        let words: Vec<&str> = query.trim_end_matches([';', ' ']).split_whitespace().collect();
        let mut answer = Encoder::new();
        match words.as_slice() {
            ["IDENTIFY_SYSTEM"] => {
                let columns = ["systemid", "timeline", "xlogpos", "dbname"];
                let (id, tli) = (SHAPE.system_identifier.to_string(), SHAPE.timeline.to_string());
                let lsn = self.source.wal.lsn().to_string();
                put_row(&mut answer, &columns, &[Some(&id), Some(&tli), Some(&lsn), None]);
                answer.command_complete("IDENTIFY_SYSTEM");
            }
            ["SHOW", "wal_segment_size"] => {
                put_row(&mut answer, &["wal_segment_size"], &[Some(&SEGMENT.to_string())]);
                answer.command_complete("SHOW");
            }
            ["START_REPLICATION", arguments @ ..] => {
                let start = arguments.iter().find_map(|word| word.parse::<Lsn>().ok());
                match start.and_then(|lsn| Some((lsn, self.source.wal.stream_from(lsn)?))) {
                    Some((lsn, (stream, bytes))) => return self.stream_wal(lsn, stream, bytes),
                    None => {
                        let text = "requested starting point is not in the source's WAL";
                        answer.report(&Report::error(SqlState::INVALID_PARAMETER_VALUE, text));
                    }
                }
            }
            _ => {
                let text = format!("the demo's source does not know: {query}");
                answer.report(&Report::error(SqlState::SYNTAX_ERROR, text));
            }
        }
        answer.ready_for_query(b'I');
        self.stream.write_all(answer.bytes())
    }

    /// Streams until the connection ends, one way or the other.
    fn stream_wal(&mut self, start: Lsn, stream: WalStream, bytes: Vec<u8>) -> io::Result<()> {
        let source = Arc::clone(&self.source);
        // What a killed hub said last is read before the next one is believed to have begun.
        let _only_one = source.streaming.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut heard = source.heard();
            let acked = heard.acked;
            heard.starts.push(Started { lsn: start, acked, at: Instant::now() });
        }
        let mut answer = Encoder::new();
        answer.copy_both_response();
        self.stream.write_all(answer.bytes())?;
        let sender = WalSender::new(WalSenderConfig::default(), super::now(), start, None);
        let session = Session {
            socket: &self.stream,
            source: &source,
            sender: Mutex::new(sender),
            over: AtomicBool::new(false),
        };
        let input = std::mem::take(&mut self.input);
        thread::scope(|scope| {
            scope.spawn(|| session.close_after(|| session.hear(input)));
            session.close_after(|| Feed::new(&session, start, stream, bytes).send());
        });
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

fn put_row(answer: &mut Encoder, columns: &[&str], values: &[Option<&str>]) {
    let columns: Vec<_> = columns.iter().map(|name| Column::text(name, ColumnType::TEXT)).collect();
    answer.row_description(&columns).data_row(values);
}

fn malformed(_: Malformed) -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// Reads at least one byte.
fn read(mut socket: &TcpStream, source: &Source, buf: &mut [u8]) -> io::Result<usize> {
    while !source.is_stopped() {
        match socket.read(buf) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => return Ok(count),
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::ConnectionAborted.into())
}

/// Whether a read or write ended only because its time was up.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

/// One stream of WAL: a thread sends, another hears the replies.
struct Session<'a> {
    socket: &'a TcpStream,
    source: &'a Source,
    sender: Mutex<WalSender>,
    over: AtomicBool,
}

impl Session<'_> {
    fn sender(&self) -> MutexGuard<'_, WalSender> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || self.source.is_stopped()
    }

    /// When one of the two threads ends, so does the other.
    fn close_after(&self, run: impl FnOnce() -> io::Result<()>) {
        // Why does not matter: a stream that breaks is the hub's to begin again.
        let _ = run();
        self.over.store(true, Ordering::Relaxed);
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    fn hear(&self, mut input: Vec<u8>) -> io::Result<()> {
        let mut buf = [0; 4096];
        loop {
            let mut rest = input.as_slice();
            let event = self.sender().handle_bytes(super::now(), &mut rest);
            let taken = input.len() - rest.len();
            input.drain(..taken);
            match event.map_err(|_| io::ErrorKind::InvalidData)? {
                Some(SenderEvent::Status(status)) => {
                    let mut heard = self.source.heard();
                    if status.flush > heard.acked {
                        heard.acked = status.flush;
                        heard.acks += 1;
                    }
                }
                Some(SenderEvent::Feedback(_)) => {}
                Some(SenderEvent::StreamEnded | SenderEvent::Terminated) => return Ok(()),
                None => {
                    let count = read(self.socket, self.source, &mut buf)?;
                    input.extend_from_slice(buf.get(..count).unwrap_or_default());
                }
            }
        }
    }
}

/// Makes WAL and sends it.
struct Feed<'a> {
    session: &'a Session<'a>,
    stream: WalStream,
    /// Bytes from `base` to the stream's end.
    bytes: Vec<u8>,
    base: Lsn,
    message: Vec<u8>,
}

impl<'a> Feed<'a> {
    fn new(session: &'a Session<'a>, base: Lsn, stream: WalStream, bytes: Vec<u8>) -> Self {
        Self { session, stream, bytes, base, message: Vec::new() }
    }

    fn send(mut self) -> io::Result<()> {
        let mut socket = self.session.socket;
        self.session.sender().handle_sendable(super::now(), self.stream.lsn());
        while !self.session.is_over() {
            let now = super::now();
            let transmit = {
                let mut sender = self.session.sender();
                sender.handle_timeout(now);
                if sender.is_timed_out() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                sender.poll_transmit(now)
            };
            match transmit {
                Some(Transmit::Message(message)) => socket.write_all(&message)?,
                Some(Transmit::Wal { header, range }) => {
                    let at = |lsn: Lsn| usize::try_from(lsn - self.base).unwrap_or(usize::MAX);
                    let wal = self.bytes.get(at(range.start)..at(range.end));
                    self.message.clear();
                    self.message.extend_from_slice(&header);
                    self.message.extend_from_slice(wal.unwrap_or_default());
                    socket.write_all(&self.message)?;
                }
                None => {
                    match self.make() {
                        Some(pause) => thread::sleep(pause),
                        None => {
                            let end = self.stream.lsn();
                            self.session.sender().handle_sendable(super::now(), end);
                        }
                    }
                    continue;
                }
            }
            self.session.sender().handle_sent(super::now());
        }
        Ok(())
    }

    /// Makes what is due after everything was sent; how long to pause when nothing is.
    fn make(&mut self) -> Option<Duration> {
        let before = self.stream.clone();
        self.base = before.lsn();
        self.bytes.clear();
        if !before.is_bulk_done() {
            if self.base.0 >= self.session.source.limit.load(Ordering::Relaxed) {
                return Some(Duration::from_millis(1));
            }
            while self.bytes.len() < BATCH_BYTES && !self.stream.is_bulk_done() {
                self.stream.append_next(&mut self.bytes);
            }
        } else if let Some(pause) = self.make_commits() {
            return Some(pause);
        }
        self.session.source.wal.add(before, self.base, &self.bytes);
        None
    }

    fn make_commits(&mut self) -> Option<Duration> {
        let source = self.session.source;
        let from_ns = source.live_from_ns.load(Ordering::Relaxed);
        if from_ns == 0 || self.stream.commits() >= source.wal.commits.max() {
            return Some(Duration::from_millis(2));
        }
        let number = self.stream.commits();
        let due_ns = from_ns + u64::try_from(number).unwrap_or(u64::MAX) * COMMIT_INTERVAL_NS;
        let now_ns = clock::monotonic_ns();
        if now_ns < due_ns {
            return Some(Duration::from_nanos(due_ns - now_ns));
        }
        let made_ns = if now_ns - due_ns < TIMER_SLACK_NS { now_ns } else { due_ns };
        self.stream.append_next(&mut self.bytes);
        source.wal.commits.publish(number, self.stream.lsn(), made_ns);
        None
    }
}
