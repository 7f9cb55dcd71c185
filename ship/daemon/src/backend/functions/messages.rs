//! Functions that write records.
//!
//! PostgreSQL: src/backend/replication/logical/logicalfuncs.c.

use super::super::context::Context;
use super::super::emit::{Message, emit_message, switch_wal};
use super::{HostFunction, function};
use walhub_sql::env::Env;
use walhub_sql::failure::Result;
use walhub_sql::value::Value;
use walhub_sql::value::types::Type::{Bool, Bytea, Lsn as PgLsn, Text};

fn emit(ctx: &Context<'_>, env: &Env<'_>, args: &[Value]) -> Result<Value> {
    let [Value::Bool(transactional), Value::Text(prefix), content, flush @ ..] = args else {
        unreachable!("argument types are the binder's")
    };
    let content = match content {
        Value::Text(text) => text.as_bytes(),
        Value::Bytes(bytes) => bytes,
        _ => unreachable!("argument types are the binder's"),
    };
    let flush = matches!(flush, [Value::Bool(true)]);
    emit_message(ctx, env, &Message { transactional: *transactional, prefix, content, flush })
}

/// In lower case.
pub(super) static FUNCTIONS: &[HostFunction] = &[
    function("pg_logical_emit_message", &[Bool, Text, Text], PgLsn, emit),
    function("pg_logical_emit_message", &[Bool, Text, Bytea], PgLsn, emit),
    function("pg_logical_emit_message", &[Bool, Text, Text, Bool], PgLsn, emit),
    function("pg_logical_emit_message", &[Bool, Text, Bytea, Bool], PgLsn, emit),
    function("pg_switch_wal", &[], PgLsn, |ctx, _, _| switch_wal(ctx)),
];
