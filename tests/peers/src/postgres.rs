//! A PostgreSQL cluster on disk, and the server in it.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use crate::endpoint::Endpoint;
use crate::log::Log;
use crate::process::{Process, run};
use crate::program::{command, command_as_postgres, give_to_postgres, postgres_program};

/// How long initdb, pg_basebackup and cp may take.
const MAKE_TIMEOUT: Duration = Duration::from_secs(600);

/// A cluster, whether or not a server runs in it.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its data directory.
    pub data: PathBuf,
}

impl Cluster {
    /// The directory for a cluster in `dir`, with nothing in it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn empty(dir: &Path, name: &str) -> Result<Self> {
        Ok(Self { data: directory(dir, name)? })
    }

    /// Makes a new cluster that trusts everyone on loopback; `options` are further ones of initdb.
    ///
    /// # Errors
    /// When initdb is missing or fails.
    pub fn init(dir: &Path, name: &str, options: &[&str]) -> Result<Self> {
        let cluster = Self::empty(dir, name)?;
        let mut initdb = command_as_postgres(postgres_program("initdb")?)?;
        initdb.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale"]);
        initdb.args(["--no-sync", "-D"]).arg(&cluster.data).args(options);
        run("initdb", &mut initdb, MAKE_TIMEOUT)?;
        Ok(cluster)
    }

    /// Copies the cluster of the server at `primary`.
    ///
    /// # Errors
    /// When pg_basebackup is missing or fails.
    pub fn copy(primary: Endpoint, dir: &Path, name: &str) -> Result<Self> {
        let cluster = Self::empty(dir, name)?;
        let mut backup = command_as_postgres(postgres_program("pg_basebackup")?)?;
        backup.args(["--checkpoint=fast", "--wal-method=stream", "--no-sync", "-D"]);
        backup.arg(&cluster.data).args(["-d", &primary.conninfo("pg_basebackup")]);
        run("pg_basebackup", &mut backup, MAKE_TIMEOUT)?;
        Ok(cluster)
    }

    /// Copies the files of a cluster in which no server runs.
    ///
    /// # Errors
    /// When they cannot be copied.
    pub fn duplicate(&self, dir: &Path, name: &str) -> Result<Self> {
        let copy = Self::empty(dir, name)?;
        copy_files(&self.data, &copy.data)?;
        // A server that was killed left it, whose number may be another's now.
        let _ = fs::remove_file(copy.data.join("postmaster.pid"));
        Ok(copy)
    }

    /// Adds lines to postgresql.conf; the last one of a name wins.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, lines: &str) -> Result<()> {
        let path = self.data.join("postgresql.conf");
        let file = OpenOptions::new().append(true).open(&path);
        let mut file = file.with_context(|| path.display().to_string())?;
        Ok(writeln!(file, "{lines}")?)
    }

    /// Has the next server be a standby of `primary_conninfo`, which [`Cluster::spawn`] takes
    /// among the settings.
    ///
    /// # Errors
    /// When the file that says so cannot be written.
    pub fn follow(&self, primary_conninfo: &str) -> Result<String> {
        let signal = self.data.join("standby.signal");
        fs::write(&signal, "")?;
        give_to_postgres(&signal)?;
        Ok(format!("primary_conninfo={primary_conninfo}"))
    }

    /// Starts a server without waiting: at `endpoint`, with no Unix socket unless `settings` say
    /// so. Dropped, it shuts down by `end_by`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(
        &self,
        endpoint: Endpoint,
        settings: &[String],
        end_by: Signal,
        log: &Log,
    ) -> Result<Process> {
        let Endpoint { host, port } = endpoint;
        let mut postgres = command_as_postgres(postgres_program("postgres")?)?;
        postgres.arg("-D").arg(&self.data).args(["-h", &host.to_string(), "-p", &port.to_string()]);
        let own = ["unix_socket_directories=", "lc_messages=C", "logging_collector=off"];
        for setting in own.into_iter().chain(settings.iter().map(String::as_str)) {
            postgres.args(["-c", setting]);
        }
        Process::spawn(&mut postgres, end_by, log)
    }

    /// Removes the System V segment of a server that was killed: only its next start would, and a
    /// system has 4096 of them.
    pub fn release_shared_memory(&self) {
        // A server that ended in order has removed both.
        let Ok(text) = fs::read_to_string(self.data.join("postmaster.pid")) else { return };
        // LOCK_FILE_LINE_SHMEM_KEY of miscadmin.h is 7: the key, and the id.
        let id = text.lines().nth(6).and_then(|line| line.split_whitespace().nth(1));
        if let Some(id) = id {
            // It is gone if the server was killed between the two.
            let _ = Command::new("ipcrm").args(["--shmem-id", id]).output();
        }
    }
}

/// Makes the directory `name` in `dir` for PostgreSQL's user alone.
///
/// # Errors
/// When it cannot be made.
pub fn directory(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
    fs::set_permissions(&path, Permissions::from_mode(0o700))?;
    give_to_postgres(&path)?;
    Ok(path)
}

/// Copies a directory with all that is in it.
///
/// # Errors
/// When cp fails.
pub fn copy_files(from: &Path, to: &Path) -> Result<()> {
    let mut copy = command("cp");
    copy.args(["-a", "--reflink=auto", "-T"]).arg(from).arg(to);
    run("cp", &mut copy, MAKE_TIMEOUT).map(drop)
}
