//! `sync`: what a commit costs that waits for a synchronous standby.
//!
//! One primary; `synchronous_standby_names` names walhub, a PostgreSQL standby, or pg_receivewal
//! --synchronous, each started for its own runs. pgbench inserts one row per transaction: as fast as
//! it can, and at fixed rates, where a latency counts from the intended start.
//!
//! There are two limits: a standby that drops what it receives and calls it durable at once, which no
//! standby can be faster than, and commits that wait for no standby.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use rustix::process::Signal;
use walhub_peers::client::Client;
use walhub_peers::log::Log;
use walhub_peers::postgres::Cluster;
use walhub_peers::process::Process;

use super::fanout_live::wait_for_replay;
use super::live::{flush_lsn, primary_settings};
use super::{Context, Scenario, Watch, join, per_unit, put, put_latencies, value, wait_until};
use crate::method::pairs::{Experiment, Figure, Leg, Run};
use crate::method::progress::Progress;
use crate::peer::pgbench;
use crate::peer::postgres::Postgres;
use crate::peer::program::{PG_RECEIVEWAL, command};
use crate::peer::walhub::Hub;
use crate::sink::Sinks;

/// Its name.
pub const NAME: &str = "sync";

const SIDES: [&str; 5] = ["walhub", "standby", "pg_receivewal", "instant reply", "local commit"];
const WALHUB: usize = 0;
const STANDBY: usize = 1;
const PG_RECEIVEWAL_SIDE: usize = 2;
const INSTANT: usize = 3;
const FIGURES: &[Figure] = &[
    Figure::more("tps", "primary, transactions/s"),
    Figure::less("latency_p50_us", "commit p50, us"),
    Figure::less("latency_p99_us", "commit p99, us"),
    Figure::less("machine_cpu_us_per_commit", "machine CPU, us/commit"),
];
/// At a fixed rate the rate says nothing, unless it was not reached.
const RATE_FIGURES: &[Figure] = &[
    Figure::less("latency_p50_us", "commit p50, us"),
    Figure::less("latency_p90_us", "commit p90, us"),
    Figure::less("latency_p99_us", "commit p99, us"),
    Figure::less("latency_p999_us", "commit p99.9, us"),
    Figure::neutral("tps", "primary, transactions/s"),
    Figure::less("machine_cpu_us_per_commit", "machine CPU, us/commit"),
];
const SCRIPT: &str = "INSERT INTO walhub_bench VALUES (1);\n";
/// How long a standby may take until commits wait for it.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Commits that wait for a synchronous standby: walhub, a PostgreSQL standby, pg_receivewal.
#[derive(Args, Clone, Debug)]
pub struct Sync {
    /// Numbers of pgbench's clients, an experiment for each.
    #[arg(long, value_delimiter = ',', default_value = "1,64")]
    pub clients: Vec<usize>,
    /// Transactions a second at fixed rates, an experiment for each.
    #[arg(long, value_delimiter = ',', default_value = "100,500")]
    pub rates: Vec<usize>,
    /// Seconds of pgbench in each run.
    #[arg(long, default_value_t = 6)]
    pub duration: u32,
}

impl Sync {
    /// As small as it can be.
    #[must_use]
    pub fn smoke() -> Self {
        Self { clients: vec![2], rates: vec![50], duration: 1 }
    }
}

impl Scenario for Sync {
    fn name(&self) -> &'static str {
        NAME
    }

    fn parameters(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("clients", join(&self.clients)),
            ("rates", join(&self.rates)),
            ("duration_s", self.duration.to_string()),
        ])
    }

    fn run(&self, context: &Context) -> Result<Vec<Experiment>> {
        let scratch = context.scratch()?;
        Progress::show("sync: making a primary and its copy");
        let primary = Postgres::primary(scratch.path(), &primary_settings(4))?;
        primary.connect()?.query("CREATE TABLE walhub_bench (v int)")?;
        let standby = Cluster::copy(primary.port().into(), scratch.path(), "standby")?;
        let script = scratch.path().join("insert.sql");
        fs::write(&script, SCRIPT)?;
        let bench = Bench { primary, standby, script, duration: self.duration.to_string() };
        let mut experiments = Vec::new();
        for &clients in &self.clients {
            let name = format!("sync {clients} clients");
            let load = Load { clients, rate: None };
            let run = |run| bench.one_leg(context, load, run);
            let experiment = Experiment::run(&name, &SIDES, FIGURES, context.plan, run)?;
            experiments.push(experiment.at(clients as f64));
        }
        for &rate in &self.rates {
            let name = format!("sync rate {rate}/s");
            let load = Load { clients: 16, rate: Some(rate) };
            let run = |run| bench.one_leg(context, load, run);
            let experiment = Experiment::run(&name, &SIDES, RATE_FIGURES, context.plan, run)?;
            experiments.push(experiment.at(rate as f64));
        }
        Ok(experiments)
    }
}

#[derive(Clone, Copy)]
struct Load {
    clients: usize,
    rate: Option<usize>,
}

struct Bench {
    primary: Postgres,
    standby: Cluster,
    script: PathBuf,
    duration: String,
}

/// The standby that commits wait for; gone with its run.
#[expect(dead_code, reason = "held until the run has ended")]
enum Synchronous {
    Hub(Hub),
    Standby(Postgres),
    PgReceivewal(Process),
    Instant(Sinks),
}

impl Synchronous {
    fn end(self) -> Result<()> {
        if let Self::Instant(sinks) = self {
            sinks.finish()?;
        }
        Ok(())
    }
}

impl Bench {
    fn one_leg(&self, context: &Context, load: Load, run: Run) -> Result<Leg> {
        let scratch = context.scratch()?;
        let mut client = self.primary.connect()?;
        let synchronous = self.attach(context, scratch.path(), &mut client, run.side)?;
        let has_standby = synchronous.is_some();
        set_names(&mut client, if has_standby { "*" } else { "" })?;
        wait_until(READY_TIMEOUT, "a synchronous standby", || {
            let sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
            Ok(client.value(sync)? == if has_standby { "1" } else { "0" })
        })?;
        let watch = Watch::start(run.syscalls.then(|| self.primary.pid()), scratch.path())?;
        let (clients, script) = (load.clients.to_string(), self.script.display().to_string());
        let rate = load.rate.map(|rate| rate.to_string());
        let mut arguments = vec!["-n", "-c", &clients, "-j", "2", "-T", &self.duration];
        arguments.extend(["-f", &script]);
        if let Some(rate) = &rate {
            arguments.extend(["-R", rate]);
        }
        let sockets = self.primary.sockets().as_os_str();
        let port = self.primary.port();
        let outcome = pgbench::with_latencies(sockets, port, &arguments, scratch.path())?;
        let mut leg = watch.stop(&[("primary_cpu_s", self.primary.pid())])?;
        // Or the next one would wait for a standby that is gone.
        set_names(&mut client, "")?;
        synchronous.map_or(Ok(()), Synchronous::end)?;
        wait_until(READY_TIMEOUT, "the standby goes", || {
            Ok(client.value("SELECT count(*) FROM pg_stat_replication")? == "0")
        })?;
        put(&mut leg, "tps", outcome.tps);
        put_latencies(&mut leg, &outcome.latency_us);
        let machine = value(&leg, "machine_cpu_s") * 1e6 / outcome.transactions.max(1.0);
        put(&mut leg, "machine_cpu_us_per_commit", machine);
        per_unit(&mut leg, outcome.transactions);
        Ok(leg)
    }

    fn attach(
        &self,
        context: &Context,
        scratch: &Path,
        client: &mut Client,
        side: usize,
    ) -> Result<Option<Synchronous>> {
        let port = self.primary.port();
        Ok(match side {
            WALHUB => {
                let dir = scratch.join("hub");
                let hub = Hub::start(&context.walhub, &dir, port, &context.walhub_settings)?;
                hub.wait_until_ready()?;
                Some(Synchronous::Hub(hub))
            }
            STANDBY => {
                let server =
                    Postgres::standby(&self.standby, port, "standby", &primary_settings(4))?;
                wait_for_replay(server.port(), flush_lsn(client)?)?;
                Some(Synchronous::Standby(server))
            }
            PG_RECEIVEWAL_SIDE => {
                let dir = scratch.join("wal");
                fs::create_dir(&dir)?;
                let mut command = command(PG_RECEIVEWAL.find()?);
                command.args(["--synchronous", "-h", "127.0.0.1", "-U", "postgres", "-p"]);
                command.arg(port.to_string()).arg("-D").arg(&dir);
                let log = Log::new(PG_RECEIVEWAL.name);
                Some(Synchronous::PgReceivewal(Process::spawn(&mut command, Signal::INT, &log)?))
            }
            INSTANT => {
                let start = flush_lsn(client)?;
                Some(Synchronous::Instant(Sinks::connect(port, 1, 1, start)?))
            }
            _ => None,
        })
    }
}

fn set_names(client: &mut Client, names: &str) -> Result<()> {
    client.query(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"))?;
    client.query("SELECT pg_reload_conf()")?;
    wait_until(READY_TIMEOUT, "the primary reads its configuration", || {
        Ok(client.value("SHOW synchronous_standby_names")? == names)
    })
}
