//! `walhub.core_stats`: what each ship core has sent, and by which path.

use walhub_hub::api::hub::CoreStatsRow;
use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::types::Type;

use super::View;

/// `walhub.core_stats`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "walhub",
        name: "core_stats",
        columns: &[
            ("core", Type::Int4),
            ("sessions", Type::Int4),
            ("rounds", Type::Int8),
            ("rounds_put_off", Type::Int8),
            ("sends", Type::Int8),
            ("tail_bytes", Type::Int8),
            ("zerocopy_bytes", Type::Int8),
            ("sendfile_bytes", Type::Int8),
            ("read_bytes", Type::Int8),
            ("tls_bytes", Type::Int8),
            ("moved_in", Type::Int8),
        ],
        later: &[],
    },
    rows: |ctx| ctx.hub.core_stats().into_iter().map(core_stats).collect(),
};

/// What a ship core has sent, and by which path.
fn core_stats(row: CoreStatsRow) -> Vec<Value> {
    let numbers = [row.core, row.sessions, row.rounds, row.rounds_put_off, row.sends];
    let bytes = [row.tail_bytes, row.zerocopy_bytes, row.sendfile_bytes, row.read_bytes];
    let value = |number| Value::Int(i64::try_from(number).unwrap_or(i64::MAX));
    numbers.into_iter().chain(bytes).chain([row.tls_bytes, row.moved_in]).map(value).collect()
}
