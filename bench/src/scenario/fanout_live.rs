//! `fanout-live`: what live standbys cost a primary, behind walhub and attached directly.
//!
//! One primary runs pgbench with local, durable commits. The standbys are null sinks of one
//! implementation for all sides: behind walhub, attached directly, behind a cascading PostgreSQL
//! standby. The last side has no standby at all: it is the limit.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use walhub_peers::client::Client;
use walhub_peers::postgres::Cluster;
use walhub_proto::lsn::Lsn;

use super::live::{LAG_FIGURES, flush_lsn, lags, load, primary_settings};
use super::{Context, Scenario, Watch, join, per_unit, put};
use crate::method::pairs::{Experiment, Figure, Leg, Run};
use crate::method::progress::Progress;
use crate::peer::pgbench::{self, Outcome};
use crate::peer::postgres::Postgres;
use crate::peer::walhub::Hub;
use crate::sink::Sinks;

/// Its name.
pub const NAME: &str = "fanout-live";

const SIDES: [&str; 4] = ["walhub", "direct", "cascade", "no standby"];
const WALHUB: usize = 0;
const CASCADE: usize = 2;
const NO_STANDBY: usize = 3;
const FIGURES: [Figure; 6] = [
    Figure::more("tps", "primary, transactions/s"),
    Figure::less("primary_cpu_us_per_commit", "primary CPU, us/commit"),
    Figure::less("senders_cpu_us", "primary + relay CPU, us/commit"),
    Figure::less("machine_cpu_us_per_commit", "machine CPU, us/commit"),
    Figure::less("senders_cpu_us_per_standby", "the same for each standby"),
    LAG_FIGURES[0],
];
/// Threads that serve the sinks.
const SINK_THREADS: usize = 2;
/// How long standbys may take to catch up before the clock runs.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);

/// A primary's TPS with live standbys behind walhub, against the same attached directly.
#[derive(Args, Clone, Debug)]
pub struct FanoutLive {
    /// Numbers of standbys, an experiment for each.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    pub standbys: Vec<usize>,
    /// Seconds of pgbench in each run.
    #[arg(long, default_value_t = 6)]
    pub duration: u32,
    /// pgbench's scale.
    #[arg(long, default_value_t = 10)]
    pub scale: u32,
    /// pgbench's clients.
    #[arg(long, default_value_t = 8)]
    pub clients: u32,
}

impl FanoutLive {
    /// As small as it can be.
    #[must_use]
    pub fn smoke() -> Self {
        Self { standbys: vec![4], duration: 1, scale: 1, clients: 2 }
    }
}

impl Scenario for FanoutLive {
    fn name(&self) -> &'static str {
        NAME
    }

    fn parameters(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("standbys", join(&self.standbys)),
            ("duration_s", self.duration.to_string()),
            ("scale", self.scale.to_string()),
            ("clients", self.clients.to_string()),
        ])
    }

    fn run(&self, context: &Context) -> Result<Vec<Experiment>> {
        let scratch = context.scratch()?;
        Progress::show("fanout-live: making a primary and its copy");
        let settings = primary_settings(self.standbys.iter().max().copied().unwrap_or(0));
        let primary = Postgres::primary(scratch.path(), &settings)?;
        pgbench::init(&primary, self.scale)?;
        let cascade = Cluster::copy(primary.port().into(), scratch.path(), "cascade")?;
        let mut experiments = Vec::new();
        let mut figures = FIGURES.to_vec();
        figures.push(LAG_FIGURES[1]);
        for &standbys in &self.standbys {
            let name = format!("fanout-live {standbys} standbys");
            let run = |run| self.one_leg(context, &primary, &cascade, standbys, run);
            let experiment = Experiment::run(&name, &SIDES, &figures, context.plan, run)?;
            experiments.push(experiment.at(standbys as f64));
        }
        Ok(experiments)
    }
}

/// What stands between the primary and the standbys.
enum Relay {
    Hub(Hub),
    Cascade(Postgres),
}

impl Relay {
    fn pid(&self) -> u32 {
        match self {
            Self::Hub(hub) => hub.pid(),
            Self::Cascade(server) => server.pid(),
        }
    }

    fn port(&self) -> u16 {
        match self {
            Self::Hub(hub) => hub.port(),
            Self::Cascade(server) => server.port(),
        }
    }
}

impl FanoutLive {
    fn one_leg(
        &self,
        context: &Context,
        primary: &Postgres,
        cascade: &Cluster,
        standbys: usize,
        run: Run,
    ) -> Result<Leg> {
        let scratch = context.scratch()?;
        let relay = match run.side {
            WALHUB => {
                let mut settings = vec![format!("max_wal_senders={}", standbys + 1)];
                settings.push(format!("max_connections={}", standbys + 10));
                settings.extend(context.walhub_settings.iter().cloned());
                let dir = scratch.path().join("hub");
                let hub = Hub::start(&context.walhub, &dir, primary.port(), &settings)?;
                hub.wait_until_ready()?;
                Some(Relay::Hub(hub))
            }
            CASCADE => {
                let settings = primary_settings(self.standbys.iter().max().copied().unwrap_or(0));
                Some(Relay::Cascade(Postgres::standby(
                    cascade,
                    primary.port(),
                    "cascade",
                    &settings,
                )?))
            }
            _ => None,
        };
        let mut client = primary.connect()?;
        let start = flush_lsn(&mut client)?;
        let port = relay.as_ref().map_or(primary.port(), Relay::port);
        if run.side == CASCADE {
            // A standby replays what it missed before anybody may stream behind it.
            wait_for_replay(port, start)?;
        }
        let connected = if run.side == NO_STANDBY { 0 } else { standbys };
        let sinks = Sinks::connect(port, connected, SINK_THREADS, start.align_down(16 << 20))?;
        client.query("SELECT pg_logical_emit_message(true, 'walhub-bench', '')")?;
        sinks.wait_for(flush_lsn(&mut client)?, CATCH_UP_TIMEOUT)?;
        let mut trees = vec![("primary_cpu_s", primary.pid())];
        trees.extend(relay.as_ref().map(|relay| ("relay_cpu_s", relay.pid())));
        let sender = relay.as_ref().map_or(primary.pid(), Relay::pid);
        let watch = Watch::start(run.syscalls.then_some(sender), scratch.path())?;
        let (clients, duration) = (self.clients.to_string(), self.duration.to_string());
        let arguments = ["-n", "-c", &clients, "-j", "2", "-T", &duration];
        let (outcome, probes) = load(primary, client, &arguments)?;
        let mut leg = watch.stop(&trees)?;
        if let Some(Relay::Hub(hub)) = &relay {
            hub.process.check()?;
        }
        let last = probes.last().map_or(start, |&(_, lsn)| lsn);
        sinks.wait_for(last, CATCH_UP_TIMEOUT)?;
        let arrivals = sinks.finish()?;
        figures(&mut leg, &outcome, connected);
        per_unit(&mut leg, outcome.transactions);
        lags(&mut leg, &probes, &arrivals);
        put(&mut leg, "wal_mb", last.saturating_bytes_since(start) as f64 / 1e6);
        Ok(leg)
    }
}

/// Waits until the standby at `port` has replayed `lsn`.
pub(super) fn wait_for_replay(port: u16, lsn: Lsn) -> Result<()> {
    let mut client = Client::database(port)?;
    let question = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
    super::wait_until(CATCH_UP_TIMEOUT, "the standby replays", || {
        Ok(client.value(&question)? == "t")
    })
}

fn figures(leg: &mut Leg, load: &Outcome, standbys: usize) {
    let micros = |leg: &Leg, key: &str| {
        leg.values.get(key).copied().unwrap_or(0.0) * 1e6 / load.transactions.max(1.0)
    };
    let (primary, relay) = (micros(leg, "primary_cpu_s"), micros(leg, "relay_cpu_s"));
    let machine = micros(leg, "machine_cpu_s");
    put(leg, "tps", load.tps);
    put(leg, "primary_cpu_us_per_commit", primary);
    if leg.values.contains_key("relay_cpu_s") {
        put(leg, "relay_cpu_us_per_commit", relay);
    }
    put(leg, "senders_cpu_us", primary + relay);
    if standbys > 0 {
        put(leg, "senders_cpu_us_per_standby", (primary + relay) / standbys as f64);
    }
    put(leg, "machine_cpu_us_per_commit", machine);
}
