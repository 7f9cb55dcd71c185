//! `ingest`: how fast WAL comes in when every flush is durable.
//!
//! The source is inside the harness and sends the same bytes to each receiver: those with which the
//! WAL of a cluster goes on that was shut down, so that a copy of it can be a standby. A run begins
//! when the receiver has asked for WAL and ends when it has acknowledged the last byte as flushed.
//! walhub and pg_receivewal begin with an empty directory, so all make their segments as they go.
//! The limit is the device: as many bytes, written and flushed a block at a time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use rustix::process::Signal;
use walhub_engine::io::BLOCK_LEN;
use walhub_peers::log::Log;
use walhub_peers::postgres::Cluster;
use walhub_peers::process::Process;

use super::disk::{FileState, WrittenFile};
use super::live::primary_settings;
use super::{Context, Scenario, Watch, parse_size, per_unit, put, put_latencies, value};
use crate::method::pairs::{Experiment, Figure, Leg, Run};
use crate::method::progress::Progress;
use crate::peer::postgres::{EndOfWal, Postgres};
use crate::peer::program::{PG_RECEIVEWAL, command};
use crate::peer::walhub::Hub;
use crate::source::Source;
use crate::source::wal::{Load, Wal};

/// Its name.
pub const NAME: &str = "ingest";

const SIDES: [&str; 4] = ["walhub", "pg_receivewal", "standby", "device"];
const WALHUB: usize = 0;
const PG_RECEIVEWAL_SIDE: usize = 1;
const STANDBY: usize = 2;
/// Bytes that the device is given at once in a bulk run: as many as walhub writes at most.
const DEVICE_BLOCK_LEN: usize = 4 << 20;
const FIGURES: &[Figure] = &[
    Figure::more("rate", "WAL flushed, MB/s"),
    Figure::less("cpu_s_per_gb", "receiver CPU, s/GB"),
    Figure::less("machine_cpu_s_per_gb", "machine CPU, s/GB"),
    Figure::neutral("flushes_per_mb", "acknowledged flushes per MB"),
];
const COMMIT_FIGURES: &[Figure] = &[
    Figure::more("messages_per_s", "messages flushed per s"),
    Figure::less("latency_p50_us", "send to flush p50, us"),
    Figure::less("latency_p99_us", "send to flush p99, us"),
];

/// WAL taken in, every flush durable, against pg_receivewal --synchronous and a PostgreSQL standby.
#[derive(Args, Clone, Copy, Debug)]
pub struct Ingest {
    /// WAL of a bulk run; 0 leaves the case out.
    #[arg(long, default_value = "512MB", value_parser = parse_size)]
    pub size: usize,
    /// WAL of a run of commits; 0 leaves the case out.
    #[arg(long, default_value = "64MB", value_parser = parse_size)]
    pub commits_size: usize,
    /// WAL that waits for its flush at most in a run of commits.
    #[arg(long, default_value = "64kB", value_parser = parse_size)]
    pub window: usize,
}

impl Ingest {
    /// As small as it can be.
    #[must_use]
    pub fn smoke() -> Self {
        Self { size: 20 << 20, commits_size: 1 << 20, window: 64 << 10 }
    }
}

impl Scenario for Ingest {
    fn name(&self) -> &'static str {
        NAME
    }

    fn parameters(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("bulk_bytes", self.size.to_string()),
            ("commits_bytes", self.commits_size.to_string()),
            ("window_bytes", self.window.to_string()),
        ])
    }

    fn run(&self, context: &Context) -> Result<Vec<Experiment>> {
        let mut experiments = Vec::new();
        let scratch = context.scratch()?;
        Progress::show("ingest: making a cluster whose WAL goes on");
        let cluster = Cluster::init(scratch.path(), "cluster", &[])?;
        let server = Postgres::start(&cluster, &primary_settings(4))?;
        // What comes before the generated WAL is the same for all and as short as can be.
        server.connect()?.query("SELECT pg_switch_wal()")?;
        drop(server);
        let end = EndOfWal::of(&cluster)?;
        let cases = [
            ("ingest bulk", Load::Bulk, self.size, None),
            ("ingest commits", Load::Commits, self.commits_size, Some(u64::try_from(self.window)?)),
        ];
        for (name, load, bytes, window) in cases {
            if bytes == 0 {
                continue;
            }
            Progress::show(&format!("{name}: making {} MB of WAL", bytes >> 20));
            let wal = Arc::new(Wal::generate(load, bytes, &end));
            let mut figures = FIGURES.to_vec();
            if window.is_some() {
                figures.extend_from_slice(COMMIT_FIGURES);
            }
            let run = |run| one_leg(context, &cluster, &wal, window, run);
            experiments.push(Experiment::run(name, &SIDES, &figures, context.plan, run)?);
        }
        Ok(experiments)
    }
}

/// Whichever receiver runs.
enum Receiver {
    Walhub(Hub),
    PgReceivewal(Process),
    Standby(Postgres),
}

impl Receiver {
    fn process(&self) -> &Process {
        match self {
            Self::Walhub(hub) => &hub.process,
            Self::PgReceivewal(process) => process,
            Self::Standby(server) => &server.process,
        }
    }
}

impl Receiver {
    fn start(
        context: &Context,
        scratch: &Path,
        cluster: &Cluster,
        port: u16,
        side: usize,
    ) -> Result<Self> {
        Ok(match side {
            WALHUB => {
                let settings = &context.walhub_settings;
                Self::Walhub(Hub::start(&context.walhub, &scratch.join("hub"), port, settings)?)
            }
            PG_RECEIVEWAL_SIDE => {
                let dir = scratch.join("wal");
                fs::create_dir(&dir)?;
                let mut command = command(PG_RECEIVEWAL.find()?);
                command.args(["--synchronous", "--no-loop", "-h", "127.0.0.1", "-U", "postgres"]);
                command.args(["-p", &port.to_string()]).arg("-D").arg(&dir);
                let log = Log::new(PG_RECEIVEWAL.name);
                Self::PgReceivewal(Process::spawn(&mut command, Signal::INT, &log)?)
            }
            STANDBY => {
                let standby = cluster.duplicate(scratch, "standby")?;
                Self::Standby(Postgres::standby(&standby, port, "standby", &primary_settings(4))?)
            }
            side => bail!("no side {side}"),
        })
    }
}

fn one_leg(
    context: &Context,
    cluster: &Cluster,
    wal: &Arc<Wal>,
    window: Option<u64>,
    run: Run,
) -> Result<Leg> {
    let scratch = context.scratch()?;
    if !matches!(run.side, WALHUB | PG_RECEIVEWAL_SIDE | STANDBY) {
        return device_leg(scratch.path(), wal, window);
    }
    let source = Source::listen(Arc::clone(wal), window)?;
    let receiver = Receiver::start(context, scratch.path(), cluster, source.port(), run.side)?;
    let checked = source.wait_until_asked();
    receiver.process().check()?;
    checked?;
    let watch = Watch::start(run.syscalls.then(|| receiver.process().pid()), scratch.path())?;
    let flushed = source.run();
    let mut leg = watch.stop(&[("receiver_cpu_s", receiver.process().pid())])?;
    receiver.process().check()?;
    let (elapsed, outcome) = flushed.with_context(|| receiver.process().log().tail())?;
    let bytes = wal.bytes.len() as f64;
    let (cpu, machine) = (value(&leg, "receiver_cpu_s"), value(&leg, "machine_cpu_s"));
    put(&mut leg, "elapsed_s", elapsed.as_secs_f64());
    put(&mut leg, "rate", bytes / 1e6 / elapsed.as_secs_f64());
    put(&mut leg, "cpu_s_per_gb", cpu / (bytes / 1e9));
    put(&mut leg, "machine_cpu_s_per_gb", machine / (bytes / 1e9));
    put(&mut leg, "flushes_per_mb", outcome.flushes as f64 / (bytes / 1e6));
    per_unit(&mut leg, bytes / 1e6);
    if window.is_some() {
        put(&mut leg, "messages_per_s", wal.message_ends.len() as f64 / elapsed.as_secs_f64());
        put_latencies(&mut leg, &outcome.latency_us);
    }
    Ok(leg)
}

/// What the device takes when it is given a block at a time and each is flushed before the next.
fn device_leg(scratch: &Path, wal: &Wal, window: Option<u64>) -> Result<Leg> {
    let block = window.map_or(Ok(DEVICE_BLOCK_LEN), usize::try_from)?;
    let block = block.next_multiple_of(BLOCK_LEN);
    let blocks = wal.bytes.len().div_ceil(block);
    let len = u64::try_from(blocks * block)?;
    let target = WrittenFile::make(scratch, FileState::Filled, len, block)?;
    let watch = Watch::start(None, scratch)?;
    let began = Instant::now();
    let latency_us = target.write_and_flush()?;
    let elapsed = began.elapsed().as_secs_f64();
    let mut leg = watch.stop(&[])?;
    let machine = value(&leg, "machine_cpu_s");
    let megabytes = len as f64 / 1e6;
    put(&mut leg, "rate", megabytes / elapsed);
    put(&mut leg, "machine_cpu_s_per_gb", machine / (megabytes / 1e3));
    put(&mut leg, "flushes_per_mb", blocks as f64 / megabytes);
    if window.is_some() {
        let messages = wal.message_ends.len() as f64 * len as f64 / wal.bytes.len() as f64;
        put(&mut leg, "messages_per_s", messages / elapsed);
        put_latencies(&mut leg, &latency_us);
    }
    Ok(leg)
}
