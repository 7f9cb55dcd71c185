//! A walsender inside the harness, whose WAL is in memory: a source that is never the bottleneck.
//!
//! It sends on the word of its owner, and tells when the receiver has acknowledged everything as
//! flushed. Not here: what a receiver asks before it streams (`walhub_peers::walsender`).

mod session;
pub mod wal;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use walhub_peers::walsender::WalServer;

use wal::Wal;

/// How long the receiver may take to connect and ask for WAL.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long without any progress until a run is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// What the sessions of a source share with its owner.
#[derive(Debug)]
struct Shared {
    wal: Arc<Wal>,
    /// Bytes that may be sent and not yet acknowledged as flushed.
    window: Option<u64>,
    /// What IDENTIFY_SYSTEM says: grows with what was sent.
    flush_lsn: AtomicU64,
    /// The latest flush position that the receiver acknowledged.
    acked: AtomicU64,
    asked: SyncSender<()>,
    go: Mutex<Receiver<()>>,
    done: SyncSender<Outcome>,
}

/// What one run of a source saw.
#[derive(Debug)]
pub struct Outcome {
    /// When the last byte was acknowledged as flushed.
    pub ended: Instant,
    /// Acknowledgements that moved the flush position.
    pub flushes: u64,
    /// Microseconds from sending a message to its acknowledgement; empty for a bulk load.
    pub latency_us: Histogram<u64>,
}

/// A source of WAL on a port of its own.
#[derive(Debug)]
pub struct Source {
    server: WalServer,
    shared: Arc<Shared>,
    asked: Receiver<()>,
    go: SyncSender<()>,
    done: Receiver<Outcome>,
}

impl Source {
    /// Listens on loopback.
    ///
    /// # Errors
    /// When there is no port.
    pub fn listen(wal: Arc<Wal>, window: Option<u64>) -> Result<Self> {
        let (asked_tx, asked) = sync_channel(16);
        let (go, go_rx) = sync_channel(1);
        let (done_tx, done) = sync_channel(1);
        let shared = Arc::new(Shared {
            flush_lsn: AtomicU64::new(wal.start().0),
            acked: AtomicU64::new(0),
            wal,
            window,
            asked: asked_tx,
            go: Mutex::new(go_rx),
            done: done_tx,
        });
        let server = WalServer::listen(Arc::clone(&shared))?;
        Ok(Self { server, shared, asked, go, done })
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Waits until a receiver asks for WAL.
    ///
    /// # Errors
    /// When none does in time.
    pub fn wait_until_asked(&self) -> Result<()> {
        self.asked.recv_timeout(CONNECT_TIMEOUT).context("no receiver asked for WAL")
    }

    /// Sends everything and waits until it is acknowledged as flushed.
    ///
    /// # Errors
    /// When acknowledgements stop coming.
    pub fn run(&self) -> Result<(Duration, Outcome)> {
        let began = Instant::now();
        self.go.send(())?;
        let mut last = 0;
        loop {
            if let Ok(outcome) = self.done.recv_timeout(STALL_TIMEOUT) {
                return Ok((outcome.ended.duration_since(began), outcome));
            }
            let acked = self.shared.acked.load(Ordering::Acquire);
            if acked == last {
                let end = self.shared.wal.end();
                bail!("the receiver stopped at {} of {end}", walhub_proto::lsn::Lsn(acked));
            }
            last = acked;
        }
    }
}
