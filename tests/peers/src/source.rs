//! A source whose WAL is made from a seed as it is sent: bulk first, and then small commits.
//!
//! One connection at a time streams. Bulk comes as fast as it is taken, small commits by the clock;
//! what the receiver acknowledged is remembered.
//!
//! Not here: the WAL itself ([`crate::wal`]), what a receiver asks before it streams
//! ([`crate::walsender`]).

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use walhub_engine::clock;
use walhub_proto::lsn::Lsn;
use walhub_proto::walsender::{SenderEvent, Transmit, WalSender, WalSenderConfig};

use crate::connection::Connection;
use crate::wal::{SHAPE, START, Wal, WalStream};
use crate::walsender::{Description, WalServer, WalSource};

/// Small commits in a second.
pub const COMMITS_PER_SECOND: u64 = 2_000;
const COMMIT_INTERVAL_NS: u64 = 1_000_000_000 / COMMITS_PER_SECOND;
/// How late a timer may be. A commit that is later than that was held up, and its clock runs from
/// when it was due: a stall counts against each commit that waited for it.
const TIMER_SLACK_NS: u64 = 1_000_000;
/// Bulk WAL made at a time.
const BATCH_BYTES: usize = 1 << 20;

/// A receiver began to stream.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    /// From here.
    pub lsn: Lsn,
    /// What had been acknowledged before.
    pub acked: Lsn,
    /// When.
    pub at: Instant,
}

/// What receivers have said.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Newest flush position.
    pub acked: Lsn,
    /// How often it moved.
    pub acks: u64,
    /// Every start of streaming.
    pub starts: Vec<Started>,
}

/// The source, as its threads and its owner see it.
#[derive(Debug)]
pub struct Source {
    /// What it sends.
    pub wal: Wal,
    /// Bulk is made up to here.
    limit: AtomicU64,
    /// When small commits begin, on the monotonic clock; 0 is not yet.
    live_from_ns: AtomicU64,
    heard: Mutex<Heard>,
    /// Held by the connection that streams.
    streaming: Mutex<()>,
}

impl Source {
    /// A source that has sent nothing.
    #[must_use]
    pub fn new(wal: Wal) -> Self {
        Self {
            wal,
            limit: AtomicU64::new(0),
            live_from_ns: AtomicU64::new(0),
            heard: Mutex::default(),
            streaming: Mutex::default(),
        }
    }

    /// Serves whoever connects, until the server is dropped.
    ///
    /// # Errors
    /// When there is no port.
    pub fn listen(self: &Arc<Self>) -> io::Result<WalServer> {
        WalServer::listen(Arc::clone(self))
    }

    /// Lets bulk be made up to `lsn`.
    pub fn allow_bulk(&self, lsn: Lsn) {
        self.limit.store(lsn.0, Ordering::Relaxed);
    }

    /// Lets the small commits begin.
    pub fn begin_commits(&self) {
        self.live_from_ns.store(clock::monotonic_ns(), Ordering::Relaxed);
    }

    /// What receivers have said.
    pub fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WalSource for Source {
    fn describe(&self) -> Description {
        Description {
            system_identifier: SHAPE.system_identifier,
            timeline: SHAPE.timeline,
            segment_size: SHAPE.segment_size,
            version: SHAPE.version,
            flush_lsn: self.wal.lsn(),
        }
    }

    fn has(&self, start: Lsn) -> bool {
        (START..=self.wal.lsn()).contains(&start)
    }

    /// Streams until the connection ends, one way or the other.
    fn send(&self, connection: &mut Connection, start: Lsn) -> io::Result<()> {
        // What a killed receiver said last is read before the next one is believed to have begun.
        let _only_one = self.streaming.lock().unwrap_or_else(PoisonError::into_inner);
        let (stream, bytes) = self.wal.stream_from(start).ok_or(io::ErrorKind::InvalidInput)?;
        {
            let mut heard = self.heard();
            let acked = heard.acked;
            heard.starts.push(Started { lsn: start, acked, at: Instant::now() });
        }
        let sender = WalSender::new(WalSenderConfig::default(), crate::now(), start, None);
        let session = Session {
            socket: connection.socket(),
            source: self,
            sender: Mutex::new(sender),
            over: AtomicBool::new(false),
        };
        let input = connection.unread().to_vec();
        thread::scope(|scope| {
            scope.spawn(|| session.close_after(|| session.hear(input)));
            session.close_after(|| Feed::new(&session, start, stream, bytes).send());
        });
        Err(io::ErrorKind::ConnectionAborted.into())
    }
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
        self.over.load(Ordering::Relaxed)
    }

    /// When one of the two threads ends, so does the other.
    fn close_after(&self, run: impl FnOnce() -> io::Result<()>) {
        // Why does not matter: a stream that breaks is the receiver's to begin again.
        let _ = run();
        self.over.store(true, Ordering::Relaxed);
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    fn hear(&self, mut input: Vec<u8>) -> io::Result<()> {
        let mut buf = [0; 4096];
        loop {
            let mut rest = input.as_slice();
            let event = self.sender().handle_bytes(crate::now(), &mut rest);
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
                    let mut socket = self.socket;
                    match socket.read(&mut buf)? {
                        0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                        count => input.extend_from_slice(buf.get(..count).unwrap_or_default()),
                    }
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
        self.session.sender().handle_sendable(crate::now(), self.stream.lsn());
        while !self.session.is_over() {
            let now = crate::now();
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
                            self.session.sender().handle_sendable(crate::now(), end);
                        }
                    }
                    continue;
                }
            }
            self.session.sender().handle_sent(crate::now());
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
