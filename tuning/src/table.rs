//! A check, an apply and an undo as text for a terminal.

use std::fmt::Write as _;

use crate::apply::{Outcome, Step, StepState};
use crate::check::{Report, Row};

/// Characters of a line that holds a reason.
const WIDTH: usize = 100;

/// A table: columns as wide as their widest cell, the last one wrapped.
#[must_use]
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let columns = header.len();
    let mut widths: Vec<_> = header.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row).take(columns.saturating_sub(1)) {
            *width = (*width).max(cell.len());
        }
    }
    let indent: usize = widths[..columns - 1].iter().map(|width| width + 2).sum();
    let last_width = WIDTH.saturating_sub(indent).max(40);
    let mut text = String::new();
    let header: Vec<_> = header.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths).take(columns - 1) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        let wrapped = wrapped(row.last().map(String::as_str).unwrap_or_default(), last_width);
        let _ = writeln!(text, "{}", format!("{line}{}", wrapped[0]).trim_end());
        for rest in &wrapped[1..] {
            let _ = writeln!(text, "{:indent$}{rest}", "");
        }
    }
    text
}

/// Lines of at most `width` characters; one at least.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is a line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// A check, as a table of knob, now, wanted and why.
#[must_use]
pub fn check_table(report: &Report) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut index = 0;
    while let Some(row) = report.rows.get(index) {
        let is_same = |other: &&Row| {
            other.knob == row.knob && other.now == row.now && other.state == row.state
        };
        let same = report.rows[index..].iter().take_while(is_same).count();
        let place = match (row.place.as_str(), same) {
            ("", _) => String::new(),
            (place, 1) => format!(" ({place})"),
            (place, same) => format!(" ({place} and {} more)", same - 1),
        };
        rows.push(vec![
            row.state.as_str().to_owned(),
            format!("{}{place}", row.knob.name),
            row.now.clone().unwrap_or_else(|| "-".to_owned()),
            match row.knob.rule {
                crate::Rule::Report => "-".to_owned(),
                _ if row.knob.kind == crate::Kind::Advice => "-".to_owned(),
                _ => row.wanted.clone(),
            },
            match row.knob.kind {
                crate::Kind::Advice => format!("{} {}", row.knob.value, row.knob.why),
                _ => row.knob.why.clone(),
            },
        ]);
        index += same;
    }
    table(&["state", "knob", "now", "wanted", "why"], &rows)
}

/// An apply or undo, a line a step.
#[must_use]
pub fn outcome_lines(outcome: &Outcome) -> String {
    let mut text = String::new();
    for step in &outcome.steps {
        let _ = writeln!(text, "{}", step_line(step));
    }
    for note in &outcome.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}

fn step_line(step: &Step) -> String {
    let Step { verb, path, from, to, state } = step;
    let values = match (from, to) {
        (Some(from), Some(to)) => format!(": {from} -> {to}"),
        (None, Some(to)) => format!(": {to}"),
        (Some(_), None) | (None, None) => String::new(),
    };
    match state {
        StepState::Planned => format!("would {verb} {path}{values}"),
        StepState::Done => format!("{verb} {path}{values}"),
        StepState::Took(took) => format!("{verb} {path}{values}, and the kernel took {took}"),
        StepState::Failed(reason) => format!("could not {verb} {path}{values}: {reason}"),
        StepState::LeftAlone(reason) => format!("left {path} alone: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_column_wraps_under_itself() {
        let rows = [
            vec!["a".to_owned(), "one two three ".repeat(8)],
            vec!["long".to_owned(), String::new()],
        ];
        let text = table(&["x", "why"], &rows);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "x     why");
        assert!(lines[1].starts_with("a     one two"), "{text}");
        assert!(lines[2].starts_with("      "), "{text}");
        assert_eq!(lines[3], "long");
        assert!(lines.iter().all(|line| line.len() <= WIDTH));
    }
}
