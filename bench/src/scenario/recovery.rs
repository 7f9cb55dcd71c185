//! `recovery`: how long a server takes to serve again after it was killed.
//!
//! walhub and a PostgreSQL primary have the same WAL, are killed, and are started. walhub is ready
//! when it answers IDENTIFY_SYSTEM, without its upstream; PostgreSQL when it lets a session in, and
//! has replayed that WAL, for all its records have to be applied. The limit is reading all of it.
//!
//! Then how long each takes, with that WAL, from `pg_promote()` to its first commit: walhub as a relay,
//! PostgreSQL as a standby that has replayed everything.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use walhub_peers::client::Client;
use walhub_peers::postgres::{Cluster, copy_files};

use super::catchup::Servers;
use super::{Context, Scenario, Watch, join, parse_size, put};
use crate::method::cache;
use crate::method::pairs::{Experiment, Figure, Leg, Run};
use crate::method::progress::Progress;
use crate::peer::free_port;
use crate::peer::postgres::Postgres;
use crate::peer::walhub::Hub;

/// Its name.
pub const NAME: &str = "recovery";

const SIDES: [&str; 3] = ["walhub", "postgres", "read all of it"];
const WALHUB: usize = 0;
const POSTGRES: usize = 1;
const FIGURES: &[Figure] = &[
    Figure::less("ready_ms", "from start to ready, ms"),
    Figure::less("cpu_ms", "CPU until then, ms"),
];

const PROMOTED_SIDES: [&str; 2] = ["walhub", "postgres"];
const PROMOTED_FIGURES: &[Figure] =
    &[Figure::less("promoted_ms", "from pg_promote() to the first commit, ms")];
/// How long a standby must stay where it is to have replayed everything.
const STANDSTILL: Duration = Duration::from_millis(300);

/// Start-up time with WAL retained, after a kill, against PostgreSQL's crash recovery.
#[derive(Args, Clone, Debug)]
pub struct Recovery {
    /// Amounts of WAL, an experiment for each.
    #[arg(long, value_delimiter = ',', default_value = "1GB", value_parser = parse_size)]
    pub sizes: Vec<usize>,
}

impl Recovery {
    /// As small as it can be.
    #[must_use]
    pub fn smoke() -> Self {
        Self { sizes: vec![40 << 20] }
    }
}

impl Scenario for Recovery {
    fn name(&self) -> &'static str {
        NAME
    }

    fn parameters(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([("sizes_bytes", join(&self.sizes))])
    }

    fn run(&self, context: &Context) -> Result<Vec<Experiment>> {
        let mut experiments = Vec::new();
        for &size in &self.sizes {
            let scratch = context.scratch()?;
            let servers = Servers::start(context, scratch.path(), size, 4)?;
            let Servers { hub, primary, cluster, .. } = servers;
            hub.kill();
            primary.crash();
            let hub_dir = scratch.path().join("hub");
            let name = format!("recovery {} MB", size >> 20);
            let run = |run| one_leg(context, &hub_dir, &cluster, run);
            let experiment = Experiment::run(&name, &SIDES, FIGURES, context.plan, run)?;
            experiments.push(experiment.at(size as f64));
            let name = format!("promotion {} MB", size >> 20);
            let run = |run| promoted_leg(context, &hub_dir, &cluster, run);
            let experiment =
                Experiment::run(&name, &PROMOTED_SIDES, PROMOTED_FIGURES, context.plan, run)?;
            experiments.push(experiment.at(size as f64));
        }
        Ok(experiments)
    }
}

fn one_leg(context: &Context, hub_dir: &Path, crashed: &Cluster, run: Run) -> Result<Leg> {
    let scratch = context.scratch()?;
    let hub_wal = hub_dir.join("pg_wal");
    match run.side {
        WALHUB => {
            cache::drop_all(&hub_wal)?;
            let watch = Watch::start(None, scratch.path())?;
            let began = Instant::now();
            // No server is behind this port: what is on disk must do.
            let upstream = free_port()?;
            let settings = [&["wal_keep_size=1TB".to_owned()], &*context.walhub_settings].concat();
            let hub = Hub::start(&context.walhub, hub_dir, upstream, &settings)?;
            hub.wait_until_ready()?;
            let leg = finish(watch, began, Some(hub.pid()))?;
            hub.kill();
            Ok(leg)
        }
        POSTGRES => {
            // Recovery leaves nothing to recover, so each run has a copy.
            Progress::show("recovery: copying a cluster");
            let copy = crashed.duplicate(scratch.path(), "crashed")?;
            cache::drop_all(&copy.data.join("pg_wal"))?;
            let watch = Watch::start(None, scratch.path())?;
            let began = Instant::now();
            let server = Postgres::start(&copy, &super::live::primary_settings(4))?;
            let leg = finish(watch, began, Some(server.pid()))?;
            server.crash();
            Ok(leg)
        }
        _ => {
            cache::drop_all(&hub_wal)?;
            let watch = Watch::start(None, scratch.path())?;
            let began = Instant::now();
            let bytes = cache::read_all(&hub_wal)?;
            let mut leg = finish(watch, began, None)?;
            put(&mut leg, "read_mb", bytes as f64 / 1e6);
            Ok(leg)
        }
    }
}

/// Each run has copies: a promotion cannot be taken back.
fn promoted_leg(context: &Context, hub_dir: &Path, crashed: &Cluster, run: Run) -> Result<Leg> {
    let scratch = context.scratch()?;
    let upstream = free_port()?;
    if run.side == WALHUB {
        let copy = scratch.path().join("hub");
        copy_files(hub_dir, &copy)?;
        let settings = [&["wal_keep_size=1TB".to_owned()], &*context.walhub_settings].concat();
        let hub = Hub::start(&context.walhub, &copy, upstream, &settings)?;
        hub.wait_until_ready()?;
        let leg = promote(hub.port(), scratch.path())?;
        hub.kill();
        Ok(leg)
    } else {
        let copy = crashed.duplicate(scratch.path(), "standby")?;
        let server =
            Postgres::standby(&copy, upstream, "standby", &super::live::primary_settings(4))?;
        let mut client = server.connect()?;
        let mut replayed = String::new();
        loop {
            let now = client.value("SELECT pg_last_wal_replay_lsn()::text")?;
            if replayed == now {
                break;
            }
            replayed = now;
            thread::sleep(STANDSTILL);
        }
        let leg = promote(server.port(), scratch.path())?;
        server.crash();
        Ok(leg)
    }
}

/// Promotes a server and commits there.
fn promote(port: u16, dir: &Path) -> Result<Leg> {
    let mut client = Client::database(port)?;
    let watch = Watch::start(None, dir)?;
    let began = Instant::now();
    client.query("SELECT pg_promote()")?;
    client.query("SELECT pg_logical_emit_message(true, 'walhub-bench', '')")?;
    let elapsed = began.elapsed();
    let mut leg = watch.stop(&[])?;
    put(&mut leg, "promoted_ms", elapsed.as_secs_f64() * 1e3);
    Ok(leg)
}

fn finish(watch: Watch, began: Instant, server: Option<u32>) -> Result<Leg> {
    let elapsed = began.elapsed();
    let server = server.map(|pid| ("server_cpu_s", pid));
    let mut leg = watch.stop(server.as_slice())?;
    put(&mut leg, "ready_ms", elapsed.as_secs_f64() * 1e3);
    if server.is_some() {
        let cpu = super::value(&leg, "server_cpu_s");
        put(&mut leg, "cpu_ms", cpu * 1e3);
    }
    Ok(leg)
}
