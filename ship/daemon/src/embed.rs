//! WAL of its own for a Rust program: append, wait for the durability you want, stream to standbys.
//!
//! A [`Log`] is a whole walhub in the program's process, on a data directory that no other process
//! has open. Whatever speaks PostgreSQL's replication protocol can follow it, when it listens; what
//! was appended is read back with `pg_waldump` or by a logical-replication client.
//!
//! ```
//! use walhub::embed::{Log, Message, Options, SynchronousCommit};
//!
//! # fn main() -> anyhow::Result<()> {
//! # let dir = tempfile::tempdir()?;
//! let options = Options::new(dir.path().join("log"))
//!     .set("listen_addresses", "127.0.0.1") // standbys connect here
//!     .set("port", "0"); // and the kernel chooses where
//! let log = Log::open(options)?;
//!
//! // One transaction; it is durable here when the call returns.
//! let order = Message { prefix: "orders", content: b"order 17: two of them" };
//! let committed = log.append(&[order], SynchronousCommit::Local)?;
//!
//! // Many that do not wait, and one wait for all of them.
//! let mut end = committed.end;
//! for number in 18..1000 {
//!     let content = format!("order {number}");
//!     let message = Message { prefix: "orders", content: content.as_bytes() };
//!     end = log.append(&[message], SynchronousCommit::Off)?.end;
//! }
//! log.wait(end, SynchronousCommit::Local)?;
//! assert!(log.flush_lsn() >= end);
//!
//! println!("standbys connect to {:?}", log.addresses());
//! log.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! Any number of threads may append at once; each call of [`Log::append`] is one transaction, and what
//! waits shares a flush. The calls block; [`Log::begin_append`] gives a future instead.
//!
//! What would make an acknowledgement a lie ends the process, as it ends a server: a flush that fails, and a
//! data directory that is removed, moved or replaced under an open log.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc as channel};
use std::thread::{self, JoinHandle};

use anyhow::Context as _;
use tokio::sync::mpsc;
use walhub_proto::lsn::Lsn;
use walhub_proto::syncrep::WaitLevel;

pub use walhub_proto::syncrep::SynchronousCommit;

use crate::clock::now;
use crate::datadir::DataDir;
use crate::net::listen::Listener;
use crate::server::{FirstRules, Owner, Ready, Reloader, ServeConfig};
use crate::settings::Sources;
use crate::signals::{ServerRequest, ShutdownMode};
use walhub_hub::api::append::{Append, AppendAnswer, Appended, NewRecord, Waited};
use walhub_hub::api::hub::Hub as _;
use walhub_hub::publish::handle::Handle;

/// Processes ids of embedded appenders begin here, far from those of connections.
const FIRST_OWNER: u32 = 1 << 31;

/// How to open a [`Log`].
#[derive(Clone, Debug)]
pub struct Options {
    data_dir: PathBuf,
    settings: Vec<(String, String)>,
}

impl Options {
    /// The log in `data_dir`, which is made when it is missing. It listens nowhere.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let settings = vec![("listen_addresses".to_owned(), String::new())];
        Self { data_dir: data_dir.into(), settings }
    }

    /// Sets a setting, as `-c` of `walhub serve` does.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A logical message. PostgreSQL: `pg_logical_emit_message`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// What readers choose by; without a NUL.
    pub prefix: &'a str,
    /// Anything, up to 1 GB.
    pub content: &'a [u8],
}

/// WAL of its own, open in this process.
#[derive(Debug)]
pub struct Log {
    front: Arc<Handle<OwnedFd>>,
    addresses: Vec<SocketAddr>,
    requests: mpsc::UnboundedSender<ServerRequest>,
    thread: Option<JoinHandle<anyhow::Result<ExitCode>>>,
    next_owner: AtomicU32,
}

impl Log {
    /// Opens the log, after a crash too, and begins to serve it.
    ///
    /// # Errors
    /// When the directory is in use, damaged, or not a log's, or a setting is wrong.
    pub fn open(options: Options) -> anyhow::Result<Self> {
        let sources = Sources {
            command_line: options.settings,
            data_dir: Some(options.data_dir.clone()),
            ..Sources::default()
        };
        let settings = sources.load().map_err(|errors| {
            let all: Vec<String> = errors.iter().map(|error| error.message.clone()).collect();
            anyhow::anyhow!(all.join("; "))
        })?;
        anyhow::ensure!(
            settings.hub.primary_conninfo.is_empty(),
            "a log has WAL of its own: primary_conninfo cannot be set"
        );
        let data_dir = DataDir::open_or_create(&options.data_dir)
            .map_err(|report| anyhow::anyhow!(report.message))?;
        let reloader = Reloader::new(sources, settings.clone());
        let (accept_loss_after, first_rules) = (None, FirstRules::TRUST);
        let config = ServeConfig { data_dir, settings, reloader, accept_loss_after, first_rules };
        let (requests, from_owner) = mpsc::unbounded_channel();
        let (opened, is_open) = channel::channel();
        let body = move || {
            let ready = Ready::new(config, Listener::bind_configured)?;
            let addresses = ready.addresses();
            // Nobody is left to tell when the opener is gone.
            let _ = opened.send((ready.front(), addresses));
            ready.run(Owner::Program(from_owner))
        };
        let thread = thread::Builder::new()
            .name("walhub-control".to_owned())
            .spawn(body)
            .map_err(|error| crate::limits::thread_refused(&error))?;
        let Ok((front, addresses)) = is_open.recv() else {
            let result = thread.join().map_err(|_| anyhow::anyhow!("the server panicked"))?;
            return Err(result.err().unwrap_or_else(|| anyhow::anyhow!("the server ended")));
        };
        let next_owner = AtomicU32::new(FIRST_OWNER);
        let log = Self { front, addresses, requests, thread: Some(thread), next_owner };
        anyhow::ensure!(
            !log.front.in_recovery(),
            "the data directory holds the WAL of an upstream, and cannot be appended to"
        );
        Ok(log)
    }

    /// Where standbys and clients connect.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Appends the messages as one transaction and waits.
    ///
    /// # Errors
    /// When a message is too long, its prefix holds a NUL, or the log is closing.
    pub fn append(
        &self,
        messages: &[Message<'_>],
        level: SynchronousCommit,
    ) -> anyhow::Result<Appended> {
        let answer = self.begin_append(messages, level)?;
        let appended = answer.blocking_recv().context("the log was closed")?;
        appended.map_err(|report| anyhow::anyhow!(report.message))
    }

    /// As [`Log::append`]; the answer comes later. The order of the calls is that of the transactions.
    ///
    /// # Errors
    /// When a message is too long, or its prefix holds a NUL.
    pub fn begin_append(
        &self,
        messages: &[Message<'_>],
        level: SynchronousCommit,
    ) -> anyhow::Result<AppendAnswer> {
        anyhow::ensure!(!messages.is_empty(), "a transaction of no message");
        let records = messages.iter().map(record).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(self.front.append(Append {
            records,
            commit: Some(now()),
            wait: WaitLevel::of_commit(level),
            owner: self.next_owner(),
        }))
    }

    /// Waits until everything before `lsn` has that durability.
    ///
    /// # Errors
    /// When the log is closed meanwhile.
    pub fn wait(&self, lsn: Lsn, level: SynchronousCommit) -> anyhow::Result<()> {
        let Some(level) = WaitLevel::of_commit(level) else { return Ok(()) };
        let waited = self.front.wait(lsn, level, self.next_owner());
        match waited.blocking_recv() {
            Ok(Waited::Reached) => Ok(()),
            Ok(Waited::Canceled) | Err(_) => Err(anyhow::anyhow!("the log was closed")),
        }
    }

    /// End of what is durable here.
    #[must_use]
    pub fn flush_lsn(&self) -> Lsn {
        self.front.shared().flush_lsn.load()
    }

    /// Ships everything to the connected standbys, then ends. Dropping the log does the same, and
    /// forgets the error.
    ///
    /// # Errors
    /// When the server ended before it was asked to.
    pub fn close(mut self) -> anyhow::Result<()> {
        self.stop()
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        // Whoever has ended does not listen.
        let _ = self.requests.send(ServerRequest::Shutdown(ShutdownMode::Fast));
        let ended = thread.join().map_err(|_| anyhow::anyhow!("the server panicked"))?;
        ended.map(drop)
    }

    fn next_owner(&self) -> u32 {
        self.next_owner.fetch_add(1, Ordering::Relaxed) | FIRST_OWNER
    }
}

/// In the WAL a NUL ends the prefix. PostgreSQL: `LogLogicalMessage`.
fn record(message: &Message<'_>) -> anyhow::Result<NewRecord> {
    let Message { prefix, content } = *message;
    anyhow::ensure!(!prefix.contains('\0'), "the prefix {prefix:?} of a message holds a NUL");
    NewRecord::message(true, prefix, content)
        .map_err(|error| anyhow::anyhow!("{error}: {}", error.detail()))
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::error!("could not close the log: {error:#}");
        }
    }
}
