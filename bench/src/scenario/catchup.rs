//! `catchup`: what it costs to send old WAL to standbys that come back.
//!
//! walhub and a PostgreSQL primary have the same WAL on the same disk. Readers connect, and the
//! clock runs from their START_REPLICATION until the last of them has everything. The limit is
//! iperf3 over loopback, which sends bytes that it never had to read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use walhub_peers::postgres::Cluster;
use walhub_proto::lsn::Lsn;

use super::live::{emit, flush_lsn, primary_settings};
use super::{Context, Scenario, Watch, join, parse_size, per_unit, put, value};
use crate::method::cache::Cache;
use crate::method::pairs::{Experiment, Figure, Leg, Run};
use crate::method::progress::Progress;
use crate::peer::iperf;
use crate::peer::postgres::Postgres;
use crate::peer::walhub::Hub;
use crate::sink::{Sinks, Waiting};

/// Its name.
pub const NAME: &str = "catchup";

const SIDES: [&str; 3] = ["walhub", "walsenders", "iperf3"];
const WALHUB: usize = 0;
const IPERF3: usize = 2;
const FIGURES: &[Figure] = &[
    Figure::more("rate", "WAL delivered, MB/s"),
    Figure::less("cpu_s_per_gb", "sender CPU, s/GB"),
    Figure::less("machine_cpu_s_per_gb", "machine CPU, s/GB"),
];
/// Threads that serve the readers.
const SINK_THREADS: usize = 2;
/// How long readers may take.
const TIMEOUT: Duration = Duration::from_secs(600);
/// What a message of WAL carries: what iperf3 sends at once.
const MESSAGE_LEN: usize = 128 << 10;

/// Old WAL sent to readers, against a PostgreSQL's walsenders, with iperf3 as limit.
#[derive(Args, Clone, Debug)]
pub struct Catchup {
    /// Numbers of readers, an experiment for each.
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,64")]
    pub readers: Vec<usize>,
    /// Numbers of readers of WAL that is not in the page cache; 0 leaves the case out.
    #[arg(long, value_delimiter = ',', default_value = "1,4")]
    pub cold_readers: Vec<usize>,
    /// WAL that each of them reads.
    #[arg(long, default_value = "1GB", value_parser = parse_size)]
    pub size: usize,
}

impl Catchup {
    /// As small as it can be.
    #[must_use]
    pub fn smoke() -> Self {
        Self { readers: vec![2], cold_readers: vec![1], size: 20 << 20 }
    }
}

/// Two servers with the same WAL.
pub(super) struct Servers {
    /// Follows the primary.
    pub(super) hub: Hub,
    /// Made the WAL.
    pub(super) primary: Postgres,
    /// Of the primary.
    pub(super) cluster: Cluster,
    /// Where the WAL begins.
    pub(super) start: Lsn,
    /// Where it ends.
    pub(super) end: Lsn,
    hub_wal: PathBuf,
}

impl Servers {
    /// Makes both, and `bytes` of WAL.
    pub(super) fn start(
        context: &Context,
        dir: &Path,
        bytes: usize,
        standbys_max: usize,
    ) -> Result<Self> {
        Progress::show(&format!("making {} MB of WAL", bytes >> 20));
        let cluster = Cluster::init(dir, "primary", &[])?;
        let primary = Postgres::start(&cluster, &primary_settings(standbys_max))?;
        let mut client = primary.connect()?;
        // The hub begins where the primary is: both have every segment from the next one on.
        client.query("SELECT pg_switch_wal()")?;
        client.query("SELECT pg_logical_emit_message(true, 'walhub-bench', '')")?;
        let start = flush_lsn(&mut client)?.align_down(16 << 20);
        let mut settings = vec![format!("max_wal_senders={}", standbys_max + 1)];
        settings.push(format!("max_connections={}", standbys_max + 10));
        settings.push("wal_keep_size=1TB".to_owned());
        settings.extend(context.walhub_settings.iter().cloned());
        let hub_dir = dir.join("hub");
        let hub = Hub::start(&context.walhub, &hub_dir, primary.port(), &settings)?;
        hub.wait_until_ready()?;
        // Who has seen none cannot be promoted.
        client.query("CHECKPOINT")?;
        emit(&mut client, bytes)?;
        let end = flush_lsn(&mut client)?;
        let sink = Sinks::connect(hub.port(), 1, 1, start)?;
        sink.wait_for(end, TIMEOUT)?;
        sink.finish()?;
        let hub_wal = hub_dir.join("pg_wal");
        Ok(Self { hub, primary, cluster, start, end, hub_wal })
    }

    /// Where the segments of one of them are.
    pub(super) fn wal_of(&self, is_hub: bool) -> PathBuf {
        if is_hub { self.hub_wal.clone() } else { self.cluster.data.join("pg_wal") }
    }

    /// Port and process of one of them.
    pub(super) fn of(&self, is_hub: bool) -> (u16, u32) {
        if is_hub {
            (self.hub.port(), self.hub.pid())
        } else {
            (self.primary.port(), self.primary.pid())
        }
    }
}

impl Scenario for Catchup {
    fn name(&self) -> &'static str {
        NAME
    }

    fn parameters(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("readers", join(&self.readers)),
            ("cold_readers", join(&self.cold_readers)),
            ("size_bytes", self.size.to_string()),
        ])
    }

    fn run(&self, context: &Context) -> Result<Vec<Experiment>> {
        let scratch = context.scratch()?;
        let most = self.readers.iter().chain(&self.cold_readers).max().copied().unwrap_or(0);
        let servers = Servers::start(context, scratch.path(), self.size, most)?;
        let mut experiments = Vec::new();
        let cases = [(Cache::Warm, "", &self.readers), (Cache::Cold, " cold", &self.cold_readers)];
        for (cache, which, numbers) in cases {
            for &readers in numbers.iter().filter(|readers| **readers > 0) {
                let name = format!("catchup{which} {readers} readers");
                let run = |run| one_leg(context, &servers, cache, readers, run);
                let experiment = Experiment::run(&name, &SIDES, FIGURES, context.plan, run)?;
                experiments.push(experiment.at(readers as f64));
            }
        }
        Ok(experiments)
    }
}

fn one_leg(
    context: &Context,
    servers: &Servers,
    cache: Cache,
    readers: usize,
    run: Run,
) -> Result<Leg> {
    let scratch = context.scratch()?;
    let wal_bytes = servers.end.saturating_bytes_since(servers.start);
    if run.side == IPERF3 {
        let watch = Watch::start(None, scratch.path())?;
        let bytes = wal_bytes * u64::try_from(readers)?;
        let sent = iperf::send(readers, bytes, MESSAGE_LEN)?;
        let mut leg = watch.stop(&[])?;
        put(&mut leg, "sender_cpu_s", sent.sender_cpu_s);
        figures(&mut leg, sent.bytes, sent.seconds);
        return Ok(leg);
    }
    let is_hub = run.side == WALHUB;
    cache.prepare(&servers.wal_of(is_hub))?;
    let (port, pid) = servers.of(is_hub);
    let waiting = Waiting::connect(port, readers)?;
    let watch = Watch::start(run.syscalls.then_some(pid), scratch.path())?;
    let began = Instant::now();
    let sinks = waiting.start(SINK_THREADS, servers.start)?;
    sinks.wait_for(servers.end, TIMEOUT)?;
    let elapsed = began.elapsed().as_secs_f64();
    let mut leg = watch.stop(&[("sender_cpu_s", pid)])?;
    sinks.finish()?;
    let bytes = wal_bytes as f64 * readers as f64;
    figures(&mut leg, bytes, elapsed);
    per_unit(&mut leg, bytes / 1e6);
    Ok(leg)
}

fn figures(leg: &mut Leg, bytes: f64, seconds: f64) {
    let (cpu, machine) = (value(leg, "sender_cpu_s"), value(leg, "machine_cpu_s"));
    put(leg, "elapsed_s", seconds);
    put(leg, "rate", bytes / 1e6 / seconds);
    put(leg, "cpu_s_per_gb", cpu / (bytes / 1e9));
    put(leg, "machine_cpu_s_per_gb", machine / (bytes / 1e9));
}
