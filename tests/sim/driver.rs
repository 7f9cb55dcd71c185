//! Runs scenarios and seeds in worker processes and reports the first failure in one line.
//!
//! Processes, because a hub that cannot go on ends its process: the run it was in must still be
//! named. The seed of every run is known before it begins.

use std::cell::RefCell;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::panic::{self, AssertUnwindSafe};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::plan::Plan;
use crate::scenarios::{Expect, SCENARIOS, Scenario};
use crate::sim::{Sim, Stats};

/// First seed, unless `WALHUB_SIM_BASE` says otherwise.
const BASE: u64 = 0x5EED_0000;
/// Seeds, unless `WALHUB_SIM_SEEDS` says otherwise.
const SEEDS: u64 = 1000;
/// A run that takes longer hangs.
const RUN_MAX: Duration = Duration::from_secs(120);

/// One run to make.
#[derive(Clone, Copy, Debug)]
enum Run {
    Scenario(&'static Scenario),
    Seed(u64),
}

impl Run {
    fn replay(self) -> String {
        let what = match self {
            Self::Scenario(scenario) => format!("WALHUB_SIM_SCENARIO={}", scenario.name),
            Self::Seed(seed) => format!("WALHUB_SIM_SEED={seed:#x}"),
        };
        format!("replay: {what} cargo test -p walhub-tests --test sim")
    }
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

pub(crate) fn main() -> ExitCode {
    // What a test runner asks before it runs anything: all runs are one test to it.
    if env::args().any(|arg| arg == "--list") {
        if !env::args().any(|arg| arg == "--ignored") {
            println!("simulation: test");
        }
        return ExitCode::SUCCESS;
    }
    if let Ok(log) = env::var("WALHUB_SIM_LOG") {
        let level: tracing_subscriber::filter::LevelFilter =
            log.parse().expect("WALHUB_SIM_LOG is a level");
        tracing_subscriber::fmt()
            .with_max_level(level)
            .without_time()
            .with_writer(std::io::stderr)
            .init();
    }
    crate::hub::catch_fatal();
    if let Ok(seed) = env::var("WALHUB_SIM_SEED") {
        return alone(Run::Seed(number(&seed)));
    }
    if let Ok(name) = env::var("WALHUB_SIM_SCENARIO") {
        let scenario = SCENARIOS
            .iter()
            .find(|scenario| scenario.name == name)
            .expect("WALHUB_SIM_SCENARIO is the name of one");
        return alone(Run::Scenario(scenario));
    }
    match env::var("WALHUB_SIM_WORKER") {
        Ok(share) => work(&share),
        Err(_) => lead(),
    }
}

fn number(text: &str) -> u64 {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.expect("a number, decimal or hexadecimal with 0x")
}

/// One run, in this process.
fn alone(run: Run) -> ExitCode {
    match make(run) {
        Ok(stats) => {
            println!("{stats:?}");
            summary(1, 0);
            ExitCode::SUCCESS
        }
        Err(reason) => {
            println!("{reason}");
            println!("{}", run.replay());
            summary(0, 1);
            ExitCode::FAILURE
        }
    }
}

fn make(run: Run) -> Result<Stats, String> {
    match run {
        Run::Seed(seed) => simulate(Plan::of_seed(seed)),
        Run::Scenario(scenario) => match (scenario.expect, simulate(scenario_plan(scenario))) {
            (Expect::Well(holds), Ok(stats)) if holds(&stats) => Ok(stats),
            (Expect::Well(_), Ok(stats)) => {
                Err(format!("what the scenario is about did not happen: {stats:?}"))
            }
            (Expect::Well(_), Err(reason)) => Err(reason),
            (Expect::Caught(words), Err(reason))
                if words.iter().any(|words| reason.contains(words)) =>
            {
                Ok(Stats::default())
            }
            (Expect::Caught(words), other) => {
                Err(format!("expected one of {words:?}, but: {other:?}"))
            }
        },
    }
}

/// A scenario's plan, with another seed if `WALHUB_SIM_SEED_OF_SCENARIO` says so: to look for one that shows a
/// fault.
fn scenario_plan(scenario: &Scenario) -> Plan {
    let mut plan = (scenario.plan)();
    if let Ok(seed) = env::var("WALHUB_SIM_SEED_OF_SCENARIO") {
        plan.seed = number(&seed);
    }
    plan
}

/// A run; a panic anywhere in it is a failure like any other.
fn simulate(plan: Plan) -> Result<Stats, String> {
    panic::catch_unwind(AssertUnwindSafe(|| Sim::new(plan).run())).unwrap_or_else(|_| {
        let message = PANIC.with(RefCell::take);
        Err(format!("panic: {}", message.unwrap_or_default()))
    })
}

/// What all runs are, in order.
fn runs(base: u64) -> Vec<Run> {
    let seeds = env::var("WALHUB_SIM_SEEDS").map_or(SEEDS, |seeds| number(&seeds));
    let scenarios = SCENARIOS.iter().map(Run::Scenario);
    scenarios.chain((0..seeds).map(|seed| Run::Seed(base.wrapping_add(seed)))).collect()
}

/// The first seed. Workers are told a number.
fn base() -> u64 {
    match env::var("WALHUB_SIM_BASE").as_deref() {
        Ok("random") => {
            let micros =
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
            u64::try_from(micros & 0xFFFF_FFFF_FFFF).expect("48 bits") << 12
        }
        Ok(base) => number(base),
        Err(_) => BASE,
    }
}

/// Whether the other runs are made after one that failed.
fn goes_on() -> bool {
    env::var_os("WALHUB_SIM_GO_ON").is_some()
}

/// Makes every n-th run and says so line by line.
fn work(share: &str) -> ExitCode {
    let (first, step) = share.split_once('/').expect("a share is i/n");
    let (first, step): (usize, usize) =
        (first.parse().expect("a number"), step.parse().expect("a number"));
    panic::set_hook(Box::new(|info| {
        PANIC.with(|panic| *panic.borrow_mut() = Some(info.to_string().replace('\n', " ")));
    }));
    let mut out = std::io::stdout();
    for (index, run) in runs(base()).into_iter().enumerate().skip(first).step_by(step) {
        writeln!(out, "begin {index}").expect("somebody listens");
        match make(run) {
            Ok(stats) => writeln!(out, "ok {}", encode(&stats)).expect("somebody listens"),
            Err(reason) => {
                writeln!(out, "fail {}", reason.replace('\n', " ")).expect("somebody listens");
                if !goes_on() {
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    ExitCode::SUCCESS
}

fn encode(stats: &Stats) -> String {
    let numbers = stats.numbers().map(|number| number.to_string());
    numbers.join(" ")
}

struct Worker {
    child: Child,
    run: Option<usize>,
    since: Instant,
    done: bool,
}

/// Shares the runs out and listens.
fn lead() -> ExitCode {
    let base = base();
    let count = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 16);
    let (tell, told) = mpsc::channel();
    let mut workers: Vec<Worker> =
        (0..count).map(|index| start_worker(index, count, base, tell.clone())).collect();
    drop(tell);
    // The workers make the same list from the same environment.
    let runs = runs(base);
    let began = Instant::now();
    let (mut total, mut passed, mut failed) = (Stats::default(), 0_usize, 0_usize);
    let result = loop {
        match told.recv_timeout(Duration::from_secs(1)) {
            Ok((index, Some(line))) => {
                let worker = &mut workers[index];
                let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
                match word {
                    "begin" => {
                        worker.run = rest.parse().ok();
                        worker.since = Instant::now();
                    }
                    "ok" => {
                        worker.run = None;
                        passed += 1;
                        total.add(&Stats::of_numbers(rest));
                        if passed.is_multiple_of(100) {
                            println!(
                                "{passed} of {} runs, {:.0} s",
                                runs.len(),
                                began.elapsed().as_secs_f64()
                            );
                        }
                    }
                    "fail" if goes_on() => {
                        failed += 1;
                        tell_failure(rest, worker.run.take().and_then(|run| runs.get(run)));
                    }
                    "fail" => break Err((worker.run, rest.to_owned())),
                    _ => println!("{line}"),
                }
            }
            Ok((index, None)) => {
                let worker = &mut workers[index];
                worker.done = true;
                let status = worker.child.wait();
                if worker.run.is_some() {
                    break Err((worker.run, format!("the process ended: {status:?}")));
                }
                if workers.iter().all(|worker| worker.done) {
                    break Ok(());
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let hanging = workers.iter().find(|worker| {
                    !worker.done && worker.run.is_some() && worker.since.elapsed() > RUN_MAX
                });
                if let Some(worker) = hanging {
                    break Err((worker.run, format!("no end after {RUN_MAX:?}")));
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break Ok(()),
        }
    };
    for worker in &mut workers {
        if !worker.done {
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
    }
    match result {
        Ok(()) => {
            println!("{}", total.describe());
            println!(
                "{} runs in {:.0} s, seeds from {base:#x}",
                runs.len(),
                began.elapsed().as_secs_f64()
            );
        }
        Err((run, reason)) => {
            failed += 1;
            tell_failure(&reason, run.and_then(|run| runs.get(run)));
        }
    }
    summary(passed, failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell_failure(reason: &str, run: Option<&Run>) {
    println!("{reason}");
    if let Some(run) = run {
        println!("{}", run.replay());
    }
}

fn start_worker(
    index: usize,
    count: usize,
    base: u64,
    tell: mpsc::Sender<(usize, Option<String>)>,
) -> Worker {
    let mut child = Command::new(env::current_exe().expect("this program has a name"))
        .env("WALHUB_SIM_WORKER", format!("{index}/{count}"))
        .env("WALHUB_SIM_BASE", base.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a worker starts");
    let output = child.stdout.take().expect("a pipe");
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if tell.send((index, Some(line))).is_err() {
                return;
            }
        }
        // Nobody listens any more when the first failure was enough.
        let _ = tell.send((index, None));
    });
    Worker { child, run: None, since: Instant::now(), done: false }
}

fn summary(passed: usize, failed: usize) {
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out"
    );
}
