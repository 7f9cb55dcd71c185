//! What a statement may look at while it runs.

use std::cell::{Cell, OnceCell, RefCell};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use jiff::tz::TimeZone;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::time::Timestamp;

use super::SettingsView;
use super::elsewhere::{ResultRows, Stop};
use super::emit::Emitter;
use super::failure::{
    Failure, PROGRAM_LIMIT_EXCEEDED, Result, STATEMENT_TOO_COMPLEX, fail, hinted,
};
use super::interrupts::Sessions;
use super::memory::{Account, Reservation};
use super::message_scan::Fetched;
use super::parameters::Parameters;
use super::plan::Rows;
use super::value::Value;
use super::wait_for::canceled;
use walhub_hub::api::hub::{Client, Hub, Positions, Snapshot};

/// Steps of evaluation in one statement.
const STEPS_MAX: u64 = 2_000_000;
/// Steps of evaluation where the session is, which take some hundred microseconds: other sessions wait meanwhile.
const STEPS_HERE_MAX: u64 = 10_000;
/// Elsewhere, after how many steps it looks whether it is still wanted.
const STEPS_BETWEEN_LOOKS: u64 = 1024;
/// Bytes that are copied or looked at in the time of a step.
const BYTES_A_STEP: usize = 1024;
/// Bytes of text that one statement may build.
const TEXT_BYTES_MAX: usize = 32 << 20;
/// Bytes of one text value.
pub(super) const TEXT_LEN_MAX: usize = 1 << 20;

/// The session and the hub, as one statement sees them: everything is read once, so that two
/// columns of one row never show two moments.
pub(super) struct Context<'a> {
    pub(super) client: &'a Client,
    pub(super) database: &'a str,
    pub(super) parameters: &'a Parameters,
    pub(super) settings: &'a dyn SettingsView,
    pub(super) hub: &'a dyn Hub<OwnedFd>,
    /// When the transaction began.
    pub(super) transaction_start: Timestamp,
    /// When the statement began.
    pub(super) statement_start: Timestamp,
    /// What it wants of the WAL.
    pub(super) emitter: &'a Emitter,
    /// Those that are connected.
    pub(super) sessions: &'a Sessions,
    /// Values of `$1`, `$2`, ...
    pub(super) arguments: &'a [Value],
    /// The rows of `walhub.messages`, when the statement reads it.
    pub(super) messages: Option<&'a Fetched>,
    /// Filled on first use.
    pub(super) snapshot: OnceCell<Snapshot>,
    /// What is spent of the statement's limits.
    pub(super) spent: Spent,
}

/// How long a statement may take.
#[derive(Clone, Debug)]
pub(super) enum Pace {
    /// A moment: it is on the sessions' thread.
    Here,
    /// As long as it is wanted.
    Elsewhere(Stop),
}

/// Steps and bytes of one statement so far.
pub(super) struct Spent {
    pace: Pace,
    steps: Cell<u64>,
    /// After how many steps there is something to look at.
    look_at: Cell<u64>,
    /// It takes too long for where it is. Every further step fails.
    outgrown: Cell<bool>,
    text_bytes: Cell<usize>,
    /// Bytes of rows.
    held: Cell<usize>,
    memory: RefCell<Reservation>,
}

impl Spent {
    pub(super) fn new(account: &Arc<Account>, pace: Pace) -> Self {
        let look_at = match pace {
            Pace::Here => STEPS_HERE_MAX,
            Pace::Elsewhere(_) => STEPS_BETWEEN_LOOKS,
        };
        Self {
            pace,
            steps: Cell::new(0),
            look_at: Cell::new(look_at),
            outgrown: Cell::new(false),
            text_bytes: Cell::new(0),
            held: Cell::new(0),
            memory: RefCell::new(account.reservation()),
        }
    }

    /// Whether what came out is nothing but that it takes too long here.
    pub(super) const fn is_outgrown(&self) -> bool {
        self.outgrown.get()
    }

    #[cold]
    fn look(&self, steps: u64) -> Result<()> {
        if steps > STEPS_MAX {
            return Err(hinted(
                fail(STATEMENT_TOO_COMPLEX, "statement too complex"),
                "A statement of walhub's console may take 2 million steps.",
            ));
        }
        match &self.pace {
            Pace::Here => {
                self.outgrown.set(true);
                Err(fail(STATEMENT_TOO_COMPLEX, "statement takes too long here"))
            }
            Pace::Elsewhere(stop) if stop.is_asked_for() => Err(canceled()),
            Pace::Elsewhere(_) => {
                self.look_at.set(STEPS_MAX.min(steps + STEPS_BETWEEN_LOOKS));
                Ok(())
            }
        }
    }
}

impl Context<'_> {
    /// Everything that the views show.
    pub(super) fn snapshot(&self) -> &Snapshot {
        self.snapshot.get_or_init(|| self.hub.snapshot())
    }

    /// Where the WAL stands.
    pub(super) fn positions(&self) -> Option<Positions> {
        self.snapshot().positions
    }

    /// The session's time zone.
    pub(super) fn zone(&self) -> &TimeZone {
        self.parameters.zone()
    }

    /// Counts one step of evaluation.
    pub(super) fn step(&self) -> Result<()> {
        self.steps(1)
    }

    fn steps(&self, count: u64) -> Result<()> {
        let steps = self.spent.steps.get().saturating_add(count);
        self.spent.steps.set(steps);
        if steps <= self.spent.look_at.get() { Ok(()) } else { self.spent.look(steps) }
    }

    /// Counts that so many bytes are copied, or looked at.
    pub(super) fn work(&self, bytes: usize) -> Result<()> {
        match bytes / BYTES_A_STEP {
            0 => Ok(()),
            steps => self.steps(u64::try_from(steps).unwrap_or(u64::MAX)),
        }
    }

    /// Counts memory that rows take, until [`Context::release_to`].
    pub(super) fn hold(&self, bytes: usize) -> Result<()> {
        let held = self.spent.held.get().saturating_add(bytes);
        self.spent.held.set(held);
        self.spent.memory.borrow_mut().grow_to(held)
    }

    /// Bytes of rows now.
    pub(super) const fn held(&self) -> usize {
        self.spent.held.get()
    }

    /// What is held beyond that is gone.
    pub(super) fn release_to(&self, bytes: usize) {
        self.spent.held.set(bytes);
    }

    /// Whether the statement has time.
    pub(super) const fn is_elsewhere(&self) -> bool {
        matches!(self.spent.pace, Pace::Elsewhere(_))
    }

    /// The rows of the whole statement, with the memory that they take; the rest is given back.
    pub(super) fn result_of(&self, rows: Result<Rows>) -> Result<ResultRows> {
        let mut memory = self.spent.memory.borrow_mut().take();
        let rows = rows?;
        memory.shrink_to(self.held());
        Ok(ResultRows { rows, memory })
    }

    /// Counts the text that a value holds.
    pub(super) fn charge(&self, value: Value) -> Result<Value> {
        let len = value.heap_len();
        if len == 0 {
            return Ok(value);
        }
        let total = self.spent.text_bytes.get().saturating_add(len);
        self.spent.text_bytes.set(total);
        if len > TEXT_LEN_MAX || total > TEXT_BYTES_MAX {
            return Err(fail(PROGRAM_LIMIT_EXCEEDED, "result of the statement is too large"));
        }
        Ok(value)
    }

    /// The value of a server setting or session parameter, as SHOW prints it.
    pub(super) fn show(&self, name: &str) -> Result<String> {
        self.show_opt(name).ok_or_else(|| unrecognized(name))
    }

    /// As [`Context::show`]; `None` when there is no such parameter.
    pub(super) fn show_opt(&self, name: &str) -> Option<String> {
        super::parameters::show(self, name)
    }
}

/// The error for a parameter that nobody knows.
pub(super) fn unrecognized(name: &str) -> Failure {
    fail(SqlState::UNDEFINED_OBJECT, format!("unrecognized configuration parameter \"{name}\""))
}
