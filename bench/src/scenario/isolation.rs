//! `isolation`: whether one bad standby makes the others wait.
//!
//! Healthy standbys follow a primary that commits at a fixed rate. Beside them there is a standby
//! that has stopped reading, or one that reads old WAL from the disk again and again; or none.
//! The ratio is the lag with it over the lag without it, for walhub and for a PostgreSQL.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use walhub_peers::client::Client;

use super::catchup::Servers;
use super::live::{LAG_FIGURES, flush_lsn, lags, load};
use super::{Context, Scenario, Watch, parse_size, put};
use crate::method::cache;
use crate::method::pairs::{Experiment, Figure, Leg, Run};
use crate::method::progress::Progress;
use crate::peer::pgbench;
use crate::sink::Sinks;

/// Its name.
pub const NAME: &str = "isolation";

const WITH: usize = 0;
const FIGURES: &[Figure] = &[
    Figure::neutral("tps", "primary, transactions/s"),
    LAG_FIGURES[1],
    LAG_FIGURES[0],
    Figure::neutral("cold_mb_per_s", "old WAL read meanwhile, MB/s"),
];
/// How often a reader looks whether it is done.
const TICK: Duration = Duration::from_millis(2);
/// How long standbys may take to catch up before the clock runs.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Tail lag of healthy standbys beside a stalled one and beside a cold reader, against without.
#[derive(Args, Clone, Debug)]
pub struct Isolation {
    /// Healthy standbys.
    #[arg(long, default_value_t = 8)]
    pub standbys: usize,
    /// Transactions a second of the primary.
    #[arg(long, default_value_t = 300)]
    pub rate: u32,
    /// pgbench's clients.
    #[arg(long, default_value_t = 8)]
    pub clients: u32,
    /// Seconds of pgbench in each run.
    #[arg(long, default_value_t = 8)]
    pub duration: u32,
    /// Old WAL for the cold reader.
    #[arg(long, default_value = "1GB", value_parser = parse_size)]
    pub size: usize,
}

impl Isolation {
    /// As small as it can be.
    #[must_use]
    pub fn smoke() -> Self {
        Self { standbys: 2, rate: 100, clients: 2, duration: 1, size: 20 << 20 }
    }
}

/// What is beside the healthy standbys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trouble {
    Stalled,
    Cold,
}

impl Scenario for Isolation {
    fn name(&self) -> &'static str {
        NAME
    }

    fn parameters(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("standbys", self.standbys.to_string()),
            ("rate", self.rate.to_string()),
            ("clients", self.clients.to_string()),
            ("duration_s", self.duration.to_string()),
            ("size_bytes", self.size.to_string()),
        ])
    }

    fn run(&self, context: &Context) -> Result<Vec<Experiment>> {
        let scratch = context.scratch()?;
        let most = self.standbys + 10;
        let servers = Servers::start(context, scratch.path(), self.size, most)?;
        Progress::show("isolation: making tables");
        pgbench::init(&servers.primary, 1)?;
        let mut experiments = Vec::new();
        for (server, is_hub) in [("walhub", true), ("walsenders", false)] {
            for (trouble, which) in [
                (Trouble::Stalled, "beside a stalled standby"),
                (Trouble::Cold, "beside a cold reader"),
            ] {
                let name = format!("isolation {server} {which}");
                let run = |run| self.one_leg(context, &servers, is_hub, trouble, run);
                let sides = ["with it", "alone"];
                experiments.push(Experiment::run(&name, &sides, FIGURES, context.plan, run)?);
            }
        }
        Ok(experiments)
    }
}

impl Isolation {
    fn one_leg(
        &self,
        context: &Context,
        servers: &Servers,
        is_hub: bool,
        trouble: Trouble,
        run: Run,
    ) -> Result<Leg> {
        let scratch = context.scratch()?;
        let (port, pid) = servers.of(is_hub);
        let mut client = servers.primary.connect()?;
        let start = flush_lsn(&mut client)?;
        let sinks = Sinks::connect(port, self.standbys, 1, start.align_down(8192))?;
        client.query("SELECT pg_logical_emit_message(true, 'walhub-bench', '')")?;
        sinks.wait_for(flush_lsn(&mut client)?, TIMEOUT)?;
        let trouble = (run.side == WITH).then_some(trouble);
        // It asks for everything there is and reads none of it.
        let stalled = (trouble == Some(Trouble::Stalled)).then(|| {
            let stalled = Client::replication(port, "stalled")?;
            let start = servers.start;
            stalled.start_replication(&format!("START_REPLICATION PHYSICAL {start} TIMELINE 1"))
        });
        let stalled = stalled.transpose()?;
        let (clients, rate) = (self.clients.to_string(), self.rate.to_string());
        let duration = self.duration.to_string();
        let arguments = ["-n", "-c", &clients, "-j", "1", "-T", &duration, "-R", &rate];
        let watch = Watch::start(run.syscalls.then_some(pid), scratch.path())?;
        let stop = AtomicBool::new(false);
        let (loaded, read) = std::thread::scope(|scope| {
            let reading = (trouble == Some(Trouble::Cold))
                .then(|| scope.spawn(|| read_cold(servers, is_hub, &stop)));
            let loaded = load(&servers.primary, client, &arguments);
            stop.store(true, Ordering::Release);
            let read = reading.map(std::thread::ScopedJoinHandle::join);
            (loaded, read)
        });
        let mut leg = watch.stop(&[("sender_cpu_s", pid)])?;
        drop(stalled);
        let (outcome, probes) = loaded?;
        let last = probes.last().map_or(start, |&(_, lsn)| lsn);
        sinks.wait_for(last, TIMEOUT)?;
        put(&mut leg, "tps", outcome.tps);
        lags(&mut leg, &probes, &sinks.finish()?);
        if let Some(read) = read {
            let bytes = read.map_err(|_| anyhow::anyhow!("the cold reader panicked"))??;
            put(&mut leg, "cold_mb_per_s", bytes / 1e6 / f64::from(self.duration));
        }
        Ok(leg)
    }
}

/// Reads the old WAL from the disk until it is told to stop; returns how many bytes came.
fn read_cold(servers: &Servers, is_hub: bool, stop: &AtomicBool) -> Result<f64> {
    let (port, _) = servers.of(is_hub);
    let wal = servers.wal_of(is_hub);
    let mut bytes = 0.0;
    while !stop.load(Ordering::Acquire) {
        cache::drop_all(&wal)?;
        let sinks = Sinks::connect(port, 1, 1, servers.start)?;
        while !stop.load(Ordering::Acquire) && !sinks.have(servers.end) {
            std::thread::sleep(TICK);
        }
        bytes += sinks.received().map(|lsn| (lsn - servers.start) as f64).sum::<f64>();
        sinks.finish()?;
    }
    Ok(bytes)
}
