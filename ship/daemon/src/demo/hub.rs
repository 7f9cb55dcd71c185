//! The hub: this same program, run as `walhub serve` in a process of its own.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::Signal;
use walhub_peers::endpoint::Endpoint;
use walhub_peers::hub::Serve;
use walhub_peers::log::Log;
use walhub_peers::process::Process;
use walhub_peers::program::command;

/// How to start a hub, and the process once it runs.
#[derive(Debug)]
pub(super) struct Hub {
    /// Its data directory, its port and its settings.
    pub(super) serve: Serve,
    log: Log,
    process: Option<Process>,
}

impl Hub {
    /// A hub with its files in `directory`, which receives from `conninfo`.
    pub(super) fn new(
        directory: &Path,
        conninfo: &str,
        settings: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let endpoint = Endpoint::free(Ipv4Addr::LOCALHOST).context("could not find a free port")?;
        let mut serve = Serve::new(&directory.join("hub"), endpoint);
        serve.upstream = Some(conninfo.to_owned());
        serve.settings = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Ok(Self { serve, log: Log::kept_in(directory, "hub")?, process: None })
    }

    /// The loopback port that it listens on.
    pub(super) fn port(&self) -> u16 {
        self.serve.endpoint.port
    }

    /// Starts the process; returns its id.
    pub(super) fn start(&mut self) -> anyhow::Result<u32> {
        let program = std::env::current_exe().context("could not find this program's file")?;
        let mut command = command(program);
        command.args(self.serve.arguments());
        let process = Process::spawn(&mut command, Signal::QUIT, &self.log)?;
        Ok(self.process.insert(process).pid())
    }

    /// Kills it without a chance to prepare.
    pub(super) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Asks for a fast shutdown and waits for it.
    pub(super) fn stop(&mut self, timeout: Duration) -> anyhow::Result<()> {
        let Some(process) = self.process.take() else { return Ok(()) };
        process.signal(Signal::INT);
        process.wait_success(timeout)
    }

    /// Its exit status, if it has ended although nobody asked it to.
    pub(super) fn ended(&self) -> Option<ExitStatus> {
        self.process.as_ref()?.status()
    }

    /// The end of its log, indented.
    pub(super) fn log_tail(&self) -> String {
        self.log.tail().lines().map(|line| format!("    {line}\n")).collect()
    }
}
