//! What statements want to be done: messages for the WAL, and other calls that change something.
//!
//! Evaluation is synchronous and has no effect: the functions leave their calls here, and answer with a value that is
//! not known yet. When the statement has run, its session does what was asked for (`execute`), and puts the answers
//! where they belong before the rows are encoded.
//!
//! What takes effect while the statement runs, as a cancel request to another session does, is a [`Prompt`]. An
//! evaluation that may be given up and begun afresh leaves these here too, until it is over.
//!
//! Not here: when messages are appended, and what is waited for (`commit`).
//!
//! PostgreSQL: `LogLogicalMessage` (src/backend/replication/logical/message.c).

use std::cell::{Cell, RefCell};

use bytes::Bytes;
use walhub_proto::rmgr::TooLong;
use walhub_proto::wire::backend::Report;

use super::context::Context;
use super::functions::{CONTROL_HINT, not_in_recovery};
use super::promote::PromoteCall;
use super::slot_calls::SlotCall;
use walhub_hub::api::append::{self, NewRecord};
use walhub_sql::env::Env;
use walhub_sql::failure::{Failure, Result, transaction_too_large};
use walhub_sql::value::binary::text_parameter;
use walhub_sql::value::{Pending, Value};

/// Bytes of records that one transaction may hold before they are appended: they are in memory
/// until COMMIT, so that nothing of a transaction that rolls back is in the WAL.
pub(super) const TRANSACTION_BYTES_MAX: usize = 1 << 30;
/// What a record costs beside its body.
const RECORD_COST: usize = 64;

/// A record of a message.
pub(super) fn message_record(
    transactional: bool,
    prefix: &str,
    content: &[u8],
) -> Result<NewRecord> {
    let prefix = text_parameter(prefix.as_bytes())?;
    NewRecord::message(transactional, prefix, content).map_err(too_long)
}

/// A record of a message whose content is part of `bytes`, which is not copied.
pub(super) fn large_message_record(
    transactional: bool,
    prefix: &str,
    content: &[u8],
    bytes: &Bytes,
) -> Result<NewRecord> {
    let prefix = text_parameter(prefix.as_bytes())?;
    let content = bytes.slice_ref(content);
    NewRecord::large_message(transactional, prefix, content).map_err(too_long)
}

fn too_long(too_long: TooLong) -> Failure {
    let report = Report::error(too_long.sqlstate(), too_long.to_string());
    Box::new(report.detail(too_long.detail().to_string()))
}

/// What a record counts towards [`TRANSACTION_BYTES_MAX`].
pub(super) fn cost(record: &NewRecord) -> usize {
    record.body_len() + RECORD_COST
}

/// Something that a statement wants to be done.
pub(super) enum Call {
    Message {
        record: NewRecord,
        /// Whether a message that is not transactional must be durable before the answer.
        flush: bool,
    },
    SwitchSegment,
    Slot(SlotCall),
    Promote(PromoteCall),
}

impl Call {
    /// Whether it is not done when the statement fails. A message that belongs to no transaction stays, and so does
    /// the end of a segment.
    pub(super) const fn is_undone_by_failure(&self) -> bool {
        match self {
            Self::Message { record, .. } => record.transactional,
            Self::Slot(_) | Self::Promote(_) => true,
            Self::SwitchSegment => false,
        }
    }
}

/// Something whose effect does not wait for the end of the statement, and that cannot be taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Prompt {
    CancelBackend(u32),
    TerminateBackend(u32),
    ResetCommitLatency,
    Reload,
}

/// Where the functions of a statement leave what is to be done.
#[derive(Default)]
pub(super) struct Emitter {
    calls: RefCell<Vec<Call>>,
    bytes: Cell<usize>,
    /// What the session held before.
    held: usize,
    notices: RefCell<Vec<Report>>,
    /// Parameters to set when the statement has run: name, value, and whether for the transaction.
    settings: RefCell<Vec<(String, String, bool)>>,
    prompt: RefCell<Vec<Prompt>>,
}

impl Emitter {
    /// For a statement of a session that holds so many bytes already.
    pub(super) fn collecting(held: usize) -> Self {
        Self { held, bytes: Cell::new(held), ..Self::default() }
    }

    /// The same, without anything that was left by an evaluation that was given up.
    pub(super) fn begun_afresh(self) -> Self {
        Self::collecting(self.held)
    }

    /// What the statement left.
    pub(super) fn take(self) -> (Vec<Call>, Vec<Report>) {
        (self.calls.into_inner(), self.notices.into_inner())
    }

    /// Has something done once the statement has run, and stands for the answer.
    pub(super) fn push(&self, call: Call) -> Value {
        let mut calls = self.calls.borrow_mut();
        calls.push(call);
        Value::Pending(Pending::answer(calls.len() - 1))
    }

    /// Sets a parameter once the statement has run.
    pub(super) fn set(&self, name: &str, value: &str, local: bool) {
        self.settings.borrow_mut().push((name.to_owned(), value.to_owned(), local));
    }

    /// The parameters to set.
    pub(super) fn take_settings(&self) -> Vec<(String, String, bool)> {
        self.settings.take()
    }

    /// Has something done once the evaluation is over.
    pub(super) fn postpone(&self, prompt: Prompt) {
        self.prompt.borrow_mut().push(prompt);
    }

    /// What was postponed.
    pub(super) fn take_postponed(&self) -> Vec<Prompt> {
        self.prompt.take()
    }

    /// Tells the client something beside the result.
    pub(super) fn notice(&self, report: Report) {
        self.notices.borrow_mut().push(report);
    }
}

/// What `pg_logical_emit_message` is called with.
pub(super) struct Message<'a> {
    pub(super) transactional: bool,
    pub(super) prefix: &'a str,
    pub(super) content: &'a [u8],
    /// Whether a message that is not transactional must be durable before the answer.
    pub(super) flush: bool,
}

/// `pg_logical_emit_message`.
pub(super) fn emit_message(
    ctx: &Context<'_>,
    env: &Env<'_>,
    message: &Message<'_>,
) -> Result<Value> {
    if ctx.hub.in_recovery() {
        return Err(Box::new(append::in_recovery("pg_logical_emit_message()")));
    }
    let Message { transactional, prefix, content, flush } = *message;
    let record = message_record(transactional, prefix, content)?;
    let bytes = ctx.emitter.bytes.get().saturating_add(cost(&record));
    if bytes > TRANSACTION_BYTES_MAX {
        return Err(transaction_too_large());
    }
    env.hold(cost(&record) + size_of::<Call>())?;
    ctx.emitter.bytes.set(bytes);
    Ok(ctx.emitter.push(Call::Message { record, flush }))
}

/// `pg_switch_wal`.
pub(super) fn switch_wal(ctx: &Context<'_>) -> Result<Value> {
    not_in_recovery(ctx, CONTROL_HINT)?;
    Ok(ctx.emitter.push(Call::SwitchSegment))
}
