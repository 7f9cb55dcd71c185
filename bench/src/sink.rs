//! Null standbys: many connections on few threads that read WAL, drop it, and reply.
//!
//! Each replies as a walreceiver does: after what one wake brought, and when asked. The position
//! stands for write, flush and apply alike: the disk of a standby is not what is measured. A
//! walreceiver replies twice as often (after its write and after its flush), so a real standby
//! costs its sender more than this one.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use walhub_peers::client::Client;
use walhub_proto::lsn::Lsn;
use walhub_proto::time::Timestamp;
use walhub_proto::wire::copy::{
    COPY_DATA, PrimaryKeepalive, StandbyStatusUpdate, XLOGDATA_FIELDS_LEN, XLogData,
};
use walhub_proto::wire::reader::{FRAME_HEADER_LEN, Malformed};

/// Bytes read at once.
const READ_LEN: usize = 256 << 10;
/// How often a thread looks whether it shall stop, and replies without being asked.
const TICK: Duration = Duration::from_millis(200);
/// A standby replies at least this often, unless it is told otherwise.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Of every thread's standbys this many note when each position came.
const OBSERVED: usize = 2;
/// Bytes of a message that must be seen: its frame and the fields of the longest kind.
const HEAD_LEN: usize = FRAME_HEADER_LEN + XLOGDATA_FIELDS_LEN;

/// Positions in the order of their arrival.
pub type Arrivals = Vec<(Instant, Lsn)>;

/// Standbys that are connected and have asked for nothing yet.
#[derive(Debug)]
pub struct Waiting {
    clients: Vec<Client>,
    status_interval: Duration,
}

impl Waiting {
    /// Connects `count` standbys to the server at `port`.
    ///
    /// # Errors
    /// When one is refused.
    pub fn connect(port: u16, count: usize) -> Result<Self> {
        let connect = |index| Client::replication(port, &format!("sink{index}"));
        let clients = (0..count).map(connect).collect::<Result<_>>()?;
        Ok(Self { clients, status_interval: STATUS_INTERVAL })
    }

    /// Has each of them reply at least that often.
    #[must_use]
    pub fn status_interval(mut self, interval: Duration) -> Self {
        self.status_interval = interval;
        self
    }

    /// Starts all of them, to stream from `start`.
    ///
    /// # Errors
    /// When one is refused.
    pub fn start(self, threads: usize, start: Lsn) -> Result<Sinks> {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut received, mut groups) = (Vec::new(), Vec::new());
        groups.resize_with(threads.max(1), Vec::new);
        for (index, client) in self.clients.into_iter().enumerate() {
            let command = format!("START_REPLICATION PHYSICAL {start} TIMELINE 1");
            let (stream, unread) = client.start_replication(&command)?;
            stream.set_nonblocking(true)?;
            let position = Arc::new(AtomicU64::new(start.0));
            received.push(Arc::clone(&position));
            let standby = Standby::new(TcpStream::from_std(stream), start, position);
            let group = index % groups.len();
            groups.get_mut(group).context("no thread")?.push((standby, unread));
        }
        let threads = groups.into_iter().map(|group| {
            let stop = Arc::clone(&stop);
            let interval = self.status_interval;
            std::thread::spawn(move || serve(group, interval, &stop))
        });
        let threads = threads.collect();
        Ok(Sinks { stop, received, threads })
    }
}

/// Standbys that stream.
#[derive(Debug)]
pub struct Sinks {
    stop: Arc<AtomicBool>,
    received: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<Result<Vec<Arrivals>>>>,
}

impl Sinks {
    /// Connects `count` standbys to the server at `port`, to stream from `start`.
    ///
    /// # Errors
    /// When one is refused.
    pub fn connect(port: u16, count: usize, threads: usize, start: Lsn) -> Result<Self> {
        Waiting::connect(port, count)?.start(threads, start)
    }

    /// Waits until every standby has received `lsn`.
    ///
    /// # Errors
    /// When one does not in time, or has lost its connection.
    pub fn wait_for(&self, lsn: Lsn, timeout: Duration) -> Result<()> {
        let began = Instant::now();
        let behind = |position: &Arc<AtomicU64>| position.load(Ordering::Acquire) < lsn.0;
        while self.received.iter().any(behind) {
            if self.threads.iter().any(JoinHandle::is_finished) {
                bail!("a standby has lost its connection");
            }
            if began.elapsed() > timeout {
                let count = self.received.iter().filter(|position| behind(position)).count();
                bail!("{count} of {} standbys did not reach {lsn}", self.received.len());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Where each of them is.
    pub fn received(&self) -> impl Iterator<Item = Lsn> {
        self.received.iter().map(|position| Lsn(position.load(Ordering::Acquire)))
    }

    /// Whether every standby has received `lsn`, or one of them never will.
    #[must_use]
    pub fn have(&self, lsn: Lsn) -> bool {
        self.received().all(|received| received >= lsn)
            || self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Disconnects; returns what the observed standbys noted.
    ///
    /// # Errors
    /// The first that a thread met.
    pub fn finish(self) -> Result<Vec<Arrivals>> {
        self.stop.store(true, Ordering::Release);
        let mut arrivals = Vec::new();
        for thread in self.threads {
            let noted = thread.join().map_err(|_| anyhow::anyhow!("a sink panicked"))?;
            arrivals.extend(noted?);
        }
        Ok(arrivals)
    }
}

fn serve(
    group: Vec<(Standby, Vec<u8>)>,
    status_interval: Duration,
    stop: &AtomicBool,
) -> Result<Vec<Arrivals>> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(256);
    let mut buffer = vec![0; READ_LEN];
    let mut standbys = Vec::new();
    for (index, (mut standby, unread)) in group.into_iter().enumerate() {
        poll.registry().register(&mut standby.stream, Token(index), Interest::READABLE)?;
        standby.arrivals = (index < OBSERVED).then(Vec::new);
        standby.take(&unread)?;
        standbys.push(standby);
    }
    let mut ticked = Instant::now();
    while !stop.load(Ordering::Acquire) {
        match poll.poll(&mut events, Some(TICK)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            let standby = standbys.get_mut(event.token().0).context("no such standby")?;
            standby.handle_readable(&mut buffer)?;
        }
        if ticked.elapsed() >= TICK {
            ticked = Instant::now();
            for standby in &mut standbys {
                if standby.replied.elapsed() >= status_interval {
                    standby.reply()?;
                }
            }
        }
    }
    for standby in &standbys {
        // The server may have hung up first.
        drop(standby.stream.shutdown(Shutdown::Both));
    }
    Ok(standbys.into_iter().filter_map(|standby| standby.arrivals).collect())
}

/// One null standby.
#[derive(Debug)]
struct Standby {
    stream: TcpStream,
    received: Lsn,
    published: Arc<AtomicU64>,
    /// Start of a message that is not all here.
    head: Vec<u8>,
    /// Bytes of the current message still to drop.
    body_left: usize,
    reply_due: bool,
    replied: Instant,
    arrivals: Option<Arrivals>,
}

impl Standby {
    fn new(stream: TcpStream, received: Lsn, published: Arc<AtomicU64>) -> Self {
        Self {
            stream,
            received,
            published,
            head: Vec::with_capacity(HEAD_LEN),
            body_left: 0,
            reply_due: false,
            replied: Instant::now(),
            arrivals: None,
        }
    }

    fn handle_readable(&mut self, buffer: &mut [u8]) -> Result<()> {
        let before = self.received;
        loop {
            match self.stream.read(buffer) {
                Ok(0) => bail!("the server has hung up at {}", self.received),
                Ok(count) => {
                    self.take(buffer.get(..count).unwrap_or_default())?;
                    // A short read has drained the socket: the next wake is a new edge.
                    if count < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.received > before {
            self.published.store(self.received.0, Ordering::Release);
            if let Some(arrivals) = &mut self.arrivals {
                arrivals.push((Instant::now(), self.received));
            }
            self.reply_due = true;
        }
        if self.reply_due { self.reply() } else { Ok(()) }
    }

    /// Takes bytes of the stream; only the first of each message are looked at.
    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        loop {
            let dropped = self.body_left.min(bytes.len());
            self.body_left -= dropped;
            // Only WAL has a body that is dropped.
            self.received = self.received + u64::try_from(dropped)?;
            bytes = bytes.get(dropped..).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(());
            }
            let wanted = self.head_len()?;
            let (now, later) =
                bytes.split_at(wanted.saturating_sub(self.head.len()).min(bytes.len()));
            self.head.extend_from_slice(now);
            bytes = later;
            // The length is known only once the frame's header is here.
            if self.head.len() == self.head_len()? {
                self.body_left = self.begin_message()?;
                self.head.clear();
            } else if bytes.is_empty() {
                return Ok(());
            }
        }
    }

    /// Bytes of the current message that must be here before it can be looked at.
    fn head_len(&self) -> Result<usize> {
        match self.head.first_chunk::<FRAME_HEADER_LEN>() {
            None => Ok(FRAME_HEADER_LEN),
            Some([_, length @ ..]) => {
                let length = usize::try_from(u32::from_be_bytes(*length))?;
                Ok((length + 1).clamp(FRAME_HEADER_LEN, HEAD_LEN))
            }
        }
    }

    /// Looks at the head of a message; returns how many bytes of it are still to come.
    fn begin_message(&mut self) -> Result<usize> {
        let (frame, body) = self.head.split_at(FRAME_HEADER_LEN);
        let length = frame.last_chunk().map_or(0, |word| u32::from_be_bytes(*word));
        let length = usize::try_from(length)?;
        if frame.first() != Some(&COPY_DATA) {
            bail!("the server ended the stream: {}", String::from_utf8_lossy(body));
        }
        match body.first().copied() {
            Some(XLogData::KIND) => {
                let data = XLogData::decode(body).map_err(malformed)?;
                if data.start != self.received {
                    bail!("WAL at {} after {}", data.start, self.received);
                }
                Ok(length.saturating_sub(4 + XLOGDATA_FIELDS_LEN))
            }
            Some(PrimaryKeepalive::KIND) => {
                self.reply_due |=
                    PrimaryKeepalive::decode(body).map_err(malformed)?.reply_requested;
                Ok(0)
            }
            other => bail!("a message of type {other:?} in the stream"),
        }
    }

    fn reply(&mut self) -> Result<()> {
        self.reply_due = false;
        self.replied = Instant::now();
        let (lsn, sent) = (self.received, wall_clock());
        let status = StandbyStatusUpdate {
            write: lsn,
            flush: lsn,
            apply: lsn,
            sent,
            reply_requested: false,
        };
        match self.stream.write(&status.encode()) {
            Ok(count) if count == status.encode().len() => Ok(()),
            // Its socket buffer is full: a later reply says more.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Ok(_) => bail!("half a reply was taken"),
            Err(error) => Err(error.into()),
        }
    }
}

fn malformed(error: Malformed) -> anyhow::Error {
    anyhow::anyhow!("{error:?}")
}

fn wall_clock() -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = i64::try_from(now.as_micros()).expect("microseconds fit for 290,000 years");
    Timestamp(micros - Timestamp::UNIX_TO_POSTGRES_SECONDS * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standby() -> Standby {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        Standby::new(TcpStream::from_std(stream), Lsn(100), Arc::default())
    }

    fn stream() -> Vec<u8> {
        let mut bytes = Vec::new();
        for (start, len) in [(100, 1), (101, 50), (151, 0), (151, 300)] {
            let data = XLogData { start: Lsn(start), end: Lsn(9999), sent: Timestamp(0) };
            bytes.extend_from_slice(&data.encode_header(len));
            bytes.resize(bytes.len() + usize::try_from(len).unwrap(), b'd');
            let keepalive =
                PrimaryKeepalive { end: Lsn(1), sent: Timestamp(0), reply_requested: start == 101 };
            bytes.extend_from_slice(&keepalive.encode());
        }
        bytes
    }

    #[test]
    fn a_stream_cut_anywhere_is_counted_alike() {
        let bytes = stream();
        for step in 1..bytes.len() {
            let mut standby = standby();
            for piece in bytes.chunks(step) {
                standby.take(piece).unwrap();
            }
            assert_eq!((standby.received, standby.reply_due), (Lsn(451), true), "by {step}");
        }
    }

    #[test]
    fn a_gap_in_the_wal_is_an_error() {
        let data = XLogData { start: Lsn(101), end: Lsn(9999), sent: Timestamp(0) };
        assert!(standby().take(&data.encode_header(5)).is_err());
    }
}
