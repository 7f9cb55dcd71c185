//! `pg_stat_ssl`: the TLS of each connection.
//!
//! PostgreSQL: `pg_stat_get_activity` (src/backend/utils/adt/pgstatfuncs.c).

use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::numeric::Numeric;
use walhub_sql::value::row::Rows;
use walhub_sql::value::types::Type;

use super::View;
use super::columns::{pid, text};
use crate::backend::context::Context;
use crate::backend::interrupts::SslStatus;

/// `pg_stat_ssl`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "pg_catalog",
        name: "pg_stat_ssl",
        columns: &[
            ("pid", Type::Int4),
            ("ssl", Type::Bool),
            ("version", Type::Text),
            ("cipher", Type::Text),
            ("bits", Type::Int4),
            ("client_dn", Type::Text),
            ("client_serial", Type::Numeric),
            ("issuer_dn", Type::Text),
        ],
        later: &[],
    },
    rows: stat_ssl,
};

fn stat_ssl(ctx: &Context<'_>) -> Rows {
    ctx.sessions.ssl().into_iter().map(row).collect()
}

fn row((process, status): (u32, Option<SslStatus>)) -> Vec<Value> {
    let Some(status) = status else {
        let none = std::iter::repeat_n(Value::Null, VIEW.relation.columns.len() - 2);
        return [pid(process), Value::Bool(false)].into_iter().chain(none).collect();
    };
    vec![
        pid(process),
        Value::Bool(true),
        Value::text_of(status.version),
        Value::text_of(status.cipher),
        Value::Int(status.bits.into()),
        text(status.client_dn.as_deref()),
        Value::or_null(status.client_serial, serial),
        text(status.issuer_dn.as_deref()),
    ]
}

/// A serial number may have more digits than a number of ours.
fn serial(digits: String) -> Value {
    match Numeric::from_text(&digits) {
        Ok(number) => Value::Numeric(number),
        Err(_) => Value::Text(digits),
    }
}
