//! `pg_replication_slots`.

use walhub_hub::api::hub::SlotRow;
use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::types::Type;

use super::View;
use super::columns::{lsn, pid, text, uint};

/// `pg_replication_slots`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "pg_catalog",
        name: "pg_replication_slots",
        columns: &[
            ("slot_name", Type::Name),
            ("plugin", Type::Name),
            ("slot_type", Type::Text),
            ("datoid", Type::Oid),
            ("database", Type::Name),
            ("temporary", Type::Bool),
            ("active", Type::Bool),
            ("active_pid", Type::Int4),
            ("xmin", Type::Xid),
            ("catalog_xmin", Type::Xid),
            ("restart_lsn", Type::Lsn),
            ("confirmed_flush_lsn", Type::Lsn),
            ("wal_status", Type::Text),
            ("safe_wal_size", Type::Int8),
            ("two_phase", Type::Bool),
        ],
        later: &[("failover", Type::Bool), ("synced", Type::Bool)],
    },
    rows: |ctx| ctx.snapshot().slots.iter().map(replication_slot).collect(),
};

/// PostgreSQL: `pg_get_replication_slots`.
fn replication_slot(slot: &SlotRow) -> Vec<Value> {
    let logical = slot.logical.as_ref();
    vec![
        Value::text_of(&slot.slot_name),
        text(logical.map(|logical| &*logical.plugin)),
        Value::text_of(if logical.is_some() { "logical" } else { "physical" }),
        uint(logical.map(|logical| logical.database_oid)),
        text(logical.map(|logical| &*logical.database)),
        Value::Bool(slot.temporary),
        Value::Bool(slot.active_pid.is_some()),
        Value::or_null(slot.active_pid, pid),
        uint(slot.xmin),
        uint(slot.catalog_xmin),
        lsn(slot.restart_lsn),
        lsn(logical.map(|logical| logical.confirmed_flush_lsn)),
        text(slot.wal_status),
        Value::or_null(slot.safe_wal_size, Value::Int),
        Value::Bool(logical.is_some_and(|logical| logical.two_phase)),
        Value::Bool(logical.is_some_and(|logical| logical.failover)),
        // Slots are made here, and not brought over from a primary.
        Value::Bool(false),
    ]
}
