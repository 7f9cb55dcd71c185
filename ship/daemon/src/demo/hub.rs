//! The hub: this same program, run as `walhub serve` in a process of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::Signal;

use super::leftovers::{ChildId, spawn};

/// Lines of a log that are shown when something failed.
const LOG_LINES_SHOWN: usize = 30;
/// How long a killed process may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// How to start a hub, and the process once it runs.
#[derive(Debug)]
pub(super) struct Hub {
    /// Its data directory.
    pub(super) data_dir: PathBuf,
    /// The loopback port that it listens on.
    pub(super) port: u16,
    log: PathBuf,
    arguments: Vec<String>,
    child: Option<ChildId>,
}

impl Hub {
    /// A hub with its files in `directory`, which receives from `conninfo`.
    pub(super) fn new(
        directory: &Path,
        conninfo: &str,
        settings: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let port = super::free_port().context("could not find a free port")?;
        let data_dir = directory.join("hub");
        let mut arguments = vec!["serve".to_owned()];
        let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        add("-D", data_dir.display().to_string());
        add("--listen", format!("127.0.0.1:{port}"));
        add("--upstream", conninfo.to_owned());
        for (name, value) in settings {
            add("-c", format!("{name}={value}"));
        }
        Ok(Self { data_dir, port, log: directory.join("hub.log"), arguments, child: None })
    }

    /// Starts the process; returns its id.
    pub(super) fn start(&mut self) -> anyhow::Result<u32> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("could not open {}", self.log.display()))?;
        let program = std::env::current_exe().context("could not find this program's file")?;
        let mut command = Command::new(program);
        command.args(&self.arguments).stdout(Stdio::null()).stderr(log);
        without_client_variables(&mut command);
        let child = spawn(&mut command, Signal::QUIT).context("could not start the hub")?;
        let pid = child.pid();
        self.child = Some(child);
        Ok(pid)
    }

    /// Kills it without a chance to prepare.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        let Some(child) = self.child.take() else { return Ok(()) };
        child.signal(Signal::KILL);
        let status = child.wait(KILL_TIMEOUT).context("could not wait for the hub")?;
        anyhow::ensure!(status.is_some(), "the killed hub is still there");
        Ok(())
    }

    /// Asks for a fast shutdown and waits for it.
    pub(super) fn stop(&mut self, timeout: Duration) -> anyhow::Result<()> {
        let Some(child) = self.child.take() else { return Ok(()) };
        child.signal(Signal::INT);
        child.wait_success("stopping the hub", timeout)
    }

    /// Its exit status, if it has ended although nobody asked it to.
    pub(super) fn ended(&self) -> Option<ExitStatus> {
        self.child.as_ref()?.try_wait().ok()?
    }

    /// The end of its log.
    pub(super) fn log_tail(&self) -> String {
        log_tail(&self.log)
    }
}

/// The last lines of a log, indented.
pub(super) fn log_tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines.get(lines.len().saturating_sub(LOG_LINES_SHOWN)..).unwrap_or_default();
    shown.iter().map(|line| format!("    {line}\n")).collect()
}

/// What the user's environment says to libpq is not meant for the demo's servers.
pub(super) fn without_client_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
}
