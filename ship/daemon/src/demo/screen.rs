//! What the user sees: headings, one line of progress, a table. At most 80 columns.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// How often progress is drawn again in a terminal, and where it is not one.
const REDRAW_INTERVAL: Duration = Duration::from_millis(100);
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// The standard output.
#[derive(Debug)]
pub(super) struct Screen {
    is_terminal: bool,
    /// A progress line stands where the next line will go.
    is_line_open: bool,
    drawn: Option<Instant>,
}

impl Screen {
    /// Nothing written yet.
    pub(super) fn new() -> Self {
        Self { is_terminal: io::stdout().is_terminal(), is_line_open: false, drawn: None }
    }

    /// Writes a line.
    pub(super) fn line(&mut self, text: &str) {
        let clear = if std::mem::take(&mut self.is_line_open) { "\r\x1b[K" } else { "" };
        // Nobody may be reading any more; the demo's exit code still counts.
        let _ = writeln!(io::stdout(), "{clear}{text}");
        self.drawn = None;
    }

    /// Begins a step.
    pub(super) fn heading(&mut self, text: &str) {
        let text = if self.is_terminal { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() };
        self.line(&format!("\n{text}"));
    }

    /// Shows how far it is, not more often than can be read.
    pub(super) fn progress(&mut self, text: impl FnOnce() -> String) {
        let interval = if self.is_terminal { REDRAW_INTERVAL } else { LINE_INTERVAL };
        let now = Instant::now();
        match self.drawn {
            // What is over at once needs no progress.
            None => self.drawn = Some(now),
            Some(drawn) if now.duration_since(drawn) < interval => {}
            Some(_) => {
                let text = text();
                if self.is_terminal {
                    let _ = write!(io::stdout(), "\r{text}\x1b[K");
                    self.is_line_open = true;
                } else {
                    let _ = writeln!(io::stdout(), "{text}");
                }
                let _ = io::stdout().flush();
                self.drawn = Some(now);
            }
        }
    }
}

/// A table with its first column to the left and the others to the right.
pub(super) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column| rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let cell = |(column, text): (usize, &String)| {
        let width = widths.get(column).copied().unwrap_or(0);
        if column == 0 { format!("  {text:<width$}") } else { format!("  {text:>width$}") }
    };
    rows.iter().map(|row| row.iter().enumerate().map(cell).collect()).collect()
}

/// Bytes as people count them, in PostgreSQL's units.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} kB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MB", bytes >> 20),
        _ => {
            let hundredths = (u128::from(bytes) * 100) >> 30;
            format!("{}.{:02} GB", hundredths / 100, hundredths % 100)
        }
    }
}

/// Bytes in a time, for a second.
pub(super) fn rate(bytes: u64, time: Duration) -> String {
    let millis = time.as_millis().max(1);
    format!("{} MB/s", (u128::from(bytes) * 1000 / millis) >> 20)
}

/// A short time.
pub(super) fn time(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..10_000 => format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10),
        10_000..1_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{}.{:02} s", micros / 1_000_000, micros % 1_000_000 / 10_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(size(64 << 20), "64 MB");
        assert_eq!(size((2 << 30) + (50 << 20)), "2.04 GB");
        assert_eq!(size(5000), "4 kB");
        assert_eq!(rate(1 << 30, Duration::from_millis(500)), "2048 MB/s");
        assert_eq!(time(Duration::from_micros(234)), "0.23 ms");
        assert_eq!(time(Duration::from_micros(23_456)), "23 ms");
        assert_eq!(time(Duration::from_millis(1_250)), "1.25 s");
    }

    #[test]
    fn a_table_lines_up() {
        let row = |cells: &[&str]| cells.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>();
        let lines = table(&[row(&["", "bytes"]), row(&["standby1", "7"])]);
        assert_eq!(lines, ["            bytes", "  standby1      7"]);
    }
}
