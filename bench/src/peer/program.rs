//! Installed programs, and processes that never outlive the harness.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Debian's directory of PostgreSQL's programs, by major.
const DEBIAN_POSTGRES: &str = "/usr/lib/postgresql";
/// After this long a process that was told to stop is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes at the end of a log that are shown. What strace says of each process must fit.
const SAID_MAX: usize = 32 << 10;

/// A program that a scenario needs.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its file name.
    pub name: &'static str,
    /// The Debian package that brings it.
    pub package: &'static str,
}

/// Every installed program that is used here.
pub const POSTGRES: Program = Program { name: "postgres", package: "postgresql-15" };
/// Makes a cluster.
pub const INITDB: Program = Program { name: "initdb", package: "postgresql-15" };
/// Says what is in a cluster's control file.
pub const PG_CONTROLDATA: Program = Program { name: "pg_controldata", package: "postgresql-15" };
/// Loads a primary.
pub const PGBENCH: Program = Program { name: "pgbench", package: "postgresql-15" };
/// Receives WAL.
pub const PG_RECEIVEWAL: Program =
    Program { name: "pg_receivewal", package: "postgresql-client-15" };
/// Copies a cluster.
pub const PG_BASEBACKUP: Program =
    Program { name: "pg_basebackup", package: "postgresql-client-15" };
/// Sends bytes over TCP: the limit of shipping WAL.
pub const IPERF3: Program = Program { name: "iperf3", package: "iperf3" };
/// Writes to a disk: the limit of a commit.
pub const FIO: Program = Program { name: "fio", package: "fio" };
/// Changes the user and ties a process to its parent.
pub const SETPRIV: Program = Program { name: "setpriv", package: "util-linux" };

impl Program {
    /// Where it is: `WALHUB_PG_BINDIR`, Debian's newest PostgreSQL, or the search path.
    ///
    /// # Errors
    /// Names the package that brings it when it is not there.
    pub fn find(self) -> Result<PathBuf> {
        let chosen = std::env::var_os("WALHUB_PG_BINDIR").map(PathBuf::from);
        let mut debian: Vec<PathBuf> = std::fs::read_dir(DEBIAN_POSTGRES)
            .map(|entries| entries.flatten().map(|entry| entry.path().join("bin")).collect())
            .unwrap_or_default();
        debian.sort();
        debian.reverse();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = chosen.into_iter().chain(debian).chain(std::env::split_paths(&path));
        let found = directories.map(|dir| dir.join(self.name)).find(|file| file.is_file());
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
}

/// A command that dies with the harness, run by its user.
///
/// # Errors
/// When setpriv is missing.
pub fn command(program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = Command::new(SETPRIV.find()?);
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    Ok(plain(command))
}

/// The same, by the user postgres when the harness is root: PostgreSQL does not run as root.
///
/// # Errors
/// When setpriv is missing.
pub fn command_as_postgres(program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = Command::new(SETPRIV.find()?);
    command.args(["--pdeathsig", "KILL"]);
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups"]);
    }
    command.arg("--").arg(program);
    Ok(plain(command))
}

/// No setting of the person who runs the harness may decide what a program connects to.
fn plain(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C.UTF-8").current_dir("/").stdin(Stdio::null());
    command
}

/// Runs `command` to its end and returns its standard output.
///
/// # Errors
/// When it fails, with what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Copies a directory with all that is in it.
///
/// # Errors
/// When cp fails, with what it said.
pub fn copy_files(from: &Path, to: &Path) -> Result<()> {
    let mut command = command("cp")?;
    run(command.args(["-a", "--reflink=auto", "-T"]).arg(from).arg(to))?;
    Ok(())
}

/// A running program; stopped when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
    stop: Signal,
}

impl Running {
    /// Starts `command`; what it says goes to the file `log`. `stop` ends it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, log: &Path, stop: Signal) -> Result<Self> {
        let file = File::create(log).with_context(|| log.display().to_string())?;
        command.stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        Ok(Self { child, log: log.to_owned(), stop })
    }

    /// Its process id: setpriv becomes the program.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it said.
    #[must_use]
    pub fn said(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let tail = log.get(log.len().saturating_sub(SAID_MAX)..).unwrap_or_default();
        String::from_utf8_lossy(tail).into_owned()
    }

    /// Ends it as a crash would, and waits until it is gone.
    pub fn kill(mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Ends it by `stop`, and waits until it is gone.
    pub fn end_by(mut self, stop: Signal) {
        self.stop = stop;
    }

    /// # Errors
    /// When it has ended, with what it said.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{status}:\n{}", self.said());
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        // It may have ended by itself.
        let _ = kill_process(Pid::from_child(&self.child), self.stop);
        let told = Instant::now();
        while told.elapsed() < STOP_TIMEOUT {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
