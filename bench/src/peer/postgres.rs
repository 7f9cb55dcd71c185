//! PostgreSQL servers of the harness's own: a primary, and standbys copied from it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::client::Client;
use super::program::{self, INITDB, PG_BASEBACKUP, POSTGRES, Running};
use super::{free_port, give_to_postgres};

/// A cluster on disk, whether or not a server runs in it.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its data directory.
    pub data: PathBuf,
    sockets: PathBuf,
    log: PathBuf,
}

impl Cluster {
    /// Directories for a cluster, with nothing in them.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn empty(dir: &Path, name: &str) -> Result<Self> {
        let cluster = Self {
            data: dir.join(name),
            sockets: dir.join(format!("{name}-sockets")),
            log: dir.join(format!("{name}.log")),
        };
        for directory in [&cluster.data, &cluster.sockets] {
            std::fs::create_dir_all(directory)?;
            give_to_postgres(directory)?;
        }
        // PostgreSQL wants nobody else in it.
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&cluster.data, std::fs::Permissions::from_mode(0o700))?;
        Ok(cluster)
    }

    /// Makes a new cluster in the directory `name` of `dir`.
    ///
    /// # Errors
    /// When initdb is missing or fails.
    pub fn init(dir: &Path, name: &str) -> Result<Self> {
        let cluster = Self::empty(dir, name)?;
        let mut initdb = program::command_as_postgres(INITDB.find()?)?;
        initdb.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale"]);
        program::run(initdb.args(["--no-sync", "-D"]).arg(&cluster.data))?;
        Ok(cluster)
    }

    /// Copies the cluster of `primary` into the directory `name` of `dir`.
    ///
    /// # Errors
    /// When pg_basebackup is missing or fails.
    pub fn copy(primary: &Postgres, dir: &Path, name: &str) -> Result<Self> {
        let cluster = Self::empty(dir, name)?;
        let mut copy = program::command_as_postgres(PG_BASEBACKUP.find()?)?;
        copy.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &primary.port().to_string()]);
        copy.args(["--checkpoint=fast", "--no-sync", "--wal-method=stream", "-D"]);
        program::run(copy.arg(&cluster.data))?;
        Ok(cluster)
    }

    /// Starts a server and waits until it lets somebody in.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(&self, settings: &[String]) -> Result<Postgres> {
        let port = free_port()?;
        let mut command = program::command_as_postgres(POSTGRES.find()?)?;
        command.arg("-D").arg(&self.data).arg("-k").arg(&self.sockets).args(["-h", "127.0.0.1"]);
        command.args(["-p", &port.to_string()]);
        for setting in settings {
            command.args(["-c", setting]);
        }
        // Fast shutdown.
        let mut running = Running::start(command, &self.log, Signal::INT)?;
        Client::wait(|| Client::connect(port, &[]), || running.check().context("postgres"))?;
        Ok(Postgres { running, port, sockets: self.sockets.clone() })
    }

    /// Starts a server that follows the one at `upstream_port`.
    ///
    /// # Errors
    /// When it does not let anybody in.
    pub fn start_standby(
        &self,
        upstream_port: u16,
        name: &str,
        settings: &[String],
    ) -> Result<Postgres> {
        let signal = self.data.join("standby.signal");
        std::fs::write(&signal, "")?;
        give_to_postgres(&signal)?;
        let mut all = settings.to_vec();
        all.push(format!(
            "primary_conninfo=host=127.0.0.1 port={upstream_port} user=postgres application_name={name}"
        ));
        self.start(&all)
    }
}

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    running: Running,
    port: u16,
    sockets: PathBuf,
}

impl Postgres {
    /// Makes a cluster in `dir` and starts it.
    ///
    /// # Errors
    /// When a program is missing or fails.
    pub fn primary(dir: &Path, settings: &[String]) -> Result<Self> {
        Cluster::init(dir, "primary")?.start(settings)
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

    /// Where its unix socket is.
    #[must_use]
    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// A session in the database postgres.
    ///
    /// # Errors
    /// When it refuses.
    pub fn connect(&self) -> Result<Client> {
        Client::connect(self.port, &[("database", "postgres")])
    }

    /// Ends it as a crash would.
    pub fn kill(self) {
        self.running.kill();
    }
}
