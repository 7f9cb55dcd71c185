//! walhub itself, started as a user would start it.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use walhub_peers::client::Client;
use walhub_peers::endpoint::Endpoint;
use walhub_peers::hub::Serve;
use walhub_peers::log::Log;
use walhub_peers::process::Process;

use super::program::command;

/// A running hub.
#[derive(Debug)]
pub struct Hub {
    /// Its process.
    pub process: Process,
    port: u16,
}

impl Hub {
    /// Starts a hub in `dir`, which it makes, behind the server at `upstream_port`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        binary: &Path,
        dir: &Path,
        upstream_port: u16,
        settings: &[String],
    ) -> Result<Self> {
        let upstream = format!("host=127.0.0.1 port={upstream_port} user=postgres");
        Self::serve(binary, dir, Some(upstream), settings)
    }

    /// Starts a hub in `dir`, which it makes, that writes WAL of its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_own(binary: &Path, dir: &Path, settings: &[String]) -> Result<Self> {
        Self::serve(binary, dir, None, settings)
    }

    fn serve(
        binary: &Path,
        dir: &Path,
        upstream: Option<String>,
        settings: &[String],
    ) -> Result<Self> {
        let endpoint = Endpoint::free(Ipv4Addr::LOCALHOST)?;
        let serve = Serve { upstream, settings: settings.to_vec(), ..Serve::new(dir, endpoint) };
        let mut command = command(binary);
        command.args(serve.arguments());
        let process = Process::spawn(&mut command, Signal::QUIT, &Log::new("walhub"))?;
        Ok(Self { process, port: endpoint.port })
    }

    /// Ends it as a crash would.
    pub fn kill(self) {
        self.process.kill();
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its port on loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until it lets a session in; a hub that writes WAL of its own can then append.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_for_session(&self) -> Result<Client> {
        let port = self.port;
        let connect = || {
            let mut client = Client::database(port)?;
            client.query("SELECT pg_logical_emit_message(true, 'walhub-bench', '')")?;
            Ok(client)
        };
        Client::wait(connect, || self.process.check()).context("walhub is not ready")
    }

    /// Waits until it knows its upstream, and so can serve standbys.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_until_ready(&self) -> Result<()> {
        let port = self.port;
        let connect = || {
            let mut client = Client::replication(port, "ready")?;
            client.query("IDENTIFY_SYSTEM")?;
            Ok(client)
        };
        Client::wait(connect, || self.process.check()).context("walhub is not ready")?;
        Ok(())
    }
}
