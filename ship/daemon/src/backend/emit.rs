//! Messages that statements put into the WAL.
//!
//! Evaluation is synchronous and appending is not, so a statement runs twice: the first run
//! collects what is to be appended, the second one is told where it lies.
//!
//! Not here: when it is appended, and what is waited for (`commit`).
//!
//! PostgreSQL: `LogLogicalMessage` (src/backend/replication/logical/message.c).

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use bytes::Bytes;
use walhub_proto::lsn::Lsn;
use walhub_proto::rmgr::TooLong;
use walhub_proto::wire::backend::Report;

use super::context::Context;
use super::functions::{CONTROL_HINT, not_in_recovery};
use super::promote::PromoteCall;
use super::slot_calls::SlotCall;
use walhub_hub::api::append::{self, NewRecord};
use walhub_sql::env::Env;
use walhub_sql::failure::{Failure, Result, transaction_too_large};
use walhub_sql::value::Value;
use walhub_sql::value::binary::text_parameter;

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

/// Something that a statement wants of the WAL.
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

/// Where the functions of a statement leave what is to be appended, and find where it lies.
#[derive(Default)]
pub(super) struct Emitter {
    calls: RefCell<Vec<Call>>,
    bytes: Cell<usize>,
    /// What the session held before.
    held: usize,
    /// In the second run: the answers, in the order of the calls, and which is next.
    answers: Option<(Arc<[Lsn]>, Cell<usize>)>,
    notices: RefCell<Vec<Report>>,
    /// Parameters to set when the statement has run: name, value, and whether for the transaction.
    settings: RefCell<Vec<(String, String, bool)>>,
}

impl Emitter {
    /// For the first run, of a session that holds so many bytes already.
    pub(super) fn collecting(held: usize) -> Self {
        Self { held, bytes: Cell::new(held), ..Self::default() }
    }

    /// For the second run.
    pub(super) fn answering(answers: Arc<[Lsn]>) -> Self {
        Self { answers: Some((answers, Cell::new(0))), ..Self::default() }
    }

    /// The same, without anything that a run has left that was given up.
    pub(super) fn begun_afresh(self) -> Self {
        let held = self.held;
        match self.answers {
            None => Self::collecting(held),
            Some((answers, _)) => Self::answering(answers),
        }
    }

    /// What the first run left.
    pub(super) fn take(self) -> (Vec<Call>, Vec<Report>) {
        (self.calls.into_inner(), self.notices.into_inner())
    }

    /// Has something done once the statement has run for the first time.
    pub(super) fn push(&self, call: Call) {
        self.calls.borrow_mut().push(call);
    }

    /// Sets a parameter once the statement has run.
    pub(super) fn set(&self, name: &str, value: &str, local: bool) {
        if self.answers.is_none() {
            self.settings.borrow_mut().push((name.to_owned(), value.to_owned(), local));
        }
    }

    /// The parameters to set.
    pub(super) fn take_settings(&self) -> Vec<(String, String, bool)> {
        self.settings.take()
    }

    /// Tells the client something beside the result.
    pub(super) fn notice(&self, report: Report) {
        if self.answers.is_none() {
            self.notices.borrow_mut().push(report);
        }
    }

    /// Whether it is the second run, in which nothing is done again.
    pub(super) const fn is_answering(&self) -> bool {
        self.answers.is_some()
    }

    pub(super) fn answer(&self) -> Option<Value> {
        let (answers, next) = self.answers.as_ref()?;
        let index = next.get();
        next.set(index + 1);
        // A statement that calls more often in its second run looked at the clock.
        Some(Value::or_null(answers.get(index).copied(), Value::Lsn))
    }
}

/// `pg_logical_emit_message`.
pub(super) fn emit_message(
    ctx: &Context<'_>,
    env: &Env<'_>,
    transactional: bool,
    prefix: &str,
    content: &[u8],
    flush: bool,
) -> Result<Value> {
    if let Some(answer) = ctx.emitter.answer() {
        return Ok(answer);
    }
    if ctx.hub.in_recovery() {
        return Err(Box::new(append::in_recovery("pg_logical_emit_message()")));
    }
    let record = message_record(transactional, prefix, content)?;
    let bytes = ctx.emitter.bytes.get().saturating_add(cost(&record));
    if bytes > TRANSACTION_BYTES_MAX {
        return Err(transaction_too_large());
    }
    env.hold(cost(&record) + size_of::<Call>())?;
    ctx.emitter.bytes.set(bytes);
    ctx.emitter.calls.borrow_mut().push(Call::Message { record, flush });
    Ok(insert_lsn(ctx))
}

/// `pg_switch_wal`.
pub(super) fn switch_wal(ctx: &Context<'_>) -> Result<Value> {
    if let Some(answer) = ctx.emitter.answer() {
        return Ok(answer);
    }
    not_in_recovery(ctx, CONTROL_HINT)?;
    ctx.emitter.calls.borrow_mut().push(Call::SwitchSegment);
    Ok(insert_lsn(ctx))
}

fn insert_lsn(ctx: &Context<'_>) -> Value {
    Value::or_null(ctx.hub.positions(), |positions| Value::Lsn(positions.received_lsn))
}
