//! `commit`: appending messages durably, to WAL of walhub's own and to PostgreSQL's.
//!
//! Every message has 100 bytes and is transactional, with `synchronous_commit = on`. pgbench runs
//! the same script on both; a client of the harness appends many in one pipeline, and COPY as many
//! as one transaction holds. The limit is the device: blocks of the size that a commit needs, each
//! flushed before the next.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use walhub_peers::client::Client;
use walhub_proto::convert::to_u32;
use walhub_proto::wire::backend::Encoder;

use super::disk::{FileState, WrittenFile};
use super::{Context, Scenario, Watch, join, per_unit, put, put_latencies, value};
use crate::method::pairs::{Experiment, Figure, Leg, Run};
use crate::method::progress::Progress;
use crate::peer::pgbench::{self, histogram};
use crate::peer::postgres::Postgres;
use crate::peer::walhub::Hub;

/// Its name.
pub const NAME: &str = "commit";

const SIDES: [&str; 3] = ["walhub", "postgres", "device"];
const WALHUB: usize = 0;
const DEVICE: usize = 2;
const FIGURES: &[Figure] = &[
    Figure::more("rate", "commits/s"),
    Figure::less("latency_p50_us", "commit p50, us"),
    Figure::less("latency_p90_us", "commit p90, us"),
    Figure::less("latency_p99_us", "commit p99, us"),
    Figure::less("latency_p999_us", "commit p99.9, us"),
    Figure::less("cpu_us", "server CPU, us/commit"),
    Figure::less("machine_cpu_us", "machine CPU, us/commit"),
];
const RECORD_FIGURES: &[Figure] = &[
    Figure::more("rate", "records/s"),
    Figure::less("latency_p50_us", "batch p50, us"),
    Figure::less("latency_p99_us", "batch p99, us"),
    Figure::less("cpu_us", "server CPU, us/record"),
    Figure::less("machine_cpu_us", "machine CPU, us/record"),
];
/// Bytes of one message.
const MESSAGE_LEN: usize = 100;
/// Bytes that one takes in the WAL: header of the record, of its data, of the message, its prefix.
const RECORD_LEN: usize = 160;
/// Batches that are under way at once.
const DEPTH: usize = 4;
/// The device is written to in blocks like these at least.
const BLOCK_LEN: usize = 8 << 10;
/// Bytes that the device is given to write in one run at most.
const DEVICE_BYTES_MAX: u64 = 256 << 20;
/// WAL that is written before, for each second of a run and at most: its segments are used again.
const RECYCLED_PER_S: usize = 48 << 20;
const RECYCLED_MAX: usize = 512 << 20;
/// Rows of one COPY.
const COPY_ROWS: usize = 10_000;
/// Bytes of rows in one CopyData message.
const COPY_DATA_LEN: usize = 8 << 10;

/// Durable appends to WAL of walhub's own, against PostgreSQL, with the device as limit.
#[derive(Args, Clone, Debug)]
pub struct Commit {
    /// Numbers of pgbench's clients, an experiment for each.
    #[arg(long, value_delimiter = ',', default_value = "1,8,64")]
    pub clients: Vec<usize>,
    /// Seconds of each run.
    #[arg(long, default_value_t = 6)]
    pub duration: u64,
    /// Messages that a pipeline commits together, an experiment for each.
    #[arg(long, value_delimiter = ',', default_value = "1,16,256")]
    pub batches: Vec<usize>,
}

impl Commit {
    /// As small as it can be.
    #[must_use]
    pub fn smoke() -> Self {
        Self { clients: vec![2], duration: 1, batches: vec![16] }
    }
}

impl Scenario for Commit {
    fn name(&self) -> &'static str {
        NAME
    }

    fn parameters(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("clients", join(&self.clients)),
            ("duration_s", self.duration.to_string()),
            ("batches", join(&self.batches)),
            ("message_bytes", MESSAGE_LEN.to_string()),
        ])
    }

    fn run(&self, context: &Context) -> Result<Vec<Experiment>> {
        let scratch = context.scratch()?;
        let bench = Bench::start(context, scratch.path(), Duration::from_secs(self.duration))?;
        let mut experiments = Vec::new();
        for (which, protocol) in [("", "simple"), (" prepared", "prepared")] {
            for &clients in &self.clients {
                let name = format!("commit{which} {clients} clients");
                let load = Load::Pgbench { clients, protocol };
                let run = |run| bench.one_leg(context, load, run);
                let experiment = Experiment::run(&name, &SIDES, FIGURES, context.plan, run)?;
                experiments.push(experiment.at(clients as f64));
            }
        }
        for &batch in &self.batches {
            let name = format!("commit pipelined by {batch}");
            let run = |run| bench.one_leg(context, Load::Pipeline { batch }, run);
            let experiment = Experiment::run(&name, &SIDES, RECORD_FIGURES, context.plan, run)?;
            experiments.push(experiment.at(batch as f64));
        }
        let run = |run| bench.one_leg(context, Load::Copy, run);
        experiments.push(Experiment::run(
            "commit by COPY",
            &SIDES,
            RECORD_FIGURES,
            context.plan,
            run,
        )?);
        Ok(experiments)
    }
}

#[derive(Clone, Copy, Debug)]
enum Load {
    Pgbench { clients: usize, protocol: &'static str },
    Pipeline { batch: usize },
    Copy,
}

impl Load {
    /// Messages that become durable together at least.
    fn batch(self) -> usize {
        match self {
            Self::Pgbench { .. } => 1,
            Self::Pipeline { batch } => batch,
            Self::Copy => COPY_ROWS,
        }
    }
}

struct Bench {
    hub: Hub,
    postgres: Postgres,
    script: PathBuf,
    duration: Duration,
}

impl Bench {
    fn start(context: &Context, dir: &Path, duration: Duration) -> Result<Self> {
        Progress::show("commit: making a server of each kind");
        let settings = [
            "synchronous_commit=on",
            "fsync=on",
            "shared_buffers=512MB",
            "checkpoint_timeout=1d",
            "autovacuum=off",
            "max_connections=200",
            // Room for all runs, in segments that were used before.
            "min_wal_size=2GB",
            "max_wal_size=64GB",
        ];
        let settings = settings.map(str::to_owned);
        let postgres = Postgres::primary(dir, &settings)?;
        let mut client = postgres.connect()?;
        client.query("CREATE TABLE messages (prefix text, content text)")?;
        let seconds = usize::try_from(duration.as_secs())?;
        super::live::emit(&mut client, (seconds * RECYCLED_PER_S).min(RECYCLED_MAX))?;
        // The second one lets the segments of the first be used again.
        client.query("CHECKPOINT")?;
        client.query("CHECKPOINT")?;
        let hub_settings =
            [&["max_connections=200".to_owned()], &*context.walhub_settings].concat();
        let hub = Hub::start_own(&context.walhub, &dir.join("own"), &hub_settings)?;
        hub.wait_for_session()?;
        let script = dir.join("emit.sql");
        let message = "m".repeat(MESSAGE_LEN);
        fs::write(
            &script,
            format!("SELECT pg_logical_emit_message(true, 'bench', '{message}');\n"),
        )?;
        Ok(Self { hub, postgres, script, duration })
    }

    fn one_leg(&self, context: &Context, load: Load, run: Run) -> Result<Leg> {
        let scratch = context.scratch()?;
        if run.side == DEVICE {
            return device(scratch.path(), load.batch(), self.duration);
        }
        let is_hub = run.side == WALHUB;
        let (port, pid) = if is_hub {
            (self.hub.port(), self.hub.pid())
        } else {
            (self.postgres.port(), self.postgres.pid())
        };
        let mut client = Client::database(port)?;
        let watch = Watch::start(run.syscalls.then_some(pid), scratch.path())?;
        let (records, seconds, latency_us) = match load {
            Load::Pgbench { clients, protocol } => {
                let (clients, duration) =
                    (clients.to_string(), self.duration.as_secs().to_string());
                let script = self.script.display().to_string();
                let arguments = ["-n", "-c", &clients, "-j", "2", "-T", &duration, "-M", protocol];
                let arguments = [&arguments[..], &["-f", &script]].concat();
                let host = OsStr::new("127.0.0.1");
                let outcome = pgbench::with_latencies(host, port, &arguments, scratch.path())?;
                (outcome.transactions, outcome.transactions / outcome.tps, outcome.latency_us)
            }
            Load::Pipeline { batch } => pipeline(&mut client, batch, self.duration)?,
            Load::Copy => {
                let table = if is_hub { "walhub.messages" } else { "messages" };
                copy(&mut client, table, self.duration)?
            }
        };
        let mut leg = watch.stop(&[("server_cpu_s", pid)])?;
        put(&mut leg, "rate", records / seconds);
        put_latencies(&mut leg, &latency_us);
        let (cpu, machine) = (value(&leg, "server_cpu_s"), value(&leg, "machine_cpu_s"));
        put(&mut leg, "cpu_us", cpu * 1e6 / records);
        put(&mut leg, "machine_cpu_us", machine * 1e6 / records);
        per_unit(&mut leg, records);
        Ok(leg)
    }
}

/// Records, seconds, and microseconds from sending a batch to its commit.
type Appended = (f64, f64, hdrhistogram::Histogram<u64>);

/// Appends batches of messages, each with a commit of its own, some of them under way at once.
fn pipeline(client: &mut Client, batch: usize, duration: Duration) -> Result<Appended> {
    client.send_encoded(&parse_message())?;
    client.completed()?;
    let messages = batch_messages(batch);
    let mut latency_us = histogram();
    let mut sent = std::collections::VecDeque::new();
    let (began, mut records) = (Instant::now(), 0);
    loop {
        while sent.len() < DEPTH && began.elapsed() < duration {
            sent.push_back(Instant::now());
            client.send_encoded(&messages)?;
        }
        let Some(first) = sent.pop_front() else { break };
        let count = client.completed()?;
        if count != batch {
            bail!("{count} of {batch} messages were appended");
        }
        records += count;
        latency_us.saturating_record(u64::try_from(first.elapsed().as_micros())?);
    }
    Ok((records as f64, began.elapsed().as_secs_f64(), latency_us))
}

/// A message as it goes over the wire.
fn encoded(kind: u8, body: &[u8]) -> Vec<u8> {
    Encoder::new().frame(kind, |buf| buf.extend_from_slice(body)).take()
}

/// Parse of the statement `append`, and Sync.
fn parse_message() -> Vec<u8> {
    let sql = "SELECT pg_logical_emit_message(true, 'bench', $1::text)";
    // No parameter has a type of its own.
    let parse = [b"append\0", sql.as_bytes(), &[0, 0, 0]].concat();
    [encoded(b'P', &parse), encoded(b'S', &[])].concat()
}

/// Bind and Execute for each message, and one Sync.
fn batch_messages(batch: usize) -> Vec<u8> {
    let length = to_u32(MESSAGE_LEN).to_be_bytes();
    // The unnamed portal; no format codes; one parameter; no result formats.
    let bind =
        [&b"\0append\0"[..], &[0, 0], &[0, 1], &length, &[b'm'; MESSAGE_LEN], &[0, 0]].concat();
    // As many rows as there are.
    let one = [encoded(b'B', &bind), encoded(b'E', &[0; 5])].concat();
    let mut messages = one.repeat(batch);
    messages.extend(encoded(b'S', &[]));
    messages
}

/// Runs COPY again and again.
fn copy(client: &mut Client, table: &str, duration: Duration) -> Result<Appended> {
    let row = format!("bench\t{}\n", "m".repeat(MESSAGE_LEN));
    let rows = row.repeat(COPY_ROWS);
    let messages: Vec<u8> =
        rows.as_bytes().chunks(COPY_DATA_LEN).flat_map(|piece| encoded(b'd', piece)).collect();
    let sql = format!("COPY {table} (prefix, content) FROM STDIN");
    let mut latency_us = histogram();
    let (began, mut records) = (Instant::now(), 0);
    while began.elapsed() < duration {
        let sent = Instant::now();
        client.copy_in(&sql, &messages)?;
        records += COPY_ROWS;
        latency_us.saturating_record(u64::try_from(sent.elapsed().as_micros())?);
    }
    Ok((records as f64, began.elapsed().as_secs_f64(), latency_us))
}

/// The device itself: blocks that hold `batch` records, each flushed before the next.
fn device(dir: &Path, batch: usize, duration: Duration) -> Result<Leg> {
    let block = (batch * RECORD_LEN).next_multiple_of(BLOCK_LEN);
    // As many as there would be if one took a millisecond.
    let writes = u64::try_from(duration.as_millis())?.max(10);
    let writes = writes.min(DEVICE_BYTES_MAX / u64::try_from(block)?).max(10);
    let target = WrittenFile::make(dir, FileState::Filled, writes * u64::try_from(block)?, block)?;
    let watch = Watch::start(None, dir)?;
    let began = Instant::now();
    let latency_us = target.write_and_flush().context("the device")?;
    let seconds = began.elapsed().as_secs_f64();
    let mut leg = watch.stop(&[])?;
    let records = writes as f64 * batch as f64;
    put(&mut leg, "rate", records / seconds);
    put_latencies(&mut leg, &latency_us);
    let machine = value(&leg, "machine_cpu_s");
    put(&mut leg, "machine_cpu_us", machine * 1e6 / records);
    Ok(leg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_as_long_as_its_messages_say() {
        let messages = batch_messages(3);
        let (mut at, mut kinds) = (0, Vec::new());
        while at < messages.len() {
            kinds.push(messages[at]);
            let length = u32::from_be_bytes(*messages[at + 1..].first_chunk().unwrap());
            at += 1 + usize::try_from(length).unwrap();
        }
        assert_eq!((at, kinds.as_slice()), (messages.len(), &b"BEBEBES"[..]));
    }
}
