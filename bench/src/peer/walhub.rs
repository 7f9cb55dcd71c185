//! walhub itself, started as a user would start it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use super::client::Client;
use super::free_port;
use super::program::{self, Running};

/// Where the program is: `WALHUB_BIN`, or built by cargo in the profile of this harness.
///
/// # Errors
/// When it is not there or does not build.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("WALHUB_BIN").map(PathBuf::from) {
        // Programs are started in other directories.
        return fs::canonicalize(&path).with_context(|| format!("WALHUB_BIN: {}", path.display()));
    }
    let own = std::env::current_exe()?;
    // A test's executable lies one directory deeper.
    let profile = own.ancestors().find(|dir| dir.ends_with("release") || dir.ends_with("debug"));
    let path = profile
        .context("not started from cargo's target directory: set WALHUB_BIN")?
        .join("walhub");
    // Started by cargo: what is measured is what the sources say.
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "walhub"]);
        if path.parent().is_some_and(|dir| dir.ends_with("release")) {
            build.arg("--release");
        }
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        program::run(&mut build)?;
    }
    if !path.is_file() {
        bail!(
            "{} is not there: build it with cargo build -p walhub, or set WALHUB_BIN",
            path.display()
        );
    }
    Ok(path)
}

/// A running hub.
#[derive(Debug)]
pub struct Hub {
    running: Running,
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
        Self::serve(binary, dir, &["--upstream", &upstream], settings)
    }

    /// Starts a hub in `dir`, which it makes, that writes WAL of its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_own(binary: &Path, dir: &Path, settings: &[String]) -> Result<Self> {
        Self::serve(binary, dir, &[], settings)
    }

    fn serve(binary: &Path, dir: &Path, arguments: &[&str], settings: &[String]) -> Result<Self> {
        let port = free_port()?;
        let mut command = program::command(binary)?;
        command.args(["serve", "-D"]).arg(dir).args(["--listen", &format!("127.0.0.1:{port}")]);
        command.args(arguments);
        for setting in settings {
            command.args(["-c", setting]);
        }
        let log = dir.with_extension("log");
        Ok(Self { running: Running::start(command, &log, Signal::QUIT)?, port })
    }

    /// Ends it as a crash would.
    pub fn kill(self) {
        self.running.kill();
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Its port on loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The end of its log.
    #[must_use]
    pub fn said(&self) -> String {
        self.running.said()
    }

    /// # Errors
    /// When it has ended, with what it said.
    pub fn check(&mut self) -> Result<()> {
        self.running.check().context("walhub")
    }

    /// Waits until it lets a session in; a hub that writes WAL of its own can then append.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_for_session(&mut self) -> Result<Client> {
        let port = self.port;
        let connect = || {
            let mut client = Client::connect(port, &[("database", "postgres")])?;
            client.query("SELECT pg_logical_emit_message(true, 'walhub-bench', '')")?;
            Ok(client)
        };
        Client::wait(connect, || self.running.check()).context("walhub is not ready")
    }

    /// Waits until it knows its upstream, and so can serve standbys.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let port = self.port;
        let connect = || {
            let mut client = Client::replication(port, "ready")?;
            client.query("IDENTIFY_SYSTEM")?;
            Ok(client)
        };
        Client::wait(connect, || self.running.check()).context("walhub is not ready")?;
        Ok(())
    }
}
