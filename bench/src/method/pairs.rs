//! Runs the sides of an experiment by turns and keeps what each run measured.
//!
//! Sides change places from round to round (A B, B A, A B, ...), so that a drift of the machine
//! falls on each alike. The first rounds are thrown away; a round that something else disturbed
//! is run again, a bounded number of times.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::progress::Progress;
use super::stats::{Estimate, estimate, median};

/// Above this share of stolen CPU time a round is run again.
const STEAL_MAX: f64 = 0.02;
/// Above this share of CPU time used by programs that are not ours a round is run again.
const FOREIGN_MAX: f64 = 0.05;

/// How many rounds there are.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Plan {
    /// Rounds that count.
    pub pairs: usize,
    /// Rounds thrown away before them.
    pub warmups: usize,
    /// Disturbed rounds that may be run again, in all.
    pub repeats_max: usize,
    /// Whether system calls are counted, in one more run of each side.
    pub syscalls: bool,
}

/// A run to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Index of the side.
    pub side: usize,
    /// Whether system calls are counted, which makes everything else worthless.
    pub syscalls: bool,
}

/// One run of one side.
#[derive(Clone, Debug, Serialize)]
pub struct Leg {
    /// What was measured, by figure.
    pub values: BTreeMap<String, f64>,
    /// Share of CPU time stolen by the hypervisor.
    pub steal: f64,
    /// Share of CPU time used by programs that this run did not start.
    pub foreign: f64,
    /// System calls by name for each unit of work; empty when they were not counted.
    pub syscalls: BTreeMap<String, f64>,
}

impl Leg {
    fn is_disturbed(&self) -> bool {
        self.steal > STEAL_MAX || self.foreign > FOREIGN_MAX
    }
}

/// A figure of an experiment and how to read it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figure {
    /// Its key in [`Leg::values`].
    pub key: &'static str,
    /// Its name in the table, unit included.
    pub label: &'static str,
}

/// One round: a run of each side.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// By side, in the order of the experiment's sides.
    pub legs: Vec<Leg>,
    /// Whether it counts although something disturbed it: no repeat was left.
    pub disturbed: bool,
}

/// Everything measured about one question.
#[derive(Clone, Debug, Serialize)]
pub struct Experiment {
    /// Scenario and case.
    pub name: String,
    /// What is compared, the first against the second.
    pub sides: Vec<String>,
    /// What is measured.
    pub figures: Vec<Figure>,
    /// The rounds that count.
    pub rounds: Vec<Round>,
    /// Rounds run again because something disturbed them.
    pub repeated: usize,
    /// By side: system calls for each unit of work; empty when they were not counted.
    pub syscalls: Vec<BTreeMap<String, f64>>,
    /// By figure: the first side over the second, in the same round.
    pub ratios: BTreeMap<String, Estimate>,
}

impl Experiment {
    /// Runs the experiment.
    ///
    /// # Errors
    /// The first error of a run.
    pub fn run(
        name: &str,
        sides: &[&str],
        figures: &[Figure],
        plan: Plan,
        mut run: impl FnMut(Run) -> Result<Leg>,
    ) -> Result<Self> {
        let mut rounds = Vec::new();
        let mut repeated = 0;
        let mut turn: usize = 0;
        while rounds.len() < plan.pairs {
            let mut order: Vec<usize> = (0..sides.len()).collect();
            if turn % 2 == 1 {
                order.reverse();
            }
            let what = if turn < plan.warmups {
                "warm-up".to_owned()
            } else {
                format!("pair {} of {}", rounds.len() + 1, plan.pairs)
            };
            let mut legs = BTreeMap::new();
            for index in order {
                let side = sides.get(index).copied().unwrap_or_default();
                Progress::show(&format!("{name}: {what}, {side}"));
                let leg = run(Run { side: index, syscalls: false });
                let leg = leg.with_context(|| format!("{name}: {what}, {side}"))?;
                legs.insert(index, leg);
            }
            turn += 1;
            let legs: Vec<Leg> = legs.into_values().collect();
            let disturbed = legs.iter().any(Leg::is_disturbed);
            if turn <= plan.warmups {
                continue;
            }
            if disturbed && repeated < plan.repeats_max {
                repeated += 1;
                continue;
            }
            rounds.push(Round { legs, disturbed });
        }
        let mut syscalls = Vec::new();
        for (index, side) in sides.iter().enumerate().filter(|_| plan.syscalls) {
            Progress::show(&format!("{name}: counting system calls, {side}"));
            syscalls.push(run(Run { side: index, syscalls: true })?.syscalls);
        }
        Progress::clear();
        let sides = sides.iter().map(|&side| side.to_owned()).collect();
        let mut experiment = Self {
            name: name.to_owned(),
            sides,
            figures: figures.to_vec(),
            rounds,
            repeated,
            syscalls,
            ratios: BTreeMap::new(),
        };
        for figure in figures {
            if let Some(ratio) = estimate(&experiment.ratios_of(figure.key)) {
                experiment.ratios.insert(figure.key.to_owned(), ratio);
            }
        }
        Ok(experiment)
    }

    /// The first side over the second, for each round that has both.
    fn ratios_of(&self, key: &str) -> Vec<f64> {
        let value = |round: &Round, side: usize| round.legs.get(side)?.values.get(key).copied();
        let ratio = |round: &Round| Some(value(round, 0)? / value(round, 1)?);
        self.rounds.iter().filter_map(ratio).filter(|ratio| ratio.is_finite()).collect()
    }

    /// Median of a figure of one side.
    #[must_use]
    pub fn median_of(&self, key: &str, side: usize) -> Option<f64> {
        let value = |round: &Round| round.legs.get(side)?.values.get(key).copied();
        median(&self.rounds.iter().filter_map(value).collect::<Vec<_>>())
    }

    /// The largest share that `of` finds in a run.
    #[must_use]
    pub fn worst(&self, of: impl Fn(&Leg) -> f64) -> f64 {
        self.rounds.iter().flat_map(|round| &round.legs).map(of).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURE: Figure = Figure { key: "rate", label: "rate" };

    fn leg(rate: f64, steal: f64) -> Leg {
        Leg {
            values: BTreeMap::from([("rate".to_owned(), rate)]),
            steal,
            foreign: 0.0,
            syscalls: BTreeMap::new(),
        }
    }

    #[test]
    fn sides_change_places_and_warm_up_does_not_count() {
        let mut order = Vec::new();
        let plan = Plan { pairs: 2, warmups: 1, repeats_max: 0, syscalls: false };
        let experiment =
            Experiment::run("x", &["a", "b"], &[FIGURE], plan, |Run { side, .. }| {
                order.push(side);
                let warm_up = order.len() <= 2;
                Ok(leg(if warm_up { 1000.0 } else { [6.0, 3.0][side] }, 0.0))
            });
        let experiment = experiment.unwrap();
        assert_eq!(order, [0, 1, 1, 0, 0, 1]);
        assert_eq!(experiment.rounds.len(), 2);
        assert_eq!(experiment.ratios["rate"].median, 2.0);
        assert_eq!(experiment.median_of("rate", 0), Some(6.0));
    }

    #[test]
    fn a_disturbed_pair_is_run_again_until_no_repeat_is_left() {
        let plan = Plan { pairs: 3, warmups: 0, repeats_max: 2, syscalls: true };
        let mut runs = 0;
        let experiment = Experiment::run("x", &["a", "b"], &[FIGURE], plan, |_| {
            runs += 1;
            Ok(leg(1.0, 0.5))
        });
        let experiment = experiment.unwrap();
        assert_eq!((runs, experiment.repeated, experiment.syscalls.len()), (10 + 2, 2, 2));
        assert!(experiment.rounds.iter().all(|round| round.disturbed));
    }
}
