//! Figures for people (a table, a page) and for programs (JSON), and two runs compared.

mod charts;
pub mod compare;
pub mod html;
pub mod recorded;
mod svg;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::environment::Environment;
use crate::method::pairs::{Experiment, Plan};

/// With fewer pairs an interval says nothing.
const PAIRS_MIN: usize = 3;
/// Columns of a number.
const WIDTH: usize = 13;
/// System calls named for each side.
const SYSCALLS_SHOWN: usize = 6;

/// Everything about one run of one scenario.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Its name.
    pub scenario: &'static str,
    /// Its parameters.
    pub parameters: BTreeMap<&'static str, String>,
    /// How many rounds were asked for.
    pub plan: Plan,
    /// The machine and the programs.
    pub environment: Environment,
    /// What was measured.
    pub experiments: Vec<Experiment>,
}

impl Report {
    /// The table.
    #[must_use]
    pub fn table(&self) -> String {
        let Environment { host, kernel, cpu, mount, commit, .. } = &self.environment;
        let mount = mount.as_ref().map_or("?", |mount| mount.file_system.as_str());
        let commit = commit.as_deref().unwrap_or("?");
        let mut text = format!("{host}, {cpu}, Linux {kernel}, {mount}, commit {commit}\n");
        for experiment in &self.experiments {
            text.push('\n');
            text.push_str(&table(experiment));
        }
        text
    }
}

fn table(experiment: &Experiment) -> String {
    let mut text = format!("{}\n", experiment.name);
    let mut line = format!("  {:<30}", "median of each side");
    for side in &experiment.sides {
        pad(&mut line, side);
    }
    pad(&mut line, "ratio");
    line.push_str("  95 % interval       ");
    for further in experiment.sides.iter().skip(2) {
        pad(&mut line, &over(further));
    }
    line.push('\n');
    text.push_str(&line);
    for figure in &experiment.figures {
        let mut line = format!("  {:<30}", figure.label);
        for side in 0..experiment.sides.len() {
            pad(&mut line, &experiment.median_of(figure.key, side).map_or("-".to_owned(), digits));
        }
        if let Some(ratio) = experiment.ratios.get(figure.key) {
            pad(&mut line, &digits(ratio.median));
            let interval = format!("{} to {}", digits(ratio.low), digits(ratio.high));
            // Writing to a String cannot fail.
            let _ = write!(line, "  {interval:<20}");
            for side in 2..experiment.sides.len() {
                let further = experiment.ratio(figure.key, side);
                let text = further.map_or("-".to_owned(), |ratio| digits(ratio.median));
                let side = experiment.sides.get(side).map_or("", String::as_str);
                let width = over(side).len().max(WIDTH);
                let _ = write!(line, "  {text:>width$}");
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let disturbed = experiment.rounds.iter().filter(|round| round.disturbed).count();
    let _ = writeln!(
        text,
        "  ratio: {} over {}, median of {} pairs; {} repeated, {disturbed} disturbed; at worst {:.1} % stolen, {:.1} % used by others",
        experiment.sides.first().map_or("", String::as_str),
        experiment.sides.get(1).map_or("", String::as_str),
        experiment.rounds.len(),
        experiment.repeated,
        experiment.worst(|leg| leg.steal) * 100.0,
        experiment.worst(|leg| leg.foreign) * 100.0,
    );
    for note in &experiment.notes {
        let _ = writeln!(text, "  {note}");
    }
    let counted = experiment.sides.iter().zip(&experiment.syscalls);
    for (side, calls) in counted.filter(|(_, calls)| !calls.is_empty()) {
        text.push_str(&syscalls(side, calls));
    }
    text
}

/// The most frequent calls of a side.
fn syscalls(side: &str, calls: &BTreeMap<String, f64>) -> String {
    let mut sorted: Vec<_> = calls.iter().collect();
    sorted.sort_by(|a, b| b.1.total_cmp(a.1));
    let total = digits(calls.values().sum());
    let most: Vec<String> = sorted
        .iter()
        .take(SYSCALLS_SHOWN)
        .map(|(name, count)| format!("{name} {}", digits(**count)))
        .collect();
    format!("  system calls, {side}: {total} for each unit: {}\n", most.join(", "))
}

/// Heads the ratio over a side.
fn over(side: &str) -> String {
    format!("/ {side}")
}

fn pad(line: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _ = write!(line, "  {text:>WIDTH$}");
}

/// Three significant digits, and all before the point.
fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::digits;

    #[test]
    fn numbers_have_three_digits() {
        let all = [12345.6, 99.95, 9.994, 0.12345].map(digits);
        assert_eq!(all, ["12346", "100.0", "9.99", "0.123"]);
    }
}
