//! pgbench: the load, and what it says about it.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;

use super::postgres::Postgres;
use super::program::{PGBENCH, command};

/// The longest transaction that is told from others.
const LATENCY_US_MAX: u64 = 600_000_000;

/// What one run of pgbench saw.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Transactions a second, connecting not counted.
    pub tps: f64,
    /// Transactions.
    pub transactions: f64,
    /// Microseconds of each, from its intended start when the rate was fixed; empty without a log.
    pub latency_us: Histogram<u64>,
}

/// Runs pgbench over the unix socket of `server`; returns what it printed.
///
/// # Errors
/// When it is missing or fails.
pub fn run(server: &Postgres, arguments: &[&str]) -> Result<Outcome> {
    on(server.sockets().as_os_str(), server.port(), arguments)
}

/// Makes pgbench's tables.
///
/// # Errors
/// When it is missing or fails.
pub fn init(server: &Postgres, scale: u32) -> Result<()> {
    let arguments = ["-i", "-q", "-s", &scale.to_string()];
    print(server.sockets().as_os_str(), server.port(), &arguments).map(drop)
}

/// Runs pgbench against the server at `host` and `port`.
///
/// # Errors
/// When it is missing or fails.
pub fn on(host: &OsStr, port: u16, arguments: &[&str]) -> Result<Outcome> {
    let printed = print(host, port, arguments)?;
    Outcome::parse(&printed).with_context(|| format!("pgbench printed:\n{printed}"))
}

/// The same, with the latency of each transaction, which is written into `scratch`.
///
/// # Errors
/// When it is missing or fails.
pub fn with_latencies(
    host: &OsStr,
    port: u16,
    arguments: &[&str],
    scratch: &Path,
) -> Result<Outcome> {
    let logs = tempfile::tempdir_in(scratch)?;
    let prefix = format!("--log-prefix={}", logs.path().join("log").display());
    let mut all = vec!["--log", prefix.as_str()];
    all.extend_from_slice(arguments);
    let mut outcome = on(host, port, &all)?;
    for entry in fs::read_dir(logs.path())? {
        record(&mut outcome.latency_us, &fs::read_to_string(entry?.path())?);
    }
    Ok(outcome)
}

fn print(host: &OsStr, port: u16, arguments: &[&str]) -> Result<String> {
    let mut command = command(PGBENCH.find()?);
    command.args(["-U", "postgres", "-p", &port.to_string(), "-h"]).arg(host);
    PGBENCH.run(command.args(arguments).arg("postgres"))
}

/// Lines of `client transaction time script epoch micros [lag]`; time is "failed" or "skipped" for
/// what did not run.
fn record(latency_us: &mut Histogram<u64>, log: &str) {
    let times = log.lines().filter_map(|line| line.split(' ').nth(2)?.parse().ok());
    times.for_each(|micros: u64| latency_us.saturating_record(micros));
}

/// Microseconds, three digits of them.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).unwrap_or_else(|error| panic!("{error}"))
}

impl Outcome {
    fn parse(printed: &str) -> Option<Self> {
        let after = |what: &str| {
            let line = printed.lines().find_map(|line| line.strip_prefix(what))?;
            line.split([' ', '/']).find(|word| !word.is_empty())?.parse::<f64>().ok()
        };
        let transactions = after("number of transactions actually processed:")?;
        Some(Self {
            // It leaves the line out when there were none.
            tps: if transactions > 0.0 { after("tps =")? } else { 0.0 },
            transactions,
            latency_us: histogram(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_read() {
        let printed = "scaling factor: 10\nnumber of transactions actually processed: 8123\n\
                       latency average = 1 ms\ntps = 4061.371983 (without initial connection time)\n";
        let outcome = Outcome::parse(printed).unwrap();
        assert_eq!((outcome.tps, outcome.transactions), (4061.371983, 8123.0));
        assert!(Outcome::parse("pgbench: error").is_none());
        let none = "number of transactions actually processed: 0\n";
        assert_eq!(Outcome::parse(none).unwrap().tps, 0.0);
    }

    #[test]
    fn a_log_holds_one_time_for_each_transaction() {
        let mut latency_us = histogram();
        record(&mut latency_us, "0 1 100 0 17 5 3\n0 2 skipped 0 17 6 0\n1 1 300 0 17 9 0\n");
        assert_eq!((latency_us.len(), latency_us.max()), (2, 300));
    }
}
