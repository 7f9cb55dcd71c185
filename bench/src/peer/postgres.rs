//! PostgreSQL servers of the harness's own: a primary, and standbys copied from it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use walhub_peers::client::Client;
use walhub_peers::endpoint::Endpoint;
use walhub_peers::log::Log;
use walhub_peers::postgres::{Cluster, directory};
use walhub_peers::process::Process;
use walhub_proto::convert::to_u64;
use walhub_proto::lsn::{Lsn, SystemIdentifier, TimelineId};
use walhub_proto::page::WalVersion;
use walhub_proto::record::RecordReader;
use walhub_proto::segment::{SegNo, SegmentSize};

use super::program::{PG_CONTROLDATA, command_as_postgres};

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
    /// Reads where the WAL of `cluster` ends, on timeline 1, after a clean shutdown.
    ///
    /// # Errors
    /// When pg_controldata is missing, or what it says does not go with the WAL.
    pub fn of(cluster: &Cluster) -> Result<Self> {
        let mut command = command_as_postgres(PG_CONTROLDATA.find()?)?;
        let control = PG_CONTROLDATA.run(command.arg("-D").arg(&cluster.data))?;
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
        let file =
            cluster.data.join("pg_wal").join(segno.file_name(TimelineId::FIRST, segment_size));
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
        Ok(Self {
            system_identifier: SystemIdentifier(value("Database system identifier")?.parse()?),
            segment_size,
            version: reader.version().context("no page of WAL in the segment")?,
            start,
            last_record,
            segment,
        })
    }

    /// One past the last byte.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.start + to_u64(self.segment.len())
    }
}

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    /// Its process.
    pub process: Process,
    port: u16,
    sockets: PathBuf,
}

impl Postgres {
    /// Makes a cluster in `dir` and starts it.
    ///
    /// # Errors
    /// When a program is missing or fails.
    pub fn primary(dir: &Path, settings: &[String]) -> Result<Self> {
        Self::start(&Cluster::init(dir, "primary", &[])?, settings)
    }

    /// Starts a server and waits until it lets somebody in.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(cluster: &Cluster, settings: &[String]) -> Result<Self> {
        let endpoint = Endpoint::free(Ipv4Addr::LOCALHOST)?;
        let data = &cluster.data;
        let name = data.file_name().context("a directory")?.to_string_lossy();
        let parent = data.parent().context("a directory")?;
        let sockets = directory(parent, &format!("{name}-sockets"))?;
        let mut all = vec![format!("unix_socket_directories={}", sockets.display())];
        all.extend_from_slice(settings);
        // Fast shutdown.
        let process = cluster.spawn(endpoint, &all, Signal::INT, &Log::new(&name))?;
        // As a client sees it, not as the log tells it: what is measured is until then.
        Client::wait(|| Client::connect(endpoint, &[]), || process.check())?;
        Ok(Self { process, port: endpoint.port, sockets })
    }

    /// Starts a server that follows the one at `upstream_port`.
    ///
    /// # Errors
    /// When it does not let anybody in.
    pub fn standby(
        cluster: &Cluster,
        upstream_port: u16,
        name: &str,
        settings: &[String],
    ) -> Result<Self> {
        let upstream = cluster.follow(&Endpoint::from(upstream_port).conninfo(name))?;
        Self::start(cluster, &[settings, &[upstream]].concat())
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
        Client::database(self.port)
    }

    /// Ends it at once, without a checkpoint (pg_ctl stop -m immediate): its next start recovers as
    /// after a crash, but no shared memory is left behind.
    pub fn crash(self) {
        self.process.end_by(Signal::QUIT);
    }
}
