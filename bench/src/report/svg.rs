//! A picture made of lines and words, as SVG text. Colours are classes: the page's style sheet
//! knows light from dark.

use std::fmt::{Display, Write as _};

/// An SVG under construction.
#[derive(Debug)]
pub(super) struct Svg {
    text: String,
}

/// Where words stand to their point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    pub(super) fn new(width: f64, height: f64, title: &str) -> Self {
        let title = escape(title);
        Self {
            text: format!(
                "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\" \
                 style=\"max-width:{width}px\">\n"
            ),
        }
    }

    pub(super) fn line(&mut self, class: &str, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) {
        self.put(format_args!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        ));
    }

    pub(super) fn circle(&mut self, class: &str, [x, y]: [f64; 2], radius: f64, title: &str) {
        let title = escape(title);
        self.put(format_args!(
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\">\
             <title>{title}</title></circle>"
        ));
    }

    pub(super) fn bar(&mut self, class: &str, [x, y]: [f64; 2], width: f64, height: f64) {
        self.put(format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\"/>"
        ));
    }

    pub(super) fn path(&mut self, class: &str, points: &[[f64; 2]]) {
        let points: Vec<String> = points.iter().map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
        self.put(format_args!("<polyline class=\"{class}\" points=\"{}\"/>", points.join(" ")));
    }

    pub(super) fn words(&mut self, class: &str, [x, y]: [f64; 2], anchor: Anchor, words: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let words = escape(words);
        self.put(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
        ));
    }

    pub(super) fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }

    fn put(&mut self, element: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{element}");
    }
}

/// Words as HTML and SVG want them.
pub(super) fn escape(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Numbers on a line of pixels, each factor the same distance.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogScale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl LogScale {
    /// From `low`, which is at the pixel `from`, to `high` at `to`. Both are above zero.
    pub(super) fn new([low, high]: [f64; 2], [from, to]: [f64; 2]) -> Self {
        Self { low: low.ln(), high: high.max(low * 1.01).ln(), from, to }
    }

    /// The pixel of a number; what lies outside is put on the edge.
    pub(super) fn at(&self, number: f64) -> f64 {
        let share = (number.ln() - self.low) / (self.high - self.low);
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Round numbers on it, few enough to be read.
    pub(super) fn ticks(&self) -> Vec<f64> {
        const STEPS: [&[f64]; 3] = [&[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]];
        let decades = || (-9..=12).map(|exponent| 10_f64.powi(exponent));
        let inside = |tick: &f64| {
            let tick = tick.ln();
            tick >= self.low - 1e-9 && tick <= self.high + 1e-9
        };
        let all = STEPS.map(|steps| {
            let ticks = decades().flat_map(|decade| steps.iter().map(move |step| step * decade));
            ticks.filter(inside).collect::<Vec<_>>()
        });
        let [fine, middle, coarse] = all;
        [fine, middle].into_iter().find(|ticks| ticks.len() <= 7).unwrap_or(coarse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_has_round_ticks_and_keeps_inside() {
        let scale = LogScale::new([0.8, 250.0], [0.0, 100.0]);
        assert_eq!(scale.ticks().first(), Some(&1.0));
        assert!(scale.ticks().len() <= 8);
        assert_eq!((scale.at(0.001), scale.at(1e9)), (0.0, 100.0));
        assert!(scale.at(10.0) < scale.at(100.0));
    }

    #[test]
    fn words_cannot_become_elements() {
        let mut svg = Svg::new(10.0, 10.0, "\"a\"");
        svg.words("x", [0.0, 0.0], Anchor::Start, "<b>&");
        let text = svg.finish();
        assert!(text.contains("&lt;b&gt;&amp;") && text.contains("&quot;a&quot;"));
    }
}
