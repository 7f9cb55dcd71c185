//! One HTML file about recorded runs: nothing is loaded from anywhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::charts::{Row, percentiles, ratios, scaling};
use super::recorded::{Experiment, Figure, Recorded};
use super::svg::escape;
use super::{PAIRS_MIN, digits};
use crate::method::pairs::Better;

const STYLE: &str = include_str!("style.css");
/// Figures of a scenario that are drawn over its number of standbys, clients or bytes.
const SCALED: usize = 4;

/// The page.
#[must_use]
pub fn page(runs: &[Recorded]) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>walhub-bench</title><style>\n{STYLE}</style></head><body>\n\
         <h1>walhub-bench</h1>\n"
    );
    html.push_str(
        "<p class=\"soft\">Every ratio is taken inside a pair of runs on one machine and one disk; \
         shown is the median of the ratios, with its 95 % bootstrap interval.</p>\n",
    );
    html.push_str("<nav>");
    for run in runs {
        let name = escape(&run.scenario);
        put(&mut html, format_args!("<a href=\"#{name}\">{name}</a>"));
    }
    html.push_str("</nav>\n");
    overview(&mut html, runs);
    for run in runs {
        section(&mut html, run, runs.first());
    }
    html.push_str("</body></html>\n");
    html
}

/// The first ratio of each experiment.
fn overview(html: &mut String, runs: &[Recorded]) {
    let experiments = runs.iter().flat_map(|run| &run.experiments);
    let rows: Vec<Row> = experiments
        .filter_map(|experiment| {
            let first = |figure: &Figure| {
                let name = format!("{}: {}", experiment.name, figure.label);
                Row::of(experiment, figure, name)
            };
            experiment.figures.iter().find_map(first)
        })
        .collect();
    if !rows.is_empty() {
        html.push_str("<h2>All scenarios</h2>\n<p>The first figure of each experiment.</p>\n");
        html.push_str(&ratios("the first figure of each experiment", &rows));
    }
    if let Some(run) = runs.first() {
        html.push_str("<h2>Machine</h2>\n");
        environment(html, run);
    }
}

fn environment(html: &mut String, run: &Recorded) {
    html.push_str("<table class=\"facts\">\n");
    for (name, value) in &run.environment {
        put(
            html,
            format_args!("<tr><td>{}</td><td>{}</td></tr>\n", escape(name), escape(&plain(value))),
        );
    }
    html.push_str("</table>\n");
}

/// JSON as people write it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{name}: {}", plain(value)));
            fields.collect::<Vec<_>>().join("; ")
        }
        Value::Array(_) | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn section(html: &mut String, run: &Recorded, first: Option<&Recorded>) {
    let name = escape(&run.scenario);
    put(html, format_args!("<h2 id=\"{name}\">{name}</h2>\n"));
    let parameters: Vec<String> =
        run.parameters.iter().map(|(name, value)| format!("{name} {value}")).collect();
    put(html, format_args!("<p class=\"soft\">{}</p>\n", escape(&parameters.join(", "))));
    if first.is_some_and(|first| first.environment != run.environment) {
        html.push_str("<details><summary>another machine, or another day</summary>\n");
        environment(html, run);
        html.push_str("</details>\n");
    }
    for group in groups(&run.experiments) {
        let shown = group.first().map_or(&[][..], |first| &first.figures);
        let plots: Vec<String> = shown
            .iter()
            .filter(|figure| figure.better.is_some())
            .filter_map(|figure| scaling(&group, figure))
            .take(SCALED)
            .collect();
        if let (Some(first), false) = (group.first(), plots.is_empty()) {
            put(html, format_args!("<h3>{}</h3>\n", escape(&stem(&first.name))));
            legend(html, &first.sides);
            plots.iter().for_each(|plot| html.push_str(plot));
        }
    }
    for experiment in &run.experiments {
        one(html, experiment);
    }
}

/// Experiments that differ in one number only.
fn groups(experiments: &[Experiment]) -> Vec<Vec<&Experiment>> {
    let mut groups: BTreeMap<String, Vec<&Experiment>> = BTreeMap::new();
    for experiment in experiments.iter().filter(|experiment| experiment.at.is_some()) {
        groups.entry(stem(&experiment.name)).or_default().push(experiment);
    }
    groups.into_values().collect()
}

/// The name without its number.
fn stem(name: &str) -> String {
    name.chars().filter(|c| !c.is_ascii_digit()).collect::<String>().replace("  ", " ")
}

fn one(html: &mut String, experiment: &Experiment) {
    put(html, format_args!("<h3>{}</h3>\n", escape(&experiment.name)));
    let rows: Vec<Row> = experiment
        .figures
        .iter()
        .filter_map(|figure| Row::of(experiment, figure, figure.label.clone()))
        .collect();
    if !rows.is_empty() {
        html.push_str(&ratios(&experiment.name, &rows));
    }
    if let Some(plot) = percentiles(experiment) {
        legend(html, &experiment.sides);
        html.push_str(&plot);
    }
    table(html, experiment);
    let (rounds, disturbed) = experiment.rounds();
    put(
        html,
        format_args!(
            "<p class=\"soft\">{} over {}, {rounds} pairs, {disturbed} of them disturbed</p>\n",
            escape(experiment.sides.first().map_or("", String::as_str)),
            escape(experiment.sides.get(1).map_or("", String::as_str)),
        ),
    );
    for note in &experiment.notes {
        put(html, format_args!("<p class=\"soft\">{}</p>\n", escape(note)));
    }
}

fn legend(html: &mut String, sides: &[String]) {
    html.push_str("<p class=\"legend\">");
    for (index, side) in sides.iter().enumerate() {
        put(html, format_args!("<span class=\"side{index}\"><i></i>{}</span>", escape(side)));
    }
    html.push_str("</p>\n");
}

fn table(html: &mut String, experiment: &Experiment) {
    let is_sure = experiment.rounds().0 >= PAIRS_MIN;
    html.push_str("<div class=\"wide\"><table>\n<tr><th>median of each side</th>");
    for side in &experiment.sides {
        put(html, format_args!("<th>{}</th>", escape(side)));
    }
    html.push_str("<th>ratio</th><th>95 % interval</th>");
    for side in experiment.sides.iter().skip(2) {
        put(html, format_args!("<th>/ {}</th>", escape(side)));
    }
    html.push_str("</tr>\n");
    for figure in &experiment.figures {
        put(html, format_args!("<tr><td>{}</td>", escape(&figure.label)));
        for side in 0..experiment.sides.len() {
            let median = experiment.median(&figure.key, side).map_or("-".to_owned(), digits);
            put(html, format_args!("<td>{median}</td>"));
        }
        match experiment.ratio(&figure.key, 1) {
            Some(ratio) => {
                let class = match figure.better.filter(|_| is_sure) {
                    Some(Better::More) if ratio.low > 1.0 => "better",
                    Some(Better::More) if ratio.high < 1.0 => "worse",
                    Some(Better::Less) if ratio.high < 1.0 => "better",
                    Some(Better::Less) if ratio.low > 1.0 => "worse",
                    Some(Better::More | Better::Less) | None => "",
                };
                let (median, low, high) =
                    (digits(ratio.median), digits(ratio.low), digits(ratio.high));
                put(
                    html,
                    format_args!("<td class=\"{class}\">{median}</td><td>{low} to {high}</td>"),
                );
            }
            None => html.push_str("<td>-</td><td></td>"),
        }
        for side in 2..experiment.sides.len() {
            let ratio = experiment.ratio(&figure.key, side);
            let ratio = ratio.map_or("-".to_owned(), |ratio| digits(ratio.median));
            put(html, format_args!("<td>{ratio}</td>"));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
}

fn put(html: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = html.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::super::recorded::tests::run;
    use super::*;

    #[test]
    fn a_page_holds_every_figure_and_loads_nothing() {
        let html = page(&[run("a <cpu>", "more", &[200.0, 201.0, 199.0])]);
        assert!(html.contains("catchup 4 readers") && html.contains("a &lt;cpu&gt;"));
        assert!(html.contains("<td class=\"better\">2.00</td>"));
        assert!(html.contains("rate, &lt;MB/s&gt;"));
        assert!(html.contains("&lt;side&gt; was not measured"));
        for outside in ["http", "src=", "<script", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
    }

    #[test]
    fn experiments_that_differ_in_a_number_are_one_plot() {
        assert_eq!(stem("catchup cold 16 readers"), stem("catchup cold 4 readers"));
        assert_ne!(stem("catchup cold 16 readers"), stem("catchup 16 readers"));
    }
}
