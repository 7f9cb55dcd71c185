//! The demo with a PostgreSQL primary and a PostgreSQL hot standby.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hdrhistogram::Histogram;
use rustix::process::Signal;
use walhub_proto::lsn::Lsn;

use super::DemoArgs;
use super::hub::Hub;
use super::leftovers::ChildId;
use super::programs::{self, Programs};
use super::screen::{self, Screen};
use super::workdir::WorkDir;

/// WAL that is written, about, unless the user says otherwise.
const SIZE_DEFAULT: u64 = 512 << 20;
/// WAL that pgbench writes for one unit of scale when it fills its tables.
const SCALE_BYTES: u64 = 15 << 20;
/// Disk space that initdb takes, twice, and room for logs.
const SPARE_BYTES: u64 = 512 << 20;
/// pgbench runs for so long; the hub is killed after a third of it.
const LOAD_SECONDS: u64 = 9;
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the standby may stand still before the demo has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const TABLES: [&str; 4] =
    ["pgbench_accounts", "pgbench_branches", "pgbench_history", "pgbench_tellers"];

/// Runs it.
pub(super) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let bin_dir = programs::find()?;
    let size = args.size.unwrap_or(SIZE_DEFAULT);
    let work = WorkDir::create(size * 4 + SPARE_BYTES)?;
    let mut screen = Screen::new();
    screen.line("walhub demo: PostgreSQL primary, hub, PostgreSQL hot standby, on loopback");
    screen.heading("Starting");
    screen.line(&format!("  files     {} ({})", work.path.display(), work.about));
    let programs = Programs::new(bin_dir, &work.path)?;
    let mut demo = Demo::start(programs, &work.path, screen)?;
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

struct Demo {
    screen: Screen,
    programs: Programs,
    primary_port: u16,
    hub: Hub,
    standby_port: u16,
    standby: ChildId,
    /// What pg_stat_replication said of the standby's write lag during the load, in microseconds.
    lag: Histogram<u64>,
}

/// Settings of both servers.
fn server_settings(data: &str, port: u16) -> Vec<String> {
    let settings = [
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "wal_level=replica",
        "max_wal_size=4GB",
        "wal_keep_size=512MB",
        "shared_buffers=256MB",
        "wal_retrieve_retry_interval=100ms",
        "max_connections=50",
        "autovacuum=off",
    ];
    let mut arguments = vec!["-D".to_owned(), data.to_owned(), "-p".to_owned(), port.to_string()];
    for setting in settings {
        arguments.extend(["-c".to_owned(), setting.to_owned()]);
    }
    arguments
}

fn start_server(
    programs: &Programs,
    name: &str,
    port: u16,
    setting: &str,
) -> anyhow::Result<ChildId> {
    let mut arguments = server_settings(name, port);
    arguments.extend(["-c".to_owned(), setting.to_owned()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let child = programs.start("postgres", name, &arguments, Signal::QUIT)?;
    programs.wait_ready(&child, name, port)?;
    Ok(child)
}

impl Demo {
    fn start(programs: Programs, directory: &Path, mut screen: Screen) -> anyhow::Result<Self> {
        let port = || super::free_port().context("could not find a free port");
        let (primary_port, standby_port) = (port()?, port()?);
        let initdb = ["-D", "primary", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"];
        programs.run("initdb", "initdb", &initdb, PROGRAM_TIMEOUT)?;
        let setting = "synchronous_standby_names=";
        let primary = start_server(&programs, "primary", primary_port, setting)?;
        let version = programs.query(primary_port, "SHOW server_version")?;
        let pid = primary.pid();
        screen.line(&format!("  primary   127.0.0.1:{primary_port}, process id {pid}"));
        screen.line(&format!("            PostgreSQL {version}"));

        let conninfo = format!("host=127.0.0.1 port={primary_port} user=postgres sslmode=disable");
        let settings = [
            ("wal_keep_size", "512MB".to_owned()),
            ("wal_retrieve_retry_interval", "100ms".to_owned()),
        ];
        let mut hub = Hub::new(directory, &conninfo, &settings)?;
        let hub_port = hub.port;
        let pid = hub.start()?;
        screen.line(&format!("  hub       127.0.0.1:{hub_port}, process id {pid}"));
        wait_attached(&programs, primary_port, &hub)?;

        let from = primary_port.to_string();
        let backup = ["-D", "standby", "-h", "127.0.0.1", "-p", &from, "-U", "postgres", "-R"];
        let backup = [&backup[..], &["-c", "fast", "--no-sync"]].concat();
        programs.run("pg_basebackup", "pg_basebackup", &backup, PROGRAM_TIMEOUT)?;
        let upstream = format!(
            "primary_conninfo=host=127.0.0.1 port={hub_port} user=postgres \
             application_name=standby1 sslmode=disable"
        );
        let standby = start_server(&programs, "standby", standby_port, &upstream)?;
        let pid = standby.pid();
        screen.line(&format!("  standby   127.0.0.1:{standby_port}, process id {pid}"));
        screen.line("            base backup of the primary; its primary_conninfo is the hub");
        let lag = Histogram::new_with_bounds(1, 600_000_000, 3)?;
        Ok(Self { screen, programs, primary_port, hub, standby_port, standby, lag })
    }

    fn ship(&mut self, size: u64) -> anyhow::Result<bool> {
        self.screen.heading("Shipping");
        let start = self.primary_lsn()?;
        let begun = Instant::now();
        let scale = (size / SCALE_BYTES).max(1).to_string();
        let port = self.primary_port.to_string();
        let to_primary = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres"];
        let fill = [&to_primary[..], &["-i", "-q", "-s", &scale, "postgres"]].concat();
        let child = self.programs.start("pgbench", "pgbench", &fill, Signal::TERM)?;
        self.watch(&child, start, "pgbench fills its tables", PROGRAM_TIMEOUT)?;
        self.programs.finish(&child, "pgbench", PROGRAM_TIMEOUT)?;
        self.wait_standby(start)?;
        let (bytes, took) = (self.primary_lsn()? - start, begun.elapsed());
        self.screen.line(&format!(
            "  pgbench -i -s {scale}: {} of WAL, replayed by the standby after {}, {}",
            screen::size(bytes),
            screen::time(took),
            screen::rate(bytes, took)
        ));

        let seconds = LOAD_SECONDS.to_string();
        let load = [&to_primary[..], &["-n", "-c", "4", "-T", &seconds, "postgres"]].concat();
        let child = self.programs.start("pgbench", "pgbench", &load, Signal::TERM)?;
        self.watch(&child, start, "pgbench runs", Duration::from_secs(LOAD_SECONDS / 3))?;
        let back = self.kill_and_restart()?;
        self.watch(&child, start, "pgbench runs", PROGRAM_TIMEOUT)?;
        let output = self.programs.finish(&child, "pgbench", PROGRAM_TIMEOUT)?;
        let tps = output.lines().find(|line| line.starts_with("tps = ")).unwrap_or_default();
        self.screen.line(&format!("  pgbench -c 4 -T {seconds}: {tps}"));
        self.wait_standby(start)?;
        self.finish(start, back)
    }

    /// Kills the hub and starts it again; returns how long it took until the primary had it back.
    fn kill_and_restart(&mut self) -> anyhow::Result<Duration> {
        let killed = Instant::now();
        self.hub.kill()?;
        let pid = self.hub.start()?;
        self.screen.line(&format!("  hub killed (SIGKILL) and started again, process id {pid}"));
        wait_attached(&self.programs, self.primary_port, &self.hub)?;
        let back = killed.elapsed();
        self.screen.line(&format!("  hub received again after {}", screen::time(back)));
        Ok(back)
    }

    /// Shows how it goes until a program ends or `time` is over.
    fn watch(
        &mut self,
        child: &ChildId,
        start: Lsn,
        what: &str,
        time: Duration,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            if self.hub.ended().is_some() {
                bail!("the hub ended by itself");
            }
            if child.wait(POLL_INTERVAL)?.is_some() {
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
        let micros = self.programs.query(self.hub.port, sql).ok();
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
            if let Some(status) = self.standby.try_wait()? {
                bail!("the standby ended: {status}");
            }
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

    fn primary_lsn(&self) -> anyhow::Result<Lsn> {
        self.lsn(self.primary_port, "SELECT pg_current_wal_flush_lsn()")
    }

    fn standby_lsn(&self) -> anyhow::Result<Lsn> {
        self.lsn(self.standby_port, "SELECT pg_last_wal_replay_lsn()")
    }

    fn lsn(&self, port: u16, sql: &str) -> anyhow::Result<Lsn> {
        let text = self.programs.query(port, sql)?;
        text.parse().ok().with_context(|| format!("{sql} returned \"{text}\""))
    }

    /// Compares the tables and shows how it went; whether all is well.
    fn finish(&mut self, start: Lsn, back: Duration) -> anyhow::Result<bool> {
        self.screen.heading("pg_stat_replication of the hub, as psql shows it");
        let sql = "SELECT application_name, state, sent_lsn, flush_lsn, replay_lsn, sync_state \
                   FROM pg_stat_replication";
        for line in
            self.programs.psql(self.hub.port, sql, &["-P", "footer=off"])?.trim_end().lines()
        {
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
            let primary = self.programs.query(self.primary_port, &sql)?;
            let standby = self.programs.query(self.standby_port, &sql)?;
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
fn wait_attached(programs: &Programs, primary_port: u16, hub: &Hub) -> anyhow::Result<()> {
    let sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    let deadline = Instant::now() + STALL_TIMEOUT;
    while programs.query(primary_port, sql)? == "0" {
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
