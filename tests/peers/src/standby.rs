//! An embedded standby: a client of the hub that checks every byte and keeps none.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Error, bail};
use hdrhistogram::Histogram;
use walhub_proto::lsn::Lsn;
use walhub_proto::walreceiver::{
    LocalWal, ReceiverEvent, UpstreamError, WalReceiver, WalReceiverConfig,
};
use walhub_proto::wire::reader::decode_frame;

use super::source::{Source, is_timeout};
use super::wal::{SEGMENT, SHAPE, START, Sums};

/// Time before a connection is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// How soon a standby that waits sees that the demo is over.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const RECEIVE_BYTES: usize = 256 << 10;
/// Largest message before streaming.
const MESSAGE_BYTES_MAX: usize = 30_000;
/// The longest lag that is told apart, in nanoseconds.
const LAG_NS_MAX: u64 = 600_000_000_000;

/// One standby, as the demo sees it.
#[derive(Debug)]
pub(super) struct Standby {
    /// What it calls itself.
    pub(super) name: String,
    position: AtomicU64,
    starts: AtomicU64,
    stop: AtomicBool,
    trouble: Mutex<Option<String>>,
}

/// What a standby has at the end.
#[derive(Debug)]
pub(super) struct Received {
    /// Checksums of all of it.
    pub(super) sums: Sums,
    /// How long the small commits took to get here, in nanoseconds.
    pub(super) lag: Histogram<u64>,
}

impl Standby {
    /// Starts one; it connects to the hub at `port` until it is stopped.
    pub(super) fn start(
        name: String,
        port: u16,
        source: Arc<Source>,
    ) -> anyhow::Result<(Arc<Self>, JoinHandle<Received>)> {
        let standby = Arc::new(Self {
            name,
            position: AtomicU64::new(START.0),
            starts: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            trouble: Mutex::new(None),
        });
        let received =
            Received { sums: Sums::new(), lag: Histogram::new_with_bounds(1, LAG_NS_MAX, 3)? };
        let client =
            Client { standby: Arc::clone(&standby), source, port, received, next_commit: 0 };
        let thread = thread::Builder::new().name(standby.name.clone());
        Ok((standby, thread.spawn(move || client.run())?))
    }

    /// End of what it received.
    pub(super) fn position(&self) -> Lsn {
        Lsn(self.position.load(Ordering::Relaxed))
    }

    /// How often it began to stream.
    pub(super) fn starts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed)
    }

    /// Why it last lost or did not get its connection.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has it end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

struct Client {
    standby: Arc<Standby>,
    source: Arc<Source>,
    port: u16,
    received: Received,
    /// The first small commit that has not come.
    next_commit: usize,
}

impl Client {
    fn run(mut self) -> Received {
        while !self.standby.is_stopped() {
            if let Err(error) = self.stream() {
                let mut trouble =
                    self.standby.trouble.lock().unwrap_or_else(PoisonError::into_inner);
                *trouble = Some(format!("{error:#}"));
            }
            thread::sleep(RETRY_INTERVAL);
        }
        self.received
    }

    /// One connection, from its beginning to its end.
    fn stream(&mut self) -> anyhow::Result<()> {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(POLL_INTERVAL))?;
        self.start_up(&mut socket)?;
        let local = LocalWal {
            system_identifier: Some(SHAPE.system_identifier),
            segment_size: Some(SEGMENT),
            timeline: Some(SHAPE.timeline),
            next_lsn: Some(self.received.sums.lsn()),
        };
        let config = WalReceiverConfig::default();
        let mut receiver = WalReceiver::new(config, super::now(), local, 150_000);
        let mut buf = vec![0; RECEIVE_BYTES];
        while !self.standby.is_stopped() {
            if let Some(bytes) = receiver.poll_transmit(super::now()) {
                socket.write_all(&bytes)?;
            }
            match socket.read(&mut buf) {
                Ok(0) => bail!("the hub closed the connection"),
                Ok(count) => {
                    let bytes = buf.get(..count).unwrap_or_default();
                    self.handle(&mut receiver, bytes)?;
                }
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error.into()),
            }
            receiver.handle_timeout(super::now()).map_err(Error::msg)?;
        }
        receiver.stop(super::now());
        if let Some(bytes) = receiver.poll_transmit(super::now()) {
            socket.write_all(&bytes)?;
        }
        Ok(())
    }

    /// Connects as a standby does: up to the first ReadyForQuery.
    fn start_up(&self, socket: &mut TcpStream) -> anyhow::Result<()> {
        let mut packet = vec![0, 0, 0, 0, 0, 3, 0, 0];
        for text in [
            "user",
            "demo",
            "database",
            "replication",
            "replication",
            "true",
            "application_name",
            &self.standby.name,
        ] {
            packet.extend_from_slice(text.as_bytes());
            packet.push(0);
        }
        packet.push(0);
        let len = u32::try_from(packet.len())?.to_be_bytes();
        packet.splice(..4, len);
        socket.write_all(&packet)?;

        let mut input = Vec::new();
        let mut buf = [0; 4096];
        loop {
            while let Some(frame) = decode_frame(&input, MESSAGE_BYTES_MAX).map_err(Error::msg)? {
                let len = frame.len;
                match frame.kind {
                    b'E' => {
                        let error = UpstreamError::decode(frame.body).map_err(Error::msg)?;
                        bail!("the hub says: {}", error.message)
                    }
                    b'R' if frame.body != [0; 4] => bail!("the hub asks for a password"),
                    b'Z' => return Ok(()),
                    _ => {}
                }
                input.drain(..len);
            }
            match socket.read(&mut buf) {
                Ok(0) => bail!("the hub closed the connection during start-up"),
                Ok(count) => input.extend_from_slice(buf.get(..count).unwrap_or_default()),
                Err(error) if is_timeout(&error) && !self.standby.is_stopped() => {}
                Err(error) => return Err(error).context("during start-up"),
            }
        }
    }

    fn handle(&mut self, receiver: &mut WalReceiver, mut bytes: &[u8]) -> anyhow::Result<()> {
        let now = super::now();
        let before = self.received.sums.lsn();
        while let Some(event) = receiver.handle_bytes(now, &mut bytes).map_err(Error::msg)? {
            match event {
                ReceiverEvent::Wal { start, bytes } => self.received.sums.add(start, bytes),
                ReceiverEvent::Started { .. } => {
                    self.standby.starts.fetch_add(1, Ordering::Relaxed);
                }
                ReceiverEvent::Identified { .. }
                | ReceiverEvent::SegmentSize(_)
                | ReceiverEvent::SlotCreated
                | ReceiverEvent::TimelineHistory { .. }
                | ReceiverEvent::HistoryAbsent { .. }
                | ReceiverEvent::Told { .. } => {}
                ReceiverEvent::EndOfTimeline { next, switchpoint } => {
                    bail!("the hub says that timeline {next} begins at {switchpoint}")
                }
            }
        }
        let position = self.received.sums.lsn();
        if position > before {
            self.record_lag(position, now.instant.0);
            self.standby.position.store(position.0, Ordering::Relaxed);
            receiver.handle_progress(now, position, position, position);
        }
        Ok(())
    }

    fn record_lag(&mut self, position: Lsn, now_ns: u64) {
        while let Some((end, made_ns)) = self.source.wal.commits.of(self.next_commit) {
            if end > position {
                break;
            }
            self.received.lag.saturating_record(now_ns.saturating_sub(made_ns).max(1));
            self.next_commit += 1;
        }
    }
}
