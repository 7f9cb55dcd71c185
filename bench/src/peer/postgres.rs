//! A PostgreSQL primary of the harness's own.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::client::Client;
use super::program::{self, INITDB, PGBENCH, POSTGRES, Running};
use super::{free_port, give_to_postgres};

/// A running primary.
#[derive(Debug)]
pub struct Primary {
    running: Running,
    port: u16,
    sockets: PathBuf,
}

impl Primary {
    /// Makes a cluster in `dir` and starts it.
    ///
    /// # Errors
    /// When a program is missing or fails.
    pub fn start(dir: &Path, settings: &[String]) -> Result<Self> {
        let (data, sockets) = (dir.join("primary"), dir.join("sockets"));
        for directory in [&data, &sockets] {
            std::fs::create_dir_all(directory)?;
            give_to_postgres(directory)?;
        }
        let mut initdb = program::command_as_postgres(INITDB.find()?)?;
        initdb.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale"]);
        program::run(initdb.args(["--no-sync", "-D"]).arg(&data))?;
        let port = free_port()?;
        let mut command = program::command_as_postgres(POSTGRES.find()?)?;
        command.arg("-D").arg(&data).arg("-k").arg(&sockets).args(["-h", "127.0.0.1"]);
        command.args(["-p", &port.to_string()]);
        for setting in settings {
            command.args(["-c", setting]);
        }
        // Fast shutdown.
        let mut running = Running::start(command, &dir.join("primary.log"), Signal::INT)?;
        Client::wait(|| Client::connect(port, &[]), || running.check().context("postgres"))?;
        Ok(Self { running, port, sockets })
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

    /// A session in the database postgres.
    ///
    /// # Errors
    /// When it refuses.
    pub fn connect(&self) -> Result<Client> {
        Client::connect(self.port, &[("database", "postgres")])
    }

    /// Runs pgbench over the unix socket; returns what it printed.
    ///
    /// # Errors
    /// When it is missing or fails.
    pub fn pgbench(&self, arguments: &[&str]) -> Result<String> {
        let mut command = program::command(PGBENCH.find()?)?;
        command.args(["-U", "postgres", "-p", &self.port.to_string(), "-h"]).arg(&self.sockets);
        program::run(command.args(arguments).arg("postgres"))
    }
}
