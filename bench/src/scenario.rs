//! What is measured. Each scenario compares walhub with a peer, by turns in one run.

pub mod acks;
pub mod catchup;
pub mod commit;
pub mod connections;
pub mod disk;
pub mod fanout_live;
pub mod ingest;
pub mod isolation;
mod live;
pub mod recovery;
pub mod send_path;
pub mod sync;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::method::machine::Snapshot;
use crate::method::pairs::{Experiment, Leg, Plan};
use crate::method::syscalls::Trace;

/// What every scenario gets.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where data directories are made; the disk under it is what is measured.
    pub dir: PathBuf,
    /// The program that is measured.
    pub walhub: PathBuf,
    /// How many rounds.
    pub plan: Plan,
    /// Settings for walhub, as `name=value`.
    pub walhub_settings: Vec<String>,
}

impl Context {
    /// A directory for one run, gone with it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self) -> Result<tempfile::TempDir> {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::Builder::new().prefix("walhub-bench-").tempdir_in(&self.dir)?;
        // PostgreSQL may run as another user and must come through.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        Ok(dir)
    }
}

/// Something that can be measured.
pub trait Scenario {
    /// Its name on the command line.
    fn name(&self) -> &'static str;
    /// Its parameters, for the record.
    fn parameters(&self) -> BTreeMap<&'static str, String>;
    /// Measures.
    ///
    /// # Errors
    /// When a program is missing or fails.
    fn run(&self, context: &Context) -> Result<Vec<Experiment>>;
}

/// Name and purpose of every scenario.
pub const SCENARIOS: &[(&str, &str)] = &[
    (disk::NAME, "durability primitives by segment state, against fio's figures for the same"),
    (ingest::NAME, "WAL taken in, every flush durable, against pg_receivewal and a standby"),
    (
        fanout_live::NAME,
        "a primary's TPS with live standbys behind walhub, against the same attached directly",
    ),
    (catchup::NAME, "old WAL sent to readers, against walsenders, with iperf3 as limit"),
    (
        isolation::NAME,
        "lag of healthy standbys beside a stalled one and beside a cold reader, against without",
    ),
    (sync::NAME, "commits that wait for walhub, a PostgreSQL standby or pg_receivewal"),
    (commit::NAME, "durable appends to WAL of walhub's own, against PostgreSQL and the device"),
    (acks::NAME, "one reply of 1 to 1000 standbys, against a scan of all walsenders"),
    (connections::NAME, "memory and CPU of idle standbys, against walsenders"),
    (send_path::NAME, "ways to send over loopback, by size, with iperf3 as limit"),
    (recovery::NAME, "start-up after a kill, against PostgreSQL's crash recovery"),
];

/// Watches the machine during one leg.
#[derive(Debug)]
struct Watch {
    before: Snapshot,
    trace: Option<Trace>,
}

impl Watch {
    /// Begins; counts the system calls of the process `traced`, when there is one.
    fn start(traced: Option<u32>, scratch: &Path) -> Result<Self> {
        let trace = traced.map(|pid| Trace::start(pid, scratch)).transpose()?;
        Ok(Self { before: Snapshot::take()?, trace })
    }

    /// Ends the leg; `trees` are processes whose CPU seconds are values of the leg.
    fn stop(self, trees: &[(&str, u32)]) -> Result<Leg> {
        let after = Snapshot::take()?;
        let used = self.before.until(&after);
        let mut values = BTreeMap::from([("machine_cpu_s".to_owned(), used.machine_s)]);
        for &(name, pid) in trees {
            values.insert(name.to_owned(), self.before.tree_until(&after, pid));
        }
        let calls = self.trace.map(Trace::finish).transpose()?.unwrap_or_default();
        let syscalls = calls.into_iter().map(|(name, count)| (name, count as f64)).collect();
        Ok(Leg { values, steal: used.steal, foreign: used.foreign, syscalls })
    }
}

/// Puts a value of one leg in the table.
fn put(leg: &mut Leg, key: &str, value: f64) {
    leg.values.insert(key.to_owned(), value);
}

/// A value of one leg; not a number when it was not measured.
fn value(leg: &Leg, key: &str) -> f64 {
    leg.values.get(key).copied().unwrap_or(f64::NAN)
}

/// The 50th and 99th percentile of a histogram of microseconds.
fn put_latencies(leg: &mut Leg, latency_us: &Histogram<u64>) {
    if latency_us.is_empty() {
        return;
    }
    for (key, quantile) in [
        ("latency_p50_us", 0.5),
        ("latency_p90_us", 0.9),
        ("latency_p99_us", 0.99),
        ("latency_p999_us", 0.999),
    ] {
        put(leg, key, latency_us.value_at_quantile(quantile) as f64);
    }
}

/// Waits for something that has no event: the answer of another program.
fn wait_until(
    timeout: Duration,
    what: &str,
    mut is_so: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let began = Instant::now();
    while !is_so()? {
        if began.elapsed() > timeout {
            bail!("not within {} s: {what}", timeout.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Numbers with commas, as on the command line.
fn join(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// A number of bytes with PostgreSQL's units: kB, MB, GB.
///
/// # Errors
/// Says what is wrong with it.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..).unwrap_or_default() {
        "" | "B" => 0,
        "kB" => 10,
        "MB" => 20,
        "GB" => 30,
        unit => return Err(format!("invalid unit \"{unit}\": one of B, kB, MB, GB")),
    };
    let number: usize = digits.trim().parse().map_err(|_| format!("invalid size \"{text}\""))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("\"{text}\" is too large"))
}

/// Turns counts of system calls into calls for each unit of work.
fn per_unit(leg: &mut Leg, units: f64) {
    for calls in leg.syscalls.values_mut() {
        *calls /= units.max(1.0);
    }
}

/// The file system that holds `dir`: type, device and options, from /proc/self/mountinfo.
#[must_use]
pub fn mount_of(dir: &Path) -> Option<Mount> {
    let dir = dir.canonicalize().ok()?;
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts = table.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let mut right = right.split(' ');
        let mount = Mount {
            file_system: right.next()?.to_owned(),
            device: right.next()?.to_owned(),
            options: (*left.get(5)?).to_owned(),
        };
        Some((PathBuf::from(left.get(4)?), mount))
    });
    let holding = mounts.filter(|(point, _)| dir.starts_with(point));
    holding.max_by_key(|(point, _)| point.components().count()).map(|(_, mount)| mount)
}

/// Where data directories lie.
#[derive(Clone, Debug, Serialize)]
pub struct Mount {
    /// Its type.
    pub file_system: String,
    /// What is mounted.
    pub device: String,
    /// How.
    pub options: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("64kB"), Ok(65536));
        assert_eq!(parse_size("0"), Ok(0));
        assert!(parse_size("1kb").is_err() && parse_size("MB").is_err());
    }
}
