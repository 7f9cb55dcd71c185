//! The program under test: `walhub serve` and its other commands.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::sync::OnceLock;

use walhub_peers::hub::Serve;

use crate::client::{Endpoint, SqlServer};
use crate::log::Log;
use crate::postgres::{StopMode, program, wal_page_magic};
use crate::process::{Process, command, quick_command, run, run_ok, said, spawn, wait_exit};
use crate::scratch::{Scratch, free_endpoint};
use crate::wait::wait_until;

/// The walhub binary.
///
/// # Panics
/// When it does not build.
#[must_use]
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| walhub_peers::hub::binary().expect("walhub"))
}

/// Runs `walhub` with `arguments` to its end; a server that should have been refused is killed
/// after a while.
pub fn walhub<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    run(quick_command(binary()).args(arguments))
}

/// How to start a hub.
#[derive(Clone, Debug)]
pub struct HubBuilder {
    name: String,
    data: Option<PathBuf>,
    upstream: Option<String>,
    config_file: Option<PathBuf>,
    settings: Vec<String>,
    limits: Vec<String>,
}

impl HubBuilder {
    /// Where its data directory is, when not in the scratch directory.
    #[must_use]
    pub fn data(mut self, data: PathBuf) -> Self {
        self.data = Some(data);
        self
    }

    /// Streams from `conninfo`.
    #[must_use]
    pub fn upstream(mut self, conninfo: impl Into<String>) -> Self {
        self.upstream = Some(conninfo.into());
        self
    }

    /// `--config`.
    #[must_use]
    pub fn config_file(mut self, file: PathBuf) -> Self {
        self.config_file = Some(file);
        self
    }

    /// `-c name=value`; the last one of a name wins.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.settings.push(format!("{name}={}", value.as_ref()));
        self
    }

    /// Has the operating system limit it, in the words of prlimit without their dashes: `nofile=1024:1024`.
    #[must_use]
    pub fn limited(mut self, limit: &str) -> Self {
        self.limits.push(format!("--{limit}"));
        self
    }

    /// The hub, not started yet.
    #[must_use]
    pub fn build(self, scratch: &Scratch) -> Hub {
        let data = self.data.unwrap_or_else(|| scratch.path(&self.name));
        let endpoint = free_endpoint();
        let log = Log::new(&self.name);
        let Self { upstream, config_file, settings, limits, .. } = self;
        let serve = Serve { data, endpoint, upstream, config_file, settings };
        Hub { serve, limits, process: None, log }
    }

    /// The hub, started.
    ///
    /// # Panics
    /// When it does not take connections.
    #[must_use]
    #[track_caller]
    pub fn start(self, scratch: &Scratch) -> Hub {
        let mut hub = self.build(scratch);
        hub.start();
        hub
    }
}

/// A hub with its data directory.
#[derive(Debug)]
pub struct Hub {
    serve: Serve,
    limits: Vec<String>,
    process: Option<Process>,
    log: Log,
}

impl SqlServer for Hub {
    fn endpoint(&self) -> Endpoint {
        self.serve.endpoint
    }
}

impl Hub {
    /// A new hub. Unless set otherwise it keeps its WAL and retries quickly; WAL of its own is that
    /// of the PostgreSQL that the tests run.
    #[must_use]
    pub fn named(name: &str) -> HubBuilder {
        let magic = wal_page_magic();
        let settings = [
            ("wal_page_magic", magic.as_str()),
            ("wal_keep_size", "4GB"),
            ("wal_retrieve_retry_interval", "100ms"),
            ("wal_receiver_status_interval", "1s"),
        ];
        HubBuilder {
            name: name.to_owned(),
            data: None,
            upstream: None,
            config_file: None,
            settings: settings.map(|(name, value)| format!("{name}={value}")).into(),
            limits: Vec::new(),
        }
    }

    /// The arguments of `walhub serve` for this hub.
    #[must_use]
    pub fn serve_arguments(&self) -> Vec<OsString> {
        self.serve.arguments()
    }

    /// Makes it a primary of its own WAL, as its first start would, with segments of that size.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn init(&self, segment_mb: u32) {
        self.init_with(segment_mb, &wal_page_magic());
    }

    /// As [`Hub::init`], with WAL of that version.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn init_with(&self, segment_mb: u32, wal_page_magic: &str) {
        let mut init = quick_command(binary());
        init.args(["init", "-U", "postgres", "--wal-segsize", &segment_mb.to_string()]);
        init.args(["-c", &format!("wal_page_magic={wal_page_magic}")]);
        run_ok(init.arg("-D").arg(&self.serve.data));
    }

    /// Starts the hub without waiting.
    ///
    /// # Panics
    /// When it runs already.
    pub fn spawn(&mut self) {
        self.spawn_with(self.serve_arguments());
    }

    /// As [`Hub::spawn`], with other arguments.
    ///
    /// # Panics
    /// When it runs already.
    pub fn spawn_with(&mut self, arguments: Vec<OsString>) {
        assert!(self.process.is_none(), "{} runs already", self.log.name());
        let mut serve = command("prlimit");
        serve.args(&self.limits).arg(binary()).args(arguments);
        self.process = Some(spawn(&mut serve, &self.log));
    }

    /// Runs a hub that cannot start, and gives what it says.
    ///
    /// # Panics
    /// When it starts.
    #[must_use]
    #[track_caller]
    pub fn refusal(&self) -> String {
        let mut serve = quick_command("prlimit");
        serve.args(&self.limits).arg(binary()).args(self.serve_arguments());
        let output = run(&mut serve);
        let text = said(&output);
        assert!(!output.status.success() && output.status.code() != Some(124), "{text}");
        assert!(!text.contains("panicked"), "{text}");
        text
    }

    /// Starts the hub and waits until it takes connections.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn start(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    /// Waits until the hub takes connections.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait_ready(&self) {
        let process = self.process.as_ref().expect("started");
        let what = format!("{} takes connections", self.log.name());
        wait_until(&what, || {
            process.check().expect("a hub that starts");
            is_ready(self.serve.endpoint).success()
        });
    }

    /// Stops the hub by its signal and waits until it has ended.
    ///
    /// # Panics
    /// When it does not run, or does not end.
    #[track_caller]
    pub fn stop(&mut self, mode: StopMode) -> ExitStatus {
        self.signal_stop(mode);
        self.wait_exit()
    }

    /// Tells the hub to stop, without waiting.
    pub fn signal_stop(&self, mode: StopMode) {
        self.process.as_ref().expect("a running hub").signal(mode.signal());
    }

    /// Waits until the hub has ended by itself.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        wait_exit(&self.process.take().expect("a running hub"))
    }

    /// Kills the hub.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill9(&mut self) {
        self.process.take().expect("a running hub").kill();
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_running)
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("a running hub").pid()
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.serve.data
    }

    /// Its pg_wal.
    #[must_use]
    pub fn pg_wal(&self) -> PathBuf {
        self.serve.data.join("pg_wal")
    }

    /// Streams from another upstream from the next start on.
    pub fn set_upstream(&mut self, conninfo: impl Into<String>) {
        self.serve.upstream = Some(conninfo.into());
    }

    /// Another setting from the next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.serve.settings.push(format!("{name}={value}"));
    }

    /// Ends `count` segments early, each with a message in it, and has a checkpoint follow.
    #[track_caller]
    pub fn switch_wal(&self, count: u32) {
        for _ in 0..count {
            self.psql("select pg_logical_emit_message(true, 'p', '.')");
            self.psql("select pg_switch_wal()");
        }
        self.psql("checkpoint");
    }

    /// Waits until `application_name` streams from this hub.
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

    /// Waits until the hub has received everything before `lsn`.
    #[track_caller]
    pub fn wait_received(&self, lsn: &str) {
        let distance = format!("select pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '{lsn}')");
        wait_until(&format!("{} has received {lsn}", self.log.name()), || {
            let output = self.try_psql(&distance);
            said(&output).trim().parse().is_ok_and(|bytes: i64| bytes >= 0)
        });
    }

    /// Names of the complete or current segments in its pg_wal, oldest first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn segments(&self) -> io::Result<Vec<String>> {
        crate::compare::segment_names(&self.pg_wal())
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.process = None;
        if std::thread::panicking() {
            self.log.show();
        }
    }
}

/// pg_isready against `endpoint`.
#[must_use]
pub fn is_ready(endpoint: Endpoint) -> ExitStatus {
    let mut ready = quick_command(program("pg_isready"));
    ready.args(["-q", "-t", "5", "-d", &endpoint.database()]);
    run(&mut ready).status
}
