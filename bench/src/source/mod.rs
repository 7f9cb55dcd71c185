//! A walsender inside the harness, whose WAL is in memory: a source that is never the bottleneck.
//!
//! It knows what pg_receivewal and walhub ask for, sends on the word of its owner, and tells when
//! the receiver has acknowledged everything as flushed.

mod session;
pub mod wal;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;

use session::Session;
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
    closing: AtomicBool,
    asked: SyncSender<()>,
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
    address: SocketAddr,
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
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (asked_tx, asked) = sync_channel(16);
        let (go, go_rx) = sync_channel(1);
        let (done_tx, done) = sync_channel(1);
        let shared = Arc::new(Shared {
            flush_lsn: AtomicU64::new(wal.start().0),
            acked: AtomicU64::new(0),
            wal,
            window,
            closing: AtomicBool::new(false),
            asked: asked_tx,
            done: done_tx,
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &accepting, go_rx));
        Ok(Self { address, shared, asked, go, done })
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
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

impl Drop for Source {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        // Wakes the accepting thread, which then lets the port go.
        drop(TcpStream::connect(self.address));
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, go: Receiver<()>) {
    let go = Arc::new(std::sync::Mutex::new(go));
    for stream in listener.incoming() {
        if shared.closing.load(Ordering::Acquire) {
            return;
        }
        let Ok(stream) = stream else { return };
        let (shared, go) = (Arc::clone(shared), Arc::clone(&go));
        // A session ends with its connection, whoever closes it.
        std::thread::spawn(move || drop(Session::serve(stream, &shared, &go)));
    }
}
