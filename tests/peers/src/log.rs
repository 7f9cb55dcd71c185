//! What a program says, line by line, and waiting for it to say something.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::wait::DEADLINE;

/// How many of the last lines are shown of a program that failed.
const SHOWN_LINES_MAX: usize = 80;

/// What PostgreSQL and walhub say when they are ready for clients.
const READY: &str = "database system is ready to accept";

/// Lines that a program wrote, over all its starts.
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
    /// Where the lines are written as well.
    file: Option<File>,
}

/// A place in a log: what follows it is new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark(usize);

impl Log {
    /// An empty log of the program `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), shared: Arc::default() }
    }

    /// The same, with a copy in the file NAME.log of `directory`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn kept_in(directory: &Path, name: &str) -> Result<Self> {
        let path = directory.join(format!("{name}.log"));
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        let log = Self::new(name);
        log.state().file = Some(file);
        Ok(log)
    }

    /// The program's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads lines from `source` until it ends.
    pub fn follow(&self, source: impl Read + Send + 'static) {
        self.state().sources += 1;
        let log = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n').map_while(io::Result::ok) {
                let mut state = log.state();
                if let Some(file) = &mut state.file {
                    // What was said is here all the same.
                    let _ = file.write_all(&[&line[..], b"\n"].concat());
                }
                state.lines.push(String::from_utf8_lossy(&line).into_owned());
                drop(state);
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
    fn wait<T>(&self, timeout: Duration, mut look: impl FnMut(&State) -> Option<T>) -> Option<T> {
        let start = Instant::now();
        let mut state = self.state();
        loop {
            let found = look(&state);
            let left = timeout.saturating_sub(start.elapsed());
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
        let found =
            self.wait(DEADLINE, |state| state.lines[mark.0..].iter().find(is_wanted).cloned());
        let name = &self.name;
        found.unwrap_or_else(|| panic!("{name}: no {texts:?} in the log within {DEADLINE:?}"))
    }

    /// Waits until so many lines contain `text`, or every source has ended; whether they do.
    #[must_use]
    pub fn wait_count(&self, text: &str, count: usize, timeout: Duration) -> bool {
        let enough = self.wait(timeout, |state| {
            let found = state.lines.iter().filter(|line| line.contains(text)).count();
            (found >= count || state.sources == 0).then_some(found >= count)
        });
        enough.unwrap_or(false)
    }

    /// Waits until the server says, after `mark`, that it is ready for clients.
    ///
    /// # Errors
    /// When it ends, or does not say so in time.
    pub fn wait_ready(&self, mark: Mark, timeout: Duration) -> Result<()> {
        let name = &self.name;
        let is_ready = |line: &String| line.contains(READY);
        let ready = self.wait(timeout, |state| {
            let ready = state.lines[mark.0..].iter().any(is_ready);
            (ready || state.sources == 0).then_some(ready)
        });
        match ready {
            Some(true) => Ok(()),
            Some(false) => bail!("{name} ended while starting\n{}", self.tail()),
            None => bail!("{name} is not ready after {timeout:?}\n{}", self.tail()),
        }
    }

    /// Waits until every source has ended: nothing more will come.
    ///
    /// # Panics
    /// When one goes on.
    #[track_caller]
    pub fn wait_closed(&self) {
        assert!(self.wait_closed_for(DEADLINE), "{}: its output has not ended", self.name);
    }

    /// The same for some time; whether every source has ended.
    pub(crate) fn wait_closed_for(&self, timeout: Duration) -> bool {
        self.wait(timeout, |state| (state.sources == 0).then_some(())).is_some()
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

    /// The last lines.
    #[must_use]
    pub fn tail(&self) -> String {
        let lines = &self.state().lines;
        lines[lines.len().saturating_sub(SHOWN_LINES_MAX)..].join("\n")
    }

    /// Shows the end of the log; for a test that fails.
    pub fn show(&self) {
        eprintln!("---- the end of the log of {}\n{}", self.name, self.tail());
    }
}
