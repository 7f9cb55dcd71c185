//! The demo with an embedded source and embedded standbys.

mod report;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use std::process::ExitCode;
use walhub_peers::source::{COMMITS_PER_SECOND, Source};
use walhub_peers::standby::{Received, Standby};
use walhub_peers::wal::{START, Wal, len_u64};
use walhub_peers::walsender::WalServer;
use walhub_proto::lsn::Lsn;

use super::DemoArgs;
use super::hub::Hub;
use super::screen::{self, Screen};
use super::workdir::WorkDir;

/// WAL that is shipped unless the user says otherwise.
const SIZE_DEFAULT: u64 = 2 << 30;
/// The source waits for a standby that is this far behind, so that the files stay few.
const BEHIND_BYTES_MAX: u64 = 256 << 20;
/// WAL that the hub keeps for standbys: more than any may be behind, even after the hub's restart.
const KEEP_BYTES: u64 = 512 << 20;
/// Room for the hub's spare segments and logs.
const SPARE_BYTES: u64 = 256 << 20;
/// Nothing moves for so long: the demo has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(5);
/// How long small commits are made, for a demo of at least [`FULL_BYTES`] and for a smaller one.
const COMMIT_SECONDS: (u64, u64) = (5, 1);
const FULL_BYTES: u64 = 512 << 20;

/// Runs the demo without PostgreSQL.
///
/// # Errors
/// What keeps it from its end.
pub(super) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let mut screen = Screen::new();
    let size = args.size.unwrap_or(SIZE_DEFAULT);
    let room = size.min(KEEP_BYTES) + SPARE_BYTES;
    let work = WorkDir::create(room)?;
    let seconds = if size < FULL_BYTES { COMMIT_SECONDS.1 } else { COMMIT_SECONDS.0 };
    let commits = usize::try_from(COMMITS_PER_SECOND * seconds)?;
    let (bytes, count) = (screen::size(size), args.standbys);
    screen.line(&format!("walhub demo: {bytes} of WAL, one hub, {count} standbys, on loopback"));
    let mut demo = Demo::start(args, &work, Wal::new(size, commits), screen)?;
    match demo.ship(size, seconds).and_then(|times| demo.finish(&times)) {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => {
            demo.show_log();
            Ok(ExitCode::FAILURE)
        }
        Err(error) => {
            demo.screen.line("");
            demo.show_log();
            Err(error)
        }
    }
}

struct Demo {
    screen: Screen,
    source: Arc<Source>,
    /// What the hub receives from; it ends with the demo.
    _server: WalServer,
    hub: Hub,
    standbys: Vec<(Arc<Standby>, JoinHandle<Received>)>,
    /// When shipping began.
    begun: Instant,
}

/// How long things took.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// All bulk WAL, to the last standby.
    bulk: Duration,
    bulk_bytes: u64,
    /// From the kill until the hub received again.
    hub_back: Duration,
}

impl Demo {
    fn start(
        args: &DemoArgs,
        work: &WorkDir,
        wal: Wal,
        mut screen: Screen,
    ) -> anyhow::Result<Self> {
        screen.heading("Starting");
        screen.line(&format!("  files     {} ({})", work.path.display(), work.about));
        let source = Arc::new(Source::new(wal));
        let server = source.listen().context("could not start the source")?;
        let source_port = server.port();
        screen
            .line(&format!("  source    127.0.0.1:{source_port}, PostgreSQL 15's WAL from a seed"));
        let conninfo = format!("host=127.0.0.1 port={source_port} user=demo sslmode=disable");
        let senders = u64::from(args.standbys) + 10;
        let settings = [
            ("max_wal_senders", senders.to_string()),
            ("max_connections", (senders + 100).to_string()),
            ("wal_keep_size", format!("{}MB", KEEP_BYTES >> 20)),
            ("wal_retrieve_retry_interval", "50ms".to_owned()),
        ];
        let mut hub = Hub::new(&work.path, &conninfo, &settings)?;
        let pid = hub.start()?;
        let port = hub.port();
        screen
            .line(&format!("  hub       127.0.0.1:{port}, \"walhub serve\" with process id {pid}"));
        let standbys: Result<Vec<_>, _> = (1..=args.standbys)
            .map(|number| Standby::start(format!("standby{number}"), port, Arc::clone(&source)))
            .collect();
        let count = args.standbys;
        screen.line(&format!("  standbys  {count}, each checks every byte and keeps none"));
        let begun = Instant::now();
        Ok(Self { screen, source, _server: server, hub, standbys: standbys?, begun })
    }

    /// Ships everything, the kill in the middle.
    fn ship(&mut self, size: u64, seconds: u64) -> anyhow::Result<Times> {
        self.until("the standbys to connect", "hub starts", size, Lsn::MAX, |demo| {
            demo.standbys.iter().all(|(standby, _)| standby.starts() > 0)
        })?;
        self.screen.heading("Shipping");
        self.begun = Instant::now();
        // A small demo must not be over before the hub is killed.
        let middle = START + size / 2;
        let gate = middle + size / 4;
        self.until("half of the WAL to arrive", "hub up", size, gate, |demo| {
            demo.slowest() >= middle && demo.acked() >= middle
        })?;
        let hub_back = self.kill_and_restart(size)?;
        let bulk_end = START + size;
        self.until("the WAL to arrive", "hub up", size, Lsn::MAX, |demo| {
            demo.source.wal.lsn() >= bulk_end && demo.slowest() >= demo.source.wal.lsn()
        })?;
        let bulk = self.begun.elapsed();
        let bulk_bytes = self.source.wal.lsn() - START;
        let (done, took) = (screen::size(bulk_bytes), screen::time(bulk));
        let rate = screen::rate(bulk_bytes, bulk);
        self.screen.line(&format!("  {done} with every standby after {took}: {rate} to each"));

        self.screen.heading(&format!("{COMMITS_PER_SECOND} small commits a second"));
        self.source.begin_commits();
        self.until("the commits to arrive", "hub up", size, Lsn::MAX, |demo| {
            let wal = &demo.source.wal;
            let made = wal.commits.count() == wal.commits.max();
            made && demo.slowest() >= wal.lsn() && demo.acked() >= wal.lsn()
        })?;
        let commits = self.source.wal.commits.max();
        self.screen.line(&format!("  {commits} commits in {seconds} s, all durable on the hub"));
        Ok(Times { bulk, bulk_bytes, hub_back })
    }

    /// Returns how long the hub took to be back.
    fn kill_and_restart(&mut self, size: u64) -> anyhow::Result<Duration> {
        let starts: Vec<u64> = self.standbys.iter().map(|(standby, _)| standby.starts()).collect();
        let sessions = self.source.heard().starts.len();
        let killed = Instant::now();
        self.hub.kill();
        let shipped = screen::size(self.slowest() - START);
        let pid = self.hub.start()?;
        self.screen.line(&format!(
            "  {shipped} shipped: hub killed (SIGKILL) and started again, process id {pid}"
        ));
        let positions: Vec<Lsn> = self.standbys.iter().map(|(one, _)| one.position()).collect();
        self.until("the hub to come back", "hub restarts", size, Lsn::MAX, |demo| {
            demo.source.heard().starts.len() > sessions
                && demo.standbys.iter().enumerate().all(|(index, (standby, _))| {
                    standby.starts() > starts[index] && standby.position() > positions[index]
                })
        })?;
        let standbys_back = killed.elapsed();
        let heard = self.source.heard();
        let hub_back = heard.starts.get(sessions).map(|start| start.at - killed);
        drop(heard);
        let hub_back = hub_back.unwrap_or(standbys_back);
        self.screen.line(&format!(
            "  hub received again after {}, the last standby after {}",
            screen::time(hub_back),
            screen::time(standbys_back)
        ));
        Ok(hub_back)
    }

    /// Waits, showing how far it is; bulk is made up to `gate`.
    fn until(
        &mut self,
        what: &str,
        hub: &str,
        size: u64,
        gate: Lsn,
        done: impl Fn(&Self) -> bool,
    ) -> anyhow::Result<()> {
        let mut moved = (self.movement(), Instant::now());
        let mut drawn = (Instant::now(), self.slowest());
        let mut rate = String::new();
        while !done(self) {
            self.source.allow_bulk(gate.min(self.slowest() + BEHIND_BYTES_MAX));
            if let Some(status) = self.hub.ended() {
                bail!("the hub ended by itself: {status}");
            }
            if self.movement() != moved.0 {
                moved = (self.movement(), Instant::now());
            } else if moved.1.elapsed() > STALL_TIMEOUT {
                bail!(
                    "nothing has moved for {} s while waiting for {what}: {}",
                    STALL_TIMEOUT.as_secs(),
                    self.positions()
                );
            }
            std::thread::sleep(TICK);
            let (slowest, fastest) = (self.slowest(), self.fastest());
            if drawn.0.elapsed() >= Duration::from_millis(500) {
                rate = screen::rate(slowest - drawn.1, drawn.0.elapsed());
                drawn = (Instant::now(), slowest);
            }
            self.screen.progress(|| {
                let percent = ((slowest - START) * 100 / size.max(1)).min(100);
                let behind = screen::size(fastest - slowest);
                format!("  {percent:>3}%  {rate:>9}  {hub}  standbys at {slowest} to +{behind}")
            });
        }
        Ok(())
    }

    fn slowest(&self) -> Lsn {
        self.standbys.iter().map(|(standby, _)| standby.position()).min().unwrap_or(START)
    }

    fn fastest(&self) -> Lsn {
        self.standbys.iter().map(|(standby, _)| standby.position()).max().unwrap_or(START)
    }

    fn acked(&self) -> Lsn {
        self.source.heard().acked
    }

    /// Changes whenever anything moves.
    fn movement(&self) -> u64 {
        let heard = self.source.heard();
        let sum = heard.acked.0.wrapping_add(len_u64(heard.starts.len()));
        drop(heard);
        let standbys = self.standbys.iter().map(|(one, _)| one.position().0 + one.starts());
        standbys.fold(sum, u64::wrapping_add)
    }

    /// Where everything stands, for a demo that stands still.
    fn positions(&self) -> String {
        let made = self.source.wal.lsn();
        let mut text = format!("the source is at {made}, acknowledged is {}", self.acked());
        for (standby, _) in &self.standbys {
            text += &format!(", {} at {}", standby.name, standby.position());
            if let Some(trouble) = standby.trouble() {
                text += &format!(" ({trouble})");
            }
        }
        text
    }

    fn show_log(&mut self) {
        let tail = self.hub.log_tail();
        self.screen.line(&format!("The end of the hub's log:\n{tail}"));
    }
}
