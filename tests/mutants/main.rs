//! Wrong versions of the durability core, each of which some test must notice.
//!
//! `tests/run --mutants` copies the tree, builds into it every mutation of [`table`] behind a switch, and runs the
//! simulator and the unit tests of the module once for each with that one switched on. See README.md.

mod table;
mod tree;

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use table::{MUTATIONS, Mutation};
use tree::{Programs, Tree};

/// Seeds of one run of the simulator, unless `WALHUB_SIM_SEEDS` says otherwise.
const SEEDS: &str = "150";
/// Which mutation is on; none is without it.
pub(crate) const SWITCH: &str = "WALHUB_MUTANT";
/// A program that takes longer hangs, which is noticing too.
const PROGRAM_MAX: Duration = Duration::from_secs(900);

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    match run(&wanted) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mutants: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What became of a mutation.
struct Verdict {
    mutation: &'static Mutation,
    /// By what it was noticed, if by anything.
    noticed: Option<String>,
    took: Duration,
}

/// Whether each mutation was noticed. `wanted` names some of them; nothing means all.
fn run(wanted: &[String]) -> Result<bool> {
    let chosen: Vec<(usize, &Mutation)> = MUTATIONS
        .iter()
        .enumerate()
        .filter(|(_, mutation)| {
            wanted.is_empty() || wanted.iter().any(|name| mutation.name.contains(name.as_str()))
        })
        .collect();
    if chosen.is_empty() {
        bail!("no mutation has a name like {wanted:?}");
    }
    let began = Instant::now();
    // All of them, so that another choice needs no other build.
    let tree = Tree::copy(MUTATIONS)?;
    println!("building {} mutations in {}", MUTATIONS.len(), tree.root().display());
    let programs = tree.build()?;
    println!("built in {:.0} s", began.elapsed().as_secs_f64());
    // What fails without any mutation shows nothing about one.
    for program in [simulator(&programs, None, None), units(&programs, None, "walhub-hub", "")] {
        if let Some(failure) = failure(program)? {
            bail!("without a mutation, a test fails: {failure}");
        }
    }
    let mut verdicts = Vec::new();
    for (number, mutation) in chosen {
        let began = Instant::now();
        let noticed = notice(&programs, number, mutation)?;
        let verdict = Verdict { mutation, noticed, took: began.elapsed() };
        println!("{}", line(&verdict));
        verdicts.push(verdict);
    }
    Ok(report(&verdicts, began.elapsed()))
}

/// The first test that fails: what the table says shows the mutation, then everything else.
fn notice(programs: &Programs, number: usize, mutation: &Mutation) -> Result<Option<String>> {
    let number = Some(number);
    for &scenario in mutation.scenarios {
        if let Some(failure) = failure(simulator(programs, number, Some(scenario)))? {
            return Ok(Some(format!("{scenario}: {failure}")));
        }
    }
    if let Some((package, filter)) = mutation.units
        && let Some(failure) = failure(units(programs, number, package, filter))?
    {
        return Ok(Some(failure));
    }
    failure(simulator(programs, number, None))
}

/// The simulator: one scenario, or all of them and seeds.
fn simulator(programs: &Programs, number: Option<usize>, scenario: Option<&str>) -> Command {
    let mut command = Command::new(&programs.simulator);
    if let Some(scenario) = scenario {
        command.env("WALHUB_SIM_SCENARIO", scenario);
    } else if std::env::var_os("WALHUB_SIM_SEEDS").is_none() {
        command.env("WALHUB_SIM_SEEDS", SEEDS);
    }
    switched(command, number)
}

/// The unit tests of a package whose names contain `filter`.
fn units(programs: &Programs, number: Option<usize>, package: &str, filter: &str) -> Command {
    let mut command = Command::new(programs.units(package));
    command.args(["--test-threads=2", filter]);
    // What fails because of a mutation is no example to be kept beside the sources.
    command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
    switched(command, number)
}

fn switched(mut command: Command, number: Option<usize>) -> Command {
    if let Some(number) = number {
        command.env(SWITCH, number.to_string());
    }
    command
}

/// Why a program failed, in a line; `None` when it did not.
fn failure(mut command: Command) -> Result<Option<String>> {
    let output = tempfile::NamedTempFile::new()?;
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output.reopen()?)
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("could not run {command:?}"))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if began.elapsed() > PROGRAM_MAX {
            child.kill()?;
            child.wait()?;
            return Ok(Some(format!("no end after {} s", PROGRAM_MAX.as_secs())));
        }
        // Nobody tells when it ends, and nothing depends on how soon that is seen.
        std::thread::park_timeout(Duration::from_millis(20));
    };
    if status.success() {
        return Ok(None);
    }
    let output = std::fs::read_to_string(output.path())?;
    Ok(Some(reason(&output).unwrap_or_else(|| format!("{status}"))))
}

/// The line of a failed program's output that says what was noticed.
fn reason(output: &str) -> Option<String> {
    let failed = |line: &&str| line.starts_with("test ") && line.ends_with("... FAILED");
    let unit = output
        .lines()
        .find(failed)
        .map(|line| line.trim_start_matches("test ").trim_end_matches(" ... FAILED").to_owned());
    let replay = || {
        let lines: Vec<&str> = output.lines().collect();
        let at = lines.iter().position(|line| line.starts_with("replay: "))?;
        let why = lines.get(at.checked_sub(1)?)?;
        let run = lines.get(at)?.split(' ').nth(1)?;
        let run = run.trim_start_matches("WALHUB_SIM_SCENARIO=").trim_start_matches("WALHUB_SIM_");
        Some(format!("{run}: {why}"))
    };
    unit.or_else(replay)
}

fn line(verdict: &Verdict) -> String {
    let noticed = match &verdict.noticed {
        Some(by) => by.chars().take(140).collect(),
        None => "SURVIVED".to_owned(),
    };
    let (name, seconds) = (verdict.mutation.name, verdict.took.as_secs_f64());
    format!("{name:<60} {seconds:>5.0} s  {noticed}")
}

/// Prints what became of all; whether each was noticed.
fn report(verdicts: &[Verdict], took: Duration) -> bool {
    let survivors: Vec<&Verdict> =
        verdicts.iter().filter(|verdict| verdict.noticed.is_none()).collect();
    println!(
        "\n{} mutations, {} noticed, {} survived, {:.0} s",
        verdicts.len(),
        verdicts.len() - survivors.len(),
        survivors.len(),
        took.as_secs_f64()
    );
    for survivor in &survivors {
        println!("survived: {}: {}", survivor.mutation.name, survivor.mutation.why);
    }
    survivors.is_empty()
}
