//! PostgreSQL servers of the harness's own: a primary, and standbys copied from it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use walhub_proto::lsn::{Lsn, SystemIdentifier, TimelineId};
use walhub_proto::page::WalVersion;
use walhub_proto::record::RecordReader;
use walhub_proto::segment::{SegNo, SegmentSize};

use super::client::Client;
use super::program::{self, INITDB, PG_BASEBACKUP, PG_CONTROLDATA, POSTGRES, Running};
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

    /// Copies the files of a cluster in which no server runs.
    ///
    /// # Errors
    /// When they cannot be copied.
    pub fn duplicate(&self, dir: &Path, name: &str) -> Result<Self> {
        let copy = Self::empty(dir, name)?;
        program::copy_files(&self.data, &copy.data)?;
        // A server that was killed left it, whose number may be another's now.
        let _ = std::fs::remove_file(copy.data.join("postmaster.pid"));
        Ok(copy)
    }

    /// Reads where its WAL ends, on timeline 1, after a clean shutdown.
    ///
    /// # Errors
    /// When pg_controldata is missing, or what it says does not go with the WAL.
    pub fn end_of_wal(&self) -> Result<EndOfWal> {
        let mut command = program::command_as_postgres(PG_CONTROLDATA.find()?)?;
        let control = program::run(command.arg("-D").arg(&self.data))?;
        let value = |name: &str| {
            let line = control.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim).with_context(|| format!("pg_controldata does not say: {name}"))
        };
        let state = value("Database cluster state")?;
        ensure!(state == "shut down", "the cluster is {state}, and not shut down");
        let last_record: Lsn = value("Latest checkpoint location")?
            .parse()
            .map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let segment_size = SegmentSize::new(value("Bytes per WAL segment")?.parse()?)
            .context("no size of a segment")?;
        let segno = SegNo::of_start(last_record, segment_size);
        let file = self.data.join("pg_wal").join(segno.file_name(TimelineId::FIRST, segment_size));
        let mut segment = std::fs::read(&file).with_context(|| file.display().to_string())?;
        let start = segno.start(segment_size);
        let mut reader = RecordReader::new(start, segment_size, crc32c::crc32c_append);
        // It ends with zeros, which are no record.
        let _end = reader.feed(&segment);
        ensure!(
            reader.last_record() == Some(last_record),
            "the last record of {} is at {:?}, and not at {last_record}",
            file.display(),
            reader.last_record()
        );
        segment.truncate(usize::try_from(reader.verified_lsn() - start)?);
        Ok(EndOfWal {
            system_identifier: SystemIdentifier(value("Database system identifier")?.parse()?),
            segment_size,
            version: reader.version().context("no page of WAL in the segment")?,
            start,
            last_record,
            segment,
        })
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

/// Where the WAL of a cluster ends that was shut down.
#[derive(Clone, Debug)]
pub struct EndOfWal {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// Size of its segments.
    pub segment_size: SegmentSize,
    /// Version of its pages.
    pub version: WalVersion,
    /// Start of its last segment.
    pub start: Lsn,
    /// The checkpoint record, which is the last.
    pub last_record: Lsn,
    /// The last segment up to the end of that record.
    pub segment: Vec<u8>,
}

impl EndOfWal {
    /// One past the last byte.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.start + u64::try_from(self.segment.len()).unwrap_or(u64::MAX)
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

    /// The end of its log.
    #[must_use]
    pub fn said(&self) -> String {
        self.running.said()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When it does not, with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        self.running.check().context("postgres")
    }

    /// Ends it at once, without a checkpoint (pg_ctl stop -m immediate): its next start recovers as
    /// after a crash, but no shared memory is left behind.
    pub fn crash(self) {
        self.running.end_by(Signal::QUIT);
    }
}
