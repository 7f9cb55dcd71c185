//! Installed programs, and the packages that bring them.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
pub use walhub_peers::program::{command, command_as_postgres};
use walhub_peers::program::{find, postgres_program};

/// A program that a scenario needs.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its file name.
    pub name: &'static str,
    /// The Debian package that brings it.
    pub package: &'static str,
}

/// Every installed program that is named here; those that make a cluster are the launchers'.
pub const POSTGRES: Program = Program { name: "postgres", package: "postgresql-15" };
/// Says what is in a cluster's control file.
pub const PG_CONTROLDATA: Program = Program { name: "pg_controldata", package: "postgresql-15" };
/// Loads a primary.
pub const PGBENCH: Program = Program { name: "pgbench", package: "postgresql-15" };
/// Receives WAL.
pub const PG_RECEIVEWAL: Program =
    Program { name: "pg_receivewal", package: "postgresql-client-15" };
/// Sends bytes over TCP: the limit of shipping WAL.
pub const IPERF3: Program = Program { name: "iperf3", package: "iperf3" };
/// Writes to a disk: the limit of a commit.
pub const FIO: Program = Program { name: "fio", package: "fio" };

/// How long a program may run that should end by itself.
const RUN_TIMEOUT: Duration = Duration::from_secs(3600);

impl Program {
    /// Where it is, beside PostgreSQL's server or on the search path.
    ///
    /// # Errors
    /// Names the package that brings it when it is not there.
    pub fn find(self) -> Result<PathBuf> {
        let found = postgres_program(self.name).ok().or_else(|| find(self.name));
        found.with_context(|| {
            format!(
                "{} is not installed; install it with: apt-get install {}",
                self.name, self.package
            )
        })
    }

    /// First line of `--version`, for the record.
    #[must_use]
    pub fn version(self) -> Option<String> {
        let output = Command::new(self.find().ok()?).arg("--version").output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
    }

    /// Runs it to its end and returns its standard output.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn run(self, command: &mut Command) -> Result<String> {
        walhub_peers::process::run(self.name, command, RUN_TIMEOUT)
    }
}
