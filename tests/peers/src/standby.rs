//! A standby that checks every byte and keeps none.
//!
//! What it received it sums up ([`crate::wal::Sums`]), to be compared with what a
//! [`crate::source`] has sent. It connects again until it is stopped.

use std::io::{self, Read as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Error, Result, bail};
use hdrhistogram::Histogram;
use walhub_proto::lsn::Lsn;
use walhub_proto::walreceiver::{LocalWal, ReceiverEvent, WalReceiver, WalReceiverConfig};

use crate::client::Client;
use crate::source::Source;
use crate::wal::{SEGMENT, SHAPE, START, Sums};

/// Time before a connection is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// How soon a standby that waits sees its timers, and that it is over.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const RECEIVE_BYTES: usize = 256 << 10;
/// The longest lag that is told apart, in nanoseconds.
const LAG_NS_MAX: u64 = 600_000_000_000;

/// One standby, as its owner sees it.
#[derive(Debug)]
pub struct Standby {
    /// What it calls itself.
    pub name: String,
    position: AtomicU64,
    starts: AtomicU64,
    stop: AtomicBool,
    trouble: Mutex<Option<String>>,
}

/// What a standby has at the end.
#[derive(Debug)]
pub struct Received {
    /// Checksums of all of it.
    pub sums: Sums,
    /// How long the small commits took to get here, in nanoseconds.
    pub lag: Histogram<u64>,
}

impl Standby {
    /// Starts one; it connects to the server at `port` until it is stopped.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start(
        name: String,
        port: u16,
        source: Arc<Source>,
    ) -> Result<(Arc<Self>, JoinHandle<Received>)> {
        let standby = Arc::new(Self {
            name,
            position: AtomicU64::new(START.0),
            starts: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            trouble: Mutex::new(None),
        });
        let received =
            Received { sums: Sums::default(), lag: Histogram::new_with_bounds(1, LAG_NS_MAX, 3)? };
        let receiver =
            Receiver { standby: Arc::clone(&standby), source, port, received, next_commit: 0 };
        let thread = thread::Builder::new().name(standby.name.clone());
        Ok((standby, thread.spawn(move || receiver.run())?))
    }

    /// End of what it received.
    pub fn position(&self) -> Lsn {
        Lsn(self.position.load(Ordering::Relaxed))
    }

    /// How often it began to stream.
    pub fn starts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed)
    }

    /// Why it last lost or did not get its connection.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has it end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Whether a read ended only because its time was up.
fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

struct Receiver {
    standby: Arc<Standby>,
    source: Arc<Source>,
    port: u16,
    received: Received,
    /// The first small commit that has not come.
    next_commit: usize,
}

impl Receiver {
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
    fn stream(&mut self) -> Result<()> {
        let mut socket = Client::replication(self.port, &self.standby.name)?.into_socket();
        socket.set_read_timeout(Some(POLL_INTERVAL))?;
        let local = LocalWal {
            system_identifier: Some(SHAPE.system_identifier),
            segment_size: Some(SEGMENT),
            timeline: Some(SHAPE.timeline),
            next_lsn: Some(self.received.sums.lsn()),
        };
        let config = WalReceiverConfig::default();
        let mut receiver = WalReceiver::new(config, crate::now(), local, 150_000);
        let mut buf = vec![0; RECEIVE_BYTES];
        while !self.standby.is_stopped() {
            if let Some(bytes) = receiver.poll_transmit(crate::now()) {
                socket.write_all(&bytes)?;
            }
            match socket.read(&mut buf) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(count) => {
                    let bytes = buf.get(..count).unwrap_or_default();
                    self.handle(&mut receiver, bytes)?;
                }
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error.into()),
            }
            receiver.handle_timeout(crate::now()).map_err(Error::msg)?;
        }
        receiver.stop(crate::now());
        if let Some(bytes) = receiver.poll_transmit(crate::now()) {
            socket.write_all(&bytes)?;
        }
        Ok(())
    }

    fn handle(&mut self, receiver: &mut WalReceiver, mut bytes: &[u8]) -> Result<()> {
        let now = crate::now();
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
                    bail!("the server says that timeline {next} begins at {switchpoint}")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::Wal;

    #[test]
    fn a_standby_receives_every_byte_of_a_source_also_after_it_was_cut_off() {
        let source = Arc::new(Source::new(Wal::new(20 << 20, 10)));
        let server = source.listen().unwrap();
        let start = |name: &str| {
            Standby::start(name.to_owned(), server.port(), Arc::clone(&source)).unwrap()
        };
        let (standby, thread) = start("one");
        let until = |what: &dyn Fn() -> bool| {
            while !what() {
                thread::sleep(Duration::from_millis(1));
            }
        };
        source.allow_bulk(START + (10 << 20));
        until(&|| standby.position() > START);
        // One connection streams at a time: the other waits until this one is gone.
        let (second, second_thread) = start("two");
        source.allow_bulk(Lsn::MAX);
        source.begin_commits();
        let commits = &source.wal.commits;
        until(&|| commits.count() == commits.max() && standby.position() == source.wal.lsn());
        standby.stop();
        let received = thread.join().unwrap();
        assert_eq!(received.sums, source.wal.sums());
        assert_eq!(received.lag.len(), 10);
        until(&|| second.position() == source.wal.lsn());
        second.stop();
        assert_eq!(second_thread.join().unwrap().sums, source.wal.sums());
        assert!(source.heard().starts.len() >= 2);
    }
}
