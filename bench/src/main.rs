//! `walhub-bench`: measures walhub beside its peers, in one run on one disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};

use walhub_bench::environment::Environment;
use walhub_bench::method::pairs::Plan;
use walhub_bench::report::compare::compare;
use walhub_bench::report::{Report, html, recorded};
use walhub_bench::scenario::acks::Acks;
use walhub_bench::scenario::catchup::Catchup;
use walhub_bench::scenario::commit::Commit;
use walhub_bench::scenario::connections::Connections;
use walhub_bench::scenario::disk::Disk;
use walhub_bench::scenario::fanout_live::FanoutLive;
use walhub_bench::scenario::ingest::Ingest;
use walhub_bench::scenario::isolation::Isolation;
use walhub_bench::scenario::recovery::Recovery;
use walhub_bench::scenario::send_path::SendPath;
use walhub_bench::scenario::sync::Sync;
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
    /// Run the scenario, or every one when none is named, in a few seconds: to see that it works, not for figures.
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
    Disk(Disk),
    Ingest(Ingest),
    FanoutLive(FanoutLive),
    Catchup(Catchup),
    Isolation(Isolation),
    Sync(Sync),
    Commit(Commit),
    Acks(Acks),
    Connections(Connections),
    SendPath(SendPath),
    Recovery(Recovery),
    /// List the scenarios.
    List,
    /// Compare two recorded runs; the exit code is 1 when something has become worse.
    Compare(CompareArgs),
    /// Draw recorded runs: one HTML file.
    Report(ReportArgs),
}

#[derive(Args, Clone, Debug)]
struct CompareArgs {
    /// The earlier run: a JSON file, or a directory of them.
    before: PathBuf,
    /// The later run.
    after: PathBuf,
    /// A change smaller than this is no regression.
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    tolerance: f64,
    /// Compare runs of different machines, too.
    #[arg(long)]
    force: bool,
}

#[derive(Args, Clone, Debug)]
struct ReportArgs {
    /// JSON files, and directories of them.
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Where the page is written.
    #[arg(short, long, default_value = "report.html", value_name = "FILE")]
    output: PathBuf,
}

impl Command {
    /// The scenario that is meant; `None` for what measures nothing.
    fn scenario(self) -> Option<Box<dyn Scenario>> {
        Some(match self {
            Self::Disk(scenario) => Box::new(scenario),
            Self::Ingest(scenario) => Box::new(scenario),
            Self::FanoutLive(scenario) => Box::new(scenario),
            Self::Catchup(scenario) => Box::new(scenario),
            Self::Isolation(scenario) => Box::new(scenario),
            Self::Sync(scenario) => Box::new(scenario),
            Self::Commit(scenario) => Box::new(scenario),
            Self::Acks(scenario) => Box::new(scenario),
            Self::Connections(scenario) => Box::new(scenario),
            Self::SendPath(scenario) => Box::new(scenario),
            Self::Recovery(scenario) => Box::new(scenario),
            Self::List | Self::Compare(_) | Self::Report(_) => return None,
        })
    }
}

fn main() -> Result<ExitCode> {
    let Cli { command, options } = Cli::parse();
    match &command {
        Some(Command::Compare(args)) => return compare_runs(args),
        Some(Command::Report(args)) => {
            write(&args.output, &html::page(&recorded::read(&args.runs)?))?;
            println!("{}", args.output.display());
        }
        Some(Command::List) => list(),
        None if !options.smoke => list(),
        _ => measure(command, &options)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list() {
    for (name, about) in SCENARIOS {
        println!("{name:<14}{about}");
    }
}

fn compare_runs(args: &CompareArgs) -> Result<ExitCode> {
    let read = |path: &PathBuf| recorded::read(std::slice::from_ref(path));
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    let comparison = compare(&before, &after, args.tolerance, args.force)?;
    print!("{}", comparison.text);
    Ok(if comparison.regressions.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the scenario that is named, or all of them as small as they can be.
fn measure(command: Option<Command>, options: &Options) -> Result<()> {
    let named = command.and_then(Command::scenario);
    let scenarios: Vec<Box<dyn Scenario>> = match (named, options.smoke) {
        (None, true) => smoke(),
        (Some(named), true) => {
            smoke().into_iter().filter(|scenario| scenario.name() == named.name()).collect()
        }
        (Some(named), false) => vec![named],
        (None, false) => Vec::new(),
    };
    let walhub = walhub_peers::hub::binary()?;
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
        Box::new(Disk::smoke()),
        Box::new(Ingest::smoke()),
        Box::new(FanoutLive::smoke()),
        Box::new(Catchup::smoke()),
        Box::new(Isolation::smoke()),
        Box::new(Sync::smoke()),
        Box::new(Commit::smoke()),
        Box::new(Acks::smoke()),
        Box::new(Connections::smoke()),
        Box::new(SendPath::smoke()),
        Box::new(Recovery::smoke()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
