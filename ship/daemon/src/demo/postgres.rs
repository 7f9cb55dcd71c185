//! The demo with a PostgreSQL primary and a PostgreSQL hot standby.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hdrhistogram::Histogram;
use rustix::process::Signal;
use walhub_peers::client::Client;
use walhub_peers::endpoint::Endpoint;
use walhub_peers::log::Log;
use walhub_peers::postgres::Cluster;
use walhub_peers::process::{self, Process};
use walhub_peers::program::{bindir, command, give_to_postgres, postgres_program};
use walhub_proto::lsn::Lsn;

use super::DemoArgs;
use super::hub::Hub;
use super::screen::{self, Screen};
use super::workdir::WorkDir;

/// Every program that the demo runs.
const NEEDED: [&str; 5] = ["initdb", "postgres", "pg_basebackup", "pgbench", "psql"];

/// WAL that is written, about, unless the user says otherwise.
const SIZE_DEFAULT: u64 = 512 << 20;
/// WAL that pgbench writes for one unit of scale when it fills its tables.
const SCALE_BYTES: u64 = 15 << 20;
/// Disk space that initdb takes, twice, and room for logs.
const SPARE_BYTES: u64 = 512 << 20;
/// pgbench runs for so long; the hub is killed after a third of it.
const LOAD_SECONDS: u64 = 9;
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a server may take to be ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the standby may stand still before the demo has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const TABLES: [&str; 4] =
    ["pgbench_accounts", "pgbench_branches", "pgbench_history", "pgbench_tellers"];

/// Runs the demo with PostgreSQL on both sides.
pub(super) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    if bindir(&NEEDED).is_none() {
        bail!(
            "PostgreSQL is not installed: found no directory with {}\n\
             Debian, Ubuntu:  apt-get install postgresql\n\
             Fedora, RHEL:    dnf install postgresql-server postgresql-contrib\n\
             Without --postgres the demo needs nothing.",
            NEEDED.join(", ")
        );
    }
    let size = args.size.unwrap_or(SIZE_DEFAULT);
    let work = WorkDir::create(size * 4 + SPARE_BYTES)?;
    let mut screen = Screen::new();
    screen.line("walhub demo: PostgreSQL primary, hub, PostgreSQL hot standby, on loopback");
    screen.heading("Starting");
    screen.line(&format!("  files     {} ({})", work.path.display(), work.about));
    // PostgreSQL's user must get to its files.
    give_to_postgres(&work.path)?;
    let mut demo = Demo::start(&work.path, screen)?;
    match demo.ship(size) {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => {
            demo.show_log();
            Ok(ExitCode::FAILURE)
        }
        Err(error) => {
            demo.show_log();
            Err(error)
        }
    }
}

/// One of the two PostgreSQL servers.
struct Server {
    endpoint: Endpoint,
    process: Process,
    client: Client,
}

impl Server {
    fn start(cluster: &Cluster, log: &Log, setting: &str) -> anyhow::Result<Self> {
        let endpoint = Endpoint::free(Ipv4Addr::LOCALHOST).context("could not find a free port")?;
        let settings = [
            "wal_level=replica",
            "max_wal_size=4GB",
            "wal_keep_size=512MB",
            "shared_buffers=256MB",
            "wal_retrieve_retry_interval=100ms",
            "max_connections=50",
            "autovacuum=off",
            setting,
        ];
        let settings = settings.map(str::to_owned);
        let process = cluster.spawn(endpoint, &settings, Signal::QUIT, log)?;
        log.wait_ready(log.beginning(), START_TIMEOUT)?;
        Ok(Self { endpoint, process, client: Client::database(endpoint)? })
    }

    fn lsn(&mut self, sql: &str) -> anyhow::Result<Lsn> {
        let text = self.client.value(sql)?;
        text.parse().ok().with_context(|| format!("{sql} returned \"{text}\""))
    }
}

/// Programs are ended in the order of the fields.
struct Demo {
    screen: Screen,
    standby: Server,
    hub: Hub,
    primary: Server,
    pgbench: Log,
    /// What pg_stat_replication said of the standby's write lag during the load, in microseconds.
    lag: Histogram<u64>,
}

impl Demo {
    fn start(directory: &Path, mut screen: Screen) -> anyhow::Result<Self> {
        let cluster = Cluster::init(directory, "primary", &[])?;
        let log = Log::kept_in(directory, "primary")?;
        let mut primary = Server::start(&cluster, &log, "synchronous_standby_names=")?;
        let version = primary.client.value("SHOW server_version")?;
        let (primary_port, pid) = (primary.endpoint.port, primary.process.pid());
        screen.line(&format!("  primary   127.0.0.1:{primary_port}, process id {pid}"));
        screen.line(&format!("            PostgreSQL {version}"));

        let conninfo = format!("host=127.0.0.1 port={primary_port} user=postgres sslmode=disable");
        let settings = [
            ("wal_keep_size", "512MB".to_owned()),
            ("wal_retrieve_retry_interval", "100ms".to_owned()),
        ];
        let mut hub = Hub::new(directory, &conninfo, &settings)?;
        let hub_port = hub.port();
        let pid = hub.start()?;
        screen.line(&format!("  hub       127.0.0.1:{hub_port}, process id {pid}"));
        wait_attached(&mut primary, &hub)?;

        let cluster = Cluster::copy(primary.endpoint, directory, "standby")?;
        let upstream = hub.serve.endpoint.conninfo("standby1");
        let upstream = cluster.follow(&format!("{upstream} sslmode=disable"))?;
        let log = Log::kept_in(directory, "standby")?;
        let standby = Server::start(&cluster, &log, &upstream)?;
        let (standby_port, pid) = (standby.endpoint.port, standby.process.pid());
        screen.line(&format!("  standby   127.0.0.1:{standby_port}, process id {pid}"));
        screen.line("            base backup of the primary; its primary_conninfo is the hub");
        let pgbench = Log::kept_in(directory, "pgbench")?;
        let lag = Histogram::new_with_bounds(1, 600_000_000, 3)?;
        Ok(Self { screen, standby, hub, primary, pgbench, lag })
    }

    /// Starts pgbench on the primary.
    fn pgbench(&self, arguments: &[&str]) -> anyhow::Result<Process> {
        let mut pgbench = command(postgres_program("pgbench")?);
        pgbench.args(arguments).arg(self.primary.endpoint.database());
        Process::spawn(&mut pgbench, Signal::TERM, &self.pgbench)
    }

    fn ship(&mut self, size: u64) -> anyhow::Result<bool> {
        self.screen.heading("Shipping");
        let start = self.primary_lsn()?;
        let begun = Instant::now();
        let scale = (size / SCALE_BYTES).max(1).to_string();
        let fill = self.pgbench(&["-i", "-q", "-s", &scale])?;
        self.watch(&fill, start, "pgbench fills its tables", PROGRAM_TIMEOUT)?;
        fill.wait_success(PROGRAM_TIMEOUT)?;
        self.wait_standby(start)?;
        let (bytes, took) = (self.primary_lsn()? - start, begun.elapsed());
        self.screen.line(&format!(
            "  pgbench -i -s {scale}: {} of WAL, replayed by the standby after {}, {}",
            screen::size(bytes),
            screen::time(took),
            screen::rate(bytes, took)
        ));

        let seconds = LOAD_SECONDS.to_string();
        let mark = self.pgbench.mark();
        let load = self.pgbench(&["-n", "-c", "4", "-T", &seconds])?;
        self.watch(&load, start, "pgbench runs", Duration::from_secs(LOAD_SECONDS / 3))?;
        let back = self.kill_and_restart()?;
        self.watch(&load, start, "pgbench runs", PROGRAM_TIMEOUT)?;
        load.wait_success(PROGRAM_TIMEOUT)?;
        self.pgbench.wait_closed();
        let output = self.pgbench.text(mark);
        let tps = output.lines().find(|line| line.starts_with("tps = ")).unwrap_or_default();
        self.screen.line(&format!("  pgbench -c 4 -T {seconds}: {tps}"));
        self.wait_standby(start)?;
        self.finish(start, back)
    }

    /// Kills the hub and starts it again; returns how long it took until the primary had it back.
    fn kill_and_restart(&mut self) -> anyhow::Result<Duration> {
        let killed = Instant::now();
        self.hub.kill();
        let pid = self.hub.start()?;
        self.screen.line(&format!("  hub killed (SIGKILL) and started again, process id {pid}"));
        wait_attached(&mut self.primary, &self.hub)?;
        let back = killed.elapsed();
        self.screen.line(&format!("  hub received again after {}", screen::time(back)));
        Ok(back)
    }

    /// Shows how it goes until a program ends or `time` is over.
    fn watch(
        &mut self,
        program: &Process,
        start: Lsn,
        what: &str,
        time: Duration,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            if self.hub.ended().is_some() {
                bail!("the hub ended by itself");
            }
            if program.wait(POLL_INTERVAL).is_some() {
                return Ok(());
            }
            let (primary, standby) = (self.primary_lsn()?, self.standby_lsn()?);
            self.sample_lag();
            self.screen.progress(|| {
                let done = screen::size(primary.saturating_bytes_since(start));
                let behind = screen::size(primary.saturating_bytes_since(standby));
                format!("  {what}: {done} of WAL, standby at {standby}, {behind} behind")
            });
        }
        Ok(())
    }

    /// Notes the standby's write lag, when the hub is there and knows it.
    fn sample_lag(&mut self) {
        let sql = "SELECT write_lag FROM pg_stat_replication WHERE application_name = 'standby1'";
        let micros = Client::database(self.hub.port()).and_then(|mut hub| hub.value(sql)).ok();
        if let Some(micros) = micros.and_then(|text| interval_micros(&text)) {
            self.lag.saturating_record(micros.max(1));
        }
    }

    /// Waits until the standby has replayed all that the primary has written.
    fn wait_standby(&mut self, start: Lsn) -> anyhow::Result<()> {
        let end = self.primary_lsn()?;
        let mut moved = (Lsn::INVALID, Instant::now());
        loop {
            let standby = self.standby_lsn()?;
            if standby >= end {
                return Ok(());
            }
            if let Some(status) = self.hub.ended() {
                bail!("the hub ended by itself: {status}");
            }
            self.standby.process.check()?;
            if standby != moved.0 {
                moved = (standby, Instant::now());
            } else if moved.1.elapsed() > STALL_TIMEOUT {
                bail!("the standby stands still at {standby}; the primary is at {end}");
            }
            self.screen.progress(|| {
                let done = screen::size(end.saturating_bytes_since(start));
                format!("  {done} of WAL, standby at {standby} of {end}")
            });
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn primary_lsn(&mut self) -> anyhow::Result<Lsn> {
        self.primary.lsn("SELECT pg_current_wal_flush_lsn()")
    }

    fn standby_lsn(&mut self) -> anyhow::Result<Lsn> {
        self.standby.lsn("SELECT pg_last_wal_replay_lsn()")
    }

    /// Compares the tables and shows how it went; whether all is well.
    fn finish(&mut self, start: Lsn, back: Duration) -> anyhow::Result<bool> {
        self.screen.heading("pg_stat_replication of the hub, as psql shows it");
        let sql = "SELECT application_name, state, sent_lsn, flush_lsn, replay_lsn, sync_state \
                   FROM pg_stat_replication";
        let mut psql = command(postgres_program("psql")?);
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-P", "footer=off", "-c", sql]);
        psql.args(["-d", &self.hub.serve.endpoint.database()]);
        for line in process::run("psql", &mut psql, PROGRAM_TIMEOUT)?.trim_end().lines() {
            self.screen.line(format!("  {line}").trim_end());
        }
        self.screen.heading("Verifying");
        let mut rows = vec![
            ["table", "rows", "checksum on primary", "on standby", "identical"]
                .map(str::to_owned)
                .to_vec(),
        ];
        let mut is_good = true;
        for table in TABLES {
            let sql = format!(
                "SELECT count(*) || ' ' || abs(coalesce(sum(hashtextextended(t::text, 0)), 0) % 1e15) \
                 FROM {table} t"
            );
            let primary = self.primary.client.value(&sql)?;
            let standby = self.standby.client.value(&sql)?;
            let same = primary == standby;
            is_good &= same;
            let (count, sum) = primary.split_once(' ').unwrap_or_default();
            let other = standby.split_once(' ').map_or("", |(_, sum)| sum);
            let answer = if same { "yes" } else { "NO" };
            rows.push([table, count, sum, other, answer].map(str::to_owned).to_vec());
        }
        for line in screen::table(&rows) {
            self.screen.line(&line);
        }
        let bytes = self.primary_lsn()? - start;
        let at =
            |quantile| screen::time(Duration::from_micros(self.lag.value_at_quantile(quantile)));
        let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
        let samples = self.lag.len();
        self.screen.line("");
        self.screen.line(&format!("  shipped   {} of WAL", screen::size(bytes)));
        if samples > 0 {
            self.screen.line(&format!(
                "  lag       p50 {p50}, p99 {p99}, max {max} to write, {samples} samples"
            ));
        }
        self.screen.line(&format!("  hub       killed once, back after {}", screen::time(back)));
        self.hub.stop(STOP_TIMEOUT)?;
        if is_good {
            self.screen.line("\nEvery row is on the standby, identical.");
        }
        Ok(is_good)
    }

    fn show_log(&mut self) {
        let tail = self.hub.log_tail();
        self.screen.line(&format!("The end of the hub's log:\n{tail}"));
    }
}

/// Waits until the primary streams to the hub.
fn wait_attached(primary: &mut Server, hub: &Hub) -> anyhow::Result<()> {
    let sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    let deadline = Instant::now() + STALL_TIMEOUT;
    while primary.client.value(sql)? == "0" {
        if let Some(status) = hub.ended() {
            bail!("the hub ended by itself: {status}\n{}", hub.log_tail());
        }
        if Instant::now() > deadline {
            bail!("the hub does not stream from the primary\n{}", hub.log_tail());
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// Microseconds of an interval such as 00:00:00.000345.
fn interval_micros(text: &str) -> Option<u64> {
    let (hours, rest) = text.split_once(':')?;
    let (minutes, seconds) = rest.split_once(':')?;
    let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let fraction = format!("{fraction:0<6}").parse::<u64>().ok()?;
    let [hours, minutes, seconds] =
        [hours, minutes, seconds].map(|number| number.parse::<u64>().ok());
    Some(((hours? * 60 + minutes?) * 60 + seconds?) * 1_000_000 + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read() {
        assert_eq!(interval_micros("00:00:00.000345"), Some(345));
        assert_eq!(interval_micros("00:01:02.5"), Some(62_500_000));
        assert_eq!(interval_micros("00:00:01"), Some(1_000_000));
        assert_eq!(interval_micros(""), None);
    }
}
