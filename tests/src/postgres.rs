//! Real PostgreSQL servers: primaries, standbys, and their tools.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;

use rustix::process::Signal;
use walhub_peers::postgres::Cluster;
use walhub_peers::program::postgres_program;
use walhub_proto::page::WalVersion;

use crate::client::{Endpoint, SqlServer};
use crate::log::{Log, Mark};
use crate::process::{Process, run_ok, wait_exit};
use crate::scratch::{Scratch, free_endpoint};
use crate::wait::{DEADLINE, wait_for};

/// How a server is told to stop, as pg_ctl and walhub name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopMode {
    /// SIGTERM: waits for sessions to end.
    Smart,
    /// SIGINT: ends sessions, ships everything.
    Fast,
    /// SIGQUIT: at once.
    Immediate,
}

impl StopMode {
    /// Its signal.
    #[must_use]
    pub fn signal(self) -> Signal {
        match self {
            Self::Smart => Signal::TERM,
            Self::Fast => Signal::INT,
            Self::Immediate => Signal::QUIT,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Smart => "smart",
            Self::Fast => "fast",
            Self::Immediate => "immediate",
        }
    }
}

/// The path of one of PostgreSQL's programs.
///
/// # Panics
/// When there is no PostgreSQL.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    postgres_program(name).expect("tests/run installs PostgreSQL")
}

/// PostgreSQL's major version.
///
/// # Panics
/// When `postgres --version` does not tell.
#[must_use]
pub fn major() -> u32 {
    static MAJOR: OnceLock<u32> = OnceLock::new();
    *MAJOR.get_or_init(|| {
        let text = run_ok(Command::new(program("postgres")).arg("--version"));
        // "postgres (PostgreSQL) 15.18 (Debian ...)", "18beta1".
        let version = text.split_whitespace().nth(2).unwrap_or_default();
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_else(|_| panic!("which version is {text}?"))
    })
}

/// The page magic of this PostgreSQL's WAL, as the setting `wal_page_magic` takes it.
///
/// # Panics
/// When walhub does not know this major.
#[must_use]
pub fn wal_page_magic() -> String {
    let version = WalVersion::of_major(major());
    let version = version.unwrap_or_else(|| panic!("PostgreSQL {} is not known", major()));
    format!("{:04X}", version.magic())
}

/// How to make a primary.
#[derive(Clone, Debug)]
pub struct PrimaryBuilder {
    name: String,
    segment_size_mb: u32,
    config: Vec<String>,
    hba: Vec<String>,
    sql: Vec<String>,
}

impl PrimaryBuilder {
    /// Size of its WAL segments; 16 by default.
    #[must_use]
    pub fn segment_size_mb(mut self, segment_size_mb: u32) -> Self {
        self.segment_size_mb = segment_size_mb;
        self
    }

    /// A line of postgresql.conf.
    #[must_use]
    pub fn config(mut self, line: impl Into<String>) -> Self {
        self.config.push(line.into());
        self
    }

    /// A line at the top of pg_hba.conf; what no line matches is trusted on loopback.
    #[must_use]
    pub fn hba(mut self, line: impl Into<String>) -> Self {
        self.hba.push(line.into());
        self
    }

    /// A statement to run after the first start.
    #[must_use]
    pub fn sql(mut self, sql: impl Into<String>) -> Self {
        self.sql.push(sql.into());
        self
    }

    /// Runs initdb and starts the server.
    ///
    /// # Panics
    /// When either fails.
    #[must_use]
    pub fn start(self, scratch: &Scratch) -> Postgres {
        let segment_size = format!("--wal-segsize={}", self.segment_size_mb);
        let cluster = Cluster::init(scratch.dir(), &self.name, &[&segment_size]).expect("initdb");
        let mut hba = self.hba.join("\n");
        hba.push_str("\nlocal all all trust\nhost all all 127.0.0.0/8 trust\n");
        hba.push_str("local replication all trust\nhost replication all 127.0.0.0/8 trust\n");
        fs::write(cluster.data.join("pg_hba.conf"), hba).expect("pg_hba.conf");
        let mut server = Postgres::at(&self.name, cluster);
        let min_wal_mb = self.segment_size_mb * 5;
        server.configure(&format!(
            "wal_level = replica\nmax_wal_senders = 20\nmax_replication_slots = 20\n\
             wal_keep_size = 4GB\nmin_wal_size = {min_wal_mb}MB\nmax_wal_size = 2GB\n\
             autovacuum = off\n"
        ));
        server.configure(&self.config.join("\n"));
        server.start();
        for sql in &self.sql {
            server.psql(sql);
        }
        server
    }
}

/// A PostgreSQL server with its data directory.
#[derive(Debug)]
pub struct Postgres {
    cluster: Cluster,
    endpoint: Endpoint,
    process: Option<Process>,
    log: Log,
}

impl SqlServer for Postgres {
    fn endpoint(&self) -> Endpoint {
        self.endpoint
    }
}

impl Postgres {
    /// A new primary.
    #[must_use]
    pub fn primary(name: &str) -> PrimaryBuilder {
        PrimaryBuilder {
            name: name.to_owned(),
            segment_size_mb: 16,
            config: Vec::new(),
            hba: Vec::new(),
            sql: Vec::new(),
        }
    }

    /// A server over an existing cluster; gives it its address.
    fn at(name: &str, cluster: Cluster) -> Self {
        let endpoint = free_endpoint();
        let server = Self { cluster, endpoint, process: None, log: Log::new(name) };
        server.configure(&format!(
            "fsync = on\ncluster_name = '{name}'\nlog_line_prefix = '%m [%p] %q%a '\n\
             shared_buffers = 32MB\ndynamic_shared_memory_type = mmap\n\
             max_connections = 50\nhot_standby = on\nwal_receiver_status_interval = 1s\n\
             wal_retrieve_retry_interval = 100ms"
        ));
        server
    }

    /// A base backup of this server as the standby `name`, not started yet: it is to stream from
    /// `primary_conninfo`.
    ///
    /// # Panics
    /// When pg_basebackup fails.
    #[must_use]
    pub fn standby(&self, name: &str, primary_conninfo: &str, scratch: &Scratch) -> Self {
        let cluster = Cluster::copy(self.endpoint, scratch.dir(), name).expect("pg_basebackup");
        fs::write(cluster.data.join("standby.signal"), "").expect("standby.signal");
        let standby = Self::at(name, cluster);
        standby.configure(&format!("primary_conninfo = '{primary_conninfo}'"));
        // The primary's synchronous_standby_names would count again after a promotion.
        standby.configure("synchronous_standby_names = ''\nprimary_slot_name = ''");
        standby
    }

    /// Adds lines to postgresql.conf; the last one of a name wins.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn configure(&self, lines: &str) {
        self.cluster.configure(lines).expect("postgresql.conf");
    }

    /// Starts the server and waits until it takes connections.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn start(&mut self) {
        let mark = self.spawn();
        self.log.wait_ready(mark, DEADLINE).expect("a server that starts");
    }

    /// Starts the server without waiting; what it says from now on follows the mark.
    ///
    /// # Panics
    /// When it runs already.
    pub fn spawn(&mut self) -> Mark {
        assert!(self.process.is_none(), "{} runs already", self.log.name());
        let mark = self.log.mark();
        let process = self.cluster.spawn(self.endpoint, &[], Signal::KILL, &self.log);
        self.process = Some(process.expect("a server"));
        mark
    }

    /// Stops the server and waits until it has ended.
    ///
    /// # Panics
    /// When it does not run, or does not end.
    #[track_caller]
    pub fn stop(&mut self, mode: StopMode) -> ExitStatus {
        let process = self.process.take().expect("a running server");
        process.signal(mode.signal());
        wait_exit(&process)
    }

    /// Kills the server and all its processes.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill9(&mut self) {
        self.process.take().expect("a running server").kill();
    }

    /// The postmaster's process id.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("a running server").pid()
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.cluster.data
    }

    /// Its pg_wal.
    #[must_use]
    pub fn pg_wal(&self) -> PathBuf {
        self.cluster.data.join("pg_wal")
    }

    /// End of its durable WAL.
    #[must_use]
    #[track_caller]
    pub fn flush_lsn(&self) -> String {
        self.psql("select pg_current_wal_flush_lsn()")
    }

    /// The segment that it writes now: all before it are complete.
    #[must_use]
    #[track_caller]
    pub fn current_segment(&self) -> String {
        self.psql("select pg_walfile_name(pg_current_wal_insert_lsn())")
    }

    /// Ends `count` segments early.
    #[track_caller]
    pub fn switch_wal(&self, count: u32) {
        self.psql(&format!(
            "select count(*) from (select pg_logical_emit_message(false, 'walhub', 'switch'), \
             pg_switch_wal() from generate_series(1, {count})) s"
        ));
    }

    /// Ends the current segment, and gives its name: it is complete now.
    #[must_use]
    #[track_caller]
    pub fn finish_segment(&self) -> String {
        let name = self.current_segment();
        self.switch_wal(1);
        name
    }

    /// Writes `megabytes` of WAL.
    #[track_caller]
    pub fn write_wal(&self, megabytes: u32) {
        self.psql(&format!(
            "select count(pg_logical_emit_message(false, 'walhub', repeat(md5(i::text), 2048))) \
             from generate_series(1, {megabytes} * 16) i"
        ));
        // The messages above are durable when a later commit is.
        self.psql("select pg_logical_emit_message(true, 'walhub', 'end')");
    }

    /// Waits until this standby has replayed everything before `lsn`.
    #[track_caller]
    pub fn wait_replay(&self, lsn: &str) {
        self.wait_sql(&format!("select pg_last_wal_replay_lsn() >= '{lsn}'"), "t");
    }

    /// Waits until the standby or hub `application_name` streams from this server.
    #[track_caller]
    pub fn wait_streaming(&self, application_name: &str) {
        self.wait_sql(
            &format!(
                "select count(*) from pg_stat_replication \
                 where application_name = '{application_name}' and state = 'streaming'"
            ),
            "1",
        );
    }

    /// Waits until `application_name` has acknowledged everything before `lsn` as durable.
    #[track_caller]
    pub fn wait_acknowledged(&self, application_name: &str, lsn: &str) {
        self.wait_sql(
            &format!(
                "select count(*) from pg_stat_replication \
                 where application_name = '{application_name}' and flush_lsn >= '{lsn}'"
            ),
            "1",
        );
    }

    /// The process id of the server process of type `backend_type`.
    ///
    /// # Panics
    /// When there is none in time.
    #[must_use]
    #[track_caller]
    pub fn backend(&self, backend_type: &str) -> u32 {
        let sql = format!("select pid from pg_stat_activity where backend_type = '{backend_type}'");
        wait_for(backend_type, || self.psql(&sql).parse().ok())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.process = None;
        self.cluster.release_shared_memory();
        if std::thread::panicking() {
            self.log.show();
        }
    }
}
