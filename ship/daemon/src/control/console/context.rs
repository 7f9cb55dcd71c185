//! What a statement may look at while it runs.

use std::cell::{Cell, OnceCell};
use std::os::fd::OwnedFd;

use jiff::tz::TimeZone;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::time::Timestamp;

use super::SettingsView;
use super::emit::Emitter;
use super::failure::{
    Failure, PROGRAM_LIMIT_EXCEEDED, Result, STATEMENT_TOO_COMPLEX, fail, hinted,
};
use super::interrupts::Sessions;
use super::message_scan::Fetched;
use super::parameters::Parameters;
use super::value::Value;
use crate::hub::handle::{Client, Hub, Positions, Snapshot};

/// Steps of evaluation in one statement. The control plane has one thread: no query may keep it.
const STEPS_MAX: u64 = 2_000_000;
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

/// Steps and bytes of one statement so far.
#[derive(Default)]
pub(super) struct Spent {
    steps: Cell<u64>,
    text_bytes: Cell<usize>,
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
        let steps = self.spent.steps.get() + 1;
        self.spent.steps.set(steps);
        if steps <= STEPS_MAX {
            return Ok(());
        }
        Err(hinted(
            fail(STATEMENT_TOO_COMPLEX, "statement too complex"),
            "A statement of walhub's console may take 2 million steps.",
        ))
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
