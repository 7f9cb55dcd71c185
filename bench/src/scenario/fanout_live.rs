//! `fanout-live`: what live standbys cost a primary, behind walhub and attached directly.
//!
//! One primary runs pgbench with local, durable commits. The standbys are null sinks of one
//! implementation for both sides. The third side has no standby at all: it is the limit.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use walhub_proto::lsn::Lsn;

use super::{Context, Scenario, Watch, per_unit, put};
use crate::method::pairs::{Experiment, Figure, Leg, Run};
use crate::method::progress::Progress;
use crate::method::stats::median;
use crate::peer::postgres::Primary;
use crate::peer::walhub::Hub;
use crate::sink::{Arrivals, Sinks};

/// Its name.
pub const NAME: &str = "fanout-live";

const SIDES: [&str; 3] = ["walhub", "direct", "no standby"];
const FIGURES: &[Figure] = &[
    Figure { key: "tps", label: "primary, transactions/s" },
    Figure { key: "primary_cpu_us_per_commit", label: "primary CPU, us/commit" },
    Figure { key: "senders_cpu_us", label: "primary + hub CPU, us/commit" },
    Figure { key: "machine_cpu_us_per_commit", label: "machine CPU, us/commit" },
    Figure { key: "lag_p50_ms", label: "lag p50, ms" },
    Figure { key: "lag_p99_ms", label: "lag p99, ms" },
];
/// Threads that serve the sinks.
const SINK_THREADS: usize = 2;
/// How often the primary is asked where its WAL ends.
const PROBE_INTERVAL: Duration = Duration::from_millis(10);
/// How long standbys may take to catch up before the clock runs.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);

/// Parameters.
#[derive(Clone, Debug)]
pub struct FanoutLive {
    /// Numbers of standbys, an experiment for each.
    pub standbys: Vec<usize>,
    /// Seconds of pgbench in each run.
    pub duration_s: u32,
    /// pgbench's scale.
    pub scale: u32,
    /// pgbench's clients.
    pub clients: u32,
}

impl Scenario for FanoutLive {
    fn name(&self) -> &'static str {
        NAME
    }

    fn parameters(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("standbys", format!("{:?}", self.standbys)),
            ("duration_s", self.duration_s.to_string()),
            ("scale", self.scale.to_string()),
            ("clients", self.clients.to_string()),
        ])
    }

    fn run(&self, context: &Context) -> Result<Vec<Experiment>> {
        let scratch = context.scratch()?;
        Progress::show("fanout-live: making a primary");
        let senders = self.standbys.iter().max().copied().unwrap_or(0) + 10;
        let primary = Primary::start(
            scratch.path(),
            &[
                "wal_level=replica".to_owned(),
                format!("max_wal_senders={senders}"),
                "synchronous_commit=on".to_owned(),
                "fsync=on".to_owned(),
                "shared_buffers=512MB".to_owned(),
                // Checkpoints and vacuum would fall on one side and not on the other.
                "checkpoint_timeout=1d".to_owned(),
                "max_wal_size=64GB".to_owned(),
                "autovacuum=off".to_owned(),
                // A hub that starts while the last one's WAL is being recycled must find its own.
                "wal_keep_size=1GB".to_owned(),
            ],
        )?;
        primary.pgbench(&["-i", "-q", "-s", &self.scale.to_string()])?;
        let mut experiments = Vec::new();
        for &standbys in &self.standbys {
            let name = format!("fanout-live {standbys} standbys");
            let run = |run| self.one_leg(context, &primary, standbys, run);
            experiments.push(Experiment::run(&name, &SIDES, FIGURES, context.plan, run)?);
        }
        Ok(experiments)
    }
}

impl FanoutLive {
    fn one_leg(
        &self,
        context: &Context,
        primary: &Primary,
        standbys: usize,
        run: Run,
    ) -> Result<Leg> {
        let scratch = context.scratch()?;
        let mut hub = None;
        if run.side == 0 {
            let mut settings = vec![format!("max_wal_senders={}", standbys + 1)];
            settings.push(format!("max_connections={}", standbys + 10));
            settings.extend(context.walhub_settings.iter().cloned());
            let dir = scratch.path().join("hub");
            let mut started = Hub::start(&context.walhub, &dir, primary.port(), &settings)?;
            started.wait_until_ready()?;
            hub = Some(started);
        }
        let mut client = primary.connect()?;
        let start = flush_lsn(&mut client)?;
        let start_segment = start.align_down(16 << 20);
        let port = hub.as_ref().map_or(primary.port(), Hub::port);
        let connected = if run.side == 2 { 0 } else { standbys };
        let sinks = Sinks::connect(port, connected, SINK_THREADS, start_segment)?;
        client.query("SELECT pg_logical_emit_message(true, 'walhub-bench', '')")?;
        sinks.wait_for(flush_lsn(&mut client)?, CATCH_UP_TIMEOUT)?;
        let mut trees = vec![("primary_cpu_s", primary.pid())];
        trees.extend(hub.as_ref().map(|hub| ("hub_cpu_s", hub.pid())));
        let sender = hub.as_ref().map_or(primary.pid(), Hub::pid);
        let watch = Watch::start(run.syscalls.then_some(sender), scratch.path())?;
        let (printed, probes) = self.load(primary, client)?;
        let mut leg = watch.stop(&trees)?;
        if let Some(hub) = &mut hub {
            hub.check()?;
        }
        let last = probes.last().map_or(start, |&(_, lsn)| lsn);
        sinks.wait_for(last, CATCH_UP_TIMEOUT)?;
        let arrivals = sinks.finish()?;
        let load = Load::parse(&printed).with_context(|| format!("pgbench printed:\n{printed}"))?;
        figures(&mut leg, load, hub.is_some());
        per_unit(&mut leg, load.transactions);
        lags(&mut leg, &probes, &arrivals);
        put(&mut leg, "wal_mb", (last.saturating_bytes_since(start)) as f64 / 1e6);
        Ok(leg)
    }

    /// Runs pgbench, and asks the primary meanwhile where its WAL ends.
    fn load(
        &self,
        primary: &Primary,
        mut client: crate::peer::client::Client,
    ) -> Result<(String, Arrivals)> {
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let probing = scope.spawn(|| -> Result<Arrivals> {
                let mut probes = Arrivals::new();
                while !stop.load(std::sync::atomic::Ordering::Acquire) {
                    let asked = Instant::now();
                    let lsn = flush_lsn(&mut client)?;
                    // It was the end somewhere between question and answer.
                    probes.push((asked + asked.elapsed() / 2, lsn));
                    std::thread::sleep(PROBE_INTERVAL);
                }
                probes.push((Instant::now(), flush_lsn(&mut client)?));
                Ok(probes)
            });
            let (clients, duration) = (self.clients.to_string(), self.duration_s.to_string());
            let printed = primary.pgbench(&["-n", "-c", &clients, "-j", "2", "-T", &duration]);
            stop.store(true, std::sync::atomic::Ordering::Release);
            let probes = probing.join().map_err(|_| anyhow::anyhow!("the probe panicked"))?;
            Ok((printed?, probes?))
        })
    }
}

fn flush_lsn(client: &mut crate::peer::client::Client) -> Result<Lsn> {
    let text = client.value("SELECT pg_current_wal_flush_lsn()")?;
    text.parse().ok().with_context(|| format!("not a position: {text}"))
}

/// What pgbench says about a run.
#[derive(Clone, Copy, Debug)]
struct Load {
    tps: f64,
    transactions: f64,
}

impl Load {
    fn parse(printed: &str) -> Option<Self> {
        let after = |what: &str| {
            let line = printed.lines().find_map(|line| line.strip_prefix(what))?;
            line.split([' ', '/']).find(|word| !word.is_empty())?.parse::<f64>().ok()
        };
        Some(Self {
            tps: after("tps =")?,
            transactions: after("number of transactions actually processed:")?,
        })
    }
}

fn figures(leg: &mut Leg, load: Load, has_hub: bool) {
    let micros = |leg: &Leg, key: &str| {
        leg.values.get(key).copied().unwrap_or(0.0) * 1e6 / load.transactions.max(1.0)
    };
    let (primary, hub) = (micros(leg, "primary_cpu_s"), micros(leg, "hub_cpu_s"));
    let machine = micros(leg, "machine_cpu_s");
    put(leg, "tps", load.tps);
    put(leg, "primary_cpu_us_per_commit", primary);
    if has_hub {
        put(leg, "hub_cpu_us_per_commit", hub);
    }
    put(leg, "senders_cpu_us", primary + hub);
    put(leg, "machine_cpu_us_per_commit", machine);
}

/// Time from when the primary had flushed a position until an observed standby had it.
fn lags(leg: &mut Leg, probes: &Arrivals, arrivals: &[Arrivals]) {
    let mut lags = Vec::new();
    for arrivals in arrivals {
        for &(asked, lsn) in probes {
            let index = arrivals.partition_point(|&(_, received)| received < lsn);
            if let Some(&(arrived, _)) = arrivals.get(index) {
                lags.push(arrived.saturating_duration_since(asked).as_secs_f64() * 1e3);
            }
        }
    }
    lags.sort_by(f64::total_cmp);
    if let Some(middle) = median(&lags) {
        put(leg, "lag_p50_ms", middle);
        let rank = (lags.len() * 99).div_ceil(100).saturating_sub(1);
        put(leg, "lag_p99_ms", lags.get(rank).copied().unwrap_or(f64::NAN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pgbench_output_is_read() {
        let printed = "scaling factor: 10\nnumber of transactions actually processed: 8123\n\
                       latency average = 1 ms\ntps = 4061.371983 (without initial connection time)\n";
        let load = Load::parse(printed).unwrap();
        assert_eq!((load.tps, load.transactions), (4061.371983, 8123.0));
        assert!(Load::parse("pgbench: error").is_none());
    }

    #[test]
    fn lag_is_from_probe_to_first_arrival_past_it() {
        let t = Instant::now();
        let at = |ms| t + Duration::from_millis(ms);
        let mut leg =
            Leg { values: BTreeMap::new(), steal: 0.0, foreign: 0.0, syscalls: BTreeMap::new() };
        let probes = vec![(at(10), Lsn(100)), (at(20), Lsn(200))];
        let arrivals = vec![(at(5), Lsn(100)), (at(25), Lsn(150)), (at(27), Lsn(300))];
        lags(&mut leg, &probes, &[arrivals]);
        assert_eq!(leg.values["lag_p50_ms"], 3.5);
        assert_eq!(leg.values["lag_p99_ms"], 7.0);
    }
}
