//! Functions that write records.
//!
//! PostgreSQL: src/backend/replication/logical/logicalfuncs.c.

use super::super::emit::{emit_message, switch_wal};
use super::{HostFunction, function};
use walhub_sql::value::Value::{self, Text as T};
use walhub_sql::value::types::Type::{Bool, Bytea, Lsn as PgLsn, Text};

/// In lower case.
pub(super) static FUNCTIONS: &[HostFunction] = &[
    function(
        "pg_logical_emit_message",
        &[Bool, Text, Text],
        PgLsn,
        call!(ctx, env, [Value::Bool(transactional), T(prefix), T(content)]
        => emit_message(ctx, env, *transactional, prefix, content.as_bytes(), false)),
    ),
    function(
        "pg_logical_emit_message",
        &[Bool, Text, Bytea],
        PgLsn,
        call!(ctx, env, [Value::Bool(transactional), T(prefix), Value::Bytes(content)]
        => emit_message(ctx, env, *transactional, prefix, content, false)),
    ),
    function(
        "pg_logical_emit_message",
        &[Bool, Text, Text, Bool],
        PgLsn,
        call!(ctx, env, [Value::Bool(transactional), T(prefix), T(content), Value::Bool(flush)]
        => emit_message(ctx, env, *transactional, prefix, content.as_bytes(), *flush)),
    ),
    function(
        "pg_logical_emit_message",
        &[Bool, Text, Bytea, Bool],
        PgLsn,
        call!(ctx, env, [Value::Bool(transactional), T(prefix), Value::Bytes(content), Value::Bool(flush)]
        => emit_message(ctx, env, *transactional, prefix, content, *flush)),
    ),
    function("pg_switch_wal", &[], PgLsn, |ctx, _, _| switch_wal(ctx)),
];
