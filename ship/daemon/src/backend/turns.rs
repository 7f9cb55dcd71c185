//! Who may use the thread of the sessions, and the threads for what takes longer.
//!
//! The sessions are tasks of one thread, which may be the wal core's as well. None keeps it for longer than a moment:
//! between two statements of a long text, or two messages of a long pipeline, the others have their turn; and what a
//! single statement does beyond a few thousand steps is done on another thread, one statement at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// Statements that are evaluated elsewhere at a time: the CPUs belong to the standbys.
const EVALUATIONS_MAX: usize = 1;
/// Statements that read the WAL at a time, each some of it in its turn.
const READS_MAX: usize = 2;
/// How long a session goes on before the others have their turn.
const TURN: Duration = Duration::from_millis(1);
/// How often it looks at the clock: a lone message is not to pay for it.
const LOOK_EVERY: u32 = 8;

/// The turns of all sessions. They are taken in the order in which they were asked for.
#[derive(Debug)]
pub(super) struct Turns {
    /// For evaluating a statement.
    pub(super) evaluations: Arc<Semaphore>,
    /// For reading some of the WAL.
    pub(super) reads: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            evaluations: Arc::new(Semaphore::new(EVALUATIONS_MAX)),
            reads: Arc::new(Semaphore::new(READS_MAX)),
        }
    }
}

/// How long a session has had the thread.
#[derive(Debug)]
pub(super) struct Turn {
    began: Instant,
    done: u32,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), done: 0 }
    }

    /// The session has waited for something, and begins again.
    pub(super) const fn begin(&mut self) {
        self.done = 0;
    }

    /// Counts a message or a statement; whether the turn is over with it.
    fn is_over(&mut self) -> bool {
        self.done += 1;
        if self.done == LOOK_EVERY {
            self.began = Instant::now();
        }
        self.done.is_multiple_of(LOOK_EVERY) && self.began.elapsed() >= TURN
    }

    /// Lets the others have their turn once this one is over; whether that was so.
    pub(super) async fn pass(&mut self) -> bool {
        if !self.is_over() {
            return false;
        }
        tokio::task::yield_now().await;
        self.done = 0;
        true
    }
}
