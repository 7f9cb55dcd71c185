//! What a statement may look at while it runs.

use std::cell::{OnceCell, RefCell};
use std::os::fd::OwnedFd;

use walhub_hub::api::hub::{Client, Hub, Positions, Snapshot};
use walhub_proto::roles::Roles;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::time::Timestamp;

use super::SettingsView;
use super::emit::{Emitter, Prompt};
use super::functions;
use super::interrupts::Sessions;
use super::memory::Reservation;
use super::message_scan::{self, Fetched};
use super::offload::ResultRows;
use super::parameters::Parameters;
use super::views;
use walhub_sql::env::{Catalog, Env, Function, Host, Relation, Scan};
use walhub_sql::failure::{Failure, Result, fail};
use walhub_sql::value::Value;
use walhub_sql::value::row::Rows;

/// The session and the hub, as one statement sees them: everything is read once, so that two
/// columns of one row never show two moments.
pub(super) struct Context<'a> {
    pub(super) client: &'a Client,
    pub(super) database: &'a str,
    pub(super) parameters: &'a Parameters,
    pub(super) settings: &'a dyn SettingsView,
    pub(super) roles: &'a Roles,
    pub(super) hub: &'a dyn Hub<OwnedFd>,
    /// When the transaction began.
    pub(super) transaction_start: Timestamp,
    /// When the statement began.
    pub(super) statement_start: Timestamp,
    /// What it wants of the WAL.
    pub(super) emitter: &'a Emitter,
    /// Those that are connected.
    pub(super) sessions: &'a Sessions,
    /// The rows of `walhub.messages`, when the statement reads it.
    pub(super) messages: Option<&'a Fetched>,
    /// Filled on first use.
    pub(super) snapshot: OnceCell<Snapshot>,
    /// Whether it has time.
    pub(super) is_offloaded: bool,
    /// What its rows take.
    pub(super) memory: RefCell<Reservation>,
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

    /// Does something at once, or, as long as this evaluation may be given up and begun afresh, when it is over.
    pub(super) fn act(&self, prompt: Prompt) {
        if self.is_offloaded { self.perform(prompt) } else { self.emitter.postpone(prompt) }
    }

    /// Does what was postponed.
    pub(super) fn perform_postponed(&self) {
        self.emitter.take_postponed().into_iter().for_each(|prompt| self.perform(prompt));
    }

    fn perform(&self, prompt: Prompt) {
        // A backend that has gone meanwhile needs no signal.
        match prompt {
            Prompt::CancelBackend(pid) => drop(self.sessions.cancel(pid)),
            Prompt::TerminateBackend(pid) => drop(self.sessions.terminate(pid)),
            Prompt::ResetCommitLatency => self.hub.reset_commit_latency(),
            Prompt::Reload => self.sessions.ask_for_reload(),
        }
    }

    /// The rows of the whole statement, with the memory that they take; the rest is given back.
    pub(super) fn result_of(&self, env: &Env<'_>, rows: Result<Rows>) -> Result<ResultRows> {
        let mut memory = self.memory.borrow_mut().take();
        let rows = rows?;
        memory.shrink_to(env.held());
        Ok(ResultRows { rows, memory })
    }

    /// The value of a server setting or session parameter, as SHOW prints it.
    pub(super) fn show(&self, name: &str) -> Result<String> {
        self.rights().check_setting(name)?;
        self.show_opt(name).ok_or_else(|| unrecognized(name))
    }

    /// As [`Context::show`]; `None` when there is no such parameter.
    pub(super) fn show_opt(&self, name: &str) -> Option<String> {
        super::parameters::show(self, name)
    }
}

impl Host for Context<'_> {
    fn scan(&self, relation: &'static Relation) -> Scan {
        if views::is_messages(relation) {
            return message_scan::scan(self);
        }
        Scan { rows: views::rows_of(relation)(self), ..Scan::default() }
    }

    fn call(&self, function: &'static Function, args: &[Value], env: &Env<'_>) -> Result<Value> {
        functions::call_of(function)(self, env, args)
    }

    fn grow_to(&self, bytes: usize) -> Result<()> {
        self.memory.borrow_mut().grow_to(bytes)
    }
}

/// The names that statements may use.
pub(super) struct Names;

impl Catalog for Names {
    fn relation(&self, schema: &str, name: &str) -> Option<&'static Relation> {
        views::relation(schema, name)
    }

    fn functions(&self, name: &str) -> Vec<&'static Function> {
        functions::named(name)
    }
}

/// The error for a parameter that nobody knows.
pub(super) fn unrecognized(name: &str) -> Failure {
    fail(SqlState::UNDEFINED_OBJECT, format!("unrecognized configuration parameter \"{name}\""))
}
