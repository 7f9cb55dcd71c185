//! The log of a server under test, which a test can wait on.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use crate::wait::DEADLINE;

/// How many of the last lines a failing test shows.
const SHOWN_LINES_MAX: usize = 80;

/// Lines that a server wrote, over all its starts.
#[derive(Clone, Debug)]
pub struct Log {
    name: String,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    /// Sources that have not ended.
    sources: usize,
}

/// A place in a log: what follows it is new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark(usize);

impl Log {
    /// An empty log of the server `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), shared: Arc::default() }
    }

    /// Reads lines from `source` until it ends.
    pub fn follow(&self, source: impl Read + Send + 'static) {
        self.state().sources += 1;
        let log = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                log.state().lines.push(String::from_utf8_lossy(&line).into_owned());
                log.shared.changed.notify_all();
            }
            log.state().sources -= 1;
            log.shared.changed.notify_all();
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `look` finds something in the state.
    fn wait<T>(&self, mut look: impl FnMut(&State) -> Option<T>) -> Option<T> {
        let start = Instant::now();
        let mut state = self.state();
        loop {
            let found = look(&state);
            let left = DEADLINE.saturating_sub(start.elapsed());
            if found.is_some() || left.is_zero() {
                return found;
            }
            let changed = self.shared.changed.wait_timeout(state, left);
            (state, _) = changed.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The end of the log now.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.state().lines.len())
    }

    /// The first mark: everything follows it.
    #[must_use]
    pub fn beginning(&self) -> Mark {
        Mark(0)
    }

    /// Waits for a line that contains `text`, after `mark`, and returns it.
    ///
    /// # Panics
    /// When there is none within [`DEADLINE`].
    #[track_caller]
    pub fn wait_for(&self, mark: Mark, text: &str) -> String {
        self.wait_for_any(mark, &[text])
    }

    /// Waits for a line that contains one of `texts`, after `mark`, and returns it.
    ///
    /// # Panics
    /// When there is none within [`DEADLINE`].
    #[track_caller]
    pub fn wait_for_any(&self, mark: Mark, texts: &[&str]) -> String {
        let is_wanted = |line: &&String| texts.iter().any(|text| line.contains(text));
        let found = self.wait(|state| state.lines[mark.0..].iter().find(is_wanted).cloned());
        let name = &self.name;
        found.unwrap_or_else(|| panic!("{name}: no {texts:?} in the log within {DEADLINE:?}"))
    }

    /// Waits until every source has ended: nothing more will come.
    ///
    /// # Panics
    /// When one goes on.
    #[track_caller]
    pub fn wait_closed(&self) {
        let closed = self.wait(|state| (state.sources == 0).then_some(()));
        assert!(closed.is_some(), "{}: its output has not ended", self.name);
    }

    /// How many lines after `mark` contain `text`.
    #[must_use]
    pub fn count(&self, mark: Mark, text: &str) -> usize {
        self.state().lines[mark.0..].iter().filter(|line| line.contains(text)).count()
    }

    /// Everything after `mark`.
    #[must_use]
    pub fn text(&self, mark: Mark) -> String {
        self.state().lines[mark.0..].join("\n")
    }

    /// Shows the end of the log; for a test that fails.
    pub fn show(&self) {
        let lines = &self.state().lines;
        let shown = &lines[lines.len().saturating_sub(SHOWN_LINES_MAX)..];
        eprintln!("---- log of {} ({} of {} lines)", self.name, shown.len(), lines.len());
        for line in shown {
            eprintln!("{line}");
        }
    }
}
