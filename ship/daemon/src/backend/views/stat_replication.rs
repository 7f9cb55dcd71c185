//! `pg_stat_replication`: who receives WAL, and how far each has come.

use walhub_hub::api::hub::WalSenderRow;
use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::datetime::Interval;
use walhub_sql::value::types::Type;

use super::View;
use super::columns::{address, lsn, pid, time, uint};
use crate::backend::context::Context;

/// `pg_stat_replication`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "pg_catalog",
        name: "pg_stat_replication",
        columns: &[
            ("pid", Type::Int4),
            ("usesysid", Type::Oid),
            ("usename", Type::Name),
            ("application_name", Type::Text),
            ("client_addr", Type::Inet),
            ("client_hostname", Type::Text),
            ("client_port", Type::Int4),
            ("backend_start", Type::TimestampTz),
            ("backend_xmin", Type::Xid),
            ("state", Type::Text),
            ("sent_lsn", Type::Lsn),
            ("write_lsn", Type::Lsn),
            ("flush_lsn", Type::Lsn),
            ("replay_lsn", Type::Lsn),
            ("write_lag", Type::Interval),
            ("flush_lag", Type::Interval),
            ("replay_lag", Type::Interval),
            ("sync_priority", Type::Int4),
            ("sync_state", Type::Text),
            ("reply_time", Type::TimestampTz),
        ],
        later: &[],
    },
    rows: |ctx| ctx.snapshot().wal_senders.iter().map(|sender| seen(ctx, sender)).collect(),
};

/// Places in a row of the view.
const USESYSID: usize = 1;
const CLIENT_ADDR: usize = 4;
const BACKEND_START: usize = 7;
const STATE: usize = 9;

/// The row as the current user sees it. PostgreSQL: `pg_stat_get_wal_senders`, `pg_stat_get_activity`.
fn seen(ctx: &Context<'_>, sender: &WalSenderRow) -> Vec<Value> {
    let mut values = stat_replication(sender);
    let owner = ctx.owner_of(&sender.client);
    values[USESYSID] = uint(owner);
    if !ctx.rights().sees_session_of(owner) {
        values[CLIENT_ADDR..=BACKEND_START].fill(Value::Null);
    }
    if !ctx.rights().reads_all_stats() {
        values[STATE..].fill(Value::Null);
    }
    values
}

fn stat_replication(sender: &WalSenderRow) -> Vec<Value> {
    let (client_addr, client_port) = address(&sender.client);
    let lag = |us: Option<i64>| Value::or_null(us, |us| Value::Interval(Interval::from_micros(us)));
    vec![
        pid(sender.client.pid),
        Value::Null,
        Value::text_of(&sender.client.user),
        Value::text_of(&sender.client.application_name),
        client_addr,
        Value::Null,
        client_port,
        Value::Timestamp(sender.client.backend_start),
        uint(sender.backend_xmin),
        Value::text_of(sender.state),
        lsn(sender.sent_lsn),
        lsn(sender.write_lsn),
        lsn(sender.flush_lsn),
        lsn(sender.replay_lsn),
        lag(sender.write_lag_us),
        lag(sender.flush_lag_us),
        lag(sender.replay_lag_us),
        Value::Int(i64::from(sender.sync_priority)),
        Value::text_of(sender.sync_state),
        time(sender.reply_time),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_are_those_of_the_views_columns() {
        let columns = VIEW.relation.columns;
        for (place, name) in [
            (USESYSID, "usesysid"),
            (CLIENT_ADDR, "client_addr"),
            (BACKEND_START, "backend_start"),
            (STATE, "state"),
        ] {
            assert_eq!(columns[place].0, name);
        }
    }
}
