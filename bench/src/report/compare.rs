//! Two recorded runs side by side: what has become better, and what worse.
//!
//! Compared is the ratio of walhub to its peer in each run, so that a machine that is slower on one
//! day than on another is not taken for a regression.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use serde_json::Value;

use super::recorded::{Experiment, Recorded};
use super::{PAIRS_MIN, digits};
use crate::method::pairs::Better;
use crate::method::stats::{Estimate, quotient};

/// What makes a machine another one.
const MACHINE: &[&str] = &["host", "cpu", "cpus", "memory_mb", "mount"];
/// What may move the figures on the same machine.
const NOTED: &[&str] = &["kernel", "governor", "queue", "sysctls", "versions"];

/// What two runs say about each other.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// For people.
    pub text: String,
    /// Scenario, case and figure of whatever is worse than before beyond doubt and tolerance.
    pub regressions: Vec<String>,
}

/// Compares each figure of `after` with the same of `before`. A change smaller than `tolerance`
/// (0.05 is 5 %) is no regression.
///
/// # Errors
/// When they come from different machines and that was not `forced`, or have nothing in common.
pub fn compare(
    before: &[Recorded],
    after: &[Recorded],
    tolerance: f64,
    forced: bool,
) -> Result<Comparison> {
    let mut comparison = Comparison { text: String::new(), regressions: Vec::new() };
    let text = &mut comparison.text;
    let mut figures = 0;
    let mut compared: Vec<&Recorded> = Vec::new();
    for run in after {
        let Some(earlier) = earlier_run(before, after, run) else {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}: only in the second run", run.scenario);
            continue;
        };
        compared.push(earlier);
        let differences = differing(earlier, run, MACHINE);
        if !differences.is_empty() && !forced {
            bail!(
                "{}: the runs are from different machines: {}\n\
                 Their ratios may still be compared with --force.",
                run.scenario,
                differences.join("; ")
            );
        }
        for difference in differences.iter().chain(&differing(earlier, run, NOTED)) {
            let _ = writeln!(text, "{}: {difference}", run.scenario);
        }
        if earlier.parameters != run.parameters {
            let (was, is) = (&earlier.parameters, &run.parameters);
            let _ = writeln!(text, "{}: parameters were {was:?}, are {is:?}", run.scenario);
        }
        for experiment in &run.experiments {
            let same = |other: &&Experiment| other.name == experiment.name;
            let Some(earlier) = earlier.experiments.iter().find(same) else {
                let _ = writeln!(text, "{}: only in the second run", experiment.name);
                continue;
            };
            figures += lines(text, earlier, experiment, tolerance, &mut comparison.regressions);
        }
    }
    for run in before {
        if compared.iter().any(|earlier| std::ptr::eq(*earlier, run)) {
            continue;
        }
        let _ = writeln!(text, "{}: only in the first run", run.scenario);
    }
    if figures == 0 {
        bail!("the runs have no figure in common\n{text}");
    }
    let _ = match comparison.regressions.as_slice() {
        [] => writeln!(text, "no regression in {figures} figures"),
        regressions => writeln!(text, "regressions:\n  {}", regressions.join("\n  ")),
    };
    Ok(comparison)
}

/// Of the same scenario, and kept under the same name.
fn is_same(run: &Recorded, other: &Recorded) -> bool {
    run.scenario == other.scenario && run.name == other.name
}

/// What `run` is compared with: the run of its scenario that has its name, else one whose name none
/// of the second has.
fn earlier_run<'a>(
    before: &'a [Recorded],
    after: &[Recorded],
    run: &Recorded,
) -> Option<&'a Recorded> {
    let is_taken = |earlier: &Recorded| after.iter().any(|other| is_same(other, earlier));
    let same = before.iter().find(|earlier| is_same(earlier, run));
    let mut others = before.iter().filter(|earlier| earlier.scenario == run.scenario);
    same.or_else(|| others.find(|earlier| !is_taken(earlier)))
}

fn differing(before: &Recorded, after: &Recorded, names: &[&str]) -> Vec<String> {
    let differing = names.iter().filter_map(|name| {
        let of = |run: &Recorded| run.environment.get(*name).cloned().unwrap_or(Value::Null);
        let (was, is) = (of(before), of(after));
        (was != is).then(|| format!("{name} was {was}, is {is}"))
    });
    differing.collect()
}

/// A line for each figure that both have; returns how many.
fn lines(
    text: &mut String,
    before: &Experiment,
    after: &Experiment,
    tolerance: f64,
    regressions: &mut Vec<String>,
) -> usize {
    let _ = writeln!(
        text,
        "{}\n  {:<32}{:>10}{:>10}{:>10}  95 % interval",
        after.name, "ratio to the peer", "before", "after", "change"
    );
    let mut count = 0;
    for figure in &after.figures {
        let (was, is) = (before.ratio_samples(&figure.key), after.ratio_samples(&figure.key));
        let Some(change) = quotient(&is, &was).filter(|change| change.median.is_finite()) else {
            continue;
        };
        count += 1;
        let is_sure = is.len().min(was.len()) >= PAIRS_MIN;
        let verdict = verdict(change, figure.better.filter(|_| is_sure), tolerance);
        let ratio = |of: &Experiment| of.ratio(&figure.key, 1).map_or(f64::NAN, |it| it.median);
        let _ = writeln!(
            text,
            "  {:<32}{:>10}{:>10}{:>10}  {} to {}{}",
            figure.label,
            digits(ratio(before)),
            digits(ratio(after)),
            digits(change.median),
            digits(change.low),
            digits(change.high),
            match verdict {
                Verdict::Worse => "  worse",
                Verdict::Better => "  better",
                Verdict::Same => "",
            }
        );
        if verdict == Verdict::Worse {
            regressions.push(format!(
                "{}, {}: {} times what it was ({} to {})",
                after.name,
                figure.label,
                digits(change.median),
                digits(change.low),
                digits(change.high)
            ));
        }
    }
    count
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Better,
    Worse,
    Same,
}

/// It has changed when the whole interval lies beyond the tolerance.
fn verdict(change: Estimate, better: Option<Better>, tolerance: f64) -> Verdict {
    let rose = change.low > 1.0 + tolerance;
    let fell = change.high < 1.0 / (1.0 + tolerance);
    match better {
        Some(Better::More) if fell => Verdict::Worse,
        Some(Better::More) if rose => Verdict::Better,
        Some(Better::Less) if rose => Verdict::Worse,
        Some(Better::Less) if fell => Verdict::Better,
        Some(Better::More | Better::Less) | None => Verdict::Same,
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorded::tests::run;
    use super::*;

    #[test]
    fn what_is_worse_beyond_doubt_is_named() {
        let before = [run("x", "more", &[200.0, 202.0, 198.0, 201.0])];
        let worse = [run("x", "more", &[150.0, 152.0, 149.0, 151.0])];
        let found = compare(&before, &worse, 0.05, false).unwrap();
        assert_eq!(found.regressions.len(), 1);
        assert!(found.regressions[0].starts_with("catchup 4 readers, rate, <MB/s>: 0.75"));
        let (one, worse_one) = ([run("x", "more", &[200.0])], [run("x", "more", &[150.0])]);
        assert!(compare(&one, &worse_one, 0.05, false).unwrap().regressions.is_empty());
        let back = compare(&worse, &before, 0.05, false).unwrap();
        assert!(back.regressions.is_empty() && back.text.contains("  better"));
    }

    #[test]
    fn less_may_be_better_and_doubt_is_no_regression() {
        let before = [run("x", "less", &[200.0, 202.0, 198.0, 201.0])];
        let less = [run("x", "less", &[150.0, 152.0, 149.0, 151.0])];
        assert!(compare(&before, &less, 0.05, false).unwrap().regressions.is_empty());
        assert_eq!(compare(&less, &before, 0.05, false).unwrap().regressions.len(), 1);
        assert!(compare(&less, &before, 0.5, false).unwrap().regressions.is_empty());
        let noisy = [run("x", "less", &[120.0, 400.0, 190.0, 210.0])];
        assert!(compare(&before, &noisy, 0.05, false).unwrap().regressions.is_empty());
    }

    #[test]
    fn of_several_runs_of_a_scenario_those_of_one_name_are_compared() {
        let named = |name: &str, cpu: &str, rate: f64| {
            let mut run = run(cpu, "more", &[rate; 4]);
            run.name = name.to_owned();
            run
        };
        let runs = [named("catchup", "x", 100.0), named("catchup-tmpfs", "y", 300.0)];
        let found = compare(&runs, &runs, 0.05, false).unwrap();
        assert!(found.regressions.is_empty() && !found.text.contains("only in"), "{}", found.text);
        assert!(found.text.ends_with("no regression in 2 figures\n"), "{}", found.text);
        // A name that the other does not have is no obstacle when there is one of the scenario left.
        let one = [named("today", "x", 100.0)];
        assert!(compare(&runs[..1], &one, 0.05, false).unwrap().text.contains("in 1 figures"));
        let text = compare(&runs, &runs[..1], 0.05, false).unwrap().text;
        assert!(text.contains("catchup: only in the first run"), "{text}");
        let text = compare(&runs[..1], &runs, 0.05, false).unwrap().text;
        assert!(text.contains("catchup: only in the second run"), "{text}");
    }

    #[test]
    fn runs_of_different_machines_are_compared_only_when_forced() {
        let (one, other) = ([run("x", "more", &[1.0])], [run("y", "more", &[1.0])]);
        let error = compare(&one, &other, 0.05, false).unwrap_err().to_string();
        assert!(error.contains("cpu was \"x\", is \"y\""), "{error}");
        assert!(compare(&one, &other, 0.05, true).unwrap().text.contains("cpu was"));
    }
}
