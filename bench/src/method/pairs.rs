//! Runs the sides of an experiment by turns and keeps what each run measured.
//!
//! Sides change places from round to round (A B, B A, A B, ...), so that a drift of the machine
//! falls on each alike. The first rounds are thrown away; a round that something else disturbed
//! is run again, a bounded number of times.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

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
    /// Which way is better; `None` where neither is.
    pub better: Option<Better>,
}

impl Figure {
    /// A figure of which more is better.
    #[must_use]
    pub const fn more(key: &'static str, label: &'static str) -> Self {
        Self { key, label, better: Some(Better::More) }
    }

    /// A figure of which less is better.
    #[must_use]
    pub const fn less(key: &'static str, label: &'static str) -> Self {
        Self { key, label, better: Some(Better::Less) }
    }

    /// A figure that is neither good nor bad.
    #[must_use]
    pub const fn neutral(key: &'static str, label: &'static str) -> Self {
        Self { key, label, better: None }
    }
}

/// Which way a figure is better.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// More is better.
    More,
    /// Less is better.
    Less,
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
    /// Where it lies among experiments that differ in one number only: standbys, clients, bytes.
    pub at: Option<f64>,
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
    /// For each side after the second, by figure: the first side over that one.
    pub further_ratios: Vec<BTreeMap<String, Estimate>>,
    /// What a reader must know about it: a side that this machine does not have.
    pub notes: Vec<String>,
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
            at: None,
            figures: figures.to_vec(),
            rounds,
            repeated,
            syscalls,
            ratios: BTreeMap::new(),
            further_ratios: Vec::new(),
            notes: Vec::new(),
        };
        experiment.ratios = experiment.ratios_over(1);
        experiment.further_ratios =
            (2..experiment.sides.len()).map(|side| experiment.ratios_over(side)).collect();
        Ok(experiment)
    }

    /// Says where it lies among experiments that differ in one number only.
    #[must_use]
    pub fn at(mut self, at: f64) -> Self {
        self.at = Some(at);
        self
    }

    /// Says what a reader must know.
    #[must_use]
    pub fn noting(mut self, notes: &[String]) -> Self {
        self.notes = notes.to_vec();
        self
    }

    /// By figure: the first side over `side`, from the rounds that have both.
    fn ratios_over(&self, side: usize) -> BTreeMap<String, Estimate> {
        let of = |figure: &Figure| {
            let value =
                |round: &Round, side: usize| round.legs.get(side)?.values.get(figure.key).copied();
            let ratio = |round: &Round| Some(value(round, 0)? / value(round, side)?);
            let ratios = self.rounds.iter().filter_map(ratio).filter(|ratio| ratio.is_finite());
            Some((figure.key.to_owned(), estimate(&ratios.collect::<Vec<_>>())?))
        };
        self.figures.iter().filter_map(of).collect()
    }

    /// The first side over `side`.
    #[must_use]
    pub fn ratio(&self, key: &str, side: usize) -> Option<Estimate> {
        ratio_over(&self.ratios, &self.further_ratios, key, side)
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

/// The first side over `side`, of the ratios over the second side and over each further one.
pub(crate) fn ratio_over(
    second: &BTreeMap<String, Estimate>,
    further: &[BTreeMap<String, Estimate>],
    key: &str,
    side: usize,
) -> Option<Estimate> {
    match side.checked_sub(2) {
        None => second.get(key).copied().filter(|_| side == 1),
        Some(at) => further.get(at)?.get(key).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURE: Figure = Figure::more("rate", "rate");

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
            Experiment::run("x", &["a", "b", "c"], &[FIGURE], plan, |Run { side, .. }| {
                order.push(side);
                let warm_up = order.len() <= 3;
                Ok(leg(if warm_up { 1000.0 } else { [6.0, 3.0, 12.0][side] }, 0.0))
            });
        let experiment = experiment.unwrap();
        assert_eq!(order, [0, 1, 2, 2, 1, 0, 0, 1, 2]);
        assert_eq!(experiment.ratio("rate", 2).unwrap().median, 0.5);
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
