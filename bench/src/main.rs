//! `walhub-bench`: measures walhub beside its peers, in one run on one disk.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};

use walhub_bench::environment::Environment;
use walhub_bench::method::pairs::Plan;
use walhub_bench::report::Report;
use walhub_bench::scenario::fanout_live::FanoutLive;
use walhub_bench::scenario::ingest::Ingest;
use walhub_bench::scenario::{Context, SCENARIOS, Scenario};

/// Measures walhub beside its peers, in one run on one disk.
#[derive(Parser, Debug)]
#[command(name = "walhub-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Args, Clone, Debug)]
struct Options {
    /// Pairs that count.
    #[arg(long, global = true, default_value_t = 11)]
    pairs: usize,
    /// Pairs thrown away before them.
    #[arg(long, global = true, default_value_t = 1)]
    warmups: usize,
    /// Disturbed pairs that may be run again, in all.
    #[arg(long, global = true, default_value_t = 5)]
    repeats: usize,
    /// Where data directories are made: the disk under it is measured [default: the directory for temporary files].
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write everything that was measured to FILE.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the run in bench/runs/DATE-HOST/.
    #[arg(long, global = true)]
    record: bool,
    /// Run every scenario in a few seconds: to see that it works, not for figures.
    #[arg(long, global = true)]
    smoke: bool,
    /// Count system calls too, in one more run of each side (strace).
    #[arg(long, global = true)]
    syscalls: bool,
    /// Set a setting of walhub.
    #[arg(short = 'c', global = true, value_name = "NAME=VALUE")]
    settings: Vec<String>,
}

#[derive(Subcommand, Clone, Debug)]
enum Command {
    /// WAL taken in, every flush durable, against pg_receivewal --synchronous.
    Ingest(IngestArgs),
    /// A primary's TPS with live standbys behind walhub, against the same attached directly.
    FanoutLive(FanoutArgs),
    /// List the scenarios.
    List,
}

#[derive(Args, Clone, Debug)]
struct IngestArgs {
    /// WAL of a bulk run; 0 leaves the case out.
    #[arg(long, default_value = "512MB", value_parser = parse_size)]
    size: usize,
    /// WAL of a run of commits; 0 leaves the case out.
    #[arg(long, default_value = "64MB", value_parser = parse_size)]
    commits_size: usize,
    /// WAL that waits for its flush at most in a run of commits.
    #[arg(long, default_value = "64kB", value_parser = parse_size)]
    window: usize,
}

#[derive(Args, Clone, Debug)]
struct FanoutArgs {
    /// Numbers of standbys.
    #[arg(long, value_delimiter = ',', default_value = "64")]
    standbys: Vec<usize>,
    /// Seconds of pgbench in each run.
    #[arg(long, default_value_t = 6)]
    duration: u32,
    /// pgbench's scale.
    #[arg(long, default_value_t = 10)]
    scale: u32,
    /// pgbench's clients.
    #[arg(long, default_value_t = 8)]
    clients: u32,
}

fn main() -> Result<()> {
    let Cli { command, options } = Cli::parse();
    let scenarios: Vec<Box<dyn Scenario>> = match command {
        _ if options.smoke => smoke(),
        Some(Command::Ingest(args)) => vec![Box::new(Ingest {
            bulk_bytes: args.size,
            commits_bytes: args.commits_size,
            window: u64::try_from(args.window)?,
        })],
        Some(Command::FanoutLive(args)) => vec![Box::new(FanoutLive {
            standbys: args.standbys,
            duration_s: args.duration,
            scale: args.scale,
            clients: args.clients,
        })],
        Some(Command::List) | None => {
            for (name, about) in SCENARIOS {
                println!("{name:<14}{about}");
            }
            return Ok(());
        }
    };
    let walhub = walhub_bench::peer::walhub::binary()?;
    let dir = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let (pairs, warmups, repeats_max) = match options.smoke {
        true => (1, 0, 0),
        false => (options.pairs, options.warmups, options.repeats),
    };
    let plan = Plan { pairs, warmups, repeats_max, syscalls: options.syscalls };
    let context = Context { dir, walhub, plan, walhub_settings: options.settings.clone() };
    let mut reports = Vec::new();
    for scenario in scenarios {
        let environment = Environment::look(&context.dir, &context.walhub);
        let experiments = scenario.run(&context)?;
        let report = Report {
            scenario: scenario.name(),
            parameters: scenario.parameters(),
            plan,
            environment,
            experiments,
        };
        println!("{}", report.table());
        if options.record {
            record(&report)?;
        }
        reports.push(report);
    }
    if let Some(path) = &options.json {
        write(path, &serde_json::to_string_pretty(&reports)?)?;
    }
    Ok(())
}

/// Every scenario, as small as it can be.
fn smoke() -> Vec<Box<dyn Scenario>> {
    vec![
        Box::new(Ingest { bulk_bytes: 20 << 20, commits_bytes: 1 << 20, window: 64 << 10 }),
        Box::new(FanoutLive { standbys: vec![4], duration_s: 1, scale: 1, clients: 2 }),
    ]
}

/// Keeps a report with the sources: the table to read, the JSON to compare with.
fn record(report: &Report) -> Result<()> {
    let Environment { date, host, .. } = &report.environment;
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs").join(format!("{date}-{host}"));
    fs::create_dir_all(&dir)?;
    let name = report.scenario;
    write(&dir.join(format!("{name}.txt")), &report.table())?;
    write(&dir.join(format!("{name}.json")), &(serde_json::to_string_pretty(report)? + "\n"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}

/// A number of bytes with PostgreSQL's units: kB, MB, GB.
fn parse_size(text: &str) -> Result<usize, String> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("64kB"), Ok(65536));
        assert_eq!(parse_size("0"), Ok(0));
        assert!(parse_size("1kb").is_err() && parse_size("MB").is_err());
    }
}
