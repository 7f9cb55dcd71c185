//! Runs read back from their JSON.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::method::pairs::{Better, ratio_over};
use crate::method::stats::{Estimate, median};

/// One run of one scenario.
#[derive(Clone, Debug, Deserialize)]
pub struct Recorded {
    /// Name of its file, without the extension: a directory may hold several runs of one scenario.
    #[serde(skip)]
    pub name: String,
    /// Its name.
    pub scenario: String,
    /// Its parameters.
    pub parameters: BTreeMap<String, String>,
    /// The machine and the programs.
    pub environment: BTreeMap<String, Value>,
    /// What was measured.
    pub experiments: Vec<Experiment>,
}

/// What was measured about one question.
#[derive(Clone, Debug, Deserialize)]
pub struct Experiment {
    /// Scenario and case.
    pub name: String,
    /// What is compared.
    pub sides: Vec<String>,
    /// Where it lies among experiments that differ in one number only.
    #[serde(default)]
    pub at: Option<f64>,
    /// What is measured.
    pub figures: Vec<Figure>,
    rounds: Vec<Round>,
    /// The first side over the second, by figure.
    pub ratios: BTreeMap<String, Estimate>,
    /// The first over each side after the second.
    #[serde(default)]
    pub further_ratios: Vec<BTreeMap<String, Estimate>>,
    /// What a reader must know about it.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A figure and how to read it.
#[derive(Clone, Debug, Deserialize)]
pub struct Figure {
    /// Its key.
    pub key: String,
    /// Its name, unit included.
    pub label: String,
    /// Which way is better.
    #[serde(default)]
    pub better: Option<Better>,
}

#[derive(Clone, Debug, Deserialize)]
struct Round {
    legs: Vec<Leg>,
    #[serde(default)]
    disturbed: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct Leg {
    /// What is not a number is null in JSON.
    values: BTreeMap<String, Option<f64>>,
}

impl Experiment {
    /// A figure of one side, in each round that has it.
    #[must_use]
    pub fn samples(&self, key: &str, side: usize) -> Vec<f64> {
        let value = |round: &Round| *round.legs.get(side)?.values.get(key)?;
        self.rounds.iter().filter_map(value).collect()
    }

    /// Median of a figure of one side.
    #[must_use]
    pub fn median(&self, key: &str, side: usize) -> Option<f64> {
        median(&self.samples(key, side))
    }

    /// The first side over the second, in each round that has both.
    #[must_use]
    pub fn ratio_samples(&self, key: &str) -> Vec<f64> {
        let value = |round: &Round, side: usize| *round.legs.get(side)?.values.get(key)?;
        let ratio = |round: &Round| Some(value(round, 0)? / value(round, 1)?);
        self.rounds.iter().filter_map(ratio).filter(|ratio| ratio.is_finite()).collect()
    }

    /// The first side over `side`.
    #[must_use]
    pub fn ratio(&self, key: &str, side: usize) -> Option<Estimate> {
        ratio_over(&self.ratios, &self.further_ratios, key, side)
    }

    /// Rounds that count, and how many of them something disturbed.
    #[must_use]
    pub fn rounds(&self) -> (usize, usize) {
        (self.rounds.len(), self.rounds.iter().filter(|round| round.disturbed).count())
    }
}

/// Reads runs from JSON files, and from every JSON file of directories.
///
/// # Errors
/// When one is not a run, or there is none.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Recorded>> {
    let mut runs = Vec::new();
    for path in paths {
        if path.is_dir() {
            let mut files = Vec::new();
            for entry in fs::read_dir(path).with_context(|| path.display().to_string())? {
                files.push(entry?.path());
            }
            files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
            files.sort();
            if files.is_empty() {
                bail!("no run is recorded in {}", path.display());
            }
            for file in files {
                runs.extend(read_file(&file)?);
            }
        } else {
            runs.extend(read_file(path)?);
        }
    }
    Ok(runs)
}

/// A file holds one run, or a list of them.
fn read_file(path: &Path) -> Result<Vec<Recorded>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let one = || serde_json::from_str(&text).map(|run| vec![run]);
    let runs = if text.trim_start().starts_with('[') { serde_json::from_str(&text) } else { one() };
    let mut runs: Vec<Recorded> =
        runs.with_context(|| format!("{} is not a recorded run", path.display()))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    runs.iter_mut().for_each(|run| run.name = name.clone().into_owned());
    Ok(runs)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A run of one figure, whose first side has `rates` and whose second has 100 each time.
    pub(in crate::report) fn run(cpu: &str, better: &str, rates: &[f64]) -> Recorded {
        let round = |rate: &f64| {
            serde_json::json!({
                "legs": [{"values": {"rate": rate}}, {"values": {"rate": 100.0, "other": null}}],
                "disturbed": false,
            })
        };
        let rounds: Vec<Value> = rates.iter().map(round).collect();
        let samples: Vec<f64> = rates.iter().map(|rate| rate / 100.0).collect();
        let estimate = crate::method::stats::estimate(&samples).unwrap();
        let run = serde_json::json!({
            "scenario": "catchup",
            "parameters": {"size": "1"},
            "environment": {"cpu": cpu, "host": "2cpu-vm", "kernel": "6.1"},
            "experiments": [{
                "name": "catchup 4 readers", "sides": ["walhub", "walsenders"], "at": 4.0,
                "figures": [{"key": "rate", "label": "rate, <MB/s>", "better": better}],
                "rounds": rounds, "repeated": 0, "syscalls": [], "ratios": {"rate": estimate},
                "notes": ["<side> was not measured"],
            }],
        });
        serde_json::from_value(run).unwrap()
    }

    #[test]
    fn the_runs_that_are_kept_can_be_read() {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs");
        // Beside them are notes.
        let paths = fs::read_dir(kept).unwrap().map(|entry| entry.unwrap().path());
        let directories: Vec<_> = paths.filter(|path| path.is_dir()).collect();
        assert!(!directories.is_empty());
        for directory in directories {
            let runs = read(&[directory]).unwrap();
            for experiment in runs.iter().flat_map(|run| &run.experiments) {
                let figure = &experiment.figures[0];
                assert!(experiment.median(&figure.key, 0).is_some(), "{}", experiment.name);
                assert!(experiment.ratio(&figure.key, 1).is_some(), "{}", experiment.name);
            }
        }
    }

    #[test]
    fn a_value_that_was_not_measured_is_left_out() {
        let run = run("x", "more", &[200.0, 300.0, 400.0]);
        let experiment = &run.experiments[0];
        assert_eq!(experiment.median("rate", 0), Some(300.0));
        assert_eq!(experiment.median("other", 1), None);
        assert_eq!(experiment.ratio_samples("rate"), [2.0, 3.0, 4.0]);
    }
}
