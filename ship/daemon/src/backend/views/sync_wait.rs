//! `walhub.sync_wait`: who waits for its commit, and for whom.

use walhub_hub::api::append::SyncWaitRow;
use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::datetime::Interval;
use walhub_sql::value::row::Rows;
use walhub_sql::value::types::Type;

use super::View;
use super::columns::{pid, text};
use crate::backend::context::Context;

/// `walhub.sync_wait`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "walhub",
        name: "sync_wait",
        columns: &[
            ("pid", Type::Int4),
            ("level", Type::Text),
            ("lsn", Type::Lsn),
            ("waiting", Type::Interval),
            ("standby", Type::Text),
        ],
        later: &[],
    },
    rows: sync_wait,
};

/// Who waits for its commit, how long, and for whom. Of others' sessions only pg_read_all_stats sees more than that they
/// wait.
fn sync_wait(ctx: &Context<'_>) -> Rows {
    let now = crate::clock::now();
    let row = |wait: &SyncWaitRow| {
        if !ctx.rights().sees_session_of(ctx.sessions.user_of(wait.pid)) {
            return vec![pid(wait.pid), Value::Null, Value::Null, Value::Null, Value::Null];
        }
        let waiting = now.0.saturating_sub(wait.since.0).max(0);
        vec![
            pid(wait.pid),
            Value::text_of(wait.level.as_str()),
            Value::Lsn(wait.lsn),
            Value::Interval(Interval::from_micros(waiting)),
            text(wait.standby.as_deref()),
        ]
    };
    ctx.snapshot().sync_waits.iter().map(row).collect()
}
