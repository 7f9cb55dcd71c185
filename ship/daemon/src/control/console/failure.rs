//! Errors of the console: a `Report` on the heap, and the SQLSTATEs that only SQL needs.
//!
//! PostgreSQL: src/backend/utils/errcodes.txt.

use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

/// Why a statement failed.
pub(super) type Failure = Box<Report>;

/// The result of anything that a statement does.
pub(super) type Result<T> = std::result::Result<T, Failure>;

pub(super) const CARDINALITY_VIOLATION: SqlState = SqlState("21000");
pub(super) const NOT_NULL_VIOLATION: SqlState = SqlState("23502");
pub(super) const DUPLICATE_COLUMN: SqlState = SqlState("42701");
pub(super) const BAD_COPY_FILE_FORMAT: SqlState = SqlState("22P04");
pub(super) const INVALID_DATETIME_FORMAT: SqlState = SqlState("22007");
pub(super) const DATETIME_FIELD_OVERFLOW: SqlState = SqlState("22008");
pub(super) const SUBSTRING_ERROR: SqlState = SqlState("22011");
pub(super) const DIVISION_BY_ZERO: SqlState = SqlState("22012");
pub(super) const INVALID_LIMIT: SqlState = SqlState("2201W");
pub(super) const INVALID_OFFSET: SqlState = SqlState("2201X");
pub(super) const INVALID_BINARY_REPRESENTATION: SqlState = SqlState("22P03");
pub(super) const ACTIVE_SQL_TRANSACTION: SqlState = SqlState("25001");
pub(super) const NO_ACTIVE_SQL_TRANSACTION: SqlState = SqlState("25P01");
pub(super) const INVALID_SAVEPOINT: SqlState = SqlState("3B001");
pub(super) const AMBIGUOUS_COLUMN: SqlState = SqlState("42702");
pub(super) const AMBIGUOUS_FUNCTION: SqlState = SqlState("42725");
pub(super) const DUPLICATE_ALIAS: SqlState = SqlState("42712");
pub(super) const GROUPING_ERROR: SqlState = SqlState("42803");
pub(super) const CANNOT_COERCE: SqlState = SqlState("42846");
pub(super) const UNDEFINED_PARAMETER: SqlState = SqlState("42P02");
pub(super) const DUPLICATE_CURSOR: SqlState = SqlState("42P03");
pub(super) const INVALID_COLUMN_REFERENCE: SqlState = SqlState("42P10");
pub(super) const PROGRAM_LIMIT_EXCEEDED: SqlState = SqlState::PROGRAM_LIMIT_EXCEEDED;
pub(super) const STATEMENT_TOO_COMPLEX: SqlState = SqlState("54001");

/// What the console answers, for the hint of everything that it does not.
const SUPPORTED: &str = "The console answers SELECT over pg_stat_replication, \
     pg_stat_wal_receiver, pg_replication_slots, pg_stat_activity, pg_settings and pg_database, \
     with WHERE, GROUP BY, ORDER BY, LIMIT, subqueries and aggregates; and SHOW, SET, RESET, \
     transaction commands, DISCARD and DEALLOCATE; and pg_logical_emit_message(), COPY \
     walhub.messages FROM STDIN, WAIT FOR LSN and CHECKPOINT.";

/// An `ERROR`.
pub(super) fn fail(sqlstate: SqlState, message: impl Into<String>) -> Failure {
    Box::new(Report::error(sqlstate, message))
}

/// An `ERROR` for SQL that PostgreSQL would run and walhub does not.
pub(super) fn unsupported(what: impl std::fmt::Display) -> Failure {
    let message = format!("{what} is not supported by walhub");
    Box::new(Report::error(SqlState::FEATURE_NOT_SUPPORTED, message).hint(SUPPORTED))
}

/// An `ERROR` for text that is not a value of the type.
pub(super) fn invalid_input(type_name: &str, text: &str) -> Failure {
    fail(
        SqlState::INVALID_TEXT_REPRESENTATION,
        format!("invalid input syntax for type {type_name}: \"{text}\""),
    )
}

/// An `ERROR` for a value outside its type.
pub(super) fn out_of_range(type_name: &str) -> Failure {
    fail(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, format!("{type_name} out of range"))
}

/// PostgreSQL: `ProcessInterrupts`.
pub(super) fn canceled() -> Failure {
    fail(SqlState::QUERY_CANCELED, "canceling statement due to user request")
}

/// The error for a transaction that holds too much.
pub(super) fn transaction_too_large() -> Failure {
    hinted(
        fail(PROGRAM_LIMIT_EXCEEDED, "transaction is too large"),
        "A transaction may hold 1 GB of messages, which stay in memory until it commits.",
    )
}

/// Adds a hint.
pub(super) fn hinted(mut failure: Failure, hint: &str) -> Failure {
    failure.hint = Some(hint.to_owned());
    failure
}
