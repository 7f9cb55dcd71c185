//! `ingest`: how fast WAL comes in when every flush is durable.
//!
//! The source is inside the harness and sends the same bytes to each receiver. A run begins when
//! the receiver has asked for WAL and ends when it has acknowledged the last byte as flushed. Both
//! receivers begin with an empty directory, so each makes its segments as it goes.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use rustix::process::Signal;

use super::{Context, Scenario, Watch, parse_size, per_unit, put, put_latencies, value};
use crate::method::pairs::{Experiment, Figure, Leg, Run};
use crate::method::progress::Progress;
use crate::peer::program::{self, PG_RECEIVEWAL, Running};
use crate::peer::walhub::Hub;
use crate::source::Source;
use crate::source::wal::{Load, Wal};

/// Its name.
pub const NAME: &str = "ingest";

const SIDES: [&str; 2] = ["walhub", "pg_receivewal"];
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

/// WAL taken in, every flush durable, against pg_receivewal --synchronous.
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
        let cases = [
            ("ingest bulk", Load::Bulk, self.size, None),
            ("ingest commits", Load::Commits, self.commits_size, Some(u64::try_from(self.window)?)),
        ];
        for (name, load, bytes, window) in cases {
            if bytes == 0 {
                continue;
            }
            Progress::show(&format!("{name}: making {} MB of WAL", bytes >> 20));
            let wal = Arc::new(Wal::generate(load, bytes));
            let mut figures = FIGURES.to_vec();
            if window.is_some() {
                figures.extend_from_slice(COMMIT_FIGURES);
            }
            let run = |run| one_leg(context, &wal, window, run);
            experiments.push(Experiment::run(name, &SIDES, &figures, context.plan, run)?);
        }
        Ok(experiments)
    }
}

/// Whichever receiver runs.
enum Receiver {
    Walhub(Hub),
    PgReceivewal(Running),
}

impl Receiver {
    fn pid(&self) -> u32 {
        match self {
            Self::Walhub(hub) => hub.pid(),
            Self::PgReceivewal(running) => running.pid(),
        }
    }

    /// The end of its log.
    fn said(&self) -> String {
        match self {
            Self::Walhub(hub) => hub.said(),
            Self::PgReceivewal(running) => running.said(),
        }
    }

    fn check(&mut self) -> Result<()> {
        match self {
            Self::Walhub(hub) => hub.check(),
            Self::PgReceivewal(running) => running.check().context("pg_receivewal"),
        }
    }
}

fn one_leg(context: &Context, wal: &Arc<Wal>, window: Option<u64>, run: Run) -> Result<Leg> {
    let scratch = context.scratch()?;
    let source = Source::listen(Arc::clone(wal), window)?;
    let mut receiver = if run.side == 0 {
        let dir = scratch.path().join("hub");
        let settings = &context.walhub_settings;
        Receiver::Walhub(Hub::start(&context.walhub, &dir, source.port(), settings)?)
    } else {
        let dir = scratch.path().join("wal");
        fs::create_dir(&dir)?;
        let mut command = program::command(PG_RECEIVEWAL.find()?)?;
        command.args(["--synchronous", "--no-loop", "-h", "127.0.0.1", "-U", "postgres", "-p"]);
        command.arg(source.port().to_string()).arg("-D").arg(&dir);
        let log = scratch.path().join("pg_receivewal.log");
        Receiver::PgReceivewal(Running::start(command, &log, Signal::INT)?)
    };
    let checked = source.wait_until_asked();
    receiver.check()?;
    checked?;
    let watch = Watch::start(run.syscalls.then(|| receiver.pid()), scratch.path())?;
    let flushed = source.run();
    let mut leg = watch.stop(&[("receiver_cpu_s", receiver.pid())])?;
    receiver.check()?;
    let (elapsed, outcome) = flushed.with_context(|| receiver.said())?;
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
