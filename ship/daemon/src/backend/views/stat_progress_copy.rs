//! `pg_stat_progress_copy`: every COPY that runs.

use walhub_hub::api::append::DATABASE;
use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::types::Type;

use super::View;
use super::columns::{pid, uint};
use crate::backend::context::Context;
use crate::backend::interrupts::CopyProgress;

/// `pg_stat_progress_copy`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "pg_catalog",
        name: "pg_stat_progress_copy",
        columns: &[
            ("pid", Type::Int4),
            ("datid", Type::Oid),
            ("datname", Type::Name),
            ("relid", Type::Oid),
            ("command", Type::Text),
            ("type", Type::Text),
            ("bytes_processed", Type::Int8),
            ("bytes_total", Type::Int8),
            ("tuples_processed", Type::Int8),
            ("tuples_excluded", Type::Int8),
        ],
        later: &[],
    },
    rows: |ctx| ctx.sessions.copies().into_iter().map(|copy| seen(ctx, copy)).collect(),
};

/// The row as the current user sees it. PostgreSQL: `pg_stat_get_progress_info`.
fn seen(ctx: &Context<'_>, copy: (u32, CopyProgress)) -> Vec<Value> {
    let owner = ctx.sessions.user_of(copy.0);
    let mut values = progress_copy(copy);
    if !ctx.rights().sees_session_of(owner) {
        values[3..].fill(Value::Null);
    }
    values
}

/// PostgreSQL: `pg_stat_progress_copy` over `pg_stat_get_progress_info`.
fn progress_copy((process, progress): (u32, CopyProgress)) -> Vec<Value> {
    let count = |count: u64| Value::Int(i64::try_from(count).unwrap_or(i64::MAX));
    vec![
        pid(process),
        uint(Some(DATABASE)),
        Value::text_of(progress.database),
        // walhub.messages has no OID.
        Value::Int(0),
        Value::text_of("COPY FROM"),
        Value::text_of("PIPE"),
        count(progress.bytes_processed),
        Value::Int(0),
        count(progress.tuples_processed),
        Value::Int(0),
    ]
}
