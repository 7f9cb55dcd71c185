//! The three pictures of a report: ratios with their intervals, latencies by percentile, and how a
//! figure changes with the number of standbys, clients or bytes.

use super::recorded::{Experiment, Figure};
use super::svg::{Anchor, LogScale, Svg};
use super::{PAIRS_MIN, digits};
use crate::method::pairs::Better;
use crate::method::stats::Estimate;

const WIDTH: f64 = 840.0;
/// Room for the names of ratios.
const NAMES: f64 = 380.0;
/// Room for the numbers behind them.
const NUMBERS: f64 = 150.0;
const ROW: f64 = 24.0;
const PLOT_HEIGHT: f64 = 260.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;
/// Ratios beyond this are drawn at the edge.
const RATIO_MAX: f64 = 100.0;
/// Percentiles that are drawn, with their keys.
const PERCENTILES: [(&str, &str); 4] = [
    ("latency_p50_us", "50 %"),
    ("latency_p90_us", "90 %"),
    ("latency_p99_us", "99 %"),
    ("latency_p999_us", "99.9 %"),
];

/// A line of a plot.
#[derive(Clone, Debug)]
pub(super) struct Series {
    /// Which side.
    pub(super) side: usize,
    /// Points.
    pub(super) points: Vec<(f64, f64)>,
}

/// A ratio with its name.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// What it is of.
    pub(super) name: String,
    /// As measured.
    pub(super) ratio: Estimate,
    /// Which way is better.
    pub(super) better: Better,
    /// How many pairs it is from.
    pub(super) pairs: usize,
}

impl Row {
    /// The ratio of a figure, when it has one and one way is better.
    pub(super) fn of(experiment: &Experiment, figure: &Figure, name: String) -> Option<Self> {
        let ratio = experiment.ratio(&figure.key, 1)?;
        let positive = ratio.low > 0.0 && ratio.high.is_finite();
        let (pairs, _) = experiment.rounds();
        Some(Self { name, ratio, better: figure.better.filter(|_| positive)?, pairs })
    }

    /// Low, median and high of how many times better the first side is.
    fn times_better(&self) -> [f64; 3] {
        let Estimate { low, median, high } = self.ratio;
        match self.better {
            Better::More => [low, median, high],
            Better::Less => [1.0 / high, 1.0 / median, 1.0 / low],
        }
    }
}

/// Bars from 1 to each ratio, to the right when the first side is better.
pub(super) fn ratios(title: &str, rows: &[Row]) -> String {
    let height = TOP + ROW * rows.len() as f64 + BOTTOM;
    let mut svg = Svg::new(WIDTH, height, title);
    let all = rows.iter().flat_map(Row::times_better);
    let farthest = all.map(|times| times.max(1.0 / times)).fold(2.0, f64::max).min(RATIO_MAX);
    let scale = LogScale::new(
        [1.0 / farthest / 1.1, farthest * 1.1],
        [NAMES + 10.0, WIDTH - NUMBERS - 10.0],
    );
    let bottom = height - BOTTOM;
    for tick in scale.ticks() {
        let x = scale.at(tick);
        svg.line("grid", [x, TOP], [x, bottom]);
        svg.words("tick", [x, bottom + 16.0], Anchor::Middle, &digits_short(tick));
    }
    for (index, row) in rows.iter().enumerate() {
        let middle = TOP + ROW * (index as f64 + 0.5);
        let [low, median, high] = row.times_better();
        let class = if row.pairs < PAIRS_MIN {
            "open"
        } else if low > 1.0 {
            "better"
        } else if high < 1.0 {
            "worse"
        } else {
            "open"
        };
        let (one, at) = (scale.at(1.0), scale.at(median));
        svg.words("name", [NAMES, middle + 4.0], Anchor::End, &row.name);
        svg.bar(class, [one.min(at), middle - 7.0], (at - one).abs().max(1.0), 14.0);
        svg.line("interval", [scale.at(low), middle], [scale.at(high), middle]);
        for end in [scale.at(low), scale.at(high)] {
            svg.line("interval", [end, middle - 4.0], [end, middle + 4.0]);
        }
        let Estimate { median, low, high } = row.ratio;
        let numbers = format!("{} [{}, {}]", digits(median), digits(low), digits(high));
        svg.words("number", [WIDTH - NUMBERS, middle + 4.0], Anchor::Start, &numbers);
    }
    let one = scale.at(1.0);
    svg.line("axis", [one, TOP], [one, bottom]);
    let caption = "times better than the peer (left of 1: worse); ratio as measured on the right";
    svg.words("tick", [WIDTH / 2.0, height - 8.0], Anchor::Middle, caption);
    svg.finish()
}

/// Latency by percentile, a line for each side.
pub(super) fn percentiles(experiment: &Experiment) -> Option<String> {
    let line = |side| {
        let point = |(index, (key, _)): (usize, &(&str, &str))| {
            Some((index as f64 + 1.0, experiment.median(key, side)?))
        };
        let points = PERCENTILES.iter().enumerate().filter_map(point).collect();
        Series { side, points }
    };
    let lines: Vec<Series> = (0..experiment.sides.len()).map(line).collect();
    if lines.iter().all(|line| line.points.len() < 3) {
        return None;
    }
    let ticks = PERCENTILES.iter().enumerate();
    let ticks: Vec<_> =
        ticks.map(|(index, (_, name))| (index as f64 + 1.0, (*name).to_owned())).collect();
    Some(plot(&experiment.name, &lines, &ticks, "percentile", "us"))
}

/// A figure of experiments that differ in one number, a line for each side.
pub(super) fn scaling(experiments: &[&Experiment], figure: &Figure) -> Option<String> {
    let sides = experiments.first()?.sides.len();
    let line = |side| {
        let point = |experiment: &&Experiment| {
            Some((experiment.at?, experiment.median(&figure.key, side)?))
        };
        let points = experiments.iter().filter_map(point).filter(|&(x, y)| x > 0.0 && y > 0.0);
        Series { side, points: points.collect() }
    };
    let lines: Vec<Series> = (0..sides).map(line).collect();
    if lines.iter().all(|line| line.points.len() < 2) {
        return None;
    }
    let ticks: Vec<_> = experiments
        .iter()
        .filter_map(|experiment| experiment.at)
        .map(|at| (at, digits_short(at)))
        .collect();
    Some(plot(&figure.label, &lines, &ticks, "", &figure.label))
}

/// Lines over a logarithmic plane.
fn plot(
    title: &str,
    lines: &[Series],
    x_ticks: &[(f64, String)],
    x_name: &str,
    y_name: &str,
) -> String {
    let mut svg = Svg::new(WIDTH, PLOT_HEIGHT, title);
    let bottom = PLOT_HEIGHT - BOTTOM;
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        let all = || lines.iter().flat_map(|line| &line.points).map(of);
        [all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max)]
    };
    let [left, right] = bounds(|point| point.0);
    let [low, high] = bounds(|point| point.1);
    let across = LogScale::new([left / 1.05, right * 1.05], [LEFT, WIDTH - RIGHT]);
    // At least a factor of four, or noise would look like mountains.
    let stretch = (4.0 / (high / low)).sqrt().max(1.15);
    let up = LogScale::new([low / stretch, high * stretch], [bottom, TOP + 14.0]);
    for tick in up.ticks() {
        let y = up.at(tick);
        svg.line("grid", [LEFT, y], [WIDTH - RIGHT, y]);
        svg.words("tick", [LEFT - 6.0, y + 4.0], Anchor::End, &digits_short(tick));
    }
    for (at, name) in x_ticks {
        svg.words("tick", [across.at(*at), bottom + 16.0], Anchor::Middle, name);
    }
    svg.line("axis", [LEFT, bottom], [WIDTH - RIGHT, bottom]);
    svg.words("tick", [LEFT, TOP], Anchor::Start, y_name);
    svg.words("tick", [WIDTH / 2.0, PLOT_HEIGHT - 8.0], Anchor::Middle, x_name);
    for line in lines {
        let pixels: Vec<[f64; 2]> =
            line.points.iter().map(|&(x, y)| [across.at(x), up.at(y)]).collect();
        svg.path(&format!("line side{}", line.side), &pixels);
        for (&pixel, &(_, y)) in pixels.iter().zip(&line.points) {
            svg.circle(&format!("dot side{}", line.side), pixel, 3.5, &digits(y));
        }
    }
    svg.finish()
}

/// A number on an axis.
fn digits_short(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.0}G", n / 1e9),
        n if n >= 1e6 => format!("{:.0}M", n / 1e6),
        n if n >= 1e4 => format!("{:.0}k", n / 1e3),
        n if n >= 1.0 => format!("{n:.0}"),
        n => {
            let text = format!("{n:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_of_a_cost_is_drawn_as_better() {
        let ratio = Estimate { median: 0.5, low: 0.4, high: 0.8 };
        let row = |better| Row { name: "cost".to_owned(), ratio, better, pairs: 3 };
        assert_eq!(row(Better::Less).times_better(), [1.25, 2.0, 2.5]);
        assert!(ratios("x", &[row(Better::Less)]).contains("class=\"better\""));
        assert!(ratios("x", &[row(Better::More)]).contains("class=\"worse\""));
    }

    #[test]
    fn axis_numbers_are_short() {
        assert_eq!(
            [0.05, 0.5, 1.0, 500.0, 20_000.0, 3e6].map(digits_short),
            ["0.05", "0.5", "1", "500", "20k", "3M"]
        );
    }
}
