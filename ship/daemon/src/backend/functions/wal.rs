//! Functions that say where the WAL stands.
//!
//! PostgreSQL: src/backend/access/transam/xlogfuncs.c.

use walhub_hub::api::append;
use walhub_hub::api::hub::Positions;
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::page::record_start;
use walhub_proto::segment::{SegNo, SegmentSize};
use walhub_proto::sqlstate::SqlState;

use super::super::context::Context;
use super::{HostFunction, function};
use walhub_sql::failure::{Failure, Result, fail, hinted};
use walhub_sql::value::Value::{self, Text as T};
use walhub_sql::value::types::Type::{Bool, Lsn as PgLsn, Text, TimestampTz};

/// PostgreSQL: `RecoveryInProgress` checks in xlogfuncs.c.
pub(in super::super) fn not_in_recovery(ctx: &Context<'_>, hint: &str) -> Result<()> {
    if !ctx.snapshot().in_recovery {
        return Ok(());
    }
    let state = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
    Err(hinted(fail(state, "recovery is in progress"), hint))
}

pub(in super::super) const CONTROL_HINT: &str =
    "WAL control functions cannot be executed during recovery.";

fn current_lsn(ctx: &Context<'_>, which: fn(&Positions) -> Lsn) -> Result<Value> {
    not_in_recovery(ctx, CONTROL_HINT)?;
    Ok(Value::or_null(ctx.positions().as_ref().map(which), Value::Lsn))
}

/// The durable end of WAL of a standby.
///
/// PostgreSQL defines pg_last_wal_receive_lsn() as received *and flushed*. A relay replays
/// nothing: for it, a WAL byte is finished when it is durable, so pg_last_wal_replay_lsn() is the
/// same position. A monitor that subtracts the two finds zero bytes waiting for replay, which is
/// the truth, where NULL or zero would read as an unknown or endless lag. What standbys have
/// replayed is in pg_stat_replication.
fn flushed_in_recovery(ctx: &Context<'_>) -> Value {
    let flushed = ctx.positions().map(|positions| positions.flush_lsn).and_then(Lsn::valid);
    Value::or_null(flushed.filter(|_| ctx.snapshot().in_recovery), Value::Lsn)
}

fn segment(ctx: &Context<'_>, name: &str) -> Result<(TimelineId, SegmentSize)> {
    not_in_recovery(ctx, &format!("{name}() cannot be executed during recovery."))?;
    let size = ctx.snapshot().identity.as_ref().map(|identity| identity.segment_size);
    match (ctx.positions(), size) {
        (Some(positions), Some(size)) => Ok((positions.timeline, size)),
        _ => Err(no_wal()),
    }
}

fn no_wal() -> Failure {
    fail(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "there is no WAL yet")
}

/// In lower case.
pub(super) static FUNCTIONS: &[HostFunction] = &[
    function("pg_is_in_recovery", &[], Bool, |ctx, _, _| {
        Ok(Value::Bool(ctx.snapshot().in_recovery))
    }),
    function("pg_last_wal_receive_lsn", &[], PgLsn, |ctx, _, _| Ok(flushed_in_recovery(ctx))),
    function("pg_last_wal_replay_lsn", &[], PgLsn, |ctx, _, _| Ok(flushed_in_recovery(ctx))),
    function("pg_last_xact_replay_timestamp", &[], TimestampTz, |_, _, _| Ok(Value::Null)),
    function("pg_is_wal_replay_paused", &[], Bool, |ctx, _, _| {
        if ctx.snapshot().in_recovery {
            return Ok(Value::Bool(false));
        }
        Err(Box::new(append::not_in_recovery()))
    }),
    function("pg_current_wal_lsn", &[], PgLsn, |ctx, _, _| current_lsn(ctx, |at| at.write_lsn)),
    function("pg_current_wal_flush_lsn", &[], PgLsn, |ctx, _, _| {
        current_lsn(ctx, |at| at.flush_lsn)
    }),
    function("pg_current_wal_insert_lsn", &[], PgLsn, |ctx, _, _| {
        let end = current_lsn(ctx, |at| at.received_lsn)?;
        Ok(match (end, segment(ctx, "pg_current_wal_insert_lsn")) {
            (Value::Lsn(end), Ok((_, size))) => Value::Lsn(record_start(end, size)),
            (end, _) => end,
        })
    }),
    function(
        "pg_walfile_name",
        &[PgLsn],
        Text,
        call!(ctx, _, [Value::Lsn(lsn)] => {
            let (timeline, size) = segment(ctx, "pg_walfile_name")?;
            Ok(T(SegNo::of_end(*lsn, size).file_name(timeline, size)))
        }),
    ),
    function(
        "pg_walfile_name_offset",
        &[PgLsn],
        Text,
        call!(ctx, _, [Value::Lsn(lsn)] => {
            let (timeline, size) = segment(ctx, "pg_walfile_name_offset")?;
            let file = SegNo::of_end(*lsn, size).file_name(timeline, size);
            // The text of PostgreSQL's record (file_name text, file_offset integer).
            Ok(T(format!("({file},{})", size.offset(*lsn))))
        }),
    ),
];
