//! `pg_stat_wal_receiver`: the link to the upstream.

use walhub_hub::api::hub::WalReceiverRow;
use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::types::Type;

use super::View;
use super::columns::{lsn, pid, text, time, timeline};
use crate::backend::context::Context;

/// `pg_stat_wal_receiver`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "pg_catalog",
        name: "pg_stat_wal_receiver",
        columns: &[
            ("pid", Type::Int4),
            ("status", Type::Text),
            ("receive_start_lsn", Type::Lsn),
            ("receive_start_tli", Type::Int4),
            ("written_lsn", Type::Lsn),
            ("flushed_lsn", Type::Lsn),
            ("received_tli", Type::Int4),
            ("last_msg_send_time", Type::TimestampTz),
            ("last_msg_receipt_time", Type::TimestampTz),
            ("latest_end_lsn", Type::Lsn),
            ("latest_end_time", Type::TimestampTz),
            ("slot_name", Type::Text),
            ("sender_host", Type::Text),
            ("sender_port", Type::Int4),
            ("conninfo", Type::Text),
        ],
        later: &[],
    },
    rows: |ctx| ctx.snapshot().wal_receiver.iter().map(|it| seen(ctx, it)).collect(),
};

/// The row as the current user sees it: all of it, or that there is one.
fn seen(ctx: &Context<'_>, receiver: &WalReceiverRow) -> Vec<Value> {
    let mut values = stat_wal_receiver(receiver);
    if !ctx.rights().reads_all_stats() {
        values[1..].fill(Value::Null);
    }
    values
}

/// PostgreSQL: `pg_stat_get_wal_receiver`.
fn stat_wal_receiver(receiver: &WalReceiverRow) -> Vec<Value> {
    vec![
        pid(receiver.pid),
        Value::text_of(receiver.status),
        lsn(receiver.receive_start_lsn),
        timeline(receiver.receive_start_tli),
        lsn(receiver.written_lsn),
        lsn(receiver.flushed_lsn),
        timeline(receiver.received_tli),
        time(receiver.last_msg_send_time),
        time(receiver.last_msg_receipt_time),
        lsn(receiver.latest_end_lsn),
        time(receiver.latest_end_time),
        text(receiver.slot_name.as_deref()),
        text(receiver.sender_host.as_deref()),
        Value::or_null(receiver.sender_port, |port| Value::Int(i64::from(port))),
        Value::text_of(&receiver.conninfo),
    ]
}
