//! `connections`: what an idle standby costs its server in memory and CPU.
//!
//! Standbys stream and have nothing to receive; each replies every ten seconds, as a walreceiver
//! does. The other side is a PostgreSQL's walsenders, fewer of them: figures are for one standby.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::catchup::Servers;
use super::{Context, Scenario, Watch, join, per_unit, put, value};
use crate::method::memory::Memory;
use crate::method::pairs::{Experiment, Figure, Leg, Run};
use crate::sink::Waiting;

/// Its name.
pub const NAME: &str = "connections";

const SIDES: [&str; 2] = ["walhub", "walsenders"];
const WALHUB: usize = 0;
const FIGURES: &[Figure] = &[
    Figure::less("pss_kb_per_standby", "memory (PSS), kB/standby"),
    Figure::less("rss_kb_per_standby", "memory (RSS), kB/standby"),
    Figure::less("machine_kb_per_standby", "whole machine, kB/standby"),
    Figure::less("cpu_us_per_standby_s", "CPU idle, us/s/standby"),
    Figure::less("connect_us", "to connect and stream, us"),
    Figure::neutral("pss_mb", "memory (PSS) in all, MB"),
];
/// `wal_receiver_status_interval`.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// Descriptors of the harness and of a hub besides those of the standbys.
const OTHER_FILES: u64 = 1000;
/// Threads that serve the standbys.
const SINK_THREADS: usize = 2;
/// How long standbys may take to have what there is.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Memory and CPU of idle standbys on one hub, against walsenders.
#[derive(Args, Clone, Debug)]
pub struct Connections {
    /// Numbers of standbys on the hub, an experiment for each.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000")]
    pub standbys: Vec<usize>,
    /// Walsenders to compare with.
    #[arg(long, default_value_t = 100)]
    pub walsenders: usize,
    /// Seconds of idleness.
    #[arg(long, default_value_t = 10)]
    pub duration: u64,
}

impl Connections {
    /// As small as it can be.
    #[must_use]
    pub fn smoke() -> Self {
        Self { standbys: vec![50], walsenders: 10, duration: 1 }
    }
}

impl Scenario for Connections {
    fn name(&self) -> &'static str {
        NAME
    }

    fn parameters(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("standbys", join(&self.standbys)),
            ("walsenders", self.walsenders.to_string()),
            ("duration_s", self.duration.to_string()),
        ])
    }

    fn run(&self, context: &Context) -> Result<Vec<Experiment>> {
        let mut experiments = Vec::new();
        for &standbys in &self.standbys {
            raise_files(u64::try_from(standbys)? + OTHER_FILES)?;
            let scratch = context.scratch()?;
            let most = standbys.max(self.walsenders);
            let name = format!("connections {standbys} standbys");
            let run = |run: Run| {
                // Fresh servers each time: memory that one run took may be kept for the next.
                let dir = tempfile::tempdir_in(scratch.path())?;
                open_to_all(dir.path())?;
                let servers = Servers::start(context, dir.path(), 1 << 20, most)?;
                self.one_leg(&servers, dir.path(), standbys, run)
            };
            let experiment = Experiment::run(&name, &SIDES, FIGURES, context.plan, run)?;
            experiments.push(experiment.at(standbys as f64));
        }
        Ok(experiments)
    }
}

impl Connections {
    fn one_leg(
        &self,
        servers: &Servers,
        scratch: &std::path::Path,
        standbys: usize,
        run: Run,
    ) -> Result<Leg> {
        let is_hub = run.side == WALHUB;
        let count = if is_hub { standbys } else { self.walsenders };
        let (port, pid) = servers.of(is_hub);
        let before = Memory::of(pid)?;
        let began = Instant::now();
        let waiting = Waiting::connect(port, count)?.status_interval(STATUS_INTERVAL);
        let sinks = waiting.start(SINK_THREADS, servers.end)?;
        let connected = began.elapsed();
        sinks.wait_for(servers.end, TIMEOUT)?;
        let watch = Watch::start(run.syscalls.then_some(pid), scratch)?;
        std::thread::sleep(Duration::from_secs(self.duration));
        let mut leg = watch.stop(&[("server_cpu_s", pid)])?;
        let after = Memory::of(pid)?;
        // None of them has gone meanwhile.
        sinks.finish()?;
        let each = count as f64;
        put(&mut leg, "pss_kb_per_standby", (after.pss_kb - before.pss_kb) / each);
        put(&mut leg, "rss_kb_per_standby", (after.rss_kb - before.rss_kb) / each);
        let machine = (before.available_kb - after.available_kb) / each;
        put(&mut leg, "machine_kb_per_standby", machine);
        let cpu = value(&leg, "server_cpu_s") * 1e6 / self.duration as f64 / each;
        put(&mut leg, "cpu_us_per_standby_s", cpu);
        put(&mut leg, "connect_us", connected.as_micros() as f64 / each);
        put(&mut leg, "pss_mb", after.pss_kb / 1e3);
        per_unit(&mut leg, each * self.duration as f64);
        Ok(leg)
    }
}

/// Lets this process, and those it starts, open `wanted` files.
fn raise_files(wanted: u64) -> Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let maximum = maximum.map(|maximum| maximum.max(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).with_context(|| {
        format!("{wanted} open files are needed: raise the limit (ulimit -Hn {wanted}) or be root")
    })
}

fn open_to_all(dir: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?)
}
