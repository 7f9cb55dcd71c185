//! One line on stderr that says what is going on.

use std::io::{IsTerminal as _, Write as _};

/// The progress line: rewritten on a terminal, one line each time elsewhere.
#[derive(Debug)]
pub struct Progress;

impl Progress {
    /// Says what is going on now.
    pub fn show(what: &str) {
        let mut stderr = std::io::stderr().lock();
        // When stderr is closed there is no reader to tell.
        drop(if stderr.is_terminal() {
            write!(stderr, "\r\x1b[K{what}").and_then(|()| stderr.flush())
        } else {
            writeln!(stderr, "{what}")
        });
    }

    /// Takes the line away.
    pub fn clear() {
        let mut stderr = std::io::stderr().lock();
        if stderr.is_terminal() {
            drop(write!(stderr, "\r\x1b[K").and_then(|()| stderr.flush()));
        }
    }
}
