//! Errors of the console: a `Report` on the heap, and the SQLSTATEs that only SQL needs.
//!
//! PostgreSQL: src/backend/utils/errcodes.txt.

#![allow(missing_docs, reason = "the constants are the SQLSTATEs of these names")]

use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

/// Why a statement failed.
pub type Failure = Box<Report>;

/// The result of anything that a statement does.
pub type Result<T> = std::result::Result<T, Failure>;

pub const CARDINALITY_VIOLATION: SqlState = SqlState("21000");
pub const NOT_NULL_VIOLATION: SqlState = SqlState("23502");
pub const DUPLICATE_COLUMN: SqlState = SqlState("42701");
pub const BAD_COPY_FILE_FORMAT: SqlState = SqlState("22P04");
pub const INVALID_DATETIME_FORMAT: SqlState = SqlState("22007");
pub const DATETIME_FIELD_OVERFLOW: SqlState = SqlState("22008");
pub const INVALID_REGULAR_EXPRESSION: SqlState = SqlState("2201B");
pub const SUBSTRING_ERROR: SqlState = SqlState("22011");
pub const DIVISION_BY_ZERO: SqlState = SqlState("22012");
pub const INVALID_LIMIT: SqlState = SqlState("2201W");
pub const INVALID_OFFSET: SqlState = SqlState("2201X");
pub const INVALID_BINARY_REPRESENTATION: SqlState = SqlState("22P03");
pub const ACTIVE_SQL_TRANSACTION: SqlState = SqlState("25001");
pub const NO_ACTIVE_SQL_TRANSACTION: SqlState = SqlState("25P01");
pub const INVALID_SAVEPOINT: SqlState = SqlState("3B001");
pub const AMBIGUOUS_COLUMN: SqlState = SqlState("42702");
pub const AMBIGUOUS_FUNCTION: SqlState = SqlState("42725");
pub const DUPLICATE_ALIAS: SqlState = SqlState("42712");
pub const GROUPING_ERROR: SqlState = SqlState("42803");
pub const CANNOT_COERCE: SqlState = SqlState("42846");
pub const UNDEFINED_PARAMETER: SqlState = SqlState("42P02");
pub const DUPLICATE_CURSOR: SqlState = SqlState("42P03");
pub const INVALID_COLUMN_REFERENCE: SqlState = SqlState("42P10");
pub const PROGRAM_LIMIT_EXCEEDED: SqlState = SqlState::PROGRAM_LIMIT_EXCEEDED;
pub const STATEMENT_TOO_COMPLEX: SqlState = SqlState("54001");

/// What the console answers, for the hint of everything that it does not.
const SUPPORTED: &str = "The console answers SELECT over pg_stat_replication, \
     pg_stat_wal_receiver, pg_replication_slots, pg_stat_activity, pg_settings and pg_database, \
     with WHERE, GROUP BY, ORDER BY, LIMIT, subqueries and aggregates; and SHOW, SET, RESET, \
     transaction commands, DISCARD and DEALLOCATE; and pg_logical_emit_message(), COPY \
     walhub.messages FROM STDIN, WAIT FOR LSN and CHECKPOINT; and CREATE, ALTER, DROP, GRANT and \
     REVOKE of roles.";

/// An error with the severity `ERROR`.
pub fn fail(sqlstate: SqlState, message: impl Into<String>) -> Failure {
    Box::new(Report::error(sqlstate, message))
}

/// An `ERROR` for SQL that PostgreSQL would run and walhub does not.
pub fn unsupported(what: impl std::fmt::Display) -> Failure {
    let message = format!("{what} is not supported by walhub");
    Box::new(Report::error(SqlState::FEATURE_NOT_SUPPORTED, message).hint(SUPPORTED))
}

/// An `ERROR` for text that is not a value of the type.
pub fn invalid_input(type_name: &str, text: &str) -> Failure {
    fail(
        SqlState::INVALID_TEXT_REPRESENTATION,
        format!("invalid input syntax for type {type_name}: \"{text}\""),
    )
}

/// An `ERROR` for a value outside its type.
pub fn out_of_range(type_name: &str) -> Failure {
    fail(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, format!("{type_name} out of range"))
}

/// PostgreSQL: `ProcessInterrupts`.
pub fn canceled() -> Failure {
    fail(SqlState::QUERY_CANCELED, "canceling statement due to user request")
}

/// The error for a transaction that holds too much.
pub fn transaction_too_large() -> Failure {
    hinted(
        fail(PROGRAM_LIMIT_EXCEEDED, "transaction is too large"),
        "A transaction may hold 1 GB of messages, which stay in memory until it commits.",
    )
}

/// The same error with a hint.
pub fn hinted(mut failure: Failure, hint: &str) -> Failure {
    failure.hint = Some(hint.to_owned());
    failure
}
